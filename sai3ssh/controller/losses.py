"""How long agents have been unreachable, by the controller's own experience: rounds of the policy, LOST, and being cut off itself. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..model import FailurePolicy
from .agentview import Agent
from .policy import ROUND_S, attempts, round_delay_s

ASLEEP_S = 5.0
"""Inputs come several times a second; a longer pause was a sleep of the controller's machine, and counts against nobody."""
CUT_OFF_S = 3.0
"""A controller that has just begun, or whose links break one after the other, is not cut off yet."""


class Losses:
    """Accounts the time of every loss. `log` takes an event and its fields, `round` begins a round, `lost` gives an agent up."""

    def __init__(
        self,
        policy: FailurePolicy,
        *,
        random: Callable[[], float],
        log: Callable[..., None],
        begin_round: Callable[[Agent], None],
        lost: Callable[[Agent, str], None],
    ) -> None:
        self.cut_off_s = 0.0
        """How long, awake, the controller has reached nothing."""
        self._cut_off_since_s: float | None = None
        self._cut_off_told = False
        self.witness = False
        self._policy = policy
        self._random = random
        self._log = log
        self._begin_round = begin_round
        self._lost = lost
        self._last_s: float | None = None

    def link_lost(self, agent: Agent, now_s: float) -> None:
        """A loss begins."""
        agent.lost_since_s, agent.down_s, agent.rounds, agent.round_began_s = now_s, 0.0, 0, 0.0
        limit = attempts(self._policy)
        if limit is None or limit > 0:
            agent.round_due_s = round_delay_s(self._policy, 1, self._random)

    def advance(self, agents: Iterable[Agent], now_s: float) -> None:
        """Time has passed."""
        passed_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        known = list(agents)
        watched = [agent for agent in known if agent.reachable and not agent.complete and not agent.out]
        # Whoever has finished, or was given up and is back, shows that we are on the network as well.
        reached = self.witness or any(agent.linked for agent in known) or not watched
        self._note_cut_off(watched, reached, now_s)
        if passed_s > ASLEEP_S:
            self._log("slept", seconds=round(passed_s, 1))
            return
        if not reached:
            self.cut_off_s += passed_s
            return
        self.cut_off_s = 0.0
        for agent in watched:
            if agent.lost_since_s is not None:
                agent.down_s += min(passed_s, now_s - agent.lost_since_s)
                self._judge(agent)

    def _note_cut_off(self, watched: list[Agent], reached: bool, now_s: float) -> None:
        away = watched and all(agent.lost_since_s is not None for agent in watched)
        if away and not reached:
            if self._cut_off_since_s is None:
                self._cut_off_since_s = now_s
            if not self._cut_off_told and now_s - self._cut_off_since_s >= CUT_OFF_S:
                self._cut_off_told = True
                self._log("cut_off")
        elif reached and self._cut_off_since_s is not None:
            if self._cut_off_told:
                self._log("cut_off_over", seconds=round(now_s - self._cut_off_since_s, 3))
            self._cut_off_since_s, self._cut_off_told = None, False

    def _judge(self, agent: Agent) -> None:
        policy, limit = self._policy, attempts(self._policy)
        if agent.down_s >= policy.reconnect_timeout_s:
            self._lost(agent, f"not reached for {agent.down_s:.0f} s (reconnect_timeout)")
        elif agent.down_s >= agent.round_due_s:
            if limit is not None and agent.rounds >= limit:
                self._lost(agent, f"not reached in {agent.rounds} of {limit} rounds, {agent.down_s:.0f} s (agent_retry_attempts)")
                return
            agent.rounds += 1
            waited_s = round(agent.down_s - agent.round_began_s, 3)
            agent.round_began_s = agent.down_s
            self._log("policy_round", agent=agent.name, round=agent.rounds, delay_s=waited_s, down_s=round(agent.down_s, 3))
            self._begin_round(agent)
            last = limit is not None and agent.rounds == limit
            agent.round_due_s = agent.down_s + (ROUND_S if last else round_delay_s(policy, agent.rounds + 1, self._random))
