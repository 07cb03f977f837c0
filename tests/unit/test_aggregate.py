"""Several runs as one, from journals whose samples are known."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sai3ssh import results
from sai3ssh.errors import ConfigError
from sai3ssh.model import Plan, Verdict
from sai3ssh.results.aggregate import aggregate
from sai3ssh.ui.aggregate import print_aggregate

from .test_results import PLAN, SECOND, STAGE_ENDED, STEADY_STAGE, FakeAgent, steady_agent, whole, write_run

Json = dict[str, Any]


def plan(run_id: str, **changes: Any) -> Plan:
    return dataclasses.replace(PLAN, run_id=run_id, name=f"name of {run_id}", **changes)


def agent(name: str, mean_ns: float, count: int, seed: int, *, seconds: int = 10, tail: int = 0, **more: Any) -> FakeAgent:
    made = FakeAgent(name, 5 * SECOND, seed=seed)
    for number in range(seconds):
        made.second(number, mean_ns, count, **more)
    made.end(tail_ops=tail, tail_bytes=tail * 4096)
    made.final()
    return made


@pytest.fixture
def three(tmp_path: Path) -> tuple[list[Path], list[list[int]]]:
    """Three runs of two agents, unlike in speed and rate, and the samples of each in ns."""
    paths, samples = [], []
    for number, (mean_ns, count, tail) in enumerate([(1e6, 50, 0), (20e6, 20, 30), (2e6, 80, 0)]):
        agents = [agent("h1", mean_ns, count, 10 + number, tail=tail), agent("h2", 3 * mean_ns, count, 20 + number)]
        path = tmp_path / f"run-{number}"
        write_run(path, agents, plan=plan(f"r{number}"))
        paths.append(path)
        samples.append(sorted(sample for one in agents for sample in one.samples))
    return paths, samples


def test_latencies_are_those_of_all_samples_and_rates_of_all_seconds(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, groups = three
    found = aggregate(paths)
    assert found["verdict"] == "COMPLETE"
    assert found["verdicts"] == {"COMPLETE": 3, "PARTIAL": 0, "FAILED": 0}
    (stage,) = found["stages"]
    assert (stage["name"], stage["kind"], stage["runs"], stage["seconds"]) == ("mix", "execute", 3, 30.0)
    figures = stage["operations"]["get"]
    samples = sorted(sample for group in groups for sample in group)
    assert figures["ops"] == len(samples) == 1000 + 400 + 1600
    for name, rank in {"p50": 1500, "p90": 2700, "p95": 2850, "p99": 2970, "p99.9": 2997}.items():
        assert figures["latency_us"][name] == pytest.approx(samples[rank - 1] / 1000, rel=0.008)
    assert figures["latency_us"]["mean"] == pytest.approx(sum(samples) / len(samples) / 1000)
    assert figures["latency_us"]["max"] == samples[-1] / 1000
    averaged = sum(results.read(path).content["stages"][0]["operations"]["get"]["latency_us"]["p99"] for path in paths) / 3
    assert abs(averaged - figures["latency_us"]["p99"]) > 0.05 * figures["latency_us"]["p99"]
    # 30 operations of the second run completed after its end: they count, and make no rate.
    assert figures["tail_ops"] == 30
    assert figures["ops_per_s"] == pytest.approx((3000 - 30) / 30)
    assert figures["mib_per_s"] == pytest.approx((3000 - 30) * 4096 / 30 / (1 << 20))
    assert figures["bytes"] == 3000 * 4096
    # Each second of each agent has one request and one retry more than operations.
    assert (figures["requests"], figures["retries"], figures["retried"]) == (3000 + 60, 60, {"http_503": 60})
    assert figures["buckets"].keys() == {"1"}
    assert figures["buckets"]["1"]["ops"] == 3000
    assert figures["buckets"]["1"]["cells"] == figures["cells"]


def test_the_spread_between_runs(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, groups = three
    spread = aggregate(paths)["stages"][0]["operations"]["get"]["spread"]
    rates = [1000 / 10, (400 - 30) / 10, 1600 / 10]
    p99 = [group[math.ceil(len(group) * 0.99) - 1] / 1000 for group in groups]
    for name, values, rel in (("ops_per_s", rates, 1e-9), ("p99_us", p99, 0.008)):
        mean = sum(values) / 3
        cv = math.sqrt(sum((value - mean) ** 2 for value in values) / 2) / mean
        assert spread[name]["min"] == pytest.approx(min(values), rel=rel)
        assert spread[name]["median"] == pytest.approx(sorted(values)[1], rel=rel)
        assert spread[name]["max"] == pytest.approx(max(values), rel=rel)
        assert spread[name]["cv"] == pytest.approx(cv, rel=3 * rel)


def test_segments_are_the_runs_in_their_order(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, _ = three
    segments = aggregate([paths[2], paths[0]])["segments"]
    assert [segment["run_id"] for segment in segments] == ["r2", "r0"]
    assert segments[0]["path"] == str(paths[2])
    assert segments[0]["stages"][0]["operations"]["get"]["ops"] == 1600
    assert segments[1]["stages"][0]["operations"]["get"]["ops_per_s"] == 100.0
    assert "cells" not in segments[1]["stages"][0]["operations"]["get"]


def test_one_run_is_itself(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, _ = three
    found = aggregate(paths[1:2])
    own = results.read(paths[1]).content["stages"][0]["operations"]["get"]
    merged = found["stages"][0]["operations"]["get"]
    spread = merged.pop("spread")
    assert merged == own
    assert spread["ops_per_s"] == {"min": 37.0, "median": 37.0, "max": 37.0, "cv": None}
    assert found["coverage"] == 1.0


def test_the_order_of_runs_changes_no_figure(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, _ = three
    assert aggregate(paths)["stages"] == aggregate(paths[::-1])["stages"]


def test_results_that_are_not_there_yet_are_made(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, _ = three
    before = aggregate(paths)
    (paths[1] / "results.json").unlink()
    with (paths[1] / "events.ndjson").open("a") as log:
        log.write('{"at": 20.0, "event": "run_ended"}\n')
    assert aggregate(paths) == before
    assert (paths[1] / "results.json").exists()


def partial_run(path: Path, run_id: str) -> Path:
    """Two agents; the last four seconds of the second one were not measured."""
    short = agent("h2", 1e6, 50, 4, seconds=6)
    assert write_run(path, [agent("h1", 1e6, 50, 3), short], plan=plan(run_id)).verdict is Verdict.PARTIAL
    return path


def failed_run(path: Path, run_id: str) -> Path:
    """One agent failed after seven seconds, and the other one was stopped after five."""
    agents = []
    for name, seconds, outcome, reason in (("h1", 5, "stopped", "h2: disk full"), ("h2", 7, "failed", "disk full")):
        made = FakeAgent(name, 5 * SECOND, seed=7)
        for number in range(seconds):
            made.second(number, 500e6)
        made.end(outcome)
        made.final(outcome, reason)
        agents.append(made)
    abort = {"at": 8.0, "event": "abort", "reason": "h2: disk full"}
    assert write_run(path, agents, abort, plan=plan(run_id)).verdict is Verdict.FAILED
    return path


def test_a_failed_run_is_named_and_in_no_figure(three: tuple[list[Path], list[list[int]]], tmp_path: Path) -> None:
    paths, _ = three
    failed = failed_run(tmp_path / "bad", "r-bad")
    found = aggregate([paths[0], failed, paths[2]])
    assert found["verdict"] == "PARTIAL"
    assert found["reasons"] == ["r-bad FAILED and is not in the figures: " + "; ".join(results.read(failed).reasons)]
    assert found["stages"] == aggregate([paths[0], paths[2]])["stages"]
    assert found["runs"] == {"given": 3, "in_figures": 2}
    assert found["verdicts"] == {"COMPLETE": 2, "PARTIAL": 0, "FAILED": 1}
    assert [segment["in_figures"] for segment in found["segments"]] == [True, False, True]
    # Each run was to measure 2 agents for 10 s.
    assert found["coverage"] == pytest.approx(40 / 60)


def test_a_partial_run_counts_and_is_told(three: tuple[list[Path], list[list[int]]], tmp_path: Path) -> None:
    paths, _ = three
    found = aggregate([paths[0], partial_run(tmp_path / "part", "r-part")])
    assert found["verdict"] == "PARTIAL"
    assert found["reasons"][0].startswith("r-part is PARTIAL: coverage 80.00 %")
    assert found["stages"][0]["operations"]["get"]["ops"] == 1000 + 800
    assert found["coverage"] == pytest.approx((20 + 16) / 40)


def test_runs_that_all_failed_have_no_figures(tmp_path: Path) -> None:
    found = aggregate([failed_run(tmp_path / "a", "a"), failed_run(tmp_path / "b", "b")])
    assert (found["verdict"], found["stages"], found["coverage"]) == ("FAILED", [], 0.0)


def test_coverage_is_weighted_by_planned_time(tmp_path: Path) -> None:
    """10 of 10 s by one agent, and 16 of 20 s by two: 26 of 30, not the mean of 100 % and 80 %."""
    write_run(tmp_path / "one", [agent("h1", 1e6, 50, 3)], plan=plan("one"))
    found = aggregate([tmp_path / "one", partial_run(tmp_path / "part", "part")], allow_different_plans=True)
    assert found["coverage"] == pytest.approx(26 / 30)
    assert found["agents"] is None
    assert found["plan_differences"] == ["runs one and part differ in number of agents: 1 and 2"]


def test_what_a_steady_stage_was_to_take_is_what_it_took(tmp_path: Path) -> None:
    """Of 12 s that both agents had, and of 10 s one had 9: 33 of 34, and not of the 100 s that are the upper limit."""
    late = FakeAgent("h1", 5 * SECOND)
    for number in range(9):
        late.second(number, 1e6)
    late.ending(10, 10)
    late.end()
    late.final()
    for name, agents in (("one", [steady_agent("h1", 12), steady_agent("h2", 12)]), ("two", [late])):
        write_run(tmp_path / name, agents, STAGE_ENDED, plan=plan(name, stages=(STEADY_STAGE,)))
    found = aggregate([tmp_path / "one", tmp_path / "two"], allow_different_plans=True)
    assert found["coverage"] == pytest.approx(33 / 34)
    assert found["stages"][0]["seconds"] == 22.0


def test_other_plans_are_refused_and_the_difference_named(three: tuple[list[Path], list[list[int]]], tmp_path: Path) -> None:
    paths, _ = three
    stage = dataclasses.replace(PLAN.stages[0], concurrency=8, duration_s=20.0)
    other = tmp_path / "other"
    write_run(other, [whole("h1", 5), whole("h2", 5)], plan=plan("r-other", stages=(stage,), seed=3))
    with pytest.raises(ConfigError) as caught:
        aggregate([*paths, other])
    assert caught.value.message == (
        "runs r0 and r-other differ in seed: 0 and 3; stages[0].concurrency: 4 and 8; stages[0].duration_s: 10.0 and 20.0"
    )
    assert caught.value.remedy is not None
    assert "--allow-different-plans" in caught.value.remedy
    found = aggregate([*paths, other], allow_different_plans=True)
    assert found["plan_differences"] == [caught.value.message]
    assert found["stages"][0]["seconds"] == 30.0 + 20.0
    assert found["stages"][0]["operations"]["get"]["ops"] == 3000 + 1000


def test_another_number_of_agents_or_stages_is_refused(three: tuple[list[Path], list[list[int]]], tmp_path: Path) -> None:
    paths, _ = three
    write_run(tmp_path / "small", [whole("h1", 5)], plan=plan("small"))
    with pytest.raises(ConfigError, match="runs r0 and small differ in number of agents: 2 and 1"):
        aggregate([paths[0], tmp_path / "small"])
    write_run(tmp_path / "longer", [whole("h1", 5), whole("h2", 5)], plan=plan("longer", stages=PLAN.stages * 2))
    with pytest.raises(ConfigError, match="runs r0 and longer differ in stages: 1 and 2 entries"):
        aggregate([paths[0], tmp_path / "longer"])


def test_many_differences_are_counted(three: tuple[list[Path], list[list[int]]], tmp_path: Path) -> None:
    paths, _ = three
    changed = plan("r-far", seed=1, workers=2, heartbeat_s=2.0, agent_barrier_timeout_s=1.0, target_outage_timeout_s=2.0)
    write_run(tmp_path / "far", [whole("h1", 5), whole("h2", 5)], plan=changed)
    with pytest.raises(ConfigError, match=r"heartbeat_s: 1\.0 and 2\.0; seed: 0 and 1 and 2 more"):
        aggregate([paths[0], tmp_path / "far"])


def test_a_plan_of_an_older_version_has_the_defaults(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, _ = three
    content = json.loads((paths[1] / "plan.json").read_text())
    del content["policy"], content["lease_s"]
    (paths[1] / "plan.json").write_text(json.dumps(content))
    assert aggregate(paths)["plan_differences"] == []


def test_a_run_counts_once(three: tuple[list[Path], list[list[int]]], tmp_path: Path) -> None:
    paths, _ = three
    shutil.copytree(paths[0], tmp_path / "copy")
    with pytest.raises(ConfigError, match="run r0 is given twice"):
        aggregate([paths[0], paths[1], tmp_path / "copy"], allow_different_plans=True)


def test_what_is_no_run_is_refused(three: tuple[list[Path], list[list[int]]], tmp_path: Path) -> None:
    paths, _ = three
    with pytest.raises(ConfigError, match="no runs given"):
        aggregate([])
    with pytest.raises(ConfigError, match=r"is no run directory: it has no plan\.json"):
        aggregate([paths[0], tmp_path])
    (paths[1] / "hosts.json").write_text("{")
    with pytest.raises(ConfigError, match="run-1 cannot be read: JSONDecodeError"):
        aggregate(paths)


def test_an_operation_that_a_run_did_not_do_counts_as_none(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, _ = three
    content = json.loads((paths[1] / "results.json").read_text())
    content["stages"][0]["operations"]["put"] = content["stages"][0]["operations"].pop("get")
    (paths[1] / "results.json").write_text(json.dumps(content))
    get = aggregate(paths)["stages"][0]["operations"]["get"]
    assert get["ops_per_s"] == pytest.approx(2600 / 30)
    assert (get["spread"]["ops_per_s"]["min"], get["spread"]["ops_per_s"]["median"]) == (0.0, 100.0)
    own = [results.read(paths[n]).content["stages"][0]["operations"]["get"]["latency_us"]["p99"] for n in (0, 2)]
    assert get["spread"]["p99_us"]["min"] == min(own)
    assert get["spread"]["p99_us"]["median"] == sum(own) / 2


def test_a_stage_that_a_run_did_not_get_to_is_not_its(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, _ = three
    content = json.loads((paths[0] / "results.json").read_text())
    # As results.json has it: no time, less the warm-up that did not take place.
    content["stages"][0].update(seconds=-3.0, warmup_s=3.0, operations={})
    (paths[0] / "results.json").write_text(json.dumps(content))
    (stage,) = aggregate(paths)["stages"]
    assert (stage["runs"], stage["seconds"]) == (2, 20.0)


def test_stages_of_the_same_name_stay_apart(three: tuple[list[Path], list[list[int]]]) -> None:
    paths, _ = three
    for path in paths[:2]:
        for file in (path / "results.json", path / "plan.json"):
            content = json.loads(file.read_text())
            content["stages"] *= 2
            file.write_text(json.dumps(content))
    stages = aggregate(paths[:2])["stages"]
    assert [(stage["name"], stage["runs"], stage["operations"]["get"]["ops"]) for stage in stages] == [
        ("mix", 2, 1400),
        ("mix (2)", 2, 1400),
    ]


@pytest.mark.parametrize("width", [100, 140])
def test_it_is_printed(three: tuple[list[Path], list[list[int]]], tmp_path: Path, width: int) -> None:
    paths, _ = three
    out = io.StringIO()
    print_aggregate(aggregate([*paths, failed_run(tmp_path / "bad", "r-bad")]), Console(file=out, width=width))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[1] == "PARTIAL  3 of 4 runs in the figures (3 COMPLETE, 1 FAILED), coverage 75.00 %"
    assert lines[2].startswith("  r-bad FAILED and is not in the figures: aborted: h2: disk full")
    rows = [line.split() for line in lines if line.startswith("mix")]
    assert rows[0][:4] == ["mix", "get", "3,000", "99"]
    assert rows[1][:6] == ["mix", "get", "3", "37", "100", "160"]
    assert rows[1][6] == f"{100 * math.sqrt(((100 - 99) ** 2 + (37 - 99) ** 2 + (160 - 99) ** 2) / 2) / 99:.1f}"
    assert any(line.split()[:3] == ["r-bad", "FAILED,", "left"] for line in lines)
    assert all(len(line) <= width for line in lines[3:])


def test_no_figure_is_cut_off_on_a_narrow_terminal(three: tuple[list[Path], list[list[int]]]) -> None:
    out = io.StringIO()
    print_aggregate(aggregate(three[0]), Console(file=out, width=50))
    assert "\u2026" not in out.getvalue()
