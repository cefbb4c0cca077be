"""Whether some rows can match a condition, or all of them do, judged by what is known of them: counts, bounds,
partition values.

Whether some can is never a wrong "no", and whether all do never a wrong "yes": what is not known may be either.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from datashard_core.format.expressions.binding import AllOf, AnyOf, Bound, Check, CheckKind, Fixed
from datashard_core.format.metadata.partition import PartitionSpec
from datashard_core.format.metadata.transforms import Transform, bucket, parse_transform, source_range
from datashard_core.format.statistics.metrics import FLOATS
from datashard_core.format.statistics.ordering import decode_bound
from datashard_core.format.types import types as t

Allows = Callable[[Check], bool]
"""Whether a check can be true for one of the rows at hand, or is for all of them."""


class Known(Struct):
    """What is known of the values of a column in some rows.

    Attributes:
        lower: no value is below, NaN aside; None: not known.
        upper: no value is above, NaN aside; None: not known.
        nulls: there may be nulls.
        numbers: there may be values that are neither null nor NaN.
        nans: there may be NaN.
        exact: where ``lower`` equals ``upper``, every value is that one.
    """

    lower: Any = None
    upper: Any = None
    nulls: bool = True
    numbers: bool = True
    nans: bool = False
    exact: bool = False


def might_match(bound: Bound, allows: Allows) -> bool:
    """Whether a condition can be true for a row, given which of its checks can."""
    return _judged(bound, allows, unknown=True)


def must_match(bound: Bound, holds: Allows) -> bool:
    """Whether a condition is true for every row, given which of its checks are."""
    return _judged(bound, holds, unknown=False)


def _judged(bound: Bound, judge: Allows, *, unknown: bool) -> bool:
    if isinstance(bound, Check):
        return judge(bound)
    if isinstance(bound, AllOf):
        return all(_judged(part, judge, unknown=unknown) for part in bound.parts)
    if isinstance(bound, AnyOf):
        return any(_judged(part, judge, unknown=unknown) for part in bound.parts)
    return bound.value if isinstance(bound, Fixed) else unknown


def possible(check: Check, known: Known) -> bool:
    """Whether a check can be true for a value of which so much is known."""
    return _POSSIBLE[check.kind](known, check.value)


def certain(check: Check, known: Known) -> bool:
    """Whether a check is true for every value of which so much is known: none makes it null, or its opposite true."""
    if known.nulls and check.kind != "null":
        return False
    return not _POSSIBLE[_OPPOSITES[check.kind]](known, check.value)


def possibility(check: Check) -> Callable[[Known, Any], bool]:
    """What :func:`possible` asks of a check of that kind, given what is known and the check's value."""
    return _POSSIBLE[check.kind]


def _equal(known: Known, value: Any) -> bool:
    return (
        known.numbers
        and (known.lower is None or known.lower <= value)
        and (known.upper is None or value <= known.upper)
    )


def _is_only(known: Known, values: Sequence[Any]) -> bool:
    """Whether every number is known to be one and the same of the values."""
    return known.exact and known.lower is not None and known.lower == known.upper and known.lower in values


def _in(known: Known, values: Sequence[Any]) -> bool:
    if not known.numbers:
        return False
    first = 0 if known.lower is None else bisect_left(values, known.lower)
    return first < len(values) and (known.upper is None or values[first] <= known.upper)


def _starts(known: Known, prefix: Any) -> bool:
    if not known.numbers:
        return False
    if known.upper is not None and known.upper < prefix:
        return False
    return known.lower is None or known.lower[: len(prefix)] <= prefix


def _starts_not(known: Known, prefix: Any) -> bool:
    if not known.numbers:
        return False
    ends = (known.lower, known.upper)
    return any(end is None or end[: len(prefix)] != prefix for end in ends)


_POSSIBLE: dict[str, Callable[[Known, Any], bool]] = {
    "null": lambda known, _: known.nulls,
    "not null": lambda known, _: known.numbers or known.nans,
    "nan": lambda known, _: known.nans,
    "not nan": lambda known, _: known.numbers,
    "==": _equal,
    "!=": lambda known, value: known.nans or (known.numbers and not _is_only(known, (value,))),
    "<": lambda known, value: known.numbers and (known.lower is None or known.lower < value),
    "<=": lambda known, value: known.numbers and (known.lower is None or known.lower <= value),
    ">": lambda known, value: known.nans or (known.numbers and (known.upper is None or known.upper > value)),
    ">=": lambda known, value: known.nans or (known.numbers and (known.upper is None or known.upper >= value)),
    "in": _in,
    "not in": lambda known, values: known.nans or (known.numbers and not _is_only(known, values)),
    "starts with": _starts,
    "not starts with": _starts_not,
}

_OPPOSITES: dict[CheckKind, CheckKind] = {
    "null": "not null",
    "nan": "not nan",
    "==": "!=",
    "<": ">=",
    "<=": ">",
    "in": "not in",
    "starts with": "not starts with",
}
_OPPOSITES |= {opposite: kind for kind, opposite in _OPPOSITES.items()}


def presence(kind: t.IcebergType, values: int | None, nulls: int | None, nans: int | None) -> tuple[bool, bool, bool]:
    """Whether there may be nulls, numbers (what is neither null nor NaN), and NaNs, judged by their counts."""
    floating = kind in FLOATS
    nans = nans if floating else 0
    all_told = values is not None and nulls is not None
    only_null = all_told and nulls >= values  # type: ignore[operator]
    empty = all_told and nulls + (nans or 0) >= values  # type: ignore[operator]
    return nulls is None or nulls > 0, not empty, floating and (nans is None or nans > 0) and not only_null


def holds_whole(kind: t.IcebergType) -> bool:
    """Whether bounds of a type are never cut short."""
    return not isinstance(kind, t.FixedType) and str(kind) not in ("string", "binary")


class PartitionSource(Struct, frozen=True):
    """A partition field that is made of a column.

    Attributes:
        position: its place in the spec.
        field_id: its id.
        transform: how it is made.
    """

    position: int
    field_id: int
    transform: Transform


def partition_sources(spec: PartitionSpec, check: Check) -> tuple[PartitionSource, ...]:
    """The partition fields that are made of the column of a check."""
    return tuple(
        PartitionSource(position, field.field_id, parse_transform(field.transform))
        for position, field in enumerate(spec.fields)
        if field.source_id == check.reference.field.field_id
    )


def allowed_by_summaries(
    check: Check, sources: Sequence[PartitionSource], summaries: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether a check can be true in a file of a manifest whose partition values are summed up so."""
    return all(
        _allowed_by_summary(check, source.transform, summaries[source.position])
        for source in sources
        if source.position < len(summaries)
    )


def allowed_by_partition(check: Check, transform: Transform, value: Any) -> bool:
    """Whether a check can be true in a file with that partition value, in Avro's raw form.

    A value of another type than the transform makes tells nothing.
    """
    kind = check.reference.field.type
    if isinstance(value, bytes) and isinstance(kind, t.DecimalType) and transform.name != "bucket":
        value = int.from_bytes(value, "big", signed=True)
    if value is not None and type(value) is not _value_type(_result_type(transform, kind)):
        return True
    if transform.name == "bucket":
        return value is None or _in_buckets(check, transform, value, value)
    floating = kind in FLOATS
    if value is None:
        # Of null every transform makes null, but "void" makes it of everything.
        if transform.name == "void" or source_range(transform, kind, None, None) is None:
            return True
        return possible(check, Known(nulls=True, numbers=False))
    if floating and value != value:
        return possible(check, Known(nulls=False, numbers=False, nans=True))
    found = source_range(transform, kind, value, value)
    if found is None:
        return True
    exact = transform.name == "identity"
    return possible(check, Known(found[0], found[1], nulls=False, nans=False, exact=exact))


def _allowed_by_summary(check: Check, transform: Transform, summary: Mapping[str, Any]) -> bool:
    kind = check.reference.field.type
    result = _result_type(transform, kind)
    low = decode_bound(result, summary.get("lower_bound"))
    high = decode_bound(result, summary.get("upper_bound"))
    if transform.name == "bucket":
        return low is None or high is None or _in_buckets(check, transform, low, high)
    found = source_range(transform, kind, low, high)
    if found is None:
        return True
    nans = kind in FLOATS and summary.get("contains_nan") is not False
    # Without bounds there is nothing but null and NaN; not every writer keeps to that.
    return possible(check, Known(found[0], found[1], nulls=bool(summary.get("contains_null", True)), nans=nans))


def _in_buckets(check: Check, transform: Transform, low: int, high: int) -> bool:
    if check.kind not in ("==", "in"):
        return True
    values = check.value if check.kind == "in" else (check.value,)
    numbers = (bucket(check.reference.field.type, value, transform.width) for value in values)
    return any(number is None or low <= number <= high for number in numbers)


def _value_type(kind: t.IcebergType) -> type[Any]:
    """The type of canonical values of a primitive type."""
    if isinstance(kind, t.FixedType):
        return bytes
    return _VALUE_TYPES.get(str(kind), int)


_VALUE_TYPES: dict[str, type[Any]] = {
    "boolean": bool,
    "float": float,
    "double": float,
    "string": str,
    "uuid": bytes,
    "binary": bytes,
}


def _result_type(transform: Transform, kind: t.IcebergType) -> t.IcebergType:
    return t.PrimitiveType("int") if transform.name in ("bucket", "year", "month", "day", "hour") else kind
