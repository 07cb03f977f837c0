"""Stages that end when they are steady: how long they lasted on all agents, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..model import Outcome, Plan
from .journal import AgentJournal, AgentStage, Region

Json = dict[str, Any]


def duration_ns(plan: Plan, agents: Mapping[str, AgentJournal], index: int) -> int | None:
    """How long a stage was to last on every agent: its duration, or what all had until it was ended because it was steady. None where
    the plan has no duration, or the stage can end by its operations on each agent."""
    spec = plan.stages[index]
    if spec.duration_s is None or spec.tasks is not None:
        return None
    planned_ns = int(spec.duration_s * 1e9)
    parts = [agent.stages[index] for agent in agents.values() if index in agent.stages]
    told: list[int] = [part.ending["duration_ns"] for part in parts if part.ending is not None]
    if not told:
        return planned_ns
    lasted = [ns for part in parts if (ns := _lasted_ns(part)) is not None]
    return min([planned_ns, *(lasted or told)])


def _lasted_ns(part: AgentStage) -> int | None:
    """From the start of a stage to the end that its agent had for it; None when it did not get there."""
    if part.end is None or part.end["outcome"] != Outcome.FINISHED.value or "error" in part.end:
        return None
    lasted: int = part.end["end_clock_ns"] - part.end["start_clock_ns"]
    return lasted


def leave_out_what_is_late(plan: Plan, agents: Mapping[str, AgentJournal]) -> None:
    """An agent that learnt too late that a stage was to end has measured beyond the end of the others. What it did then is counted as what
    drains: in totals and latencies, but in no rate. Its summaries tell how much of each operation that was; over the buckets it is divided
    as all of the stage is."""
    for index, spec in enumerate(plan.stages):
        lasts_ns = duration_ns(plan, agents, index) if spec.steady is not None else None
        for agent in agents.values():
            part = agent.stages.get(index)
            if lasts_ns is not None and part is not None and (_lasted_ns(part) or 0) > lasts_ns:
                _leave_out(part, lasts_ns)


def _leave_out(part: AgentStage, lasts_ns: int) -> None:
    assert part.end is not None
    end_ns = part.end["start_clock_ns"] + lasts_ns
    beyond: dict[str, list[float]] = {}
    each = part.seconds.each
    late = each["from_clock_ns"] + np.maximum(1, each["to_clock_ns"] - each["from_clock_ns"]) > end_ns
    for record in [*part.seconds.records(np.flatnonzero(late).tolist()), *part.unseconded]:
        # What a lost record tells was done before the loss, and not all through it.
        done_ns = 1 if record["kind"] == "lost" else max(1, record["to_clock_ns"] - record["from_clock_ns"])
        share = min(1.0, (record["from_clock_ns"] + done_ns - end_ns) / done_ns)
        if share > 0 and not record["warmup"]:
            for op, figures in record["ops"].items():
                mine = beyond.setdefault(op, [0.0, 0.0])
                mine[0] += share * figures[0]
                mine[1] += share * figures[1]
    for op, (ops, size) in beyond.items():
        regions = [region for (kind, _), region in part.data.regions.items() if kind == op]
        for column, amount in ((0, round(ops)), (1, round(size))):
            _divide(regions, column, amount)


def _divide(regions: list[Region], column: int, amount: int) -> None:
    """Gives the tails of the buckets so much in all, at most what each has, in proportion to that."""
    sizes = [(region.histogram.count, region.bytes)[column] for region in regions]
    left, rest = amount, sum(sizes)
    for region, size in zip(regions, sizes, strict=True):
        mine = min(size, round(left * size / rest)) if rest else 0
        left, rest = left - mine, rest - size
        # What drained at its own end is among it.
        if column:
            region.tail_bytes = max(region.tail_bytes, mine)
        else:
            region.tail_ops = max(region.tail_ops, mine)


def steadiness(plan: Plan, agents: Mapping[str, AgentJournal], events: list[Json], index: int) -> Json | None:
    """{reached, duration_s, figures: those of controller.steady.Figures or null} of a stage that was to end when it is steady; None for
    other stages."""
    spec = plan.stages[index]
    if spec.steady is None:
        return None
    told = [agent.stages[index].ending for agent in agents.values() if index in agent.stages]
    reached = [record for record in told if record is not None]
    decided = [event for event in events if event["event"] == "steady" and event["stage"] == index]
    missed = [event for event in events if event["event"] == "not_steady" and event["stage"] == index]
    source = next(iter([*reached, *decided, *missed]), None)
    lasts_ns = duration_ns(plan, agents, index) or 0
    return {
        "reached": bool(reached or decided),
        "ended": any(record["event"] == "stage_ended" and record["stage"] == index for record in events),
        "duration_s": lasts_ns / 1e9,
        "figures": source["figures"] if source is not None else None,
    }


def steady_lines(stages: list[Json]) -> list[str]:
    """One line for each stage that was to end when it is steady, and has ended."""
    lines = []
    for stage in stages:
        steady = stage["steady"]
        if steady is None:
            continue
        if steady["reached"]:
            lines.append(steady_text(stage["name"], steady["figures"]))
        elif steady["ended"]:
            last = f" (the last window: {_figures_text(steady['figures'])})" if steady["figures"] else ""
            lines.append(f"{stage['name']}: not steady within its duration{last}")
    return lines


def steady_text(name: str, figures: Json) -> str:
    """read: steady after 184 s (slope 0.4 %, spread 1.9 % over 60 s)."""
    return f"{name}: steady after {figures['after_s']} s ({_figures_text(figures)})"


def _figures_text(figures: Json) -> str:
    slope, spread = 100 * figures["slope"], 100 * figures["spread"]
    return f"slope {slope:.1f} %, spread {spread:.1f} % over {figures['window_s']} s"
