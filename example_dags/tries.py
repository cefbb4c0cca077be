"""One row in the workflow log for each try of a task; shared by the example Dag and flow."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datashard_core import Warehouse
    from datashard_core.workflow_log import State


@dataclass
class Try:
    """One try of one task.

    Attributes:
        orchestrator: ``airflow`` or ``prefect``.
        workflow: Dag id or flow name.
        run_id: id of the run.
        task_id: id or name of the task.
        map_index: which of the mapped tasks; None if it is not mapped.
        number: 1 for the first try.
        rows: how many rows it wrote; the task fills it in.
    """

    orchestrator: str
    workflow: str
    run_id: str
    task_id: str
    map_index: int | None
    number: int
    rows: int = 0


@contextmanager
def logged(warehouse: Warehouse, attempt: Try) -> Iterator[Try]:
    """Run the body of a task; append a row about it to ``workflow_log``, whether it fails or not."""
    started = datetime.now(UTC)
    try:
        yield attempt
    except BaseException as error:
        _append(warehouse, attempt, started, "failed", error)
        raise
    _append(warehouse, attempt, started, "success", None)


def _append(warehouse: Warehouse, attempt: Try, started: datetime, state: State, error: BaseException | None) -> None:
    from datashard_core.workflow_log import log_row, open_log

    row = log_row(
        orchestrator=attempt.orchestrator,
        workflow=attempt.workflow,
        run_id=attempt.run_id,
        task_id=attempt.task_id,
        map_index=attempt.map_index,
        try_number=attempt.number,
        state=state,
        started=started,
        finished=datetime.now(UTC),
        rows=attempt.rows,
        error=error,
        host=platform.node(),
    )
    open_log(warehouse).append([row])
