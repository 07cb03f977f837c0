"""The checks that the agent does on its host: `preflight --json`, asked over the connection that is open anyway."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..bundle import digest as digest_of
from ..controller import install
from ..errors import Sai3sshError
from ..findings import Finding, Level
from ..model import Host, from_json
from ..transport import Connection
from .names import ON_HOSTS, groups
from .report import Notes

TIMEOUT_S = 40.0
"""The agent answers within 20 s."""


@dataclass(frozen=True)
class Question:
    """What hosts are asked, besides what is each one's own."""

    bundle: Path
    skip: Sequence[str]
    ports: Sequence[int] = ()
    credentials: Mapping[str, str | None] | None = None


def ask(connection: Connection, host: Host, question: Question, notes: Notes, *, plan: Any, reach: Sequence[Any]) -> dict[str, Any]:
    """Adds what the agent finds to the notes, and returns what it says besides: boot, python, cpu_s, seconds, host. The agent is put there
    when it is missing, as a run would do."""
    began = time.monotonic()
    try:
        installed = install.ensure(connection, host, question.bundle)
        asked = {
            "skip": list(question.skip),
            "state_dir": host.state_dir,
            "digest": digest_of(question.bundle),
            "version": __version__,
            "plan": plan,
            "credentials": dict(question.credentials) if question.credentials else None,
            "reach": list(reach),
            "ports": list(question.ports),
        }
        answer = _run(connection, [*installed.argv, "preflight", "--json"], json.dumps(asked).encode())
        findings = [from_json(Finding, one) for one in answer.pop("findings")]
    except (Sai3sshError, ValueError, KeyError, TypeError) as error:
        _cannot(error, notes, time.monotonic() - began)
        return {}
    notes.found += findings
    return {**answer, "agent": installed.source}


def _run(connection: Connection, argv: list[str], data: bytes) -> dict[str, Any]:
    done = connection.run(argv, input=data, timeout_s=TIMEOUT_S)
    for line in reversed(done.stdout.decode("utf-8", "replace").splitlines()):
        # What rc files of the user's shell print comes before.
        if line.startswith('{"'):
            found: dict[str, Any] = json.loads(line)
            return found
    said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-300:] or "nothing"
    raise ValueError(f"the agent's preflight ended with {done.exit_code} and said: {said}")


def _cannot(error: Exception, notes: Notes, seconds: float) -> None:
    """One FAILURE, and nothing else is blamed."""
    found, remedy = str(error), "Run `python3 agent.pyz preflight --json` on the host to see why"
    check, expected = "host.agent", "an agent that answers"
    if isinstance(error, Sai3sshError):
        found, remedy = error.message, error.remedy or remedy
        if error.phase == install.PYTHON:
            check, expected = "host.python", f"Python {install.dotted(install.MIN_PYTHON)} or later"
    notes.fail(check, found, expected, remedy, seconds=round(seconds, 3))
    notes.leave(groups(ON_HOSTS), f"cannot be done: {check} failed")


def listening(findings: Sequence[Finding]) -> dict[int, bool]:
    """Port to whether something listens there, by the host's own account."""
    return {
        int(one.values["port"]): bool(one.values.get("listening"))
        for one in findings
        if one.check == "host.ports" and one.level is not Level.SKIPPED and "port" in one.values
    }
