"""At most a few handshakes at a time per sshd.

sshd's default MaxStartups (10:30:100) begins to drop connections at ten unauthenticated ones: 40 hosts behind one bastion that all come
back in the same second would mostly be refused.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

from ..errors import Transient

Endpoint = tuple[str, int]


class Gate:
    """Lets `limit` callers per endpoint through at once. The endpoint is the first sshd on the way: the jump host where there is one."""

    def __init__(
        self,
        limit: int = 8,
        jitter_s: float = 0.2,
        *,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._limit = limit
        self._jitter_s = jitter_s
        self._sleep = sleep
        self._uniform = uniform
        self._lock = threading.Lock()
        self._slots: dict[Endpoint, threading.BoundedSemaphore] = {}

    @contextlib.contextmanager
    def enter(self, endpoint: Endpoint, timeout_s: float) -> Iterator[None]:
        """Holds a slot of the endpoint; raises Transient when none becomes free in time."""
        with self._lock:
            slots = self._slots.setdefault(endpoint, threading.BoundedSemaphore(self._limit))
        if not slots.acquire(blocking=False):
            if not slots.acquire(timeout=max(0.0, timeout_s)):
                raise Transient(
                    f"{self._limit} other connections to {endpoint[0]} port {endpoint[1]} were not finished in {timeout_s:.1f} s"
                )
            # Only those who waited are spread out: a single reconnect loses no time.
            self._sleep(self._uniform(0, self._jitter_s))
        try:
            yield
        finally:
            slots.release()
