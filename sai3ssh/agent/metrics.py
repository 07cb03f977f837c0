"""Counters and histograms in shared memory: workers write in place, the supervisor reads.

A worker has one file per stage. It is allocated whole before the stage (a sparse page on a full tmpfs would be SIGBUS). Every cell is an
aligned 8-byte integer with one writer, so a reader sees each cell whole, and what a killed worker counted is still there.

    file    = phase 0 (measured), phase 1 (warm-up), 1 cell each: objects that a cleanup did not find; names that put has used; ns that the
              load loop came late
    phase   = per operation: further requests, retried attempts by class, errors by class, completed operations that had no request of their
              own; then its regions
    region  = CELLS histogram cells, sum_ns, bytes, max_ns, tail_ops, tail_bytes;  one per size bucket (get, put) or one (all
    others)

What details.py counts lies behind that.

A completed operation is one histogram cell, whatever moment its worker is killed at: how many there were, how many requests they took and
how many objects are done is derived from those cells, and kept nowhere else.
"""

from __future__ import annotations

import array
import mmap
import os
from typing import Any, Dict, Iterable, List, Tuple

from sai3ssh.histogram import CELLS, Histogram
from sai3ssh.model import BUCKET_BOUNDS, ERROR_CLASSES, OPERATIONS

SUM, BYTES, MAX, TAIL_OPS, TAIL_BYTES = range(CELLS, CELLS + 5)
REGION = CELLS + 5
REQUESTS, RETRIED, ERRORS = 0, 1, 1 + len(ERROR_CLASSES)
SHARED = 1 + 2 * len(ERROR_CLASSES)
HEAD = SHARED + 1
BUCKETS = tuple(len(BUCKET_BOUNDS) + 1 if op in ("get", "put") else 1 for op in OPERATIONS)

OP_BASE = tuple(sum(HEAD + BUCKETS[i] * REGION for i in range(op)) for op in range(len(OPERATIONS)))
"""Offset of an operation's part within a phase, by operation code."""
PHASE = sum(HEAD + n * REGION for n in BUCKETS)
NOT_FOUND, NAMES, LATE_NS = range(2 * PHASE, 2 * PHASE + 3)
TOTAL = 2 * PHASE + 3
_NO_CELLS = bytes(CELLS * 8)


def create(path: str, total: int = TOTAL) -> memoryview:
    """A new, zeroed, fully allocated metrics file of `total` cells; raises OSError when the memory is not there."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, total * 8)
        return memoryview(mmap.mmap(fd, total * 8)).cast("Q")
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def attach(path: str) -> memoryview:
    """The cells of an existing metrics file."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return memoryview(mmap.mmap(fd, 0)).cast("Q")
    finally:
        os.close(fd)


def region_of(op: int, bucket: int) -> int:
    """Offset within a phase of the region of an operation code and size bucket."""
    return OP_BASE[op] + HEAD + (bucket if BUCKETS[op] > 1 else 0) * REGION


class Region:
    """The change of one region: histogram cells and its totals. max_ns is the maximum so far."""

    __slots__ = ("bytes", "cells", "max_ns", "sum_ns", "tail_bytes", "tail_ops")

    def __init__(self) -> None:
        self.cells: Dict[int, int] = {}
        self.sum_ns = self.bytes = self.max_ns = self.tail_ops = self.tail_bytes = 0

    def histogram(self) -> Histogram:
        """The region's latencies."""
        return Histogram(self.cells, sum_ns=self.sum_ns, max_ns=self.max_ns)

    def minus(self, other: Region) -> Region:
        """What this has more than an earlier state of the same region."""
        result = Region()
        for cell, n in self.cells.items():
            if n != other.cells.get(cell, 0):
                result.cells[cell] = n - other.cells.get(cell, 0)
        result.sum_ns, result.bytes = self.sum_ns - other.sum_ns, self.bytes - other.bytes
        result.tail_ops, result.tail_bytes = self.tail_ops - other.tail_ops, self.tail_bytes - other.tail_bytes
        result.max_ns = self.max_ns
        return result

    def add(self, other: Region) -> None:
        """Adds another change of the same region."""
        for cell, n in other.cells.items():
            self.cells[cell] = self.cells.get(cell, 0) + n
        self.sum_ns += other.sum_ns
        self.bytes += other.bytes
        self.tail_ops += other.tail_ops
        self.tail_bytes += other.tail_bytes
        self.max_ns = max(self.max_ns, other.max_ns)

    def to_json(self) -> Dict[str, Any]:
        """As in the journal's hist record."""
        return {
            "cells": Histogram(self.cells).to_pairs(),
            "sum_ns": self.sum_ns,
            "max_ns": self.max_ns,
            "bytes": self.bytes,
            "tail_ops": self.tail_ops,
            "tail_bytes": self.tail_bytes,
        }


class Delta:
    """What changed in one phase since the last look: regions by (operation code, bucket), counters by operation code."""

    def __init__(self) -> None:
        self.regions: Dict[Tuple[int, int], Region] = {}
        self.requests: Dict[int, int] = {}
        self.retried: Dict[int, Dict[int, int]] = {}
        self.errors: Dict[int, Dict[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self.regions or self.requests or self.retried or self.errors)

    def add(self, other: Delta) -> None:
        """Adds another change."""
        for key, region in other.regions.items():
            self.regions.setdefault(key, Region()).add(region)
        for op, n in other.requests.items():
            self.requests[op] = self.requests.get(op, 0) + n
        for mine, its in ((self.retried, other.retried), (self.errors, other.errors)):
            for op, classes in its.items():
                counts = mine.setdefault(op, {})
                for code, n in classes.items():
                    counts[code] = counts.get(code, 0) + n

    def minus(self, other: Delta) -> Delta:
        """What this has more than an earlier state of the same counters."""
        result = Delta()
        for key, region in self.regions.items():
            rest = region.minus(other.regions.get(key, Region()))
            if rest.cells or rest.tail_ops:
                result.regions[key] = rest
        result.requests = {op: n - other.requests.get(op, 0) for op, n in self.requests.items() if n != other.requests.get(op, 0)}
        result.retried = _minus(self.retried, other.retried)
        result.errors = _minus(self.errors, other.errors)
        return result

    def counters(self) -> Dict[str, Any]:
        """The requests, retries (in all, and by class) and errors as the journal has them."""
        return {
            "requests": {OPERATIONS[op]: n for op, n in self.requests.items()},
            "retries": {OPERATIONS[op]: sum(classes.values()) for op, classes in self.retried.items()},
            "retried": _by_name(self.retried),
            "errors": _by_name(self.errors),
        }

    def by_operation(self) -> Dict[int, Region]:
        """The regions summed over size buckets."""
        result: Dict[int, Region] = {}
        for (op, _), region in self.regions.items():
            result.setdefault(op, Region()).add(region)
        return result


def ended(cells: memoryview) -> int:
    """How many operations have ended, errors and warm-up included."""
    reader = Reader(cells)
    heads = [base + OP_BASE[op] for base in (0, PHASE) for op in range(len(OPERATIONS))]
    failed = sum(sum(cells[head + ERRORS : head + SHARED]) for head in heads)
    return failed + sum(map(reader.completed, range(len(OPERATIONS))))


class Reader:
    """Follows one metrics file: `delta` gives what came since the previous call. Cheap where nothing changed."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells
        self._seen = array.array("Q", bytes(TOTAL * 8))

    def completed(self, op: int) -> int:
        """Operations of a code that have been completed until now, warm-up included."""
        starts = [base + OP_BASE[op] + HEAD + bucket * REGION for base in (0, PHASE) for bucket in range(BUCKETS[op])]
        cells = [self._cells[start : start + CELLS].tobytes() for start in starts]
        return sum(sum(array.array("Q", data)) for data in cells if data != _NO_CELLS)

    @property
    def not_found(self) -> int:
        """Objects that a cleanup did not find: finished, but not by a completed operation."""
        return int(self._cells[NOT_FOUND])

    @property
    def names(self) -> int:
        """Names that put has used, whatever became of them."""
        return int(self._cells[NAMES])

    def late_ns(self) -> int:
        """How much later than it wanted the load loop has come since the previous call."""
        now = int(self._cells[LATE_NS])
        late, self._seen[LATE_NS] = now - self._seen[LATE_NS], now
        return late

    def delta(self, phase: int) -> Delta:
        """What changed in phase 0 (measured) or 1 (warm-up)."""
        result = Delta()
        for op in range(len(OPERATIONS)):
            base = phase * PHASE + OP_BASE[op]
            head = self._take(base, base + HEAD)
            if head:
                for at, n in head:
                    if at == REQUESTS:
                        result.requests[op] = n
                    elif at < ERRORS:
                        result.retried.setdefault(op, {})[at - RETRIED] = n
                    elif at < SHARED:
                        result.errors.setdefault(op, {})[at - ERRORS] = n
                    else:
                        result.requests[op] = result.requests.get(op, 0) - n
            for bucket in range(BUCKETS[op]):
                self._region(result, op, bucket, base + HEAD + bucket * REGION)
        return result

    def _take(self, start: int, end: int) -> List[Tuple[int, int]]:
        now = array.array("Q", self._cells[start:end].tobytes())
        then = self._seen[start:end]
        if now == then:
            return []
        self._seen[start:end] = now
        return [(at, a - b) for at, (a, b) in enumerate(zip(now, then)) if a != b]

    def _region(self, result: Delta, op: int, bucket: int, start: int) -> None:
        changes = self._take(start, start + REGION)
        if not changes:
            return
        region = Region()
        for at, n in changes:
            if at < CELLS:
                region.cells[at] = n
            elif at == SUM:
                region.sum_ns = n
            elif at == BYTES:
                region.bytes = n
            elif at == TAIL_OPS:
                region.tail_ops = n
            elif at == TAIL_BYTES:
                region.tail_bytes = n
        region.max_ns = self._seen[start + MAX]
        result.regions[op, bucket] = region
        if region.cells:
            result.requests[op] = result.requests.get(op, 0) + sum(region.cells.values())


def _minus(now: Dict[int, Dict[int, int]], then: Dict[int, Dict[int, int]]) -> Dict[int, Dict[int, int]]:
    rest = {op: {code: n - then.get(op, {}).get(code, 0) for code, n in classes.items()} for op, classes in now.items()}
    return {op: kept for op, classes in rest.items() if (kept := {code: n for code, n in classes.items() if n})}


def _by_name(counts: Dict[int, Dict[int, int]]) -> Dict[str, Dict[str, int]]:
    return {OPERATIONS[op]: {ERROR_CLASSES[code]: n for code, n in classes.items()} for op, classes in counts.items()}


def total(readers: Iterable[Reader], phase: int) -> Delta:
    """The change over several workers."""
    result = Delta()
    for reader in readers:
        result.add(reader.delta(phase))
    return result
