"""What the requests of the native S3 engine are made of."""

from __future__ import annotations

from hashlib import sha256
from typing import Optional

from sai3ssh.agent.engines.base import Task
from sai3ssh.agent.engines.sigv4 import encode_query
from sai3ssh.dataset import PIECE

PROBE = 5
"""An operation of the engine's own, after those of model.OPERATIONS: the first key of a bucket, to see whether it can be used."""

METHODS = ("GET", "PUT", "GET", "HEAD", "DELETE", "GET")


def list_query(prefix: str, token: Optional[str], probe: bool) -> str:
    """The query of one page of a LIST below prefix; of a probe: of one key of the bucket."""
    parameters = {"encoding-type": "url", "list-type": "2", "prefix": "" if probe else prefix}
    if probe:
        parameters["max-keys"] = "1"
    elif token:
        parameters["continuation-token"] = token
    return encode_query(parameters)


class PayloadHash:
    """The SHA-256 of a task's object, made a piece at a time so that the loop keeps turning."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._hash = sha256()
        self._offset = 0

    def step(self) -> bool:
        """Hashes the next piece; True after the last."""
        task = self._task
        assert task.content is not None
        self._hash.update(task.content.piece(task.index, task.size, self._offset, PIECE))
        self._offset += PIECE
        return self._offset >= task.size

    def hexdigest(self) -> str:
        """The hash in hexadecimal."""
        return self._hash.hexdigest()
