"""PyIceberg and DuckDB read a table after each kind of upkeep: merged manifests, expired snapshots, and the rest."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import datashard_core as ds
from datashard_core.commit.core.version_file import parse_version, version_key
from datashard_core.commit.versions import metadata_expiry
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "text", "type": "string"}])
SHORT = {
    "write.metadata.previous-versions-max": "2",
    "datashard.snapshots.max-count": "5",
    "history.expire.min-snapshots-to-keep": "1",
}
READERS = Path(__file__).with_name("readers.py")


def _append(table: Table, first: int, last: int) -> None:
    for number in range(first, last + 1):
        table.append([{"n": number, "text": f"row {number}"}], append_id=f"append {number}")


def _all_read(warehouse: Warehouse, count: int, what: str) -> None:
    """Every reader finds the rows 1 to ``count``."""
    table = warehouse.load_table("t")
    expected = [(number, f"row {number}") for number in range(1, count + 1)]
    assert sorted((row["n"], row["text"]) for row in table.scan().to_records()) == expected, what
    storage, s3 = warehouse._storage, None
    if isinstance(storage, S3Storage):
        config = storage.config
        s3 = {"endpoint": config.endpoint, "access_key": config.access_key, "secret_key": config.secret_key}
    for reader in ("pyiceberg", "duckdb"):
        done = subprocess.run(
            [sys.executable, "-P", str(READERS), reader],
            input=json.dumps({"uri": table.uri, "s3": s3}).encode(),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (what, done.stderr.decode()[-2000:])
        assert sorted((row["n"], row["text"]) for row in pickle.loads(done.stdout)) == expected, (reader, what)


@pytest.mark.thorough
def test_foreign_readers_read_a_table_after_each_kind_of_upkeep(
    any_warehouse: Warehouse, days_pass: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_expiry, "KEPT", 8)
    table = any_warehouse.create_table("t", SCHEMA, properties=SHORT)
    _append(table, 1, 20)
    manifests = [info.key for info in table._storage.list("metadata/manifests/manifest_")]
    assert len([key for key in manifests if "_list_" not in key]) == 22, "two merged ones among them"
    assert len(table.snapshots()) == 5
    _all_read(any_warehouse, 20, "merged manifests, and snapshots that expired by themselves")

    days_pass(8)
    _append(table, 21, 32)
    states = [parse_version(table._storage.get(version_key(v)).body, v, "here").state for v in range(33)]
    assert states.count("tombstone") >= 8
    _all_read(any_warehouse, 32, "tombstones")

    assert table.expire_snapshots(retain_last=1) == 0  # the first append after a week left one of the old ones
    assert table.compact().files == 32
    _all_read(any_warehouse, 32, "compaction")
    _append(table, 33, 34)

    assert table.remove_orphans(timedelta(hours=1)).files >= 1
    _all_read(any_warehouse, 34, "expiry, appends after compaction, and orphan removal")
    assert table.maintain().orphans.files == 0
    _append(table, 35, 36)
    assert table.append([{"n": 2, "text": "row 2"}], append_id="append 2").already_appended
    _all_read(any_warehouse, 36, "everything at once, and appends after it")
