"""Histograms as arrays, and sums of the histograms of many records: one is a few hundred numbers, an hour of an agent a million."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import compact
from ..histogram import CELLS, Histogram, value_of

Integers = npt.NDArray[np.integer[Any]]


class ArrayHistogram(Histogram):
    """A Histogram in arrays: a tenth of the memory, and merged and read in a tenth of the time. `cells` is made when it is asked for."""

    __slots__ = ("_counts", "_filled")

    def __init__(self, filled: Integers | None = None, counts: Integers | None = None, *, sum_ns: int = 0, max_ns: int = 0) -> None:
        """`filled` are the cells that are not empty, in ascending order."""
        self._filled: Integers = np.zeros(0, np.int64) if filled is None else filled
        self._counts: Integers = np.zeros(0, np.int64) if counts is None else counts
        self.sum_ns, self.max_ns = sum_ns, max_ns

    @property
    def arrays(self) -> tuple[Integers, Integers]:
        """The cells that are not empty, in ascending order, and their counts."""
        return self._filled, self._counts

    @property
    def cells(self) -> dict[int, int]:  # type: ignore[override]
        """A copy: changing it changes nothing."""
        return dict(zip(self._filled.tolist(), self._counts.tolist(), strict=True))

    @property
    def count(self) -> int:
        """Number of recorded values."""
        return int(self._counts.sum())

    def record(self, value_ns: int, count: int = 1) -> None:
        """Counts a latency."""
        other = Histogram()
        other.record(value_ns, count)
        self.merge(other)

    def merge(self, other: Histogram) -> None:
        """Adds all that the other counted."""
        filled, counts = arrays_of(other)
        if not len(self._filled):
            self._filled, self._counts = filled, counts
        elif len(filled):
            total = np.zeros(CELLS, np.int64)
            total[self._filled] = self._counts
            total[filled] += counts
            self._filled = np.flatnonzero(total)
            self._counts = total[self._filled]
        self.sum_ns += other.sum_ns
        self.max_ns = max(self.max_ns, other.max_ns)

    def percentiles(self, ranks: Sequence[float]) -> list[float]:
        """The latencies in ns at the given percentiles (0 to 100), nearest rank; 0 when empty; never above the maximum."""
        n = self.count
        values = latencies_at(self, [nearest_rank(rank, n) for rank in ranks]) if n else [0.0 for _ in ranks]
        return [min(value, float(self.max_ns)) for value in values] if self.max_ns else values

    def to_pairs(self) -> list[int]:
        """The non-empty cells as a flat list: gap to the previous cell, count, gap, count, ..."""
        flat = np.empty(2 * len(self._filled), np.int64)
        flat[0::2] = np.diff(self._filled.astype(np.int64), prepend=0)
        flat[1::2] = self._counts
        pairs: list[int] = flat.tolist()
        return pairs

    @classmethod
    def from_pairs(cls, flat: Sequence[int], *, sum_ns: int = 0, max_ns: int = 0) -> ArrayHistogram:
        """The histogram that to_pairs wrote; raises ValueError on a cell out of range or an odd length."""
        if len(flat) % 2:
            raise ValueError(f"histogram pairs: odd length {len(flat)}")
        pairs = np.array(flat, np.int64).reshape(-1, 2)
        cells, counts = np.cumsum(pairs[:, 0]), pairs[:, 1]
        wrong = (cells < 0) | (cells >= CELLS) | (counts < 0)
        if wrong.any():
            at = int(wrong.argmax())
            raise ValueError(f"histogram pairs: cell {cells[at]} with count {counts[at]} (cells are 0 to {CELLS - 1})")
        total = np.zeros(CELLS, np.int64)
        np.add.at(total, cells, counts)
        filled = np.flatnonzero(total)
        return cls(filled, total[filled], sum_ns=sum_ns, max_ns=max_ns)


def arrays_of(histogram: Histogram) -> tuple[Integers, Integers]:
    """The cells of any histogram that are not empty, in ascending order, and their counts."""
    if isinstance(histogram, ArrayHistogram):
        return histogram.arrays
    cells = sorted(histogram.cells.items())
    return np.array([cell for cell, _ in cells], np.int64), np.array([n for _, n in cells], np.int64)


def nearest_rank(rank: float, n: int) -> int:
    """The position, from 1, of a percentile among n values: the smallest with at least rank % of them at or below it."""
    # -(-a // b) rounds up.
    return max(1, -(-n * round(rank * 1_000_000) // 100_000_000))


def latencies_at(histogram: Histogram, positions: Sequence[int]) -> list[float]:
    """The latencies in ns of the values at these positions, from 1, in ascending order."""
    filled, counts = arrays_of(histogram)
    found = np.searchsorted(np.cumsum(counts), positions)
    return [value_of(int(cell)) for cell in filled[found]]


class CellSum:
    """The sum of histograms that come as the steps from each cell's count to the next one's."""

    def __init__(self) -> None:
        self.sum_ns = self.max_ns = 0
        self._steps: npt.NDArray[np.int64] = np.zeros(CELLS + 1, np.int64)

    def add(self, first: int, steps: Integers, sum_ns: int = 0, max_ns: int = 0) -> None:
        """Adds one, which begins at a first cell."""
        self._steps[first : first + len(steps)] += steps
        self.sum_ns += sum_ns
        if max_ns > self.max_ns:
            self.max_ns = max_ns

    def histogram(self) -> ArrayHistogram:
        """The sum; raises ValueError where it has less than nothing."""
        total = np.cumsum(self._steps)
        if total.min() < 0 or total[-1]:
            raise ValueError(f"histogram: cell {int(total.argmin())} with count {total.min()}, in all {total[-1]} beyond the last")
        filled = np.flatnonzero(total)
        return ArrayHistogram(filled, total[filled], sum_ns=self.sum_ns, max_ns=self.max_ns)


Told = tuple[str, str, str, dict[str, Any], int, Integers]
"""One histogram of a hist record: hist, splits or endpoints; operation; bucket, part of the latency or position; its figures; its first
cell and the steps from each cell's count to the next one's, from 0 to 0."""


def told(record: dict[str, Any]) -> list[Told]:
    """The histograms of a hist record as the journal has it (compact.pack). That of first bytes comes in parts to be added: its difference
    to the operation's, and the operation's, without figures. Raises ValueError."""
    width, head, data = compact.inflate(record["cells"])
    parts = list(compact.parts(record))
    if 2 * len(parts) != len(head):
        raise ValueError(f"cells of {len(head) // 2} histograms, expected {len(parts)}")
    planes = np.frombuffer(data, np.uint8).reshape(width, -1)
    zigzag = planes[width - 1].astype(f"u{width}")
    for plane in planes[-2::-1]:
        zigzag <<= 8
        zigzag |= plane
    sign = zigzag & 1
    zigzag >>= 1
    zigzag ^= np.negative(sign, out=sign)
    steps = zigzag.view(f"i{width}")
    found: list[Told] = []
    wholes: dict[str, list[tuple[int, Integers]]] = {}
    at = 0
    for (kind, op, name, part), first, length in zip(parts, head[::2], head[1::2], strict=True):
        mine = steps[at : at + length]
        found.append((kind, op, name, part, first, mine))
        at += length
        if kind == "hist":
            wholes.setdefault(op, []).append((first, mine))
        elif compact.is_derived(kind, name, part):
            found += [(kind, op, name, {}, *whole) for whole in wholes.get(op, ())]
    return found
