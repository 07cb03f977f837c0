"""Pages that are made from the code, so that they cannot differ from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import typer
import yaml
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from sai3ssh.cli import app
from sai3ssh.config.json_schema import workload_schema


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of all commands, all keys of workload files, and all options of the roles; and the schema of these keys."""
    made = (("keys.md", _keys), ("commands.md", _commands), ("roles.md", _roles), ("sai3ssh.schema.json", _schema))
    for name, make in made:
        files.append(File.generated(config, name, content=make()))
    return files


def _commands() -> str:
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="sai3ssh"), name="sai3ssh", title="Commands")
    # Typer cuts the sentences of its list short.
    return re.sub(r"^\* `(\w+)`: .*$", lambda line: f"* `{line[1]}`: {command.commands[line[1]].help}", text, flags=re.MULTILINE)


def _roles() -> str:
    lines = ["# Options of the roles", "", "Variables of the inventory, or `-e name=value` of `sai3ssh deploy`.", ""]
    for path in sorted((Path(__file__).parents[1] / "roles").glob("*/meta/argument_specs.yml")):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"]
        lines += [f"## {path.parents[1].name}", "", f"{spec['short_description']}.", "", "| option | what it is |", "|---|---|"]
        for name, option in spec["options"].items():
            text = re.sub(r"C\(([^)]*)\)", r"`\1`", " ".join(option["description"].split()))
            choices = f" One of {', '.join(option['choices'])}." if "choices" in option and option["type"] == "str" else ""
            # Some defaults are templates.
            lines.append(f"| `{name}` | {text}{choices} Default: `{json.dumps(option['default'])}`. |")
        lines.append("")
    return "\n".join(lines)


def _schema() -> str:
    return json.dumps(workload_schema(), indent=1) + "\n"


def _keys() -> str:
    schema = workload_schema()
    lines = [
        "# Keys of a workload file",
        "",
        "All keys, by where they are. Your editor has the same from the [JSON Schema](sai3ssh.schema.json) that `sai3ssh schema` writes,",
        "and `sai3ssh validate` shows what a file comes to.",
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
