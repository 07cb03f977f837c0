"""The segments in which agents keep an op-log: how blocks of records are packed and found again. Standard library only; no clock.

A segment is a sequence of frames: a head (mark, length, CRC-32, records, earliest start), then so many bytes of zlib. Unpacked they are
one line of JSON, the numbers in columns (little-endian), and the keys, separated by NUL. A frame stands for itself: what a crash tore off
at the end of a segment costs that frame and nothing else.
"""

from __future__ import annotations

import array
import json
import re
import struct
import sys
import zlib
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from sai3ssh.model import ERROR_CLASSES, OPERATIONS

SEGMENT = re.compile(r"oplog-s(\d{3})-w(\d{4})-i(\d{4})-n(\d{5})\.seg")
"""Stage, worker, its incarnation, number: in a run directory of an agent their order by name is the order by time of one worker."""
TRACE = re.compile(r"replay-s(\d{3})-w(\d{4})\.trace")
TABLE = "oplog.tsv.zst"
"""What becomes of an agent's segments in the run directory."""
COLUMNS = (
    "idx", "thread", "op", "client_id", "n_objects", "bytes", "endpoint", "file", "error", "start", "first_byte", "end", "duration_ns",
)  # fmt: skip
_HEAD = struct.Struct("<4sIIIq")
_MARK = b"OPL1"
_MOST = 1 << 23
"""No frame has more bytes, packed or unpacked."""
_MOST_RECORDS = 1 << 12
_ERRORS = frozenset(("", "failed", *ERROR_CLASSES))
"""`failed` is of a trace, which has classes of its own."""
_NS = 1 << 63
_LONGEST = 4096
"""No key and no URI of a target is longer."""

Record = Tuple[int, str, str, int, int, int, int, str, int]
"""op code, URI of the target, key below it, bytes, start, end and first byte (-1: not known) in ns of one clock, error class or '', keys
that a LIST found."""


class Row(NamedTuple):
    """One operation. Times are wall time (Unix) in ns."""

    start_ns: int
    op: str
    uri: str
    key: str
    bytes: int
    end_ns: int
    first_byte_ns: int
    """-1: not known."""
    error: str
    """Its class; empty when it succeeded."""
    listed: int
    stage: int
    worker: int


class Frame(NamedTuple):
    """Where a block is in its segment."""

    offset: int
    """Of what is compressed."""
    length: int
    crc: int
    records: int
    earliest_ns: int
    """The earliest start in it, wall time."""


def segment_name(stage: int, worker: int, incarnation: int, number: int) -> str:
    """The file name of a segment."""
    return f"oplog-s{stage:03d}-w{worker:04d}-i{incarnation:04d}-n{number:05d}.seg"


def trace_name(stage: int, worker: int) -> str:
    """The file name of what one worker replays in a stage: frames like those of a segment, times in ns from the start of the trace."""
    return f"replay-s{stage:03d}-w{worker:04d}.trace"


def pack(records: Sequence[Record], wall_ns: int, stage: int, worker: int) -> Tuple[bytes, int]:
    """A block, not yet compressed, and its earliest start in wall time. `wall_ns` brings the records' clock into wall time."""
    ops, uris, keys, sizes, starts, ends, firsts, errors, listed = zip(*records)
    places: List[str] = list(dict.fromkeys(uris))
    classes: List[str] = list(dict.fromkeys(errors))
    head: Dict[str, Any] = {"n": len(records), "wall_ns": wall_ns, "stage": stage, "worker": worker, "uris": places, "errors": classes}
    columns = [bytes(ops), _numbers(sizes), _numbers(starts), _numbers(ends)]
    for name, values, every in (("uri", uris, places), ("error", errors, classes)):
        if len(every) > 1:
            number = {value: n for n, value in enumerate(every)}
            head[name] = True
            columns.append(_numbers([number[value] for value in values]))
    for name, numbers, usual in (("first", firsts, -1), ("listed", listed, 0)):
        if max(numbers) != usual:
            head[name] = True
            columns.append(_numbers(numbers))
    text = "\0".join(keys).encode("utf-8", "surrogateescape")
    return b"".join([json.dumps(head).encode("ascii"), b"\n", *columns, text]), min(starts) + wall_ns


def frame(block: bytes, records: int, earliest_ns: int) -> bytes:
    """A block as it goes into a segment."""
    data = zlib.compress(block, 1)
    return _HEAD.pack(_MARK, len(data), zlib.crc32(data), records, earliest_ns) + data


def frames(file: BinaryIO, size: int) -> Iterator[Frame]:
    """The frames of a segment of that size, without a look at their contents; ends where it is torn."""
    offset = 0
    while offset + _HEAD.size <= size:
        file.seek(offset)
        mark, length, crc, records, earliest_ns = _HEAD.unpack(file.read(_HEAD.size))
        offset += _HEAD.size
        if mark != _MARK or length > _MOST or offset + length > size:
            return
        yield Frame(offset, length, crc, records, earliest_ns)
        offset += length


def unpack(data: bytes, found: Frame) -> List[Row]:
    """The rows of a frame, in the order in which the operations ended. Raises ValueError when they are not what is written here."""
    if zlib.crc32(data) != found.crc:
        raise ValueError("the checksum of a frame differs")
    try:
        return _rows(zlib.decompressobj().decompress(data, _MOST), found.records)
    except (zlib.error, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a frame is none of an op-log: {type(error).__name__}: {error}") from error


def _rows(block: bytes, records: int) -> List[Row]:
    line, _, rest = block.partition(b"\n")
    head = json.loads(line)
    n = head["n"]
    if n != records or not 0 < n <= _MOST_RECORDS:
        raise ValueError(f"a frame has {n} records, its head says {records}")
    at = n

    def column() -> Sequence[int]:
        nonlocal at
        values = array.array("q", rest[at : at + 8 * n])
        at += 8 * n
        if sys.byteorder == "big":
            values.byteswap()
        return values

    sizes, starts, ends = column(), column(), column()
    uris = [head["uris"][i] for i in column()] if "uri" in head else head["uris"] * n
    errors = [head["errors"][i] for i in column()] if "error" in head else head["errors"] * n
    firsts = column() if "first" in head else [-1] * n
    listed = column() if "listed" in head else [0] * n
    keys = rest[at:].decode("utf-8", "surrogateescape").split("\0")
    if len(keys) != n:
        raise ValueError(f"a frame has {n} records and {len(keys)} keys")
    if not _ERRORS.issuperset(head["errors"]) or any(min(uri, default=" ") < " " for uri in head["uris"]):
        raise ValueError("a frame has what is no URI or no class of errors")
    if max(map(len, (*keys, *head["uris"]))) > _LONGEST:
        raise ValueError(f"a frame has a name of more than {_LONGEST} characters")
    wall_ns, stage, worker = (int(head[name]) for name in ("wall_ns", "stage", "worker"))
    if not 0 <= wall_ns + min(starts) <= wall_ns + max(starts) < _NS > wall_ns + max(ends) >= wall_ns + min(ends) >= 0:
        raise ValueError("a frame has times of no clock")
    first_bytes = [first + wall_ns if first >= 0 else -1 for first in firsts]
    rows = [
        Row(start + wall_ns, OPERATIONS[op], uri, key, size, end + wall_ns, first, error, objects, stage, worker)
        for op, uri, key, size, start, end, first, error, objects in zip(rest, uris, keys, sizes, starts, ends, first_bytes, errors, listed)
    ]
    if len(rows) != n:
        raise ValueError(f"a frame has {n} records and the columns of {len(rows)}")
    return rows


def _numbers(values: Sequence[int]) -> bytes:
    column = array.array("q", values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()
