"""A few plain rows, which are appended without Arrow: they become the file, the metrics and the digest that Arrow's
way makes of the same rows, and whatever is not plainly right is left to it.

What could go wrong: a reader takes other values, or other rows for null, than were given; a bound that is too tight
loses rows in every engine; a digest that differs makes one append id two; a value that Arrow's way refuses gets in.
"""

from __future__ import annotations

import datetime as dt
import math
import struct
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datashard_core as ds
from datashard_core.errors import InvalidRecordsError
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.format.rows.digest import rows_digest
from datashard_core.format.rows.python_rows import FEW_BYTES, FEW_ROWS, PlainRows, arrow_of, joined_rows, plain_rows
from datashard_core.format.rows.records import to_table
from datashard_core.format.types.schema import Schema

TYPES = ("boolean", "int", "long", "float", "double", "date", "timestamp", "timestamptz", "string", "binary")
EVERY = Schema(
    3,
    [
        *({"id": 40 - place, "name": f"{kind} µ", "type": kind} for place, kind in enumerate(TYPES)),
        *({"id": 60 + place, "name": f"r.{kind}", "type": kind, "required": True} for place, kind in enumerate(TYPES)),
    ],
)
MOMENTS = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))
ZONES = st.sampled_from([dt.UTC, ZoneInfo("Europe/Berlin"), dt.timezone(dt.timedelta(hours=-9, minutes=-30))])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32) | st.floats(-(2.0**100), 2.0**100),
    "double": st.floats() | st.integers(-(2**53), 2**53),
    "date": st.dates(),
    "timestamp": MOMENTS,
    "timestamptz": st.builds(lambda moment, zone: moment.replace(tzinfo=zone), MOMENTS, ZONES),
    "string": st.text(max_size=20) | st.just("é" * 40) | st.just("\U0010ffff" * 17),
    "binary": st.binary(max_size=20) | st.just(b"\xff" * 17),
}


def rows_of_every_type() -> st.SearchStrategy[list[dict[str, Any]]]:
    optional = {f"{kind} µ": st.none() | values for kind, values in VALUES.items()}
    required = {f"r.{kind}": values for kind, values in VALUES.items()}
    row = st.fixed_dictionaries(required, optional=optional)
    return st.lists(row, min_size=1, max_size=12)


def plain(rows: list[dict[str, Any]], schema: Schema) -> PlainRows:
    found = plain_rows(rows, schema)
    assert found is not None
    return found


def opened(data: Any) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(data))


def bits(table: pa.Table) -> list[dict[str, Any]]:
    """Rows in which a float is its bits, so that NaN equals itself and -0.0 is not 0.0."""

    def of(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return "NaN" if value != value else struct.pack("<d", value)

    return [{name: of(value) for name, value in row.items()} for row in table.to_pylist()]


@settings(max_examples=300)
@given(rows_of_every_type())
def test_everything_is_as_arrow_has_it(rows: list[dict[str, Any]]) -> None:
    ours, table = plain(rows, EVERY), to_table(rows, EVERY, "t")
    written, expected = encode_parquet(ours, EVERY), encode_parquet(table, EVERY)
    file, usual = opened(written.data), opened(expected.data)

    assert file.schema.equals(usual.schema), "names, types, annotations, what may be null"
    assert file.schema_arrow.equals(usual.schema_arrow, check_metadata=True), "field ids"
    assert bits(file.read().cast(EVERY.to_arrow())) == bits(table)
    assert bits(ours.to_arrow()) == bits(table)
    assert ours.to_arrow().schema.equals(table.schema, check_metadata=True)
    assert rows_digest(ours, EVERY) == rows_digest(table, EVERY)

    told, usually = written.data_file("f"), expected.data_file("f")
    assert (told.record_count, told.split_offsets) == (usually.record_count, usually.split_offsets)
    assert (told.value_counts, told.null_value_counts) == (usually.value_counts, usually.null_value_counts)
    assert told.nan_value_counts == usually.nan_value_counts
    assert (told.lower_bounds, told.upper_bounds) == (usually.lower_bounds, usually.upper_bounds)
    assert told.file_size_in_bytes == len(written.data)


@settings(max_examples=100)
@given(rows_of_every_type())
def test_what_the_footer_says_is_so(rows: list[dict[str, Any]]) -> None:
    written = encode_parquet(plain(rows, EVERY), EVERY)
    file, usual = opened(written.data), opened(encode_parquet(to_table(rows, EVERY, "t"), EVERY).data)
    group = file.metadata.row_group(0)
    assert (file.metadata.num_rows, file.num_row_groups, group.num_rows) == (len(rows), 1, len(rows))
    begin = 4
    for place, field in enumerate(EVERY.fields):
        column, other = group.column(place), usual.metadata.row_group(0).column(place)
        assert (column.data_page_offset, column.num_values) == (begin, len(rows))
        assert written.column_sizes[field.field_id] == column.total_compressed_size
        begin += column.total_compressed_size
        kept = column.statistics
        assert kept.null_count == sum(row.get(field.name) is None for row in rows)
        if kept.has_min_max:
            assert (kept.min, kept.max) == (other.statistics.min, other.statistics.max)
    assert (
        begin
        == group.total_byte_size
        - sum(
            group.column(n).total_uncompressed_size - group.column(n).total_compressed_size
            for n in range(len(EVERY.fields))
        )
        + 4
    )


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 127, 128, 300, FEW_ROWS])
@pytest.mark.parametrize("null", [lambda n: False, lambda n: True, lambda n: n % 2, lambda n: n > 70, lambda n: n == 3])
def test_the_right_rows_are_null(count: int, null: Any) -> None:
    schema = Schema(
        0, [{"name": "n", "type": "long"}, {"name": "b", "type": "boolean"}, {"name": "s", "type": "string"}]
    )
    rows = [{} if null(n) else {"n": n, "b": n % 3 == 0, "s": f"text {n}"} for n in range(count)]
    written = encode_parquet(plain(rows, schema), schema).data
    assert opened(written).read().to_pylist() == to_table(rows, schema, "t").to_pylist()


def test_columns_with_nan_have_no_extremes_in_the_footer() -> None:
    """DuckDB, to which NaN is above every number, would pass over the row group for ``x > 5``."""
    schema = Schema(0, [{"name": "x", "type": "double"}, {"name": "y", "type": "double"}])
    rows = [{"x": math.nan, "y": 1.0}, {"x": 1.0, "y": 2.0}]
    group = opened(encode_parquet(plain(rows, schema), schema).data).metadata.row_group(0)
    assert not group.column(0).statistics.has_min_max
    assert (group.column(1).statistics.min, group.column(1).statistics.max) == (1.0, 2.0)


def test_long_texts_have_no_extremes_in_the_footer() -> None:
    """Bounds of theirs would be cut short, and there are readers that answer ``max(s)`` with them."""
    schema = Schema(0, [{"name": "s", "type": "string"}, {"name": "short", "type": "string"}])
    group = opened(encode_parquet(plain([{"s": "a" * 17, "short": "é" * 16}], schema), schema).data).metadata.row_group(
        0
    )
    assert not group.column(0).statistics.has_min_max
    assert group.column(1).statistics.max == "é" * 16


def test_other_engines_read_the_file(tmp_path: Path) -> None:
    schema = Schema(0, [{"name": kind, "type": kind} for kind in TYPES])
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678901)
    full = {
        "boolean": True,
        "int": -5,
        "long": 2**40,
        "float": 0.5,
        "double": -0.25,
        "date": moment.date(),
        "timestamp": moment,
        "timestamptz": moment.replace(tzinfo=dt.UTC),
        "string": "text é " * 40,
        "binary": bytes(range(256)),
    }
    path = tmp_path / "f.parquet"
    path.write_bytes(bytes(encode_parquet(plain([full, {}, full], schema), schema).data))
    wanted = [full, dict.fromkeys(full), full]
    assert pl.read_parquet(path).to_dicts() == wanted
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    assert connection.execute("select * from read_parquet(?)", [str(path)]).to_arrow_table().to_pylist() == wanted
    for name, value in full.items():
        counted = connection.execute(f'select count(*) from read_parquet(?) where "{name}" = ?', [str(path), value])
        assert counted.fetchone() == (2,), name


class Text(str):
    """A subclass, which may hold more than its type does."""


NOT_PLAIN: list[tuple[str, Any]] = [
    ("boolean", 1),
    ("int", True),
    ("int", 2**31),
    ("int", 1.0),
    ("long", -(2**63) - 1),
    ("float", 1e39),
    ("float", 2**24 + 1),
    ("double", 2**53 + 1),
    ("double", "1"),
    ("date", dt.datetime(2026, 1, 1)),
    ("timestamp", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    ("timestamp", pd.Timestamp(1, unit="ns")),
    ("timestamptz", dt.datetime(2026, 1, 1)),
    ("timestamptz", dt.date(2026, 1, 1)),
    ("string", "\ud800"),
    ("string", b"text"),
    ("string", Text("text")),
    ("binary", "text"),
    ("binary", bytearray(b"text")),
]


@pytest.mark.parametrize(("kind", "value"), NOT_PLAIN)
def test_what_is_not_plainly_right_is_left_to_arrow(kind: str, value: Any) -> None:
    schema = Schema(0, [{"name": "v", "type": kind}])
    assert plain_rows([{"v": value}], schema) is None


@pytest.mark.parametrize(
    "data",
    [
        [],
        (),
        {"v": 1},
        "rows",
        iter([{"v": 1}]),
        [{"v": 1}, ("v", 1)],
        [OrderedDict(v=1)],
        [{"v": 1, "w": 2}],
        [{1: 1}],
        [{}],
        [{"v": None}],
        pa.table({"v": [1]}),
        [pa.record_batch({"v": [1]})],
        [{"v": 1}] * (FEW_ROWS + 1),
    ],
)
def test_so_is_data_of_another_shape(data: Any) -> None:
    assert plain_rows(data, Schema(0, [{"name": "v", "type": "long", "required": True}])) is None


@pytest.mark.parametrize("kind", ["time", "uuid", "decimal(9, 2)", "fixed[4]", {"type": "list", "element": "long"}])
def test_so_are_tables_with_other_columns(kind: Any) -> None:
    schema = Schema(0, [{"name": "n", "type": "long"}, {"name": "v", "type": kind}])
    assert plain_rows([{"n": 1}], schema) is None


def test_so_are_many_bytes() -> None:
    schema = Schema(0, [{"name": "s", "type": "string"}])
    assert plain([{"s": "é" * (FEW_BYTES // 2 - 8)}], schema).nbytes <= FEW_BYTES
    assert plain_rows([{"s": "é" * (FEW_BYTES // 2)}], schema) is None


@settings(max_examples=200)
@given(st.data())
def test_what_arrow_refuses_is_not_plain(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(TYPES))
    anything = st.one_of(*VALUES.values(), st.none(), st.integers(), st.times(), st.decimals(), st.uuids())
    rows = data.draw(st.lists(st.fixed_dictionaries({}, optional={"v": anything}), min_size=1, max_size=3))
    schema = Schema(0, [{"name": "v", "type": kind, "required": data.draw(st.booleans())}])
    try:
        table = to_table(rows, schema, "t")
    except InvalidRecordsError:
        assert plain_rows(rows, schema) is None
    else:
        found = plain_rows(rows, schema)
        assert found is None or bits(found.to_arrow()) == bits(table)


def test_rows_of_both_kinds_are_joined() -> None:
    schema = Schema(0, [{"name": "v", "type": "long"}])
    one, two = plain([{"v": 1}], schema), to_table([{"v": 2}], schema, "t")
    assert joined_rows([one]) is one
    assert joined_rows([two]) is two
    both = joined_rows([one, two, one])
    assert isinstance(both, pa.Table)
    assert both.column("v").to_pylist() == [1, 2, 1]
    assert arrow_of(two) is two


FLAT = Schema(
    fields=[{"id": 1, "name": "task", "type": "string", "required": True}, {"id": 2, "name": "n", "type": "int"}]
)


def test_a_table_takes_plain_rows_and_those_of_arrow(tmp_path: Path) -> None:
    table = ds.connect(tmp_path).create_table("t", FLAT)
    table.append([{"task": "a", "n": 1}])
    table.append(pa.table({"task": ["b"], "n": pa.array([2], pa.int32())}))
    table.append([{"task": f"c{n}"} for n in range(FEW_ROWS + 1)])
    files = [path.read_bytes() for path in (tmp_path / "t" / "data").glob("*.parquet")]
    assert sum(opened(data).metadata.created_by.startswith("datashard-core version") for data in files) == 1
    assert {("a", 1), ("b", 2)} <= {(row["task"], row["n"]) for row in table.scan().to_records()}
    assert table.count() == FEW_ROWS + 3
    assert table.scan(where=ds.col("task") == "a").to_records() == [{"task": "a", "n": 1}]


def test_the_same_id_is_the_same_append_whichever_way_it_goes(tmp_path: Path) -> None:
    table = ds.connect(tmp_path).create_table("t", FLAT)
    first = table.append([{"task": "a", "n": 1}, {"task": "b"}], append_id="one")
    again = table.append(pa.table({"task": ["a", "b"], "n": pa.array([1, None], pa.int8())}), append_id="one")
    assert (first.already_appended, again.already_appended) == (False, True)
    with pytest.raises(ds.AppendIdConflictError):
        table.append([{"task": "a", "n": 1}, {"task": "c"}], append_id="one")
    assert table.count() == 2


def test_threads_that_share_a_commit_append_plain_rows(tmp_path: Path) -> None:
    table = ds.connect(tmp_path).create_table("t", FLAT)
    threads = [threading.Thread(target=table.append, args=([{"task": "a", "n": n}],)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["n"] for row in table.scan().to_records()) == list(range(20))


def test_deferred_plain_rows_are_staged(tmp_path: Path) -> None:
    table = ds.connect(tmp_path).create_table("t", FLAT)
    table.append([{"task": "a", "n": 1}], commit="deferred")
    assert table.scan(include_staged=True).to_records() == [{"task": "a", "n": 1}]
    assert table.flush().scan().to_records() == [{"task": "a", "n": 1}]
