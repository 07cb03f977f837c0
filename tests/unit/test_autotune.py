"""The search for the best setting, and what autotune makes of runs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import autotune, config
from sai3ssh.autotune import Tools, parse_demand, parse_setting, tune
from sai3ssh.config import Workload
from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.errors import ConfigError, RunError
from sai3ssh.model import Host, Plan, StageKind
from sai3ssh.search import GAIN, Point, Setting, Trial, search

from .test_aggregate import agent, plan
from .test_results import write_run


def storage(knee: int, slope: float = 0.0003, slow: float | None = None) -> Callable[[Point], Trial]:
    """One that gives more up to a concurrency, then a little less; rates vary by 1 %, and latency grows from there on."""
    rng = random.Random(knee)

    def measure(point: Point) -> Trial:
        (given,) = point
        rate = min(given, knee) * (1.0 - slope * max(0, given - knee))
        return Trial(rate * rng.gauss(1.0, 0.01), slow is None or given / knee < slow)

    return measure


@pytest.mark.parametrize("knee", [1, 3, 10, 37, 64, 100, 200, 511])
def test_the_best_is_found_in_few_trials(knee: int) -> None:
    found = search([Setting("concurrency", 1, 512, 16)], storage(knee), 20)
    assert found.best is not None
    assert min(found.best[0], knee) / knee > 0.93
    assert found.best[0] <= 1.5 * knee
    assert len(found.trials) <= 10
    assert not found.exhausted


@pytest.mark.parametrize("knee", [2, 37, 100])
def test_what_is_demanded_is_kept(knee: int) -> None:
    found = search([Setting("concurrency", 1, 512, 64)], storage(knee, slope=0.0, slow=0.8), 20)
    assert found.best is not None
    assert found.trials[found.best].allowed
    assert found.best[0] / knee >= 0.5


def test_settings_that_depend_on_each_other_are_tried_in_turn() -> None:
    def measure(point: Point) -> Trial:
        wide, deep = point
        return Trial(min(wide * deep, 256) - 0.1 * abs(deep - 8))

    found = search([Setting("wide", 1, 64, 4), Setting("deep", 1, 64, 4)], measure, 40)
    assert found.best is not None
    assert found.trials[found.best].score * (1 + GAIN) >= 256


def test_there_are_no_more_trials_than_allowed() -> None:
    found = search([Setting("concurrency", 1, 512, 1)], storage(300), 4)
    assert found.exhausted
    assert len(found.trials) == 4
    assert found.best == (8,)


def test_a_single_value_is_measured() -> None:
    found = search([Setting("concurrency", 8, 8, 8, (8,))], lambda point: Trial(1.0), 20)
    assert (found.best, list(found.trials), found.exhausted) == ((8,), [(8,)], False)


def test_nothing_is_best_where_nothing_is_allowed() -> None:
    found = search([Setting("concurrency", 1, 64, 16)], lambda point: Trial(1.0, False), 20)
    assert found.best is None
    assert (1,) in found.trials


FILE = """\
target: s3://bucket/x/
s3: {endpoint_url: "http://s3", multipart_threshold: 16MiB}
prepare:
  ensure_objects: [{base_uri: data/, count: 10, size_spec: 1}]
  cleanup: true
workload: [{op: get, path: data/, weight: 1}, {op: put, path: new/, weight: 1, size_spec: 1}]
stages: [{name: p, type: prepare}, {name: e, type: execute, concurrency: 3}]
"""


def load(tmp_path: Path, text: str = FILE) -> Workload:
    (tmp_path / "w.yml").write_text(text)
    return config.load(tmp_path / "w.yml")


def test_settings_are_read_from_the_command_line(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert autotune.default_settings(loaded) == ["concurrency", "s3.multipart_chunksize", "s3.multipart_concurrency"]
    assert parse_setting("concurrency", loaded) == Setting("concurrency", 1, 256, 16)
    assert parse_setting("concurrency=32..64", loaded) == Setting("concurrency", 32, 64, 32)
    assert parse_setting("concurrency=4,1,2", loaded).grid() == [1, 2, 4]
    chunk = parse_setting("s3.multipart_chunksize=8MiB..1GiB", loaded)
    assert (chunk.lowest, chunk.highest, chunk.first) == (8 << 20, 1 << 30, 8 << 20)
    demand = parse_demand("get.p99.9 < 20ms")
    assert (demand.operation, demand.figure, demand.limit_us) == ("get", "p99.9", 20_000.0)


BAD_SETTINGS = {
    "concurency": "did you mean 'concurrency'?",
    "concurrency=8..2": "expected two numbers from 1, the lower one first, found '8..2'",
    "concurrency=many": "expected a whole number such as 1000000 or 1,000,000, found 'many'",
    "dynamic_put_pool": "only what is a number from 1 can be tuned",
    "s3.multipart_chunksize=1x": "expected a size such as 4096, 64KiB or 8MB, found '1x'",
}


@pytest.mark.parametrize(("text", "expected"), BAD_SETTINGS.items())
def test_settings_that_are_none_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_setting(text, load(tmp_path))
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["get.p99 > 20ms", "get.p97 < 20ms", "p99 < 1s", "get.p99 < soon"])
def test_demands_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--under"):
        parse_demand(text)


class Runs:
    """Makes run directories whose rate is that of a storage with a knee."""

    def __init__(self, path: Path, fail_at: int = 1 << 30) -> None:
        self.path, self.fail_at = path, fail_at
        self.plans: list[Plan] = []

    def create(self, workload: Workload, change: Callable[[Plan], Plan]) -> RunDirectory:
        made, _ = config.compile_plan(workload, "r", [Host("a", "a")])
        made = change(made)
        self.plans.append(made)
        path = self.path / f"run-{len(self.plans)}"
        concurrency = made.stages[0].concurrency
        write_run(path, [agent("h1", 1e6 * concurrency, 10 * min(concurrency, 4), 1)], plan=plan(path.name))
        return RunDirectory(path)

    def steer(self, directory: RunDirectory) -> int:
        return 4 if len(self.plans) == self.fail_at else 0


def go(tmp_path: Path, runs: Runs, text: str = FILE, under: tuple[str, ...] = ()) -> tuple[int, Any]:
    loaded = load(tmp_path, text)
    tools = Tools(runs.create, runs.steer)
    demands = [parse_demand(one) for one in under]
    try:
        code = tune(loaded, [parse_setting("concurrency=1..8", loaded)], demands, "ops", 2.0, 20, tmp_path, tools, as_json=True)
    finally:
        (path,) = tmp_path.glob("autotune-*/autotune.json")
    return code, json.loads(path.read_text())


def test_objects_are_prepared_once_and_deleted_at_the_end(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    code, content = go(tmp_path, runs)
    assert code == 0
    assert content["best"] == {"concurrency": 4}
    first, *trials, last = [[stage.kind for stage in made.stages] for made in runs.plans]
    assert first == [StageKind.PREPARE]
    assert last == [StageKind.CLEANUP]
    assert trials == [[StageKind.EXECUTE, StageKind.CLEANUP]] * len(content["trials"])
    # A trial deletes what it has put, and nothing else.
    assert all(made.stages[1].populations == () for made in runs.plans[1:-1])
    assert runs.plans[-1].stages[0].populations == ("prepared",)
    assert [made.stages[0].concurrency for made in runs.plans[1:-1]] == [trial["values"]["concurrency"] for trial in content["trials"]]
    assert all(made.stages[0].duration_s == 2.0 for made in runs.plans[1:-1])
    # A storage that says that it has enough ends no trial.
    assert {made.error_limits.max_total_errors for made in runs.plans[1:-1]} == {0}
    assert {made.error_limits.rate_per_s for made in runs.plans[1:-1]} == {0}


def test_a_warm_up_comes_before_what_a_trial_measures(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    go(tmp_path, runs, FILE + "warmup_period: 10s\n")
    assert {(made.stages[0].duration_s, made.stages[0].warmup_s) for made in runs.plans[1:-1]} == {(12.0, 10.0)}


def test_a_demand_on_what_the_workload_does_not_do_is_refused_before_anything_begins(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    with pytest.raises(ConfigError, match=r"w.yml has no stat. It has get, put"):
        tune(load(tmp_path), [], [parse_demand("stat.p99 < 1s")], "ops", 2.0, 20, tmp_path, Tools(runs.create, runs.steer), as_json=True)
    assert runs.plans == []


def test_what_was_tried_is_kept_when_a_run_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs(tmp_path, fail_at=4)
    with pytest.raises(RunError, match="is not COMPLETE") as caught:
        go(tmp_path, runs)
    assert caught.value.exit_code == 4
    assert "The prepared objects are still there" in capsys.readouterr().err
    (path,) = tmp_path.glob("autotune-*/autotune.json")
    content = json.loads(path.read_text())
    assert len(content["trials"]) == 2
    assert content["best"] is None


def test_nothing_is_said_to_be_left_where_nothing_was_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Refused(Runs):
        def create(self, workload: Workload, change: Callable[[Plan], Plan]) -> RunDirectory:
            raise RunError("preflight failed", exit_code=5)

    with pytest.raises(RunError, match="preflight failed"):
        go(tmp_path, Refused(tmp_path))
    assert "still there" not in capsys.readouterr().err


def test_a_demand_that_nothing_keeps_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no setting is good: none keeps get.p99 < 10us"):
        go(tmp_path, Runs(tmp_path), under=("get.p99 < 10us",))


def test_a_workload_that_uses_its_objects_up_is_refused(tmp_path: Path) -> None:
    text = FILE.replace("{op: put, path: new/, weight: 1, size_spec: 1}", "{op: delete, path: data/, weight: 1}")
    loaded = load(tmp_path, text)
    with pytest.raises(ConfigError, match="deletes objects, and each trial needs them all"):
        tune(loaded, [], [], "ops", 2.0, 20, tmp_path, Tools(Runs(tmp_path).create, lambda _: 0), as_json=True)
    assert not list(tmp_path.glob("autotune-*"))
