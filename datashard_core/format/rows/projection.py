"""Rows of a Parquet file, brought into the shape of a schema: fields are found by id, never by name.

A file keeps the names, the order and the types of the day on which it was written. Iceberg's own
evolutions (add, drop, rename, reorder, widen) all keep the ids, so the ids decide (spec,
"Column Projection"). Pure: Arrow values to Arrow values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datashard_core.errors import CorruptTableError
from datashard_core.format.json_text import whole_number
from datashard_core.format.types.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

FIELD_ID = b"PARQUET:field_id"


def columns_to_read(file_schema: pa.Schema, wanted: pa.Schema) -> list[int]:
    """Places, in the file, of the top-level columns that ``wanted`` needs, in the file's order."""
    ids = {id_of(field) for field in wanted}
    return [place for place, field in enumerate(file_schema) if id_of(field) in ids]


def first_leaves(schema: pa.Schema) -> list[int]:
    """For each column of a file the place of its first leaf column in Parquet, and how many leaves there are."""
    starts = [0]
    for field in schema:
        starts.append(starts[-1] + _leaves(field.type))
    return starts


def _leaves(kind: pa.DataType) -> int:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    if pa.types.is_struct(kind):
        return sum(_leaves(child.type) for child in kind)
    if pa.types.is_map(kind):
        return _leaves(kind.key_type) + _leaves(kind.item_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaves(kind.value_type)
    return 1


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

    by_id = {id_of(field): index for index, field in enumerate(table.schema) if id_of(field) is not None}
    columns = []
    for field in wanted:
        index = by_id.get(id_of(field))
        if index is None:
            columns.append(_absent(field, table.num_rows, None, where))
            continue
        source = table.schema.field(index)
        column = table.column(index)
        # Names and types alone do not tell: two fields of a struct may have swapped their names.
        if not source.type.equals(field.type, check_metadata=True):
            chunks = [_adapt(chunk, source, field, where) for chunk in column.chunks]
            column = pa.chunked_array(chunks, type=field.type)
        columns.append(column)
    return pa.table(columns, schema=wanted)


def with_ids(file_schema: pa.Schema, current: Schema) -> pa.Schema:
    """The file's schema, with ids by name where the file has none at all (written by a tool without them).

    Raises nothing: a file with some ids is taken as it is.
    """
    import pyarrow as pa

    if any(id_of(field) is not None for field in file_schema):
        return file_schema
    return pa.schema(_named(list(file_schema), list(current.to_arrow())))


def _named(fields: Sequence[pa.Field], ours: Sequence[pa.Field]) -> list[pa.Field]:
    """Fields with the ids of ours that have their names, at every depth."""
    by_name = {field.name: field for field in ours}
    return [_with_id(field, by_name[field.name]) if field.name in by_name else field for field in fields]


def _with_id(field: pa.Field, ours: pa.Field) -> pa.Field:
    import pyarrow as pa

    kind, own = field.type, ours.type
    if pa.types.is_struct(kind) and pa.types.is_struct(own):
        kind = pa.struct(_named(list(kind), list(own)))
    elif _is_list(kind) and _is_list(own):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        kind = make(_with_id(kind.value_field, own.value_field))
    elif pa.types.is_map(kind) and pa.types.is_map(own):
        kind = pa.map_(_with_id(kind.key_field, own.key_field), _with_id(kind.item_field, own.item_field))
    return field.with_type(kind).with_metadata(ours.metadata)


def id_of(field: pa.Field) -> int | None:
    """Field id of an Arrow field; None if it has none."""
    text = (field.metadata or {}).get(FIELD_ID)
    return whole_number(text) if text is not None else None


def _absent(field: pa.Field, rows: int, nobody: Any, where: str) -> Any:
    """A column that the file lacks: null, or whatever where the struct around it is null (``nobody``)."""
    if field.nullable:
        return _nulls(rows, field.type)
    if rows and (nobody is None or not nobody.true_count == rows):
        raise CorruptTableError(f"{where}: required field {field.name!r} is not in the file")
    return _fillers(rows, field.type)


def _adapt(array: Any, source: pa.Field, target: pa.Field, where: str) -> Any:
    """One array in the target's type; children of structs, lists and maps are found by id as well."""
    import pyarrow as pa

    kind = target.type
    if pa.types.is_struct(kind) and pa.types.is_struct(source.type):
        return _adapt_struct(array, source, target, where)
    if _is_list(kind) and _is_list(source.type):
        offsets, (values,) = _window(array, [array.values])
        values = _adapt(values, source.type.value_field, kind.value_field, where)
        return type(pa.array([], kind)).from_arrays(offsets, values, type=kind, mask=_mask(array))
    if pa.types.is_map(kind) and pa.types.is_map(source.type):
        offsets, (keys, items) = _window(array, [array.keys, array.items])
        keys = _adapt(keys, source.type.key_field, kind.key_field, where)
        items = _adapt(items, source.type.item_field, kind.item_field, where)
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=_mask(array))
    if array.type == kind:
        return array
    try:
        return array.cast(kind)
    except pa.ArrowException as error:
        raise CorruptTableError(
            f"{where}: column {source.name!r} of type {source.type} does not fit {kind}: {error}"
        ) from error


def _adapt_struct(array: Any, source: pa.Field, target: pa.Field, where: str) -> Any:
    import pyarrow as pa

    by_id = {id_of(child): index for index, child in enumerate(source.type) if id_of(child) is not None}
    mask = _mask(array)
    children = []
    for child in target.type:
        index = by_id.get(id_of(child))
        if index is None:
            children.append(_absent(child, len(array), mask, where))
            continue
        found = _adapt(array.field(index), source.type.field(index), child, where)
        if not child.nullable and mask is not None:
            found = _without_nulls(found)
        children.append(found)
    return pa.StructArray.from_arrays(children, fields=list(target.type), mask=mask)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _window(array: Any, values: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Offsets that begin at zero, and the values that they point into: a slice shows a part of its values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
    offsets = pc.subtract(array.offsets, pa.scalar(first, array.offsets.type)).cast(pa.int32())
    return offsets, [one.slice(first, last - first) for one in values]


def _mask(array: Any) -> Any:
    return array.is_null() if array.null_count else None


def _nulls(count: int, kind: Any) -> Any:
    """Nothing but nulls, in the form that Arrow's Parquet writer takes: see :func:`_without_nulls`."""
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return pa.nulls(count, kind)
    return pa.StructArray.from_arrays(
        [_nulls(count, child.type) if child.nullable else _fillers(count, child.type) for child in kind],
        fields=list(kind),
        mask=pa.array([True] * count, pa.bool_()),
    )


def _without_nulls(array: Any) -> Any:
    """Some value in the place of each null.

    Arrow's Parquet writer refuses a null in a required field even where the struct around it is null.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not array.null_count:
        return array
    places = pc.if_else(array.is_null(), len(array), pa.array(range(len(array)), pa.int64()))
    return pa.concat_arrays([array, _fillers(1, array.type)]).take(places)


def _fillers(count: int, kind: Any) -> Any:
    """Values that nobody sees: zeros, empty texts, empty lists."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _fillers(count, kind.storage_type))
    if pa.types.is_struct(kind):
        children = [_nulls(count, one.type) if one.nullable else _fillers(count, one.type) for one in kind]
        return pa.StructArray.from_arrays(children, fields=list(kind))
    if _is_list(kind) or pa.types.is_map(kind):
        return pa.array([[]] * count, kind)
    # An array of nulls lies on zeros.
    return pa.Array.from_buffers(kind, count, [None, *pa.nulls(count, kind).buffers()[1:]], null_count=0)
