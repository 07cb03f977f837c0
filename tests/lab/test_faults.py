"""Seeded fault schedules on eight real hosts. `make lab-soak` plays many more."""

from __future__ import annotations

import pytest

from tests.lab import faults
from tests.lab.operator import Operator
from tests.lab.schedule import CRASHES, DISK_HOST, NETWORK, OTHERS, check, draw, play

pytestmark = pytest.mark.lab

SEEDS = (1, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_breaks_nothing_is_lost(operator: Operator, seed: int) -> None:
    schedule = draw(seed)
    with faults.small_disk(operator.lab.hosts[DISK_HOST]):
        check(operator, play(operator, schedule), schedule)


def test_the_schedules_together_have_every_fault() -> None:
    drawn = {fault.kind for seed in range(60) for fault in draw(seed)}
    assert drawn == {*NETWORK, *CRASHES, *OTHERS}
    assert len({fault.kind for seed in SEEDS for fault in draw(seed)}) >= 10
