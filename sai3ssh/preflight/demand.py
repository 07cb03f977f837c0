"""What a plan asks of each host, for the agent's checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .. import dataset
from ..model import Assignment, Plan, StageKind

JOURNAL_BYTES_PER_S = 1024
UNKNOWN_S = 600.0
"""A stage without a duration is budgeted with this, here as in the agent."""
SPARE_FILES = 64
WORKER_BYTES, OPERATION_BYTES = 48 << 20, 256 << 10
"""Memory of a worker process, and of an operation in flight."""


def journal_bytes(plan: Plan) -> int:
    """What the journal of one agent reserves."""
    return int(sum(stage.duration_s or UNKNOWN_S for stage in plan.stages) * JOURNAL_BYTES_PER_S) + 65536


def open_files(plan: Plan) -> int:
    """The most that one process of an agent has open."""
    most = max(stage.concurrency for stage in plan.stages)
    return math.ceil(most / max(1, plan.workers)) * plan.target.connections_per_operation + SPARE_FILES


def memory_bytes(plan: Plan) -> int:
    """What an agent needs, roughly."""
    most = max(stage.concurrency for stage in plan.stages) * plan.target.connections_per_operation
    return max(1, plan.workers) * WORKER_BYTES + most * OPERATION_BYTES


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
                operations.setdefault(spec.target, set()).add(spec.kind)
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
    }
    found = []
    for uri, kinds in operations.items():
        objects, size = share_bytes(plan, assignment, uri)
        size += sum(stage.replay.put_bytes for stage in plan.stages if stage.replay and stage.replay.target == uri) // assignment.agents
        found.append({"uri": uri, **common, "operations": sorted(kinds), "write_bytes": size, "objects": objects})
    return found


def demand(plan: Plan, assignment: Assignment) -> Mapping[str, Any]:
    """The `plan` of the agent's input."""
    return {
        "journal_bytes": journal_bytes(plan),
        "op_log_bytes": plan.op_log_bytes or 0,
        "open_files": open_files(plan),
        "memory_bytes": memory_bytes(plan),
        "storage": storage(plan, assignment),
    }
