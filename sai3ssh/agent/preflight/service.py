"""The agent on this host: which one is deployed, which one runs, what its daemon may do, what it is doing."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import socket
import struct
import zipfile
from typing import Any, Dict, Optional, Tuple

from sai3ssh.agent import state
from sai3ssh.agent.daemon import listing
from sai3ssh.agent.preflight.checks import failure, ok, skipped, warning
from sai3ssh.agent.preflight.request import Request
from sai3ssh.findings import Finding
from sai3ssh.model import to_json
from sai3ssh.protocol import Json, encode_control

DEPLOYED = "/opt/sai3ssh/agent.pyz"
"""Where `sai3ssh deploy` puts the agent."""

MIN_OPEN_FILES = 1024
"""What is asked for when no plan says what it needs."""

_HELLO_S = 3.0
_SPARE_S = 0.5
"""For the answer's way back."""


class Service:
    """The state directory and who serves it, as they were found once."""

    def __init__(self, request: Request, deployed: str = DEPLOYED) -> None:
        """Raises OSError when there is no state directory and none can be made."""
        mine = state.version()
        self.directory = state.state_dir(request.state_dir)
        self.digest = mine["digest"] if request.digest is None else request.digest
        self.version = request.version or mine["version"]
        self.deployed_path = deployed
        self.deployed = _look(deployed)
        """Version and digest of the deployed agent, or None."""
        self.shut = request.state_dir is None and self.directory != state.DEPLOYED and os.path.isdir(state.DEPLOYED)
        """A service has a state directory here, and this user may not enter it."""
        self.served = state.is_served(self.directory)
        self.hello: Optional[Dict[str, Any]] = None
        self.pid = 0
        """Process id of the daemon; 0 when it is not to be seen from here."""
        self.problem: Optional[OSError] = None
        """Why the daemon does not answer, although one has the directory or should."""
        if self.served or os.path.exists(os.path.join(self.directory, "agent.lock")):
            try:
                self.hello, self.pid = _ask(self.directory, {"id": 0, "cmd": "hello"}, _HELLO_S)
            except (OSError, ValueError, KeyError) as error:
                self.problem = error if isinstance(error, OSError) else OSError(0, f"it answers {type(error).__name__}")

    def targets(self, request: Request, seconds: float) -> Dict[str, Any]:
        """What the daemon finds about the targets of a request, as preflight.answer_as_service. Raises OSError, ValueError and KeyError."""
        asked = {"skip": request.skip, "plan": request.plan, "credentials": request.credentials}
        message = {"id": 1, "cmd": "preflight", "request": to_json(asked), "seconds": seconds - _SPARE_S}
        return _ask(self.directory, message, seconds)[0]

    @property
    def stays(self) -> bool:
        """Whether a run would be carried out by the daemon that runs now."""
        return self.hello is not None and (self.served or self.hello["digest"] == self.digest)


def _look(path: str) -> Optional[Tuple[str, str]]:
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        with zipfile.ZipFile(path) as archive:
            found = re.search(rb'__version__ = "([^"]+)"', archive.read("sai3ssh/__init__.py"))
    except FileNotFoundError:
        return None
    except (OSError, KeyError, zipfile.BadZipFile):
        return "unreadable", ""
    return found.group(1).decode("ascii", "replace") if found else "unknown", digest


def _ask(directory: str, message: Json, timeout_s: float) -> Tuple[Json, int]:
    """The daemon's answer and its process id, as this process would see it: in a container the daemon itself knows another one."""
    with state.connect(directory, "agent.sock", timeout_s) as sock:
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        said: Json = state.ask(sock, encode_control(message))
    if "error" in said:
        raise ValueError(said["error"]["message"])
    return dict(said["ok"]), pid


def _name(version: str, digest: str) -> str:
    return f"{version} (sha256 {digest[:12] or 'source tree'})"


def agent(service: Service) -> Finding:
    """host.agent: whether a run finds an agent that it can use, judged as a run judges."""
    brought = _name(service.version, service.digest)
    values: Dict[str, Any] = {
        "version": service.version,
        "digest": service.digest,
        "deployed_version": service.deployed[0] if service.deployed else None,
        "deployed_digest": service.deployed[1] if service.deployed else None,
        "daemon_version": service.hello["version"] if service.hello else None,
        "daemon_digest": service.hello["digest"] if service.hello else None,
        "daemon_pid": service.pid or None,
        "service": service.served,
        "state_dir": service.directory,
    }
    hello = service.hello
    if service.served and hello is None:
        if isinstance(service.problem, PermissionError):
            return failure(
                f"this user may not speak to the agent's service in {service.directory}",
                "membership in the service's group",
                "Add the SSH user to sai3ssh_agent_members and deploy, then log in anew (open SSH masters keep the old groups)",
                **values,
            )
        return failure(
            f"{service.directory} belongs to an agent service that does not answer: {_reason(service.problem)}",
            "a service that answers",
            "systemctl status sai3ssh-agent; journalctl -u sai3ssh-agent -n 50; then systemctl restart sai3ssh-agent",
            **values,
        )
    if hello is not None and hello["digest"] != service.digest:
        found = f"agent {_name(hello['version'], hello['digest'])} serves {service.directory}"
        if service.served:
            return failure(
                f"{found} as a service",
                f"agent {brought}, which this controller brings",
                "Deploy this version (`sai3ssh deploy` or playbooks/upgrade.yml), or use the sai3ssh of that version",
                **values,
            )
        active = [entry["run_id"] for entry in listing(service.directory) if entry["state"] == "active"]
        if active:
            return failure(
                f"{found} and has {', '.join(active)} in progress",
                f"agent {brought}, or an idle one that makes room",
                "Wait for that run or stop it with `sai3ssh stop`, or use the sai3ssh version that started it",
                **values,
            )
    if service.shut:
        return warning(
            f"this user may not enter {state.DEPLOYED} of the agent's service; a run would use an agent of its own in {service.directory}",
            "membership in the service's group",
            "Add the SSH user to sai3ssh_agent_members and deploy, then log in anew",
            **values,
        )
    if service.deployed is not None and service.deployed[1] != service.digest:
        return warning(
            f"the deployed agent {service.deployed_path} is {_name(*service.deployed)}; a run would upload its own copy and not use it",
            f"agent {brought}, which this controller brings",
            "Deploy this version (`sai3ssh deploy` or playbooks/upgrade.yml)",
            **values,
        )
    source = f"deployed as {service.deployed_path}" if service.deployed else "brought by the run"
    if service.stays:
        source = f"running as {'a service' if service.served else 'a daemon of this user'}, pid {service.pid}"
    return ok(f"agent {brought}, {source}", **values)


def _reason(error: Optional[OSError]) -> str:
    return str((error.strerror or error) if error is not None else "nobody has its lock")


def open_files(service: Service, needed: int) -> Finding:
    """host.open_files: the limit that the workers of a run will have. They raise the soft limit themselves, so the hard one counts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    whose = "this user"
    role = "Raise the hard limit in /etc/security/limits.d or with the role sai3ssh_host_limits; log in anew (`ulimit -Hn` shows it)"
    if service.stays:
        whose = f"the agent's {'service' if service.served else 'daemon'} (pid {service.pid})"
        role = "Raise sai3ssh_agent_open_files (LimitNOFILE of the unit) and deploy" if service.served else f"{role} and end the daemon"
        try:
            soft, hard = _limits_of(service.pid)
        except (OSError, ValueError):
            return warning(
                f"the limit of the agent's daemon cannot be seen from here; this user's is {_count(hard)}",
                f"at least {needed or MIN_OPEN_FILES}",
                "Look at LimitNOFILE of the unit, or at the ulimits of the container",
            )
    values = {"soft": soft, "hard": hard, "needed": needed or MIN_OPEN_FILES, "daemon": service.stays}
    if 0 <= hard < (needed or MIN_OPEN_FILES):
        why = f"{needed}, which this plan needs" if needed else f"{MIN_OPEN_FILES}, the least for a load generator"
        return failure(f"at most {hard} open files for {whose}", f"at least {why}", role, **values)
    return ok(f"at most {_count(hard)} open files for {whose}", **values)


def _limits_of(pid: int) -> Tuple[int, int]:
    with open(f"/proc/{pid}/limits", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("Max open files"))
    soft, hard = (resource.RLIM_INFINITY if word == "unlimited" else int(word) for word in line.split()[3:5])
    return soft, hard


def _count(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)


def runs(service: Service) -> Finding:
    """host.runs: whether this host is at work for somebody already."""
    try:
        entries = listing(service.directory)
    except PermissionError:
        return skipped(f"this user may not look into {service.directory}")
    active = [entry for entry in entries if entry["state"] == "active"]
    values = {"active": [entry["run_id"] for entry in active], "finished": len(entries) - len(active)}
    if not active:
        return ok(f"no run in progress, {len(entries)} finished in {service.directory}", **values)
    names = ", ".join(f"{entry['run_id']} (agent {entry['agent_id']})" for entry in active)
    return warning(
        f"in progress: {names}", "no other run", "Wait for it, or stop it with `sai3ssh stop`: both runs would measure each other", **values
    )
