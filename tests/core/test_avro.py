"""Avro as Iceberg uses it: ids on every field, files of other writers, files cut short."""

from __future__ import annotations

import datetime as dt
import io
import json
import uuid
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import fastavro
import pytest
from msgspec.structs import replace

from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.avro import avro
from datashard_core.format.manifests.manifest import (
    ADDED,
    ManifestEntry,
    ManifestFile,
    decode_manifest,
    decode_manifest_list,
    encode_manifest,
    encode_manifest_list,
)
from datashard_core.format.manifests.manifest_scan import Pruning, live_files
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.partition import PartitionField, PartitionSpec
from datashard_core.format.types.schema import Schema

SCHEMA = Schema(3, [{"id": 1, "name": "id", "type": "long"}, {"id": 2, "name": "d", "type": "double"}])
FILE = DataFile(
    file_path="s3://b/t/data/a.parquet",
    record_count=10,
    file_size_in_bytes=500,
    column_sizes={1: 100, 2: 200},
    value_counts={1: 10, 2: 10},
    null_value_counts={1: 0, 2: 3},
    nan_value_counts={2: 1},
    lower_bounds={1: b"\0" * 8},
    upper_bounds={1: b"\1" * 8},
    split_offsets=(4, 300),
    sort_order_id=0,
)
ENTRY = ManifestEntry(ADDED, 5, None, None, FILE)


def listed(data: bytes, **changes: Any) -> ManifestFile:
    return replace(ManifestFile("s3://b/t/m.avro", len(data), 0, 0, 7, 7, 5, 1, 0, 0, 10, 0, 0), **changes)


def unpacked(data: bytes) -> tuple[dict[str, Any], list[Any], dict[str, str]]:
    reader = fastavro.reader(io.BytesIO(data))
    schema: Any = reader.writer_schema
    return schema, list(reader), {key: value for key, value in reader.metadata.items() if not key.startswith("avro.")}


def packed(
    schema: Any, rows: list[Any], header: Mapping[str, str], codec: str = "null", sync_interval: int = 16000
) -> bytes:
    sink = io.BytesIO()
    fastavro.writer(sink, schema, rows, codec=codec, metadata=dict(header), sync_interval=sync_interval)
    return sink.getvalue()


def records(kind: Any) -> Iterator[dict[str, Any]]:
    """Every record type in a schema."""
    for part in kind if isinstance(kind, list) else [kind]:
        if isinstance(part, dict) and part["type"] == "record":
            yield part
            for field in part["fields"]:
                yield from records(field["type"])
        elif isinstance(part, dict) and part["type"] == "array":
            yield from records(part["items"])


def arrays(kind: Any) -> Iterator[dict[str, Any]]:
    for record in records(kind):
        for field in record["fields"]:
            for part in field["type"] if isinstance(field["type"], list) else [field["type"]]:
                if isinstance(part, dict) and part["type"] == "array":
                    yield part


def both() -> tuple[bytes, bytes]:
    manifest = encode_manifest([ENTRY], schema=SCHEMA, spec=PartitionSpec())
    return manifest, encode_manifest_list([listed(manifest)], snapshot_id=5, parent_snapshot_id=4, sequence_number=7)


def test_every_field_has_an_id_and_every_array_says_what_it_is() -> None:
    for data in both():
        schema, _, _ = unpacked(data)
        ids = [field["field-id"] for record in records(schema) for field in record["fields"]]
        assert len(ids) == len(set(ids))
        for array in arrays(schema):
            # DuckDB aborts the process at a map that does not say so.
            is_map = isinstance(array["items"], dict) and array["items"]["name"].startswith("k")
            assert (array.get("logicalType") == "map") if is_map else ("element-id" in array)
    manifest_schema, _, _ = unpacked(both()[0])
    assert sum("element-id" not in array for array in arrays(manifest_schema)) == 6


def test_headers_tell_what_readers_look_for() -> None:
    manifest, manifest_list = both()
    _, rows, header = unpacked(manifest)
    assert json.loads(header.pop("schema")) == SCHEMA.to_dict()
    assert header == {
        "schema-id": "3",
        "partition-spec": "[]",
        "partition-spec-id": "0",
        "format-version": "2",
        "content": "data",
        "datashard.entries": "1",
    }
    assert rows[0]["sequence_number"] is rows[0]["file_sequence_number"] is None
    assert rows[0]["data_file"]["partition"] == {}
    _, _, header = unpacked(manifest_list)
    assert header == {
        "snapshot-id": "5",
        "parent-snapshot-id": "4",
        "sequence-number": "7",
        "format-version": "2",
        "datashard.entries": "1",
    }


def renamed(value: Any, schema: Any) -> Any:
    """A row with the names that the changed schema has."""
    if isinstance(schema, list):
        return None if value is None else renamed(value, next(part for part in schema if part != "null"))
    if isinstance(schema, dict) and schema["type"] == "array":
        return [renamed(one, schema["items"]) for one in value]
    if isinstance(schema, dict) and schema["type"] == "record":
        return {field["name"]: renamed(value[field["was"]], field["type"]) for field in schema["fields"]}
    return value


def foreign(data: bytes) -> bytes:
    """The same as another engine might write it: other names, the other way round, other optional fields."""
    schema, rows, header = unpacked(data)
    for record in list(records(schema)):
        for field in record["fields"]:
            field["was"] = field["name"]
            field["name"] = f"x_{field['name']}"
        record["fields"].reverse()
    rows = [renamed(row, schema) for row in rows]
    extra = {"name": "added_files_count", "type": ["null", "string"], "default": None, "field-id": 999}
    schema["fields"].append(extra)
    return packed(schema, rows, {key: text for key, text in header.items() if key != avro.ENTRIES})


def test_fields_are_found_by_their_ids_at_every_depth() -> None:
    manifest, manifest_list = map(foreign, both())
    assert b"x_lower_bounds" in manifest
    expected = replace(ENTRY, sequence_number=7, file_sequence_number=7)
    assert decode_manifest(manifest, listed(manifest)) == [expected]
    assert decode_manifest_list(manifest_list) == [listed(both()[0])]


def test_optional_fields_may_be_missing_and_required_ones_may_not() -> None:
    def without(*names: str) -> bytes:
        schema, rows, header = unpacked(both()[0])
        file = next(field for field in schema["fields"] if field["name"] == "data_file")["type"]
        file["fields"] = [field for field in file["fields"] if field["name"] not in names]
        for row in rows:
            row["data_file"] = {name: value for name, value in row["data_file"].items() if name not in names}
        return packed(schema, rows, header)

    bare = without(
        "content", "column_sizes", "value_counts", "null_value_counts", "nan_value_counts", "lower_bounds",
        "upper_bounds", "key_metadata", "split_offsets", "equality_ids", "sort_order_id",
    )  # fmt: skip
    (entry,) = decode_manifest(bare, listed(bare))
    assert entry.data_file == DataFile(FILE.file_path, 10, 500)
    for name in ("file_path", "file_format", "record_count", "file_size_in_bytes"):
        cut = without(name)
        with pytest.raises(CorruptTableError, match=f"lacks '{name}'"):
            decode_manifest(cut, listed(cut))


def test_maps_with_text_keys_are_read() -> None:
    schema, rows, header = unpacked(both()[0])
    file = next(field for field in schema["fields"] if field["name"] == "data_file")["type"]
    sizes = next(field for field in file["fields"] if field["name"] == "column_sizes")
    del sizes["default"]
    sizes["type"] = {"type": "map", "values": "long", "key-id": 117, "value-id": 118}
    rows[0]["data_file"]["column_sizes"] = {"1": 100, "2": 200}
    data = packed(schema, rows, header)
    assert decode_manifest(data, listed(data))[0].data_file.column_sizes == {1: 100, 2: 200}


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2"])
def test_a_manifest_is_read_however_its_writer_compressed_it(codec: str) -> None:
    schema, rows, header = unpacked(both()[0])
    data = packed(schema, rows, header, codec, sync_interval=1)
    found = avro.read_blocks(data, "s3://b/t/m.avro")
    assert [block.count for block in found.blocks] == [1] * len(rows)
    assert found.header.items() >= header.items()
    assert live_files(data, listed(data), Pruning()) != []
    for damaged in (data[:3], data[:40], data[:-1], b"Obj\x02" + data[4:], data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(CorruptTableError, match="restore it"):
            avro.read_blocks(damaged, "s3://b/t/m.avro")


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_manifest_whose_bytes_cannot_be_decompressed_is_damaged(codec: str) -> None:
    schema, rows, header = unpacked(both()[0])
    data = packed(schema, rows, header, codec)
    damaged = data[:-40] + bytes(24) + data[-16:]
    with pytest.raises(CorruptTableError, match="restore it"):
        live_files(damaged, listed(damaged), Pruning())


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_list_of_another_engine_that_was_cut_is_damage(codec: str) -> None:
    """Without a count, all that is left is that a file ends where a block does."""
    manifest, manifest_list = both()
    schema, rows, header = unpacked(manifest_list)
    del header[avro.ENTRIES]
    whole = packed(schema, rows * 5, header, codec, sync_interval=1)
    assert decode_manifest_list(whole) == [listed(manifest)] * 5
    sync = whole[-16:]
    ends = [at + 16 for at in range(len(whole)) if whole.startswith(sync, at)]
    assert len(ends) == 6
    for end in set(range(len(whole))) - set(ends):
        with pytest.raises(CorruptTableError, match="restore it"):
            decode_manifest_list(whole[:end])
    for more in (b"\x00", b"\x80", bytes(40)):
        with pytest.raises(CorruptTableError, match="restore it"):
            decode_manifest_list(whole + more)


def test_our_own_files_tell_where_they_were_cut_even_between_blocks() -> None:
    manifest = both()[0]
    schema, rows, header = unpacked(
        encode_manifest_list([listed(manifest)] * 5, snapshot_id=5, parent_snapshot_id=None, sequence_number=7)
    )
    whole = packed(schema, rows, header, sync_interval=1)
    sync = whole[-16:]
    ends = [at + 16 for at in range(len(whole) - 16) if whole.startswith(sync, at)]
    for count, end in enumerate(ends):
        with pytest.raises(CorruptTableError, match=f"holds {count} entries, and its header says 5"):
            decode_manifest_list(whole[:end])


def test_what_a_manifest_holds_must_be_what_the_list_says() -> None:
    schema, rows, header = unpacked(both()[0])
    rows[0]["data_file"]["content"] = 1
    deletes = packed(schema, rows, header)
    with pytest.raises(CorruptTableError, match="content 1 in a manifest of content 0"):
        decode_manifest(deletes, listed(deletes))
    (entry,) = decode_manifest(deletes, listed(deletes, content=1))
    assert entry.data_file.content == 1


def test_an_unknown_status_is_damage() -> None:
    schema, rows, header = unpacked(both()[0])
    rows[0]["status"] = 3
    data = packed(schema, rows, header)
    with pytest.raises(CorruptTableError, match="status 3"):
        decode_manifest(data, listed(data))


def test_encrypted_files_are_refused() -> None:
    schema, rows, header = unpacked(both()[0])
    rows[0]["data_file"]["key_metadata"] = b"key"
    data = packed(schema, rows, header)
    with pytest.raises(UnsupportedTableError, match=r"data/a\.parquet is encrypted"):
        decode_manifest(data, listed(data))


def test_file_formats_are_known_by_any_case() -> None:
    schema, rows, header = unpacked(both()[0])
    rows[0]["data_file"]["file_format"] = "Parquet"
    data = packed(schema, rows, header)
    assert decode_manifest(data, listed(data))[0].data_file.file_format == "PARQUET"


KINDS = {
    "boolean": True,
    "int": -5,
    "long": 2**40,
    "float": 1.5,
    "double": -0.1,
    "decimal(9, 2)": Decimal("-12345.67"),
    "decimal(38, 10)": Decimal("1.0000000001"),
    "date": dt.date(2013, 5, 17),
    "time": dt.time(23, 59, 59, 999999),
    "timestamptz": dt.datetime(2013, 5, 17, 1, 2, 3, 456789, tzinfo=dt.UTC),
    "string": "a/b=c",
    "uuid": uuid.UUID(int=2**127 + 1),
    "binary": b"\x00\xff",
    "fixed[3]": b"abc",
}


@pytest.mark.parametrize("empty", [False, True])
def test_partition_values_of_every_type_come_back(empty: bool) -> None:
    schema = Schema(0, [{"id": n, "name": f"c{n}", "type": kind} for n, kind in enumerate(KINDS, 1)])
    spec = PartitionSpec(2, tuple(PartitionField(n, 999 + n, f"p{n}", "identity") for n in range(1, len(KINDS) + 1)))
    values = {f"p{n}": None if empty else value for n, value in enumerate(KINDS.values(), 1)}
    data = encode_manifest([replace(ENTRY, data_file=replace(FILE, partition=values))], schema=schema, spec=spec)
    (entry,) = decode_manifest(data, listed(data, partition_spec_id=2))
    key = f"p{list(KINDS).index('uuid') + 1}"
    assert entry.data_file.partition == {**values, key: None if empty else values[key].bytes}
    assert entry.data_file.spec_id == 2
    again = encode_manifest([replace(ENTRY, data_file=entry.data_file)], schema=schema, spec=spec)
    assert decode_manifest(again, listed(again, partition_spec_id=2)) == [entry]


def test_transformed_partition_values_have_the_types_of_their_transforms() -> None:
    schema = Schema(0, [{"id": 1, "name": "at", "type": "timestamptz"}, {"id": 2, "name": "s", "type": "string"}])
    fields = [("day", 1), ("year", 1), ("hour", 1), ("bucket[16]", 2), ("truncate[2]", 2)]
    spec = PartitionSpec(0, tuple(PartitionField(of, 1000 + n, f"p{n}", how) for n, (how, of) in enumerate(fields)))
    values = {"p0": dt.date(2013, 1, 1), "p1": 43, "p2": 376_944, "p3": 7, "p4": "ab"}
    data = encode_manifest([replace(ENTRY, data_file=replace(FILE, partition=values))], schema=schema, spec=spec)
    assert decode_manifest(data, listed(data))[0].data_file.partition == values


def test_partition_fields_have_the_names_of_the_spec_where_avro_has_others() -> None:
    spec = PartitionSpec(0, (PartitionField(1, 1000, "p", "identity"),))
    data = encode_manifest([replace(ENTRY, data_file=replace(FILE, partition={"p": 4}))], schema=SCHEMA, spec=spec)
    schema, rows, header = unpacked(data)
    header["partition-spec"] = header["partition-spec"].replace('"p"', '"a b"')
    other = packed(schema, rows, header)
    assert decode_manifest(other, listed(other))[0].data_file.partition == {"a b": 4}
    header["partition-spec"] = "{"
    broken = packed(schema, rows, header)
    with pytest.raises(CorruptTableError, match="partition spec in the header"):
        decode_manifest(broken, listed(broken))


def test_a_partitioned_table_is_not_written_to_without_partition_values() -> None:
    spec = PartitionSpec(0, (PartitionField(1, 1000, "p", "identity"),))
    with pytest.raises(UnsupportedTableError, match=r"partitioned by \['p'\]"):
        encode_manifest([ENTRY], schema=SCHEMA, spec=spec)


def test_a_manifest_of_many_files_whose_names_differ_in_a_number_is_read() -> None:
    """What ``add_files`` makes of a folder: deflated, an entry takes four bytes."""
    files = [replace(FILE, file_path=f"s3://b/t/data/part-{number:05d}.parquet") for number in range(60_000)]
    data = encode_manifest([replace(ENTRY, data_file=file) for file in files], schema=SCHEMA, spec=PartitionSpec())
    assert len(data) < 6 * len(files)
    told = listed(data, added_files_count=len(files), added_rows_count=10 * len(files))
    assert [entry.data_file.file_path for entry in live_files(data, told, Pruning())] == [
        one.file_path for one in files
    ]
    assert len(decode_manifest(data, told)) == len(files)
