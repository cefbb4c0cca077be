"""Delays of the flights that left New York, added up month by month: a Dag of mapped tasks.

Each task adds up one part of the year and appends the sums to the table ``flight_delays``, and a row
about itself to ``workflow_log``. The bucket and its keys are in the Airflow connection
``flights_warehouse``, and nowhere else. The flow in ``flows/flight_delays.py`` may append to the same
tables at the same time.

``[core] dags_folder`` is the folder above this one, which holds the modules ``flights`` and ``tries``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, get_current_context, task

import flights
import tries
from airflow_provider_datashard.hooks.datashard import DataShardHook
from datashard_core import Schema

CONNECTION_ID = "flights_warehouse"
TABLE = "flight_delays"


@dag(
    dag_id="flight_delays",
    schedule=None,
    tags=["datashard"],
    params={"first_month": 1, "last_month": 6, "halves": False, "fail_once_at": ""},
    doc_md=__doc__,
)
def flight_delays() -> None:
    @task
    def plan() -> list[list[int]]:
        """The parts of the year, one for each mapped task."""
        params = get_current_context()["params"]
        chosen = flights.parts(params["first_month"], params["last_month"], params["halves"])
        return [list(part) for part in chosen]

    @task(retries=1, retry_delay=timedelta(seconds=2))
    def add_up(part: list[int]) -> dict[str, Any]:
        """Append the sums of one part; return what the append did."""
        context = get_current_context()
        ti = context["ti"]
        hook = DataShardHook(datashard_conn_id=CONNECTION_ID)
        attempt = tries.Try("airflow", ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number)
        with tries.logged(hook.warehouse, attempt):
            days = flights.Part(*part)
            table = hook.create_table(TABLE, Schema(fields=flights.FIELDS), if_exists="open")
            # The id is the same in a second try, which then finds the rows in the table and adds none.
            result = table.append(flights.delays(days), append_id=hook.get_append_id())
            attempt.rows = 0 if result.already_appended else result.rows
            if context["params"]["fail_once_at"] == days.label and ti.try_number == 1:
                raise ConnectionError(f"{days.label}: lost after the append, on purpose, in the first try")
            return result.to_dict()

    add_up.expand(part=plan())


flight_delays()
