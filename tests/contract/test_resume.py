"""Controllers that are killed, resumed, watched, taken over: whole runs of the real commands with real agents on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sai3ssh.controller.rundir import RunDirectory
from tests.contract.test_run import AGENTS, WORKLOAD, Bench, bench, verdict

__all__ = ["bench"]


def command(bench: Bench, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A command of sai3ssh that is about the bench's results directory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sai3ssh.cli", *arguments, "--results-dir", str(bench.results)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    bench.processes.append(process)
    return process


def ended(process: subprocess.Popen[str], code: int) -> str:
    """What a command printed that has ended with that code."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out + err


def whole(bench: Bench) -> None:
    """The mirrors are the journals, and each stage was released once."""
    for name in AGENTS:
        journal = (bench.directory / name / "runs" / bench.run.name / name / "journal.ndjson").read_bytes()
        assert (bench.run / "agents" / name / "journal.ndjson").read_bytes() == journal
    assert [event["stage"] for event in bench.events("commit")] == [0, 1, 2]
    assert not bench.pids("supervise")
    assert not list((bench.directory / "target").rglob("*.dat"))


@pytest.mark.parametrize("torn", [False, True], ids=["kill", "power-loss"])
def test_a_run_whose_controller_was_killed_is_resumed_and_complete(bench: Bench, torn: bool) -> None:
    process = bench.start(duration="6s")
    bench.wait_for("stage_started", name="read")
    process.kill()
    process.communicate()
    run = bench.run
    if torn:
        # What a power cut takes: the end of mirrors that were not synced, the half of an event.
        mirror = run / "agents" / "left" / "journal.ndjson"
        with mirror.open("r+b") as file:
            file.truncate(mirror.stat().st_size // 3)
        with (run / "events.ndjson").open("ab") as file:
            file.write(b'{"at":17,"event":"stage_en')
    said = ended(command(bench, "resume", run.name), 0)
    assert "verdict COMPLETE" in said
    assert verdict(run) == "COMPLETE"
    whole(bench)
    assert [event["event"] for event in bench.events("run_resumed")] == ["run_resumed"]
    results = json.loads((run / "results.json").read_text())
    assert results["coverage"] == 1.0


def test_it_is_resumed_from_a_copy_of_its_directory_as_on_another_machine(bench: Bench) -> None:
    process = bench.start(duration="6s")
    bench.wait_for("stage_started", name="prepare")
    process.kill()
    process.communicate()
    elsewhere = bench.directory / "elsewhere"
    shutil.copytree(bench.run, elsewhere / bench.run.name)
    said = ended(command(bench, "resume", str(elsewhere / bench.run.name)), 0)
    assert "verdict COMPLETE" in said
    assert verdict(elsewhere / bench.run.name) == "COMPLETE"


def test_a_second_controller_is_refused_and_takes_over_when_told_so(bench: Bench) -> None:
    first = bench.start(duration="300s")  # longer than all that follows, however busy this machine is
    bench.wait_for("stage_started", name="read")
    said = ended(command(bench, "resume", bench.run.name), 6)
    assert f"has a controller on this machine already, process {first.pid}" in said
    assert "--takeover" in said
    # As from another machine: a copy of the directory, and its own lock.
    elsewhere = bench.directory / "elsewhere" / bench.run.name
    shutil.copytree(bench.run, elsewhere)
    said = ended(command(bench, "resume", str(elsewhere)), 6)
    assert "ago, and may still be; asking again" in said
    assert "is connected and steers this run" in said
    second = command(bench, "resume", str(elsewhere), "--takeover")
    said = ended(first, 6)
    assert "has taken this run over" in said
    # On the same machine it is told by a signal.
    third = command(bench, "resume", str(elsewhere), "--takeover")
    assert "has taken this run over" in ended(second, 6)
    ended(command(bench, "stop", str(elsewhere)), 130)
    assert "verdict PARTIAL" in ended(third, 130)
    assert verdict(elsewhere) == "PARTIAL"


def test_in_the_background_it_is_watched_by_several_and_stopped(bench: Bench) -> None:
    said = ended(bench.start("--detach", duration="60s"), 0)
    assert f"sai3ssh attach {bench.run.name}" in said
    bench.processes.clear()  # the command has ended; the controller is another process
    deadline = time.monotonic() + 30.0
    while not bench.events("stage_started"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    watchers = [command(bench, "attach", bench.run.name) for _ in range(2)]
    leaving = command(bench, "attach", bench.run.name, "--json")
    while not any(event["name"] == "read" for event in bench.events("stage_started")):
        time.sleep(0.05)
    assert leaving.stdout is not None
    leaving.stdout.readline()  # it watches
    leaving.send_signal(signal.SIGINT)
    assert "goes on" in ended(leaving, 130)
    listed = ended(command(bench, "status"), 0)
    assert bench.run.name in listed
    stopping = command(bench, "stop", bench.run.name[:20])
    assert "verdict PARTIAL" in ended(stopping, 130)
    for watcher in watchers:
        seen = ended(watcher, 130)
        assert "stage read started on all agents" in seen
        assert "verdict PARTIAL" in seen
    assert not bench.pids("supervise")
    assert "verdict PARTIAL" in (bench.run / "controller.log").read_text()


def test_a_signal_that_comes_as_soon_as_the_run_has_a_controller_ends_it_in_order(bench: Bench) -> None:
    process = bench.start(duration="60s")
    deadline = time.monotonic() + 60.0
    while not (bench.results.exists() and any(bench.results.glob("*/controller.json")) and RunDirectory(bench.run).controller()):
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    assert "verdict FAILED" in ended(process, 130)
    assert not bench.pids("supervise")


def test_a_run_without_a_controller_is_stopped_all_the_same(bench: Bench) -> None:
    process = bench.start(duration="60s")
    bench.wait_for("stage_started", name="read")
    process.kill()
    process.communicate()
    assert "resume" in ended(command(bench, "attach", bench.run.name), 2)
    ended(command(bench, "stop", bench.run.name), 130)
    assert not bench.pids("supervise")
    assert verdict(bench.run) == "PARTIAL"
    assert "has ended: PARTIAL" in ended(command(bench, "resume", bench.run.name), 2)


def keep_cut(bench: Bench, agent: str, over: threading.Event, controller: int | None = None) -> None:
    """No window to that agent, or of one controller's only, lives longer than a moment."""
    while not over.is_set():
        for pid in bench.pids("follow", agent):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if controller in (None, parent):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.03)  # a window needs longer than that to start, and a look at all processes takes 5 ms


def test_a_second_controller_that_is_refused_does_not_keep_the_agents_that_the_first_could_not_reach(bench: Bench) -> None:
    first = bench.start("--reconnect-timeout", "300", duration="300s")  # longer than all that follows
    bench.wait_for("stage_started", name="read")
    elsewhere = bench.directory / "elsewhere" / bench.run.name
    shutil.copytree(bench.run, elsewhere)
    over = threading.Event()
    cutting = threading.Thread(target=keep_cut, args=(bench, "right", over, first.pid))
    cutting.start()
    try:
        said = ended(command(bench, "resume", str(elsewhere)), 6)
    finally:
        over.set()
        cutting.join()
    assert "is connected and steers this run" in said
    claimed = [json.loads(line) for line in (elsewhere / "events.ndjson").read_text().splitlines() if '"claimed"' in line]
    assert [event["agent"] for event in claimed] == ["right"]
    bench.wait_for("claimed_by_another")
    ended(command(bench, "stop", bench.run.name), 130)
    assert "verdict PARTIAL" in ended(first, 130)
    assert not bench.pids("supervise")  # right obeyed the first one again
    assert [event["agent"] for event in bench.events("claimed_by_another")] == ["right"]


def test_a_journal_that_was_out_of_reach_is_collected_later_and_the_verdict_revised(bench: Bench) -> None:
    text = WORKLOAD.replace("  - {{name: cleanup, type: cleanup}}\n", "").replace(
        "start_delay: 500ms", "start_delay: 500ms, failure_policy: best_effort, reassign_on_loss: true, agent_barrier_timeout: 3s"
    )
    process = bench.start("--reconnect-timeout", "3", duration="8s", text=text)
    bench.wait_for("stage_started", name="read")
    over = threading.Event()
    cutting = threading.Thread(target=keep_cut, args=(bench, "right", over))
    cutting.start()
    try:
        out, err = process.communicate(timeout=120)
    finally:
        over.set()
        cutting.join()
    assert process.returncode == 3, out + err
    assert verdict(bench.run) == "PARTIAL"
    deadline = time.monotonic() + 30.0
    while bench.pids("supervise", "right"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    said = ended(command(bench, "collect", bench.run.name), 0)
    assert "right: whole" in said
    assert verdict(bench.run) == "COMPLETE"
    assert "<title>COMPLETE" in (bench.run / "report.html").read_text()
    (revised,) = bench.events("verdict_revised")
    assert (revised["before"], revised["verdict"], revised["agents"]) == ("PARTIAL", "COMPLETE", ["right"])
    results = json.loads((bench.run / "results.json").read_text())
    assert results["revisions"][0]["before"] == "PARTIAL"
    assert "PARTIAL" in (bench.run / "STATUS.txt").read_text()
    journal = (bench.directory / "right" / "runs" / bench.run.name / "right" / "journal.ndjson").read_bytes()
    assert (bench.run / "agents" / "right" / "journal.ndjson").read_bytes() == journal


@pytest.mark.parametrize("when", ["prepare", "read"])
def test_without_its_directory_a_run_is_resumed_from_what_the_agents_have(bench: Bench, when: str) -> None:
    process = bench.start(duration="6s")
    bench.wait_for("stage_started", name=when)
    process.kill()
    process.communicate()
    run_id = bench.run.name
    shutil.rmtree(bench.results)
    options = ["--from-agents", "-i", str(bench.inventory)]
    assert "is on none of 2 hosts" in ended(command(bench, "resume", "nothing", *options), 2)
    said = ended(command(bench, "resume", run_id[:20], *options), 0)
    assert "verdict COMPLETE" in said
    assert bench.run.name == run_id
    whole(bench)


def test_segments_are_runs_of_their_own_and_merged(bench: Bench) -> None:
    began = time.monotonic()
    out, err = bench.start("--repeat", "2", "--pause", "1s", "--name", "seg").communicate(timeout=120)
    assert bench.processes[-1].returncode == 0, out + err
    assert time.monotonic() - began > 5.0
    runs = sorted(bench.results.iterdir())
    assert [verdict(run) for run in runs] == ["COMPLETE", "COMPLETE"]
    assert "run 2 of 2" in out
    (line,) = [line for line in out.splitlines() if "2 of 2 runs" in line]
    assert line.startswith("COMPLETE")
    assert ended(bench.start("--repeat", "2", "--pause", "soon"), 2).count("--pause") == 1
