"""SQL over tables: DuckDB reads Arrow, projection and filters are pushed down to the files.

This module knows no tables: whoever holds them says, for each name in a query, what its rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from datashard_core.errors import ConfigurationError
from datashard_core.query.duck import connect

if TYPE_CHECKING:
    import pyarrow as pa

Resolver = Callable[[str], Any]
"""Name in a query -> an Arrow dataset, table or reader; None if there is no such table."""


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
    """
    connection = connect()
    import duckdb

    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigurationError(f"pass one SELECT; tables are changed by appends only: {query!r:.200}")
        for number, name in enumerate(sorted(_tables_in(connection, query))):
            _register(connection, name, resolve, number)
        answer = connection.execute(query, params) if params is not None else connection.execute(query)
        return answer.to_arrow_table()
    except duckdb.Error as error:
        raise ConfigurationError(f"the query cannot be answered: {error}\n{query}") from error
    finally:
        connection.close()


def _tables_in(connection: Any, query: str) -> set[str]:
    """Names of the tables that a query reads, by DuckDB's own parser."""
    row = connection.execute("select json_serialize_sql(?)", [query]).fetchone()
    parsed = msgspec.json.decode(row[0])
    if parsed.get("error"):
        raise ConfigurationError(f"the query cannot be answered: {parsed.get('error_message')}\n{query}")
    names: set[str] = set()
    left = [parsed]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            left += node.values()
            if node.get("type") == "BASE_TABLE":
                names.add(".".join(filter(None, (node["catalog_name"], node["schema_name"], node["table_name"]))))
    return names


def _register(connection: Any, name: str, resolve: Resolver, number: int) -> None:
    rows = resolve(name)
    if rows is None:
        return  # DuckDB's own message names what it does not know, with its nearest neighbours
    connection.register(f"datashard_{number}", rows)
    namespace, _, table = name.rpartition(".")
    if namespace:
        connection.execute(f'create schema if not exists "{namespace}"')
    target = f'"{namespace}"."{table}"' if namespace else f'"{table}"'
    connection.execute(f"create view {target} as select * from datashard_{number}")
