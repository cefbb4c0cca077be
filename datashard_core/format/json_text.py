"""JSON and numbers out of files that anybody may have written: bounded before anything is built on them.

A table's folder is writable by every engine that uses the table, so what is read there may be damaged or made
to do harm. Each limit is far above what a working table has, and the error names it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from datashard_core.errors import CorruptTableError

MAX_BYTES = 512 * 2**20
"""Bytes of one JSON file. A table that nobody ever maintained has 1,500 bytes for each snapshot: 110 MB for 70,000."""

MAX_VALUES = 8 * 2**20
"""Commas and opening brackets in one JSON file. Each stands for a value, which takes some hundred bytes in memory, and
two bytes of text are enough for one. A snapshot has thirty of them."""

MAX_DEPTH = 200
"""Objects and arrays within each other. A schema of :data:`~datashard_core.format.types.types.MAX_DEPTH` nested types
has two for each of them."""

MAX_NUMBER = 2**63 - 1
"""Iceberg's longs, the widest numbers that metadata has."""

_MAX_DIGITS = 19


def decode_object(data: bytes, where: str) -> dict[str, Any]:
    """Decode a file that holds a JSON object.

    Of a key that is there twice the last value counts, as in every reader of Iceberg.

    Args:
        data: its bytes.
        where: its URI, for messages.

    Raises:
        CorruptTableError: it is no JSON object, or beyond a limit.
    """
    if len(data) > MAX_BYTES:
        raise CorruptTableError(
            f"{where} has {len(data)} bytes, and no more than {MAX_BYTES} are read as JSON: expire snapshots and "
            "remove old schemas with the engine that wrote it, or restore it"
        )
    if len(data) > MAX_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise CorruptTableError(
            f"{where} has {len(data)} bytes, and more than {MAX_VALUES} values in them: expire snapshots with the "
            "engine that wrote it, or restore it"
        )
    try:
        raw = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise CorruptTableError(f"{where} is not JSON ({error}): restore it") from error
    if not isinstance(raw, dict):
        raise CorruptTableError(f"{where} holds {type(raw).__name__}, not a JSON object: restore it")
    if is_too_deep(raw):
        raise CorruptTableError(
            f"{where} has objects and arrays within each other, more than {MAX_DEPTH} levels of them: restore it"
        )
    return raw


def is_too_deep(raw: Any, most: int = MAX_DEPTH) -> bool:
    """Whether a decoded value has more levels of objects and arrays than ``most``."""
    level = [raw] if type(raw) in (dict, list) else []
    for _ in range(most):
        if not level:
            return False
        level = [
            value
            for outer in level
            for value in (outer.values() if type(outer) is dict else outer)
            if type(value) is dict or type(value) is list
        ]
    return bool(level)


def whole_number(text: str | bytes, most: int = MAX_NUMBER) -> int | None:
    """The number that decimal digits spell; None if it is none, or greater than ``most``.

    Python refuses to read more than 4,300 digits, with a ValueError, and takes ``"²"`` for a digit.

    Example:
        >>> whole_number("42"), whole_number("-1"), whole_number("9" * 5000)
        (42, None, None)
    """
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        return None
    number = int(text)
    return number if number <= most else None
