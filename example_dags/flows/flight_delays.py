"""Delays of the flights that left New York, added up month by month: a flow of mapped tasks.

Each task adds up one part of the year and appends the sums to the table ``flight_delays``, and a row
about itself to ``workflow_log``. The bucket and its keys are in a saved ``DataShardBlock``, which the
tasks load by its name. The Dag in ``dags/flight_delays.py`` may append to the same tables at the same
time.

Run it in the folder above this one, which holds the modules ``flights`` and ``tries``:
``python -m flows.flight_delays BLOCK_NAME``.
"""

from __future__ import annotations

import sys
from typing import Any, cast

from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

import flights
import tries
from prefect_datashard import DataShardBlock

TABLE = "flight_delays"


@task(retries=1, retry_delay_seconds=2, cache_policy=NO_CACHE)
def add_up(block: str, part: list[int], map_index: int, fail_once_at: str) -> dict[str, Any]:
    """Append the sums of one part; return what the append did."""
    context = TaskRunContext.get()
    assert context is not None, "add_up is called by the flow"
    run = context.task_run
    saved = cast(DataShardBlock, DataShardBlock.load(block))
    attempt = tries.Try("prefect", "flight_delays", str(run.flow_run_id), "add_up", map_index, run.run_count)
    with tries.logged(saved.get_warehouse(), attempt):
        days = flights.Part(*part)
        # The id of the append is made of the run: a second try finds the rows in the table and adds none.
        result = saved.append(TABLE, flights.delays(days), schema=flights.FIELDS, create_if_missing=True)
        attempt.rows = 0 if result.already_appended else result.rows
        if fail_once_at == days.label and attempt.number == 1:
            raise ConnectionError(f"{days.label}: lost after the append, on purpose, in the first try")
        return result.to_dict()


@flow(name="flight_delays")
def flight_delays(
    block: str, first_month: int = 7, last_month: int = 12, halves: bool = False, fail_once_at: str = ""
) -> list[dict[str, Any]]:
    """Add up some months of the year.

    Args:
        block: name of the saved block that knows the bucket.
        first_month: the first month.
        last_month: the last month.
        halves: one task for each half of a month, not for each month.
        fail_once_at: label of the part whose first try fails after its append.
    """
    parts = [list(part) for part in flights.parts(first_month, last_month, halves)]
    runs = add_up.map(unmapped(block), parts, list(range(len(parts))), unmapped(fail_once_at))
    return [run.result() for run in runs]


if __name__ == "__main__":
    flight_delays(sys.argv[1])
