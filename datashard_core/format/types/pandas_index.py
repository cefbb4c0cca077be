"""What becomes of the index of a pandas frame: one rule, for appends and for inferred schemas.

- A level with a name is a column of that name.
- Integers without a name are the numbers of rows, of which a filter, a sort or ``drop_duplicates`` leaves some, and
  carry nothing: they are left out. Whether pandas keeps such an index as a range depends on the rows that are left, so
  the rule does not.
- Anything else without a name (times, texts, a level of several) is an error: it says something, and has no place.

Arrow, and so Parquet files of pandas, calls a level without a name ``__index_level_0__``. A table that has a field of
that name gets the level there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from datashard_core.arguments import is_unicode, shown
from datashard_core.format.types.values import UnusableError

if TYPE_CHECKING:
    import pyarrow as pa

_UNNAMED = re.compile(r"__index_level_\d+__")


def with_index(frame: Any, names: Collection[str] = ()) -> Any:
    """The frame with what its index says as columns, behind its own.

    Args:
        frame: a pandas data frame.
        names: of the table's fields.

    Raises:
        UnusableError: a level has no name and is no row number, or the columns cannot be fields: a name is there
            twice, or is no text.
    """
    import pandas as pd

    index = frame.index
    levels = [name if name is not None else f"__index_level_{place}__" for place, name in enumerate(index.names)]
    left_out = index.nlevels == 1 and index.name is None and _are_row_numbers(index, levels[0], names)
    if not left_out:
        for place, level in enumerate(levels):
            if index.names[place] is None and level not in names:
                which = f" (level {place} of {index.nlevels})" if index.nlevels > 1 else ""
                raise UnusableError(
                    f"the frame's index{which} has no name and holds {index.get_level_values(place).dtype} values: "
                    "name it with frame.rename_axis('name') to keep it as a column, or drop it with "
                    "frame.reset_index(drop=True)"
                )
    own = list(frame.columns)
    every = own if left_out else [*own, *levels]
    for name in every:
        if not isinstance(name, str) or not is_unicode(name):
            raise UnusableError(f"the frame has a column named {shown(name)}, and names of fields are text; rename it")
    check_unique(own)
    if left_out:
        return frame
    for level in levels:
        if level in own or levels.count(level) > 1:
            raise UnusableError(
                f"the levels of the frame's index cannot become columns: there are several of the name {level!r}; "
                "rename one with frame.rename_axis('name')"
            )
    columns = index.to_frame(index=False, name=levels if index.nlevels > 1 else levels[0])
    return pd.concat([frame.reset_index(drop=True), columns], axis=1)


def _are_row_numbers(index: Any, level: str, names: Collection[str]) -> bool:
    import pandas as pd

    return isinstance(index, pd.RangeIndex) or (pd.api.types.is_integer_dtype(index.dtype) and level not in names)


def without_row_numbers(table: pa.Table, names: Collection[str]) -> pa.Table:
    """An Arrow table without the row numbers of a pandas frame that it was made of.

    Args:
        table: the table.
        names: of the table's fields: what has one is kept.

    Raises:
        UnusableError: a level of the frame's index has no name and is no row number.
    """
    import pyarrow as pa

    unrecorded = [name for name in table.column_names if _UNNAMED.fullmatch(name) and name not in names]
    if not unrecorded:
        return table
    told = (table.schema.pandas_metadata or {}).get("index_columns", [])
    for name in unrecorded:
        kind = table.schema.field(name).type
        if name not in told or len(told) > 1 or not pa.types.is_integer(kind):
            raise UnusableError(
                f"the column {name!r} of type {kind} is the index of a pandas frame and has no name: rename the "
                "column to keep it, or drop it"
            )
    return table.drop_columns(unrecorded)


def check_unique(names: Sequence[str]) -> None:
    """Refuse a name that is there twice.

    Raises:
        UnusableError: it names the column.
    """
    for name in sorted(set(names)):
        if names.count(name) > 1:
            raise UnusableError(f"the column {name!r} is there {names.count(name)} times; rename or drop the others")
