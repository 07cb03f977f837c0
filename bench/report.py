"""What a report costs: 8 agents for an hour, a row per agent and second. Time to make it, its size, time until a browser shows it.

.venv/bin/python bench/report.py [AGENTS] [SECONDS]
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from sai3ssh import compact, report, results
from sai3ssh.histogram import Histogram
from sai3ssh.model import Assignment, OperationSpec, Plan, Population, SizeSpec, Stage, StageKind, Target, to_json
from sai3ssh.protocol import encode_record

SECOND = 1_000_000_000
WALL_NS = 1_800_000_000 * SECOND
SHARES = {"get": 900, "put": 300}
"""Operations per agent and second."""
OPEN_S, MOST_BYTES = 1.0, 3_000_000
"""What is aimed at."""


def journal(file: Path, name: str, seconds: int, rng: random.Random) -> None:
    """An agent's journal: latencies are lognormal and wander, as they do."""
    boot_ns = rng.randrange(1, 1 << 40)
    number = 0
    with file.open("wb") as out:

        def add(kind: str, clock_ns: int, **fields: Any) -> None:
            nonlocal number
            head = {"seq": number, "boot": "b", "clock_ns": clock_ns, "wall_ns": WALL_NS + clock_ns - boot_ns, "kind": kind}
            out.write(encode_record({**head, **fields}))
            number += 1

        host = {"name": name, "cores": 64, "memory_bytes": 1 << 38, "kernel": "6.1", "python": "3.11", "nic_bytes_per_s": 12_500_000_000}
        add("epoch", boot_ns, epoch=name, host=host, version="0.1.0")
        start = {"start_clock_ns": boot_ns, "actual_clock_ns": boot_ns + 1000, "late_ns": 1000}
        add("stage_start", boot_ns, stage=0, name="mix", stage_kind="execute", round=1, **start)
        merged = {op: Histogram() for op in SHARES}
        totals = {op: {"ops": 0, "bytes": 0, "requests": 0, "retries": 0, "errors": {}} for op in SHARES}
        drift = 0.0
        for second in range(seconds):
            drift = 0.95 * drift + rng.gauss(0, 0.05)
            ops = {}
            for op, share in SHARES.items():
                n = int(share * math.exp(rng.gauss(0, 0.05) - drift / 4))
                histogram = Histogram()
                for _ in range(40):  # each stands for a fortieth
                    histogram.record(int(2e6 * math.exp(rng.gauss(drift, 0.7))), max(1, n // 40))
                n = histogram.count
                merged[op].merge(histogram)
                totals[op]["ops"] += n
                p50, p90, p99 = (round(value / 1000) for value in histogram.percentiles([50, 90, 99]))
                ops[op] = [n, n * 65536, histogram.sum_ns, p50, p90, p99, round(histogram.max_ns / 1000)]
            at_ns = boot_ns + (second + 1) * SECOND
            errors = {"get": {"http_503": rng.randrange(1, 9)}} if rng.random() < 0.01 else {}
            load = [round(rng.uniform(20, 30), 1), round(rng.uniform(8, 12), 1), 0.1, 0.0]
            told = {"cpu": load, "mem_used_bytes": 1 << 34, "net": [rng.randrange(1 << 26), rng.randrange(1 << 26)], "disk": [0, 4096]}
            told |= {"worker_cpu": round(rng.uniform(30, 60), 1), "late_ms": round(rng.expovariate(1), 1)}
            requests = {op: figures[0] for op, figures in ops.items()}
            add(
                "sec", at_ns, stage=0, second=second, from_clock_ns=at_ns - SECOND, to_clock_ns=at_ns, warmup=False, done=0, ops=ops,
                requests=requests, retries={}, retried={}, errors=errors, host=told,
            )  # fmt: skip
            if second % 10 == 9 or second == seconds - 1:
                parts = {
                    op: {
                        "3": {
                            "cells": h.to_pairs(),
                            "sum_ns": h.sum_ns,
                            "max_ns": h.max_ns,
                            "bytes": h.count * 65536,
                            "tail_ops": 0,
                            "tail_bytes": 0,
                        }
                    }
                    for op, h in merged.items()
                }
                add("hist", at_ns, **compact.pack({"stage": 0, "warmup": False, "hist": parts}))
                merged = {op: Histogram() for op in SHARES}
        end_ns = boot_ns + seconds * SECOND
        ends = {"start_clock_ns": boot_ns, "end_clock_ns": end_ns, "drained_clock_ns": end_ns, "made": {"puts": [], "deleted": {}}}
        add("stage_end", end_ns, stage=0, name="mix", outcome="finished", totals=totals, **ends)
        add("final", end_ns, outcome="finished", reason="all stages ended", error=None)


def make_run(path: Path, agents: int, seconds: int) -> None:
    """A run directory with some losses."""
    rng = random.Random(7)
    names = [f"host-{number + 1}" for number in range(agents)]
    size = SizeSpec("fixed", 65536, 65536)
    ops = (OperationSpec("get", 75, "s3://b/p/", "set"), OperationSpec("put", 25, "s3://b/n/", size=size))
    stages = (Stage("mix", StageKind.EXECUTE, 64, float(seconds), operations=ops),)
    plan = Plan("bench", "bench", Target("s3", "http://127.0.0.1:1"), (Population("set", "s3://b/p/", "o-%d", 9, size, 7),), stages)
    (path / "plan.json").write_text(json.dumps(to_json(plan)))
    hosts = [{**to_json(Assignment(name, n, agents, {"set": ((0, 9),)})), "host": name} for n, name in enumerate(names)]
    (path / "hosts.json").write_text(json.dumps({"agents": hosts}))
    for name in names:
        (path / "agents" / name).mkdir(parents=True)
        journal(path / "agents" / name / "journal.ndjson", name, seconds, rng)
    events: list[dict[str, Any]] = [{"at": WALL_NS / 1e9 - 2, "event": "run_created"}]
    for number in range(10):
        name, at = rng.choice(names), WALL_NS / 1e9 + rng.uniform(0, seconds)
        events.append({"at": at, "event": "link_down", "agent": name, "cause": "no heartbeat for 3 s", "level": "warning"})
        events.append({"at": at + 20, "event": "link_up", "agent": name, "attempt": number + 1, "down_s": 20.0, "resumed_offset": 1})
    events += [{"at": WALL_NS / 1e9 + seconds + 1, "event": "journal_complete", "agent": name} for name in names]
    events.append({"at": WALL_NS / 1e9 + seconds + 2, "event": "run_ended", "verdict": "COMPLETE", "reasons": [], "exit_code": 0})
    (path / "events.ndjson").write_text("".join(json.dumps(event) + "\n" for event in sorted(events, key=lambda event: event["at"])))


SHOWN = """new Promise((done) => requestAnimationFrame(() => setTimeout(() => {
  const [page] = performance.getEntriesByType('navigation');
  done({ loaded: page.loadEventEnd, shown: performance.now(), heap: performance.memory.usedJSHeapSize,
    drawn: [...document.querySelectorAll('figure')].filter((figure) => figure.dataset.drawn).length });
})))"""
ALL = """(() => {
  const from = performance.now();
  sai3ssh.page.drawAll();
  return performance.now() - from;
})()"""
AGAIN = """(() => {
  document.getElementById('view-agent').click();
  const from = performance.now();
  sai3ssh.page.drawAll();
  return performance.now() - from;
})()"""


def main(agents: int, seconds: int) -> None:
    """Prints a line per figure."""
    from tests.browser import Browser, program

    with tempfile.TemporaryDirectory(prefix="sai3ssh-bench-") as directory:
        run = Path(directory)
        make_run(run, agents, seconds)
        spent = {}
        for name, step in (("results", lambda: results.write(run)), ("document", lambda: report.document(run))):
            before = time.process_time()
            told = step()
            spent[name] = time.process_time() - before
        before = time.process_time()
        file = report.write(told, run)
        spent["file"] = time.process_time() - before
        size, mirrors = file.stat().st_size, sum(path.stat().st_size for path in run.glob("agents/*/journal.ndjson"))
        print(f"report of {agents} agents for {seconds:,} s: {agents * seconds:,} rows, journals of {mirrors / 1e6:.1f} MB")
        print(f"CPU: results {spent['results']:.1f} s, document {spent['document']:.1f} s, file {spent['file']:.1f} s")
        print(f"size: {size / 1e6:.2f} MB, {size / MOST_BYTES:.2f} of the {MOST_BYTES / 1e6:.0f} MB that are aimed at")
        with Browser(program()) as browser:
            opens = []
            for _ in range(5):
                tab = browser.tab()
                tab.open(file.as_uri())
                opens.append(tab.evaluate(SHOWN))
            best, worst = min(one["shown"] for one in opens), max(one["shown"] for one in opens)
            print(f"opened and shown after {best / 1000:.2f} s (best of 5; slowest {worst / 1000:.2f} s); {OPEN_S:.0f} s is aimed at")
            print(f"heap: {min(one['heap'] for one in opens) / 1e6:.0f} MB")
            print(f"all plots: {tab.evaluate(ALL):.0f} ms; another view of all: {tab.evaluate(AGAIN):.0f} ms")
            assert tab.complaints() == [], tab.complaints()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8, int(sys.argv[2]) if len(sys.argv) > 2 else 3600)
