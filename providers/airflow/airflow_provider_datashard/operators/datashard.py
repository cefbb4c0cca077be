"""The operator that appends rows to a table, once, however often its task is tried."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from airflow_provider_datashard.hooks.datashard import DataShardHook
from airflow_provider_datashard.version_compat import AirflowFailException, AirflowSkipException, BaseOperator

if TYPE_CHECKING:
    from datashard_core import Schema, Table

IfEmpty = Literal["error", "skip"]


class DataShardAppendOperator(BaseOperator):
    """Append rows to a DataShard table.

    By default the append id is made of Dag, run, task and map index, so a task that is retried,
    re-queued or cleared appends its rows once. The same id with other rows is an error that says
    what to do, never a silent skip.

    Args:
        table: name of the table, ``[namespace.]table``. (templated)
        records: a list of dictionaries, JSON text of one, an XComArg of another task, or a callable
            that returns rows (dictionaries, Arrow, pandas or Polars); a callable gets those of the
            task's context variables that it has parameters for. (templated)
        schema: the table's fields, for a table that may have to be created: a Schema, a list of
            field mappings, or an Arrow schema.
        create_if_missing: create the table with ``schema`` where it does not exist.
        append_id: an id of your own that stays the same when the same work is tried again. (templated)
        datashard_conn_id: id of the connection. (templated)
        if_empty: what a task without rows does: "error", or "skip" itself.
        timeout: seconds after which an append gives up.

    Returns:
        ``{table, version, snapshot_id, rows, append_id, already_appended}``.

    Raises:
        AirflowFailException: the rows do not fit, or the id was used with other rows: no retry helps.

    Example:
        >>> DataShardAppendOperator(
        ...     task_id="append",
        ...     table="events",
        ...     records=extract.output,
        ...     schema=[{"id": 1, "name": "user_id", "type": "long", "required": True}],
        ...     create_if_missing=True,
        ... )
    """

    template_fields: Sequence[str] = ("table", "records", "append_id", "datashard_conn_id")
    template_fields_renderers = {"records": "json"}
    ui_color = "#d9efe3"

    def __init__(
        self,
        *,
        table: str,
        records: Any,
        schema: Schema | Sequence[Mapping[str, Any]] | Any = None,
        create_if_missing: bool = False,
        append_id: str | None = None,
        datashard_conn_id: str = DataShardHook.default_conn_name,
        if_empty: IfEmpty = "error",
        timeout: float = 120.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.records = records
        self.schema = schema
        self.create_if_missing = create_if_missing
        self.append_id = append_id
        self.datashard_conn_id = datashard_conn_id
        self.if_empty = if_empty
        self.timeout = timeout

    @cached_property
    def hook(self) -> DataShardHook:
        """The hook of the operator's connection."""
        return DataShardHook(datashard_conn_id=self.datashard_conn_id)

    def execute(self, context: Any) -> dict[str, Any]:
        """Append the rows."""
        from datashard_core import AppendIdConflictError, ConfigurationError, InvalidRecordsError

        try:
            rows = rows_of(self.records, context)
            if _is_empty(rows) and self.if_empty == "skip":
                raise AirflowSkipException(f"no rows for table {self.table}")
            result = self._open().append(rows, append_id=self._append_id(context), timeout=self.timeout)
        except AppendIdConflictError as error:
            raise AirflowFailException(
                f"{error} (In Airflow: a cleared task that is meant to append new rows needs an append_id of its own, "
                "such as '{{ run_id }}-{{ ti.try_number }}'.)"
            ) from error
        except (InvalidRecordsError, ConfigurationError) as error:
            raise AirflowFailException(str(error)) from error
        self.log.info(
            "%s rows %s table %s (version %s, append id %s)",
            result.rows,
            "were already in" if result.already_appended else "appended to",
            result.table,
            result.version,
            result.append_id,
        )
        return result.to_dict()

    def _open(self) -> Table:
        if not self.create_if_missing:
            return self.hook.get_table(self.table)
        from datashard_core import ConfigurationError

        if self.schema is None:
            raise ConfigurationError(f"table {self.table}: create_if_missing needs schema=")
        return self.hook.create_table(self.table, _as_schema(self.schema), if_exists="open")

    def _append_id(self, context: Any) -> str:
        if self.append_id is not None:
            return self.append_id
        ti = context["ti"]
        return default_append_id(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, deployment=self.hook.deployment)


def default_append_id(
    dag_id: str, run_id: str, task_id: str, map_index: int = -1, *, deployment: str | None = None
) -> str:
    """The append id of a task: the same over retries and clears, another for any other task.

    Each part is percent-encoded, so no two tasks can have one id.

    Example:
        >>> default_append_id("etl", "manual__2026-11-24", "load", 3)
        'airflow:etl/manual__2026-11-24/load/3'
    """
    parts = [dag_id, run_id, task_id, str(map_index)]
    place = f"{quote(deployment, safe='')}:" if deployment else ""
    return f"airflow:{place}" + "/".join(quote(part, safe="") for part in parts)


def rows_of(records: Any, context: Mapping[str, Any]) -> Any:
    """The rows that an operator was given.

    Args:
        records: rows, JSON text, or a callable that returns rows.
        context: the task's context.

    Raises:
        ConfigurationError: text that is not a JSON list of objects.
    """
    from datashard_core import ConfigurationError

    if callable(records):
        records = records(**_accepted(records, context))
    if isinstance(records, str):
        try:
            parsed = json.loads(records)
        except json.JSONDecodeError as error:
            raise ConfigurationError(
                f"records={records!r:.200} is text that is not JSON ({error}). Pass a list of dictionaries, or set "
                "render_template_as_native_obj=True on the Dag."
            ) from error
        records = parsed
    if isinstance(records, Mapping):
        return [records]
    return records


def _accepted(function: Callable[..., Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """The context variables that a callable has parameters for."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(context)
    return {name: context[name] for name in parameters if name in context}


def _is_empty(rows: Any) -> bool:
    try:
        return len(rows) == 0
    except TypeError:
        return False


def _as_schema(schema: Any) -> Schema:
    from datashard_core import Schema

    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, Sequence):
        return Schema(fields=schema)
    return Schema.from_arrow(schema)
