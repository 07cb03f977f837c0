"""The native S3 engine against a scripted server: copies on the server, and deletes of many objects with one request."""

import base64
import hashlib
import re
import unittest
from html import escape, unescape

from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import COPY, DELETE, GET
from sai3ssh.agent.engines.tasks import CopyTask, DeleteBatch
from sai3ssh.model import Multipart, Ranges, Retry
from tests.agent.s3_server import CREDENTIALS, DEADLINES, QUICK, CountingWork, Server, error, response, target, task

COPIED = b'<?xml version="1.0"?><CopyObjectResult><ETag>"e"</ETag></CopyObjectResult>'


def late_error(code):
    """An error after a 200."""
    return response(f"<?xml?>\n<Error><Code>{code}</Code><Message>said late</Message></Error>".encode())


class Case(unittest.TestCase):
    def perform(self, script, *tasks, retry=QUICK, **options):
        """The work after tasks, each made of a root by a function, were performed one after another against the script; the server."""
        with Server(script, anonymous=options.get("anonymous", False)) as server:
            engine = make_engine(target(server, **options), "s3://bucket/a b/", CREDENTIALS, DEADLINES, retry)
            self.addCleanup(engine.close)
            work = CountingWork(make(engine.root("s3://bucket/a b/")) for make in tasks)
            engine.run(work, 1)
        self.assertEqual(server.unsigned, [], "a signature was wrong")
        self.assertEqual(work.requests, len(server.requests), (work.retries, work.failures))
        return work, server


def copy(root):
    return CopyTask(root, "to/ü", 4, task(root, COPY, key="from+ü&", size=5000, index=7), "s3://bucket/a b/")


class Copies(Case):
    def test_the_source_is_named_and_signed_and_no_bytes_are_sent(self):
        for sign in (False, True):
            work, server = self.perform(lambda c, r, n: response(COPIED), copy, sign_payload=sign)
            self.assertEqual((work.failures, work.bytes), ([], 5000))
            (request,) = server.requests
            self.assertEqual((request.method, request.path, request.query, request.body), ("PUT", "/bucket/a%20b/to/%C3%BC", "", b""))
            self.assertEqual(request.headers["x-amz-copy-source"], "/bucket/a%20b/from%2B%C3%BC%26")
            self.assertEqual(request.headers["content-length"], "0")
            self.assertIn("x-amz-copy-source", request.headers["authorization"])

    def test_nobody_asks_without_a_signature(self):
        work, server = self.perform(lambda c, r, n: response(COPIED), copy, anonymous=True)
        self.assertEqual(work.failures, [])
        self.assertEqual(server.requests[0].headers["x-amz-copy-source"], "/bucket/a%20b/from%2B%C3%BC%26")
        self.assertEqual([name for name in server.requests[0].headers if name.startswith(("auth", "x-amz-content"))], [])

    def test_large_objects_are_copied_with_one_request_whatever_puts_and_gets_do(self):
        parts = {"ranges": Ranges(1000, 4, 1000), "multipart": Multipart(1000, 1000, 4)}
        work, server = self.perform(lambda c, r, n: response(COPIED), copy, **parts)
        self.assertEqual((work.failures, work.bytes, len(server.requests)), ([], 5000, 1))

    def test_an_error_after_a_200_is_an_error(self):
        work, server = self.perform(lambda c, r, n: late_error("InternalError") if n < 2 else response(COPIED), copy)
        self.assertEqual((work.failures, work.retries, len(work.dones)), ([], [("http_500", True)] * 2, 1))
        self.assertEqual(server.connections, 1)
        work, _ = self.perform(lambda c, r, n: late_error("NoSuchThing"), copy)
        self.assertEqual((work.retries, [failure[:2] for failure in work.failures]), ([], [("protocol", True)]))
        self.assertIn("COPY s3://bucket/a b/to/ü: HTTP 200 NoSuchThing: said late", work.failures[0][2])
        work, _ = self.perform(lambda c, r, n: response(b""), copy)
        self.assertEqual([failure[0] for failure in work.failures], ["protocol"])

    def test_a_source_that_is_missing(self):
        work, _ = self.perform(lambda c, r, n: error(404, "NoSuchKey"), copy)
        self.assertEqual([failure[:2] for failure in work.failures], [("http_404", True)])


class Batches(Case):
    KEYS = ("plain", "a<b>&c", 'it\'s "quoted"', "ü/€", "z")

    def delete(self, root):
        self.batch = DeleteBatch([task(root, DELETE, key=key, index=i) for i, key in enumerate(self.KEYS)])
        return self.batch

    def answer(self, request, *refused, leave_out=()):
        """What a server says of the keys of a request."""
        keys = [unescape(key) for key in re.findall(r"<Object><Key>([^<]*)</Key></Object>", request.body.decode())]
        entries = []
        for key in keys:
            name = key.rpartition("a b/")[2]
            code = dict(refused).get(name)
            if name not in leave_out:
                said = f"<Code>{code}</Code><Message>no &amp; no</Message>" if code else ""
                entries.append(f"<{'Error' if code else 'Deleted'}><Key>{escape(key)}</Key>{said}</{'Error' if code else 'Deleted'}>")
        text = f'<?xml version="1.0"?>\n<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{"".join(entries)}</DeleteResult>\n'
        return response(text.encode())

    def test_one_request_names_all_keys_and_has_a_digest(self):
        for sign in (False, True):
            work, server = self.perform(lambda c, r, n: self.answer(r), self.delete, sign_payload=sign)
            self.assertEqual((work.failures, work.dones, work.bytes, self.batch.refused), ([], [self.batch], 0, {}))
            (request,) = server.requests
            self.assertEqual((request.method, request.path, request.query), ("POST", "/bucket", "delete="))
            self.assertEqual(base64.b64decode(request.headers["content-md5"]), hashlib.md5(request.body).digest())
            found = [unescape(key) for key in re.findall("<Key>([^<]*)</Key>", request.body.decode())]
            self.assertEqual(found, [f"a b/{key}" for key in self.KEYS])

    def test_each_key_has_its_own_result(self):
        refused = (("plain", "AccessDenied"), ("ü/€", "SlowDown"), ("z", "Strange"), ("a<b>&c", "NoSuchKey"))
        work, _ = self.perform(lambda c, r, n: self.answer(r, *refused, leave_out=('it\'s "quoted"',)), self.delete)
        self.assertEqual((work.failures, work.dones), ([], [self.batch]))
        found = {one.key: said for one, said in self.batch.refused.items()}
        self.assertEqual([found[key][0] for key in self.KEYS], ["http_403", "http_404", "protocol", "http_503", "other"])
        self.assertEqual(found["plain"][1], "AccessDenied: no & no")
        self.assertIn("does not name this one", found['it\'s "quoted"'][1])

    def test_an_answer_that_is_lost_is_asked_for_again(self):
        work, server = self.perform(lambda c, r, n: [None, error(503, "SlowDown"), self.answer(r, ("z", "AccessDenied"))][n], self.delete)
        self.assertEqual((work.retries, work.failures), ([("reset", True), ("http_503", True)], []))
        self.assertEqual([one.key for one in self.batch.refused], ["z"])
        self.assertEqual(len({request.body for request in server.requests}), 1)

    def test_answers_that_are_none(self):
        whole = self.answer
        for said, expected in (
            (lambda r: late_error("InternalError"), "http_500"),
            (lambda r: response(b"<html>"), "protocol"),
            (lambda r: response(b""), "protocol"),
            (lambda r: response(whole(r).partition(b"\r\n\r\n")[2][:-30]), "protocol"),
            (lambda r: error(501, "NotImplemented"), "http_5xx"),
            (lambda r: error(403, "AccessDenied"), "http_403"),
        ):
            work, _ = self.perform(lambda c, r, n, said=said: said(r), self.delete, retry=Retry(max_retries=0))
            self.assertEqual([failure[0] for failure in work.failures], [expected])
        self.assertIn("DELETE of 5 objects, the first s3://bucket/a b/plain", work.failures[0][2])

    def test_a_long_answer_is_read_to_its_end_and_the_connection_goes_on(self):
        def many(root):
            self.batch = DeleteBatch([task(root, DELETE, key=f"{i:0900d}", index=i) for i in range(1000)])
            return self.batch

        work, server = self.perform(
            lambda c, r, n: response() if r.method == "GET" else self.answer(r, (f"{999:0900d}", "AccessDenied")),
            many, lambda root: task(root, GET, size=0),
        )  # fmt: skip
        self.assertEqual((work.failures, len(work.dones), server.connections), ([], 2, 1))
        self.assertEqual([one.index for one in self.batch.refused], [999])
