"""Reading and checking a workload file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from . import document as documents
from . import units
from .cloud import check_cloud_uri
from .document import Document, Path_, Problems
from .matrix import expand, vary
from .schema import NO_MEANING, NOT_YET, PATTERNS, SECRET, WorkloadKeys

_NO_OP_LOG = "op_log_max_bytes has no effect without op_log_path (or --op-log)"
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")


@dataclass(frozen=True)
class Workload:
    """A checked workload file."""

    file: str
    keys: WorkloadKeys
    notices: tuple[str, ...]
    document: Document

    @property
    def name(self) -> str:
        """Name of its runs."""
        return self.keys.name

    @property
    def start_delay_s(self) -> float:
        """From ARM to the start of a stage."""
        return self.keys.distributed.start_delay

    @property
    def ready_timeout_s(self) -> float:
        """From submit to READY."""
        return self.keys.distributed.agent_ready_timeout

    @property
    def cutoff_timeout_s(self) -> float:
        """How long the controller may be off the network altogether."""
        return self.keys.distributed.controller_cutoff_timeout

    def with_op_log(self) -> Workload:
        """The same with the op-log switched on, whatever the file says."""
        self.keys.op_log_path = self.keys.op_log_path or "--op-log"
        return replace(self, notices=tuple(notice for notice in self.notices if not notice.endswith(_NO_OP_LOG)))


@dataclass(frozen=True)
class Combination:
    """A workload of a matrix: by key of the matrix, the value it has, as it is written. Without a matrix there are none."""

    values: dict[str, str]
    workload: Workload


def load(file: Path, environ: Mapping[str, str] = os.environ) -> Workload:
    """Reads and checks one file; of a matrix, its first combination. Raises ConfigError that names every problem with file, line and
    column."""
    return load_all(file, environ)[0].workload


def load_all(file: Path, environ: Mapping[str, str] = os.environ) -> list[Combination]:
    """Reads and checks one file: all combinations of its matrix, one when it has none. Raises ConfigError as load does."""
    found = documents.read(file, environ)
    problems = Problems(found)
    combinations = expand(found, problems)
    if len(combinations) > 1:
        problems.raise_if_any()
    return [Combination(values, _check(file, document, problems)) for values, document in combinations]


def varied(workload: Workload, values: Mapping[str, Any]) -> Workload:
    """The workload with other values of some keys, which are named as in a matrix. Raises ConfigError as load does."""
    document = vary(workload.document, values, {})
    return _check(Path(workload.file), document, Problems(document))


def _check(file: Path, found: Document, earlier: Problems) -> Workload:
    problems = Problems(found, earlier)
    notices: list[str] = []
    data = _sift(found.data, (), problems, notices)
    keys = None
    try:
        keys = WorkloadKeys.model_validate(data)
    except ValidationError as error:
        for item in error.errors():
            path = _path(item["loc"], found)
            problems.add(path, _message(item, path))
    problems.raise_if_any()
    assert keys is not None
    distributed = keys.distributed
    if distributed.partition_overlap is not None and distributed.path_selection in ("random", "exclusive"):
        line = problems.line(("distributed", "partition_overlap"))
        notices.append(f"line {line}: partition_overlap has no effect with path_selection {distributed.path_selection}")
    if keys.op_log_path:
        line = problems.line(("op_log_path",))
        notices.append(f"line {line}: op_log_path: the op-logs are agents/<id>/oplog.tsv.zst of the run directory, not {keys.op_log_path}")
    elif "op_log_max_bytes" in keys.model_fields_set:
        notices.append(f"line {problems.line(('op_log_max_bytes',))}: {_NO_OP_LOG}")
    stages = keys.stages or distributed.stages
    if stages and keys.prepare.ensure_objects and all(stage.type != "prepare" for stage in stages):
        line = problems.line(("prepare", "ensure_objects"))
        notices.append(f"line {line}: no stage is of type prepare: the objects of ensure_objects must be there already")
    return Workload(str(file), keys, tuple(notices), found)


def _sift(value: Any, path: Path_, problems: Problems, notices: list[str]) -> Any:
    """Takes out keys that have no meaning here, and reports those that must not pass silently."""
    if isinstance(value, list):
        return [_sift(item, (*path, n), problems, notices) for n, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        below = (*path, key)
        if key.lower() in SECRET:
            problems.add(
                below,
                f"{key}: no secrets in workload files; use the environment (AWS_ACCESS_KEY_ID, AZURE_STORAGE_KEY, "
                "GOOGLE_APPLICATION_CREDENTIALS ...), s3.profile or s3.credentials_file",
            )
        elif key in NO_MEANING:
            notices.append(f"line {problems.line(below)}: {key} has no effect: {NO_MEANING[key]}")
        elif key in NOT_YET:
            problems.add(below, f"{key}: a key of sai3-bench that is not supported yet; remove it")
        else:
            result[key] = _sift(item, below, problems, notices)
    return result


def _path(location: tuple[str | int, ...], found: Document) -> Path_:
    """The part of pydantic's location that is a path of the document: names of validators are not."""
    path: Path_ = ()
    for part in location:
        if (*path, part) in found.marks:
            path = (*path, part)
        elif (*path, "config", part) in found.marks:
            path = (*path, "config", part)
    return path


def _message(item: Any, path: Path_) -> str:
    name = ".".join(str(part) for part in path) or "the file"
    kind, location = item["type"], item["loc"]
    if kind == "extra_forbidden":
        known = list(_keys_at(location[:-1]))
        near = difflib.get_close_matches(str(location[-1]), known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"unknown key {location[-1]!r}; {hint}"
    if kind == "missing":
        return f"{name}: the key {location[-1]!r} is missing"
    found = f", found {units.shown(item['input'])}"
    if kind == "literal_error":
        return f"{name}: expected {item['ctx']['expected']}{found}"
    if kind == "value_error":
        return f"{name}: {item['msg'].removeprefix('Value error, ')}"
    if kind == "model_type":
        return f"{name}: expected a mapping of keys ({', '.join(sorted(_keys_at(location)))}){found}"
    if kind == "list_type":
        return f"{name}: expected a list, with a - before each entry{found}"
    if kind == "string_type":
        return f"{name}: expected text{found}" + ("" if item["input"] is None else "; put it in quotes")
    if kind == "string_pattern_mismatch":
        return f"{name}: expected {PATTERNS[item['ctx']['pattern']]}{found}"
    return f"{name}: {item['msg']}{found}"


def _keys_at(location: tuple[str | int, ...]) -> Iterator[str]:
    model: type[BaseModel] | None = WorkloadKeys
    for part in location:
        if isinstance(part, str) and model is not None and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    yield from model.model_fields if model is not None else ()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner)) is not None), None)


def check_uri(uri: str) -> str | None:
    """What is wrong with a target URI, or None."""
    scheme, mark, rest = uri.partition("://")
    if any(ord(character) < 32 for character in uri):
        return f"a path has no control characters, found {uri!r}"
    if not mark:
        remedy = f"; write file://{uri}" if uri.startswith("/") else ""
        return f"expected a URI such as s3://bucket/prefix/ or file:///path/, found {uri!r}{remedy}"
    if scheme in ("file", "direct"):
        return (
            None
            if rest.startswith("/") and len(rest) > 1
            else f"a {scheme} target needs an absolute path such as {scheme}:///mnt/test/, found {uri!r}"
        )
    if scheme == "s3":
        bucket = rest.partition("/")[0]
        return (
            None
            if _BUCKET.match(bucket)
            else f"{bucket!r} cannot be the name of a bucket (3 to 63 lower-case letters, digits, '.' and '-')"
        )
    if scheme in ("az", "gs", "gcs"):
        return check_cloud_uri(scheme, rest)
    return f"scheme {scheme}:// is not supported (s3://, file://, direct://, az:// and gs:// are)"
