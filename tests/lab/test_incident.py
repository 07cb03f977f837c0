"""The incident with fewer objects from slower storage: `make incident` plays it at full size, on the same server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.bitmap_server import BitmapServer
from tests.lab.incident import SEED, SIZE, check_back, check_fail_fast, check_gone, check_objects, cut, destroyed, play
from tests.lab.lab import STORAGE, STORAGE_ADDRESS, Lab, LabHost
from tests.lab.operator import Operator

pytestmark = pytest.mark.lab

COUNT = 5_600
LATENCY_S = 0.1
"""8 agents with 4 requests each need 17.5 s for the objects, however fast this machine is."""


@pytest.fixture
def server(lab: Lab, tmp_path: Path) -> Iterator[BitmapServer]:
    with BitmapServer(tmp_path, STORAGE_ADDRESS, netns=STORAGE) as server:
        server.port += 1  # the other one is the gateway's
        server.expect(COUNT, SIZE, SEED, LATENCY_S)
        yield server


@pytest.fixture
def incident(lab: Lab, server: BitmapServer, tmp_path: Path) -> Operator:
    return Operator(lab, server, tmp_path, Path(sys.executable).parent / "sai3ssh")


def test_a_link_that_breaks_at_54_percent_changes_nothing(incident: Operator, server: BitmapServer) -> None:
    check_back(incident, play(incident, COUNT, "retry", SIZE, "600s", cut(6.0), "--skip", "storage"))
    check_objects(server, COUNT, repeats=False)


def test_a_host_that_is_destroyed_at_54_percent_is_replaced_by_the_others(incident: Operator, server: BitmapServer) -> None:
    with destroyed(incident) as away:
        played = play(incident, COUNT, "best_effort", SIZE, "6s", away, "--skip", "storage")
    check_gone(played, COUNT)
    check_objects(server, COUNT, repeats=True)
    assert "PARTIAL" in (played.run / "STATUS.txt").read_text()


def test_fail_fast_ends_the_run_with_the_first_link_that_breaks(incident: Operator) -> None:
    # Noticed at once: the few objects of this size would be there before silence is.
    def away(host: LabHost) -> None:
        assert host.kill_sessions()

    check_fail_fast(play(incident, COUNT, "fail_fast", SIZE, "600s", away, "--skip", "storage"))
    assert incident.processes() == {}
