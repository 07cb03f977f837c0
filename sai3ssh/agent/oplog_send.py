"""Sends the op-log of one run to who asks on stdout, from where an earlier attempt was cut off.

The preamble, then for each segment {"segment", "size"}, data frames from the offset on, and {"sha256"} of all of it; at last {"end": the
number of segments}. An {"error"} instead of any of it is final.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import Optional

from sai3ssh.agent import state
from sai3ssh.agent.tail import last_record
from sai3ssh.errors import AgentError, Sai3sshError
from sai3ssh.oplog import SEGMENT
from sai3ssh.protocol import MAX_DATA, Json, encode_control, encode_data, encode_preamble


def main(given: Optional[str], nonce: str, run_id: str, agent_id: str, first: str, offset: int) -> int:
    """Entry point of `oplog`: begins with the segment `first` at an offset ('' and 0: with the first there is). 0 when all was sent."""
    _send(encode_preamble(nonce))
    try:
        directory = state.run_dir(state.state_dir(given), run_id, agent_id)
        record = last_record(os.path.join(directory, "journal.ndjson"))
        if record is None or record["kind"] != "final":
            raise AgentError(f"run {run_id} of agent {agent_id} has not ended", remedy="Collect its op-log when it has")
        names = sorted(name for name in os.listdir(directory) if SEGMENT.fullmatch(name))
        for name in names:
            if name >= first:
                _segment(directory, name, offset if name == first else 0)
        _send_json({"end": len(names)})
    except BrokenPipeError:
        return 1
    except Sai3sshError as error:
        return _refuse(error)
    except (OSError, ValueError) as error:
        return _refuse(AgentError(f"the op-log of run {run_id} cannot be read: {error}"))
    return 0


def _segment(directory: str, name: str, offset: int) -> None:
    with open(os.path.join(directory, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        _send_json({"segment": name, "size": size})
        digest = hashlib.sha256()
        at = 0
        while at < size:
            piece = file.read(min(MAX_DATA, size - at))
            if not piece:
                raise ValueError(f"{name} became shorter while it was read")
            digest.update(piece)
            if at + len(piece) > offset:
                skip = max(0, offset - at)
                _send(encode_data(at + skip, piece[skip:]))
            at += len(piece)
        _send_json({"sha256": digest.hexdigest()})


def _refuse(error: Sai3sshError) -> int:
    with contextlib.suppress(OSError):
        _send_json({"error": error.to_dict()})
    return 1


def _send_json(message: Json) -> None:
    _send(encode_control(message))


def _send(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]
