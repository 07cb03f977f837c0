"""The dataset against the definition at the head of sai3ssh/dataset.py, written again here in the plainest way."""

import functools
import hashlib
import math
import statistics
import unittest
import zlib
from collections import Counter

from sai3ssh.dataset import BLOCK, PIECE, UNIT, Content, directories_of, key_of, mean_size, size_of, total_size
from sai3ssh.model import Population, SizeSpec, Tree

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def reference(seed, index, size):
    """The bytes of an object, byte by byte."""
    base = hashlib.shake_128(f"sai3ssh {seed}".encode()).digest(4 << 20)
    g = (index * GOLDEN + int.from_bytes(base[:8], "little")) & MASK
    data = bytearray(base[((g >> 42) + p) % len(base)] for p in range(size))
    for block in range(-(-size // 4096)):
        stamp = ((g + block * (GOLDEN << 33)) & MASK).to_bytes(8, "little")
        data[block * 4096 : min(block * 4096 + 8, size)] = stamp[: size - block * 4096]
    return bytes(data)


@functools.lru_cache(maxsize=1)
def base_of(seed):
    return hashlib.shake_128(f"sai3ssh {seed}".encode()).digest(4 << 20)


def reduced(seed, index, size, dedup, compress):
    """As reference, with factors; each block of 4 KiB by itself."""
    base = base_of(seed)
    constant = int.from_bytes(base[:8], "little")
    data = bytearray()
    for at in range(0, size, 4096):
        unit, owner, block = at // 65536, index, at // 4096
        if (index * 0xC13FA9A902A6328F + unit * 0x91E10DA5C79E7B1D + constant) % 2**64 >= 2**64 / dedup:
            owner, block = index // (50 * math.ceil(dedup)), 2**31 - 16 * (unit // 64 + 1) + block % 16
        g = (owner * GOLDEN + constant) & MASK
        start = ((g >> 42) + block * 4096) % len(base)
        stamp = ((g + block * (GOLDEN << 33)) & MASK).to_bytes(8, "little")
        body = bytearray(stamp + (base[start + 8 : start + 4096] + base[:4096])[:4088])
        if compress > 1:
            keep = max(8, round(1024 / compress))
            for p in range(0, 4096, 1024):
                body[p + keep : p + 1024] = bytes(1024 - keep)
        data += body
    return bytes(data[:size])


def splitmix(seed, index):
    z = (seed + (index + 1) * GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Bytes(unittest.TestCase):
    def setUp(self):
        self.content = Content(42)

    def test_definition(self):
        for index in (0, 1, 99, 2**32):
            for size in (0, 1, 7, 8, 9, 4095, 4096, 4097, 70000, PIECE + 5):
                expected = reference(42, index, size)
                found = b"".join(self.content.piece(index, size, at, PIECE) for at in range(0, size, PIECE))
                self.assertEqual(found, expected, (index, size))
                self.assertEqual(self.content.head(index, size), expected[:PIECE])
                self.assertEqual(self.content.behind(b"before", index, size), b"before" + expected[:PIECE])
                self.assertEqual(self.content.md5(index, size), hashlib.md5(expected).hexdigest())

    def test_an_object_longer_than_the_base_wraps(self):
        size = (4 << 20) + 3 * PIECE + 17
        expected = reference(42, 11, size)
        buffer = bytearray(PIECE)
        for at in range(0, size, PIECE):
            self.assertEqual(self.content.piece(11, size, at, PIECE), expected[at : at + PIECE])
            length = self.content.piece_into(buffer, 11, size, at)
            self.assertEqual(buffer[:length], expected[at : at + length])
        self.assertTrue(self.content.matches(11, size, 0, expected))

    def test_any_offset_and_length(self):
        size = 20000
        expected = reference(42, 5, size)
        for offset in (0, 1, 7, 8, 4090, 4096, 4100, 12288, 19999, 20000, 25000):
            for length in (0, 1, 8, 100, 4096, 30000):
                piece = self.content.piece(5, size, offset, length)
                self.assertEqual(piece, expected[offset : offset + length], (offset, length))
                self.assertTrue(self.content.matches(5, size, offset, piece) or offset > size)

    def test_matches_notices_every_change(self):
        data = bytearray(self.content.piece(5, 9000, 0, 9000))
        for at in range(0, 9000, 37):
            data[at] ^= 0x10
            self.assertFalse(self.content.matches(5, 9000, 0, data))
            self.assertFalse(self.content.matches(5, 9000, 0, memoryview(data)))
            data[at] ^= 0x10
        self.assertTrue(self.content.matches(5, 9000, 0, memoryview(data)))
        self.assertFalse(self.content.matches(6, 9000, 0, data))
        self.assertFalse(self.content.matches(5, 8999, 0, data))
        self.assertFalse(Content(43).matches(5, 9000, 0, data))

    def test_no_two_blocks_are_alike(self):
        blocks = set()
        for index in range(200):
            data = self.content.piece(index, 10 * BLOCK, 0, 10 * BLOCK)
            blocks.update(data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
        self.assertEqual(len(blocks), 2000)
        repeated = {self.content.piece(1, 1 << 40, at, BLOCK) for at in range(0, 1 << 30, 4 << 20)}
        self.assertEqual(len(repeated), 256)

    def test_incompressible(self):
        data = b"".join(self.content.head(index, 4096) for index in range(500))
        self.assertGreater(len(zlib.compress(data, 9)), len(data) * 0.999)

    def test_zero(self):
        content = Content(1, "zero")
        self.assertEqual(content.head(3, 100), bytes(100))
        self.assertEqual(content.head(3, 0), b"")
        self.assertEqual(content.piece(3, PIECE * 2, PIECE - 1, PIECE), bytes(PIECE))
        self.assertTrue(content.matches(3, 100, 50, bytes(50)))
        self.assertFalse(content.matches(3, 100, 50, bytes(51)))
        self.assertFalse(content.matches(3, 100, 50, b"\1"))
        with self.assertRaises(ValueError):
            Content(1, "ones")


class Factors(unittest.TestCase):
    CASES = ((2, 1), (1, 2), (3, 5), (1.5, 2.5), (1000, 100))

    def test_definition(self):
        for dedup, compress in self.CASES:
            content = Content(42, "random", dedup, compress)
            for index in (0, 1, 99, 2**32):
                for size in (0, 1, 7, 100, 1024, 4096, 5000, 3 * UNIT + 4097, PIECE + 5):
                    expected = reduced(42, index, size, dedup, compress)
                    found = b"".join(content.piece(index, size, at, PIECE) for at in range(0, size, PIECE))
                    self.assertEqual(found, expected, (dedup, compress, index, size))
                    self.assertEqual(content.head(index, size), expected[:PIECE])
                    self.assertEqual(content.behind(b"before", index, size), b"before" + expected[:PIECE])
                    self.assertEqual(content.md5(index, size), hashlib.md5(expected).hexdigest())

    def test_beyond_the_first_cell(self):
        size = (9 << 20) + 17
        content = Content(7, "random", 4, 3)
        expected = reduced(7, 12, size, 4, 3)
        buffer = bytearray(PIECE)
        for at in range(0, size, PIECE):
            length = content.piece_into(buffer, 12, size, at)
            self.assertEqual(buffer[:length], expected[at : at + length])
        self.assertTrue(content.matches(12, size, 0, expected))

    def test_any_offset_and_length(self):
        size = 3 * UNIT + 1000
        for dedup, compress in self.CASES:
            content = Content(42, "random", dedup, compress)
            expected = reduced(42, 5, size, dedup, compress)
            for offset in (0, 1, 4090, 4096, UNIT - 1, UNIT, UNIT + 5000, 2 * UNIT - 8, size - 1, size):
                for length in (1, 8, 4096, UNIT, PIECE):
                    piece = content.piece(5, size, offset, length)
                    self.assertEqual(piece, expected[offset : offset + length], (offset, length))
                    self.assertTrue(content.matches(5, size, offset, piece))

    def test_factors_of_one_change_nothing(self):
        self.assertEqual(Content(5, "random", 1, 1).piece(3, 10**6, 0, PIECE), Content(5).piece(3, 10**6, 0, PIECE))

    def test_matches_notices_every_change(self):
        size = UNIT + 3000
        for dedup, compress in self.CASES:
            content = Content(8, "random", dedup, compress)
            data = bytearray(content.piece(5, size, 0, size))
            for at in (*range(0, size, 61), size - 1):
                data[at] ^= 1
                self.assertFalse(content.matches(5, size, 0, data), (dedup, compress, at))
                data[at] ^= 1
            self.assertTrue(content.matches(5, size, 0, data))

    def test_distinct_units(self):
        for dedup in (1, 1.5, 2, 3, 5, 20):
            for count, units in ((6000, 1), (500, 5), (3, 800)):
                content = Content(3, "random", dedup)
                distinct, block = set(), UNIT // 16
                for index in range(count):
                    for unit in range(units):
                        # The first block is enough: units are alike or differ in all their blocks.
                        distinct.add(content.piece(index, units * UNIT, unit * UNIT, block))
                self.assertAlmostEqual(count * units / len(distinct) / dedup, 1, delta=0.1, msg=f"{dedup} {count} {units}")

    def test_absurd_factors(self):
        for wrong in (0, 0.99, -1, 1001, float("nan"), float("inf")):
            with self.assertRaisesRegex(ValueError, "dedup_factor"):
                Content(1, "random", wrong)
            with self.assertRaisesRegex(ValueError, "compress_factor"):
                Content(1, "random", 1, wrong)
        with self.assertRaisesRegex(ValueError, "compress_factor 2 with fill zero"):
            Content(1, "zero", 1, 2)


class Sizes(unittest.TestCase):
    def test_fixed(self):
        self.assertEqual({size_of(SizeSpec("fixed", 7, 7), 1, index) for index in range(10)}, {7})

    def test_uniform(self):
        spec = SizeSpec("uniform", 3, 10)
        sizes = [size_of(spec, 9, index) for index in range(20000)]
        self.assertEqual(sizes[:50], [3 + splitmix(9, index) * 8 // 2**64 for index in range(50)])
        self.assertEqual(set(sizes), set(range(3, 11)))
        self.assertAlmostEqual(statistics.mean(sizes), mean_size(spec), delta=0.1)

    def test_lognormal(self):
        for low, high in ((1, 10**9), (50_000, 200_000)):
            spec = SizeSpec("lognormal", low, high, 100_000.0, 80_000.0)
            sizes = [size_of(spec, 9, index) for index in range(20000)]
            variance = math.log(1 + 0.8**2)
            for index in range(50):
                quantile = statistics.NormalDist().inv_cdf((splitmix(9, index) >> 11 | 1) / 2**53)
                exact = math.exp(math.log(100_000) - variance / 2 + math.sqrt(variance) * quantile)
                self.assertAlmostEqual(sizes[index], min(max(exact, low), high), delta=0.51)
            self.assertGreaterEqual(min(sizes), low)
            self.assertLessEqual(max(sizes), high)
            self.assertAlmostEqual(statistics.mean(sizes) / mean_size(spec), 1, delta=0.03)

    def test_extremes_of_lognormal(self):
        spec = SizeSpec("lognormal", 0, 2**50, 1e6, 1e9)
        for index in range(5000):
            self.assertTrue(0 <= size_of(spec, 1, index) <= 2**50)
        self.assertEqual(mean_size(SizeSpec("lognormal", 0, 100, 50.0, 0.0)), 50)

    def test_histogram(self):
        buckets, weights = ((4096, 4096), (65536, 1 << 20), (0, 2)), (70, 25, 5)
        spec = SizeSpec("histogram", 0, 1 << 20, buckets=buckets, cumulative=(70, 95, 100))
        sizes = [size_of(spec, 9, index) for index in range(20000)]
        for index in range(200):
            point, before = splitmix(9, index) * 100, 0
            for (low, high), weight in zip(buckets, weights):
                if point < (before + weight) << 64:
                    self.assertEqual(sizes[index], low + (point - (before << 64)) * (high - low + 1) // (weight << 64))
                    break
                before += weight
        for (low, high), weight in zip(buckets, weights):
            inside = [size for size in sizes if low <= size <= high]
            self.assertAlmostEqual(len(inside) / len(sizes), weight / 100, delta=0.01)
            self.assertAlmostEqual(statistics.mean(inside), (low + high) / 2, delta=(high - low) * 0.02)
        self.assertEqual({size for size in sizes if size < 4096}, {0, 1, 2})
        expected = (70 * 4096 + 25 * (65536 + (1 << 20)) / 2 + 5 * 1) / 100
        self.assertEqual(mean_size(spec), expected)
        self.assertAlmostEqual(statistics.mean(sizes) / expected, 1, delta=0.03)
        self.assertEqual(total_size(Population("p", "s3://b/", "o%d", 1000, spec, 1)), round(1000 * expected))

    def test_a_histogram_of_one_size(self):
        spec = SizeSpec("histogram", 5, 5, buckets=((5, 5), (5, 5)), cumulative=(1, 3))
        self.assertEqual({size_of(spec, 1, index) for index in range(10)}, {5})
        self.assertEqual(mean_size(spec), 5)

    def test_unknown_law(self):
        with self.assertRaisesRegex(ValueError, "pareto"):
            size_of(SizeSpec("pareto", 1, 2), 1, 1)

    def test_seeds_differ(self):
        spec = SizeSpec("uniform", 0, 10**6)
        self.assertNotEqual([size_of(spec, 1, i) for i in range(5)], [size_of(spec, 2, i) for i in range(5)])


class Names(unittest.TestCase):
    def test_keys(self):
        population = Population("p", "s3://b/", "prepared-%08d.dat", 1000, SizeSpec("fixed", 10, 10), 1)
        self.assertEqual(key_of(population, 123), "prepared-00000123.dat")
        self.assertEqual(total_size(population), 10000)
        sharded = Population("p", "s3://b/", "o%d", 1000, SizeSpec("uniform", 0, 10), 1, shards=16)
        self.assertEqual([key_of(sharded, index) for index in (0, 15, 31, 32)], ["00/o0", "0f/o15", "0f/o31", "00/o32"])
        self.assertEqual(total_size(sharded), 5000)

    @staticmethod
    def tree(*arguments, **keywords):
        tree = Tree(*arguments, **keywords)
        return Population("p", "file:///d/", "file_%08d.dat", tree.objects, SizeSpec("fixed", 10, 10), 1, tree=tree)

    def test_keys_in_a_tree(self):
        two = self.tree(2, 2, 3)
        self.assertEqual(two.count, 12)
        self.assertEqual(key_of(two, 0), "sai3bench.d1_w1.dir/sai3bench.d2_w1.dir/file_00000000.dat")
        self.assertEqual(key_of(two, 5), "sai3bench.d1_w1.dir/sai3bench.d2_w2.dir/file_00000005.dat")
        self.assertEqual(key_of(two, 11), "sai3bench.d1_w2.dir/sai3bench.d2_w2.dir/file_00000011.dat")
        everywhere = self.tree(2, 3, 1, everywhere=True, dir_mask="%d-%d")
        self.assertEqual(
            [key_of(everywhere, index).rpartition("/")[0] for index in range(everywhere.count)],
            ["1-1", "1-2", "1-1/2-1", "1-1/2-2", "1-2/2-1", "1-2/2-2"]
            + [f"1-{a}/2-{b}/3-{c}" for a in (1, 2) for b in (1, 2) for c in (1, 2)],
        )

    def test_each_directory_of_a_tree_has_as_many_objects(self):
        for width, depth, files, everywhere in ((3, 3, 4, False), (3, 3, 4, True), (1, 5, 2, True), (1, 5, 2, False), (7, 1, 1, True)):
            population = self.tree(width, depth, files, everywhere)
            keys = [key_of(population, index) for index in range(population.count)]
            self.assertEqual(len(set(keys)), population.count)
            per_directory = Counter(key.rpartition("/")[0] for key in keys)
            self.assertEqual(set(per_directory.values()), {files})
            levels = Counter(directory.count("/") + 1 for directory in per_directory)
            self.assertEqual(levels, {level: width**level for level in range(1 if everywhere else depth, depth + 1)})

    def test_directories_of_some_objects(self):
        populations = [self.tree(3, 3, 4, everywhere) for everywhere in (False, True)]
        populations.append(Population("p", "file:///d/", "o%d", 108, SizeSpec("fixed", 10, 10), 1, shards=16))
        populations.append(Population("p", "file:///d/", "o%d", 108, SizeSpec("fixed", 10, 10), 1))
        for population in populations:
            for ranges in (
                [(0, population.count)],
                [(0, 1)],
                [(5, 6), (9, 31)],
                [(3, 4), (4, 5)],
                [(population.count - 1, population.count)],
                [],
            ):
                expected = set()
                for lo, hi in ranges:
                    for index in range(lo, hi):
                        parts = key_of(population, index).split("/")[:-1]
                        expected |= {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
                found = list(directories_of(population, ranges))
                self.assertEqual((len(found), set(found)), (len(expected), expected), (population, ranges))
                depths = [name.count("/") for name in found]
                self.assertEqual(depths, sorted(depths, reverse=True), "those within others come first")


if __name__ == "__main__":
    unittest.main()
