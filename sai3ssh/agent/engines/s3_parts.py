"""The native S3 engine for targets whose large objects are moved in parts, several at once.

Concurrency counts operations. The parts of one are beyond it: at most `concurrency` times the parts allowed at once are under way. So a
load of one operation at a time still gets what parallel parts are for. An engine without parts does not come by here at all.
"""

from __future__ import annotations

import heapq
import random
from time import perf_counter_ns
from typing import Optional

from sai3ssh.agent.engines.base import GET, Task
from sai3ssh.agent.engines.connection import Connection
from sai3ssh.agent.engines.endpoint import S3Root
from sai3ssh.agent.engines.parts import Part, Transfer
from sai3ssh.agent.engines.response import Failure
from sai3ssh.agent.engines.s3 import S3Engine
from sai3ssh.agent.engines.s3_errors import Refusal
from sai3ssh.agent.engines.sigv4 import EMPTY_SHA256, Credentials, encode_path
from sai3ssh.model import Deadlines, Retry, Target


class S3PartsEngine(S3Engine):
    """Performs operations on an S3 server; a GET of a large object is made as parallel GETs of ranges."""

    def __init__(
        self,
        target: Target,
        credentials: Credentials,
        deadlines: Deadlines,
        retry: Retry,
        rng: Optional[random.Random] = None,
    ) -> None:
        super().__init__(target, credentials, deadlines, retry, rng)
        assert target.ranges is not None
        self._ranges = target.ranges
        self._requests_at_once = self._ranges.max_concurrent

    def _begin(self, task: Task, now: int) -> None:
        if task.size >= self._ranges.min_bytes and task.op == GET and not isinstance(task, Part):
            self._go_on(Transfer(task, self._ranges.chunk_bytes, self._ranges.max_concurrent), now)
        else:
            super()._begin(task, now)

    def _go_on(self, transfer: Transfer, now: int) -> None:
        """Begins as many of the parts as may be under way."""
        while transfer.todo and len(transfer.running) < transfer.limit:
            part = transfer.todo.popleft()
            transfer.running.add(part)
            super()._begin(part, now)

    def _send(self, connection: Connection, task: Task, now: int) -> None:
        if isinstance(task, Part):
            self._send_range(connection, task, now)
        else:
            super()._send(connection, task, now)

    def _send_range(self, connection: Connection, part: Part, now: int) -> None:
        root: S3Root = part.root
        payload = EMPTY_SHA256 if self._sign_payload else ""
        head = connection.endpoint.signer.head("GET", root.path + encode_path(part.key), "", now, -1, payload)
        # Range need not be signed.
        head = head.replace(b"\r\n", b"\r\n" + part.range_header, 1)
        connection.start(part, head, 0, 0, part.content if self._verify_reads else None, now)
        if connection.mask != connection.registered:
            self._watch(connection)

    def _complete(self, connection: Connection, task: Task, whole: bool = True) -> None:
        if not isinstance(task, Part):
            super()._complete(connection, task, whole)
            return
        now = perf_counter_ns()
        connection.served += 1
        problem = self._problem(connection, task)
        connection.task = None
        if whole and connection.reusable:
            connection.endpoint.idle.append(connection)
        else:
            self._drop(connection)
        if problem is not None:
            self._refused(task, problem, connection.endpoint)
        else:
            self._part_done(task, now)

    def _problem(self, connection: Connection, part: Part) -> Optional[Refusal]:
        """What is wrong with a whole response to a part."""
        if connection.status == 416:
            # The same class as when all of it is read at once.
            return Refusal("verify", f"the object ends before byte {part.offset}, expected {part.whole.size} bytes", 416)
        if connection.status >= 300:
            return self._refusal_of(connection)
        misfit = part.misfit(connection.status, connection.head)
        if misfit is not None:
            return Refusal(misfit.error_class, misfit.detail)
        if connection.received != part.size:
            return Refusal("protocol", f"the response to a range has {connection.received} bytes, expected {part.size}")
        if connection.mismatch >= 0:
            at = part.offset + connection.mismatch
            return Refusal("verify", f"the bytes differ from what was written, at or after offset {at}")
        return None

    def _part_done(self, part: Part, now: int) -> None:
        transfer, work = part.transfer, self._work
        transfer.running.remove(part)
        if transfer.todo or transfer.running:
            work.page(transfer.task)
            self._go_on(transfer, now)
            return
        work.done(transfer.task, now, transfer.task.size)
        following = work.next(now)
        if following is None:
            self._in_flight -= 1
        else:
            self._begin(following, now)

    def _give_up(self, task: Task, found: Refusal, sent: bool) -> None:
        if isinstance(task, Part):
            self._abandon(task)
        super()._give_up(task.whole, found, sent)

    def _abandon(self, given_up: Part) -> None:
        """Ends what is under way of the operation that the part belongs to. Requests that have left are counted."""
        transfer = given_up.transfer
        transfer.todo.clear()
        others = transfer.running - {given_up}
        transfer.running.clear()
        for connection in list(self._connections.values()):
            if connection.task in others:
                if connection.sent:
                    self._work.page(transfer.task)
                # The sweep may have it in its hands.
                connection.task = None
                self._drop(connection)
        self._waiting[:] = [entry for entry in self._waiting if entry[2] not in others]
        heapq.heapify(self._waiting)

    def _sweep(self) -> None:
        super()._sweep()
        now = perf_counter_ns()
        limit_s = self._ranges.timeout_s
        for connection in list(self._connections.values()):
            if isinstance(connection.task, Part) and now - connection.began_ns > limit_s * 1e9:
                self._break(connection, Failure("timeout_total", f"a range is not complete within {limit_s:g} s"))
