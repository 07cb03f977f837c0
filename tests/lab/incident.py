"""The incident on eight hosts: millions of objects are prepared when the link of h6 breaks, at 54 %.

`python -m tests.lab.incident` plays it three times at full size against a server that counts each object (bitmap_server): the link is back
after 60 s; the host is gone for good, under best_effort; the link breaks under fail_fast. It prints a timeline of each, and ends with exit
code 1 when something does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.lab.bitmap_server import BitmapServer
from tests.lab.lab import STORAGE, STORAGE_ADDRESS, Lab, LabHost
from tests.lab.operator import Operator, Record, journals, kinds

OBJECTS = 4_915_200
SIZE = 64
SEED = 1
"""Of the first population of a workload whose `seed` is 0."""
LATENCY_S = 0.0015
VICTIM = "h6"
AT = 0.54
WORKLOAD = """
name: incident
target: s3://{bucket}/
concurrency: 4
workers: 1
s3: {{endpoint_url: "{endpoint}"}}
distributed: {{failure_policy: {policy}, reconnect_timeout: {timeout}, agent_retry_delay_s: 2}}
error_handling: {{max_total_errors: 0, error_rate_threshold: 0}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: {count}, size_spec: {size}}}
stages:
  - {{name: prepare, type: prepare}}
"""


@dataclass(frozen=True)
class Played:
    """A run with the incident in it, over."""

    run: Path
    code: int
    said: str
    cut_ns: tuple[int, int]
    """From when to when h6 was away, CLOCK_BOOTTIME of this machine."""

    @property
    def results(self) -> Record:
        """Its results.json."""
        found: Record = json.loads((self.run / "results.json").read_text())
        return found

    @property
    def events(self) -> list[Record]:
        """Its event log."""
        return [json.loads(line) for line in (self.run / "events.ndjson").read_text().splitlines()]


def created(run: Path) -> int:
    """Objects that the mirrors know of."""
    done = 0
    for path in run.glob("agents/*/journal.ndjson"):
        seconds = [line for line in path.read_bytes().splitlines()[-20:] if b'"kind":"sec"' in line]
        with contextlib.suppress(IndexError, ValueError):
            done += json.loads(seconds[-1]).get("done", 0)
    return done


def play(operator: Operator, count: int, policy: str, size: int, timeout: str, away: Callable[[LabHost], None], *options: str) -> Played:
    """Prepares `count` objects; `away` is called once 54 % of them are there, and the run is awaited."""
    bucket = operator.bucket()
    text = WORKLOAD.format(bucket=bucket, endpoint=operator.s3.endpoint_url, policy=policy, timeout=timeout, count=count, size=size)
    process = operator.start(text, *options)
    operator.wait_for_stage(process, "prepare")
    run = operator.last_run()
    while created(run) < AT * count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    away(next(host for host in operator.lab.hosts if host.name == VICTIM))
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    out, err = process.communicate(timeout=3600)
    return Played(run, process.returncode, out + err, (began, ended))


def cut(seconds: float) -> Callable[[LabHost], None]:
    """The operator and the host do not reach each other for so long; storage stays reachable."""

    def away(host: LabHost) -> None:
        with host.cut():
            time.sleep(seconds)

    return away


@contextlib.contextmanager
def destroyed(operator: Operator) -> Iterator[Callable[[LabHost], None]]:
    """The host is cut off and crashes, and is not seen again before the block ends."""

    def away(host: LabHost) -> None:
        with host.cut():
            host.crash()
            time.sleep(5.0)  # the controller tries to reach it: the cut must show that it dropped something

    victim = next(host for host in operator.lab.hosts if host.name == VICTIM)
    try:
        yield away
    finally:
        victim.boot()
        victim.wait()
        # Back without a controller it would wait for one; what follows wants an idle host.
        victim.exec("rm -rf /root/.local/state/sai3ssh/runs")


def check_back(operator: Operator, played: Played) -> str:
    """COMPLETE, with h6's share and rate as if nothing had been. Returns what to print of it."""
    assert (played.code, played.results["verdict"]) == (0, "COMPLETE"), played.said
    operator.check_mirrors(played.run)
    assert [event["agent"] for event in played.events if event["event"] == "link_down" and event["level"] != "info"] == [VICTIM]
    rates = rates_by_second(played)
    inside, before = rates["inside"], rates["before"]
    idle = [at for at, mine, _ in inside if mine == 0]
    assert inside, "no second of h6 was measured inside the cut"
    assert not idle, f"{VICTIM} was idle in seconds {idle}"
    was, now = ratio(before), ratio(inside)
    assert abs(now[0] - 1) <= max(abs(was[0] - 1) + 3 * (was[1] + now[1]), 0.01), f"{VICTIM}/peers: {was} before, {now} inside the cut"
    resumed = played.results["network"][VICTIM]["losses"][0]
    return (
        f"h6 away for {(played.cut_ns[1] - played.cut_ns[0]) / 1e9:.0f} s: {len(inside)} whole seconds inside the cut, none idle; "
        f"rate of h6 / mean rate of its peers: {was[0]:.4f} +- {was[1]:.4f} before, {now[0]:.4f} +- {now[1]:.4f} inside; "
        f"stream resumed {resumed['resume_s']:.2f} s after the connection was begun"
    )


def ratio(seconds: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Mean of h6's rate divided by that of its peers, second by second, and its standard error."""
    values = [mine / peers for _, mine, peers in seconds]
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 1.0


def rates_by_second(played: Played) -> dict[str, list[tuple[float, float, float]]]:
    """(second of the stage, objects/s of h6, mean objects/s of the others) of whole seconds, before and inside the cut."""
    offsets = {event["agent"]: event["offset_ns"] for event in played.events if event["event"] == "clock"}
    found: dict[str, dict[int, tuple[int, float]]] = {}
    for agent, records in journals(played.run).items():
        start = kinds(records, "stage_start")[0]["start_clock_ns"]
        found[agent] = {
            round((record["from_clock_ns"] - start) / 1e9): (
                record["from_clock_ns"] - offsets[agent],
                record["ops"].get("put", [0])[0] * 1e9 / (record["to_clock_ns"] - record["from_clock_ns"]),
            )
            for record in kinds(records, "sec")
            if record["to_clock_ns"] - record["from_clock_ns"] > 900_000_000
        }
    result: dict[str, list[tuple[float, float, float]]] = {"before": [], "inside": []}
    for second, (from_ns, mine) in found[VICTIM].items():
        others = [rates[second][1] for agent, rates in found.items() if agent != VICTIM and second in rates]
        if second < 2 or len(others) < len(found) - 1:
            continue  # connections are being opened; somebody has finished
        if from_ns + 10**9 <= played.cut_ns[0]:
            result["before"].append((second, mine, statistics.fmean(others)))
        elif played.cut_ns[0] <= from_ns and from_ns + 10**9 <= played.cut_ns[1]:
            result["inside"].append((second, mine, statistics.fmean(others)))
    return result


def check_gone(played: Played, count: int) -> str:
    """PARTIAL because of h6, and everything prepared nevertheless; the objects themselves are for the caller to look at."""
    results = played.results
    assert (played.code, results["verdict"]) == (3, "PARTIAL"), played.said
    assert any(VICTIM in reason for reason in results["reasons"]), results["reasons"]
    records = journals(played.run)
    done = sorted((lo, hi) for agent in records.values() for record in kinds(agent, "ledger") for lo, hi in record["ranges"])
    assert sum(hi - lo for lo, hi in done) == count, "the ledgers of all agents together are not every object once"
    assert all(first[1] == second[0] for first, second in pairwise(done))
    adopted = [record for name, agent in records.items() if name != VICTIM for record in kinds(agent, "adopted")]
    assert len(adopted) == len(records) - 1, f"{len(adopted)} agents have adopted something"
    told = sum(hi - lo for record in kinds(records[VICTIM], "ledger") for lo, hi in record["ranges"])
    return (
        f"h6 had told of {told:,} of its {count // len(records):,} objects; the other {len(adopted)} did the rest. {results['reasons'][0]}"
    )


def check_fail_fast(played: Played) -> str:
    """It does what its name says. Returns what that was."""
    reason = next(event["reason"] for event in played.events if event["event"] == "abort")
    assert played.code == 4, played.said
    assert f"{VICTIM}: link lost" in reason, reason
    assert "fail_fast" in reason, reason
    return f"fail_fast: {reason}"


def timeline(played: Played, count: int) -> Iterator[str]:
    """What happened when, and how many objects the controller knew of."""
    events = [event for event in played.events if event.get("level") != "info"]
    zero = next((event["at"] for event in events if event["event"] == "stage_started"), events[0]["at"])
    seconds: list[tuple[float, str, int]] = []
    for agent, records in journals(played.run).items():
        before = last = 0
        for record in kinds(records, "sec"):
            # A stage that is opened again counts from zero.
            before += last if record["done"] < last else 0
            last = record["done"]
            seconds.append((record["wall_ns"] / 1e9, agent, before + last))
    seconds.sort()
    told = ("stage_started", "link_down", "link_up", "agent_lost", "agent_failed", "go_on_without", "reassigned", "abort", "stage_ended")
    for event in events:
        if event["event"] in told and event["at"] >= zero:
            done: dict[str, int] = {}
            for at, agent, n in seconds:
                if at <= event["at"]:
                    done[agent] = n
            what = ", ".join(
                f"{name} {event[name]}" for name in ("agent", "cause", "error", "reason", "down_s", "remaining", "lost") if name in event
            )
            yield f"{event['at'] - zero:9.1f} s  {sum(done.values()) / count:6.1%}  {event['event']:14} {what}"
    ended = next(event for event in reversed(events) if event["event"] == "run_ended")
    yield f"{ended['at'] - zero:9.1f} s          run_ended      {ended['verdict']}, exit code {played.code}"


def check_objects(server: BitmapServer, count: int, *, repeats: bool) -> str:
    """All are there, each right; without a crash none was put twice."""
    state = server.state()
    assert state["wrong"] == [], state["wrong"]
    assert state["distinct"] == count, f"{count - state['distinct']} objects are missing"
    assert repeats or state["repeated"] == 0, f"{state['repeated']} objects were put more than once"
    return f"the server has all {count:,} objects, checked byte by byte; {state['repeated']:,} were put twice"


def main() -> int:
    """Plays all three."""
    parser = argparse.ArgumentParser(description="Plays the incident at full size on eight hosts.")
    parser.add_argument("--objects", type=int, default=OBJECTS)
    parser.add_argument("--cut", type=float, default=60.0, help="seconds")
    given = parser.parse_args()
    count = given.objects
    with tempfile.TemporaryDirectory(prefix="incident-") as scratch:
        place = Path(scratch)
        with Lab(place / "lab") as lab, BitmapServer(place, STORAGE_ADDRESS, netns=STORAGE) as server:

            def act(title: str, policy: str, away: Callable[[LabHost], None]) -> Played:
                server.expect(count, SIZE, SEED, LATENCY_S)
                directory = place / policy
                directory.mkdir()
                operator = Operator(lab, server, directory, Path(sys.executable).parent / "sai3ssh")
                began = time.monotonic()
                # The server takes no other objects than those that it counts: none to try it with.
                timeout = "30s" if policy == "best_effort" else "600s"
                played = play(operator, count, policy, SIZE, timeout, away, "--skip", "storage")
                say(f"== {title} ({time.monotonic() - began:.0f} s)")
                for line in timeline(played, count):
                    say(line)
                if policy == "retry":
                    say(check_back(operator, played))
                return played

            act(f"the link of {VICTIM} breaks at {AT:.0%} and is back after {given.cut:.0f} s", "retry", cut(given.cut))
            say(check_objects(server, count, repeats=False))
            with destroyed(Operator(lab, server, place, Path())) as away:
                say(check_gone(act(f"{VICTIM} is destroyed at {AT:.0%}", "best_effort", away), count))
            say(check_objects(server, count, repeats=True))
            say(check_fail_fast(act("for contrast: the same cut under fail_fast", "fail_fast", cut(5.0))))
            say(f"the server has {server.state()['distinct']:,} of {count:,} objects, and the run is over")
    return 0


def say(line: str) -> None:
    """At once: the acts take minutes."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
