"""The work of a replay stage: the rows of a worker's trace, in their order, at their times or one after the other."""

from __future__ import annotations

import collections
import contextlib
import os
from typing import Any, BinaryIO, Callable, Deque, Dict, List, Optional, Tuple

from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import DELETE, PUT, Engine, Task
from sai3ssh.agent.mix import MixWork
from sai3ssh.agent.work import Recorder
from sai3ssh.dataset import Content
from sai3ssh.model import OPERATIONS, ErrorLimits, Replay
from sai3ssh.oplog import Frame, frames, trace_name, unpack

HELD = 10_000
"""So many rows at most wait for others on the same object; then no more are taken."""
_OP = {name: code for code, name in enumerate(OPERATIONS)}
_ANY = -1

_Row = Tuple[int, int, str, int]
"""When it is due in ns from the start of the trace, operation, key, bytes."""


class Trace:
    """The rows of one file, a frame at a time. Raises OSError or ValueError when it cannot be read."""

    def __init__(self, path: str) -> None:
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 (open as long as the worker is)
        self._frames = frames(self._file, os.fstat(self._file.fileno()).st_size)
        self._ahead: Deque[Frame] = collections.deque()
        self._rows: Deque[_Row] = collections.deque()

    def skip(self, rows: int, before_ns: int) -> int:
        """Leaves out the first so many rows, and all that were due before; how many these are. Called once, before `next`."""
        skipped = 0
        ahead = self._ahead
        while self._look(2) and (skipped + ahead[0].records <= rows or ahead[1].earliest_ns < before_ns):
            skipped += ahead.popleft().records
        while self._fill() and (skipped < rows or self._rows[0][0] < before_ns):
            self._rows.popleft()
            skipped += 1
        return skipped

    def peek(self) -> Optional[_Row]:
        """The next row; None after the last."""
        return self._rows[0] if self._fill() else None

    def next(self) -> _Row:
        """Takes it."""
        return self._rows.popleft()

    def rest(self) -> int:
        """How many rows there are after those that were taken. Nothing can be taken any more."""
        return len(self._rows) + sum(frame.records for frame in (*self._ahead, *self._frames))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _look(self, count: int) -> bool:
        while len(self._ahead) < count:
            frame = next(self._frames, None)
            if frame is None:
                return False
            self._ahead.append(frame)
        return True

    def _fill(self) -> bool:
        if not self._rows and self._look(1):
            frame = self._ahead.popleft()
            self._file.seek(frame.offset)
            rows = unpack(self._file.read(frame.length), frame)
            self._rows.extend((row.start_ns, _OP[row.op], row.key, row.bytes) for row in rows)
        return bool(self._rows)


class _Key:
    """An object with operations in flight."""

    __slots__ = ("active", "waiting", "writing")

    def __init__(self, writing: bool) -> None:
        self.active = 1
        self.writing = writing
        self.waiting: Deque[_Row] = collections.deque()


class ReplayWork(MixWork):
    """Each row of a trace once. What writes an object waits for all rows before it on the same object, and the rows after it wait for it.

    With a speed it is an open loop: a row is due at its time, its latency counts from then, and what has not begun at the end of the stage
    is told. Without, the next row begins when there is room. A worker that follows one that died goes on behind the rows that had begun; of
    a schedule it leaves out what was due meanwhile.
    """

    def __init__(
        self,
        engine: Engine,
        spec: Replay,
        directory: str,
        recorder: Recorder,
        *,
        place: Tuple[int, int],
        seed: str,
        limits: ErrorLimits,
        start_ns: int,
        begin_ns: int,
        end_ns: int,
        notice: Callable[[str], None],
    ) -> None:
        """`place`: stage and worker. `start_ns` is the start of the stage, `begin_ns` that of this worker's part of it; `end_ns` counts
        only with a speed."""
        super().__init__(
            engine, (), {}, {}, recorder, put_format="", mkdir_format="", seed=seed, limits=limits, end_ns=end_ns, notice=notice
        )
        name = trace_name(*place)
        self._root = engine.root(spec.target)
        self._content = Content(self._rng.getrandbits(48))
        self._speed = spec.speed
        self._start_ns = start_ns
        self._keys: Dict[str, _Key] = {}
        self._ready: Deque[_Row] = collections.deque()
        self._waiting = self._puts = 0
        self._cells = recorder.cells
        self._position = os.path.join(directory, name + ".position")
        # Counters in shared memory do not outlive the host's boot.
        begun = max(self._cells[metrics.NAMES], _read_number(self._position))
        self._trace = Trace(os.path.join(directory, name))
        # The first incarnation begins at the start and leaves out nothing.
        late = spec.speed is not None and (begun or begin_ns > start_ns)
        left_out = self._trace.skip(begun, int((begin_ns - start_ns) * (spec.speed or 0.0)) if late else 0) - begun
        self._cells[metrics.NAMES] = begun + max(0, left_out)
        if left_out > 0:
            notice(f"replay: {left_out:,} operations were due while nobody was there; they are left out")

    def next(self, now_ns: int) -> Optional[Task]:
        """The next row's operation; None when none is due (see wake_ns), or may begin, and after the last."""
        if self.finished:
            return None
        speed = self._speed
        if speed is not None and now_ns >= self._end_ns:
            left = self._trace.rest() + self._waiting + len(self._ready)
            if left:
                self._notice(f"replay: {left:,} operations had not begun when the stage ended; the target or the concurrency is too small")
            self.finished = True
            return None
        if self._ready:
            return self._task(self._ready.popleft(), now_ns)
        while self._waiting < HELD:
            row = self._trace.peek()
            if row is None:
                # A schedule has its full time, as it was measured against it.
                self.finished = speed is None and not self._waiting
                break
            if speed is not None:
                due_ns = self._start_ns + int(row[0] / speed)
                if due_ns > now_ns:
                    self.wake_ns = min(due_ns, self._end_ns)
                    return None
            self._trace.next()
            self._cells[metrics.NAMES] += 1
            if self._may_begin(row):
                return self._task(row, now_ns)
        self.wake_ns = self._end_ns if speed is not None else None
        return None

    def _task(self, row: _Row, now_ns: int) -> Task:
        at_ns, op, key, size = row
        start_ns = now_ns if self._speed is None else self._start_ns + int(at_ns / self._speed)
        if op == PUT:
            self._puts += 1
            return Task(op, self._root, key, size, self._puts, self._content, start_ns, key)
        return Task(op, self._root, key, _ANY, _ANY, None, start_ns, key)

    def _may_begin(self, row: _Row) -> bool:
        writes = row[1] in (PUT, DELETE)
        key = self._keys.get(row[2])
        if key is None:
            self._keys[row[2]] = _Key(writes)
            return True
        if writes or key.writing or key.waiting:
            key.waiting.append(row)
            self._waiting += 1
            return False
        key.active += 1
        return True

    def _key_ended(self, name: str) -> None:
        key = self._keys[name]
        key.active -= 1
        if key.active:
            return
        key.writing = False
        waiting = key.waiting
        while waiting and not key.writing:
            writes = waiting[0][1] in (PUT, DELETE)
            if writes and key.active:
                break
            key.writing = writes
            key.active += 1
            self._ready.append(waiting.popleft())
            self._waiting -= 1
        if not key.active:
            del self._keys[name]

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """Counts a success."""
        self._recorder.done(task, end_ns, size)
        self._key_ended(task.owner)

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        """Counts an error; raises Fatal beyond the error limits."""
        self._key_ended(task.owner)
        self._put_failed.clear()
        super().failed(task, end_ns, error_class, detail, sent)

    def take_finished(self) -> Dict[str, List[Tuple[int, int]]]:
        """Nothing for the ledger; notes how far it is."""
        with contextlib.suppress(OSError), open(self._position, "w", encoding="ascii") as file:
            file.write(str(self._cells[metrics.NAMES]))
        return {}

    def result(self) -> Dict[str, Any]:
        """Nothing: what was put has the names of the trace, and is not cleaned up."""
        self._trace.close()
        return {}


def _read_number(path: str) -> int:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return int(file.read())
    return 0
