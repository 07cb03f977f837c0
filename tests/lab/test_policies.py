"""Agents that are lost on real hosts: what the policy says happens, and the set of objects stays exact."""

from __future__ import annotations

import json
import time

import pytest

from tests import oracle
from tests.lab.operator import Operator, journals, kinds

pytestmark = pytest.mark.lab

COUNT = 24_000
WORKLOAD = """
name: policies
target: s3://{bucket}/
concurrency: 4
workers: 1
s3: {{endpoint_url: "{endpoint}"}}
distributed: {{failure_policy: {policy}, reconnect_timeout: 6s, agent_retry_delay_s: 2}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: {count}, size_spec: 1KiB}}
workload:
  - {{op: get, path: data/, weight: 100}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: read, type: execute, duration: 3s}}
"""


def workload(operator: Operator, bucket: str, policy: str) -> str:
    return WORKLOAD.format(bucket=bucket, endpoint=operator.s3.endpoint_url, policy=policy, count=COUNT)


def test_what_a_lost_host_had_not_prepared_is_prepared_by_the_others(operator: Operator) -> None:
    bucket = operator.bucket()
    process = operator.start(workload(operator, bucket, "best_effort"))
    operator.wait_for_stage(process, "prepare")
    time.sleep(1.0)
    host = operator.lab.hosts[5]
    try:
        with host.cut():
            host.crash()
            lost = operator.wait_for(process, "agent_lost", agent="h6")
            out, err = process.communicate(timeout=120)
    finally:
        host.boot()
        host.wait()
        # Back without a controller it would wait for credentials; the tests that follow want an idle host.
        host.exec("rm -rf /root/.local/state/sai3ssh/runs")
    assert "reconnect_timeout" in lost["error"]
    assert process.returncode == 3, out + err
    run = operator.last_run()
    results = json.loads((run / "results.json").read_text())
    assert results["verdict"] == "PARTIAL"
    assert any("h6" in reason for reason in results["reasons"])
    assert set(oracle.list_bucket(operator.s3, bucket)) == {f"data/prepared-{i:08d}.dat" for i in range(COUNT)}
    records = journals(run)
    done = {i for agent in records.values() for r in kinds(agent, "ledger") for lo, hi in r["ranges"] for i in range(lo, hi)}
    assert done == set(range(COUNT))
    assert all(len(kinds(agent, "adopted")) == 1 for name, agent in records.items() if name != "h6")
    assert "PARTIAL" in (run / "STATUS.txt").read_text()


def test_fail_fast_ends_the_run_with_the_first_link_that_breaks(operator: Operator) -> None:
    process = operator.start(workload(operator, operator.bucket(), "fail_fast"))
    operator.wait_for_stage(process, "prepare")
    assert operator.lab.hosts[1].kill_sessions()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 4, out + err
    events = [json.loads(line) for line in (operator.last_run() / "events.ndjson").read_text().splitlines()]
    reason = next(event["reason"] for event in events if event["event"] == "abort")
    assert "h2: link lost" in reason
    assert "fail_fast" in reason
    assert operator.processes() == {}
