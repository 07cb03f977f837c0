"""`sai3ssh autotune`: short runs of a workload with other settings, until the best ones are found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import config
from .config import Workload, units
from .controller.rundir import RunDirectory, new_run_id
from .errors import ConfigError, RunError
from .model import Plan, StageKind, Verdict
from .results import files, limits
from .search import Found, Point, Setting, Trial, search
from .steering import err, out

Json = dict[str, Any]
SPAN = 16
"""Without limits of its own a setting is tried from this many times less than the file says to this many times more."""
MOST_ERRORS = 0.01
"""A trial with a larger share of errors than this is not allowed."""
BYTES = ("s3.multipart_chunksize", "azure.multipart_chunksize", "gcs.multipart_chunksize", "range_engine.chunk_size")
NO_LIMITS = {"error_handling.max_total_errors": 0, "error_handling.error_rate_threshold": 0}
"""Too much load is what a search goes through: errors make a trial worse, and do not end it."""
FILE = "autotune.json"
_RANK = {"p50", "p90", "p95", "p99", "p99.9", "p99.99", "mean", "max"}


@dataclass(frozen=True)
class Demand:
    """A latency that must be kept: operation.figure < limit."""

    text: str
    operation: str
    figure: str
    limit_us: float

    def kept(self, operations: Json) -> bool:
        """Whether a stage's operations, as results.json has them, keep it; not when there was none of that kind."""
        figures = operations.get(self.operation)
        return figures is not None and figures["ops"] > 0 and figures["latency_us"][self.figure] < self.limit_us


def parse_demand(text: str) -> Demand:
    """Reads `get.p99 < 20ms`. Raises ConfigError."""
    found = re.fullmatch(r"(\w+)\.([\w.]+?)\s*<\s*(\S+)", text.strip())
    if found is None or found[2] not in _RANK:
        raise ConfigError(f"--under {text!r} is not understood", remedy="Write for example --under 'get.p99 < 20ms'")
    return Demand(text.strip(), found[1], found[2], config.seconds(found[3], "--under") * 1e6)


def parse_setting(text: str, workload: Workload) -> Setting:
    """Reads `concurrency`, `concurrency=1..256` or `concurrency=8,16,32`. Raises ConfigError."""
    name, given, values = text.partition("=")
    wrong = config.wrong_axis(name, workload.document)
    if wrong:
        raise ConfigError(f"--vary {name}: {wrong}", remedy="Write for example --vary concurrency=1..256")
    read: Callable[[object], int] = units.size if name in BYTES else units.count
    try:
        first = _value(name, workload, read)
        if not given:
            return Setting(name, max(1, first // SPAN), first * SPAN, first)
        if ".." in values:
            lowest, highest = (read(part) for part in values.split("..", 1))
            if not 1 <= lowest < highest:
                raise ValueError(f"expected two numbers from 1, the lower one first, found {values!r}")
            return Setting(name, lowest, highest, min(max(first, lowest), highest))
        listed = tuple(read(part) for part in values.split(","))
        return Setting(name, min(listed), max(listed), listed[len(listed) // 2], listed)
    except ValueError as error:
        raise ConfigError(f"--vary {text}: {error}", remedy="Write for example --vary concurrency=1..256") from error


def _value(name: str, workload: Workload, read: Callable[[object], int]) -> int:
    """What the file says, or the default."""
    place: Any = workload.keys
    for part in name.split("."):
        place = place[int(part)] if isinstance(place, list) else getattr(place, part, None)
    if isinstance(place, bool) or not isinstance(place, int | float) or place < 1:
        raise ValueError("only what is a number from 1 can be tuned")
    return read(int(place))


def default_settings(workload: Workload) -> list[str]:
    """What is varied when nothing is said: concurrency, and the size of parts and ranges where the file has them."""
    keys = workload.keys
    found = ["concurrency"]
    if keys.range_engine.enabled:
        found += ["range_engine.chunk_size", "range_engine.max_concurrent_ranges"]
    if keys.s3.multipart_threshold is not None:
        found += ["s3.multipart_chunksize", "s3.multipart_concurrency"]
    return found


@dataclass(frozen=True)
class Tools:
    """How runs are made and steered, which the command knows."""

    create: Callable[[Workload, Callable[[Plan], Plan]], RunDirectory]
    steer: Callable[[RunDirectory], int]


def tune(
    workload: Workload,
    settings: Sequence[Setting],
    demands: Sequence[Demand],
    goal: str,
    seconds: float,
    most: int,
    results_dir: Path,
    tools: Tools,
    *,
    as_json: bool,
) -> int:
    """Prepares the workload's objects once, tries settings with runs of `seconds` of its operations, deletes the objects again if the file
    says so, and shows what is best; the exit code. `goal` is ops or bytes.

    Raises ConfigError for a workload that cannot be repeated on the same objects, and RunError when no trial is allowed.
    """
    from .ui.autotune import print_trials, trial_line

    keys = workload.keys
    _check(workload, demands)
    path = results_dir / new_run_id(f"autotune-{workload.name}")
    path.mkdir(parents=True)
    made = bool(keys.prepare.ensure_objects)
    entries: list[Json] = []
    began: list[RunDirectory] = []
    warmup_s = max(keys.warmup_period, keys.ramp_up)

    def once(
        stages: list[Json], change: Callable[[Plan], Plan] = lambda plan: plan, more: Mapping[str, int] | None = None, **values: int
    ) -> RunDirectory:
        given = {
            "stages": stages,
            "distributed.stages": [],
            "prepare.cleanup": False,
            "prepare.delete_batch": 1,
            **(more or {}),
            **values,
        }
        directory = tools.create(config.varied(workload, given), change)
        began.append(directory)
        code = tools.steer(directory)
        if code != Verdict.COMPLETE.exit_code:
            raise RunError(f"run {directory.path.name} is not COMPLETE", exit_code=code, remedy=f"See {directory.path / 'STATUS.txt'}")
        return directory

    def trial(point: Point) -> Trial:
        values = {setting.name: value for setting, value in zip(settings, point, strict=True)}
        stages: list[Json] = [{"name": "trial", "type": "execute", "duration": warmup_s + seconds}, {"name": "sweep", "type": "cleanup"}]
        # The objects stay for the next trial, what this one has put does not.
        directory = once(stages, _keep_populations, NO_LIMITS, **values)
        entry = _entry(directory, values, goal, demands)
        entries.append(entry)
        if as_json:
            out(json.dumps({"event": "trial", **entry}))
        else:
            out(trial_line(entry, goal))
        return Trial(entry["score"], entry["allowed"])

    cleans = made and keys.prepare.cleanup
    try:
        if made:
            once([{"name": "prepare", "type": "prepare"}])
        found = search(settings, trial, most)
    except BaseException:
        if cleans and began:
            err("The prepared objects are still there; `sai3ssh run` of the file with cleanup_only: true in prepare deletes them")
        raise
    finally:
        # Also of those trials that came before one that failed, or was stopped.
        content = _content(workload, settings, demands, goal, entries, None)
        files.replace_file(path / FILE, [json.dumps(content, indent=1) + "\n"])
    if cleans:
        once([{"name": "cleanup", "type": "cleanup", "delete_batch": keys.prepare.delete_batch}])
    content = _content(workload, settings, demands, goal, entries, found)
    files.replace_file(path / FILE, [json.dumps(content, indent=1) + "\n"])
    if as_json:
        out(json.dumps(content))
    else:
        print_trials(content)
        out(f"  {path}/")
    if found.best is None:
        why = f"none keeps {' and '.join(demand.text for demand in demands)}" if demands else "all had too many errors"
        raise RunError(f"no setting is good: {why}", exit_code=Verdict.FAILED.exit_code, remedy="Demand less, or allow smaller values")
    return Verdict.COMPLETE.exit_code


def _check(workload: Workload, demands: Sequence[Demand]) -> None:
    kinds = {operation.op for operation in workload.keys.workload}
    if not kinds:
        raise ConfigError(f"{workload.file} has no operations to tune", remedy="Give it a workload")
    if "delete" in kinds:
        text = f"{workload.file} deletes objects, and each trial needs them all"
        raise ConfigError(text, remedy="Tune a workload without delete, or use a matrix")
    for demand in demands:
        if demand.operation not in kinds:
            text = f"--under {demand.text!r}: {workload.file} has no {demand.operation}"
            raise ConfigError(text, remedy=f"It has {', '.join(sorted(kinds))}")


def _keep_populations(plan: Plan) -> Plan:
    stages = (replace(stage, populations=()) if stage.kind is StageKind.CLEANUP else stage for stage in plan.stages)
    return replace(plan, stages=tuple(stages))


def _entry(directory: RunDirectory, values: dict[str, int], goal: str, demands: Sequence[Demand]) -> Json:
    content = files.read(directory.path).content
    stage = content["stages"][0]
    operations = stage["operations"]
    ops = sum(figures["ops"] for figures in operations.values())
    errors = sum(sum(figures["errors"].values()) for figures in operations.values())
    broken = [demand.text for demand in demands if not demand.kept(operations)]
    if errors > MOST_ERRORS * (ops + errors):
        broken.append(f"errors <= {MOST_ERRORS:.0%}")
    return {
        "run": directory.path.name,
        "values": values,
        "score": sum(figures["ops_per_s" if goal == "ops" else "mib_per_s"] for figures in operations.values()),
        "ops_per_s": sum(figures["ops_per_s"] for figures in operations.values()),
        "mib_per_s": sum(figures["mib_per_s"] for figures in operations.values()),
        "latency_us": {operation: figures["latency_us"] for operation, figures in operations.items()},
        "errors": errors,
        "allowed": not broken,
        "broken": broken,
        "client_bound": list(limits.limit_lines(content)),
    }


def _content(
    workload: Workload, settings: Sequence[Setting], demands: Sequence[Demand], goal: str, entries: Sequence[Json], found: Found | None
) -> Json:
    """autotune.json: {workload, goal, demands, settings, trials, best (values by setting, or null), exhausted}. Without `found` the search
    was broken off."""
    best = None
    if found is not None and found.best is not None:
        best = {setting.name: value for setting, value in zip(settings, found.best, strict=True)}
    return {
        "schema": 1,
        "workload": workload.file,
        "goal": goal,
        "demands": [demand.text for demand in demands],
        "settings": [asdict(setting) for setting in settings],
        "trials": list(entries),
        "best": best,
        "exhausted": found.exhausted if found is not None else None,
    }
