"""The native S3 engine for targets that want more of the bodies of PUTs: a checksum, or to be asked before a large one is sent.

A checksum is in the head where the body is small enough to be made at once, or is hashed before anyway (sign_payload); else it follows the
body as a trailer. An engine without either does not come by here at all.
"""

from __future__ import annotations

import random
from hashlib import sha256
from time import perf_counter_ns
from typing import Dict, List, NamedTuple, Optional

from sai3ssh.agent.engines.base import GET, PUT, Task
from sai3ssh.agent.engines.checksums import Checksum, Sum, Summed, Trailed
from sai3ssh.agent.engines.connection import Connection
from sai3ssh.agent.engines.endpoint import S3Root
from sai3ssh.agent.engines.parts import UPLOAD_PART, Part
from sai3ssh.agent.engines.s3 import NEVER, S3Engine
from sai3ssh.agent.engines.s3_parts import S3PartsEngine
from sai3ssh.agent.engines.s3_request import PayloadHash
from sai3ssh.agent.engines.sigv4 import EMPTY_SHA256, UNSIGNED, Credentials, encode_path
from sai3ssh.agent.engines.upload import Text
from sai3ssh.dataset import PIECE, Content
from sai3ssh.model import Deadlines, Retry, Target

TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
CONTINUE_S = 1.0
"""How long a server may think before the body is sent unasked for; some never answer."""

_NEVER = 1 << 62


class _Digests(NamedTuple):
    """Of a whole body."""

    payload: str
    """The SHA-256 for the signature, or UNSIGNED."""
    checksum: str


class _BodyHash(PayloadHash):
    """Makes both digests of a large body in one go."""

    def __init__(self, task: Task, made: Sum) -> None:
        super().__init__(task)
        self._sum = made

    def update(self, data: bytes) -> None:
        """Takes the next piece."""
        super().update(data)
        self._sum.update(data)

    def result(self) -> _Digests:
        """Both."""
        return _Digests(super().result(), self._sum.value())


class _Bodies(S3Engine):
    """What is different; to be put before an engine."""

    def __init__(
        self,
        target: Target,
        credentials: Credentials,
        deadlines: Deadlines,
        retry: Retry,
        rng: Optional[random.Random] = None,
    ) -> None:
        super().__init__(target, credentials, deadlines, retry, rng)
        self._checksum = Checksum(target.checksum) if target.checksum else None
        self._expect = target.expect_continue if target.expect_continue is not None else _NEVER

    def _short_sizes(self) -> List[int]:
        sizes = super()._short_sizes()
        sizes[PUT] = NEVER
        return sizes

    def _hashed(self, task: Task) -> bool:
        if self._checksum is None or isinstance(task, Part):
            return super()._hashed(task)
        if task.state is None and task.size > PIECE:
            self._hashing.append((task, _BodyHash(task, self._checksum.new())))
            return False
        return True

    def _send(self, connection: Connection, task: Task, now: int) -> None:
        if task.op == PUT and (not isinstance(task, Part) or task.kind == UPLOAD_PART):
            self._send_body(connection, task, now)
        elif task.op == GET and self._checksum is not None and self._verify_reads and not isinstance(task, Part):
            self._send_get(connection, task, now, self._checksum)
        else:
            super()._send(connection, task, now)
            return
        if connection.mask != connection.registered:
            self._watch(connection)

    def _send_body(self, connection: Connection, task: Task, now: int) -> None:
        root: S3Root = task.root
        size = length = task.size
        headers: Dict[str, str] = {}
        body: Optional[Content] = None
        payload = UNSIGNED
        if self._checksum is None or isinstance(task, Part):
            if self._sign_payload:
                payload = task.state if size else EMPTY_SHA256
        elif size <= PIECE or self._sign_payload:
            if size <= PIECE:
                data = task.content.head(task.index, size) if task.content is not None and size else b""
                body = Text(data)
                if task.state is None:
                    task.state = _Digests(sha256(data).hexdigest() if self._sign_payload else UNSIGNED, self._checksum.of(data))
            payload = task.state.payload
            headers[self._checksum.header] = task.state.checksum
        else:
            assert task.content is not None
            body = trailed = Trailed(task.content, task.index, size, self._checksum)
            length, payload = trailed.length, TRAILER
            headers = {
                "content-encoding": "aws-chunked",
                "x-amz-decoded-content-length": str(size),
                "x-amz-trailer": self._checksum.header,
            }
        path, query = root.path + encode_path(task.key), task.query if isinstance(task, Part) else ""
        head = connection.endpoint.signer.head_with(headers, "PUT", path, query, now, length, payload)
        hold = size >= self._expect
        if hold:
            head = head.replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1)
        connection.start(task, head, length, 0, None, now, body, hold)

    def _send_get(self, connection: Connection, task: Task, now: int, checksum: Checksum) -> None:
        root: S3Root = task.root
        compare = Summed(task.content, checksum, connection) if self._sample() and task.content is not None else None
        headers = {"x-amz-checksum-mode": "ENABLED"} if compare is not None else {}
        payload = EMPTY_SHA256 if self._sign_payload else UNSIGNED
        head = connection.endpoint.signer.head_with(headers, "GET", root.path + encode_path(task.key), "", now, -1, payload)
        connection.start(task, head, 0, 0, compare, now)

    def _sweep(self) -> None:
        super()._sweep()
        if self._expect == _NEVER:
            return
        due_ns = perf_counter_ns() - int(CONTINUE_S * 1e9)
        for connection in list(self._connections.values()):
            if connection.held and connection.began_ns < due_ns:
                connection.go_on()
                self._watch(connection)


class S3BodiesEngine(_Bodies, S3Engine):
    """Performs operations on an S3 server, with checksums or after asking."""


class S3BodiesPartsEngine(_Bodies, S3PartsEngine):
    """As S3BodiesEngine, with large objects in parts."""
