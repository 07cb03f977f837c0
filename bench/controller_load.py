"""What an agent costs the controller: CPU seconds per agent and hour, and peak memory, with 8 and with 200 agents.

    python bench/controller_load.py [--agents 200] [--few 8] [--seconds 25] [--most-ratio 1.5] [--quick]

The controller is `sai3ssh run`, and every agent has a real SSH connection of its own to a real sshd on loopback. First come 8 real agents
(follow, supervisor, worker, journal on tmpfs) that do next to nothing, one 64-byte PUT at a time to a server that takes 1 s to answer; as
under full load they journal, and send, a record and a heartbeat a second. 200 such agents are 600 processes, which two cores cannot even
start in time: so both sides of the ratio are agents of one process, played behind the same sshd in the real wire protocol, each with the
journal of a real agent of the first run, moved in time. That they cost the controller what real ones cost is shown by 8 of each.

CPU is user and system time of the controller's process in the execute stage, from 3 s after its start, scaled to an hour; what it takes
until that start (SSH handshakes, submitting, clocks) is told apart, per agent. Memory is its peak resident size (VmHWM), to the end and
the results. The ratio is CPU per agent of many agents against that of a few; 1 is a controller whose cost grows with agents and no
faster. Exits 1 above --most-ratio, and when a run did not keep its agents connected and journalling.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sai3ssh import bundle
from sai3ssh.agent import state
from sai3ssh.protocol import PROTOCOL, Json, decode_record, encode_control, encode_data, encode_preamble, encode_record
from tests.contract.sshd_server import Sshd
from tests.netns import inside

SETTLE_S = 3.0
ANSWER_S = 1.0
START_TIMEOUT_S = 120.0
WORKLOAD = """
name: controller-load
target: s3://bench/
duration: {seconds:.0f}s
concurrency: 1
workers: 1
s3: {{endpoint_url: "{endpoint}"}}
distributed: {{start_delay: 4s, agent_ready_timeout: 180s}}
workload:
  - {{op: put, path: new/, weight: 1, size_spec: 64}}
"""
OBJECT = bytes(4096)
CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
LISTING = b'<?xml version="1.0"?><ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>'
RELAY = """#!/bin/bash
# Stands in for python3 on the host: the agent is there already, and its follow is a connection to whoever plays the agents.
if [ "$1" = -c ]; then
  cat > /dev/null
  printf '%s{{"python":[3,11,2],"others":[],"deployed":"{digest}","uploaded":null,"path":""}}\\n' "$3"
  exit
fi
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\n' "$4" >&3
cat <&3 &
exec cat >&3
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-secret-of-anyone"}


class Answers(asyncio.Protocol):
    """One client of an S3 server that keeps nothing: GET gives 4 KiB of zeros or an empty listing, all else nothing."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers each request that is whole, after the delay."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n") + 4) > 3:
            head = bytes(self._data[:end])
            found = CONTENT_LENGTH.search(head)
            size = end + (int(found[1]) if found else 0)
            if len(self._data) < size:
                if b"100-continue" in head:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            del self._data[:size]
            body = b"" if head[:1] in b"PD" else LISTING if b"list-type=2" in head else OBJECT
            answer = b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: %d\r\n\r\n' % len(body)
            answer += b"" if head.startswith(b"HEAD") else body
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, answer)
            else:
                self._transport.write(answer)


@contextlib.contextmanager
def s3_server(delay_s: float = 0.0, address: str = "127.0.0.1", netns: str | None = None) -> Iterator[str]:
    """The URL of an S3 server that takes so long for every answer: it sets the pace of closed loops."""
    with served(lambda listener: asyncio.get_running_loop().create_server(lambda: Answers(delay_s), sock=listener), address, netns) as port:
        yield f"http://{address}:{port}"


@contextlib.contextmanager
def served(
    begin: Callable[[socket.socket], Coroutine[Any, Any, asyncio.Server]], address: str = "127.0.0.1", netns: str | None = None
) -> Iterator[int]:
    """The port of a server in a process of its own."""

    async def run(listener: socket.socket) -> None:
        server = await begin(listener)
        await server.serve_forever()

    with inside(netns):
        listener = socket.create_server((address, 0), backlog=1024)
    process = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(run(listener)), daemon=True)
    process.start()
    try:
        yield listener.getsockname()[1]
    finally:
        process.kill()
        process.join()
        listener.close()


class Played:
    """An agent without load: speaks the channel's protocol and gives a journal that a real one wrote, moved to its own time."""

    def __init__(self, journal: list[Json], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        start = next(number for number, record in enumerate(journal) if record["kind"] == "stage_start")
        self._before, self._after = [r for r in journal[:start] if r["kind"] not in ("armed", "committed")], journal[start:]
        self._boot = state.boot_id()
        self._ids: Json = {}
        self._written = bytearray()
        self._sent = self._seq = self._beats = 0
        self._state, self._controller = "STARTING", ""
        self._armed: Json = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self) -> None:
        """Until the controller leaves."""
        nonce = (await self._reader.readline()).decode().strip()
        self._writer.write(encode_preamble(nonce))
        now = {"boot": self._boot, "clock_ns": state.clock_ns()}
        self._say({"hello": {"protocol": PROTOCOL, **now, "host": "played", "cores": 1, "state_dir": ""}})
        while line := await self._reader.readline():
            message = json.loads(line)
            self._say({"id": message["id"], "ok": self._command(message)})
            if message["cmd"] == "follow":
                self._tasks.append(asyncio.create_task(self._beat()))
            if message["cmd"] == "commit":
                self._tasks.append(asyncio.create_task(self._play(self._armed["start_clock_ns"])))
        for task in self._tasks:
            task.cancel()
        self._writer.close()

    def _command(self, message: Json) -> Json:
        match message["cmd"]:
            case "ping":
                return {"boot": self._boot, "clock_ns": state.clock_ns(), "wall_ns": time.time_ns()}
            case "submit":
                self._ids = {"epoch": uuid.uuid4().hex, "run_id": message["plan"]["run_id"], "agent_id": message["assignment"]["agent_id"]}
                self._state, self._controller = "READY", message["key"]["controller"]
                for record in self._before:
                    self._append({**record, **(self._ids if record["kind"] == "epoch" else {})}, 0)
                return {"epoch": self._ids["epoch"]}
            case "follow":
                return {"epoch": self._ids["epoch"], "committed": len(self._written)}
            case "arm" | "commit" as verb:
                self._armed |= {name: message[name] for name in ("stage", "round", "start_clock_ns") if name in message}
                self._state = "ARMED" if verb == "arm" else "COMMITTED"
                now = {"boot": self._boot, "clock_ns": state.clock_ns(), "wall_ns": time.time_ns()}
                self._publish({**now, "kind": self._state.lower(), **self._armed}, 0)
                return {self._state.lower(): message["round"]}
        return {}

    async def _play(self, start_ns: int) -> None:
        """The rest of the journal, each record when it is due."""
        shift_ns = start_ns - self._after[0]["start_clock_ns"]
        for record in self._after:
            await asyncio.sleep((record["clock_ns"] + shift_ns - state.clock_ns()) / 1e9)
            self._state = {"stage_start": "RUNNING", "final": "FINISHED"}.get(record["kind"], self._state)
            self._publish(record, shift_ns)
        await asyncio.sleep(0.1)
        self._say({"final": {"size": self._sent, "sha256": hashlib.sha256(self._written).hexdigest(), "outcome": record["outcome"]}})

    async def _beat(self) -> None:
        while True:
            self._heartbeat()
            await asyncio.sleep(1.0)

    def _append(self, record: Json, shift_ns: int) -> None:
        moved = {name: value + shift_ns if name.endswith(("clock_ns", "wall_ns")) else value for name, value in record.items()}
        self._written += encode_record({**moved, "seq": self._seq})
        self._seq += 1

    def _publish(self, record: Json, shift_ns: int) -> None:
        """As the supervisor does: what is on disk is told by a heartbeat, and then sent."""
        self._append(record, shift_ns)
        self._heartbeat()

    def _heartbeat(self) -> None:
        self._beats += 1
        stage = 0 if self._state == "RUNNING" else None
        beat = {"hb": self._beats, "boot": self._boot, "clock_ns": state.clock_ns(), "state": self._state, "stage": stage}
        self._say({**beat, "committed": len(self._written), "done": 0, "planned": 0, "controller": self._controller})
        # On its own, as follow sends it: one write with the heartbeat would spare the controller a packet.
        asyncio.get_running_loop().call_later(0.002, self._send)

    def _send(self) -> None:
        if self._sent < len(self._written):
            self._writer.write(encode_data(self._sent, bytes(self._written[self._sent :])))
            self._sent = len(self._written)

    def _say(self, message: Json) -> None:
        self._writer.write(encode_control(message))


@contextlib.contextmanager
def played_agents(journal: Path, directory: Path) -> Iterator[Path]:
    """The program that hosts use as their python3, so that all agents on them are played."""
    records = [decode_record(line) for line in journal.read_bytes().splitlines(keepends=True)]
    digest = bundle.digest(bundle.build(directory))
    relay = directory / "relay"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await Played(records, reader, writer).serve()

    with served(lambda listener: asyncio.start_server(serve, sock=listener, limit=1 << 24)) as port:
        relay.write_text(RELAY.format(digest=digest, port=port))
        relay.chmod(0o700)
        yield relay


def cpu_s(pid: int) -> float:
    """User and system time of a live process and all its threads: its CPU clock, by the kernel's rule for clock ids."""
    return time.clock_gettime(((~pid) << 3) | 2)


def peak_mib(pid: int, before: float = 0.0) -> float:
    """Its peak resident memory; `before` once it is gone."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1024 if found else before
    return before


def events(run: Path) -> list[dict[str, Any]]:
    """The whole events that a run has logged."""
    log = run / "events.ndjson"
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return [json.loads(line) for line in lines]


def last_run(results: Path) -> Path | None:
    """The newest run directory."""
    return max(results.iterdir(), key=lambda path: path.stat().st_mtime, default=None) if results.is_dir() else None


@dataclass
class Figures:
    """Of one run."""

    agents: int
    start_cpu_s: float
    cpu_s: float
    wall_s: float
    peak_mib: float

    @property
    def per_agent_hour(self) -> float:
        """CPU seconds."""
        return self.cpu_s / self.wall_s / self.agents * 3600


def wait_for_start(process: subprocess.Popen[str], results: Path) -> Path:
    """The run directory, once all agents are in the execute stage."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        run = last_run(results)
        if run is not None and any(event["event"] == "stage_started" for event in events(run)):
            return run
        time.sleep(0.1)
    process.kill()
    raise SystemExit(f"the run did not start within {START_TIMEOUT_S:.0f} s:\n{process.communicate()[0][-2000:]}")


def measure(agents: int, seconds: float, sshd: Sshd, endpoint: str, directory: Path, python: Path | None = None) -> Figures:
    """One run of so many agents; `python`: what hosts use in place of python3."""
    directory.mkdir()
    common = {
        "ansible_host": "127.0.0.1",
        "ansible_port": sshd.port,
        "ansible_user": sshd.user,
        "ansible_ssh_private_key_file": str(sshd.client_key),
        "ansible_ssh_common_args": f"-F /dev/null -o UserKnownHostsFile={sshd.known_hosts} -o IdentityAgent=none",
        # One daemon for all: what a host's daemon costs is not the controller's.
        "sai3ssh_agent_state_dir": str(directory / "state"),
        **({"ansible_python_interpreter": str(python)} if python else {}),
    }
    hosts: dict[str, Any] = {f"a{number:03}": {} for number in range(agents)}
    inventory, workload, results = directory / "hosts.yml", directory / "workload.yml", directory / "runs"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common}}))
    workload.write_text(WORKLOAD.format(seconds=SETTLE_S + seconds + 2, endpoint=endpoint))
    sai3ssh = str(Path(sys.executable).parent / "sai3ssh")
    # What is measured is the run itself; and a server that keeps nothing would not pass.
    argv = [sai3ssh, "run", str(workload), "-i", str(inventory), "--results-dir", str(results), "--skip", "all"]
    process = subprocess.Popen(
        argv, env={**os.environ, **CREDENTIALS}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        run = wait_for_start(process, results)
        start_cpu = cpu_s(process.pid)
        time.sleep(SETTLE_S)
        began, cpu = time.monotonic(), cpu_s(process.pid)
        time.sleep(seconds)
        figures = Figures(agents, start_cpu, cpu_s(process.pid) - cpu, time.monotonic() - began, 0.0)
        while process.poll() is None:
            figures.peak_mib = peak_mib(process.pid, figures.peak_mib)
            time.sleep(0.02)
        out = process.communicate()[0]
    finally:
        process.kill()
        end_daemons(directory)
    check(run, process.returncode, agents, seconds, out)
    return figures


def check(run: Path, code: int, agents: int, seconds: float, out: str) -> None:
    """Every agent stayed connected and has told every second that was measured."""
    broke = [event for event in events(run) if event["event"] == "link_down" and event["level"] == "warning"]
    told = [path.read_text().count('"kind":"sec"') for path in run.glob("agents/*/journal.ndjson")]
    if code not in (0, 3) or broke or len(told) != agents or min(told) < SETTLE_S + seconds:
        said = f"exit code {code}, {len(broke)} links broke, {len(told)} of {agents} agents told {min(told)} seconds"
        raise SystemExit(f"{said}:\n{out[-2000:]}")


def end_daemons(directory: Path) -> None:
    """Ends the daemon that the runs started below a directory, and what is left of runs."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = path.read_bytes().decode(errors="replace").split("\0")
            if {"serve", "supervise"} & set(arguments) and any(argument.startswith(str(directory)) for argument in arguments):
                os.killpg(int(path.parent.name), signal.SIGKILL)


def main() -> int:
    """Prints both runs' figures and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--most-ratio", type=float, default=1.5)
    parser.add_argument("--quick", action="store_true", help="12 agents against 3, for some seconds: shows only that it works")
    options = parser.parse_args()
    if options.quick:
        options.agents, options.few, options.seconds, options.most_ratio = 12, 3, 4.0, 10.0
    found = []
    with tempfile.TemporaryDirectory(prefix="controller-load-", dir="/dev/shm") as scratch, s3_server(ANSWER_S) as endpoint:
        place = Path(scratch)
        # A home of its own: what this user's shell does at each login is no part of it.
        (place / "home").mkdir()
        sshd = Sshd(place / "sshd", (f"SetEnv HOME={place / 'home'}",))

        def one(agents: int, kind: str, python: Path | None = None) -> None:
            figures = measure(agents, options.seconds, sshd, endpoint, place / f"{kind}-{agents}", python)
            found.append(figures)
            print(
                f"{agents:4} {kind:6} agents {figures.per_agent_hour:6.2f} s CPU per agent and hour"
                f" ({figures.cpu_s / figures.wall_s:6.2%} of a core)"
                f" {figures.start_cpu_s / agents * 1000:6.1f} ms CPU per agent to start, peak {figures.peak_mib:6.1f} MiB",
                flush=True,
            )

        try:
            one(options.few, "real")
            journal = next((place / f"real-{options.few}" / "runs").glob("*/agents/*/journal.ndjson"))
            with played_agents(journal, place) as relay:
                one(options.few, "played", relay)
                one(options.agents, "played", relay)
        finally:
            sshd.stop()
    real, few, many = found
    ratio = many.per_agent_hour / few.per_agent_hour
    growth = (many.peak_mib - few.peak_mib) / (many.agents - few.agents)
    against = f"{many.agents} agents / {few.agents} agents"
    print(f"CPU per agent, {few.agents} played / {real.agents} real agents = {few.per_agent_hour / real.per_agent_hour:.2f}")
    print(f"CPU per agent, {against} = {ratio:.2f} (limit {options.most_ratio}: grows with agents, no faster)")
    print(f"peak memory, {against} = {many.peak_mib / few.peak_mib:.2f}; {growth:.2f} MiB for each further agent")
    return 0 if ratio <= options.most_ratio else 1


if __name__ == "__main__":
    sys.exit(main())
