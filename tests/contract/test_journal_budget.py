"""A real agent's journal takes at most 1 KiB per agent-second on the default mix, and the benchmark's imitation has its shape."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from bench import load_results
from bench.clients import run_plan
from sai3ssh.agent.nullserver import NullServer
from sai3ssh.model import Assignment, ErrorLimits, OperationSpec, Plan, Population, SizeSpec, Stage, StageKind, Target
from sai3ssh.protocol import decode_record

BUDGET_BYTES = 1024
SECONDS = 10
"""Until the first histograms that cover as long as all later ones."""
LATENCY_S = 0.003
NOT_ALWAYS = {
    "warmup", "done", "requests", "retried", "errors", "host.late_ms", "host.worker_cpu", "host.workers_cpu", "tail_ops", "tail_bytes",
}  # fmt: skip
"""Fields that a record has only where there is something to tell."""

Record = dict[str, Any]
FORK = multiprocessing.get_context("fork")


def plan(url: str) -> Plan:
    uri, size = "s3://bucket/4096/", SizeSpec("fixed", 4096, 4096)
    mix = tuple(
        OperationSpec(op, weight, uri, "prepared" if op in ("get", "stat") else None, size=size if op == "put" else None)
        for op, weight in (("get", 60), ("put", 20), ("stat", 15), ("list", 5))
    )
    return Plan(
        f"journal-budget-{os.getpid()}",
        "journal-budget",
        Target("s3", url),
        (Population("prepared", uri, "prepared-%08d.dat", 1000, size, 1),),
        (Stage("execute", StageKind.EXECUTE, 8, duration_s=float(SECONDS), operations=mix),),
        workers=2,
        timing_splits=True,
        error_limits=ErrorLimits(0, 0.0, 1.0),
    )


class Slow:
    """The poll of a server that needs some milliseconds, and sometimes many."""

    def __init__(self, server: NullServer) -> None:
        self._real = server._poller
        self._rng = random.Random(1)

    def poll(self, *timeout: float) -> list[tuple[int, int]]:
        time.sleep(self._rng.lognormvariate(math.log(LATENCY_S), 0.8))
        return self._real.poll(*timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def run_agent(url: str, journal: str) -> None:
    """The agent, in a process group of its own as the daemon starts it."""
    os.setsid()
    Path(journal).write_bytes(run_plan(plan(url), Assignment("a0", 0, 1, {"prepared": ((0, 1000),)})))


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The journal of an agent that was at work for 10 s."""
    journal = tmp_path_factory.mktemp("agent") / "journal.ndjson"
    server = NullServer()
    serving = FORK.Process(target=server.serve, args=(lambda: True,), daemon=True)
    with mock.patch.object(server, "_poller", Slow(server)):
        serving.start()
    try:
        agent = FORK.Process(target=run_agent, args=(server.url, str(journal)))
        agent.start()
        agent.join(120.0)
        assert agent.exitcode == 0
    finally:
        serving.kill()
        serving.join()
        server._listener.close()
    return journal.read_bytes().splitlines(keepends=True)


def test_an_agent_second_takes_at_most_1_kib(lines: list[bytes]) -> None:
    seconds = [line for line in lines if b'"kind":"sec"' in line]
    histograms = [line for line in lines if b'"kind":"hist"' in line]
    counted = sum(figures[0] for line in seconds for figures in decode_record(line)["ops"].values())
    assert counted > SECONDS * 300, "that many operations fill histograms"
    # Those of the whole 10 s, not of the moment from there to the end.
    each_s = sum(map(len, seconds)) / len(seconds) + max(map(len, histograms)) / SECONDS
    assert each_s <= BUDGET_BYTES, f"{each_s:.0f} bytes per second: {seconds[-1]!r} {histograms[0]!r}"


def test_the_benchmark_imitates_it(lines: list[bytes], tmp_path: Path) -> None:
    load_results.journal(tmp_path / "journal", 0, 2 * SECONDS)
    imitated = (tmp_path / "journal").read_bytes().splitlines(keepends=True)
    for kind in ("sec", "hist", "stage_start", "stage_end"):
        told, found = (
            {path for line in journal if b'"kind":"%s"' % kind.encode() in line for path in paths(json.loads(line), kind)}
            for journal in (imitated, lines)
        )
        assert told - NOT_ALWAYS == found - NOT_ALWAYS, kind


def paths(record: Record, kind: str) -> Iterator[str]:
    """The names of all fields, whatever operations and parts of them it is of."""
    for name, value in record.items():
        if name == "host":
            yield from (f"host.{each}" for each in value)
        elif name in ("hist", "splits") and kind == "hist":
            figures = {field for places in value.values() for part in places.values() for field in part}
            yield from (field if field in NOT_ALWAYS else f"{name}.{field}" for field in figures)
        elif name == "totals":
            yield from {f"totals.{field}" for totals in value.values() for field in totals}
        else:
            yield name
