"""Tasks that append and read. None of them caches: a table is another one after each append.

The rows of a task are best given as an Arrow table or a data frame: Prefect walks through lists and
dictionaries for futures that they might hold, some 20 s for 300,000 rows (``prefect.utilities.annotations.quote``
keeps it from that). In ``map``, pass the block's name or ``unmapped(block)``: Prefect would map over its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from datashard_core.errors import ConfigurationError, DataShardError
from prefect_datashard.blocks import DataShardBlock

if TYPE_CHECKING:
    import pyarrow as pa
    from prefect import Flow, State
    from prefect.client.schemas.objects import FlowRun

    from datashard_core import AppendResult
    from prefect_datashard.schema import SchemaLike


@task(cache_policy=NO_CACHE)
def datashard_append(
    block: DataShardBlock | str,
    table: str,
    data: Any,
    *,
    append_id: str | None = None,
    schema: SchemaLike | None = None,
    create_if_missing: bool = False,
    timeout: float = 120.0,
    commit: Literal["now", "deferred"] = "now",
) -> AppendResult:
    """Append rows, once, however often the task or the flow is retried.

    Args:
        block: a DataShardBlock, or the name of a saved one.
        table: ``[namespace.]table``.
        data: rows; see :meth:`DataShardBlock.append`.
        append_id: an id that stays the same when the same work is tried again; by default of the run.
        schema: if given, the table has to have these fields.
        create_if_missing: create the table with ``schema`` if it is not there.
        timeout: seconds after which it gives up.
        commit: "now"; or "deferred": durable when the task ends, visible with the next commit or flush.

    Raises:
        DataShardError: as :meth:`DataShardBlock.append`.

    Example:
        >>> @flow
        ... def etl():
        ...     datashard_append.with_options(retries=3)("warehouse", "events", [{"user_id": 1}])
    """
    return _load(block).append(
        table,
        data,
        append_id=append_id,
        schema=schema,
        create_if_missing=create_if_missing,
        timeout=timeout,
        commit=commit,
    )


@task(cache_policy=NO_CACHE)
async def datashard_aappend(
    block: DataShardBlock | str,
    table: str,
    data: Any,
    *,
    append_id: str | None = None,
    schema: SchemaLike | None = None,
    create_if_missing: bool = False,
    timeout: float = 120.0,
    commit: Literal["now", "deferred"] = "now",
) -> AppendResult:
    """Append rows without blocking the event loop; see :func:`datashard_append`.

    If it is cancelled, its rows may still get into the table, once; a retry finds them.

    Example:
        >>> @flow
        ... async def etl():
        ...     await datashard_aappend("warehouse", "events", [{"user_id": 1}])
    """
    loaded = await DataShardBlock.aload(block) if isinstance(block, str) else _load(block)
    return await loaded.aappend(
        table,
        data,
        append_id=append_id,
        schema=schema,
        create_if_missing=create_if_missing,
        timeout=timeout,
        commit=commit,
    )


@task(cache_policy=NO_CACHE)
def datashard_flush(block: DataShardBlock | str, table: str, *, timeout: float = 120.0) -> int:
    """Commit every deferred append to a table that is staged now, whoever staged it.

    Args:
        block: a DataShardBlock, or the name of a saved one.
        table: ``[namespace.]table``.
        timeout: seconds after which it gives up.

    Returns:
        The version that shows all of it.

    Raises:
        DataShardError: as :meth:`DataShardBlock.flush`.

    Example:
        >>> datashard_flush("warehouse", "events")
        3
    """
    return _load(block).flush(table, timeout)


def flush_at_end(block: str, *tables: str) -> Callable[[Flow[..., Any], FlowRun, State[Any]], None]:
    """A hook for a flow: what its tasks have deferred is committed when the run is over, however it ended.

    A table that cannot be flushed does not keep the others from it; Prefect logs the error of a hook, and what
    is staged stays staged, for the next commit of anybody.

    Args:
        block: name of a saved DataShardBlock.
        tables: ``[namespace.]table``, each.

    Raises:
        ConfigurationError: no table was named.

    Example:
        >>> log = flush_at_end("warehouse", "workflow_log")
        >>> @flow(on_completion=[log], on_failure=[log], on_crashed=[log], on_cancellation=[log])
        ... def etl():
        ...     datashard_append("warehouse", "workflow_log", [{"task": "load"}], commit="deferred")
    """
    if not tables:
        raise ConfigurationError("flush_at_end: name the tables to be flushed, as in flush_at_end('warehouse', 'log')")

    def flush_deferred_appends(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
        loaded = _load(block)
        failures: list[DataShardError] = []
        for table in tables:
            try:
                loaded.flush(table)
            except DataShardError as error:
                failures.append(error)
        if failures:
            raise ExceptionGroup(f"flow run {flow_run.name}: deferred appends were not committed", failures)

    return flush_deferred_appends


@task(cache_policy=NO_CACHE)
def datashard_scan(
    block: DataShardBlock | str,
    table: str,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    snapshot_id: int | None = None,
    as_of: datetime | None = None,
) -> pa.Table:
    """Read rows of a table into an Arrow table.

    Args:
        block: a DataShardBlock, or the name of a saved one.
        table: ``[namespace.]table``.
        columns: names of the columns wanted; None for all.
        where: a condition as SQL text (needs the extra ``sql``).
        snapshot_id: read that snapshot; None: the newest.
        as_of: read what was current at that time.

    Raises:
        DataShardError: as :meth:`DataShardBlock.scan`.

    Example:
        >>> datashard_scan("warehouse", "events", where="event = 'login'").num_rows
        1
    """
    return _load(block).scan(table, columns, where, snapshot_id, as_of).to_arrow()


@task(cache_policy=NO_CACHE)
def datashard_sql(
    block: DataShardBlock | str, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None
) -> pa.Table:
    """Answer a SELECT over the tables of a block's warehouse (needs the extra ``sql``).

    Args:
        block: a DataShardBlock, or the name of a saved one.
        query: the SELECT.
        params: values for its placeholders.

    Example:
        >>> datashard_sql("warehouse", "select count(*) as n from events").to_pylist()
        [{'n': 1}]
    """
    return _load(block).sql(query, params)


def _load(block: DataShardBlock | str) -> DataShardBlock:
    if isinstance(block, DataShardBlock):
        return block
    if isinstance(block, str):
        # Said outright: within an async flow it would guess wrong, and return a coroutine.
        loaded = DataShardBlock.load(block, _sync=True)  # type: ignore[call-arg]
        assert isinstance(loaded, DataShardBlock)
        return loaded
    raise ConfigurationError(
        f"block is a {type(block).__name__}: pass the name of a saved DataShardBlock, or a DataShardBlock. Parameters "
        "of a deployment carry no block, as its secrets are masked there: pass its name."
    )
