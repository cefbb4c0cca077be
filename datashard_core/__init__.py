"""DataShard: ACID tables on object stores and local disk, in Apache Iceberg's format, with no catalog.

Names are imported when they are first used, so that ``import datashard_core`` stays quick: it brings
in neither boto3, pyarrow, duckdb, pandas nor fastavro.
"""

from __future__ import annotations

from importlib import import_module

from datashard_core._imports import import_msgspec

TYPE_CHECKING = False  # as in typing, whose import takes longer than all that is done here
if TYPE_CHECKING:
    from typing import Any

    from datashard_core.config import LocalConfig, S3Config
    from datashard_core.errors import (
        AppendIdConflictError,
        AppendRefusedError,
        AppendSetAsideError,
        CommitStateUnknownError,
        CommitTimeoutError,
        ConfigurationError,
        CorruptTableError,
        DataShardError,
        InvalidRecordsError,
        NoSuchTableError,
        StorageError,
        StoreNotConditionalError,
        TableExistsError,
        UnsupportedTableError,
    )
    from datashard_core.format.expressions.expressions import Condition, col
    from datashard_core.format.metadata.snapshot import Snapshot
    from datashard_core.format.rows.digest import rows_digest
    from datashard_core.format.types.schema import Schema
    from datashard_core.format.types.types import NestedField
    from datashard_core.table.append import AppendResult
    from datashard_core.table.scan import Scan
    from datashard_core.table.table import Table
    from datashard_core.table.warehouse import Warehouse, connect, create_table, load_table

__version__ = "0.1.0"

__all__ = [
    "AppendIdConflictError",
    "AppendRefusedError",
    "AppendResult",
    "AppendSetAsideError",
    "CommitStateUnknownError",
    "CommitTimeoutError",
    "Condition",
    "ConfigurationError",
    "CorruptTableError",
    "DataShardError",
    "InvalidRecordsError",
    "LocalConfig",
    "NestedField",
    "NoSuchTableError",
    "S3Config",
    "Scan",
    "Schema",
    "Snapshot",
    "StorageError",
    "StoreNotConditionalError",
    "Table",
    "TableExistsError",
    "UnsupportedTableError",
    "Warehouse",
    "__version__",
    "col",
    "connect",
    "create_table",
    "load_table",
    "rows_digest",
]

_HOMES = {
    "LocalConfig": "config",
    "S3Config": "config",
    "rows_digest": "format.rows.digest",
    "Condition": "format.expressions.expressions",
    "col": "format.expressions.expressions",
    "Schema": "format.types.schema",
    "Snapshot": "format.metadata.snapshot",
    "NestedField": "format.types.types",
    "AppendResult": "table.append",
    "Scan": "table.scan",
    "Table": "table.table",
    "Warehouse": "table.warehouse",
    "connect": "table.warehouse",
    "create_table": "table.warehouse",
    "load_table": "table.warehouse",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_msgspec()
    found = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
