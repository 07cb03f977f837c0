"""Whether the clients, and not the storage, were what limited a stage."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from .journal import AgentStage

Json = dict[str, Any]
BUSY_PCT = 95.0
"""Of a core, for a worker; of all cores, for a host."""
NIC_SHARE = 0.9
CALIBRATED_SHARE = 0.9
MOST = 0.5
"""A limit that held in at least this share of the seconds is that of the stage,"""
SHORTEST = 3
"""unless the stage had fewer seconds than this: a moment says nothing."""
LATE_MS = 100.0
"""A load loop that came later than this in a second has put it into latencies that the storage did not cause."""


def limits(stage: AgentStage, host: Json | None, engine: str, calibration: Json | None = None) -> list[Json]:
    """What limited one agent in one stage: [{limit: cpu, agent, nic or late, seconds, of, worst}], empty when nothing did.

    cpu: a worker of an S3 engine, which cannot use more, used its whole core, or all cores were busy (worst: % of it); nic: the
    interfaces were full (worst: % of their speed, where it is known); agent, where cpu was not told: it did nearly all that it can by its
    calibration (worst: % of it); each in at least half of the measured seconds, and three. late: the load loop itself was late in
    `seconds` of them (worst: ms).
    """
    seconds = [record for record in stage.seconds if not record["warmup"] and "host" in record]
    busy, nic, late, able = [], [], [], []
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
        share = calibrated_share(record, calibration)
        if share is not None and share >= CALIBRATED_SHARE:
            able.append(100 * share)
    least = max(SHORTEST, MOST * len(seconds))
    able = able if len(busy) < least else []
    found = [("cpu", busy, least), ("agent", able, least), ("nic", nic, least), ("late", late, 1)]
    return [
        {"limit": name, "seconds": len(worst), "of": len(seconds), "worst": round(max(worst), 1)}
        for name, worst, needed in found
        if len(worst) >= needed
    ]


def calibrated_share(record: Json, calibration: Json | None) -> float | None:
    """What an agent did in a second, of what it can do at most by its calibration; None where either is not known.

    What it can do is so much CPU time as its workers' cores have; what an operation takes of it was measured for small and large objects,
    and is a straight line in between. An operation without data takes as much as a GET of the smallest.
    """
    workers = record.get("host", {}).get("workers_cpu", (0.0, 0))[1]
    span_us = (record["to_clock_ns"] - record["from_clock_ns"]) / 1000
    if calibration is None or not workers or span_us <= 0:
        return None
    used_us = 0.0
    for op, (count, size, *_) in record["ops"].items():
        points = calibration["figures"].get(op) or calibration["figures"]["get"]
        used_us += count * cost_us(points, size / count if count else 0.0)
    return float(used_us / (workers * span_us))


def cost_us(points: list[Json], size: float) -> float:
    """CPU microseconds of an operation of so many bytes."""
    low, high = points[0], points[-1]
    if low["size"] == high["size"]:
        return float(low["cpu_us"])
    slope = (high["cpu_us"] - low["cpu_us"]) / (high["size"] - low["size"])
    return float(low["cpu_us"] + max(0.0, slope) * max(0.0, size - low["size"]))


_TEXT = {
    "agent": "it did {worst:.0f} % of what its agent can do at most by its calibration",
    "cpu": "a worker's core or all cores were {worst:.0f} % busy",
    "nic": "the network interfaces were {worst:.0f} % full",
    "late": "its load loop came up to {worst:,.0f} ms late",
}
_MEANS = {
    "agent": "this is what the clients can do, not the storage",
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
