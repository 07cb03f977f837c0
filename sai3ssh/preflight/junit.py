"""The report as JUnit XML, for CI systems: a suite per host, a case per finding."""

from __future__ import annotations

from pathlib import Path

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

from ..errors import ConfigError
from ..findings import Finding, Level
from .report import FLEET, Report


def write_junit(report: Report, path: Path) -> None:
    """Writes the file. Raises ConfigError when that is not possible."""
    xml = JUnitXml("sai3ssh preflight")
    for host in [*report.hosts, FLEET]:
        suite = TestSuite(host or "fleet")
        for finding in report.findings.get(host, []):
            suite.add_testcase(_case(host or "fleet", finding))
        xml.add_testsuite(suite)
    try:
        xml.write(str(path), pretty=True)
    except OSError as error:
        raise ConfigError(f"--junit {path}: {error.strerror}", remedy="Name a file in a directory that exists") from error


def _case(host: str, finding: Finding) -> TestCase:
    case = TestCase(" ".join(part for part in (finding.check, finding.subject) if part), host, round(finding.seconds, 3))
    told = "; ".join(
        part
        for part in (finding.found, finding.expected and f"expected: {finding.expected}", finding.remedy and f"do: {finding.remedy}")
        if part
    )
    if finding.level is Level.FAILURE:
        case.result = [Failure(told, finding.check)]
    elif finding.level is Level.SKIPPED:
        case.result = [Skipped(finding.found)]
    else:
        # JUnit knows no warnings: they pass, and say so.
        case.system_out = f"{finding.level.value}: {told}"
    return case
