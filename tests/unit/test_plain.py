"""What hosts and storage say does nothing to the terminal that shows it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.table import Table

from sai3ssh import results, steering
from sai3ssh.plain import plain
from sai3ssh.ui.summary import print_summary
from sai3ssh.ui.terminal import Terminal

from .test_results import SECOND, whole, write_run

HOSTILE = "x\x1b]0;PWNED\x07\x1b[31m\x9b2J\u202egnp [red]y[/] [/z]\r\ud800"
SHOWN = r"x\u001b]0;PWNED\u0007\u001b[31m\u009b2J\u202egnp [red]y[/] [/z]\u000d\ud800"


def test_what_a_terminal_would_obey_is_shown_as_json_has_it() -> None:
    assert plain(HOSTILE) == SHOWN
    assert plain("tab\there, é and 本, two\nlines") == "tab\there, é and 本, two\nlines"
    assert json.loads(plain(json.dumps(HOSTILE, ensure_ascii=False))) == HOSTILE


@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_shows_texts_as_they_are(terminal: bool) -> None:
    out = io.StringIO()
    console = Terminal(file=out, width=200, force_terminal=terminal, highlight=False)
    table = Table("head")
    table.add_row(HOSTILE)
    console.print(table)
    console.print(HOSTILE, soft_wrap=True, style="red")
    assert out.getvalue().count(SHOWN) == 2
    assert ("\x1b[31m" in out.getvalue()) == terminal, "its own colours stay"


def test_lines_of_commands_show_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    steering.out(HOSTILE)
    steering.err(HOSTILE)
    assert tuple(capsys.readouterr()) == (SHOWN + "\n", SHOWN + "\n")


def test_what_a_host_says_reaches_neither_terminal_nor_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_run(tmp_path / "r", [whole("h1", 5 * SECOND)], {"at": 3.0, "event": "abort", "reason": HOSTILE}, complete=False)
    assert HOSTILE in " ".join(written.reasons)
    for name in ("STATUS.txt", "01_mix_results.tsv", "perf_log.tsv"):
        text = (tmp_path / "r" / name).read_text()
        assert SHOWN in text
        assert "\x1b" not in text
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    print_summary(results.summary(written), tmp_path)
    assert SHOWN.replace("\\u0007", "").replace("\\u000d", "") in out.getvalue(), "what Rich takes out by itself is gone"
    assert "\x1b" not in out.getvalue()
