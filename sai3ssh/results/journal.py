"""One agent's mirror, read into what results are made of. Memory does not grow with operations, only with seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..histogram import Histogram
from ..model import OPERATIONS, SPLIT_PARTS
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
class Splits:
    """The parts of the latencies of one operation: of each that is known the first byte, of the other parts what was counted."""

    parts: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in SPLIT_PARTS})

    @property
    def known(self) -> int:
        """Operations whose parts are known; one that is not in the histogram of a part had next to nothing of it."""
        return self.parts["first_byte"].count

    def add(self, other: Splits) -> None:
        """Merges another."""
        for name, histogram in other.parts.items():
            self.parts[name].merge(histogram)


@dataclass
class EndpointData:
    """One operation at one endpoint: latencies of what ended there, and what failed there."""

    histogram: Histogram = field(default_factory=Histogram)
    bytes: int = 0
    errors: int = 0
    """Operations that failed for good."""
    retries: int = 0
    """Attempts that failed and were made again."""

    def add(self, other: EndpointData) -> None:
        """Merges another."""
        self.histogram.merge(other.histogram)
        self.bytes += other.bytes
        self.errors += other.errors
        self.retries += other.retries


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
    splits: dict[str, Splits] = field(default_factory=dict)
    """By operation, where they are known."""
    endpoints: dict[tuple[str, int], EndpointData] = field(default_factory=dict)
    """By operation and position in the target's endpoints, where there are several."""

    def add(self, other: StageData) -> None:
        """Merges another agent's."""
        for key, region in other.regions.items():
            self.regions.setdefault(key, Region()).add(region)
        for op, splits in other.splits.items():
            self.splits.setdefault(op, Splits()).add(splits)
        for where, part in other.endpoints.items():
            self.endpoints.setdefault(where, EndpointData()).add(part)
        for name in ("requests", "retries", "retried", "errors", "second_ops", "second_bytes"):
            getattr(self, name).update(getattr(other, name))

    def operations(self) -> list[str]:
        """The kinds of operation that were tried."""
        seen = {op for op, _ in self.regions} | set(self.requests) | {op for op, _ in self.errors}
        return [op for op in OPERATIONS if op in seen]

    def total(self, op: str) -> Region:
        """All size buckets of an operation."""
        result = Region()
        for (kind, _), region in self.regions.items():
            if kind == op:
                result.add(region)
        return result


@dataclass
class Unreadable:
    """Objects that a verify stage could not read back as they were written."""

    count: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    objects: list[Json] = field(default_factory=list)
    """The first of them: {object, error, detail}."""

    def take(self, told: Json) -> None:
        """Adds what a ledger record tells."""
        self.count += told["count"]
        self.errors.update(told["errors"])
        self.objects += told["objects"]


@dataclass
class AgentStage:
    """One stage in one agent's journal. Times are CLOCK_BOOTTIME of its host, in ns."""

    start: Json | None = None
    end: Json | None = None
    ending: Json | None = None
    """That it was ended before its planned end."""
    data: StageData = field(default_factory=StageData)
    warmup: StageData = field(default_factory=StageData)
    seconds: list[Json] = field(default_factory=list)
    measured: list[tuple[int, int]] = field(default_factory=list)
    """Intervals with a summary, merged; those in which not all workers were at work are left out."""
    unseconded: list[Json] = field(default_factory=list)
    """The gap and lost records with operations, which no second tells."""
    lost: list[Json] = field(default_factory=list)
    """The lost records: what was not measured, and why."""
    without_histogram: Json = field(default_factory=dict)
    """Operations that are in the summaries only, because a power cut took their histograms: {op: [count, bytes, sum_ns]}."""
    unreadable: Unreadable = field(default_factory=Unreadable)
    passes: int = 0
    """How often it was begun: once more for what was taken over from lost agents."""


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
    boot: str | None = None
    """The boot of the host whose clock all times are in."""
    shift_ns: int = 0
    """What brings times of the host's present boot into that clock."""


def records(path: Path) -> Iterator[Json]:
    """The whole records of a mirror; a torn last line is left out. Raises ProtocolError on anything else that is altered."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decode_record(line)


OnHistogram = Callable[[str, Json, AgentStage], None]
"""Called with the agent, the record, whose clock_ns is in the clock of the agent's first boot, and what is known of the stage so far."""


def read_agent(agent_id: str, path: Path, on_histogram: OnHistogram | None = None) -> AgentJournal:
    """The agent's journal; empty when there is no mirror yet. `on_histogram` sees what happened when."""
    agent = AgentJournal(agent_id)
    if not path.exists():
        return agent
    try:
        for record in records(path):
            take(agent, record, on_histogram)
    except ProtocolError:
        agent.torn = True
    return agent


def take(agent: AgentJournal, record: Json, on_histogram: OnHistogram | None = None) -> None:
    """Adds the next record of an agent's mirror; `on_histogram` as in read_agent."""
    _take(agent, record)
    if on_histogram is not None and record["kind"] == "hist":
        moved = {**record, "clock_ns": record["clock_ns"] + agent.shift_ns}
        on_histogram(agent.agent_id, moved, agent.stages[record["stage"]])


_TIMES = ("from_clock_ns", "to_clock_ns", "start_clock_ns", "actual_clock_ns", "end_clock_ns", "drained_clock_ns")


def _take(agent: AgentJournal, record: Json) -> None:
    kind = record["kind"]
    if kind == "epoch":
        agent.epoch, agent.boot = record, record["boot"]
    elif kind == "recovered":
        # Its shift leads from the boot before to the present one; results stay in the clock of the first.
        agent.shift_ns -= record["shift_ns"]
        agent.notices.append("the host was restarted" if record["rebooted"] else "the supervisor was restarted")
    elif kind == "final":
        agent.final = record
    elif kind == "notice":
        agent.notices.append(str(record["text"]))
    elif kind == "worker" and record.get("cause"):
        agent.notices.append(f"worker {record['worker']} was replaced: {record['cause']}")
    elif kind == "ending":
        agent.stages.setdefault(record["stage"], AgentStage()).ending = record
    elif kind == "ledger" and "unreadable" in record:
        agent.stages.setdefault(record["stage"], AgentStage()).unreadable.take(record["unreadable"])
    elif kind in ("stage_start", "stage_end", "sec", "gap", "lost", "hist"):
        if agent.shift_ns:
            record = {**record, **{name: record[name] + agent.shift_ns for name in _TIMES if name in record}}
        stage = agent.stages.setdefault(record["stage"], AgentStage())
        if kind == "stage_start":
            stage.passes += 1
            stage.start = stage.start or record
        elif kind == "stage_end":
            stage.end = record if stage.end is None else _both(stage.end, record)
        elif kind == "hist":
            _take_hist(stage.warmup if record["warmup"] else stage.data, record)
        elif kind == "lost":
            _take_lost(stage, record)
        else:
            _take_second(stage, record)


def _both(first: Json, second: Json) -> Json:
    """The ends of two passes of a stage as one."""
    totals = dict(first["totals"])
    for op, entry in second["totals"].items():
        totals[op] = _sum(totals[op], entry) if op in totals else entry
    made = {"puts": first["made"]["puts"] + second["made"]["puts"], "deleted": {**first["made"]["deleted"], **second["made"]["deleted"]}}
    redone = first.get("redone", 0) + second.get("redone", 0)
    logged = {"op_log": _sum(first["op_log"], second["op_log"])} if "op_log" in first and "op_log" in second else {}
    return {**second, **logged, "start_clock_ns": first["start_clock_ns"], "totals": totals, "made": made, "redone": redone}


def _sum(a: Json, b: Json) -> Json:
    result = dict(a)
    for name, value in b.items():
        result[name] = _sum(a.get(name, {}), value) if isinstance(value, dict) else a.get(name, 0) + value
    return result


def _take_lost(stage: AgentStage, record: Json) -> None:
    _count(stage.warmup if record["warmup"] else stage.data, record)
    if "without_histogram" in record:
        stage.without_histogram = record["without_histogram"]
    if record["ops"]:
        stage.unseconded.append(record)
    start, end = record["from_clock_ns"], record["to_clock_ns"]
    if end > start:
        stage.lost.append({"from_clock_ns": start, "to_clock_ns": end, "cause": record["cause"]})


def _take_hist(data: StageData, record: Json) -> None:
    for op, parts in record.get("splits", {}).items():
        mine = data.splits.setdefault(op, Splits())
        for name, count in parts.items():
            mine.parts[name].merge(Histogram.from_pairs(count["cells"], sum_ns=count["sum_ns"]))
    for op, places in record.get("endpoints", {}).items():
        for position, count in places.items():
            histogram = Histogram.from_pairs(count["cells"], sum_ns=count["sum_ns"], max_ns=count["max_ns"])
            found = EndpointData(histogram, count["bytes"], count["errors"], count["retries"])
            data.endpoints.setdefault((op, int(position)), EndpointData()).add(found)
    for op, buckets in record["hist"].items():
        for bucket, cells in buckets.items():
            region = data.regions.setdefault((op, int(bucket)), Region())
            part = Histogram.from_pairs(cells["cells"], sum_ns=cells["sum_ns"], max_ns=cells["max_ns"])
            region.add(Region(part, cells["bytes"], cells["tail_ops"], cells["tail_bytes"]))


def _count(data: StageData, record: Json) -> None:
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


def _take_second(stage: AgentStage, record: Json) -> None:
    _count(stage.warmup if record["warmup"] else stage.data, record)
    start, end = record["from_clock_ns"], record["to_clock_ns"]
    if stage.measured and stage.measured[-1][1] >= start:
        stage.measured[-1] = (stage.measured[-1][0], max(end, stage.measured[-1][1]))
    else:
        stage.measured.append((start, end))
    (stage.seconds if record["kind"] == "sec" else stage.unseconded).append(record)
