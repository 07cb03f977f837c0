"""The contract between an engine, which performs operations on storage, and the work, which decides them and counts them.

All times are time.perf_counter_ns() (CLOCK_MONOTONIC on Linux). Every attempt at an operation ends in exactly one call: done, retried
or failed. So for each kind of operation

    requests = done + failed(sent) + retried(sent) + page

is the number of requests that the server received, where `sent` says that the request left for the server. An operation that is made of
several requests (the pages of a LIST, the ranges of a GET, the parts of a PUT) counts all but the one that done() or failed() stands for
with page().
"""

from __future__ import annotations

import re
from typing import Any, Callable, ClassVar, List, Optional, Protocol, Tuple, Type

from sai3ssh.dataset import Content
from sai3ssh.model import OPERATIONS

GET, PUT, LIST, STAT, DELETE, COPY, MKDIR, RMDIR = range(len(OPERATIONS))
"""Operation codes: positions in model.OPERATIONS."""
Split = Tuple[int, int, int, int, int]
"""ns by model.SPLIT_PARTS; they sum to the latency of the operation."""
LATE_NS = 10_000_000
"""An engine that comes late by less says nothing: timers of an idle machine are no better."""


class Root:
    """A target URI that an engine has prepared; keys are appended to it."""

    __slots__ = ("uri",)

    def __init__(self, uri: str) -> None:
        self.uri = uri


class Task:
    """One operation on one object.

    The work fills in everything up to start_ns, from which latency is measured: the intended start when the load is paced, else
    the `now_ns` that next() was given, which an engine replaces if the request leaves later. The rest belongs to the engine, except
    for what it tells the work: `listed`, how many keys, and common prefixes with a delimiter, a LIST found; `endpoint`, the position in
    the plan's list of endpoints of the one that the last attempt went to; and, when done() is called, `split`: the latency by its parts,
    or None where they are not known (the engine's `splits` is off, it cannot tell them, or the operation was made of parallel requests).
    Those parts are

    queue       from start_ns to the beginning of the attempt that succeeded: backlog of a paced load, earlier attempts and their pauses,
                the hashing of a signed payload
    connect     to the established TCP connection, whatever addresses that took; 0 on one that was open
    tls         to the end of the TLS handshake
    first_byte  from then, when the request begins to be sent, to the first byte of the response
    transfer    to its last byte; 0 when all of it was received at once

    Of an operation made of several requests one after another (pages of a LIST) each part is the sum over the requests.
    """

    delimiter: ClassVar[str] = ""
    """LIST only: names that go on after the next one count once, together; see tasks.LevelTask."""

    __slots__ = ("attempt", "content", "endpoint", "index", "key", "listed", "op", "owner", "root", "size", "split", "start_ns", "state")

    def __init__(
        self, op: int, root: Root, key: str, size: int, index: int, content: Optional[Content], start_ns: int, owner: str = ""
    ) -> None:
        """`key` is relative to root, and that of a directory ends in '/'; `size` is what put writes and what get and stat expect (-1: any);
        `owner` is the work's own note."""
        self.op = op
        # Any: each engine knows its own kind of root.
        self.root: Any = root
        self.key = key
        self.size = size
        self.index = index
        self.content = content
        self.start_ns = start_ns
        self.owner = owner
        self.attempt = 0
        self.listed = self.endpoint = 0
        self.split: Optional[Split] = None
        self.state: Any = None

    @property
    def uri(self) -> str:
        """The whole name of the object, for messages."""
        uri: str = self.root.uri + self.key
        return uri

    @property
    def named(self) -> str:
        """What it is about, for messages."""
        return self.uri[:300]

    @property
    def whole(self) -> Task:
        """The task that the work knows: this one, unless an engine has divided it."""
        return self


class PlainTask(Task):
    """A task whose key goes into a URL as it is."""

    __slots__ = ()


class Kept:
    """What an engine keeps of the requests for `count` objects, by their indices."""

    __slots__ = ("count", "fixed", "signatures")

    def __init__(self, count: int) -> None:
        self.count = count
        self.fixed = ""
        """What the signatures belong to."""
        self.signatures: List[str] = []
        """Empty ones are not known yet."""


class RepeatedTask(PlainTask):
    """A plain GET of one of so few objects that the same request is likely made again soon.

    The work sets `kept`. Tasks with the same one have the same root, and the same key for the same index.
    """

    __slots__ = ("kept",)
    kept: Kept


def kind_of(key: str) -> Type[Task]:
    """Of tasks with keys that are like this one but for their numbers."""
    return PlainTask if re.fullmatch(r"[A-Za-z0-9\-_.~/]*", key) else Task


class TreeTask(Task):
    """A RMDIR of a directory with everything in it."""

    __slots__ = ()


class Work(Protocol):
    """What an engine asks for tasks and reports to; never called by two threads at once."""

    @property
    def finished(self) -> bool:
        """No more tasks will come; the engine returns from run() once those in flight have ended."""

    @property
    def wake_ns(self) -> Optional[int]:
        """When to ask again after next() gave None although the work is not finished; None: after the next event."""

    def next(self, now_ns: int) -> Optional[Task]:
        """The next task, or None when there is none now."""

    def done(self, task: Task, end_ns: int, size_bytes: int) -> None:
        """The operation succeeded and moved size_bytes of object data."""

    def retried(self, task: Task, error_class: str, sent: bool) -> None:
        """An attempt failed and will be made again."""

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        """The operation failed for good; `detail` is for people and free of secrets."""

    def late(self, late_ns: int) -> None:
        """The engine itself came so much later than it wanted to look after its operations: their latency includes that."""

    def page(self, task: Task) -> None:
        """A further request of an operation that is made of several, besides the one that done() or failed() stands for."""


class Engine(Protocol):
    """Performs operations on one kind of storage. One thread uses it, in one process."""

    splits: bool
    """Whether tasks get their `split`, if the engine can tell it; off at first."""

    def root(self, uri: str) -> Root:
        """The prepared form of a target URI; keep it and put it into every task below that URI."""

    def check(self, write: bool = False) -> None:
        """Returns when every prepared root can be used (with `write`: written to, too).

        Raises TargetError when a person has to change something and Transient when it may go away by itself.
        """

    def run(
        self,
        work: Work,
        concurrency: int,
        control_fd: Optional[int] = None,
        on_control: Callable[[], None] = lambda: None,
    ) -> None:
        """Performs tasks, at most `concurrency` at once, until the work is finished and none is in flight.

        Calls on_control from the calling thread within 100 ms whenever control_fd is readable. What it raises ends the run at once.
        """

    def compare(self, share: float) -> None:
        """From now on the bytes of that share of the reads, 0 to 1, are compared with what was written."""

    def close(self) -> None:
        """Closes connections; the engine may still be used again."""
