"""Runs of several controllers, and segments, as one results directory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sai3ssh import results
from sai3ssh.cli import app
from sai3ssh.errors import ConfigError
from sai3ssh.histogram import Histogram
from sai3ssh.model import Verdict
from sai3ssh.results.runs import read_run
from sai3ssh.results.union import merge_runs

from .test_results import PLAN, SECOND, FakeAgent, whole, write_run


def make(path: Path, *agents: FakeAgent, began: float = 2.0, ended: bool = True, **changes: Any) -> Path:
    plan = dataclasses.replace(PLAN, run_id=path.name, agents=tuple(agent.name for agent in agents), **changes)
    events: list[dict[str, Any]] = [{"at": began, "event": "stage_started", "stage": 0, "name": "mix"}]
    write_run(path, list(agents), *events, *([{"at": 12.0, "event": "run_ended", "verdict": "COMPLETE"}] if ended else []), plan=plan)
    return path


def test_runs_of_different_agents_become_a_run_of_all(tmp_path: Path) -> None:
    agents = [whole("h1", 5 * SECOND, 1e6), whole("h2", 7 * SECOND, 9e6), whole("h3", 9 * SECOND, 2e6)]
    both = [make(tmp_path / "one", agents[0]), make(tmp_path / "two", *agents[1:])]
    found = merge_runs(both, tmp_path / "all")
    figures = found.content["stages"][0]["operations"]["get"]
    samples = Histogram()
    for agent in agents:
        for sample in agent.samples:
            samples.record(sample)
    assert found.verdict is Verdict.COMPLETE
    assert (figures["ops"], figures["ops_per_s"], figures["cells"]) == (1500, 150.0, samples.to_pairs())
    assert figures["latency_us"]["p99"] == samples.percentile(99) / 1000
    assert found.content["agents"] == {"expected": 3, "reported": 3}
    assert found.content["stages"][0]["full_strength"]["seconds"] == 10
    assert found.content["stages"][0]["start_spread_ms"] == 0.0
    # It is a run like any other.
    loaded = results.load(tmp_path / "all")
    assert (loaded.finished, loaded.plan.agents, len(loaded.timeseries)) == (True, ("h1", "h2", "h3"), 30)
    assert read_run(tmp_path / "all").run_id == "all"
    names = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*") if path.is_file()}
    assert {"01_mix_results.tsv", "perf_log.tsv", "STATUS.txt", "results.json", "agents/h3/01_mix_results.tsv"} <= names
    told = json.loads((tmp_path / "all" / "merged.json").read_text())
    assert [run["agents"] for run in told["runs"]] == [["h1"], ["h2", "h3"]]
    assert told["remarks"] == []


def test_what_did_not_happen_at_once_is_said(tmp_path: Path) -> None:
    both = [make(tmp_path / "one", whole("h1", SECOND)), make(tmp_path / "two", whole("h2", SECOND), began=8.0)]
    found = merge_runs(both, tmp_path / "all")
    text = "mix: the merged runs were not at it at the same time (4 s together); rates add up what was not at once"
    assert found.reasons[-1] == text
    assert text in (tmp_path / "all" / "STATUS.txt").read_text()
    assert results.write(tmp_path / "all").reasons == found.reasons


def test_segments_are_what_aggregate_makes_of_them(tmp_path: Path) -> None:
    parts = [make(tmp_path / "one", whole("h1", SECOND)), make(tmp_path / "two", whole("h1", SECOND, 9e6))]
    with pytest.raises(ConfigError, match=r"agents in common: h1. Are they segments.* --segments"):
        merge_runs(parts, tmp_path / "all")
    found = merge_runs(parts, tmp_path / "all", segments=True)
    (stage,) = found.content["stages"]
    assert (stage["seconds"], stage["operations"]["get"]["ops"], stage["operations"]["get"]["ops_per_s"]) == (20.0, 1000, 50.0)
    assert json.loads((tmp_path / "all" / "results.json").read_text())["run_id"] == "all"
    rows = [line.split("\t") for line in (tmp_path / "all" / "01_mix_results.tsv").read_text().splitlines()]
    assert [row[-1] for row in rows if row[0] == "GET"] == ["1000", "1000"]
    assert (tmp_path / "all" / "STATUS.txt").read_text().splitlines()[0] == "COMPLETE"


def test_unlike_runs_are_refused(tmp_path: Path) -> None:
    one = make(tmp_path / "one", whole("h1", SECOND))
    other_plan = make(tmp_path / "plan", whole("h2", SECOND), workers=3)
    other_stage = make(tmp_path / "stage", whole("h3", SECOND), stages=(dataclasses.replace(PLAN.stages[0], name="read"),))
    going_on = make(tmp_path / "on", whole("h4", SECOND), ended=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for paths, out, message in (
        ([one], "all", "two runs at least"),
        ([one, one], "all", "given twice"),
        ([one, other_plan], "all", "differ in workers: .* --allow-different-plans"),
        ([one, other_stage], "all", "have other stages"),
        ([one, going_on], "all", "run on is not over"),
        ([one, tmp_path], "all", "no run directory"),
        ([one, other_plan], "full", "is there already"),
    ):
        with pytest.raises(ConfigError, match=message):
            merge_runs(paths, tmp_path / out)
    assert not (tmp_path / "all").exists()
    assert merge_runs([one, other_plan], tmp_path / "all", allow_different_plans=True).verdict is Verdict.COMPLETE


def test_the_command_shows_the_summary_and_ends_with_the_verdict(tmp_path: Path) -> None:
    failed = FakeAgent("h2", SECOND)
    failed.second(0, 1e6)
    failed.end(outcome="stopped", seconds=1)
    failed.final("stopped", "SIGINT at the controller")
    parts = [make(tmp_path / "one", whole("h1", SECOND)), make(tmp_path / "two", failed)]
    done = CliRunner().invoke(app, ["merge", *map(str, parts), "-o", str(tmp_path / "all")])
    assert done.exit_code == Verdict.PARTIAL.exit_code
    assert "PARTIAL" in done.output
    assert "h2 stopped" in done.output
