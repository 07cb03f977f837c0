"""The session, step by step: what it says to whom, and when it gives up."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest

from sai3ssh.controller.clock import ClockOffset
from sai3ssh.controller.effects import (
    Answered,
    ClockMeasured,
    Effect,
    End,
    Log,
    MeasureClock,
    Quit,
    Refused,
    Send,
    StopRequested,
    Subscribe,
    Tag,
    Tick,
    Unanswered,
)
from sai3ssh.controller.events import Heartbeat, JournalComplete, LinkDown, LinkFailed, LinkGivenUp, LinkUp, Records
from sai3ssh.controller.session import Options, Session
from sai3ssh.errors import AgentError, LinkLost, Permanent, Superseded, TargetError, Transient
from sai3ssh.model import AgentState, Assignment, FailurePolicy, Outcome, Plan, Stage, StageKind, Target

PLAN = Plan("run-1", "n", Target("s3"), (), (Stage("prepare", StageKind.PREPARE, 1), Stage("mix", StageKind.EXECUTE, 1, duration_s=5.0)))
NAMES = ("a", "b")
AWAKE_S = 4.0
"""Longer without an input is a sleep of the controller's machine."""


class Course:
    """Drives a session and keeps what it did."""

    def __init__(self, **options: float) -> None:
        self.session = Session(PLAN, [Assignment(name, i, 2, {}) for i, name in enumerate(NAMES)], "me", Options(**options))
        self.now = 100.0
        self.effects: list[Effect] = []

    def put(self, event: Any, *, after_s: float = 0.0, asleep_s: float = 0.0) -> list[Effect]:
        """One input, after so much time in which the controller was awake and then asleep."""
        effects = []
        at = self.now + after_s
        while self.now < at - AWAKE_S:
            self.now += AWAKE_S
            effects += self.session.handle(Tick(), self.now)
        self.now = at + asleep_s
        effects += self.session.handle(event, self.now)
        self.effects += effects
        return effects

    def each(self, make: Any) -> list[Effect]:
        """One input for each agent."""
        return [effect for name in NAMES for effect in self.put(make(name))]

    def record(self, name: str, kind: str, **fields: Any) -> list[Effect]:
        """One journal record."""
        return self.put(Records(name, self.now, ({"kind": kind, **fields},)))

    def up(self) -> list[Effect]:
        """Both links."""
        return self.each(lambda name: LinkUp(name, self.now, 1, 0.0, 0))

    def to_ready(self) -> list[Effect]:
        """Submitted and READY."""
        self.up()
        self.each(lambda name: Answered(name, Tag("submit"), {"epoch": f"e-{name}"}))
        return [effect for name in NAMES for effect in self.record(name, "ready")]

    def to_armed_round(self, stage: int = 0, offset_ns: int = 7_000_000_000) -> list[Effect]:
        """Clocks measured, so that ARM goes out."""
        return self.each(lambda name: ClockMeasured(name, Tag("clock", stage), ClockOffset(offset_ns, 1000, "boot", 0)))

    def to_running(self, stage: int = 0) -> None:
        """From armed round to the start of a stage."""
        self.each(lambda name: Answered(name, Tag("arm", stage, self.session.round), {}))
        self.each(lambda name: Answered(name, Tag("commit", stage, self.session.round), {}))
        for name in NAMES:
            self.record(name, "stage_start", stage=stage, round=self.session.round)

    def to_stage_end(self, stage: int) -> list[Effect]:
        """Both at the barrier."""
        return [effect for name in NAMES for effect in self.record(name, "stage_end", round=1, stage=stage, outcome="finished")]


def sends(effects: list[Effect], verb: str) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send) and effect.command["cmd"] == verb]


def logs(effects: list[Effect], event: str) -> list[dict[str, Any]]:
    return [effect.fields for effect in effects if isinstance(effect, Log) and effect.event == event]


def test_a_whole_run() -> None:
    course = Course()
    assert [send.agent for send in sends(course.up(), "submit")] == ["a", "b"]
    assert [e for e in course.put(Answered("a", Tag("submit"), {"epoch": "e-a"})) if isinstance(e, Subscribe)] == [Subscribe("a", "e-a")]
    course.put(Answered("b", Tag("submit"), {"epoch": "e-b"}))
    course.record("a", "ready")
    assert [e.agent for e in course.record("b", "ready") if isinstance(e, MeasureClock)] == ["a", "b"]
    arms = sends(course.to_armed_round(), "arm")
    # Two seconds from now on the agent's own clock.
    assert [arm.command["start_clock_ns"] for arm in arms] == [109_000_000_000] * 2
    assert {arm.command["boot"] for arm in arms} == {"boot"}
    course.to_running()
    assert logs(course.effects, "stage_started") == [{"stage": 0, "name": "prepare"}]
    course.to_stage_end(0)
    course.to_armed_round(1)
    course.to_running(1)
    course.to_stage_end(1)
    course.each(lambda name: Records(name, 0.0, ({"kind": "final", "outcome": "finished", "reason": "all stages ended"},)))
    course.put(JournalComplete("a", 0.0, 10, "00", Outcome.FINISHED))
    assert not course.session.over
    assert course.put(JournalComplete("b", 0.0, 10, "00", Outcome.FINISHED))[-1] == End("all stages ended")
    assert course.session.abort_reason is None
    assert course.put(Tick(), asleep_s=1e6) == []


def test_commit_is_logged_before_it_is_sent_and_only_when_all_have_armed() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    assert not sends(course.put(Answered("a", Tag("arm", 0, 1), {})), "commit")
    effects = course.put(Answered("b", Tag("arm", 0, 1), {}))
    order = [effect.event if isinstance(effect, Log) else effect.command["cmd"] for effect in effects if isinstance(effect, (Log, Send))]
    assert order.index("commit") < order.index("commit", order.index("commit") + 1)
    commit = next(i for i, effect in enumerate(effects) if isinstance(effect, Log) and effect.event == "commit")
    assert all(i > commit for i, effect in enumerate(effects) if isinstance(effect, Send))
    assert [send.agent for send in sends(effects, "commit")] == ["a", "b"]


def test_a_missing_acknowledgement_opens_a_round_with_a_later_start() -> None:
    course = Course()
    course.to_ready()
    first = sends(course.to_armed_round(), "arm")
    course.put(Answered("a", Tag("arm", 0, 1), {}))
    course.put(Unanswered("b", Tag("arm", 0, 1), LinkLost("no answer")))
    second = sends(course.put(Tick(), after_s=10.1), "arm")
    assert [send.command["round"] for send in second] == [2, 2]
    assert second[0].command["start_clock_ns"] > first[0].command["start_clock_ns"]
    # An acknowledgement of the first round no longer counts.
    course.put(Answered("b", Tag("arm", 0, 1), {}))
    assert not sends(course.put(Answered("a", Tag("arm", 0, 2), {})), "commit")
    assert sends(course.put(Answered("b", Tag("arm", 0, 2), {})), "commit")


def test_acknowledgements_after_the_start_open_a_round_with_twice_the_delay() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.put(Answered("a", Tag("arm", 0, 1), {}))
    effects = course.put(Answered("b", Tag("arm", 0, 1), {}), after_s=1.9)
    assert not sends(effects, "commit")
    arm = sends(effects, "arm")[0]
    assert arm.command["round"] == 2
    assert arm.command["start_clock_ns"] == int((course.now + 4.0 + 7.0) * 1e9)


def test_commit_is_repeated_until_it_is_acknowledged() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.each(lambda name: Answered(name, Tag("arm", 0, 1), {}))
    course.put(Answered("a", Tag("commit", 0, 1), {}))
    course.put(LinkDown("b", 0.0, LinkLost("cut")))
    assert not sends(course.put(Unanswered("b", Tag("commit", 0, 1), LinkLost("cut"))), "commit")
    assert not sends(course.put(Tick(), after_s=30.0), "commit")
    again = sends(course.put(LinkUp("b", 0.0, 1, 30.0, 0)), "commit")
    assert [(send.agent, send.command["round"]) for send in again] == [("b", 1)]


def of_commit(course: Course) -> Tag:
    course.to_ready()
    course.to_armed_round()
    course.each(lambda name: Answered(name, Tag("arm", 0, 1), {}))
    return Tag("commit", 0, 1)


def of_claim(course: Course) -> Tag:
    course.to_ready()
    course.put(Heartbeat("a", 0.0, {"state": "READY", "controller": "other"}))
    return Tag("claim")


def of_submit(course: Course) -> Tag:
    course.up()
    return Tag("submit")


def of_stop(course: Course) -> Tag:
    course.to_ready()
    course.put(StopRequested("enough"))
    return Tag("stop")


@pytest.mark.parametrize("until", [of_submit, of_claim, of_commit, of_stop])
def test_what_an_agent_cannot_do_just_now_is_asked_again_but_not_at_once(until: Any) -> None:
    """An agent that answers at once would be kept busy with answering, while it measures."""
    course = Course()
    tag = until(course)
    asked, waits = [], True
    for step in range(200):
        effects = course.put(Unanswered("a", tag, Transient("not now")) if waits else Tick(), after_s=0.01)
        waits = any(send.agent == "a" for send in sends(effects, tag.purpose))
        asked += [step / 100] if waits else []
    assert len(asked) == 3
    assert all(later - earlier >= 0.49 for earlier, later in pairwise(asked))


def test_no_arm_while_a_link_is_down() -> None:
    course = Course()
    course.up()
    course.each(lambda name: Answered(name, Tag("submit"), {"epoch": "e"}))
    course.record("a", "ready")
    course.put(LinkDown("a", 0.0, LinkLost("cut")))
    assert not [e for e in course.record("b", "ready") if isinstance(e, MeasureClock)]
    assert [e.agent for e in course.put(LinkUp("a", 0.0, 1, 1.0, 5)) if isinstance(e, MeasureClock)] == ["a", "b"]


def test_submit_is_the_same_command_when_repeated() -> None:
    course = Course()
    first = sends(course.up(), "submit")[0]
    again = sends(course.put(Unanswered("a", Tag("submit"), LinkLost("cut"))), "submit")[0]
    assert again.command == first.command
    assert {send.command["key"]["sequence"] for send in sends(course.effects, "submit")} == {0}


def test_other_commands_have_a_key_each() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.to_running()
    keys = [
        effect.command["key"]["sequence"] for effect in course.effects if isinstance(effect, Send) and effect.command["cmd"] != "submit"
    ]
    assert len(set(keys)) == len(keys) == 4


def test_a_refused_plan_stops_and_forgets_the_others_and_names_the_host() -> None:
    course = Course()
    course.up()
    course.put(Answered("a", Tag("submit"), {"epoch": "e"}))
    effects = course.put(Refused("b", Tag("submit"), AgentError("no space left", host="b", remedy="Free space")))
    assert [send.agent for send in sends(effects, "stop")] == ["a"]
    assert logs(effects, "agent_failed") == [{"agent": "b", "error": "b: no space left. Free space"}]
    course.record("a", "final", outcome="stopped", reason="x")
    effects = course.put(JournalComplete("a", 0.0, 1, "0", Outcome.STOPPED))
    assert [send.agent for send in sends(effects, "forget")] == ["a"]
    assert course.put(Answered("a", Tag("forget"), {}))[-1] == End("b: no space left")


def test_an_agent_that_may_have_the_plan_is_stopped_too() -> None:
    course = Course()
    course.up()
    course.put(StopRequested("interrupted"))
    effects = course.put(Unanswered("a", Tag("submit"), LinkLost("no answer")))
    assert [send.agent for send in sends(effects, "stop")] == ["a"]
    course.put(Unanswered("b", Tag("submit"), LinkLost("no answer")))
    course.put(Refused("b", Tag("stop"), AgentError("no run")))
    course.put(Answered("a", Tag("stop"), {"outcome": "stopped"}))
    assert sends(course.effects, "forget")[-1].agent == "a"
    assert course.put(Answered("a", Tag("forget"), {}))[-1] == End("interrupted")


def test_a_failure_in_a_stage_stops_all_and_says_why() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.to_running()
    error = {"type": "TargetError", "message": "403 AccessDenied", "remedy": "Check the credentials"}
    effects = course.record("b", "final", outcome="failed", reason="403 AccessDenied", error=error)
    assert [send.agent for send in sends(effects, "stop")] == ["a"]
    assert course.session.agents["b"].state is AgentState.FAILED
    assert str(course.session.agents["b"].error) == "b: 403 AccessDenied. Check the credentials"
    course.record("a", "final", outcome="stopped", reason="b: 403 AccessDenied")
    course.each(lambda name: JournalComplete(name, 0.0, 1, "0", Outcome.STOPPED))
    assert course.session.over
    assert not sends(course.effects, "forget"), "a run that has begun stays on the hosts"


def test_a_link_loss_alone_changes_nothing() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.to_running()
    course.each(lambda name: LinkDown(name, 0.0, LinkLost("silent for 3 s")))
    course.put(Tick(), asleep_s=100_000.0)
    assert course.session.abort_reason is None
    assert course.session.agents["a"].state is AgentState.RUNNING
    course.each(lambda name: LinkUp(name, 0.0, 3, 100_000.0, 1234))
    course.put(Tick(), after_s=1.0)
    assert course.session.abort_reason is None
    assert logs(course.effects, "link_up")[-1] == {"agent": "b", "attempt": 3, "down_s": 100_000.0, "resumed_offset": 1234}


def test_a_link_that_is_given_up_makes_the_agent_lost_and_does_not_hold_the_end() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.to_running()
    course.put(LinkDown("a", 0.0, LinkLost("cut")))
    effects = course.put(LinkGivenUp("a", 0.0, 42, 600.0, LinkLost("no route to host")))
    assert course.session.agents["a"].state is AgentState.LOST
    assert course.session.abort_reason == (
        "a: not reached for 600 s, 42 attempts; the last: no route to host; failure_policy retry needs every agent"
    )
    assert [send.agent for send in sends(effects, "stop")] == ["b"]
    course.record("b", "final", outcome="stopped", reason="x")
    effects = course.put(JournalComplete("b", 0.0, 1, "0", Outcome.STOPPED))
    assert logs(effects, "stop_unconfirmed") == [{"agent": "a"}]
    assert isinstance(effects[-1], End)
    assert effects[-1].reason.endswith("not confirmed as stopped: a")


def test_a_disk_of_the_controller_that_is_full_is_no_failure_of_an_agent() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.to_running()
    full = Permanent("a/journal.ndjson cannot be written: No space left on device", phase="mirror")
    effects = course.put(LinkFailed("a", 0.0, full))
    assert effects[-1] == Quit(full)
    assert not sends(effects, "stop")
    assert not logs(effects, "agent_failed")


def test_a_link_that_fails_after_everything_is_here_is_no_failure() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.to_running()
    course.to_stage_end(0)
    course.to_armed_round(1)
    course.to_running(1)
    course.to_stage_end(1)
    course.record("a", "final", outcome="finished", reason="all stages ended")
    course.put(JournalComplete("a", 0.0, 1, "0", Outcome.FINISHED))
    course.put(LinkFailed("a", 0.0, TargetError("whatever")))
    assert course.session.abort_reason is None


def test_the_refusal_of_a_failed_agent_is_explained_by_its_journal() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.put(Refused("a", Tag("arm", 0, 1), AgentError("stage 0 cannot be armed: the agent is FAILED")))
    course.put(Tick(), after_s=1.0)
    assert course.session.abort_reason is None
    course.record("a", "final", outcome="failed", reason="worker 0 was killed", error=None)
    assert course.session.abort_reason == "a: worker 0 was killed"


def test_a_refusal_without_an_explanation_is_the_reason() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.put(Refused("a", Tag("arm", 0, 1), AgentError("start given for another boot", host="a")))
    course.put(Tick(), after_s=4.0)
    course.put(Tick(), after_s=4.0)
    assert course.session.abort_reason == "a: start given for another boot"
    assert len(logs(course.effects, "agent_failed")) == 1


@pytest.mark.parametrize(
    ("steps", "wait_s", "text"),
    [
        ("up", 121.0, "a: not READY 120 s after the plan was submitted"),
        ("ready", 121.0, "a: stage prepare: an answer to pings did not come within 120 s"),
        ("armed", 121.0, "a: stage prepare: an acknowledgement of ARM did not come within 120 s"),
        # One operation may take 4 x 300 s with its retries; the margin is 60 s, the outage of the target 600 s.
        (
            "running",
            600.0 + 4 * 300.0 + 15.0 + 61.0,
            "a: stage prepare: no object finished for 1875 s; failure_policy retry needs every agent",
        ),
        ("mix", 2.0 + 5.0 + 4 * 300.0 + 15.0 + 61.0, "a: stage mix: no end 1282 s after its release"),
        ("ended", 121.0, "a: has ended its last stage, but its journal was not whole here 120 s later"),
    ],
)
def test_every_wait_has_a_deadline_that_names_agent_and_wait(steps: str, wait_s: float, text: str) -> None:
    course = Course()
    names = ["up", "ready", "armed", "running", "mix", "ended"]
    for step in names[: names.index(steps) + 1]:
        if step == "up":
            course.up()
        elif step == "ready":
            course.to_ready()
        elif step == "armed":
            course.to_armed_round()
        elif step == "running":
            course.to_running()
        elif step == "mix":
            course.to_stage_end(0)
            course.to_armed_round(1)
            course.to_running(1)
        else:
            course.to_stage_end(1)
    course.put(Tick(), after_s=wait_s - 2.0)
    assert course.session.abort_reason is None
    course.put(Tick(), after_s=2.0)
    assert course.session.abort_reason is not None
    assert course.session.abort_reason.startswith(text)


def test_progress_moves_the_deadline_of_prepare() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.to_running()
    for done in range(1, 4):
        course.now += 1000.0
        course.each(lambda name, done=done: Heartbeat(name, 0.0, {"done": done}))
    assert course.session.abort_reason is None
    course.put(Heartbeat("b", 0.0, {"done": 4}), after_s=1000.0)
    course.put(Tick(), after_s=900.0)
    assert course.session.abort_reason == "a: stage prepare: no object finished for 1875 s; failure_policy retry needs every agent"


def test_a_stop_that_is_refused_is_reported() -> None:
    course = Course()
    course.to_ready()
    course.put(StopRequested("interrupted"))
    course.put(Refused("a", Tag("stop"), AgentError("processes [12] do not end")))
    course.record("b", "final", outcome="stopped", reason="interrupted")
    course.put(JournalComplete("b", 0.0, 1, "0", Outcome.STOPPED))
    effects = course.put(Answered("b", Tag("forget"), {}))
    assert logs(course.effects, "stop_failed") == [{"agent": "a", "error": "processes [12] do not end"}]
    assert effects[-1] == End("interrupted; not confirmed as stopped: a")


def test_an_agent_that_cannot_be_stopped_in_time_ends_the_wait() -> None:
    course = Course(stop_timeout_s=40.0)
    course.to_ready()
    course.each(lambda name: LinkDown(name, 0.0, LinkLost("cut")))
    course.put(StopRequested("interrupted"))
    for _ in range(10):
        assert not course.session.over
        course.put(Tick(), after_s=4.0)
    assert course.put(Tick(), after_s=0.1)[-1] == End("interrupted; not confirmed as stopped: a, b")


def test_a_controller_that_slept_while_it_stopped_agents_gives_them_their_time_all_the_same() -> None:
    course = Course(stop_timeout_s=40.0)
    course.to_ready()
    course.put(StopRequested("interrupted"))
    course.put(Tick(), asleep_s=3600.0)
    assert not course.session.over
    course.each(lambda name: LinkDown(name, 0.0, LinkLost("it stood still")))
    course.up()
    assert [send.agent for send in sends(course.effects, "stop")][-2:] == ["a", "b"]
    for _ in range(10):
        assert not course.session.over
        course.put(Tick(), after_s=4.0)
    assert [effect for effect in course.put(Tick(), after_s=0.1) if isinstance(effect, End)]


@pytest.mark.parametrize("first", [Tick(), LinkDown("a", 0.0, LinkLost("it stood still")), Heartbeat("a", 0.0, {"state": "RUNNING"})])
def test_a_controller_that_slept_through_a_stage_gives_nobody_up(first: Any) -> None:
    """It awakes with links that have long been cut, or not, and has heard of neither that nor of the end of the stage."""
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.to_running()
    course.to_stage_end(0)
    course.to_armed_round(1)
    course.to_running(1)
    course.put(first, asleep_s=100_000.0)
    course.put(Tick(), after_s=500.0)
    assert course.session.abort_reason is None
    course.each(lambda name: LinkDown(name, 0.0, LinkLost("it stood still")))
    course.up()
    course.put(Tick(), after_s=1283.0)
    assert (course.session.abort_reason or "").startswith("a: stage mix: no end 1282 s after its release")


def test_an_agent_that_stops_by_itself_ends_the_run() -> None:
    course = Course()
    course.to_ready()
    course.record("a", "final", outcome="stopped", reason="no release for 900 s (agent_barrier_timeout)")
    assert course.session.abort_reason == "a: stopped by itself: no release for 900 s (agent_barrier_timeout)"


def test_a_stage_that_starts_and_ends_in_one_breath_is_logged_in_order() -> None:
    course = Course()
    course.to_ready()
    course.to_armed_round()
    course.each(lambda name: Answered(name, Tag("arm", 0, 1), {}))
    both = ({"kind": "stage_start", "stage": 0, "round": 1}, {"kind": "stage_end", "stage": 0, "round": 1, "outcome": "finished"})
    course.each(lambda name: Records(name, 0.0, both))
    events = [effect.event for effect in course.effects if isinstance(effect, Log)]
    assert events.index("stage_started") < events.index("stage_ended")


def claimed_by_another(**options: float) -> tuple[Course, list[Effect]]:
    """A run whose agent a tells of another controller, that it has followed since."""
    course = Course(**options)
    course.to_ready()
    course.to_armed_round()
    course.to_running()
    return course, course.put(Heartbeat("a", 0.0, {"state": "RUNNING", "controller": "other"}))


def test_a_controller_that_had_taken_over_itself_does_not_do_so_twice() -> None:
    """Two that were both told to take over would have the agents change hands for ever."""
    _, effects = claimed_by_another(takeover=True)
    assert [send.command["takeover"] for send in sends(effects, "claim")] == [False]


def test_an_agent_that_follows_a_controller_that_is_gone_again_is_claimed_back() -> None:
    course, effects = claimed_by_another()
    assert [(send.agent, send.command["takeover"]) for send in sends(effects, "claim")] == [("a", False)]
    assert not course.session.over
    effects = course.put(Answered("a", Tag("claim"), {"generation": 3}))
    assert logs(effects, "claimed") == [{"agent": "a", "generation": 3}]
    effects = course.put(StopRequested("enough"))
    assert [send.command["key"]["generation"] for send in sends(effects, "stop")] == [3, 1]


def test_an_agent_that_never_says_whom_it_follows_is_given_up() -> None:
    course, _ = claimed_by_another()
    course.put(Tick(), after_s=119.0)
    assert course.session.abort_reason is None
    course.put(Tick(), after_s=2.0)
    assert (course.session.abort_reason or "").startswith("a: its link is up, but it did not follow this controller within 120 s")


def test_an_agent_that_follows_a_controller_that_is_alive_makes_this_one_leave() -> None:
    course, _ = claimed_by_another()
    effects = course.put(Refused("a", Tag("claim"), Superseded("controller other is connected and steers this run")))
    (quitting,) = [effect for effect in effects if isinstance(effect, Quit)]
    assert "controller other has taken this run over" in str(quitting.error)
    assert not sends(effects, "stop")


def at_the_end_of_b() -> Course:
    """All stages have ended, and only b's journal is not here."""
    course = Course(collect_timeout_s=10.0, stop_timeout_s=20.0)
    course.session.plan = dataclasses.replace(PLAN, policy=FailurePolicy("best_effort", reassign=False))
    course.to_ready()
    for stage in (0, 1):
        course.to_armed_round(stage)
        course.to_running(stage)
        course.to_stage_end(stage)
    course.put(JournalComplete("a", course.now, 10, "00", Outcome.FINISHED))
    return course


def test_of_an_agent_that_is_given_up_at_the_end_what_its_stop_adds_is_waited_for() -> None:
    course = at_the_end_of_b()
    effects = course.put(Tick(), after_s=11.0)
    assert logs(effects, "go_on_without") == [{"agent": "b", "remaining": 1}]
    effects += course.put(Tick(), after_s=0.2)
    assert [stop.agent for stop in sends(effects, "stop")] == ["b"]
    assert not [effect for effect in effects if isinstance(effect, End)]
    course.put(Answered("b", Tag("stop"), {"outcome": "stopped"}))
    course.record("b", "final", outcome="stopped", reason="given up by the controller")
    assert not [effect for effect in course.put(Tick(), after_s=9.0) if isinstance(effect, End)], "its journal is on its way"
    assert [effect for effect in course.put(JournalComplete("b", course.now, 10, "00", Outcome.STOPPED)) if isinstance(effect, End)]


def test_an_agent_that_is_given_up_at_the_end_and_hangs_is_waited_for_no_longer_than_a_stop_takes() -> None:
    course = at_the_end_of_b()
    course.put(Tick(), after_s=11.0)
    assert not [effect for effect in course.put(Tick(), after_s=19.0) if isinstance(effect, End)]
    course.put(Tick(), after_s=2.0)
    assert [effect for effect in course.put(Tick(), after_s=0.2) if isinstance(effect, End)]


def resumed(*history: dict[str, Any], policy: str = "best_effort", submitted: str = "ab") -> Course:
    """Another controller of a run whose first stage is released."""
    course = Course()
    course.session = Session(
        dataclasses.replace(PLAN, policy=FailurePolicy(policy)), [Assignment(name, i, 2, {}) for i, name in enumerate(NAMES)], "second"
    )
    events: list[dict[str, Any]] = [{"event": "run_created", "controller": "me"}]
    events += [{"event": "submit", "agent": name} for name in NAMES]
    events += [{"event": "submitted", "agent": name, "epoch": f"e-{name}"} for name in submitted]
    events += [{"event": event, "stage": 0, "round": 1} for event in ("armed_round", "commit")]
    course.effects = course.session.restore([*events, *history], {}, course.now)
    return course


NO_KEY = Permanent("no key is accepted", phase="auth")


def test_a_resumed_run_is_left_alone_when_this_machine_is_not_let_in() -> None:
    assert [e.error for e in resumed().put(LinkFailed("b", 0.0, NO_KEY)) if isinstance(e, Quit)] == [NO_KEY]


def test_who_had_been_given_up_and_lets_nobody_in_does_not_keep_a_run_from_being_resumed() -> None:
    lost = {"event": "agent_lost", "agent": "b", "error": "not reached"}, {"event": "go_on_without", "agent": "b", "remaining": 1}
    course = resumed(*lost)
    assert not [e for e in course.put(LinkFailed("b", 0.0, NO_KEY)) if isinstance(e, Quit)]
    assert course.session.abort_reason is None
    assert [send.agent for send in sends(course.up(), "claim")][:1] == ["a"]


def test_who_lets_nobody_in_does_not_keep_the_others_from_being_stopped() -> None:
    course = resumed()
    course.put(StopRequested("sai3ssh stop"))
    assert not [e for e in course.put(LinkFailed("b", 0.0, NO_KEY)) if isinstance(e, Quit)]
    course.put(LinkUp("a", 0.0, 1, 0.0, 0))
    assert [send.agent for send in sends(course.put(Answered("a", Tag("claim"), {"generation": 2})), "stop")] == ["a"]


def test_nothing_is_given_away_before_it_is_known_what_an_agent_did_for_the_controller_before() -> None:
    """Of a run that was rebuilt while this agent's host was away; the rest of its journal, with an adoption in it, is still to come."""
    course = resumed(submitted="a")
    course.up()
    course.put(Answered("a", Tag("claim"), {"generation": 2}))
    course.put(Answered("b", Tag("submit"), {"epoch": "e-b"}))
    course.put(Answered("b", Tag("claim"), {"generation": 2}))
    course.record("a", "controller", generation=2, controller="second")
    for name in NAMES:
        course.record(name, "ready")
        course.record(name, "stage_start", stage=0, round=1)
        course.record(name, "stage_end", stage=0, round=1, outcome="finished")
    assert not logs(course.effects, "stage_ended")
    course.record("b", "controller", generation=2, controller="second")
    assert logs(course.effects, "stage_ended")


def test_an_agent_that_has_stood_still_since_it_was_claimed_is_given_up() -> None:
    course = resumed()
    course.up()
    for name in NAMES:
        course.put(Answered(name, Tag("claim"), {"generation": 2}))
        course.record(name, "stage_start", stage=0, round=1)
        course.record(name, "stage_end", stage=0, round=1, outcome="finished")
    course.record("a", "controller", generation=2, controller="second")
    course.put(Tick(), after_s=119.0)
    assert not logs(course.effects, "agent_failed")
    course.put(Tick(), after_s=2.0)
    (failed,) = logs(course.effects, "agent_failed")
    assert failed["agent"] == "b"
    assert "its journal has not told of that for 120 s" in failed["error"]
