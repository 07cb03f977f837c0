"""Working in another network namespace."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator


@contextlib.contextmanager
def inside(netns: str | None) -> Iterator[None]:
    """Sockets that this thread opens meanwhile belong to the namespace."""
    if netns is None:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{netns}", os.O_RDONLY)
    try:
        if libc.setns(there, 0x40000000):
            raise OSError(ctypes.get_errno(), f"setns {netns}")
        yield
    finally:
        libc.setns(home, 0x40000000)
        os.close(home)
        os.close(there)
