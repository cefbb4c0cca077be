"""Appends of many rows: several files, encoded side by side, and sent beside the first look at the table."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from datashard_core import Schema
from datashard_core.effects import driver
from datashard_core.effects.requests import PutData
from datashard_core.errors import StorageError
from datashard_core.storage.base import OutcomeUnknownError
from datashard_core.table import append
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "s", "type": "string"}])
COUNT = 10_001


def rows(start: int = 0) -> pa.Table:
    numbers = range(start, start + COUNT)
    return pa.table({"n": numbers, "s": [f"row {number}" if number % 7 else None for number in numbers]})


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cores, and 32 KB are much."""
    monkeypatch.setattr(append, "MAX_BODY_BYTES", 2**15)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)


@pytest.fixture(params=["in memory", "streamed"])
def table(any_warehouse: Warehouse, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A table whose appends go either way."""
    monkeypatch.setattr(append, "IN_MEMORY", 2**40 if request.param == "in memory" else 0)
    return any_warehouse.create_table("t", SCHEMA)


Refuse = Callable[[PutData], StorageError | None]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[Refuse], None]:
    """Lets some data files fail to be written."""
    perform = driver._perform

    def install(answer: Refuse) -> None:
        def performed(request: Any, *rest: Any) -> Any:
            error = answer(request) if isinstance(request, PutData) else None
            return perform(request, *rest) if error is None else error

        monkeypatch.setattr(driver, "_perform", performed)

    return install


def fails_once(error: StorageError, at: int, asked: list[str]) -> Refuse:
    """That error for the data file that is the ``at``-th to be written; ``asked`` gets the keys of all."""

    def answer(put: PutData) -> StorageError | None:
        asked.append(put.key)
        return error if len(asked) == at else None

    return answer


def test_many_rows_are_divided_into_files_with_their_own_bounds(table: Table) -> None:
    result = table.append(rows())
    files = [next(iter(table.scan(where=f"n = {at}").data_files())) for at in (0, 5000, COUNT - 1)]
    assert (result.rows, result.version) == (COUNT, 1)
    assert [file.record_count for file in files] == [3333, 3334, 3334]
    assert {file.file_path for file in files} == {file.file_path for file in table.scan().data_files()}
    for at in (0, 5000, COUNT - 1):
        assert len(list(table.scan(where=f"n = {at}").data_files())) == 1, "the bounds are those of the file"
    assert table.scan().to_arrow().sort_by("n").cast(rows().schema).equals(rows())
    assert table.scan(where="n = 5000").to_records() == [{"n": 5000, "s": "row 5000"}]
    for file in files:
        found = table._storage.head(file.file_path.removeprefix(f"{table.uri}/"))
        assert found.size == file.file_size_in_bytes


def test_rows_of_one_file_and_a_half_are_one_file(table: Table) -> None:
    table.append(rows().slice(0, 2500))
    assert len(list(table.scan().data_files())) == 1


def test_an_id_counts_for_all_files(table: Table) -> None:
    first = table.append(rows(), append_id="large")
    again = table.append(rows(), append_id="large")
    assert (again.already_appended, again.version, table.count()) == (True, first.version, COUNT)


def test_a_file_that_cannot_be_written_ends_its_append_and_nothing_names_it(
    any_warehouse: Warehouse, refused: Callable[[Refuse], None]
) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    refused(fails_once(StorageError("no room", reason="unreachable"), 2, []))
    with pytest.raises(StorageError, match="no room"):
        table.append(rows(), append_id="large")
    assert table.refresh().version == 0
    assert table.refresh().count() == 0
    result = table.append(rows(), append_id="large")
    assert (result.already_appended, table.count()) == (False, COUNT)


def test_appends_of_other_threads_go_on_where_the_files_of_one_cannot_be_written(
    any_warehouse: Warehouse, refused: Callable[[Refuse], None]
) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    options: dict[str, Any] = {"schema": SCHEMA, "location": table.uri, "storage": table._storage}
    options |= {"clock": table._clock, "append_id": None, "base": None, "known_version": 0}
    large, small = (
        append.plan_append(some.cast(SCHEMA.to_arrow()), **options) for some in (rows(), rows(COUNT).slice(0, 3))
    )
    refused(lambda put: OutcomeUnknownError("lost", key=put.key) if put in large.unsent else None)
    results = table._commit([large, small], 30.0)
    assert isinstance(results[large.id], OutcomeUnknownError)
    assert results[small.id].version == 1
    assert table.refresh().scan().to_arrow()["n"].to_pylist() == [COUNT, COUNT + 1, COUNT + 2]


def test_an_overloaded_store_is_waited_for(any_warehouse: Warehouse, refused: Callable[[Refuse], None]) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    asked: list[str] = []
    refused(fails_once(StorageError("slow down", reason="throttled"), 1, asked))
    table.append(rows())
    assert table.count() == COUNT
    assert len(asked) == len(set(asked)) + 1
