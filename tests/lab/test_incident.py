"""The incident, smaller, against Ceph's gateway: `make incident` plays it at full size."""

from __future__ import annotations

import pytest

from tests import oracle
from tests.lab.incident import check_back, check_fail_fast, check_gone, cut, destroyed, play
from tests.lab.lab import LabHost
from tests.lab.operator import Operator

pytestmark = pytest.mark.lab

COUNT = 32_000
SIZE = 1024


def check_objects(operator: Operator) -> None:
    bucket = operator.last_bucket
    assert set(oracle.list_bucket(operator.s3, bucket)) == {f"data/prepared-{i:08d}.dat" for i in range(COUNT)}


def test_a_link_that_breaks_at_54_percent_changes_nothing(operator: Operator) -> None:
    check_back(operator, play(operator, COUNT, "retry", SIZE, "600s", cut(6.0)))
    check_objects(operator)


def test_a_host_that_is_destroyed_at_54_percent_is_replaced_by_the_others(operator: Operator) -> None:
    with destroyed(operator) as away:
        played = play(operator, COUNT, "best_effort", SIZE, "6s", away)
    check_gone(played, COUNT)
    check_objects(operator)
    assert "PARTIAL" in (played.run / "STATUS.txt").read_text()


def test_fail_fast_ends_the_run_with_the_first_link_that_breaks(operator: Operator) -> None:
    # Noticed at once: the few objects of this size would be there before silence is.
    def away(host: LabHost) -> None:
        assert host.kill_sessions()

    check_fail_fast(play(operator, COUNT // 2, "fail_fast", SIZE, "600s", away))
    assert operator.processes() == {}
