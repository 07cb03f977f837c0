"""The effective configuration: what each key is, and who said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sai3ssh import config
from sai3ssh.cli import app
from sai3ssh.config.schema import WorkloadKeys
from tests.unit.test_config import EFFECTS, GOOD, changed

TEXT = """\
name: mixed
target: s3://${BUCKET:-bench-bucket}/x/
duration: ${MINUTES}m
s3: {endpoint_url: "http://${HOST:-127.0.0.1}:${PORT}", profile: "${LAB_SECRET}"}
steady: {slope: 3%, window: 10s, min_duration: 90}
io_rate: {iops: max}
prepare:
  ensure_objects:
    - base_uri: data/
      count: "4,915,200"
      size_spec: 4KiB
workload:
  - &get {op: get, path: data/, weight: 50, key_selection: zipf}
  - {op: put, path: new/, weight: 20, size_spec: {type: uniform, min: 1000, max: 128KiB}}
  - {<<: *get, op: stat}
stages:
  - {name: fill, type: prepare}
  - {name: load, type: execute, config: {duration: 5m}}
distributed:
  failure_policy: retry
  min_coverage: 95%
"""
ENVIRON = {"MINUTES": "2", "PORT": "9000", "LAB_SECRET": "hush-hush"}


def validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str, text: str = TEXT) -> str:
    """What `sai3ssh validate` prints."""
    monkeypatch.chdir(tmp_path)
    Path("w.yml").write_text(text)
    done = CliRunner().invoke(app, ["validate", "w.yml", *options], env=ENVIRON)
    assert done.exit_code == 0, done.output
    return done.output


def test_each_value_has_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--json", "--policy", "best_effort", "--reconnect-timeout", "90", "--name", "other", "--op-log")
    output = validated(tmp_path, monkeypatch, *options)
    document = json.loads(output)
    found: dict[str, Any] = document["configuration"]
    assert "hush" not in output
    # Options count, and are not only shown.
    plan = document["plan"]
    assert (plan["name"], plan["policy"]["name"], plan["policy"]["reconnect_timeout_s"]) == ("other", "best_effort", 90.0)
    assert plan["op_log_bytes"] == 4 << 30

    def where(line: int, column: int, **more: Any) -> dict[str, Any]:
        return {
            "kind": "environment" if True in more.get("variables", {}).values() else "file",
            "file": "w.yml",
            "line": line,
            "column": column,
            **more,
        }

    expected = {
        "name": {"value": "other", "origin": {"kind": "option", "option": "--name"}},
        "op_log_path": {"value": "--op-log", "origin": {"kind": "option", "option": "--op-log"}},
        "target": {"value": "s3://bench-bucket/x/", "origin": where(2, 1, variables={"BUCKET": False})},
        "duration": {"value": 120.0, "unit": "s", "origin": where(3, 1, variables={"MINUTES": True})},
        "s3.endpoint_url": {"value": "http://127.0.0.1:9000", "origin": where(4, 6, variables={"HOST": False, "PORT": True})},
        "s3.profile": {"value": "***", "origin": where(4, 57, variables={"LAB_SECRET": True})},
        "s3.multipart_chunksize": {"value": 8 << 20, "unit": "bytes", "origin": {"kind": "default"}},
        "s3.multipart_threshold": {"value": None, "unit": "bytes", "origin": {"kind": "default"}},
        "steady.slope": {"value": 0.03, "unit": "share", "origin": where(5, 10)},
        "io_rate.iops": {"value": 0.0, "unit": "operations/s", "origin": where(6, 11)},
        "prepare.ensure_objects.0.size_spec": {"value": 4096, "unit": "bytes", "origin": where(11, 7)},
        "prepare.ensure_objects.0.count": {"value": 4915200, "origin": where(10, 7)},
        "workload.0.key_selection.distribution": {"value": "zipf", "origin": where(13, 45)},
        "workload.0.key_selection.theta": {"value": None, "origin": {"kind": "default"}},
        "workload.1.size_spec.max": {"value": 131072, "unit": "bytes", "origin": where(14, 77)},
        "workload.2.op": {"value": "stat", "origin": where(15, 16)},
        "workload.2.weight": {"value": 50, "origin": where(13, 33)},
        "stages.1.duration": {"value": 300.0, "unit": "s", "origin": where(18, 42)},
        "stages.0.concurrency": {"value": None, "origin": {"kind": "default"}},
        "distributed.failure_policy": {"value": "best_effort", "origin": {"kind": "option", "option": "--policy"}},
        "distributed.reconnect_timeout": {"value": 90.0, "unit": "s", "origin": {"kind": "option", "option": "--reconnect-timeout"}},
        "distributed.min_coverage": {"value": 0.95, "unit": "share", "origin": where(21, 3)},
    }
    assert {key: found[key] for key in expected} == expected
    # What has no meaning for a put, or a stage of type prepare.
    assert not {"workload.1.key_selection", "workload.1.recursive", "stages.0.steady", "stages.0.duration"} & set(found)


def test_people_see_what_was_said_section_by_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.rstrip() for line in validated(tmp_path, monkeypatch, "--continue-on-agent-failure").splitlines()]
    rows = [" ".join(line.split()) for line in lines[: lines.index("")]]
    assert rows[:-1] == [
        "configuration of w.yml",
        "name mixed w.yml:1",
        "target s3://bench-bucket/x/ w.yml:2 ${BUCKET} not set",
        "duration 2m w.yml:3 ${MINUTES}",
        "workload",
        "1. op: get, path: data/, weight: 50, key_selection: {distribution: zipf} w.yml:13",
        "2. op: put, path: new/, weight: 20, size_spec: {type: uniform, min: 1000, max: 128KiB} w.yml:14",
        "3. op: stat, path: data/, weight: 50, key_selection: {distribution: zipf} w.yml:13,15",
        "prepare",
        "ensure_objects",
        "1. base_uri: data/, count: 4,915,200, size_spec: 4KiB w.yml:9-11",
        "io_rate",
        "iops 0 w.yml:6",
        "steady",
        "window 10s w.yml:5",
        "slope 3% w.yml:5",
        "min_duration 90s w.yml:5",
        "stages",
        "1. name: fill, type: prepare w.yml:17",
        "2. name: load, type: execute, duration: 5m w.yml:18",
        "distributed",
        "failure_policy best_effort --continue-on-agent-failure",
        "min_coverage 95% w.yml:21",
        "s3",
        "endpoint_url http://127.0.0.1:9000 w.yml:4 ${HOST} not set ${PORT}",
        "profile *** w.yml:4 ${LAB_SECRET}",
    ]
    assert rows[-1].endswith("keys have their defaults; --all shows them")
    # In columns, as they are read.
    starts = {line.index(word) for line, word in zip(lines[1:4], ("mixed", "s3://", "2m"), strict=True)}
    assert len(starts) == 1
    assert lines[lines.index("") + 1] == "mixed: valid"


def test_all_shows_defaults_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [" ".join(line.split()) for line in validated(tmp_path, monkeypatch, "--all").splitlines()]
    assert {"concurrency 16 default", "multipart_chunksize 8MiB default", "duration 5m w.yml:18", "ca_file - default"} <= set(rows)
    assert not any("--all" in row for row in rows)


@pytest.mark.parametrize("name", EFFECTS)
def test_every_key_of_a_file_is_among_them(name: str, tmp_path: Path) -> None:
    file = tmp_path / "w.yml"
    file.write_text(changed(**EFFECTS[name][0]))
    found = config.settings(config.load(file))
    given = {one.path for one in found if not one.default}
    tops = {path[0] for path in given}
    assert tops == {key for key, value in EFFECTS[name][0].items() if value not in (None, {})} | (
        {"target", "duration", "concurrency", "s3", "prepare", "workload"} - set(EFFECTS[name][0])
    )
    assert {one.path[0] for one in found} == set(WorkloadKeys.model_fields)
    assert len({one.path for one in found}) == len(found)


def test_a_file_without_anything_given_in_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = validated(tmp_path, monkeypatch, text=GOOD)
    assert "error_handling" not in output.split("mixed")[0]
