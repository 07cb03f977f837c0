"""The command line. Heavy libraries are imported by the commands that need them: `sai3ssh version` answers at once."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import __version__
from .errors import RunError, Sai3sshError
from .steering import INTERRUPTED, REGRESSED, UNREADY, USAGE, err, out

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import Combination, Workload
    from .controller.rundir import RunDirectory
    from .model import Plan

    Show = Callable[[RunDirectory], RunDirectory]

app = typer.Typer(
    help="A distributed storage benchmark that the network cannot kill.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RESULTS_DIR = Path("sai3ssh-runs")

WorkloadFile = Annotated[Path, typer.Argument(help="Workload file (sai3-bench YAML).", show_default=False)]
Inventory = Annotated[
    list[str] | None,
    typer.Option("--inventory", "-i", help="Ansible inventory: file, directory, script; may be repeated.", show_default=False),
]
Limit = Annotated[str, typer.Option("--limit", "-l", help="Ansible host pattern.")]
ResultsDir = Annotated[Path, typer.Option("--results-dir", help="Where run directories go.")]
Live = Annotated[bool, typer.Option("--live/--no-live", help="Live table when standard output is a terminal.")]


def _known_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """For completion by the shell: the ids of the runs in the results directory, the newest first."""
    directory = Path(ctx.params.get("results_dir") or RESULTS_DIR)
    found = [path.parent for path in directory.glob(f"{incomplete}*/plan.json")]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


Run = Annotated[
    str,
    typer.Argument(
        help="Run directory, or the id of a run below --results-dir or its beginning.", show_default=False, autocompletion=_known_runs
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs instead of text for people.")]

Policy = Annotated[
    Literal["fail_fast", "retry_once", "retry", "best_effort", "continue_if_majority"] | None,
    typer.Option("--policy", help="What a lost agent means for the run; goes before the file's failure_policy.", show_default=False),
]
Name = Annotated[str | None, typer.Option(help="Name of the run; default: the workload's.", show_default=False)]
ReconnectTimeout = Annotated[
    float | None, typer.Option(min=1.0, help="Seconds after which a host that does not come back is given up.", show_default="600")
]
GoOn = Annotated[bool, typer.Option("--continue-on-agent-failure", help="The same as --policy best_effort.")]
OpLog = Annotated[bool, typer.Option("--op-log", help="Write down every operation: agents/<id>/oplog.tsv.zst.")]

Check = Annotated[bool, typer.Option("--check", "-C", help="Only say what would change.")]
Diff = Annotated[bool, typer.Option("--diff", "-D", help="Show how files change.")]
Tags = Annotated[str, typer.Option("--tags", "-t", help="Only these parts: agent, limits, keepalive.", show_default=False)]
Variables = Annotated[
    list[str] | None, typer.Option("--extra-vars", "-e", help="A role's option as name=value; may be repeated.", show_default=False)
]
Skip = Annotated[
    list[str] | None,
    typer.Option("--skip", help="Leave out a check (net.ping) or a group (storage), or all; may be repeated.", show_default=False),
]

Web = Annotated[bool, typer.Option("--web", help="Show the run on a live page, at --listen.")]
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="Where the page is; elsewhere than on loopback it needs a token.",
        show_default="127.0.0.1:8633",
    ),
]
Token = Annotated[bool, typer.Option("--token", help="Make a token on loopback, too: without it nobody sees the page.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="The token is the first line of this file, instead of a new one each time.", show_default=False)
]


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
        typer.Option("--continue", help="Of a file with a matrix: go on with the series in this directory.", show_default=False),
    ] = None,
    web: Web = False,
    listen: Listen = None,
    token: Token = False,
    token_file: TokenFile = None,
) -> None:
    """Run a workload on all hosts of an inventory. A file with a matrix is run once for each combination."""
    from . import bundle, config, preflight, steering
    from . import inventory as inventories
    from . import matrix as matrices
    from .config import credentials
    from .controller.rundir import Steering, new_run_id
    from .errors import ConfigError
    from .launch import Launch

    combinations = config.load_all(workload)
    hosts = inventories.load(_sources(inventory), limit)
    for combination in combinations:
        _override(combination.workload, name, reconnect_timeout, policy, go_on, op_log)
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
    pause_s = config.seconds(pause, "--pause")
    skipped = preflight.check_skip(skip or ())
    secret = credentials.find(loaded, os.environ)
    archive = bundle.build(_cache_dir())
    start = Steering(loaded.start_delay_s, loaded.ready_timeout_s, connect_timeout, start_with_available, loaded.cutoff_timeout_s)
    for notice in loaded.notices:
        err(f"notice: {notice}")

    launch = Launch(hosts, archive, results_dir, start, secret, skipped, as_json)

    def create(of: Combination = combinations[0]) -> RunDirectory:
        run_id = new_run_id(of.workload.name)
        plan, assignments = config.compile_plan(of.workload, run_id, hosts, needs_credentials=secret is not None)
        return launch.create(plan, assignments, config.describe(plan, assignments, of.workload), loaded.document.text)

    if background:
        raise typer.Exit(steering.detach(create()))

    with _page(results_dir, web, listen, token, token_file) as show:

        def once(directory: RunDirectory) -> int:
            return steering.steer(show(directory), archive, as_json=as_json, live=live, credentials=secret)

        def steer_again(directory: RunDirectory) -> int:
            return steering.resume(show(directory), archive, as_json=as_json, live=live, credentials=secret)

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
) -> None:
    """Replay a trace of operations on all hosts of an inventory: ours (oplog.tsv.zst) or sai3-bench's."""
    from . import bundle, config, preflight, replaying, steering
    from . import inventory as inventories
    from .config import credentials
    from .errors import ConfigError

    if closed and speed != 1.0:
        raise ConfigError("--closed and --speed contradict each other", remedy="Give one of them")
    loaded = config.replay_settings(settings, target, name=name, concurrency=concurrency)
    if op_log:
        loaded.switch_on_op_log()
    hosts = inventories.load(_sources(inventory), limit)
    secret = credentials.find(loaded, os.environ)
    archive = bundle.build(_cache_dir())
    for notice in loaded.notices:
        err(f"notice: {notice}")
    wanted = replaying.Wanted(traces, replaying.remaps(remap or ()), None if closed else speed, put_first)
    look = preflight.Options(archive, credentials=secret, skip=preflight.check_skip(skip or ()), patience_s=60.0)
    with _page(results_dir, web, listen, token, token_file) as show:
        directory = show(replaying.create(wanted, loaded, hosts, results_dir, look, as_json=as_json))
        raise typer.Exit(steering.steer(directory, archive, as_json=as_json, live=live, credentials=secret))


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
) -> None:
    """Go on with a run whose controller was killed, from here or from a copy of its run directory on another machine."""
    from . import bundle, steering

    archive = bundle.build(_cache_dir())
    if from_agents:
        from . import inventory as inventories
        from .controller.rebuild import rebuild
        from .controller.rundir import Steering

        directory = rebuild(run, inventories.load(_sources(inventory), limit), results_dir, archive, Steering())
    else:
        directory = _find(run, results_dir)
    options = {"live": live, "credentials": _credentials(directory), "takeover": takeover, "without_unreachable": without_unreachable}
    with _page(directory.path.parent, web, listen, token, token_file) as show:
        raise typer.Exit(steering.resume(show(directory), archive, as_json=as_json, **options))


@app.command()
def attach(run: Run, results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False, live: Live = True) -> None:
    """Watch a run that another process steers; several may, and Ctrl-C only ends the watching."""
    from . import steering

    raise typer.Exit(steering.attach(_find(run, results_dir), as_json=as_json, live=live))


@app.command()
def stop(run: Run, results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False, live: Live = True) -> None:
    """Stop all agents of a run, collect what there is and write its results."""
    from . import bundle, steering

    directory = _find(run, results_dir)
    if directory.controller() is not None:
        raise typer.Exit(steering.attach(directory, as_json=as_json, live=live, interrupt=True))
    archive = bundle.build(_cache_dir())
    raise typer.Exit(
        steering.resume(directory, archive, as_json=as_json, live=live, credentials=_credentials(directory), stop_reason="sai3ssh stop")
    )


@app.command()
def collect(run: Run, results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False) -> None:
    """Fetch journals that were out of reach when a run ended, and revise its verdict."""
    from . import bundle, steering

    raise typer.Exit(steering.collect(_find(run, results_dir), bundle.build(_cache_dir()), as_json=as_json))


@app.command()
def validate(
    workload: WorkloadFile,
    inventory: Inventory = None,
    limit: Limit = "all",
    every: Annotated[bool, typer.Option("--all", help="Show keys that have their defaults, too.")] = False,
    name: Name = None,
    reconnect_timeout: ReconnectTimeout = None,
    policy: Policy = None,
    go_on: GoOn = False,
    op_log: OpLog = False,
    as_json: AsJson = False,
) -> None:
    """Check a workload file; print each value with where it comes from, and the plan. Takes options of `run`, and connects to nobody."""
    from . import config
    from . import inventory as inventories
    from .model import Host, to_json

    combinations = config.load_all(workload)
    for one in combinations:
        _override(one.workload, name, reconnect_timeout, policy, go_on, op_log)
    loaded: Workload = combinations[0].workload
    hosts = inventories.load(_sources(inventory), limit) if inventory else [Host("localhost", "localhost", connection="local")]
    config.check_matrix(combinations, hosts)
    plan, assignments = config.compile_plan(loaded, "dry-run", hosts)
    description = loaded.document.discreet(config.describe(plan, assignments, loaded))
    settings = config.settings(loaded)
    if as_json:
        shown = loaded.document.discreet(to_json(plan))
        content = {"plan": shown, "description": to_json(description), "configuration": config.configuration(settings)}
        out(json.dumps({**content, "matrix": [one.values for one in combinations if one.values]}, indent=1))
        return
    from .ui.effective import print_settings
    from .ui.plan import print_combinations, print_plan

    print_settings(settings, str(workload), every=every)
    print_plan(description, [assignment.agent_id for assignment in assignments], known_hosts=bool(inventory))
    if combinations[0].values:
        plans = [config.compile_plan(one.workload, "dry-run", hosts) for one in combinations]
        seconds = [config.describe(*made, one.workload).seconds for made, one in zip(plans, combinations, strict=True)]
        print_combinations([one.values for one in combinations], seconds)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="File to write; - is standard output.")] = Path("workload.yml"),
    target: Annotated[
        str, typer.Option(help="Base URI: s3://bucket/prefix/ or file:///mnt/test/.")
    ] = "s3://${S3_BUCKET:-bench-bucket}/sai3ssh/",
    endpoint: Annotated[str | None, typer.Option(help="URL of the S3 server; none is AWS.", show_default=False)] = None,
    objects: Annotated[str, typer.Option(help="Objects to prepare.")] = "10000",
    size: Annotated[str, typer.Option(help="Size of objects.")] = "64KiB",
    duration: Annotated[str, typer.Option(help="Of the load.")] = "60s",
    concurrency: Annotated[int, typer.Option(min=1, help="Operations in flight per agent.")] = 16,
    mix: Annotated[str, typer.Option(help="Operations with weights.")] = "get=70,put=30",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented workload file to begin with."""
    from . import config
    from .config.starter import SCHEMA_FILE, Choices, modeline, parse_mix, starter
    from .errors import ConfigError

    config.seconds(duration, "--duration")
    stem = "".join(letter if letter.isalnum() or letter in "_.-" else "-" for letter in file.stem)[:40]
    name = stem.strip("-") or "first"
    text = starter(Choices(target, name, str(file), endpoint, objects, size, duration, concurrency, parse_mix(mix)))
    if str(file) == "-":
        out(text.rstrip())
        return
    if (file.parent / SCHEMA_FILE).is_file():
        text = f"{modeline(SCHEMA_FILE)}\n{text}"
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} is there already", remedy="Choose another name, or give --force") from None
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}", remedy="Choose another place") from error
    err(f"wrote {file}; next: sai3ssh validate {file}")


@app.command()
def schema(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; init names one beside its own, sai3ssh.schema.json.", show_default=False),
    ] = None,
) -> None:
    """Print the JSON Schema of workload files, with which editors complete, explain and check keys."""
    from .config.json_schema import workload_schema
    from .config.starter import modeline
    from .errors import ConfigError

    text = json.dumps(workload_schema(), indent=1)
    if output is None:
        out(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}", remedy="Choose another place") from error
    err(f"wrote {output}; first line of a workload file in that directory: {modeline(output.name)}")


@app.command()
def preflight(
    workload: Annotated[
        Path | None, typer.Argument(help="Workload file; without one only network and hosts are checked.", show_default=False)
    ] = None,
    inventory: Inventory = None,
    limit: Limit = "all",
    skip: Skip = None,
    ports: Annotated[str, typer.Option(help="Ports of the hosts that must be reached: 7761,7762; besides sai3ssh_ports.")] = "",
    matrix: Annotated[bool, typer.Option("--matrix", help="Have the hosts connect to each other: sshd and the named ports.")] = False,
    idle_test: Annotated[
        str | None, typer.Option(help="See how long silent connections live, up to so long: 10m.", show_default=False)
    ] = None,
    probes: Annotated[int, typer.Option(min=1, max=1000, help="Pings to each host.")] = 20,
    as_json: AsJson = False,
    junit: Annotated[Path | None, typer.Option(help="Write the findings as JUnit XML too.", show_default=False)] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what is well, too.")] = False,
) -> None:
    """Find what would go wrong in a run: network, hosts, storage, and the plan against the fleet. Exit code 5 when anything would."""
    from . import bundle, config
    from . import inventory as inventories
    from . import preflight as checks
    from .config import credentials

    options = checks.Options(
        bundle.build(_cache_dir()),
        skip=checks.check_skip(skip or ()),
        ports=checks.parse_ports(ports),
        matrix=matrix,
        idle_test_s=config.seconds(idle_test, "--idle-test") if idle_test else None,
        probes=probes,
    )
    hosts = inventories.load(_sources(inventory), limit)
    if workload is not None:
        combinations = config.load_all(workload)
        loaded = combinations[0].workload
        if combinations[0].values:
            err(f"notice: of the {len(combinations)} combinations of the matrix the first is looked at; `run` looks at each")
        secret = credentials.find(loaded, os.environ)
        plan, assignments = config.compile_plan(loaded, "preflight", hosts, needs_credentials=secret is not None)
        hosts = [host for host in hosts if host.name in plan.agents]
        description = config.describe(plan, assignments, loaded)
        options = replace(options, plan=plan, assignments=assignments, description=description, credentials=secret)
    report = checks.examine(hosts, options)
    if junit is not None:
        checks.write_junit(report, junit)
    if as_json:
        out(json.dumps(report.to_json(), indent=1))
    else:
        from .ui.preflight import print_report

        print_report(report, verbose=verbose)
    raise typer.Exit(report.exit_code)


@app.command()
def calibrate(
    inventory: Inventory = None,
    limit: Limit = "all",
    size: Annotated[str, typer.Option(help="Object sizes; two or more tell what lies in between.")] = "4KiB,8MiB",
    seconds: Annotated[float, typer.Option(min=2.0, max=3600.0, help="For PUT and GET of each size, and one more to warm up.")] = 5.0,
    results_dir: ResultsDir = RESULTS_DIR,
    as_json: AsJson = False,
    live: Live = True,
) -> None:
    """Measure what each host's agent can do at most, without network and storage; later runs say how near they came to it."""
    from . import bundle
    from . import calibrate as calibration
    from . import inventory as inventories
    from .config import sizes

    wanted = sizes(size, "--size")
    hosts = inventories.load(_sources(inventory), limit)
    found = calibration.run(hosts, wanted, seconds, results_dir, bundle.build(_cache_dir()), as_json=as_json, live=live)
    if as_json:
        out(json.dumps(found))
        return
    from .ui.calibration import print_calibration

    print_calibration(found)


@app.command()
def autotune(
    workload: WorkloadFile,
    inventory: Inventory = None,
    limit: Limit = "all",
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="What to vary, named as in a matrix: concurrency, concurrency=1..256, s3.multipart_chunksize=8MiB,64MiB; may be repeated. "
            "Default: concurrency, and the parts or ranges that the file has.",
            show_default=False,
        ),
    ] = None,
    under: Annotated[
        list[str] | None, typer.Option(help="A latency to keep: 'get.p99 < 20ms'; may be repeated.", show_default=False)
    ] = None,
    goal: Annotated[Literal["ops", "bytes"], typer.Option(help="Most operations/s, or most bytes/s.")] = "ops",
    seconds: Annotated[float, typer.Option(min=2.0, max=3600.0, help="How long each trial measures.")] = 10.0,
    trials: Annotated[int, typer.Option(min=2, max=1000, help="At most so many.")] = 20,
    results_dir: ResultsDir = RESULTS_DIR,
    skip: Skip = None,
    as_json: AsJson = False,
    live: Live = True,
) -> None:
    """Find the concurrency, and the sizes of parts and ranges, with which a workload gives most, over all agents, in a few short runs."""
    from . import autotune as tuning
    from . import bundle, config, preflight, steering
    from . import inventory as inventories
    from .config import credentials
    from .controller.rundir import Steering, new_run_id
    from .errors import ConfigError
    from .launch import Launch

    (loaded, values), *_ = [(one.workload, one.values) for one in config.load_all(workload)]
    if values:
        raise ConfigError(f"{workload} has a matrix", remedy="Remove it: autotune chooses the values itself")
    hosts = inventories.load(_sources(inventory), limit)
    settings = [tuning.parse_setting(text, loaded) for text in vary or tuning.default_settings(loaded)]
    demands = [tuning.parse_demand(text) for text in under or ()]
    secret = credentials.find(loaded, os.environ)
    archive = bundle.build(_cache_dir())
    start = Steering(loaded.start_delay_s, loaded.ready_timeout_s, 60.0, False, loaded.cutoff_timeout_s)
    launch = Launch(hosts, archive, results_dir, start, secret, preflight.check_skip(skip or ()), as_json)
    for notice in loaded.notices:
        err(f"notice: {notice}")

    def create(of: Workload, change: Callable[[Plan], Plan]) -> RunDirectory:
        plan, assignments = config.compile_plan(of, new_run_id(of.name), hosts, needs_credentials=secret is not None)
        plan = change(plan)
        return launch.create(plan, assignments, config.describe(plan, assignments, of), loaded.document.text)

    def steer(directory: RunDirectory) -> int:
        return steering.steer(directory, archive, as_json=as_json, live=live, credentials=secret, summary=False)

    tools = tuning.Tools(create, steer)
    raise typer.Exit(tuning.tune(loaded, settings, demands, goal, seconds, trials, results_dir, tools, as_json=as_json))


@app.command()
def doctor(inventory: Inventory = None, limit: Limit = "all", results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False) -> None:
    """Check this machine: versions, keys, ssh's configuration. With -i: whether ssh and sai3ssh see each host alike."""
    from . import inventory as inventories
    from .preflight.doctor import doctor as look

    report = look(inventories.load(inventory, limit) if inventory else [], results_dir)
    if as_json:
        out(json.dumps(report.to_json(), indent=1))
    else:
        from .ui.preflight import print_doctor

        print_doctor(report)
    raise typer.Exit(report.exit_code)


@app.command()
def status(inventory: Inventory = None, limit: Limit = "all", results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False) -> None:
    """Runs known in the results directory and, with -i, on the hosts."""
    from .controller.survey import known_here, known_on_hosts

    here = known_here(results_dir)
    there = []
    if inventory:
        from . import bundle
        from . import inventory as inventories

        there = known_on_hosts(inventories.load(_sources(inventory), limit), bundle.build(_cache_dir()))
    if as_json:
        out(json.dumps({"here": here, "hosts": there}, indent=1))
        return
    from .ui.plan import print_status

    print_status(here, there if inventory else None, results_dir)


@app.command("results")
def show_results(run_dir: Annotated[Path, typer.Argument(help="Run directory.", show_default=False)], as_json: AsJson = False) -> None:
    """Show the summary of a run."""
    from . import results
    from .errors import ConfigError

    if not (run_dir / "plan.json").is_file():
        raise ConfigError(f"{run_dir} is no run directory: it has no plan.json", remedy="Name a directory below --results-dir")
    written = results.read(run_dir)
    if as_json:
        out("".join(results.json_lines(written.content)).rstrip())
        return
    from .results.network import links
    from .ui.summary import print_summary

    print_summary(results.summary(written), run_dir, links=links(written.content))


@app.command()
def report(
    run: Run,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write it; default: report.html in the run directory.", show_default=False),
    ] = None,
    results_dir: ResultsDir = RESULTS_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the report shows as one JSON document instead.")] = False,
) -> None:
    """Write the report of a run: one HTML file with everything in it."""
    from . import steering

    directory = _find(run, results_dir)
    if as_json:
        out(json.dumps(steering.document(directory), separators=(",", ":")))
        return
    out(str(steering.write_report(directory, output)))


@app.command()
def health(
    results_dir: Annotated[Path, typer.Argument(help="Results directory, or one run directory.")] = RESULTS_DIR, as_json: AsJson = False
) -> None:
    """How often links break, and where: each host over all runs of a directory."""
    from .model import to_json
    from .results.health import health as figures
    from .ui.health import print_health

    found = figures(results_dir)
    if as_json:
        out(json.dumps(to_json(found), indent=1))
    else:
        print_health(found, results_dir)


@app.command()
def aggregate(
    runs: Annotated[list[Path], typer.Argument(help="Run directories of one plan.", show_default=False)],
    allow_different_plans: Annotated[bool, typer.Option(help="Merge runs whose plans differ.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge several runs of one plan, and show what varies between them."""
    from .model import Verdict
    from .results.aggregate import aggregate as merge_runs
    from .ui.aggregate import print_aggregate

    content = merge_runs(runs, allow_different_plans)
    if as_json:
        out(json.dumps(content, indent=1))
    else:
        print_aggregate(content)
    raise typer.Exit(Verdict(content["verdict"]).exit_code)


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="New directory for the results.", show_default=False)],
    segments: Annotated[bool, typer.Option(help="The runs are of the same agents, one after the other.")] = False,
    allow_different_plans: Annotated[bool, typer.Option(help="Merge runs whose plans differ.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write runs of several controllers, or segments, as one results directory."""
    from . import results
    from .results.union import merge_runs

    found = merge_runs(runs, output, allow_different_plans=allow_different_plans, segments=segments)
    if as_json:
        out("".join(results.json_lines(found.content)).rstrip())
    elif segments:
        from .ui.aggregate import print_aggregate

        print_aggregate(found.content)
        out(f"results: {output}")
    else:
        from .results.network import links
        from .ui.summary import print_summary

        print_summary(results.summary(found), output, links=links(found.content))
    raise typer.Exit(found.verdict.exit_code)


@app.command()
def export(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)],
    form: Annotated[Literal["csv", "parquet", "json", "xlsx"], typer.Option("--format", help="xlsx: one workbook; else a file per table.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory, or the workbook; default: here, by the run's id.", show_default=False)
    ] = None,
) -> None:
    """Write the results of runs as tables for other programs."""
    from .results.export import export as write_tables

    for path in write_tables(runs, form, output):
        out(str(path))


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories: two, or several a side with the word vs between the sides.", show_default=False)
    ],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if", help="'get.p99 > +5%', 'mix/put.ops_per_s < -5%': exit code 7 then; may be repeated.", show_default=False
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(min=50, max=99.999, help="Percent, of all judged figures together.")] = 99.0,
    least: Annotated[
        float | None,
        typer.Option(min=0, help="Percent; smaller changes are no difference.", show_default="1 with several runs on a side, else 3"),
    ] = None,
    allow_partial: Annotated[bool, typer.Option(help="Also compare runs that are PARTIAL.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show all figures, not only those that decide.")] = False,
    as_json: AsJson = False,
) -> None:
    """What differs between runs, and whether it is more than chance: sai3ssh compare OLD... vs NEW..."""
    from .model import to_json
    from .results import compare as comparing
    from .ui.compare import print_comparison

    base, new = _sides(runs)
    found = comparing.compare(
        base,
        new,
        allow_partial=allow_partial,
        confidence=confidence / 100,
        least=None if least is None else least / 100,
        conditions=[comparing.parse_condition(text) for text in fail_if or ()],
    )
    if as_json:
        out(json.dumps(to_json(found), indent=1))
    else:
        print_comparison(found, every=every)
    raise typer.Exit(REGRESSED if found.failed else 0)


def _sides(runs: list[Path]) -> tuple[list[Path], list[Path]]:
    from .errors import ConfigError

    at = [number for number, run in enumerate(runs) if str(run) == "vs"]
    base, new = (runs[: at[0]], runs[at[0] + 1 :]) if at else (runs[:1], runs[1:])
    if not base or not new or len(at) > 1 or (not at and len(runs) != 2):
        raise ConfigError(
            f"{len(runs) - len(at)} runs and {len(at)} times vs given, expected two runs, or runs of both sides with one vs between them",
            remedy="Write for example: sai3ssh compare runs/old-* vs runs/new-*",
        )
    return base, new


@app.command()
def serve(
    results_dir: Annotated[Path, typer.Argument(help="Results directory: the one that run directories are in.")] = RESULTS_DIR,
    listen: Listen = None,
    token: Token = False,
    token_file: TokenFile = None,
    grafana: Annotated[bool, typer.Option("--grafana", help="Print the dashboard for Grafana, and do nothing else.")] = False,
) -> None:
    """Show all runs of a directory on a live page, and their metrics at /metrics for Prometheus. Reads only; Ctrl-C ends it."""
    from .errors import ConfigError

    if grafana:
        from .web.grafana import dashboard

        out(dashboard())
        return
    from .web import server

    if (results_dir / "plan.json").is_file():
        raise ConfigError(
            f"{results_dir} is one run", remedy=f"Name the directory that it is in: sai3ssh serve {results_dir.resolve().parent}"
        )
    if not results_dir.is_dir():
        raise ConfigError(f"{results_dir} is no directory", remedy="Name the directory that run directories go to (--results-dir)")
    place = server.listen(listen or server.DEFAULT, token_file=token_file, want_token=token)
    server.serve(results_dir, place, said=lambda url: err(f"runs of {results_dir}: {url}"))


@app.command()
def deploy(
    inventory: Inventory = None,
    limit: Limit = "all",
    check: Check = False,
    diff: Diff = False,
    tags: Tags = "",
    extra_vars: Variables = None,
    as_json: AsJson = False,
) -> None:
    """Put limits, SSH keepalive and the agent as a service on hosts. A second time, nothing changes."""
    raise typer.Exit(_play("deploy", inventory, limit, check, diff, tags, extra_vars, as_json))


@app.command()
def upgrade(
    inventory: Inventory = None,
    limit: Limit = "all",
    check: Check = False,
    diff: Diff = False,
    extra_vars: Variables = None,
    as_json: AsJson = False,
) -> None:
    """Replace deployed agents host by host, each when its host has no run in progress."""
    raise typer.Exit(_play("upgrade", inventory, limit, check, diff, "", extra_vars, as_json))


@app.command()
def remove(
    inventory: Inventory = None,
    limit: Limit = "all",
    check: Check = False,
    diff: Diff = False,
    tags: Tags = "",
    extra_vars: Variables = None,
    as_json: AsJson = False,
) -> None:
    """Take all that `deploy` made away again, runs included, and restore the former limits."""
    raise typer.Exit(_play("remove", inventory, limit, check, diff, tags, extra_vars, as_json))


@app.command()
def demo(results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False) -> None:
    """Eight local agents, a real S3 server, a cut link: see that nothing is lost. Under a minute."""
    from .demo import run_demo

    raise typer.Exit(run_demo(results_dir, as_json=as_json, cache_dir=_cache_dir()))


@app.command()
def version(as_json: AsJson = False) -> None:
    """Versions of sai3ssh, its agent protocol and Python."""
    from .protocol import PROTOCOL

    found = {"sai3ssh": __version__, "protocol": PROTOCOL, "python": sys.version.split()[0]}
    out(json.dumps(found) if as_json else "  ".join(f"{name} {value}" for name, value in found.items()))


def _play(
    playbook: str,
    inventory: list[str] | None,
    limit: str,
    check: bool,
    diff: bool,
    tags: str,
    extra_vars: list[str] | None,
    as_json: bool,
) -> int:
    """Runs a playbook on the hosts and shows it; the exit code."""
    import signal

    from . import bundle, provision
    from . import inventory as inventories
    from .ui.provision import make_view, print_outcome

    sources = _sources(inventory)
    hosts = [host.name for host in inventories.load(sources, limit)]
    archive = bundle.build(_cache_dir()) if playbook != "remove" else None
    digest = bundle.digest(archive) if archive else ""
    play = provision.Play(playbook, sources, limit, check, diff, tags, extra_vars or (), archive, digest)
    progress = provision.Progress.of(hosts)
    interrupted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: interrupted.append(number))
    view = make_view(progress, as_json=as_json)
    try:
        provision.run(play, progress, view.on_event, lambda: bool(interrupted))
    finally:
        view.close()
    if interrupted:
        err("sai3ssh: interrupted. What was done on the hosts stays as it is: run the same command again")
        return INTERRUPTED
    if not progress.over:
        raise RunError(
            f"ansible-playbook {playbook}.yml did not run: {progress.complaint.rstrip('.') or 'it said nothing'}",
            exit_code=USAGE,
            remedy="Check -i, -e and --tags",
        )
    if not as_json:
        print_outcome(progress)
    return UNREADY if any(row.failed for row in progress.rows.values()) else 0


@app.command()
def man(
    install: Annotated[bool, typer.Option("--install", help="Put it where `man sai3ssh` finds it: ~/.local/share/man.")] = False,
) -> None:
    """Print the manual page of all commands, as `man -l -` reads it."""
    from .manpage import page

    text = page(typer.main.get_command(app))
    if not install:
        out(text.rstrip())
        return
    from platformdirs import user_data_path

    path = user_data_path() / "man" / "man1" / "sai3ssh.1"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    out(f"{path} is there: man sai3ssh")


def _override(loaded: Workload, name: str | None, reconnect_timeout: float | None, policy: str | None, go_on: bool, op_log: bool) -> None:
    """Options of `run` go before keys of the file."""
    from .errors import ConfigError

    if go_on and policy not in (None, "best_effort"):
        raise ConfigError(f"--continue-on-agent-failure is best_effort and contradicts --policy {policy}", remedy="Give one of them")
    if name is not None:
        loaded.override(("name",), name, "--name")
    if reconnect_timeout is not None:
        loaded.override(("distributed", "reconnect_timeout"), reconnect_timeout, "--reconnect-timeout")
    if policy is not None:
        loaded.override(("distributed", "failure_policy"), policy, "--policy")
    elif go_on:
        loaded.override(("distributed", "failure_policy"), "best_effort", "--continue-on-agent-failure")
    if op_log:
        loaded.switch_on_op_log()


@contextlib.contextmanager
def _page(results_dir: Path, web: bool, listen: str | None, token: bool, token_file: Path | None) -> Iterator[Show]:
    """A live page beside a run, when one is wanted. It has its port before anything of the run begins; what it gives says where each run is
    shown."""
    if not (web or listen):
        yield lambda directory: directory
        return
    from .web import server

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


def _find(run: str, results_dir: Path) -> RunDirectory:
    from .controller.rundir import RunDirectory

    return RunDirectory.find(run, results_dir)


def _credentials(directory: RunDirectory) -> dict[str, Any] | None:
    """The operator's credentials, found as `run` finds them."""
    from . import config
    from .config import credentials

    workload = directory.path / "config.yaml"
    if workload.is_file():
        return credentials.find(config.load(workload), os.environ)
    plan = directory.contents().plan
    return credentials.of_plan(plan, os.environ) if plan.needs_credentials else None


def _sources(inventory: list[str] | None) -> list[str]:
    if not inventory:
        from .errors import InventoryError

        raise InventoryError("no inventory given", remedy="Name one with -i, for example -i inventory/hosts.yml")
    return inventory


def _cache_dir() -> Path:
    from platformdirs import user_cache_path

    path = user_cache_path("sai3ssh")
    path.mkdir(parents=True, exist_ok=True)
    return path


def main() -> None:
    """Entry point: every known error is one message and an exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except RunError as error:
        err(f"sai3ssh: {error}")
        sys.exit(error.exit_code)
    except Sai3sshError as error:
        err(f"sai3ssh: {error}")
        sys.exit(USAGE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output is gone; nothing more can be said, not even by the interpreter's own flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(USAGE)
    except OSError as error:
        err(f"sai3ssh: {error.filename}: {error.strerror}" if error.filename else f"sai3ssh: {error}")
        sys.exit(USAGE)


if __name__ == "__main__":
    main()
