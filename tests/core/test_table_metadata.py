"""Table metadata: what is kept, how time and the logs go on, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from datashard_core import CorruptTableError, Schema, UnsupportedTableError
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.snapshot import Snapshot, append_summary
from datashard_core.format.metadata.table_metadata import TableMetadata, is_marker, new_table_metadata, parse_metadata

SCHEMA = Schema(fields=[{"id": 1, "name": "a", "type": "long"}, {"id": 4, "name": "b", "type": "string"}])
WHERE = "s3://bucket/t/metadata/v1.metadata.json"


def _new(**properties: str) -> TableMetadata:
    return new_table_metadata(
        table_uuid="9c12d441-03fe-4693-9a96-a0705ddf69c1",
        location="s3://bucket/t/",
        schema=SCHEMA,
        properties=properties,
        now_ms=1000,
    )


def _snapshot(number: int, at: int) -> Snapshot:
    parent = number - 1 if number > 1 else None
    return Snapshot(
        number, parent, number, at, f"s3://bucket/t/metadata/snap-{number}.avro", {"operation": "append"}, 0
    )


def _raw(metadata: TableMetadata, **changes: Any) -> bytes:
    raw: dict[str, Any] = json.loads(metadata.to_json())
    raw.update(changes)
    return json.dumps(raw).encode()


def _without(metadata: TableMetadata, key: str) -> bytes:
    raw: dict[str, Any] = json.loads(metadata.to_json())
    del raw[key]
    return json.dumps(raw).encode()


def _history() -> TableMetadata:
    metadata = _new()
    for number, at in ((1, 2000), (2, 3000), (3, 4000)):
        metadata = metadata.with_snapshot(_snapshot(number, at), now_ms=at, previous_metadata=f"v{number}.json")
    return metadata


def test_a_new_table_reads_back() -> None:
    metadata = parse_metadata(_new(owner="us").to_json(), WHERE)
    assert metadata.location == "s3://bucket/t"
    assert (metadata.last_sequence_number, metadata.last_updated_ms, metadata.last_column_id) == (0, 1000, 4)
    assert metadata.current_snapshot_id is None
    assert metadata.current_snapshot is None
    assert metadata.snapshots == ()
    assert metadata.snapshot_as_of(10**13) is None
    assert metadata.schema == SCHEMA
    assert metadata.spec.fields == ()
    assert metadata.properties == {"owner": "us"}


def test_what_is_not_known_is_kept_in_every_version() -> None:
    extra = {
        "statistics": [{"snapshot-id": 7, "x": [1.5, None, True]}],
        "encryption-keys": {"k": "ü"},
        "next-row-id": 5,
    }
    refs = {"audit": {"snapshot-id": 1, "type": "tag", "max-ref-age-ms": 5}, "main": {"min-snapshots-to-keep": 3}}
    raw = _raw(_new(), **extra, refs=refs)
    metadata = parse_metadata(raw, WHERE).with_snapshot(_snapshot(1, 2000), now_ms=2000, previous_metadata=WHERE)
    metadata = metadata.with_properties({"p": "1"}).with_update(now_ms=3000, previous_metadata=None)
    found = json.loads(metadata.to_json())
    assert {key: found[key] for key in extra} == extra
    assert found["refs"]["audit"] == refs["audit"]
    assert found["refs"]["main"] == {"min-snapshots-to-keep": 3, "snapshot-id": 1, "type": "branch"}
    assert found["properties"] == {"p": "1"}


def test_unknown_keys_of_older_snapshots_are_kept() -> None:
    raw = json.loads(_history().to_json())
    raw["snapshots"][0]["first-row-id"] = 17
    metadata = parse_metadata(json.dumps(raw).encode(), WHERE)
    metadata = metadata.with_snapshot(_snapshot(4, 5000), now_ms=5000, previous_metadata=None)
    assert json.loads(metadata.to_json())["snapshots"][0]["first-row-id"] == 17


def test_an_update_leaves_the_version_before_as_it_was() -> None:
    before = _history()
    data = before.to_json()
    before.with_snapshot(_snapshot(4, 5000), now_ms=5000, previous_metadata="v4.json")
    before.with_properties({"x": "y"})
    before.with_update(now_ms=9000, previous_metadata="v4.json")
    assert before.to_json() == data


@pytest.mark.parametrize(("at", "now", "expected"), [(2000, 2000, 2000), (500, 400, 1001), (1000, 1000, 1001)])
def test_time_never_runs_backwards(at: int, now: int, expected: int) -> None:
    metadata = _new().with_snapshot(_snapshot(1, at), now_ms=now, previous_metadata=WHERE)
    assert metadata.last_updated_ms == expected
    assert metadata.snapshots[0].timestamp_ms == expected
    assert metadata.snapshot_log == [{"snapshot-id": 1, "timestamp-ms": expected}]
    again = metadata.with_snapshot(_snapshot(2, at), now_ms=now, previous_metadata=WHERE)
    assert [entry["timestamp-ms"] for entry in again.snapshot_log] == [expected, expected + 1]


def test_the_logs_and_the_branch_go_on() -> None:
    metadata = _history()
    assert metadata.current_snapshot_id == 3
    assert metadata.last_sequence_number == 3
    assert [entry["snapshot-id"] for entry in metadata.snapshot_log] == [1, 2, 3]
    assert metadata.metadata_log == [
        {"metadata-file": "v1.json", "timestamp-ms": 1000},
        {"metadata-file": "v2.json", "timestamp-ms": 2000},
        {"metadata-file": "v3.json", "timestamp-ms": 3000},
    ]
    assert json.loads(metadata.to_json())["refs"] == {"main": {"snapshot-id": 3, "type": "branch"}}
    assert metadata.snapshot_by_id(2) == _snapshot(2, 3000)
    assert metadata.snapshot_by_id(9) is None


@pytest.mark.parametrize(
    ("at", "expected"), [(1999, None), (2000, 1), (2999, 1), (3000, 2), (3999, 2), (4000, 3), (10**15, 3)]
)
def test_snapshot_as_of_is_the_one_that_was_current(at: int, expected: int | None) -> None:
    found = _history().snapshot_as_of(at)
    assert (found.snapshot_id if found else None) == expected


def test_snapshot_as_of_follows_a_rollback() -> None:
    raw = json.loads(_history().to_json())
    raw["snapshot-log"].append({"snapshot-id": 1, "timestamp-ms": 5000})
    raw["current-snapshot-id"] = 1
    metadata = parse_metadata(json.dumps(raw).encode(), WHERE)
    found = metadata.snapshot_as_of(6000)
    assert found is not None
    assert found.snapshot_id == 1
    assert metadata.current_snapshot == found


def test_a_snapshot_that_is_not_kept_is_not_found() -> None:
    raw = json.loads(_history().to_json())
    raw["snapshots"] = raw["snapshots"][1:]
    assert parse_metadata(json.dumps(raw).encode(), WHERE).snapshot_as_of(2500) is None


@pytest.mark.parametrize("current", [-1, None])
def test_no_snapshot_is_minus_one_or_null_or_no_key(current: int | None) -> None:
    assert parse_metadata(_raw(_new(), **{"current-snapshot-id": current}), WHERE).current_snapshot is None
    assert parse_metadata(_without(_new(), "current-snapshot-id"), WHERE).current_snapshot is None


@pytest.mark.parametrize("key", ["snapshots", "snapshot-log", "metadata-log", "refs", "properties"])
def test_what_the_format_lets_be_absent_may_be(key: str) -> None:
    for data in (_without(_new(), key), _raw(_new(), **{key: None})):
        metadata = parse_metadata(data, WHERE)
        metadata = metadata.with_snapshot(_snapshot(1, 2000), now_ms=2000, previous_metadata=WHERE)
        assert metadata.current_snapshot_id == 1
        assert len(metadata.snapshots) == len(metadata.snapshot_log) == len(metadata.metadata_log) == 1


@pytest.mark.parametrize(
    "key",
    [
        "table-uuid",
        "location",
        "last-sequence-number",
        "last-updated-ms",
        "last-column-id",
        "schemas",
        "current-schema-id",
        "partition-specs",
        "default-spec-id",
    ],
)
def test_what_the_format_demands_is_not_made_up(key: str) -> None:
    for data in (_without(_new(), key), _raw(_new(), **{key: None}), _raw(_new(), **{key: [[]]})):
        with pytest.raises(CorruptTableError, match="is not table metadata") as caught:
            parse_metadata(data, WHERE)
        assert WHERE in str(caught.value)


@pytest.mark.parametrize("version", [1, 3, 4, "2", None])
def test_other_format_versions_are_refused(version: Any) -> None:
    with pytest.raises(UnsupportedTableError, match=f"format version {version!r}"):
        parse_metadata(_raw(_new(), **{"format-version": version}), WHERE)


def test_no_format_version_is_no_table() -> None:
    data = _without(_new(), "format-version")
    assert is_marker(json.loads(data))
    with pytest.raises(UnsupportedTableError, match="holds no table"):
        parse_metadata(data, WHERE)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b'{"format-version": 2', b"[" * 100_000, b"[]", b"2", b"null"]
)
def test_what_is_no_json_object_is_damage(data: bytes) -> None:
    with pytest.raises(CorruptTableError, match="restore it"):
        parse_metadata(data, WHERE)


@pytest.mark.parametrize("share", range(1, 20))
def test_metadata_that_was_cut_is_damage(share: int) -> None:
    data = _history().to_json()
    with pytest.raises(CorruptTableError, match="restore it"):
        parse_metadata(data[: len(data) * share // 20], WHERE)


def test_what_points_nowhere_is_damage() -> None:
    with pytest.raises(CorruptTableError, match="current schema, 5"):
        _ = parse_metadata(_raw(_new(), **{"current-schema-id": 5}), WHERE).schema
    with pytest.raises(CorruptTableError, match="default partition spec, 5"):
        _ = parse_metadata(_raw(_new(), **{"default-spec-id": 5}), WHERE).spec
    with pytest.raises(CorruptTableError, match="current snapshot, 5"):
        _ = parse_metadata(_raw(_new(), **{"current-snapshot-id": 5}), WHERE).current_snapshot


def test_large_ids_keep_every_digit() -> None:
    number = 2**63 - 1
    metadata = _new().with_snapshot(_snapshot(number, 2000), now_ms=2000, previous_metadata=None)
    assert parse_metadata(metadata.to_json(), WHERE).current_snapshot_id == number


def test_a_snapshot_with_a_list_in_it_is_of_the_first_version() -> None:
    raw = json.loads(_history().to_json())
    raw["snapshots"][2].pop("manifest-list")
    raw["snapshots"][2]["manifests"] = ["a.avro"]
    with pytest.raises(UnsupportedTableError, match="version 1"):
        _ = parse_metadata(json.dumps(raw).encode(), WHERE).current_snapshot


def test_totals_go_on_and_are_not_guessed() -> None:
    files = [DataFile("a", 10, 100), DataFile("b", 5, 50)]
    first = append_summary(None, files)
    assert (first["added-data-files"], first["added-records"], first["added-files-size"]) == ("2", "15", "150")
    assert (first["total-records"], first["total-data-files"], first["total-delete-files"]) == ("15", "2", "0")
    parent = Snapshot(1, None, 1, 1, "l", {"operation": "append", "total-records": "100"})
    second = append_summary(parent, files)
    assert second["total-records"] == "115"
    assert "total-data-files" not in second
    assert append_summary(parent, files, parent_totals={"total-data-files": 7})["total-data-files"] == "9"


BY_A = {"spec-id": 3, "fields": [{"source-id": 1, "field-id": 1000, "name": "a", "transform": "identity"}]}
PLAIN = {"spec-id": 0, "fields": []}


@pytest.mark.parametrize(
    ("specs", "default", "expected"),
    [([PLAIN], 0, 0), ([PLAIN, BY_A], 3, 0), ([PLAIN, BY_A], 0, 0), ([BY_A], 3, 4)],
)
def test_appends_are_written_under_a_spec_without_partitions(
    specs: list[dict[str, Any]], default: int, expected: int
) -> None:
    metadata = parse_metadata(_raw(_new(), **{"partition-specs": specs, "default-spec-id": default}), WHERE)
    assert (metadata.append_spec.spec_id, metadata.append_spec.fields) == (expected, ())
    after = metadata.with_append_spec()
    assert after.spec_by_id(expected) == metadata.append_spec
    assert after.with_append_spec() is after
    assert after.spec.spec_id == default, "what other engines write goes on as it was"
