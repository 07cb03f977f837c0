"""Carries out a run: links, event log, effects of the session. One thread decides; links and commands have threads of their own."""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from ..errors import LinkLost, Sai3sshError, Superseded, Transient
from ..model import Assignment, Host, Plan, to_json
from ..protocol import Json
from . import clock
from .effects import (
    Answered,
    ClockMeasured,
    Effect,
    End,
    EndLease,
    Input,
    Log,
    MeasureClock,
    Quit,
    Refused,
    Send,
    StopRequested,
    Subscribe,
    Tick,
    TryNow,
    Unanswered,
    Witness,
)
from .eventlog import EventLog
from .events import Event, LinkDown
from .link import Link, LinkOptions, Subscription
from .mirror import Mirror
from .rundir import RunDirectory
from .session import Options, Session
from .uploads import upload
from .witness import gateway_answers

TICK_S = 0.2
LEAVE_S = 2.0
"""For the threads of all links to end."""
WITNESS_S = 2.0
"""How often the gateway is asked while no agent is reached."""
TRAFFIC_S = 60.0
"""How often the traffic of each link is logged."""


class Observer(Protocol):
    """Who watches a run: a display, a demonstration. Called on the deciding thread; must not block."""

    def on_log(self, event: Json) -> None:
        """An event has been logged."""

    def on_event(self, event: Event) -> None:
        """A link has reported something."""

    def on_tick(self) -> None:
        """Some 5 times a second."""


class Leave(Exception):
    """The operator leaves at once; agents may still be running."""

    def __init__(self, running: dict[str, str]) -> None:
        super().__init__("left at once")
        self.running = running
        """Agent to state, for those that have not confirmed their end."""


class RunController:
    """One run, from the first connection to the last byte of every journal."""

    def __init__(
        self,
        plan: Plan,
        assignments: Sequence[Assignment],
        hosts: Sequence[Host],
        directory: RunDirectory,
        bundle: Path,
        *,
        credentials: Json | None,
        options: Options,
        link_options: LinkOptions,
        observers: Sequence[Observer] = (),
        make_link: Callable[..., Link] = Link,
        witness: Callable[[], bool] = gateway_answers,
        history: Sequence[Json] = (),
    ) -> None:
        """`history`: the events of an earlier controller of this run, which this one resumes."""
        self.session = Session(plan, assignments, uuid.uuid4().hex, options)
        self.directory = directory
        self.stop_requested = False
        self.left = False
        """Whether the operator left at once; threads of links may still be busy."""
        self._plan = plan
        self._assignments = {assignment.agent_id: assignment for assignment in assignments}
        self._credentials = credentials
        self._observers = list(observers)
        self._queue: queue.SimpleQueue[Input] = queue.SimpleQueue()
        self._log = EventLog(directory.events)
        self._interrupts: list[str] = []
        self._superseded: str | None = None
        self._history = history
        self._witness = witness
        self._witness_at_s = 0.0
        self._traffic_at_s = clock.clock_s()
        self._links: dict[str, Link] = {}
        self.mirrors: dict[str, Mirror] = {}
        for assignment, host in zip(assignments, hosts, strict=True):
            mirror = Mirror(directory.mirror(assignment.agent_id))
            self.mirrors[assignment.agent_id] = mirror
            self._links[assignment.agent_id] = make_link(
                host, mirror, self._queue.put, bundle=bundle, agent=assignment.agent_id, options=link_options
            )
        # A thread per agent at least: a host that does not answer must not keep another one's command waiting.
        self._pool = ThreadPoolExecutor(max_workers=2 * len(self._links), thread_name_prefix="command")

    def interrupt(self, reason: str) -> None:
        """Asks for the end of the run; the second time the controller leaves at once. Safe in a signal handler."""
        self._interrupts.append(reason)

    def supersede(self, text: str) -> None:
        """Makes `run` leave the agents to another controller: it raises Superseded. Safe in a signal handler."""
        self._superseded = text

    @property
    def errors(self) -> list[Sai3sshError]:
        """What became of agents that failed or were given up."""
        return [agent.error for agent in self.session.agents.values() if agent.error is not None]

    def run(self) -> str:
        """Returns why the run ended; raises Leave."""
        try:
            if self._history:
                self._resume()
            else:
                self._note("run_created", run_id=self._plan.run_id, agents=sorted(self._links), controller=self.session.controller)
            for name, link in self._links.items():
                if not self.session.agents[name].complete:
                    link.start()
            while True:
                reason = self._turn()
                if reason is not None:
                    self._note("collected", reason=reason)
                    break
        except Leave:
            # Nothing is waited for: closing a connection to a host that is away can take its time.
            self._note_traffic(*self._links)
            self.left = True
            raise
        except BaseException:
            self._close()
            raise
        self._close()
        return reason

    def _resume(self) -> None:
        self._note("run_resumed", controller=self.session.controller)
        journals = {name: mirror.records() for name, mirror in self.mirrors.items()}
        for effect in self.session.restore(self._history, journals, clock.clock_s()):
            self._carry_out(effect)

    def note_end(self, **fields: Any) -> None:
        """Logs the verdict as the last event."""
        log = EventLog(self.directory.events)
        event = log.append("run_ended", **fields)
        log.close()
        for observer in self._observers:
            observer.on_log(event)

    def _turn(self) -> str | None:
        if self._superseded is not None:
            self._note("left", error=self._superseded)
            raise Superseded(self._superseded, remedy="Watch the run from there; this one leaves the agents alone")
        if self._interrupts and not self.stop_requested:
            self.stop_requested = True
            self._queue.put(StopRequested(self._interrupts[0]))
        elif len(self._interrupts) > 1:
            raise Leave(
                {
                    name: agent.state.value
                    for name, agent in self.session.agents.items()
                    if agent.submitted_at_s is not None and not agent.stopped
                }
            )
        try:
            event: Input = self._queue.get(timeout=TICK_S)
        except queue.Empty:
            event = Tick()
        if isinstance(event, Event):
            for observer in self._observers:
                observer.on_event(event)
        now_s = clock.clock_s()
        if self.session.wants_witness and now_s > self._witness_at_s + WITNESS_S:
            self._witness_at_s = now_s
            self._pool.submit(lambda: self._queue.put(Witness(self._witness())))
        reason = None
        for effect in self.session.handle(event, now_s):
            reason = self._carry_out(effect) or reason
        if isinstance(event, LinkDown):
            self._note_traffic(event.agent)
        if now_s > self._traffic_at_s + TRAFFIC_S:
            self._traffic_at_s = now_s
            self._note_traffic(*self._links)
        for observer in self._observers:
            observer.on_tick()
        return reason

    def _carry_out(self, effect: Effect) -> str | None:
        match effect:
            case Log():
                self._note(effect.event, **effect.fields)
            case Send():
                self._pool.submit(self._send, effect)
            case Subscribe():
                self._links[effect.agent].subscribe(Subscription(self._plan.run_id, effect.agent, effect.epoch, self.session.controller))
            case MeasureClock():
                self._pool.submit(self._measure, effect)
            case EndLease():
                self._links[effect.agent].renews_lease = False
            case TryNow():
                self._links[effect.agent].try_now()
            case Quit():
                raise effect.error
            case End():
                return effect.reason
        return None

    def _note(self, event: str, **fields: Any) -> None:
        record = self._log.append(event, **fields)
        for observer in self._observers:
            observer.on_log(record)

    def _note_traffic(self, *agents: str) -> None:
        for agent in agents:
            self._note("network", agent=agent, **self._links[agent].traffic.take())

    def _send(self, effect: Send) -> None:
        command = dict(effect.command)
        if command["cmd"] == "submit":
            assignment = self._assignments[effect.agent]
            command |= {"plan": to_json(self._plan), "assignment": to_json(assignment), "credentials": self._credentials}
        elif command["cmd"] == "claim":
            command["seen"] = self._links[effect.agent].seen
        elif command["cmd"] == "credentials":
            command["credentials"] = self._credentials
        try:
            if command["cmd"] == "submit":
                upload(self._links[effect.agent], self.directory.traces(effect.agent), self._plan.run_id, effect.agent)
            ok = self._links[effect.agent].request(command, effect.timeout_s)
        except Transient as error:
            self._queue.put(Unanswered(effect.agent, effect.tag, error))
        except Sai3sshError as error:
            self._queue.put(Refused(effect.agent, effect.tag, error))
        except Exception as error:
            broken = LinkLost(f"{command['cmd']}: {type(error).__name__}: {error}", host=effect.agent)
            self._queue.put(Unanswered(effect.agent, effect.tag, broken))
        else:
            self._queue.put(Answered(effect.agent, effect.tag, ok))

    def _measure(self, effect: MeasureClock) -> None:
        try:
            offset = self._links[effect.agent].measure_clock()
        except Sai3sshError as error:
            self._queue.put(Unanswered(effect.agent, effect.tag, error))
        else:
            self._queue.put(ClockMeasured(effect.agent, effect.tag, offset))

    def _close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + LEAVE_S
        for link in self._links.values():
            link.stop(0.0)
        for link in self._links.values():
            link.stop(max(0.0, deadline - time.monotonic()))
        for mirror in self.mirrors.values():
            mirror.close()
        try:
            self._note_traffic(*self._links)
        finally:
            self._log.close()
