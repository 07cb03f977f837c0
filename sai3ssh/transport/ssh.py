"""SSH by paramiko over sockets of our own, host keys verified, through jump hosts where ssh_config or the inventory name them."""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple

import paramiko

from ..errors import LinkLost, Sai3sshError, Transient
from ..model import Host
from . import auth, hostkeys, sshconfig
from .base import STDERR_TAIL_BYTES, Channel, Command, Completed
from .gate import Gate
from .sockets import Prober, open_socket
from .translate import translate

PORT, HANDSHAKE = "connect", "SSH handshake"
"""How the phases of errors begin: before there is a TCP connection to a hop, and until its host key is known."""
BANNER_TIMEOUT_S = 30.0
_SLICE_S = 0.25
_READ_BYTES = 256 * 1024
_WRITE_BYTES = 32 * 1024

# paramiko logs each broken connection as an error with its traceback; here they are reported as what they mean.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Reached(NamedTuple):
    """A hop that was connected to, and how."""

    hop: sshconfig.Hop
    banner: str
    host_key: hostkeys.HostKey
    identity: str
    """The key that it accepted."""


class SshTransport:
    """How to reach one host by SSH. OpenSSH's configuration is read once, at the first use."""

    def __init__(self, host: Host, gate: Gate) -> None:
        self._host = host
        self._gate = gate
        self._lock = threading.Lock()
        self._route: tuple[sshconfig.Hop, ...] | None = None
        self._prober: Prober | None = None

    @property
    def host(self) -> Host:
        """The host of the inventory."""
        return self._host

    def route(self) -> tuple[sshconfig.Hop, ...]:
        """The hops to the host, itself last."""
        with self._lock:
            if self._route is None:
                self._route = sshconfig.route(self._host)
            return self._route

    def connect(self, deadline_s: float) -> SshConnection:
        """A new connection within deadline_s, every hop's host key verified."""
        deadline = time.monotonic() + deadline_s
        hops = self.route()
        with self._gate.enter((hops[0].address, hops[0].port), deadline_s):
            opened = _Opened()
            try:
                for hop in hops:
                    self._enter(hop, opened, deadline)
            except BaseException:
                opened.close()
                raise
        return SshConnection(self._host.name, opened)

    def probe(self, stop: threading.Event, timeout_s: float) -> bool:
        """True as soon as the first hop accepts a TCP connection; False at the end of the time or when stop is set."""
        if self._prober is None:
            first = self.route()[0]
            self._prober = Prober(first.address, first.port)
        return self._prober.wait(stop, timeout_s)

    def _enter(self, hop: sshconfig.Hop, opened: _Opened, deadline: float) -> None:
        where = f"{hop.address} port {hop.port}"
        with _translated(hop.name, f"{PORT} to {where}"):
            if opened.transports:
                opened.through(hop, deadline)
            else:
                opened.sock = open_socket(hop.address, hop.port, deadline)
                opened.start(opened.sock)
        transport = opened.transports[-1]
        with _translated(hop.name, f"{HANDSHAKE} with {where}"):
            left = max(1.0, deadline - time.monotonic())
            # Before start_client's own time is over, so that the error says what was waited for.
            transport.banner_timeout = min(BANNER_TIMEOUT_S, 0.9 * left)
            transport.handshake_timeout = min(BANNER_TIMEOUT_S, left)
            transport.auth_timeout = min(BANNER_TIMEOUT_S, left)
            known = hostkeys.look_up(hop.address, hop.port, hop.known_hosts, hop.host_key_alias)
            options = transport.get_security_options()
            options.key_types = known.algorithms(options.key_types)
            transport.start_client(timeout=left)
            shown = transport.get_remote_server_key()
            host_key = hostkeys.HostKey(shown.get_name(), shown.asbytes())
            known.verify(hop.name, host_key)
        with _translated(hop.name, auth.PHASE):
            identity = auth.authenticate(transport, hop, files_first=hop.name == self._host.name and self._host.key_file is not None)
        opened.reached.append(Reached(hop, transport.remote_version, host_key, identity))


class _Opened:
    """The socket and the transports of one connection, as far as they are open: nested, the host's own last."""

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.transports: list[paramiko.Transport] = []
        self.reached: list[Reached] = []

    def start(self, sock: socket.socket | paramiko.Channel) -> None:
        """Adds a transport over sock."""
        self.transports.append(paramiko.Transport(sock))

    def through(self, hop: sshconfig.Hop, deadline: float) -> None:
        """Adds a transport to hop through the last one."""
        left = max(1.0, deadline - time.monotonic())
        self.start(self.transports[-1].open_channel("direct-tcpip", (hop.address, hop.port), ("127.0.0.1", 0), timeout=left))

    def acknowledge(self) -> None:
        """Sends a delayed ACK now: sshd has Nagle's algorithm on until the first session, and would wait 40 ms for it."""
        if self.sock is not None and hasattr(socket, "TCP_QUICKACK"):
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def cut(self) -> None:
        """Ends the TCP connection without a word; whoever waits for it wakes up."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cuts, then waits for paramiko's threads."""
        self.cut()
        for transport in reversed(self.transports):
            transport.close()
        if self.sock is not None:
            self.sock.close()


class SshConnection:
    """An open, authenticated connection."""

    def __init__(self, name: str, opened: _Opened) -> None:
        self._name = name
        self._opened = opened
        self._transport = opened.transports[-1]

    @property
    def reached(self) -> tuple[Reached, ...]:
        """The hops, the host itself last."""
        return tuple(self._opened.reached)

    @property
    def peer(self) -> str:
        """The address of the first hop."""
        return str(self._opened.sock.getpeername()[0]) if self._opened.sock is not None else ""

    def fall_silent(self) -> None:
        """From now on the operating system sends nothing by itself to keep the connection alive."""
        if self._opened.sock is not None:
            self._opened.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)

    def exec(self, command: Command, timeout_s: float) -> Channel:
        """Starts a program in the user's login shell."""
        return SshChannel(self._exec(command, timeout_s), self._name, self.is_active)

    def run(self, command: Command, *, input: bytes = b"", timeout_s: float) -> Completed:  # noqa: A002
        """Runs a program to its end. Raises LinkLost when the connection breaks or the deadline passes."""
        deadline = time.monotonic() + timeout_s
        channel = self._exec(command, timeout_s)
        try:
            with _translated(self._name, "exec"):
                return self._pump(channel, input, deadline)
        except TimeoutError as error:
            raise LinkLost(f"'{_text(command)[:80]}' did not end within {timeout_s:.0f} s", host=self._name) from error
        finally:
            channel.close()

    def is_active(self) -> bool:
        """False once the connection is known to be dead."""
        return all(transport.is_active() for transport in self._opened.transports)

    def close(self) -> None:
        """Closes the socket at once, and with it every channel."""
        self._opened.close()

    def _exec(self, command: Command, timeout_s: float) -> paramiko.Channel:
        # paramiko waits for the reply to exec_command without a limit; cutting the socket ends that wait.
        with _Deadline(timeout_s, self._opened.cut) as passed, _translated(self._name, "exec"):
            try:
                self._opened.acknowledge()
                channel = self._transport.open_session(timeout=timeout_s)
                channel.exec_command(_text(command))
            except Exception as error:
                if passed.is_set():
                    raise LinkLost(f"the host did not start a program within {timeout_s:.1f} s", host=self._name) from error
                raise
        return channel

    def _pump(self, channel: paramiko.Channel, data: bytes, deadline: float) -> Completed:
        stdout, stderr = bytearray(), bytearray()
        rest = memoryview(data)
        if not rest:
            channel.shutdown_write()
        # One loop for all three streams: a program that waits for one of them while we wait for another would hang both.
        while True:
            _drain(channel, stderr)
            if rest and channel.send_ready():
                try:
                    rest = rest[channel.send(bytes(rest[:_WRITE_BYTES])) :]
                except OSError:
                    rest = rest[:0]  # the program has ended and did not want the rest
                if not rest:
                    channel.shutdown_write()
            if time.monotonic() > deadline:
                raise TimeoutError
            channel.settimeout(0.0 if rest and channel.send_ready() else 0.02)
            with contextlib.suppress(TimeoutError):
                chunk = channel.recv(_READ_BYTES)
                if not chunk:
                    break
                stdout += chunk
        # The exit status may come before or after the end of stdout, or never: then the channel is closed.
        while not channel.exit_status_ready():
            _drain(channel, stderr)
            if time.monotonic() > deadline:
                raise TimeoutError
            channel.status_event.wait(0.02)
        _drain(channel, stderr)
        code = channel.recv_exit_status()
        if code == -1 and not self.is_active():
            raise LinkLost("the connection broke while a program ran", host=self._name)
        return Completed(None if code == -1 else code, bytes(stdout), bytes(stderr))


class SshChannel:
    """One program on the host."""

    def __init__(self, channel: paramiko.Channel, name: str, is_active: Callable[[], bool]) -> None:
        self._channel = channel
        self._name = name
        self._is_active = is_active
        self._send_lock = threading.Lock()
        self._tail = bytearray()

    def send(self, data: bytes, timeout_s: float) -> None:
        """Hands over all of data, or raises LinkLost."""
        deadline = time.monotonic() + timeout_s
        rest = memoryview(data)
        with self._send_lock:
            while rest:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LinkLost(f"the host took no input for {timeout_s:.1f} s", host=self._name)
                # The time limit belongs to the channel, and recv sets it too: both wait in slices and keep their own deadlines.
                self._channel.settimeout(min(left, _SLICE_S))
                try:
                    sent = self._channel.send(bytes(rest[:_WRITE_BYTES]))
                except TimeoutError:
                    continue
                except (OSError, EOFError, paramiko.SSHException) as error:
                    raise LinkLost(f"the connection broke ({error})", host=self._name) from error
                # After the death of the transport paramiko drops what is sent without a word.
                if sent == 0 or not self._is_active():
                    raise LinkLost("the connection broke", host=self._name)
                rest = rest[sent:]

    def recv(self, timeout_s: float) -> bytes:
        """What has arrived on stdout; b'' only at its end, which is also how a broken connection looks."""
        deadline = time.monotonic() + timeout_s
        while True:
            # Unread stderr uses up the window that both streams share.
            self._keep_stderr()
            left = deadline - time.monotonic()
            self._channel.settimeout(max(0.0, min(left, _SLICE_S)))
            try:
                return self._channel.recv(_READ_BYTES)
            except TimeoutError:
                if left <= 0:
                    raise TimeoutError(f"{self._name}: nothing arrived for {timeout_s:.1f} s") from None

    def stderr_tail(self) -> bytes:
        """The last bytes of stderr that have arrived."""
        self._keep_stderr()
        return bytes(self._tail)

    def exit_code(self) -> int | None:
        """The exit status, if the host has told one by now."""
        self._channel.status_event.wait(_SLICE_S)
        code = self._channel.exit_status
        return None if code < 0 else code

    def close(self) -> None:
        """Ends the channel; sshd closes the program's stdin and stdout."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

    def _keep_stderr(self) -> None:
        _drain(self._channel, self._tail)
        del self._tail[:-STDERR_TAIL_BYTES]


class _Deadline:
    """Calls `action` in a thread of its own when the block takes longer; the event tells whether it did."""

    def __init__(self, timeout_s: float, action: Callable[[], None]) -> None:
        self._passed = threading.Event()
        self._action = action
        self._timer = threading.Timer(timeout_s, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> threading.Event:
        self._timer.start()
        return self._passed

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()

    def _expire(self) -> None:
        self._passed.set()
        self._action()


@contextlib.contextmanager
def _translated(host: str, phase: str) -> Iterator[None]:
    try:
        yield
    except Sai3sshError as error:
        translate(error, host, phase)
        raise
    except TimeoutError as error:
        if phase == "exec":
            raise
        raise Transient("no answer within the deadline", host=host, phase=phase) from error
    except Exception as error:
        raise translate(error, host, phase) from error


def _drain(channel: paramiko.Channel, into: bytearray) -> None:
    while channel.recv_stderr_ready():
        into += channel.recv_stderr(_READ_BYTES)


def _text(command: Command) -> str:
    return command if isinstance(command, str) else shlex.join(command)
