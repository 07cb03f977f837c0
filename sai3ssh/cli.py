"""The command line: all commands, and what their errors come to. Heavy libraries are imported by the commands that need them, so that
`sai3ssh version` answers at once."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from . import __version__
from .commands import about, checks, hosts, results, runs, workloads
from .errors import RunError, Sai3sshError
from .steering import INTERRUPTED, USAGE, err, out

app = typer.Typer(
    help="A distributed storage benchmark that the network cannot kill.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        out(f"sai3ssh {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version; `sai3ssh version` says more.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """What belongs to no command."""


for theme in (runs, workloads, checks, results, hosts, about):
    app.add_typer(theme.app)


def main() -> None:
    """Entry point: every known error is one message and an exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except RunError as error:
        err(f"sai3ssh: {error}")
        sys.exit(error.exit_code)
    except Sai3sshError as error:
        err(f"sai3ssh: {error}")
        sys.exit(USAGE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output is gone; nothing more can be said, not even by the interpreter's own flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(USAGE)
    except OSError as error:
        err(f"sai3ssh: {error.filename}: {error.strerror}" if error.filename else f"sai3ssh: {error}")
        sys.exit(USAGE)


if __name__ == "__main__":
    main()
