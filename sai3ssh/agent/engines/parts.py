"""Operations on one object that are made as several requests: what the parts are and how far they have come."""

from __future__ import annotations

import re
from collections import deque
from typing import Deque, Optional, Set, Tuple, Union

from sai3ssh.agent.engines.base import GET, Task
from sai3ssh.agent.engines.response import Failure, header
from sai3ssh.agent.engines.s3_errors import Refusal
from sai3ssh.dataset import BLOCK, PIECE, Buffer, Content

RANGE, CREATE, UPLOAD_PART, COMPLETE, ABORT, SEARCH = "range", "create", "part", "complete", "abort", "search"
"""What a request is for: a range of a GET; a multipart upload, its parts and its end; uploads that may have been left behind."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Slice(Content):
    """The bytes of objects from an offset on, as objects of their own."""

    __slots__ = ("_of", "_start")

    def __init__(self, content: Content, start: int) -> None:
        super().__init__(content.seed, "zero")  # its own bytes are never asked for
        self._of = content
        self._start = start

    def head(self, index: int, size: int) -> bytes:
        """The first bytes of a slice of `size` bytes: all of it when it is at most PIECE, else PIECE bytes."""
        return self.piece(index, size, 0, PIECE)

    def piece(self, index: int, size: int, offset: int, length: int) -> bytes:
        """See Content.piece."""
        return self._of.piece(index, self._start + size, self._start + offset, length)

    def piece_into(self, buffer: Union[bytearray, memoryview], index: int, size: int, offset: int) -> int:
        """See Content.piece_into; the slice may begin anywhere."""
        if self._start % BLOCK == 0:
            return self._of.piece_into(buffer, index, self._start + size, self._start + offset)
        piece = self.piece(index, size, offset, PIECE)
        buffer[: len(piece)] = piece
        return len(piece)

    def matches(self, index: int, size: int, offset: int, data: Buffer) -> bool:
        """See Content.matches."""
        return self._of.matches(index, self._start + size, self._start + offset, data)


class Transfer:
    """One operation as requests for parts of its object, of which some are under way at once.

    `running` are those that were begun and have not ended, which includes those that wait to be tried again.
    """

    def __init__(self, task: Task, part_bytes: int, limit: int, content: Optional[Content] = None) -> None:
        """At most `limit` parts, each of part_bytes but the last, are under way at once. `content`: what the bytes are compared with."""
        self.task = task
        self._content = content
        self.running: Set[Part] = set()
        self.failure: Optional[Refusal] = None
        """Why the operation has failed; then whatever is still done is to leave nothing behind."""
        self.failed_sent = False
        self.closed = False
        """The work has been told how the operation ended."""
        self._limit = limit
        self._offsets: Deque[Tuple[int, int]] = deque((at, min(part_bytes, task.size - at)) for at in range(0, task.size, part_bytes))

    def next(self) -> Optional[Part]:
        """The next request that may begin now."""
        if not self._offsets or self.failure is not None or len(self.running) >= self._limit:
            return None
        offset, size = self._offsets.popleft()
        content = Slice(self._content, offset) if self._content is not None else None
        return Part(self, RANGE, GET, size, offset, content)

    def took(self, part: Part, head: bytes, body: bytearray) -> Optional[Failure]:  # noqa: ARG002
        """Takes the good response to a part, which has ended; the failure when it says nothing that the next step could use."""
        return None

    @property
    def complete(self) -> bool:
        """Whether the operation has succeeded; asked when a part has."""
        return not self._offsets and not self.running

    def lost(self, part: Part, found: Refusal) -> None:
        """An attempt at a part failed although its request had left."""

    def fail(self, found: Refusal, sent: bool) -> None:
        """The operation has failed, with a request that was sent or not."""
        self.failure, self.failed_sent = found, sent


class Part(Task):
    """One request of an operation that is made of several. It is tried again by itself; what comes of it is counted for the whole."""

    __slots__ = ("kind", "offset", "query", "transfer")

    def __init__(
        self, transfer: Transfer, kind: str, op: int, size: int, offset: int = 0, content: Optional[Content] = None, query: str = ""
    ) -> None:
        """`size` is what a PUT or POST sends and what a GET expects (-1: any); op is that of the operation it is most like."""
        task = transfer.task
        super().__init__(op, task.root, task.key, size, task.index, content, task.start_ns, task.owner)
        self.transfer = transfer
        self.kind = kind
        self.offset = offset
        self.query = query

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
