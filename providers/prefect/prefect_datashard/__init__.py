"""DataShard tables in Prefect: a block, and tasks whose retries append nothing twice."""

from __future__ import annotations

from prefect_datashard.blocks import DataShardBlock
from prefect_datashard.tasks import (
    datashard_aappend,
    datashard_append,
    datashard_flush,
    datashard_scan,
    datashard_sql,
    flush_at_end,
)

__version__ = "0.1.0"

__all__ = [
    "DataShardBlock",
    "__version__",
    "datashard_aappend",
    "datashard_append",
    "datashard_flush",
    "datashard_scan",
    "datashard_sql",
    "flush_at_end",
]
