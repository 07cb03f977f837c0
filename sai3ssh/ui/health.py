"""The links of a results directory's hosts on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results.health import Health, HostHealth
from .terminal import Terminal
from .views import duration, short_names

WIDE = 110
"""With so many characters the causes fit into the table."""


def print_health(health: Health, results_dir: Path, console: Console | None = None) -> None:
    """The answer in one line, a row per host with the worst first, and what was passed over."""
    console = console or Terminal()
    console.print(Text(answer(health, results_dir), "bold"), soft_wrap=True)
    if health.cut_offs:
        times = _times(health.cut_offs)
        text = f"the controller itself was cut off {times}, {health.cut_off_s:.1f} s in all: that is its own network, not the hosts'"
        console.print(Text(text, "yellow"), soft_wrap=True)
    if health.hosts:
        console.print(_table(health, console.width))
    for host in health.hosts:
        if host.causes and console.width < WIDE:
            console.print(Text(f"{host.host}: {_causes(host)}"), soft_wrap=True)
        if host.lost_in:
            console.print(Text(f"{host.host} was given up in {', '.join(host.lost_in)}", "red"), soft_wrap=True)
    for other in health.passed_over:
        console.print(Text(f"passed over: {other.name}: {other.reason}", "dim"), soft_wrap=True)


def answer(health: Health, results_dir: Path) -> str:
    """How often links are lost, and where, in one line."""
    if not health.hosts:
        return f"no runs in {results_dir}"
    total = sum(host.disconnects for host in health.hosts)
    hours = sum(host.hours for host in health.hosts)
    scope = f"{hours:,.1f} host-hours watched ({_count(health.runs, 'run')}, {_count(len(health.hosts), 'host')})"
    if not total:
        return f"no disconnect in {scope}"
    worst = health.hosts[0]
    longest = max(health.hosts, key=lambda host: host.longest_s)
    none = sum(not host.disconnects for host in health.hosts)
    parts = [f"{_count(total, 'disconnect')} in {scope}" + (f": one every {_hours(hours / total)} per host" if hours > 0 else "")]
    parts.append(f"worst is {worst.host} with {worst.disconnects_per_hour:.3g} per hour ({worst.disconnects} of the {total})")
    parts.append(f"the longest took {longest.longest_s:.1f} s on {longest.host}")
    if none:
        parts.append(f"{_count(none, 'host')} had none")
    return "; ".join(parts)


def _table(health: Health, width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("host", no_wrap=True)
    for name in ("runs", "watched", "lost", "per hour", "down", "longest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last (UTC)", no_wrap=True)
    if width >= WIDE:
        table.add_column("causes")
    names = short_names([host.host for host in health.hosts], max(12, width // 5))
    for host in health.hosts:
        last = datetime.fromtimestamp(host.last_disconnect_at, UTC).strftime("%m-%d %H:%M") if host.last_disconnect_at is not None else ""
        table.add_row(
            names[host.host],
            str(host.runs),
            duration(host.hours * 3600),
            Text(str(host.disconnects), "yellow" if host.disconnects else "dim"),
            f"{host.disconnects_per_hour:.3g}",
            duration(host.down_s) if host.down_s >= 60 else f"{host.down_s:.1f} s",
            duration(host.longest_s) if host.longest_s >= 60 else f"{host.longest_s:.1f} s",
            last,
            *([Text(_causes(host))] if width >= WIDE else []),
        )
    return table


def _causes(host: HostHealth) -> str:
    return ", ".join(f"{n} x {cause}" for cause, n in host.causes.items())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"
