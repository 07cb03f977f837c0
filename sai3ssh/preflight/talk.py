"""A small program on the host that answers over the open connection: its clock, its sshd's settings, bytes up and down."""

from __future__ import annotations

import secrets
import shlex
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..controller import clock
from ..errors import LinkLost, Transient
from ..model import MIB
from ..transport import Channel, Connection

ANSWER_S = 10.0
ROUNDS = 16
TASTE_BYTES, SWALLOW_BYTES = 64 * 1024, 1 * MIB
"""How fast the first of these was decides whether the second is sent: a slow line is not kept busy for long."""
SLOW_S = 0.2
KEEPALIVE_SETTINGS = ("clientaliveinterval", "clientalivecountmax", "tcpkeepalive", "maxsessions", "maxstartups")

_PROGRAM = """
import os, sys, time
i, o = getattr(sys.stdin, "buffer", sys.stdin), getattr(sys.stdout, "buffer", sys.stdout)
def say(data):
    o.write(data)
    o.flush()
def boot():
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as f: return f.read().strip()
    except (IOError, OSError): return b""
def sshd():
    r, w = os.pipe()
    if os.fork() == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for fd, to in ((null, 0), (w, 1), (null, 2)): os.dup2(fd, to)
            os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"
            os.execvp("sshd", ["sshd", "-T"])
        finally: os._exit(1)
    os.close(w)
    with os.fdopen(r, "rb") as f: lines = f.read().splitlines()
    os.wait()
    return [line for line in lines if line.split(b" ")[0].decode() in sys.argv[2].split(",")]
say(b"|".join([sys.argv[1].encode() + boot()] + sshd()) + b"\\n")
while True:
    line = i.readline().split()
    if not line: break
    if line[0] == b"t": say(("%d\\n" % int(time.time() * 1e9)).encode())
    elif line[0] == b"u":
        i.read(int(line[1]))
        say(b"\\n")
    elif line[0] == b"d": say(b"\\0" * int(line[1]))
"""
"""Runs on Pythons as old as 2.7: a Python that the agent cannot use is no reason not to know the line. Imports what is there anyway: it
starts in half the time."""


@dataclass
class Talk:
    """What the host said."""

    boot: str
    sshd: dict[str, str]
    """Settings of its sshd; empty where this user may not ask for them."""
    rtts_ms: list[float] = field(default_factory=list)
    offset: clock.ClockOffset | None = None
    """Of the wall clocks."""
    up_mib_per_s: float | None = None
    down_mib_per_s: float | None = None

    @property
    def rtt_ms(self) -> float:
        """The median round trip."""
        return statistics.median(self.rtts_ms)


def talk(connection: Connection, python: str, *, throughput: bool) -> Talk:
    """Asks for everything. Raises LinkLost or Transient, when there is no such Python too."""
    mark = f"sai3ssh-{secrets.token_hex(8)} "
    source = _PROGRAM.encode("ascii")
    loader = f'import sys;exec(getattr(sys.stdin,"buffer",sys.stdin).read({len(source)}))'
    channel = connection.exec(shlex.join([python, "-Sc", loader, mark, ",".join(KEEPALIVE_SETTINGS)]), ANSWER_S)
    try:
        lines = _Lines(channel)
        channel.send(source, ANSWER_S)
        boot, *settings = _hello(lines, channel, mark).split("|")
        found = Talk(boot, dict(setting.split(" ", 1) for setting in settings))

        def ping() -> clock.Pong:
            sent_ns, began = time.time_ns(), time.perf_counter()
            channel.send(b"t\n", ANSWER_S)
            host_ns = int(lines.next())
            found.rtts_ms.append(1000 * (time.perf_counter() - began))
            return clock.Pong(sent_ns, time.time_ns(), found.boot, host_ns)

        found.offset = clock.estimate(ping, ROUNDS)
        if throughput:
            found.up_mib_per_s = _rate(lambda size: _up(channel, lines, size))
            found.down_mib_per_s = _rate(lambda size: _down(channel, lines, size))
        return found
    except (ValueError, TimeoutError) as error:
        raise Transient(f"the host's answer cannot be understood or is late ({error})", phase="talk") from error
    finally:
        channel.close()


def _hello(lines: _Lines, channel: Channel, mark: str) -> str:
    while True:
        try:
            line = lines.next().decode("utf-8", "replace")
        except LinkLost:
            said = channel.stderr_tail().decode("utf-8", "replace").strip()[-200:]
            raise LinkLost(f"the program for it does not run on the host: {said or 'it says nothing'}", phase="talk") from None
        if line.startswith(mark):
            return line[len(mark) :]


def _rate(move: Callable[[int], None]) -> float:
    """MiB/s."""
    for size in (TASTE_BYTES, SWALLOW_BYTES):
        began = time.perf_counter()
        move(size)
        took_s = time.perf_counter() - began
        if took_s > SLOW_S:
            break
    return float(size / MIB / took_s)


def _up(channel: Channel, lines: _Lines, size: int) -> None:
    channel.send(b"u %d\n" % size + bytes(size), ANSWER_S)
    lines.next()


def _down(channel: Channel, lines: _Lines, size: int) -> None:
    channel.send(b"d %d\n" % size, ANSWER_S)
    lines.swallow(size)


class _Lines:
    """What a program says, line by line, or so many bytes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._rest = b""

    def next(self) -> bytes:
        """The next line without its end. Raises LinkLost at the end of the stream."""
        while b"\n" not in self._rest:
            self._more()
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def swallow(self, size: int) -> None:
        """Passes over so many bytes."""
        while len(self._rest) < size:
            size -= len(self._rest)
            self._rest = b""
            self._more()
        self._rest = self._rest[size:]

    def _more(self) -> None:
        data = self._channel.recv(ANSWER_S)
        if not data:
            raise LinkLost("the connection broke or the program ended", phase="talk")
        self._rest += data
