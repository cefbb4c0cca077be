"""Tables that another engine began with v1: what their history says of append ids."""

from __future__ import annotations

import msgspec
import pytest

import datashard_core as ds
from datashard_core.commit.core.version_file import HINT_KEY, version_key
from datashard_core.errors import CorruptTableError
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "k", "type": "long"}])


@pytest.fixture(params=["9c12d441-03fe-4693-9a96-a0705ddf69c1", "9C12D441-03FE-4693-9A96-A0705DDF69C2", "no uuid"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    """A warehouse with the table ``t`` as another engine leaves it: versions 1 to 3, nothing of ours in them."""
    storage = MemoryStorage("memory://elsewhere")
    Warehouse(storage).create_table("source", SCHEMA)
    raw = msgspec.json.decode(storage.get("source/metadata/v0.metadata.json").body)
    raw |= {"location": f"{storage.root}/t", "properties": {"owner": "them"}, "table-uuid": request.param}
    for version in (1, 2, 3):
        log = [{"metadata-file": f"{storage.root}/t/{version_key(n)}", "timestamp-ms": n} for n in range(1, version)]
        storage.put(f"t/{version_key(version)}", msgspec.json.encode({**raw, "metadata-log": log}))
    storage.put(f"t/{HINT_KEY}", b"3")
    return storage


def test_appends_with_ids_go_on_over_many_versions(storage: MemoryStorage) -> None:
    table = Warehouse(storage).load_table("t")
    assert (table.version, table.count(), table.properties["owner"]) == (3, 0, "them")
    for k in range(33):  # far enough for id nodes
        assert not table.append([{"k": k}], append_id=f"id/{k}").already_appended
    fresh = Warehouse(storage).load_table("t")
    for k in (0, 13, 32):
        assert fresh.append([{"k": k}], append_id=f"id/{k}").already_appended
    assert (fresh.refresh().version, fresh.count()) == (36, 33)


def test_an_append_without_an_id_needs_no_history(storage: MemoryStorage) -> None:
    table = Warehouse(storage).load_table("t")
    assert table.append([{"k": 1}]).version == 4
    table.append([{"k": 2}], commit="deferred")
    assert table.flush().count() == 2


def test_a_version_that_somebody_removed_is_still_an_error(storage: MemoryStorage) -> None:
    storage.delete([f"t/{version_key(1)}"])
    table = Warehouse(storage).load_table("t")
    with pytest.raises(CorruptTableError, match=r"v1\.metadata\.json is missing"):
        table.append([{"k": 1}], append_id="once")
    assert table.refresh().version == 3


def test_rows_of_ours_are_not_taken_for_a_beginning(storage: MemoryStorage) -> None:
    """An engine that drops properties and logs does not make a table new: it has rows of two commits."""
    table = Warehouse(storage).load_table("t")
    table.append([{"k": 1}])
    table.append([{"k": 2}])
    raw = msgspec.json.decode(storage.get(f"t/{version_key(5)}").body)
    storage.put(f"t/{version_key(6)}", msgspec.json.encode({**raw, "properties": {}, "metadata-log": []}))
    storage.delete([f"t/{version_key(5)}"])
    with pytest.raises(CorruptTableError, match=r"v5\.metadata\.json is missing"):
        Warehouse(storage).load_table("t").append([{"k": 1}], append_id="once")
