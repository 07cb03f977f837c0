"""Several runs of one plan as one result, as if it had been measured in segments. Histograms are merged; percentiles are read from the
merged ones."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..histogram import Histogram
from ..model import SPLIT_PARTS, Verdict
from .journal import EndpointData, Region, Splits, StageData
from .limits import limit_lines
from .merge import operations
from .runs import GivenRun, differences, read_run

Json = dict[str, Any]
SCHEMA = 1
SHOWN = 3
"""So many differences between two plans are told; the rest are counted."""
ONE_PLAN = "Name runs of one plan; `sai3ssh aggregate` and `merge` take others with --allow-different-plans"
COVERAGE_IS = (
    "planned agent-seconds that the figures rest on / planned agent-seconds of all runs; planned of a run: agents x the sum of its stages' "
    "planned time (the time it took where none is planned); of that a run gives its own coverage, a run left out gives nothing"
)


def aggregate(paths: Sequence[Path], allow_different_plans: bool = False) -> Json:
    """Several runs as one.

    verdict, reasons   COMPLETE when all runs are; FAILED when all runs are; otherwise PARTIAL. FAILED runs are in no figure, and named
    runs               {given, in_figures}
    verdicts           number of runs by verdict
    agents             of each run; None when the runs differ in it
    coverage           0 to 1; coverage_is says of what
    plan_differences   what the runs differ in, one text each; empty unless allow_different_plans
    stages             [{name, kind, runs, seconds, operations}] by name, kind and, for names that recur in a plan, number. seconds is
                       the sum over the runs that had the stage. operations has the fields of results.json, of all runs together:
                       ops_per_s is all operations in time / seconds, latencies are of the merged histograms. Besides, each operation
                       has spread {ops_per_s, p99_us}: {min, median, max, cv} of the runs' own figures; cv is the sample standard
                       deviation / mean, None with fewer than two runs or a mean of 0. A run that had the stage and none of the operation
                       counts as 0 operations/s and has no p99
    segments           each run as given: {run_id, path, verdict, reasons, coverage, agents {expected, reported}, in_figures,
                       stages [{name (as in `stages`), kind, seconds, limits [text] (where clients were the limit), operations {op: {ops,
                       bytes, ops_per_s, mib_per_s, requests, retries, errors, latency_us}}}]}

    Results that a run has not yet are made. Raises ConfigError when a path is no run directory or cannot be read, when a run is given
    twice, and, unless allow_different_plans, when plans differ in more than run_id and name, or runs in the number of agents.
    """
    if not paths:
        raise ConfigError("no runs given", remedy="Name the run directories to aggregate")
    runs: list[GivenRun] = []
    for path in paths:
        run = read_run(path)
        if any(run.run_id == other.run_id for other in runs):
            raise ConfigError(f"run {run.run_id} is given twice", remedy="Name each run once: it would count double")
        runs.append(run)
    found = [text for run in runs[1:] if (text := _differs(runs[0], run))]
    if found and not allow_different_plans:
        raise ConfigError(found[0], remedy=ONE_PLAN)
    used = [run for run in runs if run.counts]
    planned = sum(run.planned_s for run in runs)
    measured = sum(run.results.content["coverage"] * run.planned_s for run in used)
    verdict, reasons = _verdict(runs)
    agents = {run.agents for run in runs}
    verdicts = Counter(run.results.verdict for run in runs)
    return {
        "schema": SCHEMA,
        "verdict": verdict.value,
        "reasons": reasons,
        "runs": {"given": len(runs), "in_figures": len(used)},
        "verdicts": {kind.value: verdicts[kind] for kind in Verdict},
        "agents": agents.pop() if len(agents) == 1 else None,
        "coverage": min(1.0, measured / planned) if planned else 0.0,
        "coverage_is": COVERAGE_IS,
        "plan_differences": found,
        "stages": [_merged(*key, parts) for key, parts in _stages(used).items()],
        "segments": [_segment(run) for run in runs],
    }


def _differs(first: GivenRun, other: GivenRun) -> str | None:
    """What the second run has other than the first, or None."""
    found = list(differences(first.plan, other.plan))
    if first.agents != other.agents:
        found.insert(0, f"number of agents: {first.agents} and {other.agents}")
    if not found:
        return None
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"runs {first.run_id} and {other.run_id} differ in {'; '.join(found[:SHOWN])}{more}"


def _verdict(runs: Sequence[GivenRun]) -> tuple[Verdict, list[str]]:
    reasons = []
    for run in runs:
        why = "; ".join(run.results.reasons)
        if run.results.verdict is Verdict.FAILED:
            reasons.append(f"{run.run_id} FAILED and is not in the figures: {why}")
        elif run.results.verdict is Verdict.PARTIAL:
            reasons.append(f"{run.run_id} is PARTIAL: {why}")
    if not reasons:
        return Verdict.COMPLETE, [f"all {len(runs)} runs are COMPLETE" if len(runs) > 1 else "the run is COMPLETE"]
    return (Verdict.PARTIAL if any(run.counts for run in runs) else Verdict.FAILED), reasons


def _stages(runs: Sequence[GivenRun]) -> dict[tuple[str, str], list[Json]]:
    """The runs' stages by name and kind, in order of appearance."""
    found: dict[tuple[str, str], list[Json]] = {}
    for run in runs:
        for name, stage in _named(run.results.content["stages"]):
            # A stage that a run did not get to has no time.
            if stage["seconds"] > 0 or stage["operations"]:
                found.setdefault((name, stage["kind"]), []).append(stage)
    return found


def _named(stages: Sequence[Json]) -> Iterator[tuple[str, Json]]:
    """The stages of a run, each with a name of its own: the n-th of its name in a plan goes with the n-th of the others."""
    seen: Counter[tuple[str, str]] = Counter()
    for stage in stages:
        key = (stage["name"], stage["kind"])
        seen[key] += 1
        yield (stage["name"] if seen[key] == 1 else f"{stage['name']} ({seen[key]})"), stage


def _merged(name: str, kind: str, parts: Sequence[Json]) -> Json:
    data = StageData()
    # By name, not by position: runs of other plans may have others.
    endpoints = list(
        dict.fromkeys(url for part in parts for figures in part["operations"].values() for url in figures.get("endpoints") or ())
    )
    for part in parts:
        data.add(_data(part["operations"], endpoints))
    seconds = sum(max(0.0, part["seconds"]) for part in parts)
    merged = operations(data, seconds, endpoints)
    for op, figures in merged.items():
        rates = [part["operations"][op]["ops_per_s"] if op in part["operations"] else 0.0 for part in parts]
        p99 = [part["operations"][op]["latency_us"]["p99"] for part in parts if part["operations"].get(op, {}).get("ops")]
        figures["spread"] = {"ops_per_s": _spread(rates), "p99_us": _spread(p99)}
    return {"name": name, "kind": kind, "runs": len(parts), "seconds": seconds, "operations": merged}


def _data(stage: Json, endpoints: Sequence[str]) -> StageData:
    """The counts that a stage's figures were made of."""
    data = StageData()
    for op, figures in stage.items():
        data.requests[op] += figures["requests"]
        data.retries[op] += figures["retries"]
        for kind, n in figures["retried"].items():
            data.retried[op, kind] += n
        for kind, n in figures["errors"].items():
            data.errors[op, kind] += n
        for bucket, part in figures["buckets"].items():
            histogram = Histogram.from_pairs(part["cells"], sum_ns=part["sum_ns"], max_ns=round(part["latency_us"]["max"] * 1000))
            data.regions[op, int(bucket)] = Region(histogram, part["bytes"], part["tail_ops"], part["tail_bytes"])
        # Results of earlier versions have neither of these.
        if figures.get("splits"):
            parts = {name: figures["splits"][name] for name in SPLIT_PARTS}
            data.splits[op] = Splits({name: Histogram.from_pairs(part["cells"], sum_ns=part["sum_ns"]) for name, part in parts.items()})
        for url, part in (figures.get("endpoints") or {}).items():
            histogram = Histogram.from_pairs(part["cells"], sum_ns=part["sum_ns"], max_ns=round(part["latency_us"]["max"] * 1000))
            data.endpoints[op, endpoints.index(url)] = EndpointData(histogram, part["bytes"], part["errors"], part["retries"])
    return data


def _spread(values: Sequence[float]) -> Json | None:
    """None without values."""
    if not values:
        return None
    mean = statistics.fmean(values)
    cv = statistics.stdev(values) / mean if len(values) > 1 and mean > 0 else None
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "cv": cv}


def _segment(run: GivenRun) -> Json:
    content = run.results.content
    kept = ("ops", "bytes", "ops_per_s", "mib_per_s", "requests", "retries", "errors", "latency_us")
    return {
        "run_id": run.run_id,
        "path": str(run.path),
        "verdict": content["verdict"],
        "reasons": content["reasons"],
        "coverage": content["coverage"],
        "agents": content["agents"],
        "in_figures": run.counts,
        "stages": [
            {
                "name": name,
                "kind": stage["kind"],
                "seconds": max(0.0, stage["seconds"]),
                "limits": limit_lines({"stages": [stage]}),
                "operations": {op: {name: figures[name] for name in kept} for op, figures in stage["operations"].items()},
            }
            for name, stage in _named(content["stages"])
        ],
    }
