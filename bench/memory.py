"""Memory of a worker over many operations and many objects: it is flat.

    python -m bench.memory [--operations 20000000] [--objects 1000000000] [--most-mib 200] [--most-growth-mib 2] [--quick]

A process does what a worker does for each operation of a mix (choose it, make its task, count it into the histograms in shared memory, tell
what it finished), on storage without a network that answers at once (bench/null_engine.py). Its resident memory is read after each 20th
part. Exits 1 when it is above --most-mib, or when from a tenth of the operations on it grows by more than --most-growth-mib. A prepare of
--objects is begun the same way: what it keeps is what has not been told yet, so it is measured with a ledger that is told every so often.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.null_engine import SIZE, URI, NullEngine, mix
from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import PUT, Task, Work
from sai3ssh.agent.work import IndexWork, Objects, Recorder
from sai3ssh.model import Intervals, Population

PARTS = 20
IN_FLIGHT = 32
TOLD_EVERY = 10_000
"""Operations between two reports of the ledger: a quarter of a second of a fast worker."""


def resident_mib() -> float:
    """Of this process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


class Counted:
    """A work that is asked for so many tasks."""

    wake_ns = None

    def __init__(self, work: Any, operations: int) -> None:
        self._work = work
        self._left = operations
        self.done = work.done
        self.finished = False

    def next(self, now_ns: int) -> Task | None:
        """The next task, until there have been enough."""
        task: Task | None = self._work.next(now_ns) if self._left else None
        self._left -= 1 if task is not None else 0
        self.finished = task is None
        return task


def steps(work: Any, engine: NullEngine, operations: int) -> Iterator[float]:
    """Performs them, and tells memory after each part."""
    part = operations // PARTS
    for _ in range(PARTS):
        for _ in range(max(1, part // TOLD_EVERY)):
            counted: Work = Counted(work, min(part, TOLD_EVERY))  # type: ignore[assignment]
            engine.run(counted, IN_FLIGHT)
            work.take_finished()
        yield resident_mib()


def make(kind: str, objects: int, engine: NullEngine) -> Any:
    """The work of a kind."""
    cells = memoryview(bytearray(8 * metrics.TOTAL)).cast("Q")
    if kind == "execute":
        return mix(cells, objects, time.perf_counter_ns() + (1 << 60), engine)
    population = Population("prepared", URI, "prepared-%012d.dat", objects, SIZE, 1)
    found = {"prepared": Objects(engine, population)}  # type: ignore[arg-type]
    return IndexWork(PUT, found, {"prepared": Intervals([(0, objects)])}, Recorder(cells), outage_timeout_s=600, target="null")


def measure(kind: str, operations: int, objects: int, writer: Any) -> None:
    """Sends memory after each part."""
    engine = NullEngine()
    for value in steps(make(kind, objects, engine), engine, operations):
        writer.send(value)
    writer.close()


def main() -> int:
    """Prints memory over operations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=20_000_000)
    parser.add_argument("--objects", type=int, default=1_000_000_000)
    parser.add_argument("--most-mib", type=float, default=200.0)
    parser.add_argument("--most-growth-mib", type=float, default=2.0)
    parser.add_argument("--quick", action="store_true", help="2 million operations: shows only that it works")
    options = parser.parse_args()
    if options.quick:
        options.operations = 2_000_000
    within = True
    for kind in ("execute", "prepare"):
        for objects in (options.objects // 1000, options.objects):
            operations = min(options.operations, objects)
            reader, writer = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(kind, operations, objects, writer))
            process.start()
            writer.close()
            values = []
            for _ in range(PARTS):
                values.append(reader.recv())
            process.join()
            growth = values[-1] - values[PARTS // 10 - 1]
            text = f"{values[PARTS // 10 - 1]:.1f} MiB after a tenth, {values[-1]:.1f} MiB at the end, most {max(values):.1f} MiB"
            print(f"{kind:8} {operations:13,} operations on {objects:13,} objects: {text}", flush=True)
            within = within and max(values) <= options.most_mib and growth <= options.most_growth_mib
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
