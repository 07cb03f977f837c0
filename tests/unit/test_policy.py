"""What the loss of agents means: the decision table, the time of losses, who gets what a lost agent owned."""

from __future__ import annotations

from typing import Any

import pytest

from sai3ssh.controller.agentview import Agent
from sai3ssh.controller.estate import Estate
from sai3ssh.controller.losses import Losses
from sai3ssh.controller.policy import ROUND_S, Decision, on_agent_gone, round_delay_s
from sai3ssh.model import Assignment, FailurePolicy, Intervals, Plan, Population, SizeSpec, Stage, StageKind, Target


@pytest.mark.parametrize(
    ("name", "least", "remaining", "goes_on"),
    [
        ("fail_fast", 1, 7, False),
        ("retry_once", 1, 7, False),
        ("retry", 1, 7, False),
        ("best_effort", 1, 1, True),
        ("best_effort", 1, 0, False),
        ("best_effort", 6, 6, True),
        ("best_effort", 6, 5, False),
        ("continue_if_majority", 1, 5, True),
        ("continue_if_majority", 1, 4, False),
        ("continue_if_majority", 6, 5, False),
    ],
)
def test_the_decision_table(name: str, least: int, remaining: int, goes_on: bool) -> None:
    decision, why = on_agent_gone(FailurePolicy(name, least), remaining, 8)
    assert (decision is Decision.GO_ON) is goes_on
    assert bool(why) is not goes_on


def test_rounds_wait_longer_each_time_up_to_the_cap_with_jitter() -> None:
    policy = FailurePolicy("retry", delay_s=10.0, max_delay_s=60.0)
    assert [round_delay_s(policy, n, lambda: 0.5) for n in range(1, 6)] == [10.0, 20.0, 40.0, 60.0, 60.0]
    assert (round_delay_s(policy, 1, lambda: 0.0), round_delay_s(policy, 1, lambda: 1.0)) == (7.5, 12.5)


class Watch:
    """Losses of some agents, driven by hand."""

    def __init__(self, policy: FailurePolicy, agents: int = 2) -> None:
        self.agents = [Agent(Assignment(f"h{n}", n, agents, {})) for n in range(agents)]
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.rounds: list[str] = []
        self.lost: dict[str, str] = {}
        self.losses = Losses(
            policy,
            random=lambda: 0.5,
            log=lambda event, **fields: self.logged.append((event, fields)),
            begin_round=lambda agent: self.rounds.append(agent.name),
            lost=self._lost,
        )
        self.now = 0.0
        for agent in self.agents:
            agent.linked = True

    def _lost(self, agent: Agent, text: str) -> None:
        self.lost[agent.name] = text
        agent.out = True

    def cut(self, *numbers: int) -> None:
        for n in numbers:
            self.agents[n].linked = False
            self.losses.link_lost(self.agents[n], self.now)

    def back(self, number: int) -> None:
        self.agents[number].linked, self.agents[number].lost_since_s = True, None

    def run(self, seconds: float, step_s: float = 0.25) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step_s
            self.losses.advance(self.agents, self.now)

    def names(self) -> list[str]:
        return [event for event, _ in self.logged]


def test_without_a_limit_of_rounds_the_time_decides() -> None:
    watch = Watch(FailurePolicy("retry", delay_s=10.0, max_delay_s=20.0, reconnect_timeout_s=100.0))
    watch.run(1.0)
    watch.cut(0)
    watch.run(99.5)
    assert watch.lost == {}
    assert watch.rounds == ["h0"] * 5, "after 10, 30, 50, 70 and 90 s"
    watch.run(1.0)
    assert list(watch.lost) == ["h0"]
    assert "reconnect_timeout" in watch.lost["h0"]


def test_rounds_that_are_used_up_make_an_agent_lost() -> None:
    watch = Watch(FailurePolicy("retry", attempts=2, delay_s=10.0))
    watch.run(1.0)
    watch.cut(0)
    watch.run(30.0 + ROUND_S - 0.5)
    assert watch.rounds == ["h0", "h0"]
    assert watch.lost == {}
    watch.run(1.0)
    assert "agent_retry_attempts" in watch.lost["h0"]


def test_a_link_that_is_back_begins_anew_with_its_next_loss() -> None:
    watch = Watch(FailurePolicy("retry", attempts=1, delay_s=10.0))
    watch.run(1.0)
    for _ in range(5):
        watch.cut(0)
        watch.run(9.0)
        watch.back(0)
        watch.run(1.0)
    assert watch.lost == {}
    assert watch.rounds == []


def test_a_controller_that_is_off_the_network_gives_nobody_up() -> None:
    watch = Watch(FailurePolicy("retry", reconnect_timeout_s=60.0))
    watch.run(1.0)
    watch.cut(0, 1)
    watch.run(500.0)
    assert watch.lost == {}
    assert watch.names() == ["cut_off"]
    assert watch.losses.cut_off_s > 490
    watch.back(1)
    watch.run(59.0)
    assert watch.lost == {}
    assert watch.names()[1] == "cut_off_over"
    watch.run(2.0)
    assert list(watch.lost) == ["h0"], "now another one is reached, so the time counts"


def test_the_gateway_is_a_witness() -> None:
    watch = Watch(FailurePolicy("retry", reconnect_timeout_s=60.0))
    watch.run(1.0)
    watch.cut(0, 1)
    watch.losses.witness = True
    watch.run(61.0)
    assert sorted(watch.lost) == ["h0", "h1"]
    assert "cut_off" not in watch.names()


def test_an_agent_that_has_finished_shows_that_the_controller_is_on_its_network() -> None:
    watch = Watch(FailurePolicy("retry", reconnect_timeout_s=60.0))
    watch.run(1.0)
    watch.agents[0].complete = True
    watch.cut(1)
    watch.run(61.0)
    assert list(watch.lost) == ["h1"]
    assert "cut_off" not in watch.names()


def test_sleep_of_the_controller_counts_against_nobody() -> None:
    watch = Watch(FailurePolicy("retry", reconnect_timeout_s=60.0))
    watch.run(1.0)
    watch.cut(0)
    watch.run(30.0)
    watch.now += 3600.0
    watch.losses.advance(watch.agents, watch.now)
    assert ("slept", {"seconds": 3600.0}) in watch.logged
    watch.run(29.0)
    assert watch.lost == {}
    watch.run(2.0)
    assert list(watch.lost) == ["h0"]


def estate() -> tuple[Estate, list[Agent]]:
    population = Population("p", "s3://b/", "%d", 100, SizeSpec("fixed", 1, 1), 1)
    stages = (Stage("prepare", StageKind.PREPARE, 1, populations=("p",)), Stage("run", StageKind.EXECUTE, 1, duration_s=1.0))
    plan = Plan("r", "r", Target("s3"), (population,), stages)
    ranges = [(0, 40), (40, 70), (70, 100)]
    return Estate(plan), [Agent(Assignment(f"h{n}", n, 3, {"p": (r,)})) for n, r in enumerate(ranges)]


def test_all_that_a_lost_agent_owned_is_divided_and_only_the_rest_is_to_be_done() -> None:
    books, agents = estate()
    books.record({"stage": 0, "population": "p", "ranges": [[0, 10], [20, 25]]})
    books.record({"stage": 0, "population": "put-0", "ranges": [[0, 10]]})
    assert books.missing(agents[0], 0) == {"p": Intervals([(10, 20), (25, 40)])}
    assert books.missing(agents[0], 1) == {}
    parts = books.divide(agents[0], agents[1:], 0)
    owned = [Intervals(part["ranges"]["p"]) for part in parts.values()]
    done = [Intervals(part["done"]["p"]) for part in parts.values()]
    assert [len(part) for part in owned] == [19, 21]
    together = Intervals([*owned[0], *owned[1]])
    assert together == Intervals([(0, 40)])
    assert Intervals([*done[0], *done[1]]) == Intervals([(0, 10), (20, 25)])
    assert [len(mine.subtract(mine_done)) for mine, mine_done in zip(owned, done, strict=True)] == [12, 13]


def test_of_a_finished_prepare_only_ownership_is_divided() -> None:
    books, agents = estate()
    books.record({"stage": 0, "population": "p", "ranges": [[0, 100]]})
    parts = books.divide(agents[2], agents[:2], 1)
    assert [(part["ranges"], part["done"]) for part in parts.values()] == [({"p": [[70, 85]]}, {}), ({"p": [[85, 100]]}, {})]


def test_what_a_lost_agent_had_finished_altogether_is_not_done_again_when_the_stage_is_opened_for_another_one() -> None:
    books, agents = estate()
    books.record({"stage": 0, "population": "p", "ranges": [[0, 40]]})
    parts = books.divide(agents[0], agents[1:], 0)
    assert [(part["ranges"], part["done"]) for part in parts.values()] == [
        ({"p": [[0, 20]]}, {"p": [[0, 20]]}),
        ({"p": [[20, 40]]}, {"p": [[20, 40]]}),
    ]
