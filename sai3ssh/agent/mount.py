"""What a path of this host is mounted from."""

from __future__ import annotations

from typing import NamedTuple

NETWORK_TYPES = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "afs", "9p", "virtiofs", "wekafs", "orangefs",
    "ocfs2", "gfs2", "panfs", "daos",
)  # fmt: skip


class Mount(NamedTuple):
    """What a path is on."""

    point: str
    kind: str
    source: str
    options: str

    @property
    def network(self) -> bool:
        """Whether other hosts may see the same files."""
        return self.kind in NETWORK_TYPES or self.kind.startswith("fuse.")


def mount_of(path: str, proc: str = "/proc") -> Mount:
    """The mount that a path is on: of those whose point it lies below the longest, of equals the last."""
    best = Mount("", "unknown", "", "")
    with open(f"{proc}/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            after = words.index("-")
            point = _unescape(words[4])
            if len(point) >= len(best.point) and (path == point or path.startswith(point.rstrip("/") + "/")):
                best = Mount(point, words[after + 1], _unescape(words[after + 2]), words[5])
    return best


def _unescape(text: str) -> str:
    # The kernel writes blanks and the like as three octal digits.
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
