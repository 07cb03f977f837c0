"""The base of engines whose operations block: one thread for each operation in flight."""

from __future__ import annotations

import random
import resource
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
_LOOK_S = 0.005
"""While operations take turns: one that waits so long, or twice that, ends it."""
_LOOKS = 20
"""One that does not wait ends it after so many looks."""
_SAMPLE = 16
"""Of so many operations in a row, and then of each 16th, it is seen whether they wait; two that do are too many."""
_SHORT_BYTES = 1 << 16
"""More bytes take long enough to move that other processors are of use."""
_SHORT_NS = 100_000
"""So does what the kernel is longer busy with, as with new files where many were removed."""
_TURNS_AGAIN_S = (0.05, 3.2)
"""After so long, doubled each time that it fails, threads that keep a processor busy try again to take turns."""


class OperationFailed(Failure):
    """An attempt failed; `sent` says whether its request left for the server."""

    def __init__(self, error_class: str, detail: str, sent: bool = True) -> None:
        super().__init__(error_class, detail)
        self.sent = sent


class ThreadedEngine:
    """Runs perform() in threads; the caller's thread looks after control. Calls of the work are made under a lock."""

    splits = False
    """Has no effect: what blocks does not tell its parts."""
    takes_turns = False
    """Whether operations may be over without having waited for anything, as those of the page cache are.

    Then further threads only take the interpreter from each other: each system call hands it over, and who wants it back waits up to
    sys.getswitchinterval(), which counts as latency. So one thread has the turn while operations do not wait; as soon as they do, all
    have it.
    """

    def __init__(self, retry: Retry, rng: Optional[random.Random] = None, verify_reads: float = 0.0) -> None:
        self._retry = retry
        self._rng = rng or random.Random()
        self.compare(verify_reads)
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._due = threading.Condition(lock)
        """Waited for by idle threads only, so that whoever is woken takes the next task."""
        self._turn = threading.Condition(lock)
        """Waited for by threads that do not have the turn."""
        self._alone = False
        """Whether only the leader performs operations."""
        self._leader: Optional[int] = None
        self._others = self._parked = 0
        """How many threads there are beside the leader, and how many of them wait for their turn."""
        self._begun = self._begun_alone = self._in_flight = self._seen = self._waited = 0
        self._turns_again_s = _TURNS_AGAIN_S[0]
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

    @property
    def share_in_turn(self) -> float:
        """Of the operations of the last run, those that were performed one at a time although more could have been in flight."""
        return self._begun_alone / self._begun if self._begun else 0.0

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
        self._in_flight, self._turns_again_s = 0, _TURNS_AGAIN_S[0]
        self._begun = self._begun_alone = 0
        self._parked, self._others = 0, max(concurrency, 1) - 1
        with self._changed:
            self._take_turns(self.takes_turns and self._others > 0)
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
        watch = _Watch() if self.takes_turns and self._others else None
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
            wait_s = _LOOK_S if self._alone else _CONTROL_S
            due_ns = time.perf_counter_ns() + int(wait_s * 1e9)
            thread.join(wait_s)
            late_ns = time.perf_counter_ns() - due_ns
            if late_ns > LATE_NS:
                with self._changed:
                    work.late(late_ns)
            if watch is not None:
                self._look(watch)

    def _look(self, watch: _Watch) -> None:
        """Ends turns when an operation takes long, and begins them again where threads keep a processor busy."""
        alone, begun, leader = self._alone, self._begun, self._leader
        if alone and (begun != watch.begun or not self._in_flight):
            watch.begun, watch.looks = begun, 0
            return
        watch.looks += 1
        # A thread that only waits for a processor, or uses one, is not helped by others.
        if alone and watch.looks < _LOOKS and leader is not None and _is_runnable(leader):
            return
        with self._changed:
            if alone:
                if self._alone and begun == self._begun:
                    watch.restart()
                    self._take_turns(False)
            elif watch.busy(self._turns_again_s):
                watch.begun, watch.looks = self._begun, 0
                self._turns_again_s = min(self._turns_again_s * 2, _TURNS_AGAIN_S[1])
                self._take_turns(True)

    def _take_turns(self, alone: bool) -> None:
        self._alone, self._leader = alone, None
        self._seen = self._waited = 0
        self._turn.notify_all()

    def _wake_all(self) -> None:
        self._changed.notify_all()
        self._due.notify_all()
        self._turn.notify_all()

    def _guard(self, work: Work) -> None:
        try:
            self._serve(work)
        except BaseException as error:
            with self._changed:
                self._crash, self._stopping = error, True
                self._wake_all()

    def _serve(self, work: Work) -> None:
        """Performs one task after another until no more will come."""
        me = threading.get_native_id()
        with self._changed:
            task = self._take(work, me)
        while task is not None:
            task = self._finish(work, task, me)

    def _take(self, work: Work, me: int) -> Optional[Task]:
        """The next task, once there is one and it is this thread's turn; None when no more will come. Called under the lock."""
        while not self._stopping:
            if self._alone and self._leader != me:
                # What others have begun ends first.
                if self._leader is not None or self._in_flight:
                    self._parked += 1
                    self._turn.wait()
                    self._parked -= 1
                    continue
                self._leader = me
            task = work.next(time.perf_counter_ns())
            if task is not None:
                self._begun += 1
                self._begun_alone += self._alone
                self._in_flight += 1
                return task
            if work.finished:
                self._due.notify_all()
                self._take_turns(False)
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

    def _attempt(self, task: Task) -> int:
        """perform(), of which it is seen now and then, while it is this thread's turn, whether it waits."""
        if not self._alone or self._parked < self._others or (self._seen >= _SAMPLE and self._begun % _SAMPLE):
            return self.perform(task)
        before, began_ns = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.perf_counter_ns()
        size = self.perform(task)
        long = task.size > _SHORT_BYTES or time.perf_counter_ns() - began_ns > _SHORT_NS
        waited = long or resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw != before
        with self._changed:
            self._notice(waited)
        return size

    def _notice(self, waited: bool) -> None:
        """Counts an operation that was looked at; two that waited, among the last few, end the turns."""
        if not self._alone:
            return
        self._seen += 1
        self._waited += waited
        if self._waited > 1:
            self._take_turns(False)
        elif self._seen % _SAMPLE == 0:
            self._waited = 0
            if self._seen > _SAMPLE * _SAMPLE:
                self._turns_again_s = _TURNS_AGAIN_S[0]

    def _finish(self, work: Work, task: Task, me: int) -> Optional[Task]:
        """Makes attempts at a task until it is done or given up, and takes the next: one hold of the lock for both."""
        while True:
            try:
                size = self._attempt(task)
            except OperationFailed as failure:
                with self._changed:
                    if failure.error_class not in RETRYABLE or task.attempt >= self._retry.max_retries or self._stopping:
                        detail = f"{task.uri[:300]}: {failure.detail}"
                        self._in_flight -= 1
                        work.failed(task, time.perf_counter_ns(), failure.error_class, detail, failure.sent)
                        return self._take(work, me)
                    delay_s = retry_delay_s(self._retry, task.attempt, self._rng)
                    task.attempt += 1
                    work.retried(task, failure.error_class, failure.sent)
                    if self._alone:
                        self._take_turns(False)
                    due = time.monotonic() + delay_s
                    while not self._stopping and time.monotonic() < due:
                        self._changed.wait(due - time.monotonic())
                continue
            end_ns = time.perf_counter_ns()
            with self._changed:
                self._in_flight -= 1
                work.done(task, end_ns, size)
                return self._take(work, me)


def _is_runnable(thread: int) -> bool:
    """Whether a thread of this process uses or waits for a processor, and for nothing else."""
    try:
        with open(f"/proc/self/task/{thread}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"R"
    except OSError:
        return False


class _Watch:
    """How busy this process has been since threads last took turns."""

    def __init__(self) -> None:
        self.begun = -1
        self.looks = 0
        self.restart()

    def restart(self) -> None:
        """From now on."""
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()

    def busy(self, least_s: float) -> bool:
        """Whether `least_s` have passed, with half a processor's time or more; then it begins anew."""
        wall_s, cpu_s = time.monotonic() - self._wall_s, time.process_time() - self._cpu_s
        if wall_s < least_s:
            return False
        self.restart()
        return cpu_s * 2 > wall_s


def retry_delay_s(retry: Retry, attempt: int, rng: random.Random) -> float:
    """How long to wait before making attempt number `attempt` + 1 again: exponential, with jitter."""
    delay_s = retry.delay_s(attempt)
    return delay_s * (1 + retry.jitter * (2 * rng.random() - 1))
