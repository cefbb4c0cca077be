"""A writer whose clock runs ahead: history goes on, and one line of the log says what that costs."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import datashard_core as ds
from datashard_core.clock import SystemClock
from datashard_core.commit.core import clock_skew as ahead
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
HOUR_MS = 3_600_000


class Fast(SystemClock):
    """A clock that is so far ahead."""

    def __init__(self, milliseconds_ahead: int) -> None:
        self.milliseconds_ahead = milliseconds_ahead

    def now_ms(self) -> int:
        return super().now_ms() + self.milliseconds_ahead


@pytest.fixture(autouse=True)
def nobody_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_warned", set())


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == ahead.__name__]


def _made(milliseconds_ahead: int) -> MemoryStorage:
    """A store with a table whose first append came from a clock that is so far ahead."""
    storage = MemoryStorage("memory://clocks")
    Warehouse(storage).create_table("t", SCHEMA)
    Warehouse(storage, clock=Fast(milliseconds_ahead)).load_table("t").append([{"n": 1}])
    return storage


def test_a_version_far_ahead_of_the_stores_clock_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    storage = _made(2 * HOUR_MS)
    caplog.set_level(logging.WARNING)
    table = Warehouse(storage).load_table("t")
    for number in range(2, 5):
        table.append([{"n": number}])
    Warehouse(storage).load_table("t").append([{"n": 5}])
    (said,) = _warnings(caplog)
    assert f"table {table.uri}: version 1 has the commit time" in said
    seconds = float(said.split(" s later than the store")[0].rpartition(" ")[2])
    assert 7190 < seconds <= 7200
    assert "Correct the writers' clocks" in said
    assert [snapshot.timestamp_ms for snapshot in table.refresh().snapshots()] == sorted(
        snapshot.timestamp_ms for snapshot in table.snapshots()
    ), "history never runs backwards"
    assert table.count() == 5


def test_another_table_is_warned_of_as_well(caplog: pytest.LogCaptureFixture) -> None:
    storage = _made(HOUR_MS)
    Warehouse(storage).create_table("u", SCHEMA)
    Warehouse(storage, clock=Fast(HOUR_MS)).load_table("u").append([{"n": 1}])
    for name in ("t", "u", "t", "u"):
        Warehouse(storage).load_table(name)
    assert len(_warnings(caplog)) == 2


@pytest.mark.parametrize("milliseconds", [-HOUR_MS, 0, 60_000])
def test_a_clock_that_is_behind_or_a_little_off_is_not(milliseconds: int, caplog: pytest.LogCaptureFixture) -> None:
    table = Warehouse(_made(milliseconds)).load_table("t")
    table.append([{"n": 2}])
    assert table.count() == 2
    assert _warnings(caplog) == []


def test_the_marker_of_a_drop_has_no_time(caplog: pytest.LogCaptureFixture, moved_clock: Any) -> None:
    storage = _made(2 * HOUR_MS)
    Warehouse(storage, clock=Fast(2 * HOUR_MS)).drop_table("t")
    caplog.clear()
    ahead._warned.clear()
    assert Warehouse(storage).create_table("t", SCHEMA).version == 3
    assert _warnings(caplog) == []
