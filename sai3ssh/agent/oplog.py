"""A worker's op-log: what it counts, it also writes down, without waiting for the disk.

The load loop only keeps tuples, and packs each BLOCK of them; a thread compresses and writes. What the thread cannot take in time, or the
disk not at all, is dropped and counted. At most WAITING blocks are in memory.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time
from typing import Any, Deque, Dict, List, Optional, Tuple

from sai3ssh.agent.details import DetailRecorder, Layout
from sai3ssh.agent.engines.base import PUT, Task
from sai3ssh.model import MIB
from sai3ssh.oplog import SEGMENT, Record, frame, pack, segment_name

BLOCK = 1024
"""Records that are packed at once: some 0.3 ms of the load loop's time."""
WAITING = 64
"""Blocks that wait for the disk at most."""
SEGMENT_BYTES = 16 * MIB
KEEP_FREE_BYTES = 64 * MIB
"""What stays free on the disk for the journal and for everybody else."""
CLOSE_S = 5.0
"""How long the end of a stage waits for the disk."""


class OpLog:
    """The log of one worker in one stage: append to `records`, `flush` at BLOCK of them and at least each second, `close` at the end."""

    def __init__(self, directory: str, stage: int, worker: int, incarnation: int, max_bytes: int) -> None:
        """`max_bytes` is what this worker may have on the disk over the whole run, with what is there already."""
        self.records: List[Record] = []
        self.written = self._dropped = self._not_taken = 0
        self._dir = directory
        self._stage, self._worker, self._incarnation = stage, worker, incarnation
        self._number = 0
        self._left = max_bytes - _on_disk(directory, worker)
        # One offset, so that what is a duration in the log is one in the histograms too.
        self._wall_ns = _wall_offset_ns()
        self._blocks: Deque[Tuple[bytes, int, int]] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread: Optional[threading.Thread] = None
        self._fd = -1
        self._size = 0
        self._why = ""
        self._told = False

    @property
    def dropped(self) -> int:
        """Records that are not in the log."""
        return self._dropped + self._not_taken

    def flush(self) -> None:
        """Hands on what has been gathered."""
        records = self.records
        if not records:
            return
        if len(self._blocks) >= WAITING:
            self._not_taken += len(records)
            self._why = "the disk is too slow"
        else:
            block, earliest_ns = pack(records, self._wall_ns, self._stage, self._worker)
            with self._changed:
                self._blocks.append((block, len(records), earliest_ns))
                self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="op-log", daemon=True)
                self._thread.start()
        # The same list: who appends has it.
        records.clear()

    def complaint(self) -> Optional[str]:
        """What to tell when records were dropped for the first time; else None."""
        if self._told or not self.dropped:
            return None
        self._told = True
        return f"op-log: records are being dropped: {self._why}"

    def close(self) -> Dict[str, Any]:
        """Waits for the disk, CLOSE_S at most; how many records are {written, dropped}, and why those."""
        self.flush()
        if self._thread is not None:
            with self._changed:
                self._closing = True
                self._changed.notify()
            self._thread.join(CLOSE_S)
        with self._changed:
            waiting = sum(records for _, records, _ in self._blocks)
            self._blocks.clear()
        if waiting:
            self._not_taken += waiting
            self._why = "the disk is too slow"
        return {"written": self.written, "dropped": self.dropped, "why": self._why}

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._blocks and not self._closing:
                    self._changed.wait()
                if not self._blocks:
                    break
                block, records, earliest_ns = self._blocks[0]
            why = self._write(frame(block, records, earliest_ns))
            with self._changed:
                if not self._blocks:
                    break  # given up meanwhile: counted as dropped, whatever became of it
                self._blocks.popleft()
                if why:
                    self._dropped += records
                    self._why = why
                else:
                    self.written += records
        if self._fd >= 0:
            os.close(self._fd)

    def _write(self, data: bytes) -> str:
        """Appends to the segment; why that was not possible, or nothing."""
        if len(data) > self._left:
            return "the op-log has reached op_log_max_bytes"
        try:
            found = os.statvfs(self._dir)
            if found.f_bavail * found.f_frsize < KEEP_FREE_BYTES + len(data):
                return f"the disk is full: less than {KEEP_FREE_BYTES // MIB} MiB are free in {self._dir}"
            if self._fd < 0 or self._size >= SEGMENT_BYTES:
                self._next_segment()
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                if self._fd >= 0:
                    os.ftruncate(self._fd, self._size)
            return f"{error.strerror}: {error.filename or self._dir}"
        self._size += len(data)
        self._left -= len(data)
        return ""

    def _next_segment(self) -> None:
        while True:
            path = os.path.join(self._dir, segment_name(self._stage, self._worker, self._incarnation, self._number))
            self._number += 1
            try:
                # Its group reads it: where the agent is deployed, that is who collects.
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
            except FileExistsError:
                continue  # of an earlier pass of the stage
            if self._fd >= 0:
                os.close(self._fd)
            self._fd, self._size = fd, 0
            return


class LoggedRecorder(DetailRecorder):
    """A recorder that also writes an op-log: one record for each operation that is counted, also in a warm-up, and for each error.

    The start is the intended one and the end of a success is that of its latency. An error ends when it is told.
    """

    def __init__(self, cells: memoryview, layout: Layout, log: OpLog) -> None:
        super().__init__(cells, layout)
        self._log = log
        self._records = log.records

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """See DetailRecorder."""
        super().done(task, end_ns, size)
        split, records = task.split, self._records
        first_ns = -1 if split is None else end_ns - split[4]
        records.append((task.op, task.root.uri, task.key, size, task.start_ns, end_ns, first_ns, "", task.listed))
        if len(records) >= BLOCK:
            self._log.flush()

    def failed(self, task: Task, error_class: str, sent: bool) -> None:
        """See DetailRecorder."""
        super().failed(task, error_class, sent)
        size = task.size if task.op == PUT else 0
        self._records.append((task.op, task.root.uri, task.key, size, task.start_ns, time.monotonic_ns(), -1, error_class, 0))
        if len(self._records) >= BLOCK:
            self._log.flush()


def _wall_offset_ns() -> int:
    """What brings CLOCK_MONOTONIC into wall time: by the closest pair of readings, as a process can be kept waiting between two."""
    pairs = []
    for _ in range(5):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        pairs.append((after - before, wall - (before + after) // 2))
    return min(pairs)[1]


def _on_disk(directory: str, worker: int) -> int:
    """Bytes of the segments that a worker of that number has written so far."""
    size = 0
    for name in os.listdir(directory):
        found = SEGMENT.fullmatch(name)
        if found and int(found[2]) == worker:
            size += os.path.getsize(os.path.join(directory, name))
    return size
