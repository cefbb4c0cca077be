"""Digests: of rows, to tell whether two appends say the same, and of append ids, to name them.

Canonical form of rows, format 1
--------------------------------
What is hashed is this sequence of bytes; integers are little-endian, signed ones in two's complement.

- ``table``: the bytes ``datashard.rows``, the format number (uint16), the number of rows (uint64), then
  ``fields`` of the columns.
- ``fields`` (columns, or what is inside a list, map or struct): for each field in ascending order of its
  field id a ``field``, but none for a field that is null wherever it could have a value; then the end mark,
  int32 -1.
- ``field``: its id (int32), its kind (uint8), its presence, its values.
- presence: the byte 0 if no value is null; else the byte 1, then for each place one byte, 1 for a value and
  0 for null. The places are the table's rows in order for a column; for the field of a struct, the rows
  whose struct is not null; for an element, key or value, all of them in order.
- values, of the places that are not null, in order; by kind:

  ====  ==================================  ==========================================================
  kind  types                               values
  ====  ==================================  ==========================================================
  1     boolean                             one byte each, 0 or 1
  2     int, long                           int64 each
  3     float, double                       IEEE 754 binary64 each; every NaN as 0x7FF8000000000000; -0.0
                                            is not 0.0
  4     decimal                             the scale (uint8), then the unscaled value as int128 each
  5     date                                days since 1970-01-01, int32 each
  6     time                                microseconds since midnight, int64 each
  7, 8  timestamp, timestamptz              microseconds since 1970-01-01 (UTC), int64 each
  9     string                              the length in bytes (int64) of each, then the UTF-8 bytes of all
  10    binary                              the same
  11    uuid                                the 16 bytes of each, big-endian as RFC 9562 writes them
  12    fixed                               the length (int32), then the bytes of all
  13    list                                the length (int64) of each, then ``fields`` of the element
  14    map                                 the number of entries (int64) of each, then ``fields`` of key and
                                            value, entries in the order in which they were given
  15    struct                              ``fields``
  ====  ==================================  ==========================================================

So the digest does not depend on chunks, layouts or encodings, on versions of libraries, on names or the
order of columns, on optional fields that were added since, nor on Iceberg's widenings (int to long, float
to double, a decimal of more precision). The order of rows counts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from datashard_core import arguments
from datashard_core._imports import blake2b
from datashard_core.errors import InvalidRecordsError
from datashard_core.format.rows.python_rows import PlainRows, Rows
from datashard_core.format.types import types as t
from datashard_core.format.types.arrow_types import elements, map_as_lists
from datashard_core.format.types.schema import Schema

FORMAT = 1
DIGEST_BYTES = 16

_END = struct.pack("<i", -1)
_NAN = struct.unpack("<d", bytes.fromhex("000000000000f87f"))[0]
_KINDS = {
    "boolean": 1,
    "int": 2,
    "long": 2,
    "float": 3,
    "double": 3,
    "date": 5,
    "time": 6,
    "timestamp": 7,
    "timestamptz": 8,
    "string": 9,
    "binary": 10,
    "uuid": 11,
}
_OTHER_KINDS: dict[type[t.IcebergType], int] = {
    t.DecimalType: 4,
    t.FixedType: 12,
    t.ListType: 13,
    t.MapType: 14,
    t.StructType: 15,
}
_WIDTHS = {"boolean": 1, "int": 8, "long": 8, "float": 8, "double": 8, "date": 4, "time": 8}
_WIDTHS |= {"timestamp": 8, "timestamptz": 8, "uuid": 16}

_PACKED = {_KINDS["boolean"]: "B", _KINDS["long"]: "q", _KINDS["double"]: "d", _KINDS["date"]: "i"}
_PACKED |= {_KINDS["timestamp"]: "q", _KINDS["timestamptz"]: "q"}
"""Kind of plain values of fixed width -> how :mod:`struct` packs one."""

Hash = Any
"""A hash of :mod:`hashlib`, whose type has no public name."""


def rows_digest(table: Rows, schema: Schema) -> str:
    """Digest of rows, by what they say and not by how they are held.

    Args:
        table: the rows: plain ones of the schema, or in any Arrow form that fits it.
        schema: gives every column its field id.

    Returns:
        BLAKE2b-128 of the canonical form (see the module), as 32 hexadecimal characters.

    Raises:
        InvalidRecordsError: the rows do not fit the schema.

    Example:
        >>> import pyarrow as pa
        >>> schema = Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
        >>> small = pa.table({"n": pa.array([1, 2], "int8")})
        >>> rows_digest(small, schema) == rows_digest(pa.table({"n": [1, 2]}), schema)
        True
    """
    if not isinstance(schema, Schema):
        raise InvalidRecordsError(f"rows_digest: schema={arguments.shown(schema)} is not a Schema")
    if not isinstance(table, PlainRows):
        table = _in_form_of(table, schema)
    digest = blake2b(b"datashard.rows", digest_size=DIGEST_BYTES)
    digest.update(struct.pack("<HQ", FORMAT, table.num_rows))
    if isinstance(table, PlainRows):
        _add_plain(digest, table)
        return digest.hexdigest()
    columns = [table.column(index).chunks for index in range(table.num_columns)]
    _add_fields(digest, schema.fields, columns)
    return digest.hexdigest()


def _in_form_of(rows: Any, schema: Schema) -> Any:
    """Rows as an Arrow table in the schema's form.

    Raises:
        InvalidRecordsError: they do not fit.
    """
    import pyarrow as pa

    if isinstance(rows, pa.Table) and rows.schema == schema.to_arrow():
        return rows
    from datashard_core.format.rows.records import to_table

    return to_table(rows, schema, "to be digested")


def id_digest(append_id: str) -> str:
    """Digest of an append id, by which table properties and object names refer to it.

    Args:
        append_id: the id as the caller gave it, or as the library made it.

    Returns:
        BLAKE2b-128 of its UTF-8 bytes, as 32 hexadecimal characters.
    """
    return blake2b(append_id.encode(), digest_size=DIGEST_BYTES).hexdigest()


def _add_plain(digest: Hash, rows: PlainRows) -> None:
    """Add ``fields`` of the canonical form for plain rows."""
    for column in sorted(rows.columns, key=lambda column: column.field.field_id):
        present, kind = column.present, column.field.type
        if present:
            nulls = len(present) < rows.num_rows
            digest.update(struct.pack("<iBB", column.field.field_id, _kind_number(kind), nulls))
            if nulls:
                digest.update(bytes(value is not None for value in column.values))
            digest.update(_plain_values(kind, present))
    digest.update(_END)


def _plain_values(kind: t.IcebergType, present: Sequence[Any]) -> bytes:
    number = _kind_number(kind)
    if number in (_KINDS["string"], _KINDS["binary"]):
        texts = [value.encode() if isinstance(value, str) else value for value in present]
        return struct.pack(f"<{len(texts)}q", *map(len, texts)) + b"".join(texts)
    if number == _KINDS["double"]:
        present = [value if value == value else _NAN for value in present]
    return struct.pack(f"<{len(present)}{_PACKED[number]}", *present)


def _add_fields(digest: Hash, fields: Sequence[t.NestedField], columns: Sequence[Sequence[Any]]) -> None:
    """Add ``fields`` of the canonical form; each column is the arrays that make it up."""
    for field, arrays in sorted(zip(fields, columns, strict=True), key=lambda pair: pair[0].field_id):
        places = sum(len(array) for array in arrays)
        nulls = sum(array.null_count for array in arrays)
        if nulls < places:
            digest.update(struct.pack("<iBB", field.field_id, _kind_number(field.type), 1 if nulls else 0))
            if nulls:
                for array in arrays:
                    _add_bytes(digest, array.is_valid(), 1)
            _add_values(digest, field.type, arrays)
    digest.update(_END)


def _kind_number(kind: t.IcebergType) -> int:
    return _KINDS[kind.name] if isinstance(kind, t.PrimitiveType) else _OTHER_KINDS[type(kind)]


def _add_values(digest: Hash, kind: t.IcebergType, arrays: Sequence[Any]) -> None:
    if isinstance(kind, t.StructType):
        # Without the arrays that are null throughout: Arrow cannot build empty structs of extension types.
        present = [array.drop_null() for array in arrays if array.null_count < len(array)]
        inside = [[array.field(index) for array in present] for index in range(len(kind.fields))]
        _add_fields(digest, kind.fields, inside)
    elif isinstance(kind, t.ListType):
        _add_lengths(digest, arrays)
        _add_fields(digest, t.children(kind), [list(map(elements, arrays))])
    elif isinstance(kind, t.MapType):
        pairs = list(map(map_as_lists, arrays))
        _add_lengths(digest, pairs)
        entries = list(map(elements, pairs))
        _add_fields(digest, t.children(kind), [[entry.field(index) for entry in entries] for index in (0, 1)])
    elif isinstance(kind, t.DecimalType):
        digest.update(struct.pack("<B", kind.scale))
        _add_fixed(digest, arrays, 16)
    elif isinstance(kind, t.FixedType):
        digest.update(struct.pack("<i", kind.length))
        _add_fixed(digest, arrays, kind.length)
    elif str(kind) in ("string", "binary"):
        _add_texts(digest, [array.drop_null() for array in arrays])
    else:
        _add_fixed(digest, map(_widened, arrays), _WIDTHS[str(kind)])


def _widened(array: Any) -> Any:
    """The array in the type whose buffer is the canonical form."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(array.type):
        return array.cast(pa.int64())
    if pa.types.is_floating(array.type):
        wide = array.cast(pa.float64())
        return pc.if_else(pc.is_nan(wide), pa.scalar(_NAN, pa.float64()), wide)
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _add_lengths(digest: Hash, arrays: Sequence[Any]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    for array in arrays:
        _add_bytes(digest, pc.list_value_length(array).drop_null().cast(pa.int64()), 8)


def _add_fixed(digest: Hash, arrays: Iterable[Any], width: int) -> None:
    for array in arrays:
        _add_bytes(digest, array.drop_null(), width)


def _add_bytes(digest: Hash, array: Any, width: int) -> None:
    """The values of an array without nulls, as they lie in memory."""
    import pyarrow as pa

    if not len(array):
        return
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    start = array.offset * width
    digest.update(memoryview(array.buffers()[1])[start : start + len(array) * width])


def _add_texts(digest: Hash, arrays: Sequence[Any]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    for array in arrays:
        _add_bytes(digest, pc.binary_length(array).cast(pa.int64()), 8)
    for array in arrays:
        if not len(array):
            continue
        _, offsets, data = array.buffers()
        ends = memoryview(offsets).cast("B").cast("i")
        begin, end = ends[array.offset], ends[array.offset + len(array)]
        if end > begin:
            digest.update(memoryview(data)[begin:end])
