"""Preflight's checks of the host itself, each with something broken."""

import io
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zipfile
from types import SimpleNamespace
from unittest import mock

from sai3ssh.agent import kernelclock, state
from sai3ssh.agent.preflight import clock, files, load, network, service, spool
from sai3ssh.agent.preflight.checks import Sheet, failure, ok, side_by_side, size, within
from sai3ssh.agent.preflight.request import Needs, Peer, Request, Storage, read_request
from sai3ssh.errors import ConfigError
from sai3ssh.findings import Level
from tests.agent.direct_files import direct_directory
from tests.agent.s3_server import wait_for
from tests.agent.test_agent_preflight_storage import deaf


class Case(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def write(self, path, text):
        """A file below the test's directory, which stands for /proc or /sys."""
        path = os.path.join(self.directory, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def expect(self, finding, level, *texts):
        self.assertEqual(finding.level, level, finding)
        for text in texts:
            self.assertIn(text, f"{finding.found} | {finding.expected} | {finding.remedy}")
        self.assertEqual(bool(finding.expected and finding.remedy), level in (Level.WARNING, Level.FAILURE))


class Sheets(Case):
    def test_a_check_that_raises_is_a_failure_of_its_own(self):
        sheet = Sheet()
        sheet.ask("host.a", lambda: ok("fine"))
        sheet.ask("host.b", lambda: {}["missing"])
        sheet.ask("host.c", lambda: failure("broken", "whole", "mend it"), "a subject")
        found = sheet.findings()
        self.assertEqual([(f.check, f.level) for f in found], [("host.a", Level.OK), ("host.b", Level.FAILURE), ("host.c", Level.FAILURE)])
        self.assertIn("could not be done: KeyError", found[1].found)
        self.assertIn("--skip host.b", found[1].remedy)
        self.assertEqual(found[2].subject, "a subject")

    def test_a_check_that_hangs_does_not_keep_the_others(self):
        sheet = Sheet()
        never = threading.Event()
        self.addCleanup(never.set)
        began = time.monotonic()

        def hanging(sheet):
            sheet.ask("host.before", lambda: ok("fine"))
            sheet.ask("file.mount", lambda: never.wait() and ok(""), "file:///mnt/")
            sheet.ask("host.after", lambda: ok("fine"))

        def broken(sheet):
            raise RuntimeError("between two questions")

        side_by_side(sheet, [hanging, broken, lambda sheet: sheet.ask("host.other", lambda: ok("fine"))], began + 0.3)
        found = sheet.findings()
        self.assertEqual([f.check for f in found], ["host.before", "file.mount", "preflight", "host.other"])
        self.assertEqual([f.level for f in found], [Level.OK, Level.FAILURE, Level.FAILURE, Level.OK])
        self.assertIn("no answer within", found[1].found)
        self.assertIn("network file system", found[1].remedy)
        self.assertIn("between two questions", found[2].found)

    def test_skipped_on_request(self):
        sheet = Sheet(("host.a", "file"))
        for check in ("host.a", "host.ab", "file.mount"):
            sheet.ask(check, lambda: ok("asked"))
        self.assertEqual([f.level for f in sheet.findings()], [Level.SKIPPED, Level.OK, Level.SKIPPED])

    def test_within(self):
        self.assertIsNone(within(5, lambda: None))
        with self.assertRaises(ZeroDivisionError):
            within(5, lambda: 1 // 0)
        with self.assertRaises(TimeoutError):
            within(0.05, lambda: time.sleep(1))

    def test_size(self):
        self.assertEqual([size(n) for n in (0, 1023, 1536, 1 << 40)], ["0 B", "1023 B", "1.5 KiB", "1.0 TiB"])


class Requests(Case):
    def test_nothing_is_a_request(self):
        self.assertEqual(read_request(""), Request())
        self.assertEqual(read_request("{}"), Request())

    def test_whole(self):
        request = read_request(
            '{"skip": ["host"], "state_dir": null, "digest": "d", "version": "1", "ports": [1],'
            ' "plan": {"journal_bytes": 1, "open_files": 2, "memory_bytes": 3, "storage": [{"uri": "s3://b/", "endpoint_url": null,'
            ' "region": "r", "path_style": false, "ca_file": null, "verify_tls": true, "operations": ["get"], "write_bytes": 4,'
            ' "objects": 5}]}, "credentials": {"access_key": "a", "secret_key": "s", "session_token": null},'
            ' "reach": [{"name": "h2", "address": "10.0.0.2", "port": 22}]}'
        )
        storage = Storage("s3://b/", None, "r", False, None, True, ("get",), 4, 5)
        self.assertEqual(request.plan, Needs(1, 2, 3, (storage,)))
        self.assertEqual((request.reach, request.ports, request.skip), ((Peer("h2", "10.0.0.2", 22),), (1,), ("host",)))
        self.assertEqual(request.credentials, {"access_key": "a", "secret_key": "s", "session_token": None})
        self.assertNotIn("secret_key", repr(request))

    def test_what_does_not_fit_is_one_error_without_secrets(self):
        for text, what in (
            ("{not json", "not JSON"),
            ("[]", "a JSON list"),
            ('{"colour": 1}', "unknown colour"),
            ('{"ports": ["x"]}', "expected int"),
            ('{"plan": {"storage": [{"uri": "s3://b/", "operations": ["fly"]}]}}', "operations fly"),
            ('{"credentials": ["SECRET"]}', "credentials"),
            ('{"credentials": {"secret_key": ["SECRET"]}}', "credentials"),
            ('{"credentials": "SECRET"}', "credentials"),
        ):
            with self.assertRaisesRegex(ConfigError, what) as caught:
                read_request(text)
            self.assertNotIn("SECRET", str(caught.exception))
            self.assertTrue(caught.exception.remedy)


class Load(Case):
    def test_a_process_that_burns_is_named(self):
        burner = os.path.join(self.directory, "burner")
        os.symlink(sys.executable, burner)
        environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
        with subprocess.Popen([burner, "-S", "-c", "while True: pass # secret argument"], env=environment) as process:
            self.addCleanup(process.kill)
            found = []

            def named():
                before = load.take_sample()
                time.sleep(0.2)
                found.append(load.processes(before, load.take_sample(), set()))
                return any(heavy["pid"] == process.pid for heavy in found[-1].values["heavy"])

            wait_for(named, "notice of a process that burns", 60)
            self.expect(found[-1], Level.WARNING, "of a core", "Stop what need not run")
            self.assertIn("burner", [heavy["name"] for heavy in found[-1].values["heavy"]])
            self.assertNotIn("secret argument", str(found[-1]))
            before = load.take_sample()
            time.sleep(0.2)
            own_group = load.processes(before, load.take_sample(), {os.getpgid(process.pid)})
            self.assertNotIn(process.pid, [heavy["pid"] for heavy in own_group.values["heavy"]])
            process.kill()

    def sample(self, wall, *cpu, processes=None):
        return load.Sample(wall, list(cpu), processes or {})

    def test_this_process_and_those_above_are_not_blamed(self):
        ticks = os.sysconf("SC_CLK_TCK")
        own, shell, other = (load.Process(name, parent, 1, ticks, 5) for name, parent in (("python3", 1), ("sshd", 0), ("other (x)", 0)))
        mine = own._replace(parent=2)  # 8 is another agent of this machine, asked by the same controller
        after = self.sample(1.0, *range(8), processes={os.getpid(): mine, 2: shell, 7: other, 8: mine})
        finding = load.processes(self.sample(0.0, *range(8)), after, set())
        self.expect(finding, Level.WARNING, "other (x) (pid 7) 100 %")
        self.assertEqual(len(finding.values["heavy"]), 1)

    def test_names_with_brackets_and_blanks(self):
        self.write("stat", "cpu  1 2 3 4 5 6 7 8 9 10\n")
        fields = " ".join(["S", "3", "4", *["0"] * 8, "11", "12", *["0"] * 6, "99"])
        self.write("77/stat", f"77 (a) b (c)) {fields}")
        sample = load.take_sample(self.directory)
        self.assertEqual(sample.cpu, [1, 2, 3, 4, 5, 6, 7, 8])
        self.assertEqual(sample.processes, {77: load.Process("a) b (c)", 3, 4, 23, 99)})

    def test_steal_and_governor(self):
        before = self.sample(0, 0, 0, 0, 0, 0, 0, 0, 0)
        self.expect(load.cpu(before, self.sample(1, 30, 0, 0, 70, 0, 0, 0, 0), self.directory), Level.OK, "30 % busy", "governor none")
        stolen = load.cpu(before, self.sample(1, 10, 0, 0, 70, 0, 0, 0, 20), self.directory)
        self.expect(stolen, Level.WARNING, "steal 20.0 %", "hypervisor")
        idle = self.sample(1, 0, 0, 0, 100, 0, 0, 0, 0)
        self.write("devices/system/cpu/cpufreq/policy0/scaling_governor", "performance\n")
        self.expect(load.cpu(before, idle, self.directory), Level.OK, "governor performance")
        self.write("devices/system/cpu/cpufreq/policy1/scaling_governor", "powersave\n")
        self.expect(load.cpu(before, idle, self.directory), Level.WARNING, "performance, powersave", "cpupower")

    def test_memory(self):
        self.write("meminfo", "MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 524288 kB\n")
        self.expect(load.memory(512 << 20, self.directory), Level.OK, "512.0 MiB of 1.0 GiB")
        self.expect(load.memory(600 << 20, self.directory), Level.WARNING, "600.0 MiB")
        self.expect(load.memory(2 << 30, self.directory), Level.FAILURE, "2.0 GiB", "more hosts")


class Clock(Case):
    def test_states(self):
        self.write("12/comm", "chronyd\n")
        good = clock.Kernel(True, 0.012, 0.0, -3.5)
        self.expect(clock.sync(good, self.directory), Level.OK, "within 12.0 ms", "-3.5 ppm", "chronyd")
        self.expect(clock.sync(good._replace(synchronised=False), self.directory), Level.WARNING, "not synchronised; chronyd")
        self.expect(clock.sync(good._replace(max_error_s=4.0), self.directory), Level.WARNING, "4000.0 ms")
        os.unlink(os.path.join(self.directory, "12/comm"))
        self.expect(clock.sync(good._replace(synchronised=False), self.directory), Level.WARNING, "no time daemon", "chrony")

    def test_the_real_kernel(self):
        kernel = clock.read_kernel()
        self.assertGreater(kernel.max_error_s, 0)
        self.assertLess(abs(kernel.frequency_ppm), 1000)
        self.assertEqual(kernelclock.synchronised(), kernel.synchronised)
        with mock.patch.object(kernelclock, "read_kernel", side_effect=PermissionError(1, "Operation not permitted")):
            self.assertIsNone(kernelclock.synchronised())
        with mock.patch.object(clock, "read_kernel", side_effect=PermissionError(1, "Operation not permitted")):
            self.expect(clock.sync(proc=self.directory), Level.WARNING, "cannot be read", "Operation not permitted")


class Network(Case):
    def nic(self, **changes):
        counters = {**dict.fromkeys(network._COUNTERS, 0), "rx_packets": 1_000_000}
        return network.nic("eth9", counters, {**counters, **changes}, self.directory)

    def test_interface(self):
        for name, text in (("speed", "25000"), ("mtu", "9000"), ("duplex", "full")):
            self.write(f"class/net/eth9/{name}", f"{text}\n")
        self.expect(self.nic(), Level.OK, "25000 Mbit/s", "MTU 9000")
        self.assertEqual(self.nic().values["speed_mbit_s"], 25000)
        self.expect(self.nic(rx_errors=1), Level.WARNING, "1 errors while looking", "ethtool -S eth9")
        self.expect(self.nic(rx_dropped=900), Level.OK)
        self.expect(self.nic(rx_dropped=90_000), Level.WARNING, "90000 drops", "rings")
        counters = {**dict.fromkeys(network._COUNTERS, 0), "rx_packets": 1_000_000, "rx_errors": 500}
        self.expect(network.nic("eth9", counters, counters, self.directory), Level.WARNING, "500 errors")
        self.write("class/net/eth9/duplex", "half\n")
        self.expect(self.nic(), Level.WARNING, "half duplex")

    def test_of_the_default_route(self):
        self.write("net/route", "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth9 00000000 01 0003 0 0 0 00000000\n"
                   "eth8 00000A0A 00 0001 0 0 0 00FFFFFF\n")  # fmt: skip
        self.write("net/ipv6_route", f"{'0' * 32} 00 {'0' * 32} 00 {'1' * 32} 0400 1 0 3 eth7\n{'0' * 32} 00 {'0' * 32} 00 x 1 1 0 2 lo\n")
        self.assertEqual(network.interfaces(self.directory, self.directory), ["eth7", "eth9"])
        os.unlink(os.path.join(self.directory, "net/route"))
        os.unlink(os.path.join(self.directory, "net/ipv6_route"))
        for name, up in (("lo", "unknown"), ("veth0", "up"), ("eth1", "down")):
            self.write(f"class/net/{name}/operstate", up)
        self.assertEqual(network.interfaces(self.directory, self.directory), ["veth0"])

    def test_ports(self):
        with socket.create_server(("", 0)) as everywhere, socket.create_server(("127.0.0.1", 0)) as local, socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            heard = network.listeners()
            self.expect(network.port(everywhere.getsockname()[1], heard), Level.OK, "something listens")
            self.expect(network.port(local.getsockname()[1], heard), Level.WARNING, "on loopback only")
            self.expect(network.port(unused.getsockname()[1], heard), Level.WARNING, "nothing listens", "ss -ltn")

    def test_reach(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = Peer("h2", "127.0.0.1", listener.getsockname()[1])
            finding = network.reach(peer)
            self.expect(finding, Level.OK, f"127.0.0.1:{peer.port} accepts")
            self.assertEqual((finding.values["peer"], finding.values["port"]), ("h2", peer.port))
        self.expect(network.reach(peer), Level.FAILURE, "Connection refused", "nothing listens")
        with deaf() as number:
            self.expect(network.reach(Peer("h3", "127.0.0.1", number), 0.3), Level.FAILURE, "no answer within 0.3 s", "firewall")
        self.expect(network.reach(Peer("h4", "h4.invalid", 22)), Level.FAILURE, "does not resolve here", "ansible_host")
        self.expect(network.reach(Peer("h5", "255.255.255.255", 22)), Level.FAILURE, "ip route get")


class Agent(Case):
    """What is deployed and what runs. The service of another user is one that is said to be another's: tests have one user."""

    def look(self, digest="d1", deployed="", hello=None, served=False, problem=None):
        found = service.Service(Request(state_dir=self.directory, digest=digest, version="1.2"), deployed or "/nonexistent")
        found.hello, found.served, found.problem = hello, served, problem
        found.pid = os.getpid()
        return found

    def test_none(self):
        self.expect(service.agent(self.look()), Level.OK, "agent 1.2 (sha256 d1), brought by the run")

    def test_deployed(self):
        path = os.path.join(self.directory, "agent.pyz")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("sai3ssh/__init__.py", '__version__ = "0.9"\n')
        other = self.look(deployed=path)
        self.expect(service.agent(other), Level.WARNING, "is 0.9 (sha256", "would upload its own copy", "agent 1.2 (sha256 d1)")
        same = self.look(digest=other.deployed[1], deployed=path)
        self.expect(service.agent(same), Level.OK, f"deployed as {path}")
        with open(path, "wb") as file:
            file.write(b"garbage")
        self.expect(service.agent(self.look(deployed=path)), Level.WARNING, "unreadable")

    def test_service(self):
        mine, other = {"version": "1.2", "digest": "d1"}, {"version": "1.1", "digest": "d0"}
        self.expect(service.agent(self.look(hello=mine, served=True)), Level.OK, f"running as a service, pid {os.getpid()}")
        self.expect(service.agent(self.look(hello=other, served=True)), Level.FAILURE, "agent 1.1 (sha256 d0)", "as a service", "deploy")
        self.expect(service.agent(self.look(hello=other)), Level.OK, "brought by the run")
        self.expect(service.agent(self.look(served=True)), Level.FAILURE, "does not answer", "systemctl status sai3ssh-agent")
        refused = self.look(served=True, problem=PermissionError(13, "Permission denied"))
        self.expect(service.agent(refused), Level.FAILURE, "may not speak", "sai3ssh_agent_members")

    def test_service_that_this_user_may_not_use(self):
        os.mkdir(os.path.join(self.directory, "home"))
        elsewhere = os.path.join(self.directory, "deployed")
        os.mkdir(elsewhere)
        home = {"XDG_STATE_HOME": os.path.join(self.directory, "home")}
        with mock.patch.object(state, "DEPLOYED", elsewhere), mock.patch.dict(os.environ, home):
            with mock.patch("os.access", lambda *_: False):  # root may enter everything
                found = service.Service(Request(), "/nonexistent")
            self.expect(service.agent(found), Level.WARNING, f"may not enter {elsewhere}", "sai3ssh_agent_members")

    def test_open_files(self):
        with mock.patch.object(resource, "getrlimit", lambda _: (1024, 4096)):
            self.expect(service.open_files(self.look(), 0), Level.OK, "at most 4096 open files for this user")
            self.expect(service.open_files(self.look(), 4096), Level.OK)
            self.expect(service.open_files(self.look(), 5000), Level.FAILURE, "at least 5000, which this plan needs", "limits.d")
            replaced = self.look(hello={"version": "1.1", "digest": "d0"})
            self.expect(service.open_files(replaced, 0), Level.OK, "at most 4096 open files for this user")
        with mock.patch.object(resource, "getrlimit", lambda _: (256, 256)):
            self.expect(service.open_files(self.look(), 0), Level.FAILURE, "at most 256", "at least 1024")
        with mock.patch.object(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY)):
            self.expect(service.open_files(self.look(), 1 << 40), Level.OK, "any number of open files")

    def test_disk(self):
        self.expect(spool.disk(self.look(), 0), Level.OK, f"free in {self.directory}")
        whole = os.statvfs(self.directory)
        op_log = spool.disk(self.look(), 0, whole.f_blocks * whole.f_frsize)
        self.expect(op_log, Level.WARNING, "the op-log", "can lose operations", "op_log_max_bytes")
        self.expect(spool.disk(self.look(), whole.f_blocks * whole.f_frsize), Level.FAILURE, "that this plan sets aside", "agent_state_dir")
        found = self.look()
        found.directory = "/proc"
        self.expect(spool.disk(found, 0), Level.FAILURE)
        self.assertEqual([name for name in os.listdir(self.directory) if "preflight" in name], [])

    def test_disk_that_is_nearly_full(self):
        def of(blocks=1 << 20, inodes=1 << 20, flag=0):
            found = SimpleNamespace(f_bavail=blocks, f_frsize=4096, f_favail=inodes, f_files=1 << 20, f_flag=flag)
            with mock.patch("os.statvfs", lambda _: found):
                return spool.disk(self.look(), 1 << 30)

        self.expect(of(), Level.OK, "4.0 GiB free")
        self.expect(of(blocks=(1 << 18) + 4096), Level.WARNING, "1.0 GiB free", "and 64.0 MiB for everybody else")
        self.expect(of(blocks=(1 << 18) - 1), Level.FAILURE, "1024.0 MiB free", "at least 1.0 GiB")
        self.expect(of(inodes=5), Level.FAILURE, "5 inodes free")
        self.expect(of(flag=os.ST_RDONLY), Level.FAILURE, "read-only")

    def test_no_state_directory(self):
        self.write("file", "")
        with self.assertRaises(OSError) as caught:
            service.Service(Request(state_dir=os.path.join(self.directory, "file", "state")))
        self.expect(spool.no_directory(caught.exception), Level.FAILURE, "Not a directory", "sai3ssh deploy")

    def test_shared_memory(self):
        self.expect(spool.shared_memory(self.look(), 4), Level.OK, "free in /dev/shm")
        self.expect(spool.shared_memory(self.look(), 1 << 40), Level.FAILURE, "at least", "remount")
        with mock.patch.object(state, "metrics_dir", side_effect=PermissionError("/dev/shm/sai3ssh-0 belongs to uid 7")):
            self.expect(spool.shared_memory(self.look(), 4), Level.FAILURE, "belongs to uid 7")


class Directories(Case):
    def check(self, uri="", operations=("put",), **options):
        sheet = Sheet()
        files.check_directory(sheet, Storage(uri or f"file://{self.directory}/data/", operations=operations, **options))
        return {finding.check: finding for finding in sheet.findings()}

    def test_healthy(self):
        for there in (False, True):
            if there:
                os.mkdir(os.path.join(self.directory, "data"))
            found = self.check(write_bytes=1000, objects=10)
            self.assertEqual([(f.check, f.level) for f in found.values()], [(f"file.{n}", Level.OK) for n in ("mount", "space", "write")])
            self.assertEqual("is made by the run" in found["file.mount"].found, not there)
            self.assertEqual(os.listdir(self.directory), ["data"] if there else [])

    def test_no_room(self):
        self.expect(self.check(write_bytes=1 << 60)["file.space"], Level.FAILURE, "this workload writes there", "--skip file.space")
        free = os.statvfs(self.directory)
        if free.f_files:
            self.expect(self.check(objects=free.f_favail + (1 << 40))["file.space"], Level.FAILURE, "inodes, one for each object")

    def test_a_workload_that_reads_writes_nothing(self):
        found = self.check(operations=("get",))
        self.expect(found["file.mount"], Level.FAILURE, "does not exist", "Mount what holds them")
        self.assertEqual(found["file.space"].level, Level.SKIPPED)
        os.mkdir(os.path.join(self.directory, "data"), 0o500)
        self.assertEqual({name: f.level for name, f in self.check(operations=("get",)).items()}, {"file.mount": Level.OK})

    def test_where_nobody_can_write(self):
        found = self.check("file:///proc/sai3ssh/")
        self.expect(found["file.mount"], Level.OK, "proc (local)")
        self.expect(found["file.write"], Level.FAILURE, "/proc cannot be written to", "chown")

    def test_a_workload_that_makes_directories_writes(self):
        self.assertEqual(
            {name: f.level for name, f in self.check(operations=("mkdir",)).items()}, dict.fromkeys(("file.mount", "file.write"), Level.OK)
        )

    def test_not_a_directory(self):
        path = self.write("plain", "")
        self.expect(self.check(f"file://{path}/")["file.mount"], Level.FAILURE, "is not a directory")
        self.expect(self.check(f"file://{path}/below/")["file.mount"], Level.FAILURE, "Not a directory", "ls -ld")

    def test_direct(self):
        self.expect(self.check("direct:///proc/", operations=("get",))["file.direct"], Level.FAILURE, "O_DIRECT does not work on proc")
        os.mkdir(os.path.join(self.directory, "data"))
        found = self.check(f"direct://{self.directory}/data/", operations=("get",))["file.direct"]
        self.expect(found, Level.SKIPPED, "no file in")
        directory = direct_directory(self)
        self.addCleanup(shutil.rmtree, directory)
        found = self.check(f"direct://{directory}/data/")
        self.expect(found["file.direct"], Level.OK, "O_DIRECT writes and reads, in blocks of")
        self.assertEqual(os.listdir(directory), [])
        os.makedirs(f"{directory}/data/below")
        os.mkfifo(f"{directory}/data/a FIFO, which has nobody at its other end")
        with open(f"{directory}/data/below/file", "w") as file:
            file.write("x")
        found = self.check(f"direct://{directory}/data/", operations=("get",))["file.direct"]
        self.expect(found, Level.OK, "O_DIRECT reads, in blocks of")

    def test_kinds_of_mounts(self):
        lines = (
            "1 0 8:1 / / rw - ext4 /dev/vda rw", "2 1 0:5 / /mnt/data\\040one rw - nfs4 server:/export rw",
            "3 1 0:6 / /mnt/data rw - fuse.sshfs me@there:/ rw",
        )  # fmt: skip
        self.write("self/mountinfo", "\n".join(lines) + "\n")
        for path, kind, network_mount in (
            ("/home", "ext4", False),
            ("/mnt/data one/x", "nfs4", True),
            ("/mnt/data/x", "fuse.sshfs", True),
            ("/mnt/database", "ext4", False),
        ):
            mount = files.mount_of(path, self.directory)
            self.assertEqual((mount.kind, mount.network), (kind, network_mount), path)


class Verb(Case):
    """Whole answers are in test_agent_preflight.py; what comes of bad input costs nothing."""

    def test_bad_input(self):
        from sai3ssh.agent import cli

        with mock.patch("sys.stdin", io.StringIO('{"credentials": "SECRET"}')), mock.patch("sys.stderr", io.StringIO()) as said:
            self.assertEqual(cli.main(["preflight", "--json"]), 2)
        self.assertEqual(said.getvalue().count("\n"), 1)
        self.assertIn("credentials", said.getvalue())
        self.assertNotIn("SECRET", said.getvalue())


if __name__ == "__main__":
    unittest.main()
