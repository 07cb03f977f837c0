"""Commands about sai3ssh itself."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from .. import __version__
from ..steering import out
from .options import RESULTS_DIR, AsJson, ResultsDir

app = typer.Typer()


@app.command()
def demo(results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False) -> None:
    """Eight local agents, a real S3 server, a cut link: see that nothing is lost. Under a minute."""
    from ..demo import run_demo

    raise typer.Exit(run_demo(results_dir, as_json=as_json))


@app.command()
def version(as_json: AsJson = False) -> None:
    """Versions of sai3ssh, its agent protocol and Python."""
    from ..protocol import PROTOCOL

    found = {"sai3ssh": __version__, "protocol": PROTOCOL, "python": sys.version.split()[0]}
    out(json.dumps(found) if as_json else "  ".join(f"{name} {value}" for name, value in found.items()))


@app.command()
def man(
    ctx: typer.Context,
    install: Annotated[bool, typer.Option("--install", help="Put it where `man sai3ssh` finds it: ~/.local/share/man.")] = False,
) -> None:
    """Print the manual page of all commands, as `man -l -` reads it."""
    from ..manpage import page

    text = page(ctx.find_root().command)
    if not install:
        out(text.rstrip())
        return
    from platformdirs import user_data_path

    path = user_data_path() / "man" / "man1" / "sai3ssh.1"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    out(f"{path} is there: man sai3ssh")
