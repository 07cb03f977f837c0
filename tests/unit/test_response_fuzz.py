"""The reader of responses against servers that cut, mutate, flood and lie: over a real socket, with the reader alone."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
from collections.abc import Iterator
from time import perf_counter_ns
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, STAT, Task
from sai3ssh.agent.engines.connection import BUFFER_BYTES, Connection
from sai3ssh.agent.engines.endpoint import Endpoint, S3Root
from sai3ssh.agent.engines.response import MAX_HEAD, NO_ANSWER, Answer, Failure, read_answer
from sai3ssh.agent.engines.s3 import S3Engine
from sai3ssh.agent.engines.sigv4 import ANONYMOUS
from sai3ssh.dataset import Content
from sai3ssh.model import Deadlines, Retry, Target

CONTENT = Content(5)
CLASSES = {"protocol", "short_read", "reset", "verify"}
KEEP = 4096
MANY = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Reader:
    """A connection of the engine whose server is this test."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        # Who accepts inherits it: a second piece would wait 40 ms for the first one to be acknowledged.
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.endpoint = Endpoint("127.0.0.1", self.listener.getsockname()[1], None, "us-east-1", ANONYMOUS)
        self.root = S3Root("s3://b/", "b", "", "/b", self.endpoint)
        self.buffer = bytearray(BUFFER_BYTES)

    def exchange(self, op: int, size: int, pieces: list[bytes], *, reset: bool = False) -> tuple[str, Connection]:
        """What became of a response that came in such pieces before the server hung up: whole, waiting, or an error class."""
        connection = Connection(self.endpoint, socket.AF_INET, ("127.0.0.1", self.endpoint.port), self.buffer)
        server, _ = self.listener.accept()
        try:
            while not connection.connected():
                pass
            task = Task(op, self.root, "k", size, 1, CONTENT, 0)
            keep = KEEP if op == LIST else 0
            connection.start(task, b"GET / HTTP/1.1\r\n\r\n", 0, keep, CONTENT if op == GET else None, 0)
            server.recv(1024)
            for piece in pieces:
                server.sendall(piece)
                outcome = self._receive(connection)
                if outcome != "waiting":
                    return outcome, connection
            if reset:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            server.close()
            while select.select([connection.fd], [], [], 10.0)[0]:
                outcome = self._receive(connection)
                if outcome != "waiting":
                    return outcome, connection
            return "hangs", connection
        finally:
            server.close()
            connection.close()

    @staticmethod
    def _receive(connection: Connection) -> str:
        try:
            whole = connection.receive()
        except Failure as failure:
            return failure.error_class if len(failure.detail) < 500 else f"too much to say: {failure.error_class}"
        partial = connection._partial or b""
        assert len(partial) <= MAX_HEAD + BUFFER_BYTES
        assert len(connection.body) <= max(KEEP, 2048)
        return "whole" if whole else "waiting"


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    found = Reader()
    yield found
    found.listener.close()


def framed(body: bytes, framing: str, status: int = 200, extra: bytes = b"") -> bytes:
    """A right response."""
    head = b"HTTP/1.1 %d Text\r\nServer: x\r\n%s" % (status, extra)
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if framing == "close":
        return head + b"Connection: close\r\n\r\n" + body
    chunks = [body[at : at + 700] for at in range(0, len(body), 700)]
    return head + b"transfer-encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\nT: 1\r\n\r\n"


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The pieces between these positions."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[low:high] for low, high in itertools.pairwise(places)]


FRAMINGS = st.sampled_from(["length", "chunked", "close"])
TOLD = st.sampled_from(["length", "chunked"])
SHORT = st.sampled_from([GET, PUT])
OPS = st.sampled_from([GET, LIST, PUT, STAT, DELETE])
PLACES = st.lists(st.integers(0, 5000), max_size=8)


def body_of(op: int, size: int) -> bytes:
    return b"" if op in (STAT, PUT, DELETE) else bytes(CONTENT.piece(1, size, 0, size))


@MANY
@given(op=OPS, framing=FRAMINGS, size=st.integers(0, 3000), places=PLACES, informational=st.integers(0, 3))
def test_a_right_response_is_whole_however_it_is_cut(
    reader: Reader, op: int, framing: str, size: int, places: list[int], informational: int
) -> None:
    body = body_of(op, size)
    data = framed(body, "length" if op == STAT else framing)
    outcome, connection = reader.exchange(op, size, cut(b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" * informational + data, places))
    assert outcome == "whole"
    assert (connection.status, connection.mismatch) == (200, -1)
    assert connection.received == len(body)
    if op == LIST:
        assert connection.body == body[:KEEP]


@MANY
@given(op=OPS, framing=TOLD, size=st.integers(1, 3000), at=st.integers(0, 10_000), reset=st.booleans())
def test_a_response_that_ends_early_is_never_whole(reader: Reader, op: int, framing: str, size: int, at: int, reset: bool) -> None:
    data = framed(body_of(op, size), framing)
    needed = data.index(b"\r\n\r\n") + 4 if op == STAT else len(data)
    at %= needed
    outcome, _ = reader.exchange(op, size, [data[:at]] if at else [], reset=reset)
    assert outcome in ({"reset"} if not at else {"short_read", "reset"})


@MANY
@given(
    size=st.integers(0, 2000), said=st.integers(0, 4000), framing=st.sampled_from(["length", "chunked"]), status=st.sampled_from([200, 503])
)
def test_a_length_that_is_not_that_of_the_object_is_told(reader: Reader, size: int, said: int, framing: str, status: int) -> None:
    data = framed(bytes(said), framing, status)
    outcome, connection = reader.exchange(GET, size, [data])
    if status == 503:
        assert (outcome, len(connection.body)) == ("whole", min(said, 2048))
    elif (framing == "length" and said != size) or said > size:
        assert outcome == "verify"
    elif said < size:
        # The reader has it whole; that it is too short is what the engine sees.
        assert (outcome, connection.received) == ("whole", said)


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 5000), st.sampled_from(["flip", "drop", "double", "insert"]), st.integers(0, 255)), max_size=4
)


def mutated(data: bytes, mutations: list[Any]) -> bytes:
    """With some bytes changed, lost or invented."""
    result = bytearray(data)
    for at, how, value in mutations:
        at %= max(1, len(result))
        if how == "flip":
            result[at : at + 1] = bytes([value])
        elif how == "drop":
            del result[at : at + 1 + value % 16]
        elif how == "double":
            result[at:at] = result[at : at + 40]
        else:
            result[at:at] = bytes([value]) * (1 + value % 16)
    return bytes(result)


@MANY
@given(op=OPS, framing=FRAMINGS, size=st.integers(0, 1500), mutations=MUTATIONS, places=PLACES)
@example(op=GET, framing="length", size=10, mutations=[(9, "flip", 0)], places=[])
def test_whatever_comes_it_ends_in_a_known_class(
    reader: Reader, op: int, framing: str, size: int, mutations: list[Any], places: list[int]
) -> None:
    data = mutated(framed(body_of(op, size), framing), mutations)
    outcome, _ = reader.exchange(op, size, cut(data, places))
    assert outcome in {"whole", *CLASSES}


def identified(n: int) -> bytes:
    """Headers that are different each time, or sometimes."""
    return b"X-Request-Id: %08d\r\nDate: %d\r\nX-Same: connection: close\r\n" % (n * 7919, n // 3)


class Listed:
    """Work that hands out tasks and notes what the engine says of them."""

    wake_ns = None

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks = tasks
        self.said: list[tuple[Any, ...]] = []

    @property
    def finished(self) -> bool:
        return not self.tasks

    def next(self, now_ns: int) -> Task | None:
        if not self.tasks:
            return None
        self.tasks[0].start_ns = now_ns
        return self.tasks.pop(0)

    def done(self, task: Task, end_ns: int, size: int) -> None:
        assert task.split is not None
        assert sum(task.split) == end_ns - task.start_ns
        self.said.append(("done", task.index, size))

    def retried(self, task: Task, error_class: str, sent: bool) -> None:
        self.said.append(("retried", task.index, error_class, sent))

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        self.said.append(("failed", task.index, error_class, detail, sent))


def last_of(reader: Reader, op: int, size: int, pieces: list[bytes], *, short: bool, goods: int = 2) -> tuple[Any, ...]:
    """What a whole engine says of the last exchange on a connection, after some good ones, and whether it keeps the connection."""
    engine = S3Engine(Target("s3", reader.endpoint.url), ANONYMOUS, Deadlines(), Retry(max_retries=0))
    engine.splits = True
    root = engine.root("s3://b/")
    work = Listed([Task(op, root, "k", size, n, CONTENT, 0) for n in range(goods + 1)])
    engine._work = work  # type: ignore[assignment]
    for endpoint in engine._endpoints():
        endpoint.resolve()
    engine._short_below = engine._short_sizes()
    first = work.next(perf_counter_ns())
    assert first is not None
    engine._begin(first, perf_counter_ns())
    server, _ = reader.listener.accept()
    took: list[bool] = []

    def step() -> None:
        for fd, event in engine._poller.poll(10.0):
            connection = engine._connections[fd]
            if len(work.said) == goods and not took:
                took.append(connection.short)
                connection.short = connection.short and short
            engine._handle([(fd, event)], None, lambda: None)
        engine._leave()

    try:
        step()
        for n in range(goods):
            server.recv(65536)
            server.sendall(framed(body_of(op, size), "length", extra=identified(n)))
            step()
            assert len(work.said) == n + 1
        server.recv(65536)
        for piece in pieces:
            server.sendall(piece)
            step()
            if len(work.said) > goods or not engine._connections:
                break
        kept = len(next(iter(engine._endpoints())).idle)
        server.close()
        if len(work.said) <= goods and engine._connections:
            step()
        assert took in ([True], [])
        # A connection that ends without a word is given up for a new one.
        return *work.said, kept, len(engine._connections)
    finally:
        server.close()
        engine.close()
        reader.listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            reader.listener.accept()[0].close()
        reader.listener.setblocking(True)


@MANY
@given(op=SHORT, framing=FRAMINGS, size=st.integers(0, 1500), mutations=MUTATIONS, places=PLACES)
@example(op=GET, framing="length", size=10, mutations=[], places=[])
@example(op=GET, framing="length", size=10, mutations=[(10_000, "insert", 0)], places=[])
@example(op=PUT, framing="length", size=10, mutations=[(0, "double", 0)], places=[])
@example(op=GET, framing="length", size=10, mutations=[(50, "flip", 10)], places=[])
@example(op=GET, framing="length", size=10, mutations=[(36, "flip", 99)], places=[])
def test_the_short_way_ends_as_the_long_one(
    reader: Reader, op: int, framing: str, size: int, mutations: list[Any], places: list[int]
) -> None:
    for goods in (2, 4):
        data = framed(body_of(op, size), framing, extra=identified(7 if goods > 2 else 1))
        pieces = cut(mutated(data, mutations), places)
        outcomes = [last_of(reader, op, size, pieces, short=short, goods=goods) for short in (True, False)]
        assert outcomes[0] == outcomes[1]


@MANY
@given(
    op=st.sampled_from([GET, PUT]), said=st.integers(0, 30), size=st.integers(0, 30), extra=st.integers(0, 3), status=st.integers(199, 206)
)
def test_the_short_way_sees_a_wrong_length(reader: Reader, op: int, said: int, size: int, extra: int, status: int) -> None:
    data = framed(bytes(said), "length", status, identified(1)) + bytes(extra)
    assert last_of(reader, op, size, [data], short=True) == last_of(reader, op, size, [data], short=False)


def test_headers_that_vary_are_known_and_others_are_read() -> None:
    def response(request: bytes, date: bytes, length: bytes = b"4") -> bytes:
        return b"HTTP/1.1 200 OK\r\nId: %s\r\nContent-Length: %s\r\nDate: %s\r\n\r\n1234" % (request, length, date)

    def read(data: bytes, last: Answer) -> Answer | None:
        return read_answer(bytearray(data) + bytes(100), len(data), last)

    first = read(response(b"aaaaaaaaaaaaaaaaaaaz", b"1"), NO_ANSWER)
    assert first is not None
    second = read(response(b"bbbbbbbbbbbbbbbbbbbz", b"1"), first)
    assert second is not None
    assert (len(second.varied), second.length) == (1, 4)
    assert read(response(b"cccccccccccccccccccz", b"1"), second) is second
    third = read(response(b"cccccccccccccccccccz", b"2"), second)
    assert third is not None
    assert len(third.varied) == 2
    assert read(response(b"dddddddddddddddddddz", b"3"), third) is third
    # Headers within a value, and lengths that differ, are read.
    assert read(response(b"x\r\nConnection: close", b"3"), third) is None
    assert read(response(b"dddddddddddddddddddz", b"3", b"5"), third) is None
    assert read(response(b"dddddddddddddddddddz", b"3", b" "), third) is None


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300), op=OPS)
def test_garbage_ends_in_a_known_class(reader: Reader, data: bytes, op: int) -> None:
    outcome, _ = reader.exchange(op, 3, [data] if data else [])
    assert outcome in {"protocol", "short_read", "reset"}


@pytest.mark.parametrize("line", [b"X-Y: " + b"z" * 995 + b"\r\n", b"z" * 1000], ids=["of many headers", "of one line"])
def test_a_head_without_end_is_given_up(reader: Reader, line: bytes) -> None:
    outcome, connection = reader.exchange(GET, 3, [b"HTTP/1.1 200 OK\r\n", *[line] * 100])
    assert outcome == "protocol"
    assert len(connection._partial or b"") <= MAX_HEAD + BUFFER_BYTES


def test_a_flood_of_informational_responses_takes_no_memory(reader: Reader) -> None:
    """Too many of them are an error of their own."""
    outcome, connection = reader.exchange(GET, 3, [b"HTTP/1.1 102 Processing\r\n\r\n" * 1000] * 20)
    assert outcome == "protocol"
    assert len(connection._partial or b"") <= MAX_HEAD
