"""The controller's copy of one journal: a byte prefix of it at all times, whose size is the resume offset."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import JournalLost, Permanent
from ..protocol import MAX_LINE, ProtocolError, Record, decode_record

PHASE = "mirror"
"""Of errors that arise here."""


class Mirror:
    """An append-only file of journal bytes. Not thread-safe: one link writes, others may read `size`, `epoch` and `final`.

    Bytes go to the file as they come and are not synced until `verify`: whatever a crash of the controller costs is fetched again, because
    opening keeps only the prefix whose records are whole, checked and consecutive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.epoch: str | None = None
        self.final: Record | None = None
        self._sha256 = hashlib.sha256()
        self._partial = b""
        self._next_seq = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise Permanent(f"{path} cannot be opened: {error.strerror}", phase=PHASE, remedy="Choose another run directory") from error
        try:
            self._rebuild()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, offset: int, payload: bytes) -> list[Record]:
        """The records that became whole with these bytes of the journal. Raises JournalLost when they do not continue the mirror."""
        if offset != self.size:
            raise self._lost(f"the agent sent bytes from offset {offset}, the mirror ends at {self.size}")
        lines = (self._partial + payload).splitlines(keepends=True)
        partial = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        if len(partial) > MAX_LINE:
            raise self._lost(f"a record at offset {offset} has more than {MAX_LINE} bytes")
        records = [self._check(line, seq) for seq, line in enumerate(lines, self._next_seq)]
        self._write(payload)
        self._sha256.update(payload)
        self._partial = partial
        self._note(records)
        return records

    def verify(self, size: int, sha256: str) -> None:
        """Returns once the mirror is on disk and equals a journal of that size and SHA-256; raises JournalLost when it does not."""
        if self.size != size or self._sha256.hexdigest() != sha256:
            raise self._lost(f"mirror of {self.size} bytes, sha256 {self._sha256.hexdigest()}; journal of {size} bytes, sha256 {sha256}")
        os.fsync(self._file.fileno())
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes mirrored so far."""
        return self._sha256.hexdigest()

    def records(self) -> Iterator[Record]:
        """All whole records from the start, read from the file; for a controller that resumes."""
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield decode_record(line)

    def close(self) -> None:
        """Closes the file; may be called twice."""
        self._file.close()

    def _rebuild(self) -> None:
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as reader:
            for line in reader:
                try:
                    record = self._check(line, self._next_seq)
                except JournalLost:
                    break
                self.size += len(line)
                self._sha256.update(line)
                self._note([record])
        if os.fstat(self._file.fileno()).st_size != self.size:
            self._file.truncate(self.size)

    def _check(self, line: bytes, seq: int) -> Record:
        try:
            record = decode_record(line)
        except (ProtocolError, ValueError) as error:
            raise self._lost(f"record {seq} is torn or altered") from error
        if record.get("seq") != seq:
            raise self._lost(f"record {record.get('seq')} follows record {seq - 1}")
        return record

    def _note(self, records: list[dict[str, Any]]) -> None:
        self._next_seq += len(records)
        for record in records:
            if record.get("kind") == "epoch" and self.epoch is None:
                self.epoch = str(record.get("epoch"))
            elif record.get("kind") == "final":
                self.final = record

    def _write(self, payload: bytes) -> None:
        rest = memoryview(payload)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            # Without this the file would hold more than `size` says, and the next append would tear it.
            with contextlib.suppress(OSError):
                self._file.truncate(self.size)
            raise Permanent(
                f"{self.path} cannot be written: {error.strerror}",
                phase=PHASE,
                remedy="The agents go on by themselves: make room on this machine, then resume the run",
            ) from error
        self.size += len(payload)

    def _lost(self, found: str) -> JournalLost:
        return JournalLost(
            f"the journal does not continue {self.path}: {found}",
            phase=PHASE,
            remedy="The journal on the host was truncated, replaced or altered; what was mirrored stays in the run directory",
        )
