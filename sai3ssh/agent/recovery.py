"""What a journal says of a run whose supervisor is gone: where it stood, and what has been counted. Pure."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Optional, Tuple

from sai3ssh import compact
from sai3ssh.agent import metrics
from sai3ssh.agent.details import Details
from sai3ssh.histogram import Histogram
from sai3ssh.model import ERROR_CLASSES, NAMING, OPERATIONS, Stage
from sai3ssh.protocol import Record

_OP = {name: code for code, name in enumerate(OPERATIONS)}
_CLASS = {name: code for code, name in enumerate(ERROR_CLASSES)}


class Told:
    """The counters that the journal holds for one phase of one stage: by its second summaries, and by its histograms."""

    def __init__(self) -> None:
        self.seconds: Dict[int, List[int]] = {}
        """Operation code to [count, bytes, sum_ns]."""
        self.peak: Dict[int, int] = {}
        """Operation code to the highest count of a summary."""
        self.counters = metrics.Delta()
        """Requests, retries and errors."""
        self.histograms = metrics.Delta()
        self.details = Details()

    def second(self, record: Record) -> None:
        """Takes a sec, gap or lost record."""
        for name, figures in record["ops"].items():
            mine = self.seconds.setdefault(_OP[name], [0, 0, 0])
            for at in range(3):
                mine[at] += figures[at]
            self.peak[_OP[name]] = max(self.peak.get(_OP[name], 0), figures[0])
        part = metrics.Delta()
        part.requests = {_OP[name]: n for name, n in record["requests"].items()}
        part.retried = _by_code(record["retried"])
        part.errors = _by_code(record["errors"])
        self.counters.add(part)

    def hist(self, record: Record) -> None:
        """Takes a hist record."""
        record = compact.unpack(record)
        part = metrics.Delta()
        for name, buckets in record["hist"].items():
            for bucket, cells in buckets.items():
                region = part.regions[_OP[name], int(bucket)] = metrics.Region()
                region.cells = dict(Histogram.from_pairs(cells["cells"]).cells)
                region.sum_ns, region.bytes, region.max_ns = cells["sum_ns"], cells["bytes"], cells["max_ns"]
                region.tail_ops, region.tail_bytes = cells["tail_ops"], cells["tail_bytes"]
        self.histograms.add(part)
        self.details.add(Details.from_json(record))

    def absorb(self, other: Told) -> None:
        """Adds what another one holds."""
        for op, figures in other.seconds.items():
            mine = self.seconds.setdefault(op, [0, 0, 0])
            for at in range(3):
                mine[at] += figures[at]
        self.counters.add(other.counters)
        self.histograms.add(other.histograms)
        for op, n in other.peak.items():
            self.peak[op] = max(n, self.peak.get(op, 0))

    def without_histogram(self) -> Dict[int, List[int]]:
        """Operation code to [count, bytes, sum_ns] that is in the summaries but in no histogram."""
        by_op = self.histograms.by_operation()
        result = {}
        for op, (count, size, sum_ns) in self.seconds.items():
            region = by_op.get(op, metrics.Region())
            rest = [count - sum(region.cells.values()), size - region.bytes, sum_ns - region.sum_ns]
            if rest[0] > 0:
                result[op] = rest
        return result


class Recovered:
    """Where a run stood when its journal ended."""

    def __init__(self) -> None:
        self.epoch: Optional[Record] = None
        self.stage = 0
        """Index of the stage that is next, or runs."""
        self.armed: Optional[Record] = None
        """The armed record of that stage that counts."""
        self.committed: Optional[Record] = None
        self.ending: Optional[Record] = None
        """That the stage that runs ends before its planned end."""
        self.started = False
        self.told = {0: Told(), 1: Told()}
        """By phase, of the stage that runs, as far as its counters in shared memory go."""
        self.before = {0: Told(), 1: Told()}
        """The same from before the counters were lost with an earlier boot."""
        self.measured_to: Optional[Record] = None
        """The last record that ends at to_clock_ns."""
        self.finished: List[Tuple[int, str, List[List[int]]]] = []
        self.ready = False
        self.losses = 0
        """How often the counters in shared memory were lost."""
        self.recorded = self.redone = 0
        """Indices that the ledger has of the running stage, and those that were done twice; as far as the counters go."""
        self.recorded_before = self.redone_before = 0
        self.listed = 0
        """Unreadable objects that the running stage has told by name."""
        self.names: Dict[int, int] = {}
        """Worker to the names that put had used when its last incarnation began."""
        self.puts: List[Dict[str, Any]] = []
        """Of stages that have ended, and of workers that died."""
        self.incarnations: Dict[int, int] = {}
        self.adopted: List[Record] = []
        self.controller: Optional[Record] = None
        self.failed: Optional[Record] = None
        self.last: Optional[Record] = None

    def counters_lost(self) -> None:
        """The counters in shared memory begin again from zero."""
        for phase, told in self.told.items():
            self.before[phase].absorb(told)
        self.told = {0: Told(), 1: Told()}
        self.recorded_before += self.recorded
        self.redone_before += self.redone
        self.recorded = self.redone = 0
        self.names = {}

    def puts_at_most(self, seconds: int, stage: Stage) -> int:
        """How many names a worker can have used, when only the journal is left: what all did, and some seconds more."""
        ops = [_OP[name] for name in (*NAMING, "mkdir")]
        told = [*self.told.values(), *self.before.values()]
        done = sum(part.seconds.get(op, [0])[0] + sum(part.counters.errors.get(op, {}).values()) for part in told for op in ops)
        return done + seconds * sum(max(part.peak.get(op, 0) for part in told) for op in ops) + stage.concurrency


def replay(records: Iterable[Record]) -> Recovered:
    """Reads a journal from its first record."""
    result = Recovered()
    for record in records:
        result.last = record
        take = _TAKE.get(record["kind"])
        if take is not None:
            take(result, record)
    return result


def _stage_end(result: Recovered, record: Record) -> None:
    result.puts += record["made"]["puts"]
    result.stage = record["stage"] + 1
    result.armed = result.committed = result.ending = result.measured_to = None
    result.started = False
    result.redone = result.recorded = result.redone_before = result.recorded_before = result.listed = 0
    result.names = {}
    result.told, result.before = {0: Told(), 1: Told()}, {0: Told(), 1: Told()}


def _second(result: Recovered, record: Record) -> None:
    result.told[int(record["warmup"])].second(record)
    result.measured_to = record


def _worker(result: Recovered, record: Record) -> None:
    result.incarnations[record["worker"]] = record["incarnation"]
    result.puts += record.get("puts", [])
    result.redone += record.get("redo", 0)
    if "names" in record:
        result.names[record["worker"]] = record["names"]


def _adopted(result: Recovered, record: Record) -> None:
    result.adopted.append(record)
    # Its stage may be opened again for what was adopted.
    result.stage = min(result.stage, record["stage"])
    result.armed = None


def _ledger(result: Recovered, record: Record) -> None:
    result.finished.append((record["stage"], record["population"], record["ranges"]))
    result.recorded += sum(hi - lo for lo, hi in record["ranges"])
    result.listed += len(record.get("unreadable", {}).get("objects", ()))


def _recovered(result: Recovered, record: Record) -> None:
    if record["fresh"]:
        result.losses += 1
        result.counters_lost()


def _set(name: str) -> Any:
    def take(result: Recovered, record: Record) -> None:
        setattr(result, name, record)

    return take


_TAKE: Dict[str, Any] = {
    "epoch": _set("epoch"),
    "armed": _set("armed"),
    "committed": _set("committed"),
    "ending": _set("ending"),
    "controller": _set("controller"),
    "failed": _set("failed"),
    "stage_start": lambda result, _: setattr(result, "started", True),
    "stage_end": _stage_end,
    "sec": _second,
    "gap": _second,
    "lost": _second,
    "hist": lambda result, record: result.told[int(record.get("warmup", False))].hist(record),
    "ledger": _ledger,
    "ready": lambda result, _: setattr(result, "ready", True),
    "recovered": _recovered,
    "worker": _worker,
    "adopted": _adopted,
}


def in_clock_of(boot: str, record: Record, now_clock_ns: int, now_wall_ns: int) -> int:
    """What must be added to times of a record's boot to have them in the clock of this boot: 0 in the same boot, else by wall time.

    A wall clock that was set back makes nothing happen later than now.
    """
    if record["boot"] == boot:
        return 0
    shift_ns: int = (now_clock_ns - now_wall_ns) - (record["clock_ns"] - record["wall_ns"])
    passed_ns: int = now_clock_ns - record["clock_ns"]
    return min(shift_ns, passed_ns)


def cause_of_loss(rebooted: bool, synchronised: Optional[bool]) -> str:
    """Why nothing was measured until a stage goes on; `synchronised` as the kernel said after a reboot, None where it did not."""
    if not rebooted:
        return "the supervisor died"
    return "the host was restarted" + ("; clock not synchronised after the reboot" if synchronised is False else "")


def _by_code(counts: Dict[str, Dict[str, int]]) -> Dict[int, Dict[int, int]]:
    return {_OP[name]: {_CLASS[error]: n for error, n in classes.items()} for name, classes in counts.items()}
