"""AWS Signature Version 4 for S3: whole request heads, at little more than the cost of three SHA-256 blocks each.

All that stays the same while requests have the same date (key, HMAC states, scope, headers) is prepared once and copied.
"""

from __future__ import annotations

import hmac
import time
from hashlib import sha256
from typing import Callable, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import quote

from sai3ssh.agent.engines.base import Kept

UNSIGNED = "UNSIGNED-PAYLOAD"
DATE_S = 60
"""How old the date of a request may be: servers take what is up to 15 minutes old, or ahead."""
EMPTY_SHA256 = sha256(b"").hexdigest()
_SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~/"
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class Credentials(NamedTuple):
    """What requests are signed with."""

    access_key: str
    secret_key: str
    session_token: Optional[str] = None

    def __repr__(self) -> str:
        # The secret must not reach a log by way of a traceback.
        return f"Credentials(access_key={self.access_key[:4]}...)"


ANONYMOUS = Credentials("", "")
"""Of nobody: requests are not signed."""


def encode_path(path: str) -> str:
    """The path as it goes onto the wire and into the signature: each byte but A-Z a-z 0-9 - _ . ~ / escaped, nothing normalised."""
    raw = path.encode("utf-8")
    return quote(raw, safe="/~") if raw.translate(None, _SAFE) else path


def encode_query(parameters: Mapping[str, str]) -> str:
    """The canonical query string: sorted, and '/' escaped too."""
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in sorted(parameters.items()))


class RequestSigner:
    """Makes signed request heads for one value of the Host header.

    `clock` gives seconds since the epoch. Not thread-safe.
    """

    def __init__(self, host: str, region: str, credentials: Credentials, clock: Callable[[], float] = time.time) -> None:
        self._host = host
        self._region = region
        self._credentials = credentials
        self._clock = clock
        self._until_ns = -1
        self._dated_s = 0.0
        """What the clock said when the date was made."""
        self.renewed_ns = -1
        """When the date was last found to be wrong: earlier requests have it."""
        self._day = ""
        self._key = b""
        self._inner = self._outer = sha256()
        self._tail = self._fixed = self._authorization = ""
        self._signed: List[Tuple[str, str]] = []

    def _prepare(self, now_ns: int) -> None:
        """Brings everything that depends on the date up to date."""
        wall = self._dated_s = self._clock()
        self._until_ns = now_ns + int(DATE_S * 1e9)
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall))
        access_key, secret_key, token = self._credentials
        scope = f"{date[:8]}/{self._region}/s3/aws4_request"
        if date[:8] != self._day:
            self._day = date[:8]
            key = b"AWS4" + secret_key.encode("utf-8")
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode("utf-8"), "sha256")
            self._key = key.ljust(64, b"\0")
        self._inner = sha256(self._key.translate(_INNER))
        self._inner.update(f"AWS4-HMAC-SHA256\n{date}\n{scope}\n".encode())
        self._outer = sha256(self._key.translate(_OUTER))
        names = "host;x-amz-content-sha256;x-amz-date"
        tail = f"\nhost:{self._host}\nx-amz-content-sha256:{UNSIGNED}\nx-amz-date:{date}\n"
        fixed = f"Host: {self._host}\r\nUser-Agent: sai3ssh\r\nx-amz-content-sha256: {UNSIGNED}\r\nx-amz-date: {date}\r\n"
        if token:
            names += ";x-amz-security-token"
            tail += f"x-amz-security-token:{token}\n"
            fixed += f"x-amz-security-token: {token}\r\n"
        self._tail = f"{tail}\n{names}\n{UNSIGNED}"
        self._signed = [("host", self._host), ("x-amz-date", date)] + ([("x-amz-security-token", token)] if token else [])
        self._authorization = f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders="
        self._fixed = f"{fixed}Authorization: AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature="

    def renew(self, now_ns: int) -> None:
        """Has the next request dated anew where the date is further from the clock than one that is kept can be: the host was suspended, or
        its clock was set."""
        if self._until_ns >= 0 and not -DATE_S <= self._clock() - self._dated_s <= 2 * DATE_S:
            self._until_ns, self.renewed_ns = -1, now_ns

    def head(self, method: str, path: str, query: str, now_ns: int, length: int = -1, payload_sha256: str = "") -> bytes:
        """The whole head of a request, with a date that is at most DATE_S old.

        path and query are encoded already; now_ns is any clock that counts nanoseconds; length becomes Content-Length when it is not
        negative; without payload_sha256 the payload is not signed.
        """
        if now_ns >= self._until_ns:
            self._prepare(now_ns)
        tail = self._tail
        fixed = self._fixed
        if payload_sha256:
            tail = tail.replace(UNSIGNED, payload_sha256)
            fixed = fixed.replace(UNSIGNED, payload_sha256)
        signature = self._signature(method, path, query, tail)
        if query:
            path = f"{path}?{query}"
        if length >= 0:
            return f"{method} {path} HTTP/1.1\r\nContent-Length: {length}\r\n{fixed}{signature}\r\n\r\n".encode()
        return f"{method} {path} HTTP/1.1\r\n{fixed}{signature}\r\n\r\n".encode()

    def repeated(self, kept: Kept, index: int, path: str, now_ns: int) -> bytes:
        """As head("GET", path, "", now_ns), where the path is always the same for the index: it is signed once for each date."""
        if now_ns >= self._until_ns:
            self._prepare(now_ns)
        fixed = self._fixed
        if kept.fixed is not fixed:
            kept.fixed, kept.signatures = fixed, [""] * kept.count
        signature = kept.signatures[index]
        if not signature:
            signature = kept.signatures[index] = self._signature("GET", path, "", self._tail)
        return f"GET {path} HTTP/1.1\r\n{fixed}{signature}\r\n\r\n".encode()

    def _signature(self, method: str, path: str, query: str, tail: str) -> str:
        inner = self._inner.copy()
        inner.update(sha256(f"{method}\n{path}\n{query}{tail}".encode()).hexdigest().encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()

    def head_with(
        self, headers: Mapping[str, str], method: str, path: str, query: str, now_ns: int, length: int = -1, payload: str = UNSIGNED
    ) -> bytes:
        """As head(), with further headers: names in lower case that begin with x-amz-, which are signed, or content-, which are not.

        `payload` is the value of x-amz-content-sha256.
        """
        if now_ns >= self._until_ns:
            self._prepare(now_ns)
        amz = [(name, value) for name, value in headers.items() if name.startswith("x-amz-")]
        signed = sorted([*self._signed, ("x-amz-content-sha256", payload), *amz])
        names = ";".join(name for name, _ in signed)
        canonical = "".join(f"{name}:{value}\n" for name, value in signed)
        signature = self._signature(method, path, query, f"\n{canonical}\n{names}\n{payload}")
        further = {**dict(signed), **headers, "authorization": f"{self._authorization}{names}, Signature={signature}"}
        return _head(method, path, query, length, further)


def _head(method: str, path: str, query: str, length: int, headers: Mapping[str, str]) -> bytes:
    target = f"{path}?{query}" if query else path
    sized = f"Content-Length: {length}\r\n" if length >= 0 else ""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {target} HTTP/1.1\r\n{sized}User-Agent: sai3ssh\r\n{lines}\r\n".encode()


class AnonymousSigner(RequestSigner):
    """Makes request heads without a signature."""

    def repeated(self, kept: Kept, index: int, path: str, now_ns: int) -> bytes:  # noqa: ARG002
        """The whole head of a request; the arguments are those of RequestSigner."""
        return self.head("GET", path, "", now_ns)

    def head(
        self,
        method: str,
        path: str,
        query: str,
        now_ns: int,  # noqa: ARG002
        length: int = -1,
        payload_sha256: str = "",  # noqa: ARG002
    ) -> bytes:
        """The whole head of a request; the arguments are those of RequestSigner."""
        if query:
            path = f"{path}?{query}"
        sized = f"Content-Length: {length}\r\n" if length >= 0 else ""
        return f"{method} {path} HTTP/1.1\r\n{sized}Host: {self._host}\r\nUser-Agent: sai3ssh\r\n\r\n".encode()

    def head_with(
        self,
        headers: Mapping[str, str],
        method: str,
        path: str,
        query: str,
        now_ns: int,  # noqa: ARG002
        length: int = -1,
        payload: str = UNSIGNED,
    ) -> bytes:
        """The whole head of a request; the arguments are those of RequestSigner."""
        # A trailer is announced here, signed or not; a hash would be checked by nobody.
        announced = {"x-amz-content-sha256": payload} if payload.startswith("STREAMING-") else {}
        return _head(method, path, query, length, {"host": self._host, **announced, **headers})


def make_signer(host: str, region: str, credentials: Credentials) -> RequestSigner:
    """The signer for these credentials."""
    return (RequestSigner if credentials.access_key else AnonymousSigner)(host, region, credentials)
