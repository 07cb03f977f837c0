"""Runs one of the playbooks through ansible-runner, with nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .progress import Progress

Json = dict[str, Any]
HERE = Path(__file__).parent
PLAYBOOKS = HERE / "playbooks"
TAGS = ("agent", "limits", "keepalive")
POLL_S = 0.5
"""How often ansible-runner asks whether it is to end."""


@dataclass(frozen=True)
class Play:
    """What is asked of ansible-playbook."""

    playbook: str
    """deploy, upgrade or remove."""
    inventory: Sequence[str]
    limit: str = "all"
    check: bool = False
    diff: bool = False
    tags: str = ""
    variables: Sequence[str] = ()
    """key=value, as -e takes them."""
    zipapp: Path | None = None
    """The agent to install."""
    zipapp_sha256: str = ""

    def arguments(self) -> list[str]:
        """The options of ansible-playbook. Raises ConfigError for a tag or a variable that is none."""
        found = [option for source in self.inventory for option in ("-i", _absolute(source))]
        found += ["--limit", self.limit]
        found += ["--check"] if self.check else []
        found += ["--diff"] if self.diff else []
        found += ["--tags", self.tags] if self.tags else []
        if self.zipapp is not None:
            found += ["-e", f"sai3ssh_agent_zipapp={self.zipapp} sai3ssh_agent_zipapp_sha256={self.zipapp_sha256}"]
        unknown = [tag for tag in self.tags.split(",") if tag not in ("", *TAGS)]
        if unknown:
            raise ConfigError(f"--tags {','.join(unknown)} names no part of a deployment", remedy=f"There are {', '.join(TAGS)}")
        for variable in self.variables:
            if not variable.startswith(("{", "@")) and "=" not in variable:
                raise ConfigError(f"-e {variable!r} is no variable", remedy="Give it as -e name=value, -e '{...}' or -e @file")
            found += ["-e", f"@{_absolute(variable[1:])}" if variable.startswith("@") else variable]
        return found


def run(play: Play, progress: Progress, on_event: Callable[[Json], None], cancelled: Callable[[], bool]) -> None:
    """Runs it to its end, or until cancelled. `progress` is kept up to date, `on_event` gets what it makes of Ansible's events."""
    import ansible_runner

    def take(event: Json) -> bool:
        ours = progress.take(event)
        if ours is not None:
            on_event(ours)
        return False  # nothing is kept on the disk

    def begun(status: Json, runner_config: Any) -> None:
        # The whole environment is in that file; by now the child has its own.
        if status["status"] == "running":
            Path(runner_config.artifact_dir, "command").unlink()

    arguments = play.arguments()
    with _private() as directory:
        ansible_runner.run(
            private_data_dir=str(directory),
            project_dir=str(PLAYBOOKS.resolve()),
            playbook=f"{play.playbook}.yml",
            cmdline=shlex.join(arguments),
            envvars=_environment(),
            settings={"pexpect_timeout": POLL_S, "suppress_output_file": True},
            quiet=True,
            event_handler=take,
            status_handler=begun,
            cancel_callback=cancelled,
        )


@contextlib.contextmanager
def _private() -> Iterator[Path]:
    """A directory that only this user reads, in memory where there is such a place, and that is gone afterwards."""
    shared = "/dev/shm"  # noqa: S108 (the directory in it is made with mode 0700 under a name of its own)
    base = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="sai3ssh-play-", dir=base, ignore_cleanup_errors=True) as path:
        yield Path(path)


def _environment() -> dict[str, str]:
    return {
        # Beside this Python, which the user's PATH need not know.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        # ansible-runner would switch it off.
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CONFIG": str(PLAYBOOKS.resolve() / "ansible.cfg"),
        # Where the playbooks find this package when they are not beside it.
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def _absolute(source: str) -> str:
    """A path as seen from elsewhere; a list of names stays one."""
    return source if "," in source else str(Path(source).expanduser().absolute())
