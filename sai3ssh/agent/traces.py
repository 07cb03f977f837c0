"""Takes the traces of a replay before its plan is submitted: a piece at a time, and only whole ones."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os

from sai3ssh.agent import state
from sai3ssh.errors import AgentError, Transient
from sai3ssh.model import Plan
from sai3ssh.oplog import TRACE, trace_name
from sai3ssh.protocol import Json

DIRECTORY = "traces"
"""Below the state directory; what is there when the daemon starts belongs to runs that were never submitted."""


def take(directory: str, message: Json) -> Json:
    """Command `trace`: {"have": bytes of the file that are here}. With data, those from `offset` on are appended when they are the next;
    with a sha256 the file is compared, and removed when it is another."""
    run_id, agent_id, name = message["run_id"], message["agent_id"], message["name"]
    if not TRACE.fullmatch(name):
        raise AgentError(f"{name!r} is no name of a trace")
    run = state.run_dir(directory, run_id, agent_id)
    submitted = os.path.exists(os.path.join(run, "plan.json"))
    path = os.path.join(run if submitted else _place(directory, run_id, agent_id), name)
    if not submitted:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        _append(path, message)
    have = os.path.getsize(path) if os.path.exists(path) else 0
    if "sha256" in message and _sha256(path) != message["sha256"]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise Transient(f"trace {name} arrived altered; it is sent again")
    return {"have": have}


def check(directory: str, plan: Plan, agent_id: str) -> None:
    """Raises Transient unless every trace of a plan has come: a daemon that was restarted meanwhile has none."""
    place = _place(directory, plan.run_id, agent_id)
    for index, stage in enumerate(plan.stages):
        for worker in range(plan.workers) if stage.replay is not None else ():
            if not os.path.exists(os.path.join(place, trace_name(index, worker))):
                raise Transient(f"the trace of worker {worker} is not here any more; it is sent again")


def move(directory: str, run_id: str, agent_id: str, run: str) -> None:
    """The traces that have come for a run are its own from now on."""
    place = _place(directory, run_id, agent_id)
    for name in os.listdir(place) if os.path.isdir(place) else ():
        os.rename(os.path.join(place, name), os.path.join(run, name))
    with contextlib.suppress(OSError):
        os.rmdir(place)
        os.rmdir(os.path.dirname(place))


def _place(directory: str, run_id: str, agent_id: str) -> str:
    state.run_dir(directory, run_id, agent_id)  # its names are checked
    return os.path.join(directory, DIRECTORY, run_id, agent_id)


def _append(path: str, message: Json) -> None:
    try:
        with open(path, "ab") as file:  # an empty one is a trace, too
            if "data" in message and file.tell() == message["offset"]:
                file.write(base64.b64decode(message["data"]))
    except OSError as error:
        raise AgentError(f"cannot write {path}: {error.strerror}", remedy="Free space there") from error


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()
