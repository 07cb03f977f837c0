"""Workload files: each mistake gets its line and what to do; each key has its effect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from sai3ssh import config
from sai3ssh.commands.runs import credentials_of
from sai3ssh.config import compile_plan, credentials, units
from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.errors import ConfigError, InventoryError
from sai3ssh.model import (
    FailurePolicy,
    Host,
    IoRate,
    KeySelection,
    Multipart,
    OperationSpec,
    Plan,
    Ranges,
    Replay,
    SizeSpec,
    Spread,
    Stage,
    StageKind,
    Steady,
    Target,
    Tree,
)

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

AZ = "target: az://con-1/\nworkload:\n- {op: put, path: n/, weight: 1, object_size: 1}\n"


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


GOOD_PUT = [{"op": "put", "path": "new/", "weight": 1, "object_size": 1}]
TREE = {"width": 3, "depth": 2, "files_per_dir": 5}
TREE_OBJECTS = [{"base_uri": "data/", "size_spec": 1}]
BAD = {
    "unknown key with a near one": (
        GOOD.replace("concurrency:", "concurency:"),
        ":3:1: unknown key 'concurency'; did you mean 'concurrency'?",
    ),
    "unknown key without a near one": (GOOD + "zzz: 1\n", ":11:1: unknown key 'zzz'; known here: "),
    "unknown key in an operation": (GOOD.replace("weight: 70", "wieght: 70"), ":9:"),
    "a copy of objects that are too large": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: 6GiB}\nworkload").replace("op: get", "op: copy"),
        ":9:16: copy: objects at s3://bench-bucket/run/data/ have up to 6,442,450,944 bytes, and S3 copies at most 5 GiB at once",
    ),
    "delete_batch of what deletes nothing": (
        GOOD.replace("op: get,", "op: get, delete_batch: 5,"),
        ":9:15: delete_batch has no meaning for get",
    ),
    "too many at once": (
        GOOD.replace("op: get,", "op: delete, delete_batch: 1001,"),
        ":9:18: workload.0.delete_batch: expected at most 1,000, found 1001",
    ),
    "delete_batch of a stage that deletes nothing": (
        GOOD + "stages:\n  - {name: p, type: prepare, delete_batch: 2}\n",
        ":12:30: delete_batch has no meaning for a stage of type prepare; it belongs to cleanup",
    ),
    "delete_batch of prepare without a cleanup": (
        GOOD.replace("prepare:\n", "prepare:\n  delete_batch: 2\n"),
        ":6:3: prepare.delete_batch is for the cleanup that prepare.cleanup: true adds",
    ),
    "delete_batch with boto3": (
        GOOD.replace("op: get,", "op: delete, delete_batch: 2,") + "engine: boto3\n",
        ":9:18: delete_batch needs s3:// targets and the native engine",
    ),
    "delete_batch of files": (
        GOOD.replace('s3: {endpoint_url: "http://127.0.0.1:9000"}', "prepare_: 1")
        .replace("prepare_: 1\n", "")
        .replace("s3://bench-bucket", "file:///tmp")
        + "stages:\n  - {name: c, type: cleanup, delete_batch: 2}\n",
        ":11:30: delete_batch needs s3:// targets and the native engine",
    ),
    "an unknown checksum": (
        GOOD.replace("s3: {", "s3: {checksum: md5, "),
        ":4:6: s3.checksum: expected 'none', 'crc32', 'sha256', 'crc32c' or 'crc64nvme', found 'md5'",
    ),
    "a checksum with boto3": (
        GOOD.replace("s3: {", "s3: {checksum: crc32, ") + "engine: boto3\n",
        ":4:6: s3.checksum needs the native engine",
    ),
    "a checksum of uploads in parts": (
        GOOD.replace("s3: {", "s3: {checksum: crc32, multipart_threshold: 64MiB, "),
        ":4:6: s3.checksum and s3.multipart_threshold contradict each other",
    ),
    "expect_continue with boto3": (
        GOOD.replace("s3: {", "s3: {expect_continue: 1MiB, ") + "engine: boto3\n",
        ":4:6: s3.expect_continue needs the native engine",
    ),
    "expect_continue of nothing": (
        GOOD.replace("s3: {", "s3: {expect_continue: 0, "),
        ":4:6: s3.expect_continue: expected at least 1, found 0",
    ),
    "a delimiter of what lists nothing": (
        GOOD.replace("op: get,", "op: get, delimiter: /,"),
        ":9:15: delimiter has no meaning for get; it belongs to list",
    ),
    "another delimiter": (
        GOOD.replace("op: get,", "op: list, delimiter: '|',"),
        ":9:16: workload.0.delimiter: expected '/', found '|'",
    ),
    "a copy with a size": (
        GOOD.replace("op: get,", "op: copy, object_size: 5,"),
        ":9:16: a size has no meaning for copy",
    ),
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
    "s3 with az": (AZ + "s3: {region: x}\n", ":4:1: s3 has no meaning for az:// targets; write azure:"),
    "s3 with gcs": (AZ.replace("az:", "gcs:") + "s3: {region: x}\n", ":4:1: s3 has no meaning for gcs:// targets; write gcs:"),
    "azure with s3": (GOOD + "azure: {account: acc}\n", ":11:1: azure has no meaning for s3:// targets; remove it"),
    "azure with gs": (AZ.replace("az:", "gs:") + "azure: {account: acc}\n", ":4:1: azure has no meaning for gs:// targets; remove it"),
    "gcs with az": (AZ + "gcs: {}\n", ":4:1: gcs has no meaning for az:// targets; remove it"),
    "gcs with files": (
        "target: file:///d/\nworkload:\n- {op: put, path: n/, weight: 1, object_size: 1}\ngcs: {}\n",
        ":4:1: gcs has no meaning for file:// targets; remove it",
    ),
    "boto3 with az": (AZ + "engine: boto3\n", ":4:1: engine: boto3 needs s3:// targets; az:// has one engine, obstore: remove it"),
    "range_engine with az": (AZ + "range_engine: {enabled: true}\n", ":4:1: range_engine needs s3:// targets"),
    "a URL with a password": (
        GOOD.replace("//127.0.0.1:9000", "//me:Secret@h:9000"),
        ":4:6: a URL has no user, password, query or fragment; credentials come from",
    ),
    "an endpoint with a password": (
        GOOD.replace('s3: {endpoint_url: "http://127.0.0.1:9000"}', "multi_endpoint: {endpoints: ['http://me:Secret@h:1', 'http://h:2']}"),
        "a URL has no user, password, query or fragment",
    ),
    "a URL with a SAS token": (
        AZ + "azure: {endpoint_url: 'https://a.blob.core.windows.net/?sv=1&sig=Secret'}\n",
        ":4:9: a URL has no user, password, query or fragment; credentials come from",
    ),
    "no URL for azure": (AZ + "azure: {endpoint_url: h:1}\n", ":4:9: expected http://host:port or https://host, found 'h:1'"),
    "no name of an account": (
        AZ + "azure: {account: My-Account}\n",
        ":4:9: azure.account: expected 3 to 24 lower-case letters and digits, found 'My-Account'",
    ),
    "azure's key in the file": (AZ + "azure: {account_key: a2V5}\n", ":4:9: account_key: no secrets in workload files"),
    "token in the file": (AZ.replace("az:", "gs:") + "gcs: {bearer_token: x}\n", ":4:7: bearer_token: no secrets in workload files"),
    "account with gs": (AZ.replace("az:", "gs:") + "gcs: {account: acc}\n", "unknown key 'account'"),
    "azure's parts without a threshold": (
        AZ + "azure: {multipart_concurrency: 2}\n",
        ":4:9: azure.multipart_concurrency has no effect without azure.multipart_threshold",
    ),
    "no container": (AZ.replace("con-1", "a--b"), "'a--b' cannot be the name of a container"),
    "mkdir with az": (AZ + "- {op: mkdir, path: d/, weight: 1}\n", ":4:4: mkdir has no meaning for az:// targets; remove it"),
    "copy with gs": (
        AZ.replace("az://con-1", "gs://bucket")
        + "- {op: copy, path: n/, weight: 1}\nprepare: {ensure_objects: [{base_uri: n/, count: 9, size_spec: 1}]}\n",
        ":4:4: copy has no meaning for gs:// targets; remove it",
    ),
    "a listing of one level with az": (
        AZ + "- {op: list, path: n/, weight: 1, delimiter: /}\n",
        "delimiter has no meaning for az:// targets; remove it",
    ),
    "fsync with az": (AZ + "fsync: file\n", ":4:1: fsync has no meaning for az:// targets: it is about files; remove it"),
    "no bucket of Google's": (AZ.replace("az://con-1", "gs://B"), "'B' cannot be the name of a bucket"),
    "a name with an empty part": (AZ.replace("con-1/", "con-1//x/"), "az:// has no names with an empty part, '.' or '..'"),
    "clouds mixed": (
        AZ + "prepare: {ensure_objects: [{base_uri: gs://buc/n/, count: 1, size_spec: 1}]}\n",
        "one run has one kind of target; found az and gs",
    ),
    "too large for one request": (
        AZ.replace("object_size: 1", "object_size: 5GiB"),
        "objects of 5368709120 bytes at az://con-1/n/ are more than one request can put (5242880000); set azure.multipart_threshold",
    ),
    "parts smaller than S3 allows": (
        GOOD.replace("s3: {", "s3: {multipart_threshold: 1, multipart_chunksize: 4MiB, "),
        "s3.multipart_chunksize: expected at least 5MiB, found '4MiB'",
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
        "min_size (8KiB) is greater than max_size (4KiB)",
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
    "directories of S3": (
        GOOD.replace("workload:", "workload:\n  - {op: mkdir, path: m/, weight: 1}"),
        ":9:6: mkdir has no meaning for s3:// targets: object storage has no directories; put or delete objects instead",
    ),
    "rmdir of nothing": (
        "target: file:///d/\nworkload:\n- {op: mkdir, path: m/, weight: 0}\n- {op: rmdir, path: m/, weight: 1}\n",
        ":4:15: rmdir 'm/': it removes what mkdir has made at the same path, and there is none; add one",
    ),
    "mkdir of a pattern": (
        "target: file:///d/\nworkload:\n- {op: mkdir, path: m/*, weight: 1}\n",
        ":3:15: mkdir needs a directory, found the pattern 'm/*'",
    ),
    "recursive list": (
        GOOD.replace("op: get,", "op: get, recursive: true,"),
        ":9:15: recursive has no meaning for get: it belongs to rmdir",
    ),
    "unknown operation": (
        GOOD.replace("op: get", "op: fetch"),
        ":9:6: workload.0.op: expected 'get', 'put', 'list', 'stat', 'delete', 'copy', 'mkdir' or 'rmdir', found 'fetch'",
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
        ":10:27: key_selection has no meaning for put: only get, stat and copy choose objects",
    ),
    "unknown key selection": (
        GOOD.replace("op: get,", "op: get, key_selection: hot,"),
        ":9:15: workload.0.key_selection: expected uniform, zipf, sequential, partitioned or a mapping of keys, found 'hot'",
    ),
    "theta of 0": (GOOD.replace("op: get,", "op: get, key_selection: {distribution: zipf, theta: 0},"), "key_selection.theta: "),
    "theta above 2": (
        GOOD.replace("op: get,", "op: get, key_selection: {distribution: zipf, theta: 2.1},"),
        "key_selection.theta: expected at most 2, found 2.1",
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
        "scheme ftp:// is not supported (s3://, file://, direct://, az:// and gs:// are)",
    ),
    "no scheme": (GOOD.replace("s3://bench-bucket/run/", "/tmp/x"), "expected a URI such as"),
    "bad bucket": (GOOD.replace("bench-bucket", "Bench_Bucket"), "'Bench_Bucket' cannot be the name of a bucket"),
    "relative file target": (changed(target="file://x/", s3=None), "a file target needs an absolute path"),
    "two kinds of target": (GOOD.replace("path: new/", "path: 'file:///tmp/new/'"), "one run has one kind of target; found file and s3"),
    "relative direct target": (
        changed(target="direct://x/", s3=None),
        "a direct target needs an absolute path such as direct:///mnt/test/",
    ),
    "files in two ways": (
        changed(target="file:///tmp/x/", s3=None).replace("path: new/", "path: direct:///tmp/new/"),
        "one run has one kind of target; found direct and file",
    ),
    "advice past the page cache": (
        changed(target="direct:///tmp/x/", s3=None, page_cache_mode="dontneed"),
        ":17:1: page_cache_mode: dontneed contradicts direct://, which goes past the page cache; remove it, or use file://",
    ),
    "advice about objects": (GOOD + "page_cache_mode: random\n", ":11:1: page_cache_mode has no meaning for s3:// targets"),
    "fsync of objects": (GOOD + "fsync: file\n", ":11:1: fsync has no meaning for s3:// targets: it is about files; remove it"),
    "unknown advice": (
        GOOD + "page_cache_mode: never\n",
        ":11:1: page_cache_mode: expected 'auto', 'sequential', 'random', 'dontneed' or 'normal', found 'never'",
    ),
    "fsync as yes or no": (GOOD + "fsync: true\n", ":11:1: fsync: expected 'none', 'file' or 'directory', found true"),
    "s3 section for files": (changed(target="file:///tmp/x/"), "s3 has no meaning for file:// targets"),
    "boto3 for files": (changed(target="file:///tmp/x/", s3=None, engine="boto3"), "engine: boto3 needs s3:// targets"),
    "unknown engine": (GOOD + "engine: fast\n", ":11:1: engine: expected 'native' or 'boto3', found 'fast'"),
    "endpoint without scheme": (GOOD.replace("http://127.0.0.1:9000", "127.0.0.1:9000"), "expected http://host:port or https://host"),
    "warm-up as long as the stage": (GOOD + "warmup_period: 30s\n", ":11:1: warmup_period (30 s) leaves nothing of stage 'execute' (30 s)"),
    "ramp as long as the stage": (GOOD + "ramp_up: 1m\n", ":11:1: ramp_up (60 s) leaves nothing of stage 'execute' (30 s)"),
    "ramp in words": (GOOD + "ramp_up: slowly\n", ":11:1: ramp_up: expected a duration such as 90, 60s, 5m or 2h, found 'slowly'"),
    "steady later than the duration": (
        GOOD + "steady: true\n",
        ":11:1: stage 'execute' is not steady before 60 s (warm-up, then window or min_duration), and its duration is 30 s; raise duration",
    ),
    "steady with a long warm-up": (
        GOOD + "warmup_period: 20s\nsteady: {window: 10s, min_duration: 0s}\n",
        ":12:1: stage 'execute' is not steady before 30 s",
    ),
    "steady in many windows": (GOOD + "steady: {window: 5s, min_duration: 0s, confirm: 26}\n", "is not steady before 30 s"),
    "window of half a round": (
        GOOD + "steady: {window: 27s, min_duration: 1s}\n",
        ":11:10: steady.window (27 s) is no whole number of rounds, which are 5 s long (5 s from 25 s on)",
    ),
    "window that is too short": (GOOD + "steady: {window: 4s}\n", ":11:10: steady.window: expected at least 5s"),
    "slope above all": (GOOD + "steady: {slope: 2}\n", ":11:10: steady.slope: expected a share of at most 1 (100%), found 2"),
    "slope of nothing": (GOOD + "steady: {slope: 0}\n", ":11:10: steady.slope: expected more than 0%"),
    "spread of nothing": (GOOD + "steady: {spread: 0%}\n", ":11:10: steady.spread: expected more than 0%"),
    "steady latency": (GOOD + "steady: {metric: latency}\n", ":11:10: steady.metric: expected 'ops' or 'bytes', found 'latency'"),
    "never confirmed": (GOOD + "steady: {confirm: 0}\n", ":11:10: steady.confirm: expected at least 1"),
    "min_duration in words": (GOOD + "steady: {min_duration: long}\n", ":11:10: steady.min_duration: expected a duration"),
    "a steady prepare": (
        GOOD + "stages: [{name: a, type: prepare, steady: true}]\n",
        ":11:35: a prepare stage ends when its work is done; only execute can be steady",
    ),
    "more workers than concurrency": (GOOD + "workers: 9\n", "9 workers share a concurrency of 8"),
    "secret in the file": (
        GOOD.replace("endpoint_url:", "secret_key: abc, endpoint_url:"),
        ":4:6: secret_key: no secrets in workload files",
    ),
    "dedup factor below one": (
        GOOD.replace("count: 1000,", "count: 1000, dedup_factor: 0.5,"),
        ":7:38: prepare.ensure_objects.0.dedup_factor: expected at least 1, found 0.5",
    ),
    "compress factor below one": (
        GOOD.replace("weight: 30,", "weight: 30, compress_factor: 0,"),
        ":10:39: workload.1.compress_factor: expected at least 1, found 0",
    ),
    "absurd dedup factor": (
        GOOD.replace("weight: 30,", "weight: 30, dedup_factor: 1001,"),
        ":10:39: workload.1.dedup_factor: expected at most 1,000, found 1001",
    ),
    "absurd compress factor": (
        GOOD.replace("count: 1000,", "count: 1000, compress_factor: 101,"),
        ":7:38: prepare.ensure_objects.0.compress_factor: expected at most 100, found 101",
    ),
    "endless factor": (
        GOOD.replace("count: 1000,", "count: 1000, compress_factor: .nan,"),
        "compress_factor: expected at most 100, found nan",
    ),
    "factor of nothing": (
        GOOD.replace("weight: 30,", "weight: 30, dedup_factor: true,"),
        ":10:39: workload.1.dedup_factor: expected a number, found true",
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
    "op-log without a path": (GOOD + "op_log_path: 7\n", ":11:1: op_log_path: expected text, found 7; put it in quotes"),
    "op-log of nothing": (
        GOOD + "op_log_path: x\nop_log_max_bytes: 4KiB\n",
        ":12:1: op_log_max_bytes: expected at least 1MiB, found '4KiB'",
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
        "stages.0.type: expected 'prepare', 'execute', 'cleanup', 'verify', 'validation'",
    ),
    "stages twice": (
        GOOD + "stages: [{name: a, type: prepare}]\ndistributed: {stages: [{name: b, type: prepare}]}\n",
        "stages is given both at the top and under distributed",
    ),
    "verify after cleanup": (
        GOOD + "stages: [{name: a, type: prepare}, {name: b, type: cleanup}, {name: c, type: verify}]\n",
        ":11:62: nothing is left to verify after the cleanup stage 'b'; give 'c' a smaller order",
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
    "tree of another size": (
        GOOD.replace("prepare:", "prepare:\n  directory_structure: {width: 3, depth: 2, files_per_dir: 5}"),
        ":8:25: count is 1,000, but directory_structure has 45 files (9 directories with 5 each); remove count, or correct one of them",
    ),
    "tree of another size on all levels": (
        GOOD.replace("prepare:", "prepare:\n  directory_structure: {width: 3, depth: 2, files_per_dir: 5, distribution: all}"),
        "count is 1,000, but directory_structure has 60 files (12 directories on levels 1 to 2 with 5 each)",
    ),
    "tree without width": (
        GOOD.replace("prepare:", "prepare:\n  directory_structure: {depth: 2, files_per_dir: 5}"),
        ":6:3: prepare.directory_structure: the key 'width' is missing",
    ),
    "tree of nobody": (
        changed(prepare={"directory_structure": {"width": 3, "depth": 2, "files_per_dir": 5}}, workload=GOOD_PUT),
        "directory_structure needs an entry in prepare.ensure_objects",
    ),
    "tree with shards": (
        changed(prepare={"directory_structure": TREE, "ensure_objects": TREE_OBJECTS, "key_prefix_shards": 16}),
        "key_prefix_shards contradicts directory_structure",
    ),
    "tree that is too large": (
        changed(prepare={"directory_structure": {**TREE, "width": 1000, "depth": 10}, "ensure_objects": TREE_OBJECTS}),
        "the tree has 5,000,000,000,000,000,000,000,000,000,000 files; at most 8,589,934,592 can be told apart",
    ),
    "tree with one name for all": (
        changed(prepare={"directory_structure": {**TREE, "dir_mask": "d%d"}, "ensure_objects": TREE_OBJECTS}),
        "expected a dir_mask with %d twice (level and number), no other % and no /, found 'd%d'",
    ),
    "part of a tree": (
        changed(
            prepare={"directory_structure": TREE, "ensure_objects": TREE_OBJECTS},
            workload=[{"op": "get", "path": "data/sai3bench.d1_w1.dir/*", "weight": 1}],
        ),
        "names a part of what is prepared at s3://bench-bucket/run/data/",
    ),
    "count missing": (GOOD.replace("count: 1000, ", ""), ":7:7: count of the objects is missing or 0; set it, for example count: 1000"),
    "endpoints of nothing": (
        GOOD + "multi_endpoint: {endpoints: []}\n",
        ":11:18: multi_endpoint.endpoints: expected at least one entry, found none",
    ),
    "more endpoints than there may be": (
        GOOD + f"multi_endpoint: {{endpoints: [{', '.join(f'http://a:{n}' for n in range(1, 34))}]}}\n",
        ":11:18: multi_endpoint.endpoints: expected at most 32 entries, found 33",
    ),
    "unknown strategy": (
        GOOD + "multi_endpoint: {strategy: random, endpoints: [http://a]}\n",
        "expected 'round_robin' or 'least_connections', found 'random'",
    ),
    "endpoint_url and endpoints": (
        GOOD + "multi_endpoint: {endpoints: [http://a:1, http://b:1]}\n",
        ":11:1: s3.endpoint_url and multi_endpoint contradict each other",
    ),
    "endpoints for boto3": (
        changed(s3=None, engine="boto3", multi_endpoint={"endpoints": ["http://a:1", "http://b:1"]}),
        "multi_endpoint needs the native engine: boto3 sends to one endpoint here",
    ),
    "endpoint that is none": (
        changed(s3=None, multi_endpoint={"endpoints": ["http://a:1", "b:1"]}),
        "expected s3://host:port/bucket/prefix/ or http(s)://host:port, found 'b:1'",
    ),
    "endpoint with a port that is none": (changed(s3=None, multi_endpoint={"endpoints": ["s3://a:99999/"]}), "expected s3://host:port/"),
    "endpoint URL with a port that is none": (
        changed(s3=None, multi_endpoint={"endpoints": ["http://a:x"]}),
        "expected http://host:port or https://host, found 'http://a:x'",
    ),
    "copy at several endpoints": (
        changed(
            s3=None,
            multi_endpoint={"endpoints": ["http://a:1", "http://b:1"]},
            workload=[{"op": "copy", "path": "data/", "weight": 1}],
        ),
        "copy needs one endpoint; remove it, or name one endpoint in multi_endpoint",
    ),
    "checksums at several endpoints": (
        changed(s3={"checksum": "crc32"}, multi_endpoint={"endpoints": ["http://a:1", "http://b:1"]}),
        "s3.checksum needs one endpoint",
    ),
    "endpoints of Azure": (AZ + "multi_endpoint: {endpoints: [http://a:1]}\n", ":4:1: multi_endpoint has no meaning for az:// targets"),
    "endpoint twice": (
        changed(s3=None, multi_endpoint={"endpoints": ["http://a:1", "s3://a:1/bench-bucket/"]}),
        "endpoint s3://a:1/bench-bucket/ is given twice",
    ),
    "endpoint of other objects": (
        changed(s3=None, multi_endpoint={"endpoints": ["s3://a:1/bench-bucket/other/", "http://b:1"]}),
        "s3://bench-bucket/run/data/ is not below s3://bench-bucket/other/, where this endpoint is",
    ),
    "endpoint of S3 for files": (
        changed(target="file:///mnt/a/", s3=None, multi_endpoint={"endpoints": ["http://a:1"]}),
        "expected a mount point such as file:///mnt/a/, because the target is one; found 'http://a:1'",
    ),
    "files elsewhere": (
        changed(target="file:///mnt/c/", s3=None, multi_endpoint={"endpoints": ["file:///mnt/a", "file:///mnt/b"]}),
        "file:///mnt/c/data/ is below none of the endpoints file:///mnt/a/, file:///mnt/b/",
    ),
    "an agent without endpoints": (
        changed(
            s3=None, distributed={"agents": [{"id": "h1", "multi_endpoint": {"endpoints": ["http://a:1", "http://b:1"]}}, {"id": "h2"}]}
        ),
        "some agents have a multi_endpoint and this one has none",
    ),
    "splits in words": (GOOD + "timing_splits: some\n", ":11:1: timing_splits: expected true or false, found 'some'"),
    "jitter above one": (GOOD + "error_handling: {retry_jitter_factor: 2}\n", ":11:18: error_handling.retry_jitter_factor: "),
    "nothing at all": ("", ":1: expected a mapping of keys such as target, duration, workload; found nothing"),
    "only a comment": ("# to be written\n", "; found nothing"),
    "a sentence": ("hello\n", "; found 'hello'"),
    "two documents": (GOOD + "---\n" + GOOD, ":11:1: not valid YAML: a second document"),
    "tabs": (GOOD.replace("  ensure", "\tensure"), "a tab at the beginning of a line; indent with spaces"),
    "a bracket that is not closed": (GOOD.replace("weight: 70}", "weight: 70"), "a { is not closed with } (since line 9)"),
    "a key without a space": (GOOD.replace("duration: ", "duration:"), ":2:1: not valid YAML: a line that is no key with its value"),
    "an alias of nothing": (GOOD + "seed: *n\n", ":11:7: not valid YAML: an alias (*) of nothing; its anchor (&) must come before it"),
    "an alias within itself": ("workload: &a [*a, *a]\n", ":1:11: an alias (*) within what it stands for has no end; remove it"),
    "brackets without end": ("workload: " + "[" * 500, "not valid YAML: brackets within brackets without end"),
    "a merge of itself": (GOOD + "s: &s\n  <<: [*s, *s]\n", ":11:4: << takes the keys of other mappings"),
    "merge of no mapping": (GOOD + "<<: [5]\n", ":11:6: << takes the keys of other mappings"),
    "a list as a key": ("? [a, b]\n: 1\n" + GOOD, ":1:3: a key is plain text; found a list or a mapping in its place"),
    "an unknown tag": (GOOD + "seed: !!python/name:os.system 5\n", ":11:1: '5' cannot be read as python/name:os.system; correct it"),
    "a tag that does not fit": (GOOD + "seed: !!int ten\n", ":11:1: 'ten' cannot be read as int; correct it"),
    "a date that is none": (GOOD + "seed: 2020-13-45\n", ":11:1: '2020-13-45' cannot be read as timestamp; correct it"),
    "a number of many digits": (
        GOOD + f"seed: {'9' * 5000}\n",
        "9999...' cannot be read as int",
    ),
    "a variable that is no value": (
        GOOD + "seed: ${S:-@}\n",
        ":11:1: seed: expected a whole number, found '@' (${S:-@} in the file)",
    ),
    "a control character": (GOOD + "name: a\x07b\n", ":11: not valid YAML: the character U+0007; remove it"),
    "a mapping for a list": (
        GOOD + "stages: {p: prepare}\n",
        "stages: expected a list, with a - before each entry, found {'p'",
    ),
    "text for a mapping": (
        GOOD + "stages: [prepare]\n",
        ":11:10: stages.0: expected a mapping of keys (",
    ),
    "a value that is missing": (GOOD.replace("30s", ""), ":2:1: duration: expected a duration such as 90, 60s, 5m or 2h, found nothing"),
    "a switch for a duration": (GOOD.replace("30s", "yes"), "or 2h, found true"),
    "a number for text": (GOOD + "name: 2026\n", ":11:1: name: expected text, found 2026; put it in quotes"),
    "a name with spaces": (GOOD + "name: my run\n", "name: expected 1 to 40 letters, digits, '_', '.' and '-', found 'my run'"),
    "a loss that means nothing": (
        GOOD + "distributed: {on_controller_loss: die}\n",
        "on_controller_loss: expected continue, stop or 'stop_after: 10m', found 'die'",
    ),
    "too many objects": (GOOD.replace("count: 1000", "count: 99999999999999999999"), "expected at most 1,000,000,000,000, found"),
    "a duration of ages": (GOOD.replace("30s", "99999999d"), ":2:1: duration: expected a duration of at most 10 years, found '99999999d'"),
    "a port that is none": (GOOD.replace(":9000", ":99999"), ":4:6: expected http://host:port or https://host, found"),
    "a control character in a path": (GOOD.replace("path: new/", 'path: "a\\0/"'), ":10:15: a path has no control characters, found"),
    "target without a bucket": (GOOD.replace("s3://bench-bucket/run/", "s3://"), ":1:1: '' cannot be the name of a bucket"),
    "read after cleanup": (
        GOOD + "stages: [{name: a, type: prepare}, {name: b, type: cleanup}, {name: c, type: execute}]\n",
        ":11:62: nothing is left to read after the cleanup stage 'b'; give 'c' a smaller order",
    ),
    "read before prepare": (
        GOOD + "stages: [{name: a, type: execute}, {name: b, type: prepare}]\n",
        ":11:10: what stage 'a' is to read is prepared after it; give 'b' a smaller order",
    ),
    "verify before prepare": (
        GOOD + "stages: [{name: a, type: verify, order: 2}, {name: b, type: prepare, order: 3}]\n",
        ":11:10: what stage 'a' is to verify is prepared after it; give 'b' a smaller order",
    ),
    "two stages of one order": (
        GOOD + "stages: [{name: a, type: prepare, order: 1}, {name: b, type: execute, order: 1}]\n",
        "stages 'a' and 'b' both have order 1; which one is first?",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named_with_their_place(name: str, tmp_path: Path) -> None:
    text, expected = BAD[name]
    with pytest.raises(ConfigError) as caught:
        compiled(text, tmp_path)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "w.yml"))


def test_aliases_of_aliases_end(tmp_path: Path) -> None:
    text = "workload:\n" + "".join(f"- &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]\n" for n in range(12))
    with pytest.raises(ConfigError, match=r"w\.yml:\d+:\d+: the file has more than 100,000 values, or aliases .* make it shorter"):
        compiled(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("count: 1000", f"count: {'9' * 400}"), "expected a whole number such as .*, found one without end: 9{80}"),
        (GOOD.replace("count: 1000", "count: 0100"), r"0100 is 64 in YAML 1\.1 and something else in YAML 1\.2; write 64, or put what is"),
        (GOOD.replace("30s", "1:30"), r":2:1: 1:30 is 90 in YAML 1\.1"),
        (GOOD.replace("run/", r'run/\ud800/"').replace("target: ", 'target: "'), r":1:1: 's3://.*' is no text: .* are no characters"),
        (GOOD + "k" * (5 << 20), "w.yml: expected a workload file, which has a few KiB, found more than 4 MiB. Name another file"),
        (GOOD.replace("data/, weight", "../data/, weight"), r"w\.yml:9:[0-9]+: get '../data/': no objects are prepared there"),
    ],
)
def test_traps_of_yaml_are_told(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        compiled(text, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_read_once_and_its_text_is_kept(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, GOOD.encode())
    os.close(writing)
    loaded = config.load(Path(f"/dev/fd/{reading}"))
    os.close(reading)
    plan, assignments = compile_plan(loaded, "r", [Host("a", "a")])
    made = RunDirectory.create(tmp_path, plan, assignments, [Host("a", "a")], loaded.document.text)
    assert (made.path / "config.yaml").read_text() == GOOD


def test_a_run_is_taken_up_in_a_shell_without_the_variables_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.yml"
    path.write_text(GOOD.replace("bench", "${BUCKET_OF_MINE}"))
    loaded = config.load(path, {"BUCKET_OF_MINE": "bench"})
    plan, assignments = compile_plan(loaded, "r", [Host("a", "a")], needs_credentials=True)
    made = RunDirectory.create(tmp_path, plan, assignments, [Host("a", "a")], loaded.document.text)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    assert credentials_of(made) == {"access_key": "AK", "secret_key": "SK", "session_token": None}
    assert "BUCKET_OF_MINE" in capsys.readouterr().err


def test_a_replay_is_taken_up_with_the_credentials_that_its_settings_name(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("[default]\naws_access_key_id = AK\naws_secret_access_key = SK\n")
    settings = tmp_path / "s.yml"
    settings.write_text(f"s3: {{endpoint_url: 'http://s3', credentials_file: {tmp_path}/keys}}\n")
    loaded = config.replay_settings(settings, "s3://bench/x/")
    stage = Stage("replay", StageKind.REPLAY, 1, replay=Replay("s3://bench/x/", ("get",), 1, 0, 1))
    plan, assignments = compile_plan(loaded, "r", [Host("a", "a")], needs_credentials=True, replay=[stage])
    made = RunDirectory.create(tmp_path, plan, assignments, [Host("a", "a")], loaded.document.text)
    assert credentials_of(made) == {"access_key": "AK", "secret_key": "SK", "session_token": None}


def test_very_many_problems_are_not_all_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(GOOD + "".join(f"k{number}: 1\n" for number in range(60)), tmp_path)
    first, *rest, last = str(caught.value).splitlines()
    assert (":11:1: unknown key 'k0'" in first, len(rest), last) == (True, 49, "10 more problems; is this a workload file?")


def test_arguments_and_environments_are_text_as_it_is_written(tmp_path: Path) -> None:
    own = "distributed: {agents: [{id: a, env: {MODE: 0755, FLAG: no, DAY: 2026-01-02, SHARE: 1.10}}]}\n"
    stage = "stages: [{name: c, type: custom, command: /bin/x, args: [yes, 1_000, 0755, 12:30:00, 'a', 1.0e3]}]\n"
    keys = config.load(_file(GOOD + own + stage, tmp_path)).keys
    assert keys.distributed.agents[0].env == {"MODE": "0755", "FLAG": "no", "DAY": "2026-01-02", "SHARE": "1.10"}
    assert keys.stages[0].args == ["yes", "1_000", "0755", "12:30:00", "a", "1.0e3"]


def test_a_target_that_is_wrong_is_one_problem_in_its_own_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(GOOD.replace("s3://bench-bucket", "ftp://bench-bucket"), tmp_path)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/w.yml:1:1: scheme ftp:// is not supported (s3://, file://, direct://, az:// and gs:// are)"
    ]


@pytest.mark.parametrize("write", [lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: t.replace("\n", "\r\n").encode()], ids=["bom", "crlf"])
def test_files_of_other_systems_are_read(write: Any, tmp_path: Path) -> None:
    (tmp_path / "w.yml").write_bytes(write(GOOD))
    assert config.load(tmp_path / "w.yml").keys == config.load(_file(GOOD, tmp_path)).keys


def _file(text: str, tmp_path: Path) -> Path:
    (tmp_path / "plain.yml").write_text(text)
    return tmp_path / "plain.yml"


def test_the_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.yml").write_bytes(GOOD.encode() + "name: Gr\u00fcn\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"w\.yml:11: cannot read .*: it is not UTF-8 text \(byte 0xfc\)\. Save it as UTF-8"):
        config.load(tmp_path / "w.yml")


def test_merged_keys_are_there_and_go_after_those_that_are_written(tmp_path: Path) -> None:
    merged = """workload:
  - &put {op: put, path: new/, weight: 30, size_spec: 4KiB}
  - {<<: *put, path: other/}
  - {weight: 1, <<: [{path: third/, weight: 2}, *put]}
"""
    plan = compiled(GOOD[: GOOD.index("workload")] + merged, tmp_path)
    found = [(op.target.rpartition("run/")[2], op.weight) for op in plan.stages[1].operations]
    assert found == [("new/", 30), ("other/", 30), ("third/", 1)]
    with pytest.raises(ConfigError, match=r"w\.yml:9:32: workload\.1\.weight"):
        compiled(GOOD[: GOOD.index("workload")] + merged.replace("weight: 30", "weight: -1"), tmp_path)


def test_objects_that_no_stage_prepares_are_noticed(tmp_path: Path) -> None:
    stages = "stages: [{name: a, type: execute}]\n"
    notices = config.load(_file(GOOD + stages, tmp_path)).notices
    assert notices == ("line 6: no stage is of type prepare: the objects of ensure_objects must be there already",)
    assert not config.load(_file(GOOD + stages.replace("[", "[{name: p, type: prepare}, "), tmp_path)).notices


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
    "steady": ({"duration": "5m", "steady": {}}, lambda p: [s.steady for s in p.stages], [None, Steady(60.0, 0.02, 0.05, 60.0, "ops", 1)]),
    "steady with all its keys": (
        {"steady": {"window": 10, "slope": "10%", "spread": 0.2, "min_duration": "12s", "metric": "bytes", "confirm": 3}},
        lambda p: p.stages[1].steady,
        Steady(10.0, 0.1, 0.2, 12.0, "bytes", 3),
    ),
    "steady of a stage": (
        {
            "duration": "5m",
            "steady": {"window": "90s"},
            "stages": [
                {"name": "a", "type": "execute"},
                {"name": "b", "type": "execute", "config": {"steady": {"slope": "1%"}}},
                {"name": "c", "type": "execute", "steady": False},
                {"name": "d", "type": "execute", "steady": {"enabled": False}},
            ],
        },
        lambda p: [s.steady for s in p.stages],
        [Steady(90.0), Steady(slope=0.01), None, None],
    ),
    "io_rate": ({"io_rate": {"iops": 500}}, lambda p: [s.io_rate for s in p.stages], [None, IoRate(500.0, "exponential")]),
    "io_rate with its law": (
        {"io_rate": {"iops": "1,000", "distribution": "uniform"}},
        lambda p: p.stages[1].io_rate,
        IoRate(1000.0, "uniform"),
    ),
    "workers": ({"workers": 3}, lambda p: p.workers, 3),
    "pin_workers": ({"pin_workers": True}, lambda p: p.pin_workers, True),
    "seed": ({"seed": 7}, lambda p: (p.seed, p.populations[0].seed), (7, 7001)),
    "engine": ({"engine": "boto3"}, lambda p: p.target.engine, "boto3"),
    "verify_reads": ({"verify_reads": True}, lambda p: p.target.verify_reads, 1.0),
    "verify_reads of a share": ({"verify_reads": "10%"}, lambda p: p.target.verify_reads, 0.1),
    "verify_reads of files": (
        {"target": "file:///tmp/x/", "s3": None, "verify_reads": 0.25},
        lambda p: (p.target.engine, p.target.verify_reads),
        ("file", 0.25),
    ),
    "direct target": (
        {"target": "direct:///d/", "s3": None},
        lambda p: (p.target.engine, p.populations[0].target),
        ("file", "direct:///d/data/"),
    ),
    "fsync": ({"target": "direct:///d/", "s3": None, "fsync": "directory"}, lambda p: p.target.fsync, "directory"),
    "page_cache_mode": ({"target": "file:///d/", "s3": None, "page_cache_mode": "dontneed"}, lambda p: p.target.page_cache, "dontneed"),
    "timing_splits": ({"timing_splits": False}, lambda p: p.timing_splits, False),
    "timing_splits by default": ({"seed": 9}, lambda p: p.timing_splits, True),
    "timing_splits of what cannot tell them": ({"engine": "boto3", "timing_splits": True}, lambda p: p.timing_splits, False),
    "multi_endpoint": (
        {"s3": None, "multi_endpoint": {"endpoints": ["s3://a:9000/bench-bucket/run/", "https://b", "s3://c:443/bench-bucket"]}},
        lambda p: (p.target.endpoints, p.target.endpoint_url, p.target.path_style, p.spreads),
        (("http://a:9000", "https://b", "https://c:443"), None, True, (Spread((0, 1, 2)),) * 3),
    ),
    "multi_endpoint of one": (
        {"s3": None, "multi_endpoint": {"endpoints": ["http://a:9000/"]}},
        lambda p: (p.target.endpoints, p.target.endpoint_url, p.spreads),
        ((), "http://a:9000", ()),
    ),
    "multi_endpoint of files": (
        {"target": None, "s3": None, "multi_endpoint": {"endpoints": ["file:///mnt/a", "file:///mnt/b/"]}},
        lambda p: (p.target.endpoints, p.populations[0].target, p.spreads[2]),
        (("file:///mnt/a/", "file:///mnt/b/"), "file:///mnt/a/data/", Spread((0, 1))),
    ),
    "multi_endpoint instead of a target": (
        {"target": None, "s3": None, "multi_endpoint": {"endpoints": ["s3://a:9000/bench-bucket/x/", "s3://b:9000/bench-bucket/x/"]}},
        lambda p: (p.populations[0].target, p.target.endpoints),
        ("s3://bench-bucket/x/data/", ("http://a:9000", "http://b:9000")),
    ),
    "multi_endpoint per agent": (
        {
            "s3": None,
            "multi_endpoint": {"strategy": "least_connections", "endpoints": ["http://a:1", "http://b:1"]},
            "distributed": {"agents": [{"id": "h1"}, {"id": "h2", "multi_endpoint": {"endpoints": ["http://c:1", "http://a:1"]}}]},
        },
        lambda p: (p.target.endpoints, p.spreads),
        (("http://a:1", "http://b:1", "http://c:1"), (Spread((0, 1), "least_connections"), Spread((2, 0)))),
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
    "delete_batch of an operation": (
        {"workload": [{"op": "delete", "path": "data/", "weight": 1, "delete_batch": 500}]},
        lambda p: [op.delete_batch for op in p.stages[1].operations],
        [500],
    ),
    "delete_batch of a stage": (
        {"stages": [{"name": "p", "type": "prepare"}, {"name": "c", "type": "cleanup", "config": {"delete_batch": 1000}}]},
        lambda p: [stage.delete_batch for stage in p.stages],
        [1, 1000],
    ),
    "delete_batch of the cleanup after prepare": (
        {"prepare": {"ensure_objects": [{"base_uri": "data/", "count": 5, "size_spec": 1}], "cleanup": True, "delete_batch": 9}},
        lambda p: [stage.delete_batch for stage in p.stages],
        [1, 1, 9],
    ),
    "s3.checksum": ({"s3": {"checksum": "crc32"}}, lambda p: p.target.checksum, "crc32"),
    "s3.expect_continue": ({"s3": {"expect_continue": "1MiB"}}, lambda p: p.target.expect_continue, 1 << 20),
    "delimiter": (
        {"workload": [{"op": "list", "path": "data/", "weight": 1, "delimiter": "/"}]},
        lambda p: [op.delimiter for op in p.stages[1].operations],
        ["/"],
    ),
    "a copy": (
        {"workload": [{"op": "copy", "path": "data/", "weight": 1, "key_selection": "zipf"}]},
        lambda p: [(op.kind, op.target, op.population, op.keys) for op in p.stages[1].operations],
        [("copy", "s3://bench-bucket/run/data/", "prepared", KeySelection("zipf", 0.99))],
    ),
    "a copy beside a delete": (
        {"workload": [{"op": "copy", "path": "data/", "weight": 1}, {"op": "delete", "path": "data/", "weight": 1}]},
        lambda p: [(op.kind, op.population) for op in p.stages[1].operations],
        [("copy", "prepared"), ("delete", "deletable")],
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
    "azure": (
        {"target": "az://con-1/x/", "s3": None, "azure": {"endpoint_url": "http://h:1/acc", "account": "acc"}},
        lambda p: (p.target, p.populations[0].target),
        (Target("obstore", "http://h:1/acc", account="acc"), "az://con-1/x/data/"),
    ),
    "azure.multipart_*": (
        {
            "target": "az://con-1/",
            "s3": None,
            "azure": {"multipart_threshold": 5, "multipart_chunksize": "64MiB", "multipart_concurrency": 3},
        },
        lambda p: p.target,
        Target("obstore", multipart=Multipart(5, 64 << 20, 3)),
    ),
    "gcs": (
        {"target": "gcs://buc_1/x/", "s3": None, "gcs": {"endpoint_url": "http://h:1", "multipart_threshold": "1GiB"}, "verify_reads": 0.5},
        lambda p: p.target,
        Target("obstore", "http://h:1", verify_reads=0.5, multipart=Multipart(1 << 30, 8 << 20, 10)),
    ),
    "a target of azure alone": ({"target": "az://con-1/", "s3": None}, lambda p: p.target, Target("obstore")),
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
    "directory_structure": (
        {"prepare": {"directory_structure": TREE, "ensure_objects": TREE_OBJECTS}},
        lambda p: [(q.count, q.tree, q.key_format, q.shards) for q in p.populations],
        [(45, Tree(3, 2, 5), "file_%08d.dat", 0)],
    ),
    "directory_structure with all its keys, as sai3-bench's files have it": (
        {
            "target": "file:///mnt/x",
            "s3": None,
            "prepare": {
                "directory_structure": {**TREE, "distribution": "all", "dir_mask": "d%d_w%d.dir"},
                "ensure_objects": [{"base_uri": "file:///mnt/x", "count": 0, "size_spec": 1}],
            },
            "workload": [{"op": "get", "path": path, "weight": 1} for path in ("/", "d*_w*.dir/**/*", "*", "**/file_*", "d*")],
        },
        lambda p: (p.populations[0].count, p.populations[0].tree, {o.population for o in p.stages[1].operations}),
        (60, Tree(3, 2, 5, everywhere=True, dir_mask="d%d_w%d.dir"), {"prepared"}),
    ),
    "a count that is the tree's": (
        {"prepare": {"directory_structure": TREE, "ensure_objects": [{**TREE_OBJECTS[0], "count": 45}]}},
        lambda p: p.populations[0].count,
        45,
    ),
    "delete and get in a tree share nothing": (
        {
            "prepare": {"directory_structure": TREE, "ensure_objects": TREE_OBJECTS},
            "workload": [{"op": op, "path": "data/", "weight": 1} for op in ("get", "delete")],
        },
        lambda p: ([q.key_format for q in p.populations], [o.population for o in p.stages[1].operations]),
        (["file_%08d.dat", "deletable-%08d.dat"], ["prepared", "deletable"]),
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
    "mkdir and rmdir": (
        {
            "target": "file:///d/",
            "s3": None,
            "workload": [
                {"op": "mkdir", "path": "m", "weight": 3},
                {"op": "rmdir", "path": "m/", "weight": 2, "recursive": True, "concurrency": 2},
            ],
        },
        lambda p: p.stages[1].operations,
        (OperationSpec("mkdir", 3, "file:///d/m/"), OperationSpec("rmdir", 2, "file:///d/m/", concurrency=2, recursive=True)),
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
    path.write_text(GOOD + "distributed: {shared_filesystem: false, tree_creation_mode: isolated}\n")
    for notice, key in zip(config.load(path).notices, ("shared_filesystem", "tree_creation_mode"), strict=True):
        assert notice.startswith(f"line 11: {key} has no effect: "), notice
    path.write_text("op_log_path: x\n" + GOOD + "processes: 4\nprocessing_mode: x\n")
    assert [notice.split(":")[0] for notice in config.load(path).notices] == ["line 1", "line 12", "line 13"]
    path.write_text(GOOD + "op_log_max_bytes: 1GiB\n")
    assert config.load(path).notices == ("line 11: op_log_max_bytes has no effect without op_log_path (or --op-log)",)
    switched_on = config.load(path)
    switched_on.switch_on_op_log()
    assert (switched_on.notices, config.compile_plan(switched_on, "r", HOSTS)[0].op_log_bytes) == ((), 1 << 30)
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
        + "  - {op: delete, path: data/, weight: 1, delete_batch: 7}\n"
        + "  - {op: list, path: data/, weight: 1, delimiter: /}\n"
    )
    loaded = config.load(path)
    described = config.describe(*config.compile_plan(loaded, "r", HOSTS), loaded)
    assert [name for name, _, _ in described.stages[1].mix] == [
        "get (zipf 0.99, partitioned, at most 4 at once)",
        "put",
        "delete (7 with one request)",
        "list (one level)",
    ]
    assert described.stages[1].pace == "open loop, 50 operations/s per agent, exponential, ramp of 2 s"
    path.write_text(GOOD.replace("30s", "5m") + "steady: {confirm: 2}\n")
    loaded = config.load(path)
    described = config.describe(*config.compile_plan(loaded, "r", HOSTS), loaded)
    limits = "ops/s with slope <= 2 %, spread <= 5 % over 60 s, 2 times in succession, at least 60 s"
    assert described.stages[1].pace == f"until steady: {limits}"


def test_the_description_names_what_is_special_about_files(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    for keys, text in (({}, ""), ({"fsync": "directory", "page_cache_mode": "dontneed"}, ", fsync directory, page cache dontneed")):
        path.write_text(changed(target="file:///d/", s3=None, **keys))
        loaded = config.load(path)
        assert config.describe(*config.compile_plan(loaded, "r", HOSTS), loaded).endpoint == "file system of each host" + text


def test_a_range_engine_that_is_switched_off_changes_nothing(tmp_path: Path) -> None:
    assert compiled(changed(range_engine={"enabled": False, "chunk_size": "1MiB"}), tmp_path) == compiled(GOOD, tmp_path)


VARIABLES: dict[str, tuple[str, dict[str, str], Any, Any]] = {
    "a number": (GOOD.replace("concurrency: 8", "concurrency: ${N}"), {"N": "12"}, lambda p: p.stages[0].concurrency, 12),
    "a number in quotes, within { }": (GOOD.replace("70", '"${N}"'), {"N": "12"}, lambda p: p.stages[1].operations[0].weight, 12),
    "a number with a fraction": (
        GOOD.replace("weight: 30", "weight: 1, dedup_factor: '${N}'"),
        {"N": "1.5"},
        lambda p: p.stages[1].operations[1].dedup_factor,
        1.5,
    ),
    "a switch": (GOOD + "pin_workers: ${P}\n", {"P": "true"}, lambda p: p.pin_workers, True),
    "a share or a switch": (GOOD + "verify_reads: ${P}\n", {"P": "yes"}, lambda p: p.target.verify_reads, 1.0),
    "a switch for a section": (GOOD + "steady: ${P}\n", {"P": "no"}, lambda p: p.stages[1].steady, None),
    "text that looks like a number": (GOOD + "name: ${N}\n", {"N": "2026"}, lambda p: p.name, "2026"),
    "a part of a URI": (GOOD.replace("bench-bucket", "${B:-fallback}"), {}, lambda p: p.populations[0].target, "s3://fallback/run/data/"),
    "several in a value": (GOOD.replace("30s", "${N}${U:-m}"), {"N": "2"}, lambda p: p.stages[1].duration_s, 120.0),
    "a count, a size": (
        GOOD.replace("count: 1000, size_spec: 4KiB", "count: '${N}', size_spec: '${S}'"),
        {"N": "1,000", "S": "8"},
        lambda p: (p.populations[0].count, p.populations[0].size.max),
        (1000, 8),
    ),
    "entries of lists": (
        GOOD.replace(GOOD.splitlines()[3], "multi_endpoint:\n  endpoints:\n    - ${A}\n    - http://b:${P}"),
        {"A": "http://a:1", "P": "5"},
        lambda p: p.target.endpoints,
        ("http://a:1", "http://b:5"),
    ),
    "deep in a stage": (
        GOOD + "stages: [{name: p, type: prepare}, {name: x, order: '${N}', config: {type: execute, duration: '${D}'}}]\n",
        {"N": "5", "D": "7"},
        lambda p: p.stages[1].duration_s,
        7.0,
    ),
    "the default of an empty one": (GOOD.replace("30s", "${D:-9s}"), {"D": ""}, lambda p: p.stages[1].duration_s, 9.0),
    "nothing": (GOOD.replace(GOOD.splitlines()[3], "s3:\n  endpoint_url: ${E:-}"), {}, lambda p: p.target.endpoint_url, None),
    "an escaped one": (GOOD.replace("data/", "'$${N}$$/'"), {"N": "12"}, lambda p: p.populations[0].target, "s3://bench-bucket/run/${N}$/"),
    "a $ alone": (GOOD.replace("data/", "$N/"), {"N": "12"}, lambda p: p.populations[0].target, "s3://bench-bucket/run/$N/"),
    "comments": (GOOD.replace("30s", "30s  # ${UNSET}, ${"), {}, lambda p: p.name, "run"),
    "what looks like YAML": (
        GOOD.replace("data/", "'${N}/'"),
        {"N": "[a, b] # {c: d}"},
        lambda p: p.populations[0].target,
        "s3://bench-bucket/run/[a, b] # {c: d}/",
    ),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_are_replaced_everywhere_and_are_what_the_key_wants(name: str, tmp_path: Path) -> None:
    text, environ, look, expected = VARIABLES[name]
    assert look(compiled(text, tmp_path, **environ)) == expected


def test_each_variable_that_is_not_set_is_named_once_with_all_its_lines(tmp_path: Path) -> None:
    text = GOOD.replace("concurrency: 8", "concurrency: ${N}").replace("30s", "${N}") + "seed: ${N}\nname: ${M}\n"
    with pytest.raises(ConfigError) as caught:
        compiled(text, tmp_path)
    assert str(caught.value).replace(str(tmp_path), "").splitlines() == [
        "/w.yml:2:1: environment variable N is not set (also needed in line 3, 11); set it, or give a default: ${N:-default}",
        "/w.yml:12:1: environment variable M is not set; set it, or give a default: ${M:-default}",
    ]


def test_messages_have_no_secrets(tmp_path: Path) -> None:
    text = GOOD.replace("concurrency: 8", "concurrency: ${MY_TOKEN}") + "name: a ${OTHER}\n"
    with pytest.raises(ConfigError) as caught:
        compiled(text.replace("http://127", "http://user:hush@127"), tmp_path, MY_TOKEN="hush-hush", OTHER="hush-hush!")
    with pytest.raises(ConfigError) as again:
        compiled(GOOD.replace("http://127", "http://user:hush-hush@127"), tmp_path)
    assert "hush" not in f"{caught.value} {again.value}"
    assert "a URL has no user, password, query or fragment" in str(again.value)


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
    assert sizes == ["4KiB", "4KiB, dedup 2:1, compress 1.5:1"]


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


def test_percent_are_exact() -> None:
    assert [units.share(f"{percent}%") for percent in range(101)] == [percent / 100 for percent in range(101)]


@pytest.mark.parametrize("text", ["1,5", "1,50", "10,0000", ",5", "5,", "1,,000"])
def test_a_comma_is_no_decimal_point(text: str) -> None:
    for read in (units.size, units.duration, units.count, units.rate, units.share):
        with pytest.raises(ValueError, match="expected"):
            read(text)


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
