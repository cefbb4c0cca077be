"""The one door to DuckDB: an in-memory connection that can see what it is handed and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datashard_core.errors import ConfigurationError

if TYPE_CHECKING:
    import duckdb


def connect() -> duckdb.DuckDBPyConnection:
    """A fresh in-memory DuckDB in UTC that reads no files, no network and no Python variables.

    Raises:
        ConfigurationError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigurationError("SQL needs DuckDB: pip install 'datashard-core[sql]'") from error
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    # A query is text from a user or a template: it must not reach beyond the tables it names.
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    return connection
