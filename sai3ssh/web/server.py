"""Where the page listens, who may see it, and how it runs: as a command of its own, or beside a run in a process of its own."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ..errors import ConfigError
from .aside import aside, give_way, until_closed

DEFAULT_PORT = 8633
DEFAULT = f"127.0.0.1:{DEFAULT_PORT}"
SHORTEST_TOKEN = 16
CONNECTIONS = 100
"""At a time; more are answered with 503."""
REQUEST_S = 10.0
"""Who is connected and asks for nothing, or does not come to the end of a request, is sent away: there is room for CONNECTIONS."""
LINGER_S, LONGEST_LINGER_S = 2.5, 6.0
"""After a run, for those who watch to see its end: they ask each second. The longer one is for those who have not asked since."""
WATCHED_S = 5.0
"""Who has asked for something so long ago still watches."""
END_S = 10.0
"""How long the page beside a run has to end before it is killed."""


@dataclass(frozen=True)
class Place:
    """A socket that listens, and what is needed to see what it shows."""

    socket: socket.socket
    names: tuple[str, ...]
    """What the machine is called in a Host header, besides addresses."""
    token: str | None
    told: bool
    """Whether the address that is shown has the token in it: one that was made now, and is known to nobody."""

    @property
    def url(self) -> str:
        """Where the page is, for a person."""
        host, port = self.socket.getsockname()[:2]
        if ipaddress.ip_address(host).is_unspecified:
            host = self.names[-1]
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}/" + (f"?token={self.token}" if self.token and self.told else "")


def listen(address: str, *, token_file: Path | None = None, want_token: bool = False) -> Place:
    """Listens at HOST:PORT, HOST or :PORT. Elsewhere than on loopback, and where it is wanted, a token is needed to see anything: that of
    the file, else a new one. Raises ConfigError."""
    host, port = _parse(address)
    token = _read_token(token_file) if token_file is not None else None
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--listen {address}: {host} is not known here: {text}", remedy="Give an address of this machine") from error
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(CONNECTIONS)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"the page cannot listen at {host}:{port}: {error.strerror}", remedy="Choose another port with --listen HOST:PORT"
        ) from error
    local = ipaddress.ip_address(listening.getsockname()[0]).is_loopback
    told = token is None and (want_token or not local)
    if told:
        token = secrets.token_urlsafe(32)
    names = (host,) if local else (host, socket.getfqdn(), socket.gethostname())
    return Place(listening, names, token, told)


def _parse(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = (address, str(DEFAULT_PORT)) if not address.isdigit() else ("", address)
    if not port.isdigit() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ConfigError(
            f"--listen {address!r} is not understood", remedy=f"Write HOST:PORT, for example {DEFAULT} or [::1]:{DEFAULT_PORT}"
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def _read_token(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            open_to_others = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077
            token = file.readline().strip()
    except (OSError, UnicodeError) as error:
        text = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"--token-file {path} cannot be read: {text}", remedy="Name a file whose first line is the token") from error
    if open_to_others:
        raise ConfigError(f"--token-file {path} is open to others (mode {open_to_others:03o})", remedy=f"chmod 600 {path}")
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"--token-file {path}: its first line is no token: expected at least {SHORTEST_TOKEN} characters, letters and digits",
            remedy=f"Make one: openssl rand -hex 32 > {path}",
        )
    return token


def serve(
    results_dir: Path,
    place: Place,
    until: Callable[[Callable[[], float]], None] | None = None,
    *,
    said: Callable[[str], None] | None = None,
) -> None:
    """Shows the runs of a directory until SIGINT or SIGTERM; or until `until` returns, which is given what tells for how many seconds
    nobody has asked for anything. `said` is called once the page can be seen."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from .app import Page, make_app
    from .guard import Guard

    page = Page(results_dir)

    class Server(uvicorn.Server):
        """Ends when it is told to, without a traceback."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """SIGINT and SIGTERM end it."""
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: setattr(self, "should_exit", True))
            yield

    class Connection(H11Protocol):
        """A connection that ends when a whole REQUEST_S has no request in it that is being answered."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.loop.call_later(REQUEST_S, self._look, None)

        def _look(self, earlier: object) -> None:
            if self.transport.is_closing():
                return
            if self.cycle is earlier and (self.cycle is None or self.cycle.response_complete):
                self.transport.close()
            else:
                self.loop.call_later(REQUEST_S, self._look, self.cycle)

    settings = uvicorn.Config(
        Guard(make_app(page), place.token, place.names),
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=2,
    )
    server = Server(settings)
    if until is not None:

        def wait() -> None:
            until(lambda: time.monotonic() - page.asked_s)
            server.should_exit = True

        threading.Thread(target=wait, name="until", daemon=True).start()
    if said is not None:
        said(place.url)
    server.run(sockets=[place.socket])


# --- beside a run ------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def beside(results_dir: Path, place: Place, say: Callable[[str], None]) -> Iterator[None]:
    """A page in a process of its own, for as long as the block lasts. Who watches then has a moment to see the end."""
    told = {"fd": place.socket.fileno(), "results_dir": str(results_dir), "token": place.token, "names": place.names}
    remedy = f"See it again with: sai3ssh serve {results_dir}"
    with aside("sai3ssh.web", told, say, name="the page", remedy=remedy, end_s=END_S, pass_fds=[place.socket.fileno()]):
        # It is the other process's now: nobody shall wait at the door of a page that is gone.
        place.socket.close()
        yield


def child(told: TextIO) -> None:
    """The process beside a run: shows until `told` is closed, which it also is when the controller is killed."""
    settings = json.loads(told.readline())
    listening = socket.socket(fileno=settings["fd"])
    give_way()

    def until(idle_s: Callable[[], float]) -> None:
        until_closed(told)
        over_s = time.monotonic()
        while idle_s() < WATCHED_S and (since_s := time.monotonic() - over_s) < LONGEST_LINGER_S:
            if since_s > LINGER_S and idle_s() < since_s:
                return
            time.sleep(0.1)

    serve(Path(settings["results_dir"]), Place(listening, tuple(settings["names"]), settings["token"], False), until)
