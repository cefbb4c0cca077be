"""Several table objects of one table in one process: they share their commits, and may know different versions."""

from __future__ import annotations

from datashard_core import Schema
from datashard_core.table.append import plan_append
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(fields=[{"id": 1, "name": "k", "type": "long"}])


def test_a_leader_that_is_behind_carries_appends_based_on_a_newer_version(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    for k in (0, 1):
        table.append([{"k": k}], commit="deferred")
    table.flush()
    behind = any_warehouse.load_table("t")
    assert len(behind._seen.body.named) > 1, "the version is hot, so whoever knows it may stage without reading"
    table.append([{"k": 2}])
    rows = Schema.to_arrow(SCHEMA).empty_table().from_pylist([{"k": 3}], schema=SCHEMA.to_arrow())
    item = plan_append(
        rows,
        schema=SCHEMA,
        location=table.uri,
        storage=table._storage,
        clock=table._clock,
        append_id=None,
        base=None,
        known_version=table.version,
    )
    assert item.base is not None
    assert item.base > behind.version
    results = behind._commit([item], 30.0)
    assert results[item.id].version == table.version + 1
    assert sorted(behind.scan().to_arrow()["k"].to_pylist()) == [0, 1, 2, 3]
