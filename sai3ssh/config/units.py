"""Durations, sizes and counts as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_SIZE = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", 1):
    _SIZE |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}i": 1024**_power, f"{_letter}ib": 1024**_power}
_DURATION = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST_S = 10 * 366 * 86400.0
# Commas only between thousands: elsewhere they are what some people write for a point, and 1,5m is not 15 minutes.
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(?:\.[0-9]+)?"
_NUMBER = re.compile(rf"\s*({_DIGITS})\s*([A-Za-z]*)\s*\Z")


def _pattern(units: Iterable[str]) -> str:
    """The text of a number with one of the units, in the regular expressions of JSON Schema, which know no flags."""
    names = ("".join(f"[{letter}{letter.upper()}]" for letter in unit) for unit in sorted(units, key=len, reverse=True))
    return rf"\s*{_DIGITS}\s*(?:{'|'.join(names)})\s*"


SIZE_PATTERN, DURATION_PATTERN, COUNT_PATTERN = _pattern(_SIZE), _pattern(_DURATION), _pattern([""])
SHARE_PATTERN = rf"\s*{_DIGITS}\s*%?\s*"


def shown(value: object) -> str:
    """A value as its author wrote it, more or less."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, (str, int, float, list, dict)) else f"'{value}'"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _parse(value: object, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"expected {what} such as {example}, found {shown(value)}")
    match = _NUMBER.match(str(value))
    if match is None or match[2].lower() not in units:
        raise ValueError(f"expected {what} such as {example}, found {shown(value)}")
    found = float(match[1].replace(",", "").replace("_", "")) * units[match[2].lower()]
    if math.isinf(found):
        raise ValueError(f"expected {what} such as {example}, found one without end: {shown(value)}")
    return found


def size(value: object) -> int:
    """Bytes: 4096, '4KiB', '8MB', '1.5GB', '1k', '1Ki'. Raises ValueError."""
    found = _parse(value, _SIZE, "a size", "4096, 64KiB or 8MB")
    if found != math.floor(found):
        raise ValueError(f"expected a whole number of bytes, found {shown(value)}")
    return int(found)


def duration(value: object) -> float:
    """Seconds: 60, '60s', '5m', '2h', '1d', '250ms'. Raises ValueError."""
    found = _parse(value, _DURATION, "a duration", "90, 60s, 5m or 2h")
    if found > LONGEST_S:
        raise ValueError(f"expected a duration of at most 10 years, found {shown(value)}")
    return found


def count(value: object) -> int:
    """A whole number: 1000000, '1,000,000', '1_000_000'. Raises ValueError."""
    found = _parse(value, {"": 1}, "a whole number", "1000000 or 1,000,000")
    if found != math.floor(found):
        raise ValueError(f"expected a whole number, found {shown(value)}")
    return int(found)


def text(value: object) -> str:
    """A scalar as text: yes, 1 and 'a' alike. Raises ValueError."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"expected text, found {shown(value)}")


def path_template(value: object) -> str:
    """A relative prefix that ends in '/', in which {id} may stand for an agent. Raises ValueError."""
    found = str(value).rstrip("/")
    rest = found.replace("{id}", "")
    wrong = not isinstance(value, str) or not rest or rest.startswith("/") or any(part in rest for part in ("://", "{", "}", ".."))
    if wrong and found != "{id}":
        raise ValueError(f"expected a relative path such as agent-{{id}}/, found {shown(value)}")
    return f"{found}/"


def rate(value: object) -> float:
    """Operations per second: 500, '1,000', 0.5, or 'max', which is 0: no limit. Raises ValueError."""
    if value == "max":
        return 0.0
    return _parse(value, {"": 1.0}, "operations per second", "500 or max")


def share(value: object) -> float:
    """A part of a whole, 0 to 1: 0.95, '95%', '99.5 %'. Raises ValueError."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        found = _parse(value.rstrip()[:-1], {"": 1.0}, "a share", "0.95 or 95%") / 100
    else:
        found = _parse(value, {"": 1.0}, "a share", "0.95 or 95%")
    if found > 1:
        raise ValueError(f"expected a share of at most 1 (100%), found {shown(value)}")
    return found


def share_or_bool(value: object) -> float:
    """As share(), or true for all and false for none. Raises ValueError."""
    if isinstance(value, bool):
        return float(value)
    try:
        return share(value)
    except ValueError as error:
        raise ValueError(f"{error}; true is all, false none") from None


def size_text(bytes_: float) -> str:
    """A size for people: 4 KiB, 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if bytes_ < 1024 or unit == "TiB":
            return f"{bytes_:.0f} {unit}" if unit == "B" or bytes_ >= 100 or bytes_ == int(bytes_) else f"{bytes_:.1f} {unit}"
        bytes_ /= 1024
    raise AssertionError("unreachable")


def size_key(bytes_: int) -> int | str:
    """A size as a file would have it: 64MiB, or plain bytes where no unit fits."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if bytes_ and bytes_ % 1024**power == 0:
            return f"{bytes_ // 1024**power}{unit}"
    return bytes_


def size_words(bytes_: int) -> str:
    """A size for messages, exact: 64MiB, 9 bytes."""
    key = size_key(bytes_)
    return f"{key:,} bytes" if isinstance(key, int) else key


def duration_key(seconds: float) -> str:
    """A duration as a file would have it: 10m, 1.5s."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds > length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def figure_key(value: float, unit: str) -> str:
    """A figure of a unit (bytes, s, share or another) as a file would have it."""
    if unit == "bytes":
        return str(size_key(int(value)))
    if unit == "s":
        return duration_key(value)
    return f"{100 * value:g}%" if unit == "share" else f"{value:g}" if isinstance(value, float) else str(value)
