"""What a display shows of a run, kept up to date from the links' events. No drawing here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..controller.events import Event, Heartbeat, LinkDown, LinkUp, Records
from ..model import AgentState, Plan

Json = dict[str, Any]
LATE_S = 3.0
"""A second summary older than this is no longer the current rate."""


@dataclass
class Row:
    """One agent. Rates are of its last second."""

    name: str
    state: AgentState = AgentState.CONNECTING
    up: bool = False
    ever_up: bool = False
    link_since_s: float = 0.0
    reconnects: int = 0
    done: int = 0
    planned: int = 0
    ops_per_s: float = 0.0
    mib_per_s: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    errors: int = 0
    retries: int = 0
    updated_s: float = 0.0
    cause: str = ""

    @property
    def shown_state(self) -> str:
        """UNREACHABLE is of the link: what the agent was doing it goes on doing."""
        over = (AgentState.FINISHED, AgentState.STOPPED, AgentState.FAILED, AgentState.LOST)
        return AgentState.UNREACHABLE.value if self.ever_up and not self.up and self.state not in over else self.state.value


@dataclass
class Board:
    """The whole display's data. An Observer of a RunController."""

    plan: Plan
    rows: dict[str, Row]
    clock_s: Callable[[], float] = time.monotonic
    wall_s: Callable[[], float] = time.time
    stage: int = 0
    stage_running: bool = False
    stage_since_s: float = 0.0
    ends_s: float | None = None
    """How long the stage lasts, once it is to end before its duration."""
    began_s: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls,
        plan: Plan,
        agents: list[str],
        clock_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> Board:
        """An empty board."""
        now = clock_s()
        return cls(plan, {name: Row(name, link_since_s=now) for name in agents}, clock_s, wall_s, began_s=now)

    def on_log(self, event: Json) -> None:
        """Stages and causes come from the event log."""
        match event["event"]:
            case "stage_started":
                # Who attaches or resumes hears of it later.
                since_s = self.clock_s() - max(0.0, self.wall_s() - event["at"])
                self.stage, self.stage_running, self.stage_since_s = event["stage"], True, since_s
            case "steady":
                self.ends_s = event["duration_ns"] / 1e9
            case "stage_ended":
                # What all agents wait for from now on is the next one.
                self.stage = min(event["stage"] + 1, len(self.plan.stages) - 1)
                self.stage_running = False
                self.ends_s = None
                for row in self.rows.values():
                    row.done = row.planned = 0
            case "agent_state":
                self.rows[event["agent"]].state = AgentState(event["state"])
            case "agent_failed" | "agent_lost":
                self.rows[event["agent"]].cause = event["error"]

    def on_event(self, event: Event) -> None:
        """Links, heartbeats and records."""
        row = self.rows[event.agent]
        match event:
            case LinkUp():
                row.reconnects += int(row.ever_up)
                row.up = row.ever_up = True
                row.link_since_s = self.clock_s()
            case LinkDown():
                row.up = False
                row.link_since_s = self.clock_s()
            case Heartbeat():
                if event.body.get("stage") is not None:
                    row.done, row.planned = event.body["done"], event.body["planned"]
            case Records():
                for record in event.records:
                    if record["kind"] == "sec":
                        self._second(row, record)

    def on_tick(self) -> None:
        """Nothing: what is shown comes from events."""

    def _second(self, row: Row, record: Json) -> None:
        seconds = max(1e-3, (record["to_clock_ns"] - record["from_clock_ns"]) / 1e9)
        ops = record["ops"].values()
        count = sum(op[0] for op in ops)
        row.ops_per_s = count / seconds
        row.mib_per_s = sum(op[1] for op in ops) / seconds / (1 << 20)
        # Of several kinds of operation the slowest p99 and the most frequent kind's p50 are shown: percentiles cannot be added.
        row.p50_us = max(ops, key=lambda op: op[0])[3] if count else 0.0
        row.p99_us = max((op[5] for op in ops if op[0]), default=0.0)
        row.errors += sum(n for classes in record["errors"].values() for n in classes.values())
        row.retries += sum(record["retries"].values())
        row.updated_s = self.clock_s()

    # --- what a display asks -----------------------------------------------------------------------------------------------------

    def fresh(self, row: Row) -> bool:
        """Whether the row's rates are current."""
        return self.stage_running and row.updated_s > 0 and self.clock_s() - row.updated_s < LATE_S

    @property
    def done(self) -> int:
        """Objects of the running prepare or cleanup that are known to be done, or operations of a replay that have begun."""
        return sum(row.done for row in self.rows.values())

    @property
    def planned(self) -> int:
        """Objects of the running prepare or cleanup, or operations of a replay."""
        trace = self.plan.stages[self.stage].replay
        if trace is not None:
            return trace.records
        return sum(row.planned for row in self.rows.values())

    @property
    def progress(self) -> str:
        """How many are done, in words; empty for a stage that only has a duration."""
        stage = self.plan.stages[self.stage]
        things = "s" if stage.command else "objects" if stage.replay is None and not stage.operations else "operations"
        return f"{self.done:,} of {self.planned:,} {things}" if self.planned else ""

    @property
    def fraction(self) -> float:
        """How much of the running stage is over, 0 to 1."""
        stage = self.plan.stages[self.stage]
        if not self.stage_running:
            return 0.0
        if stage.duration_s is not None:
            return min(1.0, (self.clock_s() - self.stage_since_s) / (self.ends_s or stage.duration_s or 1.0))
        return self.done / self.planned if self.planned else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end of the running stage, by its rate so far; None while unknown."""
        stage = self.plan.stages[self.stage]
        elapsed_s = self.clock_s() - self.stage_since_s
        if not self.stage_running:
            return None
        if stage.duration_s is not None:
            return max(0.0, (self.ends_s or stage.duration_s) - elapsed_s)
        return elapsed_s * (self.planned - self.done) / self.done if self.done and self.planned else None

    @property
    def at_most(self) -> str:
        """Before eta_s, in a stage that may end before its duration."""
        stage = self.plan.stages[self.stage]
        early = stage.steady is not None or (stage.tasks is not None and stage.duration_s is not None)
        return "at most " if early and self.ends_s is None else ""

    def totals(self) -> tuple[float, float, int]:
        """Operations/s and MiB/s of the agents whose rates are current, and errors of all."""
        rows = [row for row in self.rows.values() if self.fresh(row)]
        return sum(r.ops_per_s for r in rows), sum(r.mib_per_s for r in rows), sum(r.errors for r in self.rows.values())
