"""When the operations of an open loop are due."""

from __future__ import annotations

import random
from typing import Optional

from sai3ssh.model import IoRate

SECOND_NS = 1_000_000_000


class Pacer:
    """The schedule of one worker: its share of the agent's rate, whatever becomes of the operations.

    Gaps between operations are exponential (arrivals of a Poisson process), uniform on [0, 2/rate], or all alike (deterministic); their
    mean is 1/rate in all three. The schedule begins with the stage, or with the first question when that comes later: what a worker that
    was killed did not begin is lost time, and no backlog for the next one.
    """

    def __init__(self, rate: IoRate, share: float, phase: float, start_ns: int, rng: random.Random) -> None:
        """`share` of the rate, in (0, 1]; `phase` in [0, 1) shifts a deterministic schedule by so much of a gap, so that the schedules of
        an agent's workers interleave; `start_ns` is the start of the stage (CLOCK_MONOTONIC)."""
        self._gap_ns = SECOND_NS / (rate.iops * share)
        self._law = rate.distribution
        self._phase = phase
        self._start_ns = start_ns
        self._rng = rng
        self._base_ns: Optional[int] = None
        self._at = 0.0

    def due_ns(self, now_ns: int) -> int:
        """When the next operation is due."""
        if self._base_ns is None:
            self._base_ns = max(self._start_ns, now_ns)
            if self._law == "deterministic":
                self._at = self._phase * self._gap_ns
            else:
                self.advance()
        return self._base_ns + int(self._at)

    def advance(self) -> None:
        """The operation that was due has begun."""
        if self._law == "exponential":
            self._at += self._rng.expovariate(1.0) * self._gap_ns
        elif self._law == "uniform":
            self._at += self._rng.random() * 2 * self._gap_ns
        else:
            self._at += self._gap_ns

    def backlog(self, end_ns: int) -> int:
        """About how many operations were due before end_ns and had not begun."""
        return 0 if self._base_ns is None else max(0, round((end_ns - self._base_ns - self._at) / self._gap_ns))
