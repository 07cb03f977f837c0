"""Finds good values of a few settings with few measurements: one setting at a time, along values that double."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Point = tuple[int, ...]
"""A value for each setting, in the order of the settings."""
GAIN = 0.03
"""A larger value must give so much more to be worth it: less is within what varies from one short run to the next."""
MIDDLES = 2
"""Values between the best one and its neighbours that are tried at the end, per setting."""


@dataclass(frozen=True)
class Setting:
    """What may be varied, from lowest to highest, and where to begin."""

    name: str
    lowest: int
    highest: int
    first: int
    listed: tuple[int, ...] = ()
    """The only values, if they were listed."""

    def grid(self) -> list[int]:
        """The values that are tried first: `first`, doubled and halved as often as the limits allow, and the limits."""
        if self.listed:
            return sorted(self.listed)
        found = {self.lowest, self.highest, self.first}
        value = self.first
        while value * 2 < self.highest:
            value *= 2
            found.add(value)
        value = self.first
        while value // 2 > self.lowest:
            value //= 2
            found.add(value)
        return sorted(found)


@dataclass(frozen=True)
class Trial:
    """What a measurement found."""

    score: float
    """More is better."""
    allowed: bool = True
    """Whether it keeps what was demanded."""


@dataclass(frozen=True)
class Found:
    """The best point, and all trials in the order in which they were made."""

    best: Point | None
    """None when no trial was allowed."""
    trials: dict[Point, Trial]
    exhausted: bool
    """The search would have gone on, but the trials were used up."""


class _Used(Exception):
    pass


def search(settings: Sequence[Setting], measure: Callable[[Point], Trial], most: int) -> Found:
    """The point with the highest score among those that are allowed, after at most `most` measurements.

    One setting after the other is raised for as long as that gives at least GAIN more, or else lowered; then values between the best one
    and its neighbours are tried. That is repeated until a whole round changes nothing. Of values that are as good within GAIN the smaller
    wins.
    """
    trials: dict[Point, Trial] = {}

    def at(point: Point) -> Trial:
        if point not in trials:
            if len(trials) >= most:
                raise _Used
            trials[point] = measure(point)
        return trials[point]

    point: Point = tuple(setting.first if not setting.listed else setting.grid()[len(setting.listed) // 2] for setting in settings)
    exhausted = False
    try:
        # Also where there is nothing else to try.
        at(point)
        while True:
            before = point
            for number, setting in enumerate(settings):
                point = _along(setting, number, point, at)
            if point == before or len(settings) == 1:
                break
    except _Used:
        exhausted = True
    return Found(_best(trials), trials, exhausted)


def _along(setting: Setting, number: int, point: Point, at: Callable[[Point], Trial]) -> Point:
    grid = setting.grid()

    def with_value(value: int) -> Point:
        return (*point[:number], value, *point[number + 1 :])

    position = min(range(len(grid)), key=lambda n: abs(grid[n] - point[number]))
    best = grid[position]
    # Up while it helps; from a point that is not allowed only down.
    climbed = False
    while position + 1 < len(grid) and at(with_value(best)).allowed:
        higher = grid[position + 1]
        if not _better(at(with_value(higher)), at(with_value(best)), GAIN):
            break
        position, best, climbed = position + 1, higher, True
    while not climbed and position > 0:
        lower = grid[position - 1]
        # A smaller value wins when it is as good.
        if not _better(at(with_value(lower)), at(with_value(best)), -GAIN):
            break
        position, best = position - 1, lower
    if setting.listed:
        return with_value(best)
    for _ in range(MIDDLES):
        around = sorted({*grid, best})
        position = around.index(best)
        middles = [round((best * around[n]) ** 0.5) for n in (position + 1, position - 1) if 0 <= n < len(around)]
        for middle in middles:
            if middle in around:
                continue
            grid.append(middle)
            if _better(at(with_value(middle)), at(with_value(best)), GAIN if middle > best else -GAIN):
                best = middle
                break
        else:
            break
    return with_value(best)


def _better(one: Trial, other: Trial, gain: float) -> bool:
    if one.allowed != other.allowed:
        return one.allowed
    if not one.allowed:
        # Both break the demand: towards less load, where it may be kept.
        return gain < 0
    return one.score > other.score * (1.0 + gain)


def _best(trials: dict[Point, Trial]) -> Point | None:
    allowed = {point: trial for point, trial in trials.items() if trial.allowed}
    if not allowed:
        return None
    highest = max(trial.score for trial in allowed.values())
    return min(point for point, trial in allowed.items() if trial.score * (1.0 + GAIN) >= highest)
