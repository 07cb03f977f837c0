"""Keys of a workload file with their values and origins on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import Origin, Setting
from .terminal import Terminal
from .views import WIDEST


@dataclass(frozen=True)
class _Row:
    key: str
    value: str = ""
    origin: str = ""
    default: bool = False


def print_settings(settings: Sequence[Setting], file: str, *, every: bool, console: Console | None = None) -> None:
    """Section by section, as in a file; without defaults, and entries of lists in one row each, unless every is given."""
    console = console or Terminal(highlight=False)
    if not console.is_terminal:
        console = Terminal(file=console.file, highlight=False, width=WIDEST)
    shown = [one for one in settings if every or not one.default]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for row in _rows(shown, every):
        table.add_row(Text(row.key), Text(row.value), Text(row.origin, "dim"), style="dim" if row.default else None)
    console.print(Text(f"configuration of {file}", "bold"), soft_wrap=True)
    if shown:
        console.print(table)
    if len(shown) < len(settings):
        console.print(f"  {len(settings) - len(shown)} keys have their defaults; --all shows them")
    console.print()


def _rows(settings: Sequence[Setting], every: bool) -> Iterator[_Row]:
    """Keys of the file first, then its sections."""
    for one in settings:
        if len(one.path) == 1:
            yield _Row(f"  {one.path[0]}", one.text, _place([one.origin]), one.default)
    for section, members in groupby((one for one in settings if len(one.path) > 1), lambda one: one.path[0]):
        yield _Row(f"  {section}")
        yield from _below(list(members), 1, every)


def _below(members: Sequence[Setting], depth: int, every: bool) -> Iterator[_Row]:
    for part, group in groupby(members, lambda one: one.path[depth]):
        found = list(group)
        name = "  " * (depth + 1) + (f"{part + 1}." if isinstance(part, int) else part)
        if len(found[0].path) == depth + 1:
            yield _Row(name, found[0].text, _place([found[0].origin]), found[0].default)
        elif isinstance(part, int) and not every:
            yield _Row(name, _entry(found, depth + 1), _place([one.origin for one in found]))
        else:
            yield _Row(name)
            yield from _below(found, depth + 1, every)


def _entry(members: Sequence[Setting], depth: int) -> str:
    """An entry of a list: op: get, path: data/, key_selection: {distribution: zipf}."""
    parts = []
    for part, group in groupby(members, lambda one: one.path[depth]):
        found = list(group)
        key = "" if isinstance(part, int) else f"{part}: "
        whole = len(found[0].path) == depth + 1
        parts.append(key + (found[0].text if whole else f"{{{_entry(found, depth + 1)}}}"))
    return ", ".join(parts)


def _place(origins: Sequence[Origin]) -> str:
    """w.yml:3; w.yml:3-5,9; w.yml:3 ${N}; --policy; default."""
    words: list[str] = []
    lines = sorted({one.line for one in origins if one.line is not None})
    if lines:
        spans = [[lines[0], lines[0]]]
        for line in lines[1:]:
            if line == spans[-1][1] + 1:
                spans[-1][1] = line
            else:
                spans.append([line, line])
        file = next(one.file for one in origins if one.file)
        words.append(f"{Path(file).name}:{','.join(str(low) if low == high else f'{low}-{high}' for low, high in spans)}")
    for one in origins:
        words += [f"${{{name}}}" + ("" if given else " not set") for name, given in (one.variables or {}).items()]
        words += [one.option] if one.option else []
    return " ".join(dict.fromkeys(words)) or "default"
