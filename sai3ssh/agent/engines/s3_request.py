"""What the requests of the native S3 engine are made of."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Optional

from sai3ssh.agent.engines.base import Task
from sai3ssh.agent.engines.sigv4 import encode_query
from sai3ssh.dataset import PIECE

PROBE = -1
"""An operation of the engine's own, none of model.OPERATIONS: the first key of a bucket, to see whether it can be used."""

METHODS = ("GET", "PUT", "GET", "HEAD", "DELETE", "PUT", "GET")


def list_query(prefix: str, token: Optional[str], probe: bool, delimiter: str = "") -> str:
    """The query of one page of a LIST below prefix; of a probe: of one key of the bucket."""
    parameters = {"encoding-type": "url", "list-type": "2", "prefix": "" if probe else prefix}
    if probe:
        parameters["max-keys"] = "1"
    elif token:
        parameters["continuation-token"] = token
    if delimiter:
        parameters["delimiter"] = delimiter
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
        self.update(task.content.piece(task.index, task.size, self._offset, PIECE))
        self._offset += PIECE
        return self._offset >= task.size

    def update(self, data: bytes) -> None:
        """Takes the next piece."""
        self._hash.update(data)

    def result(self) -> Any:
        """The hash in hexadecimal: what the task keeps."""
        return self._hash.hexdigest()


class Probe:
    """Work of one task that nobody counts; without a task, the work between runs."""

    wake_ns: Optional[int] = None

    def __init__(self, task: Optional[Task] = None) -> None:
        self._task = task

    @property
    def finished(self) -> bool:
        """Whether the task has been handed out."""
        return self._task is None

    def next(self, now_ns: int) -> Optional[Task]:
        """The task, once."""
        task, self._task = self._task, None
        if task is not None:
            task.start_ns = now_ns
        return task

    def done(self, task: Task, end_ns: int, size_bytes: int) -> None:
        """Nobody counts."""

    def retried(self, task: Task, error_class: str, sent: bool) -> None:
        """Nobody counts."""

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        """Nobody counts."""

    def late(self, late_ns: int) -> None:
        """No figure is made of it."""

    def page(self, task: Task) -> None:
        """Nobody counts."""
