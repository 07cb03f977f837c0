from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sai3ssh.controller.mirror import Mirror
from sai3ssh.errors import JournalLost, Permanent
from sai3ssh.protocol import decode_record, encode_record


def journal(records: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    lines = [encode_record({"seq": 0, "kind": "epoch", "epoch": f"e{seed}"})]
    lines += [encode_record({"seq": seq, "kind": "sec", "pad": "x" * rng.randrange(300)}) for seq in range(1, records - 1)]
    return b"".join([*lines, encode_record({"seq": records - 1, "kind": "final", "outcome": "finished"})])


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_size_and_reopening_anywhere(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    whole = journal(60, seed)
    path = tmp_path / "agents" / "a" / "journal.ndjson"
    mirror = Mirror(path)
    seen = []
    while mirror.size < len(whole):
        seen += mirror.append(mirror.size, whole[mirror.size : mirror.size + rng.randrange(1, 700)])
        assert whole.startswith(path.read_bytes()), "a byte prefix at all times"
        assert path.stat().st_size == mirror.size
        if rng.random() < 0.2:
            mirror.close()
            mirror = Mirror(path)
            seen = list(mirror.records())
    assert [record["seq"] for record in seen] == list(range(60))
    assert seen == [decode_record(line) for line in whole.splitlines(keepends=True)]
    assert mirror.epoch == f"e{seed}"
    assert mirror.final is not None
    assert mirror.final["outcome"] == "finished"
    mirror.verify(len(whole), hashlib.sha256(whole).hexdigest())
    assert path.read_bytes() == whole
    mirror.close()


@pytest.mark.parametrize("damage", ["torn", "zeros", "altered", "reordered"])
def test_what_a_crash_left_is_cut_to_whole_records(tmp_path: Path, damage: str) -> None:
    whole = journal(10)
    lines = whole.splitlines(keepends=True)
    good = b"".join(lines[:6])
    left = {
        "torn": good + lines[6][:-5],
        "zeros": good + bytes(500),
        "altered": good + lines[6].replace(b'"sec"', b'"SEC"') + lines[7],
        "reordered": good + lines[7],
    }[damage]
    path = tmp_path / "journal.ndjson"
    path.write_bytes(left)
    with Mirror(path) as mirror:
        assert path.read_bytes() == good
        assert mirror.size == len(good)
        assert [record["seq"] for record in mirror.append(len(good), whole[len(good) :])] == [6, 7, 8, 9]
        mirror.verify(len(whole), hashlib.sha256(whole).hexdigest())


def test_bytes_from_elsewhere_are_refused_and_change_nothing(tmp_path: Path) -> None:
    whole = journal(10)
    with Mirror(tmp_path / "j") as mirror:
        mirror.append(0, whole[:100])
        for offset in (0, 99, 101, 10**9):
            with pytest.raises(JournalLost, match=f"offset {offset}"):
                mirror.append(offset, whole[offset : offset + 50] or b"x")
        assert (tmp_path / "j").read_bytes() == whole[:100]
        other = journal(10, seed=7).splitlines(keepends=True)
        mirror.append(100, whole[100:])
        with pytest.raises(JournalLost):
            mirror.append(len(whole), other[3])
        with pytest.raises(JournalLost, match="torn or altered"):
            mirror.append(len(whole), b"noise\n")
        assert (tmp_path / "j").read_bytes() == whole
        assert mirror.sha256 == hashlib.sha256(whole).hexdigest()


def test_verify_refuses_another_size_or_digest(tmp_path: Path) -> None:
    whole = journal(5)
    digest = hashlib.sha256(whole).hexdigest()
    with Mirror(tmp_path / "j") as mirror:
        mirror.append(0, whole)
        mirror.verify(len(whole), digest)
        for size, sha256 in ((len(whole) + 1, digest), (len(whole), "0" * 64)):
            with pytest.raises(JournalLost, match="does not continue"):
                mirror.verify(size, sha256)


SCRIPT = """
import resource, sys
from pathlib import Path
from sai3ssh.controller.mirror import Mirror
from sai3ssh.errors import Permanent
whole = Path(sys.argv[2]).read_bytes()
mirror = Mirror(Path(sys.argv[1]))
try:
    while mirror.size < len(whole):
        mirror.append(mirror.size, whole[mirror.size : mirror.size + 1000])
except Permanent as error:
    assert Path(sys.argv[1]).stat().st_size == mirror.size, "nothing half-written stays"
    print(mirror.size, error)
"""


def test_a_full_disk_is_said_and_leaves_a_prefix(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "mirror"
    whole = journal(200)
    source.write_bytes(whole)
    limit = len(whole) // 2 + 333

    def shrink() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + SCRIPT, str(path), str(source)],
        preexec_fn=shrink,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    size, _, message = done.stdout.partition(" ")
    assert os.strerror(errno.EFBIG) in message
    assert str(path) in message
    assert whole.startswith(path.read_bytes())
    with Mirror(path) as mirror:
        assert 0 < mirror.size <= int(size)
        mirror.append(mirror.size, whole[mirror.size :])
        mirror.verify(len(whole), hashlib.sha256(whole).hexdigest())


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Permanent, match="cannot be opened"):
        Mirror(tmp_path / "file" / "journal.ndjson")
