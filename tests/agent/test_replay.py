"""The work of a replay stage: order, times, what waits for what, and where a successor goes on."""

import base64
import hashlib
import os
import tempfile
import unittest
from unittest import mock

from sai3ssh.agent import metrics, replay, traces
from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, Root
from sai3ssh.agent.replay import ReplayWork, Trace
from sai3ssh.agent.work import Fatal, Recorder
from sai3ssh.errors import AgentError, Transient
from sai3ssh.model import ErrorLimits, Plan, Replay, Stage, StageKind, Target
from sai3ssh.oplog import frame, pack, trace_name

MS = 1_000_000
BLOCK = 4


class FakeEngine:
    def root(self, uri):
        return Root(uri)


def write(path, rows):
    """`rows`: (ms, op, key) or (ms, op, key, bytes)."""
    with open(path, "wb") as file:
        for at in range(0, len(rows), BLOCK):
            records = [(op, "", key, *(rest or (5,)), ms * MS, ms * MS, -1, "", 0) for ms, op, key, *rest in rows[at : at + BLOCK]]
            block, earliest_ns = pack(records, 0, 0, 0)
            file.write(frame(block, len(records), earliest_ns))


class Case(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = temporary.name
        self.cells = memoryview(bytearray(metrics.TOTAL * 8)).cast("Q")
        self.notices = []

    def work(self, rows=None, speed=1.0, begin_ms=0, end_ms=1000, limits=None):
        if rows is not None:
            write(os.path.join(self.directory, trace_name(1, 2)), rows)
        spec = Replay("file:///t/", ("get",), 1, 1, 1, speed)
        work = ReplayWork(
            FakeEngine(),
            spec,
            self.directory,
            Recorder(self.cells),
            place=(1, 2),
            seed="s",
            limits=limits or ErrorLimits(0, 0.0),
            start_ns=0,
            begin_ns=begin_ms * MS,
            end_ns=end_ms * MS,
            notice=self.notices.append,
        )
        self.addCleanup(work.result)
        return work

    def keys(self, work, now_ms):
        """What begins now."""
        found = []
        while True:
            task = work.next(now_ms * MS)
            if task is None:
                return found
            found.append(task)


class Schedule(Case):
    def test_rows_begin_at_their_times_and_latency_counts_from_them(self):
        work = self.work([(0, GET, "a"), (10, PUT, "b", 77), (10, LIST, "c/"), (30, GET, "d")])
        first = self.keys(work, 0)
        self.assertEqual([(task.key, task.op, task.start_ns, task.size) for task in first], [("a", GET, 0, -1)])
        self.assertEqual(work.wake_ns, 10 * MS)
        second = self.keys(work, 15)
        self.assertEqual([(task.key, task.start_ns) for task in second], [("b", 10 * MS), ("c/", 10 * MS)])
        self.assertEqual((second[0].size, second[0].content is None, second[1].uri), (77, False, "file:///t/c/"))
        self.assertEqual(work.wake_ns, 30 * MS)

    def test_speed_divides_the_times(self):
        work = self.work([(0, GET, "a"), (40, GET, "b")], speed=4.0)
        self.keys(work, 0)
        self.assertEqual(work.wake_ns, 10 * MS)
        self.assertEqual([task.start_ns for task in self.keys(work, 10)], [10 * MS])

    def test_a_schedule_lasts_its_time_and_tells_what_had_not_begun(self):
        work = self.work([(0, GET, "a"), (1, PUT, "a"), (20, GET, "b")], end_ms=15)
        self.assertEqual(len(self.keys(work, 5)), 1)
        self.assertFalse(work.finished)
        self.assertEqual(self.keys(work, 15), [])
        self.assertTrue(work.finished)
        self.assertIn("2 operations had not begun", self.notices[0])

    def test_a_schedule_that_is_done_still_lasts_its_time(self):
        work = self.work([(0, GET, "a")], end_ms=15)
        (task,) = self.keys(work, 0)
        work.done(task, 1, 5)
        self.assertEqual((self.keys(work, 5), work.finished, work.wake_ns), ([], False, 15 * MS))
        self.assertEqual((self.keys(work, 15), work.finished, self.notices), ([], True, []))

    def test_without_a_speed_all_begin_at_once_and_the_last_ends_it(self):
        work = self.work([(n * 1000, GET, f"k{n}") for n in range(9)], speed=None)
        tasks = self.keys(work, 3)
        self.assertEqual(([task.key for task in tasks], work.finished), ([f"k{n}" for n in range(9)], True))
        self.assertEqual({task.start_ns for task in tasks}, {3 * MS})


class Order(Case):
    def test_reads_go_together_and_what_writes_goes_alone(self):
        rows = [(0, GET, "k"), (0, GET, "k"), (0, PUT, "k"), (0, GET, "k"), (0, GET, "k"), (0, DELETE, "k"), (0, GET, "other")]
        work = self.work(rows, speed=None)
        began = [self.keys(work, 0)]
        self.assertEqual([(task.op, task.key) for task in began[0]], [(GET, "k"), (GET, "k"), (GET, "other")])
        self.assertFalse(work.finished)
        for task, after in zip(began[0][:2], ([], [PUT])):
            work.done(task, 1, 5)
            began.append(self.keys(work, 1))
            self.assertEqual([task.op for task in began[-1]], after)
        work.done(began[-1][0], 2, 5)
        reads = self.keys(work, 2)
        self.assertEqual([task.op for task in reads], [GET, GET])
        work.failed(reads[0], 3, "not_found", "gone", True)
        self.assertEqual(self.keys(work, 3), [])
        work.done(reads[1], 3, 5)
        (last,) = self.keys(work, 4)
        self.assertEqual((last.op, work.finished), (DELETE, True))
        work.done(last, 5, 0)
        self.assertEqual(set(work._keys), {"other"})

    def test_what_waits_is_bounded(self):
        held, replay.HELD = replay.HELD, 3
        self.addCleanup(setattr, replay, "HELD", held)
        work = self.work([(0, PUT, "k")] * 9 + [(0, GET, "free")], speed=None)
        (first,) = self.keys(work, 0)
        self.assertEqual(work._waiting, 3)
        work.done(first, 1, 5)
        self.assertEqual(len(self.keys(work, 1)), 1)

    def test_errors_end_it_where_there_are_limits(self):
        work = self.work([(0, GET, "a"), (0, GET, "b")], speed=None, limits=ErrorLimits(1, 0.0))
        a, b = self.keys(work, 0)
        work.failed(a, 1, "not_found", "x", True)
        with self.assertRaises(Fatal):
            work.failed(b, 1, "not_found", "x", True)


class Successor(Case):
    ROWS = tuple((n * 10, GET, f"k{n}") for n in range(20))

    def test_without_a_speed_it_goes_on_behind_what_had_begun(self):
        self.work(self.ROWS, speed=None)
        first = self.work(speed=None)
        began = [first.next(0).key for _ in range(7)]
        self.assertEqual(began, [f"k{n}" for n in range(7)])
        second = self.work(speed=None)
        self.assertEqual([task.key for task in self.keys(second, 0)], [f"k{n}" for n in range(7, 20)])
        self.assertEqual(self.cells[metrics.NAMES], 20)

    def test_after_a_reboot_it_knows_from_the_disk_how_far_it_was(self):
        first = self.work(self.ROWS, speed=None)
        for _ in range(5):
            first.next(0)
        self.assertEqual(first.take_finished(), {})
        self.cells[metrics.NAMES] = 0
        self.assertEqual(self.work(speed=None).next(0).key, "k5")

    def test_of_a_schedule_it_leaves_out_what_was_due_meanwhile(self):
        first = self.work(self.ROWS)
        self.assertEqual(len(self.keys(first, 25)), 3)
        second = self.work(begin_ms=95)
        self.assertEqual([task.key for task in self.keys(second, 100)], ["k10"])
        self.assertIn("7 operations were due while nobody was there", self.notices[0])
        self.assertEqual(self.cells[metrics.NAMES], 11)

    def test_the_first_one_leaves_out_nothing_even_if_it_begins_on_the_dot(self):
        self.assertEqual(len(self.keys(self.work(self.ROWS), 0)), 1)
        self.assertEqual(self.notices, [])

    def test_frames_that_are_left_out_are_not_unpacked(self):
        write(os.path.join(self.directory, "t"), self.ROWS)
        trace = Trace(os.path.join(self.directory, "t"))
        self.addCleanup(trace.close)
        with mock.patch.object(replay, "unpack", wraps=replay.unpack) as unpacked:
            self.assertEqual((trace.skip(9, 0), trace.peek()[2], trace.rest()), (9, "k9", 11))
        self.assertEqual(unpacked.call_count, 1)
        other = Trace(os.path.join(self.directory, "t"))
        self.addCleanup(other.close)
        self.assertEqual((other.skip(0, 10**12), other.peek(), other.rest()), (20, None, 0))


class Uploads(Case):
    def take(self, **message):
        return traces.take(self.directory, {"run_id": "r", "agent_id": "a", "name": trace_name(0, 0), **message})

    def test_a_file_comes_in_pieces_and_becomes_the_runs(self):
        plan = Plan("r", "n", Target("file"), (), (Stage("s", StageKind.REPLAY, 1, replay=Replay("file:///t/", (), 0, 0, 0)),), workers=1)
        with self.assertRaises(Transient):
            traces.check(self.directory, plan, "a")
        self.assertEqual(self.take(), {"have": 0})
        piece = base64.b64encode(b"12345").decode()
        self.assertEqual(self.take(offset=0, data=piece), {"have": 5})
        self.assertEqual(self.take(offset=0, data=piece), {"have": 5})
        self.assertEqual(self.take(offset=5, data=piece), {"have": 10})
        digest = hashlib.sha256(b"1234512345").hexdigest()
        self.take(sha256=digest)
        traces.check(self.directory, plan, "a")
        run = os.path.join(self.directory, "runs", "r", "a")
        os.makedirs(run)
        traces.move(self.directory, "r", "a", run)
        self.assertEqual(os.listdir(run), [trace_name(0, 0)])
        self.assertEqual(os.listdir(os.path.join(self.directory, traces.DIRECTORY)), [])
        # A daemon that dies now has a directory that is no run: the files are sent again.
        self.assertEqual(self.take(), {"have": 0})
        open(os.path.join(run, "plan.json"), "w").close()
        # An answer that was lost is asked for again.
        self.assertEqual(self.take(sha256=digest), {"have": 10})

    def test_what_arrives_altered_is_sent_again(self):
        self.take(offset=0, data=base64.b64encode(b"x").decode())
        with self.assertRaises(Transient):
            self.take(sha256=hashlib.sha256(b"y").hexdigest())
        self.assertEqual(self.take(), {"have": 0})

    def test_names_lead_nowhere_else(self):
        for name in ("../x", "plan.json", ""):
            with self.assertRaises(AgentError):
                self.take(name=name)


if __name__ == "__main__":
    unittest.main()
