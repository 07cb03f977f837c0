"""The real session under a virtual clock, among agents whose links break at any moment."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sai3ssh.controller.effects import MeasureClock, Refused, Send, Tag
from sai3ssh.controller.session import Options
from sai3ssh.errors import AgentError
from sai3ssh.model import AgentState, FailurePolicy, Intervals, Outcome, Steady
from tests.simulation.world import CLOCK_ERROR_NS, OBJECTS, RECONNECT_TIMEOUT_S, ControllerCrash, Cut, Faults, Hit, World

AGENTS = 4
MANY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

short_cuts = st.lists(
    st.builds(Cut, agent=st.integers(0, AGENTS - 1), at_s=st.floats(0.0, 90.0), for_s=st.floats(0.05, RECONNECT_TIMEOUT_S - 1)), max_size=12
)
durations = st.lists(st.floats(0.0, 8.0), max_size=2)


@st.composite
def flapping(draw: st.DrawFn) -> Faults:
    """Links that break, delay, lose answers and repeat inputs, but always come back."""
    return Faults(
        seed=draw(st.integers(0, 2**32)),
        cuts=draw(short_cuts),
        longest_delay_s=draw(st.sampled_from([0.002, 0.3, 1.5])),
        lost_answers=draw(st.sampled_from([0.0, 0.1])),
        repeated=draw(st.sampled_from([0.0, 0.3])),
    )


def check_stopped(world: World) -> None:
    """Every agent that can be reached has ended, and when nobody had begun, nothing is left on its host."""
    unconfirmed = {e["agent"] for e in world.events("stop_unconfirmed")}
    for agent, link in zip(world.agents, world.links, strict=True):
        if agent.key and agent.name not in unconfirmed:
            assert agent.over, f"{agent.name} is {agent.state} after the end of the run"
        reached = link.up and world.now - link.up_since_s > 35.0
        if reached and not agent.frozen and agent.key:
            assert agent.over, f"{agent.name} is {agent.state} although its link is up"
            if world.session.never_started:
                assert agent.forgotten, f"{agent.name} still has the plan of a run that never started"
    if world.session.never_started:
        assert not any(agent.starts for agent in world.agents)


NEEDS_ALL = "; failure_policy retry needs every agent"


@MANY
@given(flapping(), durations)
def test_a_run_whose_links_only_flap_is_complete(faults: Faults, lengths: list[float]) -> None:
    world = World(faults, AGENTS, lengths)
    world.run(limit_s=3600)
    assert world.session.abort_reason is None
    assert world.ended == "all stages ended"
    stages = len(world.plan.stages)
    for agent in world.agents:
        assert [stage for stage, _ in agent.starts] == list(range(stages))
        assert world.mirrored[agent.index] == agent.data
        assert world.session.agents[agent.name].outcome is Outcome.FINISHED
        assert world.session.agents[agent.name].state is AgentState.FINISHED
    assert [e["stage"] for e in world.events("commit")] == list(range(stages))
    assert [e["stage"] for e in world.events("stage_started")] == list(range(stages))
    assert [e["stage"] for e in world.events("stage_ended")] == list(range(stages))


@MANY
@given(flapping(), durations)
def test_agents_that_were_committed_in_time_start_together(faults: Faults, lengths: list[float]) -> None:
    world = World(faults, AGENTS, lengths)
    world.run(limit_s=3600)
    for commit in world.events("commit"):
        start_s = commit["start_controller_ns"] / 1e9
        for agent in world.agents:
            committed_at_s, _ = agent.commits[commit["stage"]]
            started_at_s = dict(agent.starts)[commit["stage"]]
            assert abs(started_at_s - max(start_s, committed_at_s)) <= CLOCK_ERROR_NS / 1e9 + 1e-6


@MANY
@given(flapping(), durations, st.integers(0, AGENTS - 1), st.floats(0.0, 90.0))
def test_a_failure_stops_everyone_and_is_named(faults: Faults, lengths: list[float], who: int, at_s: float) -> None:
    faults.failure = (who, at_s)
    world = World(faults, AGENTS, lengths)
    world.run(limit_s=3600)
    failed = any(record.get("outcome") == "failed" for agent in world.agents for record in agent.journal)
    if failed:
        assert world.session.abort_reason == f"agent-{who}: worker 0 was killed" + ("" if world.session.never_started else NEEDS_ALL)
        assert world.session.agents[f"agent-{who}"].state is AgentState.FAILED
        check_stopped(world)
    else:
        assert world.session.abort_reason is None


@MANY
@given(flapping(), st.integers(0, AGENTS - 1))
def test_a_refused_plan_leaves_nothing_behind(faults: Faults, who: int) -> None:
    faults.refuses_submit = who
    world = World(faults, AGENTS)
    world.run(limit_s=3600)
    assert world.session.never_started
    assert world.session.abort_reason == f"agent-{who}: no space left on device"
    check_stopped(world)


@settings(MANY, max_examples=20)
@given(flapping(), durations, st.floats(0.0, 90.0), st.floats(600.0, 8 * 3600.0))
def test_a_controller_that_sleeps_for_hours_ends_its_run(faults: Faults, lengths: list[float], at_s: float, for_s: float) -> None:
    faults.hits = [Hit("asleep", 0, at_s, for_s)]
    world = World(faults, AGENTS, lengths)
    world.run(limit_s=12 * 3600)
    assert world.session.abort_reason is None
    assert world.ended == "all stages ended"


@MANY
@given(flapping(), durations, st.floats(0.0, 90.0))
def test_the_operator_can_stop_at_any_moment(faults: Faults, lengths: list[float], at_s: float) -> None:
    faults.stop_at_s = at_s
    world = World(faults, AGENTS, lengths)
    world.run(limit_s=3600)
    if world.session.abort_reason is not None:
        assert world.session.abort_reason == "interrupted"
        check_stopped(world)


@MANY
@given(flapping(), st.integers(0, AGENTS - 1), st.floats(2.1, 40.0))
def test_an_agent_that_never_comes_back_is_lost_and_ends_the_run(faults: Faults, who: int, at_s: float) -> None:
    faults.cuts = [cut for cut in faults.cuts if cut.agent != who] + [Cut(who, at_s, 10 * RECONNECT_TIMEOUT_S)]
    world = World(faults, AGENTS, [60.0])
    world.run(limit_s=3600)
    assert world.session.abort_reason is not None
    assert world.session.abort_reason.startswith(f"agent-{who}: not reached for {RECONNECT_TIMEOUT_S:.0f} s")
    assert world.session.agents[f"agent-{who}"].state is AgentState.LOST
    check_stopped(world)


@MANY
@given(flapping(), st.integers(0, AGENTS - 1), st.floats(0.0, 40.0))
def test_an_agent_that_hangs_with_its_link_up_is_given_up_by_a_deadline(faults: Faults, who: int, at_s: float) -> None:
    faults.hits = [Hit("frozen", who, at_s, 0.0)]
    faults.cuts = [cut for cut in faults.cuts if cut.agent != who]
    world = World(faults, AGENTS, [60.0])
    world.run(limit_s=5 * 3600)
    assert world.session.abort_reason is not None
    assert world.session.abort_reason.startswith(f"agent-{who}: ")
    check_stopped(world)


any_cuts = st.lists(st.builds(Cut, agent=st.integers(0, AGENTS - 2), at_s=st.floats(0.0, 90.0), for_s=st.floats(0.05, 400.0)), max_size=8)


@MANY
@given(flapping(), any_cuts, st.one_of(st.none(), st.tuples(st.integers(0, AGENTS - 2), st.floats(4.0, 90.0))))
def test_with_best_effort_the_set_of_objects_is_complete_whoever_is_lost(
    faults: Faults, cuts: list[Cut], failure: tuple[int, float] | None
) -> None:
    """One agent keeps its link at least; all others may be lost at any time, or fail."""
    faults.cuts, faults.failure = cuts, failure
    world = World(faults, AGENTS, policy=FailurePolicy("best_effort", reconnect_timeout_s=RECONNECT_TIMEOUT_S, delay_s=5.0))
    world.run(limit_s=7200)
    if world.session.never_started:
        return  # lost before the start: that ends the run under every policy
    assert world.session.abort_reason is None
    for stage in (0, 2):
        ledgers = [r for agent in world.agents for r in agent.journal if r["kind"] == "ledger" and r["stage"] == stage]
        done = Intervals(piece for record in ledgers for piece in record["ranges"])
        assert done == Intervals([(0, OBJECTS)]), f"stage {stage}: {done}"
    for agent in world.agents:
        view = world.session.agents[agent.name]
        assert view.out or agent.journal[-1].get("outcome") == "finished"
        assert view.out == (view.state in (AgentState.LOST, AgentState.FAILED))
    lost = {e["agent"] for e in world.events("agent_lost")} | {e["agent"] for e in world.events("agent_failed")}
    given_away = [name for e in world.events("reassigned") for name in e["lost"]]
    assert sorted(given_away) == sorted(set(given_away)), "nobody's objects are given away twice"
    assert set(given_away) <= lost


def test_a_controller_that_is_off_the_network_for_too_long_ends_the_run() -> None:
    for away_s, ends in ((50.0, False), (90.0, True)):
        faults = Faults(seed=1, hits=[Hit("off_network", 0, 15.0, away_s)], witness=False)
        world = World(faults, AGENTS, [200.0], Options(cutoff_timeout_s=60.0))
        world.run(limit_s=3600)
        assert (world.session.abort_reason is not None) == ends, world.session.abort_reason
        assert not world.events("agent_lost")
        assert len(world.events("cut_off")) == 1
        if ends:
            assert "controller_cutoff_timeout" in (world.session.abort_reason or "")
            check_stopped(world)


def test_fail_fast_stops_the_agent_whose_link_broke_as_well() -> None:
    for seed in range(20):
        faults = Faults(seed=seed, cuts=[Cut(agent=1, at_s=15.0, for_s=1.0 + seed / 10)])
        world = World(faults, AGENTS, policy=FailurePolicy("fail_fast", reconnect_timeout_s=RECONNECT_TIMEOUT_S))
        world.run(limit_s=3600)
        assert "agent-1: link lost" in (world.session.abort_reason or "")
        assert world.events("stop_unconfirmed") == []
        assert all(agent.over for agent in world.agents)


def lengths_of_prepare(world: World, slow: int) -> None:
    """All are quick but one."""
    for agent in world.agents:
        agent._length_s = lambda agent=agent: 300.0 if agent.index == slow else 2.0  # type: ignore[method-assign,misc]


def test_an_agent_that_was_lost_between_its_release_and_the_start_is_fenced_by_a_lease_that_began_with_the_start() -> None:
    policy = FailurePolicy("best_effort", attempts=1, delay_s=2.0, reconnect_timeout_s=90.0)
    for seed in range(5):
        world = World(Faults(seed=seed), AGENTS, [], Options(start_delay_s=20.0), policy)
        lengths_of_prepare(world, slow=1)
        while not world.events("commit"):
            world.advance(0.1)
        world.advance(1.0)  # the commit arrives
        world.links[1].cut(600.0)
        world.run(limit_s=7200)
        assert world.events("fenced") == [{"agent": "agent-1"}]


def test_an_agent_that_fails_with_its_link_up_is_fenced_by_its_stop_or_its_lease() -> None:
    policy = FailurePolicy("best_effort", reconnect_timeout_s=90.0)
    world = World(Faults(seed=1), AGENTS, [], policy=policy)
    lengths_of_prepare(world, slow=1)
    while not world.events("stage_started"):
        world.advance(0.1)
    world.advance(100.0)
    # What it says last is that it has failed; that its processes end takes longer than all that is left to do for the others.
    world.agents[1].command = lambda command, answer: None  # type: ignore[method-assign]
    world.put(Refused("agent-1", Tag("adopt", 0, 1), AgentError("something is broken")))
    world.run(limit_s=7200)
    assert world.events("fenced") == [{"agent": "agent-1"}]


def test_a_lost_agent_is_fenced_before_a_stage_that_deletes_what_it_may_create_again() -> None:
    policy = FailurePolicy("best_effort", attempts=1, delay_s=2.0, reconnect_timeout_s=90.0)
    world = World(Faults(seed=1), AGENTS, [5.0], policy=policy, deletes=True)
    lengths_of_prepare(world, slow=1)
    while not world.events("stage_started"):
        world.advance(0.1)
    world.advance(30.0)
    world.links[1].cut(600.0)
    cut_s = world.now
    world.run(limit_s=7200)
    fenced, *_ = [at for at, log in world.log if log.event == "fenced"]
    released = [at for at, log in world.log if log.event == "commit" and log.fields["stage"] == 1]
    assert cut_s + policy.reconnect_timeout_s <= fenced <= released[0]


STEADY = Steady(window_s=5.0, min_duration_s=5.0)


def endings(world: World) -> list[tuple[int, int]]:
    """What each agent was told: how long the stage is to last, and how long it lasted there."""
    return [(r["duration_ns"], r["lasts_ns"]) for agent in world.agents for r in agent.journal if r["kind"] == "ending"]


def test_a_steady_stage_ends_at_once_for_all() -> None:
    world = World(Faults(seed=1), AGENTS, [300.0], steady=STEADY)
    world.run(limit_s=3600)
    (decided,) = world.events("steady")
    # The load grows for ten seconds.
    assert 12 <= decided["figures"]["after_s"] < decided["duration_ns"] / 1e9 < 40
    assert endings(world) == [(decided["duration_ns"], decided["duration_ns"])] * AGENTS
    assert world.events("not_steady") == []
    order = [log.event for _, log in world.log if log.event in ("stage_started", "steady", "stage_ended")]
    assert order == [*["stage_started", "stage_ended"], *["stage_started", "steady", "stage_ended"], *["stage_started", "stage_ended"]]


def test_who_cannot_be_reached_when_the_stage_is_to_end_ends_it_when_it_is_back() -> None:
    world = World(Faults(seed=2), AGENTS, [300.0], steady=STEADY)
    link = world.links[1]
    send = link.send

    def cut_off(effect: Send | MeasureClock, timeout_s: float) -> None:
        if isinstance(effect, Send) and effect.command["cmd"] == "end" and len(world.events("link_down")) == 0:
            link.cut(30.0)
        send(effect, timeout_s)

    link.send = cut_off  # type: ignore[method-assign]
    world.run(limit_s=3600)
    (decided,) = world.events("steady")
    duration_ns = decided["duration_ns"]
    lasts_ns = [lasts_ns for told_ns, lasts_ns in endings(world) if told_ns == duration_ns]
    assert [lasts_ns[index] for index in (0, 2, 3)] == [duration_ns] * 3
    # The end is a few seconds after the decision.
    assert duration_ns + 20e9 < lasts_ns[1] < duration_ns + 32e9
    assert world.session.agents["agent-1"].outcome is Outcome.FINISHED


def test_a_controller_that_is_resumed_keeps_to_the_end_that_was_decided() -> None:
    plain = World(Faults(seed=3), AGENTS, [300.0], steady=STEADY)
    while not plain.events("steady"):
        plain.advance(0.05)
    plain.close()
    known = 0
    # Around its event, and the command to each agent after it.
    for effect in range(plain.effects - AGENTS - 1, plain.effects + 3):
        world = World(Faults(seed=3, controller_crashes=[ControllerCrash(effect, 5.0, True)]), AGENTS, [300.0], steady=STEADY)
        while not world.events("run_resumed"):
            world.advance(0.5)
        before = world.events("steady")
        known += bool(before)
        world.run(limit_s=3600)
        (decided,) = world.events("steady")
        assert before in ([], [decided])
        assert {duration_ns for duration_ns, _ in endings(world)} == {decided["duration_ns"]}
    assert AGENTS <= known < AGENTS + 4


def test_an_agent_that_knows_of_the_end_and_hangs_is_given_up_long_before_the_planned_one() -> None:
    world = World(Faults(seed=2), AGENTS, [36000.0], steady=STEADY)
    while len(endings(world)) < AGENTS:
        world.advance(0.1)
    world.agents[1].freeze()
    began_s = world.now
    world.run(limit_s=3600)
    assert "no end 1277 s after its end was set" in (world.session.abort_reason or "")
    assert world.now - began_s < 1500


def test_whose_supervisor_dies_between_the_command_and_the_end_goes_on_to_that_end() -> None:
    world = World(Faults(seed=2), AGENTS, [300.0], steady=STEADY)
    while len(endings(world)) < AGENTS:
        world.advance(0.05)
    world.agents[1].kill_supervisor(0.5)
    world.run(limit_s=3600)
    (decided,) = world.events("steady")
    (began_s,) = [at_s for stage, at_s in world.agents[1].starts if stage == 1]
    (ended_s,) = [at_s for at_s, log in world.log if log.event == "stage_ended" and log.fields["stage"] == 1]
    assert ended_s - began_s < decided["duration_ns"] / 1e9 + 2.0
