"""`validate` and `status` on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..config import Description
from ..config.units import size_text
from .terminal import Terminal
from .views import WIDEST, duration, print_whole

Json = dict[str, Any]


def print_plan(plan: Description, agents: Sequence[str], *, known_hosts: bool) -> None:
    """The effective plan in figures."""
    console = Terminal(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Terminal(highlight=False, soft_wrap=True, width=WIDEST)
    console.print(Text.assemble((plan.name, "bold"), ": valid"))
    console.print(f"engine {plan.engine}, {plan.endpoint}; credentials: {plan.credentials}")
    if known_hosts:
        console.print(f"{plan.agents} agents: {', '.join(agents)}")
    else:
        console.print("no inventory given (-i): figures are for one agent")
    if plan.populations:
        table = _table("population", "target", ("objects", "bytes", "size"))
        for part in plan.populations:
            table.add_row(part.name, part.target, f"{part.objects:,}", size_text(part.bytes), part.size)
        console.print(table)
        low, high = plan.objects_per_agent
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        console.print(f"in all {plan.objects:,} objects, {size_text(plan.bytes)}; {each} objects per agent")
    table = _table("stage", "kind", ("concurrency/agent", "time", "mix"))
    for stage in plan.stages:
        mix = "; ".join(part for part in (", ".join(f"{op} {percent:.3g} %" for op, percent, _ in stage.mix), stage.pace) if part)
        table.add_row(stage.name, stage.kind, str(stage.concurrency), ("" if stage.exact else "~ ") + duration(stage.seconds), mix)
    console.print(table)
    if any(not stage.exact for stage in plan.stages):
        console.print(f"~ assumes {plan.assumed_ops_per_s:,.0f} operations/s per agent; your storage decides")
    console.print(f"in all about {duration(plan.seconds)}; journal at most {size_text(plan.journal_bytes_per_agent)} per agent")
    console.print(f"COMPLETE needs {100 * plan.min_coverage:g} % of all agent-seconds measured (min_coverage)")
    for notice in plan.notices:
        console.print(f"notice: {notice}")


def _table(first: str, second: str, numbers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    table.add_column(second, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="left" if name in ("mix", "size") else "right")
    return table


def print_status(here: Sequence[Json], there: Sequence[Json] | None, results_dir: Path) -> None:
    """Runs in the results directory, and on hosts when they were asked."""
    console = Terminal(highlight=False, soft_wrap=True)
    console.print(Text(f"runs in {results_dir}", "bold") if here else f"no runs in {results_dir}")
    table = _table("run", "verdict", ("agents", "last event"))
    for run in here:
        at = datetime.fromtimestamp(run["last_at"], UTC).strftime("%Y-%m-%d %H:%M:%S") if run["last_at"] else ""
        table.add_row(
            run["run_id"],
            run["verdict"] or ("running" if run["controller"] else "no controller: resume or stop it"),
            str(run["agents"]),
            f"{run['last_event']} {at}",
        )
    if here:
        print_whole(console, table)
    if there is None:
        return
    console.print(Text("runs on the hosts", "bold"))
    table = _table("host", "run", ("state", "journal"))
    for host in there:
        if host["error"]:
            table.add_row(host["host"], Text(str(host["error"]), "red"), "", "")
        for run in host["runs"]:
            table.add_row(host["host"], run["run_id"], run["state"], size_text(run["size"]))
        if not host["runs"] and not host["error"]:
            table.add_row(host["host"], "none", "", "")
    print_whole(console, table)


def print_combinations(values: Sequence[Mapping[str, str]], seconds: Sequence[float]) -> None:
    """The combinations of a matrix, of which the plan was the first, with the time that each takes."""
    console = Terminal(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Terminal(highlight=False, soft_wrap=True, width=WIDEST)
    table = Table(*values[0], "time", box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for combination, span in zip(values, seconds, strict=True):
        table.add_row(*combination.values(), duration(span))
    console.print(f"matrix: {len(values)} combinations, in all about {duration(sum(seconds))}; shown above is the first")
    console.print(table)
