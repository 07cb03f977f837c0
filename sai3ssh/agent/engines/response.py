"""HTTP/1.1 responses as bytes: what of a head an engine needs, and chunked bodies."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

MAX_HEAD = 64 * 1024
TO_CLOSE, CHUNKED = -1, -2
"""Body lengths that are none: the body ends with the connection; the body comes in chunks."""

_MAX_CHUNK_LINE = 4096


class Failure(Exception):
    """An attempt at an operation failed: its error class and what to tell people."""

    def __init__(self, error_class: str, detail: str) -> None:
        super().__init__(detail)
        self.error_class = error_class
        self.detail = detail


_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding|connection):[ \t]*([^\r]*)", re.IGNORECASE).findall

_known: Dict[Tuple[object, ...], Tuple[int, bool]] = {}
_MOST_KNOWN = 256


def parse_head(head: bytes) -> Tuple[int, int, bool]:
    """Status, body length and whether the connection ends with the body; raises Failure('protocol').

    `head` reaches up to and including the CRLF of its last header. Length may be TO_CLOSE or CHUNKED. The few headers that matter are
    searched: a dictionary of all of them would cost more than the rest of an operation.
    """
    status = head[9:12]
    if head[:7] != b"HTTP/1." or not status.isdigit():
        raise Failure("protocol", f"not an HTTP response: it begins with {head[:40]!r}")
    close = head[7] == 0x30
    framing = _FRAMING(head)
    if len(framing) == 1 and len(framing[0][0]) == 14:
        # Content-Length alone, as in nearly all responses.
        value = framing[0][1]
        if value.isdigit() and len(value) <= 18:
            return int(status), int(value), close
    # Responses of one server are framed alike; reading headers one by one costs more than to know them again.
    known = _known.get((close, *framing))
    if known is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        known = _known[(close, *framing)] = _read_framing(framing, close)
    return int(status), *known


class Answer(NamedTuple):
    """The last response of a kind that was whole, well and all there at once."""

    head: bytes
    """With the blank line after it."""
    length: int
    """Of the body."""
    total: int
    """Of both."""
    fixed: Tuple[Tuple[bytes, int, int, int], ...] = ()
    """What of the head has been the same in all that were as long, where, and from where to where the value after it is; none before there
    was another one."""
    varied: Tuple[Tuple[int, int], ...] = ()
    """Where the values of headers were that were not, such as Date and x-amz-request-id."""


NO_ANSWER = Answer(b"", 0, -1)


def read_answer(data: bytearray, n: int, last: Answer) -> Optional[Answer]:
    """The response of which n bytes are there; None unless it is all of a 200 after which the connection stays open."""
    if n == last.total and last.fixed:
        # Where nothing differs but values that have varied before, it is framed alike: no line ends within a value, so no header begins.
        for part, at, start, end in last.fixed:
            if not data.startswith(part, at) or data.find(b"\n", start, end) >= 0:
                break
        else:
            return last
    end = data.find(b"\r\n\r\n", 0, n)
    if not 0 < end <= MAX_HEAD:
        return None
    head = bytes(data[: end + 4])
    try:
        status, length, close = parse_head(head[:-2])
    except Failure:
        return None
    if status != 200 or close or length < 0 or end + 4 + length != n:
        return None
    return _compared(Answer(head, length, n), last)


def _compared(new: Answer, last: Answer) -> Answer:
    """With what it has in common with the last one, if that is as long and has the same headers in the same places, framed alike."""
    if new.total != last.total or len(new.head) != len(last.head):
        return new
    varied = set(last.varied)
    at = 0
    for line, before in zip(new.head.split(b"\r\n"), last.head.split(b"\r\n")):
        name = line.find(b":") + 1
        if len(line) != len(before) or line[:name] != before[:name]:
            return new
        if line != before:
            if not name or _FRAMING(b"\r\n" + line):
                return new
            varied.add((at + name, at + len(line)))
        at += len(line) + 2
    fixed = []
    at = 0
    for start, end in sorted(varied):
        fixed.append((new.head[at:start], at, start, end))
        at = end
    return new._replace(fixed=(*fixed, (new.head[at:], at, at, at)), varied=tuple(sorted(varied)))


def _read_framing(framing: Sequence[Tuple[bytes, bytes]], close: bool) -> Tuple[int, bool]:
    """Body length and whether the connection ends with the body, from the headers that say so."""
    length = TO_CLOSE
    for name, value in framing:
        first = name[1] | 0x20
        if first == 0x6F and len(name) == 10:
            value = value.lower()
            close = b"close" in value or (close and b"keep-alive" not in value)
        elif first == 0x6F:
            value = value.rstrip()
            if not value.isdigit() or len(value) > 18:
                raise Failure("protocol", f"Content-Length {value[:40]!r}")
            if length >= 0:
                raise Failure("protocol", "Content-Length is given twice")
            if length == TO_CLOSE:
                length = int(value)
        elif value.rstrip().lower() != b"chunked":
            raise Failure("protocol", f"Transfer-Encoding {value[:40]!r}, expected chunked")
        else:
            length = CHUNKED
    return length, close


def header(head: bytes, name: str) -> str:
    """The value of a header as text, empty when it is absent."""
    found = re.search(rb"\r\n%s:([^\r]*)" % re.escape(name.encode("ascii")), head, re.IGNORECASE)
    return found.group(1).strip().decode("latin-1") if found else ""


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
