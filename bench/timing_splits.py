"""What timing_splits costs: CPU per 4 KiB GET with the latency told by its parts, against the same without.

    python -m bench.timing_splits [--pairs 60] [--block 0.25] [--concurrency 32] [--most-ratio 1.05]

A GET as a worker makes it: the mix draws an object, the engine reads it, the recorder counts it in shared memory. Blocks of --block seconds
are on, off, off, on, ...; neighbours are a pair. Exits 1 when the geometric mean of the ratios is above --most-ratio with its 95 % interval
wholly above it.
"""

from __future__ import annotations

import argparse
import math
import mmap
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clients import CREDENTIALS, null_server
from bench.journal_overhead import interval, is_on
from sai3ssh.agent import metrics
from sai3ssh.agent.details import DetailRecorder, Layout
from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import GET, Engine
from sai3ssh.agent.mix import MixWork
from sai3ssh.agent.work import Objects, Recorder
from sai3ssh.model import Deadlines, ErrorLimits, OperationSpec, Plan, Population, Retry, SizeSpec, Stage, StageKind, Target

SIZE_BYTES = 4096


def worker_us(engine: Engine, population: Population, recorder: Recorder, concurrency: int, seconds: float) -> float:
    """CPU microseconds of one GET with all that a worker does for it."""
    spec = OperationSpec("get", 1, population.target, population.name)
    reader = metrics.Reader(recorder.cells)
    before = reader.completed(GET)
    work = MixWork(
        engine, (spec,), {population.name: Objects(engine, population)}, {}, recorder,
        put_format="", mkdir_format="", seed="bench", limits=ErrorLimits(1, 0.0),
        end_ns=time.perf_counter_ns() + int(seconds * 1e9), notice=print,
    )  # fmt: skip
    cpu = time.process_time()
    engine.run(work, concurrency)
    cpu = time.process_time() - cpu
    return cpu / (reader.completed(GET) - before) * 1e6


def splits(pairs: int, block_s: float, concurrency: int, most_ratio: float) -> int:
    """Prints what the splits cost."""
    with null_server() as server:
        target = Target(engine="s3", endpoint_url=server.url)
        population = Population(
            "prepared", f"s3://bucket/{SIZE_BYTES}/", "prepared-%08d.dat", 100_000, SizeSpec("fixed", SIZE_BYTES, SIZE_BYTES), 1
        )
        stage = Stage("execute", StageKind.EXECUTE, concurrency, 1.0, operations=(OperationSpec("get", 1, population.target, "prepared"),))
        layout = Layout(Plan("bench", "bench", target, (population,), (stage,), timing_splits=True), stage, 0)
        engine = make_engine(target, population.target, CREDENTIALS, Deadlines(), Retry())
        cells = [memoryview(mmap.mmap(-1, layout.total * 8)).cast("Q") for _ in range(2)]
        recorders = {False: Recorder(cells[0]), True: DetailRecorder(cells[1], layout)}
        cost: dict[bool, list[float]] = {True: [], False: []}
        for block in range(-1, 2 * pairs):
            engine.splits = on = is_on(block)
            took = worker_us(engine, population, recorders[on], concurrency, block_s)
            if block >= 0:  # the first connects, and warms up
                cost[on].append(took)
        engine.close()
    ratio, low, high = interval([math.log(on / off) for on, off in zip(cost[True], cost[False], strict=True)])
    on_us, off_us = (sum(cost[on]) / pairs for on in (True, False))
    print(f"get 4 KiB  splits on {on_us:.2f}, off {off_us:.2f} us CPU per operation")
    print(f"get 4 KiB  on / off = {ratio:.4f} ({low:.4f} to {high:.4f}, {pairs} pairs, limit {most_ratio})")
    return 0 if low <= most_ratio else 1


def main() -> int:
    """Prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--block", type=float, default=0.25, help="seconds")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--most-ratio", type=float, default=1.05)
    options = parser.parse_args()
    return splits(options.pairs, options.block, options.concurrency, options.most_ratio)


if __name__ == "__main__":
    sys.exit(main())
