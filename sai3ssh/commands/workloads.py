"""Commands that write, check and explain workload files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..steering import err, out
from .options import AsJson, GoOn, Inventory, Limit, Name, OpLog, Policy, ReconnectTimeout, WorkloadFile, load, sources

app = typer.Typer()


@app.command()
def validate(
    workload: WorkloadFile,
    inventory: Inventory = None,
    limit: Limit = "all",
    every: Annotated[bool, typer.Option("--all", help="Show keys that have their defaults, too.")] = False,
    name: Name = None,
    reconnect_timeout: ReconnectTimeout = None,
    policy: Policy = None,
    go_on: GoOn = False,
    op_log: OpLog = False,
    as_json: AsJson = False,
) -> None:
    """Check a workload file; print each value with where it comes from, and the plan. Takes options of `run`, and connects to nobody."""
    from .. import config
    from .. import inventory as inventories
    from ..model import Host, to_json

    combinations = load(workload, name, reconnect_timeout, policy, go_on, op_log)
    loaded = combinations[0].workload
    hosts = inventories.load(sources(inventory), limit) if inventory else [Host("localhost", "localhost", connection="local")]
    config.check_matrix(combinations, hosts)
    plan, assignments = config.compile_plan(loaded, "dry-run", hosts)
    description = loaded.document.discreet(config.describe(plan, assignments, loaded))
    settings = config.settings(loaded)
    if as_json:
        shown = loaded.document.discreet(to_json(plan))
        content = {"plan": shown, "description": to_json(description), "configuration": config.configuration(settings)}
        out(json.dumps({**content, "matrix": [one.values for one in combinations if one.values]}, indent=1))
        return
    from ..ui.effective import print_settings
    from ..ui.plan import print_combinations, print_plan

    print_settings(settings, str(workload), every=every)
    print_plan(description, [assignment.agent_id for assignment in assignments], known_hosts=bool(inventory))
    if combinations[0].values:
        plans = [config.compile_plan(one.workload, "dry-run", hosts) for one in combinations]
        seconds = [config.describe(*made, one.workload).seconds for made, one in zip(plans, combinations, strict=True)]
        print_combinations([one.values for one in combinations], seconds)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="File to write; - is standard output.")] = Path("workload.yml"),
    target: Annotated[
        str, typer.Option(help="Base URI: s3://bucket/prefix/ or file:///mnt/test/.")
    ] = "s3://${S3_BUCKET:-bench-bucket}/sai3ssh/",
    endpoint: Annotated[str | None, typer.Option(help="URL of the S3 server; none is AWS.", show_default=False)] = None,
    objects: Annotated[str, typer.Option(help="Objects to prepare.")] = "10000",
    size: Annotated[str, typer.Option(help="Size of objects.")] = "64KiB",
    duration: Annotated[str, typer.Option(help="Of the load.")] = "60s",
    concurrency: Annotated[int, typer.Option(min=1, help="Operations in flight per agent.")] = 16,
    mix: Annotated[str, typer.Option(help="Operations with weights.")] = "get=70,put=30",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented workload file to begin with."""
    from .. import config
    from ..config.starter import SCHEMA_FILE, Choices, modeline, parse_mix, starter
    from ..errors import ConfigError

    config.seconds(duration, "--duration")
    stem = "".join(letter if letter.isalnum() or letter in "_.-" else "-" for letter in file.stem)[:40]
    name = stem.strip("-") or "first"
    text = starter(Choices(target, name, str(file), endpoint, objects, size, duration, concurrency, parse_mix(mix)))
    if str(file) == "-":
        out(text.rstrip())
        return
    if (file.parent / SCHEMA_FILE).is_file():
        text = f"{modeline(SCHEMA_FILE)}\n{text}"
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} is there already", remedy="Choose another name, or give --force") from None
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}", remedy="Choose another place") from error
    err(f"wrote {file}; next: sai3ssh validate {file}")


@app.command()
def schema(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; init names one beside its own, sai3ssh.schema.json.", show_default=False),
    ] = None,
) -> None:
    """Print the JSON Schema of workload files, with which editors complete, explain and check keys."""
    from ..config.json_schema import workload_schema
    from ..config.starter import modeline
    from ..errors import ConfigError

    text = json.dumps(workload_schema(), indent=1)
    if output is None:
        out(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}", remedy="Choose another place") from error
    err(f"wrote {output}; first line of a workload file in that directory: {modeline(output.name)}")
