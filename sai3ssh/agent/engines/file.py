"""The file engine: objects are files below a directory."""

from __future__ import annotations

import errno
import os
import random
from typing import Dict, Optional

from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, Root, Task
from sai3ssh.agent.engines.threaded import OperationFailed, ThreadedEngine
from sai3ssh.dataset import PIECE
from sai3ssh.errors import TargetError
from sai3ssh.model import Retry

_CLASSES = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
}


class FileEngine(ThreadedEngine):
    """Performs operations on files, through the page cache. A put is complete when the data is written, not when it is on the medium."""

    def __init__(self, retry: Retry, rng: Optional[random.Random] = None, verify_reads: float = 0.0) -> None:
        super().__init__(retry, rng, verify_reads)
        self._roots: Dict[str, _Directory] = {}

    def root(self, uri: str) -> Root:
        """The prepared form of file:///directory/ or of an absolute path; raises TargetError on another form."""
        if uri not in self._roots:
            path = uri[7:] if uri.startswith("file://") else uri
            if not path.startswith("/"):
                raise TargetError(f"target {uri!r} is not of the form file:///directory/", remedy="Correct the target")
            self._roots[uri] = _Directory(uri, path)
        return self._roots[uri]

    def check(self, write: bool = False) -> None:
        """Returns when the directories of all prepared roots exist (with `write`: exist or could be made, and a file could be written)."""
        for root in self._roots.values():
            directory = os.path.dirname(root.path)
            try:
                if write:
                    os.makedirs(directory, exist_ok=True)
                    self._try_to_write(directory)
                with os.scandir(directory):
                    pass
            except OSError as error:
                raise TargetError(
                    f"{root.uri}: {error.strerror}: {error.filename or directory}",
                    remedy="Create the directory, or let this user write there",
                ) from error

    def _try_to_write(self, directory: str) -> None:
        """Makes a file without a name, of which nothing stays however this process ends; NFS and the like know none such."""
        try:
            os.close(os.open(directory, os.O_WRONLY | os.O_TMPFILE, 0o644))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            probe = os.path.join(directory, f".sai3ssh-probe-{self._rng.getrandbits(64):016x}")
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            os.unlink(probe)

    def close(self) -> None:
        """Nothing stays open between runs."""

    def perform(self, task: Task) -> int:
        """Makes one attempt; see ThreadedEngine."""
        path = task.root.path + task.key
        try:
            if task.op == GET:
                return self._get(task, path)
            if task.op == PUT:
                return _put(task, path)
            if task.op == LIST:
                task.listed = _count(path)
            elif task.op == DELETE:
                os.unlink(path)
            else:
                _expect_size(os.stat(path).st_size, task.size)
        except OSError as error:
            error_class = _CLASSES.get(error.errno or 0, "io")
            raise OperationFailed(error_class, error.strerror or str(error)) from error
        return 0

    def _get(self, task: Task, path: str) -> int:
        content = self.content_of(task)
        buffer = bytearray(PIECE)
        view = memoryview(buffer)
        offset = 0
        with open(path, "rb", buffering=0) as file:
            while True:
                n = file.readinto(buffer)
                if not n:
                    break
                if content is not None and not content.matches(task.index, max(task.size, offset + n), offset, view[:n]):
                    raise OperationFailed("verify", f"the bytes differ from what was written, at or after offset {offset}")
                offset += n
        _expect_size(offset, task.size)
        return offset


class _Directory(Root):
    """A target directory, or the beginning of file names, that keys are appended to."""

    __slots__ = ("index", "path")

    def __init__(self, uri: str, path: str) -> None:
        super().__init__(uri)
        self.path = path
        self.index = 0
        """Where there are several endpoints: which one this is at."""


def _put(task: Task, path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, flags, 0o644)
    try:
        offset = 0
        while offset < task.size:
            assert task.content is not None
            offset += os.write(fd, task.content.piece(task.index, task.size, offset, PIECE))
    finally:
        os.close(fd)
    return task.size


def _count(path: str) -> int:
    """The number of files below a directory."""
    files, directories = 0, [path]
    while directories:
        with os.scandir(directories.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
                else:
                    files += 1
    return files


def _expect_size(found: int, expected: int) -> None:
    if found != expected >= 0:
        raise OperationFailed("verify", f"the object has {found} bytes, expected {expected}")
