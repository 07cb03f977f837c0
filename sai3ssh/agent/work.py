"""What a worker does in a stage: hands tasks to the engine and records what became of them.

The engine pulls with `next` and reports with `done`, `failed`, `retried` and `page`; it knows nothing of stages, the works know nothing of
sockets. Times are CLOCK_MONOTONIC in ns (time.monotonic_ns and time.perf_counter_ns on Linux). Not thread-safe: threaded engines call
under their own lock.
"""

from __future__ import annotations

import heapq
import random
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from sai3ssh import dataset
from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import DELETE, GET, Engine, Kept, PlainTask, RepeatedTask, Root, Task, kind_of
from sai3ssh.agent.metrics import BYTES, MAX, SUM
from sai3ssh.histogram import CELLS, HIGHEST_NS, LOWEST_NS, OFFSET
from sai3ssh.model import ERROR_CLASSES, OPERATIONS, Intervals, Population, bucket_of

_ERROR_CODE = {name: code for code, name in enumerate(ERROR_CLASSES)}
BUCKET_BY_BITS = tuple(bucket_of(1 << bits) for bits in range(64))
"""Size bucket by (size - 1).bit_length(): all bounds are powers of two, so sizes in (2^(n-1), 2^n] share one."""
BACKOFF_S = (0.2, 5.0)
"""First and longest pause of an index of prepare or cleanup between two tries; the pause doubles."""
FEW = 1 << 17
"""Requests for one of at most so many objects are likely made again soon: an engine may keep something of each, in 128 bytes."""
TRIES = 8
"""An object that failed so often is left, by a cleanup that does what it can; and cannot be read back, in a verify stage."""
_FOR_A_PERSON = ("http_400", "http_401", "http_403", "http_404", "permission", "tls", "verify")
"""Errors that do not go away by themselves."""


class Fatal(Exception):
    """The stage cannot go on; the message names what failed."""


Totals = List[int]
"""Of one region: its first cell, and sum_ns, bytes and max_ns as they are in its cells. A cell has one writer, which need not read it."""


def totals_of(cells: memoryview, phase: int) -> List[List[Totals]]:
    """Those of the regions of a phase, by operation code and by (size - 1).bit_length(); the last one is that of size 0."""
    result = []
    for op, count in enumerate(metrics.BUCKETS):
        starts = [phase * metrics.PHASE + metrics.region_of(op, bucket) for bucket in range(count)]
        regions = [[at, cells[at + SUM], cells[at + BYTES], cells[at + MAX]] for at in starts]
        result.append([regions[bucket if count > 1 else 0] for bucket in (*BUCKET_BY_BITS, 0)])
    return result


class Recorder:
    """Counts into the worker's metrics file. One per stage."""

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells
        self.warmup_until_ns = 0
        self.tail_from_ns = 1 << 62
        self._measured, self._warmup = totals_of(cells, 0), totals_of(cells, 1)

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """Counts a completed operation of `size` bytes, its latency from the intended start."""
        cells, start_ns = self.cells, task.start_ns
        regions = self._warmup if start_ns < self.warmup_until_ns else self._measured
        totals = regions[task.op][(size - 1).bit_length() if size else -1]
        base = totals[0]
        latency = end_ns - start_ns
        if LOWEST_NS < latency < HIGHEST_NS:
            shift = latency.bit_length() - 7
            cells[base + (shift << 6) + (latency >> shift) - OFFSET] += 1
        else:
            cells[base + (0 if latency <= LOWEST_NS else CELLS - 1)] += 1
        totals[1] = cells[base + SUM] = totals[1] + (latency if latency > 0 else 0)
        totals[2] = cells[base + BYTES] = totals[2] + size
        if latency > totals[3]:
            totals[3] = cells[base + MAX] = latency
        if end_ns > self.tail_from_ns:
            cells[base + metrics.TAIL_OPS] += 1
            cells[base + metrics.TAIL_BYTES] += size

    def _head(self, task: Task) -> int:
        return (metrics.PHASE if task.start_ns < self.warmup_until_ns else 0) + metrics.OP_BASE[task.op]

    def failed(self, task: Task, error_class: str, sent: bool) -> None:
        """Counts an operation that ended in an error."""
        head = self._head(task)
        self.cells[head + metrics.ERRORS + _ERROR_CODE[error_class]] += 1
        if sent:
            self.cells[head + metrics.REQUESTS] += 1

    def retried(self, task: Task, error_class: str, sent: bool) -> None:
        """Counts an attempt that will be repeated, by what it met."""
        head = self._head(task)
        self.cells[head + metrics.RETRIED + _ERROR_CODE[error_class]] += 1
        if sent:
            self.cells[head + metrics.REQUESTS] += 1

    def late(self, late_ns: int) -> None:
        """Counts time by which the load loop came late."""
        self.cells[metrics.LATE_NS] += late_ns

    def page(self, task: Task) -> None:
        """Counts a further request of a LIST."""
        self.cells[self._head(task) + metrics.REQUESTS] += 1

    def shared(self, task: Task) -> None:
        """Counts a completed operation that had no request of its own."""
        self.cells[self._head(task) + metrics.SHARED] += 1


class Objects:
    """The objects of one population as an engine addresses them."""

    def __init__(self, engine: Engine, population: Population) -> None:
        self.population = population
        self.root: Root = engine.root(population.target)
        self.content = dataset.Content(population.seed, population.fill, population.dedup_factor, population.compress_factor)
        self.name = population.name
        spec = population.size
        self._size = spec.min if spec.min == spec.max else None
        """Of each object, where all have the same."""
        self._kind = kind_of(population.key_format % 0 + (population.tree.dir_mask if population.tree is not None else "").replace("%", ""))

    def task(self, op: int, index: int, now_ns: int) -> Task:
        """The task of an operation on object `index`."""
        population = self.population
        size = self._size
        if size is None:
            size = dataset.size_of(population.size, population.seed, index)
        return self._kind(op, self.root, dataset.key_of(population, index), size, index, self.content, now_ns, self.name)

    def maker(self, op: int, draw: Callable[[], int]) -> Callable[[int], Task]:
        """What makes, with its start in ns, the task of an operation on the object that `draw` says."""
        population, kind, root, size, content, name = self.population, self._kind, self.root, self._size, self.content, self.name
        if size is None or population.tree is not None or population.shards:
            return lambda now_ns: self.task(op, draw(), now_ns)
        length, key_format = size, population.key_format
        if op == GET and kind is PlainTask and population.count <= FEW:
            kept = Kept(population.count)

            def make_again(now_ns: int) -> Task:
                index = draw()
                task = RepeatedTask(op, root, key_format % index, length, index, content, now_ns, name)
                task.kept = kept
                return task

            return make_again

        def make(now_ns: int) -> Task:
            index = draw()
            return kind(op, root, key_format % index, length, index, content, now_ns, name)

        return make


class IndexWork:
    """One operation on each index of some populations: PUT for prepare, DELETE for cleanup. Every index is done, in the end, exactly once.

    An index that failed is tried again after a pause, until nothing at all has succeeded for `outage_timeout_s`; permission and bucket
    errors end the stage at once. Objects of `unsure` populations may not be there: a DELETE that does not find one is no error. A directory
    in which others have put something stays, and is an error.

    With `best_effort` an object that cannot be deleted is counted and left, at once or after TRIES, and an outage ends the stage in order.
    """

    def __init__(
        self,
        op: int,
        objects: Dict[str, Objects],
        owned: Dict[str, Intervals],
        recorder: Recorder,
        *,
        outage_timeout_s: float,
        target: str,
        unsure: Sequence[str] = (),
        interleaved: bool = False,
        best_effort: bool = False,
        notice: Callable[[str], None] = lambda _: None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._best_effort = best_effort
        self._notice = notice
        self._undeleted = 0
        self._op = op
        self._objects = objects
        self._recorder = recorder
        self._outage_ns = int(outage_timeout_s * 1e9)
        self._target = target
        self._unsure = frozenset(unsure)
        self._todo = self._walk_together(owned) if interleaved else self._walk(owned)
        self._again: List[Tuple[int, str, int]] = []
        self._tries: Dict[Tuple[str, int], int] = {}
        self._finished: Dict[str, List[int]] = {name: [] for name in objects}
        self._left = sum(len(ranges) for ranges in owned.values())
        self._now_ns = now_ns
        self._last_success_ns = now_ns()
        self._exhausted = False
        self._given_up = False
        self.wake_ns: Optional[int] = None
        self.finished = self._left == 0
        self.stopped = False

    @staticmethod
    def _walk(owned: Dict[str, Intervals]) -> Iterator[Tuple[str, int]]:
        for name, ranges in owned.items():
            for lo, hi in ranges:
                for index in range(lo, hi):
                    yield name, index

    @staticmethod
    def _walk_together(owned: Dict[str, Intervals]) -> Iterator[Tuple[str, int]]:
        """All populations in proportion to their sizes, so that they end together."""
        walks = []
        for order, (name, ranges) in enumerate(owned.items()):
            if len(ranges):
                indices = (index for lo, hi in ranges for index in range(lo, hi))
                walks.append((0.5 / len(ranges), order, name, 1.0 / len(ranges), indices))
        heapq.heapify(walks)
        while walks:
            at, order, name, step, indices = walks[0]
            index = next(indices, None)
            if index is None:
                heapq.heappop(walks)
            else:
                heapq.heapreplace(walks, (at + step, order, name, step, indices))
                yield name, index

    def next(self, now_ns: int) -> Optional[Task]:
        """The next index to do, or None when all are in flight, done, or waiting for their pause (see wake_ns)."""
        if self.stopped or self._given_up:
            return None
        if self._again and self._again[0][0] <= now_ns:
            _, name, index = heapq.heappop(self._again)
            return self._objects[name].task(self._op, index, now_ns)
        if not self._exhausted:
            for name, index in self._todo:
                return self._objects[name].task(self._op, index, now_ns)
            self._exhausted = True
        self.wake_ns = self._again[0][0] if self._again else None
        return None

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """The index is finished."""
        self._recorder.done(task, end_ns, size)
        self._last_success_ns = end_ns
        self._complete(task)

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        """The index goes back to the queue, or the stage ends with Fatal."""
        if self._op == DELETE and error_class in ("not_found", "http_404", "not_empty"):
            if task.owner not in self._unsure or error_class == "not_empty":
                self._recorder.failed(task, error_class, sent)
            elif sent:
                self._recorder.page(task)
            self._recorder.cells[metrics.NOT_FOUND] += 1
            self._complete(task)
            return
        self._recorder.failed(task, error_class, sent)
        what = f"{OPERATIONS[self._op].upper()} {task.uri} on {self._target}: {detail} ({error_class})"
        if error_class in _FOR_A_PERSON:
            if self._best_effort:
                self._leave(task, what)
                return
            raise Fatal(what)
        outage_s = (end_ns - self._last_success_ns) / 1e9
        if end_ns - self._last_success_ns > self._outage_ns:
            what += f"; nothing has succeeded for {outage_s:.0f} s (target_outage_timeout {self._outage_ns / 1e9:.0f} s)"
            if self._best_effort:
                self._give_up(what)
                return
            raise Fatal(what)
        name = task.owner
        tries = self._tries[name, task.index] = self._tries.get((name, task.index), 0) + 1
        if self._best_effort and tries >= TRIES:
            self._leave(task, what)
            return
        heapq.heappush(self._again, (end_ns + self._pause_ns(tries), name, task.index))
        self.wake_ns = self._again[0][0]

    def _leave(self, task: Task, what: str) -> None:
        """Best effort: the object stays."""
        if not self._undeleted:
            self._notice(f"cleanup_mode besteffort: an object stays, others may: {what}")
        self._undeleted += 1
        self._recorder.cells[metrics.NOT_FOUND] += 1
        self._complete(task)

    def _give_up(self, what: str) -> None:
        """Best effort: all that is left stays."""
        if not self._given_up:
            self._notice(f"cleanup_mode besteffort: {self._left:,} objects stay: {what}")
        self._given_up = self.finished = True
        self.wake_ns = None

    def _pause_ns(self, tries: int) -> int:
        return int(min(BACKOFF_S[1], BACKOFF_S[0] * 2 ** (tries - 1)) * (0.75 + 0.5 * random.random()) * 1e9)

    def retried(self, task: Task, error_class: str, sent: bool) -> None:
        """One attempt is repeated by the engine."""
        self._recorder.retried(task, error_class, sent)

    def late(self, late_ns: int) -> None:
        """The load loop came late."""
        self._recorder.late(late_ns)

    def page(self, task: Task) -> None:
        """A request for a part of an object has succeeded: the target answers."""
        self._recorder.page(task)
        self._last_success_ns = self._now_ns()

    def stop(self) -> None:
        """No further tasks; what is in flight may end."""
        self.stopped = self.finished = True

    def take_finished(self) -> Dict[str, List[Tuple[int, int]]]:
        """The ranges finished since the last call: what the ledger records."""
        result: Dict[str, List[Tuple[int, int]]] = {}
        for name, indices in self._finished.items():
            if indices:
                indices.sort()
                result[name] = ranges_of(indices)
                self._finished[name] = []
        return result

    def result(self) -> Dict[str, Any]:
        """Nothing beside the ledger."""
        return {}

    def _complete(self, task: Task) -> None:
        name = task.owner
        if self._tries:
            self._tries.pop((name, task.index), None)
        self._finished[name].append(task.index)
        self._left -= 1
        if self._left == 0:
            self.finished = True


def ranges_of(indices: Sequence[int]) -> List[Tuple[int, int]]:
    """Sorted distinct indices as half-open ranges."""
    result: List[Tuple[int, int]] = []
    start = previous = indices[0]
    for index in indices[1:]:
        if index != previous + 1:
            result.append((start, previous + 1))
            start = index
        previous = index
    result.append((start, previous + 1))
    return result
