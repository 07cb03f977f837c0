"""The link to one agent: one thread that connects, mirrors the journal, notices silence, reconnects and resumes.

Only this thread opens connections, so that however many callers notice a loss, one reconnect follows, and only for the connection that is
current. What a caller had asked and got no answer to raises LinkLost; commands are idempotent, so callers simply ask again.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AgentError, JournalLost, LinkLost, Permanent, Sai3sshError, Transient
from ..model import Host, Outcome
from ..protocol import Data, Json, ProtocolError
from ..retry import Backoff, RetryPolicy
from ..transport import Connection, Transport, transport_for
from ..transport.translate import RESOLVE
from . import clock, install
from .conversation import Answer, Conversation, FollowEnded, Message
from .events import Event, Heartbeat, JournalComplete, LinkDown, LinkFailed, LinkGivenUp, LinkUp, Records
from .mirror import Mirror
from .traffic import Traffic

log = logging.getLogger(__name__)

FRUITLESS_SESSIONS = 3
"""So many connections in a row on which the agent broke off without a byte of use: reconnecting will not help."""

PING_S = 5.0
"""An agent ends a window that is silent for 30 s, and takes no claim whose reading of its clock is older than 10 s."""


@dataclass(frozen=True)
class Subscription:
    """Which journal the link mirrors."""

    run_id: str
    agent_id: str
    epoch: str | None = None
    """As `submit` answered; None: whatever the agent has, or what the mirror began with."""
    controller: str = ""
    """Who steers the run over this link; empty: nobody, it only reads."""


@dataclass(frozen=True)
class LinkOptions:
    """Times in seconds."""

    heartbeat_s: float = 1.0
    silence_floor_s: float = 3.0
    """A link is never given up for a shorter silence than this; else for three heartbeats."""
    first_connect_timeout_s: float = 60.0
    reconnect_timeout_s: float = 600.0
    """Counted from the loss, and only while this machine is awake. math.inf: until stopped."""
    connect_timeout_s: float = 15.0
    """Of one attempt."""
    hello_timeout_s: float = 20.0
    """For the agent to start, start its daemon, and find the journal."""
    backoff: Backoff = field(default_factory=Backoff)
    """Between attempts to connect to a host that does accept TCP connections."""

    @property
    def ping_s(self) -> float:
        """Between pings: a heartbeat at most, and often enough for an agent whose own heartbeats are rare to know that we are there."""
        return min(self.heartbeat_s, PING_S)

    @property
    def silence_s(self) -> float:
        """How long a link may be silent."""
        return max(3 * self.heartbeat_s, self.silence_floor_s)


class Link:
    """`on_event` is called on the link's own thread and must not block: while it runs, nothing is received."""

    def __init__(
        self,
        host: Host,
        mirror: Mirror,
        on_event: Callable[[Event], object],
        *,
        bundle: Path,
        subscription: Subscription | None = None,
        options: LinkOptions | None = None,
        transport: Transport | None = None,
        agent: str | None = None,
        clock_s: Callable[[], float] = clock.clock_s,
    ) -> None:
        self.agent = agent or host.name
        self.renews_lease = True
        """Whether pings renew the agent's lease."""
        self.mirror = mirror
        self.traffic = Traffic()
        self._host = host
        self._bundle = bundle
        self._on_event = on_event
        self._options = options or LinkOptions()
        self._transport = transport or transport_for(host)
        self._clock_s = clock_s
        self._stop = threading.Event()
        self._try_now = threading.Event()
        """Set to end a probe or a delay: by try_now, and by stop."""
        self._up = threading.Event()
        self._lock = threading.Lock()
        self._subscription = subscription
        self._followed: Conversation | None = None
        self._current: Conversation | None = None
        self._connection: Connection | None = None
        self._installed: install.Installed | None = None
        self._attempt = 0
        self._fruitless = 0
        self._was_up = False
        self._complete = False
        self._following = False
        self._thread = threading.Thread(target=self._run, name=f"link {self.agent}", daemon=True)

    # --- for any thread --------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to connect; what becomes of it comes as events."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Closes the link; no event follows but what is being delivered. True when its thread has ended in time."""
        self._stop.set()
        self._try_now.set()
        with self._lock:
            connection = self._connection
        if connection is not None:
            connection.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def try_now(self) -> None:
        """Connects at once, whether or not the host seems to answer; nothing when the link is up."""
        if not self.is_up:
            self._try_now.set()

    @property
    def is_up(self) -> bool:
        """Whether commands can be sent now."""
        return self._up.is_set()

    @property
    def seen(self) -> Json:
        """The last reading of the host's clock that was seen on this connection: {clock_ns, boot}; empty without one."""
        with self._lock:
            return dict(self._current.seen) if self._current is not None else {}

    def wait_up(self, timeout_s: float) -> bool:
        """True as soon as commands can be sent."""
        return self._up.wait(timeout_s)

    def request(self, command: Json, timeout_s: float) -> dict[str, Any]:
        """The agent's answer. Raises the agent's error, or LinkLost when the link is down or breaks before the answer."""
        return self._conversation().request(command, timeout_s).ok

    def measure_clock(self, rounds: int = clock.ROUNDS, timeout_s: float = 10.0) -> clock.ClockOffset:
        """The offset of the host's clock, by the fastest of so many pings. Raises LinkLost or Transient."""
        conversation = self._conversation()

        def ping() -> clock.Pong:
            answer = conversation.request({"cmd": "ping"}, timeout_s)
            return clock.Pong(answer.sent_ns, answer.received_ns, str(answer.ok["boot"]), int(answer.ok["clock_ns"]))

        return clock.estimate(ping, rounds)

    def subscribe(self, subscription: Subscription) -> None:
        """Mirrors that journal from the mirror's size on, now and after each reconnect. What goes wrong with it comes as an event."""
        with self._lock:
            self._subscription = subscription
            conversation = self._current
            if conversation is None or self._followed is conversation:
                return
            self._followed = conversation
        self._following = True
        # When this fails the connection is closed, and the reconnect sends it.
        with contextlib.suppress(LinkLost):
            conversation.post(self._follow_command(subscription), self._options.silence_s, self._on_followed)

    def _conversation(self) -> Conversation:
        with self._lock:
            if self._current is None:
                raise LinkLost("the link is down", host=self._host.name, phase="request")
            return self._current

    # --- the link's thread -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        down_at = self._clock_s()
        timeout_s = self._options.first_connect_timeout_s
        try:
            while not self._stop.is_set():
                conversation = self._reconnect(down_at, timeout_s)
                try:
                    self._serve(conversation)
                except Transient as error:
                    self._leave(conversation, error)
                    down_at, timeout_s = self._clock_s(), self._options.reconnect_timeout_s
                    self._emit(LinkDown(self.agent, down_at, error))
                except BaseException:
                    self._leave(conversation, LinkLost("the link has ended", host=self._host.name))
                    raise
        except Permanent as error:
            error.host = error.host or self._host.name
            self._emit(LinkFailed(self.agent, self._clock_s(), error))
        except Transient as error:
            now = self._clock_s()
            self._emit(LinkGivenUp(self.agent, now, self._attempt, now - down_at, error))
        except Exception as error:
            log.exception("%s: the link ended by an error of sai3ssh itself", self.agent)
            broken = Permanent(f"error in sai3ssh itself: {type(error).__name__}: {error}", host=self._host.name, phase="link")
            self._emit(LinkFailed(self.agent, self._clock_s(), broken))

    def _emit(self, event: Event) -> None:
        if not self._stop.is_set():
            self._on_event(event)

    def _reconnect(self, down_at: float, timeout_s: float) -> Conversation:
        """A conversation whose LinkUp was emitted. Raises Permanent, or Transient when the time is over."""
        self._attempt = 0
        deadline = time.monotonic() + timeout_s
        if self._fruitless > 1:
            # It connects and breaks off at once: the host is well enough to answer, so nothing but this slows us down.
            self._try_now.wait(self._options.backoff.delay_s(self._fruitless))

        last: list[Transient] = []

        def attempt() -> Conversation:
            # The first connection ever fails with its true cause at once; later the host is expected back, and noticed by a cheap probe.
            while True:
                self._raise_if_stopped()
                probed = not (self._was_up or self._attempt) or self._transport.probe(self._try_now, deadline - time.monotonic())
                self._raise_if_stopped()
                asked = self._try_now.is_set()
                self._try_now.clear()
                if not probed and not asked:
                    # What the last real attempt met says more.
                    raise last[-1] if last else Transient("accepts no TCP connection", host=self._host.name, phase="connect")
                self._attempt += 1
                try:
                    return self._open(down_at)
                except Transient as error:
                    last[:] = [error]
                    if probed:
                        raise
                    # It was asked for though the host accepts no connection: that costs the probe nothing but the time of the attempt.
                    log.info("%s: %s, as was to be expected", self.agent, error)
                except Permanent as error:
                    if self._was_up and error.phase == RESOLVE:
                        raise Transient(error.message, host=error.host, phase=error.phase) from error
                    raise

        def note(number: int, error: BaseException, delay_s: float) -> None:
            log.info("%s: attempt %d: %s; again in %.1f s", self.agent, number, error, delay_s)

        policy = RetryPolicy(timeout_s, self._options.backoff, stop=self._stop, sleep=self._try_now.wait, on_retry=note)
        return policy.call(attempt)

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise Transient("the link was stopped", host=self._host.name)

    def _open(self, down_at: float) -> Conversation:
        options = self._options
        began_s = self._clock_s()
        connection = self._transport.connect(options.connect_timeout_s)
        try:
            with self._lock:
                self._connection = connection
            self._raise_if_stopped()
            if self._installed is None:
                self._installed = install.ensure(connection, self._host, self._bundle)
            nonce = secrets.token_hex(8)
            state = ["--state", self._host.state_dir] if self._host.state_dir else []
            argv = [*self._installed.argv, "follow", "--nonce", nonce, *state]
            channel = connection.exec(argv, options.connect_timeout_s)
            conversation = Conversation(connection, channel, nonce, self._host.name, self.traffic.received)
            self._shake_hands(conversation, down_at, began_s)
        except BaseException as error:
            connection.close()
            if isinstance(error, (ProtocolError, FollowEnded, AgentError)):
                self._installed = None
                raise self._no_use(error) from error
            raise
        return conversation

    def _no_use(self, error: ProtocolError | FollowEnded | AgentError) -> Sai3sshError:
        """What to make of an agent that broke off: transient at first, permanent when it does so again and again without a byte of use."""
        if isinstance(error, AgentError) and (type(error) is not AgentError or not self._was_up):
            return error
        self._fruitless += 1
        message = f"the agent's stream cannot be understood: {error}" if isinstance(error, ProtocolError) else error.message
        # After a reboot of the host the agent may need a moment to find its feet; and a signal says nothing against it.
        if self._fruitless < FRUITLESS_SESSIONS or (isinstance(error, FollowEnded) and error.exit_code is None):
            return LinkLost(message, host=self._host.name, phase="follow")
        return AgentError(
            f"{message} ({self._fruitless} times in a row)",
            host=self._host.name,
            phase="follow",
            remedy="Look at what it says; 'python3 agent.pyz version' on the host must work",
        )

    def _shake_hands(self, conversation: Conversation, down_at: float, began_s: float) -> None:
        hello = conversation.hello(self._options.hello_timeout_s)
        with self._lock:
            subscription = self._subscription
            self._followed = conversation if subscription else None
            self._following = False
            if subscription is None:
                self._current = conversation
        resumed = self.mirror.size
        if subscription is not None:
            answers: list[Answer] = []
            conversation.post(self._follow_command(subscription), self._options.silence_s, answers.append)
            deadline = time.monotonic() + self._options.hello_timeout_s
            while not answers:
                if time.monotonic() > deadline:
                    raise LinkLost("no answer to 'follow'", host=self._host.name, phase="follow")
                try:
                    conversation.backlog += conversation.receive(0.5)
                except TimeoutError:
                    continue
            self._check_followed(answers[0])
            if self._was_up:
                self.traffic.reconnected(began_s, self._clock_s(), resumed, int(answers[0].ok.get("committed", 0)))
            with self._lock:
                self._current = conversation
        self._was_up = True
        now = self._clock_s()
        self._up.set()
        self._emit(LinkUp(self.agent, now, self._attempt, now - down_at, resumed, hello))

    def _leave(self, conversation: Conversation, error: Sai3sshError) -> None:
        with self._lock:
            if self._current is conversation:
                self._current = None
                self._up.clear()
        conversation.close()
        conversation.fail(error)

    def _follow_command(self, subscription: Subscription) -> Json:
        return {
            "cmd": "follow",
            "run_id": subscription.run_id,
            "agent_id": subscription.agent_id,
            "epoch": self.mirror.epoch or subscription.epoch,
            "offset": self.mirror.size,
            "controller": subscription.controller,
        }

    def _on_followed(self, answer: Answer) -> None:
        self._following = False
        if not isinstance(answer.error, LinkLost):
            self._check_followed(answer)

    def _check_followed(self, answer: Answer) -> None:
        if answer.error is not None:
            raise answer.error
        epoch, committed = answer.ok.get("epoch"), answer.ok.get("committed", 0)
        if self.mirror.epoch not in (None, epoch) or committed < self.mirror.size:
            raise JournalLost(
                f"the journal has epoch {epoch} and {committed} bytes, the mirror epoch {self.mirror.epoch} and {self.mirror.size} bytes",
                host=self._host.name,
                phase="follow",
                remedy="The journal on the host was truncated or replaced; what was mirrored stays in the run directory",
            )

    def _serve(self, conversation: Conversation) -> None:
        """Until the link breaks (raises Transient), fails for good (raises Permanent) or is stopped."""
        options = self._options
        began = heard = time.monotonic()
        next_ping = began
        for message in conversation.backlog:
            self._handle(message)
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= next_ping:
                conversation.ping(options.silence_s, self._on_pong, renews_lease=self.renews_lease)
                next_ping = now + options.ping_s
            # While the agent looks for a journal it answers nothing else.
            silence_s = max(options.silence_s, options.hello_timeout_s) if self._following else options.silence_s
            try:
                messages = conversation.receive(max(0.01, min(next_ping, heard + silence_s) - now))
                for message in messages:
                    self._handle(message)
            except TimeoutError as error:
                silent_s = time.monotonic() - heard
                if silent_s >= silence_s:
                    raise LinkLost(f"nothing was heard for {silent_s:.1f} s", host=self._host.name, phase="heartbeat") from error
                continue
            except (ProtocolError, FollowEnded, AgentError) as error:
                raise self._no_use(error) from error
            # Now, not when the bytes came: what on_event took is not the link's silence.
            heard = time.monotonic()
            if self._fruitless and heard - began > options.silence_s:
                self._fruitless = 0

    def _on_pong(self, answer: Answer) -> None:
        if answer.error is None:
            self.traffic.round_trip(answer.received_ns - answer.sent_ns)

    def _handle(self, message: Message) -> None:
        if isinstance(message, Data):
            self._fruitless = 0
            records = self.mirror.append(message.offset, message.payload)
            self.traffic.journalled(message.offset, len(message.payload), len(records), self._clock_s())
            if records:
                self._emit(Records(self.agent, self._clock_s(), tuple(records)))
        elif "hb" in message:
            self._fruitless = 0
            self._emit(Heartbeat(self.agent, self._clock_s(), message))
        elif "final" in message and not self._complete:
            final = message["final"]
            self.mirror.verify(int(final["size"]), str(final["sha256"]))
            self._complete = True
            self._emit(JournalComplete(self.agent, self._clock_s(), self.mirror.size, self.mirror.sha256, Outcome(final["outcome"])))
