"""The frames of results: columns and dtypes are promises, also where there is nothing to tell."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sai3ssh import results
from sai3ssh.errors import ConfigError
from sai3ssh.results import frames

from .test_mirrors import eventful
from .test_results import SECOND, whole, write_run

PROMISED = {
    "operations": frames.OPERATIONS,
    "agents": frames.AGENTS,
    "timeseries": frames.TIMESERIES,
    "histograms": frames.HISTOGRAMS,
    "hosts": frames.HOSTS,
    "splits": frames.SPLITS,
    "endpoints": frames.ENDPOINTS,
    "losses": frames.LOSSES,
}


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in frame.dtypes.items()}


@pytest.mark.parametrize("empty", [False, True], ids=["of a run", "of one that has not begun"])
def test_columns_and_dtypes_are_those_that_are_promised(empty: bool, tmp_path: Path) -> None:
    write_run(tmp_path / "run", [eventful("a", 5 * SECOND)], {"at": 3.0, "event": "link_down", "agent": "a", "cause": "reset"})
    if empty:
        for name in ("events.ndjson", "results.json", "agents/a/journal.ndjson"):
            (tmp_path / "run" / name).unlink()
    run = results.load(tmp_path / "run")
    for name, promised in PROMISED.items():
        frame = getattr(run, name)
        assert dtypes(frame) == {column: str(pd.Series([], dtype=dtype).dtype) for column, dtype in promised.items()}, name
        assert frame.empty is (empty or name == "endpoints" or (name == "losses" and empty)), name
    assert str(run.events["at"].dtype) == "datetime64[ns, UTC]"
    assert run.finished is False


@pytest.mark.parametrize(("name", "text"), [("plan.json", "{"), ("hosts.json", ""), ("results.json", "[]")])
def test_what_cannot_be_read_is_a_typed_error(name: str, text: str, tmp_path: Path) -> None:
    write_run(tmp_path / "r", [whole("a", 5)])
    (tmp_path / "r" / name).write_text(text)
    with pytest.raises(ConfigError, match=name if name == "results.json" else "run .* cannot be read: JSONDecodeError"):
        results.load(tmp_path / "r")


def test_a_second_in_which_all_failed_is_in_the_time_series(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [eventful("a", 5 * SECOND)])
    series = results.load(tmp_path / "run").timeseries
    failed = series[series["errors"] > 0][["second", "operation", "ops", "errors", "retries", "p99_us"]]
    assert json.loads(failed[["second", "operation", "ops", "errors", "retries"]].to_json(orient="values")) == [
        [1, "get", 50, 2, 1],
        [2, "put", 0, 4, 0],
    ]
    assert series["second"].is_monotonic_increasing
    assert series["at"].iloc[0] == pd.Timestamp(series["wall_ns"].iloc[0], tz="UTC")
    assert len(series) == 7
