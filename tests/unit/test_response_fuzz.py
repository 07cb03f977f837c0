"""The reader of responses against servers that cut, mutate, flood and lie: over a real socket, with the reader alone."""

from __future__ import annotations

import itertools
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, STAT, Task
from sai3ssh.agent.engines.connection import BUFFER_BYTES, Connection
from sai3ssh.agent.engines.endpoint import Endpoint, S3Root
from sai3ssh.agent.engines.response import MAX_HEAD, Failure
from sai3ssh.agent.engines.sigv4 import ANONYMOUS
from sai3ssh.dataset import Content

CONTENT = Content(5)
CLASSES = {"protocol", "short_read", "reset", "verify"}
KEEP = 4096
MANY = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Reader:
    """A connection of the engine whose server is this test."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
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


@MANY
@given(op=OPS, framing=FRAMINGS, size=st.integers(0, 1500), mutations=MUTATIONS, places=PLACES)
@example(op=GET, framing="length", size=10, mutations=[(9, "flip", 0)], places=[])
def test_whatever_comes_it_ends_in_a_known_class(
    reader: Reader, op: int, framing: str, size: int, mutations: list[Any], places: list[int]
) -> None:
    data = bytearray(framed(body_of(op, size), framing))
    for at, how, value in mutations:
        at %= max(1, len(data))
        if how == "flip":
            data[at : at + 1] = bytes([value])
        elif how == "drop":
            del data[at : at + 1 + value % 16]
        elif how == "double":
            data[at:at] = data[at : at + 40]
        else:
            data[at:at] = bytes([value]) * (1 + value % 16)
    outcome, _ = reader.exchange(op, size, cut(bytes(data), places))
    assert outcome in {"whole", *CLASSES}


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
