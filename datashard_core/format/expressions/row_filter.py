"""Which rows of an Arrow batch match a bound condition."""

from __future__ import annotations

import decimal
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from datashard_core.format.expressions.binding import AllOf, AnyOf, Bound, Check, Fixed, Reference
from datashard_core.format.kernels import kernels
from datashard_core.format.statistics.metrics import FLOATS
from datashard_core.format.types import types as t

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
    return _call("filter", batch, _mask(batch, bound))


def _call(function: str, *arguments: Any) -> Any:
    return kernels().call_function(function, list(arguments))


def _mask(batch: pa.RecordBatch, bound: Bound) -> Any:
    """True for rows that match; false or null for the others."""
    import pyarrow as pa

    if isinstance(bound, Check):
        column = _column(batch, bound.reference)
        return _MASKS[bound.kind](column, bound)
    if isinstance(bound, AllOf):
        return reduce(partial(_call, "and_kleene"), (_mask(batch, part) for part in bound.parts))
    if isinstance(bound, AnyOf):
        return reduce(partial(_call, "or_kleene"), (_mask(batch, part) for part in bound.parts))
    assert isinstance(bound, Fixed), "conditions that only DuckDB understands are answered by DuckDB"
    return pa.repeat(bound.value, batch.num_rows)


def _column(batch: pa.RecordBatch, reference: Reference) -> Any:
    import pyarrow as pa

    column = batch.column(reference.names[0])
    if len(reference.names) > 1:
        pc = kernels()
        places, kind = [], column.type
        for name in reference.names[1:]:  # by place: Arrow takes a name with a dot in front for a path
            places.append(kind.get_field_index(name))
            kind = kind.field(places[-1]).type
        column = pc.call_function("struct_field", [column], pc.StructFieldOptions(places))
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def _values(values: Sequence[Any], check: Check, kind: pa.DataType) -> pa.Array:
    """Canonical values as an Arrow array that a column of the type can be compared with."""
    import pyarrow as pa

    if isinstance(check.reference.field.type, t.DecimalType):
        scale, exact = check.reference.field.type.scale, decimal.Context(prec=80)
        return pa.array([decimal.Decimal(value).scaleb(-scale, exact) for value in values], kind)
    if pa.types.is_temporal(kind):
        return pa.array(values, pa.int32() if pa.types.is_date32(kind) else pa.int64()).view(kind)
    if pa.types.is_fixed_size_binary(kind):
        # A condition may hold bytes of another length, which are above or below but never equal.
        kind = pa.binary()
    return pa.array(values, kind)


def _comparable(column: Any) -> Any:
    import pyarrow as pa

    if not pa.types.is_fixed_size_binary(column.type):
        return column
    pc = kernels()
    return pc.call_function("cast", [column], pc.CastOptions.safe(pa.binary()))


def _compared(function: str, with_nan: bool = False) -> Callable[[Any, Check], Any]:
    """A comparison; ``with_nan``: NaN, which Arrow finds above nothing, is above every number."""

    def mask(column: Any, check: Check) -> Any:
        column = _comparable(column)
        found = _call(function, column, _values([check.value], check, column.type)[0])
        if with_nan and check.reference.field.type in FLOATS:
            found = _call("or", found, _call("is_nan", column))
        return found

    return mask


def _is_in(column: Any, check: Check) -> Any:
    column = _comparable(column)
    values = check.value
    if check.reference.field.type in FLOATS and 0.0 in values:
        values = (*values, 0.0, -0.0)  # equal, but not to Arrow's table of values
    pc = kernels()
    return pc.call_function("is_in", [column], pc.SetLookupOptions(_values(values, check, column.type)))


def _is_not_in(column: Any, check: Check) -> Any:
    return _call("and", _call("is_valid", column), _call("invert", _is_in(column, check)))


def _starts_with(column: Any, check: Check) -> Any:
    pc = kernels()
    return pc.call_function("starts_with", [column], pc.MatchSubstringOptions(check.value))


def _inverted(mask: Callable[[Any, Check], Any]) -> Callable[[Any, Check], Any]:
    """The opposite, null where the mask is."""
    return lambda column, check: _call("invert", mask(column, check))


def _is_nan(column: Any, check: Check) -> Any:
    return _call("is_nan", column)


_MASKS: dict[str, Callable[[Any, Check], Any]] = {
    "null": lambda column, _: _call("is_null", column),
    "not null": lambda column, _: _call("is_valid", column),
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
