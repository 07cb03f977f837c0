"""What a plan would do, in figures: for `sai3ssh validate`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from .. import dataset
from ..model import Assignment, OperationSpec, Plan, Population, Stage, StageKind, Steady
from . import units
from .workload import Workload

ASSUMED_OPS_PER_S = 2000.0
"""Per agent, for estimates of prepare and cleanup; no promise, and named in the output."""


@dataclass(frozen=True)
class PopulationPart:
    """A population in figures."""

    name: str
    target: str
    objects: int
    bytes: int
    """Exact for fixed sizes, else expected."""
    size: str
    """The law, and how far the data can be reduced."""


@dataclass(frozen=True)
class StagePart:
    """A stage in figures."""

    name: str
    kind: str
    concurrency: int
    seconds: float
    exact: bool
    """False: seconds is an estimate at assumed_ops_per_s per agent."""
    mix: tuple[tuple[str, float, str], ...]
    """(operation, percent, where), with what the operation has of its own beside it."""
    pace: str
    """Of an open loop or a ramp, and when it ends before its duration; empty for a plain closed loop."""


@dataclass(frozen=True)
class Description:
    """A whole plan in figures."""

    name: str
    engine: str
    endpoint: str
    agents: int
    populations: tuple[PopulationPart, ...]
    stages: tuple[StagePart, ...]
    objects: int
    bytes: int
    objects_per_agent: tuple[int, int]
    """Fewest and most."""
    seconds: float
    journal_bytes_per_agent: int
    assumed_ops_per_s: float
    min_coverage: float
    credentials: str
    notices: tuple[str, ...]


def _operation(op: OperationSpec) -> str:
    """An operation and what it has of its own: get, get (zipf 0.99, partitioned, at most 4 at once)."""
    own = []
    if op.keys is not None:
        own.append(f"zipf {op.keys.theta:g}" if op.keys.distribution == "zipf" else op.keys.distribution)
        if op.keys.partitioned:
            own.append(f"partitioned, overlap {op.keys.overlap:.3g}" if op.keys.overlap else "partitioned")
    if op.recursive:
        own.append("recursive")
    if op.put_pool:
        own.append("and what was put")
    if op.concurrency is not None:
        own.append(f"at most {op.concurrency} at once")
    if op.delimiter:
        own.append("one level")
    if op.delete_batch > 1:
        own.append(f"{op.delete_batch} with one request")
    return f"{op.kind} ({', '.join(own)})" if own else op.kind


def _pace(stage: Stage) -> str:
    if stage.kind is StageKind.PAUSE:
        return "all agents wait (post_prepare_delay)"
    if stage.command:
        return f"each agent runs {shlex.join(stage.command)}"
    if stage.interleaved:
        return "populations together"
    if stage.cleanup_mode != "strict":
        return stage.cleanup_mode
    if stage.replay is not None:
        how = "one after the other" if stage.replay.speed is None else f"at {stage.replay.speed:g} times its speed"
        return f"trace of {stage.replay.records:,} operations, {how}"
    rate = stage.io_rate
    open_loop = [f"open loop, {rate.iops:,g} operations/s per agent, {rate.distribution}"] if rate else []
    ramp = [f"ramp of {stage.ramp_s:g} s"] if stage.ramp_s else []
    tasks = [] if stage.tasks is None else [f"until {stage.tasks:,} operations are done"]
    return ", ".join([*open_loop, *ramp, *tasks, *([_until_steady(stage.steady)] if stage.steady else [])])


def _limits(stage: Stage) -> tuple[str, str]:
    return f"at most {stage.timeout_s:g} s" if stage.timeout_s else "", "optional" if stage.optional else ""


def _own(plan: Plan, stage: int) -> list[str]:
    """What of a stage is another concurrency on some agents."""
    agents: dict[int, list[str]] = {}
    for name, own in zip(plan.agents, plan.own, strict=False):
        if own.concurrency and not plan.stages[stage].command and plan.stages[stage].kind is not StageKind.PAUSE:
            agents.setdefault(own.concurrency[stage], []).append(name)
    return [f"concurrency {n} on {', '.join(names)}" for n, names in agents.items()]


def _until_steady(steady: Steady) -> str:
    """When the stage ends before its duration."""
    limits = f"{steady.metric}/s with slope <= {100 * steady.slope:g} %, spread <= {100 * steady.spread:g} % over {steady.window_s:g} s"
    confirmed = f", {steady.confirm} times in succession" if steady.confirm > 1 else ""
    return f"until steady: {limits}{confirmed}, at least {steady.min_duration_s:g} s"


def _operations(stage: Stage, objects: int) -> int:
    if stage.command:
        return 0
    return stage.replay.records if stage.replay is not None else stage.tasks or objects


def describe(plan: Plan, assignments: Sequence[Assignment], workload: Workload) -> Description:
    """The figures of a plan."""
    agents = len(assignments)
    objects = sum(p.count for p in plan.populations)
    stages = tuple(
        StagePart(
            stage.name,
            stage.kind.value,
            stage.concurrency,
            stage.duration_s if stage.duration_s is not None else _operations(stage, objects) / agents / ASSUMED_OPS_PER_S,
            stage.duration_s is not None,
            tuple((_operation(op), 100 * op.weight / sum(o.weight for o in stage.operations), op.target) for op in stage.operations),
            ", ".join([part for part in (_pace(stage), *_limits(stage)) if part] + _own(plan, n)),
        )
        for n, stage in enumerate(plan.stages)
    )
    seconds = sum(stage.seconds for stage in stages)
    shares = [sum(hi - lo for ranges in a.ranges.values() for lo, hi in ranges) for a in assignments]
    s3 = workload.keys.s3
    source = (
        f"file {s3.credentials_file}"
        if s3.credentials_file
        else f"profile {s3.profile}"
        if s3.profile
        else "environment"
        if plan.target.engine == "obstore"
        else "environment or default profile"
    )
    return Description(
        plan.name,
        plan.target.engine,
        ", ".join(plan.target.endpoints) or plan.target.endpoint_url or _default_endpoint(plan),
        agents,
        tuple(
            PopulationPart(
                p.name,
                p.target,
                p.count,
                dataset.total_size(p),
                _sizes(p) + _reduction(p),
            )
            for p in plan.populations
        ),
        stages,
        objects,
        sum(dataset.total_size(p) for p in plan.populations),
        (min(shares, default=0), max(shares, default=0)),
        seconds,
        int(seconds * plan.journal_bytes_per_s) + 65536,
        ASSUMED_OPS_PER_S,
        plan.min_coverage,
        "none needed" if plan.target.engine == "file" or plan.target.anonymous else source,
        workload.notices,
    )


def _sizes(population: Population) -> str:
    """Sizes of the objects, as a file would have them."""
    size = population.size
    low, high = units.size_words(size.min), units.size_words(size.max)
    return low if size.kind == "fixed" else f"{size.kind} {low} to {high}"


def _default_endpoint(plan: Plan) -> str:
    """Where the targets are when no endpoint is named."""
    if plan.target.engine == "file":
        given = (("fsync", plan.target.fsync, "none"), ("page cache", plan.target.page_cache, "auto"))
        return ", ".join(["file system of each host", *(f"{name} {value}" for name, value, usual in given if value != usual)])
    if plan.target.engine == "obstore":
        targets = [p.target for p in plan.populations] + [op.target for stage in plan.stages for op in stage.operations]
        azure = any(target.startswith("az://") for target in targets)
        return f"Azure, account {plan.target.account or 'of the environment'}" if azure else "Google Cloud Storage"
    return "AWS, " + plan.target.region


def _reduction(population: Population) -> str:
    factors = (("dedup", population.dedup_factor), ("compress", population.compress_factor))
    return "".join(f", {name} {factor:g}:1" for name, factor in factors if factor != 1)
