"""One request and its response at a time, blocking: what a check needs, on the signer, addresses and TLS of the native engine."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from typing import NamedTuple, Optional, Union

from sai3ssh.agent.engines.connection import network_failure
from sai3ssh.agent.engines.endpoint import Address, Endpoint
from sai3ssh.agent.engines.response import Failure
from sai3ssh.agent.engines.s3_errors import Refusal, refusal
from sai3ssh.agent.engines.sigv4 import Credentials, make_signer

MAX_BODY = 256 * 1024
PAUSES_S = (0.1, 0.4)
"""Before a request is repeated that the server could not answer just now."""

Socket = Union[socket.socket, ssl.SSLSocket]


class Reply(NamedTuple):
    """A response, with as much of its body as anybody wants."""

    status: int
    head: bytes
    """Header lines, each after a CRLF, as engines.response.header searches them."""
    body: bytes
    seconds: float
    """From the sending of the request, on an open connection, to the end of the response's head."""
    wall: float
    """time.time() in the middle of that."""


def open_socket(address: Address, timeout_s: float) -> socket.socket:
    """A connection; raises Failure."""
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(where)
    except OSError as error:
        sock.close()
        if isinstance(error, (socket.timeout, TimeoutError)):
            raise Failure("timeout_connect", f"no connection within {timeout_s:.1f} s") from error
        raise network_failure(error.errno, "connect") from error
    return sock


class Client:
    """Speaks to one address of an endpoint, on one connection as long as the server keeps it. Used by one thread."""

    def __init__(self, endpoint: Endpoint, address: Address, credentials: Credentials) -> None:
        self.endpoint = endpoint
        self._address = address
        self._credentials = credentials
        # The endpoint's own signer is for one thread, and targets of one endpoint are checked side by side.
        self._signer = make_signer(endpoint.name, endpoint.region, credentials)
        self._sock: Optional[Socket] = None

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def signed(self, method: str, path: str, query: str, timeout_s: float, body: bytes = b"", wanted: int = MAX_BODY) -> Reply:
        """The response to a signed request; raises Failure. Of the body of a success at most `wanted` bytes are read.

        A server that says 5xx is asked again, as the engines do: one that is busy now and then fails nobody.
        """
        length = len(body) if method == "PUT" else -1
        for pause_s in (*PAUSES_S, None):
            head = self._signer.head(method, path, query, time.perf_counter_ns(), length)
            reply = self.exchange(method, head, timeout_s, body, wanted)
            if reply.status < 500 or pause_s is None:
                break
            time.sleep(pause_s)
        return reply

    def exchange(self, method: str, head: bytes, timeout_s: float, body: bytes = b"", wanted: int = MAX_BODY) -> Reply:
        """The response to a whole request head and its body; raises Failure. A connection that the server closed meanwhile is replaced."""
        if self._sock is not None:
            try:
                return self._exchange(self._sock, method, head + body, timeout_s, wanted)
            except Failure as failure:
                self.close()
                if failure.error_class != "reset":
                    raise
        self._sock = self._connect(timeout_s)
        try:
            return self._exchange(self._sock, method, head + body, timeout_s, wanted)
        except Failure:
            self.close()
            raise

    def at(self, endpoint: Endpoint) -> Client:
        """The same for another endpoint, whose name has been looked up; closes this one."""
        self.close()
        return Client(endpoint, endpoint.next_address(), self._credentials)

    def refused(self, reply: Reply) -> Optional[Refusal]:
        """What a reply says against the request, free of secrets; None when it was done."""
        if reply.status < 300:
            return None
        return refusal(reply.status, reply.head, reply.body, self._credentials)

    def _connect(self, timeout_s: float) -> Socket:
        sock: Socket = open_socket(self._address, timeout_s)
        if self.endpoint.context is None:
            return sock
        return shake_hands(sock, self.endpoint.context, self.endpoint.host, timeout_s)

    def _exchange(self, sock: Socket, method: str, data: bytes, timeout_s: float, wanted: int) -> Reply:
        began, wall = time.perf_counter(), time.time()
        try:
            sock.settimeout(timeout_s)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # The answer that says why the server hung up may be there to read.
                sock.sendall(data)
            response = http.client.HTTPResponse(sock, method=method)
            try:
                response.begin()
                seconds = time.perf_counter() - began
                limit = wanted if response.status < 300 else MAX_BODY
                body = response.read(limit) if limit else b""
                whole = response.isclosed() or response.length == 0
                if not whole or response.will_close:
                    self.close()
            finally:
                response.close()
        except (socket.timeout, TimeoutError) as error:
            raise Failure("timeout_first_byte", f"no response within {timeout_s:.1f} s") from error
        except ssl.SSLError as error:
            raise Failure("tls", f"TLS: {error.reason or error}") from error
        except http.client.RemoteDisconnected as error:
            raise Failure("reset", "the server closed the connection without a response") from error
        except OSError as error:
            raise network_failure(error.errno, "response") from error
        except http.client.BadStatusLine as error:
            raise Failure("protocol", f"not an HTTP response: it begins with {str(error)[:40]!r}") from error
        except (http.client.HTTPException, ValueError) as error:
            raise Failure("protocol", f"not an HTTP response: {type(error).__name__}") from error
        lines = "".join(f"\r\n{name}: {value}" for name, value in response.headers.items())
        return Reply(response.status, f"{lines}\r\n".encode("latin-1", "replace"), body, seconds, wall + seconds / 2)


def shake_hands(sock: socket.socket, context: ssl.SSLContext, name: str, timeout_s: float) -> ssl.SSLSocket:
    """TLS over the connection; raises Failure('tls'), whose cause is the SSLError. Closes the socket when it fails."""
    try:
        return context.wrap_socket(sock, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise Failure("tls", f"the certificate is not valid for {name}: {error.verify_message}") from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        sock.close()
        raise Failure("reset", "the server closed the connection during the TLS handshake") from error
    except (socket.timeout, TimeoutError) as error:
        sock.close()
        raise Failure("timeout_connect", f"no TLS handshake within {timeout_s:.1f} s") from error
    except ssl.SSLError as error:
        sock.close()
        raise Failure("tls", f"TLS handshake: {error.reason or error}") from error
    except OSError as error:
        sock.close()
        raise network_failure(error.errno, "TLS handshake") from error
