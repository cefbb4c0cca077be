"""Creating a table: whether its name is free, and the version that begins it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from datashard_core import arguments
from datashard_core.clock import Clock
from datashard_core.commit.core.current_version import Found, find_current
from datashard_core.commit.core.next_version import first_version
from datashard_core.commit.core.properties import check_settings
from datashard_core.commit.core.recorded_ids import PROPERTY, PROTOCOL_PROPERTY
from datashard_core.commit.core.state import Target, require_live
from datashard_core.commit.core.version_file import HINT_KEY, version_key
from datashard_core.commit.versions import lifecycle
from datashard_core.effects.driver import call, run, shared_pool
from datashard_core.errors import ConfigurationError, TableExistsError
from datashard_core.format.types.distinct import check_distinct
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.types import walk
from datashard_core.storage import check_conditional
from datashard_core.storage.base import ObjectNotFoundError, Storage
from datashard_core.table import namespaces
from datashard_core.table.names import TableName, is_part


def check_schema(schema: object, table: str) -> None:
    """Refuse what is no schema.

    Raises:
        ConfigurationError: with ways to make one.
    """
    if not isinstance(schema, Schema):
        raise ConfigurationError(
            f"table {table}: schema={arguments.shown(schema)} is not a Schema: write "
            "Schema(fields=[{'id': 1, 'name': ..., 'type': ...}, ...]), Schema.from_arrow(arrow_schema) or "
            "Schema.infer(records)"
        )
    for path, field in walk(schema.fields):
        arguments.text(field.name, f"table {table}: the name of field {arguments.shown(path)}")
        if field.doc is not None:
            arguments.text(field.doc, f"table {table}: the comment of field {arguments.shown(path)}")


def check_properties(properties: Mapping[str, str], table: str) -> Mapping[str, str]:
    """Refuse properties that a table cannot be created with.

    Raises:
        ConfigurationError: one is kept by the library, is no text, or has no usable value.
    """
    properties = arguments.texts(properties, "properties")
    for key in properties:
        if key in (PROPERTY, PROTOCOL_PROPERTY):
            raise ConfigurationError(f"the table property {key!r} is kept by the library and cannot be set")
    check_settings(properties, table)
    return properties


def create(
    warehouse: Storage,
    storage: Storage,
    name: TableName,
    schema: Schema,
    properties: Mapping[str, str],
    *,
    likely: bool,
    timeout: float,
    clock: Clock,
) -> lifecycle.Created:
    """Create a table, or find the one that is there.

    Args:
        warehouse: storage of the warehouse.
        storage: storage of the table.
        name: the table's name.
        schema: its fields.
        properties: its properties, checked.
        likely: whether the table is likely there: then nothing else is looked at before.
        timeout: seconds after which it gives up.
        clock: of the process.

    Raises:
        TableExistsError: a namespace has the table's name, or a table that of its namespace.
        StoreNotConditionalError: the store cannot keep tables safely.
        ConfigurationError: the schema has names that engines cannot tell apart.
    """
    found: Found | None
    if likely:
        found = run(find_current(storage.root), storage, clock)
        looked = None if _is_table(found) else _Look(warehouse, storage, name)
    else:
        looked = _Look(warehouse, storage, name)
        found = None if looked.is_new else run(find_current(storage.root), storage, clock)
    if found is not None and _is_table(found):
        return lifecycle.Created(require_live(found, None, Target(storage.root, str(name), "")), made=False)
    assert looked is not None
    looked.check_free()
    check_distinct(schema, str(name))
    call(check_conditional, storage, warehouse)
    first = partial(first_version, location=storage.root, schema=schema, properties=properties)
    return run(lifecycle.create_after(found, storage.root, str(name), first, timeout), storage, clock)


def has_versions(warehouse: Storage, folder: str) -> bool:
    """Whether a folder is, or was, a table and not a namespace."""
    try:
        call(warehouse.head, f"{folder}/{HINT_KEY}")
    except ObjectNotFoundError:
        return "metadata" in call(warehouse.folders, folder)
    return True


def _is_table(found: Found | None) -> bool:
    return found is not None and found.newest.state == "table"


class _Look:
    """What there is at a name and around it, asked for in one round."""

    def __init__(self, warehouse: Storage, storage: Storage, name: TableName) -> None:
        self._root, self._name = warehouse.root, name
        ask = shared_pool().submit
        self._hint = ask(storage.get, HINT_KEY)
        self._first = ask(storage.get, version_key(0))
        self._inside = ask(storage.folders)
        # A namespace and a table may not share a name: they would share a folder.
        self._above: tuple[Future[Any], ...] = ()
        namespace = name.namespace
        if namespace is None:
            self._created: Future[Any] = ask(namespaces.stored, warehouse, name.table)
        else:
            self._above = ask(warehouse.head, f"{namespace}/{HINT_KEY}"), ask(warehouse.folders, namespace)

    @property
    def is_new(self) -> bool:
        """Whether no version was ever at the name: without a hint, without v0, without a folder for others."""
        return not _exists(self._hint) and not _exists(self._first) and "metadata" not in self._inside.result()

    def check_free(self) -> None:
        """Refuse a name that is a namespace's, or lies in a namespace that is a table.

        Raises:
            TableExistsError: with what is there.
        """
        name = self._name
        if self._above:
            hint, inside = self._above
            if _exists(hint) or "metadata" in inside.result():
                raise TableExistsError(
                    f"{name} cannot be created: {name.namespace!r} is a table in {self._root}, and a namespace of "
                    "that name would share its folder"
                )
            return
        tables = [part for part in self._inside.result() if is_part(part)]
        if tables or self._created.result() is not None:
            holds = f" (it holds {tables[0]!r})" if tables else ""
            raise TableExistsError(f"{name} cannot be created: {name.table!r} is a namespace in {self._root}{holds}")


def _exists(asked: Future[Any]) -> bool:
    try:
        asked.result()
    except ObjectNotFoundError:
        return False
    return True
