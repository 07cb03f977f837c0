"""Seeded fault schedules on the lab's hosts, and what must hold after each: `python -m tests.lab.schedule SEED` replays one."""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests import oracle
from tests.lab import faults
from tests.lab.lab import STORAGE, STORAGE_ADDRESS, Lab
from tests.lab.operator import Operator, Record, journals, kinds
from tests.servers import RadosGw

OBJECTS = 8_000
EXECUTE_S = 14
LAST_FAULT_S = 16.0
WORKLOAD = """
name: schedule
target: s3://{bucket}/
concurrency: 3
workers: 1
io_rate: {{iops: 40}}
s3: {{endpoint_url: "{endpoint}"}}
distributed: {{reconnect_timeout: 120s, agent_barrier_timeout: 300s}}
error_handling: {{max_total_errors: 0, error_rate_threshold: 0}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: {count}, size_spec: 1KiB}}
workload:
  - {{op: get, path: data/, weight: 60}}
  - {{op: put, path: new/, weight: 30, size_spec: 2KiB}}
  - {{op: stat, path: data/, weight: 10}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: mixed, type: execute, duration: {seconds}s}}
"""
NETWORK = ("partition both", "partition to", "partition from", "lossy", "reset", "frozen_sshd", "link_down", "sshd_restart")
CRASHES = ("work", "supervise", "serve", "power_cut")
OTHERS = ("disk_full", "server_down", "controller_killed")
DISK_HOST = 7


@dataclass
class Fault:
    """What befalls a host (index), or everyone, so many seconds after the start of prepare."""

    kind: str
    host: int
    at_s: float
    for_s: float


def draw(seed: int, count: int = 7) -> list[Fault]:
    """The faults of a seed, by time; each host has one crash at most, and the disk of one host only is small."""
    pick = random.Random(seed)
    found = []
    crashed: set[int] = set()
    for kind in pick.sample([*NETWORK, *CRASHES, *OTHERS], count):
        host = pick.randrange(DISK_HOST)
        if kind in CRASHES:
            host = pick.choice([n for n in range(DISK_HOST) if n not in crashed])
            crashed.add(host)
        host = DISK_HOST if kind == "disk_full" else host
        found.append(Fault(kind, host, round(pick.uniform(0.5, LAST_FAULT_S), 1), round(pick.uniform(1.0, 8.0), 1)))
    return sorted(found, key=lambda fault: fault.at_s)


@dataclass
class Played:
    """A run under a schedule, over."""

    run: Path
    bucket: str
    code: int
    said: str
    failed: list[str] = field(default_factory=list)
    """Faults that did not happen as they should."""


def play(operator: Operator, schedule: list[Fault]) -> Played:
    """Runs the workload while the faults happen."""
    bucket = operator.bucket()
    text = WORKLOAD.format(bucket=bucket, endpoint=operator.s3.endpoint_url, count=OBJECTS, seconds=EXECUTE_S)
    process = operator.start(text)
    operator.wait_for_stage(process, "prepare")
    run = operator.last_run()
    began = time.monotonic()
    said: list[str] = []
    failed: list[str] = []
    one_by_one = [threading.Lock() for _ in operator.lab.hosts]

    def make(fault: Fault) -> None:
        try:
            time.sleep(max(0.0, began + fault.at_s - time.monotonic()))
            with one_by_one[fault.host]:
                _happen(operator, fault)
        except Exception as error:
            failed.append(f"{fault}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=make, args=(fault,)) for fault in schedule if fault.kind != "controller_killed"]
    for thread in threads:
        thread.start()
    for fault in [fault for fault in schedule if fault.kind == "controller_killed"]:
        time.sleep(max(0.0, began + fault.at_s - time.monotonic()))
        process = _kill_controller(operator, process, run, fault, said)
    for thread in threads:
        thread.join()
    out, err = process.communicate(timeout=300)
    return Played(run, bucket, process.returncode, "".join([*said, out, err]), failed)


def _happen(operator: Operator, fault: Fault) -> None:
    host = operator.lab.hosts[fault.host]
    if fault.kind.startswith("partition"):
        faults.partition(host, fault.for_s, fault.kind.split()[1])
    elif fault.kind in ("work", "supervise", "serve"):
        faults.agent_killed(host, fault.kind)
    elif fault.kind == "server_down":
        operator.s3.down()
        time.sleep(min(3.0, fault.for_s))
        operator.s3.up()
    else:
        make: Callable[..., None] = getattr(faults, fault.kind)
        make(host, fault.for_s)


def _kill_controller(operator: Operator, process: subprocess.Popen[str], run: Path, fault: Fault, said: list[str]) -> subprocess.Popen[str]:
    if process.poll() is not None:
        return process
    process.kill()
    said += [text or "" for text in process.communicate()]
    assert process.returncode == -signal.SIGKILL
    time.sleep(min(3.0, fault.for_s))
    return operator.command("resume", str(run))


def check(operator: Operator, played: Played, schedule: list[Fault]) -> None:
    """Mirrors are journals, objects are exact, every second is accounted for, verdict and exit code are right."""
    assert played.failed == [], played.failed
    assert (played.run / "results.json").exists(), f"exit code {played.code}, no results:\n{played.said[-3000:]}"
    results = json.loads((played.run / "results.json").read_text())
    context = f"{[vars(fault) for fault in schedule]}\n{played.said[-3000:]}\n{results['reasons']}"
    records = journals(played.run)
    operator.check_mirrors(played.run)
    assert all(journal[-1]["kind"] == "final" and journal[-1]["outcome"] == "finished" for journal in records.values()), context
    _check_objects(operator, played, records)
    for agent, journal in records.items():
        check_seconds(agent, journal)
        network = results["network"][agent]
        assert network["rtt_us"]["count"] > 0, context
        if all(fault.kind != "controller_killed" for fault in schedule):
            # A controller that is killed takes with it what it counted in its last minute.
            assert network["records"] == len(journal), context
    lost = [record for journal in records.values() for record in kinds(journal, "lost")]
    late = [record for journal in records.values() for record in kinds(journal, "stage_start") if record["late_ns"] > 10**9]
    assert (results["verdict"], played.code) == (("PARTIAL", 3) if lost or late else ("COMPLETE", 0)), context
    assert bool(results["lost_intervals_s"]) == bool(lost or late), context
    crashes = [fault for fault in schedule if fault.kind in ("work", "supervise", "power_cut")]
    assert not lost or crashes, context


def _check_objects(operator: Operator, played: Played, records: dict[str, list[Record]]) -> None:
    """Nothing prepared is missing; of what put made, exactly the acknowledged is there, but for what a killed worker had in flight."""
    listed = set(oracle.list_bucket(operator.s3, played.bucket))
    prepared = {f"data/prepared-{i:08d}.dat" for i in range(OBJECTS)}
    certain, possible = set(prepared), set(prepared)
    for journal in records.values():
        ends = [end["made"]["puts"] for end in kinds(journal, "stage_end")] + [
            worker.get("puts", []) for worker in kinds(journal, "worker")
        ]
        for put in [put for puts in ends for put in puts]:
            names = {"new/" + put["key_format"] % i for i in range(put["count"])}
            possible |= names
            if not put.get("unsure"):
                certain |= names - {"new/" + put["key_format"] % i for i in put["failed"]}
    assert certain - listed == set(), f"{len(certain - listed)} objects are missing"
    assert listed - possible == set(), f"{len(listed - possible)} objects are too many"


def check_seconds(agent: str, journal: list[Record]) -> None:
    """From the start of a stage to its end each moment is in one sec, gap or lost record; a lost one bridges a boot."""
    for end in kinds(journal, "stage_end"):
        # After a crash just before the start the first record is of the time that was lost.
        first = next(record for record in journal if record.get("stage") == end["stage"] and record["kind"] in ("stage_start", "lost"))
        began = next(record for record in kinds(journal, "stage_start") if record["stage"] == end["stage"])
        between = journal[journal.index(first) : journal.index(began)]
        at, fresh = began["start_clock_ns"] - sum(record["shift_ns"] for record in kinds(between, "recovered")), first["kind"] == "lost"
        for record in journal[journal.index(first) : journal.index(end)]:
            if record["kind"] == "recovered":
                at, fresh = at + record["shift_ns"], True
            if record.get("stage") != end["stage"] or record["kind"] not in ("sec", "gap", "lost"):
                continue
            if record["kind"] == "lost" and not fresh:
                continue  # of one worker, within seconds that others measured
            fresh = False
            assert abs(record["from_clock_ns"] - at) < 1000, f"{agent}: {record['kind']} from {record['from_clock_ns']}, expected {at}"
            at = record["to_clock_ns"]
        assert at >= end["end_clock_ns"] - 10**9, f"{agent}: stage {end['stage']} is told to {at}, it ended at {end['end_clock_ns']}"


def main() -> int:
    """Plays schedules on a lab of its own, one seed after the other; exit code 1 when one failed."""
    parser = argparse.ArgumentParser(description="Plays fault schedules on real hosts.")
    parser.add_argument("seed", type=int, help="the first seed")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with the following seeds for so long")
    parser.add_argument("--keep", type=Path, help="leave the run directories here")
    given = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory(prefix="lab-") as scratch:
        place = Path(scratch)
        (place / "s3").mkdir()
        with Lab(place / "lab") as lab, RadosGw(place / "s3", STORAGE_ADDRESS, netns=STORAGE) as storage:
            until = time.monotonic() + 60 * given.minutes
            seed = given.seed
            while seed == given.seed or time.monotonic() < until:
                directory = (given.keep or place) / f"seed-{seed}"
                directory.mkdir(parents=True)
                operator = Operator(lab, storage, directory, Path(sys.executable).parent / "sai3ssh")
                schedule = draw(seed)
                began = time.monotonic()
                try:
                    with faults.small_disk(lab.hosts[DISK_HOST]):
                        check(operator, play(operator, schedule), schedule)
                    result = "passed"
                except Exception as error:
                    failed.append(seed)
                    result = "FAILED: " + "".join(traceback.format_exception(error, limit=-3))
                kinds_ = ", ".join(f"{fault.kind} h{fault.host + 1} {fault.at_s}+{fault.for_s} s" for fault in schedule)
                sys.stdout.write(f"seed {seed} {result} ({time.monotonic() - began:.0f} s): {kinds_}\n")
                sys.stdout.flush()
                seed += 1
    sys.stdout.write(f"{seed - given.seed} schedules, {len(failed)} failed {failed or ''}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
