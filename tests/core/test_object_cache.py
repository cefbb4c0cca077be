"""What is kept in memory of objects that never change, and that damage is not kept."""

from __future__ import annotations

import pytest

import datashard_core as ds
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.state import manifests_of
from datashard_core.effects.driver import run
from datashard_core.errors import CorruptTableError
from datashard_core.storage.cache import ObjectCache, immutable
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])


@pytest.mark.parametrize("what", ["the manifest list", "a manifest"])
@pytest.mark.parametrize("damage", [lambda body: body[:-1], lambda body: b"", lambda body: b"x" * len(body)])
def test_a_file_that_was_restored_is_read_again(any_warehouse: Warehouse, what: str, damage: object) -> None:
    assert callable(damage)
    table = any_warehouse.create_table("t", SCHEMA)
    table.append([{"n": 1}])
    snapshot = table.current_snapshot()
    assert snapshot is not None
    (manifest,) = run(manifests_of(table.uri, table.uri, snapshot), table._storage)
    key = key_of(
        snapshot.manifest_list if what == "the manifest list" else manifest.manifest_path, table.uri, table.uri
    )
    whole = table._storage.get(key).body
    table._storage.put(key, damage(whole))
    immutable.clear()
    for _ in range(2):
        with pytest.raises(CorruptTableError):
            table.scan().to_records()
    table._storage.put(key, whole)
    assert table.scan().to_records() == [{"n": 1}], "the damage is remembered after it was repaired"


def test_a_file_is_read_once_and_room_is_counted_right() -> None:
    storage = MemoryStorage("memory://cache")
    cache = ObjectCache(max_bytes=100)
    for name in "abc":
        storage.put(name, name.encode() * 40)
    assert cache.get(storage, "a") == b"a" * 40
    storage.put("a", b"changed")
    assert cache.get(storage, "a") == b"a" * 40
    cache.forget(storage, "a")
    cache.forget(storage, "a")
    assert cache.get(storage, "a") == b"changed"
    cache.forget(storage, "a")
    storage.put("a", b"a" * 40)
    assert [cache.get(storage, name)[:1] for name in "abc"] == [b"a", b"b", b"c"]
    storage.put("a", b"new")
    storage.put("c", b"new")
    assert cache.get(storage, "c") == b"c" * 40
    assert cache.get(storage, "a") == b"new", "the oldest made room for the newest"
