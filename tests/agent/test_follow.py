"""A controller's window, when what is behind it goes away."""

import contextlib
import itertools
import json
import os
import selectors
import socket
import sys
import tempfile
import unittest
from unittest import mock

from sai3ssh.agent import follow, state, workers
from sai3ssh.agent.lines import Lines
from sai3ssh.protocol import encode_record


def gone():
    """A socket whose other end has just been closed, and nobody has noticed yet."""
    mine, other = socket.socketpair()
    other.close()
    fd = mine.detach()
    return Lines(fd, fd)


class Window(unittest.TestCase):
    def setUp(self):
        mine, theirs = socket.socketpair()
        fd = theirs.detach()
        self.addCleanup(os.close, fd)
        self.addCleanup(mine.close)
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        with mock.patch.object(follow, "Lines", lambda *_: Lines(fd, fd)):
            self.window = follow.Follow(self.directory.name)
        self.addCleanup(self.window._selector.close)
        self.controller = mine

    def ask(self, **command):
        self.controller.sendall(json.dumps({"id": 7, **command}).encode() + b"\n")
        self.window._on_controller()
        return json.loads(self.controller.recv(65536))

    def test_a_supervisor_that_ends_under_a_ping_does_not_end_the_window(self):
        self.window._supervisor, self.window._name = gone(), "controller"
        self.addCleanup(os.close, self.window._supervisor.in_fd)
        self.assertIn("clock_ns", self.ask(cmd="ping", seen={})["ok"])

    def test_a_command_under_which_its_supervisor_ends_may_be_asked_again(self):
        self.window._supervisor = gone()
        self.addCleanup(os.close, self.window._supervisor.in_fd)
        self.assertEqual(self.ask(cmd="commit")["error"]["type"], "Transient")
        self.assertEqual(self.window._pending, {})

    def test_a_command_under_which_the_daemon_ends_may_be_asked_again(self):
        self.window._daemon = gone()
        self.addCleanup(os.close, self.window._daemon.in_fd)
        self.assertEqual(self.ask(cmd="submit")["error"]["type"], "Transient")

    def test_an_old_daemon_that_another_controller_has_just_retired_is_no_error(self):
        for end in (socket.SHUT_WR, socket.SHUT_RDWR):
            mine, daemons = socket.socketpair()
            daemons.shutdown(end)
            build = {"version": "1", "digest": "d"}
            with mock.patch.object(self.window, "_connect_daemon") as connect:
                self.window._replace_daemon(mine, build, build)
            connect.assert_called_once()
            daemons.close()

    def test_a_supervisor_that_is_too_slow_to_answer_has_lost_no_journal(self):
        """The host swaps, or was suspended: the controller gives up for good what it is told is lost."""
        run_dir = os.path.join(self.directory.name, "runs", "r", "a")
        os.makedirs(run_dir)
        line = encode_record({"seq": 0, "kind": "epoch", "epoch": "e"})
        with open(os.path.join(run_dir, "journal.ndjson"), "wb") as file:
            file.write(line)
        silent = socket.socket(socket.AF_UNIX)
        self.addCleanup(silent.close)
        silent.bind(os.path.join(run_dir, "supervisor.sock"))
        silent.listen()
        passed = itertools.count()
        with (
            mock.patch.object(follow.time, "monotonic", lambda: next(passed) * 1.0),
            mock.patch.object(follow.Follow, "_selector_wait", lambda *_: False),
        ):
            answer = self.ask(cmd="follow", run_id="r", agent_id="a", epoch="e", offset=len(line), controller="")
        self.addCleanup(os.close, self.window._journal)
        self.assertEqual(answer["error"]["type"], "Transient")
        self.assertIsNone(self.window._supervisor)

    def test_a_peer_that_sends_what_is_no_line_of_ours_is_left(self):
        for line in (b"x", b"[]", b"[" * 100_000):
            mine, peer = socket.socketpair()
            with mine, peer:
                peer.sendall(line + b"\n")
                with self.assertRaises(EOFError, msg=line[:10]):
                    Lines(mine.fileno(), mine.fileno()).read()

    def test_a_command_that_fills_the_socket_arrives_whole(self):
        mine, daemons = socket.socketpair()
        self.addCleanup(daemons.close)
        fd = mine.detach()
        self.addCleanup(os.close, fd)
        lines = self.window._daemon = Lines(fd, fd)
        self.window._selector.register(fd, selectors.EVENT_READ, lambda: self.window._on_daemon(lines))
        sent = {"id": 7, "cmd": "trace", "data": "x" * (2 << 20)}
        self.window._pass_on(lines, sent)
        self.assertGreater(lines.waiting, 0)
        daemons.setblocking(False)
        arrived = b""
        while not arrived.endswith(b"\n"):
            # What the daemon does not read now it will not: it waits for the rest.
            with contextlib.suppress(BlockingIOError):
                while piece := daemons.recv(1 << 20):
                    arrived += piece
            waiting = lines.waiting
            if not waiting:
                break
            self.window._turn()
            self.assertLess(lines.waiting, waiting)
        self.assertEqual(json.loads(arrived), sent)


class Worker(unittest.TestCase):
    def test_a_plan_and_an_order_that_are_larger_than_a_pipe_arrive_whole(self):
        script = "import sys\nfor line in sys.stdin.buffer: print('{\"got\":%d}' % len(line), flush=True)"
        heard = []
        with selectors.DefaultSelector() as selector:
            with mock.patch.object(state, "self_argv", lambda: [sys.executable, "-c", script]):
                worker = workers.WorkerProcess(0, 0, {"plan": "x" * 300_000}, {}, selector)
            for close in (worker.process.stdin.close, worker.process.stdout.close, worker.process.wait, worker.process.kill):
                self.addCleanup(close)
            selector.register(worker.lines.in_fd, selectors.EVENT_READ, lambda: heard.extend(worker.lines.read()))
            for count in (1, 2):
                while len(heard) < count:
                    events = selector.select(60)
                    self.assertTrue(events, "the worker waits for the rest")
                    for key, _ in events:
                        key.data()
                self.assertNotIn(worker.lines.out_fd, selector.get_map())
                worker.order({"ranges": "x" * 200_000})
            worker.unfeed()
        self.assertGreater(heard[0]["got"], 300_000)
        self.assertGreater(heard[1]["got"], 200_000)
