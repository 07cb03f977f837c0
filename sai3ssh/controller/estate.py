"""Who owns which objects, and what of them is done: what a lost agent leaves goes to the survivors. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..model import Intervals, Plan, StageKind
from .agentview import Agent

Json = dict[str, Any]


class Estate:
    """Ownership by population, and the ledger of all agents by stage."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._done: dict[int, dict[str, Intervals]] = {}
        self._known = {population.name for population in plan.populations}

    def record(self, record: Json) -> None:
        """A ledger record of any agent."""
        if record["population"] in self._known:
            done = self._done.setdefault(record["stage"], {}).setdefault(record["population"], Intervals())
            for lo, hi in record["ranges"]:
                done.add(lo, hi)

    def missing(self, agent: Agent, stage: int) -> dict[str, Intervals]:
        """What an agent owns and nobody has finished in a prepare or cleanup; nothing for other stages."""
        spec = self._plan.stages[stage]
        if spec.kind is StageKind.EXECUTE:
            return {}
        done = self._done.get(stage, {})
        left = {name: agent.owned.get(name, Intervals()).subtract(done.get(name, Intervals())) for name in spec.populations}
        return {name: ranges for name, ranges in left.items() if len(ranges)}

    def divide(self, lost: Agent, survivors: Sequence[Agent], stage: int) -> dict[str, Json]:
        """Survivor to {"ranges", "done"}: all that the lost agent owned, the unfinished part of it in equal shares, and what of a share
        is finished in `stage` already."""
        parts: dict[str, Json] = {agent.name: {"ranges": {}, "done": {}} for agent in survivors}
        of_stage = self._plan.stages[stage].populations if stage < len(self._plan.stages) else ()
        missing = self.missing(lost, stage) if of_stage else {}
        for name, owned in lost.owned.items():
            undone = missing.get(name, Intervals())
            finished = owned.subtract(undone)
            for agent, todo, done in zip(survivors, undone.split(len(survivors)), finished.split(len(survivors)), strict=True):
                ranges = [list(piece) for piece in (*todo, *done)]
                if ranges:
                    parts[agent.name]["ranges"][name] = ranges
                if name in of_stage and len(done):
                    parts[agent.name]["done"][name] = [list(piece) for piece in done]
        return parts
