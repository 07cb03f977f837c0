"""A YAML file as plain data that remembers where everything stood."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

Path_ = tuple[str | int, ...]
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

MERGE = "tag:yaml.org,2002:merge"


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

    def __init__(self, document: Document, earlier: Problems | None = None) -> None:
        self._document = document
        self._found: list[tuple[tuple[int, int], str]] = [] if earlier is None else list(earlier._found)

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
    text = _text(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _not_yaml(error, text, str(file)) from error
    except RecursionError as error:
        raise ConfigError("not valid YAML: brackets within brackets without end", file=str(file)) from error
    document = Document(str(file), None)
    problems = Problems(document)
    if not isinstance(node, yaml.MappingNode):
        found = "a list" if isinstance(node, yaml.SequenceNode) else repr(node.value[:40]) if node is not None and node.value else "nothing"
        raise ConfigError(f"expected a mapping of keys such as target, duration, workload; found {found}", file=str(file), line=1)
    document.data = _build(node, (), document, problems, environ)
    problems.raise_if_any()
    return document


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the workload file: {error.strerror}", file=str(file)) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"cannot read the workload file: it is not UTF-8 text (byte {data[error.start]:#04x})"
        raise ConfigError(reason, file=str(file), line=line, remedy="Save it as UTF-8") from error


def _not_yaml(error: yaml.YAMLError, text: str, file: str) -> ConfigError:
    """Where, what, and in what it stands when that began in another line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return ConfigError(f"not valid YAML: the character U+{ord(text[error.position]):04X}; remove it", file=file, line=line)
    if not isinstance(error, yaml.MarkedYAMLError):
        return ConfigError(f"not valid YAML: {error}", file=file)
    mark, outer = error.problem_mark or error.context_mark, error.context_mark
    problem = error.problem or error.context or "cannot be parsed"
    if error.context and outer and mark and outer.line != mark.line:
        problem += f" ({error.context} that begins in line {outer.line + 1})"
    problem += next((hint for sign, hint in _HINTS.items() if sign in problem), "")
    return ConfigError(
        f"not valid YAML: {problem}", file=file, line=mark.line + 1 if mark else None, column=mark.column + 1 if mark else None
    )


_HINTS = {
    "'\\t'": "; indent with spaces, not with tabs",
    "another document": "; a workload file is one document: remove the --- and what follows",
    "undefined alias": "; an anchor (&name) must come before it",
}


def _pairs(node: yaml.MappingNode, into: tuple[yaml.Node, ...] = ()) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
    """Keys and values, and whether they come from a merge (<<); those last."""
    merges = [value for key, value in node.value if key.tag == MERGE]
    yield from ((key, value, bool(into)) for key, value in node.value if key.tag != MERGE)
    for value in merges:
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(source, yaml.MappingNode) and source not in (*into, node):
                yield from _pairs(source, (*into, node))
            else:
                yield yaml.ScalarNode(MERGE, "<<", source.start_mark, source.end_mark), source, False


def _build(
    node: yaml.Node, path: Path_, document: Document, problems: Problems, environ: Mapping[str, str], above: tuple[yaml.Node, ...] = ()
) -> Any:
    document.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if node in above:
        problems.add(path, "an alias (*) within what it stands for has no end; remove it")
        return None
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node, merged in _pairs(node):
            if not isinstance(key_node, yaml.ScalarNode):
                document.marks[*path, "?"] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
                problems.add((*path, "?"), "a key is plain text; found a list or a mapping in its place")
                continue
            key = str(key_node.value)
            below = (*path, key)
            if key in result:
                if merged:
                    continue
                first = document.marks[below][0]
                document.marks[*path, f"{key} (again)"] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
                problems.add((*path, f"{key} (again)"), f"key {key!r} is given twice, first in line {first}")
                continue
            document.marks[below] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key_node.tag == MERGE:
                problems.add(below, "<< takes the keys of other mappings: <<: *name, or a list of those")
                continue
            result[key] = _build(value_node, below, document, problems, environ, above)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, n), document, problems, environ, above) for n, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    if "${" not in node.value:
        return _scalar(node, path, problems)

    def substitute(match: re.Match[str]) -> str:
        value: str | None = environ.get(match[1], match[2])
        if value is None:
            problems.add(path, f"environment variable {match[1]} is not set; set it, or give a default: ${{{match[1]}:-default}}")
            return ""
        return value

    text = _VARIABLE.sub(substitute, node.value)
    if node.style is not None or "\n" in text or ": " in text:
        return text
    # A substituted value is typed as if it had been written there, unless the author quoted it.
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        problems.add(path, f"what the environment gives for {node.value} is no value of YAML; put it in quotes")
        return None


def _scalar(node: yaml.ScalarNode, path: Path_, problems: Problems) -> Any:
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, KeyError):
        value = node.value if len(node.value) <= 40 else f"{node.value[:40]}..."
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        problems.add(path, f"{value!r} cannot be read as {kind}; correct it, or put it in quotes without a tag")
        return None
