"""How long the results of a big run take to load: 1,000 agents and an hour of them, by default.

    python bench/load_results.py [--agents 125 250 500 1000] [--seconds 3600] [--directory DIR] [--quick]

Journals are synthetic, in the shape and size of those that agents write on the default mix (get, put, stat, list; 4,000 operations a
second, lognormal latencies, their parts, histograms each 10 s), which tests/contract/test_journal_budget.py holds them to: eight different
ones, each copied to its own file for every eighth agent. They take 3 GB of --directory at 1,000 agents.

Each load is a process of its own, which asks for all frames. cold: there are no results and no columns, journals are read and merged, on
all cores; cached: once more, with the results.json that was written meanwhile, as that of a run that is over is. Memory is the peak of the
process and, while they run, of its readers. CPU is that of all of them. Wall time is longer than CPU / cores on a machine that has other
work, so 60 s cold, 5 s cached and 4 GiB are limits with --check only. Growth always has one: the CPU per agent of the largest run is at
most --most-ratio times that of the smallest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sai3ssh import compact, results
from sai3ssh.histogram import CELLS, Histogram, cell_of
from sai3ssh.model import Assignment, OperationSpec, Plan, Population, SizeSpec, Stage, StageKind, Target, to_json
from sai3ssh.protocol import encode_record

SECOND = 1_000_000_000
OPERATIONS = {"get": (2400, "1"), "put": (800, "1"), "list": (200, "0"), "stat": (600, "0")}
SIZE = 4096
DIFFERENT = 8
TIMES = 3
"""So often the cached results are loaded; the best counts, as the first has to wait for memory where a machine's is not its own."""
SPREAD = 0.8
"""Sigma of the lognormal latencies."""
LOAD = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[2])
began = time.perf_counter()
from sai3ssh.results import load
run = load(sys.argv[1])
rows = {name: len(getattr(run, name)) for name in ("operations", "agents", "timeseries", "histograms", "hosts", "events")}
seconds = time.perf_counter() - began
usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
ops = int(run.operations["ops"].sum())
assert ops == int(run.timeseries["ops"].sum()), "seconds and histograms disagree"
print(json.dumps({"seconds": seconds, "cpu_s": sum(u.ru_utime + u.ru_stime for u in usage), "rows": rows, "ops": ops,
                  "own_mib": usage[0].ru_maxrss / 1024, "reader_mib": usage[1].ru_maxrss / 1024, "verdict": run.verdict.value}))
"""


def plan(seconds: int) -> Plan:
    """The plan that the journals are of."""
    uri, size = "s3://bench/data/", SizeSpec("fixed", SIZE, SIZE)
    mix = tuple(OperationSpec(op, count, uri, "prepared", size=size if op == "put" else None) for op, (count, _) in OPERATIONS.items())
    stage = Stage("execute", StageKind.EXECUTE, 64, float(seconds), operations=mix)
    return Plan(
        "load-results", "load-results", Target("s3", "http://127.0.0.1"), (Population("prepared", uri, "o-%d", 9, size, 7),), (stage,)
    )


def journal(path: Path, number: int, seconds: int) -> None:
    """Writes one agent's journal."""
    rng = np.random.default_rng(number)
    boot_ns, records = SECOND * (1000 + number), 0
    middles = np.arange(CELLS)
    centre = cell_of(int(1e6 * (1 + number / DIFFERENT)))
    # 64 cells are an octave: in cells a lognormal law is a normal one.
    chances = np.exp(-(((middles - centre) / (SPREAD * 64 / np.log(2))) ** 2) / 2)
    chances /= chances.sum()
    with path.open("wb") as file:

        def write(kind: str, clock_ns: int, **fields: Any) -> None:
            nonlocal records
            wall_ns = 1_790_000_000 * SECOND + clock_ns
            head = {"seq": records, "boot": "232cc4cb", "clock_ns": clock_ns, "wall_ns": wall_ns, "kind": kind}
            file.write(encode_record({**head, **fields}))
            records += 1

        host = {"name": f"h{number}", "cores": 8, "memory_bytes": 1 << 35, "kernel": "6.1", "python": "3.11.2"}
        write("epoch", boot_ns, epoch=f"{number:032x}", run_id="load-results", agent_id=f"a{number}", generation=1, host=host)
        write(
            "stage_start", boot_ns, stage=0, name="execute", stage_kind="execute", round=1, start_clock_ns=boot_ns,
            actual_clock_ns=boot_ns + 1000, late_ns=1000,
        )  # fmt: skip
        sums = {op: Histogram() for op in OPERATIONS}
        sizes = dict.fromkeys(OPERATIONS, 0)
        window: dict[str, Any] = {}
        totals: dict[str, int] = dict.fromkeys(OPERATIONS, 0)
        for second in range(seconds):
            ops, at_ns = {}, boot_ns + second * SECOND
            for op, (rate, _) in OPERATIONS.items():
                drawn = rng.multinomial(int(rng.poisson(rate)), chances)
                filled = np.flatnonzero(drawn)
                histogram = Histogram(dict(zip(filled.tolist(), drawn[filled].tolist(), strict=True)), max_ns=90_000_000)
                histogram.sum_ns = int(rng.normal(1.4e6, 1e4) * histogram.count)
                size = SIZE * histogram.count if op in ("get", "put") else 0
                p50, p90, p99 = (round(value / 1000, 1) for value in histogram.percentiles([50, 90, 99]))
                ops[op] = [histogram.count, size, histogram.sum_ns, p50, p90, p99, round(histogram.percentile(100) / 1000, 1)]
                sums[op].merge(histogram)
                sizes[op] += size
                totals[op] += histogram.count
            counts = {"requests": {op: figures[0] for op, figures in ops.items()}, "retries": {}, "retried": {}, "errors": {}}
            if second % 60 == 59:
                counts |= {"retries": {"get": 1}, "retried": {"get": {"http_503": 1}}, "errors": {"put": {"timeout": 1}}}
            load = {
                "cpu": [round(float(pct), 1) for pct in rng.uniform(0, 30, 4)], "mem_used_bytes": int(rng.integers(1 << 33)),
                "net": rng.integers(1 << 24, size=2).tolist(), "disk": rng.integers(1 << 24, size=2).tolist(),
                "worker_cpu": round(float(rng.uniform(10, 60)), 1), "workers_cpu": [round(float(rng.uniform(100, 400)), 1), 8],
            }  # fmt: skip
            write(
                "sec", at_ns + SECOND, stage=0, second=second, from_clock_ns=at_ns, to_clock_ns=at_ns + SECOND, warmup=False, done=0,
                ops=ops, **counts, host=load,
            )  # fmt: skip
            if second % 10 == 9 or second == seconds - 1:
                window = {"stage": 0, "warmup": False, "hist": {}, "splits": {}}
                for op, (_, bucket) in OPERATIONS.items():
                    cells = {"cells": sums[op].to_pairs(), "sum_ns": sums[op].sum_ns}
                    window["hist"][op] = {bucket: {**cells, "max_ns": 90_000_000, "bytes": sizes[op], "tail_ops": 0, "tail_bytes": 0}}
                    window["splits"][op] = {"first_byte": {**cells, "cells": earlier(sums[op]).to_pairs()}}
                write("hist", at_ns + SECOND, **compact.pack(window))
                sums, sizes = {op: Histogram() for op in OPERATIONS}, dict.fromkeys(OPERATIONS, 0)
        end_ns = boot_ns + seconds * SECOND
        ended = {
            op: {"ops": n, "bytes": 0, "requests": n, "retries": 0, "retried": {}, "errors": {}, "tail_ops": 0, "tail_bytes": 0}
            for op, n in totals.items()
        }
        write(
            "stage_end", end_ns, stage=0, name="execute", round=1, outcome="finished", start_clock_ns=boot_ns, end_clock_ns=end_ns,
            drained_clock_ns=end_ns, redone=0, totals=ended, made={"puts": [], "deleted": {}},
        )  # fmt: skip
        write("final", end_ns, outcome="finished", reason="all stages ended", error=None)


def earlier(latencies: Histogram) -> Histogram:
    """First bytes: now and then one comes a little before the end of its operation."""
    cells = dict(latencies.cells)
    for cell in list(cells)[3::6]:
        cells[cell] -= 1
        cells[cell - 1] = cells.get(cell - 1, 0) + 1
    return Histogram(cells)


def make_journals(directory: Path, agents: int, seconds: int) -> list[Path]:
    """The journals of so many agents."""
    paths: list[Path] = []
    for number in range(agents):
        path = directory / f"journal-{number:04}"
        if number < DIFFERENT:
            journal(path, number, seconds)
        else:
            shutil.copyfile(paths[number % DIFFERENT], path)
        paths.append(path)
    return paths


def make_run(run: Path, journals: list[Path], seconds: int) -> None:
    """The run directory of some of the agents; journals are linked."""
    run.mkdir()
    names = [f"a{number:04}" for number in range(len(journals))]
    (run / "plan.json").write_text(json.dumps(to_json(plan(seconds))))
    hosts = [{**to_json(Assignment(name, n, len(names), {"prepared": ()})), "host": name} for n, name in enumerate(names)]
    (run / "hosts.json").write_text(json.dumps({"agents": hosts}))
    with (run / "events.ndjson").open("w") as file:
        for name in names:
            events: list[dict[str, Any]] = [
                {"at": 1.0, "event": "link_up", "agent": name, "attempt": 1, "resumed_offset": 0, "down_s": 0.0},
                {"at": 1.5, "event": "clock", "agent": name, "offset_ns": 0, "error_ns": 1000, "boot": "232cc4cb"},
            ]
            rtt = {"cells": Histogram({100: 6, 130: 50, 170: 4}).to_pairs(), "sum_ns": 60_000_000, "max_ns": 2_000_000}
            received = {"received_bytes": 140_000, "records": 66, "refetched_bytes": 0, "refetched_records": 0, "resume_s": []}
            events += [{"at": 60.0 * minute, "event": "network", "agent": name, "rtt": rtt, **received} for minute in range(seconds // 60)]
            events.append({"at": 60.0 + seconds, "event": "journal_complete", "agent": name})
            file.writelines(json.dumps(event) + "\n" for event in events)
        file.write(json.dumps({"at": 61.0 + seconds, "event": "run_ended", "verdict": "COMPLETE", "reasons": [], "exit_code": 0}) + "\n")
    for name, path in zip(names, journals, strict=True):
        (run / "agents" / name).mkdir(parents=True)
        os.link(path, run / "agents" / name / "journal.ndjson")


def forget_pages(paths: list[Path]) -> None:
    """Takes the journals out of the page cache, as they are on the day after."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(run: Path) -> dict[str, Any]:
    """What one load took, in a process of its own."""
    argv = [sys.executable, "-c", LOAD, str(run), str(Path(__file__).resolve().parent.parent)]
    found: dict[str, Any] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    return found


def write_results(run: Path) -> None:
    """What the controller does when a run is over."""
    began, used = time.perf_counter(), time.process_time()
    results.write(run)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - used
    print(f"results.json, tables and log by second are written in {seconds:.1f} s, CPU {cpu_s:.1f} s", flush=True)


def main() -> int:
    """Prints a line per size and way of loading, and the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[125, 250, 500, 1000])
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--directory", type=Path, help="where journals are written")
    parser.add_argument("--most-ratio", type=float, default=1.3)
    parser.add_argument("--drop-pages", action="store_true", help="read the journals from the disk, not from the page cache")
    parser.add_argument("--check", action="store_true", help="exit 1 above 60 s, 5 s or 4 GiB")
    parser.add_argument("--quick", action="store_true", help="4 and 8 agents of 20 s: shows only that it works")
    options = parser.parse_args()
    if options.quick:
        options.agents, options.seconds, options.most_ratio = [4, 8], 20, 50.0
    per_agent: list[float] = []
    within = True
    with tempfile.TemporaryDirectory(prefix="load-results-", dir=options.directory) as scratch:
        journals = make_journals(Path(scratch), max(options.agents), options.seconds)
        size = sum(path.stat().st_size for path in journals)
        print(
            f"{len(journals)} journals of {options.seconds} s, {size / len(journals) / options.seconds:.0f} bytes per agent-second",
            flush=True,
        )
        for agents in options.agents:
            run = Path(scratch) / f"run-{agents}"
            make_run(run, journals[:agents], options.seconds)
            if options.drop_pages:
                forget_pages(journals)
            figures = {}
            for name, most_s in (("cold", 60.0), ("cached", 5.0)):
                if name == "cached":
                    write_results(run)
                    # What is written meanwhile is not what is measured.
                    os.sync()
                figures[name] = found = min((load(run) for _ in range(1 if name == "cold" else TIMES)), key=lambda once: once["seconds"])
                mib = found["own_mib"] + (os.cpu_count() or 1) * found["reader_mib"] * (name == "cold")
                print(
                    f"{agents:5} agents {name:7} {found['seconds']:7.1f} s  CPU {found['cpu_s']:7.1f} s  memory {found['own_mib']:6.0f} MiB"
                    f" + readers {found['reader_mib']:5.0f} MiB each  {found['rows']['timeseries']:,} rows",
                    flush=True,
                )
                within = within and found["seconds"] <= most_s and mib <= 4096
            same = all(figures["cold"][name] == figures["cached"][name] for name in ("rows", "ops", "verdict"))
            if not same:
                raise SystemExit(f"cold and cached differ: {figures}")
            per_agent.append(figures["cold"]["cpu_s"] / agents)
            shutil.rmtree(run)
    ratio = per_agent[-1] / per_agent[0]
    print(f"CPU per agent, {options.agents[-1]} against {options.agents[0]} agents: {ratio:.2f} (limit {options.most_ratio})")
    return 0 if ratio <= options.most_ratio and (within or not options.check) else 1


if __name__ == "__main__":
    sys.exit(main())
