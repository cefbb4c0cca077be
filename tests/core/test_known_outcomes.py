"""What the history says of an append holds, whatever the store answers to questions about details."""

from __future__ import annotations

import pytest

from datashard_core import Schema
from datashard_core.commit.core.version_file import version_key
from datashard_core.storage.base import StorageError, StoredObject
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(fields=[{"name": "n", "type": "long"}])


def test_an_append_that_is_named_is_told_so_though_its_version_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was told as a failure of the store, of two that one process made together by the order of their digests."""
    warehouse = Warehouse(MemoryStorage("memory://known"))
    table = warehouse.create_table("t", SCHEMA)
    first = table.append([{"n": 1}], append_id="one")
    for number in range(2, 5):
        table.append([{"n": number}])
    again = warehouse.load_table("t")
    get = MemoryStorage.get
    refused = []

    def without_first(storage: MemoryStorage, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        if key == version_key(first.version or 0):
            refused.append(key)
            raise StorageError(f"{key}: the store does not answer", reason="unreachable", key=key)
        return get(storage, key, byte_range)

    monkeypatch.setattr(MemoryStorage, "get", without_first)
    found = again.append([{"n": 1}], append_id="one")
    assert refused, "it was not asked for"
    assert (found.already_appended, found.version, found.snapshot_id) == (True, first.version, None)
    assert again.refresh().count() == 4
