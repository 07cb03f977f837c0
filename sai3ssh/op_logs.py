"""Fetching op-logs when a run is over: after its verdict, which does not depend on them."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .controller.eventlog import EventLog
from .controller.oplog import OpLogFetch
from .controller.rundir import Contents, RunDirectory
from .errors import Sai3sshError
from .model import Host
from .oplog import TABLE
from .results.oplog import convert

AT_ONCE = 16
PARTS = "oplog.parts"
"""Where an agent's segments are until its table is written."""


def fetch(directory: RunDirectory, archive: Path, say: Callable[[str], None]) -> list[str]:
    """Fetches each op-log of a run that is not here yet, writes its table and logs what became of it. Returns the agents whose were wanted.

    What goes wrong is an event, no exception: the results tell of it, and another call goes on where this one ended. Ctrl-C ends it.
    """
    contents = directory.contents()
    if contents.plan.op_log_bytes is None:
        return []
    history = directory.history()
    here = {event["agent"] for event in history if event["event"] == "op_log" and event["records"] is not None}
    whole = {event["agent"] for event in history if event["event"] == "journal_complete"}
    hosts = _hosts(contents)
    wanted = [agent for agent in hosts if agent not in here]
    if not wanted:
        return []
    say(f"fetching the op-logs of {len(wanted)} agents (Ctrl-C leaves them to `sai3ssh collect {directory.path.name}`)")
    log = EventLog(directory.events)
    with _until_interrupted() as stop, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="op-log") as pool:
        fetched = {
            agent: pool.submit(
                OpLogFetch(
                    hosts[agent],
                    directory.path.name,
                    agent,
                    directory.path / "agents" / agent / PARTS,
                    archive,
                    most_bytes=contents.plan.op_log_bytes,
                    patience_s=contents.steering.connect_timeout_s,
                    stop=stop,
                ).run
            )
            for agent in wanted
            if agent in whole
        }
        for agent in wanted:
            found: dict[str, Any] = {"records": None, "bytes": None, "damaged": 0}
            try:
                if agent in fetched:
                    found = _table(directory, agent, fetched[agent].result(), stop)
                    error = None
                else:
                    error = "its journal is not whole"
            except (Sai3sshError, OSError) as failed:
                error = str(failed)
            log.append("op_log", agent=agent, **found, error=error)
    log.close()
    return wanted


def _hosts(contents: Contents) -> dict[str, Host]:
    return {assignment.agent_id: host for assignment, host in zip(contents.assignments, contents.hosts, strict=True)}


def _table(directory: RunDirectory, agent: str, segments: list[Path], stop: threading.Event) -> dict[str, Any]:
    place = directory.path / "agents" / agent
    done = convert(segments, agent, place / TABLE, stop=stop.is_set)
    # The last ones first: of what is left by a controller that is killed meanwhile, none is missing in between.
    for path in reversed(segments):
        path.unlink()
    shutil.rmtree(place / PARTS)
    return {"records": done.records, "bytes": (place / TABLE).stat().st_size, "damaged": done.damaged}


@contextmanager
def _until_interrupted() -> Iterator[threading.Event]:
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def as_json(directory: RunDirectory, agents: list[str]) -> list[str]:
    """The last event of each agent's op-log, a line each."""
    last = {event["agent"]: event for event in directory.history() if event["event"] == "op_log"}
    return [json.dumps(last[agent]) for agent in agents]
