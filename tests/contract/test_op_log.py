"""The op-log of a real run is what its results say: the same operations, the same latencies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sai3ssh.results import calibration
from sai3ssh.results.merge import RANKS

from .test_run import AGENTS, Bench, bench

__all__ = ["bench"]

CALIBRATIONS = {agent: {"figures": {kind: [{"size": 4096, "cpu_us": 40.0}] for kind in ("get", "put")}} for agent in AGENTS}
WORKLOAD = """
name: logged
target: {target}
concurrency: 4
workers: 2
io_rate: {{iops: 800}}
error_handling: {{max_total_errors: 0, error_rate_threshold: 0}}
distributed: {{start_delay: 500ms}}
{more}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: 200, size_spec: 1KiB}}
workload:
  - {{op: get, path: data/, weight: 60}}
  - {{op: put, path: new/, weight: 40, size_spec: 2KiB}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: mix, type: execute, duration: 1500ms}}
  - {{name: cleanup, type: cleanup}}
"""


def nanoseconds(stamp: str) -> int:
    second, _, fraction = stamp.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(second + "+00:00").timestamp()) * 10**9 + int(fraction)


def rows(run: Path, agent: str) -> list[dict[str, str]]:
    with (run / "agents" / agent / "oplog.tsv.zst").open("rb") as file:
        head, *lines = zstandard.ZstdDecompressor().stream_reader(file).read().decode().splitlines()
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


def windows(run: Path, agent: str) -> dict[int, tuple[int, int]]:
    """Stage to the wall time of its start and its end; between stages are 500 ms, half of that is for two readings of two clocks."""
    found: dict[int, tuple[int, int]] = {}
    for line in (run / "agents" / agent / "journal.ndjson").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "stage_end":
            wall_ns = record["wall_ns"] - record["clock_ns"]
            found[record["stage"]] = (record["start_clock_ns"] + wall_ns - 250_000_000, record["drained_clock_ns"] + wall_ns)
    return found


def check(stage: dict[str, Any], mine: list[dict[str, str]]) -> None:
    """What an agent's results say of a stage, against its op-log."""
    for op, figures in stage["operations"].items():
        of_op = [row for row in mine if row["op"] == op.upper()]
        well = [row for row in of_op if not row["error"]]
        assert len(well) == figures["ops"], op
        assert sum(int(row["bytes"]) for row in well) == figures["bytes"], op
        assert Counter(row["error"] for row in of_op if row["error"]) == figures["errors"], op
        durations = sorted(int(row["duration_ns"]) for row in well)
        for name, rank in RANKS.items() if durations else ():
            exact = durations[max(0, -(-len(durations) * round(rank * 100) // 10_000) - 1)]
            assert figures["latency_us"][name] * 1000 == pytest.approx(exact, rel=0.008), (op, name)
        if durations:
            assert round(figures["latency_us"]["max"] * 1000) == durations[-1]


def replay(bench: Bench, *options: str) -> dict[str, Any]:
    """The results of the command `replay` of all op-logs of the run, to another directory."""
    logs = [str(path) for path in sorted(bench.run.glob("agents/*/oplog.tsv.zst"))]
    results = bench.directory / "replayed"
    calibration.keep(results, CALIBRATIONS)
    target = ["--target", f"file://{bench.directory}/other/", "--remap", f"file://{bench.directory}/target/="]
    command = [sys.executable, "-m", "sai3ssh.cli", "replay", *logs, *target, "-i", str(bench.inventory), "--results-dir", str(results)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (run,) = results.glob("replay-*")
    assert calibration.read(run) == CALIBRATIONS
    content: dict[str, Any] = json.loads((run / "results.json").read_text())
    return content


def test_results_and_op_log_agree_and_the_op_log_can_be_replayed(bench: Bench) -> None:
    process = bench.start("--op-log", "--json", text=WORKLOAD)
    bench.wait_for("stage_started", name="mix")
    for path in (bench.directory / "target" / "data").glob("*[02468].dat"):
        path.unlink()  # from now on reading and removing it fails
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    content = json.loads((bench.run / "results.json").read_text())
    assert content["verdict"] == "COMPLETE"
    told = [json.loads(line) for line in output.splitlines()]
    assert [(event["agent"], event["error"]) for event in told if event["event"] == "op_log"] == [(agent, None) for agent in AGENTS]
    for agent in AGENTS:
        log = rows(bench.run, agent)
        assert {row["client_id"] for row in log} == {agent}
        starts = [nanoseconds(row["start"]) for row in log]
        assert starts == sorted(starts)
        spans = windows(bench.run, agent)
        stages = {stage["index"]: stage["agents"][agent] for stage in content["stages"]}
        for index, (begin, end) in spans.items():
            check(stages[index], [row for row, start in zip(log, starts, strict=True) if begin <= start <= end])
        assert stages[1]["operations"]["get"]["errors"].keys() == {"not_found"}
        told_of = content["op_log"][agent]
        assert (told_of["written"], told_of["dropped"], told_of["lost"]) == (told_of["counted"], 0, 0) == (len(log), 0, 0)
    assert not list(bench.run.glob("agents/*/oplog.parts"))
    check_replay(bench)


def check_replay(bench: Bench) -> None:
    expected: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for agent in AGENTS:
        for row in rows(bench.run, agent):
            expected[row["op"].lower()] += 1
            moved[row["op"].lower()] += 1024 if row["op"] == "GET" else int(row["bytes"])
    content = replay(bench, "--closed")
    assert content["verdict"] == "COMPLETE"
    (stage,) = content["stages"]
    assert (stage["kind"], stage["trace_operations"]) == ("replay", sum(expected.values()))
    # Nobody takes anything away here: everything is there when it is its turn.
    assert {op: figures["errors"] for op, figures in stage["operations"].items()} == {op: {} for op in expected}
    assert {op: figures["ops"] for op, figures in stage["operations"].items()} == dict(expected)
    assert {op: figures["bytes"] for op, figures in stage["operations"].items()} == moved
    assert all(sum(op["ops"] for op in part["operations"].values()) > 0 for part in stage["agents"].values())
