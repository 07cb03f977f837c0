"""How the links of a run did, from the controller's event log. Pure. Every kind of event is optional: older logs have fewer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..histogram import Histogram

Json = dict[str, Any]
RANKS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
COUNTERS = ("received_bytes", "records", "refetched_bytes", "refetched_records")


def network(agent_id: str, events: Sequence[Json]) -> Json:
    """One agent's link over the whole log, for results.json.

    connects        number of connections, the first one included
    losses          [{at (wall s), cause, down_s, unreachable_s, attempts, resumed_offset, rounds [{round, at, delay_s}], resume_s}], in
                    order. down_s, attempts and resumed_offset are of the reconnection, None when there was none; unreachable_s is down_s,
                    or until the agent's next link event or the end of the log when there was none. delay_s is what the policy waited
                    before the round; resume_s the time from the beginning of the attempt that succeeded to the first missing byte of
                    the journal, None when not known
    unreachable_s   sum of the losses' unreachable_s
    rtt_us          {count, mean, p50, p90, p99, p99.9, max, cells (Histogram.to_pairs, ns), sum_ns} of all heartbeat round trips, None
                    when none was logged
    clock           {measurements, offset_ns {first, last}, drift_ppm, drift_error_ppm, max_error_ns}, None without a measurement. Offset
                    is host minus controller; drift is the slope of the straight line fitted to it by least squares, true to within
                    drift_error_ppm when each measurement is within its error; None with fewer than two measurements or another boot
    received_bytes, records, refetched_bytes, refetched_records
                    sums over the run, None when never logged; refetched is what was journalled while the link was down
    """
    return networks([agent_id], events)[agent_id]


def networks(agent_ids: Sequence[str], events: Sequence[Json]) -> dict[str, Json]:
    """`network` of several agents, in one pass over the log."""
    mine: dict[str, list[Json]] = {agent_id: [] for agent_id in agent_ids}
    for event in events:
        if event.get("agent") in mine:
            mine[event["agent"]].append(event)
    end = max((event["at"] for event in events), default=0.0)
    return {agent_id: _network(found, end) for agent_id, found in mine.items()}


def _network(mine: Sequence[Json], end: float) -> Json:
    losses = _losses(mine, end)
    reports = [event for event in mine if event["event"] == "network"]
    rtt = Histogram()
    for report in reports:
        if report.get("rtt"):
            rtt.merge(Histogram.from_pairs(report["rtt"]["cells"], sum_ns=report["rtt"]["sum_ns"], max_ns=report["rtt"]["max_ns"]))
    return {
        "connects": sum(event["event"] == "link_up" for event in mine),
        "losses": losses,
        "unreachable_s": sum((loss["unreachable_s"] for loss in losses), 0.0),
        "rtt_us": rtt_us(rtt),
        "clock": _clock(mine),
        **{name: _sum(report.get(name) for report in reports) for name in COUNTERS},
    }


def controller(events: Sequence[Json]) -> Json:
    """The controller's own share: {cut_offs [{at (wall s), seconds}]}; seconds is None for one whose end is not in the log."""
    cut_offs: list[Json] = []
    for event in events:
        if event["event"] == "cut_off":
            cut_offs.append({"at": event["at"], "seconds": None})
        elif event["event"] == "cut_off_over":
            if cut_offs and cut_offs[-1]["seconds"] is None:
                cut_offs[-1]["seconds"] = event["seconds"]
            else:
                cut_offs.append({"at": event["at"] - event["seconds"], "seconds": event["seconds"]})
    return {"cut_offs": cut_offs}


def rtt_us(histogram: Histogram) -> Json | None:
    """Round trips as figures in us, with the cells they are read from; None when there are none."""
    if not histogram.count:
        return None
    values = histogram.percentiles(list(RANKS.values()))
    return {
        "count": histogram.count,
        "mean": histogram.mean_ns / 1000,
        **{name: value / 1000 for name, value in zip(RANKS, values, strict=True)},
        "max": histogram.max_ns / 1000,
        "cells": histogram.to_pairs(),
        "sum_ns": histogram.sum_ns,
    }


@dataclass(frozen=True)
class Links:
    """All links of a run in a line."""

    rtts: int
    """Heartbeat round trips measured; without any the other two are 0."""
    rtt_p99_us: float
    rtt_max_us: float
    cut_offs: tuple[float | None, ...]
    """Seconds for which the controller itself was off the network, each time; None: to the end."""


def links(content: Mapping[str, Any]) -> Links:
    """The links of a results.json, with the round trips of all agents merged; one of an older version has none."""
    rtt = Histogram()
    for part in content.get("network", {}).values():
        figures = part.get("rtt_us")
        if figures:
            rtt.merge(Histogram.from_pairs(figures["cells"], sum_ns=figures["sum_ns"], max_ns=round(figures["max"] * 1000)))
    cut_offs = content.get("controller", {}).get("cut_offs", [])
    return Links(rtt.count, rtt.percentile(99.0) / 1000, rtt.max_ns / 1000, tuple(cut["seconds"] for cut in cut_offs))


def _losses(mine: Sequence[Json], end: float) -> list[Json]:
    losses: list[Json] = []
    lost: Json | None = None
    for event in mine:
        kind = event["event"]
        if kind in ("link_up", "link_down") and lost is not None:
            lost["unreachable_s"] = max(0.0, event["at"] - lost["at"])
            if kind == "link_up":
                down_s = event["down_s"]
                lost.update(down_s=down_s, unreachable_s=down_s, attempts=event["attempt"], resumed_offset=event["resumed_offset"])
            lost = None
        if kind == "link_down" and event.get("level") != "info":
            lost = {
                "at": event["at"],
                "cause": event["cause"],
                "down_s": None,
                "unreachable_s": max(0.0, end - event["at"]),
                "attempts": None,
                "resumed_offset": None,
                "rounds": [],
                "resume_s": None,
            }
            losses.append(lost)
        elif kind == "policy_round" and lost is not None:
            lost["rounds"].append({"round": event["round"], "at": event["at"], "delay_s": event.get("delay_s")})
        elif kind == "network":
            _note_resumes(losses, event.get("resume_s") or [])
    return losses


def _note_resumes(losses: Sequence[Json], resumes: Sequence[float]) -> None:
    """Gives each time to its reconnection: the last one to the latest that has none. One may have broken again before its first byte."""
    waiting = [loss for loss in losses if loss["down_s"] is not None and loss["resume_s"] is None]
    for loss, resume_s in zip(reversed(waiting), reversed(resumes), strict=False):
        loss["resume_s"] = resume_s


def _clock(mine: Sequence[Json]) -> Json | None:
    measured: list[Json] = []
    for event in mine:
        if event["event"] == "claimed":
            # Another controller is in charge: what went before is relative to another clock.
            measured.clear()
        elif event["event"] == "clock":
            measured.append(event)
    if not measured:
        return None
    drift = _drift(measured)
    return {
        "measurements": len(measured),
        "offset_ns": {"first": measured[0]["offset_ns"], "last": measured[-1]["offset_ns"]},
        "drift_ppm": drift[0] if drift else None,
        "drift_error_ppm": drift[1] if drift else None,
        "max_error_ns": max(event.get("error_ns", 0) for event in measured),
    }


def _drift(measured: Sequence[Json]) -> tuple[float, float] | None:
    """Slope of the offset over time and how far it can be off, both in ppm."""
    if len(measured) < 2 or len({event.get("boot") for event in measured}) > 1:
        return None
    # Differences first: offsets since boot and wall times have more digits than a float.
    times = [event["at"] - measured[0]["at"] for event in measured]
    offsets = [event["offset_ns"] - measured[0]["offset_ns"] for event in measured]
    mean_time, mean_offset = sum(times) / len(times), sum(offsets) / len(offsets)
    spread = sum((time - mean_time) ** 2 for time in times)
    if spread == 0:
        return None
    slope = sum((time - mean_time) * (offset - mean_offset) for time, offset in zip(times, offsets, strict=True)) / spread
    error = sum(abs(time - mean_time) * event.get("error_ns", 0) for time, event in zip(times, measured, strict=True)) / spread
    return slope / 1000, error / 1000


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
