"""Which of several endpoints of the same storage an operation goes to."""

from __future__ import annotations

from typing import Any, List, Sequence, cast

from sai3ssh.agent.engines.base import Root, Task, Work
from sai3ssh.model import Spread


def mapped(uri: str, endpoints: Sequence[str], position: int) -> str:
    """Where a file:// URI that lies below one of the endpoints is at another of them; raises ValueError when it is below none."""
    bases = [base for base in endpoints if uri.startswith(base)]
    if not bases:
        raise ValueError(f"{uri} is below none of the endpoints {', '.join(endpoints)}")
    return endpoints[position] + uri[len(max(bases, key=len)) :]


class Chooser:
    """Chooses an endpoint for each operation, in turn or where the fewest are in flight."""

    def __init__(self, spread: Spread, offset: int = 0) -> None:
        """`offset` says where among the endpoints it begins: workers that begin together take different ones."""
        start = offset % len(spread.positions)
        self._order = spread.positions[start:] + spread.positions[:start]
        self._places = {position: place for place, position in enumerate(self._order)}
        self._turn = 0
        self.least = spread.strategy == "least_connections"
        self.in_flight: List[int] = []
        """By position; kept for least_connections only."""
        self.reset()

    def reset(self) -> None:
        """Nothing is in flight."""
        self.in_flight = [0] * (max(self._order) + 1)

    def choose(self) -> int:
        """The position of the endpoint of the next operation, which is in flight there from now on."""
        order, turn = self._order, self._turn
        self._turn = turn + 1 if turn + 1 < len(order) else 0
        if not self.least:
            return order[turn]
        # Of several with as few, the one whose turn it is.
        best = min(order[turn:] + order[:turn], key=self.in_flight.__getitem__)
        self.in_flight[best] += 1
        return best

    def after(self, position: int) -> int:
        """The endpoint to try after one where an attempt failed."""
        return self._order[(self._places[position] + 1) % len(self._order)]

    def moved(self, before: int, now: int) -> None:
        """An operation in flight goes on at another endpoint."""
        if self.least:
            self.in_flight[before] -= 1
            self.in_flight[now] += 1


class Watched:
    """A work whose operations leave a chooser's count when they end; `root.index` of a task is where it is."""

    def __init__(self, work: Work, chooser: Chooser) -> None:
        self._work = work
        self._in_flight = chooser.in_flight
        self.next = work.next

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)

    def done(self, task: Task, end_ns: int, size_bytes: int) -> None:
        """See base.Work."""
        self._in_flight[task.root.index] -= 1
        self._work.done(task, end_ns, size_bytes)

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        """See base.Work."""
        self._in_flight[task.root.index] -= 1
        self._work.failed(task, end_ns, error_class, detail, sent)


def watched(work: Work, chooser: Chooser) -> Work:
    """The work of a run that begins, with nothing in flight, as the chooser needs it."""
    chooser.reset()
    return cast(Work, Watched(work, chooser)) if chooser.least else work


class SpreadRoot(Root):
    """A target URI at several endpoints: `at` has the root at each, by position."""

    __slots__ = ("at",)

    def __init__(self, uri: str, at: Any) -> None:
        super().__init__(uri)
        self.at = at
