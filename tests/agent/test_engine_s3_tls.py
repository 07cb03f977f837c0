"""TLS that fails, in every way in which a server can make it fail: each ends, in its class, and nothing of it counts as a request."""

import contextlib
import socket
import ssl
import tempfile
import threading
import unittest

from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import GET
from sai3ssh.model import Deadlines, Retry, Target
from tests.agent.certificates import make_certificate
from tests.agent.s3_server import CREDENTIALS, CountingWork, Server, reset, response, task


class Bare:
    """Accepts connections, as often as asked, and does with each what `act(client, first bytes)` does."""

    def __init__(self, act):
        self._act = act
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                self._act(client, client.recv(4096))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()


class TlsFailures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        made = {"right": ("IP:127.0.0.1", 2), "expired": ("IP:127.0.0.1", -1), "other": ("IP:192.0.2.1", 2)}
        cls.files = {name: make_certificate(scratch.name, name, *what) for name, what in made.items()}

    def context(self, name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.files[name])
        return context

    def get(self, url, pem, deadlines=None):
        """What became of one GET without retries."""
        made = make_engine(Target("s3", url, ca_file=pem), "s3://b/", CREDENTIALS, deadlines or Deadlines(5, 5, 10), Retry(max_retries=0))
        self.addCleanup(made.close)
        work = CountingWork([task(made.root("s3://b/"), GET, size=3)])
        made.run(work, 1)
        self.assertEqual(made._connections, {})
        return work

    def failure(self, work):
        ((error_class, sent, detail),) = work.failures
        return error_class, sent, detail

    def test_certificates(self):
        for name, text in (("expired", "expired"), ("other", "127.0.0.1")):
            with Server(lambda c, r, n: response(b"abc"), context=self.context(name)) as server:
                error_class, sent, detail = self.failure(self.get(server.url, self.files[name]))
            self.assertEqual((error_class, sent, server.requests), ("tls", False, []), name)
            self.assertIn(text, detail)

    def test_handshakes(self):
        def drop(client, _):
            reset(client)

        cases = {
            "garbage": (lambda client, _: client.sendall(b"\0" * 200), "tls"),
            "plain HTTP, which says so": (lambda client, _: client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "tls"),
            "another protocol": (lambda client, _: client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), "tls"),
            "an alert": (lambda client, _: client.sendall(b"\x15\x03\x03\x00\x02\x02\x28"), "tls"),
            "hung up": (lambda client, _: None, "reset"),
            "reset": (drop, "reset"),
            "half of a record": (lambda client, _: client.sendall(b"\x16\x03\x03\x10\x00" + b"x" * 20), "reset"),
        }
        for name, (act, expected) in cases.items():
            with self.subTest(name), Bare(act) as server:
                error_class, sent, detail = self.failure(self.get(server.url, self.files["right"]))
                self.assertEqual((error_class, sent), (expected, False), detail)

    def test_a_handshake_without_an_answer_has_the_deadline_of_connecting(self):
        over = threading.Event()
        self.addCleanup(over.set)
        with Bare(lambda client, _: over.wait(20)) as server:
            work = self.get(server.url, self.files["right"], Deadlines(0.2, 5, 10))
            over.set()
        self.assertEqual(self.failure(work)[:2], ("timeout_connect", False))

    def test_within_a_response(self):
        whole = response(b"abc")

        def garbage(client, request, number):
            client.sendall(whole[:-1])
            # Past the encryption, onto the wire.
            socket.socket.sendall(client, b"\x17\x03\x03\x00\x20" + b"g" * 32)

        def ends(client, request, number):
            client.sendall(whole[:-1])

        for script, expected in ((garbage, "tls"), (ends, "short_read")):
            with Server(script, context=self.context("right")) as server:
                error_class, sent, detail = self.failure(self.get(server.url, self.files["right"]))
            self.assertEqual((error_class, sent, len(server.requests)), (expected, True, 1), detail)

    def test_what_a_plain_client_hears_from_a_server_that_wants_tls(self):
        with Bare(lambda client, _: client.sendall(b"\x15\x03\x01\x00\x02\x02\x46")) as server:
            work = self.get(server.url.replace("https", "http"), None)
        self.assertEqual(self.failure(work)[0], "protocol")


if __name__ == "__main__":
    unittest.main()
