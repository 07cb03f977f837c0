"""How the bytes of one file are written and read: through the page cache, or past it."""

from __future__ import annotations

import mmap
import os
from typing import List, Optional

from sai3ssh.agent.engines.base import Task
from sai3ssh.agent.engines.threaded import OperationFailed
from sai3ssh.dataset import BLOCK, PIECE, Content

DIRECT_BYTES = 1 << 20
"""The most that one call moves past the page cache, where nobody gathers small writes."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC


class Buffered:
    """Files through the page cache.

    `fsync`: file waits for fdatasync before a put is done, directory for fsync of the file's directory as well. `page_cache` is what the
    kernel is advised before a read; dontneed also drops the file's pages after it, and after a put, which therefore waits for fdatasync:
    pages that are not written yet cannot be dropped.
    """

    size = PIECE
    """Bytes of a buffer."""

    def __init__(self, fsync: str, page_cache: str = "auto") -> None:
        self._drops = page_cache == "dontneed"
        self._syncs = fsync != "none" or self._drops
        self._syncs_directory = fsync == "directory"
        # Named here, not above: the operator's machine imports this module too, and need not be Linux.
        self._advice: Optional[int] = None if page_cache == "auto" else getattr(os, f"POSIX_FADV_{page_cache.upper()}")
        self.flags = 0
        self._spare: List[memoryview] = []

    def put(self, path: str, task: Task) -> int:
        """Makes or replaces a file, and the directories that it needs."""
        flags = _CREATE | self.flags
        try:
            fd = os.open(path, flags, 0o644)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, flags, 0o644)
        try:
            self.write(fd, task)
            if self._syncs:
                os.fdatasync(fd)
                if self._drops:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
        if self._syncs_directory:
            _fsync_directory(os.path.dirname(path))
        return task.size

    def write(self, fd: int, task: Task) -> None:
        """Writes the object's bytes."""
        size, content, index = task.size, task.content, task.index
        if size <= BLOCK:
            if size:
                assert content is not None
                _write_all(fd, memoryview(content.head(index, size)))
            return
        assert content is not None
        buffer = self.take()
        for offset in range(0, size, PIECE):
            whole = -(-min(PIECE, size - offset) // BLOCK) * BLOCK
            _write_all(fd, buffer[: content.piece_into(buffer[:whole], index, size, offset)])
        self._spare.append(buffer)

    def get(self, path: str, task: Task, content: Optional[Content]) -> int:
        """Reads a file to its end, compares it when there is `content`, and returns how many bytes it has."""
        fd = os.open(path, _READ | self.flags)
        try:
            if self._advice is None:
                return self.read(fd, task, content)
            os.posix_fadvise(fd, 0, 0, self._advice)
            size = self.read(fd, task, content)
            if self._drops:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return size
        finally:
            os.close(fd)

    def read(self, fd: int, task: Task, content: Optional[Content]) -> int:
        """Reads all bytes; raises OperationFailed when they are not as they were written."""
        buffer = self.take()
        offset = 0
        while True:
            n = os.readv(fd, [buffer])
            if n:
                check_bytes(task, content, offset, buffer[:n])
                offset += n
            # A short read that ends where the object should end saves the one that would say so.
            if not n or (n < PIECE and offset == task.size):
                break
        self._spare.append(buffer)
        return offset

    def take(self) -> memoryview:
        """A buffer that nobody uses; it is given back to _spare, or lost with an error."""
        try:
            return self._spare.pop()
        except IndexError:
            # Not a bytearray: a mapping begins at a page, which O_DIRECT needs.
            return memoryview(mmap.mmap(-1, self.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def forget(self) -> None:
        """Gives the memory of buffers back."""
        self._spare.clear()


class Direct(Buffered):
    """Files past the page cache, with O_DIRECT in multiples of `alignment` bytes.

    The last block of a file whose size is no multiple is written whole and cut with ftruncate: all bytes go past the cache, as they would
    not if O_DIRECT were switched off for the rest.
    """

    size = DIRECT_BYTES

    def __init__(self, fsync: str, alignment: int) -> None:
        super().__init__(fsync)
        self.alignment = alignment
        self.flags = os.O_DIRECT

    def write(self, fd: int, task: Task) -> None:
        """Writes the object's bytes, and cuts what is written beyond."""
        size, content, index, unit = task.size, task.content, task.index, self.alignment
        if not size:
            return
        assert content is not None
        buffer = self.take()
        for begin in range(0, size, DIRECT_BYTES):
            length = min(DIRECT_BYTES, size - begin)
            whole = -(-length // unit) * unit
            for at in range(0, length, PIECE):
                content.piece_into(buffer[at : min(at + PIECE, whole)], index, size, begin + at)
            _write_all(fd, buffer[:whole])
        if size % unit:
            os.ftruncate(fd, size)
        self._spare.append(buffer)

    def read(self, fd: int, task: Task, content: Optional[Content]) -> int:
        """See Buffered."""
        size, unit = task.size, self.alignment
        buffer = self.take()
        offset = 0
        while True:
            # A block more than there should be: a short read is the end of the file.
            want = DIRECT_BYTES if size < offset else min(DIRECT_BYTES, (size - offset) // unit * unit + unit)
            n = os.readv(fd, [buffer[:want]])
            if n:
                check_bytes(task, content, offset, buffer[:n])
                offset += n
            if not n or n % unit or (n < want and offset == size):
                break
        self._spare.append(buffer)
        return offset


def check_bytes(task: Task, content: Optional[Content], offset: int, data: memoryview) -> None:
    """Raises OperationFailed when bytes of an object are not those that were written; its size is not looked at."""
    if content is not None and not content.matches(task.index, max(task.size, offset + len(data)), offset, data):
        raise OperationFailed("verify", f"the bytes differ from what was written, at or after offset {offset}")


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _fsync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
