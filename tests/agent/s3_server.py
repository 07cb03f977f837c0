"""A tiny HTTP server whose answers a test scripts, and work that counts. It checks every signature with a signer of its own."""

import contextlib
import hashlib
import hmac
import socket
import struct
import threading
import time
import urllib.parse

from sai3ssh.agent.engines.base import Task
from sai3ssh.model import Deadlines, Retry, Target

ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE12345", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CREDENTIALS = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
QUICK = Retry(max_retries=2, initial_delay_s=0.001, max_delay_s=0.002)
DEADLINES = Deadlines(connect_s=5, first_byte_s=5, total_s=10)


def response(body=b"", status=200, headers=()):
    """A plain response."""
    lines = [f"HTTP/1.1 {status} Text", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def error(status, code, message="a message"):
    """An error response of S3."""
    return response(f"<?xml?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode(), status)


class Request:
    """A request as it was received."""

    def __init__(self, head, body):
        line, *headers = head.decode("latin-1").split("\r\n")
        self.method, target, _ = line.split(" ")
        self.path, _, self.query = target.partition("?")
        self.headers = {name.lower(): value.strip() for name, _, value in (header.partition(":") for header in headers)}
        self.body = body

    @property
    def region(self):
        """The region that the request is signed for."""
        return self.headers["authorization"].partition("Credential=")[2].split("/")[2]

    def signature_is_right(self):
        """Whether the request is signed with SECRET_KEY, by the letter of the specification."""
        if "authorization" not in self.headers:
            return False
        scheme, _, rest = self.headers["authorization"].partition(" ")
        parts = dict(part.strip().split("=", 1) for part in rest.split(","))
        access_key, scope = parts["Credential"].split("/", 1)
        names = parts["SignedHeaders"].split(";")
        pairs = urllib.parse.parse_qsl(self.query, keep_blank_values=True)
        query = "&".join(sorted(urllib.parse.quote(k, safe="-_.~") + "=" + urllib.parse.quote(v, safe="-_.~") for k, v in pairs))
        path = urllib.parse.quote(urllib.parse.unquote_to_bytes(self.path), safe="/-_.~")
        payload = self.headers["x-amz-content-sha256"]
        canonical = "\n".join([self.method, path, query, *(f"{name}:{self.headers[name]}" for name in names), "", ";".join(names), payload])
        text = "\n".join(["AWS4-HMAC-SHA256", self.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + SECRET_KEY).encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        if payload not in ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", hashlib.sha256(self.body).hexdigest()):
            return False
        return scheme == "AWS4-HMAC-SHA256" and access_key == ACCESS_KEY and parts["Signature"] == expected


class Server:
    """Listens on a free port and answers each request with what `script(client, request, number)` returns: bytes, or None to hang up.

    `number` counts requests from 0, over all connections. With read_body=False the script gets requests before their bodies have come.
    """

    def __init__(self, script, host="127.0.0.1", context=None, read_body=True, anonymous=False):
        self.script = script
        self.requests = []
        self.unsigned = []
        self.connections = 0
        self.resumed = []
        """Of each TLS connection: whether it took up the session of an earlier one."""
        self._anonymous = anonymous
        self._read_body = read_body
        self._context = context
        self._clients = []
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self.port = self._listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if context else 'http'}://{name}:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for closing in [self._listener, *self._clients]:
            with contextlib.suppress(OSError):
                closing.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for closing in [self._listener, *self._clients]:
            closing.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client):
        try:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
                self.resumed.append(client.session_reused)
            self._answer(client)
        except (OSError, ValueError):
            pass
        finally:
            client.close()

    def _answer(self, client):
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = client.recv(65536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            request = Request(head, b"")
            if self._read_body:
                length = int(request.headers.get("content-length", 0))
                while len(data) < length:
                    more = client.recv(1 << 20)
                    if not more:
                        return
                    data += more
                request.body, data = data[:length], data[length:]
            with self._lock:
                number = len(self.requests)
                self.requests.append(request)
                if self._read_body and request.signature_is_right() == self._anonymous:
                    self.unsigned.append(request)
            answer = self.script(client, request, number)
            if answer is None:
                return
            client.sendall(answer)


def reset(client):
    """Hangs up with a RST instead of a FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def target(server, **options):
    """The target that a server is."""
    return Target(engine="s3", endpoint_url=server.url, **options)


class CountingWork:
    """A list of tasks, and what became of each."""

    wake_ns = None

    def __init__(self, tasks):
        self.tasks = list(tasks)
        self.dones = []
        self.retries = []
        self.failures = []
        self.pages = self.late_ns = 0
        self.bytes = 0
        self.latencies_ns = []

    @property
    def finished(self):
        return not self.tasks

    def next(self, now_ns):
        if not self.tasks:
            return None
        task = self.tasks.pop(0)
        task.start_ns = now_ns
        return task

    def done(self, task, end_ns, size_bytes):
        self.dones.append(task)
        self.bytes += size_bytes
        self.latencies_ns.append(end_ns - task.start_ns)

    def retried(self, task, error_class, sent):
        self.retries.append((error_class, sent))

    def failed(self, task, end_ns, error_class, detail, sent):
        self.failures.append((error_class, sent, detail))

    def late(self, late_ns):
        self.late_ns += late_ns

    def page(self, task):
        self.pages += 1

    @property
    def requests(self):
        """How many requests the server must have received."""
        return len(self.dones) + sum(sent for _, sent in self.retries) + sum(failure[1] for failure in self.failures) + self.pages


def task(root, op, key="key", size=-1, index=0, content=None):
    """A task; next() sets its start."""
    return Task(op, root, key, size, index, content, 0)


def wait_for(condition, what, timeout_s=60.0):
    """Returns when the condition holds; fails when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s} s")
        time.sleep(0.002)
