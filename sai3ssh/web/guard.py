"""Who may ask the page what: methods, Host, token; and the headers that keep a browser from doing more than showing it."""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD")
COOKIE = "sai3ssh_page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
LOCAL_NAMES = ("localhost", "localhost.localdomain")


class Guard:
    """Lets only those requests through to the app that it is meant for."""

    def __init__(self, app: ASGIApp, token: str | None, names: Iterable[str]) -> None:
        """`token`: who does not show it sees nothing. `names`: what the machine is called in a Host header, besides any address."""
        self._app = app
        self._token = token
        self._names = {name.lower().rstrip(".") for name in (*LOCAL_NAMES, *names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            # No websockets here; the server itself tells when it starts and stops.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(scope)
        await (answer or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered instead of the page; None for those who may see it."""
        headers = Headers(scope=scope)
        if scope["method"] not in METHODS:
            return PlainTextResponse("This page only shows: GET and HEAD.\n", 405, {"Allow": ", ".join(METHODS)})
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_us(hosts[0]):
            return PlainTextResponse("This server does not know itself by that name. Use its address.\n", 421)
        if self._token is None:
            return None
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token")
        if given is not None and _same(given, self._token):
            return self._welcome(scope)
        if given is None and self._knows(headers):
            return None
        text = "A token is needed. Open the address with the token that sai3ssh printed when it started.\n"
        return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer"})

    def _is_us(self, host: str) -> bool:
        """Whether a Host header names this server. A name that an attacker's DNS points here (DNS rebinding) does not; an address cannot
        be pointed anywhere."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
        if name.lower().rstrip(".") in self._names:
            return True
        try:
            ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
        except ValueError:
            return False
        return True

    def _knows(self, headers: Headers) -> bool:
        assert self._token is not None
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(value.strip(), self._token):
            return True
        # As browsers send them: those of other servers on this machine come along, whatever is in them.
        given = cookie_parser(headers.get("cookie", "")).get(name_of(self._token))
        return given is not None and _same(given, cookie_of(self._token))

    def _welcome(self, scope: Scope) -> Response:
        """Keeps the token in a cookie and leads on to the address without it. By a page, not by a redirect: a cookie that is
        SameSite=Strict does not go with a redirect that another site's link began."""
        assert self._token is not None
        query = [pair for pair in parse_qsl(scope["query_string"].decode("latin-1")) if pair[0] != "token"]
        # A path that begins with two slashes would be another server's.
        address = "/" + scope["raw_path"].decode("latin-1").lstrip("/").partition("?")[0] + ("?" + urlencode(query) if query else "")
        quoted = html.escape(address)
        # With an icon of its own, or a browser that is slow to go on asks for /favicon.ico.
        icon = '<link rel="icon" href="data:,">'
        page = f'<!doctype html>{icon}<meta http-equiv="refresh" content="0;url={quoted}"><a href="{quoted}">sai3ssh</a>'
        answer = HTMLResponse(page, headers={"Cache-Control": "no-store"})
        answer.set_cookie(name_of(self._token), cookie_of(self._token), httponly=True, samesite="strict", secure=scope["scheme"] == "https")
        return answer


def name_of(token: str) -> str:
    """The name of the cookie: of each token another, since pages at two ports of one machine share their cookies."""
    return f"{COOKIE}_{hmac.new(token.encode(), b'sai3ssh name', hashlib.sha256).hexdigest()[:8]}"


def cookie_of(token: str) -> str:
    """What the cookie holds: other servers on this machine get it too, and cannot make the token of it."""
    return hmac.new(token.encode(), b"sai3ssh cookie", hashlib.sha256).hexdigest()


def _same(given: str, wanted: str) -> bool:
    """Compares in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())
