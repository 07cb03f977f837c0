"""Preflight's host side where only root can break things: full and read-only file systems, a service of another user."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import bundle

SERVICE, STRANGER = 65533, 65532
"""Users without a name, a home or rights."""

QUIET = {"AWS_EC2_METADATA_DISABLED": "true", "PATH": os.environ["PATH"]}
SSH_USER = {"AWS_ACCESS_KEY_ID": "AKIDSSHUSER", "AWS_SECRET_ACCESS_KEY": "not-of-the-service", "PATH": os.environ["PATH"]}
"""The environment of who logs in, with keys that the service has not."""

PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"
"""One that every user may run."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter, with the zipapp."""
    directory = Path(tempfile.mkdtemp(prefix="sai3ssh-test-"))
    directory.chmod(0o755)
    bundle.build(directory).rename(directory / "agent.pyz")
    yield directory
    for path in (directory, *(Path(f"/dev/shm/sai3ssh-{user}") for user in (SERVICE, STRANGER))):
        shutil.rmtree(path, ignore_errors=True)


def preflight(place: Path, request: dict[str, Any], prelude: str = "true", **options: Any) -> dict[str, dict[str, Any]]:
    """The findings by check, after the shell's prelude in a mount namespace of its own."""
    command = f"{prelude} && exec {shlex.join([PYTHON, str(place / 'agent.pyz'), 'preflight', '--json'])}"
    argv = ["sh", "-c", command] if options else ["unshare", "--mount", "sh", "-c", command]
    done = subprocess.run(argv, input=json.dumps(request), capture_output=True, text=True, timeout=30, check=False, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


def bad(found: dict[str, dict[str, Any]], *texts: str) -> list[str]:
    """The checks that failed; their findings have the texts."""
    failed = [finding for finding in found.values() if finding["level"] == "failure"]
    for text in texts:
        assert text in " ".join(f"{finding['found']} {finding['remedy']}" for finding in failed)
    return [finding["check"] for finding in failed]


def small(path: Path, options: str) -> str:
    return f"mkdir -p {path} && mount -t tmpfs -o {options} tmpfs {path}"


def fill(path: Path) -> str:
    return f"( cat /dev/zero > {path}/filler 2>/dev/null; true )"


def test_full_spool(place: Path) -> None:
    state = place / "state"
    found = preflight(place, {"state_dir": str(state)}, f"{small(state, 'size=256k')} && {fill(state)}")
    assert bad(found, f"{state} cannot be written to: No space left", "sai3ssh_agent_state_dir") == ["host.disk"]
    found = preflight(place, {"state_dir": str(state), "plan": {"journal_bytes": 1 << 20}}, small(state, "size=256k"))
    assert bad(found, "256.0 KiB free") == ["host.disk"]
    found = preflight(place, {"state_dir": str(state)}, small(state, "size=200m,nr_inodes=20"))
    assert bad(found, "inodes free") == ["host.disk"]
    found = preflight(place, {"state_dir": str(state)}, f"{small(state, 'size=200m')} && mount -o remount,ro {state}")
    assert bad(found, "read-only") == ["host.disk"]


def test_full_shared_memory(place: Path) -> None:
    found = preflight(place, {"state_dir": str(place / "state")}, small(Path("/dev/shm"), "size=512k"))
    assert bad(found, "free in /dev/shm", "remount,size") == ["host.shm"]


def test_file_target(place: Path) -> None:
    data = place / "data"
    storage = {"uri": f"file://{data}/", "operations": ["put"], "write_bytes": 1 << 20, "objects": 10}
    request = {"state_dir": str(place / "state"), "plan": {"storage": [storage]}}
    assert bad(preflight(place, request, small(data, "size=2m,nr_inodes=100"))) == []
    assert bad(preflight(place, request, small(data, "size=512k")), "512.0 KiB free") == ["file.space"]
    assert bad(preflight(place, request, small(data, "size=2m,nr_inodes=5")), "inodes") == ["file.space"]
    readonly = f"{small(data, 'size=2m,nr_inodes=100')} && mount -o remount,ro {data}"
    assert bad(preflight(place, request, readonly), "Read-only file system", "remount,rw") == ["file.write"]
    (place / "own").mkdir()
    os.chown(place / "own", STRANGER, STRANGER)
    found = preflight(place, {**request, "state_dir": str(place / "own")}, user=STRANGER, group=STRANGER, extra_groups=[])
    assert bad(found, f"{data} cannot be written to: Permission denied", "chown") == ["file.write"]


def test_service_of_another_user(place: Path) -> None:
    state = place / "spool"
    state.mkdir()
    os.chown(state, SERVICE, SERVICE)
    state.chmod(0o755)
    argv = [PYTHON, str(place / "agent.pyz"), "serve", "--foreground", "--halt", "--state", str(state)]
    request = {"state_dir": str(state)}

    def start() -> subprocess.Popen[bytes]:
        limit = ["sh", "-c", 'ulimit -n 300 && exec "$@"', "sh", *argv]
        process = subprocess.Popen(limit, user=SERVICE, group=SERVICE, extra_groups=[], stderr=subprocess.DEVNULL, umask=0o027, env=QUIET)
        deadline = time.monotonic() + 20
        while not (state / "agent.sock").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        return process

    service = start()
    try:
        member = {"user": STRANGER, "group": STRANGER, "extra_groups": [SERVICE]}
        found = preflight(place, request, **member)
        # Of this user's own limit nothing is said: the service does the work.
        assert bad(found, f"at most 300 open files for the agent's service (pid {service.pid})") == ["host.open_files"]
        assert found["host.agent"]["found"].endswith(f"running as a service, pid {service.pid}")
        assert found["host.disk"]["level"] == "ok"
        # Targets are looked at by who will use them, too.
        own = {"uri": f"file://{place}/data/", "operations": ["put"]}
        targets = {**request, "plan": {"open_files": 300, "storage": [own]}}
        (place / "data").mkdir()
        os.chown(place / "data", SERVICE, SERVICE)
        found = preflight(place, targets, **member)
        assert bad(found) == []
        assert found["file.write"]["level"] == "ok"
        os.chown(place / "data", STRANGER, STRANGER)
        assert bad(preflight(place, targets, **member), "Permission denied") == ["file.write"]
        bucket = {"uri": "s3://b/", "endpoint_url": "http://127.0.0.1:1", "operations": ["get"]}
        found = preflight(place, {**request, "plan": {"open_files": 300, "storage": [bucket]}}, **member, env=SSH_USER)
        assert bad(found, "AWS_ACCESS_KEY_ID", "Connection refused") == ["storage.credentials", "storage.tcp"]
        found = preflight(place, {**targets, "digest": "f" * 64, "version": "9.9"}, **member)
        assert bad(found, "as a service", "playbooks/upgrade.yml") == ["host.agent"]
        assert found["storage"]["level"] == "skipped"
        assert "agent 9.9 (sha256 ffffffffffff)" in found["host.agent"]["expected"]
        (state / "runs").mkdir(0o700)
        found = preflight(place, request, user=STRANGER, group=STRANGER, extra_groups=[])
        assert bad(found, "may not speak", "sai3ssh_agent_members") == ["host.agent"]
        (state / "runs").rmdir()
    finally:
        service.kill()
        service.wait(10)
    found = preflight(place, request, **member)
    assert bad(found, "does not answer", "systemctl status sai3ssh-agent") == ["host.agent"]
