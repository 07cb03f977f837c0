"""What a worker does in a stage: hands tasks to the engine and records what became of them.

The engine pulls with `next` and reports with `done`, `failed`, `retried` and `page`; it knows nothing of stages, the works know nothing of
sockets. Times are CLOCK_MONOTONIC in ns (time.monotonic_ns and time.perf_counter_ns on Linux). Not thread-safe: threaded engines call
under their own lock.
"""

from __future__ import annotations

import random
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from sai3ssh import dataset
from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import Engine, Root, Task
from sai3ssh.agent.keys import chooser
from sai3ssh.agent.pacing import Pacer, Ramp
from sai3ssh.agent.putpool import PutPool, drawn_from
from sai3ssh.histogram import CELLS, HIGHEST_NS, LOWEST_NS, OFFSET
from sai3ssh.model import ERROR_CLASSES, OPERATIONS, ErrorLimits, Intervals, OperationSpec, Population, bucket_of

_ERROR_CODE = {name: code for code, name in enumerate(ERROR_CLASSES)}
PUT, DELETE = OPERATIONS.index("put"), OPERATIONS.index("delete")
_BUCKET_BY_BITS = tuple(bucket_of(1 << bits) for bits in range(64))
"""Size bucket by (size - 1).bit_length(): all bounds are powers of two, so sizes in (2^(n-1), 2^n] share one."""
BACKOFF_S = (0.2, 5.0)
"""First and longest pause of an index of prepare or cleanup between two tries; the pause doubles."""


def put_format(agent: int, stage: int, worker: int, incarnation: int) -> str:
    """The printf format of the keys that one worker process puts in an execute stage: no two share a name."""
    return f"put-a{agent:04d}-s{stage:02d}-w{worker:02d}-{incarnation}-%010d.dat"


class Fatal(Exception):
    """The stage cannot go on; the message names what failed."""


class Recorder:
    """Counts into the worker's metrics file. One per stage."""

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells
        self.warmup_until_ns = 0
        self.tail_from_ns = 1 << 62

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """Counts a completed operation of `size` bytes, its latency from the intended start."""
        cells, op = self.cells, task.op
        start_ns = task.start_ns
        base = (metrics.PHASE if start_ns < self.warmup_until_ns else 0) + metrics.OP_BASE[op] + metrics.HEAD
        if size and metrics.BUCKETS[op] > 1:
            base += _BUCKET_BY_BITS[(size - 1).bit_length()] * metrics.REGION
        latency = end_ns - start_ns
        if LOWEST_NS < latency < HIGHEST_NS:
            shift = latency.bit_length() - 7
            cells[base + (shift << 6) + (latency >> shift) - OFFSET] += 1
        else:
            cells[base + (0 if latency <= LOWEST_NS else CELLS - 1)] += 1
        cells[base + metrics.SUM] += latency if latency > 0 else 0
        cells[base + metrics.BYTES] += size
        if latency > cells[base + metrics.MAX]:
            cells[base + metrics.MAX] = latency
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


class Objects:
    """The objects of one population as an engine addresses them."""

    def __init__(self, engine: Engine, population: Population) -> None:
        self.population = population
        self.root: Root = engine.root(population.target)
        self.content = dataset.Content(population.seed, population.fill, population.dedup_factor, population.compress_factor)
        self.name = population.name

    def task(self, op: int, index: int, now_ns: int) -> Task:
        """The task of an operation on object `index`."""
        population = self.population
        size = dataset.size_of(population.size, population.seed, index)
        return Task(op, self.root, dataset.key_of(population, index), size, index, self.content, now_ns, self.name)


class IndexWork:
    """One operation on each index of some populations: PUT for prepare, DELETE for cleanup. Every index is done, in the end, exactly once.

    An index that failed is tried again after a pause, until nothing at all has succeeded for `outage_timeout_s`; permission and bucket
    errors end the stage at once. Objects of `unsure` populations may not be there: a DELETE that does not find one is no error.
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
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._op = op
        self._objects = objects
        self._recorder = recorder
        self._outage_ns = int(outage_timeout_s * 1e9)
        self._target = target
        self._unsure = frozenset(unsure)
        self._todo = self._walk(owned)
        self._again: List[Tuple[int, str, int]] = []
        self._tries: Dict[Tuple[str, int], int] = {}
        self._finished: Dict[str, List[int]] = {name: [] for name in objects}
        self._left = sum(len(ranges) for ranges in owned.values())
        self._now_ns = now_ns
        self._last_success_ns = now_ns()
        self._exhausted = False
        self.wake_ns: Optional[int] = None
        self.finished = self._left == 0
        self.stopped = False

    @staticmethod
    def _walk(owned: Dict[str, Intervals]) -> Iterator[Tuple[str, int]]:
        for name, ranges in owned.items():
            for lo, hi in ranges:
                for index in range(lo, hi):
                    yield name, index

    def next(self, now_ns: int) -> Optional[Task]:
        """The next index to do, or None when all are in flight, done, or waiting for their pause (see wake_ns)."""
        if self.stopped:
            return None
        if self._again and self._again[0][0] <= now_ns:
            _, name, index = self._again.pop(0)
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
        if self._op == DELETE and error_class in ("not_found", "http_404"):
            if task.owner in self._unsure:
                self._recorder.page(task)
            else:
                self._recorder.failed(task, error_class, sent)
            self._recorder.cells[metrics.NOT_FOUND] += 1
            self._complete(task)
            return
        self._recorder.failed(task, error_class, sent)
        what = f"{OPERATIONS[self._op].upper()} {task.uri} on {self._target}: {detail} ({error_class})"
        if error_class in ("http_400", "http_401", "http_403", "http_404", "permission", "tls", "verify"):
            raise Fatal(what)
        outage_s = (end_ns - self._last_success_ns) / 1e9
        if end_ns - self._last_success_ns > self._outage_ns:
            raise Fatal(f"{what}; nothing has succeeded for {outage_s:.0f} s (target_outage_timeout {self._outage_ns / 1e9:.0f} s)")
        name = task.owner
        tries = self._tries[name, task.index] = self._tries.get((name, task.index), 0) + 1
        pause_s = min(BACKOFF_S[1], BACKOFF_S[0] * 2 ** (tries - 1)) * (0.75 + 0.5 * random.random())
        self._again.append((end_ns + int(pause_s * 1e9), name, task.index))
        self._again.sort()
        self.wake_ns = self._again[0][0]

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
                result[name] = _ranges(indices)
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


Maker = Callable[[int], Optional[Task]]
"""Makes the next task of one kind, with its start in ns; None when there is none, now or ever."""


class _Limited:
    """A maker that has only so many of its tasks in flight."""

    def __init__(self, make: Maker, limit: int, held: Dict[Task, _Limited]) -> None:
        """Notes itself in `held` for each of its tasks in flight."""
        self._make = make
        self._held = held
        self.left = limit

    def __call__(self, start_ns: int) -> Optional[Task]:
        task = self._make(start_ns) if self.left else None
        if task is not None:
            self.left -= 1
            self._held[task] = self
        return task


class MixWork:
    """A weighted mix of operations until the end of the stage: in a closed loop, at first with a ramp perhaps, or in an open one.

    get and stat take objects as their key selection says, by default uniformly from the whole population; delete takes its own share of the
    population in order, each index once, and leaves the mix when none is left; put writes new names, numbered from 0 below this worker's
    own prefix; list lists a prefix. While an operation with a concurrency of its own has so many in flight, the others have its turns.
    """

    def __init__(
        self,
        engine: Engine,
        mix: Sequence[OperationSpec],
        objects: Dict[str, Objects],
        deletable: Dict[str, Intervals],
        recorder: Recorder,
        *,
        put_format: str,
        seed: str,
        limits: ErrorLimits,
        end_ns: int,
        notice: Callable[[str], None],
        pacer: Union[Pacer, Ramp, None] = None,
        owned: Optional[Dict[str, Intervals]] = None,
        lane: Tuple[int, int] = (0, 1),
        pools: Optional[List[PutPool]] = None,
    ) -> None:
        """`deletable` is this worker's; `owned` is the agent's part of the populations that have a key selection; `lane` (n, of): this is
        the n-th, from 0, of so many workers of the agent. `pools` has what the worker put in earlier stages, and gets what it puts now."""
        self._pools = [] if pools is None else pools
        self._pool_of: Dict[Optional[dataset.Content], PutPool] = {}
        self._pooled = tuple(spec.target for spec in mix if spec.put_pool)
        self._owned = owned or {}
        self._lane = lane
        self._rng = random.Random(seed)
        self._pacer = pacer
        self._recorder = recorder
        self._limits = limits
        self._notice = notice
        self._put_format = put_format
        self._end_ns = end_ns
        self._errors = 0
        self._recent: List[int] = []
        self._put_count: Dict[str, int] = {}
        self._put_failed: Dict[str, List[int]] = {}
        self._deletes = {name: self._indices(ranges) for name, ranges in deletable.items()}
        self._deleted: Dict[str, List[int]] = {name: [] for name in deletable}
        self._held: Dict[Task, _Limited] = {}
        self._makers = self._all_makers(engine, [spec for spec in mix if spec.weight], objects)
        self._deck: List[Maker] = []
        watched = {"delete", *(spec.kind for spec in mix if spec.concurrency is not None), *(["put"] if self._pooled else [])}
        self._watched = [kind in watched for kind in OPERATIONS]
        """By operation: whether its end means more than to be counted."""
        self._watched_later = self._watched
        if isinstance(pacer, Ramp):
            self._watched = [True] * len(OPERATIONS)
        self.wake_ns: Optional[int] = None
        self.finished = self.stopped = False

    @staticmethod
    def _indices(ranges: Intervals) -> Iterator[int]:
        return (index for lo, hi in ranges for index in range(lo, hi))

    def _all_makers(self, engine: Engine, mix: Sequence[OperationSpec], objects: Dict[str, Objects]) -> List[Tuple[Maker, float]]:
        """Each operation with its weight in this worker, but those of whose concurrency nothing is for this worker.

        An operation that only some workers perform has more of their turns, so that its share over all workers is that of its weight.
        """
        result: List[Tuple[Maker, float]] = []
        worker, workers = self._lane
        total = sum(spec.weight for spec in mix)
        everywhere = sum(spec.weight for spec in mix if self._lanes(spec) == workers)
        left = 1.0
        slots = 0
        common: List[Tuple[Maker, float]] = []
        # Puts first: gets take from what they make.
        for spec in sorted(mix, key=lambda spec: spec.kind != "put"):
            if spec.concurrency is None:
                common.append((self._maker(engine, spec, objects, self._lane), spec.weight))
                continue
            # Dealt out in turn, on and on from one operation to the next: so no worker is left without any.
            lane = (worker - slots) % workers, self._lanes(spec)
            # Each worker deletes its own part of the objects, so each deletes.
            limit = len(range(lane[0], spec.concurrency, workers)) or int(spec.kind == "delete")
            slots += spec.concurrency
            if not limit:
                continue
            maker = _Limited(self._maker(engine, spec, objects, lane), limit, self._held)
            if lane[1] == workers:
                common.append((maker, spec.weight))
            else:
                share = min(left, spec.weight / total * workers / lane[1])
                left -= share
                result.append((maker, share))
        # Never nothing: they have the turns of those that are at their limit.
        return result + [(maker, max(left, 1e-6) * weight / everywhere) for maker, weight in common]

    def _lanes(self, spec: OperationSpec) -> int:
        """How many workers perform an operation."""
        workers = self._lane[1]
        return workers if spec.concurrency is None or spec.kind == "delete" else min(workers, spec.concurrency)

    def _maker(self, engine: Engine, spec: OperationSpec, objects: Dict[str, Objects], lane: Tuple[int, int]) -> Maker:
        op = OPERATIONS.index(spec.kind)
        if spec.kind == "put":
            return self._put_maker(engine.root(spec.target), spec)
        if spec.kind == "list":
            root = engine.root(spec.target)
            return lambda now_ns: Task(op, root, "", -1, -1, None, now_ns)
        assert spec.population is not None
        pool = objects[spec.population]
        if spec.kind == "delete":
            source = self._deletes[spec.population]

            def delete(now_ns: int) -> Optional[Task]:
                for index in source:
                    return pool.task(op, index, now_ns)
                return None

            return delete
        owned = self._owned.get(spec.population, Intervals())
        make = self._reader(op, spec, pool, owned, lane)
        if not spec.put_pool:
            return make
        pools = [made for made in self._pools if made.target.startswith(spec.target)]
        others = pool.population.count if spec.keys is None else len(owned)
        uniform = self._rng.random

        def get(now_ns: int) -> Task:
            made = drawn_from(pools, others, uniform())
            return made.draw(op, now_ns) if made is not None else make(now_ns)

        return get

    def _reader(self, op: int, spec: OperationSpec, pool: Objects, owned: Intervals, lane: Tuple[int, int]) -> Callable[[int], Task]:
        """Makes tasks on prepared objects, by the operation's key selection."""
        task = pool.task
        if spec.keys is not None:
            draw = chooser(spec.keys, pool.population, owned, lane, self._rng)
            return lambda now_ns: task(op, draw(), now_ns)
        count, uniform = pool.population.count, self._rng.random
        return lambda now_ns: task(op, int(uniform() * count), now_ns)

    def _put_maker(self, root: Root, spec: OperationSpec) -> Maker:
        assert spec.size is not None
        size, seed, target = spec.size, self._rng.getrandbits(48), spec.target
        content = dataset.Content(seed, spec.fill, spec.dedup_factor, spec.compress_factor)
        counts, cells = self._put_count, self._recorder.cells
        counts[target] = 0
        if target.startswith(self._pooled):

            def task(op: int, index: int, now_ns: int) -> Task:
                return Task(op, root, self._put_format % index, dataset.size_of(size, seed, index), index, content, now_ns, target)

            self._pool_of[content] = PutPool(target, task, self._rng)
            self._pools.append(self._pool_of[content])

        def put(now_ns: int) -> Optional[Task]:
            index = counts[target]
            counts[target] = index + 1
            cells[metrics.NAMES] += 1
            return Task(PUT, root, self._put_format % index, dataset.size_of(size, seed, index), index, content, now_ns, target)

        return put

    def next(self, now_ns: int) -> Optional[Task]:
        """The next operation of the mix; None when none is due yet (see wake_ns) or may begin, and once the stage is over."""
        pacer = self._pacer
        start_ns = now_ns
        while now_ns < self._end_ns and not self.finished:
            if pacer is not None:
                start_ns = pacer.due_ns(now_ns)
                if start_ns > now_ns:
                    self.wake_ns = min(start_ns, self._end_ns)
                    return None
            if not self._deck:
                if not self._makers:
                    break
                makers, weights = zip(*self._makers)
                self._deck = self._rng.choices(makers, weights, k=1024)
            maker = self._deck.pop()
            task = maker(start_ns)
            if task is not None:
                if pacer is not None:
                    pacer.advance()
                return task
            if not isinstance(maker, _Limited) or maker.left:
                self._drop(maker)
                continue
            free = [(other, weight) for other, weight in self._makers if not isinstance(other, _Limited) or other.left]
            if not free:
                self.wake_ns = None
                return None
            self._deck += self._rng.choices(*zip(*free))
        if isinstance(pacer, Pacer) and not self.finished and self._makers:
            self._tell_backlog(pacer.backlog(self._end_ns))
        self.finished = True
        return None

    def _tell_backlog(self, count: int) -> None:
        if count:
            self._notice(
                f"open loop: when the stage ended about {count:,} operations were due and had not begun; "
                "the target or the concurrency is too small for this io_rate"
            )

    def _drop(self, maker: Maker) -> None:
        self._makers = [(m, weight) for m, weight in self._makers if m is not maker]
        self._deck = []
        self._notice("no objects left to delete: delete leaves the mix for the rest of the stage")

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """Counts a success."""
        self._recorder.done(task, end_ns, size)
        if self._watched[task.op]:
            if task.op == DELETE:
                self._deleted[task.owner].append(task.index)
            elif task.op == PUT and task.content in self._pool_of:
                self._pool_of[task.content].add(task.index)
            self._ended(task, end_ns)

    def _ended(self, task: Task, end_ns: int) -> None:
        """A task of a watched operation is no longer in flight."""
        ramp = self._pacer
        if isinstance(ramp, Ramp):
            ramp.ended()
            if end_ns >= ramp.end_ns:
                self._pacer = None
                self._watched = self._watched_later
        limited = self._held.pop(task, None)
        if limited is not None:
            limited.left += 1

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        """Counts an error; raises Fatal beyond the error limits."""
        self._recorder.failed(task, error_class, sent)
        if self._watched[task.op]:
            self._ended(task, end_ns)
        if task.op == PUT:
            self._put_failed.setdefault(task.owner, []).append(task.index)
        if self.stopped:
            return  # what a stop cuts off says nothing about the target
        limits = self._limits
        self._errors += 1
        window_ns = int(limits.rate_window_s * 1e9)
        self._recent = [at for at in self._recent if at > end_ns - window_ns]
        self._recent.append(end_ns)
        last = f"the last: {OPERATIONS[task.op].upper()} {task.uri}: {detail} ({error_class})"
        if limits.max_total_errors and self._errors > limits.max_total_errors:
            raise Fatal(f"more than {limits.max_total_errors} errors (error_handling.max_total_errors); {last}")
        if limits.rate_per_s and len(self._recent) > max(1.0, limits.rate_per_s * limits.rate_window_s):
            raise Fatal(
                f"more than {limits.rate_per_s:g} errors/s over {limits.rate_window_s:g} s (error_handling.error_rate_threshold); {last}"
            )

    def retried(self, task: Task, error_class: str, sent: bool) -> None:
        """One attempt is repeated by the engine."""
        self._recorder.retried(task, error_class, sent)

    def late(self, late_ns: int) -> None:
        """The load loop came late."""
        self._recorder.late(late_ns)

    def page(self, task: Task) -> None:
        """A further request of a LIST."""
        self._recorder.page(task)

    def stop(self) -> None:
        """No further operations."""
        self.stopped = self.finished = True

    def take_finished(self) -> Dict[str, List[Tuple[int, int]]]:
        """The deleted ranges since the last call."""
        result = {name: _ranges(sorted(indices)) for name, indices in self._deleted.items() if indices}
        for name in result:
            self._deleted[name] = []
        return result

    def result(self) -> Dict[str, Any]:
        """What put made: {"puts": [{target, key_format, count, failed}]}."""
        return {
            "puts": [
                {"target": target, "key_format": self._put_format, "count": count, "failed": self._put_failed.get(target, [])}
                for target, count in self._put_count.items()
                if count
            ]
        }


def _ranges(indices: Sequence[int]) -> List[Tuple[int, int]]:
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
