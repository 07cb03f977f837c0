"""What each agent did over time, in columns: a row per second, or per step where a stage has very many."""

from __future__ import annotations

from typing import Any

from ..results.journal import AgentStage
from .windows import Json

MOST_ROWS = 60_000
"""Of all agents in a stage."""
STEPS_S = (1, 5, 10, 30, 60, 300, 600, 1800, 3600)
HOST = ("cpu_pct", "iowait_pct", "worker_cpu_pct", "received_bytes", "sent_bytes", "late_ms")


def step_s(stages: list[AgentStage]) -> int:
    """The length of a row, so that there are not more than MOST_ROWS."""
    seconds = sum(len(stage.seconds) for stage in stages)
    return next((step for step in STEPS_S if seconds / step <= MOST_ROWS), STEPS_S[-1])


def columns(stage: AgentStage, step: int) -> Json:
    """One agent's part of `series` of the document."""
    rows: dict[int, list[Json]] = {}
    for second in stage.seconds:
        rows.setdefault(second["second"] // step * step, []).append(second)
    ordered = sorted(rows.items())
    found = [row for _, row in ordered]
    ops = list(dict.fromkeys(op for row in found for second in row for op in second["ops"]))
    return {
        "at": [at for at, _ in ordered],
        "span_s": [round(sum(_span_s(second) for second in row), 3) for row in found],
        "operations": {op: _operation(found, op) for op in ops},
        "errors": _classes(found, "errors"),
        "retried": _classes(found, "retried"),
        "host": _host(found),
    }


def _span_s(second: Json) -> float:
    return max(1e-3, float(second["to_clock_ns"] - second["from_clock_ns"]) / 1e9)


def _operation(rows: list[list[Json]], op: str) -> Json:
    """Percentiles of several seconds cannot be had from those of each: of p50 the middle one is told, of p99 and max the highest."""
    names = ("n", "bytes", "mean_us", "p50_us", "p99_us", "max_us")
    told: Json = {name: [] for name in names}
    for row in rows:
        figures = [second["ops"][op] for second in row if op in second["ops"]]
        n = sum(one[0] for one in figures)
        timed = sorted(one[3] for one in figures if one[0])
        values = (
            n,
            sum(one[1] for one in figures),
            round(sum(one[2] for one in figures) / n / 1000) if n else None,
            timed[(len(timed) - 1) // 2] if timed else None,
            max((one[5] for one in figures if one[0]), default=None),
            max((one[6] for one in figures if one[0]), default=None),
        )
        for name, value in zip(names, values, strict=True):
            told[name].append(value)
    return told


def _classes(rows: list[list[Json]], kind: str) -> Json:
    """{class: {row: [positions], n: [counts]}} of what there was."""
    told: Json = {}
    for position, row in enumerate(rows):
        counts: dict[str, int] = {}
        for second in row:
            for classes in second.get(kind, {}).values():
                for name, n in classes.items():
                    counts[name] = counts.get(name, 0) + n
        for name, n in counts.items():
            entry = told.setdefault(name, {"row": [], "n": []})
            entry["row"].append(position)
            entry["n"].append(n)
    return told


def _host(rows: list[list[Json]]) -> Json:
    told: Json = {name: [] for name in HOST}
    for row in rows:
        loads = [(second["host"], _span_s(second)) for second in row if "host" in second]
        span_s = sum(span for _, span in loads)
        cpu = [sum(load["cpu"][place] * span for load, span in loads) / span_s if span_s else None for place in range(4)]
        worker = [(load["worker_cpu"] * span, span) for load, span in loads if "worker_cpu" in load]
        values: tuple[Any, ...] = (
            round(sum(part for part in (cpu[0], cpu[1], cpu[3]) if part is not None), 1) if span_s else None,
            round(cpu[2], 1) if cpu[2] is not None else None,
            round(sum(part for part, _ in worker) / sum(span for _, span in worker), 1) if worker else None,
            sum(load["net"][0] for load, _ in loads) if loads else None,
            sum(load["net"][1] for load, _ in loads) if loads else None,
            max((load.get("late_ms", 0.0) for load, _ in loads), default=None),
        )
        for name, value in zip(HOST, values, strict=True):
            told[name].append(value)
    return told
