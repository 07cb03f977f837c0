"""How often hosts lose their link, over all runs of a results directory."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .network import controller, networks

Json = dict[str, Any]
CAUSES = 3
"""So many causes are kept of each host."""
BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What reading a file of other people can raise."""


SERIES = ("matrix.json", "autotune.json")


@dataclass(frozen=True)
class HostHealth:
    """One host's links over all runs."""

    host: str
    runs: int
    """In which it took part."""
    hours: float
    """Watched: from its first connection in each run to the run's last event."""
    disconnects: int
    disconnects_per_hour: float
    """0 when it was never watched."""
    down_s: float
    """In all; a loss that did not end counts to the end of its log."""
    longest_s: float
    causes: dict[str, int]
    """The most frequent ones, most frequent first; N stands for any number."""
    last_disconnect_at: float | None
    """Wall time in seconds; None: never."""
    lost_in: tuple[str, ...]
    """Runs that gave it up."""


@dataclass(frozen=True)
class PassedOver:
    """A directory that is no run, or a broken one."""

    name: str
    reason: str


@dataclass(frozen=True)
class Health:
    """What a results directory tells of its hosts. model.to_json makes JSON of it."""

    runs: int
    hosts: tuple[HostHealth, ...]
    """Worst first: by disconnects per hour, then by disconnects."""
    cut_offs: int
    """Times that the controller itself was off the network: not the hosts' doing, though it shows as a disconnect of each."""
    cut_off_s: float
    """Of those that ended."""
    passed_over: tuple[PassedOver, ...]


@dataclass
class _Tally:
    runs: int = 0
    watched_s: float = 0.0
    losses: list[Json] = field(default_factory=list)
    lost_in: list[str] = field(default_factory=list)


def health(results_dir: Path) -> Health:
    """The links of all hosts over the runs in results_dir, which may also be a run directory itself.

    A run is a directory with events.ndjson and hosts.json; it needs no results. Hosts are told apart by their inventory name. Other and
    broken directories are passed over and named. Raises ConfigError when there is no such directory.
    """
    if not results_dir.is_dir():
        raise ConfigError(f"{results_dir} is no directory", remedy="Name the directory that run directories go to (--results-dir)")
    candidates = [results_dir] if _is_run(results_dir) else sorted(path for path in results_dir.iterdir() if path.is_dir())
    # A matrix or a search has a directory of its own beside its runs.
    candidates = [path for path in candidates if not any((path / name).is_file() for name in SERIES)]
    tallies: dict[str, _Tally] = {}
    passed_over: list[PassedOver] = []
    cut_offs: list[Json] = []
    for path in candidates:
        if not _is_run(path):
            passed_over.append(PassedOver(path.name, "no run directory: it lacks events.ndjson or hosts.json"))
            continue
        try:
            found, cuts = _read_run(path)
        except BROKEN as error:
            passed_over.append(PassedOver(path.name, f"cannot be read: {type(error).__name__}: {error}"))
            continue
        cut_offs += cuts
        for host, part in found.items():
            total = tallies.setdefault(host, _Tally())
            total.runs += part.runs
            total.watched_s += part.watched_s
            total.losses += part.losses
            total.lost_in += part.lost_in
    hosts = sorted((_host(name, tally) for name, tally in tallies.items()), key=lambda h: (-h.disconnects_per_hour, -h.disconnects, h.host))
    cut_off_s = sum(cut["seconds"] or 0.0 for cut in cut_offs)
    return Health(len(candidates) - len(passed_over), tuple(hosts), len(cut_offs), cut_off_s, tuple(passed_over))


def _is_run(path: Path) -> bool:
    return (path / "events.ndjson").is_file() and (path / "hosts.json").is_file()


def _read_run(path: Path) -> tuple[dict[str, _Tally], list[Json]]:
    agents = json.loads((path / "hosts.json").read_text(encoding="utf-8"))["agents"]
    names = {str(agent["agent_id"]): str(agent.get("host") or agent["agent_id"]) for agent in agents}
    events = _events(path / "events.ndjson")
    found: dict[str, _Tally] = {}
    links = networks(list(names), events)
    for agent_id, host in names.items():
        tally = found.setdefault(host, _Tally(runs=1))
        tally.watched_s += _watched_s(agent_id, events)
        tally.losses += links[agent_id]["losses"]
        if any(event["event"] == "agent_lost" and event["agent"] == agent_id for event in events):
            tally.lost_in.append(path.name)
    return found, controller(events)["cut_offs"]


def _events(path: Path) -> list[Json]:
    """The whole events of a log; a torn last line is passed over."""
    events = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            event = json.loads(line)
            known = isinstance(event["at"], (int, float)) and isinstance(event["event"], str)
        except BROKEN as error:
            raise ValueError(f"line {number} of {path.name} is no event") from error
        if not known:
            raise ValueError(f"line {number} of {path.name} is no event")
        events.append(event)
    return events


def _watched_s(agent_id: str, events: Sequence[Json]) -> float:
    """From the agent's first connection to the last event; not between the end of a run and what was added to its log later."""
    first = next((i for i, event in enumerate(events) if event["event"] == "link_up" and event["agent"] == agent_id), None)
    if first is None:
        return 0.0
    watched = 0.0
    for before, after in zip(events[first:], events[first + 1 :], strict=False):
        if before["event"] != "run_ended":
            watched += after["at"] - before["at"]
    return max(0.0, watched)


def _host(name: str, tally: _Tally) -> HostHealth:
    hours = tally.watched_s / 3600
    down = [loss["unreachable_s"] for loss in tally.losses]
    causes = Counter(re.sub(r"\d+(\.\d+)*", "N", str(loss["cause"])) for loss in tally.losses)
    return HostHealth(
        host=name,
        runs=tally.runs,
        hours=hours,
        disconnects=len(down),
        disconnects_per_hour=len(down) / hours if hours > 0 else 0.0,
        down_s=sum(down),
        longest_s=max(down, default=0.0),
        causes=dict(causes.most_common(CAUSES)),
        last_disconnect_at=max((loss["at"] for loss in tally.losses), default=None),
        lost_in=tuple(tally.lost_in),
    )
