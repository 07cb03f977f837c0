"""How hosts are reached: SSH by paramiko, or this machine itself."""

from __future__ import annotations

from ..model import Host
from .base import Channel, Command, Completed, Connection, Transport
from .gate import Gate
from .local import LocalTransport
from .ssh import SshConnection, SshTransport

__all__ = ["Channel", "Command", "Completed", "Connection", "Gate", "SshConnection", "SshTransport", "Transport", "transport_for"]

_GATE = Gate()
"""One for the process: what it protects are the sshds, whoever connects."""


def transport_for(host: Host, gate: Gate = _GATE) -> Transport:
    """The transport that the host's `connection` asks for."""
    return LocalTransport(host) if host.connection == "local" else SshTransport(host, gate)
