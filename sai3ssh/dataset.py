"""What the objects of a population are: names, sizes and bytes, each a pure function of (population, index).

Standard library only, Python 3.9 and later. Enough is said here to write the function again in another language; all integers are
modulo 2**64, GOLDEN is 0x9E3779B97F4A7C15.

Sizes. h(seed, index) is SplitMix64's output for the state z = seed + (index + 1) * GOLDEN:
`z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; z = (z ^ z >> 27) * 0x94D049BB133111EB; h = z ^ z >> 31`.
uniform: min + (h * (max - min + 1) >> 64), not reduced. lognormal: with s**2 = ln(1 + (std_dev / mean)**2) and m = ln(mean) - s**2 / 2 the
size is exp(m + s * q), where q is the standard normal quantile of (h >> 11 | 1) / 2**53, rounded and clipped to [min, max].
histogram with buckets [min, max] and integer weights w, whose sum is t: let x = h * t, not reduced, and c the sum of the weights of the
buckets before the one with c <= x >> 64 < c + w. The size is min + (x - c * 2**64) * (max - min + 1) // (w * 2**64).

Keys. Without a tree: key_format of the index, in directory (index modulo shards) where there are shards. In a tree object `index` is in
directory index // files_per_dir of those that have objects, counted through each level in turn. Directory n of a level has the number
n modulo width + 1 in its name, and is within directory n // width of the level above.

Bytes, fill `random`. BASE is the first 4 MiB of SHAKE-128 of the ASCII text "sai3ssh <seed>", repeated without end, and c the little-endian
number in its first 8 bytes. For object `index` let g = index * GOLDEN + c. Byte p of the object is byte (g >> 42) + p of BASE, except that
each block b of 4 KiB begins with a stamp: g + b * (GOLDEN << 33) as 8 bytes, little-endian. The map from (index, b) to stamps is one
to one for indices below 2**33 and objects up to 8 TiB, so no two blocks of a population are alike. A smaller object is a prefix of
a larger one of the same index. Fill `zero`: zeros.

dedup_factor D > 1. Unit u of an object is its bytes from u * 64 KiB to (u + 1) * 64 KiB. It is the object's own, as above, where
index * 0xC13FA9A902A6328F + u * 0x91E10DA5C79E7B1D + c < 2**64 / D. Elsewhere it is the common unit of its cell (index // (50 * ceil(D)),
h = u // 64): the blocks 2**31 - 16 * (h + 1) and following of the object whose index is the cell's first number. So one unit in D
occurs once and the others are copies, of one common unit in each cell: where a cell has 50 * D units or more, which takes that
many objects or long ones, the ratio is within 2 % of D.

compress_factor C > 1. Of each 1 KiB, counted from the beginning of the object, what follows the first 1024 / C bytes, rounded and at
least 8, is zeros.
"""

from __future__ import annotations

import functools
import hashlib
import math
import statistics
from array import array
from bisect import bisect_right
from typing import Iterator, Sequence, Tuple, Union

from sai3ssh.model import Intervals, Population, SizeSpec, Tree

BLOCK = 4096
PIECE = 256 * 1024
"""Objects are made and compared in pieces of at most this many bytes."""
_BASE = 4 * 1024 * 1024
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_STEP = (_GOLDEN << 33) & _MASK
_STEPS = tuple(b * _STEP & _MASK for b in range(PIECE // BLOCK + 1))
_ZEROS = bytes(PIECE)
UNIT = 64 * 1024
"""Data that deduplicates does so in units of this many bytes, aligned in their objects."""
MOST = {"dedup_factor": 1000.0, "compress_factor": 100.0}
"""The largest factors that have a meaning."""
_CELL_UNITS = 64
_CELL_OBJECTS = 50
_COMPRESSED = 1024

Buffer = Union[bytes, bytearray, memoryview]


def _hash(seed: int, index: int) -> int:
    z = (seed + (index + 1) * _GOLDEN) & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31


@functools.lru_cache(maxsize=64)
def _lognormal(mean: float, std_dev: float) -> Tuple[float, float]:
    """Mean and standard deviation of the logarithm of the size."""
    variance = math.log1p((std_dev / mean) ** 2)
    return math.log(mean) - variance / 2, math.sqrt(variance)


_NORMAL = statistics.NormalDist()


def size_of(spec: SizeSpec, seed: int, index: int) -> int:
    """The size in bytes of object `index`; raises ValueError on an unknown law."""
    if spec.min == spec.max:
        return spec.min
    if spec.kind == "uniform":
        return spec.min + (_hash(seed, index) * (spec.max - spec.min + 1) >> 64)
    if spec.kind == "lognormal":
        mu, sigma = _lognormal(spec.mean, spec.std_dev)
        quantile = _NORMAL.inv_cdf((_hash(seed, index) >> 11 | 1) / 9007199254740992.0)
        return min(max(round(math.exp(min(mu + sigma * quantile, 64.0))), spec.min), spec.max)
    if spec.kind == "histogram":
        sums = spec.cumulative
        point = _hash(seed, index) * sums[-1]
        n = bisect_right(sums, point >> 64)
        low, high = spec.buckets[n]
        if low == high:
            return low
        before = sums[n - 1] if n else 0
        return low + (point - (before << 64)) * (high - low + 1) // (sums[n] - before << 64)
    raise ValueError(
        f"size law {spec.kind!r} with min {spec.min} and max {spec.max} (fixed with min == max, uniform, lognormal, histogram)"
    )


def mean_size(spec: SizeSpec) -> float:
    """The expected size in bytes, with the clipping of lognormal taken into account."""
    if spec.min == spec.max or spec.kind == "uniform":
        return (spec.min + spec.max) / 2
    if spec.kind == "histogram":
        sums = spec.cumulative
        weighted = sum((low + high) * (upto - before) for (low, high), before, upto in zip(spec.buckets, (0, *sums), sums))
        return weighted / (2 * sums[-1])
    mu, sigma = _lognormal(spec.mean, spec.std_dev)
    if not sigma:
        return min(max(spec.mean, spec.min), spec.max)
    low = (math.log(max(spec.min, 1)) - mu) / sigma
    high = (math.log(max(spec.max, 1)) - mu) / sigma
    inside = spec.mean * (_NORMAL.cdf(high - sigma) - _NORMAL.cdf(low - sigma))
    return spec.min * _NORMAL.cdf(low) + inside + spec.max * (1 - _NORMAL.cdf(high))


def total_size(population: Population) -> int:
    """The expected number of bytes of a whole population; exact for fixed sizes."""
    return round(population.count * mean_size(population.size))


def key_of(population: Population, index: int) -> str:
    """The key of object `index`, to be appended to the population's target."""
    key = population.key_format % index
    if population.tree is not None:
        return f"{_directory_of(population.tree, index // population.tree.files_per_dir)}/{key}"
    return f"{index % population.shards:02x}/{key}" if population.shards else key


def _directory_of(tree: Tree, number: int) -> str:
    """The path of directory `number` of those that have objects: level by level when all have some, neighbours one after another."""
    if not tree.everywhere:
        return _path(tree, tree.depth, number)
    level = 1
    while number >= tree.width**level:
        number -= tree.width**level
        level += 1
    return _path(tree, level, number)


def _path(tree: Tree, level: int, number: int) -> str:
    """The path of directory `number` of a level; its parent is number // width of the level above."""
    names = []
    for depth in range(level, 0, -1):
        number, at = divmod(number, tree.width)
        names.append(tree.dir_mask % (depth, at + 1))
    return "/".join(reversed(names))


def directories_of(population: Population, ranges: Sequence[Sequence[int]]) -> Iterator[str]:
    """The directories that the objects of some index ranges are in, and those around them, relative to the target: each once, and after
    all that are within it."""
    tree = population.tree
    if tree is None:
        for shard in range(population.shards):
            if any((shard - lo) % population.shards < hi - lo for lo, hi in ranges):
                yield f"{shard:02x}"
        return
    levels = [Intervals() for _ in range(tree.depth + 1)]
    first = 0
    for level in range(1 if tree.everywhere else tree.depth, tree.depth + 1):
        width = tree.width**level
        for lo, hi in ranges:
            begin, end = lo // tree.files_per_dir - first, -(-hi // tree.files_per_dir) - first
            levels[level].add(max(begin, 0), min(end, width))
        first += width
    for level in range(tree.depth, 0, -1):
        for lo, hi in levels[level]:
            levels[level - 1].add(lo // tree.width, (hi - 1) // tree.width + 1)
            for number in range(lo, hi):
                yield _path(tree, level, number)


@functools.lru_cache(maxsize=8)
def _base(seed: int) -> bytes:
    # The first bytes are repeated at the end, so that a piece that wraps is still one slice.
    base = hashlib.shake_128(b"sai3ssh %d" % seed).digest(_BASE)
    return base + base[: PIECE + BLOCK]


class Content:
    """The bytes of the objects of one seed, fill and factors, as the head of this module defines them."""

    __slots__ = ("_base", "_constant", "_group", "_keep", "_own", "_plain", "_view", "fill", "seed")

    def __init__(self, seed: int, fill: str = "random", dedup_factor: float = 1.0, compress_factor: float = 1.0) -> None:
        """Raises ValueError on a fill other than random and zero, and on factors that are below 1, too large, or of zeros."""
        if fill not in ("random", "zero"):
            raise ValueError(f"fill {fill!r} (random or zero)")
        for name, factor in (("dedup_factor", dedup_factor), ("compress_factor", compress_factor)):
            if not 1 <= factor <= MOST[name] or (factor > 1 and fill == "zero"):
                raise ValueError(f"{name} {factor} with fill {fill} (1 to {MOST[name]:g}, and 1 with fill zero)")
        self.seed = seed
        self.fill = fill
        self._base = _base(seed) if fill == "random" else b""
        self._view = memoryview(self._base)
        self._constant = int.from_bytes(self._base[:8], "little")
        self._own = int(2**64 / dedup_factor) if dedup_factor > 1 else 0
        self._group = _CELL_OBJECTS * math.ceil(dedup_factor)
        self._keep = max(8, round(_COMPRESSED / compress_factor)) if compress_factor > 1 else 0
        self._plain = fill == "random" and not self._own and not self._keep

    def head(self, index: int, size: int) -> bytes:
        """The first bytes of an object of `size` bytes: all of it when it is at most PIECE, else PIECE bytes."""
        return self.behind(b"", index, size)

    def behind(self, prefix: bytes, index: int, size: int) -> bytes:
        """The prefix, and then what head() gives; bytes of small objects are copied once only."""
        if size > BLOCK or not self._plain:
            return prefix + self.piece(index, size, 0, PIECE)
        g = (index * 0x9E3779B97F4A7C15 + self._constant) & 0xFFFFFFFFFFFFFFFF
        if size > 8:
            start = g >> 42
            return b"".join((prefix, g.to_bytes(8, "little"), self._view[start + 8 : start + size]))
        return prefix + g.to_bytes(8, "little")[:size]

    def piece(self, index: int, size: int, offset: int, length: int) -> bytes:
        """The bytes from `offset` of an object of `size` bytes: `length` of them, fewer at its end, never more than PIECE."""
        length = min(length, size - offset, PIECE)
        if length <= 0:
            return b""
        return bytes(self._made(index, offset, length))

    def _made(self, index: int, offset: int, length: int) -> bytearray:
        """At most PIECE bytes from `offset`. A bytearray: it is compared with a memoryview as memory, which bytes are not."""
        if not self._base:
            return bytearray(length)
        skip = offset % BLOCK
        buffer = bytearray(-(-(skip + length) // BLOCK) * BLOCK)
        self._fill(buffer, index, offset - skip)
        return buffer if len(buffer) == length else buffer[skip : skip + length]

    def piece_into(self, buffer: Union[bytearray, memoryview], index: int, size: int, offset: int) -> int:
        """Writes the piece from `offset`, a multiple of BLOCK, into a buffer of PIECE bytes, or of as many whole blocks as it has;
        returns its length.

        What follows it in the buffer is undefined.
        """
        length = min(size - offset, PIECE)
        if length <= 0:
            return 0
        if self._base:
            self._fill(buffer, index, offset)
        else:
            buffer[:length] = _ZEROS[:length]
        return length

    def _fill(self, buffer: Union[bytearray, memoryview], index: int, offset: int) -> None:
        """Fills the buffer, whole blocks, from `offset`, a multiple of BLOCK."""
        view = memoryview(buffer)
        if self._plain:
            self._blocks(view, index, offset)
            return
        if self._own:
            self._units(view, index, offset)
        else:
            self._blocks(view, index, offset)
        if self._keep:
            keep, zeros = self._keep, _ZEROS[: _COMPRESSED - self._keep]
            for end in range(_COMPRESSED, len(view) + 1, _COMPRESSED):
                view[end - _COMPRESSED + keep : end] = zeros

    def _units(self, view: memoryview, index: int, offset: int) -> None:
        at, length = 0, len(view)
        while at < length:
            unit, inside = divmod(offset + at, UNIT)
            end = min(at + UNIT - inside, length)
            if (index * 0xC13FA9A902A6328F + unit * 0x91E10DA5C79E7B1D + self._constant) & _MASK < self._own:
                self._blocks(view[at:end], index, offset + at)
            else:
                common = (1 << 31) * BLOCK - (unit // _CELL_UNITS + 1) * UNIT
                self._blocks(view[at:end], index // self._group, common + inside)
            at = end

    def _blocks(self, view: memoryview, index: int, offset: int) -> None:
        """As _fill, without regard to factors."""
        g = (index * _GOLDEN + self._constant) & _MASK
        start = ((g >> 42) + offset) % _BASE
        length = len(view)
        view[:] = self._view[start : start + length]
        first = g + offset // BLOCK * _STEP
        # One strided assignment of 64-bit words: stamping block by block would take as long as the copy.
        words = array("Q", [first + step & 0xFFFFFFFFFFFFFFFF for step in _STEPS[: length // BLOCK]])
        if _BIG_ENDIAN:
            words.byteswap()
        view.cast("Q")[:: BLOCK // 8] = memoryview(words)

    def md5(self, index: int, size: int) -> str:
        """The MD5 of an object in hexadecimal: its ETag where that is a plain checksum."""
        digest = hashlib.md5(usedforsecurity=False)
        for offset in range(0, size, PIECE):
            digest.update(self.piece(index, size, offset, PIECE))
        return digest.hexdigest()

    def matches(self, index: int, size: int, offset: int, data: Buffer) -> bool:
        """Whether `data`, of any length, is what an object of `size` bytes holds from `offset`."""
        length = len(data)
        if offset + length > size:
            return False
        if length <= PIECE:
            return self._made(index, offset, length) == data
        view = memoryview(data)
        return all(self._made(index, offset + at, min(PIECE, length - at)) == view[at : at + PIECE] for at in range(0, length, PIECE))


_BIG_ENDIAN = array("H", [1]).tobytes() == b"\x00\x01"
