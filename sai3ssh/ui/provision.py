"""Watching a deployment: a live table with a row per host, plain lines, or JSON lines; and what came of it."""

from __future__ import annotations

import json
import sys
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..plain import plain
from ..provision import Progress
from .terminal import Terminal

Json = dict[str, Any]


class View(Protocol):
    """What shows a deployment while it goes on."""

    def on_event(self, event: Json) -> None:
        """One event of Progress."""

    def close(self) -> None:
        """Nothing more comes."""


class JsonView:
    """Every event as one JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def on_event(self, event: Json) -> None:
        """Writes it."""
        self._out.write(json.dumps(event) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing to close."""


class PlainView:
    """A line for each task, and for each host that it changed or that failed it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def on_event(self, event: Json) -> None:
        """One line, or none."""
        text = _line(event)
        if text is not None:
            self._out.write(plain(text) + "\n")
            self._out.flush()

    def close(self) -> None:
        """Nothing to close."""


class LiveView:
    """A table that is redrawn in place; diffs go above it and stay."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._live = Live(get_renderable=self.draw, console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def on_event(self, event: Json) -> None:
        """Prints what is to stay; the table is drawn on its own."""
        if event["event"] == "diff":
            self._console.print(Text(str(_line(event))), soft_wrap=True)

    def close(self) -> None:
        """Takes the table away."""
        self._live.stop()

    def draw(self) -> Table:
        """The table as it is now."""
        return _table(self._progress, now=True)


def make_view(progress: Progress, *, as_json: bool) -> View:
    """The view for this standard output."""
    if as_json:
        return JsonView(sys.stdout)
    console = Terminal()
    return LiveView(progress, console) if console.is_terminal else PlainView(sys.stdout)


def print_outcome(progress: Progress) -> None:
    """A row per host, why hosts failed, and one line on all of them."""
    console = Terminal()
    console.print(_table(progress, now=False))
    for failure in progress.failures.values():
        console.print(Text(f"{failure.host}: {failure.task}: {failure.message}. {failure.remedy}", "red"), soft_wrap=True)
    failed = [row.name for row in progress.rows.values() if row.failed]
    changed = sum(row.changed for row in progress.rows.values())
    text = f"{len(progress.rows)} hosts, {changed} changed" + (f", {len(failed)} failed: {', '.join(failed)}" if failed else "")
    console.print(Text(text, "bold red" if failed else "bold"), soft_wrap=True)


def _line(event: Json) -> str | None:
    match event["event"]:
        case "task":
            return str(event["task"])
        case "diff":
            return f"  {event['host']}: {event['text']}"
        case "host" if "message" in event:
            return f"  {event['host']}: {event['result'].upper()}: {event['message']}. {event['remedy']}"
        case "host" if event["changed"] or event["result"] == "waiting":
            return f"  {event['host']}: {'changed' if event['changed'] else 'waiting'}"
    return None


def _table(progress: Progress, *, now: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("host", no_wrap=True, overflow="ellipsis")
    if now:
        table.add_column("task", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("ok", "changed", "failed"):
        table.add_column(name, justify="right")
    for row in progress.rows.values():
        head = [Text(row.name), Text(row.task)] if now else [Text(row.name)]
        colours = (("", row.ok), ("yellow", row.changed), ("red", row.failed))
        table.add_row(*head, *(Text(str(count), colour if count else "") for colour, count in colours))
    return table
