"""Preflight as a whole: the verb, as a process of its own, beside a real daemon."""

import json
import os
import resource
import subprocess
import time

from sai3ssh.agent import state
from tests.agent.agent_case import AgentCase, wait
from tests.agent.channel import environment
from tests.agent.s3_server import CREDENTIALS, SECRET_KEY, Server
from tests.agent.test_agent_preflight_storage import ALL, Bucket


def limited(files):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


class Preflight(AgentCase):
    def preflight(self, request=None, **options):
        """The answer to a request, and the findings by check."""
        text = json.dumps({"state_dir": self.state, **(request or {})})
        argv = [*state.self_argv(), "preflight", "--json"]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, env=environment(), timeout=30, check=False, **options)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertNotIn(SECRET_KEY, done.stdout)
        self.assertEqual(done.stdout.count("\n"), 1)
        answer = json.loads(done.stdout)
        return answer, {finding["check"]: finding for finding in answer["findings"]}

    def levels(self, found):
        """Level of each check, without what depends on the machine that the tests run on."""
        ours = ("host.clock_sync", "host.cpu", "host.processes", "host.nic", "host.memory")
        return {check: finding["level"] for check, finding in found.items() if check not in ours}

    def serve(self, **options):
        """A daemon, as systemd would start it."""
        argv = [*state.self_argv(), "serve", "--foreground", "--state", self.state]
        process = subprocess.Popen(argv, env=environment(), stderr=subprocess.PIPE, start_new_session=True, **options)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait, 10)
        self.addCleanup(process.kill)
        wait(lambda: os.path.exists(os.path.join(self.state, "agent.sock")), "the daemon's socket")
        return process

    def test_healthy_host_and_storage(self):
        bucket = Bucket(["a"])
        began = time.time_ns()
        with Server(bucket) as server:
            storage = [
                {"uri": "s3://bucket/p/", "endpoint_url": server.url, "operations": list(ALL)},
                {"uri": f"file://{self.data}/", "operations": ["put"], "write_bytes": 1000, "objects": 10},
            ]
            plan = {"journal_bytes": 1 << 20, "open_files": 300, "memory_bytes": 1 << 20, "storage": storage}
            answer, found = self.preflight({"plan": plan, "credentials": CREDENTIALS})
        self.assertEqual(set(self.levels(found).values()), {"ok"}, found)
        self.assertEqual({check.partition(".")[0] for check in found}, {"host", "storage", "file"})
        self.assertEqual(list(bucket.objects), ["p/a"])
        self.assertEqual(os.listdir(self.data), [])
        self.assertEqual(set(answer), {"findings", "cpu_s", "seconds", "wall_ns", "boot", "python", "host"})
        self.assertEqual((answer["boot"], answer["host"]["state_dir"]), (state.boot_id(), self.state))
        self.assertTrue(began < answer["wall_ns"] < time.time_ns())
        self.assertTrue(0 < answer["cpu_s"] < answer["seconds"] + 5)

    def test_ulimit_of_256(self):
        _, found = self.preflight(preexec_fn=limited(256))
        self.assertEqual(found["host.open_files"]["level"], "failure")
        self.assertIn("at most 256 open files for this user", found["host.open_files"]["found"])
        self.assertEqual([check for check, level in self.levels(found).items() if level != "ok"], ["host.open_files"])

    def test_limit_of_the_daemon_counts(self):
        os.makedirs(self.state)
        daemon = self.serve(preexec_fn=limited(300))
        _, found = self.preflight()
        self.assertIn(f"at most 300 open files for the agent's daemon (pid {daemon.pid})", found["host.open_files"]["found"])
        self.assertIn(f"running as a daemon of this user, pid {daemon.pid}", found["host.agent"]["found"])
        _, found = self.preflight({"plan": {"open_files": 300}}, preexec_fn=limited(256))
        self.assertEqual(found["host.open_files"]["level"], "ok")

    def test_run_in_progress(self):
        channel, _ = self.begin()
        _, found = self.preflight()
        self.assertEqual(found["host.runs"]["level"], "warning")
        self.assertIn(f"{self.run_id} (agent a0)", found["host.runs"]["found"])
        self.assertEqual(found["host.agent"]["level"], "ok")
        _, found = self.preflight({"digest": "another", "version": "9.9"})
        self.assertEqual(found["host.agent"]["level"], "failure")
        self.assertIn(f"has {self.run_id} in progress", found["host.agent"]["found"])
        self.assertIn("9.9", found["host.agent"]["expected"])
        channel.ok("stop", key=self.key, agent_id="a0", reason="enough")
        _, found = self.preflight({"digest": "another", "version": "9.9"})
        self.assertEqual((found["host.runs"]["level"], found["host.agent"]["level"]), ("ok", "ok"))

    def test_no_state_directory(self):
        answer, found = self.preflight({"state_dir": os.path.join(os.devnull, "state")})
        self.assertEqual([check for check, level in self.levels(found).items() if level != "ok"], ["host.disk"])
        self.assertIn("Not a directory", found["host.disk"]["found"])
        self.assertIsNone(answer["host"]["state_dir"])

    def test_everything_left_out(self):
        storage = [{"uri": "s3://bucket/", "endpoint_url": "http://127.0.0.1:1"}, {"uri": "file:///nonexistent/"}]
        request = {"skip": ["host", "storage", "file"], "plan": {"storage": storage}, "credentials": CREDENTIALS}
        _, found = self.preflight({**request, "ports": [1], "reach": [{"name": "h2", "address": "127.0.0.1", "port": 1}]})
        self.assertEqual({finding["level"] for finding in found.values()}, {"skipped"})
        self.assertLessEqual({"host.disk", "host.ports", "host.reach", "storage", "file.mount"}, set(found))
