"""The native S3 engine against a scripted server: checksums of bodies, and bodies that wait to be asked for."""

import base64
import hashlib
import sys
import types
import unittest
import unittest.mock
import zlib

from sai3ssh.agent.engines import make_engine, s3_bodies
from sai3ssh.agent.engines.base import GET, PUT
from sai3ssh.agent.engines.checksums import Checksum
from sai3ssh.dataset import PIECE, Content
from sai3ssh.errors import TargetError
from sai3ssh.model import Multipart, Ranges
from tests.agent.s3_server import CREDENTIALS, DEADLINES, QUICK, CountingWork, Server, error, response, target, task

CONTENT = Content(5)
CHUNK = PIECE - 4096
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def expected(size, index=3):
    return b"".join(CONTENT.piece(index, size, at, PIECE) for at in range(0, size, PIECE))


def crc32(data):
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def decoded(body):
    """The object and the trailer in a body of chunks."""
    data, at = b"", 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        at = end + 2
        if not size:
            return data, body[at:]
        data += body[at : at + size]
        assert body[at + size : at + size + 2] == b"\r\n"
        at += size + 2


class Case(unittest.TestCase):
    def perform(self, script, *tasks, read_body=True, deadlines=DEADLINES, **options):
        """The work after the tasks (op, size), one after another, against the script; the server."""
        with Server(script, read_body=read_body, anonymous=options.get("anonymous", False)) as server:
            engine = make_engine(target(server, **options), "s3://bucket/p/", CREDENTIALS, deadlines, QUICK)
            self.addCleanup(engine.close)
            root = engine.root("s3://bucket/p/")
            work = CountingWork(task(root, op, size=size, index=3, content=CONTENT) for op, size in tasks)
            engine.run(work, 1)
        self.assertEqual(server.unsigned, [], "a signature was wrong")
        self.assertEqual(work.requests, len(server.requests), (work.retries, work.failures))
        return work, server


class Puts(Case):
    def test_a_small_body_has_its_checksum_in_the_head(self):
        for sign in (False, True):
            for size in (0, 1, 4096, PIECE):
                work, server = self.perform(lambda c, r, n: response(), (PUT, size), checksum="crc32", sign_payload=sign)
                self.assertEqual((work.failures, work.bytes), ([], size))
                (request,) = server.requests
                self.assertEqual(request.body, expected(size))
                self.assertEqual(request.headers["x-amz-checksum-crc32"], crc32(request.body))
                payload = hashlib.sha256(request.body).hexdigest() if sign else "UNSIGNED-PAYLOAD"
                self.assertEqual(request.headers["x-amz-content-sha256"], payload)
                self.assertIn("x-amz-checksum-crc32", request.headers["authorization"])

    def test_a_large_body_has_it_in_a_trailer(self):
        for size in (PIECE + 1, 2 * CHUNK, 2 * CHUNK + 1, 3_000_000):
            work, server = self.perform(lambda c, r, n: error(503, "SlowDown") if n == 0 else response(), (PUT, size), checksum="sha256")
            self.assertEqual((work.failures, work.bytes, work.retries), ([], size, [("http_503", True)]))
            self.assertEqual(server.requests[0].body, server.requests[1].body)
            request = server.requests[1]
            data, trailer = decoded(request.body)
            self.assertEqual(data, expected(size))
            value = base64.b64encode(hashlib.sha256(data).digest()).decode()
            self.assertEqual(trailer, f"x-amz-checksum-sha256:{value}\r\n\r\n".encode())
            headers = request.headers
            self.assertEqual((headers["content-encoding"], headers["x-amz-decoded-content-length"]), ("aws-chunked", str(size)))
            self.assertEqual(headers["x-amz-trailer"], "x-amz-checksum-sha256")
            for name in ("x-amz-trailer", "x-amz-decoded-content-length"):
                self.assertIn(name, headers["authorization"])

    def test_nobody_announces_a_trailer_too(self):
        work, server = self.perform(lambda c, r, n: response(), (PUT, 300_000), checksum="crc32", anonymous=True)
        self.assertEqual((work.failures, decoded(server.requests[0].body)[0]), ([], expected(300_000)))
        self.assertEqual(server.requests[0].headers["x-amz-content-sha256"], "STREAMING-UNSIGNED-PAYLOAD-TRAILER")

    def test_a_large_body_that_is_hashed_before_has_it_in_the_head(self):
        work, server = self.perform(
            lambda c, r, n: error(503, "SlowDown") if n == 0 else response(), (PUT, 1_000_000), checksum="crc32", sign_payload=True
        )
        self.assertEqual((work.failures, work.retries), ([], [("http_503", True)]))
        for request in server.requests:
            self.assertEqual(request.body, expected(1_000_000))
            self.assertEqual(request.headers["x-amz-checksum-crc32"], crc32(request.body))

    def test_a_probe_has_one_too(self):
        with Server(lambda c, r, n: response(b"<ListBucketResult></ListBucketResult>" if r.method == "GET" else b"")) as server:
            engine = make_engine(target(server, checksum="crc32"), "s3://bucket/p/", CREDENTIALS, DEADLINES, QUICK)
            engine.check(write=True)
            engine.close()
        self.assertEqual(server.unsigned, [])
        self.assertEqual([r.headers.get("x-amz-checksum-crc32") for r in server.requests], [None, "AAAAAA==", None])


class Gets(Case):
    def get(self, *headers, size=300_000, **options):
        options = {"checksum": "crc32", "verify_reads": 1.0, **options}
        work, server = self.perform(lambda c, r, n: response(expected(size), headers=headers), (GET, size), **options)
        return [failure[0] for failure in work.failures], server.requests[0].headers

    def test_the_checksum_of_the_answer_is_compared_where_the_bytes_are(self):
        good = crc32(expected(300_000))
        failures, headers = self.get(f"x-amz-checksum-crc32: {good}")
        self.assertEqual((failures, headers["x-amz-checksum-mode"]), ([], "ENABLED"))
        self.assertIn("x-amz-checksum-mode", headers["authorization"])
        self.assertEqual(self.get("X-Amz-Checksum-Crc32: AAAAAA==")[0], ["verify"])
        for headers in ((), ("x-amz-checksum-crc32: AAAAAA==-3",), ("x-amz-checksum-sha256: AAAA",)):
            self.assertEqual(self.get(*headers)[0], [])
        failures, headers = self.get("x-amz-checksum-crc32: AAAAAA==", verify_reads=0.0)
        self.assertEqual((failures, headers.get("x-amz-checksum-mode")), ([], None))

    def test_bytes_that_differ_are_told_by_their_place(self):
        work, _ = self.perform(lambda c, r, n: response(bytes(9000)), (GET, 9000), checksum="crc32", verify_reads=1.0)
        self.assertIn("at or after offset 0", work.failures[0][2])

    def test_ranges_are_compared_without(self):
        def script(client, request, number):
            first, last = (int(n) for n in request.headers["range"].partition("=")[2].split("-"))
            return response(expected(300_000)[first : last + 1], 206, [f"Content-Range: bytes {first}-{last}/300000"])

        options = {"checksum": "crc32", "verify_reads": 1.0, "ranges": Ranges(100_000, 2, 100_000)}
        work, server = self.perform(script, (GET, 300_000), **options)
        self.assertEqual(work.failures, [])
        self.assertEqual([r.headers.get("x-amz-checksum-mode") for r in server.requests], [None] * 3)


class Kinds(unittest.TestCase):
    def test_known_values(self):
        for name, value in (("crc32", "cbf43926"), ("sha256", hashlib.sha256(b"123456789").hexdigest())):
            self.assertEqual(base64.b64decode(Checksum(name).of(b"123456789")).hex(), value)

    def test_others_come_from_a_library_of_the_host(self):
        names = ("awscrt", "awscrt.checksums", "google_crc32c")
        with unittest.mock.patch.dict(sys.modules, dict.fromkeys(names)):
            for name, library in (("crc32c", "google-crc32c"), ("crc64nvme", "awscrt")):
                with self.assertRaises(TargetError) as caught:
                    Checksum(name)
                self.assertIn(name, caught.exception.message)
                self.assertRegex(caught.exception.remedy, f"Install .*{library}.*or choose crc32 or sha256")
        awscrt = types.ModuleType("awscrt.checksums")
        awscrt.crc64nvme = lambda data, crc: crc + sum(data)
        google = types.ModuleType("google_crc32c")
        google.extend = lambda crc, data: crc + len(data)
        with unittest.mock.patch.dict(sys.modules, {"awscrt": types.ModuleType("awscrt"), names[1]: awscrt, names[2]: google}):
            made = Checksum("crc64nvme").new()
            made.update(b"\1")
            made.update(memoryview(b"\2\xff"))
            self.assertEqual(base64.b64decode(made.value()), (258).to_bytes(8, "big"))
            self.assertEqual(base64.b64decode(Checksum("crc32c").of(b"abc")), (3).to_bytes(4, "big"))


class Continue(Case):
    def read(self, client, size):
        data = b""
        while len(data) < size:
            more = client.recv(1 << 20)
            if not more:
                return data
            data += more
        return data

    def test_a_body_of_at_least_that_size_waits_for_a_100(self):
        bodies = []

        def script(client, request, number):
            size = int(request.headers["content-length"])
            if size >= 1000:
                client.setblocking(False)
                with self.assertRaises(BlockingIOError):
                    client.recv(1)
                client.setblocking(True)
                client.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + CONTINUE)
                bodies.append(self.read(client, size))
            return response()

        for checksum in ("", "crc32"):
            sizes = (1000, 1_000_000, 0, 5000)
            work, server = self.perform(
                script, *((PUT, size) for size in sizes), read_body=False, expect_continue=1000, checksum=checksum
            )  # fmt: skip
            self.assertEqual((work.failures, work.retries, server.connections), ([], [], 1))
            self.assertEqual([r.headers.get("expect") for r in server.requests], ["100-continue", "100-continue", None, "100-continue"])
            self.assertEqual(
                [body if size < PIECE or not checksum else decoded(body)[0] for body, size in zip(bodies, (1000, 1_000_000, 5000))],
                [expected(1000), expected(1_000_000), expected(5000)],
            )
            bodies.clear()

    def test_a_server_that_says_nothing_gets_the_body_all_the_same(self):
        bodies = []

        def script(client, request, number):
            bodies.append(self.read(client, 5000))
            return CONTINUE + response()

        with unittest.mock.patch.object(s3_bodies, "CONTINUE_S", 0.1):
            work, server = self.perform(script, (PUT, 5000), (PUT, 5000), read_body=False, expect_continue=1)
        self.assertEqual((work.failures, bodies, server.connections), ([], [expected(5000)] * 2, 1))
        self.assertGreater(min(work.latencies_ns), 90_000_000)

    def test_a_final_answer_before_the_body_is_that_of_the_operation_and_ends_the_connection(self):
        for answer, error_class in (
            (error(403, "AccessDenied"), "http_403"),
            (error(417, "ExpectationFailed"), "http_4xx"),
            (response(), "protocol"),
            (CONTINUE + error(403, "AccessDenied"), "http_403"),
        ):
            work, server = self.perform(
                lambda c, r, n, answer=answer: answer if r.method == "PUT" else response(expected(10)),
                (PUT, 50_000_000), (GET, 10), read_body=False, expect_continue=1000,
            )  # fmt: skip
            self.assertEqual([failure[:2] for failure in work.failures], [(error_class, True)])
            self.assertEqual((len(work.dones), server.connections), (1, 2), "the body was never sent: what comes next needs a new one")

    def test_a_server_that_dies_after_it_has_asked(self):
        def script(client, request, number):
            if number:
                client.sendall(CONTINUE)
                self.read(client, 5000)
                return response()
            client.sendall(CONTINUE)
            return None

        work, _ = self.perform(script, (PUT, 5000), read_body=False, expect_continue=1000)
        self.assertEqual((work.failures, work.retries, len(work.dones)), ([], [("reset", True)], 1))

    def test_a_server_that_asks_and_then_is_silent_meets_the_deadline_of_the_first_byte(self):
        def script(client, request, number):
            client.sendall(CONTINUE)
            self.read(client, 5000)
            self.read(client, 1)
            return

        deadlines = type(DEADLINES)(connect_s=5, first_byte_s=0.2, total_s=60)
        work, _ = self.perform(script, (PUT, 5000), read_body=False, expect_continue=1000, deadlines=deadlines)
        self.assertEqual([failure[0] for failure in work.failures], ["timeout_first_byte"])

    def test_a_flood_of_answers_before_the_final_one_ends(self):
        hint = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 1000 + b"\r\n\r\n"
        work, _ = self.perform(lambda c, r, n: hint * 60 + response(b"abc"), (GET, -1))
        self.assertEqual((work.failures, work.bytes), ([], 3))
        work, _ = self.perform(lambda c, r, n: hint * 70 + response(b"abc"), (GET, -1))
        self.assertEqual([failure[0] for failure in work.failures], ["protocol"])

    def test_parts_of_an_upload_wait_as_well(self):
        asked = []

        def script(client, request, number):
            if request.method == "POST" and "uploads=" in request.query:
                return response(b"<UploadId>u</UploadId>")
            if request.method == "POST":
                return response(b"<CompleteMultipartUploadResult/>")
            asked.append(request.headers.get("expect"))
            client.sendall(CONTINUE)
            self.read(client, int(request.headers["content-length"]))
            return response(b"", 200, ["ETag: e"])

        work, _ = self.perform(
            script, (PUT, 250_000), read_body=False, expect_continue=1000, multipart=Multipart(100_000, 100_000, 1), sign_payload=True
        )
        self.assertEqual((work.failures, work.retries, asked), ([], [], ["100-continue"] * 3))
