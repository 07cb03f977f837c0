"""The laws by which gets and stats take their objects. Every seed is fixed: a test that passes passes always."""

import math
import random
import unittest
from collections import Counter

from sai3ssh.agent.keys import chooser, zipf
from sai3ssh.model import Intervals, KeySelection, Population, SizeSpec

DRAWS = 100_000


def generalised_harmonic(count, theta):
    """The sum of k ** -theta for k up to count: terms one by one, then Euler and Maclaurin's integral of the rest."""
    first = min(count, 10_000)
    total = math.fsum(k**-theta for k in range(1, first + 1))
    if count > first:
        a, b = first, count
        total += math.log(b / a) if theta == 1 else (b ** (1 - theta) - a ** (1 - theta)) / (1 - theta)
        total += (b**-theta - a**-theta) / 2
    return total


def population(count, seed=7):
    return Population("p", "s3://b/p/", "o-%d", count, SizeSpec("fixed", 1, 1), seed)


def draws(keys, count, n, owned=(), lane=(0, 1), seed=1):
    choose = chooser(keys, population(count), Intervals(owned), lane, random.Random(seed))
    return [choose() for _ in range(n)]


class Zipf(unittest.TestCase):
    def test_chi_square_against_the_law(self):
        for count in (1, 2, 3, 50):
            for theta in (0.2, 0.99, 1.0, 1.3, 2.0):
                rank = zipf(count, theta, random.Random(count).random)
                found = Counter(rank() for _ in range(DRAWS))
                self.assertLessEqual(set(found), set(range(count)))
                whole = generalised_harmonic(count, theta)
                expected = [DRAWS * (r + 1) ** -theta / whole for r in range(count)]
                chi = sum((found[r] - expected[r]) ** 2 / expected[r] for r in range(count))
                freedom = count - 1
                # Four standard deviations above the mean of the statistic.
                self.assertLess(chi, freedom + 4 * math.sqrt(2 * freedom) + 1e-9, (count, theta))

    def test_share_of_the_hottest_of_many(self):
        for count in (100_000, 10**9):
            for theta in (0.5, 0.99, 1.0, 1.2, 2.0):
                rank = zipf(count, theta, random.Random(5).random)
                found = [rank() for _ in range(DRAWS)]
                self.assertLess(max(found), count)
                for top in (1, 10, 1000, 30_000, count // 2):
                    share = min(1.0, generalised_harmonic(top, theta) / generalised_harmonic(count, theta))
                    error = 4 * math.sqrt(share * (1 - share) / DRAWS) + 1 / DRAWS
                    self.assertAlmostEqual(sum(r < top for r in found) / DRAWS, share, delta=error, msg=(count, theta, top))

    def test_the_ends_of_the_unit_interval(self):
        for theta in (1e-6, 0.5, 0.99, 1.0, 1.000001, 2.0):
            for count in (1, 2, 10**9):
                self.assertEqual(zipf(count, theta, lambda: 0.0)(), count - 1)
                self.assertEqual(zipf(count, theta, lambda: 1 - 2**-53)(), 0)


class Scrambled(unittest.TestCase):
    def test_hot_keys_are_spread_and_every_agent_has_the_same(self):
        keys = KeySelection("zipf", 0.99)
        hot = [[index for index, _ in Counter(draws(keys, 10_000, DRAWS, seed=seed)).most_common(10)] for seed in (1, 2)]
        self.assertEqual(hot[0][:4], hot[1][:4])
        tenths = {index // 1000 for index in hot[0]}
        self.assertGreaterEqual(len(tenths), 8)

    def test_the_law_survives_scrambling(self):
        for count in (1, 2, 6, 89, 1000):
            found = Counter(draws(KeySelection("zipf", 1.0), count, DRAWS))
            self.assertLessEqual(set(found), set(range(count)))
            whole = generalised_harmonic(count, 1.0)
            by_heat = [n for _, n in found.most_common(5)]
            for r, n in enumerate(by_heat):
                self.assertAlmostEqual(n / DRAWS, 1 / (r + 1) / whole, delta=0.005)
        self.assertEqual(len(set(draws(KeySelection("zipf", 0.01), 89, DRAWS))), 89, "one to one: every object can be drawn")


class Sequential(unittest.TestCase):
    KEYS = KeySelection("sequential")

    def test_in_order_and_again(self):
        self.assertEqual(draws(self.KEYS, 5, 12), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1])

    def test_an_agent_begins_with_its_own_part(self):
        self.assertEqual(draws(self.KEYS, 6, 8, owned=[(4, 6)]), [4, 5, 0, 1, 2, 3, 4, 5])

    def test_workers_take_turns(self):
        for count in (7, 9):
            lanes = [draws(self.KEYS, count, 9, lane=(n, 3)) for n in range(3)]
            together = [index for turn in zip(*lanes) for index in turn]
            self.assertEqual(together, [n % count for n in range(27)])


class Partitioned(unittest.TestCase):
    def test_only_what_the_agent_owns(self):
        for distribution in ("uniform", "zipf", "sequential"):
            keys = KeySelection(distribution, 0.5, partitioned=True)
            self.assertEqual(set(draws(keys, 1000, 3000, owned=[(100, 120)])), set(range(100, 120)), distribution)
            # After it has been given the work of a lost agent.
            expected = {*range(100, 110), *range(500, 505), 999}
            self.assertEqual(set(draws(keys, 1000, 3000, owned=[(100, 110), (500, 505), (999, 1000)])), expected, distribution)

    def test_overlap(self):
        keys = KeySelection("uniform", partitioned=True, overlap=0.3)
        found = draws(keys, 1000, DRAWS, owned=[(0, 250)])
        self.assertAlmostEqual(sum(index < 250 for index in found) / DRAWS, 0.7 + 0.3 / 4, delta=0.005)
        self.assertEqual(set(found), set(range(1000)))


if __name__ == "__main__":
    unittest.main()
