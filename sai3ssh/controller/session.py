"""The course of a run, as a pure function of what the links report: no I/O, no threads, no clock of its own.

`handle` takes an input and the time (seconds of the controller's own clock) and returns effects, to be carried out in order. A Log effect
is on
disk before any effect after it is carried out: what the controller tells an agent is always justified by its own event log.

    CONNECTING -> READY -> ARMED -> COMMITTED -> RUNNING -> AT_BARRIER -> ARMED ... -> FINISHED, or STOPPED, FAILED, LOST

An agent enters a stage only after ARM (all acknowledge) and COMMIT. ARM alone starts nobody, so a missing acknowledgement costs no more
than a new
round with a later start. A COMMIT is repeated until it is acknowledged, whatever becomes of the link meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import Permanent, Sai3sshError
from ..model import AgentState, Assignment, Outcome, Plan
from .clock import ClockOffset
from .events import Event, JournalComplete, LinkDown, LinkFailed, LinkGivenUp, LinkUp, Records

Json = dict[str, Any]


# --- effects ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """Append to the event log and sync."""

    event: str
    fields: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Send:
    """Send a command; its end comes back as Answered, Refused or Unanswered with the same `tag`. `submit` is completed with plan and
    credentials."""

    agent: str
    command: Json
    tag: Tag
    timeout_s: float


@dataclass(frozen=True)
class Subscribe:
    """Mirror the agent's journal from now on."""

    agent: str
    epoch: str


@dataclass(frozen=True)
class MeasureClock:
    """Measure the offset of the agent's clock; comes back as ClockMeasured, or as Unanswered."""

    agent: str
    tag: Tag


@dataclass(frozen=True)
class End:
    """The run is over; results can be written."""

    reason: str


Effect = Log | Send | Subscribe | MeasureClock | End


# --- inputs ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tag:
    """What a command was for."""

    purpose: str
    """submit, clock, arm, commit, stop or forget."""
    stage: int = -1
    round: int = 0


@dataclass(frozen=True)
class Answered:
    """An agent carried out a command."""

    agent: str
    tag: Tag
    ok: Json


@dataclass(frozen=True)
class Refused:
    """An agent refused a command."""

    agent: str
    tag: Tag
    error: Sai3sshError


@dataclass(frozen=True)
class Unanswered:
    """The link broke, or the deadline passed, before an answer. The command may have been carried out or not."""

    agent: str
    tag: Tag
    error: Sai3sshError


@dataclass(frozen=True)
class ClockMeasured:
    """The offset of an agent's clock."""

    agent: str
    tag: Tag
    offset: ClockOffset


@dataclass(frozen=True)
class StopRequested:
    """The operator wants the run to end."""

    reason: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Input = Event | Answered | Refused | Unanswered | ClockMeasured | StopRequested | Tick


@dataclass(frozen=True)
class Options:
    """Deadlines in seconds."""

    start_delay_s: float = 2.0
    """From ARM to the start; must cover an ARM and a COMMIT round trip to every agent."""
    ready_timeout_s: float = 120.0
    """From submit to READY."""
    ack_timeout_s: float = 10.0
    stop_timeout_s: float = 40.0
    """For all agents to confirm that they have stopped."""
    collect_timeout_s: float = 120.0
    """For the rest of a finished journal, once its link is up."""


@dataclass
class Agent:
    """The session's view of one agent."""

    assignment: Assignment
    state: AgentState = AgentState.CONNECTING
    up: bool = False
    ever_up: bool = False
    epoch: str | None = None
    """Answer of submit; None before."""
    submitting: bool = False
    submitted_at: float | None = None
    offset: ClockOffset | None = None
    asked: set[Tag] = field(default_factory=set)
    """Commands under way."""
    armed: bool = False
    committed: bool = False
    started: int = -1
    """Last stage that it has begun, and ended."""
    ended: int = -1
    outcome: Outcome | None = None
    reason: str = ""
    error: Sai3sshError | None = None
    finished_at: float | None = None
    complete: bool = False
    """The mirror is the whole journal."""
    stopped: bool = False
    """The agent has confirmed a stop, or has ended by itself."""
    forgotten: bool = False
    reachable: bool = True
    """False once the link is given up for good."""

    @property
    def gone(self) -> bool:
        """Whether nothing more is to be expected of it."""
        return not self.reachable or self.complete


class Session:
    """One run. Not thread-safe."""

    def __init__(self, plan: Plan, assignments: Iterable[Assignment], controller: str, options: Options | None = None) -> None:
        self.plan = plan
        self.agents = {assignment.agent_id: Agent(assignment) for assignment in assignments}
        self.stage = 0
        """Index of the stage that is being released or runs."""
        self.stage_began = False
        self.round = 0
        self.abort_reason: str | None = None
        self.over = False
        self._options = options or Options()
        self._controller = controller
        self._sequence = 0
        self._commit_logged = False
        self._start_controller_ns = 0
        self._arm_deadline = 0.0
        self._clocks_for = -1
        self._abort_deadline = 0.0
        self._now = 0.0
        self._effects: list[Effect] = []

    # --- inputs ----------------------------------------------------------------------------------------------------------------------

    def handle(self, event: Input, now_s: float) -> list[Effect]:
        """The effects of an input. Inputs that repeat or come too late have none."""
        self._now = now_s
        self._effects = []
        if not self.over:
            self._dispatch(event)
            self._advance()
        return self._effects

    def _dispatch(self, event: Input) -> None:
        match event:
            case LinkUp():
                self._link_up(self.agents[event.agent], event)
            case LinkDown():
                agent = self.agents[event.agent]
                agent.up = False
                # Once all of its journal is here, the link has done its work.
                self._log("link_down", agent=event.agent, cause=event.cause.message, level="info" if agent.complete else "warning")
            case LinkFailed():
                self._agent_gone(event.agent, event.error, AgentState.FAILED)
            case LinkGivenUp():
                error = Permanent(
                    f"not reached for {event.down_s:.0f} s, {event.attempt} attempts; the last: {event.cause.message}",
                    host=event.agent,
                    remedy=event.cause.remedy,
                )
                self._agent_gone(event.agent, error, AgentState.LOST)
            case Records():
                for record in event.records:
                    self._record(self.agents[event.agent], record)
            case JournalComplete():
                self._complete(self.agents[event.agent], event)
            case Answered():
                self._answered(self.agents[event.agent], event)
            case ClockMeasured():
                agent = self.agents[event.agent]
                agent.asked.discard(event.tag)
                agent.offset = event.offset
                self._log(
                    "clock", agent=event.agent, offset_ns=event.offset.offset_ns, error_ns=event.offset.error_ns, boot=event.offset.boot
                )
            case Refused():
                self._refused(self.agents[event.agent], event)
            case Unanswered():
                self._unanswered(self.agents[event.agent], event)
            case StopRequested():
                self._log("stop_requested", reason=event.reason)
                self._abort(event.reason)
            case _:
                pass

    def _link_up(self, agent: Agent, event: LinkUp) -> None:
        agent.up = agent.ever_up = True
        self._log("link_up", agent=event.agent, attempt=event.attempt, down_s=round(event.down_s, 3), resumed_offset=event.resumed_offset)

    def _record(self, agent: Agent, record: Json) -> None:
        kind = record["kind"]
        if kind == "ready":
            self._become(agent, AgentState.READY)
        elif kind == "stage_start" and record["stage"] > agent.started:
            agent.started = record["stage"]
            self._become(agent, AgentState.RUNNING)
        elif kind == "stage_end" and record["outcome"] == Outcome.FINISHED.value and record["stage"] > agent.ended:
            agent.ended = record["stage"]
            self._become(agent, AgentState.AT_BARRIER)
        elif kind == "final" and agent.outcome is None:
            self._final(agent, record)

    def _final(self, agent: Agent, record: Json) -> None:
        agent.outcome = Outcome(record["outcome"])
        agent.reason = record["reason"]
        agent.stopped = True
        agent.finished_at = self._now
        name = agent.assignment.agent_id
        if agent.outcome is Outcome.FINISHED:
            self._become(agent, AgentState.FINISHED)
        elif agent.outcome is Outcome.FAILED:
            error = record.get("error") or {}
            self._agent_failed(agent, Permanent(str(error.get("message", agent.reason)), host=name, remedy=error.get("remedy")))
        elif self.abort_reason is None:
            self._agent_failed(agent, Permanent(f"stopped by itself: {agent.reason}", host=name))
        else:
            self._become(agent, AgentState.STOPPED, cause=agent.reason)

    def _complete(self, agent: Agent, event: JournalComplete) -> None:
        if not agent.complete:
            agent.complete = True
            self._log("journal_complete", agent=event.agent, size=event.size, sha256=event.sha256, outcome=event.outcome.value)

    def _answered(self, agent: Agent, event: Answered) -> None:
        agent.asked.discard(event.tag)
        purpose = event.tag.purpose
        if purpose == "submit":
            agent.submitting = False
            agent.epoch = event.ok["epoch"]
            self._effects.append(Subscribe(event.agent, event.ok["epoch"]))
        elif purpose == "arm" and event.tag.stage == self.stage and event.tag.round == self.round:
            agent.armed = True
            self._become(agent, AgentState.ARMED)
        elif purpose == "commit" and event.tag.stage == self.stage:
            agent.committed = True
            if agent.state is AgentState.ARMED:
                self._become(agent, AgentState.COMMITTED)
        elif purpose == "stop":
            agent.stopped = True
            agent.finished_at = agent.finished_at or self._now
        elif purpose == "forget":
            agent.forgotten = True

    def _refused(self, agent: Agent, event: Refused) -> None:
        agent.asked.discard(event.tag)
        if event.tag.purpose == "forget":
            agent.forgotten = True
        elif event.tag.purpose == "stop":
            agent.stopped = True
            self._log("stop_failed", agent=event.agent, error=str(event.error))
        elif agent.outcome is None and (event.tag.purpose == "submit" or (event.tag.stage == self.stage and agent.started < self.stage)):
            # What a finished or failed agent refuses is explained by its journal, which is on its way.
            self._agent_failed(agent, event.error)

    def _unanswered(self, agent: Agent, event: Unanswered) -> None:
        agent.asked.discard(event.tag)
        if event.tag.purpose == "submit":
            agent.submitting = False

    def _agent_gone(self, name: str, error: Sai3sshError, state: AgentState) -> None:
        agent = self.agents[name]
        agent.up = agent.reachable = False
        if not agent.complete:
            agent.error = agent.error or error
            self._log("agent_lost" if state is AgentState.LOST else "agent_failed", agent=name, error=str(error))
            self._become(agent, state, cause=error.message)
            self._abort(f"{name}: {error.message}")

    def _agent_failed(self, agent: Agent, error: Sai3sshError) -> None:
        name = agent.assignment.agent_id
        agent.error = agent.error or error
        self._log("agent_failed", agent=name, error=str(error))
        self._become(agent, AgentState.FAILED, cause=error.message)
        self._abort(f"{name}: {error.message}")

    # --- course ----------------------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        for agent in self.agents.values():
            self._submit(agent)
        if self.abort_reason is not None:
            self._advance_abort()
            return
        if all(agent.ended >= self.stage for agent in self.agents.values()) and self.stage < len(self.plan.stages):
            self._log("stage_ended", stage=self.stage, name=self.plan.stages[self.stage].name)
            self.stage += 1
            self.stage_began = self._commit_logged = False
            self.round = 0
            for agent in self.agents.values():
                agent.armed = agent.committed = False
        if self.stage < len(self.plan.stages):
            self._release()
        elif all(agent.complete for agent in self.agents.values()):
            self._end("all stages ended")
        else:
            self._check_collection()

    def _submit(self, agent: Agent) -> None:
        name = agent.assignment.agent_id
        if agent.epoch is None and agent.up and not agent.submitting and self.abort_reason is None:
            if agent.submitted_at is None:
                agent.submitted_at = self._now
                self._log("submit", agent=name)
            agent.submitting = True
            self._send(name, {"cmd": "submit"}, Tag("submit"), self._options.ready_timeout_s)
        waited_s = self._now - (agent.submitted_at if agent.submitted_at is not None else self._now)
        if agent.state is AgentState.CONNECTING and waited_s > self._options.ready_timeout_s and self.abort_reason is None:
            error = Permanent(f"not READY {waited_s:.0f} s after the plan was submitted (agent_ready_timeout)", host=name)
            self._agent_failed(agent, error)

    def _release(self) -> None:
        if not self._commit_logged:
            waiting = (AgentState.READY, AgentState.AT_BARRIER, AgentState.ARMED)
            if all(agent.state in waiting for agent in self.agents.values()):
                self._arm()
            return
        for name, agent in self.agents.items():
            if not agent.committed and agent.up and agent.started < self.stage:
                self._ask(name, agent, "commit", {})
        if not self.stage_began and all(agent.started >= self.stage for agent in self.agents.values()):
            self.stage_began = True
            self._log("stage_started", stage=self.stage, name=self.plan.stages[self.stage].name)

    def _arm(self) -> None:
        if any(not agent.up for agent in self.agents.values()):
            return
        if self._clocks_for != self.stage:
            # No data is in flight at a barrier, so the clocks are measured there, afresh for every stage.
            self._clocks_for = self.stage
            for agent in self.agents.values():
                agent.offset = None
        unmeasured = [name for name, agent in self.agents.items() if agent.offset is None]
        if unmeasured:
            for name in unmeasured:
                tag = Tag("clock", self.stage)
                if tag not in self.agents[name].asked:
                    self.agents[name].asked.add(tag)
                    self._effects.append(MeasureClock(name, tag))
            return
        if self.round and all(agent.armed for agent in self.agents.values()):
            self._commit_logged = True
            self._log("commit", stage=self.stage, round=self.round, start_controller_ns=self._start_controller_ns)
            self._release()
        elif self.round == 0 or self._now > self._arm_deadline:
            self._arm_round()

    def _arm_round(self) -> None:
        """A new round with a later start. Acknowledgements of earlier rounds no longer count."""
        self.round += 1
        start_s = self._now + self._options.start_delay_s
        self._arm_deadline = self._now + max(self._options.ack_timeout_s, self._options.start_delay_s)
        self._start_controller_ns = int(start_s * 1e9)
        self._log("armed_round", stage=self.stage, round=self.round, start_controller_ns=self._start_controller_ns)
        for name, agent in self.agents.items():
            assert agent.offset is not None
            agent.armed = False
            host_ns = agent.offset.to_host_ns(self._start_controller_ns)
            self._ask(name, agent, "arm", {"start_clock_ns": host_ns, "boot": agent.offset.boot})

    def _ask(self, name: str, agent: Agent, verb: str, fields: Json) -> None:
        tag = Tag(verb, self.stage, self.round)
        if tag not in agent.asked:
            agent.asked.add(tag)
            command = {"cmd": verb, "agent_id": name, "stage": self.stage, "round": self.round, **fields}
            self._send(name, command, tag, self._options.ack_timeout_s)

    def _check_collection(self) -> None:
        for name, agent in self.agents.items():
            if (
                agent.finished_at is not None
                and not agent.complete
                and self._now - agent.finished_at > self._options.collect_timeout_s
                and agent.up
            ):
                error = Permanent(
                    f"has finished, but its journal was not whole here {self._options.collect_timeout_s:.0f} s later", host=name
                )
                self._agent_failed(agent, error)
                return

    # --- end -------------------------------------------------------------------------------------------------------------------------

    def _abort(self, reason: str) -> None:
        if self.abort_reason is None:
            self.abort_reason = reason
            self._abort_deadline = self._now + self._options.stop_timeout_s
            self._log("abort", reason=reason)

    @property
    def never_started(self) -> bool:
        """Whether no agent can have begun to work: no COMMIT was ever sent."""
        return self.stage == 0 and not self._commit_logged

    def _advance_abort(self) -> None:
        """Stops every agent that has the plan, collects what there is, and, when nothing had begun, removes what was left on the hosts."""
        pending = []
        for name, agent in self.agents.items():
            if agent.epoch is None and not agent.submitting:
                continue
            if not self._wind_up(name, agent):
                pending.append(name)
        if not pending:
            self._end(self.abort_reason or "")
        elif self._now > self._abort_deadline:
            for name in pending:
                self._log("stop_unconfirmed", agent=name)
            self._end(f"{self.abort_reason}; not confirmed as stopped: {', '.join(pending)}")

    def _wind_up(self, name: str, agent: Agent) -> bool:
        """True when nothing more is to be done for an agent of an aborted run."""
        if not agent.reachable:
            return agent.stopped
        if agent.submitting:
            return False  # its answer, or its link's end, comes first
        if not agent.stopped:
            if agent.up:
                self._final_ask(name, agent, "stop", {"reason": self.abort_reason})
            return False
        if not agent.complete:
            return False
        if self.never_started and not agent.forgotten:
            if agent.up:
                self._final_ask(name, agent, "forget", {"run_id": self.plan.run_id})
            return False
        return True

    def _final_ask(self, name: str, agent: Agent, verb: str, fields: Json) -> None:
        tag = Tag(verb)
        if tag not in agent.asked:
            agent.asked.add(tag)
            self._send(name, {"cmd": verb, "agent_id": name, **fields}, tag, self._options.stop_timeout_s)

    def _end(self, reason: str) -> None:
        self.over = True
        self._effects.append(End(reason))

    # --- helpers ---------------------------------------------------------------------------------------------------------------------

    def _become(self, agent: Agent, state: AgentState, cause: str = "") -> None:
        if agent.state is state or agent.state in (AgentState.STOPPED, AgentState.FAILED, AgentState.LOST):
            return
        previous, agent.state = agent.state, state
        fields = {"cause": cause} if cause else {}
        self._log("agent_state", agent=agent.assignment.agent_id, state=state.value, previous=previous.value, **fields)

    def _log(self, event: str, **fields: Any) -> None:
        self._effects.append(Log(event, fields))

    def _send(self, agent: str, command: Json, tag: Tag, timeout_s: float) -> None:
        self._sequence += 1
        # submit must be the same command when it is repeated: agents know a run by the key that it was submitted with.
        sequence = 0 if tag.purpose == "submit" else self._sequence
        key = {"run_id": self.plan.run_id, "generation": 1, "controller": self._controller, "sequence": sequence}
        self._effects.append(Send(agent, {**command, "key": key}, tag, timeout_s))
