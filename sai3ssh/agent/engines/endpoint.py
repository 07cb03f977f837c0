"""Where the native S3 engine connects to: URL, addresses, TLS, and the paths of a bucket."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

from sai3ssh.agent.engines.base import Root
from sai3ssh.agent.engines.connection import Connection
from sai3ssh.agent.engines.response import NO_ANSWER, Failure
from sai3ssh.agent.engines.sigv4 import Credentials, encode_path, make_signer
from sai3ssh.errors import TargetError
from sai3ssh.model import Target

Address = Tuple[int, Any]
"""Address family and socket address."""

_AWS_HOST = re.compile(r"s3[.-](dualstack\.)?(?:[a-z0-9-]+\.)?amazonaws\.com(\.cn)?")


class Endpoint:
    """One server name and port with its addresses, its idle connections and the signer for its Host header."""

    def __init__(self, host: str, port: int, context: Optional[ssl.SSLContext], region: str, credentials: Credentials) -> None:
        """`host` is a name or an address, IPv6 without brackets; `context` None means plain HTTP."""
        self.host = host
        self.port = port
        self.region = region
        self.context = context
        self.session: Optional[ssl.SSLSession] = None
        """Of the TLS connection that was opened last: the next one takes it up, which spares both sides a handshake in full."""
        self.idle: List[Connection] = []
        self.answers = [NO_ANSWER, NO_ANSWER]
        """The last ones to a GET and to a PUT: the next is mostly alike, which is seen faster than it is read."""
        self.addresses: List[Address] = []
        self.problem: Optional[OSError] = None
        """Why there are no addresses."""
        name = f"[{host}]" if ":" in host else host
        self.name = name if port == (443 if context else 80) else f"{name}:{port}"
        self.url = f"{'https' if context else 'http'}://{self.name}"
        self.signer = make_signer(self.name, region, credentials)
        self._resolver: Optional[threading.Thread] = None

    def resolve(self) -> None:
        """Looks the name up; blocks. Afterwards there are addresses, or `problem` says why not."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            self.problem = error
            return
        self.problem = None
        self.addresses = list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))

    def resolve_again(self) -> None:
        """Looks the name up beside the running loop, which must not wait for name servers in the middle of an outage."""
        if self._resolver is None or not self._resolver.is_alive():
            self._resolver = threading.Thread(target=self.resolve, name="resolve", daemon=True)
            self._resolver.start()

    def next_address(self) -> Address:
        """An address, another one each time, so that connections spread over all; raises Failure('dns')."""
        if not self.addresses:
            raise Failure("dns", f"cannot resolve {self.host}: {self.problem or 'no addresses'}")
        address = self.addresses.pop(0)
        self.addresses.append(address)
        return address


class S3Root(Root):
    """A target URI s3://bucket/prefix as its endpoint wants it."""

    __slots__ = ("bucket", "bucket_path", "endpoint", "index", "moved", "path", "prefix")

    def __init__(self, uri: str, bucket: str, prefix: str, bucket_path: str, endpoint: Endpoint) -> None:
        super().__init__(uri)
        self.bucket = bucket
        self.prefix = prefix
        self.bucket_path = bucket_path or "/"
        self.path = f"{bucket_path}/{encode_path(prefix)}"
        self.endpoint = endpoint
        self.moved = False
        """Whether the server has sent us to another region already."""
        self.index = 0
        """Where there are several endpoints: which one this is at."""


class EndpointMap:
    """The endpoints of one target: one with path-style addresses, one per bucket with virtual hosts."""

    def __init__(self, target: Target, credentials: Credentials) -> None:
        """Raises TargetError when the endpoint's URL or the CA file cannot be used."""
        url = target.endpoint_url or f"https://s3.{target.region}.amazonaws.com"
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.query or parts.username:
            raise TargetError(f"endpoint {url!r} is not a URL of the form http(s)://host[:port][/path]", remedy="Correct endpoint_url")
        self._target = target
        self._credentials = credentials
        self._host = parts.hostname
        self._path = parts.path.rstrip("/")
        self._context = _context(target) if parts.scheme == "https" else None
        self._port = port or (443 if self._context else 80)
        self.endpoints: Dict[Tuple[str, str], Endpoint] = {}
        """By host and region."""

    def root(self, uri: str) -> S3Root:
        """The prepared form of s3://bucket/prefix; raises TargetError on another form."""
        scheme, _, rest = uri.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise TargetError(f"target {uri!r} is not of the form s3://bucket/prefix", remedy="Correct the target")
        path = f"{self._path}/{bucket}" if self._target.path_style else self._path
        return S3Root(uri, bucket, prefix, path, self._endpoint(bucket, self._host, self._target.region))

    def elsewhere(self, root: S3Root, region: str) -> Endpoint:
        """The endpoint of the root's bucket in another region, its name looked up, which blocks.

        On AWS a region has hosts of its own. Other servers keep theirs and only want another signature: no answer of a server makes us
        send requests to a host that nobody has named.
        """
        aws = _AWS_HOST.fullmatch(self._host)
        host = f"s3.{aws.group(1) or ''}{region}.amazonaws.com{aws.group(2) or ''}" if aws else self._host
        endpoint = self._endpoint(root.bucket, host, region)
        if not endpoint.addresses:
            endpoint.resolve()
        return endpoint

    def _endpoint(self, bucket: str, host: str, region: str) -> Endpoint:
        if not self._target.path_style:
            host = f"{bucket}.{host}"
        if (host, region) not in self.endpoints:
            self.endpoints[host, region] = Endpoint(host, self._port, self._context, region, self._credentials)
        return self.endpoints[host, region]


def _context(target: Target) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=target.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise TargetError(f"cannot read the CA file {target.ca_file}: {error}", remedy="Correct ca_file") from error
    if not target.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
