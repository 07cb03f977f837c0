"""What the commands that steer, resume, watch and end runs do."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from .controller.rundir import STEERED, RunDirectory
from .errors import ConfigError, Permanent, Superseded
from .plain import plain

if TYPE_CHECKING:
    from .controller.run import Observer, RunController
    from .controller.rundir import Contents
    from .model import Host
    from .preflight import Options as Preflight
    from .preflight import Report
    from .protocol import Json
    from .ui.views import View

USAGE, UNREADY, REGRESSED, INTERRUPTED = 2, 5, 7, 130
HANDOVER_S = 20.0
"""How long the controller that is taken over has to let go."""
SHOWN = 5
"""So many agents are named where there may be many."""
BEGIN_S = 30.0
"""How long a controller in the background has for its first event."""


def out(text: str) -> None:
    """One line to standard output."""
    sys.stdout.write(plain(text) + "\n")


def err(text: str) -> None:
    """One line to standard error."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


# --- before a run ------------------------------------------------------------------------------------------------------------------------


def first_look(hosts: Sequence[Host], options: Preflight, *, as_json: bool) -> Report:
    """The preflight of a run, without what is slow and needs no look each time. One line when all is well, warnings in full; failures in
    a table, and as RunError. With start_with_available, failures of some hosts are warnings."""
    import json

    from .preflight import preflight_failed
    from .ui.preflight import headline, print_report, print_warnings

    report, ends = look_once(hosts, options)
    if as_json:
        out(json.dumps({"event": "preflight_failed" if ends else "preflight", **(report.to_json() if ends else report.summary())}))
    if ends:
        print_report(report, stderr=True)
        raise preflight_failed(report)
    if not as_json:
        out(headline(report))
        print_warnings(report)
    return report


def look_once(hosts: Sequence[Host], options: Preflight) -> tuple[Report, bool]:
    """The preflight of a run, without what is slow and needs no look each time, and whether it ends the run: with start_with_available
    failures of some hosts do not."""
    from dataclasses import replace

    from .findings import Level
    from .preflight import FEW_PROBES, FLEET, examine

    report = examine(hosts, replace(options, probes=FEW_PROBES, throughput=False))
    failures = report.of(Level.FAILURE)
    some_are_well = len(report.failed_hosts()) < len(hosts) and all(host != FLEET for host, _ in failures)
    return report, bool(failures) and not (options.start_with_available and some_are_well)


# --- steering ----------------------------------------------------------------------------------------------------------------------------


def steer(
    directory: RunDirectory,
    archive: Path,
    *,
    as_json: bool,
    live: bool,
    credentials: Json | None,
    takeover: bool = False,
    without_unreachable: bool = False,
    stop_reason: str | None = None,
    summary: bool = True,
) -> int:
    """Runs the run of a directory, from its beginning or from where an earlier controller left it; the exit code. `stop_reason`: to end
    it; `summary`: show one at the end."""
    from .ui.views import make_view

    if takeover:
        ask_to_leave(directory)
    with signals_wait():
        directory.take()
        history = directory.history()
        contents = directory.contents()
        view = make_view(contents.plan, contents.assignments, as_json=as_json, live=live)
        view.catch_up(history)
        controller = make_controller(
            directory,
            contents,
            archive,
            credentials,
            view.observers,
            history=history,
            takeover=takeover,
            start_with_available=without_unreachable,
        )
        obey_signals(controller)
    if stop_reason is not None:
        controller.interrupt(stop_reason)
    code = finish(controller, view, as_json=as_json, summary=summary)
    if not controller.left:
        fetch_op_logs(directory, archive, as_json=as_json)
    if controller.left:
        # At once: the interpreter's own end would wait for threads that wait for hosts.
        sys.stdout.flush()
        os._exit(code)
    return code


def make_controller(
    directory: RunDirectory,
    contents: Contents,
    archive: Path,
    credentials: Json | None,
    observers: Sequence[Observer],
    *,
    history: Sequence[Json] = (),
    takeover: bool = False,
    start_with_available: bool = False,
) -> RunController:
    """The controller of a run directory that has been taken."""
    from .controller.link import LinkOptions
    from .controller.run import RunController
    from .controller.session import Options

    steering = contents.steering
    return RunController(
        contents.plan,
        contents.assignments,
        contents.hosts,
        directory,
        archive,
        credentials=credentials,
        options=Options(
            start_delay_s=steering.start_delay_s,
            ready_timeout_s=steering.ready_timeout_s,
            start_with_available=steering.start_with_available or start_with_available,
            takeover=takeover,
            cutoff_timeout_s=steering.cutoff_timeout_s,
        ),
        link_options=LinkOptions(
            heartbeat_s=contents.plan.heartbeat_s,
            # Agents that have the plan go on without us, so there is no hurry; for the others the operator waits.
            first_connect_timeout_s=math.inf if history else steering.connect_timeout_s,
            # The session decides when an agent is lost; its link goes on trying for as long as the run lasts.
            reconnect_timeout_s=math.inf,
        ),
        observers=observers,
        history=history,
    )


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Who has the lock of a run can be signalled by other commands; until there is a controller to obey, the signals wait.

    A mask would not do: it is of one thread, and libraries (numpy's, for one) have threads of their own that a signal may come to.
    """
    waiting: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda it, _: waiting.append(it)) for number in numbers}
    try:
        yield
    except BaseException:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        raise
    for came in waiting:
        signal.raise_signal(came)


def obey_signals(controller: RunController) -> None:
    """SIGINT and SIGTERM end the run, SIGUSR1 says that another controller has it now."""

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the handler's signature)
        controller.interrupt(f"{signal.Signals(number).name} at the controller")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    signal.signal(signal.SIGUSR1, lambda *_: controller.supersede("another controller on this machine has taken this run over"))


def finish(controller: RunController, view: View, *, as_json: bool, summary: bool = True) -> int:
    """Runs to the end, writes and, unless `summary` is off, shows the results; the exit code."""
    from .controller.run import Leave

    try:
        controller.run()
    except Superseded as superseded:
        view.close()
        controller.left = True
        err(f"sai3ssh: {superseded}")
        return STEERED
    except Permanent as error:
        view.close()
        controller.left = True
        err(f"sai3ssh: {error}")
        return USAGE
    except Leave as leave:
        view.close()
        _say_what_runs(controller.directory.path.name, leave.running)
        return INTERRUPTED
    finally:
        view.close()
    code = conclude(controller.directory, as_json=as_json or not summary, tell=controller.note_end)
    for trouble in controller.errors:
        err(f"sai3ssh: {trouble}")
    return code


def conclude(directory: RunDirectory, *, as_json: bool, tell: Callable[..., None]) -> int:
    """Writes the results of a run that is over, tells the verdict as its last event and shows the summary; the exit code."""
    from . import results

    try:
        written = results.write(directory.path)
    except OSError as error:
        name = directory.path.name
        raise Permanent(
            f"the results of run {name} cannot be written: {error.strerror}",
            remedy=f"All journals that could be had are here: make room, then `sai3ssh resume {name}` writes them",
        ) from error
    stopped = any(event["event"] == "stop_requested" for event in directory.history())
    code = INTERRUPTED if stopped else written.verdict.exit_code
    tell(verdict=written.verdict.value, reasons=list(written.reasons), exit_code=code)
    _report(directory)
    if not as_json:
        show(directory)
    return code


def fetch_op_logs(directory: RunDirectory, archive: Path, *, as_json: bool) -> None:
    """After the verdict: the op-logs, when the plan wants them, and what the results say of them."""
    from . import op_logs, results
    from .results.oplog import op_log_lines

    asked = op_logs.fetch(directory, archive, err)
    if not asked:
        return
    written = results.write(directory.path)
    _report(directory)
    if as_json:
        for line in op_logs.as_json(directory, asked):
            out(line)
        return
    here = [log for agent in asked if (log := written.content["op_log"][agent])["file"] is not None]
    if here:
        place = here[0]["file"] if len(here) == 1 else f"agents/*/{Path(here[0]['file']).name}"
        out(f"op-logs: {sum(log['written'] for log in here):,} operations in {directory.path / place}")
    for line in op_log_lines(written.content):
        err(f"sai3ssh: {line}")


def document(directory: Path) -> Json:
    """What the report of a run shows. Raises ConfigError when the run cannot be read."""
    from . import report
    from .results.runs import BROKEN

    try:
        return report.document(directory)
    except BROKEN as error:
        raise ConfigError(
            f"run {directory} cannot be read: {type(error).__name__}: {error}", remedy="Use the version of sai3ssh that wrote it"
        ) from error


def save_report(told: Json, directory: Path, file: Path | None = None) -> Path:
    """Writes the report of a document, into a directory unless a file is given; returns where. Raises ConfigError."""
    from . import report

    try:
        return report.write(told, directory, file)
    except OSError as error:
        raise ConfigError(f"the report cannot be written: {file or directory}: {error.strerror}", remedy="Name a place with -o") from error


def _report(directory: RunDirectory) -> None:
    """After the results: the report."""
    try_report(lambda: document(directory.path), directory.path)


def try_report(tell: Callable[[], Json], directory: Path) -> None:
    """Writes the report of a document that is still to be made, into a directory. Nothing fails for the want of one."""
    try:
        save_report(tell(), directory)
    except ConfigError as error:
        err(f"sai3ssh: {error.message}; `sai3ssh report {directory.name}` writes it")


def show(directory: RunDirectory) -> None:
    """Prints the summary of the results."""
    from . import results
    from .results.network import links
    from .ui.summary import print_summary

    written = results.read(directory.path)
    print_summary(results.summary(written), directory.path, links=links(written.content))


def ask_to_leave(directory: RunDirectory) -> None:
    """Tells the run's controller on this machine to leave it to us, and waits until it has."""
    pid = directory.controller()
    if pid is None:
        return
    _signal(pid, signal.SIGUSR1)
    deadline = time.monotonic() + HANDOVER_S
    while directory.controller() is not None and time.monotonic() < deadline:
        time.sleep(0.05)


def _signal(pid: int, number: signal.Signals) -> None:
    """Signals a controller; one that has just ended needs none."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise ConfigError(
            f"process {pid} cannot be signalled: {error.strerror}", remedy="Ask who started it, or do this as that user"
        ) from error


def _say_what_runs(run_id: str, running: dict[str, str]) -> None:
    if not running:
        err(f"left run {run_id}; no agent of it runs any more")
        return
    err(f"left run {run_id} at once. Still there:")
    for agent, state in running.items():
        err(f"  {agent}: {state}")
    err(f"They go on by themselves until they hear of it. Stop them with: sai3ssh stop {run_id}")


def pause(pause_s: float) -> None:
    """Waits between two runs, as a command that any signal ends."""
    # The handlers of the run before would tell a controller that has ended.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(pause_s)


def series(create: Callable[[], RunDirectory], once: Callable[[RunDirectory], int], count: int, pause_s: float, *, as_json: bool) -> int:
    """Several runs of one plan, one after the other, and what they are together; the exit code. One that fails costs only itself."""
    import json

    from .model import Verdict
    from .results.aggregate import aggregate
    from .ui.aggregate import print_aggregate

    done: list[Path] = []
    for number in range(count):
        if number:
            pause(pause_s)
        directory = create()
        if not as_json:
            out(f"run {number + 1} of {count}: {directory.path.name}")
        code = once(directory)
        done.append(directory.path)
        if code not in [verdict.exit_code for verdict in Verdict]:
            return code
    content = aggregate(done, False)
    if as_json:
        out(json.dumps(content))
    else:
        print_aggregate(content)
    return Verdict(content["verdict"]).exit_code


# --- runs that are there already ---------------------------------------------------------------------------------------------------------


def ended(history: Sequence[Json]) -> Json | None:
    """The event that ended the run, if it has ended."""
    return next((event for event in reversed(history) if event["event"] == "run_ended"), None)


def resume(directory: RunDirectory, archive: Path, *, as_json: bool, **options: Any) -> int:
    """Goes on with a run whose controller is gone."""
    history = directory.history()
    over = ended(history)
    if over is not None:
        raise ConfigError(
            f"run {directory.path.name} has ended: {over['verdict']}",
            remedy="`sai3ssh results` shows it; `sai3ssh collect` fetches journals that were out of reach",
        )
    if any(event["event"] == "collected" for event in history):
        # Only the results were missing.
        directory.take()
        code = conclude(directory, as_json=as_json, tell=lambda **fields: append(directory, "run_ended", **fields))
        fetch_op_logs(directory, archive, as_json=as_json)
        return code
    return steer(directory, archive, as_json=as_json, **options)


def append(directory: RunDirectory, event: str, **fields: Any) -> None:
    """Adds an event to the log of a run that nobody steers."""
    from .controller.eventlog import EventLog

    log = EventLog(directory.events)
    log.append(event, **fields)
    log.close()


def detach(directory: RunDirectory, *options: str) -> int:
    """Hands a run that was just created to a controller in the background, `resume` with these options, and returns once all agents have
    begun or it has ended."""
    with (directory.path / "controller.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "sai3ssh.cli", "resume", str(directory.path), "--no-live", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + BEGIN_S
    while not directory.events.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if not directory.events.exists():
        raise ConfigError(f"the controller in the background did not begin: {_said(directory)}", remedy="Run it without --detach")
    last = _watch(directory, _view(directory, as_json=False, live=False), ("run_ended", "commit"))
    name = directory.path.name
    if last is not None and last["event"] == "run_ended":
        show(directory)
        return int(last["exit_code"])
    if last is not None and last["event"] != "commit":
        text = _said(directory)
        raise ConfigError(
            f"the controller in the background is gone: {text}",
            remedy=f"`sai3ssh resume {name}` goes on with it, `sai3ssh stop {name}` ends it",
        )
    out(f"run {name} goes on in the background, process {child.pid}")
    out(f"  sai3ssh attach {name}    sai3ssh stop {name}    output: {directory.path / 'controller.log'}")
    return 0


def _said(directory: RunDirectory) -> str:
    """The last words of a controller in the background."""
    lines = (directory.path / "controller.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"


def _view(directory: RunDirectory, *, as_json: bool, live: bool) -> View:
    from .ui.views import make_view

    contents = directory.contents()
    return make_view(contents.plan, contents.assignments, as_json=as_json, live=live)


def _watch(directory: RunDirectory, view: View, until: tuple[str, ...]) -> Json | None:
    """Shows a run that another process steers until such an event; None when the operator leaves first."""
    from .controller.watch import Watch

    left: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: left.append(number))
    contents = directory.contents()
    watch = Watch(directory, contents.plan, contents.assignments, view.observers)
    try:
        return watch.run(lambda event: event["event"] in until, lambda: bool(left))
    finally:
        view.close()


def attach(directory: RunDirectory, *, as_json: bool, live: bool, interrupt: bool = False) -> int:
    """Shows a run that another process steers, to its end; the exit code of that run. `interrupt`: tells its controller to stop it."""
    history = directory.history()
    over = ended(history)
    pid = directory.controller()
    if over is None and pid is None:
        name = directory.path.name
        raise ConfigError(f"run {name} has no controller on this machine", remedy=f"`sai3ssh resume {name}` goes on with it")
    if over is not None:
        if not as_json:
            show(directory)
        return int(over["exit_code"])
    # A second signal would make it leave at once, with agents that still run.
    if interrupt and pid is not None and not any(event["event"] == "stop_requested" for event in history):
        _signal(pid, signal.SIGINT)
    last = _watch(directory, _view(directory, as_json=as_json, live=live), ("run_ended",))
    if last is None:
        err(f"left; run {directory.path.name} goes on")
        return INTERRUPTED
    if last["event"] != "run_ended":
        name = directory.path.name
        raise ConfigError(f"the controller of run {name} is gone", remedy=f"The agents go on; `sai3ssh resume {name}` steers them again")
    if not as_json:
        show(directory)
    return int(last["exit_code"])


def collect(directory: RunDirectory, archive: Path, *, as_json: bool) -> int:
    """Fetches the journals that were out of reach when a run ended, and revises its verdict; op-logs, too."""
    import json

    from . import op_logs, results
    from .controller.collect import collect as fetch

    directory.take()
    history = directory.history()
    over = ended(history)
    if over is None:
        name = directory.path.name
        raise ConfigError(f"run {name} has not ended", remedy=f"`sai3ssh resume {name}` goes on with it, `sai3ssh stop {name}` ends it")
    contents = directory.contents()
    whole = {event["agent"] for event in history if event["event"] == "journal_complete"}
    missing = [(a.agent_id, host) for a, host in zip(contents.assignments, contents.hosts, strict=True) if a.agent_id not in whole]
    if missing:
        names = ", ".join(agent for agent, _ in missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        err(f"fetching the journals of {names}; a host has {contents.steering.connect_timeout_s:.0f} s to answer")
    found = fetch(directory, missing, archive, contents.steering.connect_timeout_s)
    before = next(event for event in reversed(history) if event["event"] in ("run_ended", "verdict_revised"))
    for one in found:
        how = "whole" if one.whole else f"{one.bytes:,} bytes more, still {one.state}" if one.state else f"not reached: {one.error}"
        err(f"{one.agent}: {how}")
    asked = op_logs.fetch(directory, archive, err)
    written = results.write(directory.path)
    code = before["exit_code"] if before["exit_code"] == INTERRUPTED else written.verdict.exit_code
    if any(one.whole for one in found):
        append(
            directory,
            "verdict_revised",
            verdict=written.verdict.value,
            before=before["verdict"],
            agents=[one.agent for one in found if one.whole],
            reasons=list(written.reasons),
            exit_code=code,
        )
        written = results.write(directory.path)
    _report(directory)
    if as_json:
        out(json.dumps([{**vars(one), "error": str(one.error) if one.error else None} for one in found]))
        for line in op_logs.as_json(directory, asked):
            out(line)
    else:
        show(directory)
    return code
