"""Traces: what is wrong has its line, what is right is divided so that each object keeps its order."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sai3ssh import config, replaying, trace
from sai3ssh.controller.uploads import upload
from sai3ssh.errors import ConfigError, LinkLost, Transient
from sai3ssh.model import Host, StageKind
from sai3ssh.oplog import COLUMNS, frames, trace_name, unpack
from sai3ssh.trace import Facts, Names, Row, divide, prepare, rows

HEAD = "\t".join(COLUMNS) + "\n"


def line(
    n: int, op: str = "GET", file: str = "b/k", ms: int | None = None, size: int = 10, error: str = "", endpoint: str = "s3://"
) -> str:
    second, rest = divmod(n if ms is None else ms, 1000)
    start = f"2026-01-31T12:00:{second:02d}.{rest:03d}Z"
    return f"{n}\t7\t{op}\tclient\t1\t{size}\t{endpoint}\t{file}\t{error}\t{start}\t\t{start}\t0\n"


def file(path: Path, *lines: str, head: str = HEAD) -> Path:
    path.write_text(head + "".join(lines))
    return path


def wrote(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def unended(data: bytes) -> bytes:
    """What a writer of zstd has on the disk when it is killed after a flush."""
    writer = zstandard.ZstdCompressor().compressobj()
    return bytes(writer.compress(data) + writer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another file": (lambda p: file(p, head="a,b,c\n"), ":1: the first line has no column op and file and bytes and start: found 'a,b,c'"),
    "nothing": (lambda p: file(p, head=""), ":1: the first line has no column op"),
    "a column too few": (lambda p: file(p, line(0), "1\t2\n"), ":3: expected 13 columns as in the first line, found 2"),
    "an unknown operation": (
        lambda p: file(p, line(0, "COPY")),
        ":2: op: expected one of GET, PUT, LIST, STAT, DELETE, HEAD, found",
    ),
    "a size in words": (lambda p: file(p, line(0).replace("\t10\t", "\tmany\t")), ":2: bytes: expected a whole number, found 'many'"),
    "a size below zero": (lambda p: file(p, line(0).replace("\t10\t", "\t-1\t")), ":2: bytes: expected a whole number, found '-1'"),
    "a size beyond all": (lambda p: file(p, line(0, size=10**30)), ":2: bytes: expected 1,125,899,906,842,624 at most, found 1000"),
    "a time before all": (lambda p: file(p, line(0).replace("2026", "1969")), ":2: start: expected a time such as"),
    "a time after all": (lambda p: file(p, line(0), line(1).replace("2026", "9999")), ":3: start: expected a time such as"),
    "no time": (
        lambda p: file(p, line(0).replace("2026", "x")),
        ":2: start: expected a time such as 2026-01-31T12:00:00.123456789Z",
    ),
    "a time without a zone": (lambda p: file(p, line(0).replace("Z", "")), ":2: start: expected a time"),
    "a torn archive": (lambda p: wrote(p, gzip.compress((HEAD + line(0) * 99).encode())[:-20]), "cannot be read: "),
    "a torn frame": (
        lambda p: wrote(p, zstandard.compress((HEAD + line(0) * 99).encode())[:-4]),
        "cannot be read: it is cut off: its last zstd frame is not whole",
    ),
    "a frame that was never ended": (lambda p: wrote(p, unended((HEAD + line(0) * 99).encode())), ":101: cannot be read: it is cut off"),
    "a line without an end": (
        lambda p: wrote(p, zstandard.compress(HEAD.encode() + bytes(1 << 24))),
        ":2: expected a line of a trace, found one of more than 65,536 characters",
    ),
    "no file": (lambda p: p, "cannot be read: "),
    "an empty name": (lambda p: file(p, line(0, file="")), ":2: GET 's3://' names no object"),
    "a name with a bell": (lambda p: file(p, line(0, file="b/\a")), ":2: GET 's3://b/\\x07' has characters"),
    "a long name": (lambda p: file(p, line(0, file="k" * 1025)), "has a key of 1025 characters, at most 1024"),
    "no operation": (lambda p: file(p, "# nothing\n"), ": there is no operation in it"),
}


def spread(paths: list[Path], tmp_path: Path, *, agents: int = 1, workers: int = 1, **names: Any) -> tuple[Facts, list[Path]]:
    directories = [tmp_path / f"agent{n}" for n in range(agents)]
    for directory in directories:
        directory.mkdir()
    return divide(paths, Names(names.pop("target", "s3://to/"), **names), directories, workers, 0), directories


def content(path: Path) -> list[tuple[int, str, str, int]]:
    data = path.read_bytes()
    with path.open("rb") as opened:
        found = list(frames(opened, len(data)))
    return [(row.start_ns, row.op, row.key, row.bytes) for one in found for row in unpack(data[one.offset : one.offset + one.length], one)]


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_has_its_line(name: str, tmp_path: Path) -> None:
    make, expected = BAD[name]
    path: Path = make(tmp_path / "t")
    with pytest.raises(ConfigError) as caught:
        spread([path], tmp_path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: data,
        gzip.compress,
        zstandard.ZstdCompressor().compress,
        lambda data: b"".join(zstandard.compress(data[at : at + 50]) for at in range(0, len(data), 50)),
    ],
)
def test_formats_are_known_by_their_content(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(pack((HEAD + line(0) + "\n# a comment\n" + line(5, "HEAD", "b/x", size=0, error="http_404")).encode()))
    first, second = rows([path])
    assert (first.op, first.name, first.bytes, first.line, first.well) == ("get", "s3://b/k", 10, 2, True)
    assert (second.op, second.line, second.well, second.start_ns - first.start_ns) == ("stat", 5, False, 5_000_000)


def test_columns_are_found_by_name_and_times_have_zones(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text(
        "operation\tfile\tbytes\tt_start\nget\tfile:///d/x\t1\t2026-01-31T13:00:00+01:00\nGET\t/d/y\t2\t2026-01-31T12:00:00.5Z\n"
    )
    first, second = rows([path])
    assert (first.name, second.name, second.start_ns - first.start_ns) == ("file:///d/x", "/d/y", 500_000_000)


def test_rows_are_sorted_within_a_window_and_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "WINDOW", 10)
    source = random.Random(1)
    shuffled = sorted(range(200), key=lambda n: n + source.randrange(9))
    paths = [file(tmp_path / f"t{part}", *(line(n) for n in shuffled[part::2])) for part in range(2)]
    starts = [row.start_ns for row in rows(paths)]
    assert [(start - starts[0]) // 10**6 for start in starts] == list(range(200))
    late = file(tmp_path / "late", *(line(n) for n in [*range(100, 130), 5]))
    with pytest.raises(ConfigError, match=r"late:32: the operation starts 0.\d+ s before one that is 10 lines above it. Sort the trace"):
        list(rows([late]))


def test_many_files_share_what_may_be_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "HELD", 40)
    read: Counter[str] = Counter()
    parse = trace._row

    def counted(fields: list[str], *rest: Any) -> Row:
        read[rest[-1]] += 1
        return parse(fields, *rest)

    monkeypatch.setattr(trace, "_row", counted)
    paths = [file(tmp_path / f"t{part}", *(line(n) for n in range(50))) for part in range(4)]
    found = rows(paths)
    next(found)
    assert [read[str(path)] for path in paths] == [11] * 4
    assert len(list(found)) == 199


def test_a_trace_is_divided_among_more_workers_than_files_may_be_open(tmp_path: Path) -> None:
    path = file(tmp_path / "t", *(line(n % 50, file=f"b/{n}") for n in range(500)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 16, hard))
    try:
        _, directories = spread([path], tmp_path, agents=8, workers=8)
        assert prepare(directories, 8, 1, 0).records == 500
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (
        sum(len(content(directory / trace_name(stage, worker))) for directory in directories for stage in (0, 1) for worker in range(8))
        == 1000
    )


def test_names_become_keys_below_the_target(tmp_path: Path) -> None:
    lines = [line(0, file="b/p/x"), line(1, file="/d/y", endpoint="file://"), line(2, "LIST", "b/p/"), line(3, file="other/z")]
    _, (directory,) = spread([file(tmp_path / "t", *lines)], tmp_path, remaps=(("s3://b/p/", "new/"), ("file:///d/", "")))
    assert [key for _, _, key, _ in content(directory / trace_name(0, 0))] == ["new/x", "y", "new/", "other/z"]


@pytest.mark.parametrize("target", ["file:///d/", "direct:///d/"])
def test_no_key_leads_out_of_a_directory(target: str, tmp_path: Path) -> None:
    path = file(tmp_path / "t", line(0, "DELETE", "b/../../etc/passwd"))
    with pytest.raises(ConfigError, match=r":2: DELETE .* leads out of its directory"):
        spread([path], tmp_path, target=target)


def test_each_object_has_one_worker_and_its_order(tmp_path: Path) -> None:
    source = random.Random(3)
    lines = [line(n, source.choice(["GET", "PUT"]), f"b/k{source.randrange(50)}", ms=n // 2, size=n) for n in range(2000)]
    facts, directories = spread([file(tmp_path / "t", *lines)], tmp_path, agents=3, workers=2)
    parts = [content(directory / trace_name(0, worker)) for directory in directories for worker in range(2)]
    assert facts == Facts(2000, sum(n for n in range(2000) if "PUT" in lines[n]), 1999, facts.first_ns, 999_000_000, {"get", "put"})
    assert sum(map(len, parts)) == 2000
    keys = [{key for _, _, key, _ in part} for part in parts]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 50
    assert min(map(len, keys)) > 0
    for part in parts:
        assert [size for *_, size in part] == sorted(size for *_, size in part)
        assert all(start == size // 2 * 10**6 for start, _, _, size in part)


def test_what_is_read_before_it_is_written_is_put_first(tmp_path: Path) -> None:
    lines = [
        line(0, "STAT", "b/a", size=0),
        line(1, "GET", "b/a", size=70),
        line(2, "PUT", "b/new", size=5),
        line(3, "GET", "b/new", size=5),
        line(4, "GET", "b/none", size=0, error="http_404"),
        line(5, "DELETE", "b/gone", size=0),
        line(6, "GET", "b/gone", size=9),
        line(7, "LIST", "b/", size=0),
    ]
    _, directories = spread([file(tmp_path / "t", *lines)], tmp_path)
    found = prepare(directories, 1, 1, 0)
    assert content(directories[0] / trace_name(1, 0)) == [(0, "put", "b/a", 70), (0, "put", "b/gone", 0)]
    assert (found.records, found.put_bytes, found.largest_bytes, found.operations) == (2, 70, 70, {"put"})


# --- settings and plan -------------------------------------------------------------------------------------------------------------------


def test_a_replay_counts_errors_and_has_the_time_of_its_trace(tmp_path: Path) -> None:
    loaded = config.replay_settings(None, "s3://to-there/x")
    facts = Facts(7, 100, 60, 0, 9_500_000_000, {"put", "get"})
    stages = [replaying._stage("replay", loaded, "s3://to-there/x/", facts, speed) for speed in (1.0, 4.0, None)]
    assert [stage.duration_s for stage in stages] == [10.0, 3.0, None]
    hosts = [Host(f"h{n}", f"192.0.2.{n}") for n in range(2)]
    plan, _ = config.compile_plan(loaded, "r", hosts, replay=stages[:1])
    assert (plan.name, plan.workers, plan.error_limits.max_total_errors, plan.error_limits.rate_per_s) == ("replay", 4, 0, 0.0)
    assert (plan.target.engine, plan.stages[0].kind, plan.stages[0].replay and plan.stages[0].replay.operations) == (
        "s3", StageKind.REPLAY, ("get", "put"),
    )  # fmt: skip
    assert config.describe(*config.compile_plan(loaded, "r", hosts, replay=stages[1:2]), loaded).stages[0].pace == (
        "trace of 7 operations, at 4 times its speed"
    )
    file(tmp_path / "s.yml", head="error_handling: {max_total_errors: 5}\nworkers: 2\nconcurrency: 3\nname: mine\n")
    own = config.replay_settings(tmp_path / "s.yml", "s3://to-there/x/")
    assert (own.keys.error_handling.max_total_errors, own.keys.workers, own.keys.concurrency, own.keys.name) == (5, 2, 3, "mine")


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("workers: 2\nworkload: []\n", "s3://to-there/", "s.yml:2:1: workload has no meaning for a replay"),
        ("workers: 2\n", "ftp://x/", "--target: scheme ftp:// is not supported"),
        ("workers: 20\n", "s3://to-there/", "20 workers share a concurrency of 16"),
    ],
)
def test_settings_that_make_no_sense_are_refused(text: str, target: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "s.yml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.replay_settings(tmp_path / "s.yml", target)
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["s3://b/", "=x", "s3://a/=s3://b/"])
def test_remaps_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--remap: "):
        replaying.remaps([text])
    assert replaying.remaps(["s3://b/p/=x/y", "file:///d="]) == (("s3://b/p/", "x/y"), ("file:///d", ""))


# --- upload ------------------------------------------------------------------------------------------------------------------------------


class FakeLink:
    """An agent that takes traces, over a link that breaks after so many requests."""

    def __init__(self, left: int = 1 << 30) -> None:
        self.left = left
        self.files: dict[str, bytes] = {}

    def request(self, command: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if not self.left:
            raise LinkLost("cut by the test")
        self.left -= 1
        json.dumps(command)
        have = self.files.setdefault(command["name"], b"")
        if "data" in command and command["offset"] == len(have):
            have = self.files[command["name"]] = have + base64.b64decode(command["data"])
        if "sha256" in command and hashlib.sha256(have).hexdigest() != command["sha256"]:
            raise Transient("altered")
        return {"have": len(have)}


def test_an_upload_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sai3ssh.controller.uploads.PIECE", 100)
    (tmp_path / "a").write_bytes(random.Random(1).randbytes(950))
    (tmp_path / "b").write_bytes(b"")
    paths = [tmp_path / "a", tmp_path / "b"]
    link = FakeLink(left=4)
    with pytest.raises(LinkLost):
        upload(link, paths, "r", "a")  # type: ignore[arg-type]
    assert len(link.files["a"]) == 300
    link.files["a"] += paths[0].read_bytes()[300:333]
    link.left = 1 + 7 + 1 + 2
    upload(link, paths, "r", "a")  # type: ignore[arg-type]
    assert (link.files, link.left) == ({"a": paths[0].read_bytes(), "b": b""}, 0)
