"""Two sides, each of one run or several: what differs between them, and whether it is more than chance.

With several runs a side, runs are the sample: a t interval (Student, pooled variance) of the mean logarithms. With one run a side it is
its windows of 10 s: a circular block bootstrap (Politis and Romano 1992) of both runs, whose interval is widened by the t distribution
for the number of windows. That knows nothing of what varies from one run to the next, so smaller differences are not told apart then.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ..errors import ConfigError
from ..histogram import value_of
from ..model import BUCKET_LABELS, Verdict
from .runs import GivenRun, differences, read_run
from .windows import Window, windows

Json = dict[str, Any]
Floats = NDArray[np.float64]

LATENCIES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
METRICS = ("ops_per_s", "mib_per_s", "mean", *LATENCIES)
JUDGED = ("ops_per_s", "p50", "p99")
"""What says improved or regressed; the others are shown with their intervals."""
JUDGED_KINDS = ("execute", "prepare")
SAME, IMPROVED, REGRESSED, TOO_SHORT = "no difference", "improved", "regressed", "too little data"
RESAMPLES = 500
"""Enough for a standard deviation: its own error is 3 %."""
FEWEST_WINDOWS = 6
BEYOND = 100
"""A percentile is compared when each side has at least so many operations beyond it."""
LEAST_OF_SINGLE_RUNS = 0.03
LEAST = 0.01


@dataclass(frozen=True)
class Row:
    """One figure of both sides. `change`, `low` and `high` are fractions of the base: 0.05 is 5 % more."""

    stage: str
    operation: str
    size: str
    """all, or a size bucket."""
    metric: str
    """ops_per_s, mib_per_s, or a latency in us."""
    base: float
    """Geometric mean over the runs."""
    new: float
    change: float
    low: float | None
    """The confidence interval of the change; None with too little data."""
    high: float | None
    finding: str
    judged: bool
    """Whether it counts for the verdict."""


@dataclass(frozen=True)
class Condition:
    """A difference that is not wanted: `[stage/]operation.metric > +N%` or `< -N%`."""

    text: str
    stage: str | None
    operation: str
    metric: str
    above: bool
    limit: float

    def holds(self, row: Row) -> bool:
        """Whether the difference is beyond the limit, and not by chance; true as well when that cannot be judged."""
        if row.finding == TOO_SHORT:
            return True
        beyond = row.change > self.limit if self.above else row.change < self.limit
        return beyond and row.finding != SAME


@dataclass(frozen=True)
class Comparison:
    """What differs between two sides."""

    verdict: str
    """no difference, improved, regressed, improved and regressed, or too little data."""
    base: list[str]
    """Run ids."""
    new: list[str]
    confidence: float
    """That no interval of a judged row misses its true value, 0 to 1."""
    least: float
    """Smaller changes are no difference."""
    differences: list[str]
    """Of the plans."""
    rows: list[Row]
    failed: list[str]
    """The conditions that hold, each with what was found."""


def parse_condition(text: str) -> Condition:
    """Reads a --fail-if; raises ConfigError."""
    names = "|".join(re.escape(name) for name in METRICS)
    found = re.fullmatch(rf"(?:([\w.-]+)/)?(\w+)\.({names})\s*([<>])\s*([+-]?\d+(?:\.\d+)?)\s*%", text.strip())
    if found is None:
        raise ConfigError(
            f"--fail-if {text!r} is not understood",
            remedy=f"Write for example 'get.p99 > +5%' or 'mix/put.ops_per_s < -5%'; what can be compared: {', '.join(METRICS)}",
        )
    stage, operation, metric, sign, limit = found.groups()
    return Condition(text, stage, operation, metric, sign == ">", float(limit) / 100)


def compare(
    base: Sequence[Path],
    new: Sequence[Path],
    *,
    allow_partial: bool = False,
    confidence: float = 0.99,
    least: float | None = None,
    conditions: Sequence[Condition] = (),
) -> Comparison:
    """Compares the runs of two sides by stage, operation and size bucket.

    A row is improved or regressed when its interval excludes no change, and the change is at least `least` (default 1 % where a side has
    several runs, else 3 %). Intervals are simultaneous over all judged rows (Bonferroni). Raises ConfigError when a run cannot be read,
    is given twice,
    is FAILED, or, unless allow_partial, PARTIAL, when runs of one side have different plans, when the sides have no stage and operation in
    common, and when a condition names what neither has.
    """
    sides = [[_load(path, allow_partial) for path in paths] for paths in (base, new)]
    seen: set[str] = set()
    for run in (run for runs in sides for run in runs):
        if run.run_id in seen:
            raise ConfigError(f"run {run.run_id} is given twice", remedy="Name each run once: it would pass for two that agree")
        seen.add(run.run_id)
    for runs in sides:
        for run in runs[1:]:
            for found in differences(runs[0].plan, run.plan):
                raise ConfigError(
                    f"runs {runs[0].run_id} and {run.run_id} are on one side and differ in {found}", remedy="Give runs of one plan per side"
                )
    return compare_runs(*sides, confidence=confidence, least=least, conditions=conditions)


def compare_runs(
    base: Sequence[GivenRun],
    new: Sequence[GivenRun],
    *,
    confidence: float,
    least: float | None = None,
    conditions: Sequence[Condition] = (),
    windows_of: Callable[[GivenRun], list[list[Window]]] = lambda run: windows(run.path, len(run.plan["stages"])),
) -> Comparison:
    """compare() of runs that have been read."""
    single = len(base) == len(new) == 1
    limit = least if least is not None else LEAST_OF_SINGLE_RUNS if single else LEAST
    pairs = _pairs(base, new)
    if not pairs:
        raise ConfigError(
            f"runs {base[0].run_id} and {new[0].run_id} have no stage and operation in common", remedy="Compare runs of like workloads"
        )
    judged = sum(pair.kind in JUDGED_KINDS for pair in pairs) * len(JUDGED)
    tail = (1 - confidence) / max(1, judged) / 2
    resamples = _Resamples([windows_of(runs[0]) for runs in (base, new)]) if single else None
    rows = [row for pair in pairs for row in _rows(pair, tail, limit, resamples)]
    failed = [text for condition in conditions for text in _failed(condition, rows)]
    plans = list(differences(base[0].plan, new[0].plan))
    names = [[run.run_id for run in runs] for runs in (base, new)]
    return Comparison(_verdict(rows), names[0], names[1], confidence, limit, plans, rows, failed)


@dataclass(frozen=True)
class _Pair:
    """A stage, operation and size that both sides have."""

    stage: str
    kind: str
    operation: str
    bucket: int | None
    """None: all sizes."""
    figures: tuple[list[Json], list[Json]]
    """Of each run, as in results.json."""
    stages: tuple[int, int]
    """Position of the stage in each side's plan."""

    @property
    def size(self) -> str:
        return "all" if self.bucket is None else BUCKET_LABELS[self.bucket]


class _Resamples:
    """Windows of two single runs, drawn again and again."""

    def __init__(self, sides: Sequence[list[list[Window]]]) -> None:
        self._windows = sides
        self._rng = np.random.default_rng(1)
        self._weights: dict[tuple[int, int], Floats] = {}

    def count(self, side: int, stage: int) -> int:
        """Windows of a stage."""
        return len(self._windows[side][stage])

    def metrics(self, side: int, stage: int, operation: str, bucket: int | None) -> Callable[[str], Floats]:
        """The value of a metric in each resample."""
        parts = [
            (window.seconds, [region for (op, size), region in window.regions.items() if op == operation and bucket in (None, size)])
            for window in self._windows[side][stage]
        ]
        weights = self._drawn(side, stage)
        used = sorted({cell for _, regions in parts for region in regions for cell in region.histogram.cells})
        position = {cell: at for at, cell in enumerate(used)}
        counts = np.zeros((len(parts), len(used)))
        sums = np.zeros((len(parts), 4))
        for row, (seconds, regions) in enumerate(parts):
            sums[row, 0] = seconds
            for region in regions:
                cells = region.histogram.cells
                counts[row, [position[cell] for cell in cells]] += list(cells.values())
                in_time = region.histogram.count - region.tail_ops
                sums[row, 1:] += (in_time, region.bytes - region.tail_bytes, region.histogram.sum_ns)
        cumulated = np.cumsum(weights @ counts, axis=1)
        total_s, ops, size, sum_ns = (weights @ sums).T
        values = np.array([value_of(cell) for cell in used]) / 1000

        def metric(name: str) -> Floats:
            wanted = np.ceil(cumulated[:, -1] * LATENCIES.get(name, 0.0) / 100)
            with np.errstate(divide="ignore", invalid="ignore"):
                found: dict[str, Floats] = {
                    "ops_per_s": ops / total_s,
                    "mib_per_s": size / total_s / (1 << 20),
                    "mean": sum_ns / cumulated[:, -1] / 1000,
                }
            if name in found:
                return found[name]
            at = np.minimum((cumulated < wanted[:, None]).sum(axis=1), len(used) - 1)
            latencies: Floats = values[at]
            return latencies

        return metric

    def _drawn(self, side: int, stage: int) -> Floats:
        """How often each window is in each resample: blocks of them, so that what lasts longer than a window stays together."""
        if (side, stage) not in self._weights:
            count = self.count(side, stage)
            length = max(1, round(count ** (1 / 3)))
            starts = self._rng.integers(0, count, size=(RESAMPLES, -(-count // length)))
            drawn = ((starts[:, :, None] + np.arange(length)) % count).reshape(RESAMPLES, -1)[:, :count]
            weights = np.zeros((RESAMPLES, count))
            np.add.at(weights, (np.arange(RESAMPLES)[:, None], drawn), 1)
            self._weights[side, stage] = weights
        return self._weights[side, stage]


def _load(path: Path, allow_partial: bool) -> GivenRun:
    run = read_run(path)
    verdict, why = run.results.verdict, "; ".join(run.results.reasons)
    if verdict is Verdict.FAILED:
        raise ConfigError(f"run {run.run_id} FAILED: {why}", remedy="Its figures are of no use; run it again")
    if verdict is Verdict.PARTIAL and not allow_partial:
        raise ConfigError(f"run {run.run_id} is PARTIAL: {why}", remedy="Compare COMPLETE runs, or give --allow-partial")
    return run


def _pairs(base: Sequence[GivenRun], new: Sequence[GivenRun]) -> list[_Pair]:
    there = _stages(new[0])
    pairs = []
    for key, index in _stages(base[0]).items():
        if key not in there:
            continue
        places = (index, there[key])
        stages = tuple(
            [run.results.content["stages"][at]["operations"] for run in runs] for runs, at in zip((base, new), places, strict=True)
        )
        for operation in stages[0][0]:
            if not all(operation in part and part[operation]["ops"] for side in stages for part in side):
                continue
            figures = [[part[operation] for part in side] for side in stages]
            pairs.append(_Pair(key[0], key[1], operation, None, (figures[0], figures[1]), places))
            buckets = [set.intersection(*(set(one["buckets"]) for one in side)) for side in figures]
            if max(len(one["buckets"]) for side in figures for one in side) > 1:
                for bucket in sorted(buckets[0] & buckets[1], key=int):
                    of_size = [[one["buckets"][bucket] for one in side] for side in figures]
                    pairs.append(_Pair(key[0], key[1], operation, int(bucket), (of_size[0], of_size[1]), places))
    return pairs


def _stages(run: GivenRun) -> dict[tuple[str, str, int], int]:
    """Position of each stage by name, kind and number among those of its name and kind."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for index, stage in enumerate(run.results.content["stages"]):
        key = (stage["name"], stage["kind"])
        found[(*key, seen[key])] = index
        seen[key] += 1
    return found


def _value(figures: Json, metric: str) -> float:
    return float(figures[metric] if metric in figures else figures["latency_us"][metric])


def _rows(pair: _Pair, tail: float, least: float, resamples: _Resamples | None) -> list[Row]:
    drawn: list[Callable[[str], Floats]] = []
    if resamples is not None and min(resamples.count(side, pair.stages[side]) for side in (0, 1)) >= FEWEST_WINDOWS:
        drawn = [resamples.metrics(side, pair.stages[side], pair.operation, pair.bucket) for side in (0, 1)]
    rows = []
    fewest = min(one["ops"] for side in pair.figures for one in side)
    for metric in METRICS:
        values = [[_value(one, metric) for one in side] for side in pair.figures]
        if not all(value > 0 for side in values for value in side):
            continue  # no bytes
        if metric in LATENCIES and fewest * (100 - LATENCIES[metric]) / 100 < BEYOND:
            continue
        logs = [np.log(side) for side in values]
        change = float(np.mean(logs[1]) - np.mean(logs[0]))
        half = _half_of_runs(logs, tail) if resamples is None else None
        if resamples is not None and drawn:
            df = min(resamples.count(side, pair.stages[side]) for side in (0, 1)) - 1
            ratio = np.log(drawn[1](metric)) - np.log(drawn[0](metric))
            half = float(stdtrit(df, 1 - tail) * np.std(ratio, ddof=1)) if np.all(np.isfinite(ratio)) else None
        low, high = (None, None) if half is None else (math.expm1(change - half), math.expm1(change + half))
        rows.append(
            Row(
                pair.stage, pair.operation, pair.size, metric, float(np.exp(np.mean(logs[0]))), float(np.exp(np.mean(logs[1]))),
                math.expm1(change), low, high, _finding(metric, math.expm1(change), low, high, least),
                pair.kind in JUDGED_KINDS and metric in JUDGED,
            )
        )  # fmt: skip
    return rows


def _half_of_runs(logs: Sequence[Floats], tail: float) -> float:
    """Half the width of Student's interval of a difference of means with one variance for both sides."""
    sizes = [len(side) for side in logs]
    df = sum(sizes) - 2
    variance = sum(float(np.sum((side - np.mean(side)) ** 2)) for side in logs) / df
    return float(stdtrit(df, 1 - tail)) * math.sqrt(variance * sum(1 / size for size in sizes))


def _finding(metric: str, change: float, low: float | None, high: float | None, least: float) -> str:
    if low is None or high is None:
        return TOO_SHORT
    if low <= 0 <= high or abs(change) < least:
        return SAME
    more_is_better = metric in ("ops_per_s", "mib_per_s")
    return IMPROVED if (change > 0) is more_is_better else REGRESSED


def _verdict(rows: Sequence[Row]) -> str:
    found = {row.finding for row in rows if row.judged}
    if IMPROVED in found and REGRESSED in found:
        return f"{IMPROVED} and {REGRESSED}"
    return next((finding for finding in (REGRESSED, IMPROVED, SAME) if finding in found), TOO_SHORT)


def _failed(condition: Condition, rows: Sequence[Row]) -> list[str]:
    of_operation = [
        row
        for row in rows
        if row.size == "all"
        and row.operation == condition.operation
        and condition.stage in (None, row.stage)
        and row.metric == condition.metric
    ]
    if not of_operation:
        there = ", ".join(sorted({f"{row.stage}/{row.operation}.{row.metric}" for row in rows if row.size == "all"}))
        raise ConfigError(f"--fail-if {condition.text!r} names what is not in both sides", remedy=f"There are {there}")
    return [
        f"{condition.text}: {row.stage}/{row.operation}.{row.metric} {row.change:+.1%}, {row.finding}"
        for row in of_operation
        if condition.holds(row)
    ]
