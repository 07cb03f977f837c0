"""The keys of a workload file and their types. What they mean together is compile.py's business."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from .. import dataset
from ..model import Tree
from . import units

Duration = Annotated[float, BeforeValidator(units.duration)]
Size = Annotated[int, BeforeValidator(units.size)]
Count = Annotated[int, BeforeValidator(units.count)]
ShareOrBool = Annotated[float, BeforeValidator(units.share_or_bool)]
Share = Annotated[float, BeforeValidator(units.share)]
Fill = Literal["random", "zero", "prand"]
DedupFactor = Annotated[float, Field(ge=1, le=dataset.MOST["dedup_factor"])]
CompressFactor = Annotated[float, Field(ge=1, le=dataset.MOST["compress_factor"])]
DeleteBatch = Annotated[int, Field(ge=1, le=1000)]
MAX_OBJECT = 5 * 1024**4
MAX_OBJECTS = 10**12
NAME = r"^[A-Za-z0-9_.-]{1,40}$"
CONTROLLER_LOSS = r"^(continue|stop|stop_after: *\S+)$"
ACCOUNT = r"^[a-z0-9]{3,24}$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
PathTemplate = Annotated[str, BeforeValidator(units.path_template)]
PATTERNS = {
    VARIABLE: "the name of an environment variable",
    ACCOUNT: "3 to 24 lower-case letters and digits",
    NAME: "1 to 40 letters, digits, '_', '.' and '-'",
    CONTROLLER_LOSS: "continue, stop or 'stop_after: 10m'",
}


SCHEMES = ("s3", "file", "direct", "az", "gs", "gcs")


def _like(pattern: str, expected: str) -> Callable[..., Any]:
    """What editors are told of a text; load() and compile_plan() look closer, and say more when it is wrong."""
    extra: dict[str, Any] = {"pattern": pattern, "patternErrorMessage": f"expected {expected}"}
    return lambda *examples: Field(json_schema_extra=extra, examples=list(examples))


_uri = _like(
    "^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/|$)|(file|direct):///.|az://[a-z0-9](-?[a-z0-9]){2,62}(/|$)"
    "|gc?s://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/|$))",
    "a URI such as s3://bucket/prefix/ or file:///path/",
)
_path = _like(f"^(({'|'.join(SCHEMES)})://|(?!.*://))", "a path below target, or a whole URI")
_url = _like("^https?://[^/]", "http://host:port or https://host")
_endpoint = _like("^((https?|s3)://[^/]|file:///)", "http(s)://host:port, s3://host:port/bucket/ or file:///mnt/a/")


class Section(BaseModel):
    """Unknown keys are errors, and so are values of another type."""

    # The text below a key is its description: for editors (json_schema.py), and so for users.
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
    short: ClassVar[Any] = None
    """The type of what may stand for a mapping of the keys."""
    only_for: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys that have a meaning only beside some values of the one that says what it is; compile.py refuses others, with the reason."""
    needs: ClassVar[dict[str, tuple[tuple[str, ...], ...]]] = {}
    """Of each of these groups of keys one must be there, by the value of the one that says what it is; under '' always."""


class BucketRange(Section):
    """Sizes of a bucket, uniform between both."""

    short: ClassVar[Any] = Size

    min: Size
    """Smallest size of the bucket."""
    max: Annotated[Size, Field(le=MAX_OBJECT)]
    """Largest size of the bucket."""

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return value
        n = units.size(value)
        return {"min": n, "max": n}

    @model_validator(mode="after")
    def _check(self) -> BucketRange:
        if self.min > self.max:
            raise ValueError(f"min ({units.size_words(self.min)}) is greater than max ({units.size_words(self.max)}); exchange them")
        return self


class Bucket(Section):
    """A bucket of a histogram: size is one size, or {min, max}."""

    size: BucketRange
    """One size, or {min, max}: uniform between both."""
    weight: Annotated[int, Field(ge=1)]
    """How many objects it gets, relative to the other buckets."""


class SizeLaw(Section):
    """size_spec: a plain size, {fixed: S}, {type: fixed, size: S}, {uniform: {min, max}}, {type: uniform, min, max},
    {type: lognormal, mean, std_dev, min, max} or {type: histogram, buckets: [{size, weight}]}."""

    short: ClassVar[Any] = Size
    needs: ClassVar = {"uniform": (("max",),), "lognormal": (("mean",), ("std_dev",)), "histogram": (("buckets",),)}
    only_for: ClassVar = {"min": ("fixed", "uniform", "lognormal"), "max": ("fixed", "uniform", "lognormal"), "buckets": ("histogram",)}

    type: Literal["fixed", "uniform", "lognormal", "histogram"]
    """How sizes are distributed."""
    min: Size = 0
    """No object is smaller."""
    max: Size = MAX_OBJECT
    """No object is larger."""
    mean: Size | None = None
    """Mean of lognormal sizes."""
    std_dev: Size | None = None
    """Standard deviation of lognormal sizes."""
    buckets: list[Bucket] = []
    """Sizes with weights, for type: histogram."""

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            n = units.size(value)
            return {"type": "fixed", "min": n, "max": n}
        if set(value) == {"fixed"}:
            n = units.size(value["fixed"])
            return {"type": "fixed", "min": n, "max": n}
        if value.get("type") == "fixed" and set(value) == {"type", "size"}:
            n = units.size(value["size"])
            return {"type": "fixed", "min": n, "max": n}
        for name in ("uniform", "lognormal", "histogram"):
            if set(value) == {name} and isinstance(value[name], dict):
                return {"type": name, **value[name]}
        if "type" not in value:
            raise ValueError("expected a size such as 4KiB, or a mapping with type: fixed, uniform, lognormal or histogram; add the type")
        return value

    @model_validator(mode="after")
    def _check(self) -> SizeLaw:
        if self.type == "histogram":
            return self._check_histogram()
        if self.buckets:
            raise ValueError(f"buckets have no meaning for type: {self.type}; write type: histogram")
        if self.type == "fixed" and self.min != self.max:
            raise ValueError("type: fixed needs one size; write size_spec: 4KiB")
        if self.type == "uniform" and self.max == MAX_OBJECT:
            raise ValueError("type: uniform needs min and max")
        if self.type == "lognormal" and (self.mean is None or self.std_dev is None or self.mean < 1):
            raise ValueError("type: lognormal needs mean (at least 1) and std_dev")
        if self.min > self.max:
            raise ValueError(f"min ({units.size_words(self.min)}) is greater than max ({units.size_words(self.max)}); exchange them")
        if self.type != "lognormal" and self.max > MAX_OBJECT:
            raise ValueError(f"{units.size_words(self.max)} is more than an object can have ({units.size_words(MAX_OBJECT)})")
        return self

    def _check_histogram(self) -> SizeLaw:
        if not self.buckets:
            raise ValueError("type: histogram needs buckets, for example buckets: [{size: 4KiB, weight: 70}, {size: 1MiB, weight: 30}]")
        beside = sorted({"min", "max", "mean", "std_dev"} & self.model_fields_set)
        if beside:
            raise ValueError(f"{beside[0]} has no meaning for type: histogram; sizes are those of its buckets")
        return self


class KeySelectionKeys(Section):
    """key_selection of get, stat and copy: a mapping, or only uniform, zipf, sequential or partitioned."""

    short: ClassVar[Any] = Literal["uniform", "zipf", "sequential", "partitioned"]

    distribution: Literal["uniform", "zipf", "sequential"] = "uniform"
    """uniform: each object is as likely; zipf: a few are hot; sequential: one after the other."""
    theta: Annotated[float, Field(gt=0, le=2)] | None = None
    """Skew of zipf; the higher, the hotter. YCSB's 0.99 by default."""
    partitioned: bool = False
    """An agent takes only the objects that it owns."""
    overlap: Share = 0.0
    """Share of a partitioned agent's operations that take any object."""

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, value: Any) -> Any:
        if value == "partitioned":
            return {"partitioned": True}
        if isinstance(value, dict):
            return value
        if value not in ("uniform", "zipf", "sequential"):
            raise ValueError(f"expected uniform, zipf, sequential, partitioned or a mapping of keys, found {value!r}")
        return {"distribution": value}

    @model_validator(mode="after")
    def _check(self) -> KeySelectionKeys:
        if self.theta is not None and self.distribution != "zipf":
            raise ValueError(f"theta has no meaning for distribution: {self.distribution}; write distribution: zipf")
        if self.overlap and not self.partitioned:
            raise ValueError("overlap has no effect without partitioned: true")
        if self.overlap and self.distribution == "sequential":
            raise ValueError("overlap contradicts distribution: sequential, which takes one object after the other")
        return self


class Sized(Section):
    """What has a size_spec, which sai3-bench also calls size_distribution."""

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "size_distribution" not in value:
            return value
        if "size_spec" in value:
            raise ValueError("size_distribution is another name of size_spec; give one of them")
        return {("size_spec" if key == "size_distribution" else key): item for key, item in value.items()}


class OperationKeys(Sized):
    """An entry of workload."""

    needs: ClassVar = {"put": (("object_size", "size_spec"),)}
    only_for: ClassVar = {
        **dict.fromkeys(("object_size", "size_spec", "dedup_factor", "compress_factor"), ("put",)),
        "key_selection": ("get", "stat", "copy"),
        "recursive": ("rmdir",),
        "delete_batch": ("delete",),
        "delimiter": ("list",),
    }

    op: Literal["get", "put", "list", "stat", "delete", "copy", "mkdir", "rmdir"]
    """What is done. mkdir and rmdir need files, copy needs s3:// or files."""
    path: Annotated[str, _path("data/", "data/*")]
    """Below target: a prefix that ends in /, or a pattern with *."""
    weight: Annotated[int, Field(ge=0)]
    """How often, relative to the other operations; 0 is never."""
    object_size: Size | None = None
    """Size of what a put writes; the same as size_spec with one size."""
    size_spec: SizeLaw | None = None
    """Sizes of what a put writes: 4KiB, or a distribution."""
    fill: Fill = "random"
    """Data of a put: random (incompressible; prand is the same), or zero."""
    key_selection: KeySelectionKeys | None = None
    """Which of the prepared objects a get, stat or copy takes."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """At most so many of this operation are in flight per agent."""
    dedup_factor: DedupFactor = 1.0
    """Data of a put deduplicates so many times, in units of 64 KiB."""
    compress_factor: CompressFactor = 1.0
    """Data of a put compresses so many times."""
    recursive: bool = False
    """rmdir removes what is in the directory, too."""
    delete_batch: DeleteBatch = 1
    """Objects that one request deletes (s3://, native engine)."""
    delimiter: Literal["/"] | None = None
    """A list of one level, as of a directory; without it all names below the path."""


class EnsureObjects(Sized):
    """An entry of prepare.ensure_objects."""

    needs: ClassVar = {"": (("size_spec", "min_size", "max_size"),)}

    base_uri: Annotated[str, _path("data/")] = ""
    """Where the objects are: a prefix below target, or a whole URI; by default the target itself."""
    count: Annotated[Count, Field(ge=0, le=MAX_OBJECTS)] = 0
    """How many objects; left out with prepare.directory_structure, which says it."""
    min_size: Size | None = None
    """Smallest size; sai3-bench's older spelling of size_spec."""
    max_size: Size | None = None
    """Largest size; sai3-bench's older spelling of size_spec."""
    size_spec: SizeLaw | None = None
    """Sizes of the objects: 4KiB, or a distribution."""
    fill: Fill = "random"
    """Data: random (incompressible; prand is the same), or zero."""
    dedup_factor: DedupFactor = 1.0
    """Data deduplicates so many times, in units of 64 KiB."""
    compress_factor: CompressFactor = 1.0
    """Data compresses so many times."""


class DirectoryStructure(Section):
    """prepare.directory_structure: a tree of directories for the objects of each entry."""

    width: Annotated[int, Field(ge=1, le=1_000_000)]
    """Directories on the first level, and within each directory."""
    depth: Annotated[int, Field(ge=1, le=100)]
    """Levels of directories."""
    files_per_dir: Annotated[Count, Field(ge=1)]
    """Files in each directory that has some."""
    distribution: Literal["bottom", "all"] = "bottom"
    """Files only on the lowest level, or on all."""
    dir_mask: Annotated[str, Field(json_schema_extra={"pattern": "^[^%/]*%d[^%/]*%d[^%/]*$"})] = Tree.dir_mask
    """Names of directories: %d twice, for level and number."""

    @model_validator(mode="after")
    def _check(self) -> DirectoryStructure:
        if self.dir_mask.count("%d") != 2 or self.dir_mask.count("%") != 2 or "/" in self.dir_mask:
            raise ValueError(f"expected a dir_mask with %d twice (level and number), no other % and no /, found {self.dir_mask!r}")
        return self


class Prepare(Section):
    """prepare."""

    ensure_objects: list[EnsureObjects] = []
    """Sets of objects that are made before the load."""
    directory_structure: DirectoryStructure | None = None
    """Spreads the objects of each entry over a tree of directories."""
    cleanup: bool = False
    """All objects of the run are deleted at its end."""
    cleanup_only: bool = False
    """Only the stages of type cleanup: for what an earlier run has left."""
    cleanup_mode: Literal["strict", "tolerant", "besteffort"] | None = None
    """A missing object is an error in strict (default) and none in tolerant (default of cleanup_only); besteffort: no error ends it."""
    delete_batch: DeleteBatch = 1
    """Objects that one request of that cleanup deletes (s3://, native engine)."""
    key_prefix_shards: Annotated[int, Field(ge=0, le=256)] = 0
    """Spreads names over so many prefixes, such as 00/ to ff/; 0 is none."""
    post_prepare_delay: Annotated[Duration, Field(ge=0)] = 0.0
    """A pause of all agents between a prepare stage and the next one."""
    prepare_strategy: Literal["sequential", "parallel"] = "sequential"
    """One entry of ensure_objects after the other, or all together."""
    skip_verification: bool = False
    """The objects are taken as there: no prepare stage, unless force_overwrite is true."""
    force_overwrite: bool = False
    """Prepare puts all objects although skip_verification is true."""


class IoRateKeys(Section):
    """io_rate: an open loop. iops 0 or max is a closed one."""

    iops: Annotated[float, BeforeValidator(units.rate), Field(ge=0)] = 0.0
    """Operations per second that begin on each agent; 0 or max: the next begins when one has ended."""
    distribution: Literal["exponential", "uniform", "deterministic"] = "exponential"
    """Times between operations: exponential (Poisson), uniform, or always the same."""


class SteadyKeys(Section):
    """steady: an execute stage ends before its duration when it is steady. false switches it off for one stage, true has all defaults."""

    short: ClassVar[Any] = bool

    enabled: bool = True
    """false switches it off."""
    window: Annotated[Duration, Field(ge=5)] = 60.0
    """Time in which the figure must be steady."""
    slope: Annotated[Share, Field(gt=0)] = 0.02
    """The line of best fit changes by at most this share of the mean within the window."""
    spread: Annotated[Share, Field(gt=0)] = 0.05
    """Highest and lowest round of the window are at most this share of the mean apart."""
    min_duration: Annotated[Duration, Field(ge=0)] = 60.0
    """So long is measured at least, after the warm-up."""
    metric: Literal["ops", "bytes"] = "ops"
    """Operations or bytes per second."""
    confirm: Annotated[int, Field(ge=1)] = 1
    """So many windows in succession must be steady."""

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value


class ErrorHandling(Section):
    """error_handling; 0 as a limit means none."""

    max_total_errors: Annotated[int, Field(ge=0)] = 100
    """More errors than that fail an agent; 0 is no limit."""
    error_rate_threshold: Annotated[float, Field(ge=0)] = 5.0
    """More errors per second than that fail an agent; 0 is no limit."""
    error_rate_window: Annotated[Duration, Field(gt=0)] = 1.0
    """Time over which errors per second are counted."""
    backoff_duration: Annotated[Duration, Field(ge=0)] | None = None
    """A worker pauses so long beyond error_rate_threshold; not given: it ends the stage."""
    retry_on_error: bool = True
    """Operations that fail are tried again."""
    max_retries: Annotated[int, Field(ge=0)] = 3
    """How often one operation is tried again."""
    initial_retry_delay_ms: Annotated[int, Field(ge=0)] = 100
    """Milliseconds before the first retry."""
    max_retry_delay_ms: Annotated[int, Field(ge=0)] = 5000
    """Milliseconds that no retry waits longer than."""
    retry_backoff_multiplier: Annotated[float, Field(ge=1)] = 2.0
    """Each further retry waits so many times longer."""
    retry_jitter_factor: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Waits vary by this share of themselves at random."""


class S3(Section):
    """s3: how the storage is reached."""

    endpoint_url: Annotated[str, _url("https://s3.example.net", "http://10.0.0.1:9000")] | None = None
    """URL of the server; none is AWS."""
    region: str = "us-east-1"
    """Region for which requests are signed."""
    addressing_style: Literal["path", "virtual", "auto"] = "auto"
    """path: host/bucket; virtual: bucket.host; auto: path for anything but AWS."""
    verify_tls: bool = True
    """Certificates of the server are verified."""
    ca_file: str | None = None
    """File with the certificates to trust, on each host."""
    sign_payload: bool = False
    """The SHA-256 of each body is signed; otherwise UNSIGNED-PAYLOAD."""
    profile: str | None = None
    """Profile of your AWS configuration whose credentials are used."""
    credentials_file: str | None = None
    """File in AWS's format whose credentials are used, on your machine."""
    anonymous: bool = False
    """Nothing is signed."""
    multipart_threshold: Annotated[Size, Field(ge=1)] | None = None
    """Objects of at least this size are put in parts (native engine)."""
    multipart_chunksize: Annotated[Size, Field(ge=5 * 1024**2, le=5 * 1024**3)] = 8 * 1024**2
    """Size of a part."""
    multipart_concurrency: Annotated[int, Field(ge=1, le=1024)] = 10
    """Parts of one object in flight; they are beyond concurrency."""
    checksum: Literal["none", "crc32", "sha256", "crc32c", "crc64nvme"] = "none"
    """Checksum that bodies of puts carry, and that reads are compared with (native engine)."""
    expect_continue: Annotated[Size, Field(ge=1)] | None = None
    """Bodies of at least this size are sent when the server has asked for them, or after 1 s (native engine)."""


class CloudParts(Section):
    """What azure and gcs have in common."""

    endpoint_url: Annotated[str, _url("http://127.0.0.1:10000/devstoreaccount1")] | None = None
    """What container or bucket names are appended to; for emulators and private endpoints."""
    multipart_threshold: Annotated[Size, Field(ge=1)] | None = None
    """Objects of at least this size are put in parts."""
    multipart_chunksize: Annotated[Size, Field(ge=5 * 1024**2, le=4000 * 1024**2)] = 8 * 1024**2
    """Size of a part."""
    multipart_concurrency: Annotated[int, Field(ge=1, le=1024)] = 10
    """Parts of one object in flight; they are beyond concurrency."""


class Azure(CloudParts):
    """azure: how az:// targets are reached."""

    account: Annotated[str, Field(pattern=ACCOUNT)] | None = None
    """Storage account; otherwise that of the environment, AZURE_STORAGE_ACCOUNT."""


class Gcs(CloudParts):
    """gcs: how gs:// targets are reached."""


class RangeEngine(Section):
    """range_engine: large objects are read as parallel GETs of ranges."""

    enabled: bool = False
    """true switches it on."""
    chunk_size: Annotated[Size, Field(ge=1)] = 64 * 1024**2
    """Bytes that one GET reads."""
    max_concurrent_ranges: Annotated[int, Field(ge=1, le=1024)] = 16
    """Ranges of one object in flight; they are beyond concurrency."""
    min_split_size: Annotated[Size, Field(ge=1)] = 16 * 1024**2
    """Smaller objects are read with one GET."""
    range_timeout_secs: Annotated[Duration, Field(gt=0)] = 30.0
    """After so long a range is asked for again."""


class DeadlineKeys(Section):
    """deadlines of one attempt."""

    connect: Annotated[Duration, Field(gt=0)] = 10.0
    """Until a connection is there."""
    first_byte: Annotated[Duration, Field(gt=0)] = 60.0
    """Until the response begins."""
    total: Annotated[Duration, Field(gt=0)] = 300.0
    """Until the operation is done."""


class MultiEndpoint(Section):
    """multi_endpoint: addresses of the same storage."""

    strategy: Literal["round_robin", "least_connections"] = "round_robin"
    """Endpoints in turn, or the one with the fewest operations in flight."""
    endpoints: Annotated[list[Annotated[str, _endpoint("http://10.0.0.1:9000", "file:///mnt/a/")]], Field(min_length=1, max_length=32)]
    """http(s)://host:port, s3://host:port/bucket/prefix/, or mount points such as file:///mnt/a/."""


class PhaseBarrier(Section):
    """A barrier of sai3-bench; see barriers.py. Only its type is text."""

    type: Literal["all_or_nothing", "majority", "best_effort"] = "all_or_nothing"
    """Who must come: as failure_policy retry, continue_if_majority or best_effort."""
    heartbeat_interval: Duration | None = None
    """No meaning here: set distributed.heartbeat_interval."""
    missed_threshold: int | None = None
    """No meaning here: a link is given up after three heartbeats."""
    query_timeout: Duration | None = None
    """No meaning here."""
    query_retries: int | None = None
    """No meaning here."""
    agent_barrier_timeout: Annotated[Duration, Field(gt=0)] | None = None
    """The same as distributed.agent_barrier_timeout."""

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value


class BarrierSync(Section):
    """distributed.barrier_sync."""

    enabled: bool = False
    """Whether the types below choose the failure_policy; stages begin together in any case."""
    default_heartbeat_interval: Duration | None = None
    """No meaning here: set distributed.heartbeat_interval."""
    default_missed_threshold: int | None = None
    """No meaning here: a link is given up after three heartbeats."""
    default_query_timeout: Duration | None = None
    """No meaning here."""
    default_query_retries: int | None = None
    """No meaning here."""
    timeout_seconds: Duration | None = None
    """No meaning here."""
    validation: PhaseBarrier | None = None
    """Of verify stages."""
    prepare: PhaseBarrier | None = None
    """Of prepare stages."""
    execute: PhaseBarrier | None = None
    """Of execute stages."""
    cleanup: PhaseBarrier | None = None
    """Of cleanup stages."""


class PerfLog(Section):
    """perf_log: perf_log.tsv of the run directory, which is always written."""

    enabled: bool = True
    """No meaning here: it is always written."""
    path: str | None = None
    """No meaning here: it is perf_log.tsv of the run directory."""
    interval: Annotated[Duration, Field(gt=0)] = 1.0
    """A row has so much time."""


class AgentKeys(Section):
    """An entry of distributed.agents: a host of the inventory, by name."""

    address: str | None = None
    """Name or address of a host of the inventory; a port after it is ignored."""
    id: str | None = None
    """Name of a host of the inventory."""
    multi_endpoint: MultiEndpoint | None = None
    """Endpoints that this agent uses, instead of those of the file."""
    concurrency_override: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Of this agent, in all stages."""
    target_override: str | None = None
    """Of this agent, instead of target."""
    path_template: PathTemplate | None = None
    """As distributed.path_template, for this agent."""
    env: dict[Annotated[str, Field(pattern=VARIABLE)], Annotated[str, BeforeValidator(units.text)]] = {}
    """Environment variables of this agent's workers; no secrets."""

    @model_validator(mode="after")
    def _check(self) -> AgentKeys:
        if not self.address and not self.id:
            raise ValueError("an agent needs id or address: the name of a host in the inventory")
        return self


class StageKeys(Section):
    """A stage, with its own fields beside name or under config."""

    only_for: ClassVar = {
        "duration": ("execute",),
        "steady": ("execute", "hybrid"),
        "delete_batch": ("cleanup",),
        "max_duration": ("hybrid",),
        "command": ("custom",),
    }

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the stage, in results and file names."""
    type: Literal["prepare", "execute", "cleanup", "verify", "validation", "hybrid", "custom"]
    """What is done. validation is verify, or, before a prepare stage, preflight's; hybrid is execute with expected_tasks."""
    order: int | None = None
    """Stages run in this order; without it as they are written."""
    duration: Annotated[Duration, Field(gt=0)] | None = None
    """Of an execute stage; the file's duration by default."""
    max_duration: Annotated[Duration, Field(gt=0)] | None = None
    """hybrid only."""
    expected_tasks: Annotated[Count, Field(ge=1)] | None = None
    """execute and hybrid: the stage ends when all agents together have done so many operations."""
    expected_objects: Annotated[Count, Field(ge=0)] | None = None
    """prepare: must be what it makes."""
    completion: Literal["duration", "tasks_done", "validation_passed", "script_exit", "duration_or_tasks"] | None = None
    """How the stage ends, which its type says already; must fit."""
    timeout_secs: Annotated[Duration, Field(gt=0)] | None = None
    """An agent whose stage is not over so long after its start has failed."""
    barrier: PhaseBarrier | None = None
    """How many agents must come to the end of the stage; all barriers together choose the failure_policy."""
    optional: bool = False
    """Its failure on an agent does not fail the run."""
    command: str | None = None
    """custom: the program that each agent runs once."""
    args: list[Annotated[str, BeforeValidator(units.text)]] = []
    """custom: what the program is given."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Operations in flight per agent; the file's concurrency by default."""
    delete_batch: DeleteBatch = 1
    """Objects that one request of a cleanup deletes (s3://, native engine)."""
    steady: SteadyKeys | None = None
    """An execute stage ends when it is steady; goes before that of the file."""

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("config"), dict):
            both = sorted(set(value["config"]) & set(value))
            if both:
                raise ValueError(f"{both[0]} is given both beside config and under it; remove one of them")
            rest = {key: item for key, item in value.items() if key != "config"}
            return {**rest, **value["config"]}
        return value


class Distributed(Section):
    """distributed."""

    agents: list[AgentKeys] = []
    """Hosts of the inventory that take part; all by default."""
    start_delay: Annotated[Duration, Field(ge=0.2)] = 2.0
    """From the order to start until all agents start together."""
    agent_ready_timeout: Annotated[Duration, Field(gt=0)] = 120.0
    """An agent that is not ready by then has failed."""
    agent_barrier_timeout: Annotated[Duration, Field(gt=0)] = 900.0
    """An agent waits so long at the end of a stage for the next."""
    heartbeat_interval: Annotated[Duration, Field(ge=0.1, le=60)] = 1.0
    """A link is taken as broken after three of these without a sign of life."""
    reconnect_timeout: Annotated[Duration, Field(ge=1)] = 600.0
    """An agent that is away for longer is lost."""
    controller_cutoff_timeout: Annotated[Duration, Field(gt=0)] = 86400.0
    """A controller that reaches nothing for so long gives the run up."""
    failure_policy: Literal["fail_fast", "retry_once", "retry", "best_effort", "continue_if_majority"] = "retry"
    """What a lost agent means for the run; best_effort and continue_if_majority go on without it."""
    min_agents_required: Annotated[int, Field(ge=1)] | None = None
    """With fewer agents a best_effort or continue_if_majority run has failed."""
    agent_retry_attempts: Annotated[int, Field(ge=1)] | None = None
    """Rounds of reconnecting after which an agent is lost; none: only reconnect_timeout counts."""
    agent_retry_delay_s: Annotated[Duration, Field(gt=0)] = 10.0
    """Before the second round of reconnecting; it grows from round to round."""
    reassign_on_loss: bool = True
    """What a lost agent had not prepared is prepared by the others."""
    min_coverage: Share = 1.0
    """Share of all agent-seconds that COMPLETE needs."""
    on_controller_loss: Annotated[str, Field(pattern=CONTROLLER_LOSS, examples=["continue", "stop", "stop_after: 10m"])] = "continue"
    """What agents do when no controller is heard: go on, stop, or stop after a time."""
    path_selection: Literal["random", "partitioned", "exclusive", "weighted"] = "random"
    """Which objects gets and stats of an agent take; sai3-bench's spelling of key_selection."""
    partition_overlap: Share | None = None
    """Share of operations that take any object, for partitioned and weighted; 0.3 by default."""
    path_template: PathTemplate | None = None
    """What an agent puts is below it, such as agent-{id}/."""
    barrier_sync: BarrierSync = BarrierSync()
    """Barriers of sai3-bench, by kind of stage."""
    stages: list[StageKeys] = []
    """The same as stages at the top of the file."""


class WorkloadKeys(Section):
    """The whole file."""

    name: Annotated[str, Field(pattern=NAME)] = "run"
    """Name of the run, at the beginning of its id."""
    target: Annotated[str, _uri("s3://bench-bucket/run1/", "file:///mnt/test/", "az://container/prefix/")] | None = None
    """URI that all paths are below: s3://, file://, direct:// (O_DIRECT), az:// or gs://."""
    duration: Annotated[Duration, Field(gt=0)] = 60.0
    """Of execute stages."""
    concurrency: Annotated[int, Field(ge=1, le=65536)] = 16
    """Operations in flight per agent."""
    workload: list[OperationKeys] = []
    """Operations of execute stages, with weights."""
    prepare: Prepare = Prepare()
    """What is there before the load, and whether it is deleted afterwards."""
    io_rate: IoRateKeys = IoRateKeys()
    """An open loop: operations begin when they are due."""
    warmup_period: Annotated[Duration, Field(ge=0)] = 0.0
    """Beginning of an execute stage that is in no figure."""
    ramp_up: Annotated[Duration, Field(ge=0)] = 0.0
    """Concurrency or rate grows from nothing for so long; part of the warm-up."""
    steady: SteadyKeys | None = None
    """Execute stages end before their duration when they are steady."""
    error_handling: ErrorHandling = ErrorHandling()
    """Retries, and how many errors fail an agent."""
    stages: list[StageKeys] = []
    """What is done in which order; by default prepare, execute and cleanup, as far as the file asks for them."""
    distributed: Distributed = Distributed()
    """Agents, timeouts, and what a lost agent means."""
    s3: S3 = S3()
    """How s3:// targets are reached."""
    azure: Azure = Azure()
    """How az:// targets are reached."""
    gcs: Gcs = Gcs()
    """How gs:// targets are reached."""
    range_engine: RangeEngine = RangeEngine()
    """Large objects are read as parallel ranges (s3://, native engine)."""
    engine: Literal["native", "boto3"] = "native"
    """boto3 checks the native S3 engine against another."""
    fsync: Literal["none", "file", "directory"] = "none"
    """What a put of files waits for: nothing, the file's data, or its directory too."""
    page_cache_mode: Literal["auto", "sequential", "random", "dontneed", "normal"] = "auto"
    """Advice to the kernel about reads of file:// (posix_fadvise); dontneed drops files from the page cache."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes per agent; 0: one per core."""
    pin_workers: bool = False
    """Each process stays on a core of its own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed gives other data and another order."""
    verify_reads: ShareOrBool = 0.0
    """Gets compare what they read with what was written: true, or a share such as 5%."""
    dynamic_put_pool: bool = False
    """Gets also take what their worker has put in this run."""
    timing_splits: bool = True
    """Latencies by their parts: connect, TLS, first byte, transfer (native S3 engine)."""
    multi_endpoint: MultiEndpoint | None = None
    """Several addresses of the same storage."""
    perf_log: PerfLog = PerfLog()
    """Figures over time."""
    matrix: dict[str, list[Any]] = {}
    """Values by key: the file is then one workload for each combination of them."""
    op_log_path: str | None = None
    """Any text has every operation written down, as agents/<id>/oplog.tsv.zst of the run directory."""
    op_log_max_bytes: Annotated[Size, Field(ge=1024**2)] = 4 * 1024**3
    """Of the op-log on each agent, compressed; what is more is dropped and told."""
    deadlines: DeadlineKeys = DeadlineKeys()
    """Of one attempt of an operation."""
    target_outage_timeout: Annotated[Duration, Field(ge=0)] = 600.0
    """Prepare waits so long for a storage that is away."""


_UNITS: dict[Any, str] = {
    units.size: "bytes",
    units.duration: "s",
    units.rate: "operations/s",
    units.share: "share",
    units.share_or_bool: "share",
    units.count: "",
}


def unit_of(key: FieldInfo) -> str:
    """What a key is counted in, by what reads its figure; empty for all else."""

    def found(annotations: list[Any]) -> str:
        for one in annotations:
            if isinstance(one, BeforeValidator):
                return _UNITS.get(one.func, "")
            unit = found([*get_args(one), *getattr(one, "__metadata__", ())])
            if unit:
                return unit
        return ""

    return found([key.annotation, *key.metadata])


NO_MEANING = {
    "processes": "one worker process per core is the rule here; set workers",
    "processing_mode": "workers are always processes here",
    "s3dlio_optimization": "it tunes another engine",
    "grpc_keepalive_interval": "there is no gRPC here; set distributed.heartbeat_interval",
    "grpc_keepalive_timeout": "there is no gRPC here; a link is given up after three heartbeats",
    "ssh": "users, keys and ports come from the inventory and ssh_config",
    "deployment": "the agent is uploaded by the run",
    "listen_port": "agents open no port",
    "tree_creation_mode": "each agent makes the directories that its own objects need, when the first one needs them",
    "use_multi_endpoint": "all operations go to the endpoints of multi_endpoint, where it is given",
    "enable_metadata_cache": "it tunes another engine; names of objects are computed here, and no list of them is kept",
    "cache_checkpoint_interval_secs": "it tunes another engine; what is prepared is in each agent's journal at once",
    "kv_cache_dir": "it tunes another engine; there is no such cache here",
    "volumes": "agents are no containers of the run; mount what they use on the hosts, and where the role runs the agent in a "
    "container, in sai3ssh_agent_container_options of the inventory",
    "shared_filesystem": "objects are divided among the agents in any case; where an agent sees only its own files, give get and stat "
    "key_selection: partitioned",
}
"""Keys that can have no meaning here: accepted, with a notice."""

SECRET = {
    "access_key", "access_key_id", "aws_access_key_id", "secret_key", "secret_access_key",
    "aws_secret_access_key", "session_token", "password",
    "account_key", "azure_storage_key", "sas_token", "azure_storage_sas_token",
    "bearer_token", "service_account", "service_account_key", "private_key",
}  # fmt: skip
