"""A stage in windows of time: what all agents did between two histogram records (each 10 s). Memory grows with windows, not with agents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..histogram import Histogram
from ..protocol import ProtocolError
from .journal import Region, records

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
    found: list[list[Window]] = [[] for _ in range(stages)]
    for path in sorted((directory / "agents").glob("*/journal.ndjson")):
        _add(found, path)
    return found


def _add(found: list[list[Window]], path: Path) -> None:
    elapsed: dict[int, float] = {}
    number: Counter[int] = Counter()
    try:
        for record in records(path):
            if record["kind"] == "sec" and not record["warmup"]:
                seconds = (record["to_clock_ns"] - record["from_clock_ns"]) / 1e9
                elapsed[record["stage"]] = elapsed.get(record["stage"], 0.0) + seconds
            elif record["kind"] == "hist" and not record["warmup"]:
                stage = record["stage"]
                _take(found[stage], number[stage], record["hist"], elapsed.pop(stage, 0.0))
                number[stage] += 1
    except ProtocolError:
        return  # a torn mirror: what is whole of it counts


def _take(stage: list[Window], number: int, hist: Json, agent_s: float) -> None:
    while len(stage) <= number:
        stage.append(Window())
    window = stage[number]
    window.agent_s += agent_s
    window.agents += 1
    for op, buckets in hist.items():
        for bucket, part in buckets.items():
            histogram = Histogram.from_pairs(part["cells"], sum_ns=part["sum_ns"], max_ns=part["max_ns"])
            region = Region(histogram, part["bytes"], part["tail_ops"], part["tail_bytes"])
            window.regions.setdefault((op, int(bucket)), Region()).add(region)
