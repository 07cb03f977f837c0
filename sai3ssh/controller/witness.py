"""Whether this machine is on its network at all: the default gateway as a witness that is no agent."""

from __future__ import annotations

import re
import shutil
import subprocess

PING_S = 2


def default_gateway() -> str | None:
    """The address of the default gateway, by what the system's own tools say; None without one."""
    for argv, pattern in (
        (["ip", "route", "show", "default"], r"default via (\S+)"),
        (["route", "-n", "get", "default"], r"gateway: (\S+)"),
    ):
        if shutil.which(argv[0]) is None:
            continue
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
        found = re.search(pattern, done.stdout)
        if found:
            return found.group(1)
    return None


def gateway_answers() -> bool:
    """Whether the default gateway answers a ping within PING_S; False without a gateway or a ping to ask with."""
    gateway = default_gateway()
    if gateway is None or shutil.which("ping") is None:
        return False
    done = subprocess.run(["ping", "-n", "-c", "1", "-W", str(PING_S), gateway], capture_output=True, timeout=PING_S + 8, check=False)
    return done.returncode == 0
