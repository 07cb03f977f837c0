"""Preflight's checks of S3 endpoints and buckets, each against a server that is broken in one way."""

import contextlib
import os
import socket
import ssl
import tempfile
import time
import unittest
import urllib.parse
from unittest import mock

from sai3ssh.agent.preflight import storage as storage_checks
from sai3ssh.agent.preflight.checks import Sheet
from sai3ssh.agent.preflight.request import Storage
from sai3ssh.findings import Level
from tests.agent.certificates import make_certificate
from tests.agent.s3_server import CREDENTIALS, SECRET_KEY, Server, error, response

ALL = ("get", "put", "list", "stat", "delete")
READS = ("get", "stat", "list")


class Bucket:
    """A script for Server: a bucket in memory that can be told to misbehave."""

    def __init__(self, keys=(), versioned=False, denied=(), settings=None, date=None, answers=None):
        self.objects = {f"p/{key}": b"x" * 10 for key in keys}
        self.versions = set()
        self.versioned = versioned
        self.denied = denied
        self.settings = settings or {}
        self.date = date
        self.answers = answers or {}

    def __call__(self, client, request, number):
        answer = self.answer(request)
        if answer is None or self.date is None:
            return answer
        head, mark, body = answer.partition(b"\r\n")
        return head + mark + f"Date: {self.date}\r\n".encode() + body

    def answer(self, request):
        if "authorization" not in request.headers:
            return response(status=403)
        key = urllib.parse.unquote(request.path)[len("/bucket/") :]
        query = dict(urllib.parse.parse_qsl(request.query, keep_blank_values=True))
        kind = {"PUT": "put", "GET": "get" if key else "list", "HEAD": "stat" if key else "head", "DELETE": "delete"}[request.method]
        for name in query:
            if name in ("versioning", "object-lock", "lifecycle"):
                return self.settings.get(name, error(404, "NoSuchLifecycleConfiguration" if name == "lifecycle" else "NotThere"))
        if kind in self.answers:
            return self.answers[kind](self, key)
        if kind in self.denied or ("versionId" in query and "version" in self.denied):
            return error(403, "AccessDenied")
        return getattr(self, kind)(key, query, request)

    def head(self, key, query, request):
        return response()

    def list(self, key, query, request):
        keys = [key for key in sorted(self.objects) if key.startswith(query["prefix"])][: int(query.get("max-keys", 1000))]
        found = "".join(f"<Contents><Key>{urllib.parse.quote(key)}</Key></Contents>" for key in keys)
        return response(f"<ListBucketResult>{found}<IsTruncated>false</IsTruncated></ListBucketResult>".encode())

    def put(self, key, query, request):
        self.objects[key] = request.body
        return response(headers=self.version())

    def get(self, key, query, request):
        return response(self.objects[key]) if key in self.objects else error(404, "NoSuchKey")

    def stat(self, key, query, request):
        return response() if key in self.objects else response(status=404)

    def delete(self, key, query, request):
        if "versionId" in query:
            self.versions.discard(query["versionId"])
            return response(status=204)
        self.objects.pop(key, None)
        return response(status=204, headers=self.version())

    def version(self):
        if not self.versioned:
            return ()
        name = f"v{len(self.versions) + 1}"
        self.versions.add(name)
        return (f"x-amz-version-id: {name}",)


class Case(unittest.TestCase):
    def check(self, url, operations=ALL, skip=(), uri="s3://bucket/p/", limit_s=10.0, **options):
        """The findings of one target, by check."""
        sheet = Sheet(skip)
        entry = Storage(uri, url, operations=operations, **options)
        began = time.monotonic()
        storage_checks.check_storage(sheet, [entry], CREDENTIALS, began + limit_s)
        self.assertLess(time.monotonic() - began, limit_s + 1)
        found = {}
        for finding in sheet.findings():
            self.assertNotIn(finding.check, found)
            self.assertNotIn(SECRET_KEY, finding.found)
            if finding.level in (Level.WARNING, Level.FAILURE):
                self.assertTrue(finding.expected and finding.remedy, finding)
            found[finding.check] = finding
        return found

    def serve(self, script, **options):
        context = options.pop("context", None)
        with Server(script, context=context) as server:
            found = self.check(server.url, **options)
        self.requests = server.requests
        # The one without credentials is meant to be.
        self.assertEqual([request.method for request in server.unsigned], ["HEAD"] * min(1, len(server.requests)))
        return found

    def only(self, found, level, check, *texts):
        """The check has that level, with those texts, and no other has one as bad."""
        self.assertEqual([name for name, finding in found.items() if finding.level is level], [check], found)
        for text in texts:
            self.assertIn(text, f"{found[check].found} | {found[check].remedy}")
        if level is Level.WARNING:
            self.assertEqual([name for name, finding in found.items() if finding.level is Level.FAILURE], [])


class Buckets(Case):
    def test_healthy(self):
        bucket = Bucket(["a"])
        found = self.serve(bucket)
        self.assertEqual({finding.level for finding in found.values()}, {Level.OK})
        self.assertEqual(
            list(found),
            ["storage." + name for name in (
                "credentials", "dns", "tcp", "http", "clock", "list", "rtt", "versioning", "object_lock", "lifecycle",
                "put", "get", "stat", "delete",
            )],
        )  # fmt: skip
        self.assertEqual(list(bucket.objects), ["p/a"])
        self.assertGreater(found["storage.rtt"].values["median_ms"], 0)

    def test_only_what_the_workload_does(self):
        bucket = Bucket()
        found = self.serve(bucket, operations=("put", "list"))
        self.assertIn("storage.put", found)
        self.assertFalse({"storage.get", "storage.stat", "storage.delete"} & set(found))
        self.assertEqual(bucket.objects, {})

    def test_a_workload_that_reads_writes_nothing(self):
        bucket = Bucket(["a b+ü"])
        bucket.objects["p/a b+ü"] = b"more than anybody wants to read" * 100_000
        found = self.serve(bucket, operations=READS)
        self.assertEqual({finding.level for finding in found.values()}, {Level.OK})
        self.assertLessEqual({request.method for request in self.requests}, {"GET", "HEAD"})
        self.assertIn("/bucket/p/a%20b%2B%C3%BC", [request.path for request in self.requests])

    def test_nothing_to_read(self):
        self.only(self.serve(Bucket(), operations=READS), Level.WARNING, "storage.list", "nothing is below the prefix", "Prepare")

    def test_deletes_of_others_objects_are_tried_on_none(self):
        bucket = Bucket(["a"])
        found = self.serve(bucket, operations=("delete",))
        self.assertEqual(found["storage.delete"].level, Level.OK)
        self.assertEqual(list(bucket.objects), ["p/a"])
        self.assertNotIn("PUT", {request.method for request in self.requests})
        self.only(self.serve(Bucket(denied=("delete",)), operations=("delete",)), Level.FAILURE, "storage.delete", "s3:DeleteObject")

    def test_read_only_bucket(self):
        found = self.serve(Bucket(denied=("put", "delete")))
        self.only(found, Level.FAILURE, "storage.put", "denied access", "s3:PutObject", "bucket")
        self.assertEqual([found[f"storage.{op}"].level for op in ("get", "stat", "delete")], [Level.SKIPPED] * 3)
        self.assertIn("storage.put", found["storage.get"].found)

    def test_one_right_is_missing(self):
        for operation, permission in (("get", "s3:GetObject"), ("stat", "s3:GetObject"), ("list", "s3:ListBucket")):
            bucket = Bucket(denied=(operation,))
            found = self.serve(bucket)
            self.only(found, Level.FAILURE, f"storage.{operation}", permission)
            # Each right is another one to give: the rest is told at once.
            self.assertEqual((found["storage.put"].level, found["storage.delete"].level), (Level.OK, Level.OK))
            self.assertEqual(bucket.objects, {})

    def test_server_that_is_busy_for_a_moment(self):
        busy = {"put": 1, "list": 2, "delete": 1}

        class Busy(Bucket):
            def answer(self, request):
                for kind, method in (("put", "PUT"), ("list", "GET"), ("delete", "DELETE")):
                    if request.method == method and busy[kind]:
                        busy[kind] -= 1
                        return error(503, "SlowDown")
                return super().answer(request)

        found = self.serve(Busy(["a"]))
        self.assertEqual({finding.level for finding in found.values()}, {Level.OK})
        self.assertEqual(busy, {"put": 0, "list": 0, "delete": 0})

    def test_probe_that_cannot_be_removed(self):
        bucket = Bucket(denied=("delete",))
        found = self.serve(bucket)
        self.only(found, Level.FAILURE, "storage.delete", "s3:DeleteObject")
        self.assertEqual(found["storage.probe"].level, Level.WARNING)
        self.assertIn(f"s3://bucket/{next(iter(bucket.objects))} could not be removed", found["storage.probe"].found)
        self.only(self.serve(Bucket(denied=("delete",)), operations=("put",)), Level.WARNING, "storage.probe", "aws s3 rm")

    def test_probe_whose_answer_is_lost_is_removed(self):
        bucket = Bucket(answers={"put": lambda self, key: self.objects.update({key: b""})})
        self.only(self.serve(bucket), Level.FAILURE, "storage.put", "closed the connection")
        self.assertEqual(bucket.objects, {})
        self.assertIn("DELETE", [request.method for request in self.requests])

    def test_probe_is_removed_when_its_reading_fails(self):
        bucket = Bucket(answers={"get": lambda self, key: None})
        found = self.serve(bucket)
        self.only(found, Level.FAILURE, "storage.get", "closed the connection")
        self.assertEqual(found["storage.stat"].level, Level.SKIPPED)
        self.assertEqual(bucket.objects, {})

    def test_other_bytes_come_back(self):
        self.only(self.serve(Bucket(answers={"get": lambda self, key: response(b"old")})), Level.FAILURE, "storage.get", "3 bytes", "cache")

    def test_versions(self):
        settings = {"versioning": response(b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")}
        bucket = Bucket(versioned=True, settings=settings)
        self.only(self.serve(bucket), Level.WARNING, "storage.versioning", "versioning is enabled")
        self.assertEqual((bucket.objects, bucket.versions), ({}, set()))
        self.assertEqual(self.serve(Bucket(["a"], settings=settings), operations=READS)["storage.versioning"].level, Level.OK)
        found = self.serve(Bucket(versioned=True, denied=("version",)))
        self.only(found, Level.WARNING, "storage.probe", "s3:DeleteObjectVersion")

    def test_object_lock(self):
        rule = b"<ObjectLockEnabled>Enabled</ObjectLockEnabled>%s"
        kept = rule % b"<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>7</Days></DefaultRetention></Rule>"
        bucket = Bucket(settings={"object-lock": response(kept)})
        found = self.serve(bucket)
        self.only(found, Level.WARNING, "storage.object_lock", "7 days (COMPLIANCE)")
        # A probe could not be removed.
        self.assertEqual((found["storage.put"].level, found["storage.get"].level), (Level.SKIPPED, Level.OK))
        self.assertNotIn("PUT", {request.method for request in self.requests})
        self.assertEqual(self.serve(Bucket(settings={"object-lock": response(rule % b"")}))["storage.object_lock"].level, Level.OK)

    def test_lifecycle(self):
        def rules(prefix, action, more=b"", status=b"Enabled"):
            rule = b"<Rule><ID>old</ID><Filter><Prefix>%s</Prefix>%s</Filter><Status>%s</Status>%s</Rule>"
            body = b"<LifecycleConfiguration>" + rule % (prefix, more, status, action) + b"</LifecycleConfiguration>"
            return Bucket(["a"], settings={"lifecycle": response(body)})

        expires = b"<Expiration><Days>1</Days></Expiration>"
        for prefix in (b"", b"p/", b"p/sub/"):
            self.only(self.serve(rules(prefix, expires)), Level.WARNING, "storage.lifecycle", "old expires after 1 days")
        harmless = (
            rules(b"other/", expires),
            rules(b"", expires, status=b"Disabled"),
            rules(b"", expires, more=b"<Tag><Key>k</Key><Value>v</Value></Tag>"),
            rules(b"", b"<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>"),
        )
        for bucket in harmless:
            self.assertEqual(self.serve(bucket)["storage.lifecycle"].level, Level.OK)

    def test_settings_that_cannot_be_seen(self):
        refused = error(403, "AccessDenied")
        found = self.serve(Bucket(settings={"versioning": refused, "object-lock": error(501, "NotImplemented"), "lifecycle": refused}))
        self.assertEqual({finding.level for finding in found.values()}, {Level.OK})
        self.assertIn("cannot be seen: HTTP 501 NotImplemented", found["storage.object_lock"].found)

    def test_refusals(self):
        for status, code, text in (
            (404, "NoSuchBucket", "no such bucket"),
            (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            (403, "RequestTimeTooSkewed", "clock"),
            (301, "PermanentRedirect", "another region"),
            (400, "ExpiredToken", "temporary credentials"),
            (503, "SlowDown", "server is up"),
        ):
            answer = error(status, code, f"it quotes {SECRET_KEY}")
            found = self.serve(Bucket(answers={"list": lambda self, key, answer=answer: answer}))
            self.only(found, Level.FAILURE, "storage.list", text, "[redacted]")
            self.assertIn("storage.list failed", found["storage.rtt"].found)
            self.assertNotIn("storage.put", found)

    def test_a_bucket_of_another_region(self):
        malformed = response(b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-9</Region></Error>", 400)
        bucket = Bucket(["p/there"])
        with Server(lambda c, r, n: malformed if r.headers.get("authorization") and r.region != "eu-9" else bucket(c, r, n)) as server:
            found = self.check(server.url)
        self.only(found, Level.WARNING, "storage.list", "region eu-9, not us-east-1", "Set s3.region to eu-9")
        self.assertEqual({finding.level for check, finding in found.items() if check != "storage.list"}, {Level.OK})

    def test_anonymous(self):
        page = response(b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/a</Key></Contents></ListBucketResult>")
        sheet = Sheet()
        with Server(lambda c, r, n: page, anonymous=True) as server:
            entry = Storage("s3://bucket/p/", server.url, operations=("get",), anonymous=True)
            storage_checks.check_storage(sheet, [entry], None, time.monotonic() + 10)
        found = {finding.check: finding for finding in sheet.findings()}
        self.assertIn("not signed", found["storage.credentials"].found)
        self.assertEqual((found["storage.list"].level, found["storage.get"].level), (Level.OK, Level.OK))
        self.assertEqual([r.headers.get("authorization") for r in server.requests], [None] * len(server.requests))

    def test_no_s3_server(self):
        found = self.serve(Bucket(answers={"list": lambda self, key: response(b"<html>welcome</html>")}))
        self.only(found, Level.FAILURE, "storage.list", "not a ListBucketResult", "S3 endpoint")

    def test_two_targets_of_one_endpoint(self):
        sheet = Sheet()
        with Server(Bucket(["a"])) as server:
            entries = [Storage(f"s3://bucket/{prefix}/", server.url, operations=ALL) for prefix in ("p", "q")]
            storage_checks.check_storage(sheet, entries, CREDENTIALS, time.monotonic() + 10)
        checks = [finding.check for finding in sheet.findings()]
        self.assertEqual((checks.count("storage.tcp"), checks.count("storage.list"), checks.count("storage.delete")), (1, 2, 2))
        self.assertEqual({finding.level for finding in sheet.findings()}, {Level.OK})

    def test_skipped_on_request(self):
        bucket = Bucket()
        found = self.serve(bucket, skip=("storage.put", "storage.dns", "storage.rtt"))
        self.assertEqual({name for name, f in found.items() if f.level is Level.SKIPPED}, {"storage.put", "storage.dns", "storage.rtt"})
        self.assertEqual(found["storage.list"].level, Level.OK)
        self.assertNotIn("PUT", {request.method for request in self.requests})
        self.assertEqual([f.level for f in self.check("http://nowhere.invalid", skip=("storage",)).values()], [Level.SKIPPED])

    def test_server_that_closes_each_connection(self):
        for farewell in ((), ("Connection: close",)):
            bucket = Bucket(["a"])

            def script(client, request, number, bucket=bucket, farewell=farewell):
                head, _, rest = bucket(client, request, number).partition(b"\r\n")
                client.sendall(b"\r\n".join([head, *(line.encode() for line in farewell), rest]))

            found = self.serve(script)
            self.assertEqual({finding.level for finding in found.values()}, {Level.OK}, found)
            self.assertEqual(list(bucket.objects), ["p/a"])

    def test_no_keys(self):
        environment = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}
        sheet = Sheet()
        with Server(Bucket()) as server, mock.patch.dict(os.environ, environment, clear=True):
            storage_checks.check_storage(sheet, [Storage("s3://bucket/p/", server.url, operations=ALL)], None, time.monotonic() + 10)
        levels = {finding.check: finding.level for finding in sheet.findings()}
        self.assertEqual((levels.pop("storage.credentials"), levels.pop("storage.list")), (Level.FAILURE, Level.SKIPPED))
        self.assertEqual(set(levels.values()), {Level.OK})


class Endpoints(Case):
    def test_clock(self):
        def date(offset_s):
            return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + offset_s))

        self.assertIn("no Date", self.serve(Bucket())["storage.clock"].found)
        self.assertIn("within a second", self.serve(Bucket(date=date(0)))["storage.clock"].found)
        self.only(self.serve(Bucket(date=date(-120))), Level.WARNING, "storage.clock", "ahead of", "chrony")
        found = self.serve(Bucket(date=date(3600)))
        self.only(found, Level.FAILURE, "storage.clock", "behind", "date -u")
        self.assertAlmostEqual(found["storage.clock"].values["skew_s"], -3600, delta=10)
        self.assertEqual(len(self.requests), 1)

    def test_name_that_does_not_resolve(self):
        found = self.check("http://no-such-host.invalid")
        self.only(found, Level.FAILURE, "storage.dns", "no-such-host.invalid", "endpoint_url")
        self.assertIn("storage.dns failed", found["storage.list"].found)
        self.assertEqual(list(found), ["storage.credentials", "storage.dns", "storage.list"])
        found = self.check("http://no-such-host.invalid", path_style=False)
        self.only(found, Level.FAILURE, "storage.dns", "bucket.no-such-host.invalid", "path_style: true")

    def test_name_servers_that_do_not_answer(self):
        with (
            mock.patch("sai3ssh.agent.preflight.endpoint.RESOLVE_S", 0.1),
            mock.patch("socket.getaddrinfo", lambda *_, **__: time.sleep(1)),
        ):
            self.only(self.check("http://slow.invalid"), Level.FAILURE, "storage.dns", "did not answer", "/etc/resolv.conf")

    def test_closed_port(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            found = self.check(f"http://127.0.0.1:{unused.getsockname()[1]}")
        self.only(found, Level.FAILURE, "storage.tcp", "Connection refused", "nothing listens")

    def test_port_that_does_not_answer(self):
        with mock.patch("sai3ssh.agent.preflight.endpoint.CONNECT_S", 0.3), deaf() as port:
            self.only(self.check(f"http://127.0.0.1:{port}"), Level.FAILURE, "storage.tcp", "no answer within 0.3 s", "firewall")

    def test_one_of_two_addresses(self):
        with socket.socket() as unused, Server(Bucket()) as server:
            unused.bind(("127.0.0.2", server.port))
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, server.port)) for host in ("127.0.0.2", "127.0.0.1")]
            with mock.patch("socket.getaddrinfo", lambda *_, **__: found):
                answers = self.check(f"http://two.invalid:{server.port}")
        self.only(answers, Level.WARNING, "storage.tcp", "1 of 2 addresses", "127.0.0.2 (Connection refused)")

    def test_no_http(self):
        for script in (lambda c, r, n: b"220 mail.example.org ESMTP\r\n", lambda c, r, n: None):
            with Server(script) as server:
                self.only(self.check(server.url), Level.FAILURE, "storage.http", "there is no HTTP", "https://")

    def test_server_that_stops_answering(self):
        patience = mock.patch("sai3ssh.agent.preflight.endpoint.REQUEST_S", 0.2)
        with patience, Server(lambda client, request, number: time.sleep(0.8) or response()) as server:
            self.only(self.check(server.url), Level.FAILURE, "storage.http", "no response within 0.2 s")

    def test_slow_answers_end_in_time_and_leave_nothing(self):
        bucket = Bucket(answers={"stat": lambda self, key: time.sleep(2.5) or response()})
        with mock.patch("sai3ssh.agent.preflight.storage._RESERVE_S", 1.5):
            found = self.serve(bucket, limit_s=3.5)
        self.only(found, Level.FAILURE, "storage.stat", "no response within")
        self.assertEqual(bucket.objects, {})


class Certificates(Case):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.good = make_certificate(directory.name, "good", "IP:127.0.0.1,DNS:localhost", 30)
        cls.soon = make_certificate(directory.name, "soon", "IP:127.0.0.1", 10)
        cls.expired = make_certificate(directory.name, "expired", "IP:127.0.0.1", -3)
        cls.other = make_certificate(directory.name, "other", "DNS:other.example.org", 30)

    def tls(self, path, **options):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return self.serve(Bucket(["a"]), context=context, **{"ca_file": path, **options})

    def test_good(self):
        found = self.tls(self.good)
        self.assertEqual({finding.level for finding in found.values()}, {Level.OK})
        self.assertAlmostEqual(found["storage.tls"].values["days_left"], 30, delta=0.2)
        self.assertIn(self.good, found["storage.tls"].found)

    def test_soon_over(self):
        self.only(self.tls(self.soon), Level.WARNING, "storage.tls", "10 days", "Renew")

    def test_expired(self):
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 3 * 86400))
        self.only(self.tls(self.expired), Level.FAILURE, "storage.tls", "expired", f"until {day}", "clock")

    def test_wrong_name(self):
        self.only(self.tls(self.other), Level.FAILURE, "storage.tls", "not valid for 127.0.0.1", "it is for other.example.org")

    def test_unknown_authority(self):
        found = self.tls(self.good, ca_file=self.other)
        self.only(found, Level.FAILURE, "storage.tls", "signed by nobody known", "issued by test good", "ca_file")
        self.assertIn(self.other, found["storage.tls"].expected)

    def test_not_verified(self):
        found = self.tls(self.expired, ca_file=None, verify_tls=False)
        self.assertEqual({finding.level for finding in found.values()}, {Level.OK})
        self.assertIn("verify_tls: false): issued by test expired", found["storage.tls"].found)

    def test_unreadable_authorities(self):
        self.only(
            self.check("https://127.0.0.1:1", ca_file="/nonexistent.pem"), Level.FAILURE, "storage.tls", "/nonexistent.pem", "ca_file"
        )

    def test_plain_http_on_a_tls_port_and_the_reverse(self):
        with Server(Bucket()) as server, mock.patch("sai3ssh.agent.preflight.endpoint.REQUEST_S", 0.3):
            url = server.url.replace("http://", "https://")
            self.only(self.check(url), Level.FAILURE, "storage.tls", "no TLS on port", "http://")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.good)
        with Server(Bucket(), context=context) as server:
            url = server.url.replace("https://", "http://")
            self.only(self.check(url), Level.FAILURE, "storage.http", "there is no HTTP", "https://")


@contextlib.contextmanager
def deaf():
    """A port that lets SYNs go unanswered: its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


if __name__ == "__main__":
    unittest.main()
