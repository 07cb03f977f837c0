"""The operator's laptop falls asleep and leaves the network in the middle of a run on eight real hosts."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.lab import faults
from tests.lab.operator import Operator, journals, kinds

pytestmark = pytest.mark.lab

WORKLOAD = """
name: laptop
target: s3://{bucket}/
concurrency: 2
workers: 1
io_rate: {{iops: 20}}
s3: {{endpoint_url: "{endpoint}"}}
distributed: {{failure_policy: best_effort, reconnect_timeout: 6s}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: 400, size_spec: 1KiB}}
workload:
  - {{op: get, path: data/, weight: 100}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: read, type: execute, duration: 30s}}
"""
AWAY_S = 10.0


def test_a_controller_that_was_asleep_and_then_off_the_network_gives_nobody_up(operator: Operator) -> None:
    process = operator.start(WORKLOAD.format(bucket=operator.bucket(), endpoint=operator.s3.endpoint_url), "--skip", "all")
    operator.wait_for_stage(process, "read")
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(AWAY_S)
    os.killpg(process.pid, signal.SIGCONT)
    operator.wait_for(process, "slept")
    faults.unplugged("op", AWAY_S)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    run = operator.last_run()
    events = [json.loads(line) for line in (run / "events.ndjson").read_text().splitlines()]
    named = {event["event"] for event in events}
    assert {"slept", "cut_off", "cut_off_over"} <= named
    assert not {"agent_lost", "agent_failed", "go_on_without"} & named
    assert next(event for event in events if event["event"] == "slept")["seconds"] >= AWAY_S - 1.0
    assert "CUT_OFF: this machine reaches nothing" in out
    results = json.loads((run / "results.json").read_text())
    assert (results["verdict"], results["coverage"]) == ("COMPLETE", 1.0)
    for agent, records in journals(run).items():
        seconds = [second for second in kinds(records, "sec") if second["stage"] == 1]
        assert [second["second"] for second in seconds][:30] == list(range(30)), agent
        assert all(sum(op[0] for op in second["ops"].values()) > 0 for second in seconds[:30]), agent
    operator.check_mirrors(run)
