"""Earlier versions, and what was appended between two."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import datashard_core as ds
from datashard_core import col
from datashard_core.format.metadata.table_metadata import TableMetadata
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"name": "n", "type": "long"}])


def numbers(scan: ds.Scan) -> list[int]:
    return sorted(row["n"] for row in scan.to_records())


@pytest.fixture
def table() -> ds.Table:
    """Versions 1 to 4, with one row each; version 0 is the creation."""
    made = Warehouse(MemoryStorage()).create_table("t", SCHEMA)
    for number in range(1, 5):
        made.append([{"n": number}])
    return made


def test_a_version_a_snapshot_and_a_time_show_what_was_there(table: ds.Table) -> None:
    first, *_, last = table.snapshots()
    assert numbers(table.scan(version=2)) == [1, 2]
    assert numbers(table.scan(version=0)) == []
    assert numbers(table.scan(snapshot_id=first.snapshot_id)) == [1]
    assert numbers(table.scan(as_of=datetime.fromtimestamp(last.timestamp_ms / 1000, UTC))) == [1, 2, 3, 4]
    assert numbers(table.scan(as_of=datetime.now(UTC) + timedelta(days=1), where=col("n") > 2)) == [3, 4]


def test_what_is_not_there_is_refused_and_named(table: ds.Table) -> None:
    with pytest.raises(ds.ConfigurationError, match=r"version 5 of table t.*shows version 4"):
        table.scan(version=5)
    with pytest.raises(ds.ConfigurationError, match="version=-1"):
        table.scan(version=-1)
    with pytest.raises(ds.ConfigurationError, match="one of snapshot_id, as_of and version"):
        table.scan(version=1, snapshot_id=3)
    with pytest.raises(ds.ConfigurationError, match="no snapshot yet"):
        table.scan(as_of=datetime(2000, 1, 1))
    with pytest.raises(ds.ConfigurationError, match="from_version"):
        table.changes()


def test_changes_are_the_rows_appended_after_one_version_up_to_another(table: ds.Table) -> None:
    assert numbers(table.changes(2)) == [3, 4]
    assert numbers(table.changes(0)) == [1, 2, 3, 4]
    assert numbers(table.changes(1, 3)) == [2, 3]
    assert numbers(table.changes(4)) == [] and table.changes(4).count() == 0
    assert table.changes(1, 3).count() == 2
    assert numbers(table.changes(0, where=col("n") != 2, limit=2)) == [1, 3]
    first, second, *_ = table.snapshots()
    assert numbers(table.changes(from_snapshot_id=first.snapshot_id, to_snapshot_id=second.snapshot_id)) == [2]


def _without(table: ds.Table, edit: dict[str, object]) -> None:
    """The table object shows its version with other metadata, as expiry or compaction would leave it."""
    from msgspec.structs import replace

    body = table._seen.body
    table._seen = replace(table._seen, body=replace(body, metadata=TableMetadata({**body.table._raw, **edit})))


def test_a_watermark_outlives_its_snapshot(table: ds.Table) -> None:
    _without(table, {"snapshots": table._seen.body.table._raw["snapshots"][-1:]})
    assert [len(table.snapshots()), numbers(table.changes(1)), numbers(table.changes(0))] == [
        1,
        [2, 3, 4],
        [1, 2, 3, 4],
    ]
    with pytest.raises(ds.ConfigurationError, match="no snapshot 7"):
        table.changes(from_snapshot_id=7)


def test_rows_that_were_compacted_are_missed_and_said_to_be(table: ds.Table) -> None:
    snapshots = [dict(one) for one in table._seen.body.table._raw["snapshots"]]
    # As if the fourth commit had rewritten the file of the third: its rows are there, and no append's any more.
    snapshots[2]["manifest-list"] = snapshots[1]["manifest-list"]
    snapshots[3]["summary"] = {**snapshots[3]["summary"], "operation": "replace"}
    snapshots[3]["manifest-list"] = snapshots[1]["manifest-list"]
    _without(table, {"snapshots": snapshots})
    assert numbers(table.changes(0, 2)) == [1, 2]
    with pytest.raises(ds.ConfigurationError, match="1 of them are gone: compacted"):
        table.changes(2)
    snapshots[3]["summary"] = {**snapshots[3]["summary"], "operation": "overwrite"}
    _without(table, {"snapshots": snapshots})
    with pytest.raises(ds.ConfigurationError, match="overwrote rows"):
        table.changes(2)


def test_sql_names_earlier_states_beside_the_current_one(table: ds.Table) -> None:
    first = table.snapshots()[0]
    query = """
        select now.n, before.n as old from t as now left join t as before at (version => 2) using (n)
        where now.n > ? order by now.n
    """
    assert table.sql(query, [1]).to_pylist() == [{"n": 2, "old": 2}, {"n": 3, "old": None}, {"n": 4, "old": None}]
    assert table.sql(f"select t.n from t at (version => {first.snapshot_id})").to_pylist() == [{"n": 1}]
    later = datetime.now(UTC) + timedelta(days=1)
    assert table.sql(f"select count(*) as c from t at (timestamp => timestamptz '{later}')").to_pylist() == [{"c": 4}]
    for wrong, words in (("version => 9", "version 9"), ("version => 'x'", "'x'"), ("version => ?", "not a parameter")):
        with pytest.raises(ds.ConfigurationError, match=words):
            table.sql(f"select * from t at ({wrong})")
