"""Workload files: YAML to a validated plan."""

from __future__ import annotations

from pathlib import Path

from .compile import compile_plan
from .describe import Description, describe
from .workload import Workload, load

__all__ = ["Description", "Workload", "compile_plan", "describe", "example_path", "load"]


def example_path(name: str) -> Path:
    """The packaged workload file of that name, for example s3-mixed.yml."""
    return Path(__file__).parent.parent / "examples" / name
