"""Targets that are directories of this host: what they are mounted from, whether there is room, whether they can be written to."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from typing import Any, Dict

from sai3ssh.agent.engines.direct import alignment_of, some_file, try_direct
from sai3ssh.agent.mount import mount_of
from sai3ssh.agent.preflight.checks import Sheet, failure, ok, size, skipped
from sai3ssh.agent.preflight.request import Storage
from sai3ssh.findings import Finding, Level

BLOCK_BYTES = 4096

_DIRECT = "direct"


def check_directory(sheet: Sheet, storage: Storage) -> None:
    """All file.* checks of one target."""
    Directory(storage).check(sheet)


class Directory:
    """A target file:///path/ or direct:///path/, and what of its path is there."""

    def __init__(self, storage: Storage) -> None:
        scheme, _, rest = storage.uri.partition("://")
        self._storage = storage
        self._direct = scheme == _DIRECT
        self.path = os.path.dirname(rest) or "/"
        """The directory; what comes after its last slash begins the names of files."""
        self._there = self.path

    def check(self, sheet: Sheet) -> None:
        """Asks in an order in which each has what it needs."""
        subject = self._storage.uri
        if sheet.ask("file.mount", self._mount, subject) is Level.FAILURE:
            sheet.add("file.space", skipped("not done, nor what follows, because file.mount failed"), subject)
            return
        while not os.path.isdir(self._there) and self._there != "/":
            self._there = os.path.dirname(self._there)
        if self._storage.puts:
            sheet.ask("file.space", self._space, subject)
        writes = {"put", "delete", "mkdir", "rmdir"} & set(self._storage.operations)
        if writes and sheet.ask("file.write", self._write, subject) is Level.FAILURE:
            return
        if self._direct:
            sheet.ask("file.direct", self._o_direct, subject)

    def _mount(self) -> Finding:
        try:
            os.stat(self.path)
            there = True
        except FileNotFoundError:
            there = False
        except OSError as error:
            return failure(
                f"{self.path}: {error.strerror}",
                "a directory that this user may enter",
                "ls -ld on every part of the path; for a network file system: is it mounted, does its server answer (`mount`, `dmesg`)",
            )
        if there and not os.path.isdir(self.path):
            return failure(f"{self.path} is not a directory", "a directory", "Correct the target")
        if not there and not {"put", "mkdir"} & set(self._storage.operations):
            return failure(
                f"{self.path} does not exist, and the workload makes nothing",
                "a directory with objects",
                "Mount what holds them, prepare them first, or correct the target",
            )
        mount = mount_of(os.path.realpath(self.path))
        where = "network" if mount.network else "memory" if mount.kind in ("tmpfs", "ramfs") else "local"
        values: Dict[str, Any] = {"type": mount.kind, "source": mount.source, "mount_point": mount.point, "network": mount.network}
        new = "" if there else f"; {self.path} is made by the run"
        return ok(f"{mount.kind} ({where}) of {mount.source}, mounted on {mount.point}{new}", **values)

    def _space(self) -> Finding:
        found = os.statvfs(self._there)
        free, inodes = found.f_bavail * found.f_frsize, found.f_favail
        counted = found.f_files > 0
        values: Dict[str, Any] = {"free_bytes": free, "needed_bytes": self._storage.write_bytes, "objects": self._storage.objects}
        if counted:
            values["free_inodes"] = inodes
        text = f"{size(free)} free" + (f", {inodes} inodes" if counted else "")
        remedy = "Free space, write less, or use another directory; if the objects are there already: --skip file.space"
        if free < self._storage.write_bytes:
            return failure(text, f"at least {size(self._storage.write_bytes)}, which this workload writes there", remedy, **values)
        if counted and inodes < self._storage.objects:
            return failure(text, f"at least {self._storage.objects} inodes, one for each object", remedy, **values)
        return ok(f"{text}; {size(self._storage.write_bytes)} in {self._storage.objects} objects needed", **values)

    def _write(self) -> Finding:
        began = time.perf_counter()
        try:
            self._try_write()
        except OSError as error:
            return self._cannot_write(error)
        ms = (time.perf_counter() - began) * 1e3
        return ok(f"a file was made, written, synced and removed in {self._there} in {ms:.1f} ms", ms=round(ms, 3))

    def _try_write(self) -> None:
        path = os.path.join(self._there, f".sai3ssh-preflight-{secrets.token_hex(8)}")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, bytes(BLOCK_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _cannot_write(self, error: OSError) -> Finding:
        remedies = {
            errno.EROFS: "It is mounted read-only: mount -o remount,rw, or look in dmesg for why the kernel made it so",
            errno.ENOSPC: "Free space or inodes there",
            errno.EDQUOT: "Raise the quota of this user there",
        }
        remedy = remedies.get(error.errno or 0, f"chown or chmod {self._there} for the user of the agent; NFS: root_squash, export options")
        return failure(f"{self._there} cannot be written to: {error.strerror}", "a directory that can be written to", remedy)

    def _o_direct(self) -> Finding:
        try:
            if self._storage.puts:
                try_direct(self._there)
                return ok(f"O_DIRECT writes and reads, in blocks of {alignment_of(self._there)} bytes")
            path = some_file(self.path)
            if path is None:
                return skipped(f"no file in {self.path} to try O_DIRECT on, and the workload writes none")
            try_direct(self._there, path)
            return ok(f"O_DIRECT reads, in blocks of {alignment_of(self._there)} bytes")
        except OSError as error:
            mount = mount_of(os.path.realpath(self._there))
            return failure(
                f"O_DIRECT does not work on {mount.kind} ({mount.point}): {error.strerror}",
                f"O_DIRECT with blocks of {alignment_of(self._there)} bytes",
                "Use file:// instead of direct://, or a file system that has it (ext4, xfs, NFS)",
            )
