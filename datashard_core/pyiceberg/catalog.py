"""A PyIceberg catalog over a warehouse.

Reads and data files are PyIceberg's; the commit is ours: the next version is created on condition that
its name is free, after the requirements of the updates were checked against the version before it.
A lost race is a ``CommitFailedException``, raised only once it is certain that nothing was committed,
because PyIceberg then deletes what it wrote and tries again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pyiceberg.catalog import MetastoreCatalog, PropertiesUpdateSummary
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NoSuchViewError,
    TableAlreadyExistsError,
)
from pyiceberg.io import FileIO, load_file_io
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadataUtil, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import update_table_metadata

from datashard_core import errors
from datashard_core.arguments import shown
from datashard_core.commit.append import deferred
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.state import TableState, Target
from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.commit.external.commit import commit_external, first_external
from datashard_core.commit.versions import lifecycle
from datashard_core.effects.driver import call, run
from datashard_core.pyiceberg.inside import keep_inside
from datashard_core.pyiceberg.settings import config_of, file_io_properties
from datashard_core.pyiceberg.updates import (
    check_properties,
    check_schema,
    check_updates,
    next_metadata,
    only_appends,
    raw_of,
    without_code,
)
from datashard_core.storage import check_conditional, open_storage
from datashard_core.table.names import TableName, is_part
from datashard_core.table.namespaces import Namespaces
from datashard_core.table.warehouse import Warehouse

TIMEOUT = 120.0
NO_VIEWS = "a warehouse keeps tables alone; keep views in the engine that queries them"


class DataShardCatalog(MetastoreCatalog):  # type: ignore[misc]
    """PyIceberg's catalog interface on a warehouse.

    Args:
        name: the catalog's name.
        properties: ``warehouse`` (``s3://bucket/prefix`` or a folder) and, for S3, PyIceberg's ``s3.endpoint``,
            ``s3.region``, ``s3.access-key-id``, ``s3.secret-access-key``, ``s3.session-token``. What is left
            out is found as :func:`datashard_core.connect` finds it.

    Example:
        >>> catalog = load_catalog(
        ...     "lake", **{"py-catalog-impl": "datashard_core.pyiceberg.DataShardCatalog", "warehouse": "warehouse"}
        ... )
        >>> catalog.load_table("shop.events").append(arrow_table)
    """

    def __init__(self, name: str, **properties: str) -> None:
        config = config_of(properties)
        self._warehouse = Warehouse(open_storage(config))
        super().__init__(name, **{**file_io_properties(config), **properties, "warehouse": self._warehouse.uri})
        self._namespaces = Namespaces(self._warehouse)

    def create_table(
        self,
        identifier: Any,
        schema: Any,
        location: str | None = None,
        partition_spec: Any = UNPARTITIONED_PARTITION_SPEC,
        sort_order: Any = UNSORTED_SORT_ORDER,
        properties: Mapping[str, str] = {},
    ) -> Table:
        """Create a table; see :meth:`pyiceberg.catalog.Catalog.create_table`."""
        name = self._name(identifier)
        check_properties(properties, str(name))
        self._check_new(name)
        metadata = new_table_metadata(
            location=self._location(name, location),
            schema=self._convert_schema_if_needed(schema),
            partition_spec=partition_spec,
            sort_order=sort_order,
            properties={"format-version": "2", **properties},
        )
        check_schema(raw_of(metadata), str(name))
        return self._create(name, raw_of(metadata))

    def _create_staged_table(
        self,
        identifier: Any,
        schema: Any,
        location: str | None = None,
        partition_spec: Any = UNPARTITIONED_PARTITION_SPEC,
        sort_order: Any = UNSORTED_SORT_ORDER,
        properties: Mapping[str, str] = {},
    ) -> Any:
        name = self._name(identifier)
        check_properties(properties, str(name))
        self._check_new(name)
        whole = (name.namespace or "", name.table)
        return super()._create_staged_table(
            whole, schema, self._location(name, location), partition_spec, sort_order, properties
        )

    def register_table(self, identifier: Any, metadata_location: str, overwrite: bool = False) -> Table:
        """Begin a table of the warehouse with the metadata of one that lies in its very folder."""
        name = self._name(identifier)
        if overwrite:
            raise NotImplementedError(f"{name} is not overwritten by register_table: drop it first, then register it")
        self._check_new(name)
        io = load_file_io(self.properties, metadata_location)
        metadata = FromInputFile.table_metadata(io.new_input(metadata_location))
        return self._create(name, raw_of(metadata))

    def load_table(self, identifier: Any) -> Table:
        """The table at its newest version."""
        name = self._name(identifier, NoSuchTableError)
        try:
            found = self._warehouse.load_table(str(name))
        except errors.NoSuchTableError as error:
            raise _no_such_table(name, error) from error
        return self._table(name, found._seen.body)

    def drop_table(self, identifier: Any) -> None:
        """Drop a table; its files stay."""
        self._drop(identifier, purge=False)

    def purge_table(self, identifier: Any) -> None:
        """Drop a table and remove its files; the names of its versions stay taken."""
        self._drop(identifier, purge=True)

    def rename_table(self, from_identifier: Any, to_identifier: Any) -> Table:
        """Refused: a table's name is its folder, and its files name each other by their whole place."""
        self.load_table(from_identifier)
        self._check_new(self._name(to_identifier))
        raise NotImplementedError(
            f"{self._name(from_identifier)} cannot be renamed: a table's name is its folder, and its metadata names "
            "every file by its whole place. Create the new table, append the rows of the old one, and drop that."
        )

    def commit_table(self, table: Table, requirements: tuple[Any, ...], updates: tuple[Any, ...]) -> Any:
        """Commit updates on top of the newest version, if their requirements hold there."""
        name = self._name(table.name())
        check_updates(updates, str(name))
        if not self._warehouse.table_exists(str(name)):
            return self._commit_new(name, requirements, updates)
        storage = self._warehouse._storage.at(name.folder)
        uuid = str(table.metadata.table_uuid)
        target = Target(storage.root, str(name), uuid)
        build = partial(next_metadata, requirements=requirements, updates=updates, root=storage.root)
        try:
            if not only_appends(updates) and run(deferred.staged_names(), storage):
                # What was promised before a change of rows or schema has to be there when it is made.
                _, left = run(deferred.flush_all(target, None, TIMEOUT), storage)
                if left is not None and not isinstance(left, errors.AppendSetAsideError):
                    raise left
            seen = run(commit_external(target, build, TIMEOUT), storage)
        except (errors.NoSuchTableError, errors.CommitTimeoutError) as error:
            raise CommitFailedException(str(error)) from error
        except (errors.UnsupportedTableError, errors.ConfigurationError) as error:
            raise ValueError(str(error)) from error
        except errors.CommitStateUnknownError as error:
            raise CommitStateUnknownException(str(error)) from error
        if seen is None:
            raise CommitFailedException(f"table {name}: another commit was faster; nothing of this one is in the table")
        return self._response(name, seen)

    def create_namespace(self, namespace: Any, properties: Mapping[str, str] = {}) -> None:
        """Create a namespace, with properties."""
        part = self._namespace(namespace)
        try:
            made = self._namespaces.create(part, properties)
        except errors.ConfigurationError as error:
            raise ValueError(str(error)) from error
        except errors.TableExistsError as error:
            raise NamespaceAlreadyExistsError(str(error)) from error
        if not made:
            raise NamespaceAlreadyExistsError(f"Namespace {part} already exists in {self._warehouse.uri}")

    def drop_namespace(self, namespace: Any) -> None:
        """Drop a namespace that holds no table."""
        part = self._known(namespace)
        if tables := self._warehouse.list_tables(part):
            raise NamespaceNotEmptyError(f"Namespace {part} is not empty: it holds {', '.join(tables[:3])}")
        self._namespaces.drop(part)

    def list_tables(self, namespace: Any) -> list[tuple[str, ...]]:
        """The tables of a namespace; of none, for ``()``."""
        if _parts_of(namespace, "namespace") in ((), ("",)):
            names = [name for name in self._warehouse.list_tables() if "." not in name]
        else:
            names = self._warehouse.list_tables(self._known(namespace))
        return [tuple(name.split(".")) for name in names]

    def list_namespaces(self, namespace: Any = ()) -> list[tuple[str, ...]]:
        """The namespaces; there is one level of them."""
        if _parts_of(namespace, "namespace") not in ((), ("",)):
            self._known(namespace)
            return []
        return [(name,) for name in self._namespaces.names()]

    def load_namespace_properties(self, namespace: Any) -> dict[str, str]:
        """Properties of a namespace."""
        return self._namespaces.properties(self._known(namespace))

    def update_namespace_properties(
        self, namespace: Any, removals: set[str] | None = None, updates: Mapping[str, str] = {}
    ) -> PropertiesUpdateSummary:
        """Change properties of a namespace."""
        part = self._known(namespace)
        self._check_for_overlap(updates=updates, removals=removals)
        try:
            before = self._namespaces.update(part, removals or set(), updates)
        except errors.ConfigurationError as error:
            raise ValueError(str(error)) from error
        return self._get_updated_props_and_update_summary(before, removals, updates)[0]

    def list_views(self, namespace: Any) -> list[tuple[str, ...]]:
        """There are none."""
        return []

    def view_exists(self, identifier: Any) -> bool:
        """There are none."""
        return False

    def load_view(self, identifier: Any) -> Any:
        """There are none."""
        raise NoSuchViewError(f"there is no view {identifier}: {NO_VIEWS}")

    def drop_view(self, identifier: Any) -> None:
        """There are none."""
        raise NoSuchViewError(f"there is no view {identifier}: {NO_VIEWS}")

    def register_view(self, identifier: Any, metadata_location: str) -> Any:
        """Refused."""
        raise NotImplementedError(f"view {identifier} cannot be registered: {NO_VIEWS}")

    def create_view(self, identifier: Any, *arguments: Any, **named: Any) -> Any:
        """Refused."""
        raise NotImplementedError(f"view {identifier} cannot be created: {NO_VIEWS}")

    def _commit_new(self, name: TableName, requirements: tuple[Any, ...], updates: tuple[Any, ...]) -> Any:
        for requirement in requirements:
            requirement.validate(None)
        metadata = update_table_metadata(self._empty_table_metadata(), updates, enforce_validation=True)
        check_schema(raw_of(metadata), str(name))
        try:
            table = self._create(name, raw_of(metadata))
        except TableAlreadyExistsError as error:
            raise CommitFailedException(str(error)) from error
        return CommitTableResponse(metadata=table.metadata, metadata_location=table.metadata_location)

    def _create(self, name: TableName, raw: Mapping[str, Any]) -> Table:
        storage = self._warehouse._storage.at(name.folder)
        call(check_conditional, storage, self._warehouse._storage)
        first = partial(first_external, raw=raw, location=storage.root)
        try:
            made = run(lifecycle.create(storage.root, str(name), first, TIMEOUT), storage)
        except errors.UnsupportedTableError as error:
            raise ValueError(str(error)) from error
        except errors.CommitStateUnknownError as error:
            raise CommitStateUnknownException(str(error)) from error
        if not made.made:
            raise TableAlreadyExistsError(f"Table {name} already exists at {storage.root}")
        return self._table(name, made.state.body)

    def _drop(self, identifier: Any, purge: bool) -> None:
        name = self._name(identifier, NoSuchTableError)
        try:
            self._warehouse.drop_table(str(name), purge=purge)
        except errors.NoSuchTableError as error:
            raise _no_such_table(name, error) from error

    def _check_new(self, name: TableName) -> None:
        if name.namespace is not None and not self._namespaces.exists(name.namespace):
            raise NoSuchNamespaceError(
                f"Namespace {name.namespace} does not exist in {self._warehouse.uri}: create it first"
            )
        if self._warehouse.table_exists(str(name)):
            raise TableAlreadyExistsError(f"Table {name} already exists in {self._warehouse.uri}")
        if name.namespace is None and self._namespaces.exists(name.table):
            raise TableAlreadyExistsError(f"{name} is a namespace in {self._warehouse.uri}: they would share a folder")

    def _location(self, name: TableName, given: str | None) -> str:
        own = f"{self._warehouse.uri}/{name.folder}"
        if given and given.rstrip("/") != own:
            raise ValueError(f"table {name} lies at {own}, by its name; location={given!r} cannot be chosen")
        return own

    def _name(self, identifier: Any, error: type[Exception] = ValueError) -> TableName:
        parts = tuple(part for part in _parts_of(identifier, "identifier") if part)
        if len(parts) not in (1, 2) or not all(map(is_part, parts)):
            raise error(
                f"{identifier!r} cannot be a table here: a name is [namespace.]table, each part of letters, digits, _ "
                "and -, and neither data nor metadata"
            )
        return TableName(None, parts[0]) if len(parts) == 1 else TableName(parts[0], parts[1])

    def _namespace(self, namespace: Any) -> str:
        parts = _parts_of(namespace, "namespace")
        if len(parts) != 1 or not is_part(parts[0]):
            raise NoSuchNamespaceError(
                f"{namespace!r} cannot be a namespace here: there is one level of them, of letters, digits, _ and -"
            )
        return str(parts[0])

    def _known(self, namespace: Any) -> str:
        part = self._namespace(namespace)
        if not self._namespaces.exists(part):
            raise NoSuchNamespaceError(f"Namespace {part} does not exist in {self._warehouse.uri}")
        return part

    def _table(self, name: TableName, body: VersionFile) -> Table:
        root = f"{self._warehouse.uri}/{name.folder}"
        if not _is_spelled(body.table.location, root):
            # Ours finds a table's files below the folder that it was opened by; PyIceberg goes by the metadata.
            raise ValueError(
                f"table {name} is a copy of a table whose files are at {body.table.location}, by its metadata: "
                f"PyIceberg would read and write there, not at {root}. Use datashard_core for it, or copy its rows "
                "into a new table."
            )
        location = f"{root}/{version_key(body.version)}"
        metadata = without_code(TableMetadataUtil.parse_raw(body.table.to_json().decode()), str(name))
        return Table(
            identifier=tuple(str(name).split(".")),
            metadata=metadata,
            metadata_location=location,
            io=keep_inside(self._load_file_io(metadata.properties, location), metadata.location, root),
            catalog=self,
        )

    def _load_file_io(self, properties: Mapping[str, str] = {}, location: str | None = None) -> FileIO:
        """File access as the catalog's own properties say; those of a table, which its writers set, choose nothing."""
        return load_file_io(self.properties, location)

    def _response(self, name: TableName, seen: TableState) -> CommitTableResponse:
        table = self._table(name, seen.body)
        return CommitTableResponse(metadata=table.metadata, metadata_location=table.metadata_location)


def _parts_of(identifier: Any, argument: str) -> tuple[str, ...]:
    """The parts of a name in PyIceberg's form.

    Raises:
        TypeError: it is neither text nor a tuple of texts.
    """
    if isinstance(identifier, str):
        return tuple(identifier.split("."))
    if isinstance(identifier, tuple) and all(isinstance(part, str) for part in identifier):
        return identifier
    raise TypeError(f"{argument}={shown(identifier)}: pass a name, as 'shop.events' or ('shop', 'events')")


def _is_spelled(location: str, folder: str) -> bool:
    """Whether a location is that folder, however an engine spells it."""
    try:
        return key_of(f"{location}/x", folder, folder) == "x"
    except errors.UnsupportedTableError:
        return False


def _no_such_table(name: TableName, error: Exception) -> NoSuchTableError:
    """PyIceberg's error, in the words that its own catalogs begin with."""
    return NoSuchTableError(f"Table does not exist: {name}: {error}")
