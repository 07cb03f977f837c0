"""What stages do beside load, and how they end, on one whole agent."""

import dataclasses
import os
import unittest

from sai3ssh.agent import state
from sai3ssh.model import Stage, StageKind
from sai3ssh.protocol import scan
from tests.agent.agent_case import COUNT, AgentCase


class Stages(AgentCase):
    def start(self, *stages, **changes):
        """An agent that is READY for a run of these stages."""
        channel = self.channel()
        plan = dataclasses.replace(self.plan(**changes), stages=stages)
        self.submit(channel, plan)
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        return channel

    def records(self, *kinds):
        return [record for record in scan(self.journal())[0] if record["kind"] in kinds]

    def finish(self, channel):
        channel.wait(lambda: channel.final is not None, "final")
        records, _ = scan(self.journal())
        self.check_sums(records)
        return records

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


if __name__ == "__main__":
    unittest.main()
