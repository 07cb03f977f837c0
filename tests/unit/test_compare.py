"""Two sides of runs: what is called a difference, and how often by mistake."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.special import ndtr
from typer.testing import CliRunner

from sai3ssh.commands.results import _sides
from sai3ssh.errors import ConfigError
from sai3ssh.histogram import Histogram, cell_of, value_of
from sai3ssh.model import Verdict, to_json
from sai3ssh.results.compare import compare, compare_runs, parse_condition
from sai3ssh.results.files import Results
from sai3ssh.results.journal import Region, StageData
from sai3ssh.results.merge import operations
from sai3ssh.results.runs import GivenRun
from sai3ssh.results.windows import Window, windows
from sai3ssh.ui.compare import print_comparison

from .test_results import PLAN, SECOND, FakeAgent, whole, write_run

MIXED = (("get", 1), ("put", 1))
PLAIN = {name: value for name, value in to_json(PLAN).items() if name not in ("run_id", "name")}


def bounds_ns() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Where one cell ends and the next begins, between 100 us and 20 ms."""
    middles = np.array([value_of(cell) for cell in range(cell_of(100_000), cell_of(20_000_000) + 2)])
    return (middles[1:] + middles[:-1]) / 2


FIRST, BOUNDS = cell_of(100_000) + 1, np.log(bounds_ns())


def lognormal(rng: np.random.Generator, median_ns: float, count: int) -> Histogram:
    """So many latencies of a lognormal law with sigma 0.2."""
    chances = np.diff(ndtr((BOUNDS - math.log(median_ns)) / 0.2))
    drawn = rng.multinomial(count, chances / chances.sum())
    filled = np.flatnonzero(drawn)
    return Histogram(dict(zip((FIRST + filled).tolist(), drawn[filled].tolist(), strict=True)), sum_ns=int(count * median_ns * 1.02))


def made(rng: np.random.Generator, slower: float = 1.0, between: float = 0.005, count: int = 12) -> tuple[GivenRun, list[list[Window]]]:
    """A run of so many windows of 10 s: closed loops, rates with noise that lasts over windows, lognormal latencies; run and run differ."""
    own = math.exp(rng.normal(0, between)) * slower
    stage, drift = [], 0.0
    total = StageData()
    for _ in range(count):
        drift = 0.6 * drift + rng.normal(0, 0.01)
        window = Window(agent_s=10.0, agents=1)
        for op, bucket in MIXED:
            n = int(rng.poisson(20_000 / own * math.exp(drift)))
            window.regions[op, bucket] = Region(lognormal(rng, 1e6 * own * math.exp(-drift), n), 4096 * n)
            total.regions.setdefault((op, bucket), Region()).add(window.regions[op, bucket])
        stage.append(window)
    part = {"name": "mix", "kind": "execute", "operations": operations(total, 10.0 * count)}
    content = {"run_id": f"r{rng.integers(1 << 40):x}", "stages": [part]}
    return GivenRun(Path(), PLAIN, 1, Results(Verdict.COMPLETE, (), content), 10.0 * count), [stage]


def verdicts(pairs: int, runs: int, slower: float, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(pairs):
        base, new = ([made(rng, factor, count=12 if runs == 1 else 6) for _ in range(runs)] for factor in (1.0, slower))
        kept = {id(run): parts for run, parts in (*base, *new)}
        result = compare_runs(
            [run for run, _ in base], [run for run, _ in new], confidence=0.99, windows_of=lambda run, kept=kept: kept[id(run)]
        )
        found.append(result.verdict)
    return found


def test_single_runs_of_one_plan_are_told_apart_in_at_most_5_of_100_pairs() -> None:
    assert verdicts(100, 1, 1.0, 1).count("no difference") >= 95


def test_five_runs_a_side_of_one_plan_are_told_apart_in_at_most_5_of_100_pairs() -> None:
    assert verdicts(100, 5, 1.0, 2).count("no difference") >= 95


def test_five_runs_a_side_find_a_slowdown_of_5_percent_in_at_least_95_of_100_pairs() -> None:
    assert verdicts(100, 5, 1.05, 3).count("regressed") >= 95
    assert verdicts(20, 5, 1 / 1.05, 4).count("improved") >= 19


def test_single_runs_find_what_is_far_beyond_their_noise() -> None:
    assert set(verdicts(5, 1, 1.3, 5)) == {"regressed"}


def run(path: Path, factor: float = 1.0, seconds: int = 80, seed: int = 1, **changes: Any) -> Path:
    """A run directory of one agent with a histogram each 10 s."""
    agent = FakeAgent("h1", 5 * SECOND, seed=seed)
    for number in range(seconds):
        if number and number % 10 == 0:
            agent.hist(agent.take_histogram())
        agent.second(number, factor * 1e6, int(100 / factor))
    agent.end()
    agent.final()
    plan = dataclasses.replace(PLAN, run_id=path.name, stages=(dataclasses.replace(PLAN.stages[0], duration_s=float(seconds)),), **changes)
    write_run(path, [agent], plan=plan)
    return path


def test_windows_are_what_happened_between_two_histogram_records(tmp_path: Path) -> None:
    path = run(tmp_path / "a", seconds=25)
    (stage,) = windows(path, 1)
    assert [round(window.seconds, 6) for window in stage] == [10.0, 10.0, 5.0]
    assert [window.regions["get", 1].histogram.count for window in stage] == [1000, 1000, 500]


def test_windows_of_several_agents_are_added(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [whole("h1", 5 * SECOND), whole("h2", 9 * SECOND)])
    ((window,),) = windows(tmp_path / "a", 1)
    assert (window.agents, window.seconds) == (2, 10.0)
    assert window.regions["get", 1].histogram.count == 1000


def test_conditions_hold_when_the_difference_is_beyond_them_and_beyond_chance(tmp_path: Path) -> None:
    base, slow = run(tmp_path / "base"), run(tmp_path / "slow", 1.5, seed=2)
    conditions = [parse_condition(text) for text in ("get.p50 > +5%", "mix/get.ops_per_s < -5%", "get.p50>60%", "get.mean < -1 %")]
    found = compare([base], [slow], conditions=conditions)
    assert found.verdict == "regressed"
    assert [text.partition(":")[0] for text in found.failed] == ["get.p50 > +5%", "mix/get.ops_per_s < -5%"]
    same = compare([base], [run(tmp_path / "same", seed=3)], conditions=[parse_condition("get.p50 > -90%")])
    assert same.verdict == "no difference"
    assert same.failed == [], "no difference is none, whatever its sign"
    console = Console(file=io.StringIO(), width=60)
    print_comparison(found, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "regressed  base -> slow" in said
    assert "--fail-if get.p50 > +5%" in said
    assert "…" not in said


def test_what_cannot_be_judged_fails_its_condition(tmp_path: Path) -> None:
    base, new = run(tmp_path / "base", seconds=20), run(tmp_path / "new", seconds=20, seed=2)
    found = compare([base], [new], conditions=[parse_condition("get.p50 > +5%")])
    assert found.verdict == "too little data"
    assert "too little data" in found.failed[0]


@pytest.mark.parametrize("text", ["get.p99", "p99 > 5%", "get.p42 > 5%", "get.p99 > 5", "get.p99 >= 5%", ""])
def test_conditions_that_are_not_understood(text: str) -> None:
    with pytest.raises(ConfigError, match="is not understood") as caught:
        parse_condition(text)
    assert "get.p99 > +5%" in str(caught.value)


def test_a_condition_on_what_is_not_there(tmp_path: Path) -> None:
    base, new = run(tmp_path / "base"), run(tmp_path / "new", seed=2)
    with pytest.raises(ConfigError, match="names what is not in both sides") as caught:
        compare([base], [new], conditions=[parse_condition("put.p99 > 5%")])
    assert "mix/get.p95" in str(caught.value)


def test_what_is_not_compared(tmp_path: Path) -> None:
    base = run(tmp_path / "base")
    partial = whole("h1", 5 * SECOND)
    write_run(tmp_path / "partial", [partial], plan=dataclasses.replace(PLAN, run_id="partial", agents=("h1", "h2")), complete=False)
    with pytest.raises(ConfigError, match="run partial is PARTIAL"):
        compare([base], [tmp_path / "partial"])
    assert compare([base], [tmp_path / "partial"], allow_partial=True).verdict == "too little data"
    with pytest.raises(ConfigError, match="no run directory"):
        compare([base], [tmp_path])
    other = run(tmp_path / "other", seed=2, workers=3)
    with pytest.raises(ConfigError, match="are on one side and differ in workers: 0 and 3"):
        compare([base, other], [run(tmp_path / "third", seed=3)])
    with pytest.raises(ConfigError, match="run base is given twice"):
        compare([base], [other, tmp_path / "other" / ".." / "base"])
    assert compare([base], [other]).differences == ["workers: 0 and 3"]


def test_sides_on_the_command_line() -> None:
    assert _sides(["a", "b"]) == (["a"], ["b"])
    assert _sides(["a", "b", "vs", "c"]) == (["a", "b"], ["c"])
    for wrong in (["a"], ["a", "b", "c"], ["a", "vs"], ["vs", "a"], ["a", "vs", "b", "vs", "c"]):
        with pytest.raises(ConfigError, match="expected two runs"):
            _sides(wrong)


def test_the_exit_code_is_7_when_a_condition_holds(tmp_path: Path) -> None:
    from sai3ssh.cli import app

    base, slow = run(tmp_path / "base"), run(tmp_path / "slow", 1.5, seed=2)
    words = ["compare", str(base), str(slow), "--fail-if", "get.p50 > +5%", "--json"]
    assert CliRunner().invoke(app, words).exit_code == 7
    assert CliRunner().invoke(app, words[:3]).exit_code == 0
