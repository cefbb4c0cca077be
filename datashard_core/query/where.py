"""Conditions of a scan, applied to a stream of Arrow batches.

A condition is SQL text (DuckDB's, with its three-valued logic) or a ``pyarrow.compute`` expression.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from datashard_core.errors import ConfigurationError
from datashard_core.query.duck import connect

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc


def check_where(where: Any, schema: pa.Schema, table_name: str) -> None:
    """Refuse a condition that the table's columns cannot answer, before anything is read.

    Args:
        where: SQL text, a ``pyarrow.compute.Expression``, or None.
        schema: the table's Arrow schema.
        table_name: for messages.

    Raises:
        ConfigurationError: it is neither, does not parse, or names an unknown column.
    """
    import pyarrow as pa

    if where is None:
        return
    empty = pa.RecordBatchReader.from_batches(schema, [])
    for _ in matching(iter(empty), schema, where, None, table_name):
        pass


def matching(
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    where: str | pc.Expression,
    columns: Sequence[str] | None,
    table_name: str,
) -> Iterator[pa.RecordBatch]:
    """The rows that the condition is true for (not false, not null), with the columns asked for."""
    import pyarrow.compute as pc

    wanted = list(columns) if columns is not None else schema.names
    if isinstance(where, pc.Expression):
        return _by_expression(batches, schema, where, wanted, table_name)
    if isinstance(where, str) and where.strip():
        return _by_sql(batches, schema, where, wanted, table_name)
    raise ConfigurationError(
        f"table {table_name}: where={where!r} is no condition. Pass SQL text such as \"state = 'failed'\", or a "
        "pyarrow.compute expression."
    )


def _by_expression(
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    where: pc.Expression,
    columns: list[str],
    table_name: str,
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    try:
        yield from _filtered([pa.RecordBatch.from_pylist([], schema)], where, columns)
        yield from _filtered(batches, where, columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigurationError(f"table {table_name}: the condition {where} does not fit: {error}") from error


def _filtered(batches: Any, where: pc.Expression, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        kept = batch.filter(where)
        if kept.num_rows:
            yield kept.select(columns)


def _by_sql(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, where: str, columns: list[str], table_name: str
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    connection = connect()
    import duckdb

    reader = pa.RecordBatchReader.from_batches(schema, batches)
    selected = ", ".join(_quoted(name) for name in columns)
    target = pa.schema([schema.field(name) for name in columns])
    try:
        connection.register("scanned", reader)
        # In brackets on lines of its own, so that a comment or an "or" in it cannot reach the rest.
        answer = connection.execute(f"select {selected} from scanned where (\n{where}\n)")
        for batch in answer.to_arrow_reader(100_000):
            if batch.num_rows:
                yield from pa.Table.from_batches([batch]).cast(target).to_batches()
    except duckdb.Error as error:
        raise ConfigurationError(f"table {table_name}: the condition {where!r} cannot be answered: {error}") from error
    finally:
        connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
