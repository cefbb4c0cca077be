"""Text, ``col()`` and SQL find the rows that plain Python finds: of every type, at its edges, with null and NaN, in
columns and in structs, alone and beside what DuckDB alone can answer, over files whose bounds differ."""

from __future__ import annotations

from itertools import product
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datashard_core as ds
from datashard_core.format.binding import is_exact
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse
from datashard_core.testing import conditions as model
from datashard_core.testing.conditions import NAN, VALUES, Case
from datashard_core.testing.thorough import one_in

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


def check(table: ds.Table, warehouse: Warehouse, case: Case, *, exact: bool = False) -> None:
    """Every form finds the rows that plain Python finds."""
    expected = [row["n"] for row in ROWS if case.truth(row) is True]
    if case.condition is not None:
        assert numbers(table.scan(columns=["n"], where=case.condition).to_arrow()) == expected, case.condition
    by_text = table.scan(columns=["n"], where=case.text)
    assert numbers(by_text.to_arrow()) == expected, case.text
    if exact:
        assert is_exact(by_text.condition.bound), f"Arrow answers {case.text}"
    assert numbers(warehouse.sql(f"select n from every where {case.text}")) == expected, f"in SQL: {case.text}"


ODD = Case(lambda row: row["n"] % 2 == 1, "n % 2 = 1", None)
LONG_LIST = Case(lambda row: None if row["l"] is None else len(row["l"]) > 1, "len(l) > 1", None)
HOLDS_ONE = Case(lambda row: None if row["l"] is None else 1 in row["l"], "list_contains(l, 1)", None)
SAME = Case(lambda row: True, f"coalesce({NAMES['int']}, 0) = coalesce({NAMES['int']}, 0)", None)
BY_DUCKDB = [ODD, LONG_LIST, HOLDS_ONE, SAME]
"""What only DuckDB understands."""

COMPARISONS = {
    kind: one_in(3, product((name for name in PATHS if PATHS[name] == kind), model.SYMBOLS, VALUES[kind]))
    for kind in VALUES
}


@pytest.mark.parametrize("kind", VALUES)
def test_comparisons_of_every_type_alone_and_beside_what_duckdb_answers(
    table: ds.Table, warehouse: Warehouse, kind: str
) -> None:
    for place, (path, operator, value) in enumerate(COMPARISONS[kind]):
        case = model.compared(path, kind, operator, value)
        check(table, warehouse, case, exact=True)
        other = BY_DUCKDB[place % len(BY_DUCKDB)]
        mixed = (model.both, model.either)[place % 2](case, other)
        expected = [row["n"] for row in ROWS if mixed.truth(row) is True]
        assert numbers(table.scan(where=mixed.text).to_arrow()) == expected, mixed.text


@pytest.mark.parametrize("kind", VALUES)
def test_lists_ranges_and_nulls_of_every_type(table: ds.Table, warehouse: Warehouse, kind: str) -> None:
    values = VALUES[kind]
    for path in (name for name in PATHS if PATHS[name] == kind):
        for case in (
            model.one_of(path, kind, values[::2]),
            model.one_of(path, kind, [values[-1], None]),
            model.none_of(path, kind, values[1:]),
            model.none_of(path, kind, [values[0], None]),
            model.between(path, kind, values[0], values[-1]),
            model.negated(model.between(path, kind, values[1], values[-1])),
            model.is_null(path),
            model.is_not_null(path),
        ):
            check(table, warehouse, case)


@pytest.mark.parametrize("path", [path for path, kind in PATHS.items() if kind in ("float", "double")])
def test_nan_is_asked_for_by_name(table: ds.Table, warehouse: Warehouse, path: str) -> None:
    for case in (model.is_nan(path), model.negated(model.is_nan(path))):
        check(table, warehouse, case, exact=True)
        check(table, warehouse, model.both(case, ODD))


@pytest.mark.parametrize("path", [path for path, kind in PATHS.items() if kind == "string"])
def test_beginnings_of_texts(table: ds.Table, warehouse: Warehouse, path: str) -> None:
    for prefix, like in product(["", "a", model.LONG, "b'%_", "é", "\U0010ffff"], [True, False]):
        case = model.begins(path, prefix, like=like)
        check(table, warehouse, case)
        check(table, warehouse, model.negated(case))


def test_lists_and_structs_as_a_whole(table: ds.Table, warehouse: Warehouse) -> None:
    for path in ("l", "s", "p"):
        check(table, warehouse, model.is_null(path), exact=True)
        check(table, warehouse, model.both(model.is_not_null(path), ODD))
    for case in BY_DUCKDB:
        check(table, warehouse, case)
        check(table, warehouse, model.negated(case))


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
    check(table, warehouse, case)


def test_files_are_left_out_by_every_type(table: ds.Table) -> None:
    """The comparisons above act on bounds: of each type but those without order, some files need not be read."""
    for name, kind in KINDS.items():
        for where in (
            model.compared(name, kind, "==", VALUES[kind][0]),
            model.both(model.compared(name, kind, "==", VALUES[kind][0]), ODD),
        ):
            left = len(table.scan(where=where.text).data_files())
            assert 0 < left < len(FILES) - 5, where.text
