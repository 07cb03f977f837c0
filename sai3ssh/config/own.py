"""What entries of distributed.agents have of their own: concurrency, target, a prefix for what they put, environment variables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..model import Host, OperationSpec, Own, Population, Stage, StageKind
from .document import Path_, Problems
from .schema import AgentKeys, WorkloadKeys

_SECRET = re.compile(r"SECRET|PASSW|TOKEN|CREDENTIAL|ACCESS_KEY|(^|_)KEY(_ID)?$|CONNECTION_STRING|SIGNATURE|(^|_)SAS(_|$)", re.IGNORECASE)
_PLACE = re.compile(r"_(FILE|PATH|DIR)$|^GOOGLE_APPLICATION_CREDENTIALS$", re.IGNORECASE)
"""Where a secret is, and not the secret itself."""
_NAMING = ("put", "mkdir", "rmdir")
"""What a path_template moves; lists of the same places go with it. Prepared objects are one set for all agents."""


def check_own(keys: WorkloadKeys, base: str | None, problems: Problems) -> None:
    """Notes what makes no sense."""
    for n, agent in enumerate(keys.distributed.agents):
        where: Path_ = ("distributed", "agents", n)
        for name in agent.env:
            if _SECRET.search(name) and not _PLACE.search(name):
                text = f"{name} may be a secret, and plans are files: set it in the agent's own environment on the host"
                text += ", or use the operator's (AWS_ACCESS_KEY_ID ...), which reaches agents in memory"
                problems.add((*where, "env", name), text)
        if agent.target_override is None:
            continue
        if base is None:
            problems.add((*where, "target_override"), "target_override is instead of target, and there is none; set target")
        elif agent.target_override.partition("://")[0] != base.partition("://")[0]:
            text = f"one run has one kind of target; found {agent.target_override} beside {base}; run them one after the other"
            problems.add((*where, "target_override"), text)
    templates = [keys.distributed.path_template, *(agent.path_template for agent in keys.distributed.agents)]
    if any(templates) and keys.dynamic_put_pool:
        text = "path_template contradicts dynamic_put_pool: gets read where everybody reads, and puts are elsewhere; remove one of them"
        problems.add(("dynamic_put_pool",), text)


class Owner:
    """Makes what agents have of their own, once the rest of the plan is made."""

    def __init__(
        self, keys: WorkloadKeys, base: str | None, populations: Sequence[Population], mix: Sequence[OperationSpec], stages: Sequence[Stage]
    ) -> None:
        self._keys = keys
        self._base = (base or "").rstrip("/") + "/"
        self._populations, self._mix, self._stages = populations, mix, stages
        self._named = tuple(op.target for op in mix if op.kind in _NAMING)

    def all(self, hosts: Sequence[Host]) -> tuple[Own, ...]:
        """Of each of the hosts, which are in the order of distributed.agents; empty where none has anything."""
        entries: Sequence[AgentKeys | None] = self._keys.distributed.agents or [None] * len(hosts)
        found = tuple(self._own(entry, host) for entry, host in zip(entries, hosts, strict=True))
        return found if any(own != Own() for own in found) else ()

    def _own(self, entry: AgentKeys | None, host: Host) -> Own:
        template = self._keys.distributed.path_template
        if entry is None and template is None:
            return Own()
        override = entry.target_override if entry is not None else None
        template = (entry.path_template if entry is not None else None) or template
        prefix = "" if template is None else template.replace("{id}", (entry.id if entry is not None else None) or host.name)
        operations = tuple(self._moved(op.target, override, prefix if self._is_named(op) else "") for op in self._mix)
        return Own(
            self._concurrency(entry.concurrency_override if entry is not None else None),
            () if override is None else tuple(self._moved(p.target, override, "") for p in self._populations),
            operations if operations != tuple(op.target for op in self._mix) else (),
            dict(entry.env) if entry is not None else {},
        )

    def _is_named(self, op: OperationSpec) -> bool:
        return op.kind in _NAMING or (op.kind == "list" and op.target.startswith(self._named or ("\0",)))

    def _moved(self, uri: str, override: str | None, prefix: str) -> str:
        """A URI below the target, or one that was given as a whole, where it is for this agent."""
        below = uri.startswith(self._base)
        if not below and not prefix:
            return uri
        base = self._base if below else uri
        rest = uri[len(base) :]
        return (override.rstrip("/") + "/" if override is not None and below else base) + prefix + rest

    def _concurrency(self, override: int | None) -> tuple[int, ...]:
        if override is None:
            return ()
        own = [op.concurrency for op in self._mix if op.weight]
        # As of the whole plan: no more than all operations may have in flight.
        execute = min(override, sum(n or override for n in own)) if own else override
        return tuple(execute if stage.kind is StageKind.EXECUTE else override for stage in self._stages)
