from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest

from sai3ssh.errors import AuthenticationError, LinkLost, Permanent, Transient
from sai3ssh.retry import Backoff, RetryPolicy, is_transient


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now += delay_s


def failing(times: int, error: BaseException) -> Callable[[], int]:
    calls = iter(range(1, times + 2))

    def function() -> int:
        number = next(calls)
        if number <= times:
            raise error
        return number

    return function


EXACT = Backoff(first_s=1.0, max_s=8.0, jitter=0.0)


def test_only_transient_errors_are_retried() -> None:
    assert is_transient(LinkLost("x"))
    assert is_transient(Transient("x"))
    for error in (Permanent("x"), AuthenticationError("x"), OSError("x"), KeyboardInterrupt()):
        assert not is_transient(error)
    virtual = Time()
    policy = RetryPolicy(100, EXACT, clock=virtual.clock, sleep=virtual.sleep)
    for error in (Permanent("no"), ValueError("no")):
        with pytest.raises(type(error)):
            policy.call(failing(1, error))
    assert virtual.slept == []


def test_delays_grow_to_their_limit_and_the_result_comes_through() -> None:
    virtual = Time()
    seen: list[tuple[int, str, float]] = []
    policy = RetryPolicy(
        1000,
        EXACT,
        clock=virtual.clock,
        sleep=virtual.sleep,
        on_retry=lambda number, error, delay_s: seen.append((number, str(error), delay_s)),
    )
    assert policy.call(failing(6, LinkLost("gone"))) == 7
    assert virtual.slept == [1, 2, 4, 8, 8, 8]
    assert seen[:2] == [(1, "gone", 1.0), (2, "gone", 2.0)]


def test_the_deadline_ends_it_with_the_last_error_itself() -> None:
    virtual = Time()
    error = LinkLost("gone")
    with pytest.raises(LinkLost) as caught:
        RetryPolicy(10, EXACT, clock=virtual.clock, sleep=virtual.sleep).call(failing(99, error))
    assert caught.value is error
    assert virtual.slept == [1, 2, 4, 3], "the last delay ends at the deadline"


def test_attempts_limit() -> None:
    virtual = Time()
    with pytest.raises(Transient):
        RetryPolicy(math.inf, EXACT, attempts=3, clock=virtual.clock, sleep=virtual.sleep).call(failing(99, Transient("x")))
    assert len(virtual.slept) == 2


def test_jitter_stays_within_its_share() -> None:
    assert Backoff(2.0, 8.0, jitter=0.25, random=lambda: 0.0).delay_s(1) == pytest.approx(1.5)
    assert Backoff(2.0, 8.0, jitter=0.25, random=lambda: 1.0).delay_s(9) == pytest.approx(10.0)
    assert Backoff().delay_s(100_000) < 10
    delays = {Backoff().delay_s(3) for _ in range(20)}
    assert len(delays) > 10


def test_the_stop_event_ends_a_delay_at_once() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Transient):
        RetryPolicy(600, Backoff(first_s=300, max_s=300), stop=stop).call(failing(99, Transient("x")))
    assert time.monotonic() - began < 10
