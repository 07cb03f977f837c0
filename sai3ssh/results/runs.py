"""Run directories that are named on a command line, read for what compares or merges them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..model import Plan, Verdict, from_json, to_json
from .files import Results, read

Json = dict[str, Any]
BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class GivenRun:
    """A run directory that was named to be merged or compared."""

    path: Path
    plan: Json
    """Without run_id and name."""
    agents: int
    results: Results
    planned_s: float
    """Planned agent-seconds."""

    @property
    def run_id(self) -> str:
        """Of the run."""
        return str(self.results.content["run_id"])

    @property
    def counts(self) -> bool:
        """Whether its figures are in the aggregate."""
        return self.results.verdict is not Verdict.FAILED


def read_run(path: Path) -> GivenRun:
    """Reads a run; results that it has not yet are made. Raises ConfigError when it is none or cannot be read."""
    if not (path / "plan.json").is_file():
        raise ConfigError(f"{path} is no run directory: it has no plan.json", remedy="Name directories below --results-dir")
    try:
        # Through the model, so that a plan of an older version has the defaults of what it does not know.
        plan = to_json(from_json(Plan, json.loads((path / "plan.json").read_text(encoding="utf-8"))))
        agents = len(json.loads((path / "hosts.json").read_text(encoding="utf-8"))["agents"])
        results = read(path)
        stages = zip(plan["stages"], results.content["stages"], strict=True)
        planned_s = agents * sum(_planned_s(spec, stage) for spec, stage in stages)
        kept = {name: value for name, value in plan.items() if name not in ("run_id", "name")}
        return GivenRun(path, kept, agents, results, planned_s)
    except BROKEN as error:
        raise ConfigError(f"run {path} cannot be read: {type(error).__name__}: {error}", remedy="Leave it out") from error


def _planned_s(spec: Json, stage: Json) -> float:
    """Of one agent in a stage: its duration, until it was steady where it was to end then; else what it took."""
    steady = stage.get("steady")
    planned: float = steady["duration_s"] if steady else spec["duration_s"] or max(0.0, stage["seconds"] + stage["warmup_s"])
    return planned


def differences(first: Any, other: Any, where: str = "") -> Iterator[str]:
    """What two plans, or parts of them, differ in: one text each, with the place in the plan."""
    if isinstance(first, dict) and isinstance(other, dict):
        for name in sorted(first.keys() | other.keys()):
            yield from differences(first.get(name), other.get(name), f"{where}.{name}" if where else name)
    elif isinstance(first, list) and isinstance(other, list):
        if len(first) != len(other):
            yield f"{where}: {len(first)} and {len(other)} entries"
            return
        for number, (a, b) in enumerate(zip(first, other, strict=True)):
            yield from differences(a, b, f"{where}[{number}]")
    elif first != other:
        yield f"{where}: {json.dumps(first)} and {json.dumps(other)}"
