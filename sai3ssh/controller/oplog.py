"""Fetches the op-log of a run that has ended, segment by segment, and goes on at the byte where it was cut off.

The journal and the verdict do not wait for it: it has a connection of its own, after all of them.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import AgentError, LinkLost, Transient, from_dict
from ..model import MIB, Host
from ..oplog import SEGMENT
from ..protocol import Data, FrameDecoder, Json, ProtocolError
from ..retry import RetryPolicy
from ..transport import Channel, Transport, transport_for
from . import install

CONNECT_S = 15.0
SILENCE_S = 30.0
ALTERED = 3
"""A segment that arrives so often with another checksum than its agent says will not arrive well."""
MOST_SEGMENTS = 100_000
KEEP_FREE_BYTES = 256 * MIB
"""What stays free on this machine's disk, for the events and results of the run and for everybody else."""


class OpLogFetch:
    """One agent's op-log, into `directory`: the segments under their own names. `stop` ends it soon, with LinkLost."""

    def __init__(
        self,
        host: Host,
        run_id: str,
        agent_id: str,
        directory: Path,
        bundle: Path,
        *,
        most_bytes: int,
        patience_s: float,
        stop: threading.Event,
        transport: Transport | None = None,
    ) -> None:
        """`most_bytes`: more than that the agent cannot have; `patience_s`: how long it tries again without a new byte."""
        self._host = host
        self._run = [run_id, agent_id]
        self._directory = directory
        self._bundle = bundle
        self._most_bytes = most_bytes
        self._patience_s = patience_s
        self._stop = stop
        self._transport = transport or transport_for(host)
        self._altered = 0

    def run(self) -> list[Path]:
        """All segments, whole. Raises Permanent, or Transient when nothing came for too long."""
        self._directory.mkdir(exist_ok=True)
        while True:
            before = self._bytes()
            try:
                return RetryPolicy(self._patience_s, stop=self._stop).call(self._attempt)
            except Transient:
                if self._stop.is_set() or self._bytes() <= before:
                    raise

    def _bytes(self) -> int:
        return sum(path.stat().st_size for path in self._segments())

    def _segments(self) -> list[Path]:
        return sorted(path for path in self._directory.iterdir() if SEGMENT.fullmatch(path.name))

    def _attempt(self) -> list[Path]:
        connection = self._transport.connect(CONNECT_S)
        try:
            argv = [*install.ensure(connection, self._host, self._bundle).argv, "oplog"]
            nonce = secrets.token_hex(8)
            here = self._segments()
            argv += ["--nonce", nonce, *(["--state", self._host.state_dir] if self._host.state_dir else [])]
            argv += ["--from", here[-1].name, "--offset", str(here[-1].stat().st_size)] if here else []
            channel = connection.exec([*argv, *self._run], CONNECT_S)
            try:
                return self._receive(channel, FrameDecoder(nonce))
            finally:
                channel.close()
        except ProtocolError as error:
            raise LinkLost(f"the op-log arrived altered: {error}", host=self._host.name, phase="op-log") from error
        finally:
            connection.close()

    def _receive(self, channel: Channel, decoder: FrameDecoder) -> list[Path]:
        incoming = _Incoming(self._directory, self._most_bytes)
        try:
            silent_s = 0
            while True:
                if self._stop.is_set():
                    raise LinkLost("left before the op-log was here", host=self._host.name)
                try:
                    data = channel.recv(1.0)
                except TimeoutError:
                    silent_s += 1
                    if silent_s >= SILENCE_S:
                        raise LinkLost(f"nothing came for {SILENCE_S:.0f} s", host=self._host.name, phase="op-log") from None
                    continue
                silent_s = 0
                if not data:
                    said = (decoder.noise() or channel.stderr_tail()).decode("utf-8", "replace").strip()[-300:]
                    raise LinkLost(f"the op-log was cut off{f': {said}' if said else ''}", host=self._host.name, phase="op-log")
                try:
                    for message in decoder.feed(data):
                        if isinstance(message, Data):
                            incoming.take(message)
                        elif "end" in message:
                            return self._all(message["end"])
                        else:
                            self._hear(incoming, message)
                except (TypeError, LookupError, AttributeError) as error:
                    raise ProtocolError(f"a message that no agent sends: {type(error).__name__}: {error}") from error
        finally:
            incoming.close()

    def _hear(self, incoming: _Incoming, message: Json) -> None:
        if "error" in message:
            raise from_dict(message["error"])
        if "segment" in message:
            incoming.begin(message["segment"], message["size"])
        elif "sha256" in message and not incoming.end(message["sha256"]):
            self._altered += 1
            text = "a segment of the op-log is not what its agent has (its SHA-256 differs)"
            kind: Callable[..., AgentError | LinkLost] = AgentError if self._altered >= ALTERED else LinkLost
            raise kind(text, host=self._host.name, phase="op-log")

    def _all(self, count: int) -> list[Path]:
        segments = self._segments()
        if len(segments) != count:
            text = f"{len(segments)} segments of the op-log are here, its agent has {count}"
            raise AgentError(text, host=self._host.name, phase="op-log", remedy=f"Remove {self._directory} and collect it again")
        return segments


class _Incoming:
    """The segment that is being received."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
        self._total = sum(self._sizes.values())
        self._path = directory
        self._file: BinaryIO | None = None
        self._size = 0

    def begin(self, name: str, size: int) -> None:
        """The next data are of that segment, from what is here of it on. Raises AgentError where there is no room for it."""
        if not SEGMENT.fullmatch(name) or size < 0:
            raise ProtocolError(f"{name!r} of {size} bytes is no segment")
        self.close()
        self._total += size - self._sizes.get(name, 0)
        self._sizes[name] = size
        if self._total > self._most_bytes or len(self._sizes) > MOST_SEGMENTS:
            text = f"its agent has more than {self._most_bytes:,} bytes, which is all that the plan lets an op-log have"
            raise AgentError(text, phase="op-log")
        if shutil.disk_usage(self._directory).free < size + KEEP_FREE_BYTES:
            text = f"no room for the op-log: less than {KEEP_FREE_BYTES // MIB} MiB would stay free in {self._directory}"
            raise AgentError(text, phase="op-log", remedy="Make room on this machine")
        self._path, self._size = self._directory / name, size
        self._file = self._path.open("ab")

    def take(self, data: Data) -> None:
        """Appends."""
        if self._file is None or self._file.tell() != data.offset or data.offset + len(data.payload) > self._size:
            raise ProtocolError(f"data of offset {data.offset} that was not expected")
        self._file.write(data.payload)

    def end(self, sha256: str) -> bool:
        """Whether it is whole and right; else it is removed."""
        if self._file is None:
            raise ProtocolError("a checksum of no segment")
        self.close()
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() == sha256:
            return True
        self._path.unlink()
        return False

    def close(self) -> None:
        """What has come stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
