"""Reading and checking a workload file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError
from . import document as documents
from .cloud import check_cloud_uri
from .document import Document, Path_, Problems
from .matrix import expand, vary
from .messages import message, nearest_key
from .notices import notices as found_notices
from .schema import NO_MEANING, SECRET, WorkloadKeys

_NO_OP_LOG = "op_log_max_bytes has no effect without op_log_path (or --op-log)"
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")


@dataclass(frozen=True)
class Workload:
    """A checked workload file."""

    file: str
    keys: WorkloadKeys
    said: tuple[str, ...]
    """The notices on the file as it is."""
    document: Document
    options: dict[Path_, str] = field(default_factory=dict)
    """Keys that an option of the command line goes before, and that option."""

    def override(self, path: tuple[str, ...], value: Any, option: str) -> None:
        """Gives a key the value of an option. Raises ConfigError when it cannot have it."""
        section: Any = self.keys
        for name in path[:-1]:
            section = getattr(section, name)
        try:
            section.__pydantic_validator__.validate_assignment(section, path[-1], value)
        except ValidationError as error:
            (item, *_) = error.errors()
            raise ConfigError(message({**item, "loc": path}, (option,))) from error
        self.options[path] = option

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

    def switch_on_op_log(self) -> None:
        """Whatever the file says."""
        if not self.keys.op_log_path:
            self.override(("op_log_path",), "--op-log", "--op-log")

    @property
    def notices(self) -> tuple[str, ...]:
        """What a person should know that is no error."""
        return tuple(notice for notice in self.said if not (self.keys.op_log_path and notice.endswith(_NO_OP_LOG)))


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
    keys = _validated(data, found, problems)
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
    notices += [f"line {problems.line(where)}: {text}" for where, text in found_notices(keys)]
    stages = keys.stages or distributed.stages
    if stages and keys.prepare.ensure_objects and all(stage.type != "prepare" for stage in stages):
        line = problems.line(("prepare", "ensure_objects"))
        notices.append(f"line {line}: no stage is of type prepare: the objects of ensure_objects must be there already")
    return Workload(str(file), keys, tuple(sorted(notices, key=lambda notice: int(notice[5 : notice.index(":")]))), found)


def _validated(data: Any, found: Document, problems: Problems) -> WorkloadKeys | None:
    """The keys; None when something is wrong with them, which is noted. What comes from variables is text where a key wants text, else what
    it would be if it had been written there."""
    wrong: list[tuple[Any, Path_]] = []
    for _ in range(2):
        try:
            return WorkloadKeys.model_validate(data)
        except ValidationError as error:
            wrong = [(item, document_path(item["loc"], found)) for item in error.errors()]
        for path in {path for _, path in wrong if path in found.variables}:
            _retype(data, path)
    unknown = {item["loc"]: nearest_key(item["loc"]) for item, _ in wrong if item["type"] == "extra_forbidden"}
    for item, path in wrong:
        # A key that is missing because it has a typo is one mistake.
        if item["type"] != "missing" or item["loc"][-1] not in [near for place, near in unknown.items() if place[:-1] == item["loc"][:-1]]:
            problems.add(path, message(item, path))
    return None


def _retype(data: Any, path: Path_) -> None:
    """Makes what a text says of the text at the path."""
    for part in path[:-1]:
        data = data[part]
    if isinstance(data[path[-1]], str):
        data[path[-1]] = documents.typed(data[path[-1]])


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
        else:
            result[key] = _sift(item, below, problems, notices)
    return result


def document_path(location: tuple[str | int, ...], found: Document) -> Path_:
    """The part of a place in the keys that is a path of the document: validators have names, too, and stages their keys below config."""
    path: Path_ = ()
    for part in location:
        if (*path, part) in found.marks:
            path = (*path, part)
        elif (*path, "config", part) in found.marks:
            path = (*path, "config", part)
    return path


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
