"""The objects that a worker has put in a run, as far as its gets may take them."""

from __future__ import annotations

import random
from array import array
from typing import Callable, Optional, Sequence

from sai3ssh.agent.engines.base import Task

KEPT = 1 << 20
"""At most so many objects of a pool are remembered, in 8 bytes each: a uniform sample of all when there are more."""

MakeTask = Callable[[int, int, int], Task]
"""(operation, index, start in ns)"""


class PutPool:
    """What one put operation has written, and the storage has acknowledged, in one stage."""

    def __init__(self, target: str, task: MakeTask, rng: random.Random) -> None:
        """`task` makes the task of an operation on one of the objects, which are all below `target`."""
        self.target = target
        self.count = 0
        """Objects that were acknowledged."""
        self._task = task
        self._uniform = rng.random
        self._kept = array("Q")

    def add(self, index: int) -> None:
        """The object is there."""
        self.count += 1
        if len(self._kept) < KEPT:
            self._kept.append(index)
            return
        # Reservoir sampling: each object that was ever added is kept with the same probability.
        at = int(self._uniform() * self.count)
        if at < KEPT:
            self._kept[at] = index

    def draw(self, op: int, start_ns: int) -> Task:
        """The task of an operation on any of the objects; there must be one."""
        kept = self._kept
        return self._task(op, kept[int(self._uniform() * len(kept))], start_ns)


def drawn_from(pools: Sequence[PutPool], prepared: int, at: float) -> Optional[PutPool]:
    """The pool, if any, that the object at `at`, 0 to 1, of `prepared` other objects and all those in the pools is in."""
    left = at * (prepared + sum(pool.count for pool in pools)) - prepared
    for pool in pools if left >= 0 else ():
        if left < pool.count:
            return pool
        left -= pool.count
    return None
