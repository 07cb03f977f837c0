"""Real hosts on one Linux machine: a network namespace, a file system, a process table and an sshd each.

sai3ssh-PID-op   the operator, 10.88.0.1          sai3ssh-PID-sto  storage, 10.88.0.2
sai3ssh-PID-h1   host h1, 10.88.0.11 ...          sai3ssh-PID-fab  the bridge between them, where faults are made
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.lab import image
from tests.netns import inside

PREFIX = f"sai3ssh-{os.getpid()}-"
"""Of namespaces: several labs can be up at once, each in a process of its own."""
FABRIC, OPERATOR, STORAGE = PREFIX + "fab", PREFIX + "op", PREFIX + "sto"
STORAGE_ADDRESS = "10.88.0.2"
SSHD = """HostKey /etc/ssh/ssh_host_ed25519_key
MaxStartups 1000:30:2000
PermitRootLogin prohibit-password
UsePAM no
"""
INIT = """#!/bin/sh
mkdir -p /run/sshd
/usr/sbin/sshd -D -e 2>>/var/log/sshd.log &
while :; do wait; sleep 1; done
"""
ROOT = r"""
mount --make-rprivate /
mount -t overlay overlay -o lowerdir={image},upperdir={dir}/upper,workdir={dir}/work {dir}/root
hostname {name}
cd {dir}/root; mkdir -p old; mount --bind . .; cd {dir}/root; pivot_root . old
mount -t proc proc /proc; mount -t sysfs -o ro sysfs /sys; mount -t tmpfs tmpfs /dev; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp
mkdir /dev/pts /dev/shm; mount -t tmpfs tmpfs /dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts; ln -s pts/ptmx /dev/ptmx
for n in null zero full random urandom tty; do :>/dev/$n; mount --bind /old/dev/$n /dev/$n; done
ln -s /proc/self/fd /dev/fd
cat /proc/sys/kernel/random/uuid > /run/boot_id; mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
umount -l /old
exec /sbin/lab-init
"""


def sh(command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{command}: exit code {done.returncode}: {done.stderr.strip()}")
    return done


class LabHost:
    """One host."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab = lab
        self.number = number
        self.name = f"h{number}"
        self.address = f"10.88.0.{10 + number}"
        self.netns = f"{PREFIX}{self.name}"
        self.port = f"p{number}"
        self.directory = lab.directory / self.name
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Its own upper layer: host key, sshd, who may log in."""
        upper = self.directory / "upper"
        for path in ("work", "root", "upper/etc/ssh/sshd_config.d", "upper/root/.ssh", "upper/usr/sbin"):
            (self.directory / path).mkdir(parents=True, exist_ok=True)
        (upper / "root").chmod(0o700)
        (upper / "root/.ssh").chmod(0o700)
        key = upper / "etc/ssh/ssh_host_ed25519_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key)], check=True)
        (upper / "etc/ssh/sshd_config.d/lab.conf").write_text(SSHD)
        (upper / "etc/hostname").write_text(self.name + "\n")
        (upper / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        shutil.copy(self.lab.key.with_suffix(".pub"), upper / "root/.ssh/authorized_keys")
        (upper / "root/.ssh/authorized_keys").chmod(0o600)
        init = upper / "usr/sbin/lab-init"
        init.write_text(INIT)
        init.chmod(0o755)

    @property
    def host_key(self) -> str:
        """Type and key, as known_hosts has it."""
        return " ".join((self.directory / "upper/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])

    def boot(self) -> None:
        """Starts it and waits for its sshd."""
        script = ROOT.format(image=self.lab.image, dir=self.directory, name=self.name)
        # Its clock begins anew with each boot, as that of a real host does.
        clock = ["-T", "--boottime", str(random.randrange(1, 10**6))]
        unshare = ["unshare", "-m", "-u", "-i", "-p", *clock, "-f", "--kill-child=KILL", "bash", "-ec", script]
        with (self.directory / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, *unshare], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_inside(self, timeout_s: float = 20.0) -> None:
        """Returns when its sshd listens, by the host's own account: the network may be cut."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError, IndexError, RuntimeError):
                if ":22 " in self.exec("ss -Hltn").stdout:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: no sshd listens: {(self.directory / 'console.log').read_text()[-500:]}")
            time.sleep(0.05)

    def wait(self, timeout_s: float = 20.0) -> None:
        """Returns when its sshd answers."""
        import socket

        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError), inside(OPERATOR), socket.create_connection((self.address, 22), 1.0) as probe:
                probe.settimeout(2.0)
                if probe.recv(64).startswith(b"SSH-"):
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: no sshd: {(self.directory / 'console.log').read_text()[-500:]}")
            time.sleep(0.05)

    @property
    def pid1(self) -> int:
        """Its init, as seen from outside."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def exec(self, command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a shell command on the host, without SSH."""
        argv = ["nsenter", "-t", str(self.pid1), "-a", "bash", "-c", command]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {command}: exit code {done.returncode}: {done.stderr.strip()}")
        return done

    def read(self, path: str) -> bytes:
        """The content of a file on the host."""
        return Path(f"/proc/{self.pid1}/root{path}").read_bytes()

    def kill_sessions(self) -> list[int]:
        """Kills the sshd process of every session; the pids (as the host sees them), each verified gone."""
        pids = [int(pid) for pid in self.exec("pgrep -f '^sshd: [a-z]+(@| )' || true").stdout.split()]
        for pid in pids:
            self.exec(f"kill -9 {pid}", check=False)
        deadline = time.monotonic() + 5.0
        for pid in pids:
            while self.exec(f"grep -qE '^State:.[^ZX]' /proc/{pid}/status", check=False).returncode == 0:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.name}: sshd session {pid} does not end")
        return pids

    def crash(self) -> None:
        """Everything on it dies at once."""
        assert self._process is not None
        os.kill(self.pid1, signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> None:
        """For the end of the lab."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                os.kill(self.pid1, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    @contextlib.contextmanager
    def cut(self, direction: str = "both") -> Iterator[None]:
        """Drops packets between this host and the operator; proves at the end that it did. Storage stays reachable."""
        ways = {"to": f"iifname op oifname {self.port}", "from": f"iifname {self.port} oifname op"}
        chosen = [ways[name] for name in (("to", "from") if direction == "both" else (direction,))]
        table = f"cut_{self.name}"
        rules = "\n".join(f"{way} counter drop" for way in chosen)
        chain = "type filter hook forward priority 0; policy accept;"
        sh(f"ip netns exec {FABRIC} nft -f - <<'E'\ntable bridge {table} {{\nchain forward {{\n{chain}\n{rules}\n}}\n}}\nE")
        # There may be no controller at the moment that would send anything.
        ping = ["ip", "netns", "exec", OPERATOR, "ping", "-q", "-c", "1", "-W", "1", self.address]
        try:
            sent = subprocess.Popen(ping, stdout=subprocess.PIPE, text=True)
            yield
            counted = sh(f"ip netns exec {FABRIC} nft list table bridge {table}").stdout
            if counted.count("packets 0 ") == len(chosen):
                raise AssertionError(f"{self.name}: the cut dropped nothing: {counted}")
        finally:
            sh(f"ip netns exec {FABRIC} nft delete table bridge {table}")
        heard = sent.communicate(timeout=10)[0]
        assert "100% packet loss" in heard, f"{self.name}: reached through the cut: {heard}"


class Lab:
    """The hosts and the network between them."""

    def __init__(self, directory: Path, hosts: int = 8) -> None:
        self.directory = directory
        self.image = image.build()
        self.key = directory / "id_ed25519"
        self.known_hosts = directory / "known_hosts"
        self.hosts = [LabHost(self, n) for n in range(1, hosts + 1)]

    def __enter__(self) -> Lab:
        clean()
        self.directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", str(self.key)], check=True)
        try:
            self._network()
            for host in self.hosts:
                host.prepare()
                host.boot()
            for host in self.hosts:
                host.wait()
        except BaseException:
            self.__exit__()
            raise
        self.known_hosts.write_text("".join(f"{host.address} {host.host_key}\n" for host in self.hosts))
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.stop()
        clean()

    def _network(self) -> None:
        sh(f"ip netns add {FABRIC}; ip -n {FABRIC} link set lo up; ip -n {FABRIC} link add br0 type bridge; ip -n {FABRIC} link set br0 up")
        members = [(OPERATOR, "op", "10.88.0.1", 1), (STORAGE, "sto", STORAGE_ADDRESS, 2)]
        members += [(host.netns, host.port, host.address, 10 + host.number) for host in self.hosts]
        for member in members:
            self.plug(*member)

    @staticmethod
    def plug(netns: str, port: str, address: str, number: int) -> None:
        """Makes a namespace and connects it to the bridge."""
        sh(
            f"set -e; ip netns add {netns}; ip -n {netns} link set lo up\n"
            f"ip link add eth0 netns {netns} address 02:88:00:00:00:{number:02x} type veth peer name {port} netns {FABRIC}\n"
            f"ip -n {netns} addr add {address}/24 dev eth0; ip -n {netns} link set eth0 up\n"
            f"ip -n {FABRIC} link set {port} master br0 up"
        )

    def popen(self, argv: list[str], *, env: dict[str, str], **options: Any) -> subprocess.Popen[str]:
        """Starts a command in the operator's namespace."""
        return subprocess.Popen(
            ["ip", "netns", "exec", OPERATOR, *argv], env={**os.environ, **env}, stdin=subprocess.DEVNULL, start_new_session=True, **options
        )

    def inventory(self, path: Path, **more: dict[str, Any]) -> None:
        """Writes an Ansible inventory of all hosts; `more` adds variables to hosts by name."""
        common = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": f"-F /dev/null -o UserKnownHostsFile={self.known_hosts} -o IdentityAgent=none",
        }
        hosts = {host.name: {"ansible_host": host.address, **more.get(host.name, {})} for host in self.hosts}
        path.write_text(yaml.safe_dump({"all": {"children": {"lab": {"hosts": hosts}}, "vars": common}}, sort_keys=False))


def clean() -> None:
    """Removes what this process's lab, or one of a process that is gone, has left: processes in its namespaces, then the namespaces."""
    for name in sh("ip netns list", check=False).stdout.split():
        owner = re.match(r"sai3ssh-(\d+)-", name)
        if owner and (name.startswith(PREFIX) or not Path(f"/proc/{owner[1]}").exists()):
            for pid in sh(f"ip netns pids {name}", check=False).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            sh(f"ip netns del {name}")
