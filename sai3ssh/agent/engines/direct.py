"""Files past the page cache: what O_DIRECT needs, and whether a file system has it."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from typing import Optional, Tuple

LEAST_BYTES = 4096
"""A multiple of what file systems ask for that are not on a block device of their own, NFS and Lustre among them."""


def alignment_of(path: str) -> int:
    """What offsets and lengths of O_DIRECT on files there are multiples of; of a path that does not exist, where its parent would be.

    Not st_blksize: that is what is best (4 MiB on Lustre), and would make a small file a large one.
    """
    while True:
        try:
            device = os.stat(path).st_dev
            break
        except OSError:
            if path == os.path.dirname(path):
                return LEAST_BYTES
            path = os.path.dirname(path)
    here = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for disk in (here, os.path.dirname(here)):  # a partition has no queue of its own
        with contextlib.suppress(OSError, ValueError), open(f"{disk}/queue/logical_block_size", encoding="ascii") as file:
            return max(LEAST_BYTES, int(file.read()))
    return LEAST_BYTES


def some_file(directory: str) -> Optional[str]:
    """Any regular file below the directory: to open another one, such as a FIFO, may take for ever."""
    paths = (os.path.join(place, name) for place, _, names in os.walk(directory) for name in names)
    return next((path for path in paths if os.path.isfile(path)), None)


def try_direct(directory: str, path: Optional[str] = None) -> None:
    """Writes a block past the page cache and reads it back, or reads the first of the file at `path`; nothing stays.

    Raises OSError where O_DIRECT does not work.
    """
    size = alignment_of(directory)
    fd, made = (os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC), None) if path is not None else _new_file(directory)
    try:
        # Anonymous memory begins at a page.
        with mmap.mmap(-1, size) as block:
            if path is None:
                os.pwrite(fd, block, 0)
            os.preadv(fd, [block], 0)
    finally:
        os.close(fd)
        if made is not None:
            os.unlink(made)


def _new_file(directory: str) -> Tuple[int, Optional[str]]:
    """A file of O_DIRECT, and its name when it had to have one: NFS and the like know no O_TMPFILE."""
    with contextlib.suppress(OSError):
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_DIRECT, 0o600), None
    name = os.path.join(directory, f".sai3ssh-probe-{secrets.token_hex(8)}")
    try:
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC, 0o600), name
    except OSError:
        # Linux has made the file before it says that it cannot be opened so.
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
