"""Results for other programs: what is in the files, and that they are read as they were meant."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from typer.testing import CliRunner

from sai3ssh import results
from sai3ssh.cli import app
from sai3ssh.errors import ConfigError
from sai3ssh.results import workbook
from sai3ssh.results.export import FRAMES, export
from sai3ssh.results.tables import PERF_COLUMNS, RESULT_COLUMNS

from .test_results import PLAN, SECOND, FakeAgent, whole, write_run

EVIL = "=cmd|'/C calc'!A0"
RESULTS_HEADER = (
    "operation\tsize_bucket\tbucket_idx\tmean_us\tp50_us\tp90_us\tp95_us\tp99_us\tmax_us\tavg_bytes\tops_per_sec\tthroughput_mibps\tcount"
)
PERF_HEADER = (
    "agent_id\ttimestamp_epoch_ms\telapsed_s\tstage"
    "\tget_ops\tget_bytes\tget_iops\tget_mbps\tget_mean_us\tget_p50_us\tget_p90_us\tget_p99_us"
    "\tput_ops\tput_bytes\tput_iops\tput_mbps\tput_mean_us\tput_p50_us\tput_p90_us\tput_p99_us"
    "\tmeta_ops\tmeta_iops\tmeta_mean_us\tmeta_p50_us\tmeta_p90_us\tmeta_p99_us"
    "\tcpu_user_pct\tcpu_system_pct\tcpu_iowait_pct\terrors\tis_warmup"
)


def make(path: Path, run_id: str, name: str = "h1", **more: Any) -> Path:
    agent = FakeAgent(name, 5 * SECOND, seed=4)
    for number in range(4):
        agent.second(number, 1e6, **more)
    agent.end(seconds=4)
    agent.final()
    plan = dataclasses.replace(PLAN, run_id=run_id, stages=(dataclasses.replace(PLAN.stages[0], duration_s=4.0),))
    events: list[dict[str, Any]] = [{"at": 3.0, "event": "link_down", "agent": name, "cause": EVIL}, {"at": 4.0, "event": "run_ended"}]
    events.insert(1, {"at": 3.5, "event": "agent_failed", "agent": name, "error": {"type": "AgentError"}})
    write_run(path, [agent], *events, plan=plan)
    return path


def test_tables_of_the_parent_system_have_its_header_and_one_row_per_what_it_reads(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [whole("h1", 5 * SECOND)])
    table = (tmp_path / "run" / "01_mix_results.tsv").read_bytes().decode().split("\n")
    rows = [line for line in table if not line.startswith("#")]
    assert rows[0] == RESULTS_HEADER
    assert [row.split("\t")[:3] for row in rows[1:-1]] == [["GET", "1B-8KiB", "1"], ["GET", "ALL", "98"]]
    assert all(len(row.split("\t")) == 13 for row in rows[:-1])
    assert rows[1].split("\t")[9:] == ["4096", "50.00", "0.20", "500"]
    log = [line for line in (tmp_path / "run" / "perf_log.tsv").read_bytes().decode().split("\n") if not line.startswith("#")]
    assert log[0] == PERF_HEADER
    assert len(log) == 12
    assert all(len(row.split("\t")) == 31 for row in log[:-1])
    first = log[1].split("\t")
    assert first[:8] == ["h1", "1700000000000", "1.000", "mix", "50", "204800", "50.00", "0.20"]
    assert first[12:20] == ["0", "0", "0.00", "0.00", "0.00", "0", "0", "0"]
    assert first[20:] == ["0", "0.00", "0.00", "0", "0", "0", "10.0", "5.0", "1.0", "0", "0"]
    assert [len(RESULT_COLUMNS), len(PERF_COLUMNS)] == [13, 31]


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_a_file_per_table_says_what_the_frames_say(form: str, tmp_path: Path) -> None:
    run = make(tmp_path / "run", "r1", errors={"get": {"timeout": 2}})
    files = export([run], form, tmp_path / "out")
    assert [file.name for file in files] == [f"{name}.{form}" for name in ("run", *FRAMES)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(file.name for file in files)
    readers: dict[str, Any] = {"csv": pd.read_csv, "json": lambda path: pd.read_json(path, lines=True), "parquet": pd.read_parquet}
    loaded = results.load(run)
    for file in files[1:]:
        expected = getattr(loaded, file.stem)
        if form == "json" and not len(expected):
            assert file.read_text().strip() == ""
            continue
        found = readers[form](file)
        assert list(found)[:2] == ["run_id", "verdict"]
        assert list(found)[2:] == [name if name != "verdict" else "run_verdict" for name in expected]
        assert len(found) == len(expected)
        for name in expected.select_dtypes("number"):
            assert found[name].to_numpy() == pytest.approx(expected[name].to_numpy(), nan_ok=True), name
    series = readers[form](files[3])
    assert series["errors"].tolist() == [2] * 4
    assert pd.to_datetime(series["at"]).iloc[0] == pd.Timestamp("2023-11-14T22:13:20Z")
    head = readers[form](files[0]).iloc[0]
    assert (head["run_id"], head["verdict"], head["coverage"], head["agents_expected"]) == ("r1", "COMPLETE", 1.0, 1)
    events = readers[form](tmp_path / "out" / f"events.{form}")
    assert json.loads(events["error"].dropna().iloc[0]) == {"type": "AgentError"}
    assert events["cause"].dropna().tolist() == [f"'{EVIL}" if form == "csv" else EVIL]


def test_several_runs_have_a_directory_each_and_one_workbook(tmp_path: Path) -> None:
    runs = [make(tmp_path / "a", "mixed-20260101T120000Z-ab12"), make(tmp_path / "b", "mixed-20260101T130000Z-cd34")]
    files = export(runs, "csv", tmp_path / "out")
    assert {file.parent.name for file in files} == {"mixed-20260101T120000Z-ab12", "mixed-20260101T130000Z-cd34"}
    (file,) = export(runs, "xlsx", tmp_path / "book.xlsx")
    book = openpyxl.load_workbook(file)
    assert book.sheetnames == ["runs", "ab12-01_mix", "ab12-perf_log", "cd34-01_mix", "cd34-perf_log"]
    assert [row[:3] for row in book["runs"].iter_rows(values_only=True)][1:] == [
        ("mixed-20260101T120000Z-ab12", "test", "COMPLETE"),
        ("mixed-20260101T130000Z-cd34", "test", "COMPLETE"),
    ]


def test_a_workbook_has_the_tables_with_formats_and_no_formulas(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "r1", name="=1+1")
    (file,) = export([run], "xlsx", tmp_path)
    assert file == tmp_path / "r1.xlsx"
    book = openpyxl.load_workbook(file)
    assert book.sheetnames == ["runs", "01_mix", "perf_log"]
    for sheet in book:
        assert sheet.freeze_panes == "A2"
        assert all(cell.font.bold for cell in sheet[1])
        assert not any(cell.data_type == "f" for row in sheet.iter_rows() for cell in row)
    stage, log = book["01_mix"], book["perf_log"]
    assert "\t".join(cell.value for cell in stage[1]) == RESULTS_HEADER
    assert "\t".join(cell.value for cell in log[1]) == PERF_HEADER
    assert [cell.value for cell in stage[2]][:3] == ["GET", "1B-8KiB", 1]
    assert (stage["M2"].value, stage["M2"].number_format, stage["D2"].number_format) == (200, "#,##0", "#,##0.00")
    assert (log["A2"].value, log["A2"].data_type, log["B2"].number_format) == ("=1+1", "s", "0")
    assert log.max_row == 5 + 1 + sum(line.startswith("#") for line in (run / "perf_log.tsv").read_text().splitlines())
    assert any(str(cell.value).startswith("# verdict COMPLETE") for cell in stage["A"])


def test_what_excel_cannot_hold_goes_on_in_the_next_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run", "r1")
    remarks = sum(line.startswith("#") for line in (run / "perf_log.tsv").read_text().splitlines())
    monkeypatch.setattr(workbook, "MOST_ROWS", 2 + remarks + 3)
    (file,) = export([run], "xlsx", tmp_path)
    book = openpyxl.load_workbook(file)
    assert book.sheetnames == ["runs", "01_mix", "perf_log", "perf_log (2)"]
    assert [book[name]["C2"].value for name in ("perf_log", "perf_log (2)")] == [1.0, 4.0]


def test_what_cannot_be_exported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run", "r1")
    (tmp_path / "file").write_text("")
    copied = tmp_path / "copied"
    make(copied, "r2")
    (copied / "hosts.json").write_text("")
    for runs, form, out, message in (
        ([tmp_path], "csv", None, "is no run directory"),
        ([run, run], "csv", None, "run r1 is given twice"),
        ([run], "csv", tmp_path / "file", "is a file"),
        ([], "csv", None, "no runs given"),
        ([copied], "csv", None, r"run .*copied cannot be read: JSONDecodeError: .*Copy all of its files"),
    ):
        with pytest.raises(ConfigError, match=message):
            export(runs, form, out)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    with pytest.raises(ConfigError, match=r"needs the library pyarrow. pip install 'sai3ssh\[parquet\]'"):
        export([run], "parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_a_disk_without_room_is_one_line(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "runs", "a-1")

    class Full:
        def __init__(self, **_: Any) -> None: ...

        def __enter__(self) -> str:
            # Each of its files is the device that has no room.
            place = tmp_path / "full"
            place.mkdir(exist_ok=True)
            for name in ("new.xlsx", *(f"{table}.csv" for table in (*FRAMES, "run"))):
                (place / name).unlink(missing_ok=True)
                (place / name).symlink_to("/dev/full")
            return str(place)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("tempfile.TemporaryDirectory", Full)
    out = tmp_path / ("new.xlsx" if form == "xlsx" else "new")
    with pytest.raises(ConfigError, match=rf"cannot write {out}.*: No space left on device\. Choose another place with -o"):
        export([run], form, out)


def test_the_command_names_what_it_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run", "r1")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", str(run), "--format", "xlsx"])
    assert (done.exit_code, done.output) == (0, "r1.xlsx\n")
    done = CliRunner().invoke(app, ["export", str(run), "--format", "json"])
    assert done.output.splitlines()[:2] == ["r1-json/run.json", "r1-json/operations.json"]
