"""What a prepare costs: CPU of the whole agent against s3dlio's put_many, for the same objects on the same server.

    python -m bench.prepare_cpu [--objects 200000] [--size 4096] [--rounds 3] [--least-ratio 3] [--quick]

The server keeps nothing and counts. The agent is the product: supervisor, worker, ledger and journal on disk; every object
has bytes of its own. s3dlio puts the same number of objects, in batches of 2000 with 32 in flight, all with the same bytes, which costs
nothing to make. CPU is user and system time of all processes from their start to their end. Rounds are interleaved, the best of each
counts. Exits 1 when s3dlio does not cost --least-ratio times as much.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clients import BATCH, Load, Missing, Server, null_server, plan_of, run_plan, s3dlio_for
from sai3ssh.model import Stage, StageKind

IN_FLIGHT = 32


def agent(load: Load, objects: int) -> None:
    """A prepare stage, and nothing else."""
    plan, assignment = plan_of(load, 1.0)
    population = dataclasses.replace(plan.populations[0], count=objects)
    stage = Stage("prepare", StageKind.PREPARE, load.concurrency, populations=("prepared",))
    plan = dataclasses.replace(plan, populations=(population,), stages=(stage,))
    run_plan(plan, dataclasses.replace(assignment, ranges={"prepared": ((0, objects),)}))


def s3dlio_put_many(load: Load, objects: int) -> None:
    """Batches of put_many."""
    s3dlio = s3dlio_for(load)
    data = bytes(load.size)
    for first in range(0, objects, BATCH):
        names = range(first, min(first + BATCH, objects))
        s3dlio.put_many([(f"s3://bucket/{load.size}/prepared-{number:08d}.dat", data) for number in names], load.concurrency)


def cost_s(run: Callable[[Load, int], None], load: Load, objects: int, server: Server) -> float:
    """CPU seconds of a process and all that it started; raises Missing, and RuntimeError when the server did not get every object."""
    before = server.requests("put")
    pid = os.fork()
    if not pid:
        code = 1
        try:
            run(load, objects)
            code = 0
        except Missing:
            code = 77
        finally:
            os._exit(code)
    _, status, used = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 77:
        raise Missing("s3dlio is not installed (pip install 'sai3ssh[bench]')")
    got = server.requests("put") - before
    if code or not objects <= got <= objects + 1:  # the agent puts a probe
        raise RuntimeError(f"exit code {code}, {got} objects of {objects}")
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Prints both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least-ratio", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true", help="20,000 objects, once: shows only that it works")
    options = parser.parse_args()
    if options.quick:
        options.objects, options.rounds, options.least_ratio = 20_000, 1, 0.1
    best: dict[str, float] = {}
    with null_server() as server:
        load = Load(server.url, "put", options.size, IN_FLIGHT)
        for _ in range(options.rounds):
            for name, run in (("sai3ssh agent", agent), ("s3dlio put_many", s3dlio_put_many)):
                try:
                    used_s = cost_s(run, load, options.objects, server)
                except Missing as missing:
                    print(f"{name}: NOT MEASURED: {missing}")
                    return 0
                best[name] = min(best.get(name, used_s), used_s)
    for name, used_s in best.items():
        print(f"{name:16} {used_s:8.2f} CPU s, {used_s / options.objects * 1e6:7.2f} us per object of {options.size} bytes")
    ratio = best["s3dlio put_many"] / best["sai3ssh agent"]
    print(f"s3dlio put_many / sai3ssh agent = {ratio:.1f} (at least {options.least_ratio:g})")
    return 0 if ratio >= options.least_ratio else 1


if __name__ == "__main__":
    sys.exit(main())
