"""Parts of latencies, from journals to results."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sai3ssh import results
from sai3ssh.histogram import Histogram
from sai3ssh.model import SPLIT_PARTS
from sai3ssh.results.journal import Splits
from sai3ssh.results.merge import RANKS
from sai3ssh.results.splits import split_figures
from sai3ssh.ui.summary import print_summary
from tests.unit.test_results import FakeAgent, write_run

Parts = list[tuple[int, ...]]


def counted(parts: Parts) -> dict[str, Histogram]:
    """Histograms as an agent counts them: nothing below 1 us but of the first byte."""
    found = {name: Histogram() for name in SPLIT_PARTS}
    for split in parts:
        for name, value in zip(SPLIT_PARTS, split, strict=True):
            if value >= 1000 or name == "first_byte":
                found[name].record(value)
    return found


def told(parts: Parts) -> dict[str, Any]:
    return {
        "get": {
            name: {"cells": histogram.to_pairs(), "sum_ns": histogram.sum_ns}
            for name, histogram in counted(parts).items()
            if histogram.count
        }
    }


def drawn(count: int, seed: int) -> Parts:
    rng = random.Random(seed)
    return [(0, rng.choice([0, 0, 50_000]), 0, int(rng.expovariate(1 / 2e6)) + 1, rng.choice([0, 4_000_000])) for _ in range(count)]


def test_two_agents_are_merged_as_histograms(tmp_path: Path) -> None:
    parts = [drawn(50, 1), drawn(100, 2)]
    agents = [FakeAgent("h1", 10**15), FakeAgent("h2", 10**15 + 5)]
    for agent, mine in zip(agents, parts, strict=True):
        for second in range(10):
            agent.second(second, 1e6, count=len(mine) // 10)
        half = len(mine) // 2
        for piece in (mine[:half], mine[half:]):
            agent.add("hist", stage=0, warmup=False, hist={}, splits=told(piece))
        agent.add("hist", stage=0, warmup=True, hist={}, splits=told(mine))
        agent.end()
        agent.final()
    run = tmp_path / "run"
    written = write_run(run, agents)
    content = written.content
    assert content["verdict"] == "COMPLETE", content["reasons"]
    everything = counted(parts[0] + parts[1])
    found = content["stages"][0]["operations"]["get"]["splits"]
    assert found["known"] == 150
    for name, histogram in everything.items():
        assert found[name]["cells"] == histogram.to_pairs()
        assert (found[name]["sum_ns"], found[name]["count"]) == (histogram.sum_ns, histogram.count)
    alone = content["stages"][0]["agents"]["h1"]["operations"]["get"]["splits"]
    assert alone["transfer"]["cells"] == counted(parts[0])["transfer"].to_pairs()
    frame = results.load(run).splits
    assert list(frame["part"]) == list(SPLIT_PARTS)
    assert set(frame["known"]) == {150}
    mean = {name: sum(split[n] for split in parts[0] + parts[1]) / 150_000 for n, name in enumerate(SPLIT_PARTS)}
    assert dict(zip(frame["part"], frame["mean_us"], strict=True)) == pytest.approx(mean)
    out = io.StringIO()
    print_summary(results.summary(written), run, Console(file=out, width=200))
    (line,) = [line for line in out.getvalue().splitlines() if "of its parts" in line]
    assert line.startswith("mix get: p99 ")
    assert line.endswith("transfer 4.0")
    assert "queue" not in line
    assert "connect 0.0, first byte " in line or "connect 0.1, first byte " in line


def test_without_splits_nothing_is_said(tmp_path: Path) -> None:
    agent = FakeAgent("h1", 10**15)
    for second in range(10):
        agent.second(second, 1e6)
    agent.end()
    agent.final()
    assert write_run(tmp_path / "run", [agent]).content["stages"][0]["operations"]["get"]["splits"] is None
    frame = results.load(tmp_path / "run").splits
    assert frame.empty
    assert "p99_us" in frame.columns


@given(st.lists(st.tuples(*[st.integers(0, 10**9) | st.integers(0, 1500)] * 5), min_size=1, max_size=60))
def test_percentiles_count_what_was_not_counted_as_nothing(parts: Parts) -> None:
    figures = split_figures(Splits(counted(parts)), RANKS)
    assert figures is not None
    assert figures["known"] == len(parts)
    for n, name in enumerate(SPLIT_PARTS):
        values = sorted(split[n] if split[n] >= 1000 else 0 for split in parts)
        for rank, value in RANKS.items():
            exact = values[max(1, -(-len(values) * round(value * 1000) // 100_000)) - 1]
            assert figures[name][rank] * 1000 == pytest.approx(exact, rel=0.008, abs=1100 if name == "first_byte" else 1)
