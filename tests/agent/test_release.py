"""Arm and commit: idempotent, fenced by generation, never out of order."""

import unittest

from sai3ssh.agent.release import Release
from sai3ssh.errors import AgentError, Transient

KEY = {"run_id": "r", "generation": 1, "controller": "c1", "sequence": 0}


def message(stage=0, number=1, start=1000, **key):
    return {"key": {**KEY, **key}, "stage": stage, "round": number, "start_clock_ns": start, "boot": "b"}


class Releases(unittest.TestCase):
    def setUp(self):
        self.release = Release(KEY, 2, "b")

    def test_a_round_and_its_repetitions(self):
        self.assertTrue(self.release.arm(message(), "READY"))
        self.assertFalse(self.release.arm(message(), "ARMED"))
        self.assertTrue(self.release.commit(message()))
        self.assertFalse(self.release.commit(message()))
        self.assertFalse(self.release.arm(message(), "RUNNING"))
        self.release.stage_ended()
        self.assertFalse(self.release.commit(message()))
        self.assertTrue(self.release.arm(message(stage=1, start=9000), "AT_BARRIER"))

    def test_a_later_round_replaces_until_commit(self):
        self.release.arm(message(), "READY")
        self.assertTrue(self.release.arm(message(number=2, start=2000), "ARMED"))
        with self.assertRaises(AgentError):
            self.release.commit(message(number=1))
        with self.assertRaises(AgentError):
            self.release.arm(message(number=1), "ARMED")
        self.assertTrue(self.release.commit(message(number=2)))
        self.assertEqual(self.release.start_clock_ns, 2000)
        with self.assertRaises(AgentError):
            self.release.arm(message(number=3), "COMMITTED")

    def running(self):
        self.release.arm(message(), "READY")
        self.release.commit(message())

    def test_a_stage_is_ended_early_once_and_for_all(self):
        self.running()
        end = {**message(), "duration_ns": 50}
        self.assertTrue(self.release.end(end, 90, 1020))
        self.assertEqual(self.release.lasts_ns, 50)
        for again in (end, {**end, "duration_ns": 40}, {**end, "duration_ns": 60}):
            self.assertFalse(self.release.end(again, 50, 1045))
        self.assertEqual(self.release.lasts_ns, 50)
        self.release.stage_ended()
        self.assertIsNone(self.release.lasts_ns)
        self.assertFalse(self.release.end(end, 0, 1060), "a stage that is over is no error")

    def test_an_end_that_comes_too_late_is_now_and_never_beyond_the_planned_one(self):
        self.running()
        self.release.end({**message(), "duration_ns": 50}, 90, 1070)
        self.assertEqual(self.release.lasts_ns, 70)
        self.setUp()
        self.running()
        self.release.end({**message(), "duration_ns": 50}, 90, 1095)
        self.assertEqual(self.release.lasts_ns, 90)

    def test_only_the_stage_that_runs_is_ended(self):
        end = {**message(), "duration_ns": 50}
        with self.assertRaises(AgentError):
            self.release.end(end, 90, 1000)
        self.release.arm(message(), "READY")
        with self.assertRaises(AgentError):
            self.release.end(end, 90, 1000)
        self.release.commit(message())
        for wrong in (
            {**message(number=2), "duration_ns": 50},
            {**message(stage=1), "duration_ns": 50},
            {**message(generation=0), "duration_ns": 50},
        ):
            with self.assertRaises(AgentError):
                self.release.end(wrong, 90, 1000)
        with self.assertRaises(AgentError):
            self.release.end(end, 0, 1000)
        self.assertIsNone(self.release.lasts_ns)

    def test_no_commit_without_arm_and_no_stage_out_of_order(self):
        with self.assertRaises(AgentError):
            self.release.commit(message(number=0))
        with self.assertRaises(AgentError):
            self.release.commit(message())
        with self.assertRaises(AgentError):
            self.release.arm(message(stage=1), "READY")
        with self.assertRaises(AgentError):
            self.release.arm(message(), "STARTING")
        # The host was restarted since its clock was measured: asked again with this boot's clock it is all right.
        with self.assertRaises(Transient):
            self.release.arm({**message(), "boot": "other"}, "READY")

    def test_generations(self):
        with self.assertRaises(AgentError):
            self.release.arm(message(generation=0), "READY")
        with self.assertRaises(AgentError):
            self.release.arm(message(controller="c2"), "READY")
        self.assertTrue(self.release.arm(message(generation=2, controller="c2"), "READY"))
        with self.assertRaises(AgentError) as caught:
            self.release.commit(message())
        self.assertIn("controller c2 generation 2 is in charge", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
