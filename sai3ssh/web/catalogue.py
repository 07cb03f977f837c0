"""The runs of a results directory: which there are, and what a row of a list says of each. Nothing is written, and nothing read twice."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..controller.eventlog import read as read_events
from ..controller.rundir import RunDirectory
from ..errors import Sai3sshError
from ..protocol import Json
from .tally import RunTally

RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
"""Names of run directories: no separators, none that begins with a dot."""
BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, Sai3sshError)
"""What reading a file that is damaged, or of another version, can raise."""
READING_S = 0.5
"""So long an answer reads runs that it has not yet read; the rest follow with the next answers."""
KEPT_S = 600.0
"""A run that has ended stays in the metrics so long, for whoever scrapes them to see its last figures."""
UNUSED_S = 120.0
"""The counts of a run that nobody has asked for are let go."""
ENDS = ("run_ended", "verdict_revised")
TAIL_BYTES = 1 << 18
HOSTS = 8
"""So many hosts are named in a row."""


@dataclass
class _Entry:
    """What is known of one run."""

    stamp: tuple[Any, ...] = ()
    row: Json = field(default_factory=dict)
    tally: RunTally | None = None
    used_s: float = 0.0
    static: Json | None = None


class Catalogue:
    """All runs of a results directory. For one thread."""

    def __init__(self, results_dir: Path, clock_s: Callable[[], float] = time.time) -> None:
        self.results_dir = results_dir
        self._clock_s = clock_s
        self._entries: dict[str, _Entry] = {}

    def find(self, run_id: str) -> RunDirectory | None:
        """The directory of a run; None when the name is no run's."""
        if not RUN_ID.fullmatch(run_id):
            return None
        path = self.results_dir / run_id
        return RunDirectory(path) if (path / "plan.json").is_file() else None

    def names(self) -> list[str]:
        """The ids of all runs, in no order."""
        try:
            found = [path.name for path in self.results_dir.iterdir() if RUN_ID.fullmatch(path.name)]
        except FileNotFoundError:
            return []
        return [name for name in found if (self.results_dir / name / "plan.json").is_file()]

    def _changed_at(self, name: str) -> float:
        try:
            return (self.results_dir / name).stat().st_mtime
        except OSError:
            return 0.0

    def has_ended(self, directory: RunDirectory) -> bool:
        """Whether its log has a verdict. What follows it is not much: it is looked for in the end of the log."""
        # Within a text the quotes would be escaped; a record that is not whole yet tells nothing.
        end = _end_of(directory.events)
        end = end[: end.rfind(b"\n") + 1]
        return any(f'"event":"{name}"'.encode() in end for name in ENDS)

    # --- rows --------------------------------------------------------------------------------------------------------------------------

    def rows(self) -> Json:
        """{"runs": a row for each run, live ones first and then the newest, "unread": how many rows have no figures yet}."""
        names = self.names()
        for gone in self._entries.keys() - set(names):
            del self._entries[gone]
        # The newest first: when there are many, they are what is looked for.
        names.sort(key=self._changed_at, reverse=True)
        deadline = time.monotonic() + READING_S
        found, unread = [], 0
        for name in names:
            row = self._row(name, time.monotonic() < deadline)
            unread += row is None
            found.append(row or {"id": name, "status": "unread"})
        found.sort(key=lambda row: (row["status"] == "running", row.get("created_at") or 0.0), reverse=True)
        return {"runs": found, "unread": unread}

    def row(self, run_id: str) -> Json | None:
        """The row of one run; None when there is none."""
        return self._row(run_id, True) if self.find(run_id) is not None else None

    def _row(self, name: str, read: bool) -> Json | None:
        entry = self._entries.setdefault(name, _Entry())
        directory = RunDirectory(self.results_dir / name)
        stamp = stamp_of(directory.path)
        if entry.row and entry.stamp == stamp and entry.row["status"] in ("ended", "broken"):
            return entry.row
        if not read and not entry.row:
            return None
        try:
            entry.row = self._ended(directory, entry) or self._going_on(directory, entry)
        except BROKEN as error:
            entry.row = {"id": name, "status": "broken", "verdict": None, "problem": f"{type(error).__name__}: {error}"}
        entry.stamp = stamp
        return entry.row

    def _ended(self, directory: RunDirectory, entry: _Entry) -> Json | None:
        """The row of a run that has ended; None for one that has not."""
        if not self.has_ended(directory):
            return None
        events = list(read_events(directory.events))
        over = next((event for event in reversed(events) if event["event"] in ENDS), None)
        if over is None:
            return None
        file = directory.path / "results.json"
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        began = events[0]["at"]
        row = {**self._static(directory, entry), "status": "ended", "created_at": began, "seconds": over["at"] - began}
        row |= {"verdict": over["verdict"], "reasons": content.get("reasons", over.get("reasons", []))}
        return {**row, "coverage": content.get("coverage"), **_figures(content.get("stages", ()))}

    def _going_on(self, directory: RunDirectory, entry: _Entry) -> Json:
        """The row of a run that has not ended."""
        tally = self._tally(directory, entry)
        controlled = directory.controller() is not None
        rates = tally.rates()
        operation, p50_us, p99_us = tally.main_latency()
        began = tally.created_at or (directory.path / "plan.json").stat().st_mtime
        agents = [agent.shown_state for agent in tally.agents.values()]
        return {
            **self._static(directory, entry),
            "status": "running" if controlled else "left",
            "created_at": began,
            "seconds": (self._clock_s() if controlled else tally.last_event.get("at", began)) - began,
            "verdict": tally.verdict,
            "reasons": tally.reasons,
            "coverage": None,
            "stage": tally.names[tally.stage] if tally.stage is not None else None,
            "progress": tally.progress(),
            "unreachable": agents.count("UNREACHABLE"),
            "ops_per_s": sum(ops for ops, _ in rates.values()) if rates else None,
            "mib_per_s": sum(size for _, size in rates.values()) / (1 << 20) if rates else None,
            "operation": operation,
            "p50_us": p50_us,
            "p99_us": p99_us,
            "errors": tally.errors(),
        }

    def _static(self, directory: RunDirectory, entry: _Entry) -> Json:
        if entry.static is None:
            plan = json.loads((directory.path / "plan.json").read_text(encoding="utf-8"))
            hosts = json.loads((directory.path / "hosts.json").read_text(encoding="utf-8"))["agents"]
            entry.static = {
                "id": directory.path.name,
                "name": plan["name"],
                "agents": len(hosts),
                "hosts": [host["agent_id"] for host in hosts[:HOSTS]],
                "stages": [stage["name"] for stage in plan["stages"]],
            }
        return entry.static

    # --- counts ------------------------------------------------------------------------------------------------------------------------

    def _tally(self, directory: RunDirectory, entry: _Entry) -> RunTally:
        if entry.tally is None:
            entry.tally = RunTally(directory, self._clock_s)
        entry.used_s = time.monotonic()
        entry.tally.update()
        return entry.tally

    def tally(self, run_id: str) -> RunTally | None:
        """The counts of a run, up to date; None when there is no such run. Raises ConfigError when it cannot be read."""
        directory = self.find(run_id)
        return self._tally(directory, self._entries.setdefault(run_id, _Entry())) if directory is not None else None

    def current(self, most: int) -> list[RunTally]:
        """The counts of the newest runs that have not ended, or only just; of at most so many."""
        now = self._clock_s()
        found: list[RunTally] = []
        for name in sorted(self.names(), key=self._changed_at, reverse=True):
            if len(found) == most:
                break
            directory = RunDirectory(self.results_dir / name)
            entry = self._entries.setdefault(name, _Entry())
            if directory.controller() is None and now - _written_at(directory.path) > KEPT_S:
                if time.monotonic() - entry.used_s > UNUSED_S:
                    entry.tally = None
                continue
            try:
                found.append(self._tally(directory, entry))
            except BROKEN:
                continue  # the list says what is wrong with it
        return found


def stamp_of(path: Path) -> tuple[Any, ...]:
    """Changes when what a row of an ended run is made of changes."""
    found = []
    for name in ("events.ndjson", "results.json"):
        try:
            stat = (path / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)


def _written_at(path: Path) -> float:
    try:
        return (path / "events.ndjson").stat().st_mtime
    except OSError:
        return (path / "plan.json").stat().st_mtime


def _end_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            return file.read()
    except OSError:
        return b""


def _figures(stages: Any) -> Json:
    """The main figures of a run: rates of the last stage with a load, latencies of the operation that it had most of, errors of all."""
    errors = sum(sum(figures["errors"].values()) for stage in stages for figures in stage["operations"].values())
    with_ops = [stage for stage in stages if stage["operations"]]
    loads = [stage for stage in with_ops if stage["kind"] in ("execute", "replay")] or with_ops
    if not loads:
        return {"stage": None, "ops_per_s": None, "mib_per_s": None, "operation": None, "p50_us": None, "p99_us": None, "errors": errors}
    stage = loads[-1]
    operation, most = max(stage["operations"].items(), key=lambda item: item[1]["ops"])
    return {
        "stage": stage["name"],
        "ops_per_s": sum(figures["ops_per_s"] for figures in stage["operations"].values()),
        "mib_per_s": sum(figures["mib_per_s"] for figures in stage["operations"].values()),
        "operation": operation,
        "p50_us": most["latency_us"]["p50"],
        "p99_us": most["latency_us"]["p99"],
        "errors": errors,
    }
