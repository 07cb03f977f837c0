"""The course of a run, as a pure function of what the links report: no I/O, no threads, no clock of its own.

`handle` takes an input and the time (seconds of the controller's own clock) and returns effects, to be carried out in order. A Log effect
is on disk before any effect after it is carried out: what the controller tells an agent is always justified by its own event log.

    CONNECTING -> READY -> ARMED -> COMMITTED -> RUNNING -> AT_BARRIER -> ARMED ... -> FINISHED, or STOPPED, FAILED, LOST

An agent enters a stage only after ARM (all acknowledge) and COMMIT. ARM alone starts nobody, so a missing acknowledgement costs no more
than a new round with a later start. A COMMIT is repeated until it is acknowledged, whatever becomes of the link meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import JournalLost, LinkLost, Permanent, Sai3sshError, Superseded
from ..model import AgentState, Assignment, Outcome, Plan, StageKind
from .agentview import Agent
from .course import Course
from .effects import (
    Answered,
    ClockMeasured,
    Effect,
    End,
    EndLease,
    Input,
    Json,
    Log,
    MeasureClock,
    Quit,
    Refused,
    Send,
    StopRequested,
    Subscribe,
    Tag,
    TryNow,
    Unanswered,
    Witness,
)
from .ending import Ending
from .events import Heartbeat, JournalComplete, LinkDown, LinkFailed, LinkGivenUp, LinkUp, Records
from .losses import ASLEEP_S, Losses
from .mirror import PHASE as MIRROR
from .policy import Decision, on_agent_gone
from .reassign import Reassignment
from .replay import origin, replay

WAITING = (AgentState.READY, AgentState.AT_BARRIER, AgentState.ARMED)
LONGEST_START_DELAY_S = 60.0
REFUSAL_GRACE_S = 3.0
AGAIN_S = 0.5
"""Before a command is repeated that an agent could not carry out just now. It may answer so at once: work is going on there."""
RESUME_GRACE_S = 60.0
"""After a resume, every policy waits so long for agents to answer."""


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
    start_with_available: bool = False
    """Agents that fail before the start are left out instead of ending the run."""
    cutoff_timeout_s: float = 86400.0
    """How long the controller may be off the network altogether."""
    takeover: bool = False
    """A resumed run is taken from another controller that is connected."""
    lease_margin_s: float = 2.0
    """Beyond the lease, before an agent that may have held it is taken as fenced."""


class Session:
    """One run. Not thread-safe."""

    def __init__(
        self,
        plan: Plan,
        assignments: Iterable[Assignment],
        controller: str,
        options: Options | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.plan = plan
        self.agents = {assignment.agent_id: Agent(assignment) for assignment in assignments}
        self.controller = controller
        self.over = False
        self._resumed = False
        self._origin = controller
        """The controller that submitted the plan."""
        self._options = options or Options()
        self._course = Course()
        self._losses = Losses(plan.policy, random=random, log=self._log, begin_round=self._begin_round, lost=self._lost)
        self._reassignment = Reassignment(plan, self.agents, self._log)
        self._ending = Ending(plan, self._course, self._log)
        self._sequence = 0
        self._now = 0.0
        self._effects: list[Effect] = []

    @property
    def stage(self) -> int:
        """Index of the stage that is being released or runs; the number of stages when all have ended."""
        return self._course.stage

    @property
    def round(self) -> int:
        """The latest round of that stage."""
        return self._course.round

    @property
    def stage_began(self) -> bool:
        """Whether all agents are known to have begun it."""
        return self._course.stage_began

    @property
    def abort_reason(self) -> str | None:
        """Why the run was ended before its end."""
        return self._course.abort_reason

    @property
    def active(self) -> list[Agent]:
        """The agents that the run counts on."""
        return [agent for agent in self.agents.values() if not agent.out]

    @property
    def wants_witness(self) -> bool:
        """Whether no agent is reached, so that it matters if anything else is."""
        return not any(agent.linked for agent in self.agents.values())

    @property
    def never_started(self) -> bool:
        """Whether no agent can have begun to work: no COMMIT was ever sent."""
        return not self._course.ever_released

    # --- inputs ----------------------------------------------------------------------------------------------------------------------

    def handle(self, event: Input, now_s: float) -> list[Effect]:
        """The effects of an input. Inputs that repeat or come too late have none."""
        asleep_s = now_s - self._now if now_s - self._now > ASLEEP_S else 0.0
        self._now = now_s
        self._effects = []
        if not self.over:
            if asleep_s:
                self._slept(asleep_s)
            self._dispatch(event)
            if self.abort_reason is None:
                self._losses.advance(self.agents.values(), now_s)
            self._advance()
        return self._effects

    def _slept(self, asleep_s: float) -> None:
        """Nobody had a chance to answer meanwhile: what agents have time for counts from now."""
        self._course.abort_at_s += asleep_s
        for agent in self.agents.values():
            agent.up_since_s = self._now

    def _dispatch(self, event: Input) -> None:
        if isinstance(event, StopRequested):
            self._log("stop_requested", reason=event.reason)
            self._abort(event.reason)
            return
        if isinstance(event, Witness):
            self._losses.witness = event.reached
            return
        name = getattr(event, "agent", None)
        if name is None:
            return
        agent = self.agents[name]
        match event:
            case LinkUp():
                self._link_up(agent, event)
            case LinkDown():
                self._link_down(agent, event)
            case LinkFailed():
                if event.error.phase == MIRROR and not isinstance(event.error, JournalLost):
                    # This machine's disk is full or broken; the agents have nothing to do with it.
                    self._quit(event.error)
                    return
                if (
                    self._resumed
                    and not (agent.claimed or agent.out or self.abort_reason)
                    and not isinstance(event.error, JournalLost)
                    and not self._options.start_with_available
                ):
                    # This machine may lack a key that the first one had: no reason to end the run.
                    choice = "The run is left alone; `sai3ssh resume --without-unreachable` goes on without this agent"
                    event.error.remedy = ". ".join(text for text in (event.error.remedy, choice) if text)
                    self._quit(event.error)
                    return
                self._link_ended(agent, event.error, AgentState.FAILED)
            case LinkGivenUp():
                text = f"not reached for {event.down_s:.0f} s, {event.attempt} attempts; the last: {event.cause.message}"
                self._link_ended(agent, Permanent(text, host=name, remedy=event.cause.remedy), AgentState.LOST)
            case Heartbeat():
                self._check_in_charge(agent, event)
                if event.body.get("state") == AgentState.AWAITING_CREDENTIALS.value and agent.up:
                    # After a restart of its host the agent has none.
                    self._last_ask(agent, "credentials", {"run_id": self.plan.run_id})
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
                if isinstance(event.error, LinkLost):
                    agent.asked.discard(event.tag)
                else:
                    agent.put_off(event.tag, self._now + AGAIN_S)
                if event.tag.purpose == "submit":
                    agent.submitting = False
                elif event.tag.purpose == "claim" and not isinstance(event.error, LinkLost) and not agent.claim_waits:
                    agent.claim_waits = True
                    self._log("claim_waits", agent=name, reason=event.error.message)

    def _link_up(self, agent: Agent, event: LinkUp) -> None:
        agent.linked, agent.lost_since_s = True, None
        agent.up, agent.up_since_s = agent.claimed, self._now
        if agent.offset is not None and event.boot != agent.offset.boot and not agent.armed:
            # Its host was restarted since its clock was measured.
            agent.offset = None
        down_s = round(event.down_s, 3)
        self._log("link_up", agent=agent.name, attempt=event.attempt, down_s=down_s, resumed_offset=event.resumed_offset)

    def _link_down(self, agent: Agent, event: LinkDown) -> None:
        agent.linked = agent.up = False
        agent.leased_s = max(agent.leased_s, self._now)
        # Once all of its journal is here, the link has done its work.
        level = "info" if agent.complete or agent.out else "warning"
        self._log("link_down", agent=agent.name, cause=event.cause.message, level=level)
        if level == "info":
            return
        self._losses.link_lost(agent, self._now)
        if self.plan.policy.name == "fail_fast" and self.abort_reason is None:
            self._abort(f"{agent.name}: link lost ({event.cause.message}), and failure_policy is fail_fast")

    def _begin_round(self, agent: Agent) -> None:
        self._effects.append(TryNow(agent.name))

    def _lost(self, agent: Agent, text: str) -> None:
        if agent.epoch is None and agent.submitted_at_s is None and self.never_started:
            remedy = "Look whether the host is up"
        else:
            remedy = "The agent goes on by itself; collect its journal later with `sai3ssh collect`"
        self._agent_gone(agent, Permanent(text, host=agent.name, remedy=remedy), AgentState.LOST)

    def _check_in_charge(self, agent: Agent, event: Heartbeat) -> None:
        """Another controller may have claimed an agent that was out of reach here, and have been refused by the others: the agent knows
        whether that one is still there."""
        other = event.body.get("controller")
        if agent.claimed and agent.epoch is not None and agent.outcome is None and other not in (None, self.controller):
            agent.follows = other
            agent.claimed = agent.up = False
            agent.up_since_s = self._now
            self._log("claimed_by_another", agent=agent.name, controller=other)

    def _quit(self, error: Sai3sshError) -> None:
        self.over = True
        self._log("left", error=str(error))
        self._effects.append(Quit(error))

    def _record(self, agent: Agent, record: Json) -> None:
        kind = record["kind"]
        if kind == "sec":
            self._ending.second(agent, record)
        elif kind == "ending":
            self._ending.heard(agent, record, self._now)
        elif kind == "ledger":
            self._reassignment.record(record)
        elif kind == "adopted":
            self._reassignment.adopted(agent, record)
            agent.adopted = max(agent.adopted, record["number"])
        elif kind == "controller":
            agent.settled = agent.settled or record["controller"] == self.controller
        elif kind == "epoch" and agent.epoch is None:
            agent.epoch = record["epoch"]
        elif kind == "ready" and agent.state is AgentState.CONNECTING:
            self._become(agent, AgentState.READY)
        elif kind in ("stage_start", "stage_end") and record["stage"] == self.stage and record["round"] <= self._course.passed_round:
            return  # of a pass that is over
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
        agent.stopped = agent.claimed = agent.settled = True
        agent.up = agent.linked
        if agent.out:
            return
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
                    # A run that another one submitted: what the agent did for that one is not known before its claim is in its journal.
                    agent.claimed = agent.settled = self._origin == self.controller
                    agent.up = agent.linked and agent.claimed
                    self._log("submitted", agent=agent.name, epoch=agent.epoch)
                    self._effects.append(Subscribe(agent.name, event.ok["epoch"]))
            case "arm" if current and not self._course.commit_logged:
                agent.armed = True
                self._become(agent, AgentState.ARMED)
            case "commit" if current and self._course.commit_logged:
                agent.committed = True
                if agent.state is AgentState.ARMED:
                    self._become(agent, AgentState.COMMITTED)
            case "end" if current and not agent.told_end:
                agent.told_end, agent.told_end_at_s = True, self._now
            case "claim":
                agent.claimed, agent.generation, agent.follows = True, event.ok["generation"], ""
                agent.refusal = None  # of a command that was not of who was in charge
                agent.up, agent.up_since_s = agent.linked, self._now
                self._log("claimed", agent=agent.name, generation=agent.generation)
            case "adopt":
                agent.adopted = max(agent.adopted, event.tag.round)
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
            case "claim" if isinstance(event.error, Superseded) and agent.follows:
                text = f"controller {agent.follows} has taken this run over"
                self._quit(Superseded(text, remedy="Watch it from there; this one leaves the agents alone"))
            case "claim" if isinstance(event.error, Superseded):
                self._quit(event.error)
            case "claim":
                self._agent_gone(agent, event.error)
            case "credentials" | "finish":
                pass  # the journal tells what became of it
            case "adopt":
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
        if agent.linked:
            agent.leased_s = max(agent.leased_s, self._now)
        agent.up = agent.linked = agent.reachable = False
        if not agent.complete:
            self._agent_gone(agent, error, state)

    def _agent_gone(self, agent: Agent, error: Sai3sshError, state: AgentState = AgentState.FAILED) -> None:
        if agent.out:
            return
        agent.error = agent.error or error
        self._log("agent_lost" if state is AgentState.LOST else "agent_failed", agent=agent.name, error=str(error))
        self._become(agent, state, cause=error.message)
        agent.out = True
        agent.gone_at_s = self._now
        if agent.linked:
            agent.leased_s = max(agent.leased_s, self._now)
        self._effects.append(EndLease(agent.name))
        self._decide(agent, error)

    def _decide(self, agent: Agent, error: Sai3sshError) -> None:
        """What an agent that is gone means for the run."""
        if self.abort_reason is not None:
            return
        reason = f"{agent.name}: {error.message}"
        # Before the start no policy is asked: none may hide a configuration error.
        if self.never_started and not self._options.start_with_available:
            self._abort(reason)
            return
        decision, why = on_agent_gone(self.plan.policy, len(self.active), len(self.agents))
        if decision is Decision.ABORT and not (self.never_started and self.active and len(self.active) >= self.plan.policy.min_agents):
            self._abort(f"{reason}; {why}")
            return
        self._log("go_on_without", agent=agent.name, remaining=len(self.active))
        self._reassignment.gone(agent)

    # --- course ----------------------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        for agent in self.agents.values():
            agent.ask_again(self._now)
        self._claim()
        if self._losses.cut_off_s > self._options.cutoff_timeout_s and self.abort_reason is None:
            self._abort(f"this controller has reached nothing for {self._losses.cut_off_s:.0f} s (controller_cutoff_timeout)")
        if self.abort_reason is None:
            for agent in self.active:
                self._submit(agent)
            self._stop_the_lost()
        self._explain_refusals()
        if self.abort_reason is None:
            self._advance_stage()
        if self.abort_reason is not None:
            self._wind_up()

    def _explain_refusals(self) -> None:
        """What a failed agent refuses is explained by its journal, which is on its way; only without that its refusal is the reason."""
        for agent in self.agents.values():
            refusal = agent.refusal
            if (
                refusal is not None
                and agent.error is None
                and not agent.out
                and agent.overdue(self._now, agent.refused_at_s, REFUSAL_GRACE_S)
            ):
                self._agent_gone(agent, refusal)

    def _claim(self) -> None:
        """A controller that resumes a run asks every agent to follow it from now on; so does one whose agent was claimed by another."""
        for agent in self.agents.values():
            if agent.linked and not agent.claimed:
                # What was taken over from this one it does not take over again: the two would go on for ever.
                self._last_ask(agent, "claim", {"takeover": self._options.takeover and not agent.follows})
                timeout_s = self._options.release_timeout_s
                if self.abort_reason is None and not agent.out and self._now - agent.up_since_s > timeout_s:
                    text = f"its link is up, but it did not follow this controller within {timeout_s:.0f} s"
                    self._agent_gone(agent, Permanent(text, host=agent.name))

    def _stop_the_lost(self) -> None:
        """An agent that was given up and is back is told so: its work is another's by now."""
        for agent in self.agents.values():
            if agent.out and agent.up and not agent.stopped and agent.submitted_at_s is not None and not agent.stop_refused:
                self._last_ask(agent, "stop", {"reason": f"given up by the controller: {agent.error.message if agent.error else ''}"})

    def _advance_stage(self) -> None:
        if self.stage < len(self.plan.stages) and all(agent.ended >= self.stage for agent in self.active):
            self._note_start()
            if self._bequeathed() and not self._opened_again():
                self._end_stage()
        if self.stage == len(self.plan.stages):
            self._collect()
        elif self._course.commit_logged:
            self._watch_stage()
        elif all(agent.state in WAITING for agent in self.active) and self._bequeathed() and self._fenced():
            self._release()

    def _end_stage(self) -> None:
        self._ending.over()
        self._log("stage_ended", stage=self.stage, name=self.plan.stages[self.stage].name)
        self._course.next_stage(self.agents.values())
        self._course.ended_at_s = self._now

    def _bequeathed(self) -> bool:
        """At a barrier: what lost agents owned is given to the others; True when they have all taken what they were given."""
        unsettled = [agent for agent in self.active if not agent.settled]
        if unsettled:
            # A controller before this one may have given something away that is still on its way.
            for agent in unsettled:
                timeout_s = self._options.release_timeout_s
                if agent.overdue(self._now, max(agent.heard_at_s, agent.answered_at_s), timeout_s):
                    text = f"follows this controller, but its journal has not told of that for {timeout_s:.0f} s"
                    self._agent_gone(agent, Permanent(text, host=agent.name))
                    break
            return False
        if self._reassignment.give_away(self._course, self.active) and self.round:
            # What was armed is armed anew: the stage is another one now.
            self._course.new_release(self.agents.values())
            for agent in self.active:
                self._become(agent, AgentState.AT_BARRIER if self.stage else AgentState.READY)
        waiting = False
        for agent in self.active:
            gift = self._reassignment.gift(agent)
            if gift is None:
                agent.offered_at_s = None
                continue
            waiting = True
            agent.offered_at_s = self._now if agent.offered_at_s is None else agent.offered_at_s
            timeout_s = self._options.release_timeout_s
            if agent.overdue(self._now, max(agent.offered_at_s, agent.answered_at_s), timeout_s):
                text = f"did not take what lost agents had owned within {timeout_s:.0f} s"
                self._agent_gone(agent, Permanent(text, host=agent.name))
                return False
            tag = Tag("adopt", self.stage, gift["number"])
            if agent.up and tag not in agent.asked:
                agent.asked.add(tag)
                self._send(agent.name, {"cmd": "adopt", "agent_id": agent.name, **gift}, tag, self._options.request_timeout_s)
        return not waiting

    def _opened_again(self) -> bool:
        """When the stage that has ended was given more to do, it is released once more."""
        if not self._reassignment.take_again():
            return False
        self._log("stage_opened_again", stage=self.stage, name=self.plan.stages[self.stage].name, round=self.round)
        self._course.open_again(self.agents.values(), self.active)
        return True

    def _fenced(self) -> bool:
        """Before a stage that removes objects: whether no lost agent can still create what others own by now."""
        stage = self.plan.stages[self.stage]
        removes = stage.kind is StageKind.CLEANUP or any(op.kind == "delete" for op in stage.operations)
        if not removes or not self.plan.policy.reassign:
            return True
        for agent in self.agents.values():
            if not agent.out or agent.stopped or agent.fenced or agent.submitted_at_s is None:
                continue
            lease_s = self.plan.lease_s
            if lease_s is None or self._now > agent.leased_s + lease_s + self._options.lease_margin_s:
                agent.fenced = True
                self._log("fenced" if lease_s is not None else "unfenced_writer_possible", agent=agent.name)
            else:
                return False
        return True

    def _submit(self, agent: Agent) -> None:
        if agent.epoch is None and agent.up and not agent.submitting and Tag("submit") not in agent.asked:
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
        agents = self.active
        self._course.barrier_at_s = self._course.barrier_at_s or self._now
        if not all(agent.up for agent in agents):
            return
        timeout_s = self._options.release_timeout_s
        all_up_since_s = max(agent.up_since_s for agent in agents)
        for agent in agents:
            missing = "an answer to pings" if agent.offset is None else "" if agent.armed or not self.round else "an acknowledgement of ARM"
            if missing and agent.overdue(self._now, max(self._course.barrier_at_s, all_up_since_s, agent.answered_at_s), timeout_s):
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
        in_time = self._now + self._start_delay_s / 4 < self._course.start_controller_ns / 1e9
        if armed and in_time:
            self._course.commit_logged = self._course.ever_released = True
            self._course.committed_at_s = self._now
            self._log("commit", stage=self.stage, round=self.round, start_controller_ns=self._course.start_controller_ns)
            for agent in agents:
                agent.leased_s = max(agent.leased_s, self._course.start_controller_ns / 1e9)
            self._watch_stage()
        elif armed:
            self._course.late_rounds += 1
            self._arm_round()
        elif self.round == 0 or self._now > self._course.arm_deadline_s:
            self._arm_round()

    @property
    def _start_delay_s(self) -> float:
        """Of the current round; grows while acknowledgements come too late for the start."""
        first_s = self._options.start_delay_s
        return float(min(first_s * 2**self._course.late_rounds, max(LONGEST_START_DELAY_S, first_s)))

    def _arm_round(self) -> None:
        """A new round with a later start. Acknowledgements of earlier rounds no longer count."""
        self._course.round += 1
        self._course.arm_deadline_s = self._now + max(self._options.ack_timeout_s, self._start_delay_s)
        self._course.start_controller_ns = int((self._now + self._start_delay_s) * 1e9)
        self._log("armed_round", stage=self.stage, round=self.round, start_controller_ns=self._course.start_controller_ns)
        for agent in self.active:
            assert agent.offset is not None
            agent.armed = False
            host_ns = agent.offset.to_host_ns(self._course.start_controller_ns)
            self._ask(agent, "arm", {"start_clock_ns": host_ns, "boot": agent.offset.boot})

    def _ask(self, agent: Agent, verb: str, fields: Json) -> None:
        tag = Tag(verb, self.stage, self.round)
        if tag not in agent.asked and agent.refusal is None:
            agent.asked.add(tag)
            command = {"cmd": verb, "agent_id": agent.name, "stage": self.stage, "round": self.round, **fields}
            self._send(agent.name, command, tag, self._options.ack_timeout_s)

    def _watch_stage(self) -> None:
        """Repeats COMMIT to whom it has not reached, ends the stage when it is steady, and knows how long it can last."""
        self._note_start()
        self._ending.look(self.active, self._now, self._start_delay_s)
        stage = self.plan.stages[self.stage]
        timed = stage.duration_s is not None
        retry = self.plan.retry
        longest_s = self.plan.deadlines.total_s * (retry.max_retries + 1) + retry.max_delay_s * retry.max_retries
        limit_s = longest_s * self.plan.turns(stage) + self._options.overrun_s
        limit_s += self._start_delay_s if timed else self.plan.target_outage_timeout_s
        for agent in self.active:
            if agent.started < self.stage and not agent.committed and agent.up:
                self._ask(agent, "commit", {})
            if self._course.ending is not None and agent.started == self.stage > agent.ended and not agent.told_end and agent.up:
                self._ask(agent, "end", self._course.ending)
            since_s, wait_s = self._course.committed_at_s, limit_s
            if not timed:
                since_s = max(since_s, agent.progress_at_s)
            elif agent.told_end:
                since_s = agent.told_end_at_s
            else:
                wait_s += stage.duration_s or 0.0
            if agent.ended < self.stage and agent.overdue(self._now, since_s, wait_s):
                what = f"after its {'end was set' if agent.told_end else 'release'}"
                text = f"no end {wait_s:.0f} s {what}" if timed else f"no object finished for {wait_s:.0f} s"
                self._agent_gone(agent, Permanent(f"stage {stage.name}: {text}", host=agent.name))
                return

    def _note_start(self) -> None:
        if not self._course.stage_began and all(agent.started >= self.stage for agent in self.active):
            self._course.stage_began = True
            self._log("stage_started", stage=self.stage, name=self.plan.stages[self.stage].name)

    def _collect(self) -> None:
        for agent in self.active:
            if self.plan.lingers and agent.outcome is None and agent.up:
                self._last_ask(agent, "finish", {})
        # Of agents that were given up and are back, what there is of their journals is wanted as well.
        back = [agent for agent in self.agents.values() if agent.out and agent.linked and agent.epoch is not None]
        wanted = [agent for agent in (*self.active, *back) if not agent.complete]
        if not wanted:
            self._end("all stages ended")
        for agent in wanted:
            since_s = max(self._course.ended_at_s, agent.heard_at_s)
            if agent.out:
                # Whoever hangs follows no new controller: its link alone counts. What its stop adds to its journal is still to come.
                silent = self._now - max(since_s, agent.up_since_s, agent.answered_at_s) > self._options.collect_timeout_s
                if silent and self._now - agent.gone_at_s > self._options.stop_timeout_s:
                    agent.linked = agent.up = False
            elif agent.overdue(self._now, since_s, self._options.collect_timeout_s):
                text = f"has ended its last stage, but its journal was not whole here {self._options.collect_timeout_s:.0f} s later"
                self._agent_gone(agent, Permanent(text, host=agent.name))
                return

    # --- end -------------------------------------------------------------------------------------------------------------------------

    def _abort(self, reason: str) -> None:
        if self.abort_reason is None:
            self._course.abort_reason = reason
            self._course.abort_at_s = self._now
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
        if agent.submitted_at_s is None or not agent.reachable or agent.stop_refused or (agent.out and not agent.linked):
            return True
        stop_late = self._now > self._course.abort_at_s + self._options.stop_timeout_s
        all_late = self._now > self._course.abort_at_s + self._options.stop_timeout_s + self._options.collect_timeout_s
        if agent.submitting:
            return stop_late  # its answer, or its link's end, comes first
        if not agent.stopped:
            # Without an answer to submit nobody knows whether the agent has the plan: it is stopped all the same.
            if agent.up:
                self._last_ask(agent, "stop", {"reason": self.abort_reason})
            return stop_late
        if agent.epoch is not None and not agent.complete:
            return all_late or agent.overdue(self._now, max(self._course.abort_at_s, agent.heard_at_s), self._options.collect_timeout_s)
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

    # --- resuming --------------------------------------------------------------------------------------------------------------------

    def restore(self, events: Sequence[Json], records: Mapping[str, Iterable[Json]], now_s: float) -> list[Effect]:
        """Goes on where an earlier controller of this run stopped, by its event log and its mirrors; before any input. Returns what is to
        be carried out first."""
        self._now, self._effects = now_s, []
        self._resumed = True
        self._origin = origin(events) or self.controller
        replay(events, self._course, self.agents, self._reassignment, now_s)
        # What a loss means that was the log's last word is decided now; so is what had reached a mirror, but not the log.
        decided = {event["agent"] for event in events if event["event"] == "go_on_without"}
        for agent in self.agents.values():
            if agent.error is not None and agent.out and agent.name not in decided:
                self._decide(agent, agent.error)
        for name, journal in records.items():
            for record in journal:
                self._record(self.agents[name], record)
        for agent in self.agents.values():
            agent.up = agent.linked = False
            agent.claimed = agent.settled = agent.complete or agent.outcome is not None or agent.epoch is None
            agent.progress_at_s = agent.heard_at_s = agent.answered_at_s = now_s
            # The controller before may just have released a stage whose start is still to come.
            agent.leased_s = now_s + max(LONGEST_START_DELAY_S, self._options.start_delay_s)
            if not agent.out:
                self._losses.link_lost(agent, now_s)
                agent.round_due_s = max(agent.round_due_s, RESUME_GRACE_S)
        broke = any(event["event"] == "link_down" and event["level"] == "warning" for event in events)
        if broke and self.plan.policy.name == "fail_fast" and self.abort_reason is None:
            self._abort("a link was lost, and failure_policy is fail_fast")
        course = self._course
        course.committed_at_s = course.barrier_at_s = course.ended_at_s = course.abort_at_s = now_s
        self._effects += [EndLease(agent.name) for agent in self.agents.values() if agent.out]
        self._effects += [Subscribe(agent.name, agent.epoch) for agent in self.agents.values() if agent.epoch and not agent.complete]
        return self._effects

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
        # So is the controller that an agent knows before it is claimed.
        known = self.agents[agent].epoch is not None
        key = {
            "run_id": self.plan.run_id,
            "generation": self.agents[agent].generation,
            "controller": self.controller if known else self._origin,
            "sequence": 0 if tag.purpose == "submit" else self._sequence,
        }
        self._effects.append(Send(agent, {**command, "key": key}, tag, timeout_s))
