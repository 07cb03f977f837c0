"""The native S3 engine against servers that misbehave, each in its own way."""

import os
import resource
import select
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
import unittest.mock
from pathlib import Path

from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, STAT, Kept, RepeatedTask, Task
from sai3ssh.agent.engines.connection import Connection
from sai3ssh.agent.engines.endpoint import EndpointMap
from sai3ssh.agent.engines.sigv4 import Credentials
from sai3ssh.dataset import Content
from sai3ssh.errors import TargetError, Transient
from sai3ssh.model import Deadlines, Retry, Target
from tests.agent.s3_server import (
    ACCESS_KEY,
    CREDENTIALS,
    DEADLINES,
    QUICK,
    SECRET_KEY,
    CountingWork,
    Server,
    error,
    reset,
    response,
    target,
    task,
    wait_for,
)

CONTENT = Content(3)


class Case(unittest.TestCase):
    def engine(self, server, retry=QUICK, deadlines=DEADLINES, uri="s3://bucket/prefix/", **options):
        made = make_engine(target(server, **options), uri, CREDENTIALS, deadlines, retry)
        self.addCleanup(made.close)
        return made, made.root(uri)

    def perform(self, script, *tasks, concurrency=1, read_body=True, host="127.0.0.1", **options):
        """The work after the tasks (tuples of op and keywords) were performed against the script, and the server."""
        with Server(script, host=host, read_body=read_body, anonymous=options.get("anonymous", False)) as server:
            engine, root = self.engine(server, **options)
            work = CountingWork(task(root, op, **keywords) for op, keywords in tasks)
            engine.run(work, concurrency)
        self.assertEqual(server.unsigned, [], "a signature was wrong")
        self.assertEqual(work.requests, len(server.requests), (work.retries, work.failures))
        return work, server

    def classes(self, work):
        return [failure[0] for failure in work.failures]


class Good(Case):
    def test_each_operation(self):
        def script(client, request, number):
            return (
                response(CONTENT.piece(7, 4096, 0, 4096))
                if request.method == "GET"
                else response(status=204)
                if number == 3
                else response()
            )

        size = {"size": 4096, "index": 7, "content": CONTENT}
        work, server = self.perform(
            lambda c, r, n: response(b"", headers=()) if r.method == "PUT" else script(c, r, n),
            (PUT, size), (GET, size), (STAT, {"size": 0}), (DELETE, {}), verify_reads=True,
        )  # fmt: skip
        self.assertEqual(work.failures, [])
        self.assertEqual(work.bytes, 8192)
        self.assertEqual([r.method for r in server.requests], ["PUT", "GET", "HEAD", "DELETE"])
        self.assertEqual(server.requests[0].body, CONTENT.piece(7, 4096, 0, 4096))
        self.assertEqual(server.connections, 1)
        self.assertTrue(all(latency > 0 for latency in work.latencies_ns))

    def test_empty_object(self):
        work, server = self.perform(
            lambda c, r, n: response(), (PUT, {"size": 0, "content": CONTENT}), (GET, {"size": 0, "content": CONTENT}), verify_reads=True
        )
        self.assertEqual((len(work.dones), work.bytes, work.failures), (2, 0, []))
        self.assertEqual(server.requests[0].headers["content-length"], "0")

    def test_large_put_and_get(self):
        size = 3 * 1024 * 1024 + 17
        objects = {}

        def script(client, request, number):
            if request.method == "PUT":
                objects[request.path] = request.body
                return response()
            return response(objects[request.path])

        for sign in (False, True):
            keywords = {"size": size, "index": 5, "content": CONTENT}
            work, _ = self.perform(script, (PUT, keywords), (GET, keywords), verify_reads=True, sign_payload=sign)
            self.assertEqual((work.failures, work.bytes), ([], 2 * size))
            self.assertEqual(list(objects.values()), [b"".join(CONTENT.piece(5, size, at, 65536) for at in range(0, size, 65536))])

    def test_keys_are_escaped_once_and_not_normalised(self):
        keys = ["a b", "a+b", "ü/\u20ac", "a//b", "/a", "a/../b", "100%", "q?x=1&y", "~-_.", "it's(*)!"]
        work, server = self.perform(lambda c, r, n: response(), *((STAT, {"key": key}) for key in keys))
        self.assertEqual(work.failures, [])
        paths = [r.path for r in server.requests]
        self.assertEqual(
            paths[:4], ["/bucket/prefix/a%20b", "/bucket/prefix/a%2Bb", "/bucket/prefix/%C3%BC/%E2%82%AC", "/bucket/prefix/a//b"]
        )
        self.assertEqual(paths[4:6], ["/bucket/prefix//a", "/bucket/prefix/a/../b"])

    def test_ipv6(self):
        work, server = self.perform(lambda c, r, n: response(), (STAT, {}), host="::1")
        self.assertEqual(work.failures, [])
        self.assertEqual(server.requests[0].headers["host"], f"[::1]:{server.port}")

    def test_many_at_once(self):
        work, server = self.perform(lambda c, r, n: response(b"x" * 100), *((GET, {"size": 100}) for _ in range(500)), concurrency=20)
        self.assertEqual((len(work.dones), work.failures), (500, []))
        self.assertLessEqual(server.connections, 20)

    def test_a_request_that_is_made_again_is_that_of_any_other_task(self):
        indices = [number % 3 for number in range(30)]
        kept = Kept(3)
        with Server(lambda c, r, n: response(b"x" * 100)) as server:
            engine, root = self.engine(server)
            tasks = [RepeatedTask(GET, root, f"k{index}", 100, index, None, 0) for index in indices]
            for made in tasks:
                made.kept = kept
            work = CountingWork(tasks)
            engine.run(work, 1)
        self.assertEqual((len(work.dones), work.failures, server.unsigned), (30, [], []))
        self.assertEqual([request.path for request in server.requests], [f"/bucket/prefix/k{index}" for index in indices])
        self.assertTrue(kept.signatures[2])

    def test_requests_that_leave_together_begin_when_they_leave_unless_a_schedule_says_when(self):
        class Scheduled(CountingWork):
            scheduled = False

            def __init__(self, tasks):
                super().__init__(tasks)
                self.given, self.left, self.queues = {}, set(), []

            def next(self, now_ns):
                made = super().next(now_ns)
                if made is not None:
                    # An equal time that is another object.
                    made.start_ns = int(str(now_ns)) if self.scheduled else now_ns
                    self.given[made] = now_ns
                return made

            def done(self, task, end_ns, size_bytes):
                super().done(task, end_ns, size_bytes)
                if task.start_ns != self.given[task]:
                    self.left.add(task)
                self.queues.append(task.split[0])

        for scheduled in (False, True):
            with Server(lambda client, request, number: response(bytes(10))) as server:
                engine, root = self.engine(server)
                engine.splits = True
                work = Scheduled(task(root, GET, key=f"k{n}", size=10) for n in range(300))
                work.scheduled = scheduled
                engine.run(work, 40)
            self.assertEqual((len(work.dones), work.failures), (300, []))
            self.assertEqual(bool(work.left), not scheduled)
            self.assertEqual(any(work.queues), scheduled)

    def test_a_request_that_leaves_in_part_goes_on(self):
        sent_in_part = []

        class Narrow(CountingWork):
            def done(self, task, end_ns, size_bytes):
                super().done(task, end_ns, size_bytes)
                for connection in engine._connections.values():
                    connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

        def count(connection, n, data, head_bytes):
            sent_in_part.append((connection.served, n))
            return original(connection, n, data, head_bytes)

        size, original = 250_000, Connection.sent_in_part
        with Server(lambda client, request, number: response()) as server, unittest.mock.patch.object(Connection, "sent_in_part", count):
            engine, root = self.engine(server)
            sizes = [10, 10, 10, size, size, 10, size]
            work = Narrow(task(root, PUT, key=f"k{n}", size=size, index=n, content=CONTENT) for n, size in enumerate(sizes))
            engine.run(work, 1)
        self.assertEqual((work.failures, work.retries, server.unsigned, server.connections), ([], [], [], 1))
        self.assertTrue(all(0 <= n < size for served, n in sent_in_part) and len(sent_in_part) >= 2, sent_in_part)
        self.assertEqual([r.body for r in server.requests], [CONTENT.piece(n, size, 0, size) for n, size in enumerate(sizes)])

    def test_more_connections_than_the_soft_limit_of_open_files(self):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (70, limits[1]))
        barrier = threading.Barrier(60)
        work, server = self.perform(lambda c, r, n: barrier.wait(10) >= 0 and response(), *((STAT, {}),) * 60, concurrency=60)
        self.assertEqual((len(work.dones), work.failures, server.connections), (60, [], 60))

    def test_session_token_is_sent_and_signed(self):
        with Server(lambda c, r, n: response()) as server:
            made = make_engine(target(server), "s3://b/", dict(CREDENTIALS, session_token="tok/en=="), DEADLINES, QUICK)
            made.run(CountingWork([task(made.root("s3://b/"), STAT)]), 1)
            made.close()
        self.assertEqual(server.unsigned, [])
        self.assertEqual(server.requests[0].headers["x-amz-security-token"], "tok/en==")
        self.assertIn("x-amz-security-token", server.requests[0].headers["authorization"])

    def test_anonymous(self):
        work, server = self.perform(
            lambda c, r, n: response(), (PUT, {"size": 0}), (STAT, {"key": "a b"}), anonymous=True, verify_reads=True
        )
        self.assertEqual(work.failures, [])
        self.assertEqual([(r.method, r.path) for r in server.requests], [("PUT", "/bucket/prefix/key"), ("HEAD", "/bucket/prefix/a%20b")])
        for request in server.requests:
            self.assertEqual([name for name in request.headers if name.startswith(("x-amz", "auth"))], [])

    def test_anonymous_needs_no_credentials(self):
        with Server(lambda c, r, n: error(403, "AccessDenied", "for nobody"), anonymous=True) as server:
            made = make_engine(target(server, anonymous=True), "s3://b/", None, DEADLINES, QUICK)
            self.addCleanup(made.close)
            with self.assertRaisesRegex(TargetError, "AccessDenied: for nobody"):
                made.check()


class Dates(Case):
    """The host was suspended, or its clock was set: the date that requests keep for a minute is no longer that of the clock."""

    def test_what_was_signed_before_is_signed_anew(self):
        skewed = error(403, "RequestTimeTooSkewed")
        for kind, op, answer in ((RepeatedTask, GET, skewed), (RepeatedTask, GET, response(b"", 403)), (Task, PUT, skewed)):
            with self.subTest(op=op, answer=answer):
                self.suspend(kind, op, answer)

    def suspend(self, kind, op, answer):
        clock, together, kept = [1_700_000_000.0], threading.Barrier(4), Kept(1)
        well = response(b"abc" if op == GET else b"")

        def script(client, request, number):
            if number < 4:
                return well
            if number < 8:
                # All four are under way.
                together.wait(10)
                clock[0] = 1_700_001_000.0
            return answer if request.headers["x-amz-date"] == "20231114T221320Z" else well

        with Server(script) as server:
            engine, root = self.engine(server)
            root.endpoint.signer._clock = lambda: clock[0]
            tasks = [kind(op, root, "k", 3, 0, CONTENT, 0) for _ in range(12)]
            for made in tasks:
                if kind is RepeatedTask:
                    made.kept = kept
            work = CountingWork(tasks)
            engine.run(work, 4)
        self.assertEqual((len(work.dones), work.failures, server.unsigned), (12, [], []))
        self.assertEqual(work.retries, [("http_403", True)] * 4)
        self.assertEqual(work.requests, len(server.requests))

    def test_a_clock_that_is_wrong_fails_the_operation(self):
        work, server = self.perform(lambda c, r, n: error(403, "RequestTimeTooSkewed"), (GET, {"size": 3}))
        self.assertEqual((self.classes(work), work.retries, len(server.requests)), (["http_403"], [], 1))


class Region(Case):
    """A bucket that is elsewhere."""

    GET = (GET, {"size": 3})

    def moved(self, answer, *tasks, regions=("eu-9",), **options):
        """Performs against a server that answers so to whatever is not signed for one of the regions."""

        def script(client, request, number):
            return response(b"abc" if request.method == "GET" else b"") if request.region in regions else answer

        return self.perform(script, *tasks, **options)

    def test_each_way_to_say_so(self):
        xml = b"<Error><Code>%s</Code><Message>m</Message><Region>eu-9</Region></Error>"
        header = ["x-amz-bucket-region: eu-9"]
        for answer, error_class in (
            (response(b"", 301, header), "http_3xx"),
            (response(xml % b"TemporaryRedirect", 307), "http_3xx"),
            (response(xml % b"AuthorizationHeaderMalformed", 400), "http_400"),
            (response(b"", 400, header), "http_400"),
            (response(b"", 307, ["Location: https://bucket.s3.eu-9.amazonaws.com/prefix/key"]), "http_3xx"),
            (response(b"<Error><Code>PermanentRedirect</Code><Endpoint>b.s3-eu-9.amazonaws.com</Endpoint></Error>", 301), "http_3xx"),
        ):
            work, server = self.moved(answer, self.GET, self.GET)
            self.assertEqual((work.failures, work.retries, len(work.dones)), ([], [(error_class, True)], 2), answer)
            self.assertEqual([r.region for r in server.requests], ["us-east-1", "eu-9", "eu-9"])

    def test_requests_under_way_when_the_bucket_moves(self):
        together = threading.Barrier(4)

        def script(client, request, number):
            if request.region == "eu-9":
                return response(b"abc")
            together.wait(10)
            return response(b"", 301, ["x-amz-bucket-region: eu-9"])

        work, _ = self.perform(script, *(self.GET,) * 10, concurrency=4)
        self.assertEqual((work.failures, work.retries, len(work.dones)), ([], [("http_3xx", True)] * 4, 10))

    def test_check_moves_all_roots_of_the_bucket(self):
        page = response(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        moved = response(b"", 301, ["x-amz-bucket-region: eu-9"])
        with Server(lambda c, r, n: page if r.region == "eu-9" else moved) as server:
            engine, root = self.engine(server)
            other = engine.root("s3://bucket/other/")
            engine.check()
            work = CountingWork([task(root, STAT), task(other, STAT)])
            engine.run(work, 1)
        self.assertEqual((work.failures, work.retries), ([], []))
        self.assertEqual([r.region for r in server.requests], ["us-east-1", "eu-9", "eu-9", "eu-9"])

    def test_a_put_is_sent_again_whole(self):
        size = 600_000
        for sign in (False, True):
            work, server = self.moved(
                response(b"", 307, ["x-amz-bucket-region: eu-9"]), (PUT, {"size": size, "content": CONTENT}), sign_payload=sign
            )
            self.assertEqual((work.failures, work.bytes), ([], size))
            self.assertEqual([len(r.body) for r in server.requests], [size, size])

    def test_no_end_of_regions(self):
        def script(client, request, number):
            return response(b"", 301, ["x-amz-bucket-region: eu-2" if request.region == "eu-1" else "x-amz-bucket-region: eu-1"])

        work, server = self.perform(script, self.GET, self.GET)
        self.assertEqual((self.classes(work), work.retries), (["http_3xx"] * 2, [("http_3xx", True)]))
        self.assertEqual([r.region for r in server.requests], ["us-east-1", "eu-1", "eu-1"])
        self.assertIn("it had been sent to region eu-1 before", work.failures[0][2])

    def test_nowhere_to_go(self):
        for headers, detail in (
            (["x-amz-bucket-region: us-east-1"], "HTTP 301"),
            (["x-amz-bucket-region: eu/9"], "HTTP 301"),
            (["Location: http://elsewhere.example/key?X-Amz-Signature=abc"], "(Location http://elsewhere.example)"),
        ):
            work, server = self.perform(lambda c, r, n, h=headers: response(b"", 301, h), self.GET)
            self.assertEqual((self.classes(work), work.retries, len(server.requests)), (["http_3xx"], [], 1))
            self.assertIn(detail, work.failures[0][2])
            self.assertNotIn("abc", work.failures[0][2])

    def test_hosts(self):
        for url, path_style, before, after in (
            (None, False, "bucket.s3.us-east-1.amazonaws.com", "bucket.s3.eu-9.amazonaws.com"),
            ("https://s3.amazonaws.com", False, "bucket.s3.amazonaws.com", "bucket.s3.eu-9.amazonaws.com"),
            ("https://s3.dualstack.us-east-1.amazonaws.com", True, None, "s3.dualstack.eu-9.amazonaws.com"),
            ("https://s3.cn-north-1.amazonaws.com.cn", True, None, "s3.eu-9.amazonaws.com.cn"),
            ("https://s3.us-east-1.amazonaws.com.evil.example", True, None, "s3.us-east-1.amazonaws.com.evil.example"),
        ):
            places = EndpointMap(Target("s3", url, path_style=path_style), Credentials(ACCESS_KEY, SECRET_KEY))
            root = places.root("s3://bucket/")
            self.assertIn(before, (None, root.endpoint.host))
            # Numbers that no resolver is asked about.
            places._endpoint("bucket", after if path_style else after.partition(".")[2], "eu-9").addresses = [(2, ("192.0.2.1", 443))]
            moved = places.elsewhere(root, "eu-9")
            self.assertEqual((moved.host, moved.region), (after, "eu-9"))


class Framing(Case):
    BODY = CONTENT.piece(1, 300, 0, 300)

    def pieces(self, parts, pause=0.0):
        def script(client, request, number):
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
            return b""

        return self.perform(script, (GET, {"size": 300, "index": 1, "content": CONTENT}), verify_reads=True)

    def test_a_response_cut_anywhere(self):
        whole = b"HTTP/1.1 100 Continue\r\n\r\n" + response(self.BODY)
        for at in range(1, len(whole), 7):
            work, _ = self.pieces([whole[:at], whole[at:]], pause=0.001)
            self.assertEqual((work.failures, work.bytes), ([], 300), at)

    def test_chunked(self):
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"
        body = b"64\r\n" + self.BODY[:100] + b"\r\nC8;ext=1\r\n" + self.BODY[100:] + b"\r\n0\r\nTrailer: x\r\n\r\n"
        work, _server = self.pieces([head + body])
        self.assertEqual((work.failures, work.bytes), ([], 300))
        work, _server = self.pieces([head, *(body[at : at + 1] for at in range(len(body)))])
        self.assertEqual((work.failures, work.bytes), ([], 300))

    def test_chunked_garbage(self):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for body in (b"zz\r\n", b"-5\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"1" * 5000):
            work, _ = self.perform(lambda c, r, n, answer=head + body: answer, (GET, {}))
            self.assertEqual(self.classes(work), ["protocol"], body[:10])

    def test_connection_close(self):
        work, server = self.perform(lambda c, r, n: response(b"abc", headers=["Connection: close"]), *((GET, {"size": 3}),) * 5)
        self.assertEqual((len(work.dones), work.retries, server.connections), (5, [], 5))

    def test_http_10_ends_with_the_connection(self):
        def script(client, request, number):
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\nabc")

        work, _server = self.perform(script, *((GET, {"size": 3}),) * 3)
        self.assertEqual((len(work.dones), work.retries, work.bytes), (3, [], 9))

    def test_silent_close_after_each_response(self):
        """Requests that met the closing connection were never received, and must not be counted as sent."""

        def script(client, request, number):
            client.sendall(response(b"abc"))

        work, server = self.perform(script, *((GET, {"size": 3}),) * 50)
        self.assertEqual((len(work.dones), work.failures, len(server.requests)), (50, [], 50))
        self.assertEqual(set(work.retries), {("reset", False)})

    def test_idle_connection_closed_by_the_server(self):
        idle_closed = threading.Event()

        def script(client, request, number):
            if request.path.endswith("quick"):
                client.sendall(response(b"abc"))
                client.shutdown(socket.SHUT_WR)
                # Ends when the engine has closed its side, too.
                while client.recv(10):
                    pass
                idle_closed.set()
                return None
            return response(b"abc") if idle_closed.wait(5) else None

        work, _ = self.perform(script, (GET, {"key": "quick", "size": 3}), (GET, {"key": "slow", "size": 3}), concurrency=2)
        self.assertEqual((len(work.dones), work.retries, work.failures), (2, [], []))

    def test_more_than_the_response(self):
        work, server = self.perform(lambda c, r, n: response(b"abc") + b"HTTP/1.1 200 OK\r\n", *((GET, {"size": 3}),) * 3)
        self.assertEqual((len(work.dones), server.connections), (3, 3))

    def test_garbage(self):
        conflicting = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"
        signed = b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc"
        for answer in (b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\0" * 100, conflicting, signed, b"HTTP/1.1 101 Hm\r\n\r\n"):
            work, _ = self.perform(lambda c, r, n, answer=answer: answer, (GET, {}))
            self.assertEqual(self.classes(work), ["protocol"], answer)

    def test_endless_head(self):
        def script(client, request, number):
            client.sendall(b"HTTP/1.1 200 OK\r\n")
            for i in range(100000):
                client.sendall(b"X-%d: %s\r\n" % (i, b"y" * 1000))

        work, _ = self.perform(script, (GET, {}))
        self.assertEqual(self.classes(work), ["protocol"])

    def test_endless_error_body(self):
        def script(client, request, number):
            client.sendall(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                client.sendall(b"400\r\n" + b"z" * 1024 + b"\r\n")

        work, _ = self.perform(script, (GET, {}))
        self.assertEqual(self.classes(work), ["http_403"])


class Broken(Case):
    def test_reset_at_every_byte(self):
        whole = response(b"0123456789")
        for at in range(len(whole)):

            def script(client, request, number, at=at):
                if number:
                    return whole
                client.sendall(whole[:at])
                reset(client)
                return None

            work, server = self.perform(script, (GET, {"size": 10}))
            self.assertEqual((len(work.dones), work.bytes, len(server.requests)), (1, 10, 2), at)
            self.assertIn(work.retries[0][0], ("reset", "short_read"))

    def test_truncated_at_every_byte(self):
        whole = response(b"0123456789")
        for at in range(len(whole)):

            def script(client, request, number, at=at):
                client.sendall(whole[:at])

            work, _server = self.perform(script, (GET, {"size": 10}))
            kind = "short_read" if at else "reset"
            self.assertEqual((self.classes(work), work.retries, work.bytes), ([kind], [(kind, True)] * 2, 0))

    def test_slow_down_and_then_well(self):
        def script(client, request, number):
            return error(503, "SlowDown") if number < 2 else response()

        work, server = self.perform(script, (PUT, {"size": 10, "content": CONTENT}))
        self.assertEqual((len(work.dones), work.retries), (1, [("http_503", True)] * 2))
        self.assertEqual(server.connections, 1)

    def test_given_up_after_max_retries(self):
        for status in (429, 500, 502, 503, 504):
            work, server = self.perform(lambda c, r, n, status=status: error(status, "X"), (GET, {}))
            self.assertEqual((self.classes(work), len(work.retries), len(server.requests)), ([f"http_{status}"], 2, 3))

    def test_not_retried(self):
        for status, name in (
            (400, "http_400"),
            (403, "http_403"),
            (404, "http_404"),
            (301, "http_3xx"),
            (418, "http_4xx"),
            (501, "http_5xx"),
        ):
            work, _server = self.perform(lambda c, r, n, status=status: error(status, "X"), (GET, {}))
            self.assertEqual((self.classes(work), work.retries), ([name], []))

    def test_wrong_size_and_bytes(self):
        work, _ = self.perform(lambda c, r, n: response(b"abcd"), (GET, {"size": 3}), (GET, {"size": 5}), (STAT, {"size": 5}))
        self.assertEqual((self.classes(work), work.retries, work.bytes), (["verify"] * 3, [], 0))
        good = CONTENT.piece(2, 9000, 0, 9000)
        for at in (0, 4095, 4096, 8999):
            bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            keywords = {"size": 9000, "index": 2, "content": CONTENT}
            work, _ = self.perform(lambda c, r, n, bad=bad: response(bad if n else good), *((GET, keywords),) * 2, verify_reads=True)
            self.assertEqual((len(work.dones), self.classes(work)), (1, ["verify"]))

    def test_a_share_of_the_reads_is_compared(self):
        body, keywords = CONTENT.piece(2, 500, 0, 500), {"size": 500, "index": 1, "content": CONTENT}
        for share, found in ((0.0, []), (0.3, [3, 6, 9]), (1.0, list(range(10)))):
            work, _ = self.perform(
                lambda c, r, n: response(body), *((GET, {**keywords, "key": str(n)}) for n in range(10)), verify_reads=share
            )
            self.assertEqual(self.classes(work), ["verify"] * len(found))
            self.assertEqual([int(made.key) for made in work.dones], [n for n in range(10) if n not in found])

    def test_refusal_before_the_body_was_sent(self):
        def script(client, request, number):
            client.sendall(error(403, "AccessDenied"))

        work, _ = self.perform(script, (PUT, {"size": 64 * 1024 * 1024, "content": CONTENT}), read_body=False)
        self.assertEqual(self.classes(work), ["http_403"])
        self.assertIn("AccessDenied", work.failures[0][2])

    def test_success_before_the_body_was_sent(self):
        def script(client, request, number):
            client.sendall(response())
            # Until the client hangs up: a server that does it first may be quicker than a client that is held up.
            gone = select.poll()
            gone.register(client, select.POLLRDHUP)
            gone.poll(20_000)

        work, _ = self.perform(script, (PUT, {"size": 64 * 1024 * 1024, "content": CONTENT}), read_body=False)
        self.assertEqual((self.classes(work), work.bytes), (["protocol"], 0))

    def test_refused(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            made = make_engine(Target("s3", url), "s3://b/", CREDENTIALS, DEADLINES, QUICK)
            work = CountingWork([task(made.root("s3://b/"), GET)])
            made.run(work, 1)
            self.assertEqual((self.classes(work), work.retries, work.requests), (["refused"], [("refused", False)] * 2, 0))
            with self.assertRaisesRegex(Transient, "refused"):
                made.check()

    def test_unknown_name(self):
        made = make_engine(Target("s3", "http://no-such-host.invalid"), "s3://b/", CREDENTIALS, DEADLINES, QUICK)
        work = CountingWork([task(made.root("s3://b/"), GET)])
        made.run(work, 1)
        self.assertEqual((self.classes(work), work.requests), (["dns"], 0))

    def test_secrets_are_not_repeated(self):
        body = f"<Error><Code>X</Code><Message>{SECRET_KEY} {ACCESS_KEY}</Message><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId></Error>"
        work, _ = self.perform(lambda c, r, n: response(body.encode(), 403), (GET, {}))
        self.assertNotIn(SECRET_KEY, work.failures[0][2])
        self.assertNotIn(ACCESS_KEY, work.failures[0][2])

    def test_the_server_goes_and_comes_back(self):
        with Server(lambda c, r, n: response(b"abc") if n != 3 else None) as server:
            engine, root = self.engine(server)
            work = CountingWork(task(root, GET, size=3) for _ in range(10))
            engine.run(work, 1)
            self.assertEqual((len(work.dones), work.requests, len(server.requests)), (10, 11, 11))


class DeadlinesTest(Case):
    def test_first_byte(self):
        release = threading.Event()
        self.addCleanup(release.set)
        work, _ = self.perform(lambda c, r, n: release.wait(20) and None if n < 1 else response(b"abc") if release.set() is None else None,
            (GET, {"size": 3}), deadlines=Deadlines(5, 0.2, 5))  # fmt: skip
        self.assertEqual((work.retries, len(work.dones)), ([("timeout_first_byte", True)], 1))

    def test_a_slow_server_is_not_a_late_client_and_a_client_that_stands_still_is(self):
        class Stands(CountingWork):
            def done(self, task, end_ns, size_bytes):
                super().done(task, end_ns, size_bytes)
                if stands and len(self.dones) == 5:
                    time.sleep(1.0)

        def script(client, request, number):
            if not stands and number == 5:
                time.sleep(1.0)
            return response(b"abc")

        for stands in (False, True):
            with Server(script) as server:
                engine, root = self.engine(server)
                work = Stands(task(root, GET, size=3) for _ in range(10))
                engine.run(work, 2)
            self.assertEqual(len(work.dones), 10)
            self.assertEqual(work.late_ns > 500_000_000, stands, work.late_ns)

    def test_slow_drip(self):
        def script(client, request, number):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(1000):
                client.sendall(b"x")
                time.sleep(0.01)

        began = time.monotonic()
        work, _ = self.perform(script, (GET, {"size": 1000}), deadlines=Deadlines(5, 5, 0.3), retry=Retry(max_retries=0))
        self.assertEqual(self.classes(work), ["timeout_total"])
        self.assertLess(time.monotonic() - began, 3)

    def test_connect(self):
        # A listener whose queue is full answers no SYN.
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            made = make_engine(Target("s3", url), "s3://b/", CREDENTIALS, Deadlines(0.2, 5, 5), Retry(max_retries=0))
            work = CountingWork([task(made.root("s3://b/"), GET)])
            made.run(work, 1)
            for filler in fillers:
                filler.close()
        self.assertEqual((self.classes(work), work.requests), (["timeout_connect"], 0))


class Listing(Case):
    def page(self, keys, token=""):
        contents = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
        more = (
            f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
            if token
            else "<IsTruncated>false</IsTruncated>"
        )
        return response(f'<?xml version="1.0"?>\n<ListBucketResult><Prefix>p</Prefix>{more}{contents}</ListBucketResult>\n'.encode())

    def test_pages(self):
        tokens = {"": "a&amp;b/+=", "a%26b%2F%2B%3D": "2"}

        def script(client, request, number):
            query = dict(part.split("=") for part in request.query.split("&"))
            self.assertEqual((query["list-type"], query["encoding-type"], query["prefix"]), ("2", "url", "prefix%2F"))
            token = query.get("continuation-token", "")
            if number in (1, 2, 4, 5):
                return error(503, "SlowDown")
            return self.page(["k"] * 1000, tokens[token]) if token in tokens else self.page(["k"] * 17)

        work, _server = self.perform(script, (LIST, {"key": ""}))
        self.assertEqual((len(work.dones), work.pages, work.retries, work.bytes), (1, 2, [("http_503", True)] * 4, 0))
        self.assertEqual(work.dones[0].listed, 2017)

    def test_a_token_that_never_changes(self):
        work, _ = self.perform(lambda c, r, n: self.page(["k"], "same"), (LIST, {"key": ""}))
        self.assertEqual(self.classes(work), ["protocol"])

    def test_what_is_not_a_listing(self):
        for body in (b"", b"<html>", b"<ListBucketResult><Contents><Key>a</Key>"):
            work, _ = self.perform(lambda c, r, n, body=body: response(body), (LIST, {"key": ""}))
            self.assertEqual(self.classes(work), ["protocol"])


class Loop(Case):
    def test_control_while_the_server_is_silent(self):
        """Control is heard at once although nothing moves, and what it stops ends when the deadline ends the last operation."""
        read_fd, write_fd = os.pipe()
        heard = []
        release = threading.Event()

        def on_control():
            heard.append((time.monotonic(), os.read(read_fd, 10)))

        with Server(lambda c, r, n: release.wait(10) and response(b"abc")) as server:
            engine, root = self.engine(server)
            work = CountingWork([task(root, GET, size=3)])
            thread = threading.Thread(target=engine.run, args=(work, 4, read_fd, on_control))
            thread.start()
            wait_for(lambda: server.requests, "the request")
            sent = time.monotonic()
            os.write(write_fd, b"x")
            wait_for(lambda: heard, "control")
            release.set()
            thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertLess(heard[0][0] - sent, 1)
        self.assertEqual((len(work.dones), [data for _, data in heard]), (1, [b"x"]))
        os.close(read_fd)
        os.close(write_fd)

    def test_an_idle_connection_that_is_closed_just_as_it_is_taken_ends_nothing(self):
        """Its next request is made, and has not left, when the close is looked at: a load balancer ends what is idle all at once."""
        both, others = threading.Barrier(2), []

        def script(client, request, number):
            if number < 6:
                # Two connections, each with several requests.
                both.wait(10)
                return response(b"abc")
            if number == 6:
                for other in server._clients:
                    if other is not client:
                        other.shutdown(socket.SHUT_RDWR)
                        others.append(other)
                return response(b"abc", headers=("Connection: close",))
            return response(b"abc")

        class Poller:
            """Gives both events in one turn, the response first."""

            def __init__(self, poller):
                self.register, self.modify, self.unregister = poller.register, poller.modify, poller.unregister
                self.fileno, self._poll, self.held = poller.fileno, poller.poll, True

            def poll(self, timeout_s, most):
                events = self._poll(timeout_s, most)
                if not self.held:
                    return events
                if len(events) < 2:
                    return []
                self.held = False
                busy = [fd for fd, _ in events if engine._connections[fd].task is not None]
                return sorted(events, key=lambda event: event[0] not in busy)

        with Server(script) as server:
            engine, root = self.engine(server)
            engine.run(CountingWork(task(root, GET, size=3) for _ in range(6)), 2)
            engine._poller = Poller(engine._poller)
            work = CountingWork(task(root, GET, size=3) for _ in range(2))
            engine.run(work, 1)
            self.assertFalse(engine._poller.held)
        self.assertEqual((len(work.dones), work.failures, len(others)), (2, [], 1))
        self.assertEqual(work.requests, len(server.requests) - 6)

    def test_an_error_in_control_ends_the_run(self):
        read_fd, write_fd = os.pipe()
        os.write(write_fd, b"x")

        def on_control():
            raise KeyboardInterrupt

        with Server(lambda c, r, n: response(b"abc")) as server:
            engine, root = self.engine(server)
            with self.assertRaises(KeyboardInterrupt):
                engine.run(CountingWork(task(root, GET, size=3) for _ in range(100000)), 4, read_fd, on_control)
            work = CountingWork([task(root, GET, size=3)])
            engine.run(work, 1)
        self.assertEqual(len(work.dones), 1)
        os.close(read_fd)
        os.close(write_fd)

    def test_paced_work_starts_on_time(self):
        interval_ns, count = 3_000_000, 60

        class Paced(CountingWork):
            def next(self, now_ns):
                if not self.tasks or now_ns < self.wake_ns:
                    return None
                made = self.tasks.pop()
                made.start_ns = self.wake_ns
                self.late_ns.append(now_ns - self.wake_ns)
                self.wake_ns += interval_ns
                return made

        medians = []
        with Server(lambda c, r, n: response(b"abc")) as server:
            engine, root = self.engine(server)
            # The best of several rounds: a busy machine delays some, a wait that rounds to milliseconds would delay all.
            while len(medians) < 10 and min(medians, default=1 << 62) > 300_000:
                work = Paced(task(root, GET, size=3) for _ in range(count))
                work.wake_ns = time.perf_counter_ns() + 20_000_000
                work.late_ns = []
                engine.run(work, 8)
                self.assertEqual(len(work.dones), count)
                medians.append(sorted(work.late_ns)[count // 2])
        self.assertLess(min(medians), 300_000)

    def test_one_large_object_does_not_hold_up_small_ones(self):
        order, last_small = [], threading.Event()

        def script(client, request, number):
            if not request.path.endswith("large"):
                return response(b"abc")
            answer = response(bytes(64 << 20))
            client.sendall(answer[: 32 << 20])
            last_small.wait(10.0)
            return answer[32 << 20 :]

        with Server(script) as server:
            engine, root = self.engine(server)
            work = CountingWork([task(root, GET, key="large", size=64 << 20), *(task(root, GET, key="small", size=3) for _ in range(20))])
            done = work.done

            def note(made, end_ns, size):
                order.append(made.key)
                if order.count("small") == 20:
                    last_small.set()
                done(made, end_ns, size)

            work.done = note
            engine.run(work, 2)
        self.assertEqual((len(work.dones), order[-1]), (21, "large"))

    def test_retries_do_not_block_the_loop(self):
        refused = []

        def script(client, request, number):
            if request.path.endswith("bad") and not refused:
                refused.append(request)
                return error(503, "SlowDown")
            return response(b"abc")

        with Server(script) as server:
            engine, root = self.engine(server, retry=Retry(max_retries=3, initial_delay_s=0.3, jitter=0.0))
            work = CountingWork([task(root, GET, key="bad", size=3), *(task(root, GET, key="good", size=3) for _ in range(20))])
            engine.run(work, 2)
        self.assertEqual([made.key for made in work.dones], ["good"] * 20 + ["bad"])
        self.assertLess(max(work.latencies_ns[:20]), 250_000_000)
        self.assertGreater(work.latencies_ns[20], 290_000_000)


class Check(Case):
    def refused(self, answer, **options):
        with Server(lambda c, r, n: answer) as server:
            engine, _ = self.engine(server, **options)
            with self.assertRaises((TargetError, Transient)) as caught:
                engine.check()
        return caught.exception

    def test_remedies(self):
        for status, code, expected in (
            (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            (403, "AccessDenied", "s3:ListBucket"),
            (404, "NoSuchBucket", "Create the bucket"),
            (403, "RequestTimeTooSkewed", "clock"),
            (400, "AuthorizationHeaderMalformed", "region"),
        ):
            problem = self.refused(error(status, code))
            self.assertIsInstance(problem, TargetError)
            self.assertIn(expected, str(problem))
            self.assertIn("s3://bucket/prefix/", str(problem))

    def test_other_region(self):
        problem = self.refused(response(b"", 301, ["x-amz-bucket-region: eu-west-9"]))
        self.assertIn("another region eu-west-9", str(problem))
        self.assertIn("had been sent to region eu-west-9 before", str(problem))

    def test_overload_is_transient(self):
        self.assertIsInstance(self.refused(error(503, "SlowDown")), Transient)

    def test_write_probe(self):
        page = response(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        with Server(lambda c, r, n: page if r.method == "GET" else response()) as server:
            engine, _ = self.engine(server)
            engine.check(write=True)
        self.assertEqual([r.method for r in server.requests], ["GET", "PUT", "DELETE"])
        self.assertEqual(server.requests[1].path, server.requests[2].path)
        with Server(lambda c, r, n: page if r.method == "GET" else error(403, "AccessDenied")) as server:
            engine, _ = self.engine(server)
            with self.assertRaisesRegex(TargetError, "PutObject"):
                engine.check(write=True)

    def test_a_probe_stays_on_no_storage_that_is_busy(self):
        page = response(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        busy = [error(503, "SlowDown")]

        def answer(connection, request, number):
            return page if request.method == "GET" else busy.pop() if request.method == "DELETE" and busy else response()

        with Server(answer) as server:
            engine, _ = self.engine(server)
            engine.check(write=True)
        self.assertEqual([r.method for r in server.requests], ["GET", "PUT", "DELETE", "DELETE"])

    def test_bad_targets(self):
        for url in ("127.0.0.1:9000", "ftp://x", "http://", "http://x:99999", "http://x:y"):
            with self.assertRaises(TargetError):
                make_engine(Target("s3", url), "s3://b/", CREDENTIALS, DEADLINES, QUICK)
        for uri in ("s3:///x", "file:///x", "b/x"):
            with self.assertRaises(TargetError):
                make_engine(Target("s3", "http://x"), uri, CREDENTIALS, DEADLINES, QUICK)

    def test_addressing(self):
        for path_style, path, name in ((True, "/base/bucket/a%20b/", "[::1]:81"), (False, "/base/a%20b/", "bucket.s3.example")):
            url = "http://[::1]:81/base/" if path_style else "https://s3.example/base"
            made = make_engine(Target("s3", url, path_style=path_style), "s3://bucket/a b/", CREDENTIALS, DEADLINES, QUICK)
            root = made.root("s3://bucket/a b/")
            self.assertEqual((root.path, root.endpoint.name), (path, name))


class Tls(Case):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        cls.pem = str(Path(cls.directory.name) / "server.pem")
        cls.key = cls.pem + ".key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", cls.key,
             "-out", cls.pem, "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        cls.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cls.context.load_cert_chain(cls.pem, cls.key)

    def test_put_and_get(self):
        size = 2_000_001
        objects = {}

        def script(client, request, number):
            if request.method == "PUT":
                objects[request.path] = request.body
                return response()
            return response(objects[request.path])

        for options in ({"ca_file": self.pem}, {"verify_tls": False}):
            with Server(script, context=self.context) as server:
                engine, root = self.engine(server, verify_reads=True, **options)
                for op in (PUT, GET):
                    work = CountingWork(task(root, op, key=str(i), size=size, index=i, content=CONTENT) for i in range(6))
                    engine.run(work, 3)
                    self.assertEqual((work.failures, work.retries, work.bytes), ([], [], 6 * size))
                engine.close()
            self.assertEqual((server.unsigned, len(server.requests)), ([], 12))

    def test_connections_take_up_the_session_of_an_earlier_one(self):
        with Server(lambda c, r, n: response(b"abc", headers=["Connection: close"]), context=self.context) as server:
            engine, root = self.engine(server, ca_file=self.pem)
            work = CountingWork(task(root, GET, size=3) for _ in range(5))
            engine.run(work, 1)
        self.assertEqual((len(work.dones), work.retries), (5, []))
        self.assertEqual(server.resumed, [False, True, True, True, True])

    def test_a_certificate_of_nobody(self):
        with Server(lambda c, r, n: response(), context=self.context) as server:
            engine, root = self.engine(server)
            with self.assertRaisesRegex(TargetError, "certificate.*ca_file"):
                engine.check()
            work = CountingWork([task(root, GET)])
            engine.run(work, 1)
        self.assertEqual((self.classes(work), work.requests, len(server.requests)), (["tls"], 0, 0))

    def test_not_tls(self):
        with Server(lambda c, r, n: response()) as server:
            made = make_engine(Target("s3", f"https://127.0.0.1:{server.port}"), "s3://b/", CREDENTIALS, DEADLINES, QUICK)
            # The server waits for more of what it takes for a request: nothing but the deadline ends that.
            made._deadlines = Deadlines(0.3, 5, 5)
            with self.assertRaises((TargetError, Transient)):
                made.check()


if __name__ == "__main__":
    unittest.main()
