"""The bytes of an object as a file, for libraries that read what they send."""

from __future__ import annotations

import io
from typing import Any

from sai3ssh.dataset import Content


class ContentReader(io.RawIOBase):
    """The bytes of an object as a file that can be read and rewound."""

    def __init__(self, content: Content, index: int, size: int) -> None:
        super().__init__()
        self._content = content
        self._index = index
        self._size = size
        self._offset = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves as files do."""
        self._offset = offset + (0, self._offset, self._size)[whence]
        return self._offset

    def tell(self) -> int:
        """The position."""
        return self._offset

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer from the position, by at most a piece."""
        piece = self._content.piece(self._index, self._size, self._offset, len(buffer))
        buffer[: len(piece)] = piece
        self._offset += len(piece)
        return len(piece)
