"""How the links did over the run: losses, round trips and clocks, and what happened when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..histogram import Histogram
from .windows import us

Json = dict[str, Any]
QUIET = frozenset(
    ("network", "clock", "submit", "submitted", "agent_state", "armed_round", "claimed", "claim_waits", "commit", "collected", "op_log")
)
"""Events that a reader does not look for."""
HEAD = ("at", "event", "agent", "level")
LONGEST = 600
"""Letters of what an event says."""
MOST_EVENTS = 1000
MOST_POINTS = 600
"""Per agent: of longer runs every second, third, ... measurement is told, and round trips of neighbours are merged."""


def link(agent_id: str, content: Json, events: Sequence[Json], start: float) -> Json:
    """One agent's part of `network` of the document."""
    told = content["network"][agent_id]
    mine = [event for event in events if event.get("agent") == agent_id]
    rtt = told["rtt_us"]
    return {
        "connects": told["connects"],
        "unreachable_s": round(told["unreachable_s"], 3),
        "losses": [_loss(loss, start) for loss in told["losses"]],
        "rtt_us": {name: value for name, value in rtt.items() if name not in ("cells", "sum_ns")} if rtt else None,
        "clock": told["clock"],
        **{name: told[name] for name in ("received_bytes", "records", "refetched_bytes", "refetched_records")},
        "rtt": _rtts([event for event in mine if event["event"] == "network" and event.get("rtt")], start),
        "offset": _offsets([event for event in mine if event["event"] == "clock"], start),
    }


def _loss(loss: Json, start: float) -> Json:
    kept = ("cause", "down_s", "unreachable_s", "attempts", "resumed_offset", "resume_s")
    return {"at_s": round(loss["at"] - start, 3), **{name: loss[name] for name in kept}, "rounds": len(loss["rounds"])}


def _rtts(reports: list[Json], start: float) -> Json:
    columns: Json = {"at_s": [], "n": [], "p50_us": [], "p99_us": [], "max_us": []}
    every = -(-len(reports) // MOST_POINTS) or 1
    for first in range(0, len(reports), every):
        merged = Histogram()
        for report in reports[first : first + every]:
            rtt = report["rtt"]
            merged.merge(Histogram.from_pairs(rtt["cells"], sum_ns=rtt["sum_ns"], max_ns=rtt["max_ns"]))
        p50, p99 = merged.percentiles([50.0, 99.0])
        at_s = round(reports[min(first + every, len(reports)) - 1]["at"] - start, 1)
        for name, value in zip(columns, (at_s, merged.count, us(p50), us(p99), us(merged.max_ns)), strict=True):
            columns[name].append(value)
    return columns


def _offsets(measured: list[Json], start: float) -> Json:
    """Relative to the first of the same boot: what a clock has drifted against the controller's."""
    columns: Json = {"at_s": [], "change_us": [], "error_us": []}
    first: Json | None = None
    for event in measured[:: -(-len(measured) // MOST_POINTS) or 1]:
        if first is None or first.get("boot") != event.get("boot"):
            first = event
        values = (round(event["at"] - start, 1), (event["offset_ns"] - first["offset_ns"]) / 1000, event.get("error_ns", 0) / 1000)
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return columns


def _details(event: Json) -> str:
    """What an event says besides its time, kind and agent."""
    kept = {name: value for name, value in event.items() if name not in HEAD and value not in (None, "")}
    texts = {name: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in kept.items()}
    told = "; ".join(f"{name} {text}" for name, text in texts.items())
    return told if len(told) <= LONGEST else told[:LONGEST] + " ..."


def happened(events: Sequence[Json], start: float, places: dict[str, int]) -> Json:
    """`events` of the document: {rows [{at_s, event, agent, details}], left_out}, in order."""
    wanted = [event for event in events if event["event"] not in QUIET and "at" in event]
    rows = [
        {
            "at_s": round(event["at"] - start, 3),
            "event": event["event"],
            "agent": places.get(event.get("agent", "")),
            "details": _details(event),
        }
        for event in wanted[:MOST_EVENTS]
    ]
    return {"rows": rows, "left_out": len(wanted) - len(rows)}
