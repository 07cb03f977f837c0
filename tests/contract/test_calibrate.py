"""A calibration with a real agent on this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sai3ssh import bundle, calibrate
from sai3ssh.model import Host
from sai3ssh.results import calibration
from tests.contract.agent_processes import end_agents


def test_the_agents_own_workers_are_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "WARM_UP_S", 0.5)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    host = Host("here", "localhost", connection="local", state_dir=str(tmp_path / "here"))
    try:
        # Each stage ends within its second second, the first one that may count.
        found = calibrate.run([host], [4096], 1.4, tmp_path / "runs", bundle.build(tmp_path), as_json=False, live=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        end_agents(tmp_path)
    (run,) = (tmp_path / "runs").glob("calibrate-*")
    entry = found["here"]
    assert set(entry["figures"]) == {"get", "put"}
    assert entry["workers"] == entry["cores"] == len(os.sched_getaffinity(0))
    for (point,) in entry["figures"].values():
        assert point["size"] == 4096
        assert 0 < point["ops_per_s"] <= 1.1 * point["most_ops_per_s"]
        assert point["cpu_us"] * point["most_ops_per_s"] == pytest.approx(1e6 * entry["workers"], rel=0.01)
    assert calibration.read(tmp_path / "runs") == found
    assert (run / "STATUS.txt").read_text().startswith("COMPLETE")
