"""Findings on a terminal: what is well in a line per host, what is not in full, with what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..findings import Finding, Level
from ..preflight import Report
from .terminal import Terminal

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "bold red", Level.SKIPPED: "dim"}

LOG_WIDTH = 160

Told = tuple[str, Level, str, str, str, str]
"""What people read of a finding."""


def print_report(report: Report, console: Console | None = None, *, verbose: bool = False, stderr: bool = False) -> None:
    """A part per host, the fleet's last, then the whole in one line."""
    console = console or _console(stderr=stderr)
    print_findings(report.findings, console, verbose=verbose)
    console.print(Text(headline(report), "bold red" if report.failed else "bold"), soft_wrap=True)


def print_doctor(report: Report, console: Console | None = None) -> None:
    """This machine in full, hosts in a line where all is well."""
    console = console or _console()
    machine, *hosts = report.findings
    print_findings({machine: report.findings[machine]}, console, verbose=True)
    print_findings({host: report.findings[host] for host in hosts}, console)


def headline(report: Report) -> str:
    """The whole in one line."""
    failures, warnings = len(report.of(Level.FAILURE)), len(report.of(Level.WARNING))
    counts = [_count(len(report.hosts), "host"), _count(report.checks, "check"), _count(warnings, "warning")]
    counts[2:2] = [_count(failures, "failure")] if failures else []
    skipped = f"; skipped: {', '.join(report.skip)}" if report.skip else ""
    return f"preflight: {', '.join(counts)}, {report.seconds:.1f} s{skipped}"


def print_findings(findings: Mapping[str, Sequence[Finding]], console: Console, *, verbose: bool = False) -> None:
    """A part per host (or whatever the findings are about). Only `verbose` shows what is well, and what was not done; without it what
    several hosts have alike is said once, at the first of them."""
    alike: dict[Told, list[str]] = {}
    for name, found in findings.items() if not verbose else ():
        for one in found:
            alike.setdefault(_told(one), []).append(name)
    for name, found in findings.items():
        if not found:
            continue
        worst = next(level for level in (Level.FAILURE, Level.WARNING, Level.OK, Level.SKIPPED) if any(f.level is level for f in found))
        console.print(
            Text.assemble((name or "fleet", "bold"), "  ", (worst.value.upper(), STYLES[worst]), f"  {_tally(found)}"), soft_wrap=True
        )
        bad = [one for one in found if one.level in (Level.WARNING, Level.FAILURE)]
        shown = found if verbose else [one for one in bad if alike[_told(one)][0] == name]
        if shown:
            console.print(_table(shown, alike))
        if not verbose and worst is Level.FAILURE:
            for reason, names in _not_done(found).items():
                console.print(Text(f"    not done: {', '.join(names)} ({reason})", "dim"), soft_wrap=True)


def print_warnings(report: Report, console: Console | None = None) -> None:
    """Each WARNING, and each FAILURE that did not end the run, in a line, with what to do. The same of several hosts is one."""
    console = console or _console()
    alike: dict[tuple[Level, str, str], list[tuple[str, Finding]]] = {}
    for level in (Level.FAILURE, Level.WARNING):
        for host, one in report.of(level):
            alike.setdefault((level, one.check, one.remedy), []).append((host or "fleet", one))
    for (level, check, remedy), cases in alike.items():
        host, first = cases[0]
        more = f" (and {', '.join(name for name, _ in cases[1:])})" if len(cases) > 1 else ""
        subject = f" {first.subject}" if first.subject else ""
        text = Text.assemble((f"{level.value} ", STYLES[level]), f"{host}: {check}{subject}: {first.found}{more}. {remedy}")
        console.print(text, soft_wrap=True)


def _console(*, stderr: bool = False) -> Console:
    """In a log lines may be longer than on a terminal whose width nobody knows."""
    console = Terminal(stderr=stderr, highlight=False)
    return console if console.is_terminal else Terminal(stderr=stderr, highlight=False, width=LOG_WIDTH)


def _tally(found: Sequence[Finding]) -> str:
    done = sum(one.level is not Level.SKIPPED for one in found)
    skipped = len(found) - done
    return _count(done, "check") + (f", {skipped} not done" if skipped else "")


def _not_done(found: Sequence[Finding]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for one in found:
        if one.level is Level.SKIPPED:
            reasons.setdefault(one.found, []).append(one.check)
    return reasons


def _told(one: Finding) -> Told:
    return one.check, one.level, one.subject, one.found, one.expected, one.remedy


def _table(found: Sequence[Finding], alike: Mapping[Told, Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in found:
        told = Text(one.found if one.found.startswith(one.subject) else f"{one.subject}: {one.found}")
        if one.expected:
            told.append(f"\nexpected: {one.expected}", "dim")
        if one.remedy:
            told.append(f"\nto do: {one.remedy}", "bold")
        others = alike.get(_told(one), ())[1:]
        if others:
            told.append(f"\nthe same on {', '.join(others)}", "dim")
        table.add_row("   " + one.check, Text(one.level.value, STYLES[one.level]), told)
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
