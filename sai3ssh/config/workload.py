"""Reading and checking a workload file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from . import document as documents
from . import units
from .cloud import check_cloud_uri
from .document import Document, Path_, Problems
from .schema import NO_MEANING, NOT_YET, PATTERNS, SECRET, WorkloadKeys, unit_of

_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")


@dataclass(frozen=True)
class Workload:
    """A checked workload file."""

    file: str
    keys: WorkloadKeys
    notices: tuple[str, ...]
    document: Document
    options: dict[Path_, str] = field(default_factory=dict)
    """Keys that an option of the command line goes before, and that option."""

    def override(self, path: tuple[str, ...], value: Any, option: str) -> None:
        """Gives a key the value of an option."""
        section: Any = self.keys
        for name in path[:-1]:
            section = getattr(section, name)
        setattr(section, path[-1], value)
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


def load(file: Path, environ: Mapping[str, str] = os.environ) -> Workload:
    """Reads and checks one file. Raises ConfigError that names every problem with file, line and column."""
    found = documents.read(file, environ)
    problems = Problems(found)
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
        notices.append(f"line {problems.line(('op_log_max_bytes',))}: op_log_max_bytes has no effect without op_log_path (or --op-log)")
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
    unknown = {item["loc"]: _near(item["loc"]) for item, _ in wrong if item["type"] == "extra_forbidden"}
    for item, path in wrong:
        # A key that is missing because it has a typo is one mistake.
        if item["type"] != "missing" or item["loc"][-1] not in [near for place, near in unknown.items() if place[:-1] == item["loc"][:-1]]:
            problems.add(path, _message(item, path))
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
        elif key in NOT_YET:
            problems.add(below, f"{key}: a key of sai3-bench that is not supported yet; remove it")
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


def _message(item: Any, path: Path_) -> str:
    """What is wrong, what was expected and what to do, for people who never saw the code."""
    name = ".".join(str(part) for part in path) or "the file"
    kind, location, given, context = item["type"], item["loc"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(str(location[-1]), location[:-1])
    if kind == "missing":
        return f"{name}: the key {location[-1]!r} is missing{_example(location)}"
    if kind == "value_error":
        return f"{name}: {item['msg'].removeprefix('Value error, ')}"
    found = f", found {units.shown(given)}"
    if kind in _LIMITS:
        key = _key_at(location)
        limit = units.figure_key(context[_LIMITS[kind][1]], unit_of(key) if key is not None else "")
        limit = f"{int(limit):,}" if limit.isdigit() else limit
        return f"{name}: expected {_LIMITS[kind][0]} {limit}{found}"
    if kind in ("too_short", "too_long"):
        bound = "at least one entry" if kind == "too_short" else f"at most {context['max_length']} entries"
        return f"{name}: expected {bound}, found {context['actual_length'] or 'none'}"
    if kind == "literal_error":
        values = re.findall(r"'(.+?)'", context["expected"])
        near = _SYNONYMS.get(str(given)) or next(iter(difflib.get_close_matches(str(given), values, 1, 0.6)), None)
        return f"{name}: expected {context['expected']}{found}" + (f"; did you mean {near!r}?" if near in values else "")
    if kind == "model_type":
        return f"{name}: expected a mapping of keys ({', '.join(sorted(_keys_at(location)))}){found}"
    if kind == "list_type":
        return f"{name}: expected a list, with a - before each entry{found}"
    if kind == "string_type":
        return f"{name}: expected text{found}" + ("" if given is None else "; put it in quotes")
    if kind == "string_pattern_mismatch":
        return f"{name}: expected {PATTERNS[context['pattern']]}{found}"
    wanted = next((text for kinds, text in _TYPES.items() if kind in kinds), item["msg"])
    quoted = isinstance(given, str) and wanted in _TYPES.values() and documents.typed(given) != given
    return f"{name}: {wanted}{found}" + ("; take the quotes away" if quoted else "")


_SYNONYMS = {
    **dict.fromkeys(("read", "download", "fetch"), "get"),
    **dict.fromkeys(("write", "upload", "create"), "put"),
    **dict.fromkeys(("head", "meta"), "stat"),
    **dict.fromkeys(("ls", "listing"), "list"),
    **dict.fromkeys(("rm", "remove", "unlink"), "delete"),
    **dict.fromkeys(("run", "load", "workload"), "execute"),
}
"""What other tools call what is an operation or a type of stage here."""
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_TYPES = {
    ("int_type", "int_from_float"): "expected a whole number",
    ("float_type", "finite_number"): "expected a number",
    ("bool_type",): "expected true or false",
}


def _unknown(key: str, section: tuple[str | int, ...]) -> str:
    """A key that is none, and which one was meant: the nearest one here, else where it belongs."""
    if "${" in key:
        return f"unknown key {key!r}: a variable stands for a value, not for a key"
    near = _near((*section, key))
    elsewhere = [(depth, place) for depth, place, keys in _sections() if key in keys]
    if elsewhere:
        places = sorted({place for depth, place in elsewhere if depth == min(elsewhere)[0]})
        return f"unknown key {key!r} here; it belongs {' or '.join(places)}"
    return f"unknown key {key!r}; " + (f"did you mean {near!r}?" if near else f"known here: {', '.join(sorted(_keys_at(section)))}")


def _near(location: tuple[str | int, ...]) -> str | None:
    """The key of a section that is most like one that it does not have."""
    return next(iter(difflib.get_close_matches(str(location[-1]), list(_keys_at(location[:-1])), 1, 0.5)), None)


def _sections(model: type[BaseModel] = WorkloadKeys, path: tuple[str, ...] = ()) -> Iterator[tuple[int, str, set[str]]]:
    """Where keys are, and how deep: at the top of the file, below s3, ..."""
    yield len(path), f"below {'.'.join(path)}" if path else "at the top of the file", set(model.model_fields)
    for name, key in model.model_fields.items():
        inner = _model_in(key.annotation)
        if inner is not None:
            yield from _sections(inner, (*path, name))


def _example(location: tuple[str | int, ...]) -> str:
    """How a key that is missing is written."""
    key = _key_at(location)
    given = key.examples[0] if key is not None and key.examples else _EXAMPLES.get(str(location[-1]))
    return f", for example {location[-1]}: {given}" if given is not None else ""


_EXAMPLES = {"weight": 50, "op": "get", "type": "execute", "name": "load"}


def _keys_at(location: tuple[str | int, ...]) -> Iterator[str]:
    model = _section_at(location)
    yield from model.model_fields if model is not None else ()


def _key_at(location: tuple[str | int, ...]) -> FieldInfo | None:
    section = _section_at(location[:-1])
    return section.model_fields.get(str(location[-1])) if section is not None else None


def _section_at(location: tuple[str | int, ...]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = WorkloadKeys
    for part in location:
        if isinstance(part, str) and model is not None and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return model


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
