"""What a tag or branch of PyIceberg leads to, and what it rolled back to, stays readable whatever upkeep does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog

import datashard_core as ds
from datashard_core.commit.versions import metadata_expiry
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
SHORT = {
    "write.metadata.previous-versions-max": "2",
    "datashard.snapshots.max-count": "4",
    "history.expire.min-snapshots-to-keep": "1",
}
HOUR = timedelta(hours=1)


def _append(table: Table, first: int, last: int) -> None:
    for number in range(first, last + 1):
        table.append([{"n": number}])


def _numbers(rows: pa.Table) -> list[int]:
    return sorted(rows["n"].to_pylist())


def test_tags_and_branches_outlive_expiry_sweep_compaction_and_orphan_removal(
    any_warehouse: Warehouse, catalog: Catalog, days_pass: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_expiry, "KEPT", 8)
    table = any_warehouse.create_table("shop.t", SCHEMA, properties=SHORT)
    _append(table, 1, 3)
    theirs = catalog.load_table("shop.t")
    tagged = theirs.current_snapshot().snapshot_id
    theirs.manage_snapshots().create_tag(tagged, "three").commit()
    table.refresh()
    _append(table, 4, 6)
    theirs = catalog.load_table("shop.t")
    branched = theirs.current_snapshot().snapshot_id
    theirs.manage_snapshots().create_branch(branched, "six", min_snapshots_to_keep=1).commit()
    table.refresh()
    _append(table, 7, 24)
    assert {tagged, branched} < {one.snapshot_id for one in table.snapshots()}

    def all_read(last: int, what: str) -> None:
        seen = catalog.load_table("shop.t")
        assert _numbers(seen.scan(snapshot_id=tagged).to_arrow()) == [1, 2, 3], what
        assert _numbers(seen.scan().use_ref("six").to_arrow()) == [1, 2, 3, 4, 5, 6], what
        assert _numbers(seen.scan().to_arrow()) == list(range(1, last + 1)), what
        ours = any_warehouse.load_table("shop.t")
        assert _numbers(ours.scan(snapshot_id=tagged).to_arrow()) == [1, 2, 3], what
        assert _numbers(ours.scan(snapshot_id=branched).to_arrow()) == [1, 2, 3, 4, 5, 6], what
        assert ours.count() == last, what

    all_read(24, "snapshots that expired by themselves")
    days_pass(8)
    _append(table, 25, 36)
    all_read(36, "tombstones")
    table.compact()
    table.expire_snapshots(retain_last=1)
    all_read(36, "compaction and expiry")
    assert table.remove_orphans(HOUR).files >= 1
    table.maintain()
    _append(table, 37, 40)
    all_read(40, "orphan removal, all upkeep at once, and appends after it")
    assert {tagged, branched} < {one.snapshot_id for one in table.snapshots()}


def test_a_table_rolled_back_goes_on_from_there(
    any_warehouse: Warehouse, catalog: Catalog, days_pass: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_expiry, "KEPT", 8)
    table = any_warehouse.create_table("shop.t", SCHEMA, properties={**SHORT, "datashard.snapshots.max-count": "20"})
    _append(table, 1, 4)
    fourth = table.current_snapshot()
    assert fourth is not None
    _append(table, 5, 9)
    theirs = catalog.load_table("shop.t")
    theirs.manage_snapshots().rollback_to_snapshot(fourth.snapshot_id).commit()
    table.refresh()
    assert _numbers(table.scan().to_arrow()) == [1, 2, 3, 4]
    _append(table, 10, 30)
    expected = [1, 2, 3, 4, *range(10, 31)]
    days_pass(8)
    _append(table, 31, 44)
    expected += range(31, 45)
    table.expire_snapshots(retain_last=1)
    table.remove_orphans(HOUR)
    table.maintain()
    _append(table, 45, 46)
    expected += [45, 46]
    assert _numbers(any_warehouse.load_table("shop.t").scan().to_arrow()) == expected
    assert _numbers(catalog.load_table("shop.t").scan().to_arrow()) == expected
