"""Pages that are made from the code, so that they cannot differ from it."""

from __future__ import annotations

from typing import Any

import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from sai3ssh.cli import app
from sai3ssh.manpage import EXIT_CODES


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of all commands and of all exit codes."""
    files.append(File.generated(config, "commands.md", content=_commands()))
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES)
    files.append(File.generated(config, "exit-codes.md", content=f"# Exit codes\n\n| code | meaning |\n|---|---|\n{rows}\n"))
    return files


def _commands() -> str:
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="sai3ssh"), name="sai3ssh", title="Commands")
