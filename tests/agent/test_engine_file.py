"""The file engine, and what all engines with threads share."""

import ctypes
import errno
import mmap
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
import unittest
import unittest.mock
from pathlib import Path
from unittest import mock

from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import COPY, DELETE, GET, LIST, MKDIR, PUT, RMDIR, STAT, TreeTask
from sai3ssh.agent.engines.direct import alignment_of
from sai3ssh.agent.engines.file import FileEngine
from sai3ssh.agent.engines.tasks import CopyTask, LevelTask
from sai3ssh.agent.engines.threaded import OperationFailed, ThreadedEngine
from sai3ssh.dataset import Content
from sai3ssh.errors import TargetError
from sai3ssh.model import Deadlines, Retry, Target
from tests.agent.direct_files import direct_directory
from tests.agent.s3_server import QUICK, CountingWork, task, wait_for

CONTENT = Content(9)
SIZES = (0, 1, 511, 512, 4095, 4096, 4097, (1 << 18) + 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000)
PAGE = mmap.PAGESIZE


def written(index, size):
    """The bytes of an object, made in small pieces."""
    return b"".join(CONTENT.piece(index, size, at, 4096) for at in range(0, size, 4096))


def pages_in_memory(path):
    """How many pages of a file the page cache has."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = -(-len(mapped) // PAGE)
        found = (ctypes.c_ubyte * pages)()
        anchor = ctypes.c_char.from_buffer(mapped)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(len(mapped)), found):
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            del anchor
        return sum(page & 1 for page in found)


class Turns(unittest.TestCase):
    def setUp(self):
        # However busy the machine is.
        patch = mock.patch("sai3ssh.agent.engines.threaded._SHORT_NS", 1 << 62)
        patch.start()
        self.addCleanup(patch.stop)

    def test_operations_that_take_long_without_waiting_end_the_turns(self):
        with mock.patch("sai3ssh.agent.engines.threaded._SHORT_NS", -1):
            self.performed(
                lambda number: number > 1 or wait_for(lambda: self.engine._parked == 7, "wait of the others for their turn"), 100
            )
        self.assertLess(self.engine.share_in_turn, 1.0)

    def performed(self, perform, count, concurrency=8):
        """The threads that performed operations of a file engine, one for each."""
        threads = []

        class Quick(FileEngine):
            def perform(self, task):
                threads.append(threading.get_ident())
                perform(len(threads))
                return 0

        work = CountingWork(task(None, STAT) for _ in range(count))
        self.engine = Quick(QUICK)
        self.engine.run(work, concurrency)
        self.assertEqual((len(work.dones), work.failures), (count, []))
        return threads

    def test_operations_that_do_not_wait_are_performed_by_one_thread(self):
        others = threading.active_count()
        threads = []

        def perform(number):
            threads.append(threading.get_ident())
            if number == 1:
                wait_for(lambda: len(set(threads)) > 1 or threading.active_count() == others + 8, "start of all threads")

        # However long this process has to wait for a processor.
        with mock.patch("sai3ssh.agent.engines.threaded._LOOK_S", 60.0):
            self.assertEqual(len(set(self.performed(perform, 2000))), 1)
        self.assertEqual(self.engine.share_in_turn, 1.0)

    def test_as_many_operations_as_were_asked_for_wait_at_the_same_time(self):
        together = threading.Barrier(8)
        self.performed(lambda _: together.wait(60.0), 80)
        self.assertFalse(together.broken)
        self.assertLess(self.engine.share_in_turn, 0.5)

    def test_two_operations_that_wait_end_the_turns_before_anybody_looks(self):
        with mock.patch("sai3ssh.agent.engines.threaded._LOOK_S", 60.0):
            self.assertGreater(len(set(self.performed(lambda number: time.sleep(0.001), 200))), 1)

    def test_an_operation_that_has_no_processor_does_not_end_the_turns(self):
        with (
            mock.patch("sai3ssh.agent.engines.threaded._LOOKS", 1 << 30),
            mock.patch("sai3ssh.agent.engines.threaded._is_runnable") as runnable,
        ):

            def perform(number):
                if number == 1:
                    wait_for(lambda: runnable.call_count > 2 or not self.engine._alone, "look at an operation that takes long")

            for runnable.return_value in (True, False):
                self.performed(perform, 100)
                self.assertEqual(self.engine.share_in_turn == 1.0, runnable.return_value)
                runnable.reset_mock()

    def test_turns_are_taken_again_when_operations_no_longer_wait(self):
        together = threading.Barrier(8)
        deadline = time.monotonic() + 60.0

        def perform(number):
            if number <= 8:
                together.wait(60.0)
            elif number == 9:
                # What the others have begun ends meanwhile, and none of them begins another.
                while not self.engine._alone and time.monotonic() < deadline:
                    os.stat("/")

        with mock.patch("sai3ssh.agent.engines.threaded._Watch.busy", lambda *_: True):
            self.performed(perform, 100)
        self.assertLess(time.monotonic(), deadline)


class Late(unittest.TestCase):
    def test_a_process_that_stands_still_is_late(self):
        class Slow(ThreadedEngine):
            def perform(self, task):
                time.sleep(0.1)
                return 0

        for stopped in (False, True):
            work = CountingWork(task(None, STAT) for _ in range(10))
            pause = f"sleep 0.3; kill -STOP {os.getpid()}; sleep 1; kill -CONT {os.getpid()}"
            with subprocess.Popen(["sh", "-c", pause if stopped else "true"]):
                Slow(QUICK).run(work, 1)
            self.assertEqual(len(work.dones), 10)
            self.assertEqual(work.late_ns > 500_000_000, stopped, work.late_ns)


class Files(unittest.TestCase):
    scheme = "file"

    def setUp(self):
        self.directory = direct_directory(self) if self.scheme == "direct" else tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.uri = f"{self.scheme}://{self.directory}/data/"
        self.engine = make_engine(Target("file", verify_reads=True), self.uri, None, Deadlines(), QUICK)
        self.root = self.engine.root(self.uri)

    def perform(self, *tasks, concurrency=4):
        work = CountingWork(task(self.root, op, **keywords) for op, keywords in tasks)
        self.engine.run(work, concurrency)
        return work

    def test_each_operation(self):
        sizes = (0, 1, 4096, 1_000_003)
        objects = [{"key": f"a/{i}/ü b", "size": size, "index": i, "content": CONTENT} for i, size in enumerate(sizes)]
        put = self.perform(*((PUT, keywords) for keywords in objects))
        self.assertEqual((put.failures, put.bytes), ([], sum(sizes)))
        for i, size in enumerate(sizes):
            data = (Path(self.directory) / "data" / "a" / str(i) / "ü b").read_bytes()
            self.assertEqual(data, b"".join(CONTENT.piece(i, size, at, 4096) for at in range(0, size, 4096)))
        get = self.perform(*((op, keywords) for keywords in objects for op in (GET, STAT)))
        self.assertEqual((get.failures, get.bytes), ([], sum(sizes)))
        self.assertEqual([made.listed for made in self.perform((LIST, {"key": ""})).dones], [4])
        self.assertEqual(self.perform(*((DELETE, keywords) for keywords in objects)).failures, [])
        self.assertEqual([made.listed for made in self.perform((LIST, {"key": ""})).dones], [0])

    def test_a_task_that_is_due_later_is_waited_for_by_one_thread_and_begun_in_time(self):
        asked = []

        class Paced(CountingWork):
            def next(self, now_ns):
                asked.append(now_ns)
                due = start + (10 - len(self.tasks)) * 20_000_000
                if now_ns < due and not self.finished:
                    self.wake_ns = due
                    return None
                return super().next(now_ns)

        start = time.perf_counter_ns()
        work = Paced(task(self.root, PUT, key=f"o{i}", size=10, content=CONTENT) for i in range(10))
        self.engine.run(work, 16)
        self.assertEqual((len(work.dones), work.failures), (10, []))
        self.assertGreaterEqual(time.perf_counter_ns() - start, 9 * 20_000_000)
        self.assertLess(len(asked), 120, "16 threads that all wake for each of 10 tasks ask 160 times and more")

    def test_a_shorter_put_replaces(self):
        self.perform((PUT, {"size": 100, "content": CONTENT}))
        self.perform((PUT, {"size": 10, "content": CONTENT}))
        self.assertEqual((Path(self.directory) / "data" / "key").stat().st_size, 10)

    def test_one_level_is_listed_without_what_lies_in_its_directories(self):
        self.perform(*((PUT, {"key": key, "size": 1, "content": CONTENT}) for key in ("a", "b", "d/1", "d/2", "e/f/1")))
        work = CountingWork([LevelTask(LIST, self.root, "", -1, 0, None, 0), LevelTask(LIST, self.root, "e/", -1, 0, None, 0)])
        self.engine.run(work, 1)
        self.assertEqual([made.listed for made in work.dones], [4, 1])

    def test_copies(self):
        sizes = (0, 1, 300_000)
        objects = [{"key": f"o{i}", "size": size, "index": i, "content": CONTENT} for i, size in enumerate(sizes)]
        self.perform(*((PUT, keywords) for keywords in objects))
        for name, failing in (("by the kernel", None), ("through this process", OSError(errno.EXDEV, "another device"))):
            work = CountingWork(
                CopyTask(self.root, f"{name} {i}", i, task(self.root, COPY, key=f"o{i}", size=size), "") for i, size in enumerate(sizes)
            )
            with unittest.mock.patch("os.copy_file_range", side_effect=failing, wraps=os.copy_file_range):
                self.engine.run(work, 1)
            self.assertEqual((work.failures, work.bytes), ([], sum(sizes)))
            copies = [{**keywords, "key": f"{name} {i}"} for i, keywords in enumerate(objects)]
            self.assertEqual(self.perform(*((GET, keywords) for keywords in copies)).failures, [])
        work = CountingWork(CopyTask(self.root, "n", 0, task(self.root, COPY, key=key, size=1), "") for key in ("none", "o2"))
        self.engine.run(work, 1)
        self.assertEqual([failure[0] for failure in work.failures], ["not_found", "verify"])
        self.assertFalse((Path(self.directory) / "data" / "n").exists())

    def test_failures(self):
        self.perform((PUT, {"size": 100, "content": CONTENT}))
        work = self.perform(
            (GET, {"key": "none"}), (STAT, {"key": "none"}), (DELETE, {"key": "key/x"}), (LIST, {"key": "none"}), (GET, {"key": ""}),
            (GET, {"size": 99}), (STAT, {"size": 101}), (GET, {"size": 100, "index": 1, "content": CONTENT}), concurrency=1,
        )  # fmt: skip
        self.assertEqual([failure[0] for failure in work.failures], ["not_found"] * 4 + ["io"] + ["verify"] * 3)
        self.assertEqual((work.retries, work.bytes, work.dones), ([], 0, []))

    def test_a_share_of_the_reads_is_compared(self):
        self.perform((PUT, {"size": 100, "content": CONTENT}))
        for share, found in ((0.0, 0), (0.05, 2), (0.25, 10), (0.99, 39), (1.0, 40)):
            engine = make_engine(Target("file", verify_reads=share), self.uri, None, Deadlines(), QUICK)
            work = CountingWork(task(self.root, GET, size=100, index=1, content=CONTENT) for _ in range(40))
            engine.run(work, 4)
            self.assertEqual([failure[0] for failure in work.failures], ["verify"] * found)
            self.assertEqual(len(work.dones), 40 - found)
            sizes = CountingWork([task(self.root, GET, size=99, content=CONTENT)])
            engine.run(sizes, 1)
            self.assertEqual([failure[0] for failure in sizes.failures], ["verify"], "the size is compared of all")

    def test_directories(self):
        data = Path(self.directory, "data")
        self.assertEqual(self.perform((MKDIR, {"key": "a/"}), (MKDIR, {"key": "b/c/"}), (MKDIR, {"key": "d/"}), concurrency=1).failures, [])
        self.assertEqual(sorted(str(path.relative_to(data)) for path in data.rglob("*")), ["a", "b", "b/c", "d"])
        (data / "d" / "below").mkdir()
        (data / "d" / "below" / "file").write_bytes(b"x")
        self.assertEqual(self.perform((RMDIR, {"key": "a/"}), (DELETE, {"key": "b/c/"})).failures, [])
        work = self.perform((RMDIR, {"key": "d/"}), (DELETE, {"key": "d/"}), (RMDIR, {"key": "a/"}), (MKDIR, {"key": "b/"}), concurrency=1)
        self.assertEqual([failure[0] for failure in work.failures], ["not_empty", "not_empty", "not_found", "not_empty"])
        self.assertEqual(sorted(os.listdir(data)), ["b", "d"])
        work = CountingWork([TreeTask(RMDIR, self.root, "d/", -1, 0, None, 0)])
        self.engine.run(work, 1)
        self.assertEqual((work.failures, os.listdir(data)), ([], ["b"]))

    def test_a_list_passes_over_a_directory_that_goes_meanwhile(self):
        data = Path(self.directory, "data")
        for name in ("a", "b", "c"):
            (data / name).mkdir(parents=True)
            (data / name / "file").write_bytes(b"")
        real, gone = os.scandir, []

        def scandir(path):
            if path == f"{self.directory}/data/b" and not gone:
                gone.append(shutil.rmtree(path))
            return real(path)

        with mock.patch.object(os, "scandir", scandir):
            self.assertEqual([made.listed for made in self.perform((LIST, {"key": ""})).dones], [2])

    def test_no_space(self):
        with open("/dev/full", "wb"):
            pass
        engine = make_engine(Target("file"), "file:///dev/", None, Deadlines(), QUICK)
        work = CountingWork([task(engine.root("file:///dev/"), PUT, key="full", size=10, content=CONTENT)])
        engine.run(work, 1)
        self.assertEqual(work.failures[0][0], "no_space")

    def test_check(self):
        with self.assertRaisesRegex(TargetError, "No such file"):
            self.engine.check()
        self.engine.check(write=True)
        self.engine.check()
        self.assertEqual(os.listdir(self.directory + "/data"), [])
        (Path(self.directory) / "plain").touch()
        self.engine.root(f"{self.directory}/plain/")
        with self.assertRaisesRegex(TargetError, "plain"):
            self.engine.check(write=True)

    def test_bad_targets(self):
        for uri in ("relative/", "s3://bucket/"):
            with self.assertRaises(TargetError):
                self.engine.root(uri)
        with self.assertRaises(TargetError):
            make_engine(Target("nfs"), "x", None, Deadlines(), QUICK)


class DirectFiles(Files):
    """The same promises past the page cache, and some more."""

    scheme = "direct"

    def test_any_size_is_exact_and_goes_past_the_page_cache(self):
        objects = [{"key": f"{size}", "size": size, "index": i, "content": CONTENT} for i, size in enumerate(SIZES)]
        self.assertEqual(self.perform(*((PUT, keywords) for keywords in objects)).failures, [])
        for i, size in enumerate(SIZES):
            path = Path(self.directory, "data", str(size))
            if size >= PAGE:
                # What ftruncate cuts it cuts in memory.
                self.assertLessEqual(pages_in_memory(path), bool(size % PAGE), size)
            self.assertEqual(path.read_bytes(), written(i, size))
        get = self.perform(*((GET, keywords) for keywords in objects))
        self.assertEqual((get.failures, get.bytes), ([], sum(SIZES)))
        unknown = self.perform(*((GET, {**keywords, "size": -1, "content": None}) for keywords in objects))
        self.assertEqual((unknown.failures, unknown.bytes), ([], sum(SIZES)))

    def test_a_read_goes_past_the_page_cache(self):
        size = 3_000_000
        path = Path(self.directory, "data", "key")
        self.perform((PUT, {"size": size, "content": CONTENT}))
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.assertEqual(self.perform((GET, {"size": size, "content": CONTENT})).bytes, size)
        self.assertEqual(pages_in_memory(path), 0)

    def test_a_file_of_another_size_is_found(self):
        for size in SIZES[1:]:
            self.perform((PUT, {"size": size, "content": CONTENT}))
            wrong = self.perform(*((GET, {"size": other, "content": CONTENT}) for other in (size - 1, size + 1, size + 4096)))
            self.assertEqual([failure[0] for failure in wrong.failures], ["verify"] * 3, size)

    def test_a_file_system_that_refuses_is_named(self):
        (Path(self.directory) / "data").mkdir()
        (Path(self.directory) / "data" / "file").write_bytes(b"x")
        real = os.open

        def refuses(path, flags, *rest, **more):
            # As a file system without direct_IO does: the file has been made by then.
            if flags & os.O_DIRECT:
                if flags & os.O_CREAT and flags & os.O_TMPFILE != os.O_TMPFILE:
                    os.close(real(path, flags & ~os.O_DIRECT, *rest, **more))
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return real(path, flags, *rest, **more)

        for write in (True, False):
            with mock.patch.object(os, "open", refuses), self.assertRaisesRegex(TargetError, "O_DIRECT does not work on .* file://"):
                self.engine.check(write=write)
        self.assertEqual(os.listdir(self.directory + "/data"), ["file"])
        self.engine.check(write=True)
        self.engine.check()
        self.assertEqual(os.listdir(self.directory + "/data"), ["file"])

    @unittest.skipIf(os.geteuid(), "needs root: mounts a ramfs, which has no O_DIRECT")
    def test_on_a_file_system_without_it(self):
        mounted = Path(self.directory, "ramfs")
        mounted.mkdir()
        subprocess.run(["mount", "-t", "ramfs", "none", mounted], check=True)
        self.addCleanup(subprocess.run, ["umount", mounted], check=True)
        uri = f"direct://{mounted}/"
        engine = make_engine(Target("file"), uri, None, Deadlines(), QUICK)
        with self.assertRaisesRegex(TargetError, "O_DIRECT does not work on ramfs"):
            engine.check(write=True)
        self.assertEqual(os.listdir(mounted), [])
        (mounted / "one").write_bytes(b"x")
        with self.assertRaisesRegex(TargetError, "O_DIRECT does not work on ramfs"):
            engine.check()


class PageCache(unittest.TestCase):
    def setUp(self):
        # tmpfs drops nothing: its pages are the files.
        self.directory = direct_directory(self)
        self.addCleanup(shutil.rmtree, self.directory)
        self.uri = f"file://{self.directory}/"

    def perform(self, op, size=1_000_001, **options):
        engine = make_engine(Target("file", verify_reads=1.0, **options), self.uri, None, Deadlines(), QUICK)
        work = CountingWork([task(engine.root(self.uri), op, size=size, content=CONTENT)])
        engine.run(work, 1)
        engine.close()
        self.assertEqual((work.failures, work.bytes), ([], size))

    def test_dontneed_leaves_no_page_behind(self):
        path = Path(self.directory, "key")
        for mode in ("auto", "normal", "sequential", "random", "dontneed"):
            for op in (PUT, GET):
                self.perform(op, page_cache=mode)
                self.assertEqual(pages_in_memory(path) == 0, mode == "dontneed", f"{mode}, {op}")
            self.assertEqual(path.read_bytes(), written(0, 1_000_001))

    def test_the_kernel_is_advised(self):
        self.perform(PUT)
        for mode, expected in (
            ("auto", []),
            ("normal", [os.POSIX_FADV_NORMAL]),
            ("sequential", [os.POSIX_FADV_SEQUENTIAL]),
            ("random", [os.POSIX_FADV_RANDOM]),
            ("dontneed", [os.POSIX_FADV_DONTNEED] * 2),
        ):
            with mock.patch.object(os, "posix_fadvise") as advise:
                self.perform(GET, page_cache=mode)
            self.assertEqual([call[0][3] for call in advise.call_args_list], expected, mode)

    def test_a_put_waits_for_what_fsync_says(self):
        for scheme in ("file", "direct"):
            self.uri = f"{scheme}://{self.directory}/{scheme}/"
            for mode, expected in (("none", []), ("file", ["data"]), ("directory", ["data", "directory"])):
                calls = []

                def data(fd, calls=calls):
                    self.assertEqual(os.fstat(fd).st_size, 1_000_001)
                    calls.append("data")

                def whole(fd, calls=calls):
                    self.assertTrue(stat.S_ISDIR(os.fstat(fd).st_mode))
                    calls.append("directory")

                with mock.patch.object(os, "fdatasync", data), mock.patch.object(os, "fsync", whole):
                    self.perform(PUT, fsync=mode)
                self.assertEqual(calls, expected, mode)

    def test_a_put_whose_sync_fails_has_failed(self):
        engine = make_engine(Target("file", fsync="file"), self.uri, None, Deadlines(), QUICK)
        work = CountingWork([task(engine.root(self.uri), PUT, size=1, content=CONTENT)])
        with mock.patch.object(os, "fdatasync", side_effect=OSError(errno.EDQUOT, "Disk quota exceeded")):
            engine.run(work, 1)
        self.assertEqual([failure[0] for failure in work.failures], ["no_space"])


class Alignment(unittest.TestCase):
    def test_of_a_path_that_is_not_there_yet(self):
        here = alignment_of(tempfile.gettempdir())
        self.assertEqual(alignment_of(f"{tempfile.gettempdir()}/none/below/"), here)
        self.assertEqual((here >= 4096, here & (here - 1)), (True, 0))

    def test_of_a_device_with_large_blocks(self):
        with tempfile.TemporaryDirectory() as directory:
            for block, expected in ((512, 4096), (16384, 16384)):
                os.makedirs(f"{directory}/disk/queue", exist_ok=True)
                os.makedirs(f"{directory}/disk/part", exist_ok=True)
                Path(directory, "disk/queue/logical_block_size").write_text(f"{block}\n")
                for device in ("disk", "disk/part"):
                    with mock.patch.object(os.path, "realpath", return_value=f"{directory}/{device}"):
                        self.assertEqual(alignment_of("/"), expected)


class Scripted(ThreadedEngine):
    """An engine whose attempts a test scripts."""

    def __init__(self, script, retry=QUICK):
        super().__init__(retry)
        self.script = script

    def perform(self, made):
        return self.script(made)


class Threads(unittest.TestCase):
    def test_concurrency(self):
        running, most, lock = [0], [0], threading.Lock()
        full = threading.Event()

        def script(made):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
                if running[0] == 5:
                    full.set()
            full.wait(10)
            with lock:
                running[0] -= 1
            return 1

        work = CountingWork(task(None, GET) for _ in range(100))
        Scripted(script).run(work, 5)
        self.assertEqual((most[0], len(work.dones), work.bytes), (5, 100, 100))

    def test_retries(self):
        attempts = []

        def script(made):
            attempts.append(made)
            if len(attempts) < 3:
                raise OperationFailed("http_503", "slow down")
            return 5

        work = CountingWork([task(None, GET)])
        Scripted(script).run(work, 1)
        self.assertEqual((work.retries, work.bytes, work.requests), ([("http_503", True)] * 2, 5, 3))

    def test_an_unexpected_error_ends_the_run(self):
        def script(made):
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            Scripted(script).run(CountingWork(task(None, GET) for _ in range(10)), 3)

    def test_control(self):
        read_fd, write_fd = os.pipe()
        release, heard = threading.Event(), []

        def on_control():
            heard.append(os.read(read_fd, 10))
            release.set()

        work = CountingWork([task(None, GET)])
        thread = threading.Thread(target=Scripted(lambda made: release.wait(10)).run, args=(work, 2, read_fd, on_control))
        thread.start()
        began = time.monotonic()
        os.write(write_fd, b"x")
        wait_for(lambda: heard, "control")
        self.assertLess(time.monotonic() - began, 1)
        thread.join(10)
        self.assertEqual((heard, len(work.dones)), ([b"x"], 1))
        os.close(read_fd)
        os.close(write_fd)

    def test_stop_during_a_long_backoff(self):
        read_fd, write_fd = os.pipe()

        def script(made):
            os.write(write_fd, b"x")
            raise OperationFailed("http_503", "slow down")

        def on_control():
            raise KeyboardInterrupt

        engine = Scripted(script, Retry(max_retries=3, initial_delay_s=60, max_delay_s=60))
        began = time.monotonic()
        with self.assertRaises(KeyboardInterrupt):
            engine.run(CountingWork([task(None, GET)]), 1, read_fd, on_control)
        self.assertLess(time.monotonic() - began, 5)
        os.close(read_fd)
        os.close(write_fd)


if __name__ == "__main__":
    unittest.main()
