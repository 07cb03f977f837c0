"""What lost agents owned goes to the survivors. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..model import Intervals, Plan
from .agentview import Agent
from .course import Course
from .effects import Json
from .estate import Estate


class Reassignment:
    """Gives away what lost agents owned, in numbered batches; each survivor adopts its part of a batch at a barrier."""

    def __init__(self, plan: Plan, agents: dict[str, Agent], log: Callable[..., None]) -> None:
        self._plan = plan
        self._agents = agents
        self._log = log
        self._estate = Estate(plan)
        self._orphaned: list[str] = []
        """Agents that are gone and whose objects have no owner yet."""
        self._batch = 0
        self._gifts: dict[str, list[Json]] = {}
        """By agent, what it was given and has not confirmed."""
        self._again = False
        self._parts: set[tuple[str, int]] = set()
        """Agent and number of all that was ever given away."""

    def adopted(self, agent: Agent, record: Json) -> None:
        """An agent has adopted something. What the log does not know of was given by a controller whose log is lost."""
        if (agent.name, record["number"]) not in self._parts:
            part = {name: record[name] for name in ("number", "from", "stage", "ranges", "done")}
            again = agent.ended >= record["stage"]
            given = {
                "number": record["number"],
                "stage": record["stage"],
                "again": again,
                "lost": record["from"],
                "parts": {agent.name: part},
            }
            self._log("reassigned", **given)
            self.hand_over(given)

    def record(self, record: Json) -> None:
        """A ledger record of any agent."""
        self._estate.record(record)

    def gone(self, agent: Agent) -> None:
        """The run goes on without an agent."""
        self._orphaned.append(agent.name)

    def give_away(self, course: Course, survivors: Sequence[Agent]) -> bool:
        """At a barrier: gives what the agents that are gone owned to the survivors. True when that is of the stage that comes next, which
        may be armed already."""
        orphaned, self._orphaned = [self._agents[name] for name in self._orphaned], []
        lost = [agent for agent in orphaned if any(len(ranges) for ranges in agent.owned.values())]
        if not lost or not self._plan.policy.reassign:
            return False
        ended = course.commit_logged
        again = ended and any(self._estate.missing(agent, course.stage) for agent in lost)
        stage = course.stage if again or not ended else course.stage + 1
        parts: dict[str, Json] = {
            agent.name: {"number": self._batch + 1, "stage": stage, "from": [], "ranges": {}, "done": {}} for agent in survivors
        }
        for agent in lost:
            for name, part in self._estate.divide(agent, survivors, stage).items():
                mine = parts[name]
                mine["from"].append(agent.name)
                for kind in ("ranges", "done"):
                    for population, pieces in part[kind].items():
                        mine[kind].setdefault(population, []).extend(pieces)
        given = {"number": self._batch + 1, "stage": stage, "again": again, "lost": [agent.name for agent in lost], "parts": parts}
        self._log("reassigned", **given)
        self.hand_over(given)
        return not ended

    def hand_over(self, given: Json) -> None:
        """Ownership changes as a `reassigned` event says."""
        self._batch = max(self._batch, given["number"])
        self._parts |= {(name, given["number"]) for name in given["parts"]}
        self._again = self._again or given["again"]
        for name, gift in given["parts"].items():
            self._gifts.setdefault(name, []).append(gift)
            for population, pieces in gift["ranges"].items():
                for agent in self._agents.values():
                    agent.owned[population] = agent.owned.get(population, Intervals()).subtract(Intervals(pieces))
                for lo, hi in pieces:
                    self._agents[name].owned[population].add(lo, hi)
        # In a log that was made from journals, what nobody had adopted yet is missing: it is given away again.
        self._orphaned = list(dict.fromkeys([*self._orphaned, *given["lost"]]))

    def gift(self, agent: Agent) -> Json | None:
        """What an agent is to adopt next; None when it has confirmed all."""
        gifts = self._gifts[agent.name] = [gift for gift in self._gifts.get(agent.name, []) if gift["number"] > agent.adopted]
        return gifts[0] if gifts else None

    def take_again(self) -> bool:
        """Whether the stage that has ended must be opened again for what was given away; True once."""
        again, self._again = self._again, False
        return again
