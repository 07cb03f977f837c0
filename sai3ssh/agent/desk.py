"""Where controllers reach a run: its Unix socket, who listens to it, what is said to all of them."""

from __future__ import annotations

import os
import selectors
import socket
import time
from typing import Any, Callable, Dict

from sai3ssh.agent import state
from sai3ssh.agent.lines import Lines
from sai3ssh.errors import AgentError, Sai3sshError
from sai3ssh.protocol import Json

Answer = Callable[..., None]


class Desk:
    """Serves `supervisor.sock`. Commands go to `on_command(message, answer)`; what it raises is the answer."""

    def __init__(
        self, selector: selectors.BaseSelector, on_command: Callable[[Json, Answer], None], on_subscribe: Callable[[], None]
    ) -> None:
        self._selector = selector
        self._on_command = on_command
        self._on_subscribe = on_subscribe
        self._clients: Dict[int, Lines] = {}
        self._subscribers: Dict[int, str] = {}
        self._boot = state.boot_id()
        self._alive_ns: Dict[int, int] = {}
        self.heard = time.monotonic()
        """When a controller, or the daemon on its behalf, last said anything."""

    def open(self, directory: str) -> None:
        """Listens."""
        server = state.listen(directory, "supervisor.sock")
        self._selector.register(server, selectors.EVENT_READ, lambda: self._accept(server))

    def controllers(self, since_ns: int) -> Dict[str, int]:
        """The controllers that follow the journal and were alive since then, with when each certainly was (CLOCK_BOOTTIME ns).

        That is the reading of this host's clock that it had last seen: the connection of a dead one can stand for long, and what it sent
        before its death can still arrive.
        """
        found: Dict[str, int] = {}
        for fd, name in self._subscribers.items():
            if name and self._alive_ns[fd] >= since_ns:
                found[name] = max(found.get(name, 0), self._alive_ns[fd])
        return found

    def tell_all(self, body: Json) -> None:
        """Sends a line to everyone who follows."""
        for fd in list(self._subscribers):
            try:
                self._clients[fd].send(body)
            except EOFError:
                self._drop(fd)

    def _accept(self, server: socket.socket) -> None:
        client, _ = server.accept()
        fd = client.detach()
        lines = Lines(fd, fd)
        self._clients[fd] = lines
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._on_client(fd))

    def _drop(self, fd: int) -> None:
        if self._clients.pop(fd, None) is not None:
            self._subscribers.pop(fd, None)
            self._alive_ns.pop(fd, None)
            self._selector.unregister(fd)
            os.close(fd)

    def _on_client(self, fd: int) -> None:
        lines = self._clients.get(fd)
        if lines is None:
            return  # dropped by an earlier event of the same turn
        try:
            for message in lines.read():
                self.heard = time.monotonic()
                self._serve(fd, lines, message)
        except EOFError:
            self._drop(fd)

    def _serve(self, fd: int, lines: Lines, message: Json) -> None:
        def answer(**fields: Any) -> None:
            if self._clients.get(fd) is lines and message.get("id") is not None:
                try:
                    lines.send({"id": message["id"], "ok": fields})
                except EOFError:
                    self._drop(fd)

        try:
            if message.get("cmd") == "subscribe":
                self._subscribers[fd] = message.get("controller") or ""
                self._alive_ns[fd] = state.clock_ns()
                answer()
                self._on_subscribe()
            else:
                seen = message.get("seen") or {}
                if message.get("cmd") == "renew" and seen.get("boot") == self._boot:
                    self._alive_ns[fd] = max(self._alive_ns.get(fd, 0), seen["clock_ns"])
                self._on_command(message, answer)
        except Sai3sshError as error:
            lines.send({"id": message.get("id"), "error": error.to_dict()})
        except (KeyError, TypeError, ValueError) as error:
            bad = AgentError(f"{message.get('cmd')}: {type(error).__name__}: {error}")
            lines.send({"id": message.get("id"), "error": bad.to_dict()})
