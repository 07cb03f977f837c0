"""A run directory, made anew from what the agents have: for an operator whose own copy is gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from ..errors import ConfigError
from ..model import Host, Outcome, Plan, assign, from_json
from ..protocol import Json
from .collect import collect
from .eventlog import EventLog
from .mirror import Mirror
from .rundir import RunDirectory, Steering
from .survey import plans_on_hosts


def rebuild(run: str, hosts: Sequence[Host], results_dir: Path, bundle: Path, steering: Steering) -> RunDirectory:
    """Plan, event log and mirrors of the run `run` (an id or the beginning of one) as its agents on these hosts have them.

    Raises ConfigError when no host has the run, when it is not clear which run is meant, when an agent of it is no host of the inventory,
    and when the directory is there.
    """
    found = plans_on_hosts(hosts, bundle, run)
    ids = sorted({answer["plan"]["run_id"] for answer in found.values()})
    if len(ids) != 1:
        detail = f"is the beginning of {', '.join(ids)}" if ids else f"is on none of {len(hosts)} hosts, or they could not be asked"
        raise ConfigError(
            f"run {run!r} {detail}", remedy="`sai3ssh status -i INVENTORY` lists the runs on the hosts, and who does not answer"
        )
    one = next(iter(found.values()))
    plan = from_json(Plan, one["plan"])
    by_name = {host.name: host for host in hosts}
    unknown = [name for name in plan.agents if name not in by_name]
    if unknown:
        raise ConfigError(
            f"agents {', '.join(unknown)} of run {plan.run_id} are no hosts of the inventory", remedy="Add them, or widen --limit"
        )
    assignments = assign(plan.populations, plan.agents)
    if (results_dir / plan.run_id).exists():
        raise ConfigError(f"{results_dir / plan.run_id} is there", remedy="Resume it without --from-agents, or move it away")
    directory = RunDirectory.create(results_dir, plan, assignments, [by_name[name] for name in plan.agents], None, steering)
    log = EventLog(directory.events)
    log.append("run_created", run_id=plan.run_id, agents=sorted(plan.agents), controller=one["key"]["controller"], from_agents=True)
    for name in plan.agents:
        log.append("submit", agent=name)
        if name in found:
            log.append("submitted", agent=name, epoch=found[name]["epoch"])
    log.close()
    fetched = collect(directory, [(name, by_name[name]) for name in plan.agents if name in found], bundle, steering.connect_timeout_s)
    journals: dict[str, list[Json]] = {}
    for name in plan.agents:
        with Mirror(directory.mirror(name)) as mirror:
            journals[name] = list(mirror.records())
    log = EventLog(directory.events)
    for event in course_of(plan, journals, {one.agent for one in fetched if one.error is None}):
        log.append(event.pop("event"), **event)
    log.close()
    return directory


def course_of(plan: Plan, journals: dict[str, list[Json]], current: Collection[str]) -> list[Json]:
    """The events by which the controller of these journals brought the run to where they stand. `current` are the agents of which all
    is here that their hosts have."""
    events: list[Json] = []
    adoptions = _adoptions(journals)
    lost = list(dict.fromkeys(name for given in adoptions for name in given["lost"]))
    for name in lost:
        events += _given_up(name)
    for stage in range(len(plan.stages)):
        rounds = sorted({record["round"] for record in _of(journals, "committed", stage)})
        events += [given for given in adoptions if given["stage"] == stage and not given["again"]]
        for number, round_ in enumerate(rounds):
            # Everybody who counted had acknowledged ARM, which is on disk before it is acknowledged.
            armed = {name for name in journals if any(r["round"] == round_ for r in _of({name: journals[name]}, "armed", stage))}
            for name in sorted(set(current) - armed - set(lost)):
                lost.append(name)
                events += _given_up(name)
            if number:
                events.append({"event": "stage_opened_again", "stage": stage, "name": plan.stages[stage].name, "round": rounds[number - 1]})
            events.append({"event": "armed_round", "stage": stage, "round": round_, "start_controller_ns": 0})
            events.append({"event": "commit", "stage": stage, "round": round_, "start_controller_ns": 0})
            ending = next((record for record in _of(journals, "ending", stage) if record["round"] == round_), None)
            if ending is not None:
                decided = {key: ending[key] for key in ("stage", "round", "duration_ns", "figures")}
                events.append({"event": "steady", "name": plan.stages[stage].name, **decided})
            if not number:
                events += [given for given in adoptions if given["stage"] == stage and given["again"]]
        further = any(record["stage"] > stage for kind in ("armed", "adopted") for record in _of(journals, kind))
        finished = any(record["outcome"] == Outcome.FINISHED.value for record in _of(journals, "final"))
        if not further and not finished:
            break
        events.append({"event": "stage_ended", "stage": stage, "name": plan.stages[stage].name})
    return events


def _given_up(name: str) -> list[Json]:
    return [
        {"event": "agent_lost", "agent": name, "error": "given up by the controller before"},
        {"event": "go_on_without", "agent": name, "remaining": 0},
    ]


def _of(journals: dict[str, list[Json]], kind: str, stage: int | None = None) -> Iterable[Json]:
    records = (record for journal in journals.values() for record in journal if record["kind"] == kind)
    return (record for record in records if stage is None or record["stage"] == stage)


def _adoptions(journals: dict[str, list[Json]]) -> list[Json]:
    """The `reassigned` events that explain what was adopted, in order; a part that nobody adopted yet is not in them."""
    batches: dict[int, Json] = {}
    for name, journal in journals.items():
        ended: set[int] = set()
        for record in journal:
            if record["kind"] == "stage_end":
                ended.add(record["stage"])
            elif record["kind"] == "adopted":
                part = {key: record[key] for key in ("number", "from", "stage", "ranges", "done")}
                empty: Json = {"event": "reassigned", "number": record["number"], "stage": record["stage"], "lost": [], "parts": {}}
                given = batches.setdefault(record["number"], {**empty, "again": record["stage"] in ended})
                given["parts"][name] = part
                given["lost"] = sorted({*given["lost"], *record["from"]})
    return [batches[number] for number in sorted(batches)]
