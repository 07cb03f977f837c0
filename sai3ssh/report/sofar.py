"""Rates of a stage that goes on: over the time that has passed, and not over the time that it is to last."""

from __future__ import annotations

from typing import Any

from ..results.journal import AgentStage
from ..results.merge import Inputs

Json = dict[str, Any]


def rates_so_far(content: Json, inputs: Inputs) -> None:
    """Gives stages of results.json's content that have not ended the rates of what their agents have told so far, second by second, since
    histograms come later."""
    for told in content["stages"]:
        index, warmup_s = told["index"], told["warmup_s"]
        if inputs.plan.stages[index].duration_s is None:
            continue
        parts = {agent_id: agent.stages[index] for agent_id, agent in inputs.agents.items() if index in agent.stages}
        spans = {agent_id: _measured_s(part, warmup_s) for agent_id, part in parts.items()}
        if not spans or all(part.end is not None for part in parts.values()) or max(spans.values()) >= told["seconds"]:
            continue
        told["seconds"] = round(max(spans.values()), 3)
        for agent_id, mine in told["agents"].items():
            mine["seconds"] = spans[agent_id]
            for op, figures in mine["operations"].items():
                _rate(figures, *_per_s(parts[agent_id], op, spans[agent_id]))
        for op, figures in told["operations"].items():
            rates = [_per_s(parts[agent_id], op, span) for agent_id, span in spans.items()]
            _rate(figures, sum(ops for ops, _ in rates), sum(size for _, size in rates))


def _measured_s(part: AgentStage, warmup_s: float) -> float:
    """From the end of the warm-up to an agent's last second."""
    if part.start is None or not part.seconds:
        return 0.0
    return max(0.0, float(part.seconds[-1]["to_clock_ns"] - part.start["start_clock_ns"]) / 1e9 - warmup_s)


def _per_s(part: AgentStage, op: str, seconds: float) -> tuple[float, float]:
    return (part.data.second_ops[op] / seconds, part.data.second_bytes[op] / seconds) if seconds > 0 else (0.0, 0.0)


def _rate(figures: Json, ops_per_s: float, bytes_per_s: float) -> None:
    """Sets the rates; those of size buckets are its parts as before."""
    share = ops_per_s / figures["ops_per_s"] if figures["ops_per_s"] else 0.0
    for part in figures["buckets"].values():
        part["ops_per_s"] *= share
        part["mib_per_s"] *= share
    figures["ops_per_s"], figures["mib_per_s"] = ops_per_s, bytes_per_s / (1 << 20)
    if not figures["ops"]:
        # Until the first histogram comes no latency is known.
        figures["latency_us"] = dict.fromkeys(figures["latency_us"])
