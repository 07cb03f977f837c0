"""Whether the clients, and not the storage, were what limited a stage."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from .columns import Array, Seconds
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
    each = stage.seconds.each
    chosen = ~each["warmup"] & (each["mem_used_bytes"] >= 0)
    load = {name: column[chosen] for name, column in each.items()}
    count = int(chosen.sum())
    speed = (host or {}).get("nic_bytes_per_s")
    all_cores = load["cpu_user_pct"] + load["cpu_system_pct"] + load["cpu_steal_pct"]
    # fmax: the busiest worker is not always known.
    used = np.fmax(load["worker_cpu_pct"], all_cores) if engine != "file" else np.maximum(0.0, all_cores)
    busy = used[used >= BUSY_PCT]
    span_s = np.maximum(1e-6, (load["to_clock_ns"] - load["from_clock_ns"]) / 1e9)
    carried = np.maximum(load["net_received_bytes"], load["net_sent_bytes"]) / span_s
    nic = 100 * carried[carried >= NIC_SHARE * speed] / speed if speed else carried[:0]
    late = load["late_ms"][load["late_ms"] >= LATE_MS]
    share = calibrated_shares(stage.seconds, calibration)[chosen]
    able = 100 * share[share >= CALIBRATED_SHARE]
    least = max(SHORTEST, MOST * count)
    able = able if len(busy) < least else able[:0]
    found = [("cpu", busy, least), ("agent", able, least), ("nic", nic, least), ("late", late, 1)]
    return [
        {"limit": name, "seconds": len(worst), "of": count, "worst": round(float(worst.max()), 1)}
        for name, worst, needed in found
        if len(worst) >= needed
    ]


def calibrated_shares(seconds: Seconds, calibration: Json | None) -> Array:
    """What an agent did in each second, of what it can do at most by its calibration; NaN where either is not known.

    What it can do is so much CPU time as its workers' cores have; what an operation takes of it was measured for small and large objects,
    and is a straight line in between. An operation without data takes as much as a GET of the smallest.
    """
    each, ops = seconds.each, seconds.ops
    if calibration is None:
        return np.full(len(seconds), np.nan)
    used_us = np.zeros(len(seconds))
    for op, rows in seconds.by_operation(np.ones(len(seconds), np.bool_)).items():
        points = calibration["figures"].get(op) or calibration["figures"]["get"]
        count = ops["count"][rows]
        np.add.at(used_us, ops["row"][rows], count * costs_us(points, ops["bytes"][rows] / np.maximum(1, count)))
    able_us = each["workers"] * ((each["to_clock_ns"] - each["from_clock_ns"]) / 1000)
    shares: Array = np.divide(used_us, able_us, out=np.full(len(seconds), np.nan), where=able_us > 0)
    return shares


def cost_us(points: list[Json], size: float) -> float:
    """CPU microseconds of an operation of so many bytes."""
    return float(costs_us(points, np.array([size], np.float64))[0])


def costs_us(points: list[Json], sizes: Array) -> Array:
    """CPU microseconds of operations of so many bytes each."""
    low, high = points[0], points[-1]
    if low["size"] == high["size"]:
        return np.full(len(sizes), float(low["cpu_us"]))
    slope = (high["cpu_us"] - low["cpu_us"]) / (high["size"] - low["size"])
    costs: Array = low["cpu_us"] + max(0.0, slope) * np.maximum(0.0, sizes - low["size"])
    return costs


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
