"""What a link reports. `at` is in seconds of the controller's own clock (clock.clock_s, which counts while it sleeps), not wall time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import Permanent, Sai3sshError, Transient
from ..model import Outcome


@dataclass(frozen=True)
class Event:
    """Something that a link saw of its agent."""

    agent: str
    at: float


@dataclass(frozen=True)
class LinkUp(Event):
    """The agent answers, and its journal flows again from `resumed_offset` when a run is followed."""

    attempt: int
    """Connection attempts this time, from 1."""
    down_s: float
    """Since the loss, or since start for the first connection."""
    resumed_offset: int
    hello: dict[str, Any] = field(default_factory=dict)

    @property
    def boot(self) -> str:
        """The boot id of the host."""
        return str(self.hello.get("boot", ""))


@dataclass(frozen=True)
class LinkDown(Event):
    """The connection broke or went silent; the link is reconnecting."""

    cause: Transient


@dataclass(frozen=True)
class LinkFailed(Event):
    """An error that reconnecting cannot help; the link has ended."""

    error: Permanent


@dataclass(frozen=True)
class LinkGivenUp(Event):
    """The link did not come (back) within its time and has ended."""

    attempt: int
    down_s: float
    cause: Sai3sshError
    """What the last attempt met."""


@dataclass(frozen=True)
class Heartbeat(Event):
    """The supervisor's heartbeat, as ARCHITECTURE.md lists its fields."""

    body: dict[str, Any]


@dataclass(frozen=True)
class Records(Event):
    """Whole journal records that have just entered the mirror, in order."""

    records: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class JournalComplete(Event):
    """The mirror is the whole journal: size and SHA-256 agree."""

    size: int
    sha256: str
    outcome: Outcome
