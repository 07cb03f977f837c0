"""Texts of hosts and storage on a terminal: what they say, and nothing that a terminal obeys."""

from __future__ import annotations

import re

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, those that reorder lines, and halves of characters, which cannot be written at all."""


def plain(text: str) -> str:
    r"""The text with \u001b for an escape character, and so on: as JSON has them, so that JSON stays what it is."""
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
