"""Several runs as one, on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .summary import STYLE
from .terminal import Terminal
from .views import latency, print_whole

Json = dict[str, Any]


def print_aggregate(content: Json, console: Console | None = None) -> None:
    """What results.aggregate.aggregate gave: verdict and reasons, figures of all runs together, how the runs differ, a row per run."""
    console = console or Terminal()
    runs, verdicts = content["runs"], content["verdicts"]
    counted = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items() if n)
    head = f"  {runs['in_figures']} of {runs['given']} runs in the figures ({counted}), coverage {100 * content['coverage']:.2f} %"
    console.print(Text.assemble("\n", (content["verdict"], STYLE[content["verdict"]]), head), soft_wrap=True)
    for reason in content["reasons"] if content["verdict"] != "COMPLETE" else ():
        console.print(Text(f"  {reason}"), soft_wrap=True)
    for difference in content["plan_differences"]:
        console.print(Text(f"  different plans: {difference}", "yellow"), soft_wrap=True)
    if content["stages"]:
        print_whole(console, _figures(content))
        print_whole(console, _spreads(content))
    print_whole(console, _segments(content))


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number > 1 else "left", no_wrap=name != "errors")
    return table


def _figures(content: Json) -> Table:
    table = _table("stage", "op", "count", "ops/s", "MiB/s", "p50", "p99", "p99.9", "max", "errors")
    for stage in content["stages"]:
        for op, figures in stage["operations"].items():
            errors = ", ".join(f"{n} {name}" for name, n in figures["errors"].items()) or "0"
            table.add_row(
                stage["name"],
                op,
                f"{figures['ops']:,}",
                f"{figures['ops_per_s']:,.0f}",
                f"{figures['mib_per_s']:,.1f}",
                *(latency(figures["latency_us"][name]) for name in ("p50", "p99", "p99.9", "max")),
                Text(errors, "red" if figures["errors"] else ""),
            )
    return table


def _spreads(content: Json) -> Table:
    table = _table("between runs", "op", "runs", "ops/s min", "median", "max", "cv", "p99 min", "median", "max", "cv")
    for stage in content["stages"]:
        for op, figures in stage["operations"].items():
            rate, p99 = figures["spread"]["ops_per_s"], figures["spread"]["p99_us"]
            cells = [*(f"{rate[name]:,.0f}" for name in ("min", "median", "max")), _percent(rate["cv"])] if rate else ["-"] * 4
            cells += [*(latency(p99[name]) for name in ("min", "median", "max")), _percent(p99["cv"])] if p99 else ["-"] * 4
            table.add_row(stage["name"], op, str(stage["runs"]), *cells)
    return table


def _segments(content: Json) -> Table:
    table = _table("run", "verdict", "agents", "coverage", "ops/s (execute)")
    for segment in content["segments"]:
        stages = [stage for stage in segment["stages"] if stage["kind"] == "execute"]
        ops = sum(figures["ops_per_s"] * stage["seconds"] for stage in stages for figures in stage["operations"].values())
        seconds = sum(stage["seconds"] for stage in stages)
        agents = segment["agents"]
        table.add_row(
            segment["run_id"],
            Text(segment["verdict"] + ("" if segment["in_figures"] else ", left out"), STYLE[segment["verdict"]]),
            f"{agents['reported']} of {agents['expected']}",
            f"{100 * segment['coverage']:.2f} %",
            f"{ops / seconds:,.0f}" if seconds else "-",
        )
    return table


def _percent(cv: float | None) -> str:
    return "-" if cv is None else f"{100 * cv:.1f} %"
