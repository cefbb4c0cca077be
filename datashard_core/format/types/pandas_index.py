"""What becomes of the index of a pandas frame: one rule, for appends and for inferred schemas.

- A level with a name is a column of that name.
- A ``RangeIndex`` without a name, whatever its start and step, counts rows as pandas itself does, and is left out.
- Anything else without a name is an error: numbers that a sort or a filter left may mean something, or nothing, and
  only their owner knows which.

pandas decides what is a ``RangeIndex``: a filter may leave one or not, as the rows fall. The rule does not guess.

Arrow, and so Parquet files of pandas, calls a level without a name ``__index_level_0__``. A table that has a field of
that name gets the level there. Arrow keeps a ``RangeIndex`` as a note beside its columns.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from datashard_core.arguments import is_unicode, shown
from datashard_core.format.types.values import UnusableError

if TYPE_CHECKING:
    import pyarrow as pa

_UNNAMED = re.compile(r"__index_level_\d+__")


def is_frame(data: Any) -> bool:
    """Whether it is a frame of pandas; those have an Arrow stream, too, since release 2.2."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def with_index(frame: Any, names: Collection[str] = ()) -> Any:
    """The frame with what its index says as columns, behind its own.

    Args:
        frame: a pandas data frame.
        names: of the table's fields.

    Raises:
        UnusableError: a level has no name and is no range, or the columns cannot be fields: a name is there twice, or
            is no text.
    """
    import pandas as pd

    index = frame.index
    levels = [name if name is not None else f"__index_level_{place}__" for place, name in enumerate(index.names)]
    left_out = isinstance(index, pd.RangeIndex) and index.name is None
    if not left_out:
        for place, level in enumerate(levels):
            if index.names[place] is None and level not in names:
                which = f" (level {place} of {index.nlevels})" if index.nlevels > 1 else ""
                raise UnusableError(
                    f"the frame's index{which} has no name, is no RangeIndex, and holds "
                    f"{index.get_level_values(place).dtype} values: name it with frame.rename_axis('name') to keep it "
                    "as a column, or drop it with frame.reset_index(drop=True)"
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


def check_index(schema: pa.Schema, names: Collection[str]) -> None:
    """Refuse an Arrow table that was made of a frame whose index is neither left out nor a column with a name.

    Args:
        schema: of the table.
        names: of the fields that the rows are for: an index that has one is a column.

    Raises:
        UnusableError: a level of the index has no name and is no range, or a range has a name: Arrow keeps that as a
            note, which a filter of the Arrow table does not change.
    """
    for name in schema.names:
        if _UNNAMED.fullmatch(name) and name not in names:
            raise UnusableError(
                f"the column {name!r} of type {schema.field(name).type} is the index of a pandas frame and has no "
                f"name: rename the column to keep it, or drop it with table.drop_columns([{name!r}])"
            )
    if schema.metadata is None or b"pandas" not in schema.metadata:
        return
    for level in (schema.pandas_metadata or {}).get("index_columns", ()):
        if isinstance(level, dict) and level.get("name") is not None and level["name"] not in schema.names:
            raise UnusableError(
                f"the Arrow table was made of a pandas frame with a RangeIndex named {shown(level['name'])}, and has "
                "no such column: keep it with pa.Table.from_pandas(frame, preserve_index=True), or drop it with "
                "table.replace_schema_metadata()"
            )


def check_unique(names: Sequence[str]) -> None:
    """Refuse a name that is there twice.

    Raises:
        UnusableError: it names the column.
    """
    for name in sorted(set(names)):
        if names.count(name) > 1:
            raise UnusableError(f"the column {name!r} is there {names.count(name)} times; rename or drop the others")
