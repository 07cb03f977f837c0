"""All agents' journals and the controller's events become results.json's content. Histograms are merged; percentiles are read from the
merged ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..model import Outcome, Plan, Stage, StageKind, from_json
from .endpoints import endpoint_figures
from .journal import AgentJournal, AgentStage, OnHistogram, Region, StageData, parse_json, read_agent
from .limits import limits
from .mirrors import read_agents
from .network import controller, networks
from .oplog import op_logs
from .splits import split_figures
from .steady import duration_ns, leave_out_what_is_late, steadiness, steady_lines
from .verdict import AgentFacts, coverage_of, judge

Json = dict[str, Any]
SCHEMA = 1
RANKS = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "p99.99": 99.99}
LATE_NS = 1_000_000_000
"""Coverage is counted in journal seconds: a start that is late by one or more is time that was not measured. What is late by less shows
as late_ms."""
LISTED = 1000
"""So many unreadable objects of an agent and stage are named."""
FULL_STRENGTH_LATE_NS = 100_000_000
"""An agent that started later than this was not there in the stage's first second."""


@dataclass
class Inputs:
    """A run directory, read."""

    path: Path
    plan: Plan
    hosts: list[Json]
    agents: dict[str, AgentJournal]
    events: list[Json]
    preflight: Json | None = None
    """What preflight found before the run; None where it is not known."""
    calibration: Json = field(default_factory=dict)
    """What hosts can do at most, by agent, of those that were calibrated before the run."""
    known: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False, compare=False)
    """What of a stage was found by looking at all agents, so that it is not looked for again for each of them."""


def read_inputs(path: Path, on_histogram: OnHistogram | None = None) -> Inputs:
    """Reads plan, hosts, events and mirrors of a run directory; `on_histogram` as in read_agent."""
    inputs = inputs_at_first(path)
    if on_histogram is None:
        inputs.agents.update(read_agents(path, list(inputs.agents)))
    else:
        for agent_id in inputs.agents:
            inputs.agents[agent_id] = read_agent(agent_id, path / "agents" / agent_id / "journal.ndjson", on_histogram)
    leave_out_what_is_late(inputs.plan, inputs.agents)
    events_path = path / "events.ndjson"
    lines = events_path.read_bytes().splitlines(keepends=True) if events_path.exists() else []
    inputs.events += [parse_json(line) for line in lines if line.endswith(b"\n")]
    return inputs


def inputs_at_first(path: Path) -> Inputs:
    """What a run directory holds before anything has happened in it: no event, and no record of any agent."""
    try:
        plan = from_json(Plan, json.loads((path / "plan.json").read_text(encoding="utf-8")))
        hosts = json.loads((path / "hosts.json").read_text(encoding="utf-8"))["agents"]
        agents = {host["agent_id"]: AgentJournal(host["agent_id"]) for host in hosts}
        preflight = path / "preflight.json"
        looked = json.loads(preflight.read_text(encoding="utf-8")) if preflight.exists() else None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        text = f"run {path} cannot be read: {type(error).__name__}: {error}"
        raise ConfigError(text, remedy="Copy all of its files, or use the version of sai3ssh that wrote it") from error
    return Inputs(path, plan, hosts, agents, [], looked, _calibration(path))


def _calibration(path: Path) -> Json:
    file = path / "calibration.json"
    found: Json = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def merge(inputs: Inputs) -> Json:
    """The content of results.json."""
    plan, agents, events = inputs.plan, inputs.agents, inputs.events
    stages = [_stage(inputs, index) for index in range(len(plan.stages))]
    wrong = _inconsistencies(inputs) + _unreadable_reasons([stage for stage in stages if not stage["optional"]])
    whole = {event["agent"] for event in events if event["event"] == "journal_complete"}
    facts = [_facts(inputs, agent, agent.agent_id in whole) for agent in agents.values()]
    aborted = next((event["reason"] for event in events if event["event"] == "abort"), None)
    stopped = any(event["event"] == "stop_requested" for event in events)
    verdict, reasons = judge(facts, wrong, aborted=aborted, stopped_by_operator=stopped, min_coverage=plan.min_coverage)
    return {
        "schema": SCHEMA,
        "verdict": verdict.value,
        "reasons": [*reasons, *steady_lines(stages), *optional_lines(stages)],
        "run_id": plan.run_id,
        "name": plan.name,
        "revisions": [
            {"at": event["at"], "before": event["before"], "verdict": event["verdict"], "agents": event["agents"]}
            for event in events
            if event["event"] == "verdict_revised"
        ],
        "preflight": {name: inputs.preflight[name] for name in ("skipped", "warnings")} if inputs.preflight is not None else None,
        "agents": {"expected": len(agents), "reported": sum(fact.outcome is Outcome.FINISHED and fact.whole for fact in facts)},
        "coverage": coverage_of(facts),
        "min_coverage": plan.min_coverage,
        "lost_intervals_s": {agent_id: lost for agent_id, agent in agents.items() if (lost := _lost(inputs, agent))},
        "stages": stages,
        "network": networks(list(agents), events),
        "controller": controller(events),
        "op_log": op_logs(agents, events) if plan.op_log_bytes is not None else None,
        "hosts": {agent_id: agent.epoch["host"] if agent.epoch else None for agent_id, agent in agents.items()},
        "notices": {agent_id: agent.notices for agent_id, agent in agents.items() if agent.notices},
    }


def _planned(inputs: Inputs, index: int, stage: AgentStage) -> tuple[int, int] | None:
    """When the stage was to run on this host, in its clock; None when it was never released there."""
    if stage.start is None:
        return None
    start = stage.start["start_clock_ns"]
    if stage.end is not None and "error" in stage.end:
        return start, max(start, stage.end["drained_clock_ns"])  # an optional one
    lasts_ns = _lasts_ns(inputs, index)
    if lasts_ns is not None:
        return start, start + lasts_ns
    if stage.end is not None and stage.end["outcome"] == Outcome.FINISHED.value:
        return start, stage.end["drained_clock_ns" if inputs.plan.stages[index].tasks is None else "end_clock_ns"]
    # It did not get to its end: as long as the slowest of the others that did, or as what is known of it.
    known = stage.measured[-1][1] - start if stage.measured else 0
    return start, start + max(_longest_ns(inputs, index), known)


def _lasts_ns(inputs: Inputs, index: int) -> int | None:
    """How long a stage was to last on every agent, where the plan says so."""
    if ("lasts", index) not in inputs.known:
        inputs.known["lasts", index] = duration_ns(inputs.plan, inputs.agents, index)
    found: int | None = inputs.known["lasts", index]
    return found


def _longest_ns(inputs: Inputs, index: int) -> int:
    """How long the slowest of the agents took that got to the end of a stage."""
    if ("longest", index) not in inputs.known:
        ends = [agent.stages[index].end for agent in inputs.agents.values() if index in agent.stages]
        spans = (end["drained_clock_ns"] - end["start_clock_ns"] for end in ends if end)
        inputs.known["longest", index] = max(spans, default=0)
    found: int = inputs.known["longest", index]
    return found


def _measured(stage: AgentStage, planned: tuple[int, int]) -> list[tuple[int, int]]:
    """The measured intervals within the planned one; a late start, and time without all workers, is not measured."""
    begin, end = planned
    if stage.start is not None and stage.start["late_ns"] > LATE_NS:
        begin = stage.start["actual_clock_ns"]
    pieces = [(max(lo, begin), min(hi, end)) for lo, hi in stage.measured if hi > begin and lo < end]
    for lost in stage.lost:
        a, b = lost["from_clock_ns"], lost["to_clock_ns"]
        pieces = [part for lo, hi in pieces for part in ((lo, min(hi, a)), (max(lo, b), hi)) if part[1] > part[0]]
    return pieces


def _facts(inputs: Inputs, agent: AgentJournal, whole: bool) -> AgentFacts:
    measured_ns = planned_ns = 0
    for index in _measuring(inputs.plan):
        mine = agent.stages.get(index, AgentStage())
        planned = _planned(inputs, index, mine)
        if planned is None:
            planned_ns += _others_ns(inputs, index)
            continue
        planned_ns += planned[1] - planned[0]
        measured_ns += sum(hi - lo for lo, hi in _measured(mine, planned))
    outcome = Outcome(agent.final["outcome"]) if agent.final else None
    return AgentFacts(agent.agent_id, outcome, agent.final["reason"] if agent.final else "", whole, measured_ns / 1e9, planned_ns / 1e9)


def _measuring(plan: Plan) -> list[int]:
    """The stages in which there is something to measure."""
    return [index for index, stage in enumerate(plan.stages) if stage.kind is not StageKind.PAUSE]


def _others_ns(inputs: Inputs, index: int) -> int:
    """What a stage that this agent never began takes: its duration, or as long as the slowest agent."""
    lasts_ns = _lasts_ns(inputs, index)
    if lasts_ns is not None:
        return lasts_ns
    if ("others", index) not in inputs.known:
        spans = [_planned(inputs, index, agent.stages[index]) for agent in inputs.agents.values() if index in agent.stages]
        inputs.known["others", index] = max((span[1] - span[0] for span in spans if span), default=0)
    found: int = inputs.known["others", index]
    return found


def _lost(inputs: Inputs, agent: AgentJournal) -> list[Json]:
    """The planned intervals without measurement, in seconds from the start of their stage."""
    lost: list[Json] = []
    for index in _measuring(inputs.plan):
        stage = agent.stages.get(index, AgentStage())
        planned = _planned(inputs, index, stage)
        if planned is None:
            whole_s = round(_others_ns(inputs, index) / 1e9, 3)
            lost += [{"stage": index, "from_s": 0.0, "to_s": whole_s, "cause": "never began"}] if whole_s else []
            continue
        at = planned[0]
        for lo, hi in [*_measured(stage, planned), (planned[1], planned[1])]:
            if lo > at:
                cause = next((gap["cause"] for gap in stage.lost if gap["from_clock_ns"] < lo and gap["to_clock_ns"] > at), None)
                span = {"from_s": round((at - planned[0]) / 1e9, 3), "to_s": round((lo - planned[0]) / 1e9, 3)}
                lost.append({"stage": index, **span, **({"cause": cause} if cause else {})})
            at = max(at, hi)
    return lost


def _inconsistencies(inputs: Inputs) -> list[str]:
    """Three ways to count the same operations must agree: second summaries, histograms, and the totals at the end of a stage."""
    found = []
    for agent in inputs.agents.values():
        for index, stage in agent.stages.items():
            if stage.end is None:
                continue
            for op in sorted(set(stage.end["totals"]) | set(stage.data.operations())):
                counts = {
                    "totals": stage.end["totals"].get(op, {}).get("ops", 0),
                    "seconds": stage.data.second_ops[op],
                    "histograms": stage.data.total(op).histogram.count + stage.without_histogram.get(op, [0])[0],
                }
                if len(set(counts.values())) > 1:
                    text = ", ".join(f"{name} {n}" for name, n in counts.items())
                    found.append(f"{agent.agent_id}: stage {index}, {op}: counts disagree ({text})")
    return found


def _stage(inputs: Inputs, index: int) -> Json:
    spec = inputs.plan.stages[index]
    parts = {agent_id: agent.stages[index] for agent_id, agent in inputs.agents.items() if index in agent.stages}
    total = StageData()
    for part in parts.values():
        total.add(part.data)
    spans = {agent_id: span for agent_id, part in parts.items() if (span := _planned(inputs, index, part))}
    warmup_s = spec.warmup_s
    seconds = max(((hi - lo) / 1e9 for lo, hi in spans.values()), default=0.0) - warmup_s
    return {
        "index": index,
        "name": spec.name,
        "kind": spec.kind.value,
        "optional": spec.optional,
        "seconds": seconds,
        "warmup_s": warmup_s,
        "steady": steadiness(inputs.plan, inputs.agents, inputs.events, index),
        "trace_operations": spec.replay.records if spec.replay is not None else None,
        "start_spread_ms": _start_spread_ms(inputs, index, parts),
        "operations": operations(total, seconds, inputs.plan.target.endpoints),
        "agents": {
            agent_id: {
                "seconds": (spans[agent_id][1] - spans[agent_id][0]) / 1e9 - warmup_s,
                "late_ms": part.start["late_ns"] / 1e6 if part.start else None,
                "outcome": part.end["outcome"] if part.end else None,
                "redone": part.end.get("redone", 0) if part.end else 0,
                "without_histogram": part.without_histogram,
                "limits": _limits(inputs, agent_id, part, spec),
                "error": part.end.get("error") if part.end else None,
                "command": _command(part),
                "unreadable": _unreadable(part) if spec.kind is StageKind.VERIFY else None,
                "operations": operations(
                    part.data, (spans[agent_id][1] - spans[agent_id][0]) / 1e9 - warmup_s, inputs.plan.target.endpoints
                ),
            }
            for agent_id, part in parts.items()
            if agent_id in spans
        },
        "full_strength": _full_strength(inputs, parts) if spec.duration_s is not None and spec.kind is not StageKind.PAUSE else None,
        "unreadable": sum(part.unreadable.count for part in parts.values()) if spec.kind is StageKind.VERIFY else None,
    }


def _host(inputs: Inputs, agent_id: str) -> Json | None:
    """How the agent's host described itself."""
    epoch = inputs.agents[agent_id].epoch
    host: Json | None = epoch["host"] if epoch else None
    return host


def _limits(inputs: Inputs, agent_id: str, part: AgentStage, spec: Stage) -> list[Json]:
    """What limited an agent in a stage, where it did something that is measured."""
    if spec.kind in (StageKind.PAUSE, StageKind.CUSTOM):
        return []
    return limits(part, _host(inputs, agent_id), inputs.plan.target.engine, inputs.calibration.get(agent_id))


def _command(part: AgentStage) -> Json | None:
    """What became of a command, as the agent tells it."""
    names = ("exit_code", "timed_out", "seconds", "output", "output_bytes")
    return None if part.command is None else {name: part.command[name] for name in names}


def optional_lines(stages: list[Json]) -> list[str]:
    """One line for each optional stage that failed on some agents, or could not read back all."""
    lines = []
    for stage in stages:
        failed = {agent_id: part["error"]["message"] for agent_id, part in stage["agents"].items() if part.get("error")}
        if failed:
            first, why = next(iter(failed.items()))
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            lines.append(f"optional stage {stage['name']} failed on {first}{more}: {why}")
    return lines + _unreadable_reasons([stage for stage in stages if stage.get("optional")])


def _unreadable(part: AgentStage) -> Json:
    """What could not be read back: exact counts, and the first by name."""
    found = part.unreadable
    return {"count": found.count, "errors": dict(sorted(found.errors.items())), "objects": found.objects[:LISTED]}


def _unreadable_reasons(stages: list[Json]) -> list[str]:
    """One line for each verify stage that could not read back what had been written."""
    lines = []
    for stage in stages:
        count = stage.get("unreadable")
        if count:
            parts = [part["unreadable"] for part in stage["agents"].values()]
            errors = sum((Counter(part["errors"]) for part in parts), Counter[str]())
            first = next((f", such as {found['object']}" for part in parts for found in part["objects"]), "")
            classes = ", ".join(f"{n:,} {name}" for name, n in sorted(errors.items()))
            lines.append(f"{stage['name']}: {count:,} objects cannot be read back as written ({classes}){first}; see results.json")
    return lines


def operations(data: StageData, seconds: float, endpoints: Sequence[str] = ()) -> Json:
    """Figures by operation: counts, rates over the stage, latencies in us, all again by size bucket; parts of latencies, and endpoints."""
    result = {}
    for op in data.operations():
        buckets = {str(bucket): _figures(region, seconds) for (kind, bucket), region in sorted(data.regions.items()) if kind == op}
        result[op] = {
            **_figures(data.total(op), seconds),
            "requests": data.requests[op],
            "retries": data.retries[op],
            "retried": {name: n for (kind, name), n in sorted(data.retried.items()) if kind == op},
            "errors": {name: n for (kind, name), n in sorted(data.errors.items()) if kind == op},
            "buckets": buckets,
            "splits": split_figures(data.splits.get(op), RANKS),
            "endpoints": endpoint_figures(data, op, endpoints, RANKS),
        }
    return result


def _figures(region: Region, seconds: float) -> Json:
    histogram = region.histogram
    in_time = histogram.count - region.tail_ops
    values = histogram.percentiles(list(RANKS.values()))
    return {
        "ops": histogram.count,
        "bytes": region.bytes,
        "tail_ops": region.tail_ops,
        "tail_bytes": region.tail_bytes,
        "ops_per_s": in_time / seconds if seconds > 0 else 0.0,
        "mib_per_s": (region.bytes - region.tail_bytes) / seconds / (1 << 20) if seconds > 0 else 0.0,
        "latency_us": {
            "mean": histogram.mean_ns / 1000,
            **{name: value / 1000 for name, value in zip(RANKS, values, strict=True)},
            "max": histogram.max_ns / 1000,
        },
        "cells": histogram.to_pairs(),
        "sum_ns": histogram.sum_ns,
    }


def _start_spread_ms(inputs: Inputs, index: int, parts: dict[str, AgentStage]) -> float | None:
    """Latest minus earliest actual start over the agents, in the controller's clock by the offsets measured before the stage; None with
    fewer than two."""
    offsets: dict[str, int] = {}
    for event in inputs.events:
        if event["event"] == "clock":
            offsets[event["agent"]] = event["offset_ns"]
        elif event["event"] == "commit" and event["stage"] == index:
            break
    starts = [part.start["actual_clock_ns"] - offsets[agent_id] for agent_id, part in parts.items() if part.start and agent_id in offsets]
    return (max(starts) - min(starts)) / 1e6 if len(starts) > 1 else None


def _full_strength(inputs: Inputs, parts: dict[str, AgentStage]) -> Json:
    """Rates over only those whole seconds in which every expected agent was measuring."""
    if len(parts) < len(inputs.agents):
        return {"seconds": 0, "ops_per_s": {}}
    strong = {agent_id: _strong_rows(part) for agent_id, part in parts.items()}
    common: set[int] = set.intersection(*(set(rows) for rows in strong.values())) if strong else set()
    ops: Counter[str] = Counter()
    span_ns = 0
    for agent_id, rows in strong.items():
        seconds = parts[agent_id].seconds
        chosen = np.zeros(len(seconds), np.bool_)
        chosen[[row for second, row in rows.items() if second in common]] = True
        span_ns += int((seconds.each["to_clock_ns"] - seconds.each["from_clock_ns"])[chosen].sum())
        for op, found in seconds.by_operation(chosen).items():
            ops[op] += int(seconds.ops["count"][found].sum())
    mean_s = span_ns / 1e9 / max(1, len(strong))
    return {"seconds": len(common), "ops_per_s": {op: n / mean_s for op, n in sorted(ops.items())}}


def _strong_rows(part: AgentStage) -> dict[int, int]:
    """The whole seconds in which an agent was measuring, each with its row."""
    each = part.seconds.each
    begin, end = each["from_clock_ns"], each["to_clock_ns"]
    chosen = ~each["warmup"] & (end - begin > 900_000_000) & (end > _strong_from_ns(part))
    for lost in part.lost:
        chosen &= ~((lost["from_clock_ns"] < end) & (lost["to_clock_ns"] > begin))
    return dict(zip(each["second"][chosen].tolist(), np.flatnonzero(chosen).tolist(), strict=True))


def _strong_from_ns(part: AgentStage) -> int:
    """Seconds that end later than this count as full strength."""
    late = part.start is not None and part.start["late_ns"] > FULL_STRENGTH_LATE_NS
    # The second in which a late agent began ends after its start and is left out: its successor ends at least one second later.
    return part.start["actual_clock_ns"] + 1_000_000_000 if late and part.start else 0
