"""`sai3ssh run` of a workload file with a matrix: runs of one combination after the other, which can be gone on with; their report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .config import Combination
from .controller.rundir import RunDirectory, new_run_id
from .errors import ConfigError, Sai3sshError
from .model import Verdict
from .results import matrix as results
from .steering import ended, err, out, pause, try_report

REPORT = "report.html"
FINISHED = tuple(verdict.exit_code for verdict in Verdict)


@dataclass
class Series:
    """A matrix and the runs that it has so far, kept in a directory of its own beside them."""

    path: Path
    combinations: Sequence[Combination]
    runs: list[list[Path]] = field(default_factory=list)
    """Of each combination."""
    _known: dict[int, tuple[list[Path], results.Entry]] = field(default_factory=dict, repr=False)
    """By combination, with the runs that it was of."""

    @classmethod
    def begin(cls, results_dir: Path, name: str, combinations: Sequence[Combination]) -> Series:
        """A new one."""
        path = results_dir / new_run_id(f"matrix-{name}")
        path.mkdir(parents=True)
        return cls(path, combinations, [[] for _ in combinations])

    @classmethod
    def go_on(cls, path: Path, combinations: Sequence[Combination]) -> Series:
        """One that was interrupted. Raises ConfigError when it is none, or of another matrix."""
        content = results.read(path)
        if [entry["values"] for entry in content["combinations"]] != [combination.values for combination in combinations]:
            raise ConfigError(
                f"{path} is of another matrix than the workload file has now", remedy="Give the file as it was, or begin anew"
            )
        runs = [[path.resolve().parent / name for name in entry["runs"]] for entry in content["combinations"]]
        gone = [run for some in runs for run in some if not (run / "plan.json").is_file()]
        if gone:
            raise ConfigError(f"run {gone[0]} of this matrix is not there", remedy="Bring it back, or begin anew")
        # One that was stopped says less than it was to say: it is run again.
        return cls(path, combinations, [[run for run in some if not _stopped(run)] for some in runs])

    def note(self, *, anew: bool = False) -> results.Json:
        """Writes down which runs there are and what they found; returns that. `anew`: also of runs whose results were read before."""
        if anew:
            self._known.clear()
        entries = [self._entry(number, one.values) for number, one in enumerate(self.combinations)]
        content = results.together(list(self.combinations[0].values), entries)
        results.write(self.path, content)
        return content

    def _entry(self, number: int, values: dict[str, str]) -> results.Entry:
        runs = self.runs[number]
        known = self._known.get(number)
        if known is not None and known[0] == runs:
            return known[1]
        found = _entry(values, runs)
        if len(found[0]["each"]) == len(runs):
            self._known[number] = (list(runs), found)
        return found


def _entry(values: dict[str, str], runs: Sequence[Path]) -> results.Entry:
    """A combination with the runs that it has, of which those that have ended count."""
    over = [run for run in runs if ended(RunDirectory(run).history())]
    entry, rows = results.combination(values, over)
    if runs and not over:
        entry["reasons"] = [f"its run {runs[-1].name} has not ended"]
    return {**entry, "runs": [run.name for run in runs]}, rows


def find(name: str, results_dir: Path) -> Path | None:
    """The directory of a series by its path, or by its name or the beginning of it below results_dir, where no run begins like that; None
    when there is none."""
    for path in (Path(name), results_dir / name):
        if (path / results.FILE).is_file():
            return path
    known = (path for file in ("plan.json", results.FILE) for path in results_dir.glob(f"*/{file}"))
    matching = [path for path in known if name and path.parent.name.startswith(name)]
    return matching[0].parent if len(matching) == 1 and matching[0].name == results.FILE else None


def document(path: Path, beside: Path) -> results.Json:
    """What the report of a series shows, its runs as they are now; a combination with a run that is not there, as it was noted. `beside`
    is the directory that the report will be in. Raises ConfigError."""
    noted = results.read(path)
    runs = [[path.resolve().parent / name for name in entry["runs"]] for entry in noted["combinations"]]
    entries: list[results.Entry] = []
    for position, (entry, some) in enumerate(zip(noted["combinations"], runs, strict=True)):
        gone = [run.name for run in some if not (run / "plan.json").is_file()]
        if gone:
            rows = [row for row in noted["rows"] if row["combination"] == position]
            reasons = [*entry["reasons"], f"run {gone[0]} is not there: its figures are as they were noted"]
            entries.append(({**entry, "reasons": reasons}, rows))
        else:
            entries.append(_entry(entry["values"], some))
    return _document(path, results.together(noted["axes"], entries), runs, beside)


def _document(path: Path, content: results.Json, runs: Sequence[Sequence[Path]], beside: Path) -> results.Json:
    from . import report

    name = path.resolve().name
    series = {"run_id": name, "name": re.sub(r"^matrix-(.+)-\d{8}T\d{6}Z-[0-9a-f]{4}$", r"\1", name)}
    return report.matrix(content, runs, series, beside)


def document_of_runs(runs: Sequence[Path], beside: Path) -> results.Json:
    """What the report of several runs of one plan shows. Raises ConfigError as results.aggregate does."""
    from . import report

    series = {"run_id": "", "name": f"{runs[0].resolve().name} and {len(runs) - 1} more"}
    return report.matrix(results.matrix([], [({}, runs)]), [[run.resolve() for run in runs]], series, beside)


def _stopped(run: Path) -> bool:
    history = RunDirectory(run).history()
    return ended(history) is not None and any(event["event"] == "stop_requested" for event in history)


def run(
    series: Series,
    create: Callable[[Combination], RunDirectory],
    once: Callable[[RunDirectory], int],
    go_on: Callable[[RunDirectory], int],
    repeat: int,
    pause_s: float,
    *,
    as_json: bool,
) -> int:
    """Runs what is missing of each combination, `repeat` times, and shows them side by side; the exit code. A run that fails costs only
    itself; one that was interrupted ends the series, which can be gone on with. `go_on` steers a run that has begun."""
    from .ui.matrix import print_matrix

    def look_back() -> results.Json:
        content = series.note(anew=True)
        try_report(lambda: _document(series.path, content, series.runs, series.path.resolve()), series.path)
        return content

    begun = False
    code = 0
    for number, combination in enumerate(series.combinations):
        runs = series.runs[number]
        while code in (0, *FINISHED):
            directory = RunDirectory(runs[-1]) if runs else None
            if directory is None or ended(directory.history()):
                if len(runs) >= repeat:
                    break
                if begun:
                    pause(pause_s)
                try:
                    directory = create(combination)
                except Sai3sshError:
                    if any(series.runs):
                        look_back()
                        err(f"Once that is mended, go on with the same command and --continue {series.path}")
                    raise
                runs.append(directory.path)
                series.note()
                steer = once
            else:
                steer = go_on
            begun = True
            if not as_json:
                values = ", ".join(f"{axis} {value}" for axis, value in combination.values.items())
                out(f"combination {number + 1} of {len(series.combinations)} ({values}): {directory.path.name}")
            code = steer(directory)
    content = look_back()
    if as_json:
        out(json.dumps(content))
    else:
        print_matrix(content)
        out(f"  {series.path / REPORT}")
    if code not in FINISHED:
        err(f"Go on with the same command and --continue {series.path}")
        return code
    return Verdict(content["verdict"]).exit_code
