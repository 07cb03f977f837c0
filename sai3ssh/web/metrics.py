"""What Prometheus scrapes: the counts of the runs that go on, by the conventions of Prometheus (base units, _total, labels)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..histogram import Histogram, cell_of
from ..model import OPERATIONS, Stage, StageKind
from .tally import AgentTally, RunTally

if TYPE_CHECKING:
    from .catalogue import Catalogue

RUNS = 20
"""Metrics are of at most so many runs, the newest."""
SERIES = 20_000
"""So many at most: a run for which there is no room has its histograms, then all of its counts, told of one agent, ALL."""
ALL = "all"
ERRORS = 4
"""Classes of errors that an operation is expected to have."""
BOUNDS_NS = [bound for power in range(14, 36) for bound in (1 << power, 3 << (power - 1))]
"""Upper bounds of latency buckets, from 16 us to 52 s, two an octave: edges of our cells, so that counts are exact."""
CELLS = [cell_of(bound) for bound in BOUNDS_NS]

OP = ["run", "agent", "stage", "phase", "op"]
AGENT = ["run", "agent"]


@dataclass(frozen=True)
class Exposition:
    """The metrics as text."""

    body: bytes
    content_type: str


def expose(catalogue: Catalogue, accept: str) -> Exposition:
    """The metrics of all current runs, in the format that the client's Accept header asks for."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry()
    registry.register(_Runs(catalogue.current(RUNS)))
    return Exposition(encode(registry), content_type)


def families(run: RunTally) -> Iterator[Metric]:
    """The metrics of one run, with their samples."""
    found = _Families()
    found.add(run)
    return found.all()


class _Runs(Collector):
    def __init__(self, runs: Iterable[RunTally]) -> None:
        self._runs = runs

    def describe(self) -> Iterable[Metric]:
        """Nothing: otherwise all would be collected twice."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, with the samples of all runs."""
        families = _Families()
        for run in self._runs:
            families.add(run)
        return families.all()


@dataclass(frozen=True)
class _Agents:
    counted: Mapping[str, AgentTally]
    timed: Mapping[str, AgentTally]
    """Whose histograms are told."""


class _Families:
    def __init__(self) -> None:
        self._room = SERIES
        self.operations = CounterMetricFamily("sai3ssh_operations", "Operations that ended, failed ones aside.", labels=OP)
        self.bytes = CounterMetricFamily("sai3ssh_bytes", "Bytes that these operations moved.", labels=OP)
        self.requests = CounterMetricFamily("sai3ssh_requests", "Requests that were sent: operations, retries and errors.", labels=OP)
        self.retries = CounterMetricFamily("sai3ssh_retries", "Attempts that failed and were made again.", labels=OP)
        self.errors = CounterMetricFamily("sai3ssh_errors", "Operations that failed for good, by class.", labels=[*OP, "class"])
        self.latency = HistogramMetricFamily(
            "sai3ssh_operation_duration_seconds", "Latencies of operations; up to 10 s behind the other counts.", labels=OP
        )
        self.up = GaugeMetricFamily("sai3ssh_link_up", "Whether the controller's link to the agent is up.", labels=AGENT)
        self.state = GaugeMetricFamily("sai3ssh_agent_state", "1 for the state that the agent is in.", labels=[*AGENT, "state"])
        self.losses = CounterMetricFamily("sai3ssh_link_losses", "Times that the link was lost.", labels=AGENT)
        self.down = CounterMetricFamily("sai3ssh_link_down_seconds", "Time without a link, of the losses that ended.", labels=AGENT)
        self.round_trips = HistogramMetricFamily(
            "sai3ssh_heartbeat_round_trip_seconds", "Round trips of heartbeats; told each minute and at each loss.", labels=AGENT
        )
        self.lost = CounterMetricFamily("sai3ssh_lost_intervals", "Intervals that the agent did not measure as a whole.", labels=AGENT)
        self.lost_s = CounterMetricFamily("sai3ssh_lost_seconds", "Sum of these intervals.", labels=AGENT)
        self.agents = GaugeMetricFamily("sai3ssh_run_agents", "Agents of the run.", labels=["run"])
        self.run = GaugeMetricFamily("sai3ssh_run_state", "1 for what became of the run: running, or its verdict.", labels=["run", "state"])
        self.progress = GaugeMetricFamily("sai3ssh_stage_progress_ratio", "How much of the running stage is over.", labels=["run", "stage"])
        self.created = GaugeMetricFamily("sai3ssh_run_created_timestamp_seconds", "When the run was created.", labels=["run"])

    def all(self) -> Iterator[Metric]:
        """In the order of their making."""
        return (family for family in vars(self).values() if isinstance(family, Metric))

    def add(self, run: RunTally) -> None:
        """The samples of one run."""
        name = run.directory.path.name
        controlled = run.directory.controller() is not None
        self.run.add_metric([name, run.verdict or ("running" if controlled else "left")], 1)
        self.agents.add_metric([name], len(run.agents))
        if run.created_at is not None:
            self.created.add_metric([name], run.created_at)
        progress = run.progress()
        if progress is not None and run.stage is not None:
            self.progress.add_metric([name, run.names[run.stage]], progress)
        agents = self._agents(run)
        for agent, tally in agents.counted.items():
            self._counts(run, name, agent, tally)
        for agent, tally in agents.timed.items():
            self._times(run, name, agent, tally)
        if agents.counted is not run.agents or run.verdict is not None:
            return
        for agent, tally in run.agents.items():
            self.up.add_metric([name, agent], tally.up)
            self.state.add_metric([name, agent, tally.shown_state], 1)

    def _agents(self, run: RunTally) -> _Agents:
        """What is told of which agent, as far as there is room."""
        keys = sum(_keys(stage) for stage in run.contents.plan.stages)
        counted, timed = keys * (4 + ERRORS) + 6, (keys + 1) * (len(CELLS) + 3)
        merged = {ALL: _sum(run.agents.values())}
        for agents, series in (
            (_Agents(run.agents, run.agents), len(run.agents) * (counted + timed)),
            (_Agents(run.agents, merged), len(run.agents) * counted + timed),
            (_Agents(merged, merged), counted + timed),
        ):
            if series <= self._room:
                self._room -= series
                return agents
        return _Agents({}, {})

    def _counts(self, run: RunTally, name: str, agent: str, tally: AgentTally) -> None:
        for (stage, warmup, op), counts in tally.counts.items():
            labels = [name, agent, run.names[stage], _phase(warmup), op]
            self.operations.add_metric(labels, counts.ops)
            self.bytes.add_metric(labels, counts.bytes)
            self.requests.add_metric(labels, counts.requests)
            self.retries.add_metric(labels, counts.retries)
        for (stage, warmup, op, kind), n in tally.errors.items():
            self.errors.add_metric([name, agent, run.names[stage], _phase(warmup), op, kind], n)
        self.losses.add_metric([name, agent], tally.losses)
        self.down.add_metric([name, agent], tally.down_s)
        self.lost.add_metric([name, agent], tally.lost_intervals)
        self.lost_s.add_metric([name, agent], tally.lost_ns / 1e9)

    def _times(self, run: RunTally, name: str, agent: str, tally: AgentTally) -> None:
        for (stage, warmup, op), histogram in tally.latency.items():
            _observe(self.latency, [name, agent, run.names[stage], _phase(warmup), op], histogram)
        _observe(self.round_trips, [name, agent], tally.round_trips)


def _keys(stage: Stage) -> int:
    """How many kinds of operation a stage counts, warm-up apart."""
    kinds = len({operation.kind for operation in stage.operations}) or (len(OPERATIONS) if stage.kind is StageKind.REPLAY else 1)
    return kinds * (2 if stage.warmup_s else 1)


def _phase(warmup: bool) -> str:
    return "warmup" if warmup else "measured"


def _observe(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    cells = sorted(histogram.cells.items())
    buckets, position, seen = [], 0, 0
    for bound, cell in zip(BOUNDS_NS, CELLS, strict=True):
        while position < len(cells) and cells[position][0] < cell:
            seen += cells[position][1]
            position += 1
        buckets.append((f"{bound / 1e9:.9g}", float(seen)))
    family.add_metric(labels, [*buckets, ("+Inf", float(histogram.count))], histogram.sum_ns / 1e9)


def _sum(agents: Iterable[AgentTally]) -> AgentTally:
    total = AgentTally()
    for agent in agents:
        for key, counts in agent.counts.items():
            mine = total.at(key)
            mine.ops += counts.ops
            mine.bytes += counts.bytes
            mine.requests += counts.requests
            mine.retries += counts.retries
        total.errors.update(agent.errors)
        for key, histogram in agent.latency.items():
            total.latency.setdefault(key, Histogram()).merge(histogram)
        total.round_trips.merge(agent.round_trips)
        total.losses += agent.losses
        total.down_s += agent.down_s
        total.lost_intervals += agent.lost_intervals
        total.lost_ns += agent.lost_ns
    return total
