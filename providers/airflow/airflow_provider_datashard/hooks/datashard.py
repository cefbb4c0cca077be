"""The hook: tables of a warehouse that an Airflow connection names."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_datashard.connection import connection_to_config, fields_of
from airflow_provider_datashard.version_compat import BaseHook

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from datashard_core import LocalConfig, S3Config, Schema, Table, Warehouse

_SHORT = {"connect_timeout": 4.0, "read_timeout": 8.0, "max_attempts": 1}

_warehouses: dict[Any, Warehouse] = {}
_warehouses_lock = threading.Lock()


class DataShardHook(BaseHook):
    """Tables in the bucket or folder of a connection of type ``datashard``.

    Credentials come from the connection alone: its keys, the AWS connection that it names, or the
    instance role where it says so. No ``AWS_*`` or ``DATASHARD_*`` variable of the worker counts.

    Args:
        datashard_conn_id: id of the connection.

    Example:
        >>> hook = DataShardHook(datashard_conn_id="datashard_default")
        >>> hook.get_table("workflow_log").append([{"task": "extract", "state": "success"}]).rows
        1
    """

    conn_name_attr = "datashard_conn_id"
    default_conn_name = "datashard_default"
    conn_type = "datashard"
    hook_name = "DataShard"

    def __init__(self, *, datashard_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.datashard_conn_id = datashard_conn_id

    def get_conn(self) -> Warehouse:
        """The warehouse; Airflow's usual name for what a hook connects to."""
        return self.warehouse

    def get_warehouse(self) -> Warehouse:
        """The warehouse of the connection; one for each configuration in a process."""
        return self.warehouse

    @cached_property
    def warehouse(self) -> Warehouse:
        """The warehouse of the connection; one for each configuration in a process.

        Raises:
            ConfigurationError: the connection is incomplete, or names no credentials.
        """
        from datashard_core import connect

        config = self._config()
        with _warehouses_lock:
            found = _warehouses.get(config)
            if found is None:
                found = _warehouses[config] = connect(config=config)
            return found

    @cached_property
    def deployment(self) -> str | None:
        """Name of this Airflow in append ids, if the connection gives one."""
        return fields_of(self.get_connection(self.datashard_conn_id)).get("deployment")

    def get_table(self, name: str) -> Table:
        """Open a table at its newest version.

        Args:
            name: ``[namespace.]table``.

        Raises:
            NoSuchTableError: there is none of that name.
        """
        return self.warehouse.load_table(name)

    load_table = get_table

    def create_table(self, name: str, schema: Schema, **options: Any) -> Table:
        """Create a table; see :meth:`datashard_core.Warehouse.create_table`."""
        return self.warehouse.create_table(name, schema, **options)

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Answer a SELECT over the warehouse's tables."""
        return self.warehouse.sql(query, params)

    def test_connection(self) -> tuple[bool, str]:
        """The Test button: list the folders of the warehouse, with short time-outs.

        Returns:
            Whether it works, and what was found or what to do.
        """
        from datashard_core import DataShardError
        from datashard_core.storage import open_storage

        try:
            storage = open_storage(self._config(_SHORT))
            folders = storage.folders()
        except DataShardError as error:
            return False, str(error)
        except Exception as error:  # noqa: BLE001 - the button shows whatever went wrong
            return False, f"{type(error).__name__}: {error}"
        return True, f"{storage.root} can be read; it holds {len(folders)} folder(s)"

    def _config(self, timeouts: Mapping[str, Any] | None = None) -> S3Config | LocalConfig:
        return connection_to_config(self.get_connection(self.datashard_conn_id), timeouts=timeouts)
