"""An event log, read back into the state of the session that wrote it."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import Permanent
from ..model import AgentState
from .agentview import Agent
from .course import Course
from .effects import Json
from .reassign import Reassignment


def origin(events: Iterable[Json]) -> str | None:
    """The controller that created the run: agents know a submitted plan by it."""
    return next((event["controller"] for event in events if event["event"] == "run_created"), None)


def replay(events: Iterable[Json], course: Course, agents: dict[str, Agent], reassignment: Reassignment, now_s: float) -> None:
    """Brings course, agents and ownership to where the log ends. What agents themselves have said is in their journals, not here."""
    for event in events:
        agent = agents.get(event.get("agent", ""))
        if agent is not None:
            _of_agent(event, agent, reassignment, now_s)
        else:
            _of_run(event, course, agents, reassignment)


def _of_run(event: Json, course: Course, agents: dict[str, Agent], reassignment: Reassignment) -> None:
    match event["event"]:
        case "armed_round":
            course.round = event["round"]
        case "commit":
            course.commit_logged = course.ever_released = True
            course.round = event["round"]
        case "steady":
            course.ending = {name: event[name] for name in ("duration_ns", "figures")}
        case "not_steady":
            course.not_steady = True
        case "stage_started":
            course.stage_began = True
        case "stage_ended":
            course.next_stage(agents.values())
        case "stage_opened_again":
            reassignment.take_again()
            course.open_again(agents.values(), [agent for agent in agents.values() if not agent.out])
        case "reassigned":
            reassignment.hand_over(event)
            if not course.commit_logged:
                course.new_release(agents.values())
        case "abort":
            course.abort_reason = event["reason"]


def _of_agent(event: Json, agent: Agent, reassignment: Reassignment, now_s: float) -> None:
    match event["event"]:
        case "submit":
            agent.submitted_at_s = now_s
        case "submitted":
            agent.epoch = event["epoch"]
        case "agent_state":
            agent.state = AgentState(event["state"])
        case "claimed":
            agent.generation = event["generation"]
        case "journal_complete":
            agent.complete = True
        case ("agent_lost" | "agent_failed") as kind:
            agent.out = True
            agent.error = Permanent(event["error"], host=agent.name)
            agent.state = AgentState.LOST if kind == "agent_lost" else AgentState.FAILED
        case "go_on_without":
            reassignment.gone(agent)
