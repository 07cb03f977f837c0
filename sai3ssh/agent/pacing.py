"""When operations may begin: those of an open loop, and those of a closed one that fills up slowly."""

from __future__ import annotations

import math
import random
from typing import Optional, Tuple

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
            self._first()
        return self._base_ns + int(self._at)

    def _first(self) -> None:
        if self._law == "deterministic":
            self._at += self._phase * self._gap_ns
        else:
            self.advance()

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


class RampedPacer(Pacer):
    """A schedule whose rate grows linearly from nothing to all of it in the first `ramp_s` seconds of the stage.

    It is the schedule of the full rate with time stretched: t seconds after the start of the stage, before the end of the ramp, as much
    is due as with the full rate after t * t / (2 * ramp_s). One who comes late finds the rate that belongs to the time.
    """

    def __init__(self, rate: IoRate, share: float, phase: float, start_ns: int, rng: random.Random, ramp_s: float) -> None:
        super().__init__(rate, share, phase, start_ns, rng)
        self._ramp_ns = ramp_s * SECOND_NS

    def due_ns(self, now_ns: int) -> int:
        """When the next operation is due."""
        if self._base_ns is None:
            self._base_ns = self._start_ns
            self._at = self._unstretched(max(0, now_ns - self._start_ns))
            self._first()
        half = self._ramp_ns / 2
        return self._base_ns + int(self._at + half if self._at >= half else math.sqrt(2 * self._ramp_ns * self._at))

    def _unstretched(self, ns: float) -> float:
        return ns * ns / (2 * self._ramp_ns) if ns < self._ramp_ns else ns - self._ramp_ns / 2

    def backlog(self, end_ns: int) -> int:
        """About how many operations were due before end_ns and had not begun."""
        if self._base_ns is None:
            return 0
        return max(0, round((self._unstretched(end_ns - self._base_ns) - self._at) / self._gap_ns))


class Ramp:
    """A closed loop that fills up: the operations in flight that an agent may have grow linearly, from the first at the start of the stage
    to all of `concurrency` at the end of the ramp."""

    def __init__(self, ramp_s: float, concurrency: int, lane: Tuple[int, int], start_ns: int) -> None:
        """`lane` (n, of): the n-th of so many workers has the n-th of so many places in flight, and so on."""
        self._start_ns = start_ns
        self._place_ns = ramp_s * SECOND_NS / concurrency
        self._lane = lane
        self._in_flight = 0
        self.end_ns = start_ns + int(ramp_s * SECOND_NS)

    def due_ns(self, now_ns: int) -> int:
        """When the next operation may begin: now, or when there is a further place."""
        n, of = self._lane
        return max(now_ns, self._start_ns + int((n + self._in_flight * of) * self._place_ns))

    def advance(self) -> None:
        """An operation has begun."""
        self._in_flight += 1

    def ended(self) -> None:
        """An operation has ended."""
        self._in_flight -= 1
