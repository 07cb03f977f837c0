"""What hosts can do at most: measured in a run whose target keeps nothing, kept beside the runs, and copied into each later one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .columns import Seconds
from .files import replace_file
from .limits import cost_us
from .merge import Inputs, read_inputs

Json = dict[str, Any]
FILE = "calibration.json"


def calibrate(path: Path) -> Json:
    """Of the run directory of a calibration: {host: {at, cores, workers, python, figures {get and put: [{size, cpu_us, ops_per_s,
    most_ops_per_s, most_gb_per_s}]}}}, smallest size first. Hosts without figures for every stage are left out.

    cpu_us is CPU of the workers per operation. most_ops_per_s is what all workers together do when each has a core to itself, which here
    they had to share with the server: ops_per_s is what they did.
    """
    inputs = read_inputs(path)
    found = {agent_id: entry for agent_id in inputs.agents if (entry := _host(inputs, agent_id)) is not None}
    return dict(sorted(found.items()))


def _host(inputs: Inputs, agent_id: str) -> Json | None:
    agent = inputs.agents[agent_id]
    figures: dict[str, list[Json]] = {}
    workers = 0
    for index, stage in enumerate(inputs.plan.stages):
        seconds = agent.stages[index].seconds if index in agent.stages else Seconds.empty()
        (operation,) = stage.operations
        chosen = ~seconds.each["warmup"] & (seconds.each["workers"] > 0)
        rows = seconds.by_operation(chosen).get(operation.kind)
        count = int(seconds.ops["count"][rows].sum()) if rows is not None else 0
        if not count or seconds.errors_by_row()[chosen].any():
            return None
        spans = ((seconds.each["to_clock_ns"] - seconds.each["from_clock_ns"]) / 1e9)[chosen].tolist()
        used_s = sum(pct / 100 * span for pct, span in zip(seconds.each["workers_cpu_pct"][chosen].tolist(), spans, strict=True))
        workers = int(seconds.each["workers"][chosen].max())
        # A second may have an operation without its bytes, which come a moment later.
        size = round(int(seconds.ops["bytes"][rows].sum()) / count)
        cpu_us = used_s / count * 1e6
        if cpu_us <= 0:
            return None
        most = workers * 1e6 / cpu_us
        figures.setdefault(operation.kind, []).append(
            {
                "size": size,
                "cpu_us": round(cpu_us, 2),
                "ops_per_s": round(count / sum(spans), 1),
                "most_ops_per_s": round(most, 1),
                "most_gb_per_s": round(most * size / 1e9, 3),
            }
        )
    host = agent.epoch["host"] if agent.epoch else {}
    at = datetime.fromtimestamp(inputs.events[0]["at"], UTC).isoformat(timespec="seconds") if inputs.events else ""
    figures = {kind: sorted(points, key=lambda point: point["size"]) for kind, points in sorted(figures.items())}
    return {"at": at, "cores": host.get("cores"), "workers": workers, "python": host.get("python"), "figures": figures}


def read(results_dir: Path) -> Json:
    """The calibrations that a results directory has, by host; without those that cannot be read: no run fails because of one."""
    try:
        found = json.loads((results_dir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {host: entry for host, entry in found.items() if _usable(entry)} if isinstance(found, dict) else {}


def _usable(entry: Json) -> bool:
    try:
        each = [entry["figures"][kind] for kind in ("get", "put")]
        return all(points and all(cost_us(points, point["size"]) > 0 for point in points) for points in each)
    except (LookupError, TypeError, ValueError):
        return False


def keep(results_dir: Path, found: Json) -> None:
    """Notes calibrations for later runs; of hosts that are not among them the earlier ones stay."""
    results_dir.mkdir(parents=True, exist_ok=True)
    replace_file(results_dir / FILE, [json.dumps({**read(results_dir), **found}, indent=1) + "\n"])


def copy(results_dir: Path, run: Path, agents: Iterable[str]) -> None:
    """Gives a new run the calibrations of its hosts: its results say the same whatever is calibrated later."""
    known = read(results_dir)
    found = {agent: known[agent] for agent in agents if agent in known}
    if found:
        replace_file(run / FILE, [json.dumps(found, indent=1) + "\n"])
