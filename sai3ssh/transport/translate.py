"""The one place where exceptions of paramiko and of sockets become errors of sai3ssh.

The default is Permanent: what is transient is listed. For some of paramiko's exceptions only the text tells what
happened; the tests provoke each.
"""

from __future__ import annotations

import errno
import socket

import paramiko
from paramiko.ssh_exception import (
    AuthenticationException,
    BadAuthenticationType,
    ChannelException,
    IncompatiblePeer,
    NoValidConnectionsError,
    PasswordRequiredException,
    SSHException,
)

from ..errors import AuthenticationError, Permanent, Sai3sshError, Transient

RESOLVE = "resolve"
"""The phase of an error of name resolution. A link that was up before treats it as transient: off the VPN, internal names are unknown."""

_TRANSIENT_ERRNO = {
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.EADDRNOTAVAIL,
    errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENOTCONN, errno.ENOBUFS,
}  # fmt: skip

_TRANSIENT_SSH = (
    "Error reading SSH protocol banner",
    "No existing session",
    "SSH session not active",
    "Timeout opening channel",
    "Unable to open channel",
    "Channel closed",
    "Channel is not open",
    "Negotiation failed",
    "Key-exchange timed out",
)

_TRANSIENT_AUTHENTICATION = ("Authentication timeout", "transport shut down or saw EOF")

_RESOURCE_SHORTAGE, _CONNECT_FAILED = 4, 2


def translate(error: BaseException, host: str, phase: str) -> Sai3sshError:
    """The error of sai3ssh for what a library raised; the caller raises it `from` the original."""
    if isinstance(error, Sai3sshError):
        error.host = error.host or host
        error.phase = error.phase or phase
        return error
    if isinstance(error, (AuthenticationException, SSHException)):
        return _of_ssh(error, host, phase)
    if isinstance(error, socket.gaierror):
        return _of_resolver(error, host, phase)
    if isinstance(error, NoValidConnectionsError):
        return Transient(str(error), host=host, phase=phase)
    if isinstance(error, TimeoutError):
        return Transient("no answer within the deadline", host=host, phase=phase)
    if isinstance(error, EOFError):
        return Transient("the connection was closed by the other side", host=host, phase=phase)
    if isinstance(error, OSError) and (isinstance(error, ConnectionError) or error.errno in _TRANSIENT_ERRNO):
        return Transient(error.strerror or type(error).__name__, host=host, phase=phase)
    if isinstance(error, OSError) and str(error) == "Socket is closed":  # paramiko's own, of a channel that has ended
        return Transient("the channel was closed by the other side", host=host, phase=phase)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Permanent("too many open files", host=host, phase=phase, remedy="Raise the limit with 'ulimit -n'")
    return Permanent(f"{type(error).__name__}: {error}", host=host, phase=phase)


def _of_resolver(error: socket.gaierror, host: str, phase: str) -> Sai3sshError:
    if error.errno == socket.EAI_AGAIN:
        return Transient(f"{phase}: name resolution failed for now ({error.strerror})", host=host, phase=RESOLVE)
    return Permanent(
        f"{phase}: the name cannot be resolved ({error.strerror})",
        host=host,
        phase=RESOLVE,
        remedy="Check the host's name and ansible_host in the inventory",
    )


def _of_ssh(error: SSHException, host: str, phase: str) -> Sai3sshError:
    text = str(error)
    if isinstance(error, PasswordRequiredException):
        return AuthenticationError("the key needs a passphrase", host=host, phase=phase, remedy="Load it with 'ssh-add'")
    if isinstance(error, BadAuthenticationType):
        return AuthenticationError(
            f"the host does not accept keys, only {', '.join(error.allowed_types)}",
            host=host,
            phase=phase,
            remedy="Allow PubkeyAuthentication in its sshd_config",
        )
    if isinstance(error, AuthenticationException):
        if any(mark in text for mark in _TRANSIENT_AUTHENTICATION):
            return Transient(f"cut off during authentication ({text})", host=host, phase=phase)
        return AuthenticationError(text.rstrip("."), host=host, phase=phase)
    if isinstance(error, IncompatiblePeer):
        return Permanent(
            f"no algorithm in common ({text})",
            host=host,
            phase=phase,
            remedy=f"paramiko {paramiko.__version__} speaks no SHA-1 signatures and no DSA: update sshd or its list of algorithms",
        )
    if isinstance(error, ChannelException):
        if error.code in (_CONNECT_FAILED, _RESOURCE_SHORTAGE):
            return Transient(f"the channel was refused for now ({error.text})", host=host, phase=phase)
        return Permanent(
            f"the channel was refused ({error.text})", host=host, phase=phase, remedy="Check AllowTcpForwarding and PermitOpen"
        )
    if text.startswith(_TRANSIENT_SSH):
        # What paramiko says when the server is silent.
        silent = "no SSH handshake within the deadline" if text.startswith("No existing session") else text.rstrip(".")
        return Transient(silent, host=host, phase=phase)
    return Permanent(f"{type(error).__name__}: {text}", host=host, phase=phase)
