"""A stage in windows of time: what all agents did between two histogram records (each 10 s). Memory grows with windows, not with agents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..protocol import ProtocolError
from .cells import CellSum, told
from .journal import FIGURES, Region, records

Json = dict[str, Any]


@dataclass
class Window:
    """What all agents did in one window, without warm-up."""

    regions: dict[tuple[str, int], Region] = field(default_factory=dict)
    """By operation and size bucket."""
    agent_s: float = 0.0
    """Agent-seconds that were measured."""
    agents: int = 0

    @property
    def seconds(self) -> float:
        """How long the window was, as the mean over its agents."""
        return self.agent_s / self.agents if self.agents else 0.0


def windows(directory: Path, stages: int) -> list[list[Window]]:
    """The windows of each of the stages of a run, in order: the n-th record of all agents together.

    Operations that were counted and whose histogram a power cut took are in none.
    """
    sums: list[list[_Sum]] = [[] for _ in range(stages)]
    for path in sorted((directory / "agents").glob("*/journal.ndjson")):
        _add(sums, path)
    return [[window.result() for window in stage] for stage in sums]


@dataclass
class _Sum:
    """A window whose histograms are being added, many at a time."""

    regions: dict[tuple[str, int], tuple[CellSum, list[int]]] = field(default_factory=dict)
    agent_s: float = 0.0
    agents: int = 0

    def result(self) -> Window:
        regions = {key: Region(cells.histogram(), *counts) for key, (cells, counts) in self.regions.items()}
        return Window(regions, self.agent_s, self.agents)


def _add(sums: list[list[_Sum]], path: Path) -> None:
    elapsed: dict[int, float] = {}
    number: Counter[int] = Counter()
    try:
        for record in records(path):
            if "warmup" in record:
                continue
            if record["kind"] == "sec":
                seconds = (record["to_clock_ns"] - record["from_clock_ns"]) / 1e9
                elapsed[record["stage"]] = elapsed.get(record["stage"], 0.0) + seconds
            elif record["kind"] == "hist":
                stage = record["stage"]
                _take(sums[stage], number[stage], record, elapsed.pop(stage, 0.0))
                number[stage] += 1
    except ProtocolError:
        return  # a torn mirror: what is whole of it counts


def _take(stage: list[_Sum], number: int, record: Json, agent_s: float) -> None:
    while len(stage) <= number:
        stage.append(_Sum())
    window = stage[number]
    window.agent_s += agent_s
    window.agents += 1
    for kind, op, bucket, part, first, steps in told(record):
        if kind == "hist":
            cells, counts = window.regions.setdefault((op, int(bucket)), (CellSum(), [0, 0, 0]))
            cells.add(first, steps, part["sum_ns"], part["max_ns"])
            for at, name in enumerate(FIGURES[kind]):
                counts[at] += part.get(name, 0)
