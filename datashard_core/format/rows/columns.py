"""Python values as Arrow columns, checked.

The quick way looks at the set of types of a whole column and leaves the values to Arrow, where Arrow either
refuses or stores exactly what was given. Whatever that does not cover goes value by value through
:mod:`datashard_core.format.types.values`, which finds the culprit or the exact form.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from datashard_core.format.types import types as t
from datashard_core.format.types.arrow_types import type_to_arrow
from datashard_core.format.types.ranges import first_outside
from datashard_core.format.types.values import MisfitError, clean_field

if TYPE_CHECKING:
    import pyarrow as pa

_NONE = type(None)
_QUICK: dict[str, frozenset[type]] = {
    "boolean": frozenset({bool}),
    "int": frozenset({int}),
    "long": frozenset({int}),
    "float": frozenset({float}),
    "double": frozenset({float, int}),
    "date": frozenset({dt.date}),
    "time": frozenset({dt.time}),
    "timestamp": frozenset({dt.datetime}),
    "timestamptz": frozenset({dt.datetime}),
    "string": frozenset({str}),
    "uuid": frozenset({uuid.UUID}),
    "binary": frozenset({bytes}),
}
_QUICK_OTHERS: dict[type[t.IcebergType], frozenset[type]] = {
    t.DecimalType: frozenset({decimal.Decimal, int}),
    t.FixedType: frozenset({bytes}),
    t.ListType: frozenset({list, tuple}),
    t.MapType: frozenset({dict}),
    t.StructType: frozenset({dict}),
}
_SOME_DAY = dt.datetime(2000, 1, 1)
_FILLERS: dict[str, Any] = {
    "boolean": False,
    "int": 0,
    "long": 0,
    "float": 0.0,
    "double": 0.0,
    "date": _SOME_DAY.date(),
    "time": dt.time(),
    "timestamp": _SOME_DAY,
    "timestamptz": _SOME_DAY.replace(tzinfo=dt.UTC),
    "string": "",
    "uuid": uuid.UUID(int=0),
    "binary": b"",
}


class _NotQuickError(Exception):
    """The quick way does not cover these values; they may fit all the same."""


class _TooManyError(Exception):
    """Values inside lists, maps or structs have more bytes than fit into one Arrow array."""


def column_array(values: Sequence[Any], field: t.NestedField, path: str) -> pa.Array | pa.ChunkedArray:
    """An Arrow column of the field's type.

    Args:
        values: one for each row; None stands for null.
        field: what they are for.
        path: dotted name of the field.

    Raises:
        MisfitError: a value does not fit; its ``row`` is the index in ``values``.
    """
    import pyarrow as pa

    try:
        return _build(values, field, False)
    except _TooManyError:
        return _in_halves(values, field, path)
    except (_NotQuickError, pa.ArrowException, TypeError, ValueError, OverflowError):
        pass  # found out below, value by value
    cleaned = []
    for row, value in enumerate(values):
        try:
            cleaned.append(clean_field(value, field, path))
        except MisfitError as error:
            error.row = row
            raise
    try:
        return _build(cleaned, field, True)
    except _TooManyError:
        return _in_halves(cleaned, field, path)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise MisfitError(path, f"Arrow cannot hold these values as {field.type}: {error}") from error


def _in_halves(values: Sequence[Any], field: t.NestedField, path: str) -> pa.ChunkedArray:
    """The column in several chunks."""
    import pyarrow as pa

    if len(values) == 1:
        raise MisfitError(path, "the value holds more text or bytes than fit into one Arrow array (2 GiB)", 0)
    half = len(values) // 2
    chunks: list[pa.Array] = []
    for start, part in ((0, values[:half]), (half, values[half:])):
        try:
            built = column_array(part, field, path)
        except MisfitError as error:
            error.row += start
            raise
        chunks += built.chunks if isinstance(built, pa.ChunkedArray) else [built]
    return pa.chunked_array(chunks, type=type_to_arrow(field.type))


def null_array(count: int, kind: t.IcebergType) -> pa.Array:
    """An array of nothing but nulls that the Parquet writer takes.

    The writer refuses a null in a required field even where the struct around it is null, so below null
    structs stand values that nobody sees, which :func:`pyarrow.nulls` does not do.
    """
    import pyarrow as pa

    target = type_to_arrow(kind)
    if not isinstance(kind, t.StructType):
        return pa.nulls(count, target)
    one = _build([None], t.NestedField(0, "", kind, False), True)
    return one.take(pa.repeat(0, count))


def without_nulls(array: pa.Array, kind: t.IcebergType) -> pa.Array:
    """The array with some value in the place of each null: for a required field of structs that are null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not array.null_count:
        return array
    filler = _build([_filler(kind)], t.NestedField(0, "", kind, True), True)
    places = pc.if_else(array.is_null(), len(array), pa.array(range(len(array)), pa.int64()))
    return pa.concat_arrays([array, filler]).take(places)


def _filler(kind: t.IcebergType) -> Any:
    if isinstance(kind, t.StructType):
        return {field.name: _filler(field.type) for field in kind.fields if field.required}
    if isinstance(kind, (t.ListType, t.MapType)):
        return []
    if isinstance(kind, t.FixedType):
        return bytes(kind.length)
    return 0 if isinstance(kind, t.DecimalType) else _FILLERS[str(kind)]


def _build(values: Sequence[Any], field: t.NestedField, clean: bool) -> Any:
    """The column, by the quick way.

    Args:
        values: one for each row.
        field: what they are for.
        clean: the values went through ``clean_field``.
    """
    kinds = set(map(type, values))
    nulls = _NONE in kinds
    kinds.discard(_NONE)
    if field.required and nulls:
        raise _NotQuickError
    kind = field.type
    quick = _QUICK[kind.name] if isinstance(kind, t.PrimitiveType) else _QUICK_OTHERS[type(kind)]
    if not clean and not kinds <= quick:
        raise _NotQuickError
    if isinstance(kind, t.ListType):
        return _list_array(values, kind, clean)
    if isinstance(kind, t.MapType):
        return _map_array(values, kind, clean)
    if isinstance(kind, t.StructType):
        return _struct_array(values, kind, clean)
    return _flat_array(values, kind, kinds)


def _flat_array(values: Sequence[Any], kind: t.IcebergType, kinds: set[type]) -> Any:
    import pyarrow as pa

    name = str(kind)
    if name == "uuid":
        raw = pa.array([None if value is None else value.bytes for value in values], pa.binary(16))
        return pa.ExtensionArray.from_storage(pa.uuid(), raw)
    if name in ("time", "timestamp", "timestamptz"):
        _check_zones(values, name)
    if name == "float":
        return _float_array(values)
    if name == "double" and int in kinds:
        values = [_exact_float(value) if type(value) is int else value for value in values]
    array = pa.array(values, type_to_arrow(kind))
    # Python's dates and times are in range, but for those that a time zone moves out of it.
    if name == "timestamptz" and first_outside(array, name) >= 0:
        raise _NotQuickError
    return array


def _exact_float(value: int) -> float:
    number = float(value)
    if number != value:
        raise _NotQuickError
    return number


def _float_array(values: Sequence[Any]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    wide = pa.array(values, pa.float64())
    narrow = wide.cast(pa.float32())
    # A number beyond the range becomes infinity, without an error.
    if pc.sum(pc.is_inf(narrow)).as_py() != pc.sum(pc.is_inf(wide)).as_py():
        raise _NotQuickError
    return narrow


def _check_zones(values: Sequence[Any], name: str) -> None:
    """Whether all have a time zone, or none has: Arrow would take either for either."""
    # By identity: not every tzinfo can be hashed.
    zones = {id(value.tzinfo): value.tzinfo for value in values if value is not None}
    for zone in zones.values():
        aware = zone is not None and (name == "time" or zone.utcoffset(_SOME_DAY) is not None)
        if aware != (name == "timestamptz"):
            raise _NotQuickError


def _whole(built: Any) -> Any:
    """Values inside others, which have to be one array.

    Raises:
        _TooManyError: they are several.
    """
    import pyarrow as pa

    if not isinstance(built, pa.ChunkedArray):
        return built
    if built.num_chunks != 1:
        raise _TooManyError
    return built.chunk(0)


def _offsets(values: Sequence[Any]) -> Any:
    import pyarrow as pa

    lengths = (0 if value is None else len(value) for value in values)
    return pa.array(accumulate(lengths, initial=0), pa.int32())


def _mask(values: Sequence[Any]) -> Any:
    import pyarrow as pa

    return pa.array([value is None for value in values], pa.bool_())


def _list_array(values: Sequence[Any], kind: t.ListType, clean: bool) -> Any:
    import pyarrow as pa

    (element,) = t.children(kind)
    flat = list(chain.from_iterable(value for value in values if value is not None))
    items = _whole(_build(flat, element, clean))
    return pa.ListArray.from_arrays(_offsets(values), items, type=type_to_arrow(kind), mask=_mask(values))


def _map_array(values: Sequence[Any], kind: t.MapType, clean: bool) -> Any:
    import pyarrow as pa

    key, item = t.children(kind)
    pairs = list(
        chain.from_iterable(value.items() if type(value) is dict else value for value in values if value is not None)
    )
    keys = _whole(_build([left for left, _ in pairs], key, clean))
    items = _whole(_build([right for _, right in pairs], item, clean))
    return pa.MapArray.from_arrays(_offsets(values), keys, items, type=type_to_arrow(kind), mask=_mask(values))


def _struct_array(values: Sequence[Any], kind: t.StructType, clean: bool) -> Any:
    import pyarrow as pa

    if set(chain.from_iterable(value for value in values if value is not None)) - {f.name for f in kind.fields}:
        raise _NotQuickError
    arrays = []
    for field in kind.fields:
        absent = _filler(field.type) if field.required else None
        inside = [absent if value is None else value.get(field.name) for value in values]
        arrays.append(_whole(_build(inside, field, clean)))
    return pa.StructArray.from_arrays(arrays, fields=list(type_to_arrow(kind)), mask=_mask(values))
