"""How soon a stream is back after its link was cut, what is lost meanwhile, and how soon silence is noticed: 200 cuts in one run.

    python bench/reconnect.py [--cuts 200] [--hosts 8] [--seconds 120] [--most-ratio 3] [--most-silence 1.25] [--quick]

`sai3ssh run` steers one agent on each of eight hosts (network namespaces with an sshd of their own) in one execute stage. Meanwhile its
SSH connections are cut: half by RST, three in ten by SIGKILL of the host's sshd session, the others by dropping every packet until the
controller has noticed, and some tenths of a second more. Agents have next to no load (two PUTs at a time, each answered after 0.2 s).
Cuts of different hosts overlap, but one connection at a time is made, so that two cores do not queue what eight hosts would not.

Resumed (s): from the moment that the path is usable again (of a reset or a kill: just before it; of a partition: just before its rule is
removed) to the moment that the controller has the stream again: the first new byte in the mirror, or, where the journal had none by then
(it gets one a second), the agent's answer that it follows (`link_up` in events.ndjson). The floor is `ssh host true` by OpenSSH on the
same hosts, between the cuts; reconnecting is a TCP probe, a connection, Python's start on the host and three more round trips. Lost and
duplicated: the mirrors against the journals on the hosts, byte by byte and by the numbers of their records. Noticed (s): from the first
dropped packet on to `link_down`, against the silence that is configured: three heartbeats of a second. Exits 1 above a limit, or when
a record is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.controller_load import s3_server
from sai3ssh.controller.link import LinkOptions
from tests.lab import faults
from tests.lab.lab import OPERATOR, STORAGE, STORAGE_ADDRESS, Lab, LabHost, sh
from tests.lab.operator import Operator
from tests.netns import inside

HEARTBEAT_S = 1.0
POLL_S = 0.004
SHARES = {"reset": 0.5, "killed": 0.3, "partition": 0.2}
LAST_CUT_S = 8.0
"""Before the end of the stage, so that the last link is up again when it ends."""
JOURNAL = "/root/.local/state/sai3ssh/runs/{run}/{agent}/journal.ndjson"
WORKLOAD = """
name: reconnect
target: s3://bench/
duration: {seconds:.0f}s
concurrency: 2
workers: 1
s3: {{endpoint_url: "{endpoint}"}}
distributed: {{heartbeat_interval: {heartbeat}s, start_delay: 3s}}
workload:
  - {{op: put, path: new/, weight: 1, size_spec: 64}}
"""
Event = dict[str, Any]


@dataclass
class Cut:
    """One cut; times are wall clock in seconds."""

    agent: str
    kind: str
    began: float
    usable: float
    down: float
    up: float


class Watch:
    """Sees, every few milliseconds, what the run has logged, and how long mirrors and journals are."""

    def __init__(self, run: Path, hosts: list[LabHost]) -> None:
        self.events: list[Event] = []
        self._log = (run / "events.ndjson").open("rb")
        self._part = b""
        self._files = {(host.name, "mirror"): run / "agents" / host.name / "journal.ndjson" for host in hosts}
        for host in hosts:
            self._files[host.name, "journal"] = Path(f"{host.directory}/upper{JOURNAL.format(run=run.name, agent=host.name)}")
        self.sizes: dict[tuple[str, str], list[tuple[float, int]]] = {key: [(0.0, 0)] for key in self._files}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(POLL_S):
            *lines, self._part = (self._part + self._log.read()).split(b"\n")
            self.events += [json.loads(line) for line in lines]
            for key, path in self._files.items():
                size = path.stat().st_size
                if size != self.sizes[key][-1][1]:
                    self.sizes[key].append((time.time(), size))

    def close(self) -> None:
        """Stops to look."""
        self._over.set()
        self._thread.join()
        self._log.close()

    def wait(self, agent: str, event: str, since: float, timeout_s: float = 30.0) -> float:
        """When the agent's first such event after that moment was logged."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for found in reversed(self.events):
                if found["at"] < since:
                    break
                if found["event"] == event and found["agent"] == agent:
                    return float(found["at"])
            time.sleep(POLL_S)
        raise RuntimeError(f"{agent}: no {event} within {timeout_s:.0f} s")

    def grew(self, agent: str, what: str, beyond: int, since: float = 0.0) -> float:
        """When a mirror or journal was first seen to be longer; infinity while it is not."""
        return next((at for at, size in list(self.sizes[agent, what]) if at >= since and size > beyond), math.inf)

    def mirrored(self, agent: str, at: float) -> int:
        """How long the mirror was."""
        return max(size for seen, size in self.sizes[agent, "mirror"] if seen <= at)


class Cutter:
    """Cuts links, host by host, while the run goes on."""

    def __init__(self, lab: Lab, watch: Watch, until: float) -> None:
        self.cuts: list[Cut] = []
        self.floor: list[float] = []
        self.failed: list[str] = []
        self._lab = lab
        self._watch = watch
        self._until = until
        self._one = threading.Lock()
        """Held by whoever makes a connection."""

    def cut_all(self, host: LabHost, kinds: list[str]) -> None:
        """One cut after the other, until all are made or the time is over."""
        pick = random.Random(host.number)
        # Seconds begin on all hosts at once: the cuts should not.
        time.sleep(pick.random())
        try:
            for number, kind in enumerate(kinds):
                if time.time() > self._until:
                    return
                cut = self._partition(host, pick.uniform(0.2, 1.0)) if kind == "partition" else self._break(host, kind)
                self.cuts.append(cut)
                if number % 2:
                    self._bare_ssh(host)
                deadline = time.monotonic() + 10.0
                beyond = self._watch.mirrored(host.name, cut.down)
                while self._watch.grew(host.name, "mirror", beyond) == math.inf:
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"{host.name}: the mirror does not grow after {cut}")
                    time.sleep(0.02)
                time.sleep(pick.uniform(0.0, 0.5))
        except Exception as error:
            self.failed.append(f"{host.name}: {type(error).__name__}: {error}")

    def _break(self, host: LabHost, kind: str) -> Cut:
        pids = sessions(host) if kind == "killed" else []
        with self._one:
            at = time.time()
            if kind == "killed":
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            else:
                faults.reset(host, 0.0)
            down = self._watch.wait(host.name, "link_down", at)
            return Cut(host.name, kind, at, at, down, self._watch.wait(host.name, "link_up", down))

    def _partition(self, host: LabHost, more_s: float) -> Cut:
        with contextlib.ExitStack() as held:
            with host.cut():
                began = time.time()
                down = self._watch.wait(host.name, "link_down", began)
                time.sleep(more_s)
                held.enter_context(self._one)
                usable = time.time()
            return Cut(host.name, "partition", began, usable, down, self._watch.wait(host.name, "link_up", usable))

    def _bare_ssh(self, host: LabHost) -> None:
        options = [f"UserKnownHostsFile={self._lab.known_hosts}", "IdentityAgent=none", "BatchMode=yes"]
        argv = ["ssh", "-F", "/dev/null", *(f"-o{option}" for option in options), "-i", str(self._lab.key), f"root@{host.address}", "true"]
        with self._one, inside(OPERATOR):
            began = time.monotonic()
            subprocess.run(argv, check=True, capture_output=True)
            self.floor.append(time.monotonic() - began)


def sessions(host: LabHost) -> list[int]:
    """The sshd process of every session of a host, as this machine numbers them."""
    pids = [int(pid) for pid in sh(f"ip netns pids {host.netns}").stdout.split()]
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sshd: root")]


def resumed_s(cut: Cut, watch: Watch) -> tuple[float, float]:
    """From the path's being usable to the stream's being back, and to its first new byte."""
    had = watch.mirrored(cut.agent, cut.down)
    first = watch.grew(cut.agent, "mirror", had, cut.down)
    written = watch.grew(cut.agent, "journal", had)
    back = max(first, cut.up) if written <= cut.up else cut.up
    return back - cut.usable, first - cut.usable


def compare(host: LabHost, run: Path) -> tuple[int, int, int]:
    """Records in the host's journal, how many the mirror lacks, and how many it has twice; raises when bytes differ for another reason."""
    journal = host.read(JOURNAL.format(run=run.name, agent=host.name))
    mirror = (run / "agents" / host.name / "journal.ndjson").read_bytes()
    theirs, ours = ([json.loads(line)["seq"] for line in data.splitlines()] for data in (journal, mirror))
    lost, twice = len(set(theirs) - set(ours)), len(ours) - len(set(ours))
    if journal != mirror and not lost and not twice:
        raise SystemExit(f"{host.name}: mirror and journal have the same records, but differ")
    return len(theirs), lost, twice


def rank(values: list[float], percent: float) -> float:
    """The percentile, as a value that was measured."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def play(lab: Lab, directory: Path, cuts: int, seconds: float) -> tuple[Cutter, Watch, Path]:
    """One run under so many cuts."""
    draw = random.Random(1)
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * cuts))]
    draw.shuffle(kinds)
    with s3_server(0.2, STORAGE_ADDRESS, STORAGE) as endpoint:
        s3 = SimpleNamespace(access_key="AKIDEXAMPLE", secret_key="not-a-secret-of-anyone", endpoint_url=endpoint)
        operator = Operator(lab, s3, directory, Path(sys.executable).parent / "sai3ssh")
        # The server keeps nothing, so it would not pass preflight.
        process = operator.start(WORKLOAD.format(seconds=seconds, endpoint=endpoint, heartbeat=HEARTBEAT_S), "--skip", "storage")
        started = operator.wait_for(process, "stage_started")
        run = operator.last_run()
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.communicate()))
        reader.start()
        watch = Watch(run, lab.hosts)
        cutter = Cutter(lab, watch, started["at"] + seconds - LAST_CUT_S)
        threads = [
            threading.Thread(target=cutter.cut_all, args=(host, kinds[number :: len(lab.hosts)])) for number, host in enumerate(lab.hosts)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"{len(cutter.cuts)} cuts within {time.time() - started['at']:.0f} s; waiting for the end of the stage", flush=True)
        reader.join(seconds + 60)
        watch.close()
    if cutter.failed or process.returncode or len(cutter.cuts) != cuts:
        raise SystemExit(f"{len(cutter.cuts)} of {cuts} cuts, exit code {process.returncode}: {cutter.failed}\n{''.join(said)[-3000:]}")
    return cutter, watch, run


def report(lab: Lab, cutter: Cutter, watch: Watch, run: Path, most_ratio: float, most_silence: float) -> bool:
    """Prints the figures; whether all are within their limits."""

    def line(what: str, values: list[float], of: str) -> None:
        print(f"{what:30} p50 {rank(values, 50):.3f} s  p99 {rank(values, 99):.3f} s  ({len(values)} {of})")

    times = {id(cut): resumed_s(cut, watch) for cut in cutter.cuts}
    back = [back for back, _ in times.values()]
    line("bare ssh host true", cutter.floor, "connects")
    line("link-up to resumed stream", back, "cuts")
    for kind in SHARES:
        some = [cut for cut in cutter.cuts if cut.kind == kind]
        noticed_s = rank([cut.down - cut.began for cut in some], 50)
        line(f"  {kind}", [times[id(cut)][0] for cut in some], f"cuts, noticed after p50 {noticed_s:.3f} s")
    line("  until the next record came", [first for _, first in times.values()], "cuts; the journal gets one a second")
    ratios = [rank(back, percent) / rank(cutter.floor, percent) for percent in (50, 99)]
    print(f"resumed stream / bare ssh = {ratios[0]:.2f} at p50, {ratios[1]:.2f} at p99 (limit {most_ratio} at p50)")
    records, lost, twice = (sum(counts) for counts in zip(*(compare(host, run) for host in lab.hosts), strict=True))
    results = json.loads((run / "results.json").read_text())
    verdict = f"{results['verdict']}, coverage {results['coverage']:.2%}"
    print(f"records in {len(lab.hosts)} journals {records}: lost {lost}, duplicated {twice}; {verdict}")
    silence_s = LinkOptions(heartbeat_s=HEARTBEAT_S).silence_s
    noticed = [cut.down - cut.began for cut in cutter.cuts if cut.kind == "partition"]
    most = max(noticed) / silence_s
    print(
        f"silent partition noticed after p50 {rank(noticed, 50):.2f} s, at most {max(noticed):.2f} s ({len(noticed)} partitions):"
        f" noticed / configured {silence_s:.1f} s = {rank(noticed, 50) / silence_s:.2f} at p50, {most:.2f} at most (limit {most_silence})"
    )
    return ratios[0] <= most_ratio and not lost and not twice and results["verdict"] == "COMPLETE" and most <= most_silence


def main() -> int:
    """One lab, one run, all cuts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the execute stage")
    parser.add_argument("--most-ratio", type=float, default=3.0, help="of resumed streams to bare ssh")
    parser.add_argument("--most-silence", type=float, default=1.25, help="of noticed to configured silence")
    parser.add_argument("--quick", action="store_true", help="10 cuts on 2 hosts: shows only that it works")
    options = parser.parse_args()
    if options.quick:
        options.cuts, options.hosts, options.seconds, options.most_ratio, options.most_silence = 10, 2, 35.0, 50.0, 2.0
    with tempfile.TemporaryDirectory(prefix="lab-") as scratch, Lab(Path(scratch) / "lab", options.hosts) as lab:
        cutter, watch, run = play(lab, Path(scratch), options.cuts, options.seconds)
        return 0 if report(lab, cutter, watch, run, options.most_ratio, options.most_silence) else 1


if __name__ == "__main__":
    sys.exit(main())
