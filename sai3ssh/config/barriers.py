"""barrier_sync and a stage's barrier, keys of sai3-bench: barriers are always there, and what a loss means is failure_policy."""

from __future__ import annotations

from collections.abc import Iterator

from .document import Path_
from .schema import PhaseBarrier, WorkloadKeys

PHASES = ("validation", "prepare", "execute", "cleanup")
POLICIES = {
    "all_or_nothing": ("retry", "retry_once", "fail_fast"),
    "majority": ("continue_if_majority",),
    "best_effort": ("best_effort",),
}
"""The failure policies that each type of barrier allows, the first of which it stands for; the strictest type first."""
_TUNING = ("heartbeat_interval", "missed_threshold", "query_timeout", "query_retries")


class Barriers:
    """What a file says of them."""

    def __init__(self, keys: WorkloadKeys) -> None:
        self._keys = keys
        sync = keys.distributed.barrier_sync
        where: Path_ = ("distributed", "barrier_sync")
        self.given: list[tuple[Path_, PhaseBarrier]] = []
        """The barriers that are in force, with their places."""
        if sync.enabled:
            phases = [(phase, getattr(sync, phase)) for phase in PHASES]
            self.given += [((*where, phase), barrier) for phase, barrier in phases if barrier is not None]
        at: Path_ = ("stages",) if keys.stages else ("distributed", "stages")
        stages = keys.stages or keys.distributed.stages
        self.given += [((*at, n, "barrier"), stage.barrier) for n, stage in enumerate(stages) if stage.barrier is not None]

    @property
    def agent_barrier_timeout_s(self) -> float | None:
        """The longest of those that are given."""
        return max((b.agent_barrier_timeout for _, b in self.given if b.agent_barrier_timeout is not None), default=None)

    @property
    def types(self) -> list[str]:
        """Each type that is given, the strictest first."""
        found = {barrier.type for _, barrier in self.given}
        return [name for name in POLICIES if name in found]

    def policy(self, agents: int) -> str | None:
        """The failure policy that they ask for; None where they ask for none."""
        if not self.types:
            return None
        # Of two agents, a majority is both.
        return POLICIES["all_or_nothing" if self.types[0] == "majority" and agents < 3 else self.types[0]][0]

    def contradiction(self, policy: str) -> tuple[Path_, str] | None:
        """Why a failure policy is another than all barriers ask for."""
        if len(self.types) != 1 or policy in POLICIES[self.types[0]]:
            return None
        text = f"barriers of type {self.types[0]} contradict failure_policy {policy}: write failure_policy: {POLICIES[self.types[0]][0]}"
        return self.given[0][0], f"{text}, or remove the type"

    def notices(self) -> Iterator[tuple[Path_, str]]:
        """What has no effect here."""
        distributed = self._keys.distributed
        sync, where = distributed.barrier_sync, ("distributed", "barrier_sync")
        if "barrier_sync" in distributed.model_fields_set and not sync.enabled:
            yield where, "barrier_sync: agents begin every stage together, whether it is enabled or not"
        if len(self.types) > 1:
            policy = distributed.failure_policy if "failure_policy" in distributed.model_fields_set else POLICIES[self.types[0]][0]
            text = f"barriers are of types {' and '.join(self.types)}, but one failure_policy holds for the whole run: {policy}"
            yield self.given[0][0], text
        found = sorted({name for _, barrier in self.given for name in _TUNING if name in barrier.model_fields_set})
        found += sorted(sync.model_fields_set - {"enabled", *PHASES}) if sync.enabled else []
        if found:
            text = (
                f"{', '.join(found)} of barriers: no effect; an agent whose link is silent for three distributed.heartbeat_interval (1 s) "
                "is reconnected to, for distributed.reconnect_timeout"
            )
            yield self.given[0][0] if self.given else where, text
