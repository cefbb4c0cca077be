"""A file that is gone, cut short or damaged is an error that names it, and never fewer rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core import col
from datashard_core.format.manifests.manifest import decode_manifest_list, encode_manifest_list
from datashard_core.storage.base import Storage
from datashard_core.storage.cache import immutable, small_files
from datashard_core.storage.local import LocalStorage
from datashard_core.table.plan import indexes
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"name": "n", "type": "long"}, {"name": "s", "type": "string"}])


@pytest.fixture
def table(any_warehouse: Warehouse) -> ds.Table:
    """Three files; nothing of them is in memory."""
    made = any_warehouse.create_table("ops.t", SCHEMA)
    for first in (0, 10, 20):
        made.append([{"n": first + one, "s": f"k{first}"} for one in range(10)])
    return made


def forget() -> None:
    immutable.clear()
    indexes.clear()
    small_files.clear()


def keys(storage: Storage, part: str, folder: str) -> list[str]:
    return [info.key for info in storage.list(f"ops/t/{folder}/") if part in info.key]


def gone(storage: Storage, key: str) -> None:
    storage.delete([key])


def cut(storage: Storage, key: str) -> None:
    body = storage.get(key).body
    storage.put(key, body[: len(body) * 2 // 3])


def empty(storage: Storage, key: str) -> None:
    storage.put(key, b"")


def overwritten(storage: Storage, key: str) -> None:
    storage.put(key, b"<html>not found</html>" * 40)


@pytest.mark.parametrize("harm", [gone, cut, empty, overwritten])
@pytest.mark.parametrize("what", ["manifest list", "manifest", "data file"])
def test_a_file_that_is_gone_or_damaged_is_named(
    table: ds.Table, any_storage: Storage, what: str, harm: Callable[[Storage, str], None]
) -> None:
    if what == "data file":
        key = keys(any_storage, "auto_", "data")[1]
    else:
        snapshot = table.current_snapshot()
        assert snapshot is not None
        listed = snapshot.manifest_list.removeprefix(f"{table.uri}/")
        inside = decode_manifest_list(any_storage.get(f"ops/t/{listed}").body)
        key = f"ops/t/{listed if what == 'manifest list' else inside[1].manifest_path.removeprefix(f'{table.uri}/')}"
    harm(any_storage, key)
    forget()
    scan = table.scan()
    with pytest.raises(ds.CorruptTableError) as raised:
        scan.to_arrow()
    assert key.removeprefix("ops/t/") in str(raised.value)
    assert "restore" in str(raised.value)
    with pytest.raises(ds.CorruptTableError):
        table.sql("select count(n) from ops.t") if what == "data file" else list(scan.plan())


def test_a_data_file_that_no_condition_asks_for_is_not_missed(table: ds.Table, any_storage: Storage) -> None:
    forget()
    for file in table.scan(where=col("n") < 20).data_files():
        any_storage.delete([f"ops/t/{file.file_path.removeprefix(f'{table.uri}/')}"])
    assert table.scan(where=col("n") >= 20).count() == 10
    with pytest.raises(ds.CorruptTableError, match="is missing"):
        table.scan(where=col("n") >= 19).to_arrow()


def test_a_data_file_with_other_rows_than_its_manifest_says_is_damage(tmp_path: Path) -> None:
    table = Warehouse(LocalStorage(tmp_path)).create_table("t", SCHEMA)
    table.append([{"n": 1, "s": "a"}, {"n": 2, "s": "b"}])
    (path,) = (tmp_path / "t/data").iterdir()
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(ds.CorruptTableError, match="holds 1 rows, and its manifest says 2"):
        table.scan().to_arrow()


def test_a_table_with_row_level_deletes_is_refused_and_never_read_without_them(
    table: ds.Table, any_storage: Storage
) -> None:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    key = f"ops/t/{snapshot.manifest_list.removeprefix(f'{table.uri}/')}"
    manifests = decode_manifest_list(any_storage.get(key).body)
    with_deletes = [*manifests, replace(manifests[0], content=1)]
    any_storage.put(
        key,
        encode_manifest_list(
            with_deletes, snapshot_id=snapshot.snapshot_id, parent_snapshot_id=None, sequence_number=3
        ),
    )
    forget()
    for read in (
        lambda: table.scan().to_arrow(),
        table.count,
        lambda: table.scan(where=col("n") == 1).data_files(),
        lambda: table.changes(1).to_arrow(),
        lambda: table.sql("select * from ops.t"),
    ):
        with pytest.raises(ds.UnsupportedTableError, match=r"ops\.t: snapshot \d+ has row-level delete files"):
            read()


def test_folders_named_key_equals_value_are_read(tmp_path: Path) -> None:
    warehouse = Warehouse(LocalStorage(tmp_path / "year=2026" / "team=a b"))
    table = warehouse.create_table("t", SCHEMA)
    table.append([{"n": 1, "s": "a"}])
    assert warehouse.load_table("t").scan(where=col("n") == 1).to_records() == [{"n": 1, "s": "a"}]
    assert warehouse.sql("select s from t").to_pylist() == [{"s": "a"}]
