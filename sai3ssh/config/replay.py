"""How a trace is replayed: the keys of a workload file that do not say what the load is, and the stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..model import Host, Replay, Stage, StageKind
from .compile import choose
from .document import Document
from .schema import WorkloadKeys
from .workload import Workload, check_uri, load

OF_THE_LOAD = (
    "target",
    "workload",
    "prepare",
    "stages",
    "duration",
    "io_rate",
    "warmup_period",
    "ramp_up",
    "dynamic_put_pool",
    "verify_reads",
)
"""Keys that say what the trace says."""
WORKERS = 4
"""Per agent, unless workers is set: how many the trace is divided among must be known before an agent is seen."""


def replay_settings(file: Path | None, target: str, *, name: str | None = None, concurrency: int | None = None) -> Workload:
    """The settings of a replay to a target. Errors are counted and do not end it, unless the file sets limits. Raises ConfigError."""
    wrong = check_uri(target)
    if wrong:
        raise ConfigError(f"--target: {wrong}")
    loaded = load(file) if file is not None else Workload("replay", WorkloadKeys(name="replay"), (), Document("replay", {}))
    keys = loaded.keys
    given = keys.model_fields_set
    for key in OF_THE_LOAD:
        if file is not None and key in given:
            line, column = loaded.document.where((key,))
            text = f"{key} has no meaning for a replay: the trace says what is done, --target where; remove it"
            raise ConfigError(text, file=loaded.file, line=line, column=column)
    if keys.error_handling.backoff_duration is not None:
        line, column = loaded.document.where(("error_handling", "backoff_duration"))
        text = "backoff_duration has no meaning for a replay: the trace says when operations begin; remove it"
        raise ConfigError(text, file=loaded.file, line=line, column=column)
    for n, agent in enumerate(keys.distributed.agents):
        for key, instead in (("target_override", "--target says where"), ("concurrency_override", "a trace is divided evenly")):
            if getattr(agent, key) is not None:
                line, column = loaded.document.where(("distributed", "agents", n, key))
                raise ConfigError(f"{key} has no meaning for a replay: {instead}; remove it", file=loaded.file, line=line, column=column)
    keys.target = target.rstrip("/") + "/"
    keys.name = name or (keys.name if "name" in given else "replay")
    keys.concurrency = concurrency or keys.concurrency
    keys.workers = keys.workers or min(WORKERS, keys.concurrency)
    if keys.workers > keys.concurrency:
        text = f"{keys.workers} workers share a concurrency of {keys.concurrency}: some would have nothing to do"
        raise ConfigError(text, remedy="Raise --concurrency, or lower workers")
    limits = keys.error_handling
    for name_of_limit in ("max_total_errors", "error_rate_threshold"):
        if name_of_limit not in limits.model_fields_set:
            setattr(limits, name_of_limit, 0)
    return loaded


def replaying(workload: Workload, hosts: Sequence[Host]) -> list[Host]:
    """The hosts that take part."""
    return choose(workload, hosts)


def replay_stage(name: str, workload: Workload, spec: Replay, span_s: float) -> Stage:
    """A stage that replays a trace whose last operation begins span_s after the first."""
    # Whole seconds, as the journal counts them, and a moment for the last operation.
    duration_s = None if spec.speed is None else float(int(span_s / spec.speed) + 1)
    return Stage(name, StageKind.REPLAY, workload.keys.concurrency, duration_s, replay=spec)
