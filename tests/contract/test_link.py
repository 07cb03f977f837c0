"""The link, the installer and the real agent together: through a real sshd, and on this machine without SSH."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sai3ssh import bundle
from sai3ssh.controller import install
from sai3ssh.controller.clock import clock_ns
from sai3ssh.controller.events import Event, Heartbeat, JournalComplete, LinkDown, LinkFailed, LinkGivenUp, LinkUp, Records
from sai3ssh.controller.link import Link, LinkOptions, Subscription
from sai3ssh.controller.mirror import Mirror
from sai3ssh.errors import AgentError, LinkLost, Transient
from sai3ssh.model import Assignment, Host, IoRate, OperationSpec, Outcome, Plan, Population, SizeSpec, Stage, StageKind, Target, to_json
from sai3ssh.retry import Backoff
from sai3ssh.transport import Connection, transport_for
from tests.contract.sshd_server import Sshd, descendants

T = TypeVar("T")

TIMEOUT_S = 30.0
COUNT = 400


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def agent_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.build(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    home = tmp_path / "home"
    home.mkdir()
    server = Sshd(tmp_path / "sshd", options=(f"SetEnv HOME={home}",))
    yield server
    server.stop()


@pytest.fixture
def connection(sshd: Sshd) -> Iterator[Connection]:
    connection = transport_for(sshd.host()).connect(TIMEOUT_S)
    yield connection
    connection.close()


def kill_agents(state: Path) -> None:
    """Ends the daemon and supervisors that serve that directory."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().decode().split("\0")
                if any(a.startswith(str(state)) for a in arguments) and {"serve", "supervise"} & set(arguments):
                    for pid in [*descendants(int(entry.name)), int(entry.name)]:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)


class Operator:
    """A controller in miniature: one link, one run."""

    def __init__(self, root: Path, host: Host, agent_bundle: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.data = root / "data"
        self.data.mkdir()
        self.host = host
        self.bundle = agent_bundle
        self.run_id = f"run-{uuid.uuid4().hex[:12]}"
        self.events: list[Event] = []
        self.mirror = Mirror(root / "mirror" / "journal.ndjson")
        self.sequence = 0
        options = LinkOptions(heartbeat_s=0.3, silence_floor_s=2.0)
        self.link = Link(host, self.mirror, self.events.append, bundle=agent_bundle, options=options)

    def close(self) -> None:
        self.link.stop()
        self.mirror.close()
        kill_agents(self.state)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[Any], number: int = 1) -> Any:
        def arrived() -> bool:
            ended = self.of(LinkFailed) + self.of(LinkGivenUp)
            assert not ended or issubclass(kind, (LinkFailed, LinkGivenUp)), ended
            return len(self.of(kind)) >= number

        wait_until(arrived, f"{number} {kind.__name__}; last events {self.events[-3:]}")
        return self.of(kind)[number - 1]

    def wait_state(self, *states: str) -> None:
        wait_until(lambda: self.of(Heartbeat) and self.of(Heartbeat)[-1].body["state"] in states, f"state {states}")

    def ask(self, cmd: str, **fields: Any) -> dict[str, Any]:
        """Repeats the command until it is answered, as the controller does: the key makes it one command."""
        self.sequence += 1
        key = {"run_id": self.run_id, "generation": 1, "controller": "c", "sequence": self.sequence}
        return self.insist(lambda: self.link.request({"cmd": cmd, "key": key, **fields}, 5))

    def insist(self, request: Callable[[], T]) -> T:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return request()
            except Transient:
                assert time.monotonic() < deadline
                self.link.wait_up(5)

    def begin(self, duration_s: float) -> None:
        self.link.start()
        assert self.link.wait_up(TIMEOUT_S), self.events
        uri = f"file://{self.data}/"
        size = SizeSpec("uniform", 0, 9000)
        plan = Plan(
            self.run_id,
            "test",
            Target("file"),
            (Population("p", uri, "d/%08d.dat", COUNT, size, 1),),
            (
                Stage("prepare", StageKind.PREPARE, 2, populations=("p",)),
                Stage(
                    "execute",
                    StageKind.EXECUTE,
                    2,
                    duration_s=duration_s,
                    operations=(OperationSpec("get", 1, uri, "p"),),
                    io_rate=IoRate(500.0),
                ),
                Stage("cleanup", StageKind.CLEANUP, 2, populations=("p",)),
            ),
            heartbeat_s=0.3,
            workers=1,
        )
        assignment = Assignment("a0", 0, 1, {"p": ((0, COUNT),)})
        epoch = self.ask("submit", plan=to_json(plan), assignment=to_json(assignment), credentials=None)["epoch"]
        self.link.subscribe(Subscription(self.run_id, "a0", epoch))
        self.wait_state("READY")

    def release(self, stage: int) -> None:
        offset = self.insist(lambda: self.link.measure_clock(8))
        start = offset.to_host_ns(clock_ns()) + 300_000_000
        self.ask("arm", agent_id="a0", stage=stage, round=1, start_clock_ns=start, boot=offset.boot)
        self.ask("commit", agent_id="a0", stage=stage, round=1)

    def stage_ended(self, stage: int) -> bool:
        return any(r["kind"] == "stage_end" and r["stage"] == stage for event in self.of(Records) for r in event.records)

    def journal(self) -> bytes:
        return (self.state / "runs" / self.run_id / "a0" / "journal.ndjson").read_bytes()


@pytest.fixture(params=["local", "ssh"])
def operator(request: pytest.FixtureRequest, tmp_path: Path, agent_bundle: Path) -> Iterator[Operator]:
    if request.param == "local":
        host = Host(name="here", address="localhost", connection="local", state_dir=str(tmp_path / "state"))
    else:
        host = request.getfixturevalue("sshd").host(python=sys.executable, state_dir=str(tmp_path / "state"))
    operator = Operator(tmp_path, host, agent_bundle)
    yield operator
    operator.close()


def follows(operator: Operator) -> list[int]:
    """The pids of the follow processes of this run's state directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().decode().split("\0")
                if "follow" in arguments and str(operator.state) in arguments and arguments[0].endswith(Path(sys.executable).name):
                    found.append(int(entry.name))
    return found


def test_a_run_whose_link_is_cut_again_and_again(operator: Operator) -> None:
    rng = random.Random(5)
    operator.begin(duration_s=6.0)
    operator.release(0)
    wait_until(lambda: operator.stage_ended(0), "prepare")
    operator.release(1)
    cuts = 0
    while not operator.stage_ended(1):
        time.sleep(rng.random() * 0.5)
        victims = follows(operator)
        if operator.host.connection == "ssh" and rng.random() < 0.5:
            # The session's own sshd: the connection breaks, not only the program.
            sshd_pids = {int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1]) for pid in victims}
            victims = [pid for pid in sshd_pids if "sshd" in (Path("/proc") / str(pid) / "comm").read_text()] or victims
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cuts += 1
        wait_until(lambda: operator.link.is_up or operator.of(LinkFailed), "link up again")
    operator.release(2)
    done = operator.wait_for(JournalComplete)
    assert cuts >= len(operator.of(LinkDown)) >= 2
    assert done.outcome is Outcome.FINISHED
    assert operator.mirror.path.read_bytes() == operator.journal()
    seen = [record["seq"] for event in operator.of(Records) for record in event.records]
    assert seen == list(range(len(operator.journal().splitlines())))
    seconds = [r["second"] for event in operator.of(Records) for r in event.records if r["kind"] == "sec" and r["stage"] == 1]
    assert seconds == list(range(len(seconds)))
    assert len(seconds) >= 6, "the cuts took nothing from the measurement"
    downs = [up.down_s for up in operator.of(LinkUp)[1:]]
    assert max(downs) < 10
    assert not list(operator.data.rglob("*.dat"))


def test_a_frozen_follow_is_replaced_and_the_run_goes_on(operator: Operator) -> None:
    operator.begin(duration_s=4.0)
    operator.release(0)
    wait_until(lambda: operator.stage_ended(0), "prepare")
    operator.release(1)
    frozen = follows(operator)
    began = time.monotonic()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    down = operator.wait_for(LinkDown)
    assert 1.5 < time.monotonic() - began < 10
    assert "nothing was heard" in str(down.cause)
    operator.wait_for(LinkUp, 2)
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: operator.stage_ended(1), "execute")
    operator.release(2)
    operator.wait_for(JournalComplete)
    assert operator.mirror.path.read_bytes() == operator.journal()


def test_sshd_restarts_and_the_link_is_back_at_once(tmp_path: Path, sshd: Sshd, agent_bundle: Path) -> None:
    operator = Operator(tmp_path, sshd.host(python=sys.executable, state_dir=str(tmp_path / "state")), agent_bundle)
    try:
        operator.begin(duration_s=1.0)
        sshd.stop()
        operator.wait_for(LinkDown)
        with pytest.raises(LinkLost):
            operator.link.request({"cmd": "ping"}, 1)
        time.sleep(1.0)
        sshd.start()
        assert operator.wait_for(LinkUp, 2).attempt == 1, "the probe that the host answers is followed by one attempt, and no delay"
    finally:
        operator.close()


def test_asked_to_try_now_it_waits_for_no_backoff(tmp_path: Path, sshd: Sshd, agent_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its sshd is stopped like a host that is out of memory: the kernel accepts connections, and no attempt comes further."""
    host = sshd.host(python=sys.executable, state_dir=str(tmp_path / "state"))
    caplog.set_level(logging.INFO, "sai3ssh.controller.link")
    operator = Operator(tmp_path, host, agent_bundle)
    options = LinkOptions(heartbeat_s=0.3, silence_floor_s=2.0, connect_timeout_s=1.0, backoff=Backoff(first_s=300.0, max_s=300.0))
    operator.link = Link(host, operator.mirror, operator.events.append, bundle=agent_bundle, options=options)
    try:
        operator.link.start()
        operator.wait_for(LinkUp)
        assert sshd.process is not None
        os.kill(sshd.process.pid, signal.SIGSTOP)
        for pid in sshd.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        operator.wait_for(LinkDown)
        wait_until(lambda: "again in" in caplog.text, "a failed attempt")
        os.kill(sshd.process.pid, signal.SIGCONT)
        operator.link.try_now()
        up = operator.wait_for(LinkUp, 2)
        assert up.attempt == 2
    finally:
        operator.close()


def test_asked_to_try_a_host_that_is_down_it_is_noticed_all_the_same_when_it_is_back(
    tmp_path: Path, sshd: Sshd, agent_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = sshd.host(python=sys.executable, state_dir=str(tmp_path / "state"))
    operator = Operator(tmp_path, host, agent_bundle)
    options = LinkOptions(heartbeat_s=0.3, silence_floor_s=2.0, backoff=Backoff(first_s=300.0, max_s=300.0))
    operator.link = Link(host, operator.mirror, operator.events.append, bundle=agent_bundle, options=options)
    caplog.set_level(logging.INFO, "sai3ssh.controller.link")
    try:
        operator.link.start()
        operator.wait_for(LinkUp)
        sshd.stop()
        operator.wait_for(LinkDown)
        operator.link.try_now()
        wait_until(lambda: "Connection refused" in caplog.text, "the attempt that was asked for")
        sshd.start()
        assert operator.wait_for(LinkUp, 2).attempt == 2
    finally:
        operator.close()


# --- install --------------------------------------------------------------------------------------------------------------


def test_the_agent_is_uploaded_once(sshd: Sshd, connection: Connection, agent_bundle: Path, tmp_path: Path) -> None:
    host = sshd.host(python=sys.executable)
    first = install.ensure(connection, host, agent_bundle)
    path = tmp_path / "home" / ".cache" / "sai3ssh" / agent_bundle.name
    assert first == install.Installed((sys.executable, str(path)), "uploaded")
    assert path.read_bytes() == agent_bundle.read_bytes()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert install.ensure(connection, host, agent_bundle).source == "cached"
    assert connection.run([*first.argv, "version"], timeout_s=TIMEOUT_S).exit_code == 0
    path.write_bytes(b"damaged")
    assert install.ensure(connection, host, agent_bundle).source == "uploaded", "the digest is checked on the host"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_deployed_agent_of_the_same_digest_is_used(
    sshd: Sshd, connection: Connection, agent_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = tmp_path / "opt" / "agent.pyz"
    deployed.parent.mkdir()
    monkeypatch.setattr(install, "DEPLOYED", str(deployed))
    host = sshd.host(python=sys.executable)
    deployed.write_bytes(agent_bundle.read_bytes())
    assert install.ensure(connection, host, agent_bundle) == install.Installed((sys.executable, str(deployed)), "deployed")
    deployed.write_bytes(b"another build")
    assert install.ensure(connection, host, agent_bundle).source == "uploaded"


def test_an_rc_file_that_talks_does_no_harm(sshd: Sshd, agent_bundle: Path, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy-python"
    noisy.write_text(f'#!/bin/sh\necho "Welcome!"; echo "{{}}"\nexec {sys.executable} "$@"\n')
    noisy.chmod(0o755)
    connection = transport_for(sshd.host()).connect(TIMEOUT_S)
    assert install.ensure(connection, sshd.host(python=str(noisy)), agent_bundle).source == "uploaded"
    connection.close()


def test_a_home_that_cannot_be_written(sshd: Sshd, connection: Connection, agent_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / ".cache").write_text("in the way")
    with pytest.raises(AgentError, match="cannot be written on the host") as caught:
        install.ensure(connection, sshd.host(python=sys.executable), agent_bundle)
    assert "sai3ssh deploy" in str(caught.value)


def test_no_python(sshd: Sshd, connection: Connection, agent_bundle: Path) -> None:
    with pytest.raises(AgentError, match=r"web1.*'/no/such/python' does not run on the host.*ansible_python_interpreter"):
        install.ensure(connection, sshd.host(python="/no/such/python"), agent_bundle)


def test_an_old_python_says_which_and_what_else_there_is(sshd: Sshd, connection: Connection, agent_bundle: Path, tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 6, 8)\n")
    old.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    old.chmod(0o755)
    newer = tmp_path / "python3.11"
    newer.write_text("#!/bin/sh\n")
    newer.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text(f"import os, sys\nsys.version_info = (3, 6, 8)\nos.environ['PATH'] = {str(tmp_path)!r}\n")
    with pytest.raises(AgentError, match=r"is Python 3\.6\.8, expected 3\.9 or later") as caught:
        install.ensure(connection, sshd.host(python=str(old)), agent_bundle)
    assert caught.value.remedy == f"Set ansible_python_interpreter to {newer}"


def test_a_local_host_runs_the_bundle_in_place(agent_bundle: Path) -> None:
    host = Host(name="here", address="localhost", connection="local")
    connection = transport_for(host).connect(TIMEOUT_S)
    assert install.ensure(connection, host, agent_bundle).argv == (sys.executable, str(agent_bundle))
    host = Host(name="here", address="localhost", connection="local", python="/usr/bin/python3.9")
    assert install.ensure(connection, host, agent_bundle).argv == ("/usr/bin/python3.9", str(agent_bundle))
    connection.close()
