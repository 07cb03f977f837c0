"""Files as users of sai3-bench have them, of each kind: they are valid, and mean what they meant there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sai3ssh import config
from sai3ssh.model import IoRate, KeySelection, Plan, Ranges, Spread
from tests.unit.test_config import HOSTS
from tests.unit.test_json_schema import errors

DIRECTORY = Path(__file__).parent / "data" / "sai3bench"
MEANING: dict[str, tuple[Callable[[Plan], Any], Any]] = {
    "mixed": (
        lambda p: ([(q.name, q.count, q.size.kind, q.shards) for q in p.populations], [s.name for s in p.stages], p.stages[1].warmup_s),
        # A mix of delete with get has two pools.
        ([(name, 10**6, "uniform", 256) for name in ("prepared", "deletable")], ["prepare", "execute", "cleanup"], 30.0),
    ),
    "stages-and-barriers": (
        lambda p: ([(s.name, s.kind.value) for s in p.stages], p.policy.name),
        (
            [
                ("hook", "custom"),
                ("fill", "prepare"),
                ("fill-delay", "pause"),
                ("load", "execute"),
                ("read", "execute"),
                ("check", "verify"),
                ("clean", "cleanup"),
            ],
            "retry",
        ),
    ),
    "distributed-stages": (
        lambda p: (p.agents, [(s.name, s.kind.value, s.duration_s) for s in p.stages], p.policy.name, p.stages[1].operations[0].keys),
        (
            ("h1", "h2", "h3"),
            [
                ("preload", "prepare", None),
                ("warm", "execute", 600.0),
                ("measure", "execute", 86400.0),
                ("check", "verify", None),
                ("remove", "cleanup", None),
            ],
            "best_effort",
            KeySelection(partitioned=True, overlap=0.3),
        ),
    ),
    "trees": (
        lambda p: (p.populations[0].count, p.populations[0].size.max, p.target.page_cache, [op.kind for op in p.stages[1].operations]),
        (100 * (10 + 100 + 1000), 32000, "dontneed", ["get", "stat", "list", "mkdir", "rmdir"]),
    ),
    "multi-endpoint": (
        lambda p: (p.target.endpoints, p.spreads),
        (
            tuple(f"http://10.0.0.{n}:9000" for n in range(1, 5)),
            (Spread((0, 1, 2, 3), "least_connections"), Spread((2, 3)), Spread((0, 1, 2, 3), "least_connections")),
        ),
    ),
    "rates": (
        lambda p: (
            p.stages[1].io_rate,
            p.op_log_bytes,
            p.error_limits.max_total_errors,
            p.retry.max_retries,
            p.populations[0].dedup_factor,
        ),
        (IoRate(2500.0, "deterministic"), 4 << 30, 1000, 5, 2.0),
    ),
    "sizes": (
        lambda p: [(q.count, q.size.kind, q.size.min, q.size.max) for q in p.populations],
        [
            (100, "fixed", 65536, 65536),
            (1000, "fixed", 1_500_000, 1_500_000),
            (1000, "fixed", 1024, 1024),
            (100, "fixed", 32000, 32000),
            (100, "uniform", 4096, 65536),
            (100, "uniform", 1000, 1_000_000),
            (100, "lognormal", 1024, 10 << 20),
            (100, "uniform", 0, 1 << 30),
            (100, "fixed", 8 << 20, 8 << 20),
        ],
    ),
    "large-objects": (
        lambda p: (p.target.ranges, [op.put_pool for op in p.stages[1].operations]),
        (Ranges(64 << 20, 16, 16 << 20, 30.0), [True, False]),
    ),
    "small-files": (
        lambda p: ([q.count for q in p.populations], p.stages[1].io_rate, p.stages[1].duration_s, p.retry.max_retries, p.agents),
        ([60, 60], IoRate(300.0, "uniform"), 2.0, 0, ("h1", "h2")),
    ),
}
KEYS = """
target duration warmup_period concurrency page_cache_mode processes processing_mode s3dlio_optimization prepare ensure_objects
base_uri count min_size max_size size_spec fill dedup_factor compress_factor cleanup key_prefix_shards directory_structure width
depth files_per_dir distribution dir_mask workload op path weight object_size recursive fixed uniform type min max mean std_dev
io_rate iops error_handling max_total_errors error_rate_threshold error_rate_window retry_on_error max_retries
initial_retry_delay_ms max_retry_delay_ms retry_backoff_multiplier retry_jitter_factor op_log_path multi_endpoint strategy
endpoints range_engine enabled chunk_size max_concurrent_ranges min_split_size range_timeout_secs dynamic_put_pool distributed
agents address id listen_port ssh deployment start_delay shared_filesystem tree_creation_mode path_selection partition_overlap
agent_ready_timeout grpc_keepalive_interval grpc_keepalive_timeout stages name order config
args backoff_duration barrier barrier_sync cache_checkpoint_interval_secs cleanup_mode cleanup_only command completion concurrency_override
enable_metadata_cache env expected_objects expected_tasks force_overwrite max_duration optional path_template perf_log interval
post_prepare_delay prepare_strategy skip_verification target_override timeout_secs volumes heartbeat_interval missed_threshold
"""
"""sai3-bench's keys."""


def keys_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from keys_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_in(item)


def test_each_file_has_a_test_and_each_key_is_in_a_file() -> None:
    files = {file.stem: yaml.safe_load(file.read_text()) for file in DIRECTORY.glob("*.yml")}
    assert set(files) == set(MEANING)
    assert set(KEYS.split()) - set(keys_in(list(files.values()))) == set()


@pytest.mark.parametrize("name", MEANING)
def test_it_means_what_it_meant_there(name: str) -> None:
    file = DIRECTORY / f"{name}.yml"
    loaded = config.load(file, {})
    plan, assignments = config.compile_plan(loaded, "r", HOSTS)
    look, expected = MEANING[name]
    assert look(plan) == expected
    assert config.describe(plan, assignments, loaded).seconds > 0
    assert config.settings(loaded)
    assert errors(file.read_text()) == []
