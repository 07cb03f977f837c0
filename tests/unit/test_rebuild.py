"""What journals alone say of the course of their run."""

from __future__ import annotations

from typing import Any

from sai3ssh.controller.rebuild import course_of
from sai3ssh.model import Plan, Stage, StageKind, Target

STAGES = (Stage("first", StageKind.EXECUTE, 1, 1.0), Stage("second", StageKind.EXECUTE, 1, 1.0))
PLAN = Plan("r", "r", Target("file"), (), STAGES, agents=("a", "b", "c"))


def ran(*stages: int, armed: int | None = None, round_: int = 1) -> list[dict[str, Any]]:
    """The journal of an agent that has run these stages, and was armed for one more."""
    records: list[dict[str, Any]] = [{"kind": "epoch"}]
    for stage in stages:
        records += [{"kind": kind, "stage": stage, "round": round_} for kind in ("armed", "committed", "stage_start", "stage_end")]
    return records + ([{"kind": "armed", "stage": armed, "round": round_}] if armed is not None else [])


def events(journals: dict[str, list[dict[str, Any]]], current: str = "abc") -> list[tuple[Any, ...]]:
    return [(e["event"], e.get("agent", e.get("stage"))) for e in course_of(PLAN, journals, current)]


def test_a_whole_run_that_nobody_left() -> None:
    alike = [(name, stage) for stage in (0, 1) for name in ("armed_round", "commit", "stage_ended")][:-1]
    assert events({name: ran(0, 1) for name in "abc"}) == alike


def test_who_was_not_armed_for_what_was_released_had_been_given_up() -> None:
    found = events({"a": ran(0, 1), "b": ran(0, 1), "c": ran(0)})
    lost = [("agent_lost", "c"), ("go_on_without", "c")]
    assert found == [("armed_round", 0), ("commit", 0), ("stage_ended", 0), *lost, ("armed_round", 1), ("commit", 1)]


def test_who_was_armed_only_by_an_earlier_round_had_been_given_up() -> None:
    found = events({"a": ran(0) + ran(1, round_=2), "b": ran(0) + ran(1, round_=2), "c": ran(0, armed=1)})
    assert ("agent_lost", "c") in found


def test_who_was_armed_may_still_get_the_commit() -> None:
    assert not [event for event in events({"a": ran(0, 1), "b": ran(0, armed=1), "c": ran(0, 1)}) if event[0] == "agent_lost"]


def test_of_whom_not_all_is_here_nothing_is_concluded() -> None:
    journals = {"a": ran(0, 1), "b": ran(0, 1), "c": []}
    assert not [event for event in events(journals, "ab") if event[0] == "agent_lost"]


def test_that_a_stage_was_to_end_early_is_known_from_whoever_was_told() -> None:
    told = {"kind": "ending", "stage": 1, "round": 1, "duration_ns": 5, "lasts_ns": 7, "figures": {"slope": 0.1}}
    found = course_of(PLAN, {"a": ran(0, 1), "b": [*ran(0, 1), told], "c": ran(0, 1)}, "abc")
    decided = {"event": "steady", "stage": 1, "name": "second", "round": 1, "duration_ns": 5, "figures": {"slope": 0.1}}
    assert found[-2:] == [{"event": "commit", "stage": 1, "round": 1, "start_controller_ns": 0}, decided]
