"""Whatever holds rows, as an Arrow table in a schema's form: all is checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from datashard_core.errors import InvalidRecordsError
from datashard_core.format.rows.columns import column_array
from datashard_core.format.types.pandas_index import is_frame
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.values import MisfitError, UnusableError, shown

if TYPE_CHECKING:
    import pyarrow as pa


def to_table(data: Any, schema: Schema, table_name: str) -> pa.Table:
    """The rows as an Arrow table whose schema is ``schema.to_arrow()``.

    Args:
        data: dicts (a list or another iterable), a pyarrow Table, RecordBatch, RecordBatchReader or iterable
            of batches, a pandas or Polars DataFrame, or another object with ``__arrow_c_stream__``.
        schema: what the rows have to fit. Columns are matched by name, case-sensitively.
        table_name: for messages.

    A missing optional field is null. Nothing is converted but where every value stays exactly what it is
    (:mod:`datashard_core.format.types.values`, :mod:`datashard_core.format.rows.frames`). Of a pandas frame, a named
    index counts as columns, a range without a name is left out (:mod:`datashard_core.format.types.pandas_index`), and
    pandas' marks for a missing value (NaN in its own float columns, NaT, NA, None) are null.

    Raises:
        InvalidRecordsError: there is no row, or one does not fit. The message names the table, the row
            (counted from 0), the field, the value and the expected type.

    Example:
        >>> schema = Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
        >>> to_table([{"n": 1}, {}], schema, "t").to_pylist()
        [{'n': 1}, {'n': None}]
    """
    from datashard_core.format.rows.frames import tables_of

    try:
        if isinstance(data, (list, tuple)) and not _holds_arrow(data[:1]):
            table = _from_rows(data, schema)
        elif (tables := tables_of(data, schema)) is not None:
            table = _joined(tables, schema)
        else:
            table = _from_iterable(data, schema)
    except MisfitError as error:
        raise error.as_error(table_name) from error.__cause__
    except UnusableError as error:
        raise InvalidRecordsError(f"table {table_name}: {error}. Nothing was written.") from error.__cause__
    if table is None or table.num_rows == 0:
        raise InvalidRecordsError(
            f"table {table_name}: there are no rows to append. Nothing was written; leave the call out when "
            "there is nothing to append."
        )
    return table


def _holds_arrow(items: Sequence[Any]) -> bool:
    streams = ("__arrow_c_array__", "__arrow_c_stream__")
    return any(is_frame(item) or any(hasattr(item, name) for name in streams) for item in items)


def _from_iterable(data: Any, schema: Schema) -> pa.Table | None:
    if isinstance(data, Mapping):
        raise UnusableError(f"{shown(data)} is one mapping, and rows are wanted; pass a list: [row]")
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise UnusableError(
            f"{shown(data)} of type {type(data).__name__} holds no rows; pass a list of dicts, or an Arrow, "
            "pandas or Polars table" + (" (call collect() first)" if hasattr(data, "collect") else "")
        )
    items = iter(data)
    try:
        first = next(items)
    except StopIteration:
        return None
    if not _holds_arrow([first]):
        return _from_rows([first, *items], schema)
    return _joined(_tables_of_each(chain([first], items), schema), schema)


def _tables_of_each(items: Iterable[Any], schema: Schema) -> Iterator[pa.Table]:
    from datashard_core.format.rows.frames import tables_of

    for index, item in enumerate(items):
        tables = tables_of(item, schema)
        if tables is None:
            raise UnusableError(f"item {index} is a {type(item).__name__}, and the ones before are Arrow's")
        yield from tables


def _joined(tables: Iterable[pa.Table], schema: Schema) -> pa.Table | None:
    import pyarrow as pa

    from datashard_core.format.rows.frames import fit

    fitted = []
    rows = 0
    for table in tables:
        try:
            fitted.append(fit(table, schema))
        except MisfitError as error:
            error.row += rows
            raise
        rows += table.num_rows
    return pa.concat_tables(fitted) if fitted else None


def _from_rows(rows: Sequence[Any], schema: Schema) -> pa.Table:
    import pyarrow as pa

    if set(map(type, rows)) - {dict}:
        rows = [_as_dict(row, index) for index, row in enumerate(rows)]
    names = set(schema.names)
    if set(chain.from_iterable(rows)) - names:
        raise _unknown_field(rows, schema.names)
    columns = []
    for field in schema.fields:
        name = field.name
        try:
            columns.append(column_array([row.get(name) for row in rows], field, name))
        except MisfitError as error:
            if error.path == name and name not in rows[error.row]:
                why = f"the required field of type {field.type} is missing"
                raise MisfitError(name, why, error.row) from None
            raise
    return pa.Table.from_arrays(columns, schema=schema.to_arrow())


def _as_dict(row: Any, index: int) -> dict[Any, Any]:
    if not isinstance(row, Mapping):
        raise UnusableError(f"row {index} is {shown(row)} of type {type(row).__name__}, and a row is a dict")
    return dict(row)


def _unknown_field(rows: Sequence[Mapping[Any, Any]], names: Sequence[str]) -> MisfitError:
    known = set(names)
    for index, row in enumerate(rows):
        for key, value in row.items():
            if key not in known:
                why = f"there is no such field (its value is {shown(value)}); the fields are {', '.join(names)}"
                return MisfitError(key if isinstance(key, str) else repr(key), why, index)
    raise AssertionError("called only where a row has an unknown field")
