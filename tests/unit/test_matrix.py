"""A matrix in a workload file: its combinations, what is wrong with one, and its runs side by side."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sai3ssh import config
from sai3ssh.cli import app
from sai3ssh.config import Combination
from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.errors import ConfigError, RunError
from sai3ssh.launch import Launch
from sai3ssh.matrix import Series, run
from sai3ssh.model import Host
from sai3ssh.results import matrix as results
from sai3ssh.ui.matrix import print_matrix

from .test_aggregate import agent, failed_run, plan
from .test_report_page import told as told_in
from .test_results import write_run

FILE = """\
target: s3://bucket/x/
s3: {{endpoint_url: "http://s3"}}
concurrency: 4
{matrix}
prepare:
  ensure_objects: [{{base_uri: data/, count: 10, min_size: 1, max_size: 2}}]
  {cleanup}
workload:
  - {{op: get, path: data/, weight: 1, {more}}}
  - {{op: put, path: new/, weight: 1, object_size: 1}}
"""


def load(tmp_path: Path, matrix: str, cleanup: str = "cleanup: true", more: str = "concurrency: 1") -> list[Combination]:
    file = tmp_path / "w.yml"
    file.write_text(FILE.format(matrix=matrix, cleanup=cleanup, more=more))
    return config.load_all(file)


def test_each_combination_is_a_workload_of_its_own(tmp_path: Path) -> None:
    found = load(
        tmp_path, "matrix: {concurrency: [8, 32], size: [4KiB, {type: uniform, min: 1KiB, max: 2KiB}], s3.multipart_chunksize: [8MiB]}"
    )
    assert [list(one.values.values()) for one in found] == [
        ["8", "4KiB", "8MiB"],
        ["8", "{type: uniform, min: 1KiB, max: 2KiB}", "8MiB"],
        ["32", "4KiB", "8MiB"],
        ["32", "{type: uniform, min: 1KiB, max: 2KiB}", "8MiB"],
    ]
    keys = [one.workload.keys for one in found]
    assert [one.concurrency for one in keys] == [8, 8, 32, 32]
    for one in keys:
        (entry,), (_, put) = one.prepare.ensure_objects, one.workload
        assert entry.size_spec == put.size_spec
        assert entry.min_size is entry.max_size is put.object_size is None
        assert one.s3.multipart_chunksize == 8 << 20
    assert [one.workload[1].size_spec.max for one in keys if one.workload[1].size_spec] == [4096, 2048, 4096, 2048]
    assert config.load(tmp_path / "w.yml").keys == keys[0]


def test_a_file_without_one_is_one_workload_without_values(tmp_path: Path) -> None:
    (one,) = load(tmp_path, "")
    assert one.values == {}


BAD = {
    "matrix: [1]": "w.yml:4:1: matrix: expected keys with lists of values, for example matrix: {concurrency: [8, 32]}",
    "matrix: {concurrency: 8}": "w.yml:4:10: matrix.concurrency: expected a list of values, found 8",
    "matrix: {concurrency: []}": "w.yml:4:10: matrix.concurrency: expected a list of values, found []",
    "matrix: {concurency: [8]}": "w.yml:4:10: matrix.concurency: there is no key 'concurency'; did you mean 'concurrency'?",
    "matrix: {workload.7.weight: [8]}": "w.yml:4:10: matrix.workload.7.weight: there is no such place in the file (7)",
    "matrix: {concurrency.x: [8]}": "w.yml:4:10: matrix.concurrency.x: there is no such place in the file ('x')",
    "matrix: {name: [a, b]}": "w.yml:4:10: matrix.name: a name does nothing; vary what the load is",
    "matrix: {concurrency: [8, 8]}": "w.yml:4:27: matrix.concurrency: 8 is given twice",
    "matrix: {s3.multipart_chunk: [8MiB]}": "w.yml:4:31: unknown key 'multipart_chunk'; did you mean 'multipart_chunksize'?",
    "matrix: {concurrency: [8, many]}": "w.yml:4:27: concurrency:",
    "matrix: {azure.account: [aaa, 5]}": "w.yml:4:31: azure.account: expected text, found 5",
    "matrix: {matrix: [{}]}": "w.yml:4:10: matrix.matrix: there is no key 'matrix'",
    f"matrix: {{seed: {list(range(5000))}}}": "w.yml:4:10: matrix.seed: 5,000 values, expected at most 1,000 combinations; take out values",
    f"matrix: {{seed: {list(range(40))}, workers: {list(range(30))}}}": "w.yml:4:1: matrix: 1,200 combinations, expected at most 1,000",
}


@pytest.mark.parametrize(("matrix", "expected"), BAD.items(), ids=range(len(BAD)))
def test_what_is_wrong_is_told_where_it_stands(matrix: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, matrix)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("matrix", "options", "expected"),
    [
        ("matrix: {size: [1KiB, 2KiB]}", {"cleanup": ""}, "prepare different objects under the same names, and nothing deletes them"),
        ("matrix: {warmup_period: [1s, 1000ms]}", {}, "matrix.warmup_period: 1s and 1000ms make the same run"),
    ],
)
def test_what_is_wrong_with_it_as_a_whole_is_told_before_anything_begins(matrix: str, options: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check_matrix(load(tmp_path, matrix, **options), [Host("a", "a")])
    assert expected in str(caught.value)


def three(tmp_path: Path) -> list[tuple[dict[str, str], list[Path]]]:
    found = []
    for number, count in enumerate((10, 50, 20)):
        path = tmp_path / f"r{number}"
        write_run(path, [agent("h1", 1e6, count, number)], plan=plan(f"r{number}"))
        found.append(({"concurrency": str(2**number)}, [path]))
    return found


def test_runs_are_side_by_side_and_the_best_is_known(tmp_path: Path) -> None:
    content = results.matrix(["concurrency"], [*three(tmp_path), ({"concurrency": "8"}, [])])
    assert content["verdict"] == "PARTIAL"
    assert [entry["verdict"] for entry in content["combinations"]] == ["COMPLETE"] * 3 + [None]
    assert [row["ops"] for row in content["rows"]] == [100, 500, 200]
    assert content["best"] == {"mix/get": 1}
    assert results.lines(content) == ["concurrency 8: not run: it was not run"]
    told = content["combinations"][0]["each"]
    assert [(run["run_id"], run["verdict"], run["in_figures"]) for run in told] == [("r0", "COMPLETE", True)]
    results.write(tmp_path, content)
    assert results.read(tmp_path) == content
    head, *lines = (tmp_path / results.TABLE).read_text().splitlines()
    assert head.split("\t")[:5] == ["concurrency", "verdict", "stage", "operation", "ops_per_s"]
    assert [line.split("\t")[0] for line in lines] == ["1", "2", "4"]
    console = Console(file=io.StringIO(), width=80)
    print_matrix(content, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "concurrency 8: not run: it was not run" in text
    assert "matrix of 4 combinations, 3 of them run" in text
    assert results.matrix(["concurrency"], [({"concurrency": "8"}, [])])["verdict"] == "FAILED"


def test_a_series_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    combinations = load(tmp_path, "matrix: {concurrency: [1, 2, 4]}")
    made: list[str] = []

    def create(combination: Combination) -> RunDirectory:
        name = f"c{combination.values['concurrency']}-{len(made)}"
        made.append(name)
        ended = {"at": 9.5, "event": "run_ended", "verdict": "COMPLETE", "reasons": [], "exit_code": 0}
        write_run(tmp_path / name, [agent("h1", 1e6, 10, 1)], *([] if name == "c2-1" else [ended]), plan=plan(name))
        return RunDirectory(tmp_path / name)

    steered: list[tuple[str, str]] = []

    def steer(how: str, codes: list[int]) -> Any:
        return lambda directory: steered.append((how, directory.path.name)) or codes.pop(0)

    def go(series: Series, once: list[int], again: list[int]) -> int:
        return run(series, create, steer("once", once), steer("again", again), 1, 0.0, as_json=True)

    series = Series.begin(tmp_path, "x", combinations)
    assert go(series, [0, 130], []) == 130
    assert [entry["runs"] for entry in results.read(series.path)["combinations"]] == [["c1-0"], ["c2-1"], []]
    again = Series.go_on(series.path, combinations)
    assert [[run.name for run in runs] for runs in again.runs] == [["c1-0"], ["c2-1"], []]

    def end(directory: RunDirectory) -> int:
        steered.append(("again", directory.path.name))
        with directory.events.open("a") as log:
            log.write('{"at": 9.5, "event": "run_ended", "verdict": "COMPLETE", "reasons": [], "exit_code": 0}\n')
        return 0

    assert told_in(series.path / "report.html")["verdict"]["verdict"] == "PARTIAL"
    assert run(again, create, steer("once", [0]), end, 1, 0.0, as_json=True) == 0
    assert told_in(series.path / "report.html")["verdict"] == {"verdict": "COMPLETE", "reasons": []}
    assert steered == [("once", "c1-0"), ("once", "c2-1"), ("again", "c2-1"), ("once", "c4-2")]
    with pytest.raises(ConfigError, match="of another matrix"):
        Series.go_on(series.path, combinations[:2])
    with pytest.raises(ConfigError, match="is no directory of a matrix"):
        Series.go_on(tmp_path, combinations)


def test_a_series_goes_on_beside_its_runs_whatever_the_results_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    def of(_workload: Any, _hosts: Any, results_dir: Path, *_: Any, **_options: Any) -> Any:
        places.append(results_dir)
        raise ConfigError("that is enough")

    monkeypatch.setattr(Launch, "of", of)
    monkeypatch.chdir(tmp_path)
    series = Series.begin(tmp_path / "elsewhere", "x", load(tmp_path, "matrix: {concurrency: [1, 2]}"))
    series.note()
    (tmp_path / "hosts.yml").write_text("all: {hosts: {a: {ansible_connection: local}}}")
    CliRunner().invoke(app, ["run", "w.yml", "-i", "hosts.yml", "--continue", str(series.path)])
    CliRunner().invoke(app, ["run", "w.yml", "-i", "hosts.yml", "--results-dir", "elsewhere", "--continue", str(series.path)])
    assert places == [tmp_path / "elsewhere", Path("elsewhere")]


def test_what_has_been_read_of_a_series_is_not_read_again_after_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    combination = results.combination

    def counted(values: dict[str, str], runs: Sequence[Path]) -> results.Entry:
        read.extend(run.name for run in runs)
        return combination(values, runs)

    def create(combination: Combination) -> RunDirectory:
        path = tmp_path / f"c{combination.values['concurrency']}"
        ended = {"at": 9.5, "event": "run_ended", "verdict": "COMPLETE", "reasons": [], "exit_code": 0}
        write_run(path, [agent("h1", 1e6, 10, 1)], ended, plan=plan(path.name))
        return RunDirectory(path)

    monkeypatch.setattr(results, "combination", counted)
    series = Series.begin(tmp_path, "x", load(tmp_path, "matrix: {concurrency: [1, 2, 3, 4, 5]}"))
    assert run(series, create, lambda _: 0, lambda _: 0, 1, 0.0, as_json=True) == 0
    # Once when it has ended, and once at the end of the series, since verdicts may have been revised.
    assert sorted(read) == sorted(2 * [f"c{n}" for n in range(1, 6)])


def test_validate_shows_all_combinations(tmp_path: Path) -> None:
    load(tmp_path, "matrix: {concurrency: [8, 32]}")
    shown = CliRunner().invoke(app, ["validate", str(tmp_path / "w.yml")])
    assert "matrix: 2 combinations, in all about 2:00; shown above is the first" in shown.stdout
    told = CliRunner().invoke(app, ["validate", str(tmp_path / "w.yml"), "--json"])
    assert json.loads(told.stdout)["matrix"] == [{"concurrency": "8"}, {"concurrency": "32"}]
    load(tmp_path, "matrix: {warmup_period: [1s, 1000ms]}")
    assert isinstance(CliRunner().invoke(app, ["validate", str(tmp_path / "w.yml")]).exception, ConfigError)


def test_a_run_that_was_stopped_is_run_again(tmp_path: Path) -> None:
    combinations = load(tmp_path, "matrix: {concurrency: [1, 2]}")
    stopped = {"at": 9.4, "event": "stop_requested", "reason": "SIGINT at the controller"}
    ended = {"at": 9.5, "event": "run_ended", "verdict": "PARTIAL", "reasons": [], "exit_code": 130}
    series = Series.begin(tmp_path, "x", combinations)
    for number, events in enumerate(([ended], [stopped, ended])):
        name = f"c{number}"
        write_run(tmp_path / name, [agent("h1", 1e6, 10, 1)], *events, plan=plan(name))
        series.runs[number].append(tmp_path / name)
    series.note()
    assert [[run.name for run in runs] for runs in Series.go_on(series.path, combinations).runs] == [["c0"], []]


def test_a_host_that_fails_between_two_runs_is_told_with_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = Series.begin(tmp_path, "x", load(tmp_path, "matrix: {concurrency: [1, 2]}"))

    def create(combination: Combination) -> RunDirectory:
        if combination.values["concurrency"] == "2":
            raise RunError("preflight failed: h1", exit_code=5)
        ended = {"at": 9.5, "event": "run_ended", "verdict": "COMPLETE", "reasons": [], "exit_code": 0}
        write_run(tmp_path / "c1", [agent("h1", 1e6, 10, 1)], ended, plan=plan("c1"))
        return RunDirectory(tmp_path / "c1")

    with pytest.raises(RunError):
        run(series, create, lambda _: 0, lambda _: 0, 1, 0.0, as_json=True)
    assert f"--continue {series.path}" in capsys.readouterr().err
    assert told_in(series.path / "report.html")["verdict"]["reasons"] == ["concurrency 2: not run: it was not run"]
    assert [entry["runs"] for entry in results.read(series.path)["combinations"]] == [["c1"], []]


def test_repetitions_stand_beside_what_they_are_together(tmp_path: Path) -> None:
    runs = []
    for number, count in enumerate((10, 30)):
        agents = [agent("h1", 1e6, count, number, errors={"get": {"reset": 1}}), agent("h2", 1e6, count, number)]
        write_run(tmp_path / f"r{number}", agents, plan=plan(f"r{number}"))
        runs.append(tmp_path / f"r{number}")
    content = results.matrix([], [({}, [*runs, failed_run(tmp_path / "r2", "r2")])])
    ((row,), (entry,)) = content["rows"], content["combinations"]
    assert [run["in_figures"] for run in entry["each"]] == [True, True, False]
    assert [(one["run"], one["ops_per_s"], one["errors"]) for one in row["each"]] == [(0, 20.0, 10), (1, 60.0, 10)]
    assert (row["ops_per_s"], row["error_kinds"], row["spread"]["ops_per_s"]["median"]) == (40.0, {"reset": 20}, 40.0)
    assert results.lines(content)[0].startswith("all runs together: PARTIAL: r2 FAILED and is not in the figures")
