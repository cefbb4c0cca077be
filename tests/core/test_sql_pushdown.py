"""What DuckDB asks tables for: joins, IN and subqueries over every type find what plain Python finds."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datashard_testkit.conditions import NAN, VALUES, literal, order

import datashard_core as ds
from datashard_core import col
from datashard_core.query.duck import connect
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table import dataset as dataset_module
from datashard_core.table.scan import Scan
from datashard_core.table.warehouse import Warehouse

KINDS = {f"c{number}": kind for number, kind in enumerate(VALUES)}
FIELDS = [{"name": name, "type": kind} for name, kind in KINDS.items()]
MOST = max(map(len, VALUES.values()))
EVERY = [
    {"n": number, **{name: VALUES[kind][number % len(VALUES[kind])] for name, kind in KINDS.items()}}
    for number in range(MOST)
] + [{"n": MOST}]
KEYS = [{"k": number, **{name: VALUES[kind][-1 - number] for name, kind in KINDS.items()}} for number in range(2)]
KEYS.append({"k": 2})


@pytest.fixture(scope="module")
def warehouse() -> Warehouse:
    found = Warehouse(MemoryStorage("memory://pushdown"))
    every = found.create_table("every", ds.Schema(fields=[{"name": "n", "type": "long"}, *FIELDS]))
    for row in EVERY:
        every.append([row])
    keys = found.create_table("keys", ds.Schema(fields=[{"name": "k", "type": "long"}, *FIELDS]))
    keys.append(KEYS)
    return found


def pairs(name: str, keys: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return sorted(
        (row["n"], key["k"])
        for row in EVERY
        for key in keys
        if row.get(name) is not None and key.get(name) is not None and order(row[name]) == order(key[name])
    )


@pytest.mark.parametrize("name", KINDS)
def test_joins_and_subqueries_over_every_type(warehouse: Warehouse, name: str) -> None:
    expected = pairs(name, KEYS)

    def found(query: str) -> list[tuple[Any, ...]]:
        return sorted(tuple(row.values()) for row in warehouse.sql(query).to_pylist())

    joined = f"select n, k from every join keys on every.{name} = keys.{name}"
    assert found(joined) == expected
    assert found(f"select n, k from keys join every on every.{name} = keys.{name}") == expected
    assert found(f"{joined} where k = 0") == pairs(name, KEYS[:1])
    once = sorted({(n,) for n, _ in expected})
    assert found(f"select n from every where {name} in (select {name} from keys)") == once
    alone = sorted((n,) for n, _ in pairs(name, KEYS[:1]))
    assert found(f"select n from every where {name} = (select {name} from keys where k = 0)") == alone
    values = [literal(KINDS[name], key[name]) for key in KEYS[:2]]
    listed = ", ".join(values)
    assert found(f"select n from every where {name} in ({listed})") == once
    assert found(f"select n from every where {name} in (values ({'), ('.join(values)}))") == once
    both = f"select n from every where {name} in ({listed}) and n % 2 = 0"
    assert found(both) == [(n,) for (n,) in once if n % 2 == 0]


class Asked:
    """What DuckDB asks of the tables of a query."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.filters: list[Any] = []
        self.files: list[int] = []
        narrowed = dataset_module.narrowed

        def with_watermark(scan: Scan, columns: Any, where: Any) -> Scan:
            if scan.table_name != "every":
                return narrowed(scan, columns, where)
            self.filters.append(where)
            found = narrowed(scan, columns, where)
            self.files.append(len(found.data_files()))
            return found

        monkeypatch.setattr(dataset_module, "narrowed", with_watermark)


@pytest.mark.parametrize("kind", ["int", "long", "date", "time", "timestamp", "string", "binary", "decimal(38, 3)"])
def test_joins_leave_files_out(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    asked = Asked(monkeypatch)
    name = next(name for name, one in KINDS.items() if one == kind)
    warehouse.sql(f"select n from every join keys on every.{name} = keys.{name} where k = 0")
    assert len(asked.files) == 1 and asked.filters[0] is not None
    assert 0 < asked.files[0] < len(EVERY) // 2


@pytest.mark.parametrize("kind", ["float", "double", "timestamptz", "string", "long"])
def test_comparisons_leave_files_out(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    asked = Asked(monkeypatch)
    name = next(name for name, one in KINDS.items() if one == kind)
    warehouse.sql(f"select n from every where {name} < {literal(kind, VALUES[kind][1])}")
    assert len(asked.files) == 1 and 0 < asked.files[0] < len(EVERY) // 2


def test_what_duckdb_cannot_ask_for_is_asked_of_all_rows_by_a_second_try(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)
    double = next(name for name, kind in KINDS.items() if kind == "double")
    rows = warehouse.sql(f"select n from every where {double} <= 'nan'")
    assert len(rows) == MOST, "null is not among them"
    assert [one is None for one in asked.filters] == [False, True]


@pytest.mark.parametrize(
    ("kind", "condition", "expected"),
    [
        ("time", "{} in ('24:00:00', '12:30:00')", [dt.time(12, 30)]),
        ("date", "{} in ('infinity', '1970-01-01')", [dt.date(1970, 1, 1)]),
        ("date", "{} in ('-infinity', '1970-01-01')", [dt.date(1970, 1, 1)]),
        ("date", "{} in ('20000-01-01', '1970-01-01')", [dt.date(1970, 1, 1)]),
        ("date", "{} > '20000-01-01'", []),
        ("timestamp", "{} in ('infinity', '1970-01-01')", [dt.datetime(1970, 1, 1)]),
        ("timestamp", "{} >= 'infinity'", []),
        ("timestamptz", "{} in ('infinity', '1970-01-01 00:00:00+00')", [dt.datetime(1970, 1, 1, tzinfo=dt.UTC)]),
        (
            "timestamptz",
            "{} in ('0044-01-01 (BC)', '1970-01-01 00:00:00+00')",
            [dt.datetime(1970, 1, 1, tzinfo=dt.UTC)],
        ),
        ("float", "{} in (0.0, 'nan')", [-0.0, 0.0, NAN]),
    ],
)
def test_values_that_python_has_not(warehouse: Warehouse, kind: str, condition: str, expected: list[Any]) -> None:
    name = next(name for name, one in KINDS.items() if one == kind)
    text = condition.format(name)
    wanted = sorted(
        row["n"] for row in EVERY if name in row and any(order(row[name]) == order(one) for one in expected)
    )
    assert sorted(warehouse.sql(f"select n from every where {text}")["n"].to_pylist()) == wanted
    assert sorted(warehouse.load_table("every").scan(where=text).to_arrow()["n"].to_pylist()) == wanted


def test_a_relation_of_duckdb_joins_uuids_and_zones_too(warehouse: Warehouse) -> None:
    every, keys = warehouse.load_table("every"), warehouse.load_table("keys")
    for kind in ("uuid", "timestamptz"):
        name = next(name for name, one in KINDS.items() if one == kind)
        connection = connect()
        left, right = every.scan().to_duckdb(connection), keys.scan().to_duckdb(connection)
        joined = left.set_alias("l").join(right.set_alias("r"), f"l.{name} = r.{name}")
        rows = joined.select("n, k").to_arrow_table()
        assert sorted(tuple(row.values()) for row in rows.to_pylist()) == pairs(name, KEYS)


def test_a_relation_of_duckdb_says_what_it_cannot_ask_for(warehouse: Warehouse) -> None:
    relation = warehouse.load_table("every").scan().to_duckdb()
    double = next(name for name, kind in KINDS.items() if kind == "double")
    with pytest.raises(duckdb.Error, match=r"table every: .* scan\(where=\.\.\.\)"):
        relation.filter(f"{double} <= 'nan'").to_arrow_table()
    assert relation.filter(f"{double} < 'nan'").to_arrow_table().num_rows == MOST - 1


def test_zones_need_no_package_beside_duckdb() -> None:
    """In a process without pytz, which other tests' libraries may have brought along."""
    script = (
        "import sys; sys.modules['pytz'] = None\n"
        "import datashard_core as ds, datetime as dt\n"
        "from datashard_core.storage.memory import MemoryStorage\n"
        "from datashard_core.table.warehouse import Warehouse\n"
        "warehouse = Warehouse(MemoryStorage())\n"
        "day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)\n"
        "for name in 'ab':\n"
        "    table = warehouse.create_table(name, ds.Schema(fields=[{'name': 'z', 'type': 'timestamptz'}]))\n"
        "    table.append([{'z': day}, {'z': day + dt.timedelta(1)}])\n"
        "for query in ('select a.z from a join b using (z)',\n"
        "              \"select z from a where z in ('2026-01-01 00:00:00+00', '2026-01-02 00:00:00+00')\",\n"
        "              'select z from a where z in (select z from b)'):\n"
        "    assert len(warehouse.sql(query)) == 2, query\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_failing_query_is_told_once_and_its_table_is_not_hidden(warehouse: Warehouse) -> None:
    with pytest.raises(ds.ConfigurationError, match=r"cannot be answered: .*broken here"):
        warehouse.sql("select error('broken here') from every")
    with pytest.raises(ds.ConfigurationError, match=r"Referenced column .nosuch. not found"):
        warehouse.sql("select nosuch from every")


def test_columns_that_differ_by_case_alone_are_refused_in_sql() -> None:
    from datashard_core.query.duck import columns_of

    schema = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("A", pa.int64())])
    with pytest.raises(ds.ConfigurationError, match="table t: SQL does not tell the columns 'a' and 'A' apart"):
        columns_of("t", schema, pushed=True)
    assert columns_of("t", schema.remove(2), pushed=True) == ['"a"', '"b"']


def test_a_condition_of_the_scan_holds_beside_what_duckdb_asks(warehouse: Warehouse) -> None:
    every = warehouse.load_table("every")
    for where in (col("n") < 3, "n < 3", "n < 3 and n % 5 < 4", pc.field("n") < 3, pc.field("n") + 1 < 4):
        relation = every.scan(where=where).to_duckdb()
        assert sorted(relation.filter("n >= 1").to_arrow_table()["n"].to_pylist()) == [1, 2], where
        assert relation.filter("n >= 1").aggregate("count(*)").fetchall() == [(2,)], where
        assert relation.filter("n = 7").to_arrow_table().num_rows == 0, where


def test_a_limit_of_the_scan_comes_before_what_duckdb_asks(warehouse: Warehouse) -> None:
    scan = warehouse.load_table("every").scan(limit=3)
    first = scan.to_arrow()["n"].to_pylist()
    assert sorted(scan.to_duckdb().filter("n >= 1").to_arrow_table()["n"].to_pylist()) == sorted(
        n for n in first if n >= 1
    )
    assert scan.to_duckdb().filter("n >= 3").to_arrow_table()["n"].to_pylist() == [n for n in first if n >= 3]
