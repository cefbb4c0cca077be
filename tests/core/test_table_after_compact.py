"""The table object that compacted is at the compacted version: nothing of it has to be loaded again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import datashard_core as ds
from datashard_core.storage.base import Storage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(
    fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "word", "type": "string"}],
)
AGAIN: dict[str, Callable[[Table], Any]] = {
    "compact": lambda table: table.compact(),
    "maintain": lambda table: table.maintain(timedelta(hours=1)),
}


def _row(number: int) -> dict[str, Any]:
    return {"n": number, "word": f"word {number}"}


def _sorted(table: Table) -> list[dict[str, Any]]:
    return sorted(table.scan().to_records(), key=lambda row: row["n"])


@pytest.mark.parametrize("kind", AGAIN)
def test_the_object_that_compacted_knows_all_of_it(any_warehouse: Warehouse, any_storage: Storage, kind: str) -> None:
    table = any_warehouse.create_table("ns.t", SCHEMA)
    for number in range(6):
        table.append([_row(number)])
    before = table.refresh().version
    AGAIN[kind](table)
    loaded = Warehouse(any_storage).load_table("ns.t")
    assert table.version == loaded.version == before + 1
    assert table.metadata_location == loaded.metadata_location
    assert table.schema.differences(SCHEMA) == []
    assert table.properties == loaded.properties
    current, theirs = table.current_snapshot(), loaded.current_snapshot()
    assert current is not None
    assert theirs is not None
    assert (current.snapshot_id, current.sequence_number) == (theirs.snapshot_id, theirs.sequence_number)
    assert current.manifest_list == theirs.manifest_list
    assert current.summary["operation"] == "replace"
    assert current.summary["total-data-files"] == "1"
    assert current.summary["total-records"] == "6"
    assert [one.snapshot_id for one in table.snapshots()] == [one.snapshot_id for one in loaded.snapshots()]
    assert table.count() == 6
    assert _sorted(table) == [_row(number) for number in range(6)]
    assert table.scan(where=ds.col("n") >= 4).count() == 2
    assert table.scan(version=before).count() == 6
    assert table.scan(version=before - 1).count() == 5
    assert table.compact().files == 0, "there is nothing to compact any more"
    done = table.append([_row(6)])
    assert done.version == before + 2
    assert table.count() == 7
    assert _sorted(table) == [_row(number) for number in range(7)]
    assert table.append([_row(7)], commit="deferred").version is None
    assert table.flush().count() == 8
    assert Warehouse(any_storage).load_table("ns.t").count() == 8


def test_other_objects_of_the_table_follow(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    for number in range(4):
        table.append([_row(number)])
    other = any_warehouse.load_table("t")
    table.compact()
    assert other.count() == 4
    assert other.append([_row(4)]).version == 6
    assert _sorted(other) == [_row(number) for number in range(5)]
    table.append([_row(5)])
    assert _sorted(table.refresh()) == [_row(number) for number in range(6)]


def test_an_object_that_compacted_behind_others_is_at_the_newest_version(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    for number in range(3):
        table.append([_row(number)])
    stale = any_warehouse.load_table("t")
    any_warehouse.load_table("t").append([_row(3)])
    done = stale.compact()
    assert done.files == 4, "it compacts what the newest version holds"
    assert stale.count() == 4
    assert stale.version == 5
    current = stale.current_snapshot()
    assert current is not None
    assert current.summary["total-records"] == "4"
