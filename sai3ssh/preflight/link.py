"""The checks of the way from here to one host: name, ping, port, SSH, and what the connection is like."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future

from ..errors import HostKeyError, Sai3sshError, Transient
from ..retry import Backoff, RetryPolicy
from ..transport import SshConnection, SshTransport, auth, ssh, sshconfig
from ..transport.sockets import DEAD_AFTER_S, resolve
from ..transport.sshconfig import Hop
from ..transport.translate import RESOLVE, translate
from .ping import Pinger, Pings, by_tcp
from .report import Notes
from .talk import Talk, talk

STEPS = ("ssh.config", "net.dns", "ssh.port", "ssh.banner", "ssh.host_key", "ssh.auth")
"""Each needs the one before."""
LINE = ("ssh.keepalive", "ssh.round_trip", "ssh.clock", "ssh.throughput")
LOSS_FAILS = 0.1
"""From this loss on TCP, and with it every figure, is a matter of luck: a tenth of the packets makes a 1-ms path one of 200 ms and more."""
MAX_RTT_MS = 500.0
"""Above it agents start together with an error that can be half of it, and three heartbeats of a second are soon late."""
MAX_OFFSET_S = 1.0
MIN_MIB_PER_S = 0.125
"""The agent (some 0.3 MiB) is sent in a few seconds, and journals of 1 KiB/s many times over."""
PORT_S = 3.0
MEASURED_APART = "figures are not touched: each host measures by its own monotonic clock, and starts are timed by measured offsets"


class Way:
    """The way to one host while it is examined. Everything found goes into the notes."""

    def __init__(self, transport: SshTransport, notes: Notes, pinger: Pinger, *, patience_s: float, probes: int) -> None:
        self.transport = transport
        self.hops: tuple[Hop, ...] = ()
        self.talk: Talk | None = None
        self._notes = notes
        self._pinger = pinger
        self._patience_s = patience_s
        self._probes = probes
        self._pings: Future[Pings] | None = None

    def open(self) -> SshConnection | None:
        """A connection, or None when a step on the way failed; then that step alone is a FAILURE."""
        connection, error = None, None
        try:
            self.hops = self.transport.route()
            self._resolve(self.hops[0])
            connection = self._connect()
        except Sai3sshError as caught:
            error = caught
        failed = _step_of(error) if error is not None else None
        if failed == "ssh.port" and self._is_dead(error):
            failed = "net.ping"
        for step in STEPS:
            if step == failed or (failed == "net.ping" and step == "ssh.port"):
                break
            self._passed(step, connection)
        if failed is not None and error is not None:
            self.judge_pings(failed)
            if failed != "net.ping":
                self._failed(failed, error)
            self._notes.leave(("net.ping", *STEPS, *LINE), f"cannot be done: {failed} failed")
        return connection

    # --- the steps -------------------------------------------------------------------------------------------------------------------

    def _resolve(self, first: Hop) -> None:
        try:
            family, address = resolve(first.address, first.port)[0]
        except OSError as error:
            raise translate(error, first.name, f"resolve {first.address}") from error
        self._first = str(address[0])
        if not self._notes.skips("net.ping"):
            self._pings = self._pinger.ping(self._first, family)

    def _connect(self) -> SshConnection:
        deadline = time.monotonic() + self._patience_s
        policy = RetryPolicy(self._patience_s, Backoff(first_s=0.5, max_s=2.0))
        return policy.call(lambda: self.transport.connect(max(1.0, deadline - time.monotonic())))

    def _is_dead(self, error: Sai3sshError | None) -> bool:
        """Whether nothing at all was heard of the first hop: then it is not its sshd that is missing."""
        if error is None or "refused" in error.message.lower() or error.host != self.hops[0].name or self._pings is None:
            return False
        pings = self._pings.result()
        return bool(pings.sent) and not pings.rtts_ms

    def _passed(self, step: str, connection: SshConnection | None) -> None:
        notes, last = self._notes, self.hops[-1]
        via = f" through {', '.join(f'{hop.address} port {hop.port}' for hop in self.hops[:-1])}" if len(self.hops) > 1 else ""
        reached = connection.reached[-1] if connection is not None else None
        match step:
            case "ssh.config":
                notes.ok(step, f"{last.user}@{last.address} port {last.port}{via}")
            case "net.dns":
                name = self.hops[0].address
                notes.ok(step, f"{name} is an address" if name == self._first else f"{name} is {self._first}", subject=self._of_first())
            case "ssh.port":
                notes.ok(step, f"{last.address} port {last.port} accepts connections{via}")
            case "ssh.banner":
                notes.ok(step, reached.banner if reached else "speaks SSH")
            case "ssh.host_key":
                key = reached.host_key if reached else None
                notes.ok(step, f"{key.type} {key.fingerprint()}, as in known_hosts" if key else "as in known_hosts")
            case "ssh.auth":
                notes.ok(step, f"{last.user} with {reached.identity}" if reached else "accepted")

    def _failed(self, step: str, error: Sai3sshError) -> None:
        subject = "" if error.host in (None, self.transport.host.name) else str(error.host).removeprefix(f"{self.transport.host.name} ")
        expected, remedy = _ADVICE[step]
        where = f"{error.phase}: " if step in ("ssh.port", "ssh.banner") else ""
        text = f"{where}{error.message}"
        self._notes.fail(step, text, expected, error.remedy or remedy, subject=subject.strip("()"))

    def _of_first(self) -> str:
        return f"jump host {self.hops[0].address}" if len(self.hops) > 1 else ""

    def judge_pings(self, failed: str | None = None) -> None:
        """net.ping. `failed`: the check that keeps us from a connection. Waits for the last answer, so it comes last."""
        if self._pings is None:
            return
        pings, first = self._pings.result(), self.hops[0]
        filtered = ""
        if not pings.rtts_ms and failed != "net.ping":
            # ICMP is not for this user, or not let through: whoever answers TCP is there.
            filtered = f"; ICMP: {pings.lost} of {pings.sent} lost, so it is filtered" if pings.sent else "; ICMP is not to be had here"
            pings = by_tcp((self._first, first.port), self._probes)
        values = {"how": pings.how, **pings.values()}
        found, subject = f"{pings}{filtered}", self._of_first()
        if failed == "net.ping" or not pings.rtts_ms:
            self._notes.fail(
                "net.ping",
                f"{self._first} does not answer: {pings}, and no answer at TCP port {first.port} within {self._patience_s:.0f} s",
                "an answer",
                "Is the host up, is its address right, is there a route (VPN)? A firewall that drops everything looks the same",
                subject=subject,
                values=values,
            )
        elif pings.loss >= LOSS_FAILS:
            self._notes.fail(
                "net.ping",
                found,
                f"less than {100 * LOSS_FAILS:.0f} % lost",
                "Find where packets are lost (`mtr`, error counters of interfaces and switch ports); --skip net.ping runs all the same",
                subject=subject,
                values=values,
            )
        elif pings.lost:
            self._notes.warn(
                "net.ping",
                found,
                "nothing lost",
                "Links will break now and then and be made good; look for the cause with `mtr`",
                subject=subject,
                values=values,
            )
        else:
            self._notes.ok("net.ping", found, subject=subject, values=values)

    # --- what the connection is like ---------------------------------------------------------------------------------------------------

    def measure(self, connection: SshConnection, heartbeat_s: float | None, *, throughput: bool) -> None:
        """Keepalive, round trip, clock, throughput."""
        if not throughput:
            self._notes.skips("ssh.throughput")
        wanted = [check for check in LINE if (throughput or check != "ssh.throughput") and not self._notes.skips(check)]
        if not wanted:
            return
        try:
            self.talk = talk(connection, self.transport.host.python, throughput="ssh.throughput" in wanted)
        except Transient as error:
            self._notes.leave(wanted, f"cannot be done: {error.message}")
            return
        self._keepalive(self.talk, heartbeat_s)
        self._round_trip(self.talk)
        self._clock(self.talk)
        if self.talk.up_mib_per_s is not None and self.talk.down_mib_per_s is not None:
            self._throughput(self.talk.up_mib_per_s, self.talk.down_mib_per_s)

    def _keepalive(self, said: Talk, heartbeat_s: float | None) -> None:
        last, sshd = self.hops[-1], said.sshd
        ours = f"ours: TCP keepalive, dead after {DEAD_AFTER_S} s" + (f", a heartbeat each {heartbeat_s:g} s" if heartbeat_s else "")
        openssh = f"ssh here: ServerAliveInterval {last.alive_interval_s} x {last.alive_count}"
        theirs = (
            f"sshd there: ClientAliveInterval {sshd.get('clientaliveinterval')} x {sshd.get('clientalivecountmax')}, "
            f"TCPKeepAlive {sshd.get('tcpkeepalive')}"
            if sshd
            else "sshd there: unknown, only root may ask it"
        )
        values = {"server_alive_interval_s": last.alive_interval_s, "server_alive_count": last.alive_count, "sshd": sshd or None}
        self._notes.ok("ssh.keepalive", f"{ours}; {openssh}; {theirs}", values=values)

    def _round_trip(self, said: Talk) -> None:
        rtt_ms = said.rtt_ms
        values = {"min_ms": round(min(said.rtts_ms), 3), "median_ms": round(rtt_ms, 3), "max_ms": round(max(said.rtts_ms), 3)}
        found = f"min/median/max {min(said.rtts_ms):.3g}/{rtt_ms:.3g}/{max(said.rtts_ms):.3g} ms over SSH"
        if rtt_ms > MAX_RTT_MS:
            remedy = (
                "Starts will be less exact and links may count as silent: raise distributed.heartbeat_interval, or steer from nearer by"
            )
            self._notes.warn("ssh.round_trip", found, f"at most {MAX_RTT_MS:.0f} ms", remedy, values=values)
        else:
            self._notes.ok("ssh.round_trip", found, values=values)

    def _clock(self, said: Talk) -> None:
        assert said.offset is not None
        offset_s, error_s = said.offset.offset_ns / 1e9, said.offset.error_ns / 1e9
        values = {"offset_s": round(offset_s, 6), "error_s": round(error_s, 6)}
        bound = f"+- {1000 * error_s:.3g} ms"
        if abs(offset_s) > MAX_OFFSET_S:
            self._notes.warn(
                "ssh.clock",
                f"the host's clock is {abs(offset_s):.3f} s {'ahead of' if offset_s > 0 else 'behind'} this machine's ({bound})",
                f"at most {MAX_OFFSET_S:.0f} s",
                f"Synchronise both (chrony): times in logs will not match, and S3 refuses from 15 minutes on; {MEASURED_APART}",
                values=values,
            )
        else:
            self._notes.ok("ssh.clock", f"{1000 * offset_s:+.3g} ms ({bound})", values=values)

    def _throughput(self, up: float, down: float) -> None:
        values = {"up_mib_per_s": round(up, 2), "down_mib_per_s": round(down, 2)}
        found = f"{up:.3g} MiB/s to the host, {down:.3g} MiB/s back"
        if min(up, down) < MIN_MIB_PER_S:
            remedy = "The run works, but uploads and the journals of a reconnect take long; look for a slow or shaped line"
            self._notes.warn("ssh.throughput", found, f"at least {MIN_MIB_PER_S} MiB/s", remedy, values=values)
        else:
            self._notes.ok("ssh.throughput", found, values=values)

    # --- ports that the user named --------------------------------------------------------------------------------------------------------

    def ports(self, ports: Sequence[int], listening: dict[int, bool]) -> None:
        """net.ports. `listening`: what the host itself says of them, where it was asked."""
        if len(self.hops) > 1:
            if ports:
                self._notes.leave(("net.ports",), f"behind the jump host {self.hops[0].address}: --matrix asks the other hosts instead")
            return
        for port in ports:
            began = time.monotonic()
            try:
                socket.create_connection((self.hops[-1].address, port), PORT_S).close()
            except OSError as error:
                silent = isinstance(error, TimeoutError)
                cause = f"no answer within {PORT_S:.0f} s" if silent else error.strerror or str(error)
                if listening.get(port):
                    cause += ", although something listens there"
                    remedy = "A firewall is in between: open the port for this machine, on the host and on the way"
                else:
                    remedy = "Start the service, or open the port in the host's firewall" if silent else "Start the service on that host"
                self._notes.fail("net.ports", cause, "a TCP connection", remedy, subject=f"port {port}")
            else:
                ms = 1000 * (time.monotonic() - began)
                self._notes.ok("net.ports", f"accepts connections ({ms:.3g} ms)", subject=f"port {port}")


_ADVICE = {
    "ssh.config": ("a configuration that ssh and sai3ssh understand", "`ssh -G HOST` shows what ssh makes of it"),
    "net.dns": ("a name that resolves", "Check the host's name and ansible_host in the inventory; `getent hosts NAME`"),
    "ssh.port": (
        "an sshd that accepts connections",
        "Is sshd running there, is ansible_port right, does a firewall let this machine through?",
    ),
    "ssh.banner": (
        "an SSH server that says hello and agrees on algorithms",
        "Something else may listen there, or sshd drops connections (MaxStartups, hosts.deny, an overloaded host); its log says why",
    ),
    "ssh.host_key": ("the key that known_hosts has", "Compare fingerprints"),
    "ssh.auth": ("a login with a key alone", "`ssh -v` shows the same; sshd's log on the host says why"),
}
"""Step to what is expected and what to do, where the error itself does not say."""


def _step_of(error: Sai3sshError) -> str:
    phase = error.phase or ""
    if isinstance(error, HostKeyError):
        return "ssh.host_key"
    if phase == RESOLVE:
        return "net.dns"
    if phase == sshconfig.PHASE:
        return "ssh.config"
    if phase == auth.PHASE:
        return "ssh.auth"
    return "ssh.banner" if phase.startswith(ssh.HANDSHAKE) else "ssh.port"
