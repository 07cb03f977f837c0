"""Results as pandas DataFrames. Units are in the names of the columns."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from ..histogram import Histogram, value_of
from ..model import BUCKET_LABELS, SPLIT_PARTS, Plan, Verdict
from .files import read
from .merge import RANKS as LATENCY_RANKS
from .merge import read_inputs
from .network import COUNTERS, RANKS, network

Json = dict[str, Any]
LOSS_COLUMNS = ("agent", "at", "cause", "down_s", "unreachable_s", "attempts", "resumed_offset", "rounds", "resume_s")
SPLIT_COLUMNS = ("stage", "operation", "part", "known", "count", "mean_us", *(f"{name}_us" for name in LATENCY_RANKS))
ENDPOINT_COLUMNS = (
    "stage", "operation", "endpoint", "ops", "bytes", "errors", "retries", "mean_us", *(f"{name}_us" for name in LATENCY_RANKS), "max_us",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run.

    operations   a row per stage and operation, all agents: ops, bytes, ops_per_s, mib_per_s, mean_us, p50_us ... max_us, requests,
    retries, errors
    agents       the same per agent
    timeseries   a row per agent, stage, second and operation: ops, bytes, seconds, mean_us, p50_us, p90_us, p99_us, warmup
    histograms   a row per stage, operation, size bucket and cell: latency_us (midpoint), count
    hosts        a row per agent, stage and second: cpu_*_pct (of all cores), worker_cpu_pct (the busiest worker's, of a core; NaN where
    it is not known), late_ms (by how much the load loop came late), mem_used_bytes, net_*_bytes, disk_*_bytes
    events       a row per event of the controller's log, in order: at (wall time, a timestamp in UTC), event (its kind), agent (NaN for
    what concerns the whole run), and a column per further field that any event of this log has, NaN where an event has it not:
    link_up: attempt, down_s, resumed_offset; link_down: cause, level (warning; info once the agent's journal is all here: no loss);
    policy_round: round, delay_s; agent_state: state, previous, cause; agent_lost, agent_failed: error; clock: offset_ns, error_ns, boot;
    network: rtt, received_bytes, records, refetched_bytes, refetched_records, resume_s; cut_off_over: seconds; commit, armed_round:
    stage, round; stage_started, stage_ended: stage, name; stop_requested, abort: reason; run_ended: verdict, reasons, exit_code
    splits       a row per stage, operation and part of its latency (queue, connect, tls, first_byte, transfer), where it is told: known
    (operations whose parts are known), count (those with 1 us of it or more), mean_us, p50_us ... p99.99_us (over all that are known)
    endpoints    a row per stage, operation and endpoint, where there are several: ops (that ended there), bytes, errors, retries (attempts
    that failed there and were made again), mean_us, p50_us ... max_us
    network      a row per agent: connects, losses, unreachable_s, rtt_count, rtt_mean_us, rtt_p50_us, rtt_p90_us, rtt_p99_us,
    rtt_p99.9_us, rtt_max_us (heartbeat round trips), clock_measurements, clock_first_offset_ns, clock_last_offset_ns (host minus
    controller), clock_drift_ppm, clock_drift_error_ppm, clock_max_error_ns, received_bytes, records, refetched_bytes,
    refetched_records; NaN where the log does not tell
    losses       a row per link loss: agent, at (a timestamp in UTC), cause, down_s, attempts, resumed_offset (NaN when the link did not
    come back), unreachable_s (then to the end of the log), rounds (of the failure policy), resume_s (from the beginning of the connection
    attempt that succeeded to the first missing byte of the journal)
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    plan: Plan
    operations: pd.DataFrame
    agents: pd.DataFrame
    timeseries: pd.DataFrame
    histograms: pd.DataFrame
    hosts: pd.DataFrame
    events: pd.DataFrame
    network: pd.DataFrame
    losses: pd.DataFrame
    splits: pd.DataFrame
    endpoints: pd.DataFrame


def load(path: str | PathLike[str]) -> Run:
    """The results of a run directory. Raises FileNotFoundError when it is none."""
    directory = Path(path)
    inputs = read_inputs(directory)
    results = read(directory)
    operations, agents, cells, splits, endpoints = [], [], [], [], []
    for stage in results.content["stages"]:
        for op, figures in stage["operations"].items():
            operations.append({"stage": stage["name"], "operation": op, **_flat(figures)})
            splits += [{"stage": stage["name"], "operation": op, **row} for row in _splits(figures.get("splits"))]
            for name, found in (figures.get("endpoints") or {}).items():
                counts = {column: found[column] for column in ("ops", "bytes", "errors", "retries")}
                latencies = {f"{rank}_us": value for rank, value in found["latency_us"].items()}
                endpoints.append({"stage": stage["name"], "operation": op, "endpoint": name, **counts, **latencies})
            for bucket, part in figures["buckets"].items():
                for cell, count in sorted(Histogram.from_pairs(part["cells"]).cells.items()):
                    cells.append((stage["name"], op, int(bucket), BUCKET_LABELS[int(bucket)], value_of(cell) / 1000, count))
        for agent, part in stage["agents"].items():
            agents += [{"agent": agent, "stage": stage["name"], "operation": op, **_flat(f)} for op, f in part["operations"].items()]
    names = [stage.name for stage in inputs.plan.stages]
    series, hosts = [], []
    for agent_id, agent in inputs.agents.items():
        for index, data in sorted(agent.stages.items()):
            for second in data.seconds:
                hosts.append(_host(agent_id, names[index], second))
                series += _series(agent_id, names[index], second)
    events = pd.DataFrame(inputs.events)
    if not events.empty:
        events["at"] = pd.to_datetime(events["at"], unit="s", utc=True)
    links = {agent_id: network(agent_id, inputs.events) for agent_id in inputs.agents}
    losses = pd.DataFrame([_loss(agent, loss) for agent, link in links.items() for loss in link["losses"]], columns=LOSS_COLUMNS)
    losses["at"] = pd.to_datetime(losses["at"], unit="s", utc=True)
    columns = ["stage", "operation", "bucket", "size", "latency_us", "count"]
    return Run(
        results.verdict,
        results.reasons,
        inputs.plan,
        pd.DataFrame(operations),
        pd.DataFrame(agents),
        pd.DataFrame(series),
        pd.DataFrame(cells, columns=columns),
        pd.DataFrame(hosts),
        events,
        pd.DataFrame([_link(agent, link) for agent, link in links.items()]),
        losses,
        pd.DataFrame(splits, columns=SPLIT_COLUMNS),
        pd.DataFrame(endpoints, columns=ENDPOINT_COLUMNS),
    )


def _flat(figures: Json) -> Json:
    kept = ("ops", "bytes", "tail_ops", "tail_bytes", "ops_per_s", "mib_per_s", "requests", "retries")
    latencies = {f"{name}_us": value for name, value in figures["latency_us"].items()}
    return {**{name: figures[name] for name in kept}, **latencies, "errors": sum(figures["errors"].values())}


def _splits(figures: Json | None) -> list[Json]:
    if figures is None:
        return []
    rows = []
    for part in SPLIT_PARTS:
        found = figures[part]
        rows.append(
            {
                "part": part,
                "known": figures["known"],
                "count": found["count"],
                **{f"{name}_us": found[name] for name in ("mean", *LATENCY_RANKS)},
            }
        )
    return rows


def _link(agent: str, link: Json) -> Json:
    rtt, clock = link["rtt_us"] or {}, link["clock"] or {}
    offset = clock.get("offset_ns", {})
    row = {
        "agent": agent,
        "connects": link["connects"],
        "losses": len(link["losses"]),
        "unreachable_s": link["unreachable_s"],
        "rtt_count": rtt.get("count", 0),
        **{f"rtt_{name}_us": rtt.get(name) for name in ("mean", *RANKS, "max")},
        "clock_measurements": clock.get("measurements", 0),
        "clock_first_offset_ns": offset.get("first"),
        "clock_last_offset_ns": offset.get("last"),
        **{f"clock_{name}": clock.get(name) for name in ("drift_ppm", "drift_error_ppm", "max_error_ns")},
        **{name: link[name] for name in COUNTERS},
    }
    return _known(row)


def _loss(agent: str, loss: Json) -> Json:
    return _known({**loss, "agent": agent, "rounds": len(loss["rounds"])})


def _known(row: Json) -> Json:
    """The row with NaN for None, so that a column of numbers is one even when all of it is unknown."""
    return {name: float("nan") if value is None else value for name, value in row.items()}


def _series(agent: str, stage: str, second: Json) -> list[Json]:
    head = {
        "agent": agent,
        "stage": stage,
        "second": second["second"],
        "wall_ns": second["wall_ns"],
        "seconds": (second["to_clock_ns"] - second["from_clock_ns"]) / 1e9,
        "warmup": second["warmup"],
    }
    rows = []
    for op, (n, size, sum_ns, p50, p90, p99, highest) in second["ops"].items():
        mean = sum_ns / n / 1000 if n else 0.0
        errors = sum(second["errors"].get(op, {}).values())
        figures = {
            "ops": n,
            "bytes": size,
            "mean_us": mean,
            "p50_us": p50,
            "p90_us": p90,
            "p99_us": p99,
            "max_us": highest,
            "errors": errors,
        }
        rows.append({**head, "operation": op, **figures})
    return rows


def _host(agent: str, stage: str, second: Json) -> Json:
    host = second["host"]
    return {
        "agent": agent,
        "stage": stage,
        "second": second["second"],
        "wall_ns": second["wall_ns"],
        **{f"cpu_{name}_pct": value for name, value in zip(("user", "system", "iowait", "steal"), host["cpu"], strict=True)},
        "worker_cpu_pct": host.get("worker_cpu", float("nan")),
        "late_ms": host.get("late_ms", 0.0),
        "mem_used_bytes": host["mem_used_bytes"],
        "net_received_bytes": host["net"][0],
        "net_sent_bytes": host["net"][1],
        "disk_read_bytes": host["disk"][0],
        "disk_written_bytes": host["disk"][1],
    }
