"""A minimal controller for tests: one follow process, its frames, and the mirror that they make."""

import contextlib
import os
import select
import subprocess
import time

import sai3ssh
from sai3ssh.agent import state
from sai3ssh.protocol import Data, FrameDecoder, dumps

TIMEOUT_S = 60.0
PING_S = 0.5


def environment():
    """Children find the same package: the zipapp or the source tree that this process runs from."""
    root = getattr(sai3ssh.__loader__, "archive", None) or os.path.dirname(os.path.dirname(os.path.abspath(sai3ssh.__file__)))
    return {**os.environ, "PYTHONPATH": root}


class Channel:
    """Speaks to one agent; collects answers, heartbeats, data and the final line."""

    def __init__(self, directory):
        self.process = subprocess.Popen(
            [*state.self_argv(), "follow", "--nonce", "n1", "--state", directory],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        self._decoder = FrameDecoder("n1")
        self._number = 0
        self._ping_at = 0.0
        self.mirror = bytearray()
        self.start = 0
        self.beats = []
        self.final = None
        self._answers = {}
        self.hello = None
        self.error = None
        self.wait(lambda: self.hello is not None or self.error is not None, "hello")

    def read(self, timeout_s=0.1):
        """Takes in what has arrived; False at the end of the channel."""
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            return True
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        for message in self._decoder.feed(data):
            if isinstance(message, Data):
                if message.offset != self.start + len(self.mirror):
                    raise AssertionError(f"data at {message.offset}, expected {self.start + len(self.mirror)}")
                self.mirror += message.payload
            elif "hb" in message:
                self.beats.append(message)
            elif "final" in message:
                self.final = message["final"]
            elif "hello" in message:
                self.hello = message["hello"]
            elif "id" in message:
                self._answers[message["id"]] = message
            else:
                self.error = message["error"]
        return bool(data)

    def wait(self, condition, what):
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {TIMEOUT_S} s; last heartbeat {self.beats[-1:]}")
            if self.hello is not None and time.monotonic() >= self._ping_at:
                # As a controller does; it carries no reading of the clock, so it renews no lease.
                self._ping_at = time.monotonic() + PING_S
                with contextlib.suppress(BrokenPipeError):
                    self._post("ping")
            if not self.read() and not condition():
                raise AssertionError(f"channel ended while waiting for {what}: {self.error}")

    def ask(self, cmd, **fields):
        """The whole answer of a command."""
        number = self._post(cmd, **fields)
        self.wait(lambda: number in self._answers, f"answer to {cmd}")
        return self._answers.pop(number)

    def _post(self, cmd, **fields):
        self._number += 1
        self.process.stdin.write(dumps({"id": self._number, "cmd": cmd, **fields}).encode() + b"\n")
        self.process.stdin.flush()
        return self._number

    def ok(self, cmd, **fields):
        answer = self.ask(cmd, **fields)
        if "ok" not in answer:
            raise AssertionError(f"{cmd}: {answer}")
        return answer["ok"]

    def follow(self, run_id, agent_id, epoch=None, offset=0, controller="c1"):
        self.start = offset
        self.mirror = bytearray()
        return self.ok("follow", run_id=run_id, agent_id=agent_id, epoch=epoch, offset=offset, controller=controller)

    def wait_state(self, *names):
        self.wait(lambda: bool(self.beats) and self.beats[-1]["state"] in names, f"state {names}")

    def release(self, key, agent_id, stage, number=1, delay_s=0.1):
        start = {"stage": stage, "round": number, "start_clock_ns": state.clock_ns() + int(delay_s * 1e9), "boot": state.boot_id()}
        self.ok("arm", key=key, agent_id=agent_id, **start)
        self.ok("commit", key=key, agent_id=agent_id, stage=stage, round=number)
        return start["start_clock_ns"]

    def close(self):
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
