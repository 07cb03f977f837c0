"""Host keys: what known_hosts says, and whether a server is who it should be. There is no way around the check.

paramiko's own reader ignores patterns and markers, and so would refuse hosts that OpenSSH, and with it Ansible, accepts.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import HostKeyError

log = logging.getLogger(__name__)

_REVOKED = "@revoked"


class HostKey(NamedTuple):
    """A key's type name and its public blob."""

    type: str
    blob: bytes

    def fingerprint(self) -> str:
        """As ssh-keygen -l prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii").rstrip("=")


@dataclass(frozen=True)
class KnownKeys:
    """What the known_hosts files say about one name."""

    name: str
    """host, or [host]:port when the port is not 22."""
    files: tuple[Path, ...]
    keys: tuple[HostKey, ...]
    revoked: tuple[HostKey, ...] = ()

    def algorithms(self, available: Iterable[str]) -> list[str]:
        """The signature algorithms in the order to offer them: those for which a key is known first, as OpenSSH does.

        Else a server that has several keys would show one that is not the known one.
        """
        types = {key.type for key in self.keys}
        return sorted(available, key=lambda name: _key_type(name) not in types)

    def verify(self, host: str, found: HostKey) -> None:
        """Returns when the key is known for the name; raises HostKeyError else."""
        if found in self.revoked:
            raise HostKeyError(
                f"host key {found.fingerprint()} ({found.type}) of {self.name} is marked @revoked",
                host=host,
                remedy="Somebody may be posing as the host. Do not connect; ask who revoked the key",
            )
        if found in self.keys:
            return
        files = ", ".join(map(str, self.files))
        same_type = [key for key in self.keys if key.type == found.type]
        if same_type:
            raise HostKeyError(
                f"HOST KEY CHANGED: {self.name} shows {found.type} {found.fingerprint()}, "
                f"expected {' or '.join(key.fingerprint() for key in same_type)} as in {files}",
                host=host,
                remedy="Either the host was reinstalled or somebody is posing as it. Find out which; only when you are sure, "
                f"remove the old key with: ssh-keygen -R '{self.name}'",
            )
        others = f" (known are {', '.join(sorted({key.type for key in self.keys}))} keys)" if self.keys else ""
        raise HostKeyError(
            f"unknown host key of {self.name}: found {found.type} {found.fingerprint()}, "
            f"no such key in {files or 'any known_hosts file'}{others}",
            host=host,
            remedy=f"Compare the fingerprint with 'ssh-keygen -lf' on the host, then add it: {_how_to_add(self.name, self.files)}",
        )


def look_up(host: str, port: int, files: Iterable[Path], alias: str | None = None) -> KnownKeys:
    """What the files say about host and port, or about the HostKeyAlias. Files that do not exist say nothing."""
    paths = tuple(files)
    name = alias or (host.lower() if port == 22 else f"[{host.lower()}]:{port}")
    keys, revoked = _search(name, paths)
    if not keys and name.startswith("["):
        # OpenSSH accepts a key that is known for the host without the port.
        keys, more = _search(host.lower(), paths)
        revoked += more
    return KnownKeys(name, paths, tuple(keys), tuple(revoked))


def _search(name: str, files: Iterable[Path]) -> tuple[list[HostKey], list[HostKey]]:
    keys: list[HostKey] = []
    revoked: list[HostKey] = []
    for path in files:
        for marker, patterns, key in _entries(path):
            if _matches(name, patterns):
                (revoked if marker == _REVOKED else keys).append(key)
    return keys, revoked


def _entries(path: Path) -> Iterator[tuple[str, str, HostKey]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("%s cannot be read (%s): its host keys count as unknown", path, error.strerror)
        return
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        if marker not in ("", _REVOKED):
            continue  # @cert-authority: paramiko does not verify certificates of hosts
        try:
            yield marker, fields[0], HostKey(fields[1], base64.b64decode(fields[2], validate=True))
        except (IndexError, binascii.Error):
            log.warning("%s line %d is not a known_hosts entry", path, number)


def _matches(name: str, patterns: str) -> bool:
    if patterns.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in patterns[3:].split("|"))
        except ValueError:
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    found = False
    for pattern in patterns.lower().split(","):
        negated, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        # In fnmatch '[' begins a set; in known_hosts it begins '[host]:port'.
        if fnmatch.fnmatchcase(name.lower(), pattern.replace("[", "[[]")):
            if negated:
                return False
            found = True
    return found


def _key_type(algorithm: str) -> str:
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _how_to_add(name: str, files: tuple[Path, ...]) -> str:
    target = files[0] if files else Path("~/.ssh/known_hosts")
    if name.startswith("["):
        host, _, port = name[1:].rpartition("]:")
        return f"ssh-keyscan -p {port} {host} >> {target}"
    return f"ssh-keyscan {name} >> {target}"
