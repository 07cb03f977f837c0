"""The native S3 engine for a storage with several addresses. An engine for one does not come by here at all."""

from __future__ import annotations

import dataclasses
import random
from typing import Callable, Dict, Iterable, List, Optional

from sai3ssh.agent.engines.base import LIST, Root, Task, Work
from sai3ssh.agent.engines.endpoint import Endpoint, EndpointMap, S3Root
from sai3ssh.agent.engines.parts import Part
from sai3ssh.agent.engines.s3 import NEVER, S3Engine
from sai3ssh.agent.engines.s3_errors import Refusal
from sai3ssh.agent.engines.s3_parts import S3PartsEngine
from sai3ssh.agent.engines.sigv4 import Credentials
from sai3ssh.agent.engines.spread import Chooser, SpreadRoot, watched
from sai3ssh.model import OPERATIONS, Deadlines, Retry, Spread, Target


class S3SpreadEngine(S3Engine):
    """Performs operations at several endpoints that show the same buckets.

    Each operation goes to one endpoint, all its pages and parts included. An attempt that is made again goes to the next, except for a
    later page of a LIST: what a token means is the endpoint's affair. An operation in parts counts where it began, but an attempt that
    failed counts where it failed.
    """

    def __init__(
        self,
        target: Target,
        credentials: Credentials,
        deadlines: Deadlines,
        retry: Retry,
        rng: Optional[random.Random] = None,
        *,
        spread: Spread,
        offset: int = 0,
    ) -> None:
        """Raises TargetError when the target cannot be used as it is written. `offset`: see Chooser."""
        first, *others = (dataclasses.replace(target, endpoint_url=target.endpoints[position]) for position in spread.positions)
        super().__init__(first, credentials, deadlines, retry, rng)
        maps = [self._map, *(EndpointMap(other, credentials) for other in others)]
        self._maps: Dict[int, EndpointMap] = dict(zip(spread.positions, maps))
        self._spread: Dict[str, SpreadRoot] = {}
        self._chooser = Chooser(spread, offset)
        # Each endpoint may have had all operations at some moment, and keeps their connections.
        self._requests_at_once *= len(maps)

    def root(self, uri: str) -> Root:
        """The prepared form of s3://bucket/prefix; raises TargetError on another form."""
        if uri not in self._spread:
            at = {}
            for position, where in self._maps.items():
                at[position] = where.root(uri)
                at[position].index = position
            self._spread[uri] = SpreadRoot(uri, at)
        return self._spread[uri]

    def check(self, write: bool = False) -> None:
        """See base.Engine; every endpoint is asked."""
        for position in self._maps:
            self._check_roots([root.at[position] for root in self._spread.values()], write)

    def run(
        self,
        work: Work,
        concurrency: int,
        control_fd: Optional[int] = None,
        on_control: Callable[[], None] = lambda: None,
    ) -> None:
        """See base.Engine."""
        super().run(watched(work, self._chooser), concurrency, control_fd, on_control)

    def _short_sizes(self) -> List[int]:
        # The next operation mostly goes to another endpoint.
        return [NEVER] * len(OPERATIONS)

    def _begin(self, task: Task, now: int) -> None:
        root = task.root
        if root.__class__ is SpreadRoot:
            task.endpoint = position = self._chooser.choose()
            task.root = root.at[position]
        super()._begin(task, now)

    def _fail(self, task: Task, found: Refusal, sent: bool) -> None:
        attempt, whole = task.attempt, task.whole
        counted = whole.endpoint
        whole.endpoint = task.root.index
        super()._fail(task, found, sent)
        whole.endpoint = counted
        if task.attempt != attempt and not (task.op == LIST and task.state is not None):
            self._move_on(task)

    def _move_on(self, task: Task) -> None:
        before: S3Root = task.root
        position = self._chooser.after(before.index)
        task.root = self._spread[before.uri].at[position]
        if not isinstance(task, Part):
            task.endpoint = position
            self._chooser.moved(before.index, position)

    def _give_up(self, task: Task, found: Refusal, sent: bool) -> None:
        super()._give_up(task, found._replace(detail=f"{found.detail} (at {task.root.endpoint.url})"), sent)

    def _endpoints(self) -> List[Endpoint]:
        return [endpoint for where in self._maps.values() for endpoint in where.endpoints.values()]

    def _elsewhere(self, root: S3Root, region: str) -> Endpoint:
        return self._maps[root.index].elsewhere(root, region)

    def _beside(self, root: S3Root) -> Iterable[S3Root]:
        return [other.at[root.index] for other in self._spread.values()]


class S3SpreadPartsEngine(S3SpreadEngine, S3PartsEngine):
    """The same with large objects in parts."""
