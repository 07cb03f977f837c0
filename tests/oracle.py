"""What the server holds and what it logged, by code that shares nothing with the product."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

# ... beast: 0x7f..: 10.88.0.11 - test [23/Nov/2026:19:00:00.000 +0000] "PUT /bucket/key HTTP/1.1" 200 0 - - - latency=0.001s
_LINE = re.compile(
    r'beast: \S+ (?P<address>\S+) - (?P<user>\S+) \[[^\]]*\] "(?P<method>[A-Z]+) (?P<target>\S+) HTTP/1\.[01]" (?P<status>\d{3}) '
)


def list_bucket(server: Any, bucket: str) -> dict[str, int]:
    """Key to size, by boto3."""
    with server.inside():
        pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def check_content(server: Any, bucket: str, keys: list[str], size: int) -> None:
    """Size, and ETag against the MD5 of the bytes that the server gives; no two objects alike."""
    seen = set()
    with server.inside():
        client = server.client()
        for key in keys:
            answer = client.get_object(Bucket=bucket, Key=key)
            body = answer["Body"].read()
            assert len(body) == size, key
            assert answer["ETag"].strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest(), key
            seen.add(body)
    assert len(seen) == len(keys)


def requests(server: Any, bucket: str, clients: set[str]) -> Counter[str]:
    """Requests of clients (addresses) on a bucket by method, LIST apart from GET, that the gateway has logged.

    The agents' own checks before a run are no operations of it: a LIST of one key, and probe objects.
    """
    counts: Counter[str] = Counter()
    with server.access_log.open(errors="replace") as log:
        for line in log:
            match = _LINE.search(line)
            if match is None or (match["address"].rpartition(":")[0] not in clients and match["address"] not in clients):
                continue
            path, _, query = match["target"].partition("?")
            if not path.startswith(f"/{bucket}"):
                continue
            key = path.removeprefix(f"/{bucket}").lstrip("/")
            if not key:
                if "list-type=2" in query and "max-keys=1" not in query.split("&"):
                    counts["LIST"] += 1
            elif ".sai3ssh" not in key:
                counts[match["method"]] += 1
    return counts
