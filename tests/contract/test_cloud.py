"""Preflight and whole runs on az:// and gs:// targets, with the zipapp that hosts get, on real servers."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import bundle
from tests.agent.s3_server import wait_for
from tests.cloud_servers import Azurite, clean_environment, lacks_azurite
from tests.contract.agent_processes import end_agents

ALL = ("get", "put", "list", "stat", "delete")
WORKLOAD = """
target: {uri}
concurrency: 2
workers: 1
{section}: {{endpoint_url: {url}, multipart_threshold: 6MiB, multipart_chunksize: 5MiB}}
verify_reads: true
distributed: {{start_delay: 300ms}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: 40, size_spec: {{uniform: {{min: 0, max: 300KiB}}}}}}
workload:
  - {{op: get, path: data/, weight: 40}}
  - {{op: put, path: new/, weight: 1, size_spec: 6MiB}}
  - {{op: list, path: data/, weight: 10}}
  - {{op: stat, path: data/, weight: 20}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: verify, type: verify, order: 1}}
  - {{name: mix, type: execute, duration: 1s, order: 2}}
  - {{name: cleanup, type: cleanup, order: 3}}
"""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["az", "gs"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def container(server: Any) -> str:
    name = f"cloud-{uuid.uuid4().hex[:12]}"
    server.create(name)
    return name


class Host:
    """This machine, with the zipapp."""

    def __init__(self, directory: Path) -> None:
        self.archive = bundle.build(directory)
        self.state = directory / "state"

    def preflight(
        self,
        server: Any,
        uri: str,
        operations: tuple[str, ...] = ALL,
        url: str = "",
        python: tuple[str, ...] = (sys.executable,),
        **keys: str,
    ) -> dict[str, dict[str, Any]]:
        """The findings about storage, by check."""
        target = {"uri": uri, "endpoint_url": url or server.url, "operations": operations}
        credentials = {**server.credentials(), **keys}
        request = {"state_dir": str(self.state), "skip": ["host"], "plan": {"storage": [target]}, "credentials": credentials}
        argv = [*python, str(self.archive), "preflight", "--json"]
        done = subprocess.run(argv, input=json.dumps(request), capture_output=True, text=True, timeout=30, check=True)
        assert not any(value and value in done.stdout for name, value in credentials.items() if name != "account")
        answer = json.loads(done.stdout)
        assert answer["seconds"] < 20
        return {f["check"]: f for f in answer["findings"] if not f["check"].startswith("host")}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("host"))


def only(found: dict[str, dict[str, Any]], level: str, check: str, *texts: str) -> None:
    """The check has that level, with those texts, and no other has one as bad."""
    assert [name for name, finding in found.items() if finding["level"] == level] == [check], found
    for text in texts:
        assert text in f"{found[check]['found']} | {found[check]['remedy']}"


def test_preflight_of_a_healthy_target(server: Any, host: Host) -> None:
    name = container(server)
    uri = f"{server.scheme}://{name}/p/"
    empty = host.preflight(server, uri, ("get", "stat"))
    only(empty, "warning", "storage.list", "nothing is below the prefix")
    server.put(name, "p/a b+ü", b"x" * 5000)
    found = host.preflight(server, uri)
    assert {finding["level"] for finding in found.values()} == {"ok"}, found
    path = {f"storage.{check}" for check in ("engine", "credentials", "dns", "tcp", "http", "clock")}
    assert set(found) == path | {f"storage.{op}" for op in ALL}
    wait_for(lambda: server.counts(name, "put") >= 2, "the log of both puts")
    assert host.preflight(server, uri, ("get", "stat"))["storage.get"]["found"].startswith("get in")
    assert server.counts(name, "put") == 2  # a workload that puts nothing has nothing written


def test_preflight_of_what_is_missing(server: Any, host: Host) -> None:
    scheme = server.scheme
    missing = host.preflight(server, f"{scheme}://no-such-container-anywhere/x/")
    only(missing, "failure", "storage.list", "no such", "Create the")
    if scheme == "az":
        return
    only(host.preflight(server, "gs://con/x/", url="http://127.0.0.1:1"), "failure", "storage.tcp", "refused")
    # Without site-packages: a host whose Python has no obstore.
    lacking = host.preflight(server, "gs://con/x/", python=(sys.executable, "-S"))
    only(lacking, "failure", "storage.engine", "obstore", "sai3ssh_agent_extras: [obstore]", "sai3ssh_python")
    assert {name for name, finding in lacking.items() if finding["level"] == "ok"} == set()


def test_preflight_of_a_reader(az: Azurite, host: Host) -> None:
    name = container(az)
    az.put(name, "p/a", b"x" * 50)
    reader = {"account_key": "", "sas_token": az.sas_token("rl")}
    found = host.preflight(az, f"az://{name}/p/", ("put", "get", "list", "delete"), **reader)
    only(found, "failure", "storage.put", "denied access", "SAS token")
    assert (found["storage.get"]["level"], found["storage.list"]["level"]) == ("skipped", "ok")
    reading = host.preflight(az, f"az://{name}/p/", ("get", "stat", "list"), **reader)
    assert {finding["level"] for finding in reading.values()} == {"ok"}, reading
    wrong = host.preflight(az, f"az://{name}/p/", account_key="d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXk=")
    only(wrong, "failure", "storage.list", "AZURE_STORAGE_ACCOUNT")


def test_a_run(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server = request.getfixturevalue("gs" if lacks_azurite() else "az")
    name = container(server)
    local = {"ansible_connection": "local", "sai3ssh_python": sys.executable}
    hosts = {agent: {**local, "sai3ssh_agent_state_dir": str(tmp_path / agent)} for agent in ("left", "right")}
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    section = {"az": "azure", "gs": "gcs"}[server.scheme]
    (tmp_path / "w.yml").write_text(WORKLOAD.format(uri=f"{server.scheme}://{name}/run/", section=section, url=server.url))
    keys = {"account": "AZURE_STORAGE_ACCOUNT", "account_key": "AZURE_STORAGE_KEY", "bearer_token": "GOOGLE_BEARER_TOKEN"}
    environment = {**clean_environment(), **{keys[name]: value for name, value in server.credentials().items()}}
    argv = [sys.executable, "-m", "sai3ssh.cli", "run", "w.yml", "-i", "hosts.yml", "--results-dir", "results", "--json", "--skip", "host"]
    try:
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False)
    finally:
        end_agents(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (run,) = (tmp_path / "results").iterdir()
    results = json.loads((run / "results.json").read_text())
    assert results["verdict"] == "COMPLETE"
    journals = "".join(path.read_text() for path in run.glob("agents/*/journal.ndjson"))
    ends = [json.loads(line) for line in journals.splitlines() if '"kind":"stage_end"' in line]
    totals = {end["name"]: [e["totals"] for e in ends if e["name"] == end["name"]] for end in ends}
    assert sum(t["put"]["ops"] for t in totals["prepare"]) == 40
    assert sum(t["get"]["ops"] for t in totals["verify"]) == 40
    assert sum(t["delete"]["ops"] for t in totals["cleanup"]) >= 40
    requests = {op: sum(t.get(op, {}).get("requests", 0) for stage in totals.values() for t in stage) for op in ALL}
    assert all(requests.values()), requests
    # At each of two places the preflight of an agent and the check of its worker list, put and delete; data/ is read by preflight, too.
    for op, tried in {"get": 1, "stat": 1, "put": 4, "list": 4, "delete": 4}.items():
        wait_for(lambda op=op, tried=tried: server.counts(name, op) >= requests[op] + 2 * tried, f"the log of each {op}")
        assert server.counts(name, op) == requests[op] + 2 * tried, op
    told = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pyz")
    assert not any(value in told for name, value in server.credentials().items() if name != "account")
