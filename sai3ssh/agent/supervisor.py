"""One run on one host: journal, workers, releases, heartbeats.

A single thread that never waits for anything but events; the journal writes in a thread of its own. The process leads its own process
group, to
which all its workers belong.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from sai3ssh import model
from sai3ssh.agent import hostmetrics, metrics, state
from sai3ssh.agent.journal import Journal
from sai3ssh.agent.lines import Lines
from sai3ssh.agent.release import Release
from sai3ssh.agent.stage import Ledger, Published, metrics_files
from sai3ssh.agent.workers import WorkerProcess, kill_all
from sai3ssh.errors import AgentError, Sai3sshError, from_dict
from sai3ssh.model import Outcome, StageKind, from_json
from sai3ssh.protocol import Json

TICK_S = 1.0
STOP_GRACE_S = 5.0
READY_TIMEOUT_S = 60.0
JOURNAL_BYTES_PER_S = 1024


class Supervisor:
    """Runs until the final record is on disk."""

    def __init__(self, directory: str, init: Json) -> None:
        with open(os.path.join(directory, "plan.json"), encoding="ascii") as file:
            self._submitted = json.load(file)
        self._plan = from_json(model.Plan, self._submitted["plan"])
        self._assignment = from_json(model.Assignment, self._submitted["assignment"])
        self._dir = directory
        self._credentials = init.get("credentials")
        self._boot = state.boot_id()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        self._journal = Journal(os.path.join(directory, "journal.ndjson"), boot=self._boot, wake=self._wake)
        self._ledger = Ledger(self._plan, self._assignment.ranges)
        self._release = Release(self._submitted["key"], len(self._plan.stages), self._boot)
        self._workers: List[WorkerProcess] = []
        self._stage: Optional[Published] = None
        self._state = "STARTING"
        self._clients: Dict[int, Lines] = {}
        self._subscribers: Dict[int, Lines] = {}
        self._beat = 0
        self._outcome: Optional[Outcome] = None
        self._error: Optional[Sai3sshError] = None
        self._terminated = False
        self._planned = 0
        self._stop_deadline: Optional[float] = None
        self._reason = ""
        self._heard = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._timers: Dict[str, Tuple[float, Callable[[], None]]] = {}

    # --- life ------------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the first record to the final one."""
        server = state.listen(self._dir, "supervisor.sock")
        self._selector.register(server, selectors.EVENT_READ, lambda: self._accept(server))
        self._selector.register(self._wake_r, selectors.EVENT_READ, self._on_journal)
        signal.signal(signal.SIGTERM, self._on_term)
        try:
            if self._journal.records:
                self._take_over()
            else:
                self._begin()
            while self._outcome is None:
                self._turn()
        except Sai3sshError as error:
            self._fail(error)
        except Exception as error:
            import traceback

            traceback.print_exc()
            self._fail(AgentError(f"supervisor failed: {type(error).__name__}: {error}", remedy="See supervisor.log of the run."))
        self._finish()

    def _begin(self) -> None:
        self._journal.append("epoch", {**self._submitted["epoch"], "host": hostmetrics.describe()})
        seconds = sum(stage.duration_s or 600.0 for stage in self._plan.stages)
        budget = int(seconds * JOURNAL_BYTES_PER_S) + 65536
        try:
            self._journal.reserve(budget)
        except OSError as error:
            raise AgentError(
                f"cannot reserve {budget} bytes for the journal in {self._dir}: {error.strerror}",
                remedy="Free space there, or set sai3ssh_agent_state_dir to a directory on a larger file system",
            ) from error
        cores = len(os.sched_getaffinity(0))
        most = max((stage.concurrency for stage in self._plan.stages), default=1)
        count = max(1, min(self._plan.workers or cores, most))
        try:
            for index in range(len(self._plan.stages)):
                for worker in range(count):
                    metrics.create(self._metrics(index, worker))
        except OSError as error:
            raise AgentError(f"cannot allocate metrics in {state.metrics_dir()}: {error.strerror}", remedy="Free memory there") from error
        for index in range(count):
            self._start_worker(index, count)
        self._timer("ready", READY_TIMEOUT_S, self._ready_late)
        self._timer("heartbeat", 0.0, self._heartbeat)
        self._timer("tick", TICK_S, self._tick)

    def _take_over(self) -> None:
        """Another supervisor has been here and is gone: what it left is made an end of."""
        self._journal.append("recovered", {"truncated_bytes": self._journal.truncated_bytes})
        if self._submitted.get("stop"):
            self._reason = self._submitted["stop"]
            self._outcome = Outcome.STOPPED
            return
        raise AgentError("the supervisor of this run died", remedy="See supervisor.log of the run.")

    def _metrics(self, stage: int, worker: int) -> str:
        return os.path.join(state.metrics_dir(), f"{self._plan.run_id}.{self._assignment.agent_id}.{stage}.{worker}")

    def _start_worker(self, index: int, count: int) -> None:
        init = {
            "plan": self._submitted["plan"],
            "assignment": self._submitted["assignment"],
            "credentials": self._credentials,
            "worker": index,
            "workers": count,
            "incarnation": 0,
        }
        worker = WorkerProcess(index, 0, init)
        self._workers.append(worker)
        self._journal.append("worker", {"worker": index, "incarnation": 0, "pid": worker.pid})
        self._watch_worker(worker)

    def _watch_worker(self, worker: WorkerProcess) -> None:
        self._selector.register(worker.lines.in_fd, selectors.EVENT_READ, lambda: self._on_worker(worker))

    def _turn(self) -> None:
        due = min((at for at, _ in self._timers.values()), default=time.monotonic() + 1.0)
        for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
            key.data()
        now = time.monotonic()
        for name, (at, action) in list(self._timers.items()):
            if at <= now and self._timers.get(name) == (at, action):
                del self._timers[name]
                action()

    def _timer(self, name: str, delay_s: float, action: Callable[[], None]) -> None:
        self._timers[name] = (time.monotonic() + delay_s, action)

    def _wake(self) -> None:
        try:
            os.write(self._wake_w, b"x")
        except BlockingIOError:
            return

    def _on_term(self, *_: Any) -> None:
        """Ends the run in order; the signal may come at any point of a turn."""
        self._terminated = True
        self._wake()

    def _fail(self, error: Sai3sshError) -> None:
        self._journal.append("failed", {"error": error.to_dict()})
        self._error = error
        self._outcome, self._reason = Outcome.FAILED, error.message

    def _finish(self) -> None:
        """Workers gone, final record on disk, cache of the outcome written, metrics removed."""
        left = kill_all(self._workers)
        for worker in self._workers:
            self._hear_last(worker)
        if left:
            self._journal.append("notice", {"level": "error", "text": f"processes {left} did not end when killed"})
        if self._stage is not None:
            self._end_stage(state.clock_ns())
        assert self._outcome is not None
        error = self._error.to_dict() if self._error else None
        self._journal.append("final", {"outcome": self._outcome.value, "reason": self._reason, "error": error})
        deadline = time.monotonic() + 600.0
        while not self._journal.flush(0.0) and time.monotonic() < deadline:
            # The disk may be full: the agent stays, with its records in memory, and its heartbeats go on.
            self._turn()
        size, digest = self._journal.close()
        state.write_json(
            os.path.join(self._dir, "status.json"), {"outcome": self._outcome.value, "reason": self._reason, "size": size, "sha256": digest}
        )
        for path in metrics_files(self._plan.run_id, self._assignment.agent_id):
            os.unlink(path)
        self._state = self._outcome.name
        self._send_heartbeat()

    # --- workers ---------------------------------------------------------------------------------------------------------------------

    def _on_worker(self, worker: WorkerProcess) -> None:
        try:
            messages = worker.lines.read()
        except EOFError:
            self._selector.unregister(worker.lines.in_fd)
            if self._stop_deadline is not None:
                worker.ended = worker.ended or {}
                self._check_stopped()
                return
            raise AgentError(
                f"worker {worker.index} (pid {worker.pid}) {worker.how_it_ended()}", remedy="See supervisor.log of the run."
            ) from None
        for message in messages:
            self._worker_says(worker, message)

    def _worker_says(self, worker: WorkerProcess, message: Json) -> None:
        if "error" in message:
            raise from_dict(message["error"])
        if "ready" in message:
            worker.ready = True
            if all(w.ready for w in self._workers) and self._state == "STARTING":
                self._timers.pop("ready", None)
                self._journal.append("ready", {"workers": len(self._workers)}, on_committed=lambda: self._become("READY"))
        elif "notice" in message:
            self._journal.append("notice", {"level": "info", "text": f"worker {worker.index}: {message['notice']}"})
        elif "started" in message:
            worker.started_clock_ns = message["started"]
            self._stage_started()
        elif "finished" in message:
            self._record_finished(message["finished"])
        elif "ended" in message:
            worker.ended = message["ended"]
            self._ledger.puts += message["ended"].get("puts", [])
            if self._stop_deadline is not None:
                self._check_stopped()
            elif all(w.ended is not None for w in self._workers):
                self._end_stage(max(w.ended["drained_clock_ns"] for w in self._workers if w.ended))
                self._after_stage()

    def _hear_last(self, worker: WorkerProcess) -> None:
        """What a worker wrote before its end still counts."""
        if worker.lines.in_fd not in self._selector.get_map():
            return
        self._selector.unregister(worker.lines.in_fd)
        with contextlib.suppress(EOFError):
            while True:
                messages = worker.lines.read()
                for message in messages:
                    if "finished" in message:
                        self._record_finished(message["finished"])
                    elif "ended" in message:
                        worker.ended = message["ended"]
                if not messages:
                    return

    def _record_finished(self, finished: Json) -> None:
        if self._stage is None:
            return
        for name, ranges in finished.items():
            self._ledger.record(self._stage.index, name, ranges)
            self._journal.append("ledger", {"stage": self._stage.index, "population": name, "ranges": ranges})

    def _ready_late(self) -> None:
        late = [worker.index for worker in self._workers if not worker.ready]
        raise AgentError(
            f"workers {late} of {len(self._workers)} were not ready after {READY_TIMEOUT_S:.0f} s", remedy="See supervisor.log of the run."
        )

    # --- stages ----------------------------------------------------------------------------------------------------------------------

    def _start_stage(self, index: int, start_clock_ns: int) -> None:
        stage = self._plan.stages[index]
        readers = [metrics.Reader(metrics.attach(self._metrics(index, worker.index))) for worker in self._workers]
        self._stage = Published(stage, index, readers, start_clock_ns)
        todo = self._ledger.todo(index, stage)
        puts: Dict[str, Any] = {}
        if stage.kind is StageKind.CLEANUP:
            puts = {f"put-{n}": made for n, made in enumerate(self._ledger.puts)}
            todo.update({name: model.Intervals([(0, made["count"])]) for name, made in puts.items()})
        pieces = {name: ranges.split(len(self._workers)) for name, ranges in todo.items()}
        self._planned = sum(len(ranges) for ranges in todo.values()) if stage.kind is not StageKind.EXECUTE else 0
        for worker in self._workers:
            worker.ended = worker.started_clock_ns = None
            worker.order(
                {
                    "stage": index,
                    "start_clock_ns": start_clock_ns,
                    "metrics": self._metrics(index, worker.index),
                    "ranges": {name: list(parts[worker.index]) for name, parts in pieces.items()},
                    "puts": puts,
                }
            )

    def _stage_started(self) -> None:
        if self._stage is None or any(w.started_clock_ns is None for w in self._workers):
            return
        actual = max(w.started_clock_ns for w in self._workers if w.started_clock_ns is not None)
        stage = self._stage
        self._journal.append(
            "stage_start",
            {
                "stage": stage.index,
                "name": stage.stage.name,
                "stage_kind": stage.stage.kind.value,
                "round": self._release.round,
                "start_clock_ns": stage.start_clock_ns,
                "actual_clock_ns": actual,
                "late_ns": max(0, actual - stage.start_clock_ns),
            },
        )
        self._become("RUNNING")
        self._timer("second", (stage.next_second_ns - state.clock_ns()) / 1e9, self._second)

    def _second(self) -> None:
        if self._stage is None:
            return
        for kind, fields in self._stage.second(state.clock_ns()):
            self._journal.append(kind, fields)
        self._timer("second", max(0.0, (self._stage.next_second_ns - state.clock_ns()) / 1e9), self._second)

    def _tick(self) -> None:
        if self._stage is not None:
            for worker in self._workers:
                worker.order({"tick": True})
        elif not self._subscribers and self._state in ("READY", "AT_BARRIER"):
            waited_s = time.monotonic() - self._heard
            if waited_s > self._plan.agent_barrier_timeout_s:
                self._reason = f"no release for {waited_s:.0f} s without a link to the controller (agent_barrier_timeout)"
                self._outcome = Outcome.STOPPED
        self._timer("tick", TICK_S, self._tick)

    def _end_stage(self, drained_clock_ns: int) -> None:
        stage = self._stage
        assert stage is not None
        self._stage = None
        self._timers.pop("second", None)
        for kind, fields in stage.second(state.clock_ns()) + stage.histograms():
            self._journal.append(kind, fields)
        end_ns = drained_clock_ns
        if stage.stage.duration_s is not None and self._outcome is None:
            end_ns = stage.start_clock_ns + int(stage.stage.duration_s * 1e9)
        finished = self._ledger.finished.get(stage.index, {})
        deleted = {name: list(ranges) for name, ranges in finished.items()} if stage.stage.operations else {}
        puts = [made for worker in self._workers if worker.ended for made in worker.ended.get("puts", [])]
        self._journal.append(
            "stage_end",
            {
                "stage": stage.index,
                "name": stage.stage.name,
                "outcome": (self._outcome or Outcome.FINISHED).value,
                "start_clock_ns": stage.start_clock_ns,
                "end_clock_ns": end_ns,
                "drained_clock_ns": drained_clock_ns,
                "totals": stage.stage_totals(),
                "made": {"puts": puts, "deleted": deleted},
            },
        )

    def _after_stage(self) -> None:
        self._release.stage_ended()
        if self._release.stage == len(self._plan.stages):
            self._outcome, self._reason = Outcome.FINISHED, "all stages ended"
        else:
            self._become("AT_BARRIER")

    # --- controller ------------------------------------------------------------------------------------------------------------------

    def _become(self, name: str) -> None:
        self._state = name
        self._send_heartbeat()

    def _accept(self, server: socket.socket) -> None:
        client, _ = server.accept()
        fd = client.detach()
        lines = Lines(fd, fd)
        self._clients[fd] = lines
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._on_client(fd))

    def _drop(self, fd: int) -> None:
        if self._clients.pop(fd, None) is not None:
            self._subscribers.pop(fd, None)
            self._selector.unregister(fd)
            os.close(fd)

    def _on_client(self, fd: int) -> None:
        lines = self._clients.get(fd)
        if lines is None:
            return  # dropped by an earlier event of the same turn
        try:
            for message in lines.read():
                self._heard = time.monotonic()
                self._serve(fd, lines, message)
        except EOFError:
            self._drop(fd)

    def _serve(self, fd: int, lines: Lines, message: Json) -> None:
        try:
            self._command(fd, lines, message)
        except Sai3sshError as error:
            lines.send({"id": message.get("id"), "error": error.to_dict()})
        except (KeyError, TypeError, ValueError) as error:
            bad = AgentError(f"{message.get('cmd')}: {type(error).__name__}: {error}")
            lines.send({"id": message.get("id"), "error": bad.to_dict()})

    def _command(self, fd: int, lines: Lines, message: Json) -> None:
        verb = message.get("cmd")

        def answer(**fields: Any) -> None:
            if self._clients.get(fd) is lines:
                try:
                    lines.send({"id": message.get("id"), "ok": fields})
                except EOFError:
                    self._drop(fd)

        if verb == "subscribe":
            self._subscribers[fd] = lines
            answer()
            self._send_heartbeat()
        elif verb == "arm":
            if self._release.arm(message, self._state):
                self._state = "ARMED"
                fields = {"stage": message["stage"], "round": message["round"], "start_clock_ns": message["start_clock_ns"]}
                self._journal.append("armed", fields, on_committed=lambda: answer(armed=message["round"]))
            else:
                answer(armed=message["round"])
        elif verb == "commit":
            if self._release.commit(message):
                self._state = "COMMITTED"
                start = self._release.start_clock_ns
                fields = {"stage": message["stage"], "round": message["round"], "start_clock_ns": start}
                self._journal.append("committed", fields, on_committed=lambda: answer(committed=message["round"]))
                self._start_stage(message["stage"], start)
            else:
                answer(committed=message["round"])
        elif verb == "stop":
            self._stop(str(message.get("reason", "stopped")))
            answer()
        else:
            raise AgentError(f"unknown command {verb!r}")

    def _stop(self, reason: str) -> None:
        if self._stop_deadline is not None:
            return
        self._reason = reason
        self._stop_deadline = time.monotonic() + STOP_GRACE_S
        for worker in self._workers:
            worker.order({"stop": reason})
        self._timer("stop", STOP_GRACE_S, self._stopped)
        self._check_stopped()

    def _check_stopped(self) -> None:
        if all(worker.ended is not None for worker in self._workers):
            self._stopped()

    def _stopped(self) -> None:
        if self._outcome is None:
            self._outcome = Outcome.STOPPED

    def _on_journal(self) -> None:
        os.read(self._wake_r, 4096)
        if self._terminated:
            self._stop("SIGTERM on the host")
        for callback in self._journal.callbacks():
            callback()
        self._send_heartbeat()

    def _heartbeat(self) -> None:
        self._send_heartbeat()
        self._timer("heartbeat", self._plan.heartbeat_s, self._heartbeat)

    def _send_heartbeat(self) -> None:
        self._beat += 1
        body = {
            "hb": self._beat,
            "boot": self._boot,
            "clock_ns": state.clock_ns(),
            "state": self._state,
            "stage": self._stage.index if self._stage else None,
            "committed": self._journal.committed,
            "done": self._stage.done if self._stage else 0,
            "planned": self._planned if self._stage else 0,
        }
        if self._journal.error is not None:
            body["journal_error"] = self._journal.error.strerror
        for fd, lines in list(self._subscribers.items()):
            try:
                lines.send(body)
            except EOFError:
                self._drop(fd)


def main(directory: str) -> int:
    """Entry point of `supervise`: takes the lock, reads one line from stdin, runs. Exit code 0 also when another supervisor is there."""
    lock = state.try_lock(os.path.join(directory, "supervisor.lock"))
    if lock is None:
        return 0
    os.ftruncate(lock, 0)
    os.write(lock, b"%d\n" % os.getpid())
    init = json.loads(sys.stdin.buffer.readline() or b"{}")
    Supervisor(directory, init).run()
    return 0
