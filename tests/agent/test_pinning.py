"""Workers that stay on a core each."""

import os
import tempfile
import unittest

from sai3ssh.agent.pinning import core_order
from sai3ssh.protocol import scan
from tests.agent.agent_case import AgentCase


class CoreOrderTest(unittest.TestCase):
    def topology(self, lists):
        directory = tempfile.mkdtemp()
        for core, text in lists.items():
            with open(os.path.join(directory, str(core)), "w", encoding="ascii") as file:
                file.write(text)
        return os.path.join(directory, "%d")

    def test_one_thread_of_each_physical_core_comes_first(self):
        apart = self.topology({0: "0,4\n", 1: "1,5\n", 4: "0,4\n", 5: "1,5\n"})
        self.assertEqual(core_order([5, 4, 1, 0], apart), [0, 1, 4, 5])
        beside = self.topology({core: f"{core & ~1}-{core | 1}\n" for core in range(6)})
        self.assertEqual(core_order(range(6), beside), [0, 2, 4, 1, 3, 5])

    def test_only_cores_that_this_process_may_use(self):
        beside = self.topology({core: f"{core & ~1}-{core | 1}\n" for core in range(6)})
        self.assertEqual(core_order([1, 2, 3], beside), [1, 2, 3])

    def test_a_host_that_tells_nothing(self):
        self.assertEqual(core_order([3, 1, 2], self.topology({1: "nonsense\n"})), [1, 2, 3])


class PinnedTest(AgentCase):
    def test_each_worker_is_on_a_core_of_its_own_as_far_as_there_are_any(self):
        channel, _ = self.begin(pin_workers=True)
        workers = [record["pid"] for record in scan(self.journal())[0] if record["kind"] == "worker"]
        self.assertEqual(len(workers), 2)
        cores = [os.sched_getaffinity(pid) for pid in workers]
        self.assertEqual([len(one) for one in cores], [1, 1])
        self.assertEqual(len(cores[0] | cores[1]), min(2, len(os.sched_getaffinity(0))))
        channel.ok("stop", key=self.key, agent_id="a0", reason="seen")
