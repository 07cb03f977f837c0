"""A process beside a run, for as long as the run lasts: what becomes of it does not matter to the run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from ..protocol import Json

NICE = 5
"""How far it gives way to the controller."""
SAID_BYTES = 2000


@contextlib.contextmanager
def aside(
    module: str, told: Json, say: Callable[[str], None], *, name: str, remedy: str, end_s: float, pass_fds: Sequence[int] = ()
) -> Iterator[None]:
    """Runs `python -m module` for as long as the block lasts, with what it is `told` as the first line of its standard input, whose
    end is its end; after `end_s` more it is killed. Its lines are said, and so is that it has gone too early."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=pass_fds,
            # Ctrl-C is for the controller; what is beside it ends when the run has.
            start_new_session=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        lines = child.stdout
        over = threading.Event()

        def watch() -> None:
            for line in lines:
                say(line.decode(errors="replace").rstrip())
            code = child.wait()
            if not over.is_set():
                log.seek(0)
                said = log.read()[-SAID_BYTES:].decode(errors="replace").strip().splitlines()
                say(f"sai3ssh: {name} is gone ({said[-1] if said else f'exit code {code}'}); the run goes on. {remedy}")

        watcher = threading.Thread(target=watch, name=module, daemon=True)
        try:
            with contextlib.suppress(BrokenPipeError):
                # Not on the command line: that everybody can read.
                child.stdin.write(json.dumps(told).encode() + b"\n")
                child.stdin.flush()
            watcher.start()
            yield
        finally:
            over.set()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            try:
                child.wait(end_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            watcher.join(end_s)
            lines.close()


def give_way() -> None:
    """Lowers the priority of this process: the controller's comes first."""
    with contextlib.suppress(OSError):
        os.nice(NICE)


def until_closed(stream: TextIO) -> None:
    """Returns when the other end of a pipe is closed, which it also is when its process is killed."""
    # Not by the stream itself, which the interpreter could not close when a signal ends it.
    while os.read(stream.fileno(), 1):
        pass
