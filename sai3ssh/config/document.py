"""A YAML file as plain data that remembers where everything stood."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

Path_ = tuple[str | int, ...]
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass
class Document:
    """Data of a file, and line and column (from 1) of every key and value by its path."""

    file: str
    data: Any
    marks: dict[Path_, tuple[int, int]] = field(default_factory=dict)

    def where(self, path: Path_) -> tuple[int, int]:
        """Line and column of the path, or of what is nearest above it."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, (1, 1))


class Problems:
    """All that is wrong with a file; raised together."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: list[tuple[tuple[int, int], str]] = []

    def add(self, path: Path_, message: str) -> None:
        """Notes a problem of the value at the path."""
        self._found.append((self._document.where(path), message))

    def line(self, path: Path_) -> int:
        """The line of the value at the path."""
        return self._document.where(path)[0]

    def raise_if_any(self) -> None:
        """Raises one ConfigError with a line for each problem, in the file's order."""
        if self._found:
            self._found.sort(key=lambda item: item[0])
            (line, column), first = self._found[0]
            rest = [f"{self._document.file}:{at[0]}:{at[1]}: {message}" for at, message in self._found[1:]]
            raise ConfigError("\n".join([first, *rest]), file=self._document.file, line=line, column=column)


def read(file: Path, environ: Mapping[str, str] = os.environ) -> Document:
    """The document; raises ConfigError on what is no YAML mapping, on duplicate keys and on unset variables."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the workload file: {reason}", file=str(file)) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "cannot be parsed"
        raise ConfigError(
            f"not valid YAML: {problem}", file=str(file), line=mark.line + 1 if mark else None, column=mark.column + 1 if mark else None
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", file=str(file)) from error
    document = Document(str(file), None)
    problems = Problems(document)
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError("expected a mapping of keys such as target, duration, workload; found something else", file=str(file), line=1)
    document.data = _build(node, (), document, problems, environ)
    problems.raise_if_any()
    return document


def _build(node: yaml.Node, path: Path_, document: Document, problems: Problems, environ: Mapping[str, str]) -> Any:
    document.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            below = (*path, key)
            if key in result:
                first = document.marks[below][0]
                document.marks[*path, f"{key} (again)"] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
                problems.add((*path, f"{key} (again)"), f"key {key!r} is given twice, first in line {first}")
                continue
            document.marks[below] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            result[key] = _build(value_node, below, document, problems, environ)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, n), document, problems, environ) for n, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    if "${" not in node.value:
        return yaml.SafeLoader("").construct_object(node)

    def substitute(match: re.Match[str]) -> str:
        value: str | None = environ.get(match[1], match[2])
        if value is None:
            problems.add(path, f"environment variable {match[1]} is not set; set it, or give a default: ${{{match[1]}:-default}}")
            return ""
        return value

    text = _VARIABLE.sub(substitute, node.value)
    # A substituted value is typed as if it had been written there, unless the author quoted it.
    return yaml.safe_load(text) if node.style is None and "\n" not in text and ": " not in text else text
