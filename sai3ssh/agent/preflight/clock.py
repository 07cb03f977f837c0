"""Whether the host's clock is kept right by somebody. How far it is off, only another clock can tell."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, List, Optional

from sai3ssh.agent.kernelclock import Kernel, read_kernel
from sai3ssh.agent.preflight.checks import ok, warning
from sai3ssh.findings import Finding

MAX_ERROR_S = 1.0
DAEMONS = ("chronyd", "ntpd", "ntpsec", "systemd-timesyn", "ptp4l", "phc2sys", "openntpd")
"""Names as the kernel has them: of at most 15 characters."""

_REMEDY = "Install and start chrony (or systemd-timesyncd): `timedatectl set-ntp true`; then see `chronyc tracking` or `timedatectl`"


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
