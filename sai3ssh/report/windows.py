"""What histogram records tell over time, all agents merged: percentiles, a heat map, endpoints. Memory grows with neither."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..histogram import OFFSET, Histogram
from ..results.cells import ArrayHistogram, told
from ..results.journal import AgentStage, EndpointData

Json = dict[str, Any]
STEP_S = 10
"""Agents write a histogram this often."""
MOST = 360
"""A stage with more windows than this has windows of twice the length."""
BIN_BITS = 4
"""A bin of the heat map is 16 cells of a histogram: a quarter of an octave."""
RANKS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}


@dataclass
class Window:
    """What ended in one window of a stage on all agents."""

    operations: dict[str, Histogram] = field(default_factory=dict)
    endpoints: dict[tuple[str, int], EndpointData] = field(default_factory=dict)
    """By operation and position of the endpoint."""
    from_s: float = float("inf")
    to_s: float = 0.0

    def add(self, other: Window) -> None:
        """Merges another."""
        for op, histogram in other.operations.items():
            self.operations.setdefault(op, ArrayHistogram()).merge(histogram)
        for where, part in other.endpoints.items():
            self.endpoints.setdefault(where, EndpointData()).add(part)
        self.from_s, self.to_s = min(self.from_s, other.from_s), max(self.to_s, other.to_s)


@dataclass
class StageWindows:
    """The windows of one stage, by number."""

    step_s: int = STEP_S
    windows: dict[int, Window] = field(default_factory=dict)

    def add(self, window: Window) -> None:
        """Puts a record where its middle is."""
        number = int(max(0.0, window.from_s + window.to_s) / 2 // self.step_s)
        while number >= MOST:
            self._widen()
            number //= 2
        self.windows.setdefault(number, Window()).add(window)

    def _widen(self) -> None:
        before, self.windows = self.windows, {}
        self.step_s *= 2
        for number, window in before.items():
            self.windows.setdefault(number // 2, Window()).add(window)

    def to_json(self, endpoints: int) -> Json:
        """As `windows` of the document."""
        numbers = sorted(self.windows)
        found = [self.windows[number] for number in numbers]
        ops = list(dict.fromkeys(op for window in found for op in window.operations))
        return {
            "step_s": self.step_s,
            "at": [number * self.step_s for number in numbers],
            "span_s": [round(max(0.0, window.to_s - window.from_s), 2) for window in found],
            "operations": {op: _latencies([window.operations.get(op) for window in found]) for op in ops},
            "heat": {op: _heat([window.operations.get(op) for window in found]) for op in ops},
            "endpoints": [{op: _endpoint(found, op, position) for op in ops} for position in range(endpoints)],
        }


class Windows:
    """All stages of a run. `take` is an OnHistogram of results.journal."""

    def __init__(self) -> None:
        self.stages: dict[int, StageWindows] = {}
        self._until_ns: dict[tuple[str, int], int] = {}

    def take(self, agent: str, record: Json, stage: AgentStage) -> None:
        """Adds a hist record as the journal has it."""
        if stage.start is None:
            return
        start_ns, to_ns = stage.start["start_clock_ns"], record["clock_ns"]
        from_ns = self._until_ns.get((agent, record["stage"]), stage.start["actual_clock_ns"])
        self._until_ns[agent, record["stage"]] = to_ns
        window = Window(from_s=(from_ns - start_ns) / 1e9, to_s=(to_ns - start_ns) / 1e9)
        for kind, op, name, part, first, steps in told(record):
            if kind == "splits":
                continue
            counts = np.cumsum(steps, dtype=np.int64)
            filled = np.flatnonzero(counts)
            histogram = ArrayHistogram(filled + first, counts[filled], sum_ns=part["sum_ns"])
            if kind == "hist":
                window.operations.setdefault(op, ArrayHistogram()).merge(histogram)
            else:
                failed = part.get("errors", 0), part.get("retries", 0)
                window.endpoints[op, int(name)] = EndpointData(histogram, part["bytes"], *failed)
        self.stages.setdefault(record["stage"], StageWindows()).add(window)


def _latencies(histograms: list[Histogram | None]) -> Json:
    columns: Json = {"n": [], "mean_us": [], **{f"{name}_us": [] for name in RANKS}}
    for histogram in histograms:
        known = histogram is not None and histogram.count > 0
        columns["n"].append(histogram.count if histogram is not None else 0)
        columns["mean_us"].append(round(histogram.mean_ns / 1000) if histogram is not None and known else None)
        values = histogram.percentiles(list(RANKS.values())) if histogram is not None and known else [None] * len(RANKS)
        for name, value in zip(RANKS, values, strict=True):
            columns[f"{name}_us"].append(us(value))
    return columns


def _heat(histograms: list[Histogram | None]) -> Json:
    cells: dict[tuple[int, int], int] = {}
    for position, histogram in enumerate(histograms):
        for cell, n in histogram.cells.items() if histogram is not None else ():
            where = position, (cell + OFFSET) >> BIN_BITS
            cells[where] = cells.get(where, 0) + n
    used = sorted(cells)
    low = min((number for _, number in used), default=0)
    high = max((number for _, number in used), default=-1)
    return {
        "edges_us": [edge_us(number) for number in range(low, high + 2)] if used else [],
        "window": [position for position, _ in used],
        "bin": [number - low for _, number in used],
        "n": [cells[where] for where in used],
    }


def edge_us(number: int) -> float:
    """The lower edge of a bin of the heat map."""
    raw = number << BIN_BITS
    shift = (raw >> 6) - 1
    return float(f"{((raw - (shift << 6)) << shift) / 1000:.6g}")


def _endpoint(found: list[Window], op: str, position: int) -> Json:
    parts = [window.endpoints.get((op, position)) for window in found]
    figures = _latencies([part.histogram if part is not None else None for part in parts])
    kept = {name: figures[name] for name in ("n", "p50_us", "p99_us")}
    counts = {name: [getattr(part, name) if part is not None else 0 for part in parts] for name in ("bytes", "errors", "retries")}
    return {**kept, **counts}


def us(value_ns: float | None) -> float | None:
    """Nanoseconds in us, to as many digits as a histogram knows."""
    return float(f"{value_ns / 1000:.4g}") if value_ns is not None else None
