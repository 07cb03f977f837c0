"""Works that delete many objects with one request.

Each object is an operation of its own: it has a result, and a latency, which is that of its request. So operations are objects deleted and
requests are what was sent; concurrency, weights and io_rate count requests. The first object that was deleted, or else the first that was
not, stands for the request.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from sai3ssh.agent.engines.base import Task
from sai3ssh.agent.engines.tasks import DeleteBatch
from sai3ssh.agent.mix import Maker, MixWork
from sai3ssh.agent.work import Fatal, IndexWork, Recorder
from sai3ssh.model import OperationSpec

_UNKNOWN = ("http_400", "http_404", "http_4xx", "http_5xx", "http_3xx")
"""How servers refuse a kind of request that they do not know."""


def filled(make: Maker, now_ns: int, size: int) -> Optional[DeleteBatch]:
    """At most `size` of the tasks that `make` has now, all below the root of the first; None when it has none."""
    tasks: List[Task] = []
    while len(tasks) < size:
        task = make(now_ns)
        if task is None:
            break
        tasks.append(task)
    return DeleteBatch(tasks) if tasks else None


def split(
    batch: DeleteBatch,
    recorder: Recorder,
    end_ns: int,
    done: Callable[[Task, int, int], None],
    failed: Callable[[Task, int, str, str, bool], None],
) -> None:
    """Reports each object of a batch whose request was answered: those that were deleted first, since a failure may end the stage."""
    first = True
    for one in batch.tasks:
        if one not in batch.refused:
            done(one, end_ns, 0)
            if not first:
                recorder.shared(one)
            first = False
    for one, (error_class, detail) in batch.refused.items():
        failed(one, end_ns, error_class, detail, first)
        first = False


class BatchedIndexWork(IndexWork):
    """A cleanup that deletes up to `batch` objects with one request. What a server would not delete goes back to the queue."""

    def __init__(self, *arguments: Any, batch: int, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._batch = batch
        self._kept: Optional[Task] = None
        """Of another root than those before it."""
        self._pauses: Dict[int, int] = {}

    def next(self, now_ns: int) -> Optional[Task]:
        """The next objects to delete, as a DeleteBatch; see IndexWork."""
        kept, self._kept = self._kept, None
        first = kept if kept is not None and not self.stopped else super().next(now_ns)
        if first is None:
            return None
        first.start_ns = now_ns
        following = super().next

        def make(now_ns: int) -> Optional[Task]:
            task = following(now_ns)
            if task is not None and task.root is not first.root:
                self._kept, task = task, None
            return task

        rest = filled(make, now_ns, self._batch - 1)
        return DeleteBatch([first, *(rest.tasks if rest is not None else [])])

    def done(self, task: Task, end_ns: int, size: int) -> None:  # noqa: ARG002
        """The request was answered."""
        assert isinstance(task, DeleteBatch)
        self._pauses.clear()
        split(task, self._recorder, end_ns, super().done, super().failed)

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        """The request came to nothing: its objects go back to the queue, or the stage ends with Fatal."""
        assert isinstance(task, DeleteBatch)
        if error_class in _UNKNOWN:
            self._recorder.failed(task, error_class, sent)
            # Also where no error is to end the stage: with a request that the server does not know nothing would be deleted.
            raise Fatal(f"{detail} ({error_class}) on {self._target}; if it cannot delete several objects at once, set delete_batch: 1")
        self._pauses.clear()
        for one in task.tasks:
            super().failed(one, end_ns, error_class, detail, sent)
            sent = False

    def _pause_ns(self, tries: int) -> int:
        """The same for all objects of a batch, so that they come back together."""
        return self._pauses.setdefault(tries, super()._pause_ns(tries))


class BatchedMixWork(MixWork):
    """A mix in which deletes take up to OperationSpec.delete_batch objects at once.

    An object that was not deleted is an error. A request that failed is an error for each of its objects, but one only as to error limits.
    """

    _splitting = False

    def _delete_maker(self, spec: OperationSpec, make: Maker) -> Maker:
        return (lambda now_ns: filled(make, now_ns, spec.delete_batch)) if spec.delete_batch > 1 else make

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """Counts a success."""
        if not isinstance(task, DeleteBatch):
            super().done(task, end_ns, size)
            return
        self._splitting = True
        split(task, self._recorder, end_ns, super().done, super().failed)
        self._splitting = False
        self._ended(task, end_ns)

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        """Counts an error; raises Fatal beyond the error limits."""
        if isinstance(task, DeleteBatch):
            for one in task.tasks[1:]:
                self._recorder.failed(one, error_class, sent=False)
        super().failed(task, end_ns, error_class, detail, sent)

    def _ended(self, task: Task, end_ns: int) -> None:
        if not self._splitting:
            super()._ended(task, end_ns)
