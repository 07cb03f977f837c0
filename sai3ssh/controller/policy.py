"""What a run does when an agent is gone. Pure."""

from __future__ import annotations

import enum


class Decision(enum.Enum):
    """What follows from an agent that failed or was given up."""

    ABORT = "stop all agents, the run has failed"


def on_agent_gone() -> Decision:
    """The default policy (retry): links are rebuilt until the reconnect timeout; an agent that is gone for good ends the run."""
    return Decision.ABORT
