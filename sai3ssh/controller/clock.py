"""The controller's clock, and how far a host's clock is from it.

The offset is estimated as in Cristian, "Probabilistic clock synchronization", Distributed Computing 3 (1989): of many round trips the
shortest one is believed, and the host is taken to have read its clock in the middle of it. The truth then lies within half of that round
trip. An asymmetric path shifts the estimate by half the asymmetry, which no exchange of messages can reveal; the bound still holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import Transient

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC counts while the machine sleeps, which is what matters here."""

ROUNDS = 32


def clock_ns() -> int:
    """Nanoseconds of the controller's clock: monotonic, counting while the machine sleeps."""
    return time.clock_gettime_ns(_CLOCK)


def clock_s() -> float:
    """The same in seconds, for timers."""
    return time.clock_gettime(_CLOCK)


class Pong(NamedTuple):
    """One answered ping: when it left and came back on the controller's clock, and what the host's clock said in between."""

    sent_ns: int
    received_ns: int
    boot: str
    host_clock_ns: int


@dataclass(frozen=True)
class ClockOffset:
    """How a host's clock relates to the controller's, for one boot of the host."""

    offset_ns: int
    """Host clock minus controller clock."""
    error_ns: int
    """The truth is within this of offset_ns: half the round trip."""
    boot: str
    at_ns: int
    """When it was measured, on the controller's clock: quartz drifts by up to some 100 us a second."""

    def to_host_ns(self, controller_ns: int) -> int:
        """The host's reading at that moment of the controller's clock."""
        return controller_ns + self.offset_ns


def estimate(ping: Callable[[], Pong], rounds: int = ROUNDS) -> ClockOffset:
    """The offset by the shortest of `rounds` round trips. Raises Transient when the host reboots meanwhile."""
    best: Pong | None = None
    for _ in range(rounds):
        pong = ping()
        if best is not None and pong.boot != best.boot:
            raise Transient("the host rebooted while its clock was measured", phase="clock", remedy="Measure again")
        if best is None or pong.received_ns - pong.sent_ns < best.received_ns - best.sent_ns:
            best = pong
    assert best is not None, "rounds is at least 1"
    rtt_ns = best.received_ns - best.sent_ns
    return ClockOffset(
        offset_ns=best.host_clock_ns - (best.sent_ns + best.received_ns) // 2,
        error_ns=(rtt_ns + 1) // 2,
        boot=best.boot,
        at_ns=best.received_ns,
    )
