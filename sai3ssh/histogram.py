"""Log-linear latency histograms that merge without loss.

A value in nanoseconds falls into one of 64 equal cells of its octave, so a cell is at most 1/64 of its value wide and its midpoint
is within 1/128 (0.8 %) of every value in it. This is the scheme of HdrHistogram (G. Tene) with 6 significant bits. The range is 1 us to
1 h; values outside go to the first or last cell. The exact maximum is kept beside the cells.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

SUB_BITS = 6
LOWEST_NS = 1_000
HIGHEST_NS = 3_600_000_000_000


def _raw(value_ns: int) -> int:
    shift = value_ns.bit_length() - 1 - SUB_BITS
    return (shift << SUB_BITS) + (value_ns >> shift)


OFFSET = _raw(LOWEST_NS)
"""What cell_of subtracts: for a value of n bits above LOWEST_NS the cell is ((n - 7) << 6) + (value >> (n - 7)) - OFFSET."""
CELLS = _raw(HIGHEST_NS) - OFFSET + 1
"""Number of cells of a histogram."""


def cell_of(value_ns: int) -> int:
    """The cell, 0 to CELLS - 1, that counts a latency of value_ns."""
    if value_ns <= LOWEST_NS:
        return 0
    if value_ns >= HIGHEST_NS:
        return CELLS - 1
    shift = value_ns.bit_length() - 7
    return (shift << 6) + (value_ns >> shift) - OFFSET


def value_of(cell: int) -> float:
    """The midpoint, in ns, of the values that a cell counts."""
    raw = cell + OFFSET
    shift = (raw >> SUB_BITS) - 1
    low = (raw - (shift << SUB_BITS)) << shift
    return low + ((1 << shift) - 1) / 2


class Histogram:
    """Counts of latencies by cell, with the exact sum and maximum in ns.

    Merging is addition; it is associative, commutative and loses nothing.
    """

    __slots__ = ("cells", "max_ns", "sum_ns")

    def __init__(self, cells: Optional[Mapping[int, int]] = None, *, sum_ns: int = 0, max_ns: int = 0) -> None:
        self.cells: Dict[int, int] = {int(cell): int(n) for cell, n in (cells or {}).items() if n}
        self.sum_ns = sum_ns
        self.max_ns = max_ns

    @property
    def count(self) -> int:
        """Number of recorded values."""
        return sum(self.cells.values())

    @property
    def mean_ns(self) -> float:
        """Exact mean (not from the cells); 0 when empty."""
        n = self.count
        return self.sum_ns / n if n else 0.0

    def record(self, value_ns: int, count: int = 1) -> None:
        """Counts a latency."""
        cell = cell_of(value_ns)
        self.cells[cell] = self.cells.get(cell, 0) + count
        self.sum_ns += value_ns * count
        self.max_ns = max(self.max_ns, value_ns)

    def merge(self, other: Histogram) -> None:
        """Adds all that the other counted."""
        for cell, n in other.cells.items():
            self.cells[cell] = self.cells.get(cell, 0) + n
        self.sum_ns += other.sum_ns
        self.max_ns = max(self.max_ns, other.max_ns)

    def percentiles(self, ranks: Sequence[float]) -> List[float]:
        """The latencies in ns at the given percentiles (0 to 100), nearest rank; 0 when empty; never above the maximum."""
        n = self.count
        if not n:
            return [0.0 for _ in ranks]
        order = sorted(range(len(ranks)), key=lambda i: ranks[i])
        result = [0.0] * len(ranks)
        cells = sorted(self.cells.items())
        position, seen = 0, cells[0][1]
        for i in order:
            # Nearest rank: the smallest value with at least rank % of the values at or below it.
            wanted = max(1, -(-n * round(ranks[i] * 1_000_000) // 100_000_000))
            while seen < wanted:
                position += 1
                seen += cells[position][1]
            value = value_of(cells[position][0])
            result[i] = min(value, float(self.max_ns)) if self.max_ns else value
        return result

    def percentile(self, rank: float) -> float:
        """The latency in ns at one percentile."""
        return self.percentiles([rank])[0]

    def to_pairs(self) -> List[int]:
        """The non-empty cells as a flat list: gap to the previous cell, count, gap, count, ..."""
        flat: List[int] = []
        previous = 0
        for cell, n in sorted(self.cells.items()):
            flat += (cell - previous, n)
            previous = cell
        return flat

    @classmethod
    def from_pairs(cls, flat: Sequence[int], *, sum_ns: int = 0, max_ns: int = 0) -> Histogram:
        """The histogram that to_pairs wrote; raises ValueError on a cell out of range or an odd length."""
        if len(flat) % 2:
            raise ValueError(f"histogram pairs: odd length {len(flat)}")
        cells: Dict[int, int] = {}
        cell = 0
        for gap, n in pairs(flat):
            cell += gap
            if not 0 <= cell < CELLS or n < 0:
                raise ValueError(f"histogram pairs: cell {cell} with count {n} (cells are 0 to {CELLS - 1})")
            cells[cell] = cells.get(cell, 0) + n
        return cls(cells, sum_ns=sum_ns, max_ns=max_ns)


def pairs(flat: Sequence[int]) -> Iterable[Tuple[int, int]]:
    """Consecutive pairs of a flat list."""
    return zip(flat[::2], flat[1::2])
