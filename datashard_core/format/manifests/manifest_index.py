"""What conditions ask of the live files of a manifest, column by column: bounds, counts and partition values.

Thousands of files judged one by one take as long as reading what is said of them; a column of bounds is
compared with a value at once. A manifest never changes, so an index that is kept answers without reading it.
"""

from __future__ import annotations

import operator
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress, repeat
from typing import Any

from msgspec import Struct

from datashard_core.format.avro.record_pattern import Decoder, number, sized
from datashard_core.format.expressions.binding import AllOf, AnyOf, Bound, Check, Fixed
from datashard_core.format.expressions.pruning import (
    Known,
    PartitionSource,
    allowed_by_partition,
    holds_whole,
    possibility,
    possible,
    presence,
)
from datashard_core.format.metadata.transforms import Transform
from datashard_core.format.statistics.metrics import FLOATS
from datashard_core.format.statistics.ordering import decode_bound, number_formats
from datashard_core.format.types import types as t

Column = tuple[int, t.IcebergType]
"""Id of a column and its type: what its bounds mean depends on both."""
Presence = tuple[bool, bool, bool]
"""Whether there may be nulls, numbers, NaNs."""
SourcesOf = Callable[[Check], Sequence[PartitionSource]]
"""The partition fields that are made of the column of a check."""
Raw = Sequence[bytes | None]
"""A value as Avro has it for each file, None where it is null or not there."""

_ORDERED: dict[str, tuple[tuple[str, Callable[[Any, Any], bool]], ...]] = {
    "<": (("lower", operator.lt),),
    "<=": (("lower", operator.le),),
    ">": (("upper", operator.gt),),
    ">=": (("upper", operator.ge),),
    "==": (("lower", operator.le), ("upper", operator.ge)),
}
"""How a bound has to compare with the value of a check; see ``pruning`` for what is not as simple."""
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class ColumnFacts(Struct, frozen=True):
    """What is told of a column of each file.

    Attributes:
        lower: the lower bounds, None where none is told.
        upper: the upper bounds, likewise.
        presence: what values there may be; a single one is that of all files.
        whole: what is known of all files together.
        told: whether every bound is told, and every file has the same presence.
    """

    lower: Sequence[Any]
    upper: Sequence[Any]
    presence: Sequence[Presence]
    whole: Known
    told: bool


class ManifestIndex:
    """The live files of one manifest, and what is known of some columns.

    Args:
        starts: for each file its place in the manifest; what that is does not matter here.
        columns: what is told of columns.
        partitions: partition values by field id.
    """

    def __init__(
        self, starts: Sequence[int], columns: Mapping[Column, ColumnFacts], partitions: Mapping[int, Sequence[Any]]
    ) -> None:
        self.starts = starts
        self._columns = dict(columns)
        self._partitions = {field_id: _packed(values) for field_id, values in partitions.items()}

    def covers(self, columns: Iterable[Column], partitions: Iterable[int]) -> bool:
        """Whether it can answer conditions on those columns and partition fields."""
        return self._columns.keys() >= set(columns) and self._partitions.keys() >= set(partitions)

    def united(self, other: ManifestIndex) -> ManifestIndex:
        """What this one and another of the same manifest know."""
        columns, partitions = {**self._columns, **other._columns}, {**self._partitions, **other._partitions}
        return ManifestIndex(self.starts, columns, partitions)

    @property
    def size(self) -> int:
        """About how many bytes it holds in memory."""
        lists: list[Sequence[Any]] = [self.starts, *self._partitions.values()]
        for facts in self._columns.values():
            lists += [facts.lower, facts.upper]
        return sum(map(_bytes_of, lists))

    def places(self, bound: Bound, sources: SourcesOf) -> Sequence[int]:
        """Which of the files may hold rows that match, in their order."""
        return self._left(bound, range(len(self.starts)), sources)

    def _left(self, bound: Bound, files: Sequence[int], sources: SourcesOf) -> Sequence[int]:
        if isinstance(bound, Check):
            return self._left_by_check(bound, files, sources(bound))
        if isinstance(bound, AllOf):
            for part in bound.parts:
                files = self._left(part, files, sources)
            return files
        if isinstance(bound, AnyOf):
            return sorted({file for part in bound.parts for file in self._left(part, files, sources)})
        return () if isinstance(bound, Fixed) and not bound.value else files

    def _left_by_check(self, check: Check, files: Sequence[int], sources: Sequence[PartitionSource]) -> Sequence[int]:
        facts = self._columns[check.reference.field.field_id, check.reference.field.type]
        if not files or not possible(check, facts.whole):
            return ()
        for source in sources:
            files = _left_by_partition(check, files, source.transform, self._partitions[source.field_id])
        if facts.told and check.kind in _ORDERED:
            return _left_by_order(check, files, facts)
        is_possible, exact = possibility(check), holds_whole(check.reference.field.type)
        lower, upper, told = facts.lower, facts.upper, facts.presence
        same = len(told) == 1
        return [
            file
            for file in files
            if is_possible(Known(lower[file], upper[file], *told[0 if same else file], exact), check.value)
        ]


def _left_by_partition(
    check: Check, files: Sequence[int], transform: Transform, values: Sequence[Any]
) -> Sequence[int]:
    """The files whose partition value allows that the check is true."""
    compares = _COMPARED.get(check.kind)
    if (
        compares is not None
        and transform.name == "identity"
        and set(map(type, values)) <= {type(check.value)} <= {str, int}
    ):
        # Every row has that very value, and it is neither null nor NaN.
        chosen = values if len(files) == len(values) else [values[file] for file in files]
        return list(compress(files, map(compares, chosen, repeat(check.value))))
    judged = {value: allowed_by_partition(check, transform, value) for value in set(values)}
    return [file for file in files if judged[values[file]]]


def _left_by_order(check: Check, files: Sequence[int], facts: ColumnFacts) -> Sequence[int]:
    """The same for bounds that are all there; that there may be a value at all has been looked at."""
    nans = facts.presence[0][2]
    if nans and check.kind in (">", ">="):
        return files
    for end, compares in _ORDERED[check.kind]:
        bounds: Sequence[Any] = getattr(facts, end)
        if len(files) < len(bounds):
            bounds = [bounds[file] for file in files]
        files = list(compress(files, map(compares, bounds, repeat(check.value))))
    return files


class ColumnBuilder:
    """Gathers what is told of a column of one file after the other.

    Args:
        kind: the column's type.
    """

    def __init__(self, kind: t.IcebergType) -> None:
        self._kind = kind
        self._lower: list[Any] = []
        self._upper: list[Any] = []
        self._presence: list[Presence] = []
        self._counted: dict[tuple[bytes | None, ...], Presence] = {}

    def add(self, values: Raw, nulls: Raw, nans: Raw, lower: Raw, upper: Raw) -> None:
        """More files: the counts of values, nulls and NaNs, and the bounds, each with its length before it."""
        # Files of a table mostly have a few different counts, and as many bounds as there are files.
        counts = list(zip(values, nulls, nans, strict=True))
        counted = {
            one: presence(self._kind, *(None if raw is None else number(raw) for raw in one)) for one in set(counts)
        }
        self._presence += map(counted.__getitem__, counts)
        self._lower += _bounds(self._kind, lower)
        self._upper += _bounds(self._kind, upper)

    def done(self) -> ColumnFacts:
        """What was told."""
        present = list(set(self._presence))
        lower_told, upper_told = None not in self._lower, None not in self._upper
        whole = Known(
            min(self._lower, default=None) if lower_told else None,
            max(self._upper, default=None) if upper_told else None,
            *(any(one[place] for one in present) for place in range(3)),
        )
        same = len(present) == 1
        told = lower_told and upper_told and same
        return ColumnFacts(_packed(self._lower), _packed(self._upper), present if same else self._presence, whole, told)


def partition_values(raw: Raw, decode: Decoder) -> list[Any]:
    """Partition values out of their Avro form; equal ones are one object."""
    decoded: dict[bytes | None, Any] = {one: None if one is None else decode(one) for one in set(raw)}
    return [decoded[one] for one in raw]


def _bounds(kind: t.IcebergType, raw: Raw) -> list[Any]:
    """Bounds in canonical form, None for those that tell nothing."""
    forms = {1 + length: struct.Struct(f"<x{form[1:]}") for length, form in number_formats(kind).items()}
    if not forms:
        return [None if one is None else decode_bound(kind, sized(one)) for one in raw]
    lengths = {0} if None in raw else set(map(len, raw))  # type: ignore[arg-type] # none is None there
    form = forms.get(next(iter(lengths), 0))
    if len(lengths) > 1 or form is None:
        return [None if one is None else decode_bound(kind, sized(one)) for one in raw]
    values = [value for (value,) in form.iter_unpack(b"".join(raw))]  # type: ignore[arg-type]
    return [None if value != value else value for value in values] if kind in FLOATS else values


def _packed(values: Sequence[Any]) -> Sequence[Any]:
    """The values in as little memory as is easily had."""
    if isinstance(values, array):
        return values
    kinds = set(map(type, values))
    try:
        return array("q", values) if kinds == {int} else array("d", values) if kinds == {float} else values
    except OverflowError:  # decimals may have more digits
        return values


def _bytes_of(values: Sequence[Any]) -> int:
    held = 0 if isinstance(values, array) else sum(map(sys.getsizeof, values))
    return sys.getsizeof(values) + held
