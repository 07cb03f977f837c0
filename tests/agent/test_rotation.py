"""Old runs go, and only they."""

import os
import subprocess
import tempfile
import unittest

from sai3ssh.agent import state
from sai3ssh.agent.daemon import Daemon
from sai3ssh.agent.rotation import DAY_S, Keep, Rotation
from sai3ssh.protocol import encode_record
from tests.agent.channel import environment

NOW_S = 1_800_000_000.0


class Spool(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="sai3ssh-test-")
        self.addCleanup(directory.cleanup)
        self.state = directory.name
        self.said = []

    def add(self, name, ended_s=None, size=0):
        path = state.run_dir(self.state, name, "a0")
        os.makedirs(path)
        state.write_json(os.path.join(path, "plan.json"), {})
        with open(os.path.join(path, "journal.ndjson"), "wb") as file:
            file.write(b"x" * size + b"\n")
            if ended_s is not None:
                record = {"seq": 1, "boot": "b", "clock_ns": 1, "wall_ns": int(ended_s * 1e9), "kind": "final", "outcome": "finished"}
                file.write(encode_record(record))
        return path

    def left(self):
        return sorted(run_id for run_id, _, _ in state.runs(self.state))

    def turn(self, keep, now_s=NOW_S):
        daemon = Daemon(self.state)
        Rotation(self.state, keep, lambda path: daemon._forget(daemon._runs[path]), self.said.append, lambda: now_s).turn()

    def test_what_ended_too_long_ago_goes_and_is_told(self):
        self.add("old", NOW_S - 30 * DAY_S)
        self.add("young", NOW_S - 29.9 * DAY_S)
        self.add("active")
        self.turn(Keep(days=30))
        self.assertEqual(self.left(), ["active", "young"])
        self.assertEqual(len(self.said), 1)
        self.assertRegex(self.said[0], r"^removed run old/a0 \(\d+ bytes\): it ended 30 days ago, 30 are kept$")
        self.assertEqual(os.listdir(os.path.join(self.state, "runs")).count("old"), 0)
        self.turn(Keep(days=30), NOW_S + 0.2 * DAY_S)
        self.assertEqual(self.left(), ["active"])

    def test_above_the_cap_the_oldest_finished_go_until_it_fits(self):
        for number in range(4):
            self.add(f"r{number}", NOW_S - (10 - number) * DAY_S, size=1_000_000)
        self.add("active", size=1_000_000)
        self.turn(Keep(max_bytes=3_500_000))
        self.assertEqual(self.left(), ["active", "r2", "r3"])
        self.assertEqual([line.split()[2] for line in self.said], ["r0/a0", "r1/a0"])

    def test_what_has_no_end_or_ended_within_the_hour_stays_whatever_the_cap(self):
        self.add("active", size=1_000_000)
        self.add("just", NOW_S - 3599, size=1_000_000)
        self.add("hour", NOW_S - 3601, size=1_000_000)
        self.turn(Keep(days=1, max_bytes=1))
        self.assertEqual(self.left(), ["active", "just"])

    def test_without_limits_all_stay(self):
        self.add("old", 0.0)
        self.turn(Keep())
        self.assertEqual(self.left(), ["old"])

    def test_a_run_that_is_held_by_a_supervisor_stays_and_the_others_go(self):
        path = self.add("held", NOW_S - 3 * DAY_S)
        self.add("old", NOW_S - 2 * DAY_S)
        lock = state.try_lock(os.path.join(path, "supervisor.lock"))
        self.addCleanup(os.close, lock)
        self.turn(Keep(days=1))
        self.assertEqual(self.left(), ["held"])
        self.assertIn("run held/a0 cannot be removed", self.said[0])

    def test_a_removal_that_was_interrupted_is_completed_by_the_next_daemon(self):
        os.makedirs(os.path.join(self.state, "removed", "half"))
        Daemon(self.state)
        self.assertEqual(os.listdir(self.state), [])

    def test_the_daemon_does_it_when_it_starts(self):
        self.add("old", NOW_S - 1e9)
        self.add("young", 4e9)
        argv = [*state.self_argv(), "serve", "--foreground", "--keep-days", "30", "--state", self.state]
        with subprocess.Popen(argv, env=environment(), stderr=subprocess.PIPE, text=True) as daemon:
            self.addCleanup(daemon.kill)
            self.assertIn("serves", daemon.stderr.readline())
            self.assertIn("removed run old/a0", daemon.stderr.readline())
            daemon.terminate()
            self.assertEqual(daemon.wait(10), 0)
        self.assertEqual(self.left(), ["young"])


if __name__ == "__main__":
    unittest.main()
