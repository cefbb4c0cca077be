"""Our own reading and writing of plain records, held against fastavro's."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datashard_core.errors import CorruptTableError
from datashard_core.format.avro import avro
from datashard_core.format.avro.avro_reader import Room, reader_of
from datashard_core.format.avro.avro_records import Write, writer_of
from datashard_core.format.manifests.manifest_schema import MANIFEST_FILE_SCHEMA, manifest_entry_schema
from datashard_core.format.metadata.partition import PartitionField, PartitionSpec
from datashard_core.format.types.schema import Schema

SCHEMA = Schema(1, [{"id": 1, "name": "d", "type": "date"}, {"id": 2, "name": "s", "type": "string"}])
PLAIN = manifest_entry_schema(PartitionSpec(), SCHEMA)
BY_TEXT = manifest_entry_schema(PartitionSpec(1, (PartitionField(2, 1000, "s", "identity"),)), SCHEMA)
BY_DAY = manifest_entry_schema(PartitionSpec(1, (PartitionField(1, 1000, "d", "identity"),)), SCHEMA)

_PRIMITIVES = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "string": st.text(max_size=4),
    "bytes": st.binary(max_size=4),
    "boolean": st.booleans(),
}


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Values of a schema."""
    if isinstance(schema, list):
        return st.one_of(st.none() if kind == "null" else values(kind) for kind in schema)
    if isinstance(schema, str):
        return _PRIMITIVES[schema]
    if schema["type"] == "array":
        return st.lists(values(schema["items"]), max_size=2)
    return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in schema["fields"]})


def writer(schema: Any) -> Write:
    found = writer_of(schema)
    assert found is not None
    return found


def read(schema: Any, data: bytes) -> tuple[Any, int]:
    """A value that is the one field of a record of a file's schema, and where it ends."""
    record = {"type": "record", "name": "only", "fields": [{"name": "it", "type": schema}]}
    found, end = reader_of(json.dumps(record))(data, 0, Room(len(data)))
    return found["it"], end


def files() -> st.SearchStrategy[tuple[Any, list[Any]]]:
    schemas = st.sampled_from([PLAIN, BY_TEXT, MANIFEST_FILE_SCHEMA])
    return schemas.flatmap(lambda schema: st.tuples(st.just(schema), st.lists(values(schema), max_size=2)))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files())
def test_fastavro_writes_and_reads_the_same_bytes(case: tuple[Any, list[Any]]) -> None:
    schema, rows = case
    parsed = fastavro.parse_schema(schema, named_schemas={})
    for row in rows:
        theirs, ours = io.BytesIO(), bytearray()
        fastavro.schemaless_writer(theirs, parsed, row)
        writer(schema)(ours, row)
        assert bytes(ours) == theirs.getvalue()
        assert read(schema, bytes(ours)) == (row, len(ours))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files())
def test_files_are_read_by_the_other(case: tuple[Any, list[Any]]) -> None:
    schema, rows = case
    ours = avro.write(schema, rows, {"format-version": "2"})
    reader = fastavro.reader(io.BytesIO(ours))
    assert list(reader) == rows
    assert reader.metadata["format-version"] == "2"
    assert reader.metadata[avro.ENTRIES] == str(len(rows))
    assert reader.codec == "deflate"
    for codec in ("null", "deflate"):
        sink = io.BytesIO()
        parsed = fastavro.parse_schema(schema, named_schemas={})
        fastavro.writer(sink, parsed, rows, codec=codec, sync_interval=64)
        assert list(avro.read(sink.getvalue(), "a file", lambda _: {}).rows) == rows


def test_other_fields_are_left_to_fastavro() -> None:
    assert writer_of(BY_DAY) is None
    for schema in ("double", ["int", "string"], ["null"], {"type": "map", "values": "int"}, {"type": "record"}, 7):
        assert writer_of(schema) is None


def test_many_records_are_many_blocks() -> None:
    rows = [{"key": number, "value": "x" * 100} for number in range(1000)]
    pair = {
        "type": "record",
        "name": "pair",
        "fields": [
            {"name": "key", "type": "int", "field-id": 1},
            {"name": "value", "type": "string", "field-id": 2},
        ],
    }
    data = avro.write(pair, rows, {})
    assert 5 < len(avro.read_blocks(data, "a file").blocks) < 10
    assert list(avro.read(data, "a file", lambda _: {}).rows) == rows == list(fastavro.reader(io.BytesIO(data)))


def test_arrays_in_blocks_with_their_sizes_are_read() -> None:
    # The specification lets a writer say how many bytes the items of a block have, by a negative count.
    data = bytes([3, 4, 2, 4, 2, 6, 0])  # -2 items in 2 bytes: 1, 2; one item: 3; the end
    assert read({"type": "array", "items": "long"}, data) == ([1, 2, 3], 7)


@pytest.mark.parametrize(
    ("schema", "value", "error"),
    [
        ("long", 2**63, OverflowError),
        ("long", -(2**63) - 1, OverflowError),
        ("long", None, TypeError),
        ("long", "7", TypeError),
        ("string", 7, AttributeError),
        ("boolean", 2, TypeError),
        (PLAIN, {"status": 1}, KeyError),
    ],
)
def test_what_is_no_value_of_the_schema_is_not_written(schema: Any, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        writer(schema)(bytearray(), value)


@pytest.mark.parametrize(
    ("schema", "data", "error"),
    [
        ("string", b"\x08abc", EOFError),
        ("string", b"\x01", EOFError),
        ("string", b"\x02\xff", ValueError),
        ("long", b"\xff\xff", IndexError),
        ("long", b"\xff" * 10 + b"\x01", ValueError),
        ("boolean", b"\x02", ValueError),
        (["null", "int"], b"\x04\x02", ValueError),
        ({"type": "array", "items": "string"}, b"\x04\x02a", IndexError),
        ({"type": "array", "items": {"type": "record", "fields": []}}, b"\xfe\xff\xff\xff\x0f\x00", ValueError),
    ],
)
def test_damaged_bytes_are_no_value(schema: Any, data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(schema, data)


def test_a_block_with_more_bytes_than_records_is_damage() -> None:
    pair = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "string", "field-id": 1}]}
    sink = io.BytesIO()
    fastavro.writer(sink, fastavro.parse_schema(pair), [{"a": "x"}, {"a": "y"}], codec="null")
    data = sink.getvalue()
    assert data.count(b"\x04\x08\x02x\x02y") == 1
    with pytest.raises(CorruptTableError, match="a block of 4 bytes has records of 2"):
        list(avro.read(data.replace(b"\x04\x08\x02x\x02y", b"\x02\x08\x02x\x02y"), "a file", lambda _: {}).rows)
