"""What stages do beside load, and how they end, on one whole agent."""

import contextlib
import dataclasses
import os
import signal
import unittest

from sai3ssh.agent import command, state
from sai3ssh.agent.supervisor import told_failure
from sai3ssh.agent.workers import group_members
from sai3ssh.model import IoRate, OperationSpec, Own, SizeSpec, Stage, StageKind
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

    def custom(self, script, *after, own=(), **changes):
        """A run of one command, released; what it says of itself goes to `said` in the data directory."""
        stage = Stage("custom", StageKind.CUSTOM, 4, command=("/bin/sh", "-c", script), **changes)
        channel = self.start(stage, *after, own=own)
        channel.release(self.key, "a0", 0)
        return channel

    def said(self):
        with contextlib.suppress(FileNotFoundError), open(f"{self.data}/said", encoding="ascii") as file:
            return file.read()
        return ""

    def test_a_command_is_run_and_its_output_is_in_the_journal(self):
        channel = self.custom("echo hello; echo $SAI3SSH_TEST_MARK >&2; seq 1 9000", own=(Own(env={"SAI3SSH_TEST_MARK": "world"}),))
        records = self.finish(channel)
        self.assertEqual(channel.final["outcome"], "finished")
        (told,) = [record for record in records if record["kind"] == "command"]
        whole = "hello\nworld\n" + "".join(f"{n}\n" for n in range(1, 9001))
        self.assertEqual((told["exit_code"], told["timed_out"], told["output_bytes"]), (0, False, len(whole)))
        self.assertEqual(told["output"], whole[-command.KEPT_BYTES :])
        self.assertEqual(len([record for record in records if record["kind"] == "stage_end"]), 1)

    def test_a_command_that_fails_fails_the_agent_with_what_it_said(self):
        for number, (program, words) in enumerate(
            {"echo oh; exit 3": "ended with exit code 3; it said: oh", "kill -9 $$": "was killed by SIGKILL"}.items()
        ):
            self.run_id = f"{self.run_id}-{number}"
            self.key = {**self.key, "run_id": self.run_id}
            records = self.finish(self.custom(program))
            self.assertEqual(records[-1]["reason"], f"stage custom: command /bin/sh {words}")
        missing = {"exit_code": 127, "timed_out": False, "output": "x: No such file"}
        self.assertEqual(command.failure(["x"], missing), "command x ended with exit code 127; it said: x: No such file")

    def test_a_command_is_killed_with_its_process_group_when_its_time_is_over(self):
        channel = self.custom(f"sleep 600 & echo $! > {self.data}/said; wait", timeout_s=1.0)
        records = self.finish(channel)
        self.assertIn("command /bin/sh was killed after", records[-1]["reason"])
        self.assert_gone(int(self.said()))

    def test_a_stop_kills_a_command(self):
        channel = self.custom(f"sleep 600 & echo $! > {self.data}/said; wait")
        wait(self.said, "the command")
        self.assertEqual(channel.ok("stop", key=self.key, agent_id="a0", reason="enough")["outcome"], "stopped")
        self.assert_gone(int(self.said()))

    def test_a_command_runs_once_whoever_is_killed_meanwhile(self):
        script = f"echo begun >> {self.data}/said; until test -e {self.data}/go; do sleep 0.05; done; echo done"
        channel = self.custom(script)
        wait(self.said, "the command")
        self.kill(self.worker(0))
        wait(lambda: [r for r in self.records("worker") if r["worker"] == 0 and r["incarnation"] == 1], "a new worker")
        self.kill_supervisor(channel)
        self.kill(self.daemon())
        with open(f"{self.data}/go", "w", encoding="ascii"):
            pass
        wait(lambda: os.path.exists(os.path.join(self.state, "runs", self.run_id, "a0", "status.json")), "the end")
        wait(lambda: "supervise" not in [self.argument(pid) for pid in self.pids()], "the end of the supervisor")
        self.assertEqual(self.records("final")[0]["outcome"], "finished")
        self.assertEqual(self.said(), "begun\n")
        self.assertEqual({record["output"] for record in self.records("command")}, {"done\n"})

    def test_a_command_of_which_nobody_knows_is_not_run_again(self):
        channel = self.custom(f"echo $PPID $$ >> {self.data}/said; sleep 600")
        wait(self.said, "the command")
        waiting, shell = map(int, self.said().split())
        os.kill(waiting, signal.SIGKILL)
        records = self.finish(channel)
        self.assertIn("had been started, and nobody knows its outcome", records[-1]["reason"])
        self.assertEqual(self.said(), f"{waiting} {shell}\n")
        self.assertEqual(group_members(shell), [])

    def test_an_optional_stage_that_fails_is_told_and_the_next_one_runs(self):
        prepare, _, cleanup = self.plan().stages
        channel = self.custom("exit 1", prepare, cleanup, optional=True)
        channel.wait_state("AT_BARRIER")
        self.stage(channel, 1, "AT_BARRIER")
        self.assertEqual(self.files(), self.prepared(COUNT))
        self.stage(channel, 2, "FINISHED")
        records = self.finish(channel)
        self.assertEqual(channel.final["outcome"], "finished")
        ends = [record for record in records if record["kind"] == "stage_end"]
        self.assertEqual([(end["outcome"], "error" in end) for end in ends], [("finished", True), ("finished", False), ("finished", False)])
        self.assertIn("ended with exit code 1", ends[0]["error"]["message"])
        self.assertEqual(self.files(), [])

    def test_an_optional_load_that_takes_too_long_ends_and_its_puts_are_cleaned_up(self):
        execute = dataclasses.replace(self.plan().stages[1], duration_s=600.0, timeout_s=2.0, optional=True)
        channel = self.start(self.plan().stages[0], execute, self.plan().stages[2])
        self.stage(channel, 0, "AT_BARRIER")
        self.stage(channel, 1, "AT_BARRIER")
        self.assertTrue([name for name in self.files() if name.startswith("new/")])
        self.stage(channel, 2, "FINISHED")
        end = [record for record in self.finish(channel) if record["kind"] == "stage_end"][1]
        self.assertIn("was not over 2 s after its start", end["error"]["message"])
        self.assertLess(end["end_clock_ns"], end["start_clock_ns"] + 600 * 10**9)
        self.assertEqual(self.files(), [])

    def test_the_failure_of_an_optional_stage_is_known_after_a_crash(self):
        records = [{"kind": "stage_failed", "stage": 0, "error": {"message": "x"}}]
        self.assertEqual(told_failure(records), {"message": "x"})
        self.assertIsNone(told_failure([*records, {"kind": "stage_end", "stage": 0}]))
        channel = self.custom("exit 1", self.plan().stages[0], optional=True)
        wait(lambda: self.records("stage_failed"), "the failure on disk")
        self.kill_supervisor(channel)
        channel.wait_state("AT_BARRIER")
        self.stage(channel, 1, "FINISHED")
        records = self.finish(channel)
        self.assertEqual(len([record for record in records if record["kind"] == "stage_failed"]), 1)
        self.assertEqual(["error" in record for record in records if record["kind"] == "stage_end"], [True, False])

    def counted(self, tasks, duration_s=None, io_rate=None):
        execute = dataclasses.replace(self.plan().stages[1], io_rate=io_rate, duration_s=duration_s, tasks=tasks)
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
        # So that it is not over before a heartbeat tells of it.
        channel = self.counted(8_001, io_rate=IoRate(2000.0))
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
