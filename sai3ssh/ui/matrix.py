"""The runs of a matrix side by side, on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results.matrix import lines
from .summary import STYLE
from .terminal import Terminal
from .views import latency, print_whole

Json = dict[str, Any]


def print_matrix(content: Json, console: Console | None = None) -> None:
    """What results.matrix.matrix gave: a row per combination and operation, the one with the most operations/s in bold."""
    console = console or Terminal()
    entries = content["combinations"]
    run = sum(1 for entry in entries if entry["verdict"])
    head = f"  matrix of {len(entries)} combinations, {run} of them run"
    console.print(Text.assemble("\n", (content["verdict"], STYLE[content["verdict"]]), head), soft_wrap=True)
    for line in lines(content):
        console.print(Text(f"  {line}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for axis in content["axes"]:
        table.add_column(axis, justify="right", no_wrap=True)
    for number, name in enumerate(("stage", "op", "ops/s", "MiB/s", "p50", "p99", "p99.9", "max", "errors")):
        table.add_column(name, justify="right" if number > 1 else "left", no_wrap=True)
    for row in content["rows"]:
        best = content["best"][f"{row['stage']}/{row['operation']}"] == row["combination"]
        table.add_row(
            *entries[row["combination"]]["values"].values(),
            row["stage"],
            row["operation"],
            f"{row['ops_per_s']:,.0f}",
            f"{row['mib_per_s']:,.1f}",
            *(latency(row[f"{name}_us"]) for name in ("p50", "p99", "p99.9", "max")),
            Text(f"{row['errors']:,}", "red" if row["errors"] else ""),
            style="bold" if best else "",
        )
    if content["rows"]:
        print_whole(console, table)
