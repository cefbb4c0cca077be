"""What snapshots and manifest lists say of their files, held against the files: readers count and prune by it.

Every list and manifest is read with fastavro, so that what our reader and writer agree upon is not enough.
"""

from __future__ import annotations

import io
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import fastavro
import msgspec
import pyarrow as pa
import pytest

from datashard_core import Schema, Table, Warehouse, col
from datashard_core.commit.core.next_version import manifest_of
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.state import manifests_of
from datashard_core.commit.core.version_file import VersionFile
from datashard_core.commit.external.commit import commit_external
from datashard_core.effects.driver import run
from datashard_core.format.manifests.manifest import ADDED, ManifestEntry, encode_manifest_list
from datashard_core.format.metadata.partition import PartitionSpec
from datashard_core.format.metadata.snapshot import Snapshot, append_summary
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.plan import Planner

SCHEMA = Schema(
    fields=[{"name": "n", "type": "long"}, {"name": "text", "type": "string"}, {"name": "x", "type": "double"}]
)
MERGE = {"commit.manifest.min-count-to-merge": "3"}
STATUSES = ("existing", "added", "deleted")  # by number

Row = dict[str, Any]


def made(properties: Mapping[str, str] = MERGE) -> Table:
    return Warehouse(MemoryStorage("memory://summaries")).create_table("t", SCHEMA, properties=properties)


def append(table: Table, first: int, count: int = 1, **options: Any) -> None:
    table.append([{"n": n, "text": f"row {n}", "x": n / 2} for n in range(first, first + count)], **options)


def read(table: Table, uri: str) -> list[Row]:
    body = table._storage.get(key_of(uri, table._seen.body.table.location, table.uri)).body
    return [dict(row) for row in fastavro.reader(io.BytesIO(body)) if isinstance(row, dict)]


def size(table: Table, uri: str) -> int:
    return len(table._storage.get(key_of(uri, table._seen.body.table.location, table.uri)).body)


def listed(table: Table, snapshot: Snapshot) -> list[tuple[Row, list[Row]]]:
    """The manifests of a snapshot with their entries; each is held against what the list says of it."""
    found = []
    for manifest in read(table, snapshot.manifest_list):
        entries = read(table, manifest["manifest_path"])
        assert manifest["manifest_length"] == size(table, manifest["manifest_path"])
        for number, status in enumerate(STATUSES):
            files = [entry["data_file"] for entry in entries if entry["status"] == number]
            assert manifest[f"{status}_files_count"] == len(files)
            assert manifest[f"{status}_rows_count"] == sum(file["record_count"] for file in files)
        sequence = manifest["sequence_number"]
        live = [entry for entry in entries if STATUSES[entry["status"]] != "deleted"]
        of_live = [sequence if entry["sequence_number"] is None else entry["sequence_number"] for entry in live]
        assert manifest["min_sequence_number"] == min(of_live, default=sequence)
        assert sequence <= snapshot.sequence_number
        assert all(
            entry["snapshot_id"] == manifest["added_snapshot_id"] for entry in entries if entry["status"] == ADDED
        )
        found.append((manifest, entries))
    return found


def live_files(table: Table, snapshot: Snapshot | None) -> dict[str, Row]:
    files = [
        entry["data_file"]
        for _, entries in (listed(table, snapshot) if snapshot is not None else [])
        for entry in entries
        if STATUSES[entry["status"]] != "deleted"
    ]
    return {file["file_path"]: file for file in files}


def sums(files: Mapping[str, Row]) -> tuple[int, int, int]:
    """Files, rows and bytes."""
    rows, sizes = (sum(file[key] for file in files.values()) for key in ("record_count", "file_size_in_bytes"))
    return len(files), rows, sizes


def check(table: Table) -> list[str]:
    """Hold every kept snapshot against its files and its parent's; the operations."""
    known = {snapshot.snapshot_id: snapshot for snapshot in table.refresh().snapshots()}
    for snapshot in known.values():
        files, told = live_files(table, snapshot), snapshot.summary
        keys = ("total-data-files", "total-records", "total-files-size")
        assert tuple(int(told[key]) for key in keys) == sums(files)
        assert {told[f"total-{what}"] for what in ("delete-files", "position-deletes", "equality-deletes")} == {"0"}
        for path, file in files.items():
            assert file["file_size_in_bytes"] == size(table, path)
        parent = known.get(snapshot.parent_snapshot_id or -1)
        if parent is None and snapshot.parent_snapshot_id is not None:
            continue  # expired
        before = live_files(table, parent)
        new = sums({path: file for path, file in files.items() if path not in before})
        gone = sums({path: file for path, file in before.items() if path not in files})
        added = ("added-data-files", "added-records", "added-files-size")
        assert tuple(int(told[key]) for key in added) == new
        removed = ("deleted-data-files", "deleted-records", "removed-files-size")
        assert tuple(int(told.get(key, 0)) for key in removed) == gone
        assert told["operation"] == ("replace" if any(gone) else "append")
    return [snapshot.summary["operation"] for snapshot in known.values()]


def test_appends_and_the_merges_of_their_manifests(warehouse: Warehouse) -> None:
    table = made()
    for number in range(12):
        append(table, number, 1 + number % 3)
    assert check(table) == ["append"] * 12
    (snapshot,) = table.snapshots()[-1:]
    manifests = listed(table, snapshot)
    assert len(manifests) < 8
    assert any(manifest["existing_files_count"] for manifest, _ in manifests)
    assert all(manifest["partitions"] == [] for manifest, _ in manifests)
    assert table.count() == sum(1 + number % 3 for number in range(12))


def test_a_first_append_says_everything() -> None:
    table = made()
    append(table, 0, 5)
    assert check(table) == ["append"]
    (snapshot,) = table.snapshots()
    ((manifest, entries),) = listed(table, snapshot)
    counts = [manifest[f"{status}_{what}_count"] for what in ("files", "rows") for status in STATUSES]
    assert counts == [0, 1, 0, 0, 5, 0]
    assert (manifest["sequence_number"], manifest["min_sequence_number"]) == (1, 1)
    assert manifest["added_snapshot_id"] == snapshot.snapshot_id == entries[0]["snapshot_id"]
    assert (manifest["partition_spec_id"], manifest["content"], manifest["partitions"]) == (0, 0, [])
    assert set(snapshot.summary) == {
        "operation",
        "added-data-files",
        "added-records",
        "added-files-size",
        "total-data-files",
        "total-records",
        "total-files-size",
        "total-delete-files",
        "total-position-deletes",
        "total-equality-deletes",
    }


def test_compaction_says_what_came_and_went() -> None:
    table = made()
    for number in range(7):
        append(table, number, 2)
    done = table.compact()
    append(table, 50, 3)
    operations = check(table)
    assert operations == ["append"] * 7 + ["replace", "append"]
    told = next(one.summary for one in table.snapshots() if one.summary["operation"] == "replace")
    assert (
        (told["added-data-files"], told["deleted-data-files"]) == ("1", "7") == (str(done.new_files), str(done.files))
    )
    assert told["added-records"] == told["deleted-records"] == told["total-records"] == "14"
    assert int(told["removed-files-size"]) == done.bytes


def test_deferred_appends_count_as_they_are_committed() -> None:
    table = made()
    append(table, 0, 2)
    for number in range(5):
        append(table, 10 * number, 3, commit="deferred")
    table.flush()
    check(table)
    append(table, 100, 1, commit="deferred")
    append(table, 200, 1)
    operations = check(table)
    assert set(operations) == {"append"}
    assert int(table.snapshots()[-1].summary["total-records"]) == 2 + 15 + 1 + 1 == table.count()


def test_expiry_and_maintenance_leave_the_totals_true() -> None:
    table = made()
    for number in range(9):
        append(table, number)
    table.expire_snapshots(older_than=datetime.now(UTC), retain_last=2)
    assert len(table.refresh().snapshots()) == 2
    check(table)
    table.maintain()
    append(table, 100, 4)
    assert check(table)[-2:] == ["replace", "append"]
    assert int(table.snapshots()[-1].summary["total-records"]) == 13


SPEC = PartitionSpec.from_dict(
    {
        "spec-id": 1,
        "fields": [
            {"source-id": 1, "field-id": 1000, "name": "n", "transform": "identity"},
            {"source-id": 2, "field-id": 1001, "name": "start", "transform": "truncate[1]"},
            {"source-id": 3, "field-id": 1002, "name": "x", "transform": "identity"},
        ],
    }
)


def bounds_of(values: Sequence[Any], form: str | None) -> dict[str, Any]:
    """A summary as the spec asks for: of text if there is no form to pack by."""
    present = [one for one in values if one is not None and one == one]
    pack = (lambda one: struct.pack(form, one)) if form else (lambda one: one.encode())
    return {
        "contains_null": None in values,
        "contains_nan": any(one != one for one in values if one is not None) if form != "<q" and form else False,
        "lower_bound": pack(min(present)) if present else None,
        "upper_bound": pack(max(present)) if present else None,
    }


def partitioned(table: Table, rows: Sequence[tuple[int | None, str | None, float | None]]) -> None:
    """Another engine's commit: a file for each row, by partition, with summaries in the manifest list."""
    files = []
    for number, (n, text, x) in enumerate(rows):
        one = pa.table({"n": [n], "text": [text], "x": [x]}, schema=SCHEMA.to_arrow())
        encoded = encode_parquet(one, SCHEMA)
        key = f"data/other_{table.version}_{number}.parquet"
        table._storage.put_data(key, encoded.data)
        told = encoded.data_file(f"{table.uri}/{key}")
        partition = {"n": n, "start": text and text[:1], "x": x}
        files.append(msgspec.structs.replace(told, partition=partition, spec_id=1))

    def build(parent: VersionFile) -> dict[str, Any]:
        old = parent.table
        sequence, snapshot_id = old.last_sequence_number + 1, 1000 + old.last_sequence_number
        entries = [ManifestEntry(ADDED, snapshot_id, None, None, file) for file in files]
        columns = list(zip(*[(n, text and text[:1], x) for n, text, x in rows], strict=True))
        partitions = tuple(bounds_of(values, form) for values, form in zip(columns, ("<q", None, "<d"), strict=True))
        manifest = manifest_of(f"{sequence:032x}", snapshot_id, entries, SCHEMA, SPEC, partitions)
        table._storage.put(manifest.key, manifest.data)
        live = run(manifests_of(table.uri, old.location, old.current_snapshot), table._storage)
        snapshot = Snapshot(
            snapshot_id=snapshot_id,
            parent_snapshot_id=old.current_snapshot_id,
            sequence_number=sequence,
            timestamp_ms=old.last_updated_ms + 1,
            manifest_list=f"{old.location}/metadata/other-list-{sequence}.avro",
            summary=append_summary(old.current_snapshot, files),
            schema_id=0,
        )
        table._storage.put(
            f"metadata/other-list-{sequence}.avro",
            encode_manifest_list(
                (*live, manifest.listed(old.location, sequence)),
                snapshot_id=snapshot_id,
                parent_snapshot_id=snapshot.parent_snapshot_id,
                sequence_number=sequence,
            ),
        )
        following = old.with_snapshot(snapshot, now_ms=snapshot.timestamp_ms, previous_metadata=None)
        raw: dict[str, Any] = msgspec.json.decode(following.to_json())
        specs = [one for one in raw["partition-specs"] if one["spec-id"] != 1]
        return {**raw, "partition-specs": [*specs, SPEC.to_dict()], "default-spec-id": 1, "last-partition-id": 1002}

    assert run(commit_external(table._target, build, 10.0), table._storage) is not None
    table.refresh()


NAN = float("nan")
PARTITIONED = [
    [(5, "alpha", 1.0), (300, "beta", -2.5)],
    [(-7, "gamma", None), (None, "ähre", 0.0)],
    [(2**40, None, NAN), (12, "zeta", 8.0)],
    [(1, "omega", 3.0)],
]


def test_summaries_of_partitions_stay_true_through_commits_of_others_and_merges() -> None:
    table = made()
    append(table, 1000, 2)
    for rows in PARTITIONED:
        partitioned(table, rows)
        check(table)
    for number in range(8):
        append(table, 2000 + number)
        check(table)
    manifests = listed(table, table.snapshots()[-1])
    merged = [(manifest, entries) for manifest, entries in manifests if manifest["partition_spec_id"] == 1]
    assert len(merged) < len(PARTITIONED), "nothing was merged"
    for manifest, entries in merged:
        values = [entry["data_file"]["partition"] for entry in entries]
        expected = [
            bounds_of([value[name] for value in values], form)
            for name, form in (("n", "<q"), ("start", None), ("x", "<d"))
        ]
        assert manifest["partitions"] == expected
    assert Counter(manifest["partition_spec_id"] for manifest, _ in manifests)[0] > 0
    assert all(manifest["partitions"] == [] for manifest, _ in manifests if manifest["partition_spec_id"] == 0)


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        (col("n") == 300, [300]),
        (col("n") < 0, [-7]),
        (col("n") > 2**39, [2**40]),
        (col("n").is_null(), [None]),
        (col("text") == "ähre", [None]),
        (col("text").starts_with("z"), [12]),
        (col("text").is_null(), [2**40]),
        (col("x").is_nan(), [2**40]),
        (col("x") == 0.0, [None]),
        (col("x") < -2, [300]),
    ],
)
def test_what_merged_summaries_rule_out_has_no_rows(condition: Any, numbers: list[int | None]) -> None:
    table = made()
    for rows in PARTITIONED:
        partitioned(table, rows)
    for number in range(6):
        append(table, 2000 + number)
    table.refresh()
    scan = table.scan(where=condition & ((col("n") < 2000) | (col("n") > 3000) | col("n").is_null()))
    assert [row["n"] for row in scan.to_records()] == numbers


def test_a_manifest_without_a_match_is_not_read() -> None:
    table = made({"commit.manifest-merge.enabled": "false"})
    for rows in PARTITIONED:
        partitioned(table, rows)
    metadata = table._seen.body.table
    planner = Planner(table._storage, metadata, "t")
    for condition, kept in (
        (col("n") == 2**40, 1),
        (col("n") == 299, 2),
        (col("n") == 2**41, 0),
        (col("x").is_null(), 1),
    ):
        bound = table.scan(where=condition).condition.bound
        chosen = list(planner._chosen(planner.manifests(metadata.current_snapshot), bound))
        assert len(chosen) == kept, condition
