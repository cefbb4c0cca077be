"""Records of Avro as Python values, by a schema that :mod:`~datashard_core.format.avro.avro_schema` has checked.

Values of logical types are what fastavro makes of them: dates, times, decimals and uuids of Python; a number that
Python has no date or time for stays a number. The encoding: Avro specification 1.11, "Binary Encoding".
"""

from __future__ import annotations

import datetime as dt
import decimal
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from datashard_core.format.avro.avro_schema import checked_schema, values_in
from datashard_core.format.avro.record_pattern import read_number, read_sized

_BYTES_AND = 64 * 2**20
_BYTES_FOR_EACH = 64
_VALUES_AND = 6_000_000
_VALUES_FOR_EACH = 3
_MAX_DECIMAL_BYTES = 32

Read = Callable[[bytes, int, "Room"], tuple[Any, int]]
"""Reads the value that begins at a place, and tells where it ends. Damage is a ValueError, IndexError or EOFError."""


class Room:
    """What the records of one file may take in memory: a few bytes of a file can stand for gigabytes.

    64 MB and 64 times the file's size in bytes, and 6 million values and three for each byte of the file. An entry of
    a manifest takes some thirty values: 400 KB tell of 100,000 data files whose names differ in a number alone, and a
    column of which every file has the same bounds costs next to nothing.

    Args:
        size: bytes of the file.
    """

    __slots__ = ("bytes", "values")

    def __init__(self, size: int) -> None:
        self.bytes = _BYTES_AND + _BYTES_FOR_EACH * size
        self.values = _VALUES_AND + _VALUES_FOR_EACH * size

    def take(self, values: int) -> None:
        """Count values that are about to be made.

        Raises:
            ValueError: there is no room for them.
        """
        self.values -= values
        if self.values < 0:
            raise ValueError("it holds more values than a file of its size can be meant to")

    def kept(self, data: bytes) -> bytes:
        """Count bytes that were decompressed.

        Raises:
            ValueError: there was no room for them.
        """
        self.bytes -= len(data)
        if self.bytes < 0:
            raise ValueError("it becomes larger than a file of its size can be meant to when it is decompressed")
        return data


@lru_cache(maxsize=64)
def reader_of(text: str) -> Read:
    """The reader of a schema's records.

    Raises:
        ValueError: as :func:`~datashard_core.format.avro.avro_schema.checked_schema`.
    """
    return _reader(checked_schema(text).kind)


def _reader(kind: Any) -> Read:
    if isinstance(kind, str):
        return _PRIMITIVES[kind]
    if isinstance(kind, list):
        return _union([_reader(part) for part in kind])
    name = kind["type"]
    if name == "record":
        return _record(kind["fields"])
    if name == "array":
        return _array(kind["items"])
    if name == "map":
        return _map(kind["values"])
    if name == "enum":
        return _enum(kind["symbols"])
    read = _fixed(kind["size"]) if name == "fixed" else _PRIMITIVES[name]
    make = _LOGICAL.get((str(kind.get("logicalType")), name))
    return read if make is None else _made(read, make(kind))


def _number(data: bytes, at: int, room: Room) -> tuple[int, int]:
    return read_number(data, at)


def _bytes(data: bytes, at: int, room: Room) -> tuple[bytes, int]:
    return read_sized(data, at)


def _text(data: bytes, at: int, room: Room) -> tuple[str, int]:
    text, end = read_sized(data, at)
    return text.decode(), end


def _truth(data: bytes, at: int, room: Room) -> tuple[bool, int]:
    if data[at] > 1:
        raise ValueError("a truth value is neither 0 nor 1")
    return data[at] == 1, at + 1


def _null(data: bytes, at: int, room: Room) -> tuple[None, int]:
    return None, at


def _packed(form: str) -> Read:
    packed = struct.Struct(form)

    def read(data: bytes, at: int, room: Room) -> tuple[float, int]:
        if at + packed.size > len(data):
            raise EOFError("a value goes on beyond the end of the file")
        return packed.unpack_from(data, at)[0], at + packed.size

    return read


def _fixed(size: int) -> Read:
    def read(data: bytes, at: int, room: Room) -> tuple[bytes, int]:
        if at + size > len(data):
            raise EOFError("a value goes on beyond the end of the file")
        return data[at : at + size], at + size

    return read


_PRIMITIVES: Mapping[str, Read] = {
    "null": _null,
    "boolean": _truth,
    "int": _number,
    "long": _number,
    "float": _packed("<f"),
    "double": _packed("<d"),
    "bytes": _bytes,
    "string": _text,
}


def _union(parts: Sequence[Read]) -> Read:
    def read(data: bytes, at: int, room: Room) -> tuple[Any, int]:
        which, at = read_number(data, at)
        if not 0 <= which < len(parts):
            raise ValueError(f"a union of {len(parts)} has no part {which}")
        return parts[which](data, at, room)

    return read


def _record(fields: Sequence[Mapping[str, Any]]) -> Read:
    readers = [(field["name"], _reader(field["type"])) for field in fields]

    def read(data: bytes, at: int, room: Room) -> tuple[dict[str, Any], int]:
        found = {}
        for name, read_it in readers:
            found[name], at = read_it(data, at, room)
        return found, at

    return read


def _array(items: Any) -> Read:
    read_it, values = _reader(items), values_in(items)

    def read(data: bytes, at: int, room: Room) -> tuple[list[Any], int]:
        found = []
        count, at = _count(data, at)
        while count:
            room.take(count * values)
            for _ in range(count):
                one, at = read_it(data, at, room)
                found.append(one)
            count, at = _count(data, at)
        return found, at

    return read


def _map(values: Any) -> Read:
    read_it, inside = _reader(values), 1 + values_in(values)

    def read(data: bytes, at: int, room: Room) -> tuple[dict[str, Any], int]:
        found = {}
        count, at = _count(data, at)
        while count:
            room.take(count * inside)
            for _ in range(count):
                key, at = _text(data, at, room)
                found[key], at = read_it(data, at, room)
            count, at = _count(data, at)
        return found, at

    return read


def _count(data: bytes, at: int) -> tuple[int, int]:
    """How many items follow, in an array or a map; 0 at its end. Each takes a byte at least."""
    count, at = read_number(data, at)
    if count < 0:  # they are preceded by their size in bytes
        count, at = -count, read_number(data, at)[1]
    if count > len(data) - at:
        raise ValueError(f"{len(data) - at} bytes hold no {count} items")
    return count, at


def _enum(symbols: Sequence[str]) -> Read:
    def read(data: bytes, at: int, room: Room) -> tuple[str, int]:
        which, at = read_number(data, at)
        if not 0 <= which < len(symbols):
            raise ValueError(f"an enum of {len(symbols)} symbols has no symbol {which}")
        return symbols[which], at

    return read


def _made(read_it: Read, make: Callable[[Any], Any]) -> Read:
    def read(data: bytes, at: int, room: Room) -> tuple[Any, int]:
        raw, at = read_it(data, at, room)
        try:
            return make(raw), at
        except OverflowError:
            return raw, at

    return read


_EPOCH = dt.datetime(1970, 1, 1)
_EPOCH_UTC = _EPOCH.replace(tzinfo=dt.UTC)
_DAY_0 = _EPOCH.toordinal()
_MICROS_OF_A_DAY = 86_400_000_000


def _date(days: int) -> Any:
    return dt.date.fromordinal(days + _DAY_0) if 1 <= days + _DAY_0 <= dt.date.max.toordinal() else days


def _times(unit: int) -> Callable[[Mapping[str, Any]], Callable[[int], Any]]:
    def make(number: int) -> Any:
        if not 0 <= number * unit < _MICROS_OF_A_DAY:
            return number
        return (_EPOCH + dt.timedelta(microseconds=number * unit)).time()

    return lambda kind: make


def _moments(epoch: dt.datetime, unit: int) -> Callable[[Mapping[str, Any]], Callable[[int], Any]]:
    return lambda kind: lambda number: epoch + dt.timedelta(microseconds=number * unit)


def _decimals(kind: Mapping[str, Any]) -> Callable[[bytes], decimal.Decimal]:
    scale = kind.get("scale", 0)
    if type(scale) is not int or not 0 <= scale <= _MAX_DECIMAL_BYTES * 3:
        raise ValueError(f"its schema has decimals of the scale {scale!r:.80}")

    def make(raw: bytes) -> decimal.Decimal:
        if len(raw) > _MAX_DECIMAL_BYTES:
            raise ValueError(f"a decimal has {len(raw)} bytes")
        digits = decimal.Decimal(int.from_bytes(raw, "big", signed=True))
        return digits.scaleb(-scale, _WIDE)

    return make


_WIDE = decimal.Context(prec=100)

_LOGICAL: Mapping[tuple[str, str], Callable[[Mapping[str, Any]], Callable[[Any], Any]]] = {
    ("date", "int"): lambda kind: _date,
    ("time-millis", "int"): _times(1000),
    ("time-micros", "long"): _times(1),
    ("timestamp-millis", "long"): _moments(_EPOCH_UTC, 1000),
    ("timestamp-micros", "long"): _moments(_EPOCH_UTC, 1),
    ("local-timestamp-millis", "long"): _moments(_EPOCH, 1000),
    ("local-timestamp-micros", "long"): _moments(_EPOCH, 1),
    ("decimal", "bytes"): _decimals,
    ("decimal", "fixed"): _decimals,
    ("uuid", "string"): lambda kind: UUID,
}
"""What makes values of logical types. A uuid of 16 bytes stays bytes."""
