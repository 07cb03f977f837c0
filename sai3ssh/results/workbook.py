"""Runs as one Excel workbook, laid out as users of sai3-analyze know it: a sheet per stage with the 13 columns of its results, and a sheet
with the log by second."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import xlsxwriter
from xlsxwriter.worksheet import Worksheet

from .files import Results
from .merge import read_inputs
from .tables import PERF_COLUMNS, RESULT_COLUMNS, comments, perf_log, results_table

Json = dict[str, Any]
MOST_ROWS = 1_048_576
"""Of a sheet, by Excel; what is more goes on in the next one."""
LONGEST_NAME = 31
RUN_COLUMNS = ("run_id", "name", "verdict", "coverage", "agents_expected", "agents_reported", "reasons")
TEXTS = {"operation", "size_bucket", "agent_id", "stage", "run_id", "name", "verdict", "reasons"}


def write_workbook(path: Path, runs: Mapping[Path, Results]) -> None:
    """Writes the workbook: `runs` with verdicts, then for each run a sheet per stage (`01_read`; of several runs `a1b2-01_read`, which
    begins with the end of the run's id), whose last lines say what the TSV files say in theirs, and `perf_log`.

    Texts are texts, whatever they begin with; numbers are numbers, and have a format. Raises OSError.
    """
    # In memory, because the library's own handling of a full disk ends in a traceback.
    whole = io.BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(whole, options) as book:
        sheets = _Sheets(book)
        sheets.table("runs", RUN_COLUMNS, [_run_row(results.content) for results in runs.values()])
        for directory, results in runs.items():
            content = results.content
            head = f"{str(content['run_id']).rpartition('-')[2]}-" if len(runs) > 1 else ""
            remarks = comments(content)
            for stage in content["stages"]:
                text = results_table(content, stage["operations"], stage["seconds"])
                rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]
                sheets.table(f"{head}{stage['index'] + 1:02d}_{stage['name']}", RESULT_COLUMNS, rows, remarks)
            inputs = read_inputs(directory)
            lines = perf_log(content, inputs.agents, [stage.name for stage in inputs.plan.stages])
            log = (line.rstrip("\n").split("\t") for line in islice(lines, len(remarks) + 1, None))
            sheets.table(f"{head}perf_log", PERF_COLUMNS, log, remarks)
    path.write_bytes(whole.getbuffer())


def _run_row(content: Json) -> list[str]:
    agents = content["agents"]
    figures = (content["coverage"], agents["expected"], agents["reported"])
    return [content["run_id"], content["name"], content["verdict"], *map(str, figures), "; ".join(content["reasons"])]


class _Sheets:
    """Sheets of a workbook, each with a header that stays in sight."""

    def __init__(self, book: xlsxwriter.Workbook) -> None:
        self._book = book
        self._taken: set[str] = set()
        self._bold = book.add_format({"bold": True, "bottom": 1})
        self._formats = {form: book.add_format({"num_format": form}) for form in ("#,##0", "#,##0.00", "0", "0.0", "0.000", "0.00%")}

    def table(self, name: str, columns: Sequence[str], rows: Iterator[list[str]] | list[list[str]], remarks: Sequence[str] = ()) -> None:
        """A table of texts, in as many sheets as it needs, with remarks below it."""
        remaining = iter(rows)
        room = MOST_ROWS - 2 - len(remarks)
        while True:
            sheet = self._book.add_worksheet(self._free(name))
            sheet.freeze_panes(1, 0)
            formats = [self._format(column) for column in columns]
            for at, column in enumerate(columns):
                sheet.write_string(0, at, column, self._bold)
                sheet.set_column(at, at, max(9, len(column) + 2))
            last = 0
            for last, row in enumerate(islice(remaining, room), 1):
                self._row(sheet, last, columns, formats, row)
            for number, remark in enumerate(remarks, last + 2):
                sheet.write_string(number, 0, remark)
            following = next(remaining, None)
            if following is None:
                return
            remaining = _with(following, remaining)

    def _row(self, sheet: Worksheet, number: int, columns: Sequence[str], formats: Sequence[Any], row: Sequence[str]) -> None:
        for at, (column, form, text) in enumerate(zip(columns, formats, row, strict=True)):
            if column in TEXTS:
                sheet.write_string(number, at, text)
            elif text not in ("", "nan"):
                sheet.write_number(number, at, float(text), form)

    def _format(self, column: str) -> Any:
        if column == "timestamp_epoch_ms":
            form = "0"
        elif column == "elapsed_s":
            form = "0.000"
        elif column == "coverage":
            form = "0.00%"
        elif column.endswith("_pct"):
            form = "0.0"
        elif column.endswith(("_us", "_per_sec", "_mibps", "_iops", "_mbps")):
            form = "#,##0.00"
        else:
            form = "#,##0"
        return self._formats[form]

    def _free(self, name: str) -> str:
        """The name as Excel takes one, and nobody else has it."""
        clean = re.sub(r"[\[\]:*?/\\\x00-\x1f]", "_", name).strip("'") or "_"
        number, found = 1, clean[:LONGEST_NAME]
        while found.lower() in self._taken or found.lower() == "history":
            number += 1
            end = f" ({number})"
            found = clean[: LONGEST_NAME - len(end)] + end
        self._taken.add(found.lower())
        return found


def _with(first: list[str], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rest
