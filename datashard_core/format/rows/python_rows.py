"""A few rows of plain columns as Python values: they are appended without Arrow.

Most appends of a log are a row or two, by a process that lives for a second, and to import pyarrow takes such a
process longer than the append itself. Whatever is not plainly right is no case for this module: Arrow's way
(:mod:`datashard_core.format.rows.records`) takes it, or says what is wrong with it.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Union

from msgspec import Struct

from datashard_core.format.types import types as t
from datashard_core.format.types.ranges import STORED
from datashard_core.format.types.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

FEW_ROWS = 512
"""More rows are Arrow's, which encodes them faster, once it is imported."""

FEW_BYTES = 128 * 2**10


class PlainColumn(Struct, frozen=True):
    """A column of one of the types that :func:`plain_rows` knows.

    Attributes:
        field: the field.
        values: one for each row as it is stored: bool, int (days, or microseconds), float, str or bytes; None for null.
        present: those that are not null.
    """

    field: t.NestedField
    values: list[Any]
    present: list[Any]


class PlainRows(Struct, frozen=True):
    """A few rows that fit a schema.

    Attributes:
        schema: the schema.
        num_rows: how many they are.
        nbytes: bytes of their values.
        columns: one for each field of the schema, in its order.
    """

    schema: Schema
    num_rows: int
    nbytes: int
    columns: tuple[PlainColumn, ...]

    def to_arrow(self) -> pa.Table:
        """The same rows as an Arrow table in the schema's form."""
        import pyarrow as pa

        arrow = self.schema.to_arrow()
        arrays = [_array(column.values, field.type) for column, field in zip(self.columns, arrow, strict=True)]
        return pa.Table.from_arrays(arrays, schema=arrow)

    def by_id(self) -> dict[int, list[Any]]:
        """The values of each column that has any, by field id; see :func:`rows_by_id`."""
        return {column.field.field_id: column.values for column in self.columns if column.present}


Rows = Union["pa.Table", PlainRows]
"""Checked rows in the form of a schema."""


def arrow_of(rows: Rows) -> pa.Table:
    """Rows as an Arrow table, whichever they are."""
    return rows.to_arrow() if isinstance(rows, PlainRows) else rows


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """Rows one after the other, all in the form of one schema."""
    joined: list[Rows] = []
    for are_plain, run in groupby(parts, lambda part: isinstance(part, PlainRows)):
        following = list(run)
        joined += [_chained(following)] if are_plain else following
    if len(joined) == 1 and (not isinstance(joined[0], PlainRows) or _few(joined[0])):
        return joined[0]
    import pyarrow as pa

    return pa.concat_tables(map(arrow_of, joined))


def plain_rows(data: Any, schema: Schema) -> PlainRows | None:
    """The rows as plain columns; None where that is no case for them, or they may not fit.

    Args:
        data: what the caller of an append gave.
        schema: what the rows have to fit.

    Example:
        >>> schema = Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
        >>> plain_rows([{"n": 1}, {}], schema).columns[0].values
        [1, None]
        >>> plain_rows([{"n": "one"}], schema) is None
        True
    """
    if type(data) not in (list, tuple) or not 0 < len(data) <= FEW_ROWS or set(map(type, data)) != {dict}:
        return None
    if set(chain.from_iterable(data)) - set(schema.names):
        return None
    columns: list[PlainColumn] = []
    for field in schema.fields:
        column = _column([row.get(field.name) for row in data], field)
        if column is None:
            return None
        columns.append(column)
    rows = _rows(schema, len(data), columns)
    return rows if _few(rows) else None


def rows_by_id(schema: Schema, count: int, values: Mapping[int, Any]) -> PlainRows:
    """Rows out of what :meth:`PlainRows.by_id` gave, maybe in another process.

    Args:
        schema: their schema.
        count: how many they are.
        values: the values of each column that has any, by field id.

    Raises:
        ValueError: they do not fit.
    """
    columns = [_restored(values.get(field.field_id) or [None] * count, field) for field in schema.fields]
    if any(len(column.values) != count for column in columns) or set(values) - {f.field_id for f in schema.fields}:
        raise ValueError("the columns are not those of the schema")
    return _rows(schema, count, columns)


def _rows(schema: Schema, count: int, columns: Sequence[PlainColumn]) -> PlainRows:
    return PlainRows(schema, count, sum(_size(column.present) for column in columns), tuple(columns))


def _few(rows: PlainRows) -> bool:
    return rows.num_rows <= FEW_ROWS and rows.nbytes <= FEW_BYTES


def _chained(parts: Sequence[Any]) -> PlainRows:
    """Plain rows of one schema, one after the other."""
    if len(parts) == 1:
        only: PlainRows = parts[0]
        return only
    columns = [
        PlainColumn(
            same[0].field,
            list(chain.from_iterable(column.values for column in same)),
            list(chain.from_iterable(column.present for column in same)),
        )
        for same in zip(*(part.columns for part in parts), strict=True)
    ]
    return _rows(parts[0].schema, sum(part.num_rows for part in parts), columns)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if not pa.types.is_temporal(kind):
        return pa.array(values, kind)
    return pa.array(values, pa.int32() if pa.types.is_date32(kind) else pa.int64()).view(kind)


def _column(given: list[Any], field: t.NestedField) -> PlainColumn | None:
    form = _FORMS.get(str(field.type))
    present = [value for value in given if value is not None]
    # Of these types themselves: a subclass may hold more (pandas' Timestamp has nanoseconds), or less (bool).
    if form is None or not form.takes.issuperset(map(type, present)) or (field.required and len(present) < len(given)):
        return None
    try:
        kept = form.stored(present)
    except (TypeError, ValueError, OverflowError):
        return None
    if len(kept) == len(given):
        return PlainColumn(field, kept, kept)
    following = iter(kept)
    return PlainColumn(field, [None if value is None else next(following) for value in given], kept)


def _restored(values: Any, field: t.NestedField) -> PlainColumn:
    """A column of values that are stored already.

    Raises:
        ValueError: they are none of the field's.
    """
    form = _FORMS.get(str(field.type))
    present = [value for value in values if value is not None]
    if (
        form is None
        or not {form.kept}.issuperset(map(type, present))
        or (field.required and len(present) < len(values))
    ):
        raise ValueError(f"the values of {field.name!r} are not {field.type}")
    if str(field.type) == "float":
        try:
            _singles(present)
        except OverflowError as error:
            raise ValueError(f"the values of {field.name!r} are beyond float") from error
    if form.kept is int:
        _integers(32 if str(field.type) in ("int", "date") else 64)(present)
    return PlainColumn(field, values, present)


def _size(present: list[Any]) -> int:
    if present and isinstance(present[0], str):
        return len("".join(present).encode()) + 4 * len(present)
    return sum(map(len, present)) + 4 * len(present) if present and isinstance(present[0], bytes) else 8 * len(present)


def _integers(bits: int) -> Callable[[list[int]], list[int]]:
    limit = 2 ** (bits - 1)

    def stored(values: list[int]) -> list[int]:
        if values and not -limit <= min(values) <= max(values) < limit:
            raise ValueError(f"beyond {bits} bits")
        return values

    return stored


def _doubles(values: list[float]) -> list[float]:
    numbers = list(map(float, values))
    if numbers != values:  # an int that no double holds; a NaN is the same object still
        raise ValueError(values)
    return numbers


def _singles(values: list[float]) -> list[float]:
    form = f"<{len(values)}f"
    return list(struct.unpack(form, struct.pack(form, *values)))


_FIRST_DAY = dt.date(1970, 1, 1).toordinal()
_EPOCH = dt.datetime(1970, 1, 1)
_EPOCH_UTC = _EPOCH.replace(tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_FIRST_INSTANT, _LAST_INSTANT = STORED["timestamptz"]


def _days(values: list[dt.date]) -> list[int]:
    return [value.toordinal() - _FIRST_DAY for value in values]


def _moments(values: list[dt.datetime]) -> list[int]:
    if any(value.tzinfo is not None for value in values):
        raise ValueError(values)
    return [(value - _EPOCH) // _MICROSECOND for value in values]


def _instants(values: list[dt.datetime]) -> list[int]:
    instants = [(value - _EPOCH_UTC) // _MICROSECOND for value in values]  # TypeError where one has no time zone
    if instants and not _FIRST_INSTANT <= min(instants) <= max(instants) <= _LAST_INSTANT:
        raise ValueError("a time zone moves a datetime out of Python's years")
    return instants


def _texts(values: list[str]) -> list[str]:
    "".join(values).encode()  # ValueError for half of a surrogate pair
    return values


class _Form(Struct, frozen=True):
    """The Python types that a column takes, how their values become what is stored, and the type of that."""

    takes: frozenset[type]
    stored: Callable[[list[Any]], list[Any]]
    kept: type


_FORMS = {
    "boolean": _Form(frozenset({bool}), list, bool),
    "int": _Form(frozenset({int}), _integers(32), int),
    "long": _Form(frozenset({int}), _integers(64), int),
    "float": _Form(frozenset({float}), _singles, float),
    "double": _Form(frozenset({float, int}), _doubles, float),
    "date": _Form(frozenset({dt.date}), _days, int),
    "timestamp": _Form(frozenset({dt.datetime}), _moments, int),
    "timestamptz": _Form(frozenset({dt.datetime}), _instants, int),
    "string": _Form(frozenset({str}), _texts, str),
    "binary": _Form(frozenset({bytes}), list, bytes),
}
