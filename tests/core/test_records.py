from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import re
import uuid
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datashard_core.errors import DataShardError, InvalidRecordsError
from datashard_core.format.rows.columns import column_array
from datashard_core.format.rows.records import to_table
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.types import PRIMITIVES, NestedField, parse_type
from datashard_core.format.types.values import MisfitError, clean_field

D = decimal.Decimal
UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
POINT: dict[str, Any] = {
    "type": "struct",
    "fields": [{"name": "x", "type": "double", "required": True}, {"name": "y", "type": "int"}],
}


def schema_of(kind: Any, required: bool = False) -> Schema:
    return Schema(0, [{"name": "v", "type": kind, "required": required}])


def stored(value: Any, kind: Any) -> Any:
    """The value as it comes back."""
    return to_table([{"v": value}], schema_of(kind), "t").to_pylist()[0]["v"]


def list_of(kind: Any, required: bool = False) -> dict[str, Any]:
    return {"type": "list", "element": kind, "element-required": required}


def map_of(key: Any, value: Any, required: bool = False) -> dict[str, Any]:
    return {"type": "map", "key": key, "value": value, "value-required": required}


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


ACCEPTED = [
    ("boolean", True, True),
    ("boolean", np.bool_(True), True),
    ("int", 2**31 - 1, 2**31 - 1),
    ("int", -(2**31), -(2**31)),
    ("int", np.int64(7), 7),
    ("int", Number.ONE, 1),
    ("long", 2**63 - 1, 2**63 - 1),
    ("long", np.uint64(5), 5),
    ("float", 0.5, 0.5),
    ("float", 0.1, float(np.float32(0.1))),
    ("float", np.float32(0.1), float(np.float32(0.1))),
    ("float", 2**24, 2.0**24),
    ("float", math.inf, math.inf),
    ("double", 0.1, 0.1),
    ("double", 2**60, 2.0**60),
    ("double", np.float32(0.1), float(np.float32(0.1))),
    ("double", -math.inf, -math.inf),
    ("decimal(5, 2)", D("1.5"), D("1.50")),
    ("decimal(5, 2)", D("1.5000"), D("1.50")),
    ("decimal(5, 2)", D("-999.99"), D("-999.99")),
    ("decimal(5, 2)", D("1E+2"), D(100)),
    ("decimal(5, 2)", 999, D(999)),
    ("decimal(38, 0)", 10**38 - 1, D(10**38 - 1)),
    ("date", dt.date(1, 1, 1), dt.date(1, 1, 1)),
    ("date", np.datetime64("2024-02-29"), dt.date(2024, 2, 29)),
    ("time", dt.time(23, 59, 59, 999999), dt.time(23, 59, 59, 999999)),
    (
        "timestamp",
        dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
    ),
    ("timestamp", np.datetime64("2024-01-01T00:00:00.000001000"), dt.datetime(2024, 1, 1, 0, 0, 0, 1)),
    ("timestamp", pd.Timestamp("2024-01-01 00:00:00.000001"), dt.datetime(2024, 1, 1, 0, 0, 0, 1)),
    ("timestamptz", dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
    (
        "timestamptz",
        dt.datetime(2024, 11, 3, 1, 30, tzinfo=ZoneInfo("America/New_York"), fold=1),
        dt.datetime(2024, 11, 3, 6, 30, tzinfo=dt.UTC),
    ),
    (
        "timestamptz",
        pd.Timestamp("2024-01-01", tz="Europe/Berlin"),
        dt.datetime(2023, 12, 31, 23, tzinfo=dt.UTC),
    ),
    ("string", "", ""),
    ("string", Colour.RED, "red"),
    ("string", np.str_("x"), "x"),
    ("uuid", UUID, UUID),
    ("uuid", str(UUID).upper(), UUID),
    ("binary", b"", b""),
    ("binary", bytearray(b"x"), b"x"),
    ("binary", memoryview(b"x"), b"x"),
    ("fixed[3]", b"abc", b"abc"),
    (list_of("int"), [1, None], [1, None]),
    (list_of("int"), (), []),
    (list_of("long"), np.array([1, 2]), [1, 2]),
    (list_of(list_of("uuid")), [[UUID], None, []], [[UUID], None, []]),
    (map_of("string", "long"), {"a": 1, "b": None}, [("a", 1), ("b", None)]),
    (map_of("string", "long"), [("a", 1)], [("a", 1)]),
    (map_of(POINT, "uuid"), [({"x": 1.0, "y": 1}, UUID)], [({"x": 1.0, "y": 1}, UUID)]),
    (POINT, {"x": 1}, {"x": 1.0, "y": None}),
    (list_of(POINT), [{"x": 0.5, "y": 1}, None], [{"x": 0.5, "y": 1}, None]),
]


def shown(value: Any) -> str:
    """A value in the name of a test: the same in every process."""
    return str(value)[:40].partition(" at 0x")[0]


@pytest.mark.parametrize(("kind", "value", "expected"), ACCEPTED, ids=shown)
def test_a_value_comes_back_as_it_was(kind: Any, value: Any, expected: Any) -> None:
    found = stored(value, kind)
    assert found == expected
    assert type(found) is type(expected)
    assert stored(None, kind) is None


@pytest.mark.parametrize("kind", ["float", "double"])
def test_nan_is_a_float_like_any_other(kind: str) -> None:
    assert math.isnan(stored(math.nan, kind))
    table = to_table([{"v": math.nan}], schema_of(kind, required=True), "t")
    assert table["v"].null_count == 0


REFUSED = [
    ("boolean", 1, "of type int is not boolean"),
    ("boolean", "true", "'true'"),
    ("int", 2**31, "out of the range of 32 bits"),
    ("int", -(2**31) - 1, "out of the range"),
    ("int", np.int64(2**40), "out of the range"),
    ("long", 2**63, "out of the range of 64 bits"),
    ("long", True, "True of type bool is not long"),
    ("long", np.bool_(True), "is not long"),
    ("long", 1.0, "1.0 of type float is not long"),
    ("long", "1", "'1' of type str is not long"),
    ("long", math.nan, "for a missing value pass None"),
    ("long", D(1), "is not long"),
    ("float", 1e39, "out of range"),
    ("float", 2**24 + 1, "no number of that type is exactly this one"),
    ("float", 10**400, "out of range"),
    ("double", 2**53 + 1, "no number of that type is exactly this one"),
    ("double", True, "True of type bool is not double"),
    ("double", D("0.5"), "is not double"),
    ("double", "0.5", "is not double"),
    ("decimal(5, 2)", D("1.001"), "more than 2 digits after the point"),
    ("decimal(5, 2)", D("1000"), "3 digits before the point"),
    ("decimal(5, 2)", 1000, "3 digits before the point"),
    ("decimal(5, 2)", D("NaN"), "neither NaN nor infinity"),
    ("decimal(5, 2)", D("-Infinity"), "neither NaN nor infinity"),
    ("decimal(5, 2)", D("1E+999999"), "out of range"),
    ("decimal(5, 2)", 1.5, "pass a decimal.Decimal"),
    ("decimal(5, 2)", True, "is not decimal(5, 2)"),
    ("decimal(5, 2)", math.nan, "for a missing value pass None"),
    ("date", dt.datetime(2024, 1, 1), "pass value.date()"),
    ("date", "2024-01-01", "is not date"),
    ("date", np.datetime64("2024-01-01T00:00"), "is not date"),
    ("time", dt.time(1, tzinfo=dt.UTC), "no time zone"),
    ("time", dt.datetime(2024, 1, 1), "is not time"),
    ("timestamp", dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "has a time zone"),
    ("timestamp", dt.date(2024, 1, 1), "pass a datetime.datetime"),
    ("timestamp", "2024-01-01T00:00:00", "is not timestamp"),
    ("timestamp", 1704067200, "is not timestamp"),
    ("timestamp", pd.Timestamp(1), "nanoseconds"),
    ("timestamp", pd.NaT, "for a missing value pass None"),
    ("timestamp", np.datetime64(1, "ns"), "round it first"),
    ("timestamp", np.datetime64("NaT", "us"), "for a missing value pass None"),
    ("timestamp", np.datetime64("2024-01-01"), "is not timestamp"),
    ("timestamptz", dt.datetime(2024, 1, 1), "no time zone"),
    ("timestamptz", dt.date(2024, 1, 1), "pass a datetime.datetime"),
    ("string", b"x", "is not string"),
    ("string", 1, "is not string"),
    ("string", math.nan, "for a missing value pass None"),
    ("string", pd.NA, "for a missing value pass None"),
    ("string", "\ud800", "surrogate"),
    ("uuid", "12345678123456781234567812345678", "canonical"),
    ("uuid", "nope", "pass a uuid.UUID"),
    ("uuid", UUID.bytes, "is not uuid"),
    ("binary", "x", "is not binary"),
    ("fixed[3]", b"ab", "it has 2 bytes"),
    ("fixed[3]", "abc", "is not fixed[3]"),
    (list_of("int"), "12", "is not list<int>"),
    (list_of("int"), {1, 2}, "is not list<int>"),
    (list_of("int"), np.int64(1), "is not list<int>"),
    (map_of("string", "long"), [("a", 1), ("a", 2)], "the key 'a' twice"),
    (map_of("uuid", "long"), {UUID: 1, str(UUID): 2}, "twice"),
    (map_of("string", "long"), [["a", 1]], "is not map<string, long>"),
    (map_of("string", "long"), "ab", "is not map<string, long>"),
    (POINT, [1.0, 2], "is not struct"),
]


@pytest.mark.parametrize(("kind", "value", "says"), REFUSED, ids=shown)
def test_a_value_that_does_not_fit_is_named(kind: Any, value: Any, says: str) -> None:
    rows = [{"v": None}, {"v": None}, {"v": value}]
    with pytest.raises(InvalidRecordsError) as caught:
        to_table(rows, schema_of(kind), "sales.orders")
    message = str(caught.value)
    assert says in message
    assert message.startswith("table sales.orders: row 2, field 'v': ")
    assert message.endswith("Nothing was written.")


@pytest.mark.parametrize(
    ("kind", "value", "path"),
    [
        (list_of("int"), [1, "x"], "v.element"),
        (list_of("int", required=True), [1, None], "v.element"),
        (list_of(POINT), [{"x": 1.0}, {"x": 1.0, "y": 0.5}], "v.element.y"),
        (list_of(POINT), [{"y": 1}], "v.element.x"),
        (POINT, {"x": None}, "v.x"),
        (POINT, {"x": 1.0, "z": 1}, "v.z"),
        (map_of("string", "long"), {1: 1}, "v.key"),
        (map_of("string", "long"), {None: 1}, "v.key"),
        (map_of("string", "long"), {"a": "x"}, "v.value"),
        (map_of("string", "long", required=True), {"a": None}, "v.value"),
    ],
)
def test_a_nested_value_is_named_by_its_path(kind: Any, value: Any, path: str) -> None:
    with pytest.raises(InvalidRecordsError, match=re.escape(f"row 1, field '{path}'")):
        to_table([{"v": None}, {"v": value}], schema_of(kind), "t")


def test_null_and_absence_in_required_fields() -> None:
    schema = schema_of("long", required=True)
    with pytest.raises(InvalidRecordsError, match="row 1, field 'v': None in a required field of type long"):
        to_table([{"v": 1}, {"v": None}], schema, "t")
    with pytest.raises(InvalidRecordsError, match="row 1, field 'v': the required field of type long is missing"):
        to_table([{"v": 1}, {}], schema, "t")
    assert to_table([{"v": 1}, {}], schema_of("long"), "t").to_pylist() == [{"v": 1}, {"v": None}]


def through_parquet(table: pa.Table) -> list[dict[str, Any]]:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(sink.getvalue())).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("boolean", True),
        ("int", 1),
        ("long", 1),
        ("float", 0.5),
        ("double", 0.5),
        ("decimal(9, 2)", D("1.50")),
        ("date", dt.date(2024, 1, 1)),
        ("time", dt.time(1)),
        ("timestamp", dt.datetime(2024, 1, 1)),
        ("timestamptz", dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
        ("string", "x"),
        ("uuid", UUID),
        ("fixed[2]", b"ab"),
        ("binary", b"x"),
        (list_of("int"), [1]),
        (map_of("int", "int"), [(1, 2)]),
        (POINT, {"x": 1.0, "y": None}),
    ],
)
def test_a_null_struct_needs_none_of_its_required_fields(kind: Any, value: Any) -> None:
    """Parquet's writer refuses null in a required field, even where the struct around it is null."""
    fields = [{"name": "p", "type": kind, "required": True}, {"name": "q", "type": "int"}]
    schema = Schema(0, [{"name": "v", "type": {"type": "struct", "fields": fields}}, {"name": "w", "type": "int"}])
    rows = [{"v": None, "w": None}, {"v": {"p": value, "q": None}, "w": None}, {"v": None, "w": 1}]
    table = to_table(rows, schema, "t")
    assert table.to_pylist() == rows
    assert through_parquet(table) == rows
    struct = table["v"].combine_chunks()
    nulls_below = [pc.if_else(struct.is_valid(), pa.array([0, 1, 0]), None), pa.nulls(3)]
    columns = [struct.field(0).take(nulls_below[0]), nulls_below[1]]
    foreign = pa.StructArray.from_arrays(columns, names=["p", "q"], mask=struct.is_null())
    again = to_table(pa.table({"v": foreign, "w": table["w"]}), schema, "t")
    assert again.to_pylist() == rows
    assert through_parquet(again) == rows
    assert through_parquet(to_table(again.slice(1), schema, "t")) == rows[1:]
    assert through_parquet(to_table(pa.table({"w": [1, 2]}), schema, "t")) == [
        {"v": None, "w": 1},
        {"v": None, "w": 2},
    ]


def test_unknown_fields_are_named_with_row_and_value() -> None:
    with pytest.raises(
        InvalidRecordsError, match=re.escape("row 1, field 'V': there is no such field (its value is 2)")
    ):
        to_table([{"v": 1}, {"V": 2}], schema_of("long"), "t")
    with pytest.raises(InvalidRecordsError, match="row 0, field '3'"):
        to_table([{3: 1}], schema_of("long"), "t")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "no rows"),
        ((), "no rows"),
        (iter([]), "no rows"),
        (pa.table({"v": pa.array([], pa.int64())}), "no rows"),
        (pd.DataFrame({"v": []}), "no rows"),
        (pl.DataFrame({"v": []}), "no rows"),
        ({"v": 1}, "one mapping"),
        ("v", "holds no rows"),
        (None, "holds no rows"),
        (5, "holds no rows"),
        ([1], "row 0 is 1 of type int"),
        ([{"v": 1}, ("v", 1)], "row 1 is ('v', 1)"),
        ([None], "row 0 is None"),
        (iter([None]), "row 0 is None"),
        ([pa.table({"v": [1]}), {"v": 1}], "item 1 is a dict"),
        (pd.Series([1]), "no table with named columns"),
        (pl.Series([1]), "no table with named columns"),
        (pa.array([1]), "no table with named columns"),
    ],
)
def test_what_holds_no_rows_is_refused(data: Any, says: str) -> None:
    with pytest.raises(InvalidRecordsError, match=re.escape(says)) as caught:
        to_table(data, schema_of("long"), "t")
    assert str(caught.value).startswith("table t: ")


def test_long_values_and_broken_reprs_are_cut_short() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(InvalidRecordsError, match="RuntimeError") as caught:
        to_table([{"v": Broken()}], schema_of("long"), "t")
    with pytest.raises(InvalidRecordsError) as caught:
        to_table([{"v": "x" * 10_000}], schema_of("long"), "t")
    assert len(str(caught.value)) < 300


def test_rows_of_any_mapping_and_iterable() -> None:
    class Row(dict[str, Any]):
        pass

    expected = [{"v": 1}, {"v": 2}]
    schema = schema_of("long")
    assert to_table((Row(row) for row in expected), schema, "t").to_pylist() == expected
    assert to_table(tuple(expected), schema, "t").to_pylist() == expected


def test_the_table_has_the_schemas_own_arrow_form() -> None:
    schema = Schema(0, [{"name": "b", "type": list_of(POINT)}, {"name": "a", "type": map_of("string", "uuid")}])
    row = {"a": {"k": UUID}, "b": [{"x": 1.0, "y": 2}]}
    for data in ([row], to_table([row], schema, "t"), to_table([row], schema, "t").to_batches()):
        table = to_table(data, schema, "t")
        assert table.schema.equals(schema.to_arrow(), check_metadata=True)
        assert table["b"].type.equals(schema.to_arrow().field("b").type, check_metadata=True)
        table.validate(full=True)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**33), 2**33),
    st.floats(),
    st.floats(width=32),
    st.decimals(allow_nan=True),
    st.decimals(-1000, 1000, places=2),
    st.text(),
    st.binary(max_size=4),
    st.dates(),
    st.times(),
    st.datetimes(),
    st.datetimes(timezones=st.sampled_from([dt.UTC, ZoneInfo("Asia/Kolkata"), dt.timezone(dt.timedelta(hours=-3))])),
    st.uuids(),
    st.uuids().map(str),
    st.lists(st.integers() | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers() | st.floats() | st.none(), max_size=3),
    st.fixed_dictionaries({"x": st.floats()}, optional={"y": st.integers() | st.none()}),
)
KINDS: list[Any] = [
    *PRIMITIVES,
    "decimal(9, 2)",
    "fixed[2]",
    {"type": "list", "element-id": 1, "element": "int"},
    {"type": "map", "key-id": 1, "key": "string", "value-id": 2, "value": "long"},
    {"type": "struct", "fields": [{"id": n, **field} for n, field in enumerate(POINT["fields"])]},
]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(KINDS), st.lists(VALUES, max_size=4), st.booleans())
def test_the_quick_way_agrees_with_the_careful_one(kind: Any, values: list[Any], required: bool) -> None:
    """Columns are judged by the types of their values; one value at a time has to give the same."""
    field = NestedField(9, "v", parse_type(kind), required)
    try:
        cleaned = [clean_field(value, field, "v") for value in values]
    except MisfitError:
        with pytest.raises(MisfitError):
            column_array(values, field, "v")
        return
    assert column_array(values, field, "v").equals(column_array(cleaned, field, "v"))


def cast(values: list[Any], source: pa.DataType) -> pa.Table:
    return pa.table({"v": pa.array(values, source)})


@pytest.mark.parametrize(
    ("kind", "column", "expected"),
    [
        ("int", pa.array([1, None], pa.int64()), [1, None]),
        ("int", pa.array([1], pa.uint64()), [1]),
        ("long", pa.array([1], pa.int8()), [1]),
        ("long", pa.array(["a"]).filter(pa.array([False])), []),
        ("float", pa.array([0.5, math.inf, None]), [0.5, math.inf, None]),
        ("float", pa.array([0.5], pa.float16()), [0.5]),
        ("float", pa.array([3]), [3.0]),
        ("double", pa.array([0.5], pa.float32()), [0.5]),
        ("double", pa.array([2**60]), [2.0**60]),
        ("decimal(9, 2)", pa.array([D("1.500")], pa.decimal128(20, 3)), [D("1.50")]),
        ("decimal(9, 2)", pa.array([D("1.5")], pa.decimal256(50, 1)), [D("1.50")]),
        ("decimal(9, 2)", pa.array([D("1.5")], pa.decimal32(5, 1)), [D("1.50")]),
        ("decimal(9, 2)", pa.array([7, None]), [D(7), None]),
        ("date", pa.array([dt.date(2024, 1, 1)], pa.date64()), [dt.date(2024, 1, 1)]),
        ("time", pa.array([dt.time(1)], pa.time32("s")), [dt.time(1)]),
        ("time", pa.array([1000], pa.time64("ns")), [dt.time(0, 0, 0, 1)]),
        ("timestamp", pa.array([1], pa.timestamp("s")), [dt.datetime(1970, 1, 1, 0, 0, 1)]),
        ("timestamp", pa.array([1000], pa.timestamp("ns")), [dt.datetime(1970, 1, 1, 0, 0, 0, 1)]),
        (
            "timestamptz",
            pa.array([1], pa.timestamp("ms", "Asia/Tokyo")),
            [dt.datetime(1970, 1, 1, 0, 0, 0, 1000, dt.UTC)],
        ),
        ("string", pa.array(["a", None], pa.large_string()), ["a", None]),
        ("string", pa.array(["a", None], pa.string_view()), ["a", None]),
        ("string", pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        ("binary", pa.array([b"a"], pa.large_binary()), [b"a"]),
        ("binary", pa.array([b"a"], pa.binary(1)), [b"a"]),
        ("fixed[2]", pa.array([b"ab"], pa.large_binary()), [b"ab"]),
        ("uuid", pa.array([UUID.bytes], pa.binary(16)), [UUID]),
        ("uuid", pa.array([str(UUID), None]), [UUID, None]),
        ("string", pa.nulls(2), [None, None]),
        ("string", pa.nulls(2, pa.float64()), [None, None]),
        (
            list_of("int"),
            pa.array([[1], None, [], [2, None]], pa.large_list(pa.int64())),
            [[1], None, [], [2, None]],
        ),
        (list_of("int"), pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)).slice(1), [None, [3, 4]]),
        (list_of("int"), pa.array([[1], None, [2, 3]], pa.list_view(pa.int8())), [[1], None, [2, 3]]),
        (list_of("string"), pa.array([["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), [["a"]]),
        (
            map_of("string", "long"),
            pa.array([[("z", 0)], None, [("a", 1), ("b", None)]], pa.map_(pa.large_string(), pa.int8())).slice(1),
            [None, [("a", 1), ("b", None)]],
        ),
        (
            map_of("uuid", "long"),
            pa.array([[(UUID.bytes, 1)]], pa.map_(pa.binary(16), pa.int8())),
            [[(UUID, 1)]],
        ),
        (
            POINT,
            pa.array([{"x": 9}, None, {"x": 1}], pa.struct([("x", pa.int8())])).slice(1),
            [None, {"x": 1.0, "y": None}],
        ),
    ],
    ids=lambda value: str(getattr(value, "type", ""))[:40],
)
def test_arrow_columns_are_cast_without_loss(kind: Any, column: Any, expected: list[Any]) -> None:
    data = pa.table({"v": column, "n": pa.array(range(len(column)))})
    schema = Schema(0, [{"name": "n", "type": "long", "required": True}, {"name": "v", "type": kind}])
    if not expected:
        data, expected = (
            pa.concat_tables([data, pa.table({"v": pa.nulls(1), "n": [0]})], promote_options="permissive"),
            [None],
        )
    table = to_table(data, schema, "t")
    assert [row["v"] for row in table.to_pylist()] == expected
    assert table.schema.equals(schema.to_arrow(), check_metadata=True)
    table.validate(full=True)


@pytest.mark.parametrize(
    ("kind", "column", "row", "says"),
    [
        ("int", pa.array([0, 1, 2**31, 5]), 2, "2147483648 of Arrow type int64 is not int"),
        ("long", pa.array([0, 2**63], pa.uint64()), 1, "9223372036854775808"),
        ("long", pa.array([None, 1.0]), 1, "use astype('Int64')"),
        ("long", pa.array(["1"]), 0, "'1' of Arrow type string is not long"),
        ("long", pa.array([True]), 0, "is not long"),
        ("double", pa.array([0, 2**53 + 1]), 1, "9007199254740993"),
        ("double", pa.array([D("1.5")]), 0, "is not double"),
        ("float", pa.array([math.nan, 0.5, 0.1]), 2, "0.1 of Arrow type double is not float"),
        ("float", pa.array([1e300]), 0, "is not float"),
        ("decimal(5, 2)", pa.array([D("1.00"), D("1.234")], pa.decimal128(10, 3)), 1, "1.234"),
        ("decimal(5, 2)", pa.array([D("1000.0")]), 0, "1000.0"),
        ("decimal(5, 2)", pa.array([1, 1000]), 1, "1000"),
        ("decimal(5, 2)", pa.array([1.5]), 0, "is not decimal(5, 2)"),
        ("date", pa.array([0], pa.timestamp("us")), 0, "time of day"),
        ("date", pa.array([0, 1], pa.date64()), 1, "is not date"),
        ("time", pa.array([0, 1], pa.time64("ns")), 1, "is not time"),
        ("timestamp", pa.array([0, 1000, 1], pa.timestamp("ns")), 2, "00:00:00.000000001"),
        ("timestamp", pa.array([0], pa.timestamp("us", "UTC")), 0, "time zone"),
        ("timestamp", pa.array([2**62], pa.timestamp("s")), 0, "is not timestamp"),
        ("timestamp", pa.array([0], pa.date32()), 0, "is not timestamp"),
        ("timestamptz", pa.array([0], pa.timestamp("us")), 0, "time zone"),
        ("string", pa.array([None, 1]), 1, "is not string"),
        ("string", pa.array([b"x"]), 0, "is not string"),
        ("binary", pa.array(["x"]), 0, "is not binary"),
        ("fixed[2]", pa.array([b"ab", None, b"abc"]), 2, "b'abc'"),
        ("fixed[2]", pa.array([b"abc"], pa.binary(3)), 0, "is not fixed[2]"),
        ("uuid", pa.array([None, "x"]), 1, "'x'"),
        ("uuid", pa.array([b"abc"]), 0, "is not uuid"),
        (list_of("int"), pa.array([None, 1]), 1, "is not list<int>"),
        (list_of("int"), pa.array([[1], [], None, [2, 2**40]]), 3, "'v.element'"),
        (list_of("int", required=True), pa.array([[1], [None]]), 1, "'v.element': None in a required field"),
        (
            list_of(POINT),
            pa.array([[], [{"x": 1.0}, {"x": None}]]),
            1,
            "'v.element.x': None in a required field",
        ),
        (
            map_of("string", "int"),
            pa.array([[], [("a", 2**40)]], pa.map_(pa.string(), pa.int64())),
            1,
            "'v.value'",
        ),
        (
            map_of("string", "int"),
            pa.array([[], [("a", 1)], [("b", 1), ("b", 2)]], pa.map_(pa.string(), pa.int64())),
            2,
            "the key 'b' twice",
        ),
        (POINT, pa.array([None, {"x": 1.0}, {"x": None}]), 2, "'v.x': None in a required field"),
        (POINT, pa.array([{"y": 1}]), 0, "'v.x': None in a required field"),
    ],
    ids=lambda value: str(getattr(value, "type", ""))[:40],
)
def test_arrow_columns_that_would_lose_something_are_refused(kind: Any, column: Any, row: int, says: str) -> None:
    data = pa.table({"v": column})
    schema = schema_of(kind)
    with pytest.raises(InvalidRecordsError, match=re.escape(says)) as caught:
        to_table(data, schema, "t")
    assert f"table t: row {row}, field 'v" in str(caught.value)
    before = pa.table({"v": pa.nulls(10, column.type)})
    with pytest.raises(InvalidRecordsError, match=f"row {row + 10}, "):
        to_table(pa.concat_tables([before, data]), schema, "t")
    with pytest.raises(InvalidRecordsError, match=f"row {row + 10}, "):
        to_table([before, data], schema, "t")


def test_nulls_in_a_required_column_are_named_by_row() -> None:
    with pytest.raises(InvalidRecordsError, match="row 2, field 'v': None in a required field"):
        to_table(pa.table({"v": [1, 2, None]}), schema_of("long", required=True), "t")
    with pytest.raises(InvalidRecordsError, match="row 0, field 'v': None in a required field"):
        to_table(pa.table({"v": pa.nulls(1)}), schema_of("long", required=True), "t")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pa.table({"v": [1], "w": [1]}), "the column 'w' is not in the schema"),
        (pa.table({"V": [1]}), "the column 'V' is not in the schema"),
        (pa.table([[1], [2]], names=["v", "v"]), "the column 'v' is there 2 times"),
        (pa.table({}), "no rows"),
        (pd.DataFrame([[1, 2]], columns=["v", "v"]), "the column 'v' is there 2 times"),
        (pd.DataFrame({0: [1]}), "a column named 0"),
        (pd.DataFrame({"v": [1], "w": [object()]}), "column 'w'"),
        (pd.DataFrame({"v": pd.Series([1], pd.Index([5], name="v"))}), "cannot become columns"),
        (pl.DataFrame({"v": [1], "w": [1]}), "the column 'w' is not in the schema"),
    ],
)
def test_columns_are_matched_by_name(data: Any, says: str) -> None:
    with pytest.raises(InvalidRecordsError, match=re.escape(says)):
        to_table(data, schema_of("long"), "t")


def test_a_missing_column_is_null_or_refused() -> None:
    fields: list[dict[str, Any]] = [{"name": "a", "type": "long"}, {"name": "b", "type": list_of(POINT)}]
    assert to_table(pa.table({"a": [1]}), Schema(0, fields), "t").to_pylist() == [{"a": 1, "b": None}]
    fields[1]["required"] = True
    with pytest.raises(InvalidRecordsError, match=r"'b' of type .* is required, and it is missing"):
        to_table(pa.table({"a": [1]}), Schema(0, fields), "t")


def test_structs_in_arrow_are_matched_by_name() -> None:
    swapped = pa.array([{"y": 1, "x": 2.0}], pa.struct([("y", pa.int64()), ("x", pa.float64())]))
    assert to_table(pa.table({"v": swapped}), schema_of(POINT), "t").to_pylist() == [{"v": {"x": 2.0, "y": 1}}]
    for kind, says in (
        (pa.struct([("x", pa.float64()), ("z", pa.int64())]), "v.'z' is not in the schema"),
        (pa.struct([("x", pa.float64()), ("x", pa.float64())]), "v.'x' is there 2 times"),
    ):
        column = pa.StructArray.from_arrays([pa.array([1.0]).cast(field.type) for field in kind], fields=list(kind))
        with pytest.raises(InvalidRecordsError, match=re.escape(says)):
            to_table(pa.table({"v": column}), schema_of(POINT), "t")


def streams() -> Iterator[Any]:
    table = pa.table({"v": pa.chunked_array([[1, 2], [3]])})
    yield table
    yield table.to_batches()
    yield iter(table.to_batches())
    yield table.to_reader()
    yield [table.slice(0, 1), table.slice(1)]
    yield pd.DataFrame({"v": [1, 2, 3]})
    yield pl.DataFrame({"v": [1, 2, 3]})
    yield [pl.DataFrame({"v": [1, 2]}), pd.DataFrame({"v": [3]})]
    yield pa.record_batch({"v": [1, 2, 3]})


@pytest.mark.parametrize("data", list(streams()), ids=lambda data: type(data).__module__ + "." + type(data).__name__)
def test_every_kind_of_data_gives_the_same_rows(data: Any) -> None:
    table = to_table(data, schema_of("long", required=True), "t")
    assert table.to_pylist() == [{"v": 1}, {"v": 2}, {"v": 3}]


def test_pandas_columns_of_every_sort() -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None], "Int64"),
            "f": [0.5, math.nan],
            "s": ["a", None],
            "c": pd.Categorical(["x", None]),
            "t": pd.Series([dt.datetime(2024, 1, 1), None], dtype="datetime64[ns]"),
            "z": pd.Series([dt.datetime(2024, 1, 1), None], dtype="datetime64[us]").dt.tz_localize("Europe/Berlin"),
            "d": pd.Series([dt.date(2024, 1, 1), None], dtype=object),
            "u": pd.Series([UUID, pd.NA], dtype=object),
            "m": pd.Series([D("1.5"), math.nan], dtype=object),
            "l": pd.Series([[1, 2], None], dtype=object),
            "a": pd.Series([np.array([1, 2]), None], dtype=object),
            "o": pd.Series([None, None], dtype=object),
        }
    )
    kinds: dict[str, Any] = {
        "n": "long",
        "f": "double",
        "s": "string",
        "c": "string",
        "t": "timestamp",
        "z": "timestamptz",
        "d": "date",
        "u": "uuid",
        "m": "decimal(5, 2)",
        "l": list_of("int"),
        "a": list_of("long"),
        "o": "string",
    }
    schema = Schema(0, [{"name": name, "type": kind} for name, kind in kinds.items()])
    first, second = to_table(frame, schema, "t").to_pylist()
    assert first == {
        "n": 1,
        "f": 0.5,
        "s": "a",
        "c": "x",
        "t": dt.datetime(2024, 1, 1),
        "z": dt.datetime(2023, 12, 31, 23, tzinfo=dt.UTC),
        "d": dt.date(2024, 1, 1),
        "u": UUID,
        "m": D("1.50"),
        "l": [1, 2],
        "a": [1, 2],
        "o": None,
    }
    assert second == dict.fromkeys(kinds)


def test_pandas_object_columns_name_the_row() -> None:
    frame = pd.DataFrame({"v": pd.Series([1, "x"], dtype=object)})
    with pytest.raises(InvalidRecordsError, match="row 1, field 'v': 'x' of type str is not long"):
        to_table(frame, schema_of("long"), "t")


def test_pandas_integers_with_gaps_are_explained() -> None:
    with pytest.raises(InvalidRecordsError, match="astype"):
        to_table(pd.DataFrame({"v": [1, None]}), schema_of("long"), "t")


def test_pandas_index_counts_if_it_has_a_name() -> None:
    frame = pd.DataFrame({"k": ["a", "a", "b"], "v": [1, 2, 3]})
    schema = Schema(0, [{"name": "k", "type": "string"}, {"name": "v", "type": "long"}])
    assert to_table(frame.groupby("k").sum(), schema, "t").to_pylist() == [
        {"k": "a", "v": 3},
        {"k": "b", "v": 3},
    ]
    assert to_table(frame[1:], schema, "t").num_rows == 2


def test_polars_columns_of_every_sort() -> None:
    frame = pl.DataFrame(
        {
            "n": [1, None],
            "s": ["a", None],
            "c": pl.Series(["x", None], dtype=pl.Categorical),
            "t": pl.Series([dt.datetime(2024, 1, 1), None], dtype=pl.Datetime("ns")),
            "z": pl.Series([dt.datetime(2024, 1, 1, tzinfo=dt.UTC), None], dtype=pl.Datetime("ms", "Asia/Tokyo")),
            "o": [dt.time(1), None],
            "m": [D("1.5"), None],
            "l": [[1, 2], None],
            "p": [{"x": 1.0, "y": 2}, None],
            "b": [b"ab", None],
            "w": [["x", None], None],
            "e": pl.Series([["x", "y"], None], dtype=pl.Array(pl.String, 2)),
            "g": pl.Series([["x"], None], dtype=pl.List(pl.Categorical)),
        }
    )
    kinds: dict[str, Any] = {
        "n": "int",
        "s": "string",
        "c": "string",
        "t": "timestamp",
        "z": "timestamptz",
        "o": "time",
        "m": "decimal(5, 2)",
        "l": list_of("int"),
        "p": POINT,
        "b": "fixed[2]",
        "w": list_of("string"),
        "e": list_of("string"),
        "g": list_of("string"),
    }
    schema = Schema(0, [{"name": name, "type": kind} for name, kind in kinds.items()])
    first, second = to_table(frame, schema, "t").to_pylist()
    assert first == {
        "n": 1,
        "s": "a",
        "c": "x",
        "t": dt.datetime(2024, 1, 1),
        "z": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "o": dt.time(1),
        "m": D("1.50"),
        "l": [1, 2],
        "p": {"x": 1.0, "y": 2},
        "b": b"ab",
        "w": ["x", None],
        "e": ["x", "y"],
        "g": ["x"],
    }
    assert second["p"] is None
    assert second == dict.fromkeys(kinds)


@pytest.mark.parametrize("base", [DataShardError, ValueError])
def test_every_refusal_is_one_of_ours(base: type[Exception]) -> None:
    with pytest.raises(base, match="table t: row 0, field 'v': 'x' of type str is not long"):
        to_table([{"v": "x"}], schema_of("long"), "t")
