"""A test case around one whole agent: real processes, real files, real kills."""

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
import unittest

from sai3ssh import compact
from sai3ssh.agent import state
from sai3ssh.agent.workers import group_members
from sai3ssh.model import (
    Assignment,
    ErrorLimits,
    IoRate,
    OperationSpec,
    Plan,
    Population,
    SizeSpec,
    Stage,
    StageKind,
    Target,
    to_json,
)  # fmt: skip
from sai3ssh.protocol import scan
from tests.agent.channel import Channel

COUNT = 600


def wait(condition, what, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s} s")
        time.sleep(0.01)


class AgentCase(unittest.TestCase):
    """Agent a0 in a state directory of its own; one channel or several to it."""

    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="sai3ssh-test-")
        self.state = os.path.join(self.root, "state-" + "x" * 90)  # a socket's whole path would not fit into 107 bytes
        self.data = os.path.join(self.root, "data")
        os.mkdir(self.data)
        self.channels = []
        self.addCleanup(self.clean)
        self.run_id = f"run-{os.getpid()}-{random.randrange(1 << 30):x}"
        self.key = {"run_id": self.run_id, "generation": 1, "controller": "c1", "sequence": 0}

    def clean(self):
        for channel in self.channels:
            channel.close()
        wait(self.killed, "end of the processes")
        shutil.rmtree(self.root)
        self.assertEqual([name for name in os.listdir(state.metrics_dir()) if name.startswith(self.run_id)], [])

    def killed(self):
        """Kills what is there; True when nothing was. A window that is killed may have a daemon under way, still with its command line."""
        left = self.pids("serve", "supervise", "command", "follow")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        return not left

    def pids(self, *verbs):
        """The processes of this test, by their command lines; daemon and supervisors and commands where nothing else is asked for."""
        verbs = set(verbs or ("serve", "supervise", "command"))
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                    arguments = file.read().decode().split("\0")
                    if any(argument.startswith(self.root) for argument in arguments) and verbs & set(arguments):
                        found.append(int(name))
        return found

    def channel(self):
        channel = Channel(self.state)
        self.channels.append(channel)
        return channel

    def plan(self, duration_s=2.0, count=COUNT, **changes):
        uri = f"file://{self.data}/"
        size = SizeSpec("uniform", 0, 9000)
        mix = (
            OperationSpec("get", 50, uri, "prepared"),
            OperationSpec("put", 20, uri + "new/", size=size),
            OperationSpec("stat", 20, uri, "prepared"),
            OperationSpec("delete", 9, uri, "deletable"),
            OperationSpec("list", 1, uri + "d/"),
        )
        names = ("prepared", "deletable")
        stages = (
            Stage("prepare", StageKind.PREPARE, 4, populations=names),
            Stage("execute", StageKind.EXECUTE, 4, duration_s=duration_s, operations=mix, io_rate=IoRate(1000.0)),
            Stage("cleanup", StageKind.CLEANUP, 4, populations=names),
        )
        populations = (
            Population("prepared", uri, "d/prepared-%08d.dat", count, size, 1),
            Population("deletable", uri, "d/deletable-%08d.dat", count, size, 2),
        )
        return Plan(
            self.run_id, "test", changes.pop("target", Target("file")), populations, stages, heartbeat_s=0.2, workers=2,
            error_limits=ErrorLimits(0, 0.0, 1.0), **changes,
        )  # fmt: skip

    def submit(self, channel, plan, count=COUNT, key=None):
        assignment = Assignment("a0", 0, 1, {"prepared": ((0, count),), "deletable": ((0, count),)})
        return channel.ok("submit", key=key or self.key, plan=to_json(plan), assignment=to_json(assignment), credentials=None)

    def journal(self):
        with open(os.path.join(self.state, "runs", self.run_id, "a0", "journal.ndjson"), "rb") as file:
            return file.read()

    def files(self):
        return sorted(os.path.relpath(os.path.join(d, f), self.data) for d, _, fs in os.walk(self.data) for f in fs)

    def begin(self, **changes):
        channel = self.channel()
        epoch = self.submit(channel, self.plan(**changes))["epoch"]
        channel.follow(self.run_id, "a0")
        channel.wait_state("READY")
        return channel, epoch

    def stage(self, channel, index, *after):
        start = channel.release(self.key, "a0", index)
        channel.wait(lambda: channel.beats[-1]["state"] in after or channel.final is not None, f"end of stage {index}")
        return start

    def end_of_mix(self, channel, duration_ns):
        fields = {"stage": 1, "round": 1, "duration_ns": duration_ns, "figures": {}}
        return channel.ok("end", key=self.key, agent_id="a0", **fields)

    def check_sums(self, records):
        """Seconds, histograms and totals count the same operations."""
        for end in (record for record in records if record["kind"] == "stage_end"):
            of_stage = [record for record in records if record.get("stage") == end["stage"]]
            for op, totals in end["totals"].items():
                secs = [record["ops"][op] for record in of_stage if record["kind"] in ("sec", "lost") and op in record["ops"]]
                hists = [compact.unpack(record)["hist"] for record in of_stage if record["kind"] == "hist"]
                cells = [region for hist in hists for region in hist.get(op, {}).values()]
                self.assertEqual(sum(sec[0] for sec in secs), totals["ops"], (end["name"], op))
                self.assertEqual(sum(sec[1] for sec in secs), totals["bytes"], (end["name"], op))
                self.assertEqual(sum(sum(region["cells"][1::2]) for region in cells), totals["ops"], (end["name"], op))
                self.assertEqual(sum(region["bytes"] for region in cells), totals["bytes"], (end["name"], op))


class KillingCase(AgentCase):
    """Kills single processes of the agent."""

    def records(self, *kinds):
        return [record for record in scan(self.journal())[0] if record["kind"] in kinds]

    def worker(self, index):
        """The pid of a worker's present incarnation."""
        return [record for record in self.records("worker") if record["worker"] == index][-1]["pid"]

    def supervisor(self):
        """The one that has workers; a new one may still be starting them."""
        found = []

        def there():
            found[:] = [pid for pid in self.pids() if self.argument(pid) == "supervise" and len(group_members(pid)) > 1]
            return found

        wait(there, "a supervisor with workers", timeout_s=30.0)
        return found[0]

    def daemon(self):
        found = []

        def there():
            found[:] = [pid for pid in self.pids() if self.argument(pid) == "serve"]
            return found

        wait(there, "a daemon", timeout_s=30.0)
        return found[0]

    @staticmethod
    def argument(pid):
        """What a process is; None once it is gone."""
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().decode().split("\0")
        except OSError:
            return None
        return next((word for word in ("serve", "supervise") if word in arguments), None)

    def assert_gone(self, pid):
        """It ends, or is a zombie."""

        def gone():
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    return file.read().rpartition(")")[2].split()[0] in "ZX"
            except OSError:
                return True

        wait(gone, f"the end of process {pid}")

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        self.assert_gone(pid)

    def kill_supervisor(self, channel):
        """Returns when its successor is heard."""
        self.kill(self.supervisor())
        channel.read()
        channel.beats.clear()
        wait(lambda: self.records("recovered"), "a new supervisor")
        channel.wait(lambda: channel.beats, "its heartbeat")
