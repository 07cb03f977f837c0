"""How often hosts lose their link, from run directories whose logs are known."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sai3ssh.errors import ConfigError
from sai3ssh.model import to_json
from sai3ssh.results.health import health
from sai3ssh.ui.health import answer, print_health

from .test_network import down, up

HOUR = 3600.0


def run_dir(path: Path, agents: dict[str, str], events: list[dict[str, Any]], torn: str = "") -> Path:
    """A run directory with only what the controller writes; agents are agent id to host."""
    path.mkdir(parents=True)
    hosts = [{"agent_id": agent, "host": host, "address": "192.0.2.1"} for agent, host in agents.items()]
    (path / "hosts.json").write_text(json.dumps({"agents": hosts}))
    (path / "events.ndjson").write_text("".join(json.dumps(event) + "\n" for event in events) + torn)
    return path


def ended(at: float) -> dict[str, Any]:
    return {"at": at, "event": "run_ended", "verdict": "COMPLETE"}


@pytest.fixture
def two_runs(tmp_path: Path) -> Path:
    run_dir(
        tmp_path / "runs" / "a-1",
        {"h1": "node-1", "h2": "node-2", "h3": "node-3"},
        [
            {"at": 100.0, "event": "run_created"},
            up(110.0, "h1"),
            up(110.0, "h2"),
            up(110.0 + HOUR, "h3"),
            down(200.0, "h1", "nothing was heard for 3.1 s"),
            up(230.0, "h1", down_s=30.0),
            down(300.0, "h1", "nothing was heard for 12.0 s"),
            up(305.0, "h1", down_s=5.0),
            down(400.0, "h1", "the connection broke"),
            up(401.0, "h1", down_s=1.0),
            down(50.0 + 2 * HOUR, "h1", "closed", "info"),
            ended(110.0 + 2 * HOUR),
        ],
    )
    run_dir(
        tmp_path / "runs" / "a-2",
        {"h1": "node-1", "h2": "node-2"},
        [
            {"at": 900_000.0, "event": "run_created"},
            up(900_000.0, "h1"),
            up(900_000.0, "h2"),
            {"at": 900_020.0, "event": "cut_off"},
            {"at": 900_032.5, "event": "cut_off_over", "seconds": 12.5},
            down(900_000.0 + HOUR, "h2", "the connection broke"),
            {"at": 900_000.0 + HOUR + 600, "event": "agent_lost", "agent": "h2", "error": "not reached"},
            ended(900_000.0 + 2 * HOUR),
        ],
        torn='{"at":9',
    )
    return tmp_path / "runs"


def test_figures_of_each_host_over_all_runs(two_runs: Path) -> None:
    found = health(two_runs)
    assert found.runs == 2
    assert [host.host for host in found.hosts] == ["node-1", "node-2", "node-3"]
    first, second, third = found.hosts
    assert (first.runs, first.hours, first.disconnects) == (2, 4.0, 3)
    assert first.disconnects_per_hour == 0.75
    assert (first.down_s, first.longest_s) == (36.0, 30.0)
    assert first.causes == {"nothing was heard for N s": 2, "the connection broke": 1}
    assert list(first.causes) == ["nothing was heard for N s", "the connection broke"]
    assert first.last_disconnect_at == 400.0
    assert first.lost_in == ()
    # It never came back: the loss counts to the end of the log.
    assert (second.disconnects, second.hours, second.down_s, second.longest_s) == (1, 4.0, HOUR, HOUR)
    assert second.lost_in == ("a-2",)
    assert (third.runs, third.hours, third.disconnects, third.last_disconnect_at) == (1, 1.0, 0, None)
    assert (found.cut_offs, found.cut_off_s) == (1, 12.5)
    assert found.passed_over == ()


def test_the_worst_rate_comes_first_not_the_largest_count(tmp_path: Path) -> None:
    run_dir(
        tmp_path / "r" / "1", {"a": "a"}, [up(0.0, "a"), down(10.0, "a"), up(11.0, "a"), down(20.0, "a"), up(21.0, "a"), ended(4 * HOUR)]
    )
    run_dir(tmp_path / "r" / "2", {"b": "b"}, [up(0.0, "b"), down(10.0, "b"), up(11.0, "b"), ended(HOUR)])
    run_dir(tmp_path / "r" / "3", {"c": "c"}, [{"at": 0.0, "event": "run_created"}, ended(HOUR)])
    found = health(tmp_path / "r")
    assert [(host.host, host.disconnects_per_hour) for host in found.hosts] == [("b", 1.0), ("a", 0.5), ("c", 0.0)]
    assert found.hosts[2].hours == 0.0


def test_nobody_watches_between_the_end_and_what_is_added_later(tmp_path: Path) -> None:
    days = 72 * HOUR
    events = [up(0.0), ended(HOUR), {"at": days, "event": "collected"}, up(days), {"at": days + HOUR, "event": "collected"}]
    run_dir(tmp_path / "r" / "1", {"h1": "h1"}, events)
    assert health(tmp_path / "r").hosts[0].hours == 2.0


def test_a_run_directory_itself_will_do(two_runs: Path) -> None:
    found = health(two_runs / "a-1")
    assert found.runs == 1
    assert [host.hours for host in found.hosts] == [2.0, 2.0, 1.0]


def test_broken_and_foreign_directories_are_passed_over_and_named(two_runs: Path) -> None:
    good = health(two_runs)
    (two_runs / "notes").mkdir()
    (two_runs / "a file").write_text("x")
    run_dir(two_runs / "bad-event", {"h1": "node-1"}, [up(1.0), down(2.0)])
    with (two_runs / "bad-event" / "events.ndjson").open("a") as file:
        file.write('{"at": 3.0, "event"\n{"at": 4.0, "event": "run_ended"}\n')
    run_dir(two_runs / "bad-field", {"h1": "node-1"}, [up(1.0), {"at": "yesterday", "event": "link_down", "agent": "h1"}])
    run_dir(two_runs / "bad-link", {"h1": "node-1"}, [up(1.0), {"at": 2.0, "event": "link_down", "agent": "h1"}])
    run_dir(two_runs / "bad-list", {"h1": "node-1"}, [up(1.0), [1, 2]])  # type: ignore[list-item]
    run_dir(two_runs / "bad-hosts", {}, [up(1.0)])
    (two_runs / "bad-hosts" / "hosts.json").write_text("[]")
    run_dir(two_runs / "bad-text", {"h1": "node-1"}, [])
    (two_runs / "bad-text" / "hosts.json").write_bytes(b"\xff\xfe\x00")
    for name in ("matrix", "autotune"):
        (two_runs / name).mkdir()
        (two_runs / name / f"{name}.json").touch()
    found = health(two_runs)
    assert (found.hosts, found.runs, found.cut_offs) == (good.hosts, good.runs, good.cut_offs)
    names = [other.name for other in found.passed_over]
    assert names == ["bad-event", "bad-field", "bad-hosts", "bad-link", "bad-list", "bad-text", "notes"]
    reasons = {other.name: other.reason for other in found.passed_over}
    assert "line 3 of events.ndjson is no event" in reasons["bad-event"]
    assert "line 2 of events.ndjson is no event" in reasons["bad-field"]
    assert reasons["notes"] == "no run directory: it lacks events.ndjson or hosts.json"


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is no directory"):
        health(tmp_path / "nowhere")


def test_the_answer_is_one_line(two_runs: Path, tmp_path: Path) -> None:
    # 4 + 4 + 1 hours, 4 disconnects.
    assert answer(health(two_runs), two_runs) == (
        "4 disconnects in 9.0 host-hours watched (2 runs, 3 hosts): one every 2.2 h per host; "
        "worst is node-1 with 0.75 per hour (3 of the 4); the longest took 3600.0 s on node-2; 1 host had none"
    )
    run_dir(tmp_path / "calm" / "1", {"h1": "h1"}, [up(0.0), ended(HOUR)])
    assert answer(health(tmp_path / "calm"), tmp_path) == "no disconnect in 1.0 host-hours watched (1 run, 1 host)"
    (tmp_path / "empty").mkdir()
    assert answer(health(tmp_path / "empty"), Path("empty")) == "no runs in empty"


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_has_a_row_per_host_worst_first(two_runs: Path, width: int) -> None:
    (two_runs / "notes").mkdir()
    out = io.StringIO()
    print_health(health(two_runs), two_runs, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("4 disconnects in 9.0 host-hours")
    assert lines[1].startswith("the controller itself was cut off once, 12.5 s in all")
    assert lines[2].split()[:2] == ["host", "runs"]
    rows = [
        line.split()
        for line in lines
        if line.startswith("node-") and "given up" not in line and "node-1:" not in line and "node-2:" not in line
    ]
    assert [row[0] for row in rows] == ["node-1", "node-2", "node-3"]
    assert rows[0][1:8] == ["2", "4:00:00", "3", "0.75", "36.0", "s", "30.0"]
    assert rows[0][9:11] == ["01-01", "00:06"]
    assert "node-2 was given up in a-2" in lines
    assert sum("2 x nothing was heard for N s, 1 x the connection broke" in line for line in lines) == 1
    assert lines[-1] == "passed over: notes: no run directory: it lacks events.ndjson or hosts.json"


def test_json_has_all_of_it(two_runs: Path) -> None:
    content = json.loads(json.dumps(to_json(health(two_runs))))
    assert content["hosts"][0]["disconnects_per_hour"] == 0.75
    assert content["hosts"][0]["causes"] == {"nothing was heard for N s": 2, "the connection broke": 1}
    assert content["hosts"][1]["lost_in"] == ["a-2"]
    assert set(content) == {"runs", "hosts", "cut_offs", "cut_off_s", "passed_over"}
