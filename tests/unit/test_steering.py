"""Commands about runs, where the operating system refuses something."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import cli, results, steering
from sai3ssh.controller.eventlog import EventLog
from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.errors import ConfigError, Permanent, RunError


def refuses(number: int) -> Callable[..., Any]:
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number), "somewhere")

    return call


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """Of a run that some other process steers."""
    monkeypatch.setattr(RunDirectory, "controller", lambda _: 4711)
    return RunDirectory(tmp_path)


def test_a_run_directory_that_cannot_be_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "controller.lock").mkdir()
    with pytest.raises(ConfigError, match=r"controller\.lock cannot be written: Is a directory"):
        RunDirectory(tmp_path).take()


def test_a_run_that_another_process_has_is_refused_with_exit_code_6(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sai3ssh.controller.rundir.LOCK_S", 0.0)
    holder = RunDirectory(directory.path)
    holder.take()
    with pytest.raises(RunError, match=r"has a controller on this machine already, process 4711.*--takeover") as refused:
        directory.take()
    holder.release()
    assert refused.value.exit_code == 6


def test_an_event_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").mkdir()
    with pytest.raises(Permanent, match=r"events\.ndjson cannot be written: Is a directory"):
        EventLog(tmp_path / "events.ndjson")


def test_a_controller_of_somebody_else_is_not_asked_to_leave(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering.os, "kill", refuses(errno.EPERM))
    with pytest.raises(ConfigError, match="process 4711 cannot be signalled: Operation not permitted"):
        steering.ask_to_leave(directory)
    with pytest.raises(ConfigError, match="process 4711 cannot be signalled"):
        steering.attach(directory, as_json=True, live=False, interrupt=True)


def test_a_controller_that_has_just_ended_need_not_leave(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering.os, "kill", refuses(errno.ESRCH))
    monkeypatch.setattr(steering, "HANDOVER_S", 0.0)
    steering.ask_to_leave(directory)


def test_results_that_do_not_fit_can_be_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "write", refuses(errno.ENOSPC))
    with pytest.raises(Permanent, match=r"cannot be written: No space left on device.*make room, then `sai3ssh resume .*` writes them"):
        steering.conclude(RunDirectory(tmp_path), as_json=True, tell=lambda **_: None)


def test_what_the_system_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "app", lambda **_: refuses(errno.EACCES)())
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "sai3ssh: somewhere: Permission denied\n"


def test_between_two_runs_of_a_series_signals_end_it(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []

    def pause(_: float) -> None:
        found.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))
        raise KeyboardInterrupt

    def once(_: RunDirectory) -> int:
        for number in before:
            signal.signal(number, lambda *_: None)
        return 0

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(steering.time, "sleep", pause)
    try:
        with pytest.raises(KeyboardInterrupt):
            steering.series(lambda: directory, once, 2, 30.0, as_json=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert found == [signal.default_int_handler, signal.SIG_DFL]
