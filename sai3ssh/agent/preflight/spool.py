"""Where the agent writes: its state directory on disk, and the shared memory of its counters."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import Any, Dict

from sai3ssh.agent import metrics, state
from sai3ssh.agent.preflight.checks import failure, ok, size, warning
from sai3ssh.agent.preflight.service import Service
from sai3ssh.findings import Finding
from sai3ssh.model import MIB

MIN_FREE_BYTES = 64 * MIB
"""What should stay free when the journal is full, and what is asked for when no plan says how long its journal is."""
MIN_INODES = 100
"""A run makes a dozen files."""

_METRICS_BYTES = metrics.TOTAL * 8


def disk(service: Service, journal_bytes: int, op_log_bytes: int = 0) -> Finding:
    """host.disk: room for the journal of this plan in the state directory, and that it can be written to; room for its op-log, too."""
    path = service.directory
    found = os.statvfs(path)
    free, inodes = found.f_bavail * found.f_frsize, found.f_favail
    values: Dict[str, Any] = {"path": path, "free_bytes": free, "journal_bytes": journal_bytes}
    if found.f_files:
        values["free_inodes"] = inodes
    remedy = "Free space there (finished runs are below runs/), or set sai3ssh_agent_state_dir to a directory on a larger file system"
    if found.f_flag & os.ST_RDONLY:
        return failure(f"{path} is on a file system mounted read-only", "a file system that can be written to", "Remount it", **values)
    if free < journal_bytes:
        return failure(
            f"{size(free)} free in {path}", f"at least {size(journal_bytes)}, the journal that this plan sets aside", remedy, **values
        )
    if found.f_files and inodes < MIN_INODES:
        return failure(f"{inodes} inodes free in {path}", f"at least {MIN_INODES}", remedy.replace("space", "inodes"), **values)
    if not service.served:  # who may not write there need not: the service does
        try:
            _write_probe(path)
        except OSError as error:
            return failure(
                f"{path} cannot be written to: {error.strerror}",
                "a directory that this user can write to",
                remedy if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"chown or chmod {path}, or give another directory",
                **values,
            )
    if free - journal_bytes < MIN_FREE_BYTES:
        need = f"{size(journal_bytes + MIN_FREE_BYTES)}: the journal and {size(MIN_FREE_BYTES)} for everybody else"
        return warning(f"{size(free)} free in {path}", need, remedy, **values)
    if free - journal_bytes - op_log_bytes < MIN_FREE_BYTES:
        return warning(
            f"{size(free)} free in {path}: the op-log, which may take {size(op_log_bytes)}, can lose operations",
            f"{size(journal_bytes + op_log_bytes + MIN_FREE_BYTES)}: journal, op-log, and {size(MIN_FREE_BYTES)} for everybody else",
            f"{remedy}; or set op_log_max_bytes to what is needed",
            op_log_bytes=op_log_bytes,
            **values,
        )
    return ok(f"{size(free)} free in {path}", **values)


def _write_probe(directory: str) -> None:
    path = os.path.join(directory, f".preflight-{secrets.token_hex(8)}")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"\0" * 4096)
        os.fsync(fd)
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(path)


def no_directory(error: OSError) -> Finding:
    """host.disk where there is no state directory at all."""
    return failure(
        f"{error.filename}: {error.strerror}",
        "a state directory for the agent",
        "Give the SSH user a home directory that it can write to, or deploy the agent with `sai3ssh deploy`",
    )


def shared_memory(service: Service, workers: int, counters_bytes: int = 0) -> Finding:
    """host.shm: room for the counters of `workers` workers, of this stage and of the next; counters_bytes each, as far as it is known."""
    needed = 2 * workers * max(_METRICS_BYTES, counters_bytes)
    path = "/dev/shm"  # noqa: S108 (looked at only)
    if not os.path.isdir(path):
        return warning("the host has no /dev/shm: the counters of workers would be files in /tmp", "a tmpfs", "Mount a tmpfs on /dev/shm")
    if not service.served:
        try:
            path = state.metrics_dir()
        except OSError as error:
            return failure(
                str(error),
                "a directory of this user with mode 700",
                "Remove that directory, or make /dev/shm writable again (mode 1777)",
            )
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    values = {"free_bytes": free, "needed_bytes": needed}
    if free < needed:
        return failure(
            f"{size(free)} free in /dev/shm",
            f"at least {size(needed)} for the counters of {workers} workers",
            "Remove what fills it (ls -l /dev/shm), or enlarge it: mount -o remount,size=1G /dev/shm; in a container --shm-size",
            **values,
        )
    return ok(f"{size(free)} free in /dev/shm, {size(needed)} needed", **values)
