"""The JSON document of a run: what is merged, what is told per agent, what is shaded."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from sai3ssh.histogram import Histogram
from sai3ssh.model import Plan
from sai3ssh.report import document
from sai3ssh.report import series as rows
from sai3ssh.report.windows import MOST, StageWindows, Window, edge_us

from .test_results import PLAN, SECOND, FakeAgent, whole, write_run

WALL_S = 1_700_000_000.0


def at(second: float, event: str, **fields: Any) -> dict[str, Any]:
    """An event so long after the start of the stage."""
    return {"at": WALL_S + second, "event": event, **fields}


ENDED = at(20, "run_ended", verdict="COMPLETE", reasons=[], exit_code=0)
STARTED = (
    at(-2.0, "armed_round", stage=0, round=1, start_controller_ns=70 * SECOND),
    at(-1.0, "commit", stage=0, round=1, start_controller_ns=70 * SECOND),
)


def made(path: Path, agents: list[FakeAgent], *events: dict[str, Any], plan: Plan = PLAN) -> dict[str, Any]:
    """The document of such a run, as a reader has it."""
    write_run(path, agents, *STARTED, *events, plan=plan)
    (path / "controller.json").write_text(json.dumps({"start_delay_s": 2.0}))
    told: dict[str, Any] = json.loads(json.dumps(document(path), allow_nan=False))
    return told


def test_a_run_of_two_agents(tmp_path: Path) -> None:
    agents = [whole("a", 5 * SECOND), whole("b", 900 * SECOND, mean_ns=4e6)]
    told = made(tmp_path / "r", agents, ENDED)
    assert (told["format"], told["version"], told["state"]) == ("sai3ssh.document", 1, "ended")
    assert told["verdict"]["verdict"] == "COMPLETE"
    assert [agent["id"] for agent in told["agents"]] == ["a", "b"]
    (stage,) = told["stages"]
    assert stage["operations"]["get"]["ops"] == 1000
    assert [part["operations"]["get"]["ops"] for part in stage["agents"]] == [500, 500]
    assert stage["slowest"]["agent"] in (0, 1)
    for part in stage["series"]["agents"]:
        assert part["at"] == list(range(10))
        assert part["span_s"] == [1.0] * 10
        assert part["operations"]["get"]["n"] == [50] * 10
        assert part["retried"] == {"http_503": {"row": list(range(10)), "n": [1] * 10}}
        assert part["host"]["cpu_pct"] == [15.0] * 10
        assert part["host"]["sent_bytes"] == [20] * 10
    assert stage["length_s"] == 10.0
    assert stage["shades"] == []


def test_rates_of_a_stage_that_goes_on_are_over_the_time_that_has_passed(tmp_path: Path) -> None:
    """Seconds are told at once, histograms later; what is still to come makes no rate lower."""
    agents = [FakeAgent(name, 5 * SECOND) for name in "ab"]
    for number in range(4):
        for agent in agents:
            agent.second(number, 1e6)
    agents[0].hist(agents[0].take_histogram())
    agents[1].hist(agents[1].take_histogram())
    agents[0].second(4, 1e6)
    (stage,) = made(tmp_path / "r", agents)["stages"]
    assert stage["seconds"] == 5.0
    figures = stage["operations"]["get"]
    assert (figures["ops"], figures["ops_per_s"], figures["mib_per_s"]) == (400, 100.0, 100 * 4096 / (1 << 20))
    assert [part["seconds"] for part in stage["agents"]] == [5.0, 4.0]
    assert [part["operations"]["get"]["ops_per_s"] for part in stage["agents"]] == [50.0, 50.0]
    assert [part["ops_per_s"] for part in stage["sizes"]["get"]] == [100.0]


def test_before_the_first_histogram_rates_are_known_and_latencies_are_not(tmp_path: Path) -> None:
    agent = FakeAgent("a", 5 * SECOND)
    for number in range(3):
        agent.second(number, 1e6)
    (stage,) = made(tmp_path / "r", [agent])["stages"]
    figures = stage["operations"]["get"]
    assert (figures["ops_per_s"], figures["p50_us"], figures["p99_us"], figures["max_us"]) == (50.0, None, None, None)


def test_percentiles_over_time_are_of_the_merged_histogram(tmp_path: Path) -> None:
    agents = [whole("a", 5 * SECOND), whole("b", 900 * SECOND, mean_ns=4e6)]
    (stage,) = made(tmp_path / "r", agents, ENDED)["stages"]
    windows = stage["windows"]
    assert (windows["at"], windows["span_s"]) == ([0], [0.0])  # the fake's clock stands still
    samples = sorted(agents[0].samples + agents[1].samples)
    found = windows["operations"]["get"]
    assert found["n"] == [1000]
    for rank, name in ((0.5, "p50_us"), (0.99, "p99_us")):
        assert found[name][0] == pytest.approx(samples[int(rank * 1000) - 1] / 1000, rel=0.02)
    heat = windows["heat"]["get"]
    assert sum(heat["n"]) == 1000
    below = sum(n for place, n in zip(heat["bin"], heat["n"], strict=True) if heat["edges_us"][place + 1] <= 2000)
    assert below == pytest.approx(sum(sample < 2_000_000 for sample in samples), abs=60)
    curve = stage["percentiles"]["get"]
    assert curve["us"][curve["rank"].index(50.0)] == pytest.approx(found["p50_us"][0], rel=0.001)
    assert (curve["rank"][-1], curve["us"][-1]) == (100.0, pytest.approx(samples[-1] / 1000, rel=0.001))
    assert curve["rank"] == sorted(curve["rank"])


def test_a_broken_link_is_shaded_apart_from_a_lost_agent(tmp_path: Path) -> None:
    lost = FakeAgent("c", 50 * SECOND)
    for number in range(4):
        lost.second(number, 1e6)
    events = (
        at(2.0, "link_down", agent="b", cause="no heartbeat", level="warning"),
        at(5.5, "link_up", agent="b", attempt=3, down_s=3.5, resumed_offset=100),
        at(4.0, "link_down", agent="c", cause="reset", level="warning"),
        at(8.0, "agent_lost", agent="c", error="not reached for 4 s"),
    )
    told = made(tmp_path / "r", [whole("a", 5 * SECOND), whole("b", 9 * SECOND), lost], *events, ENDED)
    (stage,) = told["stages"]
    assert [(one["kind"], one["agent"], one["from_s"], one["to_s"]) for one in stage["shades"]] == [
        ("link_lost", 1, 2.0, 5.5),
        ("agent_lost", 2, 4.0, 10.0),
    ]
    assert [(mark["kind"], mark["agent"], mark["at_s"]) for mark in stage["marks"]] == [("given_up", 2, 8.0)]
    assert told["agents"][2]["lost"]["text"] == "not reached for 4 s"
    assert told["network"][1]["losses"][0]["cause"] == "no heartbeat"


def test_an_agent_that_did_not_measure_for_a_while_and_came_back(tmp_path: Path) -> None:
    agent = FakeAgent("a", 5 * SECOND)
    for number in (0, 1, 2, 6, 7, 8, 9):
        if number == 6:
            agent.lost(3, 6, "the host was restarted")
        agent.second(number, 1e6)
    agent.end()
    agent.final()
    (stage,) = made(tmp_path / "r", [agent], at(2, "link_down", agent="a", cause="reset", level="warning"), ENDED)["stages"]
    shown = [(one["kind"], one["from_s"], one["to_s"]) for one in stage["shades"]]
    assert shown == [("not_measured", 3.0, 6.0), ("link_lost", 2.0, 3.0), ("link_lost", 6.0, 10.0)]


def test_of_a_run_that_goes_on_nothing_is_told_as_lost(tmp_path: Path) -> None:
    agents = [FakeAgent("a", 5 * SECOND), FakeAgent("b", 9 * SECOND)]
    for number in range(4):
        agents[0].second(number, 1e6)
    agents[1].second(0, 1e6)
    stages = (PLAN.stages[0], dataclasses.replace(PLAN.stages[0], name="next"))
    told = made(tmp_path / "r", agents, plan=dataclasses.replace(PLAN, stages=stages))
    assert (told["state"], told["verdict"]) == ("running", None)
    first, later = told["stages"]
    assert (first["shades"], first["length_s"]) == ([], 4.0)
    assert (later["shades"], later["length_s"], later["started_s"], later["windows"]) == ([], 0.0, None, None)


def test_long_stages_have_rows_of_several_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rows, "MOST_ROWS", 4)
    agent = FakeAgent("a", 5 * SECOND)
    for number in range(10):
        agent.second(number, 1e6 * (1 + number), errors={"get": {"http_404": 2}})
    agent.end()
    agent.final()
    (stage,) = made(tmp_path / "r", [agent], ENDED)["stages"]
    series = stage["series"]
    assert series["step_s"] == 5
    (part,) = series["agents"]
    assert (part["at"], part["span_s"], part["operations"]["get"]["n"]) == ([0, 5], [5.0, 5.0], [250, 250])
    assert part["errors"] == {"http_404": {"row": [0, 1], "n": [10, 10]}}


def test_windows_grow_instead_of_becoming_more() -> None:
    stage = StageWindows()
    for number in range(4 * MOST):
        stage.add(Window({"get": Histogram({100 + number % 7: 3})}, from_s=10.0 * number, to_s=10.0 * number + 10.0))
    told = stage.to_json(0)
    assert (told["step_s"], len(told["at"])) == (40, MOST)
    assert set(told["operations"]["get"]["n"]) == {12}
    assert set(told["span_s"]) == {40.0}
    assert sum(told["heat"]["get"]["n"]) == 12 * MOST


def test_bins_of_the_heat_map_are_quarters_of_octaves() -> None:
    edges = [edge_us(number) for number in range(60, 160)]
    assert edges == sorted(edges)
    assert all(1.1 < after / before < 1.26 for before, after in itertools.pairwise(edges))


def never_begun(path: Path) -> dict[str, Any]:
    """The document of a run that failed before anything was done."""
    write_run(path, [whole("a", 5 * SECOND)], at(1, "abort", reason="refused"), ENDED)
    (path / "agents" / "a" / "journal.ndjson").unlink()
    told: dict[str, Any] = json.loads(json.dumps(document(path), allow_nan=False))
    return told


def test_a_run_in_which_nothing_was_done_has_a_document(tmp_path: Path) -> None:
    told = never_begun(tmp_path / "r")
    assert told["verdict"]["verdict"] == "FAILED"
    (stage,) = told["stages"]
    assert (stage["operations"], stage["series"]["agents"], stage["windows"], stage["started_s"]) == ({}, [None], None, None)


def test_lists_of_events_are_told_and_long_texts_cut(tmp_path: Path) -> None:
    events = (at(1, "run_created", agents=["a", "b"]), at(2, "agent_failed", agent="a", error="x" * 2000), ENDED)
    rows = made(tmp_path / "r", [whole("a", 5 * SECOND)], *events)["events"]["rows"]
    assert [row["details"] for row in rows if row["event"] == "run_created"] == ["agents a, b"]
    assert [len(row["details"]) for row in rows if row["event"] == "agent_failed"] == [604]
