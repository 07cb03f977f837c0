"""Arm and commit: no agent enters a stage without both, and each is the same however often it is said."""

from __future__ import annotations

from typing import Any, Dict, Optional

from sai3ssh.agent.recovery import Recovered
from sai3ssh.errors import AgentError, Transient
from sai3ssh.protocol import Json


class Release:
    """Which stage is next, and how far its release is. Raises AgentError on what no well-behaved controller asks, Transient on
    what it may ask again."""

    def __init__(self, key: Dict[str, Any], stages: int, boot: str) -> None:
        self.stage = 0
        self.round = 0
        self.start_clock_ns = 0
        self.lasts_ns: Optional[int] = None
        """How long the running stage lasts, when it ends before its planned end."""
        self._generation: int = key["generation"]
        self._controller: str = key["controller"]
        self._stages = stages
        self._boot = boot
        self._committed = False

    @property
    def controller(self) -> str:
        """The controller that is in charge."""
        return self._controller

    def restore(self, past: Recovered, shift_ns: int) -> None:
        """Where the journal says that the run stands; `shift_ns` is added to times of an earlier boot."""
        self.stage = past.stage
        latest = past.committed or past.armed
        if latest is not None:
            self.round, self.start_clock_ns = latest["round"], latest["start_clock_ns"] + shift_ns
        self._committed = past.committed is not None
        self.lasts_ns = past.ending["lasts_ns"] if past.ending is not None else None
        if past.controller is not None:
            self._generation, self._controller = past.controller["generation"], past.controller["controller"]

    def claim(self, controller: str) -> int:
        """Puts a controller in charge; returns the generation that its commands must have."""
        if controller != self._controller:
            self._generation += 1
            self._controller = controller
        return self._generation

    def release_self(self, start_clock_ns: int) -> None:
        """The agent goes on without a controller."""
        self.start_clock_ns = start_clock_ns
        self._committed = True

    def reopen(self, stage: int) -> bool:
        """A stage that had ended, or that is armed, is the next one again; True when it had ended."""
        ended = stage < self.stage
        self.stage = min(stage, self.stage)
        self.round = self.start_clock_ns = 0
        self.lasts_ns = None
        self._committed = False
        return ended

    def check_key(self, message: Json) -> None:
        """Refuses an older generation, and an equal one of another controller."""
        key = message.get("key") or {}
        generation, controller = key.get("generation", -1), str(key.get("controller"))
        if generation < self._generation or (generation == self._generation and controller != self._controller):
            raise AgentError(
                f"command of controller {controller} generation {generation} refused: controller {self._controller} "
                f"generation {self._generation} is in charge of this run",
                remedy="Only one controller can steer a run",
            )
        self._generation, self._controller = generation, controller

    def arm(self, message: Json, state: str) -> bool:
        """Notes a round with its start; True when it is new. A later round replaces an earlier one as long as nothing was committed."""
        self.check_key(message)
        stage, number = message["stage"], message["round"]
        if stage != self.stage or (not self._committed and state not in ("READY", "AT_BARRIER", "ARMED")):
            raise AgentError(f"stage {stage} cannot be armed: the agent is {state}, its next stage is {self.stage} of {self._stages}")
        if message["boot"] != self._boot:
            raise Transient(f"stage {stage} cannot be armed: start given for boot {message['boot']}, this is boot {self._boot}")
        if self._committed:
            if number == self.round:
                return False
            raise AgentError(f"stage {stage} cannot be armed for round {number}: round {self.round} is committed")
        if number < self.round:
            raise AgentError(f"stage {stage}: round {number} is over, round {self.round} is armed")
        if number == self.round and self.start_clock_ns == message["start_clock_ns"]:
            return False
        self.round, self.start_clock_ns = number, message["start_clock_ns"]
        return True

    def commit(self, message: Json) -> bool:
        """Releases the armed round; True the first time. A repeated commit of a stage that is over is no error."""
        self.check_key(message)
        stage, number = message["stage"], message["round"]
        if stage < self.stage:
            return False
        if stage > self.stage or number != self.round or not self.start_clock_ns:
            raise AgentError(f"stage {stage} round {number} cannot be committed: stage {self.stage} round {self.round} is armed")
        if self._committed:
            return False
        self._committed = True
        return True

    def end(self, message: Json, planned_ns: int, now_clock_ns: int) -> bool:
        """Notes that the running stage, which was to last planned_ns (0: until its work is done), is to last `duration_ns` and no longer;
        True the first time, after which it stays so. When that moment has passed it ends now. A stage that is over is no error."""
        self.check_key(message)
        stage, number = message["stage"], message["round"]
        if stage < self.stage:
            return False
        if stage > self.stage or number != self.round or not self._committed:
            raise AgentError(f"stage {stage} round {number} cannot be ended: stage {self.stage} round {self.round} is here")
        if self.lasts_ns is not None:
            return False
        if not planned_ns:
            raise AgentError(f"stage {stage} cannot be ended: it lasts until its work is done")
        self.lasts_ns = min(planned_ns, max(message["duration_ns"], now_clock_ns - self.start_clock_ns))
        return True

    def stage_ended(self) -> None:
        """The next stage may be armed."""
        self.stage += 1
        self.round = 0
        self.start_clock_ns = 0
        self.lasts_ns = None
        self._committed = False
