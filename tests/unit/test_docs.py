"""What the documentation says of commands, options and files is so."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from markdown.extensions.toc import slugify

import sai3ssh
from sai3ssh import config, manpage
from sai3ssh.cli import app
from sai3ssh.config.json_schema import workload_schema
from sai3ssh.model import Host
from sai3ssh.preflight import names
from sai3ssh.results import frames

ROOT = Path(__file__).parents[2]
GUIDE = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDE]
ALL_PAGES = [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
GENERATED = ("keys.md", "commands.md", "roles.md")
"""By docs/hooks.py; mkdocs knows whether they are linked rightly."""
IN_BLOCKS = re.compile(r"^ {4,}(sai3ssh .*)$", re.MULTILINE)
IN_TEXT = re.compile(r"`(sai3ssh [^`\n]*)`")
COMMAND = typer.main.get_command(app)
COMMANDS = COMMAND.commands


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_commands_that_pages_name_are_understood(page: Path) -> None:
    """Whole ones in blocks; in a sentence what is required may be left out."""
    text = page.read_text(encoding="utf-8")
    wrong = []
    for line, whole in [(line, True) for line in IN_BLOCKS.findall(text)] + [(line, False) for line in IN_TEXT.findall(text)]:
        _, *words = shlex.split(line, comments=True)
        # What a shell does with it is not ours.
        words = list(itertools.takewhile(lambda word: word not in (">", "|", ";"), words))
        try:
            if not words or words[0].startswith("-"):
                known = {option for one in COMMAND.params for option in one.opts} | {"--help"}
                wrong += [line for word in words if word not in known]
            elif words[0] not in COMMANDS:
                wrong.append(line)
            else:
                COMMANDS[words[0]].make_context(words[0], words[1:], parent=typer.Context(COMMAND))
        except Exception as error:
            if whole or "Missing" not in str(error):
                wrong.append(f"{line}: {error}")
    assert not wrong


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_targets_and_files_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = []
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", text):
        name, _, anchor = link.partition("#")
        if name in GENERATED and page.parent.name == "docs":
            continue
        file = page.parent / name if name else page
        headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE) if file.is_file() else []
        if not file.exists() or (anchor and anchor not in [slugify(heading, "-") for heading in headings]):
            wrong.append(link)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    wrong += [f"make {name}" for name in re.findall(r"(?:^ {4,}|`)make ([a-z-]+)", text, re.MULTILINE) if name not in targets]
    files = re.findall(r"(?<![\w/.])(?:bench|playbooks|roles|tests|inventory/ec2|inventory/example|sai3ssh/examples)/[\w./-]*\w", text)
    wrong += [name for name in files if not (ROOT / name).exists()]
    assert not wrong


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.name)
def test_keys_that_pages_name_are_of_workload_files(page: Path) -> None:
    known = set(re.findall(r'"([a-z_0-9]+)": \{', json.dumps(workload_schema())))
    named = re.findall(r"(?<!`)`([a-z][a-z_0-9]*): [^`]*`", page.read_text(encoding="utf-8"))
    assert [name for name in named if name not in known and not name.startswith(("ansible_", "sai3ssh_", "stop_after"))] == []


def test_the_guide_has_all_exit_codes_and_checks() -> None:
    text = (ROOT / "docs/exit-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", text, re.MULTILINE)
    assert [code for code, _ in rows] == [code for code, _ in manpage.EXIT_CODES]
    for (code, told), (_, meaning) in zip(rows, manpage.EXIT_CODES, strict=True):
        assert told.replace("`", "").startswith(meaning), code
    text = (ROOT / "docs/preflight.md").read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{'|'.join(names.groups())})\.[a-z_]+)`", text)
    assert set(named) == set(names.CHECKS)


@pytest.mark.parametrize("heading", ["operations, agents", "timeseries", "histograms", "hosts", "splits, endpoints", "events", "losses"])
def test_the_guide_has_all_columns_with_their_types(heading: str) -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    section = text.partition(f"### {heading}\n")[2].partition("\n#")[0]
    columns = {name: dtype for table in heading.split(", ") for name, dtype in getattr(frames, table.upper()).items()}
    ranks = [name for name in columns if re.fullmatch(r"p[\d.]+_us", name)]
    told: dict[str, str] = {}
    for cell, dtype in re.findall(r"^\| (.*?`.*?) \| ([^|]*) \|", section.replace("`, ranks", "`, `ranks`"), re.MULTILINE):
        found = [one for name in re.findall(r"`([^`]*)`", cell) for one in (ranks if name == "ranks" else [name])]
        types = re.findall(r"datetime64\[ns, UTC\]|\w+", dtype)
        told |= dict(zip(found, types if len(types) > 1 else types * len(found), strict=True))
    assert {name: dtype for name, dtype in columns.items() if f"`{name}`" not in section.partition("|")[0]} == {
        name: dtype for name, dtype in told.items() if f"`{name}`" not in section.partition("|")[0]
    }


def test_the_guide_has_all_options_of_run() -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    shown = re.findall(r"[( ]\*?([a-z_]+)(?:=[^,)]*)?[,)]", text.partition("`sai3ssh.run(")[2].partition("`")[0].join("()"))
    assert shown == list(inspect.signature(sai3ssh.run).parameters)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_workload_files_in_pages_are_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(re.findall(r"```yaml\n(target: .*?)```", page.read_text(encoding="utf-8"), re.DOTALL)):
        file = tmp_path / f"{number}.yml"
        file.write_text(block, encoding="utf-8")
        hosts = [Host("a", "a")]
        plan, _ = config.compile_plan(config.load(file), "r", hosts, needs_credentials=True)
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
