"""What is wrong with a matrix as a whole."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import ConfigError
from ..model import Host, StageKind, to_json
from .compile import compile_plan
from .workload import Combination


def check_matrix(combinations: Sequence[Combination], hosts: Sequence[Host], failure_policy: str | None = None) -> None:
    """Compiles every combination of a matrix, so that what is wrong with one is known before anything begins.

    Raises ConfigError as compile_plan does, and where two are the same plan, or objects of one would be taken for those of another.
    """
    before: dict[str, dict[str, str]] = {}
    populations = set()
    for combination in combinations:
        plan, _ = compile_plan(combination.workload, "r", hosts, failure_policy=failure_policy)
        populations.add(plan.populations)
        other = before.setdefault(json.dumps(to_json(plan)), combination.values)
        if other is not combination.values:
            differs = [axis for axis, value in combination.values.items() if other[axis] != value]
            where = combination.workload.document
            line = where.where(("matrix", differs[0]))[0]
            text = f"matrix.{differs[0]}: {other[differs[0]]} and {combination.values[differs[0]]} make the same run"
            raise ConfigError(text, file=where.file, line=line, remedy="Is the key set in a stage or an operation, too?")
        last = plan.stages[-1] if plan.stages else None
        if len(populations) > 1 and (last is None or last.kind is not StageKind.CLEANUP):
            where = combination.workload.document
            text = "the combinations of this matrix prepare different objects under the same names, and nothing deletes them in between"
            raise ConfigError(text, file=where.file, line=where.where(("matrix",))[0], remedy="Add `cleanup: true` to prepare")
