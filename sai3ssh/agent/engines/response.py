"""HTTP/1.1 responses as bytes: what of a head an engine needs, and chunked bodies."""

from __future__ import annotations

from typing import List, NamedTuple

MAX_HEAD = 64 * 1024
TO_CLOSE, CHUNKED = -1, -2
"""Values of Head.length: the body ends with the connection; the body comes in chunks."""

_MAX_CHUNK_LINE = 4096


class Failure(Exception):
    """An attempt at an operation failed: its error class and what to tell people."""

    def __init__(self, error_class: str, detail: str) -> None:
        super().__init__(detail)
        self.error_class = error_class
        self.detail = detail


class Head(NamedTuple):
    """Status and framing of a response."""

    status: int
    length: int
    close: bool


def parse_head(head: bytes) -> Head:
    """Status and framing, from the status line up to and including the CRLF of the last header; raises Failure('protocol').

    The few headers that matter are searched: a dictionary of all of them would cost more than the rest of an operation.
    """
    if head[:7] != b"HTTP/1.":
        raise Failure("protocol", f"not an HTTP response: it begins with {head[:40]!r}")
    text = head[9:12]
    if not text.isdigit():
        raise Failure("protocol", f"status line {head[:40]!r}")
    lower = head.lower()
    close = b"close" in lower and b"close" in _value(lower, lower, b"connection")
    if head[7:8] == b"0" and not close:
        close = b"keep-alive" not in _value(lower, lower, b"connection")
    if lower.find(b"\r\ntransfer-encoding:") >= 0:
        if not _value(lower, lower, b"transfer-encoding").endswith(b"chunked"):
            raise Failure("protocol", "Transfer-Encoding is not chunked")
        return Head(int(text), CHUNKED, close)
    start = lower.find(b"\r\ncontent-length:")
    if start < 0:
        return Head(int(text), TO_CLOSE, close)
    end = lower.find(b"\r", start + 17)
    digits = lower[start + 17 : end].strip()
    if not digits.isdigit() or len(digits) > 18:
        raise Failure("protocol", f"Content-Length {digits[:40]!r}")
    if lower.find(b"\r\ncontent-length:", end) >= 0:
        raise Failure("protocol", "Content-Length is given twice")
    return Head(int(text), int(digits), close)


def _value(head: bytes, lower: bytes, name: bytes) -> bytes:
    """The value of the first header of that (lower-case) name, empty when there is none; `lower` is head in lower case."""
    start = lower.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = lower.find(b"\r", start)
    return head[start : end if end >= 0 else len(head)].strip()


def header(head: bytes, name: str) -> str:
    """The value of a header as text, empty when it is absent."""
    return _value(head, head.lower(), name.lower().encode("ascii")).decode("latin-1")


class ChunkReader:
    """Takes a chunked body apart, in pieces of any size."""

    __slots__ = ("_left", "_line", "_trailer", "finished")

    def __init__(self) -> None:
        # Data bytes of this chunk that have not come; -2 and -1: as many bytes of the line end after them.
        self._left = 0
        self._line = b""
        self._trailer = -1
        self.finished = False

    def feed(self, data: memoryview, into: List[memoryview]) -> int:
        """Appends the parts of `data` that are body; returns how many bytes were used, all of them unless the body is finished."""
        at, end = 0, len(data)
        while at < end and not self.finished:
            if self._left > 0:
                size = min(self._left, end - at)
                into.append(data[at : at + size])
                at += size
                self._left -= size
                if not self._left:
                    self._left = -2
            elif self._left < 0:
                if data[at] != b"\r\n"[self._left]:
                    raise Failure("protocol", "a chunk is longer than its size says")
                at += 1
                self._left += 1
            else:
                at = self._read_line(data, at, end)
        return at

    def _read_line(self, data: memoryview, at: int, end: int) -> int:
        chunk = bytes(data[at : min(end, at + _MAX_CHUNK_LINE)])
        stop = chunk.find(b"\n") + 1
        self._line += chunk[:stop] if stop else chunk
        if len(self._line) > _MAX_CHUNK_LINE:
            raise Failure("protocol", f"chunk header of more than {_MAX_CHUNK_LINE} bytes")
        if stop:
            line, self._line = self._line.strip(), b""
            self._take_line(line)
            return at + stop
        return at + len(chunk)

    def _take_line(self, line: bytes) -> None:
        if self._trailer >= 0:
            self._trailer += len(line)
            if self._trailer > MAX_HEAD:
                raise Failure("protocol", f"trailers of more than {MAX_HEAD} bytes")
            self.finished = not line
            return
        digits = line.partition(b";")[0].strip()
        try:
            if not digits.isalnum() or len(digits) > 15:
                raise ValueError(digits)
            self._left = int(digits, 16)
        except ValueError:
            raise Failure("protocol", f"chunk size {digits[:40]!r}") from None
        if not self._left:
            self._trailer = 0
