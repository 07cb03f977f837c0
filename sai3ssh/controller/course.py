"""Where a run stands: which stage, how far its release is. Times are of the controller's clock, in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .agentview import Agent
from .effects import Json


@dataclass
class Course:
    """The session's own state; everything else it knows is of single agents."""

    stage: int = 0
    """Index of the stage that is being released or runs; the number of stages when all have ended."""
    stage_began: bool = False
    """All agents are known to have begun it."""
    round: int = 0
    """Of the stage; 0 before it is armed for the first time."""
    passed_round: int = 0
    """The round by which the stage was released before it was opened again: what agents say of that pass is over."""
    commit_logged: bool = False
    """The stage is released."""
    ever_released: bool = False
    """Some stage was: an agent may have worked."""
    ending: Json | None = None
    """{duration_ns, figures}, once it is decided that the stage ends before its duration."""
    not_steady: bool = False
    """It is logged that the stage was to end early and did not."""
    abort_reason: str | None = None
    late_rounds: int = 0
    """Rounds of this release whose acknowledgements came too late for their start."""
    start_controller_ns: int = 0
    arm_deadline_s: float = 0.0
    committed_at_s: float = 0.0
    barrier_at_s: float = 0.0
    ended_at_s: float = 0.0
    abort_at_s: float = 0.0

    def new_release(self, agents: Iterable[Agent]) -> None:
        """The stage is to be armed (again); rounds of one stage are never used twice, whatever becomes of answers to earlier ones."""
        self.stage_began = self.commit_logged = False
        self.ending, self.not_steady = None, False
        self.late_rounds = 0
        self.barrier_at_s = self.arm_deadline_s = 0.0
        for agent in agents:
            agent.armed = agent.committed = agent.told_end = False
            agent.refusal = None
            # No data is in flight at a barrier, so the clocks are measured there, afresh for every stage.
            agent.offset = None

    def next_stage(self, agents: Iterable[Agent]) -> None:
        """The stage has ended everywhere."""
        self.stage += 1
        self.round = self.passed_round = 0
        self.new_release(agents)

    def open_again(self, agents: Iterable[Agent], active: Iterable[Agent]) -> None:
        """The stage that has ended was given more to do."""
        self.passed_round = self.round
        for agent in active:
            agent.ended = agent.started = self.stage - 1
        self.new_release(agents)
