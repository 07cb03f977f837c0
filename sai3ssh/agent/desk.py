"""Where controllers reach a run: its Unix socket, who listens to it, what is said to all of them."""

from __future__ import annotations

import os
import selectors
import socket
import time
from typing import Any, Callable, Dict, Set

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
        self.heard = time.monotonic()
        """When a controller, or the daemon on its behalf, last said anything."""

    def open(self, directory: str) -> None:
        """Listens."""
        server = state.listen(directory, "supervisor.sock")
        self._selector.register(server, selectors.EVENT_READ, lambda: self._accept(server))

    @property
    def controllers(self) -> Set[str]:
        """The controllers that follow the journal now."""
        return set(self._subscribers.values())

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
                self._subscribers[fd] = str(message.get("controller"))
                answer()
                self._on_subscribe()
            else:
                self._on_command(message, answer)
        except Sai3sshError as error:
            lines.send({"id": message.get("id"), "error": error.to_dict()})
        except (KeyError, TypeError, ValueError) as error:
            bad = AgentError(f"{message.get('cmd')}: {type(error).__name__}: {error}")
            lines.send({"id": message.get("id"), "error": bad.to_dict()})
