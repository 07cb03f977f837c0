"""Whether the clients, and not the storage, were what limited a stage."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from .journal import AgentStage

Json = dict[str, Any]
BUSY_PCT = 95.0
"""Of a core, for a worker; of all cores, for a host."""
NIC_SHARE = 0.9
MOST = 0.5
"""A limit that held in at least this share of the seconds is that of the stage,"""
SHORTEST = 3
"""unless the stage had fewer seconds than this: a moment says nothing."""
LATE_MS = 100.0
"""A load loop that came later than this in a second has put it into latencies that the storage did not cause."""


def limits(stage: AgentStage, host: Json | None, engine: str) -> list[Json]:
    """What limited one agent in one stage: [{limit: cpu, nic or late, seconds, of, worst}], empty when nothing did.

    cpu: a worker of an S3 engine, which cannot use more, used its whole core, or all cores were busy (worst: % of it); nic: the
    interfaces were full (worst: % of their speed, where it is known); both in at least half of the measured seconds, and three. late: the
    load loop itself was late in `seconds` of them (worst: ms).
    """
    seconds = [record for record in stage.seconds if not record["warmup"] and "host" in record]
    busy, nic, late = [], [], []
    speed = (host or {}).get("nic_bytes_per_s")
    for record in seconds:
        load = record["host"]
        user, system, _, steal = load["cpu"]
        used = max(load.get("worker_cpu", 0.0) if engine != "file" else 0.0, user + system + steal)
        span_s = max(1e-6, (record["to_clock_ns"] - record["from_clock_ns"]) / 1e9)
        if used >= BUSY_PCT:
            busy.append(used)
        if speed and max(load["net"]) / span_s >= NIC_SHARE * speed:
            nic.append(100 * max(load["net"]) / span_s / speed)
        if load.get("late_ms", 0.0) >= LATE_MS:
            late.append(load["late_ms"])
    least = max(SHORTEST, MOST * len(seconds))
    found = [("cpu", busy, least), ("nic", nic, least), ("late", late, 1)]
    return [
        {"limit": name, "seconds": len(worst), "of": len(seconds), "worst": round(max(worst), 1)}
        for name, worst, needed in found
        if len(worst) >= needed
    ]


_TEXT = {
    "cpu": "a worker's core or all cores were {worst:.0f} % busy",
    "nic": "the network interfaces were {worst:.0f} % full",
    "late": "its load loop came up to {worst:,.0f} ms late",
}
_MEANS = {
    "cpu": "this is what the clients can do, not the storage",
    "nic": "this is what the clients' network can carry, not the storage",
    "late": "latencies of that time are the clients'",
}


def limit_lines(content: Json) -> list[str]:
    """One line for each stage and kind of limit: which agents, how much, and what it means for the figures."""
    lines = []
    for stage in content["stages"]:
        kinds: dict[str, list[tuple[str, Json]]] = defaultdict(list)
        for agent, part in stage["agents"].items():
            for limit in part.get("limits", ()):
                kinds[limit["limit"]].append((agent, limit))
        for kind, found in kinds.items():
            agent, worst = max(found, key=lambda item: item[1]["worst"])
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            text = _TEXT[kind].format(worst=worst["worst"])
            lines.append(f"client-bound {stage['name']}: {agent}{others}: {text} in {worst['seconds']} of {worst['of']} s; {_MEANS[kind]}")
    return lines
