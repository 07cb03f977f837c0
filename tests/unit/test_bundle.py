from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sai3ssh
from sai3ssh import bundle

PACKAGE = Path(sai3ssh.__file__).parent


def test_the_name_carries_the_digest(tmp_path: Path) -> None:
    path = bundle.build(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert bundle.digest(path) == digest
    assert path.name == f"agent-{digest[:12]}.pyz"
    assert bundle.build(tmp_path) == path
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "no temporary file stays"
    path.write_bytes(b"truncated")
    assert bundle.digest(bundle.build(tmp_path)) == digest, "a damaged file is written again"


def test_same_bytes_whatever_the_file_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "elsewhere" / "sai3ssh"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "agent" / "__pycache__").mkdir()
    (copy / "agent" / "__pycache__" / "cli.py").write_text("left over")
    for number, path in enumerate(copy.rglob("*")):
        os.utime(path, (number * 1e6, number * 1e6))
        if path.is_file():
            path.chmod(0o600 if number % 2 else 0o755)
    expected = bundle.contents(PACKAGE)
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(rglob(self, pattern))))
    umask = os.umask(0o077)
    try:
        assert bundle.contents(copy) == expected
    finally:
        os.umask(umask)


def test_a_changed_byte_changes_the_digest(tmp_path: Path) -> None:
    copy = tmp_path / "sai3ssh"
    shutil.copytree(PACKAGE, copy)
    with (copy / "errors.py").open("a") as file:
        file.write("\n")
    assert bundle.contents(copy) != bundle.contents(PACKAGE)


def test_it_holds_what_the_agent_imports_and_no_more(tmp_path: Path) -> None:
    path = bundle.build(tmp_path)
    assert path.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert names == [names[0], *sorted(names[1:])]
        assert len(names) == len(set(names))
        modules = {name[:-3].replace("/", ".").removesuffix(".__init__") for name in names}
        for name in names:
            for node in ast.walk(ast.parse(archive.read(name))):
                if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("sai3ssh"):
                    for alias in node.names:
                        assert f"{node.module}.{alias.name}" in modules or node.module in modules, f"{name} imports {ast.unparse(node)}"
    assert not [name for name in names if name.startswith(("sai3ssh/controller", "sai3ssh/transport"))]


def test_it_runs_and_knows_its_own_digest(tmp_path: Path) -> None:
    path = bundle.build(tmp_path)
    # -I: nothing of this source tree or of the installed packages may help.
    done = subprocess.run([sys.executable, "-I", str(path), "version"], capture_output=True, check=True, timeout=30, cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert answer["digest"] == bundle.digest(path)
    assert answer["version"] == sai3ssh.__version__
