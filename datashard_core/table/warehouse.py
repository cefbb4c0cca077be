"""A warehouse: the folder or bucket prefix that tables live in."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from datashard_core import arguments
from datashard_core.clock import SYSTEM_CLOCK, Clock
from datashard_core.config import DEFAULT_TIMEOUT, LocalConfig, S3Config, resolve_warehouse, split_table_uri
from datashard_core.effects.driver import call, run
from datashard_core.errors import (
    ConfigurationError,
    CorruptTableError,
    DataShardError,
    NoSuchTableError,
    StorageError,
    TableExistsError,
    UnsupportedTableError,
)
from datashard_core.storage import open_storage
from datashard_core.table.names import RULE, TableName, is_part, parse_name

if TYPE_CHECKING:
    import pyarrow as pa

    from datashard_core.commit.core.state import TableState
    from datashard_core.format.types.schema import Schema
    from datashard_core.query.sql import At
    from datashard_core.storage.base import Storage
    from datashard_core.table.shared import SharedCommits
    from datashard_core.table.table import Table

# The rest is imported where it is used: the first request of a process is sent before most of it (see ahead.py).

log = logging.getLogger(__name__)

IfExists = Literal["error", "open"]


class Warehouse:
    """Tables below one root.

    Example:
        >>> warehouse = connect("s3://my-bucket/warehouse")
        >>> warehouse.list_tables()
        ['flight_delays', 'workflow_log']
    """

    def __init__(self, storage: Storage, clock: Clock = SYSTEM_CLOCK) -> None:
        self._storage = storage
        self._clock = clock
        self._shared: dict[tuple[str, str], SharedCommits] = {}

    def __repr__(self) -> str:
        return f"<Warehouse {self.uri}>"

    @property
    def uri(self) -> str:
        """URI of the root."""
        return self._storage.root

    def create_table(
        self,
        name: str,
        schema: Schema,
        *,
        if_exists: IfExists = "error",
        properties: Mapping[str, str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Table:
        """Create a table.

        Args:
            name: ``[namespace.]table``.
            schema: its fields.
            if_exists: "error", or "open" to get the table that is there, if its fields are the same.
            properties: Iceberg table properties.
            timeout: seconds after which it gives up.

        Raises:
            TableExistsError: the name is taken, or the table there has other fields.
            StoreNotConditionalError: the store cannot keep tables safely.
            ConfigurationError: the name, a property or ``if_exists`` is not usable, or engines cannot tell the
                names of the schema's fields apart.
        """
        from datashard_core.table import creation

        parsed = parse_name(name)
        timeout = arguments.seconds(timeout)
        if not isinstance(if_exists, str) or if_exists not in ("error", "open"):
            raise ConfigurationError(f"if_exists={arguments.shown(if_exists)}: pass 'error' or 'open'")
        creation.check_schema(schema, str(parsed))
        given = creation.check_properties({} if properties is None else properties, str(parsed))
        storage = self._storage.at(parsed.folder)
        made = creation.create(
            self._storage,
            storage,
            parsed,
            schema,
            given,
            likely=if_exists == "open",
            timeout=timeout,
            clock=self._clock,
        )
        table = self._table(storage, parsed, made.state)
        return table if made.made else _opened(table, schema, if_exists)

    def load_table(self, name: str, *, to_defer: bool = False) -> Table:
        """Open a table at its newest version.

        Args:
            name: ``[namespace.]table``.
            to_defer: for a process that only defers appends, two requests fewer: the table is opened at a version
                that was the newest a short while ago, at which it is also read until it is refreshed.

        Raises:
            NoSuchTableError: there is none of that name, or it was dropped.
        """
        from datashard_core.table.ahead import ahead

        parsed, hinted = parse_name(name), arguments.flag(to_defer, "to_defer")
        storage = self._storage.at(parsed.folder)
        early = ahead(storage, hinted=hinted)
        from datashard_core.table.load import load, load_to_defer

        read = load_to_defer if hinted else load
        return self._table(storage, parsed, read(early, str(parsed), self._clock))

    def table_exists(self, name: str) -> bool:
        """Whether there is a table of that name.

        A table that is damaged, or of a format that this release does not read, is one, too: loading it
        says what is wrong.

        Raises:
            StorageError: the store did not let us look.
        """
        try:
            return self._is_table(name)
        except (CorruptTableError, UnsupportedTableError):
            return True

    def list_tables(self, namespace: str | None = None) -> list[str]:
        """Names of the tables, sorted; of one namespace, or of the whole warehouse.

        A table that cannot be read is listed, and the log says what is wrong with it; loading it raises the error.

        Args:
            namespace: its name; one that does not exist holds no tables. Namespaces do not nest.

        Raises:
            ConfigurationError: no namespace can have that name.
            StorageError: the store could not be asked at all.
        """
        if namespace is not None:
            if not isinstance(namespace, str) or not is_part(namespace):
                raise ConfigurationError(
                    f"namespace={arguments.shown(namespace)} cannot be the name of a namespace, which is one part. "
                    f"{RULE}."
                )
            return self._tables_in(namespace)
        names: list[str] = []
        for folder in call(self._storage.folders):
            if is_part(folder):
                names += self._tables_at(folder)
        return sorted(names)

    def drop_table(self, name: str, purge: bool = False, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Drop a table; its name may be used again.

        Args:
            name: ``[namespace.]table``.
            purge: remove its data and metadata too. Otherwise they stay where they are. What no table can name
                (symbolic links, names that cannot be keys) stays, with a warning in the log.
            timeout: seconds after which it gives up.

        Raises:
            NoSuchTableError: there is none of that name.
        """
        from datashard_core.commit.append.file_age import SHORTEST_GRACE
        from datashard_core.commit.core.state import Target
        from datashard_core.commit.versions import lifecycle

        parsed, timeout = parse_name(name), arguments.seconds(timeout)
        purge = arguments.flag(purge, "purge")
        storage = self._storage.at(parsed.folder)
        uuid = self.load_table(name)._target.uuid
        before = run(lifecycle.list_own(), storage, self._clock) if purge else frozenset()
        marker = run(lifecycle.drop(Target(storage.root, str(parsed), uuid), timeout), storage, self._clock)
        if purge:
            run(lifecycle.purge(storage.root, uuid, marker.version, before), storage, self._clock)
            call(storage.remove_unfinished, SHORTEST_GRACE)

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Answer a SELECT over the tables that it names (needs the extra ``sql``).

        Args:
            query: DuckDB's SQL; of each table, only the files that may hold rows that it asks for are read. An
                earlier state is named as ``workflow_log at (version => 3)`` (or a snapshot id), or as
                ``at (timestamp => timestamp '2026-01-01')``.
            params: values for ``?`` or ``$name``.

        Raises:
            ConfigurationError: the query is no SELECT, or names what is not there.

        Example:
            >>> warehouse.sql("select count(*) as n from workflow_log").to_pylist()
            [{'n': 14}]
        """
        from datashard_core.query.sql import Source, run_sql

        return run_sql(query, Source(self.uri, self._rows_of, self.list_tables), params)

    def _table(self, storage: Storage, name: TableName, seen: TableState) -> Table:
        """A table object; those of one table share their commits, whichever thread holds them."""
        from datashard_core.table.shared import SharedCommits, shared_by
        from datashard_core.table.table import Table

        shared = self._shared.setdefault(shared_by(storage.root, seen.body.table.table_uuid), SharedCommits())
        return Table(storage, str(name), seen, self._clock, shared)

    def _rows_of(self, name: str, at: At) -> Any:
        parts = name.split(".")
        if len(parts) > 2 or not all(map(is_part, parts)):
            return None
        try:
            return self.load_table(name).dataset(at.snapshot_id, at.as_of, at.version)
        except NoSuchTableError:
            return None  # it may be a view of DuckDB's own

    def _tables_at(self, folder: str) -> list[str]:
        """The table of a folder of the warehouse, or those in it where it is a namespace."""
        from datashard_core.table.creation import has_versions

        try:
            is_table = has_versions(self._storage, folder)
        except StorageError as error:
            return [folder] if _is_of_one_table(error, folder) else []
        if is_table:
            return [folder] if self._lists(folder) else []
        try:
            return self._tables_in(folder)
        except StorageError as error:
            _is_of_one_table(error, folder)
            return []

    def _tables_in(self, namespace: str) -> list[str]:
        names = [f"{namespace}.{part}" for part in call(self._storage.folders, namespace) if is_part(part)]
        return sorted(name for name in names if self._lists(name))

    def _lists(self, name: str) -> bool:
        """Whether a listing shows a table: it is there, whether or not it can be read."""
        try:
            return self._is_table(name)
        except (CorruptTableError, UnsupportedTableError, StorageError) as error:
            return _is_of_one_table(error, name)

    def _is_table(self, name: str) -> bool:
        from datashard_core.commit.core.current_version import find_current

        storage = self._storage.at(parse_name(name).folder)
        found = run(find_current(storage.root), storage, self._clock)
        return found is not None and found.newest.state == "table"


def _is_of_one_table(error: DataShardError, name: str) -> bool:
    """True for a failure to look at one table, which the log names; what concerns all of the store is raised."""
    if isinstance(error, StorageError) and error.reason not in ("access-denied", "unsupported", "other"):
        raise error
    log.warning("table %s is listed, and cannot be read: %s", name, error)
    return True


def connect(
    uri: str | os.PathLike[str] | None = None,
    config: S3Config | LocalConfig | None = None,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> Warehouse:
    """Open a warehouse; nothing is read or created yet.

    Args:
        uri: ``s3://bucket/prefix`` or a folder; None takes it from ``config``, else from the
            ``DATASHARD_*`` variables, else the folder ``datashard-warehouse``.
        config: keys and settings; None takes them from the variables or the AWS default chain.
        clock: time and randomness, for simulations.

    Raises:
        ConfigurationError: the settings are incomplete or contradict each other.

    Example:
        >>> connect("s3://my-bucket/warehouse", S3Config(bucket="my-bucket", access_key="...", secret_key="..."))
        <Warehouse s3://my-bucket/warehouse>
    """
    return Warehouse(open_storage(resolve_warehouse(uri, config)), clock)


def create_table(
    name_or_uri: str,
    schema: Schema,
    *,
    if_exists: IfExists = "error",
    properties: Mapping[str, str] | None = None,
    config: S3Config | LocalConfig | None = None,
) -> Table:
    """Create a table by its name in the default warehouse, or by its URI.

    See :func:`connect` for where the default warehouse is, and :meth:`Warehouse.create_table`.
    """
    warehouse, name = _locate(name_or_uri, config)
    return warehouse.create_table(name, schema, if_exists=if_exists, properties=properties)


def load_table(name_or_uri: str, *, config: S3Config | LocalConfig | None = None, to_defer: bool = False) -> Table:
    """Open a table by its name in the default warehouse, or by its URI.

    See :func:`connect` for where the default warehouse is, and :meth:`Warehouse.load_table`.

    Example:
        >>> load_table("s3://my-bucket/warehouse/workflow_log").count()
        14
    """
    warehouse, name = _locate(name_or_uri, config)
    return warehouse.load_table(name, to_defer=to_defer)


def _locate(name_or_uri: str, config: S3Config | LocalConfig | None) -> tuple[Warehouse, str]:
    root, name = split_table_uri(name_or_uri)
    return connect(root, config), name


def _opened(table: Table, schema: Schema, if_exists: IfExists) -> Table:
    differences = table.schema.differences(schema)
    if if_exists == "error" and not differences:
        raise TableExistsError(
            f"table {table.name} exists at {table.uri}. Open it with load_table, or pass if_exists='open'."
        )
    if differences:
        raise TableExistsError(
            f"table {table.name} exists at {table.uri} with another schema: {'; '.join(differences)}. Load it with "
            "load_table and use its schema, or choose another name."
        )
    return table
