"""The controller's own machine as a host: programs as child processes, no SSH."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from ..errors import AgentError, LinkLost, Permanent
from ..model import Host
from .base import STDERR_TAIL_BYTES, Channel, Command, Completed, Connection

_SLICE_S = 0.2
_READ_BYTES = 256 * 1024


class LocalTransport:
    """Runs programs here."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def host(self) -> Host:
        """The host of the inventory."""
        return self._host

    def connect(self, deadline_s: float) -> Connection:  # noqa: ARG002  (nothing to wait for)
        """A connection, at once."""
        return LocalConnection(self._host.name)

    def probe(self, stop: threading.Event, timeout_s: float) -> bool:  # noqa: ARG002
        """True: this machine answers."""
        return not stop.is_set()


class LocalConnection:
    """A set of child processes that end together."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._channels: list[LocalChannel] = []
        self._closed = False

    def exec(self, command: Command, timeout_s: float) -> Channel:  # noqa: ARG002
        """Starts a program in a session of its own."""
        with self._lock:
            if self._closed:
                raise LinkLost("the connection is closed", host=self._name)
            channel = LocalChannel(self._start(command), self._name)
            self._channels.append(channel)
        return channel

    def run(self, command: Command, *, input: bytes = b"", timeout_s: float) -> Completed:  # noqa: A002
        """Runs a program to its end, or kills it at the deadline and raises LinkLost."""
        process = self._start(command)
        try:
            stdout, stderr = process.communicate(input, timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LinkLost(f"'{_program(command)}' did not end within {timeout_s:.0f} s", host=self._name) from error
        finally:
            _end(process)
        return Completed(_exit_code(process), stdout, stderr)

    def is_active(self) -> bool:
        """False once closed."""
        return not self._closed

    def close(self) -> None:
        """Kills what still runs."""
        with self._lock:
            self._closed = True
            channels, self._channels = self._channels, []
        for channel in channels:
            channel.close()

    def _start(self, command: Command) -> subprocess.Popen[bytes]:
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        try:
            return subprocess.Popen(
                argv, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        except FileNotFoundError as error:
            raise AgentError(f"{argv[0]} does not exist on this machine", host=self._name, phase="exec") from error
        except OSError as error:
            raise Permanent(f"{argv[0]} cannot be started: {error.strerror}", host=self._name, phase="exec") from error


class LocalChannel:
    """One child process."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self._process = process
        self._name = name
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._tail = b""
        self._stderr_open = True
        self._closing = threading.Event()
        self._send_lock = threading.Lock()
        self._recv_lock = threading.Lock()
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)

    @property
    def pid(self) -> int:
        """The process id of the child, which leads its own session and process group."""
        return self._process.pid

    def send(self, data: bytes, timeout_s: float) -> None:
        """Hands over all of data, or raises LinkLost."""
        deadline = time.monotonic() + timeout_s
        rest = memoryview(data)
        with self._send_lock:
            while rest:
                if self._closing.is_set():
                    raise LinkLost("the channel is closed", host=self._name)
                try:
                    rest = rest[os.write(self._stdin.fileno(), rest) :]
                except BlockingIOError:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise LinkLost(f"the program took no input for {timeout_s:.1f} s", host=self._name) from None
                    _poll({self._stdin.fileno(): select.POLLOUT}, min(left, _SLICE_S))
                except OSError as error:
                    raise LinkLost(f"the program has ended ({error.strerror})", host=self._name) from error

    def recv(self, timeout_s: float) -> bytes:
        """What has arrived on stdout; b'' only at its end."""
        deadline = time.monotonic() + timeout_s
        with self._recv_lock:
            while not self._closing.is_set():
                # The first look does not wait: data that is there is never late, whatever the timeout.
                left = max(0.0, deadline - time.monotonic())
                wanted = {self._stdout.fileno(): select.POLLIN}
                if self._stderr_open:
                    wanted[self._stderr.fileno()] = select.POLLIN
                ready = _poll(wanted, min(left, _SLICE_S))
                if self._stderr_open and self._stderr.fileno() in ready:
                    self._read_stderr()
                if self._stdout.fileno() in ready:
                    return os.read(self._stdout.fileno(), _READ_BYTES)
                if left <= 0:
                    raise TimeoutError(f"{self._name}: nothing arrived for {timeout_s:.1f} s")
        return b""

    def stderr_tail(self) -> bytes:
        """The last bytes of stderr that have arrived."""
        with self._recv_lock:
            if self._stderr_open and not self._closing.is_set():
                self._read_stderr()
        return self._tail

    def exit_code(self) -> int | None:
        """The exit status; None while the child runs or when a signal ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # stdout ends a moment before the process does.
            self._process.wait(_SLICE_S)
        return _exit_code(self._process)

    def close(self) -> None:
        """Kills the child and its process group, then closes the pipes."""
        self._closing.set()
        _kill_group(self._process)
        with self._recv_lock, self._send_lock:
            _end(self._process)

    def _read_stderr(self) -> None:
        try:
            while data := os.read(self._stderr.fileno(), _READ_BYTES):
                self._tail = (self._tail + data)[-STDERR_TAIL_BYTES:]
            self._stderr_open = False
        except BlockingIOError:
            pass


def _poll(wanted: dict[int, int], timeout_s: float) -> set[int]:
    poller = select.poll()
    for fd, events in wanted.items():
        poller.register(fd, events)
    return {fd for fd, _ in poller.poll(timeout_s * 1000)}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # The child leads a session of its own. What it made to outlive it, the agent's daemon, has left that session.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill_group(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    return None if process.returncode is None or process.returncode < 0 else process.returncode


def _program(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else command[0]
