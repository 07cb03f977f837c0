"""The controller's own journal: events.ndjson in the run directory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import Permanent
from ..protocol import Json, dumps


class EventLog:
    """Appends events; each is on disk when `append` returns. One writer."""

    def __init__(self, path: Path, wall_s: Callable[[], float] = time.time) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Permanent(f"{path} cannot be written: {error.strerror}", remedy="A run is steered by who may write there") from error
        self._cut_torn_line()
        self._wall_s = wall_s

    def _cut_torn_line(self) -> None:
        """What a power cut left of the last event goes: nothing was done because of it."""
        end = size = os.fstat(self._fd).st_size
        while end and os.pread(self._fd, 1, end - 1) != b"\n":
            end -= 1
        if end < size:
            os.ftruncate(self._fd, end)

    def append(self, event: str, **fields: Any) -> Json:
        """Writes and syncs one event; returns it. `at` is wall time in seconds. Raises Permanent when it cannot be written."""
        record = {"at": round(self._wall_s(), 6), "event": event, **fields}
        data = memoryview(dumps(record).encode("ascii") + b"\n")
        size = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
        except OSError as error:
            # Half an event in the middle of the log would make it unreadable.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)
            raise Permanent(
                f"{self._path} cannot be written: {error.strerror}",
                remedy="The agents go on by themselves: make room on this machine, then resume the run",
            ) from error
        return record

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


def read(path: Path) -> Iterator[Json]:
    """The whole events of a log; a torn last line, as a power cut leaves it, is passed over. Raises Permanent where a line is none."""
    import json

    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line.decode("utf-8"))
                known = isinstance(event["event"], str)
            except (ValueError, LookupError, TypeError):
                known = False
            if not known:
                raise Permanent(f"{path}:{number}: expected an event, found {line[:40]!r}", remedy="Restore the file, or leave the run out")
            yield event
