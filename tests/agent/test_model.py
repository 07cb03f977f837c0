"""Intervals, shares and the JSON form of plans."""

import random
import unittest

from sai3ssh.model import (
    MIB,
    Assignment,
    Intervals,
    Multipart,
    OperationSpec,
    Plan,
    Population,
    Ranges,
    Retry,
    SizeSpec,
    Stage,
    StageKind,
    Target,
    bucket_of,
    from_json,
    http_error_class,
    share,
    to_json,
)  # fmt: skip

PLAN = Plan(
    "r1", "name", Target("s3", "http://127.0.0.1:1"), (Population("prepared", "s3://b/p/", "o-%d", 9, SizeSpec("uniform", 1, 5), 7),),
    (Stage("prepare", StageKind.PREPARE, 4, populations=("prepared",)), Stage("mix", StageKind.EXECUTE, 4, 2.5, 0.5, (OperationSpec("get",
    1, "s3://b/p/", "prepared"),))),
)  # fmt: skip


class Turns(unittest.TestCase):
    def turns(self, size, kind=StageKind.PREPARE, **parts):
        population = Population("p", "s3://b/", "%d", 1, SizeSpec("fixed", size, size), 1)
        stage = Stage("s", kind, 1, populations=("p",))
        return Plan("r", "r", Target("s3", **parts), (population,), (stage,)).turns(stage)

    def test_requests_of_a_large_object_that_follow_one_another(self):
        multipart, ranges = Multipart(64 * MIB, 64 * MIB, 10), Ranges(64 * MIB, 16, 16 * MIB)
        self.assertEqual(self.turns(102_400 * MIB), 1)
        self.assertEqual(self.turns(102_400 * MIB, multipart=multipart), 162)
        self.assertEqual(self.turns(64 * MIB, multipart=multipart), 3)
        self.assertEqual(self.turns(64 * MIB - 1, multipart=multipart), 1)
        self.assertEqual(self.turns(102_400 * MIB, StageKind.VERIFY, ranges=ranges), 100)
        self.assertEqual(self.turns(102_400 * MIB, StageKind.VERIFY, multipart=multipart), 1)
        self.assertEqual(self.turns(65 * MIB, StageKind.VERIFY, ranges=ranges), 1)


class Sets(unittest.TestCase):
    def test_against_sets_of_integers(self):
        rng = random.Random(4)
        for _ in range(500):
            a = [(lo, lo + rng.randrange(6)) for lo in (rng.randrange(40) for _ in range(rng.randrange(6)))]
            b = [(lo, lo + rng.randrange(6)) for lo in (rng.randrange(40) for _ in range(rng.randrange(6)))]
            sa, sb = ({n for lo, hi in r for n in range(lo, hi)} for r in (a, b))
            ia, ib = Intervals(a), Intervals(b)
            self.assertEqual({n for lo, hi in ia for n in range(lo, hi)}, sa)
            self.assertEqual(len(ia), len(sa))
            self.assertEqual({n for lo, hi in ia.subtract(ib) for n in range(lo, hi)}, sa - sb)
            parts = rng.randrange(1, 5)
            split = [[n for lo, hi in piece for n in range(lo, hi)] for piece in ia.split(parts)]
            self.assertEqual([n for piece in split for n in piece], sorted(sa))
            self.assertLessEqual(max(map(len, split)) - min(map(len, split)), 1)

    def test_shares_are_a_partition(self):
        for count, parts in ((0, 3), (5, 8), (100_000, 8), (4_915_200, 7)):
            shares = [share(count, i, parts) for i in range(parts)]
            self.assertEqual(shares[0][0], 0)
            self.assertEqual(shares[-1][1], count)
            self.assertTrue(all(a[1] == b[0] for a, b in zip(shares, shares[1:])))


class Json(unittest.TestCase):
    def test_plan_comes_back(self):
        import json

        for value in (PLAN, Assignment("h1", 0, 2, {"prepared": ((0, 3), (5, 9))})):
            self.assertEqual(from_json(type(value), json.loads(json.dumps(to_json(value)))), value)

    def test_an_earlier_plan_comes_back_with_what_it_did_not_say(self):
        data = to_json(PLAN)
        for part in (*data["populations"], *data["stages"][1]["operations"]):
            del part["dedup_factor"], part["compress_factor"]
        self.assertEqual(from_json(Plan, data), PLAN)
        for earlier, now in ((False, 0.0), (True, 1.0)):
            found = from_json(Target, {**to_json(PLAN.target), "verify_reads": earlier})
            self.assertEqual((found.verify_reads, type(found.verify_reads)), (now, float))

    def test_what_does_not_fit_is_refused(self):
        good = to_json(PLAN)
        for change in ({"name": 3}, {"surprise": 1}, {"stages": [{"name": "x"}]}, {"seed": "1"}, {"seed": True}):
            with self.assertRaises((ValueError, TypeError), msg=str(change)):
                from_json(Plan, {**good, **change})


class Classes(unittest.TestCase):
    def test_bucket_bounds_are_inclusive(self):
        self.assertEqual([bucket_of(n) for n in (0, 1, 8192, 8193, 65536, 65537, 1 << 31, (1 << 31) + 1)], [0, 1, 1, 2, 2, 3, 7, 8])

    def test_http_classes(self):
        self.assertEqual(
            [http_error_class(n) for n in (404, 418, 503, 599, 301, 200)],
            ["http_404", "http_4xx", "http_503", "http_5xx", "http_3xx", "protocol"],
        )


if __name__ == "__main__":
    unittest.main()


class RetryCase(unittest.TestCase):
    def test_delays_grow_to_the_longest_one_and_stay_there_however_often_it_is_tried(self):
        retry = Retry(10**6, 0.1, 5.0, 2.0)
        self.assertEqual([retry.delay_s(attempt) for attempt in (0, 1, 2, 5, 6)], [0.1, 0.2, 0.4, 3.2, 5.0])
        self.assertEqual({retry.delay_s(attempt) for attempt in (1023, 1024, 10**6)}, {5.0})
