"""Partition transforms (Iceberg spec, "Partition Transforms"), read backwards.

Every transform but ``bucket`` keeps the order of values, so a range of partition values tells a range
of the column's: a condition is then judged by that range, as it is by the bounds of a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

from msgspec import Struct

from datashard_core.format.types import types as t

_PARAMETER = re.compile(r"(bucket|truncate)\[(\d{1,10})\]")
_MOST_WIDE = 2**31 - 1
_DAY = 86_400_000_000
_HOUR = 3_600_000_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097  # after so many, the calendar repeats itself
_MAX_CHARACTER = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


class Transform(Struct, frozen=True):
    """A transform with its parameter.

    Attributes:
        name: ``identity``, ``bucket``, ``truncate``, ``year``, ``month``, ``day``, ``hour``, ``void``, or one that
            this library does not know: it prunes nothing.
        width: of ``bucket`` and ``truncate``.
    """

    name: str
    width: int = 0


def parse_transform(text: str) -> Transform:
    """A transform as a partition spec names it."""
    match = _PARAMETER.fullmatch(text)
    if match is None or not 0 < int(match[2]) <= _MOST_WIDE:
        return Transform(text)  # unknown, which prunes nothing
    return Transform(match[1], int(match[2]))


def source_range(transform: Transform, kind: t.IcebergType, low: Any, high: Any) -> tuple[Any, Any] | None:
    """The lowest and the highest value of a column whose partition values lie in [low, high].

    Args:
        transform: what the partition values are made by.
        kind: the column's type.
        low: the lowest partition value, in canonical form; None: not known.
        high: the highest.

    Returns:
        The two in canonical form, None for one that is not known; None if the transform tells no range.
    """
    if transform.name == "identity":
        return low, high
    if transform.name == "truncate" and transform.width > 0:
        return low, _truncated_top(kind, high, transform.width) if high is not None else None
    start = _STARTS.get(transform.name)
    if start is None or not isinstance(kind, t.PrimitiveType) or kind.name not in ("date", "timestamp", "timestamptz"):
        return None
    micros = kind.name != "date"
    if transform.name == "hour" and not micros:
        return None
    # Some writers rounded values before 1970 towards zero instead of down: what they wrote is one too high.
    lower = start(low - 1 if low <= 0 else low, micros) if low is not None else None
    return lower, start(high + 1, micros) - 1 if high is not None else None


def _truncated_top(kind: t.IcebergType, value: Any, width: int) -> Any:
    if isinstance(value, int):
        return value + width - 1
    if isinstance(value, str):
        return value if len(value) < width else _after_prefix(value)
    if isinstance(value, bytes):
        return value if len(value) < width else _after_prefix_bytes(value)
    return None


def _after_prefix(prefix: str) -> str | None:
    """A text that is not below any that begins with the prefix; None if there is none."""
    for last in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[last]) + 1
        if following in _SURROGATES:
            following = _SURROGATES.stop
        if following <= _MAX_CHARACTER:
            return prefix[:last] + chr(following)
    return None


def _after_prefix_bytes(prefix: bytes) -> bytes | None:
    for last in range(len(prefix) - 1, -1, -1):
        if prefix[last] < 0xFF:
            return prefix[:last] + bytes([prefix[last] + 1])
    return None


def _year(number: int, micros: bool) -> int:
    return _day_of(1970 + number, 1, micros)


def _month(number: int, micros: bool) -> int:
    return _day_of(1970 + number // 12, number % 12 + 1, micros)


def _day_of(year: int, month: int, micros: bool) -> int:
    """The first day of a month, also of a year that Python's dates do not have."""
    cycles, rest = divmod(year - 1, _CYCLE_YEARS)
    day = date(rest + 1, month, 1).toordinal() - _EPOCH_DAY + cycles * _CYCLE_DAYS
    return day * _DAY if micros else day


_STARTS: dict[str, Callable[[int, bool], int]] = {
    "year": _year,
    "month": _month,
    "day": lambda number, micros: number * _DAY if micros else number,
    "hour": lambda number, micros: number * _HOUR,
}


def bucket(kind: t.IcebergType, value: Any, buckets: int) -> int | None:
    """The bucket that a canonical value falls into; None for a type that cannot be hashed."""
    if isinstance(value, (bool, float)) or buckets <= 0:
        return None
    if isinstance(value, str):
        data = value.encode()
    elif isinstance(value, bytes):
        data = value
    elif isinstance(kind, t.DecimalType):
        bits = (value if value >= 0 else ~value).bit_length()
        data = value.to_bytes(bits // 8 + 1, "big", signed=True)
    else:
        data = value.to_bytes(8, "little", signed=True)
    return (_murmur3(data) & 0x7FFFFFFF) % buckets


def _murmur3(data: bytes) -> int:
    """MurmurHash3, x86, 32 bits, seed 0: the hash that the spec names."""
    state = 0
    whole = len(data) - len(data) % 4
    for start in range(0, whole, 4):
        state ^= _mixed(int.from_bytes(data[start : start + 4], "little"))
        state = _rotated(state, 13) * 5 + 0xE6546B64 & 0xFFFFFFFF
    if whole < len(data):
        state ^= _mixed(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    state = (state ^ state >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return state ^ state >> 16


def _mixed(block: int) -> int:
    return _rotated(block * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> 32 - by) & 0xFFFFFFFF
