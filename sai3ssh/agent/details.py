"""What the metrics file counts of operations beside their latencies, where the plan asks for it.

Behind the cells that every file has (see metrics) there are slots, as many as the stage needs, apart for warm-up where there is one: for
each of its operations one for each part of the latency (model.SPLIT_PARTS), and one for each endpoint that the agent uses. The rules are
those of metrics: a cell has one writer, and what a killed worker counted is still there.

    slot = CELLS histogram cells, sum_ns, and of an endpoint: bytes, max_ns, operations that failed there, attempts that failed there and
    were made again

Of a split the first byte is always counted, another part from LEAST_NS on: how many operations had less of it follows from the count of
first bytes. The supervisor reads slots when it writes histograms, not each second.
"""

from __future__ import annotations

import array
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import Split, Task
from sai3ssh.agent.work import Recorder
from sai3ssh.histogram import CELLS, HIGHEST_NS, LOWEST_NS, OFFSET, SUB_BITS, Histogram, cell_of
from sai3ssh.model import OPERATIONS, SPLIT_PARTS, Plan, Stage, StageKind

SUM, BYTES, MAX, ERRORS, RETRIES = range(CELLS, CELLS + 5)
SLOT = CELLS + 5
LEAST_NS = 1_000
_NOTHING = bytes(SLOT * 8)
_OCTAVE = 1 << SUB_BITS
QUEUE, CONNECT, TLS, FIRST_BYTE, TRANSFER = range(len(SPLIT_PARTS))
_KINDS = {StageKind.PREPARE: "put", StageKind.VERIFY: "get", StageKind.CLEANUP: "delete"}

Key = Tuple[str, int, int]
"""What a slot counts: "splits" or "endpoints", operation code, position of the part or of the endpoint in the target's list."""


class Layout:
    """Where the slots of a stage's files are."""

    def __init__(self, plan: Plan, stage: Stage, index: int) -> None:
        """Of the agent with that index."""
        kinds = {op.kind for op in stage.operations} if stage.kind is StageKind.EXECUTE else _kinds_of(stage)
        self.operations = [op for op, name in enumerate(OPERATIONS) if name in kinds]
        self.keys: List[Key] = []
        if plan.timing_splits:
            self.keys += [("splits", op, part) for op in self.operations for part in range(len(SPLIT_PARTS))]
        spread = plan.spread_of(index)
        if spread is not None:
            self.keys += [("endpoints", op, position) for op in self.operations for position in spread.positions]
        self.phases = 2 if stage.warmup_s else 1
        self.total = metrics.TOTAL + self.phases * len(self.keys) * SLOT
        """Cells of a whole file."""

        self._places = {key: place for place, key in enumerate(self.keys)}

    def at(self, phase: int, key: Key) -> int:
        """The first cell of a slot in phase 0 (measured) or 1 (warm-up)."""
        return metrics.TOTAL + (phase * len(self.keys) + self._places[key]) * SLOT

    def splits_at(self, phase: int) -> List[int]:
        """By operation code: the first cell of the slot of its first byte; those of the other parts lie around it."""
        keys: List[Key] = [("splits", op, FIRST_BYTE) for op in range(len(OPERATIONS))]
        return [self.at(phase, key) if key in self._places else 0 for key in keys]

    def endpoints_at(self, phase: int) -> List[Dict[int, int]]:
        """By operation code and position of an endpoint: the first cell of its slot."""
        result: List[Dict[int, int]] = [{} for _ in OPERATIONS]
        for key in self.keys:
            if key[0] == "endpoints":
                result[key[1]][key[2]] = self.at(phase, key)
        return result


def _kinds_of(stage: Stage) -> Set[str]:
    """The kinds of operation of a stage that has no mix."""
    if stage.replay is not None:
        return set(stage.replay.operations)
    return {_KINDS[stage.kind]} if stage.kind in _KINDS else set()


class Count:
    """The change of one slot."""

    __slots__ = ("bytes", "cells", "errors", "max_ns", "retries", "sum_ns")

    def __init__(self, cells: Optional[Dict[int, int]] = None, **figures: int) -> None:
        """`figures` are the other attributes; max_ns is the maximum so far."""
        self.cells = cells or {}
        self.sum_ns = self.bytes = self.max_ns = self.errors = self.retries = 0
        for name, value in figures.items():
            setattr(self, name, value)

    def __bool__(self) -> bool:
        return bool(self.errors or self.retries or any(self.cells.values()))

    def add(self, other: Count, sign: int = 1) -> None:
        """Adds another change of the same slot, or takes it back."""
        for cell, n in other.cells.items():
            self.cells[cell] = self.cells.get(cell, 0) + sign * n
        for name in ("sum_ns", "bytes", "errors", "retries"):
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))
        self.max_ns = max(self.max_ns, other.max_ns)

    def to_json(self, kind: str) -> Dict[str, Any]:
        """As in the journal's hist record."""
        figures = ("sum_ns",) if kind == "splits" else ("sum_ns", "bytes", "max_ns", "errors", "retries")
        return {"cells": Histogram(self.cells).to_pairs(), **{name: getattr(self, name) for name in figures}}


class Details:
    """What changed in the slots of one phase."""

    def __init__(self) -> None:
        self.counts: Dict[Key, Count] = {}

    def __bool__(self) -> bool:
        return any(self.counts.values())

    def add(self, other: Details, sign: int = 1) -> None:
        """Adds another change, or takes it back."""
        for key, count in other.counts.items():
            self.counts.setdefault(key, Count()).add(count, sign)

    def to_json(self) -> Dict[str, Any]:
        """The fields of a hist record: {"splits": {operation: {part: count}}, "endpoints": {operation: {position: count}}}."""
        result: Dict[str, Any] = {}
        for (kind, op, n), count in sorted(self.counts.items()):
            if count:
                name = SPLIT_PARTS[n] if kind == "splits" else str(n)
                result.setdefault(kind, {}).setdefault(OPERATIONS[op], {})[name] = count.to_json(kind)
        return result

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Details:
        """What a hist record has of it."""
        result = cls()
        for kind in ("splits", "endpoints"):
            for operation, counts in record.get(kind, {}).items():
                for name, count in counts.items():
                    key = kind, OPERATIONS.index(operation), SPLIT_PARTS.index(name) if kind == "splits" else int(name)
                    figures = {field: value for field, value in count.items() if field != "cells"}
                    result.counts[key] = Count(dict(Histogram.from_pairs(count["cells"]).cells), **figures)
        return result


class DetailReader:
    """Follows the slots of one metrics file: `delta` gives what came since the previous call."""

    def __init__(self, cells: memoryview, layout: Layout) -> None:
        """Raises ValueError when the file is too short for the layout."""
        if len(cells) < layout.total:
            raise ValueError(f"metrics file of {len(cells)} cells, expected {layout.total}")
        self._cells = cells
        self._layout = layout
        self._seen: Dict[int, bytes] = {}

    def delta(self, phase: int) -> Details:
        """What changed in phase 0 (measured) or 1 (warm-up)."""
        result = Details()
        # Of an operation in progress the writer counts the first byte first: read last, it is never less than another part.
        for key in sorted(self._layout.keys if phase < self._layout.phases else (), key=lambda key: key[2] == FIRST_BYTE):
            start = self._layout.at(phase, key)
            data, seen = self._cells[start : start + SLOT].tobytes(), self._seen.get(start, _NOTHING)
            if data == seen:
                continue
            self._seen[start] = data
            count = result.counts[key] = Count(_changed(data, seen))
            now, then = (array.array("Q", both[CELLS * 8 :]) for both in (data, seen))
            count.sum_ns, count.bytes, _, count.errors, count.retries = (a - b for a, b in zip(now, then))
            count.max_ns = now[MAX - CELLS]
        return result


def _changed(data: bytes, seen: bytes) -> Dict[int, int]:
    """What came to which cells of a histogram; a few octaves are all that an operation uses."""
    result = {}
    for first in range(0, CELLS, _OCTAVE):
        part = slice(first * 8, min(first + _OCTAVE, CELLS) * 8)
        if data[part] != seen[part]:
            both = zip(array.array("Q", data[part]), array.array("Q", seen[part]))
            result.update({first + at: a - b for at, (a, b) in enumerate(both) if a != b})
    return result


def total(readers: Iterable[DetailReader], phase: int) -> Details:
    """The change over several workers."""
    result = Details()
    for reader in readers:
        result.add(reader.delta(phase))
    return result


class DetailRecorder(Recorder):
    """A Recorder that also counts what a layout has slots for."""

    def __init__(self, cells: memoryview, layout: Layout) -> None:
        super().__init__(cells)
        phases = [min(phase, layout.phases - 1) for phase in (0, 1)]
        self._first, self._first_warm = ([[at, cells[at + SUM] if at else 0] for at in layout.splits_at(phase)] for phase in phases)
        """By operation code: the first cell of the slot of its first byte, and sum_ns as it is there."""
        if phases[0] == phases[1]:
            self._first_warm = self._first
        self._endpoints_at = [layout.endpoints_at(phase) for phase in phases]
        self._several = any(self._endpoints_at[0])

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """See Recorder.done, which is written out here: a call of it costs a hundredth of a small operation."""
        cells, op, start_ns = self.cells, task.op, task.start_ns
        warm = start_ns < self.warmup_until_ns
        totals = (self._warmup if warm else self._measured)[op][(size - 1).bit_length() if size else -1]
        base = totals[0]
        latency = end_ns - start_ns
        if LOWEST_NS < latency < HIGHEST_NS:
            shift = latency.bit_length() - 7
            cell = (shift << 6) + (latency >> shift) - OFFSET
        else:
            cell = 0 if latency <= LOWEST_NS else CELLS - 1
        cells[base + cell] += 1
        totals[1] = cells[base + metrics.SUM] = totals[1] + (latency if latency > 0 else 0)
        totals[2] = cells[base + metrics.BYTES] = totals[2] + size
        if latency > totals[3]:
            totals[3] = cells[base + metrics.MAX] = latency
        if end_ns > self.tail_from_ns:
            cells[base + metrics.TAIL_OPS] += 1
            cells[base + metrics.TAIL_BYTES] += size
        split = task.split
        if split is not None:
            first = (self._first_warm if warm else self._first)[op]
            base = first[0]
            if split[FIRST_BYTE] == latency:
                # The common case: nothing before the request, and all of the response at once.
                cells[base + cell] += 1
                first[1] = cells[base + SUM] = first[1] + latency
            else:
                self._split(first, split)
        if self._several:
            base = self._endpoints_at[1 if warm else 0][op][task.endpoint]
            cells[base + cell] += 1
            cells[base + SUM] += latency if latency > 0 else 0
            cells[base + BYTES] += size
            if latency > cells[base + MAX]:
                cells[base + MAX] = latency

    def failed(self, task: Task, error_class: str, sent: bool) -> None:
        """See Recorder.failed."""
        super().failed(task, error_class, sent)
        if self._several:
            self.cells[self._slot(task) + ERRORS] += 1

    def retried(self, task: Task, error_class: str, sent: bool) -> None:
        """See Recorder.retried."""
        super().retried(task, error_class, sent)
        if self._several:
            self.cells[self._slot(task) + RETRIES] += 1

    def _slot(self, task: Task) -> int:
        return self._endpoints_at[1 if task.start_ns < self.warmup_until_ns else 0][task.op][task.endpoint]

    def _split(self, first: List[int], split: Split) -> None:
        cells, base = self.cells, first[0]
        cells[base + cell_of(split[FIRST_BYTE])] += 1
        first[1] = cells[base + SUM] = first[1] + split[FIRST_BYTE]
        for part, value_ns in enumerate(split):
            if value_ns >= LEAST_NS and part != FIRST_BYTE:
                at = base + (part - FIRST_BYTE) * SLOT
                cells[at + cell_of(value_ns)] += 1
                cells[at + SUM] += value_ns
