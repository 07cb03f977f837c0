"""Workload files: each mistake gets its line and what to do; each key has its effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sai3ssh import config
from sai3ssh.config import credentials, units
from sai3ssh.errors import ConfigError, InventoryError
from sai3ssh.model import FailurePolicy, Host, IoRate, KeySelection, Multipart, Plan, Ranges, SizeSpec, StageKind

HOSTS = [Host(f"h{n}", f"192.0.2.{n}") for n in range(1, 4)]
GOOD = """\
target: s3://bench-bucket/run/
duration: 30s
concurrency: 8
s3: {endpoint_url: "http://127.0.0.1:9000"}
prepare:
  ensure_objects:
    - {base_uri: data/, count: 1000, size_spec: 4KiB}
workload:
  - {op: get, path: data/, weight: 70}
  - {op: put, path: new/, weight: 30, size_spec: 4KiB}
"""


def compiled(text: str, tmp_path: Path, **environ: str) -> Plan:
    path = tmp_path / "w.yml"
    path.write_text(text)
    return config.compile_plan(config.load(path, environ), "r", HOSTS)[0]


def changed(**keys: Any) -> str:
    """GOOD with top-level keys replaced, or removed where the value is None."""
    data = yaml.safe_load(GOOD)
    for key, value in keys.items():
        if value is None:
            data.pop(key, None)
        else:
            data[key] = value
    return yaml.safe_dump(data, sort_keys=False)


BAD = {
    "unknown key with a near one": (
        GOOD.replace("concurrency:", "concurency:"),
        ":3:1: unknown key 'concurency'; did you mean 'concurrency'?",
    ),
    "unknown key without a near one": (GOOD + "zzz: 1\n", ":11:1: unknown key 'zzz'; known here: "),
    "unknown key in an operation": (GOOD.replace("weight: 70", "wieght: 70"), ":9:"),
    "nested unknown key": (GOOD.replace("endpoint_url", "endpoint"), ":4:6: unknown key 'endpoint'; did you mean 'endpoint_url'?"),
    "duplicate key": (GOOD + "duration: 60s\n", ":11:1: key 'duration' is given twice, first in line 2"),
    "not YAML": ("target: [\n", "not valid YAML"),
    "a tab": ("target:\n\tx: 1\n", ":2:1: not valid YAML"),
    "not a mapping": ("- a\n- b\n", "expected a mapping of keys"),
    "empty file": ("", "expected a mapping of keys"),
    "bad duration": (
        GOOD.replace("30s", "30 parsecs"),
        ":2:1: duration: expected a duration such as 90, 60s, 5m or 2h, found '30 parsecs'",
    ),
    "bad rate": (
        GOOD + "io_rate: {iops: fast}\n",
        ":11:11: io_rate.iops: expected operations per second such as 500 or max, found 'fast'",
    ),
    "rate below zero": (GOOD + "io_rate: {iops: -1}\n", ":11:11: io_rate.iops: "),
    "law of rates": (
        GOOD + "io_rate: {iops: 5, distribution: normal}\n",
        "expected 'exponential', 'uniform' or 'deterministic', found 'normal'",
    ),
    "anonymous with keys": (
        GOOD.replace("s3: {", "s3: {anonymous: true, profile: p, "),
        "s3.anonymous and s3.profile contradict each other: nothing is signed; remove one",
    ),
    "range_engine with boto3": (
        GOOD + "engine: boto3\nrange_engine: {enabled: true}\n",
        ":12:1: range_engine needs the native engine: boto3 reads an object with one GET; set enabled: false",
    ),
    "range_engine for files": (
        "target: file:///d/\nworkload:\n- {op: put, path: n/, weight: 1, object_size: 1}\nrange_engine: {enabled: true}\n",
        ":4:1: range_engine has no meaning for file:// targets; set enabled: false",
    ),
    "multipart with boto3": (
        GOOD.replace("s3: {", "s3: {multipart_threshold: 8MiB, ") + "engine: boto3\n",
        ":4:6: s3.multipart_threshold needs the native engine",
    ),
    "multipart by nobody": (
        GOOD.replace("s3: {", "s3: {multipart_threshold: 8MiB, anonymous: true, "),
        ":4:6: s3.multipart_threshold and s3.anonymous contradict each other",
    ),
    "parts without a threshold": (
        GOOD.replace("s3: {", "s3: {multipart_chunksize: 8MiB, "),
        ":4:6: s3.multipart_chunksize has no effect without s3.multipart_threshold",
    ),
    "parts smaller than S3 allows": (
        GOOD.replace("s3: {", "s3: {multipart_threshold: 1, multipart_chunksize: 4MiB, "),
        "s3.multipart_chunksize: Input should be greater than or equal to 5242880, found '4MiB'",
    ),
    "chunks of nothing": (GOOD + "range_engine: {enabled: true, chunk_size: 0}\n", ":11:31: range_engine.chunk_size: "),
    "no ranges at once": (GOOD + "range_engine: {max_concurrent_ranges: 0}\n", ":11:16: range_engine.max_concurrent_ranges: "),
    "zero duration": (GOOD.replace("30s", "0s"), ":2:1: duration: "),
    "negative concurrency": (GOOD.replace("concurrency: 8", "concurrency: -1"), ":3:1: concurrency: "),
    "text as concurrency": (GOOD.replace("concurrency: 8", "concurrency: many"), ":3:1: concurrency: "),
    "bad size": (GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1000, size_spec: 4QB"), ":7:"),
    "bad count": (GOOD.replace("count: 1000", "count: some"), "expected a whole number such as 1000000 or 1,000,000, found 'some'"),
    "zero count": (GOOD.replace("count: 1000", "count: 0"), ":7:"),
    "missing size": (GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1000"), ":7:7: the size of the objects is missing"),
    "two sizes": (GOOD.replace("count: 1000,", "count: 1000, min_size: 1KiB,"), "min_size contradicts size_spec"),
    "min above max": (
        GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1000, min_size: 8KiB, max_size: 4KiB"),
        "min_size (8192) is greater than max_size (4096)",
    ),
    "uniform min above max": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {type: uniform, min: 9, max: 3}}\nworkload"),
        "min (9 bytes) is greater than max (3 bytes)",
    ),
    "lognormal without mean": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {type: lognormal, min: 1, max: 3}}\nworkload"),
        "type: lognormal needs mean (at least 1) and std_dev",
    ),
    "histogram without buckets": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {type: histogram}}\nworkload"),
        ":7:38: prepare.ensure_objects.0.size_spec: type: histogram needs buckets, for example",
    ),
    "histogram with min": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {type: histogram, min: 1, buckets: [{size: 1, weight: 1}]}}\nworkload"),
        "min has no meaning for type: histogram",
    ),
    "bucket without weight": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {type: histogram, buckets: [{size: 1}]}}\nworkload"),
        "the key 'weight' is missing",
    ),
    "bucket of weight 0": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {type: histogram, buckets: [{size: 1, weight: 0}]}}\nworkload"),
        "buckets.0.weight: ",
    ),
    "bucket with min above max": (
        GOOD.replace(
            "size_spec: 4KiB}\nworkload", "size_spec: {type: histogram, buckets: [{size: {min: 9, max: 3}, weight: 1}]}}\nworkload"
        ),
        "buckets.0.size: min (9 bytes) is greater than max (3 bytes)",
    ),
    "buckets of another law": (
        GOOD.replace(
            "size_spec: 4KiB}\nworkload", "size_spec: {type: uniform, min: 1, max: 3, buckets: [{size: 1, weight: 1}]}}\nworkload"
        ),
        "buckets have no meaning for type: uniform",
    ),
    "object larger than S3 allows": (
        GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1, size_spec: 6TiB"),
        "more than an object can have",
    ),
    "unknown operation": (
        GOOD.replace("op: get", "op: fetch"),
        ":9:6: workload.0.op: expected 'get', 'put', 'list', 'stat' or 'delete', found 'fetch'",
    ),
    "put without size": (
        GOOD.replace(", size_spec: 4KiB}\n", "}\n").replace("count: 1000}", "count: 1000, size_spec: 1}"),
        "put needs the size",
    ),
    "get with a size": (GOOD.replace("op: get,", "op: get, object_size: 4,"), "a size has no meaning for get"),
    "get where nothing is prepared": (
        GOOD.replace("path: data/, weight: 70", "path: other/, weight: 70"),
        ":9:15: get 'other/': no objects are prepared there",
    ),
    "get of a part": (GOOD.replace("path: data/, weight: 70", "path: data/x, weight: 70"), "names a part of what is prepared"),
    "pattern for put": (GOOD.replace("path: new/", "path: 'new/*'"), "put needs a prefix, found the pattern"),
    "key selection of put": (
        GOOD.replace("path: new/,", "path: new/, key_selection: zipf,"),
        ":10:27: key_selection has no meaning for put: only get and stat choose objects",
    ),
    "unknown key selection": (
        GOOD.replace("op: get,", "op: get, key_selection: hot,"),
        ":9:15: workload.0.key_selection: expected uniform, zipf, sequential, partitioned or a mapping of keys, found 'hot'",
    ),
    "theta of 0": (GOOD.replace("op: get,", "op: get, key_selection: {distribution: zipf, theta: 0},"), "key_selection.theta: "),
    "theta above 2": (
        GOOD.replace("op: get,", "op: get, key_selection: {distribution: zipf, theta: 2.1},"),
        "key_selection.theta: Input should be less than or equal to 2, found 2.1",
    ),
    "theta of another law": (
        GOOD.replace("op: get,", "op: get, key_selection: {theta: 0.9},"),
        "theta has no meaning for distribution: uniform",
    ),
    "overlap of no partition": (
        GOOD.replace("op: get,", "op: get, key_selection: {distribution: zipf, overlap: 0.1},"),
        "overlap has no effect without partitioned: true",
    ),
    "overlap of a sequence": (
        GOOD.replace("op: get,", "op: get, key_selection: {distribution: sequential, partitioned: true, overlap: 0.1},"),
        "overlap contradicts distribution: sequential",
    ),
    "partitions without objects": (
        GOOD.replace("op: get,", "op: get, key_selection: partitioned,").replace("count: 1000", "count: 2"),
        ":6:3: 2 objects at s3://bench-bucket/run/data/ cannot be partitioned among 3 agents",
    ),
    "unknown path selection": (
        GOOD + "distributed: {path_selection: mine}\n",
        "expected 'random', 'partitioned', 'exclusive' or 'weighted', found 'mine'",
    ),
    "concurrency of an operation above that of all": (
        GOOD.replace("op: get,", "op: get, concurrency: 9,"),
        ":9:15: 9 get operations in flight are more than stage 'execute' has in all (8); raise concurrency",
    ),
    "concurrency of an operation above that of a stage": (
        GOOD.replace("op: get,", "op: get, concurrency: 5,") + "stages: [{name: few, type: execute, concurrency: 4}]\n",
        "5 get operations in flight are more than stage 'few' has in all (4)",
    ),
    "no concurrency of an operation": (GOOD.replace("op: get,", "op: get, concurrency: 0,"), ":9:15: workload.0.concurrency: "),
    "more workers than operations in flight": (
        GOOD.replace("op: get,", "op: get, concurrency: 2,").replace("op: put,", "op: put, concurrency: 1,") + "workers: 4\n",
        "4 workers share a concurrency of 3",
    ),
    "puts where no get reads": (
        GOOD + "dynamic_put_pool: true\n",
        ":11:1: dynamic_put_pool has no effect: no get reads where a put writes",
    ),
    "puts that a pattern does not match": (
        GOOD.replace("path: data/, weight: 70", "path: data/prepared-*, weight: 70").replace("path: new/", "path: data/")
        + "dynamic_put_pool: true\n",
        "no get reads where a put writes",
    ),
    "puts without a rank": (
        GOOD.replace("op: get,", "op: get, key_selection: zipf,").replace("path: new/", "path: data/") + "dynamic_put_pool: true\n",
        ":9:15: dynamic_put_pool adds objects that have no place in a zipf order",
    ),
    "all weights zero": (GOOD.replace("weight: 70", "weight: 0").replace("weight: 30", "weight: 0"), "nothing to execute"),
    "negative weight": (GOOD.replace("weight: 70", "weight: -1"), ":9:"),
    "nothing to do": ("target: file:///tmp/x/\nworkload: []\n", "nothing to do"),
    "workload missing": ("target: file:///tmp/x/\n", "nothing to do"),
    "relative without target": (changed(target=None), "'data/' is relative, but there is no target"),
    "unsupported scheme": (
        GOOD.replace("s3://bench-bucket", "ftp://bench-bucket"),
        "scheme ftp:// is not supported (s3:// and file:// are)",
    ),
    "no scheme": (GOOD.replace("s3://bench-bucket/run/", "/tmp/x"), "expected a URI such as"),
    "bad bucket": (GOOD.replace("bench-bucket", "Bench_Bucket"), "'Bench_Bucket' cannot be the name of a bucket"),
    "relative file target": (changed(target="file://x/", s3=None), "a file target needs an absolute path"),
    "two kinds of target": (GOOD.replace("path: new/", "path: 'file:///tmp/new/'"), "one run has one kind of target; found file and s3"),
    "s3 section for files": (changed(target="file:///tmp/x/"), "s3 has no meaning for file:// targets"),
    "boto3 for files": (changed(target="file:///tmp/x/", s3=None, engine="boto3"), "engine: boto3 needs s3:// targets"),
    "unknown engine": (GOOD + "engine: fast\n", ":11:1: engine: expected 'native' or 'boto3', found 'fast'"),
    "endpoint without scheme": (GOOD.replace("http://127.0.0.1:9000", "127.0.0.1:9000"), "expected http://host:port or https://host"),
    "warm-up as long as the stage": (GOOD + "warmup_period: 30s\n", ":11:1: warmup_period (30 s) leaves nothing of stage 'execute' (30 s)"),
    "ramp as long as the stage": (GOOD + "ramp_up: 1m\n", ":11:1: ramp_up (60 s) leaves nothing of stage 'execute' (30 s)"),
    "ramp in words": (GOOD + "ramp_up: slowly\n", ":11:1: ramp_up: expected a duration such as 90, 60s, 5m or 2h, found 'slowly'"),
    "more workers than concurrency": (GOOD + "workers: 9\n", "9 workers share a concurrency of 8"),
    "secret in the file": (
        GOOD.replace("endpoint_url:", "secret_key: abc, endpoint_url:"),
        ":4:6: secret_key: no secrets in workload files",
    ),
    "dedup factor below one": (
        GOOD.replace("count: 1000,", "count: 1000, dedup_factor: 0.5,"),
        ":7:38: prepare.ensure_objects.0.dedup_factor: Input should be greater than or equal to 1, found 0.5",
    ),
    "compress factor below one": (
        GOOD.replace("weight: 30,", "weight: 30, compress_factor: 0,"),
        ":10:39: workload.1.compress_factor: Input should be greater than or equal to 1, found 0",
    ),
    "absurd dedup factor": (
        GOOD.replace("weight: 30,", "weight: 30, dedup_factor: 1001,"),
        ":10:39: workload.1.dedup_factor: Input should be less than or equal to 1000, found 1001",
    ),
    "absurd compress factor": (
        GOOD.replace("count: 1000,", "count: 1000, compress_factor: 101,"),
        ":7:38: prepare.ensure_objects.0.compress_factor: Input should be less than or equal to 100, found 101",
    ),
    "endless factor": (GOOD.replace("count: 1000,", "count: 1000, compress_factor: .nan,"), "compress_factor: Input should be"),
    "factor of nothing": (
        GOOD.replace("weight: 30,", "weight: 30, dedup_factor: true,"),
        ":10:39: workload.1.dedup_factor: Input should be",
    ),
    "factor of a get": (
        GOOD.replace("weight: 70", "weight: 70, dedup_factor: 2"),
        ":9:40: dedup_factor has no meaning for get; it belongs to put, and to prepare.ensure_objects",
    ),
    "zeros that compress": (
        GOOD.replace("count: 1000,", "count: 1000, fill: zero, compress_factor: 2,"),
        ":7:50: compress_factor contradicts fill: zero, which has nothing but zeros; remove one of them",
    ),
    "zeros that deduplicate": (
        GOOD.replace("weight: 30,", "weight: 30, fill: zero, dedup_factor: 2,"),
        ":10:51: dedup_factor contradicts fill: zero",
    ),
    "more reads than there are": (
        GOOD + "verify_reads: 10\n",
        ":11:1: verify_reads: expected a share of at most 1 (100%), found 10; true is all, false none",
    ),
    "reads to verify that are no share": (
        GOOD + "verify_reads: some\n",
        ":11:1: verify_reads: expected a share such as 0.95 or 95%, found 'some'; true is all, false none",
    ),
    "key that is not supported yet": (
        GOOD + "page_cache_mode: auto\n",
        ":11:1: page_cache_mode: a key of sai3-bench that is not supported yet",
    ),
    "op-log without a path": (GOOD + "op_log_path: 7\n", ":11:1: op_log_path: Input should be a valid string, found 7"),
    "op-log of nothing": (
        GOOD + "op_log_path: x\nop_log_max_bytes: 4KiB\n",
        ":12:1: op_log_max_bytes: Input should be greater than or equal to 1048576, found '4KiB'",
    ),
    "more coverage than there is": (
        GOOD + "distributed: {min_coverage: 95}\n",
        ":11:15: distributed.min_coverage: expected a share of at most 1 (100%), found 95",
    ),
    "coverage in words": (GOOD + "distributed: {min_coverage: most}\n", "expected a share such as 0.95 or 95%, found 'most'"),
    "unset variable": (GOOD.replace("bench-bucket", "${BUCKET}"), ":1:1: environment variable BUCKET is not set"),
    "two stages of one name": (
        GOOD + "stages:\n  - {name: a, type: prepare}\n  - {name: a, type: execute}\n",
        ":13:6: two stages are named 'a'",
    ),
    "prepare with a duration": (GOOD + "stages: [{name: a, type: prepare, duration: 5s}]\n", "a prepare stage ends when its work is done"),
    "unknown type of stage": (
        GOOD + "stages: [{name: a, type: burn}]\n",
        "expected 'prepare', 'execute', 'cleanup', 'verify' or 'validation', found 'burn'",
    ),
    "stages twice": (
        GOOD + "stages: [{name: a, type: prepare}]\ndistributed: {stages: [{name: b, type: prepare}]}\n",
        "stages is given both at the top and under distributed",
    ),
    "verify after cleanup": (
        GOOD + "stages: [{name: a, type: prepare}, {name: b, type: cleanup}, {name: c, type: verify}]\n",
        ":11:62: nothing is left to verify after the cleanup stage 'b'; give verify a smaller order",
    ),
    "verify of nothing": (
        "target: file:///tmp/x/\nstages: [{name: a, type: verify}]\n",
        ":2:10: nothing to verify: prepare.ensure_objects is empty",
    ),
    "verify for a time": (
        GOOD + "stages: [{name: a, type: validation, duration: 5s}]\n",
        "a verify stage ends when its work is done; it has no duration",
    ),
    "prefix prepared twice": (
        GOOD.replace("workload:", "    - {base_uri: data/, count: 5, size_spec: 1}\nworkload:"),
        "is prepared by an earlier entry already",
    ),
    "jitter above one": (GOOD + "error_handling: {retry_jitter_factor: 2}\n", ":11:18: error_handling.retry_jitter_factor: "),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named_with_their_place(name: str, tmp_path: Path) -> None:
    text, expected = BAD[name]
    with pytest.raises(ConfigError) as caught:
        compiled(text, tmp_path)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "w.yml"))


def test_all_problems_are_reported_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(GOOD.replace("30s", "x").replace("concurrency: 8", "concurrency: 0").replace("op: get", "op: gte"), tmp_path)
    lines = str(caught.value).splitlines()
    assert [line.partition("w.yml:")[2].partition(":")[0] for line in lines] == ["2", "3", "9"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none.yml")


SELECTIONS = [("get", "zipf"), ("stat", "sequential"), ("get", "partitioned")]
EFFECTS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "name": ({"name": "other"}, lambda p: p.name, "other"),
    "target": ({"target": "s3://b-2/x/"}, lambda p: p.populations[0].target, "s3://b-2/x/data/"),
    "duration": ({"duration": "5m"}, lambda p: p.stages[1].duration_s, 300.0),
    "duration as a number": ({"duration": 45}, lambda p: p.stages[1].duration_s, 45.0),
    "concurrency": ({"concurrency": 99}, lambda p: {s.concurrency for s in p.stages}, {99}),
    "warmup_period": ({"warmup_period": "7s"}, lambda p: p.stages[1].warmup_s, 7.0),
    "ramp_up": ({"ramp_up": "10s"}, lambda p: [(s.ramp_s, s.warmup_s) for s in p.stages], [(0.0, 0.0), (10.0, 10.0)]),
    "ramp_up within the warm-up": (
        {"ramp_up": "5s", "warmup_period": 7},
        lambda p: (p.stages[1].ramp_s, p.stages[1].warmup_s),
        (5.0, 7.0),
    ),
    "io_rate": ({"io_rate": {"iops": 500}}, lambda p: [s.io_rate for s in p.stages], [None, IoRate(500.0, "exponential")]),
    "io_rate with its law": (
        {"io_rate": {"iops": "1,000", "distribution": "uniform"}},
        lambda p: p.stages[1].io_rate,
        IoRate(1000.0, "uniform"),
    ),
    "workers": ({"workers": 3}, lambda p: p.workers, 3),
    "seed": ({"seed": 7}, lambda p: (p.seed, p.populations[0].seed), (7, 7001)),
    "engine": ({"engine": "boto3"}, lambda p: p.target.engine, "boto3"),
    "verify_reads": ({"verify_reads": True}, lambda p: p.target.verify_reads, 1.0),
    "verify_reads of a share": ({"verify_reads": "10%"}, lambda p: p.target.verify_reads, 0.1),
    "verify_reads of files": (
        {"target": "file:///tmp/x/", "s3": None, "verify_reads": 0.25},
        lambda p: (p.target.engine, p.target.verify_reads),
        ("file", 0.25),
    ),
    "op_log_path": ({"op_log_path": "/tmp/x.tsv.zst"}, lambda p: p.op_log_bytes, 4 << 30),
    "op_log_max_bytes": ({"op_log_path": "x", "op_log_max_bytes": "100MiB"}, lambda p: p.op_log_bytes, 100 << 20),
    "target_outage_timeout": ({"target_outage_timeout": "90s"}, lambda p: p.target_outage_timeout_s, 90.0),
    "deadlines": (
        {"deadlines": {"connect": 1, "first_byte": "2s", "total": "3s"}},
        lambda p: (p.deadlines.connect_s, p.deadlines.first_byte_s, p.deadlines.total_s),
        (1.0, 2.0, 3.0),
    ),
    "error limits": (
        {"error_handling": {"max_total_errors": 5, "error_rate_threshold": 2.5, "error_rate_window": "10s"}},
        lambda p: (p.error_limits.max_total_errors, p.error_limits.rate_per_s, p.error_limits.rate_window_s),
        (5, 2.5, 10.0),
    ),
    "retries": (
        {
            "error_handling": {
                "max_retries": 9,
                "initial_retry_delay_ms": 50,
                "max_retry_delay_ms": 800,
                "retry_backoff_multiplier": 3.0,
                "retry_jitter_factor": 0.5,
            }
        },
        lambda p: (p.retry.max_retries, p.retry.initial_delay_s, p.retry.max_delay_s, p.retry.multiplier, p.retry.jitter),
        (9, 0.05, 0.8, 3.0, 0.5),
    ),
    "retry_on_error": ({"error_handling": {"retry_on_error": False}}, lambda p: p.retry.max_retries, 0),
    "s3": (
        {
            "s3": {
                "endpoint_url": "https://x",
                "region": "eu-1",
                "addressing_style": "virtual",
                "verify_tls": False,
                "ca_file": "/ca",
                "sign_payload": True,
            }
        },
        lambda p: (
            p.target.endpoint_url,
            p.target.region,
            p.target.path_style,
            p.target.verify_tls,
            p.target.ca_file,
            p.target.sign_payload,
        ),
        ("https://x", "eu-1", False, False, "/ca", True),
    ),
    "range_engine": (
        {"range_engine": {"enabled": True, "chunk_size": "8MiB", "max_concurrent_ranges": 4, "min_split_size": 9, "range_timeout_secs": 7}},
        lambda p: p.target.ranges,
        Ranges(8 << 20, 4, 9, 7.0),
    ),
    "range_engine by itself": ({"range_engine": {"enabled": True}}, lambda p: p.target.ranges, Ranges(64 << 20, 16, 16 << 20, 30.0)),
    "s3.multipart_threshold": ({"s3": {"multipart_threshold": "16MiB"}}, lambda p: p.target.multipart, Multipart(16 << 20, 8 << 20, 10)),
    "s3.multipart_*": (
        {"s3": {"multipart_threshold": 5, "multipart_chunksize": "64MiB", "multipart_concurrency": 3}},
        lambda p: (p.target.multipart, p.target.connections_per_operation),
        (Multipart(5, 64 << 20, 3), 3),
    ),
    "s3.anonymous": ({"s3": {"anonymous": True}}, lambda p: p.target.anonymous, True),
    "s3 of AWS": ({"s3": {}}, lambda p: (p.target.endpoint_url, p.target.path_style), (None, False)),
    "prepare.cleanup": (
        {"prepare": {"ensure_objects": [{"base_uri": "data/", "count": 1, "size_spec": 1}], "cleanup": True}},
        lambda p: [s.kind for s in p.stages],
        [StageKind.PREPARE, StageKind.EXECUTE, StageKind.CLEANUP],
    ),
    "prepare sizes, count, fill, shards": (
        {
            "prepare": {
                "ensure_objects": [{"base_uri": "data/", "count": "1,000,000", "min_size": "1k", "max_size": "1Ki", "fill": "zero"}],
                "key_prefix_shards": 256,
            }
        },
        lambda p: [(q.count, q.size.kind, q.size.min, q.size.max, q.fill, q.shards) for q in p.populations],
        [(1_000_000, "uniform", 1000, 1024, "zero", 256)],
    ),
    "delete and get share nothing": (
        {"workload": [{"op": "get", "path": "data/", "weight": 1}, {"op": "delete", "path": "data/*", "weight": 1}]},
        lambda p: ([q.key_format for q in p.populations], [o.population for o in p.stages[1].operations]),
        (["prepared-%08d.dat", "deletable-%08d.dat"], ["prepared", "deletable"]),
    ),
    "delete alone": (
        {"workload": [{"op": "delete", "path": "data/", "weight": 1}]},
        lambda p: [o.population for o in p.stages[1].operations],
        ["prepared"],
    ),
    "put size laws": (
        {
            "workload": [
                {
                    "op": "put",
                    "path": "n",
                    "weight": 1,
                    "size_spec": {"type": "lognormal", "mean": "8KiB", "std_dev": 100, "min": 1, "max": "1MB"},
                }
            ]
        },
        lambda p: [(o.target, o.size.kind, o.size.mean, o.size.max) for o in p.stages[1].operations],
        [("s3://bench-bucket/run/n/", "lognormal", 8192.0, 1_000_000)],
    ),
    "object_size, fill and list": (
        {
            "workload": [
                {"op": "put", "path": "n/", "weight": 2, "object_size": "1.5KB", "fill": "zero"},
                {"op": "list", "path": "data/", "weight": 1},
            ]
        },
        lambda p: [(o.kind, o.weight, o.fill, o.size.min if o.size else None) for o in p.stages[1].operations],
        [("put", 2, "zero", 1500), ("list", 1, "random", None)],
    ),
    "factors of put": (
        {"workload": [{"op": "put", "path": "n/", "weight": 1, "object_size": 1, "dedup_factor": 3, "compress_factor": 2.5}]},
        lambda p: [(o.dedup_factor, o.compress_factor) for o in p.stages[1].operations],
        [(3.0, 2.5)],
    ),
    "factors of prepare": (
        {"prepare": {"ensure_objects": [{"base_uri": "data/", "count": 9, "size_spec": 1, "dedup_factor": 1.5, "compress_factor": 4}]}},
        lambda p: [(q.dedup_factor, q.compress_factor) for q in p.populations],
        [(1.5, 4.0)],
    ),
    "documented forms of sizes": (
        {"workload": [{"op": "put", "path": "n/", "weight": 1, "size_spec": {"uniform": {"min": 1, "max": 5}}}]},
        lambda p: (p.stages[1].operations[0].size.kind, p.stages[1].operations[0].size.max),
        ("uniform", 5),
    ),
    "size_spec as a histogram": (
        {
            "workload": [
                {
                    "op": "put",
                    "path": "n/",
                    "weight": 1,
                    "size_spec": {
                        "type": "histogram",
                        "buckets": [{"size": "4KiB", "weight": 70}, {"size": {"min": "64KiB", "max": "1MiB"}, "weight": 30}],
                    },
                }
            ]
        },
        lambda p: p.stages[1].operations[0].size,
        SizeSpec("histogram", 4096, 1 << 20, buckets=((4096, 4096), (65536, 1 << 20)), cumulative=(70, 100)),
    ),
    "size_spec as a histogram in the short form": (
        {"workload": [{"op": "put", "path": "n/", "weight": 1, "size_spec": {"histogram": {"buckets": [{"size": 9, "weight": 2}]}}}]},
        lambda p: p.stages[1].operations[0].size,
        SizeSpec("histogram", 9, 9, buckets=((9, 9),), cumulative=(2,)),
    ),
    "key_selection in short": (
        {"workload": [{"op": op, "path": "data/", "weight": 1, "key_selection": keys} for op, keys in SELECTIONS]},
        lambda p: [o.keys for o in p.stages[1].operations],
        [KeySelection("zipf", 0.99), KeySelection("sequential"), KeySelection(partitioned=True)],
    ),
    "key_selection with all its keys": (
        {
            "workload": [
                {
                    "op": "get",
                    "path": "data/",
                    "weight": 1,
                    "key_selection": {"distribution": "zipf", "theta": 1.2, "partitioned": True, "overlap": "10%"},
                }
            ]
        },
        lambda p: [o.keys for o in p.stages[1].operations],
        [KeySelection("zipf", 1.2, partitioned=True, overlap=0.1)],
    ),
    "path_selection": (
        {"distributed": {"path_selection": "exclusive"}},
        lambda p: [o.keys for o in p.stages[1].operations],
        [KeySelection(partitioned=True), None],
    ),
    "path_selection without partition_overlap": (
        {"distributed": {"path_selection": "partitioned"}},
        lambda p: p.stages[1].operations[0].keys,
        KeySelection(partitioned=True, overlap=0.3),
    ),
    "partition_overlap": (
        {"distributed": {"path_selection": "weighted", "partition_overlap": 0.5}},
        lambda p: p.stages[1].operations[0].keys,
        KeySelection(partitioned=True, overlap=0.5),
    ),
    "concurrency of an operation": (
        {
            "workload": [
                {"op": "get", "path": "data/", "weight": 1, "concurrency": 2},
                {"op": "put", "path": "n/", "weight": 1, "object_size": 1, "concurrency": 3},
                {"op": "list", "path": "n/", "weight": 1},
            ]
        },
        lambda p: ([o.concurrency for o in p.stages[1].operations], [s.concurrency for s in p.stages]),
        ([2, 3, None], [8, 8]),
    ),
    "concurrency of each operation": (
        {
            "workload": [
                {"op": "get", "path": "data/", "weight": 1, "concurrency": 2},
                {"op": "stat", "path": "data/", "weight": 1, "concurrency": 3},
                {"op": "list", "path": "data/", "weight": 0},
            ]
        },
        lambda p: [s.concurrency for s in p.stages],
        [8, 5],
    ),
    "dynamic_put_pool": (
        {
            "workload": [
                {"op": "get", "path": "data/*", "weight": 1},
                {"op": "stat", "path": "data/", "weight": 1},
                {"op": "put", "path": "data/new", "weight": 1, "object_size": 1},
            ],
            "dynamic_put_pool": True,
        },
        lambda p: [o.put_pool for o in p.stages[1].operations],
        [True, False, False],
    ),
    "stages with order, own duration and concurrency, under config too": (
        {
            "stages": [
                {"name": "run", "type": "execute", "order": 2, "config": {"duration": "9s"}},
                {"name": "fill", "type": "prepare", "order": 1, "concurrency": 50},
            ]
        },
        lambda p: [(s.name, s.kind.value, s.duration_s, s.concurrency) for s in p.stages],
        [("fill", "prepare", None, 50), ("run", "execute", 9.0, 8)],
    ),
    "a stage that verifies, under both its names": (
        {"stages": [{"name": n, "type": t} for n, t in (("p", "prepare"), ("a", "verify"), ("b", "validation"), ("c", "cleanup"))]},
        lambda p: [(s.kind, s.populations, s.duration_s) for s in p.stages[1:3]],
        [(StageKind.VERIFY, ("prepared",), None)] * 2,
    ),
    "the coverage that COMPLETE needs": ({"distributed": {"min_coverage": 0.9}}, lambda p: p.min_coverage, 0.9),
    "the coverage that COMPLETE needs, in percent": ({"distributed": {"min_coverage": "99.5 %"}}, lambda p: p.min_coverage, 0.995),
    "stages under distributed": (
        {"distributed": {"stages": [{"name": "only", "type": "prepare"}], "heartbeat_interval": 2, "agent_barrier_timeout": "30s"}},
        lambda p: ([s.name for s in p.stages], p.heartbeat_s, p.agent_barrier_timeout_s),
        (["only"], 2.0, 30.0),
    ),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_every_key_has_its_effect(name: str, tmp_path: Path) -> None:
    keys, look, expected = EFFECTS[name]
    assert look(compiled(changed(**keys), tmp_path)) == expected
    if keys != {"s3": {}}:
        assert compiled(changed(**keys), tmp_path) != compiled(GOOD, tmp_path)


def test_keys_of_the_controller(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    path.write_text(
        changed(distributed={"start_delay": 5, "agent_ready_timeout": 7, "reconnect_timeout": "1h", "controller_cutoff_timeout": "9m"})
    )
    loaded = config.load(path)
    assert (loaded.start_delay_s, loaded.ready_timeout_s, loaded.cutoff_timeout_s) == (5.0, 7.0, 540.0)
    assert config.compile_plan(loaded, "r", HOSTS)[0].policy.reconnect_timeout_s == 3600.0


def test_keys_without_meaning_are_accepted_with_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    path.write_text(GOOD + "distributed: {path_selection: exclusive, partition_overlap: 0.1}\n")
    assert config.load(path).notices == ("line 11: partition_overlap has no effect with path_selection exclusive",)
    path.write_text(GOOD + "op_log_max_bytes: 1GiB\n")
    assert config.load(path).notices == ("line 11: op_log_max_bytes has no effect without op_log_path (or --op-log)",)
    path.write_text(GOOD + "op_log_path: /tmp/x\n")
    assert config.load(path).notices == (
        "line 11: op_log_path: the op-logs are agents/<id>/oplog.tsv.zst of the run directory, not /tmp/x",
    )
    path.write_text(GOOD + "processes: 4\n")
    assert config.load(path).notices == ("line 11: processes has no effect: one worker process per core is the rule here; set workers",)


@pytest.mark.parametrize("iops", [0, "max"])
def test_an_io_rate_without_limit_is_a_closed_loop(iops: int | str, tmp_path: Path) -> None:
    assert compiled(changed(io_rate={"iops": iops}), tmp_path) == compiled(GOOD, tmp_path)


def test_an_operations_own_key_selection_goes_before_path_selection(tmp_path: Path) -> None:
    workload = [
        {"op": "get", "path": "data/", "weight": 1, "key_selection": "uniform"},
        {"op": "stat", "path": "data/", "weight": 1, "key_selection": "zipf"},
    ]
    plan = compiled(changed(workload=workload, distributed={"path_selection": "exclusive"}), tmp_path)
    assert [op.keys for op in plan.stages[1].operations] == [None, KeySelection("zipf", 0.99)]


def test_the_description_names_what_is_not_as_usual(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    path.write_text(
        "ramp_up: 2s\nio_rate: {iops: 50}\n"
        + GOOD.replace("op: get,", "op: get, concurrency: 4, key_selection: {distribution: zipf, partitioned: true},")
    )
    loaded = config.load(path)
    described = config.describe(*config.compile_plan(loaded, "r", HOSTS), loaded)
    assert [name for name, _, _ in described.stages[1].mix] == ["get (zipf 0.99, partitioned, at most 4 at once)", "put"]
    assert described.stages[1].pace == "open loop, 50 operations/s per agent, exponential, ramp of 2 s"


def test_a_range_engine_that_is_switched_off_changes_nothing(tmp_path: Path) -> None:
    assert compiled(changed(range_engine={"enabled": False, "chunk_size": "1MiB"}), tmp_path) == compiled(GOOD, tmp_path)


def test_variables_are_replaced_and_typed(tmp_path: Path) -> None:
    text = GOOD.replace("concurrency: 8", "concurrency: ${N}").replace("bench-bucket", "${B:-fallback}")
    plan = compiled(text, tmp_path, N="12")
    assert plan.stages[0].concurrency == 12
    assert plan.populations[0].target == "s3://fallback/run/data/"


def test_assignments_are_a_partition(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    path.write_text(GOOD)
    _, assignments = config.compile_plan(config.load(path), "r", HOSTS)
    assert [(a.agent_id, a.index, a.agents) for a in assignments] == [("h1", 0, 3), ("h2", 1, 3), ("h3", 2, 3)]
    owned = [n for a in assignments for lo, hi in a.ranges["prepared"] for n in range(lo, hi)]
    assert owned == list(range(1000))


def test_agents_of_the_file_choose_hosts(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    path.write_text(changed(distributed={"agents": [{"id": "h3"}, {"address": "192.0.2.1:7761"}]}))
    _, assignments = config.compile_plan(config.load(path), "r", HOSTS)
    assert [a.agent_id for a in assignments] == ["h3", "h1"]
    path.write_text(changed(distributed={"agents": [{"id": "h9"}]}))
    with pytest.raises(InventoryError, match=r"h9, which is no host of the inventory \(h1, h2, h3\)"):
        config.compile_plan(config.load(path), "r", HOSTS)


@pytest.mark.parametrize("name", ["quickstart-file.yml", "s3-mixed.yml", "s3-prepare.yml"])
def test_examples_are_valid(name: str) -> None:
    loaded = config.load(config.example_path(name))
    plan, assignments = config.compile_plan(loaded, "r", HOSTS)
    described = config.describe(plan, assignments, loaded)
    assert described.objects == sum(p.count for p in plan.populations)
    assert described.seconds > 0


def test_the_description_tells_how_far_the_data_reduces(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    sizes = []
    for text in (GOOD, GOOD.replace("count: 1000,", "count: 1000, dedup_factor: 2, compress_factor: 1.5,")):
        path.write_text(text)
        loaded = config.load(path)
        sizes.append(config.describe(*config.compile_plan(loaded, "r", HOSTS), loaded).populations[0].size)
    assert sizes == ["4096", "4096, dedup 2:1, compress 1.5:1"]


def test_credentials_come_from_where_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, file = tmp_path / "w.yml", tmp_path / "aws"
    file.write_text("[lab]\naws_access_key_id = AKFILE\naws_secret_access_key = file-secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    environ = {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "env-secret"}
    path.write_text(GOOD)
    found = credentials.find(config.load(path), environ)
    assert found == {"access_key": "AKENV", "secret_key": "env-secret", "session_token": None}
    assert "env-secret" not in repr(found)
    assert credentials.find(config.load(path), {}) is None
    path.write_text(changed(s3={"credentials_file": str(file), "profile": "lab"}))
    assert credentials.find(config.load(path), environ) == {"access_key": "AKFILE", "secret_key": "file-secret", "session_token": None}
    path.write_text(changed(s3={"credentials_file": str(file), "profile": "nobody"}))
    with pytest.raises(ConfigError, match=r"no credentials of profile 'nobody' in file "):
        credentials.find(config.load(path), environ)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8MB", 8_000_000),
        ("8MiB", 8 << 20),
        ("1.5GB", 1_500_000_000),
        ("1k", 1000),
        ("1Ki", 1024),
        (4096, 4096),
        ("1,024", 1024),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes(text: str | int, expected: int) -> None:
    assert units.size(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1e9", True, None, [], "0.3KiB"])
def test_bad_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="expected a"):
        units.size(text)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"failure_policy": "best_effort", "min_agents_required": 4}, ("min_agents_required is 4", "3 agents")),
        ({"min_agents_required": 2}, ("no effect with failure_policy retry",)),
        ({"failure_policy": "fail_fast", "agent_retry_attempts": 2}, ("agent_retry_attempts contradicts", "fail_fast")),
        ({"on_controller_loss": "stop_after: soon"}, ("on_controller_loss",)),
        ({"failure_policy": "retrry"}, ("failure_policy", "retrry")),
    ],
)
def test_senseless_failure_policies_are_refused(keys: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(changed(distributed=keys), tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_a_majority_needs_three_agents(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    path.write_text(changed(distributed={"failure_policy": "continue_if_majority"}))
    with pytest.raises(ConfigError, match="leaves no majority"):
        config.compile_plan(config.load(path), "r", HOSTS[:2])
    assert config.compile_plan(config.load(path), "r", HOSTS)[0].policy.survives


def test_failure_policies_reach_the_plan(tmp_path: Path) -> None:
    keys = {
        "failure_policy": "best_effort",
        "min_agents_required": 2,
        "agent_retry_attempts": 3,
        "agent_retry_delay_s": 5,
        "reassign_on_loss": False,
    }
    plan = compiled(changed(distributed={**keys, "reconnect_timeout": "2m", "on_controller_loss": "stop_after: 10m"}), tmp_path)
    assert plan.policy == FailurePolicy("best_effort", 2, 3, 5.0, 120.0, 120.0, reassign=False)
    assert (plan.on_controller_loss, plan.controller_loss_s, plan.lease_s) == ("stop_after", 600.0, None)
    assert compiled(changed(distributed={"failure_policy": "best_effort"}), tmp_path).lease_s == 600.0
    # Renewed each heartbeat by a reading as old as that: a shorter one would keep well agents from their work.
    short = {"failure_policy": "best_effort", "reconnect_timeout": "2s", "heartbeat_interval": "1s"}
    assert compiled(changed(distributed=short), tmp_path).lease_s == 5.0
