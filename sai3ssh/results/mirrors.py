"""The mirrors of all agents, read with all cores, and kept as columns beside them where they are large."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import __file__ as package
from ..errors import ConfigError
from . import columnfile
from .journal import AgentJournal, read_agent

KEPT_FROM_BYTES = 8 << 20
"""Journals of less in all are read in a moment."""
SHARED_FROM_BYTES = 32 << 20
"""What one process reads in a second."""
PLACE = ".columns"
"""Within a run directory."""


def read_agents(run: Path, agent_ids: Sequence[str]) -> dict[str, AgentJournal]:
    """The journals of a run's agents, as read_agent reads each.

    What is read of large ones is kept in the run directory, where that can be written, and read there until the journal changes.
    """
    paths = {agent_id: run / "agents" / agent_id / "journal.ndjson" for agent_id in agent_ids}
    sizes = {agent_id: path.stat().st_size for agent_id, path in paths.items() if path.exists()}
    if sum(sizes.values()) < KEPT_FROM_BYTES:
        return {agent_id: read_agent(agent_id, path) for agent_id, path in paths.items()}
    keys = {agent_id: columnfile.key_of(paths[agent_id]) for agent_id in sizes}
    place = run / PLACE
    with ThreadPoolExecutor(cores()) as pool:
        kept = pool.map(lambda agent_id: columnfile.load(place / agent_id, keys[agent_id]), keys)
        found = {agent_id: agent for agent_id, agent in zip(keys, kept, strict=True) if agent is not None}
    missing = {agent_id: paths[agent_id] for agent_id in sizes if agent_id not in found}
    if missing:
        with contextlib.ExitStack() as stack:
            if not _writable(place):
                place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sai3ssh-")))
            for agent_id in missing:
                (place / agent_id).unlink(missing_ok=True)
            if sum(sizes[agent_id] for agent_id in missing) >= SHARED_FROM_BYTES:
                _convert_with_all_cores(missing, sizes, place)
            else:
                convert(missing, place)
            for agent_id in missing:
                # One that grew meanwhile has another key now.
                agent = columnfile.load(place / agent_id, None)
                if agent is not None:
                    found[agent_id] = agent
    # Not here, or could not be kept: a full disk.
    return {agent_id: found[agent_id] if agent_id in found else read_agent(agent_id, path) for agent_id, path in paths.items()}


def convert(journals: Mapping[str, Path], place: Path) -> None:
    """Reads journals and keeps what was read. What cannot be read or kept is left out: who needs it reads it again, and is told why."""
    for agent_id, path in journals.items():
        # TypeError: of a number of more than 64 bits.
        with contextlib.suppress(OSError, ConfigError, TypeError):
            key = columnfile.key_of(path)
            columnfile.store(place / agent_id, key, read_agent(agent_id, path))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _writable(place: Path) -> bool:
    try:
        place.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(place, os.W_OK | os.X_OK)


def _convert_with_all_cores(journals: Mapping[str, Path], sizes: Mapping[str, int], place: Path) -> None:
    """A process per core, each with as much to read; programs of their own, since a fork would copy threads' locks and a spawn would run
    the user's program again."""
    count = min(len(journals), cores())
    parts: list[dict[str, str]] = [{} for _ in range(count)]
    loads = [0] * count
    for agent_id in sorted(journals, key=lambda name: (-sizes[name], name)):
        least = loads.index(min(loads))
        parts[least][agent_id] = str(journals[agent_id].resolve())
        loads[least] += sizes[agent_id]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(package).parent.parent), *filter(None, sys.path)])}
    argv = [sys.executable, "-P", "-c", f"from {__name__} import main; main()", str(place.resolve())]
    readers: list[subprocess.Popen[bytes]] = []
    try:
        for part in parts:
            # Ctrl-C is for us alone.
            reader = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            readers.append(reader)
            assert reader.stdin is not None
            # What one that has died leaves undone is done by our caller.
            with contextlib.suppress(BrokenPipeError), reader.stdin:
                reader.stdin.write(json.dumps(part).encode())
        for reader in readers:
            reader.wait()
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


def main() -> None:
    """One of the processes: the journals by agent come as JSON on stdin, the place as the argument."""
    told: dict[str, Any] = json.load(sys.stdin)
    convert({agent_id: Path(path) for agent_id, path in told.items()}, Path(sys.argv[1]))
