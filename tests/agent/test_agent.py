"""The whole agent in its normal course: real processes, real files."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import unittest

from sai3ssh.agent import state
from sai3ssh.agent.workers import group_members
from sai3ssh.model import Assignment, KeySelection, OperationSpec, SizeSpec, Stage, StageKind, Target, to_json
from sai3ssh.protocol import scan
from tests.agent.agent_case import COUNT, AgentCase, wait
from tests.agent.channel import Channel, environment


class Agent(AgentCase):
    def test_a_run_from_submit_to_final(self):
        channel, epoch = self.begin()
        self.assertEqual(self.files(), [])
        self.stage(channel, 0, "AT_BARRIER")
        self.assertEqual(self.files(), sorted(f"d/{n}-{i:08d}.dat" for n in ("prepared", "deletable") for i in range(COUNT)))
        start = self.stage(channel, 1, "AT_BARRIER")
        middle = self.files()
        self.stage(channel, 2, "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")
        data = self.journal()
        self.assertEqual(bytes(channel.mirror), data)
        self.assertEqual(channel.final, {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "outcome": "finished"})
        records, size = scan(data)
        self.assertEqual(size, len(data))
        self.assertEqual(records[0]["epoch"], epoch)
        self.assertEqual(records[-1]["kind"], "final")
        self.check_sums(records)
        ends = {record["name"]: record for record in records if record["kind"] == "stage_end"}
        self.assertEqual(ends["prepare"]["totals"]["put"]["ops"], 2 * COUNT)
        self.assertEqual(ends["execute"]["end_clock_ns"] - start, 2_000_000_000)
        made = ends["execute"]["made"]
        deleted = {i for lo, hi in made["deleted"]["deletable"] for i in range(lo, hi)}
        expected = {f"d/prepared-{i:08d}.dat" for i in range(COUNT)} | {
            f"d/deletable-{i:08d}.dat" for i in range(COUNT) if i not in deleted
        }
        expected |= {"new/" + put["key_format"] % i for put in made["puts"] for i in range(put["count"])}
        self.assertEqual(middle, sorted(expected))
        self.assertEqual(len(deleted), ends["execute"]["totals"]["delete"]["ops"])
        self.assertEqual(ends["cleanup"]["totals"]["delete"]["ops"], len(expected))
        self.assertEqual(self.files(), [])
        seconds = [record for record in records if record["kind"] == "sec" and record["stage"] == 1]
        self.assertEqual([second["second"] for second in seconds], list(range(len(seconds))))
        self.assertTrue(all(a["to_clock_ns"] == b["from_clock_ns"] for a, b in zip(seconds, seconds[1:])))
        self.assertEqual(seconds[0]["from_clock_ns"], start)
        started = next(record for record in records if record["kind"] == "stage_start" and record["stage"] == 1)
        self.assertEqual(started["late_ns"], max(0, started["actual_clock_ns"] - started["start_clock_ns"]))
        wait(lambda: not self.pids() or len(self.pids()) == 1, "end of the supervisor")
        with open(os.path.join(self.state, "runs", self.run_id, "a0", "status.json"), encoding="ascii") as file:
            self.assertEqual(json.load(file)["sha256"], channel.final["sha256"])
        self.assertEqual(channel.ok("runs")["runs"][0]["state"], "finished")
        channel.ok("forget", run_id=self.run_id, agent_id="a0")
        self.assertEqual(channel.ok("runs"), {"runs": []})
        self.assertFalse(os.path.exists(os.path.join(self.state, "runs", self.run_id)))

    def verify(self, *between):
        """The journal's verify records of a run whose files are changed after each stage."""
        names = ("prepared", "deletable")
        plan = self.plan(duration_s=0.5)
        stages = (*plan.stages[: len(between)], Stage("verify", StageKind.VERIFY, 4, populations=names))
        channel = self.channel()
        self.submit(channel, dataclasses.replace(plan, stages=stages))
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        for index, change in enumerate(between):
            self.stage(channel, index, "AT_BARRIER")
            change()
        self.stage(channel, len(between), "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")
        records, _ = scan(self.journal())
        self.check_sums(records)
        self.assertEqual(channel.final["outcome"], "finished")
        return [record for record in records if record.get("stage") == len(between)]

    def test_verify_names_what_cannot_be_read_back(self):
        def change():
            os.remove(f"{self.data}/d/prepared-00000007.dat")
            os.remove(f"{self.data}/d/deletable-00000599.dat")
            path = f"{self.data}/d/prepared-00000100.dat"
            with open(path, "r+b") as file:
                file.seek(os.path.getsize(path) - 1)
                last = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([last ^ 1]))
            with open(f"{self.data}/d/prepared-00000200.dat", "ab") as file:
                file.write(b"x")

        records = self.verify(change)
        parts = [record["unreadable"] for record in records if "unreadable" in record]
        found = sorted((wrong["object"].rpartition("/")[2], wrong["error"]) for part in parts for wrong in part["objects"])
        self.assertEqual(
            found,
            [
                ("deletable-00000599.dat", "not_found"),
                ("prepared-00000007.dat", "not_found"),
                ("prepared-00000100.dat", "verify"),
                ("prepared-00000200.dat", "verify"),
            ],
        )
        self.assertEqual(sum(part["count"] for part in parts), 4)
        end = next(record for record in records if record["kind"] == "stage_end")
        self.assertEqual(end["totals"]["get"]["ops"], 2 * COUNT - 4)
        self.assertEqual(end["totals"]["get"]["errors"], {"not_found": 2, "verify": 2})
        ranges = [piece for record in records if record["kind"] == "ledger" for piece in record["ranges"]]
        self.assertEqual(sum(hi - lo for lo, hi in ranges), 2 * COUNT)
        self.assertEqual([record["done"] for record in records if record["kind"] == "sec"][-1], 2 * COUNT)

    def test_verify_misses_nothing_that_the_run_deleted(self):
        records = self.verify(lambda: None, lambda: None)
        self.assertEqual([record for record in records if "unreadable" in record], [])
        end = next(record for record in records if record["kind"] == "stage_end")
        self.assertEqual(end["totals"]["get"]["errors"], {})
        self.assertEqual(end["totals"]["get"]["ops"], len([name for name in self.files() if name.startswith("d/")]))

    def test_windows_that_are_killed_at_random_lose_and_double_nothing(self):
        rng = random.Random(11)
        channel, epoch = self.begin(duration_s=60.0)
        mirror = bytearray()
        self.stage(channel, 0, "AT_BARRIER")
        channel.release(self.key, "a0", 1)
        kills, ending = 0, False
        while channel.final is None:
            until = time.monotonic() + rng.uniform(0.02, 0.3)
            while time.monotonic() < until and channel.final is None:
                channel.read(0.01)
            if channel.final is None:
                channel.close()
                kills += 1
                mirror += channel.mirror
                channel = self.channel()
                channel.follow(self.run_id, "a0", epoch, len(mirror))
                if not ending and kills >= 12 and len([r for r in scan(bytes(mirror))[0] if r["kind"] == "sec" and r["stage"] == 1]) >= 3:
                    self.end_of_mix(channel, 1)
                    ending = True
                if channel.beats and channel.beats[-1]["state"] == "AT_BARRIER" and channel.beats[-1]["stage"] is None:
                    channel.release(self.key, "a0", 2)
        mirror += channel.mirror
        self.assertEqual(bytes(mirror), self.journal())
        records, _ = scan(bytes(mirror))
        self.check_sums(records)
        self.assertEqual(records[-1]["outcome"], "finished", records[-3:])
        seconds = [record for record in records if record["kind"] == "sec" and record["stage"] == 1]
        self.assertGreaterEqual(len(seconds), 3)
        self.assertTrue(all(sum(op[0] for op in second["ops"].values()) > 0 for second in seconds[:-1]))

    def test_an_agent_that_reads_its_own_part_asks_for_nothing_else(self):
        # A third of the objects is another agent's, and there is none: whoever asks for one of them fails.
        plan = self.plan(count=900, duration_s=1.0)
        keys = KeySelection("zipf", 0.5, partitioned=True)
        mix = tuple(dataclasses.replace(op, keys=keys) for op in plan.stages[1].operations if op.kind in ("get", "stat"))
        stages = (plan.stages[0], dataclasses.replace(plan.stages[1], operations=mix), plan.stages[2])
        channel = self.channel()
        self.submit(channel, dataclasses.replace(plan, stages=stages), count=600)
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        self.stage(channel, 0, "AT_BARRIER")
        self.stage(channel, 1, "AT_BARRIER")
        self.stage(channel, 2, "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")
        (totals,) = [record["totals"] for record in scan(self.journal())[0] if record["kind"] == "stage_end" and record["stage"] == 1]
        self.assertEqual({op: of["errors"] for op, of in totals.items()}, {"get": {}, "stat": {}})
        self.assertGreater(totals["get"]["ops"], 100)

    def test_gets_take_what_was_put_in_this_run_until_it_is_deleted(self):
        # What is prepared is empty: every byte that is read was put.
        plan = self.plan(duration_s=0.6, target=Target("file", verify_reads=True))
        populations = tuple(dataclasses.replace(p, size=SizeSpec("fixed", 0, 0)) for p in plan.populations)
        get, put = (op for op in plan.stages[1].operations if op.kind in ("get", "put"))
        get = dataclasses.replace(get, put_pool=True)
        prepare, execute, cleanup = plan.stages
        executes = [dataclasses.replace(execute, name=f"e{n}", operations=mix) for n, mix in enumerate([(get, put), (get,), (get,)])]
        none_left = dataclasses.replace(cleanup, name="c0")
        stages = (prepare, *executes[:2], none_left, dataclasses.replace(prepare, name="again"), executes[2], cleanup)
        channel = self.channel()
        self.submit(channel, dataclasses.replace(plan, stages=stages, populations=populations))
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        for index in range(6):
            self.stage(channel, index, "AT_BARRIER")
        self.stage(channel, 6, "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")
        gets = {r["name"]: r["totals"]["get"] for r in scan(self.journal())[0] if r["kind"] == "stage_end" and r["name"].startswith("e")}
        self.assertEqual({name: get["errors"] for name, get in gets.items()}, {"e0": {}, "e1": {}, "e2": {}})
        self.assertEqual({name: get["bytes"] > 0 for name, get in gets.items()}, {"e0": True, "e1": True, "e2": False})
        self.assertGreater(gets["e2"]["ops"], 0)

    def test_copies_are_objects_of_the_run_and_cleaned_up(self):
        plan = self.plan(duration_s=0.5)
        uri = plan.populations[0].target
        mix = (OperationSpec("copy", 1, uri, "prepared"), OperationSpec("put", 1, uri, size=SizeSpec("fixed", 9, 9)))
        stages = (plan.stages[0], dataclasses.replace(plan.stages[1], operations=mix), plan.stages[2])
        channel = self.channel()
        self.submit(channel, dataclasses.replace(plan, stages=stages))
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        self.stage(channel, 0, "AT_BARRIER")
        self.stage(channel, 1, "AT_BARRIER")
        made = self.files()
        self.stage(channel, 2, "FINISHED")
        channel.wait(lambda: channel.final is not None, "final")
        ends = [record for record in scan(self.journal())[0] if record["kind"] == "stage_end"]
        totals = ends[1]["totals"]
        self.assertEqual({op: of["errors"] for op, of in totals.items()}, {"copy": {}, "put": {}})
        self.assertGreater(min(totals["copy"]["ops"], totals["copy"]["bytes"]), 0)
        self.assertEqual(len(made) - 2 * COUNT, totals["copy"]["ops"] + totals["put"]["ops"])
        self.assertEqual(ends[2]["totals"]["delete"]["ops"], len(made))
        self.assertEqual(self.files(), [])

    def test_submit_is_idempotent_and_guarded(self):
        channel = self.channel()
        plan = self.plan()
        # What a daemon leaves that dies before the plan is on disk.
        os.makedirs(os.path.join(self.state, "runs", self.run_id, "a0"))
        first = self.submit(channel, plan)
        self.assertEqual(self.submit(channel, plan), first)
        with self.assertRaises(AssertionError) as caught:
            self.submit(channel, plan, key={**self.key, "controller": "c2"})
        self.assertIn("is here already, from controller c1", str(caught.exception))
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        self.assertEqual(len(self.pids()), 2)
        answer = channel.ask("follow", run_id=self.run_id, agent_id="a0", epoch="other", offset=0)
        self.assertEqual(answer["error"]["type"], "JournalLost")
        answer = channel.ask("follow", run_id=self.run_id, agent_id="a0", epoch=first["epoch"], offset=1 << 30)
        self.assertEqual(answer["error"]["type"], "JournalLost")
        answer = channel.ask("follow", run_id="../../etc", agent_id="a0", epoch=None, offset=0)
        self.assertIn("cannot name a run", answer["error"]["message"])
        self.assertEqual(channel.ok("stop", key=self.key, agent_id="a0", reason="enough"), {"outcome": "stopped"})

    def test_clients_that_vanish_or_talk_nonsense_do_not_disturb_the_run(self):
        channel, _ = self.begin(duration_s=60.0)
        self.stage(channel, 0, "AT_BARRIER")
        channel.release(self.key, "a0", 1)
        channel.wait_state("RUNNING")
        directory = os.path.join(self.state, "runs", self.run_id, "a0")
        served = 0
        for n in range(300):
            # A full backlog refuses, and the supervisor may hang up first: neither is what is looked at here.
            with contextlib.suppress(BlockingIOError, ConnectionError), state.connect(directory, "supervisor.sock") as client:
                client.sendall(b'{"id":1,"cmd":"subscribe"}\n{"id":2,"cmd":"arm"}\n')
                if n % 3 == 0:
                    client.recv(10)
                elif n % 3 == 1:
                    client.sendall(b'["no object"]\n')
                served += 1
            channel.read(0)
        self.assertGreater(served, 100)
        beats = len(channel.beats)
        channel.wait(lambda: len(channel.beats) > beats + 3, "heartbeats")
        self.assertEqual(channel.beats[-1]["state"], "RUNNING")
        self.assertEqual(channel.ok("stop", key=self.key, agent_id="a0", reason="enough"), {"outcome": "stopped"})

    def test_a_state_directory_that_cannot_be_made_is_said_on_the_channel(self):
        blocked = os.path.join(self.root, "file")
        with open(blocked, "w", encoding="ascii"):
            pass
        channel = Channel(os.path.join(blocked, "state"))
        self.channels.append(channel)
        self.assertEqual(channel.error["type"], "AgentError")
        self.assertIn(f"cannot use the state directory {blocked}", channel.error["message"])
        self.assertIn("sai3ssh_agent_state_dir", channel.error["remedy"])

    def test_arm_alone_starts_nobody(self):
        channel, _ = self.begin()
        start = state.clock_ns() + 50_000_000
        channel.ok("arm", key=self.key, agent_id="a0", stage=0, round=1, start_clock_ns=start, boot=state.boot_id())
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            channel.read(0.05)
        self.assertEqual(channel.beats[-1]["state"], "ARMED")
        self.assertEqual(self.files(), [])
        channel.ok("commit", key=self.key, agent_id="a0", stage=0, round=1)
        channel.wait_state("AT_BARRIER")
        started = next(record for record in scan(self.journal())[0] if record["kind"] == "stage_start")
        self.assertGreater(started["late_ns"], 300_000_000)
        channel.ok("stop", key=self.key, agent_id="a0", reason="enough")

    def test_stop_in_the_middle_keeps_what_was_measured(self):
        channel, _ = self.begin(duration_s=60.0)
        self.stage(channel, 0, "AT_BARRIER")
        channel.release(self.key, "a0", 1)
        channel.wait_state("RUNNING")
        wait(
            lambda: channel.read() and len([r for r in scan(bytes(channel.mirror))[0] if r["kind"] == "sec" and r["stage"] == 1]) >= 2,
            "two seconds",
        )
        supervisor = next(pid for pid in self.pids() if len(group_members(pid)) > 2)
        self.assertEqual(channel.ok("stop", key=self.key, agent_id="a0", reason="operator"), {"outcome": "stopped"})
        self.assertEqual(group_members(supervisor), [])
        channel.wait(lambda: channel.final is not None, "final")
        records, _ = scan(bytes(channel.mirror))
        self.assertEqual(bytes(channel.mirror), self.journal())
        self.check_sums(records)
        self.assertEqual(
            [record["outcome"] for record in records if record["kind"] in ("stage_end", "final")], ["finished", "stopped", "stopped"]
        )
        self.assertEqual(records[-1]["reason"], "operator")
        made = records[-2]["made"]
        self.assertEqual(len([f for f in self.files() if f.startswith("new/")]), sum(put["count"] for put in made["puts"]))
        self.assertEqual(channel.ok("stop", key=self.key, agent_id="a0", reason="again"), {"outcome": "stopped"})

    def test_sigterm_ends_a_run_in_order(self):
        channel, _ = self.begin(duration_s=60.0)
        self.stage(channel, 0, "AT_BARRIER")
        channel.release(self.key, "a0", 1)
        channel.wait_state("RUNNING")
        supervisor = next(pid for pid in self.pids() if len(group_members(pid)) > 2)
        os.kill(supervisor, signal.SIGTERM)
        channel.wait(lambda: channel.final is not None, "final")
        records, _ = scan(bytes(channel.mirror))
        self.assertEqual((records[-1]["outcome"], records[-1]["reason"]), ("stopped", "SIGTERM on the host"))
        self.check_sums(records)

    def test_a_service_that_is_stopped_halts_its_runs_and_the_next_start_goes_on(self):
        argv = [*state.self_argv(), "serve", "--foreground", "--halt", "--state", self.state]
        service = subprocess.Popen(argv, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL)
        wait(lambda: os.path.exists(os.path.join(self.state, "agent.sock")), "start of the service")
        channel, _ = self.begin(duration_s=3.0)
        self.stage(channel, 0, "AT_BARRIER")
        channel.release(self.key, "a0", 1)
        channel.wait_state("RUNNING")
        # Container engines and a host that shuts down send it to every process.
        for pid in [pid for pid in self.pids() if pid != service.pid]:
            os.kill(pid, signal.SIGTERM)
        service.terminate()
        self.assertEqual(service.wait(10), 0)
        self.assertEqual(self.pids(), [])
        listing = [*state.self_argv(), "runs", "--state", self.state]
        listed = subprocess.run(listing, capture_output=True, text=True, env=environment(), timeout=20)
        self.assertEqual([(run["run_id"], run["state"]) for run in json.loads(listed.stdout)["runs"]], [(self.run_id, "active")])
        service = subprocess.Popen(argv, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL)
        self.addCleanup(service.wait)
        self.addCleanup(service.terminate)
        wait(lambda: b'"kind":"recovered"' in self.journal(), "a supervisor that takes over")
        self.channel().ok("stop", key=self.key, agent_id="a0", reason="enough")

    def test_a_halt_also_ends_a_supervisor_that_has_just_begun(self):
        from sai3ssh.agent import daemon

        local = daemon.Daemon(self.state, True)
        run = daemon.Run(self.root, True)
        # It has the lock, and its predecessor is still in there.
        lock = state.try_lock(os.path.join(self.root, "supervisor.lock"))
        self.addCleanup(os.close, lock)
        run.supervisor = subprocess.Popen(["sleep", "60"], start_new_session=True)
        self.addCleanup(run.supervisor.kill)
        local._runs[self.root] = run
        local._halt()
        self.assertEqual(run.supervisor.wait(5), -signal.SIGKILL)

    def test_stop_of_a_frozen_supervisor_kills_its_group(self):
        from unittest import mock

        from sai3ssh.agent import daemon

        channel, _ = self.begin(duration_s=60.0)
        channel.release(self.key, "a0", 0)
        channel.wait_state("AT_BARRIER")
        supervisor = next(pid for pid in self.pids() if len(group_members(pid)) > 2)
        os.kill(supervisor, signal.SIGSTOP)
        with (
            mock.patch.object(daemon, "STOP_S", 1.0),
            mock.patch.object(state, "self_argv", lambda: [sys.executable, "-m", "sai3ssh.agent"]),
        ):
            os.environ["PYTHONPATH"], before = environment()["PYTHONPATH"], os.environ.get("PYTHONPATH")
            try:
                local = daemon.Daemon(self.state)
                run = next(iter(local._runs.values()))
                self.assertEqual(local._stop(run, {"reason": "frozen"}), {"outcome": "stopped"})
                run.supervisor.wait(10)
            finally:
                if before is None:
                    del os.environ["PYTHONPATH"]
                else:
                    os.environ["PYTHONPATH"] = before
        self.assertEqual(group_members(supervisor), [])
        records, _ = scan(self.journal())
        self.assertEqual((records[-1]["outcome"], records[-1]["reason"]), ("stopped", "frozen"))

    def test_a_target_that_cannot_be_used_fails_before_ready(self):
        channel = self.channel()
        os.rmdir(self.data)
        with open(self.data, "w", encoding="ascii"):
            pass
        self.submit(channel, self.plan())
        channel.follow(self.run_id, "a0")
        channel.wait(lambda: channel.final is not None, "final")
        records, _ = scan(bytes(channel.mirror))
        self.assertEqual(records[-1]["outcome"], "failed")
        self.assertEqual(records[-1]["error"]["type"], "TargetError")
        self.assertIn(self.data, records[-1]["reason"])
        os.unlink(self.data)

    def test_without_a_controller_the_barrier_has_a_deadline(self):
        channel, _ = self.begin(agent_barrier_timeout_s=1.0)
        channel.close()
        wait(lambda: len(self.pids()) == 1, "end of the supervisor at the barrier")
        records, _ = scan(self.journal())
        self.assertEqual(records[-1]["outcome"], "stopped")
        self.assertIn("without a link to the controller", records[-1]["reason"])

    def test_a_daemon_that_nobody_needs_ends_and_the_next_window_starts_another(self):
        channel = self.channel()
        self.submit(channel, self.plan())
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        daemon = self.pids("serve")[0]
        with open(f"/proc/{daemon}/cmdline", encoding="utf-8") as file:
            self.assertIn("\x00--idle-s\x00600.0\x00", file.read())
        channel.close()
        os.kill(daemon, signal.SIGKILL)
        wait(lambda: not self.pids("serve"), "end of the daemon")
        argv = [*state.self_argv(), "serve", "--foreground", "--idle-s", "0.2", "--state", self.state]
        process = subprocess.Popen(argv, env=environment())
        self.addCleanup(process.wait)
        wait(lambda: state.is_locked(os.path.join(self.state, "agent.lock")), "daemon")
        time.sleep(1.5)
        self.assertIsNone(process.poll())  # there is a run in progress
        channel = self.channel()
        channel.ok("stop", key=self.key, agent_id="a0", reason="enough")
        time.sleep(1.5)
        self.assertIsNone(process.poll())  # there is a window
        channel.close()
        self.assertEqual(process.wait(30), 0)
        self.assertEqual([run["state"] for run in self.channel().ok("runs")["runs"]], ["stopped"])

    def test_serve_is_idempotent_and_secrets_stay_in_memory(self):
        argv = [*state.self_argv(), "serve", "--state", self.state]
        answers = [subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=20).stdout for _ in range(2)]
        self.assertEqual(answers, ["started\n", "already running\n"])
        channel = self.channel()
        secret = "S3cr3t-" + "z" * 20
        assignment = Assignment("a0", 0, 1, {"prepared": ((0, 10),), "deletable": ((0, 10),)})
        credentials = {"access_key": "AK", "secret_key": secret, "session_token": None}
        channel.ok("submit", key=self.key, plan=to_json(self.plan()), assignment=to_json(assignment), credentials=credentials)
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        for pid in self.pids():
            for name in ("cmdline", "environ"):
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    self.assertNotIn(secret.encode(), file.read())
        channel.ok("stop", key=self.key, agent_id="a0", reason="enough")
        for directory, _, names in os.walk(self.state):
            for name in names:
                if not name.endswith(".sock"):
                    with open(os.path.join(directory, name), "rb") as file:
                        self.assertNotIn(secret.encode(), file.read(), name)


if __name__ == "__main__":
    unittest.main()
