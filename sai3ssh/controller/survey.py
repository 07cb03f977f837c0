"""Which runs there are, here and on hosts."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import Sai3sshError
from ..model import Host
from ..protocol import Json
from .eventlog import read
from .events import Event, LinkFailed, LinkGivenUp, LinkUp
from .link import Link, LinkOptions
from .mirror import Mirror

CONNECT_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 10.0


def known_here(results_dir: Path) -> list[Json]:
    """The runs of a results directory, oldest first: run_id, agents, verdict (None while it has not ended), last_event, last_at."""
    found = []
    for plan in sorted(results_dir.glob("*/plan.json"), key=lambda path: path.stat().st_mtime):
        directory = plan.parent
        log = directory / "events.ndjson"
        events = list(read(log)) if log.is_file() else []
        last = events[-1] if events else {}
        verdict = next((event["verdict"] for event in reversed(events) if event["event"] == "run_ended"), None)
        found.append(
            {
                "run_id": directory.name,
                "agents": len(list((directory / "agents").glob("*"))),
                "verdict": verdict,
                "last_event": last.get("event", "none"),
                "last_at": last.get("at"),
            }
        )
    return found


def known_on_hosts(hosts: Sequence[Host], bundle: Path) -> list[Json]:
    """For each host: host, runs [{run_id, agent_id, state, created_wall_ns, size}], error (None when it answered). Asks all at once."""
    with ThreadPoolExecutor(max_workers=max(1, min(64, len(hosts))), thread_name_prefix="survey") as pool:
        return list(pool.map(lambda host: _ask(host, bundle), hosts))


def _ask(host: Host, bundle: Path) -> Json:
    with tempfile.TemporaryDirectory(prefix="sai3ssh-") as scratch, Mirror(Path(scratch) / "unused.ndjson") as mirror:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        link = Link(host, mirror, events.put, bundle=bundle, options=LinkOptions(first_connect_timeout_s=CONNECT_TIMEOUT_S))
        link.start()
        try:
            _wait_up(host, events)
            runs = link.request({"cmd": "runs"}, ANSWER_TIMEOUT_S)["runs"]
        except Sai3sshError as error:
            return {"host": host.name, "runs": [], "error": str(error)}
        finally:
            link.stop()
        return {"host": host.name, "runs": runs, "error": None}


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
