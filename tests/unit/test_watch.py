"""Reading the event log and the mirrors of a run that another process steers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import steering
from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.controller.watch import Tail
from sai3ssh.errors import ConfigError


def events(tail: Tail) -> list[Any]:
    return [json.loads(line) for line in tail.lines()]


@pytest.mark.parametrize("torn", [b"{", b'{"event":"link_up","at":12345678', b'{"event":"x"}'])
@pytest.mark.parametrize("meanwhile", [[], [1], [1, 2, 3]])
def test_an_event_that_was_torn_and_cut_off_is_never_seen(tmp_path: Path, torn: bytes, meanwhile: list[int]) -> None:
    """The next controller cuts it off and goes on, perhaps before the next look."""
    path = tmp_path / "events.ndjson"
    whole = b'{"n":0}\n'
    path.write_bytes(whole + torn)
    tail = Tail(path, from_end=False)
    assert events(tail) == [{"n": 0}]
    path.write_bytes(whole + b"".join(b'{"n":%d,"event":"after"}\n' % n for n in meanwhile))
    seen = events(tail)
    with path.open("ab") as file:
        file.write(b'{"n":9')
    assert not events(tail)
    with path.open("ab") as file:
        file.write(b"}\n")
    seen += events(tail)
    assert [event["n"] for event in seen] == [*meanwhile, 9]


def test_of_a_mirror_only_what_is_new_is_read_from_its_first_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.ndjson"
    path.write_bytes(b"one\ntw")
    tail = Tail(path, from_end=True)
    assert not list(tail.lines())
    with path.open("ab") as file:
        file.write(b"o\nthree\nfo")
    assert list(tail.lines()) == [b"three\n"]
    with path.open("ab") as file:
        file.write(b"ur\n")
    assert list(tail.lines()) == [b"four\n"]


def test_a_file_that_comes_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "journal.ndjson", from_end=True)
    assert not list(tail.lines())
    (tmp_path / "journal.ndjson").write_bytes(b"one\n")
    assert list(tail.lines()) == [b"one\n"]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """Of a run that some other process steers."""
    monkeypatch.setattr(RunDirectory, "controller", lambda _: 4711)
    monkeypatch.setattr(steering, "_view", lambda *_, **__: None)
    (tmp_path / "events.ndjson").write_bytes(b'{"event":"run_created"}\n')
    return RunDirectory(tmp_path)


@pytest.mark.parametrize(("event", "signals"), [("stage_started", 1), ("stop_requested", 0)])
def test_a_run_that_is_being_stopped_is_not_told_so_again(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, event: str, signals: int
) -> None:
    """The second signal would make its controller leave at once."""
    sent: list[int] = []
    monkeypatch.setattr(steering.os, "kill", lambda _, number: sent.append(number))
    monkeypatch.setattr(steering, "_watch", lambda *_: None)
    with directory.events.open("ab") as file:
        file.write(json.dumps({"event": event}).encode() + b"\n")
    steering.attach(directory, as_json=True, live=False, interrupt=True)
    assert len(sent) == signals


class Child:
    """A controller in the background that says something and is gone."""

    pid = 4711

    def __init__(self, *_: object, stdout: Any, **__: object) -> None:
        stdout.write(b"one thing\nsai3ssh: events.ndjson cannot be written: No space left on device\n")
        stdout.flush()

    def poll(self) -> int:
        return 2


def test_a_controller_in_the_background_that_is_gone_is_not_said_to_go_on(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering.subprocess, "Popen", Child)
    monkeypatch.setattr(steering, "_watch", lambda *_: {"event": "submitted"})
    with pytest.raises(ConfigError, match=r"is gone: sai3ssh: events\.ndjson cannot be written: No space left on device"):
        steering.detach(directory)
    monkeypatch.setattr(steering, "_watch", lambda *_: {"event": "commit"})
    assert steering.detach(directory) == 0
