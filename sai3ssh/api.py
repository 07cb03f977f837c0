"""`sai3ssh.run`: a run out of another program. Nothing is printed, no signal is handled, and errors are those of sai3ssh.errors."""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .controller.events import Event, Records
from .controller.rundir import RunDirectory
from .errors import ConfigError, RunError, Sai3sshError
from .model import Verdict
from .protocol import Json

if TYPE_CHECKING:
    from .config import Workload
    from .controller.run import RunController
    from .results.frames import Run

File = str | os.PathLike[str]
POLL_S = 0.2


@dataclass(frozen=True)
class Second:
    """What one agent did in one second, as it arrives; after a loss of the link several come at once."""

    agent: str
    stage: int
    """Position in the plan."""
    second: int
    """From the start of the stage, beginning with 0."""
    seconds: float
    """How long it was."""
    warmup: bool
    ops: dict[str, int]
    """Operations that succeeded, by kind."""
    bytes: dict[str, int]
    errors: dict[str, int]
    """Operations that failed, by kind."""
    p99_us: dict[str, float]
    """Of this agent's operations in this second, by kind."""


def run(
    workload: File | Mapping[str, Any],
    *,
    inventory: File | Sequence[File] | Mapping[str, Any],
    limit: str = "all",
    results_dir: File = "sai3ssh-runs",
    name: str | None = None,
    policy: str | None = None,
    start_with_available: bool = False,
    connect_timeout_s: float = 60.0,
    op_log: bool = False,
    skip: Sequence[str] = (),
    on_event: Callable[[Json], None] | None = None,
    on_second: Callable[[Second], None] | None = None,
) -> Run:
    """Runs a workload on all hosts of an inventory and returns its results, COMPLETE or PARTIAL, as results.load does.

    `workload` and `inventory` are files, or what such files say as a dictionary; the other options are those of `sai3ssh run`. on_event
    gets each event of the controller's log, on_second each second of each agent. Both are called on another thread than the caller's, one
    call at a time, and must not block: agents do not wait, but this controller does. An exception in one of them stops the run and is
    raised.

    KeyboardInterrupt stops all agents, collects, writes the results and is raised then; a second one leaves at once. Raises ConfigError,
    InventoryError, RunError (preflight: exit_code 5; FAILED: exit_code 4, with the place of what was measured) and other Sai3sshErrors.
    """
    from . import inventory as inventories
    from .launch import Launch
    from .results.frames import load

    with tempfile.TemporaryDirectory(prefix="sai3ssh-") as scratch:
        sources = inventory if isinstance(inventory, (list, tuple)) else [inventory]
        places = [_file(source, Path(scratch) / f"inventory-{number}.yml") for number, source in enumerate(sources)]
        file = Path(_file(workload, Path(scratch) / "workload.yml"))
        with _in_words_of_the_caller(Path(scratch)):
            loaded = _load(file, name, policy, op_log)
            hosts = inventories.load(places, limit)
            waits = {"connect_timeout_s": connect_timeout_s, "start_with_available": start_with_available}
            launch = Launch.of(loaded, hosts, Path(results_dir), skip, quiet=True, **waits)
            directory = launch.create(loaded)
    watch = _Watch(on_event, on_second)
    _steer(directory, launch.archive, launch.credentials, watch)
    found = load(directory.path)
    if found.verdict is Verdict.FAILED:
        text = f"run {directory.path.name} FAILED: {'; '.join(found.reasons)}"
        raise RunError(text, exit_code=found.verdict.exit_code, remedy=f"What was measured is in {directory.path}")
    return found


def _file(source: File | Mapping[str, Any], place: Path) -> str:
    if isinstance(source, Mapping):
        try:
            # JSON is YAML.
            text = json.dumps(source, default=os.fspath, indent=1)
        except (TypeError, ValueError) as error:
            remedy = "Use texts, numbers, lists and dictionaries, as a YAML file would have them"
            raise ConfigError(f"{place.stem}: {error}", remedy=remedy) from error
        place.write_text(text, encoding="utf-8")
        return str(place)
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(f"{place.stem}: expected a file or a dictionary, found {type(source).__name__}", remedy="Give one of them")
    return os.fspath(source)


@contextmanager
def _in_words_of_the_caller(scratch: Path) -> Iterator[None]:
    """Errors name a dictionary and what stands in it, not the file that it was written to."""
    try:
        yield
    except Sai3sshError as error:
        if isinstance(error, ConfigError) and error.file is not None and Path(error.file).parent == scratch:
            place = Path(error.file)
            near = place.read_text(encoding="utf-8").splitlines()[error.line - 1].strip(" ,:[{") if error.line is not None else ""
            error.file, error.line, error.column = f"{place.stem}, at {near}" if near else place.stem, None, None
        error.message = re.sub(rf"{re.escape(str(scratch))}/([\w-]+)\.yml", r"\1", error.message)
        raise


def _load(file: Path, name: str | None, policy: str | None, op_log: bool) -> Workload:
    """A workload file; what the caller says goes before its keys."""
    from . import config

    loaded, *others = [one.workload for one in config.load_all(file)]
    if others:
        raise ConfigError("the workload has a matrix, and this makes one run", remedy="Call it with each combination that is wanted")
    if op_log:
        loaded.switch_on_op_log()
    if policy is not None:
        loaded.override(("distributed", "failure_policy"), policy, "policy")
    if name is not None:
        loaded.override(("name",), name, "name")
    return loaded


class _Watch:
    """Tells the caller's functions; the first exception of one ends the run."""

    def __init__(self, on_event: Callable[[Json], None] | None, on_second: Callable[[Second], None] | None) -> None:
        self._on_event, self._on_second = on_event, on_second
        self.controller: RunController | None = None
        self.error: BaseException | None = None

    def on_log(self, event: Json) -> None:
        """An event has been logged."""
        if self._on_event is not None:
            with self._kept():
                self._on_event(dict(event))

    def on_event(self, event: Event) -> None:
        """A link has reported something."""
        if self._on_second is not None and isinstance(event, Records):
            for record in event.records:
                if record["kind"] == "sec":
                    with self._kept():
                        self._on_second(_second(event.agent, record))

    def on_tick(self) -> None:
        """Nothing: what is told comes from events."""

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            # Later ones are while the run is being stopped, which a second interrupt would not wait for.
            if self.error is None:
                self.error = error
                if self.controller is not None:
                    self.controller.interrupt(f"{type(error).__name__} in the calling program")


def _second(agent: str, record: Json) -> Second:
    return Second(
        agent,
        record["stage"],
        record["second"],
        (record["to_clock_ns"] - record["from_clock_ns"]) / 1e9,
        record["warmup"],
        {op: figures[0] for op, figures in record["ops"].items()},
        {op: figures[1] for op, figures in record["ops"].items()},
        {op: sum(classes.values()) for op, classes in record["errors"].items()},
        {op: figures[5] for op, figures in record["ops"].items()},
    )


def _steer(directory: RunDirectory, archive: Path, credentials: Json | None, watch: _Watch) -> None:
    """Steers the run on a thread of its own, so that an interrupt of the caller's is an order like any other."""
    from . import op_logs, steering
    from .controller.run import Leave

    directory.take()
    try:
        controller = steering.make_controller(directory, directory.contents(), archive, credentials, [watch])
    except BaseException:
        # The caller's process goes on, and would keep everybody from resuming the run.
        directory.release()
        raise
    watch.controller = controller
    ended: list[BaseException] = []
    # Not thread.join: a signal in it has Python take the thread for one that has ended.
    over = threading.Event()

    def work() -> None:
        try:
            controller.run()
            steering.conclude(directory, as_json=True, tell=controller.note_end)
            op_logs.fetch(directory, archive, lambda _: None, interruptible=False)
        except BaseException as error:
            ended.append(error)
        finally:
            over.set()

    thread = threading.Thread(target=work, name=f"run {directory.path.name}", daemon=True)
    interrupted: KeyboardInterrupt | None = None
    waiting = True
    while waiting:
        try:
            # Also while it starts: an interrupt must not leave it alone.
            if interrupted is None and thread.ident is None:
                thread.start()
            while not over.wait(POLL_S):
                pass
            waiting = False
        except KeyboardInterrupt as interrupt:
            interrupted = interrupt
            controller.interrupt("KeyboardInterrupt in the calling program")
    directory.release()
    for error in (watch.error, interrupted, *ended):
        if error is not None and not (isinstance(error, Leave) and interrupted is not None):
            raise error
