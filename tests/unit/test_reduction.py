"""How far the data of a population can be reduced, measured by a real compressor and by hashing blocks."""

from __future__ import annotations

import hashlib
import random

import pytest
import zstandard

from sai3ssh.dataset import PIECE, UNIT, Content

KIB, MIB = 1 << 10, 1 << 20


def whole(content: Content, index: int, size: int) -> bytes:
    return b"".join(content.piece(index, size, at, PIECE) for at in range(0, size, PIECE))


@pytest.mark.parametrize("factor", [1, 1.5, 2, 3, 5])
@pytest.mark.parametrize("size", [KIB, 4 * KIB, 100_000, MIB, 6 * MIB])
def test_zstd_shrinks_objects_by_the_compress_factor(factor: float, size: int) -> None:
    content = Content(11, "random", 1.0, factor)
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=False, write_checksum=False)
    objects = [whole(content, index, size) for index in range(max(2, MIB // size))]
    ratio = sum(map(len, objects)) / sum(len(compressor.compress(data)) for data in objects)
    assert ratio == pytest.approx(factor, rel=0.1)


def distinct_blocks(content: Content, sizes: list[int], block: int) -> tuple[int, int]:
    """Blocks in all, and distinct ones."""
    seen = set()
    total = 0
    for index, size in enumerate(sizes):
        data = whole(content, index, size)
        for at in range(0, size, block):
            seen.add(hashlib.blake2b(data[at : at + block], digest_size=16).digest())
            total += 1
    return total, len(seen)


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
@pytest.mark.parametrize("block", [4 * KIB, 16 * KIB, UNIT])
def test_one_block_in_dedup_factor_is_distinct(factor: int, block: int) -> None:
    total, distinct = distinct_blocks(Content(11, "random", factor), [5 * UNIT] * 300, block)
    assert total / distinct == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_small_objects_deduplicate_among_each_other(factor: int) -> None:
    total, distinct = distinct_blocks(Content(11, "random", factor), [4 * KIB] * 3000, 4 * KIB)
    assert total / distinct == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("factor", [2, 5])
def test_objects_of_many_sizes_deduplicate(factor: int) -> None:
    rng = random.Random(1)
    total, distinct = distinct_blocks(Content(11, "random", factor), [rng.randrange(1, 2 * MIB) for _ in range(100)], 4 * KIB)
    assert total / distinct == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize(("dedup", "compress"), [(2, 2), (3, 5)])
def test_both_factors_multiply(dedup: int, compress: int) -> None:
    content = Content(11, "random", dedup, compress)
    compressor = zstandard.ZstdCompressor(level=3)
    kept: dict[bytes, int] = {}
    total = 0
    for index in range(200):
        data = whole(content, index, 5 * UNIT)
        for at in range(0, len(data), UNIT):
            unit = data[at : at + UNIT]
            kept[unit] = kept.get(unit) or len(compressor.compress(unit))
            total += UNIT
    assert total / sum(kept.values()) == pytest.approx(dedup * compress, rel=0.1)
