"""Counters in shared memory: what workers count is what the supervisor reads, once."""

import os
import random
import tempfile
import unittest

from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import Root, Task
from sai3ssh.agent.work import Recorder
from sai3ssh.histogram import Histogram
from sai3ssh.model import BUCKET_BOUNDS, ERROR_CLASSES, OPERATIONS, bucket_of


class Metrics(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "m")
        self.cells = metrics.create(self.path)

    def task(self, op, start_ns):
        return Task(OPERATIONS.index(op), Root("s3://b/"), "k", 0, 0, None, start_ns)

    def test_file_is_allocated_whole(self):
        self.assertEqual(os.stat(self.path).st_size, metrics.TOTAL * 8)
        self.assertGreaterEqual(os.stat(self.path).st_blocks * 512, metrics.TOTAL * 8)
        with self.assertRaises(FileExistsError):
            metrics.create(self.path)

    def test_deltas_add_up_to_all_that_was_recorded(self):
        rng = random.Random(1)
        recorder, reader = Recorder(self.cells), metrics.Reader(metrics.attach(self.path))
        expected, got = {}, metrics.Delta()
        errors, retried, requests = {}, {}, {}
        for n in range(5000):
            op = rng.choice(OPERATIONS)
            size = rng.choice([0, 1, *BUCKET_BOUNDS[1:], BUCKET_BOUNDS[-1] + 1, rng.randrange(1 << 33)]) if op in ("get", "put") else 0
            latency = rng.choice([0, 1, 999, 1000, 1001, 1023, 1024, int(rng.lognormvariate(14, 3)), 10**14])
            task = self.task(op, 5_000_000)
            roll = rng.random()
            requests[op] = requests.get(op, 0) + 1
            if roll < 0.1:
                name = rng.choice(ERROR_CLASSES)
                recorder.failed(task, name, True)
                errors[op, name] = errors.get((op, name), 0) + 1
            elif roll < 0.2:
                name = rng.choice(ERROR_CLASSES)
                recorder.retried(task, name, True)
                retried[op, name] = retried.get((op, name), 0) + 1
            else:
                recorder.done(task, 5_000_000 + latency, size)
                key = op, bucket_of(size)
                histogram, total = expected.setdefault(key, (Histogram(), [0]))
                histogram.record(latency)
                total[0] += size
            if n % 701 == 0:
                got.add(reader.delta(0))
        got.add(reader.delta(0))
        self.assertFalse(reader.delta(0))
        self.assertFalse(reader.delta(1))
        self.assertEqual({(OPERATIONS[op], bucket) for op, bucket in got.regions}, set(expected))
        for (op, bucket), region in got.regions.items():
            histogram, total = expected[OPERATIONS[op], bucket]
            self.assertEqual((region.cells, region.sum_ns, region.max_ns), (histogram.cells, histogram.sum_ns, histogram.max_ns))
            self.assertEqual(region.bytes, total[0])
        counters = got.counters()
        self.assertEqual(counters["requests"], requests)
        self.assertEqual({(op, c): n for op, by in counters["errors"].items() for c, n in by.items()}, errors)
        self.assertEqual({(op, c): n for op, by in counters["retried"].items() for c, n in by.items()}, retried)

    def test_lateness_adds_up_and_is_told_once(self):
        recorder, reader = Recorder(self.cells), metrics.Reader(self.cells)
        recorder.late(20_000_000)
        recorder.late(5_000_000)
        self.assertEqual((reader.late_ns(), reader.late_ns()), (25_000_000, 0))

    def test_not_sent_is_no_request(self):
        recorder, reader = Recorder(self.cells), metrics.Reader(self.cells)
        recorder.failed(self.task("get", 0), "refused", False)
        recorder.retried(self.task("get", 0), "refused", False)
        recorder.page(self.task("list", 0))
        self.assertEqual(reader.delta(0).counters()["requests"], {"list": 1})

    def test_warmup_and_tail_are_apart(self):
        recorder, reader = Recorder(self.cells), metrics.Reader(self.cells)
        recorder.warmup_until_ns, recorder.tail_from_ns = 100_000, 1_000_000
        recorder.done(self.task("put", 99_999), 2_000_000, 10)
        recorder.done(self.task("put", 100_000), 1_000_000, 20)
        recorder.done(self.task("put", 900_000), 1_000_001, 40)
        measured, warmup = reader.delta(0).regions[1, 1], reader.delta(1).regions[1, 1]
        self.assertEqual((sum(measured.cells.values()), measured.bytes, measured.tail_ops, measured.tail_bytes), (2, 60, 1, 40))
        self.assertEqual((sum(warmup.cells.values()), warmup.bytes), (1, 10))


if __name__ == "__main__":
    unittest.main()
