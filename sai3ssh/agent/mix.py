"""The work of an execute stage: a mix of operations until the stage is over."""

from __future__ import annotations

import random
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from sai3ssh import dataset
from sai3ssh.agent import metrics
from sai3ssh.agent.directories import Directories, Removals
from sai3ssh.agent.engines.base import COPY, DELETE, MKDIR, PUT, RMDIR, Engine, Root, Task, kind_of
from sai3ssh.agent.engines.tasks import CopyTask, LevelTask
from sai3ssh.agent.keys import chooser
from sai3ssh.agent.pacing import Pacer, Ramp
from sai3ssh.agent.putpool import PutPool, drawn_from
from sai3ssh.agent.work import Fatal, Objects, Recorder, ranges_of
from sai3ssh.model import OPERATIONS, ErrorLimits, Intervals, OperationSpec


def put_format(agent: int, stage: int, worker: int, incarnation: int) -> str:
    """The printf format of the keys that one worker process puts in an execute stage: no two share a name."""
    return f"put-a{agent:04d}-s{stage:02d}-w{worker:02d}-{incarnation}-%010d.dat"


def mkdir_format(run_id: str, agent: int, stage: int, worker: int, incarnation: int) -> str:
    """The same for the directories that it makes; with the run, because what an earlier one has left could not be made again."""
    return f"mkdir-{run_id}-a{agent:04d}-s{stage:02d}-w{worker:02d}-{incarnation}-%010d/"


Maker = Callable[[int], Optional[Task]]
"""Makes the next task of one kind, with its start in ns; None when there is none, now or ever."""


_OWN = ("delete", "rmdir")
"""What each worker does to what is its own."""


def _waits(maker: Maker) -> bool:
    """Whether a maker that gave no task may give one later."""
    return isinstance(maker, (_Limited, Removals)) and maker.waits


class _Limited:
    """A maker that has only so many of its tasks in flight."""

    def __init__(self, make: Maker, limit: int, held: Dict[Task, _Limited]) -> None:
        """Notes itself in `held` for each of its tasks in flight."""
        self.unlimited = make
        self._held = held
        self.left = limit

    @property
    def waits(self) -> bool:
        """Whether it has no task only now."""
        return not self.left or (isinstance(self.unlimited, Removals) and self.unlimited.waits)

    def __call__(self, start_ns: int) -> Optional[Task]:
        task = self.unlimited(start_ns) if self.left else None
        if task is not None:
            self.left -= 1
            self._held[task] = self
        return task


class MixWork:
    """A weighted mix of operations until the end of the stage: in a closed loop, at first with a ramp perhaps, or in an open one.

    get and stat take objects as their key selection says, by default uniformly from the whole population; delete takes its own share of the
    population in order, each index once, and leaves the mix when none is left; put writes new names, numbered from 0 below this worker's
    own prefix; copy makes such names of prepared objects; list lists a prefix; mkdir makes new names as put does, and rmdir removes what
    this worker's mkdir has made. While an operation with a concurrency of its own has so many in flight, or rmdir has nothing to remove
    yet, the others have its turns.
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
        mkdir_format: str,
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
        self._mkdir_format = mkdir_format
        self._directories: Dict[str, Directories] = {}
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
        watched = {"delete", "mkdir", "rmdir", *(spec.kind for spec in mix if spec.concurrency is not None)}
        if self._pooled:
            watched.add("put")
        self._watched = [kind in watched for kind in OPERATIONS]
        """By operation: whether its end means more than to be counted."""
        self._resume_ns = 0
        """Until then nothing begins, because there were too many errors."""
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
            # Each worker deletes its own part of the objects, and its own directories, so each does that.
            limit = len(range(lane[0], spec.concurrency, workers)) or int(spec.kind in _OWN)
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
        return workers if spec.concurrency is None or spec.kind in _OWN else min(workers, spec.concurrency)

    def _maker(self, engine: Engine, spec: OperationSpec, objects: Dict[str, Objects], lane: Tuple[int, int]) -> Maker:
        op = OPERATIONS.index(spec.kind)
        if spec.kind == "put":
            return self._put_maker(engine.root(spec.target), spec)
        if spec.kind in ("mkdir", "rmdir"):
            directories = self._directories.setdefault(spec.target, Directories(spec.target, engine.root(spec.target), self._mkdir_format))
            return Removals(directories, spec.recursive) if spec.kind == "rmdir" else self._mkdir_maker(directories)
        if spec.kind == "list":
            root = engine.root(spec.target)
            kind = LevelTask if spec.delimiter else Task
            return lambda now_ns: kind(op, root, "", -1, -1, None, now_ns)
        assert spec.population is not None
        pool = objects[spec.population]
        if spec.kind == "delete":
            source = self._deletes[spec.population]

            def delete(now_ns: int) -> Optional[Task]:
                for index in source:
                    return pool.task(op, index, now_ns)
                return None

            return self._delete_maker(spec, delete)
        owned = self._owned.get(spec.population, Intervals())
        make = self._reader(op, spec, pool, owned, lane)
        if spec.kind == "copy":
            return self._copy_maker(pool.root, spec.target, make)
        if not spec.put_pool:
            return make
        pools = [made for made in self._pools if made.target.startswith(spec.target)]
        others = pool.population.count if spec.keys is None else len(owned)
        uniform = self._rng.random

        def get(now_ns: int) -> Task:
            made = drawn_from(pools, others, uniform())
            return made.draw(op, now_ns) if made is not None else make(now_ns)

        return get

    def _delete_maker(self, spec: OperationSpec, make: Maker) -> Maker:  # noqa: ARG002
        return make

    def _reader(self, op: int, spec: OperationSpec, pool: Objects, owned: Intervals, lane: Tuple[int, int]) -> Callable[[int], Task]:
        """Makes tasks on prepared objects, by the operation's key selection."""
        if spec.keys is not None:
            return pool.maker(op, chooser(spec.keys, pool.population, owned, lane, self._rng))
        count, uniform = pool.population.count, self._rng.random
        return pool.maker(op, lambda: int(uniform() * count))

    def _put_maker(self, root: Root, spec: OperationSpec) -> Maker:
        assert spec.size is not None
        size, seed, target = spec.size, self._rng.getrandbits(48), spec.target
        content = dataset.Content(seed, spec.fill, spec.dedup_factor, spec.compress_factor)
        counts, cells = self._put_count, self._recorder.cells
        counts[target] = 0
        key_format, kind = self._put_format, kind_of(self._put_format % 0)
        same = size.min if size.min == size.max else None
        if target.startswith(self._pooled):

            def task(op: int, index: int, now_ns: int) -> Task:
                return Task(op, root, self._put_format % index, dataset.size_of(size, seed, index), index, content, now_ns, target)

            self._pool_of[content] = PutPool(target, task, self._rng)
            self._pools.append(self._pool_of[content])

        def put(now_ns: int) -> Optional[Task]:
            index = counts[target]
            counts[target] = index + 1
            cells[metrics.NAMES] += 1
            length = dataset.size_of(size, seed, index) if same is None else same
            return kind(PUT, root, key_format % index, length, index, content, now_ns, target)

        return put

    def _mkdir_maker(self, directories: Directories) -> Maker:
        directories.grow = True
        cells = self._recorder.cells

        def mkdir(now_ns: int) -> Optional[Task]:
            cells[metrics.NAMES] += 1
            return directories.new(now_ns)

        return mkdir

    def _copy_maker(self, root: Root, target: str, source: Maker) -> Maker:
        """New names as of puts, so that a cleanup removes them."""
        counts, cells = self._put_count, self._recorder.cells
        counts[target] = 0

        def copy(now_ns: int) -> Optional[Task]:
            index = counts[target]
            counts[target] = index + 1
            cells[metrics.NAMES] += 1
            copied = source(now_ns)
            assert copied is not None
            return CopyTask(root, self._put_format % index, index, copied, target)

        return copy

    def next(self, now_ns: int) -> Optional[Task]:
        """The next operation of the mix; None when none is due yet (see wake_ns) or may begin, and once the stage is over."""
        pacer = self._pacer
        start_ns = now_ns
        if now_ns < self._resume_ns:
            self.wake_ns = self._resume_ns
            return None
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
                self._deck = self._rng.choices(makers, weights, k=1024) if len(makers) > 1 else [*makers] * 1024
            maker = self._deck.pop()
            task = maker(start_ns)
            if task is not None:
                if pacer is not None:
                    pacer.advance()
                return task
            if not _waits(maker):
                self._drop(maker)
                continue
            free = [(other, weight) for other, weight in self._makers if not _waits(other)]
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
        if isinstance(maker.unlimited if isinstance(maker, _Limited) else maker, Removals):
            self._notice("no directories left to remove: rmdir leaves the mix for the rest of the stage")
        else:
            self._notice("no objects left to delete: delete leaves the mix for the rest of the stage")

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """Counts a success."""
        self._recorder.done(task, end_ns, size)
        if self._watched[task.op]:
            if task.op == DELETE:
                self._deleted[task.owner].append(task.index)
            elif task.op in (MKDIR, RMDIR):
                self._directories[task.owner].done(task)
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
        if task.op == MKDIR:
            self._directories[task.owner].failed.append(task.index)
        elif task.op in (PUT, COPY):
            self._put_failed.setdefault(task.owner, []).append(task.index)
        if self.stopped:
            return  # what a stop cuts off says nothing about the target
        limits = self._limits
        self._errors += 1
        window_ns = int(limits.rate_window_s * 1e9)
        self._recent = [at for at in self._recent if at > end_ns - window_ns]
        self._recent.append(end_ns)
        what = f"{OPERATIONS[task.op].upper()} {task.uri}: "
        last = f"the last: {what}{detail.removeprefix(what)} ({error_class})"
        if limits.max_total_errors and self._errors > limits.max_total_errors:
            raise Fatal(f"more than {limits.max_total_errors} errors (error_handling.max_total_errors); {last}")
        if limits.rate_per_s and len(self._recent) > max(1.0, limits.rate_per_s * limits.rate_window_s):
            what = f"more than {limits.rate_per_s:g} errors/s over {limits.rate_window_s:g} s (error_handling.error_rate_threshold)"
            if limits.backoff_s is None:
                raise Fatal(f"{what}; {last}")
            self._back_off(end_ns, limits.backoff_s, f"{what}; {last}")

    def _back_off(self, now_ns: int, pause_s: float, what: str) -> None:
        """Begins nothing for so long. Errors of what is in flight prolong it; all errors count towards the total."""
        if now_ns >= self._resume_ns:
            self._notice(f"no operations for {pause_s:g} s (error_handling.backoff_duration): {what}")
        self._resume_ns = min(now_ns + int(pause_s * 1e9), self._end_ns)
        self._recent = []

    def retried(self, task: Task, error_class: str, sent: bool) -> None:
        """One attempt is repeated by the engine."""
        self._recorder.retried(task, error_class, sent)

    def late(self, late_ns: int) -> None:
        """The load loop came late."""
        self._recorder.late(late_ns)

    def page(self, task: Task) -> None:
        """A further request of a LIST."""
        self._recorder.page(task)

    def end_at(self, end_ns: int) -> None:
        """The stage is over at another time than was planned, in ns of the work's clock."""
        self._end_ns = self._recorder.tail_from_ns = end_ns
        self._resume_ns = min(self._resume_ns, end_ns)

    def stop(self) -> None:
        """No further operations."""
        self.stopped = self.finished = True

    def take_finished(self) -> Dict[str, List[Tuple[int, int]]]:
        """The deleted ranges since the last call."""
        result = {name: ranges_of(sorted(indices)) for name, indices in self._deleted.items() if indices}
        for name in result:
            self._deleted[name] = []
        return result

    def result(self) -> Dict[str, Any]:
        """What put, copy and mkdir made: {"puts": [{target, key_format, count, failed}]}, with `removed` where rmdir took some away."""
        return {
            "puts": [directories.made() for directories in self._directories.values() if directories.count]
            + [
                {"target": target, "key_format": self._put_format, "count": count, "failed": self._put_failed.get(target, [])}
                for target, count in self._put_count.items()
                if count
            ]
        }


class CountedMixWork(MixWork):
    """A mix that ends after so many operations, or at the end of the stage."""

    def __init__(self, *arguments: Any, tasks: int, begun: int, **keywords: Any) -> None:
        """`begun` of the `tasks` were this worker's before it was started anew."""
        super().__init__(*arguments, **keywords)
        self.begun = begun
        self._tasks = tasks
        self.finished = begun >= tasks

    def next(self, now_ns: int) -> Optional[Task]:
        """The next operation of the mix; see MixWork."""
        task = super().next(now_ns)
        if task is not None:
            self.begun += 1
            if self.begun >= self._tasks:
                self.finished = True
        return task
