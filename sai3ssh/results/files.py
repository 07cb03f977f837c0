"""Writing and reading a run directory's results. The same inputs give the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..model import Verdict
from .merge import merge, read_inputs
from .tables import comments, perf_log, results_table

_NEEDED = {"agents", "network", "stages"}


@dataclass(frozen=True)
class Results:
    """results.json and what it says first."""

    verdict: Verdict
    reasons: tuple[str, ...]
    content: dict[str, Any]


def write(path: Path) -> Results:
    """Merges all mirrors of a run directory and writes results.json, STATUS.txt, and the tables of all stages and agents."""
    inputs = read_inputs(path)
    content = merge(inputs)
    replace_file(path / "results.json", [json.dumps(content, indent=1) + "\n"])
    for stage in content["stages"]:
        name = f"{stage['index'] + 1:02d}_{stage['name']}_results.tsv"
        replace_file(path / name, [results_table(content, stage["operations"], stage["seconds"])])
        for agent_id, part in stage["agents"].items():
            replace_file(path / "agents" / agent_id / name, [results_table(content, part["operations"], part["seconds"])])
    replace_file(path / "perf_log.tsv", perf_log(content, inputs.agents, [stage.name for stage in inputs.plan.stages]))
    replace_file(path / "STATUS.txt", [f"{content['verdict']}\n", *(line + "\n" for line in comments(content))])
    return _results(content)


def read(path: Path) -> Results:
    """The results that were written; made now when there are none yet. Raises ConfigError on what this version has not written."""
    file = path / "results.json"
    if not file.exists():
        return write(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        missing = sorted(_NEEDED - content.keys())
        found = _results(content)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        missing = [f"{type(error).__name__}: {error}"]
    if missing:
        text = f"expected the results of a run as this version writes them, found none ({missing[0]})"
        raise ConfigError(text, file=str(file), remedy="Move it away: they are made anew from the journals")
    return found


def _results(content: dict[str, Any]) -> Results:
    return Results(Verdict(content["verdict"]), tuple(content["reasons"]), content)


def replace_file(path: Path, lines: Iterable[str]) -> None:
    """Replaces a file, durably."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
