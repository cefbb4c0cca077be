"""Which rows of an Arrow batch match a bound condition."""

from __future__ import annotations

import decimal
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from datashard_core.format import types as t
from datashard_core.format.binding import AllOf, AnyOf, Bound, Check, Fixed, Reference
from datashard_core.format.metrics import FLOATS

if TYPE_CHECKING:
    import pyarrow as pa


def matching_rows(batch: pa.RecordBatch, bound: Bound) -> pa.RecordBatch:
    """The rows of a batch for which a condition is true.

    Args:
        batch: columns named as in the schema that the condition is bound to.
        bound: a condition without unknown parts.
    """
    if isinstance(bound, Fixed):
        return batch if bound.value else batch.slice(0, 0)
    return batch.filter(_mask(batch, bound))


def _mask(batch: pa.RecordBatch, bound: Bound) -> Any:
    """True for rows that match; false or null for the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(bound, Check):
        column = _column(batch, bound.reference)
        return _MASKS[bound.kind](column, bound)
    if isinstance(bound, AllOf):
        return reduce(pc.and_kleene, (_mask(batch, part) for part in bound.parts))
    if isinstance(bound, AnyOf):
        return reduce(pc.or_kleene, (_mask(batch, part) for part in bound.parts))
    assert isinstance(bound, Fixed), "conditions that only DuckDB understands are answered by DuckDB"
    return pa.repeat(bound.value, batch.num_rows)


def _column(batch: pa.RecordBatch, reference: Reference) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column(reference.names[0])
    for name in reference.names[1:]:
        column = pc.struct_field(column, name)
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def _scalar(value: Any, check: Check, kind: pa.DataType) -> pa.Scalar:
    """A canonical value as an Arrow scalar that a column of the type can be compared with."""
    import pyarrow as pa

    if isinstance(check.reference.field.type, t.DecimalType):
        scaled = decimal.Decimal(value).scaleb(-check.reference.field.type.scale, decimal.Context(prec=80))
        return pa.scalar(scaled, kind)
    if pa.types.is_date32(kind):
        return pa.scalar(value, pa.int32()).cast(kind)
    if pa.types.is_temporal(kind):
        return pa.scalar(value, pa.int64()).cast(kind)
    if pa.types.is_fixed_size_binary(kind):
        # A condition may hold bytes of another length, which are above or below but never equal.
        return pa.scalar(value, pa.binary())
    return pa.scalar(value, kind)


def _comparable(column: Any) -> Any:
    import pyarrow as pa

    return column.cast(pa.binary()) if pa.types.is_fixed_size_binary(column.type) else column


def _compared(function: str, with_nan: bool = False) -> Callable[[Any, Check], Any]:
    """A comparison; ``with_nan``: NaN, which Arrow finds above nothing, is above every number."""

    def mask(column: Any, check: Check) -> Any:
        import pyarrow.compute as pc

        column = _comparable(column)
        found = pc.call_function(function, [column, _scalar(check.value, check, column.type)])
        if with_nan and check.reference.field.type in FLOATS:
            found = pc.or_(found, pc.is_nan(column))
        return found

    return mask


def _is_in(column: Any, check: Check) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _comparable(column)
    values = check.value
    if check.reference.field.type in FLOATS and 0.0 in values:
        values = (*values, 0.0, -0.0)  # equal, but not to Arrow's table of values
    return pc.is_in(column, value_set=pa.array(_as_arrow(values, check, column.type), column.type))


def _as_arrow(values: Sequence[Any], check: Check, kind: pa.DataType) -> list[Any]:
    return [_scalar(value, check, kind).as_py() for value in values]


def _is_not_in(column: Any, check: Check) -> Any:
    import pyarrow.compute as pc

    return pc.and_(pc.is_valid(column), pc.invert(_is_in(column, check)))


def _is_nan(column: Any, check: Check) -> Any:
    import pyarrow.compute as pc

    return pc.is_nan(column)


def _starts_with(column: Any, check: Check) -> Any:
    import pyarrow.compute as pc

    return pc.starts_with(column, check.value)


def _inverted(mask: Callable[[Any, Check], Any]) -> Callable[[Any, Check], Any]:
    """The opposite, null where the mask is."""

    def inverted(column: Any, check: Check) -> Any:
        import pyarrow.compute as pc

        return pc.invert(mask(column, check))

    return inverted


_MASKS: dict[str, Callable[[Any, Check], Any]] = {
    "null": lambda column, _: column.is_null(),
    "not null": lambda column, _: column.is_valid(),
    "nan": _is_nan,
    "not nan": _inverted(_is_nan),
    "==": _compared("equal"),
    "!=": _compared("not_equal"),
    "<": _compared("less"),
    "<=": _compared("less_equal"),
    ">": _compared("greater", with_nan=True),
    ">=": _compared("greater_equal", with_nan=True),
    "in": _is_in,
    "not in": _is_not_in,
    "starts with": _starts_with,
    "not starts with": _inverted(_starts_with),
}
