"""The playbooks through ansible-runner, as the command runs them: real Ansible, a real sshd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sai3ssh.provision import Play, Progress, run
from tests.contract.sshd_server import Sshd, free_port

BIN = Path(sys.executable).parent
SECRET = "S3cr3t-" + "q" * 20
PACKAGED = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "sshd")
    yield server
    server.stop()


def inventory(path: Path, **hosts: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump({"all": {"hosts": {"here": {"ansible_connection": "local"}, **hosts}}}))
    return str(path)


def over_ssh(server: Sshd, port: int, known_hosts: str) -> dict[str, Any]:
    options = f"-F none -o UserKnownHostsFile={known_hosts} -o GlobalKnownHostsFile=none -o IdentityAgent=none"
    return {
        "ansible_host": "127.0.0.1",
        "ansible_port": port,
        "ansible_user": server.user,
        "ansible_ssh_private_key_file": str(server.client_key),
        "ansible_ssh_common_args": options,
    }


def test_who_failed_and_why(sshd: Sshd, tmp_path: Path) -> None:
    refused, unknown = over_ssh(sshd, free_port(), str(sshd.known_hosts)), over_ssh(sshd, sshd.port, "/dev/null")
    source = inventory(tmp_path / "hosts.yml", refused=refused, unknown=unknown)
    argv = [str(BIN / "sai3ssh"), "deploy", "-i", source, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 5, done.stdout + done.stderr
    failed = {event["host"]: event for event in events if "message" in event}
    assert {host: event["result"] for host, event in failed.items()} == {"refused": "unreachable", "unknown": "unreachable"}
    assert "Connection refused" in failed["refused"]["message"]
    # Host keys are checked, although ansible-runner would not.
    assert "Host key verification failed" in failed["unknown"]["message"]
    assert "trust-hosts.yml" in failed["unknown"]["remedy"]
    assert {name: row["failed"] for name, row in events[-1]["hosts"].items()} == {"here": 0, "refused": 1, "unknown": 1}


def test_nothing_of_it_is_left_behind_and_no_secret_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    found = []

    def look(event: dict[str, Any]) -> None:
        for base in {"/dev/shm", tempfile.gettempdir()}:
            for directory in Path(base).glob("sai3ssh-play-*"):
                files = [path for path in directory.rglob("*") if path.is_file()]
                found.append(len(files))
                assert directory.stat().st_mode & 0o077 == 0
                assert [path for path in files if SECRET.encode() in path.read_bytes()] == []

    progress = Progress.of(["here"])
    run(Play("deploy", [inventory(tmp_path / "hosts.yml")]), progress, look, lambda: False)
    assert progress.over
    assert max(found) > 0, "nothing was looked at"
    assert [path for base in ("/dev/shm", tempfile.gettempdir()) for path in Path(base).glob("sai3ssh-play-*")] == []


def test_ctrl_c_ends_it_at_once(sshd: Sshd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = inventory(tmp_path / "hosts.yml", silent=over_ssh(sshd, silent.getsockname()[1], "/dev/null"))
        argv = [str(BIN / "sai3ssh"), "deploy", "-i", source]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                began = time.monotonic()
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        took_s = time.monotonic() - began
        print(f"ended {took_s:.1f} s after the signal")
        assert took_s < 5.0  # 2 s, and patience with a busy machine
        assert "run the same command again" in said


def test_bad_usage(tmp_path: Path) -> None:
    source = inventory(tmp_path / "hosts.yml")
    for options, said in (
        (["-e", "keep"], "-e 'keep' is no variable"),
        (["--limit", "nobody"], "matches 'nobody'"),
        (["-e", "@/nonexistent"], "ansible-playbook deploy.yml did not run: Unable to retrieve file contents"),
    ):
        argv = [str(BIN / "sai3ssh"), "deploy", "-i", source, *options]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_an_installed_package_has_playbooks_and_roles(tmp_path: Path, repository: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in PACKAGED:
        shutil.copy(repository / name, tree)
    for name in ("sai3ssh", "playbooks", "roles"):
        shutil.copytree(repository / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(tree)], check=True, timeout=120)
    shutil.rmtree(tree)
    argv = [sys.executable, "-m", "sai3ssh.cli", "deploy", "-i", inventory(tmp_path / "hosts.yml"), "--check", "--diff"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 hosts, 0 changed" in done.stdout
