"""SQL over tables: DuckDB asks datasets for rows, so projection and filters are pushed down to the files.

What DuckDB pushes down it does not look at again. So a query is answered a second time, with nothing pushed down, where
DuckDB has no words for what it asks for (a timestamp with a zone in a list needs another package, a time of 24:00 none
has), or where the words say less than the query (``<= 'nan'`` becomes ``true``, which takes nulls too).

This module knows no tables: whoever holds them says, for each name in a query, what its rows are. An
earlier state is named as ``orders at (version => 3)`` or ``orders at (timestamp => timestamp '2026-01-01')``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from datashard_core.errors import ConfigurationError
from datashard_core.query.duck import columns_of, connect, engine
from datashard_core.query.where import NotPushedError

if TYPE_CHECKING:
    import pyarrow as pa

_LEAST_SNAPSHOT_ID = 2**32
"""A larger number after ``version =>`` is a snapshot id: those are random and of 63 bits."""


class At(Struct, frozen=True):
    """The state of a table that a query names; the current one where nothing is set.

    Attributes:
        version: number of a version.
        snapshot_id: id of a snapshot.
        as_of: a time.
    """

    version: int | None = None
    snapshot_id: int | None = None
    as_of: datetime | None = None


NOW = At()
Resolver = Callable[[str, At], Any]
"""Name in a query and state -> an Arrow dataset, table or reader; None if there is no such table."""


def run_sql(query: str, resolve: Resolver, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
    """Answer a query.

    Args:
        query: one SELECT, in DuckDB's SQL.
        resolve: finds the rows of the tables that the query names.
        params: values for ``?`` or ``$name`` in the query.

    Returns:
        The answer as an Arrow table.

    Raises:
        ConfigurationError: the query does not parse, is no query, or names what is not there.
        DataShardError: whatever the reading of a table raises.
    """
    duckdb = engine()
    known: dict[tuple[str, At], Any] = {}

    def rows(name: str, at: At) -> Any:
        if (name, at) not in known:
            known[name, at] = resolve(name, at)
        return known[name, at]

    try:
        try:
            return _answer(query, rows, params, pushed=True)
        except duckdb.Error as error:
            if not _may_be_pushing(error, known.values()):
                raise
            return _answer(query, rows, params, pushed=False)
    except duckdb.Error as error:
        for failure in _failures(known.values()):
            if not isinstance(failure, NotPushedError):
                raise failure from error
        raise ConfigurationError(f"the query cannot be answered: {error}\n{query}") from error


def _answer(query: str, rows: Resolver, params: Any, *, pushed: bool) -> pa.Table:
    connection = connect()
    import duckdb

    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigurationError(f"pass one SELECT; tables are changed by appends only: {query!r:.200}")
        rewritten = _with_tables(connection, query, rows, pushed)
        answer = connection.execute(rewritten, params) if params is not None else connection.execute(rewritten)
        return answer.to_arrow_table()
    finally:
        connection.close()


def _may_be_pushing(error: Exception, datasets: Iterable[Any]) -> bool:
    """Whether an error may come from what DuckDB pushes down: no table failed, and the query itself is fine."""
    import duckdb

    failures = _failures(datasets)
    if failures:
        return all(isinstance(failure, NotPushedError) for failure in failures)
    own = (duckdb.NotImplementedException, duckdb.InvalidInputException)
    return isinstance(error, own) or type(error) is duckdb.Error


def _failures(datasets: Iterable[Any]) -> list[Exception]:
    """What the tables of a query failed with: DuckDB hands on the text of an error alone."""
    return [failure for one in datasets if (failure := getattr(one, "failure", None)) is not None]


def _with_tables(connection: Any, query: str, resolve: Resolver, pushed: bool) -> str:
    """Make the tables of a query known to DuckDB; the query, with names of their own for earlier states."""
    parsed = _parsed(connection, query)
    known: dict[tuple[str, At], str] = {}
    earlier = False
    for node in list(_tables_in(parsed)):
        name = ".".join(filter(None, (node["catalog_name"], node["schema_name"], node["table_name"])))
        clause = node.get("at_clause")
        at = NOW if clause is None else _at(connection, clause, name)
        if (name, at) not in known:
            known[name, at] = f"datashard_{len(known)}"
            _register(connection, name, at, resolve, known[name, at], pushed)
        if clause is not None:
            earlier = True
            node["alias"] = node["alias"] or node["table_name"]
            node["table_name"], node["schema_name"], node["at_clause"] = known[name, at], "", None
    if not earlier:
        return query
    row = connection.execute("select json_deserialize_sql(?)", [json.dumps(parsed)]).fetchone()
    return str(row[0])


def _parsed(connection: Any, query: str) -> Any:
    row = connection.execute("select json_serialize_sql(?)", [query]).fetchone()
    parsed = json.loads(row[0])  # not msgspec: DuckDB writes Infinity as such
    if parsed.get("error"):
        raise ConfigurationError(f"the query cannot be answered: {parsed.get('error_message')}\n{query}")
    return parsed


def _tables_in(parsed: Any) -> Iterator[dict[str, Any]]:
    """The places where a query names a table, by DuckDB's own parser."""
    left = [parsed]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            left += node.values()
            if node.get("type") == "BASE_TABLE":
                yield node


def _at(connection: Any, clause: Mapping[str, Any], name: str) -> At:
    """The state that an ``at (...)`` names; its value is whatever DuckDB computes it to be."""
    select = _parsed(connection, "select 1")
    select["statements"][0]["node"]["select_list"] = [clause["expr"]]
    text = connection.execute("select json_deserialize_sql(?)", [json.dumps(select)]).fetchone()[0]
    if "$" in text or "?" in text:
        raise ConfigurationError(f"{name} at (...): write the version or time itself there, not a parameter")
    unit = str(clause["unit"]).upper()
    if unit == "TIMESTAMP":
        # As a number: DuckDB makes no time with a zone for Python without another package.
        text = f"select epoch_us(cast(({text}) as timestamptz))"
    value = connection.execute(text).fetchone()[0]
    if unit == "VERSION" and isinstance(value, int) and not isinstance(value, bool):
        return At(snapshot_id=value) if value >= _LEAST_SNAPSHOT_ID else At(version=value)
    if unit == "TIMESTAMP" and isinstance(value, int):
        return At(as_of=datetime.fromtimestamp(0, UTC) + timedelta(microseconds=value))
    raise ConfigurationError(
        f"{name} at ({unit.lower()} => {value!r}): pass the number of a version or a snapshot id, as in "
        "at (version => 3), or a time, as in at (timestamp => timestamp '2026-01-01')"
    )


def _register(connection: Any, name: str, at: At, resolve: Resolver, view: str, pushed: bool) -> None:
    rows = resolve(name, at)
    if rows is None:
        return  # DuckDB's own message names what it does not know, with its nearest neighbours
    connection.register(f"{view}_rows", rows)
    columns = ", ".join(columns_of(name, rows.schema, pushed=pushed))
    connection.execute(f"create view {view} as select {columns} from {view}_rows")
    if at != NOW:
        return
    namespace, _, table = name.rpartition(".")
    if namespace:
        connection.execute(f'create schema if not exists "{namespace}"')
    target = f'"{namespace}"."{table}"' if namespace else f'"{table}"'
    connection.execute(f"create view {target} as select * from {view}")
