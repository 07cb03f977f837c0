"""What a check of a host, a target or the network found.

Shared by the agent, which checks from the host's side, and the controller, which checks from the operator's. Standard library only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Dict


class Level(str, enum.Enum):
    """How bad it is. Only a FAILURE keeps a run from starting."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check. A WARNING or a FAILURE says what was expected and what to do."""

    check: str
    """Dotted name, for example host.disk: what --skip takes, whole or from its beginning."""
    level: Level
    found: str
    """One line, with figures and their units."""
    expected: str = ""
    remedy: str = ""
    subject: str = ""
    """What of the host was checked: an endpoint, a path, a port, another host."""
    values: Dict[str, Any] = field(default_factory=dict)
    """The figures, with units in their names."""
    seconds: float = 0.0
    """How long the check took."""


def skips(check: str, skip: object) -> bool:
    """Whether a list of names to skip names this check: `storage` skips storage.tls, and `storage.tls` only that."""
    return isinstance(skip, (list, tuple)) and any(check == name or check.startswith(f"{name}.") for name in skip)
