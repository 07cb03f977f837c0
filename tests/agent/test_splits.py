"""Where the latency of operations went: measured by the engine, counted by the worker, told by the supervisor."""

import os
import random
import ssl
import subprocess
import tempfile
import time
import unittest

from sai3ssh import compact
from sai3ssh.agent import details, metrics
from sai3ssh.agent.details import FIRST_BYTE, QUEUE, TRANSFER, DetailReader, DetailRecorder, Layout
from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, STAT, Root, Task
from sai3ssh.agent.recovery import replay
from sai3ssh.agent.stage import Published
from sai3ssh.agent.work import Recorder
from sai3ssh.dataset import Content
from sai3ssh.histogram import Histogram
from sai3ssh.model import OPERATIONS, SPLIT_PARTS, OperationSpec, Plan, Ranges, Stage, StageKind, Target
from tests.agent.s3_server import CREDENTIALS, DEADLINES, QUICK, CountingWork, Server, error, response, target, task, wait_for

CONTENT = Content(3)
MS = 1_000_000
MIX = Stage("mix", StageKind.EXECUTE, 4, 10.0, 2.0, tuple(OperationSpec(op, 1, "s3://b/") for op in ("get", "list")))
PLAN = Plan("r", "r", Target("s3"), (), (MIX,), timing_splits=True)


class SplitWork(CountingWork):
    """Notes the splits, and that each is whole."""

    def __init__(self, tasks, backlog_ns=0):
        super().__init__(tasks)
        self.splits = []
        self.backlog_ns = backlog_ns

    def next(self, now_ns):
        return super().next(now_ns - self.backlog_ns)

    def done(self, task, end_ns, size_bytes):
        super().done(task, end_ns, size_bytes)
        self.splits.append(task.split)
        if task.split is not None:
            assert sum(task.split) == end_ns - task.start_ns and min(task.split) >= 0, (task.split, end_ns - task.start_ns)


class Measured(unittest.TestCase):
    def perform(self, script, *tasks, context=None, retry=QUICK, backlog_ns=0, concurrency=1, splits=True, **options):
        with Server(script, context=context) as server:
            engine = make_engine(target(server, **options), "s3://bucket/", CREDENTIALS, DEADLINES, retry)
            self.addCleanup(engine.close)
            engine.splits, self.under_test = splits, engine
            root = engine.root("s3://bucket/")
            work = SplitWork([task(root, op, **keywords) for op, keywords in tasks], backlog_ns)
            engine.run(work, concurrency)
            engine.close()
        self.assertEqual(work.failures, [])
        return work

    def wait_until_begun(self):
        """Until the engine has seen the first byte; when it does so is its own affair."""
        wait_for(lambda: any(connection.first_ns for connection in self.under_test._connections.values()), "the first byte")

    def test_each_operation_and_only_the_first_connects(self):
        def script(client, request, number):
            page = b"<ListBucketResult></ListBucketResult>"
            return response(page if request.query else CONTENT.piece(1, 4096, 0, 4096) if request.method == "GET" else b"")

        known = {"size": 4096, "index": 1, "content": CONTENT}
        kinds = ((PUT, known), (GET, known), (LIST, {}), (STAT, {}), (DELETE, {}))
        for share in (0.0, 1.0):
            work = self.perform(script, *kinds, verify_reads=share)
            self.assertEqual(len(work.splits), len(kinds))
            self.assertGreater(work.splits[0][1], 0)
            self.assertEqual([split[1:3] for split in work.splits[1:]], [(0, 0)] * 4)
            self.assertTrue(all(split[FIRST_BYTE] > 0 for split in work.splits))
            # What is compared after it has come is no part of the wait for it.
            self.assertEqual(work.splits[1][TRANSFER] > 0, bool(share))

    def test_a_late_first_byte_and_a_body_that_drips(self):
        def script(client, request, number):
            time.sleep(0.05)
            body = bytes(600)
            client.sendall(response(body)[:-300])
            self.wait_until_begun()
            time.sleep(0.05)
            return body[-300:]

        for share in (0.0, 1.0):
            work = self.perform(script, (GET, {"size": 600, "content": Content(1, "zero")}), verify_reads=share)
            (split,) = work.splits
            self.assertGreaterEqual(split[FIRST_BYTE], 50 * MS)
            self.assertGreaterEqual(split[TRANSFER], 50 * MS)

    def test_a_head_that_drips_has_begun(self):
        def script(client, request, number):
            client.sendall(b"HTTP/1.1 200")
            self.wait_until_begun()
            time.sleep(0.05)
            return response()[len(b"HTTP/1.1 200") :]

        (split,) = self.perform(script, (STAT, {})).splits
        self.assertGreaterEqual(split[TRANSFER], 50 * MS)

    def test_attempts_that_failed_and_backlog_are_queue(self):
        def script(client, request, number):
            if number == 0:
                time.sleep(0.05)
                return error(503, "SlowDown")
            return response()

        (split,) = self.perform(script, (GET, {}), backlog_ns=30 * MS).splits
        self.assertGreaterEqual(split[QUEUE], 80 * MS)
        # The connection was opened for the attempt that failed.
        self.assertEqual(split[1:3], (0, 0))

    def test_a_connection_that_served_an_error_in_pieces_leaves_nothing_behind(self):
        def script(client, request, number):
            if number == 0:
                data = error(404, "NoSuchKey")
                client.sendall(data[:-10])
                time.sleep(0.01)
                return data[-10:]
            return response()

        with Server(script) as server:
            engine = make_engine(target(server), "s3://bucket/", CREDENTIALS, DEADLINES, QUICK)
            self.addCleanup(engine.close)
            engine.splits = True
            work = SplitWork([task(engine.root("s3://bucket/"), op) for op in (GET, STAT)])
            engine.run(work, 1)
        self.assertEqual((len(work.failures), len(work.splits)), (1, 1))
        self.assertEqual((work.splits[0][1], work.splits[0][TRANSFER]), (0, 0))

    def test_pages_add_up(self):
        def script(client, request, number):
            time.sleep(0.02)
            more = f"<NextContinuationToken>t{number}</NextContinuationToken><IsTruncated>true</IsTruncated>" if number < 3 else ""
            if number == 1:
                return error(503, "SlowDown")
            return response(f"<ListBucketResult>{more}</ListBucketResult>".encode())

        (split,) = self.perform(script, (LIST, {})).splits
        self.assertGreaterEqual(split[FIRST_BYTE], 60 * MS)
        self.assertGreaterEqual(split[QUEUE], 20 * MS)

    def test_tls(self):
        with tempfile.TemporaryDirectory() as directory:
            name = os.path.join(directory, "pem")
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name + ".key",
                 "-out", name, "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
                check=True, capture_output=True,
            )  # fmt: skip
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(name, name + ".key")
            body = bytes(300_000)
            work = self.perform(
                lambda c, r, n: response(body if r.method == "GET" else b""), (STAT, {}), (GET, {"size": len(body)}), (STAT, {}),
                context=context, ca_file=name,
            )  # fmt: skip
        self.assertGreater(min(work.splits[0][1:3]), 0)
        self.assertEqual([split[1:3] for split in work.splits[1:]], [(0, 0)] * 2)
        self.assertEqual([split[TRANSFER] > 0 for split in work.splits], [False, True, False])

    def test_not_known(self):
        body = bytes(3000)

        def script(client, request, number):
            asked = request.headers.get("range")
            if asked is None:
                return response(body[:1])
            first, last = (int(text) for text in asked.partition("=")[2].split("-"))
            headers = (f"Content-Range: bytes {first}-{last}/{len(body)}",)
            return response(body[first : last + 1], 206, headers)

        work = self.perform(script, (GET, {"size": 3000}), (GET, {"size": 1}), ranges=Ranges(1000, 3, 2000))
        self.assertEqual([split is None for split in work.splits], [True, False])
        self.assertEqual(self.perform(script, (GET, {"size": 1}), splits=False).splits, [None])


class Counted(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.layout = Layout(PLAN, MIX, 0)
        self.paths = [os.path.join(directory.name, str(n)) for n in range(2)]
        self.cells = [metrics.create(path, self.layout.total) for path in self.paths]

    def operations(self, recorder, rng, expected, count=300):
        """Counts operations, and what is expected of their parts by (phase, operation, part)."""
        recorder.warmup_until_ns = 5000
        for _ in range(count):
            made = Task(rng.choice([GET, LIST]), Root("s3://b/"), "k", 0, 0, None, rng.choice([0, 10_000]))
            split = tuple(rng.choice([0, 0, 999, 1000, 1001, int(rng.lognormvariate(13, 4)), 10**14]) for _ in SPLIT_PARTS)
            if rng.random() < 0.5:
                split = (0, 0, 0, split[FIRST_BYTE], 0)
            made.split = rng.choice([None, split, split])
            recorder.done(made, made.start_ns + sum(split), 0)
            for part, value in enumerate(made.split or ()):
                if part == FIRST_BYTE or value >= details.LEAST_NS:
                    key = int(made.start_ns < 5000), made.op, part
                    expected.setdefault(key, Histogram()).record(value)

    def check(self, phase, found, expected):
        wanted = {key[1:]: histogram for key, histogram in expected.items() if key[0] == phase}
        self.assertEqual({key[1:] for key in found.counts}, set(wanted))
        for key, histogram in wanted.items():
            count = found.counts[("splits", *key)]
            self.assertEqual((count.cells, count.sum_ns), (histogram.cells, histogram.sum_ns))

    def test_what_is_counted_is_what_is_read(self):
        rng = random.Random(1)
        recorders = [DetailRecorder(cells, self.layout) for cells in self.cells]
        readers = [DetailReader(metrics.attach(path), self.layout) for path in self.paths]
        expected, got = {}, [details.Details(), details.Details()]
        for _ in range(5):
            for recorder in recorders:
                self.operations(recorder, rng, expected)
            for phase in (0, 1):
                got[phase].add(details.Details.from_json(details.total(readers, phase).to_json()))
        for phase in (0, 1):
            self.check(phase, got[phase], expected)
            self.assertFalse(details.total(readers, phase))

    def test_latencies_are_counted_as_without(self):
        plain = memoryview(bytearray(metrics.TOTAL * 8)).cast("Q")
        for recorder in (Recorder(plain), DetailRecorder(self.cells[0], self.layout)):
            recorder.warmup_until_ns, recorder.tail_from_ns = 5000, 1_000_000
            rng = random.Random(2)
            for _ in range(3000):
                op = rng.randrange(len(OPERATIONS))
                made = Task(op, Root("s3://b/"), "k", 0, 0, None, rng.choice([0, 10_000]))
                size = rng.choice([0, 1, 9000, 1 << 40]) if op in (GET, PUT) else 0
                recorder.done(made, made.start_ns + rng.choice([-1, 0, 999, 1000, 1001, int(rng.lognormvariate(13, 4)), 10**14]), size)
        self.assertEqual(plain.tobytes(), self.cells[0][: metrics.TOTAL].tobytes())
        self.assertFalse(any(self.cells[0][metrics.TOTAL :]))

    def test_a_supervisor_that_takes_over_tells_the_rest_once(self):
        rng = random.Random(3)
        recorders = [DetailRecorder(cells, self.layout) for cells in self.cells]
        expected, records = {}, []

        def published():
            cells = [metrics.attach(path) for path in self.paths]
            return Published(MIX, 0, [metrics.Reader(c) for c in cells], 0, [DetailReader(c, self.layout) for c in cells])

        def journal(told):
            records.extend({"kind": kind, **fields} for kind, fields in told)

        first = published()
        for told in (first.histograms, list):
            for recorder in recorders:
                self.operations(recorder, rng, expected)
            first.second(1)
            journal(told())
        second = published()
        journal(second.resume(replay([r for r in records if r["kind"] == "hist"]), 1, 2, "the supervisor died"))
        self.operations(recorders[0], rng, expected)
        second.second(3)
        journal(second.histograms())
        for phase in (0, 1):
            found = details.Details()
            for record in records:
                if record["kind"] == "hist" and record.get("warmup", False) == bool(phase):
                    found.add(details.Details.from_json(compact.unpack(record)))
            self.check(phase, found, expected)

    def test_a_file_that_is_too_short(self):
        with self.assertRaisesRegex(ValueError, "metrics file of"):
            DetailReader(self.cells[0][:-1], self.layout)


class Laid(unittest.TestCase):
    def test_only_what_the_stage_needs(self):
        prepare = Stage("p", StageKind.PREPARE, 4)
        self.assertEqual(Layout(Plan("r", "r", Target("s3"), (), ()), MIX, 0).total, metrics.TOTAL)
        self.assertEqual({key[1] for key in Layout(PLAN, MIX, 0).keys}, {GET, LIST})
        self.assertEqual({key[1] for key in Layout(PLAN, prepare, 0).keys}, {PUT})
        for stage in (MIX, prepare):
            layout = Layout(PLAN, stage, 0)
            places = [layout.at(phase, key) for phase in range(layout.phases) for key in layout.keys]
            self.assertEqual(sorted(places), list(range(metrics.TOTAL, layout.total, details.SLOT)))


if __name__ == "__main__":
    unittest.main()
