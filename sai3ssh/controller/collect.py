"""Fetching what is missing of journals once a run is over, without steering anybody."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import LinkLost, Sai3sshError
from ..model import Host
from .eventlog import EventLog
from .events import Event, Heartbeat, JournalComplete, LinkDown, LinkFailed, LinkGivenUp, LinkUp, Records
from .link import Link, LinkOptions, Subscription
from .mirror import Mirror
from .rundir import RunDirectory

IDLE_S = 30.0
"""A journal of which nothing comes for so long, though the link is up, will not become whole now."""


@dataclass(frozen=True)
class Fetched:
    """What became of one agent's journal."""

    agent: str
    whole: bool
    bytes: int
    """New ones."""
    state: str
    """What its heartbeat said last; empty without one."""
    error: Sai3sshError | None


def collect(directory: RunDirectory, missing: Sequence[tuple[str, Host]], bundle: Path, connect_timeout_s: float) -> list[Fetched]:
    """Fetches the journals of these agents as far as they go, all at once; logs each that is whole. An agent that still runs goes on."""
    log = EventLog(directory.events)
    try:
        with ThreadPoolExecutor(max_workers=max(1, len(missing)), thread_name_prefix="collect") as pool:
            found = list(pool.map(lambda one: _fetch(directory, one[0], one[1], bundle, connect_timeout_s, log), missing))
    finally:
        log.close()
    return found


def _fetch(directory: RunDirectory, agent: str, host: Host, bundle: Path, connect_timeout_s: float, log: EventLog) -> Fetched:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with Mirror(directory.mirror(agent)) as mirror:
        before = mirror.size
        subscription = Subscription(directory.path.name, agent, mirror.epoch)
        options = LinkOptions(first_connect_timeout_s=connect_timeout_s, reconnect_timeout_s=connect_timeout_s)
        link = Link(host, mirror, events.put, bundle=bundle, agent=agent, subscription=subscription, options=options)
        link.start()
        state, error, whole = "", None, False
        try:
            state, complete, error = _follow(events, mirror, connect_timeout_s)
            whole = complete is not None
            if complete is not None:
                log.append(
                    "journal_complete", agent=agent, size=complete.size, sha256=complete.sha256, outcome=complete.outcome.value, late=True
                )
        finally:
            link.stop()
        return Fetched(agent, whole, mirror.size - before, state, error)


def _follow(
    events: queue.SimpleQueue[Event], mirror: Mirror, connect_timeout_s: float
) -> tuple[str, JournalComplete | None, Sai3sshError | None]:
    """Until the journal is whole, all that an agent has committed so far is here, or nothing comes any more."""
    state, error = "", None
    deadline = time.monotonic() + connect_timeout_s + IDLE_S
    while time.monotonic() < deadline:
        try:
            event = events.get(timeout=1.0)
        except queue.Empty:
            continue
        match event:
            case JournalComplete():
                return state, event, None
            case LinkFailed():
                return state, None, event.error
            case LinkGivenUp():
                return state, None, event.cause
            case LinkUp() | Records():
                deadline = time.monotonic() + IDLE_S
            case LinkDown():
                error = event.cause
                deadline = time.monotonic() + connect_timeout_s + IDLE_S
            case Heartbeat():
                state = str(event.body.get("state", ""))
                if mirror.size >= event.body.get("committed", 0) and state not in ("FINISHED", "STOPPED", "FAILED"):
                    return state, None, None
    return state, None, error or LinkLost(f"nothing more of its journal came within {IDLE_S:.0f} s")
