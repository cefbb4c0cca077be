"""Arrow's expressions choose the rows that ``pyarrow.Table.filter`` chooses, whatever files their bounds leave out."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from itertools import product
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datashard_testkit.sampling import one_in

import datashard_core as ds
from datashard_core.format.expressions.binding import is_exact
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

NAN, INF = math.nan, math.inf
BIG = 2**53
SCHEMA = ds.Schema(
    fields=[
        {"name": "k", "type": "long"},
        {"name": "b", "type": "boolean"},
        {"name": "i", "type": "int"},
        {"name": "n", "type": "long"},
        {"name": "f", "type": "float"},
        {"name": "d", "type": "double"},
        {"name": "s", "type": "string"},
        {"name": "y", "type": "binary"},
        {"name": "c", "type": "decimal(20, 2)"},
        {"name": "day", "type": "date"},
        {"name": "at", "type": "timestamp"},
        {"name": "z", "type": "timestamptz"},
        {"name": "p", "type": {"type": "struct", "fields": [{"id": 20, "name": "x", "type": "long"}]}},
    ]
)


def row(k: int, **values: Any) -> dict[str, Any]:
    return {"k": k, **values}


def full(k: int, b: bool, i: int, n: int, d: float, s: str, c: str, day: int) -> dict[str, Any]:
    moment = dt.datetime(2026, 1, day)
    return row(
        k,
        b=b,
        i=i,
        n=n,
        f=float(pa.scalar(d, pa.float32()).as_py()),
        d=d,
        s=s,
        y=s.encode(),
        c=Decimal(c),
        day=moment.date(),
        at=moment,
        z=moment.replace(tzinfo=dt.UTC),
        p={"x": i},
    )


FILES: list[list[dict[str, Any]]] = [
    [full(0, True, 1, 1, 0.5, "Apple", "0.01", 1)],
    [full(1, True, 2, 2, 1.0, "apple", "0.10", 2), full(2, True, 3, 3, 1.5, "apricot", "1.00", 3)],
    [full(3, False, 10, BIG, 0.1, "Banana", "90071992547409.92", 4)],
    [full(4, False, 20, BIG + 1, INF, "banana", "900719925474099.30", 5)],
    [row(5, d=NAN, f=NAN)],
    [full(6, True, -5, -5, NAN, "", "-5.00", 6), row(7, d=2.0, f=2.0, b=True)],
    [row(8), row(9, p={"x": None})],
    [full(10, False, 0, 0, -0.0, "zebra", "0.00", 7), full(11, True, 0, 0, 0.0, "zebra", "0.00", 7)],
    [full(12, False, 2**31 - 1, 2**63 - 1, -INF, "\U0010ffff" * 20, "999999999999999999.99", 8)],
    [row(13, b=False), row(14, s="Éclair", y=b"\xff")],
]


@pytest.fixture(scope="module")
def table() -> ds.Table:
    made = Warehouse(MemoryStorage("memory://arrow")).create_table("t", SCHEMA)
    for rows in FILES:
        made.append(rows)
    return made


b, i, n, f, d, s, y, c = map(pc.field, ("b", "i", "n", "f", "d", "s", "y", "c"))
day, at, z, x = pc.field("day"), pc.field("at"), pc.field("z"), pc.field("p", "x")
utc = pa.scalar(dt.datetime(2026, 1, 4), pa.timestamp("us", "UTC"))


def called(function: str, *arguments: pc.Expression) -> pc.Expression:
    """A function that has no name in Python: null if one argument is."""
    return pc.Expression._call(function, list(arguments))


FORMS: dict[str, pc.Expression] = {
    "a bare boolean": b,
    "not a bare boolean": ~b,
    "a literal on the left": pc.scalar(2) < i,
    "a literal on the left, equal": pc.scalar("apple") == s,
    "a literal on the left, at most": pc.scalar(1.0) <= d,
    "starts with, in either case": pc.starts_with(s, "aP", ignore_case=True),
    "starts with": pc.starts_with(s, "ap"),
    "not starts with": ~pc.starts_with(s, "ap"),
    "starts with bytes": pc.starts_with(y, b"ap"),
    "starts with, not ASCII": pc.starts_with(s, "éC", ignore_case=True),
    "null or NaN": d.is_null(nan_is_null=True),
    "neither null nor NaN": ~d.is_null(nan_is_null=True),
    "null or NaN, of an integer": i.is_null(nan_is_null=True),
    "null": d.is_null(),
    "valid": d.is_valid(),
    "in with null": i.isin([1, 20, None]),
    "not in with null": ~i.isin([1, 20, None]),
    "in null alone": s.isin(pa.array([None], pa.string())),
    "in nothing": i.isin(pa.array([], pa.int32())),
    "not in nothing": ~i.isin(pa.array([], pa.int32())),
    "in, null skipped": pc.is_in(i, pa.array([1, None], pa.int32()), skip_nulls=True),
    "not in, null skipped": ~pc.is_in(i, pa.array([1, None], pa.int32()), skip_nulls=True),
    "in with NaN": d.isin([1.0, NAN]),
    "not in with NaN": ~d.isin([1.0, NAN]),
    "in zero": d.isin([0.0]),
    "not in zero": ~d.isin([0.0]),
    "in longs that are whole doubles": d.isin([0, 1]),
    "xor": pc.xor(b, i > 2),
    "and not": pc.and_not(b, i > 2),
    "and not, by Kleene": pc.and_not_kleene(b, i > 2),
    "and that is null": called("and", b, i > 2),
    "or that is null": called("or", b, i > 2),
    "not and that is null": ~called("and", b, i > 2),
    "not or that is null": ~called("or", b, i > 2),
    "and": b & (i > 2),
    "not and": ~(b & (i > 2)),
    "not or": ~(b | (i > 2)),
    "NaN of an integer": pc.is_nan(n),
    "not NaN of an integer": ~pc.is_nan(n),
    "NaN": pc.is_nan(d),
    "not NaN": ~pc.is_nan(d),
    "finite": pc.is_finite(d),
    "infinite": pc.is_inf(d),
    "above, which NaN is not": d > 1.0,
    "not above, which NaN is": ~(d > 1.0),
    "not equal, which NaN is": d != 1.0,
    "not equal to NaN": d != NAN,
    "equal to NaN": d == NAN,
    "at most NaN": d <= NAN,
    "not at most NaN": ~(d <= NAN),
    "equal to zero": d == 0.0,
    "below minus zero": d < -0.0,
    "a long as a double": n == float(BIG),
    "a long above a double": n > float(BIG),
    "not a long as a double": ~(n == float(BIG)),
    "a long in a wider double": n <= 1.5,
    "a decimal as a double": c == 90071992547409.92,
    "a large decimal as a double": c == 900719925474099.3,
    "a decimal": c >= Decimal("1.00"),
    "a decimal of another scale": c > Decimal("0.099"),
    "a decimal as an integer": c == 1,
    "a float as a double": f == 0.1,
    "a float as itself": f == pa.scalar(0.1, pa.float32()),
    "a double as a float": d > pa.scalar(0.1, pa.float32()),
    "an integer beyond its type": i < 2**40,
    "an integer cast": i.cast("double") > 2.5,
    "arithmetic": i + 1 > 3,
    "two columns": i == n,
    "a date": day > dt.date(2026, 1, 4),
    "a date as a time": day > pa.scalar(dt.datetime(2026, 1, 4, 12), pa.timestamp("us")),
    "a time stamp in seconds": at >= pa.scalar(dt.datetime(2026, 1, 4), pa.timestamp("s")),
    "a time stamp in nanoseconds": at > pa.scalar(1, pa.timestamp("ns")),
    "a time stamp in a zone": z == utc,
    "not a time stamp in a zone": ~(z == utc),
    "a field of a struct": x > 2,
    "not a field of a struct": ~(x > 2),
    "a field of a struct is null": x.is_null(),
    "a struct is null": pc.field("p").is_null(),
    "if else": pc.if_else(b, i > 2, i < 0),
    "coalesce": pc.coalesce(b, pc.scalar(True)),
    "a column by its number": pc.field(2) > 2,
    "a pattern": pc.match_like(s, "%an%"),
    "a length": pc.utf8_length(s) == 6,
    "a part that never counts": ~((i > 2) & pc.scalar(False)),
    "a part that always counts": (s == "a") | pc.scalar(True),
    "always": pc.scalar(True),
    "never": pc.scalar(False),
    "compared with null": i == pa.scalar(None, pa.int32()),
    "not compared with null": ~(i == pa.scalar(None, pa.int32())),
    "between": (i >= 2) & (i <= 10),
}


REFUSED = {
    "a long as a double": "Integer value .* not in range",
    "a long above a double": "Integer value .* not in range",
    "not a long as a double": "Integer value .* not in range",
    "a long in a wider double": "Integer value .* not in range",
    "a decimal as an integer": "Precision is not great enough",
    "arithmetic": "overflow",
}
"""What Arrow does not compute for these rows."""


def numbers(rows: pa.Table) -> list[int]:
    return sorted(rows["k"].to_pylist())


def check(table: ds.Table, everything: pa.Table, condition: pc.Expression, what: str) -> None:
    expected = numbers(everything.filter(condition))
    scan = table.scan(columns=["k"], where=condition)
    assert numbers(scan.to_arrow()) == expected, what
    assert scan.count() == len(expected), what


@pytest.fixture(scope="module")
def everything(table: ds.Table) -> pa.Table:
    rows = table.scan().to_arrow()
    assert rows.num_rows == 15
    return rows


@pytest.mark.parametrize("what", FORMS)
def test_a_form_means_what_arrow_means(table: ds.Table, everything: pa.Table, what: str) -> None:
    if what not in REFUSED:
        check(table, everything, FORMS[what], what)
        return
    with pytest.raises(pa.ArrowException, match=REFUSED[what]):
        everything.filter(FORMS[what])
    with pytest.raises(ds.ConfigurationError, match=f"table t: the condition .* does not fit: {REFUSED[what]}"):
        table.scan(columns=["k"], where=FORMS[what]).to_arrow()


def test_forms_within_others(table: ds.Table, everything: pa.Table) -> None:
    answered = [form for form in FORMS if form not in REFUSED]
    for one, other, word in one_in(100, product(answered, answered, ["and", "or", "not and", "not or", "xor"])):
        left, right = FORMS[one], FORMS[other]
        joined = left & right if word.endswith("and") else pc.xor(left, right) if word == "xor" else left | right
        check(table, everything, ~joined if word.startswith("not") else joined, f"{one} {word} {other}")


@pytest.mark.parametrize(
    ("what", "least"),
    [
        ("a bare boolean", 1),
        ("a literal on the left", 3),
        ("a literal on the left, equal", 7),
        ("starts with", 5),
        ("null or NaN", 5),
        ("in with null", 4),
        ("in, null skipped", 7),
        ("NaN", 5),
        ("above, which NaN is not", 2),
        ("a decimal", 3),
        ("a date", 5),
        ("a time stamp in a zone", 7),
        ("a time stamp in seconds", 4),
        ("a field of a struct", 3),
        ("an integer beyond its type", 2),
        ("between", 6),
    ],
)
def test_a_form_that_is_understood_leaves_files_out(table: ds.Table, what: str, least: int) -> None:
    scan = table.scan(where=FORMS[what])
    assert is_exact(scan.condition.bound), "all of it is understood"
    assert len(scan.data_files()) <= len(FILES) - least


@pytest.mark.parametrize(
    "condition", [pc.field("nosuch") > 1, pc.field("s") > 1, pc.field("i"), pc.field("p", "nosuch") == 1]
)
def test_what_arrow_refuses_is_refused_before_anything_is_read(table: ds.Table, condition: pc.Expression) -> None:
    with pytest.raises(ds.ConfigurationError, match=r"table t: the condition .* does not fit"):
        table.scan(where=condition)
