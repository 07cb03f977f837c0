"""CPU time of the file engine: per 4 KiB file, and per byte of 8 MiB files, against a plain loop of the same system calls.

    python -m bench.file_cpu [--directory /var/tmp] [--seconds 2] [--concurrency 8] [--least-share 0.4] [--least-kept 0.6]

The plain loop opens, writes or reads, and closes as one thread of Python can do it with least effort, with one buffer that is never made
anew: its cost is the kernel's and the interpreter's. CPU is user and system time of this process. Where fio is on PATH its psync engine
is measured as well. Exits 1 when the engine has less than --least-share of the plain loop's bytes per CPU second for 8 MiB.

Then 1 KiB files at concurrency 16 against 1, in turn: operations per CPU second and p99. GETs are of the page cache, so more threads can
win nothing, and must lose little: exits 1 when they keep less than --least-kept of the operations per CPU second. PUTs wait for some
file systems, and are told only.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import GET, PUT, Root, Task
from sai3ssh.dataset import Content
from sai3ssh.histogram import CELLS, Histogram, cell_of
from sai3ssh.model import OPERATIONS, Deadlines, Retry, Target

ROUNDS = 3
SIZES = {"4 KiB": 4096, "8 MiB": 8 << 20}
MANY, SMALL = 16, 1024
"""Concurrency that is held against 1, and the size of the files."""
FILES = {SMALL: 1000, 4096: 1000, 8 << 20: 16}
"""As many files are written and read over and over: they stay in the page cache, which is all that CPU time needs."""


class TimedWork:
    """A closed loop of one operation for a while, counted into a histogram as the agent does it."""

    wake_ns = None

    def __init__(self, op: int, root: Root, content: Content, seconds: float) -> None:
        self.cells = [0] * CELLS
        self.errors: list[str] = []
        self._op, self._root, self._content = op, root, content
        self._index = 0
        self._end_ns = time.perf_counter_ns() + int(seconds * 1e9)
        self.finished = False

    def next(self, now_ns: int) -> Task | None:
        if now_ns >= self._end_ns:
            self.finished = True
            return None
        self._index = index = self._index + 1
        return Task(self._op, self._root, "", 0, index, self._content, now_ns)

    def done(self, task: Task, end_ns: int, *_: object) -> None:
        self.cells[cell_of(end_ns - task.start_ns)] += 1

    def retried(self, _task: Task, error_class: str, *_: object) -> None:
        self.errors.append(f"retried: {error_class}")

    def failed(self, _task: Task, _end_ns: int, _error_class: str, detail: str, *_: object) -> None:
        self.errors.append(detail)

    def late(self, late_ns: int) -> None:
        """It is the server's turn to be slow."""

    def page(self, task: Task) -> None:
        pass


class FileWork(TimedWork):
    """A closed loop over a few files of one size."""

    def __init__(self, op: int, root: Root, size: int, seconds: float) -> None:
        super().__init__(op, root, Content(1), seconds)
        self._size = size

    def next(self, now_ns: int) -> Task | None:
        task = super().next(now_ns)
        if task is not None:
            task.index %= FILES[self._size]
            task.key, task.size = f"{self._size}/{task.index:08d}.dat", self._size
        return task


def engine_cpu_s(scheme: str, directory: str, op: int, size: int, concurrency: int, seconds: float) -> tuple[float, float]:
    """CPU seconds of one operation of the engine, and p99 of their latencies in seconds."""
    uri = f"{scheme}://{directory}/"
    engine = make_engine(Target("file"), uri, None, Deadlines(), Retry())
    work = FileWork(op, engine.root(uri), size, seconds)
    cpu = time.process_time()
    engine.run(work, concurrency)
    cpu = time.process_time() - cpu
    engine.close()
    if work.errors:
        raise SystemExit(f"{len(work.errors)} errors; first: {work.errors[0]}")
    latencies = Histogram({cell: count for cell, count in enumerate(work.cells) if count})
    return cpu / latencies.count, latencies.percentile(99) / 1e9


def kept(directory: str, op: int, seconds: float) -> float:
    """Prints small operations at both concurrencies; returns the share of those per CPU second that the high one keeps, as a median."""
    rounds = [[engine_cpu_s("file", directory, op, SMALL, concurrency, seconds) for concurrency in (1, MANY)] for _ in range(ROUNDS)]
    costs, p99s = ([statistics.median(pair[i][figure] for pair in rounds) for i in (0, 1)] for figure in (0, 1))
    share = costs[0] / costs[1]
    figures = f"{1 / costs[1]:,.0f} / {1 / costs[0]:,.0f} operations per CPU second = {share:.2f}"
    print(
        f"file   {OPERATIONS[op]:3} 1 KiB  concurrency {MANY} / 1: {figures}; p99 {p99s[1] * 1e6:,.0f} / {p99s[0] * 1e6:,.0f} us",
        flush=True,
    )
    return share


def plain_cpu_s(directory: str, op: int, size: int, seconds: float, flags: int) -> float:
    """CPU seconds of one operation of the plain loop."""
    length = min(size, 1 << 20)
    buffer = memoryview(mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    buffer[:] = os.urandom(length)
    flags |= os.O_RDONLY if op == GET else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    move: Callable[[int, int], int] = (
        (lambda fd, at: os.preadv(fd, [buffer], at)) if op == GET else (lambda fd, at: os.pwrite(fd, buffer, at))
    )
    count, end = 0, time.perf_counter() + seconds
    cpu = time.process_time()
    while time.perf_counter() < end:
        fd = os.open(f"{directory}/{size}/{count % FILES[size]:08d}.dat", flags, 0o644)
        for at in range(0, size, length):
            move(fd, at)
        os.close(fd)
        count += 1
    return (time.process_time() - cpu) / count


def fio_cpu_s(directory: str, op: int, size: int, seconds: float, direct: bool) -> float:
    """CPU seconds of one operation of fio's psync engine, on one file: it does not open and close."""
    command = [
        "fio", "--name=x", f"--filename={directory}/fio", "--size=128m", "--ioengine=psync", f"--bs={size}", f"--direct={int(direct)}",
        f"--rw={'read' if op == GET else 'write'}", "--time_based", f"--runtime={seconds}", "--output-format=json",
    ]  # fmt: skip
    job = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["jobs"][0]
    busy = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    return float(busy / job["read" if op == GET else "write"]["total_ios"])


def main() -> int:
    """Prints what each costs, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default="/var/tmp", help="on a file system that has O_DIRECT")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--least-share", type=float, default=0.4)
    parser.add_argument("--least-kept", type=float, default=0.6)
    options = parser.parse_args()
    within = True
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for scheme, flags in (("file", 0), ("direct", os.O_DIRECT)):
            for label, size in SIZES.items():
                for op in (PUT, GET):
                    round_s = options.seconds / ROUNDS
                    # The least of some rounds: what else runs on the machine can only add.
                    engine = min(engine_cpu_s(scheme, directory, op, size, options.concurrency, round_s)[0] for _ in range(ROUNDS))
                    costs = {"engine": engine, "plain loop": min(plain_cpu_s(directory, op, size, round_s, flags) for _ in range(ROUNDS))}
                    if shutil.which("fio"):
                        costs["fio psync"] = fio_cpu_s(directory, op, size, round_s, scheme == "direct")
                    for name, cost in costs.items():
                        figures = f"{cost * 1e6:9.1f} us CPU per operation {size / cost / 1e9:7.2f} GB per CPU second"
                        print(f"{scheme:6} {OPERATIONS[op]:3} {label}  {name:10} {figures}", flush=True)
                    ratio = engine / costs["plain loop"]
                    print(f"{scheme:6} {OPERATIONS[op]:3} {label}  engine / plain loop = {ratio:.2f}", flush=True)
                    within = within and (size == SIZES["4 KiB"] or scheme == "direct" or 1 / ratio >= options.least_share)
        shares = {op: kept(directory, op, options.seconds / ROUNDS) for op in (PUT, GET)}
        within = within and shares[GET] >= options.least_kept
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
