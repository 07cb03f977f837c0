"""Results from journals whose content is known."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sai3ssh import compact, results
from sai3ssh.histogram import Histogram
from sai3ssh.model import (
    Assignment,
    OperationSpec,
    Outcome,
    Plan,
    Population,
    SizeSpec,
    Stage,
    StageKind,
    Steady,
    Target,
    Verdict,
    to_json,
)
from sai3ssh.protocol import encode_record
from sai3ssh.results.tables import PERF_COLUMNS, RESULT_COLUMNS
from sai3ssh.results.verdict import AgentFacts, judge
from sai3ssh.ui.summary import print_summary

SECOND = 1_000_000_000
SIZE = SizeSpec("fixed", 4096, 4096)
PLAN = Plan(
    "r1",
    "test",
    Target("s3", "http://127.0.0.1:1"),
    (Population("prepared", "s3://b/p/", "o-%d", 9, SIZE, 7),),
    (Stage("mix", StageKind.EXECUTE, 4, 10.0, operations=(OperationSpec("get", 1, "s3://b/p/", "prepared"),)),),
)
FIGURES = {"after_s": 8, "window_s": 5, "metric": "ops", "mean": 100.0, "slope": 0.0041, "spread": 0.0187}
HOST = {"cpu": [10.0, 5.0, 1.0, 0.0], "mem_used_bytes": 1000, "net": [10, 20], "disk": [30, 40]}


class FakeAgent:
    """Writes one agent's journal, a second at a time."""

    def __init__(self, name: str, boot_ns: int, seed: int = 1) -> None:
        self.name = name
        self.start_ns = boot_ns
        self._rng = random.Random(seed)
        self._records: list[dict[str, Any]] = []
        self.samples: list[int] = []
        self._histogram = Histogram()
        self.ops = 0
        self.add("epoch", epoch="e-" + name, host={"name": name, "cores": 2, "memory_bytes": 1, "kernel": "k", "python": "3.11"})
        self.add(
            "stage_start",
            stage=0,
            name="mix",
            stage_kind="execute",
            round=1,
            start_clock_ns=boot_ns,
            actual_clock_ns=boot_ns + 1000,
            late_ns=1000,
        )

    def add(self, kind: str, **fields: Any) -> None:
        if kind == "hist":
            fields = compact.pack(fields)
        head = {"seq": len(self._records), "boot": "b", "clock_ns": self.start_ns, "wall_ns": 1_700_000_000 * SECOND, "kind": kind}
        self._records.append({**head, **fields})

    def second(self, number: int, mean_ns: float, count: int = 50, warmup: bool = False, **more: Any) -> None:
        histogram = Histogram()
        for _ in range(count):
            value = int(self._rng.expovariate(1 / mean_ns)) + 2000
            histogram.record(value)
            if not warmup:
                self.samples.append(value)
        if warmup:
            self.hist(histogram, True)
        else:
            self._histogram.merge(histogram)
            self.ops += count
        p50, p90, p99 = (round(v / 1000, 1) for v in histogram.percentiles([50, 90, 99]))
        figures = [count, count * 4096, histogram.sum_ns, p50, p90, p99, round(histogram.max_ns / 1000, 1)]
        start = self.start_ns + number * SECOND
        counts = {"requests": {"get": count + 1}, "retries": {"get": 1}, "retried": {"get": {"http_503": 1}}, "errors": {}}
        fields = {"host": HOST, **counts, **more}
        self.add(
            "sec", stage=0, second=number, from_clock_ns=start, to_clock_ns=start + SECOND, warmup=warmup, done=0, ops={"get": figures},
            **fields,
        )  # fmt: skip

    def lost(self, first: int, end: int, cause: str) -> None:
        """From second `first` to `end` nothing was measured, and nothing was counted."""
        span = {"from_clock_ns": self.start_ns + first * SECOND, "to_clock_ns": self.start_ns + end * SECOND}
        counts: dict[str, Any] = {"ops": {}, "requests": {}, "retries": {}, "retried": {}, "errors": {}}
        self.add("lost", stage=0, warmup=False, cause=cause, **span, **counts)

    def hist(self, histogram: Histogram, warmup: bool = False, **more: Any) -> None:
        part = {"cells": histogram.to_pairs(), "sum_ns": histogram.sum_ns, "max_ns": histogram.max_ns, "bytes": 4096 * histogram.count}
        cells = {**part, "tail_ops": 0, "tail_bytes": 0, **more}
        self.add("hist", stage=0, warmup=warmup, hist={"get": {"1": cells}})

    def take_histogram(self) -> Histogram:
        """What was measured since the last call."""
        taken, self._histogram = self._histogram, Histogram()
        return taken

    def ending(self, duration_s: int, lasts_s: int) -> None:
        """It has been told that the stage ends before its planned end."""
        spans = {"duration_ns": duration_s * SECOND, "lasts_ns": lasts_s * SECOND}
        self.add("ending", stage=0, round=1, figures=FIGURES, **spans)

    def end(
        self, outcome: str = "finished", totals_off_by: int = 0, seconds: int = 10, error: dict[str, Any] | None = None, **tail: int
    ) -> None:
        self.hist(self._histogram, **tail)
        end_ns = self.start_ns + seconds * SECOND
        totals = {"get": {"ops": self.ops + totals_off_by, "bytes": 0, "requests": 0, "retries": 0, "errors": {}}}
        self.add(
            "stage_end", stage=0, name="mix", outcome=outcome, start_clock_ns=self.start_ns, end_clock_ns=end_ns, drained_clock_ns=end_ns,
            totals=totals, made={"puts": [], "deleted": {}}, **({} if error is None else {"error": error}),
        )  # fmt: skip

    def final(self, outcome: str = "finished", reason: str = "all stages ended") -> None:
        self.add("final", outcome=outcome, reason=reason, error=None)

    def bytes(self) -> bytes:
        return b"".join(encode_record(record) for record in self._records)


def whole(name: str, boot_ns: int, mean_ns: float = 1e6, seconds: int = 10, **options: Any) -> FakeAgent:
    agent = FakeAgent(name, boot_ns, seed=hash(name) % 1000)
    for number in range(seconds):
        agent.second(number, mean_ns)
    agent.end(**options)
    agent.final()
    return agent


def write_run(path: Path, agents: list[FakeAgent], *events: dict[str, Any], complete: bool = True, plan: Plan = PLAN) -> results.Results:
    """A run directory as a controller leaves it."""
    path.mkdir()
    (path / "plan.json").write_text(json.dumps(to_json(plan)))
    hosts = [{**to_json(Assignment(a.name, n, len(agents), {"prepared": ((0, 9),)})), "host": a.name} for n, a in enumerate(agents)]
    (path / "hosts.json").write_text(json.dumps({"agents": hosts}))
    log = [{"at": 1.0, "event": "clock", "agent": a.name, "offset_ns": a.start_ns, "error_ns": 10, "boot": "b"} for a in agents]
    log += [{"at": 2.0, "event": "commit", "stage": 0, "round": 1}, *events]
    log += [{"at": 9.0, "event": "journal_complete", "agent": a.name} for a in agents if complete]
    (path / "events.ndjson").write_text("".join(json.dumps(event) + "\n" for event in log))
    for agent in agents:
        (path / "agents" / agent.name).mkdir(parents=True)
        (path / "agents" / agent.name / "journal.ndjson").write_bytes(agent.bytes())
    return results.write(path)


def loaded(name: str, *loads: dict[str, Any], nic_bytes_per_s: int | None = None) -> FakeAgent:
    """An agent whose host was loaded like that, a second each."""
    agent = FakeAgent(name, SECOND)
    agent._records[0]["host"]["nic_bytes_per_s"] = nic_bytes_per_s
    for number, load in enumerate(loads):
        agent.second(number, 1e6, host={**HOST, **load})
    agent.end()
    agent.final()
    return agent


FULL = {"worker_cpu": 98.2}
LIMITS: dict[str, tuple[list[dict[str, Any]], int | None, list[dict[str, Any]]]] = {
    "idle": ([{}] * 10, 1250, []),
    "a worker's core": ([FULL] * 5 + [{}] * 5, None, [{"limit": "cpu", "seconds": 5, "of": 10, "worst": 98.2}]),
    "a worker's core, at times": ([FULL] * 4 + [{}] * 6, None, []),
    "all cores, what others take included": (
        [{"cpu": [60.0, 20.0, 0.0, 17.0], "worker_cpu": 40.0}] * 10,
        None,
        [{"limit": "cpu", "seconds": 10, "of": 10, "worst": 97.0}],
    ),
    "more than a core, for threads": ([{"worker_cpu": 180.0}] * 10, None, []),
    "a short stage": ([FULL] * 2, None, []),
    "waiting for the disk is no work": ([{"cpu": [10.0, 5.0, 85.0, 0.0]}] * 10, None, []),
    "the network": ([{"net": [10, 1200]}] * 9 + [{}], 1250, [{"limit": "nic", "seconds": 9, "of": 10, "worst": 96.0}]),
    "a network of unknown speed": ([{"net": [10, 1200]}] * 10, None, []),
    "a client that stood still once": (
        [{}] * 9 + [{"late_ms": 2987.3}],
        None,
        [{"limit": "late", "seconds": 1, "of": 10, "worst": 2987.3}],
    ),
    "a client that was late by a little": ([{"late_ms": 30.0}] * 10, None, []),
}


@pytest.mark.parametrize("name", LIMITS)
def test_what_limited_a_client_is_told(name: str, tmp_path: Path) -> None:
    loads, nic, expected = LIMITS[name]
    plan = dataclasses.replace(PLAN, target=Target("file")) if "threads" in name else PLAN
    content = write_run(tmp_path / "r", [loaded("h1", *loads, nic_bytes_per_s=nic)], plan=plan).content
    assert content["stages"][0]["agents"]["h1"]["limits"] == expected


def test_a_bound_client_is_named_wherever_the_figures_are(tmp_path: Path) -> None:
    stalled = loaded("h3", *[{}] * 9, {"late_ms": 3012.0})
    written = write_run(tmp_path / "r", [loaded("h1", *[FULL] * 10), loaded("h2", *[{"worker_cpu": 99.6}] * 10), stalled])
    busy = "a worker's core or all cores were 100 % busy in 10 of 10 s; this is what the clients can do, not the storage"
    lines = [
        f"client-bound mix: h2 and 1 more: {busy}",
        "client-bound mix: h3: its load loop came up to 3,012 ms late in 1 of 10 s; latencies of that time are the clients'",
    ]
    out = io.StringIO()
    print_summary(results.summary(written), tmp_path, Console(file=out, width=100))
    for text in (out.getvalue(), (tmp_path / "r/STATUS.txt").read_text(), (tmp_path / "r/01_mix_results.tsv").read_text()):
        assert all(line in text for line in lines)
    hosts = results.load(tmp_path / "r").hosts
    assert hosts.groupby("agent")["worker_cpu_pct"].max().to_dict()["h2"] == 99.6
    assert hosts[hosts["agent"] == "h3"]["late_ms"].tolist() == [0.0] * 9 + [3012.0]


def test_no_figure_is_cut_off_on_a_narrow_terminal(tmp_path: Path) -> None:
    agent = FakeAgent("h1", SECOND)
    for number in range(10):
        agent.second(number, 1e6, errors={"get": {"http_503": 1234, "timeout_first_byte": 5678}})
    agent.end()
    agent.final()
    out = io.StringIO()
    print_summary(results.summary(write_run(tmp_path / "r", [agent])), tmp_path, Console(file=out, width=40))
    assert "12340 http_503, 56780 timeout_first_byte (10 retries)" in out.getvalue()
    assert "…" not in out.getvalue()


def test_percentiles_are_those_of_all_samples_and_not_an_average(tmp_path: Path) -> None:
    fast, slow = whole("h1", 5 * SECOND, 1e6), whole("h2", 900 * SECOND, 50e6)
    written = write_run(tmp_path / "run", [fast, slow])
    assert written.verdict is Verdict.COMPLETE
    figures = written.content["stages"][0]["operations"]["get"]
    samples = sorted(fast.samples + slow.samples)
    assert figures["ops"] == len(samples) == 1000
    for name, rank in {"p50": 0.5, "p90": 0.9, "p99": 0.99}.items():
        exact = samples[int(len(samples) * rank) - 1] / 1000
        assert figures["latency_us"][name] == pytest.approx(exact, rel=0.008)
    assert figures["latency_us"]["mean"] == pytest.approx(sum(samples) / len(samples) / 1000)
    assert figures["latency_us"]["max"] == samples[-1] / 1000
    parts = [written.content["stages"][0]["agents"][name]["operations"]["get"]["latency_us"]["p50"] for name in ("h1", "h2")]
    assert abs(sum(parts) / 2 - figures["latency_us"]["p50"]) > 5 * 1000
    assert figures["ops_per_s"] == 100.0
    assert figures["mib_per_s"] == pytest.approx(100 * 4096 / (1 << 20))
    assert (figures["requests"], figures["retries"], figures["retried"]) == (1020, 20, {"http_503": 20})


@given(st.lists(st.lists(st.integers(0, 10**13), max_size=40), min_size=1, max_size=6), st.randoms())
def test_merging_is_the_same_in_any_order(groups: list[list[int]], rng: random.Random) -> None:
    whole_one = Histogram()
    parts = []
    for group in groups:
        part = Histogram()
        for value in group:
            part.record(value)
            whole_one.record(value)
        parts.append(part)
    rng.shuffle(parts)
    merged = Histogram()
    for part in parts:
        merged.merge(Histogram.from_pairs(part.to_pairs(), sum_ns=part.sum_ns, max_ns=part.max_ns))
    assert (merged.cells, merged.sum_ns, merged.max_ns) == (whole_one.cells, whole_one.sum_ns, whole_one.max_ns)


def test_start_spread_is_in_the_controllers_clock(tmp_path: Path) -> None:
    early, late = whole("h1", 5 * SECOND), FakeAgent("h2", 700 * SECOND)
    late._records[-1]["actual_clock_ns"] = late.start_ns + 4_001_000
    for number in range(10):
        late.second(number, 1e6)
    late.end()
    late.final()
    stage = write_run(tmp_path / "run", [early, late]).content["stages"][0]
    assert stage["start_spread_ms"] == pytest.approx(4.0)
    assert stage["full_strength"] == {"seconds": 10, "ops_per_s": {"get": 100.0}}


def test_what_drains_after_the_end_counts_but_makes_no_rate(tmp_path: Path) -> None:
    written = write_run(tmp_path / "run", [whole("h1", 5, tail_ops=100, tail_bytes=100 * 4096)])
    figures = written.content["stages"][0]["operations"]["get"]
    assert (figures["ops"], figures["tail_ops"], figures["ops_per_s"]) == (500, 100, 40.0)
    assert figures["mib_per_s"] == pytest.approx(40 * 4096 / (1 << 20))


def test_warmup_is_not_in_the_results(tmp_path: Path) -> None:
    stage = Stage("mix", StageKind.EXECUTE, 4, 10.0, 3.0, PLAN.stages[0].operations)
    plan = Plan(PLAN.run_id, PLAN.name, PLAN.target, PLAN.populations, (stage,))
    agent = FakeAgent("h1", 5 * SECOND)
    for number in range(10):
        agent.second(number, 900e6 if number < 3 else 1e6, warmup=number < 3)
    agent.end()
    agent.final()
    written = write_run(tmp_path / "run", [agent], plan=plan)
    figures = written.content["stages"][0]["operations"]["get"]
    assert figures["ops"] == 350
    assert figures["ops_per_s"] == 50.0
    assert figures["latency_us"]["max"] < 100_000
    assert written.verdict is Verdict.COMPLETE
    flags = [line.split("\t")[-1].strip() for line in (tmp_path / "run" / "perf_log.tsv").read_text().splitlines() if line.startswith("h1")]
    assert flags == ["1"] * 3 + ["0"] * 7


STEADY_STAGE = dataclasses.replace(PLAN.stages[0], duration_s=100.0, steady=Steady(5.0, min_duration_s=5.0))
STEADY_PLAN = dataclasses.replace(PLAN, stages=(STEADY_STAGE,))
STAGE_ENDED = {"at": 3.0, "event": "stage_ended", "stage": 0, "name": "mix"}


def steady_agent(name: str, lasts_s: int, *, told: bool = True, count: int = 50) -> FakeAgent:
    """It ran for so long; that all were to end after 10 s it knew then, or never."""
    agent = FakeAgent(name, 5 * SECOND, seed=lasts_s)
    for number in range(lasts_s):
        agent.second(number, 1e6, count=count)
    if told:
        agent.ending(10, lasts_s)
    agent.end(seconds=lasts_s)
    agent.final()
    return agent


def test_a_stage_that_was_ended_because_it_was_steady_is_complete_and_says_so(tmp_path: Path) -> None:
    written = write_run(tmp_path / "run", [steady_agent("h1", 10), steady_agent("h2", 10)], STAGE_ENDED, plan=STEADY_PLAN)
    line = "mix: steady after 8 s (slope 0.4 %, spread 1.9 % over 5 s)"
    assert (written.verdict, written.content["coverage"]) == (Verdict.COMPLETE, 1.0)
    assert written.reasons == ("all agents finished, all journals are whole, every planned second was measured", line)
    stage = written.content["stages"][0]
    assert stage["steady"] == {"reached": True, "ended": True, "duration_s": 10.0, "figures": FIGURES}
    assert (stage["seconds"], stage["operations"]["get"]["ops_per_s"]) == (10.0, 100.0)
    for name in ("STATUS.txt", "01_mix_results.tsv", "perf_log.tsv"):
        assert f"# {line}" in (tmp_path / "run" / name).read_text().splitlines()
    assert f"  {line}" in on_terminal(tmp_path / "run")


def test_of_an_agent_that_learnt_too_late_of_the_end_only_the_common_time_makes_rates(tmp_path: Path) -> None:
    agents = [steady_agent("h1", 10), steady_agent("h2", 14), steady_agent("h3", 100, told=False, count=1)]
    written = write_run(tmp_path / "run", agents, STAGE_ENDED, plan=STEADY_PLAN)
    assert (written.verdict, written.content["coverage"]) == (Verdict.COMPLETE, 1.0)
    stage = written.content["stages"][0]
    assert stage["seconds"] == 10.0
    assert {name: part["operations"]["get"]["ops_per_s"] for name, part in stage["agents"].items()} == {"h1": 50.0, "h2": 50.0, "h3": 1.0}
    figures = stage["operations"]["get"]
    # All that was done is counted.
    assert (figures["ops"], figures["tail_ops"], figures["tail_bytes"]) == (500 + 700 + 100, 200 + 90, 4096 * 290)
    assert figures["ops_per_s"] == pytest.approx(101.0)
    assert figures["mib_per_s"] == pytest.approx(101.0 * 4096 / (1 << 20))
    assert figures["buckets"]["1"]["ops_per_s"] == pytest.approx(101.0)


def test_when_all_learnt_too_late_the_time_that_all_had_is_the_common_one(tmp_path: Path) -> None:
    written = write_run(tmp_path / "run", [steady_agent("h1", 12), steady_agent("h2", 14)], STAGE_ENDED, plan=STEADY_PLAN)
    assert (written.verdict, written.content["stages"][0]["seconds"]) == (Verdict.COMPLETE, 12.0)
    assert written.content["stages"][0]["operations"]["get"]["ops_per_s"] == pytest.approx(100.0)


def test_what_an_agent_lost_before_the_common_end_is_missing(tmp_path: Path) -> None:
    other = FakeAgent("h2", 5 * SECOND)
    for number in (0, 1, 2, 3, 12):
        other.second(number, 1e6)
    other.lost(4, 12, "the supervisor died")
    other.ending(10, 13)
    other.end(seconds=13)
    other.final()
    written = write_run(tmp_path / "run", [steady_agent("h1", 10), other], STAGE_ENDED, plan=STEADY_PLAN)
    assert (written.verdict, written.content["coverage"]) == (Verdict.PARTIAL, pytest.approx(0.7))
    (lost,) = written.content["lost_intervals_s"]["h2"]
    assert (lost["from_s"], lost["to_s"]) == (4.0, 10.0)
    assert written.content["stages"][0]["agents"]["h2"]["operations"]["get"]["ops_per_s"] == 20.0


def test_a_stage_that_was_not_steady_says_so_and_is_complete(tmp_path: Path) -> None:
    agents = [steady_agent("h1", 100, told=False)]
    missed = {"at": 3.0, "event": "not_steady", "stage": 0, "name": "mix", "figures": {**FIGURES, "slope": -0.3}}
    written = write_run(tmp_path / "run", agents, missed, STAGE_ENDED, plan=STEADY_PLAN)
    assert written.verdict is Verdict.COMPLETE
    assert written.reasons[1] == "mix: not steady within its duration (the last window: slope -30.0 %, spread 1.9 % over 5 s)"
    assert written.content["stages"][0]["seconds"] == 100.0
    # Of a stage that did not get to its end nothing is said.
    aborted = write_run(tmp_path / "aborted", agents, plan=STEADY_PLAN)
    assert len(aborted.reasons) == 1


def test_counts_that_disagree_are_found(tmp_path: Path) -> None:
    written = write_run(tmp_path / "run", [whole("h1", 5), whole("h2", 5, totals_off_by=1)])
    assert written.verdict is Verdict.PARTIAL
    assert written.reasons == ("h2: stage 0, get: counts disagree (totals 501, seconds 500, histograms 500)",)


def test_a_lost_second_is_found_and_placed(tmp_path: Path) -> None:
    agent = FakeAgent("h1", 5 * SECOND)
    for number in (0, 1, 2, 5, 6, 7, 8, 9):
        agent.second(number, 1e6)
    agent.end()
    agent.final()
    written = write_run(tmp_path / "run", [agent, whole("h2", 5)])
    assert written.verdict is Verdict.PARTIAL
    assert written.content["coverage"] == pytest.approx(0.9)
    assert written.content["lost_intervals_s"] == {"h1": [{"stage": 0, "from_s": 3.0, "to_s": 5.0}]}
    assert written.content["stages"][0]["full_strength"]["seconds"] == 8
    assert "coverage 90.00 %" in written.reasons[0]


def damaged(path: Path, plan: Plan = PLAN) -> results.Results:
    """h1 measured nothing from 3.0 to 5.0 s of 10 and says why; h2 measured it all, and makes 40 operations in each second, not 50."""
    agent, other = FakeAgent("h1", 5 * SECOND), FakeAgent("h2", 900 * SECOND)
    for number in range(10):
        if number not in (3, 4):
            agent.second(number, 1e6)
        other.second(number, 1e6, count=40)
    agent.lost(3, 5, "the supervisor died")
    for one in (agent, other):
        one.end()
        one.final()
    return write_run(path, [agent, other], plan=plan)


VERDICT = "# verdict PARTIAL; 2 of 2 agents; coverage 90.00 %"
REASON = "coverage 90.00 % of the planned agent-seconds (at least 100 % is needed)"
LOST = "lost h1: mix 3.0 to 5.0 s (the supervisor died)"
FULL_STRENGTH = "full strength mix: 8 of 10 s, get 90.0 ops/s"


def test_results_json_tells_what_was_lost(tmp_path: Path) -> None:
    damaged(tmp_path / "run")
    content = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (content["verdict"], content["reasons"]) == ("PARTIAL", [REASON])
    assert content["agents"] == {"expected": 2, "reported": 2}
    assert (content["coverage"], content["min_coverage"]) == (pytest.approx(0.9), 1.0)
    assert content["lost_intervals_s"] == {"h1": [{"stage": 0, "from_s": 3.0, "to_s": 5.0, "cause": "the supervisor died"}]}
    assert content["stages"][0]["full_strength"] == {"seconds": 8, "ops_per_s": {"get": 90.0}}


@pytest.mark.parametrize(
    "name", ["01_mix_results.tsv", "perf_log.tsv", "agents/h1/01_mix_results.tsv", "agents/h2/01_mix_results.tsv", "STATUS.txt"]
)
def test_every_text_tells_what_was_lost(name: str, tmp_path: Path) -> None:
    damaged(tmp_path / "run")
    lines = (tmp_path / "run" / name).read_text().splitlines()
    assert lines[0] == "PARTIAL" or name != "STATUS.txt"
    comments = [line for line in lines if line.startswith("#")]
    assert comments == ["# sai3ssh run r1", VERDICT, f"# {REASON}", f"# {LOST}", f"# {FULL_STRENGTH}"]


def on_terminal(run: Path) -> list[str]:
    output = io.StringIO()
    print_summary(results.summary(results.read(run)), run, Console(file=output, width=80))
    return output.getvalue().splitlines()


def test_the_terminal_tells_what_was_lost(tmp_path: Path) -> None:
    damaged(tmp_path / "run")
    lines = on_terminal(tmp_path / "run")
    assert "PARTIAL  r1  2 of 2 agents, coverage 90.00 %" in lines
    assert {f"  {REASON}", LOST, FULL_STRENGTH} <= set(lines)


def test_everything_names_what_cannot_be_read_back(tmp_path: Path) -> None:
    stage = Stage("check", StageKind.VERIFY, 4, populations=("prepared",))
    agents = [FakeAgent("h1", 10**12), FakeAgent("h2", 10**15)]
    for n, agent in enumerate(agents):
        for number in range(10):
            agent.second(number, 1e6)
        for part in range(3 * n):
            objects = [{"object": f"s3://b/p/o-{part}-{i}", "error": "http_404", "detail": "NoSuchKey"} for i in range(400)]
            told = {"count": 500, "errors": {"http_404": 499, "verify": 1}, "objects": objects}
            agent.add("ledger", stage=0, population="prepared", ranges=[[0, 500]], unreadable=told)
        agent.end()
        agent.final()
    written = write_run(tmp_path / "run", agents, plan=dataclasses.replace(PLAN, stages=(stage,)))
    found = json.loads((tmp_path / "run" / "results.json").read_text())["stages"][0]
    assert found["unreadable"] == 1500
    assert found["agents"]["h1"]["unreadable"] == {"count": 0, "errors": {}, "objects": []}
    theirs = found["agents"]["h2"]["unreadable"]
    assert (theirs["count"], theirs["errors"], len(theirs["objects"])) == (1500, {"http_404": 1497, "verify": 3}, 1000)
    assert theirs["objects"][999] == {"object": "s3://b/p/o-2-199", "error": "http_404", "detail": "NoSuchKey"}
    line = "check: 1,500 objects cannot be read back as written (1,497 http_404, 3 verify), such as s3://b/p/o-0-0; see results.json"
    assert f"  {line}" in on_terminal(tmp_path / "run")
    for name in ("STATUS.txt", "01_check_results.tsv"):
        assert f"# {line}" in (tmp_path / "run" / name).read_text().splitlines()
    assert (written.verdict, written.reasons) == (Verdict.PARTIAL, (line,))


def test_a_verify_stage_that_finds_all_says_nothing_and_other_stages_have_no_such_figure(tmp_path: Path) -> None:
    stage = Stage("check", StageKind.VERIFY, 4, populations=("prepared",))
    for name, plan, figure in (("verify", dataclasses.replace(PLAN, stages=(stage,)), 0), ("execute", PLAN, None)):
        written = write_run(tmp_path / name, [whole("h1", 10**12)], plan=plan)
        assert written.content["stages"][0]["unreadable"] == figure
        assert "read back" not in "".join(on_terminal(tmp_path / name))


def test_a_run_that_is_complete_by_min_coverage_still_tells_what_was_lost(tmp_path: Path) -> None:
    written = damaged(tmp_path / "run", dataclasses.replace(PLAN, min_coverage=0.9))
    assert written.verdict is Verdict.COMPLETE
    status = (tmp_path / "run" / "STATUS.txt").read_text().splitlines()
    assert status[0] == "COMPLETE"
    assert (
        "# all agents finished, all journals are whole, coverage is 90.00 % of the planned agent-seconds (at least 90 % is needed)"
        in status
    )
    assert {f"# {LOST}", f"# {FULL_STRENGTH}"} <= set(status)
    assert {LOST, FULL_STRENGTH} <= set(on_terminal(tmp_path / "run"))


def test_an_agent_that_never_began_lacks_its_whole_stage(tmp_path: Path) -> None:
    silent = FakeAgent("h2", 5)
    silent._records = silent._records[:1]
    event = {"at": 3.0, "event": "abort", "reason": "h2: not reached for 600 s"}
    written = write_run(tmp_path / "run", [whole("h1", 5), silent], event, complete=False)
    assert written.verdict is Verdict.FAILED
    assert written.reasons[0] == "aborted: h2: not reached for 600 s"
    assert written.content["coverage"] == pytest.approx(0.5)
    assert written.content["agents"] == {"expected": 2, "reported": 0}
    assert written.content["lost_intervals_s"] == {"h2": [{"stage": 0, "from_s": 0.0, "to_s": 10.0, "cause": "never began"}]}
    assert "# lost h2: mix 0.0 to 10.0 s (never began)" in (tmp_path / "run" / "STATUS.txt").read_text().splitlines()


def test_link_losses_are_told_and_change_nothing(tmp_path: Path) -> None:
    events = [
        {"at": 1.5, "event": "link_up", "agent": "h1", "attempt": 1, "down_s": 0.1, "resumed_offset": 0},
        {"at": 3.0, "event": "link_down", "agent": "h1", "cause": "reset", "level": "warning"},
        {"at": 5.0, "event": "link_up", "agent": "h1", "attempt": 4, "down_s": 2.0, "resumed_offset": 77},
        {"at": 8.0, "event": "link_down", "agent": "h1", "cause": "closed", "level": "info"},
    ]
    written = write_run(tmp_path / "run", [whole("h1", 5)], *events)
    assert written.verdict is Verdict.COMPLETE
    loss = {"at": 3.0, "cause": "reset", "down_s": 2.0, "attempts": 4, "resumed_offset": 77}
    network = written.content["network"]["h1"]
    assert network["connects"] == 2
    assert [loss.items() <= found.items() for found in network["losses"]] == [True]
    assert results.summary(written).losses[0].unreachable_s == 2.0


def test_an_agent_that_never_came_back_is_told_as_such_and_is_not_the_slowest(tmp_path: Path) -> None:
    gone = FakeAgent("h3", 9)
    gone.second(0, 1e6, count=1)
    events = [
        {"at": 3.0, "event": "link_down", "agent": "h3", "cause": "reset", "level": "warning"},
        {"at": 15.0, "event": "agent_lost", "agent": "h3", "error": "h3: not reached"},
    ]
    path = tmp_path / "run"
    written = write_run(path, [whole("h1", 5), whole("h2", 7), gone], *events, complete=False)
    console = Console(file=io.StringIO(), width=200)
    print_summary(results.summary(written), path, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "link of h3: lost once and did not come back, 12.0 s in all\n" in said
    assert "slowest agent in mix: h3" not in said
    assert "slowest agent in mix: h" in said


def test_torn_mirror_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    agent = whole("h1", 5)
    write_run(tmp_path / "run", [agent])
    path = tmp_path / "run" / "agents" / "h1" / "journal.ndjson"
    path.write_bytes(path.read_bytes()[:-40])
    assert results.write(tmp_path / "run").reasons[0] == "h1: its journal is not here to its end"
    path.write_bytes(path.read_bytes().replace(b'"second":4', b'"second":5', 1))
    assert results.write(tmp_path / "run").verdict is not Verdict.COMPLETE


def test_tables_are_in_the_parents_format(tmp_path: Path) -> None:
    written = write_run(tmp_path / "run", [whole("h1", 5), whole("h2", 5)])
    again = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    results.write(tmp_path / "run")
    assert again == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    lines = (tmp_path / "run" / "01_mix_results.tsv").read_text().splitlines()
    table = [line.split("\t") for line in lines if not line.startswith("#")]
    assert "# verdict COMPLETE; 2 of 2 agents; coverage 100.00 %" in lines
    assert "\t".join(table[0]) == (
        "operation\tsize_bucket\tbucket_idx\tmean_us\tp50_us\tp90_us\tp95_us\tp99_us\tmax_us\tavg_bytes\tops_per_sec\tthroughput_mibps\tcount"
    )
    assert [(row[0], row[1], row[2], row[-1]) for row in table[1:]] == [("GET", "1B-8KiB", "1", "1000"), ("GET", "ALL", "98", "1000")]
    assert float(table[1][4]) == pytest.approx(written.content["stages"][0]["operations"]["get"]["latency_us"]["p50"], abs=0.01)
    perf = [line.split("\t") for line in (tmp_path / "run" / "perf_log.tsv").read_text().splitlines() if not line.startswith("#")]
    assert (len(RESULT_COLUMNS), len(PERF_COLUMNS), {len(row) for row in perf}) == (13, 31, {31})
    assert len(perf) == 1 + 2 * 10
    assert sum(int(row[4]) for row in perf[1:]) == 1000
    assert (tmp_path / "run" / "STATUS.txt").read_text().startswith("COMPLETE\n")
    assert (tmp_path / "run" / "agents" / "h2" / "01_mix_results.tsv").exists()


def test_intervals_of_the_perf_log_are_sums_and_have_no_percentiles(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, perf_log_interval_s=4)
    write_run(tmp_path / "run", [whole("h1", 5)], plan=plan)
    perf = [line.split("\t") for line in (tmp_path / "run" / "perf_log.tsv").read_text().splitlines() if not line.startswith("#")]
    assert {len(row) for row in perf} == {31}
    assert [(row[2], row[4], row[6]) for row in perf[1:]] == [
        ("4.000", "200", "50.00"),
        ("8.000", "200", "50.00"),
        ("10.000", "100", "50.00"),
    ]
    assert [row[9:12] for row in perf[1:]] == [["", "", ""]] * 3
    assert [row[26:29] for row in perf[1:]] == [["10.0", "5.0", "1.0"]] * 3


def test_a_stage_that_ends_by_its_operations_lasts_on_each_agent_as_long_as_it_took(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, stages=(dataclasses.replace(PLAN.stages[0], duration_s=60.0, tasks=700),))
    agents = []
    for name, seconds in (("h1", 6), ("h2", 8)):
        agent = FakeAgent(name, 5 * SECOND)
        for number in range(seconds):
            agent.second(number, 1e6)
        agent.end(seconds=seconds)
        agent.final()
        agents.append(agent)
    written = write_run(tmp_path / "run", agents, plan=plan)
    assert written.verdict is Verdict.COMPLETE
    stage = written.content["stages"][0]
    assert (stage["seconds"], {name: part["seconds"] for name, part in stage["agents"].items()}) == (8.0, {"h1": 6.0, "h2": 8.0})


def test_what_was_lost_of_a_pause_is_nothing(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, stages=(*PLAN.stages, Stage("wait", StageKind.PAUSE, 4, 5.0)))
    written = write_run(tmp_path / "run", [whole("h1", 5)], plan=plan)
    assert (written.verdict, written.content["coverage"]) == (Verdict.COMPLETE, 1.0)
    assert written.content["stages"][1]["full_strength"] is None


def test_an_optional_stage_that_failed_is_told_and_changes_nothing(tmp_path: Path) -> None:
    stage = dataclasses.replace(PLAN.stages[0], duration_s=60.0, optional=True)
    plan = dataclasses.replace(PLAN, stages=(stage,))
    agents = [FakeAgent(name, 5 * SECOND) for name in ("h1", "h2")]
    for agent in agents:
        for number in range(4):
            agent.second(number, 1e6)
        agent.end(seconds=4, error={"type": "AgentError", "message": "the disk is full", "remedy": None})
        agent.final()
    written = write_run(tmp_path / "run", agents, plan=plan)
    assert (written.verdict, written.content["coverage"]) == (Verdict.COMPLETE, 1.0)
    line = "optional stage mix failed on h1 and 1 more: the disk is full"
    assert line in written.reasons
    assert line in (tmp_path / "run" / "STATUS.txt").read_text()
    assert written.content["stages"][0]["agents"]["h2"]["error"]["message"] == "the disk is full"


def test_what_a_command_said_is_in_the_results(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, stages=(Stage("run", StageKind.CUSTOM, 4, command=("true",)),))
    agent = FakeAgent("h1", 5 * SECOND)
    for number in range(2):
        agent.second(number, 1e6, count=0, host={**HOST, "cpu": [100.0, 0.0, 0.0, 0.0], "late_ms": 500.0})
    outcome = {"exit_code": 0, "timed_out": False, "seconds": 1.5, "output": "hello\n", "output_bytes": 6}
    agent.add("command", stage=0, **outcome)
    agent.end(seconds=2)
    agent.final()
    written = write_run(tmp_path / "run", [agent], plan=plan)
    assert written.verdict is Verdict.COMPLETE
    part = written.content["stages"][0]["agents"]["h1"]
    assert (part["command"], part["limits"]) == (outcome, [])


def test_frames(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [whole("h1", 5), whole("h2", 5)])
    run = results.load(tmp_path / "run")
    assert run.verdict is Verdict.COMPLETE
    assert run.operations.loc[0, "ops"] == 1000
    assert run.agents.groupby("agent")["ops"].sum().to_dict() == {"h1": 500, "h2": 500}
    assert run.timeseries["ops"].sum() == run.histograms["count"].sum() == 1000
    assert len(run.hosts) == 20
    assert run.events.iloc[0]["event"] == "clock"


def facts(name: str, outcome: Outcome | None = Outcome.FINISHED, *, whole: bool = True, measured: float = 10.0) -> AgentFacts:
    return AgentFacts(name, outcome, "why", whole, measured, 10.0)


@pytest.mark.parametrize(
    ("agents", "aborted", "by_operator", "verdict", "reason"),
    [
        ([facts("a"), facts("b")], None, False, Verdict.COMPLETE, "all agents finished"),
        ([facts("a"), facts("b", Outcome.FAILED, measured=3)], "b: why", False, Verdict.FAILED, "aborted: b: why"),
        ([facts("a"), facts("b", whole=False)], None, False, Verdict.PARTIAL, "b: its journal could not be verified"),
        (
            [facts("a", Outcome.STOPPED, measured=3), facts("b", Outcome.STOPPED, measured=4)],
            "ctrl-c",
            True,
            Verdict.PARTIAL,
            "a, b stopped: why",
        ),
        ([facts("a", Outcome.STOPPED, measured=0)], "ctrl-c", True, Verdict.FAILED, "aborted: ctrl-c"),
        ([facts("a", None, measured=5)], None, False, Verdict.PARTIAL, "a: its journal is not here to its end"),
        ([facts("a", measured=9.98)], None, False, Verdict.PARTIAL, "coverage 99.80 %"),
    ],
)
def test_verdicts(agents: list[AgentFacts], aborted: str | None, by_operator: bool, verdict: Verdict, reason: str) -> None:
    found, reasons = judge(agents, [], aborted=aborted, stopped_by_operator=by_operator, min_coverage=1.0)
    assert found is verdict
    assert reason in reasons[0]


@pytest.mark.parametrize(
    ("measured", "verdict", "reason"),
    [
        (8.0, Verdict.COMPLETE, "whole, coverage is 90.00 % of the planned agent-seconds (at least 90 % is needed)"),
        (7.9, Verdict.PARTIAL, "coverage 89.50 % of the planned agent-seconds (at least 90 % is needed)"),
    ],
)
def test_complete_needs_the_coverage_that_was_asked_for(measured: float, verdict: Verdict, reason: str) -> None:
    agents = [facts("a"), facts("b", measured=measured)]
    found, reasons = judge(agents, [], aborted=None, stopped_by_operator=False, min_coverage=0.9)
    assert (found, len(reasons)) == (verdict, 1)
    assert reason in reasons[0]


def test_coverage_excuses_no_agent_that_is_missing() -> None:
    agents = [facts("a"), facts("b", None, measured=9.9)]
    found, _ = judge(agents, [], aborted=None, stopped_by_operator=False, min_coverage=0.5)
    assert found is Verdict.PARTIAL


def test_eight_agents_for_an_hour_are_merged(tmp_path: Path) -> None:
    plan = Plan(
        PLAN.run_id,
        PLAN.name,
        PLAN.target,
        PLAN.populations,
        (Stage("mix", StageKind.EXECUTE, 4, 3600.0, operations=PLAN.stages[0].operations),),
    )
    agents = []
    for n in range(8):
        agent = FakeAgent(f"h{n}", 5)
        for number in range(3600):
            agent.second(number, 1e6, count=1)
        agent.end()
        agent.final()
        agents.append(agent)
    written = write_run(tmp_path / "run", agents, plan=plan)
    assert written.verdict is Verdict.COMPLETE
    assert written.content["stages"][0]["operations"]["get"]["ops"] == 8 * 3600
