"""What a policy does in whole runs of the real command with real agents on this machine: who is left out, who is given up, who comes back."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from tests.contract.sshd_server import free_port
from tests.contract.test_resume import ended
from tests.contract.test_run import WORKLOAD, Bench, bench

__all__ = ["bench"]


@pytest.mark.parametrize(
    ("options", "name"),
    [((), "retry_once"), (("--policy", "fail_fast"), "fail_fast"), (("--continue-on-agent-failure",), "best_effort")],
)
def test_the_policy_of_the_command_line_goes_before_that_of_the_file(bench: Bench, options: tuple[str, ...], name: str) -> None:
    text = WORKLOAD.replace("start_delay: 500ms", "start_delay: 500ms, failure_policy: retry_once")
    process = bench.start(*options, "--skip", "all", text=text)
    bench.wait_for("submitted", agent="left")
    told = json.loads(next((bench.directory / "left").glob("runs/*/left/plan.json")).read_text())
    process.send_signal(signal.SIGINT)
    ended(process, 130)
    plan = json.loads((bench.run / "plan.json").read_text())
    assert plan["policy"]["name"] == name
    assert told["plan"]["policy"] == plan["policy"]


def test_policies_that_contradict_each_other_start_nothing(bench: Bench) -> None:
    said = ended(bench.start("--continue-on-agent-failure", "--policy", "retry"), 2)
    assert "--continue-on-agent-failure is best_effort and contradicts --policy retry" in said
    assert not bench.results.exists()
    assert bench.left_on_hosts() == []


def test_an_agent_that_cannot_start_is_left_out_where_that_is_allowed_and_the_results_name_it(bench: Bench) -> None:
    """Nobody listens where its SSH should be; preflight is skipped, so that the run itself meets that."""
    hosts = json.loads(bench.inventory.read_text())
    ssh = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": free_port(), "ansible_user": "nobody"}
    hosts["all"]["hosts"]["away"] = ssh
    bench.inventory.write_text(json.dumps(hosts))
    options = ("--skip", "all", "--connect-timeout", "1", "--policy", "best_effort")
    said = ended(bench.start(*options), 4)
    assert "away: " in said
    (refused,) = bench.results.iterdir()
    assert not bench.events("commit")
    assert bench.left_on_hosts() == []
    assert not list((bench.directory / "target").rglob("*.dat"))
    shutil.rmtree(refused)

    said = ended(bench.start(*options, "--start-with-available", duration="1s"), 3)
    assert "verdict PARTIAL" in said
    results = json.loads((bench.run / "results.json").read_text())
    assert results["verdict"] == "PARTIAL"
    assert any("away" in reason for reason in results["reasons"])
    assert "away" in (bench.run / "STATUS.txt").read_text()
    assert [event["agent"] for event in bench.events("go_on_without")] == ["away"]
    assert [event["name"] for event in bench.events("stage_ended")] == ["prepare", "read", "cleanup"]
    assert not list((bench.directory / "target").rglob("*.dat"))
