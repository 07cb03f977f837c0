"""The work of a verify stage: every object is read, and what cannot be read back is told by name."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from sai3ssh.agent import metrics
from sai3ssh.agent.engines.base import GET, Task
from sai3ssh.agent.work import TRIES, IndexWork

LISTED = 1000
"""So many objects of an agent and stage are told by name; all are counted."""
_MISSING = ("not_found", "http_404")


class VerifyWork(IndexWork):
    """GET of each index of some populations, compared with what was written.

    An object that is missing or wrong, or fails again and again while others can be read, is counted as an error by class and told by
    take_unreadable. Of `unsure` populations, from which objects are deleted, none is missing. All else is as in IndexWork.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(GET, *arguments, **keywords)
        self._unreadable: Dict[str, Dict[str, Any]] = {}
        self._listed = 0
        self._answered = False
        """Whether an object could be read, or the target said what is wrong with one."""
        self._first_failed_ns: Dict[Tuple[str, int], int] = {}

    def done(self, task: Task, end_ns: int, size: int) -> None:
        """The object is as it was written."""
        self._answered = True
        super().done(task, end_ns, size)
        if self._first_failed_ns:
            self._first_failed_ns.pop((task.owner, task.index), None)

    def failed(self, task: Task, end_ns: int, error_class: str, detail: str, sent: bool) -> None:
        """The object cannot be read back, or goes back to the queue, or the stage ends with Fatal."""
        missing = error_class in _MISSING
        if not missing and error_class != "verify" and not self._hopeless(task, end_ns, error_class):
            super().failed(task, end_ns, error_class, detail, sent)
            return
        if missing and task.owner in self._unsure:
            self._recorder.page(task)
        else:
            self._recorder.failed(task, error_class, sent)
            self._note(task, error_class, detail)
        self._recorder.cells[metrics.NOT_FOUND] += 1
        self._first_failed_ns.pop((task.owner, task.index), None)
        if missing or error_class == "verify":
            # The target has answered: there is no outage.
            self._last_success_ns = end_ns
            self._answered = True
        self._complete(task)

    def _hopeless(self, task: Task, end_ns: int, error_class: str) -> bool:
        key = task.owner, task.index
        first_ns = self._first_failed_ns.setdefault(key, end_ns)
        if self._tries.get(key, 0) + 1 < TRIES:
            return False
        # When nothing else is left no other object can tell. It answers, and it has answered well: so it is there.
        alone = self._answered and self._left == len(self._first_failed_ns) and error_class.startswith("http_")
        return self._last_success_ns > first_ns or alone

    def _note(self, task: Task, error_class: str, detail: str) -> None:
        told = self._unreadable.setdefault(task.owner, {"count": 0, "errors": {}, "objects": []})
        told["count"] += 1
        told["errors"][error_class] = told["errors"].get(error_class, 0) + 1
        if self._listed < LISTED:
            self._listed += 1
            objects: List[Dict[str, str]] = told["objects"]
            objects.append({"object": task.uri, "error": error_class, "detail": detail[:300]})

    def take_unreadable(self) -> Dict[str, Dict[str, Any]]:
        """By population, of what take_finished tells next: {count, errors {class: n}, objects [{object, error, detail}]}."""
        result, self._unreadable = self._unreadable, {}
        return result
