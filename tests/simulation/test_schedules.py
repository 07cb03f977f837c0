"""Thousands of fault schedules, each replayable by its number: `python -m tests.simulation.schedules SEED`."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation import mutants
from tests.simulation.mutants import SCHEDULES
from tests.simulation.schedules import draw, run_seed, search

CHUNK = 250


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_whatever_happens_to_a_run_its_invariants_hold(first: int) -> None:
    failures = search(first, first + CHUNK, processes=2)
    assert not failures, "\n".join(f"seed {seed}:\n{text}" for seed, text in failures)


@pytest.mark.parametrize("seed", [15173, 16147, 73775, 75052, 90353, 32414])
def test_what_a_longer_search_found_once(seed: int) -> None:
    """What made each of them fail is told in the commit that added it."""
    assert run_seed(seed) is None


def test_every_bug_can_be_planted() -> None:
    assert len({mutant.name for mutant in mutants.MUTANTS}) >= 15
    assert mutants.misplaced() == []


def test_the_schedules_contain_what_they_are_to_contain() -> None:
    """A generator that draws nothing finds nothing."""
    found: Counter[str] = Counter()
    for seed in range(300):
        world = draw(seed)
        found.update(hit.kind for hit in world.faults.hits)
        found.update([world.plan.policy.name])
        found["cut"] += len(world.faults.cuts)
        found["power_cut"] += sum(crash.power_cut for crash in world.faults.controller_crashes)
        found["from_agents"] += sum(crash.from_agents for crash in world.faults.controller_crashes)
        found["failure"] += world.faults.failure is not None
        found["stop"] += world.faults.stop_at_s is not None
        found["steady"] += any(stage.steady is not None for stage in world.plan.stages)
        world.close()
    wanted = {
        "half_open",
        "supervisor_killed",
        "reboot",
        "disk_full",
        "clock_jump",
        "asleep",
        "off_network",
        "frozen",
        "altered",
        "cut",
        "power_cut",
        "from_agents",
    }
    wanted |= {"failure", "stop", "steady", "fail_fast", "retry_once", "retry", "best_effort", "continue_if_majority"}
    assert all(found[name] >= 5 for name in wanted), found
