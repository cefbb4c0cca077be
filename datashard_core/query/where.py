"""Conditions of a scan: ``col(...)`` expressions, SQL text, or ``pyarrow.compute`` expressions.

Whatever the form, as much as is understood prunes files and row groups; the rows themselves are
chosen by exactly what was written: by Arrow's kernels where all of it is understood, else by DuckDB for
SQL text, and by Arrow's own evaluation for its expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from datashard_core.arguments import shown
from datashard_core.errors import ConfigurationError
from datashard_core.format.expressions.binding import TRUE, AllOf, Bound, bind, checks_of, is_exact
from datashard_core.format.expressions.expressions import Condition
from datashard_core.format.expressions.row_filter import matching_rows
from datashard_core.format.types.schema import Schema

# What understands SQL text and Arrow's expressions is imported where there are some.

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

_ROWS = "rows of the table"
"""What the rows are called in the queries that are made of SQL text: no column has the name."""
BatchFilter = Callable[["pa.RecordBatch"], "pa.RecordBatch"]
StreamFilter = Callable[[Iterable["pa.RecordBatch"]], Iterator["pa.RecordBatch"]]


class RowCondition(Struct, frozen=True):
    """A condition that is ready to be applied.

    Attributes:
        bound: as much of it as is understood; it is never true for fewer rows than the condition.
        columns: names of the columns that it needs; None for all.
        batch: leaves the matching rows of one batch; None if ``stream`` has to be used.
        stream: leaves the matching rows of a stream of batches.
        whole: all of it is understood, so it need not be applied where ``bound`` is true for every row.
        again: makes the condition for one more run; None if it is the same in every run.
    """

    bound: Bound = TRUE
    columns: frozenset[str] | None = frozenset()
    batch: BatchFilter | None = None
    stream: StreamFilter | None = None
    whole: bool = False
    again: Callable[[], RowCondition] | None = None


EVERY_ROW = RowCondition()
"""No condition."""


def prepare(where: Any, schema: Schema, table_name: str) -> RowCondition:
    """Make a condition ready, or refuse it before anything is read.

    Args:
        where: None, a condition of :func:`~datashard_core.format.expressions.expressions.col`, SQL text, or a
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

    from datashard_core.query.arrow_conditions import columns_in, from_arrow

    def matching(batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            return batch.filter(where)
        except pa.ArrowException as error:
            raise ConfigurationError(f"table {table_name}: the condition {where} does not fit: {error}") from error

    matching(pa.RecordBatch.from_pylist([], schema.to_arrow()))
    bound = bind(from_arrow(where, schema, nan_on_top=False), schema, table_name)
    return RowCondition(bound, columns_in(where), matching)


class NotPushedError(ConfigurationError):
    """DuckDB asks a scan for rows in words that do not say all of what the query asks for."""


def from_duckdb(where: pc.Expression, schema: Schema, table_name: str) -> RowCondition:
    """What DuckDB asks a scan for, and does not look at again: so NaN is taken as DuckDB takes it.

    Raises:
        NotPushedError: not all of it is understood. Arrow is not asked instead: it takes NaN otherwise.
    """
    from datashard_core.query.arrow_conditions import from_arrow

    bound = bind(from_arrow(where, schema, nan_on_top=True), schema, table_name)
    if is_exact(bound):
        return exactly(bound)
    raise NotPushedError(
        f"table {table_name}: DuckDB asks for the rows where {where}, which may not be all of its condition. Pass the "
        "condition to scan(where=...), or the query to warehouse.sql()"
    )


def _from_sql(where: str, schema: Schema, table_name: str) -> RowCondition:
    from datashard_core.query.duck import connect

    connection = connect()
    try:
        bound, columns = _bound_sql(connection, where, schema, table_name)
    finally:
        connection.close()
    if is_exact(bound):
        return exactly(bound)
    return RowCondition(
        bound,
        columns,
        stream=lambda batches: _by_sql(connect(), batches, where, columns, table_name),
        again=lambda: _in_one_moment(where, schema, table_name),
    )


def renewed(condition: RowCondition) -> RowCondition:
    """The condition for one more run: of one that DuckDB answers, ``now()`` moves on."""
    return condition if condition.again is None else condition.again()


def _in_one_moment(where: str, schema: Schema, table_name: str) -> RowCondition:
    """Files are chosen and rows are filtered in one transaction, for which ``now()`` stands still."""
    from datashard_core.query.duck import connect

    connection = connect()
    connection.execute("begin")
    bound, columns = _bound_sql(connection, where, schema, table_name)
    return RowCondition(bound, columns, stream=lambda batches: _by_sql(connection, batches, where, columns, table_name))


def both(first: RowCondition, second: RowCondition) -> RowCondition:
    """The rows for which two conditions are true, of which the second is one for batches."""
    if first is EVERY_ROW:
        return second
    earlier, later = first.batch, second.batch
    columns = None if first.columns is None or second.columns is None else first.columns | second.columns
    found = RowCondition(AllOf((first.bound, second.bound)), columns, whole=first.whole and second.whole)
    if later is None:  # it is true for every row
        return replace(found, batch=earlier, stream=first.stream, again=first.again)
    if first.again is not None:
        stream = first.stream

        def chosen(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            assert stream is not None, "what is made for every run is one for streams"
            return stream(map(later, batches))

        return replace(found, stream=chosen, again=lambda: both(renewed(first), second))
    return replace(found, batch=later if earlier is None else lambda batch: later(earlier(batch)))


def _bound_sql(connection: Any, where: str, schema: Schema, table_name: str) -> tuple[Bound, frozenset[str]]:
    import duckdb
    import pyarrow as pa

    from datashard_core.query.sql_conditions import understand
    from datashard_core.query.text import check_text, free_name

    arrow = schema.to_arrow()
    rows = free_name(_ROWS, schema.names)
    try:
        check_text(connection, where, schema.names, rows, table_name)
        connection.register("columns_of_table", pa.RecordBatchReader.from_batches(arrow, []))
        connection.execute(f'create temp table "{rows}" as select * from columns_of_table')
        connection.unregister("columns_of_table")
        found = understand(connection, where, rows, schema, table_name)
        connection.execute(f'drop table "{rows}"')
    except duckdb.Error as error:
        raise _unanswered(where, table_name, error) from error
    bound = bind(found.condition, schema, table_name)
    if found.columns is None:
        return bound, frozenset(schema.names)
    return bound, frozenset(schema.names[place] for place in found.columns)


def _by_sql(
    connection: Any, batches: Iterable[pa.RecordBatch], where: str, columns: frozenset[str], table_name: str
) -> Iterator[pa.RecordBatch]:
    """The matching rows, with all columns that they have."""
    import duckdb

    from datashard_core.query.text import free_name, matching

    try:
        yield from matching(connection, batches, where, sorted(columns), free_name(_ROWS, columns))
    except duckdb.Error as error:
        raise _unanswered(where, table_name, error) from error
    finally:
        connection.close()


def _unanswered(where: str, table_name: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"table {table_name}: the condition {shown(where, 500)} cannot be answered: {error}")


def columns_for(condition: RowCondition, wanted: Sequence[str], everything: Sequence[str]) -> list[str]:
    """The columns to read: those wanted, and those that the condition needs, in the table's order."""
    if condition.columns is None:
        return list(everything)
    return [name for name in everything if name in condition.columns or name in wanted]
