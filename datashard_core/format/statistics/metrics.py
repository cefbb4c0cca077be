"""Metrics of a data file's columns, taken from the rows themselves while they are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from datashard_core.format.rows.python_rows import PlainRows
from datashard_core.format.statistics.bounds import lower_bound, upper_bound
from datashard_core.format.types import types as t
from datashard_core.format.types.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

FLOATS = (t.PrimitiveType("float"), t.PrimitiveType("double"))
"""Types that have NaN."""
FEW = 1000
"""Values up to which Python finds the extremes of a column."""


class Metrics(Struct):
    """Counts and extremes by field id, gathered over one or more batches."""

    record_count: int = 0
    value_counts: dict[int, int] = field(default_factory=dict)
    null_value_counts: dict[int, int] = field(default_factory=dict)
    nan_value_counts: dict[int, int] = field(default_factory=dict)
    _extremes: dict[int, tuple[t.IcebergType, Any, Any]] = field(default_factory=dict)

    def add(self, table: pa.Table, schema: Schema, without: frozenset[int] = frozenset()) -> None:
        """Count a table in the schema's Arrow form.

        Args:
            table: the table.
            schema: the schema.
            without: ids of fields whose extremes are not looked for: see :meth:`add_extremes`.
        """
        self.record_count += table.num_rows
        for leaf, values in _chunks(table, schema):
            found = (None, None, 0) if leaf.field_id in without else _found(values)
            self._add_leaf(leaf, len(values), values.null_count, found)

    def add_extremes(self, table: pa.Table, schema: Schema, only: Mapping[int, tuple[Any, Any] | None]) -> None:
        """The extremes of columns that were counted without them.

        Args:
            table: the table.
            schema: the schema.
            only: field id -> lowest and highest value, where somebody has found them; None: look for them.
        """
        for leaf, values in _chunks(table, schema):
            if leaf.field_id in only:
                told = only[leaf.field_id]
                self._add_leaf(leaf, 0, 0, _found(values) if told is None else (*told, 0))

    def add_plain(self, rows: PlainRows) -> None:
        """Count a few plain rows."""
        self.record_count += rows.num_rows
        for column in rows.columns:
            nulls = rows.num_rows - len(column.present)
            self._add_leaf(column.field, rows.num_rows, nulls, extremes(column.present))

    def _add_leaf(self, leaf: t.NestedField, count: int, nulls: int, found: tuple[Any, Any, int]) -> None:
        """Count values of a column: how many, how many of them null, and what :func:`extremes` says of the others."""
        number, kind = leaf.field_id, leaf.type
        _increase(self.value_counts, number, count)
        _increase(self.null_value_counts, number, nulls)
        lowest, highest, nans = found
        if kind in FLOATS:
            _increase(self.nan_value_counts, number, nans)
        if lowest is None:
            return
        if isinstance(kind, t.DecimalType):
            lowest, highest = _unscaled(lowest, kind.scale), _unscaled(highest, kind.scale)
        if number in self._extremes:
            _, before_low, before_high = self._extremes[number]
            lowest, highest = min(lowest, before_low), max(highest, before_high)
        self._extremes[number] = (kind, lowest, highest)

    def lower_bounds(self) -> dict[int, bytes]:
        """Lower bounds by field id."""
        return {number: lower_bound(kind, low) for number, (kind, low, _) in self._extremes.items()}

    def upper_bounds(self) -> dict[int, bytes]:
        """Upper bounds by field id, where one can be told.

        NaN belongs in no bound (spec, "Data file fields"). Yet to DuckDB and
        Spark it is above every number, and DuckDB does not ask for the count of NaNs before it leaves a file
        unread: a column with NaN gets no upper bound.
        """
        bounds = {
            number: upper_bound(kind, high)
            for number, (kind, _, high) in self._extremes.items()
            if not self.nan_value_counts.get(number)
        }
        return {number: bound for number, bound in bounds.items() if bound is not None}


def _increase(counts: dict[int, int], number: int, by: int) -> None:
    counts[number] = counts.get(number, 0) + by


def _chunks(table: pa.Table, schema: Schema) -> Iterator[tuple[t.NestedField, pa.Array]]:
    """The primitive columns that are not repeated, chunk by chunk."""
    for column, iceberg_field in zip(table.columns, schema.fields, strict=True):
        for chunk in column.chunks or [column.combine_chunks()]:
            yield from _leaves(chunk, iceberg_field)


def _found(values: pa.Array) -> tuple[Any, Any, int]:
    return (_of_few if len(values) <= FEW else _of_many)(_comparable(values))


def _leaves(values: pa.Array, iceberg_field: t.NestedField) -> Iterator[tuple[t.NestedField, pa.Array]]:
    """The primitive columns that are not repeated, each with as many values as there are rows."""
    kind = iceberg_field.type
    if isinstance(kind, t.StructType):
        # flatten gives null for the children of a null struct
        for child, part in zip(kind.fields, values.flatten(), strict=True):
            yield from _leaves(part, child)
    elif not isinstance(kind, (t.ListType, t.MapType)):
        yield iceberg_field, values


def _comparable(values: pa.Array) -> pa.Array:
    """The same values in the form that bounds are made of: whole numbers for dates and times, else as they are."""
    import pyarrow as pa

    if isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    if pa.types.is_temporal(values.type):
        return values.view(pa.int32() if values.type.bit_width == 32 else pa.int64())
    return values


def _of_few(values: pa.Array) -> tuple[Any, Any, int]:
    """The extremes without Arrow's functions: to make their Python side takes a new process longer than an append."""
    return extremes([value for value in values.to_pylist() if value is not None])


def extremes(present: list[Any]) -> tuple[Any, Any, int]:
    """Lowest and highest of values that are not null (None where there is none), and the number of NaNs.

    Args:
        present: values that can be compared.
    """
    ordered = [value for value in present if value == value]  # NaN is not itself
    if not ordered:
        return None, None, len(present)
    return min(ordered), max(ordered), len(present) - len(ordered)


def _of_many(values: pa.Array) -> tuple[Any, Any, int]:
    """The extremes by Arrow's functions."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nans = 0
    if pa.types.is_floating(values.type):
        is_nan = pc.is_nan(values)
        nans = pc.sum(is_nan).as_py() or 0
        values = values.filter(pc.invert(pc.fill_null(is_nan, False))) if nans else values
    elif pa.types.is_fixed_size_binary(values.type):
        values = values.cast(pa.binary())
    found = pc.min_max(values)
    return found["min"].as_py(), found["max"].as_py(), nans


def _unscaled(value: Any, scale: int) -> int:
    sign, digits, exponent = value.as_tuple()
    number = int("".join(map(str, digits))) * int(10 ** (scale + exponent))
    return -number if sign else number
