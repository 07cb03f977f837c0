"""`sai3ssh calibrate`: a run against a server that keeps nothing, on each host itself, says what its agent can do at most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .controller.rundir import RunDirectory, Steering, new_run_id
from .errors import ConfigError, RunError
from .model import Assignment, Host, OperationSpec, Plan, Population, SizeSpec, Stage, StageKind, Target
from .protocol import Json
from .results import calibration

OBJECTS = 100_000
IN_FLIGHT_BYTES = 256 << 20
"""What all operations of an agent have in flight is about so much, with 8 to 256 operations."""
WARM_UP_S = 1.0
LARGEST = 1 << 30


def make_plan(hosts: Sequence[Host], sizes: Sequence[int], seconds: float) -> tuple[Plan, list[Assignment]]:
    """A PUT and a GET stage for each size, with the workers that a run has by default. Raises ConfigError."""
    if not sizes or any(not 1 <= size <= LARGEST for size in sizes):
        raise ConfigError(f"--size needs sizes from 1 to {LARGEST} bytes", remedy="Write for example --size 4KiB,8MiB")
    populations, stages = [], []
    for size in sorted(set(sizes)):
        law = SizeSpec("fixed", size, size)
        uri = f"s3://null/{size}/"  # the null server's objects below a number have so many bytes
        populations.append(Population(f"objects-{size}", uri, "object-%08d.dat", OBJECTS, law, 1))
        concurrency = max(8, min(256, IN_FLIGHT_BYTES // size))
        for operation in (OperationSpec("put", 1, uri + "new/", size=law), OperationSpec("get", 1, uri, f"objects-{size}")):
            name = f"{operation.kind}-{size}"
            duration_s = WARM_UP_S + seconds
            stages.append(Stage(name, StageKind.EXECUTE, concurrency, duration_s=duration_s, warmup_s=WARM_UP_S, operations=(operation,)))
    names = tuple(host.name for host in hosts)
    plan = Plan(new_run_id("calibrate"), "calibrate", Target("null"), tuple(populations), tuple(stages), agents=names)
    assignments = [Assignment(name, index, len(names), {}) for index, name in enumerate(names)]
    return plan, assignments


def run(
    hosts: Sequence[Host], sizes: Sequence[int], seconds: float, results_dir: Path, archive: Path, *, as_json: bool, live: bool
) -> Json:
    """Calibrates hosts side by side and keeps what was found for later runs in results_dir; returns it, as calibration.calibrate does.

    Raises RunError when the run did not end well, or a host has no figures.
    """
    from . import steering

    plan, assignments = make_plan(hosts, sizes, seconds)
    directory = RunDirectory.create(results_dir, plan, assignments, hosts, None, Steering(start_delay_s=1.0))
    code = steering.steer(directory, archive, as_json=as_json, live=live, credentials=None, summary=False)
    found = calibration.calibrate(directory.path)
    calibration.keep(results_dir, found)
    missing = [host.name for host in hosts if host.name not in found]
    if code or missing:
        what = f"without figures: {', '.join(missing)}" if missing else "see its verdict"
        raise RunError(f"calibration {plan.run_id} failed; {what}", exit_code=code or 1, remedy=f"sai3ssh results {directory.path}")
    return found
