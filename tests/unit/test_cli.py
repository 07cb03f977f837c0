"""The command line: fast to start, one message for each error, clean ends."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sai3ssh import __version__, cli
from sai3ssh.commands.options import find_all
from sai3ssh.controller.eventlog import EventLog, read
from sai3ssh.controller.rundir import new_run_id
from sai3ssh.controller.survey import known_here
from sai3ssh.errors import Permanent

# Not pydantic: typer itself imports that.
HEAVY = {"ansible", "boto3", "pandas", "paramiko", "scipy", "starlette", "tenacity", "yaml"}


def invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["sai3ssh", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_version_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sai3ssh import cli\nsys.argv = ['sai3ssh', 'version', '--json']\n"
        "try:\n    cli.main()\nfinally:\n    print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    version, modules = done.stdout.splitlines()
    assert set(json.loads(version)) == {"sai3ssh", "protocol", "python"}
    assert not HEAVY & set(eval(modules))


@pytest.mark.parametrize("command", list(typer.main.get_command(cli.app).commands))
def test_every_option_is_explained(command: str) -> None:
    for parameter in typer.main.get_command(cli.app).commands[command].params:
        assert parameter.help, f"{command}: {parameter.name}"


@pytest.mark.parametrize(("key", "text"), [("", "100 %"), ("distributed: {min_coverage: 99.5%}\n", "99.5 %")])
def test_validate_says_what_complete_needs(
    key: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.yml"
    file.write_text(f"target: file://{tmp_path}/\nworkload: [{{op: put, path: new/, weight: 1, size_spec: 1}}]\n{key}")
    assert invoke(monkeypatch, "validate", str(file)) == 0
    assert f"COMPLETE needs {text} of all agent-seconds measured (min_coverage)\n" in capsys.readouterr().out


def test_validate_says_sizes_as_a_file_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.yml"
    sizes = ("64KiB", "{type: uniform, min: 1, max: 3MiB}")
    entries = ", ".join(f"{{base_uri: {number}/, count: 1, size_spec: {size}}}" for number, size in enumerate(sizes))
    file.write_text(f"target: s3://bench/x/\nprepare: {{ensure_objects: [{entries}]}}\nworkload: []\n")
    assert invoke(monkeypatch, "validate", str(file), "--json") == 0
    described = json.loads(capsys.readouterr().out)["description"]
    assert [part["size"] for part in described["populations"]] == ["64KiB", "uniform 1 bytes to 3MiB"]


def test_the_version_is_an_option_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"sai3ssh {__version__}\n"


@pytest.mark.parametrize("command", ["results", "aggregate", "export --format csv", "merge -o new", "compare", "report", "attach"])
def test_runs_are_named_by_the_beginning_of_their_id(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in ("mixed-1", "other-1"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "plan.json").touch()
    assert find_all(["oth", str(tmp_path / "mixed-1")], tmp_path) == [tmp_path / "other-1", tmp_path / "mixed-1"]
    runs = ["absent"] if command in ("results", "report", "attach") else ["absent", "oth"]
    assert invoke(monkeypatch, *command.split(), *runs, "--results-dir", str(tmp_path)) == 2
    assert f"no run absent in {tmp_path}. `sai3ssh status` lists the runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "nope.yml", "-i", "hosts.yml"], "nope.yml: cannot read the workload file: No such file or directory"),
        (["validate", "bad.yml"], "bad.yml:2:1: unknown key 'worklod'; did you mean 'workload'?\nbad.yml:3:1: duration: expected"),
        (["run", "good.yml"], "no inventory given. Name one with -i, for example -i inventory/hosts.yml"),
        (["calibrate", "-i", "h,", "--size", "4KiB,big"], "--size: expected a size such as 4096, 64KiB or 8MB"),
        (["run", "good.yml", "-i", "h,", "--skip", "net.pign"], "--skip net.pign: there is no such check. Did you mean net.ping?"),
        (["preflight", "-i", "h,", "--ports", "22,http"], "--ports: 'http' is no port (1 to 65535)"),
        (["preflight", "-i", "h,", "--idle-test", "long"], "--idle-test: "),
        (["preflight"], "no inventory given"),
        (["results", "."], ". is no run directory: it has no plan.json. Name a directory below --results-dir"),
    ],
)
def test_a_wrong_use_is_one_message_and_exit_code_2(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yml").write_text("target: s3://bucket/\nworklod: []\nduration: [1]\n")
    Path("good.yml").write_text("target: file:///tmp/x/\nduration: 1s\nworkload:\n  - {op: put, path: x/, weight: 1, size_spec: 1KiB}\n")
    assert invoke(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"sai3ssh: {text}")
    assert "Traceback" not in err
    assert not Path("sai3ssh-runs").exists()


def test_an_interrupt_is_130_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Path) -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr("sai3ssh.controller.survey.known_here", interrupted)
    assert invoke(monkeypatch, "status") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error_message(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    argv = [sys.executable, "-m", "sai3ssh.cli", "status", "--results-dir", str(tmp_path)]
    done = subprocess.run(argv, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write_end)
    assert done.returncode != 0
    assert done.stderr == ""


def test_status_knows_the_runs_of_a_results_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, verdict in (("over", "COMPLETE"), ("going-on", None)):
        (tmp_path / name / "agents" / "a").mkdir(parents=True)
        (tmp_path / name / "plan.json").write_text("{}")
        log = EventLog(tmp_path / name / "events.ndjson", wall_s=lambda: 1_700_000_000.0)
        log.append("run_created", run_id=name)
        if verdict:
            log.append("run_ended", verdict=verdict)
        log.close()
    assert [(run["run_id"], run["agents"], run["verdict"], run["last_event"]) for run in known_here(tmp_path)] == [
        ("over", 1, "COMPLETE", "run_ended"),
        ("going-on", 1, None, "run_created"),
    ]
    assert invoke(monkeypatch, "status", "--results-dir", str(tmp_path), "--json") == 0
    assert [run["run_id"] for run in json.loads(capsys.readouterr().out)["here"]] == ["over", "going-on"]


def test_a_torn_last_event_is_passed_over(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.ndjson")
    log.append("run_created")
    log.close()
    with (tmp_path / "events.ndjson").open("a") as file:
        file.write('{"at": 17')
    assert [event["event"] for event in read(tmp_path / "events.ndjson")] == ["run_created"]


def test_an_event_that_does_not_fit_on_the_disk_leaves_nothing_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    log = EventLog(path)
    log.append("run_created")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(Permanent, match="make room on this machine, then resume the run"):
            log.append("link_up", agent="a", down_s=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.append("link_up", agent="b")
    log.close()
    assert [event["event"] for event in read(path)] == ["run_created", "link_up"]


def test_run_ids_are_unique_and_valid_file_names() -> None:
    ids = {new_run_id("../my run!") for _ in range(50)}
    assert len(ids) > 45
    assert all(id_.startswith("my-run-") and "/" not in id_ and not id_.startswith(".") for id_ in ids)


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"[]\n", b'{"at": 1}\n', b'{"event": "x"\n'])
def test_a_log_that_is_none_makes_one_run_unreadable_and_no_other(line: bytes, tmp_path: Path) -> None:
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text("{}")
        log = EventLog(tmp_path / name / "events.ndjson")
        log.append("run_ended", verdict="COMPLETE")
        log.close()
    path = tmp_path / "bad" / "events.ndjson"
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(Permanent, match=r"events\.ndjson:2: expected an event"):
        list(read(path))
    assert {run["run_id"]: run["last_event"] for run in known_here(tmp_path)} == {"bad": "unreadable", "good": "run_ended"}


@pytest.mark.parametrize("text", ["", "[]", '{"verdict": "COM', '{"verdict": "COMPLETE", "reasons": [], "stages": [], "agents": {}}'])
def test_results_that_are_none_are_an_error_of_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "results.json").write_text(text)
    assert invoke(monkeypatch, "results", str(tmp_path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected the results of a run as this version writes them" in line
