"""What the documentation says of commands, options and files is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sai3ssh import config, manpage
from sai3ssh.cli import app
from sai3ssh.model import Host

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = typer.main.get_command(app)
COMMANDS = COMMAND.commands


def _mentioned(text: str) -> list[str]:
    """Commands in indented blocks, and in `code`."""
    lines = re.findall(r"^ {4,}(sai3ssh .*)$", text, re.MULTILINE)
    return lines + re.findall(r"`(sai3ssh [^`\n]*)`", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_that_pages_name_exist(page: Path) -> None:
    wrong = []
    for line in _mentioned(page.read_text(encoding="utf-8")):
        _, *words = shlex.split(line.partition(" #")[0].replace("`", " "), posix=True)
        name = next((word for word in words if not word.startswith("-")), None)
        if name is not None and name not in COMMANDS:
            wrong.append(line)
            continue
        command = COMMANDS[name] if name else COMMAND
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
        wrong += [f"{line}: {word}" for word in words if re.match(r"--?[a-z]", word) and word.rstrip(",").partition("=")[0] not in known]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_workload_files_in_pages_are_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(re.findall(r"```yaml\n(target: .*?)```", page.read_text(encoding="utf-8"), re.DOTALL)):
        file = tmp_path / f"{number}.yml"
        file.write_text(block, encoding="utf-8")
        hosts = [Host("a", "a")]
        plan, _ = config.compile_plan(config.load(file), "r", hosts, failure_policy=None, needs_credentials=True)
        assert plan.stages


def test_the_manual_page_has_all_commands_and_options() -> None:
    text = manpage.page(COMMAND).replace("\\-", "-")
    for name, command in COMMANDS.items():
        (section,) = re.findall(rf"^\.SS {name}(?: .*)?\n((?:(?!\.S[SH]).*\n)*)", text, re.MULTILINE)
        for one in command.params:
            for option in one.opts if one.param_type_name == "option" else ():
                assert re.search(rf"^\.B .*{re.escape(option)}\b", section, re.MULTILINE), (name, option)
            assert one.help, f"{name}: {one.name} has no help"


def test_a_text_is_no_command_of_roff() -> None:
    command = typer.Typer(help="Text.")

    @command.command(help="'quoted' \\fB text")
    def first(name: str = typer.Option("", help=".hidden - file")) -> None: ...

    @command.command()
    def second() -> None:
        """Another."""

    text = manpage.page(typer.main.get_command(command))
    assert "\n\\&'quoted' \\efB text\n" in text
    assert "\n\\&.hidden \\- file" in text


def test_the_shell_completes_names_of_runs(tmp_path: Path) -> None:
    for run in ("mixed-2", "mixed-1", "other"):
        (tmp_path / "sai3ssh-runs" / run).mkdir(parents=True)
        (tmp_path / "sai3ssh-runs" / run / "plan.json").touch()
    (tmp_path / "sai3ssh-runs" / "mixed-none").mkdir()
    environment = {**os.environ, "_SAI3SSH_COMPLETE": "complete_bash", "COMP_WORDS": "sai3ssh attach mix", "COMP_CWORD": "2"}
    script = Path(sys.executable).parent / "sai3ssh"
    found = subprocess.run([script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert sorted(found.stdout.split()) == ["mixed-1", "mixed-2"]
