"""What records leave out in the journal, so that an agent-second takes no more than 1 KiB. Nothing is lost by it.

Of sec, gap and lost records what is empty, or follows from the rest: `without` and `within`. Of hist records the cells: `pack` makes one
text of all histograms of a record, `unpack` the histograms of the text.

The text is base64 of raw deflate of: width of a number in bytes, number of histograms, and of each its first cell and how many numbers
there are of it (u16, little endian); then these numbers, of all histograms one after the other: the counts from the first cell to the last
and a 0, each as its difference to the one before, zigzag (0, -1, 1, -2 ...), first the lowest byte of all, then the second of all. The
histogram of first bytes is there as its difference to that of the operation, since most operations have nothing after the first byte;
where that is more than the histogram itself (operations wait for their turn, or bodies are large), its part of the record has WHOLE.
"""

from __future__ import annotations

import array
import binascii
import sys
import zlib
from itertools import accumulate
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from sai3ssh.histogram import CELLS

Json = Dict[str, Any]
Dense = Tuple[int, List[int]]
"""The first cell of a histogram that is not empty, and the counts from there to the last."""

COUNTED = ("sec", "gap", "lost")
"""The kinds of records that have operations and failures."""
DERIVED, WHOLE = "first_byte", "whole"
"""The part of the latency that is told as a difference, and what says that it is not."""
MOST_BYTES = 1 << 24
"""More than this is no record of ours."""
_TYPES = {2: "H", 4: "I", 8: "Q"}
_NO_CELLS: Dense = (0, [])
_EMPTY = ("warmup", "done", "requests", "retried", "errors")
"""Fields of a second that are left out where they are empty."""
_OPTIONAL = ("tail_ops", "tail_bytes", "errors", "retries")
"""Figures of a histogram that are left out where they are 0."""


# --- seconds -----------------------------------------------------------------------------------------------------------------------------


def without(record: Json) -> Json:
    """A record as the journal has it."""
    if record["kind"] not in COUNTED or "ops" not in record:
        return record
    ops, requests = record["ops"], record["requests"]
    told = {op: n for op, n in requests.items() if op not in ops or ops[op][0] != n}
    told.update({op: 0 for op in ops if op not in requests})
    found = {**record, "requests": told}
    return {name: value for name, value in found.items() if name != "retries" and (value or name not in _EMPTY)}


def within(record: Json) -> Json:
    """The record that `without` was given, whose `requests` tell all operations."""
    if record["kind"] in COUNTED and "ops" in record:
        record["warmup"] = record.get("warmup", False)
        record["done"] = record.get("done", 0)
        record["requests"] = {**{op: figures[0] for op, figures in record["ops"].items()}, **record.get("requests", {})}
        retried = record["retried"] = record.get("retried", {})
        record["retries"] = {op: sum(classes.values()) for op, classes in retried.items()}
        record["errors"] = record.get("errors", {})
    return record


# --- histograms --------------------------------------------------------------------------------------------------------------------------


def pack(fields: Json) -> Json:
    """Those of a hist record, with the cells (Histogram.to_pairs) of all its parts in one text."""
    result = {**fields, "hist": {}}
    found: List[Dense] = []
    wholes: Dict[str, Dense] = {}
    for kind, op, name, part in parts(fields):
        dense = _dense(part["cells"])
        if kind == "hist":
            wholes[op] = _sum(wholes.get(op, _NO_CELLS), dense)
        if is_derived(kind, name, part):
            difference = _sum(dense, wholes.get(op, _NO_CELLS), -1)
            if sum(map(abs, difference[1])) <= sum(dense[1]):
                dense = difference
            else:
                part = {**part, WHOLE: True}
        found.append(dense)
        kept = {figure: value for figure, value in part.items() if figure != "cells" and (value or figure not in _OPTIONAL)}
        if result.get(kind) is fields.get(kind):
            result[kind] = {}
        result[kind].setdefault(op, {})[name] = kept
    if not result["warmup"]:
        del result["warmup"]
    return {**result, "cells": _text(found)}


def unpack(record: Json) -> Json:
    """The hist record that `pack` was given; raises ValueError on a text that is none of ours."""
    result = {"warmup": False, **record}
    heads, counts = _numbers(result.pop("cells"))
    end = 0
    wholes: Dict[str, Dense] = {}
    told = list(parts(record))
    if len(told) != len(heads):
        raise ValueError(f"cells of {len(heads)} histograms, expected {len(told)}")
    for (kind, op, name, part), (first, length) in zip(told, heads):
        at, end = end, end + length
        dense = first, counts[at : end - 1]
        if kind == "hist":
            wholes[op] = _sum(wholes.get(op, _NO_CELLS), dense)
        elif is_derived(kind, name, part):
            dense = _sum(dense, wholes.get(op, _NO_CELLS))
        if min(dense[1], default=0) < 0:
            raise ValueError(f"cells of {kind} {op} {name}: a count below 0")
        if result[kind] is record[kind]:
            result[kind] = {}
        figures = {figure: value for figure, value in part.items() if figure != WHOLE}
        result[kind].setdefault(op, {})[name] = {"cells": _pairs(dense), **_zeros(kind), **figures}
    return result


def parts(record: Mapping[str, Any]) -> Iterator[Tuple[str, str, str, Json]]:
    """The histograms of a hist record, in the order of its text: (hist, splits or endpoints, operation, bucket, part of the latency or
    position, figures)."""
    for kind in ("hist", "splits", "endpoints"):
        for op, places in record.get(kind, {}).items():
            for name, part in places.items():
                yield kind, op, name, part


def is_derived(kind: str, name: str, part: Json) -> bool:
    """Whether the text has the difference to the operation's own histogram, the sum of its buckets in this record."""
    return kind == "splits" and name == DERIVED and WHOLE not in part


def inflate(text: str) -> Tuple[int, array.array[int], bytes]:
    """What is in a text: the width of a number, first cell and how many numbers of each histogram in turns, and the numbers' bytes. Raises
    ValueError."""
    unpacker = zlib.decompressobj(-15)
    try:
        raw = unpacker.decompress(binascii.a2b_base64(text), MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"cells of histograms: {error}") from error
    if not unpacker.eof or len(raw) < 4:
        raise ValueError("cells of histograms: cut off")
    width, many = raw[0], int.from_bytes(raw[2:4], "little")
    begin = 4 + 4 * many
    head = _array("H", raw[4:begin])
    if width not in _TYPES or len(head) != 2 * many or len(raw) - begin != width * sum(head[1::2]):
        raise ValueError("cells of histograms: their lengths do not agree")
    if any(not length or first + length > CELLS + 1 for first, length in zip(head[::2], head[1::2])):
        raise ValueError(f"cells of histograms: one beyond {CELLS - 1}")
    return width, head, raw[begin:]


def _zeros(kind: str) -> Json:
    names = {"hist": _OPTIONAL[:2], "endpoints": _OPTIONAL[2:]}.get(kind, ())
    return dict.fromkeys(names, 0)


def _array(code: str, data: bytes) -> array.array[int]:
    result = array.array(code)
    result.frombytes(data)
    if sys.byteorder == "big":
        result.byteswap()
    return result


def _bytes(code: str, numbers: Sequence[int]) -> bytes:
    result = array.array(code, numbers)
    if sys.byteorder == "big":
        result.byteswap()
    return result.tobytes()


def _text(found: Sequence[Dense]) -> str:
    counts = [n for _, numbers in found for n in (*numbers, 0)]
    steps = [after - before for before, after in zip([0, *counts], counts)]
    zigzag = [step * 2 if step >= 0 else -2 * step - 1 for step in steps]
    most = max(zigzag, default=0)
    width = 2 if most < 1 << 16 else 4 if most < 1 << 32 else 8
    data = _bytes(_TYPES[width], zigzag)
    head = [width, len(found)]
    for first, numbers in found:
        head += (first, len(numbers) + 1)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_FILTERED)
    raw = _bytes("H", head) + b"".join(data[byte::width] for byte in range(width))
    return binascii.b2a_base64(packer.compress(raw) + packer.flush(), newline=False).decode("ascii")


def _numbers(text: str) -> Tuple[List[Tuple[int, int]], List[int]]:
    """Of each histogram first cell and how many numbers there are of it, and the numbers of all."""
    width, head, data = inflate(text)
    length = len(data) // width
    woven = bytearray(len(data))
    for byte in range(width):
        woven[byte::width] = data[byte * length : (byte + 1) * length]
    counts = list(accumulate((n >> 1) ^ -(n & 1) for n in _array(_TYPES[width], bytes(woven))))
    return list(zip(head[::2], head[1::2])), counts


def _dense(pairs: Sequence[int]) -> Dense:
    if not pairs:
        return _NO_CELLS
    counts = [pairs[1]]
    for gap, n in zip(pairs[2::2], pairs[3::2]):
        if gap > 1:
            counts += [0] * (gap - 1)
        counts.append(n)
    return pairs[0], counts


def _pairs(dense: Dense) -> List[int]:
    """As Histogram.to_pairs."""
    flat: List[int] = []
    previous = 0
    for cell, n in enumerate(dense[1], dense[0]):
        if n:
            flat += (cell - previous, n)
            previous = cell
    return flat


def _sum(a: Dense, b: Dense, sign: int = 1) -> Dense:
    """a and `sign` times b, without zeros at either end."""
    if not a[1]:
        return b if sign == 1 else (b[0], [-n for n in b[1]])
    if not b[1]:
        return a
    first, end = min(a[0], b[0]), max(a[0] + len(a[1]), b[0] + len(b[1]))
    wide = [[0] * (at - first) + counts + [0] * (end - at - len(counts)) for at, counts in (a, b)]
    counts = [x + sign * y for x, y in zip(*wide)]
    filled = [at for at, n in enumerate(counts) if n]
    return (first + filled[0], counts[filled[0] : filled[-1] + 1]) if filled else _NO_CELLS
