"""Dates, times and timestamps outside Python's range: refused by an append, and read right where others wrote them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datashard_core import Table, Warehouse, col
from datashard_core.errors import DataShardError, InvalidRecordsError, UnsupportedTableError
from datashard_core.format.rows.records import to_table
from datashard_core.format.types.ranges import RULES, STORED, first_outside, stored_text
from datashard_core.format.types.schema import Schema
from datashard_core.table.append import plan_append

DAY = 86_400_000_000
WEST, EAST = dt.timezone(dt.timedelta(hours=-5)), dt.timezone(dt.timedelta(hours=5))


def typed(values: Sequence[int | None], kind: pa.DataType) -> pa.Array:
    """Stored numbers as an Arrow array of dates, times or timestamps."""
    return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)


def schema_of(kind: Any) -> Schema:
    return Schema(fields=[{"name": "v", "type": kind}])


OUTSIDE = [
    ("time", pa.time64("us"), DAY, "24:00:00"),
    ("time", pa.time64("us"), -1, "-00:00:00.000001"),
    ("time", pa.time64("us"), 2**63 - 1, "2562047788:00:54.775807"),
    ("time", pa.time32("s"), 86_400, "24:00:00"),
    ("time", pa.time32("ms"), -5, "-00:00:00.005000"),
    ("time", pa.time64("ns"), DAY * 1000, "24:00:00"),
    ("date", pa.date32(), 2**31 - 1, "5881580-07-11"),
    ("date", pa.date32(), -(2**31), "-5877641-06-23"),
    ("date", pa.date32(), STORED["date"][1] + 1, "10000-01-01"),
    ("date", pa.date64(), 86_400_000 * (STORED["date"][0] - 1), "0000-12-31"),
    ("timestamp", pa.timestamp("us"), STORED["timestamp"][1] + 1, "10000-01-01T00:00:00"),
    ("timestamp", pa.timestamp("us"), STORED["timestamp"][0] - 1, "0000-12-31T23:59:59.999999"),
    ("timestamp", pa.timestamp("us"), 2**63 - 1, "294247-01-10T04:00:54.775807"),
    ("timestamp", pa.timestamp("s"), 253_402_300_800, "10000-01-01T00:00:00"),
    ("timestamp", pa.timestamp("ms"), 253_402_300_800_000, "10000-01-01T00:00:00"),
    ("timestamptz", pa.timestamp("us", "UTC"), -(2**63), "-290308-12-21T19:59:05.224192Z"),
    ("timestamptz", pa.timestamp("us", "Asia/Tokyo"), STORED["timestamptz"][1] + 1, "10000-01-01T00:00:00Z"),
]


@pytest.mark.parametrize(("kind", "arrow", "stored", "text"), OUTSIDE)
def test_arrow_values_outside_the_range_are_refused_by_row_field_and_value(
    kind: str, arrow: pa.DataType, stored: int, text: str
) -> None:
    rows = pa.table({"v": typed([None, 0, stored], arrow)})
    with pytest.raises(InvalidRecordsError) as raised:
        to_table(rows, schema_of(kind), "t")
    for part in ("table t: row 2, field 'v':", text, RULES[kind]):
        assert part in str(raised.value)


@pytest.mark.parametrize("kind", sorted(STORED))
@pytest.mark.parametrize("side", [0, 1])
def test_the_ends_of_the_range_come_back_as_they_went_in(kind: str, side: int, warehouse: Warehouse) -> None:
    ends: dict[str, tuple[Any, Any]] = {
        "date": (dt.date.min, dt.date.max),
        "time": (dt.time.min, dt.time.max),
        "timestamp": (dt.datetime.min, dt.datetime.max),
        "timestamptz": (dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)),
    }
    value = ends[kind][side]
    table = warehouse.create_table("t", schema_of(kind))
    table.append([{"v": value}])
    table.append(pa.table({"v": typed([STORED[kind][side]], schema_of(kind).to_arrow().field("v").type)}))
    table.append([{"v": value}] * 600)
    assert [row["v"] for row in table.scan(where=col("v") == value).to_records()] == [value] * 602


NESTED: list[tuple[str, Any, Callable[[pa.Array], pa.Array], str]] = [
    (
        "struct",
        {"type": "struct", "fields": [{"name": "x", "type": "time"}]},
        lambda values: pa.StructArray.from_arrays([values], ["x"]),
        "v.x",
    ),
    (
        "list",
        {"type": "list", "element": "time"},
        lambda values: pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), values),
        "v.element",
    ),
    (
        "map value",
        {"type": "map", "key": "int", "value": "time"},
        lambda values: pa.MapArray.from_arrays(pa.array([0, 1, 2], pa.int32()), pa.array([1, 2], pa.int32()), values),
        "v.value",
    ),
    (
        "map key",
        {"type": "map", "key": "time", "value": "int"},
        lambda values: pa.MapArray.from_arrays(pa.array([0, 1, 2], pa.int32()), values, pa.array([1, 2], pa.int32())),
        "v.key",
    ),
]


@pytest.mark.parametrize(("kind", "nest", "path"), [case[1:] for case in NESTED], ids=[case[0] for case in NESTED])
def test_values_inside_other_values_are_checked_too(kind: Any, nest: Any, path: str) -> None:
    rows = pa.table({"v": nest(typed([0, DAY], pa.time64("us")))})
    with pytest.raises(InvalidRecordsError, match=rf"row 1, field '{path}': 24:00:00 of Arrow type"):
        to_table(rows, schema_of(kind), "t")


def test_what_stands_below_a_null_struct_does_not_count(warehouse: Warehouse) -> None:
    kind = {"type": "struct", "fields": [{"name": "x", "type": "time"}]}
    inside = typed([DAY, 1], pa.time64("us"))
    rows = pa.table({"v": pa.StructArray.from_arrays([inside], ["x"], mask=pa.array([True, False]))})
    table = warehouse.create_table("t", schema_of(kind))
    table.append(rows)
    assert table.scan(where=col("v.x") < dt.time(1)).to_records() == [{"v": {"x": dt.time(0, 0, 0, 1)}}]
    assert table.scan().to_records() == [{"v": None}, {"v": {"x": dt.time(0, 0, 0, 1)}}]


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime.max.replace(tzinfo=WEST),
        dt.datetime.min.replace(tzinfo=EAST),
        dt.datetime.max.replace(tzinfo=ZoneInfo("America/New_York")),
        dt.datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")),
    ],
    ids=["west", "east", "New York", "Tokyo"],
)
@pytest.mark.parametrize("count", [1, 600])
@pytest.mark.parametrize("commit", ["now", "deferred"])
def test_a_time_zone_cannot_move_a_datetime_out_of_the_range(
    value: dt.datetime, count: int, commit: Any, warehouse: Warehouse
) -> None:
    table = warehouse.create_table("t", schema_of("timestamptz"))
    rows = [{"v": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}] * (count - 1) + [{"v": value}]
    with pytest.raises(InvalidRecordsError) as raised:
        table.append(rows, commit=commit)
    for part in (f"row {count - 1}, field 'v'", value.isoformat(), RULES["timestamptz"]):
        assert part in str(raised.value)
    assert table.refresh().version == 0
    assert table.scan(include_staged=True).count() == 0


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("timestamp", np.datetime64("10000-01-01T00:00:00", "s")),
        ("timestamp", np.datetime64(2**62, "s")),
        ("timestamp", np.datetime64(-(2**62), "ms")),
        ("timestamptz", pd.Timestamp.max.tz_localize("UTC") + pd.Timedelta(0)),
        ("date", np.datetime64("10000-01-01", "D")),
    ],
)
def test_scalars_of_numpy_and_pandas_are_refused_or_exact(kind: str, value: Any) -> None:
    with pytest.raises(InvalidRecordsError, match="row 0, field 'v'"):
        to_table([{"v": value}], schema_of(kind), "t")


@pytest.mark.parametrize("year", ["10000", "-0100", "0000"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_timestamps_of_pandas_in_far_years_are_refused(year: str, zone: str | None) -> None:
    value = pd.Timestamp(np.datetime64(f"{year}-03-01T12:30", "s")).tz_localize(zone)
    kind = "timestamp" if zone is None else "timestamptz"
    with pytest.raises(
        InvalidRecordsError, match=rf"row 0, field 'v': the pandas.Timestamp {int(year):04d}-03-01T12:30"
    ):
        to_table([{"v": value}], Schema.infer([{"v": value}]), "t")
    assert str(Schema.infer([{"v": value}]).field("v").type) == kind


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "struct", "fields": [{"name": "x", "type": "timestamptz"}]},
        {"type": "list", "element": "timestamptz"},
        {"type": "map", "key": "timestamptz", "value": "int"},
        {"type": "map", "key": "int", "value": "timestamptz"},
    ],
    ids=["struct", "list", "key", "value"],
)
def test_python_values_inside_others_are_checked_too(kind: Any) -> None:
    far = dt.datetime.max.replace(tzinfo=WEST)
    values = {"struct": {"x": far}, "list": [far], "map": {far: 1} if kind.get("value") == "int" else {1: far}}
    with pytest.raises(InvalidRecordsError, match=r"row 1, field 'v\.\w+': 9999-12-31T23:59:59\.999999-05:00 is not"):
        to_table([{"v": None}, {"v": values[kind["type"]]}], schema_of(kind), "t")


@pytest.mark.parametrize("condition", [
    "d < date 'infinity'", "d > date '-infinity'", "d < date '20000-01-01'", "t < timestamp 'infinity'",
    "t <> timestamp '-infinity'", "z < timestamptz 'infinity'", "m < time '24:00:00'",
])  # fmt: skip
def test_sql_compares_with_moments_beyond_the_range(condition: str, warehouse: Warehouse) -> None:
    kinds = {"d": "date", "t": "timestamp", "z": "timestamptz", "m": "time"}
    table = warehouse.create_table("t", Schema(fields=[{"name": name, "type": kind} for name, kind in kinds.items()]))
    moment = dt.datetime.max
    table.append([{"d": moment.date(), "t": moment, "z": moment.replace(tzinfo=dt.UTC), "m": dt.time.max}, {}])
    assert table.scan(where=condition).count() == 1
    assert table.scan(where=f"not ({condition})").count() == 0
    assert warehouse.sql(f"select count(*) as n from t where {condition}").to_pylist() == [{"n": 1}]


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_frames_with_far_years_are_refused(unit: str) -> None:
    far = {"s": 253_402_300_800, "ms": 253_402_300_800_000, "us": 253_402_300_800_000_000}[unit]
    series = pd.Series(np.array([0, far], f"datetime64[{unit}]"))
    with pytest.raises(InvalidRecordsError, match="row 1, field 'v': 10000-01-01T00:00:00"):
        to_table(pd.DataFrame({"v": series}), schema_of("timestamp"), "t")
    if unit != "s":
        polars = pl.DataFrame({"v": pl.Series([0, far]).cast(pl.Datetime(unit))})  # type: ignore[arg-type]
        with pytest.raises(InvalidRecordsError, match="row 1, field 'v': 10000-01-01T00:00:00"):
            to_table(polars, schema_of("timestamp"), "t")


def written_unchecked(table: Table, rows: pa.Table, *, deferred: bool = False) -> None:
    """Commit rows in the schema's form without looking at their values, as other writers do."""
    item = plan_append(
        rows.cast(table.schema.to_arrow()),
        schema=table.schema,
        location=table._seen.body.table.location,
        storage=table._storage,
        clock=table._clock,
        append_id=None,
        base=None,
        known_version=table.version,
    )
    if deferred:
        table._defer(item, table._seen, 30.0)
    else:
        table._shared.append(item, 30.0, table._commit, table.name)
    table.refresh()


ALIEN: dict[str, tuple[Any, list[int], list[Any]]] = {
    # what others stored, and what each is compared with
    "time": (pa.time64("us"), [DAY, -1, 2**40, 5], [dt.time(11), dt.time.min, dt.time.max]),
    "date": (
        pa.date32(),
        [2**31 - 1, -(2**31), STORED["date"][1] + 1, 10_000],
        [dt.date(2020, 1, 1), dt.date.min, dt.date.max],
    ),
    "timestamp": (
        pa.timestamp("us"),
        [2**63 - 1, -(2**63) + 1, STORED["timestamp"][1] + 1, 10**15],
        [dt.datetime(2020, 1, 1), dt.datetime.min, dt.datetime.max],
    ),
    "timestamptz": (
        pa.timestamp("us", "UTC"),
        [2**63 - 1, -(2**63) + 1, STORED["timestamptz"][0] - 1, 10**15],
        [dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=WEST)],
    ),
}


def number(kind: str, value: Any) -> int:
    """The stored form of a Python value."""
    if kind == "date":
        return int(value.toordinal()) - dt.date(1970, 1, 1).toordinal()
    if kind == "time":
        return int((dt.datetime.combine(dt.date.min, value) - dt.datetime.min) / dt.timedelta(microseconds=1))
    epoch = dt.datetime(1970, 1, 1, tzinfo=value.tzinfo and dt.UTC)
    return int((value - epoch) // dt.timedelta(microseconds=1))


CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


@pytest.mark.parametrize("kind", sorted(ALIEN))
def test_every_condition_is_right_on_values_that_others_wrote(kind: str, warehouse: Warehouse) -> None:
    arrow, stored, literals = ALIEN[kind]
    table = warehouse.create_table("t", schema_of(kind))
    for value in stored:  # a file each, so that bounds decide
        written_unchecked(table, pa.table({"v": typed([value, None], arrow)}))
    # two row groups in one file, so that the footer's statistics decide
    both = pa.concat_tables([pa.table({"v": typed([value] * 140_000, arrow)}) for value in stored[:2]])
    written_unchecked(table, both)
    everything = stored + stored[:1] * 140_000 + stored[1:2] * 140_000
    for literal in literals:
        want = number(kind, literal)
        for operator, holds in CONDITIONS.items():
            expected = sum(holds(value, want) for value in everything)
            condition = {
                "==": col("v") == literal,
                "!=": col("v") != literal,
                "<": col("v") < literal,
                "<=": col("v") <= literal,
                ">": col("v") > literal,
                ">=": col("v") >= literal,
            }[operator]
            assert table.scan(where=condition).count() == expected, (literal, operator)
            field = pc.field("v")
            scalar = typed([want], arrow)[0]
            expression = {
                "==": field == scalar,
                "!=": field != scalar,
                "<": field < scalar,
                "<=": field <= scalar,
                ">": field > scalar,
                ">=": field >= scalar,
            }[operator]
            assert table.scan(where=expression).count() == expected, (literal, operator)
        assert table.scan(where=col("v").isin([literal])).count() == sum(value == want for value in everything)
    assert table.scan(where=col("v").is_null()).count() == len(stored)


@pytest.mark.parametrize(
    ("kind", "deferred"),
    # Arrow itself finds a time outside a day when a staged body is checked.
    [(kind, deferred) for kind in sorted(ALIEN) for deferred in (False, True) if not (deferred and kind == "time")],
)
def test_arrow_shows_what_others_wrote_and_python_says_that_it_cannot(
    kind: str, deferred: bool, warehouse: Warehouse
) -> None:
    arrow, stored, _ = ALIEN[kind]
    table = warehouse.create_table("t", schema_of(kind))
    rows = pa.table({"v": typed([stored[3], *stored[:3]], arrow)})
    written_unchecked(table, rows, deferred=deferred)
    scan = table.scan(include_staged=True)
    found = scan.to_arrow().column("v").combine_chunks().view("int32" if kind == "date" else "int64")
    assert found.to_pylist() == [stored[3], *stored[:3]]
    with pytest.raises(UnsupportedTableError) as raised:
        scan.to_records()
    for part in ("table t: row 1 column 'v'", stored_text(stored[0], kind), "to_arrow()"):
        assert part in str(raised.value)
    if kind in ("date", "time"):
        with pytest.raises(UnsupportedTableError, match="row 1 column 'v'"):
            scan.to_pandas()
    else:
        pandas = scan.to_pandas()["v"].astype("int64").tolist()
        assert pandas == [stored[3], *stored[:3]]
    table.flush()
    assert table.scan().count() == 4


@pytest.mark.parametrize("kind", sorted(ALIEN))
def test_sql_and_compaction_take_what_others_wrote(kind: str, warehouse: Warehouse) -> None:
    arrow, stored, literals = ALIEN[kind]
    table = warehouse.create_table("t", schema_of(kind))
    values = [one for one in stored if kind != "time" or 0 <= one <= DAY]  # DuckDB has times up to 24:00, and dates
    values = [one for one in values if kind != "date" or one > -(2**31) + 1]
    for value in values:
        written_unchecked(table, pa.table({"v": typed([value], arrow)}))
    want = number(kind, literals[0])
    for _ in range(2):
        found = warehouse.sql("select v from t where v > ?", [literals[0]]).column("v").combine_chunks()
        numbers = found.view("int32" if kind == "date" else "int64").to_pylist()
        assert sorted(numbers) == sorted(value for value in values if value > want)
        assert warehouse.sql("select count(*) as n from t").to_pylist() == [{"n": len(values)}]
        table.compact()
    assert table.scan(where=col("v") > literals[0]).count() == sum(value > want for value in values)


def test_nested_values_that_others_wrote_are_found_by_the_check(warehouse: Warehouse) -> None:
    kind = {"type": "list", "element": "time"}
    table = warehouse.create_table("t", schema_of(kind))
    values = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), typed([0, DAY], pa.time64("us")))
    written_unchecked(table, pa.table({"v": values}))
    with pytest.raises(UnsupportedTableError, match=r"column 'v' holds the time 24:00:00"):
        table.scan().to_records()
    assert table.scan().to_arrow().num_rows == 2


def test_a_state_at_a_time_beyond_all_years_is_an_error_of_ours(warehouse: Warehouse) -> None:
    warehouse.create_table("t", schema_of("date")).append([{"v": dt.date(2024, 1, 1)}])
    for text in ("timestamp 'infinity'", "timestamp '-infinity'", "timestamp '290000-01-01'"):
        with pytest.raises(DataShardError, match="at \\(timestamp"):
            warehouse.sql(f"select * from t at (timestamp => {text})")


def test_the_first_value_outside_is_found() -> None:
    assert first_outside(typed([0, None, DAY, -1], pa.time64("us")), "time") == 2
    assert first_outside(typed([0, DAY - 1], pa.time64("us")), "time") == -1
    assert first_outside(typed([], pa.date32()), "date") == -1
    assert first_outside(typed([None, DAY], pa.time64("us")), "time", pa.array([True, False])) == -1
    assert first_outside(pa.array([2**40]), "long") == -1
