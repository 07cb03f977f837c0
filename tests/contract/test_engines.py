"""One suite, two subjects: the native S3 engine and the boto3 reference, on real servers. The oracle is a boto3 client of its own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import COPY, DELETE, GET, LIST, PUT, STAT, Engine
from sai3ssh.agent.engines.tasks import CopyTask, DeleteBatch, LevelTask
from sai3ssh.dataset import Content
from sai3ssh.errors import TargetError, Transient
from sai3ssh.model import Deadlines, Multipart, Ranges, Retry, Target
from tests.agent.s3_server import CountingWork, task, wait_for
from tests.servers import Rclone

CONTENT = Content(2024)
SIZES = (0, 1, 4096, 8 * 1024 * 1024)
KEYS = ("plain", "with blank", "a+b", "ü/€", "100%", "it's(*)!", "~-_.", "d/e/f")
DOUBLE = ("a//b", "c//")
RETRY = Retry(max_retries=0)

pytestmark = pytest.mark.timeout(120)


class Bucket:
    """A new bucket on a real server."""

    def __init__(self, server: Any, keys: tuple[str, ...]) -> None:
        self.server = server
        self.keys = keys
        self.name = f"contract-{uuid.uuid4().hex[:12]}"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=server.endpoint_url,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )
        self.client.create_bucket(Bucket=self.name)
        self.uri = f"s3://{self.name}/some prefix/"

    def credentials(self, **other: str) -> dict[str, str | None]:
        return {"access_key": self.server.access_key, "secret_key": self.server.secret_key, **other}

    def engine(self, name: str, uri: str = "", credentials: dict[str, str | None] | None = None, url: str = "", **options: Any) -> Engine:
        target = Target(engine=name, endpoint_url=url or self.server.endpoint_url, **{"verify_reads": 1.0, **options})
        return make_engine(target, uri or self.uri, credentials or self.credentials(), Deadlines(5, 20, 60), RETRY)

    def body(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=f"some prefix/{key}")["Body"].read()
        return data


def expected(index: int, size: int) -> bytes:
    return b"".join(CONTENT.piece(index, size, at, 65536) for at in range(0, size, 65536))


@pytest.fixture(scope="module", params=["radosgw", "rclone"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    # rclone keeps objects as files, which have no names with '//'.
    made = Bucket(request.getfixturevalue(request.param), KEYS + DOUBLE if request.param == "radosgw" else KEYS)
    yield made
    made.client.close()


@pytest.fixture(params=["s3", "boto3"])
def subject(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def perform(engine: Engine, uri: str, op: int, objects: list[tuple[str, int, int]], concurrency: int = 0) -> CountingWork:
    """The work after one operation on each of the objects (key, size, index)."""
    root = engine.root(uri)
    # One write at a time: rclone answers 500 when two objects make or empty the same directory at once.
    concurrency = concurrency or (1 if op in (PUT, DELETE) else 4)
    work = CountingWork(task(root, op, key=key, size=size, index=index, content=CONTENT) for key, size, index in objects)
    engine.run(work, concurrency)
    return work


def test_a_share_of_the_reads_is_compared(bucket: Bucket, subject: str) -> None:
    engine = bucket.engine(subject, verify_reads=0.25)
    root, key = engine.root(bucket.uri), f"share of {subject}"
    assert perform(engine, bucket.uri, PUT, [(key, 5000, 1)]).failures == []
    for index, found in ((1, 0), (2, 10)):
        work = CountingWork(task(root, GET, key=key, size=5000, index=index, content=CONTENT) for _ in range(40))
        engine.run(work, 4)
        assert ([failure[0] for failure in work.failures], len(work.dones)) == (["verify"] * found, 40 - found)
    assert perform(engine, bucket.uri, DELETE, [(key, 5000, 1)]).failures == []
    engine.close()


def test_objects(bucket: Bucket, subject: str) -> None:
    engine = bucket.engine(subject)
    objects = [(f"{subject}/{size}/{key}", size, i) for i, key in enumerate(bucket.keys) for size in SIZES]
    total = sum(size for _, size, _ in objects)
    engine.check(write=True)
    put = perform(engine, bucket.uri, PUT, objects)
    assert (put.failures, put.bytes) == ([], total)
    for key, size, index in objects:
        assert bucket.body(key) == expected(index, size), key
    get = perform(engine, bucket.uri, GET, objects)
    assert (get.failures, get.bytes) == ([], total)
    stat = perform(engine, bucket.uri, STAT, objects)
    assert (stat.failures, stat.bytes, len(stat.dones)) == ([], 0, len(objects))
    listing = perform(engine, bucket.uri, LIST, [(f"{subject}/", -1, 0)])
    assert (listing.failures, listing.dones[0].listed) == ([], len(objects))
    assert perform(engine, bucket.uri, DELETE, objects).failures == []
    assert perform(engine, bucket.uri, LIST, [(f"{subject}/", -1, 0)]).dones[0].listed == 0
    engine.close()


def test_what_one_writes_the_other_reads(bucket: Bucket) -> None:
    native, reference = bucket.engine("s3"), bucket.engine("boto3")
    for writer, reader, name in ((native, reference, "n"), (reference, native, "r")):
        objects = [(f"both/{name}/{size}/{key}", size, i) for i, key in enumerate(bucket.keys) for size in SIZES[:3]]
        assert perform(writer, bucket.uri, PUT, objects).failures == []
        assert perform(reader, bucket.uri, GET, objects).failures == []
    native.close()
    reference.close()


def test_signed_payload(bucket: Bucket, subject: str) -> None:
    engine = bucket.engine(subject, sign_payload=True)
    objects = [(f"signed/{subject}/{size}", size, 3) for size in SIZES]
    assert perform(engine, bucket.uri, PUT, objects).failures == []
    assert perform(engine, bucket.uri, GET, objects).failures == []
    engine.close()


def test_reads_are_verified(bucket: Bucket, subject: str) -> None:
    engine = bucket.engine(subject)
    objects = [(f"verify/{subject}/{i}", 100_000, i) for i in range(3)]
    perform(engine, bucket.uri, PUT, objects)
    altered = bytearray(expected(0, 100_000))
    altered[77_777] ^= 1
    bucket.client.put_object(Bucket=bucket.name, Key=f"some prefix/{objects[0][0]}", Body=bytes(altered))
    bucket.client.put_object(Bucket=bucket.name, Key=f"some prefix/{objects[1][0]}", Body=b"short")
    work = perform(engine, bucket.uri, GET, objects)
    assert ([failure[0] for failure in work.failures], len(work.dones), work.bytes) == (["verify"] * 2, 1, 100_000)
    engine.close()


def test_copies(bucket: Bucket, subject: str) -> None:
    engine = bucket.engine(subject)
    objects = [(f"copied/{subject}/{key}", 5000, i) for i, key in enumerate(bucket.keys)]
    assert perform(engine, bucket.uri, PUT, objects).failures == []
    root = engine.root(bucket.uri)
    copies = [CopyTask(root, f"{key} copy", i, task(root, COPY, key=key, size=size), "") for key, size, i in objects]
    work = CountingWork(copies)
    engine.run(work, 1)
    assert (work.failures, work.bytes) == ([], 5000 * len(copies))
    for i, (key, size, _) in enumerate(objects):
        assert bucket.body(f"{key} copy") == expected(i, size), key
    work = CountingWork([CopyTask(root, "no copy", 0, task(root, COPY, key="never written", size=1), "")])
    engine.run(work, 1)
    assert [failure[:2] for failure in work.failures] == [("http_404", True)]
    engine.close()


@pytest.mark.parametrize("signed", [False, True])
def test_deletes_of_many(bucket: Bucket, signed: bool) -> None:
    engine = bucket.engine("s3", sign_payload=signed)
    objects = [(f"of many/{key}", 10, i) for i, key in enumerate((*bucket.keys, "a<b>&c", 'it\'s "quoted"'))]
    assert perform(engine, bucket.uri, PUT, [*objects, ("of many/stays", 10, 0)]).failures == []
    root = engine.root(bucket.uri)
    batch = DeleteBatch([task(root, DELETE, key=key, index=i) for key, _, i in [*objects, ("of many/never written", 0, 99)]])
    work = CountingWork([batch])
    engine.run(work, 1)
    assert (work.failures, work.requests, batch.refused) == ([], 1, {})
    left = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="some prefix/of many/")["Contents"]
    assert [entry["Key"] for entry in left] == ["some prefix/of many/stays"]
    assert perform(engine, bucket.uri, DELETE, [("of many/stays", 0, 0)]).failures == []
    engine.close()


@pytest.mark.parametrize("checksum", ["crc32", "sha256"])
def test_checksums(bucket: Bucket, checksum: str) -> None:
    """radosgw takes those in the head, and checks the signature over them, but knows no trailers."""
    trailers = isinstance(bucket.server, Rclone)
    engine = bucket.engine("s3", checksum=checksum, expect_continue=100_000)
    objects = [(f"sums/{checksum}/{size}", size, 3) for size in (*SIZES[:3], 262_144, 262_145, 3_000_000)]
    work = perform(engine, bucket.uri, PUT, objects)
    assert [failure[0] for failure in work.failures] == ([] if trailers else ["http_400"] * 2)
    objects = objects if trailers else objects[:4]
    assert perform(engine, bucket.uri, GET, objects).failures == []
    for key, size, index in objects:
        # The client of the oracle compares, too, with what a server says that the checksum is.
        answer = bucket.client.get_object(Bucket=bucket.name, Key=f"some prefix/{key}", ChecksumMode="ENABLED")
        assert answer["Body"].read() == expected(index, size)
        assert (f"Checksum{checksum.upper()}" in answer) == (trailers and size <= 262_144)
    engine.close()
    signed = bucket.engine("s3", checksum=checksum, sign_payload=True)
    assert perform(signed, bucket.uri, PUT, [("sums/signed", 3_000_000, 5)]).failures == []
    assert bucket.body("sums/signed") == expected(5, 3_000_000)
    signed.close()


def test_missing_objects(bucket: Bucket, subject: str) -> None:
    engine = bucket.engine(subject)
    for op in (GET, STAT):
        work = perform(engine, bucket.uri, op, [("never written", -1, 0)])
        assert [failure[:2] for failure in work.failures] == [("http_404", True)]
    engine.close()


@pytest.mark.parametrize(
    ("wrong", "error_class", "message"),
    [
        ({"secret_key": "not-the-secret-of-this-key"}, "http_403", "AWS_SECRET_ACCESS_KEY"),
        ({"access_key": "AKNOBODYKNOWSME00000"}, "http_403", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_wrong_credentials(bucket: Bucket, subject: str, wrong: dict[str, str], error_class: str, message: str) -> None:
    engine = bucket.engine(subject, credentials=bucket.credentials(**wrong))
    with pytest.raises(TargetError, match=message):
        engine.check()
    for op in (GET, PUT, LIST, STAT, DELETE):
        work = perform(engine, bucket.uri, op, [("x", 10, 0)])
        assert [failure[0] for failure in work.failures] == [error_class]
        assert not any(value in work.failures[0][2] for value in wrong.values())
    engine.close()


@pytest.mark.parametrize("bucket", ["radosgw"], indirect=True)
def test_ranges(bucket: Bucket) -> None:
    """Not on rclone: it answers 200 to a ranged GET."""
    plain, engine = bucket.engine("s3"), bucket.engine("s3", ranges=Ranges(1_000_000, 4, 1_000_000))
    sizes = (999_999, 1_000_000, 1_000_001, 8_388_608)
    objects = [(f"ranges/{size}", size, i) for i, size in enumerate(sizes)]
    assert perform(plain, bucket.uri, PUT, objects).failures == []
    work = perform(engine, bucket.uri, GET, objects)
    assert (work.failures, work.retries, work.bytes, work.pages) == ([], [], sum(sizes), 1 + 8)
    missing = perform(engine, bucket.uri, GET, [("ranges/none", 5_000_000, 0), (f"ranges/{sizes[2]}", 3_000_000, 2)])
    assert sorted(failure[0] for failure in missing.failures) == ["http_404", "verify"]
    assert perform(engine, bucket.uri, GET, objects).failures == []
    plain.close()
    engine.close()


def test_multipart(bucket: Bucket) -> None:
    part = 5 * 1024 * 1024
    engine = bucket.engine("s3", multipart=Multipart(part, part, 3))
    sizes = (part - 1, part, 2 * part + 4097, 3 * part)
    objects = [(f"multipart/{key}", size, i) for i, (key, size) in enumerate(zip(KEYS, sizes, strict=False))]
    work = perform(engine, bucket.uri, PUT, objects)
    assert (work.failures, work.retries, work.bytes, work.pages) == ([], [], sum(sizes), 2 + 4 + 4)
    assert perform(engine, bucket.uri, GET, objects).failures == []
    for key, size, index in objects:
        assert bucket.body(key) == expected(index, size), key
    engine.close()


class Stopping(CountingWork):
    """Ends the run when so many parts are there."""

    def page(self, task: Any) -> None:
        super().page(task)
        if self.pages == 9:
            raise KeyboardInterrupt


@pytest.mark.parametrize("bucket", ["radosgw"], indirect=True)
def test_nothing_is_left_of_an_upload_that_fails(bucket: Bucket) -> None:
    """Not on rclone: it cannot list uploads, and does not mind parts that are too small."""
    engine = bucket.engine("s3", multipart=Multipart(1, 1_000_000, 3), sign_payload=True)
    work = perform(engine, bucket.uri, PUT, [("small parts", 3_500_000, 1)])
    assert [failure[0] for failure in work.failures] == ["http_400"]
    assert "EntityTooSmall" in work.failures[0][2]
    assert bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", []) == []

    tasks = [task(engine.root(bucket.uri), PUT, key=f"stopped/{i}", size=50_000_000, index=i, content=CONTENT) for i in range(4)]
    with pytest.raises(KeyboardInterrupt):
        engine.run(Stopping(tasks), 4)
    assert bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", []) == []
    assert perform(engine, bucket.uri, LIST, [("stopped/", -1, 0)]).dones[0].listed == 0
    engine.close()


@pytest.mark.parametrize("bucket", ["rclone"], indirect=True)
def test_a_server_without_ranges(bucket: Bucket) -> None:
    engine = bucket.engine("s3", ranges=Ranges(100_000, 4, 100_000))
    objects = [("whole", 300_000, 0)]
    assert perform(engine, bucket.uri, PUT, objects).failures == []
    failures = perform(engine, bucket.uri, GET, objects).failures
    assert [failure[0] for failure in failures] == ["protocol"]
    assert "expected 206" in failures[0][2]
    engine.close()


@pytest.mark.parametrize("bucket", ["radosgw"], indirect=True)
def test_anonymous(bucket: Bucket, subject: str) -> None:
    open_to_all = f"open-{uuid.uuid4().hex[:12]}"
    bucket.client.create_bucket(Bucket=open_to_all, ACL="public-read-write")
    objects = [("some key", 5000, 3)]
    for uri, failures in ((f"s3://{open_to_all}/p/", []), (bucket.uri, ["http_403"])):
        engine = bucket.engine(subject, uri=uri, anonymous=True)
        for op in (PUT, LIST):
            assert [failure[0] for failure in perform(engine, uri, op, objects).failures] == failures
        engine.close()


def test_missing_bucket(bucket: Bucket, subject: str) -> None:
    uri = "s3://no-such-bucket-anywhere/x/"
    engine = bucket.engine(subject, uri=uri)
    with pytest.raises(TargetError, match=r"no such bucket.*Create the bucket"):
        engine.check()
    for op in (GET, PUT, LIST):
        assert [failure[0] for failure in perform(engine, uri, op, [("x", 10, 0)]).failures] == ["http_404"]
    engine.close()


def test_nobody_there(bucket: Bucket, subject: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        engine = bucket.engine(subject, url=f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(Transient):
            engine.check()
        assert [failure[:2] for failure in perform(engine, bucket.uri, GET, [("x", -1, 0)]).failures] == [("refused", False)]
    engine.close()


def test_unknown_name(bucket: Bucket, subject: str) -> None:
    engine = bucket.engine(subject, url="http://no-such-host.invalid")
    with pytest.raises(TargetError, match=r"no-such-host\.invalid"):
        engine.check()
    assert [failure[0] for failure in perform(engine, bucket.uri, GET, [("x", -1, 0)]).failures] == ["dns"]
    engine.close()


def test_listings_of_several_pages_are_equal(bucket: Bucket) -> None:
    native, reference = bucket.engine("s3"), bucket.engine("boto3")
    objects = [(f"many/{i % 7}/o {i:05d}+", 0, i) for i in range(2300)]
    assert perform(native, bucket.uri, PUT, objects[:7]).failures == []
    assert perform(native, bucket.uri, PUT, objects[7:], concurrency=32).failures == []
    for prefix in ("many/", "many/3/", "many/none/"):
        found = [perform(engine, bucket.uri, LIST, [(prefix, -1, 0)]) for engine in (native, reference)]
        keys = sum(key.startswith(prefix) for key, _, _ in objects)
        assert [(work.failures, work.dones[0].listed, work.pages) for work in found] == [([], keys, max(0, keys - 1) // 1000)] * 2
    native.close()
    reference.close()


def test_one_level_is_listed_over_several_pages(bucket: Bucket) -> None:
    native, reference = bucket.engine("s3"), bucket.engine("boto3")
    objects = [(f"level/{i:05d}/o", 0, i) for i in range(990)] + [(f"level/o{i:05d}", 0, i) for i in range(20)]
    assert perform(native, bucket.uri, PUT, objects[:1]).failures == []
    assert perform(native, bucket.uri, PUT, objects[1:], concurrency=16).failures == []
    for engine in (native, reference):
        work = CountingWork([LevelTask(LIST, engine.root(bucket.uri), "level/", -1, 0, None, 0)])
        engine.run(work, 1)
        assert (work.failures, work.dones[0].listed, work.pages) == ([], 1010, 1)
        engine.close()


@pytest.mark.parametrize("bucket", ["radosgw"], indirect=True)
def test_every_request_is_in_the_log_of_the_server(bucket: Bucket) -> None:
    engine = bucket.engine("s3")
    marks = {PUT: '"PUT ', GET: '"GET ', STAT: '"HEAD ', DELETE: '"DELETE ', LIST: '"GET '}
    objects = [(f"counted/{i}", 10, i) for i in range(1200)]
    pages = [("counted/", -1, 0)] * 3
    for op in (PUT, GET, STAT, LIST, DELETE):
        logged = [line for line in bucket.server.access_log.read_text().splitlines() if bucket.name in line and marks[op] in line]
        work = perform(engine, bucket.uri, op, pages if op == LIST else [*objects, ("missing", 0, 0)], concurrency=16)
        wanted = len(logged) + work.requests

        def found(mark: str = marks[op]) -> int:
            return sum(bucket.name in line and mark in line for line in bucket.server.access_log.read_text().splitlines())

        wait_for(lambda wanted=wanted, found=found: found() >= wanted, f"log entry {wanted}")
        assert found() == wanted
        assert work.requests == (6 if op == LIST else 1201)
    engine.close()


class TlsProxy:
    """Speaks TLS on a port of its own and passes the bytes on to a plain server."""

    def __init__(self, directory: Path, port: int) -> None:
        self.certificate = directory / "certificate.pem"
        key = directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key,
             "-out", self.certificate, "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._pass, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pass(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(client, server_side=True) as inner,
            socket.create_connection(("127.0.0.1", self._port), timeout=20) as outer,
        ):
            # The engines speak in turns: what comes from one side ends before the other begins.
            inner.settimeout(0.01)
            outer.settimeout(0.01)
            while True:
                for source, sink in ((inner, outer), (outer, inner)):
                    with contextlib.suppress(TimeoutError):
                        data = source.recv(1 << 18)
                        if not data:
                            return
                        sink.settimeout(20)
                        sink.sendall(data)
                        sink.settimeout(0.01)


def test_tls(bucket: Bucket, subject: str, tmp_path: Path) -> None:
    port = int(bucket.server.endpoint_url.rpartition(":")[2])
    with contextlib.closing(TlsProxy(tmp_path, port)) as proxy:
        engine = bucket.engine(subject, url=proxy.url, ca_file=str(proxy.certificate))
        objects = [(f"tls/{subject}/{size}", size, 3) for size in SIZES[:3]]
        engine.check()
        assert perform(engine, bucket.uri, PUT, objects, concurrency=1).failures == []
        assert perform(engine, bucket.uri, GET, objects, concurrency=1).failures == []
        engine.close()
        stranger = bucket.engine(subject, url=proxy.url)
        with pytest.raises(TargetError, match="certificate"):
            stranger.check()
        stranger.close()
