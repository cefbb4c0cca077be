"""A copy of a table's folder in the same warehouse: same uuid, another place, and nothing shared between the two."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from datashard_core import Schema
from datashard_core.storage.base import Storage
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(fields=[{"name": "n", "type": "long"}, {"name": "at", "type": "string"}])


def _held(storage: Storage, folder: str) -> dict[str, bytes]:
    place = storage.at(folder)
    return {info.key: place.get(info.key).body for info in place.list("")}


def _copy(storage: Storage, source: str, to: str) -> None:
    for key, body in _held(storage, source).items():
        storage.at(to).put(key, body)


def _numbers(table: Table) -> list[int]:
    return sorted(row["n"] for row in table.refresh().scan().to_records())


def test_threads_that_append_to_a_table_and_to_its_copy_do_not_mix_them_up(any_warehouse: Warehouse) -> None:
    storage = any_warehouse._storage
    any_warehouse.create_table("original", SCHEMA).append([{"n": 0, "at": "both"}])
    _copy(storage, "original", "copy")
    tables = {name: any_warehouse.load_table(name) for name in ("original", "copy")}
    assert tables["original"]._target.uuid == tables["copy"]._target.uuid
    failed: list[BaseException] = []

    def append(name: str, thread: int) -> None:
        try:
            for turn in range(5):
                tables[name].append([{"n": 100 * thread + turn, "at": name}])
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=append, args=(name, thread)) for name in tables for thread in range(1, 5)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failed
    expected = sorted([0, *(100 * thread + turn for thread in range(1, 5) for turn in range(5))])
    for name, table in tables.items():
        rows = table.refresh().scan().to_records()
        assert {row["at"] for row in rows} == {name, "both"}
        assert sorted(row["n"] for row in rows) == expected


@pytest.mark.parametrize("kept", ("original", "copy"))
def test_whatever_is_done_to_one_of_them_the_other_stays_as_it_is(any_warehouse: Warehouse, kept: str) -> None:
    storage = any_warehouse._storage
    original = any_warehouse.create_table("original", SCHEMA)
    for number in range(20):
        original.append([{"n": number, "at": "both"}])
    original.append([{"n": 20, "at": "staged"}], commit="deferred")
    _copy(storage, "original", "copy")
    worked_on = "copy" if kept == "original" else "original"
    before = _held(storage, kept)
    table = any_warehouse.load_table(worked_on)
    table.append([{"n": 21, "at": worked_on}], append_id="mine")
    assert _numbers(table) == list(range(22)), "what was staged when it was copied is in each of them once"
    table.append([{"n": 22, "at": worked_on}], commit="deferred")
    table.flush()
    table.append([{"n": n, "at": "x" * 100} for n in range(100, 200)])
    assert table.compact().files > 10
    assert table.expire_snapshots(datetime.now(UTC) + timedelta(days=1), retain_last=1) > 0
    table.maintain(grace=timedelta(hours=1))
    assert _numbers(table) == [*range(23), *range(100, 200)]
    assert _held(storage, kept) == before
    any_warehouse.drop_table(worked_on, purge=True)
    assert _held(storage, kept) == before
    other = any_warehouse.load_table(kept)
    assert _numbers(other) == list(range(20))
    other.flush()
    assert _numbers(other) == list(range(21))
    assert not other.append([{"n": 21, "at": kept}], append_id="mine").already_appended


def test_a_restored_copy_goes_on_in_the_place_of_the_original(any_warehouse: Warehouse) -> None:
    """Backup elsewhere, loss of the folder, restore to the same place: ids are remembered, too."""
    storage = any_warehouse._storage
    table = any_warehouse.create_table("t", SCHEMA)
    for number in range(20):
        table.append([{"n": number, "at": "t"}], append_id=f"id/{number}")
    _copy(storage, "t", "backup")
    storage.at("t").delete(list(_held(storage, "t")))
    _copy(storage, "backup", "t")
    restored = any_warehouse.load_table("t")
    assert restored.append([{"n": 3, "at": "t"}], append_id="id/3").already_appended
    restored.append([{"n": 20, "at": "t"}])
    assert _numbers(restored) == list(range(21))
    assert _numbers(any_warehouse.load_table("backup")) == list(range(20))


def test_a_copy_made_beside_writers_in_the_order_of_the_documentation_is_whole() -> None:
    """Between any two steps others append, and write id nodes that speak of versions that the copy does not have."""
    storage = MemoryStorage("memory://copied")
    warehouse = Warehouse(storage)
    table = warehouse.create_table("t", SCHEMA)
    number = 0

    def more() -> None:
        nonlocal number
        for _ in range(18):
            table.append([{"n": number, "at": "t"}], append_id=f"id/{number}")
            number += 1

    more()
    steps = (
        lambda key: key.startswith("_datashard/ids/"),
        lambda key: key == "metadata/version-hint.text",
        lambda key: key.startswith("metadata/v") and key.endswith(".metadata.json"),
        lambda key: not key.startswith(("_datashard/", "metadata/v")),
    )
    copied: set[str] = set()
    for step in steps:
        for key, body in _held(storage, "t").items():
            if step(key) and key not in copied:
                storage.at("copy").put(key, body)
                copied.add(key)
        more()
        table.append([{"n": -1, "at": "staged"}], commit="deferred")
    copy = warehouse.load_table("copy")
    have = _numbers(copy)
    assert [n for n in have if n >= 0] == list(range(54)), "what was there when its versions were copied"
    for again in range(number):
        done = copy.append([{"n": again, "at": "t"}], append_id=f"id/{again}")
        assert done.already_appended == (again < 54)
    assert [n for n in _numbers(copy) if n >= 0] == list(range(number))
