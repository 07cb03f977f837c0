"""Whole runs against two ports of the same objects, one of which goes away."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from sai3ssh import results
from tests.contract.test_run import AGENTS, WORKLOAD, Bench, bench  # noqa: F401 (a fixture)
from tests.servers import Rclone


class Door:
    """Another port of a server, until it is shut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._accept)

    def _spawn(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._ends += (client, server)
                self._spawn(self._copy, client, server)
                self._spawn(self._copy, server, client)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def shut(self) -> None:
        """Takes no more connections and ends those that are open."""
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        for end in self._ends:
            end.close()


@pytest.fixture
def door(rclone: Rclone) -> Iterator[Door]:
    found = Door(rclone.port)
    yield found
    found.shut()


def test_what_one_endpoint_does_not_do_the_other_does(bench: Bench, rclone: Rclone, door: Door) -> None:  # noqa: F811
    bucket = rclone.bucket()
    more = f"""
multi_endpoint: {{endpoints: ["s3://127.0.0.1:{rclone.port}/{bucket}/", "{door.url}"]}}
error_handling: {{max_retries: 9, initial_retry_delay_ms: 1, max_retry_delay_ms: 5}}
"""
    keys = {"AWS_ACCESS_KEY_ID": rclone.access_key, "AWS_SECRET_ACCESS_KEY": rclone.secret_key}
    process = bench.start("--skip", "host", duration="3s", target=f"s3://{bucket}/run/", more=more, text=WORKLOAD, **keys)
    bench.wait_for("stage_started", name="read")
    door.shut()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    urls = rclone.endpoint_url, door.url
    content = json.loads((bench.run / "results.json").read_text())
    prepare, read, _ = content["stages"]
    for op, stage, both in (("put", prepare, True), ("get", read, False)):
        whole = stage["operations"][op]
        here, there = (whole["endpoints"][url] for url in urls)
        assert whole["errors"] == {}
        assert here["ops"] + there["ops"] == whole["ops"]
        assert here["bytes"] + there["bytes"] == whole["bytes"]
        assert here["retries"] + there["retries"] == whole["retries"]
        assert here["retries"] == 0
        assert (there["retries"] == 0) == both
        # Each worker takes them in turn, and the agents begin at different ones.
        assert both == (here["ops"] == there["ops"])
        assert whole["splits"]["known"] == whole["ops"]
        for part in stage["agents"].values():
            mine = part["operations"][op]
            assert sum(found["ops"] for found in mine["endpoints"].values()) == mine["ops"]
        total = sum(part["sum_ns"] for name, part in whole["splits"].items() if name != "known")
        # What was not counted, because it is less than 1 us, is at most that of four parts.
        assert 0 <= whole["sum_ns"] - total <= 4000 * whole["ops"]
    assert set(content["stages"][1]["agents"]) == set(AGENTS)
    frame = results.load(bench.run).endpoints
    assert set(frame["endpoint"]) == set(urls)
    assert any(f"slowest endpoint in read: {url}" in out for url in urls)
    looked = json.loads((bench.run / "preflight.json").read_text())
    assert door.url in json.dumps(looked)
