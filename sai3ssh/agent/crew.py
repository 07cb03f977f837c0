"""The workers of a run, over their deaths: who does what share of a stage, and what a dead one leaves to its successor."""

from __future__ import annotations

import contextlib
import selectors
import time
from typing import Any, Callable, Dict, List, Optional

from sai3ssh.agent.journal import Journal
from sai3ssh.agent.mix import mkdir_format, put_format
from sai3ssh.agent.recovery import Recovered
from sai3ssh.agent.stage import Ledger, Published
from sai3ssh.agent.workers import WorkerProcess, kill_all
from sai3ssh.errors import AgentError
from sai3ssh.model import NAMING, Intervals
from sai3ssh.protocol import Json

QUICK_S = 30.0
"""A worker that lived shorter has crashed 'in a row' with the one before it."""
CRASHES = 3
ESTIMATE_SECONDS = 3
"""How many seconds of the highest rate are taken for names that were used before a power cut but not recorded."""


class Share:
    """One worker's part of the running stage."""

    def __init__(self, pieces: Dict[str, Intervals]) -> None:
        self.pieces = pieces
        self.recorded = 0
        """Indices of it in the ledger, of those that this stage's metrics count."""
        self.redone = 0
        self.names = 0
        """Names that put had used when its present incarnation began."""

    def left(self, finished: Dict[str, Intervals]) -> Dict[str, Any]:
        """What is not in the ledger."""
        return {name: list(piece.subtract(finished.get(name, Intervals()))) for name, piece in self.pieces.items()}


class Crew:
    """The worker processes. `hear(worker, message)` gets what they say, `died(worker, cause)` is told of each that ends unasked."""

    def __init__(
        self,
        submitted: Json,
        selector: selectors.BaseSelector,
        journal: Journal,
        ledger: Ledger,
        hear: Callable[[WorkerProcess, Json], None],
        died: Callable[[WorkerProcess, str], None],
    ) -> None:
        self.members: List[WorkerProcess] = []
        self.shares: List[Share] = []
        self.stopping = False
        self.credentials: Optional[Json] = None
        self._submitted = submitted
        self._index: int = submitted["assignment"]["index"]
        own = submitted["plan"].get("own")
        self._env: Dict[str, str] = own[self._index]["env"] if own else {}
        self._selector = selector
        self._journal = journal
        self._ledger = ledger
        self._hear = hear
        self._died = died
        self._quick: Dict[int, int] = {}

    def begin(self, incarnations: List[int]) -> None:
        """Starts a worker for each number, its incarnation."""
        for index, incarnation in enumerate(incarnations):
            self.members.append(self._spawn(index, incarnation, len(incarnations)))
            self._journal.append("worker", {"worker": index, "incarnation": incarnation, "pid": self.members[index].pid})

    def _spawn(self, index: int, incarnation: int, count: int) -> WorkerProcess:
        init = {
            "plan": self._submitted["plan"],
            "assignment": self._submitted["assignment"],
            "credentials": self.credentials,
            "worker": index,
            "workers": count,
            "incarnation": incarnation,
        }
        worker = WorkerProcess(index, incarnation, init, self._env, self._selector)
        self._selector.register(worker.lines.in_fd, selectors.EVENT_READ, lambda: self._on_worker(worker))
        return worker

    def _on_worker(self, worker: WorkerProcess) -> None:
        if self.members[worker.index] is not worker:
            return
        try:
            messages = worker.lines.read()
        except EOFError:
            self._selector.unregister(worker.lines.in_fd)
            worker.unfeed()
            if self.stopping:
                worker.ended = worker.ended or {}
                self._hear(worker, {})
            else:
                self._died(worker, f"worker {worker.index} (pid {worker.pid}) {worker.how_it_ended()}")
            return
        for message in messages:
            self._hear(worker, message)

    def check_crashes(self, worker: WorkerProcess, cause: str) -> None:
        """Raises AgentError when it was the third quick death in a row."""
        quick = time.monotonic() - worker.began < QUICK_S
        self._quick[worker.index] = self._quick.get(worker.index, 0) + 1 if quick else 1
        if self._quick[worker.index] >= CRASHES:
            raise AgentError(f"{cause}, for the {CRASHES}rd time in a row", remedy="See supervisor.log of the run.")

    def replace(self, worker: WorkerProcess, cause: str, stage: Optional[Published]) -> WorkerProcess:
        """A new incarnation; what the dead one did and did not record is noted with it."""
        self._unwatch(worker)
        fields: Json = {"worker": worker.index, "incarnation": worker.incarnation + 1, "cause": cause}
        if stage is not None and worker.ended is None:
            fields.update(self._left_by(worker.index, worker.incarnation, stage))
        successor = self._spawn(worker.index, worker.incarnation + 1, len(self.members))
        successor.ended = worker.ended
        self.members[worker.index] = successor
        self._journal.append("worker", {**fields, "pid": successor.pid})
        return successor

    def _left_by(self, index: int, incarnation: int, stage: Published) -> Json:
        share, reader = self.shares[index], stage.readers[index]
        fields: Json = {}
        if stage.stage.operations:
            fields["puts"] = self._puts(index, incarnation, stage, reader.names - share.names)
            self._ledger.puts += fields["puts"]
            fields["names"] = share.names = reader.names
        elif stage.in_ledger:
            redo = max(0, stage.finished(index) - share.recorded - share.redone)
            share.redone += redo
            stage.redo(redo)
            fields["redo"] = redo
        return fields

    def _puts(self, index: int, incarnation: int, stage: Published, count: int) -> List[Json]:
        """What a worker that is gone may have put: so many names at most; which of them failed is not known."""
        made = []
        one = self._index, stage.index, index, incarnation
        for kinds, form in ((NAMING, put_format(*one)), (("mkdir",), mkdir_format(self._submitted["plan"]["run_id"], *one))):
            targets = sorted({op.target for op in stage.stage.operations if op.kind in kinds})
            made += [{"target": uri, "key_format": form, "count": count, "failed": [], "unsure": True} for uri in targets if count]
        return made

    def begin_again(self, past: Recovered, stage: Optional[Published], count: int, *, fresh: bool) -> None:
        """Starts successors of all workers of a supervisor that is gone; `fresh`: its counters are gone as well."""
        for index in range(count):
            before = past.incarnations.get(index, -1)
            self.members.append(self._spawn(index, before + 1, count))
            fields: Json = {"worker": index, "incarnation": before + 1, "cause": "the supervisor is a new one"}
            if stage is not None and stage.stage.operations:
                used = stage.readers[index].names - past.names.get(index, 0)
                fields["puts"] = self._puts(index, before, stage, past.puts_at_most(ESTIMATE_SECONDS, stage.stage) if fresh else used)
                self._ledger.puts += fields["puts"]
                fields["names"] = self.shares[index].names = stage.readers[index].names
            elif stage is not None:
                fields["redo"] = stage.redone - past.redone - past.redone_before if index == 0 else 0
                self.shares[index].recorded = stage.finished(index)
            self._journal.append("worker", {**fields, "pid": self.members[index].pid})

    def suspend(self) -> None:
        """Kills the workers that are at work; `replace` brings them back."""
        for worker in self.members:
            if worker.ended is None:
                self._unwatch(worker)
        kill_all([worker for worker in self.members if worker.ended is None])

    def hears(self, worker: WorkerProcess) -> bool:
        """Whether it is at hand: neither suspended nor gone."""
        return worker.lines.in_fd in self._selector.get_map()

    def order(self, message: Json) -> None:
        """Says the same to all."""
        for worker in self.members:
            worker.order(message)

    def last_words(self) -> List[WorkerProcess]:
        """Kills all workers; what they wrote before their end is heard. Returns those that did not end."""
        left = kill_all(self.members)
        for worker in self.members:
            if self.hears(worker):
                self._unwatch(worker)
                with contextlib.suppress(EOFError):
                    while True:
                        messages = worker.lines.read()
                        for message in messages:
                            if "finished" in message or "ended" in message:
                                self._hear(worker, message)
                        if not messages:
                            break
        return [worker for worker in self.members if worker.pid in left]

    def _unwatch(self, worker: WorkerProcess) -> None:
        worker.unfeed()
        if self.hears(worker):
            self._selector.unregister(worker.lines.in_fd)
