"""What journalling costs the load: operations per CPU second, and per second, with the journal of seconds on against off.

    python bench/journal_overhead.py [--pairs 40] [--block 2] [--least-ratio 0.98] [--quick]

One agent (its supervisor and one worker process, 32 operations in flight) sends GET, PUT (4 KiB) and HEAD to one server that answers from
memory, in one execute stage. The stage is cut into blocks of --block seconds, on, off, off, on, ...: neighbours are a pair, and drift
falls on both sides alike. On is the product as it is: each second the supervisor reads the counters and histograms in shared memory,
samples the host, appends a record and syncs it to disk; every tenth second also the histograms, which falls on as many seconds of either
kind. Off leaves just that out, in this file: the worker counts into shared memory, heartbeats and the ledger go on. The journal is below
--state, by default on the disk of the temporary directory.

CPU is user and system time of supervisor and worker together; the server's is not in it. The ratio on / off is the geometric mean over the
pairs with its 95 % interval by bootstrap. Exits 1 when operations per CPU second are below --least-ratio with the interval wholly below
it. On a machine that does other work, too, the worker's own cost per operation wanders by more than journalling costs: what the
supervisor alone uses more when it journals, in ms per second and as a share of the agent's CPU, is the same question without that noise.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clients import CREDENTIALS, SelfReleased, submit
from bench.controller_load import OBJECT, cpu_s, s3_server
from sai3ssh.agent import state
from sai3ssh.model import (
    OPERATIONS,
    Assignment,
    ErrorLimits,
    OperationSpec,
    Plan,
    Population,
    SizeSpec,
    Stage,
    StageKind,
    Target,
)
from sai3ssh.protocol import Json, decode_record

WARM_UP_S = 3
OBJECTS = 100_000
CONCURRENCY = 32
RESAMPLES = 10_000


@dataclass
class Sample:
    """At the border of two blocks."""

    at_s: float
    supervisor_s: float
    worker_s: float
    operations: int


class Alternating(SelfReleased):
    """Journals its seconds in every other block only."""

    def __init__(self, directory: str, init: Json, block_s: int) -> None:
        super().__init__(directory, init)
        self.samples: list[Sample] = []
        self._block_s = block_s
        self._seconds = 0

    def _second(self) -> None:
        if self._stage is None:
            return
        block, within = divmod(self._seconds - WARM_UP_S, self._block_s)
        self._seconds += 1
        if block >= 0 and within == 0:
            self.samples.append(self._sample())
        if block < 0 or is_on(block):
            super()._second()
            return
        self._stage._second += 1
        self._timer("second", max(0.0, (self._stage.next_second_ns - state.clock_ns()) / 1e9), self._second)

    def _sample(self) -> Sample:
        assert self._stage is not None
        counted = [reader.completed(op) for reader in self._stage.readers for op in range(len(OPERATIONS))]
        worker_s = sum(cpu_s(worker.pid) for worker in self._crew.members)
        return Sample(time.perf_counter(), time.process_time(), worker_s, sum(counted))


def is_on(block: int) -> bool:
    """On, off, off, on, and again."""
    return block % 4 in (0, 3)


def run_agent(directory: str, block_s: int, answer: str) -> None:
    """The agent, in a process group of its own as the daemon starts it; its samples go to a file."""
    os.setsid()
    agent = Alternating(directory, {"credentials": {**CREDENTIALS, "session_token": None}}, block_s)
    agent.run()
    Path(answer).write_text(json.dumps([asdict(sample) for sample in agent.samples]))


def plan_of(url: str, seconds: int) -> Plan:
    """One execute stage of three operations."""
    uri = "s3://bucket/prefix/"
    size = SizeSpec("fixed", len(OBJECT), len(OBJECT))
    mix = (
        OperationSpec("get", 60, uri, "prepared"),
        OperationSpec("put", 20, uri + "new/", size=size),
        OperationSpec("stat", 20, uri, "prepared"),
    )
    return Plan(
        f"journal-overhead-{uuid.uuid4().hex[:8]}",
        "journal-overhead",
        Target("s3", url),
        (Population("prepared", uri, "prepared-%08d.dat", OBJECTS, size, 1),),
        (Stage("execute", StageKind.EXECUTE, CONCURRENCY, duration_s=seconds, operations=mix),),
        workers=1,
        error_limits=ErrorLimits(0, 0.0, 1.0),
    )


def measure(directory: Path, pairs: int, block_s: int) -> list[Sample]:
    """The samples of one agent's run; raises when it met an error, or journalled other seconds than it was to."""
    blocks = 2 * pairs
    with s3_server() as url:
        assignment = Assignment("a0", 0, 1, {"prepared": ((0, OBJECTS),)})
        submit(directory, plan_of(url, WARM_UP_S + blocks * block_s + 2), assignment)
        answer = directory / "samples.json"
        process = multiprocessing.get_context("fork").Process(target=run_agent, args=(str(directory), block_s, str(answer)))
        process.start()
        process.join()
    records = [decode_record(line) for line in (directory / "journal.ndjson").read_bytes().splitlines(keepends=True)]
    end = next((record for record in records if record["kind"] == "stage_end"), None)
    if records[-1].get("outcome") != "finished" or end is None or any(totals["errors"] for totals in end["totals"].values()):
        raise SystemExit(f"the agent did not finish without an error: {records[-1]}, {end}")
    samples = [Sample(**sample) for sample in json.loads(answer.read_text())][: blocks + 1]
    expected = WARM_UP_S + sum(block_s for block in range(blocks) if is_on(block))
    told = sum(record["kind"] == "sec" for record in records)
    # After the last block the stage goes on for two seconds and ends.
    if len(samples) != blocks + 1 or not expected <= told <= expected + 4:
        raise SystemExit(f"{len(samples)} samples, {told} seconds journalled, expected {blocks + 1} and {expected}")
    return samples


def interval(logs: list[float]) -> tuple[float, float, float]:
    """Geometric mean of ratios, given their logarithms, with its 95 % interval."""
    pick = random.Random(1)
    means = sorted(sum(pick.choices(logs, k=len(logs))) / len(logs) for _ in range(RESAMPLES))
    low, high = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]
    return math.exp(sum(logs) / len(logs)), math.exp(low), math.exp(high)


def main() -> int:
    """Prints both rates and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--block", type=int, default=2, help="seconds")
    parser.add_argument("--least-ratio", type=float, default=0.98)
    parser.add_argument("--state", type=Path, help="where the journal is; its file system is what syncs")
    parser.add_argument("--quick", action="store_true", help="3 pairs of blocks of a second: shows only that it works")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.block, options.least_ratio = 3, 1, 0.5
    with tempfile.TemporaryDirectory(prefix="journal-overhead-", dir=options.state) as scratch:
        samples = measure(Path(scratch), options.pairs, options.block)
    names = ("CPU second", "second", "supervisor", "agent")
    rates: dict[str, dict[bool, list[float]]] = {name: {True: [], False: []} for name in names}
    for block in range(2 * options.pairs):
        a, b = samples[block], samples[block + 1]
        operations, wall_s = b.operations - a.operations, b.at_s - a.at_s
        own_s, both_s = b.supervisor_s - a.supervisor_s, b.supervisor_s - a.supervisor_s + b.worker_s - a.worker_s
        values = (operations / both_s, operations / wall_s, own_s / wall_s * 1000, both_s / wall_s * 1000)
        for name, value in zip(names, values, strict=True):
            rates[name][is_on(block)].append(value)
    mean = {name: {on: sum(values) / len(values) for on, values in both.items()} for name, both in rates.items()}
    within = True
    for name, least in (("CPU second", options.least_ratio), ("second", None)):
        both = rates[name]
        ratio, low, high = interval([math.log(on / off) for on, off in zip(both[True], both[False], strict=True)])
        limit = f", limit {least}" if least else ""
        print(f"operations per {name:10}  on {mean[name][True]:9.0f}  off {mean[name][False]:9.0f}")
        print(f"operations per {name:10}  on / off = {ratio:.4f} ({low:.4f} to {high:.4f}, {options.pairs} pairs{limit})", flush=True)
        within = within and (least is None or high >= least)
    on, off, agent = mean["supervisor"][True], mean["supervisor"][False], mean["agent"][True]
    share = f"{(on - off) / 10:.3f} % of one core, {(on - off) / agent:.2%} of the agent's CPU"
    print(f"CPU of the supervisor       on {on:9.2f}  off {off:9.2f} ms per second: journalling uses {share}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
