"""How long an idle connection lives: NATs and firewalls forget those that are silent, mostly without a word to either end."""

from __future__ import annotations

import threading
import time

from ..errors import Sai3sshError
from ..transport import SshConnection, SshTransport
from .report import Notes

SILENCES = 6
"""So many connections are opened: silent for the whole time, for half of it, a quarter ..."""
ANSWER_S = 10.0


def idle_test(transport: SshTransport, notes: Notes, limit_s: float, stop: threading.Event) -> float | None:
    """ssh.idle: the longest silence in seconds, of those tried, that a connection survived before a shorter one did not; None when
    `stop` ended it. Takes limit_s and a little."""
    silences = sorted(limit_s / 2**power for power in range(SILENCES))
    connections: list[SshConnection] = []
    lived = 0.0
    try:
        for _ in silences:
            connections.append(transport.connect(ANSWER_S))
            connections[-1].fall_silent()
        began = time.monotonic()
        for silence_s, connection in zip(silences, connections, strict=True):
            if stop.wait(max(0.0, began + silence_s - time.monotonic())):
                return None
            cause = _dead(connection)
            if cause is not None:
                notes.warn(
                    "ssh.idle",
                    f"a connection that was silent for {silence_s:g} s is dead ({cause}); one of {lived:g} s was alive",
                    f"connections that live for {limit_s:g} s of silence",
                    "Runs are not at risk, their links speak each second; for ssh and Ansible set ServerAliveInterval below it "
                    "(role sai3ssh_ssh_keepalive)",
                    values={"lived_s": lived, "died_s": silence_s},
                )
                return lived
            lived = silence_s
        notes.ok("ssh.idle", f"a connection that was silent for {limit_s:g} s is alive", values={"lived_s": lived})
        return lived
    except Sai3sshError as error:
        notes.leave(("ssh.idle",), f"cannot be done: {error.message}")
        return None
    finally:
        for connection in connections:
            connection.close()


def _dead(connection: SshConnection) -> str | None:
    """Why no program can be run over it; None when one can."""
    try:
        connection.run("true", timeout_s=ANSWER_S)
    except Sai3sshError as error:
        return error.message
    return None
