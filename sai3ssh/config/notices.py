"""What a workload file says that has no effect here, or another one than in sai3-bench."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from .barriers import Barriers
from .document import Path_
from .schema import Prepare, StageKeys, WorkloadKeys


def taken_as_there(prepare: Prepare) -> bool:
    """Whether prepare stages are left out because the objects are said to be there."""
    return prepare.skip_verification and not prepare.force_overwrite


def checks_beforehand(stages: Sequence[StageKeys]) -> list[str]:
    """Names of the validation stages that come before what could be read back: sai3-bench's checks before a run."""
    ordered = sorted(stages, key=lambda stage: stage.order or 0)
    kinds = [stage.type for stage in ordered]
    first = kinds.index("prepare") if "prepare" in kinds else 0
    return [stage.name for stage in ordered[:first] if stage.type == "validation"]


def notices(keys: WorkloadKeys) -> Iterator[tuple[Path_, str]]:
    """Each with the place that it is about."""
    yield from _prepare(keys.prepare)
    yield from _stages(keys)
    yield from Barriers(keys).notices()
    yield from _perf_log(keys)
    yield from _agents(keys)


def _prepare(prepare: Prepare) -> Iterator[tuple[Path_, str]]:
    given = prepare.model_fields_set
    if taken_as_there(prepare) and not prepare.cleanup_only:
        text = "skip_verification: the objects are taken as there, and no stage prepares them (force_overwrite: true writes all)"
        yield ("prepare", "skip_verification"), text
    if "force_overwrite" in given and not prepare.force_overwrite and not prepare.skip_verification:
        text = "force_overwrite has no effect: prepare puts every object in any case; skip_verification: true takes them as there"
        yield ("prepare", "force_overwrite"), text
    if prepare.cleanup_only:
        text = "cleanup_only: objects of ensure_objects are removed and nothing else is done; what puts of an earlier run made stays"
        yield ("prepare", "cleanup_only"), text


def perf_log_interval_s(keys: WorkloadKeys) -> int:
    """In whole seconds, which are what agents tell."""
    return max(1, round(keys.perf_log.interval))


def _perf_log(keys: WorkloadKeys) -> Iterator[tuple[Path_, str]]:
    given = keys.perf_log
    if given.path is not None or not given.enabled:
        text = f"perf_log is always written: it is perf_log.tsv of the run directory{'' if given.path is None else f', not {given.path}'}"
        yield ("perf_log", "path" if given.path is not None else "enabled"), text
    interval_s = perf_log_interval_s(keys)
    if interval_s != given.interval:
        yield ("perf_log", "interval"), f"perf_log.interval is {interval_s} s: agents tell what they did by whole seconds"
    if interval_s > 1:
        text = f"perf_log: percentiles over {interval_s} s are empty, since those of seconds cannot be added; an interval of 1 s has them"
        yield ("perf_log", "interval"), text


def _agents(keys: WorkloadKeys) -> Iterator[tuple[Path_, str]]:
    reads = [op for op in keys.workload if op.op in ("get", "stat", "copy") and op.weight]
    parted = keys.distributed.path_selection == "exclusive"
    everywhere = any(not op.key_selection.partitioned if op.key_selection is not None else not parted for op in reads)
    for n, agent in enumerate(keys.distributed.agents):
        if agent.target_override is not None and everywhere:
            text = "target_override: agents read what others have prepared; where they do not see the same storage give get and stat "
            yield ("distributed", "agents", n, "target_override"), text + "key_selection: partitioned"
            return


def _stages(keys: WorkloadKeys) -> Iterator[tuple[Path_, str]]:
    where: Path_ = ("stages",) if keys.stages else ("distributed", "stages")
    stages = keys.stages or keys.distributed.stages
    before = checks_beforehand(stages)
    for n, stage in enumerate(stages):
        if stage.name in before:
            text = f"stage {stage.name!r} is left out: preflight checks that before the run; to read objects back, put it after prepare"
            yield (*where, n, "type"), text
        if stage.type == "custom" and stage.command:
            line = shlex.join([stage.command, *stage.args])[:200]
            text = f"stage {stage.name!r}: every agent runs {line} once, with the rights of the agent's user"
            yield (*where, n, "command"), text
        if stage.type in ("prepare", "cleanup", "custom") and stage.completion == "duration_or_tasks":
            yield (*where, n, "completion"), f"completion: {stage.type} ends when its work is done; to limit it set timeout_secs"
        if stage.type != "prepare" and stage.expected_objects is not None:
            yield (*where, n, "expected_objects"), f"expected_objects has no effect in a stage of type {stage.type}; it belongs to prepare"
