"""Faults of the lab. Each lasts as long as it is told to, is over when it returns, and has proved that it happened."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab.lab import FABRIC, OPERATOR, LabHost, sh

STATE = "/root/.local/state/sai3ssh"
DELAY = Path(__file__).with_name("delay.py")


def partition(host: LabHost, for_s: float, direction: str = "both") -> None:
    """No packet passes between operator and host, in both directions or in one."""
    with host.cut(direction):
        time.sleep(for_s)


def lossy(host: LabHost, for_s: float) -> None:
    """60 ms more each way, with jitter, and every 20th packet lost."""
    # Connections of our own prove it: how much goes over the run's link meanwhile is not ours to say.
    connect = f"ip netns exec {OPERATOR} bash -c 'for n in 1 2 3 4 5; do nc -z -w 10 {host.address} 22 & done; wait'"
    with _queued(host.netns, "10.88.0.1", host.number) as first, _queued(OPERATOR, host.address, 100 + host.number) as second:
        began = time.monotonic()
        sh(connect)
        took_s = time.monotonic() - began
        time.sleep(max(0.0, for_s - took_s))
    passed, dropped = first["passed"] + second["passed"], first["dropped"] + second["dropped"]
    assert took_s > 0.1, f"{host.name}: connections were made in {took_s:.3f} s, with 50 ms of delay or more each way"
    assert passed > 10, f"{host.name}: {passed} packets were delayed"
    assert dropped > 0 or passed < 100, f"{host.name}: no packet of {passed} was lost"


@contextlib.contextmanager
def _queued(netns: str, source: str, number: int) -> Iterator[dict[str, int]]:
    rule = f"INPUT -s {source} -p tcp -j NFQUEUE --queue-num {number} --queue-bypass"
    inside = ["ip", "netns", "exec", netns]
    delayer = subprocess.Popen(
        [*inside, sys.executable, str(DELAY), str(number), "60", "10", "0.05"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert delayer.stdout is not None
    counts: dict[str, int] = {}
    try:
        assert delayer.stdout.readline() == "ready\n"
        sh(f"ip netns exec {netns} iptables -t mangle -A {rule}")
        yield counts
    finally:
        sh(f"ip netns exec {netns} iptables -t mangle -D {rule}", check=False)
        time.sleep(0.2)
        delayer.send_signal(signal.SIGTERM)
        counts.update(json.loads(delayer.communicate(timeout=10)[0] or "{}"))


def reset(host: LabHost, _for_s: float) -> None:
    """The operator's connections to the host are reset."""
    deadline = time.monotonic() + 30.0
    killed = ""
    while not killed.strip():
        # After another fault the link may not be back yet.
        assert time.monotonic() < deadline, f"{host.name}: no connection was there to be reset: {killed!r}"
        time.sleep(0.1)
        killed = sh(f"ip netns exec {OPERATOR} ss -K -H state established dst {host.address} dport = :22").stdout


def frozen_sshd(host: LabHost, for_s: float) -> None:
    """Every sshd process of the host stands still."""
    try:
        # Twice: one may have forked while the first went round.
        states = host.exec("pkill -STOP -x sshd; sleep 0.1; pkill -STOP -x sshd; ps -o stat= -C sshd").stdout.split()
        assert states, "no sshd was there"
        assert all(state[0] in "TZ" for state in states), states
        time.sleep(for_s)
    finally:
        host.exec("pkill -CONT -x sshd", check=False)


def link_down(host: LabHost, for_s: float) -> None:
    """The cable is out: neither operator nor storage are reached."""
    unplugged(host.port, for_s)


def unplugged(port: str, for_s: float) -> None:
    """That port of the bridge is down: nobody reaches who is behind it."""
    sh(f"ip -n {FABRIC} link set {port} down")
    try:
        assert "state DOWN" in sh(f"ip -n {FABRIC} link show {port}").stdout
        time.sleep(for_s)
    finally:
        sh(f"ip -n {FABRIC} link set {port} up")


def sshd_restart(host: LabHost, for_s: float) -> None:
    """sshd and all its sessions are killed, and it is started again later."""
    before = set(host.exec("pgrep -x sshd").stdout.split())
    assert before
    host.exec("pkill -9 -x sshd")
    time.sleep(for_s)
    host.exec("/usr/sbin/sshd")
    host.wait()
    after = set(host.exec("pgrep -x sshd").stdout.split())
    assert not before & after, f"{host.name}: sshd {before & after} is still there"


def agent_killed(host: LabHost, verb: str) -> None:
    """SIGKILL of the agent's worker (work), supervisor (supervise) or daemon (serve)."""
    pids = host.exec(f"pgrep -f '[a]gent-[0-9a-f]*.pyz {verb}'").stdout.split()
    assert pids, f"{host.name}: no {verb} process"
    host.exec(f"kill -9 {' '.join(pids)}")
    deadline = time.monotonic() + 5.0
    while any(host.exec(f"grep -qE '^State:.[^ZX]' /proc/{pid}/status", check=False).returncode == 0 for pid in pids):
        assert time.monotonic() < deadline, f"{host.name}: {verb} {pids} does not end"
        time.sleep(0.02)


def power_cut(host: LabHost, for_s: float) -> None:
    """The host is gone without a word, and comes back with another boot id and clock; its memory is empty."""
    boot = host.read("/proc/sys/kernel/random/boot_id")
    with host.cut():
        host.crash()
        time.sleep(for_s)
        host.boot()
        host.wait_inside()
        # Something must have been said into the void.
        time.sleep(0.5)
    host.wait()
    assert host.read("/proc/sys/kernel/random/boot_id") != boot


def disk_full(host: LabHost, for_s: float) -> None:
    """The file system of the agent's state (see small_disk) takes no byte more; what the journal gives back of its reserve is taken too."""
    until = time.monotonic() + for_s
    try:
        while True:
            filled = host.exec(f"dd if=/dev/zero of={STATE}/filler bs=4k oflag=append conv=notrunc; sync {STATE}/filler", check=False)
            assert "No space left" in filled.stderr, filled.stderr
            if time.monotonic() > until:
                return
            time.sleep(0.3)
    finally:
        host.exec(f"rm -f {STATE}/filler")


@contextlib.contextmanager
def small_disk(host: LabHost) -> Iterator[None]:
    """The agent's state is on a file system of 16 MiB."""
    host.exec("pkill -9 -f '[s]erve --foreground'", check=False)
    host.exec(f"mkdir -p {STATE} && mount -t tmpfs -o size=16m tmpfs {STATE}")
    try:
        yield
    finally:
        host.exec("pkill -9 -f '[s]erve --foreground'", check=False)
        host.exec(f"umount -l {STATE}", check=False)
