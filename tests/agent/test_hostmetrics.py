"""What the agent measures of its host and its own processes."""

import os
import tempfile
import time
import unittest

from sai3ssh.agent import hostmetrics
from sai3ssh.agent.hostmetrics import ProcessCpu


class OwnCpu(unittest.TestCase):
    def test_the_busiest_process_by_what_it_used_since_the_last_look(self):
        cpu = ProcessCpu()
        pids = [os.getpid(), os.getppid(), 1 << 30]
        self.assertIsNone(cpu.sample(pids, 0), "there was no look before")
        used = time.process_time() + 0.3
        while time.process_time() < used:
            pass
        # As if that had taken half a second.
        self.assertAlmostEqual(cpu.sample(pids[:1], 500_000_000), 60.0, delta=15.0)
        self.assertEqual(len(cpu.shares), 1)
        self.assertIsNone(cpu.sample([1 << 30], 600_000_000))
        self.assertEqual(cpu.shares, [])


class Interfaces(unittest.TestCase):
    def make(self, name, speed, state, device=True):
        os.makedirs(os.path.join(self.root, name, "device" if device else "queues"))
        for file, text in (("speed", speed), ("operstate", state)):
            with open(os.path.join(self.root, name, file), "w", encoding="ascii") as made:
                made.write(text + "\n")

    def test_speed_of_what_is_real_and_up_and_known(self):
        with tempfile.TemporaryDirectory() as self.root:
            self.assertIsNone(hostmetrics._nic_bytes_per_s(self.root))
            self.make("veth0", "10000", "up", device=False)
            self.make("ens5", "-1", "up")
            self.make("eth9", "25000", "down")
            self.assertIsNone(hostmetrics._nic_bytes_per_s(self.root))
            self.make("eth0", "25000", "up")
            self.make("eth1", "1000", "up")
            self.assertEqual(hostmetrics._nic_bytes_per_s(self.root), 26_000 * 125_000)
        self.assertIsNone(hostmetrics._nic_bytes_per_s("/nonexistent"))


if __name__ == "__main__":
    unittest.main()
