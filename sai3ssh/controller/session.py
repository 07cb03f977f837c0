"""The course of a run, as a pure function of what the links report: no I/O, no threads, no clock of its own.

`handle` takes an input and the time (seconds of the controller's own clock) and returns effects, to be carried out in order. A Log effect
is on disk before any effect after it is carried out: what the controller tells an agent is always justified by its own event log.

    CONNECTING -> READY -> ARMED -> COMMITTED -> RUNNING -> AT_BARRIER -> ARMED ... -> FINISHED, or STOPPED, FAILED, LOST

An agent enters a stage only after ARM (all acknowledge) and COMMIT. ARM alone starts nobody, so a missing acknowledgement costs no more
than a new round with a later start. A COMMIT is repeated until it is acknowledged, whatever becomes of the link meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import Permanent, Sai3sshError
from ..model import AgentState, Assignment, Outcome, Plan, StageKind
from .agentview import Agent
from .effects import (
    Answered,
    ClockMeasured,
    Effect,
    End,
    Input,
    Json,
    Log,
    MeasureClock,
    Refused,
    Send,
    StopRequested,
    Subscribe,
    Tag,
    Unanswered,
)
from .events import Heartbeat, JournalComplete, LinkDown, LinkFailed, LinkGivenUp, LinkUp, Records
from .policy import Decision, on_agent_gone

WAITING = (AgentState.READY, AgentState.AT_BARRIER, AgentState.ARMED)
LONGEST_START_DELAY_S = 60.0
REFUSAL_GRACE_S = 3.0


@dataclass(frozen=True)
class Options:
    """Deadlines in seconds. Those of agents count only while their links are up."""

    start_delay_s: float = 2.0
    """From ARM to the start; must cover an ARM and a COMMIT round trip to every agent, and is doubled when it does not."""
    ready_timeout_s: float = 120.0
    """From submit to READY."""
    request_timeout_s: float = 30.0
    """Of one submit, stop or forget; an agent may need 25 s to end its processes. Asked again until its own deadline."""
    ack_timeout_s: float = 10.0
    """Of one ARM or COMMIT."""
    release_timeout_s: float = 120.0
    """From all agents waiting at a barrier to all agents armed."""
    overrun_s: float = 60.0
    """For the end of a stage to be reported, after the time that its last operation can take."""
    stop_timeout_s: float = 65.0
    """For all agents to confirm that they have stopped."""
    collect_timeout_s: float = 120.0
    """Without a byte of a journal that is not whole yet."""


class Session:
    """One run. Not thread-safe."""

    def __init__(self, plan: Plan, assignments: Iterable[Assignment], controller: str, options: Options | None = None) -> None:
        self.plan = plan
        self.agents = {assignment.agent_id: Agent(assignment) for assignment in assignments}
        self.controller = controller
        self.stage = 0
        """Index of the stage that is being released or runs; the number of stages when all have ended."""
        self.stage_began = False
        self.round = 0
        self.abort_reason: str | None = None
        self.over = False
        self._options = options or Options()
        self._sequence = 0
        self._commit_logged = False
        self._committed_at_s = self._barrier_at_s = self._ended_at_s = self._abort_at_s = 0.0
        self._late_rounds = 0
        self._start_controller_ns = 0
        self._arm_deadline_s = 0.0
        self._now = 0.0
        self._effects: list[Effect] = []

    @property
    def never_started(self) -> bool:
        """Whether no agent can have begun to work: no COMMIT was ever sent."""
        return self.stage == 0 and not self._commit_logged

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
        if isinstance(event, StopRequested):
            self._log("stop_requested", reason=event.reason)
            self._abort(event.reason)
            return
        name = getattr(event, "agent", None)
        if name is None:
            return
        agent = self.agents[name]
        match event:
            case LinkUp():
                agent.up, agent.up_since_s = True, self._now
                down_s = round(event.down_s, 3)
                self._log("link_up", agent=name, attempt=event.attempt, down_s=down_s, resumed_offset=event.resumed_offset)
            case LinkDown():
                agent.up = False
                # Once all of its journal is here, the link has done its work.
                self._log("link_down", agent=name, cause=event.cause.message, level="info" if agent.complete else "warning")
            case LinkFailed():
                self._link_ended(agent, event.error, AgentState.FAILED)
            case LinkGivenUp():
                text = f"not reached for {event.down_s:.0f} s, {event.attempt} attempts; the last: {event.cause.message}"
                self._link_ended(agent, Permanent(text, host=name, remedy=event.cause.remedy), AgentState.LOST)
            case Heartbeat():
                if event.body.get("done") != agent.done:
                    agent.done, agent.progress_at_s = event.body.get("done", 0), self._now
            case Records():
                agent.heard_at_s = self._now
                for record in event.records:
                    self._record(agent, record)
            case JournalComplete():
                if not agent.complete:
                    agent.complete = True
                    self._log("journal_complete", agent=name, size=event.size, sha256=event.sha256, outcome=event.outcome.value)
            case Answered():
                self._answered(agent, event)
            case ClockMeasured():
                agent.asked.discard(event.tag)
                if event.tag.stage == self.stage and agent.offset is None:
                    agent.offset = event.offset
                    offset = event.offset
                    self._log("clock", agent=name, offset_ns=offset.offset_ns, error_ns=offset.error_ns, boot=offset.boot)
            case Refused():
                self._refused(agent, event)
            case Unanswered():
                agent.asked.discard(event.tag)
                if event.tag.purpose == "submit":
                    agent.submitting = False

    def _record(self, agent: Agent, record: Json) -> None:
        kind = record["kind"]
        if kind == "ready" and agent.state is AgentState.CONNECTING:
            self._become(agent, AgentState.READY)
        elif kind == "stage_start" and record["stage"] > agent.started:
            agent.started = record["stage"]
            agent.progress_at_s = self._now
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
        if agent.outcome is Outcome.FINISHED:
            self._become(agent, AgentState.FINISHED)
        elif agent.outcome is Outcome.FAILED:
            error = record.get("error") or {}
            self._agent_gone(agent, Permanent(str(error.get("message", agent.reason)), host=agent.name, remedy=error.get("remedy")))
        elif self.abort_reason is None:
            self._agent_gone(agent, Permanent(f"stopped by itself: {agent.reason}", host=agent.name))
        else:
            self._become(agent, AgentState.STOPPED, cause=agent.reason)

    def _answered(self, agent: Agent, event: Answered) -> None:
        agent.asked.discard(event.tag)
        agent.answered_at_s = self._now
        current = event.tag.stage == self.stage and event.tag.round == self.round
        match event.tag.purpose:
            case "submit":
                agent.submitting = False
                if agent.epoch is None:
                    agent.epoch = event.ok["epoch"]
                    self._log("submitted", agent=agent.name, epoch=agent.epoch)
                    self._effects.append(Subscribe(agent.name, event.ok["epoch"]))
            case "arm" if current and not self._commit_logged:
                agent.armed = True
                self._become(agent, AgentState.ARMED)
            case "commit" if current and self._commit_logged:
                agent.committed = True
                if agent.state is AgentState.ARMED:
                    self._become(agent, AgentState.COMMITTED)
            case "stop":
                agent.stopped = True
            case "forget":
                agent.forgotten = True

    def _refused(self, agent: Agent, event: Refused) -> None:
        agent.asked.discard(event.tag)
        match event.tag.purpose:
            case "submit":
                agent.submitting = False
                agent.stopped = agent.forgotten = True
                self._agent_gone(agent, event.error)
            case "stop" if agent.epoch is None:
                # The plan had not arrived after all.
                agent.stopped = agent.forgotten = True
            case "stop":
                agent.stop_refused = True
                self._log("stop_failed", agent=agent.name, error=str(event.error))
            case "forget":
                agent.forgotten = True
            case _:
                current = event.tag.stage == self.stage and event.tag.round == self.round
                if current and agent.refusal is None:
                    agent.refusal, agent.refused_at_s = event.error, self._now

    def _link_ended(self, agent: Agent, error: Sai3sshError, state: AgentState) -> None:
        agent.up = agent.reachable = False
        if not agent.complete:
            self._agent_gone(agent, error, state)

    def _agent_gone(self, agent: Agent, error: Sai3sshError, state: AgentState = AgentState.FAILED) -> None:
        agent.error = agent.error or error
        self._log("agent_lost" if state is AgentState.LOST else "agent_failed", agent=agent.name, error=str(error))
        self._become(agent, state, cause=error.message)
        # Before the start no policy is asked: none may hide a configuration error.
        if self.never_started or on_agent_gone() is Decision.ABORT:
            self._abort(f"{agent.name}: {error.message}")

    # --- course ----------------------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        if self.abort_reason is None:
            for agent in self.agents.values():
                self._submit(agent)
        self._explain_refusals()
        if self.abort_reason is None:
            self._advance_stage()
        if self.abort_reason is not None:
            self._wind_up()

    def _explain_refusals(self) -> None:
        """What a failed agent refuses is explained by its journal, which is on its way; only without that its refusal is the reason."""
        for agent in self.agents.values():
            refusal = agent.refusal
            if refusal is not None and agent.error is None and agent.overdue(self._now, agent.refused_at_s, REFUSAL_GRACE_S):
                self._agent_gone(agent, refusal)

    def _advance_stage(self) -> None:
        if self.stage < len(self.plan.stages) and all(agent.ended >= self.stage for agent in self.agents.values()):
            self._note_start()
            self._log("stage_ended", stage=self.stage, name=self.plan.stages[self.stage].name)
            self.stage += 1
            self.stage_began = self._commit_logged = False
            self.round = self._late_rounds = 0
            self._barrier_at_s = 0.0
            self._ended_at_s = self._now
            for agent in self.agents.values():
                agent.armed = agent.committed = False
                # No data is in flight at a barrier, so the clocks are measured there, afresh for every stage.
                agent.offset = None
        if self.stage == len(self.plan.stages):
            self._collect()
        elif self._commit_logged:
            self._watch_stage()
        elif all(agent.state in WAITING for agent in self.agents.values()):
            self._release()

    def _submit(self, agent: Agent) -> None:
        if agent.epoch is None and agent.up and not agent.submitting:
            if agent.submitted_at_s is None:
                agent.submitted_at_s = self._now
                self._log("submit", agent=agent.name)
            agent.submitting = True
            self._send(agent.name, {"cmd": "submit"}, Tag("submit"), self._options.request_timeout_s)
        timeout_s = self._options.ready_timeout_s
        since_s = agent.submitted_at_s
        if agent.state is AgentState.CONNECTING and since_s is not None and agent.overdue(self._now, since_s, timeout_s):
            text = f"not READY {timeout_s:.0f} s after the plan was submitted (agent_ready_timeout)"
            self._agent_gone(agent, Permanent(text, host=agent.name))

    def _release(self) -> None:
        agents = self.agents.values()
        self._barrier_at_s = self._barrier_at_s or self._now
        if not all(agent.up for agent in agents):
            return
        timeout_s = self._options.release_timeout_s
        all_up_since_s = max(agent.up_since_s for agent in agents)
        for agent in agents:
            missing = "an answer to pings" if agent.offset is None else "" if agent.armed or not self.round else "an acknowledgement of ARM"
            if missing and agent.overdue(self._now, max(self._barrier_at_s, all_up_since_s, agent.answered_at_s), timeout_s):
                text = f"stage {self.plan.stages[self.stage].name}: {missing} did not come within {timeout_s:.0f} s (round {self.round})"
                self._agent_gone(agent, Permanent(text, host=agent.name))
                return
        unmeasured = [agent for agent in agents if agent.offset is None]
        for agent in unmeasured:
            tag = Tag("clock", self.stage)
            if tag not in agent.asked:
                agent.asked.add(tag)
                self._effects.append(MeasureClock(agent.name, tag))
        if unmeasured:
            return
        armed = self.round > 0 and all(agent.armed for agent in agents)
        # A commit that comes after the start would start the agents one by one.
        in_time = self._now + self._start_delay_s / 4 < self._start_controller_ns / 1e9
        if armed and in_time:
            self._commit_logged, self._committed_at_s = True, self._now
            self._log("commit", stage=self.stage, round=self.round, start_controller_ns=self._start_controller_ns)
            self._watch_stage()
        elif armed:
            self._late_rounds += 1
            self._arm_round()
        elif self.round == 0 or self._now > self._arm_deadline_s:
            self._arm_round()

    @property
    def _start_delay_s(self) -> float:
        """Of the current round; grows while acknowledgements come too late for the start."""
        first_s = self._options.start_delay_s
        return float(min(first_s * 2**self._late_rounds, max(LONGEST_START_DELAY_S, first_s)))

    def _arm_round(self) -> None:
        """A new round with a later start. Acknowledgements of earlier rounds no longer count."""
        self.round += 1
        self._arm_deadline_s = self._now + max(self._options.ack_timeout_s, self._start_delay_s)
        self._start_controller_ns = int((self._now + self._start_delay_s) * 1e9)
        self._log("armed_round", stage=self.stage, round=self.round, start_controller_ns=self._start_controller_ns)
        for agent in self.agents.values():
            assert agent.offset is not None
            agent.armed = False
            host_ns = agent.offset.to_host_ns(self._start_controller_ns)
            self._ask(agent, "arm", {"start_clock_ns": host_ns, "boot": agent.offset.boot})

    def _ask(self, agent: Agent, verb: str, fields: Json) -> None:
        tag = Tag(verb, self.stage, self.round)
        if tag not in agent.asked and agent.refusal is None:
            agent.asked.add(tag)
            command = {"cmd": verb, "agent_id": agent.name, "stage": self.stage, "round": self.round, **fields}
            self._send(agent.name, command, tag, self._options.ack_timeout_s)

    def _watch_stage(self) -> None:
        """Repeats COMMIT to whom it has not reached, and knows how long the stage can last."""
        stage = self.plan.stages[self.stage]
        timed = stage.kind is StageKind.EXECUTE
        retry = self.plan.retry
        limit_s = self.plan.deadlines.total_s * (retry.max_retries + 1) + retry.max_delay_s * retry.max_retries + self._options.overrun_s
        limit_s += self._start_delay_s + (stage.duration_s or 0.0) if timed else self.plan.target_outage_timeout_s
        for agent in self.agents.values():
            if agent.started < self.stage and not agent.committed and agent.up:
                self._ask(agent, "commit", {})
            since_s = self._committed_at_s if timed else max(self._committed_at_s, agent.progress_at_s)
            if agent.ended < self.stage and agent.overdue(self._now, since_s, limit_s):
                text = f"no end {limit_s:.0f} s after its release" if timed else f"no object finished for {limit_s:.0f} s"
                self._agent_gone(agent, Permanent(f"stage {stage.name}: {text}", host=agent.name))
                return
        self._note_start()

    def _note_start(self) -> None:
        if not self.stage_began and all(agent.started >= self.stage for agent in self.agents.values()):
            self.stage_began = True
            self._log("stage_started", stage=self.stage, name=self.plan.stages[self.stage].name)

    def _collect(self) -> None:
        if all(agent.complete for agent in self.agents.values()):
            self._end("all stages ended")
        for agent in self.agents.values():
            since_s = max(self._ended_at_s, agent.heard_at_s)
            if not agent.complete and agent.overdue(self._now, since_s, self._options.collect_timeout_s):
                text = f"has ended its last stage, but its journal was not whole here {self._options.collect_timeout_s:.0f} s later"
                self._agent_gone(agent, Permanent(text, host=agent.name))
                return

    # --- end -------------------------------------------------------------------------------------------------------------------------

    def _abort(self, reason: str) -> None:
        if self.abort_reason is None:
            self.abort_reason = reason
            self._abort_at_s = self._now
            self._log("abort", reason=reason)

    def _wind_up(self) -> None:
        """Stops every agent that has the plan, collects what there is, and, when nothing had begun, removes what was left on the hosts."""
        pending = [agent for agent in self.agents.values() if not self._wound_up(agent)]
        if pending:
            return
        had_plan = [agent for agent in self.agents.values() if agent.submitted_at_s is not None]
        unconfirmed = [agent.name for agent in had_plan if not agent.stopped]
        uncollected = [agent.name for agent in had_plan if agent.stopped and agent.epoch is not None and not agent.complete]
        for name in unconfirmed:
            self._log("stop_unconfirmed", agent=name)
        for name in uncollected:
            self._log("not_collected", agent=name)
        reason = self.abort_reason or ""
        reason += f"; not confirmed as stopped: {', '.join(unconfirmed)}" if unconfirmed else ""
        self._end(reason + (f"; journal not collected: {', '.join(uncollected)}" if uncollected else ""))

    def _wound_up(self, agent: Agent) -> bool:
        """True when nothing more is to be done for an agent of an aborted run, or its time is over."""
        if agent.submitted_at_s is None or not agent.reachable or agent.stop_refused:
            return True
        stop_late = self._now > self._abort_at_s + self._options.stop_timeout_s
        all_late = self._now > self._abort_at_s + self._options.stop_timeout_s + self._options.collect_timeout_s
        if agent.submitting:
            return stop_late  # its answer, or its link's end, comes first
        if not agent.stopped:
            # Without an answer to submit nobody knows whether the agent has the plan: it is stopped all the same.
            if agent.up:
                self._last_ask(agent, "stop", {"reason": self.abort_reason})
            return stop_late
        if agent.epoch is not None and not agent.complete:
            return all_late or agent.overdue(self._now, max(self._abort_at_s, agent.heard_at_s), self._options.collect_timeout_s)
        if self.never_started and not agent.forgotten:
            if agent.up:
                self._last_ask(agent, "forget", {"run_id": self.plan.run_id})
            return all_late
        return True

    def _last_ask(self, agent: Agent, verb: str, fields: Json) -> None:
        tag = Tag(verb)
        if tag not in agent.asked:
            agent.asked.add(tag)
            self._send(agent.name, {"cmd": verb, "agent_id": agent.name, **fields}, tag, self._options.request_timeout_s)

    def _end(self, reason: str) -> None:
        self.over = True
        self._effects.append(End(reason))

    # --- helpers ---------------------------------------------------------------------------------------------------------------------

    def _become(self, agent: Agent, state: AgentState, cause: str = "") -> None:
        if agent.state is state or agent.state in (AgentState.STOPPED, AgentState.FAILED, AgentState.LOST):
            return
        previous, agent.state = agent.state, state
        fields = {"cause": cause} if cause else {}
        self._log("agent_state", agent=agent.name, state=state.value, previous=previous.value, **fields)

    def _log(self, event: str, **fields: Any) -> None:
        self._effects.append(Log(event, fields))

    def _send(self, agent: str, command: Json, tag: Tag, timeout_s: float) -> None:
        self._sequence += 1
        # submit must be the same command when it is repeated: agents know a run by the key that it was submitted with.
        sequence = 0 if tag.purpose == "submit" else self._sequence
        key = {"run_id": self.plan.run_id, "generation": 1, "controller": self.controller, "sequence": sequence}
        self._effects.append(Send(agent, {**command, "key": key}, tag, timeout_s))
