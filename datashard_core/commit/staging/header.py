"""The header of a staged body: its fields and their limits, and the data files that it describes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import asdict

from datashard_core.commit.staging.errors import UnreadableBodyError, not_decoded
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.statistics.ordering import number_formats
from datashard_core.format.types.schema import Schema

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Counts = dict[_Id, _Count]
_Bounds = dict[_Id, str]


class Format(Struct):
    """The part of a header that every format has."""

    format: _Id


class DescribedFile(Struct):
    """A data file as a header describes it.

    :class:`~datashard_core.format.metadata.data_file.DataFile` explains the fields.
    """

    file_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    record_count: _Count
    file_size_in_bytes: Annotated[int, Meta(ge=1, le=2**50)]
    column_sizes: _Counts
    value_counts: _Counts
    null_value_counts: _Counts
    nan_value_counts: _Counts
    lower_bounds: _Bounds
    upper_bounds: _Bounds
    split_offsets: tuple[_Count, ...] | None = None
    sort_order_id: _Id | None = None
    spec_id: _Id = 0
    content: Literal[0] = 0
    file_format: Literal["PARQUET"] = "PARQUET"
    equality_ids: None = None
    partition: dict[str, Any] = {}


class Header(Struct):
    """The header of a body of format :data:`~datashard_core.commit.staging.body.FORMAT`."""

    table: str
    append_id: str = field(name="append-id")
    digest: Annotated[str, Meta(pattern=r"\A([0-9a-f]{32})?\Z")]
    schema_id: _Id = field(name="schema-id")
    files: tuple[DescribedFile, ...] | UnsetType = UNSET
    plain_rows: _Count | UnsetType = field(name="plain-rows", default=UNSET)


def files_of(header: Header) -> tuple[DataFile, ...]:
    """The data files that a header describes.

    Raises:
        UnreadableBodyError: a description contradicts itself.
    """
    if header.files is UNSET:
        return ()
    return tuple(_file_of(described) for described in header.files)


def _file_of(described: DescribedFile) -> DataFile:
    """The file of a description.

    Raises:
        UnreadableBodyError: the description contradicts itself.
    """
    if described.partition:
        raise UnreadableBodyError(
            f"the staged body describes {described.file_path[:100]!r} with partition values, and appends write none"
        )
    counted = described.value_counts
    if any(nulls > counted.get(column, nulls) for column, nulls in described.null_value_counts.items()):
        raise UnreadableBodyError(
            f"the staged body describes {described.file_path[:100]!r} with more nulls than values"
        )
    try:
        lower, upper = (
            {column: bytes.fromhex(text) for column, text in bounds.items()}
            for bounds in (described.lower_bounds, described.upper_bounds)
        )
    except ValueError as error:
        raise not_decoded(error) from error
    return DataFile(**{**asdict(described), "lower_bounds": lower, "upper_bounds": upper})


def check_bounds(files: Sequence[DataFile], schema: Schema) -> None:
    """Refuse bounds of numbers whose length is not that of a number.

    Raises:
        UnreadableBodyError: there is one.
    """
    for file in files:
        for bounds in (file.lower_bounds, file.upper_bounds):
            for column, data in bounds.items():
                found = schema.find(column)
                formats = number_formats(found.type) if found is not None else {}
                if formats and len(data) not in formats:
                    raise UnreadableBodyError(
                        f"the staged body describes {file.file_path[:100]!r} with a bound of {len(data)} bytes for "
                        f"column {column}, which is {found.type if found is not None else ''}"
                    )
