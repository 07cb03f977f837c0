"""One stage as the supervisor sees it: what the workers count becomes journal records."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Sequence, Set, Tuple

from sai3ssh import compact
from sai3ssh.agent import details, metrics, state
from sai3ssh.agent.hostmetrics import HostMetrics, ProcessCpu
from sai3ssh.agent.recovery import Recovered, Told
from sai3ssh.agent.verify import LISTED
from sai3ssh.model import ERROR_CLASSES, OPERATIONS, Intervals, Plan, Stage, StageKind

HIST_EVERY_S = 10
RANKS = (50.0, 90.0, 99.0)
_PER_OBJECT = {
    kind: OPERATIONS.index(op) for kind, op in ((StageKind.PREPARE, "put"), (StageKind.VERIFY, "get"), (StageKind.CLEANUP, "delete"))
}


class Published:
    """The totals of one stage that the journal has been given, and what is due next."""

    def __init__(
        self,
        stage: Stage,
        index: int,
        readers: Sequence[metrics.Reader],
        start_clock_ns: int,
        detail_readers: Sequence[details.DetailReader] = (),
    ) -> None:
        self.stage = stage
        self._detail_readers = detail_readers
        self._details = {0: details.Details(), 1: details.Details()}
        """Read already, and due to be told."""
        self.index = index
        self.start_clock_ns = start_clock_ns
        self.end_clock_ns = None if stage.duration_s is None else start_clock_ns + int(stage.duration_s * 1e9)
        """The planned end of an execute stage."""
        self.totals = metrics.Delta()
        self.readers = readers
        self._without: Dict[int, List[int]] = {}
        self._base_done = self._base_redone = self._redone = 0
        self._listed = 0
        self._host = HostMetrics()
        self._cpu = ProcessCpu()
        self._second = 0
        self._from_ns = start_clock_ns
        self._hist = {0: metrics.Delta(), 1: metrics.Delta()}
        self._warmup_end_ns = start_clock_ns + int(stage.warmup_s * 1e9)

    @property
    def done(self) -> int:
        """Objects of prepare, verify or cleanup finished so far."""
        return self._base_done + sum(map(self.finished, range(len(self.readers)))) - self._redone

    @property
    def in_ledger(self) -> bool:
        """Whether what is finished is recorded object by object, so that what is not can be done again."""
        return self.stage.kind in _PER_OBJECT

    def finished(self, worker: int) -> int:
        """Objects of prepare, verify or cleanup that a worker and those before it have finished, those included that were done again; of a
        replay the rows that have begun."""
        if self.stage.kind is StageKind.REPLAY:
            return self.readers[worker].names
        op = _PER_OBJECT.get(self.stage.kind)
        return 0 if op is None else self.readers[worker].completed(op) + self.readers[worker].not_found

    @property
    def next_second_ns(self) -> int:
        """When the next `second` is due, in CLOCK_BOOTTIME ns."""
        return self.start_clock_ns + (self._second + 1) * 1_000_000_000

    def resume(self, past: Recovered, from_ns: int, now_ns: int, cause: str) -> List[Tuple[str, Dict[str, Any]]]:
        """After a crash: the lost records of the time since the journal's last summary.

        The counters in shared memory are the truth; what they have more than the journal told is told now. What was counted in an earlier
        boot of the host is only in the journal.
        """
        records = []
        for reader in self.readers:
            reader.late_ns()  # of the time before, which is told as lost
        self._base_done, self._base_redone = past.recorded_before, past.redone_before
        self._listed = past.listed
        if self.in_ledger:
            # What had been done and was not recorded is done again.
            self._redone = sum(map(self.finished, range(len(self.readers)))) - past.recorded
        for phase, told in past.told.items():
            full, before = metrics.total(self.readers, phase), past.before[phase]
            self._hist[phase] = full.minus(told.histograms)
            self._details[phase].add(details.total(self._detail_readers, phase))
            self._details[phase].add(told.details, -1)
            fields = self._lost(from_ns, now_ns, cause, bool(phase))
            fields["ops"] = _more(full, told)
            rest = full.minus(told.counters)
            fields.update(rest.counters())
            if phase == 0:
                self.totals.add(full)
                self.totals.add(before.histograms)
                self.totals.add(before.counters)
                self._without = before.without_histogram()
                fields["without_histogram"] = {OPERATIONS[op]: figures for op, figures in self._without.items()}
            here = now_ns > from_ns and bool(phase) == (from_ns < self._warmup_end_ns)
            # Also where no time is lost, because the wall clock was set back before the restart: histograms are.
            if here or fields["ops"] or rest or fields.get("without_histogram"):
                records.append(("lost", fields))
        self._from_ns = now_ns
        self._second = max(0, (now_ns - self.start_clock_ns) // 1_000_000_000)
        return records

    def redo(self, count: int) -> None:
        """So many objects had been done, were not recorded, and are done again."""
        self._redone += count

    @property
    def redone(self) -> int:
        """Objects that were done again because the first time was not in the ledger."""
        return self._base_redone + self._redone

    def list_unreadable(self, told: Dict[str, Any]) -> Dict[str, Any]:
        """What a worker told, with no more names than the agent may still list."""
        objects = told["objects"][: LISTED - self._listed]
        self._listed += len(objects)
        return {**told, "objects": objects}

    def lost(self, from_ns: int, to_ns: int, cause: str) -> Dict[str, Any]:
        """The lost record of an interval in which not all workers measured; what they counted is in the seconds."""
        return self._lost(from_ns, to_ns, cause, from_ns < self._warmup_end_ns)

    def _lost(self, from_ns: int, to_ns: int, cause: str, warmup: bool) -> Dict[str, Any]:
        fields: Dict[str, Any] = {"stage": self.index, "from_clock_ns": from_ns, "to_clock_ns": to_ns, "warmup": warmup, "cause": cause}
        return {**fields, "done": self.done, "ops": {}, **metrics.Delta().counters()}

    def second(self, now_ns: int, pids: Sequence[int] = ()) -> List[Tuple[str, Dict[str, Any]]]:
        """The records of the time since the previous call: sec, and hist every 10 s. `pids` are the workers'."""
        records = []
        host = self._host.sample()
        busiest = self._cpu.sample(pids, now_ns)
        if busiest is not None:
            host["worker_cpu"] = busiest
            host["workers_cpu"] = [round(sum(self._cpu.shares), 1), len(self._cpu.shares)]
        late_ns = max((reader.late_ns() for reader in self.readers), default=0)
        if late_ns:
            host["late_ms"] = round(late_ns / 1e6, 1)
        for phase in (1, 0) if self.stage.warmup_s else (0,):
            delta = metrics.total(self.readers, phase)
            self._hist[phase].add(delta)
            if phase == 0:
                self.totals.add(delta)
            warmup = self._from_ns < self._warmup_end_ns
            if bool(phase) == warmup or delta:
                records.append(("sec", self._summary(delta, now_ns, host, bool(phase))))
        self._from_ns = now_ns
        self._second += 1
        if self._second % HIST_EVERY_S == 0:
            records += self.histograms()
        return records

    def histograms(self) -> List[Tuple[str, Dict[str, Any]]]:
        """The hist records that are due now."""
        records = []
        for phase, delta in self._hist.items():
            more = self._details[phase]
            more.add(details.total(self._detail_readers, phase))
            if delta or more:
                hist: Dict[str, Dict[str, Any]] = {}
                for (op, bucket), region in sorted(delta.regions.items()):
                    hist.setdefault(OPERATIONS[op], {})[str(bucket)] = region.to_json()
                fields = {"stage": self.index, "warmup": bool(phase), "hist": hist, **more.to_json()}
                records.append(("hist", compact.pack(fields)))
                self._hist[phase], self._details[phase] = metrics.Delta(), details.Details()
        return records

    def _summary(self, delta: metrics.Delta, now_ns: int, host: Dict[str, Any], warmup: bool) -> Dict[str, Any]:
        ops = {}
        for op, region in sorted(delta.by_operation().items()):
            histogram = region.histogram()
            # The maximum that is known is that of the whole stage so far: a second's own is the highest cell that it filled.
            highest = histogram.percentile(100.0)
            ops[OPERATIONS[op]] = [histogram.count, region.bytes, region.sum_ns] + [
                round(value / 1000, 1) for value in (*histogram.percentiles(RANKS), highest)
            ]
        return {
            "stage": self.index,
            "second": self._second,
            "from_clock_ns": self._from_ns,
            "to_clock_ns": now_ns,
            "warmup": warmup,
            "done": self.done,
            "ops": ops,
            **delta.counters(),
            "host": host,
        }

    def stage_totals(self) -> Dict[str, Any]:
        """The totals of the stage_end record: {op: {ops, bytes, requests, retries, errors, tail_ops, tail_bytes}}."""
        totals: Dict[str, Any] = {}
        by_op = self.totals.by_operation()
        for op, name in enumerate(OPERATIONS):
            region = by_op.get(op, metrics.Region())
            without = self._without.get(op, [0, 0, 0])
            entry = {
                "ops": sum(region.cells.values()) + without[0],
                "bytes": region.bytes + without[1],
                "requests": self.totals.requests.get(op, 0),
                "retries": sum(self.totals.retried.get(op, {}).values()),
                "retried": {ERROR_CLASSES[code]: n for code, n in self.totals.retried.get(op, {}).items()},
                "errors": {ERROR_CLASSES[code]: n for code, n in self.totals.errors.get(op, {}).items()},
                "tail_ops": region.tail_ops,
                "tail_bytes": region.tail_bytes,
            }
            if any(entry.values()):
                totals[name] = entry
        return totals


def _more(full: metrics.Delta, told: Told) -> Dict[str, List[float]]:
    """What the counters have more than the second summaries told, as a summary has it; its percentiles are not known."""
    ops: Dict[str, List[float]] = {}
    for op, region in sorted(full.by_operation().items()):
        count, size, sum_ns = told.seconds.get(op, [0, 0, 0])
        rest = [sum(region.cells.values()) - count, region.bytes - size, region.sum_ns - sum_ns]
        if rest[0]:
            ops[OPERATIONS[op]] = [*rest, 0, 0, 0, round(region.max_ns / 1000, 1)]
    return ops


class Ledger:
    """What this agent owns, and what of it is finished: per population, over all stages of the run."""

    def __init__(self, plan: Plan, owned: Dict[str, Tuple[Tuple[int, int], ...]]) -> None:
        self._plan = plan
        self.owned = {name: Intervals(ranges) for name, ranges in owned.items()}
        self.finished: Dict[int, Dict[str, Intervals]] = {}
        self.puts: List[Dict[str, Any]] = []
        self._adopted: Set[int] = set()

    def record(self, stage: int, population: str, ranges: Sequence[Sequence[int]]) -> None:
        """Ranges of a population were finished in a stage (created, deleted)."""
        done = self.finished.setdefault(stage, {}).setdefault(population, Intervals())
        for lo, hi in ranges:
            done.add(lo, hi)

    def adopt(self, record: Dict[str, Any]) -> None:
        """Owns more from now on, as an adopted record says; `done` of it has been finished in its stage by others."""
        self._adopted.add(record["number"])
        for name, pieces in record["ranges"].items():
            for lo, hi in pieces:
                self.owned.setdefault(name, Intervals()).add(lo, hi)
        for name, pieces in record["done"].items():
            self.record(record["stage"], name, pieces)

    def has_adopted(self, number: int) -> bool:
        """Whether the adoption of that number has happened."""
        return number in self._adopted

    def made(self, stage: Stage) -> Dict[str, Dict[str, Any]]:
        """What put made in earlier stages, by a name for each worker's share of it; for cleanup only."""
        return {f"put-{n}": made for n, made in enumerate(self.puts)} if stage.kind is StageKind.CLEANUP else {}

    def todo(self, index: int, stage: Stage) -> Dict[str, Intervals]:
        """What the agent still has to do in a stage: indices of the populations, for execute those that it may delete."""
        if stage.operations:
            names = {op.population for op in stage.operations if op.kind == "delete" and op.population}
        else:
            names = set(stage.populations)
        done = self.finished.get(index, {})
        owned = {name: self.owned.get(name, Intervals()) for name in sorted(names)}
        for name in names:
            for gone in self._deleted(name, index):
                owned[name] = owned[name].subtract(gone)
        for name, made in self.made(stage).items():
            owned[name] = Intervals([(0, made["count"])]).subtract(Intervals(made.get("removed", ())))
        return {name: ranges.subtract(done.get(name, Intervals())) for name, ranges in owned.items()}

    def swept(self, stage: Stage, mine: Dict[str, Intervals], worker: int, workers: int) -> Dict[str, Intervals]:
        """Of which objects a worker removes the directories when it has deleted `mine`.

        Besides its own it has a part of all that the agent owns: what others had deleted before, whose end came before they had done this.
        """
        if stage.kind is not StageKind.CLEANUP:
            return {}
        result = {}
        for name in stage.populations:
            population = self._plan.population(name)
            if population.tree is not None or population.shards:
                part = self.owned.get(name, Intervals()).split(workers)[worker]
                result[name] = Intervals([*part, *mine.get(name, Intervals())])
        return result

    def read(self, stage: Stage) -> Dict[str, Intervals]:
        """The agent's own part of each population that a stage reads by a key selection."""
        names = sorted({op.population for op in stage.operations if op.keys is not None and op.population})
        return {name: self.owned.get(name, Intervals()) for name in names}

    def _deleted(self, name: str, before: int) -> List[Intervals]:
        return [
            self.finished[k][name]
            for k in range(before)
            if k in self.finished and name in self.finished[k] and self._plan.stages[k].operations
        ]


def metrics_files(run_id: str, agent_id: str) -> List[str]:
    """The metrics files of a run on this host."""
    directory = state.metrics_dir()
    prefix = f"{run_id}.{agent_id}."
    return [os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(prefix)]
