"""What counts as steady, in series whose shape is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from sai3ssh.controller.steady import SteadyState
from sai3ssh.model import Steady

SPEC = Steady(window_s=60.0, slope=0.02, spread=0.05, min_duration_s=60.0)
SECOND = 1_000_000_000


def record(number: int, ops: float, *, size: int = 100, span_s: float = 1.0, warmup: bool = False) -> dict[str, Any]:
    """A second summary, of puts and gets alike."""
    half = int(ops / 2)
    figures = {"get": [half, half * size, 0, 0, 0, 0, 0], "put": [int(ops) - half, (int(ops) - half) * size, 0, 0, 0, 0, 0]}
    begin = 7 * SECOND + number * SECOND
    return {"second": number, "warmup": warmup, "from_clock_ns": begin, "to_clock_ns": begin + int(span_s * SECOND), "ops": figures}


def first_steady(rate: Callable[[int], float], spec: Steady = SPEC, seconds: int = 600, warmup_s: float = 0.0) -> int | None:
    """After how many seconds a lone agent is steady."""
    state = SteadyState(spec, warmup_s)
    for number in range(seconds):
        state.second("a", record(number, rate(number), warmup=number < warmup_s))
        if state.look(["a"]):
            assert state.figures is not None
            assert state.figures.after_s == number + 1
            return number + 1
    return None


def noise(share: float, seed: int = 1) -> Callable[[int], float]:
    rng = random.Random(seed)
    return lambda _: 10_000 * (1 + rng.uniform(-share, share))


def test_what_does_not_change_is_steady_after_one_window() -> None:
    assert first_steady(lambda _: 10_000) == 60


def test_what_drifts_is_not_steady_until_it_does_so_no_more() -> None:
    # 3 % of the mean in a minute, between 2 and 5 %: the slope alone says no.
    assert first_steady(lambda second: 10_000 + 5 * second, seconds=120) is None
    # From second 200 on it stays: the change within a window of 60 s falls below 2 % some time after.
    settled = first_steady(lambda second: 10_000 + 5 * min(200, second))
    assert settled is not None
    assert 205 <= settled <= 260
    assert first_steady(lambda second: 20_000 - 11 * second, seconds=400) is None


def test_the_slope_is_the_change_of_the_line_over_the_whole_window() -> None:
    state = SteadyState(SPEC, 0.0)
    for number in range(60):
        state.second("a", record(number, 9_000 + 10 * (number // 5) * 5))
    assert not state.look(["a"])
    assert state.figures is not None
    # 50 more in each of 12 rounds of 5 s: the line rises by 600, the rounds are 550 apart, around 9275.
    assert (state.figures.mean, state.figures.window_s) == (pytest.approx(9275), 60)
    assert state.figures.slope == pytest.approx(600 / 9275)
    assert state.figures.spread == pytest.approx(550 / 9275)


def test_what_swings_without_a_slope_is_not_steady() -> None:
    def swinging(period_s: int, share: float) -> Callable[[int], float]:
        return lambda second: 10_000 * (1 + share * math.sin(2 * math.pi * second / period_s))

    # In each window of 60 s there are two whole periods: the line of best fit is all but level.
    assert first_steady(swinging(30, 0.1)) is None
    assert first_steady(swinging(30, 0.02)) == 60
    # What swings within a round of 5 s is in the mean of each.
    assert first_steady(swinging(5, 0.5)) == 60


def test_noise_within_the_limits_is_steady_and_beyond_them_it_is_not() -> None:
    assert first_steady(noise(0.02)) == 60
    assert first_steady(noise(0.6)) is None


def test_in_a_short_window_each_second_is_a_round() -> None:
    spec = Steady(window_s=10.0, slope=0.02, spread=0.05, min_duration_s=0.0)
    assert first_steady(lambda _: 10_000, spec) == 10
    assert first_steady(lambda second: 10_000 + 1000 * (second % 2), spec) is None


def test_it_lasts_at_least_so_long() -> None:
    assert first_steady(lambda _: 10_000, Steady(min_duration_s=200.0)) == 200


def test_warm_up_does_not_count() -> None:
    # The warm-up would be steady, what follows is so only from its tenth second on.
    assert first_steady(lambda second: 500 if second < 60 else 1000 if second < 70 else 10_000, warmup_s=60.0) == 130
    # A second in which it ends is not one.
    assert first_steady(lambda _: 10_000, warmup_s=2.5) == 63


def test_several_windows_in_succession_must_be_steady() -> None:
    assert first_steady(lambda _: 10_000, Steady(confirm=3)) == 70
    # A peak in the second round leaves the windows when it is over; of three in succession none may have it.
    assert first_steady(lambda second: 20_000 if second < 10 else 10_000, Steady(confirm=1)) == 70
    assert first_steady(lambda second: 20_000 if second < 10 else 10_000, Steady(confirm=3)) == 80


def test_bytes_can_be_steady_where_operations_are_not() -> None:
    state = {metric: SteadyState(Steady(metric=metric), 0.0) for metric in ("ops", "bytes")}
    found = dict.fromkeys(state, False)
    for number in range(120):
        size = 100 if number < 90 else 200
        told = record(number, 20_000 * 50 / size, size=size)
        for metric, one in state.items():
            one.second("a", told)
            found[metric] = one.look(["a"]) or found[metric] if number >= 90 else one.look(["a"]) and False
    assert found == {"ops": False, "bytes": True}


def test_nothing_done_is_not_steady() -> None:
    assert first_steady(lambda _: 0) is None


def test_only_the_sum_of_all_agents_matters() -> None:
    state = SteadyState(SPEC, 0.0)
    for number in range(60):
        for name, ops in (("a", 10_000 + 50 * number), ("b", 10_000 - 50 * number)):
            state.second(name, record(number, ops))
    assert state.look(["a", "b"])
    assert state.figures is not None
    assert state.figures.mean == pytest.approx(20_000)


def test_seconds_count_once_all_agents_have_told_them() -> None:
    late = SteadyState(SPEC, 0.0)
    for number in range(70):
        late.second("a", record(number, 10_000))
        assert not late.look(["a", "b"])
    for number in range(60):
        assert not late.look(["a", "b"])
        late.second("b", record(number, 10_000))
        late.second("b", record(number, 10_000))
    assert late.look(["a", "b"])
    assert late.figures is not None
    assert late.figures.after_s == 60
    # The same window is not looked at twice.
    assert not late.look(["a", "b"])


def test_who_is_far_behind_is_waited_for() -> None:
    """It was steady once; whether it still is only the rest tells."""
    state = SteadyState(SPEC, 0.0)
    for number in range(200):
        state.second("a", record(number, 10_000 if number < 70 else 10_000 + 1000 * (number % 10)))
    for number in range(200):
        state.second("b", record(number, 10_000))
        assert not state.look(["a", "b"]), number


@pytest.mark.parametrize("confirm", [1, 4])
def test_what_is_forgotten_is_not_needed(confirm: int) -> None:
    """One agent is as far behind as may be; the other has told, and forgotten, as much as it can."""
    state = SteadyState(Steady(window_s=10.0, min_duration_s=500.0, confirm=confirm), 0.0)
    for number in range(510):
        state.second("a", record(number, 10_000))
    for number in range(500):
        assert not state.look(["a", "b"])
        state.second("b", record(number, 10_000))
    assert state.look(["a", "b"])
    assert all(len(told) < 60 for told in state._told.values())


def test_windows_with_lost_time_are_passed_over() -> None:
    def steady_after(*missing: int, short: int | None = None) -> int | None:
        state = SteadyState(SPEC, 0.0)
        for number in range(200):
            state.second("a", record(number, 10_000))
            if number == short:
                state.second("b", record(number, 3_000, span_s=0.3))
            elif number not in missing:
                state.second("b", record(number, 10_000))
            if state.look(["a", "b"]):
                return number + 1
        return None

    assert steady_after() == 60
    # Round 20 to 25 s lacks a second: the first whole window begins at 25 s.
    assert steady_after(22) == 85
    assert steady_after(22, 23, 24, 25) == 90
    assert steady_after(short=22) == 85


def test_a_summary_that_came_late_is_a_rate_all_the_same() -> None:
    state = SteadyState(SPEC, 0.0)
    for number in range(60):
        span_s = 1.2 if number % 2 else 0.8
        state.second("a", record(number, 10_000 * span_s, span_s=span_s))
    assert state.look(["a"])
    assert state.figures is not None
    assert state.figures.spread == pytest.approx(0.0, abs=1e-3)


def test_when_an_agent_is_lost_the_others_are_looked_at_as_if_it_had_never_been_there() -> None:
    state = SteadyState(SPEC, 0.0)
    for number in range(100):
        state.second("a", record(number, 10_000))
        if number < 80:
            state.second("b", record(number, 10_000 + 100 * number))
        assert not state.look(["a", "b"])
    assert state.look(["a"])
    assert state.figures is not None
    assert (state.figures.after_s, state.figures.mean) == (100, pytest.approx(10_000))
