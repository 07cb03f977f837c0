"""What the controller knows of one agent."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import Sai3sshError
from ..model import AgentState, Assignment, Intervals, Outcome
from .clock import ClockOffset
from .effects import Tag


@dataclass
class Agent:
    """The session's view of one agent. Times are of the controller's clock."""

    assignment: Assignment
    state: AgentState = AgentState.CONNECTING
    up: bool = False
    up_since_s: float = 0.0
    """Since when it could have been heard: since its link came up, or this machine awoke."""
    reachable: bool = True
    """False once the link has ended for good."""
    heard_at_s: float = 0.0
    """Last records of its journal."""
    answered_at_s: float = 0.0
    """Last answer to a command."""
    done: int = 0
    """Objects of a prepare or cleanup, by its heartbeats, and when that number last changed."""
    progress_at_s: float = 0.0
    submitted_at_s: float | None = None
    submitting: bool = False
    epoch: str | None = None
    """Answer of submit; None before."""
    offset: ClockOffset | None = None
    asked: set[Tag] = field(default_factory=set)
    """Commands under way, or put off."""
    again_at_s: dict[Tag, float] = field(default_factory=dict)
    """When those that are put off may be asked again."""
    armed: bool = False
    committed: bool = False
    told_end: bool = False
    """It knows that the stage ends before its duration, and since when that is known here."""
    told_end_at_s: float = 0.0
    started: int = -1
    """Last stage that it has begun, and ended."""
    ended: int = -1
    outcome: Outcome | None = None
    reason: str = ""
    refusal: Sai3sshError | None = None
    """What it said to an ARM or COMMIT of the current round."""
    refused_at_s: float = 0.0
    error: Sai3sshError | None = None
    complete: bool = False
    """The mirror is the whole journal."""
    stopped: bool = False
    """It has confirmed a stop, or has ended by itself."""
    stop_refused: bool = False
    forgotten: bool = False
    out: bool = False
    """The run goes on without it."""
    gone_at_s: float = 0.0
    """When it was given up."""
    fenced: bool = False
    """It is gone, and its lease is over: it writes no more."""
    leased_s: float = 0.0
    """No lease of it began later: not by its link, when that was last known to be up, nor by the start of a stage."""
    linked: bool = False
    """Its link is up; `up` only once this controller is in charge of it as well."""
    claimed: bool = True
    settled: bool = True
    """All that it did for another controller is known: its journal has told of the claim that ended that."""
    follows: str = ""
    """The other controller that claimed it from this one, as it said last."""
    claim_waits: bool = False
    """Whether it was told that another controller may still be alive."""
    generation: int = 1
    lost_since_s: float | None = None
    """When its link broke; None while it is up or was never up."""
    down_s: float = 0.0
    """How long it has been unreachable, not counting time in which the controller slept or reached nobody."""
    rounds: int = 0
    """Policy rounds of the present loss, and the downtime at which the next one, or the end of the last one, is due."""
    round_due_s: float = 0.0
    round_began_s: float = 0.0
    owned: dict[str, Intervals] = field(default_factory=dict)
    """What it owns of each population, with what it was given of lost agents."""
    adopted: int = 0
    """The last adoption that it has confirmed."""
    offered_at_s: float | None = None
    """Since when it is to adopt something."""

    def __post_init__(self) -> None:
        self.owned = {name: Intervals(ranges) for name, ranges in self.assignment.ranges.items()}

    @property
    def name(self) -> str:
        """Its agent id."""
        return self.assignment.agent_id

    def overdue(self, now_s: float, since_s: float, timeout_s: float) -> bool:
        """Whether so much time has passed since then with its link up all the while: what a link costs is never charged to the agent."""
        return self.up and now_s - max(since_s, self.up_since_s) > timeout_s

    def put_off(self, tag: Tag, until_s: float) -> None:
        """A command is not to be asked again before then."""
        self.asked.add(tag)
        self.again_at_s[tag] = until_s

    def ask_again(self, now_s: float) -> None:
        """What was put off until now may be asked."""
        if not self.again_at_s:
            return
        for tag in [tag for tag, at_s in self.again_at_s.items() if now_s >= at_s]:
            del self.again_at_s[tag]
            self.asked.discard(tag)
