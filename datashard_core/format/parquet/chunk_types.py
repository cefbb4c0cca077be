"""Whether a Parquet footer gives each column chunk the type that its schema has: the one lie that ends the process.

pyarrow's ``RowGroupMetaData.column`` does not translate the exception that Arrow throws for it, so the interpreter is
aborted. It has to be found out before, out of the footer's bytes: Thrift's compact protocol, ``parquet.thrift``.
"""

from __future__ import annotations

from typing import Any

from datashard_core.format.avro.record_pattern import read_number

MAGIC_BYTES = 4
ENDING = 8
TAIL = 64 * 2**10
"""Arrow asks for as many bytes to find a footer."""

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_MAX_DEPTH = 16
_SCHEMA, _ROW_GROUPS = 2, 4  # of the file
_TYPE, _CHILDREN = 1, 5  # of an element of the schema
_COLUMNS, _META, _CHUNK_TYPE = 1, 3, 1  # of a row group, a chunk, its metadata


def footer_in(source: Any) -> bytes:
    """The footer of a file, with what stands behind it.

    Args:
        source: a stream of Arrow's that can seek.

    Raises:
        ValueError: it has none.
    """
    size = source.size()
    tail: bytes = source.read_at(min(size, TAIL), max(0, size - TAIL))
    length = int.from_bytes(tail[-ENDING:-MAGIC_BYTES], "little") + ENDING
    if length > size:
        raise ValueError("its footer is longer than the file")
    return tail[-length:] if length <= len(tail) else bytes(source.read_at(length, size - length))


def check_types(footer: bytes) -> None:
    """Refuse a footer whose column chunks have other types than its schema.

    Raises:
        ValueError: it does, or it is damaged; likewise IndexError.
    """
    fields = _fields(footer, 0, {_SCHEMA: {_TYPE: None, _CHILDREN: None}, _ROW_GROUPS: _GROUP})[0]
    wanted = [element.get(_TYPE) for element in fields.get(_SCHEMA, []) if not element.get(_CHILDREN)]
    for group in fields.get(_ROW_GROUPS, []):
        found = [chunk.get(_META, {}).get(_CHUNK_TYPE) for chunk in group.get(_COLUMNS, [])]
        if found != wanted:
            raise ValueError(f"its columns have the types {wanted!r:.80}, and in a row group {found!r:.80}")


_Wanted = dict[int, Any]
_GROUP: _Wanted = {_COLUMNS: {_META: {_CHUNK_TYPE: None}}}


def _fields(data: bytes, at: int, wanted: _Wanted, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The wanted fields of a struct and of the structs in it, and where it ends."""
    if depth > _MAX_DEPTH:
        raise ValueError("its footer is nested too deeply")
    found: dict[int, Any] = {}
    number = 0
    while kind := data[at] & 0x0F:
        step, at = data[at] >> 4, at + 1
        if step:
            number += step
        else:
            number, at = read_number(data, at)
        value, at = _value(data, at, kind, wanted.get(number) or {}, depth + 1)
        if number in wanted:
            found[number] = value
    return found, at + 1


def _value(data: bytes, at: int, kind: int, wanted: _Wanted, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind in (_I16, _I32, _I64):
        return read_number(data, at)
    if kind == _STRUCT:
        return _fields(data, at, wanted, depth)
    if kind in (_LIST, _SET):
        return _items(data, at, wanted, depth)
    if kind == _BINARY:
        length, at = _length(data, at)
        return None, at + length
    if kind in (_BYTE, _DOUBLE):
        return None, at + (1 if kind == _BYTE else 8)
    raise ValueError(f"its footer has a field of type {kind}")


def _items(data: bytes, at: int, wanted: _Wanted, depth: int) -> tuple[list[Any], int]:
    count, kind, at = data[at] >> 4, data[at] & 0x0F, at + 1
    if count == 0x0F:
        count, at = _length(data, at)
    if kind in (_TRUE, _FALSE):
        return [], at + count  # a byte each
    found = []
    for _ in range(count):
        value, at = _value(data, at, kind, wanted, depth)
        found.append(value)
    return found, at


def _length(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned varint, which may not lead beyond the footer."""
    length = shift = 0
    while True:
        byte = data[at]
        length, at, shift = length | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            break
    if length > len(data) - at:
        raise ValueError("a value of its footer goes on beyond the end")
    return length, at
