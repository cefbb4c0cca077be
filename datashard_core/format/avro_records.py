"""Records of Avro as bytes and back, for the plain fields that manifests are made of.

Every task is a fresh process, to which the import of fastavro is a good part of its one append; for fields this
plain it is no faster either. It reads and writes whatever has others: partition values that are dates, say
(:func:`coder_of` says None). The encoding: Avro specification 1.11, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from datashard_core.format.avro_shape import read_number

Write = Callable[[bytearray, Any], None]
Read = Callable[[bytes, int], tuple[Any, int]]

_MOST = 2**63


class Coder(Struct, frozen=True):
    """How values of one schema are written and read.

    Attributes:
        write: appends a value to some bytes; TypeError, KeyError, ValueError or OverflowError if it is none.
        read: the value that begins at a place, and where it ends; EOFError, IndexError or ValueError if it is damaged.
    """

    write: Write
    read: Read


def coder_of(schema: Any) -> Coder | None:
    """The coder of a schema; None if it has kinds of fields that plain manifests have not.

    Args:
        schema: a schema of Avro, as JSON has it.
    """
    try:
        text = msgspec.json.encode(schema)
    except (TypeError, ValueError):
        return None
    return _coder_of(text)


@cache
def _coder_of(text: bytes) -> Coder | None:
    return _coder(msgspec.json.decode(text))


def _coder(schema: Any) -> Coder | None:
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


def read_sized(data: bytes, at: int) -> tuple[bytes, int]:
    """Text or bytes with their length before them, and where they end."""
    length, start = read_number(data, at)
    end = start + length
    if length < 0 or end > len(data):
        raise EOFError("a value goes on beyond the end of the file")
    return data[start:end], end


def _write_text(out: bytearray, value: str) -> None:
    write_sized(out, value.encode())


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    text, end = read_sized(data, at)
    return text.decode(), end


def _write_truth(out: bytearray, value: bool) -> None:
    if value is not True and value is not False:
        raise TypeError(f"{value!r} is neither true nor false")
    out.append(value)


def _read_truth(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise ValueError("a truth value is neither 0 nor 1")
    return data[at] == 1, at + 1


_NUMBER = Coder(write_number, read_number)
_PRIMITIVES: Mapping[str, Coder] = {
    "int": _NUMBER,
    "long": _NUMBER,
    "string": Coder(_write_text, _read_text),
    "bytes": Coder(write_sized, read_sized),
    "boolean": Coder(_write_truth, _read_truth),
}


def _nullable(kinds: list[Any]) -> Coder | None:
    """A union of null and one other kind."""
    inside = _coder(next((kind for kind in kinds if kind != "null"), None))
    if len(kinds) != 2 or "null" not in kinds or inside is None:
        return None
    null = kinds.index("null")
    present, write_it, read_it = 1 - null, inside.write, inside.read

    def write(out: bytearray, value: Any) -> None:
        if value is None:
            out.append(2 * null)
        else:
            out.append(2 * present)
            write_it(out, value)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        which, at = read_number(data, at)
        if which == null:
            return None, at
        if which != present:
            raise ValueError(f"a union of two has no part {which}")
        return read_it(data, at)

    return Coder(write, read)


def _array(items: Any) -> Coder | None:
    inside = _coder(items)
    if inside is None:
        return None
    write_it, read_it = inside.write, inside.read

    def write(out: bytearray, value: Any) -> None:
        if value:
            write_number(out, len(value))
            for one in value:
                write_it(out, one)
        out.append(0)

    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        found = []
        count, at = read_number(data, at)
        while count:
            if count < 0:  # its items are preceded by their size in bytes
                at = read_number(data, at)[1]
            if abs(count) > len(data):
                raise ValueError(f"{len(data)} bytes hold no {abs(count)} items")
            for _ in range(abs(count)):
                one, at = read_it(data, at)
                found.append(one)
            count, at = read_number(data, at)
        return found, at

    return Coder(write, read)


def _record(fields: Any) -> Coder | None:
    if not isinstance(fields, list):
        return None
    coders: list[tuple[str, Coder]] = []
    for field in fields:
        inside = _coder(field.get("type")) if isinstance(field, dict) else None
        if inside is None or not isinstance(field.get("name"), str):
            return None
        coders.append((field["name"], inside))
    writers = [(name, coder.write) for name, coder in coders]
    readers = [(name, coder.read) for name, coder in coders]

    def write(out: bytearray, value: Any) -> None:
        for name, write_it in writers:
            write_it(out, value[name])

    def read(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        found = {}
        for name, read_it in readers:
            found[name], at = read_it(data, at)
        return found, at

    return Coder(write, read)
