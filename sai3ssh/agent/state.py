"""Where an agent keeps its runs, and how its processes find each other."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

import sai3ssh

DEPLOYED = "/var/lib/sai3ssh"


def state_dir(given: Optional[str]) -> str:
    """The agent's directory: the given one, else the deployed one when this user may enter it, else below the user's home. Created with
    mode 0700."""
    if given:
        path = os.path.abspath(os.path.expanduser(given))
    elif os.access(DEPLOYED, os.R_OK | os.X_OK):
        path = DEPLOYED
    else:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        path = os.path.join(base, "sai3ssh")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def is_served(directory: str) -> bool:
    """Whether another user's daemon has the directory: a service keeps that one, and nobody else starts or replaces it."""
    try:
        return os.stat(os.path.join(directory, "agent.lock")).st_uid != os.getuid()
    except FileNotFoundError:
        return False


def run_dir(state: str, run_id: str, agent_id: str) -> str:
    """The directory of one agent's part of a run. Raises ValueError for names that would leave the state directory."""
    for name in (run_id, agent_id):
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} cannot name a run or an agent")
    return os.path.join(state, "runs", run_id, agent_id)


def metrics_dir() -> str:
    """The user's directory for metrics, on tmpfs where the host has one."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"  # noqa: S108 (mode 0700 and ownership are checked below)
    path = os.path.join(base, f"sai3ssh-{os.getuid()}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{path} belongs to uid {found.st_uid} with mode {found.st_mode & 0o777:o}, expected uid {os.getuid()} and 700"
        )
    return path


def boot_id() -> str:
    """The kernel's id of this boot, shortened to 8 characters."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read(8)


def clock_ns() -> int:
    """CLOCK_BOOTTIME: monotonic, and goes on while the host sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def archive() -> Optional[str]:
    """The zipapp that this agent was started from, also when its code comes from the compiled one beside it; None in a source tree."""
    found: Optional[str] = getattr(sys.modules["sai3ssh"].__loader__, "archive", None)
    suffix = f".{sys.implementation.cache_tag}"
    return found[: -len(suffix)] if found and found.endswith(suffix) else found


def self_argv() -> List[str]:
    """The command that starts this same agent again."""
    path = archive()
    return [sys.executable, path] if path else [sys.executable, "-m", "sai3ssh.agent"]


def version() -> Dict[str, Any]:
    """Version of the agent, SHA-256 of its zipapp ('' when it runs from a source tree) and version of Python."""
    path, digest = archive(), ""
    if path:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
    return {"version": sai3ssh.__version__, "digest": digest, "python": ".".join(map(str, sys.version_info[:3]))}


def write_json(path: str, value: Any) -> None:
    """Replaces a file by the value as JSON: whole or not at all, also after a power cut."""
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="ascii") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_dir(os.path.dirname(path))


def sync_dir(path: str) -> None:
    """Makes the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _at(directory: str, name: str) -> Iterator[str]:
    # A socket's path may be 107 bytes long; through a directory descriptor every path fits.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def listen(directory: str, name: str) -> socket.socket:
    """A listening Unix socket that replaces a stale one; mode 0660."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, name))
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _at(directory, name) as path:
        mask = os.umask(0o117)
        try:
            server.bind(path)
        finally:
            os.umask(mask)
    server.listen(64)
    server.setblocking(False)
    return server


def connect(directory: str, name: str, timeout_s: float = 5.0) -> socket.socket:
    """A connection to a Unix socket; raises OSError when nobody listens."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout_s)
    try:
        with _at(directory, name) as path:
            client.connect(path)
    except OSError:
        client.close()
        raise
    return client


def ask(sock: socket.socket, message: bytes) -> Any:
    """The answer to a message, on a connection on which nothing else is under way. Raises OSError."""
    sock.sendall(message)
    answer = b""
    while not answer.endswith(b"\n"):
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionResetError("it closed its socket")
        answer += piece
    return json.loads(answer)


def try_lock(path: str) -> Optional[int]:
    """The descriptor of an exclusive lock, or None when another process holds it. Held until the descriptor is closed or the process
    ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    return fd if _lock(fd, fcntl.LOCK_EX) else None


def _lock(fd: int, kind: int) -> bool:
    """Closes the descriptor unless it gets the lock."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    return True


def is_locked(path: str) -> bool:
    """Whether a live process holds the lock. To be asked by who may only read, too."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    if not _lock(fd, fcntl.LOCK_SH):
        return True
    os.close(fd)
    return False


def runs(state: str) -> List[Tuple[str, str, str]]:
    """(run id, agent id, directory) of every run here, oldest first."""
    root = os.path.join(state, "runs")
    found = []
    for run_id in os.listdir(root) if os.path.isdir(root) else []:
        if not os.path.isdir(os.path.join(root, run_id)):
            continue
        for agent_id in os.listdir(os.path.join(root, run_id)):
            path = os.path.join(root, run_id, agent_id)
            if os.path.exists(os.path.join(path, "plan.json")):
                found.append((os.path.getmtime(os.path.join(path, "plan.json")), run_id, agent_id, path))
    return [(run_id, agent_id, path) for _, run_id, agent_id, path in sorted(found)]
