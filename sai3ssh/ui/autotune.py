"""What autotune tried and found, on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .terminal import Terminal
from .views import latency, print_whole

Json = dict[str, Any]


def shown(name: str, value: int) -> str:
    """A value of a setting as a person would write it."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if "size" in name and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)


def trial_line(entry: Json, goal: str) -> str:
    """One trial, when it has ended."""
    values = ", ".join(f"{name} {shown(name, value)}" for name, value in entry["values"].items())
    broken = f"; not {' nor '.join(entry['broken'])}" if entry["broken"] else ""
    return f"  {values}: {entry['score']:,.0f} {'operations/s' if goal == 'ops' else 'MiB/s'}{broken}"


def print_trials(content: Json, console: Console | None = None) -> None:
    """All trials in order of what they gave, the best one marked, and what to write into the workload file."""
    console = console or Terminal()
    names = [setting["name"] for setting in content["settings"]]
    operations = list(dict.fromkeys(op for entry in content["trials"] for op in entry["latency_us"]))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in [*names, "ops/s", "MiB/s", *(f"{op} p99" for op in operations), "errors"]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for entry in sorted(content["trials"], key=lambda entry: -entry["score"]):
        best = entry["values"] == content["best"]
        said = "best" if best else f"not {', '.join(entry['broken'])}" if entry["broken"] else ""
        if entry["client_bound"]:
            said = f"{said}, client-bound".removeprefix(", ")
        table.add_row(
            *(shown(name, entry["values"][name]) for name in names),
            f"{entry['ops_per_s']:,.0f}",
            f"{entry['mib_per_s']:,.1f}",
            *(latency(entry["latency_us"][op]["p99"]) if op in entry["latency_us"] else "-" for op in operations),
            f"{entry['errors']:,}",
            said,
            style="bold" if best else "",
        )
    console.print()
    print_whole(console, table)
    if content["best"] is not None:
        text = ", ".join(f"{name}: {shown(name, value)}" for name, value in content["best"].items())
        console.print(Text.assemble(("best", "bold green"), f"  {text}"), soft_wrap=True)
        chosen = next(entry for entry in content["trials"] if entry["values"] == content["best"])
        if chosen["client_bound"]:
            console.print(Text("  the clients were its limit, not the storage: more hosts may want another", "yellow"), soft_wrap=True)
    if content["exhausted"]:
        console.print(Text("  the search was not at its end: --trials allows more", "yellow"), soft_wrap=True)
