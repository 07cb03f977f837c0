"""The manual page, made from the commands themselves."""

from __future__ import annotations

from typing import Any

from . import __version__

EXIT_CODES = (
    ("0", "done; of a run: COMPLETE"),
    ("1", "another error; the message says what"),
    ("2", "bad usage, workload file or inventory; nothing was started"),
    ("3", "the run is PARTIAL"),
    ("4", "the run FAILED"),
    ("5", "preflight has found a failure, or hosts could not be deployed to"),
    ("6", "another controller steers the run, or has taken it over"),
    ("7", "a condition of compare --fail-if holds"),
    ("130", "interrupted"),
)


def page(command: Any) -> str:
    """The page, in man(7) macros, of a Typer application's command and all commands below it."""
    lines = [
        f'.TH SAI3SSH 1 "" "sai3ssh {__version__}" "User Commands"',
        ".SH NAME",
        f"sai3ssh \\- {_text(command.help)}",
        ".SH SYNOPSIS",
        ".B sai3ssh",
        ".I COMMAND",
        "[options]",
        ".SH COMMANDS",
    ]
    for name, below in command.commands.items():
        if not below.hidden:
            lines += _command(name, below)
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES:
        lines += [".TP", f".B {code}", _text(meaning)]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> list[str]:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    names = " ".join(f"{one.name.upper()}{'...' if one.nargs != 1 else ''}" for one in arguments)
    lines = [f".SS {_text(f'{name} {names}'.rstrip())}", _text(command.help)]
    for one in arguments:
        lines += _entry(one.name.upper(), one.help or "", one)
    for one in command.params:
        if one.param_type_name == "option" and not one.hidden:
            metavar = "" if one.is_flag else f" {one.name.upper()}"
            lines += _entry(", ".join([*one.opts, *one.secondary_opts]) + metavar, one.help or "", one)
    return lines


def _entry(term: str, text: str, parameter: Any) -> list[str]:
    default = parameter.default
    if isinstance(default, str | int | float) and not isinstance(default, bool) and parameter.show_default is not False:
        text = f"{text} Default: {default}."
    return [".TP", f".B {_text(term)}", _text(text)]


def _text(text: str) -> str:
    """Text for a line of its own: what roff would take as a command, or change, is escaped."""
    one = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{one}" if one.startswith((".", "'")) else one
