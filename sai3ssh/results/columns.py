"""The second summaries of one agent and stage as columns: a tenth of the memory of records, and a thousandth of the objects."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Json = dict[str, Any]
Array = npt.NDArray[Any]

INTEGERS = (
    "second", "wall_ns", "from_clock_ns", "to_clock_ns", "warmup", "done", "mem_used_bytes", "net_received_bytes", "net_sent_bytes",
    "disk_read_bytes", "disk_written_bytes", "workers",
)  # fmt: skip
"""Columns with a row per second; mem_used_bytes is -1 where the record tells nothing of the host, workers 0 where it is not known."""
FLOATS = ("cpu_user_pct", "cpu_system_pct", "cpu_iowait_pct", "cpu_steal_pct", "worker_cpu_pct", "workers_cpu_pct", "late_ms")
"""NaN where it is not known."""
FIGURES = ("count", "bytes", "sum_ns", "p50_us", "p90_us", "p99_us", "max_us")
"""Columns with a row per second and operation, beside `row` and `code`."""
KINDS = ("requests", "retries", "retried", "errors")
"""What `more` tells: requests that are not in the column of that name, and what failed, which is seldom anything."""
_NAN = float("nan")
_NO_HOST, _NO_SHARES, _UNKNOWN = (-1, 0, 0, 0, 0, 0), (_NAN,) * 7, (_NAN, 0)
WAITING = 1 << 14
"""So many numbers of a kind are in a list before they are packed."""


@dataclass
class Names:
    """Operations and error classes of one agent as small numbers."""

    texts: list[str] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)

    def code(self, text: str) -> int:
        """The number of a name, a new one where there is none yet."""
        if text not in self.codes:
            self.codes[text] = len(self.texts)
            self.texts.append(text)
        return self.codes[text]


class Seconds(Sequence[Json]):
    """Second summaries: columns, and as a sequence the records, without seq, boot, clock_ns.

    `each` has the columns of INTEGERS and FLOATS. `ops` has row (the position of its second), code (of its operation, in `names`),
    requests and those of FIGURES, in the order of the journal. `more` has row, kind (position in KINDS), code,
    class (a code, -1 where there is none) and n. release() gives the memory back that reading them has taken; they can be read again.
    """

    def __init__(
        self,
        stage: int,
        names: Names,
        each: dict[str, Array],
        ops: dict[str, Array],
        more: dict[str, Array],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.stage, self.names, self.each, self.ops, self.more, self.release = stage, names, each, ops, more, release

    @classmethod
    def empty(cls, stage: int = 0) -> Seconds:
        """No seconds."""
        return Collector(stage, Names()).seconds()

    def __len__(self) -> int:
        return len(self.each["second"])

    @overload
    def __getitem__(self, at: int) -> Json: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Json]: ...

    def __getitem__(self, at: int | slice) -> Json | Sequence[Json]:
        chosen = range(len(self))[at]
        return next(self.records([chosen])) if isinstance(chosen, int) else list(self.records(chosen))

    def __iter__(self) -> Iterator[Json]:
        return self.records(range(len(self)))

    def by_operation(self, chosen: Array) -> dict[str, Array]:
        """Of each operation the rows of `ops` that are in the chosen seconds (a mask), in the order of its first appearance."""
        inside = chosen[self.ops["row"]]
        codes = self.ops["code"]
        first = np.unique(codes[inside], return_index=True)
        order = [int(code) for _, code in sorted(zip(first[1].tolist(), first[0].tolist(), strict=True))]
        return {self.names.texts[code]: np.flatnonzero(inside & (codes == code)) for code in order}

    def errors_by_row(self) -> Array:
        """How many operations of any kind failed in each second."""
        failed = self.more["kind"] == KINDS.index("errors")
        return np.bincount(self.more["row"][failed], weights=self.more["n"][failed], minlength=len(self)).astype(np.int64)

    def records(self, rows: Iterable[int]) -> Iterator[Json]:
        """The records of some seconds."""
        each, ops, more, texts = self.each, self.ops, self.more, self.names.texts
        for row in rows:
            span = {name: int(each[name][row]) for name in ("second", "wall_ns", "from_clock_ns", "to_clock_ns")}
            record: Json = {"kind": "sec", "stage": self.stage, **span, "warmup": bool(each["warmup"][row]), "done": int(each["done"][row])}
            record |= {"ops": {}, "requests": {}, "retries": {}, "retried": {}, "errors": {}}
            for at in range(*np.searchsorted(ops["row"], (row, row + 1))):
                name = texts[ops["code"][at]]
                record["requests"][name] = int(ops["requests"][at])
                record["ops"][name] = [ops[column][at].item() for column in FIGURES]
            for at in range(*np.searchsorted(more["row"], (row, row + 1))):
                kind, name, n = KINDS[more["kind"][at]], texts[more["code"][at]], int(more["n"][at])
                if more["class"][at] >= 0:
                    record[kind].setdefault(name, {})[texts[more["class"][at]]] = n
                else:
                    record[kind][name] = n
            if each["mem_used_bytes"][row] >= 0:
                record["host"] = self._host(row)
            yield record

    def _host(self, row: int) -> Json:
        each = self.each
        host = {
            "cpu": [float(each[name][row]) for name in FLOATS[:4]],
            "mem_used_bytes": int(each["mem_used_bytes"][row]),
            "net": [int(each["net_received_bytes"][row]), int(each["net_sent_bytes"][row])],
            "disk": [int(each["disk_read_bytes"][row]), int(each["disk_written_bytes"][row])],
            "late_ms": float(each["late_ms"][row]),
        }
        if not np.isnan(each["worker_cpu_pct"][row]):
            host["worker_cpu"] = float(each["worker_cpu_pct"][row])
        if each["workers"][row]:
            host["workers_cpu"] = [float(each["workers_cpu_pct"][row]), int(each["workers"][row])]
        return host


class Collector:
    """Takes sec records as the journal has them. There are millions of them: what is done for each is as little as can be."""

    def __init__(self, stage: int, names: Names) -> None:
        self._stage, self._names = stage, names
        self._integers, self._floats, self._figures = array("q"), array("d"), array("d")
        self._many, self._codes, self._more, self._requests = array("q"), array("q"), array("q"), array("q")
        self._waiting: tuple[list[int], list[float], list[float]] = ([], [], [])
        self._known: dict[tuple[str, ...], list[int]] = {}

    def take(self, record: Json, shift_ns: int = 0) -> None:
        """Adds a second; shift_ns brings its times into the clock of the others."""
        ops, get = record["ops"], record.get
        integers, floats, figures = self._waiting
        integers += (
            record["second"], record["wall_ns"], record["from_clock_ns"] + shift_ns, record["to_clock_ns"] + shift_ns, get("warmup", False),
            get("done", 0),
        )  # fmt: skip
        if "host" in record:
            host = record["host"]
            workers = host.get("workers_cpu", _UNKNOWN)
            integers.append(host["mem_used_bytes"])
            integers += host["net"]
            integers += host["disk"]
            integers.append(workers[1])
            floats += host["cpu"]
            floats += (host.get("worker_cpu", _NAN), workers[0], host.get("late_ms", 0.0))
        else:
            integers += _NO_HOST
            floats += _NO_SHARES
        kinds = tuple(ops)
        codes = self._known.get(kinds)
        if codes is None:
            codes = self._known[kinds] = [self._names.code(op) for op in kinds]
        self._many.append(len(codes))
        self._codes.extend(codes)
        figures += chain.from_iterable(ops.values())
        if "requests" in record:
            self._note_requests(record["requests"], kinds)
        if "retried" in record:
            retried = record["retried"]
            self._note(1, {op: sum(classes.values()) for op, classes in retried.items()})
            self._note(2, retried)
        if "errors" in record:
            self._note(3, record["errors"])
        if len(integers) > WAITING:
            self._settle()

    def _settle(self) -> None:
        """From lists, which are quick to add to, to arrays, which are small."""
        kept: tuple[array[Any], ...] = (self._integers, self._floats, self._figures)
        waiting: tuple[list[Any], ...] = self._waiting
        for numbers, more in zip(kept, waiting, strict=True):
            numbers.frombytes(struct.pack(f"{len(more)}{numbers.typecode}", *more))
            more.clear()

    def _note_requests(self, requests: Json, kinds: tuple[str, ...]) -> None:
        """Those of operations that have another number of them than of completions; of others there is no row."""
        last = len(self._codes) - len(kinds)
        for op in kinds:
            if op in requests:
                self._requests.extend((last + kinds.index(op), requests[op]))
        self._note(0, {op: n for op, n in requests.items() if op not in kinds})

    def _note(self, kind: int, found: Json) -> None:
        row, code = len(self._many) - 1, self._names.code
        for op, value in found.items():
            for name, n in value.items() if isinstance(value, dict) else ((None, value),):
                self._more.extend((row, kind, code(op), -1 if name is None else code(name), n))

    def seconds(self) -> Seconds:
        """All that were taken so far; further ones may come (nothing shares memory with what is kept here)."""
        self._settle()
        integers = np.frombuffer(self._integers, np.int64).reshape(-1, len(INTEGERS)).T
        floats = np.frombuffer(self._floats, np.float64).reshape(-1, len(FLOATS)).T
        each: dict[str, Array] = {name: np.array(column) for name, column in zip(INTEGERS, integers, strict=True)}
        each |= {name: np.array(column) for name, column in zip(FLOATS, floats, strict=True)}
        each |= {"second": each["second"].astype(np.int32), "warmup": each["warmup"].astype(np.bool_)}
        each |= {"workers": each["workers"].astype(np.int32)}
        # Counts, bytes and sums of one second are far below 2^53, so doubles carry them exactly.
        figures = np.frombuffer(self._figures, np.float64).reshape(-1, len(FIGURES)).T
        many = np.frombuffer(self._many, np.int64)
        ops: dict[str, Array] = {
            "row": np.repeat(np.arange(len(many), dtype=np.int32), many),
            "code": np.array(self._codes, dtype=np.int16),
            "requests": figures[0].astype(np.int64),
        }
        at, n = np.frombuffer(self._requests, np.int64).reshape(-1, 2).T
        ops["requests"][at] = n
        for name, column in zip(FIGURES, figures, strict=True):
            ops[name] = column.astype(np.int64) if name in FIGURES[:3] else np.array(column)
        rows = np.frombuffer(self._more, np.int64).reshape(-1, 5).T
        more = {name: np.array(column) for name, column in zip(("row", "kind", "code", "class", "n"), rows, strict=True)}
        return Seconds(self._stage, self._names, each, ops, more)
