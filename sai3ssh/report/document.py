"""A run as one JSON document: what its report shows, and what the live page polls.

Latencies are in us, times of a stage in seconds from its start (`*_s`, `at`), other times in seconds from the start of the run; wall
times are Unix seconds of the controller. `agent` and `agents` are positions in the document's list of agents, `endpoint` in that of
endpoints. Columns of a table are lists of equal length; null is: not known. Percentiles of several agents or seconds are read from
merged histograms; where only summaries of seconds are there, they are told per agent and never averaged.

    format, version         "sai3ssh.document", 1: readers refuse another version
    written_at, by          wall time, version of sai3ssh
    state                   running or ended. While it runs, verdict is null, and what is not here yet is not told as lost
    run                     {run_id, name, started_at, ended_at (wall, null), seconds, target, policy}
    verdict                 null or {verdict, reasons [text], revisions [...], as in results.json}
    coverage, min_coverage, expected, reported
    notes                   [{kind, stage (index) or null, text}], lines for people; kinds: limit (what limited the clients), full_strength,
                            lost, endpoint (the slowest), splits, replay, op_log, preflight
    agents                  [{id, host, address, cores, memory_bytes, kernel, python, version, nic_bytes_per_s, outcome, reason, whole,
                            lost: null or {at_s, text}, notices [text]}]
    endpoints               [text]; empty where there is one
    stages                  [stage], in order; those that have not begun too
    network                 [per agent {connects, unreachable_s, losses [{at_s, cause, down_s, unreachable_s, attempts, rounds,
                            resumed_offset, resume_s}], rtt_us {count, mean, p50, p90, p99, p99.9, max} or null, clock as in results.json,
                            received_bytes, records, refetched_bytes, refetched_records,
                            rtt {at_s, n, p50_us, p99_us, max_us: columns}, offset {at_s, change_us, error_us: columns}}]
    controller              {cut_offs [{at_s, seconds}]}
    events                  {rows [{at_s, event, agent or null, details}], left_out}
    plan                    plan.json

A stage:

    index, name, kind, warmup_s, planned_s (null where it has no duration), started_s (from the start of the run, null: not released),
    length_s (of plots; 0: not begun), seconds (that rates are over), start_spread_ms, steady, full_strength and unreadable as in
                            results.json, slowest null or {agent, ops_per_s, median_ops_per_s}
    operations              {op: figures}; figures: {ops, bytes, ops_per_s, mib_per_s, mean_us, p50_us, p90_us, p95_us, p99_us, p99.9_us,
                            p99.99_us, max_us, requests, retries, errors {class: n}, retried {class: n}}
    agents                  [null or {seconds, late_ms, outcome, limits (as in results.json), operations {op: figures}}]
    endpoints               [{op: {ops, bytes, errors, retries, mean_us, p50_us, ... max_us}}]
    sizes                   {op: [{bucket, ops, bytes, ops_per_s, p50_us, p99_us, max_us}]}
    splits                  {op: {known, queue, connect, tls, first_byte, transfer: {count, mean, p50, p99}}}, where known
    percentiles             {op: {rank: [...], us: [...]}}: the curve, rank in percent
    series                  {step_s, agents [null or {at, span_s (measured; a rate is n / span_s),
                            operations {op: {n, bytes, mean_us, p50_us, p99_us, max_us: columns}},
                            errors and retried {class: {row [positions in at], n}}, host {cpu_pct (of all cores), iowait_pct, worker_cpu_pct
                            (of a core), received_bytes, sent_bytes, late_ms: columns}}]}
    windows                 all agents merged: {step_s, at, span_s, operations {op: {n, mean_us, p50_us, p90_us, p99_us, p99.9_us}},
                            heat {op: {edges_us, window [positions in at], bin [positions in edges_us], n}},
                            endpoints [{op: {n, bytes, errors, retries, p50_us, p99_us}}]}
    shades                  [{kind, agent or null, from_s, to_s, cause}]: warmup; link_lost (the agent went on measuring); not_measured;
                            agent_lost (to the end of the stage); cut_off (the controller reached nobody)
    marks                   [{kind, agent or null, at_s, text}]: given_up, steady, stopped
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from .. import __version__
from ..histogram import Histogram
from ..model import BUCKET_LABELS, SPLIT_PARTS, StageKind, to_json
from ..results.endpoints import slowest_lines
from ..results.journal import AgentJournal, AgentStage
from ..results.limits import limit_lines
from ..results.merge import RANKS, Inputs, merge, read_inputs
from ..results.oplog import op_log_lines
from ..results.splits import split_lines
from ..results.tables import full_strength_lines, lost_lines, replay_lines, skipped_lines
from . import series
from .links import happened, link
from .shades import gone, marks, shades, started_at
from .sofar import rates_so_far
from .windows import Windows

Json = dict[str, Any]
FORMAT, VERSION = "sai3ssh.document", 1
NINES = 8
"""Points of a percentile curve for each further nine."""


def document(path: Path) -> Json:
    """The document of a run directory, whether the run has ended or not. Raises FileNotFoundError when it is none."""
    windows = Windows()
    inputs = read_inputs(path, windows.take)
    steering = path / "controller.json"
    delay_s = json.loads(steering.read_text(encoding="utf-8"))["start_delay_s"] if steering.exists() else 2.0
    return compose(inputs, windows, start_delay_s=delay_s, now=time.time())


def compose(inputs: Inputs, windows: Windows, *, start_delay_s: float, now: float) -> Json:
    """The document of what was read; `windows` has seen all histogram records."""
    events, plan = inputs.events, inputs.plan
    content = merge(inputs)
    ended = any(event["event"] == "run_ended" for event in events)
    times = [event["at"] for event in events if "at" in event]
    begun = min(times, default=now)
    finished = max((event["at"] for event in events if event["event"] == "run_ended"), default=None)
    places = {agent: place for place, agent in enumerate(inputs.agents)}
    out = gone(inputs)
    if not ended:
        _leave_out_what_is_to_come(content, inputs, out)
        rates_so_far(content, inputs)
    starts = started_at(inputs, start_delay_s)
    hosts = {host["agent_id"]: host for host in inputs.hosts}
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_at": now,
        "by": __version__,
        "state": "ended" if ended else "running",
        "run": {
            "run_id": plan.run_id,
            "name": plan.name,
            "started_at": begun,
            "ended_at": finished,
            "seconds": round((finished if finished is not None else now) - begun, 1),
            "target": _target(inputs),
            "policy": plan.policy.name,
        },
        "verdict": {name: content[name] for name in ("verdict", "reasons", "revisions")} if ended else None,
        "coverage": content["coverage"],
        "min_coverage": content["min_coverage"],
        "expected": content["agents"]["expected"],
        "reported": content["agents"]["reported"],
        "notes": _notes(content),
        "agents": [_agent(agent, hosts[agent_id], out.get(agent_id), events, begun) for agent_id, agent in inputs.agents.items()],
        "endpoints": list(plan.target.endpoints),
        "stages": [_stage(inputs, content, windows, index, starts.get(index), begun, out, places) for index in range(len(plan.stages))],
        "network": [link(agent_id, content, events, begun) for agent_id in inputs.agents],
        "controller": {
            "cut_offs": [{"at_s": round(cut["at"] - begun, 3), "seconds": cut["seconds"]} for cut in content["controller"]["cut_offs"]]
        },
        "events": happened(events, begun, places),
        "plan": to_json(plan),
    }


def _leave_out_what_is_to_come(content: Json, inputs: Inputs, out: dict[str, Json]) -> None:
    """Of a run that goes on: what an agent has not told yet is no loss."""
    kept: Json = {}
    for agent_id, spans in content["lost_intervals_s"].items():
        stages = inputs.agents[agent_id].stages
        known = {index: _until_s(stage) for index, stage in stages.items()}
        mine = [span for span in spans if agent_id in out or span["to_s"] <= known.get(span["stage"], 0.0)]
        if mine:
            kept[agent_id] = mine
    content["lost_intervals_s"] = kept


def _until_s(stage: AgentStage, *, idle: bool = True) -> float:
    """How far an agent's seconds of a stage go; without `idle`, those in which something was done."""
    last = next((second for second in reversed(stage.seconds) if idle or second["ops"] or second["errors"]), None)
    if stage.start is None or last is None:
        return 0.0
    return float(last["to_clock_ns"] - stage.start["start_clock_ns"]) / 1e9


def _target(inputs: Inputs) -> str:
    """Where the load goes: the first URI of the plan, and how many endpoints."""
    plan = inputs.plan
    uris = [population.target for population in plan.populations]
    uris += [op.target for stage in plan.stages for op in stage.operations]
    uris += [stage.replay.target for stage in plan.stages if stage.replay is not None]
    where = plan.target.endpoint_url or (f"{len(plan.target.endpoints)} endpoints" if plan.target.endpoints else "")
    return " at ".join(part for part in (uris[0] if uris else "", where) if part)


def _notes(content: Json) -> list[Json]:
    per_stage = {
        "limit": limit_lines,
        "full_strength": full_strength_lines,
        "endpoint": slowest_lines,
        "splits": split_lines,
        "replay": replay_lines,
    }
    found = [
        {"kind": kind, "stage": stage["index"], "text": text}
        for kind, lines in per_stage.items()
        for stage in content["stages"]
        for text in lines({**content, "stages": [stage]})
    ]
    of_run = {"lost": lost_lines(content), "op_log": op_log_lines(content), "preflight": skipped_lines(content)}
    return found + [{"kind": kind, "stage": None, "text": text} for kind, texts in of_run.items() for text in texts]


def _agent(agent: AgentJournal, host: Json, lost: Json | None, events: list[Json], begun: float) -> Json:
    epoch = agent.epoch or {}
    about = epoch.get("host") or {}
    whole = any(event["event"] == "journal_complete" and event["agent"] == agent.agent_id for event in events)
    at_s = round(lost["at"] - begun, 3) if lost is not None and lost["at"] is not None else None
    return {
        "id": agent.agent_id,
        "host": about.get("name") or host.get("host"),
        "address": host.get("address"),
        **{name: about.get(name) for name in ("cores", "memory_bytes", "kernel", "python", "nic_bytes_per_s")},
        "version": epoch.get("version"),
        "outcome": agent.final["outcome"] if agent.final else None,
        "reason": agent.final["reason"] if agent.final else "",
        "whole": whole,
        "lost": {"at_s": at_s, "text": lost["text"]} if lost is not None else None,
        "notices": agent.notices,
    }


def _stage(
    inputs: Inputs,
    content: Json,
    windows: Windows,
    index: int,
    start: float | None,
    begun: float,
    out: dict[str, Json],
    places: dict[str, int],
) -> Json:
    told = content["stages"][index]
    parts = {agent_id: agent.stages[index] for agent_id, agent in inputs.agents.items() if index in agent.stages}
    planned_s = inputs.plan.stages[index].duration_s
    running = not any(event["event"] == "run_ended" for event in inputs.events)
    seconds = max(0.0, told["seconds"] + told["warmup_s"]) if start is not None else 0.0
    # Seconds after the planned end in which nothing came any more are not shown.
    known_s = [_until_s(part, idle=planned_s is None or running) for part in parts.values()]
    length_s = max([0.0 if running else seconds, *known_s])
    step = series.step_s(list(parts.values()))
    own = windows.stages.get(index)
    endpoints = inputs.plan.target.endpoints
    return {
        **{name: told[name] for name in ("index", "name", "kind", "warmup_s")},
        "planned_s": planned_s,
        "started_s": round(start - begun, 3) if start is not None else None,
        "length_s": round(length_s, 2),
        **{name: told[name] for name in ("seconds", "start_spread_ms", "steady", "full_strength", "unreadable")},
        "operations": {op: _figures(figures) for op, figures in told["operations"].items()},
        "agents": [_part(told["agents"].get(agent_id)) for agent_id in inputs.agents],
        "slowest": _slowest(told, out, places),
        "endpoints": [_endpoints(told["operations"], name) for name in endpoints],
        "sizes": {op: [_size(bucket, part) for bucket, part in figures["buckets"].items()] for op, figures in told["operations"].items()},
        "splits": {op: _splits(figures["splits"]) for op, figures in told["operations"].items() if figures["splits"]},
        "percentiles": {op: curve(figures) for op, figures in told["operations"].items() if figures["ops"]},
        "series": {
            "step_s": step,
            "agents": [series.columns(parts[agent_id], step) if agent_id in parts else None for agent_id in inputs.agents],
        },
        "windows": own.to_json(len(endpoints)) if own is not None else None,
        "shades": shades(content, index, start, length_s, out, places),
        "marks": marks(out, inputs.events, index, start, length_s, places),
    }


def _figures(figures: Json) -> Json:
    kept = ("ops", "bytes", "ops_per_s", "mib_per_s", "requests", "retries", "errors", "retried")
    return {**{name: figures[name] for name in kept}, **_latency(figures)}


def _latency(figures: Json) -> Json:
    return {f"{name}_us": value for name, value in figures["latency_us"].items()}


def _part(told: Json | None) -> Json | None:
    if told is None:
        return None
    kept = {name: told[name] for name in ("seconds", "late_ms", "outcome", "limits")}
    return {**kept, "operations": {op: _figures(figures) for op, figures in told["operations"].items()}}


def _endpoint(told: Json) -> Json:
    return {**{name: told[name] for name in ("ops", "bytes", "errors", "retries")}, **_latency(told)}


def _slowest(told: Json, out: dict[str, Json], places: dict[str, int]) -> Json | None:
    """Of the agents that have ended the stage and were not lost."""
    known = {agent_id: part for agent_id, part in told["agents"].items() if part["outcome"] is not None and agent_id not in out}
    rates = sorted((sum(op["ops_per_s"] for op in part["operations"].values()), agent_id) for agent_id, part in known.items())
    if told["kind"] != StageKind.EXECUTE.value or len(rates) < 2:
        return None
    return {"agent": places[rates[0][1]], "ops_per_s": rates[0][0], "median_ops_per_s": rates[len(rates) // 2][0]}


def _endpoints(operations: Json, name: str) -> Json:
    return {op: _endpoint(figures["endpoints"][name]) for op, figures in operations.items() if name in (figures["endpoints"] or {})}


def _size(bucket: str, part: Json) -> Json:
    latency = part["latency_us"]
    figures = {f"{name}_us": latency[name] for name in ("p50", "p99", "max")}
    return {"bucket": BUCKET_LABELS[int(bucket)], **{name: part[name] for name in ("ops", "bytes", "ops_per_s", "mib_per_s")}, **figures}


def _splits(told: Json) -> Json:
    kept = ("count", "mean", "p50", "p99")
    return {"known": told["known"], **{name: {one: told[name][one] for one in kept} for name in SPLIT_PARTS}}


def curve(figures: Json) -> Json:
    """The percentile curve of an operation, as far as its count tells nines."""
    histogram = Histogram.from_pairs(figures["cells"], sum_ns=figures["sum_ns"], max_ns=round(figures["latency_us"]["max"] * 1000))
    ranks = [float(rank) for rank in range(0, 90, 2)]
    point = 0
    while (beyond := 10 ** (-1 - point / NINES)) * histogram.count >= 1:
        ranks.append(100 - 100 * beyond)
        point += 1
    ranks.append(100.0)
    ranks = sorted({*ranks, *(rank for rank in RANKS.values() if rank <= ranks[-2])})
    values = [*histogram.percentiles(ranks[:-1]), float(histogram.max_ns)]
    return {"rank": [float(f"{rank:.8g}") for rank in ranks], "us": [float(f"{value / 1000:.4g}") for value in values]}
