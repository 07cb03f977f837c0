"""What the plan asks of all hosts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..config import Description
from ..config.units import size_text
from ..findings import Level
from ..model import Host, Plan
from .demand import journal_bytes
from .report import Notes, Report

EPHEMERAL_PORTS = 28_232
"""Linux's own ip_local_port_range, where a host does not tell its."""
SHARE_OF_PORTS = 0.5
"""A port rests for a minute after its connection: more in flight than this share of them, and some connections will find none."""


def fleet_findings(
    notes: Notes,
    report: Report,
    hosts: Sequence[Host],
    plan: Plan | None,
    description: Description | None,
    idle_s: Mapping[str, float],
    *,
    start_with_available: bool,
) -> None:
    """Adds the fleet's findings to the notes. `idle_s`: how long a silent connection lived, of hosts where that was tried."""
    machines = _machines(report, hosts)
    if plan is not None:
        _agents(notes, report, plan, start_with_available)
        _concurrency(notes, report, plan, machines)
        if description is not None:
            _duration(notes, description)
            _volume(notes, report, plan, description, machines)
        _idle(notes, plan, idle_s)
    _duplicates(notes, hosts, machines)


def _machines(report: Report, hosts: Sequence[Host]) -> list[list[str]]:
    """The hosts by the machine that they are, as far as that is known."""
    found: dict[str, list[str]] = {}
    for host in hosts:
        boot = report.facts.get(host.name, {}).get("boot")
        if boot:
            found.setdefault(str(boot), []).append(host.name)
    return list(found.values())


def _agents(notes: Notes, report: Report, plan: Plan, start_with_available: bool) -> None:
    policy, total = plan.policy, len(plan.agents)
    well = total - len(set(report.failed_hosts()) & set(plan.agents))
    needed = total
    if start_with_available:
        needed = max(policy.min_agents, total // 2 + 1 if policy.name == "continue_if_majority" else 1)
    found = f"{well} of {total} hosts can take part, {needed} are needed ({policy.name})"
    values = {"well": well, "agents": total, "needed": needed}
    if start_with_available and well < needed:
        remedy = "Repair hosts, or lower distributed.min_agents_required"
        notes.fail("fleet.agents", found, f"at least {needed}", remedy, values=values)
    elif well < needed:
        # Each of those has a FAILURE of its own.
        notes.leave(("fleet.agents",), found)
    else:
        notes.ok("fleet.agents", found, values=values)


def _concurrency(notes: Notes, report: Report, plan: Plan, machines: Sequence[Sequence[str]]) -> None:
    each = [max(stage.concurrency for stage in plan.of_agent(index).stages) for index in range(len(plan.agents))]
    most, in_all = max(each), sum(each)
    values = {"per_agent": most, "in_all": in_all}
    connections = most * plan.target.connections_per_operation
    found = f"{in_all:,} operations in flight at most, {most:,} per agent"
    together = max((len(set(names) & set(plan.agents)) for names in machines), default=1)
    ports = min(int(report.facts.get(name, {}).get("host", {}).get("ephemeral_ports") or EPHEMERAL_PORTS) for name in plan.agents)
    if plan.target.engine != "file" and connections * together > SHARE_OF_PORTS * ports:
        notes.warn(
            "fleet.concurrency",
            f"{found}; a machine has {together * connections:,} connections at once and {ports:,} local ports",
            f"at most {int(SHARE_OF_PORTS * ports):,} connections on a machine",
            "Lower concurrency, use more hosts, or widen net.ipv4.ip_local_port_range (role sai3ssh_host_limits)",
            values=values,
        )
    else:
        notes.ok("fleet.concurrency", found, values=values)


def _duration(notes: Notes, description: Description) -> None:
    guess = ", stages without a duration guessed" if any(not stage.exact for stage in description.stages) else ""
    minutes, seconds = divmod(round(description.seconds), 60)
    found = f"about {minutes // 60}:{minutes % 60:02d}:{seconds:02d} in all{guess}"
    notes.ok("fleet.duration", found, values={"estimated_s": round(description.seconds, 1)})


def _volume(notes: Notes, report: Report, plan: Plan, description: Description, machines: Sequence[Sequence[str]]) -> None:
    """What each host needs for itself the host has checked; here is what several names on one machine need of the same disk."""
    values = {"objects": description.objects, "bytes": description.bytes, "journal_bytes": journal_bytes(plan) * len(plan.agents)}
    found = (
        f"{description.objects:,} objects, {size_text(description.bytes)}; "
        f"journals of {size_text(journal_bytes(plan))} on each of {len(plan.agents)} agents"
    )
    for names in machines:
        agents = [name for name in names if name in plan.agents]
        need = journal_bytes(plan) * len(agents)
        if plan.target.engine == "file":
            need += description.bytes * len(agents) // len(plan.agents)
        free = [
            int(one.values["free_bytes"])
            for name in agents
            for one in report.findings[name]
            if one.check in ("host.disk", "file.space") and one.level in (Level.OK, Level.WARNING) and "free_bytes" in one.values
        ]
        if len(agents) > 1 and free and need > min(free):
            notes.warn(
                "fleet.volume",
                f"{found}; {', '.join(agents)} are one machine with {size_text(min(free))} free, and need {size_text(need)} together",
                f"at least {size_text(need)}, unless their directories are on different file systems",
                "Use fewer agents per machine, fewer or smaller objects, or directories on larger file systems",
                values=values,
            )
            return
    notes.ok("fleet.volume", found, values=values)


def _idle(notes: Notes, plan: Plan, idle_s: Mapping[str, float]) -> None:
    speaks = f"links speak each {plan.heartbeat_s:g} s"
    if not idle_s:
        notes.ok("fleet.idle", f"{speaks}; how long silent connections live is not known (--idle-test)")
        return
    shortest = min(idle_s, key=lambda name: idle_s[name])
    found = f"{speaks}; silent connections live for {idle_s[shortest]:g} s at least ({shortest})"
    if idle_s[shortest] <= plan.heartbeat_s:
        remedy = "Lower distributed.heartbeat_interval, or have the NAT or firewall remember connections for longer"
        notes.fail("fleet.idle", found, "connections that outlive the silence between two heartbeats", remedy)
    else:
        notes.ok("fleet.idle", found, values={"lived_s": idle_s[shortest], "heartbeat_s": plan.heartbeat_s})


def _duplicates(notes: Notes, hosts: Sequence[Host], machines: Sequence[Sequence[str]]) -> None:
    local = {host.name for host in hosts if host.connection == "local"}
    # Several agents on this machine are there on purpose.
    doubled = [names for names in machines if len(names) > 1 and not set(names) <= local]
    for names in doubled:
        notes.warn(
            "fleet.duplicates",
            f"{', '.join(names)} are the same machine (one boot id)",
            "a machine for each host of the inventory",
            "Remove all but one of them, unless they are containers on purpose: they share its CPU, network and disk",
        )
    if not doubled and machines:
        notes.ok("fleet.duplicates", f"{sum(map(len, machines))} hosts on {len(machines)} machines")
