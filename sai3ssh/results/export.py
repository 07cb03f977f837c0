"""Results as files for other programs: a table per frame, with units in the names of columns."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import ConfigError
from .files import Results, read
from .frames import Run, load

Json = dict[str, Any]
FRAMES = ("operations", "agents", "timeseries", "histograms", "splits", "endpoints", "hosts", "events", "network", "losses")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a text that begins with one of these for a formula."""


def export(runs: Sequence[Path], form: str, out: Path | None = None) -> list[Path]:
    """Writes runs as csv, parquet, json or xlsx; the files.

    csv, parquet, json: a file for each of FRAMES, and `run` with the verdict, in the directory `out` (`<run_id>-<form>` in this one); of
    several runs (`runs-<form>`) in a directory each below it. All rows begin with run_id and verdict. json is an object a line, with times
    in ISO 8601. Lists and objects within events are JSON text; of csv, texts that a spreadsheet would take for a formula begin with '.
    xlsx: one workbook of all runs (workbook.py). Raises ConfigError.
    """
    if not runs:
        raise ConfigError("no runs given", remedy="Name the run directories to export")
    for path in runs:
        if not (path / "plan.json").is_file():
            raise ConfigError(f"{path} is no run directory: it has no plan.json", remedy="Name directories below --results-dir")
    if form == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("the format parquet needs the library pyarrow", remedy="pip install 'sai3ssh[parquet]'")
    found = {path: read(path) for path in runs}
    ids = [str(results.content["run_id"]) for results in found.values()]
    if len(set(ids)) < len(runs):
        raise ConfigError(f"run {max(ids, key=ids.count)} is given twice", remedy="Name each run once")
    name = f"{ids[0] if len(ids) == 1 else 'runs'}"
    if form == "xlsx":
        from .workbook import write_workbook

        file = out or Path(f"{name}.xlsx")
        file = file / f"{name}.xlsx" if file.is_dir() else file
        with replacing(file) as temporary:
            write_workbook(temporary, found)
        return [file]
    place = out or Path(f"{name}-{form}")
    if place.exists() and not place.is_dir():
        raise ConfigError(f"{place} is a file, and {form} has a file for each table", remedy="Give a directory with -o")
    written = []
    for (path, results), run_id in zip(found.items(), ids, strict=True):
        directory = place if len(ids) == 1 else place / run_id
        directory.mkdir(parents=True, exist_ok=True)
        for table, frame in tables(load(path), results):
            file = directory / f"{table}.{form}"
            with replacing(file) as temporary:
                _write(frame, form, temporary)
            written.append(file)
    return written


def tables(run: Run, results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables of a run by name, `run` first, each with run_id and verdict."""
    content = results.content
    told = {
        "name": run.plan.name,
        "finished": run.finished,
        "reasons": "; ".join(results.reasons),
        "coverage": content["coverage"],
        "agents_expected": content["agents"]["expected"],
        "agents_reported": content["agents"]["reported"],
    }
    for name, frame in (("run", pd.DataFrame([told])), *((name, getattr(run, name)) for name in FRAMES)):
        # Columns of text that differ in nothing take next to no room as categories.
        marks = {mark: pd.Categorical([text] * len(frame)) for mark, text in (("run_id", run.plan.run_id), ("verdict", run.verdict.value))}
        rest = frame.rename(columns={"verdict": "run_verdict"})
        yield name, pd.DataFrame({**marks, **{column: _plain(rest[column]) for column in rest}}, copy=False)


def _plain(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column with nothing but numbers or texts in it: all else becomes JSON text."""
    if column.dtype != object:
        return column
    texts = {str, dict, list, bool}
    kinds = {type(value) for value in column if not _missing(value)}
    if not kinds & texts:
        return column.astype("float64")
    return column.map(
        lambda value: None if _missing(value) else value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    ).astype("str")


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _write(frame: pd.DataFrame, form: str, path: Path) -> None:
    if form == "csv":
        safe = frame.copy(deep=False)
        for name in frame:
            if isinstance(frame[name].dtype, pd.CategoricalDtype):
                safe[name] = frame[name].cat.rename_categories(as_text)
            elif not pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_datetime64_any_dtype(frame[name]):
                safe[name] = frame[name].map(as_text, na_action="ignore")
        safe.to_csv(path, index=False, lineterminator="\n")
    elif form == "json":
        frame.to_json(path, orient="records", lines=True, date_format="iso", date_unit="ns")
    else:
        frame.to_parquet(path, engine="pyarrow", index=False)


def as_text(value: Any) -> Any:
    """A text that a spreadsheet takes for nothing else."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` when all went well. Raises ConfigError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
            temporary = Path(scratch) / path.name
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}", remedy="Choose another place with -o") from error
