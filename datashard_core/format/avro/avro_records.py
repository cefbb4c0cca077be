"""Records of Avro as bytes, for the plain fields that manifests are made of.

Every task is a fresh process, to which the import of fastavro is a good part of its one append; for fields this
plain it is no faster either. It writes those that have others: partition values that are dates, say
(:func:`writer_of` gives None). The encoding: Avro specification 1.11, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

Write = Callable[[bytearray, Any], None]
"""Appends a value to some bytes; TypeError, KeyError, ValueError or OverflowError if it is none of its schema."""

_MOST = 2**63


def writer_of(schema: Any) -> Write | None:
    """The writer of a schema; None if it has kinds of fields that plain manifests have not.

    Args:
        schema: a schema of Avro, as JSON has it.
    """
    try:
        text = msgspec.json.encode(schema)
    except (TypeError, ValueError):
        return None
    return _writer_of(text)


@lru_cache(maxsize=64)
def _writer_of(text: bytes) -> Write | None:
    return _writer(msgspec.json.decode(text))


def _writer(schema: Any) -> Write | None:
    if isinstance(schema, str):
        return _PRIMITIVES.get(schema)
    if isinstance(schema, list):
        return _nullable(schema)
    if not isinstance(schema, dict):
        return None
    kind, logical = schema.get("type"), schema.get("logicalType")
    if kind == "array" and logical in (None, "map"):
        return _array(schema.get("items"))
    if logical is not None:
        return None
    if kind == "record":
        return _record(schema.get("fields"))
    return _PRIMITIVES.get(kind) if isinstance(kind, str) else None


def write_number(out: bytearray, value: int) -> None:
    """Append a whole number as a zigzag varint."""
    if not -_MOST <= value < _MOST:
        raise OverflowError(f"{value} does not fit 64 bits")
    rest = (value << 1) ^ (value >> 63)
    while rest > 0x7F:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    out.append(rest)


def write_sized(out: bytearray, value: bytes) -> None:
    """Append bytes with their length before them."""
    write_number(out, len(value))
    out += value


def _write_text(out: bytearray, value: str) -> None:
    write_sized(out, value.encode())


def _write_truth(out: bytearray, value: bool) -> None:
    if value is not True and value is not False:
        raise TypeError(f"{value!r} is neither true nor false")
    out.append(value)


_PRIMITIVES: Mapping[str, Write] = {
    "int": write_number,
    "long": write_number,
    "string": _write_text,
    "bytes": write_sized,
    "boolean": _write_truth,
}


def _nullable(kinds: list[Any]) -> Write | None:
    """A union of null and one other kind."""
    inside = _writer(next((kind for kind in kinds if kind != "null"), None))
    if len(kinds) != 2 or "null" not in kinds or inside is None:
        return None
    null = kinds.index("null")
    present = 1 - null

    def write(out: bytearray, value: Any) -> None:
        if value is None:
            out.append(2 * null)
        else:
            out.append(2 * present)
            inside(out, value)

    return write


def _array(items: Any) -> Write | None:
    inside = _writer(items)
    if inside is None:
        return None

    def write(out: bytearray, value: Any) -> None:
        if value:
            write_number(out, len(value))
            for one in value:
                inside(out, one)
        out.append(0)

    return write


def _record(fields: Any) -> Write | None:
    if not isinstance(fields, list):
        return None
    writers: list[tuple[str, Write]] = []
    for field in fields:
        inside = _writer(field.get("type")) if isinstance(field, dict) else None
        if inside is None or not isinstance(field.get("name"), str):
            return None
        writers.append((field["name"], inside))

    def write(out: bytearray, value: Any) -> None:
        for name, write_it in writers:
            write_it(out, value[name])

    return write
