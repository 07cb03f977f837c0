"""What a run does when links break and agents are gone. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable

from ..model import FailurePolicy

ROUND_S = 10.0
"""How long a round gives a host to answer."""
JITTER = 0.25


class Decision(enum.Enum):
    """What follows from an agent that failed or was given up."""

    ABORT = "stop all agents, the run has failed"
    GO_ON = "the others go on, the run is partial"


def on_agent_gone(policy: FailurePolicy, remaining: int, total: int) -> tuple[Decision, str]:
    """Whether the run goes on with `remaining` of `total` agents, and why not."""
    if not policy.survives:
        return Decision.ABORT, f"failure_policy {policy.name} needs every agent"
    if remaining < policy.min_agents:
        return Decision.ABORT, f"{remaining} of {total} agents are left, min_agents_required is {policy.min_agents}"
    if policy.name == "continue_if_majority" and 2 * remaining <= total:
        return Decision.ABORT, f"{remaining} of {total} agents are left, which is no majority (continue_if_majority)"
    if remaining == 0:
        return Decision.ABORT, "no agent is left"
    return Decision.GO_ON, ""


def round_delay_s(policy: FailurePolicy, number: int, random: Callable[[], float]) -> float:
    """The delay before round `number` (from 1) of a loss: exponential, capped, with jitter."""
    delay = min(policy.max_delay_s, policy.delay_s * 2.0 ** min(number - 1, 30))
    return delay * (1 + JITTER * (2 * random() - 1))


def attempts(policy: FailurePolicy) -> int | None:
    """Rounds after a loss before an agent is LOST; None: no limit but the time."""
    return {"fail_fast": 0, "retry_once": 1}.get(policy.name, policy.attempts)
