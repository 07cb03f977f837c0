"""JSON lines over a non-blocking descriptor, both ways, with bounded memory."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List

from sai3ssh.protocol import MAX_LINE, Json, encode_control

OUT_LIMIT = 8 * 1024 * 1024


class Lines:
    """One peer. `read` and `write` are called when the descriptors are ready; both raise EOFError when the peer is gone or does not keep
    to its limits."""

    def __init__(self, in_fd: int, out_fd: int) -> None:
        self.in_fd = in_fd
        self.out_fd = out_fd
        self._in = b""
        self._out = bytearray()
        for fd in {in_fd, out_fd}:
            os.set_blocking(fd, False)

    @property
    def waiting(self) -> int:
        """Bytes that the peer has not taken yet."""
        return len(self._out)

    def read(self) -> List[Json]:
        """The whole lines that have arrived."""
        try:
            data = os.read(self.in_fd, 1 << 18)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError(str(error)) from error
        if not data:
            raise EOFError("closed by the peer")
        *lines, self._in = (self._in + data).split(b"\n")
        if len(self._in) > MAX_LINE:
            raise EOFError(f"line of more than {MAX_LINE} bytes")
        messages: List[Dict[str, Any]] = []
        for line in lines:
            if not line.strip():
                continue
            try:
                message = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise EOFError(f"not JSON: {line[:80]!r}") from error
            if not isinstance(message, dict):
                raise EOFError(f"not a JSON object: {line[:80]!r}")
            messages.append(message)
        return messages

    def send(self, message: Json) -> None:
        """Queues a control line."""
        self.send_bytes(encode_control(message))

    def send_bytes(self, data: bytes) -> None:
        """Queues bytes and writes what goes at once."""
        self._out += data
        if len(self._out) > OUT_LIMIT:
            raise EOFError(f"the peer has not read {len(self._out)} bytes")
        self.write()

    def write(self) -> None:
        """Writes what the peer takes now."""
        while self._out:
            try:
                n = os.write(self.out_fd, memoryview(self._out)[: 1 << 17])
            except BlockingIOError:
                return
            except OSError as error:
                raise EOFError(str(error)) from error
            del self._out[:n]
