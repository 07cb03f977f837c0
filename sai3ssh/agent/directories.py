"""The directories that a worker makes and removes in an execute stage."""

from __future__ import annotations

from collections import deque
from typing import Any, Deque, Dict, List, Optional, Tuple

from sai3ssh.agent.engines.base import MKDIR, RMDIR, Root, Task, TreeTask


class Directories:
    """What one worker makes below one target, numbered from 0, and what of it is there. Keys end in '/'."""

    def __init__(self, target: str, root: Root, key_format: str) -> None:
        self.grow = False
        """Whether mkdir is in the mix of this worker."""
        self.count = 0
        """Names that were used."""
        self.failed: List[int] = []
        """Numbers of those that could not be made, as far as the target said."""
        self._target = target
        self._root = root
        self._key_format = key_format
        self._there: Deque[int] = deque()
        self._removed = Runs()

    def __bool__(self) -> bool:
        return bool(self._there)

    def new(self, start_ns: int) -> Task:
        """The task that makes the next one."""
        index = self.count
        self.count += 1
        return self._task(Task, MKDIR, index, start_ns)

    def oldest(self, start_ns: int, *, recursive: bool) -> Task:
        """The task that removes the oldest of those that are there: each is asked for once, and there must be one."""
        return self._task(TreeTask if recursive else Task, RMDIR, self._there.popleft(), start_ns)

    def _task(self, kind: Any, op: int, index: int, start_ns: int) -> Task:
        task: Task = kind(op, self._root, self._key_format % index, -1, index, None, start_ns, self._target)
        return task

    def done(self, task: Task) -> None:
        """A task has succeeded."""
        if task.op == MKDIR:
            self._there.append(task.index)
        else:
            self._removed.add(task.index)

    def made(self) -> Dict[str, Any]:
        """As in the journal: {target, key_format, count, failed, removed}; those that failed may be there all the same."""
        made = {"target": self._target, "key_format": self._key_format, "count": self.count, "failed": self.failed}
        return {**made, "removed": self._removed.ranges(), "unsure": bool(self.failed)}


class Removals:
    """Makes the tasks of a rmdir."""

    def __init__(self, directories: Directories, recursive: bool) -> None:
        self._directories = directories
        self._recursive = recursive

    def __call__(self, start_ns: int) -> Optional[Task]:
        """The next task, or None when there is no directory, now or ever (see waits)."""
        return self._directories.oldest(start_ns, recursive=self._recursive) if self._directories else None

    @property
    def waits(self) -> bool:
        """Whether it has no task only now: mkdir makes more."""
        return self._directories.grow and not self._directories


class Runs:
    """A set of integers that takes little memory when they come nearly in order."""

    def __init__(self) -> None:
        self._ends: Dict[int, int] = {}
        self._begins: Dict[int, int] = {}

    def add(self, number: int) -> None:
        """Adds a number that is not in it."""
        begin, end = self._begins.pop(number, number), self._ends.pop(number + 1, number + 1)
        self._ends[begin], self._begins[end] = end, begin

    def ranges(self) -> List[Tuple[int, int]]:
        """All of it as half-open ranges, in order."""
        return sorted(self._ends.items())
