"""What is wrong with a key of a workload file, in words for people who never saw the code."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from . import units
from .document import Path_, typed
from .schema import PATTERNS, WorkloadKeys, unit_of


def message(item: Any, path: Path_) -> str:
    """What was found, what was expected and what to do, of an error that pydantic found at a path of the document."""
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
    quoted = isinstance(given, str) and wanted in _TYPES.values() and typed(given) != given
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
    near = nearest_key((*section, key))
    elsewhere = [(depth, place) for depth, place, keys in _sections() if key in keys]
    if elsewhere:
        places = sorted({place for depth, place in elsewhere if depth == min(elsewhere)[0]})
        return f"unknown key {key!r} here; it belongs {' or '.join(places)}"
    return f"unknown key {key!r}; " + (f"did you mean {near!r}?" if near else f"known here: {', '.join(sorted(_keys_at(section)))}")


def nearest_key(location: tuple[str | int, ...]) -> str | None:
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
