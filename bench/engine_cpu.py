"""CPU time per 4 KiB operation: the native S3 engine against boto3, on one server that is not the limit.

    python -m bench.engine_cpu [--seconds 4.5] [--concurrency 32] [--least-ratio 30]
    python -m bench.engine_cpu --splits [--pairs 60] [--block 0.25] [--most-ratio 1.05]

The server answers from memory without looking at signatures. CPU is user and system time of this process, which is what decides how
many clients a load generator needs; operations per second would measure the server too. Exits 1 when boto3 does not cost --least-ratio
times as much: unlike microseconds that holds on a busy machine, too.

--splits asks instead what timing_splits costs: a GET as a worker makes it (the mix draws an object, the engine reads it, the recorder
counts it in shared memory) with splits on against off, in blocks on, off, off, on, ... whose neighbours are a pair. Exits 1 when the
geometric mean of the ratios is above --most-ratio with its 95 % interval wholly above it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import mmap
import multiprocessing
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator

from sai3ssh.agent import metrics
from sai3ssh.agent.details import DetailRecorder, Layout
from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import GET, PUT, Engine, Root, Task
from sai3ssh.agent.mix import MixWork
from sai3ssh.agent.work import Objects, Recorder
from sai3ssh.dataset import Content
from sai3ssh.histogram import CELLS, cell_of
from sai3ssh.model import (
    OPERATIONS,
    Deadlines,
    ErrorLimits,
    OperationSpec,
    Plan,
    Population,
    Retry,
    SizeSpec,
    Stage,
    StageKind,
    Target,
)

SIZE_BYTES = 4096
ROUNDS = 3
CREDENTIALS = {"access_key": "AKIDEXAMPLE", "secret_key": "not-a-secret-of-anyone"}


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
        return Task(self._op, self._root, f"prepared-{index:08d}.dat", SIZE_BYTES, index, self._content, now_ns)

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


def serve(listener: socket.socket) -> None:
    """Answers every request, for ever: GET with 4 KiB, all else with nothing."""
    parent = os.getppid()
    head = b'HTTP/1.1 200 OK\r\nServer: null\r\nETag: "d41d8cd98f00b204e9800998ecf8427e"\r\nContent-Type: binary/octet-stream\r\n'
    answers = {b"G": head + b"Content-Length: %d\r\n\r\n" % SIZE_BYTES + bytes(SIZE_BYTES)}
    nothing = head + b"Content-Length: 0\r\n\r\n"
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    wanted: dict[int, tuple[bytes, int]] = {}
    while os.getppid() == parent:
        for fd, _ in poller.poll(1):
            if fd == listener.fileno():
                client, _address = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                poller.register(client, select.EPOLLIN)
                continue
            client = clients[fd]
            try:
                data = client.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                del clients[fd]
                wanted.pop(fd, None)
                client.close()
                continue
            method, left = wanted.pop(fd, (b"", 0))
            if not left:
                method = data[:1]
                end = data.find(b"\r\n\r\n") + 4
                lower = data[:end].lower()
                if b"100-continue" in lower:
                    client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                left = (SIZE_BYTES if method == b"P" else 0) - (len(data) - end)
            else:
                left -= len(data)
            if left > 0:
                wanted[fd] = (method, left)
            else:
                client.send(answers.get(method, nothing))


@contextlib.contextmanager
def null_server() -> Iterator[str]:
    """The URL of a server in a process of its own."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    process = multiprocessing.get_context("fork").Process(target=serve, args=(listener,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        listener.close()


def cpu_us(engine: Engine, op: int, concurrency: int, seconds: float) -> tuple[float, float]:
    """CPU microseconds and operations per second of one operation."""
    root = engine.root("s3://bucket/prefix/")
    content = Content(1)
    engine.run(TimedWork(op, root, content, 0.3), concurrency)
    work = TimedWork(op, root, content, seconds)
    began, cpu = time.perf_counter(), time.process_time()
    engine.run(work, concurrency)
    cpu, took = time.process_time() - cpu, time.perf_counter() - began
    operations = sum(work.cells)
    if work.errors or not operations:
        raise SystemExit(f"{len(work.errors)} errors, {operations} operations; first: {work.errors[:1]}")
    return cpu / operations * 1e6, operations / took


def worker_us(engine: Engine, population: Population, recorder: Recorder, concurrency: int, seconds: float) -> float:
    """CPU microseconds of one GET with all that a worker does for it."""
    spec = OperationSpec("get", 1, population.target, population.name)
    reader = metrics.Reader(recorder.cells)
    before = reader.completed(GET)
    work = MixWork(
        engine, (spec,), {population.name: Objects(engine, population)}, {}, recorder,
        put_format="", seed="bench", limits=ErrorLimits(1, 0.0), end_ns=time.perf_counter_ns() + int(seconds * 1e9), notice=print,
    )  # fmt: skip
    cpu = time.process_time()
    engine.run(work, concurrency)
    cpu = time.process_time() - cpu
    return cpu / (reader.completed(GET) - before) * 1e6


def splits(pairs: int, block_s: float, concurrency: int, most_ratio: float) -> int:
    """Prints what the splits cost."""
    # Not at the top: the journal's bench imports from here.
    from bench.journal_overhead import interval, is_on

    with null_server() as url:
        target = Target(engine="s3", endpoint_url=url)
        population = Population(
            "prepared", "s3://bucket/prefix/", "prepared-%08d.dat", 100_000, SizeSpec("fixed", SIZE_BYTES, SIZE_BYTES), 1
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
    """Prints both engines' cost and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.5)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--least-ratio", type=float, default=30.0)
    parser.add_argument("--splits", action="store_true", help="what timing_splits costs")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--block", type=float, default=0.25, help="seconds")
    parser.add_argument("--most-ratio", type=float, default=1.05)
    options = parser.parse_args()
    if options.splits:
        return splits(options.pairs, options.block, options.concurrency, options.most_ratio)
    within = True
    with null_server() as url:
        for op in (GET, PUT):
            cost = {}
            for name in ("s3", "boto3"):
                engine = make_engine(Target(engine=name, endpoint_url=url), "s3://bucket/prefix/", CREDENTIALS, Deadlines(), Retry())
                rounds = [cpu_us(engine, op, options.concurrency, options.seconds / ROUNDS) for _ in range(ROUNDS)]
                engine.close()
                # The best round: what else runs on the machine can only add.
                cost[name], rate = min(rounds)
                print(f"{OPERATIONS[op]:4} 4 KiB  {name:6} {cost[name]:8.2f} us CPU per operation {rate:9.0f} operations/s", flush=True)
            ratio = cost["boto3"] / cost["s3"]
            print(f"{OPERATIONS[op]:4} 4 KiB  boto3 / s3 = {ratio:.1f}", flush=True)
            within = within and ratio >= options.least_ratio
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
