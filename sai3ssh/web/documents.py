"""The documents of runs (report/document.py) for the page: of one that has ended made once, of one that goes on made of what has come
since, and not more often than this machine can afford."""

from __future__ import annotations

import contextlib
import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ..controller.rundir import RunDirectory
from ..errors import ConfigError
from ..protocol import Json
from ..report.document import compose, document
from ..report.windows import Windows
from ..results.journal import UNLIKE_OURS, JournalReader, decode
from ..results.merge import inputs_at_first
from ..results.steady import leave_out_what_is_late
from .catalogue import Catalogue, stamp_of
from .lines import Lines
from .prepared import Prepared, prepare_json

KEPT = 8
"""Documents of runs that have ended."""
FOLLOWED = 4
"""Runs that go on, whose records are held in memory."""
LEAST_S = 1.0
MOST_BYTES = 1 << 30
"""Journals of a run that is held in memory: about as many agent-seconds as KiB, and of each as much memory."""
SHARE = 4
"""A document that took a second to make is not made anew for so many."""


class Growing:
    """What a run directory holds, read as it grows; nothing is read twice."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._start_delay_s = directory.contents().steering.start_delay_s
        self._begin()

    def _begin(self) -> None:
        self._inputs = inputs_at_first(self._directory.path)
        self._windows = Windows()
        self._events = Lines(self._directory.events)
        self._readers = {agent: JournalReader(agent, self._windows.take) for agent in self._inputs.agents}
        self._mirrors = {agent: Lines(self._directory.mirror(agent)) for agent in self._inputs.agents}

    def document(self, now: float) -> Json:
        """The run as it is now."""
        if self._events.replaced or any(lines.replaced for lines in self._mirrors.values()):
            self._begin()
        # Mirrors first: an event that says that a journal is whole is later than its records.
        for agent_id, lines in self._mirrors.items():
            reader = self._readers[agent_id]
            try:
                for line in lines.new() if not reader.agent.torn else ():
                    reader.take(decode(line))
            except UNLIKE_OURS:
                reader.agent.torn = True
            # Where what came before it is spoiled, too, what was shown last stays.
            with contextlib.suppress(*UNLIKE_OURS):
                self._inputs.agents[agent_id] = reader.result()
        self._inputs.events += [json.loads(line) for line in self._events.new()]
        self._inputs.known.clear()
        leave_out_what_is_late(self._inputs.plan, self._inputs.agents)
        return compose(self._inputs, self._windows, start_delay_s=self._start_delay_s, now=now)


@dataclass
class _Followed:
    growing: Growing
    made: Prepared | None = None
    next_s: float = 0.0
    """Not made anew before."""


class Documents:
    """The documents that were asked for last. For one thread."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._ended: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
        self._followed: OrderedDict[str, _Followed] = OrderedDict()

    def of(self, run_id: str) -> Prepared | None:
        """The document of a run; None when there is no such run. Raises what reading it raises."""
        directory = self._catalogue.find(run_id)
        if directory is None:
            return None
        stamp = (run_id, *stamp_of(directory.path))
        if self._catalogue.has_ended(directory):
            self._followed.pop(run_id, None)
            if stamp not in self._ended:
                self._ended[stamp] = prepare_json(document(directory.path))
            self._ended.move_to_end(stamp)
            while len(self._ended) > KEPT:
                self._ended.popitem(last=False)
            return self._ended[stamp]
        if run_id not in self._followed:
            size = sum(path.stat().st_size for path in (directory.path / "agents").glob("*/journal.ndjson"))
            if size > MOST_BYTES:
                raise ConfigError(
                    f"run {run_id} has {size >> 20:,} MiB of journals: its plots are not drawn while it goes on",
                    remedy="They are when it has ended; /metrics tells it meanwhile",
                )
            self._followed[run_id] = _Followed(Growing(directory))
            while len(self._followed) > FOLLOWED:
                self._followed.popitem(last=False)
        self._followed.move_to_end(run_id)
        return self._grown(self._followed[run_id])

    def _grown(self, run: _Followed) -> Prepared:
        begun_s = time.monotonic()
        if run.made is None or begun_s >= run.next_s:
            run.made = prepare_json(run.growing.document(time.time()))
            took_s = time.monotonic() - begun_s
            run.next_s = begun_s + max(LEAST_S, (1 + SHARE) * took_s)
        return run.made
