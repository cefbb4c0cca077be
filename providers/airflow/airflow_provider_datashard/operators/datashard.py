"""Operators: one appends rows to a table, once, however often its task is tried; one commits what was deferred."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_datashard.hooks.datashard import DataShardHook
from airflow_provider_datashard.schema import to_schema
from airflow_provider_datashard.version_compat import (
    AirflowFailException,
    AirflowSkipException,
    Asset,
    BaseOperator,
)
from datashard_core.errors import (
    AppendIdConflictError,
    CommitStateUnknownError,
    ConfigurationError,
    InvalidRecordsError,
)

if TYPE_CHECKING:
    from airflow_provider_datashard.schema import SchemaLike
    from airflow_provider_datashard.version_compat import Context
    from datashard_core import AppendResult, Table


class DataShardAppendOperator(BaseOperator):
    """Append rows to a DataShard table: all of them, exactly once.

    The append carries an id made of the Dag, the run, the task and the map index (and of the connection's
    deployment, if it names one). A task that is tried again, or cleared, or queued twice finds its rows in the
    table and adds none. Other rows under the same id fail the task, without further tries.

    The value that is returned, and thus the XCom, is ``{"table": ..., "version": ..., "snapshot_id": ...,
    "rows": ..., "append_id": ..., "already_appended": ...}``. Assets among ``outlets`` get the table, version,
    snapshot and number of rows as the extra of their event.

    :param table: ``[namespace.]table``. (templated)
    :param records: the rows. A list of dictionaries; the output of another task (of a mapped task: rows, or lists
        of rows, which are joined in the order of the map index); a template whose result is JSON
        (``"{{ ti.xcom_pull(task_ids='extract') | tojson }}"``) or, with ``render_template_as_native_obj``, a list;
        or a callable, which is called in the task with those values of the context that it names as parameters,
        and returns a list of dictionaries, a pyarrow Table or record batches, or a pandas or Polars frame. What a
        callable returns must be the same in every try. (templated)
    :param schema: the rows' schema: a ``datashard_core.Schema``, a list of fields such as
        ``[{"name": "day", "type": "date", "required": True}]``, or a pyarrow schema. With ``create_if_missing`` the
        table is made of it; a table that has another is refused.
    :param create_if_missing: make the table if there is none.
    :param append_id: an id that is the same in every try, instead of the one made here. (templated)
    :param if_empty: what to do where there are no rows: "error", or "skip" to mark the task as skipped.
    :param datashard_conn_id: id of the connection. (templated)
    :param timeout: seconds after which the append gives up.
    :param commit: "now"; or "deferred": the rows are durable when the task ends, by one small request, and visible
        with the next commit of anybody, or a :class:`DataShardFlushOperator` at the end of the run.

    Example::

        from airflow.sdk import dag, task


        @task
        def extract(day: str) -> list[dict]:
            return [{"user_id": 1, "event": "login"}]


        @dag
        def events():
            DataShardAppendOperator(
                task_id="load",
                table="shop.events",
                records=extract("{{ ds }}"),
                schema=[{"name": "user_id", "type": "long", "required": True}, {"name": "event", "type": "string"}],
                create_if_missing=True,
                datashard_conn_id="warehouse",
                retries=3,
            )
    """

    template_fields: Sequence[str] = ("table", "records", "append_id", "datashard_conn_id")
    template_fields_renderers = {"records": "json"}  # noqa: RUF012 - the base class has it so
    ui_color = "#d7e8f4"

    def __init__(
        self,
        *,
        table: str,
        records: Any,
        schema: SchemaLike | None = None,
        create_if_missing: bool = False,
        append_id: str | None = None,
        if_empty: Literal["error", "skip"] = "error",
        datashard_conn_id: str = DataShardHook.default_conn_name,
        timeout: float = 120.0,
        commit: Literal["now", "deferred"] = "now",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.commit = commit
        # Airflow would call a callable in a template field itself, with other arguments and too early.
        self.records = None if callable(records) else records
        self.append_id = append_id
        self.datashard_conn_id = datashard_conn_id
        self._records_callable: Callable[..., Any] | None = records if callable(records) else None
        self.schema = schema
        self.create_if_missing = create_if_missing
        self.if_empty = if_empty
        self.timeout = timeout
        self._check_arguments(records)

    @cached_property
    def hook(self) -> DataShardHook:
        """The hook of the connection."""
        return DataShardHook(datashard_conn_id=self.datashard_conn_id)

    def execute(self, context: Context) -> dict[str, Any]:
        """Append, and return what was done.

        Raises:
            AirflowFailException: other rows are in the table under this append id.
            AirflowSkipException: there are no rows, and ``if_empty`` is "skip".
            InvalidRecordsError: the rows do not fit; nothing was written.
            DataShardError: see ``datashard_core.Table.append``.
        """
        append_id = self.hook.get_append_id(context) if self.append_id is None else self.append_id
        rows = self._rows(context)
        table = self._open()
        schema = None if self.schema is None else to_schema(self.schema)
        self.log.info("Appending to %s under the id %r", table.uri, append_id)
        try:
            result = table.append_records(rows, schema, append_id=append_id, timeout=self.timeout, commit=self.commit)
        except AppendIdConflictError as error:
            # Another try would bring the same conflict, or worse, rows that happen to match.
            raise AirflowFailException(
                f"{error} A task that is cleared keeps its id: to append what it yields now, trigger a new run, or "
                "pass append_id= with what makes the rows different (a date, a batch number). A callable or an "
                "upstream task whose rows change from try to try (by the time of day, or their order) has to be made "
                "to return the same."
            ) from error
        except CommitStateUnknownError:
            self.log.warning(
                "It is unknown whether the rows are in %s: another try will tell, and not repeat them", table.uri
            )
            raise
        self._report(table, result, context)
        return result.to_dict()

    def on_kill(self) -> None:
        """Nothing is to be undone: a commit is in the table or not, and the next try finds out which."""
        self.log.info(
            "Killed while appending to %s: another try appends what is missing, and nothing twice", self.table
        )

    def _check_arguments(self, records: Any) -> None:
        name = f"{type(self).__name__} {self.task_id!r}"
        if self.if_empty not in ("error", "skip"):
            raise ConfigurationError(f"{name}: if_empty={self.if_empty!r}: pass 'error' or 'skip'")
        if self.commit not in ("now", "deferred"):
            raise ConfigurationError(f"{name}: commit={self.commit!r}: pass 'now' or 'deferred'")
        if self.create_if_missing and self.schema is None:
            raise ConfigurationError(f"{name}: create_if_missing=True needs schema=, to make the table of")
        if hasattr(records, "operator_class"):
            raise ConfigurationError(
                f"{name}: records is a @task that is not called: pass its output, records={records.__name__}(...)"
            )

    def _open(self) -> Table:
        if self.create_if_missing and self.schema is not None:
            return self.hook.create_table(self.table, self.schema, if_exists="open")
        return self.hook.load_table(self.table, to_defer=self.commit == "deferred")

    def _rows(self, context: Context) -> Any:
        """The rows, from wherever they come.

        Raises:
            InvalidRecordsError: there is nothing that holds rows, or no row.
        """
        where = f"table {self.table}: records"
        given = self.records
        if self._records_callable is not None:
            given = call_with_context(self._records_callable, context)
            where += f" (returned by {_name(self._records_callable)})"
        rows = as_rows(given, where)
        if hasattr(rows, "__len__") and len(rows) == 0:
            if self.if_empty == "skip":
                raise AirflowSkipException(f"{where}: no rows")
            raise InvalidRecordsError(
                f"{where}: no rows. Pass if_empty='skip' if that is all right; then the task is skipped."
            )
        return rows

    def _report(self, table: Table, result: AppendResult, context: Context) -> None:
        if result.already_appended:
            self.log.info(
                "Nothing was appended: the same rows are in %s since version %s, by an earlier try",
                table.uri,
                result.version,
            )
        elif result.version is None:
            self.log.info("Staged %d rows for %s: the next commit or flush shows them", result.rows, table.uri)
        else:
            self.log.info("Appended %d rows to %s, version %s", result.rows, table.uri, result.version)
        for asset in self.outlets or ():
            if isinstance(asset, Asset):
                context["outlet_events"][asset].extra = {
                    "table": result.table,
                    "version": result.version,
                    "snapshot_id": result.snapshot_id,
                    "rows": result.rows,
                }


class DataShardFlushOperator(BaseOperator):
    """Commit every deferred append to a table that is staged now, whoever staged it.

    At the end of a Dag whose tasks append with ``commit="deferred"``: as a teardown it runs however they ended, and
    does not decide whether the run has failed.

    The value that is returned, and thus the XCom, is ``{"table": ..., "version": ..., "snapshot_id": ...}``.

    :param table: ``[namespace.]table``. (templated)
    :param datashard_conn_id: id of the connection. (templated)
    :param timeout: seconds after which it gives up; what is staged stays staged.

    Example::

        load >> DataShardFlushOperator(task_id="flush", table="shop.events").as_teardown()
    """

    template_fields: Sequence[str] = ("table", "datashard_conn_id")
    ui_color = "#d7e8f4"

    def __init__(
        self,
        *,
        table: str,
        datashard_conn_id: str = DataShardHook.default_conn_name,
        timeout: float = 120.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.datashard_conn_id = datashard_conn_id
        self.timeout = timeout

    @cached_property
    def hook(self) -> DataShardHook:
        """The hook of the connection."""
        return DataShardHook(datashard_conn_id=self.datashard_conn_id)

    def execute(self, context: Context) -> dict[str, Any]:
        """Flush, and return what the table is now.

        Raises:
            AppendRefusedError: some of it is refused, and never will be in the table; everything else is.
            DataShardError: see ``datashard_core.Table.flush``.
        """
        table = self.hook.load_table(self.table).flush(self.timeout)
        snapshot = table.current_snapshot()
        self.log.info("Whatever was staged for %s is in it, version %s", table.uri, table.version)
        return {
            "table": table.name,
            "version": table.version,
            "snapshot_id": snapshot.snapshot_id if snapshot is not None else None,
        }


def as_rows(given: Any, where: str) -> Any:
    """What the core's ``append`` takes, from what a template, an XCom or a callable yields.

    Args:
        given: the value.
        where: what it is, for messages.

    Raises:
        InvalidRecordsError: it is nothing, or text that is no JSON.
    """
    if given is None:
        raise InvalidRecordsError(f"{where} is None: rows are wanted, as a list of dictionaries or a table")
    if isinstance(given, (str, bytes)):
        return _from_json(given, where)
    if isinstance(given, Mapping):
        raise InvalidRecordsError(f"{where} is one dictionary, and rows are wanted: pass a list, [row]")
    if hasattr(given, "read_all"):  # a stream of Arrow's, whose end alone tells whether it is empty
        return given.read_all()
    if isinstance(given, Iterator):
        return list(given)
    if isinstance(given, Sequence) and not isinstance(given, (list, tuple)):
        return _joined(list(given[:]))  # the outputs of a mapped task, fetched in one request
    return given


def call_with_context(function: Callable[..., Any], context: Mapping[str, Any]) -> Any:
    """Call a function with the values of the context that its parameters name.

    Args:
        function: with ``**kwargs`` it gets the whole context.
        context: the task's.

    Raises:
        ConfigurationError: it demands a parameter that the context does not have.
    """
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return function(**context)
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    for one in parameters:
        if (
            one.default is one.empty
            and one.kind is not one.VAR_POSITIONAL
            and (one not in named or one.name not in context)
        ):
            raise ConfigurationError(
                f"{_name(function)} demands {one.name!r}, which is no value of the task's context: give it a default, "
                "or bind it with functools.partial"
            )
    return function(**{one.name: context[one.name] for one in named if one.name in context})


def _from_json(text: str | bytes, where: str) -> Any:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise InvalidRecordsError(
            f"{where} is the text {text!r:.60}, which is no JSON ({error}). Let the template end in '| tojson', set "
            "render_template_as_native_obj=True, or pass the output of the other task itself."
        ) from error
    if not isinstance(rows, list):
        raise InvalidRecordsError(f"{where} is the text {text!r:.60}: JSON, but no list of rows")
    return rows


def _joined(parts: list[Any]) -> list[Any]:
    if parts and all(isinstance(part, (list, tuple)) for part in parts):
        return list(chain.from_iterable(parts))
    return parts


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__
