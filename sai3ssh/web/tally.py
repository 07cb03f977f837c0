"""What a run has counted so far, from its run directory as it grows. Memory does not grow with time, only with agents, stages and kinds
of operation."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .. import compact
from ..controller.rundir import Contents, RunDirectory
from ..histogram import Histogram
from ..model import AgentState, StageKind
from ..protocol import MISSHAPEN, Json, decode_record
from .lines import Lines

LATE_S = 3.0
"""A second summary older than this is no longer the current rate."""
OVER = (AgentState.FINISHED, AgentState.STOPPED, AgentState.FAILED, AgentState.LOST)

Key = tuple[int, bool, str]
"""Stage, whether in its warm-up, operation."""


@dataclass
class Counts:
    """Of one kind of operation."""

    ops: int = 0
    bytes: int = 0
    requests: int = 0
    retries: int = 0


@dataclass
class Latest:
    """The last second summary of an agent."""

    stage: int
    ops: dict[str, list[float]]
    """By operation: per second, bytes per second, p50 in us, p99 in us."""
    at_s: float
    """When its mirror grew, in wall time of this machine."""


@dataclass
class AgentTally:
    """One agent, as far as its mirror and the event log go."""

    counts: dict[Key, Counts] = field(default_factory=dict)
    errors: Counter[tuple[int, bool, str, str]] = field(default_factory=Counter)
    """By Key and error class."""
    latency: dict[Key, Histogram] = field(default_factory=dict)
    """Up to 10 s behind the counts."""
    lost_intervals: int = 0
    lost_ns: int = 0
    latest: Latest | None = None
    done: int = 0
    """Objects of the running prepare, verify or cleanup; operations of a replay."""
    torn: bool = False
    state: AgentState = AgentState.CONNECTING
    up: bool = False
    ever_up: bool = False
    link_at: float | None = None
    """Wall time of the last change of the link."""
    away: bool = False
    """Whether the link was lost and is not back."""
    losses: int = 0
    down_s: float = 0.0
    """Of the losses that ended."""
    round_trips: Histogram = field(default_factory=Histogram)
    cause: str = ""

    @property
    def shown_state(self) -> str:
        """UNREACHABLE is of the link: what the agent was doing it goes on doing."""
        return "UNREACHABLE" if self.ever_up and not self.up and self.state not in OVER else self.state.value

    def at(self, key: Key) -> Counts:
        """The counts of a key, made when there are none."""
        return self.counts.setdefault(key, Counts())


class RunTally:
    """A run's counts. `update` reads what is new; not safe for several threads at once."""

    def __init__(self, directory: RunDirectory, clock_s: Callable[[], float] = time.time) -> None:
        """Raises ConfigError when the directory cannot be read."""
        self.directory = directory
        self.contents: Contents = directory.contents()
        self.names = stage_names([stage.name for stage in self.contents.plan.stages])
        self.tell: Callable[[Json], None] = lambda _: None
        """Is given each event of the log, once it is counted."""
        self._clock_s = clock_s
        self._begin()

    def _begin(self) -> None:
        names = [assignment.agent_id for assignment in self.contents.assignments]
        self.agents = {name: AgentTally() for name in names}
        self.created_at: float | None = None
        self.verdict: str | None = None
        self.reasons: list[str] = []
        self.stage: int | None = None
        """The stage that runs, or ran last."""
        self.stage_running = False
        self.stage_at: float | None = None
        """Wall time of its start."""
        self.ends_s: float | None = None
        self.last_event: Json = {}
        self._events = Lines(self.directory.events)
        self._mirrors = {name: Lines(self.directory.mirror(name)) for name in names}

    def update(self) -> None:
        """Reads what has come since the last time. A directory that was made anew is read from its beginning."""
        if self._events.replaced or any(lines.replaced for lines in self._mirrors.values()):
            self._begin()
        for line in self._events.new():
            self._event(event := json.loads(line))
            self.tell(event)
        for name, lines in self._mirrors.items():
            agent = self.agents[name]
            if not agent.torn:
                self._records(agent, lines)

    # --- the event log -----------------------------------------------------------------------------------------------------------------

    def _event(self, event: Json) -> None:
        self.last_event = event
        agent = self.agents.get(event.get("agent", ""))
        if agent is not None:
            _link_event(agent, event)
        match event["event"]:
            case "run_created":
                self.created_at = event["at"]
            case "stage_started":
                self.stage, self.stage_running, self.stage_at, self.ends_s = event["stage"], True, event["at"], None
                for one in self.agents.values():
                    one.done = 0
            case "steady":
                self.ends_s = event["duration_ns"] / 1e9
            case "stage_ended":
                self.stage_running = False
            case "run_ended" | "verdict_revised":
                self.verdict, self.stage_running = event["verdict"], False
                self.reasons = list(event.get("reasons", ()))

    # --- the mirrors -------------------------------------------------------------------------------------------------------------------

    def _records(self, agent: AgentTally, lines: Lines) -> None:
        grew_at = lines.grew_at
        for line in lines.new():
            try:
                self._record(agent, decode_record(line), grew_at)
            except (*MISSHAPEN, ArithmeticError):
                # As results do: what follows something that was altered is not believed.
                agent.torn = True
                return

    def _record(self, agent: AgentTally, record: Json, grew_at: float) -> None:
        kind = record["kind"]
        if kind in ("sec", "gap", "lost"):
            _count(agent, record)
        if kind == "sec":
            agent.latest = _latest(record, grew_at)
            agent.done = record["done"] if record["stage"] == self.stage else agent.done
        elif kind == "lost" and record["to_clock_ns"] > record["from_clock_ns"]:
            agent.lost_intervals += 1
            agent.lost_ns += record["to_clock_ns"] - record["from_clock_ns"]
        elif kind == "hist":
            record = compact.unpack(record)
            for op, buckets in record["hist"].items():
                histogram = agent.latency.setdefault((record["stage"], record["warmup"], op), Histogram())
                for part in buckets.values():
                    histogram.merge(Histogram.from_pairs(part["cells"], sum_ns=part["sum_ns"], max_ns=part["max_ns"]))

    # --- what a page asks --------------------------------------------------------------------------------------------------------------

    def fresh(self, agent: AgentTally) -> Latest | None:
        """The agent's current rates; None when they are of some time ago, or of another stage."""
        latest = agent.latest
        return latest if latest is not None and latest.stage == self.stage and self._clock_s() - latest.at_s <= LATE_S else None

    def rates(self) -> dict[str, list[float]]:
        """By operation: operations/s and bytes/s of the agents whose rates are current."""
        found: dict[str, list[float]] = {}
        for agent in self.agents.values():
            latest = self.fresh(agent)
            for op, (ops, size, *_) in latest.ops.items() if latest is not None else ():
                mine = found.setdefault(op, [0.0, 0.0])
                mine[0] += ops
                mine[1] += size
        return found

    def planned(self) -> int:
        """Objects, or operations of a replay, that the running stage is to do; 0 for one that only has a duration."""
        if self.stage is None:
            return 0
        stage = self.contents.plan.stages[self.stage]
        if stage.replay is not None:
            return stage.replay.records
        if stage.kind is StageKind.EXECUTE:
            return 0
        owned = (ranges for a in self.contents.assignments for name, ranges in a.ranges.items() if name in stage.populations)
        return sum(hi - lo for ranges in owned for lo, hi in ranges)

    def progress(self) -> float | None:
        """How much of the running stage is over, 0 to 1; None between stages."""
        if self.stage is None or not self.stage_running or self.stage_at is None:
            return None
        stage = self.contents.plan.stages[self.stage]
        if stage.duration_s is not None:
            return max(0.0, min(1.0, (self._clock_s() - self.stage_at) / (self.ends_s or stage.duration_s or 1.0)))
        planned = self.planned()
        return min(1.0, sum(agent.done for agent in self.agents.values()) / planned) if planned else 0.0

    def main_latency(self) -> tuple[str | None, float | None, float | None]:
        """The operation that the stage has had most of, and its p50 and p99 in us over all agents so far, without the warm-up."""
        found: dict[str, Histogram] = {}
        for agent in self.agents.values():
            for (stage, warmup, op), histogram in agent.latency.items():
                if stage == self.stage and not warmup:
                    found.setdefault(op, Histogram()).merge(histogram)
        if not found:
            return None, None, None
        op, most = max(found.items(), key=lambda item: item[1].count)
        p50, p99 = most.percentiles([50.0, 99.0])
        return op, p50 / 1000, p99 / 1000

    def errors(self) -> int:
        """Operations that failed for good, of all stages."""
        return sum(sum(agent.errors.values()) for agent in self.agents.values())


def stage_names(names: list[str]) -> list[str]:
    """Names that tell stages apart: the second `read` of a plan is `read (2)`."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _link_event(agent: AgentTally, event: Json) -> None:
    match event["event"]:
        case "link_up":
            agent.up = agent.ever_up = True
            agent.link_at = event["at"]
            agent.down_s += event["down_s"] if agent.away else 0.0
            agent.away = False
        case "link_down":
            agent.up, agent.link_at = False, event["at"]
            # A link that was closed on purpose is no loss.
            agent.away = event.get("level") != "info"
            agent.losses += agent.away
        case "agent_state":
            agent.state = AgentState(event["state"])
        case "agent_failed" | "agent_lost":
            agent.cause = event["error"]
        case "network" if event.get("rtt"):
            rtt = event["rtt"]
            agent.round_trips.merge(Histogram.from_pairs(rtt["cells"], sum_ns=rtt["sum_ns"], max_ns=rtt["max_ns"]))


def _count(agent: AgentTally, record: Json) -> None:
    stage, warmup = record["stage"], record["warmup"]
    for op, figures in record["ops"].items():
        counts = agent.at((stage, warmup, op))
        counts.ops += figures[0]
        counts.bytes += figures[1]
    for op, n in record["requests"].items():
        agent.at((stage, warmup, op)).requests += n
    for op, n in record["retries"].items():
        agent.at((stage, warmup, op)).retries += n
    for op, name, n in _classes(record["errors"]):
        agent.errors[stage, warmup, op, name] += n


def _classes(errors: Json) -> Iterator[tuple[str, str, int]]:
    return ((op, name, n) for op, classes in errors.items() for name, n in classes.items())


def _latest(record: Json, grew_at: float) -> Latest:
    seconds = max(1e-3, (record["to_clock_ns"] - record["from_clock_ns"]) / 1e9)
    ops = {op: [figures[0] / seconds, figures[1] / seconds, figures[3], figures[5]] for op, figures in record["ops"].items() if figures[0]}
    return Latest(record["stage"], ops, grew_at)
