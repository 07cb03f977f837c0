"""Which core each worker of an agent is pinned to."""

from __future__ import annotations

import os
from typing import Dict, Iterable, List

TOPOLOGY = "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list"


def core_order(cores: Iterable[int], topology: str = TOPOLOGY) -> List[int]:
    """The cores in the order in which workers take them: one thread of each physical core first, then the second ones.

    `topology` is the path that says which numbers are threads of one physical core (%d: the core), as Linux has it; a host that does not
    tell has none that share one.
    """
    taken: Dict[int, int] = {}
    turns = []
    for core in sorted(cores):
        physical = min(_siblings(topology % core), default=core)
        turns.append((taken.get(physical, 0), core))
        taken[physical] = taken.get(physical, 0) + 1
    return [core for _, core in sorted(turns)]


def _siblings(path: str) -> List[int]:
    """The first number of each piece of a list such as 0,4 or 0-1."""
    try:
        with open(path, encoding="ascii") as file:
            return [int(piece.partition("-")[0]) for piece in file.read().split(",")]
    except (OSError, ValueError):
        return []


def pin(worker: int) -> None:
    """Pins this process to the core of a worker, by its number from 0. More workers than cores share them evenly."""
    order = core_order(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {order[worker % len(order)]})
