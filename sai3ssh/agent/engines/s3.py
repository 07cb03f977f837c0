"""The native S3 engine: one epoll loop, one process, no thread, standard library only."""

from __future__ import annotations

import contextlib
import heapq
import random
import resource
import select
from collections import deque
from hashlib import sha256
from select import EPOLLIN, EPOLLOUT
from time import perf_counter_ns
from typing import Callable, Deque, Dict, Iterable, List, Optional, Tuple

from sai3ssh.agent.engines.base import COPY, DELETE, GET, LATE_NS, LIST, PUT, STAT, PlainTask, RepeatedTask, Root, Task, Work
from sai3ssh.agent.engines.connection import BUFFER_BYTES, CONNECT, HANDSHAKE, Connection, network_failure
from sai3ssh.agent.engines.endpoint import Endpoint, EndpointMap, S3Root
from sai3ssh.agent.engines.listing import MAX_PAGE, parse_page
from sai3ssh.agent.engines.parts import Part
from sai3ssh.agent.engines.response import Failure, read_answer
from sai3ssh.agent.engines.s3_errors import RETRYABLE, Refusal, check_error, refusal
from sai3ssh.agent.engines.s3_request import METHODS, PROBE, PayloadHash, Probe, list_query
from sai3ssh.agent.engines.s3_special import special_problem, start_special
from sai3ssh.agent.engines.sampling import Sample
from sai3ssh.agent.engines.sigv4 import EMPTY_SHA256, Credentials, encode_path
from sai3ssh.agent.engines.tasks import SPECIAL
from sai3ssh.dataset import PIECE
from sai3ssh.model import OPERATIONS, Deadlines, Retry, Target

_LISTS = (LIST, PROBE)
_SHORT = (GET, PUT)
NEVER, _ALWAYS = -2, 1 << 62
"""Bounds of sizes: below the smallest, -1, and above all."""
_TOGETHER = 32
_SWEEP_NS = 100_000_000
_FINE_NS = 2_000_000
_RESOLVE_AGAIN_NS = 30_000_000_000
_MAX_EVENTS = 512
_SPARE_DESCRIPTORS = 256


Arrival = Tuple[Connection, Task, int, int]
"""A response that is whole: its connection and task, when it had arrived, and the bytes of data that it moved."""


class S3Engine:
    """Performs operations on an S3 server."""

    splits = False

    def __init__(
        self,
        target: Target,
        credentials: Credentials,
        deadlines: Deadlines,
        retry: Retry,
        rng: Optional[random.Random] = None,
    ) -> None:
        """Raises TargetError when the target cannot be used as it is written."""
        self._target = target
        self._sign_payload = target.sign_payload
        self.compare(target.verify_reads)
        self._credentials = credentials
        self._deadlines = deadlines
        self._retry = retry
        self._rng = rng or random.Random()
        self._map = EndpointMap(target, credentials)
        self._roots: Dict[str, S3Root] = {}
        self._buffer = bytearray(BUFFER_BYTES)
        self._poller = select.epoll()
        self._connections: Dict[int, Connection] = {}
        self._waiting: List[Tuple[int, int, Task]] = []
        """Retries that are due later: (when, tie-breaker, task)."""
        self._hashing: Deque[Tuple[Task, PayloadHash]] = deque()
        """Large objects whose payload is being hashed, a piece a turn, before they can be sent."""
        self._leaving: List[Tuple[Connection, Task, bytes, int, int]] = []
        """Requests that are ready, with the bytes of their heads and the time that their tasks were given at."""
        self._in_flight = 0
        self._requests_at_once = 1
        """The most that one operation has under way."""
        self._ties = 0
        self._resolved_ns = 0
        self._work: Work = Probe()
        self._refusal: Optional[Refusal] = None
        """Why an operation was given up last."""
        self._short_below: List[int] = [NEVER] * len(OPERATIONS)
        """By operation: of which sizes a request may be sent the short way."""

    # --- the contract ------------------------------------------------------------------------------------------------------------------

    def root(self, uri: str) -> Root:
        """The prepared form of s3://bucket/prefix; raises TargetError on another form."""
        if uri not in self._roots:
            self._roots[uri] = self._map.root(uri)
        return self._roots[uri]

    def check(self, write: bool = False) -> None:
        """Returns when every prepared root can be used: its bucket listed and, with `write`, a probe object written and deleted."""
        self._check_roots(self._roots.values(), write)

    def _check_roots(self, roots: Iterable[S3Root], write: bool) -> None:
        probed: Dict[str, bool] = {}
        for root in roots:
            tasks = [Task(PROBE, root, "", -1, 0, None, perf_counter_ns())] if root.bucket not in probed else []
            probed[root.bucket] = True
            if write:
                key = f".sai3ssh-probe-{self._rng.getrandbits(64):016x}"
                tasks += [Task(op, root, key, 0, 0, None, perf_counter_ns()) for op in (PUT, DELETE)]
            for task in tasks:
                # What was written goes, also where the storage is busy for a moment; the rest is asked again by who asks here.
                task.attempt = 0 if task.op == DELETE else 1 << 30
                self._refusal = None
                self.run(Probe(task), 1)
                if self._refusal is not None:
                    raise check_error(self._refusal, root.uri, root.endpoint.url, root.endpoint.region)

    def run(
        self,
        work: Work,
        concurrency: int,
        control_fd: Optional[int] = None,
        on_control: Callable[[], None] = lambda: None,
    ) -> None:
        """Performs tasks until the work is finished and none is in flight; see base.Engine."""
        self._work = work
        self._short_below = self._short_sizes()
        concurrency = max(concurrency, 1)
        _allow_descriptors(concurrency * self._requests_at_once + _SPARE_DESCRIPTORS)
        for endpoint in self._endpoints():
            endpoint.resolve()
        if control_fd is not None:
            self._poller.register(control_fd, EPOLLIN)
        try:
            try:
                self._loop(work, concurrency, control_fd, on_control)
            finally:
                if control_fd is not None:
                    # A descriptor that on_control closed has left the poller already.
                    with contextlib.suppress(OSError, ValueError):
                        self._poller.unregister(control_fd)
        except BaseException:
            self._broken_off()
            raise
        finally:
            self._work = Probe()

    def _broken_off(self) -> None:
        """The run ends by an exception."""
        self.close()

    def compare(self, share: float) -> None:
        """See base.Engine."""
        self._verify_reads = share
        self._sample = Sample(share)

    def _short_sizes(self) -> List[int]:
        """By operation: below which size an object's request is nothing but a head with an unsigned payload, and the body at once."""
        sizes = [NEVER] * len(OPERATIONS)
        if not self._sign_payload:
            sizes[PUT] = PIECE + 1
            if not self._verify_reads:
                sizes[GET] = _ALWAYS
        return sizes

    def close(self) -> None:
        """Closes connections and forgets what was in flight."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        for endpoint in self._endpoints():
            endpoint.idle.clear()
        self._leaving.clear()
        self._waiting.clear()
        self._hashing.clear()
        self._in_flight = 0

    # --- the loop ----------------------------------------------------------------------------------------------------------------------

    def _loop(self, work: Work, concurrency: int, control_fd: Optional[int], on_control: Callable[[], None]) -> None:
        waiting, poll, clock = self._waiting, self._poller.poll, perf_counter_ns
        sweep_ns = clock() + _SWEEP_NS
        while True:
            now = clock()
            while waiting and waiting[0][0] <= now:
                self._begin(heapq.heappop(waiting)[2], now)
            exhausted = False
            while self._in_flight < concurrency:
                task = work.next(now)
                if task is None:
                    exhausted = True
                    break
                self._in_flight += 1
                self._begin(task, now)
                now = clock()
            if exhausted and not self._in_flight and work.finished:
                return
            if self._leaving:
                # Before anything that takes time. What is hashed next does not go the short way.
                self._leave()
            if self._hashing:
                self._hash_piece()
            wake_ns = sweep_ns
            if waiting and waiting[0][0] < wake_ns:
                wake_ns = waiting[0][0]
            pace_ns = work.wake_ns if exhausted else None
            if pace_ns is not None and pace_ns < wake_ns:
                wake_ns = pace_ns
            left = wake_ns - clock()
            if self._hashing or left <= 0:
                events = poll(0, _MAX_EVENTS)
            elif left < _FINE_NS:
                self._wait_finely(left)
                events = poll(0, _MAX_EVENTS)
            else:
                # epoll rounds up to milliseconds, which would start paced operations late: the last one is waited for finely.
                events = poll((left - 1_000_000) / 1e9, _MAX_EVENTS)
            if events:
                self._handle(events, control_fd, on_control)
            now = clock()
            if now >= sweep_ns:
                if now - sweep_ns > LATE_NS:
                    work.late(now - sweep_ns)
                sweep_ns = now + _SWEEP_NS
                self._sweep()

    def _wait_finely(self, left_ns: int) -> None:
        """Waits for events, or for left_ns with a resolution of microseconds: select has that, epoll has not."""
        fd = self._poller.fileno()
        if fd < 1024:
            select.select([fd], [], [], left_ns / 1e9)

    def _handle(self, events: List[Tuple[int, int]], control_fd: Optional[int], on_control: Callable[[], None]) -> None:
        """Does what the events ask for.

        Most are the response of a plain GET or PUT on a connection that is `short`. For those there is a way from here to the next request
        that knows one case: a 200 that is all there, of the right length, on a connection that stays open. Everything else is left to
        _advance, which finds the connection as _send has left it.
        """
        connections, buffer, splits, clock = self._connections, self._buffer, self.splits, perf_counter_ns
        arrived: List[Arrival] = []
        controlled = False
        for fd, event in events:
            connection = connections.get(fd)
            if connection is None:
                controlled = controlled or fd == control_fd
                continue
            task = connection.task
            if event != EPOLLIN or task is None or not connection.short:
                self._advance(connection, event)
                continue
            try:
                n = connection.recv_into(buffer)
            except BlockingIOError:
                continue
            except OSError as error:
                self._break(connection, network_failure(error.errno, "response"))
                continue
            op, size = task.op, task.size
            answers = connection.endpoint.answers
            head, length, total, _, _ = last = answers[op]
            if n != total or not buffer.startswith(head):
                answer = read_answer(buffer, n, last)
                if answer is None:
                    self._took_in(connection, task, n)
                    continue
                answers[op] = answer
                length = answer.length
            if op == GET and length != size:
                if size >= 0:
                    self._took_in(connection, task, n)
                    continue
                size = length
            now = clock()
            connection.task = None
            if splits:
                began_ns = connection.began_ns
                task.split = (began_ns - task.start_ns, 0, 0, now - began_ns, 0)
            arrived.append((connection, task, now, size))
            if len(arrived) >= _TOGETHER:
                self._follow(arrived)
                arrived = []
        if arrived:
            self._follow(arrived)
        if controlled:
            on_control()

    def _follow(self, arrived: List[Arrival]) -> None:
        """Reports what has arrived, and sends the next requests on these connections.

        All of one step, then all of the next: each of them finds its code and data in the caches of the processor, where the kernel and the
        other steps would have replaced them.
        """
        done, following, request, short_below = self._work.done, self._work.next, self._request, self._short_below
        for _, task, end_ns, size in arrived:
            done(task, end_ns, size)
        now = perf_counter_ns()
        for connection, _, _, _ in arrived:
            endpoint = connection.endpoint
            wanted = following(now)
            if wanted is not None and wanted.size < short_below[wanted.op] and wanted.root.endpoint is endpoint:
                request(connection, wanted, now)
                continue
            endpoint.idle.append(connection)
            if wanted is None:
                self._in_flight -= 1
            else:
                self._begin(wanted, now)
        if len(self._leaving) >= _TOGETHER:
            self._leave()

    def _request(self, connection: Connection, task: Task, now: int) -> None:
        """Makes the request of a GET or PUT that is below _short_below, on a connection that is `short`; it leaves before the next poll."""
        signer, path = connection.endpoint.signer, task.root.path
        if isinstance(task, RepeatedTask):
            head = data = signer.repeated(task.kept, task.index, path + task.key, now)
        else:
            path += task.key if type(task) is PlainTask else encode_path(task.key)
            if task.op == GET:
                head = data = signer.head("GET", path, "", now)
            else:
                size = task.size
                head = data = signer.head("PUT", path, "", now, size)
                if size:
                    assert task.content is not None
                    data = task.content.behind(head, task.index, size)
        self._leaving.append((connection, task, data, len(head), now))
        if len(self._leaving) >= _TOGETHER:
            self._leave()

    def _leave(self) -> None:
        """Sends the requests that are ready, one right after the other: a server on this host that sleeps is woken once for all of them."""
        for connection, task, data, head_bytes, given_ns in self._leaving:
            now = perf_counter_ns()
            if task.start_ns is given_ns:
                # No schedule said when it was to start, which would be another object even if the time were the same: so it does now.
                task.start_ns = now
            connection.task = task
            connection.began_ns = connection.sent_ns = now
            try:
                n = connection.send(data)
            except OSError as error:
                connection.not_sent(error, data, head_bytes)
            else:
                if n == len(data):
                    continue
                connection.sent_in_part(n, data, head_bytes)
            if connection.mask != connection.registered:
                self._watch(connection)
        self._leaving.clear()

    def _took_in(self, connection: Connection, task: Task, n: int) -> None:
        """n bytes of a response have been received that the short way does not know."""
        connection.short = False
        try:
            self._ended(connection, task, connection.take_in(n))
        except Failure as failure:
            self._break(connection, failure)

    def _advance(self, connection: Connection, event: int) -> None:
        """Does what an event of a connection asks for."""
        task = connection.task
        if task is None:
            # Nothing is expected on an idle connection: the server has closed it. One that was taken in this turn is no longer idle: its
            # request is about to leave, and the poller tells again.
            if connection in connection.endpoint.idle:
                connection.endpoint.idle.remove(connection)
                self._drop(connection)
            return
        try:
            if connection.phase <= HANDSHAKE:
                if connection.connected():
                    self._send(connection, task, perf_counter_ns())
                elif connection.mask != connection.registered:
                    self._watch(connection)
                return
            if event != EPOLLOUT and self._ended(connection, task, connection.receive()):
                return
            if event & EPOLLOUT and connection.mask & EPOLLOUT:
                connection.send_more(perf_counter_ns())
            if connection.mask != connection.registered:
                self._watch(connection)
        except Failure as failure:
            self._break(connection, failure)

    def _ended(self, connection: Connection, task: Task, whole: bool) -> bool:
        """Whether the exchange is over: the response is whole, or the rest of it is not worth waiting for."""
        if whole:
            self._complete(connection, task)
        elif connection.endless and (connection.status >= 300 or task.op not in (GET, LIST, PROBE)):
            self._complete(connection, task, whole=False)
        else:
            return False
        return True

    def _watch(self, connection: Connection) -> None:
        if connection.registered:
            self._poller.modify(connection.fd, connection.mask)
        else:
            self._poller.register(connection.fd, connection.mask)
        connection.registered = connection.mask

    def _drop(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        connection.close()

    def _sweep(self) -> None:
        """Ends the attempts whose deadline has passed. Cheaper than a timer per operation, and late by 100 ms at most."""
        now = perf_counter_ns()
        self._leave()
        for endpoint in self._endpoints():
            endpoint.signer.renew(now)
        limits = self._deadlines
        connect_ns, first_byte_ns, total_ns = (int(s * 1e9) for s in (limits.connect_s, limits.first_byte_s, limits.total_s))
        for connection in list(self._connections.values()):
            if connection.task is None:
                continue
            if connection.phase <= HANDSHAKE:
                if now - connection.began_ns > connect_ns:
                    self._break(connection, Failure("timeout_connect", f"no connection within {limits.connect_s:g} s"))
            elif now - connection.began_ns > total_ns:
                self._break(connection, Failure("timeout_total", f"not complete within {limits.total_s:g} s"))
            elif connection.awaiting and now - connection.sent_ns > first_byte_ns:
                self._break(connection, Failure("timeout_first_byte", f"no response within {limits.first_byte_s:g} s"))

    # --- one attempt -------------------------------------------------------------------------------------------------------------------

    def _begin(self, task: Task, now: int) -> None:
        """Begins an attempt: on an idle connection if there is one."""
        if self._sign_payload and task.op == PUT and not self._hashed(task):
            return
        endpoint: Endpoint = task.root.endpoint
        idle = endpoint.idle
        if idle:
            connection = idle.pop()
            if connection.short and task.size < self._short_below[task.op] and not isinstance(task, Part):
                self._request(connection, task, now)
            else:
                self._send(connection, task, now)
        else:
            self._connect(endpoint, task, now, now, 1)

    def _connect(self, endpoint: Endpoint, task: Task, now: int, began_ns: int, tried: int) -> None:
        """Opens a connection for an attempt that began at began_ns; `tried` counts the addresses it has tried."""
        while True:
            try:
                family, address = endpoint.next_address()
                connection = Connection(endpoint, family, address, self._buffer)
            except Failure as failure:
                if tried < len(endpoint.addresses):
                    tried += 1
                    continue
                self._resolve_again(endpoint, now)
                self._fail(task, Refusal(failure.error_class, failure.detail), sent=False)
                return
            break
        connection.task = task
        connection.began_ns = connection.attempt_ns = began_ns
        connection.tried = tried
        self._connections[connection.fd] = connection
        self._watch(connection)

    def _resolve_again(self, endpoint: Endpoint, now: int) -> None:
        if now - self._resolved_ns > _RESOLVE_AGAIN_NS or not endpoint.addresses:
            self._resolved_ns = now
            endpoint.resolve_again()

    def _send(self, connection: Connection, task: Task, now: int) -> None:
        """Sends the task's request on a connection that is open."""
        op = task.op
        root: S3Root = task.root
        signer = connection.endpoint.signer
        keep = size = 0
        length = -1
        compare = None
        payload = EMPTY_SHA256 if self._sign_payload else ""
        query = ""
        if op in _LISTS:
            path = root.bucket_path
            query = list_query(root.prefix + task.key, task.state, op == PROBE, task.delimiter)
            keep = MAX_PAGE
        else:
            path = root.path + encode_path(task.key)
            if op == PUT:
                length = size = task.size
                if payload and size:
                    payload = task.state
            elif op == GET and self._verify_reads and self._sample():
                compare = task.content
            elif op >= DELETE and isinstance(task, SPECIAL):
                start_special(connection, task, now, self._sign_payload)
                if connection.mask != connection.registered:
                    self._watch(connection)
                return
        connection.start(task, signer.head(METHODS[op], path, query, now, length, payload), size, keep, compare, now)
        if connection.mask != connection.registered:
            self._watch(connection)
        elif op in _SHORT and compare is None and connection.served and connection.sent and connection.mask == EPOLLIN:
            connection.short = connection.endpoint.context is None

    def _hashed(self, task: Task) -> bool:
        """Whether the payload's hash is there; if not, it is being made and the attempt will begin by itself."""
        if task.state is not None or not task.size:
            return True
        assert task.content is not None
        if task.size <= PIECE:
            task.state = sha256(task.content.head(task.index, task.size)).hexdigest()
            return True
        self._hashing.append((task, PayloadHash(task)))
        return False

    def _hash_piece(self) -> None:
        task, payload = self._hashing[0]
        if payload.step():
            self._hashing.popleft()
            task.state = payload.result()
            self._begin(task, perf_counter_ns())

    # --- how it ended ------------------------------------------------------------------------------------------------------------------

    def _complete(self, connection: Connection, task: Task, whole: bool = True) -> None:
        """A whole response, or as much of one as is worth waiting for, is there."""
        now = perf_counter_ns()
        connection.served += 1
        status = connection.status
        op = task.op
        reusable = whole and connection.reusable
        problem: Optional[Refusal] = None
        size = 0
        if status >= 300:
            problem = self._refusal_of(connection)
        elif not reusable and connection.sending:
            problem = Refusal("protocol", f"HTTP {status} came before the whole request was sent", status)
        elif op == PUT:
            size = task.size
        elif op == GET:
            size = connection.received
            if size != task.size >= 0:
                problem = Refusal("verify", f"the object has {size} bytes, expected {task.size}")
            elif connection.mismatch >= 0:
                problem = Refusal("verify", f"the bytes differ from what was written, at or after offset {connection.mismatch}")
        elif op in _LISTS:
            problem = self._take_page(connection, task)
        elif op == STAT and connection.length != task.size >= 0:
            problem = Refusal("verify", f"the object has {connection.length} bytes, expected {task.size}")
        elif op >= DELETE and isinstance(task, SPECIAL):
            problem = special_problem(connection, task, self._credentials)
            size = max(task.size, 0)
        connection.task = None
        if reusable:
            connection.endpoint.idle.append(connection)
        else:
            self._drop(connection)
        if problem is not None:
            self._refused(task, problem, connection.endpoint, connection.began_ns)
            return
        if self.splits:
            if connection.first_ns or connection.served == 1 or op == LIST:
                task.split = connection.split(task, now)
            else:
                # The common case: a response that was received at once, on a connection that was open.
                began_ns = connection.began_ns
                task.split = (began_ns - task.start_ns, 0, 0, now - began_ns, 0)
        if op == LIST and task.state is not None:
            self._work.page(task)
            task.attempt = 0
            self._begin(task, now)
            return
        work = self._work
        work.done(task, now, size)
        following = work.next(now)
        if following is None:
            self._in_flight -= 1
        else:
            self._begin(following, now)

    def _refusal_of(self, connection: Connection) -> Refusal:
        """What an error response says."""
        return refusal(connection.status, connection.head, connection.body, self._credentials)

    def _refused(self, task: Task, problem: Refusal, asked: Endpoint, began_ns: int) -> None:
        """A whole response of the endpoint that was asked is no success."""
        if problem.misdated:
            asked.signer.renew(perf_counter_ns())
            if began_ns < asked.signer.renewed_ns:
                self._work.retried(task.whole, problem.error_class, sent=True)
                self._begin(task, perf_counter_ns())
                return
        if problem.elsewhere:
            root: S3Root = task.root
            if root.endpoint is asked and not root.moved and problem.region not in ("", asked.region):
                self._move(root, self._elsewhere(root, problem.region))
            if root.endpoint is not asked:
                self._work.retried(task.whole, problem.error_class, sent=True)
                self._begin(task, perf_counter_ns())
                return
            if root.moved:
                problem = problem._replace(detail=f"{problem.detail}; it had been sent to region {asked.region} before")
        self._fail(task, problem, sent=True)

    def _move(self, root: S3Root, endpoint: Endpoint) -> None:
        """From now on the requests of the root's bucket go to another endpoint."""
        for other in self._beside(root):
            if other.bucket == root.bucket:
                other.endpoint = endpoint
                other.moved = True

    def _endpoints(self) -> Iterable[Endpoint]:
        """All of them."""
        return self._map.endpoints.values()

    def _elsewhere(self, root: S3Root, region: str) -> Endpoint:
        """Where the root's bucket is in another region; blocks."""
        return self._map.elsewhere(root, region)

    def _beside(self, root: S3Root) -> Iterable[S3Root]:  # noqa: ARG002
        """All roots of the same address."""
        return self._roots.values()

    def _take_page(self, connection: Connection, task: Task) -> Optional[Refusal]:
        """Counts the keys of a page and notes where the next begins."""
        if connection.received > len(connection.body):
            return Refusal("protocol", f"page of a LIST of more than {MAX_PAGE} bytes")
        try:
            page = parse_page(connection.body, task.state, task.delimiter)
        except Failure as failure:
            return Refusal(failure.error_class, failure.detail)
        task.listed += page.keys
        task.state = page.token
        return None

    def _break(self, connection: Connection, failure: Failure) -> None:
        """The attempt on a connection failed: the connection is of no more use."""
        task = connection.task
        assert task is not None
        now = perf_counter_ns()
        stale = connection.served > 0 and not connection.responding and failure.error_class == "reset"
        sent = connection.sent and not (stale and connection.lost_request())
        endpoint = connection.endpoint
        opening = connection.phase == CONNECT
        self._drop(connection)
        if opening and failure.error_class != "timeout_connect" and connection.tried < len(endpoint.addresses):
            self._connect(endpoint, task, now, connection.began_ns, connection.tried + 1)
        elif stale:
            # An idle connection that the server closed just as the request left says nothing about the server: try a new one at once.
            self._work.retried(task.whole, failure.error_class, sent)
            self._connect(endpoint, task, now, now, 1)
        else:
            if opening:
                self._resolve_again(endpoint, now)
            self._fail(task, Refusal(failure.error_class, failure.detail), sent)

    def _fail(self, task: Task, found: Refusal, sent: bool) -> None:
        """Makes the attempt again later, or gives the operation up."""
        now = perf_counter_ns()
        if found.error_class in RETRYABLE and task.attempt < self._retry.max_retries:
            retry = self._retry
            delay_s = retry.delay_s(task.attempt) * (1 + retry.jitter * (2 * self._rng.random() - 1))
            task.attempt += 1
            self._ties += 1
            heapq.heappush(self._waiting, (now + int(delay_s * 1e9), self._ties, task))
            self._work.retried(task.whole, found.error_class, sent)
        else:
            self._give_up(task, found, sent)

    def _give_up(self, task: Task, found: Refusal, sent: bool) -> None:
        """The operation has failed."""
        task.split = None
        self._refusal = found
        self._in_flight -= 1
        method = METHODS[task.op] if task.op not in (LIST, COPY) else OPERATIONS[task.op].upper()
        self._work.failed(task, perf_counter_ns(), found.error_class, f"{method} {task.named}: {found.detail}", sent)


def _allow_descriptors(count: int) -> None:
    """Raises the soft limit of open files to count, as far as the hard one lets it: the usual 1,024 end a large concurrency with EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard))
