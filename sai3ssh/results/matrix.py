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
SCHEMA = 1
FILE, TABLE = "matrix.json", "matrix.tsv"
FIGURES = ("ops_per_s", "mib_per_s", "mean_us", "p50_us", "p90_us", "p99_us", "p99.9_us", "max_us", "errors", "ops")


def matrix(axes: Sequence[str], combinations: Sequence[tuple[dict[str, str], Sequence[Path]]]) -> Json:
    """What the runs of each combination are together; those without a run, or whose runs all FAILED, have no figures.

    verdict        COMPLETE when all combinations are, FAILED when all are, else PARTIAL
    combinations   [{values {axis: text}, runs [run_id], verdict (None without a run), reasons}]
    rows           [{combination (its position, from 0), stage, operation, runs, ops, ops_per_s, mib_per_s, mean_us, p50_us ... max_us,
                   errors}] of execute stages. Several runs of a combination are merged as results.aggregate does: histograms added, rates
                   over the time of all
    best           {stage/operation: position of the combination with the most operations/s}
    """
    told, rows = [], []
    for position, (values, runs) in enumerate(combinations):
        content = aggregate(runs, False) if runs else None
        told.append(
            {
                "values": values,
                "runs": [path.name for path in runs],
                "verdict": content["verdict"] if content else None,
                "reasons": content["reasons"] if content else ["it was not run"],
            }
        )
        for stage in content["stages"] if content else ():
            if stage["kind"] == StageKind.EXECUTE.value:
                rows += [_row(position, stage, operation, figures) for operation, figures in stage["operations"].items()]
    best: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: -row["ops_per_s"]):
        best.setdefault(f"{row['stage']}/{row['operation']}", row["combination"])
    verdicts = {entry["verdict"] for entry in told}
    alike = verdicts.pop() if len(verdicts) == 1 else None
    verdict = alike or (Verdict.FAILED if verdicts <= {None, Verdict.FAILED.value} else Verdict.PARTIAL).value
    return {"schema": SCHEMA, "verdict": verdict, "axes": list(axes), "combinations": told, "rows": rows, "best": best}


def _row(position: int, stage: Json, operation: str, figures: Json) -> Json:
    latency = figures["latency_us"]
    return {
        "combination": position,
        "stage": stage["name"],
        "operation": operation,
        "runs": stage["runs"],
        "ops": figures["ops"],
        "ops_per_s": figures["ops_per_s"],
        "mib_per_s": figures["mib_per_s"],
        **{f"{name}_us": latency[name] for name in ("mean", "p50", "p90", "p99", "p99.9", "max")},
        "errors": sum(figures["errors"].values()),
    }


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
