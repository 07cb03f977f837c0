"""Watching a run that another process steers: its event log and its mirrors, read as they grow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import LinkLost
from ..model import Assignment, Plan, StageKind
from ..protocol import Json, ProtocolError, decode_record
from .events import Event, Heartbeat, LinkDown, LinkUp, Records
from .run import Observer
from .rundir import RunDirectory

POLL_S = 0.2


class Tail:
    """A file of lines that grows. What is not a whole line yet is left alone: its writer may still take it back."""

    def __init__(self, path: Path, *, from_end: bool) -> None:
        self._path = path
        self._offset: int | None = None if from_end else 0
        self._inside = False
        """Whether the offset lies within a line."""

    def lines(self) -> Iterator[bytes]:
        """The whole lines that are new; from the end: none of those that had begun at the first call."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if self._offset is None or size < self._offset:
                    self._offset = size
                    file.seek(max(0, size - 1))
                    self._inside = file.read(1) not in (b"", b"\n")
                file.seek(self._offset)
                data = file.read(size - self._offset)
        except FileNotFoundError:
            self._offset = 0
            return
        end = data.rfind(b"\n") + 1
        self._offset += end
        for line in data[:end].splitlines(keepends=True):
            if not self._inside:
                yield line
            self._inside = False


class Watch:
    """Feeds observers what the run's own controller feeds its own; reads only."""

    def __init__(self, directory: RunDirectory, plan: Plan, assignments: Sequence[Assignment], observers: Sequence[Observer]) -> None:
        self._directory = directory
        self._plan = plan
        self._observers = observers
        self._events = Tail(directory.events, from_end=False)
        self._mirrors = {a.agent_id: Tail(directory.mirror(a.agent_id), from_end=True) for a in assignments}
        self._owned = {a.agent_id: {name: sum(hi - lo for lo, hi in ranges) for name, ranges in a.ranges.items()} for a in assignments}

    def run(self, until: Callable[[Json], bool], leave: Callable[[], bool], patience_s: float = 10.0) -> Json | None:
        """Returns the event for which `until` is true, or the last one when no controller has had the run for so long; None when left."""
        alone_since: float | None = None
        last: Json | None = None
        while not leave():
            for line in self._mirror_lines():
                self._tell(line)
            for event in self._new_events():
                last = event
                if until(event):
                    return event
            if self._directory.controller() is not None:
                alone_since = None
            else:
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > patience_s:
                    return last
            for observer in self._observers:
                observer.on_tick()
            time.sleep(POLL_S)
        return None

    def _new_events(self) -> Iterator[Json]:
        for line in self._events.lines():
            event: Json = json.loads(line)
            self._tell(_link_event(event))
            for observer in self._observers:
                observer.on_log(event)
            yield event

    def _mirror_lines(self) -> Iterator[Event]:
        for agent, tail in self._mirrors.items():
            records = []
            for line in tail.lines():
                try:
                    records.append(decode_record(line))
                except (ProtocolError, ValueError):
                    continue  # the first one may be cut off at its beginning
            if records:
                yield Records(agent, 0.0, tuple(records))
                seconds = [record for record in records if record["kind"] == "sec"]
                if seconds:
                    yield Heartbeat(agent, 0.0, self._progress(agent, seconds[-1]))

    def _progress(self, agent: str, record: Json) -> Json:
        """What the agent's heartbeat would say of its progress."""
        stage = self._plan.stages[record["stage"]]
        planned = 0 if stage.kind is StageKind.EXECUTE else sum(self._owned[agent].get(name, 0) for name in stage.populations)
        return {"stage": record["stage"], "done": record["done"], "planned": planned}

    def _tell(self, event: Event | None) -> None:
        if event is not None:
            for observer in self._observers:
                observer.on_event(event)


def _link_event(event: Json) -> Event | None:
    match event["event"]:
        case "link_up":
            return LinkUp(event["agent"], 0.0, event["attempt"], event["down_s"], event["resumed_offset"])
        case "link_down":
            return LinkDown(event["agent"], 0.0, LinkLost(event["cause"]))
    return None
