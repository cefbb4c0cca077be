"""Names of tables in SQL: every table is found under its exact name, whatever DuckDB calls its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from datashard_core import Schema, Table, Warehouse
from datashard_core.errors import ConfigurationError, CorruptTableError
from datashard_core.query.references import prefix_for, suggestion
from datashard_core.storage.memory import MemoryStorage

SCHEMA = Schema(fields=[{"name": "id", "type": "long"}, {"name": "v", "type": "string"}])


@pytest.fixture
def memory() -> Warehouse:
    """An empty warehouse whose tables may differ by case only, which not every file system can have."""
    return Warehouse(MemoryStorage("memory://names"))


def made(warehouse: Warehouse, *names: str) -> dict[str, Table]:
    """Tables with two rows each, that say the table's name."""
    tables = {}
    for name in names:
        tables[name] = warehouse.create_table(name, SCHEMA)
        tables[name].append([{"id": 1, "v": name}, {"id": 2, "v": name}])
    return tables


def rows(warehouse: Warehouse, query: str, params: Any = None) -> list[tuple[Any, ...]]:
    answer = warehouse.sql(query, params)  # its columns may have the same name
    return list(zip(*(column.to_pylist() for column in answer.columns), strict=True))


def test_tables_called_as_internal_views_are_themselves(warehouse: Warehouse) -> None:
    names = ["b", "datashard_0", "datashard_1", "a"]
    made(warehouse, *names)
    joins = "b join datashard_0 d using (id) join datashard_1 e using (id) join a using (id)"
    assert rows(warehouse, f"select b.v, d.v, e.v, a.v from {joins}") == [tuple(names)] * 2
    for name in names:
        assert rows(warehouse, f"select distinct v from {name}") == [(name,)]


def test_no_name_in_a_query_is_taken_for_a_view() -> None:
    assert prefix_for("select 1") == "_datashard"
    prefix = prefix_for("with _DataShard_0 as (select 1) from _datashard_0")
    assert prefix == "_datashard__"
    assert prefix not in "with _datashard_0 as (select 1) from _datashard_0"


def test_a_common_table_expression_may_have_an_internal_name(warehouse: Warehouse) -> None:
    made(warehouse, "t")
    query = "with _datashard_0 as (select 7 as n) select n, v from _datashard_0, t order by id limit 1"
    assert rows(warehouse, query) == [(7, "t")]


CASES = [
    ("select x.v, y.v from T x join t y using (id) order by x.id", [("T", "t")] * 2),
    ("select T.v, t.v from T join t on T.id = t.id", [("T", "t")] * 2),
    ("select t.v, T.v from T join t on T.id = t.id where t.v = 't' and T.v = 'T'", [("t", "T")] * 2),
    ("select t.* from T, t where T.id = 1 and t.id = 2", [(2, "t")]),
    ("select (select max(v) from T), (select max(v) from t)", [("T", "t")]),
    ("select v from T union all select v from t order by 1", [("T",), ("T",), ("t",), ("t",)]),
    ('select "t".v from "T" join "t" on "T".id = "t".id where "t".id = 1', [("t",)]),
    ("select v from T where exists (select 1 from t where t.id = T.id and t.v = 't')", [("T",)] * 2),
    ("with t as (select 'cte' as v) select v from t", [("cte",)]),
    ("with t as (select 'cte' as v) select max(v) from T", [("cte",)]),  # CTEs are DuckDB's: it folds their case
    ("with x as (select * from T) select max(x.v), max(t.v) from x join t using (id)", [("T", "t")]),
    ("select max(a.v), max(b.v) from T a, T b where a.id = b.id", [("T", "T")]),
    ("select max(a.v), max(b.v) from t a join t b using (id) join T c using (id)", [("t", "t")]),
    ("select t.v from T join t using (id) where t.id = $1", [("t",)]),
]


@pytest.mark.parametrize(("query", "expected"), CASES)
def test_tables_that_differ_by_case_are_two(query: str, expected: list[Any], memory: Warehouse) -> None:
    made(memory, "T", "t")
    params = [1] if "$1" in query else None
    assert sorted(rows(memory, query, params)) == sorted(expected)


NAMESPACES = [
    "temp",
    "system",
    "memory",
    "main",
    "pg_catalog",
    "information_schema",
    "TEMP",
    "datashard",
    "query",
    "ops",
]


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_namespaces_may_be_called_as_catalogs_and_schemas_of_duckdb(namespace: str, warehouse: Warehouse) -> None:
    name = f"{namespace}.events"
    tables = made(warehouse, name, "events")
    assert rows(warehouse, f"select distinct v from {name}") == [(name,)]
    assert rows(warehouse, f'select distinct v from "{namespace}"."events"') == [(name,)]
    assert rows(warehouse, f"select distinct {name}.v from {name}") == [(name,)]
    both = f"select a.v, b.v from {name} a join events b using (id)"
    assert rows(warehouse, both) == [(name, "events")] * 2
    assert rows(warehouse, f"select count(*) from {name} at (version => 0)") == [(0,)]
    assert rows(warehouse, f"select max({name}.v) from {name} at (version => 1)") == [(name,)]
    assert rows(warehouse, f"select count(*) from {name} where id = ?", [2]) == [(1,)]
    assert tables[name].sql(f"select max(v) as v from {name}").to_pylist() == [{"v": name}]
    assert tables[name].sql("select max(v) as v from events").to_pylist() == [{"v": name}]


def test_the_same_table_in_namespaces_of_all_kinds_at_once(memory: Warehouse) -> None:
    names = [f"{namespace}.t" for namespace in ("temp", "main", "ops", "Ops", "system")]
    made(memory, *names, "t")
    query = " union all ".join(f"select distinct v from {name}" for name in [*names, "t"])
    assert sorted(rows(memory, query)) == sorted((name,) for name in [*names, "t"])
    joined = "select a.v, b.v, c.v from main.t a join t b using (id) join temp.t c using (id) where id = 1"
    assert rows(memory, joined) == [("main.t", "t", "temp.t")]


ODD = [
    "order", "select", "table", "group", "1st", "2024", "a-b", "x--y", "range", "read_csv", "sum", "count", "query",
    "duckdb_tables", "duckdb_views", "sqlite_master", "pg_class", "pg_prepared_statements", "pragma_table_info",
    "information_schema", "main", "temp", "memory", "system", "Tables", "v", "id", "true", "null", "ORDER",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_tables_may_be_called_like_anything(name: str, warehouse: Warehouse) -> None:
    table = made(warehouse, name)[name]
    for query in (
        f'select distinct v from "{name}"',
        f'select distinct "{name}".v from "{name}"',
        f'with x as (from "{name}") select distinct v from x',
        f'select distinct a.v from "{name}" a join "{name}" b using (id)',
        f'select distinct v from "{name}" at (version => 1)',
    ):
        assert rows(warehouse, query) == [(name,)], query
        assert [tuple(row.values()) for row in table.sql(query).to_pylist()] == [(name,)], query


def test_common_table_expressions_hide_tables_as_in_sql(warehouse: Warehouse) -> None:
    made(warehouse, "orders", "other")
    asked = {
        "with orders as (select 'cte' as v) select v from orders": [("cte",)],
        "with orders as (select v || '!' as v from orders) select distinct v from orders": [("orders!",)],
        "with a as (select max(v) as v from orders), orders as (select 'cte' as v) select v from a": [("orders",)],
        "select x.v, orders.id from (with orders as (select 'cte' as v) select v from orders) x, orders order by 2": [
            ("cte", 1),
            ("cte", 2),
        ],
        "with recursive orders as (select 1 as n union all select n + 1 from orders where n < 3) from orders": [
            (1,),
            (2,),
            (3,),
        ],
        "with x as materialized (select * from orders) select max(v) from x": [("orders",)],
        "with orders as (select 'cte' as v) select (select max(v) from orders), (select max(v) from other)": [
            ("cte", "other")
        ],
        "with orders as (select 'cte' as v) select max(v) from orders at (version => 1)": [("orders",)],
    }
    for query, expected in asked.items():
        assert rows(warehouse, query) == expected, query


def test_a_table_that_is_hidden_is_not_read(warehouse: Warehouse, tmp_path: Path) -> None:
    made(warehouse, "orders")
    (metadata,) = (tmp_path / "warehouse" / "orders").glob("metadata/v1.metadata.json")
    metadata.write_text("{")
    assert rows(warehouse, "with orders as (select 1 as n) select n from orders") == [(1,)]
    with pytest.raises(CorruptTableError):
        warehouse.sql("select * from orders")


def test_aliases_and_columns_may_be_called_as_tables(warehouse: Warehouse) -> None:
    made(warehouse, "orders", "v", "a.orders")
    assert rows(warehouse, "select distinct orders.v from v as orders") == [("v",)]
    assert rows(warehouse, "select distinct v.v from orders as v") == [("orders",)]
    assert rows(warehouse, "select distinct v from v") == [("v",)]
    assert rows(warehouse, "select orders from orders where id = 1") == [({"id": 1, "v": "orders"},)]
    assert rows(warehouse, "select distinct a.v from orders as a") == [("orders",)]
    assert rows(warehouse, "select distinct x.v, y.v from a.orders x, orders y") == [("a.orders", "orders")]
    assert rows(warehouse, "select max(o) from orders as o(n, o)") == [("orders",)]


def test_a_name_in_one_pair_of_quotes_is_the_table_too(warehouse: Warehouse) -> None:
    made(warehouse, "shop.orders", "orders")
    assert rows(warehouse, 'select distinct "shop.orders".v from "shop.orders"') == [("shop.orders",)]
    both = 'select a.v, b.v, c.v from shop.orders a join "shop.orders" b using (id) join orders c using (id)'
    assert rows(warehouse, both) == [("shop.orders", "shop.orders", "orders")] * 2


def test_earlier_states_are_found_beside_all_of_that(memory: Warehouse) -> None:
    tables = made(memory, "T", "t", "temp.t")
    tables["t"].append([{"id": 3, "v": "t"}])
    query = """
        select (select count(*) from t), (select count(*) from t at (version => 1)), (select count(*) from T),
               (select count(*) from temp.t at (version => 0)), (select count(*) from T at (version => 1))
    """
    assert rows(memory, query) == [(3, 2, 2, 0, 2)]


MISSING = [
    ("select * from ordrs", "orders"),
    ("select * from Orders", "orders"),
    ('select * from "orders "', "orders"),
    ("select * from order_s join orders using (id)", "orders"),
    ("select * from invoices", "shop.invoices"),
    ("select * from shp.invoices", "shop.invoices"),
    ("select * from shop.invoice", "shop.invoices"),
    ("select * from lake.shop.invoices", "shop.invoices"),
    ("select (select max(id) from ordrs)", "orders"),
    ("select * from ordrs at (version => 1)", "orders"),
]


@pytest.mark.parametrize(("query", "meant"), MISSING)
def test_a_missing_table_is_named_with_our_own_that_are_called_alike(
    query: str, meant: str, warehouse: Warehouse
) -> None:
    made(warehouse, "orders", "shop.invoices", "zebra")
    with pytest.raises(ConfigurationError) as raised:
        warehouse.sql(query)
    assert f"did you mean {meant}" in str(raised.value)
    assert warehouse.uri in str(raised.value)
    assert "pg_" not in str(raised.value)


def test_a_missing_table_without_a_likeness_lists_what_there_is(warehouse: Warehouse) -> None:
    with pytest.raises(ConfigurationError, match=r"'qqq'.*there are no tables"):
        warehouse.sql("select * from qqq")
    made(warehouse, "orders", "shop.invoices")
    with pytest.raises(ConfigurationError, match=r"'qqq'.*the tables are orders, shop\.invoices"):
        warehouse.sql("select * from qqq")


def test_suggestions_are_few_and_exact_ones_come_first() -> None:
    assert suggestion("ORDERS", ["order", "orders", "ops.orders"]) == "did you mean orders or ops.orders?"
    assert suggestion("x", [f"table{n}" for n in range(12)]).endswith("table9 and 2 more")
    assert suggestion("tabl", [f"table{n}" for n in range(12)]).count(" or ") == 2


def test_a_table_is_asked_under_its_whole_name_or_its_last(warehouse: Warehouse) -> None:
    table = made(warehouse, "shop.orders")["shop.orders"]
    for query in (
        "from shop.orders",
        "from orders",
        "from orders at (version => 1)",
        'from "orders" o join orders using (id)',
    ):
        assert table.sql(
            f"select max(orders.v) as v {query}" if " o " not in query else f"select max(o.v) as v {query}"
        ).to_pylist() == [{"v": "shop.orders"}]
    assert table.sql("select a.v, b.v from shop.orders a join orders b using (id)").num_rows == 2
    for query in ("select * from other", "select * from shop.other", "select * from Orders"):
        with pytest.raises(
            ConfigurationError,
            match=r"table shop\.orders has no such table.*did you mean shop\.orders|the tables are shop\.orders",
        ):
            table.sql(query)


def test_views_that_every_duckdb_has_stay_what_they_are(warehouse: Warehouse) -> None:
    made(warehouse, "t")
    for query in (
        "select count(*) > 0 from duckdb_types",
        "select count(*) > 0 from information_schema.schemata",
        "select count(*) > 0 from pg_catalog.pg_type",
        "select count(*) > 0 from range(3), t",
        "select count(*) > 0 from (values (1)) x(n)",
    ):
        assert rows(warehouse, query) == [(True,)], query


def test_queries_of_all_forms_are_answered_under_new_names(memory: Warehouse) -> None:
    made(memory, "T", "t", "temp.t")
    asked: dict[str, Any] = {
        "from t select max(v) where id in (select id from T)": [("t",)],
        "select v, count(*) over (partition by v) from temp.t qualify row_number() over (order by id) = 1": [
            ("temp.t", 2)
        ],
        "select distinct on (v) v from (select v from T union all from (select v from t)) order by v": [("T",), ("t",)],
        "select id, list(v order by v) from (from T union all from t) group by all order by all": [
            (1, ["T", "t"]),
            (2, ["T", "t"]),
        ],
        "select x.v from temp.t x asof join T y on x.id >= y.id order by all": [("temp.t",), ("temp.t",)],
        "select l.n from T, lateral (select T.id + 10 as n) l order by 1": [(11,), (12,)],
        "select * exclude (id) replace (upper(v) as v) from temp.t limit 1": [("TEMP.T",)],
        "select count(*) filter (where id = 1) from temp.t": [(1,)],
        "select id from temp.t group by rollup (id) order by id nulls last": [(1,), (2,), (None,)],
        "select sum(id) from temp.t where v like 'temp%' having sum(id) > 2": [(3,)],
        "select columns('v') from T join t using (id) limit 1": [("T", "t")],
        "select case when id = 1 then interval 1 day end is null from temp.t order by 1": [(False,), (True,)],
        "select list_transform([id], x -> x + 1) from temp.t order by 1": [([2],), ([3],)],
        "select v from temp.t where id = $id": [("temp.t",)],
        "pivot temp.t on id using max(v)": None,
    }
    for query, expected in asked.items():
        if expected is None:
            with pytest.raises(ConfigurationError, match="one SELECT"):
                memory.sql(query)
            continue
        params = {"id": 1} if "$id" in query else None
        answer = memory.sql(query, params)
        found = list(zip(*(column.to_pylist() for column in answer.columns), strict=True))
        assert found == expected, query


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_csv('{file}')",
        "select * from read_text('{file}')",
        "select * from '{file}'",
        'select * from "{file}"',
        "select * from glob('{file}')",
        "select * from read_blob('{file}')",
        "select * from read_parquet('{file}')",
    ],
)
def test_a_query_reads_no_files(query: str, warehouse: Warehouse, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\nhidden,1\n")
    made(warehouse, "t")
    with pytest.raises(ConfigurationError) as raised:
        warehouse.sql(query.format(file=secret))
    assert "hidden" not in str(raised.value)
    assert re.search("disabled|no such table", str(raised.value))
