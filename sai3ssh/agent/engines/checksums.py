"""The checksums that S3 stores with objects. Those beyond the standard library need a library on the host."""

from __future__ import annotations

import importlib
import zlib
from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from sai3ssh.agent.engines.response import Failure, header
from sai3ssh.dataset import PIECE, Buffer, Content
from sai3ssh.errors import TargetError

if TYPE_CHECKING:
    from sai3ssh.agent.engines.connection import Connection

_LIBRARIES = {
    "crc32c": (("awscrt.checksums", "crc32c"), ("google_crc32c", "extend")),
    "crc64nvme": (("awscrt.checksums", "crc64nvme"),),
}
"""Modules and their functions, the best first."""

_CHUNK = PIECE - 4096
"""Object bytes of a chunk on the wire; what goes around them stays below 4 KiB."""


class Sum:
    """A checksum being made."""

    def update(self, data: Buffer) -> None:
        """Adds the next bytes."""
        raise NotImplementedError

    def value(self) -> str:
        """The checksum as S3 writes it: base64, the most significant byte first."""
        raise NotImplementedError


class _Crc(Sum):
    def __init__(self, add: Callable[[Buffer, int], int], size: int) -> None:
        self._add, self._size, self._crc = add, size, 0

    def update(self, data: Buffer) -> None:
        self._crc = self._add(data, self._crc)

    def value(self) -> str:
        return b64encode(self._crc.to_bytes(self._size, "big")).decode()


class _Sha256(Sum):
    def __init__(self) -> None:
        self._hash = sha256()

    def update(self, data: Buffer) -> None:
        self._hash.update(data)

    def value(self) -> str:
        return b64encode(self._hash.digest()).decode()


class Checksum:
    """One kind of checksum: crc32, sha256, crc32c or crc64nvme."""

    def __init__(self, name: str) -> None:
        """Raises TargetError when this host has no library for it."""
        self.name = name
        self.header = f"x-amz-checksum-{name}"
        self.new: Callable[[], Sum] = _Sha256
        """A new sum, of no bytes."""
        if name != "sha256":
            add, size = (zlib.crc32 if name == "crc32" else _from_library(name)), 8 if name == "crc64nvme" else 4
            self.new = lambda: _Crc(add, size)
        self.length = len(self.new().value())
        """Of a value, in characters."""

    def of(self, data: Buffer) -> str:
        """The value of bytes that are all there."""
        made = self.new()
        made.update(data)
        return made.value()


def _from_library(name: str) -> Callable[[Buffer, int], int]:
    for module, function in _LIBRARIES[name]:
        try:
            add: Any = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError):
            continue
        if module == "google_crc32c":
            return lambda data, crc: int(add(crc, bytes(data)))
        return lambda data, crc: int(add(bytes(data), crc))
    modules = " or ".join(module.partition(".")[0].replace("_", "-") for module, _ in _LIBRARIES[name])
    raise TargetError(
        f"s3.checksum {name}: this host's Python has no library for it",
        remedy=f"Install {modules} for the Python that runs the agent, or choose crc32 or sha256",
    )


class Trailed(Content):
    """An object as a body in chunks (aws-chunked), the checksum of what went by after the last. It is made once, from its beginning."""

    __slots__ = ("_at", "_checksum", "_index", "_of", "_size", "_sum", "length")

    def __init__(self, content: Content, index: int, size: int, checksum: Checksum) -> None:
        super().__init__(content.seed, "zero")  # its own bytes are never asked for
        self._of, self._index, self._size = content, index, size
        self._checksum, self._sum = checksum, checksum.new()
        self._at = 0
        whole, rest = divmod(size, _CHUNK)
        chunks = whole * _framed(_CHUNK) + (_framed(rest) if rest else 0)
        self.length = chunks + len("0\r\n") + len(checksum.header) + 1 + checksum.length + len("\r\n\r\n")
        """Bytes of the body."""

    def _next(self) -> bytes:
        data = self._of.piece(self._index, self._size, self._at, _CHUNK)
        self._sum.update(data)
        self._at += len(data)
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if self._at < self._size:
            return chunk
        return chunk + f"0\r\n{self._checksum.header}:{self._sum.value()}\r\n\r\n".encode()

    def head(self, index: int, size: int) -> bytes:  # noqa: ARG002
        """The first bytes of the body."""
        return self._next()

    def piece_into(self, buffer: Union[bytearray, memoryview], index: int, size: int, offset: int) -> int:  # noqa: ARG002
        """Writes the next bytes of the body into the buffer; returns how many."""
        chunk = self._next()
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _framed(size: int) -> int:
    return len(f"{size:x}") + size + 4


class Summed(Content):
    """What the bytes of a GET are compared with; those of a whole object also with the checksum in the head of the response, if there is
    one.

    The parts of the object must come in order, from the first.
    """

    __slots__ = ("_checksum", "_connection", "_of", "_sum")

    def __init__(self, content: Content, checksum: Checksum, connection: Connection) -> None:
        super().__init__(content.seed, "zero")
        self._of, self._checksum, self._connection = content, checksum, connection
        self._sum: Optional[Sum] = checksum.new()

    def matches(self, index: int, size: int, offset: int, data: Buffer) -> bool:
        """See Content.matches; raises Failure('verify') when the checksum is another."""
        if not self._of.matches(index, size, offset, data):
            return False
        if self._sum is not None:
            self._sum.update(data)
            if offset + len(data) == size:
                made, self._sum = self._sum.value(), None
                given = header(self._connection.head, self._checksum.header)
                # With a '-' it is a checksum of the checksums of parts.
                if given and "-" not in given and given != made:
                    raise Failure(
                        "verify", f"{self._checksum.header} is {given[:100]}, and {made} for the bytes that were written and came"
                    )
        return True
