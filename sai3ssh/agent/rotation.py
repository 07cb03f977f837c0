"""Removes the oldest finished runs of a daemon's directory: those that ended too long ago, and those that keep it too large.

A run without a final record is never removed, nor is one that ended less than an hour ago: its controller may still be collecting.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import Callable, Iterable, List, Optional, Tuple

from sai3ssh.agent import state
from sai3ssh.agent.tail import last_record
from sai3ssh.errors import Sai3sshError

EVERY_S = 3600.0
SPARED_S = 3600.0
DAY_S = 86400.0


@dataclass(frozen=True)
class Keep:
    """What is kept. 0 stands for no limit."""

    days: int = 0
    max_bytes: int = 0
    """On the disk, of all runs together."""


@dataclass(frozen=True)
class Kept:
    """One run as it is on the disk."""

    directory: str
    size_bytes: int
    ended_s: Optional[float]
    """Wall time of its final record; None while it has none."""


def due(runs: Iterable[Kept], keep: Keep, now_s: float) -> List[Tuple[Kept, str]]:
    """The runs that are to go, the oldest first, each with the reason."""
    runs = list(runs)
    total = sum(run.size_bytes for run in runs)
    ended = sorted((run.ended_s, run.directory, run) for run in runs if run.ended_s is not None and now_s - run.ended_s >= SPARED_S)
    chosen = []
    for ended_s, _, run in ended:
        age_days = (now_s - ended_s) / DAY_S
        if keep.days and age_days >= keep.days:
            reason = f"it ended {age_days:.0f} days ago, {keep.days} are kept"
        elif keep.max_bytes and total > keep.max_bytes:
            reason = f"the runs here take {total} bytes, {keep.max_bytes} are allowed"
        else:
            continue
        total -= run.size_bytes
        chosen.append((run, reason))
    return chosen


class Rotation:
    """Looks at a directory now and each hour. `forget` removes one run; `say` is told of it."""

    def __init__(
        self,
        directory: str,
        keep: Keep,
        forget: Callable[[str], object],
        say: Callable[[str], object],
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._dir = directory
        self._keep = keep
        self._forget = forget
        self._say = say
        self._wall_s = wall_s

    def run(self, over: threading.Event) -> None:
        """Until it is over."""
        while True:
            self.turn()
            if over.wait(EVERY_S):
                return

    def turn(self) -> None:
        """Removes what is due now."""
        for run, reason in due(self._kept(), self._keep, self._wall_s()):
            name = os.path.relpath(run.directory, os.path.join(self._dir, "runs"))
            try:
                self._forget(run.directory)
            except (OSError, Sai3sshError) as error:
                self._say(f"run {name} cannot be removed: {error}")
            else:
                self._say(f"removed run {name} ({run.size_bytes} bytes): {reason}")

    def _kept(self) -> List[Kept]:
        return [Kept(path, _size(path), _ended_s(path)) for _, _, path in state.runs(self._dir)]


def _size(directory: str) -> int:
    size = 0
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            size += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return size


def _ended_s(directory: str) -> Optional[float]:
    record = last_record(os.path.join(directory, "journal.ndjson"))
    return record["wall_ns"] / 1e9 if record is not None and record["kind"] == "final" else None
