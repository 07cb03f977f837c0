"""sai3ssh: a distributed storage benchmark that the network cannot kill.

From other programs: `sai3ssh.run` does a run, `sai3ssh.results.load` gives its results as frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import run as run


def __getattr__(name: str) -> object:
    # Hosts have this file and not that module.
    if name == "run":
        from .api import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
