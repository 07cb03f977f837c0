"""Operations that are more than an operation code and a key."""

from __future__ import annotations

from typing import Dict, List, Tuple

from sai3ssh.agent.engines.base import COPY, DELETE, Root, Task


class CopyTask(Task):
    """Makes the object `key` below root of another one, of which the size is known, without its bytes leaving the storage."""

    __slots__ = ("source",)

    def __init__(self, root: Root, key: str, index: int, source: Task, owner: str) -> None:
        """`source` names the object to copy, with its size, and has the start; `index` and `owner` are of the new object."""
        super().__init__(COPY, root, key, source.size, index, None, source.start_ns, owner)
        self.source = source


class LevelTask(Task):
    """Lists one level: the objects and the directories right below a prefix, each of which is one entry."""

    __slots__ = ()
    delimiter = "/"


class DeleteBatch(Task):
    """Removes up to 1,000 objects below one root with one request.

    It ends as one task: with failed() when the request came to nothing, else with done(), and then `refused` has what the storage would
    not remove. No bytes are moved. Only the native S3 engine performs it.
    """

    __slots__ = ("refused", "tasks")

    def __init__(self, tasks: List[Task]) -> None:
        """`tasks` are those of the objects, at least one, all with the same root and start."""
        first = tasks[0]
        super().__init__(DELETE, first.root, first.key, -1, first.index, None, first.start_ns, first.owner)
        self.tasks = tasks
        self.refused: Dict[Task, Tuple[str, str]] = {}
        """Error class and detail of each that was not removed."""

    @property
    def named(self) -> str:
        """What it is about, for messages."""
        return f"of {len(self.tasks):,} objects, the first {self.uri[:300]}"


SPECIAL = (CopyTask, DeleteBatch)
"""What engines find by its class."""
