"""What a run survives on its host: killed workers, supervisors and daemons, lost counters, a controller that is away."""

import dataclasses
import os
import random
import time
import unittest

from sai3ssh import compact
from sai3ssh.agent import kernelclock, recovery, state
from sai3ssh.agent.stage import metrics_files
from sai3ssh.model import FailurePolicy, Target, to_json
from sai3ssh.protocol import encode_record, scan
from tests.agent.agent_case import COUNT, KillingCase, wait
from tests.agent.s3_server import Server, response

MANY = 10000


class Cause(unittest.TestCase):
    def test_a_clock_that_nobody_had_set_after_a_reboot_is_told(self):
        unset = "the host was restarted; clock not synchronised after the reboot"
        self.assertEqual(recovery.cause_of_loss(True, False), unset)
        for known in (True, None):
            self.assertEqual(recovery.cause_of_loss(True, known), "the host was restarted")
            self.assertEqual(recovery.cause_of_loss(False, known), "the supervisor died")


class Recovery(KillingCase):
    def many(self, **changes):
        """A run whose prepare takes a moment."""
        channel = self.channel()
        epoch = self.submit(channel, self.plan(count=MANY, **changes), count=MANY)["epoch"]
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        return channel, epoch

    def prepared(self, count=MANY):
        return sorted(f"d/{n}-{i:08d}.dat" for n in ("prepared", "deletable") for i in range(count))

    def finish(self, channel, *stages):
        for stage in stages:
            self.stage(channel, stage, "AT_BARRIER", "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")
        self.assertEqual(bytes(channel.mirror), self.journal())
        records, _ = scan(bytes(channel.mirror))
        self.assertEqual(records[-1]["outcome"], "finished", records[-1])
        self.check_sums(records)
        self.assertEqual([record["seq"] for record in records], list(range(len(records))))
        return records

    def check_prepare(self, records, count=MANY):
        """Every object once in the ledger, redone ones counted apart."""
        ends = [record for record in records if record["kind"] == "stage_end" and record["stage"] == 0]
        done = [
            (r["population"], i) for r in records if r["kind"] == "ledger" and r["stage"] == 0 for a, b in r["ranges"] for i in range(a, b)
        ]
        self.assertEqual(len(done), len(set(done)))
        self.assertEqual(len(done), 2 * count)
        self.assertEqual(sum(end["totals"]["put"]["ops"] - end["redone"] for end in ends), 2 * count)

    def test_killed_workers_in_prepare_are_replaced_and_lose_nothing(self):
        channel, _ = self.many()
        channel.release(self.key, "a0", 0)
        channel.wait_state("RUNNING")
        for index in (0, 1):
            channel.wait(lambda index=index: channel.beats[-1]["done"] > (index + 1) * MANY // 3, "some progress")
            self.kill(self.worker(index))
        channel.wait_state("AT_BARRIER")
        self.assertEqual(self.files(), self.prepared())
        records = self.finish(channel, 1, 2)
        self.check_prepare(records)
        causes = [record["cause"] for record in records if record["kind"] == "worker" and record["incarnation"] == 1]
        self.assertEqual(len(causes), 2)
        self.assertTrue(all("was killed by SIGKILL" in cause for cause in causes), causes)
        self.assertTrue([record for record in records if record["kind"] == "lost" and record["stage"] == 0])
        self.assertEqual(self.files(), [])

    def test_a_killed_worker_in_execute_goes_on_until_the_planned_end(self):
        channel, _ = self.begin(duration_s=8.0)
        self.stage(channel, 0, "AT_BARRIER")
        start = channel.release(self.key, "a0", 1)
        channel.wait(lambda: self.seconds(1) >= 1, "some progress")
        killed_ns = state.clock_ns()
        self.kill(self.worker(1))
        channel.wait_state("AT_BARRIER")
        files = self.files()
        records = self.finish(channel, 2)
        end = next(record for record in records if record["kind"] == "stage_end" and record["stage"] == 1)
        self.assertEqual(end["end_clock_ns"], start + 8_000_000_000)
        lost = [record for record in records if record["kind"] == "lost"]
        self.assertEqual(len(lost), 1)
        self.assertLess(lost[0]["from_clock_ns"], killed_ns + 1_000_000_000)
        self.assertLess(killed_ns, lost[0]["to_clock_ns"])
        self.assertLess(lost[0]["to_clock_ns"], end["end_clock_ns"])
        made = [
            put
            for record in records
            if record["kind"] in ("worker", "stage_end")
            for put in record.get("puts", record.get("made", {}).get("puts", []))
        ]
        names = {"new/" + put["key_format"] % i for put in made for i in range(put["count"])}
        written = {name for name in files if name.startswith("new/")}
        self.assertLessEqual(written, names)
        self.assertLessEqual(len(names - written), 4, "at most what was in flight")
        self.assertEqual(self.files(), [])

    def test_an_end_that_was_said_outlives_workers_and_supervisors(self):
        channel, _ = self.begin(duration_s=60.0)
        self.stage(channel, 0, "AT_BARRIER")
        start = channel.release(self.key, "a0", 1)
        channel.wait(lambda: self.seconds(1) >= 1, "some progress")
        lasts_ns = state.clock_ns() - start + 2_000_000_000
        for _ in range(2):
            self.assertEqual(self.end_of_mix(channel, lasts_ns), {"ending": 1})
        self.kill_supervisor(channel)
        channel.wait_state("RUNNING")
        self.kill(self.worker(1))
        # It stays as it was said first, whoever asks.
        self.assertEqual(self.end_of_mix(channel, lasts_ns + 9_000_000_000), {"ending": 1})
        channel.wait_state("AT_BARRIER")
        records = self.finish(channel, 2)
        self.assertEqual([r["lasts_ns"] for r in records if r["kind"] == "ending"], [lasts_ns])
        (end,) = [r for r in records if r["kind"] == "stage_end" and r["stage"] == 1]
        self.assertEqual(end["end_clock_ns"] - end["start_clock_ns"], lasts_ns)

    def test_an_end_that_comes_too_late_ends_the_stage_at_once(self):
        channel, _ = self.begin(duration_s=60.0)
        self.stage(channel, 0, "AT_BARRIER")
        start = channel.release(self.key, "a0", 1)
        channel.wait(lambda: self.seconds(1) >= 2, "some progress")
        before_ns = state.clock_ns() - start
        self.end_of_mix(channel, 1_000_000_000)
        after_ns = state.clock_ns() - start
        channel.wait_state("AT_BARRIER")
        self.assertEqual(self.end_of_mix(channel, 1_000_000_000), {"ending": 1})
        records = self.finish(channel, 2)
        (ending,) = [r for r in records if r["kind"] == "ending"]
        self.assertEqual(ending["duration_ns"], 1_000_000_000)
        self.assertTrue(before_ns <= ending["lasts_ns"] <= after_ns, (before_ns, ending, after_ns))
        (end,) = [r for r in records if r["kind"] == "stage_end" and r["stage"] == 1]
        self.assertEqual(end["end_clock_ns"] - end["start_clock_ns"], ending["lasts_ns"])

    def test_a_worker_that_crashes_three_times_in_a_row_fails_the_agent(self):
        channel, _ = self.begin(duration_s=60.0)
        self.stage(channel, 0, "AT_BARRIER")
        channel.release(self.key, "a0", 1)
        channel.wait_state("RUNNING")
        for incarnation in range(3):
            wait(lambda n=incarnation: any(r["worker"] == 1 and r["incarnation"] == n for r in self.records("worker")), "incarnation")
            self.kill(self.worker(1))
        channel.wait(lambda: channel.final is not None, "final")
        records, _ = scan(bytes(channel.mirror))
        self.assertEqual(records[-1]["outcome"], "failed")
        self.assertIn("was killed by SIGKILL, for the 3rd time in a row", records[-1]["reason"])
        self.check_sums(records)

    def test_killed_supervisors_lose_nothing_in_any_stage(self):
        rng = random.Random(5)
        channel, _ = self.many(duration_s=5.0)
        kills = 0
        for stage in (0, 1):
            channel.release(self.key, "a0", stage)
            channel.wait_state("RUNNING")
            for _ in range(2):
                time.sleep(rng.uniform(0.05, 0.8))
                pid = self.supervisor()
                if pid is not None and channel.beats[-1]["state"] == "RUNNING":
                    self.kill(pid)
                    kills += 1
                    wait(lambda n=kills: len(self.records("recovered")) == n, "a new supervisor")
            channel.wait_state("AT_BARRIER")
            if stage == 0:
                self.assertEqual(self.files(), self.prepared())
        self.assertGreaterEqual(kills, 2)
        written = {name for name in self.files() if name.startswith("new/")}
        records = self.finish(channel, 2)
        self.check_prepare(records)
        made = [
            put
            for record in records
            if record["kind"] in ("worker", "stage_end")
            for put in record.get("puts", record.get("made", {}).get("puts", []))
        ]
        self.assertLessEqual(written, {"new/" + put["key_format"] % i for put in made for i in range(put["count"])})
        self.assertEqual(self.files(), [])

    def test_parts_of_latencies_and_endpoints_are_neither_lost_nor_doubled(self):
        count = 2500
        listed = b"<ListBucketResult></ListBucketResult>"

        def storage(client, request, number):
            return response(listed if request.query else b"")

        with Server(storage, anonymous=True) as one, Server(storage, anonymous=True) as two:
            target = Target("s3", anonymous=True, endpoints=(one.url, two.url))
            made = self.plan(count=count, target=target, timing_splits=True)
            populations = tuple(dataclasses.replace(p, target="s3://bucket/") for p in made.populations)
            channel = self.channel()
            self.submit(channel, dataclasses.replace(made, populations=populations, stages=made.stages[:1]), count=count)
            channel.follow(self.run_id, "a0")
            channel.wait_state("READY")
            channel.release(self.key, "a0", 0)
            channel.wait(lambda: channel.beats[-1]["done"] > count // 3, "some progress")
            self.kill(self.worker(0))
            channel.wait(lambda: channel.beats[-1]["done"] > count, "more progress")
            self.kill(self.supervisor())
            channel.wait(lambda: channel.final is not None, "final")
        records, _ = scan(bytes(channel.mirror))
        self.check_sums(records)
        told = [compact.unpack(record) for record in records if record["kind"] == "hist"]
        self.assertEqual(len(self.records("recovered")), 1)
        puts = next(record for record in records if record["kind"] == "stage_end")["totals"]["put"]["ops"]
        known = sum(sum(record["splits"]["put"]["first_byte"]["cells"][1::2]) for record in told if "splits" in record)
        places = [count for record in told for count in record.get("endpoints", {}).get("put", {}).items()]
        # A worker may be killed between two cells of one operation: three were.
        self.assertTrue(puts - 3 <= known <= puts, (known, puts))
        self.assertTrue(puts - 3 <= sum(sum(count["cells"][1::2]) for _, count in places) <= puts, puts)
        self.assertEqual({position for position, _ in places}, {"0", "1"})

    def test_killed_while_armed_the_commit_still_starts_it(self):
        channel, _ = self.begin()
        start = {"stage": 0, "round": 3, "start_clock_ns": state.clock_ns() + 2_000_000_000, "boot": state.boot_id()}
        channel.ok("arm", key=self.key, agent_id="a0", **start)
        self.kill_supervisor(channel)
        channel.wait_state("ARMED")
        channel.ok("commit", key=self.key, agent_id="a0", stage=0, round=3)
        channel.wait_state("AT_BARRIER")
        self.finish(channel, 1, 2)

    def test_killed_between_commit_and_start_nothing_is_lost(self):
        channel, _ = self.begin()
        self.stage(channel, 0, "AT_BARRIER")
        start = channel.release(self.key, "a0", 1, delay_s=2.0)
        self.kill_supervisor(channel)
        in_time = state.clock_ns() < start
        channel.wait_state("AT_BARRIER")
        records = self.finish(channel, 2)
        lost = [record for record in records if record["kind"] == "lost"]
        # Where the machine is so busy that the next supervisor comes after the start, just the time until it came is lost.
        self.assertLessEqual(len(lost), 0 if in_time else 1)
        self.assertEqual([record["from_clock_ns"] for record in lost], [start] * len(lost))
        first = next(record for record in records if record["kind"] == "sec" and record["stage"] == 1)
        self.assertEqual(first["from_clock_ns"], lost[0]["to_clock_ns"] if lost else start)

    def test_daemon_and_supervisor_killed_and_counters_lost_as_by_a_power_cut(self):
        channel, epoch = self.many(duration_s=6.0)
        for stage in (0, 1):
            channel.release(self.key, "a0", stage)
            channel.wait_state("RUNNING")
            if stage == 0:
                channel.wait(lambda channel=channel: channel.beats[-1]["done"] > MANY, "some progress")
            else:
                channel.wait(lambda: self.seconds(1) >= 2, "some progress")
            pids = [self.daemon(), self.supervisor()]
            for pid in pids:
                self.kill(pid)
            for path in metrics_files(self.run_id, "a0"):
                os.unlink(path)
            mirror = bytes(channel.mirror)
            channel.close()
            channel = self.channel()
            start = len(mirror)
            channel.follow(self.run_id, "a0", epoch, start)
            channel.mirror, channel.start = bytearray(mirror) + channel.mirror, 0
            channel.wait_state("AT_BARRIER")
        self.assertEqual([record["fresh"] for record in self.records("recovered")], [True, True])
        self.assertEqual(len([name for name in self.files() if name.startswith("d/prepared")]), MANY)
        written = {name for name in self.files() if name.startswith("new/")}
        self.stage(channel, 2, "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")
        self.assertEqual(bytes(channel.mirror), self.journal())
        self.assertTrue(written)
        self.assertEqual(self.files(), [])
        records, _ = scan(bytes(channel.mirror))
        for end in (record for record in records if record["kind"] == "stage_end"):
            of_stage = [record for record in records if record.get("stage") == end["stage"]]
            told_lost = [record["without_histogram"] for record in of_stage if "without_histogram" in record]
            without = told_lost[-1] if told_lost else {}
            for op, totals in end["totals"].items():
                told = sum(record["ops"][op][0] for record in of_stage if record["kind"] in ("sec", "lost") and op in record["ops"])
                hists = [compact.unpack(record)["hist"] for record in of_stage if record["kind"] == "hist"]
                cells = sum(sum(r["cells"][1::2]) for hist in hists for r in hist.get(op, {}).values())
                self.assertEqual((totals["ops"], totals["ops"]), (told, cells + without.get(op, [0])[0]), (end["name"], op))

    def test_killed_before_the_journal_knows_that_the_counters_were_lost(self):
        channel, epoch = self.begin(duration_s=12.0)
        self.stage(channel, 0, "AT_BARRIER")
        channel.release(self.key, "a0", 1)
        channel.wait(lambda: self.seconds(1) >= 2, "some progress")
        for pid in (self.daemon(), self.supervisor()):
            self.kill(pid)
        channel.close()
        for path in metrics_files(self.run_id, "a0"):
            os.unlink(path)
        known = self.journal()
        channel = self.channel()
        channel.follow(self.run_id, "a0", epoch)
        wait(lambda: len(self.records("sec")) >= 4 and self.records("recovered"), "some progress of the next one")
        for pid in (self.daemon(), self.supervisor()):
            self.kill(pid)
        channel.close()
        # As if the disk had been full all the while: no record of the next one got there.
        with open(os.path.join(self.state, "runs", self.run_id, "a0", "journal.ndjson"), "wb") as file:
            file.write(known)
        channel = self.channel()
        channel.follow(self.run_id, "a0", epoch)
        # A heartbeat may be ahead of the disk: what is read here is the file.
        wait(lambda: len(self.records("stage_end")) == 2, "the end of the stage on disk", timeout_s=60.0)
        self.assertEqual([record["fresh"] for record in self.records("recovered")], [True])
        (end,) = [record for record in self.records("stage_end") if record["stage"] == 1]
        of_stage = [record for record in self.records("sec", "lost", "hist") if record["stage"] == 1]
        without = [record["without_histogram"] for record in of_stage if "without_histogram" in record][-1]
        for op, totals in end["totals"].items():
            tells = [record["ops"][op][0] for record in of_stage if op in record.get("ops", {})]
            hists = [compact.unpack(record)["hist"] for record in of_stage if "hist" in record]
            cells = sum(sum(r["cells"][1::2]) for hist in hists for r in hist.get(op, {}).values())
            self.assertTrue(all(count >= 0 for count in tells), (op, tells))
            self.assertEqual((totals["ops"], totals["ops"]), (sum(tells), cells + without.get(op, [0])[0]), op)
        self.stage(channel, 2, "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")

    def seconds(self, stage):
        return len([record for record in self.records("sec") if record["stage"] == stage])

    def test_work_of_others_is_adopted_once_and_opens_the_stage_again(self):
        policy = FailurePolicy("best_effort")
        channel = self.channel()
        self.submit(channel, self.plan(count=900, policy=policy), count=600)
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        self.stage(channel, 0, "AT_BARRIER")
        self.assertEqual(self.files(), self.prepared(600))
        adopt = {
            "number": 1,
            "from": "a7",
            "stage": 0,
            "ranges": {n: [[600, 900]] for n in ("prepared", "deletable")},
            "done": {"deletable": [[600, 700]]},
        }
        for _ in range(2):
            self.assertEqual(channel.ok("adopt", key=self.key, agent_id="a0", **adopt), {"adopted": 1})
        self.kill_supervisor(channel)
        channel.wait_state("READY")
        start = {"stage": 0, "round": 1, "start_clock_ns": state.clock_ns() + 100_000_000, "boot": state.boot_id()}
        channel.ok("arm", key=self.key, agent_id="a0", **start)
        channel.ok("commit", key=self.key, agent_id="a0", stage=0, round=1)
        channel.wait(lambda: len([r for r in self.records("stage_end") if r["stage"] == 0]) == 2, "the second pass")
        self.assertEqual(set(self.prepared(900)) - set(self.files()), {f"d/deletable-{i:08d}.dat" for i in range(600, 700)})
        second = self.records("stage_end")[1]
        self.assertEqual(second["totals"]["put"]["ops"], 500)
        channel.wait_state("AT_BARRIER")
        self.stage(channel, 1, "AT_BARRIER")
        self.stage(channel, 2, "AT_BARRIER")
        self.assertEqual(self.files(), [])
        channel.ok("finish", key=self.key, agent_id="a0")
        channel.wait(lambda: channel.final is not None, "final")
        self.assertEqual(channel.final["outcome"], "finished")

    def test_without_a_lease_nobody_writes_and_renewed_it_goes_on(self):
        channel, _ = self.many(lease_s=0.4)
        channel.release(self.key, "a0", 0, delay_s=0.05)
        channel.wait(lambda: any(r["text"].startswith("lease") for r in self.records("notice")), "end of the lease")
        before = self.files()
        self.assertLess(len(before), 2 * MANY)
        seen = state.clock_ns()
        time.sleep(0.7)
        self.assertEqual(self.files(), before)
        # What left the controller long ago renews nothing, whenever it arrives.
        channel.ok("ping", seen={"clock_ns": seen, "boot": state.boot_id()})
        time.sleep(1.2)
        self.assertEqual(self.files(), before)
        while channel.beats[-1]["state"] != "AT_BARRIER":
            channel.ok("ping", seen={"clock_ns": state.clock_ns(), "boot": state.boot_id()})
            time.sleep(0.1)
        self.assertEqual(self.files(), self.prepared())
        records = self.finish(channel, 1, 2)
        self.check_prepare(records)

    def test_without_a_lease_nobody_is_waited_for_at_a_stop(self):
        channel, _ = self.many(lease_s=0.4)
        channel.release(self.key, "a0", 0, delay_s=0.05)
        channel.wait(lambda: self.records("notice"), "end of the lease")
        began = time.monotonic()
        channel.ok("stop", key=self.key, agent_id="a0", reason="given up")
        self.assertLess(time.monotonic() - began, 4.5, "workers that were killed were given 5 s to end in order")
        channel.wait(lambda: channel.final is not None, "final")
        self.assertEqual(channel.final["outcome"], "stopped")

    def test_a_new_supervisor_writes_nothing_without_a_lease_either(self):
        channel, _ = self.many(lease_s=0.4)
        channel.release(self.key, "a0", 0, delay_s=0.05)
        channel.wait(lambda: self.records("notice"), "end of the lease")
        before = self.files()
        self.assertLess(len(before), 2 * MANY)
        # Its workers are gone, so it is alone in its group.
        self.kill(next(pid for pid in self.pids() if self.argument(pid) == "supervise"))
        channel.wait(lambda: len(self.records("worker")) >= 4, "new workers")
        time.sleep(2.0)
        self.assertEqual(self.files(), before)
        while channel.beats[-1]["state"] != "AT_BARRIER":
            channel.ok("ping", seen={"clock_ns": state.clock_ns(), "boot": state.boot_id()})
            time.sleep(0.1)
        self.assertEqual(self.files(), self.prepared())
        self.check_prepare(self.finish(channel, 1, 2))

    def test_after_a_reboot_with_its_clock_set_back_it_writes_as_soon_as_the_lease_is_renewed_and_not_before(self):
        channel, epoch = self.many(lease_s=60.0)
        channel.release(self.key, "a0", 0)
        channel.wait(lambda: channel.beats[-1]["done"] > 1000, "some progress")
        for pid in (self.daemon(), self.supervisor()):
            self.kill(pid)
        channel.close()
        for path in metrics_files(self.run_id, "a0"):
            os.unlink(path)
        # The journal of an earlier boot, whose wall clock was an hour ahead of what it is now.
        records, _ = scan(self.journal())
        with open(os.path.join(self.state, "runs", self.run_id, "a0", "journal.ndjson"), "wb") as file:
            for record in records:
                file.write(encode_record({**record, "boot": "another", "wall_ns": record["wall_ns"] + 3600 * 10**9}))
        channel = self.channel()
        channel.follow(self.run_id, "a0", epoch)
        channel.wait_state("RUNNING")
        wait(lambda: self.records("recovered"), "the recovery on disk")
        (recovered,) = self.records("recovered")
        self.assertEqual((recovered["rebooted"], recovered["clock_synchronised"]), (True, kernelclock.synchronised()))
        wait(lambda: self.records("lost"), "what was lost")
        causes = {record["cause"] for record in self.records("lost")}
        self.assertEqual(causes, {recovery.cause_of_loss(True, recovered["clock_synchronised"])})
        before = self.files()
        self.assertLess(len(before), 2 * MANY)
        time.sleep(2.0)
        self.assertEqual(len(self.files()), len(before))
        deadline = time.monotonic() + 60.0
        while channel.beats[-1]["state"] != "AT_BARRIER":
            self.assertLess(time.monotonic(), deadline)
            channel.ok("ping", seen={"clock_ns": state.clock_ns(), "boot": state.boot_id()})
            time.sleep(0.1)
        self.assertEqual(self.files(), self.prepared())
        channel.ok("stop", key=self.key, agent_id="a0", reason="enough")

    def test_after_a_restart_credentials_are_awaited(self):
        credentials = {"access_key": "AK", "secret_key": "SK", "session_token": None}
        channel = self.channel()
        from sai3ssh.model import Assignment

        fields = {
            "key": self.key,
            "plan": to_json(self.plan(needs_credentials=True)),
            "assignment": to_json(Assignment("a0", 0, 1, {"prepared": ((0, 600),), "deletable": ((0, 600),)})),
            "credentials": credentials,
        }
        epoch = channel.ok("submit", **fields)["epoch"]
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        self.stage(channel, 0, "AT_BARRIER")
        for pid in (self.daemon(), self.supervisor()):
            self.kill(pid)
        channel.close()
        channel = self.channel()
        channel.follow(self.run_id, "a0", epoch)
        channel.wait_state("AWAITING_CREDENTIALS")
        self.assertEqual(
            channel.ask("arm", key=self.key, agent_id="a0", stage=1, round=1, start_clock_ns=1, boot="x")["error"]["type"], "Transient"
        )
        self.assertEqual(channel.ok("submit", **fields), {"epoch": epoch})
        channel.wait_state("AT_BARRIER")
        self.finish(channel, 1, 2)

    def test_a_second_controller_is_refused_or_takes_over(self):
        channel, epoch = self.begin()
        other = {**self.key, "controller": "c2"}
        second = self.channel()
        second.follow(self.run_id, "a0", epoch, controller="c2")
        late = second.ask("claim", key=other, agent_id="a0", takeover=True, seen={"clock_ns": 0, "boot": state.boot_id()})["error"]
        self.assertIn("long under way", late["message"])
        seen = {"clock_ns": state.clock_ns(), "boot": state.boot_id()}
        # Perhaps the first one is dead, and only its connection stands.
        waits = second.ask("claim", key=other, agent_id="a0", takeover=False, seen=seen)["error"]
        self.assertEqual(waits["type"], "Transient")
        self.assertIn("c1", waits["message"])
        channel.ok("ping", seen={"clock_ns": seen["clock_ns"] - 10**9, "boot": state.boot_id()})  # sent before that, and long under way
        waits = second.ask("claim", key=other, agent_id="a0", takeover=False, seen=seen)["error"]
        self.assertEqual(waits["type"], "Transient")
        seen = {"clock_ns": state.clock_ns(), "boot": state.boot_id()}
        channel.ok("ping", seen=seen)
        wait(lambda: second.ask("claim", key=other, agent_id="a0", takeover=False, seen=seen)["error"]["type"] != "Transient", "certainty")
        refused = second.ask("claim", key=other, agent_id="a0", takeover=False, seen=seen)["error"]
        self.assertIn("c1", refused["message"])
        self.assertIn("--takeover", refused["remedy"])
        self.assertEqual(second.ok("claim", key=other, agent_id="a0", takeover=True, seen=seen), {"generation": 2})
        channel.wait(lambda: channel.beats[-1]["controller"] == "c2", "the news")
        late = channel.ask("arm", key=self.key, agent_id="a0", stage=0, round=1, start_clock_ns=1, boot=state.boot_id())
        self.assertIn("c2", late["error"]["message"])
        self.assertIn("c2", channel.ask("stop", key=self.key, agent_id="a0", reason="no")["error"]["message"])
        # Nor while there is no supervisor that could refuse it.
        self.kill(self.supervisor())
        self.assertIn("c2", channel.ask("stop", key=self.key, agent_id="a0", reason="no")["error"]["message"])
        wait(lambda: self.records("recovered"), "a new supervisor")
        second.wait_state("READY")
        self.key = {**other, "generation": 2}
        second.ok("stop", key=self.key, agent_id="a0", reason="enough")

    def test_on_controller_loss_stop_is_enforced_by_the_agent(self):
        channel, _ = self.begin(duration_s=60.0, on_controller_loss="stop_after", controller_loss_s=3.0)
        self.stage(channel, 0, "AT_BARRIER")
        channel.release(self.key, "a0", 1)
        until = time.monotonic() + 4.0
        channel.wait(lambda: time.monotonic() > until, "that time")
        self.assertEqual(channel.beats[-1]["state"], "RUNNING")
        channel.close()
        wait(lambda: len(self.pids()) == 1, "end of the supervisor", timeout_s=20.0)
        records, _ = scan(self.journal())
        self.assertEqual(records[-1]["outcome"], "stopped")
        self.assertIn("on_controller_loss: stop_after", records[-1]["reason"])

    def final_alone(self):
        """The journal of an agent that has ended without anybody."""
        wait(lambda: self.records("final") and len(self.pids()) == 1, "its end", timeout_s=30.0)
        return scan(self.journal())[0]

    def test_on_controller_loss_stop_ends_the_stage_once_the_controller_is_silent_for_ten_heartbeats(self):
        channel, _ = self.begin(duration_s=60.0, on_controller_loss="stop")
        self.stage(channel, 0, "AT_BARRIER")
        channel.release(self.key, "a0", 1)
        channel.wait_state("RUNNING")
        channel.close()
        records = self.final_alone()
        self.assertEqual(records[-1]["outcome"], "stopped")
        self.assertRegex(records[-1]["reason"], r"no controller was heard for 1\d s \(on_controller_loss: stop\)")

    def begin_barriers(self, barrier):
        """The first stage runs when the controller is lost; the later ones have that barrier."""
        plan = self.plan(duration_s=1.0, agent_barrier_timeout_s=1.0)
        stages = (plan.stages[0], *(dataclasses.replace(stage, barrier=barrier) for stage in plan.stages[1:]))
        channel = self.channel()
        self.submit(channel, dataclasses.replace(plan, stages=stages))
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        channel.release(self.key, "a0", 0)
        channel.close()

    def test_on_controller_loss_continue_goes_to_the_barrier_and_waits_there_no_longer_than_told(self):
        self.begin_barriers("all_or_nothing")
        records = self.final_alone()
        self.assertEqual(records[-1]["outcome"], "stopped")
        self.assertIn("without a link to the controller (agent_barrier_timeout)", records[-1]["reason"])
        self.assertEqual([record["outcome"] for record in records if record["kind"] == "stage_end"], ["finished"])
        self.assertEqual(self.files(), self.prepared(COUNT))

    def test_at_a_barrier_of_best_effort_it_goes_on_alone(self):
        self.begin_barriers("best_effort")
        records = self.final_alone()
        self.assertEqual(records[-1]["outcome"], "finished", records[-1])
        self.assertEqual([record["outcome"] for record in records if record["kind"] == "stage_end"], ["finished"] * 3)
        alone = [record["text"].partition(" alone, ")[0] for record in records if " alone, " in record.get("text", "")]
        self.assertEqual(alone, ["stage 1 begun", "stage 2 begun"])
        self.assertEqual(self.files(), [])
        self.check_sums(records)


if __name__ == "__main__":
    unittest.main()
