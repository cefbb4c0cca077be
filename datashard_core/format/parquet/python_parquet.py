"""A few plain rows as a Parquet file, without Arrow: one row group, one page for each column.

Parquet's format: https://parquet.apache.org/docs/file-format/ (``parquet.thrift`` for the numbers of fields); its
footers and page headers are Thrift's compact protocol. The values are written plain, and a page is compressed where
that makes it smaller, with gzip, the one codec of Parquet's that Python has too. Types, annotations and field ids are
those that :mod:`datashard_core.format.parquet.parquet` has Arrow write.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

from msgspec import Struct

from datashard_core import __version__
from datashard_core.format.rows.python_rows import PlainColumn, PlainRows
from datashard_core.format.statistics.bounds import TRUNCATE
from datashard_core.format.statistics.metrics import Metrics

MAGIC = b"PAR1"
_GZIP_FORM = 31
"""What zlib calls gzip's form, with the largest window."""

_PLAIN, _RLE = 0, 3  # encodings
_UNCOMPRESSED, _GZIP = 0, 2  # codecs

Value = tuple[int, bytes]
"""A value of Thrift's compact protocol: number of its type, and bytes."""


def encode_plain(rows: PlainRows, metrics: Metrics) -> tuple[bytes, dict[int, int]]:
    """The file, and how many bytes of it each column takes by field id; its row group begins at byte 4.

    Args:
        rows: the rows.
        metrics: theirs.
    """
    lower, upper = metrics.lower_bounds(), metrics.upper_bounds()
    parts = [MAGIC]
    chunks: list[Value] = []
    sizes: dict[int, int] = {}
    offset, unpacked = len(MAGIC), 0
    for column in rows.columns:
        body = _page(column)
        packed = zlib.compress(body, wbits=_GZIP_FORM)
        codec = _GZIP if len(packed) < len(body) else _UNCOMPRESSED
        kept = packed if codec == _GZIP else body
        header = _page_header(len(body), len(kept), rows.num_rows)
        size, plain_size = len(header) + len(kept), len(header) + len(body)
        number = column.field.field_id
        statistics = _statistics(column, lower.get(number), upper.get(number))
        chunks.append(_column_chunk(column, codec, offset, size, plain_size, statistics))
        sizes[number] = size
        parts += (header, kept)
        offset, unpacked = offset + size, unpacked + plain_size
    group = {1: _list(chunks), 2: _i64(unpacked), 3: _i64(rows.num_rows), 5: _i64(len(MAGIC))}
    footer = _footer(rows, _struct({**group, 6: _i64(offset - len(MAGIC)), 7: _i16(0)}))
    return b"".join((*parts, footer, struct.pack("<I", len(footer)), MAGIC)), sizes


def _footer(rows: PlainRows, group: Value) -> bytes:
    root = _struct({3: _i32(0), 4: _text("schema"), 5: _i32(len(rows.columns))})
    leaves = [_leaf(column) for column in rows.columns]
    order = _struct({1: _NOTHING})  # lowest and highest are by the order of each column's type
    return _struct(
        {
            1: _i32(2),
            2: _list([root, *leaves]),
            3: _i64(rows.num_rows),
            4: _list([group]),
            6: _text(f"datashard-core version {__version__}"),
            7: _list([order] * len(leaves)),
        }
    )[1]


def _page(column: PlainColumn) -> bytes:
    """What is in a column's page: where it may be null, which rows have a value; then the values."""
    values = _FORMS[str(column.field.type)].encode(column.present)
    return values if column.field.required else _levels(column.values) + values


def _levels(values: list[Any]) -> bytes:
    """Definition levels of 0 or 1, as runs."""
    runs = bytearray()
    for there, run in groupby(value is not None for value in values):
        runs += _varint(sum(1 for _ in run) << 1)
        runs.append(there)
    return struct.pack("<I", len(runs)) + runs


def _page_header(size: int, stored: int, rows: int) -> bytes:
    data_page = _struct({1: _i32(rows), 2: _i32(_PLAIN), 3: _i32(_RLE), 4: _i32(_RLE)})
    return _struct({1: _i32(0), 2: _i32(size), 3: _i32(stored), 5: data_page})[1]


def _column_chunk(column: PlainColumn, codec: int, offset: int, size: int, plain_size: int, statistics: Value) -> Value:
    metadata = {
        1: _i32(_FORMS[str(column.field.type)].physical),
        2: _list([_i32(_PLAIN), _i32(_RLE)]),
        3: _list([_text(column.field.name)]),
        4: _i32(codec),
        5: _i64(len(column.values)),
        6: _i64(plain_size),
        7: _i64(size),
        9: _i64(offset),
        12: statistics,
    }
    return _struct({2: _i64(0), 3: _struct(metadata)})


def _statistics(column: PlainColumn, low: bytes | None, high: bytes | None) -> Value:
    """Nulls, and Iceberg's bounds, which are Parquet's too: both or neither, so none beside NaN.

    Not where texts are long: their bounds are cut short, and some readers take them for values.
    """
    present = column.present
    told = {3: _i64(len(column.values) - len(present))}
    long = bool(present) and isinstance(present[0], (str, bytes)) and max(map(len, present)) > TRUNCATE
    return _struct(told if low is None or high is None or long else {**told, 5: _bytes(high), 6: _bytes(low)})


def _leaf(column: PlainColumn) -> Value:
    """A column in the file's schema."""
    form, field = _FORMS[str(column.field.type)], column.field
    told = {1: _i32(form.physical), 3: _i32(0 if field.required else 1), 4: _text(field.name)}
    if form.converted is not None:
        told[6] = _i32(form.converted)
    told[9] = _i32(field.field_id)
    return _struct(told | ({} if form.logical is None else {10: form.logical}))


def _booleans(values: list[bool]) -> bytes:
    return sum(value << place for place, value in enumerate(values)).to_bytes((len(values) + 7) // 8, "little")


def _numbers(letter: str) -> Callable[[list[Any]], bytes]:
    return lambda values: struct.pack(f"<{len(values)}{letter}", *values)


def _blobs(values: list[bytes]) -> bytes:
    return b"".join(chain.from_iterable((struct.pack("<I", len(value)), value) for value in values))


def _texts(values: list[str]) -> bytes:
    return _blobs([value.encode() for value in values])


# Thrift's compact protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _signed(number: int) -> bytes:
    return _varint(2 * number if number >= 0 else -2 * number - 1)


def _bool(value: bool) -> Value:
    return (1 if value else 2), b""


def _i16(value: int) -> Value:
    return 4, _signed(value)


def _i32(value: int) -> Value:
    return 5, _signed(value)


def _i64(value: int) -> Value:
    return 6, _signed(value)


def _bytes(value: bytes) -> Value:
    return 8, _varint(len(value)) + value


def _text(value: str) -> Value:
    return _bytes(value.encode())


def _list(values: Sequence[Value]) -> Value:
    """A list of at least one value, all of one type."""
    kind = values[0][0]
    head = bytes([len(values) << 4 | kind]) if len(values) < 15 else bytes([0xF0 | kind]) + _varint(len(values))
    return 9, head + b"".join(data for _, data in values)


def _struct(fields: Mapping[int, Value]) -> Value:
    """A struct or union: its fields by number, in ascending order and none more than 15 above the one before."""
    parts, last = bytearray(), 0
    for number, (kind, data) in fields.items():
        parts.append((number - last) << 4 | kind)
        parts += data
        last = number
    parts.append(0)
    return 12, bytes(parts)


_NOTHING = _struct({})


def _annotation(number: int, fields: Mapping[int, Value] | None = None) -> Value:
    return _struct({number: _struct(fields or {})})


def _timestamp(in_utc: bool) -> Value:
    microseconds = _struct({2: _NOTHING})
    return _annotation(8, {1: _bool(in_utc), 2: microseconds})


class _Form(Struct, frozen=True):
    """How values of a type lie in a file: Parquet's number of the type, and of its older and its newer annotation."""

    physical: int
    encode: Callable[[list[Any]], bytes]
    converted: int | None = None
    logical: Value | None = None


_FORMS = {
    "boolean": _Form(0, _booleans),
    "int": _Form(1, _numbers("i")),
    "long": _Form(2, _numbers("q")),
    "float": _Form(4, _numbers("f")),
    "double": _Form(5, _numbers("d")),
    "date": _Form(1, _numbers("i"), 6, _annotation(6)),
    "timestamp": _Form(2, _numbers("q"), None, _timestamp(False)),
    "timestamptz": _Form(2, _numbers("q"), 10, _timestamp(True)),
    "string": _Form(6, _texts, 0, _annotation(1)),
    "binary": _Form(6, _blobs),
}
