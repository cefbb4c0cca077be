"""Metrics of a data file's columns, taken from the rows themselves while they are in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from datashard_core.format import types as t
from datashard_core.format.bounds import lower_bound, upper_bound
from datashard_core.format.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

FLOATS = (t.PrimitiveType("float"), t.PrimitiveType("double"))
"""Types that have NaN."""


class Metrics(Struct):
    """Counts and extremes by field id, gathered over one or more batches."""

    record_count: int = 0
    value_counts: dict[int, int] = field(default_factory=dict)
    null_value_counts: dict[int, int] = field(default_factory=dict)
    nan_value_counts: dict[int, int] = field(default_factory=dict)
    _extremes: dict[int, tuple[t.IcebergType, Any, Any]] = field(default_factory=dict)

    def add(self, table: pa.Table, schema: Schema) -> None:
        """Count a table in the schema's Arrow form."""
        self.record_count += table.num_rows
        for column, iceberg_field in zip(table.columns, schema.fields, strict=True):
            for leaf, values in _leaves(column, iceberg_field):
                self._add_leaf(leaf, values)

    def _add_leaf(self, leaf: t.NestedField, values: Any) -> None:
        number, kind = leaf.field_id, leaf.type
        _increase(self.value_counts, number, len(values))
        _increase(self.null_value_counts, number, values.null_count)
        if kind in FLOATS:
            values, nans = _without_nan(values)
            _increase(self.nan_value_counts, number, nans)
        found = _min_max(values, kind)
        if found is None:
            return
        lowest, highest = found
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


def _leaves(column: Any, iceberg_field: t.NestedField) -> Iterator[tuple[t.NestedField, Any]]:
    """The primitive columns that are not repeated, each with as many values as there are rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = iceberg_field.type
    if isinstance(kind, t.StructType):
        for index, child in enumerate(kind.fields):
            # struct_field gives null for the children of a null struct
            yield from _leaves(pc.struct_field(column, [index]), child)
    elif not isinstance(kind, (t.ListType, t.MapType)):
        storage = column.type.storage_type if isinstance(column.type, pa.BaseExtensionType) else None
        yield iceberg_field, column.cast(storage) if storage is not None else column


def _without_nan(values: Any) -> tuple[Any, int]:
    import pyarrow.compute as pc

    nan = pc.is_nan(values)
    count = pc.sum(nan).as_py() or 0
    return (values.filter(pc.invert(pc.fill_null(nan, False))), count) if count else (values, 0)


def _min_max(values: Any, kind: t.IcebergType) -> tuple[Any, Any] | None:
    """Lowest and highest value in the form that bounds are made of; None if all are null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    arrow = values.type
    if pa.types.is_date32(arrow):
        values = values.cast(pa.int32())
    elif pa.types.is_temporal(arrow):
        values = values.cast(pa.int64())
    elif pa.types.is_fixed_size_binary(arrow):
        values = values.cast(pa.binary())
    found = pc.min_max(values)
    lowest, highest = found["min"].as_py(), found["max"].as_py()
    if lowest is None:
        return None
    if isinstance(kind, t.DecimalType):
        return _unscaled(lowest, kind.scale), _unscaled(highest, kind.scale)
    if kind in FLOATS and (math.isnan(lowest) or math.isnan(highest)):
        return None
    return lowest, highest


def _unscaled(value: Any, scale: int) -> int:
    sign, digits, exponent = value.as_tuple()
    number = int("".join(map(str, digits))) * int(10 ** (scale + exponent))
    return -number if sign else number
