"""The file engine: objects are files below a directory."""

from __future__ import annotations

import errno
import os
import random
import shutil
from typing import Dict, Optional

from sai3ssh.agent.engines.base import GET, LIST, MKDIR, PUT, STAT, Root, Task, TreeTask
from sai3ssh.agent.engines.direct import alignment_of, some_file, try_direct
from sai3ssh.agent.engines.filecopy import copy_file
from sai3ssh.agent.engines.fileio import Buffered, Direct
from sai3ssh.agent.engines.tasks import CopyTask
from sai3ssh.agent.engines.threaded import OperationFailed, ThreadedEngine
from sai3ssh.agent.mount import mount_of
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
    errno.ENOTEMPTY: "not_empty",
    errno.EEXIST: "not_empty",
}


class FileEngine(ThreadedEngine):
    """Performs operations on files: through the page cache (file://), or past it with O_DIRECT (direct://).

    A put is complete when the data is written, and on the medium only as far as `fsync` says: none, file or directory. `page_cache` is
    what the kernel is advised for file://, see fileio.Buffered.
    """

    takes_turns = True

    def __init__(
        self, retry: Retry, rng: Optional[random.Random] = None, verify_reads: float = 0.0, *, fsync: str = "none", page_cache: str = "auto"
    ) -> None:
        super().__init__(retry, rng, verify_reads)
        self._roots: Dict[str, _Directory] = {}
        self._fsync = fsync
        self._buffered = Buffered(fsync, page_cache)
        self._direct: Dict[int, Direct] = {}

    def root(self, uri: str) -> Root:
        """The prepared form of file:///directory/, direct:///directory/ or an absolute path; raises TargetError on another form."""
        if uri not in self._roots:
            scheme, _, path = ("file", "", uri) if uri.startswith("/") else uri.partition("://")
            if not path.startswith("/") or scheme not in ("file", "direct"):
                raise TargetError(
                    f"target {uri!r} is not of the form file:///directory/ or direct:///directory/", remedy="Correct the target"
                )
            self._roots[uri] = _Directory(uri, path, self._past_the_cache(path) if scheme == "direct" else self._buffered)
        return self._roots[uri]

    def _past_the_cache(self, path: str) -> Direct:
        alignment = alignment_of(path)
        return self._direct.setdefault(alignment, Direct(self._fsync, alignment))

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
                if isinstance(root.io, Direct):
                    self._check_direct(root.uri, directory, write)
            except OSError as error:
                raise TargetError(
                    f"{root.uri}: {error.strerror}: {error.filename or directory}",
                    remedy="Create the directory, or let this user write there",
                ) from error

    @staticmethod
    def _check_direct(uri: str, directory: str, write: bool) -> None:
        """Raises TargetError when O_DIRECT does not work there. Where nothing is written there must be a file to see it with."""
        path = None if write else some_file(directory)
        if not write and path is None:
            return
        try:
            try_direct(directory, path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            mount = mount_of(os.path.realpath(directory))
            raise TargetError(
                f"{uri}: O_DIRECT does not work on {mount.kind} ({mount.point}): {error.strerror}",
                remedy="Use file:// instead of direct://, or a file system that has O_DIRECT (ext4, xfs, NFS)",
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
        """Gives the memory of buffers back; nothing stays open between runs."""
        for io in (self._buffered, *self._direct.values()):
            io.forget()

    def remove_if_empty(self, root: Root, name: str) -> str:
        """Removes a directory below a root unless something is in it or it is gone already; returns what else was in the way."""
        assert isinstance(root, _Directory)
        try:
            os.rmdir(root.path + name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                return f"{root.path + name}: {error.strerror}"
        return ""

    def perform(self, task: Task) -> int:
        """Makes one attempt; see ThreadedEngine."""
        path = task.root.path + task.key
        try:
            if task.op == GET:
                size = task.root.io.get(path, task, self.content_of(task))
                _expect_size(size, task.size)
                return int(size)
            if task.op == PUT:
                return int(task.root.io.put(path, task))
            if task.op == LIST:
                task.listed = _count(path, one_level=bool(task.delimiter))
            elif isinstance(task, CopyTask):
                return copy_file(task.source.root.path + task.source.key, path, task.size)
            elif task.op == STAT:
                _expect_size(os.stat(path).st_size, task.size)
            elif task.op == MKDIR:
                _make_directory(path)
            elif isinstance(task, TreeTask):
                shutil.rmtree(path)
            elif path.endswith("/"):
                os.rmdir(path)
            else:
                os.unlink(path)
        except OSError as error:
            error_class = _CLASSES.get(error.errno or 0, "io")
            raise OperationFailed(error_class, error.strerror or str(error)) from error
        return 0


class _Directory(Root):
    """A target directory, or the beginning of file names, that keys are appended to."""

    __slots__ = ("index", "io", "path")

    def __init__(self, uri: str, path: str, io: Buffered) -> None:
        super().__init__(uri)
        self.path = path
        self.io = io
        self.index = 0
        """Where there are several endpoints: which one this is at."""


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path.rstrip("/")), exist_ok=True)
        os.mkdir(path)


def _count(path: str, one_level: bool) -> int:
    """The number of files below a directory, or of its entries."""
    files, directories = 0, [path]
    while directories:
        directory = directories.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir(follow_symlinks=False) and not one_level:
                        directories.append(entry.path)
                    else:
                        files += 1
        except FileNotFoundError:
            # Others may remove what was seen a moment ago, but not what is listed.
            if directory == path:
                raise
    return files


def _expect_size(found: int, expected: int) -> None:
    if found != expected >= 0:
        raise OperationFailed("verify", f"the object has {found} bytes, expected {expected}")
