"""Preflight's report, names, folding of causes and what it says of a fleet; nothing is connected to."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import sai3ssh
from sai3ssh.config import compile_plan, load
from sai3ssh.errors import ConfigError
from sai3ssh.findings import Finding, Level
from sai3ssh.model import Assignment, Host, OperationSpec, Plan, Ranges, Replay, Spread, Stage, StageKind, Target
from sai3ssh.preflight import FLEET, Report, check_skip, parse_ports, preflight_failed, write_junit
from sai3ssh.preflight.demand import demand
from sai3ssh.preflight.examine import _fold
from sai3ssh.preflight.fleet import fleet_findings
from sai3ssh.preflight.names import CHECKS, ON_HOSTS, groups
from sai3ssh.preflight.ping import Pings
from sai3ssh.preflight.report import Notes
from sai3ssh.ui.preflight import print_report, print_warnings

WORKLOAD = """
target: s3://bucket/run/
duration: 100s
concurrency: 64
workers: 4
s3: {{endpoint_url: "http://127.0.0.1:1"}}
{more}
prepare:
  cleanup: true
  ensure_objects:
    - {{base_uri: data/, count: 1000, size_spec: 4KiB}}
workload:
  - {{op: get, path: data/, weight: 1}}
  - {{op: put, path: new/, weight: 1, size_spec: 1KiB}}
  - {{op: list, path: other/, weight: 0}}
"""


def plan_of(tmp_path: Path, names: list[str], more: str = "") -> tuple[Plan, list[Assignment], Any]:
    file = tmp_path / "w.yml"
    file.write_text(WORKLOAD.format(more=more))
    workload = load(file, {})
    plan, assignments = compile_plan(workload, "r", [Host(name, name) for name in names])
    from sai3ssh.config import describe

    return plan, assignments, describe(plan, assignments, workload)


def ok(check: str, **values: Any) -> Finding:
    return Finding(check, Level.OK, "fine", values=values)


def failure(check: str, subject: str = "", **values: Any) -> Finding:
    return Finding(check, Level.FAILURE, "broken thing", "a whole one", "repair it", subject, values)


def warning(check: str) -> Finding:
    return Finding(check, Level.WARNING, "odd thing", "an even one", "look at it")


def report() -> Report:
    skipped = Finding("ssh.auth", Level.SKIPPED, "cannot be done: ssh.port failed")
    return Report({"h1": [ok("net.dns"), ok("net.ping")], "h2": [warning("net.dns"), failure("ssh.port", "port 22"), skipped], FLEET: []})


def text_of(found: Report, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    print_report(found, console, **options)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_agent_checks_nothing_that_skip_does_not_know() -> None:
    sources = "".join(path.read_text() for path in (Path(sai3ssh.__file__).parent / "agent/preflight").glob("*.py"))
    used = set(re.findall(r'"((?:host|storage|file)\.[a-z_]+)"', sources))
    operations = {f"storage.{operation}" for operation in ("list", "put", "get", "stat", "delete")}
    assert used - set(ON_HOSTS) <= {"storage.probe"}
    assert set(ON_HOSTS) - used <= operations
    assert len(used) > 20


def test_the_operators_side_names_no_check_that_skip_does_not_know() -> None:
    sources = "".join(path.read_text() for path in (Path(sai3ssh.__file__).parent / "preflight").glob("*.py"))
    used = set(re.findall(r'"((?:net|ssh|fleet)\.[a-z_]+)"', sources))
    assert used == {check for check in CHECKS if check.startswith(("net.", "ssh.", "fleet."))}


@pytest.mark.parametrize(
    ("given", "expected"),
    [(["net.ping"], ("net.ping",)), (["storage", "net.ping", "storage"], ("storage", "net.ping")), (["all"], tuple(groups())), ([], ())],
)
def test_skip_takes_checks_groups_and_all(given: list[str], expected: tuple[str, ...]) -> None:
    assert check_skip(given) == expected


@pytest.mark.parametrize(
    ("given", "hint"), [("net.pong", "Did you mean net.ping?"), ("storag", "Did you mean storage?"), ("xyzzy", "Known are all")]
)
def test_an_unknown_name_to_skip_is_refused_with_the_known_ones(given: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)):
        check_skip([given])


def test_ports_of_the_command_line() -> None:
    assert parse_ports("7761, 7762,7761") == (7761, 7762)
    for wrong in ("77x", "0", "65536", "-1"):
        with pytest.raises(ConfigError, match="is no port"):
            parse_ports(wrong)


def test_only_failures_fail() -> None:
    found = report()
    assert found.exit_code == 5
    assert found.checks == 4
    assert found.failed_hosts() == ["h2"]
    error = preflight_failed(found)
    assert error.exit_code == 5
    assert str(error) == "preflight failed: h2: ssh.port port 22: broken thing. repair it"
    del found.findings["h2"][1]
    assert found.exit_code == 0
    assert found.summary() == {"skipped": [], "warnings": ["h2: net.dns: odd thing"]}


def test_json_has_every_finding() -> None:
    data = json.loads(json.dumps(report().to_json()))
    assert data["failed"] is True
    assert [one["level"] for one in data["hosts"]["h2"]["findings"]] == ["warning", "failure", "skipped"]
    assert data["hosts"]["h2"]["findings"][1]["remedy"] == "repair it"


def test_what_is_well_is_one_line_and_what_is_not_is_said_in_full() -> None:
    text = text_of(report())
    assert "h1  OK  2 checks\n" in text
    assert "fine" not in text
    for word in ("ssh.port", "port 22: broken thing", "expected: a whole one", "to do: repair it", "odd thing", "to do: look at it"):
        assert word in text
    assert "not done: ssh.auth (cannot be done: ssh.port failed)" in text
    assert text.splitlines()[-1] == "preflight: 2 hosts, 4 checks, 1 failure, 1 warning, 0.0 s"
    assert text_of(report(), verbose=True).count("fine") == 2


def test_what_several_hosts_have_alike_is_said_once() -> None:
    found = {name: [warning("host.clock_sync")] for name in ("h1", "h2", "h3")} | {"h4": [warning("host.clock_sync"), failure("ssh.port")]}
    text = text_of(Report({**found, FLEET: []}))
    assert text.count("odd thing") == text.count("look at it") == 1
    assert "the same on h2, h3, h4" in text
    assert [line for line in text.splitlines() if line.startswith("h")] == [
        "h1  WARNING  1 check",
        "h2  WARNING  1 check",
        "h3  WARNING  1 check",
        "h4  FAILURE  2 checks",
    ]
    assert "broken thing" in text
    assert text_of(Report({**found, FLEET: []}), verbose=True).count("odd thing") == 4


def test_the_same_warning_of_several_hosts_is_one_line() -> None:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    print_warnings(Report({"h1": [warning("net.ping")], "h2": [warning("net.ping")], FLEET: [warning("fleet.idle")]}), console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "warning h1: net.ping: odd thing (and h2). look at it",
        "warning fleet: fleet.idle: odd thing. look at it",
    ]


def test_junit_has_a_suite_per_host_and_fails_what_failed(tmp_path: Path) -> None:
    write_junit(report(), tmp_path / "out.xml")
    root = ET.parse(tmp_path / "out.xml").getroot()
    suites = {suite.get("name"): suite for suite in root.iter("testsuite")}
    assert list(suites) == ["h1", "h2", "fleet"]
    assert (suites["h2"].get("tests"), suites["h2"].get("failures"), suites["h2"].get("skipped")) == ("3", "1", "1")
    (case,) = [case for case in suites["h2"].iter("testcase") if case.find("failure") is not None]
    assert case.get("name") == "ssh.port port 22"
    failed = case.find("failure")
    assert failed is not None
    assert failed.get("message") == "broken thing; expected: a whole one; do: repair it"


def test_junit_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        write_junit(report(), tmp_path / "missing" / "out.xml")


def test_a_skipped_check_that_fails_is_skipped_and_told_once() -> None:
    notes = Notes(("ssh.auth", "net"))
    notes.fail("ssh.auth", "refused", "in", "do")
    notes.fail("net.ping", "lost", "none", "do")
    notes.ok("net.ping", "again")
    notes.leave(("ssh.auth", "ssh.clock"), "cannot be done")
    assert [(one.check, one.level.value, one.found) for one in notes.found] == [
        ("ssh.auth", "skipped", "skipped on request"),
        ("net.ping", "skipped", "skipped on request"),
        ("ssh.clock", "skipped", "cannot be done"),
    ]


def test_a_host_that_is_away_is_blamed_once() -> None:
    to_h2 = failure("host.reach", "h2:22", peer="h2", port=22)
    to_h3 = failure("host.reach", "h3:7761", peer="h3", port=7761)
    to_h4 = failure("host.reach", "h4:22", peer="h4", port=22)
    findings = {
        "h1": [to_h2, to_h3, to_h4],
        "h2": [failure("net.ping")],
        "h3": [failure("net.ports", "port 7761")],
        "h4": [ok("ssh.port")],
    }
    _fold(findings)
    assert [one.level.value for one in findings["h1"]] == ["skipped", "skipped", "failure"]
    assert "h2 is not reached from here either" in findings["h1"][0].found


def test_ping_figures() -> None:
    pings = Pings("ICMP", 5, [1.0, 3.0, 2.0, 2.0])
    assert (pings.lost, pings.loss, pings.jitter_ms) == (1, 0.2, 1.0)
    assert pings.values() == {
        "sent": 5, "lost": 1, "loss_percent": 20.0, "min_ms": 1.0, "avg_ms": 2.0, "max_ms": 3.0, "jitter_ms": 1.0,
    }  # fmt: skip
    assert str(pings) == "1 of 5 lost (ICMP), min/avg/max 1/2/3 ms, jitter 1 ms"


def test_what_a_plan_asks_of_a_host(tmp_path: Path) -> None:
    plan, assignments, _ = plan_of(tmp_path, ["h1", "h2"])
    found = demand(plan, assignments[0])
    # prepare and cleanup are budgeted with 600 s each, as the agent does.
    assert found["journal_bytes"] == 1300 * 1536 + 65536
    assert (found["op_log_bytes"], demand(replace(plan, op_log_bytes=7), assignments[0])["op_log_bytes"]) == (0, 7)
    assert found["open_files"] == 64 // 4 + 64
    trace = Stage("r", StageKind.REPLAY, 4, replay=Replay("s3://bucket/other/", ("put",), 9, 7000, 9))
    (other,) = demand(replace(plan, stages=(trace,)), assignments[0])["storage"]
    assert (other["uri"], other["operations"], other["write_bytes"]) == ("s3://bucket/other/", ["put"], 3500)
    ranged = replace(plan, target=replace(plan.target, ranges=Ranges(max_concurrent=10)))
    assert demand(ranged, assignments[0])["open_files"] == 64 // 4 * 10 + 64
    direct = replace(plan, populations=tuple(replace(p, target="direct:///d/") for p in plan.populations))
    assert demand(direct, assignments[0])["memory_bytes"] - found["memory_bytes"] == 64 * (768 << 10)
    copy = OperationSpec("copy", 1, "s3://bucket/run/new/", "prepared")
    copying = replace(plan, stages=(*plan.stages, replace(plan.stages[1], operations=(copy,))))
    assert demand(copying, assignments[0])["storage"][1]["operations"] == ["get", "put"]
    storage = {one["uri"]: one for one in found["storage"]}
    assert list(storage) == ["s3://bucket/run/data/", "s3://bucket/run/new/"]
    assert storage["s3://bucket/run/data/"]["operations"] == ["delete", "get", "put"]
    assert (storage["s3://bucket/run/data/"]["objects"], storage["s3://bucket/run/data/"]["write_bytes"]) == (500, 500 * 4096)
    assert (storage["s3://bucket/run/new/"]["operations"], storage["s3://bucket/run/new/"]["write_bytes"]) == (["put"], 0)


def test_every_endpoint_of_an_agent_is_looked_at(tmp_path: Path) -> None:
    plan, assignments, _ = plan_of(tmp_path, ["h1", "h2"])
    urls = ("http://a:1", "http://b:1", "http://c:1")
    several = replace(plan, target=replace(plan.target, endpoint_url=None, endpoints=urls), spreads=(Spread((0, 1)), Spread((2,))))
    found = [[(one["uri"][-5:], one["endpoint_url"]) for one in demand(several, mine)["storage"]] for mine in assignments]
    assert found == [[(path, url) for path in ("data/", "/new/") for url in urls[:2]], [("data/", urls[2]), ("/new/", urls[2])]]
    assert demand(several, assignments[0])["open_files"] == 64 * 2 // 4 + 64
    assert demand(several, assignments[0])["counters_bytes"] > demand(plan, assignments[0])["counters_bytes"]
    mounts = Target("file", endpoints=("file:///a/", "file:///b/"))
    moved = tuple(replace(p, target=p.target.replace("s3://bucket/", "file:///a/")) for p in plan.populations)
    files = replace(plan, target=mounts, populations=moved, stages=plan.stages[:1], spreads=(Spread((0, 1)),) * 2)
    assert [one["uri"] for one in demand(files, assignments[0])["storage"]] == ["file:///a/run/data/", "file:///b/run/data/"]


def fleet(
    tmp_path: Path, found: Report, names: list[str], more: str = "", idle: dict[str, float] | None = None, **options: bool
) -> dict[str, Finding]:
    plan, _, description = plan_of(tmp_path, names, more)
    notes = Notes(())
    fleet_findings(
        notes, found, [Host(name, name) for name in names], plan, description, idle or {}, **{"start_with_available": False, **options}
    )
    return {one.check: one for one in notes.found}


def test_a_fleet_that_is_well(tmp_path: Path) -> None:
    found = fleet(tmp_path, Report({"h1": [], "h2": []}, facts={"h1": {"boot": "a"}, "h2": {"boot": "b"}}), ["h1", "h2"])
    assert {one.level for one in found.values()} == {Level.OK}
    assert set(found) == {check for check in CHECKS if check.startswith("fleet.")}


@pytest.mark.parametrize(
    ("more", "available", "level"),
    [
        ("", False, Level.SKIPPED),
        ("distributed: {failure_policy: continue_if_majority}", True, Level.FAILURE),
        ("distributed: {failure_policy: best_effort}", True, Level.OK),
        ("distributed: {failure_policy: best_effort, min_agents_required: 2}", True, Level.FAILURE),
    ],
)
def test_whether_enough_agents_are_left(tmp_path: Path, more: str, available: bool, level: Level) -> None:
    found = Report({"h1": [failure("ssh.port")], "h2": [failure("host.disk")], "h3": []})
    assert fleet(tmp_path, found, ["h1", "h2", "h3"], more, start_with_available=available)["fleet.agents"].level is level


def test_two_names_of_one_machine_are_noticed(tmp_path: Path) -> None:
    facts = {"h1": {"boot": "a"}, "h2": {"boot": "b"}, "h3": {"boot": "a"}}
    found = fleet(tmp_path, Report({"h1": [], "h2": [], "h3": []}, facts=facts), ["h1", "h2", "h3"])["fleet.duplicates"]
    assert found.level is Level.WARNING
    assert "h1, h3 are the same machine" in found.found


def test_journals_on_one_disk_are_added_up(tmp_path: Path) -> None:
    facts = {"h1": {"boot": "a"}, "h2": {"boot": "a"}}
    one = 1300 * 1536 + 65536
    for free, level in ((2 * one, Level.OK), (2 * one - 1, Level.WARNING)):
        disks = {name: [ok("host.disk", free_bytes=free)] for name in facts}
        assert fleet(tmp_path, Report(disks, facts=facts), ["h1", "h2"])["fleet.volume"].level is level


def test_connections_that_need_more_ports_than_there_are(tmp_path: Path) -> None:
    found = fleet(tmp_path, Report({"h1": []}, facts={"h1": {"boot": "a", "host": {"ephemeral_ports": 100}}}), ["h1"])["fleet.concurrency"]
    assert found.level is Level.WARNING
    assert "64 connections at once and 100 local ports" in found.found


def test_links_must_speak_before_a_nat_forgets_them(tmp_path: Path) -> None:
    for heartbeat, level in (("10s", Level.OK), ("30s", Level.FAILURE)):
        more = f"distributed: {{heartbeat_interval: {heartbeat}}}"
        assert fleet(tmp_path, Report({"h1": []}), ["h1"], more, {"h1": 20.0})["fleet.idle"].level is level
