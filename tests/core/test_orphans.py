"""Files that nothing names are removed, and no other: whatever is on its way, staged, old or cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import datashard_core as ds
from datashard_core.commit.core.recorded_ids import LIBRARY_MADE
from datashard_core.commit.core.state import Append, Committed, manifests_of
from datashard_core.commit.maintenance import orphans
from datashard_core.commit.staging.body import StagedBody, encode_body
from datashard_core.commit.staging.key import StagedName
from datashard_core.effects.driver import run
from datashard_core.errors import AppendRefusedError, ConfigurationError, CorruptTableError
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.format.rows.digest import id_digest
from datashard_core.storage.base import PreconditionFailedError, Storage, Version
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
DAY = 24 * 3600.0
FEW = {"datashard.snapshots.max-count": "2", "history.expire.min-snapshots-to-keep": "1"}
LOST = "data/auto_00000000000000000000000000000000.parquet"


@pytest.fixture
def table() -> Table:
    """A table in memory with a few appends, and a data file that nothing names."""
    made = Warehouse(MemoryStorage()).create_table("t", SCHEMA, properties=FEW)
    for number in range(4):
        made.append([{"n": number}])
    made._storage.put(LOST, b"lost")
    return made


def _keys(table: Table, prefix: str = "") -> set[str]:
    return {info.key for info in table._storage.list(prefix)}


def _rows(table: Table) -> list[int]:
    return sorted(row["n"] for row in table.refresh().scan().to_records())


def _written(table: Table, number: int) -> Append:
    """A large append, of which the data file is written already."""
    import pyarrow as pa

    encoded = encode_parquet(pa.table({"n": [number]}, schema=SCHEMA.to_arrow()), SCHEMA)
    key = f"data/auto_{number:032d}.parquet"
    table._storage.put_data(key, encoded.data)
    own = f"large {number}"
    file = encoded.data_file(f"{table.uri}/{key}")
    return Append(own, id_digest(own), LIBRARY_MADE, None, (file,), SCHEMA, table.version, table.version)


def _stage(table: Table, item: Append, kind: Any = "d") -> StagedName:
    name = StagedName(table.version, kind, item.id, "0" * 32)
    body = StagedBody(table._target.uuid, item.append_id, item.digest, 0, item.rows, item.files)
    table._storage.put(name.key, encode_body(body))
    return name


def test_what_lost_a_race_died_or_expired_is_removed_and_the_rest_stays(
    any_warehouse: Warehouse, any_storage: Storage, time_passes: Callable[[float], None]
) -> None:
    table = any_warehouse.create_table("t", SCHEMA, properties=FEW)
    for number in range(10):
        table.append([{"n": number}])
    lost = {LOST, "metadata/manifests/manifest_lost.avro", "metadata/manifests/manifest_list_lost.avro"}
    strangers = {"data/notes.txt", "metadata/00001-foreign.metadata.json"}
    for key in lost | strangers:
        table._storage.put(key, b"lost")
    ensure_recent = table.remove_orphans()
    assert ensure_recent.files == 0
    assert ensure_recent.too_young >= len(lost)
    time_passes(2 * DAY)
    table.append([{"n": 10}], commit="deferred")
    table._storage.put("data/auto_just_written.parquet", b"on its way")
    before = _keys(table)
    removed = table.remove_orphans()
    gone = before - _keys(table)
    assert lost < gone
    assert removed.files == len(gone)
    assert removed.bytes > 0
    assert removed.too_young == 1
    assert all(key.startswith(("data/auto_", "metadata/manifests/")) for key in gone)
    assert len([key for key in gone if "manifest_list_" in key]) == 10 - 2 + 1
    assert any_warehouse.load_table("t").count() == 10
    assert any_warehouse.load_table("t").flush().count() == 11
    for snapshot in table.snapshots():
        assert table.scan(snapshot_id=snapshot.snapshot_id).to_records()
    table.remove_orphans(timedelta(hours=1))  # what the flush has let expire
    assert table.remove_orphans(timedelta(hours=1)).files == 0


def test_a_grace_period_under_an_hour_is_refused(table: Table) -> None:
    with pytest.raises(ConfigurationError, match="is too short"):
        table.remove_orphans(timedelta(minutes=59))


def test_files_that_staged_appends_describe_are_live(table: Table, moved_clock: Any) -> None:
    item = _written(table, 77)
    _stage(table, item)
    moved_clock.ahead += 3 * DAY
    assert table.remove_orphans().files >= 1
    assert LOST not in _keys(table)
    assert _rows(table.flush()) == [0, 1, 2, 3, 77]
    assert f"data/auto_{77:032d}.parquet" in _keys(table), "an old file was copied, and the copy named"
    moved_clock.ahead += DAY
    table.append([{"n": 5}])
    table.remove_orphans(timedelta(hours=1))
    assert f"data/auto_{77:032d}.parquet" not in _keys(table)
    assert _rows(table) == [0, 1, 2, 3, 5, 77]


def test_files_older_than_a_staged_object_that_cannot_be_read_stay(table: Table, moved_clock: Any) -> None:
    table._storage.put(StagedName(table.version, "d", "a" * 32, "b" * 32).key, b"rubbish")
    moved_clock.ahead += 3 * DAY
    before = _keys(table)
    later = "data/auto_later.parquet"
    table._storage.put(later, b"of nobody")
    moved_clock.ahead += 3 * DAY
    table.remove_orphans()
    assert LOST in _keys(table), "it may describe that"
    assert later not in _keys(table), "and cannot describe what came after it"
    assert {key for key in before if key.startswith("data/")} <= _keys(table)
    with pytest.raises(AppendRefusedError):
        table.flush()
    assert table.remove_orphans().files >= 1


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("manifest", "missing"),
        ("manifest", "damaged"),
        ("manifest list", "missing"),
        ("manifest list", "damaged"),
        ("data file", "missing"),  # none is opened for it
    ],
)
def test_what_cannot_be_read_stops_everything(table: Table, moved_clock: Any, what: str, how: str) -> None:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    key = snapshot.manifest_list
    if what == "data file":
        key = _a_data_file(table)
    elif what == "manifest":
        key = _manifests(table)[0]
    key = key.removeprefix(f"{table.uri}/")
    if how == "missing":
        table._storage.delete([key])
    else:
        table._storage.put(key, table._storage.get(key).body[:-20])
    moved_clock.ahead += 3 * DAY
    before = _keys(table)
    with pytest.raises(CorruptTableError):
        table.remove_orphans()
    assert _keys(table) == before


def _manifests(table: Table) -> list[str]:
    snapshot = table.current_snapshot()
    return [one.manifest_path for one in run(manifests_of(table.uri, table.uri, snapshot), table._storage)]


def _a_data_file(table: Table) -> str:
    return next(f"{table.uri}/{key}" for key in sorted(_keys(table, "data/")) if key != LOST)


def test_who_built_its_version_before_the_fence_loses_and_writes_new_files(table: Table, moved_clock: Any) -> None:
    """An append sleeps for two days between writing its files and creating its version."""
    storage = table._storage
    real = storage.put_if_absent
    slept: list[str] = []

    def sleep_first(key: str, data: bytes) -> Version:
        if key == f"metadata/v{table.version + 1}.metadata.json" and not slept:
            slept.append(key)
            moved_clock.ahead += 2 * DAY
            other = Warehouse(storage_root).load_table("t")
            assert other.remove_orphans().files > 1
        return real(key, data)

    storage_root = MemoryStorage()
    storage_root._objects, storage_root._lock = storage._objects, storage._lock  # type: ignore[attr-defined]
    storage_root._numbers = storage._numbers  # type: ignore[attr-defined]
    storage.put_if_absent = sleep_first  # type: ignore[method-assign]
    table.append([{"n": 9}])
    assert slept
    assert _rows(table) == [0, 1, 2, 3, 9]


def test_a_large_append_that_slept_names_a_copy_or_says_that_its_file_is_gone(table: Table, moved_clock: Any) -> None:
    item = _written(table, 8)
    moved_clock.ahead += 2 * DAY
    table.append([{"n": 4}])  # the version that the large one will build on
    done = table._commit([item], 30.0)[item.id]
    assert isinstance(done, Committed)
    assert done.version == 6
    assert _rows(table) == [0, 1, 2, 3, 4, 8]
    lost = _written(table, 9)
    moved_clock.ahead += 2 * DAY
    table.append([{"n": 5}])
    table.remove_orphans()
    answer = table._commit([lost], 30.0)[lost.id]
    assert isinstance(answer, CorruptTableError)
    assert "append 'large 9', is gone" in str(answer)
    assert _rows(table) == [0, 1, 2, 3, 4, 5, 8]


def test_young_files_are_named_without_a_look(table: Table) -> None:
    item = _written(table, 8)
    asked: list[str] = []
    real = table._storage.head

    def head(key: str) -> Any:
        asked.append(key)
        return real(key)

    table._storage.head = head  # type: ignore[method-assign]
    table._commit([item], 30.0)
    assert asked == []
    assert _rows(table) == [0, 1, 2, 3, 8]


@pytest.mark.parametrize("answer", ["taken", "lost reply"])
def test_a_fence_that_lost_its_race_or_its_reply(
    table: Table, moved_clock: Any, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    moved_clock.ahead += 2 * DAY
    real = orphans._fence
    tries: list[int] = []

    async def fence(target: Any, state: Any, commit_id: str) -> Any:
        tries.append(state.body.version)
        if len(tries) == 1 and answer == "taken":
            table.append([{"n": 50}])
        made = await real(target, state, commit_id)
        return None if len(tries) == 1 else made

    monkeypatch.setattr(orphans, "_fence", fence)
    assert table.remove_orphans().files >= 1
    assert LOST not in _keys(table)
    assert len(tries) == (2 if answer == "taken" else 1)
    assert _rows(table) == [0, 1, 2, 3, 50] if answer == "taken" else [0, 1, 2, 3]


def test_others_that_are_always_faster_end_in_an_error_and_nothing_is_deleted(
    table: Table, moved_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_clock.ahead += 2 * DAY
    real = table._storage.put_if_absent

    def taken(key: str, data: bytes) -> Version:
        if key.startswith("metadata/v"):
            raise PreconditionFailedError("taken", key=key)
        return real(key, data)

    monkeypatch.setattr(table._storage, "put_if_absent", taken)
    with pytest.raises(ds.CommitTimeoutError, match="Nothing was deleted"):
        table.remove_orphans(timeout=0.2)
    assert LOST in _keys(table)


def test_the_fence_changes_nothing_but_the_version(table: Table, moved_clock: Any) -> None:
    before = table._seen.body.table
    moved_clock.ahead += 3600.0 * 30
    table.remove_orphans()
    after = table.refresh()._seen.body.table
    assert table.version == 5
    assert (after.current_snapshot_id, after.last_sequence_number) == (
        before.current_snapshot_id,
        before.last_sequence_number,
    )
