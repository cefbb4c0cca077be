"""Tables that PyIceberg partitioned: every transform, specs that changed, names of folders; read right, and pruned."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    YearTransform,
)
from pyiceberg.types import (
    DateType,
    DecimalType,
    DoubleType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
)

import datashard_core as ds
from datashard_core import col
from datashard_core.format.manifests.manifest_scan import Pruning
from datashard_core.pyiceberg import DataShardCatalog
from datashard_core.storage.local import LocalStorage
from datashard_core.table.plan import Planner
from datashard_core.table.warehouse import Warehouse

Row = dict[str, Any]
SCHEMA = Schema(
    NestedField(1, "k", LongType()),
    NestedField(2, "text", StringType()),
    NestedField(3, "day", DateType()),
    NestedField(4, "at", TimestampType()),
    NestedField(5, "utc", TimestamptzType()),
    NestedField(6, "price", DecimalType(9, 2)),
    NestedField(7, "x", DoubleType()),
)
ARROW = pa.schema(
    [
        ("k", pa.int64()),
        ("text", pa.string()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us")),
        ("utc", pa.timestamp("us", "UTC")),
        ("price", pa.decimal128(9, 2)),
        ("x", pa.float64()),
    ]
)
TEXTS = ["", "a", "ab", "abc", "a/b", "a b", "a=b", "100%", "a%2Fb", "ä", "\U0001f600", "..", "null", "+", None]
MOMENTS = [
    dt.datetime(1969, 12, 31, 23, 59, 59, 999_999),
    dt.datetime(1970, 1, 1),
    dt.datetime(1969, 12, 31),
    dt.datetime(1900, 2, 28, 12),
    dt.datetime(2024, 2, 29, 23, 59, 59, 999_999),
    dt.datetime(2024, 3, 1),
    dt.datetime(2024, 12, 31, 23),
    dt.datetime(2025, 1, 1),
    None,
]


@pytest.fixture
def local(tmp_path: Path) -> tuple[Catalog, Warehouse]:
    """A warehouse on disk, as PyIceberg and as we hold it."""
    warehouse = Warehouse(LocalStorage(tmp_path / "warehouse"))
    catalog = DataShardCatalog("lake", warehouse=warehouse.uri)
    catalog.create_namespace("shop")
    return catalog, warehouse


def row(number: int) -> Row:
    moment = MOMENTS[number % len(MOMENTS)]
    k = None if number % 11 == 7 else number - 20
    return {
        "k": k,
        "text": TEXTS[number % len(TEXTS)],
        "day": moment.date() if moment is not None else None,
        "at": moment,
        "utc": moment.replace(tzinfo=dt.UTC) if moment is not None else None,
        "price": None if number % 13 == 5 else decimal.Decimal(number - 25) / 4,
        "x": None if number % 9 == 4 else (number - 30) / 2,
    }


ROWS = pa.Table.from_pylist([row(number) for number in range(36)], ARROW).to_pylist()

# Conditions as we take them, and what they mean to Python (null is never true).
Meaning = Callable[[Row], bool]
CONDITIONS: list[tuple[Any, str, Meaning]] = [
    (col("k") == 5, "k", lambda k: k == 5),
    (col("k") < -18, "k", lambda k: k < -18),
    (col("k") >= 10, "k", lambda k: k >= 10),
    (col("k").isin([-20, 3, 12, 1000]), "k", lambda k: k in (-20, 3, 12)),
    (col("k") != 5, "k", lambda k: k != 5),
    (col("text") == "a/b", "text", lambda text: text == "a/b"),
    (col("text") == "a%2Fb", "text", lambda text: text == "a%2Fb"),
    (col("text").starts_with("a"), "text", lambda text: text.startswith("a")),
    (col("text").starts_with("abc"), "text", lambda text: text == "abc"),
    (col("text") > "b", "text", lambda text: text > "b"),
    (col("text") == "", "text", lambda text: text == ""),
    (~col("text").starts_with("a"), "text", lambda text: not text.startswith("a")),
    (col("day") == dt.date(1970, 1, 1), "day", lambda day: day == dt.date(1970, 1, 1)),
    (col("day") < dt.date(1970, 1, 1), "day", lambda day: day < dt.date(1970, 1, 1)),
    (col("day") > dt.date(2024, 2, 29), "day", lambda day: day > dt.date(2024, 2, 29)),
    (col("at") <= MOMENTS[0], "at", lambda at: at <= MOMENTS[0]),
    (col("at") == MOMENTS[4], "at", lambda at: at == MOMENTS[4]),
    (col("at") >= dt.datetime(2024, 3, 1), "at", lambda at: at >= dt.datetime(2024, 3, 1)),
    (
        col("utc") == dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
        "utc",
        lambda utc: utc == dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
    ),
    (col("price") == decimal.Decimal("1.25"), "price", lambda price: price == decimal.Decimal("1.25")),
    (col("price") < decimal.Decimal("-5"), "price", lambda price: price < -5),
    (col("x") > 1, "x", lambda x: x > 1),
]


def wanted(name: str, means: Meaning, rows: list[Row]) -> list[Any]:
    return sorted(str(one) for one in rows if one[name] is not None and means(one[name]))


def found(table: ds.Table, where: Any) -> list[Any]:
    return sorted(str(one) for one in table.scan(where=where).to_records())


def check(table: ds.Table, column: str) -> None:
    """Every condition on a column finds the rows that it should."""
    for where, name, means in CONDITIONS:
        if name == column:
            assert found(table, where) == wanted(name, means, ROWS), where
    nulls = col(column).is_null()
    assert found(table, nulls) == sorted(str(one) for one in ROWS if one[column] is None)
    assert found(table, ~nulls) == sorted(str(one) for one in ROWS if one[column] is not None)


def files(table: ds.Table, where: Any) -> int:
    return len(table.scan(where=where).data_files())


def their_files(catalog: Catalog, text: str) -> int:
    return len(list(catalog.load_table("shop.t").scan(text).plan_files()))


TRANSFORMS: list[tuple[str, Transform[Any, Any]]] = [
    *((name, IdentityTransform()) for name in ("k", "text", "day", "at", "utc", "price", "x")),
    *((name, BucketTransform(4)) for name in ("k", "text", "day", "at", "utc", "price")),
    *((name, TruncateTransform(2)) for name in ("text",)),
    *((name, TruncateTransform(10)) for name in ("k", "price")),
    *((name, YearTransform()) for name in ("day", "at", "utc")),
    *((name, MonthTransform()) for name in ("day", "at", "utc")),
    *((name, DayTransform()) for name in ("day", "at", "utc")),
    *((name, HourTransform()) for name in ("at", "utc")),
]


@pytest.mark.parametrize(("column", "transform"), TRANSFORMS, ids=str)
def test_rows_of_every_transform_are_found_and_others_pruned(
    local: tuple[Catalog, Warehouse], column: str, transform: Transform[Any, Any]
) -> None:
    catalog, warehouse = local
    source = SCHEMA.find_field(column).field_id
    spec = PartitionSpec(PartitionField(source, 1000, transform, "part"))
    theirs = catalog.create_table("shop.t", SCHEMA, partition_spec=spec)
    theirs.append(pa.Table.from_pylist(ROWS, ARROW))
    ours = warehouse.load_table("shop.t")
    assert sorted(map(str, ours.scan().to_records())) == sorted(map(str, ROWS))
    check(ours, column)
    everything = files(ours, None)
    assert everything > 1
    own = [(where, name, means) for where, name, means in CONDITIONS if name == column]
    assert min(files(ours, where) for where, _, _ in own) < everything
    if not isinstance(transform, BucketTransform):
        assert files(ours, col(column).is_null()) == 1


def test_values_that_need_care_in_the_names_of_folders(catalog: Catalog, any_warehouse: Warehouse) -> None:
    spec = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "a text"))
    catalog.create_table("shop.t", SCHEMA, partition_spec=spec).append(pa.Table.from_pylist(ROWS, ARROW))
    ours = any_warehouse.load_table("shop.t")
    check(ours, "text")
    ours.append([{"k": 1000, "text": "a/b"}])
    assert ours.scan(where="text = 'a/b' and k > 900").count() == 1


def test_ours_reads_no_more_files_than_pyiceberg(catalog: Catalog, any_warehouse: Warehouse) -> None:
    spec = PartitionSpec(
        PartitionField(4, 1000, DayTransform(), "day_of"),
        PartitionField(2, 1001, BucketTransform(8), "bucket_of"),
    )
    theirs = catalog.create_table("shop.t", SCHEMA, partition_spec=spec)
    theirs.append(pa.Table.from_pylist(ROWS, ARROW))
    ours = any_warehouse.load_table("shop.t")
    for ours_where, text in (
        (col("at") == dt.datetime(2024, 3, 1), "at == '2024-03-01T00:00:00'"),
        ((col("at") >= dt.datetime(2024, 3, 1)) & (col("text") == "ab"), "at >= '2024-03-01T00:00:00' and text = 'ab'"),
        (col("text") == "ab", "text = 'ab'"),
        (col("k") > 12, "k > 12"),
    ):
        assert 0 < files(ours, ours_where) <= their_files(catalog, text)


def test_a_spec_that_changed_prunes_files_of_each_spec_by_its_own(catalog: Catalog, any_warehouse: Warehouse) -> None:
    theirs = catalog.create_table("shop.t", SCHEMA)
    ours = any_warehouse.load_table("shop.t")
    theirs.append(pa.Table.from_pylist(ROWS[:10], ARROW))
    with theirs.update_spec() as update:
        update.add_field("day", MonthTransform(), "month")
    theirs.append(pa.Table.from_pylist(ROWS[10:18], ARROW))
    with theirs.update_spec() as update:
        update.add_field("text", BucketTransform(3), "of_text")
        update.rename_field("month", "by_month")
    theirs.append(pa.Table.from_pylist(ROWS[18:26], ARROW))
    with theirs.update_spec() as update:
        update.remove_field("by_month")
    with theirs.update_schema() as schema:
        schema.rename_column("text", "words")
        schema.rename_column("k", "text")  # a name that the partition's column had
    theirs.append(pa.Table.from_pylist(ROWS[26:33], ARROW).rename_columns(["text", "words", *ARROW.names[2:]]))
    ours.refresh().append([{**{("text" if key == "k" else "words" if key == "text" else key): value
                               for key, value in one.items()}} for one in ROWS[33:]])  # fmt: skip
    found_rows = [
        {("k" if key == "text" else "text" if key == "words" else key): value for key, value in one.items()}
        for one in ours.scan().to_records()
    ]
    assert sorted(map(str, found_rows)) == sorted(map(str, ROWS))
    everything = files(ours, None)
    for where, column, means in (
        (col("day") == dt.date(1970, 1, 1), "day", lambda day: day == dt.date(1970, 1, 1)),
        (col("words") == "a%2Fb", "text", lambda text: text == "a%2Fb"),
        (col("text") == 5, "k", lambda k: k == 5),
    ):
        assert ours.scan(where=where).count() == len(wanted(column, means, ROWS))  # type: ignore[arg-type]
        assert files(ours, where) < everything
    with theirs.update_schema() as schema:
        schema.delete_column("price")
    assert ours.refresh().scan(where=col("day").is_null()).count() == sum(one["day"] is None for one in ROWS)
    assert "price" not in ours.scan(limit=1).to_records()[0]


def test_manifests_are_pruned_by_their_summaries(catalog: Catalog, any_warehouse: Warehouse) -> None:
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "k"))
    theirs = catalog.create_table("shop.t", SCHEMA, partition_spec=spec)
    for number in range(4):
        theirs.append(pa.Table.from_pylist([ROWS[number]], ARROW))
    ours = any_warehouse.load_table("shop.t")
    missing = {one.file_path for one in ours.scan(where=col("k") == -17).data_files()}
    assert len(missing) == 1

    scan = ours.scan(where=col("k") == -17)
    planner = Planner(scan.storage, scan.metadata, "t")
    manifests = planner.manifests(scan.snapshot)
    pruning = Pruning(scan.condition.bound, scan.metadata.spec)
    assert [pruning.keeps_manifest(one) for one in manifests].count(True) == 1
    assert len(manifests) == 4
