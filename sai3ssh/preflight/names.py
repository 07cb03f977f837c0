"""The names of all checks: what --skip takes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ..errors import ConfigError

ON_HOSTS = (
    "host.python", "host.agent", "host.disk", "host.shm", "host.open_files", "host.runs", "host.memory", "host.cpu", "host.processes",
    "host.clock_sync", "host.nic", "host.ports", "host.reach",
    "storage.engine",
    "storage.credentials", "storage.dns", "storage.tcp", "storage.tls", "storage.http", "storage.clock", "storage.rtt", "storage.list",
    "storage.put", "storage.get", "storage.stat", "storage.delete", "storage.versioning", "storage.object_lock", "storage.lifecycle",
    "file.mount", "file.write", "file.space", "file.direct",
)  # fmt: skip
"""What agents check (agent/preflight)."""
CHECKS = (
    "net.dns", "net.ping", "net.ports",
    "ssh.config", "ssh.port", "ssh.banner", "ssh.host_key", "ssh.auth", "ssh.keepalive", "ssh.round_trip", "ssh.clock", "ssh.throughput",
    "ssh.idle",
    *ON_HOSTS,
    "fleet.agents", "fleet.concurrency", "fleet.duration", "fleet.volume", "fleet.idle", "fleet.duplicates",
)  # fmt: skip
ALL = "all"


def groups(names: Sequence[str] = CHECKS) -> list[str]:
    """What the names begin with, each once: net, ssh, host, storage, fleet."""
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def check_skip(skip: Sequence[str]) -> tuple[str, ...]:
    """The names of --skip, `all` spelled out as groups. Raises ConfigError with the nearest name, or all, for one that is no check."""
    known = [ALL, *groups(), *CHECKS]
    for name in skip:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.6)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}"
            raise ConfigError(f"--skip {name}: there is no such check", remedy=hint)
    return tuple(groups()) if ALL in skip else tuple(dict.fromkeys(skip))


def parse_ports(text: str) -> tuple[int, ...]:
    """The ports of `7761,7762`. Raises ConfigError."""
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    for number in numbers:
        if not number.isdigit() or not 0 < int(number) <= 65535:
            raise ConfigError(f"--ports: {number!r} is no port (1 to 65535)", remedy="Write it as --ports 7761,7762")
    return tuple(dict.fromkeys(int(number) for number in numbers))
