"""What the kernel knows of how right its clock is."""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple, Optional

_STA_UNSYNC = 0x40
_STA_NANO = 0x2000
_TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as it is read here; the rest is room."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 40),
    ]


class Kernel(NamedTuple):
    """What the kernel knows of its clock."""

    synchronised: bool
    max_error_s: float
    """An upper bound, by whoever sets the clock; grows by 0.5 ms a second without news."""
    offset_s: float
    """What is still to be slewed."""
    frequency_ppm: float


def read_kernel() -> Kernel:
    """Asks adjtimex(2), which needs no rights to read; raises OSError where that is forbidden (in some containers)."""
    timex = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    unit = 1e-9 if timex.status & _STA_NANO else 1e-6
    synchronised = state != _TIME_ERROR and not timex.status & _STA_UNSYNC
    return Kernel(synchronised, timex.maxerror / 1e6, timex.offset * unit, timex.freq / 65536)


def synchronised() -> Optional[bool]:
    """Whether somebody keeps the clock right; None where the kernel does not say."""
    try:
        return read_kernel().synchronised
    except (OSError, AttributeError):
        return None
