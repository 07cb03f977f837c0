"""What a transport is: a way to run programs on one host and to talk with one of them for hours."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..model import Host

Command = str | Sequence[str]
"""A line for the host's shell, or an argv that reaches the program unaltered."""

STDERR_TAIL_BYTES = 8 * 1024
"""How much of a program's last words a channel keeps."""


class Completed(NamedTuple):
    """A program that has ended. `exit_code` is None when it was killed or the connection broke: the two cannot be told apart."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes


class Channel(Protocol):
    """One running program. send and recv may be used from two threads; close from any."""

    def send(self, data: bytes, timeout_s: float) -> None:
        """Hands over all of data, or raises LinkLost."""

    def recv(self, timeout_s: float) -> bytes:
        """What has arrived on stdout; b'' only at its end. Raises TimeoutError when nothing comes."""

    def stderr_tail(self) -> bytes:
        """The last bytes of stderr that have arrived."""

    def exit_code(self) -> int | None:
        """The exit status when it is known; never an outcome to rely on, only a hint for a message."""

    def close(self) -> None:
        """Ends the channel; a recv that waits returns b''. A local program is killed."""


class Connection(Protocol):
    """An open connection to one host."""

    def exec(self, command: Command, timeout_s: float) -> Channel:
        """Starts a program; raises LinkLost when that takes longer."""

    def run(self, command: Command, *, input: bytes = b"", timeout_s: float) -> Completed:  # noqa: A002  (named as in subprocess.run)
        """Runs a program to its end. Reads stdout and stderr together, so that neither can block it. Raises LinkLost at the deadline."""

    def is_active(self) -> bool:
        """False once the connection is known to be dead."""

    def close(self) -> None:
        """Closes the socket at once, and with it every channel; may be called twice and from any thread."""


class Transport(Protocol):
    """How to reach one host, again and again."""

    @property
    def host(self) -> Host:
        """The host of the inventory."""

    def connect(self, deadline_s: float) -> Connection:
        """A new connection within deadline_s; raises Transient or Permanent, never a library's own exception."""

    def probe(self, stop: threading.Event, timeout_s: float) -> bool:
        """True as soon as the host accepts a TCP connection; False at the end of the time or when stop is set."""
