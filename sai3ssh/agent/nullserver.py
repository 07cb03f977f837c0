"""An S3 server that keeps nothing, so that what is measured is the client.

It answers as fast as Python can, from memory, and looks at no signature: PUT and DELETE with nothing, LIST with an empty page, GET and HEAD
with as many zeros as the first number in the path says (s3://bucket/4096/any-key). Requests are counted by kind.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
from typing import Callable, Dict, Optional

COUNTED = ("get", "put", "list", "stat", "delete")
"""The kinds of requests, in the order of their counters."""
GET, PUT, LIST, STAT, DELETE = range(len(COUNTED))

_ZEROS = memoryview(bytes(1 << 20))
_BUFFER_BYTES = 1 << 20
_SMALL = 64 * 1024
"""A body up to this many bytes is sent together with its head."""
_HEAD = b'HTTP/1.1 200 OK\r\nServer: null\r\nETag: "d41d8cd98f00b204e9800998ecf8427e"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
_NOTHING = _HEAD + b"Content-Length: 0\r\n\r\n"
_LISTING = b'<?xml version="1.0"?><ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>'
_PAGE = _HEAD + b"Content-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (len(_LISTING), _LISTING)
_length_of = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE).search
_size_of = re.compile(rb"/(\d+)[/?]").search
_WAITS = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Client:
    """One connection: what is still to come of a request, and what is still to go of its answer."""

    __slots__ = ("answer", "fd", "left", "partial", "sending", "sock", "zeros")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.partial = b""
        """The beginning of a head."""
        self.left = 0
        """Bytes of the request's body that have not come."""
        self.answer = b""
        self.zeros = 0
        """How many zeros follow the answer."""
        self.sending = False


class NullServer:
    """Listens on a free port of the loopback interface; serve() answers until `alive` says no."""

    def __init__(self, counts: Optional[memoryview] = None, context: Optional[ssl.SSLContext] = None) -> None:
        """`counts`: cells of 8 bytes, one for each of COUNTED, that the server adds to; with `context` it speaks TLS."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self._counts = counts if counts is not None else memoryview(bytearray(8 * len(COUNTED))).cast("Q")
        self._context = context
        self._clients: Dict[int, _Client] = {}
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._small: Dict[bytes, bytes] = {}
        """Whole answers to a GET, by the size that the path names."""
        self._poller = select.epoll()

    def close(self) -> None:
        """Ends all connections."""
        for client in self._clients.values():
            client.sock.close()
        self._clients.clear()
        self._poller.close()
        self._listener.close()

    def serve(self, alive: Callable[[], bool]) -> None:
        """Answers every request; asks `alive` at least each second."""
        accepting, clients, poll = self._listener.fileno(), self._clients, self._poller.poll
        self._poller.register(accepting, select.EPOLLIN)
        while alive():
            for fd, event in poll(1.0):
                if fd == accepting:
                    self._accept()
                    continue
                client = clients[fd]
                try:
                    if event & select.EPOLLOUT:
                        self._send(client)
                    else:
                        self._receive(client)
                except OSError:
                    del clients[fd]
                    client.sock.close()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock.settimeout(5.0)
                sock = self._context.wrap_socket(sock, server_side=True)
            sock.setblocking(False)
        except OSError:
            sock.close()
            return
        client = self._clients[sock.fileno()] = _Client(sock)
        self._poller.register(client.fd, select.EPOLLIN)

    def _receive(self, client: _Client) -> None:
        while True:
            try:
                n = client.sock.recv_into(self._buffer)
            except _WAITS:
                return
            if not n:
                raise ConnectionResetError("the client has hung up")
            if client.left:
                client.left -= n
            else:
                data = client.partial + bytes(self._view[:n])
                end = data.find(b"\r\n\r\n") + 4
                if end < 4:
                    client.partial = data
                    continue
                client.partial = b""
                self._read_head(client, data, end)
                client.left -= len(data) - end
            if client.left <= 0:
                self._send(client)
                return

    def _read_head(self, client: _Client, data: bytes, end: int) -> None:
        """Notes how much of the request is to come after its head, which ends there, and how it will be answered."""
        line = data[: data.find(b"\r\n")]
        kind = line[:1]
        client.zeros = client.left = 0
        if kind == b"G" and b"list-type=" not in line:
            self._counts[GET] += 1
            self._answer_with_zeros(client, line)
        elif kind == b"P":
            self._counts[PUT] += 1
            client.answer = _NOTHING
            found = _length_of(data, 0, end)
            client.left = int(found.group(1)) if found else 0
            if client.left > len(data) - end and b"100-continue" in data[:end]:
                client.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif kind == b"G":
            self._counts[LIST] += 1
            client.answer = _PAGE
        elif kind == b"H":
            self._counts[STAT] += 1
            self._answer_with_zeros(client, line)
            client.answer, client.zeros = client.answer[: client.answer.find(b"\r\n\r\n") + 4], 0
        else:
            self._counts[DELETE] += 1
            client.answer = _NOTHING

    def _answer_with_zeros(self, client: _Client, line: bytes) -> None:
        found = _size_of(line)
        digits = found.group(1) if found else b"0"
        answer = self._small.get(digits)
        if answer is None:
            size = int(digits)
            answer = _HEAD + b"Content-Type: binary/octet-stream\r\nContent-Length: %d\r\n\r\n" % size
            if size > _SMALL:
                client.answer, client.zeros = answer, size
                return
            answer = self._small[digits] = answer + bytes(size)
        client.answer = answer

    def _send(self, client: _Client) -> None:
        """Goes on with an answer until it is sent, or the socket is full."""
        try:
            while client.answer:
                n = client.sock.send(client.answer)
                client.answer = client.answer[n:]
            while client.zeros:
                client.zeros -= client.sock.send(_ZEROS[: client.zeros])
        except _WAITS:
            if not client.sending:
                client.sending = True
                self._poller.modify(client.fd, select.EPOLLOUT)
            return
        if client.sending:
            client.sending = False
            self._poller.modify(client.fd, select.EPOLLIN)
