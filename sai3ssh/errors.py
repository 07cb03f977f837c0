"""The one error tree of sai3ssh.

    Sai3sshError            host, phase, attempt, remedy as attributes; str() is one line
    ├── Transient           may go away by itself: the caller retries within its deadline
    │   └── LinkLost        the connection to a host broke or went silent
    ├── Permanent           retrying cannot help: a person has to change something
    │   ├── ConfigError     a workload file is wrong (file, line, column)
    │   ├── InventoryError  the inventory is wrong
    │   ├── HostKeyError    host key unknown or changed
    │   ├── AuthenticationError
    │   ├── AgentError      the agent refused a command or cannot run here
    │   │   └── VersionMismatch
    │   ├── TargetError     the storage target refused (credentials, bucket, permission)
    │   └── JournalLost     a journal is shorter than, or differs from, what was already mirrored
    └── RunError            the run as a whole ended badly; carries the verdict

Third-party exceptions are translated where they arise, always with `raise ... from`.
"""

from __future__ import annotations

from typing import Any, Dict, Optional


class Sai3sshError(Exception):
    """Base of all errors that sai3ssh raises on purpose.

    `message` says what was found and what was expected, `remedy` what to do.
    """

    def __init__(
        self,
        message: str,
        *,
        host: Optional[str] = None,
        phase: Optional[str] = None,
        attempt: Optional[int] = None,
        remedy: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.host = host
        self.phase = phase
        self.attempt = attempt
        self.remedy = remedy

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.host, self.phase) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}. {self.remedy}" if self.remedy else text

    def to_dict(self) -> Dict[str, Any]:
        """The error as it travels in a control line: type name, message, remedy."""
        return {"type": type(self).__name__, "message": self.message, "remedy": self.remedy}


class Transient(Sai3sshError):
    """May go away by itself."""


class LinkLost(Transient):
    """The connection to a host broke, or nothing was heard of it for its deadline."""


class Permanent(Sai3sshError):
    """Will not go away by itself; never retried."""


class ConfigError(Permanent):
    """A workload file or option is wrong.

    `file`, `line` and `column` (both from 1) are given where they are known.
    """

    def __init__(
        self,
        message: str,
        *,
        file: Optional[str] = None,
        line: Optional[int] = None,
        column: Optional[int] = None,
        remedy: Optional[str] = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.file = file
        self.line = line
        self.column = column

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}. {self.remedy}" if self.remedy else text


class InventoryError(Permanent):
    """The inventory names no usable hosts."""


class HostKeyError(Permanent):
    """The host's key is unknown or not the one that known_hosts has."""


class AuthenticationError(Permanent):
    """The host refused the user or every key."""


class AgentError(Permanent):
    """The agent refused a command or cannot run on its host."""


class VersionMismatch(AgentError):
    """Another version of the agent is in charge of the host."""


class TargetError(Permanent):
    """The storage target refused: credentials, bucket, permission, path."""


class JournalLost(Permanent):
    """A journal no longer continues what was mirrored from it."""


class Superseded(Permanent):
    """Another controller steers the run."""


class RunError(Sai3sshError):
    """The run ended without a complete result; `exit_code` is the process's."""

    def __init__(self, message: str, *, exit_code: int, remedy: Optional[str] = None) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = exit_code


def from_dict(error: Dict[str, Any], *, host: Optional[str] = None) -> Sai3sshError:
    """The error that `to_dict` described; an unknown type becomes an AgentError."""
    kind = _BY_NAME.get(str(error.get("type")), AgentError)
    return kind(str(error.get("message", "no message")), host=host, remedy=error.get("remedy"))


_BY_NAME = {
    kind.__name__: kind for kind in (Transient, LinkLost, Permanent, AgentError, VersionMismatch, TargetError, JournalLost, Superseded)
}
