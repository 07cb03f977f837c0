"""The keys of a workload file as a JSON Schema, for editors: it accepts what load() accepts, and does not know what keys mean together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from . import units
from .schema import NO_MEANING, Section, SizeLaw, StageKeys, WorkloadKeys

Json = dict[str, Any]
DIALECT = "http://json-schema.org/draft-07/schema#"
"""The newest that the YAML extensions of editors know throughout."""
_ABOUT = ("title", "description", "default", "examples")
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_TEXT = "text"
"""Stands for a reference until pydantic, which wants to know all of them, has done its part."""
_VARIABLE = "Variable"
_VARIABLE_PATTERN = r"\$\{"
_NO_EFFECT = "NoEffect"


@dataclass(frozen=True)
class _Quantity:
    """What people may write for a figure."""

    name: str
    number: Json
    pattern: str
    """Of the figure as text."""
    expected: str
    examples: tuple[Any, ...]
    written: Callable[[Any], Any] = lambda value: value
    """How a file would have it."""

    @property
    def forms(self) -> Json:
        return {"anyOf": [{_TEXT: self.name}, {"minimum": 0, **self.number}], "examples": list(self.examples)}

    @property
    def definition(self) -> Json:
        # Some editors show patternErrorMessage instead of the pattern.
        return {"type": "string", "pattern": f"^({self.pattern})$", "patternErrorMessage": f"expected {self.expected}"}


_NUMBER: Json = {"type": "number"}
_SHARE: Json = {"type": "number", "maximum": 1}
_QUANTITIES: dict[Any, _Quantity] = {
    units.size: _Quantity(
        "Size", {"type": "integer"}, units.SIZE_PATTERN, "a size such as 4096, 64KiB or 8MB", ("4KiB", "8MB", 65536), units.size_key
    ),
    units.duration: _Quantity(
        "Duration", _NUMBER, units.DURATION_PATTERN, "a duration such as 90, 60s, 5m or 2h", ("60s", "5m", "250ms"), units.duration_key
    ),
    units.count: _Quantity("Count", {"type": "integer"}, units.COUNT_PATTERN, "a whole number", (1000000, "1,000,000")),
    units.rate: _Quantity("Rate", _NUMBER, f"max|{units.COUNT_PATTERN}", "operations per second such as 500, or max", (500, "max")),
    units.share: _Quantity("Share", _SHARE, units.SHARE_PATTERN, "a share such as 0.95 or 95%", ("95%", 0.95)),
    units.share_or_bool: _Quantity("Share", _SHARE, units.SHARE_PATTERN, "a share such as 0.95 or 95%", (True, "5%")),
}
"""By the function that reads it."""
_TEXTS: dict[Any, Json] = {
    units.text: {"type": ["string", "number", "boolean"]},
    units.path_template: {"type": "string", "examples": ["agent-{id}/"]},
}
"""The same for what is no figure."""


def workload_schema() -> Json:
    """The schema of a whole file."""
    schema = _finished(WorkloadKeys.model_json_schema(schema_generator=_Generator))
    definitions = {name: _finished(definition) for name, definition in schema.pop("$defs").items()}
    definitions |= {quantity.name: quantity.definition for quantity in _QUANTITIES.values()}
    definitions[_VARIABLE] = {
        "type": "string",
        "pattern": _VARIABLE_PATTERN,
        "patternErrorMessage": "or ${NAME} or ${NAME:-default}, which is taken from the environment",
    }
    definitions[_NO_EFFECT] = {
        "description": "A key of sai3-bench that has no effect here; `sai3ssh validate` says why.",
        "deprecated": True,
    }
    return {"$schema": DIALECT, "title": "Workload file of sai3ssh", **schema, "$defs": dict(sorted(definitions.items()))}


class _Generator(GenerateJsonSchema):
    """As pydantic's, and with what validators before a type accept."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Json:
        function: Any = schema["function"]["function"]
        if function is units.share_or_bool:
            forms = _QUANTITIES[function].forms
            return {**forms, "anyOf": [{"type": "boolean"}, *forms["anyOf"]]}
        if function in _QUANTITIES:
            return _QUANTITIES[function].forms
        if function in _TEXTS:
            return dict(_TEXTS[function])
        if not hasattr(function, "__self__"):
            raise NotImplementedError(f"json_schema._QUANTITIES does not know what {function.__name__} accepts")
        return super().function_before_schema(schema)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Json:
        found = super().default_schema(schema)
        quantity = _quantity(schema["schema"])
        if quantity is not None and found.get("default") is not None:
            found["default"] = quantity.written(found["default"])
        return found

    def model_schema(self, schema: core_schema.ModelSchema) -> Json:
        cls: Any = schema["cls"]
        keys = super().model_schema(schema)
        keys.pop("title")
        for key, value in keys["properties"].items():
            value["title"] = key
            default = value.get("default")
            if isinstance(default, (bool, int, float, str)):
                # Editors offer a default, but do not show it.
                value["description"] += f" Default: {default if isinstance(default, str) else json.dumps(default)}."
        keys["allOf"] = _conditions(cls, keys["properties"])
        if cls is StageKeys:
            return _stage(keys)
        if cls.short is None:
            return keys
        description = keys.pop("description")
        laws = _laws(keys) if cls is SizeLaw else []
        return {"description": description, "anyOf": [self.generate_inner(TypeAdapter(cls.short).core_schema), keys, *laws]}


def _quantity(schema: Any) -> _Quantity | None:
    """The figure that a core schema is about."""
    while schema["type"] != "function-before" or schema["function"]["function"] not in _QUANTITIES:
        if "schema" not in schema:
            return None
        schema = schema["schema"]
    return _QUANTITIES[schema["function"]["function"]]


def _laws(keys: Json) -> list[Json]:
    """{fixed: 4KiB}, {uniform: {min, max}} and the like, as sai3-bench's documents have them."""
    own = {name: value for name, value in keys["properties"].items() if name != "type"}
    inner = {"type": "object", "properties": own, "additionalProperties": False}
    return [
        {
            "type": "object",
            "properties": {law: _QUANTITIES[units.size].forms if law == "fixed" else inner},
            "required": [law],
            "additionalProperties": False,
        }
        for law in keys["properties"]["type"]["enum"]
    ]


def _stage(keys: Json) -> Json:
    """A stage's own keys are beside its name, or below config."""
    needed = [
        {"anyOf": [{"required": [key]}, {"required": ["config"], "properties": {"config": {"required": [key]}}}]}
        for key in keys["required"]
    ]
    text = "The stage's own keys may be here instead of beside name, as in sai3-bench's documents."
    config = {"title": "config", "description": text, "type": "object", "properties": keys["properties"], "additionalProperties": False}
    rest = {name: value for name, value in keys.items() if name != "required"}
    return {**rest, "properties": {**keys["properties"], "config": config}, "allOf": needed + keys["allOf"]}


def _conditions(cls: type[Section], properties: Json) -> list[Json]:
    """Which keys are there only beside some values of the one that says what it is, and which must be."""
    decisive = next((key for key in ("op", "type") if key in properties), "")
    variable = {"type": "string", "pattern": _VARIABLE_PATTERN}

    def usual(key: str) -> Json:
        return {"anyOf": [{"enum": [None, properties[key].get("default")]}, variable]}

    only = [
        {
            "if": {"required": [key], "properties": {key: {"not": usual(key)}}},
            "then": {"properties": {decisive: {"anyOf": [{"enum": list(values)}, variable]}}},
        }
        for key, values in cls.only_for.items()
    ]
    needed = []
    for value, groups in cls.needs.items():
        for group in groups:
            one = {"anyOf": [{"required": [key]} for key in group]}
            needed.append({"if": {"required": [decisive], "properties": {decisive: {"const": value}}}, "then": one} if value else one)
    return [*only, *needed]


def _finished(node: Json) -> Json:
    """A schema in which each single value may be a variable, with one list of alternatives, and no reference with neighbours: draft 7 would
    not see those."""
    about = {key: node[key] for key in _ABOUT if node.get(key) not in (None, [], {}) and not isinstance(node[key], dict)}
    rest = {_BOUNDS.get(key, key): value for key, value in node.items() if key not in _ABOUT}
    if "$ref" in rest:
        return {**about, "allOf": [rest]} if about else rest
    if not rest.get("allOf", True):
        del rest["allOf"]
    if "properties" in rest:
        rest["properties"] = {key: _finished(value) for key, value in rest["properties"].items()}
        if rest.get("additionalProperties") is False:
            rest["patternProperties"] = {f"^({'|'.join(sorted(NO_MEANING))})$": {"$ref": f"#/$defs/{_NO_EFFECT}"}}
    elif "items" in rest:
        rest["items"] = _finished(rest["items"])
    elif "anyOf" in rest or _checked(rest):
        forms, examples = _alternatives(rest)
        if examples and "default" not in about:
            about.setdefault("examples", examples)
        return {**about, "anyOf": forms} if len(forms) > 1 else {**about, **forms[0]}
    return {**about, **rest}


def _alternatives(node: Json) -> tuple[list[Json], list[Any]]:
    """All forms of a value, and examples of them."""
    if _TEXT in node:
        return [{"$ref": f"#/$defs/{node[_TEXT]}"}], []
    if "anyOf" not in node:
        return ([node, {"$ref": f"#/$defs/{_VARIABLE}"}] if _checked(node) else [_finished(node)]), node.get("examples", [])
    bounds = {_BOUNDS.get(key, key): value for key, value in node.items() if key not in (*_ABOUT, "anyOf")}
    forms: list[Json] = []
    examples: list[Any] = list(node.get("examples", []))
    for one in node["anyOf"]:
        found, more = _alternatives(one)
        forms += [form for form in found if form not in forms]
        examples += more
    numbers = ("integer", "number")
    return [{**form, **bounds} if form.get("type") in numbers else form for form in forms], examples


def _checked(node: Json) -> bool:
    """Whether it is one value, and not just any text."""
    return node.get("type") in ("integer", "number", "boolean") or bool({"enum", "const", "pattern"} & set(node))
