"""Text, ``col()`` and SQL find the rows that plain Python finds: of every type, at its edges, with null and NaN, in
columns and in structs, alone and beside what DuckDB alone can answer, over files whose bounds differ."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pyarrow as pa
import pytest
from datashard_testkit import conditions as model
from datashard_testkit.conditions import NAN, VALUES, Case
from datashard_testkit.sampling import THOROUGH, one_in
from hypothesis import given
from hypothesis import strategies as st

import datashard_core as ds
from datashard_core.format.expressions.binding import is_exact
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

KINDS = {f"c{number}": kind for number, kind in enumerate(VALUES)}
NAMES = {kind: name for name, kind in KINDS.items()}
# DuckDB pushes down what is asked of a struct if it can of all its fields: so one that it can, and one of everything.
PUSHED = {name: kind for name, kind in KINDS.items() if kind in ("int", "double", "string", "date", "timestamp")}
PATHS = {**KINDS, **{f"s.{name}": kind for name, kind in KINDS.items()}, **{f"p.{n}": k for n, k in PUSHED.items()}}
FIELDS = [{"name": name, "type": kind} for name, kind in KINDS.items()]
LISTED = {"type": "list", "element": "long"}


def struct_of(names: Any, first: int) -> dict[str, Any]:
    fields = [{"id": first + number, "name": name, "type": KINDS[name]} for number, name in enumerate(names)]
    return {"type": "struct", "fields": fields}


SCHEMA = ds.Schema(
    fields=[
        {"name": "n", "type": "long"},
        *FIELDS,
        {"name": "s", "type": struct_of(KINDS, 100)},
        {"name": "p", "type": struct_of(PUSHED, 200)},
        {"name": "l", "type": LISTED},
    ]
)


def row_of(number: int) -> dict[str, Any]:
    return {name: VALUES[kind][number % len(VALUES[kind])] for name, kind in KINDS.items()}


def files() -> list[list[dict[str, Any]]]:
    """Files that bounds tell apart: one value each, neighbours, nulls alone, NaN alone, everything."""
    most = max(map(len, VALUES.values()))
    plain = [row_of(number) for number in range(most)]
    found: list[list[dict[str, Any]]] = [[row] for row in plain]
    found += [plain[number : number + 2] for number in range(0, most, 3)]
    found += [[{}], [{}, plain[0]], [{NAMES["float"]: NAN, NAMES["double"]: NAN}], [*plain, {}]]
    return found


def dressed(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row with its number, with its values in structs too, and with a list."""
    struct = None if not row and number % 2 else row
    pushed = None if struct is None else {name: value for name, value in struct.items() if name in PUSHED}
    listed = None if not row else [number % 3] * (number % 4)
    return {**row, "n": number, "s": struct, "p": pushed, "l": listed}


ROWS: list[dict[str, Any]] = []
FILES: list[list[dict[str, Any]]] = []
for file in files():
    FILES.append([dressed(row, len(ROWS) + place) for place, row in enumerate(file)])
    ROWS += FILES[-1]


@pytest.fixture(scope="module")
def warehouse() -> Warehouse:
    found = Warehouse(MemoryStorage("memory://model"))
    table = found.create_table("every", SCHEMA)
    for rows in FILES:
        table.append(rows)
    return found


@pytest.fixture(scope="module")
def table(warehouse: Warehouse) -> ds.Table:
    return warehouse.load_table("every")


def numbers(rows: pa.Table) -> list[int]:
    return sorted(rows["n"].to_pylist())


WAYS = ("col", "text", "sql")


def check(table: ds.Table, warehouse: Warehouse, case: Case, *ways: str, exact: bool = False) -> None:
    """Those forms of a condition, or all of them, find the rows that plain Python finds."""
    expected = [row["n"] for row in ROWS if case.truth(row) is True]
    for way in ways or WAYS:
        if way == "sql":
            found = warehouse.sql(f"select n from every where {case.text}")
        elif way == "text":
            scan = table.scan(columns=["n"], where=case.text)
            assert is_exact(scan.condition.bound) or not exact, f"Arrow answers {case.text}"
            found = scan.to_arrow()
        else:
            found = table.scan(columns=["n"], where=case.condition).to_arrow()
        assert numbers(found) == expected, f"by {way}: {case.text}"


ODD = Case(lambda row: row["n"] % 2 == 1, "n % 2 = 1", None)
LONG_LIST = Case(lambda row: None if row["l"] is None else len(row["l"]) > 1, "len(l) > 1", None)
HOLDS_ONE = Case(lambda row: None if row["l"] is None else 1 in row["l"], "list_contains(l, 1)", None)
SAME = Case(lambda row: True, f"coalesce({NAMES['int']}, 0) = coalesce({NAMES['int']}, 0)", None)
BY_DUCKDB = [ODD, LONG_LIST, HOLDS_ONE, SAME]
"""What only DuckDB understands."""


def paths_of(kind: str) -> list[str]:
    return [path for path in PATHS if PATHS[path] == kind]


@pytest.mark.parametrize("kind", VALUES)
def test_comparisons_of_every_type_alone_and_beside_what_duckdb_answers(
    table: ds.Table, warehouse: Warehouse, kind: str
) -> None:
    paths = paths_of(kind)
    cases = product(model.SYMBOLS, VALUES[kind], ("text", "sql"), ("alone", "and", "or"))
    for place, (operator, value, way, beside) in enumerate(one_in(1000, cases)):
        for path in paths if THOROUGH else paths[place % len(paths) :][:1]:
            case = model.compared(path, kind, operator, value)
            if beside == "alone":
                check(table, warehouse, case, way, exact=True)
            else:
                joined = model.both if beside == "and" else model.either
                check(table, warehouse, joined(case, BY_DUCKDB[place % 4]), way)


def test_every_comparison_by_col(table: ds.Table, warehouse: Warehouse) -> None:
    for kind, values in VALUES.items():
        for path, operator, value in one_in(5, product(paths_of(kind), model.SYMBOLS, values)):
            check(table, warehouse, model.compared(path, kind, operator, value), "col")


@pytest.mark.parametrize("kind", VALUES)
def test_lists_ranges_and_nulls_of_every_type(table: ds.Table, warehouse: Warehouse, kind: str) -> None:
    values = VALUES[kind]
    forms: dict[str, Callable[[str], Case]] = {
        "in": lambda path: model.one_of(path, kind, values[::2]),
        "in with null": lambda path: model.one_of(path, kind, [values[-1], None]),
        "not in": lambda path: model.none_of(path, kind, values[1:]),
        "not in with null": lambda path: model.none_of(path, kind, [values[0], None]),
        "between": lambda path: model.between(path, kind, values[0], values[-1]),
        "not between": lambda path: model.negated(model.between(path, kind, values[1], values[-1])),
        "null": model.is_null,
        "not null": model.is_not_null,
    }
    for path, form, way in one_in(1000, product(paths_of(kind), forms, WAYS)):
        check(table, warehouse, forms[form](path), way)


@pytest.mark.parametrize("path", [path for path, kind in PATHS.items() if kind in ("float", "double")])
def test_nan_is_asked_for_by_name(table: ds.Table, warehouse: Warehouse, path: str) -> None:
    for case in (model.is_nan(path), model.negated(model.is_nan(path))):
        check(table, warehouse, case, exact=True)
        check(table, warehouse, model.both(case, ODD), "text", "sql")


@pytest.mark.parametrize("path", [path for path, kind in PATHS.items() if kind == "string"])
def test_beginnings_of_texts(table: ds.Table, warehouse: Warehouse, path: str) -> None:
    prefixes = ["", "a", model.LONG, "b'%_", "é", "\U0010ffff"]
    for prefix, like, sense, way in one_in(1000, product(prefixes, [True, False], ["as it is", "not"], WAYS)):
        case = model.begins(path, prefix, like=like)
        check(table, warehouse, model.negated(case) if sense == "not" else case, way)


def test_lists_and_structs_as_a_whole(table: ds.Table, warehouse: Warehouse) -> None:
    for path in ("l", "s", "p"):
        check(table, warehouse, model.is_null(path), exact=True)
        check(table, warehouse, model.both(model.is_not_null(path), ODD), "text", "sql")
    for case in BY_DUCKDB:
        check(table, warehouse, case, "text", "sql")
        check(table, warehouse, model.negated(case), "text", "sql")


@st.composite
def leaves(draw: st.DrawFn) -> Case:
    path = draw(st.sampled_from(sorted(PATHS)))
    kind = PATHS[path]
    value = st.sampled_from(VALUES[kind])
    listed = st.lists(st.one_of(value, st.none()), min_size=1, max_size=4)
    forms = [
        st.sampled_from(BY_DUCKDB),
        st.builds(lambda operator, one: model.compared(path, kind, operator, one), st.sampled_from(OPERATORS), value),
        st.builds(lambda low, high: model.between(path, kind, low, high), value, value),
        listed.map(lambda values: model.one_of(path, kind, values)),
        listed.map(lambda values: model.none_of(path, kind, values)),
        st.sampled_from([model.is_null(path), model.is_not_null(path)]),
    ]
    if kind in ("float", "double"):
        forms.append(st.just(model.is_nan(path)))
    if kind == "string":
        forms.append(st.sampled_from(["", "a", model.LONG]).map(lambda text: model.begins(path, text, like=True)))
    return draw(st.one_of(forms))


OPERATORS = sorted(model.SYMBOLS)
TREES = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.builds(model.both, inner, inner), st.builds(model.either, inner, inner), inner.map(model.negated)
    ),
    max_leaves=6,
)


@given(case=TREES)
def test_conditions_of_many_parts(table: ds.Table, warehouse: Warehouse, case: Case) -> None:
    check(table, warehouse, case, *(WAYS if case.condition is not None else WAYS[1:]))


def test_files_are_left_out_by_every_type(table: ds.Table) -> None:
    """The comparisons above act on bounds: of each type but those without order, some files need not be read."""
    for name, kind in KINDS.items():
        for where in (
            model.compared(name, kind, "==", VALUES[kind][0]),
            model.both(model.compared(name, kind, "==", VALUES[kind][0]), ODD),
        ):
            left = len(table.scan(where=where.text).data_files())
            assert 0 < left < len(FILES) - 5, where.text
