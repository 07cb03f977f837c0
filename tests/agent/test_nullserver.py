"""The server that keeps nothing: its answers are as long as asked, and it counts what it receives."""

import threading
import unittest

from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, STAT
from sai3ssh.agent.engines.s3 import S3Engine
from sai3ssh.agent.engines.sigv4 import Credentials
from sai3ssh.agent.nullserver import COUNTED, NullServer
from sai3ssh.dataset import Content
from sai3ssh.model import OPERATIONS, Deadlines, Retry, Target
from tests.agent.s3_server import CountingWork, task


class TestNullServer(unittest.TestCase):
    def setUp(self):
        self.counts = memoryview(bytearray(8 * len(COUNTED))).cast("Q")
        self.server = NullServer(self.counts)
        self.alive = True
        thread = threading.Thread(target=self.server.serve, args=(lambda: self.alive,))
        thread.start()
        self.addCleanup(self.server.close)
        self.addCleanup(thread.join)
        self.addCleanup(setattr, self, "alive", False)
        self.engine = S3Engine(Target("s3", self.server.url), Credentials("a", "b"), Deadlines(5, 5, 10), Retry(0))
        self.addCleanup(self.engine.close)

    def test_counters_are_in_the_order_of_operations(self):
        self.assertEqual(COUNTED, OPERATIONS[: len(COUNTED)])

    def test_every_operation_of_every_size_is_answered_and_counted(self):
        sizes = (0, 1, 4096, 65536, 65537, 3_000_000)
        roots = {size: self.engine.root(f"s3://bucket/{size}/") for size in sizes}
        self.engine.check(write=True)
        before = self.counts.tolist()
        content = Content(1)
        tasks = [task(roots[size], op, f"k{n}", size, n, content) for n in range(20) for size in sizes for op in (GET, STAT, PUT)]
        tasks += [task(roots[0], op) for op in (LIST, DELETE, DELETE)]
        work = CountingWork(tasks)
        self.engine.run(work, 16)
        self.assertEqual((work.failures, work.retries), ([], []))
        self.assertEqual(work.bytes, 2 * 20 * sum(sizes))
        self.assertEqual([b - a for a, b in zip(before, self.counts.tolist())], [120, 120, 1, 120, 2])


if __name__ == "__main__":
    unittest.main()
