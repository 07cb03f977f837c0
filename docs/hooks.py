"""Pages that are made from the code, so that they cannot differ from it."""

from __future__ import annotations

from typing import Any

import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from sai3ssh.cli import app
from sai3ssh.config.json_schema import workload_schema
from sai3ssh.manpage import EXIT_CODES


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of all commands, all keys of workload files, and all exit codes."""
    files.append(File.generated(config, "keys.md", content=_keys()))
    files.append(File.generated(config, "commands.md", content=_commands()))
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES)
    files.append(File.generated(config, "exit-codes.md", content=f"# Exit codes\n\n| code | meaning |\n|---|---|\n{rows}\n"))
    return files


def _commands() -> str:
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="sai3ssh"), name="sai3ssh", title="Commands")


def _keys() -> str:
    schema = workload_schema()
    lines = [
        "# Keys of a workload file",
        "",
        "All keys, by where they are. `sai3ssh schema` gives the same to your editor, and `sai3ssh validate` shows what a file comes to.",
        "Durations are written as `60s`, `5m` or seconds, sizes as `64KiB`, `8MB` or bytes, counts as `1000000` or `1,000,000`;",
        "`${NAME}` and `${NAME:-default}` are taken from the environment.",
    ]
    told: set[str] = set()
    waiting = [("", schema)]
    while waiting:
        place, model = waiting.pop(0)
        lines += ["", f"## {place}" if place else "## At the top", "", "| key | what it is |", "|---|---|"]
        for key, value in model["properties"].items():
            if "description" in value and not value.get("deprecated"):
                lines.append(f"| `{key}` | {value['description'].replace('|', chr(92) + '|')} |")
            for name, many in _below(value):
                keys = _with_keys(schema["$defs"][name])
                if keys is not None and name not in told:
                    told.add(name)
                    waiting.append((f"{place}.{key}{'[]' if many else ''}".removeprefix("."), keys))
    return "\n".join(lines) + "\n"


def _below(value: Any, many: bool = False) -> list[tuple[str, bool]]:
    """The definitions that a key's value refers to, and whether as entries of a list."""
    if isinstance(value, list):
        return [found for one in value for found in _below(one, many)]
    if not isinstance(value, dict):
        return []
    found = [(value["$ref"].rpartition("/")[2], many)] if "$ref" in value else []
    for name in ("allOf", "anyOf", "items"):
        found += _below(value.get(name), many or name == "items")
    return found


def _with_keys(definition: Any) -> Any:
    """The form of a definition that has keys, or None."""
    forms = [definition, *definition.get("anyOf", [])]
    return next((form for form in forms if form.get("properties")), None)
