"""The workflow log: one row for each try of a task, whichever orchestrator ran it.

The log is an ordinary table with a fixed schema, so every orchestrator's rows can be asked about
together.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import MAXYEAR, MINYEAR, datetime
from typing import TYPE_CHECKING, Any, Literal

from datashard_core.arguments import shown
from datashard_core.errors import ConfigurationError, InvalidRecordsError

if TYPE_CHECKING:
    from datashard_core.format.types.schema import Schema
    from datashard_core.table.table import Table
    from datashard_core.table.warehouse import Warehouse

TABLE = "workflow_log"
"""The usual name of the table."""

PROPERTIES: Mapping[str, str] = {"datashard.auto-compact": "true"}
"""Properties that a log is made with: many append a row or two, so small files are compacted now and then."""

State = Literal["success", "failed", "skipped", "canceled", "crashed"]
STATES: tuple[State, ...] = ("success", "failed", "skipped", "canceled", "crashed")

_FIELDS: tuple[Mapping[str, Any], ...] = (
    {
        "id": 1,
        "name": "orchestrator",
        "type": "string",
        "required": True,
        "doc": "airflow, prefect or a script's name",
    },
    {"id": 2, "name": "workflow", "type": "string", "required": True, "doc": "Dag id or flow name"},
    {"id": 3, "name": "run_id", "type": "string", "required": True, "doc": "Dag run id or flow run id"},
    {"id": 4, "name": "task_id", "type": "string", "required": True, "doc": "task id or task name"},
    {"id": 5, "name": "map_index", "type": "int", "doc": "index of a mapped task; null if not mapped"},
    {"id": 6, "name": "try_number", "type": "int", "required": True, "doc": "1 for the first try"},
    {"id": 7, "name": "state", "type": "string", "required": True, "doc": ", ".join(STATES)},
    {"id": 8, "name": "started", "type": "timestamptz", "required": True, "doc": "start of the try"},
    {"id": 9, "name": "finished", "type": "timestamptz", "doc": "end of the try"},
    {"id": 10, "name": "rows", "type": "long", "doc": "rows that the try wrote"},
    {"id": 11, "name": "error", "type": "string", "doc": "type and message of the error"},
    {"id": 12, "name": "host", "type": "string", "doc": "machine that it ran on"},
)


def workflow_log_schema() -> Schema:
    """The schema of a workflow log.

    Example:
        >>> workflow_log_schema().find(7).name
        'state'
    """
    from datashard_core.format.types.schema import Schema

    return Schema(schema_id=0, fields=_FIELDS)


def open_log(warehouse: Warehouse, name: str = TABLE) -> Table:
    """Open a workflow log, and make it first where there is none.

    Args:
        warehouse: where it is.
        name: name of the table.

    Raises:
        ConfigurationError: it is no warehouse.
        TableExistsError: there is a table of that name with other fields.

    Example:
        >>> open_log(warehouse)
        <Table workflow_log version 0 at file:///srv/warehouse/workflow_log>
    """
    if not callable(getattr(warehouse, "create_table", None)):
        raise ConfigurationError(f"warehouse={shown(warehouse)}: pass what datashard_core.connect() returns")
    return warehouse.create_table(name, workflow_log_schema(), if_exists="open", properties=PROPERTIES)


def log_row(
    *,
    orchestrator: str,
    workflow: str,
    run_id: str,
    task_id: str,
    try_number: int,
    state: State,
    started: datetime,
    finished: datetime | None = None,
    map_index: int | None = None,
    rows: int | None = None,
    error: BaseException | str | None = None,
    host: str | None = None,
) -> dict[str, Any]:
    """One row of the log: one try of one task.

    Args:
        orchestrator: "airflow", "prefect", or a name of your own.
        workflow: Dag id or flow name.
        run_id: id of the run.
        task_id: the task's id or name.
        try_number: 1 for the first try.
        state: how the try ended, one of :data:`STATES`.
        started: when it began, with its time zone.
        finished: when it ended, with its time zone; None where that is not known.
        map_index: index of a mapped task.
        rows: how many rows it wrote.
        error: why it failed; an exception is written as its type and message.
        host: the machine.

    Raises:
        InvalidRecordsError: the state is unknown, or a time has no zone.
    """
    if not isinstance(state, str) or state not in STATES:
        raise InvalidRecordsError(f"workflow log: state={shown(state)} is none of {', '.join(STATES)}")
    _check_time("started", started)
    if finished is not None:
        _check_time("finished", finished)
    return {
        "orchestrator": orchestrator,
        "workflow": workflow,
        "run_id": run_id,
        "task_id": task_id,
        "map_index": map_index,
        "try_number": try_number,
        "state": state,
        "started": started,
        "finished": finished,
        "rows": rows,
        "error": f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error,
        "host": host,
    }


def _check_time(name: str, moment: Any) -> None:
    # NaT of pandas is a datetime, too, without a year; and pandas has years that Python lacks.
    if not isinstance(moment, datetime) or not MINYEAR <= moment.year <= MAXYEAR:
        raise InvalidRecordsError(
            f"workflow log: {name}={shown(moment)} is no time; pass a datetime with a time zone, such as "
            "datetime.now(UTC)"
        )
    if moment.utcoffset() is None:
        raise InvalidRecordsError(
            f"workflow log: {name}={moment.isoformat()} has no time zone; use datetime.now(timezone.utc)"
        )
