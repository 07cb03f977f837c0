"""Agents, links and a clock that exist only in memory, around the real session and the agent's real release."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sai3ssh.agent.release import Release
from sai3ssh.controller.clock import ClockOffset
from sai3ssh.controller.effects import (
    Answered,
    ClockMeasured,
    Effect,
    End,
    Input,
    Log,
    MeasureClock,
    Refused,
    Send,
    StopRequested,
    Subscribe,
    Tag,
    Tick,
    Unanswered,
)
from sai3ssh.controller.events import Heartbeat, JournalComplete, LinkDown, LinkUp, Records
from sai3ssh.controller.session import Options, Session
from sai3ssh.errors import AgentError, LinkLost, Sai3sshError, Transient
from sai3ssh.model import (
    Assignment,
    FailurePolicy,
    Intervals,
    Outcome,
    Plan,
    Population,
    SizeSpec,
    Stage,
    StageKind,
    Target,
    share,
)

Json = dict[str, Any]
CLOCK_ERROR_NS = 2_000_000
RECONNECT_TIMEOUT_S = 60.0
OBJECTS = 1000


def plan(durations: list[float], policy: FailurePolicy) -> Plan:
    """A prepare of OBJECTS objects, execute stages of these lengths, a cleanup."""
    stages = [Stage("prepare", StageKind.PREPARE, 4, populations=("p",))]
    stages += [Stage(f"mix-{i}", StageKind.EXECUTE, 4, duration_s=s) for i, s in enumerate(durations)]
    stages.append(Stage("cleanup", StageKind.CLEANUP, 4, populations=("p",)))
    populations = (Population("p", "s3://b/", "%d", OBJECTS, SizeSpec("fixed", 1, 1), 1),)
    lease_s = policy.reconnect_timeout_s if policy.survives else None
    return Plan("sim-1", "sim", Target("s3"), populations, tuple(stages), policy=policy, lease_s=lease_s)


@dataclass
class Cut:
    """A link that breaks at a time, for a time."""

    agent: int
    at_s: float
    for_s: float


@dataclass
class Faults:
    """What goes wrong in a world, drawn by the test."""

    seed: int = 0
    cuts: list[Cut] = field(default_factory=list)
    longest_delay_s: float = 0.3
    lost_answers: float = 0.0
    """Share of answers, but those to stop and forget, that never come although the link stays up."""
    repeated: float = 0.0
    """Share of inputs that come twice, the second time late."""
    failure: tuple[int, float] | None = None
    """An agent fails at that time."""
    frozen: tuple[int, float] | None = None
    """An agent answers nothing and does nothing from that time on, but its link is up."""
    refuses_submit: int | None = None
    stop_at_s: float | None = None


class SimAgent:
    """One host: what the real daemon and supervisor do with commands, without the load."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.name = f"agent-{index}"
        self.offset_ns = world.random.randrange(10**15)
        self.journal: list[Json] = []
        self.state = "NONE"
        self.release: Release | None = None
        self.running: int | None = None
        self.starts: list[tuple[int, float]] = []
        self.commits: dict[int, tuple[float, int]] = {}
        self.forgotten = False
        self.owned = Intervals([share(OBJECTS, index, world.count)])
        self.done: dict[int, Intervals] = {}
        self.gifts: set[int] = set()
        self.refuses = world.faults.refuses_submit == index
        self.frozen = False

    @property
    def over(self) -> bool:
        """Whether its journal has a final record."""
        return bool(self.journal) and self.journal[-1]["kind"] == "final"

    def command(self, command: Json) -> Json:
        """What the agent answers; raises Sai3sshError."""
        verb = command["cmd"]
        if verb == "submit":
            return self._submit(command)
        if self.release is None or self.forgotten:
            raise AgentError(f"no run of agent {self.name}")
        if verb == "arm":
            self.release.arm(command, self.state)
            if self.state != "COMMITTED" and self.running is None:
                self.state = "ARMED"
            return {"armed": command["round"]}
        if verb == "commit":
            if self.release.commit(command):
                self.world.check_commit_is_logged(command)
                self.state = "COMMITTED"
                self.commits[command["stage"]] = (self.world.now, self.release.start_clock_ns)
                at_s = (self.release.start_clock_ns - self.offset_ns) / 1e9
                self.world.at(max(self.world.now, at_s), lambda: self._start(command["stage"]))
            return {"committed": command["round"]}
        if verb == "adopt":
            return self._adopt(command)
        if verb == "finish":
            assert self.release.stage == len(self.world.plan.stages), f"{self.name}: finish before its last stage has ended"
            self.end(Outcome.FINISHED, "all stages ended")
            return {}
        if verb == "stop":
            self.end(Outcome.STOPPED, command["reason"])
            return {"outcome": self.journal[-1]["outcome"]}
        assert verb == "forget", verb
        assert self.over, f"{self.name}: forget of a run in progress"
        self.forgotten = True
        return {}

    def _adopt(self, command: Json) -> Json:
        assert self.release is not None
        self.release.check_key(command)
        if command["number"] not in self.gifts:
            if self.state not in ("READY", "AT_BARRIER", "ARMED"):
                raise Transient(f"{self.name} is {self.state}")
            self.gifts.add(command["number"])
            self._add(self.owned, command["ranges"].get("p", []))
            self._add(self.done.setdefault(command["stage"], Intervals()), command["done"].get("p", []))
            self.release.reopen(command["stage"])
            self.state = "AT_BARRIER" if self.release.stage else "READY"
            self.append("adopted", number=command["number"])
        return {"adopted": command["number"]}

    @staticmethod
    def _add(to: Intervals, pieces: list[list[int]]) -> None:
        for lo, hi in pieces:
            to.add(lo, hi)

    def _work(self, stage: int, share_of_it: float) -> None:
        """Some of what is left to do of a prepare or cleanup is done, and is in the ledger."""
        if self.over or self.frozen or self.running != stage or self.world.plan.stages[stage].kind is StageKind.EXECUTE:
            return
        done = self.done.setdefault(stage, Intervals())
        left = self.owned.subtract(done)
        pieces = [[lo, lo + int((hi - lo) * share_of_it)] for lo, hi in left]
        self._add(done, pieces)
        self.append("ledger", stage=stage, population="p", ranges=[piece for piece in pieces if piece[0] < piece[1]])

    def _submit(self, command: Json) -> Json:
        if self.refuses:
            raise AgentError("no space left on device", host=self.name)
        if self.release is None:
            self.release = Release(command["key"], len(self.world.plan.stages), "boot-1")
            self.state = "STARTING"
            self.append("epoch")
            self.world.at(self.world.now + self.world.random.uniform(0.1, 3.0), self._ready)
        return {"epoch": f"epoch-{self.index}"}

    def _ready(self) -> None:
        if not self.over and not self.frozen:
            self.state = "READY"
            self.append("ready")

    def _start(self, stage: int) -> None:
        if self.over or self.frozen:
            return
        assert self.release is not None
        self.world.check_start(self, stage)
        self.running, self.state = stage, "RUNNING"
        self.starts.append((stage, self.world.now))
        self.append("stage_start", stage=stage, round=self.release.round)
        length_s = self.world.plan.stages[stage].duration_s or self.world.random.uniform(0.0, 40.0)
        self.world.at(self.world.now + length_s / 2, lambda: self._work(stage, 0.5))
        self.world.at(self.world.now + length_s, lambda: self._end_stage(stage))

    def _end_stage(self, stage: int) -> None:
        if self.over or self.frozen:
            return
        self._work(stage, 1.0)
        assert self.release is not None
        self.running = None
        self.append("stage_end", stage=stage, round=self.release.round, outcome="finished")
        self.release.stage_ended()
        self.state = "AT_BARRIER"
        if stage + 1 == len(self.world.plan.stages) and not self.world.plan.lingers:
            self.end(Outcome.FINISHED, "all stages ended")

    def end(self, outcome: Outcome, reason: str) -> None:
        """Writes the final record, once."""
        if not self.over and self.release is not None:
            self.running, self.state = None, outcome.name
            error = {"type": "AgentError", "message": reason} if outcome is Outcome.FAILED else None
            self.append("final", outcome=outcome.value, reason=reason, error=error)

    def append(self, kind: str, **fields: Any) -> None:
        """A record, which the link delivers when it can."""
        self.journal.append({"seq": len(self.journal), "kind": kind, **fields})
        self.world.links[self.index].flush()


class SimLink:
    """One link: loses commands and answers when it is cut, never records."""

    def __init__(self, world: World, agent: SimAgent) -> None:
        self.world = world
        self.agent = agent
        self.up = self.subscribed = self.ended = False
        self.connection = 0
        self.up_since_s = 0.0
        self.mirrored = 0
        self.waiting: dict[int, Send | MeasureClock] = {}
        self._ids: Iterator[int] = iter(range(10**9))

    def connect(self, down_s: float) -> None:
        """The link is (back) up."""
        if not self.ended:
            self.up, self.up_since_s = True, self.world.now
            self.connection += 1
            self.world.put(LinkUp(self.agent.name, self.world.now, 1, down_s, self.mirrored, {}))
            self.flush()

    def cut(self, for_s: float) -> None:
        """The link breaks, and what was under way with it."""
        if not self.up or self.ended:
            return
        self.up = False
        for effect in self.waiting.values():
            self.world.put(Unanswered(effect.agent, effect.tag, LinkLost("cut")))
        self.waiting.clear()
        self.world.put(LinkDown(self.agent.name, self.world.now, LinkLost("cut")))
        self.world.at(self.world.now + for_s, lambda: self.connect(for_s))

    def send(self, effect: Send | MeasureClock, timeout_s: float) -> None:
        """A command on its way, or a series of pings."""
        if not self.up:
            self.world.later(lambda: self.world.put(Unanswered(effect.agent, effect.tag, LinkLost("the link is down"))))
            return
        number = next(self._ids)
        self.waiting[number] = effect
        self.world.at(self.world.now + timeout_s, lambda: self._timeout(number))
        # Bytes that have left reach the agent even when the link breaks behind them.
        if self.world.random.random() < 0.9:
            self.world.later(lambda: self._arrive(number, effect, self.connection))
        else:
            connection = self.connection
            self.world.later(lambda: self._arrive(number, effect, connection) if connection == self.connection and self.up else None)

    def _timeout(self, number: int) -> None:
        effect = self.waiting.pop(number, None)
        if effect is not None:
            self.world.put(Unanswered(effect.agent, effect.tag, LinkLost("no answer")))

    def _arrive(self, number: int, effect: Send | MeasureClock, connection: int) -> None:
        if self.agent.frozen:
            return
        answer: Input
        if isinstance(effect, MeasureClock):
            error_ns = self.world.random.randint(-CLOCK_ERROR_NS, CLOCK_ERROR_NS)
            offset = ClockOffset(self.agent.offset_ns + error_ns, CLOCK_ERROR_NS, "boot-1", int(self.world.now * 1e9))
            answer = ClockMeasured(effect.agent, effect.tag, offset)
        else:
            try:
                answer = Answered(effect.agent, effect.tag, self.agent.command(effect.command))
            except Sai3sshError as error:
                answer = Refused(effect.agent, effect.tag, error)
        if effect.tag.purpose in ("stop", "forget") or self.world.random.random() >= self.world.faults.lost_answers:
            self.world.later(lambda: self._answer(number, answer))

    def _answer(self, number: int, answer: Input) -> None:
        if self.waiting.pop(number, None) is not None:
            self.world.put(answer)

    def subscribe(self) -> None:
        """The journal flows from now on."""
        self.subscribed = True
        self.flush()

    def flush(self) -> None:
        """Sends what the mirror does not have."""
        connection = self.connection
        self.world.later(lambda: self._deliver(connection))

    def _deliver(self, connection: int) -> None:
        journal = self.agent.journal
        if self.up and self.subscribed and connection == self.connection and self.mirrored < len(journal):
            records, self.mirrored = tuple(journal[self.mirrored :]), len(journal)
            self.world.put(Records(self.agent.name, self.world.now, records))
            if self.agent.over:
                outcome = Outcome(journal[-1]["outcome"])
                self.world.put(JournalComplete(self.agent.name, self.world.now, len(journal), "0" * 64, outcome))


class World:
    """A run of the real session among simulated agents; `run` returns when the session has ended."""

    def __init__(
        self,
        faults: Faults,
        agents: int = 4,
        durations: list[float] | None = None,
        options: Options | None = None,
        policy: FailurePolicy | None = None,
    ) -> None:
        self.faults = faults
        self.count = agents
        self.random = random.Random(faults.seed)
        self.now = 1000.0
        policy = policy or FailurePolicy(reconnect_timeout_s=RECONNECT_TIMEOUT_S)
        self.plan = plan([5.0] if durations is None else durations, policy)
        assignments = [Assignment(f"agent-{i}", i, agents, {"p": (share(OBJECTS, i, agents),)}) for i in range(agents)]
        self.session = Session(self.plan, assignments, "controller-1", options, self.random.random)
        self.log: list[tuple[float, Log]] = []
        self.ended: str | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.links: list[SimLink] = []
        self.agents = [SimAgent(self, i) for i in range(agents)]
        self.links = [SimLink(self, agent) for agent in self.agents]
        for link in self.links:
            self.at(self.now + self.random.uniform(0.0, 2.0), lambda link=link: link.connect(0.0))  # type: ignore[misc]
        for cut in faults.cuts:
            link = self.links[cut.agent % agents]
            self.at(self.now + cut.at_s, lambda link=link, cut=cut: link.cut(cut.for_s))  # type: ignore[misc]
        if faults.failure is not None:
            failing = self.agents[faults.failure[0] % agents]
            self.at(self.now + faults.failure[1], lambda: failing.end(Outcome.FAILED, "worker 0 was killed"))
        if faults.frozen is not None:
            freezing = self.agents[faults.frozen[0] % agents]
            self.at(self.now + faults.frozen[1], lambda: setattr(freezing, "frozen", True))
        if faults.stop_at_s is not None:
            self.at(self.now + faults.stop_at_s, lambda: self.put(StopRequested("interrupted")))

    def run(self, limit_s: float) -> None:
        """Until the session ends; fails when that takes more than limit_s of its time."""
        deadline = self.now + limit_s
        self._tick()
        while self.ended is None:
            self.now, _, action = heapq.heappop(self._events)
            assert self.now < deadline, f"not ended after {limit_s:.0f} s; {[(a.name, a.state) for a in self.agents]}"
            action()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Does something at a time."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action))

    def later(self, action: Callable[[], None]) -> None:
        """Does something after a network delay."""
        self.at(self.now + self.random.uniform(0.0005, self.faults.longest_delay_s), action)

    def put(self, event: Input) -> None:
        """An input of the session; some come twice."""
        self._handle(event)
        if self.random.random() < self.faults.repeated and isinstance(event, (Answered, Refused, ClockMeasured, Records, JournalComplete)):
            self.at(self.now + self.random.uniform(0.0, 20.0), lambda: self._handle(event))

    def _tick(self) -> None:
        for agent, link in zip(self.agents, self.links, strict=True):
            if agent.running is not None and link.up and link.subscribed and not agent.frozen:
                self._handle(Heartbeat(agent.name, self.now, {"done": int(self.now)}))
        self._handle(Tick())
        if self.ended is None:
            self.at(self.now + 0.2, self._tick)

    def _handle(self, event: Input) -> None:
        if self.ended is None:
            for effect in self.session.handle(event, self.now):
                self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        assert self.ended is None, f"{effect} after the end"
        match effect:
            case Log():
                self.log.append((self.now, effect))
            case Send():
                self.links[int(effect.agent.split("-")[1])].send(effect, effect.timeout_s)
            case MeasureClock():
                self.links[int(effect.agent.split("-")[1])].send(effect, 10.0)
            case Subscribe():
                self.links[int(effect.agent.split("-")[1])].subscribe()
            case End():
                self.ended = effect.reason

    # --- what must always hold ---------------------------------------------------------------------------------------------------------

    def events(self, name: str) -> list[Json]:
        """The fields of the logged events of that name."""
        return [log.fields for _, log in self.log if log.event == name]

    def check_commit_is_logged(self, command: Json) -> None:
        """No commit reaches an agent before it is in the controller's log."""
        logged = [(e["stage"], e["round"]) for e in self.events("commit")]
        assert (command["stage"], command["round"]) in logged, f"commit of stage {command['stage']} was not logged"

    def check_start(self, agent: SimAgent, stage: int) -> None:
        """All agents have ended the stage before; nobody runs another one; the order is right."""
        if self.session.agents[agent.name].out:
            return  # it was released while it still counted
        assert sorted({s for s, _ in agent.starts}) in (list(range(stage)), list(range(stage + 1))), (
            f"{agent.name}: {stage}, {agent.starts}"
        )
        passes = 1 + len([e for e in self.events("stage_opened_again") if e["stage"] == stage])
        assert len([e for e in self.events("commit") if e["stage"] == stage]) == passes
        for other in self.agents:
            if self.session.agents[other.name].out:
                continue
            assert other.running in (None, stage), f"{agent.name} enters {stage} while {other.name} runs {other.running}"
            ends = [r["stage"] for r in other.journal if r["kind"] == "stage_end"]
            assert stage == 0 or stage - 1 in ends, f"{agent.name} enters {stage}, {other.name} has not ended {stage - 1}"

    def spread_s(self, stage: int) -> float:
        """How far apart the agents began a stage whose commit had reached all of them in time."""
        times = [dict(agent.starts)[stage] for agent in self.agents]
        return max(times) - min(times)


__all__ = ["Cut", "Faults", "SimAgent", "Tag", "World"]
