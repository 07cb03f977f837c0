"""What several commands take: arguments, options, and what is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from ..config import Combination
    from ..controller.rundir import RunDirectory

RESULTS_DIR = Path("sai3ssh-runs")

WorkloadFile = Annotated[Path, typer.Argument(help="Workload file (sai3-bench YAML).", show_default=False)]
Inventory = Annotated[
    list[str] | None,
    typer.Option("--inventory", "-i", help="Ansible inventory: file, directory, script; may be repeated.", show_default=False),
]
Limit = Annotated[str, typer.Option("--limit", "-l", help="Ansible host pattern.")]
ResultsDir = Annotated[Path, typer.Option("--results-dir", help="Where run directories go.")]
Live = Annotated[bool, typer.Option("--live/--no-live", help="Live table when standard output is a terminal.")]


def known_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """For completion by the shell: the ids of the runs in the results directory, the newest first."""
    directory = Path(ctx.params.get("results_dir") or RESULTS_DIR)
    found = [path.parent for path in directory.glob(f"{incomplete}*/plan.json")]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def named_runs(text: str) -> Any:
    """The argument that names runs, with its help."""
    return typer.Argument(help=text, show_default=False, autocompletion=known_runs)


Run = Annotated[str, named_runs("Run directory, or the id of a run below --results-dir or its beginning.")]
Runs = Annotated[list[str], named_runs("Run directories, or ids of runs below --results-dir or their beginnings.")]

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

Otel = Annotated[
    bool, typer.Option("--otel", help="Push metrics and a trace to an OpenTelemetry collector meanwhile; OTEL_EXPORTER_OTLP_* say where.")
]


def load(
    file: Path, name: str | None, reconnect_timeout: float | None, policy: str | None, go_on: bool, op_log: bool
) -> Sequence[Combination]:
    """A workload file, one combination or those of its matrix. Options of `run` go before its keys."""
    from .. import config
    from ..errors import ConfigError

    combinations = config.load_all(file)
    if go_on and policy not in (None, "best_effort"):
        raise ConfigError(f"--continue-on-agent-failure is best_effort and contradicts --policy {policy}", remedy="Give one of them")
    for workload in (one.workload for one in combinations):
        if name is not None:
            workload.override(("name",), name, "--name")
        if reconnect_timeout is not None:
            workload.override(("distributed", "reconnect_timeout"), reconnect_timeout, "--reconnect-timeout")
        if policy is not None:
            workload.override(("distributed", "failure_policy"), policy, "--policy")
        elif go_on:
            workload.override(("distributed", "failure_policy"), "best_effort", "--continue-on-agent-failure")
        if op_log:
            workload.switch_on_op_log()
    return combinations


def find(run: str, results_dir: Path) -> RunDirectory:
    from ..controller.rundir import RunDirectory

    return RunDirectory.find(run, results_dir)


def find_all(runs: Sequence[str], results_dir: Path) -> list[Path]:
    return [find(run, results_dir).path for run in runs]


def sources(inventory: list[str] | None) -> list[str]:
    if not inventory:
        from ..errors import InventoryError

        raise InventoryError("no inventory given", remedy="Name one with -i, for example -i inventory/hosts.yml")
    return inventory
