"""What a plan asks of each host, for the agent's checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .. import dataset
from ..agent.details import Layout
from ..agent.engines.spread import mapped
from ..model import Assignment, Plan, StageKind

UNKNOWN_S = 600.0
"""A stage without a duration is budgeted with this, here as in the agent."""
SPARE_FILES = 64
WORKER_BYTES, OPERATION_BYTES, DIRECT_BYTES = 48 << 20, 256 << 10, 1 << 20
"""Memory of a worker process, and of an operation in flight, the last past the page cache."""


def journal_bytes(plan: Plan) -> int:
    """What the journal of one agent reserves."""
    return int(sum(stage.duration_s or UNKNOWN_S for stage in plan.stages) * plan.journal_bytes_per_s) + 65536


def open_files(plan: Plan) -> int:
    """The most that one process of an agent has open; each endpoint may have had all operations, and keeps their connections."""
    spreads = max((len(spread.positions) for spread in plan.spreads), default=1) if plan.target.engine != "file" else 1
    most = max(stage.concurrency for stage in plan.stages) * spreads
    return math.ceil(most / max(1, plan.workers)) * plan.target.connections_per_operation + SPARE_FILES


def memory_bytes(plan: Plan) -> int:
    """What an agent needs, roughly."""
    most = max(stage.concurrency for stage in plan.stages) * plan.target.connections_per_operation
    targets = [p.target for p in plan.populations] + [op.target for stage in plan.stages for op in stage.operations]
    direct = any(target.startswith("direct://") for target in targets)
    bodies = max(stage.concurrency for stage in plan.stages) * _largest_body(plan) if plan.target.engine == "obstore" else 0
    return max(1, plan.workers) * WORKER_BYTES + most * (DIRECT_BYTES if direct else OPERATION_BYTES) + bodies


def _largest_body(plan: Plan) -> int:
    """Of the objects that obstore puts in one request or in parts: it has them, or as many parts as go at once, in memory."""
    made = {name for stage in plan.stages if stage.kind is StageKind.PREPARE for name in stage.populations}
    sizes = [p.size.max for p in plan.populations if p.name in made]
    sizes += [op.size.max for stage in plan.stages for op in stage.operations if op.size is not None]
    parts = plan.target.multipart
    if parts is None:
        return max(sizes, default=0)
    whole = [min(size, parts.threshold_bytes) for size in sizes]
    return max(
        [*whole, *(min(size, parts.part_bytes * (parts.concurrency + 1)) for size in sizes if size >= parts.threshold_bytes)], default=0
    )


def share_bytes(plan: Plan, assignment: Assignment, target: str | None = None) -> tuple[int, int]:
    """Objects and bytes that the agent prepares, in all or below one target; bytes as expected on average."""
    objects = size = 0
    for population in plan.populations:
        if target in (None, population.target):
            mine = sum(hi - lo for lo, hi in assignment.ranges.get(population.name, ()))
            objects += mine
            size += dataset.total_size(population) * mine // population.count
    return objects, size


def storage(plan: Plan, assignment: Assignment) -> list[dict[str, Any]]:
    """Each place that the plan touches, with what it does there."""
    operations: dict[str, set[str]] = {}
    for stage in plan.stages:
        for spec in stage.operations:
            if spec.weight:
                operations.setdefault(spec.target, set()).update(("get", "put") if spec.kind == "copy" else (spec.kind,))
        if stage.replay is not None:
            operations.setdefault(stage.replay.target, set()).update(stage.replay.operations)
        does = {StageKind.PREPARE: "put", StageKind.CLEANUP: "delete", StageKind.VERIFY: "get"}.get(stage.kind)
        for name in stage.populations if does else ():
            operations.setdefault(plan.population(name).target, set()).add(str(does))
    target = plan.target
    common = {
        "endpoint_url": target.endpoint_url,
        "region": target.region,
        "path_style": target.path_style,
        "ca_file": target.ca_file,
        "verify_tls": target.verify_tls,
        "anonymous": target.anonymous,
        "account": target.account,
    }
    found = []
    for uri, kinds in operations.items():
        objects, size = share_bytes(plan, assignment, uri)
        size += sum(stage.replay.put_bytes for stage in plan.stages if stage.replay and stage.replay.target == uri) // assignment.agents
        entry = {"uri": uri, **common, "operations": sorted(kinds), "write_bytes": size, "objects": objects}
        spread = plan.spread_of(assignment.index)
        for position in spread.positions if spread is not None else ():
            files = target.engine == "file"
            there = {"uri": mapped(uri, target.endpoints, position)} if files else {"endpoint_url": target.endpoints[position]}
            found.append({**entry, **there})
        if spread is None:
            found.append(entry)
    return found


def demand(plan: Plan, assignment: Assignment) -> Mapping[str, Any]:
    """The `plan` of the agent's input."""
    plan = plan.of_agent(assignment.index)
    return {
        "journal_bytes": journal_bytes(plan),
        "op_log_bytes": plan.op_log_bytes or 0,
        "open_files": open_files(plan),
        "memory_bytes": memory_bytes(plan),
        "counters_bytes": max(Layout(plan, stage, assignment.index).total for stage in plan.stages) * 8,
        "storage": storage(plan, assignment),
    }
