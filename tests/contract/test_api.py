"""The script of the guide, as its readers run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from sai3ssh import results
from tests.contract.agent_processes import end_agents

AGENTS = ("left", "right")
GUIDE = Path(__file__).parents[2] / "docs" / "python.md"
BEFORE = """
import signal, threading
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
"""
AFTER = """
assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
assert {second.agent for second in seconds} == {"left", "right"}
told = sum(second.ops["get"] for second in seconds if "get" in second.ops)
assert told == int(run.operations.query("operation == 'get'")["ops"].sum()), told
assert rates["get"].sum() == told
assert len(worst) == 2 and str(worst["at"].dt.tz) == "UTC"
"""


def test_the_script_of_the_guide_runs_and_says_nothing_else(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?sai3ssh\.run\(.*?)```", GUIDE.read_text(), re.DOTALL)
    hosts = {name: {"ansible_connection": "local", "sai3ssh_agent_state_dir": str(tmp_path / name)} for name in AGENTS}
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    workload = {
        "target": f"file://{tmp_path}/target/", "concurrency": 2, "workers": 1, "io_rate": {"iops": 100}, "duration": "2s",
        "distributed": {"start_delay": "500ms"},
        "prepare": {"ensure_objects": [{"base_uri": "data/", "count": 20, "size_spec": "1KiB"}], "cleanup": True},
        "workload": [{"op": "get", "path": "data/", "weight": 1}],
    }  # fmt: skip
    (tmp_path / "workload.yml").write_text(json.dumps(workload))
    try:
        done = subprocess.run([sys.executable, "-c", BEFORE + script + AFTER], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    finally:
        end_agents(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("COMPLETE all agents finished, all journals are whole")
    assert "run_ended" in done.stdout
    (run,) = (tmp_path / "sai3ssh-runs").iterdir()
    assert json.loads((run / "events.ndjson").read_text().splitlines()[-1])["event"] == "run_ended"
    assert results.load(run).finished
