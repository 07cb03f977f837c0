"""Large objects that the native S3 engine moves in parts, against servers that misbehave."""

import hashlib
import html
import os
import re
import threading
import time
import unittest
import urllib.parse

from sai3ssh.agent.engines.base import GET, PUT, STAT
from sai3ssh.agent.engines.parts import Slice
from sai3ssh.agent.engines.upload import Upload
from sai3ssh.dataset import PIECE, Content
from sai3ssh.model import Deadlines, Multipart, Ranges, Retry
from tests.agent.s3_server import CountingWork, Server, error, response, task, wait_for
from tests.agent.test_engine_s3 import Case

CONTENT = Content(3)
SIZE = 95_000
"""Ten ranges, the last one shorter."""
DATA = CONTENT.piece(1, SIZE, 0, SIZE)
MULTIPART = Multipart(50_000, 10_000, 3)
OBJECT = {"size": SIZE, "index": 1, "content": CONTENT}


def span(request):
    """The first and last byte that a request asks for."""
    first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["range"]).groups()
    return int(first), int(last)


def part(request, data=DATA, given=None):
    """What a well server answers to a GET of a range."""
    first, last = span(request)
    return response(data[first : last + 1], 206, [f"Content-Range: {given or f'bytes {first}-{last}/{len(data)}'}"])


class SliceTest(unittest.TestCase):
    def test_is_a_part_of_the_object(self):
        for content in (CONTENT, Content(7, dedup_factor=2.0, compress_factor=3.0), Content(7, "zero")):
            self.check(content)

    def check(self, content):
        size = 3 * PIECE
        whole = b"".join(content.piece(5, size, at, PIECE) for at in range(0, size, PIECE))
        for start, length in ((0, size), (4096, PIECE + 10), (5000, PIECE + 4097), (size - 1, 1)):
            cut = Slice(content, start)
            wanted = whole[start : start + length]
            self.assertEqual(b"".join(cut.piece(5, length, at, 70_000) for at in range(0, length, 70_000)), wanted)
            self.assertEqual(cut.head(5, length), wanted[:PIECE])
            buffer, filled = bytearray(PIECE), b""
            while len(filled) < length:
                filled += buffer[: cut.piece_into(buffer, 5, length, len(filled))]
            self.assertEqual(filled, wanted)
            self.assertTrue(cut.matches(5, length, 0, wanted))
            self.assertFalse(cut.matches(5, length, 0, wanted[:-1] + bytes([wanted[-1] ^ 1])))


class RangesTest(Case):
    def test_a_share_of_the_operations_is_compared_and_all_of_one_or_nothing(self):
        wrong = bytearray(DATA)
        wrong[-1] ^= 1  # in the last range
        tasks = [(GET, OBJECT)] * 4
        work, _ = self.get(lambda c, r, n: part(r, bytes(wrong)), *tasks, verify_reads=0.5)
        self.assertEqual((self.classes(work), len(work.dones)), (["verify"] * 2, 2))

    def get(self, script, *tasks, at_once=3, timeout_s=30.0, **options):
        """Performs GETs, in ranges of 10,000 bytes, and sees to it that nothing is left of them."""
        ranges = Ranges(10_000, at_once, 50_000, timeout_s)
        options = {"verify_reads": True, "ranges": ranges, **options}
        with Server(script) as server:
            engine, root = self.engine(server, **options)
            work = CountingWork(task(root, op, **keywords) for op, keywords in tasks or ((GET, OBJECT),))
            engine.run(work, 1)
            self.assertEqual([c for c in engine._connections.values() if c.task is not None], [])
            self.assertEqual((engine._in_flight, engine._waiting), (0, []))
            idle = [connection for endpoint in engine._map.endpoints.values() for connection in endpoint.idle]
            self.assertEqual(sorted(map(id, engine._connections.values())), sorted(map(id, idle)))
            # The server may still have to take a request of a connection that was given up.
            wait_for(lambda: len(server.requests) >= work.requests, f"request {work.requests}")
        self.assertEqual(server.unsigned, [])
        self.assertEqual(work.requests, len(server.requests), (work.retries, work.failures, work.pages))
        return work, server

    def test_ranges_in_parallel(self):
        three = threading.Barrier(3)

        def script(client, request, number):
            if number < 9:
                three.wait(10)
            return part(request)

        work, server = self.get(script)
        self.assertEqual((work.failures, work.retries, work.bytes, len(work.dones), work.pages), ([], [], SIZE, 1, 9))
        self.assertEqual(sorted(map(span, server.requests)), [(at, min(at + 9_999, SIZE - 1)) for at in range(0, SIZE, 10_000)])
        self.assertEqual(server.connections, 3)

    def test_latency_is_that_of_the_last_byte(self):
        others, times = threading.Semaphore(0), []

        def script(client, request, number):
            if number == 0:
                times.append(time.perf_counter_ns())
            if span(request)[0] == 20_000:
                for _ in range(9):
                    others.acquire(timeout=10)
                times.append(time.perf_counter_ns())
            others.release()
            return part(request)

        work, _ = self.get(script)
        self.assertEqual((len(work.dones), work.failures), (1, []))
        self.assertGreater(work.latencies_ns[0], times[1] - times[0])

    def test_small_objects_and_other_operations_stay_whole(self):
        small = {"size": 49_999, "index": 1, "content": CONTENT}
        body = CONTENT.piece(1, 49_999, 0, 49_999)
        work, server = self.get(
            lambda c, r, n: response(body if r.method == "GET" else b""), (GET, small), (STAT, {"size": -1}), (GET, {"size": -1})
        )
        self.assertEqual((work.failures, work.pages, len(work.dones)), ([], 0, 3))
        self.assertEqual([r.headers.get("range") for r in server.requests], [None] * 3)

    def test_an_object_of_one_range(self):
        work, server = self.get(lambda c, r, n: part(r), ranges=Ranges(1 << 20, 4, 10))
        self.assertEqual((work.failures, work.pages, [span(r) for r in server.requests]), ([], 0, [(0, SIZE - 1)]))

    def test_a_server_that_ignores_range(self):
        for ranges in (Ranges(10_000, 3, 50_000), Ranges(1 << 20, 3, 50_000)):
            for answer in (response(DATA), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n17318\r\n" + DATA + b"\r\n0\r\n\r\n"):
                work, _ = self.get(lambda c, r, n, answer=answer: answer, ranges=ranges)
                self.assertEqual((self.classes(work), work.dones, work.bytes, work.retries), (["protocol"], [], 0, []))
                self.assertIn("HTTP 200 to a GET of a range, expected 206", work.failures[0][2])

    def test_answers_that_are_not_the_range(self):
        for given, error_class, detail in (
            ("bytes 0-9999/95001", "verify", "the object has 95001 bytes, expected 95000"),
            ("bytes 1-10000/95000", "protocol", "asked for bytes 0-9999, Content-Range is bytes 1-10000/95000"),
            ("bytes 0-9999", "protocol", "expected bytes first-last/size"),
            ("octets 0-9999/95000", "protocol", "expected bytes first-last/size"),
            ("bytes 0-9999/*x", "protocol", "expected bytes first-last/size"),
        ):
            work, _ = self.get(lambda c, r, n, given=given: part(r, given=given), at_once=1)
            self.assertEqual((self.classes(work), work.bytes), ([error_class], 0), given)
            self.assertIn(detail, work.failures[0][2])
        for status, body, headers, detail in (
            (206, DATA[:10_000], [], "expected bytes first-last/size"),
            (206, DATA[:9_999], ["Content-Range: bytes 0-9999/95000"], "has 9999 bytes, expected 10000"),
            (206, DATA[:10_001], ["Content-Range: bytes 0-9999/95000"], "has 10001 bytes, expected 10000"),
            (203, DATA[:10_000], [], "HTTP 203 to a GET of a range"),
        ):
            work, _ = self.get(lambda c, r, n, a=(body, status, headers): response(*a), at_once=1)
            self.assertEqual((self.classes(work), work.bytes), (["protocol"], 0))
            self.assertIn(detail, work.failures[0][2])

    def test_the_size_may_be_unknown_to_the_server(self):
        work, _ = self.get(lambda c, r, n: part(r, given="bytes {}-{}/*".format(*span(r))))
        self.assertEqual((work.failures, work.bytes), ([], SIZE))

    def test_an_object_that_is_shorter(self):
        short = error(416, "InvalidRange")
        for at in (0, 40_000):
            work, _ = self.get(lambda c, r, n, at=at: short if span(r)[0] == at else part(r), at_once=1)
            self.assertEqual((self.classes(work), work.bytes), (["verify"], 0))
            self.assertIn(f"the object ends before byte {at}, expected 95000 bytes", work.failures[0][2])

    def test_altered_bytes(self):
        altered = DATA[:33_000] + bytes([DATA[33_000] ^ 1]) + DATA[33_001:]
        work, _ = self.get(lambda c, r, n: part(r, altered))
        self.assertEqual(self.classes(work), ["verify"])
        offset = int(work.failures[0][2].rpartition(" ")[2])
        self.assertTrue(30_000 <= offset <= 33_000, offset)

    def test_a_failed_range_is_tried_again_alone(self):
        refused = []

        def script(client, request, number):
            if span(request)[0] == 30_000 and len(refused) < 2:
                refused.append(request)
                return error(503, "SlowDown")
            return part(request)

        work, server = self.get(script)
        self.assertEqual((work.failures, work.retries, work.bytes), ([], [("http_503", True)] * 2, SIZE))
        self.assertEqual((len(server.requests), [span(r)[0] for r in server.requests].count(30_000)), (12, 3))

    def test_a_connection_that_breaks_in_a_range(self):
        broken = []

        def script(client, request, number):
            if span(request)[0] == 40_000 and not broken:
                broken.append(request)
                client.sendall(part(request)[:5_000])
                return None
            return part(request)

        work, _ = self.get(script)
        self.assertEqual((work.failures, work.retries, work.bytes), ([], [("short_read", True)], SIZE))

    def test_others_are_abandoned_when_one_is_given_up(self):
        under_way, gone = threading.Barrier(3), threading.Event()

        def script(client, request, number):
            if "range" not in request.headers:
                gone.set()
                return response()
            under_way.wait(10)
            if span(request)[0] == 10_000:
                return error(404, "NoSuchKey")
            # No answer before the operation has been given up: the next one has begun by then.
            gone.wait(10)
            return part(request)

        work, server = self.get(script, (GET, OBJECT), (STAT, {"size": -1}))
        self.assertEqual((self.classes(work), work.retries, work.bytes, len(work.dones)), (["http_404"], [], 0, 1))
        self.assertEqual((work.pages, len(server.requests)), (2, 4))
        self.assertIn("GET s3://bucket/prefix/key", work.failures[0][2])

    def test_a_range_that_waits_to_be_tried_again_is_forgotten_with_the_rest(self):
        refused = threading.Event()

        def script(client, request, number):
            if span(request)[0] == 0:
                refused.set()
                return error(503, "SlowDown")
            refused.wait(10)
            return error(403, "AccessDenied")

        # The engine would not come back before the hour is over.
        work, _ = self.get(script, at_once=2, retry=Retry(max_retries=3, initial_delay_s=3600.0, max_delay_s=3600.0))
        self.assertEqual((self.classes(work), work.retries), (["http_403"], [("http_503", True)]))

    def test_a_silent_range_has_a_deadline_of_its_own(self):
        silent, over = [], threading.Event()
        self.addCleanup(over.set)

        def script(client, request, number):
            if span(request)[0] == 50_000 and not silent:
                silent.append(request)
                over.wait(20)
                return None
            answer = part(request)
            if span(request)[0] == 50_000:
                over.set()
            return answer

        work, _ = self.get(script, timeout_s=0.3)
        self.assertEqual((work.failures, work.retries, work.bytes), ([], [("timeout_total", True)], SIZE))

    def test_a_bucket_of_another_region(self):
        moved = response(b"", 301, ["x-amz-bucket-region: eu-9"])
        work, server = self.get(lambda c, r, n: part(r) if r.region == "eu-9" else moved)
        self.assertEqual((work.failures, set(work.retries), work.bytes), ([], {("http_3xx", True)}, SIZE))
        self.assertEqual(len(server.requests), 10 + len(work.retries))

    def test_nobody_there(self):
        with Server(lambda c, r, n: None) as server:
            pass
        engine, root = self.engine(server, ranges=Ranges(10_000, 3, 50_000))
        work = CountingWork([task(root, GET, **OBJECT)])
        engine.run(work, 1)
        self.assertEqual((self.classes(work), work.requests), (["refused"], 0))

    def test_many_at_once(self):
        work, server = self.get(lambda c, r, n: part(r), *((GET, OBJECT),) * 20)
        self.assertEqual((len(work.dones), work.pages, work.bytes, len(server.requests)), (20, 180, 20 * SIZE, 200))


class Store:
    """A server that keeps multipart uploads as S3 does. `before(request, kind, number)` may answer in its place; True: hang up."""

    def __init__(self, before=lambda request, kind, number: None):
        self.before = before
        self.uploads = {}
        self.objects = {}
        self.kinds = []
        self._ids = 0
        self._lock = threading.Lock()

    def __call__(self, client, request, number):
        query = dict(urllib.parse.parse_qsl(request.query, keep_blank_values=True))
        key = urllib.parse.unquote(request.path)[len("/bucket/") :]
        names = {"POST": "complete" if "uploadId" in query else "create", "PUT": "part" if "uploadId" in query else "put"}
        kind = {**names, "DELETE": "abort", "GET": "search" if "uploads" in query else "get", "HEAD": "stat"}[request.method]
        with self._lock:
            self.kinds.append(kind)
        early = self.before(request, kind, number)
        if early is True:
            return None
        with self._lock:
            late = getattr(self, kind)(key, query, request)
        return early or late

    def create(self, key, query, request):
        self._ids += 1
        self.uploads[f"id+{self._ids}/"] = (key, {})
        return response(f"<InitiateMultipartUploadResult><UploadId>id+{self._ids}/</UploadId></InitiateMultipartUploadResult>".encode())

    def part(self, key, query, request):
        if query["uploadId"] not in self.uploads:
            return error(404, "NoSuchUpload")
        self.uploads[query["uploadId"]][1][int(query["partNumber"])] = request.body
        return response(headers=[f'ETag: "&{hashlib.md5(request.body).hexdigest()}"'])

    def complete(self, key, query, request):
        if query["uploadId"] not in self.uploads:
            return error(404, "NoSuchUpload")
        parts = self.uploads.pop(query["uploadId"])[1]
        given = re.findall(r"<PartNumber>(\d+)</PartNumber><ETag>(.*?)</ETag>", request.body.decode())
        if [(int(n), html.unescape(tag)) for n, tag in given] != [(n, f'"&{hashlib.md5(parts[n]).hexdigest()}"') for n in sorted(parts)]:
            return error(400, "InvalidPart")
        self.objects[key] = b"".join(parts[n] for n in sorted(parts))
        return response(b"   <CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def abort(self, key, query, request):
        return response(status=204) if self.uploads.pop(query["uploadId"], None) else error(404, "NoSuchUpload")

    def search(self, key, query, request):
        assert request.path == "/bucket" and query["prefix"] == "prefix/key"
        found = "".join(f"<Upload><Key>{key}</Key><UploadId>{name}</UploadId></Upload>" for name, (key, _) in self.uploads.items())
        return response(f"<ListMultipartUploadsResult>{found}</ListMultipartUploadsResult>".encode())

    def put(self, key, query, request):
        self.objects[key] = request.body
        return response()

    def stat(self, key, query, request):
        return response()


class UploadsTest(Case):
    PUT = (PUT, OBJECT)

    def put(self, store, *tasks, left=(), multipart=MULTIPART, **options):
        """Performs PUTs, in parts of 10,000 bytes, and sees to it that nothing is left of them."""
        with Server(store) as server:
            engine, root = self.engine(server, multipart=multipart, **options)
            work = CountingWork(task(root, op, **keywords) for op, keywords in tasks or (self.PUT,))
            engine.run(work, 1)
            self.assertEqual((engine._in_flight, engine._waiting, engine._uploads, list(engine._hashing)), (0, [], set(), []))
            self.assertEqual(sorted(map(id, engine._connections.values())), sorted(map(id, root.endpoint.idle)))
            wait_for(lambda: len(server.requests) >= work.requests, f"request {work.requests}")
        self.assertEqual(server.unsigned, [])
        self.assertEqual(work.requests, len(server.requests), (work.retries, work.failures, work.pages))
        self.assertEqual(tuple(store.uploads), left)
        return work

    def once(self, kind, answer, of=1, number=None):
        """What to answer to the first `of` requests of a kind (of part `number`), in place of the server."""
        seen = []

        def before(request, found, _):
            if found == kind and (number is None or f"partNumber={number}&" in request.query) and len(seen) < of:
                seen.append(request)
                return answer
            return None

        return before

    def test_parts_in_parallel(self):
        three = threading.Barrier(3)
        parts = []

        def before(request, kind, number):
            if kind == "part":
                parts.append(request)
                if len(parts) < 10:
                    three.wait(10)

        for sign in (False, True):
            parts.clear()
            store = Store(before)
            work = self.put(store, sign_payload=sign)
            self.assertEqual((work.failures, work.retries, work.bytes, len(work.dones), work.pages), ([], [], SIZE, 1, 11))
            self.assertEqual(store.objects, {"prefix/key": DATA})
            self.assertEqual(store.kinds, ["create", *["part"] * 10, "complete"])

    def test_small_objects_stay_whole(self):
        store = Store()
        work = self.put(store, (PUT, {"size": 49_999, "index": 1, "content": CONTENT}), (PUT, {"size": 0, "content": CONTENT}))
        self.assertEqual((work.failures, store.kinds), ([], ["put", "put"]))

    def test_parts_of_more_than_a_piece(self):
        size = 3 * PIECE + 5
        store = Store()
        work = self.put(store, (PUT, {"size": size, "index": 2, "content": CONTENT}), multipart=Multipart(1, PIECE + 4097, 2))
        self.assertEqual((work.failures, work.bytes, store.kinds.count("part")), ([], size, 3))
        self.assertEqual(store.objects["prefix/key"], b"".join(CONTENT.piece(2, size, at, PIECE) for at in range(0, size, PIECE)))

    def test_no_more_than_ten_thousand_parts(self):
        upload = Upload(task(None, PUT, size=5 << 40), Multipart(1, 8 << 20, 3))
        sizes = [size for _, size in upload._offsets]
        self.assertEqual((len(sizes), sizes[0], sum(sizes)), (9_987, 525 << 20, 5 << 40))

    def test_a_part_is_tried_again_alone(self):
        store = Store(self.once("part", error(503, "SlowDown"), of=2, number=4))
        work = self.put(store)
        self.assertEqual((work.failures, work.retries, store.objects), ([], [("http_503", True)] * 2, {"prefix/key": DATA}))
        self.assertEqual(store.kinds.count("part"), 12)
        store = Store(self.once("part", True, number=10))
        work = self.put(store)
        self.assertEqual((work.failures, [sent for _, sent in work.retries], store.objects), ([], [True], {"prefix/key": DATA}))

    def test_aborted_when_a_part_is_given_up(self):
        for at_once in (1, 3, 20):
            store = Store(self.once("part", error(403, "AccessDenied"), of=9, number=5))
            work = self.put(store, multipart=Multipart(50_000, 10_000, at_once))
            self.assertEqual((self.classes(work), work.bytes, work.dones, store.objects), (["http_403"], 0, [], {}))
            self.assertEqual((store.kinds[-1], store.kinds.count("abort"), store.kinds.count("complete")), ("abort", 1, 0))

    def test_parts_that_were_sent_are_waited_for_before_the_abort(self):
        together, refused = threading.Barrier(3), threading.Event()

        def before(request, kind, number):
            if kind != "part":
                return None
            together.wait(10)
            if "partNumber=2&" in request.query:
                refused.set()
                return error(403, "AccessDenied")
            # The answer of the one that failed is there long before.
            refused.wait(10)
            time.sleep(0.05)
            return None

        store = Store(before)
        work = self.put(store)
        self.assertEqual((self.classes(work), store.kinds), (["http_403"], ["create", "part", "part", "part", "abort"]))

    def test_refused_creates(self):
        store = Store(self.once("create", error(404, "NoSuchBucket")))
        store.create = lambda *_: None
        work = self.put(store)
        self.assertEqual((self.classes(work), work.pages, store.kinds), (["http_404"], 0, ["create"]))

    def test_a_create_whose_answer_is_lost(self):
        """It may have begun an upload that nobody knows of: it is looked for."""
        for answer in (error(500, "InternalError"), response(b"cut off")[:30]):
            store = Store(self.once("create", answer))
            work = self.put(store, deadlines=Deadlines(5, 0.5, 0.5))
            self.assertEqual((work.failures, len(work.retries), store.objects), ([], 1, {"prefix/key": DATA}))
            self.assertEqual(store.kinds[-3:], ["search", "abort", "complete"])

    def test_an_upload_that_may_not_look_for_others_is_completed_all_the_same(self):
        def before(request, kind, number):
            if kind == "search":
                return error(403, "AccessDenied")
            return lose(request, kind, number)

        lose = self.once("create", error(500, "InternalError"))
        store = Store(before)
        work = self.put(store, left=("id+1/",))
        self.assertEqual((work.failures, store.objects, store.kinds[-2:]), ([], {"prefix/key": DATA}, ["search", "complete"]))

    def test_of_a_create_that_is_to_come_later_nothing_is_left(self):
        class Slow(Store):
            def create(self, key, query, request):
                return super().create(key, query, request) if len(self.kinds) > 1 else error(503, "SlowDown")

        store = Slow()
        work = self.put(store)
        self.assertEqual((work.failures, store.objects), ([], {"prefix/key": DATA}))
        self.assertNotIn("search", store.kinds)

    def test_a_create_that_never_answers_well(self):
        store = Store(self.once("create", error(500, "InternalError"), of=9))
        work = self.put(store)
        self.assertEqual((self.classes(work), store.objects), (["http_500"], {}))
        self.assertEqual(store.kinds, ["create"] * 3 + ["search"] + ["abort"] * 3)

    def test_uploads_of_others_are_left_alone(self):
        store = Store(self.once("create", error(500, "InternalError")))
        store.uploads["other"] = ("prefix/key2", {})
        work = self.put(store, left=("other",))
        self.assertEqual((work.failures, store.objects), ([], {"prefix/key": DATA}))

    def test_a_create_without_an_id(self):
        store = Store(self.once("create", response(b"<html>")))
        work = self.put(store)
        self.assertEqual((self.classes(work), store.kinds), (["protocol"], ["create", "search", "abort"]))

    def test_a_part_without_an_etag(self):
        store = Store(self.once("part", response()))
        work = self.put(store)
        self.assertEqual(self.classes(work), ["protocol"])

    def test_a_complete_that_fails_after_200(self):
        def refused(code):
            return response(f"  <Error><Code>{code}</Code><Message>a message</Message></Error>".encode())

        def keep(store):
            well = store.complete
            store.complete = lambda *a: None if len([k for k in store.kinds if k == "complete"]) <= store.bad else well(*a)

        for code, of, failures, retries in (
            ("InternalError", 1, [], [("http_500", True)]),
            ("SlowDown", 2, [], [("http_503", True)] * 2),
            ("InternalError", 9, ["http_500"], [("http_500", True)] * 2),
            ("InvalidPart", 9, ["protocol"], []),
        ):
            store = Store(self.once("complete", refused(code), of=of))
            store.bad = of
            keep(store)
            work = self.put(store)
            self.assertEqual((self.classes(work), work.retries, bool(store.objects)), (failures, retries, not failures), code)
        self.assertIn("InvalidPart: a message", work.failures[0][2])
        store = Store(self.once("complete", response(b"<html>")))
        store.bad = 1
        keep(store)
        self.assertEqual(self.classes(self.put(store)), ["protocol"])

    def test_a_complete_whose_answer_is_lost(self):
        store = Store(self.once("complete", error(503, "SlowDown")))
        work = self.put(store)
        self.assertEqual((work.failures, work.retries, work.bytes), ([], [("http_503", True)], SIZE))
        self.assertEqual((store.objects, store.kinds[-2:]), ({"prefix/key": DATA}, ["complete", "complete"]))

    def test_a_complete_of_an_upload_that_is_gone(self):
        store = Store(lambda request, kind, number: (kind == "complete" and store.uploads.clear()) or None)
        work = self.put(store)
        self.assertEqual((self.classes(work), store.kinds[-1]), (["http_404"], "abort"))

    def test_an_abort_that_fails(self):
        def before(request, kind, number):
            return error(403, "AccessDenied") if kind == "part" else error(503, "SlowDown") if kind == "abort" else None

        store = Store(before)
        store.abort = lambda *_: None
        work = self.put(store, left=("id+1/",))
        self.assertEqual((self.classes(work), work.retries), (["http_403"], [("http_503", True)] * 2))
        self.assertRegex(work.failures[0][2], "AccessDenied.*parts may be left on the server.*SlowDown")

    def test_a_run_that_ends_by_an_exception_leaves_nothing(self):
        class Fatal(Exception):
            pass

        for at in ("create", "part", "complete"):
            read_fd, write_fd = os.pipe()
            held = threading.Event()

            def on_control(held=held):
                held.set()
                raise Fatal

            def before(request, kind, number, at=at, write_fd=write_fd, held=held):
                if kind == at and not held.is_set():
                    os.write(write_fd, b"x")
                    held.wait(10)
                return

            store = Store(before)
            with Server(store) as server:
                engine, root = self.engine(server, multipart=Multipart(50_000, 10_000, 3))
                with self.assertRaises(Fatal):
                    engine.run(CountingWork(task(root, PUT, **OBJECT) for _ in range(100)), 2, read_fd, on_control)
                self.assertEqual((engine._connections, engine._in_flight, engine._uploads), ({}, 0, set()))
                work = CountingWork([task(root, PUT, **OBJECT)])
                engine.run(work, 1)
                self.assertEqual((len(work.dones), store.objects["prefix/key"]), (1, DATA))
            self.assertEqual(store.uploads, {}, at)
            os.close(read_fd)
            os.close(write_fd)

    def test_uploads_do_not_outlast_a_stop(self):
        class Stopped(CountingWork):
            stopped = False

        over = threading.Event()
        self.addCleanup(over.set)

        def before(request, kind, number):
            if kind == "part":
                work.stopped = True
                work.tasks.clear()
                over.wait(20)
            return

        store = Store(before)
        abort = store.abort
        store.abort = lambda *request: over.set() or abort(*request)
        with Server(store) as server:
            engine, root = self.engine(server, multipart=MULTIPART)
            work = Stopped(task(root, PUT, **OBJECT) for _ in range(100))
            engine.run(work, 1)
            self.assertEqual((self.classes(work), engine._uploads), (["other"], set()))
            self.assertIn("the run was stopped", work.failures[0][2])
            wait_for(lambda: len(server.requests) >= work.requests, f"request {work.requests}")
        self.assertEqual((work.requests, store.uploads), (len(server.requests), {}))

    def test_an_upload_that_had_failed_does_not_outlast_a_stop_either(self):
        class Stopped(CountingWork):
            stopped = False

        over = threading.Event()
        self.addCleanup(over.set)
        parts = []

        def before(request, kind, number):
            if kind != "part":
                return None
            parts.append(request)
            if len(parts) == 2:
                work.stopped = True
                work.tasks.clear()
                return error(403, "AccessDenied")
            over.wait(30)  # it was sent in full, and nobody answers
            return None

        store = Store(before)
        with Server(store) as server:
            engine, root = self.engine(server, multipart=MULTIPART)
            work = Stopped(task(root, PUT, **OBJECT) for _ in range(100))
            began = time.monotonic()
            engine.run(work, 1)
            self.assertLess(time.monotonic() - began, 4.5, "the supervisor waits 5 s")
            self.assertEqual((self.classes(work), engine._uploads), (["http_403"], set()))
            over.set()

    def test_a_failure_that_ends_the_run(self):
        class Fatal(Exception):
            pass

        class Strict(CountingWork):
            def failed(self, task, *_):
                raise Fatal

        store = Store(self.once("part", error(403, "AccessDenied"), of=99))
        with Server(store) as server:
            engine, root = self.engine(server, multipart=Multipart(50_000, 10_000, 3))
            with self.assertRaises(Fatal):
                engine.run(Strict(task(root, PUT, **OBJECT) for _ in range(10)), 4)
        self.assertEqual(store.uploads, {})

    def test_many_at_once(self):
        store = Store()
        work = self.put(store, *((PUT, {**OBJECT, "key": str(i)}) for i in range(20)))
        self.assertEqual((work.failures, len(work.dones), len(store.objects), set(store.objects.values())), ([], 20, 20, {DATA}))


if __name__ == "__main__":
    unittest.main()
