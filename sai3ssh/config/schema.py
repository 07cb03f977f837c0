"""The keys of a workload file and their types. What they mean together is compile.py's business."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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
PATTERNS = {
    ACCOUNT: "3 to 24 lower-case letters and digits",
    NAME: "1 to 40 letters, digits, '_', '.' and '-'",
    CONTROLLER_LOSS: "continue, stop or 'stop_after: 10m'",
}


class Section(BaseModel):
    """Unknown keys are errors, and so are values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class BucketRange(Section):
    """Sizes of a bucket, uniform between both."""

    min: Size
    max: Annotated[Size, Field(le=MAX_OBJECT)]

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
            raise ValueError(f"min ({self.min} bytes) is greater than max ({self.max} bytes)")
        return self


class Bucket(Section):
    """A bucket of a histogram: size is one size, or {min, max}."""

    size: BucketRange
    weight: Annotated[int, Field(ge=1)]


class SizeLaw(Section):
    """size_spec: a plain size, {fixed: S}, {uniform: {min, max}}, {type: uniform, min, max}, {type: lognormal, mean, std_dev, min, max} or
    {type: histogram, buckets: [{size, weight}]}."""

    type: Literal["fixed", "uniform", "lognormal", "histogram"]
    min: Size = 0
    max: Size = MAX_OBJECT
    mean: Size | None = None
    std_dev: Size | None = None
    buckets: list[Bucket] = []

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            n = units.size(value)
            return {"type": "fixed", "min": n, "max": n}
        if set(value) == {"fixed"}:
            n = units.size(value["fixed"])
            return {"type": "fixed", "min": n, "max": n}
        for name in ("uniform", "lognormal", "histogram"):
            if set(value) == {name} and isinstance(value[name], dict):
                return {"type": name, **value[name]}
        if "type" not in value:
            raise ValueError("expected a size such as 4KiB, or a mapping with type: fixed, uniform, lognormal or histogram")
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
            raise ValueError(f"min ({self.min} bytes) is greater than max ({self.max} bytes)")
        if self.type != "lognormal" and self.max > MAX_OBJECT:
            raise ValueError(f"{self.max} bytes is more than an object can have (5 TiB)")
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

    distribution: Literal["uniform", "zipf", "sequential"] = "uniform"
    theta: Annotated[float, Field(gt=0, le=2)] | None = None
    partitioned: bool = False
    overlap: Share = 0.0

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


class OperationKeys(Section):
    """An entry of workload."""

    op: Literal["get", "put", "list", "stat", "delete", "copy", "mkdir", "rmdir"]
    path: str
    weight: Annotated[int, Field(ge=0)]
    object_size: Size | None = None
    size_spec: SizeLaw | None = None
    fill: Fill = "random"
    key_selection: KeySelectionKeys | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    dedup_factor: DedupFactor = 1.0
    compress_factor: CompressFactor = 1.0
    recursive: bool = False
    delete_batch: DeleteBatch = 1
    delimiter: Literal["/"] | None = None


class EnsureObjects(Section):
    """An entry of prepare.ensure_objects."""

    base_uri: str
    count: Annotated[Count, Field(ge=0, le=MAX_OBJECTS)] = 0
    """0 only with prepare.directory_structure, which says it."""
    min_size: Size | None = None
    max_size: Size | None = None
    size_spec: SizeLaw | None = None
    fill: Fill = "random"
    dedup_factor: DedupFactor = 1.0
    compress_factor: CompressFactor = 1.0


class DirectoryStructure(Section):
    """prepare.directory_structure: a tree of directories for the objects of each entry."""

    width: Annotated[int, Field(ge=1, le=1_000_000)]
    depth: Annotated[int, Field(ge=1, le=100)]
    files_per_dir: Annotated[Count, Field(ge=1)]
    distribution: Literal["bottom", "all"] = "bottom"
    dir_mask: str = Tree.dir_mask

    @model_validator(mode="after")
    def _check(self) -> DirectoryStructure:
        if self.dir_mask.count("%d") != 2 or self.dir_mask.count("%") != 2 or "/" in self.dir_mask:
            raise ValueError(f"expected a dir_mask with %d twice (level and number), no other % and no /, found {self.dir_mask!r}")
        return self


class Prepare(Section):
    """prepare."""

    ensure_objects: list[EnsureObjects] = []
    directory_structure: DirectoryStructure | None = None
    cleanup: bool = False
    delete_batch: DeleteBatch = 1
    key_prefix_shards: Annotated[int, Field(ge=0, le=256)] = 0


class IoRateKeys(Section):
    """io_rate: an open loop. iops 0 or max is a closed one."""

    iops: Annotated[float, BeforeValidator(units.rate), Field(ge=0)] = 0.0
    distribution: Literal["exponential", "uniform", "deterministic"] = "exponential"


class SteadyKeys(Section):
    """steady: an execute stage ends before its duration when it is steady. false switches it off for one stage, true has all defaults."""

    enabled: bool = True
    window: Annotated[Duration, Field(ge=5)] = 60.0
    slope: Annotated[Share, Field(gt=0)] = 0.02
    spread: Annotated[Share, Field(gt=0)] = 0.05
    min_duration: Annotated[Duration, Field(ge=0)] = 60.0
    metric: Literal["ops", "bytes"] = "ops"
    confirm: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value


class ErrorHandling(Section):
    """error_handling; 0 as a limit means none."""

    max_total_errors: Annotated[int, Field(ge=0)] = 100
    error_rate_threshold: Annotated[float, Field(ge=0)] = 5.0
    error_rate_window: Annotated[Duration, Field(gt=0)] = 1.0
    retry_on_error: bool = True
    max_retries: Annotated[int, Field(ge=0)] = 3
    initial_retry_delay_ms: Annotated[int, Field(ge=0)] = 100
    max_retry_delay_ms: Annotated[int, Field(ge=0)] = 5000
    retry_backoff_multiplier: Annotated[float, Field(ge=1)] = 2.0
    retry_jitter_factor: Annotated[float, Field(ge=0, le=1)] = 0.25


class S3(Section):
    """s3: how the storage is reached."""

    endpoint_url: str | None = None
    region: str = "us-east-1"
    addressing_style: Literal["path", "virtual", "auto"] = "auto"
    verify_tls: bool = True
    ca_file: str | None = None
    sign_payload: bool = False
    profile: str | None = None
    credentials_file: str | None = None
    anonymous: bool = False
    multipart_threshold: Annotated[Size, Field(ge=1)] | None = None
    multipart_chunksize: Annotated[Size, Field(ge=5 * 1024**2, le=5 * 1024**3)] = 8 * 1024**2
    multipart_concurrency: Annotated[int, Field(ge=1, le=1024)] = 10
    checksum: Literal["none", "crc32", "sha256", "crc32c", "crc64nvme"] = "none"
    expect_continue: Annotated[Size, Field(ge=1)] | None = None


class CloudParts(Section):
    """What azure and gcs have in common."""

    endpoint_url: str | None = None
    multipart_threshold: Annotated[Size, Field(ge=1)] | None = None
    multipart_chunksize: Annotated[Size, Field(ge=5 * 1024**2, le=4000 * 1024**2)] = 8 * 1024**2
    multipart_concurrency: Annotated[int, Field(ge=1, le=1024)] = 10


class Azure(CloudParts):
    """azure: how az:// targets are reached."""

    account: Annotated[str, Field(pattern=ACCOUNT)] | None = None


class Gcs(CloudParts):
    """gcs: how gs:// targets are reached."""


class RangeEngine(Section):
    """range_engine: large objects are read as parallel GETs of ranges."""

    enabled: bool = False
    chunk_size: Annotated[Size, Field(ge=1)] = 64 * 1024**2
    max_concurrent_ranges: Annotated[int, Field(ge=1, le=1024)] = 16
    min_split_size: Annotated[Size, Field(ge=1)] = 16 * 1024**2
    range_timeout_secs: Annotated[Duration, Field(gt=0)] = 30.0


class DeadlineKeys(Section):
    """deadlines of one attempt."""

    connect: Annotated[Duration, Field(gt=0)] = 10.0
    first_byte: Annotated[Duration, Field(gt=0)] = 60.0
    total: Annotated[Duration, Field(gt=0)] = 300.0


class MultiEndpoint(Section):
    """multi_endpoint: addresses of the same storage."""

    strategy: Literal["round_robin", "least_connections"] = "round_robin"
    endpoints: Annotated[list[str], Field(min_length=1, max_length=32)]


class AgentKeys(Section):
    """An entry of distributed.agents: a host of the inventory, by name."""

    address: str | None = None
    id: str | None = None
    multi_endpoint: MultiEndpoint | None = None

    @model_validator(mode="after")
    def _check(self) -> AgentKeys:
        if not self.address and not self.id:
            raise ValueError("an agent needs id or address: the name of a host in the inventory")
        return self


class StageKeys(Section):
    """A stage, with its own fields beside name or under config."""

    name: Annotated[str, Field(pattern=NAME)]
    type: Literal["prepare", "execute", "cleanup", "verify", "validation"]
    """validation is sai3-bench's word for verify."""
    order: int | None = None
    duration: Annotated[Duration, Field(gt=0)] | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    delete_batch: DeleteBatch = 1
    steady: SteadyKeys | None = None

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("config"), dict):
            both = sorted(set(value["config"]) & set(value))
            if both:
                raise ValueError(f"{both[0]} is given both beside config and under it")
            rest = {key: item for key, item in value.items() if key != "config"}
            return {**rest, **value["config"]}
        return value


class Distributed(Section):
    """distributed."""

    agents: list[AgentKeys] = []
    start_delay: Annotated[Duration, Field(ge=0.2)] = 2.0
    agent_ready_timeout: Annotated[Duration, Field(gt=0)] = 120.0
    agent_barrier_timeout: Annotated[Duration, Field(gt=0)] = 900.0
    heartbeat_interval: Annotated[Duration, Field(ge=0.1, le=60)] = 1.0
    reconnect_timeout: Annotated[Duration, Field(ge=1)] = 600.0
    controller_cutoff_timeout: Annotated[Duration, Field(gt=0)] = 86400.0
    failure_policy: Literal["fail_fast", "retry_once", "retry", "best_effort", "continue_if_majority"] = "retry"
    min_agents_required: Annotated[int, Field(ge=1)] | None = None
    agent_retry_attempts: Annotated[int, Field(ge=1)] | None = None
    agent_retry_delay_s: Annotated[Duration, Field(gt=0)] = 10.0
    reassign_on_loss: bool = True
    min_coverage: Share = 1.0
    on_controller_loss: Annotated[str, Field(pattern=CONTROLLER_LOSS)] = "continue"
    path_selection: Literal["random", "partitioned", "exclusive", "weighted"] = "random"
    partition_overlap: Share | None = None
    stages: list[StageKeys] = []


class WorkloadKeys(Section):
    """The whole file."""

    name: Annotated[str, Field(pattern=NAME)] = "run"
    target: str | None = None
    duration: Annotated[Duration, Field(gt=0)] = 60.0
    concurrency: Annotated[int, Field(ge=1, le=65536)] = 16
    workload: list[OperationKeys] = []
    prepare: Prepare = Prepare()
    io_rate: IoRateKeys = IoRateKeys()
    warmup_period: Annotated[Duration, Field(ge=0)] = 0.0
    ramp_up: Annotated[Duration, Field(ge=0)] = 0.0
    steady: SteadyKeys | None = None
    error_handling: ErrorHandling = ErrorHandling()
    stages: list[StageKeys] = []
    distributed: Distributed = Distributed()
    s3: S3 = S3()
    azure: Azure = Azure()
    gcs: Gcs = Gcs()
    range_engine: RangeEngine = RangeEngine()
    engine: Literal["native", "boto3"] = "native"
    fsync: Literal["none", "file", "directory"] = "none"
    page_cache_mode: Literal["auto", "sequential", "random", "dontneed", "normal"] = "auto"
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    pin_workers: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    verify_reads: ShareOrBool = 0.0
    dynamic_put_pool: bool = False
    timing_splits: bool = True
    multi_endpoint: MultiEndpoint | None = None
    matrix: dict[str, list[Any]] = {}
    """Values by key: the file is then one workload for each combination of them."""
    op_log_path: str | None = None
    """Any text switches the op-log on; its place is in the run directory."""
    op_log_max_bytes: Annotated[Size, Field(ge=1024**2)] = 4 * 1024**3
    """Compressed, on each agent."""
    deadlines: DeadlineKeys = DeadlineKeys()
    target_outage_timeout: Annotated[Duration, Field(ge=0)] = 600.0


NOT_YET = {
    "args", "backoff_duration", "barrier", "barrier_sync",
    "cache_checkpoint_interval_secs", "cleanup_mode", "cleanup_only", "command", "completion",
    "concurrency_override", "enable_metadata_cache", "env",
    "expected_objects", "expected_tasks", "force_overwrite", "max_duration", "optional",
    "path_template", "perf_log", "post_prepare_delay", "prepare_strategy",
    "skip_verification", "target_override", "timeout_secs", "volumes",
}  # fmt: skip
"""Keys of sai3-bench files that have no effect here yet: an error each, so that nobody believes in one."""

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
