"""What cannot match is not read: counted in files and requests."""

from __future__ import annotations

import datetime as dt
import math
import operator
from collections import Counter
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datashard_core as ds
from datashard_core import col
from datashard_core.format.expressions.binding import AllOf, Check, Reference, bind
from datashard_core.format.expressions.pruning import PartitionSource, allowed_by_partition
from datashard_core.format.expressions.row_filter import matching_rows
from datashard_core.format.manifests.manifest_index import ColumnBuilder, ManifestIndex
from datashard_core.format.metadata.transforms import bucket, parse_transform, source_range
from datashard_core.format.parquet.arrow_reader import ParquetFile
from datashard_core.format.rows.projection import first_leaves
from datashard_core.format.rows.records import to_table
from datashard_core.format.statistics.ordering import canonical
from datashard_core.format.types import types as t
from datashard_core.query import where as where_module
from datashard_core.storage.base import StoredObject
from datashard_core.storage.cache import immutable
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.parquet_rows import row_groups, single_leaves
from datashard_core.table.plan import indexes
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"name": "n", "type": "long"}, {"name": "s", "type": "string"}])


class Counted(MemoryStorage):
    """A storage that counts what is fetched from it."""

    reads: ClassVar[Counter[str]] = Counter()

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        found = super().get(key, byte_range)
        folder = "data" if key.startswith("data/") else "manifests" if "manifests/" in key else "other"
        Counted.reads[folder] += 1
        return found

    def at(self, folder: str) -> Counted:
        deeper = Counted(f"{self._root}/{folder}", self._clock)
        deeper._base = f"{self._base}{folder}/"
        deeper._lock, deeper._objects, deeper._numbers = self._lock, self._objects, self._numbers
        return deeper


@pytest.fixture
def table() -> ds.Table:
    """Forty files, each with ten numbers of its own."""
    made = Warehouse(Counted("memory://pruned")).create_table("t", SCHEMA)
    for number in range(0, 400, 10):
        made.append([{"n": number + one, "s": f"k{number:03}"} for one in range(10)])
    immutable.clear()
    indexes.clear()
    Counted.reads.clear()
    return made


@pytest.mark.parametrize(
    ("where", "files"),
    [
        (col("n") == 205, 1),
        (col("n").isin([5, 6, 205]), 2),
        ((col("n") < 10) | (col("s") == "k390"), 2),
        (col("s").starts_with("k00"), 1),
        ("s like 'k39%' and n > 0", 1),
        ("n between 100 and 119", 2),
        (col("n").is_null(), 0),
        ("n is null", 0),
        (~(col("n") >= 10), 1),
        ("n > 389 and length(s) = 4", 1),
    ],
    ids=str,
)
def test_only_files_that_may_match_are_fetched(table: ds.Table, where: Any, files: int) -> None:
    rows = table.scan(where=where).to_arrow()
    assert Counted.reads["data"] == files
    assert (rows.num_rows > 0) == (files > 0)


def test_filters_of_a_query_and_of_a_join_are_pushed_into_the_scan(table: ds.Table) -> None:
    assert table.sql("select n from t where n = 205 and s like 'k%'").num_rows == 1
    assert Counted.reads["data"] == 1
    Counted.reads.clear()
    assert table.sql("select n from t join (select 17 as n) using (n)").to_pylist() == [{"n": 17}]
    assert Counted.reads["data"] == 1


def test_counting_opens_no_data_file_and_a_limit_stops_early(table: ds.Table) -> None:
    assert table.count() == 400
    assert Counted.reads["data"] == 0
    assert table.scan(limit=5).to_arrow().num_rows == 5
    assert Counted.reads["data"] == 1


def test_manifests_are_fetched_once_in_the_life_of_a_process(table: ds.Table) -> None:
    table.scan(where=col("n") == 5).to_arrow()
    Counted.reads.clear()
    table.scan(where=col("n") == 5).to_arrow()
    assert dict(Counted.reads) == {"data": 1}


def test_what_was_asked_of_a_manifest_once_is_answered_without_reading_it(table: ds.Table) -> None:
    assert table.scan(where=col("n") == 5).count() == 1
    immutable.clear()
    Counted.reads.clear()
    assert table.scan(where=(col("n") > 1000) | (col("n") < 0)).count() == 0
    assert dict(Counted.reads) == {"manifests": 1}, "the manifest list, which has no bounds of columns"
    assert table.scan(where=(col("n") == 205) & (col("s") > "k")).count() == 1, "another column is looked up"
    assert table.append([{"n": 1001, "s": "new"}]).rows == 1
    assert table.scan(where=col("n") > 1000).count() == 1, "a manifest that was written since is read"


def groups_of(rows: pa.Table, schema: ds.Schema, condition: ds.Condition, size: int) -> list[tuple[int, bool]]:
    """What is to be read of a file of such rows, and where all rows match."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.cast(schema.to_arrow()), sink, row_group_size=size)
    parquet = ParquetFile(pa.BufferReader(sink.getvalue()))
    places = single_leaves(parquet.schema, first_leaves(parquet.schema))
    return row_groups(parquet.metadata, places, bind(condition, schema, "t"))


def test_row_groups_that_cannot_match_are_left_out_and_of_others_it_is_known_that_all_rows_do() -> None:
    rows = pa.table({"n": range(100), "s": [f"{one:03}" for one in range(100)]})

    def left(condition: ds.Condition) -> list[tuple[int, bool]]:
        return groups_of(rows, SCHEMA, condition, 10)

    assert left(col("n") == 55) == [(5, False)]
    assert left((col("s") >= "090") | (col("n") < 0)) == [(9, True)]
    assert left(col("n").is_null()) == []
    assert left((col("n") >= 75) & ~col("n").is_null()) == [(7, False), (8, True), (9, True)]
    assert left(col("n").isin([1, 2])) == [(0, False)]
    assert [group for group, whole in left(~col("n").isin([1, 2])) if whole] == list(range(1, 10))


def test_all_rows_of_one_value_match_it() -> None:
    rows = pa.table({"n": [5, 5, 6, None], "s": ["a", "a", "a", "a"]})
    assert groups_of(rows, SCHEMA, col("n") == 5, 2) == [(0, True)]
    assert groups_of(rows, SCHEMA, col("n") == 6, 2) == [(1, False)], "null is not 6"
    assert groups_of(rows, SCHEMA, ~(col("n") != 6), 2) == [(1, False)]
    assert groups_of(rows, SCHEMA, col("s") == "a", 4) == [(0, False)], "bounds of texts may be cut short"
    assert groups_of(rows, SCHEMA, col("n").is_null() | (col("s") <= "a"), 4) == [(0, True)]


def test_bounds_that_arrow_cannot_read_are_not_known() -> None:
    """pyarrow 21 reads no bounds of decimals that are stored as bytes."""

    class Statistics:
        has_null_count, null_count, has_min_max = True, 1, True

        @property
        def min(self) -> Any:
            raise pa.ArrowNotImplementedError("Cannot extract statistics for type ")

    column = SimpleNamespace(is_stats_set=True, statistics=Statistics(), num_values=3)
    footer = SimpleNamespace(num_row_groups=2, row_group=lambda group: SimpleNamespace(column=lambda place: column))
    schema = ds.Schema(fields=[{"id": 1, "name": "d", "type": "decimal(38, 3)"}])
    compared, null = bind(col("d") > 1, schema, "t"), bind(col("d").is_null(), schema, "t")
    assert row_groups(footer, {1: 0}, compared) == [(0, False), (1, False)]
    assert row_groups(footer, {1: 0}, null) == [(0, False), (1, False)]


def test_nan_is_in_no_statistics_and_may_be_anywhere() -> None:
    rows = pa.table({"i": [1, 1], "x": [1.0, math.nan], "s": ["", ""]})
    assert groups_of(rows, EDGES, col("x") <= 1.0, 2) == [(0, False)]
    assert groups_of(rows, EDGES, col("x") >= 1.0, 2) == [(0, True)], "NaN is above every number"
    assert groups_of(rows, EDGES, col("x") == 1.0, 2) == [(0, False)]


EDGES = ds.Schema(
    fields=[{"name": "i", "type": "int"}, {"name": "x", "type": "double"}, {"name": "s", "type": "string"}]
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": st.integers(-3, 3),
    "x": st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1.0, math.inf, math.nan]),
    "s": st.sampled_from(["", "a", "ab", "b", "é"]),
}


def conditions() -> st.SearchStrategy[ds.Condition]:
    def checks(name: str) -> st.SearchStrategy[ds.Condition]:
        compared = st.builds(
            lambda apply, value: apply(col(name), value),
            st.sampled_from([operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]),
            VALUES[name],
        )
        listed = st.lists(VALUES[name] | st.none(), max_size=3).map(lambda values: col(name).isin(values))
        others = [col(name).is_null(), *([col(name).is_nan()] if name == "x" else [])]
        begun = VALUES[name].map(lambda value: col(name).starts_with(value)) if name == "s" else st.nothing()
        return compared | listed | begun | st.sampled_from(others)

    return st.recursive(
        st.one_of(*map(checks, VALUES)),
        lambda parts: (
            parts.map(operator.inv) | st.builds(operator.and_, parts, parts) | st.builds(operator.or_, parts, parts)
        ),
        max_leaves=4,
    )


def test_where_all_rows_are_said_to_match_they_do_and_where_none_are_none_does() -> None:
    acted: Counter[str] = Counter()

    @settings(max_examples=500)
    @given(
        st.lists(
            st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}), min_size=3, max_size=6
        ),
        conditions(),
    )
    def judged(rows: list[dict[str, Any]], condition: ds.Condition) -> None:
        table, bound = to_table(rows, EDGES, "t"), bind(condition, EDGES, "t")
        said = dict(groups_of(table, EDGES, condition, 2))
        for group, batch in enumerate(table.to_batches(max_chunksize=2)):
            matching = matching_rows(batch, bound).num_rows
            if group not in said:
                assert matching == 0
                acted["left out"] += 1
            elif said[group]:
                assert matching == batch.num_rows
                acted["whole"] += 1

    judged()
    assert acted["left out"] > 100 and acted["whole"] > 100, acted


def test_nothing_is_filtered_where_all_rows_match(table: ds.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    filtered: list[int] = []

    def counted(batch: pa.RecordBatch, bound: Any) -> pa.RecordBatch:
        filtered.append(batch.num_rows)
        return matching_rows(batch, bound)

    monkeypatch.setattr(where_module, "matching_rows", counted)
    assert table.scan(where=(col("n") >= 100) & (col("n") < 125)).count() == 25
    assert filtered == [10], "of three files one has rows that do not match"
    assert table.scan(where=pc.field("n") >= 395).count() == 5, "an expression of Arrow's is always applied"


@pytest.mark.parametrize(
    ("kind", "value", "hashed"),
    [
        # The examples of the spec, "Appendix B: 32-bit Hash Requirements".
        ("int", 34, 2017239379),
        ("long", 34, 2017239379),
        ("decimal(9, 2)", 1420, -500754589),
        ("date", 17486, -653330422),
        ("time", 81068000000, -662762989),
        ("timestamp", 1510871468000000, -2047944441),
        ("string", "iceberg", 1210000089),
        ("uuid", bytes.fromhex("f79c3e09677c4bbda4793f349cb785e7"), 1488055340),
        ("binary", b"\x00\x01\x02\x03", -188683207),
    ],
)
def test_buckets_are_those_of_the_spec(kind: str, value: Any, hashed: int) -> None:
    parsed = t.parse_type(kind)
    assert bucket(parsed, value, 2**31 - 1) == (hashed & 0x7FFFFFFF) % (2**31 - 1)


_values = st.lists(st.none() | st.integers(-5, 5), max_size=8) | st.lists(
    st.none() | st.text("ab", max_size=2), max_size=8
)


@given(_values, st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "null", "not null", "in", "not in"]), st.data())
def test_columns_of_partition_values_are_judged_as_values_one_by_one(
    values: Any, kind: Any, data: st.DataObject
) -> None:
    texts = any(isinstance(value, str) for value in values)
    one = data.draw(st.text("ab", max_size=2) if texts else st.integers(-6, 6))
    field = t.NestedField(1, "a", t.PrimitiveType("string" if texts else "long"), False)
    check = Check(Reference(("a",), field), kind, (one,) if kind in ("in", "not in") else one)
    builder = ColumnBuilder(field.type)
    builder.add(*[[None] * len(values)] * 5)
    index = ManifestIndex(range(len(values)), {(1, field.type): builder.done()}, {1000: values})
    source = PartitionSource(0, 1000, parse_transform("identity"))
    expected = [place for place, value in enumerate(values) if allowed_by_partition(check, source.transform, value)]
    assert list(index.places(check, lambda _: (source,))) == expected
    last_two = AllOf((Check(check.reference, "not null"), check))
    assert list(index.places(last_two, lambda _: (source,))) == [one for one in expected if values[one] is not None]


def test_partition_values_tell_ranges_of_the_column() -> None:
    date, stamp, text, number = (t.PrimitiveType(name) for name in ("date", "timestamp", "string", "int"))

    def day(text: str) -> int:
        return int(canonical(date, dt.date.fromisoformat(text)))

    assert source_range(parse_transform("year"), date, 54, 54) == (day("2024-01-01"), day("2024-12-31"))
    assert source_range(parse_transform("month"), date, 1, 1) == (day("1970-02-01"), day("1970-02-28"))
    # Writers that rounded towards zero put the last hours of 1969 into day 0.
    assert source_range(parse_transform("day"), stamp, 0, 0) == (-86_400_000_000, 86_400_000_000 - 1)
    assert source_range(parse_transform("truncate[10]"), number, -10, 0) == (-10, 9)
    assert source_range(parse_transform("truncate[2]"), text, "ab", "ab") == ("ab", "ac")
    assert source_range(parse_transform("truncate[3]"), text, "ab", "ab") == ("ab", "ab")
    assert source_range(parse_transform("zorder"), number, 1, 1) is None


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
@pytest.mark.parametrize("year", [9999, 9998, 10_000, 10_001, 12_345, 2, 1, 0, -1, -400, -5000, 1970, 1969])
def test_partitions_of_years_at_the_edges_of_the_calendar_are_exact(kind: str, year: int) -> None:
    """Also of years that Python has no dates for: an engine may have written them."""
    scale = 1 if kind == "date" else 86_400_000_000

    def start(of: int) -> int:
        # The calendar repeats itself every 400 years, of 146,097 days.
        return ((dt.date(of % 400 + 2000, 1, 1) - dt.date(1970, 1, 1)).days + (of // 400 - 5) * 146_097) * scale

    column = t.NestedField(1, "d", t.PrimitiveType(kind), False)
    number = year - 1970
    first = start(year - 1) if number <= 0 else start(year)  # see above for those before 1970
    assert source_range(parse_transform("year"), column.type, number, number) == (first, start(year + 1) - 1)
    december, january = number * 12 + 11, number * 12
    _, last = source_range(parse_transform("month"), column.type, december, december) or (None, None)
    assert last == start(year + 1) - 1
    low, _ = source_range(parse_transform("month"), column.type, january + 12, january + 12) or (None, None)
    assert low == (start(year + 1) if january + 12 > 0 else start(year + 1) - 31 * scale)

    def allows(operator: Any, value: int) -> bool:
        check = Check(Reference(("d",), column), operator, value)
        return allowed_by_partition(check, parse_transform("year"), number)

    assert allows("==", start(year)) and allows("==", start(year + 1) - 1)
    assert not allows("==", start(year + 1)) and not allows("==", first - 1)
    assert allows(">", start(year + 1) - 2) and not allows(">", start(year + 1) - 1)
    assert allows("<", first + 1) and not allows("<", first)
    assert allows(">=", start(year + 1) - 1) and not allows(">=", start(year + 1))


def test_the_years_of_partitions_end_where_python_does() -> None:
    assert source_range(parse_transform("year"), t.PrimitiveType("date"), 8029, 8029) == (
        (dt.date(9999, 1, 1) - dt.date(1970, 1, 1)).days,
        (dt.date.max - dt.date(1970, 1, 1)).days,
    )


def test_transforms_that_are_not_known_prune_nothing() -> None:
    reference = Reference(("n",), t.NestedField(1, "n", t.PrimitiveType("long"), False))
    for transform in ("void", "zorder", "bucket[0]"):
        assert allowed_by_partition(Check(reference, "==", 5), parse_transform(transform), None)
    assert allowed_by_partition(Check(reference, "==", 5), parse_transform("zorder"), 7)
    assert not allowed_by_partition(Check(reference, "==", 5), parse_transform("identity"), 7)
    assert not allowed_by_partition(Check(reference, "==", 5), parse_transform("identity"), None)
    assert allowed_by_partition(Check(reference, "null"), parse_transform("identity"), None)
