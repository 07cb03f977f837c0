"""Histograms: error bound, merging, percentiles."""

import math
import random
import unittest

from sai3ssh.histogram import CELLS, HIGHEST_NS, LOWEST_NS, Histogram, cell_of, value_of


class Cells(unittest.TestCase):
    def test_error_is_at_most_eight_per_mille_over_the_whole_range(self):
        rng = random.Random(1)
        for _ in range(50_000):
            value = int(math.exp(rng.uniform(math.log(LOWEST_NS), math.log(HIGHEST_NS))))
            self.assertLessEqual(abs(value_of(cell_of(value)) - value), 0.008 * value, value)

    def test_cells_are_monotonic_and_in_range(self):
        edges = sorted({v + d for e in range(9, 43) for v in (1 << e, 3 << (e - 1)) for d in (-1, 0, 1)} | {0, 1, HIGHEST_NS * 2})
        cells = [cell_of(v) for v in edges]
        self.assertEqual(cells, sorted(cells))
        self.assertEqual((cells[0], cells[-1]), (0, CELLS - 1))


class Merging(unittest.TestCase):
    def test_merged_is_the_histogram_of_all(self):
        rng = random.Random(2)
        samples = [int(rng.lognormvariate(14, 1.5)) + 1000 for _ in range(9000)]
        whole, parts = Histogram(), [Histogram() for _ in range(7)]
        for n, value in enumerate(samples):
            whole.record(value)
            parts[n % 7].record(value)
        merged = Histogram()
        for part in parts:
            merged.merge(Histogram.from_pairs(part.to_pairs(), sum_ns=part.sum_ns, max_ns=part.max_ns))
        self.assertEqual((merged.cells, merged.sum_ns, merged.max_ns), (whole.cells, whole.sum_ns, whole.max_ns))

    def test_percentiles_against_sorted_samples(self):
        rng = random.Random(3)
        samples = sorted(int(rng.expovariate(1e-6)) + 1000 for _ in range(20_000))
        histogram = Histogram()
        for value in samples:
            histogram.record(value)
        for rank in (0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0):
            exact = samples[max(1, math.ceil(len(samples) * rank / 100)) - 1]
            self.assertLessEqual(abs(histogram.percentile(rank) - exact), 0.008 * exact, rank)
        self.assertEqual(histogram.count, len(samples))
        self.assertEqual(histogram.mean_ns, sum(samples) / len(samples))

    def test_percentile_is_never_above_the_maximum(self):
        histogram = Histogram()
        histogram.record(2_000_001)
        self.assertEqual(histogram.percentile(99), min(value_of(cell_of(2_000_001)), 2_000_001))

    def test_empty(self):
        self.assertEqual(Histogram().percentiles([50, 99]), [0.0, 0.0])
        self.assertEqual(Histogram.from_pairs([]).count, 0)

    def test_pairs_out_of_range_are_refused(self):
        for flat in ([1], [CELLS, 1], [5, 1, -6, 1], [0, -1]):
            with self.assertRaises(ValueError):
                Histogram.from_pairs(flat)


if __name__ == "__main__":
    unittest.main()
