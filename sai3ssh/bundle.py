"""Builds the agent's zipapp: one file that any Python from 3.9 on runs, with the same bytes wherever it is built.

Members are stored, not deflated: the output of zlib differs between its versions, and the digest of this file is how both sides agree.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

SHARED = ("__init__.py", "compact.py", "dataset.py", "errors.py", "findings.py", "histogram.py", "model.py", "oplog.py", "protocol.py")
"""Modules of the package, besides agent/, that the agent imports."""

SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = b"""import os
import sys

archive = sys.path[0]
compiled = "%s.%s" % (archive, sys.implementation.cache_tag)  # agent/compiled.py
try:
    of, made = os.stat(archive), os.stat(compiled)
    if (made.st_uid, made.st_mtime_ns) == (of.st_uid, of.st_mtime_ns) and not made.st_mode & 0o022:
        sys.path.insert(0, compiled)
except OSError:
    pass

from sai3ssh.agent.cli import main

sys.exit(main())
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


def build(directory: Path) -> Path:
    """The path of agent-<digest12>.pyz in directory, which is written there unless the same bytes are there already."""
    content = contents(Path(__file__).parent)
    path = directory / f"agent-{hashlib.sha256(content).hexdigest()[:12]}.pyz"
    directory.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != content:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=path.name, delete=False) as file:
            file.write(content)
        Path(file.name).chmod(0o755)
        os.replace(file.name, path)  # noqa: PTH105  (atomic; Path.replace says the same)
    return path


def cached() -> Path:
    """The zipapp in this user's cache directory, built there as build does."""
    from platformdirs import user_cache_path

    return build(user_cache_path("sai3ssh"))


def digest(path: Path) -> str:
    """The SHA-256 of the file in hexadecimal: the agent's identity."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(package: Path) -> bytes:
    """The bytes of the zipapp of the package in that directory."""
    buffer = io.BytesIO(SHEBANG)
    buffer.seek(len(SHEBANG))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (("__main__.py", _MAIN), *_members(package)):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system = _UNIX
            member.external_attr = 0o644 << 16
            archive.writestr(member, data)
    return buffer.getvalue()


def _members(package: Path) -> Iterator[tuple[str, bytes]]:
    files = [package / name for name in SHARED]
    files += [path for path in (package / "agent").rglob("*.py") if "__pycache__" not in path.parts]
    for path in sorted(files, key=lambda path: path.relative_to(package).as_posix()):
        yield f"sai3ssh/{path.relative_to(package).as_posix()}", path.read_bytes()


if __name__ == "__main__":  # for the playbooks: python -m sai3ssh.bundle DIRECTORY
    built = build(Path(sys.argv[1]))
    sys.stdout.write(json.dumps({"path": str(built.resolve()), "sha256": digest(built)}) + "\n")
