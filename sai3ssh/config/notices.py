"""What a workload file says that has no effect here, or another one than in sai3-bench."""

from __future__ import annotations

from collections.abc import Iterator

from .document import Path_
from .schema import Prepare, WorkloadKeys


def taken_as_there(prepare: Prepare) -> bool:
    """Whether prepare stages are left out because the objects are said to be there."""
    return prepare.skip_verification and not prepare.force_overwrite


def notices(keys: WorkloadKeys) -> Iterator[tuple[Path_, str]]:
    """Each with the place that it is about."""
    yield from _prepare(keys.prepare)


def _prepare(prepare: Prepare) -> Iterator[tuple[Path_, str]]:
    given = prepare.model_fields_set
    if taken_as_there(prepare) and not prepare.cleanup_only:
        text = "skip_verification: the objects are taken as there, and no stage prepares them (force_overwrite: true writes all)"
        yield ("prepare", "skip_verification"), text
    if "force_overwrite" in given and not prepare.force_overwrite and not prepare.skip_verification:
        text = "force_overwrite has no effect: prepare puts every object in any case; skip_verification: true takes them as there"
        yield ("prepare", "force_overwrite"), text
    if prepare.cleanup_only:
        text = "cleanup_only: objects of ensure_objects are removed and nothing else is done; what puts of an earlier run made stays"
        yield ("prepare", "cleanup_only"), text
