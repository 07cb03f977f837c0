"""The main job on eight real hosts: real sshd, real network, real S3 server, real kills."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests import oracle
from tests.lab.operator import Operator, journals, kinds

pytestmark = pytest.mark.lab

OBJECTS, SECONDS = map(int, os.environ.get("SAI3SSH_MAIN_JOB", "8000 5").split())
"""`make main-job` has 100,000 and 30."""
WORKLOAD = """
name: main-job
target: s3://{bucket}/
concurrency: 4
workers: 1
io_rate: {{iops: {rate}}}
s3: {{endpoint_url: "{endpoint}"}}
error_handling: {{max_total_errors: 0, error_rate_threshold: 0}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: {count}, size_spec: 4KiB}}
workload:
  - {{op: get, path: data/, weight: 50}}
  - {{op: put, path: new/, weight: 20, size_spec: {{type: uniform, min: 1, max: 16KiB}}}}
  - {{op: stat, path: data/, weight: 20}}
  - {{op: delete, path: data/, weight: 9}}
  - {{op: list, path: new/, weight: 1}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: mixed, type: execute, duration: {duration}}}
"""
CLEANUP = "  - {name: cleanup, type: cleanup}\n"
METHODS = {"get": "GET", "put": "PUT", "stat": "HEAD", "delete": "DELETE", "list": "LIST"}


def expected_objects(run: Path, count: int) -> set[str]:
    """What the journals say should be there, read without the product's code."""
    names = {f"data/prepared-{i:08d}.dat" for i in range(count)} | {f"data/deletable-{i:08d}.dat" for i in range(count)}
    for records in journals(run).values():
        for end in kinds(records, "stage_end"):
            for ranges in (end["made"]["deleted"] or {}).values():
                names -= {f"data/deletable-{i:08d}.dat" for lo, hi in ranges for i in range(lo, hi)}
            for put in end["made"]["puts"]:
                names |= {"new/" + put["key_format"] % i for i in range(put["count"]) if i not in put["failed"]}
    return names


def requests_in_journals(run: Path) -> Counter[str]:
    total: Counter[str] = Counter()
    for records in journals(run).values():
        for second in kinds(records, "sec"):
            for op, n in second["requests"].items():
                total[METHODS[op]] += n
    return total


def requests_in_results(run: Path) -> Counter[str]:
    total: Counter[str] = Counter()
    for stage in json.loads((run / "results.json").read_text())["stages"]:
        for op, figures in stage["operations"].items():
            total[METHODS[op]] += figures["requests"]
    return total


def workload(operator: Operator, count: int, duration: str, rate: str = "max") -> str:
    """`count` objects to read and as many to delete, in a new bucket."""
    return WORKLOAD.format(bucket=operator.bucket(), endpoint=operator.s3.endpoint_url, count=count, duration=duration, rate=rate)


@pytest.mark.timeout(900)
def test_thousands_of_objects_and_a_mix_are_exact(operator: Operator) -> None:
    done = operator.run(workload(operator, OBJECTS // 2, f"{SECONDS}s"))
    bucket = operator.last_bucket
    assert done.returncode == 0, done.stdout + done.stderr
    run = operator.last_run()
    listed = oracle.list_bucket(operator.s3, bucket)
    assert set(listed) == expected_objects(run, OBJECTS // 2)
    sample = random.Random(1).sample(sorted(name for name in listed if name.startswith("data/")), 100)
    oracle.check_content(operator.s3, bucket, sample, size=4096)
    logged = oracle.requests(operator.s3, bucket, operator.addresses)
    assert logged == requests_in_journals(run)
    assert logged == requests_in_results(run)
    results = json.loads((run / "results.json").read_text())
    assert results["verdict"] == "COMPLETE"
    assert results["coverage"] == 1.0
    operator.check_mirrors(run)


def test_cleanup_leaves_nothing(operator: Operator) -> None:
    done = operator.run(workload(operator, 400, "2s", "40") + CLEANUP)
    bucket = operator.last_bucket
    assert done.returncode == 0, done.stdout + done.stderr
    assert oracle.list_bucket(operator.s3, bucket) == {}
    assert oracle.requests(operator.s3, bucket, operator.addresses) == requests_in_journals(operator.last_run())


def test_killed_sessions_in_prepare_and_execute_lose_nothing(operator: Operator) -> None:
    process = operator.start(workload(operator, 3000, "8s", "40"))
    bucket = operator.last_bucket
    killed = []
    for stage in ("prepare", "mixed"):
        operator.wait_for_stage(process, stage)
        time.sleep(1.0)  # in the middle of it
        for host in operator.lab.hosts[2:4]:
            killed.append(host.kill_sessions())
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert all(killed)
    run = operator.last_run()
    results = json.loads((run / "results.json").read_text())
    assert results["verdict"] == "COMPLETE"
    events = [json.loads(line) for line in (run / "events.ndjson").read_text().splitlines()]
    assert Counter(event["agent"] for event in events if event["event"] == "link_down") >= Counter({"h3": 2, "h4": 2})
    operator.check_mirrors(run)
    for agent, records in journals(run).items():
        seconds = [second for second in kinds(records, "sec") if second["stage"] == 1]
        assert [second["second"] for second in seconds] == list(range(len(seconds)))
        assert len(seconds) >= 8
        assert all(a["to_clock_ns"] == b["from_clock_ns"] for a, b in pairwise(seconds))
        assert all(sum(op[0] for op in second["ops"].values()) > 0 for second in seconds[:8]), agent
    assert set(oracle.list_bucket(operator.s3, bucket)) == expected_objects(run, 3000)
    assert oracle.requests(operator.s3, bucket, operator.addresses) == requests_in_journals(run)
