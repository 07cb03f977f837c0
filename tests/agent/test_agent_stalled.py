"""A client that stands still: the agent says that it was its own doing, and nothing is lost or hidden by it."""

import os
import signal
import unittest

from sai3ssh.agent.journal import scan
from sai3ssh.model import (
    Assignment,
    IoRate,
    OperationSpec,
    Plan,
    Population,
    SizeSpec,
    Stage,
    StageKind,
    Target,
    to_json,
)
from tests.agent.agent_case import AgentCase, wait

RATE = 200.0


class TestStalledWorker(AgentCase):
    def records(self, kind):
        records, _ = scan(self.journal())
        return [record for record in records if record["kind"] == kind]

    def test_a_worker_that_is_stopped_for_a_second_is_late_and_the_open_loop_shows_it(self):
        uri, size = "s3://null/4096/", SizeSpec("fixed", 4096, 4096)
        stage = Stage(
            "execute",
            StageKind.EXECUTE,
            8,
            duration_s=5.0,
            operations=(OperationSpec("get", 1, uri, "p"),),
            io_rate=IoRate(RATE, "deterministic"),
        )
        population = Population("p", uri, "k%08d", 100, size, 1)
        plan = Plan(self.run_id, "test", Target("null"), (population,), (stage,), workers=1, heartbeat_s=0.2)
        channel = self.channel()
        channel.ok("submit", key=self.key, plan=to_json(plan), assignment=to_json(Assignment("a0", 0, 1, {})), credentials=None)
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        channel.release(self.key, "a0", 0)
        (worker,) = self.records("worker")
        wait(lambda: self.records("sec"), "first second")
        known = len(self.records("sec"))
        os.kill(worker["pid"], signal.SIGSTOP)
        try:
            # One ends while it stands still, and of the next all of it has been so.
            wait(lambda: len(self.records("sec")) >= known + 2, "two more seconds")
        finally:
            os.kill(worker["pid"], signal.SIGCONT)
        channel.wait(lambda: channel.final is not None, "final")
        seconds, (end,) = self.records("sec"), self.records("stage_end")
        late_ms = [second["host"].get("late_ms", 0.0) for second in seconds]
        self.assertGreater(max(late_ms[known:]), 900.0, late_ms)
        self.assertEqual(set(end["totals"]), {"get"})
        self.assertEqual(end["totals"]["get"]["errors"], {})
        # It is all there: what was due meanwhile was begun afterwards, and its latency counts from when it was due.
        self.assertGreater(end["totals"]["get"]["ops"], RATE * 4.5)
        self.assertGreater(max(second["ops"]["get"][6] for second in seconds if "get" in second["ops"]), 900_000)
        self.check_sums(seconds + self.records("hist") + [end])


if __name__ == "__main__":
    unittest.main()
