"""The operator of the lab: runs the installed command in its own network namespace, as a user would, and looks at what it left."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def journals(run: Path) -> dict[str, list[Record]]:
    """The records of every mirror of a run, by agent; plain JSON, without the product's code."""
    return {
        path.parent.name: [_whole(json.loads(line)) for line in path.read_text().splitlines()]
        for path in sorted(run.glob("agents/*/journal.ndjson"))
    }


def _whole(record: Record) -> Record:
    """With what a second leaves out because it is nothing, or one request for each operation."""
    if record["kind"] in ("sec", "gap", "lost"):
        requests = {op: figures[0] for op, figures in record["ops"].items()} | record.get("requests", {})
        record = {"done": 0, "warmup": False, "retried": {}, "errors": {}, **record, "requests": requests}
    return record


def kinds(records: list[Record], kind: str) -> list[Record]:
    """The records of one kind."""
    return [record for record in records if record["kind"] == kind]


class Operator:
    """Commands, inventory and results directory of one test."""

    def __init__(self, lab: Any, s3: Any, directory: Path, sai3ssh: Path) -> None:
        self.lab = lab
        self.s3 = s3
        self.directory = directory
        self.results = directory / "runs"
        self._sai3ssh = sai3ssh
        self.inventory = directory / "hosts.yml"
        self._kept: dict[str, list[str]] = {}
        lab.inventory(self.inventory)
        self.environment = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}

    def bucket(self) -> str:
        """A new, empty bucket."""
        with self.s3.inside():
            self.last_bucket: str = self.s3.bucket()
            return self.last_bucket

    @property
    def addresses(self) -> set[str]:
        """The hosts' addresses."""
        return {host.address for host in self.lab.hosts}

    def argv(self, workload: str, *options: str) -> list[str]:
        """The command of a run."""
        path = self.directory / f"workload-{uuid.uuid4().hex[:8]}.yml"
        path.write_text(workload)
        return [str(self._sai3ssh), "run", str(path), "-i", str(self.inventory), "--results-dir", str(self.results), *options]

    def run(self, workload: str, *options: str, timeout_s: float = 240.0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs to the end."""
        process = self.start(workload, *options, **environment)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, workload: str, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Starts a run; its output is collected by communicate()."""
        return self._popen(self.argv(workload, *options), environment)

    def command(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Starts another command of sai3ssh."""
        return self._popen([str(self._sai3ssh), *arguments], environment)

    def _popen(self, argv: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        env = {**self.environment, **environment}
        process: subprocess.Popen[str] = self.lab.popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return process

    def last_run(self) -> Path:
        """The newest run directory."""
        return max(self.results.iterdir(), key=lambda path: path.stat().st_mtime)

    def wait_for(self, process: subprocess.Popen[str], event: str, timeout_s: float = 90.0, **fields: Any) -> Record:
        """The first event of that name and fields in the newest run's log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.results.is_dir() and any(self.results.iterdir()):
                log = self.last_run() / "events.ndjson"
                for line in log.read_text().splitlines() if log.exists() else []:
                    found: Record = json.loads(line)
                    if found["event"] == event and all(found.get(name) == value for name, value in fields.items()):
                        return found
            if process.poll() is not None:
                out, err = process.communicate()
                raise AssertionError(f"the run ended with {process.returncode} before {event} {fields}:\n{out}{err}")
            time.sleep(0.05)
        raise AssertionError(f"no {event} {fields} within {timeout_s} s")

    def wait_for_stage(self, process: subprocess.Popen[str], name: str) -> None:
        """Returns when all agents have entered the stage."""
        self.wait_for(process, "stage_started", name=name)

    def check_mirrors(self, run: Path) -> None:
        """Every mirror equals its host's journal, byte for byte."""
        for host in self.lab.hosts:
            mirror = (run / "agents" / host.name / "journal.ndjson").read_bytes()
            path = f"/root/.local/state/sai3ssh/runs/{run.name}/{host.name}/journal.ndjson"
            assert host.read(path) == mirror, f"{host.name}: mirror and journal differ"

    def note_kept(self) -> None:
        """Remembers which runs the hosts keep now."""
        self._kept = {host.name: self._runs_on(host) for host in self.lab.hosts}

    def kept(self, host: Any) -> list[str]:
        """The runs that the host kept when note_kept was called."""
        return self._kept[host.name]

    @staticmethod
    def _runs_on(host: Any) -> list[str]:
        names: list[str] = host.exec("ls /root/.local/state/sai3ssh/runs 2>/dev/null || true").stdout.split()
        return names

    def processes(self) -> dict[str, list[str]]:
        """Command lines of the agent's run processes (supervisors and workers) on each host."""
        found = {}
        for host in self.lab.hosts:
            lines = host.exec("ps -eo args").stdout.splitlines()
            found[host.name] = [line for line in lines if " supervise " in line or line.endswith(" work")]
        return {name: lines for name, lines in found.items() if lines}
