"""Hosts, links and a clock that exist only in memory, around the real session, policy, mirror, release, ledger and journal replay."""

from __future__ import annotations

import hashlib
import heapq
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sai3ssh.agent import recovery
from sai3ssh.agent.release import Release
from sai3ssh.agent.stage import Ledger
from sai3ssh.controller.clock import ClockOffset
from sai3ssh.controller.effects import (
    Answered,
    ClockMeasured,
    Effect,
    End,
    EndLease,
    Input,
    Log,
    MeasureClock,
    Quit,
    Refused,
    Send,
    StopRequested,
    Subscribe,
    Tag,
    Tick,
    TryNow,
    Unanswered,
    Witness,
)
from sai3ssh.controller.events import Heartbeat, JournalComplete, LinkDown, LinkFailed, LinkUp, Records
from sai3ssh.controller.mirror import Mirror
from sai3ssh.controller.rebuild import course_of
from sai3ssh.controller.session import Options, Session
from sai3ssh.errors import AgentError, JournalLost, LinkLost, Sai3sshError, Superseded, Transient
from sai3ssh.model import (
    Assignment,
    FailurePolicy,
    OperationSpec,
    Outcome,
    Plan,
    Population,
    SizeSpec,
    Stage,
    StageKind,
    Steady,
    Target,
    share,
)
from sai3ssh.protocol import encode_record
from tests.simulation.counting import Counter
from tests.simulation.invariants import Invariants

Json = dict[str, Any]
CLOCK_ERROR_NS = 2_000_000
RECONNECT_TIMEOUT_S = 60.0
SILENCE_S = 3.0
OBJECTS = 1000


def plan(
    durations: list[float], policy: FailurePolicy, *, credentials: bool = False, deletes: bool = False, steady: Steady | None = None
) -> Plan:
    """A prepare of OBJECTS objects, execute stages of these lengths, a cleanup."""
    stages = [Stage("prepare", StageKind.PREPARE, 4, populations=("p",))]
    mix = (OperationSpec("delete", 1, "s3://b/", "p"),) if deletes else ()
    stages += [Stage(f"mix-{i}", StageKind.EXECUTE, 4, duration_s=s, operations=mix, steady=steady) for i, s in enumerate(durations)]
    stages.append(Stage("cleanup", StageKind.CLEANUP, 4, populations=("p",)))
    populations = (Population("p", "s3://b/", "%d", OBJECTS, SizeSpec("fixed", 1, 1), 1),)
    lease_s = policy.reconnect_timeout_s if policy.survives and policy.reassign else None
    return Plan("sim-1", "sim", Target("s3"), populations, tuple(stages), policy=policy, lease_s=lease_s, needs_credentials=credentials)


@dataclass
class Cut:
    """A link that breaks at a time, for a time."""

    agent: int
    at_s: float
    for_s: float


@dataclass
class Hit:
    """Something else that befalls a host or all of them: half_open, supervisor_killed, reboot, disk_full, clock_jump (of wall time, by a
    minute for each second), asleep, off_network; frozen: the agent answers nothing and does nothing until its supervisor is killed or its
    host restarted, but its link is up; altered: what was in its journal is another now, of the same length."""

    kind: str
    agent: int
    at_s: float
    for_s: float


@dataclass
class ControllerCrash:
    """The controller dies before its n-th effect and is resumed after a while; a power cut also takes what was not synced, and with
    from_agents its directory is gone and is rebuilt."""

    effect: int
    for_s: float
    power_cut: bool
    from_agents: bool = False


@dataclass
class Faults:
    """What goes wrong in a world, drawn by the test."""

    seed: int = 0
    cuts: list[Cut] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    controller_crashes: list[ControllerCrash] = field(default_factory=list)
    longest_delay_s: float = 0.3
    lost_answers: float = 0.0
    """Share of answers, but those to stop and forget, that never come although the link stays up."""
    repeated: float = 0.0
    """Share of inputs that come twice, the second time late."""
    failure: tuple[int, float] | None = None
    """An agent fails at that time."""
    refuses_submit: int | None = None
    stop_at_s: float | None = None
    quick: bool = False
    """Prepare and cleanup take seconds, on most hosts: what follows a loss follows it soon."""
    witness: bool = False
    """The controller's gateway answers, but while the controller is off the network."""


class SimAgent:
    """One host: what the real daemon and supervisor do with commands, without the load."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.name = f"agent-{index}"
        self.boot = 1
        self.offset_ns = world.random.randrange(10**15)
        self.assignment = world.assignments[index]
        self.journal: list[Json] = []
        """What is on disk; `data` is the same as bytes."""
        self.data = bytearray()
        self._waiting: list[tuple[str, Json, Callable[[], None]]] = []
        """Records that wait for a full disk, each with what follows when it is written."""
        self.key: Json = {}
        self.state = "NONE"
        self.release: Release | None = None
        self.ledger = Ledger(world.plan, self.assignment.ranges)
        self.running: int | None = None
        self.starts: list[tuple[int, float]] = []
        self.commits: dict[int, tuple[float, int]] = {}
        self.end_heard_ns: dict[int, int] = {}
        """By stage, how long it had lasted when it was first said that it is to end."""
        self.forgotten = self.frozen = self.disk_full = self.altered = False
        self.down_until_s = 0.0
        self.has_credentials = False
        self.refuses = world.faults.refuses_submit == index
        self.lease_until_s = 0.0
        self.wall_shift_s = 0.0
        self.life = 0
        self.fresh = False
        """Of the supervisor: what an earlier one had planned does not happen."""
        self.counter = Counter(self.append)

    @property
    def over(self) -> bool:
        """Whether its journal has a final record."""
        return bool(self.journal) and self.journal[-1]["kind"] == "final"

    @property
    def supervised(self) -> bool:
        """Whether a supervisor has the run now."""
        if self.release is None or self.over:
            return False
        return not self._waiting or all(record["kind"] != "final" for _, record, _ in self._waiting)

    def heartbeat(self) -> Json:
        """What a heartbeat says."""
        assert self.release is not None
        return {"done": int(self.world.now) if self.running is not None else 0, "controller": self.release.controller, "state": self.state}

    def clock_ns(self) -> int:
        """CLOCK_BOOTTIME of this host."""
        return int(self.world.now * 1e9) + self.offset_ns

    def wall_ns(self) -> int:
        """Its wall time."""
        return int((self.world.now + self.wall_shift_s) * 1e9)

    # --- commands --------------------------------------------------------------------------------------------------------------------

    def command(self, command: Json, answer: Callable[..., None]) -> None:
        """Answers now or later; raises Sai3sshError."""
        verb = command["cmd"]
        if verb == "submit":
            self._submit(command, answer)
            return
        if not self.key or self.forgotten:
            raise AgentError(f"no run of agent {self.name}")
        if verb == "stop":
            self._stop(command, answer)
        elif verb == "forget":
            assert self.over, f"{self.name}: forget of a run in progress"
            self.forgotten = True
            answer()
        elif verb == "credentials":
            if not self.has_credentials:
                self.has_credentials = True
                if self.supervised:
                    self._go_on()
            answer()
        elif not self.supervised:
            raise Transient(f"{verb}: no supervisor has this run at the moment")
        else:
            self._of_run(verb, command, answer)

    def _submit(self, command: Json, answer: Callable[..., None]) -> None:
        if self.refuses:
            raise AgentError("no space left on device", host=self.name)
        if not self.key:
            self.key = command["key"]
            self.has_credentials = True
            self.release = Release(self.key, len(self.world.plan.stages), f"boot-{self.boot}")
            self.state = "STARTING"
            self.append("epoch", epoch=f"epoch-{self.index}")
            self._when(self.world.now + self.world.random.uniform(0.1, 3.0), self._ready)
        elif command["key"] != self.key:
            raise AgentError(f"run is here already, from controller {self.key['controller']}")
        answer(epoch=f"epoch-{self.index}")

    def _stop(self, command: Json, answer: Callable[..., None]) -> None:
        if self.supervised:
            assert self.release is not None
            self.release.check_key(command)
        if self.disk_full and not self.over:
            raise Transient("the journal could not be ended")
        self.end(Outcome.STOPPED, command["reason"])
        answer(outcome=self.journal[-1]["outcome"])

    def _of_run(self, verb: str, command: Json, answer: Callable[..., None]) -> None:
        release = self.release
        assert release is not None
        if verb == "arm":
            if self.state == "AWAITING_CREDENTIALS":
                raise Transient("the agent waits for credentials")
            if release.arm(command, self.state):
                self.state = "ARMED"
                fields = {name: command[name] for name in ("stage", "round", "start_clock_ns")}
                self.append("armed", lambda: answer(armed=command["round"]), **fields)
            else:
                self._when_committed(lambda: answer(armed=command["round"]))
            self.world.invariants.obeys(self, command)
        elif verb == "commit":
            if release.commit(command):
                self.world.invariants.commit_arrives(self, command)
                self.state = "COMMITTED"
                self.commits[command["stage"]] = (self.world.now, release.start_clock_ns)
                fields = {"stage": command["stage"], "round": command["round"], "start_clock_ns": release.start_clock_ns}
                self.append("committed", lambda: answer(committed=command["round"]), **fields)
                self._await_start(command["stage"])
            else:
                self._when_committed(lambda: answer(committed=command["round"]))
            self.world.invariants.obeys(self, command)
        elif verb == "claim":
            if self.world.now - command["sent_s"] > 10.0:
                raise Transient("the claim was long under way")
            if self.world.links[self.index].up and command["key"]["controller"] != self.world.last_session.controller:
                raise Superseded("another controller is connected")
            generation = release.claim(command["key"]["controller"])
            fields = {"generation": generation, "controller": command["key"]["controller"]}
            self.append("controller", lambda: answer(generation=generation), **fields)
        elif verb == "end":
            self._end_asked(command, answer)
        elif verb == "adopt":
            self._adopt(command, answer)
        else:
            assert verb == "finish", verb
            release.check_key(command)
            assert release.stage == len(self.world.plan.stages), f"{self.name}: finish before its last stage has ended"
            self.end(Outcome.FINISHED, "all stages ended")
            answer()

    def _end_asked(self, command: Json, answer: Callable[..., None]) -> None:
        release, stage = self.release, command["stage"]
        assert release is not None
        planned_ns = int((self.world.plan.stages[stage].duration_s or 0.0) * 1e9)
        if release.end(command, planned_ns, self.clock_ns()):
            self.world.invariants.end_arrives(self, command)
            self.end_heard_ns[stage] = self.clock_ns() - release.start_clock_ns
            fields = {name: command[name] for name in ("stage", "round", "duration_ns", "figures")}
            self.append("ending", lambda: answer(ending=command["round"]), **fields, lasts_ns=release.lasts_ns)
            self._when(self._end_s(), lambda: self._end_stage(stage))
        else:
            self._when_committed(lambda: answer(ending=command["round"]))
        self.world.invariants.obeys(self, command)

    def _end_s(self) -> float:
        """Of the execute stage that runs."""
        release = self.release
        assert release is not None
        planned_ns = int((self.world.plan.stages[release.stage].duration_s or 0.0) * 1e9)
        lasts_ns = planned_ns if release.lasts_ns is None else release.lasts_ns
        return (release.start_clock_ns + lasts_ns - self.offset_ns) / 1e9

    def _adopt(self, command: Json, answer: Callable[..., None]) -> None:
        assert self.release is not None
        self.release.check_key(command)
        if self.ledger.has_adopted(command["number"]):
            self._when_committed(lambda: answer(adopted=command["number"]))
            return
        if self.state not in ("READY", "AT_BARRIER", "ARMED"):
            raise Transient(f"{self.name} is {self.state}")
        fields = {name: command[name] for name in ("number", "from", "stage", "ranges", "done")}
        self.ledger.adopt(fields)
        self.release.reopen(command["stage"])
        self.state = "AT_BARRIER" if self.release.stage else "READY"
        self.append("adopted", lambda: answer(adopted=command["number"]), **fields)

    # --- life ------------------------------------------------------------------------------------------------------------------------

    def _when(self, at_s: float, action: Callable[[], None]) -> None:
        """Later, if the same supervisor is still there."""
        life = self.life
        self.world.at(max(self.world.now, at_s), lambda: action() if life == self.life and not self.over and not self.frozen else None)

    def _ready(self) -> None:
        if self.state == "STARTING":
            self.state = "READY"
            self.append("ready")

    def _await_start(self, stage: int) -> None:
        assert self.release is not None
        self._when((self.release.start_clock_ns - self.offset_ns) / 1e9, lambda: self._start(stage))

    def _start(self, stage: int) -> None:
        assert self.release is not None
        self.world.invariants.starts(self, stage)
        self.running, self.state = stage, "RUNNING"
        self.starts.append((stage, self.world.now))
        self.append("stage_start", stage=stage, round=self.release.round)
        self.lease_until_s = max(self.lease_until_s, self.world.now + (self.world.plan.lease_s or 0.0))
        if self.world.plan.stages[stage].kind is StageKind.EXECUTE:
            self.counter.begin(self.world.plan.stages[stage], stage, self.release.start_clock_ns)
        self._run_stage(stage, self.world.plan.stages[stage].duration_s or self._length_s())

    def _length_s(self) -> float:
        """Of a prepare or cleanup; some hosts are slow."""
        if self.world.faults.quick:
            return 300.0 if self.world.random.random() < 0.2 else self.world.random.uniform(0.0, 3.0)
        return self.world.random.uniform(0.0, 40.0 if self.world.random.random() < 0.7 else 300.0)

    def _run_stage(self, stage: int, length_s: float) -> None:
        self._when(self.world.now + length_s / 2, lambda: self._work(stage, 0.5))
        if self.world.plan.stages[stage].kind is StageKind.EXECUTE:
            self._when(self.world.now + 1.0, lambda: self._operate(stage))
        self._when(self.world.now + length_s, lambda: self._end_stage(stage))

    def _operate(self, stage: int) -> None:
        """Some operations; now and then a summary of them. Where it may become steady, it does so more or less, and tells each second."""
        if self.running == stage and self.world.plan.stages[stage].steady is not None:
            assert self.release is not None
            self.world.invariants.measures(self, stage)
            age_s = (self.clock_ns() - self.release.start_clock_ns) / 1e9
            self.counter.work(stage, self.world.random.randrange(20) + int(1000 - 30 * min(30.0, max(0.0, 10.0 - age_s))))
            self.counter.second(self.clock_ns(), histograms=self.world.random.random() < 0.5)
            self._when(self.world.now + 1.0, lambda: self._operate(stage))
        elif self.running == stage:
            self.counter.work(stage, self.world.random.randrange(100))
            if self.world.random.random() < 0.3:
                self.counter.second(self.clock_ns(), histograms=self.world.random.random() < 0.5)
            self._when(self.world.now + 1.5, lambda: self._operate(stage))

    def _leased(self, stage: int) -> bool:
        prepare = self.world.plan.stages[stage].kind is StageKind.PREPARE
        return not prepare or self.world.plan.lease_s is None or self.world.now < self.lease_until_s

    def _work(self, stage: int, share_of_it: float) -> None:
        """Some of what is left to do of a prepare or cleanup is done, and is in the ledger."""
        if self.running != stage or self.world.plan.stages[stage].kind is StageKind.EXECUTE or not self._leased(stage):
            return
        self.world.invariants.writes(self, stage)
        left = self.ledger.todo(stage, self.world.plan.stages[stage])["p"]
        pieces = [[lo, lo + int((hi - lo) * share_of_it)] for lo, hi in left]
        pieces = [piece for piece in pieces if piece[0] < piece[1]]
        self.ledger.record(stage, "p", pieces)
        self.append("ledger", stage=stage, population="p", ranges=pieces)

    def _end_stage(self, stage: int) -> None:
        if self.running != stage:
            return  # it has ended before its planned end
        if not self._leased(stage):
            self._when(self.world.now + 1.0, lambda: self._end_stage(stage))
            return
        self._work(stage, 1.0)
        assert self.release is not None
        self.running = None
        execute = self.world.plan.stages[stage].kind is StageKind.EXECUTE
        totals = self.counter.end(self.clock_ns()) if execute else {}
        self.append("stage_end", stage=stage, round=self.release.round, outcome="finished", made={"puts": []}, totals=totals)
        self.release.stage_ended()
        self.state = "AT_BARRIER"
        if stage + 1 == len(self.world.plan.stages) and not self.world.plan.lingers:
            self.end(Outcome.FINISHED, "all stages ended")

    def end(self, outcome: Outcome, reason: str) -> None:
        """Writes the final record, once."""
        if not self.over and self.key:
            self.running, self.state = None, outcome.name
            error = {"type": "AgentError", "message": reason} if outcome is Outcome.FAILED else None
            self.append("final", outcome=outcome.value, reason=reason, error=error)

    # --- journal ---------------------------------------------------------------------------------------------------------------------

    def append(self, kind: str, on_committed: Callable[[], None] = lambda: None, /, **fields: Any) -> None:
        """A record, which the link delivers when it can."""
        record = {"boot": f"boot-{self.boot}", "clock_ns": self.clock_ns(), "wall_ns": self.wall_ns(), "kind": kind, **fields}
        if self.disk_full:
            self._waiting.append((kind, record, on_committed))
            return
        assert not self.over, f"{self.name}: {kind} after the final record"
        record["seq"] = len(self.journal)
        self.journal.append(record)
        self.data += encode_record(record)
        self.world.links[self.index].flush()
        on_committed()

    def _when_committed(self, action: Callable[[], None]) -> None:
        if self._waiting:
            kind, record, before = self._waiting[-1]
            self._waiting[-1] = kind, record, lambda: (before(), action())  # type: ignore[func-returns-value]
        else:
            action()

    def free_disk(self) -> None:
        """What waited is written."""
        self.disk_full = False
        if self.frozen:
            return
        waiting, self._waiting = self._waiting, []
        for _, record, on_committed in waiting:
            if self.over:
                break
            record["seq"] = len(self.journal)
            self.journal.append(record)
            self.data += encode_record(record)
            on_committed()
        self.world.links[self.index].flush()

    def alter(self) -> None:
        """A digit of the first record is another, with the right checksum: each record by itself is beyond suspicion."""
        if self.journal and not self.over:
            before = encode_record(self.journal[0])
            self.journal[0]["wall_ns"] ^= 1
            self.data[: len(before)] = encode_record(self.journal[0])
            self.altered = True

    # --- crashes ---------------------------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Whoever would answer hangs: the supervisor, or before there is one the daemon."""
        self.frozen = self.supervised or not self.key

    def kill_supervisor(self, for_s: float, *, reboot: bool = False) -> None:
        """What is not on disk is gone; another one takes over after a while."""
        self.frozen = False
        if not self.journal or self.over:
            return
        self.life += 1
        if reboot:
            self.counter.clear(self.journal)
            self.fresh = True
        self.release, self.running, self._waiting = None, None, []
        if reboot:
            self.boot += 1
            self.offset_ns = self.world.random.randrange(10**15)
            self.has_credentials = not self.world.plan.needs_credentials
        life = self.life
        self.world.at(self.world.now + for_s, lambda: self._take_over() if life == self.life else None)

    def _take_over(self) -> None:
        """As the real supervisor does, by the real replay."""
        if self.over:
            return
        past = recovery.replay(self.journal)
        assert past.last is not None
        shift_ns = recovery.in_clock_of(f"boot-{self.boot}", past.last, self.clock_ns(), self.wall_ns())
        stages = self.world.plan.stages
        self.release = Release(self.key, len(stages), f"boot-{self.boot}")
        self.release.restore(past, shift_ns)
        self.ledger = Ledger(self.world.plan, self.assignment.ranges)
        for stage, name, ranges in past.finished:
            self.ledger.record(stage, name, ranges)
        for adopted in past.adopted:
            self.ledger.adopt(adopted)
        self.append("recovered", fresh=self.fresh)
        if self.fresh:
            past.counters_lost()
            self.fresh = self.disk_full  # without that record on disk the next one must say it again
        self.state = "STARTING"
        if past.stage == len(stages) and not self.world.plan.lingers:
            self.end(Outcome.FINISHED, "all stages ended")
            return
        if past.ready:
            self.state = "RUNNING" if past.started else "COMMITTED" if past.committed else "ARMED" if past.armed else ""
            self.state = self.state or ("AT_BARRIER" if past.stage else "READY")
        self._resume_as, self._past, self._shift_ns = self.state, past, shift_ns
        if self.has_credentials:
            self._go_on()
        else:
            self.state = "AWAITING_CREDENTIALS"

    def _go_on(self) -> None:
        if self.state not in ("AWAITING_CREDENTIALS", self.__dict__.get("_resume_as")):
            return
        self.state = self._resume_as
        past, release = self._past, self.release
        assert release is not None
        if self.state == "STARTING":
            self._when(self.world.now + 1.0, self._ready)
        elif past.committed and not past.started:
            self._await_start(past.stage)
        elif past.committed:
            self.running = past.stage
            duration_s = self.world.plan.stages[past.stage].duration_s
            left_s = self._length_s() if duration_s is None else max(0.0, self._end_s() - self.world.now)
            if duration_s is not None:
                self.counter.begin(
                    self.world.plan.stages[past.stage], past.stage, release.start_clock_ns, past, self.clock_ns(), self._shift_ns
                )
            self._run_stage(past.stage, left_s)


class SimLink:
    """One link around the real mirror: loses commands and answers when it is cut, never records."""

    def __init__(self, world: World, agent: SimAgent) -> None:
        self.world = world
        self.agent = agent
        self.up = self.subscribed = self.mute = self.failed = False
        self.renews_lease = True
        self.connection = 0
        self.up_since_s = 0.0
        self.blocked_until_s = 0.0
        self.waiting: dict[int, Send | MeasureClock] = {}
        self._ids: Iterator[int] = iter(range(10**9))
        self._sent = 0
        self._final_sent = False
        self.mirror = self._open()

    def _open(self) -> Mirror:
        return Mirror(self.world.directory / f"{self.agent.name}.ndjson")

    def connect_when_possible(self, down_since_s: float) -> None:
        """The link is (back) up, unless something keeps it down."""
        if self.world.now < self.blocked_until_s:
            self.world.at(self.blocked_until_s, lambda: self.connect_when_possible(down_since_s))
        elif not self.up and not self.failed and self.world.session is not None:
            self.connect(down_since_s)

    def connect(self, down_since_s: float) -> None:
        """The link is (back) up."""
        self.up, self.mute, self.up_since_s = True, False, self.world.now
        self.connection += 1
        self._sent, self._final_sent = self.mirror.size, False
        hello = {"boot": f"boot-{self.agent.boot}"}
        self.world.put(LinkUp(self.agent.name, self.world.now, 1, self.world.now - down_since_s, self.mirror.size, hello))
        self.flush()

    def cut(self, for_s: float) -> None:
        """The link breaks, and what was under way with it."""
        if not self.up:
            return
        self.blocked_until_s = max(self.blocked_until_s, self.world.now + for_s)
        self._break()
        self.world.put(LinkDown(self.agent.name, self.world.now, LinkLost("cut")))
        since_s = self.world.now
        self.world.at(self.blocked_until_s, lambda: self.connect_when_possible(since_s))

    def _break(self) -> None:
        self.drop()
        waiting, self.waiting = self.waiting, {}
        self._keep_some(waiting)
        for effect in waiting.values():
            self.world.put(Unanswered(effect.agent, effect.tag, LinkLost("cut")))

    def _keep_some(self, waiting: dict[int, Send | MeasureClock]) -> None:
        """What had been sent can be stuck on the host, and arrive after later commands, or when another controller is in charge."""
        for effect in waiting.values():
            if isinstance(effect, Send) and self.world.random.random() < 0.5:
                when = self.world.now + self.world.random.uniform(0.0, 60.0)
                self.world.at(when, lambda effect=effect, now=self.world.now: self._arrive(-1, effect, now))  # type: ignore[misc]

    def drop(self) -> None:
        """The connection is gone."""
        self.up = False
        self.connection += 1

    def half_open(self, for_s: float) -> None:
        """Nothing passes any more, and nobody has said so."""
        if self.up and not self.mute:
            self.mute = True
            connection = self.connection
            self.world.at(
                self.world.now + SILENCE_S, lambda: self.cut(max(0.0, for_s - SILENCE_S)) if connection == self.connection else None
            )

    def restart(self, *, power_cut: bool) -> None:
        """The controller died: another one reads what is left of the mirror."""
        self.drop()
        self.subscribed, self.failed, self.renews_lease = False, False, True
        self._keep_some(self.waiting)
        self.waiting.clear()
        # Also by whoever rebuilt the directory.
        synced = any(e["event"] == "journal_complete" and e["agent"] == self.agent.name for e in self.world.history)
        self.mirror.close()
        if power_cut and not synced:
            with self.mirror.path.open("r+b") as file:
                file.truncate(self.world.random.randint(0, self.mirror.size))
        self.mirror = self._open()

    def fetch_anew(self) -> None:
        """The mirror was lost with its directory, and is all of the journal now."""
        self.mirror.close()
        self.mirror.path.unlink()
        self.mirror = self._open()
        self.mirror.append(0, bytes(self.agent.data))

    def send(self, effect: Send | MeasureClock, timeout_s: float) -> None:
        """A command on its way, or a series of pings."""
        if not self.up:
            down = Unanswered(effect.agent, effect.tag, LinkLost("the link is down"))
            self.world.later(lambda: self.world.put(down), of_controller=True)
            return
        number = next(self._ids)
        self.waiting[number] = effect
        self.world.at(self.world.now + timeout_s, lambda: self._timeout(number))
        connection = self.connection
        # Bytes that have left reach the agent even when the link breaks behind them.
        always = self.world.random.random() < 0.9 and not self.mute
        sent_s = self.world.now
        self.world.later(lambda: self._arrive(number, effect, sent_s) if always or self._stands(connection) else None)

    def _stands(self, connection: int) -> bool:
        return connection == self.connection and self.up and not self.mute

    def _timeout(self, number: int) -> None:
        effect = self.waiting.pop(number, None)
        if effect is not None:
            self.world.put(Unanswered(effect.agent, effect.tag, LinkLost("no answer")))

    def _arrive(self, number: int, effect: Send | MeasureClock, sent_s: float) -> None:
        if self.agent.frozen:
            return
        if isinstance(effect, MeasureClock):
            error_ns = self.world.random.randint(-CLOCK_ERROR_NS, CLOCK_ERROR_NS)
            boot = f"boot-{self.agent.boot}"
            offset = ClockOffset(self.agent.offset_ns + error_ns, CLOCK_ERROR_NS, boot, int(self.world.now * 1e9))
            self._back(number, ClockMeasured(effect.agent, effect.tag, offset))
            return
        command = {**effect.command, "sent_s": sent_s}
        answer = lambda **ok: self._back(number, Answered(effect.agent, effect.tag, ok))  # noqa: E731
        try:
            self.agent.command(command, answer)
        except Transient as error:
            self._back(number, Unanswered(effect.agent, effect.tag, error))
        except Sai3sshError as error:
            self._back(number, Refused(effect.agent, effect.tag, error))

    def _back(self, number: int, answer: Input) -> None:
        effect = self.waiting.get(number)
        certain = effect is not None and effect.tag.purpose in ("stop", "forget")
        if certain or self.world.random.random() >= self.world.faults.lost_answers:
            self.world.later(lambda: self._answer(number, answer))

    def _answer(self, number: int, answer: Input) -> None:
        if not self.mute and self.waiting.pop(number, None) is not None:
            self.world.put(answer)

    def subscribe(self) -> None:
        """The journal flows from now on."""
        self.subscribed = True
        self._sent = self.mirror.size
        self.flush()

    def flush(self) -> None:
        """Sends what the mirror does not have."""
        connection = self.connection
        self.world.later(lambda: self._deliver(connection))

    def _deliver(self, connection: int) -> None:
        if not self.subscribed or not self._stands(connection) or self.world.session is None:
            return
        offset, data = self._sent, bytes(self.agent.data[self._sent :])
        self._sent = len(self.agent.data)
        middle = self.world.random.randint(0, len(data))
        for at, payload in ((0, data[:middle]), (middle, data[middle:])):
            if payload and connection == self.connection:
                records = self.mirror.append(offset + at, payload)
                if records:
                    self.world.put(Records(self.agent.name, self.world.now, tuple(records)))
        if self.agent.over and not self._final_sent and connection == self.connection:
            self._final_sent = True
            try:
                self.mirror.verify(len(self.agent.data), hashlib.sha256(self.agent.data).hexdigest())
            except JournalLost as error:
                if not self.agent.altered:
                    raise
                self.failed = True
                self._break()
                self.world.put(LinkFailed(self.agent.name, self.world.now, error))
                return
            outcome = Outcome(self.agent.journal[-1]["outcome"])
            self.world.put(JournalComplete(self.agent.name, self.world.now, self.mirror.size, self.mirror.sha256, outcome))


class World:
    """A run of the real session among simulated agents; `run` returns when the session has ended."""

    def __init__(
        self,
        faults: Faults,
        agents: int = 4,
        durations: list[float] | None = None,
        options: Options | None = None,
        policy: FailurePolicy | None = None,
        *,
        credentials: bool = False,
        deletes: bool = False,
        steady: Steady | None = None,
    ) -> None:
        self.faults = faults
        self.count = agents
        self.random = random.Random(faults.seed)
        self.now = 1000.0
        self.options = options
        policy = policy or FailurePolicy(reconnect_timeout_s=RECONNECT_TIMEOUT_S)
        self.plan = plan([5.0] if durations is None else durations, policy, credentials=credentials, deletes=deletes, steady=steady)
        self.assignments = [Assignment(f"agent-{i}", i, agents, {"p": (share(OBJECTS, i, agents),)}) for i in range(agents)]
        self._scratch = tempfile.TemporaryDirectory(prefix="sim-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.directory = Path(self._scratch.name)
        self.controllers = 0
        self.log: list[tuple[float, Log]] = []
        self.history: list[Json] = []
        """The log that the controller's directory has: less than `log` once it was rebuilt."""
        self.ended: str | None = None
        self.quit: Sai3sshError | None = None
        self.rebuilt = False
        self.asleep_until_s = self.off_until_s = 0.0
        self._missed: list[tuple[Input, int]] = []
        """What has come while the controller sleeps, and which controller it is for."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = self.effects = self._ticks = 0
        self._next_witness_s = 0.0
        self.last_session = self.session = self._new_session()
        self.links: list[SimLink] = []
        self.invariants = Invariants(self)
        self._log("run_created", controller=self.last_session.controller)
        self.agents = [SimAgent(self, i) for i in range(agents)]
        self.links = [SimLink(self, agent) for agent in self.agents]
        self._connect_all()
        self._plan_faults()
        self.at(self.now, lambda: self._tick(1))

    def _new_session(self) -> Session:
        self.controllers += 1
        return Session(self.plan, self.assignments, f"controller-{self.controllers}", self.options, self.random.random)

    def _connect_all(self) -> None:
        since_s = self.now
        for link in self.links:
            self.at(self.now + self.random.uniform(0.0, 2.0), lambda link=link: link.connect_when_possible(since_s))  # type: ignore[misc]

    def _plan_faults(self) -> None:
        faults = self.faults
        for cut in faults.cuts:
            link = self.links[cut.agent % self.count]
            self.at(self.now + cut.at_s, lambda link=link, cut=cut: link.cut(cut.for_s))  # type: ignore[misc]
        for hit in faults.hits:
            self.at(self.now + hit.at_s, lambda hit=hit: self.hit(hit))  # type: ignore[misc]
        if faults.failure is not None:
            failing = self.agents[faults.failure[0] % self.count]
            self.at(
                self.now + faults.failure[1],
                lambda: failing.end(Outcome.FAILED, "worker 0 was killed") if failing.supervised and not failing.frozen else None,
            )
        if faults.stop_at_s is not None:
            self.at(self.now + faults.stop_at_s, lambda: self.put(StopRequested("interrupted")))

    def hit(self, hit: Hit) -> None:
        """It happens now."""
        agent, link = self.agents[hit.agent % self.count], self.links[hit.agent % self.count]
        match hit.kind:
            case "half_open":
                link.half_open(hit.for_s)
            case "supervisor_killed":
                agent.kill_supervisor(min(5.0, hit.for_s))
            case "reboot":
                link.cut(hit.for_s + 1.0)
                agent.kill_supervisor(hit.for_s, reboot=True)
            case "disk_full":
                agent.disk_full = True
                self.at(self.now + hit.for_s, agent.free_disk)
            case "frozen":
                agent.freeze()
            case "altered":
                agent.alter()
            case "clock_jump":
                agent.wall_shift_s += 60.0 * self.random.choice([-hit.for_s, hit.for_s])
            case "asleep":
                self.asleep_until_s = max(self.asleep_until_s, self.now + hit.for_s)
                for one in self.links:
                    one.cut(hit.for_s + self.random.uniform(0.1, 5.0))
            case "off_network":
                self.off_until_s = max(self.off_until_s, self.now + hit.for_s)
                for one in self.links:
                    one.half_open(hit.for_s)
                    one.blocked_until_s = max(one.blocked_until_s, self.now + hit.for_s)
            case _:
                raise AssertionError(hit.kind)

    def run(self, limit_s: float) -> None:
        """Until the session ends; fails when that takes more than limit_s of its time."""
        deadline = self.now + limit_s
        try:
            self.advance(limit_s)
            assert self.now < deadline, f"not ended after {limit_s:.0f} s; {self.where()}"
            self.mirrored = [link.mirror.path.read_bytes() for link in self.links]
        finally:
            self.close()

    def advance(self, for_s: float) -> None:
        """Lets time pass, or what is left of it until the session ends."""
        until = self.now + for_s
        while self.ended is None and self.quit is None and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()
        if self.ended is None and self.quit is None:
            self.now = until

    def close(self) -> None:
        """Removes the mirrors."""
        for link in self.links:
            link.mirror.close()
        self._scratch.cleanup()

    def where(self) -> str:
        """Where everybody stands."""
        session = self.last_session
        views = [(name, agent.state.value, agent.started, agent.ended, agent.up) for name, agent in session.agents.items()]
        return (
            f"stage {session.stage} round {session.round} abort {session.abort_reason}; {views}; {[(a.name, a.state) for a in self.agents]}"
        )

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Does something at a time."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action))

    def later(self, action: Callable[[], None], *, of_controller: bool = False) -> None:
        """Does something after a network delay; what is of a controller dies with it."""
        number = self.controllers
        when = self.now + self.random.uniform(0.0005, self.faults.longest_delay_s)
        self.at(when, lambda: action() if not of_controller or number == self.controllers else None)

    def put(self, event: Input) -> None:
        """An input of the session; some come twice."""
        number = self.controllers
        self._handle(event, number)
        if self.random.random() < self.faults.repeated and isinstance(event, (Answered, Refused, ClockMeasured, Records, JournalComplete)):
            self.at(self.now + self.random.uniform(0.0, 20.0), lambda: self._handle(event, number))

    def _tick(self, number: int) -> None:
        if self.ended is not None or number != self.controllers:
            return
        self._ticks += 1
        if self.now >= self.asleep_until_s:
            renewed_s, beats = self.now + (self.plan.lease_s or 0.0), self._ticks % 5 == 0
            for agent, link in zip(self.agents, self.links, strict=True):
                if link.up and not link.mute and agent.supervised and not agent.frozen:
                    if link.renews_lease:
                        agent.lease_until_s = renewed_s
                    if beats and link.subscribed:
                        self._handle(Heartbeat(agent.name, self.now, agent.heartbeat()), number)
            self.invariants.time_passes()
            if self.faults.witness and self.session is not None and self.session.wants_witness and self.now >= self._next_witness_s:
                self._next_witness_s = self.now + 2.0
                self._handle(Witness(self.now >= self.off_until_s), number)
        self._handle(Tick(), number)
        self.at(self.now + 0.2, lambda: self._tick(number))

    def _handle(self, event: Input, number: int) -> None:
        if self.ended is not None or self.quit is not None or number != self.controllers or self.session is None:
            return
        if self.now < self.asleep_until_s or self._missed:
            if not isinstance(event, Tick):
                self._missed.append((event, number))
                if len(self._missed) == 1:
                    self.at(self.asleep_until_s, self._wake)
            return
        self._take_in(event)

    def _wake(self) -> None:
        """What came while the controller slept, in the order in which it came: links put their events into one queue."""
        if self.now < self.asleep_until_s:
            self.at(self.asleep_until_s, self._wake)
            return
        missed, self._missed = self._missed, []
        # Its own clock is the first thing that an awaking controller hears.
        self._handle(Tick(), self.controllers)
        for event, number in missed:
            self._handle(event, number)

    def _take_in(self, event: Input) -> None:
        assert self.session is not None
        if isinstance(event, Records):
            self.invariants.heard(event.records)
        self._carry_out_all(self.session.handle(event, self.now))
        if self.session is not None:
            self.invariants.hold()

    def _carry_out_all(self, effects: list[Effect]) -> None:
        for effect in effects:
            self.effects += 1
            for crash in self.faults.controller_crashes:
                if crash.effect == self.effects:
                    self._crash(crash)
                    return
            self._carry_out(effect)

    def _crash(self, crash: ControllerCrash) -> None:
        self.session = None  # type: ignore[assignment]
        for link in self.links:
            link.restart(power_cut=crash.power_cut)
        self.controllers += 1
        self.at(self.now + crash.for_s, lambda: self._resume(from_agents=crash.from_agents))

    def _rebuilt(self) -> list[Json]:
        """The log that a rebuilt directory has; its mirrors are fetched first."""
        created = [{"event": "run_created", "controller": "controller-1"}]
        for agent, link in zip(self.agents, self.links, strict=True):
            created.append({"event": "submit", "agent": agent.name})
            if agent.key and not agent.forgotten:
                created.append({"event": "submitted", "agent": agent.name, "epoch": f"epoch-{agent.index}"})
                link.fetch_anew()
            if agent.over:
                created.append({"event": "journal_complete", "agent": agent.name})
        return created + course_of(
            self.plan, {agent.name: list(agent.journal) for agent in self.agents}, [agent.name for agent in self.agents if agent.journal]
        )

    def _resume(self, *, from_agents: bool) -> None:
        self.controllers -= 1
        before = self.last_session
        self.session = self._new_session()
        self.invariants.resumed()
        if from_agents and not before.over and not any(agent.forgotten for agent in self.agents):
            self.history, self.rebuilt = self._rebuilt(), True
        events = list(self.history)
        self._log("run_resumed", controller=self.session.controller)
        self.last_session = self.session
        journals = {link.agent.name: list(link.mirror.records()) for link in self.links}
        self.invariants.told.clear()
        for records in journals.values():
            self.invariants.heard(records)
        effects = self.session.restore(events, journals, self.now)
        number = self.controllers
        self._carry_out_all(effects)
        if self.session is not None:
            self._connect_all()
            self._tick(number)

    def _carry_out(self, effect: Effect) -> None:
        assert self.ended is None, f"{effect} after the end"
        match effect:
            case Log():
                self._log(effect.event, **effect.fields)
            case Send():
                self.links[int(effect.agent.split("-")[1])].send(effect, effect.timeout_s)
            case MeasureClock():
                self.links[int(effect.agent.split("-")[1])].send(effect, 10.0)
            case Subscribe():
                self.links[int(effect.agent.split("-")[1])].subscribe()
            case EndLease():
                self.links[int(effect.agent.split("-")[1])].renews_lease = False
            case TryNow():
                pass  # when a host is back is up to the faults
            case Quit():
                self.quit = effect.error
            case End():
                self.ended = effect.reason

    def _log(self, event: str, **fields: Any) -> None:
        self.log.append((self.now, Log(event, fields)))
        self.history.append({"event": event, **fields})
        if self.links:
            self.invariants.logged(event, fields)

    def events(self, name: str) -> list[Json]:
        """The fields of the logged events of that name."""
        return [log.fields for _, log in self.log if log.event == name]


__all__ = ["Cut", "Faults", "SimAgent", "Tag", "World"]
