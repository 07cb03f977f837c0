"""What the Makefile does beside naming commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_benchmark_beyond_its_limit_does_not_keep_the_others_from_running(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "first.py").write_text("print('first ran')\nraise SystemExit(1)\n")
    (tmp_path / "bench" / "second.py").write_text("print('second ran')\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    make = ["make", "-f", str(repository / "Makefile"), "-o", ".venv/ready", "-o", "system", "bench", "ONLY=first second"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(make, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "first ran" in done.stdout
    assert "second ran" in done.stdout
    assert "beyond a limit, or failed: bench/first.py\n" in done.stderr
