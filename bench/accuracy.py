"""What an agent reports against the law of the server: percentiles, a freeze in an open loop, and counts, over real sockets.

    python -m bench.accuracy [--seconds 60] [--most-error 0.01] [--quick]

The server, in a process of its own, answers GETs after a time that it draws (20 ms and an exponential tail of 30 ms), and notes for each
how long it took from the request's arrival to its answer. The agent is the product (bench/clients.py). What its journal has must agree: the
number of GETs exactly with the server's; p50, p90, p99 within --most-error of what the server noted, as far as 100 samples lie beyond.
Then the same in an open loop (500 a second) against a server that answers nothing for 1 s of each 10: p95 and p99 must be within
--most-error, or 10 ms, of what the schedule means (0.5 and 0.9 s). On a machine that does other work both are late by what that takes: it
needs a quiet one.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import dataclasses
import math
import multiprocessing
import random
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clients import Load, plan_of, run_plan
from sai3ssh import compact
from sai3ssh.histogram import Histogram
from sai3ssh.model import IoRate, Plan
from sai3ssh.protocol import decode_record

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n" + bytes(4096)
PAGE = b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
LISTING = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE)
PERIOD_S, FROZEN_S = 10.0, 1.0
RATE = 500.0


class Answers(asyncio.Protocol):
    """One client: each GET is answered after a time that is drawn, or at the end of a freeze."""

    def __init__(self, noted: array.array[float], rng: random.Random, *, freezing: bool) -> None:
        self._noted, self._rng, self._freezing = noted, rng, freezing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Requests come whole: they are small."""
        if b"list-type=" in data:
            self._transport.write(LISTING)
            return
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        if self._freezing:
            since = time.monotonic() % PERIOD_S
            delay = FROZEN_S - since if since < FROZEN_S else 0.0
        else:
            delay = 0.020 + self._rng.expovariate(1 / 0.030)
        loop.call_later(delay, self._answer, began) if delay else self._answer(began)

    def _answer(self, began: float) -> None:
        self._transport.write(ANSWER)
        self._noted.append(time.perf_counter() - began)


def serve(listener: socket.socket, freezing: bool, stop: object, answer: object) -> None:
    """Serves until told to stop, then sends what it has noted."""

    async def run() -> None:
        noted: array.array[float] = array.array("d")
        rng = random.Random(1)
        server = await asyncio.get_running_loop().create_server(lambda: Answers(noted, rng, freezing=freezing), sock=listener)
        while not stop.poll():  # type: ignore[attr-defined]
            await asyncio.sleep(0.2)
        server.close()
        answer.send(noted)  # type: ignore[attr-defined]

    asyncio.run(run())


def measure(seconds: float, *, freezing: bool) -> tuple[Histogram, int, array.array[float]]:
    """The agent's latencies and requests, and the server's notes."""
    context = multiprocessing.get_context("fork")
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        stop_r, stop_w = multiprocessing.Pipe(duplex=False)
        answer_r, answer_w = multiprocessing.Pipe(duplex=False)
        server = context.Process(target=serve, args=(listener, freezing, stop_r, answer_w), daemon=True)
        server.start()
        plan, assignment = plan_of(Load(f"http://127.0.0.1:{listener.getsockname()[1]}", "get", 4096, 1024 if freezing else 64), seconds)
        stage = plan.stages[0]
        if freezing:
            stage = dataclasses.replace(stage, io_rate=IoRate(RATE, "deterministic"))
        journal_r, journal_w = multiprocessing.Pipe(duplex=False)
        agent = context.Process(target=_agent, args=(dataclasses.replace(plan, stages=(stage,)), assignment, journal_w))
        agent.start()
        journal = journal_r.recv()
        agent.join()
        stop_w.send(True)
        noted = answer_r.recv()
        server.join()
    records = [decode_record(line) for line in journal.splitlines(keepends=True)]
    histogram = Histogram()
    for record in records:
        if record["kind"] == "hist":
            for region in compact.unpack(record)["hist"]["get"].values():
                histogram.merge(Histogram.from_pairs(region["cells"], sum_ns=region["sum_ns"], max_ns=region["max_ns"]))
    end = next((record for record in records if record["kind"] == "stage_end"), None)
    if end is None:
        raise SystemExit(f"the agent did not finish: {records[-1]}")
    return histogram, end["totals"]["get"]["requests"], noted


def _agent(plan: Plan, assignment: object, writer: object) -> None:
    import os

    os.setsid()
    writer.send(run_plan(plan, assignment))  # type: ignore[attr-defined, arg-type]


def main() -> int:
    """Prints what the agent says beside what is so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--most-error", type=float, default=0.01)
    parser.add_argument("--quick", action="store_true", help="10 s, and any error of latencies: shows only that it works, and counts")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.most_error = 10.0, 100.0
    histogram, requests, noted = measure(options.seconds, freezing=False)
    within = requests == histogram.count == len(noted)
    print(f"GETs: the agent {histogram.count:,}, its requests {requests:,}, the server {len(noted):,}")
    exact = sorted(noted)
    for rank in (50.0, 90.0, 99.0, 99.9):
        if len(exact) * (1 - rank / 100) >= 100:
            true_ms, told_ms = exact[math.ceil(rank / 100 * len(exact)) - 1] * 1e3, histogram.percentile(rank) / 1e6
            error = told_ms / true_ms - 1
            print(f"p{rank:g}: the server {true_ms:.2f} ms, the agent {told_ms:.2f} ms: {error:+.2%}")
            within = within and abs(error) <= options.most_error
    # Whole periods, or the share of frozen time is not a tenth.
    histogram, requests, noted = measure(PERIOD_S * max(1, round(options.seconds / PERIOD_S)), freezing=True)
    within = within and requests == histogram.count == len(noted)
    print(f"GETs, with freezes: the agent {histogram.count:,}, its requests {requests:,}, the server {len(noted):,}")
    for rank in (95.0, 99.0):
        means_ms, told_ms = 1000 * (FROZEN_S - (1 - rank / 100) * PERIOD_S), histogram.percentile(rank) / 1e6
        print(f"p{rank:g}: the schedule {means_ms:.0f} ms, the agent {told_ms:.0f} ms")
        within = within and abs(told_ms - means_ms) <= max(10.0, options.most_error * means_ms)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
