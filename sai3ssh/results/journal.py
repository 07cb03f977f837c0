"""One agent's mirror, read into what results are made of. Memory does not grow with operations, only with seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..histogram import Histogram
from ..protocol import ProtocolError, decode_record

Json = dict[str, Any]


@dataclass
class Region:
    """Latencies and bytes of one operation and size bucket."""

    histogram: Histogram = field(default_factory=Histogram)
    bytes: int = 0
    tail_ops: int = 0
    tail_bytes: int = 0

    def add(self, other: Region) -> None:
        """Merges another."""
        self.histogram.merge(other.histogram)
        self.bytes += other.bytes
        self.tail_ops += other.tail_ops
        self.tail_bytes += other.tail_bytes


@dataclass
class StageData:
    """What one agent, or all, did in one stage, without warm-up."""

    regions: dict[tuple[str, int], Region] = field(default_factory=dict)
    """By operation and size bucket."""
    requests: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    retried: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    second_ops: Counter[str] = field(default_factory=Counter)
    """Operations by the second summaries: must agree with the histograms."""
    second_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, other: StageData) -> None:
        """Merges another agent's."""
        for key, region in other.regions.items():
            self.regions.setdefault(key, Region()).add(region)
        for name in ("requests", "retries", "retried", "errors", "second_ops", "second_bytes"):
            getattr(self, name).update(getattr(other, name))

    def operations(self) -> list[str]:
        """The kinds of operation that were tried."""
        seen = {op for op, _ in self.regions} | set(self.requests) | {op for op, _ in self.errors}
        return [op for op in ("get", "put", "list", "stat", "delete") if op in seen]

    def total(self, op: str) -> Region:
        """All size buckets of an operation."""
        result = Region()
        for (kind, _), region in self.regions.items():
            if kind == op:
                result.add(region)
        return result


@dataclass
class AgentStage:
    """One stage in one agent's journal. Times are CLOCK_BOOTTIME of its host, in ns."""

    start: Json | None = None
    end: Json | None = None
    data: StageData = field(default_factory=StageData)
    warmup: StageData = field(default_factory=StageData)
    seconds: list[Json] = field(default_factory=list)
    measured: list[tuple[int, int]] = field(default_factory=list)
    """Intervals with a summary, merged."""


@dataclass
class AgentJournal:
    """One agent's part of the run, as far as its mirror goes."""

    agent_id: str
    epoch: Json | None = None
    stages: dict[int, AgentStage] = field(default_factory=dict)
    final: Json | None = None
    notices: list[str] = field(default_factory=list)
    torn: bool = False
    """The mirror ends within a record."""


def records(path: Path) -> Iterator[Json]:
    """The whole records of a mirror; a torn last line is left out. Raises ProtocolError on anything else that is altered."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decode_record(line)


def read_agent(agent_id: str, path: Path) -> AgentJournal:
    """The agent's journal; empty when there is no mirror yet."""
    agent = AgentJournal(agent_id)
    if not path.exists():
        return agent
    try:
        for record in records(path):
            _take(agent, record)
    except ProtocolError:
        agent.torn = True
    return agent


def _take(agent: AgentJournal, record: Json) -> None:
    kind = record["kind"]
    if kind == "epoch":
        agent.epoch = record
    elif kind == "final":
        agent.final = record
    elif kind == "notice":
        agent.notices.append(str(record["text"]))
    elif kind in ("stage_start", "stage_end", "sec", "gap", "hist"):
        stage = agent.stages.setdefault(record["stage"], AgentStage())
        if kind == "stage_start":
            stage.start = record
        elif kind == "stage_end":
            stage.end = record
        elif kind == "hist":
            _take_hist(stage.warmup if record["warmup"] else stage.data, record["hist"])
        else:
            _take_second(stage, record)


def _take_hist(data: StageData, hist: Json) -> None:
    for op, buckets in hist.items():
        for bucket, cells in buckets.items():
            region = data.regions.setdefault((op, int(bucket)), Region())
            part = Histogram.from_pairs(cells["cells"], sum_ns=cells["sum_ns"], max_ns=cells["max_ns"])
            region.add(Region(part, cells["bytes"], cells["tail_ops"], cells["tail_bytes"]))


def _take_second(stage: AgentStage, record: Json) -> None:
    data = stage.warmup if record["warmup"] else stage.data
    for op, figures in record["ops"].items():
        data.second_ops[op] += figures[0]
        data.second_bytes[op] += figures[1]
    data.requests.update(record["requests"])
    data.retries.update(record["retries"])
    for op, classes in record["errors"].items():
        for name, n in classes.items():
            data.errors[op, name] += n
    for op, classes in record.get("retried", {}).items():
        for name, n in classes.items():
            data.retried[op, name] += n
    start, end = record["from_clock_ns"], record["to_clock_ns"]
    if stage.measured and stage.measured[-1][1] >= start:
        stage.measured[-1] = (stage.measured[-1][0], max(end, stage.measured[-1][1]))
    else:
        stage.measured.append((start, end))
    if record["kind"] == "sec":
        stage.seconds.append(record)
