"""One open channel to an agent: numbered commands out, answers matched to them, everything else handed to the link."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import LinkLost, Sai3sshError, Transient, VersionMismatch, from_dict
from ..protocol import PROTOCOL, Data, FrameDecoder, Json, encode_control
from ..transport import Channel, Connection
from . import clock

Message = Json | Data


class FollowEnded(LinkLost):
    """The agent's end of the channel is gone while the connection may still stand."""

    def __init__(self, message: str, *, host: str, exit_code: int | None) -> None:
        super().__init__(message, host=host, phase="follow")
        self.exit_code = exit_code


class Answer:
    """What came back for one command."""

    def __init__(self, on_answer: Callable[[Answer], None] | None = None) -> None:
        self.ok: dict[str, Any] = {}
        self.error: Sai3sshError | None = None
        self.sent_ns = 0
        self.received_ns = 0
        self._on_answer = on_answer
        self._arrived = threading.Event()

    def settle(self, ok: dict[str, Any], error: Sai3sshError | None) -> None:
        """Makes the answer known to who waits for it."""
        self.ok, self.error = ok, error
        self._arrived.set()
        if self._on_answer:
            self._on_answer(self)

    def wait(self, timeout_s: float) -> bool:
        """False when nothing came in time."""
        return self._arrived.wait(timeout_s)


class Conversation:
    """`receive` belongs to one thread; `request` and `close` may be called from any."""

    def __init__(self, connection: Connection, channel: Channel, nonce: str, host: str, on_received: Callable[[int], None]) -> None:
        """`on_received` is told the number of bytes of each receipt."""
        self._connection = connection
        self._channel = channel
        self._decoder = FrameDecoder(nonce)
        self._host = host
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._next_id = 1
        self._pending: dict[int, Answer] = {}
        self._broken: Sai3sshError | None = None
        self.seen: Json = {}
        """The host's clock, as it was last read from it."""
        self._on_received = on_received
        self.backlog: list[Message] = []
        """What arrived while the answer to the first command was awaited."""

    def hello(self, timeout_s: float) -> dict[str, Any]:
        """What the agent says of itself. Raises its own error when it says one, VersionMismatch when it speaks another protocol."""
        for message in self.receive_until(lambda message: isinstance(message, dict) and "hello" in message, timeout_s, "hello"):
            hello: dict[str, Any] = message["hello"] if isinstance(message, dict) else {}
        if hello.get("protocol") != PROTOCOL:
            raise VersionMismatch(
                f"the agent speaks protocol {hello.get('protocol')}, expected {PROTOCOL}",
                host=self._host,
                phase="hello",
                remedy="Deploy the agent of this version with 'sai3ssh deploy', or remove the deployed one",
            )
        self.seen = {"clock_ns": hello["clock_ns"], "boot": hello["boot"]}
        return hello

    def receive_until(self, wanted: Callable[[Message], bool], timeout_s: float, what: str) -> list[Message]:
        """The messages up to and including the first wanted one; raises LinkLost when it does not come in time."""
        deadline = time.monotonic() + timeout_s
        messages: list[Message] = []
        while True:
            left = deadline - time.monotonic()
            try:
                messages += self.receive(max(0.0, left))
            except TimeoutError as error:
                noise = self._decoder.noise()[-200:].decode("utf-8", "replace").strip()
                heard = f"; heard instead: {noise}" if noise else ""
                raise LinkLost(f"no {what} within {timeout_s:.0f} s{heard}", host=self._host, phase="follow") from error
            if any(wanted(message) for message in messages):
                return messages

    def receive(self, timeout_s: float) -> list[Message]:
        """What has arrived besides answers. Raises TimeoutError when nothing came, FollowEnded at the end, the agent's own last error."""
        data = self._channel.recv(timeout_s)
        received_ns = clock.clock_ns()
        if not data:
            raise self._ended()
        self._on_received(len(data))
        messages: list[Message] = []
        for message in self._decoder.feed(data):
            if isinstance(message, Data):
                messages.append(message)
            elif "ok" in message or "error" in message:
                self._settle(message, received_ns)
            else:
                messages.append(message)
        return messages

    def request(self, command: Json, timeout_s: float) -> Answer:
        """The answer. Raises the agent's error, LinkLost when the link breaks first, Transient when nothing comes in time."""
        answer = self.post(command, timeout_s)
        if not answer.wait(timeout_s):
            raise Transient(f"no answer to '{command.get('cmd')}' within {timeout_s:.0f} s", host=self._host, phase="request")
        if answer.error is not None:
            raise answer.error
        return answer

    def post(self, command: Json, timeout_s: float, on_answer: Callable[[Answer], None] | None = None) -> Answer:
        """Sends the command; on_answer is called by the thread that receives, also when the link breaks."""
        answer = Answer(on_answer)
        with self._lock:
            if self._broken is not None:
                raise LinkLost(f"the link is down ({self._broken.message})", host=self._host, phase="request")
            number = self._next_id
            self._next_id += 1
            self._pending[number] = answer
        try:
            with self._sending:
                answer.sent_ns = clock.clock_ns()
                self._channel.send(encode_control({**command, "id": number}), timeout_s)
        except LinkLost:
            with self._lock:
                self._pending.pop(number, None)
            # Half a line may have gone out: nothing that follows would be understood.
            self._connection.close()
            raise
        return answer

    def ping(self, timeout_s: float, on_answer: Callable[[Answer], None], *, renews_lease: bool) -> None:
        """Posts a ping, unless a command is being sent right now, which shows the agent as well that somebody is there.

        It carries back the last reading of the host's clock that was seen here: a lease runs from that moment, however long a ping was
        under way.
        """

        def note(answer: Answer) -> None:
            if answer.error is None:
                self.seen = {"clock_ns": answer.ok["clock_ns"], "boot": answer.ok["boot"]}
            on_answer(answer)

        if not self._sending.locked():
            self.post({"cmd": "ping", **({"seen": self.seen} if renews_lease else {})}, timeout_s, note)

    def fail(self, error: Sai3sshError) -> None:
        """Ends all requests that wait, and refuses new ones."""
        with self._lock:
            self._broken = error
            pending, self._pending = list(self._pending.values()), {}
        for answer in pending:
            answer.settle({}, LinkLost(f"the link broke before the answer ({error.message})", host=self._host, phase="request"))

    def close(self) -> None:
        """Closes the socket at once; a receive that waits ends."""
        self._connection.close()

    def _settle(self, message: Json, received_ns: int) -> None:
        error = from_dict(message["error"], host=self._host) if "error" in message else None
        with self._lock:
            answer = self._pending.pop(message["id"], None) if isinstance(message.get("id"), int) else None
        if answer is not None:
            answer.received_ns = received_ns
            answer.settle(message.get("ok") or {}, error)
        elif error is not None and message.get("id") is None:
            raise error

    def _ended(self) -> LinkLost:
        if not self._connection.is_active():
            return LinkLost("the connection broke", host=self._host, phase="follow")
        code = self._channel.exit_code()
        said = (self._channel.stderr_tail() or self._decoder.noise())[-500:].decode("utf-8", "replace").strip()
        status = "was killed or cut off" if code is None else f"ended with exit status {code}"
        return FollowEnded(f"the agent's follow {status}{': ' + said if said else ''}", host=self._host, exit_code=code)
