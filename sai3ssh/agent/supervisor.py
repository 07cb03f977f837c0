"""One run on one host: journal, workers, releases, heartbeats.

A single thread that never waits for anything but events; the journal writes in a thread of its own. The process leads its own process
group, to which all its workers belong.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from sai3ssh import model
from sai3ssh.agent import hostmetrics, kernelclock, metrics, recovery, state
from sai3ssh.agent.crew import Crew, Share
from sai3ssh.agent.desk import Answer, Desk
from sai3ssh.agent.details import DetailReader, Layout
from sai3ssh.agent.journal import Journal
from sai3ssh.agent.release import Release
from sai3ssh.agent.stage import Ledger, Published, metrics_files
from sai3ssh.agent.workers import WorkerProcess, kill_leftovers
from sai3ssh.errors import AgentError, Sai3sshError, Superseded, Transient, from_dict
from sai3ssh.model import Outcome, StageKind, from_json
from sai3ssh.protocol import Json

TICK_S = 1.0
STOP_GRACE_S = 5.0
READY_TIMEOUT_S = 60.0
CLAIM_NS = 10 * 10**9
SILENT_S = 10.0
"""A controller that was not heard for so long, or for ten heartbeats, is lost (on_controller_loss: stop)."""


class Supervisor:
    """Runs until the final record is on disk."""

    def __init__(self, directory: str, init: Json) -> None:
        with open(os.path.join(directory, "plan.json"), encoding="ascii") as file:
            self._submitted = json.load(file)
        self._plan = from_json(model.Plan, self._submitted["plan"])
        self._assignment = from_json(model.Assignment, self._submitted["assignment"])
        self._dir = directory
        self._boot = state.boot_id()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        self._journal = Journal(os.path.join(directory, "journal.ndjson"), boot=self._boot, wake=self._wake)
        self._ledger = Ledger(self._plan, self._assignment.ranges)
        self._release = Release(self._submitted["key"], len(self._plan.stages), self._boot)
        self._selector = selectors.DefaultSelector()
        self._crew = Crew(self._submitted, self._selector, self._journal, self._ledger, self._worker_says, self._worker_died)
        self._crew.credentials = init.get("credentials")
        self._halts = bool(init.get("halts"))
        self._desk = Desk(self._selector, self._command, self._send_heartbeat)
        self._stage: Optional[Published] = None
        self._puts: Dict[str, Json] = {}
        self._lost: Optional[Tuple[int, str]] = None
        """Since when, and why, not all workers are at work in a stage."""
        self._stage_began = False
        self._planned = 0
        self._state = "STARTING"
        self._beat = 0
        self._outcome: Optional[Outcome] = None
        self._error: Optional[Sai3sshError] = None
        self._terminated = False
        self._suspended = False
        self._on_credentials: Optional[Callable[[], None]] = None
        self._lease_until_ns = 0
        self._losses = 0
        """How often the counters in shared memory were lost. Part of their files' names: counters of a supervisor that died before the
        journal had the loss are not taken for those that it knows."""
        self._claims: Dict[str, int] = {}
        """When a controller first asked to steer the run."""
        self._reason = ""
        self._timers: Dict[str, Tuple[float, Callable[[], None]]] = {}

    # --- life ------------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the first record to the final one."""
        self._desk.open(self._dir)
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
        budget = int(seconds * self._plan.journal_bytes_per_s) + 65536
        try:
            self._journal.reserve(budget)
        except OSError as error:
            raise AgentError(
                f"cannot reserve {budget} bytes for the journal in {self._dir}: {error.strerror}",
                remedy="Free space there, or set sai3ssh_agent_state_dir to a directory on a larger file system",
            ) from error
        count = self._worker_count()
        self._make_metrics(range(len(self._plan.stages)), count)
        self._crew.begin([0] * count)
        self._timer("ready", READY_TIMEOUT_S, self._ready_late)
        self._start_timers()

    def _worker_count(self) -> int:
        cores = len(os.sched_getaffinity(0))
        most = max((stage.concurrency for stage in self._plan.stages), default=1)
        return max(1, min(self._plan.workers or cores, most))

    def _start_timers(self) -> None:
        self._timer("heartbeat", 0.0, self._heartbeat)
        self._timer("tick", TICK_S, self._tick)

    def _make_metrics(self, stages: Any, workers: int, *, keep: bool = False) -> None:
        try:
            for index in stages:
                for worker in range(workers):
                    path = self._metrics(index, worker)
                    if keep and os.path.exists(path):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                    metrics.create(path, Layout(self._plan, self._plan.stages[index], self._assignment.index).total)
        except OSError as error:
            raise AgentError(f"cannot allocate metrics in {state.metrics_dir()}: {error.strerror}", remedy="Free memory there") from error

    def _metrics(self, stage: int, worker: int) -> str:
        return os.path.join(state.metrics_dir(), f"{self._plan.run_id}.{self._assignment.agent_id}.{stage}.{worker}.{self._losses}")

    def _take_over(self) -> None:
        """Another supervisor has been here and is gone: goes on where its journal ends."""
        past, self._journal.records = recovery.replay(self._journal.records), []
        last = past.last
        assert last is not None
        shift_ns = recovery.in_clock_of(self._boot, last, state.clock_ns(), time.time_ns())
        rebooted = last["boot"] != self._boot
        # Deadlines of an earlier boot are by wall time, which nobody may have set right yet.
        synchronised = kernelclock.synchronised() if rebooted else None
        count = len(past.incarnations) if past.ready else self._worker_count()
        stages = range(past.stage, len(self._plan.stages))
        self._losses = past.losses
        fresh = not all(os.path.exists(self._metrics(stage, worker)) for stage in stages for worker in range(count))
        self._journal.append(
            "recovered",
            {
                "truncated_bytes": self._journal.truncated_bytes,
                "rebooted": rebooted,
                "clock_synchronised": synchronised,
                "fresh": fresh,
                "shift_ns": shift_ns,
            },
        )
        for stage, name, ranges in past.finished:
            self._ledger.record(stage, name, ranges)
        for adopted in past.adopted:
            self._ledger.adopt(adopted)
        self._ledger.puts = past.puts
        self._release.restore(past, shift_ns)
        if past.failed is not None:
            raise from_dict(past.failed["error"])
        if fresh:
            past.counters_lost()
            self._losses += 1
            # What another one counted that died before this loss was in the journal is told as well.
            self._make_metrics(stages, count, keep=True)
        if past.committed is not None:
            self._resume_stage(past, shift_ns, count, recovery.cause_of_loss(rebooted, synchronised))
        stop = self._submitted.get("stop")
        if stop or (past.stage == len(self._plan.stages) and not self._plan.lingers):
            self._reason, self._outcome = stop or "all stages ended", Outcome.STOPPED if stop else Outcome.FINISHED
            return
        if past.ready:
            self._state = "RUNNING" if past.committed else "ARMED" if past.armed else "AT_BARRIER" if past.stage else "READY"
        self._start_timers()
        if self._plan.needs_credentials and self._crew.credentials is None:
            resume_as, self._state = self._state, "AWAITING_CREDENTIALS"
            self._on_credentials = lambda: self._go_on(past, count, resume_as, fresh=fresh)
            self._timer("credentials", self._plan.agent_barrier_timeout_s, self._no_credentials)
        else:
            self._go_on(past, count, self._state, fresh=fresh)

    def _no_credentials(self) -> None:
        raise AgentError(
            f"no credentials came within {self._plan.agent_barrier_timeout_s:.0f} s after the restart (agent_barrier_timeout)",
            remedy="They are sent again when the controller is connected",
        )

    def _go_on(self, past: recovery.Recovered, count: int, resume_as: str, *, fresh: bool) -> None:
        self._timers.pop("credentials", None)
        self._on_credentials = None
        self._crew.begin_again(past, self._stage, count, fresh=fresh)
        if self._stage is not None and not self._suspended:
            for worker in self._crew.members:
                self._order(worker)
        self._timer("ready", READY_TIMEOUT_S, self._ready_late)
        self._become(resume_as)

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
        """Ends the run in order; the signal may come at any point of a turn. Under a service, which is stopped by a signal to its every
        process, only the processes end, and the next daemon goes on with the run."""
        if self._halts:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self._terminated = True
        self._wake()

    def _fail(self, error: Sai3sshError) -> None:
        self._journal.append("failed", {"error": error.to_dict()})
        self._error = error
        self._outcome, self._reason = Outcome.FAILED, error.message

    def _finish(self) -> None:
        """Workers gone, final record on disk, cache of the outcome written, metrics removed."""
        if self._outcome is Outcome.FAILED and self._plan.target.multipart is not None:
            self._let_abort()
        left = self._crew.last_words()
        if left:
            pids = [worker.pid for worker in left]
            self._journal.append("notice", {"level": "error", "text": f"processes {pids} did not end when killed"})
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

    def _let_abort(self) -> None:
        """Workers that put large objects in parts have a moment to leave none behind."""
        self._crew.stopping = True
        self._crew.order({"stop": self._reason})
        deadline = time.monotonic() + STOP_GRACE_S
        while time.monotonic() < deadline and any(worker.ended is None and self._crew.hears(worker) for worker in self._crew.members):
            with contextlib.suppress(Sai3sshError):
                self._turn()

    # --- workers ---------------------------------------------------------------------------------------------------------------------

    def _worker_died(self, worker: WorkerProcess, cause: str) -> None:
        self._crew.check_crashes(worker, cause)
        self._replace(worker, cause)

    def _replace(self, worker: WorkerProcess, cause: str) -> None:
        successor = self._crew.replace(worker, cause, self._stage)
        if self._stage is not None and successor.ended is None:
            self._lost = self._lost or (state.clock_ns(), cause)
            if not self._suspended:
                self._order(successor)

    def _worker_says(self, worker: WorkerProcess, message: Json) -> None:
        if "error" in message:
            raise from_dict(message["error"])
        if "ready" in message:
            worker.ready = True
            if all(w.ready for w in self._crew.members):
                self._timers.pop("ready", None)
                if self._state == "STARTING":
                    self._journal.append("ready", {"workers": len(self._crew.members)}, on_committed=lambda: self._become("READY"))
        elif "notice" in message:
            self._journal.append("notice", {"level": "info", "text": f"worker {worker.index}: {message['notice']}"})
        elif "started" in message:
            worker.started_clock_ns = message["started"]
            self._stage_started()
        elif "finished" in message:
            self._record_finished(worker, message["finished"], message["unreadable"])
        elif "ended" in message:
            worker.ended = message["ended"]
        if self._outcome is not None:
            return
        if self._crew.stopping:
            self._check_stopped()
        elif "ended" in message and all(w.ended is not None for w in self._crew.members):
            self._end_stage(max(w.ended["drained_clock_ns"] for w in self._crew.members if w.ended))
            self._after_stage()

    def _record_finished(self, worker: WorkerProcess, finished: Json, unreadable: Json) -> None:
        if self._stage is None:
            return
        for name, ranges in finished.items():
            self._ledger.record(self._stage.index, name, ranges)
            self._crew.shares[worker.index].recorded += sum(hi - lo for lo, hi in ranges)
            fields = {"stage": self._stage.index, "population": name, "ranges": ranges}
            if name in unreadable:
                fields["unreadable"] = self._stage.list_unreadable(unreadable[name])
            self._journal.append("ledger", fields)

    def _ready_late(self) -> None:
        late = [worker.index for worker in self._crew.members if not worker.ready]
        raise AgentError(
            f"workers {late} of {len(self._crew.members)} were not ready after {READY_TIMEOUT_S:.0f} s",
            remedy="See supervisor.log of the run.",
        )

    # --- stages ----------------------------------------------------------------------------------------------------------------------

    def _open_stage(self, index: int, start_clock_ns: int, workers: int) -> None:
        stage = self._plan.stages[index]
        cells = [metrics.attach(self._metrics(index, worker)) for worker in range(workers)]
        layout = Layout(self._plan, stage, self._assignment.index)
        detail_readers = [DetailReader(mine, layout) for mine in cells] if layout.keys else []
        self._stage = Published(stage, index, [metrics.Reader(mine) for mine in cells], start_clock_ns, detail_readers)
        self._stage_began = False
        todo = self._ledger.todo(index, stage)
        self._puts = {name: made for name, made in self._ledger.made(stage).items() if name in todo}
        pieces = {name: ranges.split(workers) for name, ranges in todo.items()}
        self._crew.shares = [Share({name: parts[worker] for name, parts in pieces.items()}) for worker in range(workers)]
        self._planned = sum(len(ranges) for ranges in todo.values()) if stage.kind is not StageKind.EXECUTE else 0

    def _start_stage(self, index: int, start_clock_ns: int) -> None:
        self._open_stage(index, start_clock_ns, len(self._crew.members))
        for worker in self._crew.members:
            worker.ended = worker.started_clock_ns = None
            self._order(worker)
        self._begin_lease(start_clock_ns)
        self._check_lease()

    def _resume_stage(self, past: recovery.Recovered, shift_ns: int, count: int, cause: str) -> None:
        assert past.committed is not None
        self._open_stage(past.stage, past.committed["start_clock_ns"] + shift_ns, count)
        stage = self._stage
        assert stage is not None
        # Between COMMIT and start nothing is lost, and the first second begins with the stage.
        now_ns = max(state.clock_ns(), stage.start_clock_ns)
        self._stage_began = past.started
        since_ns = stage.start_clock_ns if past.measured_to is None else past.measured_to["to_clock_ns"] + shift_ns
        if self._release.lasts_ns is not None:
            stage.end_clock_ns = stage.start_clock_ns + self._release.lasts_ns
        if stage.end_clock_ns is not None:
            now_ns = min(now_ns, stage.end_clock_ns)
        for kind, fields in stage.resume(past, min(since_ns, now_ns), now_ns, cause):
            self._journal.append(kind, fields)
        if past.committed["boot"] == self._boot:
            # Only wall time, which can be wrong, says how long ago an earlier boot was.
            self._begin_lease(stage.start_clock_ns)
        self._check_lease()
        self._planned += stage.done if stage.in_ledger else 0
        self._lost = (now_ns, cause)
        if past.started:
            self._timer("second", (stage.next_second_ns - state.clock_ns()) / 1e9, self._second)

    def _order(self, worker: WorkerProcess) -> None:
        stage = self._stage
        assert stage is not None
        share = self._crew.shares[worker.index]
        swept = self._ledger.swept(stage.stage, share.pieces, worker.index, len(self._crew.members))
        worker.order(
            {
                "stage": stage.index,
                "start_clock_ns": stage.start_clock_ns,
                "end_clock_ns": stage.end_clock_ns,
                "metrics": self._metrics(stage.index, worker.index),
                "directory": self._dir,
                "ranges": share.left(self._ledger.finished.get(stage.index, {})),
                "owned": {name: list(ranges) for name, ranges in self._ledger.read(stage.stage).items()},
                "puts": self._puts,
                "swept": {name: list(ranges) for name, ranges in swept.items()},
            }
        )

    def _stage_started(self) -> None:
        stage = self._stage
        if stage is None or any(w.started_clock_ns is None and w.ended is None for w in self._crew.members):
            return
        actual = max((w.started_clock_ns for w in self._crew.members if w.started_clock_ns is not None), default=state.clock_ns())
        if self._lost is not None:
            since_ns, cause = self._lost
            self._lost = None
            if self._stage_began:
                self._journal.append("lost", stage.lost(since_ns, max(since_ns, actual), cause))
        if self._stage_began:
            return
        self._stage_began = True
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
        for kind, fields in self._stage.second(state.clock_ns(), self._pids()):
            self._journal.append(kind, fields)
        self._timer("second", max(0.0, (self._stage.next_second_ns - state.clock_ns()) / 1e9), self._second)

    def _pids(self) -> List[int]:
        return [worker.pid for worker in self._crew.members]

    def _end_stage(self, drained_clock_ns: int) -> None:
        stage = self._stage
        assert stage is not None
        self._stage = None
        self._timers.pop("second", None)
        if self._lost is not None and self._stage_began:
            self._journal.append("lost", stage.lost(self._lost[0], max(self._lost[0], drained_clock_ns), self._lost[1]))
        self._lost = None
        now_ns = state.clock_ns()
        # CPU is counted in ticks, too coarse for what is left of a second; without any of it a short stage may have no figure at all.
        pids = self._pids() if now_ns > stage.next_second_ns - 500_000_000 else []
        for kind, fields in stage.second(now_ns, pids) + stage.histograms():
            self._journal.append(kind, fields)
        end_ns = drained_clock_ns
        if stage.end_clock_ns is not None and self._outcome is None:
            end_ns = stage.end_clock_ns
        finished = self._ledger.finished.get(stage.index, {})
        deleted = {name: list(ranges) for name, ranges in finished.items()} if stage.stage.operations else {}
        puts = [made for worker in self._crew.members if worker.ended for made in worker.ended.get("puts", [])]
        self._ledger.puts += puts
        self._journal.append(
            "stage_end",
            {
                "stage": stage.index,
                "name": stage.stage.name,
                "round": self._release.round,
                "outcome": (self._outcome or Outcome.FINISHED).value,
                "start_clock_ns": stage.start_clock_ns,
                "end_clock_ns": end_ns,
                "drained_clock_ns": drained_clock_ns,
                "totals": stage.stage_totals(),
                "redone": stage.redone,
                "made": {"puts": puts, "deleted": deleted},
                **self._op_log(stage),
            },
        )

    def _op_log(self, stage: Published) -> Json:
        """What became of the stage's op-log, as the workers say that ended; what was dropped is told in words, too."""
        if self._plan.op_log_bytes is None:
            return {}
        logs = [worker.ended["op_log"] for worker in self._crew.members if worker.ended and "op_log" in worker.ended]
        dropped = sum(log["dropped"] for log in logs)
        if dropped:
            why = "; ".join(sorted({log["why"] for log in logs if log["dropped"]}))
            text = f"op-log: {dropped} operations of stage {stage.stage.name} are not in it: {why}"
            self._journal.append("notice", {"level": "warning", "text": text})
        return {"op_log": {"written": sum(log["written"] for log in logs), "dropped": dropped}}

    def _after_stage(self) -> None:
        self._release.stage_ended()
        if self._release.stage == len(self._plan.stages) and not self._plan.lingers:
            self._outcome, self._reason = Outcome.FINISHED, "all stages ended"
        else:
            self._become("AT_BARRIER")

    # --- time ------------------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer("tick", TICK_S, self._tick)
        if self._stage is not None:
            self._crew.order({"tick": True})
        silent_s = time.monotonic() - self._desk.heard
        loss = self._plan.on_controller_loss
        limit_s = {"stop": max(SILENT_S, 10 * self._plan.heartbeat_s), "stop_after": self._plan.controller_loss_s}.get(loss)
        if limit_s is not None and silent_s > limit_s:
            self._stop(f"no controller was heard for {silent_s:.0f} s (on_controller_loss: {loss})")
        elif self._stage is None and self._state in ("READY", "AT_BARRIER", "ARMED") and silent_s > self._plan.agent_barrier_timeout_s:
            self._at_barrier_alone(silent_s)

    def _at_barrier_alone(self, silent_s: float) -> None:
        index = self._release.stage
        if 0 < index < len(self._plan.stages) and self._plan.stages[index].barrier == "best_effort":
            start_ns = state.clock_ns()
            self._release.release_self(start_ns)
            text = f"stage {index} begun alone, {silent_s:.0f} s without a controller"
            self._journal.append("notice", {"level": "warning", "text": text})
            self._journal.append("committed", {"stage": index, "round": self._release.round, "start_clock_ns": start_ns})
            self._start_stage(index, start_ns)
            return
        if index == len(self._plan.stages):
            self._outcome, self._reason = Outcome.FINISHED, "all stages ended"
            return
        self._reason = f"no release for {silent_s:.0f} s without a link to the controller (agent_barrier_timeout)"
        self._outcome = Outcome.STOPPED

    def _begin_lease(self, start_clock_ns: int) -> None:
        self._lease_until_ns = max(self._lease_until_ns, start_clock_ns + int((self._plan.lease_s or 0.0) * 1e9))

    def _check_lease(self) -> None:
        """Without a fresh lease another agent may own what this one prepares: nobody writes until the controller is back."""
        stage = self._stage
        if self._plan.lease_s is None or stage is None or stage.stage.kind is not StageKind.PREPARE or self._crew.stopping:
            return
        left_ns = self._lease_until_ns - state.clock_ns()
        over = left_ns <= 0
        if not over:
            self._timer("lease", left_ns / 1e9, self._check_lease)
        if over and not self._suspended:
            self._suspended = True
            self._lost = self._lost or (state.clock_ns(), "the lease was over")
            # Told when it is true: from this record on nobody writes.
            self._crew.suspend()
            text = f"lease of {self._plan.lease_s:.0f} s over: no writes until it is renewed"
            self._journal.append("notice", {"level": "warning", "text": text})
        elif not over and self._suspended:
            self._suspended = False
            for worker in list(self._crew.members):
                if worker.ended is None and self._crew.hears(worker):
                    self._order(worker)  # it was started meanwhile, and waits
                elif worker.ended is None:
                    self._replace(worker, "the lease was over")

    # --- controller ------------------------------------------------------------------------------------------------------------------

    def _become(self, name: str) -> None:
        self._state = name
        self._send_heartbeat()

    def _command(self, message: Json, answer: Answer) -> None:
        handler = {
            "renew": self._renew,
            "credentials": self._take_credentials,
            "claim": self._claim,
            "arm": self._arm,
            "commit": self._commit,
            "end": self._end_asked,
            "adopt": self._adopt,
            "finish": self._finish_run,
            "stop": self._stop_asked,
        }.get(str(message.get("cmd")))
        if handler is None:
            raise AgentError(f"unknown command {message.get('cmd')!r}")
        if self._outcome is not None and message["cmd"] != "stop":
            raise Transient("the run is over here; its journal is being ended")
        handler(message, answer)

    def _renew(self, message: Json, answer: Answer) -> None:
        """The lease runs from a moment of our own clock that the controller has seen: a message that was long under way renews nothing."""
        seen = message["seen"]
        if self._plan.lease_s is not None and seen.get("boot") == self._boot:
            self._lease_until_ns = max(self._lease_until_ns, seen["clock_ns"] + int(self._plan.lease_s * 1e9))
            self._check_lease()
        answer()

    def _take_credentials(self, message: Json, answer: Answer) -> None:
        self._crew.credentials = message["credentials"]
        if self._on_credentials is not None:
            self._on_credentials()
        answer()

    def _claim(self, message: Json, answer: Answer) -> None:
        seen = message["seen"]
        if seen.get("boot") != self._boot or state.clock_ns() - seen["clock_ns"] > CLAIM_NS:
            # What was sent long ago may be of a controller that is dead by now.
            raise Transient("the claim does not say when it was made, or was long under way")
        if not message.get("takeover"):
            self._check_alone(message["key"]["controller"])
        generation = self._release.claim(message["key"]["controller"])
        fields = {"generation": generation, "controller": message["key"]["controller"]}
        self._journal.append("controller", fields, on_committed=lambda: answer(generation=generation))
        self._send_heartbeat()

    def _check_alone(self, controller: str) -> None:
        """Refuses a claim while another controller is alive that is in charge, or has asked before; who was heard of lately, but not since
        this one asked, is waited for."""
        now_ns = state.clock_ns()
        silent_s = max(SILENT_S, 3 * self._plan.heartbeat_s)
        others = self._desk.controllers(now_ns - int(silent_s * 1e9))
        others.pop(controller, None)
        asked_ns = self._claims.setdefault(controller, now_ns)
        for other, alive_ns in sorted(others.items()):
            if other != self._release.controller and self._claims.get(other, now_ns) >= asked_ns:
                continue  # it came later: if each left the run to the other, nobody had it
            if alive_ns > asked_ns:
                raise Superseded(
                    f"controller {other} is connected and steers this run",
                    remedy="Watch it with `sai3ssh attach`; to take it over, give --takeover",
                )
            raise Transient(f"controller {other} was alive {(now_ns - alive_ns) / 1e9:.0f} s ago, and may still be")

    def _arm(self, message: Json, answer: Answer) -> None:
        if self._state == "AWAITING_CREDENTIALS":
            raise Transient("the agent waits for credentials")
        if self._release.arm(message, self._state):
            self._state = "ARMED"
            fields = {"stage": message["stage"], "round": message["round"], "start_clock_ns": message["start_clock_ns"]}
            self._journal.append("armed", fields, on_committed=lambda: answer(armed=message["round"]))
        else:
            self._journal.when_committed(lambda: answer(armed=message["round"]))

    def _commit(self, message: Json, answer: Answer) -> None:
        if self._release.commit(message):
            self._state = "COMMITTED"
            start = self._release.start_clock_ns
            fields = {"stage": message["stage"], "round": message["round"], "start_clock_ns": start}
            self._journal.append("committed", fields, on_committed=lambda: answer(committed=message["round"]))
            self._start_stage(message["stage"], start)
        else:
            self._journal.when_committed(lambda: answer(committed=message["round"]))

    def _end_asked(self, message: Json, answer: Answer) -> None:
        """The stage that runs lasts so long, and not as planned."""
        stage, release = self._stage, self._release
        fields = {name: message[name] for name in ("stage", "round", "duration_ns", "figures")}
        planned_ns = 0 if stage is None or stage.end_clock_ns is None else stage.end_clock_ns - stage.start_clock_ns
        if release.end(message, planned_ns, state.clock_ns()):
            assert stage is not None
            assert release.lasts_ns is not None
            stage.end_clock_ns = stage.start_clock_ns + release.lasts_ns
            self._journal.append("ending", {**fields, "lasts_ns": release.lasts_ns}, on_committed=lambda: answer(ending=message["round"]))
            self._crew.order({"end": stage.end_clock_ns})
        else:
            self._journal.when_committed(lambda: answer(ending=message["round"]))

    def _adopt(self, message: Json, answer: Answer) -> None:
        """Owns what a lost agent owned; its stage is opened again when something of that is not finished."""
        self._release.check_key(message)
        if not self._ledger.has_adopted(message["number"]):
            if self._state not in ("READY", "AT_BARRIER", "ARMED"):
                raise Transient(f"the agent is {self._state}; it adopts at a barrier")
            fields = {name: message[name] for name in ("number", "from", "stage", "ranges", "done")}
            self._ledger.adopt(fields)
            if self._release.reopen(message["stage"]):
                self._make_metrics([message["stage"]], len(self._crew.members))
            self._state = "AT_BARRIER" if self._release.stage else "READY"
            self._journal.append("adopted", fields, on_committed=lambda: answer(adopted=message["number"]))
        else:
            self._journal.when_committed(lambda: answer(adopted=message["number"]))

    def _finish_run(self, message: Json, answer: Answer) -> None:
        """The controller has nothing more for anybody: the agent that waited for that ends."""
        self._release.check_key(message)
        if self._release.stage < len(self._plan.stages) or self._stage is not None:
            raise AgentError(f"the run cannot be finished: the agent is {self._state} at stage {self._release.stage}")
        self._outcome, self._reason = Outcome.FINISHED, "all stages ended"
        answer()

    def _stop_asked(self, message: Json, answer: Answer) -> None:
        if "key" in message:
            self._release.check_key(message)
        self._stop(str(message.get("reason", "stopped")))
        answer()

    def _stop(self, reason: str) -> None:
        if self._crew.stopping or self._outcome is not None:
            return
        self._reason = reason
        self._crew.stopping = True
        self._crew.order({"stop": reason})
        self._timer("stop", STOP_GRACE_S, self._stopped)
        self._check_stopped()

    def _check_stopped(self) -> None:
        # Those whose lease is over were killed; they do not end in order.
        if all(worker.ended is not None or not self._crew.hears(worker) for worker in self._crew.members):
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
            "controller": self._release.controller,
        }
        if self._journal.error is not None:
            body["journal_error"] = self._journal.error.strerror
        self._desk.tell_all(body)


def main(directory: str) -> int:
    """Entry point of `supervise`: takes the lock, reads one line from stdin, runs. Exit code 0 also when another supervisor is there."""
    lock = state.try_lock(os.path.join(directory, "supervisor.lock"))
    if lock is None:
        return 0
    kill_leftovers(os.pread(lock, 64, 0).decode("ascii", "replace"), state.boot_id())
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()} {state.boot_id()}\n".encode("ascii"), 0)
    init = json.loads(sys.stdin.buffer.readline() or b"{}")
    Supervisor(directory, init).run()
    return 0
