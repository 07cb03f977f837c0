"""The link against a fake agent: another implementation of the same protocol, as a real process that is really killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from sai3ssh.agent import follow, supervisor
from sai3ssh.controller.clock import clock_ns
from sai3ssh.controller.events import Event, Heartbeat, JournalComplete, LinkDown, LinkFailed, LinkGivenUp, LinkUp, Records
from sai3ssh.controller.link import Link, LinkOptions, Subscription
from sai3ssh.controller.mirror import Mirror
from sai3ssh.errors import AgentError, HostKeyError, JournalLost, LinkLost, Permanent, TargetError, Transient, VersionMismatch
from sai3ssh.model import Host, Outcome
from sai3ssh.protocol import encode_record
from sai3ssh.retry import Backoff
from sai3ssh.transport import Connection, transport_for

E = TypeVar("E", bound=Event)

FAKE = Path(__file__).with_name("fake_follow.py")
TIMEOUT_S = 20.0
QUICK = LinkOptions(
    heartbeat_s=0.2, silence_floor_s=0.6, first_connect_timeout_s=5, reconnect_timeout_s=20, backoff=Backoff(first_s=0.01, max_s=0.05)
)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


class FakeHost:
    """The directory that the fake agent serves, and the link to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.journal = b""
        self.seq = 0
        self.events: list[Event] = []
        self.host = Host(name="a1", address="localhost", connection="local", state_dir=str(directory))
        self.mirror = Mirror(directory.parent / "mirror" / "journal.ndjson")
        self.link: Link | None = None
        self.write("epoch", epoch="e1")

    def write(self, kind: str, **fields: object) -> None:
        """Appends one record, with a torn tail above the committed offset for a moment, as a real writer makes it."""
        line = encode_record({"seq": self.seq, "kind": kind, **fields})
        self.seq += 1
        with (self.directory / "journal.ndjson").open("ab") as file:
            file.write(line[:10])
            file.flush()
            file.write(line[10:])
        self.journal += line
        temporary = self.directory / "committed.tmp"
        temporary.write_text(str(len(self.journal)))
        temporary.rename(self.directory / "committed")

    def finish(self) -> None:
        self.write("final", outcome="finished")
        final = {"size": len(self.journal), "sha256": hashlib.sha256(self.journal).hexdigest(), "outcome": "finished"}
        (self.directory / "final.tmp").write_text(json.dumps(final))
        (self.directory / "final.tmp").rename(self.directory / "final")

    def connect(self, options: LinkOptions = QUICK, **changes: object) -> Link:
        arguments: dict[str, object] = {"bundle": FAKE, "subscription": Subscription("r", "a1"), "options": options, **changes}
        self.link = Link(self.host, self.mirror, self.events.append, **arguments)  # type: ignore[arg-type]
        self.link.start()
        return self.link

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[E], number: int = 1) -> E:
        wait_until(lambda: len(self.of(kind)) >= number, f"{number} {kind.__name__} in {self.events[-5:]}")
        return self.of(kind)[number - 1]

    def pids(self) -> list[int]:
        path = self.directory / "pids"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids()[-1], number)

    def seen(self) -> list[int]:
        return [record["seq"] for event in self.of(Records) for record in event.records]

    def offsets(self) -> list[int]:
        return [int(line) for line in (self.directory / "offsets").read_text().splitlines()]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeHost]:
    fake = FakeHost(tmp_path / "host")
    yield fake
    if fake.link is not None:
        assert fake.link.stop()
    fake.mirror.close()
    for pid in fake.pids():
        assert not Path(f"/proc/{pid}").exists(), "follow outlived its link"


def test_a_whole_journal(fake: FakeHost) -> None:
    for _ in range(300):
        fake.write("sec", pad="x" * 50)
    fake.finish()
    fake.connect()
    done = fake.wait_for(JournalComplete)
    assert (done.size, done.outcome) == (len(fake.journal), Outcome.FINISHED)
    assert fake.mirror.path.read_bytes() == fake.journal
    assert fake.seen() == list(range(302))
    assert fake.mirror.epoch == "e1"
    up = fake.wait_for(LinkUp)
    assert (up.attempt, up.resumed_offset, up.boot) == (1, 0, "boot-1")
    assert fake.events[0] is up, "nothing is reported before the link is up"
    assert fake.wait_for(Heartbeat).body["state"] == "RUNNING"


@pytest.mark.parametrize("seed", range(3))
def test_cuts_at_random_moments_lose_and_double_nothing(fake: FakeHost, seed: int) -> None:
    rng = random.Random(seed)
    writing = threading.Event()

    def grow() -> None:
        while not writing.is_set():
            for _ in range(rng.randrange(1, 30)):
                fake.write("sec", pad="x" * 100)
            time.sleep(0.002)
        fake.finish()

    link = fake.connect()
    fake.wait_for(LinkUp)
    writer = threading.Thread(target=grow)
    writer.start()
    cuts = 25
    for cut in range(1, cuts + 1):
        time.sleep(rng.random() * 0.1)
        fake.signal(signal.SIGKILL)
        fake.wait_for(LinkDown, cut)
        assert fake.journal.startswith(fake.mirror.path.read_bytes())
        fake.wait_for(LinkUp, cut + 1)
    writing.set()
    writer.join()
    fake.wait_for(JournalComplete)
    assert link.stop()
    assert fake.mirror.path.read_bytes() == fake.journal
    assert fake.seen() == list(range(fake.seq)), "each record exactly once, in order"
    assert len(fake.of(LinkDown)) == cuts
    assert not fake.of(LinkFailed)
    assert fake.offsets() == sorted(fake.offsets())
    assert [up.resumed_offset for up in fake.of(LinkUp)] == fake.offsets(), "resumed where the mirror ended, not from the start"
    assert fake.offsets()[-1] > 0


def test_kills_in_the_middle_of_connecting_do_no_harm_either(fake: FakeHost) -> None:
    rng = random.Random(4)
    fake.connect()
    fake.wait_for(LinkUp)
    for _ in range(60):
        for _ in range(rng.randrange(20)):
            fake.write("sec", pad="x" * 100)
        if rng.random() < 0.5:
            # The moment that a new one has begun: before it has said anything.
            before = len(fake.pids())
            fake.signal(signal.SIGKILL)
            wait_until(lambda before=before: len(fake.pids()) > before, "the next one starts")
        else:
            time.sleep(rng.random() * 0.06)
        fake.signal(signal.SIGKILL)
    fake.finish()
    fake.wait_for(JournalComplete)
    assert len(fake.pids()) > len(fake.of(LinkUp)), "some were killed before they were of use"
    assert fake.mirror.path.read_bytes() == fake.journal
    assert fake.seen() == list(range(fake.seq))


def test_a_controller_that_starts_again_resumes_from_the_mirror(fake: FakeHost) -> None:
    for _ in range(100):
        fake.write("sec")
    fake.connect().wait_up(TIMEOUT_S)
    wait_until(lambda: fake.mirror.size == len(fake.journal), "mirror catches up")
    assert fake.link is not None
    assert fake.link.stop()
    fake.mirror.close()
    before = len(fake.journal)
    with fake.mirror.path.open("ab") as file:
        file.write(b'{"seq":101,"kind":"torn')
    fake.events.clear()
    for _ in range(50):
        fake.write("sec")
    fake.finish()
    fake.mirror = Mirror(fake.mirror.path)
    fake.connect()
    fake.wait_for(JournalComplete)
    assert fake.wait_for(LinkUp).resumed_offset == before
    assert fake.seen() == list(range(101, 152))
    assert fake.mirror.path.read_bytes() == fake.journal


def test_a_silent_agent_is_noticed_by_the_deadline(fake: FakeHost) -> None:
    fake.connect()
    fake.wait_for(Heartbeat)
    frozen = fake.pids()[-1]
    began = time.monotonic()
    fake.signal(signal.SIGSTOP)
    down = fake.wait_for(LinkDown)
    took = time.monotonic() - began
    assert 0.5 <= took < 10, "three heartbeats of 0.2 s"
    assert "nothing was heard" in str(down.cause)
    fake.wait_for(LinkUp, 2)
    assert not Path(f"/proc/{frozen}").exists(), "the frozen one was ended"


def test_a_slow_listener_is_not_taken_for_a_silent_agent(fake: FakeHost) -> None:
    slow: list[Event] = []

    def on_event(event: Event) -> None:
        slow.append(event)
        if isinstance(event, Heartbeat) and len(slow) < 6:
            time.sleep(1.0)

    link = Link(fake.host, fake.mirror, on_event, bundle=FAKE, subscription=Subscription("r", "a1"), options=QUICK)
    fake.link = link
    link.start()
    wait_until(lambda: len(slow) > 15, "events go on")
    assert not [event for event in slow if isinstance(event, LinkDown)]


def test_another_epoch_is_permanent(fake: FakeHost) -> None:
    fake.write("sec")
    fake.connect()
    wait_until(lambda: fake.mirror.size == len(fake.journal), "mirror catches up")
    replaced = fake.journal.replace(b'"e1"', b'"e2"')
    (fake.directory / "journal.ndjson").write_bytes(replaced)
    fake.signal(signal.SIGKILL)
    failed = fake.wait_for(LinkFailed)
    assert isinstance(failed.error, JournalLost)
    assert "e2" in str(failed.error)
    pids = len(fake.pids())
    time.sleep(0.3)
    assert len(fake.pids()) == pids, "never answered by a loop"
    assert fake.mirror.path.read_bytes() == fake.journal, "what was mirrored stays"


def test_a_journal_that_became_shorter_is_permanent(fake: FakeHost) -> None:
    fake.write("sec")
    fake.connect()
    wait_until(lambda: fake.mirror.size == len(fake.journal), "mirror catches up")
    (fake.directory / "committed").write_text("20")
    fake.signal(signal.SIGKILL)
    assert isinstance(fake.wait_for(LinkFailed).error, JournalLost)


@pytest.mark.parametrize(
    ("mode", "error", "text"),
    [
        ("exit", AgentError, "no such module"),
        ("refuse", VersionMismatch, "another version is in charge"),
        ("protocol", VersionMismatch, "protocol 99, expected 2"),
        ("garbage", AgentError, "cannot be understood"),
        ("gap", JournalLost, "offset 1"),
    ],
)
def test_an_agent_that_is_no_use_is_an_error_and_not_a_loop(fake: FakeHost, mode: str, error: type[Permanent], text: str) -> None:
    (fake.directory / "mode").write_text(mode)
    link = fake.connect()
    failed = fake.wait_for(LinkFailed)
    assert isinstance(failed.error, error)
    assert text in str(failed.error)
    assert "a1" in str(failed.error)
    assert not link.is_up
    assert len(fake.pids()) <= 3


def test_a_journal_that_differs_at_the_end_is_permanent(fake: FakeHost) -> None:
    fake.finish()
    final = json.loads((fake.directory / "final").read_text())
    (fake.directory / "final").write_text(json.dumps({**final, "sha256": "0" * 64}))
    fake.connect()
    assert isinstance(fake.wait_for(LinkFailed).error, JournalLost)
    assert not fake.of(JournalComplete)


def test_an_agent_that_says_nothing_is_given_up_in_time(fake: FakeHost) -> None:
    (fake.directory / "mode").write_text("mute")
    fake.connect(LinkOptions(first_connect_timeout_s=1.0, hello_timeout_s=0.5, backoff=QUICK.backoff))
    given_up = fake.wait_for(LinkGivenUp)
    assert 0.9 < given_up.down_s < 3
    assert "no hello within" in str(given_up.cause)
    assert given_up.attempt >= 2


def test_a_link_that_is_up_has_seen_the_clock_of_its_host(fake: FakeHost) -> None:
    """A claim that is made at once says when it was made."""
    (fake.directory / "mode").write_text("no_pong")
    fake.write("sec")
    link = fake.connect()
    fake.wait_for(LinkUp)
    assert link.seen == {"clock_ns": 0, "boot": "boot-1"}


# --- commands -----------------------------------------------------------------------------------------------------------------------------


def test_requests_from_many_threads_get_their_own_answers(fake: FakeHost) -> None:
    link = fake.connect()
    assert link.wait_up(TIMEOUT_S)
    wrong: list[object] = []

    def ask(number: int) -> None:
        for turn in range(50):
            text = f"{number}-{turn}"
            said = link.request({"cmd": "echo", "text": text}, TIMEOUT_S)["said"]
            if said != text:
                wrong.append((text, said))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_the_agents_error_comes_as_what_it_is(fake: FakeHost) -> None:
    link = fake.connect()
    assert link.wait_up(TIMEOUT_S)
    with pytest.raises(TargetError, match="bucket is gone") as caught:
        link.request({"cmd": "fail"}, TIMEOUT_S)
    assert caught.value.host == "a1"
    assert caught.value.remedy == "make it"
    with pytest.raises(Transient, match="no answer to 'ignore' within"):
        link.request({"cmd": "ignore"}, 0.2)


def test_a_request_that_the_link_breaks_under_is_link_lost_at_once(fake: FakeHost) -> None:
    link = fake.connect()
    assert link.wait_up(TIMEOUT_S)
    began = time.monotonic()
    with pytest.raises(LinkLost):
        link.request({"cmd": "die"}, TIMEOUT_S)
    assert time.monotonic() - began < 10
    fake.wait_for(LinkUp, 2)
    assert link.request({"cmd": "echo", "text": "again"}, TIMEOUT_S) == {"said": "again"}


def test_many_waiters_cause_one_reconnect(fake: FakeHost) -> None:
    link = fake.connect()
    assert link.wait_up(TIMEOUT_S)
    lost: list[str] = []

    def ask() -> None:
        try:
            link.request({"cmd": "ignore"}, TIMEOUT_S)
        except LinkLost as error:
            lost.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    fake.signal(signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    assert len(lost) == 20
    fake.wait_for(LinkUp, 2)
    time.sleep(0.3)
    assert len(fake.pids()) == 2


def test_a_subscription_that_comes_later(fake: FakeHost) -> None:
    fake.finish()
    link = fake.connect(subscription=None)
    assert link.wait_up(TIMEOUT_S)
    assert not fake.of(Records)
    link.subscribe(Subscription("r", "a1", "e1"))
    fake.wait_for(JournalComplete)
    assert fake.offsets() == [0]


def test_a_subscription_made_while_the_link_is_down_is_followed_once(fake: FakeHost) -> None:
    fake.finish()
    link = fake.connect(subscription=None)
    assert link.wait_up(TIMEOUT_S)
    fake.signal(signal.SIGKILL)
    fake.wait_for(LinkDown)
    link.subscribe(Subscription("r", "a1", "e1"))
    fake.wait_for(JournalComplete)
    time.sleep(0.2)
    assert len(fake.offsets()) == 1


def test_the_clock_of_the_host(fake: FakeHost) -> None:
    link = fake.connect()
    assert link.wait_up(TIMEOUT_S)
    before = clock_ns()
    offset = link.measure_clock()
    assert abs(offset.offset_ns - 10**12) <= offset.error_ns
    assert offset.error_ns < 50_000_000
    assert offset.boot == "boot-1"
    assert offset.at_ns >= before


# --- connecting ---------------------------------------------------------------------------------------------------------------------------


class Scripted:
    """A transport that fails as told before it hands over to the local one."""

    def __init__(self, host: Host, errors: list[Exception]) -> None:
        self.host = host
        self.errors = errors
        self.answers = threading.Event()
        self.answers.set()
        self.connects = 0
        self._inner = transport_for(host)

    def connect(self, deadline_s: float) -> Connection:
        self.connects += 1
        if self.errors:
            raise self.errors.pop(0)
        return self._inner.connect(deadline_s)

    def probe(self, stop: threading.Event, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not stop.is_set() and time.monotonic() < end:
            if self.answers.wait(0.01):
                return True
        return False


def test_transient_errors_are_retried_and_permanent_ones_never(fake: FakeHost) -> None:
    transport = Scripted(fake.host, [Transient("refused"), Transient("reset")])
    fake.connect(transport=transport)
    assert fake.wait_for(LinkUp).attempt == 3
    assert fake.link is not None
    assert fake.link.stop()
    fake.events.clear()
    transport = Scripted(fake.host, [HostKeyError("changed")])
    fake.connect(transport=transport)
    assert isinstance(fake.wait_for(LinkFailed).error, HostKeyError)
    time.sleep(0.2)
    assert transport.connects == 1


def test_the_probe_gates_reconnecting(fake: FakeHost) -> None:
    transport = Scripted(fake.host, [])
    fake.connect(transport=transport)
    fake.wait_for(LinkUp)
    transport.answers.clear()
    fake.signal(signal.SIGKILL)
    fake.wait_for(LinkDown)
    time.sleep(0.3)
    assert transport.connects == 1, "a host that does not answer is probed, not connected to"
    transport.answers.set()
    began = time.monotonic()
    up = fake.wait_for(LinkUp, 2)
    assert time.monotonic() - began < 10
    assert up.attempt == 1
    assert up.down_s >= 0.3


def test_a_host_that_stays_away_is_given_up_and_says_why(fake: FakeHost) -> None:
    transport = Scripted(fake.host, [])
    fake.connect(LinkOptions(heartbeat_s=0.2, reconnect_timeout_s=0.5), transport=transport)
    fake.wait_for(LinkUp)
    transport.answers.clear()
    fake.signal(signal.SIGKILL)
    given_up = fake.wait_for(LinkGivenUp)
    assert 0.4 < given_up.down_s < 10
    assert "accepts no TCP connection" in str(given_up.cause)


def test_a_name_that_vanished_is_awaited_once_the_link_was_up(fake: FakeHost) -> None:
    transport = Scripted(fake.host, [])
    fake.connect(transport=transport)
    fake.wait_for(LinkUp)
    transport.errors = [Permanent("the name cannot be resolved", phase="resolve")]
    fake.signal(signal.SIGKILL)
    assert fake.wait_for(LinkUp, 2).attempt == 2


def test_stop_ends_a_link_that_waits_for_its_host(fake: FakeHost) -> None:
    transport = Scripted(fake.host, [Transient("refused")])
    transport.answers.clear()
    link = fake.connect(LinkOptions(reconnect_timeout_s=math.inf, first_connect_timeout_s=math.inf), transport=transport)
    wait_until(lambda: transport.connects == 1, "first attempt")
    began = time.monotonic()
    assert link.stop()
    assert time.monotonic() - began < 10
    assert not fake.events
    with pytest.raises(LinkLost):
        link.request({"cmd": "ping"}, 1)


def test_stop_from_the_links_own_thread(fake: FakeHost) -> None:
    ended = threading.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, LinkUp):
            link.stop()
            ended.set()

    link = Link(fake.host, fake.mirror, on_event, bundle=FAKE, options=QUICK)
    fake.link = link
    link.start()
    assert ended.wait(TIMEOUT_S)
    assert link.stop()


@pytest.mark.parametrize("heartbeat_s", [0.1, 60.0])
def test_pings_keep_a_window_open_whatever_the_heartbeat(heartbeat_s: float) -> None:
    options = LinkOptions(heartbeat_s=heartbeat_s)
    assert options.ping_s <= heartbeat_s
    assert options.ping_s <= follow.SILENCE_S / 3
    assert options.ping_s <= supervisor.CLAIM_NS / 1e9 / 2
    assert options.ping_s <= supervisor.SILENT_S / 2
