"""An agent's journal, as it was read, in a file that loads in a moment. It can be made again at any time and is worth nothing by itself:
one that is torn, of another version or of another state of the journal is not read.

A line of JSON {version, key, sum, arrays [[dtype, length], ...], meta}, the meta data as JSON, padding, and the columns one after the
other, each at a multiple of 8 bytes. `sum` is over all after that line, in words of 8 bytes, modulo 2^64.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections import Counter
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from .. import __version__
from ..histogram import Histogram
from .cells import ArrayHistogram, arrays_of
from .columns import Array, Names, Seconds
from .journal import AgentJournal, AgentStage, EndpointData, Region, Splits, StageData, Unreadable

Json = dict[str, Any]
FORMAT = 2
"""To be changed whenever this file, or what is read out of a journal, is."""
VERSION = f"{FORMAT} {__version__}"
TAIL_BYTES = 64
WORD = 8


def key_of(journal: Path) -> list[Any]:
    """What tells one state of a journal from another: size, time of its last change and its last bytes, which end with a checksum."""
    with journal.open("rb") as file:
        found = os.fstat(file.fileno())
        file.seek(max(0, found.st_size - TAIL_BYTES))
        return [found.st_size, found.st_mtime_ns, file.read(TAIL_BYTES).hex()]


def store(path: Path, key: list[Any], agent: AgentJournal) -> None:
    """Writes what was read of a journal while its key was this, whole or not at all. Raises OSError."""
    arrays: list[Array] = []
    meta = orjson.dumps(_to_json(agent, arrays))
    body = [meta, bytes(-len(meta) % WORD)]
    for array in arrays:
        data = array.tobytes()
        body += [data, bytes(-len(data) % WORD)]
    content = b"".join(body)
    head = {"version": VERSION, "key": key, "sum": _sum(content), "meta": len(meta), "arrays": [[a.dtype.str, len(a)] for a in arrays]}
    line = orjson.dumps(head)
    line += b" " * (-(len(line) + 1) % WORD) + b"\n"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 (a descriptor)
            file.write(line)
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def load(path: Path, key: list[Any] | None) -> AgentJournal | None:
    """What was read of a journal in the state of that key, or in any; None where that is not here, or not whole."""
    try:
        with path.open("rb") as file:
            head = orjson.loads(file.readline())
            if head["version"] != VERSION or key not in (None, head["key"]):
                return None
            begin = file.tell()
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if begin % WORD or len(view) % WORD or _sum(view, begin) != head["sum"]:
            return None
        forget(view)
        arrays = []
        at = begin + head["meta"] + -head["meta"] % WORD
        for dtype, length in head["arrays"]:
            array = np.frombuffer(view, np.dtype(dtype), length, at)
            arrays.append(array)
            at += array.nbytes + -array.nbytes % WORD
        if at != len(view):
            return None
        return _from_json(orjson.loads(view[begin : begin + head["meta"]]), arrays, view)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def forget(view: mmap.mmap) -> None:
    """The pages of a file leave this process's memory until they are read again: of a big run they are gigabytes."""
    if hasattr(mmap, "MADV_DONTNEED"):
        view.madvise(mmap.MADV_DONTNEED)


def _sum(content: bytes | mmap.mmap, begin: int = 0) -> int:
    return int(np.add.reduce(np.frombuffer(content, np.uint64, offset=begin), dtype=np.uint64))


def _to_json(agent: AgentJournal, arrays: list[Array]) -> Json:
    names: list[str] = []
    stages = {}
    for index, stage in agent.stages.items():
        names = stage.seconds.names.texts or names
        columns: Json = {}
        for table in ("each", "ops", "more"):
            columns[table] = {}
            for name, array in getattr(stage.seconds, table).items():
                columns[table][name] = len(arrays)
                arrays.append(array)
        plain = {name: getattr(stage, name) for name in _PLAIN}
        data = {name: _data(getattr(stage, name), arrays) for name in ("data", "warmup")}
        stages[str(index)] = {**plain, **data, "seconds": columns, "unreadable": asdict(stage.unreadable)}
    plain = {field.name: getattr(agent, field.name) for field in fields(agent) if field.name != "stages"}
    return {**plain, "stages": stages, "names": names}


_PLAIN = ("start", "end", "ending", "measured", "unseconded", "lost", "without_histogram", "passes")
_COUNTERS = ("requests", "retries", "retried", "errors", "second_ops", "second_bytes")


def _data(data: StageData, arrays: list[Array]) -> Json:
    return {
        **{name: list(getattr(data, name).items()) for name in _COUNTERS},
        "regions": [
            [*key, part.bytes, part.tail_ops, part.tail_bytes, _cells(part.histogram, arrays)] for key, part in data.regions.items()
        ],
        "splits": [[op, {name: _cells(histogram, arrays) for name, histogram in part.parts.items()}] for op, part in data.splits.items()],
        "endpoints": [
            [*key, part.bytes, part.errors, part.retries, _cells(part.histogram, arrays)] for key, part in data.endpoints.items()
        ],
    }


def _cells(histogram: Histogram, arrays: list[Array]) -> list[int]:
    filled, counts = arrays_of(histogram)
    arrays += (filled.astype(np.int16), counts)
    return [histogram.sum_ns, histogram.max_ns, len(arrays) - 2]


def _from_json(meta: Json, arrays: list[Array], view: mmap.mmap) -> AgentJournal:
    def histogram(told: list[int]) -> ArrayHistogram:
        return ArrayHistogram(arrays[told[2]], arrays[told[2] + 1], sum_ns=told[0], max_ns=told[1])

    def data(told: Json) -> StageData:
        counters: Json = {name: Counter({tuple(key) if isinstance(key, list) else key: n for key, n in told[name]}) for name in _COUNTERS}
        return StageData(
            regions={(op, bucket): Region(histogram(cells), *counts) for op, bucket, *counts, cells in told["regions"]},
            splits={op: Splits({name: histogram(cells) for name, cells in parts.items()}) for op, parts in told["splits"]},
            endpoints={(op, position): EndpointData(histogram(cells), *counts) for op, position, *counts, cells in told["endpoints"]},
            **counters,
        )

    names = Names(meta.pop("names"))
    names.codes.update({text: code for code, text in enumerate(names.texts)})
    stages = {}
    for number, told in meta.pop("stages").items():
        index = int(number)
        each, ops, more = ({name: arrays[at] for name, at in told["seconds"][table].items()} for table in ("each", "ops", "more"))
        plain = {name: told[name] for name in _PLAIN}
        plain["measured"] = [(begin, end) for begin, end in told["measured"]]
        unreadable = Unreadable(told["unreadable"]["count"], Counter(told["unreadable"]["errors"]), told["unreadable"]["objects"])
        stages[index] = AgentStage(
            **plain,
            data=data(told["data"]),
            warmup=data(told["warmup"]),
            seconds=Seconds(index, names, each, ops, more, release=partial(forget, view)),
            unreadable=unreadable,
        )
    return AgentJournal(stages=stages, **meta)
