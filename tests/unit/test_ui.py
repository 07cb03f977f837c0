"""The live table and the plain lines, drawn for fixed widths."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sai3ssh.controller.events import Heartbeat, LinkDown, LinkUp, Records
from sai3ssh.errors import LinkLost
from sai3ssh.model import AgentState, Plan, Replay, Stage, StageKind, Steady, Target
from sai3ssh.ui.board import Board
from sai3ssh.ui.plan import print_status
from sai3ssh.ui.views import LiveView, describe, latency, progress_line

PLAN = Plan(
    "mixed-20260101T120000Z-ab12",
    "n",
    Target("s3"),
    (),
    (Stage("prepare", StageKind.PREPARE, 1), Stage("mixed", StageKind.EXECUTE, 1, duration_s=60.0)),
)
NAMES = [f"storage-node-{i}.example.net" for i in range(8)]


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def second(ops: int, size: int) -> dict[str, object]:
    return {
        "kind": "sec",
        "from_clock_ns": 0,
        "to_clock_ns": 10**9,
        "ops": {"put": [ops, size, 0, 1500, 2000, 9000, 12000]},
        "errors": {"put": {"http_503": 2}},
        "retries": {"put": 3},
    }


@pytest.fixture
def board() -> Board:
    clock = Clock()
    found = Board.of(PLAN, NAMES, clock, clock)
    for name in NAMES:
        found.on_event(LinkUp(name, 0.0, 1, 0.0, 0))
        found.rows[name].state = AgentState.RUNNING
    found.on_log({"at": clock.now, "event": "stage_started", "stage": 0, "name": "prepare"})
    clock.now += 10.0
    for name in NAMES:
        found.on_event(Heartbeat(name, 0.0, {"stage": 0, "done": 2500, "planned": 10000}))
        found.on_event(Records(name, 0.0, (second(1000, 1 << 20),)))
    found.on_event(LinkDown(NAMES[5], 0.0, LinkLost("silent for 3 s")))
    clock.now += 2.0
    return found


@pytest.mark.parametrize("width", [80, 160])
def test_every_line_fits_and_every_agent_is_there(board: Board, width: int) -> None:
    console = Console(width=width, height=40, file=io.StringIO(), force_terminal=False)
    view = LiveView(board, console, PLAN.run_id)
    view.close()
    with console.capture() as capture:
        console.print(view.draw())
    lines = capture.get().splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    rows = [line for line in lines if "e-node-" in line and "%" in line]
    assert len(rows) == 8
    assert sum("RUNNING" in row for row in rows) == 7
    assert "UNREACHABLE" in rows[5]
    assert "down 0:02" in rows[5] or width == 80
    for number, row in enumerate(rows):
        assert f"-node-{number}" in row
        assert "25 %" in row
        assert "1,000" in row
        assert "1.5 ms" in row
    text = capture.get()
    assert "UNREACHABLE for 2 s; the agent goes on measuring" in text
    assert "20,000 of 80,000 objects" in text
    assert "stage 1/2 prepare" in text


def test_the_progress_line_has_rates_eta_and_who_is_away(board: Board) -> None:
    line = progress_line(board)
    assert line == (
        "prepare 25 % | 20,000 of 80,000 objects | 8,000 ops/s, 8.0 MiB/s | 0:36 left | 16 errors | UNREACHABLE: storage-node-5.example.net"
    )


def test_between_stages_the_next_one_is_named(board: Board) -> None:
    board.on_log({"event": "stage_ended", "stage": 0, "name": "prepare"})
    assert PLAN.stages[board.stage].name == "mixed"
    assert not board.stage_running
    board.on_log({"event": "stage_ended", "stage": 1, "name": "mixed"})
    assert PLAN.stages[board.stage].name == "mixed"


def test_a_link_loss_is_told_calmly_and_its_end_too() -> None:
    down = describe({"event": "link_down", "agent": "a", "cause": "silent for 3 s", "level": "warning"})
    assert down == "a: UNREACHABLE (silent for 3 s); the agent keeps running, reconnecting"
    assert describe({"event": "link_down", "agent": "a", "cause": "closed", "level": "info"}) is None
    up = describe({"event": "link_up", "agent": "a", "attempt": 2, "down_s": 12.34, "resumed_offset": 777})
    assert up == "a: link is back after 12.3 s, journal resumed at byte 777"


@pytest.mark.parametrize(
    ("us", "text"), [(0, "-"), (3.14159, "3.14 us"), (999, "999 us"), (1500, "1.5 ms"), (250_000, "250 ms"), (2.5e6, "2.5 s")]
)
def test_latencies_have_three_digits(us: float, text: str) -> None:
    assert latency(us) == text


def test_what_is_decided_about_lost_agents_is_said_in_a_line_each() -> None:
    events: list[dict[str, Any]] = [
        {"event": "policy_round", "agent": "h3", "round": 2, "down_s": 30.4, "delay_s": 20.0},
        {"event": "go_on_without", "agent": "h3", "remaining": 7},
        {"event": "reassigned", "lost": ["h3"], "again": True, "parts": {}},
        {"event": "cut_off"},
        {"event": "cut_off_over", "seconds": 12.0},
        {"event": "slept", "seconds": 3600.0},
        {"event": "unfenced_writer_possible", "agent": "h3"},
    ]
    words = ["round 2", "7 agents are left", "h3 belong to the others", "CUT_OFF", "after 12 s", "3600 s", "outlive the cleanup"]
    for event, word in zip(events, words, strict=True):
        assert word in (describe(event) or ""), event


def test_a_stage_that_may_end_early_is_shown_with_its_latest_end_until_its_end_is_known() -> None:
    clock = Clock()
    plan = Plan("r", "n", Target("s3"), (), (Stage("mixed", StageKind.EXECUTE, 1, duration_s=300.0, steady=Steady()),))
    board = Board.of(plan, ["a"], clock, clock)
    board.on_log({"at": clock.now, "event": "stage_started", "stage": 0, "name": "mixed"})
    clock.now += 60.0
    assert progress_line(board) == "mixed 20 % | 0 ops/s, 0.0 MiB/s | at most 4:00 left"
    figures = {"after_s": 60, "window_s": 60, "metric": "ops", "mean": 9.0, "slope": -0.0123, "spread": 0.04}
    decided = {"event": "steady", "stage": 0, "name": "mixed", "round": 1, "duration_ns": 64 * 10**9, "figures": figures}
    board.on_log(decided)
    assert progress_line(board) == "mixed 94 % | 0 ops/s, 0.0 MiB/s | 0:04 left"
    assert describe(decided) == (
        "mixed: steady after 60 s (slope -1.2 %, spread 4.0 % over 60 s); it ends on all agents 64 s after its start"
    )
    assert describe({"event": "not_steady", "stage": 0, "name": "mixed", "figures": None}) == (
        "stage mixed was not steady within its duration"
    )
    board.on_log({"event": "stage_ended", "stage": 0, "name": "mixed"})
    assert board.at_most


def test_who_attaches_later_sees_how_far_the_stage_is() -> None:
    clock = Clock()
    board = Board.of(PLAN, NAMES, clock, clock)
    board.on_log({"at": clock.now - 15.0, "event": "stage_started", "stage": 1, "name": "mixed"})
    assert progress_line(board) == "mixed 25 % | 0 ops/s, 0.0 MiB/s | 0:45 left"


def test_status_tells_whole_names_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = "a-name-that-is-long-enough-20260101T120000Z-ab12"
    here = {"run_id": name, "verdict": None, "controller": False, "agents": 8, "last_event": "stage_started", "last_at": 1.8e9}
    there = {"host": "h1", "error": None, "runs": [{"run_id": name, "state": "RUNNING", "size": 10_000}]}
    print_status([here], [there], Path("runs"))
    printed = capsys.readouterr().out
    assert printed.count(name) == 2
    assert "no controller: resume or stop it" in printed


def test_a_replay_shows_how_far_the_trace_is() -> None:
    spec = Replay("s3://b/", ("get",), 4000, 0, 0, None)
    plan = Plan("r", "n", Target("s3"), (), (Stage("replay", StageKind.REPLAY, 1, replay=spec),))
    clock = Clock()
    found = Board.of(plan, ["a", "b"], clock, clock)
    found.on_log({"at": clock.now, "event": "stage_started", "stage": 0, "name": "replay"})
    for name in ("a", "b"):
        found.on_event(Heartbeat(name, 0.0, {"stage": 0, "done": 500, "planned": 0}))
    assert progress_line(found).startswith("replay 25 % | 1,000 of 4,000 operations | ")


def test_an_agent_that_is_lost_is_named_once() -> None:
    event = {"event": "agent_lost", "agent": "h6", "error": "h6: not reached for 12 s (reconnect_timeout)"}
    assert describe(event) == "h6: LOST: not reached for 12 s (reconnect_timeout)"
