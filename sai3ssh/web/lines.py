"""A file of lines that another process appends to, read once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 1 << 20


class Lines:
    """Yields each whole line once. What is not a whole line yet is left alone: its writer may still take it back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode: int | None = None

    @property
    def replaced(self) -> bool:
        """Whether the file is no longer the one that was read, or shorter than what was read of it: all has to be read again."""
        try:
            found = self._path.stat()
        except OSError:
            return self._offset > 0
        return self._inode is not None and (found.st_ino != self._inode or found.st_size < self._offset)

    @property
    def grew_at(self) -> float:
        """Wall time at which the file was written last; 0 without one."""
        try:
            return self._path.stat().st_mtime
        except OSError:
            return 0.0

    def new(self) -> Iterator[bytes]:
        """The whole lines that have come since; a file that is not there has none. Memory is one chunk and the longest line."""
        try:
            file = self._path.open("rb")
        except OSError:
            return
        with file:
            if self._inode is None:
                self._inode = os.fstat(file.fileno()).st_ino
            file.seek(self._offset)
            rest = b""
            while data := file.read(CHUNK_BYTES):
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    self._offset += len(line) + 1
                    yield line + b"\n"
