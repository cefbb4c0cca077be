"""SQL over tables: DuckDB asks datasets for rows, so projection and filters are pushed down to the files.

This module knows no tables: whoever holds them says, for each name in a query, what its rows are. An
earlier state is named as ``orders at (version => 3)`` or ``orders at (timestamp => timestamp '2026-01-01')``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from datashard_core import arguments
from datashard_core.errors import ConfigurationError
from datashard_core.query.duck import connect

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


MAX_BITS = 127
"""Of DuckDB's widest integer."""

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
    query = arguments.text(query, "query", "one SELECT as text")
    if params is not None and (isinstance(params, (str, bytes)) or not isinstance(params, (Sequence, Mapping))):
        raise ConfigurationError(
            f"params={arguments.shown(params)}: pass a list of values for ?, or a mapping of names to values for $name"
        )
    for value in params.values() if isinstance(params, Mapping) else params or ():
        if isinstance(value, str):
            arguments.text(value, "a value in params")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise ConfigurationError(f"params has a number of {value.bit_length()} bits, and DuckDB's have {MAX_BITS}")
    connection = connect()
    import duckdb

    read: list[Any] = []

    def rows(name: str, at: At) -> Any:
        read.append(resolve(name, at))
        return read[-1]

    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigurationError(f"pass one SELECT; tables are changed by appends only: {query!r:.200}")
        rewritten = _with_tables(connection, query, rows)
        answer = connection.execute(rewritten, params) if params is not None else connection.execute(rewritten)
        return answer.to_arrow_table()
    except duckdb.Error as error:
        # Of an error in a table's rows DuckDB tells the text alone.
        failures = [failure for one in read if (failure := getattr(one, "failure", None)) is not None]
        if failures:
            raise failures[0] from error
        raise ConfigurationError(f"the query cannot be answered: {error}\n{query}") from error
    finally:
        connection.close()


def _with_tables(connection: Any, query: str, resolve: Resolver) -> str:
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
            _register(connection, name, at, resolve, known[name, at])
        if clause is not None:
            earlier = True
            node["alias"] = node["alias"] or node["table_name"]
            node["table_name"], node["schema_name"], node["at_clause"] = known[name, at], "", None
    if not earlier:
        return query
    row = connection.execute("select json_deserialize_sql(?)", [msgspec.json.encode(parsed).decode()]).fetchone()
    return str(row[0])


def _parsed(connection: Any, query: str) -> Any:
    row = connection.execute("select json_serialize_sql(?)", [query]).fetchone()
    parsed = msgspec.json.decode(row[0])
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
    text = connection.execute("select json_deserialize_sql(?)", [msgspec.json.encode(select).decode()]).fetchone()[0]
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


def _register(connection: Any, name: str, at: At, resolve: Resolver, view: str) -> None:
    rows = resolve(name, at)
    if rows is None:
        return  # DuckDB's own message names what it does not know, with its nearest neighbours
    connection.register(view, rows)
    if at != NOW:
        return
    namespace, _, table = name.rpartition(".")
    if namespace:
        connection.execute(f'create schema if not exists "{namespace}"')
    target = f'"{namespace}"."{table}"' if namespace else f'"{table}"'
    connection.execute(f"create view {target} as select * from {view}")
