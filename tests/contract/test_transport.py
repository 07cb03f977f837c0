"""One contract, two subjects: programs as children of this process, and through a real sshd on loopback."""

from __future__ import annotations

import contextlib
import getpass
import os
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sai3ssh.errors import AuthenticationError, HostKeyError, LinkLost, Permanent, Sai3sshError, Transient
from sai3ssh.model import Host
from sai3ssh.transport import Connection, Gate, transport_for
from tests.contract.sshd_server import Sshd, free_port, keygen

DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(params=["local", "ssh"])
def host(request: pytest.FixtureRequest) -> Host:
    if request.param == "local":
        return Host(name="here", address="localhost", connection="local")
    server: Sshd = request.getfixturevalue("sshd")
    return server.host()


@pytest.fixture
def connection(host: Host) -> Iterator[Connection]:
    connection = transport_for(host).connect(DEADLINE_S)
    yield connection
    connection.close()


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        # One may be the end of an earlier connection.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- both ---------------------------------------------------------------------------------------------------------------------------------


def test_run_gives_exit_code_and_both_streams(connection: Connection) -> None:
    done = connection.run("cat; echo oops >&2; exit 3", input=b"hello", timeout_s=DEADLINE_S)
    assert done == (3, b"hello", b"oops\n")


def test_argv_reaches_the_program_unaltered(connection: Connection) -> None:
    words = ["a b", "$HOME", "it's", '"', "*", "\\", ""]
    done = connection.run([*python("import sys, json; print(json.dumps(sys.argv[1:]))"), *words], timeout_s=DEADLINE_S)
    assert done.exit_code == 0
    assert done.stdout.decode() == __import__("json").dumps(words) + "\n"


def test_run_does_not_hang_on_streams_larger_than_any_window(connection: Connection) -> None:
    size = 5 << 20
    script = f"""
import sys
sys.stderr.buffer.write(b"e" * {size}); sys.stderr.flush()
sys.stdout.buffer.write(b"o" * {size}); sys.stdout.flush()
data = sys.stdin.buffer.read()
sys.stdout.buffer.write(data)
"""
    done = connection.run(python(script), input=b"i" * size, timeout_s=60)
    assert done.exit_code == 0
    assert done.stdout == b"o" * size + b"i" * size
    assert done.stderr == b"e" * size


def test_run_of_a_program_that_does_not_read_its_input(connection: Connection) -> None:
    done = connection.run("exec 0<&-; echo done", input=b"x" * (5 << 20), timeout_s=DEADLINE_S)
    assert (done.exit_code, done.stdout) == (0, b"done\n")


def test_run_ends_at_its_deadline(connection: Connection) -> None:
    began = time.monotonic()
    with pytest.raises(LinkLost, match="did not end within"):
        connection.run("sleep 60", timeout_s=0.5)
    assert 0.4 < time.monotonic() - began < 10


def test_a_killed_program_has_no_exit_code(connection: Connection) -> None:
    assert connection.run("kill -9 $$", timeout_s=DEADLINE_S).exit_code is None


def test_channel_talks_both_ways_for_as_long_as_it_likes(connection: Connection) -> None:
    channel = connection.exec(["cat"], DEADLINE_S)
    for text in (b"one", b"two" * 1000):
        channel.send(text, DEADLINE_S)
        received = b""
        while len(received) < len(text):
            received += channel.recv(DEADLINE_S)
        assert received == text
    with pytest.raises(TimeoutError):
        channel.recv(0.1)
    channel.close()


def test_recv_is_empty_only_at_the_end(connection: Connection) -> None:
    channel = connection.exec("printf last; echo words >&2; exit 7", DEADLINE_S)
    received = []
    while data := channel.recv(DEADLINE_S):
        received.append(data)
    assert b"".join(received) == b"last"
    assert channel.stderr_tail() == b"words\n"
    assert channel.exit_code() == 7
    assert channel.recv(DEADLINE_S) == b""
    channel.close()


def test_stderr_never_blocks_a_channel_and_its_tail_is_kept(connection: Connection) -> None:
    script = 'import sys; sys.stderr.write("e" * (5 << 20) + "END"); sys.stderr.flush(); print("through", flush=True); sys.stdin.read()'
    channel = connection.exec(python(script), DEADLINE_S)
    received = b""
    while not received.endswith(b"\n"):
        received += channel.recv(30)
    assert received == b"through\n"
    wait_until(lambda: channel.stderr_tail().endswith(b"eEND"), "the last words of stderr, which no order ties to stdout")
    channel.close()


def test_close_ends_the_program(connection: Connection) -> None:
    channel = connection.exec(python("import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"), DEADLINE_S)
    pid = int(channel.recv(DEADLINE_S))
    assert alive(pid)
    channel.close()
    wait_until(lambda: not alive(pid), "the program ends with its channel")


def test_a_kill_from_outside_is_the_end_of_the_channel(connection: Connection) -> None:
    channel = connection.exec(python("import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"), DEADLINE_S)
    os.kill(int(channel.recv(DEADLINE_S)), 9)
    assert channel.recv(DEADLINE_S) == b""
    assert channel.exit_code() is None
    with contextlib.suppress(LinkLost):  # the first bytes after the end may still be taken
        channel.send(b"x", DEADLINE_S)
    with pytest.raises(LinkLost):
        channel.send(b"x" * (8 << 20), 2.0)
    channel.close()


def test_close_wakes_a_recv_in_another_thread(connection: Connection) -> None:
    channel = connection.exec("sleep 60", DEADLINE_S)
    timer = threading.Timer(0.2, connection.close)
    timer.start()
    began = time.monotonic()
    assert channel.recv(30) == b""
    assert time.monotonic() - began < 10
    timer.join()
    assert not connection.is_active()
    with pytest.raises((LinkLost, Transient)):
        connection.exec("true", DEADLINE_S)


def test_probe_says_yes_at_once(host: Host) -> None:
    took_s = []
    for _ in range(3):
        transport, began = transport_for(host), time.monotonic()
        assert transport.probe(threading.Event(), 5)
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 0.4, "one of three may meet a busy machine"


# --- SSH: what goes wrong -----------------------------------------------------------------------------------------------------------------


def connect_error(host: Host, deadline_s: float = DEADLINE_S) -> Sai3sshError:
    with pytest.raises(Sai3sshError) as caught:
        transport_for(host, Gate()).connect(deadline_s).close()
    assert host.name in str(caught.value)
    return caught.value


@contextlib.contextmanager
def server(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """A TCP server on loopback that hands each connection to `serve`, and closes it afterwards."""
    listener = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()

    def accept() -> None:
        while not ending.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                serve(sock)

    thread = threading.Thread(target=accept)
    thread.start()
    yield int(listener.getsockname()[1])
    ending.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(20)
    assert not thread.is_alive()


def until_closed(sock: socket.socket) -> None:
    sock.settimeout(20)
    while sock.recv(4096):
        pass


BANNER = b"SSH-2.0-OpenSSH_9.2\r\n"


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def banner_and_reset(sock: socket.socket) -> None:
    sock.sendall(BANNER)
    sock.recv(10)
    reset(sock)


def banner_and_silence(sock: socket.socket) -> None:
    sock.sendall(BANNER)
    until_closed(sock)


def banner_and_close(sock: socket.socket) -> None:
    sock.sendall(BANNER)
    sock.recv(4096)


@pytest.mark.parametrize(
    "serve",
    [until_closed, lambda sock: None, reset, banner_and_close, banner_and_reset, banner_and_silence],
    ids=["silent", "accepted then closed", "reset", "closed after banner", "reset after banner", "silent after banner"],
)
def test_a_broken_handshake_is_transient(sshd: Sshd, serve: Callable[[socket.socket], object]) -> None:
    with server(serve) as port:
        began = time.monotonic()
        error = connect_error(sshd.host(port=port), deadline_s=1.5)
        assert time.monotonic() - began < 10
    assert isinstance(error, Transient), repr(error.__cause__)
    assert str(port) in str(error)


def test_no_algorithm_in_common_is_permanent(tmp_path: Path, sshd: Sshd) -> None:
    other = Sshd(tmp_path / "old", options=("Ciphers chacha20-poly1305@openssh.com",))
    try:
        error = connect_error(other.host())
    finally:
        other.stop()
    assert isinstance(error, Permanent)
    assert "no algorithm in common" in str(error)


def test_a_closed_port_is_transient(sshd: Sshd) -> None:
    error = connect_error(sshd.host(port=free_port()))
    assert isinstance(error, Transient)
    assert "refused" in str(error)


def test_an_unknown_name_is_permanent(sshd: Sshd) -> None:
    error = connect_error(sshd.host(address="no-such-host.invalid"))
    assert isinstance(error, Permanent) or "for now" in str(error)  # without any resolver the answer is 'try again'
    assert "name" in str(error)


def test_a_key_that_is_not_authorized_is_permanent(sshd: Sshd, tmp_path: Path) -> None:
    error = connect_error(sshd.host(key_file=str(keygen(tmp_path / "other"))))
    assert isinstance(error, AuthenticationError)
    assert str(tmp_path / "other") in str(error)


def test_a_host_that_takes_too_long_to_look_at_a_key_is_transient(tmp_path: Path) -> None:
    server = Sshd(tmp_path / "sshd", ("AuthorizedKeysCommand /bin/sleep 60", f"AuthorizedKeysCommandUser {getpass.getuser()}"))
    try:
        # A key that is in no file is looked up by the command, which never ends.
        error = connect_error(server.host(key_file=str(keygen(tmp_path / "other"))), 3.0)
        assert isinstance(error, Transient), error
    finally:
        server.stop()


def test_a_locked_key_names_the_remedy(sshd: Sshd, tmp_path: Path) -> None:
    error = connect_error(sshd.host(key_file=str(keygen(tmp_path / "locked", passphrase="secret"))))
    assert isinstance(error, AuthenticationError)
    assert "needs a passphrase" in str(error)
    assert f"ssh-add {tmp_path / 'locked'}" in str(error)


def test_no_key_at_all(sshd: Sshd, tmp_path: Path) -> None:
    error = connect_error(sshd.host(key_file=str(tmp_path / "absent")))
    assert isinstance(error, AuthenticationError)
    assert "no key to offer" in str(error)


def test_a_connection_cut_at_any_byte_of_the_handshake_is_transient(tmp_path: Path) -> None:
    upstream_server = Sshd(tmp_path / "upstream")
    limit = 0

    def relay(sock: socket.socket) -> None:
        """Passes on what both sides say until the client has said `limit` bytes, then cuts."""
        said = 0
        with socket.create_connection(("127.0.0.1", upstream_server.port)) as upstream:
            while True:
                for source in select.select([sock, upstream], [], [], 20)[0]:
                    data = source.recv(limit - said if source is sock else 65536)
                    (upstream if source is sock else sock).sendall(data)
                    said += len(data) if source is sock else 0
                    if not data:
                        return
                    if said >= limit:
                        # An orderly end: closing with bytes unread would be a reset, whose error does not say where it struck.
                        sock.shutdown(socket.SHUT_WR)
                        until_closed(sock)
                        return

    errors: list[Sai3sshError] = []
    with contextlib.ExitStack() as stack:
        stack.callback(upstream_server.stop)
        port = stack.enter_context(server(relay))
        upstream_server.know("ed25519", name=f"[127.0.0.1]:{port}")
        while not (errors and limit > 20_000):
            limit += 150
            try:
                transport_for(upstream_server.host(port=port), Gate()).connect(5).close()
                break
            except Sai3sshError as error:
                errors.append(error)
    assert limit < 20_000, "the handshake never came through"
    assert not [error for error in errors if not isinstance(error, Transient)]
    assert len(errors) > 5
    assert any("cut off during authentication" in str(error) for error in errors)


def test_an_unknown_host_key_says_how_to_add_it(sshd: Sshd, tmp_path: Path) -> None:
    nobody = tmp_path / "known_hosts"
    error = connect_error(sshd.host(ssh_args=f"-F none -o UserKnownHostsFile={nobody} -o GlobalKnownHostsFile=none"))
    assert isinstance(error, HostKeyError)
    listed = subprocess.run(["ssh-keygen", "-lf", sshd.host_keys["ed25519"]], check=True, capture_output=True, text=True).stdout
    assert listed.split()[1] in str(error)
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> {nobody}" in str(error)
    assert not nobody.exists()


def test_host_key_checking_cannot_be_switched_off(sshd: Sshd, tmp_path: Path) -> None:
    arguments = f"-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile={tmp_path / 'none'}"
    assert isinstance(connect_error(sshd.host(ssh_args=arguments)), HostKeyError)


def test_a_changed_host_key_is_loud(sshd: Sshd, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other").with_suffix(".pub").read_text().split()[:2]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {' '.join(other)}\n")
    error = connect_error(sshd.host(ssh_args=f"-F none -o UserKnownHostsFile={known}"))
    assert isinstance(error, HostKeyError)
    assert "HOST KEY CHANGED" in str(error)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_the_known_key_is_asked_for_when_a_host_has_several(sshd: Sshd, kind: str) -> None:
    sshd.know(kind)
    try:
        connection = transport_for(sshd.host()).connect(DEADLINE_S)
        assert connection.run("echo in", timeout_s=DEADLINE_S).stdout == b"in\n"
        connection.close()
    finally:
        sshd.know(*sshd.host_keys)


def test_hashed_and_pattern_entries_are_known(sshd: Sshd, tmp_path: Path) -> None:
    key = " ".join(sshd.host_keys["ed25519"].with_suffix(".pub").read_text().split()[:2])
    hashed = tmp_path / "hashed"
    hashed.write_text(f"[127.0.0.1]:{sshd.port} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(hashed)], check=True, stderr=subprocess.DEVNULL)
    assert "127.0.0.1" not in hashed.read_text()
    pattern = tmp_path / "pattern"
    pattern.write_text(f"!10.*,[127.0.0.*]:{sshd.port} {key}\n")
    alias = tmp_path / "alias"
    alias.write_text(f"the-alias {key}\n")
    for known, more in ((hashed, ""), (pattern, ""), (alias, "-o HostKeyAlias=the-alias")):
        transport_for(sshd.host(ssh_args=f"-F none -o UserKnownHostsFile={known} {more}")).connect(DEADLINE_S).close()
    pattern.write_text(f"!127.0.0.1,[127.0.0.*]:{sshd.port},![127.0.0.1]:{sshd.port} {key}\n")
    assert isinstance(connect_error(sshd.host(ssh_args=f"-F none -o UserKnownHostsFile={pattern}")), HostKeyError)
    pattern.write_text(f"[127.0.0.1]:{sshd.port} {key}\n@revoked * {key}\n")
    assert "revoked" in str(connect_error(sshd.host(ssh_args=f"-F none -o UserKnownHostsFile={pattern}")))


# --- SSH: ways in -------------------------------------------------------------------------------------------------------------------------


def test_a_locked_key_works_through_ssh_agent(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = keygen(tmp_path / "locked", passphrase="secret")
    allowed = sshd.directory / "authorized_keys"
    before = allowed.read_text()
    allowed.write_text(before + locked.with_suffix(".pub").read_text())
    agent_socket = tmp_path / "agent.sock"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent_socket)], stdout=subprocess.DEVNULL)
    try:
        wait_until(agent_socket.exists, "ssh-agent listens")
        ask = tmp_path / "ask"
        ask.write_text("#!/bin/sh\necho secret\n")
        ask.chmod(0o755)
        environment = {**os.environ, "SSH_AUTH_SOCK": str(agent_socket), "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(["ssh-add", "-q", str(locked)], env=environment, check=True, stdin=subprocess.DEVNULL)
        arguments = f"-F none -o UserKnownHostsFile={sshd.known_hosts} -o IdentityAgent={agent_socket}"
        transport_for(sshd.host(key_file=str(locked), ssh_args=arguments)).connect(DEADLINE_S).close()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent_socket))
        arguments = f"-F none -o UserKnownHostsFile={sshd.known_hosts}"
        transport_for(sshd.host(key_file=None, ssh_args=arguments)).connect(DEADLINE_S).close()
    finally:
        agent.terminate()
        agent.wait(10)
        allowed.write_text(before)


def test_ssh_config_answers_what_the_inventory_leaves_open(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host web-*\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {sshd.client_key}\n"
        f"  UserKnownHostsFile {sshd.known_hosts}\n"
    )
    host = Host(name="web1", address="web-1", ssh_args=f"-F {config}")
    connection = transport_for(host).connect(DEADLINE_S)
    assert connection.run("echo in", timeout_s=DEADLINE_S).stdout == b"in\n"
    connection.close()


def test_the_inventory_wins_over_ssh_config(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host *\n  Port 1\n  User nobody\n  UserKnownHostsFile {sshd.known_hosts}\n")
    transport_for(sshd.host(ssh_args=f"-F {config}")).connect(DEADLINE_S).close()


@pytest.mark.parametrize("way", ["-J jump", "-o ProxyJump=jump", '-o ProxyCommand="ssh -F {config} -W %h:%p -q jump"'])
def test_jump_hosts(sshd: Sshd, tmp_path: Path, way: str) -> None:
    jump = Sshd(tmp_path / "jump")
    config = tmp_path / "config"
    config.write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {jump.port}\n  User {jump.user}\n  IdentityFile {jump.client_key}\n"
        f"  UserKnownHostsFile {jump.known_hosts}\n"
    )
    arguments = f"-F {config} -o UserKnownHostsFile={sshd.known_hosts} " + way.format(config=config)
    try:
        connection = transport_for(sshd.host(ssh_args=arguments)).connect(DEADLINE_S)
        # sshd tells its program who connected: the port of the inner connection is the jump host's.
        assert connection.run("echo $SSH_CONNECTION", timeout_s=DEADLINE_S).stdout.split()[3] == str(sshd.port).encode()
        assert connection.is_active()
        channel = connection.exec("sleep 60", DEADLINE_S)
        jump.stop()
        assert channel.recv(DEADLINE_S) == b""
        assert not connection.is_active()
        connection.close()
        error = connect_error(sshd.host(ssh_args=arguments))
        assert isinstance(error, Transient)
        assert "jump" in str(error)
        jump.start()
        jump.know("rsa", name="somebody-else")
        error = connect_error(sshd.host(ssh_args=arguments))
        assert isinstance(error, HostKeyError), "the jump host's key is verified too"
    finally:
        jump.stop()


def test_a_host_that_is_down_behind_a_jump_host_is_transient(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {sshd.client_key}\n"
        f"  UserKnownHostsFile {sshd.known_hosts}\n"
    )
    assert isinstance(connect_error(sshd.host(port=free_port(), ssh_args=f"-F {config} -J jump")), Transient)


def test_a_jump_host_that_forbids_forwarding_is_permanent(sshd: Sshd, tmp_path: Path) -> None:
    jump = Sshd(tmp_path / "jump", options=("AllowTcpForwarding no",))
    config = tmp_path / "config"
    config.write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {jump.port}\n  User {jump.user}\n  IdentityFile {jump.client_key}\n"
        f"  UserKnownHostsFile {jump.known_hosts}\n"
    )
    try:
        error = connect_error(sshd.host(ssh_args=f"-F {config} -J jump"))
    finally:
        jump.stop()
    assert isinstance(error, Permanent)
    assert "AllowTcpForwarding" in str(error)


def test_too_many_keys_are_refused_for_good_and_not_taken_for_a_cut(tmp_path: Path) -> None:
    server = Sshd(tmp_path / "strict", options=("MaxAuthTries 3",))
    keys = " ".join(f"-o IdentityFile={keygen(tmp_path / f'key{number}')}" for number in range(5))
    try:
        error = connect_error(server.host(key_file=None, ssh_args=f"-F none -o UserKnownHostsFile={server.known_hosts} {keys}"))
    finally:
        server.stop()
    assert isinstance(error, AuthenticationError)
    assert "key0" in str(error)
    assert "closed the connection" in str(error)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("-o ProxyCommand='nc %h %p'", "ProxyCommand 'nc %h %p' is not supported"),
        ("-F /nonexistent/config", "ssh refuses its configuration"),
        ("-o 'unbalanced", "cannot be split"),
    ],
)
def test_arguments_that_cannot_work_are_permanent(sshd: Sshd, arguments: str, found: str) -> None:
    error = connect_error(sshd.host(ssh_args=arguments))
    assert isinstance(error, Permanent)
    assert found in str(error)


def test_the_socket_notices_a_dead_peer(sshd: Sshd) -> None:
    connection = transport_for(sshd.host()).connect(DEADLINE_S)
    sock = connection._opened.sock  # type: ignore[attr-defined]
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 10_000
    connection.close()


def test_a_frozen_sshd_does_not_hold_exec_beyond_its_deadline(tmp_path: Path) -> None:
    server = Sshd(tmp_path / "frozen")
    connection = transport_for(server.host()).connect(DEADLINE_S)
    victims = server.sessions()
    assert victims
    try:
        signal_all(victims, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(Transient):
            connection.exec("true", 1.0)
        assert time.monotonic() - began < 10
    finally:
        signal_all(victims, signal.SIGCONT)
        connection.close()
        server.stop()


def test_a_storm_of_connections_is_not_dropped_by_max_startups(tmp_path: Path) -> None:
    server = Sshd(tmp_path / "storm", options=("MaxStartups 10:30:100",))
    gate = Gate()
    errors: list[BaseException] = []

    def connect() -> None:
        try:
            transport_for(server.host(), gate).connect(60).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=connect) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    server.stop()
    assert not errors


def test_the_probe_notices_a_port_that_opens(sshd: Sshd) -> None:
    port = free_port()
    transport = transport_for(sshd.host(port=port))
    assert not transport.probe(threading.Event(), 0.6)
    opened: list[float] = []

    def listen() -> None:
        listeners.append(socket.create_server(("127.0.0.1", port)))
        opened.append(time.monotonic())

    listeners: list[socket.socket] = []
    timer = threading.Timer(0.8, listen)
    timer.start()
    assert transport.probe(threading.Event(), 10)
    noticed = time.monotonic() - opened[0]
    timer.join()
    listeners[0].close()
    assert noticed < 1.0
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    assert not transport.probe(stop, 30)
    assert time.monotonic() - began < 10


def test_quoting_is_the_shells(sshd: Sshd) -> None:
    connection = transport_for(sshd.host()).connect(DEADLINE_S)
    assert connection.run(f"echo {shlex.quote('$HOME')}", timeout_s=DEADLINE_S).stdout == b"$HOME\n"
    connection.close()
