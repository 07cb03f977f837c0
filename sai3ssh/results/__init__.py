"""Results of a run.

`write` makes a run directory's results from its plan, events and mirrors; `load` gives them as pandas DataFrames:

    run = sai3ssh.results.load("sai3ssh-runs/mixed-20260101T120000Z-ab12")
    run.operations.query("stage == 'execute'")[["operation", "ops_per_s", "p99_us"]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .files import Results, json_lines, read, write
from .summary import Summary, summary

__all__ = ["Results", "Summary", "json_lines", "load", "read", "summary", "write"]


if TYPE_CHECKING:
    from .frames import load


def __getattr__(name: str) -> object:
    # pandas takes half a second to import; only load needs it.
    if name == "load":
        from .frames import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
