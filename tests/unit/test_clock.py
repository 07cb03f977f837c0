from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sai3ssh.controller.clock import ClockOffset, Pong, clock_ns, clock_s, estimate
from sai3ssh.errors import Transient


def pings(delays: list[tuple[int, int]], offset_ns: int, boot: str = "b") -> list[Pong]:
    """Pongs for (outward, back) delays in nanoseconds, an hour apart."""
    result = []
    for number, (out, back) in enumerate(delays):
        sent = number * 3_600_000_000_000
        result.append(Pong(sent, sent + out + back, boot, sent + out + offset_ns))
    return result


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=40),
    st.integers(-(10**18), 10**18),
)
def test_the_truth_is_within_the_bound_whatever_the_path(delays: list[tuple[int, int]], offset_ns: int) -> None:
    answers = iter(pings(delays, offset_ns))
    found = estimate(lambda: next(answers), len(delays))
    assert abs(found.offset_ns - offset_ns) <= found.error_ns
    assert found.error_ns == (min(out + back for out, back in delays) + 1) // 2
    assert found.boot == "b"


def test_a_symmetric_path_is_exact() -> None:
    rng = random.Random(1)
    delays = [(d, d) for d in (rng.randrange(100_000, 10**8) for _ in range(32))]
    answers = iter(pings(delays, 123_456_789))
    assert estimate(lambda: next(answers)).offset_ns == 123_456_789


def test_a_reboot_in_between_is_noticed() -> None:
    answers = iter([*pings([(1, 1)], 0, "before"), *pings([(1, 1)], 0, "after")])
    with pytest.raises(Transient, match="rebooted"):
        estimate(lambda: next(answers), 2)


def test_there_and_back() -> None:
    offset = ClockOffset(offset_ns=-5, error_ns=1, boot="b", at_ns=0)
    assert offset.to_host_ns(100) == 95


def test_the_two_readings_are_one_clock() -> None:
    before, seconds, after = clock_ns(), clock_s(), clock_ns()
    assert before / 1e9 - 1e-3 <= seconds <= after / 1e9 + 1e-3
