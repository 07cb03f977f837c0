"""Results as pandas DataFrames. Units are in the names of the columns."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from ..histogram import Histogram, value_of
from ..model import BUCKET_LABELS, Plan, Verdict
from .files import read
from .merge import read_inputs

Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run.

    operations   a row per stage and operation, all agents: ops, bytes, ops_per_s, mib_per_s, mean_us, p50_us ... max_us, requests,
    retries, errors
    agents       the same per agent
    timeseries   a row per agent, stage, second and operation: ops, bytes, seconds, mean_us, p50_us, p90_us, p99_us, warmup
    histograms   a row per stage, operation, size bucket and cell: latency_us (midpoint), count
    hosts        a row per agent, stage and second: cpu_*_pct, mem_used_bytes, net_*_bytes, disk_*_bytes
    events       the controller's event log, `at` as a timestamp
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


def load(path: str | PathLike[str]) -> Run:
    """The results of a run directory. Raises FileNotFoundError when it is none."""
    directory = Path(path)
    inputs = read_inputs(directory)
    results = read(directory)
    operations, agents, cells = [], [], []
    for stage in results.content["stages"]:
        for op, figures in stage["operations"].items():
            operations.append({"stage": stage["name"], "operation": op, **_flat(figures)})
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
    )


def _flat(figures: Json) -> Json:
    kept = ("ops", "bytes", "tail_ops", "tail_bytes", "ops_per_s", "mib_per_s", "requests", "retries")
    latencies = {f"{name}_us": value for name, value in figures["latency_us"].items()}
    return {**{name: figures[name] for name in kept}, **latencies, "errors": sum(figures["errors"].values())}


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
        "mem_used_bytes": host["mem_used_bytes"],
        "net_received_bytes": host["net"][0],
        "net_sent_bytes": host["net"][1],
        "disk_read_bytes": host["disk"][0],
        "disk_written_bytes": host["disk"][1],
    }
