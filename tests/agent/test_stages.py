"""What stages do beside load, and how they end, on one whole agent."""

import dataclasses
import os
import unittest

from sai3ssh.agent import state
from sai3ssh.model import OperationSpec, Own, SizeSpec, Stage, StageKind
from sai3ssh.protocol import scan
from tests.agent.agent_case import COUNT, KillingCase, wait


class Stages(KillingCase):
    def start(self, *stages, **changes):
        """An agent that is READY for a run of these stages."""
        channel = self.channel()
        plan = dataclasses.replace(self.plan(**changes), stages=stages)
        self.submit(channel, plan)
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        return channel

    def finish(self, channel):
        channel.wait(lambda: channel.final is not None, "final")
        records, _ = scan(self.journal())
        self.check_sums(records)
        return records

    @staticmethod
    def prepared(count):
        return sorted(f"d/{n}-{i:08d}.dat" for n in ("prepared", "deletable") for i in range(count))

    def names(self):
        return self.plan().stages[0].populations

    def test_in_a_pause_nothing_is_done_and_it_ends_when_it_was_to_end(self):
        channel = self.start(Stage("pause", StageKind.PAUSE, 4, duration_s=1.0))
        began = self.stage(channel, 0, "FINISHED")
        records = self.finish(channel)
        self.assertEqual(channel.final["outcome"], "finished")
        end = next(record for record in records if record["kind"] == "stage_end")
        self.assertEqual((end["start_clock_ns"], end["end_clock_ns"], end["totals"]), (began, began + 1_000_000_000, {}))
        self.assertGreaterEqual(end["drained_clock_ns"], began + 1_000_000_000 - 1_000_000)
        self.assertGreaterEqual(state.clock_ns(), end["drained_clock_ns"])

    def test_a_pause_is_cut_short_by_a_stop(self):
        channel = self.start(Stage("pause", StageKind.PAUSE, 4, duration_s=600.0))
        channel.release(self.key, "a0", 0)
        channel.wait_state("RUNNING")
        self.assertEqual(channel.ok("stop", key=self.key, agent_id="a0", reason="enough")["outcome"], "stopped")

    def test_a_tolerant_cleanup_misses_nothing(self):
        for number, mode in enumerate(("tolerant", "strict")):
            with self.subTest(mode):
                self.run_id = f"{self.run_id}-{number}"
                self.key = {**self.key, "run_id": self.run_id}
                cleanup = Stage("cleanup", StageKind.CLEANUP, 4, populations=self.names(), cleanup_mode=mode)
                channel = self.start(self.plan().stages[0], cleanup)
                self.stage(channel, 0, "AT_BARRIER")
                os.remove(f"{self.data}/d/prepared-00000007.dat")
                self.stage(channel, 1, "FINISHED")
                end = [record for record in self.finish(channel) if record["kind"] == "stage_end"][-1]
                self.assertEqual(end["totals"]["delete"]["errors"], {} if mode == "tolerant" else {"not_found": 1})
                self.assertEqual(end["totals"]["delete"]["ops"], 2 * COUNT - 1)
                self.assertEqual(self.files(), [])

    def test_an_agent_has_a_plan_of_its_own(self):
        uri, there = f"file://{self.data}/", f"file://{self.data}/there/"
        mix = (OperationSpec("get", 1, uri, "prepared"), OperationSpec("put", 1, uri + "new/", size=SizeSpec("fixed", 9, 9)))
        execute = Stage("execute", StageKind.EXECUTE, 4, duration_s=600.0, operations=mix, tasks=200)
        own = Own((1, 3, 1), (there, there), (there, there + "a0/new/"), {"SAI3SSH_TEST_MARK": "here it is"})
        plan = self.plan()
        channel = self.start(plan.stages[0], execute, plan.stages[2], own=(own,))
        with open(f"/proc/{self.worker(0)}/environ", "rb") as file:
            self.assertIn(b"SAI3SSH_TEST_MARK=here it is\0", file.read())
        self.stage(channel, 0, "AT_BARRIER")
        self.assertEqual(self.files(), [f"there/{name}" for name in self.prepared(COUNT)])
        self.stage(channel, 1, "AT_BARRIER")
        wait(lambda: len(self.records("stage_end")) == 2, "the end of the stage on disk")
        made = self.records("stage_end")[1]["made"]["puts"]
        self.assertEqual({put["target"] for put in made}, {there + "a0/new/"})
        self.assertEqual(len([name for name in self.files() if name.startswith("there/a0/new/")]), sum(put["count"] for put in made))
        self.stage(channel, 2, "FINISHED")
        records = self.finish(channel)
        self.assertEqual(self.files(), [])
        self.assertEqual({r["totals"]["get"]["errors"] == {} for r in records if r["kind"] == "stage_end" and "get" in r["totals"]}, {True})

    def test_a_stage_with_fewer_operations_in_flight_than_workers_does_everything(self):
        prepare, _, cleanup = self.plan().stages
        channel = self.start(dataclasses.replace(prepare, concurrency=1), cleanup)
        self.assertEqual(len(self.records("worker")), 2)
        self.stage(channel, 0, "AT_BARRIER")
        self.assertEqual(self.files(), self.prepared(COUNT))
        self.stage(channel, 1, "FINISHED")
        self.finish(channel)
        self.assertEqual(self.files(), [])

    def counted(self, tasks, duration_s=None):
        execute = dataclasses.replace(self.plan().stages[1], io_rate=None, duration_s=duration_s, tasks=tasks)
        channel = self.start(self.plan().stages[0], execute)
        self.stage(channel, 0, "AT_BARRIER")
        return channel

    def ended(self, records):
        """The end of the second stage, and how many operations it had."""
        end = [record for record in records if record["kind"] == "stage_end"][1]
        return end, sum(entry["ops"] + sum(entry["errors"].values()) for entry in end["totals"].values())

    def test_a_stage_ends_after_so_many_operations(self):
        channel = self.counted(501, duration_s=600.0)
        self.stage(channel, 1, "FINISHED")
        end, operations = self.ended(self.finish(channel))
        self.assertEqual(operations, 501)
        self.assertEqual(end["end_clock_ns"], end["drained_clock_ns"])

    def test_operations_are_done_once_over_the_death_of_a_worker_and_of_the_supervisor(self):
        channel = self.counted(8_001)
        channel.release(self.key, "a0", 1)
        channel.wait(lambda: channel.beats[-1]["stage"] == 1 and channel.beats[-1]["done"] > 500, "some operations")
        self.assertEqual(channel.beats[-1]["planned"], 8_001)
        self.kill(self.worker(1))
        wait(lambda: [r for r in self.records("worker") if r["worker"] == 1 and r["incarnation"] == 1], "a new worker")
        self.kill_supervisor(channel)
        channel.wait(lambda: channel.beats[-1]["state"] == "FINISHED" or channel.final is not None, "end")
        _, operations = self.ended(self.finish(channel))
        self.assertEqual(operations, 8_001)

    def test_a_stage_that_takes_longer_than_it_may_fails_the_agent(self):
        execute = dataclasses.replace(self.plan().stages[1], duration_s=600.0, timeout_s=1.0)
        channel = self.start(self.plan().stages[0], execute)
        self.stage(channel, 0, "AT_BARRIER")
        self.stage(channel, 1, "FAILED")
        records = self.finish(channel)
        self.assertEqual(records[-1]["reason"], "stage execute was not over 1 s after its start (timeout_secs)")
        end, _ = self.ended(records)
        self.assertLess(end["drained_clock_ns"] - end["start_clock_ns"], 60 * 10**9)

    def test_time_that_nobody_was_at_work_counts(self):
        channel = self.start(Stage("pause", StageKind.PAUSE, 4, duration_s=600.0, timeout_s=2.0))
        channel.release(self.key, "a0", 0)
        channel.wait_state("RUNNING")
        self.kill_supervisor(channel)
        self.assertIn("was not over 2 s after its start", self.finish(channel)[-1]["reason"])


if __name__ == "__main__":
    unittest.main()
