"""The file engine for a tree that is mounted several times."""

from __future__ import annotations

import random
from typing import Any, Callable, Dict, Optional, cast

from sai3ssh.agent.engines.base import Root, Task, Work
from sai3ssh.agent.engines.file import FileEngine
from sai3ssh.agent.engines.spread import Chooser, SpreadRoot, mapped, watched
from sai3ssh.errors import TargetError
from sai3ssh.model import Retry, Spread, Target


class FileSpreadEngine(FileEngine):
    """Performs operations on files through several mount points that show the same tree."""

    def __init__(self, target: Target, retry: Retry, rng: Optional[random.Random], spread: Spread, offset: int = 0) -> None:
        super().__init__(retry, rng, target.verify_reads, fsync=target.fsync, page_cache=target.page_cache)
        self._endpoints = target.endpoints
        self._positions = spread.positions
        self._spread: Dict[str, SpreadRoot] = {}
        self._chooser = Chooser(spread, offset)

    def root(self, uri: str) -> Root:
        """The prepared form of file:///directory/ below one of the endpoints; raises TargetError on another form."""
        if uri not in self._spread:
            at: Dict[int, Any] = {}
            for position in self._positions:
                try:
                    at[position] = super().root(mapped(uri, self._endpoints, position))
                except ValueError as error:
                    raise TargetError(str(error), remedy="Correct multi_endpoint, or the target") from error
                at[position].index = position
            self._spread[uri] = SpreadRoot(uri, at)
        return self._spread[uri]

    def remove_if_empty(self, root: Root, directory: str) -> str:
        """See FileEngine; all endpoints show the same tree."""
        at = cast(SpreadRoot, root).at
        return super().remove_if_empty(at[self._positions[0]], directory)

    def run(
        self,
        work: Work,
        concurrency: int,
        control_fd: Optional[int] = None,
        on_control: Callable[[], None] = lambda: None,
    ) -> None:
        """See base.Engine."""
        super().run(watched(work, self._chooser), concurrency, control_fd, on_control)

    def _take(self, work: Work, me: int) -> Optional[Task]:
        task = super()._take(work, me)
        if task is not None:
            task.endpoint = self._chooser.choose()
            task.root = task.root.at[task.endpoint]
        return task
