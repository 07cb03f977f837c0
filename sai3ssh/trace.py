"""Reads traces in sai3-bench's format and divides them among agents and workers, a row at a time."""

from __future__ import annotations

import gzip
import heapq
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import zstandard

from .errors import ConfigError
from .model import OPERATIONS
from .oplog import Frame, Record, frame, frames, pack, trace_name, unpack

WINDOW = 100_000
"""Rows are put in the order of their starts as far as one is no further from its place than so many."""
HELD = 1_000_000
"""So many rows are in memory at most, some 350 MiB: with more files than have room for a window in it, each has a smaller one."""
BLOCK = 128
"""Rows of a frame: a worker unpacks one between two operations."""
OPS = {"GET": "get", "PUT": "put", "LIST": "list", "STAT": "stat", "DELETE": "delete", "HEAD": "stat"}
LONGEST_KEY = 1024
LONGEST_LINE = 64 * 1024
MOST_BYTES = 1 << 50
"""No object of a trace is larger."""
YEARS = range(1970, 2262)
"""Their ns fit into 63 bits."""


class Row(NamedTuple):
    """One operation of a trace."""

    start_ns: int
    line: int
    op: str
    name: str
    """endpoint and file."""
    bytes: int
    well: bool
    """Whether it succeeded."""
    file: str


@dataclass
class Facts:
    """What a trace is, as far as it has been read."""

    records: int = 0
    put_bytes: int = 0
    largest_bytes: int = 0
    first_ns: int = 0
    span_ns: int = 0
    """From the first start to the last."""
    operations: set[str] = field(default_factory=set)


# --- reading -----------------------------------------------------------------------------------------------------------------------------


def rows(paths: Sequence[Path]) -> Iterator[Row]:
    """All rows in the order of their starts. Raises ConfigError with file and line of what is wrong."""
    window = min(WINDOW, HELD // len(paths))
    return heapq.merge(*(_sorted(path, window) for path in paths))


def _sorted(path: Path, window: int) -> Iterator[Row]:
    held: list[Row] = []
    last_ns = 0
    for row in _read(path):
        if row.start_ns < last_ns:
            raise ConfigError(
                f"the operation starts {(last_ns - row.start_ns) / 1e9:.6f} s before one that is {window:,} lines above it",
                file=str(path),
                line=row.line,
                remedy="Sort the trace by start",
            )
        if len(held) < window:
            heapq.heappush(held, row)
            continue
        first = heapq.heappushpop(held, row)
        last_ns = first.start_ns
        yield first
    while held:
        yield heapq.heappop(held)


def _open(path: Path) -> TextIO:
    with path.open("rb") as file:
        mark = file.read(4)
    if mark[:2] == b"\x1f\x8b":
        return gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="\n")
    file = path.open("rb")
    if mark != zstandard.FRAME_HEADER:
        return io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="\n")
    return io.TextIOWrapper(io.BufferedReader(_Zstd(file), 1 << 16), encoding="utf-8", errors="surrogateescape", newline="\n")


class _Zstd(io.RawIOBase):
    """What frames of zstd have in them. Raises EOFError where the last of them is not whole: the library's own reader says nothing."""

    PIECE = 1024
    """Read at once; no more than 32 MiB can be in it, as no block has more than 128 KiB in four bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""
        self._ready = memoryview(b"")
        self._frame: Any = None

    def readable(self) -> bool:
        """See RawIOBase."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See RawIOBase."""
        while not self._ready:
            data = self._rest or self._file.read(self.PIECE)
            self._rest = b""
            if not data:
                if self._frame is not None:
                    raise EOFError("it is cut off: its last zstd frame is not whole")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(data))
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def close(self) -> None:
        """Closes the file, too."""
        self._file.close()
        super().close()


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """Raises ConfigError on one that is no line of a trace."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            text = f"expected a line of a trace, found one of more than {LONGEST_LINE:,} characters"
            raise ConfigError(text, file=str(path), line=number)
        yield line


def _read(path: Path) -> Iterator[Row]:
    """The rows of one file as they come; comments and empty lines are passed over."""
    number = 0
    try:
        with _open(path) as file:
            lines = _lines(file, path)
            columns = _columns(path, next(lines, "").rstrip("\r\n").split("\t"))
            clock = _Clock()
            for number, line in enumerate(lines, 2):
                text = line.rstrip("\r\n")
                if text and not text.startswith("#"):
                    try:
                        yield _row(text.split("\t"), columns, number, clock, str(path))
                    except ValueError as error:
                        raise ConfigError(str(error), file=str(path), line=number) from None
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise ConfigError(f"cannot be read: {error}", file=str(path), line=number + 1 if number else None) from error


class _Columns(NamedTuple):
    width: int
    op: int
    endpoint: int
    file: int
    bytes: int
    start: int
    error: int


def _columns(path: Path, names: list[str]) -> _Columns:
    """Where each column is; -1: nowhere. As in the parent, names count, not positions."""
    lower = [name.strip().lower() for name in names]

    def find(*wanted: str) -> int:
        return next((lower.index(name) for name in wanted if name in lower), -1)

    places = (find("op", "operation"), find("endpoint"), find("file"), find("bytes"), find("start", "t_start"), find("error"))
    found = _Columns(len(names), *places)
    missing = [name for name, at in (("op", found.op), ("file", found.file), ("bytes", found.bytes), ("start", found.start)) if at < 0]
    if missing:
        seen = "\t".join(names)[:120]
        raise ConfigError(
            f"the first line has no column {' and '.join(missing)}: found {seen!r}, expected names of columns, separated by tabs",
            file=str(path),
            line=1,
        )
    return found


class _Clock:
    """ISO 8601 to ns; most rows are of a second that was just seen."""

    def __init__(self) -> None:
        self._seconds: dict[str, int] = {}

    def ns(self, text: str) -> int:
        """Raises ValueError on what is no time with a zone."""
        second, rest = text[:19], text[19:]
        zone = rest.lstrip(".0123456789")
        digits = rest[1 : len(rest) - len(zone)] if rest.startswith(".") else ""
        base = self._seconds.get(second + zone)
        if base is None:
            found = datetime.fromisoformat(second + ("+00:00" if zone == "Z" else zone))
            if found.tzinfo is None or found.year not in YEARS:
                raise ValueError("a time without a zone, or of no clock")
            if len(self._seconds) > 1000:
                self._seconds.clear()
            base = self._seconds[second + zone] = int(found.timestamp()) * 1_000_000_000
        return base + int(digits[:9].ljust(9, "0")) if digits else base


def _row(fields: list[str], columns: _Columns, number: int, clock: _Clock, path: str) -> Row:
    if len(fields) != columns.width:
        raise ValueError(f"expected {columns.width} columns as in the first line, found {len(fields)}")
    op = OPS.get(fields[columns.op].upper())
    if op is None:
        raise ValueError(f"op: expected one of {', '.join(OPS)}, found {fields[columns.op]!r}")
    try:
        start_ns = clock.ns(fields[columns.start])
    except ValueError:
        found = fields[columns.start]
        raise ValueError(f"start: expected a time such as 2026-01-31T12:00:00.123456789Z, found {found!r}") from None
    size = fields[columns.bytes]
    if not (size.isascii() and size.isdigit()):
        raise ValueError(f"bytes: expected a whole number, found {size[:40]!r}")
    if len(size) > len(str(MOST_BYTES)) or int(size) > MOST_BYTES:
        raise ValueError(f"bytes: expected {MOST_BYTES:,} at most, found {size[:40]}")
    endpoint = fields[columns.endpoint] if columns.endpoint >= 0 else ""
    name = fields[columns.file] if fields[columns.file].startswith(endpoint) else endpoint + fields[columns.file]
    return Row(start_ns, number, op, name, int(size), columns.error < 0 or not fields[columns.error], path)


# --- dividing ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """How names of a trace become keys below the target."""

    target: str
    remaps: tuple[tuple[str, str], ...] = ()
    """(from, to): what begins a name, and what begins its key instead. The first that fits; else the name without its scheme is the key."""

    def key(self, row: Row) -> str:
        """Raises ConfigError where it would be none."""
        for before, after in self.remaps:
            if row.name.startswith(before):
                key = after + row.name[len(before) :]
                break
        else:
            key = row.name.rpartition("://")[2]
        key = key.lstrip("/")
        wrong = self._wrong(key, row.op)
        if wrong:
            raise ConfigError(f"{row.op.upper()} {row.name!r} {wrong}", file=row.file, line=row.line)
        return key

    def _wrong(self, key: str, op: str) -> str | None:
        if not key and op != "list":
            return "names no object; expected one below what --remap replaces"
        if not key.isprintable():
            return f"has characters that no key can have here: {key!r}"
        if len(key) > LONGEST_KEY:
            return f"has a key of {len(key)} characters, at most {LONGEST_KEY} are allowed"
        if self.target.startswith(("file:", "direct:")) and not {"..", "."}.isdisjoint(key.split("/")):
            return "leads out of its directory ('.' or '..')"
        return None


def divide(paths: Sequence[Path], names: Names, directories: Sequence[Path], workers: int, stage: int) -> Facts:
    """Writes a file for each worker of each agent, whose directories these are; what the whole trace is. Raises ConfigError.

    All rows of one key go to one worker, in their order.
    """
    facts = Facts()
    agents = len(directories)
    files = [[_Writer(directory / trace_name(stage, worker)) for worker in range(workers)] for directory in directories]
    for row in rows(paths):
        key = names.key(row)
        if not facts.records:
            facts.first_ns = row.start_ns
        facts.records += 1
        facts.span_ns = row.start_ns - facts.first_ns
        facts.operations.add(row.op)
        facts.largest_bytes = max(facts.largest_bytes, row.bytes)
        if row.op == "put":
            facts.put_bytes += row.bytes
        number = zlib.crc32(key.encode("utf-8", "surrogateescape"))
        files[number % agents][number // agents % workers].add(facts.span_ns, row.op, key, row.bytes, row.well)
    for of_agent in files:
        for file in of_agent:
            file.end()
    if not facts.records:
        raise ConfigError("there is no operation in it", file=str(paths[0]))
    return facts


class _Writer:
    """A trace of one worker. Its file is not kept open: all workers of all agents have more than a process may."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"")
        self._path = path
        self._records: list[Record] = []

    def add(self, at_ns: int, op: str, key: str, size: int, well: bool) -> None:
        self._records.append((OPERATIONS.index(op), "", key, size, at_ns, at_ns, -1, "" if well else "failed", 0))
        if len(self._records) == BLOCK:
            self._write()

    def end(self) -> None:
        """Writes what is left."""
        if self._records:
            self._write()

    def _write(self) -> None:
        block, earliest_ns = pack(self._records, 0, 0, 0)
        with self._path.open("ab") as file:
            file.write(frame(block, len(self._records), earliest_ns))
        self._records.clear()


def missing_before(path: Path, out: Path) -> Facts:
    """Writes puts of the objects that a worker's trace reads, or deletes, before it writes them. Memory grows with that worker's keys."""
    written: set[str] = set()
    sizes: dict[str, int] = {}
    with path.open("rb") as file:
        for one in list(frames(file, path.stat().st_size)):
            for row in unpack(_at(file, one), one):
                if row.op == "list" or row.key in written:
                    continue
                if row.op == "put":
                    written.add(row.key)
                elif not row.error:
                    sizes[row.key] = max(row.bytes, sizes.get(row.key, 0))
                    if row.op == "delete":
                        written.add(row.key)
    facts = Facts()
    writer = _Writer(out)
    for key, size in sizes.items():
        writer.add(0, "put", key, size, True)
        facts.records += 1
        facts.put_bytes += size
        facts.largest_bytes = max(facts.largest_bytes, size)
    writer.end()
    return facts


def _at(file: io.BufferedReader, found: Frame) -> bytes:
    file.seek(found.offset)
    return file.read(found.length)


def prepare(directories: Sequence[Path], workers: int, stage: int, reads: int) -> Facts:
    """Traces of `stage` that put what those of the stage `reads` expect to find."""
    total = Facts(operations={"put"})
    for directory in directories:
        for worker in range(workers):
            found = missing_before(directory / trace_name(reads, worker), directory / trace_name(stage, worker))
            total.records += found.records
            total.put_bytes += found.put_bytes
            total.largest_bytes = max(total.largest_bytes, found.largest_bytes)
    return total
