"""The processes of agents on this machine, found and ended by the directory that they belong to."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def pids(directory: Path, verb: str) -> list[int]:
    """The agents' processes of a verb whose state is below the directory, or in one whose name begins like it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if verb in words and any(word.startswith(str(directory)) for word in words):
                found.append(int(path.parent.name))
    return found


def end_agents(directory: Path) -> None:
    """Kills all of them; returns when none is left."""
    deadline = time.monotonic() + 10.0
    while left := [pid for verb in ("supervise", "serve", "follow") for pid in pids(directory, verb)]:
        assert time.monotonic() < deadline
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                # Workers are in the group of their supervisor.
                os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
