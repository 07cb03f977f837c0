"""Operations that nobody makes, counted by the agent's real bookkeeping: memory that a reboot clears, second summaries, histograms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sai3ssh import compact
from sai3ssh.agent import metrics
from sai3ssh.agent.recovery import Recovered
from sai3ssh.agent.stage import Published
from sai3ssh.histogram import Histogram
from sai3ssh.model import Stage

Json = dict[str, Any]


class Reader:
    """One worker's metrics file, as far as `get` goes; the counter is the file."""

    done = names = 0

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._seen = 0

    def late_ns(self) -> int:
        """Its load loop is never late."""
        return 0

    def delta(self, phase: int) -> metrics.Delta:
        """What came since the previous call."""
        found = metrics.Delta()
        came, self._seen = self._counter.in_memory - self._seen, self._counter.in_memory
        if phase == 0 and came:
            region = found.regions[0, 0] = metrics.Region()
            region.cells = {100: came}
            region.sum_ns, region.bytes, region.max_ns = 1000 * came, came, 1000
            found.requests = {0: came}
        return found


class _NoHost:
    def sample(self) -> Json:
        """Nothing: the host is not simulated."""
        return {}


class Counter:
    """What one agent has counted in the execute stages of a run."""

    def __init__(self, append: Callable[..., None]) -> None:
        self._memory: dict[int, int] = {}
        """By stage, which has a file of its own: whoever begins it again finds what was counted before."""
        self._stage = 0
        self.made: dict[int, int] = {}
        """Stage to all operations that were ever made in it."""
        self.cleared: set[int] = set()
        """Stages in which the memory was lost."""
        self._append = append
        self._published: Published | None = None

    def begin(
        self, stage: Stage, index: int, start_clock_ns: int, past: Recovered | None = None, now_ns: int = 0, shift_ns: int = 0
    ) -> None:
        """A stage begins, or goes on by another supervisor."""
        self._stage = index
        reader: Any = Reader(self)
        self._published = Published(stage, index, [reader], start_clock_ns)
        self._published._host = _NoHost()  # type: ignore[assignment]
        self.made.setdefault(index, 0)
        if past is not None:
            since_ns = start_clock_ns if past.measured_to is None else past.measured_to["to_clock_ns"] + shift_ns
            for kind, fields in self._published.resume(past, min(since_ns, now_ns), now_ns, "the supervisor died"):
                self._append(kind, **fields)

    @property
    def in_memory(self) -> int:
        """What the stage's file holds."""
        return self._memory.get(self._stage, 0)

    def work(self, index: int, count: int) -> None:
        """So many operations."""
        self._memory[index] = self._memory.get(index, 0) + count
        self.made[index] += count

    def second(self, now_ns: int, *, histograms: bool) -> None:
        """A summary is due, and now and then the histograms."""
        assert self._published is not None
        for kind, fields in self._published.second(now_ns) + (self._published.histograms() if histograms else []):
            self._append(kind, **fields)

    def end(self, now_ns: int) -> Json:
        """The totals of the stage."""
        self.second(now_ns, histograms=True)
        assert self._published is not None
        return self._published.stage_totals()

    def clear(self, journal: list[Json]) -> None:
        """The host was restarted; its journal is what is on disk."""
        self._memory.clear()
        self.cleared |= set(self.made) - {record["stage"] for record in journal if record["kind"] == "stage_end"}

    def check(self, name: str, journal: list[Json]) -> None:
        """What the journal says in three ways is the same, and is what was made."""
        for end in [record for record in journal if record["kind"] == "stage_end" and record["stage"] in self.made]:
            mine = [record for record in journal if record.get("stage") == end["stage"]]
            totals = end["totals"].get("get", {}).get("ops", 0)
            tells = [record["ops"].get("get", [0])[0] for record in mine if record["kind"] in ("sec", "gap", "lost")]
            assert all(count >= 0 for count in tells), f"{name}: a record takes back what others told: {tells}"
            told = sum(tells)
            hists = [compact.unpack(record)["hist"].get("get", {}).get("0") for record in mine if record["kind"] == "hist"]
            cells = [Histogram.from_pairs(hist["cells"]).count for hist in hists if hist]
            without = sum(record.get("without_histogram", {}).get("get", [0])[0] for record in mine if record["kind"] == "lost")
            assert told == totals, f"{name}: seconds tell {told} operations, the end {totals}"
            assert without or sum(cells) == totals, f"{name}: histograms hold {sum(cells)} operations, the end tells {totals}"
            made = self.made[end["stage"]]
            exact = end["stage"] not in self.cleared
            assert totals == made or (not exact and totals <= made), f"{name}: {totals} operations told, {made} made"
