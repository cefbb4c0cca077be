"""Conditions of a scan: ``col(...)`` expressions, SQL text, or ``pyarrow.compute`` expressions.

Whatever the form, as much as is understood prunes files and row groups; the rows themselves are
chosen by exactly what was written: by Arrow's kernels where all of it is understood, else by DuckDB for
SQL text, and by Arrow's own evaluation for its expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from datashard_core.arguments import shown
from datashard_core.errors import ConfigurationError
from datashard_core.format.binding import TRUE, Bound, bind, checks_of, is_exact
from datashard_core.format.expressions import Condition
from datashard_core.format.row_filter import matching_rows
from datashard_core.format.schema import Schema

# What understands SQL text and Arrow's expressions is imported where there are some.

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

BatchFilter = Callable[["pa.RecordBatch"], "pa.RecordBatch"]
StreamFilter = Callable[[Iterable["pa.RecordBatch"], "pa.Schema"], Iterator["pa.RecordBatch"]]
_SCANNED = "scanned"
_ROWS = 100_000


class RowCondition(Struct, frozen=True):
    """A condition that is ready to be applied.

    Attributes:
        bound: as much of it as is understood; it is never true for fewer rows than the condition.
        columns: names of the columns that it needs; None for all.
        batch: leaves the matching rows of one batch; None if ``stream`` has to be used.
        stream: leaves the matching rows of a stream of batches.
        whole: all of it is understood, so it need not be applied where ``bound`` is true for every row.
    """

    bound: Bound = TRUE
    columns: frozenset[str] | None = frozenset()
    batch: BatchFilter | None = None
    stream: StreamFilter | None = None
    whole: bool = False


EVERY_ROW = RowCondition()
"""No condition."""


def prepare(where: Any, schema: Schema, table_name: str) -> RowCondition:
    """Make a condition ready, or refuse it before anything is read.

    Args:
        where: None, a condition of :func:`~datashard_core.format.expressions.col`, SQL text, or a
            ``pyarrow.compute.Expression``.
        schema: the table's schema.
        table_name: for messages.

    Raises:
        ConfigurationError: it is none of these, does not parse, names an unknown column, or compares a column
            with a value of another type.
    """
    if where is None:
        return EVERY_ROW
    if isinstance(where, Condition):
        return exactly(bind(where, schema, table_name))
    if isinstance(where, str) and where.strip():
        return _from_sql(where, schema, table_name)
    if not isinstance(where, str):
        import pyarrow.compute as pc

        if isinstance(where, pc.Expression):
            return _from_expression(where, schema, table_name)
    raise ConfigurationError(
        f"table {table_name}: where={shown(where)} is no condition. Pass SQL text such as \"state = 'failed'\", or "
        "col('state') == 'failed', or a pyarrow.compute expression."
    )


def exactly(bound: Bound) -> RowCondition:
    """A condition all of which is understood."""
    columns = frozenset(check.reference.names[0] for check in checks_of(bound))
    matching = None if bound == TRUE else lambda batch: matching_rows(batch, bound)
    return RowCondition(bound, columns, matching, whole=True)


def _from_expression(where: pc.Expression, schema: Schema, table_name: str) -> RowCondition:
    import pyarrow as pa

    from datashard_core.query.arrow_conditions import from_arrow

    def matching(batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            return batch.filter(where)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ConfigurationError(f"table {table_name}: the condition {where} does not fit: {error}") from error

    matching(pa.RecordBatch.from_pylist([], schema.to_arrow()))
    bound = bind(from_arrow(where, schema, nan_on_top=False), schema, table_name)
    columns = exactly(bound).columns if is_exact(bound) else None
    return RowCondition(bound, columns, matching)


def from_duckdb(where: pc.Expression, schema: Schema, table_name: str) -> RowCondition:
    """What DuckDB asks a scan for, and does not look at again: so NaN is taken as DuckDB takes it."""
    from datashard_core.query.arrow_conditions import from_arrow

    bound = bind(from_arrow(where, schema, nan_on_top=True), schema, table_name)
    if is_exact(bound):
        return exactly(bound)
    return RowCondition(bound, None, lambda batch: batch.filter(where))


def _from_sql(where: str, schema: Schema, table_name: str) -> RowCondition:
    from datashard_core.query.duck import connect

    connection = connect()
    try:
        bound, columns = _bound_sql(connection, where, schema, table_name)
    finally:
        connection.close()
    if is_exact(bound):
        return exactly(bound)
    return RowCondition(bound, columns, stream=lambda batches, read: _by_sql(batches, read, where, table_name))


def renewed(where: Any, condition: RowCondition, schema: Schema, table_name: str) -> RowCondition:
    """The condition for one more run: of one that DuckDB answers, ``now()`` moves on.

    Files are chosen and rows are filtered in one transaction then, for which ``now()`` stands still.
    """
    if condition.stream is None:
        return condition
    from datashard_core.query.duck import connect

    connection = connect()
    connection.execute("begin")
    bound, columns = _bound_sql(connection, where, schema, table_name)
    return RowCondition(
        bound, columns, stream=lambda batches, read: _by_sql(batches, read, where, table_name, connection)
    )


def _bound_sql(connection: Any, where: str, schema: Schema, table_name: str) -> tuple[Bound, frozenset[str] | None]:
    import duckdb
    import pyarrow as pa

    from datashard_core.query.sql_conditions import understand

    arrow = schema.to_arrow()
    try:
        connection.register("columns_of_table", pa.RecordBatchReader.from_batches(arrow, []))
        connection.execute(f"create temp table {_SCANNED} as select * from columns_of_table")
        connection.unregister("columns_of_table")
        found = understand(connection, where, _SCANNED, schema.names, table_name)
    except duckdb.Error as error:
        raise ConfigurationError(
            f"table {table_name}: the condition {shown(where, 500)} cannot be answered: {error}"
        ) from error
    bound = bind(found.condition, schema, table_name)
    if found.columns is None:
        return bound, None
    return bound, frozenset(schema.names[place] for place in found.columns)


def _by_sql(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, where: str, table_name: str, connection: Any = None
) -> Iterator[pa.RecordBatch]:
    """The matching rows, with all columns of ``schema``."""
    import pyarrow as pa

    from datashard_core.query.duck import connect

    connection = connection or connect()
    import duckdb

    reader = pa.RecordBatchReader.from_batches(schema, batches)
    try:
        connection.execute(f"drop table if exists {_SCANNED}")
        connection.execute("set arrow_lossless_conversion = true")  # else uuids come back as text
        connection.register(_SCANNED, reader)
        # In brackets on lines of its own, so that a comment or an "or" in it cannot reach the rest.
        answer = connection.execute(f"select * from {_SCANNED} where (\n{where}\n)")
        for batch in answer.to_arrow_reader(_ROWS):
            if batch.num_rows:
                yield from pa.Table.from_batches([batch]).cast(schema).to_batches()
    except duckdb.Error as error:
        raise ConfigurationError(
            f"table {table_name}: the condition {shown(where, 500)} cannot be answered: {error}"
        ) from error
    finally:
        connection.close()


def columns_for(condition: RowCondition, wanted: Sequence[str], everything: Sequence[str]) -> list[str]:
    """The columns to read: those wanted, and those that the condition needs, in the table's order."""
    if condition.columns is None:
        return list(everything)
    return [name for name in everything if name in condition.columns or name in wanted]
