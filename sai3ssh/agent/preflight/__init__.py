"""The host's side of preflight: what a run would need here, checked before it starts. `answer` is the whole of it."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Set

from sai3ssh.agent import hostmetrics, state
from sai3ssh.agent.daemon import Run
from sai3ssh.agent.engines.cloud import SERVICE
from sai3ssh.agent.preflight import clock, files, load, network, service, spool
from sai3ssh.agent.preflight.checks import Job, Sheet, failure, ok, side_by_side, skipped, within
from sai3ssh.agent.preflight.cloud import check_cloud
from sai3ssh.agent.preflight.request import Needs, Peer, Request, read_request
from sai3ssh.agent.preflight.storage import check_storage
from sai3ssh.findings import Finding, Level
from sai3ssh.model import from_json, to_json

__all__ = ["Request", "answer", "answer_as_service", "read_request"]

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
    elsewhere_s: List[float] = []
    if found is not None and found.served:
        jobs.append(partial(_check_targets_there, found=found, request=request, deadline=deadline, cpu_s=elsewhere_s))
    else:
        jobs.append(partial(_check_targets, request=request, deadline=deadline))
    side_by_side(sheet, jobs, deadline)
    return {
        "findings": to_json(sheet.findings()),
        "cpu_s": round(time.process_time() + sum(elsewhere_s), 4),
        "seconds": round(time.monotonic() - began, 4),
        "wall_ns": time.time_ns(),
        "boot": state.boot_id(),
        "python": platform.python_version(),
        "host": {**hostmetrics.describe(), "uid": os.getuid(), "state_dir": found.directory if found else None},
    }


def answer_as_service(request: Request, seconds: float) -> Dict[str, Any]:
    """What the daemon finds about the targets, within so many seconds: as the user who will do the work, with that user's keys."""
    began_s = time.process_time()
    sheet = Sheet(request.skip)
    deadline = time.monotonic() + seconds
    side_by_side(sheet, [partial(_check_targets, request=request, deadline=deadline)], deadline)
    return {"findings": to_json(sheet.findings()), "cpu_s": time.process_time() - began_s}


def _check_targets(sheet: Sheet, request: Request, deadline: float) -> None:
    storage = request.plan.storage if request.plan is not None else ()
    objects = [entry for entry in storage if entry.uri.startswith("s3://")]
    clouds = [entry for entry in storage if entry.uri.partition("://")[0] in SERVICE]
    jobs: List[Job] = [partial(files.check_directory, storage=entry) for entry in storage if entry not in objects + clouds]
    if objects:
        jobs.append(partial(check_storage, storage=objects, given=request.credentials, deadline=deadline))
    if clouds:
        jobs.append(partial(check_cloud, storage=clouds, given=request.credentials, deadline=deadline))
    side_by_side(sheet, jobs, deadline)


def _check_targets_there(sheet: Sheet, found: service.Service, request: Request, deadline: float, cpu_s: List[float]) -> None:
    """The same by the service: it is another user, in another environment, maybe in a container."""
    if request.plan is None or not request.plan.storage:
        return
    if found.hello is None or found.hello["digest"] != found.digest:
        sheet.ask("storage", lambda: skipped("targets are not looked at because host.agent failed"))
        return
    try:
        there = found.targets(request, deadline - time.monotonic())
    except (OSError, ValueError, KeyError) as error:
        broken = failure(
            f"the agent's service did not look at the targets: {type(error).__name__}: {error}",
            "its findings",
            "journalctl -u sai3ssh-agent -n 50; then systemctl restart sai3ssh-agent",
        )
        sheet.ask("storage", lambda: broken)
        return
    cpu_s.append(there["cpu_s"])
    for finding in (from_json(Finding, one) for one in there["findings"]):
        sheet.add(finding.check, finding, finding.subject, finding.seconds)


def _python() -> Finding:
    """host.python: an older one than 3.9 has not come this far."""
    version = platform.python_version()
    return ok(f"Python {version} ({sys.executable})", version=version, executable=sys.executable)


def _check_agent(sheet: Sheet, found: Optional[service.Service], needs: Needs) -> None:
    if found is None:
        return
    usable = sheet.ask("host.agent", lambda: service.agent(found)) is not Level.FAILURE
    sheet.ask("host.disk", lambda: spool.disk(found, needs.journal_bytes, needs.op_log_bytes))
    sheet.ask("host.shm", lambda: spool.shared_memory(found, len(os.sched_getaffinity(0)), needs.counters_bytes))
    sheet.ask("host.open_files", lambda: service.open_files(found, needs.open_files))
    if usable:  # else those runs are named as what is in the way already
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
    groups: Set[int] = set()
    with contextlib.suppress(PermissionError):  # another user's service, whose group this user is not in
        runs = [Run(path) for _, _, path in state.runs(found.directory)] if found is not None else []
        groups |= {run.group() for run in runs if run.alive}
    return groups


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
