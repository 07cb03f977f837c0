"""What else the host is doing: processors, other processes, memory."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Dict, List, NamedTuple, Set, Tuple

from sai3ssh.agent.preflight.checks import failure, ok, size, warning
from sai3ssh.findings import Finding

SAMPLE_S = 0.5
MAX_STEAL_PERCENT = 10.0
MAX_PROCESS_PERCENT = 20.0
"""Of one core; what more uses would be measured, too."""
_NAMED = 5
_STEADY_GOVERNORS = ("performance",)


class Process(NamedTuple):
    """A process in a sample. The name is the kernel's, without arguments, which may hold secrets."""

    name: str
    parent: int
    group: int
    ticks: int
    started: int


class Sample(NamedTuple):
    """One look at /proc."""

    wall: float
    cpu: List[int]
    """user, nice, system, idle, iowait, irq, softirq, steal in ticks of all cores."""
    processes: Dict[int, Process]


def take_sample(proc: str = "/proc") -> Sample:
    """The processor time that has been used so far, by whom."""
    with open(f"{proc}/stat", encoding="ascii") as file:
        cpu = [int(word) for word in file.readline().split()[1:9]]
    processes: Dict[int, Process] = {}
    for name in os.listdir(proc):
        if name.isdigit():
            # A process may end meanwhile.
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"{proc}/{name}/stat", "rb") as stat:
                processes[int(name)] = _parse(stat.read().decode("utf-8", "replace"))
    return Sample(time.monotonic(), (cpu + [0] * 8)[:8], processes)


def _parse(stat: str) -> Process:
    # The name may hold blanks and brackets; its end is the last bracket.
    start, end = stat.index("("), stat.rindex(")")
    words = stat[end + 2 :].split()
    return Process(stat[start + 1 : end], int(words[1]), int(words[2]), int(words[11]) + int(words[12]), int(words[19]))


def cpu(before: Sample, after: Sample, sys: str = "/sys") -> Finding:
    """host.cpu: how many, at which clock, and whether the hypervisor lets them run."""
    cores = len(os.sched_getaffinity(0))
    ticks = [b - a for a, b in zip(before.cpu, after.cpu)]
    total = max(1, sum(ticks))
    busy, steal = 100 * (total - ticks[3] - ticks[4]) / total, 100 * ticks[7] / total
    load = os.getloadavg()[0]
    governors = _governors(sys)
    values: Dict[str, Any] = {
        "cores": cores,
        "busy_percent": round(busy, 1),
        "steal_percent": round(steal, 1),
        "load_1min": round(load, 2),
        "governors": sorted(governors),
    }
    found = f"{cores} cores, {busy:.0f} % busy, steal {steal:.1f} %, load {load:.1f}, governor {', '.join(sorted(governors)) or 'none'}"
    if steal > MAX_STEAL_PERCENT:
        return warning(
            found,
            f"steal of at most {MAX_STEAL_PERCENT:.0f} %",
            "The hypervisor gives this machine's time to others: use a dedicated host or instance type, or one with CPU credit left",
            **values,
        )
    if governors - set(_STEADY_GOVERNORS):
        return warning(
            found, "governor performance: with another one latency depends on the load", "cpupower frequency-set -g performance", **values
        )
    return ok(found, **values)


def _governors(sys: str) -> Set[str]:
    found = set()
    base = f"{sys}/devices/system/cpu/cpufreq"
    for name in os.listdir(base) if os.path.isdir(base) else []:
        with contextlib.suppress(OSError), open(f"{base}/{name}/scaling_governor", encoding="ascii") as file:
            found.add(file.read().strip())
    return found


def processes(before: Sample, after: Sample, groups_at_work: Set[int]) -> Finding:
    """host.processes: who else uses the processors. The runs in progress, whose process groups are given, are host.runs' business."""
    seconds = max(0.01, after.wall - before.wall)
    own = _ancestors(after)
    heavy: List[Tuple[float, str, int]] = []
    for pid, process in after.processes.items():
        earlier = before.processes.get(pid)
        used = process.ticks - (earlier.ticks if earlier is not None and earlier.started == process.started else 0)
        percent = 100 * used / os.sysconf("SC_CLK_TCK") / seconds
        if percent > MAX_PROCESS_PERCENT and pid not in own and process.group not in groups_at_work:
            heavy.append((percent, process.name, pid))
    heavy.sort(reverse=True)
    values = {"heavy": [{"name": name, "pid": pid, "percent": round(percent)} for percent, name, pid in heavy]}
    if not heavy:
        return ok(f"no other process uses more than {MAX_PROCESS_PERCENT:.0f} % of a core", **values)
    names = ", ".join(f"{name} (pid {pid}) {percent:.0f} %" for percent, name, pid in heavy[:_NAMED])
    more = f" and {len(heavy) - _NAMED} more" if len(heavy) > _NAMED else ""
    return warning(
        f"of a core: {names}{more}",
        f"no other process above {MAX_PROCESS_PERCENT:.0f} % of a core",
        "Stop what need not run during the benchmark, or wait until it is done",
        **values,
    )


def _ancestors(sample: Sample) -> Set[int]:
    """This process, those that it was started by, and what the same one started besides: they are busy because of the question."""
    mine = sample.processes.get(os.getpid())
    # Several agents of one machine are asked at once, by one controller.
    found = {pid for pid, process in sample.processes.items() if mine is not None and process.parent == mine.parent}
    pid = mine.parent if mine is not None else 0
    while pid in sample.processes and pid not in found:
        found.add(pid)
        pid = sample.processes[pid].parent
    return found


def memory(needed: int, proc: str = "/proc") -> Finding:
    """host.memory: whether what the plan needs is there without swapping."""
    with open(f"{proc}/meminfo", encoding="ascii") as file:
        figures = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in file}
    total, available = figures["MemTotal"], figures["MemAvailable"]
    found = f"{size(available)} of {size(total)} available"
    values = {"total_bytes": total, "available_bytes": available, "needed_bytes": needed}
    if total < needed:
        return failure(
            found, f"{size(needed)} for the workers of this plan", "Lower concurrency or object size, or use more hosts", **values
        )
    if available < needed:
        return warning(
            found, f"{size(needed)} for the workers of this plan", "Stop what uses memory, or lower concurrency or object size", **values
        )
    return ok(found, **values)
