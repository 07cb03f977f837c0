"""The summary of a finished run on a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results import Summary
from ..results.network import Links
from .terminal import Terminal
from .views import latency, print_whole

REPORT = "report.html"
STYLE = {"COMPLETE": "bold green", "PARTIAL": "bold yellow", "FAILED": "bold red"}


def print_summary(summary: Summary, path: Path, console: Console | None = None, *, links: Links | None = None) -> None:
    """Verdict and reasons, a row per stage and operation, link losses, how the links did when it is known, where the results are."""
    console = console or Terminal()
    console.print(
        Text.assemble(
            "\n",
            (summary.verdict, STYLE[summary.verdict]),
            f"  {summary.run_id}  {summary.reported} of {summary.expected} agents, coverage {100 * summary.coverage:.2f} %",
        ),
        soft_wrap=True,
    )
    # The first reason of a complete run is what COMPLETE means.
    for reason in summary.reasons[summary.verdict == "COMPLETE" :]:
        console.print(Text(f"  {reason}"), soft_wrap=True)
    if summary.lines:
        print_whole(console, _table(summary))
        if summary.endpoints:
            print_whole(console, _endpoints(summary))
    for stage, (agent, rate, median) in summary.slowest.items():
        console.print(
            f"slowest agent in {stage}: {agent} with {rate:,.0f} ops/s (median agent {median:,.0f})", soft_wrap=True, highlight=False
        )
    for stage, spread in summary.spreads_ms.items():
        console.print(f"start spread of {stage}: {spread:.2f} ms", soft_wrap=True, highlight=False)
    for gap in summary.gaps:
        console.print(gap, soft_wrap=True, highlight=False)
    for loss in summary.losses:
        times = "once" if loss.count == 1 else f"{loss.count} times"
        gone = "" if loss.back else " and did not come back"
        text = f"link of {loss.agent}: lost {times}{gone}, {loss.unreachable_s:.1f} s in all; nothing that it measured was lost"
        console.print(text if summary.verdict == "COMPLETE" else text.partition(";")[0], soft_wrap=True, highlight=False)
    for line in _links(links) if links else ():
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"results: {path}", soft_wrap=True, highlight=False)
    if (path / REPORT).exists():
        console.print(f"report: {path / REPORT}", soft_wrap=True, highlight=False)


def _links(links: Links) -> list[str]:
    lines = []
    if links.rtts:
        lines.append(f"heartbeat round trip of all links: p99 {latency(links.rtt_p99_us)}, max {latency(links.rtt_max_us)}")
    if links.cut_offs:
        times = "once" if len(links.cut_offs) == 1 else f"{len(links.cut_offs)} times"
        ended = [seconds for seconds in links.cut_offs if seconds is not None]
        spans = [f"{sum(ended):.1f} s in all"] if ended else []
        spans += ["to the end"] if len(ended) < len(links.cut_offs) else []
        lines.append(f"the controller itself was cut off {times}, {' and '.join(spans)}")
    return lines


def _endpoints(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("stage", "op", "endpoint"):
        table.add_column(name, no_wrap=True)
    for name in ("count", "MiB", "p50", "p99", "errors", "retries"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in summary.endpoints:
        table.add_row(
            line.stage,
            line.operation,
            line.endpoint,
            f"{line.ops:,}",
            f"{line.bytes / (1 << 20):,.1f}",
            latency(line.p50_us),
            latency(line.p99_us),
            Text(f"{line.errors:,}", "red" if line.errors else ""),
            f"{line.retries:,}",
        )
    return table


def _table(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    table.add_column("op", no_wrap=True)
    for name in ("count", "ops/s", "MiB/s", "p50", "p99", "p99.9", "max", "errors"):
        table.add_column(name, justify="right", no_wrap=name != "errors")
    for line in summary.lines:
        errors = ", ".join(f"{n} {name}" for name, n in line.errors.items()) or "0"
        if line.retries:
            errors += f" ({line.retries} retries)"
        table.add_row(
            line.stage,
            line.operation,
            f"{line.ops:,}",
            f"{line.ops_per_s:,.0f}",
            f"{line.mib_per_s:,.1f}",
            *(latency(value) for value in (line.p50_us, line.p99_us, line.p999_us, line.max_us)),
            Text(errors, "red" if line.errors else ""),
        )
    return table
