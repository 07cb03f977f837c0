"""One storage behind several endpoints: which of them operations go to, and what is counted where."""

import dataclasses
import os
import random
import socket
import tempfile
import unittest

from sai3ssh.agent import details, metrics
from sai3ssh.agent.details import DetailReader, DetailRecorder, Layout
from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, STAT, Root, Task
from sai3ssh.agent.engines.spread import Chooser, mapped
from sai3ssh.dataset import Content
from sai3ssh.errors import TargetError
from sai3ssh.histogram import Histogram
from sai3ssh.model import Multipart, OperationSpec, Plan, Ranges, Spread, Stage, StageKind, Target
from tests.agent.s3_server import CREDENTIALS, DEADLINES, QUICK, CountingWork, Server, error, response, task

CONTENT = Content(3)
URI = "s3://bucket/prefix/"


class PlacedWork(CountingWork):
    """Notes where what happened."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.places, self.retried_at, self.failed_at = [], [], []

    def done(self, task, end_ns, size_bytes):
        super().done(task, end_ns, size_bytes)
        self.places.append(task.endpoint)

    def retried(self, task, error_class, sent):
        super().retried(task, error_class, sent)
        self.retried_at.append(task.endpoint)

    def failed(self, task, end_ns, error_class, detail, sent):
        super().failed(task, end_ns, error_class, detail, sent)
        self.failed_at.append(task.endpoint)


class Choosing(unittest.TestCase):
    def test_in_turn_and_workers_begin_at_different_ones(self):
        spread = Spread((2, 5, 7))
        for offset, expected in ((0, [2, 5, 7, 2]), (1, [5, 7, 2, 5]), (5, [7, 2, 5, 7])):
            chooser = Chooser(spread, offset)
            self.assertEqual([chooser.choose() for _ in expected], expected)
        self.assertEqual([Chooser(spread).after(n) for n in (2, 5, 7)], [5, 7, 2])

    def test_where_the_fewest_are_in_flight(self):
        rng = random.Random(1)
        chooser = Chooser(Spread((1, 2, 4), "least_connections"), 2)
        running = []
        for _ in range(500):
            if running and rng.random() < 0.45:
                chooser.in_flight[running.pop(rng.randrange(len(running)))] -= 1
            before = [running.count(position) for position in (1, 2, 4)]
            running.append(chooser.choose())
            self.assertEqual(before[(1, 2, 4).index(running[-1])], min(before))
        self.assertEqual([chooser.in_flight[n] for n in (1, 2, 4)], [running.count(n) for n in (1, 2, 4)])
        # When all have as many none is preferred.
        chooser.reset()
        found = []
        for _ in range(6):
            found.append(chooser.choose())
            chooser.in_flight[found[-1]] -= 1
        self.assertEqual(found[:3], found[3:])
        self.assertEqual(set(found), {1, 2, 4})

    def test_mapping(self):
        endpoints = ("file:///mnt/a/", "file:///mnt/", "file:///x/")
        self.assertEqual(mapped("file:///mnt/a/b/", endpoints, 2), "file:///x/b/")
        self.assertEqual(mapped("file:///mnt/c/", endpoints, 0), "file:///mnt/a/c/")
        with self.assertRaisesRegex(ValueError, "below none of the endpoints"):
            mapped("file:///y/", endpoints, 0)


class Sent(unittest.TestCase):
    def engine(self, urls, spread=None, offset=0, uri=URI, **options):
        made = make_engine(Target("s3", endpoints=tuple(urls), **options), uri, CREDENTIALS, DEADLINES, QUICK, spread=spread, offset=offset)
        self.addCleanup(made.close)
        return made, made.root(uri)

    def perform(self, scripts, *tasks, concurrency=1, spread=None, **options):
        """The work after the tasks were performed against a server for each script (None: nobody listens), and the servers' requests."""
        servers = [Server(script) for script in scripts if script is not None]
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            found = iter(servers)
            refusing = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            engine, root = self.engine([next(found).url if script else refusing for script in scripts], spread, **options)
            self.under_test = engine
            work = PlacedWork(task(root, op, **keywords) for op, keywords in tasks)
            engine.run(work, concurrency)
            engine.close()
        for server in servers:
            server.__exit__()
            self.assertEqual(server.unsigned, [], "a signature was wrong")
        self.assertEqual(work.requests, sum(len(server.requests) for server in servers), (work.retries, work.failures))
        self.assertFalse(any(engine._chooser.in_flight))
        return work, [server.requests for server in servers]

    def test_each_in_turn(self):
        work, requests = self.perform([lambda c, r, n: response()] * 3, *[(STAT, {"key": str(n)}) for n in range(9)])
        self.assertEqual(work.places, [0, 1, 2] * 3)
        self.assertEqual([[r.path[-1] for r in mine] for mine in requests], [["0", "3", "6"], ["1", "4", "7"], ["2", "5", "8"]])

    def test_only_the_agents_own(self):
        work, requests = self.perform([None, lambda c, r, n: response(), None], (STAT, {}), (STAT, {}), spread=Spread((1,)))
        self.assertEqual((work.places, len(requests[0])), ([1, 1], 2))

    def test_an_attempt_is_made_again_at_the_next(self):
        for strategy in ("round_robin", "least_connections"):
            tasks = [(op, {"size": 0, "content": CONTENT}) for op in (GET, PUT, STAT, DELETE) for _ in range(3)]
            work, _ = self.perform([None, lambda c, r, n: response()], *tasks, spread=Spread((0, 1), strategy), concurrency=3)
            self.assertEqual(work.failures, [])
            self.assertEqual(set(work.places), {1})
            self.assertGreater(len(work.retried_at), 0)
            self.assertEqual(set(work.retried_at), {0})

    def test_what_fails_for_good_fails_where_it_was_last(self):
        work, _ = self.perform([None, lambda c, r, n: error(503, "SlowDown")], (STAT, {}), spread=Spread((0, 1), "least_connections"))
        self.assertEqual((work.retried_at, work.failed_at), ([0, 1], [0]))
        self.assertIn("(at http://127.0.0.1:", work.failures[0][2])

    def test_the_pages_of_a_list_are_of_one_endpoint_whatever_happens(self):
        def page(client, request, number):
            if number == 1:
                return error(503, "SlowDown")
            more = f"<NextContinuationToken>t{number}</NextContinuationToken><IsTruncated>true</IsTruncated>" if number < 3 else ""
            return response(f"<ListBucketResult>{more}</ListBucketResult>".encode())

        work, requests = self.perform([page, page], (LIST, {}))
        self.assertEqual((len(work.dones), [len(mine) for mine in requests]), (1, [4, 0]))

    def test_another_region_is_of_one_endpoint(self):
        def moved(client, request, number):
            if request.region != "eu-9":
                body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-9</Region></Error>"
                return response(body, 400, ("x-amz-bucket-region: eu-9",))
            return response()

        work, requests = self.perform([moved, lambda c, r, n: response()], *[(GET, {"size": 0})] * 6)
        self.assertEqual((work.failures, work.places), ([], [0, 1] * 3))
        self.assertEqual([[r.region for r in mine] for mine in requests], [["us-east-1", "eu-9", "eu-9", "eu-9"], ["us-east-1"] * 3])

    def test_virtual_hosts(self):
        with Server(lambda c, r, n: response()) as server:
            urls = [f"http://localhost:{server.port}/{path}" for path in ("", "x")]
            engine, root = self.engine(urls, path_style=False)
            for at in root.at.values():
                self.assertEqual(at.endpoint.name, f"bucket.localhost:{server.port}")
            self.assertEqual([at.path for at in root.at.values()], ["/prefix/", "/x/prefix/"])
            engine.close()

    def test_ranges_go_on_elsewhere_and_the_object_counts_where_it_began(self):
        body = CONTENT.piece(1, 3000, 0, 3000)

        def ranged(client, request, number):
            first, last = (int(text) for text in request.headers["range"].partition("=")[2].split("-"))
            return response(body[first : last + 1], 206, (f"Content-Range: bytes {first}-{last}/{len(body)}",))

        known = {"size": 3000, "index": 1, "content": CONTENT}
        for strategy in ("round_robin", "least_connections"):
            work, _ = self.perform(
                [None, ranged], (GET, known), (GET, known), spread=Spread((0, 1), strategy), ranges=Ranges(1000, 3, 2000), verify_reads=1.0
            )
            self.assertEqual((work.failures, sorted(work.places), work.retried_at), ([], [0, 1], [0, 0, 0]))

    def test_a_multipart_upload_goes_on_elsewhere(self):
        parts = {}

        def storage(client, request, number):
            if request.method == "POST" and request.query.startswith("uploads"):
                return response(b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
            if request.method == "POST":
                return response(b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")
            if number == 1:
                return error(503, "SlowDown")
            parts[request.query] = request.body
            return response(headers=('ETag: "e"',))

        size = 3 * 5 * 1024 * 1024
        put = {"size": size, "index": 1, "content": CONTENT}
        work, requests = self.perform([storage, storage], (PUT, put), multipart=Multipart(size, 5 * 1024 * 1024, 1))
        self.assertEqual((work.failures, work.places, work.retried_at, len(parts)), ([], [0], [0], 3))
        self.assertEqual([len(mine) for mine in requests], [5, 1])

    def test_check_asks_each(self):
        listed = b"<ListBucketResult></ListBucketResult>"
        with Server(lambda c, r, n: response(listed)) as good, Server(lambda c, r, n: error(404, "NoSuchBucket")) as bad:
            engine, _ = self.engine([good.url, good.url + "/x"])
            engine.check()
            self.assertEqual(len(good.requests), 2)
            engine, _ = self.engine([good.url, bad.url])
            with self.assertRaisesRegex(TargetError, bad.url):
                engine.check()

    def test_boto3_is_refused(self):
        with self.assertRaisesRegex(TargetError, "has one endpoint"):
            make_engine(Target("boto3", endpoints=("http://a", "http://b")), URI, CREDENTIALS, DEADLINES, QUICK)


class Files(unittest.TestCase):
    def test_each_mount_in_turn(self):
        for strategy in ("round_robin", "least_connections"):
            with tempfile.TemporaryDirectory() as directory:
                os.mkdir(os.path.join(directory, "tree"))
                for name in "ab":
                    os.symlink("tree", os.path.join(directory, name))
                target = Target("file", verify_reads=1.0, endpoints=tuple(f"file://{directory}/{name}/" for name in "ab"))
                uri = f"file://{directory}/b/data/"
                engine = make_engine(target, uri, None, DEADLINES, QUICK, spread=Spread((0, 1), strategy))
                engine.check(write=True)
                for op in (PUT, GET, STAT, LIST, DELETE):
                    keys = [{"size": 100, "index": n, "content": CONTENT, "key": str(n)} for n in range(4)]
                    work = PlacedWork(task(engine.root(uri), op, **(known if op != LIST else {"key": ""})) for known in keys)
                    engine.run(work, 2)
                    self.assertEqual((work.failures, len(work.places)), ([], 4), op)
                    if strategy == "round_robin":
                        self.assertEqual(sorted(work.places), [0, 0, 1, 1])
                work = PlacedWork([task(engine.root(uri), STAT)])
                engine.run(work, 1)
                self.assertEqual(work.failures[0][0], "not_found")
                self.assertFalse(any(engine._chooser.in_flight))

    def test_a_target_below_none(self):
        with self.assertRaisesRegex(TargetError, "below none"):
            make_engine(Target("file", endpoints=("file:///a/", "file:///b/")), "file:///c/", None, DEADLINES, QUICK)


MIX = Stage("mix", StageKind.EXECUTE, 4, 10.0, 2.0, tuple(OperationSpec(op, 1, "s3://b/") for op in ("get", "stat")))
PLAN = Plan("r", "r", Target("s3", endpoints=("a", "b", "c")), (), (MIX,), spreads=(Spread((0, 2)), Spread((1,))))


class Counted(unittest.TestCase):
    def test_what_is_counted_is_what_is_read(self):
        for plan in (PLAN, dataclasses.replace(PLAN, timing_splits=True)):
            layout = Layout(plan, MIX, 0)
            cells = memoryview(bytearray(layout.total * 8)).cast("Q")
            recorder, reader, rng = DetailRecorder(cells, layout), DetailReader(cells, layout), random.Random(1)
            recorder.warmup_until_ns = 5000
            found = [details.Details(), details.Details()]
            expected = {}
            for n in range(2000):
                made = Task(rng.choice([GET, STAT]), Root("s3://b/"), "k", 0, 0, None, rng.choice([0, 10_000]))
                made.endpoint = rng.choice([0, 2])
                latency, size = int(rng.lognormvariate(13, 4)), rng.choice([0, 1, 9000]) if made.op == GET else 0
                mine = expected.setdefault((int(made.start_ns < 5000), made.op, made.endpoint), [Histogram(), 0, 0, 0])
                what = rng.random()
                if what < 0.1:
                    recorder.failed(made, "reset", True)
                    mine[2] += 1
                elif what < 0.2:
                    recorder.retried(made, "http_503", True)
                    mine[3] += 1
                else:
                    made.split = (0, 0, 0, latency, 0) if plan.timing_splits else None
                    recorder.done(made, made.start_ns + latency, size)
                    mine[0].record(latency)
                    mine[1] += size
                if n % 300 == 299:
                    for phase in (0, 1):
                        found[phase].add(details.Details.from_json(reader.delta(phase).to_json()))
            for phase in (0, 1):
                found[phase].add(reader.delta(phase))
            for (phase, op, position), (histogram, size, errors, retries) in expected.items():
                count = found[phase].counts["endpoints", op, position]
                self.assertEqual((count.cells, count.sum_ns, count.max_ns), (histogram.cells, histogram.sum_ns, histogram.max_ns))
                self.assertEqual((count.bytes, count.errors, count.retries), (size, errors, retries))

    def test_an_agent_has_slots_for_its_own_only(self):
        self.assertEqual(len(Layout(PLAN, MIX, 0).keys), 4)
        self.assertEqual({key[2] for key in Layout(PLAN, MIX, 1).keys}, {1})
        self.assertEqual(Layout(dataclasses.replace(PLAN, target=Target("s3"), spreads=()), MIX, 0).total, metrics.TOTAL)


if __name__ == "__main__":
    unittest.main()
