"""The document of a series, and the command that writes its report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import matrix, report
from sai3ssh.results import matrix as results

from .test_aggregate import agent, plan
from .test_report_document import ENDED
from .test_report_page import command, told
from .test_results import FULL, loaded, write_run

Json = dict[str, Any]
NAME = "matrix-x-20261201T000000Z-0a1b"


def run(path: Path, count: int, *events: Json, **changes: Any) -> Path:
    write_run(path, [agent("h1", 1e6, count, count)], *events, plan=plan(path.name, **changes))
    return path


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Two by two: one twice, one whose run goes on, one that was not run, and one with a report."""
    runs = [
        [run(tmp_path / "a1", 10, ENDED), run(tmp_path / "a2", 20, ENDED)],
        [run(tmp_path / "b #1", 30, ENDED)],
        [run(tmp_path / "c1", 5)],
        [],
    ]
    (tmp_path / "b #1" / "report.html").touch()
    values = [{"concurrency": c, "size": s} for c in ("8", "32") for s in ("4KiB", "1MiB")]
    path = tmp_path / NAME
    path.mkdir()
    content = results.matrix(
        ["concurrency", "size"], [(one, some if number != 2 else []) for number, (one, some) in enumerate(zip(values, runs, strict=True))]
    )
    content["combinations"][2]["runs"] = ["c1"]
    results.write(path, content)
    return path


def test_it_tells_every_combination_and_what_is_missing_of_it(series: Path) -> None:
    found = matrix.document(series, series.resolve())
    assert (found["format"], found["version"]) == ("sai3ssh.matrix", 1)
    assert found["series"] == {"run_id": NAME, "name": "x"}
    assert found["axes"] == [{"name": "concurrency", "values": ["8", "32"]}, {"name": "size", "values": ["4KiB", "1MiB"]}]
    assert found["verdict"] == {
        "verdict": "PARTIAL",
        "reasons": ["concurrency 32, size 4KiB: not run: its run c1 has not ended", "concurrency 32, size 1MiB: not run: it was not run"],
    }
    assert [(one["values"], one["verdict"], one["agents"]) for one in found["combinations"]] == [
        ([0, 0], "COMPLETE", 1),
        ([0, 1], "COMPLETE", 1),
        ([1, 0], None, None),
        ([1, 1], None, None),
    ]
    assert [[(one["run_id"], one["verdict"], one["report"]) for one in entry["runs"]] for entry in found["combinations"]] == [
        [("a1", "COMPLETE", None), ("a2", "COMPLETE", None)],
        [("b #1", "COMPLETE", "../b%20%231/report.html")],
        [("c1", None, None)],
        [],
    ]
    assert [(row["combination"], row["runs"], row["ops_per_s"]) for row in found["rows"]] == [(0, 2, 15.0), (1, 1, 30.0)]
    assert [(one["run"], one["ops_per_s"]) for one in found["rows"][0]["each"]] == [(0, 10.0), (1, 20.0)]
    assert found["plan"]["run_id"] == "a1"


def test_a_combination_that_the_clients_limited_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "full", [loaded("h1", *[FULL] * 10)], ENDED, plan=plan("full"))
    (row,) = results.matrix(["size"], [({"size": "1"}, [tmp_path / "full"])])["rows"]
    assert row["each"][0]["limits"][0].startswith("client-bound mix: h1: a worker's core or all cores were 98 % busy")


def test_a_run_that_is_gone_leaves_its_figures_as_they_were(series: Path) -> None:
    before = matrix.document(series, series)["rows"]
    shutil.rmtree(series.parent / "a2")
    found = matrix.document(series, series)
    assert found["rows"] == before
    assert found["combinations"][0]["reasons"][-1] == "run a2 is not there: its figures are as they were noted"


def test_a_run_whose_directory_was_renamed_is_told_once(series: Path) -> None:
    before, after = series.parent / "b #1", series.parent / "after"
    before.rename(after)
    (told_of,) = matrix.document_of_runs([series.parent / "a1", after], series.parent)["combinations"]
    assert [(one["run_id"], one["verdict"], one["report"]) for one in told_of["runs"]] == [
        ("a1", "COMPLETE", None),
        ("b #1", "COMPLETE", "after/report.html"),
    ]


def test_the_command_knows_a_series_by_its_name_and_runs_of_one_plan(
    series: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results_dir = ("--results-dir", str(series.parent))
    assert command(monkeypatch, "matrix-x", *results_dir) == 0
    assert capsys.readouterr().out == f"{series / 'report.html'}\n"
    assert told(series / "report.html")["combinations"][1]["runs"][0]["report"] == "../b%20%231/report.html"
    assert "<title>PARTIAL · x · sai3ssh</title>" in (series / "report.html").read_text()
    (series.parent / "sub").mkdir()
    assert command(monkeypatch, str(series), "-o", str(series.parent / "sub" / "y.html")) == 0
    assert told(series.parent / "sub" / "y.html")["combinations"][1]["runs"][0]["report"] == "../b%20%231/report.html"
    assert command(monkeypatch, str(series), "-o", str(series.parent / "y.html")) == 0
    assert told(series.parent / "y.html")["combinations"][1]["runs"][0]["report"] == "b%20%231/report.html"
    capsys.readouterr()

    monkeypatch.chdir(series)
    assert command(monkeypatch, ".") == 0
    assert capsys.readouterr().out == "report.html\n"
    assert told(series / "report.html")["combinations"][0]["verdict"] == "COMPLETE"
    assert command(monkeypatch, "a1", "b", "--json", *results_dir) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["axes"], found["verdict"]["verdict"]) == ([], "COMPLETE")
    assert [one["run_id"] for one in found["combinations"][0]["runs"]] == ["a1", "b #1"]
    assert command(monkeypatch, "a1", "a2", *results_dir) == 2
    assert "Name a file with -o" in capsys.readouterr().err
    run(series.parent / "other", 10, ENDED, seed=99)
    assert command(monkeypatch, "a1", "other", "--json", *results_dir) == 2
    assert "differ in seed" in capsys.readouterr().err


def test_a_matrix_without_any_run_has_a_report(tmp_path: Path) -> None:
    content = results.matrix(["size"], [({"size": "1"}, []), ({"size": "2"}, [])])
    found = report.matrix(content, [[], []], {"run_id": "m", "name": "m"}, tmp_path)
    assert (found["plan"], found["verdict"]["verdict"], found["rows"]) == (None, "FAILED", [])
    assert told(report.write(found, tmp_path)) == found
