"""What a server's certificate says, also when it is not to be trusted."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import Any, Dict, List, Optional

from sai3ssh.agent.engines.endpoint import Address
from sai3ssh.agent.engines.response import Failure
from sai3ssh.agent.preflight.exchange import open_socket, shake_hands

# Of OpenSSL's x509_vfy.h; the ssl module has no names for them in Python 3.9.
EXPIRED, NOT_YET_VALID, WRONG_NAME, WRONG_ADDRESS = 10, 9, 62, 64
UNKNOWN_CA = (2, 18, 19, 20, 21)
_NO_CHECK_TIME = 0x200000
_PARTIAL_CHAIN = 0x80000


class Certificate:
    """The dates and names of a certificate."""

    def __init__(self, fields: Dict[str, Any]) -> None:
        """`fields` is of ssl.SSLSocket.getpeercert()."""
        self.names: List[str] = [value for _, value in fields.get("subjectAltName", ())]
        issuer = {name: value for part in fields.get("issuer", ()) for name, value in part}
        self.issuer = str(issuer.get("commonName") or issuer.get("organizationName") or "unknown")
        self.not_after = float(ssl.cert_time_to_seconds(fields["notAfter"]))

    @property
    def expiry(self) -> str:
        """Its last day."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.not_after))

    def days_left(self, now: float) -> float:
        """How many days it is still valid for."""
        return (self.not_after - now) / 86400


def verified(address: Address, context: ssl.SSLContext, name: str, timeout_s: float) -> Optional[Certificate]:
    """The certificate of a server, verified as the context wants; None where it wants nothing. Raises Failure."""
    with shake_hands(open_socket(address, timeout_s), context, name, timeout_s) as tls:
        fields = tls.getpeercert()
    return Certificate(fields) if fields else None


def unverified(address: Address, name: str, timeout_s: float) -> Optional[Certificate]:
    """The certificate that a server shows, whoever signed it; None when it cannot be read.

    The library takes apart only what it verified: so the certificate is shown to it once more, as its own authority.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(Failure, OSError, ValueError, KeyError):
        with shake_hands(open_socket(address, timeout_s), context, name, timeout_s) as tls:
            der = tls.getpeercert(binary_form=True)
        if der is None:
            return None
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME | _PARTIAL_CHAIN)
        trusting.load_verify_locations(cadata=der)
        return verified(address, trusting, name, timeout_s)
    return None


def authorities(ca_file: Optional[str]) -> str:
    """Whose signatures count, for people."""
    if ca_file:
        return f"the CAs in {ca_file}"
    paths = ssl.get_default_verify_paths()
    return f"this host's own CAs ({paths.cafile or paths.capath or paths.openssl_cafile})"


def is_address(name: str) -> bool:
    """Whether the endpoint is named by its address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, name)
            return True
    return False
