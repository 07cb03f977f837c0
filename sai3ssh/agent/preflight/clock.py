"""Whether the host's clock is kept right by somebody. How far it is off, only another clock can tell."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any, Dict, List, NamedTuple, Optional

from sai3ssh.agent.preflight.checks import ok, warning
from sai3ssh.findings import Finding

MAX_ERROR_S = 1.0
DAEMONS = ("chronyd", "ntpd", "ntpsec", "systemd-timesyn", "ptp4l", "phc2sys", "openntpd")
"""Names as the kernel has them: of at most 15 characters."""

_STA_UNSYNC = 0x40
_STA_NANO = 0x2000
_TIME_ERROR = 5
_REMEDY = "Install and start chrony (or systemd-timesyncd): `timedatectl set-ntp true`; then see `chronyc tracking` or `timedatectl`"


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


def sync(kernel: Optional[Kernel] = None, proc: str = "/proc") -> Finding:
    """host.clock_sync: never fatal, since a run measures the offset itself and signatures allow 15 minutes."""
    daemons = _running(proc)
    who = ", ".join(daemons) or "no time daemon to be seen"
    try:
        clock = kernel or read_kernel()
    except (OSError, AttributeError) as error:
        return warning(f"the kernel's clock state cannot be read ({error}); {who}", "a synchronised clock", _REMEDY, daemons=daemons)
    values: Dict[str, Any] = {
        "synchronised": clock.synchronised,
        "max_error_s": round(clock.max_error_s, 6),
        "offset_s": round(clock.offset_s, 9),
        "frequency_ppm": round(clock.frequency_ppm, 3),
        "daemons": daemons,
    }
    if not clock.synchronised:
        return warning(f"the clock is not synchronised; {who}", "a synchronised clock", _REMEDY, **values)
    found = f"synchronised within {clock.max_error_s * 1e3:.1f} ms, frequency {clock.frequency_ppm:+.1f} ppm; {who}"
    if clock.max_error_s > MAX_ERROR_S:
        return warning(
            found, f"an error of at most {MAX_ERROR_S:.0f} s: the time servers have not been heard of for long", _REMEDY, **values
        )
    return ok(found, **values)


def _running(proc: str) -> List[str]:
    found = set()
    for name in os.listdir(proc):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"{proc}/{name}/comm", encoding="utf-8", errors="replace") as file:
                found.add(file.read().strip())
    return sorted(found & set(DAEMONS))
