"""Comparisons of runs for the page: those of results.compare, made once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from ..model import Verdict, to_json
from ..protocol import Json
from ..results import read
from .catalogue import Catalogue

KEPT = 16
MOST = 20
"""Runs on a side."""


class Comparisons:
    """The last comparisons that were asked for. For one thread."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._kept: OrderedDict[tuple[Any, ...], Json] = OrderedDict()

    def of(self, base: Sequence[str], new: Sequence[str]) -> Json:
        """What differs between the runs of two sides; PARTIAL runs are compared as well, and named in `partial`. Raises ConfigError."""
        # scipy takes a second to import.
        from ..results import compare as comparing

        if not base or not new or max(len(base), len(new)) > MOST:
            raise ConfigError(f"{len(base)} and {len(new)} runs given, expected 1 to {MOST} on each side", remedy="Choose runs in the list")
        sides = []
        for names in (base, new):
            directories = [self._catalogue.find(name) for name in names]
            for name, directory in zip(names, directories, strict=True):
                # Results that a run has not yet would be written: this page writes nothing.
                if directory is None or not (directory.path / "results.json").is_file():
                    raise ConfigError(f"run {name[:200]} is not there, or has no results yet", remedy="Compare runs that have ended")
            sides.append([directory.path for directory in directories if directory is not None])
        key = (len(base), *((str(path), (path / "results.json").stat().st_mtime_ns) for side in sides for path in side))
        if key not in self._kept:
            found = to_json(comparing.compare(*sides, allow_partial=True))
            partial = [path.name for path in (*sides[0], *sides[1]) if read(path).verdict is Verdict.PARTIAL]
            self._kept[key] = {**found, "partial": partial}
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]
