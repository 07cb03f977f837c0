"""Faults that are chosen while the run goes on, by a Hypothesis state machine: it looks for the shortest sequence that breaks a promise."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sai3ssh.controller.effects import StopRequested
from sai3ssh.model import FailurePolicy
from tests.simulation.schedules import AGENTS, HITS, LIMIT_S, RARE_HITS, check
from tests.simulation.world import ControllerCrash, Faults, Hit, World

agents = st.integers(0, AGENTS - 1)
spans = st.floats(0.1, 80.0)


class AnyOrder(RuleBasedStateMachine):
    """A run, and a person with a pair of pliers. The world checks its invariants after every input; at the end all must be well."""

    shortest_s: ClassVar[dict[str, float]] = {"asleep": 6.0}
    """What is shorter is no sleep to a controller."""

    @initialize(
        name=st.sampled_from(["fail_fast", "retry_once", "retry", "best_effort", "continue_if_majority"]),
        attempts=st.sampled_from([None, 2]),
        lengths=st.lists(st.floats(0.0, 20.0), max_size=2),
        credentials=st.booleans(),
    )
    def begin(self, name: str, attempts: int | None, lengths: list[float], credentials: bool) -> None:
        attempts = None if name in ("fail_fast", "retry_once") else attempts
        policy = FailurePolicy(name, attempts=attempts, delay_s=2.0, max_delay_s=20.0, reconnect_timeout_s=30.0)
        self.world = World(Faults(witness=True), AGENTS, lengths, policy=policy, credentials=credentials)

    @property
    def runs(self) -> bool:
        return self.world.ended is None and self.world.quit is None

    @rule(seconds=st.floats(0.01, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @precondition(lambda self: self.runs)
    @rule(agent=agents, seconds=spans)
    def link_breaks(self, agent: int, seconds: float) -> None:
        self.world.links[agent].cut(seconds)

    @precondition(lambda self: self.runs)
    @rule(kind=st.sampled_from(HITS + RARE_HITS), agent=agents, seconds=spans)
    def something_happens(self, kind: str, agent: int, seconds: float) -> None:
        hit = Hit(kind, agent, 0.0, max(seconds, self.shortest_s.get(kind, 0.5)))
        self.world.faults.hits.append(hit)
        self.world.hit(hit)

    @precondition(lambda self: self.runs)
    @rule(effects=st.integers(1, 10), seconds=spans, power_cut=st.booleans(), from_agents=st.booleans())
    def controller_dies(self, effects: int, seconds: float, power_cut: bool, from_agents: bool) -> None:
        crash = ControllerCrash(self.world.effects + effects, seconds, power_cut, from_agents)
        self.world.faults.controller_crashes.append(crash)

    @precondition(lambda self: self.runs)
    @rule()
    def operator_stops(self) -> None:
        self.world.put(StopRequested("interrupted"))

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.run(LIMIT_S)
        check(self.world)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=150, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
