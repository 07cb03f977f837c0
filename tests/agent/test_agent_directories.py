"""Runs in directories: trees that are prepared, found, and gone after the cleanup."""

import dataclasses
import json
import os
import shutil
import signal
import unittest
from pathlib import Path

from sai3ssh.agent.stage import Ledger
from sai3ssh.dataset import directories_of, key_of
from sai3ssh.model import Intervals, OperationSpec, Plan, Stage, StageKind, Target, Tree, from_json, to_json
from sai3ssh.protocol import scan
from tests.agent.agent_case import AgentCase, wait
from tests.agent.direct_files import direct_directory

TREE = Tree(3, 2, 20, everywhere=True)


class Trees(AgentCase):
    def setUp(self):
        super().setUp()
        # Past the page cache, so that a whole run does that once as well.
        self.data = direct_directory(self)
        self.addCleanup(shutil.rmtree, self.data)

    def plan(self, **changes):
        plan = super().plan(duration_s=0.5, count=TREE.objects, **changes)
        populations = tuple(dataclasses.replace(p, key_format=p.name + "-%d", tree=TREE) for p in plan.populations)
        verify = Stage("verify", StageKind.VERIFY, 4, populations=("prepared", "deletable"))
        plan = dataclasses.replace(plan, populations=populations, stages=(*plan.stages[:2], verify, plan.stages[2]))
        text = json.dumps(to_json(plan)).replace("file://", "direct://").replace(self.data + "/d/", self.data + "/")
        return from_json(Plan, json.loads(text))

    def directories(self):
        return {os.path.relpath(os.path.join(d, name), self.data) for d, names, _ in os.walk(self.data) for name in names}

    def run_all(self, before_cleanup=lambda: None, **changes):
        """The ends of the stages, by name."""
        channel = self.channel()
        plan = self.plan(**changes)
        self.submit(channel, plan, TREE.objects)
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        self.stage(channel, 0, "AT_BARRIER")
        keys = {key_of(p, index) for p in plan.populations for index in range(p.count)}
        self.assertEqual(set(self.files()), keys)
        self.stage(channel, 1, "AT_BARRIER")
        self.stage(channel, 2, "AT_BARRIER")
        before_cleanup()
        self.stage(channel, 3, "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")
        self.assertEqual(channel.final["outcome"], "finished")
        records = scan(self.journal())[0]
        self.check_sums(records)
        return {record["name"]: record for record in records if record["kind"] == "stage_end"}

    def test_everything_is_found_and_nothing_of_it_stays(self):
        foreign = "sai3bench.d1_w2.dir/sai3bench.d2_w3.dir"

        def before_cleanup():
            self.assertEqual(len(self.directories() - {"new"}), 3 + 9)
            Path(self.data, foreign, "of somebody else").write_text("x")
            Path(self.data, "empty and of somebody else").mkdir()

        ends = self.run_all(before_cleanup, target=Target("file", verify_reads=1.0, fsync="directory"))
        self.assertFalse(any(totals["errors"] for end in ends.values() for totals in end["totals"].values()), ends)
        self.assertTrue(all(ends["execute"]["totals"][op]["ops"] for op in ("get", "put", "stat", "delete")))
        self.assertEqual(self.files(), [foreign + "/of somebody else"])
        self.assertEqual(self.directories(), {"new", "empty and of somebody else", "sai3bench.d1_w2.dir", foreign})

    def test_directories_that_were_made_are_gone_after_the_cleanup(self):
        plan = self.plan()
        uri = f"direct://{self.data}/made/"
        mix = (OperationSpec("mkdir", 2, uri), OperationSpec("rmdir", 1, uri), OperationSpec("list", 1, uri))
        execute = dataclasses.replace(plan.stages[1], operations=mix, duration_s=1.5)
        stages = (execute, Stage("cleanup", StageKind.CLEANUP, 4))
        channel = self.channel()
        self.submit(channel, dataclasses.replace(plan, stages=stages, populations=()), 0)
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        channel.release(self.key, "a0", 0)
        channel.wait_state("RUNNING")
        wait(lambda: self.directories() - {"made"}, "the first directory")
        pid = next(record["pid"] for record in scan(self.journal())[0] if record["kind"] == "worker" and record["worker"] == 1)
        os.kill(pid, signal.SIGKILL)
        channel.wait_state("AT_BARRIER")
        left = self.directories() - {"made"}
        self.assertTrue(left)
        self.assertTrue(all(name.startswith(f"made/mkdir-{self.run_id}-a0000-s00-w") for name in left), left)
        foreign = min(left)
        Path(self.data, foreign, "of somebody else").write_text("x")
        self.stage(channel, 1, "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")
        self.assertEqual(self.directories(), {"made", foreign})
        records = scan(self.journal())[0]
        self.check_sums(records)
        made, cleaned = (record["totals"] for record in records if record["kind"] == "stage_end")
        self.assertTrue(made["mkdir"]["ops"] > made["rmdir"]["ops"] > 0, made)
        self.assertEqual({op: totals["errors"] for op, totals in made.items()}, {"mkdir": {}, "rmdir": {}, "list": {}})
        self.assertEqual((cleaned["delete"]["ops"], cleaned["delete"]["errors"]), (len(left) - 1, {"not_empty": 1}))

    def test_what_another_had_deleted_is_somebodys(self):
        plan = self.plan()
        cleanup = len(plan.stages) - 1
        population = plan.populations[0]
        ledger = Ledger(plan, {"prepared": ((0, TREE.objects),)})
        ledger.record(cleanup, "prepared", [(0, 100)])
        pieces = {name: ranges.split(3) for name, ranges in ledger.todo(cleanup, plan.stages[cleanup]).items()}
        found = []
        for worker in range(3):
            mine = {name: parts[worker] for name, parts in pieces.items()}
            swept = ledger.swept(plan.stages[cleanup], mine, worker, 3)
            self.assertEqual(mine["prepared"].subtract(swept["prepared"]), Intervals(), "its own are looked at when it is done")
            found += directories_of(population, list(swept["prepared"]))
        self.assertEqual(set(found), set(directories_of(population, [(0, TREE.objects)])))
        self.assertLess(len(found), 2 * 12, "not all by all")
        for stage in plan.stages[:cleanup]:
            self.assertEqual(ledger.swept(stage, {}, 0, 3), {})


if __name__ == "__main__":
    unittest.main()
