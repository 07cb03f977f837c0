"""Commands that change hosts: the playbooks."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import RunError
from ..steering import INTERRUPTED, UNREADY, USAGE, err
from .options import AsJson, Inventory, Limit, sources

app = typer.Typer()

Check = Annotated[bool, typer.Option("--check", "-C", help="Only say what would change.")]
Diff = Annotated[bool, typer.Option("--diff", "-D", help="Show how files change.")]
Tags = Annotated[str, typer.Option("--tags", "-t", help="Only these parts: agent, limits, keepalive.", show_default=False)]
Variables = Annotated[
    list[str] | None, typer.Option("--extra-vars", "-e", help="A role's option as name=value; may be repeated.", show_default=False)
]


@app.command()
def deploy(
    inventory: Inventory = None,
    limit: Limit = "all",
    check: Check = False,
    diff: Diff = False,
    tags: Tags = "",
    extra_vars: Variables = None,
    as_json: AsJson = False,
) -> None:
    """Put limits, SSH keepalive and the agent as a service on hosts. A second time, nothing changes."""
    raise typer.Exit(_play("deploy", inventory, limit, check, diff, tags, extra_vars, as_json))


@app.command()
def upgrade(
    inventory: Inventory = None,
    limit: Limit = "all",
    check: Check = False,
    diff: Diff = False,
    extra_vars: Variables = None,
    as_json: AsJson = False,
) -> None:
    """Replace deployed agents host by host, each when its host has no run in progress."""
    raise typer.Exit(_play("upgrade", inventory, limit, check, diff, "", extra_vars, as_json))


@app.command()
def remove(
    inventory: Inventory = None,
    limit: Limit = "all",
    check: Check = False,
    diff: Diff = False,
    tags: Tags = "",
    extra_vars: Variables = None,
    as_json: AsJson = False,
) -> None:
    """Take all that `deploy` made away again, runs included, and restore the former limits."""
    raise typer.Exit(_play("remove", inventory, limit, check, diff, tags, extra_vars, as_json))


def _play(
    playbook: str,
    inventory: list[str] | None,
    limit: str,
    check: bool,
    diff: bool,
    tags: str,
    extra_vars: list[str] | None,
    as_json: bool,
) -> int:
    """Runs a playbook on the hosts and shows it; the exit code."""
    import signal

    from .. import bundle, provision
    from .. import inventory as inventories
    from ..ui.provision import make_view, print_outcome

    named = sources(inventory)
    hosts = [host.name for host in inventories.load(named, limit)]
    archive = bundle.cached() if playbook != "remove" else None
    digest = bundle.digest(archive) if archive else ""
    play = provision.Play(playbook, named, limit, check, diff, tags, extra_vars or (), archive, digest)
    progress = provision.Progress.of(hosts)
    interrupted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: interrupted.append(number))
    view = make_view(progress, as_json=as_json)
    try:
        provision.run(play, progress, view.on_event, lambda: bool(interrupted))
    finally:
        view.close()
    if interrupted:
        err("sai3ssh: interrupted. What was done on the hosts stays as it is: run the same command again")
        return INTERRUPTED
    if not progress.over:
        raise RunError(
            f"ansible-playbook {playbook}.yml did not run: {progress.complaint.rstrip('.') or 'it said nothing'}",
            exit_code=USAGE,
            remedy="Check -i, -e and --tags",
        )
    if not as_json:
        print_outcome(progress)
    return UNREADY if any(row.failed for row in progress.rows.values()) else 0
