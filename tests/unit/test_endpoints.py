"""Figures of several endpoints, from journals to the terminal."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

from rich.console import Console

from sai3ssh import results
from sai3ssh.histogram import Histogram
from sai3ssh.model import Spread, Target
from sai3ssh.results.aggregate import aggregate
from sai3ssh.ui.summary import print_summary
from tests.unit.test_results import PLAN, FakeAgent, write_run

URLS = ("http://a:9000", "http://b:9000", "http://c:9000")
SEVERAL = dataclasses.replace(PLAN, target=Target("s3", endpoints=URLS), spreads=(Spread((0, 1)), Spread((2, 0))))


def told(latency_ns: int, count: int, errors: int = 0, retries: int = 0) -> dict[str, Any]:
    histogram = Histogram()
    histogram.record(latency_ns, count)
    figures = {"cells": histogram.to_pairs(), "sum_ns": histogram.sum_ns, "max_ns": histogram.max_ns, "bytes": 4096 * count}
    return {**figures, "errors": errors, "retries": retries}


def test_endpoints_are_merged_over_agents_and_the_slowest_is_named(tmp_path: Path) -> None:
    agents = [FakeAgent("h1", 10**15), FakeAgent("h2", 10**15 + 5)]
    at: tuple[dict[str, Any], ...] = (
        {"0": told(2_000_000, 250), "1": told(8_000_000, 250, 1, 7)},
        {"2": told(3_000_000, 250), "0": told(4_000_000, 250, 0, 1)},
    )
    for agent, mine in zip(agents, at, strict=True):
        for second in range(10):
            agent.second(second, 1e6)
        agent.add("hist", stage=0, warmup=False, hist={}, endpoints={"get": mine})
        agent.add("hist", stage=0, warmup=True, hist={}, endpoints={"get": mine})
        agent.end()
        agent.final()
    written = write_run(tmp_path / "run", agents, plan=SEVERAL)
    found = written.content["stages"][0]["operations"]["get"]["endpoints"]
    assert {url: [figures[name] for name in ("ops", "bytes", "errors", "retries")] for url, figures in found.items()} == {
        "http://a:9000": [500, 500 * 4096, 0, 1],
        "http://b:9000": [250, 250 * 4096, 1, 7],
        "http://c:9000": [250, 250 * 4096, 0, 0],
    }
    assert found["http://a:9000"]["latency_us"]["mean"] == 3000.0
    assert found["http://a:9000"]["latency_us"]["max"] == 4000.0
    alone = written.content["stages"][0]["agents"]["h2"]["operations"]["get"]["endpoints"]
    assert list(alone) == ["http://a:9000", "http://c:9000"]
    frame = results.load(tmp_path / "run").endpoints.set_index("endpoint")
    assert frame.loc["http://b:9000", "p99_us"] == 8000.0
    assert frame.loc["http://b:9000", "retries"] == 7
    out = io.StringIO()
    print_summary(results.summary(written), tmp_path, Console(file=out, width=200))
    assert "slowest endpoint in mix: http://b:9000, get p99 8.00 ms (median of the others" in out.getvalue()
    (row,) = [line.split() for line in out.getvalue().splitlines() if line.startswith("mix") and "http://b:9000" in line]
    assert row == ["mix", "get", "http://b:9000", "250", "1.0", "8", "ms", "8", "ms", "1", "7"]


def test_several_runs_are_added_up(tmp_path: Path) -> None:
    for number, count in enumerate((100, 400)):
        agent = FakeAgent("h1", 10**15)
        for second in range(10):
            agent.second(second, 1e6)
        first_byte = {name: told(2_000_000, count)[name] for name in ("cells", "sum_ns")}
        places = {str(number): told(3_000_000, count, retries=2), "2": told(1_000_000, 10)}
        agent.add("hist", stage=0, warmup=False, hist={}, endpoints={"get": places}, splits={"get": {"first_byte": first_byte}})
        agent.end()
        agent.final()
        write_run(tmp_path / str(number), [agent], plan=dataclasses.replace(SEVERAL, run_id=f"r{number}"))
    (stage,) = aggregate([tmp_path / "0", tmp_path / "1"])["stages"]
    found = stage["operations"]["get"]
    assert {url: (part["ops"], part["retries"], part["sum_ns"]) for url, part in found["endpoints"].items()} == {
        URLS[0]: (100, 2, 300_000_000),
        URLS[2]: (20, 0, 20_000_000),
        URLS[1]: (400, 2, 1_200_000_000),
    }
    assert (found["splits"]["known"], found["splits"]["first_byte"]["sum_ns"]) == (500, 1_000_000_000)


def test_one_endpoint_is_no_table(tmp_path: Path) -> None:
    agent = FakeAgent("h1", 10**15)
    for second in range(10):
        agent.second(second, 1e6)
    agent.end()
    agent.final()
    written = write_run(tmp_path / "run", [agent])
    assert written.content["stages"][0]["operations"]["get"]["endpoints"] is None
    out = io.StringIO()
    print_summary(results.summary(written), Path("run"), Console(file=out, width=200))
    assert "endpoint" not in out.getvalue()
