"""The base of engines whose operations block: one thread for each operation in flight."""

from __future__ import annotations

import random
import select
import threading
import time
from typing import Callable, List, Optional

from sai3ssh.agent.engines.base import LATE_NS, Task, Work
from sai3ssh.agent.engines.response import Failure
from sai3ssh.agent.engines.s3_errors import RETRYABLE
from sai3ssh.agent.engines.sampling import Sample
from sai3ssh.dataset import Content
from sai3ssh.model import Retry

_CONTROL_S = 0.05
_IDLE_S = 0.1
"""How long a thread waits at most before it looks again."""


class OperationFailed(Failure):
    """An attempt failed; `sent` says whether its request left for the server."""

    def __init__(self, error_class: str, detail: str, sent: bool = True) -> None:
        super().__init__(error_class, detail)
        self.sent = sent


class ThreadedEngine:
    """Runs perform() in threads; the caller's thread looks after control. Calls of the work are made under a lock."""

    splits = False
    """Has no effect: what blocks does not tell its parts."""

    def __init__(self, retry: Retry, rng: Optional[random.Random] = None, verify_reads: float = 0.0) -> None:
        self._retry = retry
        self._rng = rng or random.Random()
        self.compare(verify_reads)
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._due = threading.Condition(lock)
        """Waited for by idle threads only, so that whoever is woken takes the next task."""
        self._work: Optional[Work] = None
        self._stopping = False
        self._timekeeper = False
        self._crash: Optional[BaseException] = None

    def compare(self, share: float) -> None:
        """See base.Engine."""
        self._verify_reads = share
        self._sample = Sample(share)

    def content_of(self, task: Task) -> Optional[Content]:
        """What the bytes of a read are to be compared with; None where they are not."""
        return task.content if self._verify_reads and self._sample() else None

    def perform(self, task: Task) -> int:
        """Makes one attempt and returns the bytes of object data moved; raises OperationFailed."""
        raise NotImplementedError

    def page(self, task: Task) -> None:
        """To be called by perform() after each page of a LIST but the last."""
        with self._changed:
            assert self._work is not None
            self._work.page(task)

    def run(
        self,
        work: Work,
        concurrency: int,
        control_fd: Optional[int] = None,
        on_control: Callable[[], None] = lambda: None,
    ) -> None:
        """Performs tasks until the work is finished and none is in flight; see base.Engine."""
        self._work = work
        self._stopping, self._crash, self._timekeeper = False, None, False
        threads = []
        for i in range(max(concurrency, 1)):
            threads.append(threading.Thread(target=self._guard, args=(work,), name=f"operation-{i}", daemon=True))
            threads[-1].start()
        try:
            self._attend(work, threads, control_fd, on_control)
        finally:
            with self._changed:
                self._stopping = True
                self._wake_all()
        for thread in threads:
            thread.join()
        if self._crash is not None:
            raise self._crash

    def _attend(self, work: Work, threads: List[threading.Thread], control_fd: Optional[int], on_control: Callable[[], None]) -> None:
        """Passes control on until all threads have ended, and notes when it comes late itself."""
        poller = select.poll()
        if control_fd is not None:
            poller.register(control_fd, select.POLLIN)
        while True:
            thread = next((thread for thread in threads if thread.is_alive()), None)
            if thread is None:
                return
            if control_fd is not None and poller.poll(0):
                # The work is the same object that on_control changes.
                with self._changed:
                    on_control()
                    self._wake_all()
                continue
            due_ns = time.perf_counter_ns() + int(_CONTROL_S * 1e9)
            thread.join(_CONTROL_S)
            late_ns = time.perf_counter_ns() - due_ns
            if late_ns > LATE_NS:
                with self._changed:
                    work.late(late_ns)

    def _wake_all(self) -> None:
        self._changed.notify_all()
        self._due.notify_all()

    def _guard(self, work: Work) -> None:
        try:
            self._serve(work)
        except BaseException as error:
            with self._changed:
                self._crash, self._stopping = error, True
                self._wake_all()

    def _serve(self, work: Work) -> None:
        """Performs one task after another until no more will come."""
        while True:
            task = self._take(work)
            if task is None:
                return
            self._finish(work, task)

    def _take(self, work: Work) -> Optional[Task]:
        """The next task, once there is one; None when no more will come."""
        with self._changed:
            while not self._stopping:
                task = work.next(time.perf_counter_ns())
                if task is not None:
                    return task
                if work.finished:
                    self._due.notify_all()
                    return None
                wake_ns = work.wake_ns
                if wake_ns is None or self._timekeeper:
                    self._due.wait(_IDLE_S)
                    continue
                # One thread waits for the time at which a task is due; when it has its task it wakes the next.
                self._timekeeper = True
                self._due.wait(min(max((wake_ns - time.perf_counter_ns()) / 1e9, 0.0), _IDLE_S))
                self._timekeeper = False
                self._due.notify()
            return None

    def _finish(self, work: Work, task: Task) -> None:
        """Makes attempts at a task until it is done or given up."""
        while True:
            try:
                size = self.perform(task)
            except OperationFailed as failure:
                with self._changed:
                    if failure.error_class not in RETRYABLE or task.attempt >= self._retry.max_retries or self._stopping:
                        detail = f"{task.uri[:300]}: {failure.detail}"
                        work.failed(task, time.perf_counter_ns(), failure.error_class, detail, failure.sent)
                        return
                    delay_s = retry_delay_s(self._retry, task.attempt, self._rng)
                    task.attempt += 1
                    work.retried(task, failure.error_class, failure.sent)
                    due = time.monotonic() + delay_s
                    while not self._stopping and time.monotonic() < due:
                        self._changed.wait(due - time.monotonic())
                continue
            end_ns = time.perf_counter_ns()
            with self._changed:
                work.done(task, end_ns, size)
            return


def retry_delay_s(retry: Retry, attempt: int, rng: random.Random) -> float:
    """How long to wait before making attempt number `attempt` + 1 again: exponential, with jitter."""
    delay_s = retry.delay_s(attempt)
    return delay_s * (1 + retry.jitter * (2 * rng.random() - 1))
