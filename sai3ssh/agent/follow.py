"""One controller's window on a host: commands in on stdin, frames out on stdout.

Reads the journal from disk up to the committed offset that the supervisor publishes. Losing this process loses nothing: the next one goes
on
from the offset that the controller names.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import socket
import time
from typing import Any, Dict, Optional, Tuple

from sai3ssh.agent import daemon, state
from sai3ssh.agent.lines import Lines
from sai3ssh.agent.tail import last_record
from sai3ssh.errors import AgentError, JournalLost, Sai3sshError, Transient, VersionMismatch
from sai3ssh.protocol import MAX_DATA, PROTOCOL, Json, decode_record, encode_control, encode_data, encode_preamble

SILENCE_S = 30.0
RETRY_S = 0.1
CONNECT_S = 10.0
DAEMON_VERBS = ("runs", "plan", "submit", "trace", "credentials", "stop", "forget")
RUN_VERBS = ("claim", "arm", "commit", "end", "adopt", "finish")


class Follow:
    """Runs until stdin ends or is silent for SILENCE_S, or stdout is closed."""

    def __init__(self, directory: str) -> None:
        self._dir = directory
        self._controller = Lines(0, 1)
        self._selector = selectors.DefaultSelector()
        self._daemon: Optional[Lines] = None
        self._supervisor: Optional[Lines] = None
        self._journal: Optional[int] = None
        self._run_dir = ""
        self._name = ""
        """The controller, as it calls itself; empty: somebody who only reads, and renews no lease."""
        self._offset = 0
        self._committed = 0
        self._final: Optional[Json] = None
        self._final_sent = False
        self._retry_at = 0.0
        self._heard = 0.0
        self._pending: Dict[Any, Json] = {}

    def run(self, nonce: str) -> None:
        """Serves the channel."""
        self._controller.send_bytes(encode_preamble(nonce))
        self._connect_daemon()
        version = state.version()
        hello = {"protocol": PROTOCOL, **version, "boot": state.boot_id(), "clock_ns": state.clock_ns(), "host": os.uname().nodename}
        self._controller.send({"hello": {**hello, "cores": len(os.sched_getaffinity(0)), "state_dir": self._dir}})
        self._selector.register(0, selectors.EVENT_READ, self._on_controller)
        self._heard = time.monotonic()
        while time.monotonic() - self._heard < SILENCE_S:
            self._turn()

    def refuse(self, error: Sai3sshError) -> None:
        """Says on the channel why it ends."""
        self._controller.send({"error": error.to_dict()})
        deadline = time.monotonic() + 2.0
        while self._controller.waiting and time.monotonic() < deadline:
            time.sleep(0.01)
            self._controller.write()

    def _turn(self) -> None:
        blocked = self._controller.waiting > 0
        if blocked:
            self._selector.register(1, selectors.EVENT_WRITE, self._controller.write)
        timeout_s = 0.0 if self._can_send() and not blocked else 1.0
        if self._journal is not None and self._supervisor is None and not self._final_sent:
            timeout_s = min(timeout_s, RETRY_S)
        for lines in (self._daemon, self._supervisor):
            if lines is not None:
                self._listen(lines)
        for key, _ in self._selector.select(timeout_s):
            key.data()
        if blocked:
            self._selector.unregister(1)
        if self._journal is not None and self._supervisor is None and self._final is None and time.monotonic() >= self._retry_at:
            self._find_supervisor()
        if not self._controller.waiting:
            self._send_data()

    def _listen(self, lines: Lines) -> None:
        """A command of which the socket has not taken all, such as a piece of a trace, goes on as soon as there is room."""
        key = self._selector.get_key(lines.in_fd)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if lines.waiting else 0)
        if events != key.events:
            self._selector.modify(lines.in_fd, events, key.data)

    # --- controller ------------------------------------------------------------------------------------------------------------------

    def _on_controller(self) -> None:
        for message in self._controller.read():
            self._heard = time.monotonic()
            try:
                self._command(message)
            except Sai3sshError as error:
                self._controller.send({"id": message.get("id"), "error": error.to_dict()})
            except (KeyError, TypeError, ValueError, OSError) as error:
                failed = AgentError(f"{message.get('cmd')}: {type(error).__name__}: {error}")
                self._controller.send({"id": message.get("id"), "error": failed.to_dict()})

    def _command(self, message: Json) -> None:
        verb = message.get("cmd")
        if verb == "ping":
            clock = {"boot": state.boot_id(), "clock_ns": state.clock_ns(), "wall_ns": time.time_ns()}
            self._controller.send({"id": message.get("id"), "ok": clock})
            if self._supervisor is not None and self._name:
                # One that has just ended is noticed by its own event; this channel stands.
                with contextlib.suppress(EOFError):
                    self._supervisor.send({"cmd": "renew", "seen": message.get("seen", {})})
        elif verb == "follow":
            self._subscribe(message)
        elif verb in DAEMON_VERBS:
            if self._daemon is None:
                self._connect_daemon()
            assert self._daemon is not None
            self._pass_on(self._daemon, message)
        elif verb in RUN_VERBS:
            if self._supervisor is None:
                raise Transient(f"{verb}: no supervisor has this run at the moment")
            self._pass_on(self._supervisor, message)
            self._pending[message.get("id")] = message
        else:
            raise AgentError(f"unknown command {verb!r}")

    @staticmethod
    def _pass_on(to: Lines, message: Json) -> None:
        try:
            to.send(message)
        except EOFError as error:
            raise Transient(f"{message['cmd']}: who has to answer that on this host has just ended") from error

    def _subscribe(self, message: Json) -> None:
        self._run_dir = state.run_dir(self._dir, message["run_id"], message["agent_id"])
        path = os.path.join(self._run_dir, "journal.ndjson")
        self._wait_for_journal(path)
        if self._journal is not None:
            os.close(self._journal)
        self._journal = os.open(path, os.O_RDONLY)
        with open(path, "rb") as file:
            epoch = decode_record(file.readline())["epoch"]
        if message.get("epoch") not in (None, epoch):
            raise JournalLost(f"journal {path} has epoch {epoch}, the mirror is of epoch {message['epoch']}")
        self._offset, self._committed = message["offset"], 0
        self._name = message.get("controller") or ""
        self._final, self._final_sent = None, False
        self._find_supervisor(wait_s=5.0)
        if self._committed < self._offset:
            raise JournalLost(f"journal {path} has {self._committed} committed bytes, the mirror has {self._offset}")
        self._controller.send({"id": message.get("id"), "ok": {"epoch": epoch, "committed": self._committed}})

    @staticmethod
    def _wait_for_journal(path: str) -> None:
        """The first record is on disk soon after the submit; a run that is not here at all is an error at once."""
        if not os.path.isdir(os.path.dirname(path)):
            raise AgentError(f"no run at {os.path.dirname(path)}")
        deadline = time.monotonic() + 5.0
        while not (os.path.exists(path) and b"\n" in _head(path)):
            if time.monotonic() > deadline:
                raise AgentError(f"journal {path} has no first record after 5 s", remedy="See supervisor.log beside it.")
            time.sleep(0.01)

    # --- agent -----------------------------------------------------------------------------------------------------------------------

    def _connect_daemon(self) -> None:
        deadline = time.monotonic() + CONNECT_S
        while True:
            daemon.start(self._dir)
            try:
                sock, other = self._greet()
                break
            except OSError as error:
                # One daemon is going and the next one is coming, or it was killed just now.
                if time.monotonic() > deadline:
                    raise Transient(
                        f"the agent daemon does not answer in {self._dir}: {error}",
                        remedy="See `systemctl status sai3ssh-agent` on the host" if state.is_served(self._dir) else None,
                    ) from error
                time.sleep(0.02)
        mine = state.version()
        if other["digest"] != mine["digest"]:
            self._replace_daemon(sock, other, mine)
            return
        fd = sock.detach()
        self._daemon = lines = Lines(fd, fd)
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._on_daemon(lines))

    def _greet(self) -> Tuple[socket.socket, Json]:
        sock = state.connect(self._dir, "agent.sock")
        try:
            sock.settimeout(CONNECT_S)
            hello: Json = state.ask(sock, b'{"id":0,"cmd":"hello"}\n')["ok"]
        except OSError:
            sock.close()
            raise
        return sock, hello

    def _replace_daemon(self, sock: Any, other: Json, mine: Json) -> None:
        """An idle daemon of another build makes room; a busy one, or one that systemd keeps, is an error."""
        what = f"agent {other['version']} (sha256 {other['digest'][:12] or 'source tree'}) serves {self._dir}"
        brought = f"this controller brings {mine['version']} (sha256 {mine['digest'][:12]})"
        if state.is_served(self._dir):
            sock.close()
            raise VersionMismatch(
                f"{what} as a service; {brought}",
                remedy="Deploy this version (`sai3ssh upgrade`), or set sai3ssh_agent_state_dir to a directory of the SSH user",
            )
        try:
            answer: Json = state.ask(sock, b'{"id":1,"cmd":"retire"}\n')
        except OSError:
            answer = {}  # it is going: another controller has asked before
        sock.close()
        if "error" in answer:
            raise VersionMismatch(
                f"{what}: {answer['error']['message']}; {brought}",
                remedy="Wait for that run or stop it, or use the sai3ssh version that started it",
            )
        deadline = time.monotonic() + 5.0
        while state.is_locked(os.path.join(self._dir, "agent.lock")):
            if time.monotonic() > deadline:
                raise VersionMismatch(f"{what} and does not end", remedy="Stop it on the host")
            time.sleep(0.02)
        self._connect_daemon()

    def _on_daemon(self, lines: Lines) -> None:
        try:
            lines.write()
            for message in lines.read():
                self._controller.send(message)
        except EOFError:
            self._selector.unregister(lines.in_fd)
            os.close(lines.in_fd)
            self._daemon = None

    def _find_supervisor(self, wait_s: float = 0.0) -> None:
        """Connects to the run's supervisor, or finds that the journal is finished. With wait_s, does not return before the committed
        offset is known."""
        deadline = time.monotonic() + wait_s
        while True:
            self._retry_at = time.monotonic() + RETRY_S
            if self._join_supervisor(deadline) or self._find_final():
                return
            if time.monotonic() >= deadline:
                if wait_s:
                    raise Transient(
                        f"no supervisor of {self._run_dir} answers and its journal has no end", remedy="See supervisor.log there."
                    )
                if self._daemon is None:
                    self._connect_daemon()
                return
            time.sleep(0.02)

    def _join_supervisor(self, deadline: float) -> bool:
        try:
            sock = state.connect(self._run_dir, "supervisor.sock")
        except OSError:
            return False
        fd = sock.detach()
        lines = Lines(fd, fd)
        try:
            lines.send({"id": None, "cmd": "subscribe", "controller": self._name})
            while not self._committed and time.monotonic() < deadline + 5.0:
                if self._selector_wait(fd):
                    for message in lines.read():
                        self._from_supervisor(message)
        except EOFError:
            os.close(fd)
            return False
        if not self._committed:
            # Alive, but kept from answering; what it has committed it will say to the next one who asks.
            os.close(fd)
            return False
        self._supervisor = lines
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._on_supervisor(lines))
        return True

    @staticmethod
    def _selector_wait(fd: int) -> bool:
        with selectors.DefaultSelector() as one:
            one.register(fd, selectors.EVENT_READ)
            return bool(one.select(0.2))

    def _on_supervisor(self, lines: Lines) -> None:
        try:
            lines.write()
            for message in lines.read():
                self._from_supervisor(message)
        except EOFError:
            self._selector.unregister(lines.in_fd)
            os.close(lines.in_fd)
            self._supervisor = None
            for number in self._pending:
                gone = Transient("the supervisor of the run ended before it answered")
                self._controller.send({"id": number, "error": gone.to_dict()})
            self._pending.clear()

    def _from_supervisor(self, message: Json) -> None:
        if "hb" in message:
            self._committed = max(self._committed, message["committed"])
            self._controller.send(message)
        elif message.get("id") is not None:
            self._pending.pop(message["id"], None)
            self._controller.send(message)

    def _find_final(self) -> bool:
        path = os.path.join(self._run_dir, "journal.ndjson")
        if state.is_locked(os.path.join(self._run_dir, "supervisor.lock")):
            return False
        record = last_record(path)
        if record is None or record["kind"] != "final" or self._journal is None:
            return False
        # Its writer may have died between write and sync.
        os.fdatasync(self._journal)
        self._committed = os.fstat(self._journal).st_size
        self._final = record
        return True

    # --- journal ---------------------------------------------------------------------------------------------------------------------

    def _can_send(self) -> bool:
        return self._journal is not None and (self._offset < self._committed or (self._final is not None and not self._final_sent))

    def _send_data(self) -> None:
        if self._journal is None:
            return
        if self._offset < self._committed:
            payload = os.pread(self._journal, min(MAX_DATA, self._committed - self._offset), self._offset)
            if not payload:
                raise EOFError(f"the journal ends at {self._offset}, before its committed offset {self._committed}")
            self._controller.send_bytes(encode_data(self._offset, payload))
            self._offset += len(payload)
        elif self._final is not None and not self._final_sent:
            digest = hashlib.sha256()
            with open(os.path.join(self._run_dir, "journal.ndjson"), "rb") as file:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    digest.update(piece)
            self._controller.send({"final": {"size": self._committed, "sha256": digest.hexdigest(), "outcome": self._final["outcome"]}})
            self._final_sent = True


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(65536)


def main(given: Optional[str], nonce: str) -> int:
    """Entry point of `follow`: 0 when the channel ended, 1 after an error that was reported on it. `given` is --state."""
    try:
        directory = state.state_dir(given)
    except OSError as error:
        unusable = AgentError(
            f"cannot use the state directory {error.filename}: {error.strerror}",
            remedy="Set sai3ssh_agent_state_dir to a directory that the SSH user can write",
        )
        os.write(1, encode_preamble(nonce) + encode_control({"error": unusable.to_dict()}))
        return 1
    follow = Follow(directory)
    try:
        follow.run(nonce)
    except EOFError as error:
        # Heard only where the channel still stands, and this was not its end.
        with contextlib.suppress(OSError):
            os.write(2, f"{error}\n".encode())
        return 0
    except Sai3sshError as error:
        with contextlib.suppress(EOFError):
            follow.refuse(error)
        return 1
    return 0
