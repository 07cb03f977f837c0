"""What is shaded in plots over time: when an agent was out of reach and went on, when it did not measure, when it was lost."""

from __future__ import annotations

import statistics
from typing import Any

from ..model import Outcome
from ..results.merge import Inputs

Json = dict[str, Any]
CLOSE_S = 0.5
"""An interval that ends so near to the end of a stage reaches it."""


def started_at(inputs: Inputs, start_delay_s: float) -> dict[int, float]:
    """By stage: its start in wall seconds of the controller, as events are told. Stages that were not released are left out.

    A round begins `start_delay_s` after it was armed, on the controller's own clock; where the log does not tell rounds, the hosts' wall
    clocks are believed.
    """
    starts: dict[int, float] = {}
    difference: float | None = None
    for event in inputs.events:
        if event["event"] == "armed_round" and event["round"] == 1 and event.get("start_controller_ns"):
            difference = event["at"] + start_delay_s - event["start_controller_ns"] / 1e9
        elif event["event"] == "commit" and event.get("start_controller_ns") and difference is not None:
            starts[event["stage"]] = event["start_controller_ns"] / 1e9 + difference
    for index in range(len(inputs.plan.stages)):
        told = [agent.stages[index].start for agent in inputs.agents.values() if index in agent.stages]
        walls = [(one["wall_ns"] - one["actual_clock_ns"] + one["start_clock_ns"]) / 1e9 for one in told if one is not None]
        if walls:
            starts.setdefault(index, statistics.median(walls))
    return starts


def gone(inputs: Inputs) -> dict[str, Json]:
    """The agents that the run went on or ended without: {at (wall s, None where it is not known), text}."""
    found: dict[str, Json] = {}
    for event in inputs.events:
        if event["event"] in ("agent_lost", "agent_failed"):
            found.setdefault(event["agent"], {"at": event.get("at"), "text": event["error"]})
    for agent_id, agent in inputs.agents.items():
        if agent.final is not None and agent.final["outcome"] == Outcome.FAILED.value:
            found.setdefault(agent_id, {"at": None, "text": agent.final["reason"]})
    return found


def shades(content: Json, index: int, start: float | None, length_s: float, out: dict[str, Json], places: dict[str, int]) -> list[Json]:
    """`shades` of a stage of the document; `out` as of `gone`, `places` the agents' positions."""
    stage = content["stages"][index]
    planned_s = stage["seconds"] + stage["warmup_s"]
    found: list[Json] = []
    if stage["warmup_s"] and length_s:
        found.append({"kind": "warmup", "agent": None, "from_s": 0.0, "to_s": stage["warmup_s"], "cause": "warm-up: not in the figures"})
    if start is not None:
        for cut in content["controller"]["cut_offs"]:
            to_s = cut["at"] + cut["seconds"] - start if cut["seconds"] is not None else length_s
            found += _clipped("cut_off", None, cut["at"] - start, to_s, length_s, "the controller itself was off the network")
    for agent, place in places.items():
        told = content["lost_intervals_s"].get(agent, [])
        lost = [(span["from_s"], span["to_s"], span.get("cause", "")) for span in told if span["stage"] == index]
        if agent in out and lost and (lost[-1][1] >= planned_s - CLOSE_S or lost[-1][2] == "never began"):
            # What others drain after the planned end is not planned, and it is not there for that either.
            lost[-1] = (lost[-1][0], max(lost[-1][1], length_s), lost[-1][2] or out[agent]["text"])
            found += _clipped("agent_lost", place, *lost[-1][:2], length_s, lost[-1][2])
            told_lost = lost[:-1]
        else:
            told_lost = lost
        for from_s, to_s, cause in told_lost:
            found += _clipped("not_measured", place, from_s, to_s, length_s, cause)
        if start is None:
            continue
        for loss in content["network"][agent]["losses"]:
            pieces = [(loss["at"] - start, loss["at"] + loss["unreachable_s"] - start)]
            for a, b, _ in lost:
                pieces = [part for lo, hi in pieces for part in ((lo, min(hi, a)), (max(lo, b), hi)) if part[1] > part[0]]
            for lo, hi in pieces:
                found += _clipped("link_lost", place, lo, hi, length_s, loss["cause"])
    return found


def _clipped(kind: str, agent: int | None, from_s: float, to_s: float, length_s: float, cause: str) -> list[Json]:
    lo, hi = max(0.0, from_s), min(to_s, length_s)
    return [{"kind": kind, "agent": agent, "from_s": round(lo, 2), "to_s": round(hi, 2), "cause": cause}] if hi > lo else []


def marks(out: dict[str, Json], events: list[Json], index: int, start: float | None, length_s: float, places: dict[str, int]) -> list[Json]:
    """`marks` of a stage of the document: moments that are marked in plots over time."""
    if start is None:
        return []
    found: list[tuple[str, str | None, float, str]]
    found = [("given_up", agent, lost["at"], lost["text"]) for agent, lost in out.items() if lost["at"] is not None]
    found += [("steady", None, event["at"], "steady") for event in events if event["event"] == "steady" and event["stage"] == index]
    found += [("stopped", None, event["at"], event["reason"]) for event in events if event["event"] in ("stop_requested", "abort")]
    return [
        {"kind": kind, "agent": places[agent] if agent is not None else None, "at_s": round(at - start, 2), "text": text}
        for kind, agent, at, text in found
        if 0 <= at - start <= length_s
    ]
