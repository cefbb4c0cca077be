"""The dates, times and timestamps that a table takes: those that Python has.

Iceberg stores numbers, and 32 or 64 bits hold more than any reader does: readers in Python fail beyond the years 1 to
9999, and some engines read the ends of 64 bits as infinity, and a time of 24:00 as 00:00. An append takes none of
these. Tables of other writers may hold them: conditions and Arrow results are right for them all the same, and
:func:`check_python` refuses to make Python values of them, which would be wrong or impossible.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from datashard_core.errors import UnsupportedTableError

if TYPE_CHECKING:
    import pyarrow as pa

_DAY = 86_400_000_000
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_CYCLE_DAYS, _CYCLE_YEARS = 146_097, 400  # after so many, the calendar repeats itself

STORED: dict[str, tuple[int, int]] = {
    "date": (_FIRST_DAY, _LAST_DAY),
    "time": (0, _DAY - 1),
    "timestamp": (_FIRST_DAY * _DAY, (_LAST_DAY + 1) * _DAY - 1),
    "timestamptz": (_FIRST_DAY * _DAY, (_LAST_DAY + 1) * _DAY - 1),
}
"""Name of a type -> lowest and highest value that it may have, as stored: days, or microseconds."""

RULES = {
    "date": "a date is from 0001-01-01 to 9999-12-31",
    "time": "a time of day is from 00:00:00 to 23:59:59.999999",
    "timestamp": "a timestamp is in the years 1 to 9999",
    "timestamptz": "a timestamp is in the years 1 to 9999 in UTC",
}
"""The same in words."""


def first_outside(array: pa.Array, name: str, present: Any = None) -> int:
    """Index of the first value that is outside the range of a type; -1 if there is none, or the type has no range.

    Args:
        array: dates, times or timestamps in the Arrow form of the type.
        name: name of the type.
        present: which values count; None: all.
    """
    if name not in STORED:
        return -1
    from datashard_core.format.kernels import kernels

    low, high = STORED[name]
    numbers = _numbers(array)
    found = kernels().call_function("min_max", [numbers])
    lowest, highest = found["min"].as_py(), found["max"].as_py()
    if lowest is None or low <= lowest <= highest <= high:
        return -1
    counted = present.to_pylist() if present is not None else [True] * len(array)
    for row, (value, counts) in enumerate(zip(numbers.to_pylist(), counted, strict=True)):
        if counts and value is not None and not low <= value <= high:
            return row
    return -1


def stored_text(value: int, name: str) -> str:
    """A stored date, time or timestamp as text, whatever its range.

    Example:
        >>> stored_text(253402300800000000, "timestamp"), stored_text(86400000000, "time")
        ('10000-01-01T00:00:00', '24:00:00')
    """
    if name == "time":
        return f"{'-' if value < 0 else ''}{_clock(abs(value))}"
    days, micros = (value, 0) if name == "date" else divmod(value, _DAY)
    cycles, day = divmod(days, _CYCLE_DAYS)
    date = dt.date.fromordinal(_EPOCH_DAY + day)
    text = f"{date.year + cycles * _CYCLE_YEARS:04d}-{date.month:02d}-{date.day:02d}"
    if name == "date":
        return text
    return f"{text}T{_clock(micros)}{'Z' if name == 'timestamptz' else ''}"


def _clock(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}" + (f".{fraction:06d}" if fraction else "")


def check_python(table: pa.Table, table_name: str, way_out: str) -> None:
    """Refuse rows with a value that Python's dates and times do not have.

    Args:
        table: the rows, in the Arrow form of a schema.
        table_name: for the message.
        way_out: how to read such a value.

    Raises:
        UnsupportedTableError: it names the column, the row and the value.
    """
    for column in table.column_names if table.num_columns else ():
        rows = 0
        for chunk in table.column(column).chunks:
            for leaf in _temporal(chunk):
                name = _name_of(leaf.type)
                row = first_outside(leaf, name)
                if row >= 0:
                    value = stored_text(_numbers(leaf)[row].as_py(), name)
                    at = f"row {rows + row} " if len(leaf) == len(chunk) else ""
                    raise UnsupportedTableError(
                        f"table {table_name}: {at}column {column!r} holds the {name} {value}, which another writer "
                        f"stored and Python has no value for ({RULES[name]}): {way_out}"
                    )
            rows += len(chunk)


def _numbers(array: pa.Array) -> pa.Array:
    import pyarrow as pa

    return array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())


def _name_of(kind: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_time(kind):
        return "time"
    return "timestamp" if kind.tz is None else "timestamptz"


def _temporal(array: pa.Array) -> Iterator[pa.Array]:
    """The arrays of dates, times and timestamps at any depth of an array; null where what is around them is null."""
    import pyarrow as pa

    from datashard_core.format.types.arrow_types import elements, is_listlike, map_as_lists

    kind = array.type
    if pa.types.is_struct(kind):
        for child in array.flatten():
            yield from _temporal(child)
    elif pa.types.is_map(kind):
        yield from _temporal(elements(map_as_lists(array)))
    elif is_listlike(kind):
        yield from _temporal(elements(array))
    elif pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        yield array
