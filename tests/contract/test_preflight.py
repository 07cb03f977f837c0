"""The operator's side of preflight, and doctor, against real sshds and what stands where an sshd should be. One FAILURE per cause."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sai3ssh import bundle
from sai3ssh.findings import Finding, Level
from sai3ssh.model import Host
from sai3ssh.preflight import Options, Report, examine
from sai3ssh.preflight import ping as pings
from sai3ssh.preflight.doctor import MACHINE, doctor
from sai3ssh.preflight.link import LINE, STEPS
from tests.contract.sshd_server import Sshd, free_port, keygen

SKIP = ("host", "storage", "file")
"""What agents check has tests of its own."""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.build(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def options(archive: Path, **more: object) -> Options:
    values: dict[str, object] = {"skip": SKIP, "probes": 3, "throughput": False, "patience_s": 2.0, **more}
    return Options(archive, **values)  # type: ignore[arg-type]


def by_check(report: Report, host: str = "web1") -> dict[str, Finding]:
    return {one.check: one for one in report.findings[host]}


def check_only(report: Report, check: str, *words: str, host: str = "web1") -> Finding:
    """That check alone is a FAILURE, says those words and what to do; what needs it is skipped with the reason."""
    (found,) = [one for one in report.findings[host] if one.level is Level.FAILURE]
    assert found.check == check, found
    for word in words:
        assert word in found.found + found.subject, found
    assert found.expected
    assert found.remedy
    assert report.exit_code == 5
    if check in STEPS:
        rest = {one.check: one for one in report.findings[host]}
        for later in (*STEPS[STEPS.index(check) + 1 :], *(name for name in LINE if name in rest)):
            assert rest[later].level is Level.SKIPPED, rest[later]
            assert f"{check} failed" in rest[later].found or "no connection" in rest[later].found
    return found


@contextlib.contextmanager
def listener(greeting: bytes | None) -> Iterator[int]:
    """A port that accepts connections, and then says that, or for None nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return
                with contextlib.suppress(OSError):
                    held[-1].sendall(greeting or b"")

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def test_a_healthy_host_is_green(sshd: Sshd, archive: Path) -> None:
    report = examine([sshd.host()], options(archive, throughput=True))
    found = by_check(report)
    assert {one.level for one in found.values() if one.check not in SKIP} == {Level.OK}, found
    assert {*STEPS, *LINE, "net.ping"} <= set(found)
    assert report.exit_code == 0
    assert f"127.0.0.1 port {sshd.port}" in found["ssh.port"].found
    assert "OpenSSH" in found["ssh.banner"].found
    assert "ssh-ed25519 SHA256:" in found["ssh.host_key"].found
    assert found["ssh.auth"].found == f"{sshd.user} with {sshd.client_key}"
    assert abs(found["ssh.clock"].values["offset_s"]) < 0.5
    assert 0 < found["ssh.clock"].values["error_s"] < 0.5
    assert found["ssh.throughput"].values["down_mib_per_s"] > 0.1


def test_a_name_that_does_not_resolve(sshd: Sshd, archive: Path) -> None:
    check_only(examine([sshd.host(address="no-such-host.invalid")], options(archive)), "net.dns", "no-such-host.invalid")


def test_a_closed_port(sshd: Sshd, archive: Path) -> None:
    port = free_port()
    report = examine([sshd.host(port=port)], options(archive, patience_s=1.0))
    check_only(report, "ssh.port", f"127.0.0.1 port {port}", "refused")
    assert by_check(report)["net.ping"].level is Level.OK


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose SYNs are dropped: its queue is full and nobody takes from it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(server.getsockname())
        yield int(server.getsockname()[1])


def test_a_port_behind_a_firewall_that_drops(sshd: Sshd, archive: Path) -> None:
    with black_hole() as port:
        report = examine([sshd.host(port=port)], options(archive, patience_s=1.0))
    check_only(report, "ssh.port", f"127.0.0.1 port {port}", "no answer")
    assert by_check(report)["net.ping"].level is Level.OK


def test_a_host_that_answers_nothing_at_all(sshd: Sshd, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ICMP nor TCP: then it is the host that is missing, not its sshd."""
    plain = pings.icmp_socket
    monkeypatch.setattr(pings, "icmp_socket", lambda family: LossySocket(plain(family), 20))  # type: ignore[arg-type]
    with black_hole() as port:
        report = examine([sshd.host(port=port)], options(archive, patience_s=1.0))
    check_only(report, "net.ping", "127.0.0.1 does not answer", "3 of 3 lost", f"TCP port {port}")
    found = by_check(report)
    assert {found[step].level for step in ("ssh.port", "ssh.banner", "ssh.auth", "ssh.clock")} == {Level.SKIPPED}


def test_a_host_that_answers_no_icmp(sshd: Sshd, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pings.icmp_socket
    monkeypatch.setattr(pings, "icmp_socket", lambda family: LossySocket(plain(family), 20))  # type: ignore[arg-type]
    found = by_check(examine([sshd.host()], options(archive)))["net.ping"]
    assert (found.level, found.values["how"], found.values["lost"]) == (Level.OK, "TCP", 0)
    assert "ICMP: 3 of 3 lost, so it is filtered" in found.found


@pytest.mark.parametrize(("greeting", "words"), [(None, "SSH handshake with"), (b"220 mail.example ESMTP\r\n" * 300, "220 mail.example")])
def test_something_that_is_no_sshd(sshd: Sshd, archive: Path, greeting: bytes | None, words: str) -> None:
    with listener(greeting) as port:
        check_only(examine([sshd.host(port=port)], options(archive, patience_s=1.0)), "ssh.banner", words)


def test_an_unknown_host_key(sshd: Sshd, archive: Path, tmp_path: Path) -> None:
    host = sshd.host(ssh_args=f"-F none -o UserKnownHostsFile={tmp_path / 'none'} -o GlobalKnownHostsFile=none")
    found = check_only(examine([host], options(archive)), "ssh.host_key", "unknown host key", "SHA256:")
    assert "ssh-keyscan" in found.remedy


def test_a_changed_host_key(sshd: Sshd, archive: Path, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other")
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {' '.join(other.with_suffix('.pub').read_text().split()[:2])}\n")
    host = sshd.host(ssh_args=f"-F none -o UserKnownHostsFile={known} -o GlobalKnownHostsFile=none -o IdentityAgent=none")
    found = check_only(examine([host], options(archive)), "ssh.host_key", "HOST KEY CHANGED", str(known))
    assert "ssh-keygen -R" in found.remedy


def test_a_key_that_the_host_refuses(sshd: Sshd, archive: Path, tmp_path: Path) -> None:
    key = keygen(tmp_path / "stranger")
    check_only(examine([sshd.host(key_file=str(key))], options(archive)), "ssh.auth", "refused every key", str(key))


def test_a_key_that_is_locked(sshd: Sshd, archive: Path, tmp_path: Path) -> None:
    key = keygen(tmp_path / "locked", passphrase="secret words")
    found = check_only(examine([sshd.host(key_file=str(key))], options(archive)), "ssh.auth", "needs a passphrase")
    assert "ssh-add" in found.remedy


def test_a_configuration_that_ssh_refuses(sshd: Sshd, archive: Path) -> None:
    check_only(examine([sshd.host(ssh_args="-o NoSuchOption=yes")], options(archive)), "ssh.config", "nosuchoption")


def test_a_jump_host_is_what_ping_and_name_are_about_and_is_named_when_it_refuses(sshd: Sshd, archive: Path, tmp_path: Path) -> None:
    config, stranger = tmp_path / "config", keygen(tmp_path / "stranger")
    common = f"UserKnownHostsFile {sshd.known_hosts}\n  GlobalKnownHostsFile none\n  IdentityAgent none\n  User {sshd.user}\n"
    config.write_text(
        f"Host bastion\n  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityFile {sshd.client_key}\n  {common}\n"
        f"Host broken\n  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityFile {stranger}\n  IdentitiesOnly yes\n  {common}\n"
        f"Host *\n  {common}"
    )
    through = {name: sshd.host(name=name, ssh_args=f"-F {config} -J {name}") for name in ("bastion", "broken")}
    report = examine(list(through.values()), options(archive, ports=(7761,)))
    well = by_check(report, "bastion")
    assert well["ssh.auth"].level is Level.OK
    assert "through 127.0.0.1" in well["ssh.config"].found
    assert well["net.ping"].subject == "jump host 127.0.0.1"
    assert well["net.ports"].level is Level.SKIPPED
    assert "jump host" in well["net.ports"].found
    check_only(report, "ssh.auth", "jump host broken", host="broken")


def test_one_broken_host_leaves_the_others_green(sshd: Sshd, archive: Path) -> None:
    hosts = [sshd.host(name="well"), sshd.host(name="bad", port=free_port())]
    report = examine(hosts, options(archive, patience_s=1.0))
    assert report.failed_hosts() == ["bad"]
    assert {one.level for one in report.findings["well"] if one.check not in SKIP} == {Level.OK}


def test_ports_that_the_user_named(sshd: Sshd, archive: Path) -> None:
    closed = free_port()
    with listener(None) as port:
        report = examine([sshd.host(ports=(closed,))], options(archive, ports=(port,), skip=("storage",)))
    ports = {one.subject: one for one in report.findings["web1"] if one.check == "net.ports"}
    assert ports[f"port {port}"].level is Level.OK
    assert ports[f"port {closed}"].level is Level.FAILURE
    assert "refused" in ports[f"port {closed}"].found
    assert [one.check for one in report.findings["web1"] if one.level is Level.FAILURE] == ["net.ports"]


def test_hosts_reach_each_other_and_one_that_is_away_is_blamed_alone(sshd: Sshd, archive: Path) -> None:
    hosts = [sshd.host(name="a"), sshd.host(name="b"), sshd.host(name="away", port=free_port())]
    report = examine(hosts, options(archive, matrix=True, skip=("storage",), patience_s=1.0))
    reach = {one.subject: one for one in report.findings["a"] if one.check == "host.reach"}
    assert reach[f"b:{sshd.port}"].level is Level.OK
    assert reach[f"away:{hosts[2].port}"].level is Level.SKIPPED
    assert report.failed_hosts() == ["away"]


def test_two_names_of_one_machine(sshd: Sshd, archive: Path) -> None:
    report = examine([sshd.host(name="a"), sshd.host(name="b")], options(archive))
    assert "a, b are the same machine" in by_check(report, "")["fleet.duplicates"].found


def test_a_host_without_a_usable_python(sshd: Sshd, archive: Path) -> None:
    report = examine([sshd.host(python="/usr/bin/no-such-python")], options(archive, skip=()))
    check_only(report, "host.python", "no-such-python")
    found = by_check(report)
    assert found["ssh.round_trip"].level is Level.SKIPPED
    assert found["storage"].level is Level.SKIPPED


def test_a_python_that_is_too_old(sshd: Sshd, archive: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text(
        f'#!/bin/sh\nshift\ncode=$1\nshift\nexec {sys.executable} -c "import sys; sys.version_info = (3, 6, 8, \'final\', 0); $code" "$@"\n'
    )
    old.chmod(0o755)
    report = examine([sshd.host(python=str(old))], options(archive, skip=()))
    found = check_only(report, "host.python", "3.6.8")
    assert found.expected == "Python 3.9 or later"
    assert by_check(report)["ssh.clock"].level is Level.OK


def test_how_long_an_idle_connection_lives(archive: Path, tmp_path: Path) -> None:
    """This sshd ends connections without a session after a second or so, as a NAT forgets silent ones."""
    server = Sshd(tmp_path, ("UnusedConnectionTimeout 1",))
    try:
        report = examine([server.host()], options(archive, idle_test_s=4.0))
        found = by_check(report)["ssh.idle"]
        assert found.level is Level.WARNING, found
        assert found.values["lived_s"] < found.values["died_s"] <= 4.0
    finally:
        server.stop()


def test_connections_that_outlive_the_idle_test(sshd: Sshd, archive: Path) -> None:
    found = by_check(examine([sshd.host()], options(archive, idle_test_s=1.0)))["ssh.idle"]
    assert (found.level, found.values["lived_s"]) == (Level.OK, 1.0)


def test_nothing_is_done_when_all_is_skipped(sshd: Sshd, archive: Path) -> None:
    from sai3ssh.preflight import check_skip

    report = examine([sshd.host(port=free_port())], options(archive, skip=check_skip(["all"])))
    assert (report.findings, report.exit_code) == ({}, 0)


@pytest.mark.parametrize("way", ["socket", "program", "tcp"])
def test_three_ways_to_ping(way: str, sshd: Sshd, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "socket":
        monkeypatch.setattr(pings, "icmp_socket", lambda family: None)
    if way == "tcp":
        monkeypatch.setattr(pings.shutil, "which", lambda name: None)
    found = by_check(examine([sshd.host()], options(archive)))["net.ping"]
    assert found.level is Level.OK, found
    assert found.values["how"] == {"socket": "ICMP", "program": "ping", "tcp": "TCP"}[way]
    assert (found.values["sent"], found.values["lost"]) == (3, 0)


class LossySocket:
    """A real ICMP socket that sends only some of what it is given."""

    def __init__(self, sock: socket.socket, lose: int) -> None:
        self._sock, self._lose, self._count = sock, lose, 0

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:
        self._count += 1
        return len(data) if self._count <= 20 and self._count % 20 < self._lose else self._sock.sendto(data, address)

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


@pytest.mark.parametrize(("lose", "level", "lost"), [(1, Level.WARNING, 1), (5, Level.FAILURE, 5)])
def test_lost_packets(lose: int, level: Level, lost: int, sshd: Sshd, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one is lost there is a second look; a tenth of all is too much."""
    plain = pings.icmp_socket
    monkeypatch.setattr(pings, "icmp_socket", lambda family: LossySocket(plain(family), lose))  # type: ignore[arg-type]
    found = by_check(examine([sshd.host()], options(archive, probes=20)))["net.ping"]
    assert found.level is level, found
    assert (found.values["sent"], found.values["lost"]) == (40, lost)


def stacks(host: Host, directory: Path) -> dict[str, Finding]:
    return {one.check: one for one in doctor([host], directory).findings[host.name]}


def test_both_ssh_stacks_agree_about_a_host(sshd: Sshd, tmp_path: Path) -> None:
    before = sshd.known_hosts.read_bytes()
    found = stacks(sshd.host(), tmp_path)
    assert {one.level for one in found.values()} == {Level.OK}, found
    assert set(found) == {"stacks.verdict", "stacks.user", "stacks.address", "stacks.host_key"}
    assert found["stacks.address"].found == f"127.0.0.1 port {sshd.port}"
    assert sshd.known_hosts.read_bytes() == before


def test_a_key_that_others_may_read_is_where_the_stacks_differ(sshd: Sshd, tmp_path: Path) -> None:
    """OpenSSH ignores it, paramiko would not."""
    key = tmp_path / "open"
    key.write_bytes(sshd.client_key.read_bytes())
    key.chmod(0o644)
    report = doctor([sshd.host(key_file=str(key))], tmp_path)
    assert report.exit_code == 5
    verdict = {one.check: one for one in report.findings["web1"]}["stacks.verdict"]
    assert verdict.level is Level.FAILURE
    assert "sai3ssh the host lets us in; for ssh it refuses the login" in verdict.found
    (bad,) = [one for one in report.findings[MACHINE] if one.check == "doctor.keys"]
    assert (bad.level, bad.remedy) == (Level.FAILURE, f"chmod 600 {key}")


def test_a_certificate_authority_is_where_the_stacks_differ(sshd: Sshd, tmp_path: Path) -> None:
    """OpenSSH believes a signed host key; paramiko cannot."""
    authority = keygen(tmp_path / "ca")
    server = Sshd(tmp_path / "signed")
    try:
        public = server.host_keys["ed25519"].with_suffix(".pub")
        subprocess.run(["ssh-keygen", "-q", "-s", str(authority), "-I", "host", "-h", "-n", "127.0.0.1", str(public)], check=True)
        server.stop()
        with server.config.open("a") as config:
            config.write(f"HostCertificate {server.host_keys['ed25519']}-cert.pub\n")
        server.start()
        server.known_hosts.write_text(f"@cert-authority * {authority.with_suffix('.pub').read_text()}")
        verdict = stacks(server.host(), tmp_path)["stacks.verdict"]
        assert verdict.level is Level.FAILURE
        assert "unknown host key" in verdict.found
    finally:
        server.stop()


@pytest.mark.parametrize("change", ["port", "key", "host key"])
def test_a_host_that_both_stacks_refuse_is_no_difference(change: str, sshd: Sshd, tmp_path: Path) -> None:
    host = {
        "port": lambda: sshd.host(port=free_port()),
        "key": lambda: sshd.host(key_file=str(keygen(tmp_path / "stranger"))),
        "host key": lambda: sshd.host(ssh_args=f"-F none -o UserKnownHostsFile={tmp_path / 'none'} -o GlobalKnownHostsFile=none"),
    }[change]()
    verdict = stacks(host, tmp_path)["stacks.verdict"]
    assert verdict.level is Level.WARNING, verdict
    assert "for both sai3ssh and ssh" in verdict.found


def test_a_host_that_ssh_does_not_verify_is_pointed_out(sshd: Sshd, tmp_path: Path) -> None:
    host = sshd.host(ssh_args=f"{sshd.host().ssh_args} -o StrictHostKeyChecking=no")
    assert stacks(host, tmp_path)["stacks.strict"].level is Level.WARNING


def machine(directory: Path) -> dict[str, Finding]:
    return {f"{one.check} {Path(one.subject).name}".strip(): one for one in doctor([], directory).findings[MACHINE]}


def test_doctor_of_a_broken_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    keygen(home / ".ssh/id_locked", passphrase="secret words")
    keygen(home / ".ssh/id_good")
    (home / ".ssh/id_nonsense").write_text("no key\n")
    (home / ".ssh/id_nonsense").chmod(0o600)
    (home / ".ssh/known_hosts").write_text("")
    (home / ".ssh/known_hosts").chmod(0o666)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody"))
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    found = machine(tmp_path)
    levels = {name: one.level for name, one in found.items() if name.startswith(("doctor.keys", "doctor.permissions"))}
    assert levels == {
        "doctor.keys id_good": Level.OK,
        "doctor.keys id_locked": Level.WARNING,
        "doctor.keys id_nonsense": Level.FAILURE,
        "doctor.permissions .ssh": Level.OK,
        "doctor.permissions known_hosts": Level.FAILURE,
    }
    assert found["doctor.agent"].level is Level.WARNING
    assert found["doctor.locale"].level is Level.FAILURE
    assert "xx_XX" in found["doctor.locale"].found
    assert found["doctor.packages"].level is Level.OK, found["doctor.packages"]
    assert "paramiko 5." in found["doctor.packages"].found
    assert stat.S_IMODE((home / ".ssh/known_hosts").stat().st_mode) == 0o666


def test_doctor_knows_a_key_that_the_agent_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keygen(tmp_path / "id_held")
    socket_path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket_path)], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        for _ in range(1000):
            if subprocess.run(["ssh-add", "-q", str(key)], capture_output=True, check=False).returncode == 0:
                break
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret words", "-f", str(key)], check=True)
        report = doctor([Host("h", "127.0.0.1", port=free_port(), key_file=str(key), ssh_args="-F none")], tmp_path)
        found = {f"{one.check} {one.subject}".strip(): one for one in report.findings[MACHINE]}
        assert "1 keys: id_held" in found["doctor.agent"].found
        assert (found[f"doctor.keys {key}"].level, found[f"doctor.keys {key}"].found[:6]) == (Level.OK, "locked")
    finally:
        agent.kill()
        agent.wait(10)


def test_the_playbook_fails_the_host_that_has_a_failure_and_leaves_nothing(tmp_path: Path) -> None:
    port, secret = free_port(), "never-to-be-seen-1234567890"
    variables = tmp_path / "variables.yml"
    variables.write_text(
        f"sai3ssh_preflight_target: {{uri: 's3://bucket/x/', endpoint_url: 'http://127.0.0.1:{port}', operations: [get, put]}}\n"
        f"sai3ssh_preflight_credentials: {{access_key: AKID, secret_key: {secret}}}\n"
        f"sai3ssh_agent_state_dir: {tmp_path / 'state'}\n"
        "sai3ssh_preflight_skip: [host.processes]\n"
    )
    playbooks = Path(__file__).parent.parent.parent / "playbooks"
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "preflight.yml", "--limit", "local-1", "-e", f"@{variables}"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, cwd=playbooks, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "preflight failed: storage.tcp" in done.stdout
    assert f"127.0.0.1:{port}" in done.stdout
    assert secret not in done.stdout + done.stderr
    assert not list(tmp_path.glob("sai3ssh-preflight-*"))
