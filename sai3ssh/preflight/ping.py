"""Round trips to many addresses at once: ICMP echo where the system lets us, else by the `ping` program, else by TCP connections.

One socket and one thread serve all addresses: a raw socket gets every reply that the machine gets, so that one for each of a hundred hosts
would read ten thousand messages for a hundred.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import queue
import re
import secrets
import select
import shutil
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

INTERVAL_S = 0.1
TIMEOUT_S = 2.0
SECOND_LOOK = 20
"""So many more are sent when something was lost: one of five says little."""
TCP_PROBES = 5
"""At most, and one second apart when unanswered: newer sshds penalise who connects and leaves again and again."""
_TIME = re.compile(rb"time[=<]([0-9.]+) ?ms")
_ECHO = {socket.AF_INET: (8, 0, socket.IPPROTO_ICMP), socket.AF_INET6: (128, 129, socket.IPPROTO_ICMPV6)}
"""Type of the request, type of the reply, protocol."""


@dataclass
class Pings:
    """What became of the probes to one address."""

    how: str
    """ICMP, ping or TCP."""
    sent: int = 0
    rtts_ms: list[float] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Probes without an answer."""
        return self.sent - len(self.rtts_ms)

    @property
    def loss(self) -> float:
        """The share that was lost, 0 to 1."""
        return self.lost / self.sent if self.sent else 0.0

    @property
    def jitter_ms(self) -> float:
        """The mean difference of one round trip to the next."""
        return statistics.fmean(abs(b - a) for a, b in itertools.pairwise(self.rtts_ms)) if len(self.rtts_ms) > 1 else 0.0

    def values(self) -> dict[str, float]:
        """The figures of a finding."""
        found = {"sent": self.sent, "lost": self.lost, "loss_percent": round(100 * self.loss, 1)}
        if self.rtts_ms:
            times = {"min": min(self.rtts_ms), "avg": statistics.fmean(self.rtts_ms), "max": max(self.rtts_ms), "jitter": self.jitter_ms}
            found |= {f"{name}_ms": round(value, 3) for name, value in times.items()}
        return found

    def __str__(self) -> str:
        text = f"{self.lost} of {self.sent} lost ({self.how})"
        if not self.rtts_ms:
            return text
        times = "/".join(f"{ms:.3g}" for ms in (min(self.rtts_ms), statistics.fmean(self.rtts_ms), max(self.rtts_ms)))
        return f"{text}, min/avg/max {times} ms, jitter {self.jitter_ms:.2g} ms"


@dataclass
class _Target:
    address: str
    family: socket.AddressFamily
    left: int
    pings: Pings
    done: Future[Pings]
    under_way: set[int] = field(default_factory=set)
    looked_again: bool = False


class Pinger:
    """Pings whatever addresses it is given, each once, until it is closed."""

    def __init__(self, probes: int) -> None:
        self._probes = probes
        self._lock = threading.Lock()
        self._futures: dict[str, Future[Pings]] = {}
        self._echo: dict[socket.AddressFamily, _Echo] = {}
        self._programs = ThreadPoolExecutor(32, thread_name_prefix="ping")

    def __enter__(self) -> Pinger:
        return self

    def __exit__(self, *_: object) -> None:
        for echo in self._echo.values():
            echo.close()
        self._programs.shutdown(wait=False, cancel_futures=True)

    def ping(self, address: str, family: socket.AddressFamily) -> Future[Pings]:
        """What will become of the probes to the address; of an address that was given before, the same. None were sent where neither
        ICMP nor a `ping` program is to be had."""
        with self._lock:
            if address not in self._futures:
                self._futures[address] = self._begin(address, family)
            return self._futures[address]

    def _begin(self, address: str, family: socket.AddressFamily) -> Future[Pings]:
        if family not in self._echo:
            sock = icmp_socket(family)
            if sock is None:
                return self._programs.submit(by_program, address, self._probes)
            self._echo[family] = _Echo(sock, family)
        return self._echo[family].add(address, self._probes)


def icmp_socket(family: socket.AddressFamily) -> socket.socket | None:
    """A socket that may send echo requests, if this user may have one."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with contextlib.suppress(OSError):
            return socket.socket(family, kind, _ECHO[family][2])
    return None


def by_program(address: str, probes: int) -> Pings:
    """By the `ping` program, which may do what this user may not."""
    found = Pings("ping")
    program = shutil.which("ping")
    if program is not None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            argv = [program, "-n", "-c", str(probes), "-i", "0.2", address]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=0.2 * probes + 12.0, check=False)
            # Without permission, or a way out, it says something else.
            if done.returncode in (0, 1):
                found.sent, found.rtts_ms = probes, [float(ms) for ms in _TIME.findall(done.stdout)]
    return found


def by_tcp(address: tuple[str, int], probes: int, *, clock: Callable[[], float] = time.monotonic) -> Pings:
    """By TCP connections, each closed at once. A refusal is an answer too."""
    found = Pings("TCP")
    for _ in range(min(probes, TCP_PROBES)):
        found.sent += 1
        began = clock()
        try:
            socket.create_connection(address, 1.0).close()
        except ConnectionRefusedError:
            pass
        except OSError:
            continue
        found.rtts_ms.append(1000 * (clock() - began))
    return found


class _Echo:
    """ICMP echo over one socket."""

    def __init__(self, sock: socket.socket, family: socket.AddressFamily) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._request, self._reply, _ = _ECHO[family]
        self._family = family
        self._mark = secrets.token_bytes(8)
        self._numbers = itertools.count(1)
        self._sent: dict[int, tuple[_Target, float]] = {}
        self._order = itertools.count()
        self._due: list[tuple[float, int, _Target]] = []
        self._new: queue.SimpleQueue[_Target | None] = queue.SimpleQueue()
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._run, name="ping", daemon=True)
        self._thread.start()

    def add(self, address: str, probes: int) -> Future[Pings]:
        """Begins to ping an address."""
        done: Future[Pings] = Future()
        self._tell(_Target(address, self._family, probes, Pings("ICMP"), done))
        return done

    def close(self) -> None:
        """Ends; what is not done never will be."""
        self._tell(None)
        self._thread.join()
        self._sock.close()
        os.close(self._wake)
        os.close(self._woken)

    def _tell(self, target: _Target | None) -> None:
        self._new.put(target)
        os.write(self._woken, b".")

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                target = heapq.heappop(self._due)[2]
                self._send(target)
                if target.left:
                    self._plan(target, time.monotonic() + INTERVAL_S)
            # Dictionaries keep their order, and all wait equally long: the first is the oldest.
            times = [self._due[0][0]] if self._due else []
            times += [next(iter(self._sent.values()))[1] + TIMEOUT_S] if self._sent else []
            ready = select.select([self._sock.fileno(), self._wake], [], [], max(0.0, min(times) - time.monotonic()) if times else None)[0]
            if self._wake in ready:
                os.read(self._wake, 4096)
                with contextlib.suppress(queue.Empty):
                    while True:
                        fresh = self._new.get_nowait()
                        if fresh is None:
                            return
                        self._plan(fresh, time.monotonic())
            # Before anything counts as lost: what has arrived, has, however busy this process was.
            self._receive()
            self._give_up(time.monotonic() - TIMEOUT_S)

    def _give_up(self, limit: float) -> None:
        for number in list(itertools.takewhile(lambda number: self._sent[number][1] <= limit, self._sent)):
            self._settle(self._sent.pop(number)[0], number)

    def _plan(self, target: _Target, at: float) -> None:
        heapq.heappush(self._due, (at, next(self._order), target))

    def _send(self, target: _Target) -> None:
        number = next(self._numbers)
        target.left -= 1
        target.pings.sent += 1
        payload = self._mark + struct.pack("!I", number) + bytes(44)
        head = struct.pack("!BBHHH", self._request, 0, 0, os.getpid() & 0xFFFF, number & 0xFFFF)
        if self._family == socket.AF_INET:
            head = head[:2] + struct.pack("!H", _checksum(head + payload)) + head[4:]
        target.under_way.add(number)
        self._sent[number] = (target, time.monotonic())
        # Without a route it is lost like any other.
        with contextlib.suppress(OSError):
            self._sock.sendto(head + payload, (target.address, 0))

    def _receive(self) -> None:
        while True:
            try:
                data = self._sock.recv(2048)
            except OSError:
                return
            now = time.monotonic()
            if data[:1] and data[0] >> 4 == 4 and self._family == socket.AF_INET:
                data = data[(data[0] & 0xF) * 4 :]
            if len(data) < 20 or data[0] != self._reply or data[8:16] != self._mark:
                continue
            number = struct.unpack("!I", data[16:20])[0]
            found = self._sent.pop(number, None)
            if found is not None:
                target, began = found
                target.pings.rtts_ms.append(1000 * (now - began))
                self._settle(target, number)

    def _settle(self, target: _Target, number: int) -> None:
        target.under_way.discard(number)
        if target.left or target.under_way:
            return
        if target.pings.lost and target.pings.rtts_ms and not target.looked_again:
            target.looked_again, target.left = True, SECOND_LOOK
            self._plan(target, time.monotonic())
        else:
            target.done.set_result(target.pings)


def _checksum(data: bytes) -> int:
    """As in RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
