"""A few rows of plain columns as Python values: they are appended without Arrow.

Most appends of a log are a row or two, by a process that lives for a second, and to import pyarrow takes such a
process longer than the append itself. Whatever is not plainly right is no case for this module: Arrow's way
(:mod:`datashard_core.format.records`) takes it, or says what is wrong with it.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Union

from msgspec import Struct

from datashard_core.format import types as t
from datashard_core.format.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

FEW_ROWS = 512
"""More rows are Arrow's. Of fewer, a process that has imported it is slower by less than a millisecond, if at all."""

FEW_BYTES = 128 * 2**10


class PlainColumn(Struct, frozen=True):
    """A column of one of the types that :func:`plain_rows` knows.

    Attributes:
        field: the field.
        given: one value for each row as the caller gave it; None for null.
        present: those that are not null, as they are stored: bool, int (days, or microseconds), float, str or bytes.
    """

    field: t.NestedField
    given: list[Any]
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

        from datashard_core.format.columns import column_array

        arrays = [column_array(column.given, column.field, column.field.name) for column in self.columns]
        return pa.Table.from_arrays(arrays, schema=self.schema.to_arrow())


Rows = Union["pa.Table", PlainRows]
"""Checked rows in the form of a schema."""


def arrow_of(rows: Rows) -> pa.Table:
    """Rows as an Arrow table, whichever they are."""
    return rows.to_arrow() if isinstance(rows, PlainRows) else rows


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """Rows one after the other, all in the form of one schema."""
    if len(parts) == 1:
        return parts[0]
    import pyarrow as pa

    return pa.concat_tables(map(arrow_of, parts))


def plain_rows(data: Any, schema: Schema) -> PlainRows | None:
    """The rows as plain columns; None where that is no case for them, or they may not fit.

    Args:
        data: what the caller of an append gave.
        schema: what the rows have to fit.

    Example:
        >>> schema = Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
        >>> plain_rows([{"n": 1}, {}], schema).columns[0].given
        [1, None]
        >>> plain_rows([{"n": "one"}], schema) is None
        True
    """
    if type(data) not in (list, tuple) or not 0 < len(data) <= FEW_ROWS or set(map(type, data)) != {dict}:
        return None
    if set(chain.from_iterable(data)) - set(schema.names):
        return None
    columns: list[PlainColumn] = []
    size = 0
    for field in schema.fields:
        column = _column([row.get(field.name) for row in data], field)
        if column is None:
            return None
        columns.append(column)
        size += _size(column.present)
    return PlainRows(schema, len(data), size, tuple(columns)) if size <= FEW_BYTES else None


def _column(given: list[Any], field: t.NestedField) -> PlainColumn | None:
    types, stored = _STORED.get(str(field.type), (frozenset(), list))
    present = [value for value in given if value is not None]
    # Of these types themselves: a subclass may hold more (pandas' Timestamp has nanoseconds), or less (bool).
    if not types or not types.issuperset(map(type, present)) or (field.required and len(present) < len(given)):
        return None
    try:
        return PlainColumn(field, given, stored(present))
    except (TypeError, ValueError, OverflowError):
        return None


def _size(present: list[Any]) -> int:
    if present and isinstance(present[0], str):
        return len("".join(present).encode()) + 4 * len(present)
    return sum(map(len, present)) + 4 * len(present) if present and isinstance(present[0], bytes) else 8 * len(present)


def _integers(bits: int) -> Callable[[list[int]], list[int]]:
    limit = 2 ** (bits - 1)

    def stored(values: list[int]) -> list[int]:
        if values and not -limit <= min(values) <= max(values) < limit:
            raise OverflowError(bits)
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


def _days(values: list[dt.date]) -> list[int]:
    return [value.toordinal() - _FIRST_DAY for value in values]


def _moments(values: list[dt.datetime]) -> list[int]:
    if any(value.tzinfo is not None for value in values):
        raise ValueError(values)
    return [(value - _EPOCH) // _MICROSECOND for value in values]


def _instants(values: list[dt.datetime]) -> list[int]:
    return [(value - _EPOCH_UTC) // _MICROSECOND for value in values]  # TypeError where one has no time zone


def _texts(values: list[str]) -> list[str]:
    "".join(values).encode()  # ValueError for half of a surrogate pair
    return values


_STORED: dict[str, tuple[frozenset[type], Callable[[list[Any]], list[Any]]]] = {
    "boolean": (frozenset({bool}), list),
    "int": (frozenset({int}), _integers(32)),
    "long": (frozenset({int}), _integers(64)),
    "float": (frozenset({float}), _singles),
    "double": (frozenset({float, int}), _doubles),
    "date": (frozenset({dt.date}), _days),
    "timestamp": (frozenset({dt.datetime}), _moments),
    "timestamptz": (frozenset({dt.datetime}), _instants),
    "string": (frozenset({str}), _texts),
    "binary": (frozenset({bytes}), list),
}
"""Type -> the Python types that it takes, and how their values are stored."""
