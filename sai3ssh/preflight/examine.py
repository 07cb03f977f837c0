"""Examines all hosts side by side: the way to each, what its agent finds, and what the plan asks of all of them together."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config import Description
from ..errors import Sai3sshError
from ..findings import Finding, Level, skips
from ..model import Assignment, Host, Plan
from ..transport import Connection, SshTransport, transport_for
from .demand import demand
from .fleet import fleet_findings
from .idle import idle_test
from .link import LINE, STEPS, Way
from .names import CHECKS, ON_HOSTS, groups
from .onhost import Question, ask, listening
from .ping import Pinger
from .report import FLEET, Notes, Report

PROBES, FEW_PROBES = 20, 5
AT_ONCE = 128
_UNREACHED = ("net.dns", "net.ping", "ssh.config", "ssh.port", "ssh.banner")


@dataclass(frozen=True)
class Options:
    """What is to be examined, and how."""

    bundle: Path
    """The agent's zipapp."""
    plan: Plan | None = None
    assignments: Sequence[Assignment] = ()
    description: Description | None = None
    """Of the plan."""
    credentials: Mapping[str, str | None] | None = None
    skip: Sequence[str] = ()
    """As check_skip returns it."""
    ports: Sequence[int] = ()
    """Of every host, besides the host's own."""
    matrix: bool = False
    """Hosts are asked to connect to each other."""
    idle_test_s: float | None = None
    probes: int = PROBES
    throughput: bool = True
    patience_s: float = 5.0
    """How long a host has to let us in."""
    start_with_available: bool = False
    """A run goes on without the hosts that fail."""


@dataclass
class _Examined:
    host: Host
    notes: Notes
    facts: dict[str, Any] = field(default_factory=dict)
    idle_s: float | None = None


def examine(hosts: Sequence[Host], options: Options) -> Report:
    """The report. Takes as long as the slowest host; every wait in it has an end."""
    began = time.monotonic()
    stop = threading.Event()
    transports = {host.name: transport for host in hosts if isinstance(transport := transport_for(host), SshTransport)}
    examined = [_Examined(host, Notes(options.skip)) for host in hosts]
    if set(options.skip) >= set(groups(CHECKS)):
        return Report({}, tuple(options.skip))
    with Pinger(options.probes) as pinger:
        slots = threading.BoundedSemaphore(AT_ONCE)

        def one(item: _Examined) -> None:
            with slots:
                try:
                    _examine(item, options, transports, pinger, stop)
                except Exception as error:  # what this is, too, is a finding
                    item.notes.fail(
                        "host.agent", f"could not be examined: {type(error).__name__}: {error}", "an examination",
                        "This is an error of sai3ssh itself: please report it, and go on with --skip all",
                    )  # fmt: skip

        # Daemons: who presses Ctrl-C does not want to wait for hosts that do not answer.
        threads = [threading.Thread(target=one, args=(item,), name=f"preflight {item.host.name}", daemon=True) for item in examined]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            stop.set()
            raise
    findings = {item.host.name: sorted(item.notes.found, key=_place) for item in examined}
    facts = {item.host.name: item.facts for item in examined if item.facts}
    _fold(findings)
    report = Report(findings, tuple(options.skip), facts=facts)
    notes = Notes(options.skip)
    idle = {item.host.name: item.idle_s for item in examined if item.idle_s is not None}
    fleet_findings(notes, report, hosts, options.plan, options.description, idle, start_with_available=options.start_with_available)
    report.findings[FLEET] = notes.found
    report.seconds = time.monotonic() - began
    return report


def _examine(item: _Examined, options: Options, transports: Mapping[str, SshTransport], pinger: Pinger, stop: threading.Event) -> None:
    host, notes = item.host, item.notes
    transport = transports.get(host.name)
    ports = sorted({*options.ports, *host.ports})
    if transport is None:
        connection: Connection = transport_for(host).connect(options.patience_s)
        try:
            item.facts = _ask(item, connection, options, transports, ports)
        finally:
            connection.close()
        return
    if all(skips(check, options.skip) for check in (*STEPS, *LINE, "ssh.idle", *groups(ON_HOSTS))):
        return
    way = Way(transport, notes, pinger, patience_s=options.patience_s, probes=options.probes)
    opened = way.open()
    if opened is None:
        notes.leave(("net.ports",) if ports else (), "cannot be done: there is no connection")
        notes.leave(groups(ON_HOSTS), "cannot be done: there is no connection")
        return
    try:
        way.measure(opened, options.plan.heartbeat_s if options.plan else None, throughput=options.throughput)
        if way.talk is not None and way.talk.boot:
            item.facts = {"boot": way.talk.boot}
        before = len(notes.found)
        item.facts |= _ask(item, opened, options, transports, ports)
        if ports and not notes.skips("net.ports"):
            way.ports(ports, listening(notes.found[before:]))
        if options.idle_test_s is not None and not notes.skips("ssh.idle"):
            item.idle_s = idle_test(transport, notes, options.idle_test_s, stop)
        way.judge_pings()
    finally:
        opened.close()


def _ask(
    item: _Examined, connection: Connection, options: Options, transports: Mapping[str, SshTransport], ports: Sequence[int]
) -> dict[str, Any]:
    if all(item.notes.skips(group) for group in groups(ON_HOSTS)):
        return {}
    mine = next((one for one in options.assignments if one.agent_id == item.host.name), None)
    plan = demand(options.plan, mine) if options.plan is not None and mine is not None else None
    reach = _peers(item.host, options, transports) if options.matrix else []
    question = Question(options.bundle, options.skip, ports, options.credentials)
    return ask(connection, item.host, question, item.notes, plan=plan, reach=reach)


def _peers(host: Host, options: Options, transports: Mapping[str, SshTransport]) -> list[dict[str, Any]]:
    """The sshds and the named ports of the others."""
    found = []
    for name, transport in transports.items():
        if name == host.name:
            continue
        try:
            last = transport.route()[-1]
        except Sai3sshError:
            continue
        numbers = [last.port, *sorted({*options.ports, *transport.host.ports} - {last.port})]
        found += [{"name": name, "address": last.address, "port": port} for port in numbers]
    return found


def _place(finding: Finding) -> int:
    return CHECKS.index(finding.check) if finding.check in CHECKS else len(CHECKS)


def _fold(findings: dict[str, list[Finding]]) -> None:
    """One cause, one FAILURE: a host or port that cannot be reached from here is to blame itself, not those that were asked to connect to
    it, nor the service that is missing there."""
    away = {host for host, found in findings.items() if any(one.level is Level.FAILURE and one.check in _UNREACHED for one in found)}
    closed = {
        (host, one.subject) for host, found in findings.items() for one in found if one.check == "net.ports" and one.level is Level.FAILURE
    }
    for host, found in findings.items():
        for position, one in enumerate(found):
            if one.check == "host.ports" and one.level is Level.WARNING and (host, f"port {one.values.get('port')}") in closed:
                found[position] = _blamed(one, "net.ports has failed")
            if one.check != "host.reach" or one.level is not Level.FAILURE:
                continue
            peer = str(one.values.get("peer"))
            if peer in away:
                found[position] = _blamed(one, f"{peer} is not reached from here either")
            elif (peer, f"port {one.values.get('port')}") in closed:
                found[position] = _blamed(one, f"that port of {peer} is not reached from here either")


def _blamed(finding: Finding, cause: str) -> Finding:
    return replace(finding, level=Level.SKIPPED, found=f"{finding.found}; {cause}: see there", expected="", remedy="")
