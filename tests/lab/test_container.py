"""The agent in a container, as the role builds and starts it: killed and halted in the middle of a run, and the run is whole."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sai3ssh import bundle
from tests.agent.s3_server import Server, response
from tests.lab import image
from tests.lab.operator import Record, kinds

pytestmark = pytest.mark.lab

BIN = Path(sys.executable).parent
USER = "daemon"
"""A user that every Debian has, and that owns nothing."""
BASE = "localhost/sai3ssh-lab:python"
NEEDED = ("bin", "lib", "lib64", "etc", "usr/bin", "usr/lib64", "usr/lib/python3.11", "usr/lib/x86_64-linux-gnu")
"""What Python needs of the lab's root file system."""
COUNT = 600
WORKLOAD = """
name: {name}
target: {target}
{more}
concurrency: 1
prepare:
  ensure_objects:
    - {{base_uri: {name}/, count: {count}, size_spec: 1KiB}}
"""
PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.setup: {gather_subset: [min]}
    - ansible.builtin.include_role: {name: sai3ssh_agent, tasks_from: "{{ item }}.yml"}
      loop: "{{ parts }}"
    - ansible.builtin.meta: end_play # no systemd here
"""
BUILD, REMOVE = ("look", "zipapp", "image", "unit"), ("look", "unimage")
"""Files of the role's tasks."""


class Deployment:
    """What the role made in a directory, and the unit carried out as systemd would."""

    def __init__(self, directory: Path, repository: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.spool, self.data = directory / "spool", directory / "data"
        user = pwd.getpwnam(USER)
        for path in (self.spool, self.data):
            path.mkdir(mode=0o750)
            os.chown(path, user.pw_uid, user.pw_gid)
        self._environment = {**environment, "ANSIBLE_ROLES_PATH": str(repository / "roles"), "ANSIBLE_NOCOLOR": "1"}
        self._main: subprocess.Popen[bytes] | None = None
        archive = bundle.build(directory)
        self.variables = {
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "__sai3ssh_agent_home": str(directory / "opt"),
            "__sai3ssh_agent_unit": str(directory / "sai3ssh-agent.service"),
            "sai3ssh_agent_deployment": "container",
            "sai3ssh_agent_zipapp": str(archive),
            "sai3ssh_agent_zipapp_sha256": bundle.digest(archive),
            "sai3ssh_agent_user": USER,
            "sai3ssh_agent_group": USER,
            "sai3ssh_agent_state_dir": str(self.spool),
            "sai3ssh_agent_open_files": 1024,
            "sai3ssh_agent_environment": {"PROXY": 'a "b" 50 % \\ $HOME'},
            "sai3ssh_agent_container_base": BASE,
            # This machine may allow its containers no more processes.
            "sai3ssh_agent_container_options": [f"--volume={self.data}:{self.data}", "--ulimit=nproc=1000:4000"],
        }

    def run(self, *argv: str, check: bool = True) -> str:
        """Standard output of a command."""
        done = subprocess.run(argv, env=self._environment, capture_output=True, text=True, timeout=120, check=False)
        if check and done.returncode:
            pytest.fail(f"{shlex.join(argv)}: exit code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, *parts: str) -> int:
        """Runs tasks of the role; how many changed something."""
        playbook = self.directory / "playbook.yml"
        playbook.write_text(PLAYBOOK)
        variables = json.dumps({**self.variables, "parts": parts})
        said = self.run(str(BIN / "ansible-playbook"), "-i", "localhost,", str(playbook), "-e", variables)
        return int(said.split("changed=")[1].split()[0])

    def _lines(self, key: str) -> list[list[str]]:
        text = (self.directory / "sai3ssh-agent.service").read_text().replace("\\\n", "")
        return [shlex.split(line.partition("=")[2]) for line in text.splitlines() if line.startswith(f"{key}=")]

    def start(self) -> None:
        """Returns when the agent is there to be used."""
        for first, *rest in self._lines("ExecStartPre"):
            self.run(first.removeprefix("-"), *rest, check=not first.startswith("-"))
        with (self.directory / "log").open("ab") as log:
            given = dict(line.replace("%%", "%").split("=", 1) for (line,) in self._lines("Environment"))
            self._main = subprocess.Popen(self._lines("ExecStart")[0], env={**self._environment, **given}, stdout=log, stderr=log)
        for command in self._lines("ExecStartPost"):
            with subprocess.Popen(command) as waiter:
                while waiter.poll() is None:
                    if self._main.poll() is not None:
                        waiter.kill()
                        pytest.fail(self.said())
                    time.sleep(0.05)

    def ended(self) -> None:
        """Waits for the unit's main process."""
        if self._main is not None:
            self._main.wait(60)

    def stop(self) -> None:
        """As `systemctl stop`."""
        for command in self._lines("ExecStop"):
            self.run(*command)
        self.ended()

    def kill(self) -> None:
        """The container's first process dies at once."""
        self.run("podman", "kill", "--signal=KILL", "sai3ssh-agent")
        self.ended()

    def processes(self) -> list[str]:
        """What the agent's user runs, by command line."""
        return [line for line in self.run("ps", "-u", USER, "-o", "args=", check=False).splitlines() if "agent.pyz" in line]

    def journal(self, run: str) -> list[Record]:
        """The records that are whole of the run of that name."""
        paths = self.spool.glob(f"runs/{run}-*/c1/journal.ndjson")
        lines = [line for path in paths for line in path.read_text().splitlines(keepends=True)]
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def said(self) -> str:
        """What the containers wrote."""
        return (self.directory / "log").read_text()


@pytest.fixture(scope="module")
def podman() -> Iterator[dict[str, str]]:
    """The environment of podman with images and containers of its own; the image to build on is there, without a registry."""
    directory = Path(tempfile.mkdtemp(prefix="sai3ssh-"))  # podman's own sockets need short paths
    storage = {"driver": "overlay", "graphroot": str(directory / "images"), "runroot": str(directory / "run")}
    (directory / "storage.conf").write_text("[storage]\n" + "".join(f'{name} = "{value}"\n' for name, value in storage.items()))
    (directory / "containers.conf").write_text('[engine]\nruntime = "runc"\n')
    settings = {name: str(directory / f"{name}.conf") for name in ("storage", "containers")}
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": settings["storage"], "CONTAINERS_CONF": settings["containers"]}
    with subprocess.Popen(["tar", "-C", image.build(), "-c", *NEEDED], stdout=subprocess.PIPE) as tar:
        subprocess.run(["podman", "import", "-q", "-", BASE], stdin=tar.stdout, env=environment, check=True, timeout=120)
    try:
        yield environment
    finally:
        subprocess.run(["podman", "rmi", "--force", "--all"], env=environment, check=False, capture_output=True)
        shutil.rmtree(directory)


@pytest.fixture
def deployment(repository: Path, podman: dict[str, str]) -> Iterator[Deployment]:
    directory = Path(tempfile.mkdtemp(prefix="sai3ssh-"))
    deployed = Deployment(directory, repository, podman)
    try:
        yield deployed
    finally:
        deployed.run("podman", "rm", "--force", "--all", check=False)
        deployed.ended()
        made = [name for name in deployed.run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}").split() if name != BASE]
        deployed.run("podman", "rmi", "--force", *made, check=False)
        shutil.rmtree(directory)


class Store:
    """Keeps what is put, and lets so many objects wait as are more than `room`."""

    def __init__(self) -> None:
        self.content: dict[str, int] = {}
        self.room = 0
        self._lock = threading.Condition()

    def __call__(self, _client: object, request: Any, _number: int) -> bytes:
        with self._lock:
            if request.method == "GET":
                return response(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
            if request.method == "PUT" and "/prepared-" in request.path:  # no probe of an agent's
                self._lock.wait_for(lambda: request.path in self.content or len(self.content) < self.room, 60.0)
                self.content[request.path] = len(request.body)
        return response()

    def let(self, room: int) -> None:
        """From now on so many have room."""
        with self._lock:
            self.room = room
            self._lock.notify_all()


def wait(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.02)


@pytest.mark.timeout(900)
def test_a_run_outlives_its_container(deployment: Deployment, tmp_path: Path) -> None:
    assert deployment.apply(*BUILD) > 3
    assert deployment.apply(*BUILD) == 0
    deployment.start()
    assert (deployment.spool / "agent.sock").stat().st_mode & 0o777 == 0o660
    assert 'PROXY=a "b" 50 % \\ $HOME' in deployment.run("podman", "exec", "sai3ssh-agent", "env").splitlines()
    write_inventory(deployment, tmp_path)

    with start_run(deployment, tmp_path, "quiet", 100) as run:
        out, _ = run.communicate(timeout=120)
    assert run.returncode == 0, out + deployment.said()
    assert "COMPLETE" in out

    store = Store()
    with Server(store, anonymous=True) as server, start_run(deployment, tmp_path, "disturbed", COUNT, server.url) as run:

        def ledgers() -> int:
            assert run.poll() is None, run.communicate()[0] + deployment.said()
            return len(kinds(deployment.journal("disturbed"), "ledger"))

        store.let(COUNT // 3)
        wait(lambda: ledgers() > 0, "progress")
        deployment.kill()
        deployment.start()
        before = ledgers()
        store.let(2 * COUNT // 3)
        wait(lambda: ledgers() > before, "progress after the kill")
        deployment.stop()
        assert deployment.processes() == []
        deployment.start()
        store.let(COUNT)
        out, _ = run.communicate(timeout=120)
    # The seconds without an agent are lost, and nothing else is.
    assert run.returncode == 3, out + deployment.said()
    assert store.content == {f"/bucket/disturbed/prepared-{n:08d}.dat": 1024 for n in range(COUNT)}
    records = deployment.journal("disturbed")
    assert [record["rebooted"] for record in kinds(records, "recovered")] == [False, False]
    assert [record["fresh"] for record in kinds(records, "recovered")] == [False, False], "the counters did not survive"
    assert records[-1]["outcome"] == "finished"
    mirror = next((tmp_path / "runs").glob("disturbed-*/agents/c1/journal.ndjson"))
    assert mirror.read_bytes() == next(deployment.spool.glob("runs/disturbed-*/c1/journal.ndjson")).read_bytes()

    assert deployment.apply(*REMOVE) == 2
    deployment.ended()
    assert deployment.run("podman", "ps", "--all", "--quiet") == ""
    assert deployment.run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}").split() == [BASE]


def test_compose_starts_the_same_container(deployment: Deployment, repository: Path, tmp_path: Path) -> None:
    home = deployment.directory / "opt"
    home.mkdir()
    bundle.build(home).rename(home / "agent.pyz")
    for name in ("Containerfile", "compose.yml"):
        shutil.copy(repository / "roles/sai3ssh_agent/files" / name, home)
    user = pwd.getpwnam(USER)
    given = {
        "SAI3SSH_BASE": BASE,
        "SAI3SSH_USER": f"{user.pw_uid}:{user.pw_gid}",
        "SAI3SSH_STATE_DIR": str(deployment.spool),
        "SAI3SSH_OPEN_FILES": "1024",
    }
    (home / ".env").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    # This machine may allow its containers no more processes.
    more = {"ulimits": {"nproc": {"soft": 1000, "hard": 4000}}, "volumes": [f"{deployment.data}:{deployment.data}"]}
    (home / "more.yml").write_text(yaml.safe_dump({"services": {"agent": more}}))
    compose = [str(BIN / "podman-compose"), "--env-file", str(home / ".env"), "-f", str(home / "compose.yml"), "-f", str(home / "more.yml")]
    deployment.run(*compose, "up", "--detach", "--build")
    wait((deployment.spool / "agent.sock").exists, "the agent's socket")
    assert (deployment.spool / "agent.sock").stat().st_mode & 0o777 == 0o660
    assert deployment.processes() != []
    write_inventory(deployment, tmp_path)
    with start_run(deployment, tmp_path, "composed", 100) as run:
        out, _ = run.communicate(timeout=120)
    assert run.returncode == 0, out
    assert len(list((deployment.data / "composed").iterdir())) == 100
    assert deployment.journal("composed")[-1]["outcome"] == "finished"
    deployment.run(*compose, "down")
    assert deployment.processes() == []
    assert deployment.run("podman", "ps", "--all", "--quiet") == ""


def write_inventory(deployment: Deployment, directory: Path) -> None:
    """This machine as the one host, with the agent of that spool."""
    hosts = {"all": {"hosts": {"c1": {"ansible_connection": "local", "sai3ssh_agent_state_dir": str(deployment.spool)}}}}
    (directory / "hosts.yml").write_text(yaml.safe_dump(hosts))


def start_run(deployment: Deployment, directory: Path, name: str, count: int, endpoint_url: str = "") -> subprocess.Popen[str]:
    """Files, or objects of that server, without credentials: an agent that is back goes on before its controller is."""
    target, more = f"file://{deployment.data}/", ""
    if endpoint_url:
        target, more = "s3://bucket/", f's3: {{endpoint_url: "{endpoint_url}", anonymous: true}}'
    workload = directory / f"{name}.yml"
    workload.write_text(WORKLOAD.format(name=name, target=target, more=more, count=count))
    argv = [str(BIN / "sai3ssh"), "run", workload.name, "-i", "hosts.yml", "--results-dir", "runs", "--skip", "storage"]
    return subprocess.Popen(argv, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
