"""The append-only journal of one run on one host.

A thread of its own writes and syncs, so that a slow disk delays neither heartbeats nor the load. `committed` is the size that has
survived fdatasync and is all that a follower may send.
"""

from __future__ import annotations

import collections
import errno
import hashlib
import os
import threading
import time
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from sai3ssh.agent import state
from sai3ssh.protocol import Record, encode_fields, encode_line, scan

PENDING_LIMIT = 64 * 1024 * 1024
"""Bytes of records that wait in memory while the disk takes none."""
RETRY_S = 0.5

Callback = Callable[[], None]
Waiting = Tuple[Record, bytes, Optional[Callback]]
"""A record that is not on disk yet, the fields of its line, and what is due once it is."""


def recover(path: str) -> Tuple[List[Record], int]:
    """The whole records of a journal, after cutting off what a power cut or a kill left torn; and how many bytes were cut."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return [], 0
    records, size = scan(data)
    if size < len(data):
        os.truncate(path, size)
    return records, len(data) - size


class Journal:
    """Appends records; nothing here blocks but `flush` and `close`.

    Thread-safe. A full disk keeps records in memory and the load going: the reserve is given up first, then records wait; beyond
    PENDING_LIMIT
    second summaries are folded into one gap record that keeps their exact totals.
    """

    def __init__(self, path: str, *, boot: str, wake: Callback = lambda: None) -> None:
        """Opens and recovers the journal. `wake` is called from the writer's thread when `committed` has moved or an error has come or
        gone."""
        self.records, self.truncated_bytes = recover(path)
        self.path = path
        self.committed = os.path.getsize(path) if os.path.exists(path) else 0
        self.error: Optional[OSError] = None
        self._boot = boot
        self._wake = wake
        self._seq = self.records[-1]["seq"] + 1 if self.records else 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        # Whoever wrote it may have died between write and sync.
        os.fdatasync(self._fd)
        state.sync_dir(os.path.dirname(path))
        self._sha = hashlib.sha256()
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                self._sha.update(piece)
        self._reserve = f"{path}.reserve"
        self._lock = threading.Condition()
        self._pending: Deque[Waiting] = collections.deque()
        self._pending_bytes = 0
        self._ready: List[Callback] = []
        self._appended = self._written = 0
        self._after: List[Tuple[int, Callback]] = []
        self._writing = False
        self._closing = False
        self._thread = threading.Thread(target=self._write_loop, name="journal", daemon=True)
        self._thread.start()

    def reserve(self, size_bytes: int) -> None:
        """Sets disk space aside for the journal; raises OSError (ENOSPC) when there is not enough."""
        disk = os.fstatvfs(self._fd)
        if disk.f_bavail * disk.f_frsize < size_bytes:
            # Not left to the allocation, which takes all there is before it fails: others write to this disk, too.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fd = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, max(1, size_bytes))
        except OSError:
            os.unlink(self._reserve)
            raise
        finally:
            os.close(fd)

    def append(self, kind: str, fields: Optional[Dict[str, Any]] = None, on_committed: Optional[Callback] = None) -> None:
        """Queues a record; `on_committed` becomes due (see `callbacks`) once it is on disk."""
        record: Record = {"boot": self._boot, "clock_ns": state.clock_ns(), "wall_ns": time.time_ns(), "kind": kind}
        record.update(fields or {})
        line = encode_fields(record)
        with self._lock:
            if self._closing:
                raise ValueError(f"journal {self.path} is closed, {kind!r} comes too late")
            self._pending.append((record, line, on_committed))
            self._appended += 1
            self._pending_bytes += len(line)
            if self._pending_bytes > PENDING_LIMIT:
                self._fold()
            self._lock.notify_all()

    def when_committed(self, callback: Callback) -> None:
        """`callback` becomes due once all that was appended so far is on disk."""
        with self._lock:
            if self._written < self._appended:
                self._after.append((self._appended, callback))
                return
            self._ready.append(callback)
        self._wake()

    def callbacks(self) -> List[Callback]:
        """The due callbacks, each handed out once."""
        with self._lock:
            due, self._ready = self._ready, []
        return due

    def flush(self, timeout_s: float) -> bool:
        """Waits until all that was appended is on disk; False when the deadline passed first."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._pending and not self._writing, timeout_s)

    def close(self, timeout_s: float = 10.0) -> Tuple[int, str]:
        """Flushes and closes; returns size and SHA-256 (hexadecimal) of what is on disk."""
        self.flush(timeout_s)
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        self._thread.join(timeout_s)
        os.close(self._fd)
        if os.path.exists(self._reserve):
            os.unlink(self._reserve)
        return self.committed, self._sha.hexdigest()

    def _fold(self) -> None:
        """Replaces the waiting second summaries by one gap record with their totals."""
        gap: Optional[Record] = None
        kept: Deque[Waiting] = collections.deque()
        # What is being written counts, too: it may come back.
        self._pending_bytes -= sum(len(line) for _, line, _ in self._pending)
        for record, line, callback in self._pending:
            if record["kind"] not in ("sec", "gap") or callback is not None:
                kept.append((record, line, callback))
                continue
            if gap is None or gap["stage"] != record["stage"] or gap["warmup"] != record["warmup"]:
                gap = {**record, "kind": "gap"}
                gap.pop("host", None)
                kept.append((gap, b"", None))
                continue
            for name in ("ops", "requests", "retries", "retried", "errors"):
                gap[name] = add_counters(gap[name], record[name])
            gap["to_clock_ns"] = record["to_clock_ns"]
            gap["done"] = record["done"]
        self._written += len(self._pending) - len(kept)
        self._pending = collections.deque((record, line or encode_fields(record), callback) for record, line, callback in kept)
        self._pending_bytes += sum(len(line) for _, line, _ in self._pending)

    def _write_loop(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: bool(self._pending) or self._closing)
                if not self._pending:
                    return
                batch = list(self._pending)
                self._pending.clear()
                self._writing = True
            data = b"".join(encode_line(self._seq + i, line) for i, (_, line, _) in enumerate(batch))
            try:
                self._write(data)
            except OSError as error:
                if not self._put_back(batch, error):
                    return
                continue
            self._sha.update(data)
            self._seq += len(batch)
            with self._lock:
                self.error = None
                self.committed += len(data)
                self._pending_bytes -= sum(len(line) for _, line, _ in batch)
                self._written += len(batch)
                self._ready += [callback for _, _, callback in batch if callback is not None]
                self._ready += [callback for target, callback in self._after if target <= self._written]
                self._after = [(target, callback) for target, callback in self._after if target > self._written]
                self._writing = False
                self._lock.notify_all()
            self._wake()

    def _put_back(self, batch: List[Waiting], error: OSError) -> bool:
        """Undoes a write that failed and waits before the next; False when the journal is being closed."""
        os.ftruncate(self._fd, self.committed)
        if os.path.exists(self._reserve):
            os.unlink(self._reserve)
        with self._lock:
            first = self.error is None
            self.error = error
            self._pending.extendleft(reversed(batch))
            self._writing = False
        if first:
            self._wake()
        with self._lock:
            return not self._lock.wait_for(lambda: self._closing, RETRY_S)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        os.fdatasync(self._fd)


def add_counters(a: Any, b: Any) -> Any:
    """The sum of two counter trees (dicts of ... of numbers or lists). In lists [count, bytes, sum, p50, p90, p99, max] percentiles
    cannot be added: they become 0, the maximum is kept."""
    if isinstance(a, dict):
        result = dict(a)
        for key, value in b.items():
            result[key] = add_counters(result[key], value) if key in result else value
        return result
    if isinstance(a, list):
        return [a[0] + b[0], a[1] + b[1], a[2] + b[2], 0, 0, 0, max(a[6], b[6])]
    return a + b
