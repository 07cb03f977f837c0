"""Where the time of operations went: figures of the parts of their latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..histogram import Histogram
from ..model import SPLIT_PARTS
from .cells import latencies_at, nearest_rank
from .journal import Splits

Json = dict[str, Any]
TELLING = 0.1
"""A part other than the first byte is worth a line from this share of the latency on."""


def split_figures(splits: Splits | None, ranks: Mapping[str, float]) -> Json | None:
    """As in results.json: {"known": operations, part: {mean, percentiles in us, count, cells, sum_ns}}; None where nothing is known.

    `count` operations had a part, the others of `known` had less than 1 us of it, which is 0 in mean and percentiles.
    """
    if splits is None or not splits.known:
        return None
    known = splits.known
    figures: Json = {"known": known}
    for name in SPLIT_PARTS:
        histogram = splits.parts[name]
        figures[name] = {
            "mean": histogram.sum_ns / known / 1000,
            **_percentiles(histogram, known, ranks),
            "count": histogram.count,
            "cells": histogram.to_pairs(),
            "sum_ns": histogram.sum_ns,
        }
    return figures


def _percentiles(histogram: Histogram, known: int, ranks: Mapping[str, float]) -> Json:
    """The nearest-rank percentiles in us of the histogram's values and as many zeros as there are `known` more."""
    zeros = max(0, known - histogram.count)
    positions = {name: nearest_rank(rank, known) - zeros for name, rank in ranks.items()}
    # A histogram of more than is known has no zeros, and all positions.
    within = {name: at for name, at in positions.items() if at > 0}
    found = dict(zip(within, latencies_at(histogram, list(within.values())), strict=True))
    return {name: found.get(name, 0.0) / 1000 for name in ranks}


def split_lines(content: Json) -> list[str]:
    """For people: a line for each operation that spent its time on something else than the wait for the first byte, too."""
    lines = []
    for stage in content["stages"]:
        for op, figures in stage["operations"].items():
            splits, whole_us = figures.get("splits"), figures["latency_us"]["p99"]
            if not splits or not any(splits[name]["p99"] >= TELLING * whole_us for name in SPLIT_PARTS if name != "first_byte"):
                continue
            parts = ", ".join(f"{name.replace('_', ' ')} {splits[name]['p99'] / 1000:.1f}" for name in SPLIT_PARTS if splits[name]["count"])
            known = "" if splits["known"] == figures["ops"] else f" (known of {100 * splits['known'] / figures['ops']:.0f} %)"
            lines.append(f"{stage['name']} {op}: p99 {whole_us / 1000:.1f} ms; p99 of its parts in ms{known}: {parts}")
    return lines
