"""What az:// and gs:// targets take from the operator's environment, and what a plan of them needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sai3ssh import config
from sai3ssh.config import credentials
from sai3ssh.errors import ConfigError
from sai3ssh.model import Host, Plan, Replay, Stage, StageKind
from sai3ssh.preflight import demand

TEXT = "target: {uri}\nconcurrency: 8\nworkers: 1\nworkload:\n- {{op: put, path: n/, weight: 1, object_size: 64MiB}}\n"
HOSTS = [Host("h1", "192.0.2.1")]
KEY = json.dumps({"type": "service_account", "client_email": "a@b", "private_key": "PEM-SECRET", "private_key_id": "1"})


def workload(tmp_path: Path, uri: str, more: str = "") -> config.Workload:
    path = tmp_path / "w.yml"
    path.write_text(TEXT.format(uri=uri) + more)
    return config.load(path)


def plan(loaded: config.Workload) -> Plan:
    return config.compile_plan(loaded, "r", HOSTS)[0]


def test_azure_takes_a_key_before_a_token_and_the_files_account_before_the_environments(tmp_path: Path) -> None:
    environ = {
        "AZURE_STORAGE_ACCOUNT": "env",
        "AZURE_STORAGE_KEY": "a2V5LXNlY3JldA==",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
    }
    loaded = workload(tmp_path, "az://con/")
    found = credentials.find(loaded, environ)
    assert found == {"account": "env", "account_key": "a2V5LXNlY3JldA==", "sas_token": None}
    assert "a2V5" not in repr(found)
    assert credentials.of_plan(plan(loaded), environ) == found
    assert credentials.find(loaded, {**environ, "AZURE_STORAGE_SAS_TOKEN": "sig=s"}) == found
    token = {"AZURE_STORAGE_ACCOUNT": "env", "AZURE_STORAGE_SAS_TOKEN": "sig=s"}
    named = workload(tmp_path, "az://con/", "azure: {account: file}\n")
    assert credentials.find(named, token) == {"account": "file", "account_key": None, "sas_token": "sig=s"}
    assert credentials.find(loaded, {"AZURE_STORAGE_ACCOUNT": "env"}) is None
    with pytest.raises(ConfigError, match="AZURE_STORAGE_KEY is set, but no storage account"):
        credentials.find(loaded, {"AZURE_STORAGE_KEY": "a2V5"})


def test_a_plan_that_replays_says_whose_credentials_it_needs(tmp_path: Path) -> None:
    loaded = config.replay_settings(None, "az://con/x/")
    stage = Stage("replay", StageKind.REPLAY, 1, replay=Replay("az://con/x/", ("get",), 1, 0, 1))
    made, _ = config.compile_plan(loaded, "r", HOSTS, replay=[stage])
    environ = {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_SAS_TOKEN": "sig=s"}
    assert credentials.of_plan(made, environ) == {"account": "a", "account_key": None, "sas_token": "sig=s"}


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_google_takes_a_token_before_the_contents_of_a_key_file(scheme: str, tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(KEY)
    loaded = workload(tmp_path, f"{scheme}://buc/")
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    assert credentials.find(loaded, environ) == {"service_account": KEY}
    assert credentials.of_plan(plan(loaded), environ) == {"service_account": KEY}
    assert credentials.find(loaded, {**environ, "GOOGLE_BEARER_TOKEN": "ya29"}) == {"bearer_token": "ya29"}
    assert credentials.find(loaded, {}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("PEM-SECRET", "is not the key of a service account"),
        (json.dumps(["PEM-SECRET"]), "is not the key of a service account"),
        (json.dumps({"type": "authorized_user", "refresh_token": "PEM-SECRET"}), "is not the key of a service account"),
    ],
)
def test_a_key_file_that_is_none_is_not_quoted(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        credentials.find(workload(tmp_path, "gs://buc/"), {"GOOGLE_APPLICATION_CREDENTIALS": str(file)})
    assert "PEM-SECRET" not in str(caught.value)
    assert "GOOGLE_BEARER_TOKEN" in str(caught.value)


def test_what_is_put_is_in_memory(tmp_path: Path) -> None:
    def needed(uri: str, more: str = "") -> int:
        return demand.memory_bytes(plan(workload(tmp_path, uri, more)))

    without = needed("s3://buc/")
    assert needed("az://con/") == without + 8 * (64 << 20)
    connections = 7 * 8 * demand.OPERATION_BYTES  # more of them, since parts go at once
    parts = "azure: {multipart_threshold: 16MiB, multipart_concurrency: 8, multipart_chunksize: 5MiB}\n"
    assert needed("az://con/", parts) == without + 8 * (9 * (5 << 20)) + connections


def test_the_description_says_where_and_by_whom(tmp_path: Path) -> None:
    for uri, more, endpoint in (
        ("az://con/", "", "Azure, account of the environment"),
        ("az://con/", "azure: {account: acc}\n", "Azure, account acc"),
        ("gs://buc/", "", "Google Cloud Storage"),
        ("gs://buc/", "gcs: {endpoint_url: 'http://h:1'}\n", "http://h:1"),
    ):
        loaded = workload(tmp_path, uri, more)
        described = config.describe(*config.compile_plan(loaded, "r", HOSTS), loaded)
        assert (described.engine, described.endpoint, described.credentials) == ("obstore", endpoint, "environment")
