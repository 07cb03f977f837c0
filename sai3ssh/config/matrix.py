"""`matrix` of a workload file: every combination of some values of its keys, each a workload of its own."""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from .document import Document, Path_, Problems
from .schema import WorkloadKeys

MOST = 1000
"""So many combinations at most."""
SIZE = "size"
"""The name for the sizes of all objects, prepared and put."""
_SIZES = ("size_spec", "object_size", "min_size", "max_size")


def expand(document: Document, problems: Problems) -> list[tuple[dict[str, str], Document]]:
    """The combinations of a file in the order of its matrix, the first key varying slowest: what each has, as it is written, and the
    document with it. One combination without values where there is no matrix. Adds what is wrong to problems."""
    if "matrix" not in document.data:
        return [({}, document)]
    axes = document.data.pop("matrix")
    if not isinstance(axes, dict) or not axes:
        problems.add(("matrix",), "matrix: expected keys with lists of values, for example matrix: {concurrency: [8, 32]}")
        return [({}, document)]
    lists = {axis: list(_values(axis, values, document, problems)) for axis, values in axes.items()}
    count = 1
    for values in lists.values():
        count *= max(1, len(values))
    if count > MOST:
        problems.add(("matrix",), f"matrix: {count:,} combinations, expected at most {MOST:,}; take out values")
    if not all(lists.values()) or count > MOST:
        return [({}, document)]
    found = []
    for chosen in itertools.product(*(enumerate(values) for values in lists.values())):
        given = {axis: value for axis, (_, value) in zip(lists, chosen, strict=True)}
        # What is wrong with a value is told where it stands.
        where: dict[str, Path_] = {axis: ("matrix", axis, number) for axis, (number, _) in zip(lists, chosen, strict=True)}
        found.append(({axis: _shown(value) for axis, value in given.items()}, vary(document, given, where)))
    return found


def vary(document: Document, values: Mapping[str, Any], where: Mapping[str, Path_]) -> Document:
    """The document with other values of some keys; `where` says for which of them the place of another value is to be named."""
    data, marks, variables = copy.deepcopy(document.data), dict(document.marks), dict(document.variables)
    for axis, value in values.items():
        for path in _paths(axis, data):
            if axis == SIZE:
                _drop_sizes(data, path)
            _set(data, path, value)
            variables.pop(path, None)
            if axis in where:
                marks[path] = document.where(where[axis])
                for depth in range(1, len(path)):
                    marks.setdefault(path[:depth], marks[path])
                if where[axis] in variables:
                    variables[path] = variables[where[axis]]
    return Document(document.file, data, marks, variables, document.secrets, document.text)


def wrong_axis(axis: str, document: Document) -> str | None:
    """Why a name is none of a key whose value can be varied, or None."""
    return _wrong(axis, document.data)


def _values(axis: str, values: Any, document: Document, problems: Problems) -> Iterator[Any]:
    where: Path_ = ("matrix", axis)
    if not isinstance(values, list) or not values:
        problems.add(where, f"matrix.{axis}: expected a list of values, found {_shown(values)[:60]}")
        return
    wrong = _wrong(axis, document.data)
    if wrong:
        problems.add(where, f"matrix.{axis}: {wrong}")
        return
    if len(values) > MOST:
        problems.add(where, f"matrix.{axis}: {len(values):,} values, expected at most {MOST:,} combinations; take out values")
        return
    shown: set[str] = set()
    for number, value in enumerate(values):
        if _shown(value) in shown:
            problems.add((*where, number), f"matrix.{axis}: {_shown(value)} is given twice")
            return
        shown.add(_shown(value))
    yield from values


def _wrong(axis: str, data: Any) -> str | None:
    """Why an axis names no place in the file, or None."""
    if axis == SIZE:
        return None if _paths(axis, data) else "there is nothing that has a size: neither prepare.ensure_objects nor a put"
    first = axis.partition(".")[0]
    known = [SIZE, *(name for name in WorkloadKeys.model_fields if name != "matrix")]
    if first not in known:
        near = difflib.get_close_matches(first, known, 1, 0.5)
        return f"there is no key {first!r}; " + (f"did you mean {near[0]!r}?" if near else "write one of the file's, or such as s3.region")
    if first == "name":
        return "a name does nothing; vary what the load is"
    place = data
    for part in _path(axis):
        if isinstance(place, list):
            fits = isinstance(part, int) and part < len(place)
        else:
            fits = isinstance(place, dict | None) and isinstance(part, str)
        if not fits:
            return f"there is no such place in the file ({part!r})"
        place = (place or {}).get(part) if isinstance(place, dict | None) else place[int(part)]
    return None


def _path(axis: str) -> Path_:
    return tuple(int(part) if part.isdigit() else part for part in axis.split("."))


def _paths(axis: str, data: Any) -> list[Path_]:
    if axis != SIZE:
        return [_path(axis)]
    prepare, mix = data.get("prepare"), data.get("workload")
    entries = prepare.get("ensure_objects") if isinstance(prepare, dict) else None
    found: list[Path_] = [("prepare", "ensure_objects", n, "size_spec") for n in range(len(entries) if isinstance(entries, list) else 0)]
    for n, operation in enumerate(mix if isinstance(mix, list) else []):
        if isinstance(operation, dict) and operation.get("op") == "put":
            found.append(("workload", n, "size_spec"))
    return found


def _drop_sizes(data: Any, path: Path_) -> None:
    for part in path[:-1]:
        data = data[part]
    for name in _SIZES if isinstance(data, dict) else ():
        data.pop(name, None)


def _set(data: Any, path: Path_, value: Any) -> None:
    for part in path[:-1]:
        if isinstance(data, dict) and data.get(part) is None:
            data[part] = {}
        data = data[part]
    data[path[-1]] = value


def _shown(value: Any) -> str:
    """As a person would write it, in one line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1 << 20).removesuffix("\n...\n").strip()
