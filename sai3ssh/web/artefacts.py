"""The files of a run directory that the page gives away. Those that can hold what a user wrote beside secrets (config.yaml, hosts.json,
controller.log) are not among them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_RUN = re.compile(
    r"results\.json|STATUS\.txt|perf_log\.tsv|plan\.json|preflight\.json|events\.ndjson|report\.html|[0-9]{2,}_[\w.-]+_results\.tsv"
)
_AGENT = re.compile(r"journal\.ndjson|oplog\.tsv\.zst|[0-9]{2,}_[\w.-]+_results\.tsv")
_NAME = re.compile(r"[\w][\w.-]*")

TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json", ".zst": "application/zstd"}
TEXT = "text/plain; charset=utf-8"
SANDBOX = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""Of a file that is a page itself: it can ask this server for nothing."""


@dataclass(frozen=True)
class Artefact:
    """A file that is given away."""

    name: str
    """Its path below the run directory."""
    bytes: int


def artefacts(directory: Path) -> list[Artefact]:
    """The files of a run that are there, those of the run first."""
    return [Artefact(name, size) for name in _names(directory) if (size := _size(directory / name)) is not None]


def _names(directory: Path) -> Iterator[str]:
    yield from sorted(name for name in _listed(directory) if _RUN.fullmatch(name))
    for agent in sorted(_listed(directory / "agents")):
        yield from (f"agents/{agent}/{name}" for name in sorted(_listed(directory / "agents" / agent)) if _AGENT.fullmatch(name))


def _listed(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except OSError:
        return []


def _size(path: Path) -> int | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def open_artefact(directory: Path, name: str) -> tuple[int, int] | None:
    """A descriptor and the size of a file that is given away; None for everything else, whatever its name. No link is followed."""
    parts = name.split("/")
    known = (len(parts) == 1 and _RUN.fullmatch(name)) or (
        len(parts) == 3 and parts[0] == "agents" and _NAME.fullmatch(parts[1]) and _AGENT.fullmatch(parts[2])
    )
    if not known:
        return None
    fds: list[int] = []
    try:
        fds.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in parts[:-1]:
            fds.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fds[-1]))
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fds[-1])
    except OSError:
        return None
    finally:
        for one in fds:
            os.close(one)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        return None
    return fd, found.st_size


def content_type(name: str) -> str:
    """Of an artefact, for a browser."""
    return TYPES.get(Path(name).suffix, TEXT)
