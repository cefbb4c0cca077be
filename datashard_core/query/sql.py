"""SQL over tables: DuckDB asks datasets for rows, so projection and filters are pushed down to the files.

What DuckDB pushes down it does not look at again. So a query is answered a second time, with nothing pushed down, where
DuckDB has no words for what it asks for (a timestamp with a zone in a list needs another package, a time of 24:00 none
has), or where the words say less than the query (``<= 'nan'`` becomes ``true``, which takes nulls too).

This module knows no tables: whoever holds them says, for each name in a query, what its rows are. An
earlier state is named as ``orders at (version => 3)`` or ``orders at (timestamp => timestamp '2026-01-01')``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from datashard_core import arguments
from datashard_core.errors import ConfigurationError
from datashard_core.format.types.ranges import STORED
from datashard_core.query.duck import columns_of, connect, engine
from datashard_core.query.references import (
    Reference,
    prefix_for,
    quoted,
    references,
    rename,
    suggestion,
    to_rename,
)
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


MAX_BITS = 127
"""Of DuckDB's widest integer."""

NOW = At()
Resolver = Callable[[str, At], Any]
"""Name in a query and state -> an Arrow dataset; None if there is no such table."""


class Source(Struct, frozen=True):
    """Where the tables of a query are.

    Attributes:
        place: its name for messages.
        resolve: finds the rows of the tables that the query names.
        tables: lists their names, for the message about one that is not there.
    """

    place: str
    resolve: Resolver
    tables: Callable[[], Sequence[str]]


def run_sql(query: str, source: Source, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
    """Answer a query.

    Args:
        query: one SELECT, in DuckDB's SQL.
        source: the tables that it may name.
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
    duckdb = engine()
    known: dict[tuple[str, At], Any] = {}

    def rows(name: str, at: At) -> Any:
        if (name, at) not in known:
            known[name, at] = source.resolve(name, at)
        return known[name, at]

    try:
        try:
            return _answer(query, source, rows, params, pushed=True)
        except duckdb.Error as error:
            if not _may_be_pushing(error, known.values()):
                raise
            return _answer(query, source, rows, params, pushed=False)
    except duckdb.Error as error:
        for failure in _failures(known.values()):
            if not isinstance(failure, NotPushedError):
                raise failure from error
        raise ConfigurationError(f"the query cannot be answered: {error}\n{query}") from error


def _answer(query: str, source: Source, rows: Resolver, params: Any, *, pushed: bool) -> pa.Table:
    connection = connect()
    import duckdb

    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigurationError(f"pass one SELECT; tables are changed by appends only: {query!r:.200}")
        rewritten = _with_tables(connection, query, source, rows, pushed)
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


def _with_tables(connection: Any, query: str, source: Source, resolve: Resolver, pushed: bool) -> str:
    """Make the tables of a query known to DuckDB; the query, with other names where DuckDB would mistake ours."""
    parsed = _parsed(connection, query)
    found = references(parsed)
    reserved = _own_schemas(connection) if any(len(one.parts) > 1 for one in found) else frozenset()
    renamed = {id(one.node) for one in to_rename(found, reserved)}
    prefix = prefix_for(query)
    known: dict[tuple[str, At], str | None] = {}
    views: list[tuple[Reference, str]] = []
    for one in found:
        clause = one.node.get("at_clause")
        at = NOW if clause is None else _at(connection, clause, one.name)
        if (one.name, at) not in known:
            rows = resolve(one.name, at)
            known[one.name, at] = None if rows is None else f"{prefix}_{len(known)}"
            if rows is None:
                _check_known(connection, one, source)
            else:
                view = f"{prefix}_{len(known) - 1}"
                columns = ", ".join(columns_of(one.name, rows.schema, pushed=pushed))
                connection.register(f"{view}_rows", rows)
                connection.execute(f"create view {view} as select {columns} from {view}_rows")
                if id(one.node) not in renamed:
                    _create_view(connection, one, view)
        registered = known[one.name, at]
        if registered is not None and id(one.node) in renamed:
            views.append((one, registered))
    if not views:
        return query
    rename(parsed, found, views)
    row = connection.execute("select json_deserialize_sql(?)", [json.dumps(parsed)]).fetchone()
    return str(row[0])


def _own_schemas(connection: Any) -> frozenset[str]:
    """DuckDB's own catalogs and schemas, in lower case."""
    query = "select lower(schema_name) from duckdb_schemas() union select lower(database_name) from duckdb_databases()"
    return frozenset(name for (name,) in connection.execute(query).fetchall())


def _create_view(connection: Any, reference: Reference, rows: str) -> None:
    for namespace in reference.parts[:-1]:
        connection.execute(f"create schema if not exists {quoted([namespace])}")
    connection.execute(f"create view {quoted(reference.parts)} as select * from {rows}")


def _check_known(connection: Any, reference: Reference, source: Source) -> None:
    """Refuse a name that is neither one of our tables nor a view that every DuckDB has, such as ``duckdb_types``.

    Raises:
        ConfigurationError: it names our tables that are called alike.
    """
    import duckdb

    try:
        connection.execute(f"select 1 from {quoted(reference.parts)} limit 0")
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        raise ConfigurationError(
            f"the query names {reference.name!r}, and {source.place} has no such table (names are case-sensitive): "
            f"{suggestion(reference.name, source.tables())}"
        ) from error


def _parsed(connection: Any, query: str) -> Any:
    row = connection.execute("select json_serialize_sql(?)", [query]).fetchone()
    parsed = json.loads(row[0])  # not msgspec: DuckDB writes Infinity as such
    if parsed.get("error"):
        raise ConfigurationError(f"the query cannot be answered: {parsed.get('error_message')}\n{query}")
    return parsed


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
    first, last = STORED["timestamptz"]
    if unit == "TIMESTAMP" and isinstance(value, int) and first <= value <= last:
        return At(as_of=datetime.fromtimestamp(0, UTC) + timedelta(microseconds=value))
    raise ConfigurationError(
        f"{name} at ({unit.lower()} => {value!r}): pass the number of a version or a snapshot id, as in "
        "at (version => 3), or a time, as in at (timestamp => timestamp '2026-01-01')"
    )
