"""Copies of files that the kernel makes, and the file server where it can: NFS 4.2, XFS, Btrfs and the like."""

from __future__ import annotations

import errno
import os

from sai3ssh.agent.engines.threaded import OperationFailed
from sai3ssh.dataset import PIECE

_MOST = 1 << 30
_NOT_HERE = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What copy_file_range says where there is none for these files."""
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def copy_file(source: str, path: str, expected: int) -> int:
    """Copies a file and returns its size; raises OSError, and OperationFailed('verify') when that is not the expected one (-1: any)."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size != expected >= 0:
            raise OperationFailed("verify", f"the object has {size} bytes, expected {expected}")
        into = os.open(path, _FLAGS, 0o644)
        try:
            copied = _copy(fd, into, size)
        finally:
            os.close(into)
    finally:
        os.close(fd)
    if copied != size:
        raise OperationFailed("verify", f"the copy ends after {copied} bytes, expected {size}")
    return size


def _copy(fd: int, into: int, size: int) -> int:
    copied = 0
    while copied < size:
        try:
            n = os.copy_file_range(fd, into, min(size - copied, _MOST))
        except OSError as error:
            if copied or error.errno not in _NOT_HERE:
                raise
            return _through_here(fd, into)
        if not n:
            break
        copied += n
    return copied


def _through_here(fd: int, into: int) -> int:
    copied = 0
    while True:
        data = memoryview(os.read(fd, PIECE))
        if not data:
            return copied
        while data:
            n = os.write(into, data)
            copied += n
            data = data[n:]
