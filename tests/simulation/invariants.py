"""What must hold in a world at every moment, kept by other means than the session's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sai3ssh.controller.policy import JITTER
from sai3ssh.controller.session import RESUME_GRACE_S
from sai3ssh.model import Intervals, StageKind

if TYPE_CHECKING:
    from tests.simulation.world import SimAgent, World

Json = dict[str, Any]
TICK_S = 0.2
CREDENTIALS_S = 45.0
"""They are asked for by each heartbeat, and again 30 s after a command that was lost."""
END_S = 45.0
"""The end of a stage is said at once, and again 10 s after each time that it was lost."""


class Invariants:
    """Asserts, each with what it found."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.down_s: Counter[str] = Counter()
        """How long each agent has been unreachable while this controller was awake and on its network."""
        self.rounds: Counter[str] = Counter()
        self.awaiting_s: Counter[str] = Counter()
        """How long each agent has been without credentials although this controller is in charge of it and hears it."""
        self.untold_s: Counter[str] = Counter()
        """How long each agent has run on although this controller hears it and knows that the stage is to end."""
        self.cleanup_began = False
        self.resumes = 0
        self.told: dict[int, Intervals] = {}
        """By stage, what ledgers that reached this controller say is finished."""
        self._held: list[tuple[int, int]] | None = None
        """What agents owned, one after the other, when that was looked at last."""

    # --- of time ---------------------------------------------------------------------------------------------------------------------

    def time_passes(self) -> None:
        """One tick in which the controller was awake."""
        world, session = self.world, self.world.session
        if session is None:
            return
        ending, aborted = session._course.ending, session.abort_reason is not None
        for host, link in zip(world.agents, world.links, strict=True):
            heard = link.up and link.subscribed and not link.mute and not host.frozen and session.agents[host.name].up and not aborted
            if heard and host.state == "AWAITING_CREDENTIALS":
                self.awaiting_s[host.name] += TICK_S  # type: ignore[assignment]
                assert self.awaiting_s[host.name] <= CREDENTIALS_S, f"{host.name} has no credentials after {CREDENTIALS_S} s"
            else:
                self.awaiting_s[host.name] = 0
            untold = ending is not None and heard and host.running is not None and host.release is not None and not host.disk_full
            if untold and host.release.lasts_ns is None:  # type: ignore[union-attr]
                self.untold_s[host.name] += TICK_S  # type: ignore[assignment]
                assert self.untold_s[host.name] <= END_S, f"{host.name} does not know that its stage is to end after {END_S} s"
            else:
                self.untold_s[host.name] = 0
        if session.wants_witness and not (world.faults.witness and world.now >= world.off_until_s):
            return
        for agent in session.agents.values():
            if not agent.linked and agent.lost_since_s is not None:
                self.down_s[agent.name] += TICK_S  # type: ignore[assignment]
                waits = not agent.out and not agent.complete and not aborted
                limit_s = world.plan.policy.reconnect_timeout_s
                assert not waits or self.down_s[agent.name] <= limit_s + 5.0, f"{agent.name} is not LOST after {self.down_s[agent.name]} s"

    def resumed(self) -> None:
        """Another controller counts anew."""
        self.down_s.clear()
        self.awaiting_s.clear()
        self.untold_s.clear()
        self.rounds.clear()
        self.resumes += 1

    def logged(self, event: str, fields: Json) -> None:
        """An event enters the log."""
        if event == "agent_lost":
            self._lost_in_time(fields["agent"])
        elif event == "policy_round":
            self.rounds[fields["agent"]] += 1
            assert fields["round"] == self.rounds[fields["agent"]], f"round {fields} is number {self.rounds[fields['agent']]} of this loss"
            policy = self.world.plan.policy
            attempts = {"fail_fast": 0, "retry_once": 1}.get(policy.name, policy.attempts)
            assert attempts is None or fields["round"] <= attempts, f"{fields}: {policy.name} has {attempts} rounds"
            least_s = min(policy.max_delay_s, policy.delay_s * 2 ** (fields["round"] - 1)) * (1 - JITTER)
            assert fields["delay_s"] >= least_s - 2 * TICK_S, f"{fields}: a round before {least_s} s"
            most_s = max(least_s / (1 - JITTER) * (1 + JITTER), RESUME_GRACE_S if self.resumes and fields["round"] == 1 else 0.0)
            assert fields["delay_s"] <= most_s + 5.0, f"{fields}: no round until {most_s} s"
        elif event == "commit":
            self._one_release(fields)
        elif event == "reassigned":
            self._only_the_rest_is_done_again(fields)
        elif event == "steady":
            said = [e for e in self.world.history if e["event"] == event and e["stage"] == fields["stage"]]
            assert len(said) == 1, f"{fields} is decided {len(said)} times"
        elif event == "go_on_without":
            said = [e for e in self.world.history if e["event"] == event and e["agent"] == fields["agent"]]
            assert len(said) == 1, f"{fields} is decided {len(said)} times"
        elif event == "link_up":
            self.down_s[fields["agent"]] = self.rounds[fields["agent"]] = 0

    def _lost_in_time(self, name: str) -> None:
        """Nobody is given up before the time that the policy grants."""
        policy = self.world.plan.policy
        attempts = {"fail_fast": 0, "retry_once": 1}.get(policy.name, policy.attempts)
        least_s = policy.reconnect_timeout_s
        if attempts is not None:
            rounds_s = sum(min(policy.max_delay_s, policy.delay_s * 2**n) * (1 - JITTER) for n in range(attempts))
            least_s = min(least_s, rounds_s + (10.0 if attempts else 0.0))
        assert self.down_s[name] >= least_s - 2.0, f"{name} is LOST after {self.down_s[name]:.1f} s of {least_s:.0f}"

    # --- of releases -----------------------------------------------------------------------------------------------------------------

    def _one_release(self, fields: Json) -> None:
        world = self.world
        stage = fields["stage"]
        passes = 1 + len([e for e in world.events("stage_opened_again") if e["stage"] == stage])
        commits = [e for e in world.events("commit") if e["stage"] == stage]
        rounds = [e["round"] for e in commits]
        if not world.rebuilt:  # such a log lacks a commit that had reached nobody
            assert len(commits) == passes, f"stage {stage} is released {len(commits)} times in {passes} passes"
            assert len(set(rounds)) == len(rounds), f"stage {stage} is released twice by one round: {rounds}"
        acknowledged = [a for a in world.agents if not world.last_session.agents[a.name].out]
        for agent in acknowledged:
            armed = [r for r in agent.journal if r["kind"] == "armed" and r["stage"] == stage and r["round"] == fields["round"]]
            assert armed, f"{agent.name} is released for stage {stage} round {fields['round']} without having been armed"
        if world.plan.stages[stage].kind is StageKind.CLEANUP:
            self.cleanup_began = True
            for agent in world.agents:
                self._cannot_write(agent)

    def _cannot_write(self, agent: SimAgent) -> None:
        """A removal is released once the lease of whoever may still prepare is over: not because nobody happened to write."""
        world, policy = self.world, self.world.plan.policy
        if policy.reassign and world.plan.lease_s is not None and agent.running is not None and not agent.over:
            prepares = world.plan.stages[agent.running].kind is StageKind.PREPARE
            left_s = agent.lease_until_s - world.now
            assert not prepares or left_s <= 0, f"{agent.name} may prepare for {left_s:.1f} s more while objects are being removed"

    def commit_arrives(self, agent: SimAgent, command: Json) -> None:
        """No commit reaches an agent before it is in the controller's log, and none is obeyed but of the round that was armed last."""
        armed = [r for r in agent.journal + [record for _, record, _ in agent._waiting] if r["kind"] == "armed"]
        assert armed, f"{agent.name} obeys a commit without having been armed"
        latest = (armed[-1]["stage"], armed[-1]["round"])
        assert latest == (command["stage"], command["round"]), f"{agent.name} obeys {command}, armed was {latest}"
        logged = [(e["stage"], e["round"]) for e in self.world.events("commit")]
        assert (command["stage"], command["round"]) in logged, f"commit of stage {command['stage']} was not logged"

    # --- of stages that end before their duration --------------------------------------------------------------------------------------

    def end_arrives(self, agent: SimAgent, command: Json) -> None:
        """No end reaches an agent before it is in the controller's log; there is one for all."""
        stage = command["stage"]
        logged = [e["duration_ns"] for e in self.world.events("steady") if e["stage"] == stage]
        assert command["duration_ns"] in logged, f"{agent.name} is to end after {command['duration_ns']}, logged is {logged}"
        for other in self.world.agents:
            told = [r["duration_ns"] for r in other.journal if r["kind"] == "ending" and r["stage"] == stage]
            counts = not self.world.last_session.agents[other.name].out
            assert not counts or set(told) <= {command["duration_ns"]}, f"{agent.name} is to end after {command}, {other.name} after {told}"

    def measures(self, agent: SimAgent, stage: int) -> None:
        """Nobody works beyond the end that all have, or beyond the moment in which it learnt of it when that was later."""
        records = agent.journal + [record for _, record, _ in agent._waiting]
        told = [record for record in records if record["kind"] == "ending" and record["stage"] == stage]
        assert len(told) <= 1, f"{agent.name}: {told}"
        if told and agent.release is not None:
            since_ns = agent.clock_ns() - agent.release.start_clock_ns
            limit_ns = max(told[0]["duration_ns"], agent.end_heard_ns[stage])
            assert since_ns <= limit_ns + 1_000_000, f"{agent.name} works {since_ns / 1e9} s, the end is after {limit_ns / 1e9} s"

    def obeys(self, agent: SimAgent, command: Json) -> None:
        """An agent takes orders of the controller that claimed it last only."""
        records = agent.journal + [record for _, record, _ in agent._waiting]
        claims = [record["controller"] for record in records if record["kind"] == "controller"]
        wanted = claims[-1] if claims else agent.key["controller"]
        assert command["key"]["controller"] == wanted, f"{agent.name} obeys {command['key']['controller']} after {wanted} claimed it"

    def starts(self, agent: SimAgent, stage: int) -> None:
        """All agents have ended the stage before; nobody runs another one; the order is right."""
        world = self.world
        if world.last_session.agents[agent.name].out:
            return  # it was released while it still counted
        committed = [r for r in agent.journal + [w[1] for w in agent._waiting] if r["kind"] == "committed" and r["stage"] == stage]
        assert committed, f"{agent.name} enters stage {stage} without a commit"
        begun = sorted({s for s, _ in agent.starts})
        assert begun in (list(range(stage)), list(range(stage + 1))), f"{agent.name}: {stage}, {agent.starts}"
        for other in world.agents:
            if world.last_session.agents[other.name].out:
                continue
            assert other.running in (None, stage), f"{agent.name} enters {stage} while {other.name} runs {other.running}"
            ends = [r["stage"] for r in other.journal if r["kind"] == "stage_end"]
            assert stage == 0 or stage - 1 in ends, f"{agent.name} enters {stage}, {other.name} has not ended {stage - 1}"

    def writes(self, agent: SimAgent, stage: int) -> None:
        """Nobody creates objects any more once they are being removed."""
        prepare = self.world.plan.stages[stage].kind is StageKind.PREPARE
        if not self.world.plan.policy.reassign:
            return  # each agent removes its own objects only
        doubtful = any(e["agent"] == agent.name for e in self.world.events("unfenced_writer_possible"))
        assert not (prepare and self.cleanup_began) or doubtful, f"{agent.name} still prepares while objects are being removed"

    # --- of ownership ----------------------------------------------------------------------------------------------------------------

    def heard(self, records: Iterable[Json]) -> None:
        """Records reach the controller."""
        for record in records:
            if record["kind"] == "ledger":
                for lo, hi in record["ranges"]:
                    self.told.setdefault(record["stage"], Intervals()).add(lo, hi)

    def _only_the_rest_is_done_again(self, fields: Json) -> None:
        """What a lost agent is known to have finished of a stage that is opened (again) is not given away as work."""
        told = self.told.get(fields["stage"], Intervals())
        if not any(stage.populations for stage in self.world.plan.stages[fields["stage"] : fields["stage"] + 1]):
            return
        for name, part in fields["parts"].items():
            given = Intervals(part["ranges"].get("p", []))
            done = Intervals(part["done"].get("p", []))
            finished = given.subtract(given.subtract(told))
            assert len(finished) == len(done), f"{name} is to do {len(finished) - len(done)} finished objects again: {part}"

    def hold(self) -> None:
        """After every input: every object has one owner at most, and one at least as long as nothing was given up for good."""
        world = self.world
        pieces = [piece for agent in world.last_session.agents.values() for piece in agent.owned.get("p", ())]
        if pieces == self._held:
            return  # nothing has changed hands since
        self._held = pieces
        for (_, end), (begin, _) in pairwise(sorted(pieces)):
            assert end <= begin, f"object {begin} has two owners"
        total = sum(hi - lo for lo, hi in pieces)
        expected = sum(hi - lo for assignment in world.assignments for lo, hi in assignment.ranges["p"])
        assert total == expected, f"{total} of {expected} objects have an owner"
