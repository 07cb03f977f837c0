"""What goes wrong before a run: one clear message that names the host and what to do, and nothing half-started."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.operator import Operator, journals, kinds

pytestmark = pytest.mark.lab

WORKLOAD = """
name: errors
target: s3://{bucket}/
concurrency: 2
workers: 1
io_rate: {{iops: 20}}
duration: {duration}
s3: {{endpoint_url: "{endpoint}"}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: {count}, size_spec: 4KiB}}
workload:
  - {{op: get, path: data/, weight: 100}}
"""


def workload(operator: Operator, bucket: str, count: int = 800, duration: str = "5s") -> str:
    return WORKLOAD.format(bucket=bucket, endpoint=operator.s3.endpoint_url, count=count, duration=duration)


def change(operator: Operator, host: str, **variables: Any) -> None:
    """Adds variables to one host of the inventory."""
    content = yaml.safe_load(operator.inventory.read_text())
    content["all"]["children"]["lab"]["hosts"][host].update(variables)
    operator.inventory.write_text(yaml.safe_dump(content, sort_keys=False))


def check_refused(operator: Operator, done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The message is there, once and without a traceback; no agent runs anything, no host keeps a run."""
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    for word in words:
        assert word in done.stderr, said
    assert not operator.results.exists()
    assert operator.processes() == {}
    for host in operator.lab.hosts:
        assert host.exec("ls /root/.local/state/sai3ssh/runs 2>/dev/null || true").stdout.split() == operator.kept(host), host.name


@pytest.fixture(autouse=True)
def _note_kept_runs(operator: Operator) -> None:
    operator.note_kept()


def test_host_that_known_hosts_does_not_know(operator: Operator, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    lines = operator.lab.known_hosts.read_text().splitlines()
    known.write_text("\n".join(line for line in lines if not line.startswith(operator.lab.hosts[4].address + " ")) + "\n")
    change(operator, "h5", ansible_ssh_common_args=f"-F /dev/null -o UserKnownHostsFile={known} -o IdentityAgent=none")
    check_refused(operator, operator.run(workload(operator, operator.bucket())), 5, "h5", "host key", str(known))


def test_changed_host_key(operator: Operator, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    h1, h2 = operator.lab.hosts[:2]
    known.write_text(f"{h1.address} {h2.host_key}\n")
    change(operator, "h1", ansible_ssh_common_args=f"-F /dev/null -o UserKnownHostsFile={known} -o IdentityAgent=none")
    check_refused(operator, operator.run(workload(operator, operator.bucket())), 5, "h1", "key")


def test_wrong_key(operator: Operator, tmp_path: Path) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    change(operator, "h3", ansible_ssh_private_key_file=str(key))
    check_refused(operator, operator.run(workload(operator, operator.bucket())), 5, "h3", "root@")


def test_unknown_host_name(operator: Operator) -> None:
    change(operator, "h2", ansible_host="no-such-host.invalid")
    check_refused(operator, operator.run(workload(operator, operator.bucket()), "--connect-timeout", "3"), 5, "h2", "no-such-host.invalid")


def test_wrong_secret(operator: Operator) -> None:
    secret = "wr0ng" * 8
    done = operator.run(workload(operator, operator.bucket()), AWS_SECRET_ACCESS_KEY=secret)
    check_refused(operator, done, 5, "h1", "SignatureDoesNotMatch")
    assert secret not in done.stdout + done.stderr


def test_missing_bucket(operator: Operator) -> None:
    check_refused(operator, operator.run(workload(operator, "no-such-bucket")), 5, "no-such-bucket")


def test_full_disk(operator: Operator) -> None:
    host = operator.lab.hosts[6]
    host.exec("mkdir -p /mnt/small && mount -t tmpfs -o size=256k tmpfs /mnt/small")
    change(operator, host.name, sai3ssh_agent_state_dir="/mnt/small/state")
    try:
        check_refused(
            operator, operator.run(workload(operator, operator.bucket(), duration="3600s")), 5, "h7", "host.disk", "free in /mnt/small"
        )
    finally:
        host.exec("pkill -f '[/]mnt/small/state'; umount -l /mnt/small")


def test_plan_with_a_typo(operator: Operator) -> None:
    text = workload(operator, "some-bucket").replace("concurrency: 2", "concurency: 2")
    done = operator.run(text)
    check_refused(operator, done, 2, ":4:1: unknown key 'concurency'; did you mean 'concurrency'?")


def test_empty_inventory_group(operator: Operator) -> None:
    content = yaml.safe_load(operator.inventory.read_text())
    content["all"]["children"]["spare"] = {"hosts": {}}
    operator.inventory.write_text(yaml.safe_dump(content))
    check_refused(operator, operator.run(workload(operator, "some-bucket"), "--limit", "spare"), 2, "'spare'", "--limit")


def test_agent_of_another_version_in_charge(operator: Operator) -> None:
    """An agent of another build has a run in progress on h4: it is left alone, and the message says who is there."""
    host = operator.lab.hosts[3]
    host.exec("mkdir -p /tmp/other && cp /root/.cache/sai3ssh/agent-*.pyz /tmp/other/agent.pyz", check=False)
    if host.exec("test -s /tmp/other/agent.pyz", check=False).returncode:
        operator.run(workload(operator, operator.bucket(), count=80, duration="1s"))
        operator.note_kept()
        host.exec("mkdir -p /tmp/other && cp /root/.cache/sai3ssh/agent-*.pyz /tmp/other/agent.pyz")
    # The daemon of the last run holds its lock until it has ended; only then can another one take the directory.
    host.exec("printf x >> /tmp/other/agent.pyz; pkill -f '[s]erve --foreground'; flock -w 10 /root/.local/state/sai3ssh/agent.lock true")
    host.exec("setsid python3 /tmp/other/agent.pyz serve --state /root/.local/state/sai3ssh >/dev/null 2>&1")
    host.exec("mkdir -p /root/.local/state/sai3ssh/runs/other-run/h4 && touch /root/.local/state/sai3ssh/runs/other-run/h4/plan.json")
    try:
        done = operator.run(workload(operator, operator.bucket()))
        assert done.returncode == 5, done.stdout + done.stderr
        for word in ("h4: host.agent", "other-run in progress"):
            assert word in done.stderr, done.stderr
    finally:
        host.exec("rm -rf /root/.local/state/sai3ssh/runs/other-run; sleep 0.6")
    # Idle, it makes room.
    done = operator.run(workload(operator, operator.bucket(), count=80, duration="1s"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_interrupted_once_agents_are_stopped_and_results_are_partial(operator: Operator) -> None:
    process = operator.start(workload(operator, operator.bucket(), duration="60s"))
    operator.wait_for_stage(process, "execute")
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    assert operator.processes() == {}
    run = operator.last_run()
    results = json.loads((run / "results.json").read_text())
    assert results["verdict"] == "PARTIAL"
    assert "PARTIAL" in (run / "02_execute_results.tsv").read_text()
    assert results["stages"][1]["operations"]["get"]["ops"] > 100
    assert 0.0 < results["coverage"] < 0.5
    for records in journals(run).values():
        assert kinds(records, "final")[0]["outcome"] == "stopped"
    operator.check_mirrors(run)


def test_interrupted_twice_leaves_at_once_and_says_what_runs(operator: Operator) -> None:
    process = operator.start(workload(operator, operator.bucket(), duration="20s"))
    operator.wait_for_stage(process, "execute")
    # As long as it is cut off: the stop that was sent would come with the link, also without the controller.
    with operator.lab.hosts[1].cut():
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        operator.wait_for(process, "stop_requested")
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert process.returncode == 130, out + err
        assert "Traceback" not in err
        run = operator.last_run().name
        assert run in err
        assert "h2: RUNNING" in err, err
        assert f"sai3ssh stop {run}" in err
        # It goes on by itself, ends its stage, and stops at the end: there is no controller for a further one.
        deadline = time.monotonic() + 60
        while operator.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert operator.processes() == {}
        journal = operator.lab.hosts[1].read(f"/root/.local/state/sai3ssh/runs/{run}/h2/journal.ndjson")
    ends = kinds([json.loads(line) for line in journal.splitlines()], "stage_end")
    assert [(end["name"], end["outcome"]) for end in ends] == [("prepare", "finished"), ("execute", "finished")]
