"""Rows of a Parquet file, brought into the shape of a schema: fields are found by id, never by name.

A file keeps the names, the order and the types of the day on which it was written. Iceberg's own
evolutions (add, drop, rename, reorder, widen) all keep the ids, so the ids decide (spec,
"Column Projection"). Pure: Arrow values to Arrow values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datashard_core.errors import CorruptTableError
from datashard_core.format.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

FIELD_ID = b"PARQUET:field_id"


def columns_to_read(file_schema: pa.Schema, wanted: pa.Schema) -> list[str]:
    """Names, in the file, of the top-level columns that ``wanted`` needs."""
    by_id = _by_id(list(file_schema))
    return [by_id[field_id].name for field_id in map(_id_of, wanted) if field_id in by_id]


def project(table: pa.Table, wanted: pa.Schema, where: str) -> pa.Table:
    """The columns of ``wanted`` out of rows read from a file.

    Args:
        table: rows as the file has them, with the field ids in the fields' metadata.
        wanted: the Arrow form of a table's schema, or of some of its columns.
        where: URI of the file, for messages.

    Returns:
        A table whose schema is ``wanted``; a column that the file lacks is null.

    Raises:
        CorruptTableError: a required field is missing, or a value does not fit.
    """
    import pyarrow as pa

    by_id = {_id_of(field): index for index, field in enumerate(table.schema)}
    columns = []
    for field in wanted:
        index = by_id.get(_id_of(field))
        if index is None:
            columns.append(_absent(field, table.num_rows, where))
            continue
        source = table.schema.field(index)
        column = table.column(index)
        if source.type != field.type:
            chunks = [_adapt(chunk, source, field, where) for chunk in column.chunks]
            column = pa.chunked_array(chunks, type=field.type)
        columns.append(column)
    return pa.table(columns, schema=wanted)


def with_ids(file_schema: pa.Schema, current: Schema) -> pa.Schema:
    """The file's schema, with ids by name where the file has none at all (written by a tool without them).

    Raises nothing: a file with some ids is taken as it is.
    """
    import pyarrow as pa

    if any(_id_of(field) is not None for field in file_schema):
        return file_schema
    ours = current.to_arrow()
    return pa.schema(
        [
            field.with_metadata(ours.field(field.name).metadata) if field.name in ours.names else field
            for field in file_schema
        ]
    )


def _id_of(field: pa.Field) -> int | None:
    metadata = field.metadata or {}
    text = metadata.get(FIELD_ID)
    return int(text) if text is not None else None


def _by_id(fields: Sequence[pa.Field]) -> Mapping[int | None, pa.Field]:
    return {_id_of(field): field for field in fields if _id_of(field) is not None}


def _absent(field: pa.Field, rows: int, where: str) -> Any:
    import pyarrow as pa

    if not field.nullable:
        raise CorruptTableError(f"{where}: required field {field.name!r} is not in the file")
    return pa.nulls(rows, field.type)


def _adapt(array: Any, source: pa.Field, target: pa.Field, where: str) -> Any:
    """One array in the target's type; children of structs, lists and maps are found by id as well."""
    import pyarrow as pa

    if source.type == target.type:
        return array
    kind = target.type
    if pa.types.is_struct(kind) and pa.types.is_struct(source.type):
        by_id = {_id_of(child): index for index, child in enumerate(source.type)}
        children = []
        for child in kind:
            index = by_id.get(_id_of(child))
            if index is None:
                children.append(pa.nulls(len(array), child.type))
            else:
                # flatten-like access that keeps the parent's nulls out of the way
                children.append(_adapt(array.field(index), source.type.field(index), child, where))
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
    if _is_list(kind) and _is_list(source.type):
        values = _adapt(array.values, source.type.value_field, kind.value_field, where)
        offsets = _offsets(array)
        return type(pa.array([], kind)).from_arrays(offsets, values, type=kind, mask=_mask(array))
    if pa.types.is_map(kind) and pa.types.is_map(source.type):
        keys = _adapt(array.keys, source.type.key_field, kind.key_field, where)
        items = _adapt(array.items, source.type.item_field, kind.item_field, where)
        return pa.MapArray.from_arrays(_offsets(array), keys, items, type=kind, mask=_mask(array))
    try:
        return array.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CorruptTableError(
            f"{where}: column {source.name!r} of type {source.type} does not fit {kind}: {error}"
        ) from error


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _offsets(array: Any) -> Any:
    return array.offsets


def _mask(array: Any) -> Any:
    return array.is_null() if array.null_count else None
