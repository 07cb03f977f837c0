"""What the metrics file counts of operations beside their latencies, where the plan asks for it.

Behind the cells that every file has (see metrics) there are slots, as many as the stage needs: one for each of its operations and each
part of the latency (model.SPLIT_PARTS), apart for warm-up where there is one. The rules are those of metrics: a cell has one writer, and
what a killed worker counted is still there.

    slot = CELLS histogram cells, sum_ns

Of a split the first byte is always counted, another part from LEAST_NS on: how many operations had less of it follows from the count of
first bytes. The supervisor reads slots when it writes histograms, not each second.
"""

from __future__ import annotations

import array
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import Split, Task
from sai3ssh.agent.work import BUCKET_BY_BITS, Recorder
from sai3ssh.histogram import CELLS, HIGHEST_NS, LOWEST_NS, OFFSET, Histogram, cell_of
from sai3ssh.model import OPERATIONS, SPLIT_PARTS, Plan, Stage, StageKind

SUM = CELLS
SLOT = CELLS + 1
LEAST_NS = 1_000
_NOTHING = bytes(SLOT * 8)
QUEUE, CONNECT, TLS, FIRST_BYTE, TRANSFER = range(len(SPLIT_PARTS))
_KINDS = {StageKind.PREPARE: "put", StageKind.VERIFY: "get", StageKind.CLEANUP: "delete"}

Key = Tuple[str, int, int]
"""What a slot counts: "splits", operation code, position of the part."""


class Layout:
    """Where the slots of a stage's files are."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        kinds = {op.kind for op in stage.operations} if stage.kind is StageKind.EXECUTE else {_KINDS[stage.kind]}
        self.operations = [op for op, name in enumerate(OPERATIONS) if name in kinds]
        self.keys: List[Key] = []
        if plan.timing_splits:
            self.keys += [("splits", op, part) for op in self.operations for part in range(len(SPLIT_PARTS))]
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


class Count:
    """The change of one slot."""

    __slots__ = ("cells", "sum_ns")

    def __init__(self, cells: Optional[Dict[int, int]] = None, sum_ns: int = 0) -> None:
        self.cells = cells or {}
        self.sum_ns = sum_ns

    def add(self, other: Count, sign: int = 1) -> None:
        """Adds another change of the same slot, or takes it back."""
        for cell, n in other.cells.items():
            self.cells[cell] = self.cells.get(cell, 0) + sign * n
        self.sum_ns += sign * other.sum_ns

    def to_json(self) -> Dict[str, Any]:
        """As in the journal's hist record."""
        return {"cells": Histogram(self.cells).to_pairs(), "sum_ns": self.sum_ns}


class Details:
    """What changed in the slots of one phase."""

    def __init__(self) -> None:
        self.counts: Dict[Key, Count] = {}

    def __bool__(self) -> bool:
        return any(any(count.cells.values()) for count in self.counts.values())

    def add(self, other: Details, sign: int = 1) -> None:
        """Adds another change, or takes it back."""
        for key, count in other.counts.items():
            self.counts.setdefault(key, Count()).add(count, sign)

    def to_json(self) -> Dict[str, Any]:
        """The fields of a hist record: {"splits": {operation: {part: count}}}."""
        splits: Dict[str, Any] = {}
        for (_, op, part), count in sorted(self.counts.items()):
            if any(count.cells.values()):
                splits.setdefault(OPERATIONS[op], {})[SPLIT_PARTS[part]] = count.to_json()
        return {"splits": splits} if splits else {}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Details:
        """What a hist record has of it."""
        result = cls()
        for name, parts in record.get("splits", {}).items():
            for part, count in parts.items():
                key = "splits", OPERATIONS.index(name), SPLIT_PARTS.index(part)
                result.counts[key] = Count(dict(Histogram.from_pairs(count["cells"]).cells), count["sum_ns"])
        return result


class DetailReader:
    """Follows the slots of one metrics file: `delta` gives what came since the previous call."""

    def __init__(self, cells: memoryview, layout: Layout) -> None:
        """Raises ValueError when the file is too short for the layout."""
        if len(cells) < layout.total:
            raise ValueError(f"metrics file of {len(cells)} cells, expected {layout.total}")
        self._cells = cells
        self._layout = layout
        self._seen: Dict[int, array.array[int]] = {}

    def delta(self, phase: int) -> Details:
        """What changed in phase 0 (measured) or 1 (warm-up)."""
        result = Details()
        # Of an operation in progress the writer counts the first byte first: read last, it is never less than another part.
        for key in sorted(self._layout.keys if phase < self._layout.phases else (), key=lambda key: key[2] == FIRST_BYTE):
            start = self._layout.at(phase, key)
            data = self._cells[start : start + SLOT].tobytes()
            seen = self._seen.get(start)
            if data == (seen.tobytes() if seen is not None else _NOTHING):
                continue
            now = self._seen[start] = array.array("Q", data)
            then = seen if seen is not None else array.array("Q", _NOTHING)
            count = result.counts[key] = Count(sum_ns=now[SUM] - then[SUM])
            count.cells = {cell: a - b for cell, (a, b) in enumerate(zip(now[:CELLS], then)) if a != b}
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
        self._splits_at = [layout.splits_at(min(phase, layout.phases - 1)) for phase in (0, 1)]

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """See Recorder.done, which is written out here: a call of it costs a hundredth of a small operation."""
        cells, op = self.cells, task.op
        start_ns = task.start_ns
        phase = 1 if start_ns < self.warmup_until_ns else 0
        base = metrics.PHASE * phase + metrics.OP_BASE[op] + metrics.HEAD
        if size and metrics.BUCKETS[op] > 1:
            base += BUCKET_BY_BITS[(size - 1).bit_length()] * metrics.REGION
        latency = end_ns - start_ns
        if LOWEST_NS < latency < HIGHEST_NS:
            shift = latency.bit_length() - 7
            cell = (shift << 6) + (latency >> shift) - OFFSET
        else:
            cell = 0 if latency <= LOWEST_NS else CELLS - 1
        cells[base + cell] += 1
        cells[base + metrics.SUM] += latency if latency > 0 else 0
        cells[base + metrics.BYTES] += size
        if latency > cells[base + metrics.MAX]:
            cells[base + metrics.MAX] = latency
        if end_ns > self.tail_from_ns:
            cells[base + metrics.TAIL_OPS] += 1
            cells[base + metrics.TAIL_BYTES] += size
        split = task.split
        if split is not None:
            first_byte = split[FIRST_BYTE]
            base = self._splits_at[phase][op]
            if first_byte == latency:
                cells[base + cell] += 1
                cells[base + SUM] += latency
            else:
                self._split(base, split)

    def _split(self, base: int, split: Split) -> None:
        for part, value_ns in enumerate(split):
            if value_ns >= LEAST_NS or part == FIRST_BYTE:
                at = base + (part - FIRST_BYTE) * SLOT
                self.cells[at + cell_of(value_ns)] += 1
                self.cells[at + SUM] += value_ns
