from __future__ import annotations

import datetime as dt
import decimal
import json
import pickle
import re
import uuid
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datashard_core.errors import ConfigurationError, InvalidRecordsError
from datashard_core.format.rows.records import to_table
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.types import DecimalType, ListType, NestedField, PrimitiveType, StructType, walk

EVERY_TYPE = [
    {"id": 1, "name": "boolean", "type": "boolean"},
    {"id": 2, "name": "int", "type": "int"},
    {"id": 3, "name": "long", "type": "long", "required": True},
    {"id": 4, "name": "float", "type": "float"},
    {"id": 5, "name": "double", "type": "double"},
    {"id": 6, "name": "decimal", "type": "decimal(38, 10)", "doc": "a comment"},
    {"id": 7, "name": "date", "type": "date"},
    {"id": 8, "name": "time", "type": "time"},
    {"id": 9, "name": "timestamp", "type": "timestamp"},
    {"id": 10, "name": "timestamptz", "type": "timestamptz"},
    {"id": 11, "name": "string", "type": "string"},
    {"id": 12, "name": "uuid", "type": "uuid"},
    {"id": 13, "name": "fixed", "type": "fixed[3]"},
    {"id": 14, "name": "binary", "type": "binary"},
    {
        "id": 15,
        "name": "points",
        "type": {
            "type": "list",
            "element-id": 18,
            "element-required": True,
            "element": {
                "type": "struct",
                "fields": [
                    {"id": 19, "name": "x", "type": "double", "required": True},
                    {"id": 20, "name": "u", "type": "uuid"},
                ],
            },
        },
    },
    {
        "id": 16,
        "name": "attributes",
        "type": {
            "type": "map",
            "key-id": 21,
            "key": "string",
            "value-id": 22,
            "value": "long",
            "value-required": True,
        },
    },
    {
        "id": 17,
        "name": "inner",
        "type": {"type": "struct", "fields": [{"id": 23, "name": "a", "type": "int"}]},
    },
]


def every_type() -> Schema:
    return Schema(1, EVERY_TYPE)


def test_the_form_of_the_documentation() -> None:
    schema = Schema(
        schema_id=1,
        fields=[
            {"id": 1, "name": "user_id", "type": "long", "required": True},
            {"id": 2, "name": "event", "type": "string"},
        ],
    )
    assert schema.schema_id == 1
    assert schema.names == ["user_id", "event"]
    assert schema.fields[0] == NestedField(1, "user_id", PrimitiveType("long"), True)
    assert schema.field("event").required is False
    assert repr(schema) == "Schema(schema_id=1, fields=[1: user_id: required long, 2: event: optional string])"


def test_look_ups_reach_every_depth() -> None:
    schema = every_type()
    assert schema.highest_field_id == 23
    found = schema.find(20)
    assert found is not None
    assert found.name == "u"
    assert schema.find(99) is None
    with pytest.raises(ConfigurationError, match="'nope'"):
        schema.field("nope")


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ([], "no field"),
        ([{"id": 1, "name": "a", "type": "int"}, {"id": 2, "name": "a", "type": "int"}], "'a'"),
        ([{"id": 1, "name": "a", "type": "int"}, {"id": 1, "name": "b", "type": "int"}], "same id 1"),
        (
            [{"id": 1, "name": "a", "type": {"type": "list", "element-id": 1, "element": "int"}}],
            "'a' and 'a.element' have the same id 1",
        ),
        ([{"id": 1, "name": "a", "type": "int"}, {"name": "b", "type": "int"}], "'id'"),
        ([{"id": 1, "name": "a", "type": "integer"}], "'integer'"),
        ({"a": "int"}, "list of fields"),
        ("a int", "list of fields"),
    ],
)
def test_schemas_that_cannot_be_are_refused(fields: object, names: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(names)):
        Schema(0, fields)  # type: ignore[arg-type]


def test_identifier_fields_have_to_exist() -> None:
    fields = [{"id": 1, "name": "a", "type": "int", "required": True}]
    assert Schema(0, fields, [1]).to_dict()["identifier-field-ids"] == [1]
    with pytest.raises(ConfigurationError, match="identifier_field_ids has 7, the id of no field"):
        Schema(0, fields, [7])


def test_ids_are_given_out_as_iceberg_does() -> None:
    """All fields of a struct first, then what is inside each of them."""
    inner = {"type": "struct", "fields": [{"name": "p", "type": "int"}, {"name": "q", "type": "int"}]}
    outer = {"type": "struct", "fields": [{"name": "x", "type": inner}, {"name": "y", "type": "int"}]}
    schema = Schema(0, [{"name": "a", "type": outer}, {"name": "b", "type": {"type": "list", "element": "int"}}])
    paths = {path: field.field_id for path, field in walk(schema.fields)}
    assert paths == {"a": 1, "b": 2, "a.x": 3, "a.y": 4, "a.x.p": 5, "a.x.q": 6, "b.element": 7}


def test_json_form_is_icebergs() -> None:
    schema = every_type()
    raw = json.loads(json.dumps(schema.to_dict()))
    assert Schema.from_dict(raw) == schema
    assert raw["type"] == "struct"
    assert raw["schema-id"] == 1
    with pytest.raises(ConfigurationError, match="fields"):
        Schema.from_dict({"schema-id": 1})


def test_arrow_form_has_every_id_and_comes_back() -> None:
    schema = every_type()
    back = Schema.from_arrow(schema.to_arrow(), schema_id=1)
    assert back == schema
    assert back.highest_field_id == 23
    assert schema.to_arrow().field("long").nullable is False
    assert schema.to_arrow().field("points").type.value_field.metadata == {b"PARQUET:field_id": b"18"}
    assert schema.to_arrow() is schema.to_arrow()


def test_uuid_is_a_uuid_for_duckdb(tmp_path: Path) -> None:
    schema = every_type()
    value = uuid.uuid4()
    table = to_table([{"long": 1, "uuid": value, "points": [{"x": 1.0, "u": value}]}], schema, "t")
    pq.write_table(table, tmp_path / "t.parquet")
    rows = duckdb.sql(f"select uuid, points[1].u, typeof(uuid) from '{tmp_path}/t.parquet'").fetchall()
    assert rows == [(value, value, "UUID")]


@pytest.mark.parametrize(
    ("arrow", "iceberg"),
    [
        (pa.bool_(), "boolean"),
        (pa.int8(), "int"),
        (pa.int16(), "int"),
        (pa.int32(), "int"),
        (pa.uint8(), "int"),
        (pa.uint16(), "int"),
        (pa.uint32(), "long"),
        (pa.int64(), "long"),
        (pa.float16(), "float"),
        (pa.float32(), "float"),
        (pa.float64(), "double"),
        (pa.decimal32(5, 2), "decimal(5, 2)"),
        (pa.decimal64(5, 2), "decimal(5, 2)"),
        (pa.decimal128(38, 2), "decimal(38, 2)"),
        (pa.decimal256(38, 2), "decimal(38, 2)"),
        (pa.date32(), "date"),
        (pa.date64(), "date"),
        (pa.time32("s"), "time"),
        (pa.time64("ns"), "time"),
        (pa.timestamp("s"), "timestamp"),
        (pa.timestamp("ns"), "timestamp"),
        (pa.timestamp("ms", "Europe/Berlin"), "timestamptz"),
        (pa.string(), "string"),
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.binary(), "binary"),
        (pa.large_binary(), "binary"),
        (pa.binary_view(), "binary"),
        (pa.binary(7), "fixed[7]"),
        (pa.uuid(), "uuid"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.run_end_encoded(pa.int32(), pa.int64()), "long"),
        (pa.list_(pa.int8()), "list<int>"),
        (pa.large_list(pa.int8()), "list<int>"),
        (pa.list_(pa.int8(), 3), "list<int>"),
        (pa.list_view(pa.int8()), "list<int>"),
        (pa.large_list_view(pa.int8()), "list<int>"),
        (pa.map_(pa.string(), pa.int64()), "map<string, long>"),
        (pa.struct([("a", pa.int64())]), "struct<a: long>"),
    ],
)
def test_every_arrow_type_has_its_counterpart(arrow: pa.DataType, iceberg: str) -> None:
    schema = Schema.from_arrow(pa.schema([pa.field("c", arrow, nullable=False)]), schema_id=3)
    assert str(schema.fields[0].type) == iceberg
    assert (schema.fields[0].field_id, schema.fields[0].required, schema.schema_id) == (1, True, 3)


@pytest.mark.parametrize(
    ("arrow", "names"),
    [
        (pa.uint64(), "'c' has the Arrow type uint64"),
        (pa.null(), "null"),
        (pa.duration("s"), "duration"),
        (pa.decimal256(50, 2), "decimal(50, 2)"),
        (pa.decimal128(5, -2), "decimal(5, -2)"),
        (pa.month_day_nano_interval(), "interval"),
        (pa.list_(pa.uint64()), "'c.element'"),
        (pa.struct([("a", pa.null())]), "'c.a'"),
        (pa.map_(pa.uint64(), pa.int8()), "'c.key'"),
    ],
)
def test_arrow_types_without_a_counterpart_are_refused(arrow: pa.DataType, names: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(names)):
        Schema.from_arrow(pa.schema([("c", arrow)]))


def test_ids_of_parquet_files_are_kept_only_if_whole() -> None:
    def field(name: str, field_id: str) -> pa.Field:
        return pa.field(name, pa.int64(), metadata={"PARQUET:field_id": field_id} if field_id else None)

    def ids(*given: str) -> list[int]:
        fields = [field(f"c{index}", field_id) for index, field_id in enumerate(given)]
        return [found.field_id for found in Schema.from_arrow(pa.schema(fields)).fields]

    assert ids("7", "5") == [7, 5]
    assert ids("7", "") == [1, 2]
    assert ids("7", "7") == [1, 2]
    assert ids("-1", "3") == [1, 2]


def test_infer_from_python_values() -> None:
    schema = Schema.infer(
        [
            {"i": 1, "f": 1, "d": decimal.Decimal("1.5"), "l": [], "s": {"a": None}, "n": None},
            {"i": np.int32(2), "f": 2.5, "d": decimal.Decimal("100"), "l": [1], "s": {"b": "x"}, "n": True},
            {
                "t": dt.datetime(2024, 1, 1),
                "z": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
                "day": dt.date(2024, 1, 1),
            },
            {"o": dt.time(1), "u": uuid.uuid4(), "x": b"x", "s": {"a": 1}},
        ],
        schema_id=2,
    )
    kinds = {field.name: str(field.type) for field in schema.fields}
    assert kinds == {
        "i": "long",
        "f": "double",
        "d": "decimal(4, 1)",
        "l": "list<long>",
        "s": "struct<a: long, b: string>",
        "n": "boolean",
        "t": "timestamp",
        "z": "timestamptz",
        "day": "date",
        "o": "time",
        "u": "uuid",
        "x": "binary",
    }
    assert not any(field.required for field in schema.fields)
    assert [field.field_id for field in schema.fields] == list(range(1, 13))
    assert schema.schema_id == 2


def test_what_is_inferred_takes_the_rows() -> None:
    rows = [{"a": 1, "b": [{"c": decimal.Decimal("1E+3")}]}, {"a": 2.5, "b": None}]
    table = to_table(rows, Schema.infer(rows), "t")
    assert table.to_pylist() == [{"a": 1.0, "b": [{"c": decimal.Decimal(1000)}]}, {"a": 2.5, "b": None}]


@pytest.mark.parametrize(
    "columns",
    [
        pa.table({"a": [1], "b": ["x"]}),
        pa.table({"a": [1], "b": ["x"]}).to_batches()[0],
        pd.DataFrame({"a": [1], "b": ["x"]}),
        pl.DataFrame({"a": [1], "b": ["x"]}),
    ],
    ids=lambda value: type(value).__module__,
)
def test_infer_from_columns(columns: object) -> None:
    schema = Schema.infer(columns)
    assert [str(field) for field in schema.fields] == ["1: a: optional long", "2: b: optional string"]


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([], "no row"),
        ([{}], "no row with a field"),
        ([{"a": None}], "'a'"),
        ([{"a": [None]}], "'a.element'"),
        ([{"a": 1}, {"a": "x"}], "row 1, field 'a' is string, and in the rows before it is long"),
        ([{"a": {"b": 1}}, {"a": {"b": True}}], "row 1, field 'a.b'"),
        ([{"a": 2**63}], "9223372036854775808"),
        ([{"a": object}], "row 0, field 'a'"),
        ([{"a": decimal.Decimal("NaN")}], "NaN"),
        ([{"a": decimal.Decimal("1E+40")}], "no decimal type"),
        ([{1: 1}], "name 1"),
        (["x"], "row 0"),
        ({"a": 1}, "list of dicts"),
        (pl.Series([1]), "no table"),
    ],
)
def test_rows_without_a_schema_are_refused(rows: object, names: str) -> None:
    with pytest.raises(InvalidRecordsError, match=re.escape(names)):
        Schema.infer(rows)


def test_differences_are_sentences() -> None:
    fields = [
        {"id": 1, "name": "a", "type": "long", "required": True},
        {"id": 2, "name": "b", "type": {"type": "struct", "fields": [{"id": 4, "name": "x", "type": "int"}]}},
        {"id": 3, "name": "c", "type": "string"},
    ]
    mine = Schema(0, fields)
    same = Schema(5, [{**field, "doc": "new"} for field in reversed(fields)])
    assert mine.differences(same) == []
    assert mine != same
    other = Schema(
        0,
        [
            {"id": 1, "name": "a", "type": "string"},
            {
                "id": 2,
                "name": "b",
                "type": {"type": "struct", "fields": [{"id": 9, "name": "x", "type": "int"}]},
            },
            {"id": 5, "name": "d", "type": "date"},
        ],
    )
    assert mine.differences(other) == [
        "field 'a' is required, in the other schema optional",
        "field 'a' is long, in the other schema string",
        "field 'b.x' has id 4, in the other schema 9",
        "field 'c' (string) is missing in the other schema",
        "field 'd' (date) is only in the other schema",
    ]


def test_equality_hash_and_pickle() -> None:
    schema = every_type()
    schema.to_arrow()
    assert pickle.loads(pickle.dumps(schema)) == schema
    assert len({schema, every_type()}) == 1
    assert schema != Schema(2, EVERY_TYPE)
    assert schema != "schema"


def test_schema_takes_field_objects() -> None:
    element = StructType((NestedField(3, "x", DecimalType(5, 2), True),))
    schema = Schema(0, [NestedField(1, "a", ListType(2, element, False), False)])
    assert schema.highest_field_id == 3
    assert schema.to_dict()["fields"][0]["type"]["element"]["fields"][0]["type"] == "decimal(5, 2)"
