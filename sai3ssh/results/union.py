"""Several runs as one results directory. Runs of different agents, which several controllers steered, become a run of all their agents;
runs of the same agents are segments, one after the other, and become what aggregate makes of them."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..model import Verdict
from .aggregate import ONE_PLAN, aggregate
from .files import MERGED, Results, has_ended, json_lines, replace_file, write
from .journal import parse_json
from .runs import GivenRun, differences, read_run
from .tables import comments, results_table

Json = dict[str, Any]
SEGMENTS = "--segments"
SHOWN = 3


def merge_runs(paths: Sequence[Path], out: Path, *, allow_different_plans: bool = False, segments: bool = False) -> Results:
    """Writes the results of several runs together into a new directory `out`; histograms are merged.

    Runs of different agents: `out` is a run directory with the journals of all (linked, or copied) and the events of all controllers in
    order of time, and everything that reads a run reads it. Rates add up, as of what happened at the same time; when it did not, the
    results say so. `segments`: results.json is what aggregate gives, beside tables of all stages and STATUS.txt. merged.json names the
    runs.

    Raises ConfigError when runs are unlike (in their plans, unless allowed; never in their stages), have an agent in common without
    `segments`, have not ended, or `out` is there already.
    """
    if len(paths) < 2:
        raise ConfigError("merge needs two runs at least", remedy="Name the run directories to merge")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ConfigError(f"{out} is there already", remedy="Give another directory with -o, or remove it")
    runs = [read_run(path) for path in paths]
    common = Counter(agent for run in runs for agent in run.results.content["hosts"])
    shared = sorted(agent for agent, n in common.items() if n > 1)
    if segments:
        content = aggregate(paths, allow_different_plans)
        return _write_segments(runs, content, out)
    ids = [run.run_id for run in runs]
    if len(set(ids)) < len(ids):
        raise ConfigError(f"run {max(ids, key=ids.count)} is given twice", remedy="Name each run once: it would count double")
    if shared:
        names = ", ".join(shared[:SHOWN]) + (f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else "")
        raise ConfigError(
            f"the runs have agents in common: {names}", remedy=f"Are they segments, one after the other? Then give {SEGMENTS}"
        )
    _check_alike(runs, allow_different_plans)
    return _write_union(runs, out)


def _check_alike(runs: Sequence[GivenRun], allow_different_plans: bool) -> None:
    first = runs[0]
    for run in runs[1:]:
        stages = [[(stage["name"], stage["kind"]) for stage in one.plan["stages"]] for one in (first, run)]
        if stages[0] != stages[1]:
            raise ConfigError(f"runs {first.run_id} and {run.run_id} have other stages", remedy="Merge runs of one workload")
        found = list(differences(_of_all(first.plan), _of_all(run.plan)))
        if found and not allow_different_plans:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise ConfigError(
                f"runs {first.run_id} and {run.run_id} differ in {'; '.join(found[:SHOWN])}{more}",
                remedy=ONE_PLAN,
            )
    for run in runs:
        if not has_ended(_events(run.path)):
            raise ConfigError(f"run {run.run_id} is not over", remedy="Merge it when it is; `sai3ssh status` says who steers it")


def _of_all(plan: Json) -> Json:
    """A plan without what names its agents: these differ."""
    return {name: value for name, value in plan.items() if name not in ("agents", "spreads")}


def _write_union(runs: Sequence[GivenRun], out: Path) -> Results:
    out.mkdir(parents=True, exist_ok=True)
    plan = json.loads((runs[0].path / "plan.json").read_text(encoding="utf-8"))
    hosts = [host for run in runs for host in json.loads((run.path / "hosts.json").read_text(encoding="utf-8"))["agents"]]
    plan |= {"run_id": out.name, "agents": [host["agent_id"] for host in hosts]}
    plan["spreads"] = [spread for run in runs for spread in run.plan["spreads"]]
    for run in runs:
        for agent_id in run.results.content["hosts"]:
            (out / "agents" / agent_id).mkdir(parents=True)
            journal = run.path / "agents" / agent_id / "journal.ndjson"
            if journal.exists():
                _link(journal, out / "agents" / agent_id / "journal.ndjson")
    calibrations = [json.loads(file.read_text(encoding="utf-8")) for run in runs if (file := run.path / "calibration.json").exists()]
    if calibrations:
        replace_file(out / "calibration.json", [json.dumps({host: one for found in calibrations for host, one in found.items()})])
    replace_file(out / "hosts.json", [json.dumps({"agents": hosts}, indent=1) + "\n"])
    log = list(_merged_events(runs))
    replace_file(out / "events.ndjson", [json.dumps(event) + "\n" for event in log])
    apart = [text for number in range(len(plan["stages"])) if (text := _apart(runs, number))]
    replace_file(out / MERGED, json_lines({**_sources(runs), "remarks": apart}))
    replace_file(out / "plan.json", [json.dumps(plan, indent=1) + "\n"])
    found = write(out)
    end = {"at": max((event["at"] for event in log), default=0.0), "event": "run_ended", "verdict": found.verdict.value}
    with (out / "events.ndjson").open("a", encoding="utf-8") as events:
        events.write(json.dumps({**end, "reasons": list(found.reasons), "exit_code": found.verdict.exit_code}) + "\n")
    return found


def _merged_events(runs: Sequence[GivenRun]) -> Iterator[Json]:
    """The events of all controllers in order of time, without their ends; of each stage only the last release, since the clocks of all
    agents were measured before that."""
    events = sorted((event for run in runs for event in _events(run.path) if event["event"] != "run_ended"), key=lambda event: event["at"])
    last = {event["stage"]: number for number, event in enumerate(events) if event["event"] == "commit"}
    for number, event in enumerate(events):
        if event["event"] != "commit" or last[event["stage"]] == number:
            yield event


def _apart(runs: Sequence[GivenRun], index: int) -> str | None:
    """That an execute stage did not run at the same time in all runs: less than half of it."""
    spans = []
    for run in runs:
        stage = run.results.content["stages"][index]
        began = next((e["at"] for e in _events(run.path) if e["event"] == "stage_started" and e.get("stage") == index), None)
        if stage["kind"] != "execute" or began is None or stage["seconds"] <= 0:
            return None
        spans.append((began, began + stage["seconds"] + stage["warmup_s"]))
    together = min(end for _, end in spans) - max(begin for begin, _ in spans)
    if 2 * together >= min(end - begin for begin, end in spans):
        return None
    name = runs[0].results.content["stages"][index]["name"]
    return (
        f"{name}: the merged runs were not at it at the same time ({max(0.0, together):.0f} s together); rates add up what was not at once"
    )


def _events(path: Path) -> list[Json]:
    file = path / "events.ndjson"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [parse_json(line) for line in lines if line.endswith(b"\n")]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one that has no links
        shutil.copyfile(source, target)


def _sources(runs: Sequence[GivenRun]) -> Json:
    return {"runs": [_source(run) for run in runs]}


def _source(run: GivenRun) -> Json:
    verdict, agents = run.results.verdict.value, list(run.results.content["hosts"])
    return {"run_id": run.run_id, "path": str(run.path), "verdict": verdict, "agents": agents}


def _write_segments(runs: Sequence[GivenRun], content: Json, out: Path) -> Results:
    out.mkdir(parents=True, exist_ok=True)
    told = [segment["agents"] for segment in content["segments"]]
    agents = {name: sum(part[name] for part in told) for name in ("expected", "reported")}
    # What comments() reads of a results.json.
    head = {**content, "run_id": out.name, "agents": agents, "revisions": [], "lost_intervals_s": {}, "stages": [], "op_log": None}
    replace_file(out / "results.json", json_lines({**content, "run_id": out.name}))
    for number, stage in enumerate(content["stages"], 1):
        table = results_table(head, stage["operations"], stage["seconds"])
        replace_file(out / f"{number:02d}_{stage['name'].replace('/', '_')}_results.tsv", [table])
    replace_file(out / MERGED, json_lines({**_sources(runs), "remarks": []}))
    replace_file(out / "STATUS.txt", [f"{content['verdict']}\n", *(line + "\n" for line in comments(head))])
    return Results(Verdict(content["verdict"]), tuple(content["reasons"]), content)
