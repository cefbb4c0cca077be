"""Tasks to which something happens in their first try, for the tests with a real scheduler."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task

from airflow_provider_datashard.operators.datashard import DataShardAppendOperator

HOME = Path(os.environ["AIRFLOW_HOME"])
GIVEN_UP_SECONDS = 240.0


class Disturbed(DataShardAppendOperator):
    """By map index: 0 nothing, 1 an error and 2 SIGKILL after the append, 3 SIGTERM about the time of it."""

    def execute(self, context: Any) -> dict[str, Any]:
        ti = context["ti"]
        first = ti.try_number == 1 and not (HOME / "undisturbed").exists()
        if first and ti.map_index == 3:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGTERM)).start()
        result = super().execute(context)
        if first and ti.map_index == 1:
            raise ConnectionError("lost after the append")
        if first and ti.map_index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class Silent(DataShardAppendOperator):
    """The first try's heartbeats cease, by map index: 0 after the append, 1 before it.

    What sends them, the parent of the task's process, is stopped. The task itself goes on, as one whose network is
    gone: it appends (again) when the second try has, and leaves in a file what it was told.
    """

    def execute(self, context: Any) -> dict[str, Any]:
        ti = context["ti"]
        first = ti.try_number == 1
        if first and ti.map_index == 0:
            super().execute(context)
        if first:
            self.hook.get_warehouse()  # the connection comes through the parent
            fall_silent(ti.map_index)
        result = super().execute(context)
        kind = "late" if first else "retried"
        written = HOME / f"{kind}-{ti.map_index}.partial"
        written.write_text(json.dumps(result))
        written.rename(written.with_suffix(".json"))
        return result


def fall_silent(map_index: int) -> None:
    """Stop the parent, and wait until the second try has appended."""
    (HOME / f"silent-{map_index}").write_text(str(os.getppid()))
    os.kill(os.getppid(), signal.SIGSTOP)
    deadline = time.monotonic() + GIVEN_UP_SECONDS
    while not (HOME / f"retried-{map_index}.json").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("there was no second try")
        time.sleep(0.2)


def variables() -> list[dict[str, Any]]:
    """What a task finds in its environment."""
    names = ["AWS_ACCESS_KEY_ID", "DATASHARD_S3_BUCKET"]
    return [{"n": 100 + n, "text": os.environ[name]} for n, name in enumerate(names)]


GIVEN: dict[str, Any] = {
    "schema": [{"name": "n", "type": "long", "required": True}, {"name": "text", "type": "string"}],
    "create_if_missing": True,
    "datashard_conn_id": "warehouse",
    "retries": 1,
    "retry_delay": timedelta(seconds=1),
}


@task
def parts(how_many: int) -> list[list[dict[str, Any]]]:
    """The rows of each mapped task."""
    return [[{"n": n, "text": "part"}] for n in range(how_many)]


@dag(schedule=None)
def appends() -> None:
    """Errors, kills, and misleading variables."""
    Disturbed.partial(task_id="load", table="shop.events", **GIVEN).expand(records=parts(4))
    DataShardAppendOperator(task_id="environment", table="shop.events", records=variables, **GIVEN)


@dag(schedule=None)
def lost_heartbeats() -> None:
    """Tasks that the scheduler gives up while they live."""
    Silent.partial(task_id="load", table="shop.heartbeats", **GIVEN).expand(records=parts(2))


appends()
lost_heartbeats()
