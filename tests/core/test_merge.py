"""Manifests merged in tiers: rows stay what they are, lists stay short, and damage costs nobody a file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from datashard_testkit.sampling import THOROUGH
from hypothesis import given, settings
from hypothesis import strategies as st

import datashard_core as ds
from datashard_core.commit.core import manifest_merge
from datashard_core.commit.core.manifest_merge import FAN_IN, live_files, live_rows, sources, tier
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.state import manifests_of
from datashard_core.effects.driver import run
from datashard_core.format.manifests.manifest import (
    ADDED,
    DELETED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    decode_manifest,
)
from datashard_core.format.manifests.partition_summary import united
from datashard_core.format.metadata.table_metadata import TableMetadata, new_table_metadata
from datashard_core.format.types.types import DecimalType, PrimitiveType
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "text", "type": "string"}])


def _manifests(table: Table) -> tuple[ManifestFile, ...]:
    metadata = table._seen.body.table
    return run(manifests_of(table.uri, metadata.location, metadata.current_snapshot), table._storage)


def _entries(table: Table, manifest: ManifestFile) -> list[ManifestEntry]:
    key = key_of(manifest.manifest_path, table._seen.body.table.location, table.uri)
    return decode_manifest(table._storage.get(key).body, manifest)


def _manifest(rows: int, *, files: int = 1, number: int = 0, **changes: Any) -> ManifestFile:
    values: dict[str, Any] = {
        "manifest_path": f"s3://b/t/metadata/m{number}.avro",
        "manifest_length": 4000,
        "partition_spec_id": 0,
        "content": 0,
        "sequence_number": number + 1,
        "min_sequence_number": number + 1,
        "added_snapshot_id": number + 1,
        "added_files_count": files,
        "existing_files_count": 0,
        "deleted_files_count": 0,
        "added_rows_count": rows,
        "existing_rows_count": 0,
        "deleted_rows_count": 0,
    }
    return ManifestFile(**{**values, **changes})


def _metadata(**changes: Any) -> TableMetadata:
    made = new_table_metadata(table_uuid="u", location="s3://b/t", schema=SCHEMA, properties={}, now_ms=1)
    return TableMetadata({**made._raw, **changes})


def test_hundreds_of_appends_are_read_in_order_whoever_reads(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA, properties={"commit.manifest.min-count-to-merge": "3"})
    count = 200 if isinstance(table._storage, MemoryStorage) else 40 if THOROUGH else 25
    for number in range(count):
        # now and then a process that has just begun: it has to read what it merges
        handle = table if number % 5 else any_warehouse.load_table("t")
        handle.append([{"n": number, "text": f"row {number}"}])
        table.refresh()
    expected = [{"n": number, "text": f"row {number}"} for number in range(count)]
    assert table.scan().to_records() == expected
    assert any_warehouse.load_table("t").scan().to_records() == expected
    manifests = _manifests(table)
    assert len(manifests) < 14
    assert sum(live_rows(manifest) for manifest in manifests) == count
    summary = table.snapshots()[-1].summary
    assert (summary["total-records"], summary["total-data-files"]) == (str(count), str(count))


def test_merged_entries_say_where_they_come_from(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    results = [table.append([{"n": number}]) for number in range(9)]
    merged, newest = _manifests(table)
    assert (merged.existing_files_count, merged.added_files_count, merged.existing_rows_count) == (8, 0, 8)
    assert (merged.sequence_number, merged.min_sequence_number) == (9, 1)
    assert merged.added_snapshot_id == results[8].snapshot_id
    entries = _entries(table, merged)
    assert [entry.status for entry in entries] == [EXISTING] * 8
    assert [entry.snapshot_id for entry in entries] == [result.snapshot_id for result in results[:8]]
    assert [(entry.sequence_number, entry.file_sequence_number) for entry in entries] == [(n, n) for n in range(1, 9)]
    assert [entry.status for entry in _entries(table, newest)] == [ADDED]
    # what is kept in memory for the next merge is what a reader reads
    known = table._seen.known
    assert [list(known.of(manifest) or ()) for manifest in (merged, newest)] == [entries, _entries(table, newest)]


def test_no_append_merges_more_than_a_fixed_number_of_manifests(warehouse: Warehouse) -> None:
    table = warehouse.create_table("t", SCHEMA)
    for number in range(150 if THOROUGH else 80):
        before = {manifest.manifest_path for manifest in _manifests(table)}
        table.append([{"n": number}])
        after = {manifest.manifest_path for manifest in _manifests(table)}
        assert len(before - after) in (0, FAN_IN)
        assert len(after - before) <= 2
        assert len(after) <= 7 * 3 + 2


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=300), st.sampled_from([2, 3, 8, 20]))
@settings(deadline=None)
def test_the_number_of_manifests_grows_with_the_logarithm_of_the_rows(sizes: list[int], at: int) -> None:
    properties = settings_of({"commit.manifest.min-count-to-merge": str(at)})
    fan_in = min(FAN_IN, at)
    table, live, copies = _metadata(), list[ManifestFile](), Counter[str]()
    for number, rows in enumerate(sizes):
        chosen = sources(live, table, properties)
        assert len(chosen) != 1
        assert len(chosen) <= FAN_IN
        if chosen:
            total, files = sum(map(live_rows, chosen)), sum(live_files(one) or 0 for one in chosen)
            copies["entries"] += files
            made = _manifest(total, files=files, number=10_000 + number)
            assert tier(total, fan_in) > min(tier(live_rows(one), fan_in) for one in chosen)
            live = list(manifest_merge.replaced(live, chosen, made))
        live.append(_manifest(rows, number=number))
    assert sum(map(live_rows, live)) == sum(sizes)
    tiers = tier(sum(sizes), fan_in) + 1
    assert len(live) <= tiers * at + 1
    assert copies["entries"] <= len(sizes) * (tiers + 1)


def test_what_must_not_be_merged_is_left_alone() -> None:
    table, defaults = _metadata(), settings_of({})
    plain = [_manifest(1, number=number) for number in range(8)]
    assert sources(plain, table, defaults) == tuple(plain)
    assert sources(plain[:7], table, defaults) == ()
    assert sources(plain, table, settings_of({"commit.manifest-merge.enabled": "false"})) == ()
    for changes in (
        {"content": 1},
        {"key_metadata": b"key"},
        {"added_files_count": None},
        {"existing_rows_count": None},
        {"partition_spec_id": 7},  # a spec that the table does not have
        {"manifest_length": manifest_merge.MERGE_BYTES // 2 + 1},
        {"added_files_count": 0},
    ):
        assert sources([*plain[:7], _manifest(1, number=9, **changes)], table, defaults) == (), changes
    large = [_manifest(1, number=number, manifest_length=manifest_merge.MERGE_BYTES // 4) for number in range(8)]
    assert sources(large, table, defaults) == tuple(large[:4])
    assert sources(plain, table, settings_of({"commit.manifest.target-size-bytes": "3000"})) == ()


def test_manifests_of_different_partition_specs_are_not_mixed() -> None:
    field = {"source-id": 1, "field-id": 1000, "name": "n", "transform": "identity"}
    specs = [{"spec-id": 0, "fields": []}, {"spec-id": 1, "fields": [field]}]
    gone = {"spec-id": 2, "fields": [{**field, "source-id": 77}]}
    table = _metadata(**{"partition-specs": [*specs, gone]})
    mixed = [_manifest(1, number=number, partition_spec_id=number % 2) for number in range(16)]
    assert {manifest.partition_spec_id for manifest in sources(mixed, table, settings_of({}))} == {0}
    assert sources(mixed[:14], table, settings_of({})) == ()
    of_gone_column = [_manifest(1, number=number, partition_spec_id=2) for number in range(16)]
    assert sources(of_gone_column, table, settings_of({})) == ()


def test_summaries_of_partitions_enclose_those_of_the_sources() -> None:
    def summary(low: bytes | None, high: bytes | None, null: bool = False, nan: bool | None = False) -> dict[str, Any]:
        return {"contains_null": null, "contains_nan": nan, "lower_bound": low, "upper_bound": high}

    def ints(number: int) -> bytes:
        return number.to_bytes(4, "little", signed=True)

    parts = [[summary(ints(3), ints(300))], [summary(ints(-1), ints(2), null=True)], [summary(None, None, nan=None)]]
    assert united(parts, [PrimitiveType("int")]) == (summary(ints(-1), ints(300), null=True, nan=None),)
    assert united([*parts, None], [PrimitiveType("int")]) is None
    assert united([(), None], []) == ()
    texts = [[summary(b"b", "ü".encode())], [summary(b"a", b"z")]]
    assert united(texts, [PrimitiveType("string")]) == (summary(b"a", "ü".encode()),)
    amounts = [[summary(b"\xff", b"\x01")], [summary(b"\xfe\x00", b"\x00\x80")]]
    assert united(amounts, [DecimalType(9, 2)]) == (summary(b"\xfe\x00", b"\x00\x80"),)


def test_a_manifest_that_cannot_be_read_is_left_out_and_stays(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    for number in range(8):
        table.append([{"n": number}])
    victim = _manifests(table)[2]
    key = key_of(victim.manifest_path, table._seen.body.table.location, table.uri)
    whole = table._storage.get(key).body
    table._storage.put(key, whole[:-40])
    any_warehouse.load_table("t").append([{"n": 8}])
    table.refresh()
    paths = [manifest.manifest_path for manifest in _manifests(table)]
    assert victim.manifest_path in paths
    assert len(paths) == 3
    table._storage.put(key, whole)
    assert sorted(row["n"] for row in any_warehouse.load_table("t").scan().to_records()) == list(range(9))


def test_a_manifest_list_that_cannot_be_read_stops_the_append(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    table.append([{"n": 1}])
    snapshot = table.current_snapshot()
    assert snapshot is not None
    key = key_of(snapshot.manifest_list, table._seen.body.table.location, table.uri)
    whole = table._storage.get(key).body
    table._storage.delete([key])
    with pytest.raises(ds.StorageError):
        any_warehouse.load_table("t").append([{"n": 2}], timeout=1)
    table._storage.put(key, whole)
    assert any_warehouse.load_table("t").count() == 1


def test_manifests_without_live_files_are_dropped_from_the_list() -> None:
    kept = [_manifest(1, number=0), _manifest(1, number=1, added_files_count=None)]
    dead = _manifest(0, files=0, number=2, deleted_files_count=3, deleted_rows_count=3)
    assert manifest_merge.without_empty(
        [kept[0], dead, kept[1]], manifest_merge.Known({dead.manifest_path: ()})
    ) == tuple(kept)


def test_a_manifest_stays_in_the_list_until_its_entries_were_read() -> None:
    dead = _manifest(0, files=0, number=2, deleted_files_count=3, deleted_rows_count=3)
    assert manifest_merge.without_empty([dead], manifest_merge.EMPTY_CACHE) == (dead,)


def test_entries_of_deleted_files_are_not_copied(warehouse: Warehouse) -> None:
    table = warehouse.create_table("t", SCHEMA)
    for number in range(2):
        table.append([{"n": number}])
    metadata, manifests = table._seen.body.table, _manifests(table)
    read = [(manifest, tuple(_entries(table, manifest))) for manifest in manifests]
    dead = manifest_merge.replace(read[0][1][0], status=DELETED)
    made = manifest_merge.merged("ab" * 16, metadata, 5, [(manifests[0], (dead,)), read[1]])
    assert [entry.data_file for entry in made.entries] == [read[1][1][0].data_file]
    listed = made.listed(metadata.location, 7)
    assert (listed.existing_files_count, listed.deleted_files_count, listed.min_sequence_number) == (1, 0, 2)
