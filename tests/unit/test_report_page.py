"""The HTML file of a report, and the command that writes it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import cli, report, steering
from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.report import page

from .test_report_document import ENDED, STARTED
from .test_results import SECOND, whole, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "r", [whole("a", 5 * SECOND)], *STARTED, ENDED)
    (tmp_path / "r" / "controller.json").write_text(json.dumps({"start_delay_s": 2.0}))
    return tmp_path / "r"


def told(file: Path) -> dict[str, Any]:
    """The document in a report."""
    (packed,) = re.findall(r'<script type="application/octet-stream" id="document">([A-Za-z0-9+/=]+)</script>', file.read_text())
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return found


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sai3ssh", "report", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_a_report_has_everything_in_it_and_may_run_nothing_else(run: Path) -> None:
    file = report.write(report.document(run), run)
    text = file.read_text()
    assert file == run / "report.html"
    assert told(file)["run"]["run_id"] == "r1"
    assert not re.search(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:,")', text)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy.startswith("default-src &#39;none&#39;;")
    assert "unsafe" not in policy
    inline = re.findall(r"<script>(.*?)</script>", text, re.DOTALL) + re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in inline}
    assert set(re.findall(r"sha256-([A-Za-z0-9+/=]+)", policy)) == hashes
    assert len(hashes) == 4
    assert "Apache Software Foundation" in text
    assert "Copyright (c) 2017, Baidu Inc." in text


def test_our_own_sources_can_stand_in_a_script_element() -> None:
    for file in (resources.files(report) / "static").iterdir():
        assert not re.search(r"</(?:script|style)|<!--", file.read_text(encoding="utf-8"), re.IGNORECASE), file.name
    unused = {file.name for file in (resources.files(report) / "static").iterdir()} - {
        *page.SCRIPTS,
        *page.MATRIX_SCRIPTS,
        "echarts.min.js",
        "boot.js",
        "report.css",
    }
    assert unused == set()


def test_the_command_writes_it_where_it_is_wanted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, str(run)) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert command(monkeypatch, str(run), "-o", str(tmp_path / "x.html")) == 0
    assert told(tmp_path / "x.html")["state"] == "ended"
    capsys.readouterr()
    assert command(monkeypatch, str(run), "--json") == 0
    assert json.loads(capsys.readouterr().out)["format"] == "sai3ssh.document"
    assert command(monkeypatch, str(run), "-o", str(tmp_path / "nowhere" / "x.html")) == 2
    said = capsys.readouterr().err
    assert said == f"sai3ssh: the report cannot be written: {tmp_path}/nowhere/x.html: No such file or directory. Name a place with -o\n"


def test_a_run_that_cannot_be_read_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "hosts.json").write_text("{")
    assert command(monkeypatch, str(run)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sai3ssh: run {run} cannot be read: JSONDecodeError")
    assert said.count("\n") == 1


def test_a_run_does_not_fail_for_the_want_of_a_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").mkdir()
    ended: list[dict[str, Any]] = []
    code = steering.conclude(RunDirectory(run), as_json=True, tell=lambda **fields: ended.append(fields))
    assert (code, ended[0]["verdict"]) == (0, "COMPLETE")
    assert "the report cannot be written" in capsys.readouterr().err
