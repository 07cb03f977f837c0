"""Hosts that are broken in one way each, for as long as a `with` block lasts: what preflight is to find."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.lab.lab import FABRIC, STORAGE, LabHost, sh
from tests.lab.operator import Operator

STATE = "/root/.local/state/sai3ssh"
NAME = "s3.lab.test"
"""The storage, as hosts know it."""


def change(operator: Operator, host: LabHost, **variables: Any) -> None:
    """Adds variables to a host of the inventory."""
    content = yaml.safe_load(operator.inventory.read_text())
    content["all"]["children"]["lab"]["hosts"][host.name].update(variables)
    operator.inventory.write_text(yaml.safe_dump(content, sort_keys=False))


@contextlib.contextmanager
def rule(netns: str, hook: str, match: str, name: str) -> Iterator[None]:
    """One nft rule in a namespace; counts what it met, and that it met anything."""
    family = "bridge" if hook == "forward" else "inet"
    text = f"table {family} {name} {{\nchain c {{\ntype filter hook {hook} priority 0; policy accept;\n{match}\n}}\n}}"
    sh(f"ip netns exec {netns} nft -f - <<'E'\n{text}\nE")
    try:
        yield
        counted = sh(f"ip netns exec {netns} nft list table {family} {name}").stdout
        assert "packets 0 " not in counted, f"nothing met {match}: {counted}"
    finally:
        sh(f"ip netns exec {netns} nft delete table {family} {name}")


# --- the way to the host -----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sshd_stopped(operator: Operator, host: LabHost) -> Iterator[None]:
    host.exec("pkill -x sshd; while pgrep -x sshd; do sleep 0.05; done")
    try:
        yield
    finally:
        _restart_sshd(host)


@contextlib.contextmanager
def ssh_filtered(operator: Operator, host: LabHost) -> Iterator[None]:
    with rule(FABRIC, "forward", f"iifname op ip daddr {host.address} tcp dport 22 counter drop", f"ssh_{host.name}"):
        yield


@contextlib.contextmanager
def lossy(operator: Operator, host: LabHost) -> Iterator[None]:
    """Every fifth ping is lost."""
    match = f"iifname {host.port} oifname op ip protocol icmp numgen inc mod 5 0 counter drop"
    with rule(FABRIC, "forward", match, f"loss_{host.name}"):
        yield


@contextlib.contextmanager
def not_authorized(operator: Operator, host: LabHost) -> Iterator[None]:
    host.exec("mv /root/.ssh/authorized_keys /root/.ssh/away")
    try:
        yield
    finally:
        host.exec("mv /root/.ssh/away /root/.ssh/authorized_keys")


def _known_hosts(operator: Operator, host: LabHost, *lines: str) -> None:
    path = operator.directory / f"known_hosts-{host.name}"
    path.write_text("".join(line + "\n" for line in lines))
    change(operator, host, ansible_ssh_common_args=f"-F /dev/null -o UserKnownHostsFile={path} -o IdentityAgent=none")


@contextlib.contextmanager
def host_key_changed(operator: Operator, host: LabHost) -> Iterator[None]:
    other = next(one for one in operator.lab.hosts if one is not host)
    _known_hosts(operator, host, f"{host.address} {other.host_key}")
    yield


@contextlib.contextmanager
def host_key_unknown(operator: Operator, host: LabHost) -> Iterator[None]:
    _known_hosts(operator, host)
    yield


@contextlib.contextmanager
def name_unknown(operator: Operator, host: LabHost) -> Iterator[None]:
    change(operator, host, ansible_host="no-such-host.invalid")
    yield


@contextlib.contextmanager
def port_filtered(operator: Operator, host: LabHost) -> Iterator[None]:
    with rule(FABRIC, "forward", f"iifname op ip daddr {host.address} tcp dport 7761 counter drop", f"port_{host.name}"):
        yield


@contextlib.contextmanager
def peers_cut(operator: Operator, host: LabHost) -> Iterator[None]:
    """The host reaches no sshd of another host."""
    match = f"iifname {host.port} ip daddr != {{ 10.88.0.1, 10.88.0.2 }} tcp dport 22 counter drop"
    with rule(FABRIC, "forward", match, f"peers_{host.name}"):
        yield


@contextlib.contextmanager
def listening(hosts: list[LabHost], port: int) -> Iterator[None]:
    """Somebody listens on a port of these hosts."""
    code = f"import socket, time; s = socket.create_server(('', {port})); time.sleep(600)"
    for host in hosts:
        host.exec(f'setsid python3 -c "{code}" >/dev/null 2>&1 & until ss -Hltn | grep -q :{port}; do sleep 0.05; done')
    try:
        yield
    finally:
        for host in hosts:
            host.exec(f"pkill -f '[c]reate_server.*{port}'")


# --- the host ----------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def clock_ahead(operator: Operator, host: LabHost) -> Iterator[None]:
    """By 3 s, for every Python that the operator starts there."""
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(host.lab.directory / "clock.so"), str(source), "-ldl"], check=True)
    _put(host, "/usr/local/lib/clock.so", (host.lab.directory / "clock.so").read_bytes())
    _put(host, "/usr/local/bin/python-ahead", b'#!/bin/sh\nCLOCK_AHEAD_S=3 LD_PRELOAD=/usr/local/lib/clock.so exec /usr/bin/python3 "$@"\n')
    change(operator, host, ansible_python_interpreter="/usr/local/bin/python-ahead")
    yield


def _put(host: LabHost, path: str, content: bytes) -> None:
    inside = Path(f"/proc/{host.pid1}/root{path}")
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.write_bytes(content)
    inside.chmod(0o755)


@contextlib.contextmanager
def _mounted(operator: Operator, host: LabHost, prepare: str) -> Iterator[None]:
    host.exec(f"mkdir -p /mnt/spool && mount -t tmpfs -o size=256k tmpfs /mnt/spool && mkdir /mnt/spool/state && {prepare}")
    change(operator, host, sai3ssh_agent_state_dir="/mnt/spool/state")
    try:
        yield
    finally:
        host.exec("pkill -f '[/]mnt/spool/state'; umount -l /mnt/spool")


@contextlib.contextmanager
def disk_full(operator: Operator, host: LabHost) -> Iterator[None]:
    with _mounted(operator, host, "! dd if=/dev/zero of=/mnt/spool/full 2>/dev/null"):
        yield


@contextlib.contextmanager
def disk_read_only(operator: Operator, host: LabHost) -> Iterator[None]:
    with _mounted(operator, host, "mount -o remount,ro /mnt/spool"):
        yield


@contextlib.contextmanager
def few_open_files(operator: Operator, host: LabHost) -> Iterator[None]:
    """256, for whoever logs in from now on; of a daemon that is there already its own limit would count."""
    host.exec(f"pkill -f '[s]erve --foreground'; flock -w 10 {STATE}/agent.lock true || test ! -e {STATE}")
    _restart_sshd(host, "ulimit -n 256; ")
    try:
        yield
    finally:
        _restart_sshd(host)


def _restart_sshd(host: LabHost, before: str = "") -> None:
    host.exec(f"pkill -x sshd; while pgrep -x sshd; do sleep 0.05; done; {before}/usr/sbin/sshd")
    host.wait()


@contextlib.contextmanager
def old_python(operator: Operator, host: LabHost) -> Iterator[None]:
    """An interpreter that is 3.8 by its own account: no suite packages both that and what else a host needs."""
    _put(host, "/usr/local/lib/old/sitecustomize.py", b'import sys\nsys.version_info = (3, 8, 10, "final", 0)\n')
    _put(host, "/usr/local/bin/python-old", b'#!/bin/sh\nPYTHONPATH=/usr/local/lib/old exec /usr/bin/python3 "$@"\n')
    change(operator, host, ansible_python_interpreter="/usr/local/bin/python-old")
    yield


@contextlib.contextmanager
def no_python(operator: Operator, host: LabHost) -> Iterator[None]:
    change(operator, host, ansible_python_interpreter="/opt/python/bin/python3")
    yield


@contextlib.contextmanager
def other_agent(operator: Operator, host: LabHost) -> Iterator[None]:
    """The daemon of another build has a run in progress."""
    from sai3ssh import bundle

    built = bundle.build(operator.directory).read_bytes()
    _put(host, "/usr/local/lib/other.pyz", built + b"x")
    change(operator, host, sai3ssh_agent_state_dir="/var/tmp/state")
    host.exec("mkdir -p /var/tmp/state/runs/other-run/a1 && cd /var/tmp/state/runs/other-run/a1 && touch plan.json")
    host.exec("setsid flock /var/tmp/state/runs/other-run/a1/supervisor.lock sleep 601 >/dev/null 2>&1 &")
    host.exec("setsid python3 /usr/local/lib/other.pyz serve --state /var/tmp/state >/dev/null 2>&1")
    try:
        yield
    finally:
        host.exec("rm -rf /var/tmp/state/runs; pkill -f '[s]leep 601'; pkill -f '[s]erve --foreground --state /var/tmp/state'")
        host.exec("flock -w 10 /var/tmp/state/agent.lock true; rm -rf /var/tmp/state")


@contextlib.contextmanager
def run_in_progress(operator: Operator, host: LabHost) -> Iterator[None]:
    """Somebody else's, of which the agent is not ours to stop."""
    place = f"{STATE}/runs/another-run/a1"
    host.exec(f"mkdir -p {place} && touch {place}/plan.json")
    try:
        yield
    finally:
        host.exec(f"rm -rf {STATE}/runs/another-run")


@contextlib.contextmanager
def busy(operator: Operator, host: LabHost) -> Iterator[None]:
    # Before others, because on a busy machine it would not get what it is to be blamed for; and half of the time only. Where the kernel
    # groups processes by session, as it does with autogroup, the group's priority is what counts.
    loop = "echo -10 2>/dev/null >/proc/self/autogroup; while :; do for ((i = 0; i < 30000; i++)); do :; done; sleep 0.05; done"
    host.exec(f"cp /bin/bash /usr/local/bin/hog; setsid nice -n -10 hog -c '{loop}' >/dev/null 2>&1 &")
    try:
        yield
    finally:
        host.exec("pkill -9 -x hog")


@contextlib.contextmanager
def no_shared_memory(operator: Operator, host: LabHost) -> Iterator[None]:
    host.exec("mount -t tmpfs -o size=64k tmpfs /dev/shm")
    try:
        yield
    finally:
        host.exec("umount -l /dev/shm")


# --- the storage, as the host sees it ----------------------------------------------------------------------------------------------------


def resolve(host: LabHost, address: str | None) -> None:
    """Where the host finds the storage's name."""
    lines = [line for line in host.read("/etc/hosts").decode().splitlines() if NAME not in line]
    _put(host, "/etc/hosts", "\n".join([*lines, *([f"{address} {NAME}"] if address else []), ""]).encode())


@contextlib.contextmanager
def storage_unknown(operator: Operator, host: LabHost) -> Iterator[None]:
    resolve(host, None)
    yield


@contextlib.contextmanager
def storage_refuses(operator: Operator, host: LabHost) -> Iterator[None]:
    match = f"ip saddr {host.address} tcp dport 7480 counter reject with tcp reset"
    with rule(STORAGE, "input", match, f"refuse_{host.name}"):
        yield


@contextlib.contextmanager
def storage_filtered(operator: Operator, host: LabHost) -> Iterator[None]:
    with rule(STORAGE, "input", f"ip saddr {host.address} tcp dport 7480 counter drop", f"drop_{host.name}"):
        yield


def findings(text: str) -> dict[str, list[dict[str, Any]]]:
    """Host (empty: the fleet) to findings, of `preflight --json`."""
    report = json.loads(text)
    return {"": report["fleet"], **{name: host["findings"] for name, host in report["hosts"].items()}}
