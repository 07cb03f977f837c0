"""An S3 server that keeps no object but counts each: one process, `python -m tests.lab.bitmap_server` with its options.

It stands for a storage server that is fast enough to take millions of small objects in minutes. Of each PUT of a population's object it
checks key, length and every byte, by code that shares nothing with the product; it answers after a given latency. `GET /-/state` tells
what it has counted, as JSON: {puts, distinct, repeated, wrong [text, the first 20], requests {method: count}}. It verifies no signatures:
the gateway of Ceph in the other tests does.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import re
import select
import socket
import sys
import time
import urllib.request
from typing import Any

from tests.servers import Server

PREFIX = b"data/prepared-"
BUCKET = "incident"
_LINE = re.compile(rb"([A-Z]+) /([^ ]*) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_OK = b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 0\r\n\r\n'
_EMPTY = b'<?xml version="1.0"?><ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>'
_BASE = 4 << 20
_MASK = (1 << 64) - 1


class Bitmap:
    """How often each object of the population was put."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.counts = bytearray(count)
        self.puts = 0
        self.wrong: list[str] = []
        self.requests: collections.Counter[str] = collections.Counter()
        self._size = size
        base = hashlib.shake_128(b"sai3ssh %d" % seed).digest(_BASE)
        self._base = base + base[:size]
        self._constant = int.from_bytes(base[:8], "little")

    def put(self, key: bytes, body: bytes) -> bool:
        """Whether the object is one of the population, whole and right."""
        digits = key[len(PREFIX) :].removesuffix(b".dat")
        index = int(digits) if digits.isdigit() else -1
        if not 0 <= index < len(self.counts) or key != PREFIX + b"%08d.dat" % index:
            return self._refuse(key, "no such object")
        stamp = (index * 0x9E3779B97F4A7C15 + self._constant) & _MASK
        start = stamp >> 42
        if body != stamp.to_bytes(8, "little") + self._base[start + 8 : start + self._size]:
            return self._refuse(key, f"{len(body)} bytes that are not the object's {self._size}")
        self.puts += 1
        self.counts[index] = min(255, self.counts[index] + 1)
        return True

    def _refuse(self, key: bytes, why: str) -> bool:
        if len(self.wrong) < 20:
            self.wrong.append(f"{key!r}: {why}")
        return False

    def state(self) -> dict[str, Any]:
        """What `GET /-/state` answers."""
        distinct = len(self.counts) - self.counts.count(0)
        return {
            "puts": self.puts,
            "distinct": distinct,
            "repeated": self.puts - distinct,
            "wrong": self.wrong,
            "requests": dict(self.requests),
        }


class _Loop:
    def __init__(self, listener: socket.socket, bitmap: Bitmap, latency_s: float) -> None:
        self._listener = listener
        self._bitmap = bitmap
        self._latency_s = latency_s
        self._poll = select.epoll()
        self._poll.register(listener, select.EPOLLIN)
        self._clients: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._due: collections.deque[tuple[float, int, socket.socket, bytes]] = collections.deque()
        self._object = b"PUT /%s/%s" % (BUCKET.encode(), PREFIX)

    def serve(self) -> None:
        while True:
            timeout = -1.0 if not self._due else max(0.0, self._due[0][0] - time.monotonic())
            for number, _ in self._poll.poll(timeout):
                if number == self._listener.fileno():
                    self._accept()
                else:
                    self._receive(number)
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, number, client, answer = self._due.popleft()
                if self._clients.get(number) is client:
                    try:
                        client.send(answer)
                    except OSError:
                        self._close(number)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients[client.fileno()] = client
        self._poll.register(client, select.EPOLLIN)

    def _close(self, number: int) -> None:
        self._partial.pop(number, None)
        self._clients.pop(number).close()

    def _receive(self, number: int) -> None:
        client = self._clients[number]
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(number)
            return
        data = self._partial.pop(number, b"") + data
        while data:
            head, separator, rest = data.partition(b"\r\n\r\n")
            found = _LENGTH.search(head) if separator else None
            length = int(found[1]) if found else 0
            if not separator or len(rest) < length:
                self._partial[number] = data
                return
            answer = self._answer(head + b"\r\n", rest[:length])
            self._due.append((time.monotonic() + self._latency_s, number, client, answer))
            data = rest[length:]

    def _answer(self, head: bytes, body: bytes) -> bytes:
        line = _LINE.match(head)
        if line is None:
            return _response(b"", "400 Bad Request")
        method, target = line[1].decode(), line[2]
        self._bitmap.requests[method] += 1
        key = target.partition(b"?")[0].partition(b"/")[2]
        if target == b"-/state":
            return _response(json.dumps(self._bitmap.state()).encode())
        if method == "PUT" and key:
            # What agents try out before a run is no object.
            return _OK if b".sai3ssh-probe-" in key or self._bitmap.put(key, body) else _response(b"", "400 Bad Request")
        if method == "DELETE":
            return b"HTTP/1.1 204 No Content\r\n\r\n"
        return _response(_EMPTY) if method == "GET" and not key else _response(b"", "501 Not Implemented")


def _response(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


class BitmapServer(Server):
    """The server in a process of its own; each `bucket()` begins anew with nothing."""

    def expect(self, count: int, size: int, seed: int, latency_s: float) -> None:
        """What will be put from now on; forgets what was."""
        self.stop()
        options = ["--address", self.address, "--port", str(self.port), "--count", str(count), "--size", str(size)]
        options += ["--seed", str(seed), "--latency", str(latency_s)]
        self._spawn([sys.executable, "-m", "tests.lab.bitmap_server", *options], "bitmap")
        self._wait(lambda: self._accepts(self.port), "the server")

    def start(self) -> None:
        """Nothing yet: `expect` starts it."""

    def bucket(self) -> str:
        """The only one."""
        return BUCKET

    def state(self) -> dict[str, Any]:
        """What it has counted so far."""
        with self.inside(), urllib.request.urlopen(f"{self.endpoint_url}/-/state", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    given = parser.parse_args()
    listener = socket.create_server((given.address, given.port), backlog=1024)
    _Loop(listener, Bitmap(given.count, given.size, given.seed), given.latency).serve()


if __name__ == "__main__":
    main()
