"""The zipapp passes its own tests on every Python from 3.9 up that this machine has."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from sai3ssh import bundle

QUICK = "test_[!ae]*.py"
"""All but the tests of whole agents and engines, with real daemons and servers: those run on the oldest Python."""
NO_RECOVERY, RECOVERY = "test_*[!y].py", "test_*y.py"
"""test_agent_recovery.py takes minutes: it runs on the oldest Python, and apart."""


def pythons() -> dict[str, Path]:
    """Version to interpreter, one of each minor version, as found on PATH and in pyenv."""
    found: dict[str, Path] = {}
    places = [Path(part) for part in os.environ["PATH"].split(os.pathsep)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places += sorted(path / "bin" for path in pyenv.glob("*")) if pyenv.is_dir() else []
    for place in places:
        for path in sorted(place.glob("python3*")) if place.is_dir() else []:
            if not re.fullmatch(r"python3(\.\d+)?", path.name):
                continue
            code = "import sys; print('%d.%d' % sys.version_info[:2])"
            asked = subprocess.run([str(path), "-c", code], capture_output=True, text=True, timeout=20, check=False)
            if asked.returncode == 0 and tuple(map(int, asked.stdout.split("."))) >= (3, 9):
                found.setdefault(asked.stdout.strip(), path)
    return dict(sorted(found.items(), key=lambda item: tuple(map(int, item[0].split(".")))))


PYTHONS = pythons()


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def suites() -> list[tuple[str, str]]:
    """Which tests are run on which Python."""
    oldest = min(PYTHONS, key=_number)
    return [(version, NO_RECOVERY if version == oldest else QUICK) for version in PYTHONS] + [(oldest, RECOVERY)]


def name(suite: tuple[str, str]) -> str:
    """By which the Makefile finds it."""
    return "-".join((suite[0], {NO_RECOVERY: "whole", QUICK: "quick", RECOVERY: "recovery"}[suite[1]]))


SUITES = suites()


def test_some_python_was_found() -> None:
    assert PYTHONS


def failures(said: str) -> str:
    """Of each test that failed the end, where unittest tells why."""
    _, *found = said.split("\n" + "=" * 70 + "\n")
    return "\n".join(one[:200] + " ... " + one[-1000:] if len(one) > 1200 else one for one in found) or said[-4000:]


@pytest.mark.timeout(660)
@pytest.mark.parametrize(("version", "pattern"), SUITES, ids=map(name, SUITES))
def test_agent_tests_pass(version: str, pattern: str, tmp_path: Path, repository: Path) -> None:
    archive = bundle.build(tmp_path)
    # Only the tests are taken from the tree: the product comes from the zipapp.
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "agent").symlink_to(repository / "tests" / "agent")
    done = subprocess.run(
        [str(PYTHONS[version]), "-m", "unittest", "discover", "-s", "tests/agent", "-t", ".", "-p", pattern],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(archive), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, failures(done.stderr)
    ran = re.search(r"Ran (\d+) tests", done.stderr)
    assert ran
    assert int(ran[1]) > (10 if pattern == RECOVERY else 30)
