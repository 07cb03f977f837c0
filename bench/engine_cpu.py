"""What an operation costs the client: the whole agent against boto3, obstore, s3dlio and the bare sockets.

    python -m bench.engine_cpu [--rounds 3] [--seconds 2] [--only small,large,tls,workers] [--peer NAME=COMMAND ...] [--quick]

One server that keeps nothing (sai3ssh/agent/nullserver.py), in a process of its own, answers all of them and counts what it receives. The
agent is the product: a real supervisor and real worker processes, operations measured into histograms in shared memory, deadlines, the
journal on disk. CPU is user and system time of all processes of a client, per operation in the server's count; it decides how many
clients a load generator needs, and is, unlike a rate, not taken away by what else runs. The rounds of all clients are interleaved, the best
of each counts. 'floor' is one send and one recv for each operation on the same sockets, in C where there is a compiler.

small:   4 KiB, 32 in flight, CPU us per operation; TARGETS say how many times less than each peer the agent may cost
large:   8 MiB, 8 in flight, GB per CPU second, at least 1.2 times the best peer's
tls:     both over HTTPS: half of obstore's CPU, and its GB per CPU second
workers: two worker processes against one: CPU per operation, at most 1.05 times. Their rate needs four idle cores, because client and
         server use one each per worker; so without the network, where each worker's engine answers itself, it is at least 1.9 times (which
         needs two idle cores, and is told but not judged on a machine that is busy)

A peer is any program that does {op} (get or put) of {size} bytes in bucket 'bucket' below {size}/ until it is killed; {host}, {url},
{concurrency} and {ca_file} are filled in too. So for warp: --peer "warp=warp {op} --host {host} --bucket bucket --prefix {size} --obj.size
{size} --concurrent {concurrency} --duration 1h --noclear", its keys in the environment. The agent may cost no more than it.

Exits 1 when a target is missed. A client that is not installed is named, and its targets are not judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clients import CLIENTS, Cost, Load, Missing, Server, measure, null_server, run_command
from bench.null_engine import operations_per_second

OURS, FLOOR = "sai3ssh agent", "floor"
OTHER_OBJECTS = (1_000, 1_000_000)
"""Objects to GET, beside those of every other load: of few the signatures are kept, of many they are not."""
KIB, MIB = 1024, 1024 * 1024
TARGETS = {"boto3, threads": 50.0, "s3dlio, threads": 5.0, "s3dlio, many": 5.0, "obstore, threads": 2.0, FLOOR: 1 / 2.0}
"""How many times the agent's CPU per operation another client must use at least."""
LARGE_TARGET = 1.2
TLS_PEER, TLS_SMALL, TLS_LARGE = "obstore, threads", 2.0, 1.0
WORKERS_CPU, WORKERS_RATE = 1.05, 1.9
PEER_TARGET = 1.0


class Report:
    """Prints lines, and remembers whether a target was missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def judge(self, what: str, value: float, least: float) -> None:
        """A value that must be at least so much."""
        well = value >= least
        print(f"  {what}: {value:.2f} (at least {least:g}){'' if well else '   MISSED'}", flush=True)
        if not well:
            self.missed.append(what)


def interleaved(names: list[str], loads: list[Load], server: Server, rounds: int, seconds: float) -> dict[tuple[str, str], Cost]:
    """The best cost of each client and kind of operation."""
    best: dict[tuple[str, str], Cost] = {}
    absent: set[str] = set()
    for _ in range(rounds):
        for load in loads:
            for name in names:
                if name in absent:
                    continue
                try:
                    cost = measure(name, load, server, seconds)
                except Missing as missing:
                    print(f"  {name}: NOT MEASURED: {missing}", flush=True)
                    absent.add(name)
                    continue
                key = (name, load.op)
                best[key] = min(best.get(key, cost), cost, key=lambda found: found.cpu_us)
    return best


def small(report: Report, options: argparse.Namespace, *, tls: bool = False) -> None:
    """4 KiB."""
    names = [OURS, TLS_PEER] if tls else list(CLIENTS)
    targets = {TLS_PEER: TLS_SMALL} if tls else TARGETS
    print(f"4 KiB{' over HTTPS' if tls else ''}, 32 in flight: CPU us per operation (operations/s)", flush=True)
    with null_server(tls=tls) as server:
        loads = [Load(server.url, op, 4 * KIB, 32, server.ca_file) for op in ("get", "put")]
        best = interleaved(names, loads, server, options.rounds, options.seconds)
        for objects in () if tls else OTHER_OBJECTS:
            load = dataclasses.replace(loads[0], objects=objects)
            cost = interleaved([OURS], [load], server, options.rounds, options.seconds)[OURS, "get"]
            print(f"  GET of {objects:,} objects, {OURS} {cost.cpu_us:8.2f} us  {cost.rate:9,.0f}/s", flush=True)
    for name in names:
        for load in loads:
            if (name, load.op) in best:
                cost = best[name, load.op]
                print(f"  {load.op.upper():4} {name:17} {cost.cpu_us:8.2f} us  {cost.rate:9,.0f}/s", flush=True)
    for name, least in targets.items():
        for op in ("get", "put"):
            if (name, op) in best:
                report.judge(f"{op.upper()} {name} / {OURS}", best[name, op].cpu_us / best[OURS, op].cpu_us, least)


def large(report: Report, options: argparse.Namespace, *, tls: bool = False) -> None:
    """8 MiB."""
    names = [OURS, TLS_PEER] if tls else [name for name in CLIENTS if name != FLOOR]
    print(f"8 MiB{' over HTTPS' if tls else ''}, 8 in flight: GB per CPU second (GB/s)", flush=True)
    size = 8 * MIB
    with null_server(tls=tls) as server:
        loads = [Load(server.url, op, size, 8, server.ca_file) for op in ("get", "put")]
        best = interleaved(names, loads, server, options.rounds, options.seconds)
    value = {key: size / cost.cpu_us / 1000 for key, cost in best.items()}
    for name in names:
        for load in loads:
            if (name, load.op) in best:
                rate = best[name, load.op].rate * size / 1e9
                print(f"  {load.op.upper():4} {name:17} {value[name, load.op]:8.2f} GB/CPU s  {rate:6.2f} GB/s", flush=True)
    for op in ("get", "put"):
        peers = {name: value[name, op] for name in names if name != OURS and (name, op) in value}
        if peers:
            peer = max(peers, key=lambda name: peers[name])
            least = TLS_LARGE if tls else LARGE_TARGET
            report.judge(f"{op.upper()} {OURS} / {peer}", value[OURS, op] / peers[peer], least)


def workers(report: Report, options: argparse.Namespace) -> None:
    """Two worker processes against one."""
    print("Two workers against one, 4 KiB GET", flush=True)
    cost: dict[int, Cost] = {}
    with null_server() as server:
        for _ in range(options.rounds):
            for count in (1, 2):
                found = measure(OURS, Load(server.url, "get", 4 * KIB, 32 * count, workers=count), server, options.seconds)
                cost[count] = min(cost.get(count, found), found, key=lambda found: found.cpu_us)
    for count, found in cost.items():
        print(f"  {count} worker{'s' * (count > 1):1} {found.cpu_us:8.2f} us  {found.rate:9,.0f}/s", flush=True)
    report.judge(f"CPU per operation of 1 worker / 2 workers, times {WORKERS_CPU}", WORKERS_CPU * cost[1].cpu_us / cost[2].cpu_us, 1.0)
    rates = {count: max(operations_per_second(count, options.seconds) for _ in range(options.rounds)) for count in (1, 2)}
    ratio = rates[2] / rates[1]
    print(f"  rate without a network: {rates[1]:,.0f}/s and {rates[2]:,.0f}/s, {ratio:.2f} times (at least {WORKERS_RATE} on idle cores)")
    if os.getloadavg()[0] < 0.5 and (os.cpu_count() or 1) >= 2:
        report.judge("rate of 2 workers / 1 worker", ratio, WORKERS_RATE)


PARTS: dict[str, list[Any]] = {
    "small": [small],
    "large": [large],
    "tls": [lambda *arguments: small(*arguments, tls=True), lambda *arguments: large(*arguments, tls=True)],
    "workers": [workers],
}


def main() -> int:
    """Prints the tables; 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas: " + ", ".join(PARTS))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="a program to measure too (see above)")
    parser.add_argument("--quick", action="store_true", help="one short round: shows only that it works")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.3
    report = Report()
    for peer in options.peer:
        name, _, command = peer.partition("=")
        CLIENTS[name] = functools.partial(run_command, command)
        TARGETS[name] = PEER_TARGET
    for part in options.only.split(","):
        for run in PARTS[part]:
            run(report, options)
    print(f"{len(report.missed)} targets missed{': ' if report.missed else ''}{'; '.join(report.missed)}")
    return 1 if report.missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
