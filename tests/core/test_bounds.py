"""Bounds and counts of columns, held against brute force over Python's values."""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datashard_core.format.rows.records import to_table
from datashard_core.format.statistics.bounds import TRUNCATE, lower_bound, upper_bound
from datashard_core.format.statistics.metrics import Metrics
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.types import parse_type

EPOCH = dt.datetime(1970, 1, 1)
MICROSECOND = dt.timedelta(microseconds=1)
WHOLE = settings(deadline=None)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)
NEAR_THE_END = st.text(st.sampled_from("a\ud7ff\ue000\uffff\U0010fffe\U0010ffff"), min_size=12, max_size=20)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32) | st.sampled_from([0.0, -0.0]),
    "double": FLOATS | st.sampled_from([0.0, -0.0]),
    "decimal(9, 2)": st.integers(-(10**9) + 1, 10**9 - 1).map(lambda n: Decimal(n).scaleb(-2)),
    "decimal(38, 0)": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(str(n))),
    "date": st.dates(),
    "time": st.times(),
    "timestamp": st.datetimes(),
    "timestamptz": st.datetimes(timezones=st.just(dt.UTC)),
    "string": TEXT | NEAR_THE_END,
    "uuid": st.uuids(allow_nil=True),
    "binary": st.binary(max_size=24) | st.binary(min_size=14, max_size=20).map(lambda b: b.replace(b"\0", b"\xff")),
    "fixed[3]": st.binary(min_size=3, max_size=3),
    "fixed[20]": st.binary(min_size=20, max_size=20) | st.just(b"\xff" * 20),
}


def microseconds(value: dt.datetime) -> int:
    return (value.replace(tzinfo=None) - EPOCH) // MICROSECOND


# How a value compares, and how a bound is read back: written from the spec's table, not from the code.
AS_NUMBER: dict[str, Callable[[Any], Any]] = {
    "date": lambda value: value.toordinal() - EPOCH.toordinal(),
    "time": lambda value: microseconds(dt.datetime.combine(EPOCH.date(), value)),
    "timestamp": microseconds,
    "timestamptz": microseconds,
    "string": lambda value: value.encode(),
    "uuid": lambda value: value.bytes,
}
FROM_BYTES: dict[str, Callable[[bytes], Any]] = {
    "boolean": lambda data: {b"\0": False, b"\1": True}[data],
    "int": lambda data: struct.unpack("<i", data)[0],
    "date": lambda data: struct.unpack("<i", data)[0],
    "float": lambda data: struct.unpack("<f", data)[0],
    "double": lambda data: struct.unpack("<d", data)[0],
    "decimal(9, 2)": lambda data: Decimal(int.from_bytes(data, "big", signed=True)).scaleb(-2),
    "decimal(38, 0)": lambda data: Decimal(int.from_bytes(data, "big", signed=True)),
    **dict.fromkeys(("long", "time", "timestamp", "timestamptz"), lambda data: struct.unpack("<q", data)[0]),
    **dict.fromkeys(("string", "uuid", "binary", "fixed[3]", "fixed[20]"), bytes),
}
TRUNCATED = ("string", "binary", "fixed[20]")


def measure(schema: Schema, *parts: list[dict[str, Any]]) -> Metrics:
    metrics = Metrics()
    for rows in parts:
        metrics.add(to_table(rows, schema, "t"), schema)
    return metrics


def without_nan(values: list[Any]) -> list[Any]:
    return [value for value in values if not (isinstance(value, float) and math.isnan(value))]


@pytest.mark.parametrize("kind", VALUES)
def test_counts_and_bounds_are_those_of_brute_force(kind: str) -> None:
    schema = Schema(0, [{"id": 7, "name": "c", "type": kind}])

    @WHOLE
    @given(st.lists(st.none() | VALUES[kind], min_size=1, max_size=12), st.integers(0, 12))
    def check(values: list[Any], cut: int) -> None:
        rows = [{"c": value} for value in values]
        parts = [part for part in (rows[:cut], rows[cut:]) if part]
        metrics = measure(schema, *parts)
        present = [value for value in values if value is not None]
        numbers = [AS_NUMBER.get(kind, lambda value: value)(value) for value in without_nan(present)]
        nans = len(present) - len(numbers)
        assert metrics.record_count == metrics.value_counts[7] == len(values)
        assert metrics.null_value_counts[7] == len(values) - len(present)
        assert metrics.nan_value_counts == ({7: nans} if kind in ("float", "double") else {})
        lower, upper = metrics.lower_bounds(), metrics.upper_bounds()
        if not numbers:
            assert lower == upper == {}
            return
        check_lower(kind, lower[7], min(numbers))
        if nans:
            assert 7 not in upper
        else:
            check_upper(kind, upper.get(7), max(numbers))

    check()


def check_lower(kind: str, bound: bytes, lowest: Any) -> None:
    found = FROM_BYTES[kind](bound)
    assert found <= lowest
    if kind == "string":
        assert bound.decode() == lowest.decode()[:TRUNCATE]
    elif kind in TRUNCATED:
        assert bound == lowest[:TRUNCATE]
    else:
        assert found == lowest


def check_upper(kind: str, bound: bytes | None, highest: Any) -> None:
    if kind not in TRUNCATED:
        assert bound is not None
        assert FROM_BYTES[kind](bound) == highest
        return
    units: Any = highest.decode() if kind == "string" else highest
    if len(units) <= TRUNCATE:
        assert bound == highest
        return
    last = "\U0010ffff" if kind == "string" else b"\xff"
    if units[:TRUNCATE] == last * TRUNCATE:
        assert bound is None
        return
    assert bound is not None
    assert bound > highest
    rounded: Any = bound.decode() if kind == "string" else bound
    assert len(rounded) <= TRUNCATE
    # The shortest that is above: one step in its last place, and only the highest of all was left out behind it.
    kept = len(rounded) - 1
    assert rounded[:kept] == units[:kept]
    assert units[kept + 1 : TRUNCATE] == last * (TRUNCATE - kept - 1)
    if kind == "string":
        step = ord(rounded[kept]) - ord(units[kept])
        assert step == 1 or (units[kept], rounded[kept]) == ("\ud7ff", "\ue000")
    else:
        assert rounded[kept] == units[kept] + 1


SPEC = [
    ("boolean", True, b"\x01"),
    ("boolean", False, b"\x00"),
    ("int", 1234, b"\xd2\x04\x00\x00"),
    ("long", -1, b"\xff" * 8),
    ("float", -4.5, b"\x00\x00\x90\xc0"),
    ("double", 6.0, b"\x00\x00\x00\x00\x00\x00\x18\x40"),
    ("date", 1000, b"\xe8\x03\x00\x00"),
    ("time", 10_000_000_000, b"\x00\xe4\x0b\x54\x02\x00\x00\x00"),
    ("timestamp", 400_000, b"\x80\x1a\x06\x00\x00\x00\x00\x00"),
    ("timestamptz", 400_000, b"\x80\x1a\x06\x00\x00\x00\x00\x00"),
    ("string", "iceberg", b"iceberg"),
    (
        "uuid",
        uuid.UUID("f79c3e09-677c-4bbd-a479-3f349cb785e7").bytes,
        bytes.fromhex("f79c3e09677c4bbda4793f349cb785e7"),
    ),
    ("fixed[3]", b"foo", b"foo"),
    ("binary", b"bar", b"bar"),
    ("decimal(10, 2)", 34500, b"\x00\x86\xc4"),
    ("decimal(10, 2)", 127, b"\x7f"),
    ("decimal(10, 2)", 128, b"\x00\x80"),
    ("decimal(10, 2)", -128, b"\x80"),
    ("decimal(10, 2)", -129, b"\xff\x7f"),
    ("decimal(10, 2)", 0, b"\x00"),
    ("decimal(38, 0)", 10**38 - 1, bytes.fromhex("4b3b4ca85a86c47a098a223fffffffff")),
]


@pytest.mark.parametrize(("kind", "value", "data"), SPEC)
def test_single_values_are_written_as_the_spec_has_them(kind: str, value: Any, data: bytes) -> None:
    assert lower_bound(parse_type(kind), value) == data
    assert upper_bound(parse_type(kind), value) == data


@pytest.mark.parametrize(
    ("text", "lower", "upper"),
    [
        ("a" * 16, "a" * 16, "a" * 16),
        ("a" * 17, "a" * 16, "a" * 15 + "b"),
        ("ä" * 17, "ä" * 16, "ä" * 15 + "å"),
        ("🙂" * 16, "🙂" * 16, "🙂" * 16),
        ("🙂" * 17, "🙂" * 16, "🙂" * 15 + "🙃"),
        ("a" * 15 + "\ud7ff" + "z", "a" * 15 + "\ud7ff", "a" * 15 + "\ue000"),
        ("a" * 15 + "\uffff" + "z", "a" * 15 + "\uffff", "a" * 15 + "\U00010000"),
        ("a" * 14 + "\U0010ffff" * 3, "a" * 14 + "\U0010ffff" * 2, "a" * 13 + "b"),
        ("\U0010ffff" * 16, "\U0010ffff" * 16, "\U0010ffff" * 16),
        ("\U0010ffff" * 17, "\U0010ffff" * 16, None),
    ],
)
def test_long_texts_are_cut_by_characters_and_rounded_up(text: str, lower: str, upper: str | None) -> None:
    kind = parse_type("string")
    assert lower_bound(kind, text) == lower.encode()
    assert upper_bound(kind, text) == (upper.encode() if upper is not None else None)


@pytest.mark.parametrize("kind", ["binary", "fixed[17]"])
@pytest.mark.parametrize(
    ("data", "upper"),
    [
        (b"a" * 17, b"a" * 15 + b"b"),
        (b"a" * 15 + b"\xff\x00", b"a" * 14 + b"b"),
        (b"\xff" * 17, None),
    ],
)
def test_long_bytes_are_cut_and_rounded_up(kind: str, data: bytes, upper: bytes | None) -> None:
    assert lower_bound(parse_type(kind), data) == data[:16]
    assert upper_bound(parse_type(kind), data) == upper


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zero_is_negative_below_and_positive_above(kind: str, zero: float) -> None:
    metrics = measure(Schema(0, [{"name": "c", "type": kind}]), [{"c": zero}])
    lower, upper = FROM_BYTES[kind](metrics.lower_bounds()[1]), FROM_BYTES[kind](metrics.upper_bounds()[1])
    assert (math.copysign(1, lower), math.copysign(1, upper)) == (-1, 1)


def test_nan_is_in_no_bound_and_its_column_has_no_upper_one() -> None:
    schema = Schema(0, [{"name": "c", "type": "double"}])
    mixed = measure(schema, [{"c": math.nan}, {"c": 1.5}, {"c": -2.5}, {"c": None}])
    assert mixed.nan_value_counts == {1: 1}
    assert mixed.lower_bounds() == {1: struct.pack("<d", -2.5)}
    assert mixed.upper_bounds() == {}
    late = measure(schema, [{"c": 1.5}], [{"c": math.nan}])
    assert late.upper_bounds() == {}
    alone = measure(schema, [{"c": math.nan}])
    assert (alone.value_counts, alone.null_value_counts, alone.nan_value_counts) == ({1: 1}, {1: 0}, {1: 1})
    assert alone.lower_bounds() == alone.upper_bounds() == {}


def test_uuids_compare_as_unsigned_bytes() -> None:
    low, high = uuid.UUID(int=1), uuid.UUID(int=2**127)
    metrics = measure(Schema(0, [{"name": "c", "type": "uuid"}]), [{"c": high}, {"c": low}])
    assert metrics.lower_bounds() == {1: low.bytes}
    assert metrics.upper_bounds() == {1: high.bytes}


def test_fields_of_structs_are_counted_and_what_repeats_is_not() -> None:
    point = {"type": "struct", "fields": [{"name": "x", "type": "double"}, {"name": "y", "type": "uuid"}]}
    schema = Schema(
        0,
        [
            {"name": "p", "type": point},
            {"name": "l", "type": {"type": "list", "element": point}},
            {"name": "m", "type": {"type": "map", "key": "string", "value": "int"}},
            {"name": "deep", "type": {"type": "struct", "fields": [{"name": "inner", "type": point}]}},
        ],
    )
    key = uuid.UUID(int=9)
    value = {"x": 2.0, "y": key}
    rows: list[dict[str, Any]] = [
        {"p": value, "l": [value], "m": {"a": 1}, "deep": {"inner": value}},
        {"p": {"x": math.nan, "y": None}, "l": None, "m": None, "deep": {"inner": None}},
        {"p": None, "l": [], "m": {}, "deep": None},
    ]
    metrics = measure(schema, rows)
    p, deep = schema.field("p").type.fields, schema.field("deep").type.fields[0].type.fields  # type: ignore[attr-defined]
    x, y, inner_x, inner_y = (field.field_id for field in (*p, *deep))
    assert metrics.value_counts == {x: 3, y: 3, inner_x: 3, inner_y: 3}
    assert metrics.null_value_counts == {x: 1, y: 2, inner_x: 2, inner_y: 2}
    assert metrics.nan_value_counts == {x: 1, inner_x: 0}
    assert metrics.lower_bounds() == {
        x: struct.pack("<d", 2.0),
        y: key.bytes,
        inner_x: struct.pack("<d", 2.0),
        inner_y: key.bytes,
    }
    assert metrics.upper_bounds() == {y: key.bytes, inner_x: struct.pack("<d", 2.0), inner_y: key.bytes}
