"""Every key of a workload file with the value that counts and where that comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import units
from .document import Path_
from .schema import BucketRange, Section, SizeLaw, unit_of
from .workload import Workload, document_path


@dataclass(frozen=True)
class Origin:
    """Where a value comes from; the words for people are text."""

    kind: str
    """file, environment (a variable within the file), option or default."""
    file: str | None = None
    line: int | None = None
    column: int | None = None
    variables: dict[str, bool] | None = None
    """Those in the value, and whether the environment has them; the others have their defaults."""
    option: str | None = None


@dataclass(frozen=True)
class Setting:
    """A key and its value."""

    path: tuple[str | int, ...]
    value: Any
    unit: str
    origin: Origin

    @property
    def default(self) -> bool:
        """Whether nobody has said anything of it."""
        return self.origin.kind == "default"

    @property
    def text(self) -> str:
        """The value as a file would have it."""
        if self.value in (None, [], {}):
            return "-"
        if isinstance(self.value, bool):
            return str(self.value).lower()
        if isinstance(self.value, (int, float)):
            return f"{self.value:,}" if self.path[-1] == "count" else units.figure_key(self.value, self.unit)
        return str(self.value)


def settings(workload: Workload) -> list[Setting]:
    """All keys, also those that the file leaves to their defaults; sections of lists as far as the file has them. Without secrets."""
    return list(_of_section(workload, workload.keys, ()))


def configuration(found: list[Setting]) -> dict[str, Any]:
    """The settings as a document: {path: {value, unit, origin}}."""
    return {
        ".".join(str(part) for part in one.path): {
            "value": one.value,
            **({"unit": one.unit} if one.unit else {}),
            "origin": {key: item for key, item in vars(one.origin).items() if item is not None},
        }
        for one in found
    }


def _of_section(workload: Workload, section: Section, path: Path_) -> Iterator[Setting]:
    for name, key in type(section).model_fields.items():
        value, below = getattr(section, name), (*path, name)
        given = name in section.model_fields_set
        if not given and section.only_for.get(name, ()) and _kind(section) not in section.only_for[name]:
            continue
        # One size is one value, though it is kept as a law.
        if isinstance(value, (SizeLaw, BucketRange)) and value.min == value.max:
            yield _setting(workload, below, value.min, "bytes", given)
        elif isinstance(value, Section):
            yield from _of_section(workload, value, below)
        elif isinstance(value, list) and value:
            for n, item in enumerate(value):
                if isinstance(item, Section):
                    yield from _of_section(workload, item, (*below, n))
                else:
                    yield _setting(workload, (*below, n), item, "", given)
        else:
            yield _setting(workload, below, value, unit_of(key), given)


def _kind(section: Section) -> str:
    """What an operation or a stage is."""
    return str(getattr(section, "op", None) or getattr(section, "type", ""))


def _setting(workload: Workload, path: Path_, value: Any, unit: str, given: bool) -> Setting:
    document = workload.document
    origin = Origin("default")
    if path in workload.options:
        origin = Origin("option", option=workload.options[path])
    elif given:
        place = document_path(path, document)
        line, column = document.where(place)
        source = document.variables.get(place)
        names = source.names if source is not None else None
        origin = Origin("environment" if names and any(names.values()) else "file", document.file, line, column, names)
    return Setting(path, document.discreet(value), unit, origin)
