"""Reading the end of a journal that another process writes, or wrote."""

from __future__ import annotations

import os
from typing import Optional

from sai3ssh.protocol import ProtocolError, Record, decode_record

_STEP = 64 * 1024


def last_record(path: str) -> Optional[Record]:
    """The last record if the file ends with a whole one, else None."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = size
            data = b""
            while start > 0 and b"\n" not in data[:-1]:
                start = max(0, start - _STEP)
                file.seek(start)
                data = file.read(size - start)
    except FileNotFoundError:
        return None
    if not data.endswith(b"\n"):
        return None
    line = data[data.rfind(b"\n", 0, -1) + 1 :]
    try:
        return decode_record(line)
    except (ProtocolError, ValueError):
        return None
