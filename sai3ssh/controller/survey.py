"""Which runs there are, here and on hosts."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import Permanent, Sai3sshError
from ..model import Host
from ..protocol import Json
from .eventlog import read
from .events import Event, LinkFailed, LinkGivenUp, LinkUp
from .link import Link, LinkOptions
from .mirror import Mirror
from .rundir import RunDirectory

CONNECT_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 10.0


def known_here(results_dir: Path) -> list[Json]:
    """The runs of a results directory, oldest first: run_id, agents, verdict (None while it has not ended),
    controller (the process that steers it on this machine, or None), last_event, last_at."""
    found = []
    for plan in sorted(results_dir.glob("*/plan.json"), key=lambda path: path.stat().st_mtime):
        directory = plan.parent
        log = directory / "events.ndjson"
        try:
            events = list(read(log)) if log.is_file() else []
        except Permanent:
            events = [{"event": "unreadable"}]
        last = events[-1] if events else {}
        verdict = next((event["verdict"] for event in reversed(events) if event["event"] in ("run_ended", "verdict_revised")), None)
        found.append(
            {
                "run_id": directory.name,
                "agents": len(list((directory / "agents").glob("*"))),
                "verdict": verdict,
                "controller": RunDirectory(directory).controller(),
                "last_event": last.get("event", "none"),
                "last_at": last.get("at"),
            }
        )
    return found


def known_on_hosts(hosts: Sequence[Host], bundle: Path) -> list[Json]:
    """For each host: host, runs [{run_id, agent_id, state, created_wall_ns, size}], error (None when it answered). Asks all at once."""
    with ThreadPoolExecutor(max_workers=max(1, min(64, len(hosts))), thread_name_prefix="survey") as pool:
        return list(pool.map(lambda host: _ask(host, bundle), hosts))


def plans_on_hosts(hosts: Sequence[Host], bundle: Path, run: str) -> dict[str, Json]:
    """Agent to {key, plan, epoch} of the run whose id is or begins with `run`, of the hosts that have it and answer."""

    def plan(link: Link) -> Json:
        runs = link.request({"cmd": "runs"}, ANSWER_TIMEOUT_S)["runs"]
        wanted = [one for one in runs if one["run_id"] == run] or [one for one in runs if one["run_id"].startswith(run)]
        if not wanted:
            return {}
        one = wanted[-1]
        command = {"cmd": "plan", "run_id": one["run_id"], "agent_id": one["agent_id"]}
        return {"agent_id": one["agent_id"], **link.request(command, ANSWER_TIMEOUT_S)}

    with ThreadPoolExecutor(max_workers=max(1, min(64, len(hosts))), thread_name_prefix="survey") as pool:
        answers = pool.map(lambda host: _ask(host, bundle, plan), hosts)
        return {answer["agent_id"]: answer for answer in answers if "agent_id" in answer}


def _runs(link: Link) -> Json:
    return {"runs": link.request({"cmd": "runs"}, ANSWER_TIMEOUT_S)["runs"]}


def _ask(host: Host, bundle: Path, what: Callable[[Link], Json] = _runs) -> Json:
    with tempfile.TemporaryDirectory(prefix="sai3ssh-") as scratch, Mirror(Path(scratch) / "unused.ndjson") as mirror:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        link = Link(host, mirror, events.put, bundle=bundle, options=LinkOptions(first_connect_timeout_s=CONNECT_TIMEOUT_S))
        link.start()
        try:
            _wait_up(host, events)
            answer = what(link)
        except Sai3sshError as error:
            return {"host": host.name, "runs": [], "error": str(error)}
        finally:
            link.stop()
        return {"host": host.name, **answer, "error": None}


def _wait_up(host: Host, events: queue.SimpleQueue[Event]) -> None:
    """Returns when the link is up; raises what kept it down."""
    while True:
        try:
            event = events.get(timeout=2 * CONNECT_TIMEOUT_S)
        except queue.Empty:
            raise Sai3sshError(f"no answer within {2 * CONNECT_TIMEOUT_S:.0f} s", host=host.name, phase="connect") from None
        match event:
            case LinkUp():
                return
            case LinkFailed():
                raise event.error
            case LinkGivenUp():
                raise event.cause
            case _:
                continue
