"""What is decoded is bounded, and what cannot be decoded is an error of the library that names the file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.commit.append_ids import segment
from datashard_core.commit.append_ids.lookback import RecordedOutcome
from datashard_core.commit.core import recorded_ids
from datashard_core.commit.core.properties import MIN_SNAPSHOTS, check_settings, settings_of
from datashard_core.commit.core.version_file import hinted_version, parse_version
from datashard_core.errors import ConfigurationError, CorruptTableError, UnsupportedTableError
from datashard_core.format.json_text import MAX_BYTES, decode_object, is_too_deep, whole_number
from datashard_core.format.manifests.partition_summary import united
from datashard_core.format.metadata.transforms import Transform, parse_transform
from datashard_core.format.types.types import PrimitiveType
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import bombs  # noqa: E402 - beside this file, and a program as well
import decoded  # noqa: E402

MOST_MEGABYTES = 800


@pytest.mark.parametrize("target", decoded.TARGETS)
def test_damage_is_an_error_of_the_library(target: str) -> None:
    """A slice of what the system tier tries for ten minutes; always the same one."""
    decoded.rounds(target, 5 if target == "table" else 60, 20, lambda name, data: None)


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_what_asks_for_too_much_is_refused(name: str) -> None:
    """In a process of its own: before, these ended it, or took all memory."""
    done = subprocess.run(
        [sys.executable, str(HERE / "bombs.py"), name], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    assert int(done.stdout.split()[-1]) < MOST_MEGABYTES


WRONG: list[tuple[str, Any]] = [
    ("last-sequence-number", -1),
    ("last-sequence-number", 2**63),
    ("last-sequence-number", "1"),
    ("last-updated-ms", 10**18),
    ("last-column-id", 2**40),
    ("location", ""),
    ("location", 7),
    ("schemas", [1]),
    ("schemas", [{"schema-id": 0, "fields": 7}]),
    ("schemas", [{"schema-id": 0, "fields": [{"id": "1", "name": "n", "type": "long"}]}]),
    ("schemas", [{"schema-id": 0, "fields": [{"id": 1, "name": "n", "type": {"type": "struct", "fields": 7}}]}]),
    ("schemas", [{"schema-id": 0, "fields": [{"id": 1, "name": "n", "type": "decimal(" + "9" * 5000 + ", 2)"}]}]),
    ("schemas", [{"schema-id": 0, "identifier-field-ids": 7, "fields": [{"id": 1, "name": "n", "type": "long"}]}]),
    ("schemas", [{"schema-id": 0, "identifier-field-ids": [[]], "fields": [{"id": 1, "name": "n", "type": "long"}]}]),
    ("partition-specs", [{"spec-id": 0}]),
    ("partition-specs", [{"spec-id": "0", "fields": []}]),
    ("partition-specs", [{"spec-id": 0, "fields": [{"source-id": [], "field-id": 1, "name": "", "transform": ""}]}]),
    ("current-snapshot-id", 10**30),
    ("snapshots", [{"snapshot-id": 1, "timestamp-ms": 10**30, "manifest-list": ""}]),
    ("snapshots", [7]),
    ("snapshot-log", [{"snapshot-id": 1, "timestamp-ms": -(10**30)}]),
    ("metadata-log", [7]),
    ("statistics", [7]),
    ("properties", {"a": 1}),
    ("properties", {"datashard.commit": "[" * 100_000}),
    ("refs", {"main": None}),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_in_metadata_is_an_error_that_names_the_file(key: str, value: Any) -> None:
    raw = {**decoded.metadata(), key: value}

    def use() -> None:
        table = parse_version(json.dumps(raw).encode(), 5, decoded.WHERE).table
        _ = (table.schema, table.spec, table.snapshots, table.current_snapshot)

    with pytest.raises(CorruptTableError) as raised:
        use()
    assert decoded.WHERE in str(raised.value) or decoded.UUID in str(raised.value)


def test_metadata_of_a_table_that_was_never_maintained_is_read() -> None:
    raw = decoded.metadata()
    summary = {f"key-{number}": "text of an engine, " * 4 for number in range(16)}
    raw["snapshots"] = [
        {
            "snapshot-id": number,
            "sequence-number": number,
            "timestamp-ms": number,
            "manifest-list": "m",
            "summary": summary,
        }
        for number in range(1, 70_001)
    ]
    raw["snapshot-log"] = [{"snapshot-id": number, "timestamp-ms": number} for number in range(1, 70_001)]
    raw["current-snapshot-id"], raw["last-sequence-number"] = 70_000, 70_000
    data = json.dumps(raw).encode()
    assert len(data) > 110 * 10**6
    assert len(parse_version(data, 5, decoded.WHERE).table.snapshots) == 70_000


def test_metadata_of_megabytes_or_of_many_levels_is_no_metadata() -> None:
    with pytest.raises(CorruptTableError, match=r"x\.json has \d+ bytes"):
        decode_object(b" " * (MAX_BYTES + 1), "x.json")
    for levels, deep in ((200, False), (201, True)):
        value: Any = {}
        for _ in range(levels - 1):
            value = [value]
        assert is_too_deep(value) is deep
    with pytest.raises(CorruptTableError, match=r"x\.json has objects and arrays within each other"):
        decode_object(b'{"a":' * 300 + b"1" + b"}" * 300, "x.json")


def test_numbers_of_thousands_of_digits_are_no_numbers() -> None:
    long = "9" * 5000
    assert [whole_number(text) for text in ("7", "-7", "", "²", "7.0", long, str(2**63))] == [7] + [None] * 6
    assert [hinted_version(data) for data in (b" 7\n", b"-7", long.encode(), b"1" + b"0" * 20)] == [7, None, None, None]
    assert settings_of({MIN_SNAPSHOTS: long}) == settings_of({})
    with pytest.raises(ConfigurationError, match="a whole number from 1 on"):
        check_settings({MIN_SNAPSHOTS: long}, "t")
    raw = {**decoded.metadata()}
    raw["properties"] = {**raw["properties"], "datashard.protocol-version": long}
    with pytest.raises(UnsupportedTableError, match="protocol-version"):
        parse_version(json.dumps(raw).encode(), 5, decoded.WHERE)


def test_totals_of_thousands_of_digits_stop_no_append() -> None:
    storage = MemoryStorage()
    table = Warehouse(storage).create_table("t", decoded.SCHEMA)
    table.append([{"n": 1}])
    key = "t/metadata/v1.metadata.json"
    raw = json.loads(storage.get(key).body)
    raw["snapshots"][0]["summary"] |= {"total-records": "9" * 5000, "total-files-size": "9" * 5000}
    storage.put(key, json.dumps(raw).encode())
    found = Warehouse(storage).load_table("t")
    found.append([{"n": 2}])
    snapshot = found.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary["total-records"] == "2"
    assert found.count() == 2


def test_a_hint_of_thousands_of_digits_is_none() -> None:
    storage = MemoryStorage()
    table = Warehouse(storage).create_table("t", decoded.SCHEMA)
    table.append([{"n": 1}])
    storage.put("t/metadata/version-hint.text", b"9" * 5000)
    found = Warehouse(storage).load_table("t")
    assert found.version == 1
    assert found.append([{"n": 2}]).version == 2
    assert storage.get("t/metadata/version-hint.text").body == b"2"


def test_a_transform_of_a_width_that_there_is_not_prunes_nothing() -> None:
    assert parse_transform("bucket[16]") == Transform("bucket", 16)
    for text in ("bucket[0]", "bucket[" + "9" * 30 + "]", "truncate[" + "9" * 5000 + "]"):
        assert parse_transform(text) == Transform(text)


def test_bounds_of_a_wrong_width_are_not_united() -> None:
    good = {"contains_null": False, "lower_bound": b"\1\0\0\0", "upper_bound": b"\1\0\0\0"}
    kind = PrimitiveType("int")
    assert united([(good,), (good,)], [kind]) is not None
    with pytest.raises(CorruptTableError, match="3 bytes"):
        united([(good,), ({**good, "lower_bound": b"abc"},)], [kind])


@pytest.mark.parametrize(
    "told",
    [
        {"version": 10**18, "since": 0},
        {"version": 5, "since": 6},
        {"version": -1},
        {"version": 10**30, "since": 10**30},
        {"version": 5.0},
        {"line": "9" * 5000},
        {"names": {"7": ["", ""]}},
        {"names": {"9" * 5000: ["", ""]}},
        {"names": []},
        {"names": {"5": ["AAAA", ""]}},
    ],
)
def test_a_property_that_no_version_writes_is_damage(told: dict[str, Any]) -> None:
    raw = {**json.loads(decoded.property_text()), **told}
    with pytest.raises(CorruptTableError, match="cannot be read"):
        recorded_ids.parse({recorded_ids.PROPERTY: json.dumps(raw)}, decoded.UUID)


def test_a_segment_of_ids_is_what_its_header_says() -> None:
    records = [(f"{number:032x}", RecordedOutcome(number, "")) for number in range(3)]
    whole = segment.encode_segment(decoded.UUID, 0, 16, 5, records)
    assert len(segment.decode_records(whole)) == 3
    for damaged in (whole[:-41], whole[:-1]):
        with pytest.raises(CorruptTableError, match="cut short"):
            segment.decode_records(damaged)
    for damaged in (whole + bytes(41), whole[:20] + b"\xff" * 8 + whole[28:]):
        with pytest.raises(CorruptTableError, match="w is a damaged id segment"):
            segment.decode_header(damaged, "w", decoded.UUID)
    late = segment.encode_segment(decoded.UUID, 0, 16, 5, [("ab" * 16, RecordedOutcome(10**18, ""))])
    with pytest.raises(CorruptTableError, match="of version 1000000000000000000"):
        segment.decode_records(late)
    assert segment.parse_key("_datashard/ids/" + "9" * 300 + "/00000000000000000016") is None


@pytest.mark.parametrize("harm", [lambda body: body + b"x" * 100, lambda body: body[:-1]])
def test_a_data_file_of_another_size_than_its_manifest_says_is_damage(harm: Callable[[bytes], bytes]) -> None:
    storage = MemoryStorage()
    table = Warehouse(storage).create_table("t", decoded.SCHEMA)
    table.append([{"n": 1}])
    (key,) = [info.key for info in storage.list("t/data/")]
    whole = storage.get(key).body
    storage.put(key, harm(whole))
    with pytest.raises(CorruptTableError, match=f"bytes, and its manifest says {len(whole)}"):
        table.scan().to_arrow()


def test_partition_values_of_another_type_prune_nothing() -> None:
    data = decoded.manifests()[1]
    parts = decoded.opened(data)
    schema = json.loads(
        json.dumps(parts.schema).replace(
            '"name": "s", "type": ["null", "string"]', '"name": "s", "type": ["null", "bytes"]'
        )
    )
    assert schema != parts.schema
    changed = decoded.avro_file(schema, [(parts.count, parts.body)], "deflate", parts.header)
    condition = decoded.bind(ds.col("s") == "other", decoded.SCHEMA, "t")
    manifest = decoded.listed(len(changed), 1)
    kept, _ = decoded.indexed_files(changed, manifest, decoded.Pruning(condition, decoded.SPECS[1]), None)
    assert isinstance(kept, list)


def test_numbers_that_no_file_has_are_damage() -> None:
    entry = decoded.entries()[0]
    for changes in ({"record_count": -1}, {"file_size_in_bytes": -5}, {"file_path": ""}):
        file = replace(entry.data_file, partition={}, **changes)
        data = decoded.encode_manifest([replace(entry, data_file=file)], schema=decoded.SCHEMA, spec=decoded.SPECS[0])
        manifest = decoded.listed(len(data), 0)
        for decode in (
            partial(decoded.decode_manifest, data, manifest),
            partial(decoded.live_files, data, manifest, decoded.Pruning()),
        ):
            with pytest.raises(CorruptTableError, match=r"s3://b/t/m\.avro"):
                decode()
    one = replace(decoded.listed(5, 0), **dict.fromkeys(decoded._COUNTS, -1))
    data = decoded.encode_manifest_list([one], snapshot_id=1, parent_snapshot_id=None, sequence_number=1)
    with pytest.raises(CorruptTableError, match="an entry is damaged"):
        decoded.decode_manifest_list(data, "s3://b/t/m.avro")
