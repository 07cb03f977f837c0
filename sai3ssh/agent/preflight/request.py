"""What a controller asks of `preflight`: one JSON document on stdin."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

from sai3ssh.errors import ConfigError
from sai3ssh.model import OPERATIONS, from_json

_REMEDY = "Run the preflight with the sai3ssh of the same version as this agent"


@dataclass(frozen=True)
class Storage:
    """A target of the plan, and what this host will do there."""

    uri: str
    """s3://bucket/prefix/, az://container/prefix/, gs://bucket/prefix/, file:///directory/ or direct:///directory/."""
    endpoint_url: Optional[str] = None
    region: str = "us-east-1"
    path_style: bool = True
    ca_file: Optional[str] = None
    verify_tls: bool = True
    operations: Tuple[str, ...] = ()
    """The kinds that the workload uses. Without put and delete nothing is written."""
    write_bytes: int = 0
    """How much the workload writes there in all."""
    objects: int = 0
    """How many objects it makes there."""
    anonymous: bool = False
    """Requests are not signed."""
    account: Optional[str] = None
    """The storage account of az://."""

    @property
    def puts(self) -> bool:
        """Whether the workload makes objects there, so that a probe may."""
        return "put" in self.operations


@dataclass(frozen=True)
class Needs:
    """What a plan needs of this host."""

    journal_bytes: int = 0
    open_files: int = 0
    memory_bytes: int = 0
    storage: Tuple[Storage, ...] = ()
    counters_bytes: int = 0
    """Of shared memory for one worker in one stage, where that is more than what every run needs."""
    op_log_bytes: int = 0
    """At most; what does not fit is dropped."""


@dataclass(frozen=True)
class Peer:
    """A port of another host that this one must reach."""

    name: str
    address: str
    port: int


@dataclass(frozen=True)
class Request:
    """All of it. Nothing is required."""

    skip: Tuple[str, ...] = ()
    """Names of checks, whole or from their beginning."""
    state_dir: Optional[str] = None
    digest: Optional[str] = None
    """SHA-256 of the agent that the controller brings; None: of this one."""
    version: Optional[str] = None
    plan: Optional[Needs] = None
    credentials: Optional[Dict[str, Optional[str]]] = field(default=None, repr=False)
    reach: Tuple[Peer, ...] = ()
    ports: Tuple[int, ...] = ()


def read_request(text: str) -> Request:
    """The request in a JSON document; nothing at all is a request too. Raises ConfigError, which quotes no value."""
    try:
        data: Any = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ConfigError(f"preflight: stdin is not JSON ({type(error).__name__})", remedy=_REMEDY) from None
    if not isinstance(data, dict):
        raise ConfigError(f"preflight: stdin is a JSON {type(data).__name__}, expected an object", remedy=_REMEDY)
    try:
        credentials = from_json(Request, {"credentials": data.pop("credentials", None)}).credentials
    except (ValueError, TypeError, KeyError, AttributeError):
        # What does not fit may be a secret.
        raise ConfigError("preflight: credentials are not an object of texts", remedy=_REMEDY) from None
    try:
        request = from_json(Request, {**data, "credentials": credentials})
        unknown = sorted({op for storage in _storage(request) for op in storage.operations} - set(OPERATIONS))
        if unknown:
            raise ValueError(f"operations {', '.join(unknown)}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"preflight: the request does not fit: {error}", remedy=_REMEDY) from None
    return request


def _storage(request: Request) -> Tuple[Storage, ...]:
    return request.plan.storage if request.plan is not None else ()
