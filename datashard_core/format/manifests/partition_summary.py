"""Summaries of partition values, as a manifest list has them for each manifest (spec, "field_summary").

Readers leave out a manifest whose summary rules a value out, so the summary of several manifests
together must enclose all of theirs; where one of them tells nothing, nothing is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datashard_core.errors import CorruptTableError
from datashard_core.format.manifests.manifest_schema import transformed
from datashard_core.format.metadata.partition import PartitionSpec
from datashard_core.format.statistics.bounds import PACKED
from datashard_core.format.statistics.ordering import decode_bound
from datashard_core.format.types import types as t
from datashard_core.format.types.schema import Schema

Summary = Mapping[str, Any]


def partition_types(spec: PartitionSpec, schema: Schema) -> tuple[t.IcebergType, ...] | None:
    """Types of a spec's partition values; None if a column that it is made of is gone."""
    kinds = []
    for field in spec.fields:
        source = schema.find(field.source_id)
        if source is None:
            return None
        kinds.append(transformed(source.type, field.transform))
    return tuple(kinds)


def united(summaries: Sequence[Sequence[Summary] | None], kinds: Sequence[t.IcebergType]) -> tuple[Summary, ...] | None:
    """The summaries of several manifests together.

    Args:
        summaries: for each manifest its summaries, one for each partition field; None where it has none.
        kinds: types of the partition values.

    Returns:
        One summary for each field; None where a manifest tells nothing.
    """
    told = [summary for summary in summaries if summary is not None and len(summary) == len(kinds)]
    if len(told) < len(summaries):
        return () if not kinds else None
    return tuple(_united([one[index] for one in told], kind) for index, kind in enumerate(kinds))


def _united(parts: Sequence[Summary], kind: t.IcebergType) -> Summary:
    nan = [part.get("contains_nan") for part in parts]
    order = _order(kind)
    return {
        "contains_null": any(part["contains_null"] for part in parts),
        "contains_nan": True if any(nan) else None if None in nan else False,
        "lower_bound": _extreme(parts, "lower_bound", lambda bounds: min(bounds, key=order)),
        "upper_bound": _extreme(parts, "upper_bound", lambda bounds: max(bounds, key=order)),
    }


def _extreme(parts: Sequence[Summary], name: str, choose: Callable[[list[bytes]], bytes]) -> bytes | None:
    """The bound of all parts. One without bounds has nothing but nulls and NaN."""
    bounds = [bytes(part[name]) for part in parts if part.get(name) is not None]
    return choose(bounds) if bounds else None


def _order(kind: t.IcebergType) -> Callable[[bytes], Any]:
    """How bounds in Iceberg's binary form compare."""
    if isinstance(kind, t.DecimalType):
        return lambda bound: int.from_bytes(bound, "big", signed=True)
    packed = PACKED.get(str(kind))
    if packed is None:
        return lambda bound: bound  # text and bytes: by unsigned bytes

    def order(bound: bytes) -> Any:
        value = decode_bound(kind, bound)
        if value is None:
            raise CorruptTableError(f"a bound of {len(bound)} bytes in a manifest list is no {kind}: restore the list")
        return value

    return order
