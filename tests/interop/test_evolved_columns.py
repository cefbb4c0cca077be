"""Conditions on columns that were added, renamed, widened, dropped, or made again under a name that was in use.

PyIceberg changes the schema through our catalog, between files of ours; a column is its field id. Whatever is left
unread by bounds of another type, or of another column of the same name, the rows are those that DuckDB finds among
the rows as they should read.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Iterator
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from datashard_testkit.sampling import one_in
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.types import DecimalType, DoubleType, LongType, StringType

import datashard_core as ds
from datashard_core import col
from datashard_core.format.expressions.expressions import Condition
from datashard_core.storage.local import LocalStorage
from datashard_core.table.warehouse import Warehouse

OLD = [
    {"name": "n", "type": "long"},
    {"name": "i", "type": "int"},
    {"name": "f", "type": "float"},
    {"name": "d", "type": "decimal(9, 2)"},
    {"name": "s", "type": "string"},
    {"name": "again", "type": "long"},
]
FINAL = pa.schema(
    {
        "n": pa.int64(),
        "i": pa.int64(),
        "f": pa.float64(),
        "d": pa.decimal128(18, 2),
        "words": pa.large_string(),
        "again": pa.large_string(),
        "late": pa.int64(),
        "s": pa.int64(),
    }
)
LONG = "a" * 16
INTS = [-(2**31), -1, 0, 7, 2**31 - 1]
FLOATS = [-math.inf, -0.0, 1.5, 0.10000000149011612, math.inf, math.nan]  # the fourth is 0.1 as a float has it
DECIMALS = [Decimal("-9999999.99"), Decimal("0.00"), Decimal("1.25"), Decimal("9999999.99")]
WORDS = ["", "a", LONG, LONG + "b", "b", "é"]
WIDE = {
    "i": [*INTS, -(2**63), 2**31, 2**63 - 1],
    "f": [*FLOATS, 0.1, 1e300],
    "d": [*DECIMALS, Decimal("-9999999999999999.99"), Decimal("10000000.00")],
    "words": WORDS,
    "again": ["", "1", "7", "b"],
    "late": [-1, 0, 7, 2**31],
    "s": [-1, 0, 7, 2**31],
}
SQL_TYPES = {"i": "BIGINT", "f": "DOUBLE", "d": "DECIMAL(18, 2)", "words": "VARCHAR", "again": "VARCHAR"}
OPERATORS = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def old_rows() -> list[dict[str, Any]]:
    """A file each: values at the edges of the old types, and nulls."""
    columns = {"i": INTS, "f": FLOATS, "d": DECIMALS, "s": WORDS, "again": [-1, 0, 7]}
    return [{name: values[k % len(values)] for name, values in columns.items()} for k in range(6)] + [{}]


def new_rows(names: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [{name: values[k % len(values)] for name, values in names.items()} for k in range(8)] + [{}]


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ds.Table, duckdb.DuckDBPyConnection]]:
    """The table, and its rows as they should read, in DuckDB."""
    folder: Path = tmp_path_factory.mktemp("evolved")
    warehouse = Warehouse(LocalStorage(folder / "warehouse"))
    catalog: Catalog = load_catalog(
        "lake", **{"py-catalog-impl": "datashard_core.pyiceberg.DataShardCatalog", "warehouse": warehouse.uri}
    )
    catalog.create_namespace("shop")
    ours = warehouse.create_table("shop.t", ds.Schema(fields=OLD))
    logical: list[dict[str, Any]] = []
    numbers = iter(range(10**6))

    def append(row: dict[str, Any], reads: dict[str, Any]) -> None:
        n = next(numbers)
        ours.append([{"n": n, **row}])
        logical.append({"n": n, **reads})

    for row in old_rows():
        reads = {name: value for name, value in row.items() if name not in ("s", "again")}
        append(row, {**reads, "words": row.get("s")})

    with catalog.load_table("shop.t").update_schema(allow_incompatible_changes=True) as update:
        update.update_column("i", LongType())
        update.update_column("f", DoubleType())
        update.update_column("d", DecimalType(18, 2))
        update.rename_column("s", "words")
        update.delete_column("again")
        update.add_column("late", LongType())
    ours.refresh()
    for row in new_rows({name: WIDE[name] for name in ("i", "f", "d", "words", "late")}):
        append(row, row)

    with catalog.load_table("shop.t").update_schema() as update:
        update.add_column("again", StringType())
        update.add_column("s", LongType())
    ours.refresh()
    for row in new_rows(WIDE):
        append(row, row)

    connection = duckdb.connect()
    connection.register("arrow", pa.Table.from_pylist(logical, schema=FINAL))
    connection.execute("create table t as select * from arrow")
    yield ours, connection
    connection.close()


def literal(name: str, value: Any) -> str:
    return "NULL" if value is None else f"'{value}'::{SQL_TYPES.get(name, 'BIGINT')}"


def compared(name: str, sign: str, value: Any) -> tuple[Condition, str]:
    return OPERATORS[sign](col(name), value), f"{name} {sign} {literal(name, value)}"


def leaf(dice: random.Random) -> tuple[Condition, str]:
    name = dice.choice(sorted(WIDE))
    form = dice.choice(["compare", "compare", "null", "not null", "in", "not in", "starts"])
    if form == "null":
        return col(name).is_null(), f"{name} is null"
    if form == "not null":
        return col(name).is_not_null(), f"{name} is not null"
    if form in ("in", "not in"):
        chosen = [dice.choice([*WIDE[name], None]) for _ in range(dice.randint(1, 3))]
        listed = ", ".join(literal(name, value) for value in chosen)
        return (col(name).isin(chosen) if form == "in" else col(name).not_in(chosen)), f"{name} {form} ({listed})"
    if form == "starts" and name in ("words", "again"):
        prefix = dice.choice(["", "a", LONG, LONG + "b", "7"])
        return col(name).starts_with(prefix), f"starts_with({name}, '{prefix}')"
    return compared(name, dice.choice(sorted(OPERATORS)), dice.choice(WIDE[name]))


def grown(dice: random.Random, leaves: int) -> tuple[Condition, str]:
    """A condition of so many leaves, with ``and``, ``or`` and ``not`` in between."""
    if leaves == 1:
        made, sql = leaf(dice)
    else:
        left, left_sql = grown(dice, leaves // 2)
        right, right_sql = grown(dice, leaves - leaves // 2)
        word = dice.choice(["and", "or"])
        made, sql = (left & right if word == "and" else left | right), f"({left_sql} {word} {right_sql})"
    return (~made, f"(not {sql})") if dice.random() < 0.25 else (made, sql)


def found(rows: pa.Table) -> list[int]:
    return sorted(rows["n"].to_pylist())


def check(table: ds.Table, truth: duckdb.DuckDBPyConnection, condition: Condition, sql: str) -> None:
    expected = [row[0] for row in truth.execute(f"select n from t where {sql} order by n").fetchall()]
    assert found(table.scan(columns=["n"], where=condition).to_arrow()) == expected, sql
    assert found(table.scan(where=sql).to_arrow()) == expected, sql
    assert table.scan(where=condition).count() == len(expected), sql


def test_all_rows_read_as_they_should(evolved: tuple[ds.Table, duckdb.DuckDBPyConnection]) -> None:
    table, truth = evolved
    names = ", ".join(FINAL.names)
    expected = truth.execute(f"select {names} from t order by n").fetchall()
    rows = sorted(table.scan(columns=FINAL.names).to_records(), key=lambda row: row["n"])
    assert [repr(tuple(row[name] for name in FINAL.names)) for row in rows] == [repr(row) for row in expected]


@pytest.mark.parametrize("name", sorted(WIDE))
def test_every_comparison_with_every_value(evolved: tuple[ds.Table, duckdb.DuckDBPyConnection], name: str) -> None:
    for value, sign in one_in(2, product(WIDE[name], OPERATORS)):
        check(*evolved, *compared(name, sign, value))


@pytest.mark.parametrize("seed", range(6))
def test_conditions_of_several_columns(evolved: tuple[ds.Table, duckdb.DuckDBPyConnection], seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(40):
        check(*evolved, *grown(dice, dice.randint(1, 4)))


def test_sql_with_a_filter_of_its_own(evolved: tuple[ds.Table, duckdb.DuckDBPyConnection]) -> None:
    table, truth = evolved
    for sql in ("i >= 2147483648", "f > 0.1", "words = 'a'", "again = '7'", "s = 7 and late = 7", "d > 9999999.99"):
        expected = [row[0] for row in truth.execute(f"select n from t where {sql} order by n").fetchall()]
        assert expected
        assert found(table.sql(f"select n from shop.t where {sql}")) == expected, sql
