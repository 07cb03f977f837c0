"""Load generators that benchmarks compare: each keeps a number of operations of one kind in flight until its process is killed.

All address the null server, whose objects below SIZE/ have that many bytes (sai3ssh/agent/nullserver.py). A client that is not installed
raises Missing, with what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import mmap
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sai3ssh.agent import nullserver, state
from sai3ssh.agent.supervisor import Supervisor
from sai3ssh.model import (
    Assignment,
    ErrorLimits,
    OperationSpec,
    Plan,
    Population,
    SizeSpec,
    Stage,
    StageKind,
    Target,
    to_json,
)

CREDENTIALS = {"access_key": "AKIDEXAMPLE", "secret_key": "not-a-secret-of-anyone"}
BATCH = 2000
"""Objects of one get_many or put_many of s3dlio."""


class Missing(Exception):
    """A client that is not here; the message says what is missing."""


@dataclass(frozen=True)
class Load:
    """What a client is to do."""

    url: str
    op: str
    size: int
    concurrency: int
    ca_file: str | None = None
    workers: int = 1
    objects: int = 100_000
    """That the agent's GETs draw from, uniformly."""


@dataclass(frozen=True)
class Server:
    """The null server, in a process of its own."""

    url: str
    counts: memoryview
    ca_file: str | None

    def requests(self, op: str) -> int:
        """How many of one kind it has received."""
        return int(self.counts[nullserver.COUNTED.index(op)])


@contextlib.contextmanager
def null_server(*, tls: bool = False) -> Iterator[Server]:
    """The server: in C where there is a compiler, so that it is not the limit; else, and for TLS, in Python."""
    memory = os.memfd_create("counts")
    os.ftruncate(memory, 8 * len(nullserver.COUNTED))
    counts = memoryview(mmap.mmap(memory, 8 * len(nullserver.COUNTED))).cast("Q")
    binary = None if tls else compiled("null_server.c")
    with tempfile.TemporaryDirectory(prefix="null-server-") as scratch, contextlib.ExitStack() as stack:
        if binary is not None:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
            passed = (listener.fileno(), memory, binary)
            process = subprocess.Popen([f"/proc/self/fd/{binary}", *map(str, passed[:2])], pass_fds=passed)
            stack.callback(process.wait)
            stack.callback(process.kill)
            yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}", counts, None)
            return
        context = certificate = None
        if tls:
            context, certificate = _certificate(scratch)
        server = nullserver.NullServer(counts, context)
        parent = os.getpid()
        python = multiprocessing.get_context("fork").Process(target=server.serve, args=(lambda: os.getppid() == parent,), daemon=True)
        python.start()
        stack.callback(server.close)
        stack.callback(python.join)
        stack.callback(python.kill)
        yield Server(server.url, counts, certificate)


def _certificate(directory: str) -> tuple[ssl.SSLContext, str]:
    certificate, key = f"{directory}/cert.pem", f"{directory}/key.pem"
    names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    make = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    subprocess.run([*make, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


@functools.cache
def compiled(source: str) -> int | None:
    """A descriptor of the program that a C file of this directory makes; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print(f"NOTE: no C compiler: Python stands in for {source}")
        return None
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        subprocess.run([compiler, "-O2", "-D_GNU_SOURCE", "-o", f"{directory}/a", str(Path(__file__).parent / source)], check=True)
        return os.open(f"{directory}/a", os.O_RDONLY)


# --- ours --------------------------------------------------------------------------------------------------------------------------------


class SelfReleased(Supervisor):
    """An agent that begins by itself, as it does without a controller after a barrier."""

    def _become(self, name: str) -> None:
        super()._become(name)
        if name == "READY":
            start_ns = state.clock_ns() + 100_000_000
            self._release.release_self(start_ns)
            self._start_stage(0, start_ns)


def plan_of(load: Load, seconds: float) -> tuple[Plan, Assignment]:
    """One execute stage of the load, with deadlines and error limits as a workload file has them by default."""
    uri = f"s3://bucket/{load.size}/"
    size = SizeSpec("fixed", load.size, load.size)
    population = Population("prepared", uri, "prepared-%08d.dat", load.objects, size, 1)
    operation = OperationSpec("get", 1, uri, "prepared") if load.op == "get" else OperationSpec("put", 1, uri + "new/", size=size)
    target = Target("s3", load.url, ca_file=load.ca_file)
    stage = Stage("execute", StageKind.EXECUTE, load.concurrency, duration_s=seconds, operations=(operation,))
    name = f"bench-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    plan = Plan(name, name, target, (population,), (stage,), workers=load.workers, error_limits=ErrorLimits(0, 0.0, 1.0))
    return plan, Assignment("a0", 0, 1, {"prepared": ((0, load.objects),)})


def run_agent(load: Load) -> None:
    """The whole agent as the daemon starts it: supervisor, workers, metrics in shared memory, journal on disk, sampling of the host."""
    run_plan(*plan_of(load, 3600))


def submit(directory: str | Path, plan: Plan, assignment: Assignment) -> None:
    """Writes the plan as the daemon does."""
    key = {"run_id": plan.run_id, "generation": 1, "controller": "bench", "sequence": 0}
    epoch = {"epoch": "e", "run_id": plan.run_id, "agent_id": "a0", "generation": 1, "version": "", "digest": "", "plan_sha256": ""}
    state.write_json(f"{directory}/plan.json", {"plan": to_json(plan), "assignment": to_json(assignment), "key": key, "epoch": epoch})


def run_plan(plan: Plan, assignment: Assignment) -> bytes:
    """An agent's whole run; its journal."""
    with tempfile.TemporaryDirectory(prefix=f"bench-agent-{os.getpid()}-") as directory:
        submit(directory, plan, assignment)
        SelfReleased(directory, {"credentials": {**CREDENTIALS, "session_token": None}}).run()
        return Path(directory, "journal.ndjson").read_bytes()


# --- peers -------------------------------------------------------------------------------------------------------------------------------


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise Missing(f"{module} is not installed (pip install 'sai3ssh[bench]')")


def _threads(load: Load, one: Callable[[str], object]) -> None:
    """`one` operation after the other, each on a key of its own, in as many threads as are to be in flight."""
    numbers = itertools.count()

    def loop() -> None:
        for number in numbers:
            one(f"{load.size}/key-{number % 100_000:08d}.dat")

    threads = [threading.Thread(target=loop, daemon=True) for _ in range(load.concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_boto3(load: Load) -> None:
    """boto3, one client for all threads, without retries."""
    _need("boto3")
    import boto3
    from botocore.config import Config

    config = Config(max_pool_connections=load.concurrency, retries={"max_attempts": 0}, s3={"addressing_style": "path"})
    keys = {"aws_access_key_id": CREDENTIALS["access_key"], "aws_secret_access_key": CREDENTIALS["secret_key"]}
    client = boto3.client("s3", endpoint_url=load.url, region_name="us-east-1", config=config, verify=load.ca_file, **keys)
    data = bytes(load.size)
    if load.op == "get":
        _threads(load, lambda key: client.get_object(Bucket="bucket", Key=key)["Body"].read())
    else:
        _threads(load, lambda key: client.put_object(Bucket="bucket", Key=key, Body=data))


def run_obstore(load: Load) -> None:
    """obstore, one store for all threads; a PUT without multipart."""
    _need("obstore")
    from obstore.store import S3Store

    options: dict[str, Any] = {"allow_http": True}
    if load.ca_file:
        options["allow_invalid_certificates"] = True  # it has no option for a CA of one's own; the cost of checking is a handshake's
    store = S3Store(
        "bucket",
        endpoint=load.url,
        region="us-east-1",
        access_key_id=CREDENTIALS["access_key"],
        secret_access_key=CREDENTIALS["secret_key"],
        virtual_hosted_style_request=False,
        client_options=options,
    )
    data = bytes(load.size)
    if load.op == "get":
        _threads(load, lambda key: store.get(key).buffer())
    else:
        _threads(load, lambda key: store.put(key, data, use_multipart=False))


def s3dlio_for(load: Load) -> Any:
    """The module, set up for the server; raises Missing."""
    _need("s3dlio")
    os.environ |= {
        "AWS_ENDPOINT_URL": load.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": CREDENTIALS["access_key"],
        "AWS_SECRET_ACCESS_KEY": CREDENTIALS["secret_key"],
    }
    if load.ca_file:
        os.environ["AWS_CA_BUNDLE"] = load.ca_file
    import s3dlio

    return s3dlio


def run_s3dlio(load: Load) -> None:
    """s3dlio, a call per operation."""
    s3dlio = s3dlio_for(load)
    data = bytes(load.size)
    if load.op == "get":
        _threads(load, lambda key: s3dlio.get(f"s3://bucket/{key}"))
    else:
        _threads(load, lambda key: s3dlio.put_bytes(f"s3://bucket/{key}", data))


def run_s3dlio_many(load: Load) -> None:
    """s3dlio, get_many and put_many."""
    s3dlio = s3dlio_for(load)
    data = bytes(load.size)
    count = max(load.concurrency, min(BATCH, (1 << 30) // max(load.size, 1)))
    uris = [f"s3://bucket/{load.size}/key-{number:08d}.dat" for number in range(count)]
    items = [(uri, data) for uri in uris]
    while True:
        if load.op == "get":
            s3dlio.get_many(uris, load.concurrency)
        else:
            s3dlio.put_many(items, load.concurrency)


def run_floor(load: Load) -> None:
    """The floor in C, where there is a compiler, else in Python."""
    port = load.url.rpartition(":")[2]
    binary = compiled("floor.c")
    if binary is None:
        _python_floor(load, int(port))
    else:
        os.execve(binary, ["floor", port, str(load.concurrency), str(load.size), load.op], os.environ)


def _python_floor(load: Load, port: int) -> None:
    import select

    request = f"{load.op.upper()} /bucket/{load.size}/key HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if load.op == "put":
        request += f"Content-Length: {load.size}\r\n"
    data = request.encode() + b"\r\n" + (bytes(load.size) if load.op == "put" else b"")
    poller = select.epoll()
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(load.concurrency)]
    by_fd = {sock.fileno(): sock for sock in sockets}
    left = dict.fromkeys(by_fd, 0)
    buffer = bytearray(1 << 20)
    for fd, sock in by_fd.items():
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poller.register(fd, select.EPOLLIN)
        sock.sendall(data)
    body = load.size if load.op == "get" else 0
    while True:
        for fd, _ in poller.poll():
            n = by_fd[fd].recv_into(buffer)
            left[fd] = left[fd] - n if left[fd] else buffer.find(b"\r\n\r\n", 0, n) + 4 + body - n
            if not left[fd]:
                by_fd[fd].send(data)


def run_command(command: str, load: Load) -> None:
    """Another program: {host} and {url} of the server, {op}, {size} in bytes, {concurrency} and {ca_file} are filled in."""
    fields = {"host": load.url.rpartition("/")[2], **vars(load)}
    argv = [word.format(**fields) for word in shlex.split(command)]
    if shutil.which(argv[0]) is None:
        raise Missing(f"{argv[0]} is not on PATH")
    os.environ |= {"AWS_ACCESS_KEY_ID": CREDENTIALS["access_key"], "AWS_SECRET_ACCESS_KEY": CREDENTIALS["secret_key"]}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execvp(argv[0], argv)


CLIENTS: dict[str, Callable[[Load], None]] = {
    "sai3ssh agent": run_agent,
    "obstore, threads": run_obstore,
    "s3dlio, threads": run_s3dlio,
    "s3dlio, many": run_s3dlio_many,
    "boto3, threads": run_boto3,
    "floor": run_floor,
}


# --- measuring ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Of one client in one interval."""

    cpu_us: float
    """User and system time of all its processes per operation that the server received."""
    rate: float
    """Operations per second."""


SETTLE_S = 0.5
START_TIMEOUT_S = 30.0


def measure(name: str, load: Load, server: Server, seconds: float) -> Cost:
    """Runs a client for a while; raises Missing, and RuntimeError when it does not do its work."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(name, load, writer))
    process.start()
    writer.close()
    try:
        gone = False
        first, deadline = server.requests(load.op), time.monotonic() + START_TIMEOUT_S
        while server.requests(load.op) < first + 2 * load.concurrency:
            # One that has become another program has closed its end, and goes on.
            if not gone and reader.poll():
                try:
                    raise Missing(str(reader.recv()))
                except EOFError:
                    gone = True
            if not process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not {load.op} (exit code {process.exitcode})")
            time.sleep(0.01)
        time.sleep(SETTLE_S)
        members = family(process.pid or 0)
        before, cpu, began = server.requests(load.op), cpu_s(members), time.perf_counter()
        time.sleep(seconds)
        operations, cpu, took = server.requests(load.op) - before, cpu_s(members) - cpu, time.perf_counter() - began
        if family(process.pid or 0) != members or not operations:
            raise RuntimeError(f"{name} has lost a process, or did nothing ({operations} operations)")
        return Cost(cpu / operations * 1e6, operations / took)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        _remove_what_is_left(process.pid or 0)


def _remove_what_is_left(pid: int) -> None:
    """Of an agent that was killed."""
    for path in Path(state.metrics_dir()).glob(f"bench-{pid}-*"):
        path.unlink()
    for path in Path(tempfile.gettempdir()).glob(f"bench-agent-{pid}-*"):
        shutil.rmtree(path)


def _run(name: str, load: Load, writer: Any) -> None:
    os.setsid()
    try:
        CLIENTS[name](load)
    except Missing as missing:
        writer.send(str(missing))


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    found, todo = set(), [pid]
    while todo:
        pid = todo.pop()
        found.add(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += map(int, task.read_text().split())
    return found


def cpu_s(pids: set[int]) -> float:
    """User and system time of live processes with all their threads: their CPU clocks, by the kernel's rule for clock ids."""
    return sum(time.clock_gettime(((~pid) << 3) | 2) for pid in pids)
