"""A command of the plan on this host: started once, whatever becomes of the processes that wait for it.

A process of its own (the verb `command`) runs it, keeps the end of its output, kills it with its process group when its time is over, and
leaves the outcome in a file. Workers come and go: each finds the outcome, or waits for it. In the run directory, for stage SSS:

    command-sSSS.begun   made before it is started; without an outcome, and with nobody who holds the lock, nobody knows what became of it
    command-sSSS.lock    held as long as the process lives; has "pid boot process-group"
    command-sSSS.json    the outcome: {exit_code (negative: the signal), timed_out, seconds, output (the last of it), output_bytes}
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import selectors
import signal
import subprocess
import time
from typing import Any, Callable, Dict, List, Optional

from sai3ssh.agent import state
from sai3ssh.errors import AgentError
from sai3ssh.model import Plan, from_json

KEPT_BYTES = 16 * 1024
"""Of the output."""
POLL_S = 0.1
KILL_WAIT_S = 5.0
NOT_STARTED = 127
"""The exit code of a command that could not be started, as shells have it."""
MARK = "SAI3SSH_COMMAND"
"""In the environment of a command: whose it is. Numbers of processes say so only while somebody waits for them."""


def follow(directory: str, stage: int, poll: Callable[[float], None]) -> Dict[str, Any]:
    """The outcome of a stage's command, which is started if it never was; waits by `poll` (seconds).

    Raises AgentError when it was started and nobody knows what became of it: it may have done anything, and is not run a second time.
    """
    base = _base(directory, stage)
    while True:
        lock = state.try_lock(f"{base}.lock")
        if lock is not None:
            try:
                found = _outcome(base)
                if found is not None:
                    return found
                _start(directory, stage, base, lock)
            finally:
                os.close(lock)
        poll(POLL_S)


def _start(directory: str, stage: int, base: str, lock: int) -> None:
    try:
        os.close(os.open(f"{base}.begun", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError as error:
        raise AgentError(
            f"the command of stage {stage} had been started, and nobody knows its outcome: it was killed with its host or by hand",
            remedy="It is not run a second time; look on the host what it has done, and start another run",
        ) from error
    state.sync_dir(directory)
    # The lock goes to the process: at no moment does nobody hold it.
    os.set_inheritable(lock, True)
    subprocess.Popen(
        [*state.self_argv(), "command", directory, str(stage), str(lock)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(lock,),
        start_new_session=True,
    )


def kill(directory: str) -> None:
    """Kills the commands of a run that are still there, each with its process group; returns when they are gone.

    A command that has an outcome is over. One whose waiting process was killed has none, and may go on.
    """
    for path in glob.glob(os.path.join(glob.escape(directory), "command-s*.lock")):
        base = path[: -len(".lock")]
        deadline = time.monotonic() + KILL_WAIT_S
        while time.monotonic() < deadline:
            if state.is_locked(path):
                with open(path, encoding="ascii") as file:
                    words = file.read().split()
                # Before that it is just about to begin, and could be missed.
                if len(words) > 2 and words[1] == state.boot_id():
                    for word in (words[2], words[0]):
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(int(word), signal.SIGKILL)
            elif _outcome(base) is not None or not _kill_marked(base):
                break
            time.sleep(0.01)


def _kill_marked(base: str) -> bool:
    """Kills all that a command has started; whether there was anything."""
    mark = f"{MARK}={base}".encode()
    found = False
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/environ", "rb") as file:
                marked = mark in file.read().split(b"\0")
            if marked:
                found = True
                os.kill(int(name), signal.SIGKILL)
    return found


def _base(directory: str, stage: int) -> str:
    return os.path.join(directory, f"command-s{stage:03d}")


def _outcome(base: str) -> Optional[Dict[str, Any]]:
    try:
        with open(f"{base}.json", encoding="ascii") as file:
            found: Dict[str, Any] = json.load(file)
            return found
    except FileNotFoundError:
        return None


def failure(command: List[str], outcome: Dict[str, Any]) -> Optional[str]:
    """Why a command has failed; None when it has not."""
    code, name = outcome["exit_code"], command[0]
    if outcome["timed_out"]:
        return f"command {name} was killed after {outcome['seconds']:.0f} s (timeout_secs)"
    if code == 0:
        return None
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    last = outcome["output"].strip().rpartition("\n")[2][-300:]
    return f"command {name} {how}" + (f"; it said: {last}" if last else "")


def main(directory: str, index: int, lock: int) -> int:
    """Entry point of `command`: runs it and leaves its outcome. Whoever kills this process kills the command's process group as well."""
    with open(os.path.join(directory, "plan.json"), encoding="ascii") as file:
        stage = from_json(Plan, json.load(file)["plan"]).stages[index]
    os.set_inheritable(lock, False)
    began = time.monotonic()
    deadline = None if stage.timeout_s is None else began + stage.timeout_s
    output = _Output()
    code, timed_out = NOT_STARTED, False
    _note(lock, str(os.getpid()), state.boot_id())
    base = _base(directory, index)
    try:
        child = subprocess.Popen(
            stage.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, MARK: base},
            start_new_session=True,
        )
    except OSError as error:
        output.take(f"{stage.command[0]}: {error.strerror}".encode())
    else:
        _note(lock, str(os.getpid()), state.boot_id(), str(child.pid))
        code, timed_out = _wait(child, output, deadline)
    found = {"exit_code": code, "timed_out": timed_out, "seconds": round(time.monotonic() - began, 3), **output.to_json()}
    state.write_json(f"{base}.json", found)
    return 0


def _note(lock: int, *words: str) -> None:
    os.pwrite(lock, (" ".join(words) + "\n").encode("ascii"), 0)


class _Output:
    """The end of what a command says."""

    def __init__(self) -> None:
        self._kept = b""
        self._bytes = 0

    def take(self, data: bytes) -> None:
        self._bytes += len(data)
        self._kept = (self._kept + data)[-KEPT_BYTES:]

    def to_json(self) -> Dict[str, Any]:
        return {"output": self._kept.decode("utf-8", "replace"), "output_bytes": self._bytes}


def _wait(child: subprocess.Popen[bytes], output: _Output, deadline: Optional[float]) -> tuple[int, bool]:
    """Exit code, and whether it was killed because its time was over. What it leaves behind in its process group is killed as well."""
    assert child.stdout is not None
    timed_out = False
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while child.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                timed_out = True
                break
            if selector.select(POLL_S):
                data = os.read(child.stdout.fileno(), 1 << 16)
                output.take(data)
                if not data:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(POLL_S)
        # Before the child is waited for its number can be nobody else's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        while selector.select(0):
            data = os.read(child.stdout.fileno(), 1 << 16)
            if not data:
                break
            output.take(data)
    return code, timed_out
