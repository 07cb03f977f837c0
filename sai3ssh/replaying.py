"""From a trace to the run directory of its replay."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import config, trace
from .config import Workload
from .controller.rundir import RunDirectory
from .errors import ConfigError
from .launch import Launch
from .model import Replay, Stage

UPLOAD_BYTES_PER_S = 1_000_000
"""An agent has its traces by then, on a link that is as slow as this."""


@dataclass(frozen=True)
class Wanted:
    """What is to be replayed, and how."""

    traces: Sequence[Path]
    remaps: tuple[tuple[str, str], ...]
    speed: float | None
    """None: a closed loop."""
    prepare: bool


def remaps(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Those of --remap FROM=TO. Raises ConfigError."""
    found = []
    for text in texts:
        before, mark, after = text.partition("=")
        if not mark or not before:
            raise ConfigError(f"--remap: expected FROM=TO, found {text!r}", remedy="Write --remap s3://old-bucket/data/=data/")
        if "://" in after:
            raise ConfigError(f"--remap: {after!r} is a whole URI, expected what comes below the target", remedy="Give the URI as --target")
        found.append((before, after))
    return tuple(found)


def create(
    wanted: Wanted,
    loaded: Workload,
    launch: Launch,
) -> RunDirectory:
    """Reads and divides the trace, has the hosts looked at, and makes the run directory with every worker's part. Raises ConfigError for
    what is wrong with the trace, with its line."""
    mine, results_dir = config.replaying(loaded, launch.hosts), launch.results_dir
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {results_dir}: {error.strerror}", remedy="Choose another place with --results-dir") from error
    with tempfile.TemporaryDirectory(prefix=".replay-", dir=results_dir) as scratch:
        parts = [Path(scratch) / host.name for host in mine]
        for part in parts:
            part.mkdir()
        stages = _divide(wanted, loaded, parts)
        most = max(sum(path.stat().st_size for path in part.iterdir()) for part in parts)
        directory = launch.create(loaded, replay=stages, upload_s=most / UPLOAD_BYTES_PER_S)
        for part in parts:
            for path in part.iterdir():
                path.replace(directory.path / "agents" / part.name / path.name)
    return directory


def _divide(wanted: Wanted, loaded: Workload, parts: Sequence[Path]) -> list[Stage]:
    target = str(loaded.keys.target)
    workers = loaded.keys.workers
    facts = trace.divide(wanted.traces, trace.Names(target, wanted.remaps), parts, workers, int(wanted.prepare))
    stages = [_stage("replay", loaded, target, facts, wanted.speed)]
    if wanted.prepare:
        stages.insert(0, _stage("prepare", loaded, target, trace.prepare(parts, workers, 0, 1), None))
    return stages


def _stage(name: str, loaded: Workload, target: str, facts: trace.Facts, speed: float | None) -> Stage:
    operations = tuple(sorted(facts.operations))
    spec = Replay(target, operations, facts.records, facts.put_bytes, facts.largest_bytes, speed)
    return config.replay_stage(name, loaded, spec, facts.span_ns / 1e9)
