"""The one door to DuckDB: an in-memory connection that can see what it is handed and nothing else."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from datashard_core.errors import ConfigurationError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def engine() -> ModuleType:
    """The module ``duckdb``.

    Raises:
        ConfigurationError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigurationError("SQL needs DuckDB: pip install 'datashard-core[sql]'") from error
    return duckdb


def connect() -> duckdb.DuckDBPyConnection:
    """A fresh in-memory DuckDB in UTC that reads no files, no network and no Python variables.

    Raises:
        ConfigurationError: DuckDB is not installed.
    """
    connection: duckdb.DuckDBPyConnection = engine().connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    # A query is text from a user or a template: it must not reach beyond the tables it names.
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    return connection


def columns_of(name: str, schema: pa.Schema, *, pushed: bool, zoned: bool = True) -> list[str]:
    """The columns of a table for a SELECT, those without pushdown behind an expression that DuckDB does not look into.

    A uuid is always one of them: joins push it down in a form that DuckDB has for no uuid.

    Args:
        name: of the table, for messages.
        schema: of its rows.
        pushed: conditions on the others are pushed down.
        zoned: those on timestamps with a zone too.

    Raises:
        ConfigurationError: SQL cannot tell two columns apart.
    """
    from datashard_core.format.types.arrow_types import is_uuid

    alike: dict[str, str] = {}
    found = []
    for field in schema:
        folded = field.name.lower()
        if folded in alike:
            raise ConfigurationError(
                f"table {name}: SQL does not tell the columns {alike[folded]!r} and {field.name!r} apart: read the "
                "table with scan(), where col() does"
            )
        alike[folded] = field.name
        column = quoted(field.name)
        hidden = not pushed or is_uuid(field.type) or (not zoned and getattr(field.type, "tz", None) is not None)
        found.append(f"case when {column} is null then null else {column} end as {column}" if hidden else column)
    return found


def has_zones() -> bool:
    """Whether DuckDB can make a timestamp with a zone for Python, which takes another package."""
    return find_spec("pytz") is not None


def quoted(name: str) -> str:
    """A name as SQL has it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
