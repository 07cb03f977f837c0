"""The controller of a run, with links that are none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sai3ssh.controller import run
from sai3ssh.controller.link import LinkOptions
from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.controller.session import Options
from sai3ssh.controller.traffic import Traffic
from sai3ssh.errors import Superseded
from sai3ssh.model import Assignment, Host, Plan, Stage, StageKind, Target

AGENTS = 50
PLAN = Plan("run-1", "n", Target("s3"), (), (Stage("mix", StageKind.EXECUTE, 1, duration_s=5.0),))


class Stuck:
    """A link whose thread is in the middle of connecting to a host that is away."""

    def __init__(self, *_: object, **__: object) -> None:
        self.traffic = Traffic()
        self.closed = False

    def start(self) -> None:
        pass

    def stop(self, timeout_s: float) -> bool:
        self.closed = True
        time.sleep(timeout_s)
        return False


def test_links_that_do_not_end_cost_their_time_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LEAVE_S", 0.1)
    links: list[Stuck] = []

    def make_link(*arguments: Any, **options: Any) -> Any:
        links.append(Stuck(*arguments, **options))
        return links[-1]

    names = [f"a{n}" for n in range(AGENTS)]
    assignments = [Assignment(name, n, AGENTS, {}) for n, name in enumerate(names)]
    hosts = [Host(name, name) for name in names]
    directory = RunDirectory.create(tmp_path, PLAN, assignments, hosts, None)
    controller = run.RunController(
        PLAN, assignments, hosts, directory, tmp_path, credentials=None, options=Options(), link_options=LinkOptions(), make_link=make_link
    )
    controller.supersede("another one has it")
    began = time.monotonic()
    with pytest.raises(Superseded):
        controller.run()
    assert time.monotonic() - began < AGENTS * 0.1 / 2
    assert all(link.closed for link in links)
