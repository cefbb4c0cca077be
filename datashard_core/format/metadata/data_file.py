"""Data files as manifests describe them (Iceberg spec, "Data file fields")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct, field

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""What numbers of manifests may be; checked where they are read, by ``msgspec.convert``."""


class DataFile(Struct, frozen=True):
    """One data file and its metrics.

    Attributes:
        file_path: its URI.
        record_count: rows in it.
        file_size_in_bytes: its size.
        partition: partition values by field name (those of uuid columns as 16 bytes); empty for an
            unpartitioned table.
        content: 0 data, 1 position deletes, 2 equality deletes.
        file_format: "PARQUET".
        column_sizes: field id -> bytes on disk.
        value_counts: field id -> values, nulls included.
        null_value_counts: field id -> nulls.
        nan_value_counts: field id -> NaNs (float and double only).
        lower_bounds: field id -> a value not above any, in Iceberg's binary form.
        upper_bounds: field id -> a value not below any, likewise.
        split_offsets: where row groups begin.
        equality_ids: for equality deletes only.
        sort_order_id: the order that the rows are in.
        spec_id: the partition spec that it was written with.
    """

    file_path: Annotated[str, Meta(min_length=1)]
    record_count: Count
    file_size_in_bytes: Count
    partition: Mapping[str, Any] = field(default_factory=dict)
    content: Annotated[int, Meta(ge=0, le=2)] = 0
    file_format: str = "PARQUET"
    column_sizes: Mapping[int, Count] = field(default_factory=dict)
    value_counts: Mapping[int, Count] = field(default_factory=dict)
    null_value_counts: Mapping[int, Count] = field(default_factory=dict)
    nan_value_counts: Mapping[int, Count] = field(default_factory=dict)
    lower_bounds: Mapping[int, bytes] = field(default_factory=dict)
    upper_bounds: Mapping[int, bytes] = field(default_factory=dict)
    split_offsets: tuple[Count, ...] | None = None
    equality_ids: tuple[Id, ...] | None = None
    sort_order_id: Id | None = None
    spec_id: Id = 0
