"""COMPLETE, PARTIAL or FAILED, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..model import Outcome, Verdict


@dataclass(frozen=True)
class AgentFacts:
    """What is known of one agent at the end."""

    agent_id: str
    outcome: Outcome | None
    """None: its journal has no end here."""
    reason: str
    whole: bool
    """The mirror was verified against the journal by size and SHA-256."""
    measured_s: float
    planned_s: float


def judge(
    agents: Sequence[AgentFacts],
    wrong: Sequence[str],
    *,
    aborted: str | None,
    stopped_by_operator: bool,
    min_coverage: float,
) -> tuple[Verdict, list[str]]:
    """The verdict and its reasons, worst first. `wrong` is what is wrong with figures or objects, in words.

    COMPLETE: every agent finished, every journal is whole, figures agree, a verify stage has read back all, and coverage (agent-seconds
    measured / planned) is at least min_coverage. PARTIAL: the operator stopped the run, or something is missing though agents finished.
    FAILED: an agent failed or was given up, or nothing was measured. Link losses alone never matter.
    """
    reasons = []
    stopped: dict[str, list[str]] = {}
    for agent in agents:
        if agent.outcome is Outcome.FAILED:
            reasons.append(f"{agent.agent_id} failed: {agent.reason}")
        elif agent.outcome is Outcome.STOPPED:
            stopped.setdefault(agent.reason, []).append(agent.agent_id)
        elif agent.outcome is None:
            reasons.append(f"{agent.agent_id}: its journal is not here to its end")
        elif not agent.whole:
            reasons.append(f"{agent.agent_id}: its journal could not be verified")
    for reason, names in stopped.items():
        reasons.append(f"{', '.join(names)} stopped" + ("" if reason == aborted and not stopped_by_operator else f": {reason}"))
    reasons += wrong
    coverage = coverage_of(agents)
    if coverage < min_coverage:
        reasons.append(f"coverage {_covered(coverage, min_coverage)}")
    if not reasons:
        measured_all = "every planned second was measured" if coverage == 1.0 else f"coverage is {_covered(coverage, min_coverage)}"
        return Verdict.COMPLETE, [f"all agents finished, all journals are whole, {measured_all}"]
    measured = any(agent.measured_s > 0 for agent in agents)
    if not measured:
        return Verdict.FAILED, [*([f"aborted: {aborted}"] if aborted else []), *reasons]
    if stopped_by_operator or aborted is None:
        return Verdict.PARTIAL, reasons
    return Verdict.FAILED, [f"aborted: {aborted}", *reasons]


def _covered(coverage: float, least: float) -> str:
    return f"{100 * coverage:.2f} % of the planned agent-seconds (at least {100 * least:g} % is needed)"


def coverage_of(agents: Sequence[AgentFacts]) -> float:
    """Agent-seconds measured / planned, 0 to 1; 0 when nothing was planned."""
    planned = sum(agent.planned_s for agent in agents)
    return min(1.0, sum(min(agent.measured_s, agent.planned_s) for agent in agents) / planned) if planned else 0.0
