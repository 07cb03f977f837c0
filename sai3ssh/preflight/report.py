"""What all checks found, host by host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RunError
from ..findings import Finding, Level, skips
from ..model import to_json

FLEET = ""
"""The name under which findings about all hosts together are kept."""
FAILED = 5
"""The exit code."""
ON_REQUEST = "skipped on request"


@dataclass
class Report:
    """Findings by host, those about the fleet under FLEET."""

    findings: dict[str, list[Finding]]
    skip: tuple[str, ...] = ()
    """The names that the operator skipped."""
    seconds: float = 0.0
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the host's own part said besides its findings: boot, python, cpu_s, seconds, wall_ns, host, agent."""

    @property
    def hosts(self) -> list[str]:
        """The hosts that were checked."""
        return [host for host in self.findings if host != FLEET]

    def of(self, level: Level) -> list[tuple[str, Finding]]:
        """The findings of a level, with their hosts."""
        return [(host, one) for host, found in self.findings.items() for one in found if one.level is level]

    @property
    def checks(self) -> int:
        """How many checks were done."""
        return sum(one.level is not Level.SKIPPED for found in self.findings.values() for one in found)

    @property
    def failed(self) -> bool:
        """Whether anything is a FAILURE."""
        return bool(self.of(Level.FAILURE))

    @property
    def exit_code(self) -> int:
        """0, or 5."""
        return FAILED if self.failed else 0

    def failed_hosts(self) -> list[str]:
        """The hosts with a FAILURE."""
        return [host for host in self.hosts if any(one.level is Level.FAILURE for one in self.findings[host])]

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON data."""
        return {
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            **self.summary(),
            "fleet": to_json(self.findings.get(FLEET, [])),
            "hosts": {host: {"findings": to_json(self.findings[host]), **self.facts.get(host, {})} for host in self.hosts},
        }

    def summary(self) -> dict[str, Any]:
        """What the results of a run keep of it: the names skipped, and all warnings (with --start-with-available failures too) in words."""
        bad = [*self.of(Level.FAILURE), *self.of(Level.WARNING)]
        return {"skipped": list(self.skip), "warnings": [f"{host or 'fleet'}: {one.check}: {one.found}" for host, one in bad]}


def preflight_failed(report: Report) -> RunError:
    """The error that ends a command whose report has failures: one line that names the first of them."""
    failures = report.of(Level.FAILURE)
    host, first = failures[0]
    where = " ".join(part for part in (first.check, first.subject) if part)
    more = f", and {len(failures) - 1} more above" if len(failures) > 1 else ""
    return RunError(f"preflight failed: {host or 'fleet'}: {where}: {first.found}{more}", exit_code=FAILED, remedy=first.remedy)


class Notes:
    """The findings about one host while it is examined. What is to be skipped becomes SKIPPED, whatever was found."""

    def __init__(self, skip: Sequence[str]) -> None:
        self.found: list[Finding] = []
        self._skip = skip

    def skips(self, check: str) -> bool:
        """Whether the check is to be skipped; notes that it is."""
        if not skips(check, self._skip):
            return False
        if not any(one.check == check for one in self.found):
            self.found.append(Finding(check, Level.SKIPPED, ON_REQUEST))
        return True

    def ok(self, check: str, found: str, **more: Any) -> None:
        """It is as it should be."""
        self._add(Finding(check, Level.OK, found, **more))

    def warn(self, check: str, found: str, expected: str, remedy: str, **more: Any) -> None:
        """It is worth knowing."""
        self._add(Finding(check, Level.WARNING, found, expected, remedy, **more))

    def fail(self, check: str, found: str, expected: str, remedy: str, **more: Any) -> None:
        """The run would fail, or its figures would be worthless."""
        self._add(Finding(check, Level.FAILURE, found, expected, remedy, **more))

    def leave(self, checks: Iterable[str], reason: str) -> None:
        """These cannot be done, unless they were done already."""
        done = {one.check for one in self.found}
        for check in checks:
            if check not in done:
                self._add(Finding(check, Level.SKIPPED, reason))

    def _add(self, finding: Finding) -> None:
        if not self.skips(finding.check):
            self.found.append(finding)
