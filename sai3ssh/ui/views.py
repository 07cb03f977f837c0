"""Three ways to watch a run: a live table, plain lines, JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..controller.events import Event
from ..controller.run import Observer
from ..model import Assignment, Plan
from ..plain import plain
from ..results.steady import steady_text
from .board import Board, Row
from .terminal import Terminal

Json = dict[str, Any]
PROGRESS_EVERY_S = 5.0
WIDEST = 200
OTHERS, OTHERS_WIDE = 67, 91
"""Characters that the columns besides the agent's name need."""
STYLES = {
    "RUNNING": "green", "FINISHED": "bold green", "UNREACHABLE": "yellow", "FAILED": "bold red", "LOST": "bold red", "STOPPED": "magenta",
}  # fmt: skip


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_whole(console: Console, table: Table) -> None:
    """Prints a table no column of which is cut off: a narrow terminal wraps its lines instead, and every figure is told."""
    Terminal(file=console.file, width=max(console.width, WIDEST), force_terminal=console.is_terminal or None).print(table)


def latency(microseconds: float) -> str:
    """3 digits and a unit."""
    if microseconds <= 0:
        return "-"
    for limit, unit in ((1e3, "us"), (1e6, "ms"), (float("inf"), "s")):
        if microseconds < limit:
            value = microseconds / (limit / 1e3 if unit != "s" else 1e6)
            return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
    raise AssertionError("unreachable")


def short_names(names: Sequence[str], width: int) -> dict[str, str]:
    """Each name in at most width characters: without the domain that all share, then without its beginning, as hosts differ at the end."""
    domains = {name.partition(".")[2] for name in names}
    if max(map(len, names), default=0) > width and len(domains) == 1:
        short = {name: name.partition(".")[0] for name in names}
    else:
        short = {name: name for name in names}
    return {name: text if len(text) <= width else "…" + text[len(text) - width + 1 :] for name, text in short.items()}


def describe(event: Json) -> str | None:
    """One line for people, or None for what they need not read."""
    agent = event.get("agent", "")
    match event["event"]:
        case "run_created":
            return f"run {event['run_id']} with {len(event['agents'])} agents"
        case "link_up" if event["resumed_offset"]:
            return f"{agent}: link is back after {event['down_s']:.1f} s, journal resumed at byte {event['resumed_offset']}"
        case "link_down" if event["level"] != "info":
            return f"{agent}: UNREACHABLE ({event['cause']}); the agent keeps running, reconnecting"
        case "stage_started":
            return f"stage {event['name']} started on all agents"
        case "steady":
            text = steady_text(event["name"], event["figures"])
            return f"{text}; it ends on all agents {event['duration_ns'] / 1e9:.0f} s after its start"
        case "not_steady":
            return f"stage {event['name']} was not steady within its duration"
        case "stage_ended":
            return f"stage {event['name']} ended on all agents"
        case "agent_failed" | "agent_lost":
            return f"{agent}: {'FAILED' if event['event'] == 'agent_failed' else 'LOST'}: {event['error'].removeprefix(f'{agent}: ')}"
        case "policy_round":
            return f"{agent}: unreachable for {event['down_s']:.0f} s, round {event['round']}: trying again"
        case "go_on_without":
            return f"going on without {agent}: {event['remaining']} agents are left"
        case "reassigned":
            rest = "; what they had not done is done by the others" if event["again"] else ""
            return f"the objects of {', '.join(event['lost'])} belong to the others now{rest}"
        case "cut_off":
            return "CUT_OFF: this machine reaches nothing; the agents keep running, and nobody is given up meanwhile"
        case "cut_off_over":
            return f"this machine is back on the network after {event['seconds']:.0f} s"
        case "slept":
            return f"this machine slept for {event['seconds']:.0f} s; that counts against no agent"
        case "unfenced_writer_possible":
            return f"{agent}: may still be writing; what it prepares from now on can outlive the cleanup"
        case "stop_requested":
            return f"stopping all agents: {event['reason']} (again to leave at once)"
        case "abort":
            return f"stopping all agents: {event['reason']}"
        case "stop_unconfirmed":
            return f"{agent}: could not be confirmed as stopped"
        case "run_resumed":
            return "another controller goes on with the run"
        case "claim_waits":
            return f"{agent}: {event['reason']}; asking again"
        case "claimed":
            return f"{agent}: steered from here now"
        case "run_ended":
            return f"verdict {event['verdict']}"
    return None


class JsonView:
    """Every event as one JSON object a line."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out

    def on_log(self, event: Json) -> None:
        """Writes it."""
        self._out.write(json.dumps(event) + "\n")
        self._out.flush()

    def on_event(self, event: Event) -> None:
        """Nothing: the log has what matters."""

    def on_tick(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing to close."""


class PlainView:
    """A line for each event worth reading, and a progress line every 5 s."""

    def __init__(self, board: Board, out: TextIO = sys.stdout) -> None:
        self._board = board
        self._out = out
        self._next_s = 0.0

    def on_log(self, event: Json) -> None:
        """One line, or none."""
        text = describe(event)
        if text is not None:
            self._write(text)

    def on_event(self, event: Event) -> None:
        """Nothing."""

    def on_tick(self) -> None:
        """The progress line when it is due."""
        board = self._board
        if not board.stage_running:
            self._next_s = board.clock_s() + PROGRESS_EVERY_S
        elif board.clock_s() >= self._next_s:
            self._next_s = board.clock_s() + PROGRESS_EVERY_S
            self._write(progress_line(board))

    def close(self) -> None:
        """Nothing to close."""

    def _write(self, text: str) -> None:
        self._out.write(f"{duration(self._board.clock_s() - self._board.began_s):>7}  {plain(text)}\n")
        self._out.flush()


def progress_line(board: Board) -> str:
    """The state of the stage in one line."""
    ops, mib, errors = board.totals()
    parts = [f"{board.plan.stages[board.stage].name} {100 * board.fraction:.0f} %"]
    if board.progress:
        parts.append(board.progress)
    parts.append(f"{ops:,.0f} ops/s, {mib:,.1f} MiB/s")
    eta_s = board.eta_s
    if eta_s is not None:
        parts.append(f"{board.at_most}{duration(eta_s)} left")
    if errors:
        parts.append(f"{errors} errors")
    away = [row.name for row in board.rows.values() if row.shown_state == "UNREACHABLE"]
    if away:
        parts.append(f"UNREACHABLE: {', '.join(away)}")
    return " | ".join(parts)


class LiveView:
    """A table that is redrawn in place."""

    def __init__(self, board: Board, console: Console, title: str) -> None:
        self._board = board
        self._title = title
        self._console = console
        self._live = Live(get_renderable=self.draw, console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def on_log(self, event: Json) -> None:
        """Events worth reading go above the table and stay in the scrollback."""
        text = describe(event)
        if text is not None:
            when = duration(self._board.clock_s() - self._board.began_s)
            self._console.print(Text(f"{when:>7}  {text}"), soft_wrap=True)

    def on_event(self, event: Event) -> None:
        """Nothing."""

    def on_tick(self) -> None:
        """Nothing: it is drawn on its own."""

    def close(self) -> None:
        """Takes the table away."""
        self._live.stop()

    def draw(self) -> Group:
        """The table as it is now."""
        board = self._board
        wide = self._console.width >= 110
        table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
        table.add_column("agent", no_wrap=True, overflow="ellipsis")
        table.add_column("state", no_wrap=True)
        for name in ("progress", "ops/s", "MiB/s", "p50", "p99", "errors"):
            table.add_column(name, justify="right", no_wrap=True)
        if wide:
            table.add_column("link", justify="right", no_wrap=True)
            table.add_column("reconnects", justify="right")
        names = short_names(list(board.rows), max(8, self._console.width - (OTHERS_WIDE if wide else OTHERS)))
        for row in board.rows.values():
            table.add_row(names[row.name], *self._cells(row, wide))
        return Group(self._head(), table, *self._notes())

    def _head(self) -> Group:
        board = self._board
        stage = board.plan.stages[board.stage]
        ops, mib, _ = board.totals()
        line = Text.assemble((self._title, "bold"), f"   stage {board.stage + 1}/{len(board.plan.stages)} ", (stage.name, "bold"))
        if not board.stage_running:
            line.append("   waiting for all agents", "dim")
            return Group(line)
        line.append(f"   {ops:,.0f} ops/s   {mib:,.1f} MiB/s")
        eta_s = board.eta_s
        tail = f" {100 * board.fraction:5.1f} %" + (f"  {board.progress}" if board.progress else "")
        tail += f"  {board.at_most}{duration(eta_s)} left" if eta_s is not None else ""
        bar = Table.grid(padding=0)
        bar.add_row(ProgressBar(total=1.0, completed=board.fraction, width=max(10, min(60, self._console.width - len(tail) - 2))), tail)
        return Group(line, bar)

    def _cells(self, row: Row, wide: bool) -> list[Text | str]:
        board = self._board
        fresh = board.fresh(row)
        if row.planned:
            progress = f"{100 * row.done / row.planned:.0f} %"
        else:
            progress = f"{100 * board.fraction:.0f} %" if row.state.value == "RUNNING" else ""
        cells: list[Text | str] = [
            Text(row.shown_state, STYLES.get(row.shown_state, "")),
            progress,
            f"{row.ops_per_s:,.0f}" if fresh else "-",
            f"{row.mib_per_s:,.1f}" if fresh else "-",
            latency(row.p50_us) if fresh else "-",
            latency(row.p99_us) if fresh else "-",
            Text(str(row.errors), "red" if row.errors else "dim"),
        ]
        if wide:
            age = duration(board.clock_s() - row.link_since_s)
            cells += [f"up {age}" if row.up else Text(f"down {age}", "yellow" if row.ever_up else "dim"), str(row.reconnects)]
        return cells

    def _notes(self) -> list[Text]:
        notes = []
        for row in self._board.rows.values():
            if row.shown_state == "UNREACHABLE":
                away_s = self._board.clock_s() - row.link_since_s
                notes.append(Text(f"{row.name}: UNREACHABLE for {away_s:.0f} s; the agent goes on measuring, reconnecting", "yellow"))
        return notes


class View:
    """A display and what feeds it."""

    def __init__(self, observers: Sequence[Observer], close: Callable[[], None], board: Board | None = None) -> None:
        self.observers = observers
        self.close = close
        self._board = board

    def catch_up(self, history: Sequence[Json]) -> None:
        """Brings the display to where a run stands, without showing what led there."""
        if self._board is not None:
            for event in history:
                self._board.on_log(event)


def make_view(plan: Plan, assignments: Sequence[Assignment], *, as_json: bool, live: bool) -> View:
    """The display that suits standard output."""
    if as_json:
        view = JsonView()
        return View([view], view.close)
    board = Board.of(plan, [assignment.agent_id for assignment in assignments])
    console = Terminal()
    if live and console.is_terminal:
        table = LiveView(board, console, plan.run_id)
        return View([board, table], table.close, board)
    lines = PlainView(board)
    return View([board, lines], lines.close, board)
