"""The schedule of an open loop."""

import random
import unittest

from sai3ssh.agent.pacing import SECOND_NS, Pacer, Ramp, RampedPacer
from sai3ssh.model import IoRate

START = 10 * SECOND_NS


def schedule(pacer, count, now_ns=START):
    found = []
    for _ in range(count):
        found.append(pacer.due_ns(now_ns))
        pacer.advance()
    return found


def pacer(law, iops=1000.0, share=1.0, phase=0.0, seed=1):
    return Pacer(IoRate(iops, law), share, phase, START, random.Random(seed))


class Schedule(unittest.TestCase):
    def gaps(self, law):
        times = schedule(pacer(law), 20_001)
        return [(b - a) / 1e6 for a, b in zip(times, times[1:])]  # in ms; the mean is 1

    def test_exponential_gaps(self):
        gaps = self.gaps("exponential")
        mean = sum(gaps) / len(gaps)
        self.assertAlmostEqual(mean, 1.0, delta=0.03)
        self.assertAlmostEqual(sum((gap - mean) ** 2 for gap in gaps) / len(gaps), 1.0, delta=0.06)
        for after, part in ((0.5, 0.6065), (1.0, 0.3679), (3.0, 0.0498)):
            self.assertAlmostEqual(sum(gap > after for gap in gaps) / len(gaps), part, delta=0.01)

    def test_uniform_gaps(self):
        gaps = self.gaps("uniform")
        self.assertAlmostEqual(sum(gaps) / len(gaps), 1.0, delta=0.02)
        self.assertLess(max(gaps), 2.0)
        for after in (0.5, 1.0, 1.5):
            self.assertAlmostEqual(sum(gap > after for gap in gaps) / len(gaps), 1 - after / 2, delta=0.01)

    def test_workers_share_a_deterministic_rate_and_interleave(self):
        times = sorted(t for n in range(4) for t in schedule(pacer("deterministic", 400.0, 0.25, n / 4), 100))
        self.assertEqual(times, [START + n * SECOND_NS // 400 for n in range(400)])

    def test_a_gap_that_is_no_whole_number_of_nanoseconds_adds_up(self):
        self.assertAlmostEqual(schedule(pacer("deterministic", 3.0), 300_001)[-1], START + 100_000 * SECOND_NS, delta=1000)

    def test_who_comes_late_begins_then(self):
        late = START + 5 * SECOND_NS
        self.assertEqual(pacer("deterministic").due_ns(late), late)
        self.assertGreater(pacer("exponential").due_ns(late), late)

    def test_backlog(self):
        late = pacer("deterministic")
        self.assertEqual(late.backlog(START + SECOND_NS), 0, "nobody has asked yet")
        late.due_ns(START)
        self.assertEqual(late.backlog(START + SECOND_NS), 1000)
        self.assertEqual(late.backlog(START - 1), 0)


class RampedSchedule(unittest.TestCase):
    def ramped(self, law, share=1.0, phase=0.0, ramp_s=10.0):
        return RampedPacer(IoRate(1000.0, law), share, phase, START, random.Random(3), ramp_s)

    def test_the_rate_grows_linearly_and_stays(self):
        for law in ("deterministic", "exponential", "uniform"):
            times = [(t - START) / SECOND_NS for t in schedule(self.ramped(law), 15_000)]
            for second in (1, 3, 5, 9, 12, 15):
                due = 1000 * (second**2 / 20 if second < 10 else second - 5)
                self.assertAlmostEqual(sum(t < second for t in times), due, delta=1 if law == "deterministic" else 4 * due**0.5, msg=law)

    def test_workers_interleave(self):
        apart = sorted(t for n in range(4) for t in schedule(self.ramped("deterministic", 0.25, n / 4), 2000))
        together = schedule(self.ramped("deterministic"), 8000)
        self.assertLessEqual(max(abs(a - b) for a, b in zip(apart, together)), 1)

    def test_who_comes_late_finds_the_rate_of_that_time(self):
        for late_s, rate in ((5, 500), (20, 1000)):
            late = START + late_s * SECOND_NS
            times = schedule(self.ramped("deterministic"), 50, now_ns=late)
            self.assertAlmostEqual(times[0], late, delta=1)
            self.assertAlmostEqual((times[49] - times[0]) / SECOND_NS, 49 / rate, delta=0.02 * 49 / rate)

    def test_backlog(self):
        late = self.ramped("deterministic")
        self.assertEqual(late.backlog(START + SECOND_NS), 0, "nobody has asked yet")
        late.due_ns(START)
        self.assertEqual(late.backlog(START + 2 * SECOND_NS), 200)
        self.assertEqual(late.backlog(START + 12 * SECOND_NS), 7000)


class Filling(unittest.TestCase):
    def test_places_open_one_after_the_other_over_all_workers(self):
        opened = []
        for n in range(3):
            ramp = Ramp(10.0, 8, (n, 3), START)
            for _ in range(len(range(n, 8, 3))):
                opened.append((ramp.due_ns(START) - START) / SECOND_NS)
                ramp.advance()
        self.assertEqual(sorted(opened), [n * 10 / 8 for n in range(8)])

    def test_a_place_that_is_open_is_taken_again_at_once(self):
        ramp = Ramp(10.0, 10, (0, 1), START)
        now = START + 3 * SECOND_NS
        for _ in range(4):
            self.assertEqual(ramp.due_ns(now), now)
            ramp.advance()
        self.assertEqual(ramp.due_ns(now), START + 4 * SECOND_NS)
        ramp.ended()
        self.assertEqual(ramp.due_ns(now), now)


if __name__ == "__main__":
    unittest.main()
