"""What people ask first about a run."""

from __future__ import annotations

from dataclasses import dataclass

from .endpoints import EndpointLine, endpoint_lines, slowest_lines
from .files import Results
from .limits import limit_lines
from .oplog import op_log_lines
from .splits import split_lines
from .tables import full_strength_lines, lost_lines, replay_lines, skipped_lines


@dataclass(frozen=True)
class Line:
    """One operation of one stage, over all agents. Latencies in us."""

    stage: str
    operation: str
    ops: int
    ops_per_s: float
    mib_per_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    retries: int
    errors: dict[str, int]


@dataclass(frozen=True)
class Loss:
    """The link losses of one agent."""

    agent: str
    count: int
    unreachable_s: float
    """In all; of one that never came back, to the end of the log."""
    back: bool


@dataclass(frozen=True)
class Summary:
    """A run in a screenful."""

    run_id: str
    verdict: str
    reasons: tuple[str, ...]
    expected: int
    reported: int
    coverage: float
    lines: tuple[Line, ...]
    spreads_ms: dict[str, float]
    losses: tuple[Loss, ...]
    slowest: dict[str, tuple[str, float, float]]
    """Execute stage to (agent, its operations/s, the median agent's)."""
    gaps: tuple[str, ...] = ()
    """What preflight skipped, lost time by agent, the full-strength windows when there is any, where operations spent their time when not
    on the wait for the first byte, and what limited the clients."""
    endpoints: tuple[EndpointLine, ...] = ()
    """Where there are several."""


def summary(results: Results) -> Summary:
    """The summary of a run's results."""
    content = results.content
    lines, spreads, slowest = [], {}, {}
    for stage in content["stages"]:
        if stage["start_spread_ms"] is not None:
            spreads[stage["name"]] = stage["start_spread_ms"]
        for op, figures in stage["operations"].items():
            latency = figures["latency_us"]
            lines.append(
                Line(
                    stage["name"],
                    op,
                    figures["ops"],
                    figures["ops_per_s"],
                    figures["mib_per_s"],
                    latency["p50"],
                    latency["p99"],
                    latency["p99.9"],
                    latency["max"],
                    figures["retries"],
                    figures["errors"],
                )
            )
        # Of an agent whose end of the stage is not here the rate is not known.
        known = {name: agent for name, agent in stage["agents"].items() if agent["outcome"] is not None}
        rates = sorted((sum(op["ops_per_s"] for op in agent["operations"].values()), name) for name, agent in known.items())
        if stage["kind"] == "execute" and len(rates) > 1:
            slowest[stage["name"]] = (rates[0][1], rates[0][0], rates[len(rates) // 2][0])
    losses = tuple(
        Loss(agent, len(network["losses"]), network["unreachable_s"], network["losses"][-1]["down_s"] is not None)
        for agent, network in content["network"].items()
        if network["losses"]
    )
    agents = content["agents"]
    return Summary(
        content["run_id"],
        content["verdict"],
        results.reasons,
        agents["expected"],
        agents["reported"],
        content["coverage"],
        tuple(lines),
        spreads,
        losses,
        slowest,
        (
            *skipped_lines(content),
            *lost_lines(content),
            *full_strength_lines(content),
            *slowest_lines(content),
            *split_lines(content),
            *replay_lines(content),
            *limit_lines(content),
            *op_log_lines(content),
        ),
        endpoint_lines(content),
    )
