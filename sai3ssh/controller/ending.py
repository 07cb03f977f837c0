"""Ends an execute stage before its duration once it is steady: decided once, logged, and then told to every agent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

from ..model import Plan, Steady
from .agentview import Agent
from .course import Course
from .effects import Json
from .steady import SteadyState


class Ending:
    """Of the stage that the course is at. `log` logs an event; what it logs the course has as well."""

    def __init__(self, plan: Plan, course: Course, log: Callable[..., None]) -> None:
        self._plan = plan
        self._course = course
        self._log = log
        self._pass = -1, 0
        self._state: SteadyState | None = None

    def second(self, agent: Agent, record: Json) -> None:
        """A second summary of an agent."""
        if record["stage"] == self._course.stage:
            state = self._of_this_pass()
            if state is not None:
                state.second(agent.name, record)

    def heard(self, agent: Agent, record: Json, now_s: float) -> None:
        """An agent's journal says that it has been told. A controller that does not know of that (its log was lost) keeps to it."""
        course = self._course
        if record["stage"] == course.stage and record["round"] == course.round and course.commit_logged:
            if not agent.told_end:
                agent.told_end, agent.told_end_at_s = True, now_s
            if course.ending is None:
                self._decide(record["duration_ns"], record["figures"])

    def look(self, active: Sequence[Agent], now_s: float, delay_s: float) -> None:
        """Decides when the stage is steady. The end is a whole second since the start, at least delay_s from now."""
        course = self._course
        state = self._of_this_pass()
        if state is None or course.ending is not None or not all(agent.settled for agent in active):
            return
        if any(agent.ended >= course.stage for agent in active):
            return  # its duration is over
        names = [agent.name for agent in active]
        if not state.look(names) or state.figures is None:
            return
        # What has been told is of the past, by less than a second and the way here.
        since_start_s = state.newest(names) + 2.0
        if course.start_controller_ns:
            since_start_s = max(since_start_s, now_s - course.start_controller_ns / 1e9)
        planned_s = self._plan.stages[course.stage].duration_s or 0.0
        self._decide(int(min(planned_s, math.ceil(since_start_s + delay_s)) * 1e9), asdict(state.figures))

    def over(self) -> None:
        """The stage has ended everywhere."""
        state = self._of_this_pass()
        if state is not None and self._course.ending is None and not self._course.not_steady:
            figures = asdict(state.figures) if state.figures is not None else None
            self._log("not_steady", stage=self._course.stage, name=self._plan.stages[self._course.stage].name, figures=figures)

    def _decide(self, duration_ns: int, figures: Json) -> None:
        course = self._course
        course.ending = {"duration_ns": duration_ns, "figures": figures}
        name = self._plan.stages[course.stage].name
        self._log("steady", stage=course.stage, name=name, round=course.round, **course.ending)

    def _of_this_pass(self) -> SteadyState | None:
        """None for stages that end by their duration, or when their work is done."""
        index = self._course.stage
        spec: Steady | None = self._plan.stages[index].steady if index < len(self._plan.stages) else None
        if spec is None:
            return None
        now = index, self._course.passed_round
        if self._state is None or self._pass != now:
            self._pass = now
            self._state = SteadyState(spec, self._plan.stages[index].warmup_s)
        return self._state
