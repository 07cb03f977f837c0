"""A checked workload file and hosts become a plan and who owns what of it."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypedDict

from .. import dataset
from ..errors import InventoryError
from ..model import (
    GIB,
    Assignment,
    Deadlines,
    ErrorLimits,
    FailurePolicy,
    Host,
    IoRate,
    KeySelection,
    Multipart,
    OperationSpec,
    Plan,
    Population,
    Ranges,
    Retry,
    SizeSpec,
    Stage,
    StageKind,
    Steady,
    Target,
    Tree,
    assign,
)
from . import cloud, units
from .barriers import Barriers
from .document import Path_, Problems
from .endpoints import Endpoints, check_url, implied_target
from .notices import checks_beforehand, perf_log_interval_s, taken_as_there
from .own import Owner, check_own
from .schema import EnsureObjects, OperationKeys, SizeLaw, StageKeys, WorkloadKeys
from .workload import Workload, check_uri

ZIPF_THETA = 0.99
"""YCSB's, and so what people compare with."""
MAX_COPY = 5 * GIB
"""Of one CopyObject."""
_CHOOSING = ("get", "stat", "copy")
"""Operations on any of the prepared objects, which stay."""
PARTITION_OVERLAP = 0.3
"""sai3-bench's."""
COMPLETIONS = {
    "execute": ("duration", "duration_or_tasks", "tasks_done"),
    "hybrid": ("duration_or_tasks",),
    "prepare": ("tasks_done", "duration_or_tasks"),
    "cleanup": ("tasks_done", "duration_or_tasks"),
    "verify": ("validation_passed", "tasks_done"),
    "validation": ("validation_passed", "tasks_done"),
    "custom": ("script_exit", "duration_or_tasks"),
}
"""What sai3-bench's completion can be for a stage of each type."""
MOST_OBJECTS = 1 << 33
"""So many objects of a population have bytes of their own, see dataset."""
LEASE_HEARTBEATS = 5
"""A lease is renewed each heartbeat, by a reading of the clock that is as old: with a shorter one well agents would not get to work."""


def compile_plan(
    workload: Workload,
    run_id: str,
    hosts: Sequence[Host],
    *,
    needs_credentials: bool = False,
    replay: Sequence[Stage] = (),
) -> tuple[Plan, list[Assignment]]:
    """The plan of a run and one assignment per agent, in the order of the hosts. `replay` are the stages where they are those of a trace.

    Raises ConfigError that names every contradiction with file, line and column, and InventoryError when distributed.agents names an
    unknown host.
    """
    keys = workload.keys
    problems = Problems(workload.document)
    builder = _Builder(keys, problems)
    builder.check_target()
    check_own(keys, builder.base, problems)
    # All else would be wrong for the same reason.
    problems.raise_if_any()
    populations = builder.populations()
    mix = builder.mix(populations)
    stages = list(replay) or builder.stages(populations, mix)
    uris = [p.target for p in populations] + [o.target for o in mix] + [stage.replay.target for stage in stages if stage.replay]
    uris += [agent.target_override.rstrip("/") + "/" for agent in keys.distributed.agents if agent.target_override is not None]
    endpoints = builder.endpoints(uris)
    target = builder.target(uris, endpoints)
    cloud.check_sizes(target, populations, mix, stages, problems)
    problems.raise_if_any()
    chosen = choose(workload, hosts)
    builder.check_parts(mix, populations, len(chosen))
    policy = builder.policy(len(chosen), ("distributed", "failure_policy") in workload.options)
    loss, loss_s = builder.controller_loss()
    problems.raise_if_any()
    handling = keys.error_handling
    heartbeat_s = keys.distributed.heartbeat_interval
    plan = Plan(
        run_id=run_id,
        name=keys.name,
        target=target,
        populations=tuple(populations),
        stages=tuple(stages),
        retry=Retry(
            handling.max_retries if handling.retry_on_error else 0,
            handling.initial_retry_delay_ms / 1000,
            handling.max_retry_delay_ms / 1000,
            handling.retry_backoff_multiplier,
            handling.retry_jitter_factor,
        ),
        deadlines=Deadlines(keys.deadlines.connect, keys.deadlines.first_byte, keys.deadlines.total),
        error_limits=ErrorLimits(
            handling.max_total_errors, handling.error_rate_threshold, handling.error_rate_window, handling.backoff_duration
        ),
        target_outage_timeout_s=keys.target_outage_timeout,
        heartbeat_s=heartbeat_s,
        agent_barrier_timeout_s=builder.agent_barrier_timeout_s(),
        workers=keys.workers,
        pin_workers=keys.pin_workers,
        seed=keys.seed,
        policy=policy,
        lease_s=max(policy.reconnect_timeout_s, LEASE_HEARTBEATS * heartbeat_s) if policy.survives and policy.reassign else None,
        on_controller_loss=loss,
        controller_loss_s=loss_s,
        needs_credentials=needs_credentials,
        min_coverage=keys.distributed.min_coverage,
        agents=tuple(host.name for host in chosen),
        timing_splits=keys.timing_splits and target.engine == "s3",
        spreads=(endpoints.spreads if keys.distributed.agents else endpoints.spreads * len(chosen)) if target.endpoints else (),
        op_log_bytes=keys.op_log_max_bytes if keys.op_log_path else None,
        perf_log_interval_s=perf_log_interval_s(keys),
        own=Owner(keys, builder.base, populations, mix, stages).all(chosen),
    )
    return plan, assign(plan.populations, plan.agents)


def choose(workload: Workload, hosts: Sequence[Host]) -> list[Host]:
    """The hosts that distributed.agents names, or all. Raises InventoryError."""
    agents = workload.keys.distributed.agents
    if not agents:
        return list(hosts)
    chosen: list[Host] = []
    for n, entry in enumerate(agents):
        line, column = workload.document.where(("distributed", "agents", n))
        place = f"{workload.file}:{line}:{column}: distributed.agents"
        wanted = [name.rpartition(":")[0] or name for name in (entry.id, entry.address) if name]
        found = next((host for host in hosts if host.name in wanted or host.address in wanted), None)
        if found is None:
            known = [host.name for host in hosts]
            near = difflib.get_close_matches(wanted[0], [*known, *(host.address for host in hosts)], 1, 0.7)
            some = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
            raise InventoryError(
                f"{place} names {' / '.join(wanted)}, which is no host of the inventory ({some})",
                remedy=f"Did you mean {near[0]!r}?" if near else "Name agents as the inventory does",
            )
        if found in chosen:
            raise InventoryError(f"{place} names host {found.name} twice", remedy="Remove one of them")
        chosen.append(found)
    return chosen


class _Data(TypedDict):
    fill: str
    dedup_factor: float
    compress_factor: float


class _Builder:
    """Parts of a plan; notes contradictions as it goes."""

    def __init__(self, keys: WorkloadKeys, problems: Problems) -> None:
        self._keys = keys
        self._problems = problems
        self._target = keys.target or implied_target(keys)

    @property
    def base(self) -> str | None:
        """What relative paths are below."""
        return self._target

    def check_target(self) -> None:
        """Notes a target that is none, and paths that are relative to no target."""
        target = self._target
        if target is not None:
            overrides: list[tuple[Path_, str | None]] = [
                (("distributed", "agents", n, "target_override"), agent.target_override)
                for n, agent in enumerate(self._keys.distributed.agents)
            ]
            for where, uri in [(("target",), target), *overrides]:
                wrong = check_uri(uri) if uri is not None else None
                if wrong:
                    self._problems.add(where, wrong)
            return
        paths: list[tuple[str, Path_]] = [
            (entry.base_uri, ("prepare", "ensure_objects", n, "base_uri")) for n, entry in enumerate(self._keys.prepare.ensure_objects)
        ]
        paths += [(op.path, ("workload", n, "path")) for n, op in enumerate(self._keys.workload)]
        relative = [(path, where) for path, where in paths if "://" not in path]
        # All others would be wrong for the same reason.
        for path, where in relative[:1]:
            self._problems.add(where, f"{path!r} is relative, but there is no target; set target, or write whole URIs")

    def _uri(self, path: str, where: Path_) -> str:
        """An absolute URI of a path that is relative to target."""
        if "://" not in path:
            path = (self._target or "").rstrip("/") + "/" + path.lstrip("/")
        wrong = check_uri(path)
        if wrong:
            self._problems.add(where, wrong)
        return path

    def populations(self) -> list[Population]:
        """One per ensure_objects entry, or two where the mix both deletes and reads it."""
        result: list[Population] = []
        prepare = self._keys.prepare
        tree = self._tree()
        for n, entry in enumerate(prepare.ensure_objects):
            where: Path_ = ("prepare", "ensure_objects", n)
            uri = self._uri(entry.base_uri, (*where, "base_uri")).rstrip("/") + "/"
            ops = {op.op for op in self._keys.workload if self._reads(op, uri)}
            pools = ["prepared", "deletable"] if "delete" in ops and ops & set(_CHOOSING) else ["prepared"]
            if any(population.target == uri for population in result):
                self._problems.add((*where, "base_uri"), f"{uri} is prepared by an earlier entry already")
            count = self._count(entry, tree, where)
            for pool in pools:
                name = pool if n == 0 else f"{pool}-{n + 1}"
                seed = self._keys.seed * 1000 + len(result) + 1
                size = self._population_size(entry, where)
                data = self._data(entry, where)
                key = "file_%08d.dat" if tree is not None and pool == "prepared" else f"{pool}-%08d.dat"
                result.append(Population(name, uri, key, count, size, seed, shards=prepare.key_prefix_shards, tree=tree, **data))
        return result

    def _tree(self) -> Tree | None:
        """The tree of directories that the objects of each entry are in."""
        keys = self._keys.prepare.directory_structure
        where: Path_ = ("prepare", "directory_structure")
        if keys is None:
            return None
        tree = Tree(keys.width, keys.depth, keys.files_per_dir, keys.distribution == "all", keys.dir_mask)
        if not self._keys.prepare.ensure_objects:
            text = "directory_structure needs an entry in prepare.ensure_objects: where the tree is, and how large its files are"
            self._problems.add(where, text)
        if self._keys.prepare.key_prefix_shards:
            self._problems.add(("prepare", "key_prefix_shards"), "key_prefix_shards contradicts directory_structure; remove one of them")
        if tree.objects > MOST_OBJECTS:
            self._problems.add(where, f"the tree has {tree.objects:,} files; at most {MOST_OBJECTS:,} can be told apart")
        return tree

    def _count(self, entry: EnsureObjects, tree: Tree | None, where: Path_) -> int:
        """How many objects an entry has. Those of a tree are counted by the tree; sai3-bench's files then say 0, or the same number."""
        if tree is None:
            if not entry.count:
                self._problems.add((*where, "count"), "count of the objects is missing or 0; set it, for example count: 1000")
            return entry.count
        if entry.count not in (0, tree.objects):
            levels = f" on levels 1 to {tree.depth}" if tree.everywhere else ""
            text = (
                f"count is {entry.count:,}, but directory_structure has {tree.objects:,} files ({tree.objects // tree.files_per_dir:,} "
                f"directories{levels} with {tree.files_per_dir:,} each); remove count, or correct one of them"
            )
            self._problems.add((*where, "count"), text)
        return tree.objects

    def _data(self, entry: EnsureObjects | OperationKeys, where: Path_) -> _Data:
        """How the bytes of what an entry writes are made."""
        fill = "zero" if entry.fill == "zero" else "random"
        for name in ("dedup_factor", "compress_factor"):
            if fill == "zero" and getattr(entry, name) != 1:
                self._problems.add((*where, name), f"{name} contradicts fill: zero, which has nothing but zeros; remove one of them")
        return {"fill": fill, "dedup_factor": entry.dedup_factor, "compress_factor": entry.compress_factor}

    def _reads(self, op: OperationKeys, target: str) -> bool:
        return op.op in (*_CHOOSING, "delete") and self._path_uri(op).startswith(target)

    def _path_uri(self, op: OperationKeys) -> str:
        path = op.path.partition("*")[0]
        if "://" in path:
            return path
        return (self._target or "").rstrip("/") + "/" + path.lstrip("/")

    def _population_size(self, entry: EnsureObjects, where: Path_) -> SizeSpec:
        given = [name for name in ("size_spec", "min_size", "max_size") if getattr(entry, name) is not None]
        if entry.size_spec is not None:
            if len(given) > 1:
                self._problems.add((*where, given[1]), f"{given[1]} contradicts size_spec; give one of them")
            return _size(entry.size_spec)
        if entry.min_size is None and entry.max_size is None:
            self._problems.add(where, "the size of the objects is missing; set size_spec, for example size_spec: 4KiB")
            return SizeSpec("fixed", 0, 0)
        low = entry.min_size if entry.min_size is not None else entry.max_size
        high = entry.max_size if entry.max_size is not None else entry.min_size
        assert low is not None
        assert high is not None
        if low > high:
            self._problems.add(
                (*where, "min_size"),
                f"min_size ({units.size_words(low)}) is greater than max_size ({units.size_words(high)}); exchange them",
            )
        return SizeSpec("fixed" if low == high else "uniform", low, high)

    def mix(self, populations: Sequence[Population]) -> list[OperationSpec]:
        """The operations of execute stages."""
        result = []
        for n, op in enumerate(self._keys.workload):
            where: Path_ = ("workload", n)
            if op.key_selection is not None and op.op not in _CHOOSING:
                text = f"key_selection has no meaning for {op.op}: only get, stat and copy choose objects"
                self._problems.add((*where, "key_selection"), text)
            if op.op not in ("put",) and (op.object_size is not None or op.size_spec is not None):
                self._problems.add(
                    (*where, "size_spec" if op.size_spec else "object_size"),
                    f"a size has no meaning for {op.op}; it belongs to put, and to prepare.ensure_objects",
                )
            for name in ("dedup_factor", "compress_factor"):
                if op.op != "put" and getattr(op, name) != 1:
                    text = f"{name} has no meaning for {op.op}; it belongs to put, and to prepare.ensure_objects"
                    self._problems.add((*where, name), text)
            if op.recursive and op.op != "rmdir":
                self._problems.add((*where, "recursive"), f"recursive has no meaning for {op.op}: it belongs to rmdir")
            if op.delimiter is not None and op.op != "list":
                self._problems.add((*where, "delimiter"), f"delimiter has no meaning for {op.op}; it belongs to list")
            if op.delete_batch > 1 and op.op != "delete":
                self._problems.add((*where, "delete_batch"), f"delete_batch has no meaning for {op.op}")
            if op.op in ("mkdir", "rmdir"):
                result.append(self._directories(op, where))
                continue
            if op.op in ("put", "list"):
                if "*" in op.path:
                    self._problems.add((*where, "path"), f"{op.op} needs a prefix, found the pattern {op.path!r}")
                uri = self._uri(op.path, (*where, "path"))
                target = uri.rstrip("/") + "/" if op.op == "put" or op.path.endswith("/") or not op.path else uri
                size = self._put_size(op, where) if op.op == "put" else None
                delimiter = op.delimiter or ""
                own = self._data(op, where)
                result.append(OperationSpec(op.op, op.weight, target, None, size, concurrency=op.concurrency, delimiter=delimiter, **own))
                continue
            population = self._population_of(op, populations, where)
            if population is not None:
                if op.op == "copy":
                    self._check_copy(population, where)
                keys = self._key_selection(op) if op.op in _CHOOSING else None
                pooled = self._takes_puts(op, keys, where)
                spec = OperationSpec(
                    op.op, op.weight, population.target, population.name, keys=keys, concurrency=op.concurrency, put_pool=pooled
                )
                if op.delete_batch > 1:
                    spec = replace(spec, delete_batch=op.delete_batch)
                result.append(spec)
        if self._keys.dynamic_put_pool and not any(spec.put_pool for spec in result):
            text = "dynamic_put_pool has no effect: no get reads where a put writes; let both have the same path"
            self._problems.add(("dynamic_put_pool",), text)
        return result

    def _directories(self, op: OperationKeys, where: Path_) -> OperationSpec:
        """A mkdir, or a rmdir, which removes what a mkdir of the same worker has made at the same path."""
        if "*" in op.path:
            self._problems.add((*where, "path"), f"{op.op} needs a directory, found the pattern {op.path!r}")
        target = self._uri(op.path, (*where, "path")).rstrip("/") + "/"
        if target.startswith("s3://"):
            text = f"{op.op} has no meaning for s3:// targets: object storage has no directories; put or delete objects instead"
            self._problems.add((*where, "op"), text)
        makes = [other for other in self._keys.workload if other.op == "mkdir" and other.weight]
        if op.op == "rmdir" and op.weight and target not in [self._path_uri(other).rstrip("/") + "/" for other in makes]:
            text = f"rmdir {op.path!r}: it removes what mkdir has made at the same path, and there is none; add one"
            self._problems.add((*where, "path"), text)
        return OperationSpec(op.op, op.weight, target, concurrency=op.concurrency, recursive=op.recursive)

    def _check_copy(self, population: Population, where: Path_) -> None:
        most = population.size.max
        if population.target.startswith("s3://") and most > MAX_COPY:
            text = (
                f"copy: objects at {population.target} have up to {most:,} bytes, and S3 copies at most 5 GiB at once; prepare smaller ones"
            )
            self._problems.add((*where, "path"), text)

    def _takes_puts(self, op: OperationKeys, keys: KeySelection | None, where: Path_) -> bool:
        """Whether an operation may take objects that puts write: a get, below whose path there are some."""
        if not self._keys.dynamic_put_pool or op.op != "get":
            return False
        here = self._path_uri(op)
        puts = [self._path_uri(put).rstrip("/") + "/put-" for put in self._keys.workload if put.op == "put" and put.weight]
        found = any(name.startswith(here) for name in puts)
        if found and keys is not None and keys.distribution != "uniform":
            text = f"dynamic_put_pool adds objects that have no place in a {keys.distribution} order; use uniform, or another path for put"
            self._problems.add((*where, "key_selection"), text)
        return found

    def _key_selection(self, op: OperationKeys) -> KeySelection | None:
        """How the objects of an operation are chosen; None is uniformly from all."""
        given = op.key_selection
        if given is None:
            return self._path_selection()
        theta = given.theta or ZIPF_THETA if given.distribution == "zipf" else 0.0
        found = KeySelection(given.distribution, theta, given.partitioned, given.overlap)
        return None if found == KeySelection() else found

    def _path_selection(self) -> KeySelection | None:
        """What distributed.path_selection, a key of sai3-bench, means for objects."""
        keys = self._keys.distributed
        if keys.path_selection == "random":
            return None
        overlap = PARTITION_OVERLAP if keys.partition_overlap is None else keys.partition_overlap
        return KeySelection(partitioned=True, overlap=0.0 if keys.path_selection == "exclusive" else overlap)

    def check_parts(self, mix: Sequence[OperationSpec], populations: Sequence[Population], agents: int) -> None:
        """Every agent that reads only its own objects must own some."""
        parted = {op.population for op in mix if op.keys is not None and op.keys.partitioned}
        for population in populations:
            if population.name in parted and population.count < agents:
                text = f"{population.count} objects at {population.target} cannot be partitioned among {agents} agents; prepare more"
                self._problems.add(("prepare", "ensure_objects"), text)

    def _put_size(self, op: OperationKeys, where: Path_) -> SizeSpec:
        if op.size_spec is not None and op.object_size is not None:
            self._problems.add((*where, "object_size"), "object_size contradicts size_spec; give one of them")
        if op.size_spec is not None:
            return _size(op.size_spec)
        if op.object_size is None:
            self._problems.add(where, "put needs the size of the objects; set size_spec, for example size_spec: 4KiB")
        n = op.object_size or 0
        return SizeSpec("fixed", n, n)

    def _population_of(self, op: OperationKeys, populations: Sequence[Population], where: Path_) -> Population | None:
        self._uri(op.path.partition("*")[0] or "", (*where, "path"))
        uri = self._path_uri(op)
        pool = "deletable" if op.op == "delete" else "prepared"
        here = [p for p in populations if uri.startswith(p.target) or uri + "/" == p.target]
        if not here:
            known = ", ".join(sorted({p.target for p in populations})) or "none"
            self._problems.add(
                (*where, "path"),
                f"{op.op} {op.path!r}: no objects are prepared there (prepare.ensure_objects has: {known}); add an entry for it",
            )
            return None
        best = max(here, key=lambda p: len(p.target))
        same = [p for p in here if p.target == best.target]
        rest = uri[len(best.target) :]
        if rest and not (op.path.endswith("*") and any(p.key_format.startswith(rest) for p in same)) and not self._matches(op, best):
            self._problems.add(
                (*where, "path"),
                f"{op.op} {op.path!r} names a part of what is prepared at {best.target}; name all of it: that prefix, or a * after it",
            )
        return next((p for p in same if p.key_format.startswith(pool)), same[0])

    def _matches(self, op: OperationKeys, population: Population) -> bool:
        """Whether a pattern over directories such as sai3bench.d*/**/* has all objects of a tree."""
        if population.tree is None:
            return False
        path = op.path if "://" in op.path else (self._target or "").rstrip("/") + "/" + op.path.lstrip("/")
        # ** may stand for no directory; here a * goes over any number of them.
        pattern = path[len(population.target) :].replace("**/", "*")
        sample = {population.count * n // 64 for n in range(64)} | {population.count - 1}
        return "*" in pattern and all(fnmatch.fnmatchcase(dataset.key_of(population, index), pattern) for index in sample)

    def stages(self, populations: Sequence[Population], mix: Sequence[OperationSpec]) -> list[Stage]:
        """The given stages in order, or prepare, execute and cleanup as far as the file asks for them."""
        keys = self._keys
        where: Path_ = ("stages",) if keys.stages else ("distributed", "stages")
        cleanup = keys.prepare.cleanup or keys.prepare.cleanup_only
        if keys.prepare.delete_batch > 1 and (keys.stages or keys.distributed.stages or not cleanup):
            text = (
                "prepare.delete_batch is for the cleanup that prepare.cleanup: true adds; give a stage of type cleanup its own delete_batch"
            )
            self._problems.add(("prepare", "delete_batch"), text)
        if keys.stages and keys.distributed.stages:
            self._problems.add(("stages",), "stages is given both at the top and under distributed; give one of them")
        given = list(enumerate(keys.stages or keys.distributed.stages))
        if not given:
            implied = []
            if populations:
                implied.append(StageKeys(name="prepare", type="prepare"))
            if keys.workload:
                implied.append(StageKeys(name="execute", type="execute"))
            if cleanup:
                implied.append(StageKeys(name="cleanup", type="cleanup", delete_batch=keys.prepare.delete_batch))
            if not implied:
                self._problems.add(("workload",), "nothing to do: workload is empty and nothing is prepared")
            given = list(enumerate(implied))
        given.sort(key=lambda item: (item[1].order if item[1].order is not None else 0, item[0]))
        given = self._wanted(given)
        names: set[str] = set()
        result: list[Stage] = []
        for n, stage in given:
            if stage.name in names:
                self._problems.add((*where, n, "name"), f"two stages are named {stage.name!r}; results are kept by name: choose another")
            names.add(stage.name)
            made = self._stage(stage, (*where, n), populations, mix)
            result.append(replace(made, timeout_s=stage.timeout_secs, optional=stage.optional))
        self._check_order(result, [(*where, n) for n, _ in given])
        orders: dict[int, str] = {}
        for n, stage in given:
            if stage.order is not None and stage.order in orders:
                text = f"stages {orders[stage.order]!r} and {stage.name!r} both have order {stage.order}; which one is first?"
                self._problems.add((*where, n, "order"), text)
            elif stage.order is not None:
                orders[stage.order] = stage.name
        return self._delayed(result)

    def _wanted(self, given: list[tuple[int, StageKeys]]) -> list[tuple[int, StageKeys]]:
        """The stages without those that prepare.cleanup_only and prepare.skip_verification leave out, and what preflight does."""
        prepare = self._keys.prepare
        before = checks_beforehand([stage for _, stage in given])
        given = [item for item in given if item[1].name not in before]
        if prepare.cleanup_only:
            kept = [(n, stage) for n, stage in given if stage.type == "cleanup"]
            if not kept or not prepare.ensure_objects:
                what = "a stage of type cleanup" if prepare.ensure_objects else "prepare.ensure_objects: what is to be removed"
                self._problems.add(("prepare", "cleanup_only"), f"cleanup_only has nothing to do; give {what}")
            return kept
        if not taken_as_there(prepare):
            return given
        kept = [(n, stage) for n, stage in given if stage.type != "prepare"]
        if not kept:
            text = "skip_verification takes the objects as there, so that nothing is left to do; set force_overwrite: true to write them"
            self._problems.add(("prepare", "skip_verification"), text)
        return kept

    def _delayed(self, stages: Sequence[Stage]) -> list[Stage]:
        """The stages, with a pause of post_prepare_delay after each prepare that another one follows."""
        delay_s = self._keys.prepare.post_prepare_delay
        if not delay_s:
            return list(stages)
        names = {stage.name for stage in stages}
        result: list[Stage] = []
        for n, stage in enumerate(stages):
            result.append(stage)
            if stage.kind is StageKind.PREPARE and n + 1 < len(stages):
                name = next(name for name in (f"{stage.name}-delay{mark * '_'}" for mark in range(len(stages) + 1)) if name not in names)
                result.append(Stage(name, StageKind.PAUSE, stage.concurrency, delay_s))
        return result

    def _check_order(self, stages: Sequence[Stage], where: Sequence[Path_]) -> None:
        """What a stage reads must be there: not removed before it, nor prepared after it."""
        for n, stage in enumerate(stages):
            reads = any(op.population and op.weight for op in stage.operations)
            verb = "verify" if stage.kind is StageKind.VERIFY else "read" if reads else ""
            changes = [earlier for earlier in stages[:n] if earlier.kind in (StageKind.PREPARE, StageKind.CLEANUP)]
            late = [later for later in stages[n:] if later.kind in (StageKind.PREPARE, StageKind.CLEANUP)]
            if verb and changes and changes[-1].kind is StageKind.CLEANUP:
                text = f"nothing is left to {verb} after the cleanup stage {changes[-1].name!r}; give {stage.name!r} a smaller order"
                self._problems.add(where[n], text)
            elif verb and late and late[0].kind is StageKind.PREPARE and not changes:
                text = f"what stage {stage.name!r} is to {verb} is prepared after it; give {late[0].name!r} a smaller order"
                self._problems.add(where[n], text)

    def _stage(self, stage: StageKeys, where: Path_, populations: Sequence[Population], mix: Sequence[OperationSpec]) -> Stage:
        keys = self._keys
        kind = {"validation": StageKind.VERIFY, "hybrid": StageKind.EXECUTE}.get(stage.type) or StageKind(stage.type)
        self._check_end(stage, kind, where, populations)
        concurrency = stage.concurrency or keys.concurrency
        if kind is StageKind.EXECUTE:
            concurrency = self._in_flight(stage.name, concurrency)
        for n, agent in enumerate(keys.distributed.agents):
            if agent.concurrency_override is not None and keys.workers > agent.concurrency_override:
                text = f"{keys.workers} workers share a concurrency of {agent.concurrency_override}: some would have nothing to do"
                self._problems.add(("distributed", "agents", n, "concurrency_override"), text)
        if keys.workers > concurrency:
            self._problems.add(("workers",), f"{keys.workers} workers share a concurrency of {concurrency}: some would have nothing to do")
        names = tuple(p.name for p in populations)
        if stage.delete_batch > 1 and kind is not StageKind.CLEANUP:
            text = f"delete_batch has no meaning for a stage of type {stage.type}; it belongs to cleanup, and to the operation delete"
            self._problems.add((*where, "delete_batch"), text)
        if kind is not StageKind.EXECUTE:
            if stage.duration is not None:
                self._problems.add((*where, "duration"), f"a {kind.value} stage ends when its work is done; it has no duration: remove it")
            if stage.steady is not None:
                self._problems.add((*where, "steady"), f"a {kind.value} stage ends when its work is done; only execute can be steady")
            if kind is StageKind.CUSTOM:
                return Stage(stage.name, kind, concurrency, command=(stage.command or "", *stage.args))
            if not names and kind is not StageKind.CLEANUP:
                self._problems.add(where, f"nothing to {kind.value}: prepare.ensure_objects is empty")
            prepare = keys.prepare
            if kind is StageKind.PREPARE:
                together = prepare.prepare_strategy == "parallel"
                return Stage(stage.name, kind, concurrency, populations=names, interleaved=together)
            # What was interrupted may have removed some of them.
            mode = prepare.cleanup_mode or ("tolerant" if prepare.cleanup_only else "strict")
            mode = mode if kind is StageKind.CLEANUP else "strict"
            return Stage(
                stage.name,
                kind,
                concurrency,
                populations=names,
                delete_batch=stage.delete_batch,
                cleanup_mode=mode,
            )
        duration_s: float | None = stage.duration or keys.duration
        if stage.type == "hybrid":
            duration_s = stage.max_duration or (None if stage.expected_tasks else keys.duration)
        # Of the file, not of the mix: operations that were refused have been told.
        if not any(op.weight for op in keys.workload):
            self._problems.add(("workload",), f"stage {stage.name!r} has nothing to execute: workload is empty or all weights are 0")
        if duration_s is not None and keys.warmup_period >= duration_s:
            text = f"warmup_period ({keys.warmup_period:g} s) leaves nothing of stage {stage.name!r} ({duration_s:g} s)"
            self._problems.add(("warmup_period",), f"{text}; shorten it, or raise duration")
        if duration_s is not None and keys.ramp_up >= duration_s:
            text = f"ramp_up ({keys.ramp_up:g} s) leaves nothing of stage {stage.name!r} ({duration_s:g} s)"
            self._problems.add(("ramp_up",), f"{text}; shorten it, or raise duration")
        paced = IoRate(keys.io_rate.iops, keys.io_rate.distribution) if keys.io_rate.iops else None
        warmup_s = max(keys.warmup_period, keys.ramp_up)
        steady = None
        if stage.expected_tasks is None and duration_s is not None:
            steady = self._steady(stage, where, warmup_s, duration_s)
        elif stage.steady is not None:
            text = "steady and expected_tasks contradict each other: the stage ends by its operations; remove one"
            self._problems.add((*where, "steady"), text)
        if stage.expected_tasks is not None:
            for n, op in enumerate(keys.workload):
                if op.delete_batch > 1:
                    text = f"delete_batch contradicts expected_tasks of stage {stage.name!r}, which counts operations; remove one of them"
                    self._problems.add(("workload", n, "delete_batch"), text)
        return Stage(
            stage.name,
            kind,
            concurrency,
            duration_s,
            warmup_s,
            tuple(mix),
            io_rate=paced,
            ramp_s=keys.ramp_up,
            steady=steady,
            tasks=stage.expected_tasks,
        )

    def _check_end(self, stage: StageKeys, kind: StageKind, where: Path_, populations: Sequence[Population]) -> None:
        """What says how a stage ends must fit to its type."""
        fitting = COMPLETIONS[stage.type]
        if stage.completion is not None and stage.completion not in fitting:
            text = f"a stage of type {stage.type} ends with completion: {' or '.join(fitting)}; write that, or remove completion"
            self._problems.add((*where, "completion"), text)
        if stage.type == "execute" and stage.completion == "tasks_done" and stage.expected_tasks is None:
            text = "completion: tasks_done of an execute stage needs expected_tasks: how many operations it has; set it"
            self._problems.add((*where, "completion"), text)
        if stage.expected_tasks is not None and kind is not StageKind.EXECUTE:
            text = f"expected_tasks has no meaning for a stage of type {stage.type}; it belongs to hybrid and execute"
            self._problems.add((*where, "expected_tasks"), text)
        if stage.max_duration is not None and stage.type != "hybrid":
            text = f"max_duration belongs to hybrid; write {'duration' if kind is StageKind.EXECUTE else 'timeout_secs'}"
            self._problems.add((*where, "max_duration"), text)
        if stage.duration is not None and stage.type == "hybrid":
            self._problems.add((*where, "duration"), "a stage of type hybrid has max_duration; write that")
        made = sum(population.count for population in populations)
        pooled = sum(population.count for population in populations if not population.name.startswith("deletable"))
        if stage.expected_objects is not None and kind is StageKind.PREPARE and stage.expected_objects not in (made, pooled):
            text = f"expected_objects is {stage.expected_objects:,}, but prepare makes {made:,} objects; correct one of them"
            self._problems.add((*where, "expected_objects"), text)
        if kind is StageKind.CUSTOM and not stage.command:
            self._problems.add(where, "a stage of type custom needs a command: the program that each agent runs; set command, and args")
        elif kind is StageKind.CUSTOM and not stage.args and len((stage.command or "").split()) > 1:
            text = f"command is one program, found {stage.command!r}; give its arguments in args (for a shell: /bin/sh, args: [-c, ...])"
            self._problems.add((*where, "command"), text)
        for name in ("command", "args"):
            if kind is not StageKind.CUSTOM and getattr(stage, name):
                self._problems.add((*where, name), f"{name} has no meaning for a stage of type {stage.type}; it belongs to custom")
        lasts_s = (stage.max_duration if stage.type == "hybrid" else stage.duration or self._keys.duration) or 0.0
        if stage.timeout_secs is not None and kind is StageKind.EXECUTE and stage.timeout_secs <= lasts_s:
            text = f"timeout_secs ({stage.timeout_secs:g} s) is over before stage {stage.name!r} ({lasts_s:g} s); raise it, or remove it"
            self._problems.add((*where, "timeout_secs"), text)

    def _steady(self, stage: StageKeys, where: Path_, warmup_s: float, duration_s: float) -> Steady | None:
        """When a stage is taken as steady; its own keys go before those of the file, all of them."""
        keys = stage.steady or self._keys.steady
        at: Path_ = (*where, "steady") if stage.steady is not None else ("steady",)
        if keys is None or not keys.enabled:
            return None
        found = Steady(keys.window, keys.slope, keys.spread, keys.min_duration, keys.metric, keys.confirm)
        if found.window_s % found.round_s:
            text = f"steady.window ({found.window_s:g} s) is no whole number of rounds, which are {found.round_s} s long"
            self._problems.add((*at, "window"), f"{text} (5 s from 25 s on)")
        needed_s = warmup_s + max(found.window_s + (found.confirm - 1) * found.round_s, found.min_duration_s)
        if needed_s >= duration_s:
            text = f"stage {stage.name!r} is not steady before {needed_s:g} s (warm-up, then window or min_duration)"
            self._problems.add(at, f"{text}, and its duration is {duration_s:g} s; raise duration, which is the upper limit")
        return found

    def _in_flight(self, stage: str, concurrency: int) -> int:
        """What an execute stage can have in flight: fewer than its concurrency when each operation has a smaller one of its own."""
        for n, op in enumerate(self._keys.workload):
            if op.concurrency is not None and op.concurrency > concurrency:
                text = f"{op.concurrency} {op.op} operations in flight are more than stage {stage!r} has in all ({concurrency})"
                self._problems.add(("workload", n, "concurrency"), f"{text}; raise concurrency")
        own = [op.concurrency for op in self._keys.workload if op.weight]
        return min(concurrency, sum(n or concurrency for n in own)) if own else concurrency

    def policy(self, agents: int, overridden: bool) -> FailurePolicy:
        """What happens when agents are lost; combinations that make no sense are refused."""
        keys = self._keys.distributed
        barriers = Barriers(self._keys)
        given = "failure_policy" in keys.model_fields_set
        name = keys.failure_policy if given else barriers.policy(agents) or keys.failure_policy
        contradiction = barriers.contradiction(name) if given and not overridden else None
        if contradiction is not None:
            self._problems.add(*contradiction)
        where: Path_ = ("distributed", "failure_policy")
        least = keys.min_agents_required
        survives = name in ("best_effort", "continue_if_majority")
        if least is not None and least > agents:
            self._problems.add(
                ("distributed", "min_agents_required"),
                f"min_agents_required is {least}, but there are {agents} agents; lower it, or add hosts",
            )
        if least is not None and not survives:
            text = f"min_agents_required has no effect with failure_policy {name}: it needs every agent"
            self._problems.add(("distributed", "min_agents_required"), f"{text}; use failure_policy: best_effort, or remove it")
        if name == "continue_if_majority" and agents < 3:
            self._problems.add(where, f"continue_if_majority with {agents} agents: the loss of one leaves no majority; use best_effort")
        if keys.agent_retry_attempts is not None and name in ("fail_fast", "retry_once"):
            text = f"agent_retry_attempts contradicts failure_policy {name}; use failure_policy: retry"
            self._problems.add(("distributed", "agent_retry_attempts"), text)
        return FailurePolicy(
            name, least or 1, keys.agent_retry_attempts, keys.agent_retry_delay_s, 120.0, keys.reconnect_timeout, keys.reassign_on_loss
        )

    def agent_barrier_timeout_s(self) -> float:
        """Our own key goes before those of barriers."""
        keys = self._keys.distributed
        own = "agent_barrier_timeout" in keys.model_fields_set
        return keys.agent_barrier_timeout if own else Barriers(self._keys).agent_barrier_timeout_s or keys.agent_barrier_timeout

    def controller_loss(self) -> tuple[str, float]:
        """on_controller_loss, and the time of stop_after in seconds."""
        name, _, after = self._keys.distributed.on_controller_loss.partition(":")
        if not after:
            return name, 0.0
        try:
            return name, float(units.duration(after.strip()))
        except ValueError as error:
            self._problems.add(("distributed", "on_controller_loss"), f"on_controller_loss: {error}")
            return name, 0.0

    def endpoints(self, uris: Sequence[str]) -> Endpoints:
        """What multi_endpoint says."""
        found = Endpoints(self._keys, uris[0].partition("://")[0] if uris else "", uris, self._problems)
        found.check_places()
        found.check_combinations()
        return found

    def target(self, uris: Sequence[str], endpoints: Endpoints) -> Target:
        """How the storage is reached; all URIs of a file must be of one scheme."""
        keys = self._keys
        schemes = sorted({uri.partition("://")[0] for uri in uris})
        if len(schemes) > 1:
            self._problems.add(
                ("target",), f"one run has one kind of target; found {' and '.join(schemes)}: give each a workload file of its own"
            )
        cloud.check_sections(keys, schemes, self._problems)
        if schemes != ["s3"] or keys.engine == "boto3":
            for where in _batched(keys):
                self._problems.add(where, "delete_batch needs s3:// targets and the native engine; remove it")
        if len(schemes) == 1 and schemes[0] in cloud.SECTION:
            return cloud.cloud_target(keys, schemes[0], self._problems)
        if schemes != ["s3"]:
            return self._files(schemes[0] if len(schemes) == 1 else "", endpoints)
        for name in ("fsync", "page_cache_mode"):
            if getattr(keys, name) not in ("none", "auto"):
                self._problems.add((name,), f"{name} has no meaning for s3:// targets: it is about files; remove it")
        s3 = keys.s3
        # One of several is just the endpoint.
        url, several = (endpoints.addresses[0], ()) if len(endpoints.addresses) == 1 else (s3.endpoint_url, tuple(endpoints.addresses))
        dotted = any("." in uri.removeprefix("s3://").partition("/")[0] for uri in uris)
        path_style = s3.addressing_style == "path" or (s3.addressing_style == "auto" and (bool(url or several) or dotted))
        wrong = check_url(s3.endpoint_url) if s3.endpoint_url is not None else None
        if wrong is not None:
            self._problems.add(("s3", "endpoint_url"), wrong)
        given = [name for name in ("sign_payload", "profile", "credentials_file") if getattr(s3, name)]
        if s3.anonymous and given:
            self._problems.add(("s3", given[0]), f"s3.anonymous and s3.{given[0]} contradict each other: nothing is signed; remove one")
        return Target(
            "boto3" if keys.engine == "boto3" else "s3",
            url,
            s3.region,
            path_style,
            s3.verify_tls,
            s3.ca_file,
            s3.sign_payload,
            keys.verify_reads,
            s3.anonymous,
            self._ranges(),
            self._multipart(),
            several,
            checksum=self._checksum(),
            expect_continue=s3.expect_continue,
        )

    def _files(self, scheme: str, endpoints: Endpoints) -> Target:
        """Files of one scheme, or of none when something is wrong with it."""
        keys = self._keys
        if "s3" in keys.model_fields_set and scheme:
            self._problems.add(("s3",), f"s3 has no meaning for {scheme}:// targets")
        if keys.range_engine.enabled and scheme:
            self._problems.add(("range_engine",), f"range_engine has no meaning for {scheme}:// targets; set enabled: false")
        if keys.engine == "boto3":
            self._problems.add(("engine",), "engine: boto3 needs s3:// targets")
        if scheme == "direct" and keys.page_cache_mode != "auto":
            text = (
                f"page_cache_mode: {keys.page_cache_mode} contradicts direct://, which goes past the page cache; remove it, or use file://"
            )
            self._problems.add(("page_cache_mode",), text)
        several = tuple(endpoints.addresses) if len(endpoints.addresses) > 1 else ()
        return Target("file", verify_reads=keys.verify_reads, endpoints=several, fsync=keys.fsync, page_cache=keys.page_cache_mode)

    def _checksum(self) -> str:
        s3 = self._keys.s3
        if self._keys.engine == "boto3":
            for name in [key for key in ("checksum", "expect_continue") if getattr(s3, key) not in (None, "none")]:
                self._problems.add(("s3", name), f"s3.{name} needs the native engine; remove it")
        if s3.checksum == "none":
            return ""
        if s3.multipart_threshold is not None:
            text = "s3.checksum and s3.multipart_threshold contradict each other: parts of uploads are sent without a checksum; remove one"
            self._problems.add(("s3", "checksum"), text)
        return s3.checksum

    def _multipart(self) -> Multipart | None:
        s3 = self._keys.s3
        given = sorted({"multipart_chunksize", "multipart_concurrency"} & s3.model_fields_set)
        if s3.multipart_threshold is None:
            for name in given:
                self._problems.add(
                    ("s3", name), f"s3.{name} has no effect without s3.multipart_threshold: the size from which on it counts"
                )
            return None
        if self._keys.engine == "boto3":
            text = "s3.multipart_threshold needs the native engine: boto3 puts an object with one PUT here; remove it"
            self._problems.add(("s3", "multipart_threshold"), text)
        if s3.anonymous:
            text = "s3.multipart_threshold and s3.anonymous contradict each other: S3 allows nobody to begin a multipart upload; remove one"
            self._problems.add(("s3", "multipart_threshold"), text)
        return Multipart(s3.multipart_threshold, s3.multipart_chunksize, s3.multipart_concurrency)

    def _ranges(self) -> Ranges | None:
        keys = self._keys.range_engine
        if not keys.enabled:
            return None
        if self._keys.engine == "boto3":
            self._problems.add(
                ("range_engine",), "range_engine needs the native engine: boto3 reads an object with one GET; set enabled: false"
            )
        return Ranges(keys.chunk_size, keys.max_concurrent_ranges, keys.min_split_size, keys.range_timeout_secs)


def _batched(keys: WorkloadKeys) -> Iterator[Path_]:
    """Where a file asks for deletes of several objects at once."""
    if keys.prepare.delete_batch > 1:
        yield "prepare", "delete_batch"
    for n, op in enumerate(keys.workload):
        if op.delete_batch > 1:
            yield "workload", n, "delete_batch"
    for where, stages in ((("stages",), keys.stages), (("distributed", "stages"), keys.distributed.stages)):
        for n, stage in enumerate(stages):
            if stage.delete_batch > 1:
                yield *where, n, "delete_batch"


def _size(law: SizeLaw) -> SizeSpec:
    if law.type == "lognormal":
        return SizeSpec("lognormal", law.min, law.max, float(law.mean or 0), float(law.std_dev or 0))
    if law.type == "histogram":
        buckets = tuple((bucket.size.min, bucket.size.max) for bucket in law.buckets)
        sums = tuple(accumulate(bucket.weight for bucket in law.buckets))
        return SizeSpec("histogram", min(low for low, _ in buckets), max(high for _, high in buckets), buckets=buckets, cumulative=sums)
    return SizeSpec("fixed" if law.min == law.max else law.type, law.min, law.max)
