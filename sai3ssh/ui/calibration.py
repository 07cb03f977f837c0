"""What hosts can do at most, on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from ..config.units import size_text
from .terminal import Terminal
from .views import print_whole

NOTE = (
    "At most: what the workers do when each has a core to itself. Reached: what they did here, where the server that keeps nothing took "
    "a part of the cores. Both leave out the network and the storage."
)


def print_calibration(found: dict[str, Any], console: Console | None = None) -> None:
    """A row per host, operation and size."""
    console = console or Terminal()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("host", no_wrap=True)
    for name in ("cores", "workers"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("operation", no_wrap=True)
    for name in ("CPU us", "at most ops/s", "at most GB/s", "reached ops/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for host, entry in found.items():
        cells = [host, str(entry["cores"]), str(entry["workers"])]
        for kind, points in entry["figures"].items():
            for point in points:
                figures = (f"{point['cpu_us']:,.1f}", f"{point['most_ops_per_s']:,.0f}", f"{point['most_gb_per_s']:,.2f}")
                table.add_row(*cells, f"{kind} {size_text(point['size'])}", *figures, f"{point['ops_per_s']:,.0f}")
                cells = ["", "", ""]
    print_whole(console, table)
    console.print(NOTE, style="dim", soft_wrap=True)
