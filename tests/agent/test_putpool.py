"""The sample of what was put."""

import random
import unittest
from unittest import mock

from sai3ssh.agent import putpool
from sai3ssh.agent.putpool import PutPool, drawn_from


def pool(*indices, seed=1):
    made = PutPool("s3://b/", lambda op, index, start_ns: (op, index, start_ns), random.Random(seed))
    for index in indices:
        made.add(index)
    return made


class Pool(unittest.TestCase):
    def test_draws_what_was_added(self):
        made = pool(3, 7)
        self.assertEqual({made.draw(0, 5) for _ in range(100)}, {(0, 3, 5), (0, 7, 5)})

    @mock.patch.object(putpool, "KEPT", 10)
    def test_a_sample_of_all_is_kept_when_there_are_many(self):
        kept = []
        for seed in range(400):
            made = pool(*range(100), seed=seed)
            self.assertEqual(made.count, 100)
            kept += {made.draw(0, 0)[1] for _ in range(200)}
        self.assertEqual(len(kept), 4000)
        for tenth in range(10):
            self.assertAlmostEqual(sum(index // 10 == tenth for index in kept) / 4000, 0.1, delta=0.02)

    def test_which_pool_an_object_is_in(self):
        first, empty, second = pool(1, 2), pool(), pool(3)
        pools = [first, empty, second]
        found = [drawn_from(pools, 3, (n + 0.5) / 6) for n in range(6)]
        self.assertEqual(found, [None, None, None, first, first, second])
        self.assertIsNone(drawn_from([], 3, 0.999999))
        self.assertIsNone(drawn_from([empty], 3, 0.999999))


if __name__ == "__main__":
    unittest.main()
