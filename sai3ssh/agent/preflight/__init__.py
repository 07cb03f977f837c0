"""The host's side of preflight: what a run would need here, checked before it starts. `answer` is the whole of it."""

from __future__ import annotations

import os
import platform
import sys
import time
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Set

from sai3ssh.agent import hostmetrics, state
from sai3ssh.agent.daemon import Run
from sai3ssh.agent.preflight import clock, files, load, network, service, spool
from sai3ssh.agent.preflight.checks import Job, Sheet, failure, ok, side_by_side, skipped, within
from sai3ssh.agent.preflight.request import Needs, Peer, Request, read_request
from sai3ssh.agent.preflight.storage import check_storage
from sai3ssh.findings import Finding
from sai3ssh.model import to_json

__all__ = ["answer", "read_request"]

DEADLINE_S = 19.0
"""What has not answered by then is a FAILURE; the controller waits for 20 s."""
_LOOK_S = 5.0


def answer(request: Request, deployed: str = service.DEPLOYED) -> Dict[str, Any]:
    """The findings as JSON data, with what they cost and when and where they were made. Takes at most DEADLINE_S."""
    began = time.monotonic()
    deadline = began + DEADLINE_S
    needs = request.plan or Needs()
    sheet = Sheet(request.skip)
    sheet.ask("host.python", _python)
    found: Optional[service.Service] = None
    try:
        found = within(_LOOK_S, partial(service.Service, request, deployed))
    except OSError as error:
        sheet.ask("host.disk", partial(spool.no_directory, error))
    jobs: List[Job] = [
        partial(_check_agent, found=found, needs=needs),
        partial(_check_load, found=found, needs=needs),
        _check_clock,
        _check_network,
        partial(_check_ports, ports=request.ports),
        *(partial(_check_peer, peer=peer) for peer in request.reach),
    ]
    objects = [entry for entry in needs.storage if entry.uri.startswith("s3://")]
    if objects:
        served = found is not None and found.served
        jobs.append(partial(check_storage, storage=objects, given=request.credentials, served=served, deadline=deadline))
    jobs += [partial(files.check_directory, storage=entry) for entry in needs.storage if entry not in objects]
    side_by_side(sheet, jobs, deadline)
    return {
        "findings": to_json(sheet.findings()),
        "cpu_s": round(time.process_time(), 4),
        "seconds": round(time.monotonic() - began, 4),
        "wall_ns": time.time_ns(),
        "boot": state.boot_id(),
        "python": platform.python_version(),
        "host": {**hostmetrics.describe(), "uid": os.getuid(), "state_dir": found.directory if found else None},
    }


def _python() -> Finding:
    """host.python: an older one than 3.9 has not come this far."""
    version = platform.python_version()
    missing = []
    for name in ("ssl", "hashlib", "zlib", "ctypes"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        return failure(
            f"Python {version} ({sys.executable}) has no {', '.join(missing)}",
            "a Python with its whole standard library",
            "Install the distribution's python3 whole, or name another one with ansible_python_interpreter",
        )
    return ok(f"Python {version} ({sys.executable})", version=version, executable=sys.executable)


def _check_agent(sheet: Sheet, found: Optional[service.Service], needs: Needs) -> None:
    if found is None:
        return
    sheet.ask("host.agent", lambda: service.agent(found))
    sheet.ask("host.disk", lambda: spool.disk(found, needs.journal_bytes))
    sheet.ask("host.shm", lambda: spool.shared_memory(found, len(os.sched_getaffinity(0))))
    sheet.ask("host.open_files", lambda: service.open_files(found, needs.open_files))
    sheet.ask("host.runs", lambda: service.runs(found))


def _check_load(sheet: Sheet, found: Optional[service.Service], needs: Needs) -> None:
    sheet.ask("host.memory", lambda: load.memory(needs.memory_bytes))
    before = load.take_sample()
    time.sleep(load.SAMPLE_S)
    after = load.take_sample()
    sheet.ask("host.cpu", lambda: load.cpu(before, after))
    sheet.ask("host.processes", lambda: load.processes(before, after, _groups_at_work(found)))


def _groups_at_work(found: Optional[service.Service]) -> Set[int]:
    """Process groups of the runs in progress."""
    runs = [Run(path) for _, _, path in state.runs(found.directory)] if found is not None else []
    return {run.group() for run in runs if run.alive}


def _check_clock(sheet: Sheet) -> None:
    sheet.ask("host.clock_sync", clock.sync)


def _check_network(sheet: Sheet) -> None:
    before = network.read_counters()
    time.sleep(load.SAMPLE_S)
    for name, counters in network.read_counters().items():
        sheet.ask("host.nic", partial(network.nic, name, before.get(name, counters), counters), name)
    if not before:
        sheet.ask("host.nic", lambda: skipped("no interface but loopback"))


def _check_ports(sheet: Sheet, ports: Sequence[int]) -> None:
    heard = network.listeners()
    for number in ports:
        sheet.ask("host.ports", partial(network.port, number, heard), str(number))


def _check_peer(sheet: Sheet, peer: Peer) -> None:
    sheet.ask("host.reach", partial(network.reach, peer), f"{peer.name}:{peer.port}")
