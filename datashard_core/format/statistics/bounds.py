"""Bounds of columns in Iceberg's binary form (spec, Appendix D, "Binary single-value serialization").

Every reader prunes by these bounds, so one that is too tight loses rows in all of them: an upper
bound that is cut short is rounded up, NaN is in no bound, and zero is -0.0 below and 0.0 above.
"""

from __future__ import annotations

import struct
from typing import Any

from datashard_core.format.types import types as t

TRUNCATE = 16
"""Characters of a string, or bytes of a binary, that a bound keeps: Iceberg's default."""

_MAX_CHARACTER = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)
PACKED = {
    "boolean": "<?",
    "int": "<i",
    "long": "<q",
    "float": "<f",
    "double": "<d",
    "date": "<i",
    "time": "<q",
    "timestamp": "<q",
    "timestamptz": "<q",
}
"""How values of fixed width are packed (spec, "Binary single-value serialization")."""


def lower_bound(kind: t.IcebergType, lowest: Any) -> bytes:
    """The lower bound for a column's lowest value.

    Args:
        kind: the column's type.
        lowest: the value: bool, int (dates and times as days or microseconds), float, str, bytes
            (uuid, fixed and binary), or the unscaled int of a decimal.
    """
    if kind == t.PrimitiveType("string"):
        return str(lowest)[:TRUNCATE].encode()
    if isinstance(kind, t.FixedType) or kind == t.PrimitiveType("binary"):
        return bytes(lowest[:TRUNCATE])
    if isinstance(lowest, float) and lowest == 0.0:
        lowest = -0.0
    return _whole(kind, lowest)


def upper_bound(kind: t.IcebergType, highest: Any) -> bytes | None:
    """The upper bound for a column's highest value; None where none can be told in so few bytes."""
    if kind == t.PrimitiveType("string"):
        text = _text_above(str(highest))
        return None if text is None else text.encode()
    if isinstance(kind, t.FixedType) or kind == t.PrimitiveType("binary"):
        return _bytes_above(bytes(highest))
    if isinstance(highest, float) and highest == 0.0:
        highest = 0.0
    return _whole(kind, highest)


def _whole(kind: t.IcebergType, value: Any) -> bytes:
    if isinstance(kind, t.DecimalType):
        return int(value).to_bytes(max(1, (_bits(value) + 8) // 8), "big", signed=True)
    if isinstance(value, bytes):
        return value
    return struct.pack(PACKED[str(kind)], value)


def _bits(value: int) -> int:
    """Bits of a two's complement number without its sign bit."""
    return (value if value >= 0 else ~value).bit_length()


def _text_above(text: str) -> str | None:
    """The shortest text of at most so many characters that is not below the given one."""
    if len(text) <= TRUNCATE:
        return text
    for last in range(TRUNCATE - 1, -1, -1):
        following = ord(text[last]) + 1
        if following in _SURROGATES:
            following = _SURROGATES.stop
        if following <= _MAX_CHARACTER:
            return text[:last] + chr(following)
    return None


def _bytes_above(data: bytes) -> bytes | None:
    if len(data) <= TRUNCATE:
        return data
    for last in range(TRUNCATE - 1, -1, -1):
        if data[last] < 0xFF:
            return data[:last] + bytes([data[last] + 1])
    return None
