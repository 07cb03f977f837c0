"""A real sshd on loopback with keys of its own, for the user who runs the tests."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import subprocess
import time
from pathlib import Path

from sai3ssh.model import Host


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def keygen(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)], check=True)
    return path


class Sshd:
    """sshd in the foreground; `stop` ends it and every session of it."""

    def __init__(self, directory: Path, options: tuple[str, ...] = ()) -> None:
        host_key_types = ("ed25519", "ecdsa", "rsa")
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.user = getpass.getuser()
        self.host_keys = {kind: keygen(directory / f"host_{kind}", kind) for kind in host_key_types}
        self.client_key = keygen(directory / "client")
        (directory / "authorized_keys").write_bytes((directory / "client.pub").read_bytes())
        self.known_hosts = directory / "known_hosts"
        self.know(*host_key_types)
        self.config = directory / "sshd_config"
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            *(f"HostKey {path}" for path in self.host_keys.values()),
            f"AuthorizedKeysFile {directory / 'authorized_keys'}",
            f"PidFile {directory / 'sshd.pid'}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            *options,
        ]
        self.config.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        log = self.directory / "sshd.log"
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", str(self.config), "-E", str(log)], start_new_session=True)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "sshd did not listen within 10 s"
            time.sleep(0.01)

    def know(self, *kinds: str, name: str | None = None) -> None:
        """Makes known_hosts hold the keys of those types only."""
        name = name or f"[127.0.0.1]:{self.port}"
        lines = [f"{name} {' '.join(self.host_keys[kind].with_suffix('.pub').read_text().split()[:2])}\n" for kind in kinds]
        self.known_hosts.write_text("".join(lines))

    def host(self, **changes: object) -> Host:
        values: dict[str, object] = {
            "name": "web1",
            "address": "127.0.0.1",
            "port": self.port,
            "user": self.user,
            "key_file": str(self.client_key),
            "ssh_args": f"-F none -o UserKnownHostsFile={self.known_hosts} -o GlobalKnownHostsFile=none -o IdentityAgent=none",
            **changes,
        }
        return Host(**values)  # type: ignore[arg-type]

    def sessions(self) -> list[int]:
        """The pids of the processes below the listening sshd, its sessions' programs included."""
        assert self.process is not None
        return descendants(self.process.pid)

    def stop(self) -> None:
        if self.process is None:
            return
        victims = self.sessions()
        self.process.terminate()
        self.process.wait(10)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process = None


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found
