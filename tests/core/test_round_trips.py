"""How many answers of the store an append waits for, one after the other."""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import pytest

import datashard_core as ds
from datashard_core.clock import Clock
from datashard_core.effects import driver
from datashard_core.effects.requests import LOCAL
from datashard_core.effects.scheduler import Scheduler
from datashard_core.storage.base import Storage
from datashard_core.table import append
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

ROWS = [{"n": number} for number in range(100)]


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The kinds of requests that are sent at each moment, if every answer takes one unit of time."""
    seen: list[set[str]] = []

    def drive(scheduler: Scheduler[Any], storage: Storage, clock: Clock, until: float | None) -> None:
        begun = len(seen)
        order = itertools.count()
        under_way = [(0, next(order), *one) for one in scheduler.begin()]
        while not scheduler.main.done:
            moment, _, task, batch = heapq.heappop(under_way)
            if task.done:
                continue
            asked = {type(request).__name__ for request in batch if not isinstance(request, LOCAL)}
            if asked:
                seen.extend(set[str]() for _ in range(begun + moment + 1 - len(seen)))
                seen[begun + moment] |= asked
            outcomes = [perform(request, storage, clock) for request in batch]
            for one in scheduler.resume(task, outcomes):
                heapq.heappush(under_way, (moment + bool(asked), next(order), *one))

    perform = driver._perform
    monkeypatch.setattr(driver, "_drive", drive)
    return seen


@pytest.fixture
def table(any_warehouse: Warehouse) -> Table:
    table = any_warehouse.create_table("t", ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}]))
    table.append(ROWS)
    return table


@pytest.mark.parametrize("append_id", [None, "run/task"])
def test_a_warm_append_waits_three_times(table: Table, rounds: list[set[str]], append_id: str | None) -> None:
    table.append(ROWS, append_id=append_id)
    assert rounds == [{"Get", "ListPage", "PutData", "Put"}, {"PutIfAbsent"}, {"Replace"}]


def test_many_rows_wait_no_longer(table: Table, rounds: list[set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "MAX_BODY_BYTES", 100)
    table.append(ROWS)
    assert rounds == [{"Get", "ListPage", "PutData", "Put"}, {"PutIfAbsent"}, {"Replace"}]


def test_files_are_there_before_they_are_staged(
    table: Table, rounds: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        table.append(ROWS, commit="deferred")
    table.flush()  # names two appends, so whoever knows it expects company, and stages at once
    monkeypatch.setattr(append, "MAX_BODY_BYTES", 100)
    rounds.clear()
    table.append(ROWS)
    assert rounds[:2] == [{"PutData"}, {"Put"}]
    assert table.count() == 100 * 4


def test_an_append_right_after_opening_waits_three_times(
    any_warehouse: Warehouse, table: Table, rounds: list[set[str]]
) -> None:
    opened = any_warehouse.load_table("t")
    assert rounds == [{"Get"}] * 3  # hint, version, manifest list
    opened.append(ROWS)
    assert len(rounds) == 6


def test_files_are_written_ahead_only_where_nobody_else_writes(
    any_warehouse: Warehouse, table: Table, rounds: list[set[str]]
) -> None:
    other = any_warehouse.load_table("t")
    other.append(ROWS)
    rounds.clear()
    table.append(ROWS)  # in vain: the other was faster, so its files are written anew
    assert "PutData" in rounds[0]
    assert sum("PutData" in asked for asked in rounds) == 2
    other.append(ROWS)
    rounds.clear()
    table.append(ROWS)
    assert "PutData" not in rounds[0]
    assert sum("PutData" in asked for asked in rounds) == 1
    rounds.clear()
    table.append(ROWS)  # nobody wrote meanwhile: found so, and believed the next time
    table.append(ROWS)
    assert "PutData" not in rounds[0]
    assert len(rounds) == 7
    assert table.count() == 100 * 7


def test_files_written_in_vain_are_in_no_version(any_warehouse: Warehouse, table: Table) -> None:
    first = table.append(ROWS, append_id="once")
    again = any_warehouse.load_table("t").append(ROWS, append_id="once")
    assert again.already_appended
    assert again.version == first.version
    assert any_warehouse.load_table("t").count() == 200
