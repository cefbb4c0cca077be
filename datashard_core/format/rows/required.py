"""Whether rows have every value that their schema requires: Arrow itself looks only when it writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def first_null(rows: pa.Table) -> str | None:
    """Path of the first required field that holds a null; None where there is none.

    Example:
        >>> field = pa.field("n", pa.int64(), nullable=False)
        >>> first_null(pa.table({"n": pa.array([None], pa.int64())}, schema=pa.schema([field])))
        'n'
    """
    for field, column in zip(rows.schema, rows.columns, strict=True):
        for chunk in column.chunks:
            found = _null_in(chunk, field, field.name)
            if found is not None:
                return found
    return None


def _null_in(array: Any, field: pa.Field, path: str) -> str | None:
    import pyarrow as pa

    if not field.nullable and array.null_count:
        return path
    kind = field.type
    children: list[tuple[Any, pa.Field]] = []
    if pa.types.is_struct(kind):
        children = [(array.field(index), child) for index, child in enumerate(kind)]
    elif pa.types.is_map(kind):
        children = [(array.keys, kind.key_field), (array.items, kind.item_field)]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        children = [(array.flatten(), kind.value_field)]
    return next((found for one, child in children if (found := _null_in(one, child, f"{path}.{child.name}"))), None)
