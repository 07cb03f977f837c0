"""The runs of a matrix side by side: a row per combination, stage and operation."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..model import StageKind, Verdict
from .aggregate import aggregate
from .files import replace_file

Json = dict[str, Any]
SCHEMA = 2
FILE, TABLE = "matrix.json", "matrix.tsv"
LATENCIES = ("mean", "p50", "p90", "p99", "p99.9", "max")
FIGURES = ("ops_per_s", "mib_per_s", *(f"{name}_us" for name in LATENCIES), "errors", "ops")


Entry = tuple[Json, list[Json]]
"""What is told of a combination, and its rows."""


def matrix(axes: Sequence[str], combinations: Sequence[tuple[dict[str, str], Sequence[Path]]]) -> Json:
    """What the runs of each combination are together; those without a run, or whose runs all FAILED, have no figures.

    verdict        COMPLETE when all combinations are, FAILED when all are, else PARTIAL
    combinations   [{values {axis: text}, runs [run_id], verdict (None without a run), reasons, agents (None when its runs differ in it),
                   each [a run: {run_id, verdict, reasons, coverage, in_figures}]}]
    rows           [{combination (its position, from 0), stage, operation, runs, ops, ops_per_s, mib_per_s, mean_us, p50_us ... max_us,
                   errors, error_kinds {class: n}, spread (as results.aggregate has it), each [a run that is in the figures: {run (its
                   position in the combination's each), ops_per_s, mib_per_s, mean_us, p50_us ... max_us, errors, limits [text] of
                   the stage}]}] of execute stages. Several runs of a combination are merged as results.aggregate does: histograms
                   added, rates over the time of all
    best           {stage/operation: position of the combination with the most operations/s}
    """
    return together(axes, [combination(values, runs) for values, runs in combinations])


def combination(values: dict[str, str], runs: Sequence[Path]) -> Entry:
    """One combination of a matrix."""
    content = aggregate(runs, False) if runs else None
    kept = ("run_id", "verdict", "reasons", "coverage", "in_figures")
    told = {
        "values": values,
        "runs": [path.name for path in runs],
        "verdict": content["verdict"] if content else None,
        "reasons": content["reasons"] if content else ["it was not run"],
        "agents": content["agents"] if content else None,
        "each": [{name: segment[name] for name in kept} for segment in content["segments"]] if content else [],
    }
    stages = [stage for stage in content["stages"] if stage["kind"] == StageKind.EXECUTE.value] if content else []
    segments = content["segments"] if content else []
    return told, [_row(stage, operation, segments) for stage in stages for operation in stage["operations"]]


def together(axes: Sequence[str], entries: Sequence[Entry]) -> Json:
    """A matrix of its combinations."""
    told = [entry for entry, _ in entries]
    rows = [{**row, "combination": position} for position, (_, some) in enumerate(entries) for row in some]
    best: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: -row["ops_per_s"]):
        best.setdefault(f"{row['stage']}/{row['operation']}", row["combination"])
    verdicts = {entry["verdict"] for entry in told}
    alike = verdicts.pop() if len(verdicts) == 1 else None
    verdict = alike or (Verdict.FAILED if verdicts <= {None, Verdict.FAILED.value} else Verdict.PARTIAL).value
    return {"schema": SCHEMA, "verdict": verdict, "axes": list(axes), "combinations": told, "rows": rows, "best": best}


def _row(stage: Json, operation: str, segments: Sequence[Json]) -> Json:
    figures = stage["operations"][operation]
    each = [
        {"run": place, **_figures(part["operations"][operation]), "limits": part["limits"]}
        for place, segment in enumerate(segments)
        if segment["in_figures"]
        for part in segment["stages"]
        if (part["name"], part["kind"]) == (stage["name"], stage["kind"]) and operation in part["operations"]
    ]
    return {
        "stage": stage["name"],
        "operation": operation,
        "runs": stage["runs"],
        "ops": figures["ops"],
        **_figures(figures),
        "error_kinds": figures["errors"],
        "spread": figures["spread"],
        "each": each,
    }


def _figures(figures: Json) -> Json:
    latency = figures["latency_us"]
    rates = {name: figures[name] for name in ("ops_per_s", "mib_per_s")}
    return {**rates, **{f"{name}_us": latency[name] for name in LATENCIES}, "errors": sum(figures["errors"].values())}


def lines(content: Json) -> list[str]:
    """One line for each combination that is not COMPLETE: which, and why."""
    return [
        f"{label(entry['values'])}: {entry['verdict'] or 'not run'}: {'; '.join(entry['reasons'])}"
        for entry in content["combinations"]
        if entry["verdict"] != Verdict.COMPLETE.value
    ]


def label(values: dict[str, str]) -> str:
    """A combination in words."""
    return ", ".join(f"{axis} {value}" for axis, value in values.items()) or "all runs together"


def write(directory: Path, content: Json) -> None:
    """matrix.json's figures as a table beside it, for spreadsheets."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow([*content["axes"], "verdict", "stage", "operation", *FIGURES])
    for row in content["rows"]:
        entry = content["combinations"][row["combination"]]
        cells = [f"{row[name]:.6g}" if isinstance(row[name], float) else row[name] for name in FIGURES]
        table.writerow([*entry["values"].values(), entry["verdict"], row["stage"], row["operation"], *cells])
    replace_file(directory / TABLE, [text.getvalue()])
    replace_file(directory / FILE, [json.dumps(content, indent=1) + "\n"])


def read(directory: Path) -> Json:
    """The content of a matrix's directory. Raises ConfigError when it is none."""
    try:
        found: Json = json.loads((directory / FILE).read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema {found['schema']}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{directory} is no directory of a matrix: {FILE}: {what}", remedy="Name one below --results-dir") from error
    return found
