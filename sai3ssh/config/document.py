"""A YAML file as plain data that remembers where everything stood."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

Path_ = tuple[str | int, ...]
_VARIABLE = re.compile(r"\$(?:(?P<sign>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\{[^}]*\}?)")
_SECRET = re.compile(r"(?i)secret|passw|token|credential|signature|(access|account|private|api)_?key|sas")
"""Names of variables whose values are not shown."""
_SHORTEST_SECRET = 4

MOST_BYTES = 4 << 20
"""Of a file: a larger one is no workload, and would take minutes to be told so."""
MOST_PROBLEMS = 50
"""So many are told of one file."""
AS_WRITTEN = ("args", "env")
"""What is below these keys is text as it stands there: `yes`, 1.10 and 0755 are passed on, and not what YAML makes of them."""
MOST_VALUES = 100_000
"""Of a file, with aliases as often as they are used: a dozen lines of them can stand for more than fits into memory."""
MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class FromVariables:
    """How a value that comes from variables stands in the file."""

    text: str
    names: dict[str, bool]
    """Whether the environment has them; the others have their defaults."""


@dataclass
class Document:
    """Data of a file, and line and column (from 1) of every key and value by its path."""

    file: str
    data: Any
    marks: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    variables: dict[Path_, FromVariables] = field(default_factory=dict)
    """Values that come from ${NAME}: they are text, until a key wants something else."""
    secrets: set[str] = field(default_factory=set)
    text: str | None = None
    """Of the file, as it was when it was read: a pipe can be read once, and an editor may have written to it since."""

    def where(self, path: Path_) -> tuple[int, int]:
        """Line and column of the path, or of what is nearest above it."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, (1, 1))

    def discreet(self, value: Any) -> Any:
        """The value, in JSON or a dataclass of such, without what secret variables had."""
        if isinstance(value, str):
            for secret in sorted(self.secrets, key=len, reverse=True):
                value = value.replace(secret, "***")
        elif isinstance(value, dict):
            return {self.discreet(key): self.discreet(item) for key, item in value.items()}
        elif isinstance(value, (list, tuple)):
            return type(value)(self.discreet(item) for item in value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            return type(value)(**{part.name: self.discreet(getattr(value, part.name)) for part in dataclasses.fields(value)})
        return value


class Problems:
    """All that is wrong with a file; raised together."""

    def __init__(self, document: Document, earlier: Problems | None = None) -> None:
        self._document = document
        self._found: dict[tuple[tuple[int, int], str], None] = {} if earlier is None else dict(earlier._found)

    def add(self, path: Path_, message: str) -> None:
        """Notes a problem of the value at the path."""
        source = self._document.variables.get(path)
        if source is not None:
            message += f" ({source.text} in the file)"
        self._found[self._document.where(path), self._document.discreet(message)] = None

    def __len__(self) -> int:
        return len(self._found)

    def line(self, path: Path_) -> int:
        """The line of the value at the path."""
        return self._document.where(path)[0]

    def raise_if_any(self) -> None:
        """Raises one ConfigError with a line for each problem, in the file's order."""
        if self._found:
            ((line, column), first), *others = sorted(self._found, key=lambda item: item[0])
            rest = [f"{self._document.file}:{at[0]}:{at[1]}: {message}" for at, message in others[: MOST_PROBLEMS - 1]]
            if len(others) >= MOST_PROBLEMS:
                rest.append(f"{len(others) - MOST_PROBLEMS + 1:,} more problems; is this a workload file?")
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
    document = Document(str(file), None, text=text)
    problems = Problems(document)
    if not isinstance(node, yaml.MappingNode):
        found = "a list" if isinstance(node, yaml.SequenceNode) else repr(node.value[:40]) if node is not None and node.value else "nothing"
        raise ConfigError(f"expected a mapping of keys such as target, duration, workload; found {found}", file=str(file), line=1)
    variables = _Variables(environ, document, problems)
    document.data = _build(node, (), document, problems, variables)
    variables.tell_unset()
    problems.raise_if_any()
    return document


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the workload file: {error.strerror}", file=str(file)) from error
    if len(data) > MOST_BYTES:
        text = f"expected a workload file, which has a few KiB, found more than {MOST_BYTES >> 20} MiB"
        raise ConfigError(text, file=str(file), remedy="Name another file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"cannot read the workload file: it is not UTF-8 text (byte {data[error.start]:#04x})"
        raise ConfigError(reason, file=str(file), line=line, remedy="Save it as UTF-8") from error


def _not_yaml(error: yaml.YAMLError, text: str, file: str) -> ConfigError:
    """Where, and what, in words for people who write YAML, and do not parse it."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return ConfigError(f"not valid YAML: the character U+{ord(text[error.position]):04X}; remove it", file=file, line=line)
    if not isinstance(error, yaml.MarkedYAMLError):
        return ConfigError(f"not valid YAML: {error}", file=file)
    begin, mark = error.context_mark, error.problem_mark or error.context_mark
    problem, context = error.problem or "", error.context or ""
    said = f"{context}: {problem}" if context else problem
    lines = text.splitlines()
    if mark and mark.line < len(lines) and lines[mark.line][: mark.column + 1].endswith("${"):
        said = 'within { } and [ ] a variable is in quotes: "${NAME}"'
    else:
        for signs, words, at_begin in _PLAIN_WORDS:
            if all(sign in said for sign in signs):
                since = f" (since line {begin.line + 1})" if begin and mark and begin.line and begin.line != mark.line else ""
                mark, said = (begin or mark, words) if at_begin else (mark, words + since)
                break
    return ConfigError(f"not valid YAML: {said}", file=file, line=mark.line + 1 if mark else None, column=mark.column + 1 if mark else None)


_PLAIN_WORDS = (
    (("quoted scalar",), "this quote is not closed; add one where the text ends", True),
    (("flow mapping", "expected ',' or '}'"), "a comma is missing, or a { is not closed with }", False),
    (("flow sequence", "expected ',' or ']'"), "a comma is missing, or a [ is not closed with ]", False),
    (("simple key",), "a line that is no key with its value; write key: value, with a space after the colon", True),
    (("'\\t'",), "a tab at the beginning of a line; indent with spaces", False),
    (("cannot start any token",), "a value cannot begin with this character; put the value in quotes", False),
    (("scanning an alias",), "a * is the beginning of an alias; put the value in quotes", True),
    (("scanning an anchor",), "a & is the beginning of an anchor; put the value in quotes", True),
    (("undefined alias",), "an alias (*) of nothing; its anchor (&) must come before it", False),
    (("block end", "but found"), "this line is not indented as the entries that it belongs to", False),
    (
        ("mapping values are not allowed",),
        "a colon makes no key here; put the value in quotes, or indent the line as its neighbours",
        False,
    ),
    (("node content",), "a value is missing here", False),
    (("another document",), "a second document; a workload file is one: remove the --- and what follows", False),
)
"""What PyYAML says, as far as it is in its message; the same in plain words; whether the place is where that began."""


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
    node: yaml.Node, path: Path_, document: Document, problems: Problems, variables: _Variables, above: tuple[yaml.Node, ...] = ()
) -> Any:
    if len(document.marks) >= MOST_VALUES:
        raise ConfigError(
            f"the file has more than {MOST_VALUES:,} values, or aliases (*) of aliases that stand for so many; make it shorter",
            file=document.file,
            line=node.start_mark.line + 1,
            column=node.start_mark.column + 1,
        )
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
                problems.add((*path, f"{key} (again)"), f"key {key!r} is given twice, first in line {first}; remove one of them")
                continue
            document.marks[below] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key_node.tag == MERGE:
                problems.add(below, "<< takes the keys of other mappings: <<: *name, or a list of those")
                continue
            result[key] = _build(value_node, below, document, problems, variables, above)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, n), document, problems, variables, above) for n, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    if not node.value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in node.value):
        problems.add(path, f"{node.value[:40]!r} is no text: \\uD800 to \\uDFFF are no characters; take them out")
        return None
    return variables.substituted(node, path) if "$" in node.value else _scalar(node, path, problems)


class _Variables:
    """${NAME} and ${NAME:-default}, in values and nowhere else; $$ is a $."""

    def __init__(self, environ: Mapping[str, str], document: Document, problems: Problems) -> None:
        self._environ, self._document, self._problems = environ, document, problems
        self._unset: dict[str, list[Path_]] = {}

    def substituted(self, node: yaml.ScalarNode, path: Path_) -> Any:
        """The value: text, or nothing where all of it is empty and it is not in quotes."""
        names: dict[str, bool] = {}
        missing: list[str] = []

        def value(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if match["sign"]:
                return "$"
            if name is None:
                text = f"{match[0]!r} is no variable; write ${{NAME}} or ${{NAME:-default}}, and $${{ where ${{ itself is meant"
                self._problems.add(path, text)
                return ""
            found = self._environ.get(name)
            names[name] = bool(found) or (found is not None and default is None)
            if found is not None and names[name]:
                if _SECRET.search(name) and len(found) >= _SHORTEST_SECRET:
                    self._document.secrets.add(found)
                return found
            if default is None:
                missing.append(name)
            return default or ""

        text = _VARIABLE.sub(value, node.value)
        if not names:
            return text if text != node.value else _scalar(node, path, self._problems)
        for name in missing:
            self._unset.setdefault(name, []).append(path)
        if missing:
            return None
        self._document.variables[path] = FromVariables(node.value, names)
        return None if node.style is None and typed(text) is None else text

    def tell_unset(self) -> None:
        """Notes each variable that is needed and not set, once."""
        for name, paths in self._unset.items():
            lines = sorted({self._problems.line(path) for path in paths[1:]} - {self._problems.line(paths[0])})
            also = f" (also needed in line {', '.join(map(str, lines))})" if lines else ""
            text = f"environment variable {name} is not set{also}; set it, or give a default: ${{{name}:-default}}"
            self._problems.add(paths[0], text)


def typed(text: str) -> Any:
    """What the text would be if it had been written in the file: a number, a switch, nothing, or the text."""
    try:
        found = yaml.safe_load(text) if _PLAIN.fullmatch(text) and not _BY_VERSION.fullmatch(text) else text
    except (yaml.YAMLError, ValueError):
        return text
    return found if found is None or isinstance(found, (bool, int, float)) else text


_PLAIN = re.compile(r"[\w.+~-]*")
"""Text that can be a number, a switch or nothing."""


_BY_VERSION = re.compile(r"[-+]?0[0-7_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
"""Numbers to base 8 and 60 of YAML 1.1: to YAML 1.2, which sai3-bench reads, 0100 is a hundred and 1:30 is text."""


def _scalar(node: yaml.ScalarNode, path: Path_, problems: Problems) -> Any:
    if path[-2:-1] and path[-2] in AS_WRITTEN and not node.tag.endswith(":null"):
        return node.value
    if node.style is None and _BY_VERSION.fullmatch(node.value):
        found = yaml.safe_load(node.value)
        text = f"{node.value} is {found} in YAML 1.1 and something else in YAML 1.2; write {found}, or put what is meant in quotes"
        problems.add(path, text)
        return None
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, KeyError):
        value = node.value if len(node.value) <= 40 else f"{node.value[:40]}..."
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        problems.add(path, f"{value!r} cannot be read as {kind}; correct it, or put it in quotes without a tag")
        return None
