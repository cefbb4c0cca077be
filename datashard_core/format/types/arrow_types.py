"""Iceberg's types and Arrow's, one as the other.

``uuid`` is Arrow's extension type ``arrow.uuid``: the Parquet writer gives it the logical type UUID,
and PyIceberg and DuckDB read it as a uuid; plain ``fixed_size_binary(16)`` they read as bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from datashard_core.errors import ConfigurationError
from datashard_core.format.json_text import whole_number
from datashard_core.format.types import types as t
from datashard_core.format.types.schema import assign_ids

if TYPE_CHECKING:
    import pyarrow as pa

FIELD_ID = b"PARQUET:field_id"
DOC = b"doc"


def schema_to_arrow(fields: Sequence[t.NestedField]) -> pa.Schema:
    """The Arrow schema of the fields, with field ids in the metadata everywhere."""
    import pyarrow as pa

    return pa.schema([_field_to_arrow(field) for field in fields])


def _field_to_arrow(field: t.NestedField) -> pa.Field:
    import pyarrow as pa

    metadata = {FIELD_ID: str(field.field_id).encode()}
    if field.doc is not None:
        metadata[DOC] = field.doc.encode()
    return pa.field(field.name, type_to_arrow(field.type), nullable=not field.required, metadata=metadata)


def type_to_arrow(kind: t.IcebergType) -> pa.DataType:
    """The Arrow type that holds values of an Iceberg type."""
    import pyarrow as pa

    if isinstance(kind, t.DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, t.FixedType):
        return pa.binary(kind.length)
    inside = [_field_to_arrow(field) for field in t.children(kind)]
    if isinstance(kind, t.ListType):
        return pa.list_(inside[0])
    if isinstance(kind, t.MapType):
        return pa.map_(inside[0], inside[1])
    if isinstance(kind, t.StructType):
        return pa.struct(inside)
    types = {
        "boolean": pa.bool_,
        "int": pa.int32,
        "long": pa.int64,
        "float": pa.float32,
        "double": pa.float64,
        "date": pa.date32,
        "time": lambda: pa.time64("us"),
        "timestamp": lambda: pa.timestamp("us"),
        "timestamptz": lambda: pa.timestamp("us", tz="UTC"),
        "string": pa.string,
        "uuid": pa.uuid,
        "binary": pa.binary,
    }
    return types[str(kind)]()


def fields_from_arrow(schema: pa.Schema) -> tuple[t.NestedField, ...]:
    """The Iceberg fields of an Arrow schema; see :meth:`datashard_core.format.types.schema.Schema.from_arrow`.

    Raises:
        ConfigurationError: a type has no counterpart.
    """
    fields = [_field_from_arrow(field, "") for field in schema]
    ids = [field.field_id for _, field in t.walk(tuple(fields))]
    # -1 stands for a field without an id
    if min(ids, default=-1) >= 0 and len(ids) == len(set(ids)):
        return tuple(fields)
    return assign_ids(fields, count(1).__next__)


def _field_from_arrow(field: pa.Field, prefix: str) -> t.NestedField:
    path = f"{prefix}{field.name}"
    doc = (field.metadata or {}).get(DOC)
    return t.NestedField(
        _id_of(field),
        field.name,
        _type_from_arrow(field.type, path),
        not field.nullable,
        doc.decode(errors="replace") if doc is not None else None,
    )


def _id_of(field: pa.Field) -> int:
    text = (field.metadata or {}).get(FIELD_ID, b"")
    number = whole_number(text)
    return -1 if number is None else number


def _type_from_arrow(kind: pa.DataType, path: str) -> t.IcebergType:
    import pyarrow.types as pt

    if is_listlike(kind):
        element = kind.value_field
        inside = _type_from_arrow(element.type, f"{path}.element")
        return t.ListType(_id_of(element), inside, not element.nullable)
    if pt.is_map(kind):
        key, item = kind.key_field, kind.item_field
        return t.MapType(
            _id_of(key),
            _type_from_arrow(key.type, f"{path}.key"),
            _id_of(item),
            _type_from_arrow(item.type, f"{path}.value"),
            not item.nullable,
        )
    if pt.is_struct(kind):
        return t.StructType(tuple(_field_from_arrow(field, f"{path}.") for field in kind))
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return _type_from_arrow(kind.value_type, path)
    if pt.is_decimal(kind):
        return t.DecimalType(kind.precision, kind.scale)
    if pt.is_fixed_size_binary(kind):
        return t.FixedType(kind.byte_width)
    if pt.is_timestamp(kind):
        return t.PrimitiveType("timestamp" if kind.tz is None else "timestamptz")
    name = _primitive_name(kind)
    if name is None:
        raise ConfigurationError(f"column {path!r} has the Arrow type {kind}: {_way_out(kind)}")
    return t.PrimitiveType(name)


def is_listlike(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a list of some layout; maps are not."""
    import pyarrow.types as pt

    return bool(
        pt.is_list(kind)
        or pt.is_large_list(kind)
        or pt.is_fixed_size_list(kind)
        or pt.is_list_view(kind)
        or pt.is_large_list_view(kind)
    )


def elements(array: pa.Array) -> pa.Array:
    """All elements of the lists of an array, in order, without what stands below null lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.sum(pc.list_value_length(array)).as_py():
        # Arrow's flatten builds the empty result anew, which it cannot do for extension types.
        return pa.nulls(0, array.type.value_type)
    return array.flatten()


def map_as_lists(array: pa.Array) -> pa.Array:
    """A map array as lists of (key, value): a map's own children do not heed that it may be a slice."""
    import pyarrow as pa

    kind = array.type
    entry = pa.struct([pa.field("key", kind.key_type, False), pa.field("value", kind.item_type)])
    return array.cast(pa.list_(pa.field("entries", entry, False)))


def is_uuid(kind: pa.DataType) -> bool:
    """Whether an Arrow type is the extension type ``arrow.uuid``."""
    return getattr(kind, "extension_name", None) == "arrow.uuid"


def _primitive_name(kind: pa.DataType) -> str | None:
    import pyarrow as pa
    import pyarrow.types as pt

    small = (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16())
    checks: list[tuple[bool, str]] = [
        (pt.is_boolean(kind), "boolean"),
        (kind in small, "int"),
        (kind in (pa.int64(), pa.uint32()), "long"),
        (kind in (pa.float16(), pa.float32()), "float"),
        (kind == pa.float64(), "double"),
        (pt.is_date(kind), "date"),
        (pt.is_time(kind), "time"),
        (is_text(kind), "string"),
        (is_bytes(kind), "binary"),
        (is_uuid(kind), "uuid"),
    ]
    return next((name for found, name in checks if found), None)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds text, in any layout."""
    import pyarrow.types as pt

    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds bytes of any length, in any layout."""
    import pyarrow.types as pt

    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def _way_out(kind: Any) -> str:
    import pyarrow.types as pt

    if pt.is_uint64(kind):
        return "Iceberg has no unsigned type that wide; cast it to int64 or decimal128(20, 0)"
    if pt.is_null(kind):
        return "no type can be told from nulls alone; cast it to the type that is meant"
    if pt.is_duration(kind):
        return "Iceberg has no durations; cast it to int64 and put the unit in the name"
    return "Iceberg v2 has no such type; cast the column to another one"
