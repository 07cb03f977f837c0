"""Logging in with keys: from ssh-agent, from the inventory, from ssh_config. Passwords are not supported."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import paramiko
from paramiko.agent import AgentSSH
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import AuthenticationException, PasswordRequiredException, SSHException

from ..errors import AuthenticationError, Transient
from .sshconfig import Hop
from .translate import translate

PHASE = "authentication"
MAX_KEYS = 5
"""sshd's default MaxAuthTries is 6, and newer ones penalise the address of who exceeds it."""

_AGENT_TIMEOUT_S = 10.0


class Identity(NamedTuple):
    """A key to offer and where it is from."""

    key: paramiko.PKey
    source: str


def authenticate(transport: paramiko.Transport, hop: Hop, *, files_first: bool) -> str:
    """Logs in, and says with which key; raises AuthenticationError with all keys that were tried, or Transient when cut off."""
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(_Agent(hop.agent_socket))
        locked: list[str] = []
        tried: list[str] = []
        for identity in _identities(agent, hop, files_first, locked):
            if len(tried) == MAX_KEYS:
                tried.append("more keys were not tried")
                break
            try:
                wanted = transport.auth_publickey(hop.user, identity.key)
            except paramiko.BadAuthenticationType as error:
                raise translate(error, hop.name, PHASE) from error
            except AuthenticationException as error:
                cut_off = not transport.is_active()
                translated = translate(error, hop.name, PHASE)
                # No answer in time says nothing about the key.
                if len(tried) < 2 if cut_off else isinstance(translated, Transient):
                    raise translated from error
                tried.append(identity.source)
                if cut_off:
                    raise _refused(hop, [*tried, "then the host closed the connection"], locked) from error
                continue
            if wanted:
                raise AuthenticationError(
                    f"the host accepts the key {identity.source} but also wants {', '.join(wanted)}",
                    host=hop.name,
                    phase=PHASE,
                    remedy="sai3ssh runs unattended: allow this user to log in with a key alone",
                )
            return identity.source
        raise _refused(hop, tried, locked)


def _refused(hop: Hop, tried: list[str], locked: list[str]) -> AuthenticationError:
    where = f"{hop.user}@{hop.address} port {hop.port}"
    parts = [f"{where} refused every key ({', '.join(tried)})" if tried else f"there is no key to offer to {where}"]
    if locked:
        parts.append(f"{', '.join(locked)} needs a passphrase and is not in ssh-agent")
    return AuthenticationError(
        "; ".join(parts),
        host=hop.name,
        phase=PHASE,
        remedy=f"Load the key with 'ssh-add {locked[0]}'"
        if locked
        else "Check ansible_user, ansible_ssh_private_key_file and the host's authorized_keys; 'ssh -v' shows the same",
    )


def _identities(agent: _Agent, hop: Hop, files_first: bool, locked: list[str]) -> Iterator[Identity]:
    of_agent = {key.asbytes(): key for key in agent.get_keys()}
    seen: set[bytes] = set()

    def from_files() -> Iterator[Identity]:
        for path in hop.identity_files:
            # A key that is in the agent too needs no passphrase there, and is one key, not two.
            public = _public_blob(path)
            if public is not None and public in of_agent:
                yield Identity(of_agent[public], str(path))
                continue
            key = _load(path, hop, locked)
            if key is not None:
                yield Identity(key, str(path))

    def from_agent() -> Iterator[Identity]:
        if not hop.identities_only:
            for key in of_agent.values():
                yield Identity(key, f"ssh-agent: {key.comment or key.get_name()}")

    first, second = (from_files, from_agent) if files_first else (from_agent, from_files)
    for identity in _chain(first(), second()):
        blob = identity.key.asbytes()
        if blob not in seen:
            seen.add(blob)
            yield identity


def _chain(*parts: Iterable[Identity]) -> Iterator[Identity]:
    for part in parts:
        yield from part


def _public_blob(path: Path) -> bytes | None:
    """The public half of a key, from the file itself when it is one or from the .pub beside it."""
    for candidate in (path, path.with_name(path.name + ".pub")):
        with contextlib.suppress(OSError, UnicodeDecodeError, IndexError, binascii.Error):
            fields = candidate.read_text(encoding="ascii").split()
            if "-" in fields[0] and not fields[0].startswith("-"):
                return base64.b64decode(fields[1], validate=True)
    return None


def _load(path: Path, hop: Hop, locked: list[str]) -> paramiko.PKey | None:
    try:
        return paramiko.PKey.from_path(path)
    except FileNotFoundError:
        return None
    except (PasswordRequiredException, TypeError):
        # cryptography says TypeError for a missing passphrase.
        locked.append(str(path))
        return None
    except OSError as error:
        raise AuthenticationError(f"the key {path} cannot be read: {error.strerror}", host=hop.name, phase=PHASE) from error
    except (SSHException, UnknownKeyType, ValueError) as error:
        raise AuthenticationError(
            f"the key {path} is of no kind that paramiko reads (RSA, ECDSA, Ed25519): {error}",
            host=hop.name,
            phase=PHASE,
            remedy="Make another with 'ssh-keygen -t ed25519'",
        ) from error


class _Agent(AgentSSH):
    """The agent behind that socket, without keys when the socket is of no use. paramiko's own class does not know IdentityAgent."""

    if TYPE_CHECKING:

        def _connect(self, conn: socket.socket) -> None: ...

        def _close(self) -> None: ...

    def __init__(self, path: str | None) -> None:
        super().__init__()
        if path is None:
            return
        conn = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        conn.settimeout(_AGENT_TIMEOUT_S)
        try:
            conn.connect(os.fspath(path))
            self._connect(conn)
        except (OSError, SSHException):
            # As ssh does: an agent that is gone is no reason not to try the files.
            conn.close()

    def __enter__(self) -> _Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
