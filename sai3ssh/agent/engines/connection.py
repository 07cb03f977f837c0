"""One keep-alive connection of the native S3 engine: sends a request, takes in the response, never blocks."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import ssl
import struct
import termios
from select import EPOLLIN, EPOLLOUT
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Union

from sai3ssh.agent.engines.base import GET, STAT, Split, Task
from sai3ssh.agent.engines.parts import Part
from sai3ssh.agent.engines.response import CHUNKED, MAX_HEAD, ChunkReader, Failure, parse_head
from sai3ssh.dataset import PIECE, Buffer, Content

if TYPE_CHECKING:
    from sai3ssh.agent.engines.endpoint import Endpoint

BUFFER_BYTES = 256 * 1024
"""The most that one turn of one connection receives: what keeps the turns of the others coming."""
MAX_ERROR_BODY = 2048
MAX_DRAIN = 64 * 1024
"""A body that nobody wants is read to its end up to this many bytes; else the connection is closed."""

_TLS_RECORDS_PER_TURN = 16
_DISCARD = socket.MSG_TRUNC

# What a connection is waiting for.
CONNECT, HANDSHAKE, HEAD, BODY, CHUNKS, END = range(6)

# What becomes of a body: dropped, kept, or compared with the content of the task.
_DROP, _KEEP, _COMPARE = range(3)


class Connection:
    """A socket and the state of the one exchange on it.

    Methods that move data raise Failure; after one the connection must be closed. `buffer` is shared by all connections.
    """

    __slots__ = (
        "_body_use", "_broken", "_buffer", "_chunks", "_close", "_content", "_ended", "_keep", "_left", "_out", "_partial", "_piece",
        "_put_bytes", "_skipped", "_sock", "_source", "_tls", "_unmade", "_unsent_head", "_view", "attempt_ns", "began_ns", "body",
        "connected_ns", "endpoint", "fd", "first_ns", "head", "held", "length", "mask", "mismatch", "phase", "received", "recv_into",
        "registered", "responding", "send", "sent", "sent_ns", "served", "short", "status", "task", "tried",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, family: int, address: Any, buffer: bytearray) -> None:
        """Begins to connect; raises Failure when that fails at once."""
        self.endpoint = endpoint
        self.task: Optional[Task] = None
        self.phase = CONNECT
        self.mask = EPOLLOUT
        """The events to wait for; `registered` are those that the poller knows of."""
        self.registered = 0
        self.began_ns = self.sent_ns = 0
        self.attempt_ns = self.connected_ns = 0
        """When the attempt began that this connection was opened for; when TCP was connected, where TLS followed."""
        self.first_ns = 0
        """When the response began; 0 until then, and when all of it came at once."""
        self.tried = 1
        """Addresses tried for this attempt."""
        self.served = 0
        """Responses received so far."""
        self.sent = self.responding = False
        self.short = False
        """Whether the short way may be taken (S3Engine._handle): the last request was a plain GET or PUT that left whole on a TCP
        connection that had served before, and nothing of its response has been taken in here."""
        self.status = self.length = self.received = 0
        self.mismatch = -1
        """Where in the body the first part lies that differs from the content; -1: nowhere."""
        self.head = b""
        self.body = bytearray()
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._partial: Optional[bytearray] = None
        self._chunks: Optional[ChunkReader] = None
        self._content: Optional[Content] = None
        self._piece: Optional[bytearray] = None
        self._out = memoryview(b"")
        self._unmade = 0
        """Bytes at the end of the request's body that have not been made yet."""
        self._source: Optional[Content] = None
        self._skipped = 0
        """Bytes of 1xx responses before the final one."""
        self.held = False
        """Whether the body waits for the server to ask for it."""
        self._body_use = self._keep = self._left = self._put_bytes = self._unsent_head = 0
        self._broken = self._close = self._ended = False
        self._tls: Optional[ssl.SSLSocket] = None
        try:
            self._sock: Union[socket.socket, ssl.SSLSocket] = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise network_failure(error.errno, "connect") from error
        self.fd = self._sock.fileno()
        self.recv_into: Callable[..., int] = self._sock.recv_into
        self.send: Callable[[Buffer], int] = self._sock.send
        """Of the socket, for the short way."""
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = self._sock.connect_ex(address)
        except OSError as error:
            number = error.errno or errno.EIO
        if number not in (0, errno.EINPROGRESS):
            self._sock.close()
            raise network_failure(number, "connect")

    # --- opening and closing -----------------------------------------------------------------------------------------------------------

    def connected(self) -> bool:
        """Goes on with connecting; True when requests can be sent."""
        if self.phase == CONNECT:
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise network_failure(number, "connect")
            try:
                self._sock.getpeername()
            except OSError:
                # The event was of an earlier socket that had the same number.
                return False
            context = self.endpoint.context
            if context is None:
                self.phase = HEAD
                return True
            self.connected_ns = perf_counter_ns()
            try:
                self._tls = context.wrap_socket(
                    self._sock, server_hostname=self.endpoint.host, do_handshake_on_connect=False, session=self.endpoint.session
                )
            except OSError as error:
                raise network_failure(error.errno, "TLS handshake") from error
            self._sock = self._tls
            self.recv_into, self.send = self._tls.recv_into, self._tls.send
            self.phase = HANDSHAKE
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.mask = EPOLLIN
            return False
        except ssl.SSLWantWriteError:
            self.mask = EPOLLOUT
            return False
        except ssl.SSLCertVerificationError as error:
            raise Failure("tls", f"the certificate is not valid for {self.endpoint.host}: {error.verify_message}") from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise Failure("reset", "the server closed the connection during the TLS handshake") from error
        except ssl.SSLError as error:
            raise Failure("tls", f"TLS handshake: {error.reason or error}") from error
        except OSError as error:
            raise network_failure(error.errno, "TLS handshake") from error
        self.phase = HEAD
        return True

    def close(self) -> None:
        """Closes the socket, at once."""
        self._sock.close()

    def lost_request(self) -> bool:
        """Whether a request without a response was never read by the server; ask before close().

        On a connection that was idle this tells a request that met a server just closing it (never counted there) from one that was
        read and not answered: after the latter the server's kernel has acknowledged every byte and ends the connection in good order; one
        that throws unread bytes away resets it.
        """
        if not self._ended:
            return True
        try:
            queued: int = struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        except (OSError, ValueError):
            return False
        return queued > 0

    def split(self, task: Task, end_ns: int) -> Split:
        """Where the time went of a task whose response, or next page, has ended at end_ns; call it once for each."""
        earlier = task.split
        from_ns = task.start_ns if earlier is None else task.start_ns + sum(earlier)
        began_ns, first_ns = self.began_ns, self.first_ns or end_ns
        # A connection that has served before was open.
        attempt_ns = self.attempt_ns if self.served == 1 else began_ns
        connected_ns = self.connected_ns if self.served == 1 and self.connected_ns else began_ns
        parts = (attempt_ns - from_ns, connected_ns - attempt_ns, began_ns - connected_ns, first_ns - began_ns, end_ns - first_ns)
        if earlier is None:
            return parts
        a, b, c, d, e = (one + other for one, other in zip(earlier, parts))
        return a, b, c, d, e

    # --- sending -----------------------------------------------------------------------------------------------------------------------

    def start(
        self,
        task: Task,
        head: bytes,
        put_bytes: int,
        keep: int,
        compare: Optional[Content],
        now_ns: int,
        body: Optional[Content] = None,
        hold: bool = False,
    ) -> None:
        """Sends a request whose body is the first `put_bytes` of the task's content, or of `body`; receive() will take the response in.

        The body of a success is kept up to `keep` bytes, or compared with `compare`, or else dropped. With `hold` the request's body waits
        for a 100 (Continue), or go_on().
        """
        self.task = task
        self.began_ns = self.sent_ns = now_ns
        self.first_ns = 0
        self.sent = self.responding = self.short = False
        self.phase = HEAD
        self._partial = None
        self._keep = keep
        self._content = compare
        self._skipped = 0
        data = head
        if put_bytes:
            content = self._source = task.content if body is None else body
            assert content is not None
            first = b"" if hold else content.head(task.index, put_bytes)
            self._put_bytes = put_bytes
            self._unmade = put_bytes - len(first)
            self.held = hold
            data += first
        try:
            n = self.send(data)
        except OSError as error:
            self.not_sent(error, data, len(head))
            return
        if n == len(data) and not self._unmade:
            self.sent = True
            self.mask = EPOLLIN
        else:
            self.sent_in_part(n, data, len(head))

    def not_sent(self, error: OSError, data: bytes, head_bytes: int) -> None:
        """Nothing of a request, which begins with so many bytes of head, could be sent."""
        if isinstance(error, (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError)):
            self.sent_in_part(0, data, head_bytes)
        else:
            self.short = False
            self._break()

    def sent_in_part(self, n: int, data: bytes, head_bytes: int) -> None:
        """Only n bytes of what there is of a request, which begins with so many bytes of head, were sent."""
        self.short = False
        self._unsent_head = head_bytes - n
        self.sent = self._unsent_head <= 0
        self._out = memoryview(data)[n:]
        self.mask = EPOLLIN | EPOLLOUT

    def go_on(self) -> None:
        """Begins to send a body that was held back."""
        self.held = False
        self.mask = EPOLLIN | EPOLLOUT

    def send_more(self, now_ns: int) -> None:
        """Sends the next piece of the request."""
        out = self._out
        if not len(out):
            if self.held:
                self.mask = EPOLLIN
                return
            task, content = self.task, self._source
            assert task is not None
            assert content is not None
            if self._piece is None:
                self._piece = bytearray(PIECE)
            length = content.piece_into(self._piece, task.index, self._put_bytes, self._put_bytes - self._unmade)
            self._unmade -= length
            out = memoryview(self._piece)[:length]
        try:
            n = self.send(out)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._out = out
            return
        except OSError:
            self._break()
            return
        self._out = out[n:]
        if not self.sent:
            self._unsent_head -= n
            self.sent = self._unsent_head <= 0
        if n == len(out) and not self._unmade:
            self.mask = EPOLLIN
            self.sent_ns = now_ns

    def _break(self) -> None:
        """After a failure to send there may still be a response to read: the one that says why the server hung up."""
        self._broken = True
        self.held = False
        self._unmade = 0
        self.mask = EPOLLIN

    @property
    def sending(self) -> bool:
        """Whether part of the request has not been sent."""
        return self._broken or self.held or self.mask & EPOLLOUT != 0

    @property
    def awaiting(self) -> bool:
        """Whether the request has gone and nothing of its response has come."""
        return self.phase == HEAD and not self.sending and (not self.responding or self._informed)

    @property
    def _informed(self) -> bool:
        """Whether all that has come is a 1xx response before the final one."""
        return self.phase == HEAD and self._skipped > 0 and not self._partial

    # --- receiving ---------------------------------------------------------------------------------------------------------------------

    def receive(self) -> bool:
        """Takes in what has arrived, one bounded turn of it; True when the response is whole."""
        self.short = False
        if self._tls is not None:
            return self._receive_tls(self._tls)
        try:
            if self.phase == HEAD:
                n = self.recv_into(self._buffer)
                if n and self._partial is None:
                    # The common case: a response that begins, and mostly ends, here.
                    self.responding = True
                    return (self._content is None and self._feed_head(self._buffer, n)) or self._begun(n)
            elif self.phase != BODY:
                n = self.recv_into(self._buffer)
            elif self._body_use:
                n = self.recv_into(self._buffer, min(self._left, BUFFER_BYTES))
            else:
                # The kernel throws the bytes away itself: nothing is copied.
                n = self.recv_into(self._buffer, min(self._left, BUFFER_BYTES), _DISCARD)
        except BlockingIOError:
            return False
        except OSError as error:
            raise network_failure(error.errno, "response") from error
        return self.take_in(n)

    def _receive_tls(self, tls: ssl.SSLSocket) -> bool:
        # A read takes a whole record, so that none is left half-read in the library, where the poller would not see it.
        for _ in range(_TLS_RECORDS_PER_TURN):
            try:
                n = tls.recv_into(self._buffer, min(self._left, BUFFER_BYTES) if self.phase == BODY else BUFFER_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                n = 0
            except ssl.SSLError as error:
                raise Failure("tls", f"TLS: {error.reason or error}") from error
            except OSError as error:
                raise network_failure(error.errno, "response") from error
            if self.take_in(n):
                if not self.served:
                    # Not after the handshake: TLS 1.3 sends what a session is taken up with along with the first response.
                    self.endpoint.session = tls.session
                return True
        return False

    def take_in(self, n: int) -> bool:
        """Takes in what has been received into the buffer, n bytes; 0: the end of the stream. As receive()."""
        if not n:
            self._ended = True
            return self._end_of_stream()
        phase = self.phase
        if phase == HEAD:
            if self._partial is None:
                self.responding = True
                return (self._content is None and self._feed_head(self._buffer, n)) or self._begun(n)
            self._partial += self._view[:n]
            return self._feed_head(self._partial, len(self._partial))
        if phase == BODY:
            self._left -= n
            if self._body_use:
                self._take(self._view[:n])
            self.received += n
            return not self._left
        return self._feed_unbounded(self._view[:n])

    def _begun(self, n: int) -> bool:
        """Notes when a response began that is not whole yet, or still to be compared, which takes time."""
        self.first_ns = perf_counter_ns()
        return self._content is not None and self._feed_head(self._buffer, n)

    def _end_of_stream(self) -> bool:
        if self.phase == END:
            self._close = True
            return True
        if self.responding and not self._informed:
            where = "head" if self.phase == HEAD else f"body, after {self.received} bytes"
            raise Failure("short_read", f"the connection ended in the middle of the response's {where}")
        what = "while the request was being sent" if self.sending else "without a response"
        raise Failure("reset", f"the server closed the connection {what}")

    def _feed_head(self, data: bytearray, n: int) -> bool:
        start = 0
        while True:
            end = data.find(b"\r\n\r\n", start, n)
            if (end if end >= 0 else n) - start > MAX_HEAD:
                raise Failure("protocol", f"response head of more than {MAX_HEAD} bytes")
            if end < 0:
                if data[start : min(n, start + 5)] != b"HTTP/"[: n - start]:
                    raise Failure("protocol", f"not an HTTP response: it begins with {bytes(data[start : min(n, start + 40)])!r}")
                self._partial = data[start:n]
                return False
            head = bytes(data[start : end + 2])
            status, length, self._close = parse_head(head)
            start = end + 4
            if status >= 200:
                break
            if status == 101:
                raise Failure("protocol", "status 101: the server wants another protocol")
            self._skipped += len(head) + 2
            if self._skipped > MAX_HEAD:
                raise Failure("protocol", f"responses of more than {MAX_HEAD} bytes before the final one")
            if status == 100 and self.held:
                self.go_on()
        self.status = status
        self.length = length
        self.received = 0
        task = self.task
        assert task is not None
        op = task.op
        self.head = head
        if status >= 300:
            self._body_use, self._keep, self.body = _KEEP, MAX_ERROR_BODY, bytearray()
        elif self._keep:
            self._body_use, self.body = _KEEP, bytearray()
        else:
            self._body_use = _DROP if self._content is None else _COMPARE
            self.mismatch = -1
            if op == GET and length >= 0 and length != task.size >= 0:
                raise self._wrong_size(task, length)
        if op == STAT or status == 204 or status == 304:
            length = 0
        if length < 0:
            self._chunks = ChunkReader() if length == CHUNKED else None
            self.phase = CHUNKS if length == CHUNKED else END
            return self._feed_unbounded(memoryview(data)[start:n]) if start < n else False
        rest = n - start
        if rest >= length:
            # Bytes beyond the response are not ours to guess about.
            if rest > length:
                self._close = True
            if length:
                if self._body_use:
                    self._take(memoryview(data)[start : start + length])
                self.received = length
            return True
        if rest:
            if self._body_use:
                self._take(memoryview(data)[start:n])
            self.received = rest
        self._left = length - rest
        self.phase = BODY
        return False

    def _feed_unbounded(self, view: memoryview) -> bool:
        parts: List[memoryview] = []
        finished = False
        if self._chunks is None:
            parts.append(view)
        else:
            used = self._chunks.feed(view, parts)
            finished = self._chunks.finished
            self._close = self._close or used < len(view)
        for part in parts:
            if self._body_use:
                self._take(part)
            self.received += len(part)
        task = self.task
        assert task is not None
        if self.status < 300 and task.op == GET and self.received > task.size >= 0:
            raise self._wrong_size(task, self.received)
        return finished

    def _take(self, view: memoryview) -> None:
        """Keeps or compares the next part of the body, which lies at `received`."""
        if self._body_use == _KEEP:
            if len(self.body) < self._keep:
                self.body += view[: self._keep - len(self.body)]
        elif self.mismatch < 0:
            task, content = self.task, self._content
            assert task is not None
            assert content is not None
            if not content.matches(task.index, max(task.size, self.received + len(view)), self.received, view):
                self.mismatch = self.received

    def _wrong_size(self, task: Task, found: int) -> Failure:
        """The body of a success is, or says that it is, of another size than the task's."""
        if not isinstance(task, Part):
            return Failure("verify", f"the object has {found} bytes, expected {task.size}")
        said = Failure("protocol", f"the response to a range has {found} bytes, expected {task.size}")
        return task.misfit(self.status, self.head) or said

    @property
    def endless(self) -> bool:
        """Whether the rest of the body, if nobody wants it, is not worth waiting for: it is long, or of unknown length."""
        most = MAX_DRAIN + self._keep
        return (self.phase == BODY and self._left > most) or (self.phase > BODY and self.received > most)

    @property
    def reusable(self) -> bool:
        """Whether another request may follow the response that has just ended."""
        if self._close or self._broken or self.held or self.mask != EPOLLIN:
            return False
        return self._tls is None or not self._tls.pending()


def network_failure(number: Optional[int], what: str) -> Failure:
    """The failure that an errno of a socket means; `what` names the step."""
    text = os.strerror(number) if number else "broken connection"
    if number == errno.ETIMEDOUT:
        return Failure("timeout_connect" if what == "connect" else "reset", f"{what}: {text}")
    if number in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN):
        return Failure("refused", f"{what}: {text}")
    if number in (None, 0, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN):
        return Failure("reset", f"{what}: {text}")
    return Failure("other", f"{what}: {text}")
