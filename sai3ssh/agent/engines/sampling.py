"""Which reads are compared with what was written, where only a share of them is."""

from __future__ import annotations

import itertools


class Sample:
    """Says yes to a share, 0 to 1, of the calls, spread evenly: after n calls n * share times, rounded down. For any number of threads."""

    __slots__ = ("_calls", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        # next() of a count is one step of the interpreter: no call is lost or counted twice.
        self._calls = itertools.count()

    def __call__(self) -> bool:
        """Whether this one is of the share."""
        n = next(self._calls)
        return int((n + 1) * self._share) != int(n * self._share)
