"""What an S3 server's refusals mean, for counters and for people."""

from __future__ import annotations

import re
from html import unescape
from typing import Iterable, NamedTuple, Optional, Tuple, Union
from urllib.parse import urlsplit

from sai3ssh.agent.engines.response import header
from sai3ssh.agent.engines.sigv4 import Credentials
from sai3ssh.errors import Sai3sshError, TargetError, Transient
from sai3ssh.model import http_error_class

RETRYABLE = frozenset((
    "http_429", "http_500", "http_502", "http_503", "http_504",
    "timeout_connect", "timeout_first_byte", "timeout_total", "refused", "reset", "dns", "short_read",
))  # fmt: skip
"""Error classes of attempts that are made again."""


_SHORTEST_SECRET = 8
"""Anything shorter is not a credential, and taking it out would only garble the message."""


class Refusal(NamedTuple):
    """Why an attempt failed: its error class, and for answers of the server the status, S3 error code and region."""

    error_class: str
    detail: str
    status: int = 0
    code: str = ""
    region: str = ""
    """The region that the server says the bucket is in."""

    @property
    def misdated(self) -> bool:
        """Whether the server may have meant the date of the request; a HEAD has no code to say so."""
        return self.status == 403 and self.code in ("RequestTimeTooSkewed", "")

    @property
    def elsewhere(self) -> bool:
        """Whether the server says that the bucket is in another region; a HEAD has no code to say so."""
        wrong = self.code == "AuthorizationHeaderMalformed" or (not self.code and bool(self.region))
        return 300 <= self.status < 400 or (self.status == 400 and wrong)


def refusal(status: int, head: bytes, body: Union[bytes, bytearray], credentials: Iterable[Optional[str]]) -> Refusal:
    """The refusal in an error response. Of the body only Code and Message are taken, without any credential they may quote."""
    text = bytes(body).decode("utf-8", "replace")
    code = re.sub(r"[^A-Za-z0-9.]", "", _text(text, "Code"))[:60]
    message = " ".join(_text(text, "Message").split())
    location = urlsplit(header(head, "location"))
    if location.hostname:
        message += f" (Location {location.scheme}://{location.hostname})"
    for secret in credentials:
        if secret and len(secret) >= _SHORTEST_SECRET:
            message = message.replace(secret, "[redacted]")
    message = "".join(c for c in message[:200] if c.isprintable())
    detail = " ".join(part for part in (f"HTTP {status}", f"{code}:" if code and message else code, message) if part)
    region = header(head, "x-amz-bucket-region") or _text(text, "Region")
    if not region:
        of_host = _REGION_OF_HOST.search(location.hostname or _text(text, "Endpoint"))
        region = of_host.group(1) if of_host else ""
    return Refusal(http_error_class(status), detail, status, code, region if _REGION.fullmatch(region) else "")


_REGION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REGION_OF_HOST = re.compile(r"(?:^|\.)s3[.-](?:dualstack\.)?([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?$")


_STATUS_OF_CODE = {"InternalError": 500, "ServiceUnavailable": 503, "SlowDown": 503}


def refusal_in_success(body: Union[bytes, bytearray], credentials: Credentials) -> Refusal:
    """The refusal in a response that has said 200 before it failed; such an error has the class of the status that it would have had."""
    found = refusal(200, b"", body, credentials)
    if not found.code:
        return Refusal("protocol", f"HTTP 200 without a result: the body begins with {bytes(body[:60])!r}", 200)
    return found._replace(error_class=http_error_class(_STATUS_OF_CODE[found.code]) if found.code in _STATUS_OF_CODE else "protocol")


def _text(body: str, tag: str) -> str:
    start = body.find(f"<{tag}>")
    if start < 0:
        return ""
    end = body.find("<", start + len(tag) + 2)
    return unescape(body[start + len(tag) + 2 : end if end >= 0 else len(body)])


_REMEDIES = {
    "InvalidAccessKeyId": ("does not know the access key", "Check AWS_ACCESS_KEY_ID and that it belongs to this endpoint"),
    "SignatureDoesNotMatch": ("refused the signature: the secret key is wrong for this access key", "Check AWS_SECRET_ACCESS_KEY"),
    "ExpiredToken": ("says that the session token has expired", "Get new temporary credentials"),
    "InvalidToken": ("does not accept the session token", "Check AWS_SESSION_TOKEN; unset it for permanent keys"),
    "RequestTimeTooSkewed": ("says that this host's clock is wrong", "Synchronise the clock (chrony, systemd-timesyncd)"),
    "NoSuchBucket": ("has no such bucket", "Create the bucket or correct the target"),
    "AccessDenied": ("denied access", "Allow this key s3:ListBucket, GetObject, PutObject and DeleteObject on the bucket and the prefix"),
}


def explain(found: Refusal, region: str) -> Tuple[str, str]:
    """What a failure to use a target means, and what to do about it."""
    if found.error_class == "dns":
        return found.detail, "Correct endpoint_url or this host's name resolution"
    if found.error_class == "tls":
        certificate = "Set ca_file to the CA that signed the server's certificate, and use a name that it is valid for"
        return found.detail, certificate if "certificate" in found.detail else "Check that the port speaks HTTPS"
    if found.error_class in RETRYABLE:
        return found.detail, "Check that the server is up and reachable from this host"
    if found.elsewhere:
        elsewhere = f" {found.region}" if found.region else ""
        return f"the bucket is in another region{elsewhere}, not {region} ({found.detail})", "Correct region and endpoint_url"
    code = found.code or {403: "AccessDenied", 401: "AccessDenied", 404: "NoSuchBucket"}.get(found.status, "")
    known = _REMEDIES.get(code)
    if known is not None:
        return f"the server {known[0]} ({found.detail})", known[1]
    return found.detail, "Check that endpoint_url is an S3 endpoint and correct the target"


def check_error(found: Refusal, uri: str, endpoint: str, region: str) -> Sai3sshError:
    """The error to raise when a check of a target failed: Transient when it may go away by itself, else TargetError with what to do."""
    what, remedy = explain(found, region)
    passing = found.error_class in RETRYABLE and (found.error_class != "dns" or "Temporary failure" in found.detail)
    return (Transient if passing else TargetError)(f"{uri} at {endpoint}: {what}", remedy=remedy)
