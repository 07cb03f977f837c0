"""What goes over one link: heartbeat round trips, bytes, records, and what each reconnection cost."""

from __future__ import annotations

import threading

from ..histogram import Histogram
from ..protocol import Json


class Traffic:
    """Counted by the link's thread, taken by any other; what is taken is counted once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clear()
        self._refetch_to = 0
        """Journal offset up to which the agent had journalled while the link was down."""
        self._began_s: float | None = None
        """When the reconnection began whose first byte is awaited."""

    def _clear(self) -> None:
        self._rtt = Histogram()
        self._counts = dict.fromkeys(("received_bytes", "records", "refetched_bytes", "refetched_records"), 0)
        self._resume_s: list[float] = []

    def round_trip(self, ns: int) -> None:
        """A heartbeat was answered."""
        with self._lock:
            self._rtt.record(ns)

    def received(self, count: int) -> None:
        """Bytes have come, of whatever kind."""
        with self._lock:
            self._counts["received_bytes"] += count

    def reconnected(self, began_s: float, now_s: float, offset: int, committed: int) -> None:
        """The journal is followed again, from `offset`; the agent has `committed` bytes of it, and the connection was begun at began_s."""
        with self._lock:
            self._refetch_to = committed
            self._began_s = began_s
            if committed <= offset:
                self._resumed(now_s)

    def journalled(self, offset: int, count: int, records: int, now_s: float) -> None:
        """`count` bytes of the journal have come, from `offset` on, and made so many records whole."""
        with self._lock:
            self._resumed(now_s)
            self._counts["records"] += records
            if offset < self._refetch_to:
                self._counts["refetched_bytes"] += min(offset + count, self._refetch_to) - offset
                self._counts["refetched_records"] += records

    def _resumed(self, now_s: float) -> None:
        if self._began_s is not None:
            self._resume_s.append(round(now_s - self._began_s, 6))
            self._began_s = None

    def take(self) -> Json:
        """What was counted since the last time, as the fields of a `network` event:

        rtt                  {cells, sum_ns, max_ns} of the round trips (Histogram), None without one
        received_bytes       of all that was received, frames and answers included
        records              that became whole
        refetched_bytes, refetched_records
                             of the journal, written while the link was down and fetched when it was back
        resume_s             of each reconnection: seconds from the beginning of the connection attempt that succeeded to the first byte
                             of the journal that was missing; to the agent's answer when nothing was
        """
        with self._lock:
            rtt = self._rtt
            cells = {"cells": rtt.to_pairs(), "sum_ns": rtt.sum_ns, "max_ns": rtt.max_ns} if rtt.count else None
            taken: Json = {"rtt": cells, **self._counts, "resume_s": self._resume_s}
            self._clear()
        return taken
