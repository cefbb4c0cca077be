"""SQL text is one expression about the columns of its table, or it is refused before anything is read."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

import datashard_core as ds
from datashard_core import col
from datashard_core.errors import ConfigurationError
from datashard_core.query.where import prepare
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

NAN, INF = math.nan, math.inf
SCHEMA = ds.Schema(
    fields=[
        {"name": "n", "type": "long"},
        {"name": "d", "type": "double"},
        {"name": "s", "type": "string"},
        {"name": "scanned", "type": {"type": "struct", "fields": [{"id": 10, "name": "n", "type": "long"}]}},
        {"name": "Place", "type": {"type": "struct", "fields": [{"id": 11, "name": "City", "type": "string"}]}},
        {"name": "pairs", "type": {"type": "map", "key": "string", "value": "long"}},
    ]
)
ROWS: list[dict[str, Any]] = [
    {"n": 2, "d": NAN, "s": "a", "scanned": {"n": 20}, "Place": {"City": "Bern"}, "pairs": {"a": 1}},
    {"n": 4, "d": INF, "s": "it's", "scanned": {"n": 2}, "Place": {"City": "Rome"}, "pairs": {}},
    {"n": 6, "d": 1.0, "s": None, "scanned": None, "Place": None, "pairs": None},
    {"n": 8, "d": None, "s": "ö)", "scanned": {"n": None}, "Place": {"City": None}, "pairs": {"b": None}},
]


@pytest.fixture(scope="module")
def table() -> ds.Table:
    made = Warehouse(MemoryStorage("memory://text")).create_table("t", SCHEMA)
    made.append(ROWS[:2])
    made.append(ROWS[2:])
    return made


def found(table: ds.Table, where: str) -> list[int]:
    return sorted(table.scan(columns=["n"], where=where).to_arrow()["n"].to_pylist())


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("d > 1.0 and n % 2 = 0", [2, 4]),
        ("d > 1.0 or n % 100 = 99", [2, 4]),
        ("d <= 'nan' and n % 2 = 0", [2, 4, 6]),
        ("d < 'nan' and n % 2 = 0", [4, 6]),
        ("d = 'nan' and n % 2 = 0", [2]),
        ("d in ('nan', 1.0) and n % 2 = 0", [2, 6]),
        ("not (d > 1.0) and n % 2 = 0", [6]),
        ("d in (select unnest([1.0, 'nan'::double])) and n > 0", [2, 6]),
        ("d = any([1.0, 'nan'::double])", [2, 6]),
        ("exists (select 1 where d > 1.0)", [2, 4]),
        ("n in (values (2), (6), (7))", [2, 6]),
        ("n in (select * from (values (2), (6)) as x(y) where y > 2)", [6]),
        ("len(list_filter([n, 5], lambda x: x > 4)) = 2", [6, 8]),
        ("list_filter([n, 5], lambda x: x > 4.5) = [5]", [2, 4]),
        ("place.CITY = 'Rome'", [4]),
        ("PLACE.city like 'B%' -- with a comment", [2]),
        ("/* ( */ n > 4 /* ) */", [6, 8]),
        ("s = 'it''s' or s = 'ö)'", [4, 8]),
        ("s = $$it's$$", [4]),
        ("scanned.n = 2", [4]),
        ("scanned.n % 10 = 0", [2]),
        ("(n > 2) = true", [4, 6, 8]),
        ("(n > 2) is not true", [2]),
        ("n > 2 and n < 8 or\nn = 8", [4, 6, 8]),
        ("pairs['a'] = 1", [2]),
        ("(s = 'a' or true) and n % 4 = 0", [4, 8]),
        ("not (d > 1.0 and false) and n % 4 = 0", [4, 8]),
        ("(n > 4 or d is null or true) and len(s) > 1 and n % 4 = 0", [4, 8]),
        ("1 = 1", [2, 4, 6, 8]),
        ("n > 1e400", []),
        ("list_contains([2, 4], n)", [2, 4]),
        ("len([x for x in [1, 2, 3] if x > n]) > 0", [2]),
    ],
)
def test_one_expression_is_answered(table: ds.Table, where: str, expected: list[int]) -> None:
    assert found(table, where) == expected
    if "select" not in where:
        assert sorted(row["n"] for row in table.sql(f"select n from t where (\n{where}\n)").to_pylist()) == expected


@pytest.mark.parametrize(
    "where",
    [
        "true) union all select * from t where (true",
        "true) union all (select 1",
        "n > 100) or (true",
        "true) limit (1",
        "true) order by (n",
        "true) group by (n",
        "true) having (true",
        "true) qualify (true",
        "true) window w as (order by n",
        "true); select 1 where (true",
        "true); drop table t; select (true",
        "true] || [true",
        "true], [true",
        "true) as x, (true",
        "n > 1;",
        "n > 1, n > 2",
        "select true",
        "n > 1 from t",
        "(n > 1",
        "n > 1)",
        "n > 1 /* (",
        "x for x in [true]",
    ],
)
def test_text_that_is_not_one_expression_is_refused(table: ds.Table, where: str) -> None:
    with pytest.raises(
        ds.ConfigurationError, match=r"table t: the condition .* does not fit: (it is not one|.*syntax|unterm)"
    ):
        table.scan(where=where)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("n = ?", "parameter"),
        ("n = $1", "parameter"),
        ("n = $name", "parameter"),
        ("#1 = 2", "#1 is no column"),
        ("columns(*) is not null", "names? the columns"),
        ("n in (select n from t)", "reads nothing else"),
        ("n in (select n from scanned)", "reads nothing else"),
        ("exists (from duckdb_settings())", "reads nothing else"),
        ("exists (select 1 from (values (1)) v, read_text('/etc/hostname'))", "reads nothing else"),
        ("n = (with x as (select 2) select * from x)", "reads nothing else|names? the columns"),
        ("sum(n) > 1", "aggregate"),
        ("row_number() over () = 1", "window"),
        ("rowid = 1", "no column 'rowid'"),
        ('"rows of the table".n = 2', "no column 'rows of the table'"),
        ("t.n = 2", '"t"'),
        ("nosuch = 1", "nosuch"),
        ("n = 'x'", "'x' is not BIGINT"),
        ("default", "DEFAULT"),
    ],
)
def test_what_is_no_condition_on_columns_is_refused(table: ds.Table, where: str, why: str) -> None:
    with pytest.raises(ds.ConfigurationError, match=why) as failure:
        table.scan(where=where)
    assert "table t" in str(failure.value) and repr(where) in str(failure.value)


def test_a_star_counts_in_the_list_of_a_query_alone(table: ds.Table) -> None:
    for where in ("n in (select columns(*) from (values (2)) as x(y))", "struct_pack(*) = 1"):
        with pytest.raises(ConfigurationError, match="table t: the condition"):
            found(table, where)


def test_columns_that_differ_by_case_alone_are_never_mixed_up() -> None:
    """Other writers make such tables."""
    fields = [{"id": i, "name": name, "type": "long", "required": False} for i, name in enumerate("vVw", 1)]
    schema = ds.Schema.from_dict({"type": "struct", "schema-id": 0, "fields": fields})
    rows = pa.RecordBatch.from_pylist([{"v": 1, "V": 5, "w": 0}, {"v": 5, "V": 1, "w": 1}], schema.to_arrow())
    for text in ("V > 3", '"v" > 3', "w = 0 and v % 2 = 1"):
        with pytest.raises(ds.ConfigurationError, match=r"'v' and 'V' apart: use col\('[vV]'\)"):
            prepare(text, schema, "t")
    for name, expected in (("v", [5]), ("V", [1])):
        matching = prepare(col(name) > 3, schema, "t").batch
        assert matching is not None and matching(rows)["v"].to_pylist() == expected
    by_duckdb = prepare("w % 2 = 1", schema, "t").stream
    assert by_duckdb is not None
    assert [batch.to_pylist() for batch in by_duckdb([rows])] == [[{"v": 5, "V": 1, "w": 1}]]


def test_rows_that_duckdb_chooses_are_those_of_the_files() -> None:
    """They do not go through DuckDB's types: fixed bytes, uuids, field ids and maps come back as they were."""
    table = Warehouse(MemoryStorage()).create_table(
        "t",
        ds.Schema(
            fields=[
                {"name": "n", "type": "long"},
                {"name": "f", "type": "fixed[2]"},
                {"name": "u", "type": "uuid"},
                {"name": "m", "type": {"type": "map", "key": "string", "value": "double"}},
            ]
        ),
    )
    for number in range(300):
        table.append([{"n": number, "f": b"\x00\xff", "m": {"x": NAN, "y": None}}])
    scan = table.scan(where="n % 3 = 0")
    whole = table.scan().to_arrow()
    rows = scan.to_arrow()
    assert rows.schema.equals(whole.schema, check_metadata=True)
    assert sorted(rows["n"].to_pylist()) == list(range(0, 300, 3))
    assert rows["f"].to_pylist() == [b"\x00\xff"] * 100
    assert table.scan(where="n % 3 = 0", limit=7).to_arrow().num_rows == 7
    assert table.scan(where="n % 3 = 0").count() == 100
