"""The parts of the live page: what is read as it grows, what Prometheus gets, who may see it."""

from __future__ import annotations

import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import Headers

from sai3ssh.controller.rundir import Steering
from sai3ssh.errors import ConfigError
from sai3ssh.model import Assignment, Host, to_json
from sai3ssh.protocol import encode_line
from sai3ssh.report import document
from sai3ssh.web import artefacts, metrics, server
from sai3ssh.web.catalogue import Catalogue
from sai3ssh.web.documents import Documents
from sai3ssh.web.grafana import dashboard
from sai3ssh.web.guard import Guard, cookie_of, name_of
from sai3ssh.web.lines import Lines
from sai3ssh.web.tally import RunTally, stage_names

from .test_results import PLAN, SECOND, FakeAgent, whole, write_run

WALL_S = 1_700_000_000.0


def at(second: float, event: str, **fields: Any) -> dict[str, Any]:
    return {"at": WALL_S + second, "event": event, **fields}


EVENTS = (
    at(0, "run_created", run_id="r1"),
    at(1, "link_up", agent="a", attempt=1, down_s=1.0, resumed_offset=0),
    at(2, "commit", stage=0, round=1, start_controller_ns=70 * SECOND),
    at(3, "stage_started", stage=0, name="mix"),
    at(5, "link_down", agent="a", cause="reset"),
    at(8, "link_up", agent="a", attempt=2, down_s=3.0, resumed_offset=900),
    at(9, "network", agent="a", rtt={"cells": [100, 3], "sum_ns": 3_000_000, "max_ns": 1_500_000}, resume_s=[]),
    at(13, "stage_ended", stage=0, name="mix"),
)
ENDED = at(14, "run_ended", verdict="COMPLETE", reasons=["all is well"], exit_code=0)


def written(path: Path, agents: list[FakeAgent], *events: dict[str, Any]) -> Path:
    """A run directory as a controller leaves it."""
    write_run(path, agents, *EVENTS, *events)
    names = [agent.name for agent in agents]
    told = [
        {**to_json(Assignment(name, n, len(names), {})), "host": name, "address": name, "connection": to_json(Host(name, name))}
        for n, name in enumerate(names)
    ]
    (path / "hosts.json").write_text(json.dumps({"agents": told}))
    (path / "controller.json").write_text(json.dumps(to_json(Steering())))
    log = [json.loads(line) for line in (path / "events.ndjson").read_text().splitlines()]
    log = sorted(({**event, "at": WALL_S + event["at"] % WALL_S} for event in log), key=lambda event: event["at"])
    # As the event log writes them.
    (path / "events.ndjson").write_text("".join(json.dumps(event, separators=(",", ":")) + "\n" for event in log))
    return path


# --- what grows --------------------------------------------------------------------------------------------------------------------------


def test_lines_are_read_once_and_only_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sai3ssh.web.lines.CHUNK_BYTES", 4)
    path = tmp_path / "x"
    lines = Lines(path)
    assert list(lines.new()) == []
    path.write_bytes(b"one\ntwenty-two\nth")
    assert list(lines.new()) == [b"one\n", b"twenty-two\n"]
    assert list(lines.new()) == []
    with path.open("ab") as file:
        file.write(b"ree\n\n")
    assert list(lines.new()) == [b"three\n", b"\n"]
    assert not lines.replaced
    path.write_bytes(b"one\n")
    assert lines.replaced


def test_a_document_that_grew_is_the_one_that_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pieces in which records and events came."""
    monkeypatch.setattr("sai3ssh.web.documents.LEAST_S", 0.0)
    monkeypatch.setattr("sai3ssh.web.documents.SHARE", -1)
    run = written(tmp_path / "r1", [whole("a", 5 * SECOND), whole("b", 900 * SECOND, mean_ns=4e6)])
    files = [run / "events.ndjson", *(run / "agents" / name / "journal.ndjson" for name in "ab")]
    content = {file: file.read_bytes() for file in files}
    documents = Documents(Catalogue(tmp_path))
    seen = []
    for share in (0.0, 0.21, 0.5, 0.77, 1.0):
        for file, data in content.items():
            file.write_bytes(data[: int(share * len(data))])
            os.utime(file, (0, 0))
        made = documents.of("r1")
        assert made is not None
        grown = json.loads(made.body)
        fresh = json.loads(json.dumps(document(run)))
        for one in (grown, fresh):
            # Of a run without a verdict the time that has passed.
            del one["written_at"], one["run"]["seconds"], one["run"]["started_at"]
        assert grown == fresh
        seen.append(sum(figures["ops"] for figures in grown["stages"][0]["operations"].values()))
    assert seen[-1] == 1000


@pytest.mark.parametrize(
    "fields", [b'"kind":"hist","stage":0,"clock_ns":1,"cells":7', b'"kind":"sec","stage":0,"ops":{"get":[1]}', b'"x":1']
)
def test_a_document_that_grows_by_a_record_that_is_none_of_ours_stays_as_it_was(tmp_path: Path, fields: bytes) -> None:
    run = written(tmp_path / "r1", [whole("a", 5 * SECOND), whole("b", 7 * SECOND)])
    with (run / "agents/a/journal.ndjson").open("ab") as mirror:
        mirror.write(encode_line(0, fields))
    made = Documents(Catalogue(tmp_path)).of("r1")
    assert made is not None
    assert json.loads(made.body)["stages"][0]["operations"]["get"]["ops"] >= 500


def test_a_run_that_is_too_large_for_memory_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "over", [whole("a", 5 * SECOND)], ENDED)
    written(tmp_path / "live", [whole("a", 5 * SECOND)])
    monkeypatch.setattr("sai3ssh.web.documents.MOST_BYTES", 1000)
    documents = Documents(Catalogue(tmp_path))
    with pytest.raises(ConfigError, match="run live has 0 MiB of journals: its plots are not drawn while it goes on"):
        documents.of("live")
    assert documents.of("over") is not None


def test_counts_that_grew_are_those_of_the_results(tmp_path: Path) -> None:
    agents = [whole("a", 5 * SECOND), whole("b", 900 * SECOND)]
    agents[0].lost(3, 5, "worker 1 was replaced")
    run = written(tmp_path / "r1", agents)
    data = (run / "agents/a/journal.ndjson").read_bytes()
    (run / "agents/a/journal.ndjson").write_bytes(data[: len(data) // 3])
    tally = Catalogue(tmp_path).tally("r1")
    assert tally is not None
    assert 0 < tally.agents["a"].counts[0, False, "get"].ops < 500
    (run / "agents/a/journal.ndjson").write_bytes(data)
    for _ in range(2):
        tally.update()
        counts = tally.agents["a"].counts[0, False, "get"]
        assert (counts.ops, counts.bytes, counts.requests, counts.retries) == (500, 500 * 4096, 510, 10)
    assert tally.agents["a"].latency[0, False, "get"].count == 500
    assert (tally.agents["a"].lost_intervals, tally.agents["a"].lost_ns) == (1, 2 * SECOND)
    assert (tally.agents["a"].losses, tally.agents["a"].down_s, tally.agents["a"].up) == (1, 3.0, True)
    assert tally.agents["b"].counts[0, False, "get"].ops == 500


def test_a_directory_that_was_made_anew_is_counted_anew(tmp_path: Path) -> None:
    run = written(tmp_path / "r1", [whole("a", 5 * SECOND)])
    tally = Catalogue(tmp_path).tally("r1")
    assert tally is not None
    mirror = run / "agents/a/journal.ndjson"
    mirror.write_bytes(b"".join(mirror.read_bytes().splitlines(keepends=True)[:4]))
    tally.update()
    assert tally.agents["a"].counts[0, False, "get"].ops == 100


def test_what_follows_an_altered_record_is_not_believed(tmp_path: Path) -> None:
    run = written(tmp_path / "r1", [whole("a", 5 * SECOND)])
    mirror = run / "agents/a/journal.ndjson"
    lines = mirror.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"204800", b"204801")
    mirror.write_bytes(b"".join(lines))
    tally = Catalogue(tmp_path).tally("r1")
    assert tally is not None
    assert tally.agents["a"].torn
    assert tally.agents["a"].counts[0, False, "get"].ops == 100


@pytest.mark.parametrize(
    "fields",
    [
        b'"kind":"sec","stage":0,"from_clock_ns":1,"to_clock_ns":"x","ops":{}',
        b'"kind":"hist","stage":0,"hist":{"get":{"0":{}}},"cells":7',
        b'"kind":"hist","stage":0,"hist":{"get":5},"cells":"A"',
        b'"text":"of no kind"',
    ],
)
def test_nor_is_what_follows_a_record_that_is_none_of_ours(tmp_path: Path, fields: bytes) -> None:
    run = written(tmp_path / "r1", [whole("a", 5 * SECOND), whole("b", 7 * SECOND)])
    with (run / "agents/a/journal.ndjson").open("ab") as mirror:
        mirror.write(encode_line(0, fields))
    tally = Catalogue(tmp_path).tally("r1")
    assert tally is not None
    assert [agent.torn for agent in tally.agents.values()] == [True, False]
    assert tally.agents["a"].counts[0, False, "get"].ops == 500


def test_stages_of_one_name_are_told_apart() -> None:
    assert stage_names(["read", "write", "read", "read"]) == ["read", "write", "read (2)", "read (3)"]


# --- the list ----------------------------------------------------------------------------------------------------------------------------


def test_rows_tell_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, events in (("over", (ENDED,)), ("left", ()), ("live", ())):
        written(tmp_path / name, [whole("a", 5 * SECOND)], *events)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "plan.json").write_text("{")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "plan.json").write_text("{}")
    (tmp_path / "no-run").mkdir()
    monkeypatch.setattr("sai3ssh.controller.rundir.RunDirectory.controller", lambda self: 1 if self.path.name == "live" else None)
    catalogue = Catalogue(tmp_path)
    for _ in range(2):
        told = catalogue.rows()
        assert told["unread"] == 0
        rows = {row["id"]: row for row in told["runs"]}
        assert told["runs"][0]["id"] == "live"
        assert {name: row["status"] for name, row in rows.items()} == {"live": "running", "left": "left", "over": "ended", "bad": "broken"}
        assert (rows["over"]["verdict"], rows["over"]["seconds"], rows["over"]["ops_per_s"]) == ("COMPLETE", 14.0, 50.0)
        assert rows["over"]["operation"] == "get"
        assert rows["left"]["verdict"] is None
        assert rows["left"]["p50_us"] > 0
        assert "JSONDecodeError" in rows["bad"]["problem"]


def test_a_verdict_of_which_half_is_written_is_none_yet(tmp_path: Path) -> None:
    written(tmp_path / "r", [whole("a", 5 * SECOND)], ENDED)
    log = tmp_path / "r" / "events.ndjson"
    whole_log = log.read_bytes()
    log.write_bytes(whole_log[: whole_log.rindex(b'"event":"run_ended"') + 25])
    (row,) = Catalogue(tmp_path).rows()["runs"]
    assert (row["status"], row["verdict"]) == ("left", None)


def test_many_runs_are_read_over_several_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        written(tmp_path / f"r{number}", [whole("a", 5 * SECOND)], ENDED)
    monkeypatch.setattr("sai3ssh.web.catalogue.READING_S", -1.0)
    catalogue = Catalogue(tmp_path)
    assert catalogue.rows()["unread"] == 3
    monkeypatch.setattr("sai3ssh.web.catalogue.READING_S", 60.0)
    assert catalogue.rows()["unread"] == 0
    monkeypatch.setattr("sai3ssh.web.catalogue.READING_S", -1.0)
    assert catalogue.rows()["unread"] == 0


@pytest.mark.parametrize("name", ["", ".", "..", "../r1", "r1/..", "/etc", "r1/agents", "r1\0", ".r1", "r1%2f", "r\n1", "x" * 300, "r1 "])
def test_what_is_no_run_is_not_found(name: str, tmp_path: Path) -> None:
    written(tmp_path / "r1", [whole("a", 5 * SECOND)])
    (tmp_path / ".r1").symlink_to(tmp_path / "r1")
    assert Catalogue(tmp_path).find("r1") is not None
    assert Catalogue(tmp_path).find(name) is None


# --- metrics -----------------------------------------------------------------------------------------------------------------------------


def families(body: bytes) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def samples(family: Any, name: str) -> dict[tuple[str, ...], float]:
    """Value by agent and operation."""
    return {
        (sample.labels["agent"], sample.labels.get("op", "")): sample.value
        for sample in family.samples
        if sample.name == name and "le" not in sample.labels
    }


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs that some controller steers."""
    monkeypatch.setattr("sai3ssh.controller.rundir.RunDirectory.controller", lambda _: 4711)
    return


@pytest.mark.usefixtures("current")
def test_metrics_are_what_the_results_say(tmp_path: Path) -> None:
    agents = [whole("a", 5 * SECOND), whole("b", 900 * SECOND)]
    agents[0].lost(3, 5, "worker 1 was replaced")
    agents[0].second(9, 1e6, 10, errors={"get": {"http_503": 2, "reset": 1}})
    written(tmp_path / "r1", agents)
    found = families(metrics.expose(Catalogue(tmp_path), "").body)
    assert samples(found["sai3ssh_operations"], "sai3ssh_operations_total") == {("a", "get"): 510, ("b", "get"): 500}
    assert samples(found["sai3ssh_bytes"], "sai3ssh_bytes_total")["a", "get"] == 510 * 4096
    errors = {s.labels["class"]: s.value for s in found["sai3ssh_errors"].samples}
    assert errors == {"http_503": 2, "reset": 1}
    duration = found["sai3ssh_operation_duration_seconds"]
    assert samples(duration, "sai3ssh_operation_duration_seconds_count")["b", "get"] == 500
    assert samples(duration, "sai3ssh_operation_duration_seconds_sum")["b", "get"] == pytest.approx(sum(agents[1].samples) / 1e9)
    for bound in duration.samples:
        if bound.labels.get("le", "+Inf") != "+Inf" and bound.labels["agent"] == "b":
            assert bound.value == sum(value <= float(bound.labels["le"]) * 1e9 for value in agents[1].samples)
    assert samples(found["sai3ssh_link_losses"], "sai3ssh_link_losses_total") == {("a", ""): 1, ("b", ""): 0}
    assert samples(found["sai3ssh_link_down_seconds"], "sai3ssh_link_down_seconds_total")["a", ""] == 3.0
    assert samples(found["sai3ssh_link_up"], "sai3ssh_link_up") == {("a", ""): 1, ("b", ""): 0}
    assert samples(found["sai3ssh_lost_seconds"], "sai3ssh_lost_seconds_total")["a", ""] == 2.0
    trips = found["sai3ssh_heartbeat_round_trip_seconds"]
    assert samples(trips, "sai3ssh_heartbeat_round_trip_seconds_count")["a", ""] == 3
    assert {s.labels["state"] for s in found["sai3ssh_run_state"].samples} == {"running"}
    assert {s.labels["run"] for family in found.values() for s in family.samples} == {"r1"}


@pytest.mark.usefixtures("current")
def test_metrics_are_open_metrics_for_who_asks_for_them(tmp_path: Path) -> None:
    written(tmp_path / "r1", [whole("a", 5 * SECOND)])
    told = metrics.expose(Catalogue(tmp_path), "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert told.content_type.startswith("application/openmetrics-text")
    assert "sai3ssh_operations" in {family.name for family in open_metrics(told.body.decode())}


@pytest.mark.usefixtures("current")
@pytest.mark.parametrize(
    ("room", "counted", "timed"),
    [(20_000, {"a", "b", "c"}, {"a", "b", "c"}), (160, {"a", "b", "c"}, {"all"}), (120, {"all"}, {"all"}), (50, set(), set())],
)
def test_the_number_of_series_is_bounded(
    room: int, counted: set[str], timed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SERIES", room)
    written(tmp_path / "r1", [whole(name, 5 * SECOND) for name in "abc"])
    found = families(metrics.expose(Catalogue(tmp_path), "").body)
    operations = samples(found["sai3ssh_operations"], "sai3ssh_operations_total")
    assert {agent for agent, _ in operations} == counted
    assert sum(operations.values()) == (1500 if counted else 0)
    times = samples(found["sai3ssh_operation_duration_seconds"], "sai3ssh_operation_duration_seconds_count")
    assert {agent for agent, _ in times} == timed
    assert sum(times.values()) == (1500 if timed else 0)
    assert sum(len(family.samples) for family in found.values()) <= room + 3 * 3
    assert [s.value for s in found["sai3ssh_run_agents"].samples] == [3]


@pytest.mark.usefixtures("current")
def test_metrics_are_of_the_newest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RUNS", 1)
    for name in ("old", "new"):
        written(tmp_path / name, [whole("a", 5 * SECOND)])
    os.utime(tmp_path / "old", (0, 0))
    found = families(metrics.expose(Catalogue(tmp_path), "").body)
    assert [s.labels for s in found["sai3ssh_run_agents"].samples] == [{"run": "new"}]


def test_a_run_that_ended_long_ago_has_no_metrics(tmp_path: Path) -> None:
    log = written(tmp_path / "r1", [whole("a", 5 * SECOND)], ENDED) / "events.ndjson"
    assert families(metrics.expose(Catalogue(tmp_path), "").body)["sai3ssh_run_state"].samples
    os.utime(log, (log.stat().st_mtime - 1000, log.stat().st_mtime - 1000))
    assert not families(metrics.expose(Catalogue(tmp_path), "").body)["sai3ssh_run_state"].samples


def queries(panel: Any) -> Iterator[str]:
    """All texts of a dashboard that Prometheus is asked."""
    if isinstance(panel, dict):
        yield from (value for name, value in panel.items() if name in ("expr", "query") and isinstance(value, str))
        panel = list(panel.values())
    if isinstance(panel, list):
        for part in panel:
            yield from queries(part)


@pytest.mark.usefixtures("current")
def test_the_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    agent = whole("a", 5 * SECOND)
    agent.second(9, 1e6, 10, errors={"get": {"http_503": 2}})
    written(tmp_path / "r1", [agent], at(15, "stage_started", stage=0, name="mix"))
    labels: dict[str, set[str]] = {}
    for family in families(metrics.expose(Catalogue(tmp_path), "").body).values():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    asked = [query for query in queries(json.loads(dashboard())) if "sai3ssh" in query]
    used: Counter[str] = Counter()
    for query in asked:
        names = re.findall(r"\bsai3ssh_\w+", query)
        assert names, query
        used.update(names)
        for name in names:
            assert name in labels, f"{query}: /metrics has no {name}"
            wanted = set(re.findall(r'(\w+)\s*=~?\s*"', query)) | {
                label for group in re.findall(r"\bby \(([^)]*)\)", query) for label in re.split(r",\s*", group)
            }
            assert wanted <= labels[name], f"{query}: {name} has no {wanted - labels[name]}"
    assert len(used) > 12
    # What a panel calls a series by is among its labels, too.
    for panel in json.loads(dashboard())["panels"]:
        for target in panel["targets"]:
            (name, *_) = re.findall(r"\bsai3ssh_\w+", target["expr"])
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels[name]


@pytest.mark.usefixtures("current")
def test_the_guide_names_what_there_is(tmp_path: Path) -> None:
    written(tmp_path / "r1", [whole("a", 5 * SECOND)])
    body = metrics.expose(Catalogue(tmp_path), "").body.decode()
    there = set(re.findall(r"^# TYPE (sai3ssh_\w+)", body, re.MULTILINE))
    text = (Path(__file__).parents[2] / "docs" / "live.md").read_text()
    told = set(re.findall(r"`(sai3ssh_\w+)`", text)) | {f"sai3ssh{name}" for name in re.findall(r"`(_\w+)`", text)}
    assert told == there


# --- who may see it ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8633", True),
        ("localhost", True),
        ("LOCALHOST.:1", True),
        ("[::1]:8633", True),
        ("192.0.2.7:80", True),
        ("bench.example:8633", True),
        ("evil.example", False),
        ("evil.example:8633", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("", False),
        (":8633", False),
    ],
)
def test_who_calls_us_by_another_name_is_refused(host: str, known: bool) -> None:
    async def nobody(*_: Any) -> None:
        raise AssertionError

    assert Guard(nobody, None, ["bench.example"])._is_us(host) is known


def test_cookies_of_other_servers_and_other_pages_do_no_harm() -> None:
    async def nobody(*_: Any) -> None:
        raise AssertionError

    ours, theirs = "token-of-this-page", "token-of-the-page-at-another-port"
    guard = Guard(nobody, ours, [])
    cookies = [f"{name_of(token)}={cookie_of(token)}" for token in (ours, theirs)]
    for others in ("", 'theme={"a":1}', "bad name=1", "a[b]=x y", "last=\xff", cookies[1]):
        for given in (f"{others}; {cookies[0]}", f"{cookies[0]}; {others}"):
            assert guard._knows(Headers({"cookie": given})), given
    assert not guard._knows(Headers({"cookie": cookies[1]}))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("nonsense:http", "--listen 'nonsense:http' is not understood. Write HOST:PORT, for example 127.0.0.1:8633"),
        ("127.0.0.1:70000", "is not understood"),
        ("::1:80", "is not understood"),
        ("no-such-host.invalid:80", "is not known here"),
        ("192.0.2.1:0", "the page cannot listen at 192.0.2.1:0: "),
    ],
)
def test_a_wrong_address_is_one_message(address: str, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        server.listen(address)


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        ("0123456789abcdef\n", 0o644, "is open to others (mode 044). chmod 600"),
        ("short\n", 0o600, "is no token"),
        ("", 0o600, "is no token"),
    ],
)
def test_a_token_that_is_none_is_refused(content: str, mode: int, text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=re.escape(text)):
        server.listen("127.0.0.1:0", token_file=file)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        server.listen("127.0.0.1:0", token_file=tmp_path / "none")


def test_elsewhere_than_on_loopback_a_token_is_needed() -> None:
    with server.listen("127.0.0.1:0").socket as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
    place = server.listen("0.0.0.0:0")
    with place.socket:
        assert place.token is not None
        assert len(place.token) >= 32
        assert place.url.endswith(f"/?token={place.token}")
        assert socket.gethostname() in place.url
    again = server.listen("0.0.0.0:0")
    with again.socket:
        assert again.token != place.token


def test_of_a_run_directory_only_known_files_are_given_away(tmp_path: Path) -> None:
    run = written(tmp_path / "r1", [whole("a", 5 * SECOND)], ENDED)
    (run / "config.yaml").write_text("secret")
    (run / "report.html").symlink_to("/etc/hostname")
    (run / "agents" / "link").symlink_to(tmp_path)
    (run / "agents" / "a" / "oplog.tsv.zst").symlink_to("/etc/hostname")
    os.mkfifo(run / "STATUS.pipe")
    (run / "perf_log.tsv").unlink()
    os.mkfifo(run / "perf_log.tsv")
    names = [one.name for one in artefacts.artefacts(run)]
    assert "results.json" in names
    assert "agents/a/journal.ndjson" in names
    for name in names:
        opened = artefacts.open_artefact(run, name)
        assert opened is not None
        os.close(opened[0])
    tried = [
        "config.yaml",
        "hosts.json",
        "controller.json",
        "report.html",
        "agents/a/oplog.tsv.zst",
        "agents/link/r1/results.json",
        "STATUS.pipe",
    ]
    tried += [
        "perf_log.tsv",
        "../r1/results.json",
        "agents/../results.json",
        "agents/../../journal.ndjson",
        "/etc/passwd",
        "results.json/",
        "",
    ]
    for name in tried:
        assert name not in names
        assert artefacts.open_artefact(run, name) is None, name


def test_a_tally_reads_nothing_that_it_has_read(tmp_path: Path) -> None:
    """What a page costs does not grow with what was measured before it was opened."""
    run = written(tmp_path / "r1", [whole("a", 5 * SECOND)])
    tally = Catalogue(tmp_path).tally("r1")
    assert isinstance(tally, RunTally)
    taken: list[bytes] = []
    for lines in (*tally._mirrors.values(), tally._events):
        taken += lines.new()
    assert taken == []
    with (run / "events.ndjson").open("a") as file:
        file.write(json.dumps(ENDED) + "\n")
    assert len(list(tally._events.new())) == 1
    assert PLAN.run_id == "r1"
