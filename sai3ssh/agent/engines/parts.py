"""Operations on one object that are made as several requests: what the parts are and how far they have come."""

from __future__ import annotations

import re
from collections import deque
from typing import Deque, Optional, Set

from sai3ssh.agent.engines.base import Task
from sai3ssh.agent.engines.response import Failure, header
from sai3ssh.dataset import BLOCK, PIECE, Content

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Slice(Content):
    """The bytes of objects from an offset on, as objects of their own."""

    __slots__ = ("_start",)

    def __init__(self, content: Content, start: int) -> None:
        super().__init__(content.seed, content.fill)
        self._start = start

    def head(self, index: int, size: int) -> bytes:
        """The first bytes of a slice of `size` bytes: all of it when it is at most PIECE, else PIECE bytes."""
        return self.piece(index, size, 0, PIECE)

    def piece(self, index: int, size: int, offset: int, length: int) -> bytes:
        """See Content.piece."""
        return super().piece(index, self._start + size, self._start + offset, length)

    def piece_into(self, buffer: bytearray, index: int, size: int, offset: int) -> int:
        """See Content.piece_into; the slice may begin anywhere."""
        if self._start % BLOCK == 0:
            return super().piece_into(buffer, index, self._start + size, self._start + offset)
        piece = self.piece(index, size, offset, PIECE)
        buffer[: len(piece)] = piece
        return len(piece)


class Transfer:
    """One operation and the state of its parts: to be begun, or under way, which includes those that wait to be tried again."""

    __slots__ = ("limit", "running", "task", "todo")

    def __init__(self, task: Task, part_bytes: int, limit: int) -> None:
        """At most `limit` parts, each of part_bytes but the last, are under way at once."""
        self.task = task
        self.limit = limit
        self.running: Set[Part] = set()
        self.todo: Deque[Part] = deque(
            Part(self, offset, min(part_bytes, task.size - offset)) for offset in range(0, task.size, part_bytes)
        )


class Part(Task):
    """A request for a part of a task's object. It is tried again by itself; what comes of it is counted for the whole."""

    __slots__ = ("offset", "transfer")

    def __init__(self, transfer: Transfer, offset: int, size: int) -> None:
        task = transfer.task
        content = Slice(task.content, offset) if task.content is not None else None
        super().__init__(task.op, task.root, task.key, size, task.index, content, task.start_ns, task.owner)
        self.transfer = transfer
        self.offset = offset

    @property
    def whole(self) -> Task:
        """The task that this is a part of."""
        return self.transfer.task

    @property
    def range_header(self) -> bytes:
        """The header that asks for these bytes."""
        return b"Range: bytes=%d-%d\r\n" % (self.offset, self.offset + self.size - 1)

    def misfit(self, status: int, head: bytes) -> Optional[Failure]:
        """Why a success is no answer to a request for this range; None when it is."""
        if status == 200:
            return Failure("protocol", "HTTP 200 to a GET of a range, expected 206: the server ignores Range; switch range_engine off")
        if status != 206:
            return Failure("protocol", f"HTTP {status} to a GET of a range, expected 206")
        given = header(head, "content-range")
        found = _CONTENT_RANGE.fullmatch(given)
        if found is None:
            return Failure("protocol", f"HTTP 206 with Content-Range {given[:60]!r}, expected bytes first-last/size")
        if found.group(3) not in ("*", str(self.whole.size)):
            return Failure("verify", f"the object has {found.group(3)} bytes, expected {self.whole.size}")
        last = self.offset + self.size - 1
        if (int(found.group(1)), int(found.group(2))) != (self.offset, last):
            return Failure("protocol", f"asked for bytes {self.offset}-{last}, Content-Range is {given}")
        return None
