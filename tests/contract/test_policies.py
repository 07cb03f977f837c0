"""Who is left out, who is given up, who comes back: policies in whole runs of the real command with real agents on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sai3ssh import config
from sai3ssh.cli import app
from sai3ssh.controller import survey
from sai3ssh.controller.link import Link, LinkOptions
from sai3ssh.controller.run import RunController
from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.controller.session import Options
from sai3ssh.model import Host, Intervals
from sai3ssh.protocol import scan
from sai3ssh.retry import Backoff
from tests.agent.s3_server import ACCESS_KEY, SECRET_KEY, Server, response
from tests.contract.sshd_server import Sshd, free_port
from tests.contract.test_link import agent_bundle, sshd, wait_until
from tests.contract.test_resume import command, ended, keep_cut
from tests.contract.test_run import WORKLOAD, Bench, bench

__all__ = ["agent_bundle", "bench", "sshd"]


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


@contextlib.contextmanager
def cut(bench: Bench, agent: str) -> Iterator[None]:
    """Meanwhile no window to that agent lives longer than a moment."""
    over = threading.Event()
    cutting = threading.Thread(target=keep_cut, args=(bench, agent, over))
    cutting.start()
    try:
        yield
    finally:
        over.set()
        cutting.join()


class SlowStore:
    """Answers as S3 does, 20 ms after each request, and keeps what was put. What is in `hold` is not answered before `release` is set."""

    def __init__(self, hold: Sequence[str] = ()) -> None:
        self.release = threading.Event()
        self._hold = hold
        self.content: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def __call__(self, _client: object, request: Any, _number: int) -> bytes:
        time.sleep(0.02)
        if request.path in self._hold:
            self.release.wait(60.0)
        with self._lock:
            if request.method == "PUT":
                self.content[request.path] = request.body
            if request.method == "DELETE":
                self.content.pop(request.path, None)
            if request.method == "GET":
                return response(self.content.get(request.path, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"))
        return response()


def ledger(journal: Path, stage: int = 0) -> Intervals:
    """The objects that a journal says were prepared in that stage."""
    records = scan(journal.read_bytes())[0]
    return Intervals([pair for record in records if record["kind"] == "ledger" and record["stage"] == stage for pair in record["ranges"]])


def test_a_lost_agent_that_returns_is_told_so_and_writes_nothing_more(bench: Bench) -> None:
    """Each agent needs 3 s at least for its share, so that whoever is cut at the start is given up in the middle of it."""
    store = SlowStore()
    text = WORKLOAD.replace("  - {{name: cleanup, type: cleanup}}\n", "").replace("count: 100", "count: 600")
    text = text.replace(
        "start_delay: 500ms", "start_delay: 500ms, heartbeat_interval: 200ms, failure_policy: best_effort, reassign_on_loss: true"
    )
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with Server(store) as server:
        more = f's3: {{endpoint_url: "{server.url}"}}'
        options = ("--skip", "all", "--reconnect-timeout", "1.5")
        process = bench.start(*options, target="s3://bucket/x/", more=more, text=text, duration="4s", **keys)
        bench.wait_for("stage_started", name="prepare")
        with cut(bench, "right"):
            bench.wait_for("reassigned")
        journal = next((bench.directory / "right").glob("runs/*/right/journal.ndjson"))
        before = ledger(journal)
        said = ended(process, 3)
    assert "verdict PARTIAL" in said
    assert server.unsigned == []
    assert [event["agent"] for event in bench.events("agent_lost")] == ["right"]
    last = scan(journal.read_bytes())[0][-1]
    assert (last["kind"], last["outcome"]) == ("final", "stopped")
    assert last["reason"].startswith("given up by the controller: not reached for ")
    assert not bench.pids("supervise")
    assert (bench.run / "agents" / "right" / "journal.ndjson").read_bytes() == journal.read_bytes(), "what it had done is collected"
    of_right, of_left = ledger(journal), ledger(bench.run / "agents" / "left" / "journal.ndjson")
    assert list(of_right) == list(before)
    assert 0 < len(of_right) < 300
    assert list(Intervals([*of_left, *of_right])) == [(0, 600)]
    assert set(store.content) == {f"/bucket/x/data/prepared-{i:08d}.dat" for i in range(600)}
    assert {len(content) for content in store.content.values()} == {1024}


def test_what_breaks_after_an_agent_was_collected_is_no_trouble(bench: Bench) -> None:
    """The other one's storage is slow: it still works when the link of the first one breaks for good."""
    store = SlowStore(["/bucket/x/data/prepared-00000099.dat"])
    text = WORKLOAD[: WORKLOAD.index("  - {{name: read")]
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with Server(store) as server:
        more = f's3: {{endpoint_url: "{server.url}"}}'
        process = bench.start("--skip", "all", target="s3://bucket/x/", more=more, text=text, **keys)
        bench.wait_for("journal_complete", agent="left")
        with cut(bench, "left"):
            bench.wait_for("link_down", agent="left")
            store.release.set()
            out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert err == ""
    assert "left: " not in out
    assert "verdict COMPLETE" in out
    assert [(event["agent"], event["level"]) for event in bench.events("link_down")] == [("left", "info")]
    assert not bench.events("policy_round")
    assert json.loads((bench.run / "results.json").read_text())["verdict"] == "COMPLETE"
    assert len(store.content) == 100


def test_a_host_that_this_machine_may_not_log_in_to_ends_no_run_and_is_left_out_when_told_so(
    bench: Bench, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = json.loads(bench.inventory.read_text())
    host = sshd.host()
    hosts["all"]["hosts"]["right"] |= {
        "ansible_connection": "ssh",
        "ansible_host": host.address,
        "ansible_port": host.port,
        "ansible_user": host.user,
        "ansible_ssh_private_key_file": host.key_file,
        "ansible_ssh_common_args": host.ssh_args,
        "ansible_python_interpreter": sys.executable,
    }
    bench.inventory.write_text(json.dumps(hosts))
    # Before a cleanup the run would wait for the end of the lease of whoever may still be writing.
    text = WORKLOAD.replace("  - {{name: cleanup, type: cleanup}}\n", "")
    process = bench.start("--policy", "best_effort", "--skip", "all", text=text, duration="6s")
    bench.wait_for("stage_started", name="read")
    process.kill()
    process.communicate()
    run = bench.run.name
    authorized = sshd.directory / "authorized_keys"
    authorized.rename(sshd.directory / "kept")

    said = ended(command(bench, "resume", run), 2)
    assert "right: " in said
    assert "--without-unreachable" in said
    for agent in ("left", "right"):
        last = scan(next((bench.directory / agent).glob(f"runs/{run}/{agent}/journal.ndjson")).read_bytes())[0][-1]
        # On a busy machine its stage may be over by now.
        assert bench.pids("supervise", agent) or last.get("outcome") == "finished", f"{agent} was not left alone: {last}"

    said = ended(command(bench, "resume", run, "--without-unreachable"), 3)
    assert "verdict PARTIAL" in said
    assert [event["agent"] for event in bench.events("go_on_without")] == ["right"]
    assert [event["name"] for event in bench.events("stage_ended")] == ["prepare", "read"]
    assert not bench.pids("supervise", "left")

    def link(host: Host, *arguments: Any, options: LinkOptions, **more: Any) -> Link:
        # Of who refuses, an answer comes at once; the other one has time to start its agent.
        if host.name == "right":
            options = replace(options, first_connect_timeout_s=1.0)
        return Link(host, *arguments, options=options, **more)

    there = {"-i": str(bench.inventory), "--results-dir": str(bench.results)}
    asked = ["status", *(word for option in there.items() for word in option)]
    for away in (False, True):
        if away:
            sshd.stop()
            monkeypatch.setattr(survey, "Link", link)
        told = CliRunner().invoke(app, [*asked, "--json"])
        assert told.exit_code == 0, told.output
        found = {one["host"]: one for one in json.loads(told.stdout)["hosts"]}
        assert [one["run_id"] for one in found["left"]["runs"]] == [run]
        assert found["right"]["runs"] == []
        assert ("Connection refused" if away else "authentication") in found["right"]["error"]
    text = " ".join(CliRunner().invoke(app, asked).stdout.split())
    assert run in text
    assert "Connection refused" in text


def test_a_policy_round_connects_at_once(bench: Bench, sshd: Sshd, agent_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its sshd is stopped and goes on later; after the attempt that failed meanwhile, the link by itself would wait for minutes."""
    caplog.set_level(logging.INFO, "sai3ssh.controller.link")
    workload = bench.directory / "workload.yml"
    more = "distributed: {failure_policy: retry, agent_retry_delay_s: 2, start_delay: 500ms}"
    text = WORKLOAD.replace("distributed: {{start_delay: 500ms}}", "")
    workload.write_text(text.format(target=f"file://{bench.directory}/target/", duration="2s", more=more))
    host = sshd.host(python=sys.executable, state_dir=str(bench.directory / "right"))
    plan, assignments = config.compile_plan(config.load(workload), "round", [host])
    directory = RunDirectory.create(bench.results, plan, assignments, [host], workload.read_text())
    # Long enough for a handshake on a busy machine: an attempt that fails because of it would hide the round.
    links = LinkOptions(connect_timeout_s=4.0, reconnect_timeout_s=math.inf, backoff=Backoff(first_s=300.0, max_s=300.0))
    controller = RunController(
        plan,
        assignments,
        [host],
        directory,
        agent_bundle,
        credentials=None,
        options=Options(start_delay_s=0.5),
        link_options=links,
        witness=lambda: True,  # whether this machine's gateway answers is not the question
    )
    reasons: list[str] = []
    running = threading.Thread(target=lambda: reasons.append(controller.run()), daemon=True)
    running.start()
    wait_until(lambda: any(event["name"] == "read" for event in bench.events("stage_started")), "the stage")
    assert sshd.process is not None
    os.kill(sshd.process.pid, signal.SIGSTOP)
    for pid in sshd.sessions():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "again in " in caplog.text, "a failed attempt")
    os.kill(sshd.process.pid, signal.SIGCONT)
    running.join(60.0)
    assert reasons == ["all stages ended"]
    assert bench.events("policy_round")
    (back,) = [event for event in bench.events("link_up") if event["resumed_offset"]]
    assert back["down_s"] < 60.0
