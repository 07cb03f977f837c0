"""Trying again: the policies by which transient errors are retried. The one module that knows tenacity."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from .errors import Transient

T = TypeVar("T")


def is_transient(error: BaseException) -> bool:
    """Whether the same attempt may succeed later. Everything else is for a person to change."""
    return isinstance(error, Transient)


@dataclass(frozen=True)
class Backoff:
    """Exponential delays: after attempt n first_s * multiplier ** (n - 1), at most max_s, give or take the jitter's share of it."""

    first_s: float = 0.2
    max_s: float = 5.0
    multiplier: float = 2.0
    jitter: float = 0.25
    random: Callable[[], float] = random.random

    def delay_s(self, attempt: int) -> float:
        """The delay after that attempt, counted from 1."""
        # The exponent is bounded so that an attempt number in the thousands is no overflow.
        delay = min(self.max_s, self.first_s * self.multiplier ** min(attempt - 1, 64))
        return delay * (1 + self.jitter * (2 * self.random() - 1))


@dataclass(frozen=True)
class RetryPolicy:
    """Calls again while errors are transient, until the deadline, the attempts or the stop event end it; then raises the last error."""

    deadline_s: float
    """Counted from the start of the first attempt; no attempt begins after it. math.inf: no deadline."""
    backoff: Backoff = Backoff()
    attempts: int | None = None
    stop: threading.Event | None = None
    """Ends the retrying at once, even in the middle of a delay."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] | None = None
    """None: wait on the stop event, or time.sleep."""
    on_retry: Callable[[int, BaseException, float], None] | None = None
    """Told of each failed attempt: its number from 1, the error, and the delay in seconds before the next."""

    def call(self, function: Callable[[], T]) -> T:
        """The result of the first attempt that succeeds."""
        started = self.clock()

        def wait(state: tenacity.RetryCallState) -> float:
            delay = self.backoff.delay_s(state.attempt_number)
            return max(0.0, min(delay, started + self.deadline_s - self.clock()))

        def enough(state: tenacity.RetryCallState) -> bool:
            return (
                self.clock() - started >= self.deadline_s
                or (self.attempts is not None and state.attempt_number >= self.attempts)
                or (self.stop is not None and self.stop.is_set())
            )

        def before_sleep(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if self.on_retry and error:
                self.on_retry(state.attempt_number, error, state.upcoming_sleep)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=wait,
            stop=enough,
            sleep=self._sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        return retrying(function)

    def _sleep(self, delay_s: float) -> None:
        if self.sleep is not None:
            self.sleep(delay_s)
        elif self.stop is not None:
            self.stop.wait(delay_s)
        else:
            time.sleep(delay_s)
