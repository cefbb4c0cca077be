"""Our snapshots have every total, whatever the snapshot before leaves out; and what it costs to know them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from datashard_testkit.foreign import foreign_commit
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.commit.core.manifest_merge import EMPTY_CACHE, Known
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.state import manifests_of
from datashard_core.commit.core.totals import FROM_NOTHING, missing_totals, totals_of
from datashard_core.config import S3Config
from datashard_core.effects.driver import run
from datashard_core.format.manifests.manifest import ADDED, DELETED, EXISTING, ManifestEntry, ManifestFile
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.snapshot import TOTALS, Snapshot
from datashard_core.format.metadata.table_metadata import TableMetadata, new_table_metadata
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "tag", "type": "string"}])


def true_totals(table: Table) -> dict[str, str]:
    """The totals, counted from the files that there are."""
    files = table.refresh().scan().data_files()
    sizes = [table._storage.head(key_of(file.file_path, table.uri, table.uri)).size for file in files]
    totals = dict.fromkeys(TOTALS, 0)
    rows = sum(file.record_count for file in files)
    totals |= {"total-records": rows, "total-data-files": len(files), "total-files-size": sum(sizes)}
    return {key: str(total) for key, total in totals.items()}


def told(table: Table) -> dict[str, str]:
    snapshot = table.refresh().current_snapshot()
    assert snapshot is not None
    return {key: snapshot.summary[key] for key in TOTALS if key in snapshot.summary}


def foreign(table: Table, name: str, *, as_sail: bool = True) -> None:
    assert run(foreign_commit(table.uri, SCHEMA, name, as_sail), table._storage) is not None


def test_totals_go_on_over_snapshots_that_lack_them(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA, properties={"commit.manifest.min-count-to-merge": "3"})
    for number in range(12):
        foreign(table, f"foreign {number} {'x' * number * 50}", as_sail=number % 3 != 0)
        if number % 2:
            handle = table if number % 4 == 1 else any_warehouse.load_table("t")
            handle.append([{"tag": "ours" * number}])
            assert told(table) == true_totals(table), f"after append {number}"
        else:
            assert ("total-files-size" in told(table)) == (number % 3 == 0)


def test_only_what_came_since_is_read(s3_config: S3Config) -> None:
    warehouse = Warehouse(S3Storage(s3_config))
    table = warehouse.create_table("t", SCHEMA, properties={"commit.manifest-merge.enabled": "false"})
    for number in range(4):
        table.append([{"tag": str(number)}])
    plain = gets_of_an_append(warehouse)
    foreign(table, "one")
    foreign(table, "two")
    assert gets_of_an_append(warehouse) == plain + 2
    assert told(table) == true_totals(table)
    assert gets_of_an_append(warehouse) == plain


def gets_of_an_append(warehouse: Warehouse) -> int:
    """GETs of an append by a process that has just opened the table."""
    table = warehouse.load_table("t")
    before = table.metrics().requests.get("get", 0)
    table.append([{"tag": "ours"}])
    return table.metrics().requests["get"] - before


def test_where_no_snapshot_tells_them_all_manifests_are_read_once(warehouse: Warehouse) -> None:
    table = warehouse.create_table("t", SCHEMA)
    for number in range(5):
        table.append([{"tag": str(number)}])
    _rewrite(table, lambda summary: {"operation": "append"})
    warehouse.load_table("t").append([{"tag": "after"}])
    assert told(table) == true_totals(table)


def test_a_manifest_that_cannot_be_read_leaves_the_total_out_and_fails_nothing(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    table = warehouse.create_table("t", SCHEMA)
    table.append([{"tag": "one"}])
    foreign(table, "two")
    metadata = table.refresh()._seen.body.table
    newest = run(manifests_of(table.uri, metadata.location, metadata.current_snapshot), table._storage)[-1]
    key = key_of(newest.manifest_path, metadata.location, table.uri)
    kept = table._storage.get(key).body
    table._storage.put(key, kept[:-1])
    warehouse.load_table("t").append([{"tag": "three"}])
    assert "total-files-size" not in told(table)
    assert "a manifest could not be read and is not merged" in caplog.text
    table._storage.put(key, kept)
    warehouse.load_table("t").append([{"tag": "four"}])
    assert told(table) == true_totals(table)


def _rewrite(table: Table, change: Callable[[Mapping[str, str]], Mapping[str, str]]) -> None:
    """Another engine's version: the files of the newest one, with other summaries."""
    table.refresh()
    raw = json.loads(table._seen.body.table.to_json())
    for snapshot in raw["snapshots"]:
        snapshot["summary"] = change(snapshot["summary"])
    table._storage.put_if_absent(f"metadata/v{table.version + 1}.metadata.json", json.dumps(raw).encode())


# ---------------------------------------------------------------------------------------------
# The decision, case by case.


def _manifest(number: int, **changes: Any) -> ManifestFile:
    plain = ManifestFile(f"m{number}", 4000, 0, 0, number, number, number, 1, 0, 0, 10, 0, 0)
    return replace(plain, **changes)


def _table(*summaries: Mapping[str, str]) -> TableMetadata:
    table = new_table_metadata(table_uuid="u", location="s3://b/t", schema=SCHEMA, properties={}, now_ms=1)
    for number, summary in enumerate(summaries, 1):
        snapshot = Snapshot(number, number - 1 or None, number, 1000 * number, f"s3://b/t/l{number}", summary, 0)
        table = table.with_snapshot(snapshot, now_ms=1000 * number, previous_metadata=None)
    return table


def _entry(status: int, sequence: int, size: int, content: int = 0, rows: int = 10) -> ManifestEntry:
    return ManifestEntry(status, sequence, sequence, sequence, DataFile(f"f{size}", rows, size, content=content))


WHOLE = {
    "operation": "append",
    "total-files-size": "1000",
    "total-position-deletes": "3",
    "total-equality-deletes": "4",
}
BARE = {"operation": "append", "total-records": "1"}
LISTED = [_manifest(number) for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("summaries", "since", "read"),
    [
        ((WHOLE, BARE, BARE), 1, ["m2", "m3"]),
        ((WHOLE, WHOLE, BARE), 2, ["m3"]),
        ((BARE, BARE, BARE), FROM_NOTHING, ["m1", "m2", "m3"]),
        ((WHOLE, {**BARE, "operation": "delete"}, BARE), FROM_NOTHING, ["m1", "m2", "m3"]),
        ((WHOLE, BARE, {**BARE, "operation": "overwrite"}), FROM_NOTHING, ["m1", "m2", "m3"]),
        ((WHOLE, {**WHOLE, "operation": "delete"}, BARE), 2, ["m3"]),
        ((WHOLE, {}, BARE), FROM_NOTHING, ["m1", "m2", "m3"]),
        ((WHOLE, BARE, {**BARE, "total-files-size": "many"}), 1, ["m2", "m3"]),
    ],
)
def test_which_manifests_tell_what_is_missing(
    summaries: tuple[Mapping[str, str], ...], since: int, read: list[str]
) -> None:
    found = missing_totals(_table(*summaries), LISTED)
    assert found is not None
    assert (found.since, [manifest.manifest_path for manifest in found.manifests]) == (since, read)
    assert found.totals == {"total-files-size": 1000 if since > 0 else 0}


def test_nothing_is_read_where_nothing_is_missing() -> None:
    assert missing_totals(_table(), []) is None
    assert missing_totals(_table(BARE, WHOLE), LISTED) is None
    sizes_alone = {"operation": "append", "total-files-size": "5"}
    assert missing_totals(_table(sizes_alone), LISTED) is None, "a list without delete files says that there are none"
    assert missing_totals(_table(sizes_alone), [*LISTED, _manifest(4, content=1)]) is not None


def test_what_merging_copied_is_not_counted_twice() -> None:
    merged = _manifest(3, existing_files_count=2, existing_rows_count=20)
    entries = (_entry(ADDED, 3, 7), _entry(EXISTING, 2, 50), _entry(EXISTING, 1, 900), _entry(DELETED, 3, 13))
    table, listed = _table(WHOLE, BARE, BARE), [_manifest(1), merged]
    assert totals_of(table, listed, Known({"m3": entries}))["total-files-size"] == 1000 + 7 + 50
    assert "total-files-size" not in totals_of(table, listed, EMPTY_CACHE)


def test_delete_files_are_counted_by_what_they_hold() -> None:
    deletes = _manifest(2, content=1, added_files_count=2)
    inside = (_entry(ADDED, 2, 100, content=1, rows=5), _entry(ADDED, 2, 200, content=2, rows=6))
    found = totals_of(_table(WHOLE, BARE), [_manifest(1), deletes], Known({"m2": inside}))
    assert found == {
        "total-records": 10,
        "total-data-files": 1,
        "total-delete-files": 2,
        "total-files-size": 1300,
        "total-position-deletes": 8,
        "total-equality-deletes": 10,
    }
