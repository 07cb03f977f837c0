"""One worker process: the load of a share of an agent's concurrency.

Talks JSON lines with its supervisor: on stdin one {"init": ...}, then {"stage": ...}, {"end": another end of it} and {"stop": ...}; on
stdout {"ready": true}, {"finished": ranges, "unreadable": of them, in a verify stage}, {"tasks": operations that have begun, where their
number ends the stage}, {"command": its outcome}, {"notice": text}, {"ended": {...}} and {"error": {...}}. When stdin ends the supervisor is
gone and the worker exits: a new supervisor must find nobody writing.
"""

from __future__ import annotations

import json
import os
import random
import select
import time
from functools import partial
from typing import Any, Dict, List, Optional, Union

from sai3ssh import dataset
from sai3ssh.agent import metrics, state
from sai3ssh.agent.batches import BatchedIndexWork, BatchedMixWork
from sai3ssh.agent.details import DetailRecorder, Layout
from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import DELETE, PUT, Engine
from sai3ssh.agent.engines.file import FileEngine
from sai3ssh.agent.mix import CountedMixWork, MixWork, mkdir_format, put_format
from sai3ssh.agent.oplog import LoggedRecorder, OpLog
from sai3ssh.agent.pacing import Pacer, Ramp, RampedPacer
from sai3ssh.agent.pinning import pin
from sai3ssh.agent.putpool import PutPool
from sai3ssh.agent.replay import ReplayWork
from sai3ssh.agent.verify import VerifyWork
from sai3ssh.agent.work import Fatal, IndexWork, Objects, Recorder
from sai3ssh.errors import AgentError, Sai3sshError, TargetError, Transient
from sai3ssh.model import NAMING, Assignment, Intervals, Plan, Population, Replay, SizeSpec, Stage, StageKind, from_json, share
from sai3ssh.protocol import dumps

SPIN_NS = 200_000
NEVER_NS = 1 << 62
TICK_S = 0.25
TURNS_TOLD = 0.1
"""A worker says when so much of a stage was done one at a time."""
SWEEP = 64
"""After so many directories a worker listens."""
CHECK_S = 30.0
"""How long a target that does not answer is asked again before the worker says it is not reachable."""

Work = Union[IndexWork, MixWork]


class Stopped(Exception):
    """The supervisor said stop, or is gone."""


class Worker:
    """Serves one supervisor until stdin ends."""

    def __init__(self, init: Dict[str, Any]) -> None:
        self._assignment = from_json(Assignment, init["assignment"])
        self._plan = from_json(Plan, init["plan"]).of_agent(self._assignment.index)
        self._index: int = init["worker"]
        self._workers: int = init["workers"]
        self._incarnation: int = init["incarnation"]
        plan = self._plan
        if plan.pin_workers:
            pin(self._index)
        uris = [p.target for p in plan.populations] + [o.target for s in plan.stages for o in s.operations]
        uris += [s.replay.target for s in plan.stages if s.replay is not None]
        # No two neighbours, among an agent's workers or among agents, begin at the same endpoint.
        spread, offset = plan.spread_of(self._assignment.index), self._assignment.index + self._index
        self._engine: Engine = make_engine(
            plan.target, uris[0] if uris else "", init["credentials"], plan.deadlines, plan.retry, spread=spread, offset=offset
        )
        self._engine.splits = plan.timing_splits
        self._uri = uris[0] if uris else ""
        for uri in uris:
            self._engine.root(uri)
        writing = (StageKind.PREPARE, StageKind.CLEANUP)
        done = [o.kind for s in plan.stages for o in s.operations] + [op for s in plan.stages if s.replay for op in s.replay.operations]
        self._writes = any(kind in (*NAMING, "mkdir") for kind in done) or any(s.kind in writing for s in plan.stages)
        self._objects = {p.name: Objects(self._engine, p) for p in plan.populations}
        self._buffer = b""
        self._work: Optional[Work] = None
        self._log: Optional[OpLog] = None
        self._stop_reason: Optional[str] = None
        self._queue: List[Dict[str, Any]] = []
        self._pools: List[PutPool] = []

    def check(self) -> None:
        """Reaches the target, within CHECK_S; raises TargetError or Transient with what is wrong."""
        deadline = time.monotonic() + CHECK_S
        while True:
            try:
                self._engine.check(self._writes)
                return
            except Transient as error:
                if time.monotonic() > deadline:
                    raise TargetError(f"{error.message} (asked again for {CHECK_S:.0f} s)", remedy=error.remedy) from error
                self.poll(0.5)

    def serve(self) -> None:
        """Runs stages until told to stop or stdin ends."""
        while True:
            while not self._queue:
                self.poll(60.0)
            self._run(self._queue.pop(0))

    def poll(self, timeout_s: float) -> None:
        """Reads what the supervisor says, waiting up to timeout_s; raises Stopped."""
        if select.select([0], [], [], timeout_s)[0]:
            self.on_control()

    def on_control(self) -> None:
        """Reads stdin, which must be readable."""
        data = os.read(0, 1 << 16)
        if not data:
            raise Stopped("the supervisor is gone")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "stop" in message:
                self._stop_reason = str(message["stop"])
                if self._work is None:
                    raise Stopped(self._stop_reason)
                self._work.stop()
            elif "tick" in message:
                self._report_finished()
                self._flush_log()
                if isinstance(self._work, CountedMixWork):
                    send({"tasks": self._work.begun})
            elif "end" in message:
                self._end_at(message["end"])
            else:
                self._queue.append(message)

    def _end_at(self, end_clock_ns: int) -> None:
        """Of the stage that runs, or that is about to."""
        if isinstance(self._work, MixWork):
            self._work.end_at(end_clock_ns - state.clock_ns() + time.monotonic_ns())
        for order in self._queue:
            order["end_clock_ns"] = end_clock_ns

    def _run(self, order: Dict[str, Any]) -> None:
        stage = self._plan.stages[order["stage"]]
        if stage.kind in (StageKind.PAUSE, StageKind.CUSTOM):
            self._run_without_load(stage, order)
            return
        cells = metrics.attach(order["metrics"])
        start_ns = order["start_clock_ns"] - state.clock_ns() + time.monotonic_ns()
        layout = Layout(self._plan, stage, self._assignment.index)
        log = self._log = self._open_log(order)
        if log is not None:
            recorder: Recorder = LoggedRecorder(cells, layout, log)
        else:
            recorder = DetailRecorder(cells, layout) if layout.keys else Recorder(cells)
        work = self._work = self._make_work(stage, order, recorder, start_ns)
        concurrency = self._share(stage)
        self._engine.compare(1.0 if stage.kind is StageKind.VERIFY else self._plan.target.verify_reads)
        try:
            self._wait_until(start_ns)
            actual_ns = state.clock_ns()
            send({"started": actual_ns})
            if concurrency and not work.finished:
                self._engine.run(work, concurrency, 0, self.on_control)
            drained_ns = state.clock_ns()
        finally:
            self._work = self._log = None
            logged = {} if log is None else {"op_log": log.close()}
        self._report_finished(work)
        if isinstance(self._engine, FileEngine):
            self._tell_turns(self._engine, stage)
            if not work.stopped:
                self._sweep(self._engine, order.get("swept", {}))
        send({"ended": {**work.result(), **logged, "drained_clock_ns": drained_ns, "stopped": self._stop_reason}})
        if self._stop_reason is not None:
            raise Stopped(self._stop_reason)

    def _run_without_load(self, stage: Stage, order: Dict[str, Any]) -> None:
        """A stage in which nothing is done until its end, or the first worker waits for a command."""
        ahead_ns = time.monotonic_ns() - state.clock_ns()
        self._wait_until(order["start_clock_ns"] + ahead_ns)
        send({"started": state.clock_ns()})
        if stage.kind is StageKind.PAUSE:
            self._wait_until(order["end_clock_ns"] + ahead_ns)
        elif self._index == 0:
            self._command(stage, order)
        send({"ended": {"drained_clock_ns": state.clock_ns(), "stopped": None}})

    def _command(self, stage: Stage, order: Dict[str, Any]) -> None:
        """Tells the outcome of the stage's command; raises AgentError when it failed. When only the supervisor is gone it goes on: the next
        worker waits for it."""
        from sai3ssh.agent import command  # what few runs need costs no worker its time to start

        try:
            outcome = command.follow(order["directory"], order["stage"], self.poll)
        except Stopped:
            if self._stop_reason is not None:
                command.kill(order["directory"])
            raise
        send({"command": outcome})
        wrong = command.failure(list(stage.command), outcome)
        if wrong is not None:
            raise AgentError(f"stage {stage.name}: {wrong}", remedy="Its output is in results.json")

    def _open_log(self, order: Dict[str, Any]) -> Optional[OpLog]:
        """The op-log of this worker's part of a stage; None where the plan wants none."""
        if self._plan.op_log_bytes is None:
            return None
        return OpLog(order["directory"], order["stage"], self._index, self._incarnation, self._plan.op_log_bytes // self._workers)

    def _tell_turns(self, engine: FileEngine, stage: Stage) -> None:
        """That concurrency was of no use; the first worker says it for all."""
        if self._index == 0 and engine.share_in_turn > TURNS_TOLD:
            share = f"{engine.share_in_turn:.0%} of its operations"
            send({"notice": f"stage {stage.name}: {share} were one at a time, whatever the concurrency: files did not wait for storage"})

    def _sweep(self, engine: FileEngine, swept: Dict[str, Any]) -> None:
        """Removes the empty ones of the directories that objects of a cleanup were in. The last one to come finds them empty."""
        refused = ""
        for name, pieces in swept.items():
            objects = self._objects[name]
            for n, directory in enumerate(dataset.directories_of(objects.population, pieces)):
                refused = refused or engine.remove_if_empty(objects.root, directory)
                if n % SWEEP == 0:
                    self.poll(0.0)
        if refused:
            send({"notice": f"a directory stays after the cleanup: {refused}"})

    def _wait_until(self, start_ns: int) -> None:
        while True:
            left_ns = start_ns - time.monotonic_ns()
            if left_ns <= SPIN_NS:
                break
            self.poll((left_ns - SPIN_NS) / 1e9)
            if self._stop_reason is not None:
                return
        while time.monotonic_ns() < start_ns:
            pass

    def _make_work(self, stage: Stage, order: Dict[str, Any], recorder: Recorder, start_ns: int) -> Work:
        ranges = {name: Intervals(pieces) for name, pieces in order["ranges"].items()}
        plan = self._plan
        if stage.kind is StageKind.EXECUTE:
            end_clock_ns = order["end_clock_ns"]
            end_ns = NEVER_NS if end_clock_ns is None else start_ns + end_clock_ns - order["start_clock_ns"]
            recorder.warmup_until_ns = start_ns + int(stage.warmup_s * 1e9) if stage.warmup_s else 0
            recorder.tail_from_ns = end_ns
            seed = f"{plan.seed}/{self._assignment.index}/{order['stage']}/{self._index}/{self._incarnation}"
            make_mix: Any = BatchedMixWork if any(op.delete_batch > 1 for op in stage.operations) else MixWork
            if order["tasks"] is not None:
                active = self._active(stage)
                lo, hi = share(order["tasks"], self._index, active) if self._index < active else (0, 0)
                make_mix = partial(CountedMixWork, tasks=hi - lo, begun=metrics.ended(recorder.cells))
            mix: MixWork = make_mix(
                self._engine,
                stage.operations,
                self._objects,
                ranges,
                recorder,
                put_format=put_format(self._assignment.index, order["stage"], self._index, self._incarnation),
                mkdir_format=mkdir_format(plan.run_id, self._assignment.index, order["stage"], self._index, self._incarnation),
                seed=seed,
                limits=plan.error_limits,
                end_ns=end_ns,
                notice=lambda text: send({"notice": text}),
                pacer=self._make_pacer(stage, start_ns, seed),
                owned={name: Intervals(pieces) for name, pieces in order["owned"].items()},
                lane=(self._index, self._active(stage)),
                pools=self._pools,
            )
            return mix
        if stage.replay is not None:
            return self._make_replay(stage, stage.replay, order, recorder, start_ns)
        if stage.kind is StageKind.CLEANUP:
            self._pools.clear()
        target = plan.target.endpoint_url or self._uri
        if stage.kind is StageKind.VERIFY:
            earlier = plan.stages[: order["stage"]]
            unsure = [op.population for s in earlier for op in s.operations if op.kind == "delete" and op.weight and op.population]
            return VerifyWork(self._objects, ranges, recorder, outage_timeout_s=plan.target_outage_timeout_s, target=target, unsure=unsure)
        objects = dict(self._objects)
        for name, made in order.get("puts", {}).items():
            objects[name] = Objects(
                self._engine, Population(name, made["target"], made["key_format"], made["count"], SizeSpec("fixed", 0, 0), 0)
            )
        make = partial(BatchedIndexWork, batch=stage.delete_batch) if stage.delete_batch > 1 else IndexWork
        unsure = [name for name, made in order.get("puts", {}).items() if made.get("unsure")]
        if stage.cleanup_mode != "strict":
            unsure = list(objects)
        return make(
            PUT if stage.kind is StageKind.PREPARE else DELETE,
            objects,
            ranges,
            recorder,
            outage_timeout_s=plan.target_outage_timeout_s,
            target=target,
            unsure=unsure,
            interleaved=stage.interleaved,
            best_effort=stage.cleanup_mode == "besteffort",
            notice=lambda text: send({"notice": text}),
        )

    def _make_replay(self, stage: Stage, spec: Replay, order: Dict[str, Any], recorder: Recorder, start_ns: int) -> ReplayWork:
        end_ns = start_ns + int((stage.duration_s or 0.0) * 1e9)
        if stage.duration_s is not None:
            recorder.tail_from_ns = end_ns
        try:
            return ReplayWork(
                self._engine,
                spec,
                order["directory"],
                recorder,
                place=(order["stage"], self._index),
                seed=f"{self._plan.seed}/{self._assignment.index}/{order['stage']}/{self._index}/{self._incarnation}",
                limits=self._plan.error_limits,
                start_ns=start_ns,
                begin_ns=time.monotonic_ns(),
                end_ns=end_ns,
                notice=lambda text: send({"notice": text}),
            )
        except (OSError, ValueError) as error:
            raise AgentError(f"the trace of worker {self._index} cannot be read: {error}") from error

    def _make_pacer(self, stage: Stage, start_ns: int, seed: str) -> Union[Pacer, Ramp, None]:
        """An open loop's schedule, in which the share of the rate is that of the concurrency, or a closed loop's ramp."""
        mine = self._share(stage)
        if not mine:
            return None
        active = self._active(stage)
        if stage.io_rate is None:
            return Ramp(stage.ramp_s, stage.concurrency, (self._index, active), start_ns) if stage.ramp_s else None
        rng = random.Random(f"{seed}/pace")
        part, phase = mine / stage.concurrency, self._index / active
        if stage.ramp_s:
            return RampedPacer(stage.io_rate, part, phase, start_ns, rng, stage.ramp_s)
        return Pacer(stage.io_rate, part, phase, start_ns, rng)

    def _active(self, stage: Stage) -> int:
        """How many workers have a share of the concurrency: the first ones."""
        return min(self._workers, stage.concurrency)

    def _share(self, stage: Stage) -> int:
        """How many of the agent's operations in flight are this worker's."""
        return len(range(self._index, stage.concurrency, self._workers))

    def _report_finished(self, work: Optional[Work] = None) -> None:
        work = work or self._work
        finished = work.take_finished() if work is not None else {}
        if finished:
            unreadable = work.take_unreadable() if isinstance(work, VerifyWork) else {}
            send({"finished": finished, "unreadable": unreadable})

    def _flush_log(self) -> None:
        if self._log is not None:
            self._log.flush()
            text = self._log.complaint()
            if text is not None:
                send({"notice": text})


def send(message: Dict[str, Any]) -> None:
    """Writes one line to the supervisor."""
    data = memoryview(dumps(message).encode("ascii") + b"\n")
    while data:
        data = data[os.write(1, data) :]


def main() -> int:
    """Entry point of `work`: exit code 0 after a stop, 1 after an error that was reported."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()  # not a byte more: the rest is read with os.read
    try:
        worker = Worker(json.loads(line)["init"])
        worker.check()
        send({"ready": True})
        worker.serve()
    except Stopped:
        return 0
    except BrokenPipeError:
        return 1
    except Sai3sshError as error:
        send({"error": error.to_dict()})
    except Fatal as error:
        send({"error": TargetError(str(error)).to_dict()})
    except Exception as error:  # the supervisor must learn of every way to die
        import traceback

        traceback.print_exc()
        send({"error": AgentError(f"worker failed: {type(error).__name__}: {error}", remedy="See supervisor.log of the run.").to_dict()})
    return 1
