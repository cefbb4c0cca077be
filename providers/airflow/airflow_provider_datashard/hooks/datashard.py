"""The hook: from the id of a connection to its warehouse and tables."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_datashard.append_id import task_append_id
from airflow_provider_datashard.connection import TEST_BUTTON, ConnectionSettings
from airflow_provider_datashard.fields import CONN_TYPE, HIDDEN_FIELDS, HOOK_NAME, PLACEHOLDERS, form_widgets
from airflow_provider_datashard.schema import to_schema
from airflow_provider_datashard.version_compat import AirflowNotFoundException, BaseHook, get_current_context
from datashard_core.errors import ConfigurationError, DataShardError

if TYPE_CHECKING:
    from airflow_provider_datashard.schema import SchemaLike
    from datashard_core import Table, Warehouse

_lock = threading.Lock()
_warehouses: dict[Hashable, Warehouse] = {}


def _renew_lock() -> None:
    """In a forked child: a thread of the parent may have held the lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class DataShardHook(BaseHook):
    """Tables of the warehouse that a connection of the type ``datashard`` describes.

    Where the tables are and with which credentials is in the connection alone: no ``DATASHARD_*`` or
    ``AWS_*`` variable of the worker is looked at (but by AWS's default chain, where the connection, or
    the aws connection that it names, leaves the credentials to it). Warehouses are kept for the life of
    the process, as long as the connection says the same. Nothing is looked up before it is needed.

    :param datashard_conn_id: id of the connection.
    :param logger_name: name of the hook's logger.

    Example, appending in a TaskFlow task (a second try of it appends nothing twice)::

        @task(retries=2)
        def extract() -> dict:
            hook = DataShardHook(datashard_conn_id="warehouse")
            table = hook.load_table("shop.events")
            return table.append(fetch_events(), append_id=hook.get_append_id()).to_dict()
    """

    conn_name_attr = "datashard_conn_id"
    default_conn_name = "datashard_default"
    conn_type = CONN_TYPE
    hook_name = HOOK_NAME

    def __init__(self, *, datashard_conn_id: str = default_conn_name, logger_name: str | None = None) -> None:
        super().__init__(logger_name=logger_name)
        self.datashard_conn_id = datashard_conn_id
        self._settings: ConnectionSettings | None = None
        self._warehouse: Warehouse | None = None

    def get_warehouse(self) -> Warehouse:
        """The connection's warehouse.

        Raises:
            ConfigurationError: there is no such connection, or its settings are not usable.
        """
        if self._warehouse is None:
            self._warehouse = _shared(self.get_settings())
        return self._warehouse

    @property
    def warehouse(self) -> Warehouse:
        """The same as :meth:`get_warehouse`."""
        return self.get_warehouse()

    def get_conn(self) -> Warehouse:
        """The same as :meth:`get_warehouse`, under the name that every hook has."""
        return self.get_warehouse()

    def load_table(self, name: str, *, to_defer: bool = False) -> Table:
        """Open a table at its newest version.

        Args:
            name: ``[namespace.]table``.
            to_defer: for a process that only defers appends: see ``datashard_core.Warehouse.load_table``.

        Raises:
            NoSuchTableError: there is none of that name.
        """
        return self.get_warehouse().load_table(name, to_defer=to_defer)

    def get_table(self, name: str) -> Table:
        """The same as :meth:`load_table`."""
        return self.load_table(name)

    def create_table(
        self,
        name: str,
        schema: SchemaLike,
        *,
        if_exists: Literal["error", "open"] = "error",
        properties: Mapping[str, str] | None = None,
    ) -> Table:
        """Create a table.

        Args:
            name: ``[namespace.]table``.
            schema: a Schema, a list of fields, or an Arrow schema.
            if_exists: "error"; or "open" to get the table that is there, if its fields are the same.
            properties: Iceberg table properties.

        Raises:
            TableExistsError: the name is taken, or the table there has other fields.
        """
        return self.get_warehouse().create_table(name, to_schema(schema), if_exists=if_exists, properties=properties)

    def get_append_id(self, context: Mapping[str, Any] | None = None, part: str | None = None) -> str:
        """The append id of a task: the same in every try, and of no other task.

        Args:
            context: the task's context; None: that of the task that runs now.
            part: what tells several appends of one task to one table apart.

        Example:
            >>> DataShardHook(datashard_conn_id="warehouse").get_append_id()
            'airflow:daily_sales/scheduled__2026-11-24T00:00:00+00:00/extract/-1'
        """
        found = get_current_context() if context is None else context
        return task_append_id(found["ti"], deployment=self.get_settings().deployment, part=part)

    def get_settings(self) -> ConnectionSettings:
        """The connection's settings, looked up once by each hook.

        Raises:
            ConfigurationError: there is no such connection, or its settings contradict each other.
        """
        if self._settings is None:
            conn_id = self.datashard_conn_id
            try:
                connection = self.get_connection(conn_id)
            except AirflowNotFoundException as error:
                raise ConfigurationError(
                    f"there is no connection {conn_id!r}: create one of the type {CONN_TYPE!r}, or pass "
                    "datashard_conn_id="
                ) from error
            self._settings = ConnectionSettings.of(connection, conn_id)
        return self._settings

    def test_connection(self) -> tuple[bool, str]:
        """Whether tables can be listed, read and committed; for the form's Test button.

        It writes a few small objects below ``_datashard/`` and deletes them. Time-outs are short.

        Returns:
            Whether it works, and what to do if not.
        """
        from datashard_core.storage import check_conditional, open_storage

        try:
            settings = self.get_settings()
            storage = open_storage(settings.config(TEST_BUTTON))
            folders = storage.folders()
            # A folder of its own: the proof is kept by folder, and here it is to be made each time.
            check_conditional(storage.at(f"_datashard/test-{os.urandom(8).hex()}/table"))
        except DataShardError as error:
            return False, str(error)
        found = sum(not name.startswith("_") for name in folders)
        where = f"{storage.root} can be read and written ({found} tables or namespaces)"
        return True, where if settings.folder is None else f"{where} from the machine of the API server"

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """The form's fields, for releases of Airflow before 3.2; later ones read the provider information."""
        return form_widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """What the form hides and suggests, for releases of Airflow before 3.2."""
        return {"hidden_fields": list(HIDDEN_FIELDS), "relabeling": {}, "placeholders": dict(PLACEHOLDERS)}


def _shared(settings: ConnectionSettings) -> Warehouse:
    """The process's warehouse for these settings: its clients and their connections are used again."""
    from datashard_core import connect

    # A forked child is another process: its parent's connections are not its own.
    key = (os.getpid(), settings, _identity_of_aws(settings.aws_conn_id))
    with _lock:
        found = _warehouses.get(key)
        if found is None:
            found = _warehouses[key] = connect(config=settings.config())
        return found


def _identity_of_aws(aws_conn_id: str | None) -> Hashable:
    """What an AWS connection says now, so that a changed one is not served from what is kept."""
    if aws_conn_id is None:
        return None
    from airflow_provider_datashard.aws import check_exists

    found = check_exists(aws_conn_id)
    return found.login, found.password, found.host, found.port, found.extra
