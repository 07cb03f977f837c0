"""Commands that begin runs, steer them and end them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..steering import err
from .options import (
    RESULTS_DIR,
    AsJson,
    GoOn,
    Inventory,
    Limit,
    Listen,
    Live,
    Name,
    OpLog,
    Otel,
    Policy,
    ReconnectTimeout,
    ResultsDir,
    Run,
    Skip,
    Token,
    TokenFile,
    Web,
    WorkloadFile,
    find,
    load,
    sources,
)

if TYPE_CHECKING:
    from ..config import Combination
    from ..controller.rundir import RunDirectory

    Show = Callable[[RunDirectory], RunDirectory]
    Export = Callable[[RunDirectory], contextlib.AbstractContextManager[None]]

app = typer.Typer()


@app.command()
def run(
    workload: WorkloadFile,
    inventory: Inventory = None,
    limit: Limit = "all",
    results_dir: ResultsDir = RESULTS_DIR,
    name: Name = None,
    as_json: AsJson = False,
    live: Live = True,
    reconnect_timeout: ReconnectTimeout = None,
    connect_timeout: Annotated[float, typer.Option(min=1.0, help="Seconds that a host has to answer at the start.")] = 60.0,
    policy: Policy = None,
    go_on: GoOn = False,
    start_with_available: Annotated[
        bool, typer.Option(help="Leave out agents that fail before the start, instead of ending the run.")
    ] = False,
    repeat: Annotated[int, typer.Option(min=1, help="Run it so many times, one after the other, and merge the results.")] = 1,
    pause: Annotated[str, typer.Option(help="Between repetitions: 30s, 5m.")] = "0s",
    background: Annotated[
        bool, typer.Option("--detach", help="Steer the run in the background; this command returns once the agents are released.")
    ] = False,
    op_log: OpLog = False,
    skip: Skip = None,
    series: Annotated[
        Path | None,
        typer.Option(
            "--continue",
            help="Of a file with a matrix: go on with the series in this directory, beside its runs.",
            show_default=False,
        ),
    ] = None,
    web: Web = False,
    listen: Listen = None,
    token: Token = False,
    token_file: TokenFile = None,
    otel: Otel = False,
) -> None:
    """Run a workload on all hosts of an inventory. A file with a matrix is run once for each combination."""
    from .. import config, steering
    from .. import inventory as inventories
    from .. import matrix as matrices
    from ..errors import ConfigError
    from ..launch import Launch

    export = exporter(otel)
    combinations = load(workload, name, reconnect_timeout, policy, go_on, op_log)
    hosts = inventories.load(sources(inventory), limit)
    loaded = combinations[0].workload
    of_matrix = bool(combinations[0].values)
    if background and repeat > 1:
        raise ConfigError("--detach and --repeat cannot be combined", remedy="Start the series in the background of your shell")
    if background and (web or listen):
        raise ConfigError("--detach and --web cannot be combined", remedy=f"Show the run with: sai3ssh serve {results_dir}")
    if background and of_matrix:
        raise ConfigError("a matrix cannot be run with --detach", remedy="Start the series in the background of your shell")
    if series is not None and not of_matrix:
        raise ConfigError(
            f"--continue is for workload files with a matrix, and {workload} has none", remedy="`sai3ssh resume` goes on with a run"
        )
    if series is not None and series.resolve().parent != results_dir.resolve():
        # Its runs are beside it.
        results_dir = series.resolve().parent
    pause_s = config.seconds(pause, "--pause")
    waits = {"connect_timeout_s": connect_timeout, "start_with_available": start_with_available}
    launch = Launch.of(loaded, hosts, results_dir, skip or (), as_json=as_json, **waits)

    def create(of: Combination = combinations[0]) -> RunDirectory:
        return launch.create(of.workload)

    if background:
        raise typer.Exit(steering.detach(create(), *(["--otel"] if otel else [])))

    with page(results_dir, web, listen, token, token_file) as show:

        def once(directory: RunDirectory) -> int:
            with export(directory):
                return steering.steer(show(directory), launch.archive, as_json=as_json, live=live, credentials=launch.credentials)

        def steer_again(directory: RunDirectory) -> int:
            with export(directory):
                return steering.resume(show(directory), launch.archive, as_json=as_json, live=live, credentials=launch.credentials)

        if of_matrix:
            config.check_matrix(combinations, hosts)
            if series is None:
                found = matrices.Series.begin(results_dir, name or loaded.name, combinations)
            else:
                found = matrices.Series.go_on(series, combinations)
            raise typer.Exit(matrices.run(found, create, once, steer_again, repeat, pause_s, as_json=as_json))
        if repeat == 1:
            raise typer.Exit(once(create()))
        raise typer.Exit(steering.series(create, once, repeat, pause_s, as_json=as_json))


@app.command()
def replay(
    traces: Annotated[list[Path], typer.Argument(help="Traces in sai3-bench's format: .tsv, .zst, .gz.", show_default=False)],
    target: Annotated[str, typer.Option(help="Where to: s3://bucket/prefix/ or file:///directory/.", show_default=False)],
    inventory: Inventory = None,
    limit: Limit = "all",
    results_dir: ResultsDir = RESULTS_DIR,
    speed: Annotated[float, typer.Option(min=0.001, help="So many times as fast as the trace.")] = 1.0,
    closed: Annotated[bool, typer.Option("--closed", help="One operation after the other, whatever their times.")] = False,
    remap: Annotated[
        list[str] | None, typer.Option(help="FROM=TO: names that begin with FROM get TO below the target instead.", show_default=False)
    ] = None,
    put_first: Annotated[bool, typer.Option("--prepare", help="Put first what the trace reads before it writes it.")] = False,
    settings: Annotated[
        Path | None, typer.Option(help="Workload file with s3, engine, deadlines, error_handling, distributed.", show_default=False)
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Operations in flight per agent.", show_default="16")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: replay.", show_default=False)] = None,
    op_log: OpLog = False,
    as_json: AsJson = False,
    live: Live = True,
    skip: Skip = None,
    web: Web = False,
    listen: Listen = None,
    token: Token = False,
    token_file: TokenFile = None,
    otel: Otel = False,
) -> None:
    """Replay a trace of operations on all hosts of an inventory: ours (oplog.tsv.zst) or sai3-bench's."""
    from .. import config, replaying, steering
    from .. import inventory as inventories
    from ..errors import ConfigError
    from ..launch import Launch

    if closed and speed != 1.0:
        raise ConfigError("--closed and --speed contradict each other", remedy="Give one of them")
    export = exporter(otel)
    loaded = config.replay_settings(settings, target, name=name, concurrency=concurrency)
    if op_log:
        loaded.switch_on_op_log()
    hosts = inventories.load(sources(inventory), limit)
    launch = Launch.of(loaded, hosts, results_dir, skip or (), as_json=as_json)
    wanted = replaying.Wanted(traces, replaying.remaps(remap or ()), None if closed else speed, put_first)
    with page(results_dir, web, listen, token, token_file) as show:
        directory = show(replaying.create(wanted, loaded, launch))
        with export(directory):
            raise typer.Exit(steering.steer(directory, launch.archive, as_json=as_json, live=live, credentials=launch.credentials))


@app.command()
def resume(
    run: Run,
    results_dir: ResultsDir = RESULTS_DIR,
    from_agents: Annotated[
        bool, typer.Option("--from-agents", help="Make the run directory anew from what the agents have; needs -i.")
    ] = False,
    inventory: Inventory = None,
    limit: Limit = "all",
    takeover: Annotated[bool, typer.Option("--takeover", help="Take it from a controller that still has it; that one leaves.")] = False,
    without_unreachable: Annotated[
        bool, typer.Option(help="Treat agents that this machine is not allowed to connect to as failed, instead of leaving the run alone.")
    ] = False,
    as_json: AsJson = False,
    live: Live = True,
    web: Web = False,
    listen: Listen = None,
    token: Token = False,
    token_file: TokenFile = None,
    otel: Otel = False,
) -> None:
    """Go on with a run whose controller was killed, from here or from a copy of its run directory on another machine."""
    from .. import bundle, steering

    export = exporter(otel)
    archive = bundle.cached()
    if from_agents:
        from .. import inventory as inventories
        from ..controller.rebuild import rebuild
        from ..controller.rundir import Steering

        directory = rebuild(run, inventories.load(sources(inventory), limit), results_dir, archive, Steering())
    else:
        directory = find(run, results_dir)
    options = {"live": live, "credentials": credentials_of(directory), "takeover": takeover, "without_unreachable": without_unreachable}
    with page(directory.path.parent, web, listen, token, token_file) as show, export(directory):
        raise typer.Exit(steering.resume(show(directory), archive, as_json=as_json, **options))


@app.command()
def attach(run: Run, results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False, live: Live = True) -> None:
    """Watch a run that another process steers; several may, and Ctrl-C only ends the watching."""
    from .. import steering

    raise typer.Exit(steering.attach(find(run, results_dir), as_json=as_json, live=live))


@app.command()
def stop(run: Run, results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False, live: Live = True) -> None:
    """Stop all agents of a run, collect what there is and write its results."""
    from .. import bundle, steering

    directory = find(run, results_dir)
    if directory.controller() is not None:
        raise typer.Exit(steering.attach(directory, as_json=as_json, live=live, interrupt=True))
    archive = bundle.cached()
    raise typer.Exit(
        steering.resume(directory, archive, as_json=as_json, live=live, credentials=credentials_of(directory), stop_reason="sai3ssh stop")
    )


@app.command()
def collect(run: Run, results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False) -> None:
    """Fetch journals that were out of reach when a run ended, and revise its verdict."""
    from .. import bundle, steering

    raise typer.Exit(steering.collect(find(run, results_dir), bundle.cached(), as_json=as_json))


@contextlib.contextmanager
def page(results_dir: Path, web: bool, listen: str | None, token: bool, token_file: Path | None) -> Iterator[Show]:
    """A live page beside a run, when one is wanted. It has its port before anything of the run begins; what it gives says where each run is
    shown."""
    if not (web or listen):
        yield lambda directory: directory
        return
    from ..web import server

    place = server.listen(listen or server.DEFAULT, token_file=token_file, want_token=token)
    url = place.url
    with server.beside(results_dir, place, err):
        root, _, query = url.partition("?")
        # The token is told once.
        queries = iter([f"?{query}"] if query else [])

        def show(directory: RunDirectory) -> RunDirectory:
            err(f"page: {root}runs/{directory.path.name}{next(queries, '')}")
            return directory

        yield show


def exporter(otel: bool) -> Export:
    """What exports a run while it goes on, when that is wanted. Raises ConfigError when it cannot be done."""
    if not otel:
        return lambda _: contextlib.nullcontext()
    from ..errors import ConfigError

    try:
        from ..web import otlp
    except ImportError as error:
        raise ConfigError(f"--otel needs libraries that are not installed: {error.name}", remedy="pip install 'sai3ssh[otel]'") from error
    otlp.check()
    return lambda directory: otlp.beside(directory, err)


def credentials_of(directory: RunDirectory) -> dict[str, Any] | None:
    """The operator's credentials, found as `run` finds them; in the environment, when its workload file means nothing here any more."""
    from .. import config
    from ..config import credentials
    from ..errors import ConfigError

    workload, plan = directory.path / "config.yaml", directory.contents().plan
    if workload.is_file():
        try:
            loaded = config.load(workload)
            # The settings of a replay do not say where to; its command did.
            loaded.keys.target = next((stage.replay.target for stage in plan.stages if stage.replay is not None), loaded.keys.target)
            return credentials.find(loaded, os.environ)
        except ConfigError as error:
            # It is about variables that this shell has not, say: no reason to leave a run alone, whose plan is known.
            err(f"notice: credentials are looked for in the environment only: {error}")
    return credentials.of_plan(plan, os.environ) if plan.needs_credentials else None
