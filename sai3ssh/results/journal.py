"""One agent's mirror, read into what results are made of. Memory does not grow with operations, only with seconds."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from .. import compact
from ..errors import ConfigError
from ..histogram import Histogram
from ..model import OPERATIONS, SPLIT_PARTS
from ..protocol import MISSHAPEN, ProtocolError
from .cells import ArrayHistogram, CellSum, told
from .columns import KINDS, Collector, Names, Seconds

Json = dict[str, Any]


UNLIKE_OURS = (*MISSHAPEN, ArithmeticError, struct.error)
"""What comes of records that are whole, but not such as an agent writes."""
MOST_HISTOGRAMS = 8192
"""Of a stage, of one agent: more than operations, size buckets and endpoints give."""


@dataclass
class Region:
    """Latencies and bytes of one operation and size bucket."""

    histogram: Histogram = field(default_factory=ArrayHistogram)
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

    parts: dict[str, Histogram] = field(default_factory=lambda: {name: ArrayHistogram() for name in SPLIT_PARTS})

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

    histogram: Histogram = field(default_factory=ArrayHistogram)
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
    seconds: Seconds = field(default_factory=Seconds.empty)
    """The sec records, as columns."""
    measured: list[tuple[int, int]] = field(default_factory=list)
    """Intervals with a summary, merged; those in which not all workers were at work are left out."""
    unseconded: list[Json] = field(default_factory=list)
    """The gap and lost records with operations, which no second tells."""
    lost: list[Json] = field(default_factory=list)
    """The lost records: what was not measured, and why."""
    without_histogram: Json = field(default_factory=dict)
    """Operations that are in the summaries only, because a power cut took their histograms: {op: [count, bytes, sum_ns]}."""
    unreadable: Unreadable = field(default_factory=Unreadable)
    command: Json | None = None
    """What became of the command of a custom stage."""
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


FIGURES: dict[str, tuple[str, ...]] = {
    "hist": ("bytes", "tail_ops", "tail_bytes"),
    "splits": (),
    "endpoints": ("bytes", "errors", "retries"),
}
"""What a hist record counts beside cells: of regions, parts of the latency, endpoints."""


def records(path: Path) -> Iterator[Json]:
    """The whole records of a mirror as they are there, without what compact leaves out; no torn last line. Raises ProtocolError on anything
    else that is altered."""
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decode(line)


def decode(line: bytes) -> Json:
    """The record of a whole line as it is there. Raises ProtocolError."""
    if line[-19:-11] != b',"crc":"' or line[-3:] != b'"}\n' or line[-11:-3] != b"%08x" % zlib.crc32(line[:-19]):
        raise ProtocolError("journal line is torn or altered")
    record = parse_json(line)
    del record["crc"]
    return record


def parse_json(data: bytes) -> Json:
    """The object in a line or file of ours."""
    try:
        found: Json = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = json.loads(data)  # such as NaN, which Python's own writes
    return found


OnHistogram = Callable[[str, Json, AgentStage], None]
"""Called with the agent, the record, whose clock_ns is in the clock of the agent's first boot, and what is known of the stage so far."""


def read_agent(agent_id: str, path: Path, on_histogram: OnHistogram | None = None) -> AgentJournal:
    """The agent's journal; empty when there is no mirror yet. `on_histogram` sees what happened when. Raises ConfigError on whole records
    that are none of ours."""
    reader, number = JournalReader(agent_id, on_histogram), 0
    try:
        if path.exists():
            try:
                for record in records(path):
                    number += 1
                    reader.take(record)
            except ProtocolError:
                reader.agent.torn = True
        return reader.result()
    except UNLIKE_OURS as error:
        text = f"the journal of agent {agent_id} cannot be read: {type(error).__name__} near line {number}: {error}"
        raise ConfigError(text, file=str(path), remedy="Use the version of sai3ssh that wrote it, or look at what its host runs") from error


_TIMES = ("from_clock_ns", "to_clock_ns", "start_clock_ns", "actual_clock_ns", "end_clock_ns", "drained_clock_ns")


class JournalReader:
    """Takes the records of one journal, as `records` gives them. What comes each second is collected in columns, histograms are added."""

    def __init__(self, agent_id: str, on_histogram: OnHistogram | None = None) -> None:
        self.agent = AgentJournal(agent_id)
        """What is known at once; the rest comes with result()."""
        self._on_histogram = on_histogram
        self._names = Names()
        self._seconds: dict[int, Collector] = {}
        self._sums: dict[tuple[int, bool], _Sums] = defaultdict(_Sums)

    def take(self, record: Json) -> None:
        """Adds the next record."""
        kind = record["kind"]
        if kind == "sec":
            self._take_second(record)
        elif kind == "hist":
            stage = self._stage(record)
            self._sums[record["stage"], record.get("warmup", False)].take(record)
            if self._on_histogram is not None:
                self._on_histogram(self.agent.agent_id, {**record, "clock_ns": record["clock_ns"] + self.agent.shift_ns}, stage)
        else:
            self._take_other(kind, record)

    def result(self) -> AgentJournal:
        """What the records taken so far come to."""
        agent = copy.deepcopy(self.agent)
        for index, collector in self._seconds.items():
            stage = agent.stages[index]
            stage.seconds = collector.seconds()
            for warmup, data in ((False, stage.data), (True, stage.warmup)):
                _count_seconds(data, stage.seconds, warmup)
        for (index, warmup), sums in self._sums.items():
            stage = agent.stages[index]
            sums.give(stage.warmup if warmup else stage.data)
        return agent

    def _stage(self, record: Json) -> AgentStage:
        index = record["stage"]
        if index not in self.agent.stages:
            self.agent.stages[index] = AgentStage()
        return self.agent.stages[index]

    def _take_second(self, record: Json) -> None:
        index, shift_ns = record["stage"], self.agent.shift_ns
        if index not in self._seconds:
            self._stage(record)
            self._seconds[index] = Collector(index, self._names)
        self._seconds[index].take(record, shift_ns)
        _measure(self.agent.stages[index], record["from_clock_ns"] + shift_ns, record["to_clock_ns"] + shift_ns)

    def _take_other(self, kind: str, record: Json) -> None:
        agent = self.agent
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
            self._stage(record).ending = record
        elif kind == "command":
            self._stage(record).command = record
        elif kind == "ledger" and "unreadable" in record:
            self._stage(record).unreadable.take(record["unreadable"])
        elif kind in ("stage_start", "stage_end", "gap", "lost"):
            if agent.shift_ns:
                record = {**record, **{name: record[name] + agent.shift_ns for name in _TIMES if name in record}}
            record = compact.within(record)
            stage = self._stage(record)
            if kind == "stage_start":
                stage.passes += 1
                stage.start = stage.start or record
            elif kind == "stage_end":
                stage.end = record if stage.end is None else _both(stage.end, record)
            elif kind == "lost":
                _take_lost(stage, record)
            else:
                _count(stage.warmup if record["warmup"] else stage.data, record)
                _measure(stage, record["from_clock_ns"], record["to_clock_ns"])
                stage.unseconded.append(record)


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


class _Sums:
    """The sums of the hist records of one stage, of its warm-up or without it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], tuple[CellSum, list[int]]] = {}

    def take(self, record: Json) -> None:
        """Adds a record."""
        for kind, op, name, part, first, steps in told(record):
            kept = self._kept.get((kind, op, name))
            if kept is None:
                if len(self._kept) >= MOST_HISTOGRAMS:
                    raise ValueError(f"more than {MOST_HISTOGRAMS} histograms of one stage")
                kept = self._kept[kind, op, name] = (CellSum(), [0, 0, 0])
            kept[0].add(first, steps, part.get("sum_ns", 0), part.get("max_ns", 0))
            for at, figure in enumerate(FIGURES[kind]):
                if figure in part:
                    kept[1][at] += part[figure]

    def give(self, data: StageData) -> None:
        """Adds the sums to a stage's data."""
        for (kind, op, name), (cells, counts) in self._kept.items():
            if kind == "splits":
                data.splits.setdefault(op, Splits()).parts[name].merge(cells.histogram())
            elif kind == "endpoints":
                data.endpoints.setdefault((op, int(name)), EndpointData()).add(EndpointData(cells.histogram(), *counts))
            else:
                data.regions.setdefault((op, int(name)), Region()).add(Region(cells.histogram(), *counts))


def _count_seconds(data: StageData, seconds: Seconds, warmup: bool) -> None:
    """Counts what the seconds of a stage tell, those of its warm-up or the others, as _count does of one."""
    chosen = seconds.each["warmup"] == warmup
    ops, more, texts = seconds.ops, seconds.more, seconds.names.texts
    for op, rows in seconds.by_operation(chosen).items():
        data.second_ops[op] += int(ops["count"][rows].sum())
        data.second_bytes[op] += int(ops["bytes"][rows].sum())
        data.requests[op] += int(ops["requests"][rows].sum())
    inside = np.flatnonzero(chosen[more["row"]])
    for kind, code, name, n in zip(*(more[column][inside].tolist() for column in ("kind", "code", "class", "n")), strict=True):
        if name < 0:
            getattr(data, KINDS[kind])[texts[code]] += n
        else:
            getattr(data, KINDS[kind])[texts[code], texts[name]] += n


def _count(data: StageData, record: Json) -> None:
    for op, figures in record["ops"].items():
        data.second_ops[op] += figures[0]
        data.second_bytes[op] += figures[1]
    data.requests.update(record["requests"])
    data.retries.update(record["retries"])
    for op, classes in record["errors"].items():
        for name, n in classes.items():
            data.errors[op, name] += n
    for op, classes in record["retried"].items():
        for name, n in classes.items():
            data.retried[op, name] += n


def _measure(stage: AgentStage, start: int, end: int) -> None:
    """Notes an interval that was measured."""
    if stage.measured and stage.measured[-1][1] >= start:
        stage.measured[-1] = (stage.measured[-1][0], max(end, stage.measured[-1][1]))
    else:
        stage.measured.append((start, end))
