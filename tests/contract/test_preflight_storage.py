"""Preflight's host side, as the zipapp that hosts get, on real S3 servers. The oracle is a boto3 client of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import bundle
from tests.servers import RadosGw, Rclone

ALL = ("get", "put", "list", "stat", "delete")

pytestmark = pytest.mark.timeout(120)


class Host:
    """This machine, with the zipapp."""

    def __init__(self, directory: Path, server: Any) -> None:
        self.archive = bundle.build(directory)
        self.state = directory / "state"
        self.server = server

    def preflight(self, uri: str, operations: tuple[str, ...] = ALL, url: str = "", **keys: str) -> dict[str, dict[str, Any]]:
        """The findings about storage, by check."""
        target = {"uri": uri, "endpoint_url": url or self.server.endpoint_url, "operations": operations}
        pair = {"access_key": self.server.access_key, "secret_key": self.server.secret_key, "session_token": None, **keys}
        request = {"state_dir": str(self.state), "skip": ["host"], "plan": {"storage": [target]}, "credentials": pair}
        argv = [sys.executable, str(self.archive), "preflight", "--json"]
        done = subprocess.run(argv, input=json.dumps(request), capture_output=True, text=True, timeout=30, check=True)
        assert pair["secret_key"] not in done.stdout
        answer = json.loads(done.stdout)
        assert answer["seconds"] < 20
        return {f["check"]: f for f in answer["findings"] if not f["check"].startswith("host")}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, radosgw: RadosGw) -> Host:
    return Host(tmp_path_factory.mktemp("host"), radosgw)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, rclone: Rclone) -> Host:
    return Host(tmp_path_factory.mktemp("host"), rclone)


@pytest.fixture(params=["gateway", "plain"])
def host(request: pytest.FixtureRequest) -> Host:
    found: Host = request.getfixturevalue(request.param)
    return found


def only(found: dict[str, dict[str, Any]], level: str, check: str, *texts: str) -> None:
    """The check has that level, with those texts, and no other has one as bad."""
    assert [name for name, finding in found.items() if finding["level"] == level] == [check], found
    for text in texts:
        assert text in f"{found[check]['found']} | {found[check]['remedy']}"


def test_healthy(host: Host) -> None:
    bucket = host.server.bucket()
    client = host.server.client()
    client.put_object(Bucket=bucket, Key="p/it's a+b ü", Body=b"x" * 5000)
    found = host.preflight(f"s3://{bucket}/p/")
    assert {finding["level"] for finding in found.values()} == {"ok"}
    assert {"storage.rtt", "storage.lifecycle", *(f"storage.{op}" for op in ALL)} <= set(found)
    assert host.preflight(f"s3://{bucket}/p/", ("get", "stat"))["storage.get"]["found"].startswith("get in")
    assert [key["Key"] for key in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["p/it's a+b ü"]


def test_wrong_keys(host: Host) -> None:
    uri = f"s3://{host.server.bucket()}/p/"
    only(host.preflight(uri, secret_key="not-the-secret-of-this-key"), "failure", "storage.list", "AWS_SECRET_ACCESS_KEY")
    only(host.preflight(uri, access_key="AKNOBODYKNOWSME00000"), "failure", "storage.list", "AWS_ACCESS_KEY_ID")


def test_missing_bucket(host: Host) -> None:
    only(host.preflight("s3://no-such-bucket-anywhere/x/"), "failure", "storage.list", "no such bucket", "Create the bucket")


def test_bucket_that_this_key_may_only_read(gateway: Host) -> None:
    server = gateway.server
    bucket = server.bucket()
    client = server.client()
    client.put_object(Bucket=bucket, Key="p/a", Body=b"x")
    other = {"access_key": "AKREADER000000000000", "secret_key": "reader-secret-of-this-test"}
    server.add_user("reader", **other)
    grant = {"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/reader"]}, "Action": ["s3:ListBucket", "s3:GetObject"]}
    policy = {"Version": "2012-10-17", "Statement": [{**grant, "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    found = gateway.preflight(f"s3://{bucket}/p/", **other)
    only(found, "failure", "storage.put", "denied access", "s3:PutObject")
    assert {found[f"storage.{name}"]["level"] for name in ("list", "rtt", "versioning", "lifecycle")} == {"ok"}
    reading = gateway.preflight(f"s3://{bucket}/p/", ("get", "stat", "list"), **other)
    assert {finding["level"] for finding in reading.values()} == {"ok"}


def test_bucket_that_keeps_versions_and_expires(gateway: Host) -> None:
    bucket = gateway.server.bucket()
    client = gateway.server.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    rule = {"ID": "clean", "Status": "Enabled", "Filter": {"Prefix": "p/"}, "Expiration": {"Days": 3}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    found = gateway.preflight(f"s3://{bucket}/p/")
    assert [name for name, f in found.items() if f["level"] != "ok"] == ["storage.versioning", "storage.lifecycle"]
    assert {found[name]["level"] for name in ("storage.versioning", "storage.lifecycle")} == {"warning"}
    assert "clean expires after 3 days" in found["storage.lifecycle"]["found"]
    left = client.list_object_versions(Bucket=bucket)
    assert ("Versions" in left, "DeleteMarkers" in left) == (False, False)


def test_bucket_that_locks_objects(gateway: Host) -> None:
    client = gateway.server.client()
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    assert gateway.preflight("s3://locked/p/")["storage.object_lock"]["level"] == "ok"
    lock = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    client.put_object_lock_configuration(Bucket="locked", ObjectLockConfiguration=lock)
    found = gateway.preflight("s3://locked/p/")
    assert found["storage.object_lock"]["level"] == "warning"
    assert "1 days (GOVERNANCE)" in found["storage.object_lock"]["found"]
    # A probe would stay.
    assert found["storage.put"]["level"] == "skipped"
    assert "Versions" not in client.list_object_versions(Bucket="locked")
