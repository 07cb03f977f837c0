"""The live page over real sockets: beside a real run, of its directory alone, and asked by people who should not."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sai3ssh.web import server
from tests.browser import Browser, Tab, program
from tests.contract.agent_processes import end_agents
from tests.contract.test_report import AXE
from tests.contract.test_run import AGENTS, Bench

TOKEN = "0123456789abcdef-for-tests"
MIXED = """
name: local
target: {target}
concurrency: 2
workers: 1
io_rate: {{iops: 200}}
warmup_period: 1s
distributed: {{start_delay: 500ms}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: 100, size_spec: 1KiB}}
workload:
  - {{op: get, path: data/, weight: 70}}
  - {{op: put, path: new/, weight: 30, size_spec: 1KiB}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: mix, type: execute, duration: {duration}}}
  - {{name: cleanup, type: cleanup}}
"""


@dataclass
class Answer:
    """What a server said."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    """One request; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def raw(port: int, request: bytes) -> bytes:
    """What is answered to bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


class Serve:
    """The command `serve`."""

    def __init__(self, results: Path, *options: str, port: int = 0) -> None:
        argv = [sys.executable, "-m", "sai3ssh.cli", "serve", str(results), "--listen", f"127.0.0.1:{port}", *options]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.said)
        assert found, self.said + self.process.stderr.read()
        self.port = int(found[1])

    def end(self, number: int = signal.SIGINT) -> str:
        """Ends it; all that it has said."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return out + self.said + err


@dataclass
class Watched:
    """A run with --web, what was seen of it, and its end."""

    bench: Bench
    run: Path = Path()
    out: str = ""
    err: str = ""
    code: int = -1
    port: int = 0
    lists: list[Any] = field(default_factory=list)
    documents: list[Any] = field(default_factory=list)
    lives: list[Any] = field(default_factory=list)
    beside: list[Any] = field(default_factory=list)
    """Documents of `serve` beside it, which was killed and started again between them."""
    metrics: list[str] = field(default_factory=list)


def ops(document: Any) -> int:
    """All operations that the plots of a document show."""
    agents = (agent for stage in document["stages"] for agent in stage["series"]["agents"] if agent is not None)
    return sum(sum(figures["n"]) for agent in agents for figures in agent["operations"].values())


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Plays the run once for all tests."""
    bench = Bench(tmp_path_factory.mktemp("web"))
    (bench.directory / "target").mkdir()
    bench.results.mkdir()
    seen = Watched(bench)
    try:
        beside = Serve(bench.results)
        bench.processes.append(beside.process)
        process = bench.start("--web", "--listen", "127.0.0.1:0", "--no-live", duration="300s", text=MIXED)
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stderr.readline()
        while "page: " not in line:
            assert line, "no page"
            line = process.stderr.readline()
        found = re.search(r"page: http://127\.0\.0\.1:(\d+)/runs/(\S+)\n", line)
        assert found, line
        seen.port, seen.run = int(found[1]), bench.results / found[2]
        address = f"/api/runs/{seen.run.name}"
        chatter = [
            threading.Thread(target=lambda: setattr(seen, "err", process.stderr.read())),
            threading.Thread(target=lambda: setattr(seen, "out", process.stdout.read())),
        ]
        for thread in chatter:
            thread.start()
        restarted = stopped = False
        while process.poll() is None:
            try:
                seen.lists.append(ask(seen.port, "/api/runs").json)
                seen.documents.append(ask(seen.port, address).json)
                seen.lives.append(ask(seen.port, f"{address}/live").json)
            except (OSError, http.client.HTTPException):
                break
            seen.beside.append(ask(beside.port, address).json)
            if not restarted and ops(seen.beside[-1]) > 0:
                beside.end(signal.SIGKILL)
                beside, restarted = Serve(bench.results, port=beside.port), True
                bench.processes.append(beside.process)
            # Prepared, and seen to grow by both.
            if not stopped and min(len({ops(document) for document in told}) for told in (seen.documents, seen.beside)) > 3:
                process.send_signal(signal.SIGINT)
                stopped = True
            time.sleep(0.3)
        seen.code = process.wait(60)
        for thread in chatter:
            thread.join()
        seen.metrics.append(ask(beside.port, "/metrics").body.decode())
        seen.beside.append(ask(beside.port, address).json)
        beside.end()
        yield seen
    finally:
        for process in bench.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        end_agents(bench.directory)


def test_a_page_shows_a_run_while_it_goes_on_and_ends_with_it(watched: Watched) -> None:
    assert watched.code == 130, watched.out + watched.err
    assert "page" not in watched.err
    assert "verdict PARTIAL" in watched.out
    states = [row["status"] for told in watched.lists for row in told["runs"]]
    assert "running" in states
    grown = [ops(document) for document in watched.documents]
    assert grown == sorted(grown)
    # It grew while it went on, and not only at its end.
    running = {ops(document) for document in watched.documents if document["state"] == "running"}
    assert len(running) > 3
    agents = [agent for told in watched.lives for agent in told["agents"]]
    assert {agent["agent"] for agent in agents} == set(AGENTS)
    assert any(agent["state"] == "RUNNING" and agent["ops_per_s"] for agent in agents)
    assert not answers(watched.port)


def test_who_watches_to_the_end_sees_it(watched: Watched) -> None:
    assert watched.lists[-1]["runs"][0]["verdict"] == "PARTIAL"
    assert watched.documents[-1]["verdict"]["verdict"] == "PARTIAL"


def test_a_server_beside_a_run_shows_it_from_its_directory_and_goes_on_after_a_kill(watched: Watched) -> None:
    grown = [ops(document) for document in watched.beside]
    assert grown == sorted(grown)
    assert len(set(grown)) > 3
    last = watched.beside[-1]
    assert (last["state"], last["verdict"]["verdict"]) == ("ended", "PARTIAL")


def test_counters_agree_with_the_results(watched: Watched) -> None:
    content = json.loads((watched.run / "results.json").read_text())
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(watched.metrics[-1]):
        for sample in family.samples:
            if sample.labels.get("phase") == "measured" and "le" not in sample.labels:
                found[(sample.name, *(sample.labels[name] for name in ("stage", "agent", "op")))] = sample.value
    for stage in content["stages"]:
        for agent, part in stage["agents"].items():
            for op, figures in part["operations"].items():
                told = [found[f"sai3ssh_{name}_total", stage["name"], agent, op] for name in ("operations", "bytes", "requests", "retries")]
                assert told == [figures[name] for name in ("ops", "bytes", "requests", "retries")]
                assert found["sai3ssh_operation_duration_seconds_count", stage["name"], agent, op] == figures["ops"]
    assert {op for stage in content["stages"] for op in stage["operations"]} >= {"get", "put"}
    assert any('phase="warmup"' in line for line in watched.metrics[-1].splitlines())


def test_a_port_in_use_is_one_error_before_anything_starts(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        for process in (bench.start("--listen", address), subprocess.Popen(
            [sys.executable, "-m", "sai3ssh.cli", "serve", str(tmp_path), "--listen", address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )):  # fmt: skip
            out, err = process.communicate(timeout=60)
            assert process.returncode == 2
            assert out == ""
            assert err == (
                f"sai3ssh: the page cannot listen at {address}: Address already in use. Choose another port with --listen HOST:PORT\n"
            )
    assert not bench.results.exists()
    assert not bench.pids("serve", "left")


# --- asked by people who should not ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_port(watched: Watched) -> Iterator[int]:
    """Of a server that wants no token."""
    serve = Serve(watched.bench.results)
    yield serve.port
    said = serve.end(signal.SIGTERM)
    assert serve.process.returncode == 0
    assert said.count("\n") == 1, said


def test_only_get_and_head(open_port: int) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        answer = ask(open_port, "/", method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    head = ask(open_port, "/", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(ask(open_port, "/").body))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8633", "localhost.evil.example", "", "[::1].evil.example"])
def test_another_name_for_this_server_is_refused(host: str, open_port: int) -> None:
    """A page elsewhere can have its name point here (DNS rebinding), and would then read everything."""
    for path in ("/", "/api/runs", "/metrics"):
        answer = ask(open_port, path, Host=host)
        assert answer.status == 421
        assert b"local-" not in answer.body
    assert ask(open_port, "/api/runs", Host="localhost:1").status == 200


def test_no_host_or_two_of_them_are_refused(open_port: int) -> None:
    for request in (b"GET /api/runs HTTP/1.0\r\n\r\n", b"GET /api/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n"):
        answer = raw(open_port, request)
        assert answer.split()[1] in (b"400", b"421")
        assert b"local-" not in answer


def test_no_way_leads_out_of_a_run_directory(open_port: int, watched: Watched) -> None:
    run = watched.run.name
    (watched.bench.results / "secret.txt").write_text("do not tell")
    (watched.run / "STATUS.txt").rename(watched.run / "kept")
    (watched.run / "STATUS.txt").symlink_to("../secret.txt")
    try:
        inside = [
            *(
                "../secret.txt",
                "..%2fsecret.txt",
                "%2e%2e/secret.txt",
                "..%252fsecret.txt",
                "agents/../../secret.txt",
                "agents/left/..%2f../plan.json",
            ),
            *(
                "config.yaml",
                "hosts.json",
                "controller.json",
                "controller.log",
                "/etc/passwd",
                "%2fetc%2fpasswd",
                "results.json%00.txt",
                "STATUS.txt",
            ),
            *("agents/left/../../../secret.txt", "agents", "", ".", "agents/left/journal.ndjson/", "results.json/../hosts.json"),
        ]
        paths = [f"/runs/{run}/files/{name}" for name in inside]
        paths += ["/../secret.txt", "/secret.txt", "/runs/../secret.txt", "/runs/..", "/runs/%2e%2e", "/runs/..%2f..%2fetc/files/passwd"]
        paths += [
            "/static/../grafana.json",
            "/static/..%2fserver.py",
            "/static/page.py",
            "/api/runs/..",
            "/api/runs/%2e%2e/live",
            "//etc/passwd",
        ]
        paths += [f"/api/runs/{run}%2f..%2f{run}", f"/api/runs/{run}/../{run}", "/runs/" + "x" * 4000]
        for path in paths:
            answer = ask(open_port, path)
            assert answer.status == 404, path
            assert b"do not tell" not in answer.body
    finally:
        (watched.run / "STATUS.txt").unlink()
        (watched.run / "kept").rename(watched.run / "STATUS.txt")


def test_files_are_given_as_they_are(open_port: int, watched: Watched) -> None:
    run = watched.run
    told = ask(open_port, f"/api/runs/{run.name}/live").json
    names = {file["name"]: file["bytes"] for file in told["files"]}
    assert {"results.json", "events.ndjson", "agents/left/journal.ndjson", "02_mix_results.tsv"} <= set(names)
    for name, size in names.items():
        answer = ask(open_port, f"/runs/{run.name}/files/{name}")
        assert answer.body == (run / name).read_bytes()
        assert len(answer.body) == size
        # A file that is a page itself can do nothing here.
        assert answer.headers["Content-Security-Policy"].startswith("sandbox")


def test_every_answer_says_what_a_browser_may_do_with_it(open_port: int, watched: Watched) -> None:
    for path in ("/", f"/runs/{watched.run.name}", "/compare", "/api/runs", "/metrics", "/static/page.js", "/none", "/api/none"):
        answer = ask(open_port, path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in re.sub("style-src[^;]*", "", policy)
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Access-Control-Allow-Origin"] is None
    for shell in ("/", f"/runs/{watched.run.name}", "/compare"):
        text = ask(open_port, shell).body.decode()
        assert "/static/theme.js" in text
        # What the policy would forbid is not there: no script or style within the page, nothing from elsewhere.
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|https?://", text)
        for address in re.findall(r'(?:src|href)="(/static/[^"]*)"', text):
            assert ask(open_port, address).status == 200


def test_what_has_not_changed_is_not_sent_again(open_port: int, watched: Watched) -> None:
    for path in ("/api/runs", f"/api/runs/{watched.run.name}", "/static/page.css"):
        first = ask(open_port, path)
        again = ask(open_port, path, If_None_Match=first.headers["ETag"])
        assert (again.status, again.body) == (304, b"")
        packed = ask(open_port, path, Accept_Encoding="gzip")
        assert len(packed.body) <= len(first.body)


@pytest.fixture
def again(watched: Watched) -> Iterator[str]:
    """A second run, that did the same."""
    name = watched.run.name + "-again"
    copy = watched.run.with_name(name)
    shutil.copytree(watched.run, copy)
    for file in ("plan.json", "results.json"):
        (copy / file).write_text((copy / file).read_text().replace(watched.run.name, name))
    yield name
    shutil.rmtree(copy)


def test_a_comparison_is_that_of_the_command_and_writes_nothing(open_port: int, watched: Watched, again: str) -> None:
    run = watched.run.name
    before = {path: path.stat().st_mtime_ns for path in watched.bench.results.rglob("*")}
    found = ask(open_port, f"/api/compare?base={run}&new={again}").json
    assert (found["base"], found["new"], found["verdict"], found["partial"]) == ([run], [again], "too little data", [run, again])
    assert {row["operation"] for row in found["rows"]} >= {"get", "put"}
    for query, text in (
        ("", "0 and 0 runs given, expected 1 to 20 on each side"),
        (f"base={run}&new=..", "run .. is not there, or has no results yet"),
        (f"base={run}&new=none", "run none is not there, or has no results yet"),
        (f"base={run}&new={run}", f"run {run} is given twice"),
    ):
        answer = ask(open_port, f"/api/compare?{query}")
        assert answer.status == 422
        assert text in answer.json["problem"]
    for path in ("/", "/api/runs", f"/runs/{run}", f"/api/runs/{run}", f"/api/runs/{run}/live", "/metrics"):
        assert ask(open_port, path).status == 200
    assert {path: path.stat().st_mtime_ns for path in watched.bench.results.rglob("*")} == before


# --- tokens ------------------------------------------------------------------------------------------------------------------------------


def test_without_the_token_nobody_sees_anything(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    serve = Serve(watched.bench.results, "--token-file", str(file))
    try:
        paths = ("/", "/api/runs", "/metrics", "/static/page.js", f"/runs/{watched.run.name}/files/results.json", "/none")
        for path in paths:
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": f"Basic {TOKEN}"},
                {"Authorization": f"Bearer {TOKEN[:-1]}"},
                {"Cookie": f"sai3ssh_page={TOKEN}"},
                {"Cookie": "sai3ssh_page=; x"},
            ):
                answer = ask(serve.port, path, **headers)
                assert (answer.status, answer.headers["Set-Cookie"]) == (401, None), (path, headers)
                assert b"local-" not in answer.body
        assert ask(serve.port, "/api/runs?token=wrong").status == 401
        assert ask(serve.port, "/api/runs?token=").status == 401
        assert ask(serve.port, "/api/runs", Authorization=f"Bearer {TOKEN}").status == 200
        # The address that is given to people: the token goes into a cookie, and out of the address.
        welcome = ask(serve.port, f"//evil.example/?a=1&token={TOKEN}")
        assert welcome.status == 200
        assert re.search(r'content="0;url=/evil\.example/\?a=1"', welcome.body.decode())
        assert TOKEN.encode() not in welcome.body
        assert b'<link rel="icon" href="data:,">' in welcome.body, "a browser that stays a moment asks for /favicon.ico, which is not there"
        cookie = welcome.headers["Set-Cookie"]
        assert TOKEN not in cookie
        assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
        shown = cookie.partition(";")[0]
        for path in paths[:-1]:
            assert ask(serve.port, path, Cookie=f"other=1; {shown}").status == 200
        # Rebinding and other methods are refused to those who have it, too.
        assert ask(serve.port, "/api/runs", Cookie=shown, Host="evil.example").status == 421
        assert ask(serve.port, "/api/runs", "POST", Cookie=shown).status == 405
    finally:
        said = serve.end()
    assert serve.process.returncode == 0
    assert TOKEN not in said


def test_who_asks_for_nothing_is_sent_away(tmp_path: Path) -> None:
    """Else a hundred connections that were forgotten would be all that there is room for."""
    code = (
        "from pathlib import Path; from sai3ssh.web import server; server.REQUEST_S = 0.3; "
        "server.serve(Path('.'), server.listen('127.0.0.1:0'), said=lambda url: print(url, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    with contextlib.ExitStack() as stack:
        stack.callback(process.communicate)
        stack.callback(process.terminate)
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2].strip("/\n"))
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: 127", b"GET /api/runs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET"):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            idle.sendall(sent)
            answer = b""
            while data := idle.recv(65536):
                answer += data
            assert answer.startswith(b"HTTP/1.1 200") == (b"api" in sent)


def test_a_new_token_is_told_once(tmp_path: Path) -> None:
    serve = Serve(tmp_path, "--token")
    found = re.search(r"\?token=([\w-]{40,})\n", serve.said)
    assert found
    assert ask(serve.port, "/api/runs").status == 401
    assert ask(serve.port, "/api/runs", Authorization=f"Bearer {found[1]}").json == {"runs": [], "unread": 0}
    assert found[1] not in Path(f"/proc/{serve.process.pid}/cmdline").read_text()
    assert serve.end().count(found[1]) == 1


# --- the page beside a run, whatever becomes of it ---------------------------------------------------------------------------------------


def page_processes() -> set[int]:
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    return {int(pid) for pid in children.read_text().split()}


def test_a_page_that_is_gone_is_told_and_nothing_else_happens(tmp_path: Path) -> None:
    said: list[str] = []
    place = server.listen("127.0.0.1:0", want_token=True)
    port = place.socket.getsockname()[1]
    before = page_processes()
    with server.beside(tmp_path, place, said.append):
        (child,) = page_processes() - before
        deadline = time.monotonic() + 60.0
        while True:
            with contextlib.suppress(OSError):
                assert ask(port, "/api/runs").status == 401
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert place.token is not None
        assert place.token.encode() not in Path(f"/proc/{child}/cmdline").read_bytes() + Path(f"/proc/{child}/environ").read_bytes()
        os.kill(child, signal.SIGKILL)
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not answers(port)
    assert said == [f"sai3ssh: the page is gone (exit code -9); the run goes on. See it again with: sai3ssh serve {tmp_path}"]


def test_a_page_whose_controller_is_killed_ends(tmp_path: Path) -> None:
    """It would have the port for ever."""
    place = server.listen("127.0.0.1:0")
    port = place.socket.getsockname()[1]
    code = (
        "import os, pathlib, signal, socket, sys\nfrom sai3ssh.web import server\n"
        "place = server.Place(socket.socket(fileno=int(sys.argv[1])), ('x',), None, False)\n"
        "with server.beside(pathlib.Path(sys.argv[2]), place, print):\n    sys.stdin.read()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    argv = [sys.executable, "-c", code, str(place.socket.fileno()), str(tmp_path)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=[place.socket.fileno()])
    place.socket.close()
    assert ask(port, "/api/runs").json == {"runs": [], "unread": 0}
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60.0
    while answers(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- in a browser ------------------------------------------------------------------------------------------------------------------------


def without_barriers(tab: Tab) -> None:
    """As far as axe-core can tell, the report itself aside, which has tests of its own; they see to axe-core in CI."""
    if AXE.exists():
        tab.call("Runtime.evaluate", expression=AXE.read_text())
        found = json.loads(
            tab.evaluate("axe.run({ exclude: [['#report']] }, { resultTypes: ['violations'] }).then((found) => JSON.stringify(found))")
        )
        assert len(found["passes"]) > 20
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []


def test_a_browser_shows_it_and_goes_on_when_the_server_was_away(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    run = watched.run.name
    with Browser(program()) as browser:
        serve = Serve(watched.bench.results, "--token-file", str(file))
        try:
            root = f"http://127.0.0.1:{serve.port}"
            tab = browser.tab(dark=True)
            tab.open(f"{root}/?token={TOKEN}", "document.querySelectorAll('tbody tr').length === 1")
            assert tab.evaluate("location.href") == f"{root}/"
            assert tab.evaluate("document.cookie") == ""
            assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
            assert tab.evaluate("document.querySelector('tbody tr').textContent").startswith(f"PARTIAL{run}")
            without_barriers(tab)
            # Sorted by what is clicked; a filter that fits nothing leaves nothing.
            tab.evaluate("document.querySelectorAll('th button')[6].click()")
            assert tab.evaluate("document.querySelectorAll('th')[7].getAttribute('aria-sort')") == "descending"
            tab.evaluate("{const box = document.getElementById('filter'); box.value = 'complete'; box.dispatchEvent(new Event('input'));}")
            assert tab.evaluate("document.querySelectorAll('tbody tr').length") == 0
            tab.open(f"{root}/runs/{run}")
            assert tab.evaluate("document.querySelectorAll('#time canvas').length") > 0
            assert tab.evaluate("document.getElementById('live').hidden")
            assert "results.json" in tab.evaluate("document.getElementById('files').textContent")
            without_barriers(tab)
            serve.end(signal.SIGKILL)
            tab.wait("!document.getElementById('away').hidden")
            complaints = [text for text in tab.complaints() if "ERR_CONNECTION" not in text]
            assert complaints == []
            serve = Serve(watched.bench.results, "--token-file", str(file), port=serve.port)
            tab.wait("document.getElementById('away').hidden")
            assert all(address.startswith((root, "data:")) for address in tab.requests())
        finally:
            serve.end()
