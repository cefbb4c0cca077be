"""Table metadata and snapshots: what is demanded, what is kept, and how a version follows another."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.data_file import DataFile
from datashard_core.format.partition import PartitionField, PartitionSpec
from datashard_core.format.schema import Schema
from datashard_core.format.snapshot import TOTALS, Snapshot, append_summary
from datashard_core.format.table_metadata import (
    TableMetadata,
    is_marker,
    metadata_from,
    new_table_metadata,
    parse_metadata,
    parse_raw,
)

SCHEMA = Schema(
    2,
    [
        {"id": 1, "name": "id", "type": "long", "required": True},
        {
            "id": 5,
            "name": "tags",
            "type": {"type": "list", "element-id": 9, "element": "string", "element-required": False},
        },
    ],
)
ROOT = "s3://bucket/t"


def new(now_ms: int = 1_000, **properties: str) -> TableMetadata:
    return new_table_metadata(table_uuid="u-1", location=ROOT, schema=SCHEMA, properties=properties, now_ms=now_ms)


def raw(table: TableMetadata) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(table.to_json())
    return decoded


def snapshot(number: int, timestamp_ms: int = 0, parent: int | None = None) -> Snapshot:
    return Snapshot(number, parent, number, timestamp_ms, f"{ROOT}/metadata/l{number}.avro", {"operation": "append"}, 2)


def reparsed(changed: dict[str, Any]) -> TableMetadata:
    return parse_metadata(json.dumps(changed).encode(), f"{ROOT}/metadata/v1.metadata.json")


def test_a_new_table_has_every_key_that_a_reader_asks_for() -> None:
    assert raw(new(a="b")) == {
        "format-version": 2,
        "table-uuid": "u-1",
        "location": ROOT,
        "last-sequence-number": 0,
        "last-updated-ms": 1_000,
        "last-column-id": 9,
        "current-schema-id": 2,
        "schemas": [SCHEMA.to_dict()],
        "default-spec-id": 0,
        "partition-specs": [{"spec-id": 0, "fields": []}],
        "last-partition-id": 999,
        "default-sort-order-id": 0,
        "sort-orders": [{"order-id": 0, "fields": []}],
        "properties": {"a": "b"},
        "current-snapshot-id": -1,
        "refs": {},
        "snapshots": [],
        "snapshot-log": [],
        "metadata-log": [],
    }
    assert SCHEMA.to_dict()["type"] == "struct"
    assert SCHEMA.to_dict()["schema-id"] == 2


def test_what_was_written_is_read() -> None:
    table = reparsed(raw(new(a="b").with_snapshot(snapshot(7, 2_000), now_ms=2_000, previous_metadata="p")))
    assert (table.table_uuid, table.location, table.last_sequence_number) == ("u-1", ROOT, 7)
    assert (table.last_updated_ms, table.last_column_id, table.properties) == (2_000, 9, {"a": "b"})
    assert table.schema == SCHEMA
    assert table.schemas == (SCHEMA,)
    assert table.spec == PartitionSpec()
    assert table.current_snapshot == snapshot(7, 2_000)
    assert table.snapshots == (snapshot(7, 2_000),)
    assert table.snapshot_log == [{"snapshot-id": 7, "timestamp-ms": 2_000}]
    assert table.metadata_log == [{"metadata-file": "p", "timestamp-ms": 1_000}]


@pytest.mark.parametrize("change", [{"current-snapshot-id": -1}, {"current-snapshot-id": None}, {}])
def test_all_ways_to_say_that_there_is_no_snapshot(change: dict[str, Any]) -> None:
    changed = raw(new())
    del changed["current-snapshot-id"]
    table = reparsed(changed | change)
    assert table.current_snapshot_id is None
    assert table.current_snapshot is None
    assert table.snapshots == ()


def test_a_slash_after_the_location_is_left_out() -> None:
    assert reparsed(raw(new()) | {"location": f"{ROOT}/"}).location == ROOT


def test_keys_of_other_engines_survive() -> None:
    theirs = {
        "statistics": [{"snapshot-id": 1, "statistics-path": "x.puffin"}],
        "something-new": {"a": [1, None]},
        "refs": {
            "main": {"snapshot-id": 3, "type": "branch", "min-snapshots-to-keep": 5},
            "audit": {"snapshot-id": 3, "type": "tag"},
        },
        "snapshots": [snapshot(3).to_dict() | {"first-row-id": 8}],
        "current-snapshot-id": 3,
    }
    before = reparsed(raw(new()) | theirs)
    after = raw(
        before.with_snapshot(snapshot(4, 5_000, 3), now_ms=5_000, previous_metadata=None).with_properties({"p": "q"})
    )
    assert after["statistics"] == theirs["statistics"]
    assert after["something-new"] == {"a": [1, None]}
    assert after["snapshots"][0]["first-row-id"] == 8
    assert after["refs"] == {
        "main": {"snapshot-id": 4, "type": "branch", "min-snapshots-to-keep": 5},
        "audit": {"snapshot-id": 3, "type": "tag"},
    }
    assert after["properties"] == {"p": "q"}


def test_an_update_leaves_the_version_before_as_it_was() -> None:
    table = new().with_snapshot(snapshot(1, 2_000), now_ms=2_000, previous_metadata="v0")
    before = table.to_json()
    table.with_snapshot(snapshot(2, 3_000, 1), now_ms=3_000, previous_metadata="v1").with_properties({"a": "b"})
    table.with_update(now_ms=9_000, previous_metadata="v1")
    assert table.to_json() == before


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=12))
def test_history_never_runs_backwards_whatever_the_clocks_say(offsets: list[int]) -> None:
    table = new(now_ms=10**7)
    for number, offset in enumerate(offsets, 1):
        now = 10**7 + offset
        table = table.with_snapshot(
            snapshot(number, now, number - 1 or None), now_ms=now, previous_metadata=f"v{number - 1}"
        )
    changed = raw(table)
    times = [one["timestamp-ms"] for one in changed["snapshots"]]
    assert times == sorted(set(times))
    assert times[0] > 10**7
    assert changed["last-updated-ms"] == times[-1]
    assert [(one["snapshot-id"], one["timestamp-ms"]) for one in changed["snapshot-log"]] == [
        (number, time) for number, time in enumerate(times, 1)
    ]
    assert [one["metadata-file"] for one in changed["metadata-log"]] == [f"v{n}" for n in range(len(offsets))]
    assert [one["timestamp-ms"] for one in changed["metadata-log"]] == [10**7, *times[:-1]]
    assert changed["last-sequence-number"] == len(offsets)
    assert changed["current-snapshot-id"] == changed["refs"]["main"]["snapshot-id"] == len(offsets)


def test_an_update_without_a_snapshot_moves_time_and_log_alone() -> None:
    table = new(a="b").with_snapshot(snapshot(1, 2_000), now_ms=2_000, previous_metadata=None)
    before, after = raw(table), raw(table.with_update(now_ms=1, previous_metadata="v1"))
    assert after["last-updated-ms"] == 2_001
    assert after["metadata-log"] == [{"metadata-file": "v1", "timestamp-ms": 2_000}]
    same = before.keys() - {"last-updated-ms", "metadata-log"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


def test_time_travel_follows_the_log() -> None:
    table = new()
    for number in (1, 2, 3):
        table = table.with_snapshot(snapshot(number, number * 10_000), now_ms=number * 10_000, previous_metadata=None)
    assert table.snapshot_as_of(9_999) is None
    found = [table.snapshot_as_of(time) for time in (10_000, 19_999, 20_000, 10**9)]
    assert [one.snapshot_id for one in found if one is not None] == [1, 1, 2, 3]
    assert table.snapshot_by_id(2) == snapshot(2, 20_000)
    assert table.snapshot_by_id(4) is None


def test_the_default_spec_and_the_current_schema_are_looked_up() -> None:
    spec = PartitionSpec(4, (PartitionField(1, 1000, "id_bucket", "bucket[16]"),))
    changed = raw(new()) | {"default-spec-id": 4, "partition-specs": [PartitionSpec().to_dict(), spec.to_dict()]}
    assert reparsed(changed).spec == spec
    with pytest.raises(CorruptTableError, match="the default partition spec, 7"):
        _ = reparsed(changed | {"default-spec-id": 7}).spec
    with pytest.raises(CorruptTableError, match="the current schema, 7"):
        _ = reparsed(changed | {"current-schema-id": 7}).schema
    with pytest.raises(CorruptTableError, match="the current snapshot, 7"):
        _ = reparsed(changed | {"current-snapshot-id": 7}).current_snapshot


REQUIRED = (
    "table-uuid",
    "location",
    "last-sequence-number",
    "last-updated-ms",
    "last-column-id",
    "schemas",
    "current-schema-id",
    "partition-specs",
    "default-spec-id",
)


@pytest.mark.parametrize("key", REQUIRED)
@pytest.mark.parametrize("value", ["missing", None, {}, 1.5])
def test_what_the_format_demands_is_not_made_up(key: str, value: Any) -> None:
    changed = raw(new())
    if value == "missing":
        del changed[key]
    else:
        changed[key] = value
    with pytest.raises(CorruptTableError, match=rf"v1\.metadata\.json .*{key}.*restore it"):
        reparsed(changed)


@pytest.mark.parametrize("version", [1, 3, 4, "2", None])
def test_other_format_versions_are_refused(version: Any) -> None:
    with pytest.raises(UnsupportedTableError, match="format version") as error:
        reparsed(raw(new()) | {"format-version": version})
    assert repr(version) in str(error.value)


def test_markers_are_told_from_tables() -> None:
    marker = {"datashard.dropped": 1, "table-uuid": "u-1"}
    assert is_marker(parse_raw(json.dumps(marker).encode(), "v3"))
    assert not is_marker(raw(new()))
    assert metadata_from(raw(new()), "v3").table_uuid == "u-1"
    with pytest.raises(UnsupportedTableError, match="v3 holds no table"):
        parse_metadata(json.dumps(marker).encode(), "v3")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"a": "\xff"}', b"[1]", b"null", b'"x"', b"[" * 100_000])
def test_what_is_no_json_object_is_damage(data: bytes) -> None:
    with pytest.raises(CorruptTableError, match=r"v1\.metadata\.json"):
        parse_metadata(data, "v1.metadata.json")


def test_a_cut_file_is_damage_wherever_it_was_cut() -> None:
    data = new(a="b").with_snapshot(snapshot(1), now_ms=5, previous_metadata="v0").to_json()
    for end in range(len(data)):
        with pytest.raises(CorruptTableError):
            parse_metadata(data[:end], "v1")


def test_snapshots_come_back() -> None:
    one = Snapshot(2**62, 5, 3, 1_000, "s3://b/l.avro", {"operation": "append", "total-records": "3"}, 0)
    assert Snapshot.from_dict(one.to_dict()) == one
    first = replace(one, parent_snapshot_id=None, schema_id=None)
    assert Snapshot.from_dict(first.to_dict()) == first
    assert not {"parent-snapshot-id", "schema-id"} & first.to_dict().keys()


def test_a_snapshot_without_a_summary_is_read() -> None:
    given_ = {"snapshot-id": 1, "timestamp-ms": 2, "manifest-list": "l"}
    assert Snapshot.from_dict(given_) == Snapshot(1, None, 0, 2, "l", {}, None)
    assert Snapshot.from_dict(given_ | {"summary": None}).summary == {}


@pytest.mark.parametrize("key", ["snapshot-id", "timestamp-ms", "manifest-list"])
@pytest.mark.parametrize("value", ["missing", None, [], True])
def test_a_damaged_snapshot_is_not_guessed_at(key: str, value: Any) -> None:
    changed: dict[str, Any] = snapshot(1).to_dict()
    if value == "missing":
        del changed[key]
    else:
        changed[key] = value
    with pytest.raises(CorruptTableError, match="not a snapshot"):
        Snapshot.from_dict(changed)


def test_manifests_named_in_the_metadata_belong_to_version_1() -> None:
    with pytest.raises(UnsupportedTableError, match="format version 1"):
        Snapshot.from_dict({"snapshot-id": 1, "timestamp-ms": 2, "manifests": ["m.avro"]})


FILES = [DataFile("a", 10, 1_000), DataFile("b", 5, 500)]


def test_the_summary_of_the_first_append_has_every_total() -> None:
    assert append_summary(None, FILES) == {
        "operation": "append",
        "added-data-files": "2",
        "added-records": "15",
        "added-files-size": "1500",
        "total-records": "15",
        "total-data-files": "2",
        "total-files-size": "1500",
        "total-delete-files": "0",
        "total-position-deletes": "0",
        "total-equality-deletes": "0",
    }


def test_totals_are_carried_on() -> None:
    parent = replace(snapshot(1), summary=append_summary(None, FILES) | {"total-delete-files": "3"})
    summary = append_summary(parent, FILES[:1])
    assert [summary[key] for key in TOTALS] == ["25", "3", "2500", "3", "0", "0"]
    assert summary["added-records"] == "10"


def test_a_total_that_nothing_tells_is_left_out_and_not_guessed() -> None:
    told = append_summary(None, FILES)
    del told["total-files-size"]
    parent = replace(snapshot(1), summary=told | {"total-records": "many", "total-data-files": "-1"})
    assert "total-files-size" not in append_summary(parent, FILES)
    assert "total-records" not in append_summary(parent, FILES)
    known = append_summary(parent, FILES, parent_totals={"total-records": 100, "total-data-files": 7})
    assert (known["total-records"], known["total-data-files"]) == ("115", "9")
    assert "total-files-size" not in known


def test_partition_specs_come_back() -> None:
    spec = PartitionSpec(1, (PartitionField(2, 1000, "day", "day"), PartitionField(3, 1001, "b", "bucket[4]")))
    assert PartitionSpec.from_dict(spec.to_dict()) == spec
    assert spec.to_dict()["fields"][0] == {"source-id": 2, "field-id": 1000, "name": "day", "transform": "day"}
    for broken in ({}, {"spec-id": 0}, {"spec-id": 0, "fields": [{"name": "x"}]}, {"spec-id": 0, "fields": None}):
        with pytest.raises(CorruptTableError, match="not a partition spec"):
            PartitionSpec.from_dict(broken)
