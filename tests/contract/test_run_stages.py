"""A whole run of stages as files of sai3-bench have them."""

from __future__ import annotations

import json

from tests.contract.test_run import Bench, bench

__all__ = ["bench"]

WORKLOAD = """
name: local
target: {target}
concurrency: 2
workers: 1
{more}
prepare:
  post_prepare_delay: {duration}
  prepare_strategy: parallel
  ensure_objects:
    - {{base_uri: data/, count: 100, size_spec: 1KiB}}
workload:
  - {{op: get, path: data/, weight: 1}}
  - {{op: put, path: new/, weight: 1, object_size: 10}}
distributed:
  start_delay: 500ms
  path_template: "agent-{{id}}/"
  agents:
    - {{id: left, concurrency_override: 1, env: {{MARK: here}}}}
    - {{id: right}}
  stages:
    - {{name: preflight, order: 1, type: validation, completion: validation_passed}}
    - {{name: fill, order: 2, type: prepare, completion: tasks_done, expected_objects: 100}}
    - {{name: load, order: 3, type: hybrid, completion: duration_or_tasks, expected_tasks: 601, max_duration: 10m, timeout_secs: 20m}}
    - {{name: say, order: 4, type: custom, completion: script_exit, command: /bin/sh, args: ["-c", "echo mark=$MARK"]}}
    - {{name: fail, order: 5, type: custom, command: "false", optional: true}}
    - {{name: clean, order: 6, type: cleanup, completion: tasks_done}}
"""


def test_stages_of_the_other_system_run_to_a_verdict(bench: Bench) -> None:
    process = bench.start("--skip", "all", "--json", text=WORKLOAD, duration="1s")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, (said[-2000:], errors)
    results = json.loads((bench.run / "results.json").read_text())
    assert results["verdict"] == "COMPLETE"
    stages = {stage["name"]: stage for stage in results["stages"]}
    assert list(stages) == ["fill", "fill-delay", "load", "say", "fail", "clean"]
    assert sum(figures["ops"] for figures in stages["load"]["operations"].values()) == 601
    assert {name: part["command"]["output"] for name, part in stages["say"]["agents"].items()} == {
        "left": "mark=here\n",
        "right": "mark=\n",
    }
    assert [reason for reason in results["reasons"] if reason.startswith("optional stage fail failed on left and 1 more: ")]
    assert stages["clean"]["operations"]["delete"]["ops"] == 100 + stages["load"]["operations"]["put"]["ops"]
    assert not [path for path in (bench.directory / "target").rglob("*") if path.is_file()]
