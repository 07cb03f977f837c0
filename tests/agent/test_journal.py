"""The journal on a real disk, torn and full."""

import errno
import os
import tempfile
import threading
import time
import unittest
from unittest import mock

from sai3ssh.agent import journal as journal_module
from sai3ssh.agent.journal import Journal, add_counters
from sai3ssh.agent.tail import last_record
from sai3ssh.protocol import scan


def wait(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("condition did not come true")
        time.sleep(0.005)


class Base(unittest.TestCase):
    def setUp(self):
        self._directory = tempfile.TemporaryDirectory()
        self.addCleanup(self._directory.cleanup)
        self.path = os.path.join(self._directory.name, "journal.ndjson")

    def read(self):
        with open(self.path, "rb") as file:
            return file.read()


class Appending(Base):
    def test_what_a_killed_writer_left_is_on_disk_before_it_counts_as_committed(self):
        journal = Journal(self.path, boot="b00t")
        journal.append("notice", {"n": 1})
        size, _ = journal.close()
        synced = []
        with mock.patch.object(journal_module.os, "fdatasync", side_effect=lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}"))):
            again = Journal(self.path, boot="b00t")
            self.assertEqual(again.committed, size)
            self.assertEqual(synced, [os.path.realpath(self.path)])
            again.close()

    def test_records_are_numbered_whole_and_digested(self):
        import hashlib

        woken = threading.Event()
        journal = Journal(self.path, boot="b00t", wake=woken.set)
        for n in range(100):
            journal.append("notice", {"n": n})
        called = []
        journal.append("final", {"outcome": "finished"}, on_committed=lambda: called.append(1))
        self.assertTrue(journal.flush(5.0))
        self.assertTrue(woken.wait(5.0))
        wait(lambda: journal.committed == len(self.read()))
        for callback in journal.callbacks():
            callback()
        self.assertEqual(called, [1])
        self.assertEqual(journal.callbacks(), [])
        size, digest = journal.close()
        data = self.read()
        records, whole = scan(data)
        self.assertEqual((size, digest, whole), (len(data), hashlib.sha256(data).hexdigest(), len(data)))
        self.assertEqual([record["seq"] for record in records], list(range(101)))
        self.assertEqual(last_record(self.path), records[-1])
        with self.assertRaises(ValueError):
            journal.append("notice", {})

    def test_torn_tail_is_cut_and_numbering_goes_on(self):
        journal = Journal(self.path, boot="b")
        journal.append("epoch", {"epoch": "e"})
        journal.append("notice", {"text": "x" * 300})
        journal.close()
        whole = self.read()
        for cut in (1, 17, 200):
            with open(self.path, "wb") as file:
                file.write(whole[:-cut])
            self.assertIsNone(last_record(self.path))
            again = Journal(self.path, boot="b")
            self.assertEqual([record["kind"] for record in again.records], ["epoch"])
            self.assertGreater(again.truncated_bytes, 0)
            again.append("recovered", {})
            again.close()
            records, size = scan(self.read())
            self.assertEqual([record["seq"] for record in records], [0, 1])
            self.assertEqual(size, len(self.read()))


class FullDisk(Base):
    def setUp(self):
        super().setUp()
        self.full = False
        real = os.fdatasync

        def fdatasync(fd):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(fd)

        patches = [mock.patch.object(journal_module.os, "fdatasync", fdatasync), mock.patch.object(journal_module, "RETRY_S", 0.01)]
        for patch in patches:
            patch.start()
            self.addCleanup(patch.stop)

    def sec(self, n):
        return {
            "stage": 0, "second": n, "from_clock_ns": n, "to_clock_ns": n + 1, "warmup": False, "done": n, "host": {"cpu": [1, 2, 3, 4]},
            "ops": {"get": [2, 20, 200, 5, 6, 7, n]},
            "requests": {"get": 3}, "retries": {}, "retried": {}, "errors": {"get": {"http_503": 1}},
        }  # fmt: skip

    def test_nothing_is_lost_and_nothing_is_committed_meanwhile(self):
        journal = Journal(self.path, boot="b")
        journal.append("epoch", {"epoch": "e"})
        self.assertTrue(journal.flush(5))
        before = journal.committed
        self.full = True
        for n in range(50):
            journal.append("sec", self.sec(n))
        wait(lambda: journal.error is not None)
        self.assertEqual(journal.committed, before)
        self.assertFalse(journal.flush(0.05))
        self.full = False
        self.assertTrue(journal.flush(5))
        self.assertIsNone(journal.error)
        journal.close()
        records, size = scan(self.read())
        self.assertEqual([r.get("second") for r in records], [None, *range(50)])
        self.assertEqual(size, len(self.read()))

    def test_beyond_the_limit_seconds_become_one_gap_with_exact_totals(self):
        journal = Journal(self.path, boot="b")
        journal.append("epoch", {"epoch": "e"})
        self.assertTrue(journal.flush(5))
        self.full = True
        with mock.patch.object(journal_module, "PENDING_LIMIT", 4000):
            for n in range(200):
                journal.append("sec", self.sec(n))
                if n == 100:
                    journal.append("ledger", {"stage": 0, "population": "p", "ranges": [[0, 5]]})
        self.full = False
        self.assertTrue(journal.flush(5))
        journal.close()
        records, _ = scan(self.read())
        self.assertEqual([record["seq"] for record in records], list(range(len(records))))
        self.assertLess(len(records), 60)
        self.assertEqual(sum(record["kind"] == "ledger" for record in records), 1)
        total = None
        for record in records:
            if record["kind"] in ("sec", "gap"):
                total = record["ops"] if total is None else add_counters(total, record["ops"])
        self.assertEqual(total["get"][:3], [400, 4000, 40000])
        self.assertEqual(total["get"][6], 199)
        self.assertEqual(sum(r["errors"]["get"]["http_503"] for r in records if r["kind"] in ("sec", "gap")), 200)

    def test_what_is_being_written_counts_towards_the_limit(self):
        journal = Journal(self.path, boot="b")
        begun, go_on = threading.Event(), threading.Event()
        write = journal._write

        def hang(data):
            begun.set()
            go_on.wait(10)
            write(data)

        with mock.patch.object(journal_module, "PENDING_LIMIT", 4000), mock.patch.object(journal, "_write", hang):
            journal.append("sec", self.sec(0))
            self.assertTrue(begun.wait(10))
            for n in range(1, 100):
                journal.append("sec", self.sec(n))
            self.assertLess(journal._pending_bytes, 4001)
            go_on.set()
            self.assertTrue(journal.flush(10))
        self.assertEqual(journal._pending_bytes, 0, "a limit that folding has raised")
        journal.close()

    def test_reserve_is_refused_when_there_is_no_room(self):
        journal = Journal(self.path, boot="b")
        free = os.statvfs(self._directory.name)
        never = mock.patch("os.posix_fallocate", side_effect=AssertionError("it would fill the disk first"))
        with never, self.assertRaises(OSError) as caught:
            journal.reserve(free.f_frsize * free.f_bavail + (1 << 34))
        self.assertEqual(caught.exception.errno, errno.ENOSPC)
        with mock.patch("os.posix_fallocate", side_effect=OSError(errno.ENOSPC, "others were quicker")), self.assertRaises(OSError):
            journal.reserve(10_000)
        self.assertEqual(os.listdir(self._directory.name), ["journal.ndjson"])
        journal.reserve(10_000)
        self.assertEqual(sorted(os.listdir(self._directory.name)), ["journal.ndjson", "journal.ndjson.reserve"])
        journal.close()
        self.assertEqual(os.listdir(self._directory.name), ["journal.ndjson"])


if __name__ == "__main__":
    unittest.main()
