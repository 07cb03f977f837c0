"""The values that controller and agents share: the compiled plan, sizes, intervals, states.

Everything here is immutable, plain data; `to_json` and `from_json` carry it over a channel. Standard library only, Python 3.9 and later.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

OPERATIONS = ("get", "put", "list", "stat", "delete", "copy", "mkdir", "rmdir")
"""Operation kinds; the position is the code used in shared memory and journals are keyed by the name."""

NAMING = ("put", "copy")
"""Those that make objects with new names, which a cleanup removes."""

BUCKET_BOUNDS = (0, 8 * KIB, 64 * KIB, 512 * KIB, 4 * MIB, 32 * MIB, 256 * MIB, 2 * GIB)
"""Inclusive upper bounds in bytes of size buckets 0 to 7; bucket 8 holds what is larger."""

BUCKET_LABELS = ("zero", "1B-8KiB", "8KiB-64KiB", "64KiB-512KiB", "512KiB-4MiB", "4MiB-32MiB", "32MiB-256MiB", "256MiB-2GiB", ">2GiB")

ERROR_CLASSES = (
    "http_400", "http_401", "http_403", "http_404", "http_409", "http_412", "http_416", "http_429", "http_4xx",
    "http_500", "http_502", "http_503", "http_504", "http_5xx", "http_3xx",
    "timeout_connect", "timeout_first_byte", "timeout_total",
    "refused", "reset", "dns", "tls", "short_read", "protocol", "verify",
    "not_found", "permission", "no_space", "io", "other", "not_empty",
)  # fmt: skip
"""Classes by which failed attempts are counted; the position is the code in shared memory. The http_* classes with digits are single
statuses,
http_4xx and http_5xx the remaining ones of their hundred; not_found to io, and not_empty, are errors of file systems."""


SPLIT_PARTS = ("queue", "connect", "tls", "first_byte", "transfer")
"""What the latency of an operation is made of, in this order; see agent.engines.base.Task.split."""


def bucket_of(size_bytes: int) -> int:
    """The size bucket, 0 to 8, of an object of size_bytes."""
    for bucket, bound in enumerate(BUCKET_BOUNDS):
        if size_bytes <= bound:
            return bucket
    return len(BUCKET_BOUNDS)


def http_error_class(status: int) -> str:
    """The error class of an HTTP status that is not a success."""
    name = f"http_{status}"
    return name if name in ERROR_CLASSES else f"http_{status // 100}xx" if 3 <= status // 100 <= 5 else "protocol"


class StageKind(str, enum.Enum):
    """What the agents do in a stage."""

    PREPARE = "prepare"
    EXECUTE = "execute"
    CLEANUP = "cleanup"
    VERIFY = "verify"
    REPLAY = "replay"
    PAUSE = "pause"
    CUSTOM = "custom"


class AgentState(str, enum.Enum):
    """The controller's view of one agent. UNREACHABLE is of the link, not of the agent: it has a start and an end."""

    CONNECTING = "CONNECTING"
    READY = "READY"
    ARMED = "ARMED"
    COMMITTED = "COMMITTED"
    RUNNING = "RUNNING"
    AT_BARRIER = "AT_BARRIER"
    FINISHED = "FINISHED"
    UNREACHABLE = "UNREACHABLE"
    AWAITING_CREDENTIALS = "AWAITING_CREDENTIALS"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    LOST = "LOST"


class Outcome(str, enum.Enum):
    """How one agent's part of a run ended; the `outcome` of the journal's final record."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


class Verdict(str, enum.Enum):
    """How a run ended."""

    COMPLETE = "COMPLETE"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"

    @property
    def exit_code(self) -> int:
        """The exit code of the process that reports this verdict."""
        return {"COMPLETE": 0, "PARTIAL": 3, "FAILED": 4}[self.value]


@dataclasses.dataclass(frozen=True)
class SizeSpec:
    """The law of object sizes in bytes: fixed (min == max), uniform on [min, max], lognormal with mean and std_dev of the size itself,
    clipped to [min, max], or histogram: a mix of buckets, uniform in each, with min and max over all."""

    kind: str
    min: int
    max: int
    mean: float = 0.0
    std_dev: float = 0.0
    buckets: Tuple[Tuple[int, int], ...] = ()
    """histogram only: smallest and largest size of each."""
    cumulative: Tuple[int, ...] = ()
    """histogram only: for each bucket its weight and those of the buckets before it."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """Directories that the objects of a population are spread over: `width` of them on the first level, and as many in each down to
    level `depth`."""

    width: int
    depth: int
    files_per_dir: int
    everywhere: bool = False
    """Objects are in directories of all levels; else only in those of the last."""
    dir_mask: str = "sai3bench.d%d_w%d.dir"
    """printf format of a directory's name: its level, and its number among its neighbours, both from 1."""

    @property
    def objects(self) -> int:
        """How many objects fill the tree."""
        levels = range(1 if self.everywhere else self.depth, self.depth + 1)
        return self.files_per_dir * sum(int(self.width**level) for level in levels)


@dataclasses.dataclass(frozen=True)
class Population:
    """A set of objects that prepare creates. Name, size and bytes of each are functions of (population, index), 0 <= index < count."""

    name: str
    target: str
    """URI that every key is appended to, for example s3://bucket/prefix/ (ends in '/')."""
    key_format: str
    """printf format of the index, for example prepared-%08d.dat."""
    count: int
    size: SizeSpec
    seed: int
    fill: str = "random"
    """random or zero."""
    shards: int = 0
    """With N > 0 the key begins with the two-digit hexadecimal of index modulo N and '/'."""
    tree: Optional[Tree] = None
    """The key begins with a path of directories, see dataset.key_of; without shards only."""
    dedup_factor: float = 1.0
    """N: one block in N is distinct; see dataset. 1 is no two alike."""
    compress_factor: float = 1.0
    """N: the bytes compress N:1; see dataset. 1 is incompressible."""


@dataclasses.dataclass(frozen=True)
class KeySelection:
    """Which objects of their population get and stat take."""

    distribution: str = "uniform"
    """uniform, zipf (a few objects are asked for again and again) or sequential."""
    theta: float = 0.0
    """zipf only: the exponent; an object's share is proportional to its rank ** -theta."""
    partitioned: bool = False
    """Only objects that the agent owns."""
    overlap: float = 0.0
    """partitioned only: the share of operations that take any object all the same."""


@dataclasses.dataclass(frozen=True)
class OperationSpec:
    """One kind of operation in the mix of an execute stage."""

    kind: str
    weight: int
    target: str
    """URI: of the objects (get, stat, delete, copy: the population's, below which copy also writes), of the prefix that list lists, or that
    put, mkdir and rmdir change."""
    population: Optional[str] = None
    """Name of the population that get, stat, delete and copy draw from."""
    size: Optional[SizeSpec] = None
    """put only: the law of the sizes written."""
    fill: str = "random"
    keys: Optional[KeySelection] = None
    """get, stat and copy only; None: uniform over the whole population."""
    concurrency: Optional[int] = None
    """At most so many of these in flight per agent, split over its workers; None: as many as the stage has."""
    put_pool: bool = False
    """get only: it also takes objects that the same worker has put below the same target in this run."""
    dedup_factor: float = 1.0
    """put only, as compress_factor: as in Population. Blocks are alike among the objects of one worker."""
    compress_factor: float = 1.0
    recursive: bool = False
    """rmdir only: with everything that is in the directory."""
    delimiter: str = ""
    """list only: '/' lists one level, in which what lies in a directory counts once."""
    delete_batch: int = 1
    """delete only: at most so many objects are deleted with one request; see agent/batches.py."""


@dataclasses.dataclass(frozen=True)
class IoRate:
    """The rate of an open loop: operations begin when they are due, and latency counts from that moment."""

    iops: float
    """Operations per second and agent, split over its workers."""
    distribution: str = "exponential"
    """Of the gaps between operations: exponential, uniform (on [0, 2/iops]) or deterministic."""


@dataclasses.dataclass(frozen=True)
class Steady:
    """When an execute stage is taken as steady, and ends before its duration. The formulas are in controller/steady.py."""

    window_s: float = 60.0
    """What is looked at: the last seconds, a whole number of rounds."""
    slope: float = 0.02
    """At most this share of the mean may the line of best fit change over the window."""
    spread: float = 0.05
    """At most this share of the mean may the highest and the lowest round be apart."""
    min_duration_s: float = 60.0
    """So much is measured at least, after the warm-up."""
    metric: str = "ops"
    """ops or bytes, per second."""
    confirm: int = 1
    """So many windows in succession, each a round later, must be steady."""

    @property
    def round_s(self) -> int:
        """Length of the means that the window is made of: 5 s where it has five of them, else 1 s."""
        return 5 if self.window_s >= 25 else 1


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a replay stage does: the rows of a trace, of which each worker of each agent has a file of its own (agent/replay.py)."""

    target: str
    """All keys are below it."""
    operations: Tuple[str, ...]
    """The kinds that the trace has."""
    records: int
    """Rows, over all agents."""
    put_bytes: int
    """What the rows put, over all agents."""
    largest_bytes: int
    """The largest object."""
    speed: Optional[float] = 1.0
    """An operation begins at its time in the trace, divided by this; None: when another one has ended."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage. All agents enter it together."""

    name: str
    kind: StageKind
    concurrency: int
    """Operations in flight per agent, split over its workers."""
    duration_s: Optional[float] = None
    """execute, pause, and a replay with a speed."""
    warmup_s: float = 0.0
    """execute only: the first seconds, measured apart and not in the results."""
    operations: Tuple[OperationSpec, ...] = ()
    populations: Tuple[str, ...] = ()
    """prepare, verify and cleanup: names of the populations."""
    barrier: str = "all_or_nothing"
    io_rate: Optional[IoRate] = None
    """execute only: None is a closed loop, in which the next operation begins when one has ended."""
    ramp_s: float = 0.0
    """execute only: the first seconds, part of warmup_s, in which the concurrency of a closed loop, or the rate of an open one, grows
    linearly from nothing."""
    delete_batch: int = 1
    """cleanup only: at most so many objects are deleted with one request."""
    cleanup_mode: str = "strict"
    """cleanup only: strict (a missing object is an error), tolerant (it is none) or besteffort (no error ends the stage)."""
    interleaved: bool = False
    """prepare only: populations are filled together, in proportion; else one after the other."""
    tasks: Optional[int] = None
    """execute only: the stage ends when so many operations over all agents, each its share, have ended, warm-up and errors included;
    where it has a duration, too, at what comes first."""
    timeout_s: Optional[float] = None
    """An agent whose stage is not over so long after its start has failed."""
    optional: bool = False
    """An agent whose stage fails ends that stage, and goes on with the next one."""
    command: Tuple[str, ...] = ()
    """custom only: a program and its arguments, run once by each agent."""
    steady: Optional[Steady] = None
    """execute only: ends the stage, on all agents at once, when all of them together are steady; duration_s is the latest end."""
    replay: Optional[Replay] = None
    """replay only. Its duration_s is None unless it has a speed."""


@dataclasses.dataclass(frozen=True)
class Retry:
    """How one operation that met 429, 5xx or a connection error is tried again. Delays are exponential with jitter."""

    max_retries: int = 3
    initial_delay_s: float = 0.1
    max_delay_s: float = 5.0
    multiplier: float = 2.0
    jitter: float = 0.25

    def delay_s(self, attempt: int) -> float:
        """The delay, without jitter, after so many attempts that were made again; for any number of them."""
        try:
            return min(self.max_delay_s, self.initial_delay_s * self.multiplier**attempt)
        except OverflowError:
            return self.max_delay_s


@dataclasses.dataclass(frozen=True)
class Deadlines:
    """Deadlines of one attempt, in seconds."""

    connect_s: float = 10.0
    first_byte_s: float = 60.0
    total_s: float = 300.0


@dataclasses.dataclass(frozen=True)
class ErrorLimits:
    """When a worker gives up: failed operations in all, and per second over the window; 0 means no limit. Prepare instead backs off
    through outages."""

    max_total_errors: int = 100
    rate_per_s: float = 5.0
    rate_window_s: float = 1.0
    backoff_s: Optional[float] = None
    """So long a worker begins nothing when its rate was exceeded; None: then it gives up."""


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Objects of at least min_bytes are read as parallel GETs of ranges of chunk_bytes, at most max_concurrent of an object at once."""

    chunk_bytes: int = 64 * MIB
    max_concurrent: int = 16
    min_bytes: int = 16 * MIB
    timeout_s: float = 30.0
    """Deadline of one attempt at a range, besides that of all attempts."""


@dataclasses.dataclass(frozen=True)
class Multipart:
    """Objects of at least threshold_bytes are put as multipart uploads, at most `concurrency` parts of part_bytes of an object at once.

    Where that were more than 10,000 parts they are larger.
    """

    threshold_bytes: int
    part_bytes: int = 8 * MIB
    concurrency: int = 10


@dataclasses.dataclass(frozen=True)
class Target:
    """How the storage is reached. Credentials are never part of it."""

    engine: str
    """s3, file, boto3, obstore, or null: s3 on a server of the worker's own that keeps nothing."""
    endpoint_url: Optional[str] = None
    region: str = "us-east-1"
    path_style: bool = True
    verify_tls: bool = True
    ca_file: Optional[str] = None
    sign_payload: bool = False
    verify_reads: float = 0.0
    """The share of GETs of known objects whose bytes are compared with what was written; size is always compared."""
    anonymous: bool = False
    """Requests are not signed, and no credentials are looked for."""
    ranges: Optional[Ranges] = None
    """s3 only."""
    multipart: Optional[Multipart] = None
    """s3 and obstore only."""
    endpoints: Tuple[str, ...] = ()
    """Several addresses of the same storage, instead of endpoint_url: URLs (s3) or directories such as file:///mnt/a/ (file), which
    every URI of the plan is below one of. Any operation may go to any of them. Empty where there is one."""
    fsync: str = "none"
    """file only: what a put waits for. none, file (fdatasync) or directory (fsync of the file's directory, too)."""
    page_cache: str = "auto"
    """file only: the advice of posix_fadvise. auto (none), normal, sequential, random or dontneed."""
    checksum: str = ""
    """s3 only: crc32, sha256, crc32c or crc64nvme is sent with the bodies of PUTs, and compared on GETs that are compared anyway."""
    expect_continue: Optional[int] = None
    """s3 only: bodies of at least so many bytes are sent when the server has said 100 (Continue)."""
    account: Optional[str] = None
    """The storage account of az:// targets; None: the one that comes with the credentials."""

    @property
    def connections_per_operation(self) -> int:
        """The most that one operation uses at once."""
        ranges = self.ranges.max_concurrent if self.ranges is not None else 1
        return max(ranges, self.multipart.concurrency if self.multipart is not None else 1)


@dataclasses.dataclass(frozen=True)
class Spread:
    """How an agent spreads its operations over the endpoints of the target."""

    positions: Tuple[int, ...]
    """Of Target.endpoints, those that it uses."""
    strategy: str = "round_robin"
    """round_robin, or least_connections: where the fewest operations of the same worker are in flight."""


@dataclasses.dataclass(frozen=True)
class Own:
    """What one agent has of its own, instead of what the plan says for all."""

    concurrency: Tuple[int, ...] = ()
    """Of each stage; empty: as the plan."""
    populations: Tuple[str, ...] = ()
    """The target of each population; empty: as the plan."""
    operations: Tuple[str, ...] = ()
    """The target of each operation of the mix; empty: as the plan."""
    env: Dict[str, str] = dataclasses.field(default_factory=dict)
    """Environment variables of its workers. No secrets: a plan is a file."""


@dataclasses.dataclass(frozen=True)
class FailurePolicy:
    """What a run does when links break and agents are gone."""

    name: str = "retry"
    """fail_fast, retry_once, retry, best_effort or continue_if_majority."""
    min_agents: int = 1
    """best_effort and continue_if_majority: with fewer the run fails."""
    attempts: Optional[int] = None
    """Policy rounds after a loss before the agent is LOST; None: as many as reconnect_timeout_s allows."""
    delay_s: float = 10.0
    """Before the first round; doubles with each, with jitter."""
    max_delay_s: float = 120.0
    reconnect_timeout_s: float = 600.0
    """An agent that is unreachable for so long is LOST."""
    reassign: bool = True
    """What a lost agent had not prepared, and what it owned, goes to the survivors."""

    @property
    def survives(self) -> bool:
        """Whether a run can go on without an agent."""
        return self.name in ("best_effort", "continue_if_majority")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one run does: the same for every agent, compiled and validated by the controller. Written to plan.json on both sides."""

    run_id: str
    name: str
    target: Target
    populations: Tuple[Population, ...]
    stages: Tuple[Stage, ...]
    retry: Retry = Retry()
    deadlines: Deadlines = Deadlines()
    error_limits: ErrorLimits = ErrorLimits()
    target_outage_timeout_s: float = 600.0
    heartbeat_s: float = 1.0
    """The supervisor's heartbeat; a link is given up after three silent intervals."""
    agent_barrier_timeout_s: float = 900.0
    """How long an agent that has no link to the controller waits for a release before it stops."""
    workers: int = 0
    """Worker processes per agent; 0 means one per core."""
    pin_workers: bool = False
    """Each worker stays on one core."""
    seed: int = 0
    policy: FailurePolicy = FailurePolicy()
    lease_s: Optional[float] = None
    """Set when work can be reassigned: an agent whose contact with the controller is older stops to write what it prepares."""
    on_controller_loss: str = "continue"
    """continue, stop_after or stop."""
    controller_loss_s: float = 0.0
    """stop_after: an agent that has heard nothing from a controller for so long stops."""
    needs_credentials: bool = False
    """The operator gave credentials; after a reboot an agent waits for them again."""
    min_coverage: float = 1.0
    """What COMPLETE needs: agent-seconds measured / planned."""
    agents: Tuple[str, ...] = ()
    """Agent ids, in the order of their assignments' index."""
    timing_splits: bool = False
    """Each operation's latency is also counted by its parts, where the engine knows them."""
    spreads: Tuple[Spread, ...] = ()
    """How each agent uses the target's endpoints, in the order of `agents`; empty where there is one."""
    own: Tuple[Own, ...] = ()
    """What agents have of their own, in the order of `agents`; empty where none has anything. See of_agent."""
    op_log_bytes: Optional[int] = None
    """Each operation is written down, by an agent at most so many bytes, compressed; None: none is."""
    perf_log_interval_s: int = 1
    """What one line of perf_log.tsv is about."""

    @property
    def lingers(self) -> bool:
        """Whether an agent that has ended its last stage waits to be told so: it may be given the work of a lost one."""
        return self.policy.survives and self.policy.reassign

    def turns(self, stage: Stage) -> int:
        """How many requests of one operation of a stage follow one another at most; more than one where large objects go in parts."""
        if self.target.multipart is None and self.target.ranges is None:
            return 1
        populations = [self.population(name) for name in stage.populations]
        populations += [self.population(op.population) for op in stage.operations if op.population]
        put = [op.size.max for op in stage.operations if op.size] + [p.size.max for p in populations if stage.kind is StageKind.PREPARE]
        get = [p.size.max for p in populations if stage.kind is not StageKind.PREPARE]
        if stage.replay is not None:
            put, get = [stage.replay.largest_bytes], [stage.replay.largest_bytes]
        most = 1
        if self.target.multipart is not None:
            part = self.target.multipart
            # One more each for its beginning and its end.
            most = max([most] + [2 - (-size // part.part_bytes // part.concurrency) for size in put if size >= part.threshold_bytes])
        if self.target.ranges is not None:
            ranges = self.target.ranges
            most = max([most] + [-(-size // ranges.chunk_bytes // ranges.max_concurrent) for size in get if size >= ranges.min_bytes])
        return most

    @property
    def journal_bytes_per_s(self) -> int:
        """About as much as one agent journals; most of it is histograms."""
        endpoints = max((len(spread.positions) for spread in self.spreads), default=len(self.target.endpoints))
        return 1024 + (512 if self.timing_splits else 0) + 512 * endpoints

    def spread_of(self, index: int) -> Optional[Spread]:
        """How the agent of that index spreads its operations; None where the target has one endpoint."""
        if not self.target.endpoints:
            return None
        return self.spreads[index] if self.spreads else Spread(tuple(range(len(self.target.endpoints))))

    def of_agent(self, index: int) -> Plan:
        """The plan as it is for the agent of that index."""
        if not self.own:
            return self
        own = self.own[index]
        populations, stages = self.populations, self.stages
        if own.populations:
            populations = tuple(dataclasses.replace(p, target=uri) for p, uri in zip(populations, own.populations))
        if own.concurrency:
            stages = tuple(dataclasses.replace(stage, concurrency=n) for stage, n in zip(stages, own.concurrency))
        if own.operations:
            moved = [tuple(dataclasses.replace(op, target=uri) for op, uri in zip(stage.operations, own.operations)) for stage in stages]
            stages = tuple(dataclasses.replace(stage, operations=mix) for stage, mix in zip(stages, moved))
        return dataclasses.replace(self, populations=populations, stages=stages, own=())

    def population(self, name: str) -> Population:
        """The population of that name; raises KeyError."""
        for population in self.populations:
            if population.name == name:
                return population
        raise KeyError(name)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What one agent owns in a run."""

    agent_id: str
    index: int
    """0 to agents - 1."""
    agents: int
    ranges: Dict[str, Tuple[Tuple[int, int], ...]]
    """Population name to half-open index ranges [lo, hi)."""


@dataclasses.dataclass(frozen=True)
class CommandKey:
    """Identity of a command: the same key twice is one command."""

    run_id: str
    generation: int
    controller: str
    sequence: int


@dataclasses.dataclass(frozen=True)
class Host:
    """One inventory host: who to connect to and how."""

    name: str
    address: str
    port: int = 0
    """0: as ssh_config says, else 22."""
    user: Optional[str] = None
    connection: str = "ssh"
    """ssh or local."""
    key_file: Optional[str] = None
    ssh_args: str = ""
    """ansible_ssh_common_args and ansible_ssh_extra_args, for jump hosts and options."""
    python: str = "python3"
    state_dir: Optional[str] = None
    """Where the agent keeps its runs; None: /var/lib/sai3ssh when deployed, else ~/.local/state/sai3ssh."""
    ports: Tuple[int, ...] = ()
    """TCP ports of other services there that must be reached; preflight looks at them."""


def share(count: int, index: int, parts: int) -> Tuple[int, int]:
    """The half-open range that part `index` of `parts` owns of range(count): contiguous, sizes differ by at most one."""
    return count * index // parts, count * (index + 1) // parts


def assign(populations: Iterable[Population], agents: Sequence[str]) -> List[Assignment]:
    """Who owns what: contiguous, nearly equal ranges of each population, in the order of the agents."""
    return [
        Assignment(name, index, len(agents), {p.name: (share(p.count, index, len(agents)),) for p in populations})
        for index, name in enumerate(agents)
    ]


class Intervals:
    """A set of integers kept as disjoint, sorted, half-open ranges."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: Iterable[Iterable[int]] = ()) -> None:
        self._ranges: List[Tuple[int, int]] = []
        for lo, hi in ranges:
            self.add(lo, hi)

    def add(self, lo: int, hi: int) -> None:
        """Adds [lo, hi); an empty range adds nothing."""
        if lo >= hi:
            return
        keep: List[Tuple[int, int]] = []
        for a, b in self._ranges:
            if b < lo or a > hi:
                keep.append((a, b))
            else:
                lo, hi = min(a, lo), max(b, hi)
        keep.append((lo, hi))
        keep.sort()
        self._ranges = keep

    def subtract(self, other: Intervals) -> Intervals:
        """The numbers that are here and not in the other."""
        result = Intervals()
        for lo, hi in self._ranges:
            for a, b in other._ranges:
                if b <= lo or a >= hi:
                    continue
                if lo < a:
                    result.add(lo, a)
                lo = max(lo, b)
                if lo >= hi:
                    break
            result.add(lo, hi)
        return result

    def split(self, parts: int) -> List[Intervals]:
        """`parts` sets of nearly equal size, contiguous in order, that together are this one."""
        total, result = len(self), []
        bounds = [total * i // parts for i in range(parts + 1)]
        for first, last in zip(bounds, bounds[1:]):
            piece, seen = Intervals(), 0
            for lo, hi in self._ranges:
                piece.add(max(lo, lo + first - seen), min(hi, lo + last - seen))
                seen += hi - lo
            result.append(piece)
        return result

    def __len__(self) -> int:
        return sum(hi - lo for lo, hi in self._ranges)

    def __iter__(self) -> Iterator[Tuple[int, int]]:
        return iter(self._ranges)

    def __contains__(self, number: int) -> bool:
        return any(lo <= number < hi for lo, hi in self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervals) and self._ranges == other._ranges

    def __repr__(self) -> str:
        return f"Intervals({self._ranges})"


T = TypeVar("T")


def to_json(value: Any) -> Any:
    """The value as JSON data: dataclasses become objects, enums their values, tuples arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    return value


def from_json(kind: Type[T], data: Mapping[str, Any]) -> T:
    """The dataclass that to_json described. Raises ValueError, TypeError or KeyError on anything that does not fit; unknown keys do not
    fit."""
    value = _decode(kind, data)
    assert isinstance(value, kind)
    return value


def _decode(kind: Any, data: Any) -> Any:
    if kind is Any:
        return data
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:
        if data is None:
            return None
        return _decode(next(a for a in arguments if a is not type(None)), data)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_decode(arguments[0], item) for item in data)
        return tuple(_decode(a, item) for a, item in zip(arguments, data))
    if origin is dict:
        return {key: _decode(arguments[1], item) for key, item in data.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        unknown = sorted(set(data) - set(hints))
        if unknown:
            raise ValueError(f"{kind.__name__}: unknown {', '.join(unknown)}")
        return kind(**{name: _decode(hints[name], item) for name, item in data.items()})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(data)
    if kind is float and isinstance(data, int):
        # true and false too: what is a share now was yes or no in earlier plans.
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise TypeError(f"expected {kind.__name__}, found {data!r}")
    return data
