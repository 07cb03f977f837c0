"""Journals as columns: what is kept of them says what they say, or is not read."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sai3ssh import compact, results
from sai3ssh.errors import ConfigError
from sai3ssh.histogram import CELLS, Histogram
from sai3ssh.protocol import decode_record, encode_line, encode_record
from sai3ssh.results import columnfile, mirrors
from sai3ssh.results import journal as journals
from sai3ssh.results.cells import ArrayHistogram, CellSum, told
from sai3ssh.results.journal import JournalReader, StageData, decode, read_agent

from .test_results import HOST, SECOND, FakeAgent, whole, write_run

Json = dict[str, Any]
ENDED = {"at": 10.0, "event": "run_ended", "verdict": "COMPLETE", "reasons": [], "exit_code": 0}


def eventful(name: str, boot_ns: int) -> FakeAgent:
    """An agent to which everything happens that a journal can tell."""
    agent = FakeAgent(name, boot_ns, seed=3)
    agent.second(0, 1e6, warmup=True)
    full = {**HOST, "worker_cpu": 98.5, "workers_cpu": [120.5, 2], "late_ms": 130.5}
    agent.second(1, 1e6, errors={"get": {"timeout": 2}}, host=full)
    # Only failures of a put, and requests of it that nothing else tells of.
    agent.second(2, 2e6, errors={"put": {"http_503": 3, "reset": 1}}, requests={"get": 51, "put": 4}, retries={}, retried={})
    agent.add("recovered", truncated_bytes=0, rebooted=True, clock_synchronised=True, fresh=True, shift_ns=5 * SECOND)
    agent.start_ns += 5 * SECOND
    agent.lost(3, 5, "the host was down")
    span = {"from_clock_ns": agent.start_ns + 5 * SECOND, "to_clock_ns": agent.start_ns + 7 * SECOND}
    counts: dict[str, Any] = {"requests": {"get": 1}, "retries": {}, "retried": {}, "errors": {}}
    agent.add("gap", stage=0, warmup=False, done=0, ops={"get": [0, 0, 0, 0, 0, 0, 0]}, **span, **counts)
    cells = Histogram({7: 3}, sum_ns=3600, max_ns=1300)
    part = {"cells": cells.to_pairs(), "sum_ns": cells.sum_ns}
    place = {**part, "max_ns": 1300, "bytes": 5, "errors": 1, "retries": 2}
    agent.add("hist", stage=0, warmup=False, hist={}, splits={"get": {"first_byte": part}}, endpoints={"get": {"1": place}})
    for number in (7, 8, 9):
        agent.second(number, 1e6)
    agent.end()
    agent.final()
    return agent


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose journals count as large, and of which nothing was read yet."""
    monkeypatch.setattr(mirrors, "KEPT_FROM_BYTES", 10**9)
    path = tmp_path / "run"
    write_run(path, [eventful("a", 5 * SECOND), whole("b", 7 * SECOND)], ENDED)
    (path / "results.json").unlink()
    monkeypatch.setattr(mirrors, "KEPT_FROM_BYTES", 0)
    return path


def files(run: Path) -> dict[str, bytes]:
    """All results, made now."""
    results.write(run)
    names = [path for path in sorted(run.rglob("*")) if path.suffix in (".tsv", ".txt") or path.name == "results.json"]
    assert len(names) > 4
    return {str(path.relative_to(run)): path.read_bytes() for path in names}


def test_seconds_give_the_records_of_the_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal.ndjson"
    journal.write_bytes(eventful("a", 5 * SECOND).bytes())
    told = [decode_record(line) for line in journal.read_bytes().splitlines(keepends=True)]
    seconds = read_agent("a", journal).stages[0].seconds
    expected = []
    for record in told:
        if record["kind"] == "sec":
            kept = {name: value for name, value in record.items() if name not in ("seq", "boot", "clock_ns")}
            shift = 5 * SECOND if record["second"] > 2 else 0
            kept |= {name: kept[name] - shift for name in ("from_clock_ns", "to_clock_ns")}
            expected.append({**kept, "host": {"late_ms": 0.0, **record["host"]}})
    assert list(seconds) == expected
    assert seconds[-1] == expected[-1]
    assert seconds[1:3] == expected[1:3]


@pytest.mark.parametrize("shared_from", [0, 10**9], ids=["by processes", "here"])
def test_results_from_columns_are_those_from_journals(run: Path, shared_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "KEPT_FROM_BYTES", 10**9)
    plain = files(run)
    assert not (run / mirrors.PLACE).exists()
    monkeypatch.setattr(mirrors, "KEPT_FROM_BYTES", 0)
    monkeypatch.setattr(mirrors, "SHARED_FROM_BYTES", shared_from)
    cold = files(run)
    assert sorted(path.name for path in (run / mirrors.PLACE).iterdir()) == ["a", "b"]
    monkeypatch.setattr(mirrors, "convert", None)
    monkeypatch.setattr(mirrors, "read_agent", None)
    monkeypatch.setattr(mirrors, "_convert_with_all_cores", None)
    assert plain == cold == files(run)


def test_columns_that_are_torn_altered_or_of_another_version_are_made_anew(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results.write(run)
    place = run / mirrors.PLACE / "a"
    whole_file, key = place.read_bytes(), columnfile.key_of(run / "agents" / "a" / "journal.ndjson")
    assert columnfile.load(place, key) is not None
    for size in (0, 10, whole_file.index(b"\n") + 1, len(whole_file) // 2, len(whole_file) - 8, len(whole_file) - 1):
        place.write_bytes(whole_file[:size])
        assert columnfile.load(place, key) is None, size
    middle = len(whole_file) // 2
    for altered in (
        whole_file[:middle] + bytes([whole_file[middle] ^ 1]) + whole_file[middle + 1 :],
        whole_file[: -4 * 1024] + bytes(4 * 1024),
        whole_file + bytes(8),
        whole_file.replace(columnfile.VERSION.encode(), b"0" * len(columnfile.VERSION), 1),
    ):
        assert altered != whole_file
        place.write_bytes(altered)
        assert columnfile.load(place, key) is None
    begin = whole_file.index(b"\n") + 1
    shapes: list[Any] = [[], {"splits": [["get", []]]}]
    for data in shapes:
        # Whole, of our version, and of another shape.
        head, content = json.loads(whole_file[:begin]), whole_file[begin:]
        meta = json.loads(content[: head["meta"]])
        stage = meta["stages"]["0"]
        stage["data"] = {**stage["data"], **data} if data else data
        text = json.dumps(meta).encode()
        content = text + bytes(-len(text) % columnfile.WORD) + content[head["meta"] + -head["meta"] % columnfile.WORD :]
        line = json.dumps({**head, "meta": len(text), "sum": columnfile._sum(content)}).encode()
        place.write_bytes(line + b" " * (-(len(line) + 1) % columnfile.WORD) + b"\n" + content)
        assert columnfile.load(place, key) is None
    before = files(run)
    assert columnfile.load(place, key) is not None
    monkeypatch.setattr(mirrors, "KEPT_FROM_BYTES", 10**9)
    assert before == files(run)


@pytest.mark.parametrize("kept_from_bytes", [0, 10**9])
@pytest.mark.parametrize(
    "fields",
    [
        b'"kind":"sec","ops":5',
        b'"kind":"gap","stage":0,"ops":{"get":null}',
        b'"kind":"hist","stage":0,"hist":{},"cells":7',
        b'"kind":"hist","stage":0,"hist":{"get":[]},"cells":"A"',
        b'"kind":"notice","text":' + b"[" * 100_000 + b"]" * 100_000,
        b'"kind":"recovered","shift_ns":"x"',
    ],
)
def test_records_that_are_none_of_ours_are_refused_in_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, fields: bytes, kept_from_bytes: int
) -> None:
    monkeypatch.setattr(mirrors, "KEPT_FROM_BYTES", kept_from_bytes)
    monkeypatch.setattr(mirrors, "SHARED_FROM_BYTES", 10**9)
    journal = run / "agents" / "b" / "journal.ndjson"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines, encode_line(len(lines), fields)]))
    near = f"({len(lines)}|{len(lines) + 1})"
    with pytest.raises(
        ConfigError, match=f"/b/journal.ndjson: the journal of agent b cannot be read: [A-Za-z]* near line {near}: "
    ) as refused:
        mirrors.read_agents(run, ["a", "b"])
    assert "\n" not in str(refused.value)


def test_a_record_with_names_without_end_does_not_take_memory_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MOST_HISTOGRAMS", 50)
    part = {"cells": [7, 1], "bytes": 1, "sum_ns": 1, "max_ns": 1}
    for many in (50, 51):
        fields = compact.pack({"stage": 0, "warmup": False, "hist": {"get": {str(name): part for name in range(many)}}})
        path = tmp_path / str(many)
        path.write_bytes(encode_record({"seq": 0, "clock_ns": 1, "kind": "hist", **fields}))
    assert len(journals.read_agent("a", tmp_path / "50").stages[0].data.regions) == 50
    with pytest.raises(ConfigError, match="more than 50 histograms"):
        journals.read_agent("a", tmp_path / "51")


def test_a_journal_that_has_changed_is_read_again(run: Path) -> None:
    assert results.write(run).content["stages"][0]["operations"]["get"]["ops"]
    journal = run / "agents" / "b" / "journal.ndjson"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))
    found = results.write(run)
    assert "b: its journal is not here to its end" in found.reasons
    # Of the same size and age, but another.
    journal.write_bytes(b"".join(lines[:-1]).replace(b'"mix"', b'"max"'))
    assert columnfile.load(run / mirrors.PLACE / "b", columnfile.key_of(journal)) is None


def test_a_run_directory_that_cannot_be_written_is_read_all_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "_writable", lambda place: False)
    monkeypatch.setattr(mirrors, "SHARED_FROM_BYTES", 10**9)
    found = mirrors.read_agents(run, ["a", "b", "not here"])
    assert not (run / mirrors.PLACE).exists()
    assert [len(agent.stages[0].seconds) if agent.stages else None for agent in found.values()] == [6, 10, None]


def test_a_disk_without_room_for_columns_costs_only_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(columnfile, "store", full)
    assert len(mirrors.read_agents(run, ["b"])["b"].stages[0].seconds) == 10


def test_results_of_a_run_that_is_not_over_are_not_written(run: Path) -> None:
    log = run / "events.ndjson"
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if "run_ended" not in line))
    found = results.read(run)
    loaded = results.load(run)
    assert not (run / "results.json").exists()
    assert not loaded.finished
    assert loaded.verdict is found.verdict
    log.write_text(log.read_text() + json.dumps(ENDED) + "\n")
    assert results.load(run).finished
    assert results.read(run).content == found.content == json.loads((run / "results.json").read_text())


def test_histograms_in_arrays_are_histograms() -> None:
    samples = [1_500, 2_000_000, 2_000_001, 70_000_000, 3_700_000_000_000]
    plain, arrays = Histogram(), ArrayHistogram()
    for number, sample in enumerate(samples, 1):
        plain.record(sample, number)
        arrays.record(sample, number)
    other = Histogram()
    other.record(2_000_000, 5)
    for one in (plain, arrays):
        one.merge(other)
        one.merge(ArrayHistogram())
    assert (arrays.cells, arrays.sum_ns, arrays.max_ns, arrays.count) == (plain.cells, plain.sum_ns, plain.max_ns, plain.count)
    ranks = [99.99, 0, 50, 100, 90, 25.5]
    assert arrays.percentiles(ranks) == plain.percentiles(ranks)
    assert arrays.to_pairs() == plain.to_pairs()
    again = ArrayHistogram.from_pairs(plain.to_pairs(), sum_ns=plain.sum_ns, max_ns=plain.max_ns)
    assert (again.cells, again.mean_ns, again.percentile(50)) == (plain.cells, plain.mean_ns, plain.percentile(50))
    assert ArrayHistogram().percentiles([50]) == [0.0]
    for pairs in ([1], [-1, 5], [5000, 1], [3, -1]):
        with pytest.raises(ValueError, match="histogram pairs"):
            ArrayHistogram.from_pairs(pairs)


@pytest.mark.parametrize("most", [2, 100, 1 << 20, 1 << 45], ids=["few", "many", "32 bits", "64 bits"])
def test_sums_of_packed_histograms_are_those_of_unpacked_ones(most: int) -> None:
    rng = random.Random(most)

    def part(likeness: Histogram | None = None) -> tuple[Histogram, Json]:
        cells = {**(likeness.cells if likeness is not None else {}), **{rng.randrange(CELLS): rng.randrange(1, most) for _ in range(20)}}
        return Histogram(cells), {"cells": Histogram(cells).to_pairs(), "sum_ns": rng.randrange(most)}

    sums: dict[tuple[str, str, str], CellSum] = defaultdict(CellSum)
    expected: dict[tuple[str, str, str], Histogram] = defaultdict(Histogram)
    for _ in range(20):
        (latencies, get), (_, large), (_, waited) = part(), part(), part()
        hist, splits = {"get": {"1": get, "7": large}}, {"get": {"first_byte": part(latencies)[1]}, "put": {"first_byte": waited}}
        record = compact.pack({"stage": 0, "warmup": False, "hist": hist, "splits": splits})
        for kind, op, name, figures, first, steps in told(record):
            sums[kind, op, name].add(first, steps, figures.get("sum_ns", 0))
        for kind, op, name, figures in compact.parts(compact.unpack(record)):
            expected[kind, op, name].merge(Histogram.from_pairs(figures["cells"], sum_ns=figures["sum_ns"]))
    for key, one in expected.items():
        found = sums[key].histogram()
        assert (found.cells, found.sum_ns) == (dict(sorted(one.cells.items())), one.sum_ns), key
    below = CellSum()
    below.add(5, np.array([-1, 1]))
    with pytest.raises(ValueError, match="count -1"):
        below.histogram()


def counted(data: StageData) -> Any:
    histograms = {
        **{key: region.histogram for key, region in data.regions.items()},
        **{("endpoint", *key): place.histogram for key, place in data.endpoints.items()},
        **{(op, name): part for op, splits in data.splits.items() for name, part in splits.parts.items()},
    }
    counters = (data.second_ops, data.second_bytes, data.requests, data.retries, data.retried, data.errors)
    return counters, {key: (one.count, one.sum_ns, one.max_ns) for key, one in histograms.items()}


def test_what_a_reader_says_at_any_time_is_what_the_journal_says_so_far(run: Path, tmp_path: Path) -> None:
    lines = (run / "agents" / "a" / "journal.ndjson").read_bytes().splitlines(keepends=True)
    growing, part = JournalReader("a"), tmp_path / "part"
    for number, line in enumerate(lines, 1):
        growing.take(decode(line))
        part.write_bytes(b"".join(lines[:number]))
        told, read = growing.result(), read_agent("a", part)
        assert {index: list(stage.seconds) for index, stage in told.stages.items()} == {i: list(s.seconds) for i, s in read.stages.items()}
        assert {index: counted(stage.data) for index, stage in told.stages.items()} == {i: counted(s.data) for i, s in read.stages.items()}
        assert {index: stage.measured for index, stage in told.stages.items()} == {i: s.measured for i, s in read.stages.items()}
