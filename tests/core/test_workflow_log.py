"""The workflow log: what a row is made of, and what is refused before it is appended."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from datashard_core import Warehouse, col
from datashard_core.errors import InvalidRecordsError, TableExistsError
from datashard_core.format.types.schema import Schema
from datashard_core.workflow_log import STATES, log_row, open_log, workflow_log_schema

STARTED = dt.datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=dt.UTC)
TRY: dict[str, Any] = {
    "orchestrator": "script",
    "workflow": "nightly",
    "run_id": "r1",
    "task_id": "load",
    "try_number": 1,
    "state": "success",
    "started": STARTED,
}


FAR = pd.Timestamp(np.datetime64("10000-01-01", "s")).tz_localize("UTC")


class NoZoneYet(dt.tzinfo):
    """A time zone that does not know its offset: its times are naive."""

    def utcoffset(self, when: dt.datetime | None) -> None:
        return None


def test_a_row_has_all_fields_of_the_log_and_comes_back(warehouse: Warehouse) -> None:
    row = log_row(
        **TRY,
        finished=STARTED + dt.timedelta(minutes=1),
        map_index=0,
        rows=12,
        error=ValueError("no such file"),
        host="worker-1",
    )
    assert list(row) == workflow_log_schema().names
    assert row["error"] == "ValueError: no such file"
    table = open_log(warehouse)
    table.append([row])
    assert open_log(warehouse).scan().to_records() == [row]
    assert table.properties["datashard.auto-compact"] == "true"


def test_what_is_left_out_is_null(warehouse: Warehouse) -> None:
    row = log_row(**TRY)
    left_out = {"finished", "map_index", "rows", "error", "host"}
    assert {name for name, value in row.items() if value is None} == left_out
    assert {name: value for name, value in row.items() if name not in left_out} == TRY
    table = open_log(warehouse, "ops.log")
    table.append([row])
    assert table.scan(where=col("finished").is_null()).to_records() == [row]


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_taken(state: Any) -> None:
    assert log_row(**{**TRY, "state": state})["state"] == state


@pytest.mark.parametrize("state", ["running", "Success", "", "success ", None, 1, ["success"]])
def test_other_states_are_refused_with_those_that_there_are(state: Any) -> None:
    with pytest.raises(InvalidRecordsError) as raised:
        log_row(**{**TRY, "state": state})
    for part in (f"state={state!r}", *STATES):
        assert part in str(raised.value)


@pytest.mark.parametrize("name", ["started", "finished"])
@pytest.mark.parametrize("zone", [None, NoZoneYet()], ids=["none", "without an offset"])
def test_naive_times_are_refused(name: str, zone: dt.tzinfo | None) -> None:
    with pytest.raises(InvalidRecordsError, match=rf"{name}=2026-03-04T05:06:07\.000008 has no time zone"):
        log_row(**{**TRY, name: STARTED.replace(tzinfo=zone)})


@pytest.mark.parametrize("name", ["started", "finished"])
@pytest.mark.parametrize("moment", ["2026-03-04T05:06:07Z", 1_772_600_767, STARTED.date(), pd.NaT, float("nan"), FAR])
def test_what_is_no_time_is_refused(name: str, moment: Any) -> None:
    with pytest.raises(InvalidRecordsError, match=f"{name}=.* is no time; pass a datetime with a time zone"):
        log_row(**{**TRY, name: moment})


def test_a_start_is_needed() -> None:
    with pytest.raises(InvalidRecordsError, match="started=None is no time"):
        log_row(**{**TRY, "started": None})


def test_times_of_any_zone_are_the_same_moment(warehouse: Warehouse) -> None:
    berlin = STARTED.astimezone(ZoneInfo("Europe/Berlin"))
    table = open_log(warehouse)
    table.append([log_row(**{**TRY, "started": berlin, "finished": pd.Timestamp(berlin)})])
    (row,) = table.scan().to_records()
    assert (row["started"], row["finished"]) == (STARTED, STARTED)
    assert row["started"].utcoffset() == dt.timedelta()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, None),
        ("why not", "why not"),
        (KeyError("k"), "KeyError: 'k'"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (Exception("two\nlines"), "Exception: two\nlines"),
    ],
)
def test_an_error_is_its_type_and_message(error: Any, text: str | None) -> None:
    assert log_row(**TRY, error=error)["error"] == text


@pytest.mark.parametrize("name", ["orchestrator", "workflow", "run_id", "task_id", "try_number"])
def test_required_fields_are_checked_by_the_append(name: str, warehouse: Warehouse) -> None:
    table = open_log(warehouse)
    with pytest.raises(InvalidRecordsError, match=f"row 0, field '{name}': None in a required field"):
        table.append([log_row(**{**TRY, name: None})])
    assert table.refresh().version == 0


def test_a_table_with_other_fields_is_no_log(warehouse: Warehouse) -> None:
    warehouse.create_table("workflow_log", Schema(fields=[{"name": "task", "type": "string"}]))
    with pytest.raises(TableExistsError, match="another schema"):
        open_log(warehouse)
