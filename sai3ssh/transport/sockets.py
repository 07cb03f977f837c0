"""TCP sockets that notice a dead peer, and the question whether a host answers at all."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator

PROBE_INTERVAL_S = 0.5
PROBE_LIFE_S = 3.0
"""How long one probe may stay unanswered: round trips above the interval are real, on links by satellite for one."""

DEAD_AFTER_S = 6

_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def tune(sock: socket.socket) -> None:
    """No Nagle delay, and a peer that vanished is an error after some DEAD_AFTER_S seconds whether we are sending or not."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Names differ between systems (TCP_KEEPALIVE is macOS's TCP_KEEPIDLE); TCP_USER_TIMEOUT exists on Linux only.
    for names, value in (
        (("TCP_KEEPIDLE", "TCP_KEEPALIVE"), 2),
        (("TCP_KEEPINTVL",), 2),
        (("TCP_KEEPCNT",), 2),
        (("TCP_USER_TIMEOUT",), DEAD_AFTER_S * 1000),
    ):
        option = next((getattr(socket, name) for name in names if hasattr(socket, name)), None)
        if option is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def resolve(host: str, port: int) -> list[_Address]:
    """The addresses of the host, best first; raises socket.gaierror."""
    return [(info[0], info[4]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def open_socket(host: str, port: int, deadline: float) -> socket.socket:
    """A tuned, connected socket before that time.monotonic(); raises the OSError of the last address tried."""
    addresses = resolve(host, port)
    for position, (family, address) in enumerate(addresses):
        left = len(addresses) - position
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            # An address that swallows packets leaves the others their share of the time.
            sock.settimeout(max(0.1, (deadline - time.monotonic()) / left))
            sock.connect(address)
            tune(sock)
        except OSError:
            sock.close()
            if left == 1:
                raise
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise OSError(f"{host} has no address")


def _close_all(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


class Prober:
    """Asks one endpoint again and again whether it accepts connections."""

    def __init__(self, host: str, port: int, resolve_again_s: float = 30.0) -> None:
        self._host = host
        self._port = port
        self._resolve_again_s = resolve_again_s
        self._addresses: list[_Address] = []
        self._resolved_at = 0.0

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        """True as soon as a connection is accepted; False at the end of the time or when stop is set.

        A new SYN leaves about every half second whatever became of the ones before: TCP's own next try would come after 1, 3 and 7 s.
        """
        deadline = time.monotonic() + timeout_s
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            started: dict[socket.socket, float] = {}
            stack.callback(_close_all, started)
            while not stop.is_set():
                if any(self._start(sock, address, selector, started) for sock, address in self._sockets()):
                    return True
                pause_end = min(deadline, time.monotonic() + PROBE_INTERVAL_S * random.uniform(0.8, 1.2))
                if self._watch(stop, pause_end, selector, started):
                    return True
                now = time.monotonic()
                if now >= deadline:
                    return False
                for sock in [sock for sock, since in started.items() if now - since > PROBE_LIFE_S]:
                    self._drop(sock, selector, started)
        return False

    def _sockets(self) -> Iterator[tuple[socket.socket, _Address]]:
        now = time.monotonic()
        # A resolver that cannot be reached blocks for many seconds: the address that worked last is asked first.
        if not self._addresses or now - self._resolved_at > self._resolve_again_s:
            with contextlib.suppress(OSError):
                self._addresses = resolve(self._host, self._port)
            self._resolved_at = time.monotonic()
        for address in self._addresses:
            yield socket.socket(address[0], socket.SOCK_STREAM), address

    @staticmethod
    def _start(sock: socket.socket, address: _Address, selector: selectors.BaseSelector, started: dict[socket.socket, float]) -> bool:
        sock.setblocking(False)
        try:
            sock.connect(address[1])
        except BlockingIOError:
            started[sock] = time.monotonic()
            selector.register(sock, selectors.EVENT_WRITE)
            return False
        except OSError:
            sock.close()
            return False
        sock.close()
        return True

    def _watch(self, stop: threading.Event, until: float, selector: selectors.BaseSelector, started: dict[socket.socket, float]) -> bool:
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, 0.1)):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                refused = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._drop(sock, selector, started)
                if not refused:
                    return True
        return False

    @staticmethod
    def _drop(sock: socket.socket, selector: selectors.BaseSelector, started: dict[socket.socket, float]) -> None:
        selector.unregister(sock)
        del started[sock]
        sock.close()
