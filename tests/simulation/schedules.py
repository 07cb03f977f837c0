"""Random fault schedules, each from one number: `python -m tests.simulation.schedules 17` replays seed 17, `0-99999` runs a range."""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

from sai3ssh.controller.session import Options
from sai3ssh.model import FailurePolicy, Intervals, Steady
from tests.simulation.world import OBJECTS, ControllerCrash, Cut, Faults, Hit, SimAgent, World

AGENTS = 4
LIMIT_S = 4 * 3600.0
HITS = ("half_open", "supervisor_killed", "reboot", "disk_full", "clock_jump", "asleep", "off_network")
RARE_HITS = ("frozen", "altered")
"""Most runs do not survive them: drawn more often, they would hide the rest."""
CHUNK = 50


def draw(seed: int) -> World:
    """The world of a seed: policy, stages and everything that goes wrong."""
    pick = random.Random(seed)
    faults = Faults(
        seed=seed,
        longest_delay_s=pick.choice([0.002, 0.3, 1.5]),
        lost_answers=pick.choice([0.0, 0.0, 0.1]),
        repeated=pick.choice([0.0, 0.0, 0.3]),
        witness=pick.random() < 0.8,
    )
    long = pick.random() < 0.5
    for _ in range(pick.choice([0, 1, 3, 8])):
        faults.cuts.append(Cut(pick.randrange(AGENTS), pick.uniform(0.0, 120.0), pick.uniform(0.05, 300.0 if long else 40.0)))
    for _ in range(pick.choice([0, 1, 2, 4])):
        kind = pick.choice(HITS)
        # What is shorter than 5 s is no sleep to a controller.
        shortest_s = 6.0 if kind == "asleep" else 0.5
        faults.hits.append(Hit(kind, pick.randrange(AGENTS), pick.uniform(0.0, 120.0), pick.uniform(shortest_s, 60.0)))
    for _ in range(pick.choice([0, 0, 1, 3])):
        faults.controller_crashes.append(
            ControllerCrash(pick.randrange(1, 160), pick.uniform(0.1, 60.0), pick.random() < 0.5, pick.random() < 0.2)
        )
    if pick.random() < 0.15:
        faults.failure = (pick.randrange(AGENTS), pick.uniform(0.0, 120.0))
    if pick.random() < 0.1:
        faults.stop_at_s = pick.uniform(0.0, 120.0)
    name = pick.choice(["fail_fast", "retry_once", "retry", "retry", "best_effort", "best_effort", "best_effort", "continue_if_majority"])
    policy = FailurePolicy(
        name,
        min_agents=pick.choice([1, 1, 2]) if name in ("best_effort", "continue_if_majority") else 1,
        attempts=pick.choice([None, None, 2]) if name not in ("fail_fast", "retry_once") else None,
        delay_s=pick.choice([2.0, 5.0]),
        max_delay_s=20.0,
        reconnect_timeout_s=pick.choice([20.0, 60.0]),
        reassign=pick.random() < 0.8,
    )
    lengths = [pick.uniform(0.0, 20.0) for _ in range(pick.randrange(3))]
    options = Options(start_with_available=pick.random() < 0.1)
    credentials = pick.random() < 0.3
    if pick.random() < 0.2:
        # Twice the same host, shortly after one another: what the first recovery journalled is what the second one goes by.
        lengths = [pick.uniform(60.0, 120.0)]
        agent, at_s, for_s = pick.randrange(AGENTS), pick.uniform(5.0, 200.0), pick.uniform(0.5, 4.0)
        second = Hit(pick.choice(["supervisor_killed", "reboot"]), agent, at_s + for_s + pick.uniform(1.0, 10.0), 1.0)
        faults.hits += [Hit("reboot", agent, at_s, for_s), second]
    if pick.random() < 0.1:
        # Who is given up early, but still has a lease when the others are to remove what it creates.
        faults.quick, lengths = True, lengths[:1] if pick.random() < 0.3 else []
        faults.cuts.append(Cut(pick.randrange(AGENTS), pick.uniform(5.0, 20.0), 300.0))
        policy = FailurePolicy("best_effort", attempts=1, delay_s=2.0, reconnect_timeout_s=60.0)
    if pick.random() < 0.15:
        faults.hits.append(Hit(pick.choice(RARE_HITS), pick.randrange(AGENTS), pick.uniform(0.0, 120.0), 0.0))
    steady = None
    if seed % 4 == 2:
        steady = Steady(pick.choice([5.0, 8.0]), 0.02, 0.05, pick.choice([5.0, 15.0]), pick.choice(["ops", "bytes"]), pick.choice([1, 3]))
        lengths = [pick.uniform(25.0, 120.0) for _ in range(pick.choice([1, 1, 2]))]
    if seed % 16 in (9, 13):
        # Commands that are stuck while a stage ends and is opened again: an old COMMIT comes when the new round is armed, or before that.
        gone, *others = pick.sample(range(AGENTS), AGENTS)
        faults = Faults(seed, lost_answers=0.3, quick=True, witness=True)
        faults.cuts = [Cut(gone, pick.uniform(15.0, 40.0), 300.0)]
        faults.cuts += [Cut(pick.choice(others), pick.uniform(12.0, 90.0), pick.uniform(0.05, 2.0)) for _ in range(20)]
        lengths, policy = [], FailurePolicy("best_effort", attempts=1, delay_s=2.0, reconnect_timeout_s=60.0)
    return World(faults, AGENTS, lengths, options, policy, credentials=credentials, steady=steady)


def check(world: World) -> None:
    """What must hold when a run is over, whatever happened to it."""
    assert world.quit is None, f"left: {world.quit}"
    session = world.last_session
    events = {name: world.events(name) for name in ("agent_lost", "agent_failed", "stop_requested", "link_down", "abort", "go_on_without")}
    gone = {e["agent"] for e in events["agent_lost"]} | {e["agent"] for e in events["agent_failed"]}
    for name, view in session.agents.items():
        # A rebuilt log has forgotten who was given up, if nobody took over from it yet.
        assert view.out == (name in gone) or world.rebuilt, f"{name}: out {view.out}, events {gone}"
    for agent in world.agents:
        mirrored = world.mirrored[agent.index]
        prefix = bytes(agent.data[: len(mirrored)]) == mirrored
        assert prefix or agent.altered, f"{agent.name}: the mirror is no prefix of the journal"
        assert prefix or not session.agents[agent.name].complete, f"{agent.name}: a mirror that is no prefix is taken for the whole journal"
        agent.counter.check(agent.name, agent.journal)
        passes = [(stage, len([s for s, _ in agent.starts if s == stage])) for stage in range(len(world.plan.stages))]
        allowed = {stage: 1 + len([e for e in world.events("stage_opened_again") if e["stage"] == stage]) for stage, _ in passes}
        again = sum(1 for hit in world.faults.hits if hit.kind in ("supervisor_killed", "reboot"))
        assert all(n <= allowed[stage] + again for stage, n in passes), f"{agent.name}: starts {agent.starts}"
    if session.abort_reason is None:
        _check_whole(world)
    else:
        known = bool(events["stop_requested"] or gone or (world.plan.policy.name == "fail_fast" and events["link_down"]))
        assert known, f"aborted without a cause: {session.abort_reason}"
        assert len(events["abort"]) == 1 or world.rebuilt, events["abort"]
        _check_stopped(world)
    _check_policy(world, gone)


def _check_whole(world: World) -> None:
    """A run that was not aborted: everybody who counts has finished and is here to the last byte; the objects are the specified ones."""
    session = world.last_session
    assert world.ended == "all stages ended"
    for agent in world.agents:
        if not session.agents[agent.name].out:
            assert agent.journal[-1].get("outcome") == "finished", f"{agent.name}: {agent.journal[-1]}"
            assert world.mirrored[agent.index] == agent.data, f"{agent.name}: journal {len(agent.data)} bytes"
        elif agent.over and world.links[agent.index].subscribed and world.now - _up_since_s(world, agent) > 10.0:
            # It was given up and is back.
            assert world.mirrored[agent.index] == agent.data or agent.altered, f"{agent.name} is back, its journal is not here"
    for stage in (0, len(world.plan.stages) - 1):
        ledgers = [r for agent in world.agents for r in agent.journal if r["kind"] == "ledger" and r["stage"] == stage]
        done = Intervals(piece for record in ledgers for piece in record["ranges"])
        if world.plan.policy.reassign or not any(agent.out for agent in session.agents.values()):
            assert done == Intervals([(0, OBJECTS)]), f"stage {stage}: {done}"
        for agent in world.agents:
            mine = [piece for r in ledgers if r in agent.journal for piece in r["ranges"]]
            others = [r for other in world.agents if other is not agent and not _out(world, other) for r in other.journal]
            theirs = Intervals(piece for r in others if r["kind"] == "ledger" and r["stage"] == stage for piece in r["ranges"])
            both = len(theirs) - len(theirs.subtract(Intervals(mine)))
            assert _out(world, agent) or not both, f"stage {stage}: {both} objects of {agent.name} were done by others as well"
    _check_ends(world)
    ended = [e["stage"] for e in world.events("stage_ended")]
    assert ended == list(range(len(world.plan.stages))) or world.rebuilt, ended


def _check_ends(world: World) -> None:
    """A stage that was to end when it is steady has ended so, for all that count alike, or has been found not to be steady."""
    for stage, spec in enumerate(world.plan.stages):
        decided = [e for e in world.events("steady") if e["stage"] == stage]
        missed = [e for e in world.events("not_steady") if e["stage"] == stage]
        if spec.steady is None or world.rebuilt:
            assert spec.steady or not decided + missed
            continue
        assert len(decided) + len(missed) == 1, f"stage {stage}: {decided} {missed}"
        told = {r["duration_ns"] for a in world.agents for r in a.journal if r["kind"] == "ending" and r["stage"] == stage}
        assert told <= {e["duration_ns"] for e in decided}, f"stage {stage}: agents were told {told}, decided is {decided}"


def _up_since_s(world: World, agent: SimAgent) -> float:
    link = world.links[agent.index]
    return link.up_since_s if link.up and not link.mute else world.now


def _out(world: World, agent: SimAgent) -> bool:
    return world.last_session.agents[agent.name].out


def _check_stopped(world: World) -> None:
    """Every agent that was reached has ended; when nobody had begun, nothing is left on its host."""
    unconfirmed = {e["agent"] for e in world.events("stop_unconfirmed")}
    unconfirmed |= {e["agent"] for e in world.events("stop_failed")} | {e["agent"] for e in world.events("agent_lost")}
    for agent in world.agents:
        if agent.key and agent.name not in unconfirmed:
            assert agent.over, f"{agent.name} is {agent.state} after the end of the run"
    if world.last_session.never_started:
        assert not any(agent.starts for agent in world.agents)
        for agent, link in zip(world.agents, world.links, strict=True):
            reached = link.up and world.now - link.up_since_s > 35.0
            assert not (reached and agent.key and agent.over) or agent.forgotten, f"{agent.name} has the plan of a run that never started"


def _check_policy(world: World, gone: set[str]) -> None:
    """Each policy did what it promises about agents that are gone."""
    session, policy = world.last_session, world.plan.policy
    broke = any(e["level"] == "warning" for e in world.events("link_down"))
    assert not broke or policy.name != "fail_fast" or session.abort_reason is not None or world.rebuilt, "a link broke under fail_fast"
    stopped = bool(world.events("stop_requested"))
    for event in world.events("go_on_without") if policy.survives and not (world.options and world.options.start_with_available) else ():
        enough = event["remaining"] >= policy.min_agents
        majority = policy.name != "continue_if_majority" or 2 * event["remaining"] > len(world.agents)
        assert enough, f"{policy} goes on with {event['remaining']}"
        assert majority, f"{policy} goes on with {event['remaining']}"
    if not gone or stopped or session.never_started or session.abort_reason is None:
        if session.abort_reason is None and gone and not session.never_started:
            before_start = (
                all(e["agent"] in gone for e in world.events("go_on_without")) and world.options and world.options.start_with_available
            )
            assert policy.survives or before_start or world.rebuilt, f"{policy.name} went on without {gone}"
        return
    if policy.survives:
        left = len(world.agents) - len({e["agent"] for e in world.events("go_on_without")}) - 1
        majority = policy.name == "continue_if_majority" and 2 * left <= len(world.agents)
        assert left < policy.min_agents or majority or left == 0, f"{policy} gave up with {left} left: {session.abort_reason}"


def run_seed(seed: int) -> str | None:
    """None, or what went wrong."""
    try:
        world = draw(seed)
        world.run(LIMIT_S)
        check(world)
    except Exception:
        return traceback.format_exc(limit=-4)
    return None


def run_range(seeds: range) -> list[tuple[int, str]]:
    """The failures of a range of seeds."""
    return [(seed, failure) for seed in seeds if (failure := run_seed(seed)) is not None]


def search(first: int, last: int, processes: int, *, stop_at: int = 5, progress: bool = False) -> list[tuple[int, str]]:
    """The first failures among seeds first to last - 1."""
    chunks = [range(lo, min(last, lo + CHUNK)) for lo in range(first, last, CHUNK)]
    failures: list[tuple[int, str]] = []
    began = time.monotonic()
    # Worlds are all alike and soon gone: looking for cycles as often as usual takes a twentieth of the time.
    with ProcessPoolExecutor(processes, initializer=gc.set_threshold, initargs=(100_000,)) as pool:
        for number, found in enumerate(pool.map(run_range, chunks), 1):
            failures += found
            if progress and (number % 20 == 0 or number == len(chunks)):
                done = chunks[number - 1].stop - first
                sys.stderr.write(f"{done:,} schedules, {len(failures)} failures, {time.monotonic() - began:.0f} s\n")
            if len(failures) >= stop_at:
                pool.shutdown(cancel_futures=True)
                break
    return failures


def main() -> int:
    """Exit code 1 when a schedule failed."""
    parser = argparse.ArgumentParser(description="Runs fault schedules of the simulation.")
    parser.add_argument("seeds", help="a seed, or a range such as 0-99999")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--stop-at", type=int, default=5, help="failures after which the search ends")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    if not last:
        world = draw(int(first))
        sys.stdout.write(f"{world.faults}\n{world.plan.policy}\n")
        try:
            world.run(LIMIT_S)
            check(world)
        finally:
            for at_s, log in world.log:
                sys.stdout.write(f"{at_s - 1000.0:9.3f}  {log.event} {log.fields}\n")
        return 0
    failures = search(int(first), int(last) + 1, given.processes, stop_at=given.stop_at, progress=True)
    for seed, failure in failures:
        sys.stdout.write(f"seed {seed}:\n{failure}\n")
    sys.stdout.write(f"{int(last) + 1 - int(first):,} schedules, {len(failures)} failures\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
