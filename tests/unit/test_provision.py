"""What is made of ansible-runner's events, and of the command's options."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from sai3ssh.errors import ConfigError
from sai3ssh.provision import Play, Progress
from sai3ssh.ui.provision import LiveView, PlainView, print_outcome


def event(kind: str, host: str = "", task: str = "a task", **data: Any) -> dict[str, Any]:
    return {"event": kind, "event_data": {"task": task, **({"host": host} if host else {}), **data}}


def stats(**counts: dict[str, int]) -> dict[str, Any]:
    return {"event": "playbook_on_stats", "event_data": {"changed": {}, "ok": {}, "failures": {}, "dark": {}, **counts}}


def test_a_course_with_changes_and_failures() -> None:
    progress = Progress.of(["h1", "h2", "h3"])
    assert progress.take(event("playbook_on_task_start")) == {"event": "task", "task": "a task"}
    assert progress.take(event("runner_on_ok", "h1", res={"changed": True})) == {
        "event": "host",
        "host": "h1",
        "task": "a task",
        "result": "ok",
        "changed": True,
    }
    failed = progress.take(event("runner_on_failed", "h2", res={"msg": "no\n room", "stderr": "x\ndisk full"}))
    assert failed is not None
    assert (failed["result"], failed["message"]) == ("failed", "no room: disk full")
    assert "run the same command again" in failed["remedy"]
    progress.take(event("runner_on_unreachable", "h3", res={"msg": "ssh: connect to host h3 port 22: Connection refused"}))
    assert not progress.over
    told = progress.take(stats(ok={"h1": 7, "h2": 1}, changed={"h1": 2}, failures={"h2": 1}, dark={"h3": 1}))
    assert told == {
        "event": "hosts",
        "hosts": {
            "h1": {"ok": 7, "changed": 2, "failed": 0},
            "h2": {"ok": 1, "changed": 0, "failed": 1},
            "h3": {"ok": 0, "changed": 0, "failed": 1},
        },
    }
    assert progress.over
    assert set(progress.failures) == {"h2", "h3"}
    assert "`ssh` reaches the host" in progress.failures["h3"].remedy


def test_what_a_rescue_mended_is_no_failure() -> None:
    progress = Progress.of(["h1"])
    progress.take(event("runner_on_failed", "h1", res={"msg": "first"}))
    progress.take(stats(ok={"h1": 3}))
    assert progress.failures == {}
    assert progress.rows["h1"].failed == 0


def test_the_first_failure_of_a_host_is_the_one_that_is_told() -> None:
    progress = Progress.of(["h1"])
    progress.take(event("runner_on_failed", "h1", task="cause", res={"msg": "first"}))
    progress.take(event("runner_on_failed", "h1", task="rescue", res={"msg": "second"}))
    progress.take(stats(failures={"h1": 2}))
    assert progress.failures["h1"].task == "cause"


@pytest.mark.parametrize(
    ("kind", "answer", "message", "remedy"),
    [
        ("runner_on_failed", {"msg": "Missing sudo password"}, "Missing sudo password", "sudo without a password"),
        ("runner_on_unreachable", {"msg": "Host key verification failed."}, "Host key verification failed.", "trust-hosts.yml"),
        ("runner_on_failed", {"msg": "All items", "results": [{"failed": False}, {"failed": True, "msg": "item 2"}]}, "item 2", "again"),
        ("runner_on_failed", {}, "failed", "again"),
    ],
)
def test_failures_say_what_to_do(kind: str, answer: dict[str, Any], message: str, remedy: str) -> None:
    progress = Progress.of(["h1"])
    progress.take(event(kind, "h1", res=answer))
    assert progress.failures["h1"].message == message
    assert remedy in progress.failures["h1"].remedy


def test_what_is_not_of_our_hosts_is_nothing_to_tell() -> None:
    progress = Progress.of(["h1"])
    assert progress.take(event("runner_on_ok", "localhost", res={"changed": True})) is None
    assert progress.take(event("runner_on_start", "h1")) is None


def test_a_playbook_that_cannot_begin_leaves_its_reason() -> None:
    progress = Progress.of(["h1"])
    progress.take({"event": "verbose", "stdout": "[ERROR]: no such tag\nelsewhere"})
    assert not progress.over
    assert progress.complaint == "no such tag elsewhere"


def test_options_become_those_of_ansible() -> None:
    play = Play("deploy", ["h1,h2,"], "h1", check=True, diff=True, tags="agent", variables=["a=b", '{"c": 1}', "@/d.yml"])
    assert play.arguments() == [
        *("-i", "h1,h2,", "--limit", "h1", "--check", "--diff", "--tags", "agent"),
        *("-e", "a=b", "-e", '{"c": 1}', "-e", "@/d.yml"),
    ]
    with pytest.raises(ConfigError, match=r"-e 'keep' is no variable"):
        Play("deploy", ["h1,"], variables=["keep"]).arguments()
    with pytest.raises(ConfigError, match=r"--tags limit names no part of a deployment\. There are agent, limits, keepalive"):
        Play("deploy", ["h1,"], tags="agent,limit").arguments()


COURSE = (
    event("playbook_on_task_start", task="Write the unit"),
    event("runner_on_ok", "h1", task="Write the unit", res={"changed": True}),
    event("runner_on_ok", "h2", task="Write the unit", res={"changed": False}),
    event("runner_on_failed", "h3", task="Write the unit", res={"msg": "no room"}),
)


def test_plain_lines_tell_what_changed_and_what_failed() -> None:
    progress, out = Progress.of(["h1", "h2", "h3"]), io.StringIO()
    view = PlainView(out)
    for one in COURSE:
        ours = progress.take(one)
        assert ours is not None
        view.on_event(ours)
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["Write the unit", "  h1: changed"]
    assert lines[2].startswith("  h3: FAILED: no room. ")
    assert len(lines) == 3


def test_a_table_has_a_row_per_host_and_the_end_names_who_failed(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress.of(["h1", "h2", "h3"])
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    view = LiveView(progress, console)
    for one in COURSE:
        progress.take(one)
    console.print(view.draw())
    view.close()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split() for line in shown.splitlines() if line.startswith("h")][-3:] == [
        ["h1", "Write", "the", "unit", "1", "1", "0"],
        ["h2", "Write", "the", "unit", "1", "0", "0"],
        ["h3", "Write", "the", "unit", "0", "0", "1"],
    ]
    print_outcome(progress)
    said = capsys.readouterr().out
    assert "h3: Write the unit: no room. " in said
    assert said.endswith("3 hosts, 1 changed, 1 failed: h3\n")
