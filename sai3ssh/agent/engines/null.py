"""The native S3 engine against a server that keeps nothing, on this host: what is measured is what the agent itself can do at most."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import signal
from dataclasses import replace
from typing import Optional

from sai3ssh.agent.engines.s3 import S3Engine
from sai3ssh.agent.engines.sigv4 import Credentials
from sai3ssh.agent.nullserver import NullServer
from sai3ssh.model import Deadlines, Retry, Target


class NullEngine(S3Engine):
    """Performs operations on a server of its own: a child process that listens on 127.0.0.1 only, and ends with this process."""

    def __init__(self, target: Target, deadlines: Deadlines, retry: Retry, rng: Optional[random.Random] = None) -> None:
        server = NullServer()
        super().__init__(
            replace(target, engine="s3", endpoint_url=server.url, path_style=True), Credentials("null", "null"), deadlines, retry, rng
        )
        parent = os.getpid()
        child = os.fork()
        if child:
            atexit.register(_end, child)
            server.close()
            return
        try:
            # The supervisor waits for the end of its worker's pipes.
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            server.serve(lambda: os.getppid() == parent)
        finally:
            os._exit(1)


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
