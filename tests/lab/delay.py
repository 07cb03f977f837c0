"""Delays and drops packets that the kernel hands over by NFQUEUE: `delay.py QUEUE DELAY_MS JITTER_MS LOSS` in a network namespace.

For kernels without netem. Prints "ready", and at SIGTERM {"passed": n, "dropped": n}. Messages are those of nfnetlink_queue.h.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator

NETLINK_NETFILTER, SUBSYSTEM = 12, 3 << 8
PACKET, VERDICT, CONFIG = 0, 1, 2
DROP, ACCEPT = 0, 1


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


class Queue:
    """One queue of the kernel's."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.bind((0, 0))
        bind, copy_meta = attribute(1, struct.pack(">BBH", 1, 0, 0)), attribute(2, struct.pack(">IB", 0, 1))
        for body in (bind, copy_meta, attribute(3, struct.pack(">I", 100_000))):
            self._send(CONFIG, body, flags=5)
            error = struct.unpack_from("=i", self.socket.recv(4096), 16)[0]
            if error:
                raise OSError(-error, "NFQUEUE cannot be set up")
        self.socket.setblocking(False)

    def _send(self, kind: int, body: bytes, flags: int = 1) -> None:
        payload = struct.pack(">BBH", 0, 0, self._number) + body
        self.socket.send(struct.pack("=IHHII", 16 + len(payload), SUBSYSTEM | kind, flags, 0, 0) + payload)

    def packets(self) -> Iterator[int]:
        """The ids of the packets that wait."""
        while True:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                return
            at = 0
            while at + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind == SUBSYSTEM | PACKET:
                    inner = at + 20
                    while inner < at + length:
                        size, name = struct.unpack_from("=HH", data, inner)
                        if name == 1:
                            yield struct.unpack_from(">I", data, inner + 4)[0]
                            break
                        inner += (size + 3) & ~3
                at += (length + 3) & ~3

    def verdict(self, packet: int, what: int) -> None:
        """Lets a packet go, or not."""
        self._send(VERDICT, attribute(2, struct.pack(">II", what, packet)))


def main() -> None:
    number, delay_s, jitter_s, loss = int(sys.argv[1]), float(sys.argv[2]) / 1e3, float(sys.argv[3]) / 1e3, float(sys.argv[4])
    queue = Queue(number)
    held: list[tuple[float, int]] = []
    counts = {"passed": 0, "dropped": 0}
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: over.append(number))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    last = 0.0
    while not over:
        wait_s = max(0.0, held[0][0] - time.monotonic()) if held else 0.2
        select.select([queue.socket], [], [], wait_s)
        now = time.monotonic()
        for packet in queue.packets():
            if random.random() < loss:
                counts["dropped"] += 1
                queue.verdict(packet, DROP)
            else:
                # In order: what overtakes would be another fault.
                last = max(last, now + delay_s + (random.expovariate(1 / jitter_s) if jitter_s else 0.0))
                heapq.heappush(held, (last, packet))
        while held and held[0][0] <= time.monotonic():
            counts["passed"] += 1
            queue.verdict(heapq.heappop(held)[1], ACCEPT)
    for _, packet in held:
        queue.verdict(packet, ACCEPT)
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main()
