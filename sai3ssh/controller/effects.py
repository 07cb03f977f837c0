"""What goes into a session and what comes out of it: inputs and effects, plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import Sai3sshError
from .clock import ClockOffset
from .events import Event

Json = dict[str, Any]


# --- effects ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """Append to the event log and sync."""

    event: str
    fields: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Send:
    """Send a command; its end comes back as Answered, Refused or Unanswered with the same `tag`. `submit` is completed with plan and
    credentials."""

    agent: str
    command: Json
    tag: Tag
    timeout_s: float


@dataclass(frozen=True)
class Subscribe:
    """Mirror the agent's journal from now on."""

    agent: str
    epoch: str


@dataclass(frozen=True)
class MeasureClock:
    """Measure the offset of the agent's clock; comes back as ClockMeasured, or as Unanswered."""

    agent: str
    tag: Tag


@dataclass(frozen=True)
class End:
    """The run is over; results can be written."""

    reason: str


@dataclass(frozen=True)
class TryNow:
    """Connect to the agent at once, whether or not its host seems to answer."""

    agent: str


@dataclass(frozen=True)
class Quit:
    """Another controller is in charge, or this machine cannot go on: leave without touching the agents."""

    error: Sai3sshError


@dataclass(frozen=True)
class EndLease:
    """Renew the agent's lease no more: what it owned is another's."""

    agent: str


Effect = Log | Send | Subscribe | MeasureClock | TryNow | EndLease | Quit | End


# --- inputs ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tag:
    """What a command was for."""

    purpose: str
    """submit, claim, credentials, clock, arm, commit, end, adopt, finish, stop or forget."""
    stage: int = -1
    round: int = 0


@dataclass(frozen=True)
class Answered:
    """An agent carried out a command."""

    agent: str
    tag: Tag
    ok: Json


@dataclass(frozen=True)
class Refused:
    """An agent refused a command."""

    agent: str
    tag: Tag
    error: Sai3sshError


@dataclass(frozen=True)
class Unanswered:
    """The link broke, or the deadline passed, before an answer. The command may have been carried out or not."""

    agent: str
    tag: Tag
    error: Sai3sshError


@dataclass(frozen=True)
class ClockMeasured:
    """The offset of an agent's clock."""

    agent: str
    tag: Tag
    offset: ClockOffset


@dataclass(frozen=True)
class StopRequested:
    """The operator wants the run to end."""

    reason: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Witness:
    """Whether a host that is no agent (the default gateway) answers: tells a controller that is off the network from hosts that are."""

    reached: bool


Input = Event | Witness | Answered | Refused | Unanswered | ClockMeasured | StopRequested | Tick
