"""Two sides compared, on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results.compare import IMPROVED, REGRESSED, TOO_SHORT, Comparison, Row
from .terminal import Terminal
from .views import latency, print_whole

STYLE = {IMPROVED: "green", REGRESSED: "red", TOO_SHORT: "yellow"}
DIFFERENCES = 8
"""So many differences between the plans are shown."""


def print_comparison(found: Comparison, *, every: bool = False, console: Console | None = None) -> None:
    """The verdict, what the plans differ in, the judged figures (`every`: all of them), and which conditions hold."""
    console = console or Terminal()
    style = "red" if REGRESSED in found.verdict else STYLE.get(found.verdict, "")
    console.print(
        Text.assemble("\n", (found.verdict, f"bold {style}".strip()), f"  {_side(found.base)} -> {_side(found.new)}"), soft_wrap=True
    )
    for difference in found.differences[:DIFFERENCES]:
        console.print(Text(f"  plans: {difference}", "yellow"), soft_wrap=True)
    if len(found.differences) > DIFFERENCES:
        console.print(Text(f"  plans: {len(found.differences) - DIFFERENCES} more differences; see --json", "yellow"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, name in enumerate(("stage", "op", "size", "figure", "base", "new", "change", "interval", "")):
        table.add_column(name, justify="right" if 4 <= number <= 7 else "left", no_wrap=True)
    for row in found.rows:
        if every or row.judged:
            interval = "" if row.low is None or row.high is None else f"{row.low:+.1%} to {row.high:+.1%}"
            finding = Text(row.finding, STYLE.get(row.finding, "dim"))
            figures = (_figure(row, row.base), _figure(row, row.new))
            table.add_row(row.stage, row.operation, row.size, row.metric, *figures, f"{row.change:+.1%}", interval, finding)
    print_whole(console, table)
    several = len(found.base) > 1 or len(found.new) > 1
    by = "variation between runs" if several else "variation within two runs; what varies from run to run is not known: give several a side"
    console.print(
        Text(f"  intervals: {found.confidence:.0%} for all judged rows together, by {by}; less than {found.least:.1%} is no difference"),
        soft_wrap=True,
    )
    for text in found.failed:
        console.print(Text(f"  --fail-if {text}", "red"), soft_wrap=True)


def _side(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} runs ({names[0]} ...)"


def _figure(row: Row, value: float) -> str:
    if row.metric == "ops_per_s":
        return f"{value:,.0f}"
    return f"{value:,.1f}" if row.metric == "mib_per_s" else latency(value)
