"""Which object of a population a get or a stat takes."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from itertools import accumulate
from typing import Callable, Tuple

from sai3ssh.model import Intervals, KeySelection, Population

Draw = Callable[[], int]


def chooser(keys: KeySelection, population: Population, owned: Intervals, lane: Tuple[int, int], rng: random.Random) -> Draw:
    """Gives indices of objects, one per call, as `keys` says.

    `owned` is the agent's own part of the population, not empty where `keys` is partitioned. `lane` (n, of): this is the n-th, from 0, of
    so many workers of the agent.
    """
    everything = Intervals([(0, population.count)])
    if not keys.partitioned:
        return _within(keys, everything, next((lo for lo, _ in owned), 0), population.seed, lane, rng)
    own = _within(keys, owned, 0, population.seed, lane, rng)
    if not keys.overlap:
        return own
    whole, overlap, uniform = _within(keys, everything, 0, population.seed, lane, rng), keys.overlap, rng.random
    return lambda: whole() if uniform() < overlap else own()


def _within(keys: KeySelection, ranges: Intervals, first: int, seed: int, lane: Tuple[int, int], rng: random.Random) -> Draw:
    """Indices within the ranges; a sequential order begins at position `first`."""
    count = len(ranges)
    position = _sequential(count, first, lane) if keys.distribution == "sequential" else _drawn(keys, count, seed, rng)
    starts = [lo for lo, _ in ranges]
    if len(starts) == 1:
        start = starts[0]
        return (lambda: start + position()) if start else position
    before = [0, *accumulate(hi - lo for lo, hi in ranges)]

    def index() -> int:
        at = position()
        n = bisect_right(before, at) - 1
        return starts[n] + at - before[n]

    return index


def _sequential(count: int, first: int, lane: Tuple[int, int]) -> Draw:
    """The agent's workers take turns, each in its own lane: together they walk through all positions, again and again."""
    at, step = first + lane[0], lane[1]

    def position() -> int:
        nonlocal at
        found = at % count
        at = found + step
        return found

    return position


def _drawn(keys: KeySelection, count: int, seed: int, rng: random.Random) -> Draw:
    uniform = rng.random
    if keys.distribution == "uniform":
        return lambda: int(uniform() * count)
    rank = zipf(count, keys.theta, uniform)
    step, offset = _scramble(count, seed)
    return lambda: (rank() * step + offset) % count


def _scramble(count: int, seed: int) -> Tuple[int, int]:
    """A step and an offset such that rank -> (rank * step + offset) % count is one to one, the same for every agent, and neighbours in rank
    lie far apart: the step is the next one to the golden section of `count` that has no divisor in common with it."""
    step = max(1, round(count * 0.6180339887498949))
    while math.gcd(step, count) > 1:
        step += 1
    return step, random.Random(seed).randrange(count)


def zipf(count: int, theta: float, uniform: Callable[[], float]) -> Draw:
    """Gives ranks 0 to count - 1, rank r with a probability proportional to (r + 1) ** -theta, 0 < theta <= 2.

    Rejection-inversion: exact, in constant time and without tables. W. Hoermann and G. Derflinger, Rejection-inversion to generate variates
    from monotone discrete distributions, ACM TOMACS 6 (3), 1996, p. 169-184.
    """
    exp, expm1, log, log1p = math.exp, math.expm1, math.log, math.log1p
    # At theta 1 the integral of x ** -theta is a logarithm: the limit of what it is beside it.
    power = 1.0 - theta or 1e-15

    def integral(x: float) -> float:
        return expm1(power * log(x)) / power

    high = integral(count + 0.5)
    span = integral(1.5) - 1.0 - high
    sure = 2.0 - exp(log1p(power * (integral(2.5) - 2.0**-theta)) / power)

    def rank() -> int:
        while True:
            u = high + uniform() * span
            x = exp(log1p(power * u) / power)
            k = min(max(int(x + 0.5), 1), count)
            if k - x <= sure or u >= integral(k + 0.5) - k**-theta:
                return k - 1

    return rank
