"""Commands that look at hosts before a run: what would go wrong, what they can do, and with which settings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..steering import err, out
from .options import RESULTS_DIR, AsJson, Inventory, Limit, Live, ResultsDir, Skip, WorkloadFile, sources

if TYPE_CHECKING:
    from ..config import Workload
    from ..controller.rundir import RunDirectory
    from ..model import Plan

app = typer.Typer()


@app.command()
def preflight(
    workload: Annotated[
        Path | None, typer.Argument(help="Workload file; without one only network and hosts are checked.", show_default=False)
    ] = None,
    inventory: Inventory = None,
    limit: Limit = "all",
    skip: Skip = None,
    ports: Annotated[str, typer.Option(help="Ports of the hosts that must be reached: 7761,7762; besides sai3ssh_ports.")] = "",
    matrix: Annotated[bool, typer.Option("--matrix", help="Have the hosts connect to each other: sshd and the named ports.")] = False,
    idle_test: Annotated[
        str | None, typer.Option(help="See how long silent connections live, up to so long: 10m.", show_default=False)
    ] = None,
    probes: Annotated[int, typer.Option(min=1, max=1000, help="Pings to each host.")] = 20,
    as_json: AsJson = False,
    junit: Annotated[Path | None, typer.Option(help="Write the findings as JUnit XML too.", show_default=False)] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what is well, too.")] = False,
) -> None:
    """Find what would go wrong in a run: network, hosts, storage, and the plan against the fleet. Exit code 5 when anything would."""
    from .. import bundle, config
    from .. import inventory as inventories
    from .. import preflight as checks
    from ..config import credentials

    options = checks.Options(
        bundle.cached(),
        skip=checks.check_skip(skip or ()),
        ports=checks.parse_ports(ports),
        matrix=matrix,
        idle_test_s=config.seconds(idle_test, "--idle-test") if idle_test else None,
        probes=probes,
    )
    hosts = inventories.load(sources(inventory), limit)
    if workload is not None:
        combinations = config.load_all(workload)
        loaded = combinations[0].workload
        if combinations[0].values:
            err(f"notice: of the {len(combinations)} combinations of the matrix the first is looked at; `run` looks at each")
        secret = credentials.find(loaded, os.environ)
        plan, assignments = config.compile_plan(loaded, "preflight", hosts, needs_credentials=secret is not None)
        hosts = [host for host in hosts if host.name in plan.agents]
        description = config.describe(plan, assignments, loaded)
        options = replace(options, plan=plan, assignments=assignments, description=description, credentials=secret)
    report = checks.examine(hosts, options)
    if junit is not None:
        checks.write_junit(report, junit)
    if as_json:
        out(json.dumps(report.to_json(), indent=1))
    else:
        from ..ui.preflight import print_report

        print_report(report, verbose=verbose)
    raise typer.Exit(report.exit_code)


@app.command()
def calibrate(
    inventory: Inventory = None,
    limit: Limit = "all",
    size: Annotated[str, typer.Option(help="Object sizes; two or more tell what lies in between.")] = "4KiB,8MiB",
    seconds: Annotated[float, typer.Option(min=2.0, max=3600.0, help="For PUT and GET of each size, and one more to warm up.")] = 5.0,
    results_dir: ResultsDir = RESULTS_DIR,
    as_json: AsJson = False,
    live: Live = True,
) -> None:
    """Measure what each host's agent can do at most, without network and storage; later runs say how near they came to it."""
    from .. import bundle
    from .. import calibrate as calibration
    from .. import inventory as inventories
    from ..config import sizes

    wanted = sizes(size, "--size")
    hosts = inventories.load(sources(inventory), limit)
    found = calibration.run(hosts, wanted, seconds, results_dir, bundle.cached(), as_json=as_json, live=live)
    if as_json:
        out(json.dumps(found))
        return
    from ..ui.calibration import print_calibration

    print_calibration(found)


@app.command()
def autotune(
    workload: WorkloadFile,
    inventory: Inventory = None,
    limit: Limit = "all",
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="What to vary, named as in a matrix: concurrency, concurrency=1..256, s3.multipart_chunksize=8MiB,64MiB; may be repeated. "
            "Default: concurrency, and the parts or ranges that the file has.",
            show_default=False,
        ),
    ] = None,
    under: Annotated[
        list[str] | None, typer.Option(help="A latency to keep: 'get.p99 < 20ms'; may be repeated.", show_default=False)
    ] = None,
    goal: Annotated[Literal["ops", "bytes"], typer.Option(help="Most operations/s, or most bytes/s.")] = "ops",
    seconds: Annotated[float, typer.Option(min=2.0, max=3600.0, help="How long each trial measures.")] = 10.0,
    trials: Annotated[int, typer.Option(min=2, max=1000, help="At most so many.")] = 20,
    results_dir: ResultsDir = RESULTS_DIR,
    skip: Skip = None,
    as_json: AsJson = False,
    live: Live = True,
) -> None:
    """Find the concurrency, and the sizes of parts and ranges, with which a workload gives most, over all agents, in a few short runs."""
    from .. import autotune as tuning
    from .. import config, steering
    from .. import inventory as inventories
    from ..errors import ConfigError
    from ..launch import Launch

    (loaded, values), *_ = [(one.workload, one.values) for one in config.load_all(workload)]
    if values:
        raise ConfigError(f"{workload} has a matrix", remedy="Remove it: autotune chooses the values itself")
    hosts = inventories.load(sources(inventory), limit)
    settings = [tuning.parse_setting(text, loaded) for text in vary or tuning.default_settings(loaded)]
    demands = [tuning.parse_demand(text) for text in under or ()]
    launch = Launch.of(loaded, hosts, results_dir, skip or (), as_json=as_json)

    def create(of: Workload, change: Callable[[Plan], Plan]) -> RunDirectory:
        return launch.create(of, change=change)

    def steer(directory: RunDirectory) -> int:
        return steering.steer(directory, launch.archive, as_json=as_json, live=live, credentials=launch.credentials, summary=False)

    tools = tuning.Tools(create, steer)
    raise typer.Exit(tuning.tune(loaded, settings, demands, goal, seconds, trials, results_dir, tools, as_json=as_json))


@app.command()
def doctor(inventory: Inventory = None, limit: Limit = "all", results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False) -> None:
    """Check this machine: versions, keys, ssh's configuration. With -i: whether ssh and sai3ssh see each host alike."""
    from .. import inventory as inventories
    from ..preflight.doctor import doctor as look

    report = look(inventories.load(inventory, limit) if inventory else [], results_dir)
    if as_json:
        out(json.dumps(report.to_json(), indent=1))
    else:
        from ..ui.preflight import print_doctor

        print_doctor(report)
    raise typer.Exit(report.exit_code)
