"""Commands that read run directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..steering import REGRESSED, err, out
from .options import (
    RESULTS_DIR,
    AsJson,
    Inventory,
    Limit,
    Listen,
    ResultsDir,
    Run,
    Runs,
    Token,
    TokenFile,
    find,
    find_all,
    named_runs,
    sources,
)

app = typer.Typer()


@app.command()
def status(inventory: Inventory = None, limit: Limit = "all", results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False) -> None:
    """Runs known in the results directory and, with -i, on the hosts."""
    from ..controller.survey import known_here, known_on_hosts

    here = known_here(results_dir)
    there = []
    if inventory:
        from .. import bundle
        from .. import inventory as inventories

        there = known_on_hosts(inventories.load(sources(inventory), limit), bundle.cached())
    if as_json:
        out(json.dumps({"here": here, "hosts": there}, indent=1))
        return
    from ..ui.plan import print_status

    print_status(here, there if inventory else None, results_dir)


@app.command("results")
def show_results(run: Run, results_dir: ResultsDir = RESULTS_DIR, as_json: AsJson = False) -> None:
    """Show the summary of a run."""
    from .. import results

    run_dir = find(run, results_dir).path
    written = results.read(run_dir)
    if as_json:
        out("".join(results.json_lines(written.content)).rstrip())
        return
    from ..results.network import links
    from ..ui.summary import print_summary

    print_summary(results.summary(written), run_dir, links=links(written.content))


@app.command()
def report(
    runs: Annotated[
        list[str],
        named_runs("Run directory, or the id of a run below --results-dir or its beginning; directory of a matrix; or several runs."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write it; default: report.html in that directory.", show_default=False),
    ] = None,
    results_dir: ResultsDir = RESULTS_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the report shows as one JSON document instead.")] = False,
) -> None:
    """Write the report of a run, of a matrix, or of several runs of one plan: one HTML file with everything in it."""
    from .. import matrix as matrices
    from .. import steering
    from ..errors import ConfigError

    series = matrices.find(runs[0], results_dir) if len(runs) == 1 else None
    directories = find_all(runs, results_dir) if series is None else [series]
    if len(directories) > 1 and output is None and not as_json:
        raise ConfigError("the report of several runs belongs into no directory of theirs", remedy="Name a file with -o")
    # Where links to other reports begin.
    beside = output.resolve().parent if output is not None else directories[0].resolve() if series is not None else Path.cwd()
    if series is not None:
        told = matrices.document(series, beside)
    elif len(directories) > 1:
        told = matrices.document_of_runs(directories, beside)
    else:
        told = steering.document(directories[0])
    if as_json:
        out(json.dumps(told, separators=(",", ":")))
        return
    out(str(steering.save_report(told, directories[0], output)))


@app.command()
def health(
    results_dir: Annotated[Path, typer.Argument(help="Results directory, or one run directory.")] = RESULTS_DIR, as_json: AsJson = False
) -> None:
    """How often links break, and where: each host over all runs of a directory."""
    from ..model import to_json
    from ..results.health import health as figures
    from ..ui.health import print_health

    found = figures(results_dir)
    if as_json:
        out(json.dumps(to_json(found), indent=1))
    else:
        print_health(found, results_dir)


@app.command()
def aggregate(
    runs: Runs,
    allow_different_plans: Annotated[bool, typer.Option(help="Merge runs whose plans differ.")] = False,
    results_dir: ResultsDir = RESULTS_DIR,
    as_json: AsJson = False,
) -> None:
    """Merge several runs of one plan, and show what varies between them."""
    from ..model import Verdict
    from ..results.aggregate import aggregate as merge_runs
    from ..ui.aggregate import print_aggregate

    content = merge_runs(find_all(runs, results_dir), allow_different_plans)
    if as_json:
        out(json.dumps(content, indent=1))
    else:
        print_aggregate(content)
    raise typer.Exit(Verdict(content["verdict"]).exit_code)


@app.command()
def merge(
    runs: Runs,
    output: Annotated[Path, typer.Option("--output", "-o", help="New directory for the results.", show_default=False)],
    segments: Annotated[bool, typer.Option(help="The runs are of the same agents, one after the other.")] = False,
    allow_different_plans: Annotated[bool, typer.Option(help="Merge runs whose plans differ.")] = False,
    results_dir: ResultsDir = RESULTS_DIR,
    as_json: AsJson = False,
) -> None:
    """Write runs of several controllers, or segments, as one results directory."""
    from .. import results
    from ..results.union import merge_runs

    found = merge_runs(find_all(runs, results_dir), output, allow_different_plans=allow_different_plans, segments=segments)
    if as_json:
        out("".join(results.json_lines(found.content)).rstrip())
    elif segments:
        from ..ui.aggregate import print_aggregate

        print_aggregate(found.content)
        out(f"results: {output}")
    else:
        from ..results.network import links
        from ..ui.summary import print_summary

        print_summary(results.summary(found), output, links=links(found.content))
    raise typer.Exit(found.verdict.exit_code)


@app.command()
def export(
    runs: Runs,
    form: Annotated[Literal["csv", "parquet", "json", "xlsx"], typer.Option("--format", help="xlsx: one workbook; else a file per table.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory, or the workbook; default: here, by the run's id.", show_default=False)
    ] = None,
    results_dir: ResultsDir = RESULTS_DIR,
) -> None:
    """Write the results of runs as tables for other programs."""
    from ..results.export import export as write_tables

    for path in write_tables(find_all(runs, results_dir), form, output):
        out(str(path))


@app.command()
def compare(
    runs: Annotated[list[str], named_runs("Run directories or ids of runs: two, or several a side with the word vs between the sides.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if", help="'get.p99 > +5%', 'mix/put.ops_per_s < -5%': exit code 7 then; may be repeated.", show_default=False
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(min=50, max=99.999, help="Percent, of all judged figures together.")] = 99.0,
    least: Annotated[
        float | None,
        typer.Option(min=0, help="Percent; smaller changes are no difference.", show_default="1 with several runs on a side, else 3"),
    ] = None,
    allow_partial: Annotated[bool, typer.Option(help="Also compare runs that are PARTIAL.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show all figures, not only those that decide.")] = False,
    results_dir: ResultsDir = RESULTS_DIR,
    as_json: AsJson = False,
) -> None:
    """What differs between runs, and whether it is more than chance: sai3ssh compare OLD... vs NEW..."""
    from ..model import to_json
    from ..results import compare as comparing
    from ..ui.compare import print_comparison

    base, new = _sides(runs)
    found = comparing.compare(
        find_all(base, results_dir),
        find_all(new, results_dir),
        allow_partial=allow_partial,
        confidence=confidence / 100,
        least=None if least is None else least / 100,
        conditions=[comparing.parse_condition(text) for text in fail_if or ()],
    )
    if as_json:
        out(json.dumps(to_json(found), indent=1))
    else:
        print_comparison(found, every=every)
    raise typer.Exit(REGRESSED if found.failed else 0)


def _sides(runs: list[str]) -> tuple[list[str], list[str]]:
    from ..errors import ConfigError

    at = [number for number, run in enumerate(runs) if run == "vs"]
    base, new = (runs[: at[0]], runs[at[0] + 1 :]) if at else (runs[:1], runs[1:])
    if not base or not new or len(at) > 1 or (not at and len(runs) != 2):
        raise ConfigError(
            f"{len(runs) - len(at)} runs and {len(at)} times vs given, expected two runs, or runs of both sides with one vs between them",
            remedy="Write for example: sai3ssh compare runs/old-* vs runs/new-*",
        )
    return base, new


@app.command()
def serve(
    results_dir: Annotated[Path, typer.Argument(help="Results directory: the one that run directories are in.")] = RESULTS_DIR,
    listen: Listen = None,
    token: Token = False,
    token_file: TokenFile = None,
    grafana: Annotated[bool, typer.Option("--grafana", help="Print the dashboard for Grafana, and do nothing else.")] = False,
) -> None:
    """Show all runs of a directory on a live page, and their metrics at /metrics for Prometheus. Reads only; Ctrl-C ends it."""
    from ..errors import ConfigError

    if grafana:
        from ..web.grafana import dashboard

        out(dashboard())
        return
    from ..web import server

    if (results_dir / "plan.json").is_file():
        raise ConfigError(
            f"{results_dir} is one run", remedy=f"Name the directory that it is in: sai3ssh serve {results_dir.resolve().parent}"
        )
    if not results_dir.is_dir():
        raise ConfigError(f"{results_dir} is no directory", remedy="Name the directory that run directories go to (--results-dir)")
    place = server.listen(listen or server.DEFAULT, token_file=token_file, want_token=token)
    server.serve(results_dir, place, said=lambda url: err(f"runs of {results_dir}: {url}"))
