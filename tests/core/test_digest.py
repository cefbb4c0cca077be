"""The digest against a second, slow writing-down of its canonical form, and against pinned digests."""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import math
import struct
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datashard_core.errors import InvalidRecordsError
from datashard_core.format.rows.digest import id_digest, rows_digest
from datashard_core.format.rows.records import to_table
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.types import (
    DecimalType,
    FixedType,
    IcebergType,
    ListType,
    MapType,
    NestedField,
    StructType,
)

D = decimal.Decimal
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
SCHEMA = Schema(
    1,
    [
        {"name": "boolean", "type": "boolean"},
        {"name": "int", "type": "int"},
        {"name": "long", "type": "long"},
        {"name": "float", "type": "float"},
        {"name": "double", "type": "double"},
        {"name": "decimal", "type": "decimal(20, 3)"},
        {"name": "date", "type": "date"},
        {"name": "time", "type": "time"},
        {"name": "timestamp", "type": "timestamp"},
        {"name": "timestamptz", "type": "timestamptz"},
        {"name": "string", "type": "string"},
        {"name": "uuid", "type": "uuid"},
        {"name": "fixed", "type": "fixed[2]"},
        {"name": "binary", "type": "binary"},
        {"name": "list", "type": {"type": "list", "element": {"type": "list", "element": "string"}}},
        {"name": "uuids", "type": {"type": "list", "element": "uuid"}},
        {"name": "map", "type": {"type": "map", "key": "string", "value": "uuid"}},
        {
            "name": "struct",
            "type": {
                "type": "struct",
                "fields": [
                    {"name": "a", "type": "long", "required": True},
                    {
                        "name": "b",
                        "type": {
                            "type": "struct",
                            "fields": [{"name": "c", "type": "float"}, {"name": "u", "type": "uuid"}],
                        },
                    },
                ],
            },
        },
    ],
)


def micros(value: dt.datetime) -> bytes:
    aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    return struct.pack("<q", (aware - EPOCH) // MICROSECOND)


def number(value: float) -> bytes:
    return bytes.fromhex("000000000000f87f") if math.isnan(value) else struct.pack("<d", value)


def time_of_day(value: dt.time) -> bytes:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return struct.pack("<q", seconds * 1_000_000 + value.microsecond)


def whole(value: int) -> bytes:
    return struct.pack("<q", value)


SIMPLE: dict[str, tuple[int, Callable[[Any], bytes]]] = {
    "boolean": (1, lambda value: bytes([value])),
    "int": (2, whole),
    "long": (2, whole),
    "float": (3, number),
    "double": (3, number),
    "date": (5, lambda value: struct.pack("<i", (value - dt.date(1970, 1, 1)).days)),
    "time": (6, time_of_day),
    "timestamp": (7, micros),
    "timestamptz": (8, micros),
    "uuid": (11, lambda value: value.bytes),
}


def canonical_values(kind: IcebergType, values: list[Any]) -> tuple[int, bytes]:
    """Kind number and bytes, by the table in the documentation, of values without None."""
    if str(kind) in SIMPLE:
        code, encode = SIMPLE[str(kind)]
        return code, b"".join(map(encode, values))
    if isinstance(kind, DecimalType):
        unscaled = [int(value.scaleb(kind.scale)).to_bytes(16, "little", signed=True) for value in values]
        return 4, bytes([kind.scale]) + b"".join(unscaled)
    if isinstance(kind, FixedType):
        return 12, struct.pack("<i", kind.length) + b"".join(values)
    if isinstance(kind, StructType):
        return 15, canonical_fields((field, [value[field.name] for value in values]) for field in kind.fields)
    lengths = b"".join(whole(len(value.encode() if isinstance(value, str) else value)) for value in values)
    if isinstance(kind, ListType):
        element = NestedField(kind.element_id, "", kind.element, kind.element_required)
        return 13, lengths + canonical_fields([(element, [item for value in values for item in value])])
    if isinstance(kind, MapType):
        pairs = [pair for value in values for pair in value]
        key = NestedField(kind.key_id, "", kind.key, True)
        item = NestedField(kind.value_id, "", kind.value, kind.value_required)
        columns = [(key, [left for left, _ in pairs]), (item, [right for _, right in pairs])]
        return 14, lengths + canonical_fields(columns)
    if str(kind) == "string":
        return 9, lengths + b"".join(value.encode() for value in values)
    return 10, lengths + b"".join(values)


def canonical_fields(columns: Iterable[tuple[NestedField, list[Any]]]) -> bytes:
    out = b""
    for field, values in sorted(columns, key=lambda column: column[0].field_id):
        present = [value for value in values if value is not None]
        if present:
            code, data = canonical_values(field.type, present)
            out += struct.pack("<iB", field.field_id, code)
            if len(present) < len(values):
                out += b"\x01" + bytes(value is not None for value in values)
            else:
                out += b"\x00"
            out += data
    return out + struct.pack("<i", -1)


def slow_digest(table: pa.Table, schema: Schema) -> str:
    rows = table.to_pylist()
    form = b"datashard.rows" + struct.pack("<HQ", 1, len(rows))
    form += canonical_fields((field, [row[field.name] for row in rows]) for field in schema.fields)
    return hashlib.blake2b(form, digest_size=16).hexdigest()


ROWS: list[dict[str, Any]] = [
    {},
    {
        "boolean": True,
        "int": -1,
        "long": 2**63 - 1,
        "float": 0.5,
        "double": -0.0,
        "decimal": D("-12.345"),
        "date": dt.date(1969, 12, 31),
        "time": dt.time(23, 59, 59, 999999),
        "timestamp": dt.datetime(1, 1, 1),
        "timestamptz": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "string": "é€",
        "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
        "fixed": b"ab",
        "binary": b"\x00",
        "list": [["a", None], None, []],
        "uuids": [uuid.UUID(int=7), None],
        "map": {"k": None, "l": uuid.UUID(int=1)},
        "struct": {"a": 1, "b": {"c": math.inf}},
    },
    {"boolean": False, "double": math.nan, "string": "", "list": [], "map": {}, "struct": {"a": 2}},
]


def test_the_digest_is_that_of_the_written_form() -> None:
    table = to_table(ROWS, SCHEMA, "t")
    assert rows_digest(table, SCHEMA) == slow_digest(table, SCHEMA)


def test_the_digest_never_changes() -> None:
    """Digests are kept in tables: another one for the same rows would refuse every repeated append."""
    assert rows_digest(to_table(ROWS, SCHEMA, "t"), SCHEMA) == "0f21a6d2afb19e7b3d753418ffe26465"
    simple = Schema(0, [{"id": 1, "name": "n", "type": "long"}])
    assert rows_digest(pa.table({"n": [1, 2, None]}), simple) == "d1d55d1ea389b2ac600207c47a58a0c7"
    assert id_digest("airflow:dag:run:task:-1") == "dbc341e682e98d54d944f66d56237c78"
    assert id_digest("é") == hashlib.blake2b("é".encode(), digest_size=16).hexdigest()


ROW = st.fixed_dictionaries(
    {},
    optional={
        "boolean": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(width=32),
        "double": st.floats(),
        "decimal": st.decimals(-(10**16), 10**16, places=3),
        "date": st.dates(),
        "time": st.times(),
        "timestamp": st.datetimes(),
        "timestamptz": st.datetimes(timezones=st.just(dt.UTC)),
        "string": st.text(max_size=5),
        "uuid": st.uuids(),
        "fixed": st.binary(min_size=2, max_size=2),
        "binary": st.binary(max_size=5),
        "list": st.lists(st.none() | st.lists(st.none() | st.text(max_size=2), max_size=2), max_size=3),
        "uuids": st.none() | st.lists(st.none() | st.uuids(), max_size=2),
        "map": st.none() | st.dictionaries(st.text(max_size=2), st.none() | st.uuids(), max_size=3),
        "struct": st.fixed_dictionaries(
            {"a": st.integers(-5, 5)},
            optional={"b": st.none() | st.fixed_dictionaries({}, optional={"c": st.floats(width=32), "u": st.uuids()})},
        ),
    },
)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=6), st.integers(1, 6))
def test_any_rows_in_any_chunks_and_slices(rows: list[dict[str, Any]], size: int) -> None:
    table = to_table(rows, SCHEMA, "t")
    expected = slow_digest(table, SCHEMA)
    assert rows_digest(table, SCHEMA) == expected
    pieces = [table.slice(start, size) for start in range(0, len(rows), size)]
    assert rows_digest(pa.concat_tables(pieces), SCHEMA) == expected
    assert rows_digest(to_table(pieces, SCHEMA, "t"), SCHEMA) == expected
    around = pa.concat_tables([table, table, table]).combine_chunks().slice(len(rows), len(rows))
    assert rows_digest(around, SCHEMA) == expected


def test_layouts_and_the_order_of_columns_do_not_matter() -> None:
    schema = Schema(
        0,
        [{"name": "s", "type": "string"}, {"name": "n", "type": "long"}, {"name": "t", "type": "timestamp"}],
    )
    when = dt.datetime(2024, 1, 1)
    expected = rows_digest(to_table([{"s": "a", "n": 1, "t": when}, {"s": "a"}], schema, "t"), schema)
    other = pa.table(
        {
            "t": pa.array([when, None], pa.timestamp("ns")),
            "n": pa.array([1, None], pa.int8()),
            "s": pa.array(["a", "a"]).dictionary_encode(),
        }
    )
    assert rows_digest(other, schema) == expected
    reordered = Schema(0, list(reversed(schema.fields)))
    assert rows_digest(to_table(other, reordered, "t"), reordered) == expected


def one(kind: Any, value: Any, field_id: int = 1) -> str:
    schema = Schema(0, [{"id": field_id, "name": "v", "type": kind}])
    return rows_digest(to_table([{"v": value}], schema, "t"), schema)


def test_icebergs_widenings_do_not_matter() -> None:
    assert one("int", 7) == one("long", 7)
    assert one("float", 0.1) == one("double", struct.unpack("<f", struct.pack("<f", 0.1))[0])
    assert one("decimal(5, 2)", D("1.5")) == one("decimal(30, 2)", D("1.5"))


def test_fields_that_are_null_throughout_do_not_matter() -> None:
    narrow = Schema(0, [{"id": 1, "name": "a", "type": "long"}])
    inner = [{"id": 4, "name": "x", "type": "long"}, {"id": 5, "name": "y", "type": "long"}]
    wide = Schema(
        0,
        [
            {"id": 3, "name": "new", "type": {"type": "struct", "fields": inner[:1]}},
            {"id": 1, "name": "renamed", "type": "long"},
        ],
    )
    old = rows_digest(to_table([{"a": 1}, {}], narrow, "t"), narrow)
    assert rows_digest(to_table([{"renamed": 1}, {}], wide, "t"), wide) == old
    structs = [one({"type": "struct", "fields": inner[:count]}, {"x": 1}, field_id=3) for count in (1, 2)]
    assert structs[0] == structs[1]


def test_what_differs_has_another_digest() -> None:
    digests = [
        *(one("long", value) for value in (0, 1, None)),
        one("long", 1, field_id=2),
        *(one("double", value) for value in (0.0, -0.0, 1.0, math.nan)),
        *(one("string", value) for value in ("", "a", "1")),
        *(one("binary", value) for value in (b"", b"a")),
        *(one("decimal(5, 2)", value) for value in (D(0), D(1))),
        one("decimal(5, 1)", D("0.1")),
        one("boolean", False),
        one("date", dt.date(1970, 1, 1)),
        one("timestamp", dt.datetime(1970, 1, 1)),
        one("timestamptz", EPOCH),
        one("time", dt.time()),
        *(one({"type": "list", "element-id": 2, "element": "long"}, value) for value in ([], [None], [1], [1, 1])),
    ]
    assert len(set(digests)) == len(digests)


def test_text_is_not_joined_across_rows_nor_rows_reordered() -> None:
    schema = Schema(0, [{"id": 1, "name": "v", "type": "string"}])
    variants: list[list[str | None]] = [
        ["ab", "c"],
        ["a", "bc"],
        ["c", "ab"],
        ["abc"],
        ["abc", None],
        ["abc", ""],
    ]
    digests = {rows_digest(pa.table({"v": variant}), schema) for variant in variants}
    assert len(digests) == len(variants)


def test_nan_is_one_value_whatever_its_bits() -> None:
    other = struct.unpack("<d", bytes.fromhex("010000000000f8ff"))[0]
    assert one("double", math.nan) == one("double", other) == one("float", math.nan)


def test_values_below_null_parents_do_not_matter() -> None:
    schema = Schema(0, [{"name": "v", "type": {"type": "struct", "fields": [{"name": "x", "type": "long"}]}}])
    kind = schema.to_arrow().field("v").type
    digests = set()
    for hidden in (1, 2, None):
        array = pa.StructArray.from_arrays(
            [pa.array([7, hidden], pa.int64())], fields=list(kind), mask=pa.array([False, True])
        )
        digests.add(rows_digest(pa.table([array], schema=schema.to_arrow()), schema))
    assert len(digests) == 1


def test_rows_of_another_schema_are_refused() -> None:
    with pytest.raises(InvalidRecordsError, match="the column 'w' is not in the schema; its fields are v"):
        rows_digest(pa.table({"w": [1]}), Schema(0, [{"id": 1, "name": "v", "type": "long"}]))
