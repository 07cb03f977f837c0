"""Workload files: YAML to a validated plan."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from . import units
from .combinations import check_matrix
from .compile import compile_plan
from .describe import Description, describe
from .matrix import wrong_axis
from .replay import replay_settings, replay_stage, replaying
from .workload import Combination, Workload, load, load_all, varied

__all__ = [
    "Combination",
    "Description",
    "Workload",
    "check_matrix",
    "compile_plan",
    "describe",
    "example_path",
    "load",
    "load_all",
    "replay_settings",
    "replay_stage",
    "replaying",
    "seconds",
    "sizes",
    "varied",
    "wrong_axis",
]


def seconds(text: str, option: str) -> float:
    """The seconds that an option such as 30s or 5m means. Raises ConfigError."""
    try:
        return units.duration(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}", remedy="Write it as 30s or 5m") from error


def sizes(text: str, option: str) -> list[int]:
    """The bytes that an option such as 4KiB,8MiB means. Raises ConfigError."""
    try:
        return [units.size(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option}: {error}", remedy="Write it as 4KiB,8MiB") from error


def example_path(name: str) -> Path:
    """The packaged workload file of that name, for example s3-mixed.yml."""
    return Path(__file__).parent.parent / "examples" / name
