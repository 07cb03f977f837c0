"""From this host to one storage endpoint: name, connection, certificate, HTTP, clock."""

from __future__ import annotations

import contextlib
import email.utils
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import List, Optional, Tuple

from sai3ssh.agent.engines.endpoint import Address, S3Root
from sai3ssh.agent.engines.response import Failure, header
from sai3ssh.agent.engines.sigv4 import DATE_S, Credentials
from sai3ssh.agent.preflight import certificate
from sai3ssh.agent.preflight.checks import Sheet, failure, ok, skipped, warning, within
from sai3ssh.agent.preflight.exchange import Client, Reply
from sai3ssh.agent.preflight.network import CONNECT_S, RESOLVE_S, connect, describe_refusal, remedy_for
from sai3ssh.agent.preflight.request import Storage
from sai3ssh.findings import Finding, Level

REQUEST_S = 5.0
MIN_DAYS = 14
MAX_SKEW_S = 900.0 - DATE_S
"""What signatures allow (RequestTimeTooSkewed beyond), as old as their dates may be."""
WARN_SKEW_S = 60.0

_NOBODY = Credentials("", "")
_PARALLEL = 32


class Path:
    """The way to an endpoint, step by step; each step needs the one before."""

    def __init__(self, root: S3Root, storage: Storage) -> None:
        self.endpoint = root.endpoint
        self.address: Optional[Address] = None
        """One that takes connections."""
        self.failed = ""
        """The check that failed first: the cause of whatever would fail after it."""
        self._bucket_path = root.bucket_path
        self._ca_file = storage.ca_file
        self._path_style = storage.path_style
        self._reply: Optional[Reply] = None

    def check(self, sheet: Sheet) -> None:
        """Goes as far as it gets."""
        steps = [("storage.dns", self._dns), ("storage.tcp", self._tcp), ("storage.http", self._http), ("storage.clock", self._clock)]
        if self.endpoint.context is not None:
            steps.insert(2, ("storage.tls", self._tls))
        for check, step in steps:
            if sheet.ask(check, step, self.endpoint.url) is Level.FAILURE:
                self.failed = check
                return
            if not self.endpoint.addresses:  # the name was not to be checked, but the rest needs it
                with contextlib.suppress(TimeoutError):
                    within(RESOLVE_S, self.endpoint.resolve)
            if self.address is None and self.endpoint.addresses:
                self.address = self.endpoint.addresses[0]

    def _dns(self) -> Finding:
        endpoint = self.endpoint
        with contextlib.suppress(TimeoutError):
            within(RESOLVE_S, endpoint.resolve)
        addresses = [str(where[0]) for _, where in endpoint.addresses]
        if addresses:
            what = "is an address" if certificate.is_address(endpoint.host) else f"is {', '.join(addresses)}"
            return ok(f"{endpoint.host} {what}", addresses=addresses)
        if endpoint.problem is None:
            return failure(
                f"{endpoint.host}: the name servers did not answer within {RESOLVE_S:g} s",
                "an address",
                "Check that the name servers in /etc/resolv.conf are reachable from this host",
            )
        return failure(
            f"{endpoint.host} does not resolve on this host: {endpoint.problem.strerror or endpoint.problem}",
            "an address",
            "Correct endpoint_url, or this host's name resolution: `getent hosts NAME`, /etc/resolv.conf, /etc/hosts"
            + ("" if self._path_style else "; or set path_style: true, the bucket is part of the name without"),
        )

    def _tcp(self) -> Finding:
        endpoint = self.endpoint
        if not endpoint.addresses:
            return failure(f"{endpoint.host} has no address", "an address", "Correct endpoint_url or this host's name resolution")
        with ThreadPoolExecutor(_PARALLEL) as pool:
            results = list(pool.map(lambda address: connect(address[0], address[1], CONNECT_S), endpoint.addresses))
        good: List[Tuple[float, Address]] = []
        bad: List[str] = []
        problem: Optional[OSError] = None
        for address, (seconds, error) in zip(endpoint.addresses, results):
            if error is None:
                good.append((seconds, address))
            else:
                problem = error
                bad.append(f"{address[1][0]} ({describe_refusal(error, CONNECT_S)})")
        figures = {"connect_ms": {str(address[1][0]): round(seconds * 1e3, 3) for seconds, address in good}, "port": endpoint.port}
        if problem is None:
            self.address = min(good, key=lambda pair: pair[0])[1]
            slowest = max(seconds for seconds, _ in good)
            many = f"all {len(good)} addresses of {endpoint.host} accept" if len(good) > 1 else "accepts"
            return ok(f"port {endpoint.port}: {many} after {slowest * 1e3:.1f} ms", **figures)
        remedy = remedy_for(problem, endpoint.port)
        if not good:
            return failure(f"port {endpoint.port}: no connection to {', '.join(bad)}", "a TCP connection", remedy, **figures)
        self.address = min(good, key=lambda pair: pair[0])[1]
        return warning(
            f"port {endpoint.port}: {len(bad)} of {len(results)} addresses of {endpoint.host} take no connection: {', '.join(bad)}",
            "a TCP connection to every address: the load is spread over all of them",
            remedy,
            **figures,
        )

    def _reachable(self) -> Address:
        if self.address is None:
            raise Failure("dns", f"{self.endpoint.host} has no address")
        return self.address

    def _tls(self) -> Finding:
        endpoint = self.endpoint
        context = endpoint.context
        assert context is not None
        try:
            found = certificate.verified(self._reachable(), context, endpoint.host, REQUEST_S)
        except Failure as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                return self._bad_certificate(error.__cause__)
            return failure(
                f"no TLS on port {endpoint.port}: {error.detail}",
                "a TLS handshake",
                f"If the port speaks plain HTTP, write http:// in endpoint_url; else see `openssl s_client -connect {endpoint.name}`",
            )
        if found is None:
            found = certificate.unverified(self._reachable(), endpoint.host, REQUEST_S)
            about = f": issued by {found.issuer}, until {found.expiry}" if found else ""
            return ok(f"the certificate is not verified (verify_tls: false){about}")
        days = found.days_left(time.time())
        values = {"days_left": round(days, 1), "issuer": found.issuer, "names": found.names}
        text = (
            f"certificate of {found.issuer} until {found.expiry}, {days:.0f} days, verified with {certificate.authorities(self._ca_file)}"
        )
        if days < MIN_DAYS:
            return warning(text, f"valid for {MIN_DAYS} days and more", "Renew the server's certificate before it ends a run", **values)
        return ok(text, **values)

    def _bad_certificate(self, error: ssl.SSLCertVerificationError) -> Finding:
        endpoint = self.endpoint
        shown = certificate.unverified(self._reachable(), endpoint.host, REQUEST_S)
        today = time.strftime("%Y-%m-%d", time.gmtime())
        code = error.verify_code
        if code in (certificate.EXPIRED, certificate.NOT_YET_VALID):
            dates = f" (until {shown.expiry})" if shown and code == certificate.EXPIRED else ""
            return failure(
                f"{error.verify_message}{dates}",
                "a certificate that is valid now",
                f"Renew the server's certificate or the one of its chain; if it is valid, this host's clock is wrong (it says {today})",
            )
        if code in (certificate.WRONG_NAME, certificate.WRONG_ADDRESS):
            names = ", ".join(shown.names) if shown and shown.names else "no names at all"
            return failure(
                f"the certificate is not valid for {endpoint.host}: it is for {names}",
                f"a certificate for {endpoint.host}",
                "Use one of its names in endpoint_url, or have the name added; a wildcard covers one level only (buckets with dots)",
            )
        if code in certificate.UNKNOWN_CA:
            issuer = f" (issued by {shown.issuer})" if shown else ""
            return failure(
                f"the certificate is signed by nobody known{issuer}: {error.verify_message}",
                f"a chain to one of {certificate.authorities(self._ca_file)}",
                "Set ca_file to the CA's certificate on every host, or have the server send its intermediate certificates",
            )
        return failure(
            f"the certificate is refused: {error.verify_message}",
            "a certificate that this host accepts",
            f"`openssl s_client -connect {endpoint.host}:{endpoint.port} -showcerts` shows what the server sends",
        )

    def _http(self) -> Finding:
        endpoint = self.endpoint
        head = f"HEAD {self._bucket_path} HTTP/1.1\r\nHost: {endpoint.name}\r\nUser-Agent: sai3ssh\r\n\r\n".encode("ascii")
        try:
            client = Client(endpoint, self._reachable(), _NOBODY)
            self._reply = reply = client.exchange("HEAD", head, REQUEST_S)
            client.close()
        except Failure as error:
            plain = "If the port speaks HTTPS, write https:// in endpoint_url; else c" if endpoint.context is None else "C"
            return failure(
                f"port {endpoint.port} takes connections, but there is no HTTP: {error.detail}",
                "an HTTP response",
                f"{plain}heck that it is the S3 port of the server, and what the server's log says",
            )
        server = "".join(c for c in header(reply.head, "server")[:60] if c.isprintable())
        return ok(
            f"HTTP answers{f', {server}' if server else ''}, to a request without credentials with {reply.status}", status=reply.status
        )

    def _clock(self) -> Finding:
        reply = self._reply
        if reply is None:
            return skipped("not done because storage.http was left out")
        try:
            date = email.utils.parsedate_to_datetime(header(reply.head, "date")).timestamp()
        except (TypeError, ValueError, IndexError):
            return ok("the server sends no Date to compare with")
        skew = reply.wall - (date + 0.5)  # Date is cut to the second
        values = {"skew_s": round(skew, 1), "resolution_s": 1.0}
        found = f"this host's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's Date"
        remedy = "Synchronise both clocks (chrony); `date -u` on the host shows which one is wrong"
        if abs(skew) > MAX_SKEW_S:
            return failure(found, f"at most {MAX_SKEW_S / 60:.0f} minutes: S3 refuses signatures beyond", remedy, **values)
        if abs(skew) > WARN_SKEW_S:
            return warning(found, f"at most {WARN_SKEW_S:.0f} s", remedy, **values)
        return ok("the clocks of host and server agree within a second" if abs(skew) <= 1 else found, **values)
