"""A schema guessed from rows: only when somebody asks for it."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from datashard_core.errors import ConfigurationError, InvalidRecordsError
from datashard_core.format.types import types as t
from datashard_core.format.types.pandas_index import check_index, is_frame, with_index
from datashard_core.format.types.schema import assign_ids
from datashard_core.format.types.values import UnusableError, plain, shown

_LONG = range(-(2**63), 2**63)


class _Unknown(t.IcebergType, frozen=True):
    """Nothing but nulls, or empty lists, were seen."""

    def __str__(self) -> str:
        return "unknown"


_UNKNOWN = _Unknown()
_NO_ID = 0


def infer_fields(records: Any) -> tuple[t.NestedField, ...]:
    """The fields that fit the rows; see :meth:`datashard_core.format.types.schema.Schema.infer`.

    Raises:
        InvalidRecordsError: there is no row, or no type fits all values of a field.
        ConfigurationError: a column of an Arrow, pandas or Polars table has a type that Iceberg lacks.
    """
    if is_frame(records) or hasattr(records, "__arrow_c_stream__") or hasattr(records, "__arrow_c_array__"):
        return _fields_of_columns(records)
    if isinstance(records, (str, bytes, Mapping)) or not isinstance(records, Iterable):
        raise InvalidRecordsError(f"cannot infer a schema from {shown(records)}: pass a list of dicts")
    found: t.IcebergType = _UNKNOWN
    for index, row in enumerate(records):
        if not isinstance(row, Mapping):
            raise InvalidRecordsError(f"row {index} is {shown(row)} of type {type(row).__name__}, and a row is a dict")
        found = _merged(found, _of_struct(row, index, ""), index, "")
    if not isinstance(found, t.StructType):
        raise InvalidRecordsError("cannot infer a schema: there is no row with a field")
    _check_known(found.fields)
    return assign_ids(found.fields, count(1).__next__)


def _fields_of_columns(data: Any) -> tuple[t.NestedField, ...]:
    import pyarrow as pa

    from datashard_core.format.types.arrow_types import fields_from_arrow

    try:
        if is_frame(data):
            schema = pa.Schema.from_pandas(with_index(data), preserve_index=False)
        elif isinstance(data, (pa.Table, pa.RecordBatch, pa.RecordBatchReader)):
            schema = data.schema  # in the stream of the C interface, names end at a NUL
        elif hasattr(data, "__arrow_c_stream__"):
            schema = pa.RecordBatchReader.from_stream(data).schema
        else:
            schema = pa.record_batch(data).schema
        check_index(schema, ())
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidRecordsError(f"the {type(data).__name__} is no table with named columns: {error}") from error
    except UnusableError as error:
        raise InvalidRecordsError(f"cannot infer a schema: {error}") from error
    return fields_from_arrow(schema)


def _check_known(fields: tuple[t.NestedField, ...]) -> None:
    for path, field in t.walk(fields):
        if isinstance(field.type, _Unknown):
            raise InvalidRecordsError(
                f"no type for the field {path!r}: no row has a value for it. Write the schema out."
            )


def _field(name: str, kind: t.IcebergType) -> t.NestedField:
    return t.NestedField(_NO_ID, name, kind, False)


def _of_struct(row: Mapping[Any, Any], index: int, prefix: str) -> t.IcebergType:
    for name in row:
        if not isinstance(name, str) or not name:
            raise InvalidRecordsError(f"row {index}: the field name {name!r} is no text of at least one character")
    if not row:
        return _UNKNOWN
    return t.StructType(tuple(_field(name, _of(value, index, f"{prefix}{name}")) for name, value in row.items()))


def _of(value: Any, index: int, path: str) -> t.IcebergType:
    if value is None:
        return _UNKNOWN
    if isinstance(value, Mapping):
        return _of_struct(value, index, f"{path}.")
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 0) >= 1:
        value = list(value)
    if isinstance(value, (list, tuple)):
        element: t.IcebergType = _UNKNOWN
        for item in value:
            element = _merged(element, _of(item, index, f"{path}.element"), index, f"{path}.element")
        return t.ListType(_NO_ID, element, False)
    value = plain(value)
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return _of_decimal(value, index, path)
    name = _primitive_name(value)
    if name is None:
        raise InvalidRecordsError(
            f"row {index}, field {path!r}: {shown(value)} of type {type(value).__name__} has no Iceberg type"
        )
    return t.PrimitiveType(name)


def _primitive_name(value: Any) -> str | None:
    if type(value).__name__ == "NaTType":
        return None
    if isinstance(value, dt.datetime):
        # Of a year that Python lacks pandas tells no offset; an append refuses it, by its row.
        known = dt.MINYEAR <= value.year <= dt.MAXYEAR
        return "timestamp" if value.tzinfo is None or (known and value.utcoffset() is None) else "timestamptz"
    kinds: tuple[tuple[Any, str], ...] = (
        (bool, "boolean"),
        (float, "double"),
        (str, "string"),
        ((bytes, bytearray, memoryview), "binary"),
        (dt.date, "date"),
        (dt.time, "time"),
        (uuid.UUID, "uuid"),
    )
    for kind, name in kinds:
        if isinstance(value, kind):
            return name
    if type(value).__module__ == "numpy" and getattr(getattr(value, "dtype", None), "kind", "") == "M":
        return "date" if str(value.dtype).endswith("[D]") else "timestamp"
    return "long" if isinstance(value, int) and value in _LONG else None


def _of_decimal(value: decimal.Decimal, index: int, path: str) -> t.DecimalType:
    _, digits, exponent = value.as_tuple()
    scale = max(0, -int(exponent))
    whole = max(0, len(digits) + int(exponent))
    return _decimal(whole, scale, index, path)


def _decimal(whole: int, scale: int, index: int, path: str) -> t.DecimalType:
    try:
        return t.DecimalType(max(1, whole + scale), scale)
    except ConfigurationError as error:
        raise InvalidRecordsError(f"row {index}, field {path!r}: no decimal type is wide enough: {error}") from error


def _merged(left: t.IcebergType, right: t.IcebergType, index: int, path: str) -> t.IcebergType:
    """The narrowest type that holds the values of both."""
    if left == right or isinstance(right, _Unknown):
        return left
    if isinstance(left, _Unknown):
        return right
    if {str(left), str(right)} == {"long", "double"}:
        return t.PrimitiveType("double")
    if isinstance(left, t.DecimalType) and isinstance(right, t.DecimalType):
        whole = max(left.precision - left.scale, right.precision - right.scale)
        return _decimal(whole, max(left.scale, right.scale), index, path)
    if isinstance(left, t.ListType) and isinstance(right, t.ListType):
        element = _merged(left.element, right.element, index, f"{path}.element")
        return t.ListType(_NO_ID, element, False)
    if isinstance(left, t.StructType) and isinstance(right, t.StructType):
        return _merged_structs(left, right, index, f"{path}." if path else "")
    raise InvalidRecordsError(
        f"row {index}, field {path!r} is {right}, and in the rows before it is {left}: use one type for all"
    )


def _merged_structs(left: t.StructType, right: t.StructType, index: int, prefix: str) -> t.StructType:
    kinds = {field.name: field.type for field in left.fields}
    for field in right.fields:
        kind = _merged(kinds.get(field.name, _UNKNOWN), field.type, index, f"{prefix}{field.name}")
        kinds[field.name] = kind
    return t.StructType(tuple(_field(name, kind) for name, kind in kinds.items()))
