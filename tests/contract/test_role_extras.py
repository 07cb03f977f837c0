"""The extras of the agent's role, by real Ansible on this machine: installed once, by hash, replaced as a whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import yaml

BIN = Path(sys.executable).parent
VERSION = "9.9"


def wheel(directory: Path) -> str:
    """A small package named obstore; returns its SHA-256."""
    info = f"obstore-{VERSION}.dist-info"
    files = {
        "obstore/__init__.py": f"__version__ = '{VERSION}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: obstore\nVersion: {VERSION}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode() for name, text in files.items()}
    files[f"{info}/RECORD"] = "".join(f"{name},sha256={digests[name]},{len(text)}\n" for name, text in files.items()) + f"{info}/RECORD,,\n"
    path = directory / f"obstore-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Role:
    """The role's extras on this machine, in a directory of the test."""

    def __init__(self, directory: Path, repository: Path) -> None:
        self.home = directory / "opt"
        self.mark = self.home / "venv/sai3ssh-extras.json"
        self.home.mkdir()
        self._directory = directory
        # Its environments have the pip that is there: to copy one into each takes longer than all the rest.
        self._python = directory / "python"
        base = sys._base_executable  # type: ignore[attr-defined]
        self._python.write_text(
            f'#!/bin/sh\n[ "$2" = venv ] && exec {base} -m venv --without-pip --system-site-packages "$3"\nexec {base} "$@"\n'
        )
        self._python.chmod(0o755)
        self._environment = {
            "PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(directory), "ANSIBLE_ROLES_PATH": str(repository / "roles"), "LC_ALL": "C.UTF-8",
            "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1",
        }  # fmt: skip

    def play(self, *digests: str, check: bool = False) -> list[list[str]]:
        """Names of the tasks that changed something, for each of the digests asked for in turn; 'refused' in place of a failure."""
        role = {"ansible.builtin.include_role": {"name": "sai3ssh_agent", "tasks_from": "extras"}}
        note = {"name": "refused", "ansible.builtin.command": "true"}
        steps: list[dict[str, Any]] = []
        for digest in digests:
            steps.append({"name": "step", "ansible.builtin.debug": {}})
            steps.append({"block": [{**role, "vars": {"digest": digest}}], "rescue": [note]})
        play = [{"hosts": "all", "gather_facts": False, "tasks": steps}]
        (self._directory / "play.yml").write_text(yaml.safe_dump(play))
        values = {
            "ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable,
            "sai3ssh_agent_python": str(self._python), "sai3ssh_agent_extras": ["obstore"], "__sai3ssh_agent_deployed": {},
            "__sai3ssh_agent_started": {"changed": True},  # there is no service here to be started again
            "sai3ssh_agent_environment": {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self._directory), "PIP_CONFIG_FILE": "/dev/null"},
            "__sai3ssh_agent_home": str(self.home),
            "__sai3ssh_agent_requirements": {"obstore": f"obstore=={VERSION} --hash=sha256:{{{{ digest }}}}\n"},
        }  # fmt: skip
        argv = [str(BIN / "ansible-playbook"), "-i", "here,", str(self._directory / "play.yml"), "-e", json.dumps(values)]
        argv += ["--check"] if check else []
        done = subprocess.run(argv, env=self._environment, capture_output=True, text=True, timeout=250, check=False, umask=0o077)
        assert done.returncode == 0, done.stdout + done.stderr
        changed: list[list[str]] = []
        name = ""
        for line in done.stdout.splitlines():
            if line.startswith("TASK ["):
                name = line.partition("[")[2].partition("]")[0].rpartition(" : ")[2]
                changed += [[]] if name == "step" else []
            elif line.startswith("changed: ") and name not in changed[-1]:
                changed[-1].append(name)
        return changed


def test_extras(tmp_path: Path, repository: Path) -> None:
    good, role = wheel(tmp_path), Role(tmp_path, repository)
    assert "Say what would be installed" in role.play(good, check=True)[0]
    assert list(role.home.iterdir()) == []
    first, again, wrong = role.play(good, good, "0" * 64)
    assert first[-1] == "Put the new one in its place"
    assert again == []
    # What is in use stays when what is to replace it cannot be installed.
    assert wrong[-1] == "refused"
    assert role.mark.exists()
    assert (role.home / "venv/bin").stat().st_mode & 0o005 == 0o005
    assert next(role.home.glob("venv/lib/*/site-packages/obstore/__init__.py")).stat().st_mode & 0o004
    argv = [str(role.home / "venv/bin/python"), "-c", "import obstore; print(obstore.__version__)"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == VERSION
