"""Finds the agent on a host, or puts it there over the connection that is open anyway."""

from __future__ import annotations

import json
import secrets
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import digest as digest_of
from ..errors import AgentError, LinkLost, Transient
from ..model import Host
from ..transport import Connection

DEPLOYED = "/opt/sai3ssh/agent.pyz"
"""Where `sai3ssh deploy` puts the agent."""

UPLOADED = "~/.cache/sai3ssh"
PHASE, PYTHON = "install", "python"
"""Phases of errors: PYTHON where the host has none that the agent can use."""
MIN_PYTHON = (3, 9)
TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 300.0

_LOOK = """
import hashlib, json, os, sys
def digest(path):
    try:
        with open(path, "rb") as f: return hashlib.sha256(f.read()).hexdigest()
    except (IOError, OSError): return None
mark, name, deployed, cache = sys.argv[1:5]
uploaded = os.path.join(os.path.expanduser(cache), name)
others = []
for folder in os.environ.get("PATH", "").split(os.pathsep) + ["/usr/bin", "/usr/local/bin"]:
    for minor in range(20, 8, -1):
        path = os.path.join(folder, "python3.%d" % minor)
        if os.access(path, os.X_OK) and path not in others: others.append(path)
answer = {"python": list(sys.version_info[:3]), "others": others, "deployed": digest(deployed), "uploaded": digest(uploaded)}
print(mark + json.dumps(dict(answer, path=uploaded)))
"""
"""Runs on Pythons as old as 2.6, to say what is wrong with them."""

_WRITE = """
import hashlib, json, os, sys
mark, path, wanted = sys.argv[1:4]
data = sys.stdin.buffer.read()
found = hashlib.sha256(data).hexdigest()
error = None
if found == wanted:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.chmod(os.path.dirname(path), 0o700)
        temporary = "%s.%d" % (path, os.getpid())
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o700), "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.rename(temporary, path)
    except OSError as e:
        error = "%s: %s" % (e.filename or path, e.strerror)
print(mark + json.dumps({"digest": found, "error": error}))
"""


@dataclass(frozen=True)
class Installed:
    """An agent that is ready to be run."""

    argv: tuple[str, ...]
    """What the verb is appended to."""
    source: str
    """local, deployed, cached (uploaded before) or uploaded (just now)."""


def ensure(connection: Connection, host: Host, bundle: Path) -> Installed:
    """The agent of exactly the bundle's bytes on the host, uploaded when neither a deployed nor an earlier uploaded one is the same."""
    if host.connection == "local":
        return Installed((sys.executable if host.python == "python3" else host.python, str(bundle)), "local")
    digest = digest_of(bundle)
    found = _run(connection, host, _LOOK, [f"agent-{digest[:12]}.pyz", DEPLOYED, UPLOADED], timeout_s=TIMEOUT_S)
    _check_python(host, found)
    if found["deployed"] == digest:
        return Installed((host.python, DEPLOYED), "deployed")
    path = str(found["path"])
    if found["uploaded"] == digest:
        return Installed((host.python, path), "cached")
    written = _run(connection, host, _WRITE, [path, digest], data=bundle.read_bytes(), timeout_s=UPLOAD_TIMEOUT_S)
    if written["error"]:
        raise AgentError(
            f"the agent cannot be written on the host: {written['error']}",
            host=host.name,
            phase=PHASE,
            remedy=f"Give the user a home directory with room, or install the agent as {DEPLOYED} with 'sai3ssh deploy'",
        )
    if written["digest"] != digest:
        found_digest = f"sha256 {written['digest']}, expected {digest}"
        raise Transient(f"the upload of the agent arrived altered ({found_digest})", host=host.name, phase=PHASE)
    return Installed((host.python, path), "uploaded")


def _run(connection: Connection, host: Host, script: str, arguments: list[str], *, data: bytes = b"", timeout_s: float) -> dict[str, Any]:
    # The script goes ahead of the data on stdin: on a command line its quotes and newlines would not survive every login shell.
    source = script.encode("ascii")
    loader = f'import sys;exec(getattr(sys.stdin,"buffer",sys.stdin).read({len(source)}))'
    mark = f"sai3ssh-{secrets.token_hex(8)} "
    command = shlex.join([host.python, "-c", loader, mark, *arguments])
    done = connection.run(command, input=source + data, timeout_s=timeout_s)
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith(mark):
            answer: dict[str, Any] = json.loads(line[len(mark) :])
            return answer
    said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-300:] or "nothing"
    if done.exit_code is None:
        raise LinkLost(f"{host.python} was killed or cut off while the agent was looked for; it said: {said}", host=host.name, phase=PHASE)
    raise AgentError(
        f"'{host.python}' does not run on the host (exit status {done.exit_code}): {said}",
        host=host.name,
        phase=PYTHON,
        remedy=f"Install Python {dotted(MIN_PYTHON)} or later there, or name it with ansible_python_interpreter",
    )


def _check_python(host: Host, found: dict[str, Any]) -> None:
    if tuple(found["python"]) >= MIN_PYTHON:
        return
    others = found["others"]
    raise AgentError(
        f"'{host.python}' on the host is Python {dotted(found['python'])}, expected {dotted(MIN_PYTHON)} or later",
        host=host.name,
        phase=PYTHON,
        remedy=f"Set ansible_python_interpreter to {others[0]}"
        if others
        else f"Install Python {dotted(MIN_PYTHON)} or later there and name it with ansible_python_interpreter",
    )


def dotted(version: Any) -> str:
    """3.9, of (3, 9)."""
    return ".".join(str(part) for part in version)
