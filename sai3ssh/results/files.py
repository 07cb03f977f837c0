"""Writing and reading a run directory's results. The same inputs give the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..errors import ConfigError
from ..model import Verdict
from .journal import parse_json
from .merge import merge, read_inputs
from .tables import comments, perf_log, results_table

_NEEDED = {"agents", "network", "stages"}
MERGED = "merged.json"
"""Of a directory that `merge` made: its runs, and remarks for its results."""


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
    merged = path / MERGED
    if merged.exists():
        content["reasons"] += parse_json(merged.read_bytes())["remarks"]
    replace_file(path / "results.json", json_lines(content))
    for stage in content["stages"]:
        name = f"{stage['index'] + 1:02d}_{stage['name']}_results.tsv"
        replace_file(path / name, [results_table(content, stage["operations"], stage["seconds"])])
        for agent_id, part in stage["agents"].items():
            replace_file(path / "agents" / agent_id / name, [results_table(content, part["operations"], part["seconds"])])
    names = [stage.name for stage in inputs.plan.stages]
    replace_file(path / "perf_log.tsv", perf_log(content, inputs.agents, names, inputs.plan.perf_log_interval_s))
    replace_file(path / "STATUS.txt", [f"{content['verdict']}\n", *(line + "\n" for line in comments(content))])
    return _results(content)


def read(path: Path) -> Results:
    """The results that were written. Where there are none yet they are made now, and written if the run is over. Raises ConfigError on
    what this version has not written."""
    file = path / "results.json"
    if not file.exists():
        inputs = read_inputs(path)
        return write(path) if has_ended(inputs.events) else _results(merge(inputs))
    try:
        content = parse_json(file.read_bytes())
        missing = sorted(_NEEDED - content.keys())
        found = _results(content)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        missing = [f"{type(error).__name__}: {error}"]
    if missing:
        text = f"expected the results of a run as this version writes them, found none ({missing[0]})"
        raise ConfigError(text, file=str(file), remedy="Move it away: they are made anew from the journals")
    return found


def has_ended(events: Sequence[dict[str, Any]]) -> bool:
    """Whether the run is over, by its controller's log."""
    return any(event["event"] == "run_ended" for event in events)


def json_lines(content: dict[str, Any]) -> Iterator[str]:
    """JSON for people and programs, in lines: what holds only numbers and texts, such as the cells of a histogram, is on one."""
    yield from _lines(content, "", "")
    yield "\n"


def _lines(value: Any, indent: str, end: str) -> Iterator[str]:
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    if not any(isinstance(part, (dict, list, tuple)) for part in parts):
        yield _compact(value) + end
        return
    inner = indent + " "
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    heads = [_compact(str(key)) + ": " for key in value] if isinstance(value, dict) else [""] * len(parts)
    yield opening + "\n"
    for number, (head, part) in enumerate(zip(heads, parts, strict=True), 1):
        yield inner + head
        yield from _lines(part, inner, ",\n" if number < len(parts) else "\n")
    yield indent + closing + end


def _compact(value: Any) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        return json.dumps(value)  # a number of more than 64 bits


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
