"""The obstore engine on real servers: Azurite for az://, the part of the XML API that Google has in common with S3 for gs://."""

from __future__ import annotations

import itertools
import socket
import uuid
from pathlib import Path
from typing import Any

import pytest

from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, STAT, Engine
from sai3ssh.dataset import Content
from sai3ssh.errors import TargetError, Transient
from sai3ssh.model import OPERATIONS, Deadlines, Multipart, Retry, Target
from tests.agent.s3_server import QUICK, CountingWork, Server, response, task, wait_for
from tests.cloud_servers import Azurite

CONTENT = Content(2025)
SIZES = (0, 1, 4096, 2 * 1024 * 1024)
KEYS = ("plain", "with blank", "a+b", "ü/€", "100%", "it's(*)!", "~-_.", "d/e/f")
RETRY = Retry(max_retries=0)
PART = 5 * 1024 * 1024

pytestmark = pytest.mark.timeout(120)


class Container:
    """A new container on a real server."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.name = f"contract-{uuid.uuid4().hex[:12]}"
        server.create(self.name)
        self.uri = f"{server.scheme}://{self.name}/some prefix/"

    def engine(self, uri: str = "", credentials: dict[str, str | None] | None = None, url: str = "", **options: Any) -> Engine:
        target = Target(engine="obstore", endpoint_url=url or self.server.url, **{"verify_reads": 1.0, **options})
        return make_engine(target, uri or self.uri, credentials or self.server.credentials(), Deadlines(5, 20, 60), RETRY)

    def body(self, key: str) -> bytes:
        data: bytes = self.server.body(self.name, f"some prefix/{key}")
        return data


@pytest.fixture(params=["az", "gs"])
def container(request: pytest.FixtureRequest) -> Container:
    return Container(request.getfixturevalue(request.param))


def expected(index: int, size: int) -> bytes:
    return b"".join(CONTENT.piece(index, size, at, 65536) for at in range(0, size, 65536))


def perform(engine: Engine, uri: str, op: int, objects: list[tuple[str, int, int]], concurrency: int = 0) -> CountingWork:
    """The work after one operation on each of the objects (key, size, index)."""
    root = engine.root(uri)
    # One write at a time: rclone answers 500 when two objects make or empty the same directory at once.
    concurrency = concurrency or (1 if op in (PUT, DELETE) else 4)
    work = CountingWork(task(root, op, key=key, size=size, index=index, content=CONTENT) for key, size, index in objects)
    engine.run(work, concurrency)
    return work


def test_objects(container: Container) -> None:
    engine = container.engine()
    objects = [(f"{size}/{key}", size, i) for i, key in enumerate(KEYS) for size in SIZES]
    total = sum(size for _, size, _ in objects)
    engine.check(write=True)
    put = perform(engine, container.uri, PUT, objects)
    assert (put.failures, put.bytes) == ([], total)
    for key, size, index in objects:
        assert container.body(key) == expected(index, size), key
    get = perform(engine, container.uri, GET, objects)
    assert (get.failures, get.bytes) == ([], total)
    stat = perform(engine, container.uri, STAT, objects)
    assert (stat.failures, stat.bytes, len(stat.dones)) == ([], 0, len(objects))
    for prefix, found in (("", len(objects)), ("4096/", len(KEYS)), ("4096/a", 1), ("4096/a+b", 1), ("none/", 0), ("409", len(KEYS))):
        listing = perform(engine, container.uri, LIST, [(prefix, -1, 0)])
        assert (listing.failures, listing.dones[0].listed) == ([], found), prefix
    assert perform(engine, container.uri, DELETE, objects).failures == []
    assert perform(engine, container.uri, LIST, [("", -1, 0)]).dones[0].listed == 0
    engine.close()


def test_reads_are_verified(container: Container) -> None:
    engine = container.engine()
    objects = [(f"verify/{i}", 700_000, i) for i in range(3)]
    assert perform(engine, container.uri, PUT, objects).failures == []
    altered = bytearray(expected(0, 700_000))
    altered[677_777] ^= 1
    container.server.put(container.name, f"some prefix/{objects[0][0]}", bytes(altered))
    container.server.put(container.name, f"some prefix/{objects[1][0]}", b"short")
    work = perform(engine, container.uri, GET, objects)
    assert ([failure[0] for failure in work.failures], len(work.dones), work.bytes) == (["verify"] * 2, 1, 700_000)
    work = perform(engine, container.uri, STAT, objects)
    assert [failure[0] for failure in work.failures] == ["verify"]
    engine.compare(0.0)
    assert [failure[0] for failure in perform(engine, container.uri, GET, objects).failures] == ["verify"]  # the size still is
    engine.close()


def test_missing_objects(container: Container) -> None:
    engine = container.engine()
    for op in (GET, STAT):
        assert [failure[:2] for failure in perform(engine, container.uri, op, [("never written", -1, 0)]).failures] == [("http_404", True)]
    assert perform(engine, container.uri, DELETE, [("never written", -1, 0)]).failures == []
    engine.close()


def test_missing_container(container: Container) -> None:
    uri = f"{container.server.scheme}://no-such-container-anywhere/x/"
    engine = container.engine(uri=uri)
    with pytest.raises(TargetError, match=r"no such (container|bucket).*Create the (container|bucket)"):
        engine.check()
    for op in (GET, PUT, LIST, STAT, DELETE):
        assert [failure[0] for failure in perform(engine, uri, op, [("x", 10, 0)]).failures] == ["http_404"]
    engine.close()


def test_multipart(container: Container) -> None:
    engine = container.engine(multipart=Multipart(PART, PART, 3))
    sizes = (PART - 1, PART, 2 * PART + 4097, 3 * PART)
    objects = [(f"multipart/{key}", size, i) for i, (key, size) in enumerate(zip(KEYS, sizes, strict=False))]
    work = perform(engine, container.uri, PUT, objects)
    begin = 1 if container.server.scheme == "gs" else 0
    assert (work.failures, work.retries, work.bytes, work.pages) == ([], [], sum(sizes), 1 + 3 + 3 + 3 * begin)
    wait_for(lambda: container.server.counts(container.name, "put") >= work.requests, "the log of the requests")
    assert container.server.counts(container.name, "put") == work.requests
    assert perform(engine, container.uri, GET, objects).failures == []
    for key, size, index in objects:
        assert container.body(key) == expected(index, size), key
    engine.close()


def test_every_request_is_in_the_log_of_the_server(container: Container) -> None:
    engine = container.engine()
    many = 1100 if container.server.scheme == "gs" else 60  # more than a page of Google's; Azure's are of 5000
    objects = [(f"counted/{i}", 10, i) for i in range(many)]
    for op in (PUT, GET, STAT, LIST, DELETE):
        some = (
            [("counted/", -1, 0)] * 3
            if op == LIST
            else [*objects[:: 1 if op == PUT else 30], ("counted/another" if op == PUT else "missing", 0, 0)]
        )
        work = perform(engine, container.uri, op, some, concurrency=16)
        assert len(work.dones) == len(some) - (op in (GET, STAT))
        assert work.pages == (3 if op == LIST and container.server.scheme == "gs" else 0)

        def found(op: int = op) -> int:
            return int(container.server.counts(container.name, OPERATIONS[op]))

        wait_for(lambda wanted=work.requests, found=found: found() >= wanted, f"log entry {work.requests}")
        assert found() == work.requests, OPERATIONS[op]
        if op == LIST:
            assert work.dones[0].listed == many + 1
    engine.close()


def test_wrong_keys(az: Azurite) -> None:
    there = Container(az)
    wrong = {"account": az.account, "account_key": "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXk="}
    engine = there.engine(credentials=wrong)
    with pytest.raises(TargetError, match="AZURE_STORAGE_ACCOUNT"):
        engine.check()
    for op in (GET, PUT, LIST, STAT, DELETE):
        work = perform(engine, there.uri, op, [("x", 10, 0)])
        assert [failure[0] for failure in work.failures] == ["http_403"]
        assert wrong["account_key"] not in work.failures[0][2]
    engine.close()


def test_sas_token(az: Azurite) -> None:
    there = Container(az)
    engine = there.engine(credentials={"account": az.account, "sas_token": "?" + az.sas_token("rwdlac")})
    engine.check()
    objects = [(f"sas/{size}", size, 3) for size in SIZES]
    for op in (PUT, GET, STAT):  # Azurite answers 500 to a batch with a SAS token, which is how obstore deletes
        assert perform(engine, there.uri, op, objects).failures == []
    engine.close()
    token = az.sas_token("rl")
    reader = there.engine(credentials={"account": az.account, "sas_token": token})
    reader.check()
    failures = perform(reader, there.uri, PUT, objects).failures
    assert [failure[0] for failure in failures] == ["http_403"] * len(objects)
    assert not any(secret in failure[2] for failure in failures for secret in (token, token.rpartition("sig=")[2]))
    with pytest.raises(TargetError, match="SAS token"):
        reader.check(write=True)
    reader.close()


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_nobody_there(scheme: str) -> None:
    credentials: dict[str, str | None] = {"account": "acc", "account_key": "a2V5", "bearer_token": "token"}
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = Target("obstore", f"http://127.0.0.1:{unused.getsockname()[1]}")
        engine = make_engine(target, f"{scheme}://c1/p/", credentials, Deadlines(5, 5, 10), RETRY)
        with pytest.raises(Transient):
            engine.check()
        assert [failure[:2] for failure in perform(engine, f"{scheme}://c1/p/", GET, [("x", -1, 0)]).failures] == [("refused", False)]
        engine.close()
    engine = make_engine(Target("obstore", "http://no-such-host.invalid"), f"{scheme}://c1/p/", credentials, Deadlines(5, 5, 10), RETRY)
    assert [failure[:2] for failure in perform(engine, f"{scheme}://c1/p/", GET, [("x", -1, 0)]).failures] == [("dns", False)]
    engine.close()


HEAD = ("ETag: x", "Last-Modified: Wed, 25 Nov 2026 03:41:28 GMT", "Connection: close")
SAS = "sv=2021-12-02&sp=rw&sig=s3cr3tS1gnature"


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_failures_are_classed_and_retried_by_our_policy_alone(scheme: str) -> None:
    """Each attempt is one request, and what the server says of it is told without any secret."""
    credentials: dict[str, str | None] = {"account": "acc", "sas_token": SAS, "bearer_token": "tok-secret-1"}
    whole = response(b"abc", headers=HEAD)

    def refuse(status: int) -> bytes:
        return response(f"<Error><Code>SomeCode</Code><Message>no {SAS} tok-secret-1</Message></Error>".encode(), status, HEAD)

    cases: list[tuple[Any, str, int]] = [
        *((refuse(status), error_class, tries) for status, error_class, tries in [
            (400, "http_400", 1), (401, "http_401", 1), (403, "http_403", 1), (409, "http_409", 1), (412, "http_412", 1),
            (429, "http_429", 3), (500, "http_500", 3), (503, "http_503", 3), (504, "http_504", 3), (418, "http_4xx", 1)]),
        (None, "reset", 3), (whole.replace(b"Length: 3", b"Length: 9"), "short_read", 3), (b"SSH-2.0-hello\r\n\r\n", "protocol", 1),
    ]  # fmt: skip
    for answer, error_class, tries in cases:
        with Server(lambda client, request, number, answer=answer: answer and client.sendall(answer), read_body=False) as server:
            engine = make_engine(Target("obstore", server.url), f"{scheme}://c1/p/", credentials, Deadlines(5, 5, 10), QUICK)
            work = perform(engine, f"{scheme}://c1/p/", GET, [("x", 9, 0)])
            assert [failure[:2] for failure in work.failures] == [(error_class, True)], work.failures
            assert (len(work.retries), len(server.requests)) == (tries - 1, tries), error_class
            assert not any(secret in work.failures[0][2] for secret in (SAS, "s3cr3tS1gnature", "tok-secret-1")), work.failures
            engine.close()
    answers = itertools.chain([refuse(503), refuse(429)], itertools.repeat(whole))
    with Server(lambda client, request, number: client.sendall(next(answers)), read_body=False) as server:
        engine = make_engine(Target("obstore", server.url), f"{scheme}://c1/p/", credentials, Deadlines(5, 5, 10), QUICK)
        work = perform(engine, f"{scheme}://c1/p/", GET, [("x", 3, 0)])
        assert (work.failures, work.retries, work.bytes) == ([], [("http_503", True), ("http_429", True)], 3)
        sent = [request.headers.get("authorization", request.query) for request in server.requests]
        assert sent == ["Bearer tok-secret-1" if scheme == "gs" else SAS] * 3
        engine.close()


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_deadlines(scheme: str) -> None:
    credentials: dict[str, str | None] = {"account": "acc", "account_key": "a2V5", "bearer_token": "token"}
    with Server(lambda client, request, number: client.recv(1), read_body=False) as server:
        for deadlines, error_class in ((Deadlines(5, 0.1, 60), "timeout_first_byte"), (Deadlines(5, 60, 0.1), "timeout_total")):
            engine = make_engine(Target("obstore", server.url), f"{scheme}://c1/p/", credentials, deadlines, RETRY)
            failures = perform(engine, f"{scheme}://c1/p/", GET, [("x", -1, 0)]).failures
            assert [failure[:2] for failure in failures] == [(error_class, True)]
            engine.close()


def test_what_the_host_has_of_its_own_does_not_come_in(az: Azurite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = Container(az)
    for name, value in {
        "AZURE_STORAGE_ACCOUNT_NAME": "another", "AZURE_STORAGE_TOKEN": "another", "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1", "AZURE_SKIP_SIGNATURE": "true", "AZURE_STORAGE_SAS_TOKEN": "sig=another",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    engine = there.engine()
    engine.check(write=True)
    engine.close()


@pytest.mark.parametrize(("status", "error_class", "tries"), [(503, "http_503", 3), (403, "other", 1)])
def test_a_token_that_the_host_does_not_get_is_no_request_of_the_storage(
    status: int, error_class: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity of a virtual machine, whose service of tokens refuses."""
    with (
        Server(lambda client, request, number: client.sendall(response(b"", status, HEAD)), read_body=False) as tokens,
        Server(lambda client, request, number: client.sendall(response(b"abc", headers=HEAD)), read_body=False) as storage,
    ):
        monkeypatch.setenv("AZURE_MSI_ENDPOINT", f"{tokens.url}/metadata/identity/oauth2/token")
        engine = make_engine(Target("obstore", storage.url, account="acc"), "az://con/p/", None, Deadlines(5, 5, 10), QUICK)
        work = perform(engine, "az://con/p/", GET, [("x", 3, 0)])
        assert [failure[:2] for failure in work.failures] == [(error_class, False)], work.failures
        assert "no token for the storage" in work.failures[0][2]
        assert (work.retries, work.requests, len(storage.requests)) == ([(error_class, False)] * (tries - 1), 0, 0)
        engine.close()
