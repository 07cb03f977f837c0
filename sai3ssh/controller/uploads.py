"""Sends an agent the traces that it will replay, over its link, before the plan: each from where the agent has it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from .link import Link

PIECE = 512 * 1024
TIMEOUT_S = 60.0
"""For one piece, and for the agent to read a whole file once."""


def upload(link: Link, traces: Sequence[Path], run_id: str, agent_id: str) -> None:
    """Returns when the agent has every file, byte by byte. Raises the agent's error, or LinkLost; another call goes on."""
    for path in traces:
        about = {"cmd": "trace", "run_id": run_id, "agent_id": agent_id, "name": path.name}
        have = int(link.request(about, TIMEOUT_S)["have"])
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                offset = file.tell() - len(piece)
                if file.tell() > have:
                    rest = piece[max(0, have - offset) :]
                    data = base64.b64encode(rest).decode("ascii")
                    have = int(link.request({**about, "offset": file.tell() - len(rest), "data": data}, TIMEOUT_S)["have"])
        link.request({**about, "sha256": digest.hexdigest()}, TIMEOUT_S)
