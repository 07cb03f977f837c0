"""The op-log of a worker: what is packed comes out again, and what the disk does not take is counted."""

import io
import os
import tempfile
import threading
import unittest
from unittest import mock

from sai3ssh.agent import metrics, oplog
from sai3ssh.agent.details import Layout
from sai3ssh.agent.engines.base import GET, LIST, PUT, Root, Task
from sai3ssh.agent.oplog import BLOCK, LoggedRecorder, OpLog
from sai3ssh.model import OperationSpec, Plan, Stage, StageKind, Target
from sai3ssh.oplog import SEGMENT, frame, frames, pack, segment_name, unpack

URI = "file:///d/"


def record(n, op=GET, error="", first=-1, listed=0, uri=URI):
    return (op, uri, f"k{n}", 10 + n, 1000 + n, 2000 + n, first, error, listed)


def rows_of(data):
    """Every row of a segment."""
    file = io.BytesIO(data)
    found = []
    for one in list(frames(file, len(data))):
        file.seek(one.offset)
        found += unpack(file.read(one.length), one)
    return found


class Format(unittest.TestCase):
    def test_what_is_packed_comes_out_again(self):
        records = [
            record(1),
            record(2, PUT, "http_503"),
            record(3, LIST, listed=77, uri="s3://b/x/"),
            (GET, URI, "\u00e4 b", 0, 5, 9, 7, "", 0),
        ]
        block, earliest_ns = pack(records, 10**18, 3, 4)
        self.assertEqual(earliest_ns, 10**18 + 5)
        first, second, third, fourth = rows_of(frame(block, 4, earliest_ns))
        self.assertEqual(first, (10**18 + 1001, "get", URI, "k1", 11, 10**18 + 2001, -1, "", 0, 3, 4))
        self.assertEqual((second.op, second.error, second.first_byte_ns), ("put", "http_503", -1))
        self.assertEqual((third.op, third.uri, third.listed), ("list", "s3://b/x/", 77))
        self.assertEqual((fourth.key, fourth.first_byte_ns, fourth.end_ns), ("\u00e4 b", 10**18 + 7, 10**18 + 9))

    def test_a_torn_end_costs_only_itself(self):
        block, earliest_ns = pack([record(n) for n in range(9)], 0, 0, 0)
        whole = frame(block, 9, earliest_ns)
        for cut in (1, 10, len(whole) - 1):
            self.assertEqual(len(rows_of(whole + whole[:cut])), 9)

    def test_altered_bytes_are_found(self):
        block, earliest_ns = pack([record(1)], 0, 0, 0)
        data = bytearray(frame(block, 1, earliest_ns))
        data[-3] ^= 1
        with self.assertRaises(ValueError):
            rows_of(bytes(data))
        self.assertEqual(rows_of(b"\0" * 100), [])


class Writing(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = temporary.name

    def log(self, max_bytes=1 << 30, **place):
        return OpLog(self.directory, place.get("stage", 0), place.get("worker", 0), 0, max_bytes)

    def names(self):
        return sorted(os.listdir(self.directory))

    def rows(self):
        found = []
        for name in self.names():
            with open(os.path.join(self.directory, name), "rb") as file:
                found += rows_of(file.read())
        return found

    def fill(self, log, count):
        for n in range(count):
            log.records.append(record(n))
            if len(log.records) >= BLOCK:
                log.flush()

    def test_all_that_is_recorded_is_on_the_disk_after_close(self):
        log = self.log()
        self.fill(log, 2 * BLOCK + 5)
        self.assertEqual(log.close(), {"written": 2 * BLOCK + 5, "dropped": 0, "why": ""})
        self.assertEqual([row.key for row in self.rows()], [f"k{n}" for n in range(2 * BLOCK + 5)])
        self.assertIsNone(log.complaint())

    def test_segments_are_rotated_and_none_is_overwritten(self):
        with mock.patch.object(oplog, "SEGMENT_BYTES", 1):
            for _ in range(2):
                log = self.log(stage=2, worker=7)
                self.fill(log, 2 * BLOCK)
                log.close()
        self.assertEqual(self.names(), [segment_name(2, 7, 0, n) for n in range(4)])
        self.assertTrue(all(SEGMENT.fullmatch(name) for name in self.names()))
        self.assertEqual(len(self.rows()), 4 * BLOCK)

    def test_a_stage_without_operations_leaves_no_file(self):
        self.assertEqual(self.log().close()["written"], 0)
        self.assertEqual(self.names(), [])

    def test_the_limit_counts_what_earlier_stages_wrote_and_what_is_beyond_is_told(self):
        log = self.log()
        self.fill(log, BLOCK)
        log.close()
        size = os.path.getsize(os.path.join(self.directory, self.names()[0]))
        log = self.log(int(2.5 * size), stage=1)
        self.fill(log, 3 * BLOCK)
        closed = log.close()
        self.assertEqual((closed["written"], closed["dropped"]), (BLOCK, 2 * BLOCK))
        self.assertIn("op_log_max_bytes", closed["why"])
        self.assertIn("op_log_max_bytes", log.complaint())
        self.assertIsNone(log.complaint())
        self.assertEqual(len(self.rows()), 2 * BLOCK)
        self.assertEqual(self.log(int(2.5 * size), worker=1)._left, int(2.5 * size))

    def test_a_disk_that_is_full_costs_records_and_nothing_else(self):
        with mock.patch.object(oplog, "KEEP_FREE_BYTES", 1 << 60):
            log = self.log()
            self.fill(log, BLOCK)
            closed = log.close()
        self.assertEqual((closed["written"], closed["dropped"]), (0, BLOCK))
        self.assertIn("the disk is full", closed["why"])

    def test_a_write_that_fails_half_way_leaves_whole_frames(self):
        log = self.log()
        write, calls = os.write, []

        def short(fd, data):
            calls.append(len(data))
            if len(calls) == 2:
                return write(fd, data[: len(data) // 2])
            if len(calls) == 3:
                raise OSError(28, "No space left on device")
            return write(fd, data)

        with mock.patch.object(oplog.os, "write", short):
            self.fill(log, 3 * BLOCK)
            closed = log.close()
        self.assertEqual((closed["written"], closed["dropped"]), (2 * BLOCK, BLOCK))
        self.assertIn("No space left", closed["why"])
        self.assertEqual([row.key for row in self.rows()], [f"k{n}" for n in [*range(BLOCK), *range(2 * BLOCK, 3 * BLOCK)]])

    def test_a_disk_that_is_too_slow_keeps_nobody_and_no_memory(self):
        gate = threading.Event()
        log = self.log()
        self.addCleanup(lambda: log._thread.join())
        self.addCleanup(gate.set)
        write = log._write

        def slow(data):
            gate.wait()
            return write(data)

        log._write = slow
        with mock.patch.object(oplog, "CLOSE_S", 0.01):
            self.fill(log, (oplog.WAITING + 3) * BLOCK)
            self.assertEqual(len(log._blocks), oplog.WAITING)
            self.assertIn("too slow", log.complaint())
            closed = log.close()
        self.assertEqual((closed["written"], closed["dropped"]), (0, (oplog.WAITING + 3) * BLOCK))

    def test_the_recorder_logs_what_it_counts(self):
        stage = Stage("s", StageKind.EXECUTE, 1, operations=(OperationSpec("get", 1, URI), OperationSpec("put", 1, URI)))
        layout = Layout(Plan("r", "r", Target("s3"), (), (stage,), timing_splits=True), stage, 0)
        cells = memoryview(bytearray(layout.total * 8)).cast("Q")
        log = self.log()
        recorder = LoggedRecorder(cells, layout, log)
        root = Root(URI)
        for n in range(BLOCK + 1):
            recorder.done(Task(GET, root, f"k{n}", 7, n, None, 100), 300, 7)
        split = Task(GET, root, "split", 7, 0, None, 100)
        split.split = (1, 2, 3, 4, 50)
        recorder.done(split, 400, 7)
        recorder.failed(Task(PUT, root, "bad", 9, 0, None, 100), "http_503", True)
        closed = log.close()
        reader = metrics.Reader(cells)
        self.assertEqual(closed["written"], reader.completed(GET) + 1)
        *many, with_split, failed = self.rows()
        self.assertEqual({(row.end_ns - row.start_ns, row.bytes, row.first_byte_ns, row.error) for row in many}, {(200, 7, -1, "")})
        self.assertEqual(with_split.end_ns - with_split.first_byte_ns, 50)
        self.assertEqual((failed.key, failed.bytes, failed.error, failed.op), ("bad", 9, "http_503", "put"))


if __name__ == "__main__":
    unittest.main()
