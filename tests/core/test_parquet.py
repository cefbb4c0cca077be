"""Parquet files as they are written: what is in them, and what is said of them."""

from __future__ import annotations

import datetime as dt
import io
import math
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow._parquet as arrow_writer
import pyarrow.parquet as pq
import pytest

from datashard_core.format.parquet import parquet
from datashard_core.format.parquet.parquet import encode_parquet, write_parquet
from datashard_core.format.rows.records import to_table
from datashard_core.format.statistics.metrics import FEW, Metrics
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.types import children, walk

POINT = {
    "type": "struct",
    "fields": [{"name": "x", "type": "double", "required": True}, {"name": "code", "type": "uuid"}],
}
SCHEMA = Schema(
    0,
    [
        {"name": "id", "type": "long", "required": True},
        {"name": "flag", "type": "boolean"},
        {"name": "small", "type": "int"},
        {"name": "single", "type": "float"},
        {"name": "money", "type": "decimal(9, 2)"},
        {"name": "wide", "type": "decimal(18, 0)"},
        {"name": "huge", "type": "decimal(38, 10)"},
        {"name": "day", "type": "date"},
        {"name": "clock", "type": "time"},
        {"name": "local", "type": "timestamp"},
        {"name": "instant", "type": "timestamptz"},
        {"name": "text", "type": "string"},
        {"name": "key", "type": "uuid"},
        {"name": "raw", "type": "binary"},
        {"name": "fixed", "type": "fixed[4]"},
        {"name": "point", "type": POINT},
        {"name": "points", "type": {"type": "list", "element": POINT}},
        {"name": "grid", "type": {"type": "list", "element": {"type": "list", "element": "double"}}},
        {"name": "by.name", "type": {"type": "map", "key": "string", "value": POINT}},
    ],
)


def row(number: int) -> dict[str, Any]:
    moment = dt.datetime(2020, 1, 1, 1, 2, 3, 456789) + dt.timedelta(days=number)
    point = {"x": number / 3, "code": uuid.UUID(int=number)}
    return {
        "id": number,
        "flag": bool(number % 2),
        "small": -number,
        "single": number / 4,
        "money": Decimal(number).scaleb(-2),
        "wide": Decimal(number * 10**15),
        "huge": Decimal(number).scaleb(-10),
        "day": moment.date(),
        "clock": moment.time(),
        "local": moment,
        "instant": moment.replace(tzinfo=dt.UTC),
        "text": f"text {number}",
        "key": uuid.UUID(int=2**127 + number),
        "raw": bytes([number % 256]),
        "fixed": number.to_bytes(4, "big"),
        "point": point if number % 3 else None,
        "points": [point] * (number % 3),
        "grid": [[number / 2], []],
        "by.name": {"a": point, "b": None},
    }


def table_of(count: int) -> pa.Table:
    return to_table([row(number) for number in range(count)], SCHEMA, "t")


def read(data: Any) -> tuple[pa.Table, pq.ParquetFile]:
    file = pq.ParquetFile(pa.BufferReader(data))
    return file.read(), file


def test_the_rows_come_back() -> None:
    table = table_of(50)
    rows, _ = read(encode_parquet(table, SCHEMA).data)
    assert rows.cast(SCHEMA.to_arrow()).to_pylist() == table.to_pylist()


def test_every_field_at_every_depth_has_its_id() -> None:
    _, file = read(encode_parquet(table_of(1), SCHEMA).data)
    found: dict[str, int] = {}

    def collect(fields: Any, prefix: str) -> None:
        for field in fields:
            path = f"{prefix}{field.name}"
            found[path] = int(field.metadata[b"PARQUET:field_id"])
            kind = field.type
            if pa.types.is_struct(kind):
                collect(list(kind), f"{path}.")
            elif pa.types.is_map(kind):
                collect([kind.key_field, kind.item_field], f"{path}.")
            elif pa.types.is_list(kind):
                collect([kind.value_field], f"{path}.")

    collect(file.schema_arrow, "")
    assert found == {path: field.field_id for path, field in walk(SCHEMA.fields)}


def test_the_columns_have_the_types_that_the_spec_asks_for() -> None:
    _, file = read(encode_parquet(table_of(3), SCHEMA).data)
    columns = {column.path: column for column in map(file.schema.column, range(len(file.schema)))}
    physical = {path: column.physical_type for path, column in columns.items()}
    assert physical["money"] == "INT32"
    assert physical["wide"] == "INT64"
    assert physical["huge"] == "FIXED_LEN_BYTE_ARRAY"
    assert physical["clock"] == physical["local"] == physical["instant"] == "INT64"
    logical = {path: str(column.logical_type) for path, column in columns.items()}
    assert logical["key"] == logical["point.code"] == "UUID"
    assert logical["text"] == "String"
    assert "microseconds" in logical["clock"]
    assert "isAdjustedToUTC=false, timeUnit=microseconds" in logical["local"]
    assert "isAdjustedToUTC=true, timeUnit=microseconds" in logical["instant"]
    assert (columns["fixed"].length, columns["key"].length) == (4, 16)
    assert [path for path in physical if path.startswith(("points", "by"))] == [
        "points.list.element.x",
        "points.list.element.code",
        "by.name.key_value.key",
        "by.name.key_value.value.x",
        "by.name.key_value.value.code",
    ]


def test_files_are_compressed_and_carry_no_second_schema() -> None:
    _, file = read(encode_parquet(table_of(3), SCHEMA).data)
    group = file.metadata.row_group(0)
    assert {group.column(index).compression for index in range(group.num_columns)} == {"ZSTD"}
    assert b"ARROW:schema" not in (file.metadata.metadata or {})


def test_a_file_is_described_as_it_is() -> None:
    table = table_of(50)
    encoded = encode_parquet(table, SCHEMA)
    described = encoded.data_file("s3://bucket/t/data/auto_1.parquet")
    _, file = read(encoded.data)
    group = file.metadata.row_group(0)
    ids = {path: field.field_id for path, field in walk(SCHEMA.fields) if not children(field.type)}
    sizes = {
        ids[group.column(n).path_in_schema.replace(".list.", ".").replace(".key_value.", ".")]: group.column(
            n
        ).total_compressed_size
        for n in range(group.num_columns)
    }
    metrics = Metrics()
    metrics.add(table, SCHEMA)
    assert described.column_sizes == sizes
    assert described.file_path == "s3://bucket/t/data/auto_1.parquet"
    assert described.file_size_in_bytes == encoded.data.size == len(encoded.data.to_pybytes())
    assert (described.record_count, described.file_format, described.content) == (50, "PARQUET", 0)
    assert described.split_offsets == (4,)
    assert described.value_counts == metrics.value_counts
    assert described.lower_bounds == metrics.lower_bounds()
    assert described.upper_bounds == metrics.upper_bounds()
    assert dict(described.partition) == {}


def test_chunks_and_slices_change_nothing_that_is_said() -> None:
    whole = table_of(30)
    chunked = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 1), whole.slice(8)])
    batches = pa.Table.from_batches(whole.to_batches(max_chunksize=4))
    padded = pa.concat_tables([table_of(3), whole, table_of(2)]).combine_chunks().slice(3, 30)
    expected = encode_parquet(whole, SCHEMA).data_file("f")
    for table in (chunked, batches, padded):
        found = encode_parquet(table, SCHEMA).data_file("f")
        assert found.null_value_counts == expected.null_value_counts
        assert (found.lower_bounds, found.upper_bounds) == (expected.lower_bounds, expected.upper_bounds)
        assert found.value_counts == expected.value_counts


def test_a_stream_of_batches_is_written_group_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 20)
    whole = table_of(50)
    sink = io.BytesIO()
    sizes_seen: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in whole.to_batches(max_chunksize=5):
            sizes_seen.append(sink.tell())
            yield batch

    described = write_parquet(batches(), SCHEMA, sink, "file:///f.parquet")
    assert sizes_seen[0] <= 4 < sizes_seen[4] < sizes_seen[-1], "nothing was written before the last batch"
    rows, file = read(sink.getvalue())
    assert rows.cast(SCHEMA.to_arrow()).to_pylist() == whole.to_pylist()
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [20, 20, 10]
    in_memory = encode_parquet(whole, SCHEMA).data_file("file:///f.parquet")
    assert described.file_size_in_bytes == len(sink.getvalue())
    assert described.lower_bounds == in_memory.lower_bounds
    assert described.upper_bounds == in_memory.upper_bounds
    assert described.null_value_counts == in_memory.null_value_counts
    assert len(described.split_offsets or ()) == 3
    assert described.record_count == 50
    assert set(described.column_sizes) == set(in_memory.column_sizes)


def test_row_groups_begin_where_the_offsets_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 20)
    sink = io.BytesIO()
    described = write_parquet(table_of(50), SCHEMA, sink, "f")
    _, file = read(sink.getvalue())
    starts = [
        min(
            offset
            for n in range(group.num_columns)
            for offset in (group.column(n).dictionary_page_offset, group.column(n).data_page_offset)
            if offset is not None
        )
        for group in map(file.metadata.row_group, range(file.num_row_groups))
    ]
    assert described.split_offsets == tuple(starts)
    assert len(starts) == 3


def test_tables_and_batches_may_be_mixed_in_a_stream() -> None:
    whole = table_of(6)
    sink = io.BytesIO()
    described = write_parquet([whole.slice(0, 4), whole.slice(4).to_batches()[0]], SCHEMA, sink, "f")
    assert described.record_count == read(sink.getvalue())[0].num_rows == 6


def test_an_error_of_the_source_is_passed_on_and_the_sink_left_open() -> None:
    def failing() -> Iterator[pa.Table]:
        yield table_of(1)
        raise OSError("the source broke")

    sink = io.BytesIO()
    with pytest.raises(OSError, match="the source broke"):
        write_parquet(failing(), SCHEMA, sink, "f")
    assert not sink.closed


def test_the_sink_stays_open() -> None:
    sink = io.BytesIO()
    write_parquet(table_of(1), SCHEMA, sink, "f")
    assert not sink.closed


FLOATING = Schema(
    0,
    [
        {"name": "a", "type": "double"},
        {"name": "b", "type": "float"},
        {"name": "n", "type": "long"},
        {"name": "s", "type": {"type": "struct", "fields": [{"name": "x", "type": "double"}]}},
    ],
)


def with_statistics(data: Any) -> set[str]:
    group = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0)
    columns = [group.column(n) for n in range(group.num_columns)]
    return {column.path_in_schema for column in columns if column.statistics is not None}


def test_columns_with_nan_have_no_statistics() -> None:
    """DuckDB, to which NaN is above every number, would pass over the row group for ``x > 5``."""
    plain = to_table([{"a": 1.0, "b": 2.0, "n": 3, "s": {"x": 4.0}}], FLOATING, "t")
    nan = to_table([{"a": math.nan, "b": 2.0, "n": 3, "s": {"x": math.nan}}], FLOATING, "t")
    assert with_statistics(encode_parquet(plain, FLOATING).data) == {"a", "b", "n", "s.x"}
    assert with_statistics(encode_parquet(nan, FLOATING).data) == {"b", "n"}
    sink = io.BytesIO()
    write_parquet(iter([plain, nan]), FLOATING, sink, "f")
    assert with_statistics(sink.getvalue()) == {"n"}, "what a stream has yet to bring is not known"


def test_no_rows_make_a_readable_file() -> None:
    described = encode_parquet(table_of(1).slice(0, 0), SCHEMA)
    assert described.record_count == 0
    assert read(described.data)[0].num_rows == 0
    assert described.data_file("f").lower_bounds == {}
    sink = io.BytesIO()
    assert write_parquet(iter(()), SCHEMA, sink, "f").record_count == 0
    assert read(sink.getvalue())[0].num_rows == 0


TEXTS = Schema(
    0,
    [
        {"name": "s", "type": "string"},
        {"name": "b", "type": "binary"},
        {
            "name": "in",
            "type": {"type": "struct", "fields": [{"name": "s", "type": "string"}, {"name": "n", "type": "int"}]},
        },
        {"name": "many", "type": {"type": "list", "element": "string"}},
    ],
)


@pytest.mark.parametrize(
    "special",
    [
        {},
        {"s": None, "in": None},
        {"s": "z" * 5000, "b": b"\xff" * 5000},
        {"s": "\U0010ffff" * 40, "in": {"s": "", "n": 1}},
    ],
)
@pytest.mark.parametrize("group", [10**6, 700])
def test_bounds_of_many_texts_are_those_that_comparing_them_gives(
    special: dict[str, Any], group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are taken from the footer, where Arrow's writer tells them: not where a text is long, or all are null."""
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", group)
    usual = {"s": "m", "b": b"m", "in": {"s": "m", "n": None}, "many": ["a", "zz"]}
    rows = [{**usual, "s": f"m{n % 7}", "b": b"%d" % (n % 5)} for n in range(FEW + 1)] + [{**usual, **special}]
    table = to_table(rows, TEXTS, "t")
    metrics = Metrics()
    metrics.add(table, TEXTS)
    told = encode_parquet(table, TEXTS).data_file("f")
    assert (told.lower_bounds, told.upper_bounds) == (metrics.lower_bounds(), metrics.upper_bounds())
    assert (told.value_counts, told.null_value_counts) == (metrics.value_counts, metrics.null_value_counts)


def test_bounds_of_texts_that_are_all_null_are_none() -> None:
    table = to_table([{}] * (FEW + 1), TEXTS, "t")
    told = encode_parquet(table, TEXTS).data_file("f")
    assert (told.lower_bounds, told.upper_bounds) == ({}, {})
    assert told.null_value_counts[1] == FEW + 1


def test_columns_of_values_that_all_differ_get_no_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MANY", 10_000)
    schema = Schema(0, [{"name": name, "type": "long"} for name in ("own", "few", "nulls")])
    count = 10_000
    table = pa.table(
        {"own": range(count), "few": [n % 900 for n in range(count)], "nulls": [n or None for n in range(count)]},
        schema=schema.to_arrow(),
    )
    rows, file = read(encode_parquet(table, schema).data)
    group = file.metadata.row_group(0)
    assert [group.column(place).has_dictionary_page for place in range(3)] == [False, True, True]
    assert rows.to_pylist() == table.to_pylist()


def test_a_small_file_is_small() -> None:
    schema = Schema(0, [{"name": "id", "type": "long"}, {"name": "name", "type": "string"}])
    encoded = encode_parquet(to_table([{"id": 1, "name": "x"}], schema, "t"), schema)
    assert encoded.data.size < 800


def test_a_release_of_arrow_with_another_writer_makes_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encode_parquet(table_of(50), SCHEMA)
    writer = arrow_writer.ParquetWriter
    refused = []

    def other(*given: Any, **options: Any) -> Any:
        if "compression_level" in options:  # as the public class calls it
            return writer(*given, **options)
        refused.append(options)
        raise TypeError("unexpected keyword argument 'store_schema'")

    monkeypatch.setattr(arrow_writer, "ParquetWriter", other)
    found = encode_parquet(table_of(50), SCHEMA)
    assert len(refused) == 1
    assert found.data.equals(expected.data)
    assert found.data_file("s3://b/f") == expected.data_file("s3://b/f")
