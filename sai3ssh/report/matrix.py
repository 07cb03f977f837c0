"""The runs of a matrix, or repetitions of one plan, as one JSON document: what the report of a series shows.

Latencies are in us, as everywhere; wall times are Unix seconds. Percentiles are those of results.matrix: of merged histograms.

    format, version         "sai3ssh.matrix", 1: readers refuse another version
    written_at, by          wall time, version of sai3ssh
    series                  {run_id (the name of its directory, empty for runs that were named), name}
    verdict                 {verdict, reasons: a text for each combination that is not COMPLETE}
    axes                    [{name, values [text]}], as the workload file has them; empty: all runs are of one plan
    combinations            [{label, values [position in the axis' values], verdict (null: not run), reasons, agents (null where its runs
                            differ in it), runs}]
    rows                    as in matrix.json, `each` by the position in the combination's runs
    plan                    plan.json of the first run that is there, or null

A run of a combination:

    run_id, report          report is the relative address of its own report where that is there, or null
    verdict                 null: it has not ended
    reasons, coverage, in_figures   as in matrix.json; empty, null and false of one that has not ended
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import __version__
from ..results import matrix as results
from .page import NAME

Json = dict[str, Any]
FORMAT, VERSION = "sai3ssh.matrix", 1
NOT_ENDED: Json = {"verdict": None, "reasons": [], "coverage": None, "in_figures": False}


def matrix(content: Json, directories: Sequence[Sequence[Path]], series: Json, beside: Path) -> Json:
    """The document of what results.matrix gave. `directories` has the runs of each combination; `beside` is the directory that the report
    will be in."""
    seen: dict[str, dict[str, int]] = {axis: {} for axis in content["axes"]}
    for entry in content["combinations"]:
        for axis, value in entry["values"].items():
            seen[axis].setdefault(value, len(seen[axis]))
    plan = next((run / "plan.json" for some in directories for run in some if (run / "plan.json").is_file()), None)
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_at": time.time(),
        "by": __version__,
        "series": series,
        "verdict": {"verdict": content["verdict"], "reasons": results.lines(content)},
        "axes": [{"name": axis, "values": list(values)} for axis, values in seen.items()],
        "combinations": [
            {
                "label": results.label(entry["values"]),
                "values": [seen[axis][value] for axis, value in entry["values"].items()],
                **{name: entry[name] for name in ("verdict", "reasons", "agents")},
                "runs": _runs(entry, runs, beside),
            }
            for entry, runs in zip(content["combinations"], directories, strict=True)
        ],
        "rows": content["rows"],
        "plan": json.loads(plan.read_text(encoding="utf-8")) if plan is not None else None,
    }


def _runs(entry: Json, directories: Sequence[Path], beside: Path) -> list[Json]:
    """Those that ended first, in their order: rows name them by it."""
    known = {run["run_id"]: run for run in entry["each"]}
    where = {_run_id(path): path for path in directories}
    rest = [name for name in where if name not in known]
    return [
        {"run_id": name, **(known.get(name) or NOT_ENDED), "report": _address(where[name], beside) if name in where else None}
        for name in (*known, *rest)
    ]


def _run_id(run: Path) -> str:
    """Its directory may have another name by now."""
    plan = run / "plan.json"
    return str(json.loads(plan.read_text(encoding="utf-8"))["run_id"]) if plan.is_file() else run.name


def _address(run: Path, beside: Path) -> str | None:
    if not (run / NAME).is_file():
        return None
    return quote(Path(os.path.relpath((run / NAME).resolve(), beside)).as_posix())
