"""The journal's records and the frames of a channel. Standard library only, Python 3.9 and later; no I/O.

Journal: one JSON object a line, {"seq": 0, "boot": "...", "clock_ns": ..., "wall_ns": ..., "kind": "...", ..., "crc": "1a2b3c4d"}, less
what compact.without leaves out.
`crc` is the CRC-32 of the line's bytes before the text ',"crc"'. `seq` counts from 0 without gaps. The first record is of kind "epoch",
the last of kind "final".

Channel, agent to controller: whatever rc files print, then the preamble line "SAI3SSH/<version> <nonce>\\n", then control lines (one JSON
object each). A control line {"data": offset, "len": L, "crc": "..."} is followed by exactly L raw bytes of the journal from that offset.
Controller to agent: JSON lines only.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from sai3ssh import compact

PROTOCOL = 2
MAX_DATA = 64 * 1024
MAX_LINE = 4 * 1024 * 1024
"""A control line longer than this is a protocol error (the largest is a submitted plan)."""
MAX_NOISE = 64 * 1024
"""More than this before the preamble is not an rc file but another program."""

MISSHAPEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading JSON that is not as ours raises, too deep nesting included."""

Record = Dict[str, Any]
Json = Dict[str, Any]


class ProtocolError(ValueError):
    """Bytes that no agent of this version sends."""


def dumps(value: Any) -> str:
    """Compact JSON text, ASCII only (so that a byte count is a character count)."""
    return json.dumps(value, separators=(",", ":"))


# --- journal -----------------------------------------------------------------------------------------------------------------------------


def encode_record(record: Record) -> bytes:
    """One journal line with its crc."""
    record = dict(record)
    return encode_line(record.pop("seq"), encode_fields(record))


def encode_fields(record: Record) -> bytes:
    """All of a journal line but seq and crc."""
    return dumps(compact.without(record))[1:-1].encode("ascii")


def encode_line(seq: int, fields: bytes) -> bytes:
    """The journal line of what encode_fields gave."""
    body = b'{"seq":%d,%s' % (seq, fields)
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def decode_record(line: bytes) -> Record:
    """The record of one whole line, a hist record as compact.pack made it; raises ProtocolError when it is torn or altered."""
    body, mark, tail = line.rpartition(b',"crc":"')
    if not mark or tail[8:] != b'"}\n' or tail[:8] != b"%08x" % zlib.crc32(body):
        raise ProtocolError("journal line is torn or altered")
    try:
        return compact.within(json.loads(body + b"}"))
    except MISSHAPEN as error:
        raise ProtocolError(f"journal line is no record: {type(error).__name__}") from error


def scan(data: bytes) -> Tuple[List[Record], int]:
    """The records of the longest prefix of whole lines with right checksums and consecutive seq, and that prefix's length in bytes."""
    records: List[Record] = []
    offset = 0
    while True:
        end = data.find(b"\n", offset) + 1
        if not end:
            return records, offset
        try:
            record = decode_record(data[offset:end])
        except ValueError:
            return records, offset
        if records and record.get("seq") != records[-1]["seq"] + 1:
            return records, offset
        records.append(record)
        offset = end


# --- frames ------------------------------------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Bytes of the journal from `offset`."""

    offset: int
    payload: bytes


def encode_preamble(nonce: str) -> bytes:
    """The line after which the channel carries frames."""
    return b"SAI3SSH/%d %s\n" % (PROTOCOL, nonce.encode("ascii"))


def encode_control(message: Json) -> bytes:
    """One control line."""
    return dumps(message).encode("ascii") + b"\n"


def encode_data(offset: int, payload: bytes) -> bytes:
    """A data frame; payload is 1 to MAX_DATA bytes."""
    if not 0 < len(payload) <= MAX_DATA:
        raise ValueError(f"data frame of {len(payload)} bytes (1 to {MAX_DATA})")
    return b'{"data":%d,"len":%d,"crc":"%08x"}\n%s' % (offset, len(payload), zlib.crc32(payload), payload)


class FrameDecoder:
    """Turns what a channel delivers, in pieces of any size, into control messages (dict) and Data.

    Not thread-safe. Raises ProtocolError for good: after one the channel must be closed.
    """

    def __init__(self, nonce: Optional[str]) -> None:
        """With a nonce everything up to the preamble line is skipped; without one frames begin at once."""
        self._buffer = bytearray()
        self._preamble = encode_preamble(nonce) if nonce is not None else None
        self._head: Optional[Json] = None

    def feed(self, data: bytes) -> Iterator[Union[Json, Data]]:
        """The messages that are whole once `data` has arrived."""
        self._buffer += data
        if self._preamble is not None and not self._skip_noise(self._preamble):
            return
        while True:
            message = self._next()
            if message is None:
                return
            yield message

    def _skip_noise(self, preamble: bytes) -> bool:
        at = self._buffer.find(preamble)
        if at < 0:
            if len(self._buffer) > MAX_NOISE:
                raise ProtocolError(f"no preamble in the first {MAX_NOISE} bytes; they begin with {bytes(self._buffer[:80])!r}")
            return False
        del self._buffer[: at + len(preamble)]
        self._preamble = None
        return True

    def noise(self) -> bytes:
        """What has arrived while the preamble has not: the text of a login banner or of an error."""
        return bytes(self._buffer) if self._preamble is not None else b""

    def _next(self) -> Union[Json, Data, None]:
        if self._head is None:
            end = self._buffer.find(b"\n")
            if end < 0:
                if len(self._buffer) > MAX_LINE:
                    raise ProtocolError(f"control line of more than {MAX_LINE} bytes")
                return None
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                message = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ProtocolError(f"not a control line: {line[:80]!r}") from error
            if not isinstance(message, dict):
                raise ProtocolError(f"not a control line: {line[:80]!r}")
            if "data" not in message:
                return message
            if type(message.get("len")) is not int or not 0 < message["len"] <= MAX_DATA:
                raise ProtocolError(f"data frame of {message.get('len')!r} bytes")
            self._head = message
        head = self._head
        if len(self._buffer) < head["len"]:
            return None
        payload = bytes(self._buffer[: head["len"]])
        del self._buffer[: head["len"]]
        self._head = None
        if head.get("crc") != "%08x" % zlib.crc32(payload):
            raise ProtocolError(f"data frame at offset {head['data']}: checksum differs")
        return Data(head["data"], payload)
