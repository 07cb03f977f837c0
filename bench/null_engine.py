"""Storage without a network: an engine that answers every operation at once. What is left is what the agent does for an operation."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from typing import Any

from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import Root, Task, Work
from sai3ssh.agent.mix import MixWork
from sai3ssh.agent.work import Objects, Recorder
from sai3ssh.model import OPERATIONS, ErrorLimits, OperationSpec, Population, SizeSpec

URI = "s3://bucket/prefix/"
SIZE = SizeSpec("fixed", 4096, 4096)
MIX = (
    OperationSpec("get", 60, URI, "prepared"),
    OperationSpec("put", 30, URI + "new/", size=SIZE),
    OperationSpec("stat", 10, URI, "prepared"),
)


class NullEngine:
    """Performs every task at once; `clock` is the time that it takes for the present."""

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock

    def root(self, uri: str) -> Root:
        """A root like any other."""
        return Root(uri)

    def run(self, work: Work, concurrency: int, *_: Any) -> None:
        """So many in flight, which end in the order in which they began."""
        clock = self._clock
        flight: list[Task] = []
        while not work.finished:
            while len(flight) < concurrency:
                task = work.next(clock())
                if task is None:
                    break
                flight.append(task)
            for task in flight:
                work.done(task, clock(), max(task.size, 0))
            flight.clear()


def mix(cells: memoryview, objects: int, end_ns: int, engine: NullEngine, worker: int = 0) -> MixWork:
    """The work of a worker in an execute stage on a population of so many objects, counted into `cells`."""
    population = Population("prepared", URI, "prepared-%08d.dat", objects, SIZE, 1)
    return MixWork(
        engine,  # type: ignore[arg-type]
        MIX,
        {"prepared": Objects(engine, population)},  # type: ignore[arg-type]
        {},
        Recorder(cells),
        put_format=f"put-w{worker}-%010d.dat",
        mkdir_format="",
        seed=f"bench/{worker}",
        limits=ErrorLimits(0, 0.0, 1.0),
        end_ns=end_ns,
        notice=lambda _: None,
    )


def operations_per_second(workers: int, seconds: float) -> float:
    """Of so many processes together, each with the bookkeeping of a worker."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(workers + 1)
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as directory:
        paths = [f"{directory}/{worker}" for worker in range(workers)]
        readers = [metrics.Reader(metrics.create(path)) for path in paths]

        def work(worker: int) -> None:
            cells, engine = metrics.attach(paths[worker]), NullEngine()
            start.wait()
            engine.run(mix(cells, 100_000, time.perf_counter_ns() + int(seconds * 1e9), engine, worker), 32)

        processes = [context.Process(target=work, args=(worker,)) for worker in range(workers)]
        for process in processes:
            process.start()
        start.wait()
        for process in processes:
            process.join()
        return sum(reader.completed(op) for reader in readers for op in range(len(OPERATIONS))) / seconds
