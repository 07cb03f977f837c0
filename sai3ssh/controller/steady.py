"""Whether all agents of an execute stage together are steady. Pure.

The definition is that of the SNIA Solid State Storage Performance Test Specification (PTS, "steady state"), over the rounds of a
measurement window with values y and mean m:

    spread   max(y) - min(y) is at most `spread` of m                                        (PTS: 20 %)
    slope    the line of least squares changes by at most `slope` of m over the window       (PTS: 10 %)

A round is 5 s, and 1 s in windows of less than 25 s (model.Steady.round_s); its value is the sum over the agents of what each did per
second. Rounds are counted from the first whole second after the warm-up. The change of the line is taken over the whole length of the
window, which is a little more than in the PTS, whose line ends at the first and the last round's own values of x.

A second counts once every agent has told it or a later one: what is late changes nothing. A second that one of them never tells, or of
which it measured less than half, is lost time; no window with one is looked at. Only the newest window is: a stage that was steady once
and is so no more is not steady.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..model import Steady

Json = dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """A window that was looked at."""

    after_s: int
    """Its end, in seconds since the start of the stage."""
    window_s: int
    metric: str
    mean: float
    """Per second."""
    slope: float
    """Change of the line of best fit over the window / mean; negative when it falls."""
    spread: float
    """(highest - lowest round) / mean."""


class SteadyState:
    """One pass of one stage. Second summaries may come in any order of the agents, and more than once."""

    def __init__(self, spec: Steady, warmup_s: float) -> None:
        self._spec = spec
        self._first = math.ceil(warmup_s)
        self._rounds = int(spec.window_s) // spec.round_s
        # The windows of the oldest look that may still come: it is at most a window behind.
        self._kept = 2 * int(spec.window_s) + (spec.confirm + 1) * spec.round_s
        self._told: dict[str, dict[int, tuple[int, int]]] = {}
        """By agent and second: operations or bytes, and the ns that they took."""
        self._newest: dict[str, int] = {}
        self._looked: tuple[int, frozenset[str]] = (-1, frozenset())
        self.figures: Figures | None = None
        """Of the newest window; None while there is none without lost time."""

    def second(self, agent: str, record: Json) -> None:
        """Takes a `sec` record of the stage."""
        number = record["second"]
        self._newest[agent] = max(number, self._newest.get(agent, -1))
        if not record["warmup"]:
            column = 1 if self._spec.metric == "bytes" else 0
            amount = sum(figures[column] for figures in record["ops"].values())
            told = self._told.setdefault(agent, {})
            told[number] = amount, record["to_clock_ns"] - record["from_clock_ns"]
            told.pop(number - self._kept, None)

    def newest(self, agents: Collection[str]) -> int:
        """The latest second that any of the agents has told; -1 before."""
        return max((self._newest.get(agent, -1) for agent in agents), default=-1)

    def look(self, agents: Collection[str]) -> bool:
        """Whether these agents are steady in the newest window, as far as there is a new one since the last look; see `figures`."""
        told = min((self._newest.get(agent, -1) for agent in agents), default=-1)
        whole = (told + 1 - self._first) // self._spec.round_s
        # Who is far behind the others tells of a time that is over.
        if told < 0 or self.newest(agents) - told > self._spec.window_s or self._looked == (whole, frozenset(agents)):
            return False
        self._looked = whole, frozenset(agents)
        found = [self._window(whole - n, agents) for n in range(self._spec.confirm)]
        self.figures = found[0]
        return whole * self._spec.round_s >= self._spec.min_duration_s and all(figures and self._steady(figures) for figures in found)

    def _steady(self, figures: Figures) -> bool:
        return abs(figures.slope) <= self._spec.slope and figures.spread <= self._spec.spread

    def _window(self, end: int, agents: Collection[str]) -> Figures | None:
        """The rounds before round `end`; None when they are not all there, or nothing was done."""
        n, length = self._rounds, self._spec.round_s
        values = [self._round(number, agents) for number in range(end - n, end)] if end >= n else []
        rounds = [value for value in values if value is not None]
        mean = sum(rounds) / n
        if len(rounds) < n or mean <= 0:
            return None
        middle = (n - 1) / 2
        slope = sum((x - middle) * y for x, y in enumerate(rounds)) / sum((x - middle) ** 2 for x in range(n))
        spread = (max(rounds) - min(rounds)) / mean
        return Figures(self._first + end * length, n * length, self._spec.metric, mean, slope * n / mean, spread)

    def _round(self, number: int, agents: Collection[str]) -> float | None:
        """What all agents did per second in a round; None with lost time."""
        length = self._spec.round_s
        begin = self._first + number * length
        total = 0.0
        for agent in agents:
            told = self._told.get(agent, {})
            seconds = [told.get(second, (0, 0)) for second in range(begin, begin + length)]
            if any(ns < 500_000_000 for _, ns in seconds):
                return None
            total += sum(amount for amount, _ in seconds) * 1e9 / sum(ns for _, ns in seconds)
        return total
