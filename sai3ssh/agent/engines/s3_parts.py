"""The native S3 engine for targets whose large objects are moved in parts, several at once.

Concurrency counts operations. The parts of one are beyond it: at most `concurrency` times the parts allowed at once are under way. So a
load of one operation at a time still gets what parallel parts are for. An engine without parts does not come by here at all.
"""

from __future__ import annotations

import heapq
import random
from time import perf_counter_ns
from typing import List, Optional, Set

from sai3ssh.agent.engines.base import GET, PUT, Task
from sai3ssh.agent.engines.connection import HEAD, Connection
from sai3ssh.agent.engines.endpoint import S3Root
from sai3ssh.agent.engines.parts import ABORT, CREATE, RANGE, SEARCH, UPLOAD_PART, Part, Transfer
from sai3ssh.agent.engines.response import Failure
from sai3ssh.agent.engines.s3 import S3Engine
from sai3ssh.agent.engines.s3_errors import Refusal
from sai3ssh.agent.engines.s3_request import Probe
from sai3ssh.agent.engines.sigv4 import EMPTY_SHA256, Credentials, encode_path
from sai3ssh.agent.engines.upload import Upload, method_of
from sai3ssh.model import Deadlines, Retry, Target

ABORT_S = 5.0
"""How long a run that ends by an exception goes on to abort its uploads."""

STOP_S = 1.5
"""How long uploads go on after a stop before they are aborted: the supervisor kills workers that have not ended 5 s after it."""

_KEEP = 256 * 1024
_NEVER = 1 << 62


class S3PartsEngine(S3Engine):
    """Performs operations on an S3 server; GETs of large objects as parallel ranges, PUTs as multipart uploads."""

    def __init__(
        self,
        target: Target,
        credentials: Credentials,
        deadlines: Deadlines,
        retry: Retry,
        rng: Optional[random.Random] = None,
    ) -> None:
        super().__init__(target, credentials, deadlines, retry, rng)
        self._ranges, self._multipart = target.ranges, target.multipart
        self._split_get = self._ranges.min_bytes if self._ranges is not None else _NEVER
        self._split_put = self._multipart.threshold_bytes if self._multipart is not None else _NEVER
        self._split = min(self._split_get, self._split_put)
        self._requests_at_once = target.connections_per_operation
        self._uploads: Set[Upload] = set()
        """Those that may have left something on the server."""
        self._abort_until_ns: Optional[int] = None
        self._stopped_ns: Optional[int] = None

    def _short_sizes(self) -> List[int]:
        return [min(size, self._split) for size in super()._short_sizes()]

    # --- begin -------------------------------------------------------------------------------------------------------------------------

    def _begin(self, task: Task, now: int) -> None:
        if task.size >= self._split and not isinstance(task, Part):
            transfer = self._divided(task)
            if transfer is not None:
                self._go_on(transfer, now)
                return
        super()._begin(task, now)

    def _divided(self, task: Task) -> Optional[Transfer]:
        if task.op == GET and task.size >= self._split_get:
            assert self._ranges is not None
            content = task.content if self._verify_reads and self._sample() else None
            return Transfer(task, self._ranges.chunk_bytes, self._ranges.max_concurrent, content)
        if task.op == PUT and task.size >= self._split_put:
            assert self._multipart is not None
            upload = Upload(task, self._multipart)
            self._uploads.add(upload)
            return upload
        return None

    def _go_on(self, transfer: Transfer, now: int) -> None:
        """Begins whatever of an operation may begin now, and ends one that has failed when nothing is left to do."""
        part = transfer.next()
        while part is not None:
            transfer.running.add(part)
            super()._begin(part, now)
            part = transfer.next()
        if transfer.failure is not None and not transfer.running and not transfer.closed:
            self._close_transfer(transfer)
            super()._give_up(transfer.task, transfer.failure, transfer.failed_sent)

    def _send(self, connection: Connection, task: Task, now: int) -> None:
        if not isinstance(task, Part):
            super()._send(connection, task, now)
            return
        root: S3Root = task.root
        head = connection.endpoint.signer.head
        path = root.path + encode_path(task.key) if task.kind != SEARCH else root.bucket_path
        payload = EMPTY_SHA256 if self._sign_payload else ""
        if task.kind == RANGE:
            # Range need not be signed.
            text = head("GET", path, "", now, -1, payload).replace(b"\r\n", b"\r\n" + task.range_header, 1)
            connection.start(task, text, 0, 0, task.content, now)
        else:
            size = task.size if task.op == PUT else 0
            if payload and size:
                payload = task.state
            text = head(method_of(task), path, task.query, now, size if task.op == PUT else -1, payload)
            connection.start(task, text, size, 0 if task.kind == UPLOAD_PART else _KEEP, None, now)
        if connection.mask != connection.registered:
            self._watch(connection)

    # --- how it ended ------------------------------------------------------------------------------------------------------------------

    def _complete(self, connection: Connection, task: Task, whole: bool = True) -> None:
        if not isinstance(task, Part):
            super()._complete(connection, task, whole)
            return
        now = perf_counter_ns()
        connection.served += 1
        reusable = whole and connection.reusable
        problem = self._problem(connection, task, reusable)
        connection.task = None
        if reusable:
            connection.endpoint.idle.append(connection)
        else:
            self._drop(connection)
        if problem is not None:
            self._refused(task, problem, connection.endpoint, connection.began_ns)
        else:
            self._part_done(task, now)

    def _problem(self, connection: Connection, part: Part, reusable: bool) -> Optional[Refusal]:
        """What is wrong with a whole response to a part."""
        status, transfer = connection.status, part.transfer
        if part.kind == RANGE and status == 416:
            # The same class as when all of it is read at once.
            return Refusal("verify", f"the object ends before byte {part.offset}, expected {part.whole.size} bytes", 416)
        if status >= 300:
            found = self._refusal_of(connection)
            if not isinstance(transfer, Upload) or not transfer.gone(part, found):
                return found
            transfer.took(part, connection.head, connection.body)
            return None
        if not reusable and connection.sending:
            return Refusal("protocol", f"HTTP {status} came before the whole request was sent", status)
        if isinstance(transfer, Upload):
            wrong = transfer.wrong(part, connection.body, self._credentials)
            if wrong is not None:
                return wrong
        else:
            misfit = part.misfit(status, connection.head)
            if misfit is not None:
                return Refusal(misfit.error_class, misfit.detail)
            if connection.received != part.size:
                return Refusal("protocol", f"the response to a range has {connection.received} bytes, expected {part.size}")
            if connection.mismatch >= 0:
                at = part.offset + connection.mismatch
                return Refusal("verify", f"the bytes differ from what was written, at or after offset {at}")
        useless = transfer.took(part, connection.head, connection.body)
        return Refusal(useless.error_class, useless.detail) if useless is not None else None

    def _part_done(self, part: Part, now: int) -> None:
        transfer, work = part.transfer, self._work
        transfer.running.remove(part)
        if transfer.failure is not None or not transfer.complete:
            work.page(transfer.task)
            self._go_on(transfer, now)
            return
        self._close_transfer(transfer)
        work.done(transfer.task, now, transfer.task.size)
        following = work.next(now)
        if following is None:
            self._in_flight -= 1
        else:
            self._begin(following, now)

    def _close_transfer(self, transfer: Transfer) -> None:
        transfer.closed = True
        if isinstance(transfer, Upload):
            self._uploads.discard(transfer)

    def _break(self, connection: Connection, failure: Failure) -> None:
        task = connection.task
        if isinstance(task, Part) and connection.sent:
            task.transfer.lost(task, Refusal(failure.error_class, failure.detail))
        super()._break(connection, failure)

    def _fail(self, task: Task, found: Refusal, sent: bool) -> None:
        if isinstance(task, Part):
            if sent:
                task.transfer.lost(task, found)
            if task.transfer.failure is not None and task.kind not in (ABORT, SEARCH):
                self._give_up(task, found, sent)
                return
        super()._fail(task, found, sent)

    def _give_up(self, task: Task, found: Refusal, sent: bool) -> None:
        if not isinstance(task, Part):
            super()._give_up(task, found, sent)
            return
        transfer = task.transfer
        transfer.running.discard(task)
        if task.kind in (ABORT, SEARCH):
            found = found._replace(detail=f"parts may be left on the server: an upload of this key could not be aborted: {found.detail}")
        if transfer.failure is None and task.kind in (ABORT, SEARCH):
            # An upload that nobody knows of may be left; the object is none the worse for it.
            if sent:
                self._work.page(transfer.task)
        elif transfer.failure is None:
            transfer.fail(found, sent)
            self._abandon(transfer)
        else:
            if sent:
                self._work.page(transfer.task)
            if task.kind in (ABORT, SEARCH):
                transfer.failure = transfer.failure._replace(detail=f"{transfer.failure.detail}; {found.detail}")
        self._go_on(transfer, perf_counter_ns())

    def _abandon(self, transfer: Transfer, patient: bool = True) -> None:
        """Ends what is under way of an operation that has failed. Requests that have left are counted.

        A part of an upload that was sent in full is waited for: the server may still store it when the abort has come and gone,
        unless there is no time left for patience. So is the create, in any case: an upload that begins later would be found by nobody.
        """
        others = transfer.running
        transfer.running = set()
        for connection in list(self._connections.values()):
            part = connection.task
            if not isinstance(part, Part) or part not in others:
                continue
            awaited = part.kind == CREATE or (patient and part.kind == UPLOAD_PART)
            if awaited and connection.phase >= HEAD and connection.sent and not connection.sending:
                transfer.running.add(part)
                continue
            if connection.sent:
                self._work.page(transfer.task)
            # The sweep may have it in its hands.
            connection.task = None
            self._drop(connection)
        others -= transfer.running
        self._waiting[:] = [entry for entry in self._waiting if entry[2] not in others]
        heapq.heapify(self._waiting)
        hashing = [entry for entry in self._hashing if entry[0] not in others]
        self._hashing.clear()
        self._hashing.extend(hashing)

    def _sweep(self) -> None:
        super()._sweep()
        now = perf_counter_ns()
        if self._abort_until_ns is not None and now > self._abort_until_ns:
            raise TimeoutError
        if self._uploads and getattr(self._work, "stopped", False):
            self._end_uploads(now)
        if self._ranges is None:
            return
        limit_s = self._ranges.timeout_s
        for connection in list(self._connections.values()):
            part = connection.task
            if isinstance(part, Part) and part.kind == RANGE and now - connection.began_ns > limit_s * 1e9:
                self._break(connection, Failure("timeout_total", f"a range is not complete within {limit_s:g} s"))

    def _interrupt(self, upload: Upload, why: str) -> None:
        under_way = set(upload.running)
        self._abandon(upload, patient=False)
        upload.interrupt(why, under_way - upload.running)

    def _end_uploads(self, now: int) -> None:
        """Gives up the uploads that are still under way a while after the work was stopped."""
        if self._stopped_ns is None:
            self._stopped_ns = now
        if now - self._stopped_ns < STOP_S * 1e9:
            return
        for upload in list(self._uploads):
            if upload.failure is None:
                self._interrupt(upload, "the run was stopped")
                self._go_on(upload, now)
            elif any(part.kind == UPLOAD_PART for part in upload.running):
                # It had failed, and waits for parts that were sent in full: there is no time left for that.
                self._abandon(upload, patient=False)
                self._go_on(upload, now)

    # --- the end by an exception -------------------------------------------------------------------------------------------------------

    def _broken_off(self) -> None:
        """Aborts the uploads that are under way, within ABORT_S."""
        uploads = [upload for upload in self._uploads if upload.open or upload.running]
        self._uploads.clear()
        self._work = Probe()
        for upload in uploads:
            self._interrupt(upload, "the run has ended")
        kept = set().union(*(upload.running for upload in uploads))
        for connection in list(self._connections.values()):
            if connection.task not in kept:
                connection.task = None
                self._drop(connection)
        for endpoint in self._endpoints():
            endpoint.idle.clear()
        self._leaving.clear()
        self._waiting.clear()
        self._hashing.clear()
        self._in_flight = len(uploads)
        self._abort_until_ns = perf_counter_ns() + int(ABORT_S * 1e9)
        try:
            for upload in uploads:
                self._go_on(upload, perf_counter_ns())
            if uploads:
                self._loop(self._work, 1, None, lambda: None)
        except TimeoutError:
            pass
        finally:
            self._abort_until_ns = None
            self.close()
