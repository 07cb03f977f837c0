"""How checks are asked and written down: side by side, each timed, none of them able to end the others."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any, Callable, List, Optional, Sequence, Tuple, TypeVar, Union

from sai3ssh.findings import Finding, Level, skips

Question = Callable[[], Finding]
Job = Callable[["Sheet"], None]
T = TypeVar("T")

_BUG = "Run the preflight again; if it stays, report it with this line, and go on with --skip {check}"


def ok(found: str, **values: Any) -> Finding:
    """All is well; the sheet adds which check that was."""
    return Finding("", Level.OK, found, values=values)


def warning(found: str, expected: str, remedy: str, **values: Any) -> Finding:
    """Something will surprise, but a run can start."""
    return Finding("", Level.WARNING, found, expected, remedy, values=values)


def failure(found: str, expected: str, remedy: str, **values: Any) -> Finding:
    """A run would fail here."""
    return Finding("", Level.FAILURE, found, expected, remedy, values=values)


def skipped(found: str) -> Finding:
    """Not done, and why."""
    return Finding("", Level.SKIPPED, found)


class Sheet:
    """The findings of one line of checks, in order. Written by one thread; may be read by another at any time."""

    def __init__(self, skip: Sequence[str] = ()) -> None:
        self._skip = skip
        self._entries: List[Union[Finding, Sheet]] = []
        self._asking: Optional[Tuple[str, str, float]] = None

    def child(self) -> Sheet:
        """A sheet for another thread, whose findings come at this place."""
        sheet = Sheet(self._skip)
        self._entries.append(sheet)
        return sheet

    def skips(self, check: str) -> bool:
        """Whether the user has it left out."""
        return skips(check, self._skip)

    def add(self, check: str, finding: Finding, subject: str = "", seconds: float = 0.0) -> Level:
        """Writes a finding down."""
        self._entries.append(replace(finding, check=check, subject=subject, seconds=round(seconds, 4)))
        return finding.level

    def ask(self, check: str, question: Question, subject: str = "") -> Level:
        """Asks a question and writes the answer down, unless the user has it left out. What it raises is a FAILURE of this check."""
        if self.skips(check):
            return self.add(check, skipped("left out on request (--skip)"), subject)
        began = time.monotonic()
        self._asking = (check, subject, began)
        try:
            answer = question()
        except Exception as error:  # whatever it is: the other findings must be told
            what = f"could not be done: {type(error).__name__}: {error}"
            answer = failure(" ".join(what.split()), "an answer", _BUG.format(check=check))
        self._asking = None
        return self.add(check, answer, subject, time.monotonic() - began)

    def findings(self) -> List[Finding]:
        """What there is so far; a question without an answer is a FAILURE."""
        found: List[Finding] = []
        for entry in list(self._entries):
            found += entry.findings() if isinstance(entry, Sheet) else [entry]
        asking = self._asking
        if asking is not None:
            check, subject, began = asking
            seconds = time.monotonic() - began
            answer = failure(
                f"no answer within {seconds:.0f} s",
                "an answer within seconds",
                "Look for what hangs on the host: a network file system that does not answer, a name server, an overloaded machine",
            )
            found.append(replace(answer, check=check, subject=subject, seconds=round(seconds, 4)))
        return found


def side_by_side(sheet: Sheet, jobs: Sequence[Job], deadline: float) -> None:
    """Carries the jobs out at once, each on a sheet of its own; returns when all have ended or time.monotonic() is `deadline`."""

    def carry_out(job: Job, child: Sheet) -> None:
        try:
            job(child)
        except Exception as error:  # between two questions: told like all else
            child.ask("preflight", partial(_raise, error))

    threads = [threading.Thread(target=carry_out, args=(job, sheet.child()), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _raise(error: Exception) -> Finding:
    raise error


def within(timeout_s: float, function: Callable[[], T]) -> T:
    """What the function returns or raises; TimeoutError when it takes longer, and it is then left behind."""
    results: List[T] = []
    errors: List[Exception] = []

    def call() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {timeout_s:.1f} s")
    return results[0]


def size(n: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError
