"""CPU, memory, network and disk of the host, from /proc."""

from __future__ import annotations

import os
import platform
from typing import Any, Dict, List, Optional, Sequence, Tuple


def _lines(path: str) -> List[List[str]]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return [line.split() for line in file]
    except OSError:
        return []


def describe() -> Dict[str, Any]:
    """The host as the journal's first record names it."""
    memory = next((int(words[1]) * 1024 for words in _lines("/proc/meminfo") if words[0] == "MemTotal:"), 0)
    return {
        "name": platform.node(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nic_bytes_per_s": _nic_bytes_per_s(),
    }


def _nic_bytes_per_s(root: str = "/sys/class/net") -> Optional[int]:
    """What the physical interfaces that are up can carry in one direction; None where no driver tells (most virtual machines)."""
    total = 0
    for name in os.listdir(root) if os.path.isdir(root) else ():
        if not os.path.exists(f"{root}/{name}/device"):
            continue
        try:
            with open(f"{root}/{name}/speed", encoding="ascii") as speed, open(f"{root}/{name}/operstate", encoding="ascii") as state:
                megabits = int(speed.read())
                total += megabits * 125_000 if megabits > 0 and state.read().strip() == "up" else 0
        except (OSError, ValueError):
            continue
    return total or None


class ProcessCpu:
    """How much of a core processes use."""

    def __init__(self) -> None:
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._last: Dict[int, int] = {}
        self._at_ns = 0
        self.shares: List[float] = []
        """Of the sample before: each known process's use."""

    def sample(self, pids: Sequence[int], now_ns: int) -> Optional[float]:
        """The busiest one's use since the previous sample, in % of a core (threads may use more than one); None when none was known
        then."""
        now = {pid: ticks for pid, ticks in map(self._read, pids) if ticks is not None}
        span_s = (now_ns - self._at_ns) / 1e9
        self.shares = [100 * (ticks - self._last[pid]) / self._ticks_per_s / span_s for pid, ticks in now.items() if pid in self._last]
        self._last, self._at_ns = now, now_ns
        return round(max(self.shares), 1) if self.shares else None

    @staticmethod
    def _read(pid: int) -> Tuple[int, Optional[int]]:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return pid, None
        return pid, int(fields[11]) + int(fields[12])


class HostMetrics:
    """`sample` gives the use since the previous sample."""

    def __init__(self) -> None:
        self._cpu = self._read_cpu()
        self._net = self._read_net()
        self._disk = self._read_disk()

    def sample(self) -> Dict[str, Any]:
        """{"cpu": [user, system, iowait, steal] in % of all cores, "mem_used_bytes", "net": [received, sent] bytes without loopback,
        "disk": [read, written] bytes}."""
        cpu, net, disk = self._read_cpu(), self._read_net(), self._read_disk()
        ticks = [b - a for a, b in zip(self._cpu, cpu)]
        total = max(1, sum(ticks))
        user, nice, system, _, iowait, irq, softirq, steal = ticks
        result = {
            "cpu": [round(100 * n / total, 1) for n in (user + nice, system + irq + softirq, iowait, steal)],
            "mem_used_bytes": self._memory(),
            "net": [b - a for a, b in zip(self._net, net)],
            "disk": [b - a for a, b in zip(self._disk, disk)],
        }
        self._cpu, self._net, self._disk = cpu, net, disk
        return result

    @staticmethod
    def _read_cpu() -> List[int]:
        words = next((words for words in _lines("/proc/stat") if words[0] == "cpu"), ["cpu"])
        return ([int(word) for word in words[1:9]] + [0] * 8)[:8]

    @staticmethod
    def _read_net() -> List[int]:
        """Of physical interfaces; where there are none (a container) of all but loopback. Bonds, bridges and VLANs would count twice."""
        found = {}
        for words in _lines("/proc/net/dev")[2:]:
            name, _, first = words[0].partition(":")
            numbers = ([first] if first else []) + words[1:]
            if name != "lo" and len(numbers) >= 9:
                found[name] = [int(numbers[0]), int(numbers[8])]
        real = [counts for name, counts in found.items() if os.path.exists(f"/sys/class/net/{name}/device")]
        return [sum(counts) for counts in zip([0, 0], *(real or found.values()))]

    @staticmethod
    def _read_disk() -> List[int]:
        read = written = 0
        whole = set(os.listdir("/sys/block")) if os.path.isdir("/sys/block") else set()
        for words in _lines("/proc/diskstats"):
            if len(words) >= 10 and words[2] in whole and not words[2].startswith(("loop", "ram", "dm-", "md")):
                read += int(words[5]) * 512
                written += int(words[9]) * 512
        return [read, written]

    @staticmethod
    def _memory() -> int:
        values = {words[0]: int(words[1]) * 1024 for words in _lines("/proc/meminfo") if len(words) > 1}
        return values.get("MemTotal:", 0) - values.get("MemAvailable:", 0)
