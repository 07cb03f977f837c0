"""Roles and playbooks on hosts with systemd: checked, deployed, used, rebooted, upgraded, removed."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sai3ssh import bundle
from tests import oracle
from tests.lab.booted import USER, BootedHost, Fleet
from tests.lab.lab import Lab
from tests.lab.operator import Operator, journals, kinds
from tests.servers import RadosGw

pytestmark = pytest.mark.lab

SPOOL = "/var/lib/sai3ssh"
BIN = Path(sys.executable).parent
RECAP = re.compile(r"^(\S+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.M)
WORKLOAD = """
name: deployed
target: s3://{bucket}/
concurrency: 2
workers: 1
io_rate: {{iops: 20}}
s3: {{endpoint_url: "{endpoint}"}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: {count}, size_spec: 4KiB}}
  cleanup: true
workload:
  - {{op: get, path: data/, weight: 100}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: read, type: execute, duration: {seconds}s}}
"""
# All that may differ: files that anything may write, and backups that the tools for users make.
STATE = r"""
{ getent passwd; getent group; id bench; systemctl list-unit-files --no-legend | grep -v transient
  sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_rmem net.ipv4.tcp_wmem net.core.somaxconn
  ls /dev/shm /var/lib; sshd -T | sort
  find /etc /opt /srv /home /usr/local /root -xdev -type f ! -name '*-' ! -path '*/.ansible/*' ! -name .pwd.lock -exec sha256sum {} +
  find /etc /opt /srv /home /usr/local /root -xdev ! -path '*/.ansible*' -type d; } | sort
"""


class Playbooks:
    """Runs playbooks as the operator does, from their directory."""

    def __init__(self, fleet: Fleet, operator: Operator, repository: Path, sockets: str) -> None:
        self.fleet = fleet
        self.home = operator.directory / "home"
        self.home.mkdir()
        self.operator = operator
        self._directory = repository / "playbooks"
        self._sockets = sockets

    def start(self, name: str, *options: str) -> subprocess.Popen[str]:
        return self._popen([str(BIN / "ansible-playbook"), name, *options])

    def _popen(self, argv: list[str]) -> subprocess.Popen[str]:
        argv = [*argv, "-i", str(self.operator.inventory), "-e", f"sai3ssh_ssh_keepalive_operator_config={self.home}/.ssh/config"]
        # This machine may allow its containers no more.
        argv += ["-e", "sai3ssh_host_limits_open_files=16384", "-e", "sai3ssh_agent_open_files=16000"]
        env = {"HOME": str(self.home), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_SSH_CONTROL_PATH_DIR": self._sockets}
        return self.fleet.popen(argv, env=env, cwd=self._directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def deploy(self) -> str:
        """What `sai3ssh deploy` said when all went well."""
        began = time.monotonic()
        process = self._popen([str(BIN / "sai3ssh"), "deploy"])
        out, _ = process.communicate(timeout=200)
        print(f"sai3ssh deploy: {time.monotonic() - began:.1f} s")
        assert process.returncode == 0, out
        return out

    def run(self, name: str, *options: str) -> tuple[int, str, dict[str, int]]:
        """Exit code, what it said, and what changed on each host."""
        return self.end(self.start(name, *options))

    @staticmethod
    def end(process: subprocess.Popen[str]) -> tuple[int, str, dict[str, int]]:
        out, _ = process.communicate(timeout=200)
        return process.returncode, out, {match[1]: int(match[3]) for match in RECAP.finditer(out)}

    def changes(self, name: str, *options: str) -> dict[str, int]:
        """What changed on each host, when it succeeded."""
        began = time.monotonic()
        code, out, changed = self.run(name, *options)
        print(f"{name} {' '.join(options)[:40]}: {time.monotonic() - began:.1f} s, changed {changed}")
        assert code == 0, out
        return changed


@pytest.fixture
def fleet(lab: Lab, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(lab, tmp_path, 2).up() as hosts:
        yield hosts


@pytest.fixture
def operator(fleet: Fleet, storage: RadosGw, tmp_path: Path) -> Operator:
    return Operator(fleet, storage, tmp_path, BIN / "sai3ssh")


@pytest.fixture
def playbooks(fleet: Fleet, operator: Operator, repository: Path) -> Iterator[Playbooks]:
    with tempfile.TemporaryDirectory(prefix="sai3ssh-") as sockets:  # their paths must be short
        yield Playbooks(fleet, operator, repository, sockets)


def state(host: BootedHost) -> set[str]:
    """All that the playbooks may change on a host, a line each."""
    return set(host.exec(STATE).stdout.splitlines())


def workload(operator: Operator, count: int, seconds: int = 1) -> str:
    return WORKLOAD.format(bucket=operator.bucket(), endpoint=operator.s3.endpoint_url, count=count, seconds=seconds)


def other_agent(directory: Path) -> list[str]:
    """Options that deploy an agent that does the same, of other bytes."""
    path = directory / "other.pyz"
    path.write_bytes(bundle.build(directory).read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("OTHER", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ["-e", f"sai3ssh_agent_zipapp={path}", "-e", f"sai3ssh_agent_zipapp_sha256={digest}"]


def check_deployed(host: BootedHost, operator: Operator, repository: Path) -> None:
    """The effects, as the host shows them."""
    show = "systemctl show sai3ssh-agent -p ActiveState,UnitFileState,User,NRestarts"
    shown = dict(line.split("=", 1) for line in host.exec(show).stdout.split())
    expected = {"ActiveState": "active", "UnitFileState": "enabled", "User": "sai3ssh", "NRestarts": "0"}
    assert shown == expected
    limits = host.exec("cat /proc/$(systemctl show sai3ssh-agent -P MainPID)/limits").stdout
    assert re.search(r"Max open files +16000 ", limits), limits
    assert host.exec(f"stat -c '%A %U:%G' {SPOOL} {SPOOL}/agent.sock").stdout.split("\n")[:2] == [
        "drwxr-x--- sai3ssh:sai3ssh",
        "srw-rw---- sai3ssh:sai3ssh",
    ]
    assert "sai3ssh" in host.exec(f"id -nG {USER}").stdout.split()
    assert "serves /var/lib/sai3ssh" in host.exec("journalctl -u sai3ssh-agent -o cat").stdout
    host.exec("systemd-analyze security --offline=yes --threshold=45 /etc/systemd/system/sai3ssh-agent.service")
    assert host.exec("sysctl -n net.ipv4.ip_local_port_range").stdout.split() == ["16384", "65535"]
    login = ["ssh", "-F", "/dev/null", "-i", str(operator.lab.key), "-o", f"UserKnownHostsFile={operator.lab.known_hosts}"]
    process = operator.lab.popen([*login, f"{USER}@{host.address}", "ulimit -Sn"], env={}, stdout=subprocess.PIPE, text=True)
    assert process.communicate(timeout=20)[0] == "16384\n"
    effective = host.exec("sshd -T").stdout
    assert all(line in effective for line in ("clientaliveinterval 60\n", "clientalivecountmax 10\n", "maxsessions 100\n"))
    # A daemon that dies is back, and those who may not steer are kept out.
    host.exec(
        "systemctl kill -s KILL --kill-whom=main sai3ssh-agent; sleep 0.2; until systemctl is-active sai3ssh-agent; do sleep 0.1; done"
    )
    host.exec("id nobody; ! setpriv --reuid nobody --clear-groups ls /var/lib/sai3ssh")


def check_run(operator: Operator, fleet: Fleet) -> Path:
    """The last run was collected whole, and was done by the deployed agents."""
    run = operator.last_run()
    assert json.loads((run / "results.json").read_text())["verdict"] == "PARTIAL"
    for host in fleet.hosts:
        mirror = (run / "agents" / host.name / "journal.ndjson").read_bytes()
        assert host.read(f"{SPOOL}/runs/{run.name}/{host.name}/journal.ndjson") == mirror
        assert host.exec(f"ls -d /home/{USER}/.cache/sai3ssh /home/{USER}/.local", check=False).stdout == ""
    return run


@pytest.mark.timeout(900)
def test_from_a_bare_host_to_a_bare_host(fleet: Fleet, operator: Operator, playbooks: Playbooks, repository: Path, tmp_path: Path) -> None:
    before = {host.name: state(host) for host in fleet.hosts}
    trust(fleet, operator, playbooks)

    assert playbooks.changes("deploy.yml", "--check", "--limit", fleet.hosts[0].name)[fleet.hosts[0].name] > 8
    assert {host.name: sorted(state(host) ^ before[host.name]) for host in fleet.hosts} == {host.name: [] for host in fleet.hosts}
    assert not (playbooks.home / ".ssh/config").exists()

    assert not playbooks.deploy().endswith("2 hosts, 0 changed\n")
    for host in fleet.hosts:
        check_deployed(host, operator, repository)
    assert "ServerAliveInterval 60" in (playbooks.home / ".ssh/config").read_text()
    assert playbooks.deploy().endswith("2 hosts, 0 changed\n")

    # A run goes through the deployed agents. One host is rebooted meanwhile, the other is to be upgraded.
    process = operator.start(workload(operator, 8000, seconds=300))
    operator.wait_for_stage(process, "prepare")
    first, second = fleet.hosts
    first.exec(f"until grep -q '\"ledger\"' {SPOOL}/runs/*/*/journal.ndjson; do sleep 0.1; done")
    first.power_off()
    first.boot()
    first.wait()
    first.exec(f"until grep -q '\"recovered\"' {SPOOL}/runs/*/*/journal.ndjson; do sleep 0.1; done")
    other = ["--limit", second.name, *other_agent(tmp_path)]
    code, said, _ = playbooks.run("deploy.yml", "--tags", "agent", *other)
    assert code == 2, said
    assert f"In progress: {operator.last_run().name}" in " ".join(said.split()), said
    operator.wait_for_stage(process, "read")
    upgrade = playbooks.start("upgrade.yml", *other)
    assert upgrade.stdout is not None
    assert any("FAILED - RETRYING" in line for line in upgrade.stdout), "the upgrade did not wait"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (3, 130), out + err
    run = check_run(operator, fleet)
    assert len(oracle.list_bucket(operator.s3, operator.last_bucket)) == 8000
    assert [record["rebooted"] for record in kinds(journals(run)[first.name], "recovered")] == [True]
    code, said, changed = playbooks.end(upgrade)
    assert code == 0, said
    assert changed[second.name] > 0
    # The agent of other bytes is at work: it refuses a controller that is not of its version.
    done = operator.run(workload(operator, 10))
    assert done.returncode == 5, done.stdout + done.stderr
    assert "`sai3ssh deploy`" in done.stdout + done.stderr
    second.exec(f"rm -r /home/{USER}/.cache")  # the controller had brought its own agent along

    playbooks.changes("collect.yml", "-e", f"run={run.name}", "-e", f"destination={tmp_path / 'collected'}")
    for agent in (run / "agents").iterdir():
        assert (tmp_path / "collected" / run.name / agent.name / "journal.ndjson").read_bytes() == (agent / "journal.ndjson").read_bytes()

    assert all(count > 5 for count in playbooks.changes("remove.yml").values())
    assert {host.name: sorted(state(host) ^ before[host.name]) for host in fleet.hosts} == {host.name: [] for host in fleet.hosts}
    assert (playbooks.home / ".ssh/config").read_text() == ""


def trust(fleet: Fleet, operator: Operator, playbooks: Playbooks) -> None:
    """Keys get into known_hosts only when they are those that were given."""
    prints = {}
    for host in fleet.hosts:
        key = host.directory / "upper/etc/ssh/ssh_host_ed25519_key.pub"
        prints[host.name] = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout.split()[1]
    first, second = (host.name for host in fleet.hosts)
    options = ["-e", f"sai3ssh_known_hosts={fleet.known_hosts}"]
    fleet.inventory(operator.inventory, **{first: {"sai3ssh_host_fingerprint": prints[first]}})
    hosts = yaml.safe_load(operator.inventory.read_text())
    members = hosts["all"]["children"]["clients"]["hosts"]
    members["mistaken"] = {**members[second], "sai3ssh_host_fingerprint": prints[first]}
    operator.inventory.write_text(yaml.safe_dump(hosts))
    code, said, _ = playbooks.run("trust-hosts.yml", *options)
    assert code == 2, said
    assert f"{second} was not confirmed" in said
    assert re.search(rf"mistaken .* shows\s+{re.escape(prints[second])}", said), said
    assert fleet.known_hosts.read_text() == f"{fleet.hosts[0].address} {fleet.hosts[0].host_key}\n"
    fleet.inventory(operator.inventory, **{second: {"sai3ssh_host_fingerprint": prints[second]}})
    assert playbooks.changes("trust-hosts.yml", *options) == {first: 0, second: 1}
    assert fleet.known_hosts.read_text() == "".join(f"{host.address} {host.host_key}\n" for host in fleet.hosts)
