"""The compiled code beside a zipapp: it is used, it is the same agent, and it is used only where it belongs to the zipapp."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sai3ssh import bundle
from sai3ssh.agent import compiled
from tests.contract.agent_processes import end_agents, pids


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = bundle.build(tmp_path_factory.mktemp("built"))
    assert compiled.ensure(str(path))
    return path


@pytest.fixture
def archive(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built.parent, tmp_path / "copy")  # with the times of modification
    return tmp_path / "copy" / built.name


def origin(archive: Path) -> str:
    """The archive from which the agent's modules come, when it is started as on a host."""
    done = subprocess.run([sys.executable, "-v", str(archive), "version"], capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout)["digest"] == bundle.digest(archive), "it is the same agent, wherever its code comes from"
    loader = next(line for line in done.stderr.splitlines() if line.startswith("import 'sai3ssh.agent.cli'"))
    return loader.split('"')[1].removesuffix("/sai3ssh/agent/")


def test_it_is_used(archive: Path) -> None:
    assert origin(archive) == compiled.beside(str(archive))


def test_who_starts_a_daemon_makes_it(archive: Path, tmp_path: Path) -> None:
    Path(compiled.beside(str(archive))).unlink()
    try:
        subprocess.run([sys.executable, str(archive), "serve", "--state", str(tmp_path / "state")], check=True, timeout=60)
        assert pids(tmp_path / "state", "serve")
    finally:
        end_agents(tmp_path)
    assert origin(archive) == compiled.beside(str(archive))


def test_it_is_made_once(archive: Path) -> None:
    path = Path(compiled.beside(str(archive)))
    made = path.stat().st_ino
    assert compiled.ensure(str(archive))
    assert path.stat().st_ino == made
    assert sorted(archive.parent.iterdir()) == sorted([archive, path]), "no temporary file stays"


@pytest.mark.parametrize("what", ["replaced", "writable", "torn"])
def test_what_is_not_the_zipapps_own_is_not_used(archive: Path, what: str) -> None:
    path = Path(compiled.beside(str(archive)))
    if what == "replaced":
        at = archive.stat().st_mtime_ns + 1_000_000
        os.utime(archive, ns=(at, at))
    elif what == "writable":
        path.chmod(0o620)
    else:
        at = path.stat().st_mtime_ns
        path.write_bytes(path.read_bytes()[:-1000])
        os.utime(path, ns=(at, at))
    assert origin(archive) == str(archive)


def test_code_of_another_build_of_python_does_no_harm(archive: Path) -> None:
    path = Path(compiled.beside(str(archive)))
    at, content = path.stat().st_mtime_ns, path.read_bytes()
    path.write_bytes(content.replace(importlib.util.MAGIC_NUMBER + b"\1\0\0\0", b"\0\0\r\n\1\0\0\0"))
    os.utime(path, ns=(at, at))
    assert origin(archive) == str(path)


def test_a_replaced_zipapp_has_its_code_compiled_anew(archive: Path) -> None:
    at = archive.stat().st_mtime_ns + 1_000_000
    os.utime(archive, ns=(at, at))
    assert compiled.ensure(str(archive))
    assert origin(archive) == compiled.beside(str(archive))


def test_where_it_cannot_be_written_nothing_happens(tmp_path: Path) -> None:
    place = tmp_path / "place"
    archive = bundle.build(place)
    path = Path(compiled.beside(str(archive)))
    path.mkdir()  # root may write everywhere: a directory of that name cannot be replaced by a file
    os.utime(path, ns=(0, 0))
    assert not compiled.ensure(str(archive))
    assert sorted(place.iterdir()) == sorted([archive, path])
