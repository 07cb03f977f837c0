"""The agent daemon: takes plans, keeps a supervisor for every run that has no final record, stops and forgets runs.

Not in the measured path: a thread per client. Credentials live in this process's memory only, for supervisors that it starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from typing import Any, Dict, List, Optional, Set

from sai3ssh.agent import state, traces
from sai3ssh.agent.recovery import replay
from sai3ssh.agent.release import Release
from sai3ssh.agent.rotation import Keep, Rotation
from sai3ssh.agent.stage import metrics_files
from sai3ssh.agent.tail import last_record
from sai3ssh.agent.workers import group_members
from sai3ssh.errors import AgentError, Sai3sshError, VersionMismatch, from_dict
from sai3ssh.model import Assignment, CommandKey, Plan, from_json
from sai3ssh.protocol import MAX_LINE, PROTOCOL, Json, dumps, encode_control, scan

STOP_S = 20.0
"""How long a supervisor has for its orderly end before its process group is killed."""
KILL_S = 5.0
FINALISE_S = 20.0
"""For a supervisor that is started only to end a journal."""
WATCH_S = 0.5
IDLE_S = 600.0
"""How long a daemon that no service keeps stays without windows and runs in progress: whoever comes later starts another."""
QUICK_S = 30.0
MAX_QUICK = 5
"""So many supervisors of one run that die in a row, each within QUICK_S, are enough; a controller's stop starts one more."""
REMOVED = "removed"
"""Where runs go to be deleted: one whose deletion is interrupted must not look like one that has yet to begin."""


class Run:
    """One run as the daemon holds it."""

    def __init__(self, directory: str, halts: bool = False) -> None:
        self.directory = directory
        self.halts = halts
        """Whether SIGTERM halts its supervisor, instead of ending the run."""
        self.lock = threading.RLock()
        self.credentials: Optional[Dict[str, Any]] = None
        self.supervisor: Optional[subprocess.Popen[bytes]] = None
        self.started_at = 0.0
        self.quick = 0
        """Supervisors that died in a row soon after their start."""

    @property
    def alive(self) -> bool:
        """Whether a supervisor has the run."""
        return state.is_locked(os.path.join(self.directory, "supervisor.lock"))

    def final(self) -> Optional[Json]:
        """The final record, if the journal has one."""
        record = last_record(os.path.join(self.directory, "journal.ndjson"))
        return record if record is not None and record["kind"] == "final" else None

    def start_supervisor(self) -> None:
        """Starts a supervisor in a process group of its own; credentials go through its stdin."""
        now = time.monotonic()
        self.quick = self.quick + 1 if now - self.started_at < QUICK_S else 0
        self.started_at = now
        with open(os.path.join(self.directory, "supervisor.log"), "ab") as log:
            self.supervisor = subprocess.Popen(
                [*state.self_argv(), "supervise", self.directory],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        assert self.supervisor.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.supervisor.stdin.write(dumps({"credentials": self.credentials, "halts": self.halts}).encode("ascii") + b"\n")
            self.supervisor.stdin.close()

    def group(self) -> int:
        """The process group of the run's last supervisor; 0 when it never had one."""
        with (
            contextlib.suppress(OSError, ValueError, IndexError),
            open(os.path.join(self.directory, "supervisor.lock"), encoding="ascii") as file,
        ):
            return int(file.read().split()[0])
        return 0


class Daemon:
    """Serves the Unix socket until `retire` or SIGTERM, or until nobody has needed it for long. Supervisors outlive it."""

    def __init__(self, directory: str, halts: bool = False) -> None:
        self._dir = directory
        self._halts = halts
        for name in (REMOVED, traces.DIRECTORY):
            shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        self._runs: Dict[str, Run] = {path: Run(path, halts) for _, _, path in state.runs(directory)}
        self._clients: Set[socket.socket] = set()
        self._halting = False
        self._lock = threading.Lock()
        self._over = threading.Event()

    def serve(self, server: socket.socket, keep: Keep, idle_s: float) -> None:
        """Answers clients until told to end, or, with idle_s, until it has had neither clients nor runs in progress for so long."""
        server.settimeout(WATCH_S)
        watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        watcher.start()
        rotation = Rotation(self._dir, keep, lambda path: self._forget(self._runs[path]), _log)
        threading.Thread(target=rotation.run, args=(self._over,), name="rotation", daemon=True).start()
        needed_at = time.monotonic()
        while not self._over.is_set():
            try:
                client, _ = server.accept()
            except socket.timeout:
                if self._clients:
                    needed_at = time.monotonic()
                elif idle_s and time.monotonic() - needed_at > idle_s:
                    if not active_runs(self._dir):
                        break
                    needed_at = time.monotonic()
                continue
            needed_at = time.monotonic()
            self._clients.add(client)
            threading.Thread(target=self._client, args=(client,), daemon=True).start()
        server.close()
        if self._halting:
            watcher.join()
            self._halt()

    def end(self) -> None:
        """Makes `serve` return; with `halts` the processes of all runs are killed before it does, and the next daemon goes on with them."""
        self._halting = self._halts
        self._over.set()

    def _halt(self) -> None:
        for run in list(self._runs.values()):
            groups = {run.group() if run.alive else 0}
            if run.supervisor is not None and run.supervisor.poll() is None:
                groups.add(run.supervisor.pid)  # one that has just begun is not in its lock file yet
            for group in groups - {0}:
                _kill_group(group)

    def _watch(self) -> None:
        """Every run without a final record has a supervisor."""
        while not self._over.wait(WATCH_S):
            with self._lock:
                runs = list(self._runs.values())
            for run in runs:
                with run.lock:
                    if run.supervisor is not None:
                        run.supervisor.poll()
                    if os.path.exists(run.directory) and not run.alive and run.final() is None and run.quick < MAX_QUICK:
                        run.start_supervisor()
                        self._wait_started(run)

    @staticmethod
    def _wait_started(run: Run) -> None:
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline and not run.alive and run.supervisor is not None and run.supervisor.poll() is None:
            time.sleep(0.01)

    def _client(self, client: socket.socket) -> None:
        try:
            self._answer(client)
        finally:
            self._clients.discard(client)

    def _answer(self, client: socket.socket) -> None:
        client.settimeout(None)
        with client, client.makefile("rb") as lines:
            while True:
                line = lines.readline(MAX_LINE)
                try:
                    message: Json = json.loads(line)
                except ValueError:
                    return  # the end, or no client of ours
                try:
                    answer: Json = {"id": message.get("id"), "ok": self._command(message)}
                except Sai3sshError as error:
                    answer = {"id": message.get("id"), "error": error.to_dict()}
                except (ValueError, KeyError, TypeError, OSError) as error:
                    failed = AgentError(f"{message.get('cmd')}: {type(error).__name__}: {error}")
                    answer = {"id": message.get("id"), "error": failed.to_dict()}
                try:
                    client.sendall(encode_control(answer))
                except OSError:
                    return

    def _command(self, message: Json) -> Json:
        verb = message.get("cmd")
        if verb == "hello":
            return {**state.version(), "protocol": PROTOCOL, "pid": os.getpid()}
        if verb == "preflight":
            # Asked once in a while, by a deployed agent's preflight: loaded then.
            from sai3ssh.agent import preflight

            return preflight.answer_as_service(from_json(preflight.Request, message["request"]), message["seconds"])
        if verb == "runs":
            return {"runs": listing(self._dir)}
        if verb == "retire":
            active = active_runs(self._dir)
            if active:
                raise VersionMismatch(
                    f"agent {state.version()['version']} has {', '.join(active)} in progress",
                    remedy="Wait for that run, or stop it with `sai3ssh stop`",
                )
            self._over.set()
            return {}
        if verb == "submit":
            return self._submit(message)
        if verb == "trace":
            return traces.take(self._dir, message)
        if verb == "plan":
            with open(os.path.join(self._find(message).directory, "plan.json"), encoding="ascii") as file:
                stored = json.load(file)
            return {"key": stored["key"], "plan": stored["plan"], "epoch": stored["epoch"]["epoch"]}
        if verb == "credentials":
            self._pass_credentials(self._find(message), message["credentials"])
            return {}
        if verb in ("stop", "forget"):
            run = self._find(message)
            return self._stop(run, message) if verb == "stop" else self._forget(run)
        raise AgentError(f"unknown command {verb!r}")

    def _find(self, message: Json) -> Run:
        run_id = message["run_id"] if "run_id" in message else message["key"]["run_id"]
        path = state.run_dir(self._dir, run_id, message["agent_id"])
        with self._lock:
            if path not in self._runs:
                raise AgentError(f"no run {run_id} of agent {message['agent_id']} in {self._dir}")
            return self._runs[path]

    def _submit(self, message: Json) -> Json:
        key = from_json(CommandKey, message["key"])
        plan = from_json(Plan, message["plan"])
        assignment = from_json(Assignment, message["assignment"])
        path = state.run_dir(self._dir, key.run_id, assignment.agent_id)
        with self._lock:
            run = self._runs.setdefault(path, Run(path, self._halts))
        with run.lock:
            stored = os.path.join(path, "plan.json")
            if os.path.exists(stored):
                with open(stored, encoding="ascii") as file:
                    earlier = json.load(file)
                if earlier["key"] != message["key"]:
                    raise AgentError(
                        f"run {key.run_id} of agent {assignment.agent_id} is here already, from controller {earlier['key']['controller']}"
                    )
                self._pass_credentials(run, message.get("credentials"))
                return {"epoch": earlier["epoch"]["epoch"]}
            # A daemon that died before the plan was there has left it.
            shutil.rmtree(path, ignore_errors=True)
            traces.check(self._dir, plan, assignment.agent_id)
            try:
                os.makedirs(path, mode=0o750)  # for the group of a deployed agent; a user's own state directory lets nobody in
                traces.move(self._dir, key.run_id, assignment.agent_id, path)
                epoch = {
                    "epoch": uuid.uuid4().hex,
                    "run_id": plan.run_id,
                    "agent_id": assignment.agent_id,
                    "generation": key.generation,
                    **{name: value for name, value in state.version().items() if name != "python"},
                    "plan_sha256": hashlib.sha256(dumps(message["plan"]).encode("ascii")).hexdigest(),
                }
                state.write_json(
                    stored, {"key": message["key"], "plan": message["plan"], "assignment": message["assignment"], "epoch": epoch}
                )
            except OSError as error:
                shutil.rmtree(path, ignore_errors=True)
                with self._lock:
                    self._runs.pop(path, None)
                raise AgentError(
                    f"cannot create {path}: {error.strerror}",
                    remedy="Free space there, or set sai3ssh_agent_state_dir to a directory on a larger file system",
                ) from error
            run.credentials = message.get("credentials")
            run.start_supervisor()
            self._wait_started(run)
            return {"epoch": epoch["epoch"]}

    @staticmethod
    def _pass_credentials(run: Run, credentials: Optional[Dict[str, Any]]) -> None:
        """After a restart nobody here has them until the controller sends them again."""
        if run.credentials is None and credentials is not None:
            run.credentials = credentials
            with contextlib.suppress(OSError), state.connect(run.directory, "supervisor.sock") as sock:
                sock.sendall(encode_control({"id": 0, "cmd": "credentials", "credentials": credentials}))
                sock.settimeout(STOP_S)
                sock.recv(4096)

    def _stop(self, run: Run, message: Json) -> Json:
        """Answers when the run's process group is gone and its final record is on disk."""
        with run.lock:
            if run.final() is None and "key" in message:
                self._check_key(run, message)
            if run.final() is None and run.alive:
                with contextlib.suppress(OSError):
                    self._ask_to_stop(run, message)
                self._wait_gone(run, STOP_S)
            group = run.group()
            left = group_members(group) if group else []
            if left:
                left = _kill_group(group)
            if left:
                raise AgentError(f"processes {left} of run {run.directory} do not end, even when killed")
            if run.final() is None:
                self._finalise(run, str(message.get("reason", "stopped")))
            final = run.final()
            if final is None:
                raise AgentError(f"run {run.directory} is stopped but its journal could not be ended", remedy="See supervisor.log there.")
            return {"outcome": final["outcome"]}

    @staticmethod
    def _check_key(run: Run, message: Json) -> None:
        """Refuses what is not of the controller in charge also when there is no supervisor to do so."""
        with open(os.path.join(run.directory, "plan.json"), encoding="ascii") as file:
            key = json.load(file)["key"]
        release = Release(key, 0, "")
        with contextlib.suppress(FileNotFoundError), open(os.path.join(run.directory, "journal.ndjson"), "rb") as journal:
            release.restore(replay(scan(journal.read())[0]), 0)
        release.check_key(message)

    def _ask_to_stop(self, run: Run, message: Json) -> None:
        with state.connect(run.directory, "supervisor.sock") as sock:
            key = {"key": message["key"]} if "key" in message else {}
            sock.sendall(encode_control({"id": 0, "cmd": "stop", "reason": message.get("reason", "stopped"), **key}))
            sock.settimeout(STOP_S)
            answer = json.loads(sock.recv(4096) or b"{}")
            if "error" in answer:
                raise from_dict(answer["error"])

    @staticmethod
    def _wait_gone(run: Run, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while run.alive and time.monotonic() < deadline:
            time.sleep(0.02)

    def _finalise(self, run: Run, reason: str) -> None:
        """The supervisor was killed: a new one writes the end, and why."""
        stored = os.path.join(run.directory, "plan.json")
        with open(stored, encoding="ascii") as file:
            submitted = json.load(file)
        state.write_json(stored, {**submitted, "stop": reason})
        run.start_supervisor()
        self._wait_started(run)
        self._wait_gone(run, FINALISE_S)

    def _forget(self, run: Run) -> Json:
        with run.lock:
            if run.alive:
                raise AgentError(f"run {run.directory} is in progress", remedy="Stop it first")
            run_id, agent_id = run.directory.split(os.sep)[-2:]
            for path in metrics_files(run_id, agent_id):
                os.unlink(path)
            removed = os.path.join(self._dir, REMOVED, uuid.uuid4().hex)
            os.makedirs(os.path.dirname(removed), mode=0o700, exist_ok=True)
            os.rename(run.directory, removed)
            shutil.rmtree(removed, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(run.directory))
            with self._lock:
                self._runs.pop(run.directory, None)
        return {}


def _kill_group(group: int) -> List[int]:
    """Kills a process group; who is left of it when that has had its time."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + KILL_S
    while (left := group_members(group)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def listing(directory: str) -> List[Json]:
    """The runs of a directory, by what is on its disk."""
    entries = []
    for run_id, agent_id, path in state.runs(directory):
        final = Run(path).final()
        journal = os.path.join(path, "journal.ndjson")
        entries.append(
            {
                "run_id": run_id,
                "agent_id": agent_id,
                "state": final["outcome"] if final else "active",
                "created_wall_ns": int(os.path.getmtime(os.path.join(path, "plan.json")) * 1e9),
                "size": os.path.getsize(journal) if os.path.exists(journal) else 0,
            }
        )
    return entries


def active_runs(directory: str) -> List[str]:
    """The ids of those without a final record."""
    return [entry["run_id"] for entry in listing(directory) if entry["state"] == "active"]


def start(directory: str) -> str:
    """Makes sure that a daemon serves the directory; 'started' or 'already running'. Raises AgentError when none answers within 10 s."""
    if state.is_served(directory):
        return "already running"
    try:
        lock = state.try_lock(os.path.join(directory, "agent.lock"))
    except PermissionError as error:
        raise AgentError(
            f"no agent daemon has {directory}, and this user may not start one there: {error.strerror}",
            remedy="Start it with `systemctl start sai3ssh-agent` on the host",
        ) from error
    if lock is None:
        return "already running"
    os.close(lock)
    archive = state.archive()
    if archive:
        from sai3ssh.agent import compiled  # only here: what it imports would cost every other start

        compiled.ensure(archive)
    with open(os.path.join(directory, "agent.log"), "ab") as log:
        subprocess.Popen(
            [*state.self_argv(), "serve", "--foreground", "--state", directory, "--idle-s", str(IDLE_S)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), state.connect(directory, "agent.sock"):
            return "started"
        time.sleep(0.02)
    raise AgentError(f"the agent daemon did not start within 10 s in {directory}", remedy=f"See {directory}/agent.log on the host.")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _tell_systemd(what: str) -> None:
    """Does nothing unless systemd asked for it (Type=notify)."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(what.encode("ascii"), "\0" + address[1:] if address.startswith("@") else address)


def main(directory: str, halt: bool, keep: Keep, idle_s: float) -> int:
    """Entry point of `serve --foreground`: 0 at the end and when another daemon has the directory. With `halt`, SIGTERM halts the
    runs; with `idle_s` it ends when it has not been needed for so long."""
    lock = state.try_lock(os.path.join(directory, "agent.lock"))
    if lock is None:
        print("already running", flush=True)
        return 0
    daemon = Daemon(directory, halt)
    signal.signal(signal.SIGTERM, lambda *_: daemon.end())
    server = state.listen(directory, "agent.sock")
    _tell_systemd("READY=1")
    _log(f"sai3ssh agent {state.version()['version']} serves {directory}")
    daemon.serve(server, keep, idle_s)
    return 0
