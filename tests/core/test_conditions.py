"""Every condition gives the rows that DuckDB gives for it, whatever pruning has left unread."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datashard_core as ds
from datashard_core import col
from datashard_core.format.expressions.binding import AllOf, AnyOf, bind, is_exact
from datashard_core.format.expressions.expressions import Condition
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

LONG = "a" * 16
VALUES: dict[str, list[Any]] = {
    "boolean": [True, False],
    "int": [-(2**31), -1, 0, 7, 2**31 - 1],
    "long": [-(2**63), -1, 0, 2**31, 2**63 - 1],
    "float": [-math.inf, -0.0, 0.0, 1.5, math.inf, math.nan],
    "double": [-math.inf, -0.0, 0.0, 1.5, math.inf, math.nan],
    "date": [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(1970, 1, 1), dt.date(9999, 12, 31)],
    "time": [dt.time(0), dt.time(12, 30, 0, 1), dt.time(23, 59, 59, 999_999)],
    "timestamp": [dt.datetime(1, 1, 1), dt.datetime(1969, 12, 31, 23, 59, 59, 999_999), dt.datetime(2026, 1, 1)],
    "timestamptz": [dt.datetime(1969, 12, 31, 23, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC)],
    # Bounds keep 16 characters, rounded up: values around them, and one that cannot be rounded up.
    "string": ["", "a", LONG, LONG + "b", "a" * 15 + "b", "b", "é", "\U0010ffff" * 17],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=2**127), uuid.UUID(int=2**128 - 1)],
    "binary": [b"", b"a", b"\x00\\", b"a" * 17, b"\xff" * 17],
    "fixed[3]": [b"\x00\x00\x00", b"abc", b"\xff\xff\xff"],
    "decimal(9, 2)": [Decimal("-9999999.99"), Decimal("0.00"), Decimal("1.25"), Decimal("9999999.99")],
    "decimal(38, 3)": [Decimal("-99999999999999999999999999999999999.999"), Decimal("0.000"), Decimal("2.500")],
}
SQL_TYPES = {
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
    "string": "VARCHAR",
    "uuid": "UUID",
    "binary": "BLOB",
    "fixed[3]": "BLOB",
    "decimal(9, 2)": "DECIMAL(9, 2)",
    "decimal(38, 3)": "DECIMAL(38, 3)",
}
SCHEMA = ds.Schema(
    fields=[{"name": "n", "type": "long"}, *({"name": f"c{i}", "type": kind} for i, kind in enumerate(VALUES))]
)
KINDS = {f"c{i}": kind for i, kind in enumerate(VALUES)}


def rows_of_every_type() -> list[list[dict[str, Any]]]:
    """One file for each value, one of nulls, one of everything: so that bounds tell files apart."""
    most = max(map(len, VALUES.values()))
    files = [
        [{f"c{i}": values[number % len(values)] for i, values in enumerate(VALUES.values())}] for number in range(most)
    ]
    files.append([{}])
    files.append([row for file in files for row in file])
    numbers = iter(range(10**6))
    return [[{"n": next(numbers), **row} for row in file] for file in files]


@pytest.fixture(scope="module")
def every_type() -> ds.Table:
    table = Warehouse(MemoryStorage("memory://conditions")).create_table("t", SCHEMA)
    for rows in rows_of_every_type():
        table.append(rows)
    return table


@pytest.fixture(scope="module")
def truth(every_type: ds.Table) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    rows = every_type.scan().to_arrow()
    assert rows.num_rows == sum(map(len, rows_of_every_type()))
    connection.register("arrow", rows)
    connection.execute("create table t as select * from arrow")
    return connection


def literal(kind: str, value: Any) -> str:
    """A value in SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return "'" + "".join(f"\\x{byte:02X}" for byte in value) + "'::BLOB"
    text = str(value).replace("'", "''")
    return f"'{text}'::{SQL_TYPES[kind]}"


Both = tuple[Condition, str]
OPERATORS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def compared(name: str, operator: str, value: Any) -> Both:
    column = col(name)
    made = {
        "==": column == value,
        "!=": column != value,
        "<": column < value,
        "<=": column <= value,
        ">": column > value,
        ">=": column >= value,
    }
    return made[operator], f"{name} {OPERATORS[operator]} {literal(KINDS[name], value)}"


@st.composite
def leaves(draw: st.DrawFn) -> Both:
    name = draw(st.sampled_from(sorted(KINDS)))
    kind = KINDS[name]
    values = st.sampled_from(VALUES[kind])
    form = draw(st.sampled_from(["compare", "compare", "compare", "null", "in", "not in", "nan", "starts"]))
    if form == "null":
        return draw(
            st.sampled_from(
                [(col(name).is_null(), f"{name} is null"), (col(name).is_not_null(), f"{name} is not null")]
            )
        )
    if form in ("in", "not in"):
        chosen = draw(st.lists(st.one_of(values, st.none()), min_size=1, max_size=4))
        listed = ", ".join(literal(kind, value) for value in chosen)
        made = col(name).isin(chosen) if form == "in" else col(name).not_in(chosen)
        return made, f"{name} {form} ({listed})"
    if form == "nan" and kind in ("float", "double"):
        return col(name).is_nan(), f"isnan({name})"
    if form == "starts" and kind == "string":
        prefix = draw(st.sampled_from(["", "a", LONG, LONG + "b", "b", "\U0010ffff"]))
        return col(name).starts_with(prefix), f"starts_with({name}, '{prefix}')"
    operator, value = draw(st.sampled_from(sorted(OPERATORS))), draw(values)
    return compared(name, operator, value)


def joined(pair: tuple[Both, Both, str]) -> Both:
    (left, left_sql), (right, right_sql), word = pair
    return (
        (left & right, f"({left_sql} and {right_sql})")
        if word == "and"
        else (left | right, f"({left_sql} or {right_sql})")
    )


conditions = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.tuples(inner, inner, st.sampled_from(["and", "or"])).map(joined),
        inner.map(lambda both: (~both[0], f"(not {both[1]})")),
    ),
    max_leaves=5,
)


def numbers(rows: pa.Table) -> list[int]:
    return sorted(rows["n"].to_pylist())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(both=conditions)
def test_every_condition_in_every_form_finds_what_duckdb_finds(
    every_type: ds.Table, truth: duckdb.DuckDBPyConnection, both: Both
) -> None:
    condition, sql = both
    expected = [row[0] for row in truth.execute(f"select n from t where {sql} order by n").fetchall()]
    assert numbers(every_type.scan(columns=["n"], where=condition).to_arrow()) == expected, condition
    by_text = every_type.scan(where=sql)
    assert is_exact(by_text.condition.bound), sql
    assert numbers(by_text.to_arrow()) == expected, sql
    assert numbers(every_type.sql(f"select n from t where {sql}")) == expected, sql
    assert every_type.scan(where=condition).count() == len(expected)


@pytest.mark.parametrize(
    "sql",
    [
        "c1 > c2",
        "c1 % 2 = 0 and c9 like 'a%'",
        "c9 ilike 'A%' or c1 is null",
        "c1 > 1.5",
        "c13 > 1.249",
        "case when c0 then c1 > 0 else c1 is null end",
        "c8::date = '2026-01-01'",
        "c7::date <= '1969-12-31'",
        "c7::date <> '1969-12-31'",
        "c1 is not distinct from 7",
        "c9 is distinct from 'a'",
        "c1 between -1 and 7 -- with a comment",
        "c9 in (select 'a')",
        "c8 < now() - interval 1 day",
        "c1 = 4294967296 or c1 < 4294967296",
        "length(c9) > 3 and c8 < now()",
        "coalesce(c0, true)",
        "c0",
        "not c0",
        "true",
        "null",
    ],
)
def test_sql_that_only_duckdb_can_answer(every_type: ds.Table, truth: duckdb.DuckDBPyConnection, sql: str) -> None:
    expected = [row[0] for row in truth.execute(f"select n from t where (\n{sql}\n) order by n").fetchall()]
    scan = every_type.scan(columns=["n", "c9"], where=sql)
    assert numbers(scan.to_arrow()) == expected
    assert scan.arrow_schema().equals(scan.to_arrow().schema, check_metadata=True)
    assert scan.count() == len(expected)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arrow_expressions_mean_what_arrow_means(every_type: ds.Table, data: st.DataObject) -> None:
    names = [name for name in sorted(KINDS) if KINDS[name] not in ("uuid", "fixed[3]")]
    everything = every_type.scan().to_arrow()

    def leaf() -> pc.Expression:
        name = data.draw(st.sampled_from(names))
        field, value = pc.field(name), data.draw(st.sampled_from(VALUES[KINDS[name]]))
        scalar = pa.scalar(value, everything.schema.field(name).type)
        forms = [field == scalar, field != scalar, field < scalar, field >= scalar, field.is_null(), field.is_valid()]
        return data.draw(st.sampled_from(range(len(forms))).map(forms.__getitem__))

    left, right = leaf(), leaf()
    word = data.draw(st.sampled_from(["and", "or", "not"]))
    condition = left & right if word == "and" else left | right if word == "or" else ~left
    found = every_type.scan(columns=["n"], where=condition).to_arrow()
    assert numbers(found) == numbers(everything.filter(condition)), condition


def test_what_does_not_fit_is_refused_and_named(every_type: ds.Table) -> None:
    def refused(where: Any, words: str) -> None:
        with pytest.raises(ds.ConfigurationError, match=words):
            every_type.scan(where=where)

    refused(col("nosuch") == 1, "no column 'nosuch'")
    refused("nosuch = 1", "nosuch")
    refused(pc.field("nosuch") == 1, "nosuch")
    refused(col("c1") == "x", r"col\('c1'\) == 'x'.*'c1'")
    refused("c1 = 'x'", "'x'")
    refused(col("c1") > 1.5, "c1")
    refused(col("c8") > dt.datetime(2026, 1, 1), "time zone")
    refused(col("c1").is_nan(), "float and double only")
    refused(col("c1").starts_with("a"), "string and binary")
    refused("", "no condition")
    refused("c1 +", "c1")
    refused("sum(c1) > 1", "aggregate")
    with pytest.raises(ds.ConfigurationError, match=r"write col\('a'\)\.is_null\(\)"):
        col("a") == None  # noqa: B015, E711
    with pytest.raises(TypeError, match=r"combine conditions with &, \| and ~"):
        bool(col("a") == 1)
    with pytest.raises(ds.ConfigurationError, match="put comparisons in brackets"):
        (col("a") == 1) & 5  # type: ignore[operator]


def test_the_two_zeros_are_equal(every_type: ds.Table, truth: duckdb.DuckDBPyConnection) -> None:
    for zero in (0.0, -0.0):
        for condition, sql in (
            (col("c4") == zero, f"c4 = '{zero}'::DOUBLE"),
            (col("c4").isin([zero, 1.5]), f"c4 in ('{zero}'::DOUBLE, 1.5::DOUBLE)"),
            (col("c4").not_in([zero]), f"c4 not in ('{zero}'::DOUBLE)"),
        ):
            expected = [row[0] for row in truth.execute(f"select n from t where {sql} order by n").fetchall()]
            assert numbers(every_type.scan(where=condition).to_arrow()) == expected, sql
            assert numbers(every_type.sql(f"select n from t where {sql}")) == expected, sql


def test_not_is_moved_to_the_leaves_and_keeps_null_apart() -> None:
    schema = ds.Schema(fields=[{"name": "a", "type": "int"}, {"name": "b", "type": "int"}])
    bound = bind(~((col("a") == 1) & ~(col("b") < 2)), schema, "t")
    assert isinstance(bound, AnyOf) and [part.kind for part in bound.parts] == ["!=", "<"]  # type: ignore[union-attr]
    assert isinstance(bind(~((col("a") == 1) | (col("b") == 2)), schema, "t"), AllOf)


def test_fields_of_structs_are_reached_by_dots() -> None:
    schema = ds.Schema(
        fields=[
            {
                "name": "place",
                "type": {"type": "struct", "fields": [{"id": 2, "name": "city", "type": "string"}]},
                "id": 1,
            }
        ]
    )
    table = Warehouse(MemoryStorage()).create_table("t", schema)
    for rows in ([{"place": {"city": "Bern"}}], [{"place": {"city": "Rome"}}], [{"place": None}]):
        table.append(rows)
    for where in (col("place.city") == "Rome", "place.city = 'Rome'", pc.field("place", "city") == "Rome"):
        scan = table.scan(where=where)
        assert scan.to_records() == [{"place": {"city": "Rome"}}]
        assert len(scan.data_files()) == 1
    assert table.sql("select place.city as c from t where place.city > 'Pisa'").to_pylist() == [{"c": "Rome"}]
