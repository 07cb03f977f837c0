"""Op-logs at the controller: fetched over links that break, sorted into one table, and told of in the results."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard

from sai3ssh import bundle, op_logs
from sai3ssh import results as results_of
from sai3ssh.controller.eventlog import EventLog
from sai3ssh.controller.oplog import OpLogFetch
from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.errors import AgentError, LinkLost, Sai3sshError
from sai3ssh.model import Host, Plan, Stage, StageKind, Target, assign
from sai3ssh.oplog import COLUMNS, TABLE, Record, frame, pack, segment_name
from sai3ssh.protocol import encode_preamble, encode_record
from sai3ssh.results import oplog as results
from sai3ssh.results.journal import AgentJournal, AgentStage
from sai3ssh.results.tables import replay_lines
from sai3ssh.transport import Channel, Command, LocalTransport, Transport
from sai3ssh.transport.local import LocalConnection

WALL_NS = 1_800_000_000_000_000_000


class CutChannel:
    """A channel that breaks after so many bytes."""

    def __init__(self, channel: Channel, left: int) -> None:
        self._channel = channel
        self._left = left

    def recv(self, timeout_s: float) -> bytes:
        if self._left <= 0:
            raise LinkLost("cut by the test")
        data = self._channel.recv(timeout_s)[: self._left]
        self._left -= len(data)
        return data

    def stderr_tail(self) -> bytes:
        return self._channel.stderr_tail()

    def close(self) -> None:
        self._channel.close()


class CutConnection(LocalConnection):
    cuts: list[int]

    def exec(self, command: Command, timeout_s: float) -> Channel:
        channel = super().exec(command, timeout_s)
        return CutChannel(channel, self.cuts.pop(0)) if self.cuts else channel  # type: ignore[return-value]


class CutTransport(LocalTransport):
    """Whose connections break, one after the other, after so many bytes; then no more."""

    def __init__(self, host: Host, cuts: Sequence[int] = ()) -> None:
        super().__init__(host)
        self.cuts = list(cuts)

    def connect(self, deadline_s: float) -> CutConnection:
        connection = CutConnection(self.host.name)
        connection.cuts = self.cuts
        return connection


class Place:
    """An agent's run with an op-log, and a fetch of it."""

    def __init__(self, path: Path, segments: int = 3) -> None:
        self.state = path / "state"
        self.run = self.state / "runs" / "r" / "a"
        self.run.mkdir(parents=True)
        self.end("final")
        source = random.Random(1)
        for n in range(segments):
            (self.run / segment_name(0, 0, 0, n)).write_bytes(source.randbytes(150_000))
        self.parts = path / "parts"
        self.host = Host("a", "a", connection="local", state_dir=str(self.state))
        self.archive = bundle.build(path / "cache")
        self.stop = threading.Event()

    def end(self, kind: str) -> None:
        record = {"seq": 0, "boot": "b", "clock_ns": 1, "wall_ns": 1, "kind": kind, "outcome": "finished"}
        (self.run / "journal.ndjson").write_bytes(encode_record(record))

    def fetch(self, *cuts: int, patience_s: float = 20.0) -> list[Path]:
        transport = CutTransport(self.host, cuts)
        found = self.fetcher(transport, patience_s).run()
        assert transport.cuts == []
        return found

    def fetcher(self, transport: Transport, patience_s: float, most_bytes: int = 1 << 30) -> OpLogFetch:
        return OpLogFetch(
            self.host, "r", "a", self.parts, self.archive, most_bytes=most_bytes, patience_s=patience_s, stop=self.stop, transport=transport
        )

    def digests(self, directory: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.glob("*.seg"))}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_fetch_goes_on_where_it_was_cut_off(place: Place) -> None:
    # Before the preamble, within the first segment, within the last frame.
    found = place.fetch(10, 100_000, 330_000)
    assert [path.name for path in found] == [segment_name(0, 0, 0, n) for n in range(3)]
    assert place.digests(place.parts) == place.digests(place.run)


def test_what_is_here_is_not_sent_again(place: Place) -> None:
    place.fetch()
    # A connection that carries no more than the checksum of the last segment and the end is enough.
    transport = CutTransport(place.host, [2000])
    place.fetcher(transport, 0.0).run()
    assert place.digests(place.parts) == place.digests(place.run)


def test_a_segment_that_is_altered_here_is_fetched_anew(place: Place) -> None:
    last = place.fetch()[-1]
    last.write_bytes(b"x" * last.stat().st_size)
    place.fetch()
    assert place.digests(place.parts) == place.digests(place.run)


def test_a_run_that_goes_on_is_no_failure_of_the_link(place: Place) -> None:
    place.end("notice")
    with pytest.raises(AgentError, match="has not ended"):
        place.fetch()


def test_a_fetch_that_is_left_ends_soon(place: Place) -> None:
    place.stop.set()
    with pytest.raises(LinkLost, match="left before"):
        place.fetch()


class FalseTransport(LocalTransport):
    """To a host whose agent says what a test wants, and then nothing."""

    def __init__(self, host: Host, said: bytes) -> None:
        super().__init__(host)
        self.said = said

    def connect(self, deadline_s: float) -> FalseConnection:
        connection = FalseConnection(self.host.name)
        connection.said = self.said
        return connection


class FalseConnection(LocalConnection):
    said: bytes

    def exec(self, command: Command, timeout_s: float) -> Channel:
        pieces = [encode_preamble(command[command.index("--nonce") + 1]) + self.said, b""]
        channel: Any = SimpleNamespace(recv=lambda _: pieces.pop(0), stderr_tail=bytes, close=lambda: None)
        return channel


def said(*messages: object) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


NAME = segment_name(0, 0, 0, 0)
FALSE = {
    "a path": (said({"segment": "../../x", "size": 1}), "is no segment"),
    "no name": (said({"segment": 7, "size": 1}), "no agent sends"),
    "no size": (said({"segment": NAME}), "no agent sends"),
    "a size in words": (said({"segment": NAME, "size": "much"}), "no agent sends"),
    "a size below zero": (said({"segment": NAME, "size": -1}), "is no segment"),
    "a checksum of nothing": (said({"sha256": "0"}), "a checksum of no segment"),
    "an error that is none": (said({"error": ["x"]}), "no agent sends"),
    "data of no length": (said({"data": 0, "len": "1"}), "data frame of '1' bytes"),
    "more than it may have": (said({"segment": NAME, "size": 1 << 40}), "its agent has more than 1,000 bytes"),
    "more than it may have, in pieces": (
        said(*({"segment": segment_name(0, 0, 0, n), "size": 400} for n in range(3))),
        "its agent has more than",
    ),
}


@pytest.mark.parametrize("name", FALSE)
def test_an_agent_that_lies_ends_its_own_fetch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sai3ssh.controller.install.ensure", lambda *_: SimpleNamespace(argv=["agent"]))
    said, expected = FALSE[name]
    host, parts = Host("a", "a", connection="local"), tmp_path / "parts"
    transport = FalseTransport(host, said)
    fetch = OpLogFetch(host, "r", "a", parts, tmp_path, most_bytes=1000, patience_s=0.0, stop=threading.Event(), transport=transport)
    with pytest.raises(Sai3sshError, match=expected):
        fetch.run()
    assert sum(path.stat().st_size for path in parts.iterdir()) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_an_op_log_leaves_room_on_the_controllers_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 << 20))
    place.fetch()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=256 << 20))
    with pytest.raises(AgentError, match="no room for the op-log: less than 256 MiB would stay free"):
        place.fetch()


# --- the table ---------------------------------------------------------------------------------------------------------------------------


def write(directory: Path, worker: int, blocks: list[list[Record]], number: int = 0) -> Path:
    path = directory / segment_name(1, worker, 0, number)
    data = b""
    for records in blocks:
        block, earliest_ns = pack(records, WALL_NS, 1, worker)
        data += frame(block, len(records), earliest_ns)
    path.write_bytes(data)
    return path


def get(start: int, duration: int, key: str = "k", error: str = "", first: int = -1) -> Record:
    return (0, "s3://b/p/", key, 10, start, start + duration, first, error, 0)


def table(path: Path) -> list[dict[str, str]]:
    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
    head, *lines = text.splitlines()
    assert tuple(head.split("\t")) == COLUMNS
    return [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in lines]


def test_rows_of_all_workers_are_in_the_order_of_their_starts(tmp_path: Path) -> None:
    source = random.Random(2)
    paths, starts = [], []
    for worker in range(3):
        records = [get(source.randrange(10**9), source.randrange(1, 10**8)) for _ in range(10_000)]
        records.sort(key=lambda record: record[5])
        starts += [record[4] for record in records]
        blocks = [records[at : at + 1024] for at in range(0, len(records), 1024)]
        paths += [write(tmp_path, worker, blocks[:4]), write(tmp_path, worker, blocks[4:], 1)]
    done = results.convert(paths, "a", tmp_path / "t")
    rows = table(tmp_path / "t")
    assert (done.records, done.stages, done.damaged) == (30_000, {1: 30_000}, 0)
    assert [row["idx"] for row in rows] == [str(n) for n in range(30_000)]
    assert [nanoseconds(row["start"]) for row in rows] == [WALL_NS + start for start in sorted(starts)]


def test_memory_is_bounded_even_if_one_operation_lasts_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "HELD", 2000)
    held = []
    lines = results._lines
    monkeypatch.setattr(results, "_lines", lambda rows, *rest: held.append(len(rows)) or lines(rows, *rest))
    blocks = [[get(n * 1000 + i + 1, 1) for i in range(1000)] for n in range(30)]
    write(tmp_path, 0, [*blocks, [get(0, 10**9)]])
    assert results.convert([tmp_path / segment_name(1, 0, 0, 0)], "a", tmp_path / "t").records == 30_001
    assert max(held) < 10_000
    assert len(table(tmp_path / "t")) == 30_001


def nanoseconds(stamp: str) -> int:
    assert stamp.endswith("Z")
    second, _, fraction = stamp[:-1].partition(".")
    return int(datetime.fromisoformat(second + "+00:00").timestamp()) * 10**9 + int(fraction)


def test_columns_are_those_of_sai3_bench(tmp_path: Path) -> None:
    listing: Record = (2, "file:///d/x/", "", 0, 5, 9, -1, "", 42)
    write(tmp_path, 6, [[get(1_000_000_001, 7, "a\tb", "http_503"), listing, get(3, 4, first=6)]])
    results.convert(list(tmp_path.glob("*.seg")), "agent-1", tmp_path / "t")
    first, second, third = table(tmp_path / "t")
    assert first == {
        "idx": "0", "thread": "6", "op": "GET", "client_id": "agent-1", "n_objects": "1", "bytes": "10", "endpoint": "s3://",
        "file": "b/p/k", "error": "", "start": "2027-01-15T08:00:00.000000003Z", "first_byte": "2027-01-15T08:00:00.000000006Z",
        "end": "2027-01-15T08:00:00.000000007Z", "duration_ns": "4",
    }  # fmt: skip
    assert (second["op"], second["n_objects"], second["endpoint"], second["file"]) == ("LIST", "42", "file://", "/d/x/")
    assert (third["file"], third["error"], third["first_byte"]) == ("b/p/a%09b", "http_503", "")


def test_a_damaged_frame_is_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [[get(1, 1)], [get(2, 1)]])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = results.convert([path], "a", tmp_path / "t")
    assert (done.records, done.damaged) == (1, 1)


def lie(**head: object) -> bytes:
    """A block of two records whose head says something else."""
    line, _, rest = pack([get(1, 1), get(2, 1)], WALL_NS, 1, 0)[0].partition(b"\n")
    return json.dumps({**json.loads(line), **head}).encode() + b"\n" + rest


LIES = {
    "no JSON": (b"x", 2),
    "no head": (b"[]\n", 2),
    "without records": (lie(n=0), 0),
    "billions of records": (lie(n=1 << 31), 1 << 31),
    "other records": (lie(n="2"), 2),
    "no targets": (lie(uris=[]), 2),
    "targets of another kind": (lie(uris=[7]), 2),
    "a target without an end": (lie(uris=["x" * 5000]), 2),
    "a target of several lines": (lie(uris=["s3://b/\n"]), 2),
    "an error that is none": (lie(errors=["\t"]), 2),
    "no stage": (lie(stage=None), 2),
    "a time before all": (lie(wall_ns=-(1 << 62)), 2),
    "a time after all": (lie(wall_ns=1 << 80), 2),
    "an unknown operation": (lie().replace(b"\n\0", b"\n\x77"), 2),
    "torn columns": (lie()[:-20], 2),
    "what unpacks to gigabytes": (bytes(1 << 24), 2),
}


@pytest.mark.parametrize("name", LIES)
def test_a_host_that_writes_what_is_no_op_log_damages_only_its_own_frames(name: str, tmp_path: Path) -> None:
    block, records = LIES[name]
    path = write(tmp_path, 0, [[get(1, 1)]])
    path.write_bytes(frame(block, records, WALL_NS) + path.read_bytes())
    done = results.convert([path], "a", tmp_path / "t")
    assert (done.records, done.damaged) == (1, 1)


def test_a_conversion_that_is_left_leaves_no_table(tmp_path: Path) -> None:
    write(tmp_path, 0, [[get(1, 1)]])
    with pytest.raises(InterruptedError):
        results.convert(list(tmp_path.glob("*.seg")), "a", tmp_path / "t", stop=lambda: True)
    assert not list(tmp_path.glob("t*"))


# --- after a run -------------------------------------------------------------------------------------------------------------------------


class Ended:
    """A run that has ended, whose agents' op-logs wait on their hosts."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts = [Host(name, name, connection="local") for name in ("a", "b")]
        stage = Stage("s", StageKind.EXECUTE, 1, 1.0)
        plan = Plan("r", "test", Target("file"), (), (stage,), agents=("a", "b"), op_log_bytes=1 << 30)
        self.directory = RunDirectory.create(path, plan, assign((), plan.agents), self.hosts, None)
        self.broken: dict[str, Exception] = {}
        self.said: list[str] = []
        self.note("journal_complete", agent="a")
        self.note("journal_complete", agent="b")
        monkeypatch.setattr(op_logs, "OpLogFetch", self._fetch)

    def _fetch(self, host: Host, run_id: str, agent: str, parts: Path, archive: Path, **_: object) -> object:
        def run() -> list[Path]:
            if agent in self.broken:
                raise self.broken[agent]
            parts.mkdir(exist_ok=True)
            return [write(parts, 0, [[get(1, 1), get(2, 1, error="reset")]])]

        return SimpleNamespace(run=run)

    def note(self, event: str, **fields: object) -> None:
        log = EventLog(self.directory.events)
        log.append(event, **fields)
        log.close()

    def fetch(self) -> list[str]:
        return op_logs.fetch(self.directory, Path("unused"), self.said.append)

    def told(self) -> dict[str, dict[str, object]]:
        return {event["agent"]: event for event in self.directory.history() if event["event"] == "op_log"}


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ended:
    return Ended(tmp_path, monkeypatch)


def test_op_logs_that_cannot_be_fetched_are_told_of_and_fetched_later(ended: Ended) -> None:
    ended.broken["b"] = LinkLost("the host is away")
    assert ended.fetch() == ["a", "b"]
    assert (ended.told()["a"]["records"], ended.told()["a"]["error"]) == (2, None)
    assert (ended.told()["b"]["records"], ended.told()["b"]["error"]) == (None, "the host is away")
    place = ended.directory.path / "agents"
    assert [path.name for path in place.glob("*/*")] == [TABLE]
    content = results_of.write(ended.directory.path).content
    assert [line.partition(";")[0] for line in results.op_log_lines(content)] == ["op-log of b was not fetched: the host is away"]
    ended.broken.clear()
    assert ended.fetch() == ["b"]
    assert results.op_log_lines(results_of.write(ended.directory.path).content) == []
    assert ended.fetch() == []


def test_a_disk_of_the_controller_that_is_full_is_told_of(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(op_logs, "convert", full)
    ended.fetch()
    assert "No space left on device" in str(ended.told()["a"]["error"])


def test_what_a_controller_leaves_that_is_killed_when_it_tidies_up_is_gone_on_with(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(host: Host, run_id: str, agent: str, parts: Path, archive: Path, **_: object) -> object:
        parts.mkdir(exist_ok=True)
        return SimpleNamespace(run=lambda: [write(parts, 0, [[get(1, 1)]], number) for number in range(4)])

    class Killed(BaseException):
        pass

    unlink, removed = Path.unlink, []

    def dying(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        if len(removed) == 3:
            raise Killed
        unlink(path, missing_ok)

    monkeypatch.setattr(op_logs, "OpLogFetch", fetch)
    monkeypatch.setattr(Path, "unlink", dying)
    with pytest.raises(Killed):
        ended.fetch()
    # A fetch goes on behind the last one that is here.
    assert [path.name for path in sorted(ended.directory.path.glob("agents/a/*.parts/*"))] == [segment_name(1, 0, 0, n) for n in range(2)]


def test_of_an_agent_whose_journal_is_not_whole_no_op_log_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Ended(tmp_path, monkeypatch)
    lines = [line for line in ended.directory.events.read_text().splitlines(keepends=True) if '"b"' not in line]
    ended.directory.events.write_text("".join(lines))
    ended.fetch()
    assert (ended.told()["a"]["error"], ended.told()["b"]["error"]) == (None, "its journal is not whole")


def test_what_an_op_log_lacks_is_counted() -> None:
    agent = AgentJournal("a")
    stage = agent.stages[0] = AgentStage(end={"op_log": {"written": 80, "dropped": 10}})
    stage.data.second_ops["get"] = 70
    stage.warmup.second_ops["get"] = 25
    stage.data.errors["get", "reset"] = 5
    event = {"event": "op_log", "agent": "a", "records": 80, "error": None}
    found = results.op_log(agent, [event])
    assert {name: found[name] for name in ("counted", "written", "dropped", "lost")} == {
        "counted": 100, "written": 80, "dropped": 10, "lost": 10,
    }  # fmt: skip
    (line,) = results.op_log_lines({"op_log": {"a": found}})
    assert line == "op-log of a lacks 20 of 100 operations: 10 dropped, 10 lost with workers that died or in damaged blocks"
    assert results.op_log(agent, [])["lost"] is None


def test_a_replay_that_did_not_come_to_its_end_is_told_of() -> None:
    stages = [
        {"name": "r", "trace_operations": wanted, "operations": {"get": {"ops": 70, "errors": {"reset": 5}}}} for wanted in (100, 75, None)
    ]
    assert replay_lines({"stages": stages}) == [
        "replay r: 75 of 100 operations (75.0 %); the others came too late, or were lost with a worker"
    ]
