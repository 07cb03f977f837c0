"""sai3ssh.run: what becomes of the caller's functions, interrupts and mistakes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sai3ssh
from sai3ssh import api, op_logs, steering
from sai3ssh.controller.events import Records
from sai3ssh.controller.run import Leave
from sai3ssh.errors import ConfigError, InventoryError

RECORD = {
    "kind": "sec", "stage": 1, "second": 4, "from_clock_ns": 10**9, "to_clock_ns": 25 * 10**8, "warmup": False,
    "ops": {"get": [3, 300, 9000, 1.0, 2.0, 3.0, 4.0]}, "errors": {"put": {"timeout": 1, "reset": 1}},
}  # fmt: skip


def interrupt_main() -> None:
    """Ctrl-C, within what the main thread waits for."""
    main = threading.main_thread().ident
    assert main is not None
    time.sleep(0.05)  # until it waits; this fails nowhere when it does not yet
    signal.pthread_kill(main, signal.SIGINT)


class FakeController:
    """Tells two events and a second, and ends when it is interrupted; a second interrupt makes it leave."""

    def __init__(self, watch: Any, waits: bool) -> None:
        self._watch, self._waits = watch, waits
        self.reasons: list[str] = []
        self._asked = threading.Event()

    def interrupt(self, reason: str) -> None:
        self.reasons.append(reason)
        self._asked.set()

    def run(self) -> None:
        for name in ("run_created", "link_up"):
            self._watch.on_log({"event": name})
        self._watch.on_event(Records("h1", 1.0, (RECORD, {"kind": "hist"})))
        self._watch.on_tick()
        if self._waits:
            interrupt_main()
            assert self._asked.wait(60)
            if self._waits == 2:
                interrupt_main()
                while len(self.reasons) < 2:
                    time.sleep(0.001)
                raise Leave({})

    def note_end(self, **fields: Any) -> None: ...


class FakeDirectory:
    path = Path("r1")

    def take(self) -> None: ...

    def release(self) -> None: ...

    def contents(self) -> None: ...


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """As a shell starts programs; not as one starts those in the background, which ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def steer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """api._steer with a controller that is none; what it has done."""
    made: list[Any] = []

    def make(directory: Any, contents: Any, archive: Any, credentials: Any, observers: Any, waits: int = 0) -> FakeController:
        made.append(FakeController(observers[0], waits))
        return made[-1]

    def run(watch: Any, waits: int = 0) -> tuple[FakeController, list[str]]:
        done: list[str] = []
        monkeypatch.setattr(steering, "make_controller", lambda *args: make(*args, waits=waits))
        monkeypatch.setattr(steering, "conclude", lambda *_, **__: done.append("results"))
        monkeypatch.setattr(op_logs, "fetch", lambda *_, **__: done.append("op-logs"))
        try:
            api._steer(FakeDirectory(), Path(), None, watch)  # type: ignore[arg-type]
        finally:
            made[-1].done = done
        return made[-1], done

    run.made = made  # type: ignore[attr-defined]
    return run


def test_events_and_seconds_are_told(steer: Any) -> None:
    events: list[Any] = []
    seconds: list[api.Second] = []
    _, done = steer(api._Watch(events.append, seconds.append))
    assert [event["event"] for event in events] == ["run_created", "link_up"]
    assert seconds == [api.Second("h1", 1, 4, 1.5, False, {"get": 3}, {"get": 300}, {"put": 2}, {"get": 3.0})]
    assert done == ["results", "op-logs"]


def test_what_a_function_raises_stops_the_run_and_is_raised(steer: Any) -> None:
    def broken(event: Any) -> None:
        raise LookupError(event["event"])

    with pytest.raises(LookupError, match="run_created"):
        steer(api._Watch(broken, None))
    (controller,) = steer.made
    assert controller.reasons == ["LookupError in the calling program"]
    assert controller.done == ["results", "op-logs"]


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_stops_the_run_and_a_second_one_leaves(steer: Any, times: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        steer(api._Watch(None, None), waits=times)
    (controller,) = steer.made
    assert controller.reasons == ["KeyboardInterrupt in the calling program"] * times
    assert controller.done == (["results", "op-logs"] if times == 1 else [])


def test_a_run_that_cannot_be_steered_is_left_to_others() -> None:
    told: list[str] = []

    class Directory(FakeDirectory):
        def take(self) -> None:
            told.append("taken")

        def release(self) -> None:
            told.append("released")

        def contents(self) -> None:
            raise ConfigError("plan.json cannot be read")

    with pytest.raises(ConfigError):
        api._steer(Directory(), Path(), None, api._Watch(None, None))  # type: ignore[arg-type]
    assert told == ["taken", "released"]


def test_mistakes_are_typed_errors(tmp_path: Path) -> None:
    hosts = {"all": {"hosts": {"a": {"ansible_connection": "local"}}}}
    workload = {"target": f"file://{tmp_path}/t/", "workload": [{"op": "put", "path": "x/", "weight": 1, "size_spec": "1KiB"}]}
    with pytest.raises(ConfigError, match="cannot read the workload file"):
        sai3ssh.run(tmp_path / "none.yml", inventory=hosts)
    with pytest.raises(InventoryError, match="does not exist"):
        sai3ssh.run(workload, inventory=tmp_path / "none.yml")
    with pytest.raises(ConfigError, match=r"policy: expected 'fail_fast', .*, found 'brave'"):
        sai3ssh.run(workload, inventory=hosts, policy="brave")
    with pytest.raises(ConfigError, match=r"name: expected 1 to 40 letters, .*, found '\.\./x'"):
        sai3ssh.run(workload, inventory=hosts, name="../x")
    with pytest.raises(ConfigError, match="has a matrix, and this makes one run"):
        sai3ssh.run({**workload, "matrix": {"seed": [1, 2]}}, inventory=hosts)
    with pytest.raises(ConfigError, match=r"inventory-0: expected .*, not set\. Use texts, numbers"):
        sai3ssh.run({**workload, "name": Path("n")}, inventory={"all": {"hosts": {1, 2}}})
    # What stands in a dictionary is named, not the file that Ansible and the compiler read it from.
    for wrong, said in (
        ({**workload, "tarket": {}}, "workload, at \"tarket\": {}: unknown key 'tarket'; did you mean 'target'?"),
        ({**workload, "duration": "1 fortnight"}, 'workload, at "duration": "1 fortnight": duration: expected '),
    ):
        with pytest.raises(ConfigError) as caught:
            sai3ssh.run(wrong, inventory=hosts)
        assert str(caught.value).startswith(said)
    with pytest.raises(InventoryError, match=r"^inventory inventory-0 has no hosts\. Try"):
        sai3ssh.run(workload, inventory={"all": {}})
    with pytest.raises(ConfigError, match="workload: expected a file or a dictionary, found list"):
        sai3ssh.run([workload], inventory=hosts)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        sai3ssh.walk  # type: ignore[attr-defined]  # noqa: B018
