"""Where the agents of a run stand, for a page that is fetched each second."""

from __future__ import annotations

from ..protocol import Json
from .tally import RunTally


def live(run: RunTally) -> list[Json]:
    """A row for each agent: agent, host, state, up, link_at (wall time of the last change), losses, down_s, done, stage, ops_per_s,
    mib_per_s, p50_us, p99_us (None when they are of some time ago), errors, retries, cause."""
    hosts = {a.agent_id: host.name for a, host in zip(run.contents.assignments, run.contents.hosts, strict=True)}
    found = []
    for name, agent in run.agents.items():
        latest = run.fresh(agent) if run.verdict is None else None
        # Of several kinds of operation the slowest p99 and the most frequent kind's p50 are told: percentiles cannot be added.
        ops = list(latest.ops.values()) if latest is not None else []
        found.append(
            {
                "agent": name,
                "host": hosts[name],
                "state": agent.shown_state,
                "up": agent.up,
                "link_at": agent.link_at,
                "losses": agent.losses,
                "down_s": agent.down_s,
                "done": agent.done,
                "ops_per_s": sum(op[0] for op in ops) if latest is not None else None,
                "mib_per_s": sum(op[1] for op in ops) / (1 << 20) if latest is not None else None,
                "p50_us": max(ops)[2] if ops else None,
                "p99_us": max(op[3] for op in ops) if ops else None,
                "errors": sum(agent.errors.values()),
                "retries": sum(counts.retries for counts in agent.counts.values()),
                "cause": agent.cause,
            }
        )
    return found
