"""The run directory on the controller."""

from __future__ import annotations

import json
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ConfigError
from ..model import Assignment, Host, Plan, to_json


def new_run_id(name: str, now: datetime | None = None) -> str:
    """A unique id that is a valid file name: <name>-<UTC time>-<4 random hexadecimal digits>."""
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:40] or "run"
    return f"{slug}-{(now or datetime.now(UTC)):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


class RunDirectory:
    """Paths below one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, parent: Path, plan: Plan, assignments: list[Assignment], hosts: list[Host], config: Path) -> RunDirectory:
        """A new directory with plan.json, hosts.json and config.yaml. Raises ConfigError when it cannot be made."""
        path = parent / plan.run_id
        try:
            (path / "agents").mkdir(parents=True)
            for assignment in assignments:
                (path / "agents" / assignment.agent_id).mkdir()
            agents = [{**to_json(a), "host": h.name, "address": h.address} for a, h in zip(assignments, hosts, strict=True)]
            write_text(path / "plan.json", json.dumps(to_json(plan), indent=1) + "\n")
            write_text(path / "hosts.json", json.dumps({"agents": agents}, indent=1) + "\n")
            write_text(path / "config.yaml", config.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"cannot write the run directory {path}: {error.strerror}", remedy="Choose another place with --results-dir"
            ) from error
        return cls(path)

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.ndjson"

    def mirror(self, agent_id: str) -> Path:
        """The mirror of an agent's journal."""
        return self.path / "agents" / agent_id / "journal.ndjson"


def write_text(path: Path, text: str) -> None:
    """Replaces a file, durably."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
