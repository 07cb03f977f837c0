"""What OpenSSH would do to reach a host: its own answer, from `ssh -G`, so that Ansible and sai3ssh agree.

Variables of the inventory come first, then ansible_ssh_common_args and ansible_ssh_extra_args, then ssh_config: the order in which Ansible
puts them on ssh's command line, where the first value of an option wins.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import Permanent, Transient
from ..model import Host

MAX_HOPS = 8
PHASE = "ssh_config"
_TIMEOUT_S = 10.0
_FLAGS_WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")


@dataclass(frozen=True)
class Hop:
    """One sshd on the way, and how to log in there."""

    name: str
    address: str
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    agent_socket: str | None = None
    known_hosts: tuple[Path, ...] = ()
    host_key_alias: str | None = None
    strict: str = "ask"
    """StrictHostKeyChecking. Host keys are verified here whatever it says."""
    alive_interval_s: int = 0
    """ServerAliveInterval, of which only OpenSSH (and so Ansible) takes notice; 0: none is sent."""
    alive_count: int = 3


def route(host: Host) -> tuple[Hop, ...]:
    """The hops to the host, itself last; raises Permanent when ssh's configuration is wrong or needs what is not supported."""
    *options, destination = command_line(host)
    return _route(host.name, options, destination, _config_file(options), MAX_HOPS)


def command_line(host: Host) -> list[str]:
    """The options with which OpenSSH would be called for the host, and the destination."""
    options: list[str] = []
    # Port 22 is also what an inventory without ansible_port gives: it must not hide the Port of ssh_config.
    if host.port:
        options += ["-p", str(host.port)]
    if host.user:
        options += ["-l", host.user]
    if host.key_file:
        options += ["-i", str(Path(host.key_file).expanduser())]
    return [*options, *_split(host.ssh_args, host.name), host.address]


def _route(name: str, options: Sequence[str], destination: str, config_file: Sequence[str], hops_left: int) -> tuple[Hop, ...]:
    if hops_left == 0:
        raise Permanent(f"more than {MAX_HOPS} jump hosts", host=name, phase=PHASE, remedy="Check ProxyJump in ssh_config for a circle")
    answer = _ask_ssh(name, [*options, destination])
    hop = _hop(name, answer)
    jump = _one(answer, "proxyjump")
    command = _one(answer, "proxycommand")
    if jump and jump != "none":
        before: tuple[Hop, ...] = ()
        for position, stop in enumerate(jump.split(",")):
            # As OpenSSH does: only the first jump host may bring jump hosts of its own, and options of the command line are not for them.
            leg = _route(f"{name} (jump host {stop})", [*config_file, *_port_of(stop)], _without_port(stop), config_file, hops_left - 1)
            before += leg if position == 0 else leg[-1:]
        return (*before, hop)
    if command and command != "none":
        jump_options, jump_host = _jump_of_command(name, command)
        leg = _route(f"{name} (jump host {jump_host})", jump_options, jump_host, _config_file(jump_options), hops_left - 1)
        return (*leg, hop)
    return (hop,)


def _ask_ssh(name: str, arguments: Sequence[str]) -> dict[str, list[str]]:
    try:
        done = subprocess.run(
            ["ssh", "-T", "-G", *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, text=True, check=False
        )
    except FileNotFoundError as error:
        raise Permanent("the ssh command is not installed here", host=name, phase=PHASE, remedy="Install OpenSSH's client") from error
    except subprocess.TimeoutExpired as error:
        raise Transient(f"'ssh -G' gave no answer within {_TIMEOUT_S:.0f} s", host=name, phase=PHASE) from error
    if done.returncode != 0:
        raise Permanent(
            f"ssh refuses its configuration: {done.stderr.strip()}",
            host=name,
            phase=PHASE,
            remedy="Check ssh_config and ansible_ssh_common_args; 'ssh -G HOST' shows the same",
        )
    answer: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        answer.setdefault(key, []).append(value)
    return answer


def _hop(name: str, answer: dict[str, list[str]]) -> Hop:
    agent = _one(answer, "identityagent") or "SSH_AUTH_SOCK"
    if agent == "SSH_AUTH_SOCK" or agent.startswith("$"):
        agent = os.environ.get(agent.lstrip("$").strip("{}"), "")
    user = _one(answer, "user") or ""
    address = _one(answer, "hostname") or ""
    # These two list several files in one line; identityfile has a line for each.
    known_hosts = [*(_one(answer, "userknownhostsfile") or "").split(), *(_one(answer, "globalknownhostsfile") or "").split()]
    return Hop(
        name=name,
        address=address,
        port=int(_one(answer, "port") or 22),
        user=user,
        identity_files=_paths(answer.get("identityfile", []), address, user),
        identities_only=_one(answer, "identitiesonly") == "yes",
        agent_socket=None if agent in ("", "none") else str(Path(agent).expanduser()),
        known_hosts=_paths(known_hosts, address, user),
        host_key_alias=_one(answer, "hostkeyalias"),
        strict=_one(answer, "stricthostkeychecking") or "ask",
        alive_interval_s=int(_one(answer, "serveraliveinterval") or 0),
        alive_count=int(_one(answer, "serveralivecountmax") or 3),
    )


def _one(answer: dict[str, list[str]], key: str) -> str | None:
    return answer[key][0] if answer.get(key) else None


def _paths(values: Iterable[str], address: str, user: str) -> tuple[Path, ...]:
    tokens = {"%d": str(Path.home()), "%h": address, "%r": user, "%%": "%"}
    paths = []
    for value in values:
        for token, text in tokens.items():
            value = value.replace(token, text)
        if value != "none":
            paths.append(Path(value).expanduser())
    return tuple(paths)


def _split(arguments: str, name: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError as error:
        raise Permanent(
            f"ansible_ssh_common_args cannot be split: {error}", host=name, phase=PHASE, remedy="Check its quotes in the inventory"
        ) from error


def _config_file(arguments: Sequence[str]) -> list[str]:
    for position, argument in enumerate(arguments):
        if argument == "-F" and position + 1 < len(arguments):
            return ["-F", arguments[position + 1]]
        if argument.startswith("-F") and len(argument) > 2:
            return ["-F", argument[2:]]
    return []


def _split_port(destination: str) -> tuple[str, str | None]:
    """[user@]host, [user@]host:port, [user@][v6]:port, with or without ssh://."""
    destination = destination.removeprefix("ssh://").rstrip("/")
    user, at, rest = destination.rpartition("@")
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        return user + at + host, port.removeprefix(":") or None
    if rest.count(":") == 1:
        host, _, port = rest.partition(":")
        return user + at + host, port
    return user + at + rest, None


def _without_port(destination: str) -> str:
    return _split_port(destination)[0]


def _port_of(destination: str) -> list[str]:
    port = _split_port(destination)[1]
    return ["-p", port] if port else []


def _jump_of_command(name: str, command: str) -> tuple[list[str], str]:
    """Options and destination of `ssh -W %h:%p [options] jump`, the one form of ProxyCommand that needs no process of its own."""
    words = _split(command, name)
    if words and words[0] == "exec":
        words = words[1:]
    forward, options, destination = False, [], None
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-"):
            destination = word
            break
        flag = word[1:2]
        if flag in _FLAGS_WITH_VALUE:
            value = word[2:] or next(rest, "")
            if flag == "W":
                forward = value in ("%h:%p", "[%h]:%p")
            else:
                options += [f"-{flag}", value]
    if words and Path(words[0]).name == "ssh" and forward and destination:
        return [*options, *_port_of(destination)], _without_port(destination)
    raise Permanent(
        f"ProxyCommand '{command}' is not supported",
        host=name,
        phase=PHASE,
        remedy="Use ProxyJump (ssh -J), or 'ssh -W %h:%p JUMPHOST'; set ProxyCommand=none for hosts that need no jump host",
    )
