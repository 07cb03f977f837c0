"""The host's network: its interface, who listens on its ports, which other hosts it reaches."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any, Dict, List, Set, Tuple

from sai3ssh.agent.preflight.checks import failure, ok, warning, within
from sai3ssh.agent.preflight.request import Peer
from sai3ssh.findings import Finding

CONNECT_S = 3.0
"""Two of the kernel's repetitions of a SYN are within."""
RESOLVE_S = 6.0

_COUNTERS = ("rx_packets", "tx_packets", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped", "rx_missed_errors", "collisions")
_ERRORS = ("rx_errors", "tx_errors")
_DROPS = ("rx_dropped", "tx_dropped", "rx_missed_errors")
_LISTEN = "0A"
_ANY = {"00000000", "0" * 32}

Counters = Dict[str, Dict[str, int]]


def interfaces(proc: str = "/proc", sys: str = "/sys") -> List[str]:
    """The interfaces of default routes; without any route of that kind, all that are up but loopback."""
    found = set()
    for words in _table(f"{proc}/net/route"):
        if words[1:2] == ["00000000"] and words[7:8] == ["00000000"]:
            found.add(words[0])
    for words in _table(f"{proc}/net/ipv6_route"):
        if len(words) == 10 and words[0] == "0" * 32 and words[1] == "00" and words[9] != "lo":
            found.add(words[9])
    if not found:
        names = os.listdir(f"{sys}/class/net")
        found = {name for name in names if name != "lo" and _text(f"{sys}/class/net/{name}/operstate") in ("up", "unknown")}
    return sorted(found)


def read_counters(proc: str = "/proc", sys: str = "/sys") -> Counters:
    """The counters of each interface that traffic leaves by."""
    return {
        name: {counter: _number(f"{sys}/class/net/{name}/statistics/{counter}") for counter in _COUNTERS} for name in interfaces(proc, sys)
    }


def nic(name: str, before: Dict[str, int], after: Dict[str, int], sys: str = "/sys") -> Finding:
    """host.nic: speed, and whether packets get lost in it: now, or too many since it came up."""
    base = f"{sys}/class/net/{name}"
    speed, mtu, duplex = _number(f"{base}/speed"), _number(f"{base}/mtu"), _text(f"{base}/duplex")
    values: Dict[str, Any] = {"interface": name, "speed_mbit_s": speed if speed > 0 else None, "mtu_bytes": mtu, "duplex": duplex or None}
    values.update(after)
    packets = after["rx_packets"] + after["tx_packets"]
    errors, drops = sum(after[c] for c in _ERRORS), sum(after[c] for c in _DROPS)
    told = f"{speed} Mbit/s" if speed > 0 else "speed not told (virtual)"
    found = f"{name}: {told}, MTU {mtu}, {errors} errors and {drops} drops in {packets} packets"
    rising = sum(after[c] - before.get(c, 0) for c in _ERRORS)
    if rising > 0 or (errors > 100 and errors > packets / 100_000):
        return warning(
            found + (f", {rising} errors while looking" if rising > 0 else ""),
            "errors in fewer than 1 of 100,000 packets",
            f"ethtool -S {name}: look at cable, transceiver and switch port",
            **values,
        )
    if drops > 1000 and drops > packets / 1000:
        return warning(
            found,
            "drops of fewer than 1 of 1,000 packets",
            f"ethtool -S {name}; larger rings (ethtool -G), interrupts over all cores (irqbalance)",
            **values,
        )
    if duplex == "half":
        return warning(f"{found}, half duplex", "full duplex", f"ethtool {name}: let both ends negotiate", **values)
    return ok(found, **values)


def listeners(proc: str = "/proc") -> Dict[int, Set[str]]:
    """Port to the addresses, as the kernel writes them, that something listens on."""
    found: Dict[int, Set[str]] = {}
    for table in ("tcp", "tcp6"):
        for words in _table(f"{proc}/net/{table}")[1:]:
            if len(words) > 3 and words[3] == _LISTEN:
                address, _, port = words[1].partition(":")
                found.setdefault(int(port, 16), set()).add(address)
    return found


def port(number: int, heard: Dict[int, Set[str]]) -> Finding:
    """host.ports: whether something listens, so that a closed port is told from a firewall."""
    addresses = heard.get(number, set())
    local = bool(addresses) and all(_is_loopback(address) for address in addresses)
    values = {"port": number, "listening": bool(addresses), "loopback_only": local}
    if not addresses:
        return warning(
            f"nothing listens on port {number}", "a service that listens", f"Start it: `ss -ltn sport = :{number}` shows it then", **values
        )
    if local:
        return warning(
            f"port {number} is listened to on loopback only",
            "a service on an address of the network",
            "Correct its listen address",
            **values,
        )
    return ok(f"something listens on port {number}{'' if addresses & _ANY else ', on some addresses only'}", **values)


def _is_loopback(address: str) -> bool:
    # Words in the byte order of the host: on all that we run on, the first byte of an IPv4 address comes last.
    return address[-2:] == "7F" if len(address) == 8 else address == "0" * 24 + "01000000"


def reach(peer: Peer, timeout_s: float = CONNECT_S) -> Finding:
    """host.reach: a TCP connection to a port of another host."""
    where = f"{peer.address}:{peer.port}"
    values: Dict[str, Any] = {"peer": peer.name, "address": peer.address, "port": peer.port}
    try:
        families = within(RESOLVE_S, lambda: socket.getaddrinfo(peer.address, peer.port, type=socket.SOCK_STREAM))
    except (OSError, TimeoutError) as error:
        return failure(
            f"{peer.address} does not resolve here: {getattr(error, 'strerror', None) or error}",
            "an address",
            "Make the name known on this host (/etc/hosts, /etc/resolv.conf), or give ansible_host as an address",
            **values,
        )
    seconds, problem = connect(families[0][0], families[0][4], timeout_s)
    if problem is None:
        return ok(f"{where} accepts after {seconds * 1e3:.1f} ms", connect_ms=round(seconds * 1e3, 3), **values)
    return failure(f"{where}: {describe_refusal(problem, timeout_s)}", "a TCP connection", remedy_for(problem, peer.port), **values)


def connect(family: int, address: Tuple[Any, ...], timeout_s: float) -> Tuple[float, Any]:
    """How many seconds a connection took to come about, and the OSError that it met instead, or None."""
    began = time.perf_counter()
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(address)
    except OSError as error:
        return time.perf_counter() - began, error
    return time.perf_counter() - began, None


def describe_refusal(error: OSError, timeout_s: float) -> str:
    """Why there was no connection."""
    if isinstance(error, (socket.timeout, TimeoutError)):
        return f"no answer within {timeout_s:g} s"
    return str(error.strerror or error)


def remedy_for(error: OSError, number: int) -> str:
    """Where to look after a connection that failed."""
    if isinstance(error, ConnectionRefusedError):
        return f"The machine is up, but nothing listens on port {number} or a firewall rejects: `ss -ltn` there, then its firewall"
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "Packets vanish: is the machine up (ping), does a firewall or security group drop them, is there a route both ways"
    return "Look at address, netmask and routes of this host: `ip route get ADDRESS`"


def _table(path: str) -> List[List[str]]:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return [line.split() for line in file]
    return []


def _text(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read().strip()
    return ""


def _number(path: str) -> int:
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else 0
