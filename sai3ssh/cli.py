"""The command line. Heavy libraries are imported by the commands that need them: `sai3ssh version` answers at once."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import __version__
from .errors import RunError, Sai3sshError

if TYPE_CHECKING:
    from .config import Workload
    from .model import Assignment, Host, Plan

USAGE, SUPERSEDED, INTERRUPTED = 2, 6, 130

app = typer.Typer(
    help="A distributed storage benchmark that the network cannot kill.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

WorkloadFile = Annotated[Path, typer.Argument(help="Workload file (sai3-bench YAML).", show_default=False)]
Inventory = Annotated[
    list[str] | None,
    typer.Option("--inventory", "-i", help="Ansible inventory: file, directory, script; may be repeated.", show_default=False),
]
Limit = Annotated[str, typer.Option("--limit", "-l", help="Ansible host pattern.")]
ResultsDir = Annotated[Path, typer.Option("--results-dir", help="Where run directories go.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs instead of text for people.")]

Policy = Annotated[
    Literal["fail_fast", "retry_once", "retry", "best_effort", "continue_if_majority"],
    typer.Option("--policy", help="What a lost agent means for the run; goes before the file's failure_policy.", show_default=False),
]

RESULTS_DIR = Path("sai3ssh-runs")


def out(text: str) -> None:
    """One line to standard output."""
    sys.stdout.write(text + "\n")


def err(text: str) -> None:
    """One line to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@app.command()
def run(
    workload: WorkloadFile,
    inventory: Inventory = None,
    limit: Limit = "all",
    results_dir: ResultsDir = RESULTS_DIR,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the workload's.", show_default=False)] = None,
    as_json: AsJson = False,
    live: Annotated[bool, typer.Option("--live/--no-live", help="Live table when standard output is a terminal.")] = True,
    reconnect_timeout: Annotated[
        float | None, typer.Option(min=1.0, help="Seconds after which a host that does not come back is given up.", show_default="600")
    ] = None,
    connect_timeout: Annotated[float, typer.Option(min=1.0, help="Seconds that a host has to answer at the start.")] = 60.0,
    policy: Policy | None = None,
    go_on: Annotated[bool, typer.Option("--continue-on-agent-failure", help="The same as --policy best_effort.")] = False,
    start_with_available: Annotated[
        bool, typer.Option(help="Leave out agents that fail before the start, instead of ending the run.")
    ] = False,
) -> None:
    """Run a workload on all hosts of an inventory."""
    from . import bundle, config
    from . import inventory as inventories
    from .config import credentials
    from .controller.link import LinkOptions
    from .controller.run import RunController
    from .controller.rundir import RunDirectory, new_run_id
    from .controller.session import Options
    from .errors import ConfigError

    loaded = config.load(workload)
    hosts = inventories.load(_sources(inventory), limit)
    run_id = new_run_id(name or loaded.name)
    if reconnect_timeout is not None:
        loaded.keys.distributed.reconnect_timeout = reconnect_timeout
    if go_on and policy not in (None, "best_effort"):
        raise ConfigError(f"--continue-on-agent-failure is best_effort and contradicts --policy {policy}", remedy="Give one of them")
    secret = credentials.find(loaded, os.environ)
    chosen = "best_effort" if go_on else policy
    plan, assignments = config.compile_plan(loaded, run_id, hosts, failure_policy=chosen, needs_credentials=secret is not None)
    hosts = hosts_of(assignments, hosts)
    archive = bundle.build(_cache_dir())
    directory = RunDirectory.create(results_dir, plan, assignments, hosts, workload)
    view = make_view(plan, assignments, run_id, as_json=as_json, live=live)
    for notice in loaded.notices:
        err(f"notice: {notice}")
    controller = RunController(
        plan,
        assignments,
        hosts,
        directory,
        archive,
        credentials=secret,
        options=Options(
            start_delay_s=loaded.start_delay_s, ready_timeout_s=loaded.ready_timeout_s, start_with_available=start_with_available
        ),
        link_options=LinkOptions(
            heartbeat_s=plan.heartbeat_s,
            first_connect_timeout_s=connect_timeout,
            # The session decides when an agent is lost; its link goes on trying for as long as the run lasts.
            reconnect_timeout_s=math.inf,
        ),
        observers=view.observers,
    )
    code = finish(controller, view, as_json=as_json)
    if controller.left:
        # At once: the interpreter's own end would wait for threads that wait for hosts.
        sys.stdout.flush()
        os._exit(code)
    raise typer.Exit(code)


def hosts_of(assignments: list[Assignment], hosts: list[Host]) -> list[Host]:
    """The host of each assignment, in their order."""
    by_name = {host.name: host for host in hosts}
    return [by_name[assignment.agent_id] for assignment in assignments]


class View:
    """A display and what feeds it."""

    def __init__(self, observers: list[Any], close: Callable[[], None]) -> None:
        self.observers = observers
        self.close = close


def make_view(plan: Plan, assignments: list[Assignment], run_id: str, *, as_json: bool, live: bool) -> View:
    """The display that suits standard output."""
    from rich.console import Console

    from .ui.board import Board
    from .ui.views import JsonView, LiveView, PlainView

    if as_json:
        view = JsonView()
        return View([view], view.close)
    board = Board.of(plan, [assignment.agent_id for assignment in assignments])
    console = Console()
    if live and console.is_terminal:
        table = LiveView(board, console, run_id)
        return View([board, table], table.close)
    lines = PlainView(board)
    return View([board, lines], lines.close)


def finish(controller: Any, view: View, *, as_json: bool) -> int:
    """Runs to the end under signal handlers, writes and shows the results; the exit code."""
    from . import results
    from .controller.run import Leave
    from .errors import Permanent

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the handler's signature)
        controller.interrupt(f"{signal.Signals(number).name} at the controller")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        controller.run()
    except Permanent as superseded:
        view.close()
        controller.left = True
        err(f"sai3ssh: {superseded}")
        return SUPERSEDED
    except Leave as leave:
        view.close()
        _say_what_runs(controller, leave.running)
        return INTERRUPTED
    finally:
        view.close()
    written = results.write(controller.directory.path)
    code = INTERRUPTED if controller.stop_requested else written.verdict.exit_code
    controller.note_end(verdict=written.verdict.value, reasons=list(written.reasons), exit_code=code)
    if not as_json:
        from .results.network import links
        from .ui.summary import print_summary

        print_summary(results.summary(written), controller.directory.path, links=links(written.content))
    for error in controller.errors:
        err(f"sai3ssh: {error}")
    return code


def _say_what_runs(controller: Any, running: dict[str, str]) -> None:
    run_id = controller.directory.path.name
    if not running:
        err(f"left run {run_id}; no agent of it runs any more")
        return
    err(f"left run {run_id} at once. Still there:")
    for agent, state in running.items():
        err(f"  {agent}: {state}")
    err("They go on by themselves. Look after them with: sai3ssh status -i INVENTORY")


@app.command()
def validate(workload: WorkloadFile, inventory: Inventory = None, limit: Limit = "all", as_json: AsJson = False) -> None:
    """Check a workload file and print the effective plan. Touches nothing and connects to nobody."""
    from . import config
    from . import inventory as inventories
    from .model import Host, to_json

    loaded: Workload = config.load(workload)
    hosts = inventories.load(_sources(inventory), limit) if inventory else [Host("localhost", "localhost", connection="local")]
    plan, assignments = config.compile_plan(loaded, "dry-run", hosts)
    description = config.describe(plan, assignments, loaded)
    if as_json:
        out(json.dumps({"plan": to_json(plan), "description": to_json(description)}, indent=1))
        return
    from .ui.plan import print_plan

    print_plan(description, [assignment.agent_id for assignment in assignments], known_hosts=bool(inventory))


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
        out((run_dir / "results.json").read_text(encoding="utf-8").rstrip())
        return
    from .results.network import links
    from .ui.summary import print_summary

    print_summary(results.summary(written), run_dir, links=links(written.content))


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


if __name__ == "__main__":
    main()
