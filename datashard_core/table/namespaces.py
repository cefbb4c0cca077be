"""Namespaces that exist without a table, and their properties: one small object in the namespace's folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from datashard_core import arguments
from datashard_core.effects.driver import call
from datashard_core.errors import CorruptTableError, StorageError, TableExistsError
from datashard_core.storage.base import ObjectNotFoundError, OutcomeUnknownError, PreconditionFailedError, StoredObject
from datashard_core.table.names import is_part

if TYPE_CHECKING:
    from datashard_core.storage.base import Storage
    from datashard_core.table.warehouse import Warehouse

log = logging.getLogger(__name__)

KEY = "_namespace.json"
TRIES = 10


class Namespaces:
    """The namespaces of a warehouse: those that hold tables, and those that were created.

    Args:
        warehouse: where they are.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._storage = warehouse._storage

    def names(self) -> list[str]:
        """Names of the namespaces, sorted."""
        return [name for name in call(self._storage.folders) if is_part(name) and self._is_listed(name)]

    def _is_listed(self, name: str) -> bool:
        """Whether a listing shows it: a folder that cannot be read hides no other."""
        try:
            return self.exists(name)
        except StorageError as error:
            if error.reason not in ("access-denied", "unsupported", "other"):
                raise
            log.warning("namespace %s of %s cannot be read: %s", name, self._warehouse.uri, error)
            return False

    def exists(self, name: str) -> bool:
        """Whether it was created, or holds a table."""
        if stored(self._storage, name) is not None:
            return True
        parts = [part for part in call(self._storage.folders, name) if is_part(part)]
        return any(self._warehouse._lists(f"{name}.{part}") for part in parts)

    def create(self, name: str, properties: Mapping[str, str]) -> bool:
        """Create a namespace; False if there is one.

        Raises:
            TableExistsError: a table has that name.
            ConfigurationError: a property is not text.
        """
        data = _encoded(name, properties)
        if self._warehouse.table_exists(name):
            raise TableExistsError(f"{name} is a table in {self._warehouse.uri}, and would share its folder")
        if self.exists(name):
            return False
        try:
            call(self._storage.put_if_absent, f"{name}/{KEY}", data)
        except PreconditionFailedError:
            return False
        except OutcomeUnknownError:
            found = stored(self._storage, name)
            if found is None or self._decode(name, found) != dict(properties):
                raise
        return True

    def drop(self, name: str) -> None:
        """Forget a namespace; its tables are none of its business."""
        call(self._storage.delete, [f"{name}/{KEY}"])

    def properties(self, name: str) -> dict[str, str]:
        """Its properties; none for one that only holds tables."""
        found = stored(self._storage, name)
        return {} if found is None else self._decode(name, found)

    def update(self, name: str, removals: set[str], updates: Mapping[str, str]) -> dict[str, str]:
        """Change its properties.

        Returns:
            What they were.

        Raises:
            StorageError: others changed them all the time, or the store failed.
            ConfigurationError: a property is not text.
        """
        for _ in range(TRIES):
            found = stored(self._storage, name)
            before = {} if found is None else self._decode(name, found)
            after = {key: text for key, text in before.items() if key not in removals} | dict(updates)
            data = _encoded(name, after)
            try:
                if found is None:
                    call(self._storage.put_if_absent, f"{name}/{KEY}", data)
                else:
                    call(self._storage.replace, f"{name}/{KEY}", data, found.version)
                return before
            except PreconditionFailedError:
                continue
            except StorageError as error:
                if error.reason != "unsupported" or found is None:
                    raise
                call(self._storage.put, f"{name}/{KEY}", data)  # without If-Match: what was read just now is replaced
                return before
        raise StorageError(
            f"the properties of namespace {name} in {self._warehouse.uri} were not changed: others changed them "
            f"{TRIES} times meanwhile. Call again."
        )

    def _decode(self, name: str, found: StoredObject) -> dict[str, str]:
        try:
            return msgspec.json.decode(found.body, type=dict[str, str])
        except msgspec.DecodeError as error:
            raise CorruptTableError(
                f"{self._warehouse.uri}/{name}/{KEY} cannot be read ({error}): restore or remove it"
            ) from error


def stored(storage: Storage, name: str) -> StoredObject | None:
    """What a namespace of that name was created with; None if it was not."""
    try:
        return call(storage.get, f"{name}/{KEY}")
    except ObjectNotFoundError:
        return None


def _encoded(name: str, properties: Mapping[str, str]) -> bytes:
    return msgspec.json.encode(arguments.texts(properties, f"the properties of namespace {name}"))
