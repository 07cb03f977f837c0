"""How the endpoints of a storage with several compare."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .journal import StageData

Json = dict[str, Any]


def endpoint_figures(data: StageData, op: str, endpoints: Sequence[str], ranks: Mapping[str, float]) -> Json | None:
    """As in results.json, by endpoint: operations that ended there, bytes, errors, retries, latencies; None where there is one.

    An operation that was retried elsewhere counts, with all of its latency, where it ended; a failed attempt counts where it failed.
    """
    if not endpoints:
        return None
    figures = {}
    for position, name in enumerate(endpoints):
        found = data.endpoints.get((op, position))
        if found is None:
            continue
        histogram = found.histogram
        values = histogram.percentiles(list(ranks.values()))
        figures[name] = {
            "ops": histogram.count,
            "bytes": found.bytes,
            "errors": found.errors,
            "retries": found.retries,
            "latency_us": {
                "mean": histogram.mean_ns / 1000,
                **{rank: value / 1000 for rank, value in zip(ranks, values, strict=True)},
                "max": histogram.max_ns / 1000,
            },
            "cells": histogram.to_pairs(),
            "sum_ns": histogram.sum_ns,
        }
    return figures


@dataclass(frozen=True)
class EndpointLine:
    """One endpoint in one operation of one stage, over all agents. Latencies in us."""

    stage: str
    operation: str
    endpoint: str
    ops: int
    bytes: int
    p50_us: float
    p99_us: float
    errors: int
    retries: int


def endpoint_lines(content: Json) -> tuple[EndpointLine, ...]:
    """The table of endpoints."""
    lines = []
    for stage in content["stages"]:
        for op, figures in stage["operations"].items():
            for name, found in (figures.get("endpoints") or {}).items():
                latency = found["latency_us"]
                lines.append(
                    EndpointLine(
                        stage["name"],
                        op,
                        name,
                        found["ops"],
                        found["bytes"],
                        latency["p50"],
                        latency["p99"],
                        found["errors"],
                        found["retries"],
                    )
                )
    return tuple(lines)


def slowest_lines(content: Json) -> list[str]:
    """For people: of each execute stage the endpoint with the highest p99 of the operation that was made most."""
    lines = []
    for stage in content["stages"]:
        most = max(stage["operations"].items(), key=lambda item: item[1]["ops"], default=None)
        if stage["kind"] != "execute" or most is None:
            continue
        ranked = sorted((found["latency_us"]["p99"], name) for name, found in (most[1].get("endpoints") or {}).items() if found["ops"])
        if len(ranked) > 1:
            others = statistics.median(p99 for p99, _ in ranked[:-1])
            p99, name = ranked[-1]
            rest = f"{most[0]} p99 {p99 / 1000:.2f} ms (median of the others {others / 1000:.2f} ms)"
            lines.append(f"slowest endpoint in {stage['name']}: {name}, {rest}")
    return lines
