"""Op-logs: an agent's segments become one table in sai3-bench's format, and results say what of the operations is in it."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zstandard

from ..oplog import COLUMNS, SEGMENT, TABLE, Frame, Row, frames, unpack
from .journal import AgentJournal, AgentStage

Json = dict[str, Any]
HELD = 400_000
"""So many rows at most are in memory; what ended later than so many others is not in the order of the starts."""
LEVEL = 3


@dataclass(frozen=True)
class Converted:
    """What an op-log has in it."""

    records: int
    stages: dict[int, int]
    """By the stage's index."""
    damaged: int
    """Frames that could not be read."""


@dataclass(frozen=True)
class _Piece:
    """A frame, and the earliest start in it and all later ones of its worker."""

    path: Path
    frame: Frame
    earliest_ns: int


def convert(segments: Sequence[Path], agent_id: str, table: Path, *, stop: Callable[[], bool] = bool) -> Converted:
    """Writes an agent's table, sorted by start (see HELD), and replaces it whole. Raises OSError; InterruptedError when `stop` says so.

    A worker's rows are in the order in which the operations ended. What can still come has not begun before the earliest start of which
    the heads of the frames that are left to read tell.
    """
    temporary = table.with_name(table.name + ".tmp")
    try:
        done = _write(segments, agent_id, temporary, stop)
    except BaseException:
        # What takes the room that is missing does not stay.
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(table)
    return done


def _write(segments: Sequence[Path], agent_id: str, table: Path, stop: Callable[[], bool]) -> Converted:
    streams = _streams(segments)
    stages: Counter[int] = Counter()
    damaged = count = 0
    held: list[Row] = []
    limit = 0
    with table.open("wb") as file, zstandard.ZstdCompressor(level=LEVEL).stream_writer(file) as out:
        out.write(("\t".join(COLUMNS) + "\n").encode("ascii"))
        while streams:
            if stop():
                raise InterruptedError("the op-log was not finished")
            stream = min(streams, key=lambda pieces: pieces[-1].earliest_ns)
            piece = stream.pop()
            if not stream:
                streams.remove(stream)
            try:
                rows = _read(piece)
            except ValueError:
                damaged += 1
                rows = []
            held += rows
            stages.update(row.stage for row in rows)
            if len(held) >= limit or not streams:
                sure_ns = min((pieces[-1].earliest_ns for pieces in streams), default=math.inf)
                held.sort()
                ready = bisect.bisect_left(held, (sure_ns,))
                ready = max(ready, len(held) - HELD // 2) if len(held) > HELD else ready
                out.write(_lines(held[:ready], agent_id, count))
                count += ready
                del held[:ready]
                limit = max(8192, 2 * len(held))
    return Converted(count, dict(stages), damaged)


def _streams(segments: Sequence[Path]) -> list[list[_Piece]]:
    """The frames of each worker, the first one last."""
    workers: dict[str, list[_Piece]] = {}
    for path in sorted(segments, key=lambda path: path.name):
        found = SEGMENT.fullmatch(path.name)
        if found:
            with path.open("rb") as file:
                pieces = [_Piece(path, frame, frame.earliest_ns) for frame in frames(file, path.stat().st_size)]
            workers.setdefault(found[2], []).extend(pieces)
    streams = []
    for pieces in workers.values():
        earliest_ns, stream = 1 << 63, []
        for piece in reversed(pieces):
            earliest_ns = min(earliest_ns, piece.frame.earliest_ns)
            stream.append(_Piece(piece.path, piece.frame, earliest_ns))
        if stream:
            streams.append(stream)
    return streams


def _read(piece: _Piece) -> list[Row]:
    with piece.path.open("rb") as file:
        file.seek(piece.frame.offset)
        return unpack(file.read(piece.frame.length), piece.frame)


def _lines(rows: Sequence[Row], agent_id: str, count: int) -> bytes:
    seconds: dict[int, str] = {}

    def stamp(ns: int) -> str:
        second, rest = divmod(ns, 1_000_000_000)
        text = seconds.get(second)
        if text is None:
            text = seconds[second] = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return f"{text}{rest:09d}Z"

    lines = []
    for n, row in enumerate(rows, count):
        scheme, _, place = row.uri.rpartition("://")
        name = place + row.key
        if not name.isprintable():
            name = name.replace("\t", "%09").replace("\n", "%0A").replace("\r", "%0D")
        objects = row.listed if row.op == "list" else 1
        first = stamp(row.first_byte_ns) if row.first_byte_ns >= 0 else ""
        endpoint = f"{scheme}://" if scheme else ""
        lines.append(
            f"{n}\t{row.worker}\t{row.op.upper()}\t{agent_id}\t{objects}\t{row.bytes}\t{endpoint}\t{name}\t{row.error}\t"
            f"{stamp(row.start_ns)}\t{first}\t{stamp(row.end_ns)}\t{row.end_ns - row.start_ns}\n"
        )
    return "".join(lines).encode("utf-8", "surrogateescape")


# --- in the results ----------------------------------------------------------------------------------------------------------------------


def op_log(agent: AgentJournal, events: Sequence[Json]) -> Json:
    """What became of an agent's op-log: operations {counted, written, dropped, lost}, its file, and the error where it is not here.

    `counted` are all operations and errors of the journal, those of warm-ups too; `dropped` are those that the host's disk did not take,
    `lost` those of workers that died, and of blocks that are damaged. written and lost are None while the op-log is not here.
    """
    event = next((event for event in reversed(events) if event["event"] == "op_log" and event["agent"] == agent.agent_id), None)
    counted = sum(_counted(stage) for stage in agent.stages.values())
    dropped = sum(stage.end["op_log"]["dropped"] for stage in agent.stages.values() if stage.end and "op_log" in stage.end)
    written = event["records"] if event else None
    return {
        "file": f"agents/{agent.agent_id}/{TABLE}" if written is not None else None,
        "counted": counted,
        "written": written,
        "dropped": dropped,
        "lost": max(0, counted - written - dropped) if written is not None else None,
        "error": event["error"] if event else None,
    }


def _counted(stage: AgentStage) -> int:
    return sum(sum(data.second_ops.values()) + sum(data.errors.values()) for data in (stage.data, stage.warmup))


def op_log_lines(content: Json) -> list[str]:
    """One line for each agent whose op-log is not here or not whole."""
    return [line for agent_id, log in (content.get("op_log") or {}).items() for line in _line(agent_id, log)]


def _line(agent_id: str, log: Json) -> Iterator[str]:
    if log["error"]:
        yield f"op-log of {agent_id} was not fetched: {log['error']}; `sai3ssh collect` tries again"
    missing = log["dropped"] + (log["lost"] or 0)
    if missing:
        lost = f", {log['lost']:,} lost with workers that died or in damaged blocks" if log["lost"] else ""
        yield f"op-log of {agent_id} lacks {missing:,} of {log['counted']:,} operations: {log['dropped']:,} dropped{lost}"
