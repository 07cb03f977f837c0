"""The run directory on the controller."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ConfigError, RunError
from ..model import Assignment, Host, Plan, from_json, to_json
from ..oplog import TRACE
from ..protocol import Json
from .eventlog import read

STEERED = 6
"""The exit code of who wants a run that another controller has, or has taken over."""
LOCK_S = 0.5
"""Who only looks whether somebody has a run holds its lock for a moment."""


def new_run_id(name: str, now: datetime | None = None) -> str:
    """A unique id that is a valid file name: <name>-<UTC time>-<4 random hexadecimal digits>."""
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:40] or "run"
    return f"{slug}-{(now or datetime.now(UTC)):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


@dataclass(frozen=True)
class Steering:
    """What a controller of the run needs besides the plan; the same for one that resumes it. Times in seconds."""

    start_delay_s: float = 2.0
    ready_timeout_s: float = 120.0
    connect_timeout_s: float = 60.0
    """For the first connection to a host."""
    start_with_available: bool = False
    cutoff_timeout_s: float = 86400.0


@dataclass(frozen=True)
class Contents:
    """What a run directory says of its run."""

    plan: Plan
    assignments: list[Assignment]
    hosts: list[Host]
    """In the order of the assignments."""
    steering: Steering


class RunDirectory:
    """Paths below one run directory, and who has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @classmethod
    def create(
        cls,
        parent: Path,
        plan: Plan,
        assignments: Sequence[Assignment],
        hosts: Sequence[Host],
        config: str | None,
        steering: Steering | None = None,
        preflight: Json | None = None,
    ) -> RunDirectory:
        """A new directory with plan.json, hosts.json, controller.json, config.yaml (the text of the workload file) and preflight.json (the
        last two where they are given).
        Raises ConfigError when it cannot be made."""
        path = parent / plan.run_id
        try:
            (path / "agents").mkdir(parents=True)
            for assignment in assignments:
                (path / "agents" / assignment.agent_id).mkdir()
            agents = [
                {**to_json(a), "host": h.name, "address": h.address, "connection": to_json(h)}
                for a, h in zip(assignments, hosts, strict=True)
            ]
            write_text(path / "hosts.json", json.dumps({"agents": agents}, indent=1) + "\n")
            write_text(path / "controller.json", json.dumps(to_json(steering or Steering()), indent=1) + "\n")
            if preflight is not None:
                write_text(path / "preflight.json", json.dumps(preflight, indent=1) + "\n")
            if config is not None:
                write_text(path / "config.yaml", config)
            write_text(path / "plan.json", json.dumps(to_json(plan), indent=1) + "\n")
        except OSError as error:
            raise ConfigError(
                f"cannot write the run directory {path}: {error.strerror}", remedy="Choose another place with --results-dir"
            ) from error
        return cls(path)

    @classmethod
    def find(cls, run: str, results_dir: Path) -> RunDirectory:
        """The directory of a run by its path, or by its id or the beginning of it below results_dir. Raises ConfigError."""
        for path in (Path(run), results_dir / run):
            if (path / "plan.json").is_file():
                return cls(path)
        matching = sorted(path.parent for path in results_dir.glob("*/plan.json") if path.parent.name.startswith(run)) if run else []
        if len(matching) == 1:
            return cls(matching[0])
        if matching:
            names = ", ".join(path.name for path in matching)
            raise ConfigError(f"{run!r} can be {names}", remedy="Give more of its id")
        if Path(run).is_dir():
            raise ConfigError(f"{run} is no run directory: it has no plan.json", remedy="Name a directory below --results-dir")
        raise ConfigError(f"no run {run} in {results_dir}", remedy="`sai3ssh status` lists the runs; --results-dir says where they are")

    def contents(self) -> Contents:
        """Plan, assignments and hosts. Raises ConfigError when they cannot be read."""
        try:
            plan = from_json(Plan, self._json("plan.json"))
            agents = self._json("hosts.json")["agents"]
            names = ("agent_id", "index", "agents", "ranges")
            assignments = [from_json(Assignment, {name: agent[name] for name in names}) for agent in agents]
            hosts = [from_json(Host, agent["connection"]) for agent in agents]
            steering = from_json(Steering, self._json("controller.json"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            text = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"{self.path} is no run directory of this version: {text}", remedy="Use the version of sai3ssh that wrote it"
            ) from error
        return Contents(plan, assignments, hosts, steering)

    def _json(self, name: str) -> Json:
        found: Json = json.loads((self.path / name).read_text(encoding="utf-8"))
        return found

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.ndjson"

    def history(self) -> list[Json]:
        """The events so far."""
        return list(read(self.events)) if self.events.is_file() else []

    def mirror(self, agent_id: str) -> Path:
        """The mirror of an agent's journal."""
        return self.path / "agents" / agent_id / "journal.ndjson"

    def traces(self, agent_id: str) -> list[Path]:
        """What an agent replays: a file for each stage and worker."""
        return sorted(path for path in (self.path / "agents" / agent_id).glob("replay-*") if TRACE.fullmatch(path.name))

    # --- the controller that has it ----------------------------------------------------------------------------------------------------

    def take(self) -> None:
        """Makes this process the run's controller on this machine until it ends, or `release`. Raises RunError when another one is."""
        path = self.path / "controller.lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}", remedy="A run is steered by who may write there") from error
        deadline = time.monotonic() + LOCK_S
        while not _locked(fd):
            if time.monotonic() > deadline:
                os.close(fd)
                name = self.path.name
                raise RunError(
                    f"run {name} has a controller on this machine already, process {self.controller()}",
                    exit_code=STEERED,
                    remedy=f"Watch it with `sai3ssh attach {name}`, end it with `sai3ssh stop {name}`, or take it over with --takeover",
                )
            time.sleep(0.05)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._lock = fd

    def release(self) -> None:
        """Lets another controller have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def controller(self) -> int | None:
        """The process that steers the run on this machine now; None without one, and for one that is just beginning."""
        with contextlib.suppress(OSError, ValueError), (self.path / "controller.lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read())
        return None


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Replaces a file, durably."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
