"""Latencies as they are measured, against the law that made them; in virtual time, so that a busy machine cannot falsify either.

The work, its pacing, its counters in memory and their percentiles are the product's; the storage is a law.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import GET, Root
from sai3ssh.agent.mix import MixWork
from sai3ssh.agent.pacing import Pacer
from sai3ssh.agent.work import Objects, Recorder
from sai3ssh.histogram import Histogram
from sai3ssh.model import ErrorLimits, IoRate, OperationSpec, Population, SizeSpec

SECOND = 1_000_000_000
URI = "s3://bucket/"
SIZE = SizeSpec("fixed", 4096, 4096)
RANKS = (50.0, 90.0, 99.0, 99.9)
SAMPLES = 105_000


class LawEngine:
    """Storage whose operations end when `ends_ns(start)` says, in virtual time."""

    def __init__(self, ends_ns: Callable[[int], int]) -> None:
        self._ends_ns = ends_ns
        self.latencies_ns: list[int] = []
        """From when each operation really began: what a client that omits its own waiting would report."""

    def root(self, uri: str) -> Root:
        return Root(uri)

    def run(self, work: MixWork, concurrency: int) -> None:
        now, flight, number = 0, [], 0
        while True:
            while len(flight) < concurrency and (task := work.next(now)) is not None:
                ends = self._ends_ns(now)
                self.latencies_ns.append(ends - now)
                heapq.heappush(flight, (ends, number, task))
                number += 1
            if not flight and work.finished:
                return
            waits: list[int] = [flight[0][0]] if flight else []
            if len(flight) < concurrency and work.wake_ns is not None and not work.finished:
                waits.append(work.wake_ns)
            now = max(now, min(waits))
            while flight and flight[0][0] <= now:
                ends, _, ended = heapq.heappop(flight)
                work.done(ended, ends, 4096)


def measured(engine: LawEngine, seconds: float, concurrency: int, pacer: Pacer | None = None) -> Histogram:
    """What the agent's counters say of the GETs of a stage."""
    cells = memoryview(bytearray(metrics.TOTAL * 8)).cast("Q")
    population = Population("p", URI, "k%08d", 1000, SIZE, 1)
    anything: Any = engine
    work = MixWork(
        anything,
        (OperationSpec("get", 1, URI, "p"),),
        {"p": Objects(anything, population)},
        {},
        Recorder(cells),
        put_format="",
        mkdir_format="",
        seed="s",
        limits=ErrorLimits(0, 0.0, 1.0),
        end_ns=int(seconds * SECOND),
        notice=lambda _: None,
        pacer=pacer,
    )
    engine.run(work, concurrency)
    return metrics.total([metrics.Reader(cells)], 0).by_operation()[GET].histogram()


LAWS: dict[str, tuple[float, Callable[[random.Random], float], Callable[[float], float]]] = {
    "uniform 20 to 120 ms": (70, lambda rng: rng.uniform(20, 120), lambda q: 20 + 100 * q),
    "20 ms and an exponential tail": (50, lambda rng: 20 + rng.expovariate(1 / 30), lambda q: 20 - 30 * math.log(1 - q)),
    "constant 25 ms": (25, lambda _: 25.0, lambda _: 25.0),
    "two speeds, 20 and 500 ms": (44, lambda rng: 20.0 if rng.random() < 0.95 else 500.0, lambda q: 20.0 if q < 0.95 else 500.0),
}


@pytest.mark.parametrize("name", LAWS)
def test_percentiles_are_within_a_hundredth_of_the_law(name: str) -> None:
    mean_ms, draw, quantile = LAWS[name]
    rng = random.Random(7)
    engine = LawEngine(lambda now: now + int(draw(rng) * 1e6))
    histogram = measured(engine, SAMPLES * mean_ms / 1000 / 64, 64)
    samples = sorted(engine.latencies_ns)
    assert histogram.count == len(samples)
    assert histogram.sum_ns == sum(samples)
    assert histogram.max_ns == samples[-1]
    assert len(samples) * (1 - 0.999) >= 100, "100 samples beyond the last percentile"
    for rank in RANKS:
        exact = samples[math.ceil(rank / 100 * len(samples)) - 1]
        assert histogram.percentile(rank) == pytest.approx(exact, rel=0.01), rank
        # What a sample of that size may differ from its law: three standard deviations of the quantile's rank.
        spread = 3 * math.sqrt(rank / 100 * (1 - rank / 100) / len(samples))
        low, high = quantile(max(0.0, rank / 100 - spread)), quantile(min(0.99999, rank / 100 + spread))
        assert 0.99 * low <= histogram.percentile(rank) / 1e6 <= 1.01 * high, rank


def freezes(now: int) -> int:
    """1 ms, but nothing is answered during the first second of each ten from the tenth on."""
    done = now + 1_000_000
    since = done % (10 * SECOND)
    return done - since + SECOND if done >= 10 * SECOND and since < SECOND else done


@pytest.mark.parametrize("concurrency", [16, 4096], ids=["few in flight", "as many as come"])
def test_an_open_loop_shows_all_of_a_freeze(concurrency: int) -> None:
    """1,000 operations a second are due, whatever the server does: 1 s in 10 means that a tenth of them waits, up to a second.

    Measured from when each really began, which is what a closed loop can know, the same operations hide it.
    """
    pacer = Pacer(IoRate(1000.0, "deterministic"), 1.0, 0.0, 10 * SECOND, random.Random(1))
    engine = LawEngine(freezes)
    histogram = measured(engine, 110.0, concurrency, pacer)
    # The latencies that the schedule means: of nothing but when operations are due, how many may wait at once, and when the server answers.
    due = [10 * SECOND + n * 1_000_000 for n in range(100_000)]
    free, expected = [0] * concurrency, []
    for at in due:
        ends = freezes(max(at, free[0]))
        heapq.heapreplace(free, ends)
        expected.append(ends - at)
    expected.sort()
    assert histogram.count == len(due)
    for rank in (50.0, 85.0, 92.0, 95.0, 99.0, 99.9):
        exact = expected[math.ceil(rank / 100 * len(due)) - 1]
        assert histogram.percentile(rank) == pytest.approx(exact, rel=0.01), rank
    assert histogram.percentile(99.0) > 0.89e9
    if concurrency > 1000:
        assert histogram.percentile(99.0) == pytest.approx(0.9e9, rel=0.01)
    else:
        omitting = sorted(engine.latencies_ns)
        assert omitting[int(0.99 * len(omitting))] < 2_000_000
