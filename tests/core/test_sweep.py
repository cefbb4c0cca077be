"""Old versions become tombstones by ordinary appends: which, when, and what must never be touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.clock import SystemClock
from datashard_core.commit.append_ids.segment import SegmentName, encode_segment
from datashard_core.commit.core.version_file import parse_version, version_key
from datashard_core.commit.versions import metadata_expiry
from datashard_core.storage.base import Storage, Version
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
WEEK = 7 * 24 * 3600.0
SHORT = {
    "write.metadata.previous-versions-max": "2",
    "datashard.snapshots.max-count": "5",
    "history.expire.min-snapshots-to-keep": "1",
}


@pytest.fixture(autouse=True)
def few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest eight versions are safe, so that a short history is enough."""
    monkeypatch.setattr(metadata_expiry, "KEPT", 8)


class Store(MemoryStorage):
    """Memory that can be told to fail, and whose time can be moved on."""

    failing: type[Exception] | None = None

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        if key.endswith(".json") and self.failing is not None:
            raise self.failing("the store is busy")
        return super().replace(key, data, version)

    def at(self, folder: str) -> MemoryStorage:
        deeper = super().at(folder)
        deeper.__class__ = Store
        return deeper


@pytest.fixture
def table() -> Table:
    """A table of 20 versions, none of them old."""
    made = Warehouse(Store()).create_table("t", SCHEMA, properties=SHORT)
    _append(made, 1, 20)
    return made


def _append(table: Table, first: int, last: int) -> None:
    for number in range(first, last + 1):
        table.append([{"n": number}], append_id=f"append {number}")


def _state(storage: Storage, version: int) -> str:
    return parse_version(storage.get(version_key(version)).body, version, "here").state


def _buried(table: Table) -> list[int]:
    return [version for version in range(table.version + 1) if _state(table._storage, version) == "tombstone"]


def test_appends_bury_old_versions_and_forget_nothing(
    any_warehouse: Warehouse, time_passes: Callable[[float], None]
) -> None:
    table = any_warehouse.create_table("t", SCHEMA, properties=SHORT)
    _append(table, 1, 18)
    time_passes(WEEK + 60)
    for number in range(19, 32):
        any_warehouse.load_table("t").append([{"n": number}], append_id=f"append {number}")
    table.refresh()
    buried = _buried(table)
    assert buried == list(range(len(buried)))
    assert len(buried) >= 12
    lists = [info.key for info in table._storage.list("metadata/manifests/")]
    assert len([key for key in lists if "manifest_list_" in key]) <= 32 - len(buried)
    assert sorted(row["n"] for row in table.scan().to_records()) == list(range(1, 32))
    for snapshot in table.snapshots():
        assert table.scan(snapshot_id=snapshot.snapshot_id).count()
    again = any_warehouse.load_table("t").append([{"n": 2}], append_id="append 2")
    assert (again.version, again.already_appended) == (2, True)
    with pytest.raises(ds.ConfigurationError, match="version 2 of table t is kept by name only"):
        table.scan(version=2)


def test_a_version_is_left_alone_until_it_is_a_week_old(table: Table, moved_clock: Any) -> None:
    moved_clock.ahead += WEEK - 3600
    _append(table, 21, 29)
    assert _buried(table) == []
    mark = table.properties["datashard.sweep"]
    _append(table, 30, 38)
    assert table.properties["datashard.sweep"] == mark, "it looked again though it knew that it was too early"


class Standing(SystemClock):
    """A store's clock that stands still."""

    def now_ms(self) -> int:
        return 1_700_000_000_000


def test_the_age_is_told_by_the_store_alone(moved_clock: Any) -> None:
    table = Warehouse(MemoryStorage(clock=Standing())).create_table("t", SCHEMA, properties=SHORT)
    _append(table, 1, 17)
    moved_clock.ahead += 10 * WEEK
    _append(table, 18, 24)
    assert _buried(table) == []


def test_versions_that_the_metadata_log_names_are_left_alone(moved_clock: Any) -> None:
    table = Warehouse(MemoryStorage()).create_table(
        "t", SCHEMA, properties={**SHORT, "write.metadata.previous-versions-max": "26"}
    )
    _append(table, 1, 20)
    moved_clock.ahead += WEEK + 60
    _append(table, 21, 37)
    logged = {entry["metadata-file"] for entry in table._seen.body.table.metadata_log}
    assert len(logged) == 26
    buried = _buried(table)
    assert buried[:4] == [0, 1, 2, 3]
    assert not {f"{table.uri}/{version_key(version)}" for version in buried} & logged


def test_the_newest_versions_are_left_alone_however_old_they_are(table: Table, moved_clock: Any) -> None:
    for number in range(21, 33):
        moved_clock.ahead += WEEK + 60
        _append(table, number, number)
    assert max(_buried(table)) <= 32 - metadata_expiry.KEPT


@pytest.mark.parametrize("node", ["missing", "another table's", "incomplete"])
def test_no_version_is_buried_before_the_node_holds_its_names(table: Table, node: str, moved_clock: Any) -> None:
    key = SegmentName(1, 16).key
    whole = table._storage.get(key).body
    if node == "missing":
        table._storage.delete([key])
    else:
        uuid = table._target.uuid if node == "incomplete" else "0" * 32
        table._storage.put(key, encode_segment(uuid, 0, 16, 0, []))
    moved_clock.ahead += WEEK + 60
    _append(table, 21, 23)  # one look
    assert _buried(table) == []
    if node != "missing":
        _append(table, 24, 27)
        assert _buried(table) == []
        table._storage.delete([key])
    _append(table, 28, 38)
    assert _buried(table)[:4] == [0, 1, 2, 3]
    assert table._storage.get(key).body == whole


def test_where_another_engine_dropped_the_property_tombstones_are_jumped_over(table: Table, moved_clock: Any) -> None:
    _append(table, 21, 40)
    moved_clock.ahead += WEEK + 60
    _append(table, 41, 66)
    before = _buried(table)
    assert len(before) >= 28
    seen = table._seen
    properties = {key: text for key, text in table.properties.items() if not key.startswith("datashard.sweep")}
    body = replace(seen.body, metadata=seen.body.table.with_properties(properties))
    table._seen = replace(seen, body=body)
    _append(table, 67, 84)
    assert set(_buried(table)) > set(before)


def test_a_store_that_fails_then_costs_nobody_an_append(table: Table, moved_clock: Any) -> None:
    from datashard_core.errors import StorageError

    moved_clock.ahead += WEEK + 60
    Store.failing = StorageError
    try:
        _append(table, 21, 24)
    finally:
        Store.failing = None
    assert _buried(table) == []
    _append(table, 25, 29)
    assert table.count() == 29
    assert _buried(table)[0] == 4, "what was begun is not begun again"


def test_the_marker_of_a_drop_and_what_was_before_it_are_left_alone(moved_clock: Any) -> None:
    warehouse = Warehouse(MemoryStorage())
    first = warehouse.create_table("t", SCHEMA, properties=SHORT)
    _append(first, 1, 5)
    warehouse.drop_table("t")
    table = warehouse.create_table("t", SCHEMA, properties=SHORT)
    assert table.version == 7
    _append(table, 8, 24)
    moved_clock.ahead += WEEK + 60
    _append(table, 25, 40)
    states = [_state(table._storage, version) for version in range(16)]
    assert states == ["table"] * 6 + ["dropped"] + ["tombstone"] * 9
    assert table.append([{"n": 9}], append_id="append 9").already_appended


def test_no_append_makes_more_than_a_fixed_number_of_requests_for_it(table: Table, moved_clock: Any) -> None:
    counts: list[int] = []
    asked: list[Any] = []
    names = ("get", "head", "list", "put", "put_data", "put_if_absent", "replace", "delete")

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            asked.append(arguments)
            return method(*arguments, **options)

        return call

    for name in names:
        setattr(table._storage, name, counted(getattr(table._storage, name)))
    _append(table, 21, 68)
    moved_clock.ahead += WEEK + 60
    for number in range(69, 117):
        asked.clear()
        table.append([{"n": number}])
        counts.append(len(asked))
    assert len(_buried(table)) > 48
    ordered = sorted(counts)
    assert ordered[-1] <= 3 * ordered[24], ordered
    assert sum(counts) / len(counts) < 13
