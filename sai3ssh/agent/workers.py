"""The worker processes of one run, as their supervisor holds them."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import Any, Dict, List, Optional

from sai3ssh.agent import state
from sai3ssh.agent.lines import Lines
from sai3ssh.protocol import Json

KILL_WAIT_S = 5.0


class WorkerProcess:
    """One worker: its process, its pipe, and what it last said."""

    def __init__(self, index: int, incarnation: int, init: Json, env: Dict[str, str], selector: selectors.BaseSelector) -> None:
        """`env` is added to the environment; the selector goes on with what the worker's pipe has not taken at once."""
        self.index = index
        self.incarnation = incarnation
        self.ready = False
        self.began = time.monotonic()
        self.started_clock_ns: Optional[int] = None
        self.ended: Optional[Dict[str, Any]] = None
        self.tasks = 0
        """Operations that it and those before it have begun in the running stage, where their number ends it."""
        environment = {**os.environ, **env}
        self.process = subprocess.Popen([*state.self_argv(), "work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.lines = Lines(self.process.stdout.fileno(), self.process.stdin.fileno())
        self._selector = selector
        self.order({"init": init})

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def order(self, message: Json) -> None:
        """Sends a line; a worker that is gone is noticed by its end of file, not here."""
        with contextlib.suppress(EOFError):
            self.lines.send(message)
        # Of a large plan, or many ranges, a pipe takes 64 KiB until the worker reads.
        if self.lines.waiting and not self._is_fed():
            self._selector.register(self.lines.out_fd, selectors.EVENT_WRITE, self._feed)

    def _is_fed(self) -> bool:
        return self.lines.out_fd in self._selector.get_map()

    def _feed(self) -> None:
        with contextlib.suppress(EOFError):
            self.lines.write()
            if self.lines.waiting:
                return
        self.unfeed()

    def unfeed(self) -> None:
        """Leaves the selector."""
        if self._is_fed():
            self._selector.unregister(self.lines.out_fd)

    def how_it_ended(self) -> str:
        """The end of a process that closed its pipe, in words."""
        try:
            code = self.process.wait(KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            return "closed its output and went on"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def kill_all(workers: List[WorkerProcess]) -> List[int]:
    """Kills all workers at once and waits for them; returns the pids of any that are still there after KILL_WAIT_S."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
    deadline = time.monotonic() + KILL_WAIT_S
    left = []
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            left.append(worker.pid)
    return left


def group_members(pgid: int) -> List[int]:
    """The live processes (zombies are not) of a process group."""
    members = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == pgid and fields[0] not in "ZX":
            members.append(int(name))
    return members


def kill_leftovers(lock: str, boot: str) -> None:
    """Ends workers of an earlier supervisor, by what it wrote into its lock file ("pid boot"): a new one must find nobody writing."""
    pid, _, of_boot = lock.strip().partition(" ")
    if not pid.isdigit() or of_boot != boot or int(pid) == os.getpid():
        return
    deadline = time.monotonic() + KILL_WAIT_S
    while time.monotonic() < deadline:
        # The number of the group may belong to others by now: only what is a worker by its command line is ours.
        left = [member for member in group_members(int(pid)) if _is_worker(member)]
        if not left:
            return
        for member in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.01)


def _is_worker(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().rstrip(b"\0").split(b"\0")[-1] == b"work"
    except OSError:
        return False
