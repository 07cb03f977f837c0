"""Whether OpenSSH, and so Ansible, and our own SSH see the inventory's hosts alike: address, user, host key, login."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..errors import AuthenticationError, HostKeyError, Sai3sshError
from ..findings import Finding
from ..model import Host
from ..transport import SshTransport, transport_for
from ..transport.sshconfig import Hop, command_line
from .report import Notes

AT_ONCE = 8
CONNECT_S = 10
VERIFIED = ("yes", "true", "ask")
"""Values of StrictHostKeyChecking with which ssh, too, lets no unknown host pass by itself."""
ACCEPTED, NO_CONNECTION, BAD_HOST_KEY, NO_LOGIN = "lets us in", "cannot be connected to", "is refused for its host key", "refuses the login"

_LAST = {
    "address": re.compile(r"^debug1: Connecting to \S+ \[(\S+)\] port (\d+)", re.M),
    "user": re.compile(r"^(?:debug1: )?Authenticating to \S+ as '(.*)'", re.M),
    "key": re.compile(r"^debug1: Server host key: (\S+) (\S+)", re.M),
}


@dataclass(frozen=True)
class Seen:
    """What one of the two made of a host."""

    verdict: str
    said: str = ""
    address: str = ""
    user: str = ""
    host_key: tuple[str, str] | None = None
    """Type and fingerprint, where it came so far."""


def compare_stacks(hosts: Sequence[Host]) -> dict[str, list[Finding]]:
    """The findings about each host that is reached by SSH."""
    remote = [(host, transport) for host in hosts if isinstance(transport := transport_for(host), SshTransport)]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="stacks") as pool:
        found = pool.map(lambda pair: _compare(*pair), remote)
        return {host.name: findings for (host, _), findings in zip(remote, found, strict=True)}


def _compare(host: Host, transport: SshTransport) -> list[Finding]:
    notes = Notes(())
    try:
        last = transport.route()[-1]
    except Sai3sshError as error:
        remedy = error.remedy or "`ssh -G HOST` shows what ssh makes of it"
        notes.fail("stacks.config", error.message, "a configuration that both understand", remedy)
        return notes.found
    ours, theirs = by_us(transport), by_openssh(host)
    _verdicts(notes, ours, theirs)
    for what, mine, other in (("user", ours.user, theirs.user), ("address", ours.address, theirs.address)):
        if mine and other and mine != other:
            remedy = f"`ssh -v` and `ssh -G {host.address}` show where each comes from; name it in the inventory"
            notes.fail(f"stacks.{what}", f"sai3ssh: {mine}, ssh: {other}", "the same for both", remedy)
        elif mine and other:
            notes.ok(f"stacks.{what}", mine)
    _keys(notes, ours, theirs, last)
    return notes.found


def _verdicts(notes: Notes, ours: Seen, theirs: Seen) -> None:
    if ours.verdict != theirs.verdict:
        notes.fail(
            "stacks.verdict",
            f"for sai3ssh the host {ours.verdict}{_detail(ours)}; for ssh it {theirs.verdict}{_detail(theirs)}",
            "the same for both",
            "Make that work where it fails: what Ansible deploys is used by sai3ssh, and the other way round",
        )
    elif ours.verdict == ACCEPTED:
        notes.ok("stacks.verdict", f"{ACCEPTED}, both sai3ssh and ssh")
    else:
        notes.warn(
            "stacks.verdict",
            f"{ours.verdict}, for both sai3ssh and ssh: {ours.said}",
            "a host that both get into",
            "`sai3ssh preflight` says more",
        )


def _detail(seen: Seen) -> str:
    return f" ({seen.said})" if seen.said else ""


def _keys(notes: Notes, ours: Seen, theirs: Seen, hop: Hop) -> None:
    if ours.host_key and theirs.host_key:
        (mine, fingerprint), (other, their_fingerprint) = ours.host_key, theirs.host_key
        if mine == other and fingerprint != their_fingerprint:
            notes.fail(
                "stacks.host_key",
                f"two {mine} keys: sai3ssh saw {fingerprint}, ssh {their_fingerprint}",
                "one key",
                "Several machines answer at this address (a load balancer, one address twice), or somebody is in between",
            )
        else:
            notes.ok("stacks.host_key", f"{mine} {fingerprint}" + ("" if mine == other else f"; ssh takes the host's {other}"))
    if hop.strict not in VERIFIED:
        notes.warn(
            "stacks.strict",
            f"StrictHostKeyChecking {hop.strict}: ssh and Ansible take unknown hosts as they come; sai3ssh always verifies",
            "StrictHostKeyChecking yes or ask",
            "Remove it from ssh_config and ansible_ssh_common_args, and fill known_hosts (playbooks/trust-hosts.yml)",
        )


def by_us(transport: SshTransport) -> Seen:
    """What our own SSH makes of it."""
    try:
        connection = transport.connect(CONNECT_S)
    except Sai3sshError as error:
        verdict = NO_CONNECTION
        if isinstance(error, HostKeyError):
            verdict = BAD_HOST_KEY
        elif isinstance(error, AuthenticationError):
            verdict = NO_LOGIN
        return Seen(verdict, error.message)
    reached = connection.reached[-1]
    peer = connection.peer
    connection.close()
    key = (reached.host_key.type, reached.host_key.fingerprint())
    # Through a jump host only that one knows the address.
    address = f"{peer} port {reached.hop.port}" if len(connection.reached) == 1 else ""
    return Seen(ACCEPTED, "", address, reached.hop.user, key)


def by_openssh(host: Host) -> Seen:
    """What OpenSSH makes of it, with the host's options of the inventory; nothing is added to known_hosts, no master is used."""
    options = ["BatchMode=yes", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "ControlMaster=no", "ControlPath=none"]
    options += [f"ConnectTimeout={CONNECT_S}", "PermitLocalCommand=no", "ClearAllForwardings=yes", "RemoteCommand=none"]
    argv = ["ssh", "-v", "-T", "-n", *(part for option in options for part in ("-o", option)), *command_line(host), "true"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=3 * CONNECT_S, check=False)
    except FileNotFoundError:
        return Seen(NO_CONNECTION, "the ssh command is not installed here")
    except subprocess.TimeoutExpired:
        return Seen(NO_CONNECTION, f"no end within {3 * CONNECT_S} s")
    text = done.stderr.decode("utf-8", "replace").replace("\r\n", "\n")
    address, user, key = (pattern.findall(text)[-1:] for pattern in _LAST.values())
    told = [
        line for line in text.splitlines() if line and not line.startswith(("debug1:", "OpenSSH_", "Authenticat", "Transferred", "Bytes"))
    ]
    return Seen(
        _verdict(done.returncode, text),
        told[-1] if told and done.returncode else "",
        f"{address[0][0]} port {address[0][1]}" if address else "",
        user[0] if user else "",
        key[0] if key else None,
    )


def _verdict(code: int, text: str) -> str:
    if "Host key verification failed" in text or "HOST IDENTIFICATION HAS CHANGED" in text:
        return BAD_HOST_KEY
    if "Permission denied" in text or "Too many authentication failures" in text:
        return NO_LOGIN
    return NO_CONNECTION if code == 255 else ACCEPTED
